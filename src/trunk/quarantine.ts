import type { GatewayId } from "../call/ids.ts";

/** Longest rest a gateway is given, whatever it asks for: a wrong header must not take it out for good. */
export const quarantineMaxMs = 3_600_000;

/** Gateways that asked not to be called for a while (bot-contract §5: Retry-After). Holds no more than there are gateways. */
export class Quarantine {
  readonly #until = new Map<GatewayId, number>();
  readonly #now: () => number;

  /** `now` gives monotonic milliseconds. */
  constructor(now: () => number) {
    this.#now = now;
  }

  put(gateway: GatewayId, ms: number): void {
    this.#until.set(gateway, this.#now() + Math.min(ms, quarantineMaxMs));
  }

  /** The gateways that may be called, in their order; all of them when each has asked for rest, because one may still answer. */
  free(gateways: readonly [GatewayId, ...GatewayId[]]): readonly [GatewayId, ...GatewayId[]] {
    const [first, ...others] = gateways.filter((gateway) => !this.#rests(gateway));
    return first === undefined ? gateways : [first, ...others];
  }

  #rests(gateway: GatewayId): boolean {
    const until = this.#until.get(gateway);
    if (until === undefined) return false;
    if (this.#now() < until) return true;
    this.#until.delete(gateway);
    return false;
  }
}
