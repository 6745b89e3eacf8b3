/** The middle value; the mean of the two middle ones where there is none. NaN for no values. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}

/** The value below which `share` (0 to 1) of the values lie, by linear interpolation. NaN for no values. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (sorted.length - 1) * share;
  const below = sorted[Math.floor(at)] ?? Number.NaN;
  const above = sorted[Math.ceil(at)] ?? Number.NaN;
  return below + (above - below) * (at - Math.floor(at));
}

/** A ratio of two columns and where it lies with 95 % confidence. */
export interface Ratio {
  readonly median: number;
  readonly low: number;
  readonly high: number;
  readonly blocks: number;
}

/** Random numbers in [0, 1) from a seed (mulberry32), so that a table can be computed again from its raw data. */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const resamples = 4_000;

/**
 * The median of the ratios of paired blocks and its 95 % bootstrap interval. Blocks are paired by their place: both
 * columns were measured next to one another, so what the machine did to the one it did to the other. Pairs of which one
 * side is missing are left out; undefined when none is left.
 */
export function pairedRatio(
  ours: readonly (number | undefined)[],
  theirs: readonly (number | undefined)[],
  seed = 1,
): Ratio | undefined {
  const ratios: number[] = [];
  for (const [index, value] of ours.entries()) {
    const other = theirs[index];
    if (value !== undefined && other !== undefined && other > 0) {
      ratios.push(value / other);
    }
  }
  if (ratios.length === 0) {
    return undefined;
  }
  const random = seededRandom(seed);
  const medians = Array.from({ length: resamples }, () =>
    median(ratios.map(() => ratios[Math.floor(random() * ratios.length)] ?? Number.NaN)),
  );
  return {
    median: median(ratios),
    low: quantile(medians, 0.025),
    high: quantile(medians, 0.975),
    blocks: ratios.length,
  };
}
