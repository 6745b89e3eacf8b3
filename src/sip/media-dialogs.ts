import type { Clock } from "../lib/clock.ts";
import { SipFault } from "./link/fault.ts";
import type { EngineLink } from "./srf.ts";
import type { Reply, SipDialog } from "./link/types.ts";

/** A dialog with a media server that speaks SIP; the other end is one channel in it. */
export interface MediaDialog {
  /** The description in the latest answer. */
  readonly sdp: string;
  /** Sends a re-INVITE; resolves with the description in the answer. Rejects with a SipFault or an Error. */
  modify(sdp: string): Promise<string>;
  /** Sends a BYE. Resolves always. */
  bye(): Promise<void>;
  /** Called once, when the media server or the engine has ended it. */
  onEnded(run: () => void): void;
}

/** Media servers that are reached by SIP: dialogs which belong to no trunk and no leg of a call. */
export class MediaDialogs {
  readonly #link: EngineLink;
  readonly #clock: Clock;
  /** For an INVITE or a BYE on the way to the next room. */
  readonly #timeoutMs: number;

  constructor(link: EngineLink, clock: Clock, timeoutMs: number) {
    this.#link = link;
    this.#clock = clock;
    this.#timeoutMs = timeoutMs;
  }

  /** Rejects with an Error when the media server refuses or does not answer in time. */
  async open(uri: string, headers: Readonly<Record<string, string>>, sdp: string): Promise<MediaDialog> {
    const lines = Object.entries(headers).map(([name, value]) => ({ name, value }));
    return new Promise((resolve, reject) => {
      const deadline = this.#clock.after(this.#timeoutMs, () => {
        invite.abandon();
        invite.cancel([]);
        reject(new SipFault("timeout", `the media server did not answer within ${this.#timeoutMs} ms`));
      });
      const invite = this.#link.invite(
        { uri, proxy: null, headers: lines, sdp },
        {
          sent: () => undefined,
          provisional: () => undefined,
          answered: (dialog, reply) => {
            deadline.cancel();
            resolve(new OpenDialog(dialog, reply.body, this.#timeoutMs));
          },
          failed: (result) => {
            deadline.cancel();
            reject(faultOf("the INVITE", result));
          },
        },
      );
    });
  }
}

class OpenDialog implements MediaDialog {
  sdp: string;
  readonly #dialog: SipDialog;
  readonly #timeoutMs: number;
  #onEnded: () => void = () => undefined;

  constructor(dialog: SipDialog, sdp: string, timeoutMs: number) {
    this.#dialog = dialog;
    this.sdp = sdp;
    this.#timeoutMs = timeoutMs;
    dialog.listen({
      ended: () => {
        this.#onEnded();
      },
      acknowledged: () => undefined,
      // What a media server may want to change is decided on this side alone.
      offered: (request) => {
        request.respond(488);
      },
      asked: (request) => {
        request.respond(200);
      },
    });
  }

  onEnded(run: () => void): void {
    this.#onEnded = run;
  }

  async modify(sdp: string): Promise<string> {
    const headers = [{ name: "Content-Type", value: "application/sdp" }];
    const result = await this.#dialog.send("INVITE", { headers, body: sdp, timeoutMs: this.#timeoutMs });
    if (result instanceof SipFault || result.status >= 300) throw faultOf("the re-INVITE", result);
    this.sdp = result.body;
    return result.body;
  }

  async bye(): Promise<void> {
    this.#onEnded = () => undefined;
    if (this.#dialog.connected) await this.#dialog.send("BYE", { timeoutMs: this.#timeoutMs });
    this.#dialog.forget();
  }
}

function faultOf(what: string, result: Reply | SipFault): Error {
  return result instanceof SipFault ? result : new Error(`${what} was answered ${result.status} ${result.reason}`);
}
