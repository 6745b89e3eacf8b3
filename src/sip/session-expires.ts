import type { HeaderLine, ReceivedHeaders } from "./message.ts";

// RFC 4028 as this side has its part in it: we offer to refresh, so that a peer who vanishes without BYE is found out. The
// engine does the rest, with or without us.

/** The least interval that may be agreed on (RFC 4028 §4). */
const leastSeconds = 90;

/**
 * What an INVITE of ours offers. `seconds` null: no session timer. `leastAccepted`: what the peer's 422 asked for. A peer who
 * asks for passwords would ask for one at each refresh too, which the engine has not: there he is to refresh.
 */
export function offerSession(
  seconds: number | null,
  peerAsksForPassword: boolean,
  leastAccepted = leastSeconds,
): readonly HeaderLine[] {
  return seconds === null
    ? []
    : [
        {
          name: "Session-Expires",
          value: `${Math.max(seconds, leastAccepted)};refresher=${peerAsksForPassword ? "uas" : "uac"}`,
        },
        { name: "Min-SE", value: String(leastAccepted) },
        { name: "Supported", value: "timer" },
      ];
}

/** What our 200 says to a caller's INVITE. */
export function answerSession(seconds: number | null, invite: ReceivedHeaders): readonly HeaderLine[] {
  if (seconds === null) {
    return [];
  }
  const offered = invite.header("session-expires");
  // RFC 4028 §9: a refresher that the caller has named stays, and the engine says so by itself.
  if (offered !== undefined && /;\s*refresher\s*=/i.test(offered)) {
    return [];
  }
  const most = readSeconds(offered) ?? seconds;
  const least = readSeconds(invite.header("min-se")) ?? leastSeconds;
  return [
    { name: "Session-Expires", value: `${Math.max(least, Math.min(seconds, most))};refresher=uas` },
    { name: "Supported", value: "timer" },
  ];
}

/** The interval a peer asks for in its 422. Undefined where it names none that could be offered. */
export function leastAcceptedBy(reply: ReceivedHeaders): number | undefined {
  const least = readSeconds(reply.header("min-se"));
  return least === undefined || least < leastSeconds ? undefined : least;
}

function readSeconds(value: string | undefined): number | undefined {
  const digits = /^\s*(\d{1,9})\s*(?:;|$)/.exec(value ?? "")?.[1];
  return digits === undefined ? undefined : Number(digits);
}
