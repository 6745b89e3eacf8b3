import type { TimerName } from "../call/event.ts";
import type { CallId } from "../call/ids.ts";
import type { Post, Timers } from "../call/ports.ts";
import type { Cancellable, Clock } from "../lib/clock.ts";

/** The calls' named timers; starting one again restarts it. */
export class CallTimers implements Timers {
  readonly #running = new Map<CallId, Map<TimerName, Cancellable>>();
  readonly #clock: Clock;
  readonly #post: Post;

  constructor(clock: Clock, post: Post) {
    this.#clock = clock;
    this.#post = post;
  }

  get size(): number {
    let size = 0;
    for (const timers of this.#running.values()) size += timers.size;
    return size;
  }

  start(call: CallId, timer: TimerName, ms: number): void {
    this.stop(call, timer);
    const timers = this.#running.get(call) ?? new Map<TimerName, Cancellable>();
    this.#running.set(call, timers);
    const running = this.#clock.after(ms, () => {
      this.#forget(call, timer);
      this.#post(call, { type: "timer.fired", timer });
    });
    timers.set(timer, running);
  }

  stop(call: CallId, timer: TimerName): void {
    this.#running.get(call)?.get(timer)?.cancel();
    this.#forget(call, timer);
  }

  /** The call is over: nothing of it may fire any more. */
  clear(call: CallId): void {
    for (const running of this.#running.get(call)?.values() ?? []) running.cancel();
    this.#running.delete(call);
  }

  #forget(call: CallId, timer: TimerName): void {
    const timers = this.#running.get(call);
    timers?.delete(timer);
    if (timers?.size === 0) this.#running.delete(call);
  }
}
