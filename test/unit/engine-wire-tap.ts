import { silentLog } from "../../src/engine/options.ts";
import { type SipRequest, SipResponse, type SipMessage } from "../../src/engine/sip/message.ts";
import { defaultMessageLimits, parseMessage } from "../../src/engine/sip/parse.ts";
import { sipTimers } from "../../src/engine/timers.ts";
import { type Protocol, type Source, type Target, TransportLayer } from "../../src/engine/transport/index.ts";
import { TransactionLayer, type TransactionLimits } from "../../src/engine/txn/index.ts";
import { ManualClock, seededRandom } from "./engine-clock.ts";

export interface Sent {
  readonly bytes: Buffer;
  readonly message: SipMessage;
  readonly target: Target;
  readonly atMs: number;
}

/** The real transport layer without sockets: what is sent is kept, what comes in is put in by the test. */
export class WireTap extends TransportLayer {
  readonly sent: Sent[] = [];
  /** Makes the next sends to that port fail. */
  readonly deadPorts = new Set<number>();
  /** Where packets go besides being kept. */
  forward: ((bytes: Buffer, target: Target) => void) | undefined;
  readonly #clock: ManualClock;

  constructor(clock: ManualClock, sources: readonly string[] | "any") {
    super({ listen: [], sources, clock, log: silentLog });
    this.#clock = clock;
  }

  override sentBy(): { host: string; port: number } {
    return { host: "192.0.2.1", port: 5_060 };
  }

  override send(bytes: Buffer, target: Target, onError?: (error: Error) => void): void {
    const outcome = parseMessage(bytes, defaultMessageLimits, "datagram");
    // Answers to malformed requests need not be well-formed themselves, so they are read from their text.
    const message = outcome.ok ? outcome.message : looseResponse(bytes);
    this.sent.push({ bytes, message, target, atMs: this.#clock.now() });
    if (this.deadPorts.has(target.port)) {
      queueMicrotask(() => {
        onError?.(new Error("nobody there"));
      });
      return;
    }
    this.forward?.(bytes, target);
  }

  /** A message arrives, as the real layer would hand it up. */
  arrive(message: SipMessage | string, source: Source = peer()): void {
    const parsed = typeof message === "string" ? parseText(message) : message;
    this.onMessage(parsed, source);
  }

  /** Start lines of what was sent, each with its CSeq method, then forgets them. */
  take(): string[] {
    return this.sent.splice(0).map(({ message }) => startLine(message));
  }
}

function looseResponse(bytes: Buffer): SipResponse {
  const match = /^SIP\/2.0 (\d+) (.*)\r\n/.exec(bytes.toString("utf8"));
  return new SipResponse(Number(match?.[1]), match?.[2] ?? "");
}

export function startLine(message: SipMessage): string {
  return message.kind === "request"
    ? message.method
    : `${message.status} ${message.headers.get("CSeq")?.split(" ")[1] ?? ""}`.trim();
}

export function peer(protocol: Protocol = "udp", address = "192.0.2.9", port = 5_070, connection?: object): Source {
  const local = { address: "192.0.2.1", port: 5_060 };
  return { protocol, address, port, local, ...(connection === undefined ? {} : { connection }) };
}

export function targetOf(port: number, protocol: Protocol = "udp"): Target {
  return { protocol, address: "192.0.2.9", port };
}

function parseText(text: string): SipMessage {
  const outcome = parseMessage(Buffer.from(text), defaultMessageLimits, "datagram");
  if (!outcome.ok) {
    throw new Error(`the test's own message does not parse: ${outcome.reason}`);
  }
  return outcome.message;
}

export interface RequestFields {
  readonly branch?: string;
  readonly sentBy?: string;
  readonly callId?: string;
  readonly cseq?: number;
  readonly fromTag?: string;
  readonly toTag?: string;
  readonly uri?: string;
}

/** A well-formed request of a peer. */
export function incoming(method: string, fields: RequestFields = {}): SipRequest {
  const {
    branch = "z9hG4bKpeer1",
    sentBy = "192.0.2.9:5070",
    callId = "call-1",
    cseq = 1,
    uri = "sip:us@192.0.2.1",
  } = fields;
  const to = fields.toTag === undefined ? "" : `;tag=${fields.toTag}`;
  const message = parseText(
    `${method} ${uri} SIP/2.0\r\nVia: SIP/2.0/UDP ${sentBy};branch=${branch};rport\r\n` +
      `From: <sip:peer@192.0.2.9>;tag=${fields.fromTag ?? "peer-tag"}\r\nTo: <sip:us@192.0.2.1>${to}\r\nCall-ID: ${callId}\r\n` +
      `CSeq: ${cseq} ${method}\r\nContact: <sip:peer@192.0.2.9:5070>\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n`,
  );
  if (message.kind !== "request") {
    throw new Error("not a request");
  }
  return message;
}

/** A request of ours, before it has a Via. */
export function outgoing(method: string, cseq = 1): SipRequest {
  const request = incoming(method, { cseq, uri: "sip:peer@192.0.2.9:5070", fromTag: "our-tag" });
  request.headers.remove("Via");
  request.headers.add("Route", "<sip:192.0.2.7;lr>");
  return request;
}

/** The peer's response to a request of ours. */
export function answerTo(request: SipRequest, status: number, toTag = "peer-tag"): SipResponse {
  const response = new SipResponse(status, "Whatever");
  for (const name of ["Via", "From", "Call-ID", "CSeq"]) {
    response.headers.add(name, request.headers.get(name) ?? "");
  }
  const to = request.headers.get("To") ?? "";
  response.headers.add("To", status === 100 || to.includes(";tag=") ? to : `${to};tag=${toTag}`);
  return response;
}

/** What a user of client transactions hears, as text. */
export function listener(): {
  readonly heard: string[];
  readonly on: { response(response: SipResponse): void; timeout(): void; transportError(error: Error): void };
} {
  const heard: string[] = [];
  return {
    heard,
    on: {
      response: (response) => heard.push(String(response.status)),
      timeout: () => heard.push("timeout"),
      transportError: () => heard.push("transport error"),
    },
  };
}

export function stack(
  limits?: TransactionLimits,
  t1Ms = 500,
  /** Peers are named, as those of a trunk are; with "any" nobody vouches for them. */
  sources: readonly string[] | "any" = ["192.0.2.0/24"],
): { clock: ManualClock; tap: WireTap; layer: TransactionLayer } {
  const clock = new ManualClock();
  const tap = new WireTap(clock, sources);
  const layer = new TransactionLayer({
    transport: tap,
    timers: sipTimers(t1Ms),
    clock,
    random: seededRandom(7),
    log: silentLog,
    limits,
  });
  return { clock, tap, layer };
}
