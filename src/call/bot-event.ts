import type { CommandId, TransferId } from "./ids.ts";
import type { ShownIdentity } from "./transfer.ts";

/** Why a transfer ended as it did; the values are the bot contract's (bot-contract §5). */
export type TransferCause =
  | "completed"
  | "busy"
  | "no_answer"
  | "unreachable"
  | "unavailable"
  | "rejected"
  | "callerid_rejected"
  | "auth_failed"
  | "invalid_number"
  | "media_incompatible"
  | "trunk_failure"
  | "caller_hangup"
  | "cancelled"
  | "refer_refused"
  | "invalid_reply"
  | "media_failure"
  | "internal";

/** Exactly these three keys, in this order, go to the bot (bot-contract §2). */
export interface TransferStatus {
  readonly status: "SUCCESS" | "FAIL";
  /** True when the caller's leg no longer exists after this event. */
  readonly hangup: boolean;
  readonly number: string;
}

export interface AttemptRecord {
  readonly trunk: string;
  readonly target: string;
  /** Null when no SIP response came. */
  readonly sipCode: number | null;
  readonly cause: TransferCause;
  readonly ms: number;
  /** Who has picked the call up, or has taken this operator's place, by an INVITE with Replaces. */
  readonly takenBy?: string;
}

export interface TransferDetails {
  readonly transferId: TransferId;
  readonly cause: TransferCause;
  readonly endedBy: "caller" | "operator" | "bot" | "service" | null;
  readonly method: "invite" | "refer";
  readonly sipCode: number | null;
  readonly sipReason: string | null;
  readonly q850: number | null;
  /** How long the last attempt rang: from its first 18x to its answer or its end. */
  readonly ringMs: number | null;
  /** From the first INVITE to the answer. */
  readonly answerMs: number | null;
  /** From the bridge to the end of the talk; 0 when the operator hung up before the bridge stood. */
  readonly talkMs: number | null;
  readonly trunk: string | null;
  readonly callerIdShown: ShownIdentity | null;
  readonly recording: "continuous" | "paused" | "off";
  /** False only for a REFER whose end nobody told us (bot-contract §2). */
  readonly confirmed: boolean;
  readonly attempts: readonly AttemptRecord[];
}

/** What a call tells its bot, without the envelope that `bot/` adds. Keys and values are the wire's. */
export type BotEvent =
  | {
      readonly event: "call";
      readonly trunk: string;
      readonly sipCallId: string;
      readonly headers: Readonly<Record<string, string>>;
      readonly resumed: boolean;
    }
  | { readonly event: "answered" }
  | {
      readonly event: "dtmf";
      readonly digit: string;
      readonly durationMs: number;
      readonly from: "caller" | "operator";
    }
  /** The caller has heard everything and pressed nothing for as long as the channel says. */
  | { readonly event: "noInput" }
  | {
      readonly event: "playback";
      readonly commandId: CommandId;
      /** Position in the command's `replies`, from 0. */
      readonly index: number;
      /** Position in that reply's `duringRing`, from 0; left out for a reply of its own. */
      readonly part?: number;
      readonly result: "completed" | "stopped" | "failed";
      readonly reason: string | null;
    }
  | {
      readonly event: "transferProgress";
      readonly transferId: TransferId;
      readonly phase: "dialing" | "ringing" | "earlyMedia" | "answered" | "bridged" | "returning";
      /** Counts from 1 within the transfer. */
      readonly attempt: number;
      readonly sipCode: number | null;
      /** Since the command arrived. */
      readonly ms: number;
    }
  | {
      readonly event: "transfer";
      readonly transferStatus: TransferStatus;
      readonly transferDetails: TransferDetails;
    }
  | {
      readonly event: "recording";
      readonly state: "started" | "paused" | "resumed" | "finished" | "failed";
      readonly file: string | null;
      readonly url: string | null;
      readonly durationMs: number | null;
      readonly reason: string | null;
    }
  | {
      readonly event: "hangup";
      readonly by: HangupBy;
      readonly sipCode: number | null;
      readonly reason: string | null;
      /** From the 200 OK to the end; 0 for a call that was never answered. */
      readonly durationMs: number;
    }
  | { readonly event: "accepted"; readonly commandId: CommandId }
  | {
      readonly event: "rejected";
      readonly commandId: CommandId | null;
      readonly code: string;
      readonly message: string;
      /** RFC 6901 pointer to the field at fault, null when it is the command as a whole. */
      readonly pointer: string | null;
    }
  | {
      readonly event: "warning";
      readonly commandId: CommandId | null;
      readonly code: string;
      readonly message: string;
      readonly pointer: string | null;
    };

export type HangupBy = "caller" | "bot" | "operator" | "service";
