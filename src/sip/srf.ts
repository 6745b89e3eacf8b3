import { createRequire } from "node:module";
import { Server } from "node:net";
import type { Socket } from "node:net";
import Srf from "drachtio-srf";

import type { Cancellable } from "../lib/clock.ts";
import { Claims, claimsAtOnce } from "./link/claims.ts";
import { Dialog } from "./link/dialog.ts";
import { faultOf, guard, SipFault } from "./link/fault.ts";
import { Incoming } from "./link/incoming.ts";
import { IncomingCall } from "./link/incoming-call.ts";
import { Invite } from "./link/invite.ts";
import type { RawDialog, RawRequest, RawResponse, RawSrf } from "./link/raw.ts";
import { sendOutside } from "./link/request.ts";
import type { OutsideReply, OutsideRequest } from "./link/request.ts";
import type {
  IncomingInvite,
  IncomingRequest,
  InviteEvents,
  InviteOptions,
  LinkContext,
  OutgoingInvite,
} from "./link/types.ts";

// The only file that imports drachtio-srf; `link/` works with what it makes. What is done there and here against the
// library's pitfalls says so with "srf:". Parts of the library that are no public API are used too, and so only the
// version they were read in is accepted.
const testedVersion = "5.0.29";

/** How often the connection may break before dialogs of an earlier process are left to the next one. */
const mostLosses = 100;

/** How often a connection within this process is made again when it breaks. */
const reopenMs = 100;

/** Where the signalling engine is. */
export interface EnginePlace {
  readonly host: string;
  readonly port: number;
  readonly secret: string;
  /** Makes a connection to an engine in this process; host and port then only say which one it is. */
  readonly connection?: (() => Socket) | undefined;
  /**
   * Interval at which peers of dialogs that were made over an earlier connection are asked whether they are still there. A
   * drachtio-server needs it: what such a peer sends is answered 481 there and never comes here. Default 0: they are asked
   * once, because the engine hands its dialogs over.
   */
  readonly claimAgainMs?: number | undefined;
}

export interface EngineLinkOptions extends LinkContext, EnginePlace {
  /** How long `start` waits for the engine. */
  readonly connectTimeoutMs: number;
  /** Interval of the liveness check of the connection; 0 for none (an engine in the same process). */
  readonly pingMs: number;
  readonly onInvite: (invite: IncomingInvite) => void;
  /**
   * Any other request outside of a dialog we know. `early`: it belongs to an INVITE that is not answered yet;
   * `inDialog`: the peer believes to be in a dialog that does not exist here.
   */
  readonly onRequest: (request: IncomingRequest, place: "outside" | "early" | "inDialog") => void;
  readonly onState: (up: boolean) => void;
  /** Told of every dialog, by the engine's id, as long as it is open. */
  readonly dialogs?: { opened(id: string): void; ended(id: string): void } | undefined;
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
  readonly #claims: Claims;
  readonly #awaited = new Set<(up: boolean) => void>();
  #up = false;
  #started = false;
  #closing = false;
  #listening: readonly ListenAddress[] = [];
  #beat: Cancellable | undefined;

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
    this.#claims = new Claims(options.clock, options.claimAgainMs ?? 0);
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
        if (error !== null && error !== undefined) {
          log.error({ host, port }, "the signalling engine refused our secret");
          if (this.#started) {
            // It was right before: whoever restarted the engine may correct it, and the library goes on trying.
            return;
          }
          deadline.cancel();
          this.#disconnect();
          reject(new SipFault("engine_refused", `the signalling engine at ${host}:${port} refused our secret`));
          return;
        }
        this.#connected(String(hostports));
        // srf: what we want to be given was only sent. A call before the engine has read it would be refused there; the answer
        // to what is sent behind it says that it has.
        this.#ping(() => {
          deadline.cancel();
          resolve();
        });
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
      const { connection } = this.#options;
      if (connection === undefined) {
        // srf: the back-off grows without end unless it is capped.
        this.#srf.connect({ host, port, secret, reconnect: { retryMaxDelay: 2000 } });
      } else {
        this.#connectWithin(connection);
      }
    });
  }

  /** Over a stream in this process: half of drachtio-srf's time on a busy machine goes into loopback sockets. */
  #connectWithin(connection: () => Socket): void {
    const { clock, secret } = this.#options;
    // srf: the only way in for a socket of ours is a `net.Server`; this one listens nowhere.
    const server = new Server();
    const open = (): void => {
      const socket = connection();
      socket.once("close", () => {
        if (!this.#closing) {
          clock.after(reopenMs, open);
        }
      });
      server.emit("connection", socket);
    };
    this.#srf.listen({ server, secret });
    open();
  }

  ready(): boolean {
    return this.#up;
  }

  /**
   * New calls and the questions whether we take any go to other connections of the engine from now on; where there is none
   * the engine answers 503. Dialogs stay ours.
   */
  turnAway(): void {
    // srf: its own list of verbs loses only those that it has told the engine, so a later connection asks for them again
    // where we are not connected now; the calls that come then are refused one by one.
    for (const verb of ["invite", "options"]) {
      guard(this.#options.log, () => {
        this.#srf.unregisterForMessages(verb);
      });
    }
  }

  /** Resolves with true when the engine is connected, with false when it is not within the time or never will be. */
  async whenUp(timeoutMs: number): Promise<boolean> {
    if (this.#up || this.#closing) {
      return this.#up;
    }
    return new Promise((resolve) => {
      const finish = (up: boolean): void => {
        deadline.cancel();
        this.#awaited.delete(finish);
        resolve(up);
      };
      const deadline = this.#options.clock.after(timeoutMs, () => {
        finish(false);
      });
      this.#awaited.add(finish);
    });
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

  /** Sends a request outside of any dialog. Resolves always: with the final response, or with why there is none. */
  async request(options: OutsideRequest): Promise<OutsideReply | SipFault> {
    return sendOutside(this.#srf, options, this.#options, (request) => this.#track(request));
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
    for (const awaited of this.#awaited) {
      awaited(false);
    }
    for (const dialog of this.#dialogs) {
      dialog.forget();
    }
    this.#waiting.clear();
  }

  #route(): void {
    const { onInvite, onRequest } = this.#options;
    const other = (req: RawRequest, res: RawResponse): void => {
      // RFC 3261 §17.1.1.3: an ACK is never answered.
      if (req.method === "ACK") {
        return;
      }
      const request = new Incoming(req, res, this.#options, this.#waiting);
      this.#answered(request, () => {
        const inDialog = (req.stackDialogId ?? "") !== "" || /;\s*tag=/i.test(request.header("to") ?? "");
        onRequest(request, inDialog && this.#rings(request) ? "early" : inDialog ? "inDialog" : "outside");
      });
    };
    this.#srf.invite((req, res) => {
      // A re-INVITE in a dialog of an earlier process: taken for a new call, it would be answered by another bot.
      if ((req.stackDialogId ?? "") !== "") {
        other(req, res);
        return;
      }
      if (this.#given(req, res)) {
        return;
      }
      const invite = new IncomingCall(req, res, this.#options, this.#waiting, (raw) => this.#adopt(raw));
      this.#answered(invite, () => {
        onInvite(invite);
      });
    });
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
    const { connection, log, onState } = this.#options;
    const socket = this.#socket();
    if (connection !== undefined && socket !== undefined) {
      // srf: it routes its verbs on connections that it made itself only.
      this.#srf.app.client?.routeVerbs(socket);
    }
    this.#listening = hostports.split(",").flatMap((text) => readListenAddress(text) ?? []);
    const again = this.#started;
    this.#started = true;
    this.#up = true;
    this.#reattach();
    this.#startPing();
    log.info(
      { listening: this.#listening, dialogs: this.#dialogs.size },
      again ? "signalling engine connected again" : "signalling engine connected",
    );
    for (const awaited of this.#awaited) {
      awaited(true);
    }
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
    for (const dialog of this.#dialogs) {
      dialog.reattach(socket);
    }
    this.#claims.begin(this.#dialogs);
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
    this.#beat?.cancel();
    this.#claims.end();
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
    this.#beat?.cancel();
    if (pingMs === 0) {
      return;
    }
    let answered = true;
    const beat = (): void => {
      const socket = this.#socket();
      if (socket === undefined) {
        return;
      }
      if (!answered) {
        this.#options.log.warn({}, "the signalling engine does not answer pings: reconnecting");
        socket.destroy();
        return;
      }
      answered = false;
      this.#ping(() => {
        answered = true;
      });
      this.#beat = clock.after(pingMs, beat);
    };
    this.#beat = clock.after(pingMs, beat);
  }

  /** Asks the engine for a sign of life; what was sent before has been read when it comes. */
  #ping(answered: () => void): void {
    const client = this.#srf.app.client;
    const socket = this.#socket();
    const id = socket === undefined ? undefined : client?.wp.send(socket, "ping");
    if (socket !== undefined && id !== undefined) {
      client?.mapServer.get(socket)?.pendingRequests.set(id, answered);
    }
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
      track: (request) => this.#track(request),
      waiting: this.#waiting,
      gone: () => {
        this.#dialogs.delete(dialog);
        this.#claims.gone(dialog);
        this.#options.dialogs?.ended(raw.id);
      },
    });
    this.#dialogs.add(dialog);
    this.#options.dialogs?.opened(raw.id);
    return dialog;
  }

  #track(request: { lost(): void }): () => void {
    this.#requests.add(request);
    return () => this.#requests.delete(request);
  }

  /**
   * Ends dialogs that an earlier process has left in the engine, a few at a time; `ended` is called for each that is over.
   * Goes on after the connection was lost and is back. Resolves when all are over or the engine stays away.
   */
  async endLeft(dialogIds: readonly string[], reason: string, ended: (id: string) => void): Promise<void> {
    const left = [...dialogIds];
    let losses = 0;
    const end = async (): Promise<void> => {
      for (let id = left.pop(); id !== undefined; id = left.pop()) {
        if (await this.#endOne(id, reason)) {
          ended(id);
          continue;
        }
        losses += 1;
        if (losses > mostLosses || !(await this.whenUp(this.#options.connectTimeoutMs))) {
          return;
        }
        left.push(id);
      }
    };
    await Promise.all(Array.from({ length: claimsAtOnce }, end));
  }

  /** False when the engine could not be asked, so that it has to be tried again. */
  async #endOne(stackDialogId: string, reason: string): Promise<boolean> {
    return new Promise((resolve) => {
      const finish = (done: boolean): void => {
        deadline.cancel();
        this.#requests.delete(entry);
        resolve(done);
      };
      const entry = {
        lost: () => {
          finish(false);
        },
      };
      this.#requests.add(entry);
      // A peer that does not answer is given up like any other.
      const deadline = this.#options.clock.after(this.#options.replyTimeoutMs, () => {
        finish(true);
      });
      try {
        const options = { method: "BYE", stackDialogId, headers: { Reason: reason } };
        this.#srf.request("sip:placeholder", options, (error, request) => {
          this.#guard(() => {
            if (request === undefined) {
              finish(faultOf(error).code !== "engine_away");
              return;
            }
            request.on("response", (response: RawResponse) => {
              if (response.status >= 200) {
                finish(true);
              }
            });
          });
        });
      } catch {
        finish(false);
      }
    });
  }

  /** Ends a dialog the library has made no object for: a 2xx other than 200, or one without a Contact. */
  #endStray(dialogId: string): void {
    this.#guard(() => {
      this.#srf.request("sip:placeholder", { method: "BYE", stackDialogId: dialogId, headers: {} }, () => undefined);
    });
  }

  /** Runs what answers a request; a mistake there must not leave the peer without an answer. */
  #answered(request: Incoming, run: () => void): void {
    if (!guard(this.#options.log, run)) {
      request.respond(500);
    }
  }

  /**
   * The engine gives an INVITE that was not answered when the connection broke to the next one, and that may be us again.
   * What the library holds of it now is taken over, so that a CANCEL and our answer find each other.
   */
  #given(req: RawRequest, res: RawResponse): boolean {
    const known = [...this.#waiting].find((other) => other.method === "INVITE" && other.txnId === req.stackTxnId);
    known?.replace(req, res);
    return known !== undefined;
  }

  #rings(request: Incoming): boolean {
    const callId = request.header("call-id");
    return [...this.#waiting].some((other) => other.method === "INVITE" && other.header("call-id") === callId);
  }

  #guard(run: () => void): void {
    guard(this.#options.log, run);
  }
}

function readListenAddress(text: string): ListenAddress | undefined {
  const match = /^\s*([a-z]+)\/(\[[^\]]+\]|[^:]+):(\d+)\s*$/i.exec(text);
  return match === null ? undefined : { protocol: match[1] ?? "", address: match[2] ?? "", port: Number(match[3]) };
}
