import type { Cancellable, Clock } from "./clock.ts";

/** A clock that knows which of its timers are running, so that a leak is seen, and lets nothing a timer does throw out of it. */
export class CountingClock implements Clock {
  readonly #clock: Clock;
  readonly #onError: (error: unknown) => void;
  readonly #running = new Set<Cancellable>();

  constructor(clock: Clock, onError: (error: unknown) => void) {
    this.#clock = clock;
    this.#onError = onError;
  }

  get running(): number {
    return this.#running.size;
  }

  now(): number {
    return this.#clock.now();
  }

  wallMs(): number {
    return this.#clock.wallMs();
  }

  after(ms: number, run: () => void): Cancellable {
    const timer = this.#clock.after(ms, () => {
      if (!this.#running.delete(timer)) return;
      try {
        run();
      } catch (error) {
        this.#onError(error);
      }
    });
    this.#running.add(timer);
    return {
      cancel: () => {
        if (this.#running.delete(timer)) timer.cancel();
      },
    };
  }

  /** Lets no timer run any more. */
  clear(): void {
    for (const timer of this.#running) timer.cancel();
    this.#running.clear();
  }
}
