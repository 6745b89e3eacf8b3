import { messageOf } from "../media-error.ts";
import type { MediaLog } from "../options.ts";
import { SerialQueue } from "./serial-queue.ts";

/** The steps of one call, one after another, until it closes: what waits then is not done any more. */
export class CallQueue {
  readonly #call: string;
  readonly #log: MediaLog;
  readonly #queue: SerialQueue;
  #closed = false;

  constructor(call: string, most: number, log: MediaLog) {
    this.#call = call;
    this.#log = log;
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
        await step();
      } catch (error) {
        this.#failed(error);
        onError(error);
      }
    });
    if (!accepted) onFull();
  }

  /** Nothing is taken any more; `last` runs after the step that is under way. */
  close(last?: () => Promise<void>): void {
    this.#closed = true;
    if (last !== undefined) this.#queue.pushAlways(last);
  }

  async #unlessClosed(step: () => Promise<void>): Promise<void> {
    if (!this.#closed) await step();
  }

  #failed(error: unknown): void {
    this.#log.warn({ call: this.#call, error: messageOf(error) }, "a media command failed");
  }
}
