import { Headers, type SipRequest, type SipResponse, withoutContents } from "../sip/message.ts";
import type { Source, Target, TransportLayer } from "../transport/index.ts";
import { cancelFor, type ClientEvents, type ClientMachine } from "./client.ts";
import type { ClientTransaction } from "./index.ts";

/** RFC 3261 §18.1.1: what is longer, in bytes, does not go by UDP where the MTU of the path is not known. */
export const largestDatagram = 1_300;

export interface AttemptParts {
  /** Makes a transaction that sends nothing yet. */
  readonly create: (request: SipRequest, target: Target, on: ClientEvents) => ClientMachine;
  readonly start: (machine: ClientMachine, on: ClientEvents) => void;
  readonly transport: TransportLayer;
  readonly guard: (run: () => void) => void;
}

const noTarget: Target = { protocol: "udp", address: "", port: 0 };

/** One request of the user over as many client transactions as targets have to be tried (RFC 3263 §4.3). */
export class RequestAttempts implements ClientTransaction {
  #request: SipRequest;
  readonly #on: ClientEvents;
  readonly #parts: AttemptParts;
  readonly #left: Target[];
  /** The UDP target behind a request that goes by TCP because of its size. */
  #datagramTarget: Target | undefined;
  #machine: ClientMachine | undefined;
  #cancel: Headers | undefined;
  #cancelSent = false;
  /** The user has heard of a provisional response: what comes after belongs to the same server. */
  #heard = false;
  #over = false;

  constructor(request: SipRequest, targets: readonly Target[], on: ClientEvents, parts: AttemptParts) {
    this.#request = request;
    this.#on = on;
    this.#parts = parts;
    this.#left = [...targets];
    if (!this.#next()) {
      queueMicrotask(() => {
        this.#end(() => {
          on.transportError(new Error("there is no target to send to"));
        });
      });
    }
  }

  get key(): string {
    return this.#machine?.key ?? "";
  }

  get request(): SipRequest {
    return this.#machine?.request ?? this.#request;
  }

  get target(): Target {
    return this.#machine?.target ?? noTarget;
  }

  get state(): string {
    return this.#machine?.state ?? "terminated";
  }

  cancel(extra: Headers = new Headers()): void {
    // RFC 3261 §9.1: CANCEL has no effect on a request that has its final response, and makes sense for INVITE only.
    if (this.#cancel !== undefined || this.#over || this.request.method !== "INVITE") {
      return;
    }
    this.#cancel = extra;
    if (this.#machine?.state === "proceeding") {
      this.#sendCancel();
    }
  }

  abandon(): void {
    this.#over = true;
    this.#machine?.abandon();
  }

  /** Goes on to the next target. False when there is none, or the request is not wanted any more. */
  #next(): boolean {
    // A cancelled request is not tried anywhere else.
    const target = this.#over || this.#cancel !== undefined ? undefined : this.#left.shift();
    if (target === undefined) {
      return false;
    }
    this.#datagramTarget = undefined;
    const machine = this.#create(target);
    const stream = machine.size > largestDatagram ? this.#parts.transport.streamInstead(target) : undefined;
    if (stream === undefined) {
      this.#start(machine);
    } else {
      this.#datagramTarget = target;
      this.#start(this.#create(stream));
    }
    return true;
  }

  #create(target: Target): ClientMachine {
    return this.#parts.create(this.#request, target, this.#events);
  }

  #start(machine: ClientMachine): void {
    this.#machine = machine;
    this.#parts.start(machine, this.#events);
  }

  readonly #events: ClientEvents = {
    response: (response, source) => {
      this.#onResponse(response, source);
    },
    timeout: () => {
      if (!this.#next()) {
        this.#end(() => {
          this.#on.timeout();
        });
      }
    },
    transportError: (error) => {
      if (this.#overDatagrams() || this.#next()) {
        return;
      }
      this.#end(() => {
        this.#on.transportError(error);
      });
    },
  };

  /** RFC 3261 §18.1.1: where the peer refuses TCP, the large request goes by UDP after all. */
  #overDatagrams(): boolean {
    const target = this.#datagramTarget;
    if (target === undefined || this.#over || this.#cancel !== undefined) {
      return false;
    }
    this.#datagramTarget = undefined;
    this.#parts.transport.refusedStream(target);
    this.#start(this.#create(target));
    return true;
  }

  #onResponse(response: SipResponse, source: Source): void {
    const { status } = response;
    if (status < 200) {
      // RFC 3261 §9.1: only now may a CANCEL go out, or it could overtake its INVITE.
      this.#sendCancel();
      this.#heard ||= status > 100;
    } else {
      // RFC 3263 §4.3: a 503 counts as a failure of its server. What has rung already is a call of that server's, though,
      // and the user would see a second one.
      if (status === 503 && !this.#heard && this.#next()) {
        return;
      }
      this.#over = true;
      this.#request = withoutContents(this.#request);
    }
    this.#on.response(response, source);
  }

  #sendCancel(): void {
    const machine = this.#machine;
    if (this.#cancel === undefined || this.#cancelSent || machine === undefined) {
      return;
    }
    this.#cancelSent = true;
    const { create, start } = this.#parts;
    // What matters is the final response of the INVITE.
    const nothing: ClientEvents = {
      response: () => undefined,
      timeout: () => undefined,
      transportError: () => undefined,
    };
    start(create(cancelFor(machine.request, this.#cancel), machine.target, nothing), nothing);
  }

  #end(report: () => void): void {
    if (!this.#over) {
      this.#over = true;
      this.#parts.guard(report);
    }
  }
}
