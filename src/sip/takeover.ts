import type { CallEvent } from "../call/event.ts";
import type { ExchangeId, LegId, Sdp } from "../call/ids.ts";
import type { Cancellable } from "../lib/clock.ts";
import { callerOf } from "./caller-of.ts";
import { hangUp } from "./hang-up.ts";
import { allowedMethods } from "./in-dialog.ts";
import type { LegContext } from "./leg.ts";
import { supportingReplaces } from "./operator-invite.ts";
import type { SipTrunk } from "./directory.ts";
import type { IncomingInvite, SipDialog } from "./link/types.ts";
import type { ReplacedDialog } from "./replaces.ts";
import { isLocal } from "./local-call.ts";
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

  /** His place is not to be had any more. RFC 3891 §3: 603 for a dialog that has terminated, 486 for one that is no early one. */
  close(status: 486 | 603 = 603): void {
    this.#unwanted = true;
    this.refuse(status);
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

interface TakeoversOptions {
  readonly leg: LegId;
  readonly trunk: SipTrunk | undefined;
  readonly context: LegContext;
  /** False when no call takes the event. */
  readonly post: (event: CallEvent) => boolean;
  /** Somebody has the place of the leg's peer; `local`: he is a leg of another call of ours. */
  readonly taken: (taker: Taker) => void;
}

export interface Taker {
  readonly dialog: SipDialog;
  readonly offer: Sdp;
  /** Who he is; null where no phone is behind him, or where he does not say. */
  readonly by: string | null;
  readonly local: boolean;
}

/** Who claims the place of a leg's peer, one at a time. */
export class Takeovers {
  readonly #options: TakeoversOptions;
  #count = 0;
  #taking: Takeover | undefined;
  /** The end of the peer himself, which counts if nobody takes his place. */
  #ending: (() => void) | undefined;

  constructor(options: TakeoversOptions) {
    this.#options = options;
  }

  get open(): boolean {
    return this.#taking !== undefined;
  }

  begin(invite: IncomingInvite, offer: Sdp): void {
    const { leg, trunk, context, post, taken } = this.#options;
    if (this.#taking !== undefined) {
      invite.respond(603);
      return;
    }
    this.#count += 1;
    const local = isLocal(invite);
    const by = local ? null : takerOf(invite, trunk);
    const takeover = new Takeover({
      invite,
      leg,
      number: this.#count,
      trunk,
      context,
      done: (dialog) => {
        const ending = this.#ending;
        this.#taking = undefined;
        this.#ending = undefined;
        if (dialog !== null) taken({ dialog, offer, by, local });
        else ending?.();
      },
    });
    this.#taking = takeover;
    takeover.begin();
    if (!post({ type: "leg.claimed", leg, exchange: takeover.exchange, offer })) takeover.refuse(603);
  }

  /** False when the answer is for something else. */
  accept(exchange: ExchangeId, answer: Sdp): boolean {
    if (this.#taking?.exchange !== exchange) return false;
    this.#taking.accept(answer);
    return true;
  }

  /** False when it is for something else. */
  refuse(exchange: ExchangeId, status: number): boolean {
    if (this.#taking?.exchange !== exchange) return false;
    this.#taking.refuse(status);
    return true;
  }

  /** The peer is gone: `end` runs when it is known that nobody takes his place. False when nobody is on his way. */
  outlive(end: () => void): boolean {
    if (this.#taking === undefined) return false;
    this.#ending = end;
    return true;
  }

  /** With 486 because the peer has answered himself, so that his call rings no more. */
  close(status: 486 | 603 = 603): void {
    const taking = this.#taking;
    this.#taking = undefined;
    this.#ending = undefined;
    taking?.close(status);
  }
}

/** By the same rule as for a bot's callers: null where he does not say who he is, or does not want it told. */
function takerOf(invite: IncomingInvite, trunk: SipTrunk | undefined): string | null {
  const { number, withheld } = callerOf(invite, trunk?.trustIdentity ?? false);
  return withheld || number === "" ? null : number;
}

/** RFC 3891 §3: the to-tag is ours, because the INVITE that names the dialog comes to us. */
export function matches(dialog: SipDialog, { callId, toTag, fromTag }: ReplacedDialog): boolean {
  return dialog.callId === callId && dialog.localTag === toTag && dialog.remoteTag === fromTag;
}
