import type { MediaClock } from "./options.ts";

/** A clock that knows how many timers are running, and never lets what a timer does throw out of it. */
export class CountingClock implements MediaClock {
  readonly #clock: MediaClock;
  readonly #onError: (error: unknown) => void;
  #running = 0;

  constructor(clock: MediaClock, onError: (error: unknown) => void) {
    this.#clock = clock;
    this.#onError = onError;
  }

  get running(): number {
    return this.#running;
  }

  now(): number {
    return this.#clock.now();
  }

  wallMs(): number {
    return this.#clock.wallMs();
  }

  after(ms: number, run: () => void): { cancel(): void } {
    let live = true;
    this.#running += 1;
    const end = (): boolean => {
      const wasLive = live;
      if (live) this.#running -= 1;
      live = false;
      return wasLive;
    };
    const timer = this.#clock.after(ms, () => {
      if (!end()) return;
      try {
        run();
      } catch (error) {
        this.#onError(error);
      }
    });
    return {
      cancel() {
        if (end()) timer.cancel();
      },
    };
  }
}
