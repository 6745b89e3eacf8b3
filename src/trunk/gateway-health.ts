import type { GatewayId } from "../call/ids.ts";

/** Longest rest a gateway is given, whatever it asks for: a wrong header must not take it out for good. */
export const restMaxMs = 3_600_000;

/** How much a gateway is trusted. */
export interface HealthRules {
  /** Failures in a row after which it counts as down. */
  readonly failures: number;
  /** How long a gateway that is down is left alone before a call may try it again. */
  readonly retryMs: number;
  /** Somebody asks the gateway whether it is there: calls then wait for his word and never try. */
  readonly probed: boolean;
}

/** `down` and `resting` gateways are called only where no other is left. */
export type GatewayState = "up" | "down" | "resting";

interface Record {
  readonly rules: HealthRules;
  failures: number;
  /** While it is down: until then no call tries it. */
  retryAt: number;
  /** It asked not to be called until then (bot-contract §5: Retry-After). */
  restsUntil: number;
}

/** A circuit breaker for each gateway, and the rest that some ask for. Holds no more than there are gateways. */
export class GatewayHealth {
  readonly #records: ReadonlyMap<GatewayId, Record>;
  readonly #now: () => number;
  readonly #onChange: (gateway: GatewayId, state: "up" | "down") => void;

  /** `now` gives monotonic milliseconds. */
  constructor(
    gateways: ReadonlyMap<GatewayId, HealthRules>,
    now: () => number,
    onChange: (gateway: GatewayId, state: "up" | "down") => void = () => undefined,
  ) {
    const blank = { failures: 0, retryAt: 0, restsUntil: 0 };
    this.#records = new Map([...gateways].map(([id, rules]) => [id, { rules, ...blank }]));
    this.#now = now;
    this.#onChange = onChange;
  }

  /** The gateway has asked not to be called for so long. */
  rest(gateway: GatewayId, ms: number): void {
    const record = this.#records.get(gateway);
    if (record !== undefined) record.restsUntil = this.#now() + Math.min(ms, restMaxMs);
  }

  /** The gateway has answered, or it has not. */
  report(gateway: GatewayId, answered: boolean): void {
    const record = this.#records.get(gateway);
    if (record === undefined) return;
    const before = isDown(record);
    record.failures = answered ? 0 : record.failures + 1;
    record.retryAt = this.#now() + record.rules.retryMs;
    if (before !== isDown(record)) this.#onChange(gateway, before ? "up" : "down");
  }

  state(gateway: GatewayId): GatewayState {
    const record = this.#records.get(gateway);
    if (record === undefined) return "up";
    if (isDown(record)) return "down";
    return record.restsUntil > this.#now() ? "resting" : "up";
  }

  /**
   * The gateways as a call should try them: those that are down come last, those that asked for rest are left out; all
   * are there when none is left, because one may still answer. A gateway that was down for long enough keeps its place
   * for one call, which finds out (half-open); without an answer it is left alone for as long again.
   */
  order(gateways: readonly [GatewayId, ...GatewayId[]]): readonly [GatewayId, ...GatewayId[]] {
    const now = this.#now();
    const rested = gateways.filter((gateway) => (this.#records.get(gateway)?.restsUntil ?? 0) <= now);
    const callable = rested.length === 0 ? gateways : rested;
    const good: GatewayId[] = [];
    const last: GatewayId[] = [];
    for (const gateway of callable) {
      (this.#mayTry(gateway, now) ? good : last).push(gateway);
    }
    const [first, ...others] = [...good, ...last];
    return first === undefined ? gateways : [first, ...others];
  }

  #mayTry(gateway: GatewayId, now: number): boolean {
    const record = this.#records.get(gateway);
    if (record === undefined || !isDown(record)) return true;
    if (record.rules.probed || now < record.retryAt) return false;
    record.retryAt = now + record.rules.retryMs;
    return true;
  }
}

function isDown({ failures, rules }: Record): boolean {
  return failures >= rules.failures;
}
