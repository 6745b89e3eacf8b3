import { Resampler } from "../audio/resample.ts";
import { toInt16, WavReader } from "../audio/wav.ts";
import { recordingRate } from "./rtp-track.ts";

const readFrames = 8_192;

/** The sound of one prompt, repeated without gaps, at the recording's rate. */
export class PromptTrack implements Disposable {
  /** Place of its first sample on the recording's time line. */
  readonly start: number;
  readonly #until: number;
  readonly #reader: WavReader;
  readonly #resampler: Resampler;
  #timesLeft: number;
  #ready: Int16Array = new Int16Array(0);
  #place: number;
  #finished = false;

  /** Throws an AudioError or the system's error when the file cannot be read. */
  constructor(path: string, times: number, start: number, until: number) {
    this.start = start;
    this.#until = until;
    this.#place = start;
    this.#timesLeft = times;
    this.#reader = new WavReader(path);
    this.#resampler = new Resampler(this.#reader.format.sampleRate, recordingRate);
  }

  get finished(): boolean {
    return this.#finished;
  }

  /** Adds the samples from `from` up to `to` to `sum`. Places only ever grow. */
  drain(from: number, to: number, sum: Int32Array): void {
    while (!this.#finished && this.#place < to) {
      if (this.#ready.length === 0 && !this.#refill()) break;
      const count = Math.min(this.#ready.length, to - this.#place);
      for (let index = 0; index < count; index += 1) {
        const place = this.#place + index;
        if (place >= from && place < this.#until)
          sum[place - from] = (sum[place - from] ?? 0) + (this.#ready[index] ?? 0);
      }
      this.#ready = this.#ready.subarray(count);
      this.#place += count;
      if (this.#place >= this.#until) this.#finished = true;
    }
  }

  /** False when there is no more sound. */
  #refill(): boolean {
    while (this.#ready.length === 0) {
      const samples = this.#reader.readMono(readFrames);
      if (samples.length > 0) this.#ready = toInt16(this.#resampler.push(samples));
      else if (this.#timesLeft > 1 && this.#reader.format.frames > 0) {
        this.#timesLeft -= 1;
        this.#reader.rewind();
      } else {
        this.#ready = toInt16(this.#resampler.flush());
        this.#timesLeft = 0;
        if (this.#ready.length > 0) return true;
        this.#finished = true;
        return false;
      }
    }
    return true;
  }

  [Symbol.dispose](): void {
    this.#finished = true;
    this.#reader[Symbol.dispose]();
  }
}
