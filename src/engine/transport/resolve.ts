import { isIP } from "node:net";

import type { Cancellable, Clock, Random } from "../timers.ts";
import { defaultPort, type Protocol } from "./index.ts";
import { AnswerCache, dnsLookups, type Lookups, type ServiceRecord } from "./lookups.ts";

/** One place to try, in the order in which they are to be tried. */
export interface ResolvedAddress {
  readonly protocol: Protocol;
  readonly address: string;
  readonly port: number;
}

export interface ResolveRequest {
  /** A host name, or an IP address without brackets. */
  readonly host: string;
  /** Given in the URI: then there is no SRV lookup (RFC 3263 §4.2). */
  readonly port?: number | undefined;
  /** What the URI leaves open, best first; with one, it is settled. */
  readonly protocols: readonly [Protocol, ...Protocol[]];
}

export interface ResolverOptions {
  /** The address families we can send from. */
  readonly families: (protocol: Protocol) => readonly (4 | 6)[];
  /** For all lookups of one request together, in milliseconds. */
  readonly timeoutMs?: number;
  /** DNS servers to ask instead of the machine's own, `address` or `address:port`. */
  readonly servers?: readonly string[] | undefined;
  readonly lookups?: () => Lookups;
  readonly clock: Clock;
  readonly random: Random;
}

export type ResolveOutcome =
  | { readonly ok: true; readonly addresses: readonly ResolvedAddress[] }
  | { readonly ok: false; readonly reason: "not_found" | "timeout" };

const defaultTimeoutMs = 2_000;
const mostServices = 10;
/** Each of them may cost a caller 64*T1 when it is silent. */
const mostAddresses = 10;

const servicePrefixes: Readonly<Record<Protocol, string>> = { udp: "_sip._udp", tcp: "_sip._tcp", tls: "_sips._tcp" };

/**
 * RFC 3263 §4: from the host of a URI to the addresses to try. NAPTR is left out: it only chooses between transports, which
 * the URI or the order of our own preference does here; §4.1 has a client without it ask for the SRV records of each
 * transport, and providers publish those.
 */
export class TargetResolver {
  readonly #options: ResolverOptions;
  readonly #cache: AnswerCache;

  constructor(options: ResolverOptions) {
    this.#options = options;
    this.#cache = new AnswerCache(options.clock);
  }

  /** Best first. Never rejects and never takes longer than its time limit. */
  async resolve(request: ResolveRequest): Promise<ResolveOutcome> {
    const literal = literalAddresses(request);
    if (literal !== undefined) {
      return this.#usable(literal);
    }
    const { clock, timeoutMs = defaultTimeoutMs, servers } = this.#options;
    const lookups = this.#cache.over((this.#options.lookups ?? (() => dnsLookups(servers)))());
    let timer: Cancellable | undefined;
    const timeout = new Promise<"timeout">((resolve) => {
      timer = clock.after(timeoutMs, () => {
        resolve("timeout");
      });
    });
    try {
      const found = await Promise.race([this.#search(request, lookups), timeout]);
      if (found !== "timeout") {
        return this.#usable(found);
      }
      const outcome = this.#usable(await this.#search(request, this.#cache.stale));
      return outcome.ok ? outcome : { ok: false, reason: "timeout" };
    } finally {
      timer?.cancel();
      lookups.cancel();
    }
  }

  async #search(request: ResolveRequest, lookups: Lookups): Promise<ResolvedAddress[]> {
    const { host, port, protocols } = request;
    const [preferred] = protocols;
    if (port === undefined) {
      const answers = await Promise.all(
        protocols.map(async (protocol) => ({
          protocol,
          services: await attempt(lookups.service(`${servicePrefixes[protocol]}.${host}`)),
        })),
      );
      // RFC 3263 §4.1: the first transport that has records is the one.
      const answer = answers.find(({ services }) => services.length > 0);
      if (answer !== undefined) {
        // RFC 2782: a single record with the target "." says that the service is not offered.
        const offered = answer.services.filter(({ name }) => name !== "" && name !== ".");
        const ordered = orderServices(offered, this.#options.random, mostServices);
        const found = await Promise.all(
          ordered.map((record) => this.#addressesOf(record.name, record.port, answer.protocol, lookups)),
        );
        return found.flat();
      }
    }
    return this.#addressesOf(host, port ?? defaultPort(preferred), preferred, lookups);
  }

  async #addressesOf(name: string, port: number, protocol: Protocol, lookups: Lookups): Promise<ResolvedAddress[]> {
    const families = this.#options.families(protocol);
    const [ipv4, ipv6] = await Promise.all([
      families.includes(4) ? attempt(lookups.ipv4(name)) : [],
      families.includes(6) ? attempt(lookups.ipv6(name)) : [],
    ]);
    let addresses = [...ipv4, ...ipv6].map(({ address }) => address);
    if (addresses.length === 0) {
      addresses = [...(await attempt(lookups.local(name)))];
    }
    return addresses.map((address) => ({ protocol, address, port }));
  }

  /** What we can send to, each place once. */
  #usable(addresses: readonly ResolvedAddress[]): ResolveOutcome {
    const usable: ResolvedAddress[] = [];
    for (const one of addresses) {
      // Whoever owns a name may give it as many addresses as he likes.
      if (usable.length === mostAddresses) {
        break;
      }
      const family = isIP(one.address);
      const known = usable.some((other) => other.address === one.address && other.port === one.port);
      if ((family === 4 || family === 6) && this.#options.families(one.protocol).includes(family) && !known) {
        usable.push(one);
      }
    }
    return usable.length === 0 ? { ok: false, reason: "not_found" } : { ok: true, addresses: usable };
  }
}

function literalAddresses({ host, port, protocols }: ResolveRequest): ResolvedAddress[] | undefined {
  const [protocol] = protocols;
  const place = { protocol, port: port ?? defaultPort(protocol) };
  if (isIP(host) !== 0) {
    return [{ ...place, address: host }];
  }
  // RFC 6761 §6.3: `localhost` is the loopback address without asking anybody.
  return /^localhost\.?$/i.test(host)
    ? [
        { ...place, address: "127.0.0.1" },
        { ...place, address: "::1" },
      ]
    : undefined;
}

/** A name without records is an answer like any other: no addresses. */
async function attempt<T>(asked: Promise<readonly T[]>): Promise<readonly T[]> {
  try {
    return await asked;
  } catch {
    return [];
  }
}

/**
 * RFC 2782: lowest priority number first; within one priority at random, in proportion to the weights. No more than `most`,
 * because each takes a look at all the others.
 */
export function orderServices(records: readonly ServiceRecord[], random: Random, most = Infinity): ServiceRecord[] {
  const left = [...records].sort((a, b) => a.priority - b.priority || a.weight - b.weight);
  const ordered: ServiceRecord[] = [];
  while (left.length > 0 && ordered.length < most) {
    const priority = left[0]?.priority;
    const rivals = left.filter((record) => record.priority === priority);
    let ticket = random.integer(rivals.reduce((sum, record) => sum + record.weight, 0) + 1);
    const chosen = rivals.find((record) => {
      ticket -= record.weight;
      return ticket <= 0;
    });
    const next = chosen ?? rivals[0];
    if (next === undefined) {
      break;
    }
    ordered.push(next);
    left.splice(left.indexOf(next), 1);
  }
  return ordered;
}
