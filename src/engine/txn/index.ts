import type { EngineLog } from "../options.ts";
import { refusalTo, responseTo } from "../sip/answer.ts";
import { formatVia, parseCSeq, parseNameAddr, parseVias, type Via } from "../sip/grammar.ts";
import type { Headers, SipMessage, SipRequest, SipResponse } from "../sip/message.ts";
import type { ParseOutcome } from "../sip/parse.ts";
import type { Clock, Random, SipTimers } from "../timers.ts";
import type { Peer, Source, Target, TransportLayer } from "../transport/index.ts";
import { largestDatagram, RequestAttempts } from "./attempts.ts";
import { type ClientEvents, ClientMachine, type ClientParts } from "./client.ts";
import { mostAmplification, ProvenAddresses } from "./proven.ts";
import { ServerMachine, type ServerParts } from "./server.ts";

export type { ClientEvents } from "./client.ts";

/** Transactions at once, of requests sent and of requests received. */
export interface TransactionLimits {
  readonly client: number;
  readonly server: number;
}

/**
 * A short call leaves two transactions of each kind for up to 32 s, so this is enough for 1,500 calls a second. Full of
 * calls that are over, they hold about 0.7 GB.
 */
export const defaultTransactionLimits: TransactionLimits = { client: 100_000, server: 100_000 };

/** A request received, until its answer has done its work. */
export interface ServerTransaction {
  /** Unique among the server transactions there are. */
  readonly key: string;
  readonly request: SipRequest;
  readonly source: Source;
  readonly state: string;
  /** For a CANCEL: the INVITE transaction it belongs to, if there is one (RFC 3261 §9.2). */
  readonly cancels: ServerTransaction | undefined;
  /**
   * Sends a response. False when the transaction is over or has its final response; a 2xx to an INVITE may be repeated,
   * because the user agent retransmits it itself (RFC 6026 §7.1).
   */
  respond(response: SipResponse): boolean;
  /** Ends the transaction without an answer. */
  abandon(): void;
  /** Called when a response could not be sent. */
  onTransportError: (error: Error) => void;
}

/** A request sent, until its final response has done its work. */
export interface ClientTransaction {
  /** Branch and method of the request as it was sent last. */
  readonly key: string;
  /** The request as it was sent last, with our Via. */
  readonly request: SipRequest;
  /** Where it was sent last. */
  readonly target: Target;
  readonly state: string;
  /**
   * Sends a CANCEL with these headers added, at once or when the first provisional response comes (RFC 3261 §9.1), and
   * never when a final one comes first. No answer to it is reported; the INVITE gets its final response or its timeout,
   * and a peer that answers neither is the user's matter (`abandon`).
   */
  cancel(extra?: Headers): void;
  /** Ends the transaction without waiting any longer; later responses to it are strays. */
  abandon(): void;
}

export interface TransactionStats {
  readonly client: number;
  readonly server: number;
  readonly timers: number;
  /** Totals since the start. */
  readonly retransmissionsIn: number;
  readonly merged: number;
  readonly overloaded: number;
  readonly refused: number;
  readonly unmatchedResponses: number;
  readonly unmatchedAcks: number;
  readonly faults: number;
}

export interface TransactionOptions {
  readonly transport: TransportLayer;
  readonly timers: SipTimers;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: EngineLog;
  readonly limits?: TransactionLimits | undefined;
}

type MutableCounts = {
  -readonly [Name in Exclude<keyof TransactionStats, "client" | "server" | "timers">]: TransactionStats[Name];
};

/** What identifies the transaction of a received request (RFC 3261 §17.2.3). */
export interface RequestIdentity {
  readonly key: string;
  /** The same without the sent-by, which a NAT may change between an INVITE and its CANCEL; of no other request. */
  readonly looseKey: string | undefined;
  /** RFC 3261 §8.2.2.2: equal for copies of one request that came on different paths. */
  readonly mergeKey: string | undefined;
}

/** Overloaded: how long a caller is asked to wait, in seconds. */
const retryAfterSeconds = 5;

const magicCookie = "z9hg4bk";

/** Matches messages to transactions and runs the four machines. It is the transport layer's only user. */
export class TransactionLayer {
  /** A new request, never a retransmission and never an ACK. */
  onRequest: (transaction: ServerTransaction, request: SipRequest, source: Source) => void = () => undefined;
  /** An ACK that belongs to no non-2xx answer: the ACK to a 2xx, or one of nothing. */
  onAck: (request: SipRequest, source: Source) => void = () => undefined;
  /** A 2xx to an INVITE whose transaction is gone or had another final response. */
  onStrayResponse: (response: SipResponse, source: Source) => void = () => undefined;

  /** Whether a request carries the tags of a dialog of ours, which its sender can only have from us. */
  isInDialog: (request: SipRequest) => boolean = () => false;

  readonly #options: TransactionOptions;
  readonly #clients = new Map<string, ClientMachine>();
  readonly #servers = new Map<string, ServerMachine>();
  /** INVITE transactions by their key without sent-by. */
  readonly #looseInvites = new Map<string, ServerMachine>();
  readonly #merges = new Map<string, ServerMachine>();
  readonly #proven: ProvenAddresses;
  readonly #clientParts: ClientParts;
  readonly #serverParts: ServerParts;
  readonly #counts: MutableCounts = {
    retransmissionsIn: 0,
    merged: 0,
    overloaded: 0,
    refused: 0,
    unmatchedResponses: 0,
    unmatchedAcks: 0,
    faults: 0,
  };

  /** Takes over the callbacks of the transport layer, all but `onFailure`. */
  constructor(options: TransactionOptions) {
    this.#options = options;
    const { transport, timers, clock } = options;
    this.#proven = new ProvenAddresses(clock);
    const guard = (run: () => void): void => {
      this.#guard(run);
    };
    this.#clientParts = {
      transport,
      timers,
      clock,
      guard,
      onStray: (response, source) => {
        this.#guard(() => {
          this.onStrayResponse(response, source);
        });
      },
      onTerminated: (machine) => {
        this.#clients.delete(machine.key);
      },
    };
    this.#serverParts = {
      transport,
      timers,
      clock,
      guard,
      isProven: (source) => this.#isProven(source),
      onProven: ({ address }) => {
        this.#proven.add(address);
      },
      onAck: (request, source) => {
        this.#guard(() => {
          this.onAck(request, source);
        });
      },
      onTerminated: (machine) => {
        this.#forgetServer(machine);
      },
    };
    transport.onMessage = (message, source) => {
      this.#receive(message, source);
    };
    transport.onMalformed = (outcome, source) => {
      this.#refuse(outcome, source);
    };
    transport.isKnown = (message) => this.knows(message);
    transport.isInUse = (peer) => this.#isInUse(peer);
    transport.onBroken = (peer) => {
      this.#failUnanswered((target) => goesOver(target, peer), "the connection broke");
    };
    transport.onRefused = ({ address, port }) => {
      this.#failUnanswered(
        (target) => target.protocol === "udp" && target.address === address && target.port === port,
        "nobody listens there",
      );
    };
  }

  /**
   * Sends a request to the first target that takes it: a target that cannot be reached, does not answer or answers 503 is
   * followed by the next one, with a branch of its own (RFC 3263 §4.3). The request gets our Via on top. `on` hears of one
   * end only, that of the last target tried: a final response, a timeout or a transport error; after a 2xx to an INVITE
   * further 2xx may come.
   */
  request(request: SipRequest, targets: Target | readonly Target[], on: ClientEvents): ClientTransaction {
    const list = isTargetList(targets) ? targets : [targets];
    return new RequestAttempts(request, list, on, {
      create: (attempt, target, events) => this.#createClient(attempt, target, events),
      start: (machine, events) => {
        this.#startClient(machine, events);
      },
      transport: this.#options.transport,
      guard: this.#clientParts.guard,
    });
  }

  /**
   * Our Via towards that target, with a branch of its own: for the ACK to a 2xx, which belongs to no transaction
   * (RFC 3261 §13.2.2.4) and is sent with `send`, again and again as the 2xx comes again.
   */
  viaFor(target: Target): string {
    return this.#via(target, this.#newBranch());
  }

  /** Sends a request, whose Via was made for that target, outside of any transaction. */
  send(request: SipRequest, target: Target, onError?: (error: Error) => void): void {
    const { transport } = this.#options;
    const bytes = request.toBuffer();
    const stream = bytes.length > largestDatagram ? transport.streamInstead(target) : undefined;
    if (stream === undefined) {
      transport.send(bytes, target, onError);
      return;
    }
    const overStream = request.clone();
    overStream.headers.setFirst("Via", this.viaFor(stream));
    transport.send(overStream.toBuffer(), stream, () => {
      transport.refusedStream(target);
      transport.send(bytes, target, onError);
    });
  }

  /** Whether a message belongs to a transaction there is. */
  knows(message: SipMessage): boolean {
    if (message.kind === "response") {
      const key = responseKey(message);
      return key !== undefined && this.#clients.has(key);
    }
    const identity = identify(message);
    return (
      identity !== undefined &&
      (this.#servers.has(identity.key) ||
        (message.method === "CANCEL" && this.#looseInvites.has(identity.looseKey ?? "")))
    );
  }

  stats(): TransactionStats {
    let timers = 0;
    for (const machine of this.#clients.values()) {
      timers += machine.timers;
    }
    for (const machine of this.#servers.values()) {
      timers += machine.timers;
    }
    return { ...this.#counts, client: this.#clients.size, server: this.#servers.size, timers };
  }

  /** Forgets every transaction without telling anybody; the transport is closed by its owner. */
  close(): void {
    for (const machine of this.#clients.values()) {
      machine.abandon();
    }
    for (const machine of this.#servers.values()) {
      machine.abandon();
    }
  }

  // Client side

  #createClient(request: SipRequest, target: Target, on: ClientEvents): ClientMachine {
    // A CANCEL shares the branch of its INVITE and comes with its Via (RFC 3261 §9.1).
    const own = request.method === "CANCEL" ? topVia(request)?.branch : undefined;
    const branch = own ?? this.#newBranch();
    const sent = own === undefined ? this.#withVia(request, target, branch) : request;
    return new ClientMachine(`${branch}|${request.method}`, sent, target, on, this.#clientParts);
  }

  #startClient(machine: ClientMachine, on: ClientEvents): void {
    if (this.#clients.size >= (this.#options.limits ?? defaultTransactionLimits).client) {
      this.#counts.overloaded += 1;
      queueMicrotask(() => {
        this.#guard(() => {
          on.transportError(new Error("too many client transactions"));
        });
      });
      return;
    }
    this.#clients.set(machine.key, machine);
    machine.start();
  }

  #newBranch(): string {
    return `z9hG4bK${this.#options.random.token(128)}`;
  }

  #withVia(request: SipRequest, target: Target, branch: string): SipRequest {
    const copy = request.clone();
    copy.headers.prepend("Via", this.#via(target, branch));
    return copy;
  }

  #via(target: Target, branch: string): string {
    // Without a listener for the target nothing will be sent; the name says so where the request is shown.
    const { host, port } = this.#options.transport.sentBy(target) ?? { host: "unreachable.invalid", port: 5_060 };
    // RFC 3581 §3: an empty rport asks the peer to answer to the port that it sees.
    const params = [{ name: "rport" }, { name: "branch", value: branch }];
    return formatVia({ transport: target.protocol.toUpperCase(), host, port, params });
  }

  #onResponse(response: SipResponse, source: Source): void {
    const key = responseKey(response);
    const machine = key === undefined ? undefined : this.#clients.get(key);
    if (machine !== undefined) {
      machine.receive(response, source);
      return;
    }
    this.#counts.unmatchedResponses += 1;
    const cseq = parseCSeq(response.headers.get("CSeq") ?? "");
    if (cseq?.method === "INVITE" && response.status >= 200 && response.status < 300) {
      this.#guard(() => {
        this.onStrayResponse(response, source);
      });
    }
  }

  // Server side

  #receive(message: SipMessage, source: Source): void {
    if (message.kind === "response") {
      this.#onResponse(message, source);
    } else {
      this.#onRequest(message, source);
    }
  }

  #onRequest(request: SipRequest, source: Source): void {
    const identity = identify(request);
    if (identity === undefined) {
      return;
    }
    if (!this.#isProven(source) && this.isInDialog(request)) {
      this.#proven.add(source.address);
    }
    const known = this.#servers.get(identity.key);
    if (request.method === "ACK") {
      this.#onAck(known, request, source);
      return;
    }
    if (known !== undefined) {
      this.#counts.retransmissionsIn += 1;
      known.count(source.bytes);
      if (request.method === "INVITE" && known.status === 0) {
        // The 100 that was held back at first.
        known.respond(responseTo(request, 100));
      } else {
        known.repeat();
      }
      return;
    }
    const merged = identity.mergeKey === undefined ? undefined : this.#merges.get(identity.mergeKey);
    if (merged !== undefined) {
      // RFC 3261 §8.2.2.2: a copy that came on another path is answered 482 and handled no further.
      this.#counts.merged += 1;
      this.#create(identity, request, source)?.respond(
        responseTo(request, 482, { toTag: this.#options.random.token(64) }),
      );
      return;
    }
    const machine = this.#create(identity, request, source);
    if (machine === undefined) {
      return;
    }
    if (request.method === "INVITE" && this.#isProven(source)) {
      // RFC 3261 §17.2.1: 100 is due within 200 ms unless the user answers before; it goes out at once, because the user
      // here is an application on the other side of a socket. An address that may be forged gets it for its second INVITE.
      machine.respond(responseTo(request, 100));
    }
    this.#guard(() => {
      this.onRequest(machine, request, source);
    });
  }

  /** Whether more than one packet may go there for one that came: the list of sources names it, or it has proved itself. */
  #isProven({ protocol, address }: Source): boolean {
    const { transport } = this.#options;
    return transport.isReliable(protocol) || transport.isNamed(address) || this.#proven.has(address);
  }

  #create(identity: RequestIdentity, request: SipRequest, source: Source): ServerMachine | undefined {
    const limit = (this.#options.limits ?? defaultTransactionLimits).server;
    if (this.#servers.size >= limit) {
      this.#counts.overloaded += 1;
      const busy = responseTo(request, 503, { toTag: this.#options.random.token(64) });
      busy.headers.add("Retry-After", String(retryAfterSeconds));
      this.#sendStateless(busy, topVia(request), source);
      return undefined;
    }
    const { key, looseKey, mergeKey } = identity;
    const cancels = request.method === "CANCEL" ? this.#looseInvites.get(looseKey ?? "") : undefined;
    const machine = new ServerMachine(identity, request, source, cancels, this.#serverParts);
    this.#servers.set(key, machine);
    if (request.method === "INVITE" && looseKey !== undefined) {
      this.#looseInvites.set(looseKey, machine);
    }
    if (mergeKey !== undefined && !this.#merges.has(mergeKey)) {
      this.#merges.set(mergeKey, machine);
    }
    return machine;
  }

  #forgetServer(machine: ServerMachine): void {
    const { key, looseKey, mergeKey } = machine.identity;
    this.#servers.delete(key);
    if (looseKey !== undefined && this.#looseInvites.get(looseKey) === machine) {
      this.#looseInvites.delete(looseKey);
    }
    if (mergeKey !== undefined && this.#merges.get(mergeKey) === machine) {
      this.#merges.delete(mergeKey);
    }
  }

  #onAck(machine: ServerMachine | undefined, request: SipRequest, source: Source): void {
    if (machine !== undefined && machine.state !== "proceeding") {
      machine.acknowledge(request, source);
      return;
    }
    if (machine !== undefined) {
      // An ACK before any final response means nothing (RFC 3261 §17.2.1 has no such row).
      this.#counts.unmatchedAcks += 1;
      return;
    }
    this.#guard(() => {
      this.onAck(request, source);
    });
  }

  #refuse(outcome: Extract<ParseOutcome, { ok: false }>, source: Source): void {
    if (outcome.answerable === undefined) {
      return;
    }
    this.#counts.refused += 1;
    const { answerable } = outcome;
    this.#sendStateless(refusalTo(answerable, source, this.#options.random), answerable.via, source);
  }

  #sendStateless(response: SipResponse, via: Via | undefined, source: Source): void {
    const { transport } = this.#options;
    let bytes = response.toBuffer();
    const most = this.#isProven(source) ? Infinity : (source.bytes ?? Infinity) * mostAmplification;
    if (bytes.length > most) {
      // RFC 3261 §25.1: a reason phrase may be empty, and the status says enough.
      response.reason = "";
      bytes = response.toBuffer();
    }
    if (bytes.length <= most) {
      transport.send(bytes, transport.responseTarget(via, source));
    }
  }

  // Connections

  #isInUse(peer: Peer): boolean {
    for (const machine of this.#servers.values()) {
      if (machine.source.connection === peer.connection) {
        return true;
      }
    }
    for (const { target } of this.#clients.values()) {
      if (goesOver(target, peer)) {
        return true;
      }
    }
    return false;
  }

  /** RFC 3261 §18.4: what the peer has not answered at all is lost with the way to him. */
  #failUnanswered(isLost: (target: Target) => boolean, reason: string): void {
    for (const machine of this.#clients.values()) {
      if (isLost(machine.target) && machine.isUnanswered) {
        machine.fail(new Error(reason));
      }
    }
  }

  #guard(run: () => void): void {
    try {
      run();
    } catch (error) {
      this.#counts.faults += 1;
      this.#options.log.error("a transaction callback failed", { error });
    }
  }
}

function isTargetList(targets: Target | readonly Target[]): targets is readonly Target[] {
  return Array.isArray(targets);
}

/** Whether what goes to that target goes over that connection. */
function goesOver(target: Target, peer: Peer): boolean {
  if (target.protocol === "udp" || target.protocol !== peer.protocol) {
    return false;
  }
  const same = target.address === peer.address && target.port === peer.port;
  const domain = target.protocol === "tls" ? (target.domain ?? target.address) : undefined;
  return target.connection === peer.connection || (same && domain === peer.domain);
}

function topVia(message: SipMessage): Via | undefined {
  return parseVias(message.headers.get("Via") ?? "")?.[0];
}

/** RFC 3261 §17.1.3: branch of the topmost Via and method of the CSeq. */
function responseKey(response: SipResponse): string | undefined {
  const branch = topVia(response)?.branch;
  const cseq = parseCSeq(response.headers.get("CSeq") ?? "");
  return branch === undefined || cseq === undefined ? undefined : `${branch}|${cseq.method}`;
}

function identify(request: SipRequest): RequestIdentity | undefined {
  const { headers } = request;
  const via = topVia(request);
  const cseq = parseCSeq(headers.get("CSeq") ?? "");
  if (via === undefined || cseq === undefined) {
    return undefined;
  }
  const fromTag = parseNameAddr(headers.get("From") ?? "")?.tag;
  const callId = headers.get("Call-ID") ?? "";
  const sentBy = `${via.host.toLowerCase()}:${via.port ?? ""}`;
  // RFC 3261 §17.2.3: an ACK belongs to its INVITE's transaction; a CANCEL has one of its own.
  const method = request.method === "ACK" ? "INVITE" : request.method;
  const dialogPart = `${callId}|${cseq.number}|${fromTag ?? ""}`;
  const modern = via.branch?.toLowerCase().startsWith(magicCookie) === true;
  // RFC 3261 §17.2.3: without the cookie the branch is not unique, and URI, tags, Call-ID, CSeq and Via decide together.
  const branchPart = modern ? (via.branch ?? "") : `2543|${request.uri}|${via.branch ?? ""}|${dialogPart}`;
  const cancellable = method === "INVITE" || method === "CANCEL";
  const toTag = parseNameAddr(headers.get("To") ?? "")?.tag;
  const merges = toTag === undefined && fromTag !== undefined && method !== "CANCEL" && request.method !== "ACK";
  return {
    key: `${branchPart}|${sentBy}|${method}`,
    looseKey: cancellable ? `${branchPart}|${dialogPart}` : undefined,
    mergeKey: merges ? `${dialogPart}|${method}` : undefined,
  };
}
