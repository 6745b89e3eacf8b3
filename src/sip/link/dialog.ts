import type { Socket } from "node:net";

import { readHeaders } from "../message.ts";
import { faultOf, guard, SipFault } from "./fault.ts";
import { Incoming } from "./incoming.ts";
import { headerRecord, replyOf } from "./raw.ts";
import type { RawDialog, RawRequest, RawResponse, RawSrf } from "./raw.ts";
import type { DialogEvents, LinkContext, Reply, ReplyOptions, SipDialog } from "./types.ts";

export interface DialogOwner {
  track(request: { lost(): void }): () => void;
  readonly waiting: Set<Incoming>;
  gone(): void;
}

/** A confirmed dialog, until either side ends it. */
export class Dialog implements SipDialog {
  readonly callId: string;
  readonly localTag: string;
  readonly remoteTag: string;
  readonly localContact: string;
  readonly #srf: RawSrf;
  readonly #raw: RawDialog;
  readonly #options: LinkContext;
  readonly #owner: DialogOwner;
  #events: DialogEvents | undefined;

  constructor(srf: RawSrf, raw: RawDialog, options: LinkContext, owner: DialogOwner) {
    this.#srf = srf;
    this.#raw = raw;
    this.#options = options;
    this.#owner = owner;
    this.callId = raw.sip.callId;
    // srf: a peer of RFC 2543 has no tag.
    this.localTag = raw.sip.localTag ?? "";
    this.remoteTag = raw.sip.remoteTag ?? "";
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
    raw.on("ack", (ack: RawRequest | undefined) => {
      guard(options.log, () => {
        this.#events?.acknowledged(ack?.body ?? "");
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
    method: "BYE" | "INFO" | "INVITE" | "NOTIFY" | "OPTIONS" | "REFER",
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
            request.on("response", (response: RawResponse, acknowledge?: () => void) => {
              guard(this.#options.log, () => {
                // RFC 3261 §14.1: the ACK to a 2xx is the user agent's own; the engine sends those to refusals.
                if (method === "INVITE" && response.status >= 200 && response.status < 300) {
                  acknowledge?.();
                }
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
    const ask = (): Promise<Reply | SipFault> => this.send("OPTIONS", { timeoutMs: this.#options.replyTimeoutMs });
    const silent = (result: Reply | SipFault): boolean => !(result instanceof SipFault) && result.status === 408;
    let result = await ask();
    // A network that fails for half a minute must not end the talks of everybody who is asked in it.
    if (silent(result) && this.#events !== undefined) result = await ask();
    // RFC 3261 §12.2.1.2: 481 and 408 to a request inside a dialog mean that the dialog is over.
    const over = silent(result) || (!(result instanceof SipFault) && result.status === 481);
    if (over || (result instanceof SipFault && result.code === "dialog_gone")) {
      const events = this.#events;
      this.forget();
      // The engine holds a dialog until somebody says BYE, whatever its peer has answered.
      if (over) void this.send("BYE", { timeoutMs: this.#options.replyTimeoutMs });
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
    return new Incoming(req, res, this.#options, this.#owner.waiting);
  }
}

/** Ends a dialog that came into being when nobody waited for it any more. */
export function endUnwanted(dialog: Dialog, timeoutMs: number): void {
  void dialog.send("BYE", { timeoutMs }).finally(() => {
    dialog.forget();
  });
}
