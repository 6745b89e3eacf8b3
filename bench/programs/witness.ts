// What every measured Node program does for the benchmark besides its work: it says when it is ready, and on a signal how
// much memory it holds and how late its event loop ran.
import { monitorEventLoopDelay } from "node:perf_hooks";

/** One line of a measured program's standard output. Loop delays in milliseconds, memory in bytes. */
export interface Witnessed {
  readonly type: "witness";
  readonly rss: number;
  readonly heapUsed: number;
  readonly loop: { readonly p50: number; readonly p99: number; readonly max: number } | undefined;
  /** What the program itself counted: failed calls, sizes of its maps. */
  readonly own: Readonly<Record<string, number>>;
}

const resolutionMs = 1;

/** Prints the line that the runner waits for. SIGHUP begins to watch the loop, SIGUSR2 collects garbage and reports. */
export function witness(own: () => Readonly<Record<string, number>> = () => ({})): void {
  // Off until it is asked for: the histogram wakes the loop a thousand times a second, which is processor time as well.
  const delays = monitorEventLoopDelay({ resolution: resolutionMs });
  let watching = false;
  process.on("SIGHUP", () => {
    watching = true;
    delays.reset();
    delays.enable();
  });
  process.on("SIGUSR2", () => {
    // The histogram counts from one wake-up to the next, so its own interval is taken off.
    const ms = (nanoseconds: number): number => Math.max(0, nanoseconds / 1e6 - resolutionMs);
    const loop = watching
      ? { p50: ms(delays.percentile(50)), p99: ms(delays.percentile(99)), max: ms(delays.max) }
      : undefined;
    delays.disable();
    watching = false;
    globalThis.gc?.();
    const { rss, heapUsed } = process.memoryUsage();
    const line: Witnessed = { type: "witness", rss, heapUsed, loop, own: own() };
    console.log(JSON.stringify(line));
  });
  process.on("SIGTERM", () => {
    process.exit(0);
  });
  console.log(JSON.stringify({ type: "ready" }));
}

/** A number from the environment; the runner gives all of them. */
export function setting(name: string): string {
  const value = process.env[name];
  if (value === undefined || value === "") {
    throw new Error(`the environment variable ${name} is missing`);
  }
  return value;
}
