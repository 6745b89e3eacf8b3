import { Client } from "rtpengine-client";
import { messageOf } from "../media-error.ts";
import type { MediaLog } from "../options.ts";

/** The commands of rtpengine that this service sends, by rtpengine-client's names for them. */
export type NgVerb =
  | "offer"
  | "answer"
  | "delete"
  | "query"
  | "list"
  | "ping"
  | "playMedia"
  | "stopMedia"
  | "blockMedia"
  | "unblockMedia"
  | "blockDTMF"
  | "unblockDTMF"
  | "playDTMF"
  | "startRecording"
  | "stopRecording";

/**
 * Commands that change nothing when they are carried out twice. A lost reply to one of the others must not be answered
 * by a repetition: the prompt would start again, a key would be pressed twice.
 */
const repeatable: ReadonlySet<NgVerb> = new Set<NgVerb>([
  "offer",
  "answer",
  "delete",
  "query",
  "list",
  "ping",
  "blockMedia",
  "unblockMedia",
  "blockDTMF",
  "unblockDTMF",
  "startRecording",
  "stopRecording",
]);

export interface NgTarget {
  readonly host: string;
  readonly port: number;
}

export type NgReply = Readonly<Record<string, unknown>>;

/** `timeout`: no reply. `refused`: rtpengine answered with an error. `failed`: the command could not be sent. */
export class NgError extends Error {
  readonly code: "timeout" | "refused" | "failed";

  constructor(code: NgError["code"], message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "NgError";
    this.code = code;
  }

  /** True when rtpengine does not hold the call at all; it writes the words in two ways. */
  get unknownCall(): boolean {
    return this.code === "refused" && /^unknown call-?id$/i.test(this.message);
  }

  /** True when it holds the call, but not the leg that the command names. */
  get unknownTag(): boolean {
    return this.code === "refused" && /no such tag/i.test(this.message);
  }
}

/**
 * rtpengine-client prints to the console and emits an error, which ends a process without a listener, for every reply that
 * comes late or twice and for every datagram it cannot read. Both are ordinary on UDP: they are counted and dropped here.
 */
class QuietClient extends Client {
  strays = 0;

  protected override _handleIncomingMessages(): void {
    for (const datagram of this.incomingMsgs.splice(0)) {
      try {
        this._onParsedMessage(Client.decodeMessage(datagram));
      } catch {
        this.strays += 1;
      }
    }
  }

  protected override _onParsedMessage(message: { readonly id: string; readonly data: unknown }): void {
    if (this.messages.has(message.id)) super._onParsedMessage(message);
    else this.strays += 1;
  }

  /** A command that could not even be sent is answered at once, but its timer goes on: that is no error either. */
  protected override _onMessageTimeout(cookie: string): void {
    if (this.messages.has(cookie)) super._onMessageTimeout(cookie);
  }
}

/** rtpengine's ng protocol over one UDP socket, for any number of instances. */
export class NgClient {
  readonly #client: QuietClient;
  readonly #timeoutMs: number;
  #closed = false;

  /** `timeoutMs` is for one datagram; a repeatable command waits twice that before it fails. */
  constructor(timeoutMs: number, log: MediaLog) {
    this.#timeoutMs = timeoutMs;
    // Without a timeout a lost reply would leave its promise pending and its entry in the client's map for ever.
    this.#client = new QuietClient({ timeout: timeoutMs });
    this.#client.on("error", (error) => log.warn({ error: messageOf(error) }, "rtpengine client"));
  }

  /** Replies that came late or twice. */
  get strays(): number {
    return this.#client.strays;
  }

  /** Rejects with an NgError. `once` sends a repeatable command only once, for when nobody waits for it any more. */
  async request(target: NgTarget, verb: NgVerb, parameters: object, once = false): Promise<NgReply> {
    try {
      return await this.#send(target, verb, parameters);
    } catch (error) {
      if (once || !repeatable.has(verb) || !(error instanceof NgError) || error.code !== "timeout") throw error;
      return this.#send(target, verb, parameters);
    }
  }

  async #send(target: NgTarget, verb: NgVerb, parameters: object): Promise<NgReply> {
    if (this.#closed) throw new NgError("failed", "the ng client is closed");
    let reply: unknown;
    try {
      reply = await this.#client[verb]({ host: target.host, port: target.port }, parameters);
    } catch (error) {
      const text = messageOf(error);
      const code = text.startsWith("rtpengine timeout") ? "timeout" : "failed";
      throw new NgError(code, code === "timeout" ? `no reply to ${verb} within ${this.#timeoutMs} ms` : text, {
        cause: error,
      });
    }
    if (typeof reply !== "object" || reply === null) throw new NgError("refused", "not a dictionary");
    const fields = reply as NgReply;
    // The client resolves errors like successes; `pong` is the one success that is not called `ok`.
    if (fields["result"] === "ok" || fields["result"] === "pong") return fields;
    const reason = fields["error-reason"];
    throw new NgError("refused", typeof reason === "string" ? reason : "no reason given");
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#client.close();
  }
}
