import { createSocket } from "node:dgram";
import type { Socket } from "node:dgram";
import { messageOf } from "../media-error.ts";
import type { MediaLog } from "../options.ts";

/** RFC 4733 §3.2: events 0 to 9 are the digits, then these. */
const keys = "0123456789*#ABCD";
const mostDatagramBytes = 4_096;
/** Longer than any key press; a wrong number must not reach the bot. */
const longestMs = 60_000;

export interface Digit {
  readonly callId: string;
  /** Tag of the leg that pressed the key. */
  readonly tag: string;
  readonly digit: string;
  readonly durationMs: number;
}

/** The key press in one datagram of rtpengine's `--dtmf-log-dest`, undefined for everything else. */
export function parseDigit(datagram: Buffer): Digit | undefined {
  if (datagram.length > mostDatagramBytes) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(datagram.toString("utf8"));
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null) return undefined;
  const { callid, source_tag: tag, type, event, duration } = value as Readonly<Record<string, unknown>>;
  if (type !== "DTMF" || typeof callid !== "string" || typeof tag !== "string" || typeof event !== "number") {
    return undefined;
  }
  const digit = Number.isInteger(event) && event >= 0 ? keys[event] : undefined;
  if (digit === undefined) return undefined;
  const durationMs = typeof duration === "number" && duration > 0 ? Math.min(longestMs, Math.round(duration)) : 0;
  return { callId: callid, tag, digit, durationMs };
}

/** Receives the key presses that rtpengine detects. */
export class DtmfReceiver {
  readonly #socket: Socket;
  readonly #log: MediaLog;

  constructor(log: MediaLog, onDigit: (digit: Digit) => void) {
    this.#log = log;
    this.#socket = createSocket("udp4");
    this.#socket.on("message", (datagram) => {
      const digit = parseDigit(datagram);
      if (digit === undefined) this.#log.debug({ bytes: datagram.length }, "not a key press");
      else onDigit(digit);
    });
  }

  /** Rejects when the address is taken or not ours. */
  async start(address: string, port: number): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#socket.once("error", reject);
      this.#socket.bind(port, address, () => {
        this.#socket.off("error", reject);
        this.#socket.on("error", (error) => {
          this.#log.error({ error: messageOf(error) }, "the socket for key presses failed");
        });
        resolve();
      });
    });
  }

  /** The port that was bound; 0 before `start`. */
  get port(): number {
    try {
      return this.#socket.address().port;
    } catch {
      return 0;
    }
  }

  async close(): Promise<void> {
    await new Promise<void>((resolve) => {
      try {
        this.#socket.close(() => resolve());
      } catch {
        resolve();
      }
    });
  }
}
