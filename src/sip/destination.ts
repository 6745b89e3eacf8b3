import type { InviteOrder } from "../call/effect.ts";
import { addressBits } from "../lib/ip-network.ts";
import type { LegContext } from "./leg.ts";
import { hostText, parseSipUri } from "./uri.ts";
import type { SipUri } from "./uri.ts";

/**
 * Why this INVITE may not be sent, in words without a number; null when it may. Asked before every INVITE, so that neither
 * number rules nor a 3xx lead around the channel's destination policy.
 */
export function destinationRefusal(
  { target, trunk, gateway }: Pick<InviteOrder, "target" | "trunk" | "gateway">,
  botId: string,
  { directory, link }: Pick<LegContext, "directory" | "link">,
): string | null {
  if (target.kind === "phone") {
    return directory.numberRefusal(botId, trunk, target.digits);
  }
  const uri = parseSipUri(target.uri);
  if (uri === undefined) {
    return "the target is no SIP URI";
  }
  const { host, port } = uri;
  if (isOurs(host, port ?? (overTls(uri) ? 5061 : 5060), link)) {
    return ourselves;
  }
  const peer = directory.trunk(trunk);
  const gateways = peer?.gateways ?? [];
  const toGateway = gateways.some(
    (known) => hostText(known.host).toLowerCase() === host && [known.port ?? 5060, 5060, 5061].includes(port ?? 5060),
  );
  // Whoever is reached through a gateway, of whatever trunk, may be a number in the telephone network, however it is
  // written: RFC 3966 §5.1.1 has separators in it.
  const [user = ""] = (uri.user ?? "").split(";");
  const number = user.replaceAll(/[().-]/g, "");
  const through = directory.trunks().filter((known) => known.gateways.some((one) => sameHost(one.host, host)));
  const numberOf = peer?.sipUriVia === "gateway" ? [peer, ...through] : through;
  if (/^\+?[0-9*#]+$/.test(number)) {
    for (const { id } of numberOf) {
      const refusal = directory.numberRefusal(botId, id, number);
      if (refusal !== null) {
        return refusal;
      }
    }
  }
  return toGateway && gateway !== undefined ? null : directory.hostRefusal(botId, host, port);
}

export const ourselves = "the target is this service itself";

/** True where a request to this address would come back to us. */
export function isOurs(address: string, port: number, link: Pick<LegContext["link"], "listening">): boolean {
  const bits = addressBits(address);
  return (
    bits !== undefined &&
    link.listening().some((at) => at.port === port && addressBits(at.address)?.prefix === bits.prefix)
  );
}

function overTls({ scheme, params }: SipUri): boolean {
  return scheme === "sips" || params.get("transport")?.toLowerCase() === "tls";
}

export function sameHost(one: string, other: string): boolean {
  const [a, b] = [addressBits(one), addressBits(other)];
  if (a !== undefined || b !== undefined) return a?.prefix === b?.prefix;
  const plain = (host: string): string => host.toLowerCase().replace(/\.$/, "");
  return plain(one) === plain(other);
}
