import type { Counters } from "../counters.ts";
import type { Dialog } from "../dialog/dialog.ts";
import type { SessionRules } from "../dialog/session-timer.ts";
import { DialogTable } from "../dialog/table.ts";
import type { CommandReply, EngineEvents, SipCommand, WirePeer } from "../events.ts";
import type { EngineLimits, EngineLog } from "../options.ts";
import type { Difference } from "../parity.ts";
import { reasonPhrase, responseTo } from "../sip/answer.ts";
import type { SipUri } from "../sip/grammar.ts";
import { formatHostPort } from "../sip/grammar.ts";
import type { Headers, SipRequest, SipResponse } from "../sip/message.ts";
import type { Clock, Random, SipTimers } from "../timers.ts";
import type { LocalHost } from "./headers.ts";
import { textForApp } from "./headers.ts";
import { Ownership } from "./ownership.ts";
import { SessionTimers } from "./session-refresh.ts";
import { limitReferrals } from "./subscriptions.ts";

/** Where one message is sent to. `connection` pins an open connection. */
export interface NextHop {
  readonly protocol: WirePeer["protocol"];
  readonly address: string;
  readonly port: number;
  /** Our own address to send from, when it matters. */
  readonly local?: { readonly address: string; readonly port: number };
  readonly connection?: object;
  /** TLS: the domain that the certificate of the other end has to name. */
  readonly domain?: string;
}

/** Where a message came from, and on which of our addresses. */
export interface Origin extends NextHop {
  readonly local: { readonly address: string; readonly port: number };
}

export type Resolution =
  | { readonly type: "hops"; readonly hops: readonly [NextHop, ...NextHop[]] }
  /** No listener for the transport the URI asks for. */
  | { readonly type: "noTransport" }
  | { readonly type: "failed"; readonly reason: string };

/** A client transaction as the user agent core uses it. */
export interface Outbound {
  /** The request as sent, Via included. */
  readonly request: SipRequest;
  /** RFC 3261 §9.1: sent at once or held until the first provisional response; forgotten when a final one comes first. */
  cancel(extra: Headers): void;
  /** Ends the transaction without waiting for the network any longer. */
  abandon(): void;
}

export interface OutboundEvents {
  response(response: SipResponse, source: Origin): void;
  timeout(): void;
  transportError(error: Error): void;
}

/** A server transaction as the user agent core uses it. */
export interface Inbound {
  readonly key: string;
  readonly request: SipRequest;
  readonly source: Origin;
  /** False when the transaction is over or its connection is gone. */
  respond(response: SipResponse): boolean;
  /** Ends the transaction without an answer. */
  abandon(): void;
}

/** What the user agent core needs of everything below it. */
export interface Network {
  /** Host and port to write into Via, Contact and From of a message to that hop. */
  localFor(hop: NextHop): LocalHost;
  /**
   * Calls back at once for addresses, later for names. With `address` nothing is looked up: the host was found already, and
   * is only what a certificate has to name.
   */
  resolve(uri: SipUri, done: (resolution: Resolution) => void, address?: string): void;
  /** Whether host and port of a URI are ones we listen on or advertise. */
  isOwn(host: string, port: number): boolean;
  request(request: SipRequest, hops: readonly NextHop[], on: OutboundEvents): Outbound;
  /**
   * Sends a message outside of any transaction, the ACK to a 2xx, to the first hop that takes it; nobody learns of a
   * failure but the log.
   */
  send(message: SipRequest, hops: readonly NextHop[]): void;
  /** Whether a connection that a message came over is open for requests of ours. */
  takesRequests(connection: object): boolean;
  /** A Via for such a message. */
  viaFor(hop: NextHop): string;
}

export interface CoreSettings {
  readonly orphanGraceMs: number;
  /** How long requests wait for an application that was there a moment ago. */
  readonly waitMs: number;
  readonly strictParity: boolean;
  readonly ringingLimitMs: number;
  readonly outboundProxy: SipUri | undefined;
  readonly userAgent: string | undefined;
  readonly session: SessionRules;
}

export interface CoreParts {
  readonly clock: Clock;
  readonly random: Random;
  readonly timers: SipTimers;
  readonly log: EngineLog;
  readonly counters: Counters;
  readonly limits: EngineLimits;
  readonly settings: CoreSettings;
  readonly network: Network;
  readonly events: EngineEvents;
}

/** What both halves of the user agent share: the dialogs, who owns them, and how applications are answered. */
export class Core {
  readonly parts: CoreParts;
  readonly dialogs = new DialogTable();
  readonly ownership: Ownership;
  readonly sessions: SessionTimers;

  constructor(parts: CoreParts) {
    this.parts = parts;
    this.ownership = new Ownership(this);
    this.sessions = new SessionTimers(parts, parts.settings.session);
  }

  refuse(command: SipCommand, text: string): void {
    this.parts.events.reply(command.client, command.requestId, { type: "refused", text });
  }

  reply(command: SipCommand, reply: CommandReply): void {
    this.parts.events.reply(command.client, command.requestId, reply);
  }

  /** Enters a new dialog, or one more branch of a fork. False when its id is taken or the table is full. */
  addDialog(dialog: Dialog, fork = false): boolean {
    if (this.dialogs.size >= this.parts.limits.dialogs) {
      return false;
    }
    if (fork) {
      this.dialogs.addFork(dialog);
    } else if (!this.dialogs.add(dialog)) {
      return false;
    }
    dialog.keepsTarget = this.imitates("target");
    this.parts.counters.add("dialogsCreated");
    return true;
  }

  endDialog(dialog: Dialog): void {
    if (dialog.phase === "ended") {
      return;
    }
    dialog.phase = "ended";
    this.dialogs.remove(dialog);
    this.parts.counters.add("dialogsEnded");
    // What still waited for an ACK is refused now: every command of an application gets its one reply.
    dialog.releaseHeld();
  }

  /** RFC 5057 §4.1: the end of a call leaves the subscriptions in its dialog standing. */
  endCall(dialog: Dialog): void {
    if (dialog.subscriptions.size === 0 || this.ownership.ownerOf(dialog) === undefined) {
      this.endDialog(dialog);
    } else if (dialog.hasCall && dialog.phase !== "ended") {
      dialog.hasCall = false;
      dialog.phase = "confirmed";
      this.sessions.stop(dialog);
      limitReferrals(this, dialog);
      dialog.releaseHeld();
    }
  }

  /** Whether to behave like drachtio-server in that respect. */
  imitates(_difference: Difference): boolean {
    return this.parts.settings.strictParity;
  }

  /** Tells the application of a BYE that the engine sent on its own; drachtio-srf answers nothing to it. */
  announceBye(dialog: Dialog, bye: SipRequest, peer: WirePeer): void {
    const owner = this.ownership.ownerOf(dialog);
    if (owner === undefined) {
      return;
    }
    this.parts.events.deliver(owner, {
      source: "application",
      peer,
      txnId: "unsolicited",
      dialogId: dialog.id,
      message: textForApp(bye),
    });
  }

  /**
   * `<sip:host:port>` of ours towards that hop, with the transport where it is not UDP; `<sips:host:port>` where the other
   * side asked for that.
   */
  contactFor(hop: NextHop, secure = false): string {
    // A sips URI is served over TLS, wherever the request came from.
    const { host, port } = this.parts.network.localFor(secure ? { ...hop, protocol: "tls" } : hop);
    if (secure) {
      return `<sips:${formatHostPort(host, port)}>`;
    }
    return `<sip:${formatHostPort(host, port)}${hop.protocol === "udp" ? "" : `;transport=${hop.protocol}`}>`;
  }

  newTag(): string {
    return this.parts.random.token(64);
  }

  /** A response the engine makes itself where the network gave none. */
  synthetic(request: SipRequest, status: number, reason: string = reasonPhrase(status)): SipResponse {
    this.parts.counters.add("syntheticResponses");
    return responseTo(request, status, { reason, toTag: this.newTag() });
  }
}
