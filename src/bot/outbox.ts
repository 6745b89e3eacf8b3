import type { Cancellable, Clock } from "../lib/clock.ts";
import type { EncodedEvent } from "./envelope.ts";

export interface OutboxOptions {
  readonly clock: Clock;
  /** Stores and publishes the events in this order; a repeat of one that is stored does nothing. */
  send(events: readonly EncodedEvent[]): Promise<void>;
  /** Whether `send` has a connection and the bot's answers can be heard. */
  canSend(): boolean;
  onFailure(error: unknown): void;
  /** An event has been stored, so long after it was added. */
  onStored(waitedMs: number): void;
  /** The last queued event has been stored. */
  onEmpty(): void;
}

const batchMax = 32;
const retryMinMs = 50;
const retryMaxMs = 5_000;

/**
 * The events of one call that are not stored in Redis yet, in order. They are sent one batch after the other and stay here
 * until Redis has said that it has them, so that no loss of a connection loses, doubles or reorders one.
 */
export class Outbox {
  readonly #options: OutboxOptions;
  readonly #queue: { readonly event: EncodedEvent; readonly addedAt: number }[] = [];
  #sending = false;
  #retryMs = retryMinMs;
  #retry: Cancellable | null = null;

  constructor(options: OutboxOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#queue.length;
  }

  /** When the oldest event that waits was added, by the clock's `now`; null when none waits. */
  get waitingSince(): number | null {
    return this.#queue[0]?.addedAt ?? null;
  }

  get timers(): number {
    return this.#retry === null ? 0 : 1;
  }

  add(event: EncodedEvent): void {
    this.#queue.push({ event, addedAt: this.#options.clock.now() });
    this.flush();
  }

  /** Sends what waits, if nothing is under way. Called again whenever `canSend` turns true. */
  flush(): void {
    if (this.#sending || this.#queue.length === 0 || !this.#options.canSend()) return;
    this.#sending = true;
    this.#retry?.cancel();
    this.#retry = null;
    const batch = this.#queue.slice(0, batchMax).map(({ event }) => event);
    this.#options.send(batch).then(
      () => this.#sent(batch.length),
      (error: unknown) => this.#failed(error),
    );
  }

  stop(): void {
    this.#retry?.cancel();
    this.#retry = null;
    this.#queue.length = 0;
  }

  #sent(count: number): void {
    this.#sending = false;
    this.#retryMs = retryMinMs;
    const now = this.#options.clock.now();
    for (const { addedAt } of this.#queue.splice(0, count)) this.#options.onStored(now - addedAt);
    if (this.#queue.length === 0) this.#options.onEmpty();
    else this.flush();
  }

  #failed(error: unknown): void {
    this.#sending = false;
    this.#options.onFailure(error);
    if (this.#queue.length === 0) return;
    // A lost connection flushes when it is back; this is for a Redis that answers, but with an error.
    this.#retry = this.#options.clock.after(this.#retryMs, () => {
      this.#retry = null;
      this.flush();
    });
    this.#retryMs = Math.min(this.#retryMs * 2, retryMaxMs);
  }
}
