import { chooseIdentity } from "../call/identity.ts";
import type { CallerIdPolicy } from "../call/identity.ts";
import type { GatewayId, TrunkId } from "../call/ids.ts";
import type { CallerSounds, KeyPolicy } from "../call/setup.ts";
import type { Route } from "../call/transfer.ts";
import type { ChannelConfig, Config, TrunkConfig } from "../config/schema.ts";
import { addressBits } from "../lib/ip-network.ts";
import { Destinations } from "./destinations.ts";
import type { Refusal } from "./destinations.ts";
import { NetworkMatch } from "./network-match.ts";
import type { HealthRules } from "./gateway-health.ts";
import { drawnOrder } from "./gateway-order.ts";
import { dialledNumber } from "./number-rules.ts";

export interface Gateway {
  readonly id: GatewayId;
  readonly trunk: TrunkId;
  readonly host: string;
  /** Undefined: the transport's default port, and for a host name what DNS says. */
  readonly port: number | undefined;
  readonly transport: "udp" | "tcp" | "tls";
  readonly priority: number;
  readonly weight: number;
}

export interface Trunk {
  readonly id: TrunkId;
  readonly gateways: readonly Gateway[];
  /** What callers of this trunk must know; the password is not part of the table. */
  readonly inbound: {
    readonly username: string;
    readonly realm: string;
    readonly algorithms: readonly ("SHA-256" | "MD5")[];
  } | null;
  readonly outbound: { readonly username: string; readonly realm: string | null } | null;
  readonly policy: CallerIdPolicy;
  readonly fixedNumber: string | null;
  readonly assertedIdentity: boolean;
  readonly diversion: boolean;
  readonly identityHeaders: "allow" | "drop";
  readonly trustIdentity: boolean;
  readonly fromHost: string | null;
  readonly sipUriVia: "direct" | "gateway";
  readonly referFallback: boolean;
  readonly progressTimeoutMs: number;
  readonly maxCalls: number;
  /** Null: no limit. */
  readonly callsPerSecond: number | null;
  /** Interval of OPTIONS to each gateway; null: none are sent. */
  readonly qualifyMs: number | null;
  readonly health: HealthRules;
  /** Null: the trunk does not register. */
  readonly registration: { readonly user: string; readonly expiresSeconds: number } | null;
  readonly sessionExpiresSeconds: number | null;
  readonly keys: KeyPolicy;
}

/** A channel as it is configured. Where it has no `fallback`, the caller of a dead bot is hung up on. */
export interface Channel extends Omit<ChannelConfig, "trunk" | "sounds"> {
  readonly trunk: TrunkId;
  readonly sounds: CallerSounds;
}

/** Whose call an INVITE is, as far as its source address tells. */
export type Admission =
  /** The source belongs to a trunk; with `inbound` set it must give credentials as well. */
  | { readonly type: "trunk"; readonly trunk: Trunk }
  /** Anybody may try: the trunk is the one whose credentials he gives. All of `trunks` share the realm. */
  | { readonly type: "challenge"; readonly realm: string; readonly trunks: readonly Trunk[] }
  | { readonly type: "unknown" };

export interface RouteChoice {
  readonly route: Route;
  /** False when no channel has the name `transferChannel` asked for, so that the call's own trunk is taken. */
  readonly known: boolean;
  /** The trunk of the call, whose side gets a REFER whatever trunk an INVITE would take. */
  readonly ownTrunk: TrunkId;
  /** A REFER to the call's own trunk that fails is followed by an INVITE transfer. */
  readonly referFallback: boolean;
}

/** Which trunk and which channel a call belongs to and where its transfers go; pure, built once per configuration. */
export class TrunkTable {
  readonly #trunks = new Map<TrunkId, Trunk>();
  readonly #configs = new Map<TrunkId, TrunkConfig>();
  readonly #gateways = new Map<GatewayId, Gateway>();
  readonly #channels = new Map<string, { readonly channel: Channel; readonly destinations: Destinations }>();
  readonly #bySource: NetworkMatch<Trunk>;
  readonly #open: readonly Trunk[];

  /** `config` has passed the check of contradictions: ids are unique and every channel's trunk exists. */
  constructor(config: Pick<Config, "trunks" | "channels">) {
    const sources: { network: string; value: Trunk }[] = [];
    const open: Trunk[] = [];
    for (const entry of config.trunks) {
      const trunk = trunkOf(entry);
      this.#trunks.set(trunk.id, trunk);
      this.#configs.set(trunk.id, entry);
      for (const gateway of trunk.gateways) {
        this.#gateways.set(gateway.id, gateway);
      }
      sources.push(...entry.sources.map((network) => ({ network, value: trunk })));
      if (entry.sources.length === 0 && trunk.inbound !== null) {
        open.push(trunk);
      }
    }
    for (const entry of config.channels) {
      const { ringbackUrl = null, holdUrl = null, earlyMedia } = entry.sounds;
      const channel = { ...entry, trunk: entry.trunk as TrunkId, sounds: { ringbackUrl, holdUrl, earlyMedia } };
      this.#channels.set(entry.botId, { channel, destinations: new Destinations(entry.destinations) });
    }
    this.#bySource = new NetworkMatch(sources);
    this.#open = open;
  }

  /**
   * What the engine lets in: the sources of all trunks and the addresses of gateways that are IP literals (their
   * OPTIONS must be answered). `any` when some trunk tells its callers by credentials alone.
   */
  allowedSources(): readonly string[] | "any" {
    if (this.#open.length > 0) {
      return "any";
    }
    const all = [...this.#configs.values()].flatMap(({ sources, gateways }) => [
      ...sources,
      ...gateways.map(({ host }) => host).filter((host) => addressBits(host) !== undefined),
    ]);
    return [...new Set(all)];
  }

  /** Whose call an INVITE from this address is. */
  admit(address: string): Admission {
    const trunk = this.#bySource.find(address);
    if (trunk !== undefined) {
      return { type: "trunk", trunk };
    }
    const realm = this.#open[0]?.inbound?.realm;
    return realm === undefined ? { type: "unknown" } : { type: "challenge", realm, trunks: this.#open };
  }

  /** True for a gateway given as this IP address: it may ask whether we are there, but not call. */
  isGateway(address: string): boolean {
    const bits = addressBits(address);
    return (
      bits !== undefined &&
      [...this.#gateways.values()].some(({ host }) => {
        const known = addressBits(host);
        return known?.family === bits.family && known.prefix === bits.prefix;
      })
    );
  }

  trunks(): readonly Trunk[] {
    return [...this.#trunks.values()];
  }

  trunk(id: TrunkId): Trunk | undefined {
    return this.#trunks.get(id);
  }

  gateway(id: GatewayId): Gateway | undefined {
    return this.#gateways.get(id);
  }

  channel(botId: string): Channel | undefined {
    return this.#channels.get(botId)?.channel;
  }

  /** The channel that answers a called number: an exact number wins over a prefix, a longer prefix over a shorter one. */
  channelFor(trunk: TrunkId, called: string): Channel | undefined {
    const wanted = withoutPlus(called);
    let best: { readonly channel: Channel; readonly length: number } | undefined;
    for (const { channel } of this.#channels.values()) {
      if (channel.trunk !== trunk) {
        continue;
      }
      for (const pattern of channel.numbers.map(withoutPlus)) {
        const prefix = pattern.endsWith("*") ? pattern.slice(0, -1) : undefined;
        if (prefix === undefined ? pattern === wanted : wanted.startsWith(prefix)) {
          const length = prefix === undefined ? Number.POSITIVE_INFINITY : prefix.length;
          if (best === undefined || length > best.length) {
            best = { channel, length };
          }
        }
      }
    }
    return best?.channel;
  }

  /**
   * Where a transfer of this bot's call goes: through the trunk of the channel `transferChannel` names, else through the
   * call's own. `callerWithheld`: the caller asked for privacy or gave no number. `random` draws among gateways of the
   * same priority; its numbers go from 0 to below 1.
   */
  routeFor(
    botId: string,
    transferChannel: string | null,
    callerWithheld: boolean,
    random: () => number,
  ): RouteChoice | undefined {
    const own = this.#channels.get(botId);
    const wanted = transferChannel === null ? own : this.#channels.get(transferChannel);
    const trunk = this.#trunks.get((wanted ?? own)?.channel.trunk ?? ("" as TrunkId));
    const [first, ...others] = drawnOrder(trunk?.gateways ?? [], random);
    if (trunk === undefined || first === undefined) {
      return undefined;
    }
    const identity = chooseIdentity(trunk.policy, callerWithheld);
    const ownTrunk = this.#trunks.get(own?.channel.trunk ?? trunk.id) ?? trunk;
    return {
      known: wanted !== undefined,
      ownTrunk: ownTrunk.id,
      referFallback: ownTrunk.referFallback,
      route: {
        trunk: trunk.id,
        gateways: [first.id, ...others.map(({ id }) => id)],
        sipUriVia: trunk.sipUriVia,
        identity,
        retryWithBotNumber: identity === "caller",
        progressTimeoutMs: trunk.progressTimeoutMs,
        keys: trunk.keys,
      },
    };
  }

  /** The number as it is dialled on this trunk. */
  dialled(trunk: TrunkId, digits: string): string {
    const config = this.#configs.get(trunk);
    return config === undefined ? digits : dialledNumber(config.rules, digits);
  }

  /** How often and how long this bot may have operators called. */
  limits(botId: string): ChannelConfig["destinations"] | undefined {
    return this.#channels.get(botId)?.channel.destinations;
  }

  /** Why this bot may not call a number through a trunk; null when it may. */
  numberRefusal(botId: string, trunk: TrunkId, digits: string): Refusal {
    const country = this.#configs.get(trunk)?.rules.country ?? "";
    const destinations = this.#channels.get(botId)?.destinations;
    return destinations?.number(digits, this.dialled(trunk, digits), country) ?? null;
  }

  /** Why a bot may not name this host in a `sipUri`, nor a peer redirect its calls there; null when they may. */
  hostRefusal(botId: string, host: string, port: number | null): Refusal {
    const destinations = this.#channels.get(botId)?.destinations;
    return destinations === undefined ? "there is no such channel" : destinations.host(host, port);
  }

  /** Why a call of this bot may not go to an address that `host` resolves to; null when it may. */
  addressRefusal(botId: string, address: string, host: string): Refusal {
    const destinations = this.#channels.get(botId)?.destinations;
    return destinations === undefined ? "there is no such channel" : destinations.address(address, host);
  }

  /** Whether an operator may pass this bot's callers on by REFER. */
  takesRefer(botId: string): boolean {
    return this.#channels.get(botId)?.channel.operatorRefer === "accept";
  }

  /**
   * The bot's number on a trunk: on the call's own trunk that of its channel, else that of the trunk; where none is
   * configured the number that was called.
   */
  botNumber(botId: string, trunk: TrunkId, called: string): string {
    const channel = this.#channels.get(botId)?.channel;
    const config = this.#configs.get(trunk);
    const own = channel?.trunk === trunk ? channel.number : undefined;
    return own ?? config?.number ?? channel?.number ?? called;
  }
}

function withoutPlus(number: string): string {
  return number.startsWith("+") ? number.slice(1) : number;
}

function trunkOf(config: TrunkConfig): Trunk {
  const id = config.id as TrunkId;
  const { callerId, inbound, outbound } = config;
  const fixed = callerId === "auto" || callerId === "caller" || callerId === "bot" ? null : callerId;
  return {
    id,
    gateways: config.gateways.map(({ id: name, host, port, transport, priority, weight }, index) => ({
      id: (name ?? `${config.id}-${index + 1}`) as GatewayId,
      trunk: id,
      host,
      port,
      transport,
      priority: priority ?? index,
      weight,
    })),
    inbound:
      inbound === undefined
        ? null
        : { username: inbound.username, realm: inbound.realm, algorithms: inbound.algorithms },
    outbound: outbound === undefined ? null : { username: outbound.username, realm: outbound.realm ?? null },
    policy: {
      callerId: fixed === null ? (callerId as "auto" | "caller" | "bot") : { fixed },
      hasCredentials: outbound !== undefined || config.register,
      supportsForeignCallerId: config.supportsForeignCallerId,
    },
    fixedNumber: fixed,
    assertedIdentity: config.assertedIdentity,
    diversion: config.diversion,
    identityHeaders: config.identityHeaders,
    trustIdentity: config.trustIdentity,
    fromHost: config.fromHost ?? null,
    sipUriVia: config.sipUriVia,
    referFallback: config.refer === "fallback",
    progressTimeoutMs: config.progressTimeoutMs,
    maxCalls: config.maxCalls,
    callsPerSecond: config.callsPerSecond ?? null,
    qualifyMs: config.qualifyMs === 0 ? null : config.qualifyMs,
    health: { failures: config.gatewayFailures, retryMs: config.gatewayRetryMs, probed: config.qualifyMs !== 0 },
    registration: config.register
      ? { user: outbound?.username ?? config.number ?? "", expiresSeconds: config.registerExpiresSeconds }
      : null,
    sessionExpiresSeconds: config.sessionExpiresSeconds === 0 ? null : config.sessionExpiresSeconds,
    keys: { byInfo: config.dtmf.fallback === "info", detectTones: config.dtmf.detectTones },
  };
}
