import type { InviteOrder } from "../call/effect.ts";
import { addressBits } from "../lib/ip-network.ts";
import type { LegContext } from "./leg.ts";
import { hostText, parseSipUri } from "./uri.ts";

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
  const bits = addressBits(host);
  const own = link
    .listening()
    .some((at) => at.port === (port ?? 5060) && bits !== undefined && addressBits(at.address)?.prefix === bits.prefix);
  if (own) {
    return "the target is this service itself";
  }
  const peer = directory.trunk(trunk);
  const gateways = peer?.gateways ?? [];
  const toGateway = gateways.some(
    (known) => hostText(known.host).toLowerCase() === host && [known.port ?? 5060, 5060, 5061].includes(port ?? 5060),
  );
  // Whoever is reached through a gateway may be a number in the telephone network, however it is written.
  if (toGateway || peer?.sipUriVia === "gateway") {
    const [number = ""] = (uri.user ?? "").split(";");
    const refusal = /^\+?[0-9*#]+$/.test(number) ? directory.numberRefusal(botId, trunk, number) : null;
    if (refusal !== null) {
      return refusal;
    }
  }
  return toGateway && gateway !== undefined ? null : directory.hostRefusal(botId, host, port);
}
