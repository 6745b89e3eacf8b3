import { decide } from "../call/decide.ts";
import type { Effect } from "../call/effect.ts";
import type { CallEvent } from "../call/event.ts";
import type { CallState } from "../call/state.ts";
import type { Step } from "../call/step.ts";

/** More waiting events than this mean that something feeds the call in a circle. */
export const inboxMax = 1000;

export interface ActorHooks {
  /** Carries out one effect; never throws. */
  run(effect: Effect): void;
  /** After every event, with the state it led to. */
  changed(before: CallState, now: CallState): void;
  overflowed(): void;
  /** The core threw, which is a bug; the state is what it was before the event. */
  failed(event: CallEvent["type"], error: unknown): void;
}

/** One mailbox per call: events are handled one at a time, to completion, in the order of their arrival. */
export class CallActor {
  #state: CallState;
  readonly #inbox: CallEvent[] = [];
  readonly #now: () => number;
  readonly #hooks: ActorHooks;
  #busy = true;
  #overflowed = false;

  /** `now` gives monotonic milliseconds. */
  constructor([state]: Step, now: () => number, hooks: ActorHooks) {
    this.#state = state;
    this.#now = now;
    this.#hooks = hooks;
  }

  /** Carries out what the call begins with; events that arrive meanwhile wait. */
  start([, effects]: Step): void {
    for (const effect of effects) this.#hooks.run(effect);
    this.#drain();
  }

  get state(): CallState {
    return this.#state;
  }

  post(event: CallEvent): void {
    if (this.#inbox.length >= inboxMax) {
      if (this.#overflowed) return;
      this.#overflowed = true;
      this.#hooks.overflowed();
      // What waits is given up: the one thing that still matters is that both parties are released.
      this.#inbox.splice(0, this.#inbox.length, { type: "shutdown" });
      return;
    }
    this.#inbox.push(event);
    // An effect that posts at once is taken by the loop that runs it.
    if (!this.#busy) this.#drain();
  }

  #drain(): void {
    this.#busy = true;
    try {
      for (let event = this.#inbox.shift(); event !== undefined; event = this.#inbox.shift()) {
        const before = this.#state;
        const step = this.#decide(before, event);
        if (step === undefined) continue;
        const [next, effects] = step;
        this.#state = next;
        for (const effect of effects) this.#hooks.run(effect);
        this.#hooks.changed(before, next);
      }
    } finally {
      this.#busy = false;
    }
  }

  /** A bug that one call meets must not end the process, and with it all the others: that call alone is given up. */
  #decide(before: CallState, event: CallEvent): Step | undefined {
    try {
      return decide(before, event, this.#now());
    } catch (error) {
      this.#hooks.failed(event.type, error);
      if (event.type !== "shutdown") this.#inbox.push({ type: "shutdown" });
      return undefined;
    }
  }
}
