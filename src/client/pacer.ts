import { delay } from "./deferred.ts";

/** Gives turns at a steady rate with a burst, in the order they were asked for, so that a busy bot stays under the rate limit. */
export class Pacer {
  readonly #intervalMs: number;
  readonly #burst: number;
  #nextAt = 0;

  constructor(perSecond: number, burst: number) {
    this.#intervalMs = 1000 / perSecond;
    this.#burst = burst;
  }

  async turn(): Promise<void> {
    const now = performance.now();
    this.#nextAt = Math.max(this.#nextAt, now - (this.#burst - 1) * this.#intervalMs);
    const waitMs = this.#nextAt - now;
    this.#nextAt += this.#intervalMs;
    if (waitMs > 0) await delay(waitMs);
  }
}
