import { messageOf } from "../media-error.ts";
import type { MediaLog } from "../options.ts";
import { SerialQueue } from "./serial-queue.ts";

/** The steps of one call, one after another, until it closes: what waits then is not done any more. */
export class CallQueue {
  readonly #call: string;
  readonly #log: MediaLog;
  readonly #queue: SerialQueue;
  readonly #mend: () => Promise<boolean> | null;
  #closed = false;

  /** `mend` runs before a step where something is to be mended, else it gives null. True when that has succeeded. */
  constructor(call: string, most: number, log: MediaLog, mend: () => Promise<boolean> | null) {
    this.#call = call;
    this.#log = log;
    this.#mend = mend;
    this.#queue = new SerialQueue(most, (error) => this.#failed(error));
  }

  /** Steps that wait or run. */
  get length(): number {
    return this.#queue.length;
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** False when too many steps wait: this one will not run. */
  push(step: () => Promise<void>): boolean {
    return this.#queue.push(() => this.#unlessClosed(step));
  }

  /** For a step that must run whatever waits. */
  pushAlways(step: () => Promise<void>): void {
    this.#queue.pushAlways(() => this.#unlessClosed(step));
  }

  /** A step that is told when there is no place for it, and when it fails. */
  run(step: () => Promise<void>, onFull: () => void, onError: (error: unknown) => void = () => {}): void {
    const accepted = this.push(async () => {
      try {
        await this.again(step);
      } catch (error) {
        this.#failed(error);
        onError(error);
      }
    });
    if (!accepted) onFull();
  }

  /** Within a step: what has failed is done once more where what it failed of can be mended. */
  async again<T>(run: () => Promise<T>): Promise<T> {
    try {
      return await run();
    } catch (error) {
      const mending = this.#closed ? null : this.#mend();
      if (mending === null || !(await mending)) throw error;
      return run();
    }
  }

  /** Nothing is taken any more; `last` runs after the step that is under way. */
  close(last?: () => Promise<void>): void {
    this.#closed = true;
    if (last !== undefined) this.#queue.pushAlways(last);
  }

  async #unlessClosed(step: () => Promise<void>): Promise<void> {
    const mending = this.#closed ? null : this.#mend();
    if (mending !== null) await mending;
    if (!this.#closed) await step();
  }

  #failed(error: unknown): void {
    this.#log.warn({ call: this.#call, error: messageOf(error) }, "a media command failed");
  }
}
