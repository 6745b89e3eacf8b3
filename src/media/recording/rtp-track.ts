import type { G711Law } from "../audio/g711.ts";
import { g711Table } from "../audio/g711.ts";

/** Samples a second of a recording, and of the RTP clock of G.711 (RFC 3551 §4.5.14). */
export const recordingRate = 8_000;
const samplesPerMs = recordingRate / 1_000;

/** Two to the seventeenth samples are 16 seconds: more than any packet is late or early. */
const ringSamples = 131_072;
const ringMask = ringSamples - 1;

/** Packets that come this much before their place show that the stream was placed too late. */
const earlySamples = 20 * samplesPerMs;
/** A packet that comes later than this was not delayed by the network: the sender's clock has jumped. */
const jumpSamples = 500 * samplesPerMs;
/** When every packet of this stretch was late, the sender's clock is slow and the stream is moved. */
const driftWindowSamples = 2_000 * samplesPerMs;

export interface RtpPacket {
  readonly payloadType: number;
  readonly marker: boolean;
  readonly timestamp: number;
  readonly ssrc: number;
  readonly payload: Buffer;
}

/** Undefined for what is no RTP packet (RFC 3550 §5.1), RTCP on the same port included (RFC 5761 §4). */
export function parseRtp(bytes: Buffer): RtpPacket | undefined {
  if (bytes.length < 12) return undefined;
  const first = bytes[0] ?? 0;
  const second = bytes[1] ?? 0;
  if (first >> 6 !== 2 || (second >= 192 && second <= 223)) return undefined;
  let start = 12 + (first & 0x0f) * 4;
  if (first & 0x10) {
    if (bytes.length < start + 4) return undefined;
    start += 4 + bytes.readUInt16BE(start + 2) * 4;
  }
  let end = bytes.length;
  if (first & 0x20) end -= bytes[end - 1] ?? 0;
  if (end < start) return undefined;
  return {
    payloadType: second & 0x7f,
    marker: second >= 128,
    timestamp: bytes.readUInt32BE(4),
    ssrc: bytes.readUInt32BE(8),
    payload: bytes.subarray(start, end),
  };
}

/**
 * The sound of one leg on the recording's time line, as a ring of the last seconds. RTP timestamps say where a packet goes
 * relative to its neighbours, arrival times where the stream as a whole goes: so jitter and reordering disappear, what is
 * lost or was never sent (DTX) stays silent, and a new SSRC or a jump of the sender's clock starts anew at its arrival.
 */
export class RtpTrack {
  readonly #laws: ReadonlyMap<number, G711Law>;
  readonly #ring = new Int16Array(ringSamples);
  #ssrc: number | undefined;
  #lastTimestamp = 0;
  /** The last timestamp without its 32-bit wrap-around. */
  #unwrapped = 0;
  /** Place on the time line minus unwrapped timestamp. */
  #offset = 0;
  #windowStart = 0;
  #leastLate = Number.POSITIVE_INFINITY;
  /** What lies before it has been read and cleared. */
  #readUntil = 0;

  constructor(laws: ReadonlyMap<number, G711Law>) {
    this.#laws = laws;
  }

  /** Writes a packet at its place; `arrival` is its arrival in samples on the recording's time line. */
  add(packet: RtpPacket, arrival: number): void {
    const law = this.#laws.get(packet.payloadType);
    // Telephone events (RFC 4733) and comfort noise (RFC 3389) are not sound; their timestamps tell nothing new.
    if (law === undefined || packet.payload.length === 0) return;
    const place = this.#placeOf(packet, arrival);
    const table = g711Table(law);
    const from = Math.max(0, this.#readUntil - place);
    const to = Math.min(packet.payload.length, this.#readUntil + ringSamples - place);
    for (let index = from; index < to; index += 1) {
      this.#ring[(place + index) & ringMask] = table[packet.payload[index] ?? 0] ?? 0;
    }
  }

  #placeOf(packet: RtpPacket, arrival: number): number {
    if (packet.ssrc !== this.#ssrc) {
      this.#ssrc = packet.ssrc;
      this.#unwrapped = 0;
      this.#lastTimestamp = packet.timestamp;
      this.#move(arrival, arrival);
    }
    this.#unwrapped += (packet.timestamp - this.#lastTimestamp) | 0;
    this.#lastTimestamp = packet.timestamp;
    const late = arrival - (this.#unwrapped + this.#offset);
    // A marker begins a talkspurt (RFC 3551 §4.1): nothing is lost when it is placed by its arrival.
    const moves = late < -earlySamples || late > jumpSamples || (packet.marker && late > earlySamples);
    if (moves) this.#move(this.#offset + late, arrival);
    else {
      this.#leastLate = Math.min(this.#leastLate, late);
      if (arrival - this.#windowStart >= driftWindowSamples) {
        this.#move(this.#offset + (this.#leastLate > earlySamples ? this.#leastLate : 0), arrival);
      }
    }
    return Math.round(this.#unwrapped + this.#offset);
  }

  #move(offset: number, arrival: number): void {
    this.#offset = offset;
    this.#windowStart = arrival;
    this.#leastLate = Number.POSITIVE_INFINITY;
  }

  /** Adds the samples from `from` up to `to` to `sum` where `open` says so, and forgets them. Places only ever grow. */
  drain(from: number, to: number, sum: Int32Array, open: (place: number) => boolean): void {
    for (let place = Math.max(from, this.#readUntil); place < to; place += 1) {
      const slot = place & ringMask;
      const sample = this.#ring[slot] ?? 0;
      this.#ring[slot] = 0;
      if (sample !== 0 && open(place)) sum[place - from] = (sum[place - from] ?? 0) + sample;
    }
    this.#readUntil = to;
  }
}
