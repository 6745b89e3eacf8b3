declare const brand: unique symbol;
type Brand<T, B extends string> = T & { readonly [brand]: B };

/** One caller's stay, from the INVITE to the last BYE. */
export type CallId = Brand<string, "CallId">;
/** One SIP side of a call; minted per attempt, so that a late answer to attempt 1 is never taken for attempt 2. */
export type LegId = Brand<string, "LegId">;
export type TrunkId = Brand<string, "TrunkId">;
/** One next hop of a trunk. */
export type GatewayId = Brand<string, "GatewayId">;
export type TransferId = Brand<string, "TransferId">;
export type CommandId = Brand<string, "CommandId">;
/** One prompt that is being played. */
export type PlayId = Brand<string, "PlayId">;
/** One offer/answer exchange a peer has started inside a confirmed dialog (RFC 3264 §8). */
export type ExchangeId = Brand<string, "ExchangeId">;
/** A session description as text (RFC 4566). */
export type Sdp = Brand<string, "Sdp">;
