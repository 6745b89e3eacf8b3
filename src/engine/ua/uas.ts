import { Dialog, uasDialogState } from "../dialog/dialog.ts";
import type { ClientId, SipCommand } from "../events.ts";
import { responseTo } from "../sip/answer.ts";
import { parseCSeq } from "../sip/grammar.ts";
import { Headers, standardMethods } from "../sip/message.ts";
import type { SipRequest, SipResponse } from "../sip/message.ts";
import { cancelFor } from "../txn/client.ts";
import { connectionOf } from "./connection.ts";
import type { Core, Inbound, Origin } from "./core.ts";
import { parseAppMessage, tagOf, textForApp } from "./headers.ts";
import type { AppMessage } from "./headers.ts";
import { buildResponse, dialogIdFor } from "./incoming.ts";
import type { IncomingRequest } from "./incoming.ts";
import type { IncomingRequests } from "./pending.ts";
import { allow, busy, refusalInDialog, refusalOf, refusalOfNew, refusalOfOffer } from "./refusals.ts";
import type { Refusal } from "./refusals.ts";
import { parseRAck, ReliableAnswers, requires100rel } from "./reliable.ts";
import { keepRinging, repeatAnswer, repeatUntilPrack, stopReliable, stopRinging } from "./repetitions.ts";
import { followSubscription, targetRefreshes } from "./subscriptions.ts";

/** What a UAS needs of the client half, for requests and responses that concern the dialog as a whole. */
export interface ClientHalf {
  /** Sends a BYE of the engine's own and tells the application by an unsolicited BYE. */
  byeFromEngine(dialog: Dialog, reason: string): void;
  /**
   * Keeps a NOTIFY that came before the answer to the SUBSCRIBE it belongs to; `run` takes it up behind that answer. False
   * when there is no such SUBSCRIBE.
   */
  holdNotify(callId: string, localTag: string, run: () => void): boolean;
  /** Whether an INVITE of ours with that tag has no final response yet. */
  isInviting(callId: string, localTag: string): boolean;
  /** Our INVITE in that dialog is over because the dialog is: its application gets a 487. */
  interruptInvite(dialog: Dialog): void;
}

/** Methods that are refused 481 when they carry a To tag that no dialog has; others count as new requests (§2.4). */
const dialogOnlyMethods: ReadonlySet<string> = new Set(["INVITE", "BYE", "UPDATE", "REFER", "PRACK", "SUBSCRIBE"]);

/** Responses to one INVITE that may wait for a PRACK. */
const mostWaitingAnswers = 16;

const unknownTransaction = "Response not sent due to unknown transaction";

/** The server half of the user agent: requests from the network, and the applications' answers to them. */
export class Uas {
  readonly #core: Core;
  readonly #client: ClientHalf;
  readonly #requests: IncomingRequests;
  #draining = false;
  #closing = false;

  constructor(core: Core, requests: IncomingRequests, client: ClientHalf) {
    this.#core = core;
    this.#requests = requests;
    this.#client = client;
  }

  onRequest(transaction: Inbound): void {
    this.#core.parts.counters.add("requestsIn");
    this.#takeSafely(transaction);
  }

  /** A fault of ours is answered: without that an INVITE would be proceeding for ever. */
  #takeSafely(transaction: Inbound): void {
    try {
      this.#take(transaction);
    } catch (error) {
      this.#core.parts.log.error("a request could not be served", { error });
      const incoming = this.#requests.of(transaction);
      if (incoming === undefined) {
        this.#answer(transaction, 500);
      } else {
        this.#requests.finish(incoming, responseTo(incoming.request, 500, { toTag: incoming.localTag }));
      }
    }
  }

  #take(transaction: Inbound): void {
    const { request } = transaction;
    const { limits } = this.#core.parts;
    const callId = request.headers.get("Call-ID") ?? "";
    const fromTag = tagOf(request.headers.get("From"));
    const toTag = tagOf(request.headers.get("To"));
    const refusal = refusalOf(request);
    if (refusal !== undefined) {
      this.#refuse(transaction, refusal);
      return;
    }
    // A BYE is served even then: it makes room.
    if ((this.#closing || this.#requests.size >= limits.pendingRequests) && request.method !== "BYE") {
      this.#refuse(transaction, busy);
      return;
    }
    if (toTag !== undefined) {
      const dialog = fromTag === undefined ? undefined : this.#core.dialogs.byTags(callId, toTag, fromTag);
      if (dialog !== undefined) {
        this.#inDialog(transaction, dialog);
        return;
      }
      if (request.method === "NOTIFY" && this.#client.holdNotify(callId, toTag, () => this.#takeSafely(transaction))) {
        return;
      }
      // RFC 5407 §3.1.5: it has overtaken the 2xx to our INVITE, and 481 would tell the peer that there is no call.
      const offers = request.method === "INVITE" || request.method === "UPDATE";
      if (offers && this.#client.isInviting(callId, toTag)) {
        this.#answer(transaction, 491);
        return;
      }
      if (dialogOnlyMethods.has(request.method)) {
        this.#answer(transaction, 481);
        return;
      }
    }
    if (request.method === "PRACK") {
      this.#answer(transaction, 481);
      return;
    }
    this.#newRequest(transaction);
  }

  #newRequest(transaction: Inbound): void {
    const { request } = transaction;
    const { counters, events, log } = this.#core.parts;
    const refusal =
      this.#draining && request.method === "INVITE" ? busy : refusalOfNew(this.#core, request, this.#requests.ringing);
    if (refusal !== undefined) {
      this.#refuse(transaction, refusal);
      return;
    }
    const incoming = this.#requests.hold(transaction, undefined);
    if (events.dial !== undefined) {
      events.dial((client) => this.#requests.offered(incoming, client));
      return;
    }
    if (this.#requests.assign(incoming)) {
      return;
    }
    const verb = request.method.toLowerCase();
    if (this.#core.ownership.expects(verb)) {
      this.#requests.wait(incoming);
      return;
    }
    this.#requests.forget(incoming);
    counters.add("requestsUnrouted");
    log.info("no application takes this request", { verb });
    if (request.method === "REFER") {
      if (this.#core.imitates("refer")) {
        transaction.abandon();
        return;
      }
      // RFC 3261 §21.4.6: REAL discards such a REFER without an answer.
      this.#refuse(transaction, { status: 405, lines: [allow] });
      return;
    }
    const isStandard = standardMethods.has(request.method);
    this.#refuse(transaction, isStandard ? { status: 503 } : { status: 501, lines: [allow] });
  }

  #inDialog(transaction: Inbound, dialog: Dialog): void {
    const { request } = transaction;
    const { method } = request;
    const disorder = refusalInDialog(this.#core, dialog, request);
    if (disorder !== undefined) {
      this.#refuse(transaction, disorder);
      return;
    }
    // A peer whose connection broke comes back on another one.
    dialog.connection = connectionOf(request, transaction.source) ?? dialog.connection;
    if (method === "BYE") {
      this.#bye(transaction, dialog);
      return;
    }
    // RFC 3262 §3: a PRACK that matches no response still waiting for one.
    if (method === "PRACK" && dialog.reliable?.acknowledge(parseRAck(request.headers.get("RAck"))) !== true) {
      this.#answer(transaction, 481);
      return;
    }
    const pracked = method === "PRACK" ? this.#requests.pracked(dialog) : undefined;
    if (pracked !== undefined) {
      stopReliable(pracked);
    }
    if (method === "INVITE" || method === "UPDATE") {
      const glare = refusalOfOffer(this.#core, dialog, request, this.#awaitsAnswer(dialog));
      if (glare !== undefined) {
        this.#refuse(transaction, glare);
        return;
      }
    }
    if (this.#core.ownership.ownerOf(dialog) === undefined) {
      if (this.#core.imitates("orphans")) {
        this.#answer(transaction, 481);
        return;
      }
      if (method === "OPTIONS") {
        this.#answer(transaction, 200);
        return;
      }
    }
    const incoming = this.#requests.hold(transaction, dialog);
    if (!this.#requests.assign(incoming)) {
      this.#requests.wait(incoming);
    }
  }

  /** Whether an INVITE without an offer has got our 2xx, and its ACK is still to come. */
  #awaitsAnswer(dialog: Dialog): boolean {
    return [...dialog.awaitingAck].some((txnId) => this.#requests.get(txnId)?.request.body.length === 0);
  }

  #bye(transaction: Inbound, dialog: Dialog): void {
    const invite = this.#requests.get(dialog.remoteInvite);
    const early = dialog.phase === "early";
    this.#client.interruptInvite(dialog);
    // RFC 3261 §15.1.2: requests of this dialog that are still open get a 487.
    this.#requests.endPending(dialog);
    this.#core.endCall(dialog);
    if (this.#core.ownership.ownerOf(dialog) === undefined && this.#core.imitates("orphans")) {
      this.#answer(transaction, 481);
      return;
    }
    if (early) {
      // RFC 3261 §15: the caller may end an early dialog by BYE. drachtio-srf has no Dialog yet and would answer 404; the
      // application learns of it as of a CANCEL, which is what it means.
      this.#answer(transaction, 200);
      if (invite !== undefined) {
        this.#requests.deliverCancel(invite, cancelFor(invite.request, new Headers()), transaction.source);
      }
      return;
    }
    const incoming = this.#requests.hold(transaction, dialog);
    if (!this.#requests.assign(incoming)) {
      this.#requests.keepBye(incoming, dialog.orphanOf ?? "");
    }
  }

  /** `cancels` is the key of the INVITE transaction that the CANCEL belongs to. */
  onCancel(transaction: Inbound, cancels: Inbound | undefined): void {
    const { request } = transaction;
    this.#core.parts.counters.add("requestsIn");
    const incoming = cancels === undefined ? undefined : this.#requests.of(cancels);
    if (cancels === undefined || incoming?.phase === "accepted") {
      // RFC 3261 §9.2: nothing to cancel. After a 2xx the caller has to ACK and send BYE; timer H takes care if it does not.
      this.#answer(transaction, 481);
      return;
    }
    // RFC 3261 §9.2: the To tag is the one of the INVITE's response.
    const toTag = incoming?.localTag ?? this.#core.newTag();
    transaction.respond(responseTo(request, 200, { toTag }));
    if (incoming === undefined) {
      // Already answered finally: RFC 3261 §9.2, the CANCEL has no effect any more.
      return;
    }
    this.#requests.finish(incoming, responseTo(incoming.request, 487, { toTag }));
    this.#requests.deliverCancel(incoming, request, transaction.source);
  }

  onAck(request: SipRequest, source: Origin): void {
    const { counters, events, random } = this.#core.parts;
    const callId = request.headers.get("Call-ID") ?? "";
    const localTag = tagOf(request.headers.get("To"));
    const remoteTag = tagOf(request.headers.get("From"));
    const cseq = parseCSeq(request.headers.get("CSeq") ?? "");
    const dialog =
      localTag === undefined || remoteTag === undefined
        ? undefined
        : this.#core.dialogs.byTags(callId, localTag, remoteTag);
    const incoming = dialog === undefined ? undefined : this.#acknowledged(dialog, cseq?.number);
    if (dialog === undefined || incoming === undefined) {
      // RFC 3261 §17.1.1.3: nothing is ever sent in answer to an ACK. Repeated ACKs end here too.
      counters.add("acksUnmatched");
      return;
    }
    this.#requests.forget(incoming);
    const owner = this.#core.ownership.ownerOf(dialog);
    if (owner !== undefined) {
      events.deliver(owner, {
        source: "network",
        peer: source,
        txnId: random.uuid(),
        dialogId: dialog.id,
        get message() {
          return textForApp(request);
        },
      });
    }
    if (dialog.awaitingAck.size === 0) {
      dialog.releaseHeld();
    }
  }

  #acknowledged(dialog: Dialog, seq: number | undefined): IncomingRequest | undefined {
    for (const txnId of dialog.awaitingAck) {
      const incoming = this.#requests.get(txnId);
      if (incoming !== undefined && incoming.seq === seq) {
        return incoming;
      }
    }
    return undefined;
  }

  respond(command: SipCommand, txnId: string): void {
    const incoming = this.#requests.get(txnId);
    // What waited for a PRACK is tried again later, and was said by one who cannot be in the call if he is gone by then.
    if (incoming === undefined || !this.#core.parts.events.isConnected(command.client)) {
      this.#core.refuse(command, unknownTransaction);
      return;
    }
    const outcome = parseAppMessage(command.sip);
    if (!outcome.ok || outcome.message.kind !== "response") {
      this.#core.refuse(command, outcome.ok ? "invalid start line" : outcome.text);
      return;
    }
    if (incoming.phase === "accepted") {
      this.#core.refuse(command, "final response already sent");
      return;
    }
    const { message } = outcome;
    this.#chooseTag(incoming, message);
    const built = buildResponse(this.#core, incoming, message);
    if (typeof built === "string") {
      this.#core.refuse(command, built);
      return;
    }
    if (incoming.reliable?.delays(built) === true) {
      if (incoming.afterPrack.length >= mostWaitingAnswers) {
        this.#core.refuse(command, "too many responses wait for a PRACK");
        return;
      }
      incoming.afterPrack.push(() => {
        this.respond(command, txnId);
      });
      return;
    }
    const refusal = this.#formDialog(incoming, built, command.client);
    if (refusal !== undefined) {
      this.#core.refuse(command, refusal);
      return;
    }
    if (!this.#send(incoming, built)) {
      this.#core.refuse(command, "transport for response has been shutdown or closed");
      return;
    }
    const { dialog } = incoming;
    if (dialog !== undefined && dialog.phase !== "ended") {
      this.#core.ownership.adopt(dialog, command.client);
    }
    this.#requests.taken(incoming, command.client);
    this.#core.parts.counters.add("responsesOut");
    this.#core.reply(command, {
      type: "sent",
      kind: "response",
      peer: incoming.transaction.source,
      txnId,
      dialogId: dialogIdFor(incoming, built.status),
      get message() {
        return textForApp(built);
      },
    });
  }

  takeNoMore(): void {
    this.#draining = true;
  }

  /** Answers what no application has answered yet and takes nothing new, because the engine is about to close. */
  endAll(): void {
    this.#closing = true;
    this.#requests.answerAll();
  }

  /** drachtio-srf may bring a To tag of its own; once a tag went out it is fixed (RFC 3261 §8.2.6.2). */
  #chooseTag(incoming: IncomingRequest, message: AppMessage): void {
    if (incoming.tagSent) {
      return;
    }
    const to = message.lines.find((line) => line.name.toLowerCase() === "to" || line.name === "t");
    const tag = tagOf(to?.value);
    if (tag !== undefined && tag.length <= 256) {
      incoming.localTag = tag;
    }
  }

  /** Makes, confirms or drops the dialog that a response to an INVITE stands for. Returns the text of a NOK. */
  #formDialog(incoming: IncomingRequest, response: SipResponse, client: ClientId): string | undefined {
    const { request } = incoming;
    // RFC 6665 §4.4.1: a subscription's dialog comes with its 2xx.
    const earliest = request.method === "INVITE" ? 101 : request.method === "SUBSCRIBE" ? 200 : 300;
    if (incoming.inDialog || response.status < earliest || response.status >= 300) {
      return undefined;
    }
    if (incoming.dialog === undefined) {
      const { clock, random } = this.#core.parts;
      const state = uasDialogState(
        request,
        incoming.callId,
        incoming.localTag,
        response.headers.get("To") ?? "",
        response.headers.get("Contact") ?? "",
        random.integer(2 ** 20),
        incoming.seq,
      );
      const dialog = state === undefined ? undefined : new Dialog(state, clock);
      if (dialog === undefined || !this.#core.addDialog(dialog)) {
        return "dialog already exists, rejecting this request";
      }
      dialog.owner = client;
      if (request.method === "INVITE") {
        dialog.remoteInvite = incoming.txnId;
      } else {
        dialog.hasCall = false;
        dialog.phase = "confirmed";
      }
      dialog.connection = connectionOf(request, incoming.transaction.source);
      incoming.dialog = dialog;
    }
    if (response.status >= 200) {
      incoming.dialog.localContact = response.headers.get("Contact") ?? incoming.dialog.localContact;
    }
    return undefined;
  }

  /** Sends an application's response and moves on: provisional, 2xx to an INVITE, or any other final response. */
  #send(incoming: IncomingRequest, response: SipResponse): boolean {
    const { parts } = this.#core;
    const { request, dialog } = incoming;
    const { status } = response;
    if (status < 200) {
      const reliable = requires100rel(response.headers) ? this.#numbered(incoming, response) : undefined;
      if (!incoming.transaction.respond(response)) {
        this.#requests.drop(incoming);
        return false;
      }
      if (reliable !== undefined) {
        repeatUntilPrack(incoming, response, parts.timers, () => {
          this.#prackTimeout(incoming);
        });
        // RFC 6141 §4.9: a reliable response to a re-INVITE accepts its new target already.
        if (incoming.inDialog) {
          dialog?.refreshTarget(request);
        }
      }
      incoming.tagSent ||= status > 100;
      if (request.method === "INVITE" && status > 100) {
        keepRinging(incoming, response, parts.timers);
      }
      if (!incoming.inDialog) {
        dialog?.noteLocalSdp(response);
      }
      if (incoming.phase === "held") {
        incoming.phase = "provisional";
        this.#requests.limitAnswer(incoming);
      }
      return true;
    }
    if (request.method !== "INVITE" || status >= 300) {
      // RFC 3261 §12.2.2, RFC 3311 §5.2: a target refresh counts when it is accepted (RFC 6141 §4.9).
      const updated = status < 300 && incoming.inDialog && request.method === "UPDATE";
      if (status < 300 && incoming.inDialog && targetRefreshes.has(request.method)) {
        dialog?.refreshTarget(request);
      }
      const sent = this.#requests.finish(incoming, response);
      if (dialog !== undefined) {
        followSubscription(this.#core, dialog, request, response);
      }
      // Only now: a timer that a refused request had armed would run on (drachtio-server's mistake, srv#313).
      if (updated && sent && dialog !== undefined) {
        dialog.noteLocalSdp(response);
        if (dialog.phase === "confirmed") {
          this.#core.sessions.agreed(dialog, incoming.session);
        }
      }
      return sent;
    }
    if (!incoming.transaction.respond(response)) {
      this.#requests.drop(incoming);
      return false;
    }
    incoming.tagSent = true;
    incoming.phase = "accepted";
    this.#requests.accepted(incoming);
    if (dialog !== undefined) {
      dialog.phase = dialog.phase === "early" ? "confirmed" : dialog.phase;
      dialog.remoteInvite = undefined;
      dialog.awaitingAck.add(incoming.txnId);
      if (incoming.inDialog) {
        dialog.refreshTarget(request);
        dialog.localContact = response.headers.get("Contact") ?? dialog.localContact;
      }
      dialog.noteLocalSdp(response);
      this.#core.sessions.agreed(dialog, incoming.session);
    }
    incoming.timers.stop("answer");
    stopRinging(incoming);
    repeatAnswer(incoming, response, parts.timers);
    incoming.timers.start("H", parts.timers.t64Ms, () => {
      this.#ackTimeout(incoming);
    });
    return true;
  }

  #numbered(incoming: IncomingRequest, response: SipResponse): ReliableAnswers {
    incoming.reliable ??= new ReliableAnswers(incoming.txnId, incoming.seq, this.#core.parts.random);
    incoming.reliable.number(response);
    if (incoming.dialog !== undefined) {
      incoming.dialog.reliable = incoming.reliable;
    }
    return incoming.reliable;
  }

  #prackTimeout(incoming: IncomingRequest): void {
    this.#core.parts.counters.add("prackTimeouts");
    this.#requests.finish(incoming, responseTo(incoming.request, 504, { toTag: incoming.localTag }));
    if (!incoming.inDialog) {
      // The application learns of it as of a caller who gave up: the protocol has no other word for it.
      const reason = { name: "Reason", value: 'SIP;cause=504;text="PRACK timeout"' };
      this.#requests.deliverCancel(
        incoming,
        cancelFor(incoming.request, new Headers([reason])),
        incoming.transaction.source,
      );
    }
  }

  /** RFC 3261 §13.3.1.4: no ACK within 64*T1. The dialog is confirmed, so it has to be ended by BYE. */
  #ackTimeout(incoming: IncomingRequest): void {
    const { dialog } = incoming;
    this.#core.parts.counters.add("ackTimeouts");
    this.#requests.forget(incoming);
    if (dialog === undefined || dialog.phase === "ended") {
      return;
    }
    // A BYE that the application wanted to send anyway says its own reason.
    if (dialog.phase === "confirmed" && !dialog.afterAck.some((held) => held.method === "BYE")) {
      this.#client.byeFromEngine(dialog, 'SIP ;cause=200 ;text="ACK timeout"');
    }
    dialog.releaseHeld();
  }

  /** A final answer of the engine's own, which no application sees. */
  #refuse(transaction: Inbound, { status, reason, lines }: Refusal): void {
    if (status >= 300) {
      this.#core.parts.counters.add("requestsRefused");
    }
    const response = responseTo(transaction.request, status, {
      toTag: this.#core.newTag(),
      ...(reason === undefined ? {} : { reason }),
    });
    for (const { name, value } of lines ?? []) {
      response.headers.add(name, value);
    }
    transaction.respond(response);
  }

  #answer(transaction: Inbound, status: number): void {
    this.#refuse(transaction, { status });
  }
}
