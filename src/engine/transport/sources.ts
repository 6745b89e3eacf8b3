import { BlockList, isIP } from "node:net";

import { parseDecimal } from "../sip/grammar.ts";

/** Thrown for an entry of the list that is neither an address nor a network: a mistake in the configuration. */
export class SourceError extends Error {
  readonly code = "EBADSOURCE";

  constructor(entry: string) {
    super(`"${entry}" is neither an IP address nor a network in CIDR notation`);
    this.name = "SourceError";
  }
}

/** An IPv4 address that a dual-stack socket wrote as `::ffff:a.b.c.d` is the IPv4 address. */
export function plainAddress(address: string): string {
  if (!address.includes(":")) {
    return address;
  }
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address);
  return mapped?.[1] ?? address;
}

/** One spelling for each IP address: IPv6 has many. Other texts come back as they are. */
export function canonicalAddress(address: string): string {
  if (isIP(address) !== 6) {
    return address;
  }
  const [bare = "", zone] = address.split("%");
  const canonical = new URL(`http://[${bare}]`).hostname.slice(1, -1);
  return zone === undefined ? canonical : `${canonical}%${zone}`;
}

/** Who may send requests. Immutable: a new list replaces the old one as a whole. */
export class Sources {
  readonly #allowed: BlockList | undefined;

  /** Throws `SourceError` for an entry that is no address and no network. */
  constructor(list: readonly string[] | "any") {
    if (list === "any") {
      return;
    }
    this.#allowed = new BlockList();
    for (const entry of list) {
      addEntry(this.#allowed, entry);
    }
  }

  /** Whether the list names that address, so that somebody vouches for it; with "any" nobody does. */
  names(address: string): boolean {
    return this.#allowed !== undefined && this.allows(address);
  }

  /** Whether packets from that address are listened to at all. */
  allows(address: string): boolean {
    if (this.#allowed === undefined) {
      return true;
    }
    const plain = plainAddress(address);
    const version = isIP(plain);
    return version !== 0 && this.#allowed.check(plain, version === 4 ? "ipv4" : "ipv6");
  }
}

function addEntry(list: BlockList, entry: string): void {
  const slash = entry.indexOf("/");
  const address = slash === -1 ? entry : entry.slice(0, slash);
  const version = isIP(address);
  if (version === 0) {
    throw new SourceError(entry);
  }
  const longest = version === 4 ? 32 : 128;
  const prefix = slash === -1 ? longest : parseDecimal(entry.slice(slash + 1), longest);
  if (prefix === undefined) {
    throw new SourceError(entry);
  }
  list.addSubnet(address, prefix, version === 4 ? "ipv4" : "ipv6");
}
