import type { LegId, TrunkId } from "../call/ids.ts";
import { TokenBucket } from "../lib/token-bucket.ts";
import type { SipTrunk } from "./directory.ts";

type Limited = Pick<SipTrunk, "id" | "maxCalls" | "callsPerSecond">;

/** What the trunks carry at this moment, and what they may. */
export class TrunkLoad {
  readonly #trunkOf = new Map<LegId, TrunkId>();
  readonly #legs = new Map<TrunkId, number>();
  /** New calls per second, by direction and trunk; trunks without a limit have none. */
  readonly #paces: Readonly<Record<"in" | "out", ReadonlyMap<TrunkId, TokenBucket>>>;

  /** `now` gives monotonic milliseconds. */
  constructor(trunks: readonly Limited[], now: () => number) {
    const paces = (): ReadonlyMap<TrunkId, TokenBucket> =>
      new Map(
        trunks.flatMap(({ id, callsPerSecond }) =>
          callsPerSecond === null ? [] : [[id, new TokenBucket(callsPerSecond, now)]],
        ),
      );
    this.#paces = { in: paces(), out: paces() };
  }

  /** On each trunk that has any. */
  get legs(): ReadonlyMap<TrunkId, number> {
    return this.#legs;
  }

  /** Over all trunks. */
  get total(): number {
    return this.#trunkOf.size;
  }

  /** The leg's call goes over the trunk. */
  enter(leg: LegId, trunk: TrunkId): void {
    if (this.#trunkOf.has(leg)) return;
    this.#trunkOf.set(leg, trunk);
    this.#legs.set(trunk, (this.#legs.get(trunk) ?? 0) + 1);
  }

  /** It does not, or not any more. */
  leave(leg: LegId): void {
    const trunk = this.#trunkOf.get(leg);
    if (trunk === undefined) return;
    this.#trunkOf.delete(leg);
    const left = (this.#legs.get(trunk) ?? 1) - 1;
    if (left === 0) this.#legs.delete(trunk);
    else this.#legs.set(trunk, left);
  }

  isFull({ id, maxCalls }: Limited): boolean {
    return (this.#legs.get(id) ?? 0) >= maxCalls;
  }

  /** Counts a new call; false when it is one too many for this second. */
  withinPace(direction: "in" | "out", { id }: Limited): boolean {
    return this.#paces[direction].get(id)?.take() ?? true;
  }

  clear(): void {
    this.#trunkOf.clear();
    this.#legs.clear();
  }
}
