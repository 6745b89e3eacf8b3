import type { CommandId, GatewayId, TransferId, TrunkId } from "./ids.ts";

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
}

/** A validated `switch`. */
export interface TransferRequest {
  readonly transferId: TransferId;
  readonly commandId: CommandId;
  readonly method: "invite" | "refer";
  readonly target: TransferTarget;
  /** The text the bot sent, unchanged: what `transferStatus.number` says. */
  readonly number: string;
  readonly route: Route;
  readonly headers: readonly CustomHeader[];
  /** From the first INVITE to the answer, over all attempts. */
  readonly answerTimeoutMs: number;
  readonly continueCall: boolean;
  readonly continueRecording: boolean;
  /** A REFER that fails is followed by an INVITE transfer. */
  readonly referFallback: boolean;
}
