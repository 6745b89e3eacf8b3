import { readFileSync } from "node:fs";

import { Redis } from "ioredis";
import { afterEach, beforeAll, afterAll, describe, expect, it, test } from "vitest";
import type { CommandId } from "../../src/call/ids.ts";
import { startRedis } from "../support/redis.ts";
import type { RedisServer } from "../support/redis.ts";
import { waitFor } from "../support/wait.ts";
import { callEvent, digitEvent, hangupEvent, linkFixture, transferEvent } from "./bot-fixture.ts";

type Wire = Record<string, any>;

let server: RedisServer;
let raw: Redis;
let listener: Redis;
const stack: (() => PromiseLike<void> | void)[] = [];

beforeAll(async () => {
  server = await startRedis();
  raw = new Redis(server.url);
  listener = new Redis(server.url);
});
afterAll(async () => {
  raw.disconnect();
  listener.disconnect();
  await server[Symbol.asyncDispose]();
});
afterEach(async () => {
  for (const undo of stack.splice(0).reverse()) await undo();
  await listener.unsubscribe();
  await raw.flushall();
});

async function started(options: Omit<Parameters<typeof linkFixture>[0], "redis"> = {}) {
  const fixture = await linkFixture({ redis: { url: server.url }, ...options });
  stack.push(() => fixture[Symbol.asyncDispose]());
  return fixture;
}

async function stream(botId: string, on: Redis = raw): Promise<{ id: string; body: string; event: Wire }[]> {
  const entries = await on.xrange(`pb:{${botId}}:events`, "-", "+");
  return entries.map(([id, fields]) => {
    expect(fields[0]).toBe("event");
    expect(fields).toHaveLength(2);
    return { id, body: fields[1]!, event: JSON.parse(fields[1]!) };
  });
}

async function heard(botId: string): Promise<string[]> {
  const bodies: string[] = [];
  await listener.subscribe(`pb:{${botId}}:events`);
  listener.on("message", (channel: string, body: string) => {
    if (channel === `pb:{${botId}}:events`) bodies.push(body);
  });
  return bodies;
}

const command = (botId: string, call: string, body: unknown): Promise<number> =>
  raw.publish(`pb:{${botId}}:call:${call}:commands`, typeof body === "string" ? body : JSON.stringify(body));

/** Sends when the call's commands are heard, which is when its first event is in the stream. */
async function opened(fixture: Awaited<ReturnType<typeof started>>, call: string, botId: string) {
  const id = fixture.open(call, botId);
  fixture.say(id, callEvent);
  await waitFor(async () => (await stream(botId)).some((entry) => entry.event.callId === call), {
    what: "the call event",
  });
  return id;
}

async function answers(botId: string, count: number): Promise<Wire[]> {
  const wanted = async (): Promise<Wire[]> =>
    (await stream(botId)).map((entry) => entry.event).filter((event) => ["accepted", "rejected"].includes(event.event));
  return waitFor(async () => ((await wanted()).length >= count ? wanted() : false), { what: `${count} answers` });
}

describe("events", () => {
  it("go to the stream and to Pub/Sub as the same bytes, in the contract's envelope", async () => {
    const fixture = await started();
    const bodies = await heard("bot-1");
    const call = fixture.open("01CALL", "bot-1");
    fixture.say(call, callEvent);
    fixture.say(call, { event: "answered" });
    fixture.say(call, transferEvent("SUCCESS", "79123456789", "t" as never, "completed"));
    fixture.say(call, hangupEvent);
    await waitFor(() => bodies.length === 4, { what: "four events" });
    const entries = await stream("bot-1");
    expect(entries.map((entry) => entry.body)).toEqual(bodies);
    expect(entries[0]!.body).toMatch(
      /^\{"v":1,"eventId":"01CALL:1","seq":1,"event":"call","time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z","botId":"bot-1","callId":"01CALL","replyTo":"pb:\{bot-1\}:call:01CALL:commands","caller":"79991112233","called":"74951234567","trunk":"trunk-a","sipCallId":"abc@host","headers":\{"X-From-Trunk":"1"\},"resumed":false\}$/,
    );
    expect(entries[2]!.body).toContain('"transferStatus":{"status":"SUCCESS","hangup":false,"number":"79123456789"}');
    expect(entries.map((entry) => entry.event.seq)).toEqual([1, 2, 3, 4]);
    expect(await raw.ttl("pb.event:{bot-1}:01CALL:1")).toBeGreaterThan(86_000);
  });

  it("count per call from 1 without gaps, also when many calls talk at once", async () => {
    const fixture = await started();
    const calls = Array.from({ length: 50 }, (_, index) => fixture.open(`c${index}`, index % 2 === 0 ? "even" : "odd"));
    for (let round = 0; round < 40; round += 1) for (const call of calls) fixture.say(call, digitEvent("1"));
    await waitFor(() => fixture.link.stats().queued === 0, { what: "the outbox" });
    const events = [...(await stream("even")), ...(await stream("odd"))].map((entry) => entry.event);
    expect(events).toHaveLength(2000);
    for (const call of calls) {
      const seqs = events.filter((event) => event.callId === call).map((event) => event.seq);
      expect(seqs).toEqual(Array.from({ length: 40 }, (_, index) => index + 1));
    }
  });

  it("are trimmed by the configured length", async () => {
    const fixture = await started({ streamMaxLength: 100 });
    const call = fixture.open("t", "bot-1");
    for (let index = 0; index < 1000; index += 1) fixture.say(call, digitEvent("1"));
    await waitFor(() => fixture.link.stats().queued === 0, { what: "the outbox" });
    const events = await stream("bot-1");
    // Redis trims whole nodes of 100 entries.
    expect(events.length).toBeLessThanOrEqual(200);
    expect(events.at(-1)!.event["seq"]).toBe(1000);
  });

  it("of a call are not sent before its commands are heard", async () => {
    const fixture = await started();
    const receivers: number[] = [];
    const probe = new Redis(server.url);
    stack.push(() => probe.disconnect());
    await listener.subscribe("pb:{bot-1}:events");
    listener.on("message", (_channel: string, body: string) => {
      const event: Wire = JSON.parse(body);
      if (event.event === "call")
        void probe.publish(event.replyTo, '{"replies":[]}').then((count) => receivers.push(count));
    });
    for (let index = 0; index < 100; index += 1) fixture.say(fixture.open(`s${index}`, "bot-1"), callEvent);
    await waitFor(() => receivers.length === 100, { what: "100 commands" });
    expect(new Set(receivers)).toEqual(new Set([1]));
  });
});

describe("commands", () => {
  it("are handed to the call and answered with its answer; warnings follow", async () => {
    const fixture = await started();
    await opened(fixture, "c", "bot-1");
    expect(
      await command("bot-1", "c", {
        commandId: "cmd-1",
        replies: [{ type: "switch", phoneNumber: "1", timeout: "x", headers: { Via: "1" } }, { type: "hangup" }],
      }),
    ).toBe(1);
    await answers("bot-1", 1);
    await waitFor(async () => (await stream("bot-1")).length === 5, { what: "the warnings" });
    expect(
      (await stream("bot-1")).slice(1).map(({ event }) => [event.event, event.commandId, event.code, event.pointer]),
    ).toEqual([
      ["accepted", "cmd-1", undefined, undefined],
      ["warning", "cmd-1", "timeout_invalid", "/replies/0/timeout"],
      ["warning", "cmd-1", "header_dropped", "/replies/0/headers/Via"],
      ["warning", "cmd-1", "dropped_after_switch", "/replies/1"],
    ]);
    expect(fixture.posted).toHaveLength(1);
  });

  test.each([
    ["not JSON", "hello", "bad_json", null],
    ["a string", '"x"', "bad_json", null],
    ["too large", `{"a":"${"x".repeat(70_000)}"}`, "too_large", null],
    ["too deep", `{"a":[[[[[[[[1]]]]]]]]}`, "too_large", "/a/0/0/0/0/0/0/0"],
    ["a duplicate key", '{"replies":[],"replies":[]}', "duplicate_key", "/replies"],
    ["no replies", "{}", "invalid_command", "/replies"],
    ["an unknown reply", '{"replies":[{"type":"dance"}]}', "unknown_reply", "/replies/0/type"],
    ["an invalid reply", '{"replies":[{"type":"record","action":"x"}]}', "invalid_reply", "/replies/0/action"],
  ])("that are wrong are rejected here: %s", async (_what, body, code, pointer) => {
    const fixture = await started();
    await opened(fixture, "c", "bot-1");
    await command("bot-1", "c", body);
    const [answer] = await answers("bot-1", 1);
    expect(answer).toMatchObject({ event: "rejected", code, pointer, seq: 2 });
    expect(answer!["message"].length).toBeLessThan(200);
    expect(JSON.stringify(answer)).not.toContain("xxxxxxxxxx");
    expect(fixture.posted).toEqual([]);
  });

  it("with an invalid switch reach the call as such", async () => {
    const fixture = await started();
    await opened(fixture, "c", "bot-1");
    await command("bot-1", "c", {
      commandId: "s",
      replies: [
        { type: "text", text: "x" },
        { type: "switch", sipUri: "x@evil.example" },
      ],
    });
    await waitFor(async () => (await stream("bot-1")).length === 3, { what: "the answers" });
    expect((await stream("bot-1")).slice(1).map((entry) => entry.event)).toMatchObject([
      { event: "rejected", commandId: "s", code: "destination_refused", pointer: "/replies/1/sipUri" },
      { event: "transfer", transferStatus: { status: "FAIL", hangup: false, number: "x@evil.example" } },
    ]);
    expect(fixture.posted.map(({ event }) => event.type)).toEqual(["bot.invalidSwitch"]);
  });

  it("without a commandId get one of their own", async () => {
    const fixture = await started();
    await opened(fixture, "c", "bot-1");
    await command("bot-1", "c", { commandId: "c:c1", replies: [] });
    await command("bot-1", "c", { replies: [] });
    await command("bot-1", "c", { replies: [] });
    expect((await answers("bot-1", 3)).map((answer) => answer["commandId"])).toEqual(["c:c1", "c:c2", "c:c3"]);
  });

  it("that are repeated get the first answer and do nothing", async () => {
    let turn = 0;
    const fixture = await started({
      onCommand: (_call, { commandId }, say) => {
        turn += 1;
        if (turn === 1) say({ event: "rejected", commandId, code: "taken", message: "taken", pointer: null });
        else say({ event: "accepted", commandId });
        return true;
      },
    });
    await opened(fixture, "c", "bot-1");
    for (const commandId of ["a", "a", "b", "b", "a"]) await command("bot-1", "c", { commandId, replies: [] });
    await command("bot-1", "c", { commandId: "bad", replies: 1 });
    await command("bot-1", "c", { commandId: "bad", replies: [] });
    const all = await answers("bot-1", 7);
    expect(all.map((answer) => [answer["commandId"], answer["event"], answer["code"]])).toEqual([
      ["a", "rejected", "taken"],
      ["a", "rejected", "taken"],
      ["b", "accepted", undefined],
      ["b", "accepted", undefined],
      ["a", "rejected", "taken"],
      ["bad", "rejected", "invalid_command"],
      ["bad", "rejected", "invalid_command"],
    ]);
    expect(fixture.posted).toHaveLength(2);
  });

  it("for a call that is over, or that the core does not hold, are answered unknown_call with one text", async () => {
    const fixture = await started({ onCommand: () => false, limits: { afterEndMs: 300 } });
    const call = await opened(fixture, "c", "bot-1");
    await command("bot-1", "c", { commandId: "1", replies: [] });
    await answers("bot-1", 1);
    fixture.say(call, hangupEvent);
    fixture.link.close(call);
    await command("bot-1", "c", { commandId: "2", replies: [] });
    const all = await answers("bot-1", 2);
    expect(all.map((answer) => answer["code"])).toEqual(["unknown_call", "unknown_call"]);
    expect(all[0]!["message"]).toBe(all[1]!["message"]);
    await waitFor(async () => (await command("bot-1", "c", { replies: [] })) === 0, {
      what: "the subscription to end",
    });
    await waitFor(() => fixture.link.stats().calls === 0, { what: "the call to be forgotten" });
    expect(fixture.link.stats()).toMatchObject({ calls: 0, bots: 0, queued: 0 });
  });

  it("over 20 a second of one bot are rate limited, and another bot does not notice", async () => {
    const fixture = await started();
    await opened(fixture, "c", "loud");
    await opened(fixture, "d", "quiet");
    const flood = Array.from({ length: 300 }, (_, index) =>
      command("loud", "c", { commandId: `f${index}`, replies: [] }),
    );
    const before = performance.now();
    await command("quiet", "d", { commandId: "q", replies: [] });
    expect(await answers("quiet", 1)).toMatchObject([{ event: "accepted", commandId: "q" }]);
    expect(performance.now() - before).toBeLessThan(1000);
    await Promise.all(flood);
    const all = await answers("loud", 300);
    expect(new Set(all.map((answer) => answer["commandId"])).size).toBe(300);
    const through = all.filter((answer) => answer["event"] === "accepted").length;
    expect(through).toBeGreaterThanOrEqual(20);
    expect(through).toBeLessThan(60);
    expect(all.filter((answer) => answer["code"] === "rate_limited")).toHaveLength(300 - through);
  });
});

describe("two bots under ACL users as the design says", () => {
  it("reach only their own names, and the binding is the channel's, not the payload's", async () => {
    const fixture = await started();
    for (const bot of ["a", "b"]) {
      await raw.call(
        "ACL",
        "SETUSER",
        `bot-${bot}`,
        "reset",
        "on",
        `>secret-${bot}`,
        "resetchannels",
        `&pb:{${bot}}:*`,
        `~pb:{${bot}}:*`,
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
    }
    stack.push(async () => {
      await raw.call("ACL", "DELUSER", "bot-a", "bot-b");
    });
    const connect = (bot: string): Redis => {
      const connection = new Redis(server.url, {
        username: `bot-${bot}`,
        password: `secret-${bot}`,
        protocol: 2,
        disableClientInfo: true,
        enableReadyCheck: false,
      });
      stack.push(() => connection.disconnect());
      return connection;
    };
    const [a, b] = [connect("a"), connect("b")];
    await opened(fixture, "of-a", "a");
    await opened(fixture, "of-b", "b");

    await expect(b.publish("pb:{a}:call:of-a:commands", '{"replies":[]}')).rejects.toThrow("NOPERM");
    await expect(b.subscribe("pb:{a}:events")).rejects.toThrow("NOPERM");
    await expect(a.xread("STREAMS", "pb:{b}:events", "0")).rejects.toThrow("NOPERM");
    await expect(a.xread("STREAMS", "pb.event:{a}:of-a:1", "0")).rejects.toThrow("NOPERM");
    await expect(a.flushall()).rejects.toThrow("NOPERM");
    expect(await b.publish("pb:{b}:call:of-a:commands", '{"botId":"a","callId":"of-a","replies":[]}')).toBe(0);
    expect(fixture.posted).toEqual([]);

    expect(
      await a.publish("pb:{a}:call:of-a:commands", '{"botId":"b","callId":"of-b","commandId":"x","replies":[]}'),
    ).toBe(1);
    expect(await answers("a", 1)).toMatchObject([{ event: "accepted", callId: "of-a", botId: "a" }]);
    expect(fixture.posted.map(({ call }) => call)).toEqual(["of-a"]);
    expect(await a.xread("STREAMS", "pb:{a}:events", "0")).not.toBeNull();
  });
});

describe("Redis goes away", () => {
  it("kill -9 and restart with its append-only file: no event lost, doubled or out of order, and commands are heard again", async () => {
    await using persistent = await startRedis({ persistent: true });
    const fixture = await linkFixture({ redis: { host: "127.0.0.1", port: persistent.port } });
    stack.push(() => fixture[Symbol.asyncDispose]());
    const reader = new Redis(persistent.url, { maxRetriesPerRequest: null });
    reader.on("error", () => undefined);
    stack.push(() => reader.disconnect());
    const calls = Array.from({ length: 20 }, (_, index) => fixture.open(`k${index}`, "bot-1"));
    let sent = 0;
    const talk = setInterval(() => {
      for (const call of calls) fixture.say(call, digitEvent(String(sent % 10)));
      sent += 1;
    }, 2);
    for (let round = 0; round < 3; round += 1) {
      const before = fixture.link.stats().published;
      await waitFor(() => fixture.link.stats().published > before + 500, { what: "events to flow" });
      await persistent.crash();
      await waitFor(() => !fixture.link.ready(), { what: "the loss to be noticed" });
      const fresh = fixture.open(`during-outage-${round}`, "bot-1");
      fixture.say(fresh, callEvent);
      await persistent.start();
      await waitFor(() => fixture.link.ready(), { timeoutMs: 15_000, what: "the link to be ready again" });
    }
    clearInterval(talk);
    await waitFor(() => fixture.link.stats().queued === 0, { timeoutMs: 15_000, what: "the outbox" });
    const events = (await stream("bot-1", reader)).map((entry) => entry.event);
    const expected = Array.from({ length: sent }, (_, index) => index + 1);
    for (const call of calls) {
      expect(events.filter((event) => event.callId === call).map((event) => event.seq)).toEqual(expected);
    }
    expect(events.filter((event) => event.event === "call").map((event) => event.callId)).toEqual([
      "during-outage-0",
      "during-outage-1",
      "during-outage-2",
    ]);
    expect(await reader.publish("pb:{bot-1}:call:k0:commands", '{"commandId":"again","replies":[]}')).toBe(1);
    await waitFor(() => fixture.posted.length === 1, { what: "the command" });
    expect(fixture.states).toEqual(["ready", "lost", "ready", "lost", "ready", "lost", "ready"]);
    // The answer to that command is on its way to Redis.
    await waitFor(() => fixture.link.stats().queued === 0, { what: "the outbox" });
    expect(fixture.link.stats().dropped).toBe(0);
  });

  it("frozen without a word: the connection is given up, and what it executed late is not doubled", async () => {
    await using frozen = await startRedis();
    const fixture = await linkFixture({
      redis: { host: "127.0.0.1", port: frozen.port },
      limits: { answerMs: 300, pingEveryMs: 200 },
    });
    stack.push(() => fixture[Symbol.asyncDispose]());
    const call = fixture.open("f", "bot-1");
    fixture.say(call, callEvent);
    await waitFor(() => fixture.link.stats().queued === 0, { what: "the first event" });
    await frozen.freeze();
    for (let index = 0; index < 100; index += 1) fixture.say(call, digitEvent("1"));
    await waitFor(() => !fixture.link.ready(), { what: "the stall to be noticed" });
    frozen.unfreeze();
    await waitFor(() => fixture.link.ready() && fixture.link.stats().queued === 0, {
      timeoutMs: 15_000,
      what: "recovery",
    });
    const reader = new Redis(frozen.url);
    stack.push(() => reader.disconnect());
    expect((await stream("bot-1", reader)).map((entry) => entry.event["seq"])).toEqual(
      Array.from({ length: 101 }, (_, index) => index + 1),
    );
  });

  it("a stream Redis refuses holds up that bot only, and goes on when it is mended", async () => {
    const fixture = await started();
    await raw.set("pb:{sick}:events", "not a stream");
    const sick = fixture.open("s", "sick");
    const well = fixture.open("w", "well");
    fixture.say(sick, callEvent);
    fixture.say(well, callEvent);
    await waitFor(async () => (await stream("well")).length === 1, { what: "the other bot's event" });
    await waitFor(() => fixture.link.stats().failures > 0, { what: "the refusal" });
    fixture.say(sick, { event: "answered" });
    await raw.del("pb:{sick}:events");
    await waitFor(async () => (await stream("sick")).length === 2, { what: "the held events" });
    expect((await stream("sick")).map((entry) => entry.event["event"])).toEqual(["call", "answered"]);
    expect(fixture.logged.some((line) => line.startsWith("error Redis refused an event"))).toBe(true);
  });

  it("rights that are missing are told, tried again without haste, and used once they are there", async () => {
    // The rights of the reference page, without those on the command channels.
    await raw.call(
      ...("ACL SETUSER service reset on >s resetchannels &pb:{*}:events ~pb:{*}:events ~pb.event:* -@all".split(
        " ",
      ) as ["ACL"]),
      ..."+eval +exists +xadd +set +publish +subscribe +unsubscribe +ping +info +client|setname".split(" "),
    );
    stack.push(async () => {
      await raw.call("ACL", "DELUSER", "service");
    });
    const fixture = await linkFixture({
      redis: { url: server.url, username: "service", password: "s" },
      limits: { refusedRetryMs: 100 },
    });
    stack.push(() => fixture[Symbol.asyncDispose]());
    const call = fixture.open("c", "bot-1");
    fixture.say(call, callEvent);
    await waitFor(() => fixture.link.stats().failures >= 3, { what: "three refusals" });
    expect(fixture.link.stats().failures).toBeLessThan(10);
    expect(await stream("bot-1")).toEqual([]);
    await raw.call("ACL", "SETUSER", "service", "&pb:{*}:call:*");
    await waitFor(async () => (await stream("bot-1")).length === 1, { what: "the event" });
    await waitFor(() => fixture.link.ready(), { what: "the link to be ready" });
  });

  it("what Redis refuses stands in no log: neither the password nor an event with a caller's number", async () => {
    await using locked = await startRedis({ password: "right" });
    const wrong = await linkFixture({
      redis: { host: "127.0.0.1", port: locked.port, password: "not-the-right-one" },
      startMs: 0,
    });
    stack.push(() => wrong[Symbol.asyncDispose]());
    await waitFor(() => wrong.logged.some((line) => line.includes("WRONGPASS")), { what: "the refused password" });
    expect(wrong.logged.join("\n")).not.toContain("not-the-right-one");

    const fixture = await started();
    await raw.set("pb:{sick}:events", "not a stream");
    fixture.say(fixture.open("s", "sick"), callEvent);
    await waitFor(() => fixture.logged.some((line) => line.includes("WRONGTYPE")), { what: "the refused event" });
    expect(fixture.logged.join("\n")).not.toContain("79991112233");
  });

  it("too many events: the newest are lost, the last ones of a call are not, and the gap shows", async () => {
    await using away = await startRedis();
    const fixture = await linkFixture({
      redis: { host: "127.0.0.1", port: away.port },
      limits: { queuedPerCallMax: 10 },
    });
    stack.push(() => fixture[Symbol.asyncDispose]());
    const call = fixture.open("o", "bot-1");
    await away.crash();
    await waitFor(() => !fixture.link.ready(), { what: "the loss to be noticed" });
    for (let index = 0; index < 15; index += 1) fixture.say(call, digitEvent("1"));
    fixture.say(call, hangupEvent);
    fixture.link.close(call);
    expect(fixture.link.stats()).toMatchObject({ queued: 11, dropped: 5 });
    await away.start();
    await waitFor(() => fixture.link.stats().queued === 0, { timeoutMs: 15_000, what: "the outbox" });
    const reader = new Redis(away.url);
    stack.push(() => reader.disconnect());
    expect((await stream("bot-1", reader)).map((entry) => entry.event["seq"])).toEqual([
      1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 16,
    ]);
  });

  it("not there at the start: start says so, goes on trying, and becomes ready", async () => {
    await using late = await startRedis();
    await late.stop();
    const fixture = await linkFixture({ redis: { host: "127.0.0.1", port: late.port }, startMs: 100 });
    stack.push(() => fixture[Symbol.asyncDispose]());
    expect(fixture.link.ready()).toBe(false);
    const call = fixture.open("early", "bot-1");
    fixture.say(call, callEvent);
    await late.start();
    await waitFor(() => fixture.link.ready(), { timeoutMs: 10_000, what: "the link to be ready" });
    await waitFor(() => fixture.link.stats().queued === 0, { what: "the outbox" });
    expect(fixture.states).toEqual(["ready"]);
  });

  it("shutdown leaves nothing behind", async () => {
    const fixture = await started();
    const call = fixture.open("x", "bot-1");
    fixture.say(call, callEvent);
    fixture.link.close(call);
    await fixture.link.shutdown(2_000);
    await fixture.link.shutdown(2_000);
    expect(await stream("bot-1")).toHaveLength(1);
    expect(fixture.link.stats()).toMatchObject({ calls: 0, bots: 0, timers: 0, queued: 0 });
    fixture.say(call, { event: "accepted", commandId: "z" as CommandId });
  });
});

describe("under the rights that the contract writes down", () => {
  it("works with a user name in the URL and the password beside it, halt and talk included", async () => {
    const page = readFileSync(new URL("../../docs/bot-contract.md", import.meta.url), "utf8");
    const line = /^ACL SETUSER patchbay (.*)$/m.exec(page)?.[1] ?? "";
    await raw.call("ACL", "SETUSER", "patchbay", "reset", ...line.split(" "));
    stack.push(async () => {
      await raw.call("ACL", "DELUSER", "patchbay");
    });
    await raw.call("ACL", "LOG", "RESET");
    const url = `redis://patchbay@127.0.0.1:${server.port}`;
    const fixture = await linkFixture({ redis: { url, password: "secret" }, limits: { ledgerEveryMs: 20 } });
    stack.push(() => fixture[Symbol.asyncDispose]());
    expect(fixture.link.ready()).toBe(true);
    await opened(fixture, "c", "bot-1");
    await raw.set("pb.halt:{bot-1}", "why");
    await waitFor(() => fixture.link.ledger.halted("bot-1"), { what: "the halt" });
    fixture.link.ledger.addTalk("bot-1", 5_000);
    await waitFor(async () => (await raw.keys("pb.talk:*")).length === 1, { what: "the talk" });
    expect(await raw.call("ACL", "LOG")).toEqual([]);
    expect(fixture.logged.filter((text) => text.startsWith("error"))).toEqual([]);
  });

  it("tells in the log when Redis refuses to say whether a bot is halted", async () => {
    await raw.call("ACL", "SETUSER", "narrow", ..."reset on >s resetchannels &pb:* ~pb:* ~pb.* +@all -mget".split(" "));
    stack.push(async () => {
      await raw.call("ACL", "DELUSER", "narrow");
    });
    const url = `redis://narrow@127.0.0.1:${server.port}`;
    const fixture = await linkFixture({ redis: { url, password: "s" }, limits: { ledgerEveryMs: 20 } });
    stack.push(() => fixture[Symbol.asyncDispose]());
    await opened(fixture, "c", "bot-1");
    await waitFor(() => fixture.logged.some((text) => /^error .*halted/.test(text)), { what: "the line" });
  });
});

describe("what is kept about a bot", () => {
  const day = (): string => new Date().toISOString().slice(0, 10);

  it("a halt is known soon after it is set, and soon after it is gone", async () => {
    const fixture = await started({ limits: { ledgerEveryMs: 20 } });
    await opened(fixture, "c", "bot-1");
    expect(fixture.link.ledger.halted("bot-1")).toBe(false);
    await raw.set("pb.halt:{bot-1}", "");
    await waitFor(() => fixture.link.ledger.halted("bot-1"), { what: "the halt" });
    expect(fixture.link.ledger.halted("bot-2")).toBe(false);
    await raw.del("pb.halt:{bot-1}");
    await waitFor(() => !fixture.link.ledger.halted("bot-1"), { what: "its end" });
  });

  it("talk of all instances is added up, also what came while Redis was away, and at the shutdown", async () => {
    const first = await started({ limits: { ledgerEveryMs: 20 } });
    const second = await started({ limits: { ledgerEveryMs: 20 } });
    await opened(first, "c1", "bot-1");
    await opened(second, "c2", "bot-1");
    first.link.ledger.addTalk("bot-1", 61_000);
    second.link.ledger.addTalk("bot-1", 1_000);
    await waitFor(
      () => first.link.ledger.talkedMs("bot-1") === 62_000 && second.link.ledger.talkedMs("bot-1") === 62_000,
      { what: "the sum" },
    );
    const key = `pb.talk:{bot-1}:${day()}`;
    expect(await raw.ttl(key)).toBeGreaterThan(86_400);
    await server.stop();
    first.link.ledger.addTalk("bot-1", 500);
    expect(first.link.ledger.talkedMs("bot-1")).toBe(62_500);
    await server.start();
    await waitFor(() => first.link.ready() && second.link.ready(), { timeoutMs: 20_000, what: "Redis" });
    second.link.ledger.addTalk("bot-1", 250);
    await first.link.shutdown(2_000);
    await second.link.shutdown(2_000);
    await waitFor(() => raw.status === "ready", { timeoutMs: 20_000, what: "our own connection" });
    expect(Number(await raw.get(key))).toBeGreaterThanOrEqual(750);
  });
});
