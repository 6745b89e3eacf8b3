import type { HeaderLine } from "../message.ts";
import { endUnwanted } from "./dialog.ts";
import type { Dialog } from "./dialog.ts";
import { faultOf, guard, SipFault } from "./fault.ts";
import { Incoming } from "./incoming.ts";
import { headerRecord, sdpType } from "./raw.ts";
import type { RawDialog, RawRequest, RawResponse } from "./raw.ts";
import type { AcceptEvents, IncomingInvite, LinkContext } from "./types.ts";

/** An INVITE outside of any dialog, which can become one. */
export class IncomingCall extends Incoming implements IncomingInvite {
  readonly #adopt: (raw: RawDialog) => Dialog;

  constructor(
    req: RawRequest,
    res: RawResponse,
    context: LinkContext,
    waiting: Set<Incoming>,
    adopt: (raw: RawDialog) => Dialog,
  ) {
    super(req, res, context, waiting);
    this.#adopt = adopt;
  }

  accept(sdp: string, headers: readonly HeaderLine[], on: AcceptEvents): void {
    const { clock, log, replyTimeoutMs } = this.context;
    if (this.settled) {
      on.failed(new SipFault("cancelled", "the request has been answered or cancelled before"));
      return;
    }
    // srf: createUAS answers 200 to an INVITE without Contact and then makes no dialog of it.
    if (!this.req.has("Contact")) {
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
      this.settle();
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
        this.req.srf.createUAS(this.req, this.res, options, (error, dialog) => {
          guard(log, () => {
            once(dialog ?? faultOf(error));
          });
        });
      } catch (error) {
        once(faultOf(error));
      }
    });
  }
}
