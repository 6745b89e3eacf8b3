import type { CallId, LegId } from "../call/ids.ts";
import type { CallFacts, Leg } from "./leg.ts";

/** The legs there are, and what is known of their calls: that goes with the last of them. */
export class LegTable {
  readonly #legs = new Map<LegId, Leg>();
  readonly #calls = new Map<CallId, { readonly facts: CallFacts; legs: number }>();

  get size(): number {
    return this.#legs.size;
  }

  /** Calls with a leg. */
  get calls(): number {
    return this.#calls.size;
  }

  all(): Iterable<Leg> {
    return this.#legs.values();
  }

  has(id: LegId): boolean {
    return this.#legs.has(id);
  }

  get(id: LegId): Leg | undefined {
    return this.#legs.get(id);
  }

  factsOf(call: CallId): CallFacts | undefined {
    return this.#calls.get(call)?.facts;
  }

  add(leg: Leg, facts: CallFacts): void {
    this.#legs.set(leg.id, leg);
    const entry = this.#calls.get(leg.call);
    if (entry === undefined) this.#calls.set(leg.call, { facts, legs: 1 });
    else entry.legs += 1;
  }

  /** It gives its place to another one of the same id. */
  exchange(leg: Leg): void {
    if (this.#legs.has(leg.id)) this.#legs.set(leg.id, leg);
  }

  remove({ id, call }: Leg): void {
    if (!this.#legs.delete(id)) return;
    const entry = this.#calls.get(call);
    if (entry === undefined) return;
    entry.legs -= 1;
    if (entry.legs === 0) this.#calls.delete(call);
  }

  clear(): void {
    this.#legs.clear();
    this.#calls.clear();
  }
}
