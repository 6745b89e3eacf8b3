import { parseDecimal } from "../sip/grammar.ts";
import type { Headers, SipRequest, SipResponse } from "../sip/message.ts";
import type { Random } from "../timers.ts";

/** RFC 3262 §7.2: which provisional response of which request a PRACK acknowledges. */
export interface RAck {
  readonly rseq: number;
  readonly seq: number;
  readonly method: string;
}

const largestNumber = 2 ** 32 - 1;
/** Reliable provisional responses of one branch that the application was given and has not acknowledged. */
const mostUnacknowledged = 8;

export function requires100rel(headers: Headers): boolean {
  return headers.list("Require").some(is100rel);
}

/** Whether the sender of a request takes reliable provisional responses. */
export function offers100rel({ headers }: SipRequest): boolean {
  return requires100rel(headers) || headers.list("Supported").some(is100rel);
}

function is100rel(extension: string): boolean {
  return extension.toLowerCase() === "100rel";
}

export function parseRAck(text: string | undefined): RAck | undefined {
  const [rseq = "", seq = "", method, ...rest] = (text ?? "").trim().split(/[ \t]+/);
  const numbers = [parseDecimal(rseq, largestNumber), parseDecimal(seq, largestNumber)];
  return method === undefined || rest.length > 0 || numbers[0] === undefined || numbers[1] === undefined
    ? undefined
    : { rseq: numbers[0], seq: numbers[1], method };
}

/**
 * Our reliable provisional responses to one INVITE (RFC 3262 §3). One is on its way at a time; what has to wait for its
 * PRACK is kept by whoever sends them.
 */
export class ReliableAnswers {
  /** Transaction id and CSeq number of the INVITE. */
  readonly txnId: string;
  readonly #seq: number;
  #last: number;
  #open: { readonly rseq: number; readonly hasBody: boolean; acknowledged: boolean } | undefined;

  constructor(txnId: string, seq: number, random: Random) {
    this.txnId = txnId;
    this.#seq = seq;
    // RFC 3262 §3: between 1 and 2^31 - 1, so that it never wraps.
    this.#last = random.integer(2 ** 31 - 1);
  }

  /** Whether a response has to wait until the PRACK of the one on its way has come and been answered. */
  delays({ status, headers }: SipResponse): boolean {
    if (this.#open === undefined) {
      return false;
    }
    // RFC 3262 §3: one reliable response at a time, and no 2xx before the session description of a 1xx has arrived.
    return status < 200 ? requires100rel(headers) : status < 300 && this.#open.hasBody;
  }

  /** Numbers a response that is about to be sent. */
  number(response: SipResponse): void {
    this.#last += 1;
    this.#open = { rseq: this.#last, hasBody: response.body.length > 0, acknowledged: false };
    response.headers.set("RSeq", String(this.#last));
  }

  /** False for a PRACK that acknowledges nothing which is still open. */
  acknowledge(rack: RAck | undefined): boolean {
    const open = this.#open;
    const matches = rack?.rseq === open?.rseq && rack?.seq === this.#seq && rack.method === "INVITE";
    if (open === undefined || open.acknowledged || !matches) {
      return false;
    }
    open.acknowledged = true;
    return true;
  }

  /** The PRACK has been answered: the next response may go out behind that answer. */
  settle(): void {
    if (this.#open?.acknowledged === true) {
      this.#open = undefined;
    }
  }
}

/** The reliable provisional responses of one branch of our INVITE, in the order of their RSeq (RFC 3262 §4). */
export class ReliableResponses {
  #last: number | undefined;
  readonly #unacknowledged = new Set<number>();

  /** False for a repetition, and for one that came before the one it follows: neither is handed on or acknowledged. */
  accept(rseq: number): boolean {
    if ((this.#last !== undefined && rseq !== this.#last + 1) || this.#unacknowledged.size >= mostUnacknowledged) {
      return false;
    }
    this.#last = rseq;
    this.#unacknowledged.add(rseq);
    return true;
  }

  /** The number for the RAck of our PRACK: the one asked for, or the oldest; undefined when none is open. */
  take(wanted: number | undefined): number | undefined {
    const [oldest] = this.#unacknowledged;
    const rseq = wanted ?? oldest;
    return rseq !== undefined && this.#unacknowledged.delete(rseq) ? rseq : undefined;
  }
}

/** The RSeq of a response that wants a PRACK. */
export function rseqOf({ headers }: SipResponse): number | undefined {
  const rseq = parseDecimal(headers.get("RSeq")?.trim() ?? "", largestNumber);
  return rseq !== undefined && rseq > 0 && requires100rel(headers) ? rseq : undefined;
}
