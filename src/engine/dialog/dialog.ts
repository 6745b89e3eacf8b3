import type { ClientId } from "../events.ts";
import { param, parseNameAddr, parseUri } from "../sip/grammar.ts";
import type { Headers, SipRequest, SipResponse } from "../sip/message.ts";
import type { Clock } from "../timers.ts";
import { TimerSet } from "../timers.ts";
import { contactTarget, tagOf } from "../ua/headers.ts";
import type { ReliableAnswers } from "../ua/reliable.ts";
import { sessionOff } from "./session-timer.ts";
import type { SessionState } from "./session-timer.ts";

export type DialogRole = "uas" | "uac";

/** `early` until a 2xx; `ending` from our BYE on; `ended` once nothing of it is left in the tables. */
export type DialogPhase = "early" | "confirmed" | "ending" | "ended";

export interface DialogState {
  readonly role: DialogRole;
  readonly callId: string;
  readonly localTag: string;
  readonly remoteTag: string;
  /** The From (when we send) of this side: address with our tag, as it stood in the request that made the dialog. */
  readonly localAddress: string;
  readonly remoteAddress: string;
  readonly localContact: string;
  readonly routeSet: readonly string[];
  readonly remoteTarget: string;
  /** Our last CSeq number; the one of the INVITE for a UAC, a random start for a UAS. */
  readonly localSeq: number;
  readonly remoteSeq: number | undefined;
  /** The dialog id of drachtio's protocol is made from the From tag of the request that made the dialog. */
  readonly fromTag: string;
}

export interface HeldRequest {
  readonly method: string;
  /** Sends it, or refuses it when the dialog is over by then. */
  readonly run: () => void;
}

/** Where a request inside the dialog goes: RFC 3261 §12.2.1.1. */
export interface DialogRoute {
  readonly requestUri: string;
  readonly routes: readonly string[];
  /** The URI that names the next hop. */
  readonly nextHop: string;
}

/** The TCP or TLS connection that the peer of a dialog was last heard on. */
export interface PeerConnection {
  readonly hop: {
    readonly protocol: "tcp" | "tls";
    readonly address: string;
    readonly port: number;
    readonly local: { readonly address: string; readonly port: number };
    readonly connection: object;
    readonly domain?: string;
  };
  /** The peer opened it himself, with no proxy in between: whatever his Contact says, he is at its other end. */
  readonly direct: boolean;
}

/** drachtio-srf hard-codes this form in `findDialogByCallIDAndFromTag`. */
export function dialogIdOf(callId: string, fromTag: string): string {
  return `${callId};from-tag=${fromTag}`;
}

/**
 * One RFC 3261 §12 dialog: its identifiers, sequence numbers, route set and remote target, and which INVITE of either
 * side is open in it. It sends nothing itself.
 */
export class Dialog {
  readonly id: string;
  readonly role: DialogRole;
  readonly callId: string;
  readonly localTag: string;
  readonly remoteTag: string;
  readonly localAddress: string;
  readonly remoteAddress: string;
  readonly timers: TimerSet;
  localContact: string;
  phase: DialogPhase = "early";
  /** Whether an INVITE uses the dialog: false for one that a SUBSCRIBE made, and once the call in it is over. */
  hasCall = true;
  /** RFC 5057 §3: the subscriptions that use the dialog, by event package and id. */
  readonly subscriptions = new Set<string>();
  /** The connection that gets what comes in this dialog: the last one that sent something in it. */
  owner: ClientId | undefined;
  /** The tags of the last owner once that connection is gone and nobody has taken its place. */
  orphanOf: string | undefined;
  /** Transaction id of our own INVITE in this dialog that has no final response yet. */
  localInvite: string | undefined;
  /** Transaction id of our own UPDATE with an offer that has no final response yet. */
  localUpdate: string | undefined;
  /** Transaction id of our own INVITE that got its 2xx and waits for the application's ACK. */
  unacknowledged: string | undefined;
  /** Transaction id of the peer's INVITE that we have not answered finally. */
  remoteInvite: string | undefined;
  /** Transaction id of the peer's UPDATE that we have not answered. */
  remoteUpdate: string | undefined;
  /** Our reliable provisional responses to the peer's last INVITE that got any: their PRACKs come in this dialog. */
  reliable: ReliableAnswers | undefined;
  /** Transaction ids of the peer's INVITEs that got our 2xx and were not acknowledged yet. */
  readonly awaitingAck = new Set<string>();
  connection: PeerConnection | undefined;
  /** drachtio-server never replaces the remote target (`parity.ts`). */
  keepsTarget = false;
  /** RFC 4028: how long the session lives without a refresh. */
  session: SessionState = sessionOff;
  /** The SDP of ours that holds now, byte for byte as it was sent: a refresh repeats it. */
  localSdp: Buffer | undefined;
  /** Our BYE on its way. */
  bye: string | undefined;
  /**
   * Requests of ours that have to wait until the peer's ACK came: BYE (RFC 3261 §15) and INVITE (§14.1); and an
   * application's INVITE while the engine's own refresh is under way.
   */
  readonly afterAck: HeldRequest[] = [];
  #routeSet: readonly string[];
  #remoteTarget: string;
  #localSeq: number;
  #remoteSeq: number | undefined;

  constructor(state: DialogState, clock: Clock) {
    this.id = dialogIdOf(state.callId, state.fromTag);
    this.role = state.role;
    this.callId = state.callId;
    this.localTag = state.localTag;
    this.remoteTag = state.remoteTag;
    this.localAddress = state.localAddress;
    this.remoteAddress = state.remoteAddress;
    this.localContact = state.localContact;
    this.timers = new TimerSet(clock);
    this.#routeSet = state.routeSet;
    this.#remoteTarget = state.remoteTarget;
    this.#localSeq = state.localSeq;
    this.#remoteSeq = state.remoteSeq;
  }

  get remoteTarget(): string {
    return this.#remoteTarget;
  }

  get routeSet(): readonly string[] {
    return this.#routeSet;
  }

  get localSeq(): number {
    return this.#localSeq;
  }

  /** The CSeq number of the next request of ours: one more than the last, whatever became of that one. */
  nextLocalSeq(): number {
    this.#localSeq += 1;
    return this.#localSeq;
  }

  /** Lets go of what waited for an ACK, because it came or will not come any more. */
  releaseHeld(): void {
    for (const held of this.afterAck.splice(0)) {
      held.run();
    }
  }

  /** The same once neither an ACK nor a refresh of the engine's own stands in the way. */
  releaseIfFree(): void {
    if (this.awaitingAck.size === 0 && this.localInvite === undefined) {
      this.releaseHeld();
    }
  }

  /**
   * RFC 3261 §12.2.2: a request numbered below the last one came out of order and is answered 500. An equal number is let
   * pass, because a retransmission never gets here.
   */
  acceptRemoteSeq(number: number): boolean {
    if (this.#remoteSeq !== undefined && number < this.#remoteSeq) {
      return false;
    }
    this.#remoteSeq = number;
    return true;
  }

  /** Remembers the SDP of a message of ours that took effect; one without leaves what held before. */
  noteLocalSdp({ headers, body }: { readonly headers: Headers; readonly body: Buffer }): void {
    if (body.length > 0 && /^application\/sdp\b/i.test(headers.get("Content-Type") ?? "")) {
      this.localSdp = body;
    }
  }

  /** RFC 3261 §12.2.1.2, §12.2.2: a target refresh replaces the remote target; the route set stays for the dialog's life. */
  refreshTarget(message: SipRequest | SipResponse): void {
    if (!this.keepsTarget) {
      this.#takeTarget(message);
    }
  }

  #takeTarget(message: SipRequest | SipResponse): void {
    const target = contactTarget(message.headers);
    if (target !== undefined) {
      this.#remoteTarget = target;
    }
  }

  /**
   * RFC 3261 §13.2.2.4: the 2xx recomputes the route set and the target, because those of the early dialog came from a
   * provisional response that need not have been complete.
   */
  confirmFrom(response: SipResponse, request: SipRequest): void {
    this.#routeSet = routesOf(response, request);
    this.#takeTarget(response);
    this.phase = "confirmed";
  }

  /** What another process needs to send in the dialog, and to know what comes in it. */
  state(): DialogState {
    const { role, callId, localTag, remoteTag, localAddress, remoteAddress, localContact } = this;
    return {
      role,
      callId,
      localTag,
      remoteTag,
      localAddress,
      remoteAddress,
      localContact,
      routeSet: this.#routeSet,
      remoteTarget: this.#remoteTarget,
      localSeq: this.#localSeq,
      remoteSeq: this.#remoteSeq,
      fromTag: role === "uas" ? remoteTag : localTag,
    };
  }

  route(): DialogRoute {
    const first = this.#routeSet[0];
    const address = first === undefined ? undefined : parseNameAddr(first);
    if (first === undefined || address?.sip === undefined) {
      return { requestUri: this.#remoteTarget, routes: [], nextHop: this.#remoteTarget };
    }
    if (param(address.sip.params, "lr") !== undefined) {
      return { requestUri: this.#remoteTarget, routes: this.#routeSet, nextHop: address.uri };
    }
    // RFC 3261 §12.2.1.1: a strict router gets its own URI as request URI, and the target moves to the end of the routes.
    return {
      requestUri: withoutMethodAndHeaders(address.uri),
      routes: [...this.#routeSet.slice(1), `<${this.#remoteTarget}>`],
      nextHop: address.uri,
    };
  }
}

/** RFC 3261 §19.1.1: neither headers nor a method parameter may stand in a request URI. */
function withoutMethodAndHeaders(uri: string): string {
  return parseUri(uri)?.headers === undefined ? uri : uri.slice(0, uri.indexOf("?"));
}

/** RFC 3261 §12.1.1: the dialog a UAS makes with its first response that carries a To tag. */
export function uasDialogState(
  request: SipRequest,
  callId: string,
  localTag: string,
  localAddress: string,
  localContact: string,
  localSeq: number,
  remoteSeq: number,
): DialogState | undefined {
  const remoteTag = tagOf(request.headers.get("From"));
  const remoteTarget = contactTarget(request.headers);
  if (remoteTag === undefined || remoteTarget === undefined) {
    return undefined;
  }
  return {
    role: "uas",
    callId,
    localTag,
    remoteTag,
    localAddress,
    remoteAddress: request.headers.get("From") ?? "",
    localContact,
    routeSet: request.headers.list("Record-Route"),
    remoteTarget,
    localSeq,
    remoteSeq,
    fromTag: remoteTag,
  };
}

/**
 * The routes stand in reverse order in a response. An INVITE that takes a dialog back brings the routes it had: the peer
 * sees a re-INVITE, and a response to that need not have them.
 */
function routesOf(response: SipResponse, request: SipRequest): readonly string[] {
  // A proxy without a host is nowhere, and a call is not worth losing for it: the way is shorter by that one.
  const recorded = response.headers
    .list("Record-Route")
    .filter((route) => parseNameAddr(route)?.sip !== undefined)
    .toReversed();
  return recorded.length === 0 ? request.headers.list("Route") : recorded;
}

/** RFC 3261 §12.1.2: the dialog a UAC makes from a response with a To tag. */
export function uacDialogState(
  request: SipRequest,
  response: SipResponse,
  callId: string,
  localSeq: number,
): DialogState | undefined {
  const localAddress = request.headers.get("From") ?? "";
  const remoteAddress = response.headers.get("To") ?? "";
  const localTag = tagOf(localAddress);
  const remoteTag = tagOf(remoteAddress);
  if (localTag === undefined || remoteTag === undefined) {
    return undefined;
  }
  return {
    role: "uac",
    callId,
    localTag,
    remoteTag,
    localAddress,
    remoteAddress,
    localContact: request.headers.get("Contact") ?? "",
    routeSet: routesOf(response, request),
    // Without a Contact the request's own target is all there is to reach the peer at.
    remoteTarget: contactTarget(response.headers) ?? request.uri,
    localSeq,
    remoteSeq: undefined,
    fromTag: localTag,
  };
}
