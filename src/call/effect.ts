import type { BotEvent } from "./bot-event.ts";
import type { TimerName } from "./event.ts";
import type { ExchangeId, GatewayId, LegId, PlayId, Sdp, TrunkId } from "./ids.ts";
import type { KeyPolicy } from "./setup.ts";
import type { CustomHeader, Route, ShownIdentity, TransferRequest, TransferTarget } from "./transfer.ts";

/** Where one INVITE to an operator goes and what it shows. */
export interface InviteOrder {
  readonly leg: LegId;
  readonly target: TransferTarget;
  readonly trunk: Route["trunk"];
  readonly gateway: GatewayId;
  readonly identity: ShownIdentity;
  readonly headers: readonly CustomHeader[];
  readonly offer: Sdp;
  /** Set where this target was tried before, by another gateway, another caller id or a REFER: it is one call to the bot. */
  readonly again?: true;
  /** Set for the operator of the channel's fallback: what limits the bot does not limit him. */
  readonly fallback?: true;
}

/**
 * What is to be played to a leg. `digits` are key presses: telephone events (RFC 4733) where the leg has agreed to them, else
 * tones, unless `tones` is false: then they fail with `no_events`.
 */
export type Prompt =
  | { readonly kind: "text"; readonly text: string; readonly lang: string | null; readonly voice: string | null }
  | { readonly kind: "audio"; readonly url: string; readonly times: number }
  | { readonly kind: "digits"; readonly digits: string; readonly tones?: false };

/** Whom the caller is with; the recording's sidecar lists these with their times. */
export type TalkPhase = "bot" | "dialling" | "operator";

/** Everything a call can ask for. An effect returns nothing: what comes of it arrives later as an event. */
export type Effect =
  | { readonly type: "leg.ring"; readonly leg: LegId }
  | { readonly type: "leg.accept"; readonly leg: LegId; readonly answer: Sdp }
  | { readonly type: "leg.reject"; readonly leg: LegId; readonly status: number; readonly reason: string }
  | { readonly type: "leg.invite"; readonly order: InviteOrder }
  /** `elsewhere`: another operator has the call, so that this one's phone does not show it as missed. */
  | { readonly type: "leg.cancel"; readonly leg: LegId; readonly reason: string; readonly elsewhere: boolean }
  | {
      readonly type: "leg.bye";
      readonly leg: LegId;
      readonly reason: string;
      readonly headers: readonly CustomHeader[];
    }
  | { readonly type: "leg.refer"; readonly leg: LegId; readonly request: TransferRequest }
  /** The trunk's side did not follow a REFER: it is not asked again for a while. */
  | { readonly type: "trunk.withoutRefer"; readonly trunk: TrunkId }
  /** The answer to the peer's REFER; with 202 the first NOTIFY goes out as well (RFC 3515 §2.4.4). */
  | { readonly type: "refer.answer"; readonly leg: LegId; readonly status: 202 | 603 }
  /** How the call that his REFER asked for gets on; nothing follows the `last`. */
  | {
      readonly type: "refer.notify";
      readonly leg: LegId;
      readonly status: number;
      readonly reason: string | null;
      readonly last: boolean;
    }
  | { readonly type: "leg.reanswer"; readonly leg: LegId; readonly exchange: ExchangeId; readonly answer: Sdp }
  | { readonly type: "leg.reinvite"; readonly leg: LegId; readonly offer: Sdp }
  /** Keys by SIP INFO, in place of those that are still being sent; an empty text only ends these. */
  | { readonly type: "leg.press"; readonly play: PlayId; readonly leg: LegId; readonly digits: string }
  | { readonly type: "leg.refuse"; readonly leg: LegId; readonly exchange: ExchangeId; readonly status: number }
  | { readonly type: "media.open"; readonly leg: LegId; readonly offer: Sdp }
  | { readonly type: "media.play"; readonly play: PlayId; readonly leg: LegId; readonly prompt: Prompt }
  | { readonly type: "media.stop"; readonly leg: LegId }
  | { readonly type: "media.ringback"; readonly on: boolean }
  /** `keys` left out: `usualKeys`. */
  | { readonly type: "media.offer"; readonly leg: LegId; readonly keys?: KeyPolicy }
  /** What the operator sends before his answer may be heard in place of the ringback, while it really comes. */
  | { readonly type: "media.early"; readonly leg: LegId; readonly answer: Sdp }
  /** The operator can hear prompts and press keys; caller and operator do not hear each other. */
  | { readonly type: "media.consult"; readonly leg: LegId; readonly answer: Sdp }
  | { readonly type: "media.join"; readonly leg: LegId; readonly answer: Sdp }
  /** The caller leaves the operator, whose leg stays, or comes back to him. */
  | { readonly type: "media.aside"; readonly leg: LegId; readonly on: boolean }
  /** The operator's side goes, the caller is with the bot's side again. */
  | { readonly type: "media.drop"; readonly leg: LegId }
  | { readonly type: "media.update"; readonly leg: LegId; readonly exchange: ExchangeId; readonly offer: Sdp | null }
  /** What we would answer to somebody who takes the place of this leg's peer; nothing changes yet. */
  | { readonly type: "media.propose"; readonly leg: LegId; readonly exchange: ExchangeId; readonly offer: Sdp }
  /** The peer's answer to an offer of ours inside the dialog, or the offer of the one who has taken his place. */
  | { readonly type: "media.renew"; readonly leg: LegId; readonly answer: Sdp; readonly taken?: true }
  | { readonly type: "media.phase"; readonly phase: TalkPhase }
  | { readonly type: "media.close" }
  | { readonly type: "recording.set"; readonly to: "start" | "pause" | "resume" | "stop" }
  | { readonly type: "timer.start"; readonly timer: TimerName; readonly ms: number }
  | { readonly type: "timer.stop"; readonly timer: TimerName }
  | { readonly type: "bot.publish"; readonly event: BotEvent };
