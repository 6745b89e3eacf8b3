// Bad input of the contract's §8 and §4: the answer is exact, and the caller is still with the bot afterwards.
import { describe, expect, test } from "vitest";
import { nowMs } from "../support/clock.ts";
import { pitches } from "../support/pitch.ts";
import { formatSip } from "../support/sip-text.ts";
import { delay, waitFor } from "../support/wait.ts";
import type { BotCall, BotEvent } from "./raw-bot.ts";
import { callerNumber, operatorNumber, sharedStage, type Talk, trunkPassword } from "./stage.ts";

/** The caller hears what the bot says, and hangs up. */
async function expectWithBot({ stage, leg, call }: Talk): Promise<void> {
  expect(leg.phase).toBe("established");
  await call.run({ type: "stop" }, { type: "audio", audioUrl: stage.prompts.second });
  await leg.media.hears(pitches.bot);
  await leg.hangUp();
  await call.event("hangup");
  expect(leg.reInvites).toEqual([]);
}

/** Sends bytes as they are and gives the one answer that comes. */
async function answerTo(call: BotCall, bytes: string | Uint8Array): Promise<BotEvent> {
  await call.turn();
  const after = call.seq;
  expect(await call.publish(bytes)).toBe(1);
  return waitFor(
    () => call.events.find(({ seq, name }) => seq > after && (name === "rejected" || name === "accepted")),
    {
      what: "an answer",
    },
  );
}

const answersIn = (call: BotCall): readonly string[] =>
  call.events.map(({ name }) => name).filter((name) => name === "rejected" || name === "accepted");

const nested = (depth: number): string =>
  `{"commandId":"deep","replies":[],"x":${"[".repeat(depth - 1)}${"]".repeat(depth - 1)}}`;
const switchText = '{"type":"switch","phoneNumber":"1","phoneNumber":"2"}';

describe("what is no command", () => {
  const stage = sharedStage({ concurrent: true });

  test.concurrent.each<{
    name: string;
    bytes: string | Uint8Array;
    code: string;
    pointer?: string | null;
    commandId?: string;
  }>([
    { name: "half an object", bytes: "{", code: "bad_json" },
    { name: "nothing", bytes: "", code: "bad_json" },
    { name: "a word", bytes: "hello", code: "bad_json" },
    { name: "a list", bytes: "[]", code: "bad_json" },
    { name: "a string", bytes: '"hangup"', code: "bad_json" },
    { name: "a number", bytes: "42", code: "bad_json" },
    { name: "null", bytes: "null", code: "bad_json" },
    { name: "a comma too many", bytes: '{"replies":[],}', code: "bad_json" },
    { name: "two objects", bytes: '{"replies":[]}{}', code: "bad_json" },
    { name: "a byte order mark", bytes: '\u{feff}{"replies":[]}', code: "bad_json" },
    { name: "no UTF-8", bytes: Uint8Array.of(0x7b, 0xff, 0xfe, 0x7d), code: "bad_json" },
    { name: "binary", bytes: Uint8Array.from({ length: 256 }, (_, byte) => byte), code: "bad_json" },
    { name: "64 KiB and a byte", bytes: `{"x":"${"a".repeat(64 * 1024 - 7)}"}`, code: "too_large" },
    { name: "a megabyte", bytes: "a".repeat(1024 * 1024), code: "too_large" },
    { name: "nine levels", bytes: nested(9), code: "too_large", pointer: "/x/0/0/0/0/0/0/0" },
    { name: "a hundred thousand levels", bytes: "[".repeat(60_000), code: "too_large", pointer: "*" },
    {
      name: "a key twice",
      bytes: `{"commandId":"twice","replies":[${switchText}]}`,
      code: "duplicate_key",
      pointer: "/replies/0/phoneNumber",
    },
    { name: "no replies", bytes: '{"commandId":"a"}', code: "invalid_command", pointer: "/replies", commandId: "a" },
    { name: "replies in an object", bytes: '{"replies":{}}', code: "invalid_command", pointer: "/replies" },
    {
      name: "a commandId that is a number",
      bytes: '{"commandId":7,"replies":[]}',
      code: "invalid_command",
      pointer: "/commandId",
    },
    {
      name: "an unknown reply",
      bytes: '{"commandId":"b","replies":[{"type":"stop"},{"type":"dance"}]}',
      code: "unknown_reply",
      pointer: "/replies/1/type",
      commandId: "b",
    },
    {
      name: "a reply without a type",
      bytes: '{"commandId":"c","replies":[{}]}',
      code: "unknown_reply",
      pointer: "/replies/0/type",
      commandId: "c",
    },
    {
      name: "a reply of the name of a method",
      bytes: '{"commandId":"d","replies":[{"type":"constructor"}]}',
      code: "unknown_reply",
      pointer: "/replies/0/type",
      commandId: "d",
    },
    {
      name: "a reply that is no object",
      bytes: '{"commandId":"e","replies":["stop"]}',
      code: "invalid_reply",
      pointer: "/replies/0",
      commandId: "e",
    },
    {
      name: "a prompt without a URL",
      bytes: '{"commandId":"f","replies":[{"type":"audio"}]}',
      code: "invalid_reply",
      pointer: "/replies/0/audioUrl",
      commandId: "f",
    },
    {
      name: "digits that are none",
      bytes: '{"commandId":"g","replies":[{"type":"dtmf","digits":"12x"}]}',
      code: "invalid_reply",
      pointer: "/replies/0/digits",
      commandId: "g",
    },
    {
      name: "a switchCancel without a transfer",
      bytes: '{"commandId":"h","replies":[{"type":"switchCancel"}]}',
      code: "no_transfer",
      pointer: "/replies/0",
      commandId: "h",
    },
  ])("$name: $code", async ({ bytes, code, pointer = null, commandId }) => {
    const talk = await stage().talk();
    const answer = await answerTo(talk.call, bytes);
    expect(answer.name).toBe("rejected");
    const { commandId: told, code: toldCode, message, pointer: toldPointer } = answer.body;
    expect({ told, toldCode }).toEqual({ told: commandId ?? null, toldCode: code });
    if (pointer !== "*") expect(toldPointer).toBe(pointer);
    expect(String(message).length).toBeLessThanOrEqual(200);
    // Nothing of what was sent comes back beyond 100 characters.
    expect(answer.raw).not.toContain("a".repeat(101));
    expect(answer.raw.length).toBeLessThan(1_500);
    expect(answersIn(talk.call)).toEqual(["rejected"]);
    expect(talk.call.all("transfer")).toHaveLength(0);
    await expectWithBot(talk);
  });

  test.concurrent("eight levels and a command just under 64 KiB are accepted", async () => {
    const talk = await stage().talk();
    expect((await answerTo(talk.call, nested(8))).name).toBe("accepted");
    const head = '{"commandId":"big","replies":[],"x":"';
    const bytes = `${head}${"a".repeat(64 * 1024 - head.length - 2)}"}`;
    expect(Buffer.byteLength(bytes)).toBe(64 * 1024);
    expect((await answerTo(talk.call, bytes)).name).toBe("accepted");
    await expectWithBot(talk);
  });

  test.concurrent("__proto__, constructor and toJSON are keys like any other unknown key", async () => {
    const talk = await stage().talk();
    const answer = await answerTo(
      talk.call,
      '{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}},"toJSON":1,"replies":[{"type":"stop","__proto__":{"polluted":1}}]}',
    );
    expect(answer.name).toBe("accepted");
    expect(({} as { polluted?: unknown }).polluted).toBeUndefined();
    await expectWithBot(talk);
  });

  test.concurrent("all or nothing: a bad reply behind a good one, and nothing of the command happens", async () => {
    const talk = await stage().talk();
    const answer = await talk.call.command([
      { type: "audio", audioUrl: stage().prompts.long },
      { type: "hangup" },
      { type: "dance" },
    ]);
    expect(answer.body).toMatchObject({ event: "rejected", code: "unknown_reply", pointer: "/replies/2/type" });
    await talk.call.play(stage().prompts.short);
    expect(talk.call.all("playback")).toHaveLength(1);
    await expectWithBot(talk);
  });
});

const badNumbers = [
  "+",
  "++44",
  "1".repeat(33),
  "1-800-FLOWERS",
  "٠١٢٣",
  "１２３",
  "12,34",
  "12;34",
  "12p3",
  "sip:12",
  "12\r\n34",
  "12\u202e34",
  "",
];
/** Good ones of hosts that the channel does not allow. */
const refusedUris = ["x@0.0.0.0", "x@[::1]", "x@localhost", "x@169.254.169.254", "sip:x@example.org"];
const badUris = [
  "x@2130706433",
  "x@0x7f.1",
  "x@127.0.0.1?Replaces=a",
  "x@127.0.0.1;method=BYE",
  "x@127.0.0.1;maddr=10.0.0.1",
  "x@127.0.0.1;lr",
  "x@127.0.0.1;transport=sctp",
  "u:pass@127.0.0.1",
  "x@127.0.0.1\r\nX-Evil: 1",
  "x@127.0.0.1 ",
  '"x"@127.0.0.1',
  "<sip:x@127.0.0.1>",
  "x%0d%0a@127.0.0.1",
  "sips:x@127.0.0.1",
  "tel:+74951234567",
  "http://127.0.0.1",
  `${"u".repeat(129)}@127.0.0.1`,
  "nobody",
];

describe("a switch that names nobody, or somebody impossible", () => {
  const stage = sharedStage({ concurrent: true });

  const expectInvalid = async (
    fields: Readonly<Record<string, unknown>>,
    pointer: string,
    number: string,
    code = "invalid_reply",
  ): Promise<void> => {
    const talk = await stage().talk();
    const answer = await talk.call.command([{ type: "switch", continueCall: false, ...fields }]);
    expect(answer.body).toMatchObject({ event: "rejected", code, pointer });
    const transfer = await talk.call.transfer();
    expect(transfer.statusText).toBe(JSON.stringify({ status: "FAIL", hangup: false, number: number.slice(0, 100) }));
    expect(transfer.details).toMatchObject({ cause: "invalid_reply", sipCode: null, attempts: [] });
    expect(talk.call.all("transferProgress")).toHaveLength(0);
    await expectWithBot(talk);
    expect(talk.call.all("transfer")).toHaveLength(1);
  };

  test.concurrent("no target at all, as in a live chat", () =>
    expectInvalid({ firstMessage: "Hello", closeChatPhrases: [] }, "/replies/0", ""));
  test.concurrent.each(badNumbers)("phoneNumber %j", (phoneNumber) =>
    expectInvalid({ phoneNumber }, "/replies/0/phoneNumber", phoneNumber),
  );
  test.concurrent.each(badUris)("sipUri %j", (sipUri) => expectInvalid({ sipUri }, "/replies/0/sipUri", sipUri));
  test.concurrent.each(refusedUris)("sipUri %j, which the policy refuses", (sipUri) =>
    expectInvalid({ sipUri }, "/replies/0/sipUri", sipUri, "destination_refused"),
  );
  test.concurrent("continueCall that is neither true nor false", () =>
    expectInvalid({ phoneNumber: "2222", continueCall: "maybe" }, "/replies/0/continueCall", "2222"));
  test.concurrent("a method that does not exist", () =>
    expectInvalid({ phoneNumber: "2222", method: "fax" }, "/replies/0/method", "2222"));
  test.concurrent("nobody was called for any of them", () => {
    for (const phone of [stage().operator, stage().secondOperator, stage().otherOperator]) {
      expect(phone.records).toEqual([]);
    }
  });
});

describe("what is changed or ignored with a warning", () => {
  const stage = sharedStage();
  const busy = { type: "reject", status: 486 } as const;

  test.each([
    { timeout: 86_401, code: "timeout_clamped" },
    { timeout: "1e999", code: "timeout_clamped" },
    { timeout: 0.1, code: "timeout_clamped" },
    { timeout: -1, code: "timeout_invalid" },
    { timeout: 0, code: "timeout_invalid" },
    { timeout: "x", code: "timeout_invalid" },
    { timeout: {}, code: "timeout_invalid" },
  ])("timeout $timeout: $code, and the transfer goes on", async ({ timeout, code }) => {
    stage().operator.answering = busy;
    const talk = await stage().talk();
    await talk.call.run({ type: "switch", phoneNumber: operatorNumber, timeout, continueCall: true });
    const warning = await talk.call.event("warning");
    expect(warning.body).toMatchObject({ code, pointer: "/replies/0/timeout" });
    expect((await talk.call.transfer()).details.cause).toBe("busy");
    await expectWithBot(talk);
  });

  test("misspelt keys are named, replies behind a switch are dropped, foreign keys say nothing", async () => {
    stage().operator.answering = busy;
    const talk = await stage().talk();
    await talk.call.run(
      {
        type: "switch",
        phoneNumber: operatorNumber,
        continue_call: true,
        continueCall: "true",
        state: "/fallback",
        closeChatPhrases: "Reset the agent",
        firstMessage: "",
        whatever: 1,
      },
      { type: "audio", audioUrl: stage().prompts.long },
      { type: "switch", phoneNumber: "2222" },
    );
    const transfer = await talk.call.transfer();
    expect(transfer.status).toMatchObject({ status: "FAIL", hangup: false });
    const warnings = talk.call.all("warning").map(({ body }) => ({ code: body["code"], pointer: body["pointer"] }));
    expect(warnings).toEqual([
      { code: "misspelt_key", pointer: "/replies/0/continue_call" },
      { code: "dropped_after_switch", pointer: "/replies/1" },
      { code: "dropped_after_switch", pointer: "/replies/2" },
    ]);
    expect(talk.call.all("warning")[0]?.body["message"]).toMatch(/continue_call.*continueCall/);
    expect(talk.call.all("playback")).toHaveLength(0);
    await expectWithBot(talk);
    expect(talk.call.all("transfer")).toHaveLength(1);
  });

  // Each with one good header, so that it is seen that the rest of the request is not harmed.
  const groups: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
    "control characters": {
      "X-Cr": "evil\rX-Injected: 1",
      "X-Lf": "evil\nX-Injected: 1",
      "X-Crlf": "evil\r\nX-Injected: 1",
      "X-Fold": "evil\r\n folded",
      "X-Nul": "evil\u0000",
      "X-Vt": "evil\u000b",
      "X-Line": "evil\u2028",
      "X-Paragraph": "evil\u2029",
      "X-Esc": "evil\u001b[1m",
    },
    "names that are no token": {
      "": "evil",
      "X A": "evil",
      "X:A": "evil",
      "X\r\nB": "evil",
      "X-Ä": "evil",
      ["X".repeat(65)]: "evil",
    },
    "headers of the transaction": Object.fromEntries(
      "Via From To Call-ID CSeq Contact Max-Forwards Route Record-Route Path Service-Route Content-Type Content-Length MIME-Version Payload Require Proxy-Require Supported Allow Allow-Events Authorization Proxy-Authorization WWW-Authenticate Replaces Join"
        .split(" ")
        .map((name) => [name, "evil"]),
    ),
    "headers of dialogs and events": Object.fromEntries(
      "Refer-To Refer-Sub Event Subscription-State Session-Expires Min-SE RSeq RAck Expires Date Timestamp Security-Client Identity cONTENT-dISPOSITION pAYLOAD"
        .split(" ")
        .map((name) => [name, "evil"]),
    ),
    "compact forms": Object.fromEntries("v i m f t l c e k r o u x y V".split(" ").map((name) => [name, "evil"])),
    "what is too long": { "X-Long": `evil${"x".repeat(512)}`, "X-Longer": `evil${"é".repeat(255)}` },
    "values that are no text": { "X-Object": { evil: 1 }, "X-List": ["evil"] },
  };

  test.each(Object.entries(groups))(
    "headers: %s are dropped with a warning each, the call goes on",
    async (_name, headers) => {
      stage().operator.answering = busy;
      const fromMs = nowMs();
      const talk = await stage().talk();
      await talk.call.run({
        type: "switch",
        phoneNumber: operatorNumber,
        headers: { ...headers, "X-Good": "%0d%0aX-Injected: 1" },
        continueCall: true,
      });
      expect((await talk.call.transfer()).details.cause).toBe("busy");
      const warnings = talk.call.all("warning").map(({ body }) => body["code"]);
      expect(warnings).toEqual(Object.keys(headers).map(() => "header_dropped"));
      const sent = stage().operator.records.filter(({ atMs, direction }) => atMs > fromMs && direction === "received");
      const wire = sent.map(({ message }) => formatSip(message)).join("\n");
      expect(wire).not.toContain("evil");
      expect(wire).not.toMatch(/^X-Injected/m);
      expect(wire).toContain("X-Good: %0d%0aX-Injected: 1");
      // A repetition of the same INVITE (RFC 3261 §17.1.1.2) is no second one.
      const invites = sent
        .filter(({ message }) => message.method === "INVITE")
        .map(({ message }) => formatSip(message));
      expect(new Set(invites).size).toBe(1);
      expect(sent[0]?.message.body).toContain("m=audio");
      await expectWithBot(talk);
    },
  );

  test("the second of two names equal but for case, the 33rd header, and what exceeds 8 KiB", async () => {
    stage().operator.answering = busy;
    const talk = await stage().talk();
    const many = Object.fromEntries(Array.from({ length: 34 }, (_, index) => [`X-H${index}`, `v${index}`]));
    await talk.call.run({
      type: "switch",
      phoneNumber: "1",
      headers: { "x-twice": "first", "X-Twice": "evil", ...many },
      continueCall: true,
    });
    const first = await talk.call.transfer();
    expect(talk.call.all("warning").map(({ body }) => body["pointer"])).toEqual([
      "/replies/0/headers/X-Twice",
      "/replies/0/headers/X-H31",
      "/replies/0/headers/X-H32",
      "/replies/0/headers/X-H33",
    ]);
    const big = Object.fromEntries(Array.from({ length: 17 }, (_, index) => [`X-Big${index}`, "b".repeat(500)]));
    const seq = talk.call.seq;
    await talk.call.run({ type: "switch", phoneNumber: "2", headers: big, continueCall: true });
    await talk.call.transfer({ after: first.event.seq });
    expect(talk.call.all("warning").filter((event) => event.seq > seq)).not.toHaveLength(0);
    const invites = stage()
      .incomingCalls(stage().operator)
      .map(({ invite }) => formatSip(invite));
    expect(invites[0]).toContain("x-twice: first");
    expect(invites[0]).not.toContain("evil");
    expect(Buffer.byteLength((invites[1] ?? "").match(/^X-Big.*$/gm)?.join("") ?? "")).toBeLessThanOrEqual(
      8 * 1024 + 64,
    );
    await expectWithBot(talk);
  });
});

describe("commands at the wrong time", () => {
  const stage = sharedStage();

  test("a second switch during a transfer: transfer_in_progress, and the first one goes on", async () => {
    stage().operator.answering = { type: "answer", afterMs: 500 };
    const talk = await stage().talk();
    await talk.call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: true });
    const during = await talk.call.command([{ type: "switch", phoneNumber: "2222" }]);
    expect(during.body).toMatchObject({ event: "rejected", code: "transfer_in_progress", pointer: "/replies/0" });
    const operator = await stage().incoming();
    await operator.acknowledged;
    await talk.call.progress("bridged");
    const talking = await talk.call.command([{ type: "switch", phoneNumber: "2222" }]);
    expect(talking.body).toMatchObject({ event: "rejected", code: "transfer_in_progress", pointer: "/replies/0" });
    await talk.leg.media.hears(pitches.operator);
    await operator.hangUp();
    expect((await talk.call.transfer()).status).toMatchObject({ status: "SUCCESS", hangup: false });
    expect(stage().incomingCalls(stage().operator)).toHaveLength(1);
    await expectWithBot(talk);
    expect(talk.call.all("transfer")).toHaveLength(1);
  });

  test("a command for a call that has ended: unknown_call, and nothing happens", async () => {
    const talk = await stage().talk();
    await talk.leg.hangUp();
    await talk.call.event("hangup");
    const answer = await talk.call.command([{ type: "switch", phoneNumber: operatorNumber }]);
    expect(answer.body).toMatchObject({ event: "rejected", code: "unknown_call", pointer: null });
    expect(talk.call.all("transfer")).toHaveLength(0);
    expect(stage().incomingCalls(stage().operator)).toHaveLength(0);
  });

  test("a command under another bot's name reaches nobody, and a botId in it is ignored", async () => {
    const talk = await stage().talk();
    const { redis } = stage().bot;
    const foreign = talk.call.replyTo.replace("{bot-a}", "{bot-b}");
    expect(await redis.command("PUBLISH", foreign, '{"replies":[{"type":"hangup"}]}')).toBe(0);
    const seq = talk.call.seq;
    await talk.call.publish('{"commandId":"mine","botId":"bot-b","callId":"other","replies":[]}');
    expect((await talk.call.answer("mine", seq)).name).toBe("accepted");
    await expectWithBot(talk);
  });
});

describe("a flood of commands", () => {
  const stage = sharedStage({
    change: ({ trunks }) => Object.assign(trunks[1] ?? {}, { sources: ["127.0.0.9"] }),
  });

  test("more than 20 a second: rate_limited; the caller stays, and another bot is not touched", async () => {
    const other = await stage().listen("bot-b");
    const otherCaller = await stage().phone({ address: "127.0.0.9", credentials: trunkPassword });
    const otherLeg = await otherCaller.dial(stage().uri("200"));
    const otherCall = await other.callOf(otherLeg.callId);
    await otherCall.event("answered");

    const talk = await stage().talk({ user: callerNumber });
    const flood = 200;
    const commands = Array.from({ length: flood }, (_, index) => `{"commandId":"flood-${index}","replies":[]}`);
    await Promise.all(commands.map((text) => talk.call.publish(text)));
    await otherCall.run({ type: "stop" });
    const answers = await waitFor(
      () => {
        const found = talk.call.events.filter(({ body }) => String(body["commandId"]).startsWith("flood-"));
        return found.length >= flood && found;
      },
      { what: "an answer to each command" },
    );
    expect(answers).toHaveLength(flood);
    const accepted = answers.filter(({ name }) => name === "accepted");
    const limited = answers.filter(({ body }) => body["code"] === "rate_limited");
    expect(accepted.length + limited.length).toBe(flood);
    expect(accepted.length).toBeGreaterThanOrEqual(19);
    expect(accepted.length).toBeLessThan(60);
    // The limit counts by time: a bot has its right back when it has been quiet for a second.
    await delay(1_000);
    expect((await talk.call.command([])).name).toBe("accepted");
    await expectWithBot(talk);
    await otherLeg.hangUp();
    await otherCall.event("hangup");
  });
});
