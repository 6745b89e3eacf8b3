/** Runs steps strictly one after another. A step that throws is reported and the next one runs. */
export class SerialQueue {
  readonly #most: number;
  readonly #onError: (error: unknown) => void;
  readonly #steps: (() => Promise<void>)[] = [];
  #running = false;

  constructor(most: number, onError: (error: unknown) => void) {
    this.#most = most;
    this.#onError = onError;
  }

  /** Steps that wait or run. */
  get length(): number {
    return this.#steps.length + (this.#running ? 1 : 0);
  }

  /** False when too many steps wait: the step will not run. */
  push(step: () => Promise<void>): boolean {
    if (this.#steps.length >= this.#most) return false;
    this.pushAlways(step);
    return true;
  }

  /** For the few steps that must run whatever waits, such as the last one. */
  pushAlways(step: () => Promise<void>): void {
    this.#steps.push(step);
    if (!this.#running) void this.#drain();
  }

  async #drain(): Promise<void> {
    this.#running = true;
    for (;;) {
      const step = this.#steps.shift();
      if (step === undefined) break;
      try {
        await step();
      } catch (error) {
        this.#onError(error);
      }
    }
    this.#running = false;
  }
}
