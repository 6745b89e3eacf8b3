/** Milliseconds of processor time, so that other processes on a busy machine do not count. */
function cpuMs(work: () => void): number {
  const before = process.cpuUsage();
  work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1000;
}

function best(runs: number, work: () => void): number {
  let least = Infinity;
  for (let run = 0; run < runs; run += 1) least = Math.min(least, cpuMs(work));
  return least;
}

/** Below this a linear reader stays (8) and a quadratic one does not (64). */
export const linear = 24;

/**
 * How many times more work eight times the input takes: about 8 for a linear algorithm, 64 for a quadratic one. `prepare`
 * makes the work for one size; only the work is measured. Collection of garbage may fall into a run, so the least of
 * several measurements counts.
 */
export function growth(prepare: (size: number) => () => void, size: number): number {
  const small = prepare(size);
  const big = prepare(size * 8);
  small();
  let least = Infinity;
  for (let round = 0; round < 4 && least >= linear; round += 1) {
    // The floor keeps the noise of very short times out of the ratio.
    least = Math.min(least, best(2, big) / Math.max(best(3, small), 1));
  }
  return least;
}
