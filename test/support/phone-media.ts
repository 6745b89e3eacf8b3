// The sound of one phone call, seen from the test: what to send, and what arrived.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { Worker } from "node:worker_threads";
import { clockOffsetMs, nowMs } from "./clock.ts";
import type { CodecName } from "./g711.ts";
import type { MediaNews, MediaOrder, SendingReport, Sound } from "./media-protocol.ts";
import { keyPitches, sampleRateHz } from "./pitch.ts";
import { Capture, type RtpPacket } from "./rtp-capture.ts";
import { waitFor } from "./wait.ts";

/** A short time that is long enough to tell pitches apart, for waits. */
const listenMs = 100;

/** The one media thread of this process; it does not keep the process alive. */
class MediaThread {
  static #shared: MediaThread | undefined;
  readonly #worker: Worker;
  readonly #lines = new Map<number, (news: MediaNews) => void>();
  #nextId = 1;

  private constructor() {
    // Node 20 does not read TypeScript by itself, and a thread inherits neither tsx's nor vitest's way of doing it.
    const tsx = new URL(
      "dist/esm/api/index.mjs",
      pathToFileURL(createRequire(import.meta.url).resolve("tsx/package.json")),
    ).href;
    const thread = new URL("media-thread.ts", import.meta.url).href;
    const start = `import(${JSON.stringify(tsx)}).then(({ register }) => { register(); return import(${JSON.stringify(thread)}); });`;
    this.#worker = new Worker(start, { eval: true, execArgv: [], workerData: { clockOffsetMs } });
    this.#worker.on("message", (news: MediaNews) => this.#lines.get(news.id)?.(news));
    this.#worker.on("error", (error) => {
      MediaThread.#shared = undefined;
      for (const [id, tell] of this.#lines)
        tell({ type: "failed", id, message: `the media thread failed: ${error.message}` });
    });
    this.#worker.unref();
  }

  static get shared(): MediaThread {
    return (MediaThread.#shared ??= new MediaThread());
  }

  /** Registers a listener and gives the number to order by. */
  join(listener: (news: MediaNews) => void): number {
    const id = this.#nextId;
    this.#nextId += 1;
    this.#lines.set(id, listener);
    // While somebody waits for news the process must not end for want of other work.
    this.#worker.ref();
    return id;
  }

  leave(id: number): void {
    this.#lines.delete(id);
    if (this.#lines.size === 0) this.#worker.unref();
  }

  order(order: MediaOrder): void {
    this.#worker.postMessage(order);
  }
}

export class PhoneMedia implements AsyncDisposable {
  readonly address: string;
  readonly port: number;
  readonly #id: number;
  readonly #thread: MediaThread;
  readonly #openedMs = nowMs();
  readonly #packets: RtpPacket[] = [];
  readonly #collecting = new Map<number, () => void>();
  #nextToken = 1;
  #closed = false;
  #failure: string | undefined;
  #closing: (() => void) | undefined;
  #sending: SendingReport = { packetsSent: 0, latestMs: 0, ssrc: 0 };
  #eventPayloadType: number | undefined;

  private constructor(address: string, port: number, id: number, thread: MediaThread) {
    this.address = address;
    this.port = port;
    this.#id = id;
    this.#thread = thread;
  }

  /**
   * Opens an RTP socket on a free even port. It receives at once and sends when told where to, with `timestamp` in its first
   * packet or a random one (RFC 3550 §5.1).
   */
  static async open(address: string, timestamp: number | null = null): Promise<PhoneMedia> {
    const thread = MediaThread.shared;
    let tell: (news: MediaNews) => void = () => {};
    const id = thread.join((news) => tell(news));
    const port = await new Promise<number>((resolve, reject) => {
      tell = (news) => {
        if (news.type === "opened") resolve(news.port);
        else if (news.type === "failed") reject(new Error(`no RTP socket: ${news.message}`));
      };
      thread.order({ type: "open", id, address, timestamp });
    });
    const media = new PhoneMedia(address, port, id, thread);
    tell = (news) => media.#take(news);
    return media;
  }

  /** Starts the thread, which takes some 100 ms, so that no call has to wait for it. */
  static async warmUp(): Promise<void> {
    await using _line = await PhoneMedia.open("127.0.0.1");
  }

  #take(news: MediaNews): void {
    switch (news.type) {
      case "collected":
        for (const packet of news.packets) this.#packets.push(packet);
        this.#sending = news.sending;
        if (news.dropped > 0) this.#failure = `${news.dropped} packets did not fit into the memory of the phone`;
        this.#collecting.get(news.token)?.();
        this.#collecting.delete(news.token);
        return;
      case "failed":
        this.#failure = news.message;
        this.#release();
        return;
      case "closed":
        this.#release();
        return;
      case "opened":
        return;
    }
  }

  #release(): void {
    for (const done of this.#collecting.values()) done();
    this.#collecting.clear();
    this.#closing?.();
  }

  /** Sends to that place from now on, or changes the place; the SSRC and the counters go on. */
  connect(address: string, port: number, codec: CodecName, eventPayloadType?: number): void {
    this.#eventPayloadType = eventPayloadType;
    this.#thread.order({ type: "send", id: this.#id, address, port, codec });
  }

  /** Stops sending packets at all; `connect` starts again. */
  pause(): void {
    this.#thread.order({ type: "pause", id: this.#id });
  }

  /** The sound that goes out from now on. Packets go out even in silence, as from any phone. */
  play(sound: Sound): void {
    this.#thread.order({ type: "sound", id: this.#id, sound });
  }
  sendTone(hz: number, amplitude = 8_000): void {
    this.play({ type: "tone", hz, amplitude });
  }
  sendSilence(): void {
    this.play({ type: "silence" });
  }

  /** Presses keys as RFC 4733 events, in place of the sound while they last. */
  pressDigits(
    digits: string,
    { durationMs = 120, pauseMs = 80 }: { readonly durationMs?: number; readonly pauseMs?: number } = {},
  ): void {
    if (this.#eventPayloadType === undefined) throw new Error("the other side did not agree to telephone-event");
    this.#thread.order({
      type: "digits",
      id: this.#id,
      digits,
      payloadType: this.#eventPayloadType,
      durationMs,
      pauseMs,
    });
  }

  /** Presses keys as an old phone does: tones in the sound (ITU-T Q.23), and silence behind them. */
  pressTones(
    digits: string,
    { durationMs = 120, pauseMs = 120 }: { readonly durationMs?: number; readonly pauseMs?: number } = {},
  ): void {
    const [onSamples, offSamples] = [durationMs, pauseMs].map((ms) => Math.round((sampleRateHz * ms) / 1_000)) as [
      number,
      number,
    ];
    const samples = new Int16Array(digits.length * (onSamples + offSamples));
    for (const [index, digit] of digits.split("").entries()) {
      for (const hz of keyPitches(digit)) {
        for (let at = 0; at < onSamples; at += 1) {
          const place = index * (onSamples + offSamples) + at;
          samples[place] = (samples[place] ?? 0) + 6_000 * Math.sin((2 * Math.PI * hz * at) / sampleRateHz);
        }
      }
    }
    this.play({ type: "samples", samples, repeat: false });
  }

  /** Everything that arrived since the socket was opened, or since `fromMs`, up to now. */
  async capture(fromMs: number = this.#openedMs, toMs?: number): Promise<Capture> {
    if (!this.#closed) {
      const token = this.#nextToken;
      this.#nextToken += 1;
      await new Promise<void>((resolve) => {
        this.#collecting.set(token, resolve);
        this.#thread.order({ type: "collect", id: this.#id, token });
      });
    }
    if (this.#failure !== undefined) throw new Error(this.#failure);
    return new Capture([...this.#packets], this.#openedMs, nowMs()).between(fromMs, toMs ?? nowMs());
  }

  /** How the sending side did up to the last `capture`. */
  get sending(): SendingReport {
    return this.#sending;
  }

  /** Waits until exactly these pitches are heard, over the last 100 ms; none means silence or nothing. Gives the time. */
  async hears(
    hz: readonly number[] | number,
    { timeoutMs = 5_000 }: { readonly timeoutMs?: number } = {},
  ): Promise<number> {
    const wanted = (typeof hz === "number" ? [hz] : hz).toSorted((a, b) => a - b);
    let last: readonly number[] = [];
    try {
      return await waitFor(
        async () => {
          const now = nowMs();
          const heard = (await this.capture(now - listenMs, now)).tones();
          last = heard.map((tone) => tone.hz).toSorted((a, b) => a - b);
          return last.length === wanted.length && last.every((pitch, index) => pitch === wanted[index])
            ? now
            : undefined;
        },
        { timeoutMs, intervalMs: 20, what: `the phone to hear ${wanted.join(" + ") || "nothing"}` },
      );
    } catch (error) {
      throw new Error(
        `${error instanceof Error ? error.message : String(error)}; it hears ${last.join(" + ") || "nothing"}`,
        { cause: error },
      );
    }
  }

  /** Closes the socket; what arrived until then can still be asked for. */
  async close(): Promise<void> {
    if (this.#closed) return;
    await this.capture().catch(() => undefined);
    this.#closed = true;
    await new Promise<void>((resolve) => {
      this.#closing = resolve;
      if (this.#failure === undefined) this.#thread.order({ type: "close", id: this.#id });
      else resolve();
    });
    this.#thread.leave(this.#id);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
