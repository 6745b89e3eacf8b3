// Who is heard? Each party of a test call sends a tone of its own pitch, and this finds the pitches in what arrived.

export const sampleRateHz = 8_000;

/** Pitches that are far enough apart, and no multiples of one another, so that none is taken for another. */
export const pitches = {
  caller: 440,
  bot: 620,
  operator: 850,
  operator2: 1_130,
  operator3: 1_470,
  ringback: 1_900,
} as const;
export const allPitches: readonly number[] = Object.values(pitches);

export interface Tone {
  readonly hz: number;
  /** Peak amplitude of the tone on the 16-bit scale: what a sender called `amplitude`. */
  readonly amplitude: number;
}

/** The two pitches of a key (ITU-T Q.23); none for what is on no keypad. */
export function keyPitches(key: string): readonly number[] {
  const at = key.length === 1 ? "123A456B789C*0#D".indexOf(key.toUpperCase()) : -1;
  const low = [697, 770, 852, 941][Math.floor(at / 4)];
  const high = [1_209, 1_336, 1_477, 1_633][at % 4];
  return low === undefined || high === undefined ? [] : [low, high];
}

/** 40 ms: a Hann window of that length tells pitches apart that differ by 100 Hz. */
const blockSamples = 320;
const shortestBlockSamples = 160;

/** A sine of constant phase from sample number `firstSample` on. */
export function sine(
  hz: number,
  amplitude: number,
  firstSample: number,
  count: number,
  rateHz = sampleRateHz,
): Int16Array {
  const samples = new Int16Array(count);
  for (let index = 0; index < count; index += 1) {
    samples[index] = Math.round(amplitude * Math.sin((2 * Math.PI * hz * (firstSample + index)) / rateHz));
  }
  return samples;
}

/** Root mean square on the 16-bit scale; 0 for no samples. A full-scale sine has 23170. */
export function rms(samples: ArrayLike<number>): number {
  let sum = 0;
  for (let index = 0; index < samples.length; index += 1) sum += (samples[index] ?? 0) ** 2;
  return samples.length === 0 ? 0 : Math.sqrt(sum / samples.length);
}

/** The squared amplitude of one pitch in one block (Goertzel's algorithm under a Hann window). */
function power(samples: ArrayLike<number>, from: number, count: number, hz: number, rateHz: number): number {
  const coefficient = 2 * Math.cos((2 * Math.PI * hz) / rateHz);
  let [previous, beforePrevious] = [0, 0];
  for (let index = 0; index < count; index += 1) {
    const window = 0.5 - 0.5 * Math.cos((2 * Math.PI * (index + 0.5)) / count);
    const current = window * (samples[from + index] ?? 0) + coefficient * previous - beforePrevious;
    beforePrevious = previous;
    previous = current;
  }
  const magnitudeSquared = previous ** 2 + beforePrevious ** 2 - coefficient * previous * beforePrevious;
  // A sine of amplitude a gives a·N/4 under this window.
  return magnitudeSquared / (count / 4) ** 2;
}

export interface PitchOptions {
  readonly candidates?: readonly number[];
  /** Quieter pitches do not count as heard. */
  readonly floor?: number;
  readonly rateHz?: number;
  /** The length the amplitudes are averaged over, where it is not that of the runs. */
  readonly overSamples?: number;
}

/**
 * The amplitude of each candidate pitch, averaged over blocks of 40 ms. The blocks are taken one by one, so a jump in
 * the phase (a lost packet, a new sender) costs little. Runs are pieces of sound without a gap in them.
 */
export function amplitudes(
  runs: readonly ArrayLike<number>[],
  candidates: readonly number[] = allPitches,
  { rateHz = sampleRateHz, overSamples }: Pick<PitchOptions, "rateHz" | "overSamples"> = {},
): readonly Tone[] {
  const full = Math.round((blockSamples * rateHz) / sampleRateHz);
  const shortest = Math.round((shortestBlockSamples * rateHz) / sampleRateHz);
  const sums = candidates.map(() => 0);
  let measured = 0;
  for (const run of runs) {
    for (let from = 0; from + shortest <= run.length; from += full) {
      const count = Math.min(full, run.length - from);
      candidates.forEach((hz, index) => {
        sums[index] = (sums[index] ?? 0) + power(run, from, count, hz, rateHz) * count;
      });
      measured += count;
    }
  }
  const over = overSamples ?? measured;
  return candidates.map((hz, index) => ({ hz, amplitude: over === 0 ? 0 : Math.sqrt((sums[index] ?? 0) / over) }));
}

/** The candidates that are really there, loudest first: at least `floor` strong and a tenth of the loudest. */
export function tonesIn(runs: readonly ArrayLike<number>[], options: PitchOptions = {}): readonly Tone[] {
  const { candidates = allPitches, floor = 300 } = options;
  const found = amplitudes(runs, candidates, options).toSorted((a, b) => b.amplitude - a.amplitude);
  const loudest = found[0]?.amplitude ?? 0;
  return found.filter(({ amplitude }) => amplitude >= floor && amplitude >= loudest / 10);
}
