import type { DialogEvents } from "./link/types.ts";
import { splitOutsideQuotes, unquote } from "./uri.ts";

/** What `Reason` headers say (RFC 3326). */
export interface Reason {
  /** Cause of the telephone network (ITU-T Q.850). */
  readonly q850: number | null;
  /** SIP status, in requests such as BYE and CANCEL. */
  readonly sip: number | null;
  readonly text: string | null;
}

export const noReason: Reason = { q850: null, sip: null, text: null };

/** Reads every `Reason` line of a message; the first value of a protocol counts, as RFC 3326 §2 allows only one each. */
export function parseReason(lines: readonly string[]): Reason {
  let { q850, sip, text } = noReason;
  for (const value of lines.flatMap((line) => splitOutsideQuotes(line, ","))) {
    const [protocol = "", ...params] = splitOutsideQuotes(value, ";").map((part) => part.trim());
    const cause = number(param(params, "cause"));
    switch (protocol.toUpperCase()) {
      case "Q.850":
        q850 ??= cause !== null && cause <= 127 ? cause : null;
        break;
      case "SIP":
        sip ??= cause !== null && cause >= 100 && cause <= 699 ? cause : null;
        break;
      default:
        continue;
    }
    text ??= param(params, "text");
  }
  return { q850, sip, text: text === null ? null : unquote(text).slice(0, 200) };
}

/** Why a dialog is over: what its peer's BYE says of it, or what the engine does. */
export function reasonOfEnd({ byPeer, text, headers }: Parameters<DialogEvents["ended"]>[0]): {
  readonly status: number | null;
  readonly reason: string | null;
  readonly q850: number | null;
} {
  if (!byPeer) return { status: null, reason: text, q850: null };
  const { q850, sip, text: reason } = parseReason(headers.headerLines("reason"));
  return { status: sip, reason, q850 };
}

/**
 * The value of a Reason header of our own. A BYE carries Q.850, which gateways pass on to the telephone network; a
 * CANCEL carries SIP 487, unless somebody else has answered, which is what `SIP;cause=200` tells phones (RFC 3326 §3.1).
 */
export function formatReason(protocol: "Q.850" | "SIP", cause: number, text: string): string {
  const clean = text
    .replaceAll(/[^\x20-\x7e]/g, " ")
    .replaceAll(/["\\]/g, "'")
    .slice(0, 200);
  return `${protocol};cause=${cause};text="${clean}"`;
}

function param(params: readonly string[], name: string): string | null {
  const found = params.find((entry) => entry.toLowerCase().startsWith(`${name}=`));
  return found === undefined ? null : found.slice(name.length + 1).trim();
}

function number(text: string | null): number | null {
  return text !== null && /^[0-9]{1,4}$/.test(text) ? Number(text) : null;
}
