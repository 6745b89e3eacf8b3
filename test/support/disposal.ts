/** What Node 20 lacks of AsyncDisposableStack: disposes of what it was given, last first, each once. */
export class DisposalStack implements AsyncDisposable {
  #resources: AsyncDisposable[] = [];

  use<T extends AsyncDisposable>(resource: T): T {
    this.#resources.push(resource);
    return resource;
  }

  /** Hands everything over to a new stack; this one has nothing to dispose of any more. */
  move(): DisposalStack {
    const next = new DisposalStack();
    next.#resources = this.#resources;
    this.#resources = [];
    return next;
  }

  /** Disposes of everything even when something fails, and throws the first failure at the end. */
  async [Symbol.asyncDispose](): Promise<void> {
    const failures: unknown[] = [];
    for (let next = this.#resources.pop(); next !== undefined; next = this.#resources.pop()) {
      try {
        await next[Symbol.asyncDispose]();
      } catch (error) {
        failures.push(error);
      }
    }
    if (failures.length > 0) throw new AggregateError(failures, "disposal failed");
  }
}
