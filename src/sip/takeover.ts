import type { ExchangeId, LegId, Sdp } from "../call/ids.ts";
import type { Cancellable } from "../lib/clock.ts";
import { hangUp } from "./hang-up.ts";
import { allowedMethods } from "./in-dialog.ts";
import type { LegContext } from "./leg.ts";
import { supportingReplaces } from "./operator-invite.ts";
import type { SipTrunk } from "./directory.ts";
import type { IncomingInvite, SipDialog } from "./link/types.ts";
import type { ReplacedDialog } from "./replaces.ts";
import { answerSession } from "./session-expires.ts";

interface TakeoverOptions {
  readonly invite: IncomingInvite;
  readonly leg: LegId;
  /** How many have claimed this leg, this one included. */
  readonly number: number;
  readonly trunk: SipTrunk | undefined;
  readonly context: LegContext;
  /** His dialog is confirmed; null when nothing comes of it and the leg stays as it was. */
  readonly done: (dialog: SipDialog | null) => void;
}

/** Somebody on his way to the place of a leg's peer: from his INVITE with Replaces to its ACK (RFC 3891 §3). */
export class Takeover {
  readonly exchange: ExchangeId;
  readonly #options: TakeoverOptions;
  #phase: "offered" | "accepting" | "accepted" | "over" = "offered";
  /** The leg is over, so that he comes too late. */
  #unwanted = false;
  #deadline: Cancellable;

  constructor(options: TakeoverOptions) {
    const { clock, times } = options.context;
    this.#options = options;
    this.exchange = `${options.leg}/claim-${options.number}` as ExchangeId;
    this.#deadline = clock.after(times.exchangeMs, () => {
      this.refuse(500);
    });
  }

  /** From now on a CANCEL ends it; apart from the constructor, because it may have arrived already. */
  begin(): void {
    this.#options.invite.onCancel(() => {
      // RFC 3261 §9.2: the engine has answered the INVITE with 487.
      this.#end(null);
    });
  }

  accept(answer: Sdp): void {
    if (this.#phase !== "offered") return;
    const { invite, trunk } = this.#options;
    this.#deadline.cancel();
    this.#phase = "accepting";
    const allow = { name: "Allow", value: `${allowedMethods}, REFER` };
    const session = answerSession(trunk?.sessionExpiresSeconds ?? null, invite);
    invite.accept(answer, [allow, ...supportingReplaces(session)], {
      accepted: (dialog) => {
        this.#accepted(dialog);
      },
      failed: () => {
        this.#end(null);
      },
    });
  }

  refuse(status: number): void {
    if (this.#phase !== "offered") return;
    this.#options.invite.respond(status);
    this.#end(null);
  }

  /** The leg is over before he has its place. */
  close(): void {
    this.#unwanted = true;
    // RFC 3891 §3: a dialog that has terminated is declined.
    this.refuse(603);
  }

  #accepted(dialog: SipDialog): void {
    const { clock, times } = this.#options.context;
    // RFC 3261 §13.3.1.4: without an ACK the engine ends the dialog after 64*T1; if it does not, we do.
    this.#deadline = clock.after(times.cancelMs, () => {
      this.#hangUp(dialog);
      this.#end(null);
    });
    // A CANCEL that the engine has passed on before it took our 200: what came of that is hung up after its ACK.
    if (this.#phase === "accepting") this.#phase = "accepted";
    else this.#unwanted = true;
    dialog.listen({
      acknowledged: () => {
        this.#deadline.cancel();
        if (this.#unwanted) this.#hangUp(dialog);
        this.#end(this.#unwanted ? null : dialog);
      },
      ended: () => {
        this.#deadline.cancel();
        this.#end(null);
      },
      offered: (request) => {
        // RFC 3261 §14.2: nothing can be agreed anew before the ACK of what was agreed first.
        request.respond(491);
      },
      asked: (request) => {
        request.respond(500, undefined, { headers: [{ name: "Retry-After", value: "1" }] });
      },
    });
  }

  #end(dialog: SipDialog | null): void {
    if (this.#phase === "over") return;
    this.#phase = "over";
    this.#deadline.cancel();
    if (!this.#unwanted) this.#options.done(dialog);
  }

  #hangUp(dialog: SipDialog): void {
    const { link, times } = this.#options.context;
    const order = { reason: "too late", headers: [], timeoutMs: times.requestMs, credentials: null };
    void hangUp(dialog, link, order);
  }
}

/** RFC 3891 §3: the to-tag is ours, because the INVITE that names the dialog comes to us. */
export function matches(dialog: SipDialog, { callId, toTag, fromTag }: ReplacedDialog): boolean {
  return dialog.callId === callId && dialog.localTag === toTag && dialog.remoteTag === fromTag;
}
