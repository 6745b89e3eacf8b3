import type { BotEvent } from "../call/bot-event.ts";
import type { CallId } from "../call/ids.ts";
import { commandsChannel, contractVersion } from "./contract.ts";

/** Whom the events of a call go to, and what every one of them says. It never changes during a call. */
export interface CallAddress {
  readonly call: CallId;
  readonly botId: string;
  /** Empty when withheld. */
  readonly caller: string;
  readonly called: string;
}

/** `jaicp`: the request and response shapes of the JAICP platform. */
export type BotFormat = "patchbay" | "jaicp";

/** One event as it goes to the stream and to the Pub/Sub channel, byte for byte the same. */
export interface EncodedEvent {
  readonly eventId: string;
  readonly body: string;
}

/** Puts an event of the core into its envelope, with the keys in the contract's order (bot-contract §2). */
export function encodeEvent(
  address: CallAddress,
  prefix: string,
  seq: number,
  wallMs: number,
  event: BotEvent,
): EncodedEvent {
  const { call, botId, caller, called } = address;
  const eventId = `${call}:${seq}`;
  const { event: name, ...fields } = event;
  const body = JSON.stringify({
    v: contractVersion,
    eventId,
    seq,
    event: name,
    time: new Date(wallMs).toISOString(),
    botId,
    callId: call,
    replyTo: commandsChannel(prefix, botId, call),
    caller,
    called,
    ...fields,
    ...(event.event === "transfer" ? { transferStatus: bareStatus(event) } : {}),
  });
  return { eventId, body };
}

/** The bots of another platform decode exactly these three keys in this order, so no other ever slips in. */
export function bareStatus(event: Extract<BotEvent, { readonly event: "transfer" }>) {
  const { status, hangup, number } = event.transferStatus;
  return { status, hangup, number };
}
