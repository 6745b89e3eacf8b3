import type { Socket } from "node:net";

import { readHeaders } from "../message.ts";
import type { ReceivedHeaders } from "../message.ts";
import { guard } from "./fault.ts";
import { cleanReason, headerRecord } from "./raw.ts";
import type { RawRequest, RawResponse } from "./raw.ts";
import type { IncomingRequest, LinkContext, ReplyOptions } from "./types.ts";

/** A request from the network, until it is answered. */
export class Incoming implements IncomingRequest {
  readonly method: string;
  readonly uri: string;
  readonly body: string;
  readonly protocol: string;
  readonly sourceAddress: string;
  readonly sourcePort: number;
  /** The engine's name of the transaction; empty where it gave none. */
  readonly txnId: string;
  protected req: RawRequest;
  protected res: RawResponse;
  protected readonly context: LinkContext;
  readonly #headers: ReceivedHeaders;
  readonly #waiting: Set<Incoming>;
  #cancel: ReceivedHeaders | undefined;
  #onCancel: ((cancel: ReceivedHeaders) => void) | undefined;
  #settled = false;

  constructor(req: RawRequest, res: RawResponse, context: LinkContext, waiting: Set<Incoming>) {
    this.req = req;
    this.res = res;
    this.context = context;
    this.#waiting = waiting;
    this.#headers = readHeaders(req.msg.raw ?? "");
    this.method = req.method;
    this.uri = req.uri;
    this.body = req.body ?? "";
    this.protocol = req.protocol;
    this.sourceAddress = req.source_address;
    this.sourcePort = req.source_port;
    this.txnId = req.stackTxnId ?? "";
    waiting.add(this);
    this.#catchCancel(req);
  }

  /** The same request came again on another connection, with objects of its own. */
  replace(req: RawRequest, res: RawResponse): void {
    this.req = req;
    this.res = res;
    this.#catchCancel(req);
  }

  /** srf: a CANCEL that finds no listener is lost, so it is caught before anybody else sees the INVITE. */
  #catchCancel(req: RawRequest): void {
    req.on("cancel", (message: { raw?: string } | undefined) => {
      guard(this.context.log, () => {
        this.#cancelled(readHeaders(message?.raw ?? ""));
      });
    });
  }

  get settled(): boolean {
    return this.#settled;
  }

  header(name: string): string | undefined {
    return this.#headers.header(name);
  }

  headerLines(name: string): readonly string[] {
    return this.#headers.headerLines(name);
  }

  onCancel(run: (cancel: ReceivedHeaders) => void): void {
    if (this.#cancel === undefined) {
      this.#onCancel = run;
    } else {
      run(this.#cancel);
    }
  }

  respond(status: number, reason?: string, options: ReplyOptions = {}): void {
    if (this.#settled) {
      return;
    }
    if (status >= 200) {
      this.settle();
    }
    try {
      // srf: names given as an option are lower-cased and repeated ones joined with commas, which RFC 3261 §7.3.1
      // forbids for WWW-Authenticate; put on the message itself they are sent as they are.
      Object.assign(this.res.headers, headerRecord(options.headers ?? []));
      const body = options.body === undefined ? {} : { body: options.body };
      if (reason === undefined) {
        this.res.send(status, body);
      } else {
        this.res.send(status, cleanReason(reason), body);
      }
    } catch (error) {
      // srf: an unknown status throws, and then the request would stay without any answer.
      this.context.log.error({ err: error, status }, "a response could not be sent");
      guard(this.context.log, () => {
        if (status >= 200 && !this.res.finalResponseSent) {
          this.res.send(500, {});
        }
      });
    }
  }

  ignore(): void {
    this.settle();
  }

  reattach(socket: Socket): void {
    this.req.socket = socket;
    this.res.socket = socket;
  }

  #cancelled(cancel: ReceivedHeaders): void {
    if (this.#cancel !== undefined) {
      return;
    }
    this.#cancel = cancel;
    // RFC 3261 §9.2: the engine has answered the INVITE with 487, whatever we would still say.
    this.settle();
    this.#onCancel?.(cancel);
  }

  protected settle(): void {
    this.#settled = true;
    this.#waiting.delete(this);
  }
}
