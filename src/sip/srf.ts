import type { EventEmitter } from "node:events";
import { createRequire } from "node:module";
import type { Socket } from "node:net";
import Srf from "drachtio-srf";

import type { Cancellable, Clock } from "../lib/clock.ts";
import type { Log } from "../telemetry/log.ts";
import { readHeaders } from "./message.ts";
import type { HeaderLine, ReceivedHeaders } from "./message.ts";

// The only file that knows drachtio-srf. What it does against the library's pitfalls says so with "srf:"; the parts of
// the library that are no public API are used here only, and only with the version they were read in.
const testedVersion = "5.0.29";

/** Dialogs that are claimed at the same time after the connection came back. */
const claimsAtOnce = 16;

/** Why the signalling engine could not do what was asked; every way in which drachtio-srf fails becomes one of these. */
export type FaultCode =
  /** No connection to the engine, or it was lost while we waited. */
  | "engine_away"
  /** The engine refused; its text is the message. */
  | "engine_refused"
  /** The dialog does not exist (any more). */
  | "dialog_gone"
  /** The peer gave up first. */
  | "cancelled"
  /** The engine said nothing in time. */
  | "timeout";

export class SipFault extends Error {
  readonly code: FaultCode;

  constructor(code: FaultCode, message: string) {
    super(message);
    this.name = "SipFault";
    this.code = code;
  }
}

/** A response as it arrived. */
export interface Reply extends ReceivedHeaders {
  readonly status: number;
  readonly reason: string;
  readonly body: string;
  /** Address the response came from. */
  readonly sourceAddress: string;
}

export interface ReplyOptions {
  readonly headers?: readonly HeaderLine[];
  readonly body?: string;
}

/** A request from the network that waits for our answer. */
export interface IncomingRequest extends ReceivedHeaders {
  readonly method: string;
  readonly uri: string;
  readonly body: string;
  readonly protocol: string;
  readonly sourceAddress: string;
  readonly sourcePort: number;
  /** True once a final answer was given, or none is wanted any more. */
  readonly settled: boolean;
  /** Never throws; does nothing once the request is settled. */
  respond(status: number, reason?: string, options?: ReplyOptions): void;
}

/** An INVITE outside of any dialog. */
export interface IncomingInvite extends IncomingRequest {
  /** Called at most once, when the CANCEL arrives; `run` gets its headers. At once if it has arrived already. */
  onCancel(run: (cancel: ReceivedHeaders) => void): void;
  /** Sends a 200 with `sdp`. Exactly one of the two is called, in the tick in which the dialog is made. */
  accept(sdp: string, headers: readonly HeaderLine[], on: AcceptEvents): void;
}

export interface AcceptEvents {
  accepted(dialog: SipDialog): void;
  failed(fault: SipFault): void;
}

/** What the peer does inside a dialog. Requests handed over must be answered. */
export interface DialogEvents {
  /** The dialog is over; `byPeer` is false when the engine ended it (no ACK came, the session timer ran out). */
  ended(end: { readonly byPeer: boolean; readonly text: string; readonly headers: ReceivedHeaders }): void;
  /** The ACK of the initial INVITE or of a re-INVITE. */
  acknowledged(): void;
  /** re-INVITE or UPDATE with an offer, or a re-INVITE that asks for one. */
  offered(request: IncomingRequest): void;
  /** Everything else: INFO, NOTIFY, MESSAGE, OPTIONS, REFER, UPDATE without an offer. */
  asked(request: IncomingRequest): void;
}

export interface SipDialog {
  readonly callId: string;
  /** False as soon as either side has ended it. */
  readonly connected: boolean;
  /** Address of the peer's Contact. */
  readonly remoteUri: string;
  /** Our own Contact, as it was sent. */
  readonly localContact: string;
  /** From now on events go here; called in the tick in which the dialog is made. */
  listen(events: DialogEvents): void;
  /** Sends a request inside the dialog. Resolves always: with the final response, or with why there is none. */
  send(
    method: "BYE" | "INFO" | "NOTIFY" | "OPTIONS" | "REFER",
    options: ReplyOptions & { readonly timeoutMs: number },
  ): Promise<Reply | SipFault>;
  /** The dialog is of no more interest: no event comes from it any more. Sends nothing. */
  forget(): void;
}

export interface InviteOptions {
  readonly uri: string;
  /** Next hop when it is not the URI's own host. */
  readonly proxy: string | null;
  readonly headers: readonly HeaderLine[];
  readonly sdp: string;
}

/** The INVITE as it was really sent; what a second INVITE with credentials has to repeat (RFC 3261 §8.1.3.5). */
export interface SentInvite {
  readonly callId: string;
  readonly cseq: number;
  readonly from: string;
  readonly uri: string;
}

/** `sent` and `provisional` may come; then exactly one of `answered` and `failed`. */
export interface InviteEvents {
  sent(invite: SentInvite): void;
  provisional(reply: Reply): void;
  answered(dialog: SipDialog, reply: Reply): void;
  failed(result: Reply | SipFault): void;
}

export interface OutgoingInvite {
  /** CANCEL; held by the engine until the first provisional response (RFC 3261 §9.1). */
  cancel(headers: readonly HeaderLine[]): void;
  /** Nothing of this INVITE is wanted any more; a dialog that still comes of it is ended. */
  abandon(): void;
}

export interface EngineLinkOptions {
  readonly host: string;
  readonly port: number;
  readonly secret: string;
  /** How long `start` waits for the engine. */
  readonly connectTimeoutMs: number;
  /** Interval of the liveness check of the connection; 0 for none (an engine in the same process). */
  readonly pingMs: number;
  /** How long the engine may take to acknowledge what it was told to send. */
  readonly replyTimeoutMs: number;
  readonly clock: Clock;
  readonly log: Log;
  readonly onInvite: (invite: IncomingInvite) => void;
  /** Any other request outside of a dialog we know; `inDialog` when the peer believes to be in one. */
  readonly onRequest: (request: IncomingRequest, inDialog: boolean) => void;
  readonly onState: (up: boolean) => void;
}

export interface ListenAddress {
  readonly protocol: string;
  readonly address: string;
  readonly port: number;
}

/** The connection to the signalling engine: everything that is sent or received goes through it. */
export class EngineLink {
  readonly #options: EngineLinkOptions;
  readonly #srf: RawSrf;
  readonly #dialogs = new Set<Dialog>();
  readonly #invites = new Set<Invite>();
  readonly #waiting = new Set<Incoming>();
  readonly #requests = new Set<{ lost(): void }>();
  /** INVITEs under way when the connection was lost: cancelled as soon as it is back. */
  #orphans: RawRequest[] = [];
  #up = false;
  #closing = false;
  #listening: readonly ListenAddress[] = [];
  #ping: Cancellable | undefined;

  constructor(options: EngineLinkOptions) {
    const { version } = createRequire(import.meta.url)("drachtio-srf/package.json") as { version: string };
    if (version !== testedVersion) {
      throw new Error(`drachtio-srf ${version} is installed, but src/sip/srf.ts was written for ${testedVersion}`);
    }
    // A frame's tokens are separated by bars and end at CR.
    if (/[|\r\n]/.test(options.secret)) {
      throw new Error("the engine's secret must not contain a bar or a line end");
    }
    this.#options = options;
    this.#srf = new Srf() as unknown as RawSrf;
    this.#route();
  }

  /** Resolves when the engine has accepted us. Rejects with a SipFault when it does not in time or refuses the secret. */
  async start(): Promise<void> {
    const { host, port, secret, clock, connectTimeoutMs, log } = this.#options;
    await new Promise<void>((resolve, reject) => {
      const deadline = clock.after(connectTimeoutMs, () => {
        this.#disconnect();
        reject(
          new SipFault(
            "engine_away",
            `the signalling engine at ${host}:${port} did not answer within ${connectTimeoutMs} ms`,
          ),
        );
      });
      // srf: a wrong secret comes as the first argument of `connect`, not as `error`, and again after every reconnect.
      this.#srf.on("connect", (error: unknown, hostports: unknown) => {
        deadline.cancel();
        if (error !== null && error !== undefined) {
          log.error({ host, port }, "the signalling engine refused our secret");
          this.#disconnect();
          reject(new SipFault("engine_refused", `the signalling engine at ${host}:${port} refused our secret`));
          return;
        }
        this.#connected(String(hostports));
        resolve();
      });
      // srf: without an `error` listener a refused connection ends the process.
      this.#srf.on("error", (error: unknown) => {
        if (!this.#closing) {
          log.warn({ host, port, reason: faultOf(error).message }, "no connection to the signalling engine");
        }
      });
      this.#srf.on("close", () => {
        this.#lost();
      });
      // srf: the back-off grows without end unless it is capped.
      this.#srf.connect({ host, port, secret, reconnect: { retryMaxDelay: 2000 } });
    });
  }

  ready(): boolean {
    return this.#up;
  }

  /** Where the engine listens, as peers see it. */
  listening(): readonly ListenAddress[] {
    return this.#listening;
  }

  /** Sends an INVITE outside of a dialog. Never throws. */
  invite(options: InviteOptions, events: InviteEvents): OutgoingInvite {
    const invite = new Invite(this.#srf, options, events, this.#options, {
      done: () => this.#invites.delete(invite),
      dialog: (raw) => this.#adopt(raw),
      endStray: (dialogId) => {
        this.#endStray(dialogId);
      },
    });
    this.#invites.add(invite);
    invite.send();
    return invite;
  }

  /** What is held; all zero at rest. */
  stats(): {
    readonly dialogs: number;
    readonly invites: number;
    readonly requests: number;
    readonly unanswered: number;
  } {
    return {
      dialogs: this.#dialogs.size,
      invites: this.#invites.size,
      requests: this.#requests.size,
      unanswered: this.#waiting.size,
    };
  }

  /** Ends the connection; nothing is sent any more. May be called twice. */
  close(): void {
    this.#closing = true;
    this.#lost();
    this.#disconnect();
    for (const dialog of this.#dialogs) {
      dialog.forget();
    }
    this.#waiting.clear();
  }

  #route(): void {
    const { onInvite, onRequest } = this.#options;
    this.#srf.invite((req, res) => {
      this.#guard(() => {
        const invite = new Incoming(req, res, this.#options, this.#waiting, (raw) => this.#adopt(raw));
        onInvite(invite);
      });
    });
    const other = (req: RawRequest, res: RawResponse): void => {
      this.#guard(() => {
        // RFC 3261 §17.1.1.3: an ACK is never answered.
        if (req.method !== "ACK") {
          const request = new Incoming(req, res, this.#options, this.#waiting, (raw) => this.#adopt(raw));
          onRequest(request, (req.stackDialogId ?? "") !== "" || /;\s*tag=/i.test(request.header("to") ?? ""));
        }
      });
    };
    // srf: the engine delivers only verbs that were asked for, in lower case, and answers 503 to the rest.
    for (const verb of [
      "options",
      "register",
      "message",
      "subscribe",
      "publish",
      "notify",
      "info",
      "refer",
      "update",
    ] as const) {
      this.#srf[verb](other);
    }
    // What belongs to a dialog that is no more arrives whatever was asked for.
    this.#srf.use(other);
  }

  #connected(hostports: string): void {
    const { log, onState } = this.#options;
    this.#listening = hostports.split(",").flatMap((text) => readListenAddress(text) ?? []);
    const first = !this.#up && this.#dialogs.size === 0;
    this.#up = true;
    this.#reattach();
    this.#startPing();
    log.info(
      { listening: this.#listening, dialogs: this.#dialogs.size },
      first ? "signalling engine connected" : "signalling engine connected again",
    );
    this.#guard(() => {
      onState(true);
    });
  }

  /** srf: dialogs and requests keep the socket they were made with, which a new connection leaves dead for ever. */
  #reattach(): void {
    const socket = this.#socket();
    if (socket === undefined) {
      return;
    }
    const dialogs = [...this.#dialogs];
    for (const dialog of dialogs) {
      dialog.reattach(socket);
    }
    // The engine hands a dialog's requests to the connection that last sent in it, and ends dialogs nobody claims; the
    // same request tells which dialogs are gone. A few at a time, so that a thousand calls do not mean a burst.
    const claim = async (): Promise<void> => {
      for (let dialog = dialogs.pop(); dialog !== undefined; dialog = dialogs.pop()) {
        await dialog.claim();
      }
    };
    for (let worker = 0; worker < claimsAtOnce; worker += 1) {
      void claim();
    }
    for (const request of this.#waiting) {
      request.reattach(socket);
    }
    const orphans = this.#orphans;
    this.#orphans = [];
    for (const request of orphans) {
      this.#guard(() => {
        request.socket = socket;
        request.cancel({}, () => undefined);
      });
    }
  }

  #lost(): void {
    if (!this.#up) {
      return;
    }
    this.#up = false;
    this.#ping?.cancel();
    // srf: what waited for an answer on the old connection is neither rejected nor resolved by the library.
    for (const invite of this.#invites) {
      const request = invite.lost();
      if (request !== undefined && this.#orphans.length < 1000) {
        this.#orphans.push(request);
      }
    }
    for (const request of this.#requests) {
      request.lost();
    }
    if (!this.#closing) {
      this.#options.log.error({ dialogs: this.#dialogs.size }, "the connection to the signalling engine is lost");
    }
    this.#guard(() => {
      this.#options.onState(false);
    });
  }

  /** srf: a half-open connection is never noticed by the library, which sends pings but waits for no pong. */
  #startPing(): void {
    const { clock, pingMs } = this.#options;
    this.#ping?.cancel();
    if (pingMs === 0) {
      return;
    }
    let answered = true;
    const beat = (): void => {
      const socket = this.#socket();
      const entry = socket === undefined ? undefined : this.#srf.app.client?.mapServer.get(socket);
      if (socket === undefined || entry === undefined) {
        return;
      }
      if (!answered) {
        this.#options.log.warn({}, "the signalling engine does not answer pings: reconnecting");
        socket.destroy();
        return;
      }
      answered = false;
      const id = this.#srf.app.client?.wp.send(socket, "ping");
      if (id !== undefined) {
        entry.pendingRequests.set(id, () => {
          answered = true;
        });
      }
      this.#ping = clock.after(pingMs, beat);
    };
    this.#ping = clock.after(pingMs, beat);
  }

  #socket(): Socket | undefined {
    return this.#srf.app.client?.mapServer.keys().next().value;
  }

  #disconnect(): void {
    this.#closing = true;
    const wire = this.#srf.app.client?.wp;
    if (wire === undefined) {
      return;
    }
    // srf: `disconnect` throws when there is no connection, and then the library would go on trying for ever.
    wire.closing = true;
    clearTimeout(wire.reconnectVars?.retryTimer ?? undefined);
    for (const socket of this.#srf.app.client?.mapServer.keys() ?? []) {
      socket.end();
    }
  }

  #adopt(raw: RawDialog): Dialog {
    const dialog = new Dialog(this.#srf, raw, this.#options, {
      track: (request) => {
        this.#requests.add(request);
        return () => this.#requests.delete(request);
      },
      waiting: this.#waiting,
      gone: () => this.#dialogs.delete(dialog),
    });
    this.#dialogs.add(dialog);
    return dialog;
  }

  /** Ends a dialog the library has made no object for: a 2xx other than 200, or one without a Contact. */
  #endStray(dialogId: string): void {
    this.#guard(() => {
      this.#srf.request("sip:placeholder", { method: "BYE", stackDialogId: dialogId, headers: {} }, () => undefined);
    });
  }

  #guard(run: () => void): void {
    guard(this.#options.log, run);
  }
}

/** Nothing may be thrown into drachtio-srf: from its socket callbacks it would end the process. */
function guard(log: Log, run: () => void): void {
  try {
    run();
  } catch (error) {
    log.error({ err: error }, "an error in a signalling callback");
  }
}

class Incoming implements IncomingInvite {
  readonly method: string;
  readonly uri: string;
  readonly body: string;
  readonly protocol: string;
  readonly sourceAddress: string;
  readonly sourcePort: number;
  readonly #req: RawRequest;
  readonly #res: RawResponse;
  readonly #headers: ReceivedHeaders;
  readonly #options: EngineLinkOptions;
  readonly #waiting: Set<Incoming>;
  readonly #adopt: (raw: RawDialog) => Dialog;
  #cancel: ReceivedHeaders | undefined;
  #onCancel: ((cancel: ReceivedHeaders) => void) | undefined;
  #settled = false;

  constructor(
    req: RawRequest,
    res: RawResponse,
    options: EngineLinkOptions,
    waiting: Set<Incoming>,
    adopt: (raw: RawDialog) => Dialog,
  ) {
    this.#req = req;
    this.#res = res;
    this.#options = options;
    this.#waiting = waiting;
    this.#adopt = adopt;
    this.#headers = readHeaders(req.msg.raw ?? "");
    this.method = req.method;
    this.uri = req.uri;
    this.body = req.body ?? "";
    this.protocol = req.protocol;
    this.sourceAddress = req.source_address;
    this.sourcePort = req.source_port;
    waiting.add(this);
    // srf: a CANCEL that finds no listener is lost, so it is caught before anybody else sees the INVITE.
    req.on("cancel", (message: { raw?: string } | undefined) => {
      guard(options.log, () => {
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
      this.#settle();
    }
    try {
      // srf: names given as an option are lower-cased and repeated ones joined with commas, which RFC 3261 §7.3.1
      // forbids for WWW-Authenticate; put on the message itself they are sent as they are.
      Object.assign(this.#res.headers, headerRecord(options.headers ?? []));
      const body = options.body === undefined ? {} : { body: options.body };
      if (reason === undefined) {
        this.#res.send(status, body);
      } else {
        this.#res.send(status, cleanReason(reason), body);
      }
    } catch (error) {
      // srf: an unknown status throws, and then the request would stay without any answer.
      this.#options.log.error({ err: error, status }, "a response could not be sent");
      guard(this.#options.log, () => {
        if (status >= 200 && !this.#res.finalResponseSent) {
          this.#res.send(500, {});
        }
      });
    }
  }

  accept(sdp: string, headers: readonly HeaderLine[], on: AcceptEvents): void {
    const { clock, log, replyTimeoutMs } = this.#options;
    if (this.#settled) {
      on.failed(new SipFault("cancelled", "the request has been answered or cancelled before"));
      return;
    }
    // srf: createUAS answers 200 to an INVITE without Contact and then makes no dialog of it.
    if (!this.#req.has("Contact")) {
      this.respond(400, "Missing Contact");
      on.failed(new SipFault("engine_refused", "the INVITE has no Contact"));
      return;
    }
    let open = true;
    const once = (result: RawDialog | SipFault): void => {
      deadline.cancel();
      if (!open) {
        // The engine's word came after we had given up: nobody waits for this dialog.
        if (!(result instanceof SipFault)) {
          endUnwanted(this.#adopt(result), replyTimeoutMs);
        }
        return;
      }
      open = false;
      this.#settle();
      if (result instanceof SipFault) {
        on.failed(result);
      } else {
        on.accepted(this.#adopt(result));
      }
    };
    const deadline = clock.after(replyTimeoutMs, () => {
      guard(log, () => {
        once(new SipFault("timeout", "the engine did not confirm our 200"));
      });
    });
    guard(log, () => {
      try {
        // srf: the callback form is used, because a promise would leave a gap in which a BYE finds no listener.
        const options = { localSdp: sdp, headers: headerRecord([sdpType, ...headers]) };
        this.#srf.createUAS(this.#req, this.#res, options, (error, dialog) => {
          guard(log, () => {
            once(dialog ?? faultOf(error));
          });
        });
      } catch (error) {
        once(faultOf(error));
      }
    });
  }

  reattach(socket: Socket): void {
    this.#req.socket = socket;
    this.#res.socket = socket;
  }

  get #srf(): RawSrf {
    return this.#req.srf;
  }

  #cancelled(cancel: ReceivedHeaders): void {
    if (this.#cancel !== undefined) {
      return;
    }
    this.#cancel = cancel;
    // RFC 3261 §9.2: the engine has answered the INVITE with 487, whatever we would still say.
    this.#settle();
    this.#onCancel?.(cancel);
  }

  #settle(): void {
    this.#settled = true;
    this.#waiting.delete(this);
  }
}

interface InviteOwner {
  done(): void;
  dialog(raw: RawDialog): Dialog;
  endStray(dialogId: string): void;
}

class Invite implements OutgoingInvite {
  readonly #srf: RawSrf;
  readonly #options: InviteOptions;
  readonly #link: EngineLinkOptions;
  readonly #owner: InviteOwner;
  #events: InviteEvents | undefined;
  #request: RawRequest | undefined;
  #cancel: readonly HeaderLine[] | undefined;

  constructor(srf: RawSrf, options: InviteOptions, events: InviteEvents, link: EngineLinkOptions, owner: InviteOwner) {
    this.#srf = srf;
    this.#options = options;
    this.#events = events;
    this.#link = link;
    this.#owner = owner;
  }

  send(): void {
    const { uri, proxy, headers, sdp } = this.#options;
    const { log } = this.#link;
    // srf: a dead socket fails within the call, a missing one throws; the caller must have its handle first.
    let sending = true;
    const finish = (error: unknown, dialog: RawDialog | undefined): void => {
      const run = (): void => {
        guard(log, () => {
          this.#finished(error, dialog);
        });
      };
      if (sending) {
        queueMicrotask(run);
      } else {
        run();
      }
    };
    try {
      this.#srf.createUAC(
        // srf: createUAC keeps and changes what it is given, so every attempt gets an object of its own.
        { uri, headers: headerRecord([sdpType, ...headers]), localSdp: sdp, ...(proxy === null ? {} : { proxy }) },
        {
          cbRequest: (error, request) => {
            guard(log, () => {
              // srf: a failure is told here and once more to the final callback.
              if (request !== undefined && (error === null || error === undefined)) {
                this.#sent(request);
              }
            });
          },
          cbProvisional: (response) => {
            guard(log, () => {
              this.#events?.provisional(replyOf(response));
            });
          },
        },
        finish,
      );
    } catch (error) {
      finish(error, undefined);
    }
    sending = false;
  }

  cancel(headers: readonly HeaderLine[]): void {
    if (this.#cancel !== undefined) {
      return;
    }
    this.#cancel = headers;
    if (this.#request !== undefined) {
      this.#sendCancel(this.#request, headers);
    }
  }

  abandon(): void {
    this.#events = undefined;
    this.#owner.done();
  }

  /** The connection is gone and with it every response; returns the request that is to be cancelled when it is back. */
  lost(): RawRequest | undefined {
    const events = this.#events;
    this.abandon();
    guard(this.#link.log, () => {
      events?.failed(new SipFault("engine_away", "the connection to the signalling engine was lost"));
    });
    return this.#request;
  }

  #sent(request: RawRequest): void {
    this.#request = request;
    const headers = readHeaders(request.msg.raw ?? "");
    this.#events?.sent({
      callId: headers.header("call-id") ?? "",
      cseq: Number.parseInt(headers.header("cseq") ?? "0", 10),
      from: headers.header("from") ?? "",
      uri: request.uri,
    });
    if (this.#cancel !== undefined) {
      this.#sendCancel(request, this.#cancel);
    }
  }

  #sendCancel(request: RawRequest, headers: readonly HeaderLine[]): void {
    guard(this.#link.log, () => {
      // The engine's answer is of no use: the INVITE ends by its own final response (RFC 3261 §9.1).
      request.cancel({ headers: headerRecord(headers) }, () => undefined);
    });
  }

  #finished(error: unknown, raw: RawDialog | undefined): void {
    const events = this.#events;
    this.abandon();
    if (raw !== undefined) {
      const dialog = this.#owner.dialog(raw);
      if (events === undefined) {
        // Given up before: the peer must not be left with a call nobody is in.
        endUnwanted(dialog, this.#link.replyTimeoutMs);
      } else {
        events.answered(dialog, replyOf(raw.res));
      }
      return;
    }
    const response = responseOf(error) ?? undefined;
    const status = response?.status ?? 0;
    if (response !== undefined && status >= 200 && status < 300) {
      const { stackDialogId } = response;
      if (stackDialogId !== undefined && stackDialogId !== "") {
        this.#owner.endStray(stackDialogId);
      }
    }
    events?.failed(response === undefined || status < 300 ? faultOf(error) : replyOf(response));
  }
}

interface DialogOwner {
  track(request: { lost(): void }): () => void;
  readonly waiting: Set<Incoming>;
  gone(): void;
}

class Dialog implements SipDialog {
  readonly callId: string;
  readonly localContact: string;
  readonly #srf: RawSrf;
  readonly #raw: RawDialog;
  readonly #options: EngineLinkOptions;
  readonly #owner: DialogOwner;
  #events: DialogEvents | undefined;

  constructor(srf: RawSrf, raw: RawDialog, options: EngineLinkOptions, owner: DialogOwner) {
    this.#srf = srf;
    this.#raw = raw;
    this.#options = options;
    this.#owner = owner;
    this.callId = raw.sip.callId;
    this.localContact = raw.local.contact;
    // srf: what finds no listener is answered 200 and lost: key presses in INFO, REFER, offers in UPDATE.
    this.#on("modify", (req, res) => {
      this.#offered(req, res);
    });
    this.#on("update", (req, res) => {
      this.#update(req, res);
    });
    for (const event of ["info", "refer", "notify", "options", "message", "publish"]) {
      this.#on(event, (req, res) => {
        this.#asked(req, res);
      });
    }
    raw.on("ack", () => {
      guard(options.log, () => {
        this.#events?.acknowledged();
      });
    });
    raw.on("destroy", (bye: RawRequest | undefined, text: unknown) => {
      guard(options.log, () => {
        const events = this.#events;
        this.#events = undefined;
        this.#owner.gone();
        events?.ended({
          byPeer: bye?.source !== "application",
          text: typeof text === "string" ? text : "",
          headers: readHeaders(bye?.msg.raw ?? ""),
        });
      });
    });
  }

  get connected(): boolean {
    return this.#raw.connected;
  }

  get remoteUri(): string {
    return this.#raw.remote.uri;
  }

  listen(events: DialogEvents): void {
    this.#events = events;
  }

  async send(
    method: "BYE" | "INFO" | "NOTIFY" | "OPTIONS" | "REFER",
    { headers = [], body, timeoutMs }: ReplyOptions & { readonly timeoutMs: number },
  ): Promise<Reply | SipFault> {
    return new Promise((resolve) => {
      const finish = (result: Reply | SipFault): void => {
        deadline.cancel();
        untrack();
        resolve(result);
      };
      const deadline = this.#options.clock.after(timeoutMs, () => {
        finish(new SipFault("timeout", `no response to ${method} within ${timeoutMs} ms`));
      });
      const untrack = this.#owner.track({
        lost: () => {
          finish(new SipFault("engine_away", "the connection to the signalling engine was lost"));
        },
      });
      try {
        // srf: `Dialog.request` hides the request, and a peer's UPDATE is swallowed while one of ours is under way
        // unless that request listens for it; so the same request is made through the agent, which gives it back.
        const options = {
          method,
          stackDialogId: this.#raw.id,
          headers: headerRecord(headers),
          ...(body === undefined ? {} : { body }),
        };
        this.#srf.request("sip:placeholder", options, (error, request) => {
          guard(this.#options.log, () => {
            if (request === undefined) {
              finish(faultOf(error));
              return;
            }
            request.on("update", (req: RawRequest, res: RawResponse) => {
              guard(this.#options.log, () => {
                this.#update(req, res);
              });
            });
            request.on("response", (response: RawResponse) => {
              guard(this.#options.log, () => {
                if (response.status >= 200) {
                  finish(replyOf(response));
                }
              });
            });
          });
        });
      } catch (error) {
        finish(faultOf(error));
      }
    });
  }

  forget(): void {
    this.#events = undefined;
    this.#raw.connected = false;
    this.#srf.removeDialog(this.#raw);
    this.#owner.gone();
  }

  reattach(socket: Socket): void {
    this.#raw.req.socket = socket;
    this.#raw.res.socket = socket;
  }

  /** Makes this connection the dialog's owner, and ends it here when engine or peer do not know it any more. */
  async claim(): Promise<void> {
    if (this.#events === undefined) {
      return;
    }
    const result = await this.send("OPTIONS", { timeoutMs: this.#options.replyTimeoutMs });
    // RFC 3261 §12.2.1.2: 481 and 408 to a request inside a dialog mean that the dialog is over.
    const gone =
      result instanceof SipFault ? result.code === "dialog_gone" : result.status === 481 || result.status === 408;
    if (gone) {
      const events = this.#events;
      this.forget();
      guard(this.#options.log, () => {
        events?.ended({
          byPeer: false,
          text: "the dialog was lost with the connection to the engine",
          headers: readHeaders(""),
        });
      });
    }
  }

  #on(event: string, run: (req: RawRequest, res: RawResponse) => void): void {
    this.#raw.on(event, (req: RawRequest, res: RawResponse) => {
      guard(this.#options.log, () => {
        run(req, res);
      });
    });
  }

  #offered(req: RawRequest, res: RawResponse): void {
    const request = this.#incoming(req, res);
    if (this.#events === undefined) {
      request.respond(481);
    } else {
      this.#events.offered(request);
    }
  }

  /** RFC 3311 §5.2: an UPDATE with an offer is answered like a re-INVITE, one without only refreshes. */
  #update(req: RawRequest, res: RawResponse): void {
    if ((req.body ?? "") === "") {
      this.#asked(req, res);
    } else {
      this.#offered(req, res);
    }
  }

  #asked(req: RawRequest, res: RawResponse): void {
    const request = this.#incoming(req, res);
    if (this.#events === undefined) {
      request.respond(481);
    } else {
      this.#events.asked(request);
    }
  }

  #incoming(req: RawRequest, res: RawResponse): Incoming {
    return new Incoming(req, res, this.#options, this.#owner.waiting, () => this);
  }
}

function endUnwanted(dialog: Dialog, timeoutMs: number): void {
  void dialog.send("BYE", { timeoutMs }).finally(() => {
    dialog.forget();
  });
}

const sdpType: HeaderLine = { name: "Content-Type", value: "application/sdp" };

/**
 * Header lines as the object drachtio-srf wants. A repeated name is written with other capitals, which makes it another
 * key and the same header; a name that every object has by nature (`constructor`) too, because the library would find
 * the inherited one.
 */
function headerRecord(lines: readonly HeaderLine[]): Record<string, string> {
  const record: Record<string, string> = {};
  for (const { name, value } of lines) {
    let key = name;
    for (let variant = 1; key in record; variant += 1) {
      key = caseVariant(name, variant);
    }
    record[key] = value;
  }
  return record;
}

/** The name with its letters' case flipped where the bits of `variant` are set. */
function caseVariant(name: string, variant: number): string {
  let letter = 0;
  return Array.from(name)
    .map((character) => {
      const upper = character.toUpperCase();
      const lower = character.toLowerCase();
      if (upper === lower) {
        return character;
      }
      const flip = (variant >> Math.min(letter, 30)) & 1;
      letter += 1;
      return flip === 0 ? character : character === upper ? lower : upper;
    })
    .join("");
}

function cleanReason(reason: string): string {
  return reason.replaceAll(/[^\x20-\x7e]/g, " ").slice(0, 128);
}

function replyOf(response: RawResponse): Reply {
  return {
    ...readHeaders(response.msg.raw ?? ""),
    status: response.status,
    reason: response.reason ?? "",
    body: response.body ?? "",
    sourceAddress: response.source_address ?? "",
  };
}

function responseOf(error: unknown): RawResponse | null {
  return error instanceof Error && "res" in error ? (error.res as RawResponse) : null;
}

/** srf: rejections are strings, Errors with or without a code, or SipErrors; here all become one type. */
function faultOf(error: unknown): SipFault {
  if (error instanceof SipFault) {
    return error;
  }
  const message = error instanceof Error ? error.message : String(error);
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  if (code === "ENODIALOG" || /unable to find dialog/i.test(message)) {
    return new SipFault("dialog_gone", message);
  }
  if (error instanceof Error && "status" in error && error.status === 487) {
    return new SipFault("cancelled", message);
  }
  const away =
    code === "ESOCKETDESTROYED" || code === "EINVALIDSOCKET" || code === "ECONNREFUSED" || code === "ERR_ASSERTION";
  return new SipFault(away || /socket connection closed/.test(message) ? "engine_away" : "engine_refused", message);
}

function readListenAddress(text: string): ListenAddress | undefined {
  const match = /^\s*([a-z]+)\/(\[[^\]]+\]|[^:]+):(\d+)\s*$/i.exec(text);
  return match === null ? undefined : { protocol: match[1] ?? "", address: match[2] ?? "", port: Number(match[3]) };
}

// srf: the typings of the package are thin and partly wrong; these say what 5.0.29 really has, as far as it is used.

interface RawMessage {
  readonly raw?: string;
}

interface RawRequest extends EventEmitter {
  readonly method: string;
  readonly uri: string;
  readonly body?: string;
  readonly msg: RawMessage;
  readonly source: string;
  readonly source_address: string;
  readonly source_port: number;
  readonly protocol: string;
  readonly stackDialogId?: string;
  readonly srf: RawSrf;
  socket: Socket;
  has(name: string): boolean;
  cancel(options: { headers?: Record<string, string> }, callback: () => void): void;
}

interface RawResponse extends EventEmitter {
  readonly status: number;
  readonly reason?: string;
  readonly body?: string;
  readonly msg: RawMessage;
  readonly headers: Record<string, string>;
  readonly finalResponseSent: boolean;
  readonly source_address?: string;
  readonly stackDialogId?: string;
  socket: Socket;
  send(status: number, reason: string | object, options?: object): void;
}

interface RawDialog extends EventEmitter {
  readonly id: string;
  readonly sip: { readonly callId: string };
  readonly local: { readonly contact: string };
  readonly remote: { readonly uri: string };
  readonly req: RawRequest;
  readonly res: RawResponse;
  connected: boolean;
}

type Middleware = (req: RawRequest, res: RawResponse) => void;

interface RawSrf extends EventEmitter {
  readonly app: {
    readonly client?: {
      readonly mapServer: Map<Socket, { readonly pendingRequests: Map<string, () => void> }>;
      readonly wp: {
        closing?: boolean;
        readonly reconnectVars?: { retryTimer?: NodeJS.Timeout | null };
        send(socket: Socket, message: string): string;
      };
    };
  };
  connect(options: object): void;
  use(run: Middleware): void;
  invite(run: Middleware): void;
  options(run: Middleware): void;
  register(run: Middleware): void;
  message(run: Middleware): void;
  subscribe(run: Middleware): void;
  publish(run: Middleware): void;
  notify(run: Middleware): void;
  info(run: Middleware): void;
  refer(run: Middleware): void;
  update(run: Middleware): void;
  request(uri: string, options: object, callback: (error: unknown, request?: RawRequest) => void): void;
  createUAS(
    req: RawRequest,
    res: RawResponse,
    options: object,
    callback: (error: unknown, dialog?: RawDialog) => void,
  ): void;
  createUAC(
    options: object,
    progress: {
      cbRequest(error: unknown, request?: RawRequest): void;
      cbProvisional(response: RawResponse): void;
    },
    callback: (error: unknown, dialog?: RawDialog) => void,
  ): void;
  removeDialog(dialog: RawDialog): void;
}
