import { lookup, Resolver } from "node:dns/promises";

import type { Clock } from "../timers.ts";

export interface AddressRecord {
  readonly address: string;
  readonly ttlSeconds: number;
}

export interface ServiceRecord {
  readonly name: string;
  readonly port: number;
  readonly priority: number;
  readonly weight: number;
}

/** What can be asked about a name. All of it rejects, or resolves to none, where there is nothing. */
export interface Lookups {
  ipv4(name: string): Promise<readonly AddressRecord[]>;
  ipv6(name: string): Promise<readonly AddressRecord[]>;
  service(name: string): Promise<readonly ServiceRecord[]>;
  /** What the machine itself knows (its hosts file), asked when DNS has nothing. */
  local(name: string): Promise<readonly string[]>;
  /** Gives up everything that is still being asked. */
  cancel(): void;
}

const queryTimeoutMs = 2_000;

/**
 * The machine's DNS servers, or `servers` (`address` or `address:port`), asked without occupying Node's few file-system
 * threads.
 */
export function dnsLookups(servers?: readonly string[]): Lookups {
  const resolver = new Resolver({ timeout: queryTimeoutMs, tries: 1 });
  if (servers !== undefined) {
    resolver.setServers(servers);
  }
  const records = (found: readonly { address: string; ttl: number }[]): AddressRecord[] =>
    found.map(({ address, ttl }) => ({ address, ttlSeconds: ttl }));
  return {
    ipv4: async (name) => records(await resolver.resolve4(name, { ttl: true })),
    ipv6: async (name) => records(await resolver.resolve6(name, { ttl: true })),
    service: (name) => resolver.resolveSrv(name),
    // Named servers are asked instead of everything that the machine knows.
    local: async (name) =>
      servers === undefined ? (await lookup(name, { all: true })).map((found) => found.address) : [],
    cancel: () => {
      resolver.cancel();
    },
  };
}

const mostEntries = 2_000;
const shortestMs = 1_000;
const longestMs = 300_000;
// Node does not tell how long an SRV record may be kept.
const serviceMs = 30_000;
const negativeMs = 5_000;
// RFC 8767 §5: an old answer is better than none while the servers are silent, and they are asked again after a while.
const staleMs = 3_600_000;
const retryMs = 30_000;

interface Entry {
  readonly records: readonly unknown[];
  readonly freshUntilMs: number;
  readonly keptUntilMs: number;
}

/** Answers of DNS, kept for their time to live within limits, and longer for when no server answers. */
export class AnswerCache {
  readonly #clock: Clock;
  readonly #entries = new Map<string, Entry>();
  readonly #asking = new Map<string, Promise<readonly unknown[]>>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get size(): number {
    return this.#entries.size;
  }

  /** The same lookups, answered from the cache where it can. */
  over(lookups: Lookups): Lookups {
    const addressesMs = (records: readonly AddressRecord[]): number =>
      Math.min(...records.map(({ ttlSeconds }) => ttlSeconds * 1_000));
    return {
      ipv4: (name) => this.#answer(`A ${name}`, () => lookups.ipv4(name), addressesMs),
      ipv6: (name) => this.#answer(`AAAA ${name}`, () => lookups.ipv6(name), addressesMs),
      service: (name) =>
        this.#answer(
          `SRV ${name}`,
          () => lookups.service(name),
          () => serviceMs,
        ),
      local: (name) =>
        this.#answer(
          `local ${name}`,
          () => lookups.local(name),
          () => negativeMs,
        ),
      cancel: () => {
        lookups.cancel();
      },
    };
  }

  /** Lookups that ask nobody: what there is, however old. */
  get stale(): Lookups {
    const kept = <T>(key: string): Promise<readonly T[]> => {
      const entry = this.#entries.get(key);
      return Promise.resolve(
        entry !== undefined && entry.keptUntilMs > this.#clock.now() ? (entry.records as readonly T[]) : [],
      );
    };
    return {
      ipv4: (name) => kept(`A ${name}`),
      ipv6: (name) => kept(`AAAA ${name}`),
      service: (name) => kept(`SRV ${name}`),
      local: (name) => kept(`local ${name}`),
      cancel: () => undefined,
    };
  }

  async #answer<T>(
    key: string,
    ask: () => Promise<readonly T[]>,
    lifetimeMs: (records: readonly T[]) => number,
  ): Promise<readonly T[]> {
    const known = this.#entries.get(key);
    if (known !== undefined && known.freshUntilMs > this.#clock.now()) {
      return known.records as readonly T[];
    }
    // Many calls to one name at once are one question.
    const asking = this.#asking.get(key) ?? this.#ask(key, ask, lifetimeMs);
    this.#asking.set(key, asking);
    try {
      return (await asking) as readonly T[];
    } finally {
      this.#asking.delete(key);
    }
  }

  async #ask<T>(
    key: string,
    ask: () => Promise<readonly T[]>,
    lifetimeMs: (records: readonly T[]) => number,
  ): Promise<readonly T[]> {
    try {
      const records = await ask();
      const ms = records.length === 0 ? negativeMs : Math.min(Math.max(lifetimeMs(records), shortestMs), longestMs);
      this.#keep(key, records, ms, staleMs);
      return records;
    } catch (error) {
      if (isNegative(error)) {
        this.#keep(key, [], negativeMs, negativeMs);
        return [];
      }
      const old = this.#entries.get(key);
      const leftMs = (old?.keptUntilMs ?? 0) - this.#clock.now();
      if (old === undefined || leftMs <= 0) {
        throw error;
      }
      this.#keep(key, old.records, Math.min(retryMs, leftMs), leftMs);
      return old.records as readonly T[];
    }
  }

  #keep(key: string, records: readonly unknown[], freshMs: number, keptMs: number): void {
    const now = this.#clock.now();
    // The newest goes to the end, so that the first is the one to give up.
    this.#entries.delete(key);
    const [oldest] = this.#entries.keys();
    if (this.#entries.size >= mostEntries && oldest !== undefined) {
      this.#entries.delete(oldest);
    }
    this.#entries.set(key, { records, freshUntilMs: now + freshMs, keptUntilMs: now + keptMs });
  }
}

/** A server said that there is nothing, in contrast to one that said nothing. */
function isNegative(error: unknown): boolean {
  return error instanceof Error && "code" in error && (error.code === "ENOTFOUND" || error.code === "ENODATA");
}
