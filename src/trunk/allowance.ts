import type { ChannelConfig } from "../config/schema.ts";
import type { Refusal } from "./destinations.ts";

export interface AllowanceOptions {
  /** What the channel of a bot allows; undefined for a bot without one. */
  readonly limitsOf: (botId: string) => ChannelConfig["destinations"] | undefined;
  /** An operator of the bot may not be called at all now, because somebody has stopped it. */
  readonly halted: (botId: string) => boolean;
  /** Milliseconds operators of the bot have talked today, over all instances. */
  readonly talkedMs: (botId: string) => number;
  readonly addTalk: (botId: string, ms: number) => void;
  /** Monotonic milliseconds. */
  readonly now: () => number;
}

interface Use {
  operators: number;
  /** When somebody was called within the last second, oldest first; no more than the limit. */
  recent: number[];
}

const second = 1000;
const minute = 60_000;

/** How often, how many at once and how long a bot may have operators called. Holds no more than there are bots with operators. */
export class Allowance {
  readonly #options: AllowanceOptions;
  readonly #uses = new Map<string, Use>();

  constructor(options: AllowanceOptions) {
    this.#options = options;
  }

  get size(): number {
    return this.#uses.size;
  }

  /**
   * Counts one more operator being called, or says why there may be none. `again`: the same target by another way, a gateway
   * after another one or an INVITE after a REFER, which is no further call of this second.
   */
  enter(botId: string, again = false): Refusal {
    const { limitsOf, halted, talkedMs, now } = this.#options;
    if (halted(botId)) return "transfers of this bot are halted";
    const limits = limitsOf(botId);
    if (limits === undefined) return "there is no such channel";
    const use = this.#uses.get(botId) ?? { operators: 0, recent: [] };
    const since = now() - second;
    use.recent = use.recent.filter((at) => at > since);
    if (use.operators >= limits.maxOperatorCalls) return "the channel's `destinations.maxOperatorCalls` is reached";
    if (!again && use.recent.length >= limits.maxCallsPerSecond)
      return "the channel's `destinations.maxCallsPerSecond` is reached";
    if (limits.maxTalkMinutesPerDay !== undefined && talkedMs(botId) >= limits.maxTalkMinutesPerDay * minute) {
      return "the channel's `destinations.maxTalkMinutesPerDay` is reached";
    }
    use.operators += 1;
    if (!again) use.recent.push(now());
    this.#uses.set(botId, use);
    return null;
  }

  /** An operator that `enter` has counted is over, after `talkedMs` of talk. */
  leave(botId: string, talkedMs: number): void {
    if (talkedMs > 0) this.#options.addTalk(botId, talkedMs);
    const use = this.#uses.get(botId);
    if (use === undefined) return;
    use.operators -= 1;
    if (use.operators > 0) return;
    // The second before counts even when nobody is left, so what is recent is kept until it is old.
    const since = this.#options.now() - second;
    if (use.recent.every((at) => at <= since)) this.#uses.delete(botId);
  }
}
