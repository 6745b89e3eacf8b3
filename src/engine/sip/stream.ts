import { expandHeaderName } from "./message.ts";
import type { MessageLimits } from "./parse.ts";
import { parseDecimal, trimBlanks } from "./grammar.ts";

/** What came out of a stream: a whole message (not parsed yet), a keep-alive ping, or the end of all sense in it. */
export type StreamPiece =
  | { readonly type: "message"; readonly bytes: Buffer }
  /** Double CRLF between messages (RFC 5626 §3.5.1): the receiver answers with one CRLF. */
  | { readonly type: "ping" }
  /**
   * The place where the next message begins is lost, so the connection has to be closed (RFC 3261 §18.3); `bytes` is what
   * was read of the message, for one answer.
   */
  | { readonly type: "broken"; readonly reason: string; readonly bytes: Buffer };

const firstBufferBytes = 4_096;

/** Cuts a byte stream into SIP messages by Content-Length (RFC 3261 §18.3, §20.14). Works on bytes, never throws. */
export class StreamFramer {
  readonly #limits: MessageLimits;
  #buffer: Buffer = Buffer.alloc(0);
  /** Bytes of `#buffer` that are filled. */
  #filled = 0;
  /** Where the search for the end of the head goes on, so that a head in single bytes is still read in linear time. */
  #searched = 0;
  /** Length of the message at the front, once its head is complete. */
  #needed: number | undefined;
  #broken = false;

  constructor(limits: MessageLimits) {
    this.#limits = limits;
  }

  /** Whether a message has begun and is not complete. A CRLF alone is a keep-alive, not the beginning of a message. */
  get isMidMessage(): boolean {
    return this.#filled > 2 || (this.#filled > 0 && this.#buffer[0] !== 13);
  }

  /** Takes what the socket gave and returns what became complete. After `broken` everything else is ignored. */
  push(chunk: Buffer): StreamPiece[] {
    const pieces: StreamPiece[] = [];
    if (this.#broken) {
      return pieces;
    }
    this.#append(chunk);
    let consumed = 0;
    for (;;) {
      const step = this.#next(consumed);
      if (step === undefined) {
        break;
      }
      consumed = step.end;
      if (step.piece !== undefined) {
        pieces.push(step.piece);
      }
      if (step.piece?.type === "broken") {
        this.#broken = true;
        this.#buffer = Buffer.alloc(0);
        this.#filled = 0;
        return pieces;
      }
    }
    this.#discard(consumed);
    return pieces;
  }

  /** What was read of a message that is not waited for any longer, for one answer. Everything else is ignored. */
  giveUp(reason: string): StreamPiece {
    const bytes = Buffer.from(this.#buffer.subarray(0, this.#filled));
    this.#broken = true;
    this.#buffer = Buffer.alloc(0);
    this.#filled = 0;
    return { type: "broken", reason, bytes };
  }

  #append(chunk: Buffer): void {
    const wanted = this.#filled + chunk.length;
    if (wanted > this.#buffer.length) {
      // Doubling keeps the copying linear however small the chunks are.
      const grown = Buffer.allocUnsafe(Math.max(wanted, this.#buffer.length * 2, firstBufferBytes));
      this.#buffer.copy(grown, 0, 0, this.#filled);
      this.#buffer = grown;
    }
    chunk.copy(this.#buffer, this.#filled);
    this.#filled = wanted;
  }

  #discard(consumed: number): void {
    if (consumed === 0) {
      return;
    }
    this.#filled -= consumed;
    this.#searched = Math.max(0, this.#searched - consumed);
    // Messages that were handed out are slices of the old buffer, so what is left moves to a new one.
    const rest = Buffer.allocUnsafe(this.#filled === 0 ? 0 : Math.max(this.#filled, firstBufferBytes));
    this.#buffer.copy(rest, 0, consumed, consumed + this.#filled);
    this.#buffer = rest;
  }

  /** The next piece that begins at `start`, or undefined while it is incomplete. */
  #next(start: number): { readonly end: number; readonly piece?: StreamPiece } | undefined {
    const bytes = this.#buffer.subarray(0, this.#filled);
    if (this.#needed === undefined) {
      if (bytes[start] === 13 && start + 1 >= this.#filled) {
        return undefined;
      }
      if (bytes[start] === 13 && bytes[start + 1] === 10) {
        return this.#afterLineBreak(bytes, start);
      }
      const needed = this.#messageLength(bytes, start);
      if (typeof needed !== "number") {
        return needed;
      }
      this.#needed = needed;
    }
    const end = start + this.#needed;
    if (this.#filled < end) {
      return undefined;
    }
    this.#needed = undefined;
    this.#searched = end;
    return { end, piece: { type: "message", bytes: bytes.subarray(start, end) } };
  }

  #afterLineBreak(bytes: Buffer, start: number): { readonly end: number; readonly piece?: StreamPiece } | undefined {
    const third = bytes[start + 2];
    if (third === undefined) {
      // The second CRLF of a ping may still be on its way; a pong alone is dropped when the next message begins.
      return undefined;
    }
    if (third !== 13) {
      this.#searched = start + 2;
      return { end: start + 2 };
    }
    if (start + 3 >= this.#filled) {
      return undefined;
    }
    this.#searched = start + 4;
    // RFC 3261 §7.5: CRLF before a start line is ignored; a double CRLF is a ping all the same.
    return bytes[start + 3] === 10 ? { end: start + 4, piece: { type: "ping" } } : { end: start + 2 };
  }

  #messageLength(
    bytes: Buffer,
    start: number,
  ): number | { readonly end: number; readonly piece: StreamPiece } | undefined {
    // The search starts a little earlier, because the mark may straddle what was searched before.
    const headEnd = bytes.indexOf("\r\n\r\n", Math.max(start, this.#searched - 3), "latin1");
    this.#searched = this.#filled;
    const headLength = headEnd === -1 ? this.#filled - start : headEnd + 4 - start;
    if (headLength > this.#limits.streamBytes) {
      return this.#breakOff("Message Too Large", bytes.subarray(start));
    }
    if (headEnd === -1) {
      return undefined;
    }
    const length = contentLength(bytes.toString("latin1", start, headEnd));
    if (length === undefined) {
      return this.#breakOff("Malformed Content-Length", bytes.subarray(start, headEnd + 4));
    }
    if (headLength + length > this.#limits.streamBytes) {
      return this.#breakOff("Message Too Large", bytes.subarray(start, headEnd + 4));
    }
    return headLength + length;
  }

  #breakOff(reason: string, bytes: Buffer): { readonly end: number; readonly piece: StreamPiece } {
    return { end: this.#filled, piece: { type: "broken", reason, bytes: Buffer.from(bytes) } };
  }
}

/** The one Content-Length of a head; undefined when there is none, more than one, or none that is a number. */
function contentLength(head: string): number | undefined {
  let length: number | undefined;
  for (let lineStart = head.indexOf("\r\n"); lineStart !== -1; lineStart = head.indexOf("\r\n", lineStart + 2)) {
    const from = lineStart + 2;
    const first = head.charCodeAt(from) | 32;
    // Only `Content-Length` and `l` matter here; looking at the first letter spares the rest of the line.
    if (first !== 99 && first !== 108) {
      continue;
    }
    const end = head.indexOf("\r\n", from);
    const line = head.slice(from, end === -1 ? head.length : end);
    const colon = line.indexOf(":");
    if (colon === -1 || expandHeaderName(trimBlanks(line.slice(0, colon))).toLowerCase() !== "content-length") {
      continue;
    }
    const value = parseDecimal(trimBlanks(line.slice(colon + 1) + foldOf(head, end)), 2 ** 31 - 1);
    if (length !== undefined || value === undefined) {
      return undefined;
    }
    length = value;
  }
  return length;
}

/** The continuation of a header whose value was folded onto the next line, which a Content-Length may be. */
function foldOf(head: string, end: number): string {
  if (end === -1 || (head.charCodeAt(end + 2) !== 32 && head.charCodeAt(end + 2) !== 9)) {
    return "";
  }
  const next = head.indexOf("\r\n", end + 2);
  return head.slice(end + 2, next === -1 ? head.length : next);
}
