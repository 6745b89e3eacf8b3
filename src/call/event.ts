import type { CommandId, ExchangeId, LegId, PlayId, Sdp, TransferId } from "./ids.ts";
import type { Command } from "./reply.ts";
import type { CalledParty } from "./transfer.ts";

/**
 * Everything that can happen to a call. Adapters turn what they see on a wire into one of these and decide nothing themselves.
 */
export type CallEvent =
  // The media anchor.
  | { readonly type: "media.opened"; readonly answer: Sdp }
  | { readonly type: "media.openFailed"; readonly incompatible: boolean; readonly reason: string }
  | {
      readonly type: "media.played";
      readonly play: PlayId;
      readonly result: "completed" | "stopped" | "failed";
      /**
       * `no_tts` when a text has no text-to-speech to speak it, `no_events` when keys could only go as tones, which were not
       * wanted, `info_refused` when the peer does not take them by INFO.
       */
      readonly reason: string | null;
    }
  | {
      readonly type: "media.digit";
      readonly leg: LegId;
      readonly digit: string;
      readonly durationMs: number;
      /** Left out where it came in the sound, which passes on what is in it; `kept`: not this one. */
      readonly carriedBy?: "info" | "kept";
    }
  | { readonly type: "media.offered"; readonly leg: LegId; readonly offer: Sdp }
  | { readonly type: "media.joined"; readonly leg: LegId }
  /** A joined operator has sent nothing at all, though he should; `offer` describes our end for a re-INVITE to him. */
  | { readonly type: "media.unheard"; readonly leg: LegId; readonly offer: Sdp }
  /**
   * Nothing has come from an operator who was heard before, for long. `offer` describes our end for a re-INVITE to him; null
   * when that was done and nothing comes from the caller either.
   */
  | { readonly type: "media.silent"; readonly leg: LegId; readonly offer: Sdp | null }
  /** The operator's side of the anchor could not be made or joined; the caller's: whoever has taken his place has no sound. */
  | { readonly type: "media.legFailed"; readonly leg: LegId; readonly reason: string }
  | { readonly type: "media.updated"; readonly leg: LegId; readonly exchange: ExchangeId; readonly answer: Sdp }
  | { readonly type: "media.updateFailed"; readonly leg: LegId; readonly exchange: ExchangeId }
  /**
   * The media server had lost the call, and another one has it now. `offer` describes the new end of this leg, which is the
   * caller's or that of an operator who has answered, for a re-INVITE.
   */
  | { readonly type: "media.moved"; readonly leg: LegId; readonly offer: Sdp }
  /** The anchor has lost the whole call. */
  | { readonly type: "media.lost"; readonly reason: string }
  /** The anchor is released and the recording, if any, is finished: the last word of the media side. */
  | { readonly type: "media.closed" }
  | {
      readonly type: "recording.changed";
      readonly state: "started" | "paused" | "resumed" | "finished" | "failed";
      readonly file: string | null;
      /** In the object storage; left out where there is none. */
      readonly url?: string | null;
      readonly durationMs: number | null;
      readonly reason: string | null;
    }
  // Signalling.
  | { readonly type: "leg.confirmed"; readonly leg: LegId }
  /** Nothing has refused the INVITE on our side: it is on its way to the operator. */
  | { readonly type: "leg.invited"; readonly leg: LegId }
  /** `early`: what the response says of sound before the answer. */
  | { readonly type: "leg.progress"; readonly leg: LegId; readonly status: number; readonly early: Sdp | null }
  /** `takenBy`: who has picked the call up while it rang somewhere else, and `answer` is his offer (RFC 3891). */
  | { readonly type: "leg.answered"; readonly leg: LegId; readonly answer: Sdp; readonly takenBy?: string }
  | ({ readonly type: "leg.failed"; readonly leg: LegId } & SipFailure)
  /** BYE or CANCEL from the peer, or the dialog is gone; also the answer to our own BYE is not needed for it. */
  | {
      readonly type: "leg.ended";
      readonly leg: LegId;
      readonly status: number | null;
      readonly reason: string | null;
      readonly q850: number | null;
    }
  /** The peer offers again inside the dialog (re-INVITE, UPDATE); `offer` is null when it asks us to offer. */
  | { readonly type: "leg.offered"; readonly leg: LegId; readonly exchange: ExchangeId; readonly offer: Sdp | null }
  /** The peer's answer to an offer of ours inside the dialog: in the 200 to our re-INVITE, or in the ACK to his own. */
  | { readonly type: "leg.reanswered"; readonly leg: LegId; readonly answer: Sdp }
  /** `gone`: the peer does not know the call any more, or does not answer at all. */
  | { readonly type: "leg.reinviteFailed"; readonly leg: LegId; readonly gone: boolean }
  /** Progress and end of a REFER we sent, from its response or a NOTIFY's sipfrag (RFC 3515 §2.4.4). */
  | { readonly type: "refer.progress"; readonly leg: LegId; readonly status: number }
  | ({ readonly type: "refer.done"; readonly leg: LegId } & SipFailure)
  /** The peer asks us to bring the caller to somebody else; the destination policy has let the target pass (RFC 3515). */
  | ({ readonly type: "leg.referred"; readonly leg: LegId } & CalledParty)
  /** Somebody would take the place of this leg's peer, in a dialog of his own (INVITE with Replaces, RFC 3891). */
  | { readonly type: "leg.claimed"; readonly leg: LegId; readonly exchange: ExchangeId; readonly offer: Sdp }
  /** He has: his ACK is there, and the one before him is being hung up on. */
  | { readonly type: "leg.replaced"; readonly leg: LegId; readonly offer: Sdp; readonly takenBy?: string }
  // The bot.
  | { readonly type: "bot.command"; readonly command: Command }
  | {
      readonly type: "bot.invalidSwitch";
      /** The worker of the bot that sent it, where it says so. */
      readonly worker: string | null;
      readonly commandId: CommandId;
      readonly transferId: TransferId;
      readonly method: "invite" | "refer";
      readonly number: string;
      readonly code: string;
      readonly message: string;
      readonly pointer: string | null;
    }
  /** Redis is away: the bot neither hears nor is heard. */
  | { readonly type: "bot.away" }
  // Time and the service.
  | { readonly type: "timer.fired"; readonly timer: TimerName }
  | { readonly type: "shutdown" };

/** How a request of ours ended; `status` is null when no response came because the transport failed. */
export interface SipFailure {
  readonly status: number | null;
  readonly reason: string | null;
  /** From `Reason: Q.850;cause=N` (RFC 3326). */
  readonly q850: number | null;
  /** From `Reason: SIP;cause=N`: the status that somebody behind the peer gave. */
  readonly sipCause?: number;
  /** Where a 3xx points, given only when the destination policy lets the call go there. */
  readonly redirect: string | null;
  /** Set when we ourselves refused to call this destination; no packet went there. */
  readonly refused?: true;
}

/**
 * `answer`: the operators' time to answer. `progress`: one leg's time to a 18x. `confirm`: one operator's time to press his
 * key. `talk`: the longest talk. `refer`: the wait for a NOTIFY.
 * `bot`: the bot's time to say something. `input`: the caller's to press a key. `closing`: the media side's time to finish a recording before the last event goes out without it.
 */
export type TimerName = "answer" | "talk" | "refer" | "bot" | "input" | "closing" | LegTimer;
export type LegTimer = `${"progress" | "confirm"} ${LegId}`;
