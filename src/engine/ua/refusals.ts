import type { Dialog } from "../dialog/dialog.ts";
import { dialogIdOf } from "../dialog/dialog.ts";
import { sessionTooSmall } from "../dialog/session-timer.ts";
import { parseCSeq, uriScheme } from "../sip/grammar.ts";
import type { HeaderLine, SipRequest } from "../sip/message.ts";
import { standardMethods } from "../sip/message.ts";
import type { Core } from "./core.ts";
import { contactTarget, tagOf } from "./headers.ts";
import { callMethods } from "./subscriptions.ts";

/** Why a request is answered without any application seeing it. */
export interface Refusal {
  readonly status: number;
  readonly reason?: string;
  readonly lines?: readonly HeaderLine[];
}

/** Extensions whose `Require` is understood: 100rel is RFC 3262, timer RFC 4028. */
const supportedExtensions: ReadonlySet<string> = new Set(["100rel", "timer"]);

export const allow: HeaderLine = {
  name: "Allow",
  value: "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, MESSAGE, NOTIFY, PRACK, REFER, SUBSCRIBE, UPDATE",
};

export const busy: Refusal = { status: 503, lines: [{ name: "Retry-After", value: "5" }] };

const noUsableContact: Refusal = { status: 400, reason: "Usable Contact Required" };

/** What holds for every request, in the order of RFC 3261 §8.2. */
export function refusalOf({ method, uri, headers }: SipRequest): Refusal | undefined {
  const scheme = uriScheme(uri);
  // RFC 3261 §8.2.1: the method comes first. A method of no RFC may still be routed by an application.
  if (!standardMethods.has(method) && !/^[A-Z]+$/.test(method)) {
    return { status: 501, lines: [allow] };
  }
  // RFC 3261 §8.2.2.1.
  if (scheme !== "sip" && scheme !== "sips" && scheme !== "tel") {
    return { status: 416 };
  }
  // RFC 3261 §8.2.2.3: every extension of Require must be understood.
  const unsupported = headers
    .list("Require")
    .filter((extension) => extension !== "" && !supportedExtensions.has(extension.toLowerCase()));
  return unsupported.length === 0
    ? undefined
    : { status: 420, lines: [{ name: "Unsupported", value: unsupported.join(", ") }] };
}

/** What a request that would make a dialog has to have, and whether there is room for it. */
export function refusalOfNew(
  core: Core,
  request: SipRequest,
  ringing: ReadonlyMap<string, string>,
): Refusal | undefined {
  const { method, headers } = request;
  if (method !== "INVITE" && method !== "SUBSCRIBE") {
    return undefined;
  }
  const callId = headers.get("Call-ID") ?? "";
  const fromTag = tagOf(headers.get("From"));
  // What drachtio-srf cannot make a Dialog of is refused here: it would answer 200 and have no Dialog (pitfall 4).
  if (fromTag === undefined) {
    return { status: 400, reason: "From Tag Required" };
  }
  if (contactTarget(headers) === undefined) {
    return noUsableContact;
  }
  if (method === "SUBSCRIBE") {
    return undefined;
  }
  const session = refusalOfSession(core, request);
  if (session !== undefined) {
    return session;
  }
  if (core.dialogs.byId(dialogIdOf(callId, fromTag)) !== undefined) {
    return { status: 480, reason: "dialog already exists" };
  }
  // RFC 3261 §8.2.2.2 in spirit: a second INVITE of the same Call-ID while the first rings came over another path.
  if (ringing.has(callId)) {
    return { status: 482 };
  }
  return core.dialogs.size + ringing.size >= core.parts.limits.dialogs ? busy : undefined;
}

/** What is out of order in a dialog, or belongs to a call that is over. */
export function refusalInDialog(core: Core, dialog: Dialog, request: SipRequest): Refusal | undefined {
  const cseq = parseCSeq(request.headers.get("CSeq") ?? "");
  // RFC 3261 §12.2.2.
  if (cseq === undefined || (!dialog.acceptRemoteSeq(cseq.number) && !core.imitates("order"))) {
    return { status: 500, reason: "CSeq Out Of Order" };
  }
  // RFC 5057 §4.1: the call in this dialog is over, only subscriptions are left of it.
  return !dialog.hasCall && callMethods.has(request.method) ? { status: 481 } : undefined;
}

/**
 * Whether a re-INVITE or UPDATE has to be refused for what else is under way in its dialog. `awaitsAnswer`: our 2xx carried
 * an offer whose answer is to come in the ACK.
 */
export function refusalOfOffer(
  core: Core,
  dialog: Dialog,
  request: SipRequest,
  awaitsAnswer: boolean,
): Refusal | undefined {
  const { method, headers, body } = request;
  // RFC 3261 §15.1.1: our BYE has ended the media; RFC 5407 §3.2: crossing offers get 481, late NOTIFYs are let through.
  if (dialog.phase === "ending") {
    return { status: 481 };
  }
  if (headers.has("Contact") && contactTarget(headers) === undefined) {
    return noUsableContact;
  }
  const session = refusalOfSession(core, request);
  if (session !== undefined || core.imitates("glare")) {
    return session;
  }
  // In an early dialog an UPDATE is let through, because drachtio-srf answers it with the session it has.
  const offer = method === "INVITE" || (body.length > 0 && dialog.phase !== "early");
  // RFC 3261 §14.2, RFC 3311 §5.2: our own offer is still open. RFC 5407 §3.1.4: so is that of our 2xx.
  if (offer && (dialog.localInvite !== undefined || dialog.localUpdate !== undefined || awaitsAnswer)) {
    return { status: 491 };
  }
  // RFC 3261 §14.2: a second INVITE before the first has its final response; RFC 3311 §5.2 says the same of UPDATE.
  const open = method === "INVITE" ? dialog.remoteInvite : dialog.remoteUpdate;
  return open === undefined
    ? undefined
    : { status: 500, lines: [{ name: "Retry-After", value: String(core.parts.random.integer(11)) }] };
}

/** RFC 4028 §9: no application is asked about an interval that is too small. */
function refusalOfSession(core: Core, { headers }: SipRequest): Refusal | undefined {
  const { session } = core.parts.settings;
  return sessionTooSmall(headers, session)
    ? { status: 422, lines: [{ name: "Min-SE", value: String(session.minimumSeconds) }] }
    : undefined;
}
