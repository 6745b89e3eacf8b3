import type { Dialog } from "../dialog/dialog.ts";
import type { ClientId, Delivery, LostClient } from "../events.ts";
import { responseTo } from "../sip/answer.ts";
import { parseCSeq } from "../sip/grammar.ts";
import type { SipRequest, SipResponse } from "../sip/message.ts";
import { TimerSet } from "../timers.ts";
import type { Core, Inbound, Origin } from "./core.ts";
import { tagOf, textForApp } from "./headers.ts";
import type { IncomingRequest } from "./incoming.ts";

/** How many applications are given one request, when each dies before it answers. */
const mostDeliveries = 2;

/** Every request from the network that is not over yet, and which application has it. */
export class IncomingRequests {
  readonly #core: Core;
  readonly #incoming = new Map<string, IncomingRequest>();
  /** From the server transaction to our own id. */
  readonly #byKey = new Map<string, string>();
  /** Call-IDs of INVITEs that wait for an answer: drachtio-srf can hold one of each only. */
  readonly #invites = new Map<string, string>();
  /** Those that no application has for now. */
  readonly #waiting = new Set<IncomingRequest>();

  constructor(core: Core) {
    this.#core = core;
  }

  get size(): number {
    return this.#incoming.size;
  }

  /** Transaction ids of the INVITEs that wait for an answer, by Call-ID. */
  get ringing(): ReadonlyMap<string, string> {
    return this.#invites;
  }

  get(txnId: string | undefined): IncomingRequest | undefined {
    return txnId === undefined ? undefined : this.#incoming.get(txnId);
  }

  of(transaction: Inbound): IncomingRequest | undefined {
    return this.get(this.#byKey.get(transaction.key));
  }

  /** That connection has answered: whatever comes of the request is its matter. */
  taken(incoming: IncomingRequest, client: ClientId): void {
    incoming.owner = client;
    this.#waiting.delete(incoming);
  }

  /** An INVITE has got its 2xx; only its ACK is still to come. */
  accepted(incoming: IncomingRequest): void {
    this.#invites.delete(incoming.callId);
  }

  stats(): { readonly incoming: number; readonly invites: number; readonly timers: number } {
    let timers = 0;
    for (const incoming of this.#incoming.values()) {
      timers += incoming.timers.size;
    }
    return { incoming: this.#incoming.size, invites: this.#invites.size, timers };
  }

  hold(transaction: Inbound, dialog: Dialog | undefined): IncomingRequest {
    const { parts } = this.#core;
    const { request } = transaction;
    const incoming: IncomingRequest = {
      txnId: parts.random.uuid(),
      transaction,
      request,
      callId: request.headers.get("Call-ID") ?? "",
      seq: parseCSeq(request.headers.get("CSeq") ?? "")?.number ?? 0,
      owner: undefined,
      deliveries: 0,
      localTag: dialog?.localTag ?? tagOf(request.headers.get("To")) ?? this.#core.newTag(),
      tagSent: dialog !== undefined,
      dialog,
      inDialog: dialog !== undefined,
      phase: "held",
      reliable: undefined,
      afterPrack: [],
      session: undefined,
      timers: new TimerSet(parts.clock),
    };
    this.#incoming.set(incoming.txnId, incoming);
    this.#byKey.set(transaction.key, incoming.txnId);
    if (request.method === "INVITE") {
      if (dialog === undefined) {
        this.#invites.set(incoming.callId, incoming.txnId);
      } else {
        dialog.remoteInvite = incoming.txnId;
      }
    } else if (request.method === "UPDATE" && dialog !== undefined) {
      dialog.remoteUpdate = incoming.txnId;
    }
    this.limitAnswer(incoming);
    return incoming;
  }

  /** Gives a request to the connection it belongs to. False when there is none. */
  assign(incoming: IncomingRequest): boolean {
    const { events, limits } = this.#core.parts;
    const { dialog } = incoming;
    // Each round asks another connection, and a connection that could not be written to is gone from the list.
    for (let attempt = 0; attempt < limits.clients; attempt += 1) {
      const owner =
        incoming.inDialog && dialog !== undefined
          ? this.#core.ownership.ownerOf(dialog)
          : events.choose(incoming.request.method.toLowerCase());
      if (owner === undefined) {
        return false;
      }
      if (this.#give(incoming, owner)) {
        return true;
      }
    }
    return false;
  }

  /** Keeps a request until an application comes, for a limited time. */
  wait(incoming: IncomingRequest): void {
    if (incoming.deliveries >= mostDeliveries) {
      this.#answerAlone(incoming);
      return;
    }
    const { events, settings } = this.#core.parts;
    if (!incoming.inDialog && events.dial !== undefined) {
      // Nobody connects by himself: another application is called.
      this.limitAnswer(incoming);
      events.dial((client) => this.offered(incoming, client));
      return;
    }
    const { orphanGraceMs, waitMs } = settings;
    this.#waiting.add(incoming);
    // The peer of an INVITE has its 100 and waits as long as we like; others give up after 64*T1.
    const limitMs = incoming.inDialog && incoming.request.method === "INVITE" ? orphanGraceMs : waitMs;
    incoming.timers.start("answer", limitMs, () => {
      const status = incoming.inDialog ? 480 : 503;
      this.#core.parts.counters.add("requestsUnrouted");
      this.finish(incoming, responseTo(incoming.request, status, { toTag: incoming.localTag }));
    });
    this.assign(incoming);
  }

  /** Outbound mode: the connection made for a request, or none. False when it has no use for it. */
  offered(incoming: IncomingRequest, client: ClientId | undefined): boolean {
    // It was cancelled in the meantime, and an application must not learn of it any more (drachtio.md §2.6).
    if (!this.#incoming.has(incoming.txnId)) {
      return false;
    }
    if (client !== undefined && this.#give(incoming, client)) {
      return true;
    }
    this.#core.parts.counters.add("requestsUnrouted");
    this.finish(incoming, responseTo(incoming.request, 480, { toTag: incoming.localTag }));
    return false;
  }

  #give(incoming: IncomingRequest, owner: ClientId): boolean {
    if (!this.#core.parts.events.deliver(owner, this.#delivery(incoming))) {
      return false;
    }
    incoming.owner = owner;
    incoming.deliveries += 1;
    this.#waiting.delete(incoming);
    this.limitAnswer(incoming);
    if (incoming.dialog !== undefined && !incoming.inDialog) {
      // It rings already, and the application that made it ring is gone: the PRACK is for this one.
      this.#core.ownership.adopt(incoming.dialog, owner);
    }
    return true;
  }

  limitAnswer(incoming: IncomingRequest): void {
    const { settings, timers } = this.#core.parts;
    // 64 s for a new request, 32 s inside a dialog, both in units of T1.
    const holdMs = incoming.inDialog ? timers.t64Ms : 2 * timers.t64Ms;
    incoming.timers.start("answer", incoming.phase === "provisional" ? settings.ringingLimitMs : holdMs, () => {
      this.#unanswered(incoming);
    });
  }

  #unanswered(incoming: IncomingRequest): void {
    const { counters, log } = this.#core.parts;
    counters.add("requestsUnanswered");
    log.warn("an application did not answer a request", { verb: incoming.request.method.toLowerCase() });
    if (incoming.inDialog) {
      this.finish(incoming, responseTo(incoming.request, 500, { toTag: incoming.localTag }));
    } else if (incoming.request.method === "INVITE" && !this.#core.imitates("unanswered")) {
      this.finish(incoming, responseTo(incoming.request, 408, { toTag: incoming.localTag }));
    } else {
      // RFC 4320 §4.2: a late final response to a non-INVITE helps nobody, its sender has given up long ago.
      this.forget(incoming);
      incoming.transaction.abandon();
    }
  }

  #delivery(incoming: IncomingRequest): Delivery {
    const { request, transaction, inDialog, dialog } = incoming;
    return {
      source: "network",
      peer: transaction.source,
      txnId: incoming.txnId,
      dialogId: inDialog ? dialog?.id : undefined,
      receivedOn: inDialog ? undefined : transaction.source.local,
      get message() {
        return textForApp(request);
      },
    };
  }

  deliverCancel(incoming: IncomingRequest, cancel: SipRequest, source: Origin): void {
    if (incoming.owner === undefined) {
      return;
    }
    this.#core.parts.events.deliver(incoming.owner, {
      source: "network",
      peer: source,
      txnId: incoming.txnId,
      dialogId: incoming.dialog?.id,
      message: textForApp(cancel),
    });
  }

  /** Nobody is there to answer a BYE: the peer gets its 200 at once, and whoever takes the dialog over is told later. */
  keepBye(incoming: IncomingRequest, tags: string): void {
    if (incoming.dialog !== undefined) {
      this.#core.ownership.keepEnd(incoming.dialog, this.#delivery(incoming), tags);
    }
    this.finish(incoming, responseTo(incoming.request, 200, { toTag: incoming.localTag }));
  }

  /** What that connection was given and did not answer goes to another one or waits for one. */
  clientGone({ client, tags }: LostClient): void {
    for (const incoming of this.#incoming.values()) {
      if (incoming.owner !== client) {
        continue;
      }
      if (incoming.phase === "accepted") {
        incoming.owner = undefined;
      } else if (!this.#core.imitates("pending")) {
        incoming.owner = undefined;
        releasePrack(incoming);
        if (incoming.request.method === "BYE") {
          this.keepBye(incoming, tags);
        } else {
          this.wait(incoming);
        }
      }
    }
  }

  /** Gives what waits to the connections that may have it by now. */
  serveWaiting(): void {
    for (const incoming of this.#waiting) {
      this.assign(incoming);
    }
  }

  /** Who has been given what is not answered. */
  owners(): (ClientId | undefined)[] {
    return [...this.#incoming.values()].map(({ owner }) => owner);
  }

  /** Answers what the peer still waits for in a dialog that is over, and stops our own retransmissions in it. */
  endPending(dialog: Dialog): void {
    for (const txnId of dialog.awaitingAck) {
      const incoming = this.#incoming.get(txnId);
      if (incoming !== undefined) {
        this.forget(incoming);
      }
    }
    dialog.awaitingAck.clear();
    const invite = this.get(dialog.remoteInvite);
    if (invite !== undefined) {
      this.finish(invite, responseTo(invite.request, 487, { toTag: invite.localTag }));
    }
  }

  pracked(dialog: Dialog): IncomingRequest | undefined {
    return this.get(dialog.reliable?.txnId);
  }

  /** Answers all that no application has answered, because the engine is about to close. */
  answerAll(): void {
    for (const incoming of this.#incoming.values()) {
      this.#answerAlone(incoming);
    }
  }

  #answerAlone(incoming: IncomingRequest): void {
    if (incoming.phase === "accepted") {
      return;
    }
    // RFC 5057 §5: 500 leaves the dialog standing for an application that comes back; a BYE is served in any case.
    const status = incoming.request.method === "BYE" ? 200 : incoming.inDialog ? 500 : 503;
    this.finish(incoming, responseTo(incoming.request, status, { toTag: incoming.localTag }));
  }

  /** Sends a final response that needs nothing more of us, and forgets the request. */
  finish(incoming: IncomingRequest, response: SipResponse): boolean {
    const { dialog } = incoming;
    const sent = incoming.transaction.respond(response);
    this.forget(incoming);
    // RFC 3261 §12.3: a non-2xx final response ends the early dialogs of its INVITE.
    if (!incoming.inDialog && incoming.request.method === "INVITE" && dialog?.phase === "early") {
      this.#core.endDialog(dialog);
    }
    return sent;
  }

  /** The connection for the answer is gone: nothing can be sent any more. */
  drop(incoming: IncomingRequest): void {
    this.forget(incoming);
    if (!incoming.inDialog && incoming.dialog?.phase === "early") {
      this.#core.endDialog(incoming.dialog);
    }
    incoming.transaction.abandon();
  }

  forget(incoming: IncomingRequest): void {
    const { dialog } = incoming;
    incoming.timers.clear();
    this.#waiting.delete(incoming);
    this.#incoming.delete(incoming.txnId);
    this.#byKey.delete(incoming.transaction.key);
    if (this.#invites.get(incoming.callId) === incoming.txnId) {
      this.#invites.delete(incoming.callId);
    }
    if (dialog !== undefined) {
      dialog.awaitingAck.delete(incoming.txnId);
      if (dialog.remoteInvite === incoming.txnId) {
        dialog.remoteInvite = undefined;
      }
      if (dialog.remoteUpdate === incoming.txnId) {
        dialog.remoteUpdate = undefined;
      }
    }
    releasePrack(incoming);
    if (incoming.request.method === "PRACK" && dialog !== undefined) {
      dialog.reliable?.settle();
      const invite = this.pracked(dialog);
      if (invite !== undefined) {
        releasePrack(invite);
      }
    }
  }

  /** Stops every timer. */
  close(): void {
    for (const incoming of this.#incoming.values()) {
      this.forget(incoming);
    }
  }
}

/** What waited for a PRACK is tried again: it waits on, goes out, or is refused because the INVITE is over. */
function releasePrack(incoming: IncomingRequest): void {
  for (const send of incoming.afterPrack.splice(0)) {
    send();
  }
}
