import type { ExchangeId, LegId, Sdp } from "../call/ids.ts";
import type { CallEvent } from "../call/event.ts";
import type { Cancellable, Clock } from "../lib/clock.ts";
import type { IncomingRequest, SipDialog } from "./link/types.ts";

/** Methods we understand, for Allow (RFC 3261 §20.5). */
export const allowedMethods = "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE, NOTIFY";

/** Requests a peer may send within one dialog in one second; talking legs send a handful. */
const requestsPerSecond = 20;

export interface InDialogOptions {
  readonly leg: LegId;
  readonly dialog: SipDialog;
  /** Counts the leg's dialogs: an answer for the one before must not be taken for this one's. */
  readonly number: number;
  readonly clock: Clock;
  /** How long the call may take to answer an offer. */
  readonly exchangeMs: number;
  /** False when no call takes the event. */
  readonly post: (event: CallEvent) => boolean;
  /** A NOTIFY; true when it belonged to a REFER of ours. */
  readonly onNotify: (request: IncomingRequest) => boolean;
  /** A REFER; whoever takes it answers it. Left out: it is declined. */
  readonly onRefer?: (request: IncomingRequest) => void;
}

/** Answers what a peer sends within a confirmed dialog. */
export class InDialog {
  readonly #options: InDialogOptions;
  #exchange: { readonly id: ExchangeId; readonly request: IncomingRequest; readonly deadline: Cancellable } | undefined;
  /** Our offer is in a 200, and its answer comes in the ACK. */
  #answerInAck = false;
  #exchanges = 0;
  #second = 0;
  #inSecond = 0;
  #closed = false;

  constructor(options: InDialogOptions) {
    this.#options = options;
  }

  /** re-INVITE or UPDATE with an offer. */
  offered(request: IncomingRequest): void {
    const { leg, number, clock, exchangeMs, post } = this.#options;
    if (this.#refused(request)) {
      return;
    }
    if (this.#exchange !== undefined) {
      // RFC 3261 §14.2 and RFC 3311 §5.2: an offer while another waits for its answer.
      request.respond(500, undefined, { headers: [{ name: "Retry-After", value: "1" }] });
      return;
    }
    if (request.body !== "" && !/^application\/sdp\b/i.test(request.header("content-type") ?? "")) {
      request.respond(415, undefined, { headers: [{ name: "Accept", value: "application/sdp" }] });
      return;
    }
    this.#exchanges += 1;
    const id = `${leg}/exchange-${number}.${this.#exchanges}` as ExchangeId;
    const deadline = clock.after(exchangeMs, () => {
      this.refuse(id, 500);
    });
    this.#exchange = { id, request, deadline };
    const offer = request.body === "" ? null : (request.body as Sdp);
    if (!post({ type: "leg.offered", leg, exchange: id, offer })) {
      this.refuse(id, 500);
    }
  }

  reanswer(exchange: ExchangeId, answer: Sdp): void {
    // RFC 3261 §12.2.2: a 2xx to a target refresh request carries our Contact.
    const contact = { name: "Contact", value: this.#options.dialog.localContact };
    const type = { name: "Content-Type", value: "application/sdp" };
    // RFC 3261 §14.2: a re-INVITE without SDP asks for our offer.
    this.#answerInAck = this.#exchange?.id === exchange && this.#exchange.request.body === "";
    this.#take(exchange)?.respond(200, undefined, { headers: [contact, type], body: answer });
  }

  /** The ACK of our 200 to a re-INVITE, or of the first one. */
  acknowledged(body: string): void {
    if (!this.#answerInAck || this.#closed) {
      return;
    }
    this.#answerInAck = false;
    if (body !== "") {
      this.#options.post({ type: "leg.reanswered", leg: this.#options.leg, answer: body as Sdp });
    }
  }

  refuse(exchange: ExchangeId, status: number): void {
    this.#take(exchange)?.respond(status);
  }

  /** Anything but an offer. */
  asked(request: IncomingRequest): void {
    if (this.#refused(request)) {
      return;
    }
    switch (request.method) {
      case "INFO":
        this.#info(request);
        break;
      case "OPTIONS":
        answerOptions(request);
        break;
      case "UPDATE":
        request.respond(200, undefined, { headers: [{ name: "Contact", value: this.#options.dialog.localContact }] });
        break;
      case "NOTIFY":
        // RFC 6665 §4.1.3: a NOTIFY that matches no subscription.
        request.respond(this.#options.onNotify(request) ? 200 : 481);
        break;
      case "REFER":
        // Moving the caller is the bot's business, and an operator's where the channel lets him. RFC 3515 §2.4.2.
        if (this.#options.onRefer === undefined) request.respond(603);
        else this.#options.onRefer(request);
        break;
      default:
        request.respond(405, undefined, { headers: [{ name: "Allow", value: allowedMethods }] });
    }
  }

  /** The dialog is over; an open exchange is answered, as every request must be. */
  close(): void {
    this.#closed = true;
    const exchange = this.#exchange;
    if (exchange !== undefined) {
      this.#take(exchange.id)?.respond(481);
    }
  }

  #take(id: ExchangeId): IncomingRequest | undefined {
    const exchange = this.#exchange;
    if (exchange?.id !== id) {
      return undefined;
    }
    this.#exchange = undefined;
    exchange.deadline.cancel();
    return exchange.request;
  }

  #info(request: IncomingRequest): void {
    const { leg, post } = this.#options;
    const type = (request.header("content-type") ?? "").split(";")[0]?.trim().toLowerCase() ?? "";
    if (type !== "application/dtmf-relay" && type !== "application/dtmf" && request.body !== "") {
      request.respond(415, undefined, {
        headers: [{ name: "Accept", value: "application/dtmf-relay, application/dtmf" }],
      });
      return;
    }
    request.respond(200);
    const press = readKeyPress(type, request.body);
    if (press !== undefined) {
      post({ type: "media.digit", leg, ...press, carriedBy: "info" });
    }
  }

  #refused(request: IncomingRequest): boolean {
    if (this.#closed) {
      // RFC 3261 §15.1.2: our BYE is out, so the dialog is no more.
      request.respond(481);
      return true;
    }
    const second = Math.floor(this.#options.clock.now() / 1000);
    if (second !== this.#second) {
      this.#second = second;
      this.#inSecond = 0;
    }
    this.#inSecond += 1;
    if (this.#inSecond <= requestsPerSecond) {
      return false;
    }
    request.respond(500, undefined, { headers: [{ name: "Retry-After", value: "1" }] });
    return true;
  }
}

export function answerOptions(request: IncomingRequest): void {
  // RFC 3261 §11.2.
  request.respond(200, undefined, {
    headers: [
      { name: "Allow", value: allowedMethods },
      { name: "Accept", value: "application/sdp" },
    ],
  });
}

// Some gateways write the event numbers of RFC 4733 §3.2 instead of the keys.
const keysByNumber: Readonly<Record<string, string>> = {
  "10": "*",
  "11": "#",
  "12": "A",
  "13": "B",
  "14": "C",
  "15": "D",
};

/** A key press carried by INFO: `application/dtmf-relay` has Signal and Duration lines, `application/dtmf` the bare key. */
export function readKeyPress(
  type: string,
  body: string,
): { readonly digit: string; readonly durationMs: number } | undefined {
  const text = body.slice(0, 256);
  const signal =
    type === "application/dtmf-relay" ? /^[ \t]*Signal[ \t]*=[ \t]*(\S{1,2})[ \t]*$/im.exec(text)?.[1] : text.trim();
  const digit = keysByNumber[signal ?? ""] ?? signal?.toUpperCase();
  if (digit === undefined || !/^[0-9*#A-D]$/.test(digit)) {
    return undefined;
  }
  const duration = Number(/^[ \t]*Duration[ \t]*=[ \t]*(\d{1,5})[ \t]*$/im.exec(text)?.[1] ?? "160");
  return { digit, durationMs: Math.min(duration, 10_000) };
}
