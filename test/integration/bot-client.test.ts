import { inspect } from "node:util";
import { Redis } from "ioredis";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import type { BotEvent } from "../../src/call/bot-event.ts";
import type { CallId } from "../../src/call/ids.ts";
import type { Command, Reply } from "../../src/call/reply.ts";
import type { TransferRequest } from "../../src/call/transfer.ts";
import { CallEndedError, CommandRejectedError, connectBot } from "../../src/client/index.ts";
import type { Bot, BotCall, BotOptions, TransferStatus } from "../../src/client/index.ts";
import { startRedis } from "../support/redis.ts";
import type { RedisServer } from "../support/redis.ts";
import { waitFor } from "../support/wait.ts";
import { callEvent, digitEvent, hangupEvent, linkFixture, transferEvent } from "./bot-fixture.ts";
import type { LinkFixture } from "./bot-fixture.ts";

/** Plays Patchbay's side: takes, prompts and transfers as the core answers them, on the real link. */
interface Patchbay {
  readonly fixture: LinkFixture;
  readonly obeyed: { readonly call: string; readonly worker: string | null; readonly reply: Reply }[];
  dial(call: string): CallId;
  hangUp(call: CallId): void;
}

interface Script {
  /** What becomes of a prompt or a switch, after it was accepted. Nothing: it goes on for ever. */
  onReply?(reply: Reply, command: Command, index: number, say: (event: BotEvent) => void, call: CallId): void;
  /** A refusal in place of `accepted`. */
  refuse?(command: Command): { readonly code: string; readonly message: string } | null;
  /** How many answers are kept back. */
  mute?: { count: number };
}

let server: RedisServer;
let raw: Redis;
const stack: (() => PromiseLike<void> | void)[] = [];

beforeAll(async () => {
  server = await startRedis({ persistent: true });
  raw = new Redis(server.url, { maxRetriesPerRequest: null });
  raw.on("error", () => undefined);
});
afterAll(async () => {
  raw.disconnect();
  await server[Symbol.asyncDispose]();
});
afterEach(async () => {
  for (const undo of stack.splice(0).reverse()) await undo();
  await raw.flushall();
});

async function patchbay(script: Script = {}): Promise<Patchbay> {
  const owners = new Map<string, string>();
  const obeyed: Patchbay["obeyed"] = [];
  const fixture = await linkFixture({
    redis: { url: server.url },
    onCommand(call, command, say) {
      const { commandId, worker, replies } = command;
      const first = replies[0];
      const owner = owners.get(call);
      const asking = first?.type === "take" ? first.worker : worker;
      const refusal =
        owner !== undefined && owner !== asking
          ? { code: "taken", message: "taken" }
          : (script.refuse?.(command) ?? null);
      if (refusal !== null) {
        say({ event: "rejected", commandId, pointer: null, ...refusal });
        return true;
      }
      if (first?.type === "take") owners.set(call, first.worker);
      if (first?.type === "release") owners.delete(call);
      if (script.mute !== undefined && script.mute.count > 0) {
        script.mute.count -= 1;
        return true;
      }
      say({ event: "accepted", commandId });
      for (const [index, reply] of replies.entries()) {
        obeyed.push({ call, worker, reply });
        if (script.onReply !== undefined) script.onReply(reply, command, index, say, call);
        else if (reply.type === "text" || reply.type === "audio") {
          say({ event: "playback", commandId, index, result: "completed", reason: null });
        } else if (reply.type === "hangup") {
          say(hangupEvent);
          fixture.link.close(call);
        }
      }
      return true;
    },
  });
  stack.push(() => fixture[Symbol.asyncDispose]());
  return {
    fixture,
    obeyed,
    dial(call) {
      const id = fixture.open(call, "bot-1");
      fixture.say(id, callEvent);
      return id;
    },
    hangUp(call) {
      fixture.say(call, hangupEvent);
      fixture.link.close(call);
    },
  };
}

async function connected(
  options: Partial<BotOptions> = {},
  prepare: (bot: Bot) => void = () => undefined,
): Promise<Bot> {
  const bot = connectBot({ redis: server.url, botId: "bot-1", ...options });
  stack.push(() => bot.close());
  prepare(bot);
  await bot.ready;
  return bot;
}

/** A bot that keeps every call it gets. */
async function keeping(options: Partial<BotOptions> = {}): Promise<{ bot: Bot; calls: BotCall[] }> {
  const calls: BotCall[] = [];
  const bot = await connected(options, (fresh) =>
    fresh.onCall(async (call) => {
      calls.push(call);
      await call.ended;
    }),
  );
  return { bot, calls };
}

const transferId = "t-1" as never;

describe("a call from the first word to the last", () => {
  it("says, plays, switches, thanks and hangs up", async () => {
    const status: (TransferStatus | null)[] = [];
    const heard: string[] = [];
    const side = await patchbay({
      onReply(reply, { commandId }, index, say, call) {
        if (reply.type === "text" || reply.type === "audio") {
          say({ event: "playback", commandId, index, result: "completed", reason: null });
        } else if (reply.type === "switch") {
          say({ event: "transferProgress", transferId, phase: "dialing", attempt: 1, sipCode: null, ms: 1 });
          say(transferEvent("SUCCESS", reply.request.number, transferId, "completed"));
        } else if (reply.type === "hangup") {
          side.hangUp(call);
        }
      },
    });
    let done = false;
    const bot = await connected({ worker: "w-1" });
    bot.onCall(async (call) => {
      call.on("transferProgress", (event) => heard.push(event.phase));
      expect(call).toMatchObject({
        callId: "c-1",
        caller: "79991112233",
        called: "74951234567",
        trunk: "trunk-a",
        resumed: false,
      });
      expect(call.headers).toEqual({ "X-From-Trunk": "1" });
      expect(call.getTransferStatus()).toBeNull();
      expect(await call.say("Hello", { lang: "en" })).toEqual({ result: "completed", reason: null });
      expect(await call.play("file:///prompts/please-wait.wav", { times: 2 })).toEqual({
        result: "completed",
        reason: null,
      });
      status.push(
        await call.switch({
          phoneNumber: "79123456789",
          timeout: "30",
          headers: { callReason: "support", crmClientId: "none" },
          transferChannel: "237-test-237-VDQ-28334674",
          continueCall: true,
          continueRecording: true,
        }),
      );
      status.push(call.getTransferStatus());
      await call.record("pause");
      await call.sendDigits("12#", "operator");
      expect(await call.hangup()).toMatchObject({ by: "caller" });
      await expect(call.say("too late")).rejects.toBeInstanceOf(CallEndedError);
      done = true;
    });
    side.dial("c-1");
    await waitFor(() => done, { what: "the callback" });
    expect(status[0]).toMatchObject({ status: "SUCCESS", hangup: false, number: "79123456789", refusal: null });
    expect(status[0]?.details).toMatchObject({ cause: "completed" });
    expect(status[1]).toBe(status[0]);
    expect(heard).toEqual(["dialing"]);
    expect(side.obeyed.map(({ worker, reply }) => [worker, reply.type])).toEqual(
      ["take", "text", "audio", "switch", "record", "dtmf", "hangup"].map((type) => ["w-1", type]),
    );
    expect(side.obeyed[3]?.reply).toMatchObject({
      request: {
        answerTimeoutMs: 30_000,
        continueCall: true,
        headers: [{ name: "callReason" }, { name: "crmClientId" }],
      },
    });
    await waitFor(() => bot.calls.length === 0, { what: "the call to be forgotten" });
  });

  it("serves many calls at once, each with its own events", async () => {
    const side = await patchbay();
    let ended = 0;
    await connected({}, (bot) =>
      bot.onCall(async (call) => {
        const number = call.callId.slice(1);
        const digits = await call.waitForDigits({ count: number.length });
        expect(digits).toEqual({ digits: number, reason: "count" });
        await call.say("bye");
        await call.hangup();
        ended += 1;
      }),
    );
    const ids = Array.from({ length: 40 }, (_, index) => side.dial(`c${index}`));
    for (const id of ids) for (const digit of id.slice(1)) side.fixture.say(id, digitEvent(digit));
    await waitFor(() => ended === 40, { timeoutMs: 20_000, what: "40 calls" });
  });
});

describe("switch resolves exactly once", () => {
  async function switched(script: Script, act?: (side: Patchbay, call: BotCall) => void): Promise<TransferStatus> {
    const side = await patchbay(script);
    const { calls } = await keeping({ timing: { giveUpMs: 300 } });
    side.dial("c");
    const call = await waitFor(() => calls[0], { what: "the call" });
    const result = call.switch({ phoneNumber: "79123456789" });
    act?.(side, call);
    return result;
  }

  it("when it fails", async () => {
    const status = await switched({
      onReply: (reply, _command, _index, say) => {
        if (reply.type === "switch") say(transferEvent("FAIL", reply.request.number, transferId, "busy"));
      },
    });
    expect(status).toMatchObject({ status: "FAIL", hangup: false, details: { cause: "busy" }, refusal: null });
  });

  it("when the caller hangs up first", async () => {
    const status = await switched({
      onReply: (reply, _command, _index, say) => {
        if (reply.type === "switch") say(hangupEvent);
      },
    });
    expect(status).toEqual({ status: "FAIL", hangup: true, number: "79123456789", details: null, refusal: null });
  });

  it.each(["transfer_in_progress", "rate_limited", "taken", "unknown_call"])(
    "when it is rejected with %s",
    async (code) => {
      const status = await switched({
        refuse: (command) => (command.replies[0]?.type === "switch" ? { code, message: "no" } : null),
      });
      expect(status).toMatchObject({
        status: "FAIL",
        number: "79123456789",
        hangup: code === "unknown_call",
        details: null,
      });
    },
  );

  it.each([
    ["then", "SUCCESS", "completed", "/talked"],
    ["timeoutState", "FAIL", "no_answer", "/nobody"],
    ["errorState", "FAIL", "busy", null],
  ] as const)("transferCallToOperator: %s applies", async (applies, outcome, cause, state) => {
    const wanted: TransferRequest[] = [];
    const side = await patchbay({
      onReply: (reply, _command, _index, say) => {
        if (reply.type !== "switch") return;
        wanted.push(reply.request);
        say(transferEvent(outcome, reply.request.number, transferId, cause));
      },
    });
    const { calls } = await keeping();
    side.dial("c");
    const call = await waitFor(() => calls[0], { what: "the call" });
    // oxlint-disable-next-line unicorn/no-thenable -- the platform's word; a text is never called
    const request = { phoneNumber: "79123456789", timeout: 20, then: "/talked", timeoutState: "/nobody" };
    expect(await call.transferCallToOperator(request)).toMatchObject({ applies, state, status: { status: outcome } });
    expect(wanted).toMatchObject([{ continueCall: true, answerTimeoutMs: 20_000 }]);
  });

  it("with several operators and prompts while it rings", async () => {
    const seen: unknown[] = [];
    const side = await patchbay({
      onReply: (reply, { commandId }, index, say) => {
        seen.push(reply);
        if (reply.type === "duringRing")
          say({ event: "playback", commandId, index, part: 0, result: "stopped", reason: null });
        if (reply.type === "duringRing") say(transferEvent("SUCCESS", "200", transferId, "completed"));
      },
    });
    const { calls } = await keeping();
    side.dial("c");
    const call = await waitFor(() => calls[0], { what: "the call" });
    const prompt = { type: "text", text: "still ringing" } as const;
    const status = call.switch({
      targets: [{ phoneNumber: "100", headers: { a: 1 } }, { phoneNumber: "200" }],
      strategy: "ring",
      confirm: { prompt, digit: "5" },
      duringRing: [prompt],
      maxTalkSeconds: 60,
    });
    await call.duringRing([prompt]);
    expect(await status).toMatchObject({ status: "SUCCESS", number: "200" });
    expect(seen.slice(1)).toMatchObject([
      {
        type: "switch",
        request: {
          others: [{ number: "200" }],
          strategy: "ring",
          confirm: { digit: "5" },
          duringRing: [{ kind: "text" }],
          maxTalkMs: 60_000,
        },
      },
      { type: "duringRing", prompts: [{ kind: "text", text: "still ringing" }] },
    ]);
  });

  it("when it is invalid: once, with the transfer event's word and the refusal's pointer", async () => {
    const side = await patchbay();
    const { calls } = await keeping();
    side.dial("c");
    const call = await waitFor(() => calls[0], { what: "the call" });
    const first = await call.switch({ sipUri: "x@evil.example" });
    expect(first).toMatchObject({
      status: "FAIL",
      hangup: false,
      number: "x@evil.example",
      details: { cause: "invalid_reply" },
    });
    const second = call.switch({ phoneNumber: "1" });
    await waitFor(() => side.obeyed.some(({ reply }) => reply.type === "switch"), { what: "the second switch" });
    side.fixture.say("c" as CallId, transferEvent("SUCCESS", "1", transferId, "completed"));
    expect(await second).toMatchObject({ status: "SUCCESS" });
    expect(await call.switch({})).toMatchObject({ status: "FAIL", number: "", details: { cause: "invalid_reply" } });
  });

  it("when a second one is asked for beside it", async () => {
    let switching = false;
    const side = await patchbay({
      refuse: (command) => {
        if (command.replies[0]?.type !== "switch") return null;
        if (switching) return { code: "transfer_in_progress", message: "one at a time" };
        switching = true;
        return null;
      },
      onReply: () => undefined,
    });
    const { calls } = await keeping();
    side.dial("c");
    const call = await waitFor(() => calls[0], { what: "the call" });
    const first = call.switch({ phoneNumber: "1" });
    await waitFor(() => switching, { what: "the first switch" });
    const second = await call.switch({ phoneNumber: "2" });
    expect(second).toMatchObject({ status: "FAIL", number: "2", refusal: { code: "transfer_in_progress" } });
    expect(call.getTransferStatus()).toBeNull();
    side.fixture.say("c" as CallId, transferEvent("SUCCESS", "1", transferId, "completed"));
    expect(await first).toMatchObject({ status: "SUCCESS", number: "1" });
    expect(call.getTransferStatus()).toBe(await first);
  });

  it("when Patchbay is gone", async () => {
    const side = await patchbay({ onReply: () => undefined });
    const { calls } = await keeping({ livenessMs: 200, timing: { attemptsMax: 2 } });
    side.dial("c");
    const call = await waitFor(() => calls[0], { what: "the call" });
    const result = call.switch({ phoneNumber: "1" });
    await waitFor(() => side.obeyed.some(({ reply }) => reply.type === "switch"), { what: "the switch" });
    await side.fixture.link.shutdown(1_000);
    expect(await result).toMatchObject({ status: "FAIL", hangup: true });
    expect(await call.ended).toMatchObject({ by: "service" });
  });

  it("when the bot is closed", async () => {
    const side = await patchbay({ onReply: () => undefined });
    const { bot, calls } = await keeping();
    side.dial("c");
    const call = await waitFor(() => calls[0], { what: "the call" });
    const result = call.switch({ phoneNumber: "1" });
    await bot.close();
    expect(await result).toMatchObject({ status: "FAIL" });
  });
});

describe("prompts", () => {
  it("end stopped with stop, and with the call", async () => {
    const side = await patchbay({ onReply: () => undefined });
    const { calls } = await keeping();
    const id = side.dial("c");
    const call = await waitFor(() => calls[0], { what: "the call" });
    const first = call.say("a long text");
    await waitFor(() => side.obeyed.some(({ reply }) => reply.type === "text"), { what: "the text" });
    await call.stop();
    expect(await first).toEqual({ result: "stopped", reason: null });
    const second = call.say("another");
    await waitFor(() => side.obeyed.filter(({ reply }) => reply.type === "text").length === 2, { what: "the text" });
    side.hangUp(id);
    expect(await second).toEqual({ result: "stopped", reason: "call_ended" });
  });

  it("fail where there is no text-to-speech, and reject where the command is rejected", async () => {
    const side = await patchbay({
      refuse: (command) => (command.replies[0]?.type === "audio" ? { code: "taken", message: "no" } : null),
      onReply: (reply, { commandId }, _index, say) => {
        if (reply.type === "text")
          say({ event: "warning", commandId, code: "no_tts", message: "none", pointer: "/replies/0" });
      },
    });
    const { calls } = await keeping();
    side.dial("c");
    const call = await waitFor(() => calls[0], { what: "the call" });
    expect(await call.say("x")).toEqual({ result: "failed", reason: "no_tts" });
    await expect(call.play("http://x")).rejects.toMatchObject({ code: "taken", name: "CommandRejectedError" });
    await expect(call.play("http://x")).rejects.toBeInstanceOf(CommandRejectedError);
  });
});

describe("digits", () => {
  it("end by count, terminator, time and the end of the call, and are kept while nobody collects", async () => {
    const side = await patchbay();
    const { calls } = await keeping();
    const id = side.dial("c");
    const call = await waitFor(() => calls[0], { what: "the call" });
    const press = (digits: string): void => {
      for (const digit of digits) side.fixture.say(id, digitEvent(digit));
    };
    let pressed = 0;
    call.on("dtmf", () => (pressed += 1));
    press("12");
    await waitFor(() => pressed === 2, { what: "digits" });
    const counted = call.waitForDigits({ count: 3, terminator: "#" });
    press("345#");
    expect(await counted).toEqual({ digits: "123", reason: "count" });
    expect(await call.waitForDigits({ count: 9, terminator: "#" })).toEqual({ digits: "45", reason: "terminator" });
    expect(await call.waitForDigits({ count: 1, timeoutMs: 50 })).toEqual({ digits: "", reason: "timeout" });
    side.fixture.say(id, { event: "dtmf", digit: "9", durationMs: 100, from: "operator" });
    const last = call.waitForDigits({ count: 2 });
    press("7");
    side.hangUp(id);
    expect(await last).toEqual({ digits: "7", reason: "ended" });
  });
});

describe("several workers", () => {
  it("of which one takes the call and runs the callback", async () => {
    const side = await patchbay();
    const ran: string[] = [];
    for (const worker of ["w-1", "w-2", "w-3"]) {
      await connected({ worker }, (bot) =>
        bot.onCall(async (call) => {
          ran.push(`${call.callId} ${worker}`);
          await call.say("hello");
          await call.ended;
        }),
      );
    }
    const ids = Array.from({ length: 6 }, (_, index) => side.dial(`c${index}`));
    await waitFor(() => side.obeyed.filter(({ reply }) => reply.type === "text").length === 6, {
      what: "six greetings",
    });
    expect(new Set(ran.map((line) => line.split(" ")[0]))).toEqual(new Set(ids));
    expect(ran).toHaveLength(6);
    const takes = side.obeyed.filter(({ reply }) => reply.type === "take");
    expect(takes).toHaveLength(6);
  });
});

describe("a lost connection", () => {
  it("is followed by a replay from the stream: nothing missed, nothing twice", async () => {
    const side = await patchbay({ onReply: () => undefined });
    const { bot, calls } = await keeping();
    const gaps: unknown[] = [];
    const errors: unknown[] = [];
    bot.on("gap", (gap) => gaps.push(gap)).on("error", (error) => errors.push(error));
    const id = side.dial("c");
    const call = await waitFor(() => calls[0], { what: "the call" });
    const digits: string[] = [];
    call.on("dtmf", (event) => digits.push(event.digit));
    const result = call.switch({ phoneNumber: "1" });
    await waitFor(() => side.obeyed.some(({ reply }) => reply.type === "switch"), { what: "the switch" });
    for (let round = 0; round < 5; round += 1) {
      await raw.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
      for (const digit of "0123456789") side.fixture.say(id, digitEvent(digit));
    }
    side.fixture.say(id, transferEvent("SUCCESS", "1", transferId, "completed"));
    expect(await result).toMatchObject({ status: "SUCCESS" });
    expect(digits.join("")).toBe("0123456789".repeat(5));
    expect(gaps).toEqual([]);
    await call.stop();
  });

  it("of Redis itself, killed and restarted, is survived by both sides", async () => {
    const side = await patchbay({ onReply: () => undefined });
    const { bot, calls } = await keeping();
    bot.on("error", () => undefined);
    const id = side.dial("c");
    const call = await waitFor(() => calls[0], { what: "the call" });
    const result = call.switch({ phoneNumber: "1" });
    await waitFor(() => side.obeyed.some(({ reply }) => reply.type === "switch"), { what: "the switch" });
    await server.crash();
    await waitFor(() => !side.fixture.link.ready(), { what: "the loss" });
    side.fixture.say(id, digitEvent("1"));
    side.fixture.say(id, transferEvent("FAIL", "1", transferId, "busy"));
    const said = call.stop();
    await server.start();
    expect(await result).toMatchObject({ status: "FAIL", details: { cause: "busy" } });
    await said;
    expect(side.obeyed.filter(({ reply }) => reply.type === "stop")).toHaveLength(1);
  });

  it("of an answer makes the command go again under the same id, and it is done once", async () => {
    const mute = { count: 0 };
    const side = await patchbay({ mute, onReply: () => undefined });
    const { calls } = await keeping({ timing: { answerMs: 100, attemptsMax: 3 } });
    side.dial("c");
    const call = await waitFor(() => calls[0], { what: "the call" });
    mute.count = 1;
    await expect(call.record("start")).rejects.toMatchObject({ code: "no_answer" });
    await waitFor(() => side.fixture.link.stats().commands === 4, { what: "three sendings and a take" });
    const ids = side.fixture.posted.flatMap(({ event }) =>
      event.type === "bot.command" ? [event.command.commandId] : [],
    );
    expect(new Set(ids).size).toBe(ids.length);
    expect(ids).toHaveLength(2);
  });

  it("before the first event is no loss either: reading begins where the stream ended", async () => {
    const side = await patchbay();
    for (let index = 0; index < 20; index += 1) side.hangUp(side.dial(`old-${index}`));
    await waitFor(() => side.fixture.link.stats().queued === 0, { what: "the old events" });
    const { bot, calls } = await keeping();
    bot.on("error", () => undefined);
    const newest = (await raw.xrevrange("pb:{bot-1}:events", "+", "-", "COUNT", 1))[0]![0];
    expect(bot.position).toBe(newest);
    await raw.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
    side.dial("new");
    await waitFor(() => calls.length === 1, { what: "the call" });
    expect(calls[0]!.callId).toBe("new");
  });
});

describe("a worker that restarts", () => {
  it("in a group of its own gets its calls back, with what happened meanwhile", async () => {
    const side = await patchbay({
      onReply: (reply, { commandId }, index, say) => {
        if (reply.type === "text") say({ event: "playback", commandId, index, result: "completed", reason: null });
      },
    });
    const first = await keeping({ worker: "w", group: "workers-w" });
    const id = side.dial("c");
    side.hangUp(side.dial("short"));
    await waitFor(() => first.calls.some((call) => call.callId === "c"), { what: "the call" });
    await waitFor(() => first.bot.calls.length === 1, { what: "the short call to end" });
    await first.bot.close();
    side.fixture.say(id, transferEvent("FAIL", "1", transferId, "busy"));
    const missed = side.dial("missed");
    await waitFor(() => side.fixture.link.stats().queued === 0, { what: "the outbox" });

    const second = await keeping({ worker: "w", group: "workers-w" });
    await waitFor(() => second.calls.length === 2, { what: "both calls" });
    expect(new Set(second.calls.map((call) => call.callId))).toEqual(new Set(["c", "missed"]));
    const call = second.calls.find(({ callId }) => callId === "c")!;
    await waitFor(() => call.getTransferStatus() !== null, { what: "the transfer of the time between" });
    expect(await call.say("here I am again")).toMatchObject({ result: "completed" });
    side.hangUp(id);
    side.hangUp(missed);
    await waitFor(() => second.bot.calls.length === 0, { what: "the calls to end" });
    await waitFor(async () => (await raw.xpending("pb:{bot-1}:events", "workers-w"))[0] === 0, {
      what: "every entry to be acknowledged",
    });
  });

  it("with a kept position gets what it has missed", async () => {
    const side = await patchbay();
    const first = await keeping();
    const id = side.dial("a");
    await waitFor(() => first.calls.length === 1, { what: "the first call" });
    side.hangUp(id);
    await waitFor(() => first.bot.calls.length === 0, { what: "the first call to end" });
    await first.bot.close();
    side.dial("b");
    await waitFor(() => side.fixture.link.stats().queued === 0, { what: "the outbox" });
    const second = await keeping({ startAt: first.bot.position! });
    await waitFor(() => second.calls.length === 1, { what: "the missed call" });
    expect(second.calls[0]!.callId).toBe("b");
  });
});

describe("a worker that was away for long", () => {
  it("does not spend commands on the calls that are over by now", async () => {
    const side = await patchbay();
    for (let index = 0; index < 300; index += 1) {
      const id = side.dial(`old-${index}`);
      side.fixture.say(id, digitEvent("1"));
      side.hangUp(id);
    }
    side.dial("live");
    await waitFor(() => side.fixture.link.stats().queued === 0, { what: "the old events" });
    const { bot, calls } = await keeping({ startAt: "beginning" });
    await waitFor(() => calls.length === 1, { what: "the live call" });
    expect(calls[0]!.callId).toBe("live");
    expect(bot.calls).toHaveLength(1);
    expect(side.fixture.link.stats().commands).toBe(1);
  });
});

describe("failures of the bot's own code", () => {
  it("are reported and do not lose the caller", async () => {
    const side = await patchbay();
    const errors: unknown[] = [];
    const bot = await connected({}, (fresh) =>
      fresh
        .onCall(async (call) => {
          call.on("dtmf", () => {
            throw new Error("in a listener");
          });
          await call.say("x");
          throw new Error("in the callback");
        })
        .on("error", (error, call) => errors.push([(error as Error).message, call?.callId])),
    );
    const id = side.dial("c");
    await waitFor(() => errors.length === 1, { what: "the report" });
    side.fixture.say(id, digitEvent("1"));
    await waitFor(() => errors.length === 2, { what: "the second report" });
    expect(errors).toEqual([
      ["in the callback", "c"],
      ["in a listener", "c"],
    ]);
    expect(bot.calls).toHaveLength(1);
    expect(side.obeyed.some(({ reply }) => reply.type === "hangup")).toBe(false);
  });

  it("hang up politely where the bot is told so", async () => {
    const side = await patchbay();
    const bot = await connected({ onError: "hangup" }, (fresh) =>
      fresh.onCall(() => Promise.reject(new Error("broken"))).on("error", () => undefined),
    );
    side.dial("c");
    await waitFor(() => side.obeyed.some(({ reply }) => reply.type === "hangup"), { what: "the hang-up" });
    await waitFor(() => bot.calls.length === 0, { what: "the call to end" });
  });

  it("do not include a call that ends under the callback", async () => {
    const side = await patchbay({ onReply: () => undefined });
    const errors: unknown[] = [];
    let returned = false;
    await connected({}, (fresh) =>
      fresh
        .onCall(async (call) => {
          await call.say("x");
          try {
            await call.say("y");
          } finally {
            returned = true;
          }
        })
        .on("error", (error) => errors.push(error)),
    );
    const id = side.dial("c");
    await waitFor(() => side.obeyed.some(({ reply }) => reply.type === "text"), { what: "the text" });
    side.hangUp(id);
    await waitFor(() => returned, { what: "the callback's end" });
    expect(errors).toEqual([]);
  });

  it("events that do not follow the contract are reported, later ones are ignored, and reading goes on", async () => {
    const side = await patchbay();
    const { bot, calls } = await keeping();
    const errors: string[] = [];
    bot.on("error", (error) => errors.push((error as { code: string }).code));
    await raw.xadd("pb:{bot-1}:events", "*", "event", "not json");
    await raw.xadd("pb:{bot-1}:events", "*", "event", '{"v":1,"event":"call"}');
    await raw.xadd("pb:{bot-1}:events", "*", "event", '{"v":1,"event":"fromTheFuture","callId":"c"}');
    await raw.xadd("pb:{bot-1}:events", "*", "other", "x");
    side.dial("c");
    await waitFor(() => calls.length === 1, { what: "the call" });
    expect(errors).toEqual(["bad_event", "bad_event"]);
  });
});

describe("nothing waits for what cannot come", () => {
  it("a call whose Patchbay died is over, also when its callback has returned", async () => {
    const side = await patchbay({ onReply: () => undefined });
    const seen: BotCall[] = [];
    const bot = await connected({ livenessMs: 200, timing: { attemptsMax: 2 } }, (fresh) =>
      fresh.onCall((call) => void seen.push(call)),
    );
    side.dial("c");
    const call = await waitFor(() => seen[0], { what: "the call" });
    const hungUp = call.hangup();
    await waitFor(() => side.obeyed.some(({ reply }) => reply.type === "hangup"), { what: "the hangup" });
    await side.fixture.link.shutdown(1_000);
    expect(await hungUp).toMatchObject({ by: "service" });
    expect(bot.calls).toEqual([]);
  });

  it("prompts in the queue end with a stop that was sent by hand", async () => {
    const side = await patchbay({ onReply: () => undefined });
    const { calls } = await keeping();
    side.dial("c");
    const call = await waitFor(() => calls[0], { what: "the call" });
    const queued = call.say("never begun");
    await waitFor(() => side.obeyed.some(({ reply }) => reply.type === "text"), { what: "the text" });
    await call.send([{ type: "stop" }, { type: "record", action: "pause" }]);
    expect(await queued).toEqual({ result: "stopped", reason: null });
  });

  it("closing the bot while Redis is away waits for no further attempt to connect", { timeout: 4_500 }, async () => {
    await using away = await startRedis();
    const fixture = await linkFixture({ redis: { host: "127.0.0.1", port: away.port } });
    stack.push(() => fixture[Symbol.asyncDispose]());
    const seen: BotCall[] = [];
    let failures = 0;
    const bot = connectBot({ redis: away.url, botId: "bot-1", take: false, timing: { giveUpMs: 60_000 } })
      .onCall((call) => void seen.push(call))
      .on("error", () => (failures += 1));
    await bot.ready;
    fixture.say(fixture.open("c", "bot-1"), callEvent);
    const call = await waitFor(() => seen[0], { what: "the call" });
    await away.crash();
    // Between two attempts to connect, which are seconds apart by then.
    await waitFor(() => failures >= 10, { what: "five attempts of both connections" });
    const said = call.say("x").catch((error: unknown) => error);
    await bot.close();
    expect(await said).toBeInstanceOf(CallEndedError);
  });
});

describe("errors of Redis", () => {
  it("do not show the password or what was said", async () => {
    await using locked = await startRedis({ password: "right" });
    const errors: unknown[] = [];
    const bot = connectBot({
      redis: { url: `redis://127.0.0.1:${locked.port}`, password: "not-the-right-one" },
      botId: "bot-1",
    }).on("error", (error) => errors.push(error));
    stack.push(() => bot.close());
    await waitFor(() => errors.some((error) => inspect(error).includes("WRONGPASS")), { what: "the refused password" });
    expect(errors.map((error) => inspect(error)).join("\n")).not.toContain("not-the-right-one");
  });
});

describe("the rights of a bot's ACL user", () => {
  it("are enough, with and without a group", async () => {
    await raw.call(
      "ACL",
      "SETUSER",
      "narrow",
      "reset",
      "on",
      ">secret",
      "resetchannels",
      "&pb:{bot-1}:*",
      "~pb:{bot-1}:*",
      "-@all",
      "+publish",
      "+subscribe",
      "+xread",
      "+xreadgroup",
      "+xack",
      "+ping",
      "+client|setname",
      "+xgroup|create",
      "+xautoclaim",
    );
    stack.push(async () => {
      await raw.call("ACL", "DELUSER", "narrow");
    });
    const side = await patchbay();
    const errors: unknown[] = [];
    for (const group of [undefined, "g"]) {
      const bot = await connected(
        {
          redis: { url: server.url, username: "narrow", password: "secret" },
          worker: `w-${group}`,
          ...(group === undefined ? {} : { group }),
        },
        (fresh) =>
          fresh
            .onCall(async (call) => {
              await call.say("x");
              await call.hangup();
            })
            .on("error", (error) => errors.push(error)),
      );
      side.dial(`call-${group}`);
      await waitFor(() => side.obeyed.some(({ call, reply }) => call === `call-${group}` && reply.type === "hangup"), {
        what: "the hang-up",
      });
      await bot.close();
    }
    expect(errors).toEqual([]);
  });
});
