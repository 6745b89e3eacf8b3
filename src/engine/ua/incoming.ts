import type { Dialog } from "../dialog/dialog.ts";
import { dialogIdOf } from "../dialog/dialog.ts";
import { answerSession, writeAnswer } from "../dialog/session-timer.ts";
import type { SessionTerms } from "../dialog/session-timer.ts";
import type { ClientId } from "../events.ts";
import { responseTo } from "../sip/answer.ts";
import type { SipRequest, SipResponse } from "../sip/message.ts";
import type { TimerSet } from "../timers.ts";
import type { Core, Inbound } from "./core.ts";
import { asksForSecure, cleanAppHeaders, contactForHop, contactTarget, ensureContentType, tagOf } from "./headers.ts";
import type { AppMessage } from "./headers.ts";
import { offers100rel, requires100rel } from "./reliable.ts";
import type { ReliableAnswers } from "./reliable.ts";

/** A request from the network that an application has been given. */
export interface IncomingRequest {
  readonly txnId: string;
  readonly transaction: Inbound;
  readonly request: SipRequest;
  readonly callId: string;
  readonly seq: number;
  /** Undefined while it waits for an application. */
  owner: ClientId | undefined;
  /** How many applications were given it. One whose application died of it must not bring down all others too. */
  deliveries: number;
  /** Fixed by the first response that carries it: an application may choose it before. */
  localTag: string;
  tagSent: boolean;
  /** The dialog the request came in, or the one its responses made. */
  dialog: Dialog | undefined;
  readonly inDialog: boolean;
  /** `held` until the application answers at all, `accepted` after a 2xx to an INVITE until its ACK. */
  phase: "held" | "provisional" | "accepted";
  /** Our reliable provisional responses; undefined before the first of them. */
  reliable: ReliableAnswers | undefined;
  /** Responses of the application that wait for the PRACK of an earlier one. Each sends itself, or is refused. */
  readonly afterPrack: (() => void)[];
  /** What our 2xx says of the session timer; it takes effect when that goes out. */
  session: SessionTerms | undefined;
  readonly timers: TimerSet;
}

/** The complete response, or the text of the NOK. */
export function buildResponse(
  core: Core,
  incoming: IncomingRequest,
  message: AppMessage & { kind: "response" },
): SipResponse | string {
  const { request, transaction, dialog } = incoming;
  const { status } = message;
  const { network, settings } = core.parts;
  const response = responseTo(request, status, {
    ...(message.reason === "" ? {} : { reason: message.reason }),
    ...(status > 100 ? { toTag: incoming.localTag } : {}),
  });
  // RFC 3261 §12.1.1: copied into every response that can make a dialog.
  if (status > 100 && status < 300) {
    for (const value of request.headers.all("Record-Route")) {
      response.headers.add("Record-Route", value);
    }
  }
  for (const { name, value } of cleanAppHeaders(message.lines, network.localFor(transaction.source))) {
    // Of From, To, Call-ID and CSeq only the To tag is the application's to choose.
    if (!["From", "To", "Call-ID", "CSeq", "Timestamp"].includes(name)) {
      response.headers.add(name, value);
    }
  }
  const { method } = request;
  // RFC 4320 §4.1, §4.2: a 408 comes too late for whoever asked, and nothing but a final response helps him.
  if (method !== "INVITE" && ((status > 100 && status < 200) || status === 408)) {
    return `invalid response to ${method}`;
  }
  const forms = (method === "INVITE" || method === "UPDATE") && status > 100 && status < 300;
  // RFC 6665 §3.1.1, RFC 3515 §2.2: what makes a subscription says where its requests are to go.
  const subscribes = (method === "SUBSCRIBE" || method === "REFER") && status >= 200 && status < 300;
  if (forms || subscribes) {
    const own = response.headers.get("Contact");
    if (own === undefined) {
      response.headers.add(
        "Contact",
        dialog?.localContact ?? core.contactFor(transaction.source, asksForSecure(request)),
      );
    } else if (contactTarget(response.headers) === undefined) {
      return "invalid contact";
    } else {
      response.headers.set("Contact", contactForHop(own, message, transaction.source, asksForSecure(request)));
    }
  }
  if (settings.userAgent !== undefined && !response.headers.has("Server") && !response.headers.has("User-Agent")) {
    response.headers.add("Server", settings.userAgent);
  }
  if (status < 200 && requires100rel(response.headers)) {
    // RFC 3262 §3: never for a 100, and only where the peer said that it can.
    if (status === 100 || !offers100rel(request)) {
      return "Remote endpoint does not support 100rel";
    }
  } else if (method === "INVITE" && status > 100 && status < 200 && requires100rel(request.headers)) {
    // RFC 3262 §3: such a caller must get all of them reliably, whatever the application asks for.
    response.headers.add("Require", "100rel");
  }
  if ((method === "INVITE" || method === "UPDATE") && status >= 200 && status < 300) {
    const current = core.sessions.termsOf(dialog);
    incoming.session = answerSession(request.headers, response.headers, current, settings.session);
    writeAnswer(request.headers, response.headers, incoming.session);
  }
  response.body = message.body;
  if (!ensureContentType(response.headers, response.body)) {
    return incoming.inDialog ? "Server error: missing content-type" : "missing content-type";
  }
  return response;
}

/** drachtio gives the dialog id with responses that make a dialog or stand in one, and nowhere else. */
export function dialogIdFor(incoming: IncomingRequest, status: number): string | undefined {
  if (incoming.dialog !== undefined) {
    return incoming.dialog.id;
  }
  const fromTag = tagOf(incoming.request.headers.get("From"));
  return incoming.request.method === "INVITE" && status > 100 && fromTag !== undefined
    ? dialogIdOf(incoming.callId, fromTag)
    : undefined;
}
