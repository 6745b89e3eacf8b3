import type { InviteOrder } from "../call/effect.ts";
import type { CallId, LegId, TrunkId } from "../call/ids.ts";
import { addressBits } from "../lib/ip-network.ts";
import { isOurs, ourselves } from "./destination.ts";
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

/** The URI of an INVITE whose host name has to be resolved and judged before it is sent; undefined where there is none. */
export function uriToPin({ target, trunk }: InviteOrder, { directory }: LegContext): SipUri | undefined {
  const peer = directory.trunk(trunk);
  if (target.kind !== "uri" || peer === undefined || peer.sipUriVia === "gateway") {
    return undefined;
  }
  const uri = parseSipUri(target.uri);
  const toGateway = peer.gateways.some(({ host }) => hostText(host).toLowerCase() === uri?.host);
  return uri === undefined || toGateway || addressBits(uri.host) !== undefined ? undefined : uri;
}

export type PinOutcome =
  /** First hops to try in this order. Empty over TLS: there the certificate proves the name, and needs it. */
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
  { directory, link }: Pick<LegContext, "directory" | "link">,
): Promise<PinOutcome> {
  const wanted = uri.params.get("transport")?.toLowerCase();
  const transport =
    uri.scheme === "sips" || wanted === "tls" ? "tls" : wanted === "tcp" || wanted === "udp" ? wanted : null;
  const places = await resolve(uri.host, uri.port, transport);
  if (places.length === 0) {
    return { ok: false, refused: false, reason: "the host name cannot be resolved" };
  }
  const judge = ({ address, port }: ResolvedPlace): string | null =>
    isOurs(address, port, link) ? ourselves : directory.addressRefusal(botId, address, uri.host);
  const judged = places.map((place) => ({ place, refusal: judge(place) }));
  const allowed = judged.filter(({ refusal }) => refusal === null).map(({ place }) => place);
  // Over TLS the engine looks the name up itself, so that all it may find has to be allowed.
  const [refused] = judged.filter(({ refusal }) => refusal !== null);
  if (allowed.length === 0 || (transport === "tls" && refused !== undefined)) {
    return { ok: false, refused: true, reason: refused?.refusal ?? "the host name cannot be resolved" };
  }
  if (transport === "tls") {
    return { ok: true, proxies: [] };
  }
  return { ok: true, proxies: allowed.slice(0, mostPlaces).map(proxyOf) };
}

function proxyOf({ address, port, transport }: ResolvedPlace): string {
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
