import type { Prompt } from "./effect.ts";
import type { CommandId, GatewayId, TransferId, TrunkId } from "./ids.ts";
import type { KeyPolicy } from "./setup.ts";

/** Whom the bot wants: digits dialled through the trunk's number rules, or a SIP URI that was parsed and rebuilt. */
export type TransferTarget =
  | { readonly kind: "phone"; readonly digits: string }
  | { readonly kind: "uri"; readonly uri: string };

/** Whose number the operator's phone shows; `anonymous` when the caller asked for privacy (RFC 3323). */
export type ShownIdentity = "caller" | "bot" | "fixed" | "anonymous";

export interface CustomHeader {
  readonly name: string;
  readonly value: string;
}

/** Where an INVITE transfer may go, settled when the command arrives, so that a changed configuration never bends a transfer under way. */
export interface Route {
  readonly trunk: TrunkId;
  /** In the order in which they are tried; never empty. */
  readonly gateways: readonly [GatewayId, ...GatewayId[]];
  /** `direct`: a SIP URI is called without the gateways, so that none of them is a second way to it. */
  readonly sipUriVia: "direct" | "gateway";
  readonly identity: ShownIdentity;
  /** After a refusal of the caller's number (403, 433, 438, 607, 608) the same gateway is tried once with the bot's. */
  readonly retryWithBotNumber: boolean;
  /** No 18x within this time: the gateway counts as unreachable. */
  readonly progressTimeoutMs: number;
  /** Of the operators' side; left out: `usualKeys`. */
  readonly keys?: KeyPolicy;
}

/** Somebody who may take the call. */
export interface CalledParty {
  readonly target: TransferTarget;
  /** The text the bot sent, unchanged: what `transferStatus.number` says. */
  readonly number: string;
  readonly headers: readonly CustomHeader[];
}

/** What an operator does to be joined after he has answered. */
export interface Confirmation {
  readonly prompt: Prompt;
  readonly digit: string;
  /** From his answer on. */
  readonly timeoutMs: number;
}

/** A validated `switch`. It is itself the first party. */
export interface TransferRequest extends CalledParty {
  readonly transferId: TransferId;
  readonly commandId: CommandId;
  readonly method: "invite" | "refer";
  readonly others: readonly CalledParty[];
  /** One party after the other, or all at once. */
  readonly strategy: "serial" | "ring";
  /** Null: whoever answers is joined. */
  readonly confirm: Confirmation | null;
  readonly route: Route;
  /** From the first INVITE to the answer, over all attempts. In a row every party gets an equal share of what is left. */
  readonly answerTimeoutMs: number;
  /** From the bridge on; null for no limit. */
  readonly maxTalkMs: number | null;
  /** Digits sent to the operator's side when the talk begins, for an extension; `w`, `W` and `,` wait. */
  readonly dtmf?: string;
  /** What the caller hears while an operator is awaited, besides ringback. */
  readonly duringRing: readonly Prompt[];
  readonly continueCall: boolean;
  readonly continueRecording: boolean;
  /** A REFER that fails is followed by an INVITE transfer. */
  readonly referFallback: boolean;
}

/** Everybody the bot named, in its order. */
export function partiesOf(request: TransferRequest): readonly [CalledParty, ...CalledParty[]] {
  return [request, ...request.others];
}
