export interface Cancellable {
  cancel(): void;
}

/** Time as the runtime sees it; tests pass a clock of their own. */
export interface Clock {
  /** Monotonic milliseconds: a change of the wall clock never moves a timer. */
  now(): number;
  /** Wall-clock milliseconds since 1970, for what people read. */
  wallMs(): number;
  /** Runs once after `ms` milliseconds; the timer alone does not keep the process alive. */
  after(ms: number, run: () => void): Cancellable;
}

export const systemClock: Clock = {
  now: () => performance.now(),
  wallMs: () => Date.now(),
  after(ms, run) {
    const timer = setTimeout(run, ms);
    timer.unref();
    return { cancel: () => clearTimeout(timer) };
  },
};
