import { randomInt } from "node:crypto";
import type { CallEvent } from "../call/event.ts";
import type { LegId, Sdp } from "../call/ids.ts";
import type { Cancellable, Clock } from "../lib/clock.ts";
import { answerChallenge } from "./hang-up.ts";
import type { TrunkCredentials } from "./hang-up.ts";
import { SipFault } from "./link/fault.ts";
import type { Reply, SipDialog } from "./link/types.ts";

/** How often an offer of ours may meet one of the peer's. */
const mostTries = 4;
/** RFC 3261 §14.1 gives its waiting times in steps of 10 ms: 2.1 to 4 s for the owner of the Call-ID, up to 2 s for the other. */
const retryStepMs = 10;

export interface ReofferOptions {
  readonly leg: LegId;
  readonly dialog: SipDialog;
  /** Who sent the INVITE that made the dialog owns its Call-ID. */
  readonly ownsCallId: boolean;
  readonly clock: Clock;
  readonly link: { whenUp(timeoutMs: number): Promise<boolean> };
  /** How long a final response may take, and how long the engine may be away. */
  readonly timeoutMs: number;
  /** What may answer a challenge that came in this response; null where it must not be answered. */
  readonly credentials: (challenge: Reply) => TrunkCredentials | null;
  readonly post: (event: CallEvent) => boolean;
}

/** Our own offers inside a confirmed dialog, by re-INVITE: each becomes a `leg.reanswered` or a `leg.reinviteFailed`. */
export class Reoffer {
  readonly #options: ReofferOptions;
  #waiting: Cancellable | undefined;
  /** Counts the offers, so that what comes of one that another has followed is no news. */
  #round = 0;

  constructor(options: ReofferOptions) {
    this.#options = options;
  }

  offer(sdp: Sdp): void {
    this.close();
    void this.#send(sdp, this.#round, 1);
  }

  /** The dialog is over, or is not the leg's any more. */
  close(): void {
    this.#round += 1;
    this.#waiting?.cancel();
  }

  async #send(sdp: Sdp, round: number, tries: number): Promise<void> {
    const { leg, clock, link, timeoutMs, post } = this.#options;
    const result = await this.#request(sdp, round);
    if (round !== this.#round) return;
    // The peer has had no part in it: he is asked when we are back, as he is hung up on then.
    if (tries < mostTries && result instanceof SipFault && result.code === "engine_away") {
      const up = await link.whenUp(timeoutMs);
      if (round !== this.#round) return;
      if (up) return this.#send(sdp, round, tries + 1);
    }
    if (tries < mostTries && meetsAnother(result)) {
      this.#waiting = clock.after(this.#retryMs(), () => void this.#send(sdp, round, tries + 1));
      return;
    }
    if (!(result instanceof SipFault) && result.status < 300 && result.body !== "") {
      post({ type: "leg.reanswered", leg, answer: result.body as Sdp });
      return;
    }
    // RFC 3261 §12.2.1.2: with 481 or 408, or without an answer, the dialog is over.
    const gone =
      result instanceof SipFault
        ? result.code === "timeout" || result.code === "dialog_gone"
        : result.status === 408 || result.status === 481;
    post({ type: "leg.reinviteFailed", leg, gone });
  }

  async #request(body: Sdp, round: number): Promise<Reply | SipFault> {
    const { dialog, timeoutMs, credentials } = this.#options;
    const headers = [{ name: "Content-Type", value: "application/sdp" }];
    const result = await dialog.send("INVITE", { headers, body, timeoutMs });
    if (result instanceof SipFault || round !== this.#round) return result;
    const known = credentials(result);
    const request = { method: "INVITE", uri: dialog.remoteUri };
    const answer = known === null ? undefined : answerChallenge(result, known, request);
    return answer === undefined ? result : dialog.send("INVITE", { headers: [...headers, answer], body, timeoutMs });
  }

  #retryMs(): number {
    return (this.#options.ownsCallId ? 210 + randomInt(191) : randomInt(201)) * retryStepMs;
  }
}

/** An INVITE of the peer's, or an earlier one of ours, is in progress in this dialog. */
function meetsAnother(result: Reply | SipFault): boolean {
  if (result instanceof SipFault) return result.code === "engine_refused";
  // RFC 3261 §14.2: 491 where both have sent one, 500 with Retry-After where he is not done with our last.
  return result.status === 491 || (result.status === 500 && result.header("retry-after") !== undefined);
}
