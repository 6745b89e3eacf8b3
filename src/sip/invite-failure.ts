import type { InviteOrder } from "../call/effect.ts";
import type { SipFailure } from "../call/event.ts";
import { destinationRefusal } from "./destination.ts";
import type { LegContext } from "./leg.ts";
import { SipFault } from "./link/fault.ts";
import type { Reply } from "./link/types.ts";
import { parseReason } from "./reason.ts";
import { formatSipUri, parseNameAddr, parseSipUri, splitOutsideQuotes } from "./uri.ts";

interface SentOrder {
  readonly order: InviteOrder;
  readonly botId: string;
  /** A gateway of the trunk was asked, and not somebody whom a URI names. */
  readonly viaGateway: boolean;
  readonly context: LegContext;
}

/** What the refusal of an INVITE of ours says; a gateway that asks for rest gets it. */
export function failureOf(result: Reply | SipFault, sent: SentOrder): SipFailure {
  if (result instanceof SipFault) {
    const status = result.code === "cancelled" ? 487 : null;
    return { status, reason: result.message, q850: null, redirect: null };
  }
  const rest = sent.viaGateway && result.status >= 500 && result.status < 600 ? retryAfterMs(result) : null;
  if (rest !== null) {
    sent.context.onRetryAfter(sent.order.gateway, rest);
  }
  const { q850, sip } = parseReason(result.headerLines("reason"));
  return {
    status: result.status,
    reason: result.reason,
    q850,
    ...(sip === null ? {} : { sipCause: sip }),
    redirect: result.status >= 300 && result.status < 400 ? redirectOf(result, sent) : null,
  };
}

/** RFC 3261 §8.1.3.4: the first Contact of a 3xx that the bot's destinations or the trunk's gateways allow, built anew. */
function redirectOf(reply: Reply, { order, botId, context }: SentOrder): string | null {
  const contacts = reply
    .headerLines("contact")
    .flatMap((line) => splitOutsideQuotes(line, ","))
    .slice(0, 10);
  for (const contact of contacts) {
    const uri = parseSipUri(parseNameAddr(contact)?.uri ?? "");
    if (uri === undefined || uri.scheme !== "sip" || uri.user === null) {
      continue;
    }
    const target = { kind: "uri", uri: formatSipUri(uri) } as const;
    if (destinationRefusal({ ...order, target }, botId, context) === null) {
      const transport = uri.params.get("transport")?.toLowerCase();
      const params =
        transport === "tcp" || transport === "udp" ? new Map([["transport", transport]]) : new Map<string, string>();
      return formatSipUri({ ...uri, params });
    }
  }
  return null;
}

/** RFC 3261 §20.33: seconds, before a comment and parameters that do not matter here. */
function retryAfterMs(reply: Reply): number | null {
  const seconds = /^\s*(\d{1,9})\b/.exec(reply.header("retry-after") ?? "")?.[1];
  return seconds === undefined || Number(seconds) === 0 ? null : Number(seconds) * 1000;
}
