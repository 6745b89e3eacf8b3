// The thread that sends and receives the sound of all phones of a process. It is a thread of its own so that neither the
// test nor the service under test, which may share the main thread, can disturb the 20 ms grid or the arrival times.
import { createSocket, type Socket } from "node:dgram";
import { randomInt } from "node:crypto";
import { parentPort } from "node:worker_threads";
import { nowMs } from "./clock.ts";
import { type CodecName, encode, payloadTypeOf } from "./g711.ts";
import type { MediaNews, MediaOrder, Sound } from "./media-protocol.ts";
import { sampleRateHz, sine } from "./pitch.ts";
import type { RtpPacket } from "./rtp-capture.ts";

const frameMs = 20;
const frameSamples = (sampleRateHz * frameMs) / 1_000;
/** About an hour of one stream; a test that runs longer asks more often. */
const packetsMax = 200_000;
/** After a pause this long (a suspended machine) the grid starts anew instead of sending a burst. */
const resyncMs = 500;
const digitNames = "0123456789*#ABCD";

interface PressedDigit {
  readonly event: number;
  readonly payloadType: number;
  readonly frames: number;
  readonly pauseFrames: number;
  frame: number;
  timestamp: number;
}

function post(news: MediaNews): void {
  parentPort?.postMessage(news);
}

/** One phone's RTP socket. */
class Line {
  readonly #id: number;
  readonly #socket: Socket;
  readonly #ssrc = randomInt(2 ** 32);
  #sequence = randomInt(2 ** 16);
  #timestamp: number;
  #target: { readonly address: string; readonly port: number; readonly codec: CodecName } | undefined;
  #sound: Sound = { type: "silence" };
  #sample = 0;
  readonly #digits: PressedDigit[] = [];
  #timer: NodeJS.Timeout | undefined;
  #nextMs = 0;
  #first = true;
  #packetsSent = 0;
  #latestMs = 0;
  #packets: RtpPacket[] = [];
  #dropped = 0;

  constructor(id: number, socket: Socket, timestamp: number | null) {
    this.#id = id;
    this.#socket = socket;
    this.#timestamp = timestamp ?? randomInt(2 ** 32);
    // An ICMP error must not end the thread: a peer that is gone is a finding of the test, not a fault of the phone.
    socket.on("error", () => {});
    socket.on("message", (bytes, remote) => this.#receive(bytes, `${remote.address}:${remote.port}`));
  }

  obey(order: Exclude<MediaOrder, { readonly type: "open" | "close" }>): void {
    switch (order.type) {
      case "send":
        this.#target = { address: order.address, port: order.port, codec: order.codec };
        if (this.#timer === undefined) {
          this.#nextMs = nowMs();
          this.#tick();
        }
        return;
      case "pause":
        this.#stopTimer();
        return;
      case "sound":
        this.#sound = order.sound;
        this.#sample = 0;
        return;
      case "digits":
        for (const name of order.digits) {
          const event = digitNames.indexOf(name.toUpperCase());
          if (event < 0) continue;
          this.#digits.push({
            event,
            payloadType: order.payloadType,
            frames: Math.max(2, Math.round(order.durationMs / frameMs)),
            pauseFrames: Math.max(1, Math.round(order.pauseMs / frameMs)),
            frame: 0,
            timestamp: 0,
          });
        }
        return;
      case "collect":
        post({
          type: "collected",
          id: this.#id,
          token: order.token,
          packets: this.#packets,
          dropped: this.#dropped,
          sending: { packetsSent: this.#packetsSent, latestMs: this.#latestMs, ssrc: this.#ssrc },
        });
        this.#packets = [];
        return;
    }
  }

  close(): void {
    this.#stopTimer();
    this.#socket.close(() => post({ type: "closed", id: this.#id }));
  }

  #stopTimer(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  #receive(bytes: Buffer, source: string): void {
    const atMs = nowMs();
    // RFC 3550 §5.1; RTCP packet types (RFC 5761 §4) are no sound.
    if (bytes.length < 12 || bytes.readUInt8(0) >> 6 !== 2) return;
    const second = bytes.readUInt8(1);
    if (second >= 192 && second <= 223) return;
    if (this.#packets.length >= packetsMax) {
      this.#dropped += 1;
      return;
    }
    const first = bytes.readUInt8(0);
    let start = 12 + (first & 0x0f) * 4;
    if ((first & 0x10) !== 0 && bytes.length >= start + 4) start += 4 + bytes.readUInt16BE(start + 2) * 4;
    const padding = (first & 0x20) === 0 ? 0 : bytes.readUInt8(bytes.length - 1);
    if (start > bytes.length - padding) return;
    this.#packets.push({
      atMs,
      payloadType: second & 0x7f,
      marker: (second & 0x80) !== 0,
      sequence: bytes.readUInt16BE(2),
      timestamp: bytes.readUInt32BE(4),
      ssrc: bytes.readUInt32BE(8),
      source,
      payload: Uint8Array.from(bytes.subarray(start, bytes.length - padding)),
    });
  }

  /** Sends what is due and sleeps until the next place in the grid, which never drifts. */
  #tick(): void {
    const now = nowMs();
    if (now - this.#nextMs > resyncMs) this.#nextMs = now;
    while (this.#nextMs <= now) {
      this.#latestMs = Math.max(this.#latestMs, now - this.#nextMs);
      this.#sendFrame();
      this.#nextMs += frameMs;
    }
    this.#timer = setTimeout(() => this.#tick(), Math.max(0, this.#nextMs - nowMs()));
  }

  #sendFrame(): void {
    if (this.#target === undefined) return;
    const digit = this.#digits[0];
    if (digit !== undefined && digit.frame < digit.frames + 2) this.#sendDigitFrame(digit);
    else {
      this.#sendSoundFrame(this.#target.codec);
      if (digit !== undefined) {
        digit.frame += 1;
        if (digit.frame >= digit.frames + 2 + digit.pauseFrames) this.#digits.shift();
      }
    }
    this.#timestamp = (this.#timestamp + frameSamples) % 2 ** 32;
    this.#sample += frameSamples;
  }

  #sendSoundFrame(codec: CodecName): void {
    this.#send(payloadTypeOf[codec], this.#first, this.#timestamp, encode(codec, this.#nextSamples()));
    this.#first = false;
  }

  /** RFC 4733 §2.5: one time stamp for the whole event, a growing duration, and the last packet three times. */
  #sendDigitFrame(digit: PressedDigit): void {
    if (digit.frame === 0) digit.timestamp = this.#timestamp;
    const played = Math.min(digit.frame + 1, digit.frames);
    const ends = digit.frame >= digit.frames - 1;
    const duration = played * frameSamples;
    const payload = Uint8Array.of(digit.event, (ends ? 0x80 : 0) | 10, duration >> 8, duration & 0xff);
    this.#send(digit.payloadType, digit.frame === 0, digit.timestamp, payload);
    digit.frame += 1;
  }

  #nextSamples(): Int16Array {
    const sound = this.#sound;
    switch (sound.type) {
      case "silence":
        return new Int16Array(frameSamples);
      case "tone":
        return sine(sound.hz, sound.amplitude, this.#sample, frameSamples);
      case "samples": {
        const { samples, repeat } = sound;
        if (samples.length === 0) return new Int16Array(frameSamples);
        return Int16Array.from({ length: frameSamples }, (_, index) => {
          const position = this.#sample + index;
          return samples[repeat ? position % samples.length : position] ?? 0;
        });
      }
    }
  }

  #send(payloadType: number, marker: boolean, timestamp: number, payload: Uint8Array): void {
    if (this.#target === undefined) return;
    const packet = Buffer.alloc(12 + payload.length);
    packet.writeUInt8(0x80, 0);
    packet.writeUInt8((marker ? 0x80 : 0) | payloadType, 1);
    packet.writeUInt16BE(this.#sequence, 2);
    packet.writeUInt32BE(timestamp, 4);
    packet.writeUInt32BE(this.#ssrc, 8);
    packet.set(payload, 12);
    this.#sequence = (this.#sequence + 1) % 2 ** 16;
    this.#packetsSent += 1;
    this.#socket.send(packet, this.#target.port, this.#target.address);
  }
}

const lines = new Map<number, Line>();

/** RTP ports are even (RFC 3550 §11), so that the odd one above stays free for RTCP. */
function open(id: number, address: string, timestamp: number | null, attempts = 50): void {
  const socket = createSocket("udp4");
  const retry = (message: string): void => {
    socket.close();
    if (attempts > 1) open(id, address, timestamp, attempts - 1);
    else post({ type: "failed", id, message });
  };
  socket.once("error", (error) => retry(error.message));
  // The kernel's range, 32768 and above, does not meet the ports that are claimed for servers.
  socket.bind({ address, port: 0, exclusive: true }, () => {
    const { port } = socket.address();
    if (port % 2 === 1) {
      retry("only odd ports were free");
      return;
    }
    socket.removeAllListeners("error");
    lines.set(id, new Line(id, socket, timestamp));
    post({ type: "opened", id, port });
  });
}

parentPort?.on("message", (order: MediaOrder) => {
  if (order.type === "open") open(order.id, order.address, order.timestamp);
  else if (order.type === "close") {
    lines.get(order.id)?.close();
    lines.delete(order.id);
  } else lines.get(order.id)?.obey(order);
});
