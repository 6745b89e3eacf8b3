import { dialSteps } from "../../call/dial-string.ts";

/** A stretch of sound: the sum of some sines, or silence when there are none. */
export interface Tone {
  readonly frequenciesHz: readonly number[];
  readonly ms: number;
}

/** Level of each sine; two of them together stay well below full scale. */
const amplitude = 0.25;
/** Sines fade in and out so that they do not click. */
const rampMs = 5;

const dtmfRows = [697, 770, 852, 941];
const dtmfColumns = [1_209, 1_336, 1_477, 1_633];
const keypad = ["123A", "456B", "789C", "*0#D"];
/** How long a key is held, and the pause behind its tones. */
export const keyMs = 120;
const keyPauseMs = 80;

/** The two frequencies of a key (ITU-T Q.23), undefined for what is on no keypad. */
export function dtmfFrequencies(digit: string): readonly [number, number] | undefined {
  for (const [row, keys] of keypad.entries()) {
    const column = keys.indexOf(digit.toUpperCase());
    const low = dtmfRows[row];
    const high = dtmfColumns[column];
    if (digit.length === 1 && low !== undefined && high !== undefined) return [low, high];
  }
  return undefined;
}

/** Tones for a dialling string; undefined when it is none. */
export function dtmfTones(digits: string): readonly Tone[] | undefined {
  return dialSteps(digits)?.flatMap((step): readonly Tone[] =>
    "pauseMs" in step
      ? [{ frequenciesHz: [], ms: step.pauseMs }]
      : [
          { frequenciesHz: dtmfFrequencies(step.key) ?? [], ms: keyMs },
          { frequenciesHz: [], ms: keyPauseMs },
        ],
  );
}

/** Samples of tones one after another, -1 to 1. */
export function renderTones(tones: readonly Tone[], sampleRate: number): Float32Array {
  const lengths = tones.map((tone) => Math.round((tone.ms * sampleRate) / 1_000));
  const out = new Float32Array(lengths.reduce((sum, length) => sum + length, 0));
  const ramp = (rampMs * sampleRate) / 1_000;
  let start = 0;
  for (const [index, tone] of tones.entries()) {
    const length = lengths[index] ?? 0;
    for (const frequencyHz of tone.frequenciesHz) {
      const step = (2 * Math.PI * frequencyHz) / sampleRate;
      for (let sample = 0; sample < length; sample += 1) {
        const gain = Math.min(1, sample / ramp, (length - sample) / ramp);
        out[start + sample] = (out[start + sample] ?? 0) + amplitude * gain * Math.sin(step * sample);
      }
    }
    start += length;
  }
  return out;
}
