// What the ladder says of a message: one short text, made of what the message really holds.
import { cseqOf, type SipText, userOf } from "../test/support/sip-text.ts";
import type { Arrow, Note, Party, Tint } from "./ladder.ts";
import type { RedisMessage, WireObject } from "./redis-witness.ts";

/** A SIP message between a phone and Patchbay, as the phone saw it. */
export function sipArrow(phone: "caller" | "operator", direction: "sent" | "received", message: SipText): Arrow {
  const [from, to]: readonly [Party, Party] = direction === "sent" ? [phone, "Patchbay"] : ["Patchbay", phone];
  if (message.method !== undefined) {
    const user = message.method === "INVITE" ? userOf(message.uri ?? "") : undefined;
    const label = user === undefined ? message.method : `${message.method} ${user}`;
    return { type: "arrow", from, to, label, tint: message.method === "CANCEL" ? "bad" : "sip" };
  }
  const { method } = cseqOf(message);
  const status = message.status ?? 0;
  // The answer to an INVITE needs no word of what it answers; the others do.
  const label = `${status} ${method === "INVITE" ? (message.reason ?? "") : method}`;
  return { type: "arrow", from, to, label, tint: status >= 400 ? "bad" : "sip" };
}

const textOf = (value: unknown): string => (typeof value === "string" ? value : JSON.stringify(value));

function targetText({ phoneNumber, sipUri, targets }: WireObject): string {
  if (!Array.isArray(targets)) return textOf(phoneNumber ?? sipUri);
  return targets.map((target) => targetText(target as WireObject)).join(" and ");
}

function replyText(reply: unknown): string {
  if (typeof reply !== "object" || reply === null) return textOf(reply);
  const { type, ...fields } = reply as WireObject;
  switch (type) {
    case "text":
      return `text ${JSON.stringify(fields["text"])}`;
    case "audio":
      return `audio ${textOf(fields["audioUrl"])}`;
    case "switch": {
      const { timeout } = fields;
      return `switch ${targetText(fields)}${timeout === undefined ? "" : `, timeout ${JSON.stringify(timeout)}`}`;
    }
    case "take":
    case "release":
      return `${type} by ${textOf(fields["worker"])}`;
    default:
      return Object.keys(fields).length === 0 ? textOf(type) : `${textOf(type)} ${JSON.stringify(fields)}`;
  }
}

function eventText(event: WireObject): string {
  const name = textOf(event["event"]);
  switch (name) {
    case "transferProgress":
      return `${name} ${textOf(event["phase"])}${typeof event["sipCode"] === "number" ? ` (${event["sipCode"]})` : ""}`;
    case "transfer": {
      const { status, hangup } = (event["transferStatus"] ?? {}) as WireObject;
      const { cause } = (event["transferDetails"] ?? {}) as WireObject;
      return `${name} ${textOf(status)} ${textOf(cause)}, hangup ${textOf(hangup)}`;
    }
    case "playback":
      return `${name} ${textOf(event["result"])}`;
    case "recording":
      return `${name} ${textOf(event["state"])}`;
    case "dtmf":
      return `${name} ${textOf(event["digit"])}`;
    case "hangup":
      return `${name} by ${textOf(event["by"])}`;
    case "rejected":
    case "warning":
      return `${name} ${textOf(event["code"])}: ${textOf(event["message"])}`;
    default:
      return name;
  }
}

function eventTint(event: WireObject): Tint {
  if (event["event"] === "rejected" || event["event"] === "warning") return "bad";
  if (event["event"] !== "transfer") return "event";
  return (event["transferStatus"] as WireObject | undefined)?.["status"] === "SUCCESS" ? "good" : "bad";
}

/** The rows of one Redis message: an arrow for the event, or one for each reply of a command. */
export function redisRows({ kind, body }: RedisMessage): readonly (Arrow | Note)[] {
  if (kind === "command") {
    const replies = Array.isArray(body["replies"]) ? (body["replies"] as readonly unknown[]) : [];
    return replies.flatMap((reply): readonly (Arrow | Note)[] => {
      const headers = (reply as WireObject | null)?.["headers"];
      return [
        { type: "arrow", from: "bot", to: "Patchbay", label: replyText(reply), tint: "command" },
        ...(typeof headers === "object" && headers !== null
          ? [{ type: "note", text: `headers ${JSON.stringify(headers)}`, tint: "command" } as const]
          : []),
      ];
    });
  }
  const arrow: Arrow = { type: "arrow", from: "Patchbay", to: "bot", label: eventText(body), tint: eventTint(body) };
  if (body["event"] !== "transfer") return [arrow];
  return [
    arrow,
    { type: "note", text: `transferStatus ${JSON.stringify(body["transferStatus"])}`, tint: eventTint(body) },
  ];
}
