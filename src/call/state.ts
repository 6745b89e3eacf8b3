import type { AttemptRecord, HangupBy } from "./bot-event.ts";
import type { Prompt } from "./effect.ts";
import type { CallId, CommandId, LegId, PlayId, Sdp } from "./ids.ts";
import type { QueuedReply } from "./reply.ts";
import type { CallSetup } from "./setup.ts";
import type { CustomHeader, ShownIdentity, TransferRequest, TransferTarget } from "./transfer.ts";

export interface Queued {
  readonly reply: QueuedReply;
  readonly commandId: CommandId;
  /** Position in the command's `replies`, from 0. */
  readonly index: number;
  readonly arrivedAtMs: number;
  /** Keys between caller and operator: they end with the talk. */
  readonly ofTalk?: true;
}

export interface Playing {
  readonly play: PlayId;
  readonly leg: LegId;
  readonly commandId: CommandId;
  readonly index: number;
  /** Position among the prompts of one `duringRing`; null for a reply of its own. */
  readonly part: number | null;
  /** Keys are no prompt: their end is not told to the bot. */
  readonly told: boolean;
  /** Keys for a side that gets them by INFO where it knows no telephone events. */
  readonly keys?: { readonly digits: string; readonly by: "events" | "info" };
}

/** A prompt that is played while an operator is awaited. */
export interface RingPrompt {
  readonly prompt: Prompt;
  readonly commandId: CommandId;
  readonly index: number;
  readonly part: number;
}

/** What every living call has, whatever its phase. */
export interface CallCore {
  readonly setup: CallSetup;
  readonly answeredAtMs: number | null;
  /** Operator legs minted so far. */
  readonly operators: number;
  /** Prompts started so far. */
  readonly plays: number;
  readonly queue: readonly Queued[];
  readonly playing: Playing | null;
  readonly recording: "off" | "on" | "paused";
  /** The worker of the bot that has taken the call. */
  readonly worker: string | null;
  /** Legs that were told where their sound is since the call has moved to another media server, and have not answered. */
  readonly moving: readonly LegId[];
  /** `awaited`: it has not answered what it was told last. `lost`: the call is run by the channel's fallback. */
  readonly bot: "awaited" | "heard" | "lost";
}

/** A transfer that was accepted and has not been told the bot as ended. */
export interface OpenTransfer {
  readonly request: TransferRequest;
  readonly commandAtMs: number;
  readonly firstInviteAtMs: number | null;
  /** Attempts begun so far. */
  readonly begun: number;
  /** Parties called so far: the position of the next one. */
  readonly called: number;
  /** The ledger: attempts that are over. */
  readonly attempts: readonly AttemptRecord[];
  /** Prompts for the caller that have not been played. */
  readonly ringPrompts: readonly RingPrompt[];
  /** How often operators have passed the caller on, or tried to, or were replaced. */
  readonly passes: number;
  /** The talk with the operator the bot wanted, once he has passed the caller on to somebody else. */
  readonly talk: FirstTalk | null;
}

/** What the bot is told of a transfer that an operator has carried on: it succeeded with him. */
export interface FirstTalk {
  /** As the bot wrote it. */
  readonly number: string;
  /** Those the bot gave for him; whoever is called in his place gets them too. */
  readonly headers: readonly CustomHeader[];
  readonly ringMs: number | null;
  readonly answerMs: number | null;
  readonly joinedAtMs: number;
}

/** An operator who asked by REFER that somebody else takes the caller: he is kept until that one has answered. */
export interface PassingOperator {
  readonly attempt: Attempt;
  readonly answeredAtMs: number;
  readonly joinedAtMs: number;
  readonly recordingPaused: boolean;
  /** The transfer as it was with him; it goes on when nobody else answers. */
  readonly transfer: OpenTransfer;
  /** False once he has hung up himself. */
  readonly here: boolean;
}

/** One INVITE towards an operator. */
export interface Attempt {
  readonly leg: LegId;
  /** Counts from 1 within the transfer. */
  readonly number: number;
  /** Position of who is called among the parties of the request. */
  readonly party: number;
  /** The first attempt at this party. */
  readonly opens: boolean;
  /** Its target was tried before, by another way. */
  readonly again: boolean;
  /** Position of the gateway in the route's list. */
  readonly gateway: number;
  readonly identity: ShownIdentity;
  readonly target: TransferTarget;
  readonly redirected: boolean;
  /** Null until the anchor has made the offer and the INVITE is out. */
  readonly invitedAtMs: number | null;
  readonly ringingAtMs: number | null;
  readonly lastStatus: number | null;
  /** There was a talk before he was listened for: with whom he has replaced (RFC 3891), before a move, or before he passed on. */
  readonly talkedBefore?: true;
  /** Who has picked his call up, or taken his place. */
  readonly takenBy?: string;
  /** His answer, while he is asked to confirm. */
  readonly answer: { readonly sdp: Sdp; readonly atMs: number } | null;
}

export interface EndFacts {
  readonly by: HangupBy;
  readonly sipCode: number | null;
  readonly reason: string | null;
  readonly durationMs: number;
}

/** A state owns its own facts: an operator exists only where one can be. */
export type CallState =
  /** INVITE matched; the anchor is being opened with the caller's offer. */
  | { readonly phase: "offered"; readonly core: CallCore }
  /** The caller hears ringing until the bot's first command (policy `on-command`). */
  | {
      readonly phase: "ringing";
      readonly core: CallCore;
      /** Null while the anchor, which has moved, makes another one. */
      readonly answer: Sdp | null;
    }
  /** 200 sent, ACK not seen. `moved`: what the caller is offered as soon as it comes. */
  | { readonly phase: "answering"; readonly core: CallCore; readonly moved?: Sdp }
  | { readonly phase: "withBot"; readonly core: CallCore }
  | {
      readonly phase: "dialling";
      readonly core: CallCore;
      readonly transfer: OpenTransfer;
      /** Attempts under way, oldest first; never empty. */
      readonly legs: readonly Attempt[];
      /** Null while the bot's own transfer is being made. */
      readonly passing: PassingOperator | null;
    }
  /** The operator has answered; `joinedAtMs` is null until the anchor has joined him. */
  | {
      readonly phase: "withOperator";
      readonly core: CallCore;
      readonly transfer: OpenTransfer;
      readonly attempt: Attempt;
      readonly answeredAtMs: number;
      readonly joinedAtMs: number | null;
      /** He was silent, so that his sound has been asked for anew. */
      readonly reinvited: boolean;
      /** He has become silent after a talk, so that he was asked whether he is there. */
      readonly asked?: true;
      readonly recordingPaused: boolean;
      /** The last keys the operator pressed, no more than the code to return has. */
      readonly keys?: { readonly text: string; readonly atMs: number };
    }
  /** REFER sent on the caller's dialog; `accepted` once a 2xx or a NOTIFY was seen. */
  | {
      readonly phase: "referring";
      readonly core: CallCore;
      readonly transfer: OpenTransfer;
      readonly accepted: boolean;
    }
  /** All legs are released; the media side finishes the recording, then the last event goes out. */
  | { readonly phase: "ending"; readonly core: CallCore; readonly end: EndFacts }
  | { readonly phase: "ended"; readonly call: CallId };

export type Phase = CallState["phase"];
export type In<P extends Phase> = Extract<CallState, { phase: P }>;
/** Every state in which the caller is still ours. */
export type Live = Exclude<CallState, { phase: "ending" | "ended" }>;
/** The states in which an accepted `switch` is being carried out. */
export type Transferring = In<"dialling" | "withOperator" | "referring">;
