import { lookup, Resolver } from "node:dns/promises";
import { isIP } from "node:net";

import type { Cancellable, Clock, Random } from "../timers.ts";

/** One place to try, in the order in which they are to be tried. */
export interface ResolvedAddress {
  readonly address: string;
  readonly port: number;
}

export interface Lookups {
  /** IPv4 addresses of a name; rejects or resolves to none where there are none. */
  ipv4(name: string): Promise<readonly string[]>;
  ipv6(name: string): Promise<readonly string[]>;
  service(name: string): Promise<readonly ServiceRecord[]>;
  /** What the machine itself knows (its hosts file), asked when DNS has nothing. */
  local(name: string): Promise<readonly string[]>;
  /** Gives up everything that is still being asked. */
  cancel(): void;
}

export interface ServiceRecord {
  readonly name: string;
  readonly port: number;
  readonly priority: number;
  readonly weight: number;
}

export interface ResolveRequest {
  /** A host name, or an IP address without brackets. */
  readonly host: string;
  /** Given in the URI: then there is no SRV lookup (RFC 3263 §4.2). */
  readonly port?: number;
  readonly protocol: "udp" | "tcp";
  /** The address families we can send from. */
  readonly families: readonly (4 | 6)[];
}

export interface ResolveOptions {
  /** For all lookups of one request together, in milliseconds. */
  readonly timeoutMs?: number;
  readonly lookups?: () => Lookups;
  readonly clock: Clock;
  readonly random: Random;
}

export type ResolveOutcome =
  | { readonly ok: true; readonly addresses: readonly ResolvedAddress[] }
  | { readonly ok: false; readonly reason: "not_found" | "timeout" };

const defaultTimeoutMs = 2_000;
const sipPort = 5_060;
const mostServices = 10;
const mostAddresses = 20;

/** The machine's DNS servers, asked without occupying Node's few file-system threads. */
function systemLookups(): Lookups {
  const resolver = new Resolver({ timeout: defaultTimeoutMs, tries: 1 });
  return {
    ipv4: (name) => resolver.resolve4(name),
    ipv6: (name) => resolver.resolve6(name),
    service: (name) => resolver.resolveSrv(name),
    local: async (name) => (await lookup(name, { all: true })).map((found) => found.address),
    cancel: () => {
      resolver.cancel();
    },
  };
}

/** RFC 3263 §4: the addresses of a next hop, best first. Never rejects and never takes longer than its time limit. */
export async function resolveTargets(request: ResolveRequest, options: ResolveOptions): Promise<ResolveOutcome> {
  const literal = literalAddress(request);
  if (literal !== undefined) {
    return literal;
  }
  const lookups = (options.lookups ?? systemLookups)();
  let timer: Cancellable | undefined;
  const timeout = new Promise<ResolveOutcome>((resolve) => {
    timer = options.clock.after(options.timeoutMs ?? defaultTimeoutMs, () => {
      resolve({ ok: false, reason: "timeout" });
    });
  });
  try {
    return await Promise.race([search(request, lookups, options.random), timeout]);
  } finally {
    timer?.cancel();
    lookups.cancel();
  }
}

function literalAddress(request: ResolveRequest): ResolveOutcome | undefined {
  const port = request.port ?? sipPort;
  const version = isIP(request.host);
  if (version !== 0) {
    return found([{ address: request.host, port }], request);
  }
  // RFC 6761 §6.3: `localhost` is the loopback address without asking anybody.
  if (/^localhost\.?$/i.test(request.host)) {
    return found(
      [
        { address: "127.0.0.1", port },
        { address: "::1", port },
      ],
      request,
    );
  }
  return undefined;
}

function found(addresses: readonly ResolvedAddress[], request: ResolveRequest): ResolveOutcome {
  const usable: ResolvedAddress[] = [];
  for (const one of addresses) {
    const family = isIP(one.address);
    const known = usable.some((other) => other.address === one.address && other.port === one.port);
    if ((family === 4 || family === 6) && request.families.includes(family) && !known) {
      usable.push(one);
    }
  }
  return usable.length === 0
    ? { ok: false, reason: "not_found" }
    : { ok: true, addresses: usable.slice(0, mostAddresses) };
}

async function search(request: ResolveRequest, lookups: Lookups, random: Random): Promise<ResolveOutcome> {
  if (request.port === undefined) {
    const services = await attempt(lookups.service(`_sip._${request.protocol}.${request.host}`));
    // RFC 2782: a single record with the target "." says that the service is not offered.
    const offered = services.filter((record) => record.name !== "" && record.name !== ".");
    if (services.length > 0) {
      const ordered = orderServices(offered, random).slice(0, mostServices);
      const addresses = await Promise.all(
        ordered.map(async (record) => addressesOf(record.name, record.port, request, lookups)),
      );
      return found(addresses.flat(), request);
    }
  }
  return found(await addressesOf(request.host, request.port ?? sipPort, request, lookups), request);
}

async function addressesOf(
  name: string,
  port: number,
  request: ResolveRequest,
  lookups: Lookups,
): Promise<ResolvedAddress[]> {
  const [ipv4, ipv6] = await Promise.all([
    request.families.includes(4) ? attempt(lookups.ipv4(name)) : [],
    request.families.includes(6) ? attempt(lookups.ipv6(name)) : [],
  ]);
  let addresses = [...ipv4, ...ipv6];
  if (addresses.length === 0) {
    addresses = [...(await attempt(lookups.local(name)))];
  }
  return addresses.map((address) => ({ address, port }));
}

/** A name without records is an answer like any other: no addresses. */
async function attempt<T>(asked: Promise<readonly T[]>): Promise<readonly T[]> {
  try {
    return await asked;
  } catch {
    return [];
  }
}

/** RFC 2782: lowest priority number first; within one priority at random, in proportion to the weights. */
function orderServices(records: readonly ServiceRecord[], random: Random): ServiceRecord[] {
  const left = [...records].sort((a, b) => a.priority - b.priority || a.weight - b.weight);
  const ordered: ServiceRecord[] = [];
  while (left.length > 0) {
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
