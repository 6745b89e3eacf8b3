import { isIP } from "node:net";

import type { PeerConnection } from "../dialog/dialog.ts";
import type { SipUri } from "../sip/grammar.ts";
import { param, parseVias } from "../sip/grammar.ts";
import type { SipMessage } from "../sip/message.ts";
import type { Network, NextHop, Origin, Resolution } from "./core.ts";

/** The connection that a message of the peer's came over; undefined for what came over UDP. */
export function connectionOf(message: SipMessage, source: Origin): PeerConnection | undefined {
  const { protocol, address, port, local, connection, domain } = source;
  if (protocol === "udp" || connection === undefined) {
    return undefined;
  }
  // One Via: nobody forwarded the request. Of a response this cannot be told, every proxy has taken its own Via off.
  const direct =
    message.kind === "request" && message.headers.all("Via").flatMap((line) => parseVias(line) ?? []).length === 1;
  const hop = { protocol, address, port, local, connection, ...(domain === undefined ? {} : { domain }) };
  return { hop, direct };
}

/** The open connection of a peer for a request to that URI of his, if the URI does not ask for another transport. */
export function usableConnection(
  network: Network,
  connection: PeerConnection | undefined,
  uri: SipUri,
): PeerConnection | undefined {
  if (connection === undefined || !network.takesRequests(connection.hop.connection)) {
    return undefined;
  }
  const transport = param(uri.params, "transport")?.toLowerCase();
  const { protocol } = connection.hop;
  // RFC 5630 §3.1.2: a sips URI is served over TLS only, whose transport is TCP.
  const fits =
    uri.scheme === "sips"
      ? protocol === "tls" && transport !== "udp"
      : transport === undefined || transport === protocol;
  return fits ? connection : undefined;
}

/**
 * A TLS server that names itself by its address in the Contact need not have that address in its certificate. Where it is
 * the one that the dialog's connection led to, it has to be the same domain again (RFC 5922 §4).
 */
export function withKnownDomain(resolution: Resolution, connection: PeerConnection | undefined): Resolution {
  const known = connection?.hop;
  if (resolution.type !== "hops" || known?.domain === undefined) {
    return resolution;
  }
  const { domain, address, port } = known;
  const named = (hop: NextHop): NextHop =>
    hop.protocol === "tls" && hop.domain === undefined && hop.address === address && hop.port === port
      ? { ...hop, domain }
      : hop;
  const [first, ...rest] = resolution.hops;
  return { type: "hops", hops: [named(first), ...rest.map(named)] };
}

/**
 * Where a request inside a dialog goes when the peer has a connection open. RFC 3261 §18.1.1 and RFC 5923 let requests go
 * over it, and softphones and peers behind a NAT can be reached in no other way. The peer's URI is tried behind it.
 * Where a proxy may be at the other end, the URI decides as long as it can be reached: that proxy need not want to be part
 * of the dialog.
 */
export function overConnection(connection: PeerConnection, resolution: Resolution): Resolution {
  if (resolution.type === "noTransport") {
    return resolution;
  }
  const { hop, direct } = connection;
  if (resolution.type === "failed") {
    return { type: "hops", hops: [hop] };
  }
  const [first, ...rest] = resolution.hops;
  if (first.protocol === hop.protocol && first.address === hop.address && first.port === hop.port) {
    return { type: "hops", hops: [hop, ...rest] };
  }
  const behindNat = isPrivate(first.address) && !isPrivate(hop.address);
  const hops: readonly [NextHop, ...NextHop[]] = direct || behindNat ? [hop, first, ...rest] : [first, ...rest, hop];
  return { type: "hops", hops };
}

/** RFC 1918, RFC 3927, RFC 6598, RFC 4193, RFC 4291: addresses that mean nothing outside of the peer's own network. */
function isPrivate(address: string): boolean {
  return isIP(address) === 6
    ? /^(f[cd]|fe[89ab]|::1?$)/i.test(address)
    : /^(0|10|127|192\.168|169\.254|172\.(1[6-9]|2\d|3[01])|100\.(6[4-9]|[7-9]\d|1[01]\d|12[0-7]))\./.test(address);
}
