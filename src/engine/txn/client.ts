import { parseCSeq } from "../sip/grammar.ts";
import { Headers, SipRequest, type SipResponse, withoutContents } from "../sip/message.ts";
import { type Clock, type SipTimers, TimerSet } from "../timers.ts";
import type { Source, Target, TransportLayer } from "../transport/index.ts";
import { type InviteClientEvent, type InviteClientState, inviteClientTable } from "./ict.ts";
import { type Effect, responseClass, step, type TimerName } from "./machine.ts";
import { type ClientEvent, type ClientState, clientTable } from "./nict.ts";

export interface ClientEvents {
  /** Provisional responses but 100 included, the final response, and for INVITE every further 2xx. */
  response(response: SipResponse, source: Source): void;
  /** Timer B or F: nobody answered. */
  timeout(): void;
  /** The request could not be sent to any target. */
  transportError(error: Error): void;
}

export interface ClientParts {
  readonly transport: TransportLayer;
  readonly timers: SipTimers;
  readonly clock: Clock;
  /** Runs a callback of the user so that an exception in it stays here. */
  readonly guard: (run: () => void) => void;
  /** A 2xx that came after another final response of the same INVITE. */
  readonly onStray: (response: SipResponse, source: Source) => void;
  readonly onTerminated: (machine: ClientMachine) => void;
}

/** The event of a received response or of the two machines' own timers. */
type AnyClientEvent = InviteClientEvent & ClientEvent;

const nothing = Buffer.alloc(0);

/** One client transaction of RFC 3261 §17.1: one request, one branch, one target. */
export class ClientMachine {
  readonly key: string;
  /** As sent; once the final response is there only its method is left, because a call that is over shall cost little. */
  request: SipRequest;
  readonly target: Target;
  readonly #parts: ClientParts;
  readonly #on: ClientEvents;
  readonly #timers: TimerSet;
  #bytes: Buffer;
  #state: InviteClientState | ClientState = "initial";
  #ack: Buffer | undefined;
  #answered = false;

  constructor(key: string, request: SipRequest, target: Target, on: ClientEvents, parts: ClientParts) {
    this.key = key;
    this.request = request;
    this.target = target;
    this.#on = on;
    this.#parts = parts;
    this.#timers = new TimerSet(parts.clock);
    this.#bytes = request.toBuffer();
  }

  get state(): InviteClientState | ClientState {
    return this.#state;
  }

  /** Bytes of the request as it is sent. */
  get size(): number {
    return this.#bytes.length;
  }

  get timers(): number {
    return this.#timers.size;
  }

  /** Whether no response at all has come yet. */
  get isUnanswered(): boolean {
    return this.#state === "initial" || this.#state === "calling" || this.#state === "trying";
  }

  start(): void {
    this.#dispatch("start", {});
  }

  receive(response: SipResponse, source: Source): void {
    if (response.status >= 300 && this.request.method === "INVITE") {
      this.#ack ??= ackFor(this.request, response).toBuffer();
    }
    this.#dispatch(responseClass(response.status), { response, source });
    if (response.status >= 200) {
      this.request = withoutContents(this.request);
      this.#bytes = nothing;
    }
  }

  fail(error: Error): void {
    this.#dispatch("transport error", { error });
  }

  /** Ends the transaction without telling anybody. */
  abandon(): void {
    if (this.#state !== "terminated") {
      this.#state = "terminated";
      this.#terminated();
    }
  }

  #dispatch(event: string, cause: { response?: SipResponse; source?: Source; error?: Error; firedMs?: number }): void {
    const { transport, timers } = this.#parts;
    const timing = { timers, reliable: transport.isReliable(this.target.protocol), firedMs: cause.firedMs };
    // Each table knows its own states and events; a state of the one never meets the other.
    const next =
      this.request.method === "INVITE"
        ? step(inviteClientTable, this.#state as InviteClientState, event as AnyClientEvent, timing)
        : step(clientTable, this.#state as ClientState, event as AnyClientEvent, timing);
    const before = this.#state;
    this.#state = next.state;
    if (event === "timer A" || event === "timer E") {
      this.#ask();
    }
    if (next.state === "terminated" && before !== "terminated") {
      this.#terminated();
    }
    for (const effect of next.effects) {
      this.#run(effect, cause);
    }
  }

  #run(effect: Effect, cause: { response?: SipResponse; source?: Source; error?: Error }): void {
    const { response, source } = cause;
    switch (effect.type) {
      case "send":
        this.#send(this.#bytes);
        return;
      case "sendAck":
        if (this.#ack !== undefined) {
          this.#send(this.#ack);
        }
        return;
      case "passUp":
        if (response !== undefined && source !== undefined) {
          this.#answered ||= response.status >= 200;
          this.#parts.guard(() => {
            this.#on.response(response, source);
          });
        }
        return;
      case "passUpStray":
        if (response !== undefined && source !== undefined) {
          this.#parts.onStray(response, source);
        }
        return;
      case "reportTimeout":
        // The timer ran a moment before the request was sent.
        this.#parts.transport.doubt(this.target, this.#parts.timers.t64Ms - this.#parts.timers.t1Ms);
        this.#parts.guard(() => {
          this.#on.timeout();
        });
        return;
      case "reportTransportError":
        // An ACK that could not be sent changes nothing for the user, who has had the final response.
        if (!this.#answered) {
          this.#parts.guard(() => {
            this.#on.transportError(cause.error ?? new Error("the request could not be sent"));
          });
        }
        return;
      case "startTimer":
        this.#startTimer(effect.timer, effect.ms);
        return;
      case "stopTimer":
        this.#timers.stop(effect.timer);
    }
  }

  /** Nothing came back in time: whether anybody listens there at all is asked on the side, and costs nothing before. */
  #ask(): void {
    if (this.target.protocol === "udp" && this.isUnanswered) {
      this.#parts.transport.probe(this.target);
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
    // A timer of no length fires when what is under way is done (the response has been passed up).
    queueMicrotask(() => {
      this.#dispatch(`timer ${timer}`, { firedMs: 0 });
    });
  }

  #send(bytes: Buffer): void {
    this.#parts.transport.send(bytes, this.target, (error) => {
      this.fail(error);
    });
  }

  #terminated(): void {
    this.#timers.clear();
    this.#parts.onTerminated(this);
  }
}

/** RFC 3261 §17.1.1.3: the ACK to a non-2xx has the INVITE's URI, top Via and Route, and the To of the response. */
function ackFor(invite: SipRequest, response: SipResponse): SipRequest {
  return sibling("ACK", invite, response.headers.get("To") ?? "");
}

/** RFC 3261 §9.1: a CANCEL equals its request in URI, Call-ID, To, From, CSeq number, top Via and Route. */
export function cancelFor(invite: SipRequest, extra: Headers): SipRequest {
  const cancel = sibling("CANCEL", invite, invite.headers.get("To") ?? "");
  for (const { name, value } of extra.lines) {
    if (!cancel.headers.has(name)) {
      cancel.headers.add(name, value);
    }
  }
  return cancel;
}

function sibling(method: "ACK" | "CANCEL", invite: SipRequest, to: string): SipRequest {
  const { headers } = invite;
  const copy = new Headers();
  copy.add("Via", headers.get("Via") ?? "");
  for (const route of headers.all("Route")) {
    copy.add("Route", route);
  }
  copy.add("Max-Forwards", "70");
  copy.add("From", headers.get("From") ?? "");
  copy.add("To", to);
  copy.add("Call-ID", headers.get("Call-ID") ?? "");
  copy.add("CSeq", `${parseCSeq(headers.get("CSeq") ?? "")?.number ?? 0} ${method}`);
  return new SipRequest(method, invite.uri, copy);
}
