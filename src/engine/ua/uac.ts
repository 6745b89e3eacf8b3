import { Dialog, dialogIdOf, uacDialogState } from "../dialog/dialog.ts";
import type { DialogRoute } from "../dialog/dialog.ts";
import type { ClientId, SipCommand } from "../events.ts";
import type { SipRequest, SipResponse } from "../sip/message.ts";
import { Headers } from "../sip/message.ts";
import { cancelFor } from "../txn/client.ts";
import { Accepted, automaticAck, endForks, noApplication } from "./accepted.ts";
import { connectionOf } from "./connection.ts";
import type { Core, NextHop, Origin, Resolution } from "./core.ts";
import { cleanAppHeaders, contactTarget, isSecure, parseAppMessage, tagOf, textForApp } from "./headers.ts";
import { Outbox } from "./outbox.ts";
import { OutgoingRequests } from "./outgoing.ts";
import type { Fork, OutgoingRequest } from "./outgoing.ts";
import { hasOpenOffer } from "./session-refresh.ts";
import { parseRAck, ReliableResponses, rseqOf } from "./reliable.ts";
import type { AppRequest } from "./requests.ts";
import {
  buildInDialog,
  buildOutOfDialog,
  chooseRoute,
  missingType,
  printable,
  withoutBrokenContact,
} from "./requests.ts";

import { callMethods, followSubscription, targetRefreshes } from "./subscriptions.ts";

/** What a UAC needs of the server half. */
export interface ServerHalf {
  /** Answers what the peer still waits for in a dialog that our BYE ends. */
  endPending(dialog: Dialog): void;
}

const anotherOffer = "Server error: another offer is open in this dialog";
const noDialog = "Server error: unable to find dialog for dialog id provided";

/** Requests of one dialog that wait for an ACK or for a name to be looked up. */
const mostWaitingRequests = 64;

/** NOTIFYs that one SUBSCRIBE keeps until it is answered. */
const mostOvertakers = 8;

/** Branches of one INVITE that are told apart. */
const mostForks = 16;

/** The client half of the user agent: what applications send, and the responses to it. */
export class Uac {
  readonly #core: Core;
  readonly #server: ServerHalf;
  readonly #requests: OutgoingRequests;
  readonly #outbox: Outbox;
  readonly #accepted: Accepted;
  #resolving = 0;

  constructor(core: Core, server: ServerHalf) {
    this.#core = core;
    this.#server = server;
    this.#requests = new OutgoingRequests(core, {
      response: (outgoing, response, source) => {
        this.#onResponse(outgoing, response, source);
      },
      failed: (outgoing, status) => {
        this.#giveUp(outgoing, status);
      },
    });
    this.#outbox = new Outbox(core.parts.network);
    this.#accepted = new Accepted(core, this.#requests, this.#outbox, this);
  }

  stats(): { readonly outgoing: number; readonly lookups: number; readonly timers: number } {
    const { size, timers } = this.#requests;
    return { outgoing: size, lookups: this.#resolving + this.#outbox.size, timers };
  }

  // Requests outside of a dialog

  requestOutOfDialog(command: SipCommand, proxyUri: string | undefined): void {
    const message = this.#readRequest(command);
    if (message === undefined) {
      return;
    }
    if (message.method === "ACK") {
      // drachtio-srf acknowledges every final response; those that made no dialog were acknowledged by the transaction.
      this.#core.refuse(command, automaticAck);
      return;
    }
    if (message.method === "CANCEL") {
      this.#core.refuse(command, "unable to cancel unknown transaction id: ");
      return;
    }
    const route = chooseRoute(this.#core, message, proxyUri);
    if (typeof route === "string") {
      this.#core.refuse(command, route);
      return;
    }
    const { network, limits, events } = this.#core.parts;
    if (this.#requests.size + this.#resolving >= limits.outgoingRequests) {
      this.#core.refuse(command, "too many requests in progress");
      return;
    }
    this.#resolving += 1;
    const send = (resolution: Resolution): void => {
      this.#resolving -= 1;
      if (events.isConnected(command.client)) {
        this.#sendOutOfDialog(command, { ...message, uri: route.requestUri }, resolution, route.routes);
      }
    };
    network.resolve(route.nextHop, send, route.address);
  }

  #sendOutOfDialog(command: SipCommand, message: AppRequest, resolution: Resolution, routes: readonly string[]): void {
    const { network } = this.#core.parts;
    if (resolution.type === "noTransport") {
      this.#core.refuse(command, "requested protocol/transport not available");
      return;
    }
    // A name without addresses is answered like a server that is down: the application's fallback routing is one.
    const hops: readonly [NextHop, ...NextHop[]] =
      resolution.type === "hops" ? resolution.hops : [{ protocol: "udp", address: "0.0.0.0", port: 0 }];
    const [hop] = hops;
    // Names and other spellings of our own addresses are told by what they resolve to.
    if (hops.some(({ address, port }) => network.isOwn(address, port))) {
      this.#core.refuse(command, "can not send request to myself");
      return;
    }
    const local = network.localFor(hop);
    const contact = this.#core.contactFor(hop, isSecure(message.uri));
    const lines = cleanAppHeaders(message.lines, local);
    const built = buildOutOfDialog(this.#core, message, lines, contact, hop, routes);
    if (typeof built === "string") {
      this.#core.refuse(command, built);
      return;
    }
    const { request, callId, seq, fromTag } = built;
    if (message.method === "INVITE" && this.#core.dialogs.byId(dialogIdOf(callId, fromTag)) !== undefined) {
      this.#core.refuse(command, "dialog already exists, rejecting this request");
      return;
    }
    const outgoing = this.#requests.open(request, hop, {
      callId,
      seq,
      fromTag,
      client: command.client,
      dialog: undefined,
    });
    if (resolution.type === "failed") {
      request.headers.prepend("Via", network.viaFor(hop));
      this.#requests.replySent(command, outgoing);
      this.#final(outgoing, this.#core.synthetic(request, 503, "DNS Error"), hop);
      return;
    }
    this.#requests.launch(outgoing, hops);
    this.#requests.replySent(command, outgoing);
  }

  // Requests inside a dialog

  requestInDialog(command: SipCommand, dialogId: string): void {
    const message = this.#readRequest(command);
    if (message === undefined) {
      return;
    }
    const dialog = this.#core.dialogs.byId(dialogId);
    if (dialog === undefined) {
      this.#core.ownership.tellEnd(dialogId, command.client);
      this.#core.refuse(command, message.method === "ACK" ? automaticAck : noDialog);
      return;
    }
    if (message.method === "CANCEL") {
      this.#core.refuse(command, "unable to cancel unknown transaction id: ");
      return;
    }
    this.#core.ownership.adopt(dialog, command.client);
    if (message.method === "PRACK") {
      this.#prack(command, message, dialog);
      return;
    }
    const send = (): void => {
      this.#inDialogOrder(command, message, dialog);
    };
    const waiting = dialog.afterAck.length + this.#outbox.waitingIn(dialog);
    if (waiting >= mostWaitingRequests) {
      this.#core.refuse(command, "too many requests in progress");
      return;
    }
    // RFC 3261 §15: the callee must not send BYE before the ACK came or the transaction timed out; §14.1: no INVITE either
    // while one of the peer is not done with. Applications send both as soon as createUAS resolved, which is at the 200.
    if ((message.method === "BYE" || message.method === "INVITE") && dialog.awaitingAck.size > 0) {
      dialog.afterAck.push({ method: message.method, run: send });
      return;
    }
    send();
  }

  /** A PRACK goes to the branch whose response it acknowledges, which need not be the one that has the dialog's id. */
  #prack(command: SipCommand, message: AppRequest, dialog: Dialog): void {
    const invite = this.#requests.get(dialog.localInvite ?? dialog.unacknowledged);
    const rack = message.lines.find((line) => line.name.toLowerCase() === "rack");
    const wanted = rack === undefined ? undefined : (parseRAck(rack.value)?.rseq ?? 0);
    for (const fork of invite?.forks.values() ?? []) {
      const rseq = fork.reliable.take(wanted);
      if (invite !== undefined && fork.dialog !== undefined && rseq !== undefined) {
        const lines = message.lines.filter((line) => line !== rack);
        lines.push({ name: "RAck", value: `${rseq} ${invite.seq} INVITE` });
        this.#inDialogOrder(command, { ...message, lines }, fork.dialog);
        return;
      }
    }
    this.#core.refuse(command, "Server error: no provisional response waits for a PRACK");
  }

  #inDialogOrder(command: SipCommand, message: AppRequest, dialog: Dialog): void {
    this.#outbox.inOrder(dialog, (resolution, route) => {
      this.#sendInDialog(command, message, dialog, route, resolution);
    });
  }

  #sendInDialog(
    command: SipCommand,
    message: AppRequest,
    dialog: Dialog,
    route: DialogRoute,
    resolution: Resolution,
  ): void {
    const { method } = message;
    const byePending = dialog.bye !== undefined && method !== "ACK";
    if (dialog.phase === "ended" || (byePending && method === "BYE")) {
      this.#core.refuse(command, method === "ACK" ? automaticAck : noDialog);
      return;
    }
    if (resolution.type === "noTransport") {
      this.#core.refuse(command, "requested protocol/transport not available");
      return;
    }
    if (resolution.type === "failed") {
      this.#core.refuse(command, `Server error: ${resolution.reason}`);
      return;
    }
    const [hop] = resolution.hops;
    if (method === "ACK") {
      this.#accepted.acknowledge(command, message, dialog, route, resolution.hops);
      return;
    }
    if (this.#requests.size >= this.#core.parts.limits.outgoingRequests) {
      this.#core.refuse(command, "too many requests in progress");
      return;
    }
    if (!dialog.hasCall && callMethods.has(method)) {
      this.#core.refuse(command, noDialog);
      return;
    }
    if (method === "INVITE") {
      if (this.#isRefresh(this.#requests.get(dialog.localInvite))) {
        // The engine's own refresh is not the application's fault: its INVITE goes out when that is done with.
        const run = (): void => {
          this.requestInDialog(command, dialog.id);
        };
        dialog.afterAck.push({ method, run });
        return;
      }
      // RFC 3261 §14.1: no new INVITE while another is in progress in either direction.
      if (
        dialog.localInvite !== undefined ||
        dialog.unacknowledged !== undefined ||
        dialog.remoteInvite !== undefined
      ) {
        this.#core.refuse(command, "Server error: another INVITE is in progress in this dialog");
        return;
      }
      if (dialog.phase !== "confirmed") {
        this.#core.refuse(command, "Server error: the dialog is not confirmed");
        return;
      }
      if (dialog.localUpdate !== undefined) {
        this.#core.refuse(command, anotherOffer);
        return;
      }
    }
    // RFC 3311 §5.1: no second offer in an UPDATE while another one is open in either direction.
    const offering = method === "UPDATE" && message.body.length > 0 && dialog.phase === "confirmed";
    if (offering && hasOpenOffer(dialog)) {
      this.#core.refuse(command, anotherOffer);
      return;
    }
    // RFC 3261 §15: the callee must not end an early dialog by BYE; it answers the INVITE instead.
    if (method === "BYE" && dialog.phase === "early" && dialog.role === "uas") {
      this.#core.refuse(command, "Server error: the dialog is not confirmed");
      return;
    }
    const lines = cleanAppHeaders(message.lines, this.#core.parts.network.localFor(hop));
    const typed = message.lines.some((line) => /^(content-type|c)$/i.test(line.name));
    if (method === "INFO" && message.body.length > 0 && !typed) {
      this.#core.refuse(command, `Server error: ${missingType}`);
      return;
    }
    const request = buildInDialog(this.#core, dialog, route, method, lines, message, hop);
    if (request === undefined) {
      this.#core.refuse(command, `Server error: ${missingType}`);
      return;
    }
    if (method === "BYE") {
      this.#bye(command, dialog, request, resolution.hops);
      return;
    }
    const outgoing = this.#requests.openInDialog(dialog, request, hop, command.client);
    if (method === "INVITE") {
      dialog.localInvite = outgoing.txnId;
    } else if (method === "UPDATE" && request.body.length > 0) {
      dialog.localUpdate = outgoing.txnId;
    }
    this.#requests.launch(outgoing, resolution.hops);
    this.#requests.replySent(command, outgoing);
  }

  #bye(command: SipCommand, dialog: Dialog, request: SipRequest, hops: readonly [NextHop, ...NextHop[]]): void {
    // Our INVITE is ended first: RFC 3261 §15, and drachtio does the same.
    this.interruptInvite(dialog, true);
    const outgoing = this.#requests.openInDialog(dialog, request, hops[0], command.client);
    dialog.bye = outgoing.txnId;
    dialog.timers.stop("credentials");
    dialog.phase = "ending";
    this.#server.endPending(dialog);
    this.#requests.launch(outgoing, hops);
    this.#requests.replySent(command, outgoing);
    dialog.releaseHeld();
  }

  /**
   * RFC 4028 §7.4: refreshes the session by a re-INVITE with our SDP as it is, as drachtio-server does. Where no SDP of ours
   * is known, by an UPDATE, which needs none.
   */
  refreshSession(dialog: Dialog): void {
    this.#outbox.inOrder(dialog, (resolution, route) => {
      const full = this.#requests.size >= this.#core.parts.limits.outgoingRequests;
      if (resolution.type !== "hops" || dialog.phase !== "confirmed" || hasOpenOffer(dialog) || full) {
        this.#core.sessions.postponed(dialog);
        return;
      }
      const [hop] = resolution.hops;
      const { localSdp } = dialog;
      const method = localSdp === undefined ? "UPDATE" : "INVITE";
      const lines = localSdp === undefined ? [] : [{ name: "Content-Type", value: "application/sdp" }];
      const message: AppRequest = { kind: "request", method, uri: "", lines, body: localSdp ?? Buffer.alloc(0) };
      const request = buildInDialog(this.#core, dialog, route, method, lines, message, hop);
      if (request === undefined) {
        this.#core.sessions.postponed(dialog);
        return;
      }
      const outgoing = this.#requests.openInDialog(dialog, request, hop, undefined);
      if (method === "INVITE") {
        dialog.localInvite = outgoing.txnId;
      }
      this.#requests.launch(outgoing, resolution.hops);
    });
  }

  /** An INVITE or UPDATE in a dialog that was sent for no application. */
  #isRefresh(outgoing: OutgoingRequest | undefined): boolean {
    return (
      outgoing?.inDialog === true &&
      outgoing.client === undefined &&
      (outgoing.method === "INVITE" || outgoing.method === "UPDATE")
    );
  }

  /** Sends a BYE of the engine's own, drops the dialog and tells the application. */
  byeFromEngine(dialog: Dialog, reason: string): void {
    this.#outbox.inOrder(dialog, (resolution, route) => {
      if (dialog.phase === "ended") {
        return;
      }
      if (!dialog.hasCall) {
        this.#core.endDialog(dialog);
        return;
      }
      const hop: NextHop =
        resolution.type === "hops" ? resolution.hops[0] : { protocol: "udp", address: "0.0.0.0", port: 0 };
      const lines = [{ name: "Reason", value: reason }];
      const request = buildInDialog(this.#core, dialog, route, "BYE", lines, undefined, hop);
      this.interruptInvite(dialog, true);
      this.#server.endPending(dialog);
      this.#core.endDialog(dialog);
      if (request === undefined) {
        return;
      }
      let sent = request;
      if (resolution.type === "hops") {
        const outgoing = this.#requests.openInDialog(dialog, request, hop, undefined);
        this.#requests.launch(outgoing, resolution.hops);
        sent = outgoing.request;
      }
      this.#core.announceBye(dialog, sent, hop);
    });
  }

  /**
   * Our INVITE in a dialog that ends: the application gets a 487 for it. Before our own BYE it is cancelled too; after the
   * peer's BYE the peer answers it itself (RFC 3261 §15.1.2).
   */
  interruptInvite(dialog: Dialog, cancel = false): void {
    this.#accepted.acknowledgeFor(dialog);
    const outgoing = this.#requests.get(dialog.localInvite);
    dialog.localInvite = undefined;
    if (outgoing === undefined || !this.#requests.isOpen(outgoing) || outgoing.detached) {
      return;
    }
    outgoing.detached = true;
    this.#requests.deliver(outgoing, this.#core.synthetic(outgoing.request, 487), outgoing.hop);
    if (cancel) {
      outgoing.transaction?.cancel(new Headers());
    }
    outgoing.timers.start("guard", this.#core.parts.timers.t64Ms, () => {
      outgoing.transaction?.abandon();
      this.#giveUp(outgoing, 487);
    });
  }

  // CANCEL

  cancel(command: SipCommand, txnId: string): void {
    const outgoing = this.#requests.get(txnId);
    const message = this.#readRequest(command);
    if (message === undefined) {
      return;
    }
    if (
      outgoing === undefined ||
      outgoing.transaction === undefined ||
      outgoing.method !== "INVITE" ||
      !this.#requests.isOpen(outgoing) ||
      outgoing.detached
    ) {
      this.#core.refuse(command, `unable to cancel unknown transaction id: ${printable(txnId)}`);
      return;
    }
    // Addresses, and what has to equal the INVITE, are never the application's in a CANCEL.
    const fixed = ["From", "To", "Call-ID", "CSeq", "Contact", "P-Asserted-Identity", "Max-Forwards", "Require"];
    const lines = cleanAppHeaders(message.lines, this.#core.parts.network.localFor(outgoing.hop));
    const extra = new Headers(lines.filter(({ name }) => !fixed.includes(name)));
    this.#cancelInvite(outgoing, extra);
    this.#core.reply(command, {
      type: "sent",
      kind: "request",
      peer: outgoing.hop,
      txnId: this.#core.parts.random.uuid(),
      dialogId: undefined,
      message: textForApp(cancelFor(outgoing.transaction.request, extra)),
    });
  }

  #cancelInvite(outgoing: OutgoingRequest, extra: Headers): void {
    if (outgoing.cancelled) {
      return;
    }
    outgoing.cancelled = true;
    outgoing.timers.stop("ringing");
    outgoing.transaction?.cancel(extra);
    if (outgoing.phase === "proceeding") {
      this.#guardCancel(outgoing);
    }
  }

  /** RFC 3261 §9.1: 64*T1 after the CANCEL the INVITE counts as cancelled, whether the peer answered it or not. */
  #guardCancel(outgoing: OutgoingRequest): void {
    outgoing.timers.start("guard", this.#core.parts.timers.t64Ms, () => {
      outgoing.transaction?.abandon();
      outgoing.detached ||= this.#core.imitates("cancel");
      this.#giveUp(outgoing, 487);
    });
  }

  // Transactions

  #readRequest(command: SipCommand): AppRequest | undefined {
    const outcome = parseAppMessage(command.sip);
    if (!outcome.ok || outcome.message.kind !== "request") {
      this.#core.refuse(command, outcome.ok ? "invalid start line" : outcome.text);
      return undefined;
    }
    return outcome.message;
  }

  #onResponse(outgoing: OutgoingRequest, response: SipResponse, source: Origin): void {
    this.#core.parts.counters.add("responsesIn");
    if (!this.#requests.isKept(outgoing)) {
      this.#core.parts.counters.add("responsesUnmatched");
      return;
    }
    const { status } = response;
    if (status < 200) {
      this.#provisional(outgoing, response, source);
    } else if (outgoing.method === "INVITE" && status < 300) {
      this.#accepted.accepted(outgoing, response, source);
    } else {
      this.#final(outgoing, response, source);
    }
  }

  #provisional(outgoing: OutgoingRequest, response: SipResponse, source: Origin): void {
    if (!this.#requests.isOpen(outgoing)) {
      return;
    }
    const first = outgoing.phase === "trying";
    outgoing.phase = "proceeding";
    if (outgoing.method === "INVITE") {
      if (outgoing.cancelled || outgoing.detached) {
        // The CANCEL that was held goes out with the first provisional response; its guard time begins now.
        if (first && outgoing.cancelled && !outgoing.detached) {
          this.#guardCancel(outgoing);
        }
      } else {
        // A peer that rings for ever would hold the transaction for ever. RFC 3261 §16.6 step 11 has timer C of three minutes
        // for proxies; we are a UAC, whose application may wait longer.
        outgoing.timers.start("ringing", this.#core.parts.settings.ringingLimitMs, () => {
          this.#cancelInvite(outgoing, new Headers());
        });
      }
    }
    if (response.status === 100 || outgoing.detached) {
      return;
    }
    withoutBrokenContact(response);
    if (outgoing.method === "INVITE" && !this.#takeProvisional(outgoing, response, source)) {
      return;
    }
    this.#requests.deliver(outgoing, response, source);
  }

  /** False for a repetition of a reliable response. */
  #takeProvisional(outgoing: OutgoingRequest, response: SipResponse, source: Origin): boolean {
    const fork = this.#forkOf(outgoing, response, source);
    const rseq = rseqOf(response);
    if (rseq === undefined || fork?.dialog === undefined) {
      // drachtio-srf sends a PRACK for every RSeq it sees. Without the Require, or without a dialog, there must be none.
      response.headers.remove("RSeq");
      return true;
    }
    // RFC 3261 §12.1.2, RFC 6141 §4.9: a reliable response to a re-INVITE refreshes the remote target like its 2xx.
    if (outgoing.inDialog) {
      fork.dialog.refreshTarget(response);
    }
    return fork.reliable.accept(rseq);
  }

  /** The branch that a provisional response came from, entered when it is the first of that branch. */
  #forkOf(outgoing: OutgoingRequest, response: SipResponse, source: Origin): Fork | undefined {
    const remoteTag = tagOf(response.headers.get("To")) ?? "";
    const known = outgoing.forks.get(remoteTag);
    if (known !== undefined || outgoing.forks.size >= mostForks) {
      return known;
    }
    const dialog = outgoing.inDialog ? outgoing.dialog : this.#earlyDialog(outgoing, response, source);
    const fork: Fork = { dialog, reliable: new ReliableResponses() };
    outgoing.forks.set(remoteTag, fork);
    outgoing.dialog ??= dialog;
    return fork;
  }

  #earlyDialog(outgoing: OutgoingRequest, response: SipResponse, source: Origin): Dialog | undefined {
    const { callId, seq } = outgoing;
    const state = uacDialogState(outgoing.request, response, callId, seq);
    const dialog = state === undefined ? undefined : new Dialog(state, this.#core.parts.clock);
    if (dialog === undefined || !this.#core.addDialog(dialog, outgoing.dialog !== undefined)) {
      return undefined;
    }
    dialog.owner = outgoing.client;
    dialog.localInvite = outgoing.txnId;
    dialog.connection = connectionOf(response, source);
    return dialog;
  }

  /** Ends a request without the peer. A 2xx that comes too late for an INVITE is still acknowledged and ended. */
  #giveUp(outgoing: OutgoingRequest, status: number): void {
    if (!this.#requests.isOpen(outgoing)) {
      return;
    }
    this.#final(outgoing, this.#core.synthetic(outgoing.request, status), outgoing.hop);
    if (outgoing.method === "INVITE") {
      this.#requests.keepGivenUp(outgoing);
    }
  }

  /** A final response other than a 2xx to an INVITE, from the network or made by the engine. */
  #final(outgoing: OutgoingRequest, response: SipResponse, source: NextHop): void {
    if (!this.#requests.isOpen(outgoing)) {
      return;
    }
    const { dialog, method } = outgoing;
    this.#requests.forget(outgoing);
    // RFC 3261 §12.3.
    endForks(this.#core, outgoing);
    if (method === "SUBSCRIBE" && !outgoing.inDialog && response.status < 300) {
      this.#subscribed(outgoing, response, source);
    }
    if (dialog !== undefined) {
      if (dialog.localInvite === outgoing.txnId) {
        dialog.localInvite = undefined;
      }
      if (dialog.localUpdate === outgoing.txnId) {
        dialog.localUpdate = undefined;
      }
      if (outgoing.inDialog && response.status < 300 && targetRefreshes.has(method)) {
        dialog.refreshTarget(response);
        dialog.noteLocalSdp(outgoing.request);
        if (dialog.phase === "confirmed") {
          this.#core.sessions.confirmed(dialog, outgoing.request, response);
        }
      } else if (this.#isRefresh(outgoing)) {
        this.#core.sessions.refused(dialog, response);
        dialog.releaseIfFree();
      }
      followSubscription(this.#core, dialog, outgoing.request, response);
      if (dialog.bye === outgoing.txnId) {
        dialog.bye = undefined;
        // A BYE that was challenged is sent again with credentials; any other answer is the end of the dialog.
        if (response.status !== 401 && response.status !== 407) {
          this.#core.endCall(dialog);
        } else if (dialog.phase !== "ended") {
          dialog.timers.start("credentials", this.#core.parts.timers.t64Ms, () => {
            this.#core.endCall(dialog);
          });
        }
      }
    }
    if (!outgoing.detached) {
      withoutBrokenContact(response);
      this.#requests.deliver(outgoing, response, source);
    }
    for (const take of outgoing.overtakers.splice(0)) {
      take();
    }
  }

  /** RFC 6665 §4.4.1: the dialog of our subscription. A 2xx without a usable Contact, or for nobody, makes none. */
  #subscribed(outgoing: OutgoingRequest, response: SipResponse, source: NextHop): void {
    const { client } = outgoing;
    const state = uacDialogState(outgoing.request, response, outgoing.callId, outgoing.seq);
    const wanted = client !== undefined && this.#core.parts.events.isConnected(client);
    if (state === undefined || contactTarget(response.headers) === undefined || !wanted) {
      return;
    }
    const dialog = new Dialog(state, this.#core.parts.clock);
    if (!this.#core.addDialog(dialog)) {
      return;
    }
    dialog.hasCall = false;
    dialog.phase = "confirmed";
    dialog.owner = client;
    dialog.connection =
      source.local === undefined ? undefined : connectionOf(response, { ...source, local: source.local });
    outgoing.dialog = dialog;
    followSubscription(this.#core, dialog, outgoing.request, response);
  }

  isInviting(callId: string, localTag: string): boolean {
    return this.#requests.opening(callId, localTag)?.method === "INVITE";
  }

  /** RFC 6665 §4.1.2.4: a NOTIFY may overtake the 2xx; drachtio-srf has no Dialog for it before that. */
  holdNotify(callId: string, localTag: string, run: () => void): boolean {
    const outgoing = this.#requests.opening(callId, localTag);
    if (outgoing?.method !== "SUBSCRIBE" || outgoing.overtakers.length >= mostOvertakers) {
      return false;
    }
    outgoing.overtakers.push(run);
    return true;
  }

  /** A 2xx to an INVITE whose transaction is over. */
  onStrayResponse(response: SipResponse, source: Origin): void {
    this.#accepted.onStrayResponse(response, source);
  }

  /** Whether a response is one to an INVITE that the engine ended by itself and whose dialogs it still ends. */
  isGivenUp(response: SipResponse): boolean {
    return this.#requests.givenUpFor(response) !== undefined;
  }

  /** Stops every timer. */
  close(): void {
    this.#requests.close();
    this.#outbox.clear();
  }

  /** Who waits for the response to a request. */
  owners(): (ClientId | undefined)[] {
    return [...this.#requests.all()].map(({ client }) => client);
  }

  /** INVITEs of a connection that is gone are cancelled: nobody is left who could acknowledge their 2xx. */
  clientGone(client: ClientId): void {
    if (this.#core.imitates("pending")) {
      return;
    }
    for (const outgoing of this.#requests.all()) {
      if (outgoing.client !== client || outgoing.method !== "INVITE") {
        continue;
      }
      if (outgoing.phase === "accepted") {
        this.#accepted.lostBeforeAck(outgoing);
      } else if (!outgoing.inDialog && this.#requests.isOpen(outgoing)) {
        this.#cancelInvite(outgoing, new Headers([{ name: "Reason", value: noApplication }]));
      }
    }
  }

  /** Cancels what rings, because the engine is about to close. */
  endAll(reason: string): void {
    for (const outgoing of this.#requests.all()) {
      if (outgoing.method === "INVITE" && !outgoing.inDialog && this.#requests.isOpen(outgoing)) {
        this.#cancelInvite(outgoing, new Headers([{ name: "Reason", value: reason }]));
      }
    }
  }
}
