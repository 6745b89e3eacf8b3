import type { CallId, LegId, Sdp, TrunkId } from "./ids.ts";
import type { QueuedReply } from "./reply.ts";

/** What is known of a call when its INVITE has been matched to a trunk and a channel; it never changes. */
export interface CallSetup {
  readonly call: CallId;
  readonly caller: LegId;
  readonly offer: Sdp;
  readonly botId: string;
  readonly trunk: TrunkId;
  /** The number or user of the caller, as the trunk gave it; empty when withheld. */
  readonly callerNumber: string;
  readonly calledNumber: string;
  readonly sipCallId: string;
  /** Inbound SIP headers the channel lets through to the bot. */
  readonly headers: Readonly<Record<string, string>>;
  readonly policy: ChannelPolicy;
}

export interface ChannelPolicy {
  /** `on-command`: the caller hears ringing until the bot's first command. */
  readonly answer: "immediately" | "on-command";
  readonly recording: { readonly enabled: boolean; readonly resumeOnReturn: boolean };
  /** Left out: the service's own ringing tone and melody, and early media. */
  readonly sounds?: CallerSounds;
  /** Keys by which an operator gives the caller back to the bot; left out: none do. */
  readonly returnKeys?: string;
  /** An operator may pass the caller on by REFER. Left out: his REFER is refused. */
  readonly operatorRefer?: "accept" | "refuse";
  /** How often operators may pass one caller on. Left out: `usualPasses`. */
  readonly mostPasses?: number;
  /** Of the caller's side; left out: `usualKeys`. */
  readonly keys?: KeyPolicy;
  /** Left out: the bot is waited for without end. */
  readonly patience?: Patience;
}

/** How key presses go to and come from a side that has not agreed to telephone events (RFC 4733). */
export interface KeyPolicy {
  /** They go there by SIP INFO; otherwise as tones. */
  readonly byInfo: boolean;
  /** Tones in its sound are key presses. */
  readonly detectTones: boolean;
}

/** What a caller hears while he waits for an operator. */
export interface CallerSounds {
  /** In place of the ringing tone, repeated; null for the tone. */
  readonly ringbackUrl: string | null;
  /** While the operator holds him, repeated; null for a melody of our own. */
  readonly holdUrl: string | null;
  /** Whether sound that comes from the operator's side before his answer takes the place of the ringback. */
  readonly earlyMedia: boolean;
}

/** How long a silent bot is waited for, and what the caller gets when it stays silent. */
export interface Patience {
  /** To its first command, and to the next one after the caller has come back from an operator. */
  readonly answerMs: number;
  /** Without a command while the caller hears nothing. */
  readonly silenceMs: number;
  /** The caller's time to press a key while the bot waits for one; null when the bot does not want to know. */
  readonly inputMs: number | null;
  /** Run in the bot's place. They end the call: the last one is a `hangup`, or a `switch` that brings nobody back. */
  readonly fallback: readonly QueuedReply[];
}

/** Operators who pass a caller round and round are stopped here. */
export const usualPasses = 5;

export const usualKeys: KeyPolicy = { byInfo: false, detectTones: false };
export const usualSounds: CallerSounds = { ringbackUrl: null, holdUrl: null, earlyMedia: true };
