import type { ChannelConfig } from "../config/schema.ts";
import { addressBits, networkContains, parseIpNetwork } from "../lib/ip-network.ts";
import type { IpNetwork } from "../lib/ip-network.ts";
import { numberClass, readings } from "./number-class.ts";

/** Why a destination is refused, as the bot and the log are told; holds no number. Null: it may be called. */
export type Refusal = string | null;

/** The numbers and SIP hosts one channel's bot may send callers to. Pure; built once per configuration. */
export class Destinations {
  readonly #config: ChannelConfig["destinations"];
  readonly #privateNetworks: readonly IpNetwork[];

  constructor(config: ChannelConfig["destinations"]) {
    this.#config = config;
    this.#privateNetworks = networks(config.privateNetworks);
  }

  /**
   * Judges a number. `digits` is what the bot asked for, `dialled` what the trunk's number rules made of it: a rule must
   * not turn a refused number into one that passes, nor the other way round. `country` is the trunk's calling code or "".
   */
  number(digits: string, dialled: string, country: string): Refusal {
    const { numbers } = this.#config;
    for (const text of [digits, dialled]) {
      const kind = numberClass(text, country);
      if (kind !== null && !numbers[kind]) {
        return `${kind} numbers are not called: allow them with \`destinations.numbers.${kind}\``;
      }
      if (numbers.deny.some((prefix) => begins(text, prefix, country))) {
        return "the channel's `destinations.numbers.deny` holds this number";
      }
    }
    const allowed =
      numbers.allow.length === 0 || numbers.allow.some((prefix) => matches(digits, dialled, prefix, country));
    return allowed ? null : "the channel's `destinations.numbers.allow` does not hold this number";
  }

  /**
   * Judges the host and the port of a SIP URI as they are written; asks no name server. `port` is null when the URI names
   * none. What a name resolves to is judged by `address`.
   */
  host(host: string, port: number | null): Refusal {
    const wanted = plainHost(host);
    const { sipHosts, deniedSipHosts } = this.#config;
    if (metadata.some((network) => holds(network, wanted))) return neverCalled;
    if (deniedSipHosts.some((pattern) => hostMatches(pattern, wanted, port, true))) {
      return "the channel's `destinations.deniedSipHosts` holds this host";
    }
    if (!sipHosts.some((pattern) => hostMatches(pattern, wanted, port, false))) {
      return "the channel's `destinations.sipHosts` does not hold this host with this port";
    }
    return null;
  }

  /**
   * Judges an address that a host of a SIP URI stands for. An address that the configuration lists itself is one it says
   * may be called; one behind a name must be public or lie in `privateNetworks`, because names are the target's to bend.
   */
  address(address: string, host: string): Refusal {
    const bits = addressBits(address);
    if (bits === undefined) return neverCalled;
    if (metadata.some((network) => networkContains(network, bits))) return neverCalled;
    if (addressBits(plainHost(host)) !== undefined) return null;
    const special = specialPurpose.some((network) => networkContains(network, bits));
    if (!special || this.#privateNetworks.some((network) => networkContains(network, bits))) return null;
    return "the host resolves to an address inside a private or special network: allow it with `destinations.privateNetworks`";
  }
}

const neverCalled = "this address is never called";

/** Ports of SIP peers; another one has to be listed, because a SIP request also reaches what is no SIP server. */
const sipPorts = { first: 5060, last: 5090 } as const;

/** `*.example.org`, `sip.example.org`, `[2001:db8::1]`, each with nothing, `:5070` or `:*` behind it. */
function hostMatches(pattern: string, host: string, port: number | null, anyPort: boolean): boolean {
  const [, name = "", wantedPort] = /^(\[[^\]]*\]|[^:]*|.*:.*:.*?)(?::(\d+|\*))?$/.exec(pattern) ?? [];
  const plain = plainHost(name);
  const named = plain.startsWith("*.")
    ? host.endsWith(plain.slice(1)) && host.length > plain.length - 1
    : sameHost(plain, host);
  if (!named) return false;
  if (wantedPort === undefined) return anyPort || port === null || (port >= sipPorts.first && port <= sipPorts.last);
  return wantedPort === "*" || Number(wantedPort) === (port ?? 5060);
}

function sameHost(one: string, other: string): boolean {
  if (one === other) return true;
  const [a, b] = [addressBits(one), addressBits(other)];
  return a !== undefined && b !== undefined && a.family === b.family && a.prefix === b.prefix;
}

function plainHost(host: string): string {
  return host
    .toLowerCase()
    .replace(/^\[|\]$/g, "")
    .replace(/\.$/, "");
}

/** For refusals: a prefix with `+` is looked for in every reading of the number, one without it at its front. */
function begins(text: string, prefix: string, country: string): boolean {
  if (!prefix.startsWith("+")) return text.replace(/^\+/, "").startsWith(prefix);
  const { explicit, guessed } = readings(text, country);
  return [...explicit, ...guessed].some((reading) => reading.startsWith(prefix.slice(1)));
}

/** For permissions: where the number may be an international one, each of these has to be allowed. */
function matches(digits: string, dialled: string, prefix: string, country: string): boolean {
  if (!prefix.startsWith("+")) return digits.startsWith(prefix) || dialled.startsWith(prefix);
  const begin = (reading: string): boolean => reading.startsWith(prefix.slice(1));
  const both = [readings(digits, country), readings(dialled, country)];
  const explicit = both.flatMap((one) => [...one.explicit]);
  return explicit.length > 0 ? explicit.every(begin) : both.some(({ guessed }) => [...guessed].some(begin));
}

function networks(texts: readonly string[]): readonly IpNetwork[] {
  return texts.flatMap((text) => parseIpNetwork(text) ?? []);
}

function holds(network: IpNetwork, host: string): boolean {
  const bits = addressBits(host);
  return bits !== undefined && networkContains(network, bits);
}

// Where clouds tell a machine its secrets: of no use to a caller, whatever the configuration says.
const metadata = networks(["169.254.169.254/32", "100.100.100.200/32", "fd00:ec2::254/128"]);

// RFC 6890 and its registries: addresses that mean something only inside a network, or nothing at all. The IPv6 ranges that
// carry an IPv4 address (RFC 6052, RFC 3056, RFC 4380) are refused whole.
const specialPurpose = networks([
  "0.0.0.0/8",
  "10.0.0.0/8",
  "100.64.0.0/10",
  "127.0.0.0/8",
  "169.254.0.0/16",
  "172.16.0.0/12",
  "192.0.0.0/24",
  "192.0.2.0/24",
  "192.88.99.0/24",
  "192.168.0.0/16",
  "198.18.0.0/15",
  "198.51.100.0/24",
  "203.0.113.0/24",
  "224.0.0.0/4",
  "240.0.0.0/4",
  "::/127",
  "64:ff9b::/96",
  "64:ff9b:1::/48",
  "100::/64",
  "2001::/23",
  "2001:db8::/32",
  "2002::/16",
  "fc00::/7",
  "fe80::/10",
  "ff00::/8",
]);
