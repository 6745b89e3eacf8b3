import type { Dialog } from "../dialog/dialog.ts";
import { confirmSession, readMinSe, sessionOff, stepSession } from "../dialog/session-timer.ts";
import type { SessionEvent, SessionRules, SessionTerms } from "../dialog/session-timer.ts";
import type { SipRequest, SipResponse } from "../sip/message.ts";
import type { Clock, Random } from "../timers.ts";

/** What the client half does for the session timers. */
export interface SessionRequests {
  /** Sends the refresh, or calls `postponed` when it cannot be sent now. */
  refresh(dialog: Dialog): void;
  /** Sends a BYE of the engine's own and tells the application. */
  end(dialog: Dialog, reason: string): void;
}

const expired = 'SIP ;cause=200 ;text="Session timer expired"';

/** RFC 3261 §14.1 gives its waiting times in steps of 10 ms. */
const retryStep = 0.01;

/** Runs the session timers of all dialogs: RFC 4028 with a clock. It needs no application. */
export class SessionTimers {
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #rules: SessionRules;
  /** Set once both halves of the user agent exist. */
  requests: SessionRequests | undefined;

  constructor(parts: { readonly clock: Clock; readonly random: Random }, rules: SessionRules) {
    this.#clock = parts.clock;
    this.#random = parts.random;
    this.#rules = rules;
  }

  /** What holds in that dialog now. */
  termsOf(dialog: Dialog | undefined): SessionTerms | undefined {
    return dialog === undefined || dialog.session.phase === "off" ? undefined : dialog.session.terms;
  }

  /** Our 2xx to an INVITE or UPDATE went out, and said this. */
  agreed(dialog: Dialog, terms: SessionTerms | undefined): void {
    this.#step(dialog, dialog.phase === "confirmed" ? { type: "agreed", terms } : { type: "gone" });
  }

  /** A 2xx to an INVITE or UPDATE of ours came. */
  confirmed(dialog: Dialog, request: SipRequest, response: SipResponse): void {
    const current = this.termsOf(dialog);
    this.agreed(dialog, confirmSession(request.headers, response.headers, current, this.#rules));
  }

  /** The call is over, although its dialog may live on for a subscription. */
  stop(dialog: Dialog): void {
    this.#step(dialog, { type: "gone" });
  }

  /** Our own refresh could not be sent now: something else is under way, or nobody knows where to. */
  postponed(dialog: Dialog): void {
    this.#step(dialog, { type: "postponed", retryMs: this.#retryMs(dialog) });
  }

  /** A final response to our own refresh that is no 2xx. */
  refused(dialog: Dialog, { status, headers }: SipResponse): void {
    if (dialog.phase !== "confirmed") {
      return;
    }
    this.#step(dialog, {
      type: "refused",
      status,
      minimumSeconds: readMinSe(headers),
      retryAfter: headers.has("Retry-After"),
      retryMs: this.#retryMs(dialog),
    });
  }

  #due(dialog: Dialog): void {
    if (dialog.phase !== "confirmed") {
      this.#step(dialog, { type: "gone" });
      return;
    }
    this.#step(dialog, { type: "due" });
  }

  #step(dialog: Dialog, event: SessionEvent): void {
    const [state, effects] = stepSession(dialog.session, event, this.#clock.now(), this.#rules.secondMs);
    dialog.session = state;
    for (const effect of effects) {
      switch (effect.type) {
        case "arm":
          dialog.timers.start("session", effect.ms, () => {
            this.#due(dialog);
          });
          break;
        case "disarm":
          dialog.timers.stop("session");
          break;
        case "refresh":
          this.requests?.refresh(dialog);
          break;
        case "end":
          dialog.session = sessionOff;
          this.requests?.end(dialog, expired);
          break;
      }
    }
  }

  /** RFC 3261 §14.1: 2.1 to 4 s for the side that made the Call-ID, up to 2 s for the other. */
  #retryMs(dialog: Dialog): number {
    const steps = dialog.role === "uac" ? 210 + this.#random.integer(191) : this.#random.integer(201);
    return steps * retryStep * this.#rules.secondMs;
  }
}

/** RFC 3261 §14.1, RFC 3311 §5.1: no new offer while an INVITE, or an UPDATE with an offer, is open in either direction. */
export function hasOpenOffer(dialog: Dialog): boolean {
  return (
    dialog.localInvite !== undefined ||
    dialog.unacknowledged !== undefined ||
    dialog.remoteInvite !== undefined ||
    dialog.awaitingAck.size > 0 ||
    dialog.localUpdate !== undefined ||
    dialog.remoteUpdate !== undefined
  );
}
