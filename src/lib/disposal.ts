/** What Node 20 lacks of AsyncDisposableStack: runs what it was given, last first, each once. */
export class Disposal implements AsyncDisposable {
  #steps: (() => unknown)[] = [];

  /** `step` may return a promise; it is waited for before the next one runs. */
  defer(step: () => unknown): void {
    this.#steps.push(step);
  }

  /** Hands all steps over to a new one; this one has nothing to do any more. */
  move(): Disposal {
    const next = new Disposal();
    next.#steps = this.#steps;
    this.#steps = [];
    return next;
  }

  /** Runs every step even when one fails, and throws what failed at the end. */
  async [Symbol.asyncDispose](): Promise<void> {
    const failures: unknown[] = [];
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) {
      try {
        await step();
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length > 0) throw new AggregateError(failures, "closing failed");
  }
}
