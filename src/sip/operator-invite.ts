import { escapeUser, identityHeaders } from "../call/identity.ts";
import type { InviteOrder } from "../call/effect.ts";
import type { SipGateway, SipTrunk, TrunkDirectory } from "./directory.ts";
import { allowedMethods } from "./in-dialog.ts";
import type { CallFacts } from "./leg.ts";
import type { HeaderLine } from "./message.ts";
import type { ListenAddress } from "./srf.ts";
import { offerSession } from "./session-expires.ts";
import { formatNameAddr, formatSipUri, hostText, parseSipUri } from "./uri.ts";
import type { SipUri } from "./uri.ts";

// What an INVITE to an operator says and where it goes; sends nothing, so that `patchbay explain` shows the same.

export interface OperatorRoute {
  readonly uri: string;
  /** Whom we call, without the parameters that only say how to get there (RFC 3261 §8.1.1.2). */
  readonly to: string;
  /** Next hop where it is not the URI's own host. */
  readonly proxy: string | null;
  readonly viaGateway: boolean;
}

/** Where the INVITE goes: a number to the gateway, a URI to itself or with the gateway as next hop. */
export function operatorRoute(
  { target }: Pick<InviteOrder, "target">,
  trunk: SipTrunk,
  gateway: SipGateway,
  directory: Pick<TrunkDirectory, "dialled">,
): OperatorRoute | undefined {
  const uri =
    target.kind === "phone" ? gatewayUri(gateway, directory.dialled(trunk.id, target.digits)) : parseSipUri(target.uri);
  if (uri === undefined) {
    return undefined;
  }
  const byGateway = target.kind === "uri" && trunk.sipUriVia === "gateway";
  return {
    uri: formatSipUri(uri),
    to: formatSipUri({ ...uri, params: new Map() }),
    proxy: byGateway ? formatSipUri(gatewayUri(gateway, null)) : null,
    viaGateway: byGateway || target.kind === "phone",
  };
}

export interface OperatorInviteParts {
  readonly order: Omit<InviteOrder, "offer" | "leg">;
  readonly facts: Pick<CallFacts, "caller" | "botId" | "calledNumber">;
  readonly trunk: SipTrunk;
  readonly gateway: SipGateway;
  readonly route: OperatorRoute;
  readonly directory: Pick<TrunkDirectory, "botNumber" | "takesRefer">;
  /** Where the engine listens, as peers see it. */
  readonly listening: readonly ListenAddress[];
  /** We answer a challenge of this gateway. */
  readonly authenticates: boolean;
  /** The session interval that a 422 asked for. */
  readonly leastAccepted?: number | undefined;
}

/** RFC 3891 §6.2: says as well that an INVITE with Replaces may take the peer's place. */
export function supportingReplaces(lines: readonly HeaderLine[]): readonly HeaderLine[] {
  const isSupported = ({ name }: HeaderLine): boolean => name === "Supported";
  const tags = ["replaces", ...lines.filter(isSupported).map(({ value }) => value)];
  return [...lines.filter((line) => !isSupported(line)), { name: "Supported", value: tags.join(", ") }];
}

/** The headers we write; the engine adds Via, Call-ID, CSeq, Contact and the From tag, and our address for `localhost`. */
export function operatorHeaders(parts: OperatorInviteParts): readonly HeaderLine[] {
  const { order, facts, trunk, gateway, route, authenticates, leastAccepted } = parts;
  const takesRefer = parts.directory.takesRefer(facts.botId);
  const session = offerSession(trunk.sessionExpiresSeconds, authenticates, leastAccepted);
  const fromHost = fromHostOf(trunk, gateway);
  const { from, headers } = identityHeaders({
    identity: order.identity,
    caller: facts.caller,
    botNumber: parts.directory.botNumber(facts.botId, trunk.id, facts.calledNumber),
    fixedNumber: trunk.fixedNumber,
    assertedIdentity: trunk.assertedIdentity,
    diversion: trunk.diversion,
    identityHeaders: trunk.identityHeaders,
    host: fromHost ?? ownHost(parts.listening, gateway),
    custom: order.headers,
  });
  return [
    { name: "From", value: formatNameAddr(from.display, addressOf(from.user, from.host ?? fromHost ?? "localhost")) },
    { name: "To", value: `<${route.to}>` },
    // A phone offers its user a transfer only where REFER is allowed.
    { name: "Allow", value: takesRefer ? `${allowedMethods}, REFER` : allowedMethods },
    ...(takesRefer ? supportingReplaces(session) : session),
    ...headers,
  ];
}

/** Providers with passwords want their own name in From; elsewhere the engine puts our address for `localhost`. */
export function fromHostOf(trunk: SipTrunk, gateway: SipGateway): string | null {
  const registered = trunk.outbound !== null || trunk.registration !== null;
  return trunk.fromHost ?? (registered ? hostText(gateway.host) : null);
}

/** Our address as a peer of this gateway's transport sees it. */
export function ownHost(listening: readonly ListenAddress[], { transport }: Pick<SipGateway, "transport">): string {
  return (listening.find(({ protocol }) => protocol === transport) ?? listening[0])?.address ?? "localhost";
}

export function gatewayUri({ host, port, transport }: SipGateway, user: string | null): SipUri {
  const params = transport === "udp" ? new Map<string, string>() : new Map([["transport", transport]]);
  return { scheme: "sip", user, host, port: port ?? null, params };
}

function addressOf(user: string, host: string): string {
  return user === "" ? `sip:${host}` : `sip:${escapeUser(user)}@${host}`;
}
