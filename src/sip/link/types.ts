import type { Clock } from "../../lib/clock.ts";
import type { Log } from "../../telemetry/log.ts";
import type { HeaderLine, ReceivedHeaders } from "../message.ts";
import type { SipFault } from "./fault.ts";

/** A response as it arrived. */
export interface Reply extends ReceivedHeaders {
  readonly status: number;
  readonly reason: string;
  readonly body: string;
  /** Address the response came from. */
  readonly sourceAddress: string;
}

export interface ReplyOptions {
  readonly headers?: readonly HeaderLine[];
  readonly body?: string;
}

/** A request from the network that waits for our answer. */
export interface IncomingRequest extends ReceivedHeaders {
  readonly method: string;
  readonly uri: string;
  readonly body: string;
  readonly protocol: string;
  readonly sourceAddress: string;
  readonly sourcePort: number;
  /** True once a final answer was given, or none is wanted any more. */
  readonly settled: boolean;
  /** Never throws; does nothing once the request is settled. */
  respond(status: number, reason?: string, options?: ReplyOptions): void;
  /** Leaves it without an answer for ever. */
  ignore(): void;
}

/** An INVITE outside of any dialog. */
export interface IncomingInvite extends IncomingRequest {
  /** Called at most once, when the CANCEL arrives; `run` gets its headers. At once if it has arrived already. */
  onCancel(run: (cancel: ReceivedHeaders) => void): void;
  /** Sends a 200 with `sdp`. Exactly one of the two is called, in the tick in which the dialog is made. */
  accept(sdp: string, headers: readonly HeaderLine[], on: AcceptEvents): void;
}

export interface AcceptEvents {
  accepted(dialog: SipDialog): void;
  failed(fault: SipFault): void;
}

/** What the peer does inside a dialog. Requests handed over must be answered. */
export interface DialogEvents {
  /** The dialog is over; `byPeer` is false when the engine ended it (no ACK came, the session timer ran out). */
  ended(end: { readonly byPeer: boolean; readonly text: string; readonly headers: ReceivedHeaders }): void;
  /** The ACK of the initial INVITE or of a re-INVITE, with its SDP where we had offered. */
  acknowledged(body: string): void;
  /** re-INVITE or UPDATE with an offer, or a re-INVITE that asks for one. */
  offered(request: IncomingRequest): void;
  /** Everything else: INFO, NOTIFY, MESSAGE, OPTIONS, REFER, UPDATE without an offer. */
  asked(request: IncomingRequest): void;
}

export interface SipDialog {
  readonly callId: string;
  readonly localTag: string;
  readonly remoteTag: string;
  /** False as soon as either side has ended it. */
  readonly connected: boolean;
  /** Address of the peer's Contact. */
  readonly remoteUri: string;
  /** Our own Contact, as it was sent. */
  readonly localContact: string;
  /** From now on events go here; called in the tick in which the dialog is made. */
  listen(events: DialogEvents): void;
  /** Sends a request inside the dialog; the ACK to a 2xx is sent here. Resolves always: with the final response, or with why there is none. */
  send(
    method: "BYE" | "INFO" | "INVITE" | "NOTIFY" | "OPTIONS" | "REFER",
    options: ReplyOptions & { readonly timeoutMs: number },
  ): Promise<Reply | SipFault>;
  /** The dialog is of no more interest: no event comes from it any more. Sends nothing. */
  forget(): void;
}

export interface InviteOptions {
  readonly uri: string;
  /** Next hop when it is not the URI's own host. */
  readonly proxy: string | null;
  readonly headers: readonly HeaderLine[];
  readonly sdp: string;
}

/** The INVITE as it was really sent; what a second INVITE with credentials has to repeat (RFC 3261 §8.1.3.5). */
export interface SentInvite {
  readonly callId: string;
  readonly cseq: number;
  readonly from: string;
  readonly uri: string;
}

/** `sent` and `provisional` may come; then exactly one of `answered` and `failed`. */
export interface InviteEvents {
  sent(invite: SentInvite): void;
  provisional(reply: Reply): void;
  answered(dialog: SipDialog, reply: Reply): void;
  failed(result: Reply | SipFault): void;
}

export interface OutgoingInvite {
  /** CANCEL; held by the engine until the first provisional response (RFC 3261 §9.1). */
  cancel(headers: readonly HeaderLine[]): void;
  /** Nothing of this INVITE is wanted any more; a dialog that still comes of it is ended. */
  abandon(): void;
}

/** What the parts of the link have in common. */
export interface LinkContext {
  readonly clock: Clock;
  readonly log: Log;
  /** How long the engine may take to acknowledge what it was told to send. */
  readonly replyTimeoutMs: number;
}
