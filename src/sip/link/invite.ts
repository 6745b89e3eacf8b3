import { readHeaders } from "../message.ts";
import type { HeaderLine } from "../message.ts";
import { endUnwanted } from "./dialog.ts";
import type { Dialog } from "./dialog.ts";
import { faultOf, guard, SipFault } from "./fault.ts";
import { headerRecord, replyOf, responseOf, sdpType } from "./raw.ts";
import type { RawDialog, RawRequest, RawSrf } from "./raw.ts";
import type { InviteEvents, InviteOptions, LinkContext, OutgoingInvite } from "./types.ts";

export interface InviteOwner {
  done(): void;
  dialog(raw: RawDialog): Dialog;
  endStray(dialogId: string): void;
}

/** An INVITE of ours, until its final response. */
export class Invite implements OutgoingInvite {
  readonly #srf: RawSrf;
  readonly #options: InviteOptions;
  readonly #link: LinkContext;
  readonly #owner: InviteOwner;
  #events: InviteEvents | undefined;
  #request: RawRequest | undefined;
  #cancel: readonly HeaderLine[] | undefined;

  constructor(srf: RawSrf, options: InviteOptions, events: InviteEvents, link: LinkContext, owner: InviteOwner) {
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
