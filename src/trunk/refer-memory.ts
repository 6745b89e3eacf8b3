import type { TrunkId } from "../call/ids.ts";

/** How long a trunk that did not follow a REFER is not asked again (bot-contract §6). */
export const referRestMs = 3_600_000;

/** Trunks whose callers' side did not follow a REFER. Holds no more than there are trunks. */
export class ReferMemory {
  readonly #until = new Map<TrunkId, number>();
  readonly #now: () => number;

  /** `now` gives monotonic milliseconds. */
  constructor(now: () => number) {
    this.#now = now;
  }

  withoutRefer(trunk: TrunkId): void {
    this.#until.set(trunk, this.#now() + referRestMs);
  }

  /** Whether a REFER is worth trying on this trunk. */
  follows(trunk: TrunkId): boolean {
    const until = this.#until.get(trunk);
    if (until === undefined) return true;
    if (this.#now() < until) return false;
    this.#until.delete(trunk);
    return true;
  }
}
