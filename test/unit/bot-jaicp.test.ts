import { describe, expect, it, test } from "vitest";
import { commandOfJaicp, encodeJaicp, jaicpKnows } from "../../src/bot/jaicp.ts";
import { readJson } from "../../src/bot/json.ts";
import { readFrame, translate } from "../../src/bot/translate.ts";
import type { BotEvent } from "../../src/call/bot-event.ts";
import type { CallId, CommandId, TransferId } from "../../src/call/ids.ts";
import { CallScript, operator, route, transferTo } from "../scenario/script.ts";

// The shapes are those that the platform's open client library (just-ai/jaicf-kotlin, channels/jaicp) declares and keeps in
// its own test resources: which keys a request must have and of what kind, which words it throws on, what a response holds.

type Body = Readonly<Record<string, unknown>>;

/** Decodes as that library does: unknown keys are ignored, a missing key without a default or a wrong kind is an error. */
function decodeRequest(text: string): { readonly kind: "query" | "event"; readonly input: string; readonly raw: Body } {
  const body = JSON.parse(text) as Body;
  for (const key of ["botId", "channelType", "channelBotId", "channelUserId", "questionId"]) {
    if (typeof body[key] !== "string" || body[key] === "") throw new Error(`${key} must be a string`);
  }
  if (!Number.isInteger(body["version"])) throw new Error("version must be an integer");
  if (body["channelType"] !== "resterisk") throw new Error("not a telephone channel");
  for (const key of ["data", "userFrom"]) if (body[key] === undefined) throw new Error(`${key} is missing`);
  for (const key of ["query", "event"]) {
    if (body[key] !== null && body[key] !== undefined && typeof body[key] !== "string") throw new Error(key);
  }
  if (body["timestamp"] !== undefined && typeof body["timestamp"] !== "string") throw new Error("timestamp");
  const raw = body["rawRequest"];
  if (typeof raw !== "object" || raw === null || Array.isArray(raw)) throw new Error("rawRequest must be an object");
  const { caller, extension, transferStatus } = raw as Body;
  if (typeof caller !== "string" || typeof extension !== "string") throw new Error("caller and extension are texts");
  if (transferStatus !== undefined) {
    const { status, hangup, number } = transferStatus as Body;
    if (status !== "SUCCESS" && status !== "FAIL") throw new Error(`no such status: ${String(status)}`);
    if (typeof hangup !== "boolean" || typeof number !== "string") throw new Error("transferStatus");
  }
  const { query, event } = body as { readonly query?: string | null; readonly event?: string | null };
  return { kind: typeof query === "string" ? "query" : "event", input: query ?? event ?? "", raw: raw as Body };
}

const telephonyEvents = new Set(["ringing", "transfer", "hangup", "botHangup", "noDtmfAnswerEvent"]);
const address = { call: "c1" as CallId, botId: "bot", caller: "79991112233", called: "74951234567" };
const encode = (event: BotEvent, caller = address.caller): string =>
  encodeJaicp({ ...address, caller }, "pb", 3, 0, event).body;

/** Every event of a call with a transfer, as the core tells it. */
function story(): BotEvent[] {
  const call = new CallScript().callerIsWithBot().bot({ type: "text", text: "x", lang: null, voice: null });
  call.bot({ type: "stop" }).botSwitches(transferTo("100")).invited().rings().answers().joined();
  call.hangsUp(operator(1)).bot({ type: "hangup", headers: [] }).mediaCloses();
  return call.told;
}

describe("requests", () => {
  test("a whole call in words that the platform's library decodes", () => {
    const requests = story()
      .filter(jaicpKnows)
      .map((event) => decodeRequest(encode(event)));
    expect(requests.map(({ kind, input }) => [kind, input])).toEqual([
      ["event", "ringing"],
      ["query", "/start"],
      ["event", "transfer"],
      ["event", "botHangup"],
    ]);
    for (const { kind, input } of requests) if (kind === "event") expect(telephonyEvents.has(input), input).toBe(true);
  });

  it("has the caller, the number called and everything of ours in rawRequest", () => {
    const transfer = story().find(({ event }) => event === "transfer")!;
    const { raw } = decodeRequest(encode(transfer));
    expect(raw).toMatchObject({
      caller: "79991112233",
      extension: "74951234567",
      transferStatus: { status: "SUCCESS", hangup: false, number: "100" },
      transferDetails: { cause: "completed", attempts: [{ sipCode: 200 }] },
      callId: "c1",
      seq: 3,
      replyTo: "pb:{bot}:call:c1:commands",
    });
    expect(encode(transfer)).toContain('"transferStatus":{"status":"SUCCESS","hangup":false,"number":"100"}');
  });

  it("tells a key of the caller as what he says, one of the operator not at all", () => {
    const press = { event: "dtmf", digit: "5", durationMs: 100 } as const;
    expect(decodeRequest(encode({ ...press, from: "caller" }))).toMatchObject({ kind: "query", input: "5" });
    expect(jaicpKnows({ ...press, from: "operator" })).toBe(false);
  });

  it("tells that the caller pressed nothing", () => {
    const { kind, input } = decodeRequest(encode({ event: "noInput" }));
    expect([kind, input]).toEqual(["event", "noDtmfAnswerEvent"]);
  });

  it("gives every caller a memory of his own, also one without a number", () => {
    const ringing = story()[0]!;
    expect(JSON.parse(encode(ringing))).toMatchObject({ channelUserId: "79991112233", questionId: "c1:3" });
    expect(JSON.parse(encode(ringing, ""))).toMatchObject({ channelUserId: "c1", rawRequest: { caller: "" } });
  });

  it("never asks what the bot would answer for ever", () => {
    for (const event of ["accepted", "rejected", "warning", "playback", "transferProgress", "recording"]) {
      expect(story().some((told) => told.event === event && jaicpKnows(told))).toBe(false);
    }
  });

  test("who hung up: the caller, or anybody else", () => {
    const hangup = { event: "hangup", sipCode: null, reason: null, durationMs: 1 } as const;
    expect(decodeRequest(encode({ ...hangup, by: "caller" })).input).toBe("hangup");
    expect(decodeRequest(encode({ ...hangup, by: "operator" })).input).toBe("botHangup");
  });
});

describe("responses", () => {
  /** In the shape of the library's test resources, with the replies a telephone bot can send. */
  const response = (replies: readonly object[]): string =>
    JSON.stringify({
      data: { replies, answer: "Connecting you", dialer: { callResult: "done" }, sessionId: "s" },
      botId: "bot",
      accountId: "bot",
      channelType: "resterisk",
      channelBotId: "bot",
      channelUserId: "79991112233",
      questionId: "c1:3",
      query: "/start",
      timestamp: 0,
      currentState: "/operator",
      processingTime: 0,
      requestData: { caller: "79991112233" },
    });
  const policy = {
    tls: false,
    numberRefusal: () => null,
    allowsSipHost: () => true,
    routeFor: () => ({
      route: route(),
      known: true,
      identityHeaders: "allow" as const,
      referFallback: true,
      referFollowed: true,
    }),
  };
  function read(text: string): ReturnType<typeof translate> {
    const json = readJson(Buffer.from(text));
    if (!json.ok) throw new Error(json.message);
    const outcome = readFrame(commandOfJaicp(json.value));
    if (!outcome.ok) throw new Error(outcome.rejection.message);
    return translate(outcome.frame, "c" as CommandId, policy, () => "t" as TransferId);
  }

  test("text, audio, switch and hangup mean what they mean on the platform, without a warning", () => {
    const translation = read(
      response([
        { type: "text", text: "Connecting you", markup: "html", state: "/operator", bargeInReply: { type: "INTENT" } },
        { type: "audio", audioUrl: "https://example.org/a.wav", state: "/operator" },
        {
          type: "switch",
          phoneNumber: "79123456789",
          headers: { testheader: "header" },
          continueCall: true,
          state: "/x",
        },
      ]),
    );
    expect(translation).toMatchObject({
      type: "command",
      warnings: [],
      command: {
        replies: [
          { type: "text", text: "Connecting you" },
          { type: "audio", url: "https://example.org/a.wav" },
          { type: "switch", request: { number: "79123456789", continueCall: true } },
        ],
      },
    });
    expect(read(response([{ type: "hangup", state: "/bye" }]))).toMatchObject({ type: "command" });
  });

  it("leaves out what only a screen shows, and takes an answer without replies", () => {
    const buttons = { type: "buttons", buttons: [{ text: "yes" }] };
    expect(read(response([buttons, { type: "text", text: "yes?" }]))).toMatchObject({
      command: { replies: [{ type: "text" }] },
    });
    expect(read(response([]))).toMatchObject({ type: "command", command: { replies: [] } });
  });

  it("refuses a switch to a chat, and the caller stays", () => {
    const chat = { type: "switch", firstMessage: "hello", closeChatPhrases: ["bye"], destination: "group" };
    expect(read(response([chat]))).toMatchObject({ type: "invalidSwitch" });
  });

  it("takes the bare form of the contract too", () => {
    expect(read(JSON.stringify({ commandId: "x", replies: [{ type: "hangup" }] }))).toMatchObject({ type: "command" });
  });
});
