import type { BotEvent } from "./bot-event.ts";
import type { InviteOrder, Prompt, TalkPhase } from "./effect.ts";
import type { CallEvent, TimerName } from "./event.ts";
import type { CallId, ExchangeId, LegId, PlayId, Sdp, TrunkId } from "./ids.ts";
import type { CallerSounds, KeyPolicy } from "./setup.ts";
import type { CustomHeader, TransferRequest } from "./transfer.ts";

/**
 * Hands an event to its call. False when no such call is held: whoever made something for it (a leg that answered, an
 * anchor that opened) releases that himself.
 */
export type Post = (call: CallId, event: CallEvent) => boolean;

// Every method below returns at once, never throws, and reports what came of it through `Post`.

/** SIP towards the caller and the operators. */
export interface Signalling {
  ring(call: CallId, leg: LegId): void;
  accept(call: CallId, leg: LegId, answer: Sdp): void;
  reject(call: CallId, leg: LegId, status: number, reason: string): void;
  invite(call: CallId, order: InviteOrder): void;
  cancel(call: CallId, leg: LegId, reason: string, elsewhere: boolean): void;
  bye(call: CallId, leg: LegId, reason: string, headers: readonly CustomHeader[]): void;
  refer(call: CallId, leg: LegId, request: TransferRequest): void;
  answerRefer(call: CallId, leg: LegId, status: 202 | 603): void;
  notifyRefer(call: CallId, leg: LegId, status: number, reason: string | null, last: boolean): void;
  reanswer(call: CallId, leg: LegId, exchange: ExchangeId, answer: Sdp): void;
  reinvite(call: CallId, leg: LegId, offer: Sdp): void;
  /** Answered by `media.played`. */
  press(call: CallId, leg: LegId, play: PlayId, digits: string): void;
  refuse(call: CallId, leg: LegId, exchange: ExchangeId, status: number): void;
}

/** The media server, seen from one call: its caller's leg is offered once, everybody else is switched behind it. */
export interface MediaAnchor {
  open(call: CallId, leg: LegId, offer: Sdp, recording: RecordingOrder, policy: CallerPolicy): void;
  play(call: CallId, play: PlayId, leg: LegId, prompt: Prompt): void;
  stop(call: CallId, leg: LegId): void;
  ringback(call: CallId, on: boolean): void;
  offer(call: CallId, leg: LegId, keys: KeyPolicy): void;
  early(call: CallId, leg: LegId, answer: Sdp): void;
  consult(call: CallId, leg: LegId, answer: Sdp): void;
  join(call: CallId, leg: LegId, answer: Sdp): void;
  aside(call: CallId, leg: LegId, on: boolean): void;
  drop(call: CallId, leg: LegId): void;
  update(call: CallId, leg: LegId, exchange: ExchangeId, offer: Sdp | null): void;
  propose(call: CallId, leg: LegId, exchange: ExchangeId, offer: Sdp): void;
  /** `taken`: the peer is another one from now on. */
  renew(call: CallId, leg: LegId, answer: Sdp, taken: boolean): void;
  phase(call: CallId, phase: TalkPhase): void;
  recording(call: CallId, to: "start" | "pause" | "resume" | "stop"): void;
  /** Always answered by `media.closed`, also when nothing was open. */
  close(call: CallId): void;
}

/** What the caller's side of the anchor is to be like. */
export interface CallerPolicy {
  readonly sounds: CallerSounds;
  readonly keys: KeyPolicy;
}

/** What the recording's sidecar says about the call. */
export interface RecordingOrder {
  readonly botId: string;
  readonly caller: string;
  readonly called: string;
}

/** What is remembered of trunks beyond one call. */
export interface TrunkMemory {
  withoutRefer(trunk: TrunkId): void;
}

/** The bot's end of Redis. */
export interface BotLink {
  publish(call: CallId, event: BotEvent): void;
}

export interface Timers {
  start(call: CallId, timer: TimerName, ms: number): void;
  stop(call: CallId, timer: TimerName): void;
}
