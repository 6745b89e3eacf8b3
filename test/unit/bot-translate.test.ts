import { describe, expect, it, test } from "vitest";
import { readJson } from "../../src/bot/json.ts";
import { readFrame, translate } from "../../src/bot/translate.ts";
import type { TransferPolicy, Translation } from "../../src/bot/translate.ts";
import type { CommandId, GatewayId, TransferId, TrunkId } from "../../src/call/ids.ts";
import type { Command } from "../../src/call/reply.ts";
import type { Route, TransferRequest } from "../../src/call/transfer.ts";

const own: Route = {
  trunk: "own" as TrunkId,
  gateways: ["own-1" as GatewayId],
  identity: "caller",
  retryWithBotNumber: true,
  sipUriVia: "direct",
  progressTimeoutMs: 10_000,
};
const other: Route = { ...own, trunk: "other" as TrunkId };
const knownChannel = "237-test-237-VDQ-28334674";

const policy: TransferPolicy = {
  tls: false,
  numberRefusal: () => null,
  allowsSipHost: (host) => ["123.org", "sip.voximplant.com", "ok.example"].includes(host),
  routeFor: (channel) => ({
    route: channel === knownChannel ? other : own,
    known: channel === null || channel === knownChannel,
    identityHeaders: "allow",
    referFallback: true,
    referFollowed: true,
  }),
};

function run(
  command: unknown,
  using: TransferPolicy = policy,
): Translation | { readonly type: "frame"; readonly code: string; readonly pointer: string | null } {
  const json = readJson(Buffer.from(typeof command === "string" ? command : JSON.stringify(command)));
  if (!json.ok) throw new Error(json.message);
  const outcome = readFrame(json.value);
  if (!outcome.ok) return { type: "frame", code: outcome.rejection.code, pointer: outcome.rejection.pointer };
  return translate(outcome.frame, "c-1" as CommandId, using, () => "t-1" as TransferId);
}

function taken(
  command: unknown,
  using: TransferPolicy = policy,
): {
  command: Command;
  warnings: { code: string; message: string; pointer: string | null }[];
} {
  const outcome = run(command, using);
  if (outcome.type !== "command") throw new Error(JSON.stringify(outcome));
  return { command: outcome.command, warnings: [...outcome.warnings] };
}

function switched(
  fields: Record<string, unknown>,
  using: TransferPolicy = policy,
): {
  request: TransferRequest;
  warnings: string[];
  pointers: (string | null)[];
} {
  const { command, warnings } = taken({ replies: [{ type: "switch", ...fields }] }, using);
  const reply = command.replies[0];
  if (reply?.type !== "switch") throw new Error("no switch");
  return {
    request: reply.request,
    warnings: warnings.map((warning) => warning.code),
    pointers: warnings.map((warning) => warning.pointer),
  };
}

describe("switch: must be accepted unchanged", () => {
  test.each([
    [{ phoneNumber: "79123456789", state: "/fallback" }, { number: "79123456789" }],
    [{ phoneNumber: "79123456789", method: "refer" }, { method: "refer" }],
    [{ sipUri: "123@123.org" }, { number: "123@123.org", target: { kind: "uri", uri: "sip:123@123.org" } }],
    [
      { sipUri: "79123456789@sip.voximplant.com", timeout: "30" },
      { answerTimeoutMs: 30_000, number: "79123456789@sip.voximplant.com" },
    ],
    [
      {
        closeChatPhrases: "Reset the agent",
        firstMessage: "",
        phoneNumber: "79216665544",
        transferChannel: knownChannel,
      },
      { route: other },
    ],
    [
      {
        phoneNumber: "2222",
        headers: { "P-Asserted-Identity": '"7701" <sip:7701@92.46.54.211>', testheader: "header" },
        continueCall: false,
        continueRecording: false,
      },
      {
        continueCall: false,
        continueRecording: false,
        headers: [
          { name: "P-Asserted-Identity", value: '"7701" <sip:7701@92.46.54.211>' },
          { name: "testheader", value: "header" },
        ],
      },
    ],
  ])("%j", (fields, expected) => {
    const { request, warnings } = switched(fields);
    expect(request).toMatchObject(expected);
    expect(warnings).toEqual([]);
  });

  it("fills in the defaults", () => {
    expect(switched({ phoneNumber: "2222" }).request).toEqual({
      transferId: "t-1",
      commandId: "c-1",
      method: "invite",
      target: { kind: "phone", digits: "2222" },
      number: "2222",
      route: own,
      headers: [],
      answerTimeoutMs: 60_000,
      continueCall: false,
      continueRecording: false,
      referFallback: true,
      others: [],
      strategy: "serial",
      confirm: null,
      maxTalkMs: null,
      duringRing: [],
    });
  });

  it("takes null for an absent field, as some client libraries write it", () => {
    const fields = ["sipUri", "timeout", "headers", "transferChannel", "continueCall", "continueRecording", "method"];
    const { request, warnings } = switched({
      phoneNumber: "1",
      ...Object.fromEntries(fields.map((name) => [name, null])),
    });
    expect(request).toMatchObject({ answerTimeoutMs: 60_000, continueCall: false, method: "invite", route: own });
    expect(warnings).toEqual([]);
  });
});

describe("switch: fields", () => {
  test.each([
    ["30", 30_000, []],
    [30, 30_000, []],
    [1.5, 1500, []],
    ["1.5", 1500, []],
    [" 30 ", 30_000, []],
    [600, 600_000, []],
    [1, 1000, []],
    [601, 600_000, ["timeout_clamped"]],
    [86_401, 600_000, ["timeout_clamped"]],
    ["86401", 600_000, ["timeout_clamped"]],
    ["1e999", 600_000, ["timeout_clamped"]],
    [0.2, 1000, ["timeout_clamped"]],
    [-1, 60_000, ["timeout_invalid"]],
    [0, 60_000, ["timeout_invalid"]],
    ["0", 60_000, ["timeout_invalid"]],
    ["x", 60_000, ["timeout_invalid"]],
    ["", 60_000, ["timeout_invalid"]],
    ["30s", 60_000, ["timeout_invalid"]],
    ["0x1e", 60_000, ["timeout_invalid"]],
    [true, 60_000, ["timeout_invalid"]],
    [{ a: 1 }, 60_000, ["timeout_invalid"]],
    [[30], 60_000, ["timeout_invalid"]],
  ])("timeout %j → %d ms %j", (timeout, ms, codes) => {
    const { request, warnings, pointers } = switched({ phoneNumber: "1", timeout });
    expect(request.answerTimeoutMs).toBe(ms);
    expect(warnings).toEqual(codes);
    expect(pointers).toEqual(codes.map(() => "/replies/0/timeout"));
  });

  it("takes a number too large for anything in JSON for too long a time", () => {
    const outcome = run('{"replies":[{"type":"switch","phoneNumber":"1","timeout":1e999}]}');
    expect(outcome).toMatchObject({ warnings: [{ code: "timeout_clamped" }] });
  });

  test.each([
    [true, true],
    ["true", true],
    [false, false],
    ["false", false],
    [null, false],
  ])("continueCall %j → %s", (flag, expected) => {
    const { request } = switched({ phoneNumber: "1", continueCall: flag, continueRecording: flag });
    expect([request.continueCall, request.continueRecording]).toEqual([expected, expected]);
  });

  it("takes an integer for a phone number and tells it back as text", () => {
    expect(switched({ phoneNumber: 79_123_456_789 }).request).toMatchObject({
      number: "79123456789",
      target: { kind: "phone", digits: "79123456789" },
    });
  });

  it("lets sipUri win over phoneNumber, but not an empty one", () => {
    expect(switched({ phoneNumber: "1", sipUri: "123@123.org" }).request.number).toBe("123@123.org");
    expect(switched({ phoneNumber: "1", sipUri: "" }).request.number).toBe("1");
  });

  it("tells the number as the bot wrote it", () => {
    const { request } = switched({ phoneNumber: "8 (495) 123-45-67" });
    expect(request.number).toBe("8 (495) 123-45-67");
    expect(request.target).toEqual({ kind: "phone", digits: "84951234567" });
  });

  it("calls by INVITE at once where a REFER was not followed lately, unless nobody would call him then", () => {
    const after = (referFallback: boolean): TransferPolicy => ({
      ...policy,
      routeFor: (channel) => ({ ...policy.routeFor(channel), referFallback, referFollowed: false }),
    });
    const wanted = { phoneNumber: "1", method: "refer" };
    const skipped = switched(wanted, after(true));
    expect(skipped.request.method).toBe("invite");
    expect([skipped.warnings, skipped.pointers]).toEqual([["refer_skipped"], ["/replies/0/method"]]);
    const tried = switched(wanted, after(false));
    expect([tried.request.method, tried.warnings]).toEqual(["refer", []]);
    expect(switched({ phoneNumber: "1" }, after(true)).warnings).toEqual([]);
  });

  it("warns of an unknown transferChannel and of the old method name", () => {
    const { request, warnings, pointers } = switched({
      phoneNumber: "1",
      transferChannel: "nobody",
      method: "transfer",
    });
    expect(request).toMatchObject({ route: own, method: "refer" });
    expect(warnings).toEqual(["transfer_channel_unknown", "method_deprecated"]);
    expect(pointers).toEqual(["/replies/0/transferChannel", "/replies/0/method"]);
  });

  it("drops bad headers one by one, with escaped pointers", () => {
    const { request, warnings, pointers } = switched({
      phoneNumber: "1",
      headers: { Payload: "x", "a/b~c": "1", "X-Obj": { a: 1 }, good: 1, gone: null, ["n".repeat(5000)]: "v" },
    });
    expect(request.headers).toEqual([{ name: "good", value: "1" }]);
    expect(warnings).toEqual(["header_dropped", "header_dropped", "header_dropped", "header_dropped"]);
    expect(pointers.slice(0, 3)).toEqual([
      "/replies/0/headers/Payload",
      "/replies/0/headers/a~1b~0c",
      "/replies/0/headers/X-Obj",
    ]);
    expect(pointers[3]?.length).toBeLessThan(100);
  });

  it("does not let identity headers through where the trunk drops them", () => {
    const dropping: TransferPolicy = {
      ...policy,
      routeFor: () => ({ ...policy.routeFor(null), identityHeaders: "drop" }),
    };
    const outcome = run(
      { replies: [{ type: "switch", phoneNumber: "1", headers: { Diversion: "<sip:1@x>" } }] },
      dropping,
    );
    expect(outcome).toMatchObject({
      type: "command",
      command: { replies: [{ request: { headers: [] } }] },
      warnings: [{ code: "header_dropped", pointer: "/replies/0/headers/Diversion" }],
    });
  });

  test.each([
    ["continue_call", "continueCall"],
    ["ContinueCall", "continueCall"],
    ["sipuri", "sipUri"],
    ["sip_uri", "sipUri"],
    ["phonenumber", "phoneNumber"],
    ["phone_number", "phoneNumber"],
    ["phoneNubmer", "phoneNumber"],
    ["timeuot", "timeout"],
    ["header", "headers"],
    ["transferChanel", "transferChannel"],
    ["continueRecordng", "continueRecording"],
  ])("warns that %s may be meant for %s", (key, meant) => {
    const { warnings } = taken({ replies: [{ type: "switch", phoneNumber: "1", [key]: "x" }] });
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toMatchObject({ code: "misspelt_key", pointer: `/replies/0/${key}` });
    expect(warnings[0]?.message).toContain(`"${key}"`);
    expect(warnings[0]?.message).toContain(`"${meant}"`);
  });

  it("says nothing of other unknown keys", () => {
    expect(
      switched({ phoneNumber: "1", state: "/x", whatever: 1, botId: "other", callId: "x", __proto: 1 }).warnings,
    ).toEqual([]);
  });

  it("touches no prototype", () => {
    const outcome = run(
      '{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}},"replies":[{"type":"switch","phoneNumber":"1",' +
        '"__proto__":{"phoneNumber":"2"},"toJSON":"x","headers":{"__proto__":"v","constructor":"c","toString":"t"}}]}',
    );
    expect(outcome).toMatchObject({ type: "command", warnings: [] });
    if (outcome.type !== "command" || outcome.command.replies[0]?.type !== "switch") throw new Error("no switch");
    expect(outcome.command.replies[0].request.headers).toEqual([
      { name: "constructor", value: "c" },
      { name: "toString", value: "t" },
    ]);
    expect(({} as Record<string, unknown>)["polluted"]).toBeUndefined();
  });
});

describe("switch: invalid, so that the caller stays with the bot", () => {
  test.each([
    [{}, "/replies/0", ""],
    [{ firstMessage: "live chat" }, "/replies/0", ""],
    [{ phoneNumber: "" }, "/replies/0/phoneNumber", ""],
    [{ sipUri: "" }, "/replies/0/sipUri", ""],
    [{ phoneNumber: "1-800-FLOWERS" }, "/replies/0/phoneNumber", "1-800-FLOWERS"],
    [{ phoneNumber: "12\r\n3" }, "/replies/0/phoneNumber", "12\r\n3"],
    [{ phoneNumber: 1.5 }, "/replies/0/phoneNumber", "1.5"],
    [{ phoneNumber: -5 }, "/replies/0/phoneNumber", "-5"],
    [{ phoneNumber: 2 ** 53 }, "/replies/0/phoneNumber", "9007199254740992"],
    [{ phoneNumber: true }, "/replies/0/phoneNumber", ""],
    [{ phoneNumber: { a: 1 } }, "/replies/0/phoneNumber", ""],
    [{ phoneNumber: "9".repeat(10_000) }, "/replies/0/phoneNumber", "9".repeat(100)],
    [{ sipUri: "x@ok.example?Replaces=a" }, "/replies/0/sipUri", "x@ok.example?Replaces=a"],
    [{ sipUri: 5, phoneNumber: "1" }, "/replies/0/sipUri", "5"],
    [{ phoneNumber: "1", headers: "X: 1" }, "/replies/0/headers", "1"],
    [{ phoneNumber: "1", headers: ["X"] }, "/replies/0/headers", "1"],
    [{ phoneNumber: "1", continueCall: "yes" }, "/replies/0/continueCall", "1"],
    [{ phoneNumber: "1", continueRecording: 1 }, "/replies/0/continueRecording", "1"],
    [{ phoneNumber: "1", method: "fax" }, "/replies/0/method", "1"],
    [{ phoneNumber: "1", transferChannel: 5 }, "/replies/0/transferChannel", "1"],
  ])("%j", (fields, pointer, number) => {
    expect(run({ replies: [{ type: "switch", ...fields }] })).toMatchObject({
      type: "invalidSwitch",
      event: { type: "bot.invalidSwitch", commandId: "c-1", transferId: "t-1", code: "invalid_reply", pointer, number },
    });
  });

  it.each([
    [{ sipUri: "x@evil.example" }, "x@evil.example"],
    [{ sipUri: "x@evil.example", phoneNumber: "1" }, "x@evil.example"],
    [{ sipUri: "x@127.0.0.1:22;transport=tcp" }, "x@127.0.0.1:22;transport=tcp"],
  ])("%j: a host that the channel does not allow has a code of its own", (fields, number) => {
    expect(run({ replies: [{ type: "switch", ...fields }] })).toMatchObject({
      type: "invalidSwitch",
      event: { type: "bot.invalidSwitch", code: "destination_refused", pointer: "/replies/0/sipUri", number },
    });
  });

  it("goes before another fault of the same command", () => {
    expect(run({ replies: [{ type: "audio" }, { type: "switch" }] })).toMatchObject({
      type: "invalidSwitch",
      event: { pointer: "/replies/1" },
    });
  });
});

describe("the other replies", () => {
  it("translates each", () => {
    const { command, warnings } = taken({
      commandId: "x",
      worker: "w",
      replies: [
        { type: "text", text: "Hi", lang: "ru-RU" },
        { type: "text", text: "1 500 р.", tts: "полторы тысячи" },
        { type: "audio", audioUrl: "file:///prompts/please-wait.wav" },
        { type: "audio", audioUrl: "https://x/y.wav", times: 3 },
        { type: "switchCancel" },
        { type: "switchCancel", transferId: "t-9" },
        { type: "dtmf", digits: "12*#AwW, 3" },
        { type: "dtmf", digits: "1", to: "operator" },
        { type: "record", action: "pause" },
        { type: "hangup", headers: { "X-Why": "done", Via: "x" } },
        { type: "stop" },
        { type: "take", worker: "w" },
        { type: "release", worker: "w" },
      ],
    });
    expect(command.worker).toBe("w");
    expect(command.replies).toEqual([
      { type: "text", text: "Hi", lang: "ru-RU", voice: null },
      { type: "text", text: "полторы тысячи", lang: null, voice: null },
      { type: "audio", url: "file:///prompts/please-wait.wav", times: 1 },
      { type: "audio", url: "https://x/y.wav", times: 3 },
      { type: "switchCancel", transferId: null },
      { type: "switchCancel", transferId: "t-9" },
      { type: "dtmf", digits: "12*#AwW, 3", to: "caller" },
      { type: "dtmf", digits: "1", to: "operator" },
      { type: "record", action: "pause" },
      { type: "hangup", headers: [{ name: "X-Why", value: "done" }] },
      { type: "stop" },
      { type: "take", worker: "w" },
      { type: "release", worker: "w" },
    ]);
    expect(warnings.map((warning) => warning.pointer)).toEqual(["/replies/9/headers/Via"]);
  });

  it("gives a voice only what can be said", () => {
    const { command } = taken({ replies: [{ type: "text", text: "e\u0301\u0000\u0007 a\r\nb\ud800c" }] });
    expect(command.replies[0]).toMatchObject({ text: "\u00e9 a bc" });
  });

  test.each([
    [{ type: "buttons" }, "unknown_reply", "/replies/1/type"],
    [{ type: "toString" }, "unknown_reply", "/replies/1/type"],
    [{ type: "__proto__" }, "unknown_reply", "/replies/1/type"],
    [{ type: "Switch" }, "unknown_reply", "/replies/1/type"],
    [{ type: 5 }, "unknown_reply", "/replies/1/type"],
    [{}, "unknown_reply", "/replies/1/type"],
    ["text", "invalid_reply", "/replies/1"],
    [null, "invalid_reply", "/replies/1"],
    [[], "invalid_reply", "/replies/1"],
    [{ type: "text" }, "invalid_reply", "/replies/1/text"],
    [{ type: "text", text: 5 }, "invalid_reply", "/replies/1/text"],
    [{ type: "text", text: "x", lang: "-v" }, "invalid_reply", "/replies/1/lang"],
    [{ type: "audio" }, "invalid_reply", "/replies/1/audioUrl"],
    [{ type: "audio", audioUrl: "" }, "invalid_reply", "/replies/1/audioUrl"],
    [{ type: "audio", audioUrl: "http://x\r\ny" }, "invalid_reply", "/replies/1/audioUrl"],
    [{ type: "audio", audioUrl: "http://x", times: 0 }, "invalid_reply", "/replies/1/times"],
    [{ type: "audio", audioUrl: "http://x", times: 1.5 }, "invalid_reply", "/replies/1/times"],
    [{ type: "dtmf", digits: "" }, "invalid_reply", "/replies/1/digits"],
    [{ type: "dtmf", digits: "12E" }, "invalid_reply", "/replies/1/digits"],
    [{ type: "dtmf", digits: "1".repeat(129) }, "invalid_reply", "/replies/1/digits"],
    [{ type: "dtmf", digits: "1", to: "bot" }, "invalid_reply", "/replies/1/to"],
    [{ type: "record", action: "erase" }, "invalid_reply", "/replies/1/action"],
    [{ type: "hangup", headers: 5 }, "invalid_reply", "/replies/1/headers"],
    [{ type: "take" }, "invalid_reply", "/replies/1/worker"],
    [{ type: "release", worker: "" }, "invalid_reply", "/replies/1/worker"],
    [{ type: "switchCancel", transferId: 5 }, "invalid_reply", "/replies/1/transferId"],
  ])("rejects a command whole for %j", (reply, code, pointer) => {
    const outcome = run({ replies: [{ type: "stop" }, reply] });
    expect(outcome).toMatchObject({ type: "rejected", rejection: { code, pointer } });
    expect(outcome.type === "rejected" && outcome.rejection.message.length).toBeLessThan(200);
  });

  it("drops what stands behind a switch, and a second switch, with a warning each", () => {
    const { command, warnings } = taken({
      replies: [
        { type: "text", text: "a" },
        { type: "switch", phoneNumber: "1" },
        { type: "hangup" },
        { type: "switch", phoneNumber: "2" },
        { type: "switch" },
      ],
    });
    expect(command.replies.map((reply) => reply.type)).toEqual(["text", "switch"]);
    expect(warnings.map((warning) => [warning.code, warning.pointer])).toEqual([
      ["dropped_after_switch", "/replies/2"],
      ["dropped_after_switch", "/replies/3"],
      ["dropped_after_switch", "/replies/4"],
    ]);
  });

  it("still rejects the whole command for an unknown reply behind a switch", () => {
    expect(run({ replies: [{ type: "switch", phoneNumber: "1" }, { type: "buttons" }] })).toMatchObject({
      type: "rejected",
      rejection: { code: "unknown_reply", pointer: "/replies/1/type" },
    });
  });

  it("bounds the warnings of one command", () => {
    const headers = Object.fromEntries(Array.from({ length: 500 }, (_, index) => [`b d ${index}`, "x"]));
    const { warnings } = taken({ replies: [{ type: "switch", phoneNumber: "1", headers }] });
    expect(warnings).toHaveLength(40);
    expect(warnings.at(-1)?.code).toBe("more_warnings");
  });
});

describe("the frame of a command", () => {
  test.each([
    [{}, "/replies"],
    [{ replies: null }, "/replies"],
    [{ replies: {} }, "/replies"],
    [{ replies: "stop" }, "/replies"],
    [{ replies: Array.from({ length: 65 }, () => ({ type: "stop" })) }, "/replies"],
    [{ commandId: 5, replies: [] }, "/commandId"],
    [{ commandId: "", replies: [] }, "/commandId"],
    [{ commandId: "x".repeat(129), replies: [] }, "/commandId"],
    [{ commandId: "a\nb", replies: [] }, "/commandId"],
    [{ worker: 5, replies: [] }, "/worker"],
    [{ worker: "w".repeat(129), replies: [] }, "/worker"],
  ])("%j is refused", (command, pointer) => {
    expect(run(command)).toEqual({ type: "frame", code: "invalid_command", pointer });
  });

  it("takes a bare JAICP response", () => {
    const { command } = taken({ replies: [], botId: "somebody-else", questionId: 5, commandId: null, worker: null });
    expect(command).toEqual({ commandId: "c-1", worker: null, replies: [] });
  });

  it("warns of a misspelt key of the frame", () => {
    expect(taken({ command_id: "x", replies: [] }).warnings).toMatchObject([
      { code: "misspelt_key", pointer: "/command_id" },
    ]);
  });
});

describe("switch: several operators", () => {
  it("takes each target with its own headers in place of the common ones of that name", () => {
    const { request } = switched({
      headers: { common: "1", place: "none" },
      targets: [{ phoneNumber: "8 (495) 1" }, { sipUri: "123@123.org", phoneNumber: 5, headers: { Place: "second" } }],
      strategy: "ring",
    });
    expect(request).toMatchObject({ number: "8 (495) 1", target: { digits: "84951" }, strategy: "ring" });
    expect(request.headers).toEqual([
      { name: "common", value: "1" },
      { name: "place", value: "none" },
    ]);
    expect(request.others).toEqual([
      {
        number: "123@123.org",
        target: { kind: "uri", uri: "sip:123@123.org" },
        headers: [
          { name: "common", value: "1" },
          { name: "Place", value: "second" },
        ],
      },
    ]);
  });

  it("takes one target as the plain switch takes it, and none as if the key were not there", () => {
    const plain = switched({ phoneNumber: "100" }).request;
    expect(switched({ targets: [{ phoneNumber: "100" }] }).request).toEqual(plain);
    expect(switched({ phoneNumber: "100", targets: [] }).request).toEqual(plain);
  });

  it.each([
    ["a bad number", { targets: [{ phoneNumber: "1" }, { phoneNumber: "x" }] }, "/replies/0/targets/1/phoneNumber"],
    ["no target in it", { targets: [{ phoneNumber: "1" }, {}] }, "/replies/0/targets/1"],
    ["too many", { targets: Array.from({ length: 11 }, () => ({ phoneNumber: "1" })) }, "/replies/0/targets"],
    ["REFER to two", { targets: [{ phoneNumber: "1" }, { phoneNumber: "2" }], method: "refer" }, "/replies/0/method"],
    ["a word for a strategy", { phoneNumber: "1", strategy: "all" }, "/replies/0/strategy"],
    [
      "a key of two",
      { phoneNumber: "1", confirm: { prompt: { type: "text", text: "x" }, digit: "12" } },
      "/replies/0/confirm/digit",
    ],
    ["a prompt that is none", { phoneNumber: "1", duringRing: [{ type: "hangup" }] }, "/replies/0/duringRing/0/type"],
    ["no time to talk", { phoneNumber: "1", maxTalkSeconds: 0 }, "/replies/0/maxTalkSeconds"],
  ])("refuses %s with a pointer, and the caller stays", (_, fields, pointer) => {
    expect(run({ replies: [{ type: "switch", ...fields }] })).toMatchObject({
      type: "invalidSwitch",
      event: { pointer },
    });
  });

  it("reads confirm, duringRing and maxTalkSeconds", () => {
    const prompt = { type: "text", text: "press 1", lang: "en" };
    const { request } = switched({ phoneNumber: "1", confirm: { prompt }, duringRing: [prompt], maxTalkSeconds: 90 });
    const spoken = { kind: "text", text: "press 1", lang: "en", voice: null };
    expect(request).toMatchObject({ maxTalkMs: 90_000, duringRing: [spoken] });
    expect(request.confirm).toEqual({ prompt: spoken, digit: "1", timeoutMs: 20_000 });
  });
});
