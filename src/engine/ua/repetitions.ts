import { parseVias } from "../sip/grammar.ts";
import { Headers, SipResponse } from "../sip/message.ts";
import type { SipTimers } from "../timers.ts";
import type { IncomingRequest } from "./incoming.ts";
import { requires100rel } from "./reliable.ts";

/** A minute in units of T1, so that tests can run it fast like every other timer. */
const minuteT1 = 120;

/** RFC 3261 §13.3.1.4: a 2xx is repeated by the UAS core itself, from T1 doubling up to T2, until the ACK comes. */
export function repeatAnswer(
  incoming: IncomingRequest,
  response: SipResponse,
  timers: SipTimers,
  intervalMs: number = timers.t1Ms,
): void {
  const hops = incoming.request.headers.all("Via").flatMap((line) => parseVias(line) ?? []).length;
  // Over TCP or TLS without a proxy in between the first copy cannot be lost. Behind a proxy a later hop may be UDP.
  if (incoming.transaction.source.protocol !== "udp" && hops < 2) {
    return;
  }
  incoming.timers.start("2xx", intervalMs, () => {
    incoming.transaction.respond(response);
    repeatAnswer(incoming, response, timers, Math.min(2 * intervalMs, timers.t2Ms));
  });
}

/** RFC 3262 §3: repeated from T1 on, each time after twice as long, over every transport; 64*T1 is the end of it. */
export function repeatUntilPrack(
  incoming: IncomingRequest,
  response: SipResponse,
  timers: SipTimers,
  timedOut: () => void,
): void {
  const repeat = (intervalMs: number): void => {
    incoming.timers.start("1xx", intervalMs, () => {
      incoming.transaction.respond(response);
      repeat(2 * intervalMs);
    });
  };
  repeat(timers.t1Ms);
  incoming.timers.start("PRACK", timers.t64Ms, timedOut);
}

/** The PRACK came. */
export function stopReliable(incoming: IncomingRequest): void {
  incoming.timers.stop("1xx");
  incoming.timers.stop("PRACK");
}

/**
 * RFC 3261 §13.3.1.1: a non-100 response every minute, or a proxy on the way gives the INVITE up after three. A reliable
 * one is not sent twice under one number: it goes out again as an ordinary one, where the caller takes those at all.
 */
export function keepRinging(incoming: IncomingRequest, response: SipResponse, timers: SipTimers): void {
  if (requires100rel(incoming.request.headers)) {
    return;
  }
  const again = requires100rel(response.headers) ? unreliably(response) : response;
  incoming.timers.start("ringing", minuteT1 * timers.t1Ms, () => {
    incoming.transaction.respond(again);
    keepRinging(incoming, again, timers);
  });
}

function unreliably(response: SipResponse): SipResponse {
  const plain = new SipResponse(response.status, response.reason, new Headers(response.headers.lines));
  for (const name of ["Require", "RSeq", "Content-Type", "Content-Disposition"]) {
    plain.headers.remove(name);
  }
  return plain;
}

/** RFC 3262 §3: with the final response out, earlier ones are repeated no more; their PRACK is still taken. */
export function stopRinging(incoming: IncomingRequest): void {
  stopReliable(incoming);
  incoming.timers.stop("ringing");
}
