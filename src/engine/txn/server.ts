import { parseNameAddr, parseVias } from "../sip/grammar.ts";
import { type SipRequest, type SipResponse, withoutContents } from "../sip/message.ts";
import { type Clock, type SipTimers, TimerSet } from "../timers.ts";
import type { Source, Target, TransportLayer } from "../transport/index.ts";
import type { RequestIdentity } from "./index.ts";
import { type InviteServerEvent, type InviteServerState, inviteServerTable } from "./ist.ts";
import { type Effect, responseClass, step, type TimerName } from "./machine.ts";
import { mostAmplification } from "./proven.ts";
import { type ServerEvent, type ServerState, serverTable } from "./nist.ts";

export interface ServerParts {
  readonly transport: TransportLayer;
  readonly timers: SipTimers;
  readonly clock: Clock;
  readonly guard: (run: () => void) => void;
  /** Whether whoever sent it is known to get what is sent there. */
  readonly isProven: (source: Source) => boolean;
  /** An ACK showed that the source got our response. */
  readonly onProven: (source: Source) => void;
  /** The ACK that came with the branch of an INVITE answered by 2xx. */
  readonly onAck: (request: SipRequest, source: Source) => void;
  readonly onTerminated: (machine: ServerMachine) => void;
}

type AnyServerEvent = InviteServerEvent & ServerEvent;

// Nobody waits for the answer to a non-INVITE request after 64*T1; twice that and a little leaves the user its own limit.
const unansweredFactor = 2.1;

/** One server transaction of RFC 3261 §17.2. */
export class ServerMachine {
  readonly identity: RequestIdentity;
  /** As received; once the final response is out only its method is left, because a call that is over shall cost little. */
  request: SipRequest;
  readonly source: Source;
  /** For a CANCEL: the INVITE transaction it belongs to, if there is one. */
  readonly cancels: ServerMachine | undefined;
  /** Told when a response could not be sent; the transaction goes on where RFC 6026 says so. */
  onTransportError: (error: Error) => void = () => undefined;
  /** Told when no ACK came for a non-2xx final response in time (timer H). */
  onAckTimeout: () => void = () => undefined;
  readonly #parts: ServerParts;
  readonly #timers: TimerSet;
  readonly #target: Target;
  #state: InviteServerState | ServerState;
  #response: Buffer | undefined;
  #status = 0;
  /** Bytes of the request with its repetitions, and of what went back. */
  #bytesIn: number;
  #bytesOut = 0;
  /** Of the response sent last. */
  #toTag: string | undefined;
  readonly #broughtTag: boolean;

  constructor(
    identity: RequestIdentity,
    request: SipRequest,
    source: Source,
    cancels: ServerMachine | undefined,
    parts: ServerParts,
  ) {
    this.identity = identity;
    this.request = request;
    this.source = source;
    this.cancels = cancels;
    this.#parts = parts;
    this.#bytesIn = source.bytes ?? Infinity;
    this.#timers = new TimerSet(parts.clock);
    this.#target = parts.transport.responseTarget(parseVias(request.headers.get("Via") ?? "")?.[0], source);
    this.#broughtTag = parseNameAddr(request.headers.get("To") ?? "")?.tag !== undefined;
    this.#state = request.method === "INVITE" ? "proceeding" : "trying";
    if (request.method !== "INVITE") {
      // RFC 4320 §4.2: what the user never answers gets no late 408; it is only forgotten.
      this.#timers.start("unanswered", parts.timers.t64Ms * unansweredFactor, () => {
        this.abandon();
      });
    }
  }

  get key(): string {
    return this.identity.key;
  }

  get state(): InviteServerState | ServerState {
    return this.#state;
  }

  get timers(): number {
    return this.#timers.size;
  }

  /** Status of the last response sent, 0 before the first. */
  get status(): number {
    return this.#status;
  }

  /** The response goes out and is kept for retransmitted requests. False when the transaction has its final one. */
  respond(response: SipResponse): boolean {
    const takes =
      this.#state === "trying" ||
      this.#state === "proceeding" ||
      // RFC 6026 §7.1: in Accepted the user retransmits its 2xx through the transaction.
      (this.#state === "accepted" && responseClass(response.status) === "2xx");
    if (!takes) {
      return false;
    }
    this.#response = response.toBuffer();
    this.#status = response.status;
    this.#toTag = parseNameAddr(response.headers.get("To") ?? "")?.tag;
    if (response.status >= 200) {
      this.#timers.stop("unanswered");
    }
    this.#dispatch(`answer ${responseClass(response.status)}`, {});
    if (response.status >= 200) {
      this.request = withoutContents(this.request);
    }
    return true;
  }

  /** The same request again: it may be answered with so much more. */
  count(bytes = Infinity): void {
    this.#bytesIn += bytes;
  }

  /** Sends the last response once more, as the same request asks for. */
  repeat(): void {
    this.#dispatch("request", {});
  }

  acknowledge(request: SipRequest, source: Source): void {
    // A tag that the INVITE brought along proves nothing.
    if (
      this.#toTag !== undefined &&
      !this.#broughtTag &&
      parseNameAddr(request.headers.get("To") ?? "")?.tag === this.#toTag
    ) {
      this.#parts.onProven(this.source);
    }
    this.#dispatch("ACK", { request, source });
  }

  /** Ends the transaction without an answer. */
  abandon(): void {
    if (this.#state !== "terminated") {
      this.#state = "terminated";
      this.#terminated();
    }
  }

  #dispatch(event: string, cause: { request?: SipRequest; source?: Source; error?: Error; firedMs?: number }): void {
    const { transport, timers } = this.#parts;
    // A refusal goes out once to an address that may be forged, as it would over TCP: whoever really sent the INVITE sends
    // it again and gets the refusal again.
    const once = event === "answer 3xx-6xx" && !this.#parts.isProven(this.source);
    const reliable = once || transport.isReliable(this.source.protocol);
    const timing = { timers, reliable, firedMs: cause.firedMs };
    const next =
      this.request.method === "INVITE"
        ? step(inviteServerTable, this.#state as InviteServerState, event as AnyServerEvent, timing)
        : step(serverTable, this.#state as ServerState, event as AnyServerEvent, timing);
    const before = this.#state;
    this.#state = next.state;
    if (next.state === "terminated" && before !== "terminated") {
      this.#terminated();
    }
    for (const effect of next.effects) {
      this.#run(effect, cause);
    }
  }

  #run(effect: Effect, cause: { request?: SipRequest; source?: Source; error?: Error }): void {
    const { request, source } = cause;
    switch (effect.type) {
      case "send":
        this.#send();
        return;
      case "passUp":
        if (request !== undefined && source !== undefined) {
          this.#parts.onAck(request, source);
        }
        return;
      case "reportTimeout":
        this.#parts.guard(() => {
          this.onAckTimeout();
        });
        return;
      case "reportTransportError":
        this.#parts.guard(() => {
          this.onTransportError(cause.error ?? new Error("the response could not be sent"));
        });
        return;
      case "startTimer":
        this.#startTimer(effect.timer, effect.ms);
        return;
      case "stopTimer":
        this.#timers.stop(effect.timer);
        return;
      case "sendAck":
      case "passUpStray":
      // Rows of the client tables only.
    }
  }

  #startTimer(timer: TimerName, ms: number): void {
    if (this.#state === "terminated") {
      return;
    }
    if (ms > 0) {
      this.#timers.start(timer, ms, () => {
        this.#dispatch(`timer ${timer}`, { firedMs: ms });
      });
      return;
    }
    queueMicrotask(() => {
      this.#dispatch(`timer ${timer}`, { firedMs: 0 });
    });
  }

  #send(): void {
    if (this.#response === undefined || this.#isTooMuch(this.#response.length)) {
      return;
    }
    this.#bytesOut += this.#response.length;
    this.#parts.transport.send(this.#response, this.#target, (error) => {
      this.#dispatch("transport error", { error });
    });
  }

  /**
   * Whether the answer would multiply what somebody may have sent in another's name. Then it waits for the request to come
   * again, as it does where an answer was lost. A call that the application takes is let through.
   */
  #isTooMuch(bytes: number): boolean {
    const takesCall = this.request.method === "INVITE" && this.#status < 300;
    return (
      !takesCall && this.#bytesOut + bytes > this.#bytesIn * mostAmplification && !this.#parts.isProven(this.source)
    );
  }

  #terminated(): void {
    this.#timers.clear();
    this.#parts.onTerminated(this);
  }
}
