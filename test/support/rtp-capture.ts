// What arrived at a phone: every RTP packet with its time, and the questions a test asks about them.
import { codecOf, decode } from "./g711.ts";
import { allPitches, amplitudes, rms, type Tone, tonesIn } from "./pitch.ts";

export interface RtpPacket {
  /** Arrival, milliseconds since the epoch (clock.ts). */
  readonly atMs: number;
  readonly payloadType: number;
  readonly marker: boolean;
  readonly sequence: number;
  readonly timestamp: number;
  readonly ssrc: number;
  /** `address:port` it came from. */
  readonly source: string;
  readonly payload: Uint8Array;
}

export interface HeardDigit {
  readonly digit: string;
  readonly atMs: number;
  readonly durationMs: number;
  /** Whether a packet with the end bit came. */
  readonly ended: boolean;
}

/** Root mean square on the 16-bit scale; the tones of the tests have thousands. */
const audibleLevel = 200;
const digitNames = "0123456789*#ABCD";

/** The distance from one 16-bit or 32-bit counter value to another, with wrap-around, signed. */
function distance(from: number, to: number, bits: 16 | 32): number {
  const modulus = 2 ** bits;
  const forward = (to - from + modulus) % modulus;
  return forward >= modulus / 2 ? forward - modulus : forward;
}

/** A phone's received packets over a stretch of time. Immutable; `between` narrows it. */
export class Capture {
  readonly packets: readonly RtpPacket[];
  readonly fromMs: number;
  readonly toMs: number;

  constructor(packets: readonly RtpPacket[], fromMs: number, toMs: number) {
    this.packets = packets;
    this.fromMs = fromMs;
    this.toMs = toMs;
  }

  /** Only what arrived from one time (inclusive) to the other (exclusive). */
  between(fromMs: number, toMs: number): Capture {
    return new Capture(
      this.packets.filter((packet) => packet.atMs >= fromMs && packet.atMs < toMs),
      fromMs,
      toMs,
    );
  }

  /** The packets that carry G.711 sound. */
  get audio(): readonly RtpPacket[] {
    return this.packets.filter((packet) => codecOf(packet.payloadType) !== undefined);
  }

  get ssrcs(): readonly number[] {
    return [...new Set(this.audio.map((packet) => packet.ssrc))];
  }

  /** Every `address:port` that sent here. */
  get sources(): readonly string[] {
    return [...new Set(this.packets.map((packet) => packet.source))];
  }

  get payloadTypes(): readonly number[] {
    return [...new Set(this.packets.map((packet) => packet.payloadType))];
  }

  /** How often a packet was not the next one of its SSRC: lost, doubled, out of order, or counted anew. */
  get sequenceJumps(): number {
    return this.#jumps((previous, packet) => distance(previous.sequence, packet.sequence, 16) !== 1);
  }

  /** How often the time stamp did not go on where the packet before it ended, though the sequence did. */
  get timestampJumps(): number {
    return this.#jumps((previous, packet) => {
      const sounds = codecOf(previous.payloadType) !== undefined && codecOf(packet.payloadType) !== undefined;
      const next = distance(previous.sequence, packet.sequence, 16) === 1;
      return sounds && next && distance(previous.timestamp, packet.timestamp, 32) !== previous.payload.length;
    });
  }

  #jumps(isJump: (previous: RtpPacket, packet: RtpPacket) => boolean): number {
    const last = new Map<number, RtpPacket>();
    let jumps = 0;
    for (const packet of this.packets) {
      const previous = last.get(packet.ssrc);
      if (previous !== undefined && isJump(previous, packet)) jumps += 1;
      last.set(packet.ssrc, packet);
    }
    return jumps;
  }

  /** The longest time without sound, the edges of the stretch included; its whole length when nothing came. */
  get longestGapMs(): number {
    return this.gaps()[0]?.ms ?? this.toMs - this.fromMs;
  }

  /** The longest time in which no packet had anything to hear in it, the edges of the stretch included. */
  get longestSilenceMs(): number {
    const audible = this.audio.filter(({ payloadType, payload }) => {
      const codec = codecOf(payloadType);
      return codec !== undefined && rms(decode(codec, payload)) >= audibleLevel;
    });
    const times = [this.fromMs, ...audible.map(({ atMs }) => atMs), this.toMs];
    return Math.max(...times.slice(1).map((time, index) => time - (times[index] ?? time)));
  }

  /** The times without sound, the longest first, with where they began. */
  gaps(): readonly { readonly fromMs: number; readonly ms: number }[] {
    const times = [this.fromMs, ...this.audio.map((packet) => packet.atMs), this.toMs];
    return times
      .slice(1)
      .map((time, index) => ({ fromMs: times[index] ?? time, ms: time - (times[index] ?? time) }))
      .toSorted((a, b) => b.ms - a.ms);
  }

  /** Decoded sound in pieces without a gap, per SSRC, in the order of the senders' time stamps. */
  runs(): readonly Int16Array[] {
    return this.ssrcs.flatMap((ssrc) => this.#runsOf(ssrc));
  }

  #runsOf(ssrc: number): readonly Int16Array[] {
    const packets = this.audio
      .filter((packet) => packet.ssrc === ssrc)
      .toSorted((a, b) => distance(b.sequence, a.sequence, 16));
    const pieces: Int16Array[][] = [];
    let expected: number | undefined;
    for (const packet of packets) {
      const codec = codecOf(packet.payloadType);
      if (codec === undefined) continue;
      const samples = decode(codec, packet.payload);
      if (packet.timestamp === expected) pieces.at(-1)?.push(samples);
      else pieces.push([samples]);
      expected = (packet.timestamp + samples.length) % 2 ** 32;
    }
    return pieces.map((piece) => {
      const whole = new Int16Array(piece.reduce((sum, samples) => sum + samples.length, 0));
      let offset = 0;
      for (const samples of piece) {
        whole.set(samples, offset);
        offset += samples.length;
      }
      return whole;
    });
  }

  /** Level of everything that arrived (root mean square, 16-bit scale); 0 when nothing did. */
  get level(): number {
    const runs = this.runs();
    const samples = runs.reduce((sum, run) => sum + run.length, 0);
    const energy = runs.reduce((sum, run) => sum + rms(run) ** 2 * run.length, 0);
    return samples === 0 ? 0 : Math.sqrt(energy / samples);
  }

  /**
   * The pitches heard, loudest first. Amplitudes count over the longest SSRC's time, so that a second sender that was
   * heard for a moment only is as quiet as it was short.
   */
  tones(options: { readonly candidates?: readonly number[]; readonly floor?: number } = {}): readonly Tone[] {
    const perSsrc = this.ssrcs.map((ssrc) => this.#runsOf(ssrc));
    const lengths = perSsrc.map((runs) => runs.reduce((sum, run) => sum + run.length, 0));
    return tonesIn(perSsrc.flat(), { ...options, overSamples: Math.max(0, ...lengths) });
  }

  /** The amplitude of one pitch over the whole stretch. */
  amplitudeOf(hz: number): number {
    return amplitudes(this.runs(), [hz])[0]?.amplitude ?? 0;
  }

  /** The loudest pitch, or undefined when none is heard. */
  pitch(candidates: readonly number[] = allPitches): number | undefined {
    return this.tones({ candidates })[0]?.hz;
  }

  /** Who was heard when: one row per step, each with the pitches of that step. */
  timeline(stepMs = 100): readonly { readonly fromMs: number; readonly hz: readonly number[] }[] {
    const rows = [];
    for (let fromMs = this.fromMs; fromMs < this.toMs; fromMs += stepMs) {
      const step = this.between(fromMs, Math.min(fromMs + stepMs, this.toMs));
      rows.push({ fromMs, hz: step.tones().map((tone) => tone.hz) });
    }
    return rows;
  }

  /** The digits that came as RFC 4733 events, one per key press (all packets of an event share its time stamp). */
  digits(eventPayloadType = 101): readonly HeardDigit[] {
    const events = new Map<string, HeardDigit>();
    for (const packet of this.packets) {
      const [event, flags = 0, high, low] = packet.payload;
      if (packet.payloadType !== eventPayloadType || event === undefined || high === undefined || low === undefined)
        continue;
      const key = `${packet.ssrc}/${packet.timestamp}`;
      const earlier = events.get(key);
      const durationMs = (high * 256 + low) / 8;
      events.set(key, {
        digit: digitNames[event] ?? `event ${event}`,
        atMs: earlier?.atMs ?? packet.atMs,
        durationMs: Math.max(durationMs, earlier?.durationMs ?? 0),
        ended: earlier?.ended === true || (flags & 0x80) !== 0,
      });
    }
    return [...events.values()];
  }
}
