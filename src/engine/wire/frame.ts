/** The framing of drachtio's wire protocol: `<decimal byte length>#<meta>[CRLF<SIP message>]`, nothing between frames. */

/** Largest frame either side may send. REAL stops at 12,228 bytes; the embedded engine only warns above `frameWarningBytes`. */
export const maxFrameBytes = 1024 * 1024;

/** A frame above this size works here but wedges drachtio-server's 12 KB receive buffer together with the next read. */
export const frameWarningBytes = 8192;

/** One message of the wire protocol: the pipe-separated tokens and, after the first CRLF, the SIP message as it came. */
export interface WireMessage {
  readonly tokens: readonly string[];
  readonly sip: Buffer | undefined;
  /** Length of the whole frame behind its length prefix. */
  readonly bytes: number;
}

/** What one chunk of bytes completed. After an `error` the stream cannot be resynchronised and must be closed. */
export interface Decoded {
  readonly messages: readonly WireMessage[];
  readonly error?: string;
}

const hash = 0x23;
const crlf = Buffer.from("\r\n");

/** Writes one frame into one buffer, so that it goes out by one `socket.write` and frames never interleave. */
export function encodeFrame(tokens: readonly string[], sip?: Buffer): Buffer {
  // The meta tokens are the engine's own words and addresses; a stray CR or LF in one of them would shift the SIP text.
  const meta = Buffer.from(tokens.map((token) => token.replaceAll(/[\r\n]/g, " ")).join("|"), "utf8");
  const length = meta.length + (sip === undefined ? 0 : crlf.length + sip.length);
  const prefix = Buffer.from(`${length}#`, "latin1");
  return Buffer.concat(sip === undefined ? [prefix, meta] : [prefix, meta, crlf, sip]);
}

/** Cuts the meta line at the first CRLF; everything behind it, to the end of the frame, is the SIP message. */
export function parseWireMessage(frame: Buffer): WireMessage {
  const end = frame.indexOf(crlf);
  const meta = end === -1 ? frame : frame.subarray(0, end);
  return {
    tokens: meta.toString("utf8").split("|"),
    sip: end === -1 ? undefined : frame.subarray(end + crlf.length),
    bytes: frame.length,
  };
}

/**
 * Cuts a byte stream into wire messages. Works on bytes only, because the length counts bytes and a read may end inside
 * the digits or inside a UTF-8 character; chunks are joined once per frame, so that tiny reads cost linear time.
 */
export class FrameDecoder {
  #limit: number;
  /** Of the longest length that is still within the limit. */
  #maxDigits: number;
  #digits = "";
  #expected = -1;
  #chunks: Buffer[] = [];
  #buffered = 0;
  #failed = false;

  constructor(limitBytes: number = maxFrameBytes) {
    this.#limit = limitBytes;
    this.#maxDigits = String(limitBytes).length;
  }

  /** From the next frame on. */
  set limitBytes(bytes: number) {
    this.#limit = bytes;
    this.#maxDigits = String(bytes).length;
  }

  /** Bytes held of a frame that is not complete yet. */
  get pendingBytes(): number {
    return this.#buffered + this.#digits.length;
  }

  push(chunk: Buffer): Decoded {
    const messages: WireMessage[] = [];
    let offset = 0;
    while (offset < chunk.length) {
      if (this.#failed) {
        return { messages, error: "the stream has already failed" };
      }
      if (this.#expected === -1) {
        const byte = chunk[offset] ?? 0;
        offset += 1;
        const error = this.#readLength(byte);
        if (error !== undefined) {
          this.#failed = true;
          return { messages, error };
        }
        continue;
      }
      const wanted = this.#expected - this.#buffered;
      const part = chunk.subarray(offset, offset + wanted);
      offset += part.length;
      this.#chunks.push(part);
      this.#buffered += part.length;
      if (this.#buffered === this.#expected) {
        const first = this.#chunks[0];
        const frame = this.#chunks.length === 1 && first !== undefined ? first : Buffer.concat(this.#chunks);
        this.#chunks = [];
        this.#buffered = 0;
        this.#expected = -1;
        messages.push(parseWireMessage(frame));
      }
    }
    return { messages };
  }

  #readLength(byte: number): string | undefined {
    if (byte === hash) {
      if (this.#digits === "") {
        return "a frame without a length";
      }
      const length = Number(this.#digits);
      this.#digits = "";
      if (length === 0) {
        return "a frame of no bytes";
      }
      if (length > this.#limit) {
        return `a frame of ${length} bytes exceeds the limit of ${this.#limit}`;
      }
      this.#expected = length;
      return undefined;
    }
    if (byte < 0x30 || byte > 0x39) {
      return "a frame length that is not a decimal number";
    }
    if (this.#digits.length >= this.#maxDigits) {
      return `a frame length above the limit of ${this.#limit}`;
    }
    this.#digits += String.fromCharCode(byte);
    return undefined;
  }
}
