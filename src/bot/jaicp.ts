import type { BotEvent } from "../call/bot-event.ts";
import { commandsChannel, replySchemas } from "./contract.ts";
import type { CallAddress, EncodedEvent } from "./envelope.ts";
import { bareStatus } from "./envelope.ts";
import type { Json, JsonObject } from "./json.ts";

// The request and response shapes of the JAICP platform, for bots that were written for it (bot-contract §2). Its client
// library ignores unknown keys, but throws on unknown enum values and on a null number.

/** What such a bot is asked; it answers every request, so it is only asked what it knows. */
interface Question {
  readonly query: string | null;
  readonly event: string | null;
}

/** Null for an event that the platform does not have: the bot would answer it, and an answer to `accepted` has no end. */
function questionOf(event: BotEvent): Question | null {
  switch (event.event) {
    case "call":
      return { query: null, event: "ringing" };
    case "answered":
      // A scenario of the platform begins with this line.
      return { query: "/start", event: null };
    case "dtmf":
      return event.from === "caller" ? { query: event.digit, event: null } : null;
    case "noInput":
      return { query: null, event: "noDtmfAnswerEvent" };
    case "transfer":
      return { query: null, event: "transfer" };
    case "hangup":
      return { query: null, event: event.by === "caller" ? "hangup" : "botHangup" };
    default:
      return null;
  }
}

/** Whether a bot in this format is told the event. */
export function jaicpKnows(event: BotEvent): boolean {
  return questionOf(event) !== null;
}

/** An event as a request of the platform, with everything of ours in `rawRequest`. */
export function encodeJaicp(
  address: CallAddress,
  prefix: string,
  seq: number,
  wallMs: number,
  event: BotEvent,
): EncodedEvent {
  const { call, botId, caller, called } = address;
  const eventId = `${call}:${seq}`;
  const { event: name, ...fields } = event;
  // The platform keeps a bot's memory by this id, so two callers without a number must not share it.
  const user = caller === "" ? call : caller;
  const body = JSON.stringify({
    version: 1,
    botId,
    channelType: "resterisk",
    channelBotId: botId,
    channelUserId: user,
    questionId: eventId,
    ...(questionOf(event) ?? { query: null, event: name }),
    timestamp: new Date(wallMs).toISOString(),
    userFrom: { id: user },
    data: {},
    rawRequest: {
      caller,
      extension: called,
      callId: call,
      seq,
      replyTo: commandsChannel(prefix, botId, call),
      ...fields,
      ...(event.event === "transfer" ? { transferStatus: bareStatus(event) } : {}),
    },
  });
  return { eventId, body };
}

/**
 * A response of the platform as a command: its replies stand in `data`, and those that a telephone cannot show (buttons,
 * images) are left out. Anything else is taken as it is.
 */
export function commandOfJaicp(value: JsonObject): JsonObject {
  const data = value["data"];
  const replies = value["replies"] ?? (isObject(data) ? data["replies"] : undefined);
  if (!Array.isArray(replies)) return value;
  const { commandId, worker } = value;
  return {
    ...(commandId === undefined ? {} : { commandId }),
    ...(worker === undefined ? {} : { worker }),
    replies: (replies as readonly Json[]).filter((reply) => !isForScreens(reply)),
  };
}

function isForScreens(reply: Json): boolean {
  if (!isObject(reply)) return false;
  const type = reply["type"];
  return typeof type === "string" && !Object.hasOwn(replySchemas, type);
}

function isObject(value: Json | undefined): value is JsonObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
