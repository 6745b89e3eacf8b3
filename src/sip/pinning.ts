import type { InviteOrder } from "../call/effect.ts";
import type { CallId, LegId, TrunkId } from "../call/ids.ts";
import { addressBits } from "../lib/ip-network.ts";
import { isOurs, ourselves, sameHost } from "./destination.ts";
import type { SipGateway } from "./directory.ts";
import type { CallFacts, Leg, LegContext } from "./leg.ts";
import { formatSipUri, hostText, parseSipUri } from "./uri.ts";
import type { SipUri } from "./uri.ts";

/** One place a host name stands for, best first in a list (RFC 3263 §4). */
export interface ResolvedPlace {
  readonly transport: "udp" | "tcp" | "tls";
  readonly address: string;
  readonly port: number;
}

/** Asks DNS; never rejects, and gives nothing for a name that does not exist. */
export type HostResolver = (
  host: string,
  port: number | null,
  transport: ResolvedPlace["transport"] | null,
) => Promise<readonly ResolvedPlace[]>;

/** More places than this are not tried: each silent one costs the caller time. */
const mostPlaces = 3;

/**
 * The URI of an INVITE whose host name has to be resolved and judged before it is sent; undefined where there is none. What
 * goes where a number of the trunk would go is not judged: the configuration says to call there.
 */
export function uriToPin(
  { target, trunk }: Pick<InviteOrder, "target" | "trunk">,
  { directory }: Pick<LegContext, "directory">,
): SipUri | undefined {
  const peer = directory.trunk(trunk);
  if (target.kind !== "uri" || peer === undefined || peer.sipUriVia === "gateway") {
    return undefined;
  }
  const uri = parseSipUri(target.uri);
  return uri === undefined || addressBits(uri.host) !== undefined || peer.gateways.some((one) => leadsTo(uri, one))
    ? undefined
    : uri;
}

/**
 * Whether DNS is asked the same for this URI as for that gateway. Another port or transport of its host is another service,
 * and SRV records may put that anywhere.
 */
function leadsTo(uri: SipUri, { host, port, transport }: SipGateway): boolean {
  const asked = transportOf(uri);
  if (!sameHost(host, uri.host) || (asked ?? "udp") !== transport) {
    return false;
  }
  // Where the gateway names no port, the usual one on its host is no more than what DNS may answer for it.
  return uri.port === (port ?? null) || (port === undefined && uri.port === (transport === "tls" ? 5061 : 5060));
}

/** What the URI asks for; null where it leaves that open. */
function transportOf({ scheme, params }: SipUri): ResolvedPlace["transport"] | null {
  const wanted = params.get("transport")?.toLowerCase();
  if (scheme === "sips" || wanted === "tls") {
    return "tls";
  }
  return wanted === "tcp" || wanted === "udp" ? wanted : null;
}

export type PinOutcome =
  /** First hops to try in this order. */
  | { readonly ok: true; readonly proxies: readonly string[] }
  | { readonly ok: false; readonly refused: boolean; readonly reason: string };

/**
 * Resolves the host and judges every address it has. The INVITE then goes to what was judged and not to what another lookup
 * would give: a name whose owner changes its address in between leads nowhere else.
 */
export async function pin(
  uri: SipUri,
  botId: string,
  resolve: HostResolver,
  { directory, link }: Pick<LegContext, "directory"> & { readonly link: Pick<LegContext["link"], "listening"> },
): Promise<PinOutcome> {
  const places = await resolve(uri.host, uri.port, transportOf(uri));
  if (places.length === 0) {
    return { ok: false, refused: false, reason: "the host name cannot be resolved" };
  }
  const judge = ({ address, port }: ResolvedPlace): string | null =>
    isOurs(address, port, link) ? ourselves : directory.addressRefusal(botId, address, uri.host);
  const judged = places.map((place) => ({ place, refusal: judge(place) }));
  const allowed = judged.filter(({ refusal }) => refusal === null).map(({ place }) => place);
  if (allowed.length === 0) {
    return { ok: false, refused: true, reason: judged[0]?.refusal ?? "the host name cannot be resolved" };
  }
  return { ok: true, proxies: allowed.slice(0, mostPlaces).map((place) => proxyOf(place, uri)) };
}

function proxyOf({ address, port, transport }: ResolvedPlace, { host }: SipUri): string {
  if (transport === "tls") {
    // The certificate proves the name and SNI asks for it (RFC 5922 §4), so that it stays the host of the hop; RFC 3261
    // §19.1.1: `maddr` says where that is.
    const params = new Map([
      ["transport", transport],
      ["maddr", hostText(address)],
    ]);
    return formatSipUri({ scheme: "sip", user: null, host, port, params });
  }
  const params = transport === "udp" ? new Map<string, string>() : new Map([["transport", transport]]);
  return formatSipUri({ scheme: "sip", user: null, host: address, port, params });
}

/** An operator's leg whose host name is being looked up: nothing was sent yet. */
export class PendingLeg implements Leg {
  readonly id: LegId;
  readonly call: CallId;
  readonly trunk: TrunkId;
  readonly order: InviteOrder;
  readonly #context: LegContext;
  #over = false;

  constructor(order: InviteOrder, { call }: CallFacts, context: LegContext) {
    this.id = order.leg;
    this.call = call;
    this.trunk = order.trunk;
    this.order = order;
    this.#context = context;
  }

  /** True when the leg was given up while the name was looked up. */
  get over(): boolean {
    return this.#over;
  }

  talkedMs(): number {
    return 0;
  }

  cancel(): void {
    if (this.#over) {
      return;
    }
    this.#over = true;
    this.#context.release(this.id);
    const failure = { status: 487, reason: "cancelled before it was sent", q850: null, redirect: null };
    // The call that ordered this is still at work.
    queueMicrotask(() => this.#context.post(this.call, { type: "leg.failed", leg: this.id, ...failure }));
  }

  bye(): void {
    this.cancel();
  }

  reject(): void {
    this.cancel();
  }

  end(): void {
    this.cancel();
  }

  ring(): void {
    // Only an incoming INVITE rings.
  }

  accept(): void {
    // Only an incoming INVITE is accepted.
  }

  refer(): void {
    // A REFER goes to the caller's side only.
  }

  reinvite(): void {
    // There is no dialog yet.
  }

  press(): void {
    // There is no dialog yet.
  }

  answerRefer(): void {
    // There is no dialog yet.
  }

  notifyRefer(): void {
    // There is no dialog yet.
  }

  reanswer(): void {
    // There is no dialog yet.
  }

  refuse(): void {
    // There is no dialog yet.
  }
}
