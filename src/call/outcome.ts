import type { TransferCause } from "./bot-event.ts";
import type { SipFailure } from "./event.ts";

/** What is tried after an attempt has failed. */
export type NextTry =
  /** The next gateway of the trunk, if one is left. */
  | "gateway"
  /** The same gateway with the bot's number, once, if the caller's was shown. */
  | "identity"
  /** The Contact of a 3xx, once, if the destination policy allows it. */
  | "redirect"
  | "nothing";

export interface Verdict {
  readonly cause: TransferCause;
  readonly next: NextTry;
}

const verdict = (cause: TransferCause, next: NextTry): Verdict => ({ cause, next });

/** Q.850 causes that say more than a general SIP status (RFC 3326, RFC 3398 §7.2.4.1). */
const byQ850: ReadonlyMap<number, Verdict> = new Map([
  [1, verdict("invalid_number", "nothing")],
  [17, verdict("busy", "nothing")],
  [18, verdict("unavailable", "nothing")],
  [19, verdict("unavailable", "nothing")],
  [20, verdict("unavailable", "nothing")],
  [21, verdict("rejected", "nothing")],
  [28, verdict("invalid_number", "nothing")],
  [34, verdict("trunk_failure", "gateway")],
  [38, verdict("trunk_failure", "gateway")],
  [41, verdict("trunk_failure", "gateway")],
  [42, verdict("trunk_failure", "gateway")],
]);

/** Statuses whose meaning a Q.850 cause cannot change: a busy or refusing operator is never dialled twice. */
const decided: ReadonlyMap<number, Verdict> = new Map([
  [401, verdict("auth_failed", "gateway")],
  [407, verdict("auth_failed", "gateway")],
  [403, verdict("callerid_rejected", "identity")],
  [433, verdict("callerid_rejected", "identity")],
  [438, verdict("callerid_rejected", "identity")],
  [607, verdict("callerid_rejected", "identity")],
  [608, verdict("callerid_rejected", "identity")],
  [415, verdict("media_incompatible", "gateway")],
  [488, verdict("media_incompatible", "gateway")],
  [606, verdict("media_incompatible", "gateway")],
  [486, verdict("busy", "nothing")],
  [600, verdict("busy", "nothing")],
  [603, verdict("rejected", "nothing")],
]);

const general: ReadonlyMap<number, Verdict> = new Map([
  [404, verdict("invalid_number", "nothing")],
  [410, verdict("invalid_number", "nothing")],
  [484, verdict("invalid_number", "nothing")],
  [485, verdict("invalid_number", "nothing")],
  [604, verdict("invalid_number", "nothing")],
  [480, verdict("unavailable", "nothing")],
]);

/** Statuses that mean something of their own, 3xx and 5xx apart. */
export const judgedStatuses: readonly number[] = [...decided.keys(), ...general.keys(), 408].toSorted((a, b) => a - b);

/**
 * From a SIP result to the cause the bot is told and to what is tried next (bot-contract §5).
 * `rang`: a 18x of this attempt was seen.
 */
export function judge(failure: SipFailure, rang: boolean): Verdict {
  const { status, q850, sipCause } = failure;
  if (failure.refused === true) return verdict("rejected", "nothing");
  if (status === null) return verdict("unreachable", "gateway");
  if (status >= 300 && status < 400) return verdict("rejected", "redirect");
  const fixed = decided.get(status);
  if (fixed !== undefined) return fixed;
  const refined = q850 === null ? undefined : byQ850.get(q850);
  if (refined !== undefined) return refined;
  // RFC 3326 §2: a proxy tells what the one behind it has said, who knows the operator better.
  const behind = sipCause === undefined ? undefined : (decided.get(sipCause) ?? general.get(sipCause));
  if (behind !== undefined) return behind;
  // A 487 we did not ask for comes from whoever gave up waiting for us: a proxy's timer C (RFC 3261 §16.8), or the engine's.
  if (status === 408 || status === 487)
    return rang ? verdict("no_answer", "nothing") : verdict("unreachable", "gateway");
  const known = general.get(status);
  if (known !== undefined) return known;
  // RFC 3261 §21.5: a 5xx is this server's failure, another one may succeed; §21.6: a 6xx holds everywhere.
  return status >= 500 && status < 600 ? verdict("trunk_failure", "gateway") : verdict("rejected", "nothing");
}
