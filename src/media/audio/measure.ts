import { setImmediate as nextTurn } from "node:timers/promises";
import { WavReader } from "./wav.ts";

/** Long enough to tell pitches 40 Hz apart, short enough that a phase jump spoils one block only. */
const pitchBlockMs = 50;
const levelBlockMs = 10;
/** What is quieter than this counts as silence, in dB below full scale. */
const silenceDbfs = -50;
/** Given for digital silence, whose level would be minus infinity. */
const quietestDbfs = -120;

/** Level of samples from -1 to 1 in dB below full scale; a full-scale sine has -3. */
export function rmsDbfs(samples: Float32Array): number {
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  return dbfsOf(samples.length === 0 ? 0 : sum / samples.length);
}

function dbfsOf(meanSquare: number): number {
  return meanSquare <= 0 ? quietestDbfs : Math.max(quietestDbfs, 10 * Math.log10(meanSquare));
}

/** Mean square of the part of `samples` that has the pitch `hz` (Goertzel's algorithm). */
export function pitchPower(samples: Float32Array, sampleRate: number, hz: number): number {
  if (samples.length === 0) return 0;
  const coefficient = 2 * Math.cos((2 * Math.PI * hz) / sampleRate);
  let last = 0;
  let beforeLast = 0;
  for (const sample of samples) {
    const next = sample + coefficient * last - beforeLast;
    beforeLast = last;
    last = next;
  }
  const power = last * last + beforeLast * beforeLast - coefficient * last * beforeLast;
  return (2 * Math.max(0, power)) / samples.length ** 2;
}

export interface ChannelMeasure {
  readonly rmsDbfs: number;
  /** The strongest of the pitches asked for, null when none carries a tenth of the power. */
  readonly pitchHz: number | null;
  /** Share of the power that each pitch asked for carries, in their order; 0 to about 1. */
  readonly pitchShares: readonly number[];
  /** The longest stretch below -50 dBFS within the window. */
  readonly longestSilenceMs: number;
}

export interface WindowMeasure {
  /** Seconds from the start of the file. */
  readonly from: number;
  readonly to: number;
  /** Left first. */
  readonly channels: readonly ChannelMeasure[];
}

export interface RecordingMeasure {
  readonly seconds: number;
  readonly sampleRate: number;
  readonly channels: number;
  readonly windows: readonly WindowMeasure[];
}

class ChannelMeter {
  readonly #sampleRate: number;
  readonly #pitchesHz: readonly number[];
  readonly #pitchSums: number[];
  readonly #block: Float32Array;
  #filled = 0;
  #samples = 0;
  #squares = 0;
  #levelSquares = 0;
  #levelSamples = 0;
  #silenceMs = 0;
  #longestSilenceMs = 0;

  constructor(sampleRate: number, pitchesHz: readonly number[]) {
    this.#sampleRate = sampleRate;
    this.#pitchesHz = pitchesHz;
    this.#pitchSums = pitchesHz.map(() => 0);
    this.#block = new Float32Array(Math.round((sampleRate * pitchBlockMs) / 1_000));
  }

  add(sample: number): void {
    const square = sample * sample;
    this.#samples += 1;
    this.#squares += square;
    this.#levelSquares += square;
    this.#levelSamples += 1;
    if (this.#levelSamples >= (this.#sampleRate * levelBlockMs) / 1_000) this.#endLevelBlock();
    this.#block[this.#filled] = sample;
    this.#filled += 1;
    if (this.#filled === this.#block.length) this.#endPitchBlock();
  }

  #endLevelBlock(): void {
    const silent = dbfsOf(this.#levelSquares / this.#levelSamples) < silenceDbfs;
    this.#silenceMs = silent ? this.#silenceMs + levelBlockMs : 0;
    this.#longestSilenceMs = Math.max(this.#longestSilenceMs, this.#silenceMs);
    this.#levelSquares = 0;
    this.#levelSamples = 0;
  }

  #endPitchBlock(): void {
    const block = this.#block.subarray(0, this.#filled);
    for (const [index, hz] of this.#pitchesHz.entries()) {
      this.#pitchSums[index] = (this.#pitchSums[index] ?? 0) + pitchPower(block, this.#sampleRate, hz) * block.length;
    }
    this.#filled = 0;
  }

  measure(): ChannelMeasure {
    const pitchShares = this.#pitchSums.map((sum) => (this.#squares > 0 ? sum / this.#squares : 0));
    const best = Math.max(0, ...pitchShares);
    return {
      rmsDbfs: dbfsOf(this.#samples === 0 ? 0 : this.#squares / this.#samples),
      pitchHz: best < 0.1 ? null : (this.#pitchesHz[pitchShares.indexOf(best)] ?? null),
      pitchShares,
      longestSilenceMs: this.#longestSilenceMs,
    };
  }
}

/**
 * Level, pitch and silence of a 16-bit WAV file, per channel and time window (default: one window over all).
 * Reads the file piece by piece and lets other work run in between. Rejects with an AudioError for what is no WAV.
 */
export async function measureRecording(
  path: string,
  want: {
    readonly windows?: readonly { readonly from: number; readonly to: number }[];
    readonly pitchesHz?: readonly number[];
  } = {},
): Promise<RecordingMeasure> {
  using reader = new WavReader(path);
  const { channels, sampleRate, frames, encoding, bitsPerSample } = reader.format;
  if (encoding !== "pcm" || bitsPerSample !== 16) throw new TypeError(`${path} does not hold 16-bit samples`);
  const windows = (want.windows ?? [{ from: 0, to: frames / sampleRate }]).map((window) => ({
    ...window,
    first: Math.round(window.from * sampleRate),
    end: Math.round(window.to * sampleRate),
    meters: Array.from({ length: channels }, () => new ChannelMeter(sampleRate, want.pitchesHz ?? [])),
  }));
  let frame = 0;
  for (;;) {
    const bytes = reader.readBytes(sampleRate);
    const count = bytes.length / (2 * channels);
    if (count === 0) break;
    for (const window of windows) {
      const from = Math.max(frame, window.first);
      const to = Math.min(frame + count, window.end);
      for (let index = from; index < to; index += 1) {
        for (const [channel, meter] of window.meters.entries()) {
          meter.add(bytes.readInt16LE(((index - frame) * channels + channel) * 2) / 32_768);
        }
      }
    }
    frame += count;
    await nextTurn();
  }
  return {
    seconds: frames / sampleRate,
    sampleRate,
    channels,
    windows: windows.map((window) => ({
      from: window.from,
      to: window.to,
      channels: window.meters.map((meter) => meter.measure()),
    })),
  };
}
