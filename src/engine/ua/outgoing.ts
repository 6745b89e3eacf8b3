import { dialogIdOf } from "../dialog/dialog.ts";
import type { Dialog } from "../dialog/dialog.ts";
import type { ClientId, SipCommand } from "../events.ts";
import { parseCSeq } from "../sip/grammar.ts";
import type { SipRequest, SipResponse } from "../sip/message.ts";
import { TimerSet } from "../timers.ts";
import type { Core, NextHop, Origin, Outbound } from "./core.ts";
import { tagOf, textForApp } from "./headers.ts";
import type { ReliableResponses } from "./reliable.ts";

export interface SentAck {
  readonly request: SipRequest;
  readonly hops: readonly NextHop[];
}

export interface OutgoingRequest {
  readonly txnId: string;
  readonly method: string;
  readonly callId: string;
  readonly seq: number;
  readonly fromTag: string;
  /** Undefined for what the engine sends on its own: no application waits for the response. */
  readonly client: ClientId | undefined;
  /** Set as soon as the transaction exists; events that come earlier are kept back by the transaction layer. */
  request: SipRequest;
  transaction: Outbound | undefined;
  hop: NextHop;
  /** The dialog the request was sent in, or the one its responses made. */
  dialog: Dialog | undefined;
  readonly inDialog: boolean;
  /**
   * `accepted`: an INVITE that got a 2xx, kept for its repetitions and for forks. `givenUp`: one that the engine ended by
   * itself, kept because the peer may still answer it.
   */
  phase: "trying" | "proceeding" | "accepted" | "givenUp";
  /** The application asked for a CANCEL; a 2xx that wins against it is ended after the ACK. */
  cancelled: boolean;
  /** The dialog ended or the application is gone: a 2xx is acknowledged and nobody is told. */
  detached: boolean;
  /** NOTIFYs that came before the answer to this SUBSCRIBE. */
  readonly overtakers: (() => void)[];
  /** By remote tag: what has rung. */
  readonly forks: Map<string, Fork>;
  /** By remote tag: the ACK to repeat for each repeated 2xx. */
  readonly acks: Map<string, SentAck>;
  /** The To tag of the 2xx that made the dialog. */
  winner: string | undefined;
  readonly timers: TimerSet;
}

/** One branch of a forked INVITE that has rung, under its To tag. */
export interface Fork {
  /** Undefined where no dialog could be made of its response. */
  readonly dialog: Dialog | undefined;
  readonly reliable: ReliableResponses;
}

/** What the network says to a request of ours. */
export interface OutgoingEvents {
  response(outgoing: OutgoingRequest, response: SipResponse, source: Origin): void;
  /** RFC 3261 §8.1.3.1: a timeout counts as a 408, a transport error as a 503. */
  failed(outgoing: OutgoingRequest, status: 408 | 503): void;
}

/** Every request of ours that is not over yet, and the INVITEs whose late 2xx still has to be ended. */
export class OutgoingRequests {
  readonly #core: Core;
  readonly #events: OutgoingEvents;
  readonly #byTxn = new Map<string, OutgoingRequest>();
  /** INVITEs and SUBSCRIBEs that may make a dialog, by Call-ID and our tag. */
  readonly #openings = new Map<string, OutgoingRequest>();
  /** INVITEs that the engine ended by itself, by Call-ID, our tag and CSeq. */
  readonly #givenUp = new Map<string, OutgoingRequest>();

  constructor(core: Core, events: OutgoingEvents) {
    this.#core = core;
    this.#events = events;
  }

  get size(): number {
    return this.#byTxn.size;
  }

  get timers(): number {
    let timers = 0;
    for (const outgoing of this.#byTxn.values()) {
      timers += outgoing.timers.size;
    }
    return timers;
  }

  all(): OutgoingRequest[] {
    return [...this.#byTxn.values()];
  }

  get(txnId: string | undefined): OutgoingRequest | undefined {
    return txnId === undefined ? undefined : this.#byTxn.get(txnId);
  }

  openInDialog(dialog: Dialog, request: SipRequest, hop: NextHop, client: ClientId | undefined): OutgoingRequest {
    return this.open(request, hop, {
      callId: dialog.callId,
      seq: dialog.localSeq,
      fromTag: dialog.localTag,
      client,
      dialog,
    });
  }

  open(
    request: SipRequest,
    hop: NextHop,
    parts: { callId: string; seq: number; fromTag: string; client: ClientId | undefined; dialog: Dialog | undefined },
  ): OutgoingRequest {
    const outgoing: OutgoingRequest = {
      txnId: this.#core.parts.random.uuid(),
      method: request.method,
      callId: parts.callId,
      seq: parts.seq,
      fromTag: parts.fromTag,
      client: parts.client,
      request,
      transaction: undefined,
      hop,
      dialog: parts.dialog,
      inDialog: parts.dialog !== undefined,
      phase: "trying",
      cancelled: false,
      detached: false,
      overtakers: [],
      forks: new Map(),
      acks: new Map(),
      winner: undefined,
      timers: new TimerSet(this.#core.parts.clock),
    };
    this.#byTxn.set(outgoing.txnId, outgoing);
    if (!outgoing.inDialog && (request.method === "INVITE" || request.method === "SUBSCRIBE")) {
      this.#openings.set(`${outgoing.callId} ${outgoing.fromTag}`, outgoing);
    }
    return outgoing;
  }

  launch(outgoing: OutgoingRequest, hops: readonly NextHop[]): void {
    this.#core.parts.counters.add("requestsOut");
    const transaction = this.#core.parts.network.request(outgoing.request, hops, {
      response: (response, source) => {
        this.#events.response(outgoing, response, source);
      },
      timeout: () => {
        this.#events.failed(outgoing, 408);
      },
      transportError: () => {
        this.#events.failed(outgoing, 503);
      },
    });
    outgoing.transaction = transaction;
    outgoing.request = transaction.request;
  }

  replySent(command: SipCommand, outgoing: OutgoingRequest): void {
    const { request } = outgoing;
    this.#core.reply(command, {
      type: "sent",
      kind: "request",
      peer: outgoing.hop,
      txnId: outgoing.txnId,
      dialogId: undefined,
      get message() {
        return textForApp(request);
      },
    });
  }

  deliver(outgoing: OutgoingRequest, response: SipResponse, source: NextHop): void {
    if (outgoing.client === undefined) {
      return;
    }
    const usesDialogId = outgoing.dialog !== undefined || outgoing.method === "INVITE";
    const dialogId = outgoing.dialog?.id ?? dialogIdOf(outgoing.callId, outgoing.fromTag);
    this.#core.parts.events.deliver(outgoing.client, {
      source: "network",
      peer: source,
      txnId: outgoing.txnId,
      dialogId: usesDialogId ? dialogId : undefined,
      get message() {
        return textForApp(response);
      },
    });
  }

  isOpen(outgoing: OutgoingRequest): boolean {
    return this.#byTxn.has(outgoing.txnId) && (outgoing.phase === "trying" || outgoing.phase === "proceeding");
  }

  /** Our INVITE or SUBSCRIBE without a final response that a request from the network may have overtaken. */
  opening(callId: string, localTag: string): OutgoingRequest | undefined {
    const found = this.#openings.get(`${callId} ${localTag}`);
    return found !== undefined && this.isOpen(found) ? found : undefined;
  }

  /** Whether it is still kept, open or waiting for repetitions of its 2xx. */
  isKept(outgoing: OutgoingRequest): boolean {
    return this.#byTxn.has(outgoing.txnId);
  }

  /** Keeps an INVITE that the engine ended by itself for as long as its 2xx may come. */
  keepGivenUp(outgoing: OutgoingRequest): void {
    outgoing.phase = "givenUp";
    this.#byTxn.set(outgoing.txnId, outgoing);
    this.#givenUp.set(inviteKey(outgoing.callId, outgoing.fromTag, outgoing.seq), outgoing);
    outgoing.timers.start("linger", this.#core.parts.timers.t64Ms, () => {
      this.forget(outgoing);
    });
  }

  /** The INVITE that the engine ended by itself and that this response answers. */
  givenUpFor(response: SipResponse): OutgoingRequest | undefined {
    return this.#givenUp.get(keyOfResponse(response));
  }

  forget(outgoing: OutgoingRequest): void {
    outgoing.timers.clear();
    this.#byTxn.delete(outgoing.txnId);
    const opening = `${outgoing.callId} ${outgoing.fromTag}`;
    if (this.#openings.get(opening) === outgoing) {
      this.#openings.delete(opening);
    }
    const key = inviteKey(outgoing.callId, outgoing.fromTag, outgoing.seq);
    if (this.#givenUp.get(key) === outgoing) {
      this.#givenUp.delete(key);
    }
  }

  /** Stops every timer. */
  close(): void {
    for (const outgoing of this.#byTxn.values()) {
      this.forget(outgoing);
    }
  }
}

function keyOfResponse({ headers }: SipResponse): string {
  const seq = parseCSeq(headers.get("CSeq") ?? "")?.number ?? 0;
  return inviteKey(headers.get("Call-ID") ?? "", tagOf(headers.get("From")) ?? "", seq);
}

// Call-IDs and tags hold no blanks.
function inviteKey(callId: string, fromTag: string, seq: number): string {
  return `${callId} ${fromTag} ${seq}`;
}
