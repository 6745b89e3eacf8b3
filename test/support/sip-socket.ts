// SIP over one UDP socket with just the transactions a phone needs (RFC 3261 §17): requests and final responses are sent
// again until they are answered, retransmissions that come in are answered again and not told twice.
import { createSocket, type Socket } from "node:dgram";
import { nowMs } from "./clock.ts";
import { claimPort, type ClaimedPort } from "./ports.ts";
import { cseqOf, formatSip, header, headersOf, type HostPort, parameter, parseSip, type SipText } from "./sip-text.ts";

export interface SipRecord {
  readonly direction: "sent" | "received";
  readonly atMs: number;
  readonly message: SipText;
  /** `address:port` of the other side. */
  readonly peer: string;
  /** The same bytes went this way before. */
  readonly repeated: boolean;
}

export interface ServerTransaction {
  readonly request: SipText;
  readonly source: HostPort;
  /** What was answered last; it is sent again when the request comes again. */
  response?: SipText;
  /** Stops sending a final response to an INVITE again. */
  acknowledged(): void;
}

interface ClientTransaction {
  readonly request: SipText;
  readonly target: HostPort;
  readonly onResponse: (response: SipText) => void;
  readonly onTimeout: () => void;
  provisional: boolean;
  final: boolean;
  stop(): void;
}

export interface SipSocketOptions {
  readonly address: string;
  readonly port?: number;
  readonly t1Ms: number;
  readonly onRequest: (transaction: ServerTransaction) => void;
  /** An ACK of a 2xx, which belongs to no transaction (§13.3.1.4). */
  readonly onAck: (ack: SipText) => void;
  /** A 2xx to an INVITE again, after its transaction was over (§13.2.2.4). */
  readonly onRepeatedAnswer: (response: SipText, source: HostPort) => void;
}

const recordsMax = 20_000;
const transactionsMax = 5_000;
const token = (): string => Math.random().toString(36).slice(2, 12);
export const newBranch = (): string => `z9hG4bK${token()}${token()}`;
export const newTag = (): string => token();

export class SipSocket implements AsyncDisposable {
  readonly address: string;
  readonly port: number;
  readonly records: SipRecord[] = [];
  readonly #socket: Socket;
  readonly #claim: ClaimedPort | undefined;
  readonly #options: SipSocketOptions;
  readonly #clients = new Map<string, ClientTransaction>();
  readonly #servers = new Map<string, ServerTransaction>();
  readonly #timers = new Set<NodeJS.Timeout>();
  readonly #seen = new Set<string>();
  readonly #listeners = new Set<(record: SipRecord) => void>();
  #closed = false;

  private constructor(socket: Socket, port: number, claim: ClaimedPort | undefined, options: SipSocketOptions) {
    this.address = options.address;
    this.port = port;
    this.#socket = socket;
    this.#claim = claim;
    this.#options = options;
    socket.on("error", () => {});
    socket.on("message", (bytes, remote) => this.#receive(bytes.toString("utf8"), remote));
  }

  static async open(options: SipSocketOptions): Promise<SipSocket> {
    const claim = options.port === undefined ? await claimPort() : undefined;
    const port = options.port ?? claim?.port ?? 0;
    const socket = createSocket("udp4");
    await new Promise<void>((resolve, reject) => {
      socket.once("error", reject);
      socket.bind({ address: options.address, port, exclusive: true }, resolve);
    });
    socket.removeAllListeners("error");
    return new SipSocket(socket, port, claim, options);
  }

  /** Tells of every message as it is sent or received. */
  listen(listener: (record: SipRecord) => void): void {
    this.#listeners.add(listener);
  }

  /** Runs once after a time, unless the socket is closed before. Gives the means to stop it. */
  after(ms: number, run: () => void): () => void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      if (!this.#closed) run();
    }, ms);
    this.#timers.add(timer);
    return () => {
      clearTimeout(timer);
      this.#timers.delete(timer);
    };
  }

  /** The Via of a new request. */
  via(branch = newBranch()): readonly [string, string] {
    return ["Via", `SIP/2.0/UDP ${this.address}:${this.port};branch=${branch};rport`];
  }

  /** Sends bytes once, outside any transaction (the ACK of a 2xx). */
  send(message: SipText, target: HostPort): void {
    if (this.#closed) return;
    this.#record("sent", message, target);
    this.#socket.send(formatSip(message), target.port, target.address);
  }

  /** A client transaction: sends again at T1, doubled, until answered, and gives up after 64·T1 (timers A, B, E, F). */
  request(request: SipText, target: HostPort, onResponse: (response: SipText) => void, onTimeout: () => void): void {
    const key = this.#clientKey(request, request.method ?? "");
    let stopTimer = (): void => {};
    const transaction: ClientTransaction = {
      request,
      target,
      onResponse,
      onTimeout,
      provisional: false,
      final: false,
      stop: () => stopTimer(),
    };
    if (this.#clients.size >= transactionsMax) throw new Error("too many requests at once for one phone");
    this.#clients.set(key, transaction);
    const { t1Ms } = this.#options;
    const isInvite = request.method === "INVITE";
    const giveUpMs = nowMs() + 64 * t1Ms;
    const again = (intervalMs: number): void => {
      // A provisional response stops the INVITE from being sent again; its end is then up to the dialling side.
      if (transaction.final || (isInvite && transaction.provisional)) return;
      if (nowMs() >= giveUpMs) {
        this.#clients.delete(key);
        onTimeout();
        return;
      }
      this.send(request, target);
      const next = isInvite ? intervalMs * 2 : Math.min(intervalMs * 2, 8 * t1Ms);
      stopTimer = this.after(intervalMs, () => again(next));
    };
    again(t1Ms);
  }

  /** Sends a response within a server transaction; a final one to an INVITE is repeated until its ACK (G, H, §13.3.1.4). */
  respond(transaction: ServerTransaction, response: SipText): void {
    transaction.response = response;
    this.send(response, transaction.source);
    if (transaction.request.method !== "INVITE" || (response.status ?? 0) < 200) return;
    const { t1Ms } = this.#options;
    const giveUpMs = nowMs() + 64 * t1Ms;
    let stopTimer = (): void => {};
    const again = (intervalMs: number): void => {
      if (nowMs() >= giveUpMs) return;
      this.send(response, transaction.source);
      stopTimer = this.after(intervalMs, () => again(Math.min(intervalMs * 2, 8 * t1Ms)));
    };
    stopTimer = this.after(t1Ms, () => again(2 * t1Ms));
    transaction.acknowledged = () => stopTimer();
  }

  #clientKey(message: SipText, method: string): string {
    return `${parameter(headersOf(message, "Via")[0], "branch")}/${method}`;
  }

  #record(direction: SipRecord["direction"], message: SipText, peer: HostPort): void {
    const fingerprint = `${direction} ${peer.address}:${peer.port} ${formatSip(message)}`;
    const record: SipRecord = {
      direction,
      atMs: nowMs(),
      message,
      peer: `${peer.address}:${peer.port}`,
      repeated: this.#seen.has(fingerprint),
    };
    if (this.records.length < recordsMax) {
      this.#seen.add(fingerprint);
      this.records.push(record);
    }
    for (const listener of this.#listeners) listener(record);
  }

  #receive(text: string, remote: HostPort): void {
    if (this.#closed) return;
    const message = parseSip(text);
    if (message === undefined) return;
    const source = { address: remote.address, port: remote.port };
    this.#record("received", message, source);
    if (message.status !== undefined) this.#receiveResponse(message, source);
    else this.#receiveRequest(message, source);
  }

  #receiveResponse(response: SipText, source: HostPort): void {
    const { method } = cseqOf(response);
    const key = this.#clientKey(response, method);
    const transaction = this.#clients.get(key);
    const status = response.status ?? 0;
    if (transaction === undefined) return;
    if (transaction.final) {
      if (method === "INVITE" && status >= 300) this.#acknowledgeFailure(transaction, response);
      else if (method === "INVITE" && status >= 200) this.#options.onRepeatedAnswer(response, source);
      return;
    }
    if (status < 200) {
      transaction.provisional = true;
    } else {
      transaction.final = true;
      transaction.stop();
      if (method === "INVITE" && status >= 300) this.#acknowledgeFailure(transaction, response);
      // Late repetitions are still recognised for a while (timers D and K).
      this.after(64 * this.#options.t1Ms, () => this.#clients.delete(key));
    }
    transaction.onResponse(response);
  }

  /** RFC 3261 §17.1.1.3: the ACK of a failure has the branch of the INVITE and the To of the response. */
  #acknowledgeFailure({ request, target }: ClientTransaction, response: SipText): void {
    const same = (name: string): readonly (readonly [string, string])[] =>
      request.headers.filter(([candidate]) => candidate.toLowerCase() === name);
    this.send(
      {
        method: "ACK",
        uri: request.uri ?? "",
        headers: [
          ...same("via"),
          ...same("route"),
          ["Max-Forwards", "70"],
          ...same("from"),
          ["To", header(response, "To") ?? ""],
          ...same("call-id"),
          ["CSeq", `${cseqOf(request).number} ACK`],
        ],
        body: "",
      },
      target,
    );
  }

  #receiveRequest(request: SipText, source: HostPort): void {
    const branch = parameter(headersOf(request, "Via")[0], "branch");
    if (request.method === "ACK") {
      const failed = this.#servers.get(`${branch}/INVITE`);
      if (failed === undefined) this.#options.onAck(request);
      else failed.acknowledged();
      return;
    }
    const key = `${branch}/${request.method}`;
    const known = this.#servers.get(key);
    if (known !== undefined) {
      if (known.response !== undefined) this.send(known.response, known.source);
      return;
    }
    if (this.#servers.size >= transactionsMax) return;
    const transaction: ServerTransaction = { request, source, acknowledged: () => {} };
    this.#servers.set(key, transaction);
    this.after(64 * this.#options.t1Ms * 2, () => this.#servers.delete(key));
    this.#options.onRequest(transaction);
  }

  /** The INVITE transaction that a CANCEL is for (§9.2: the same branch). */
  inviteOf(cancel: SipText): ServerTransaction | undefined {
    return this.#servers.get(`${parameter(headersOf(cancel, "Via")[0], "branch")}/INVITE`);
  }

  /** Whether the INVITE has had a provisional response, before which no CANCEL may be sent (§9.1). */
  hasProvisional(request: SipText): boolean {
    return this.#clients.get(this.#clientKey(request, "INVITE"))?.provisional === true;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
    await new Promise<void>((resolve) => this.#socket.close(() => resolve()));
    await this.#claim?.release();
  }
}
