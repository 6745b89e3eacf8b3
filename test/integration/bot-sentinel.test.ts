// The bot link behind real Sentinels: it finds the master, and follows it.
import { Redis } from "ioredis";
import { describe, expect, test } from "vitest";
import type { RedisAddress } from "../../src/bot/link.ts";
import { connectBot } from "../../src/client/index.ts";
import type { BotCall } from "../../src/client/index.ts";
import { RedisServer } from "../support/redis.ts";
import { masterName, WatchedRedis } from "../support/sentinel.ts";
import { waitFor } from "../support/wait.ts";
import { callEvent, digitEvent, hangupEvent, linkFixture } from "./bot-fixture.ts";

const sentinelPassword = "three wise men".replaceAll(" ", "-");

function address(watched: WatchedRedis, changes: Partial<NonNullable<RedisAddress["sentinel"]>> = {}): RedisAddress {
  const sentinel = { name: masterName, nodes: watched.sentinels, password: sentinelPassword, tls: false, ...changes };
  return { url: "redis://unused.invalid:1", sentinel };
}

/** The events of a bot's stream, by their numbers. */
async function seqs(port: number, botId: string): Promise<readonly number[]> {
  const redis = new Redis(port, "127.0.0.1");
  try {
    const entries = await redis.xrange(`pb:{${botId}}:events`, "-", "+");
    return entries.map(([, fields]) => (JSON.parse(fields[1] ?? "{}") as { seq: number }).seq);
  } finally {
    redis.disconnect();
  }
}

async function commandTo(port: number, botId: string, call: string, commandId: string): Promise<number> {
  const redis = new Redis(port, "127.0.0.1");
  try {
    const channel = `pb:{${botId}}:call:${call}:commands`;
    return await redis.publish(channel, JSON.stringify({ commandId, replies: [{ type: "stop" }] }));
  } finally {
    redis.disconnect();
  }
}

describe("with three Sentinels", () => {
  test("the master crashes: events wait and come to the new one in order, commands are heard there", async () => {
    await using watched = await WatchedRedis.start({ sentinelPassword });
    await using fixture = await linkFixture({ redis: address(watched) });
    expect(fixture.states).toEqual(["ready"]);
    const call = fixture.open("call-1", "bot");
    fixture.say(call, callEvent);
    await waitFor(() => fixture.link.stats().queued === 0, { what: "the first event", timeoutMs: 10_000 });
    await watched.replicated();
    await watched.first.crash();
    await waitFor(() => fixture.states.at(-1) === "lost", { what: "the loss" });
    for (const digit of ["1", "2", "3"]) fixture.say(call, digitEvent(digit));
    expect(fixture.link.lagMs()).toBeGreaterThanOrEqual(0);
    await watched.failedOver();
    await waitFor(() => fixture.link.ready() && fixture.link.stats().queued === 0, {
      what: "the new master",
      timeoutMs: 20_000,
    });
    expect(await seqs(watched.second.port, "bot")).toEqual([1, 2, 3, 4]);
    expect(await commandTo(watched.second.port, "bot", "call-1", "c")).toBe(1);
    await waitFor(() => fixture.posted.some(({ event }) => event.type === "bot.command"), { what: "the command" });

    // The old one comes back, as a replica: nobody is led there.
    await watched.first.start();
    fixture.say(call, hangupEvent);
    await waitFor(() => fixture.link.stats().queued === 0, { what: "the last event", timeoutMs: 10_000 });
    expect((await seqs(watched.second.port, "bot")).at(-1)).toBe(6);
  });

  test("the master crashes: a bot on patchbay/client reads on at the new one, and is heard there", async () => {
    await using watched = await WatchedRedis.start({ sentinelPassword });
    const redis = address(watched);
    await using fixture = await linkFixture({ redis });
    const { sentinel, url = "" } = redis;
    if (sentinel === undefined) throw new Error("no Sentinels");
    await using bot = connectBot({ redis: { url, sentinel }, botId: "bot" });
    bot.on("error", () => undefined);
    const keys: string[] = [];
    const taken: BotCall[] = [];
    bot.onCall(async (call) => {
      taken.push(call);
      call.on("dtmf", ({ digit }) => keys.push(digit));
      await call.ended;
    });
    await bot.ready;
    const call = fixture.open("call-1", "bot");
    fixture.say(call, callEvent);
    await waitFor(() => taken.length === 1 && fixture.link.stats().queued === 0, {
      what: "the bot",
      timeoutMs: 10_000,
    });
    await watched.replicated();
    await watched.first.crash();
    await waitFor(() => fixture.states.at(-1) === "lost", { what: "the loss" });
    for (const digit of ["1", "2", "3"]) fixture.say(call, digitEvent(digit));
    await watched.failedOver();
    await waitFor(() => keys.length >= 3, { what: "the keys", timeoutMs: 20_000 });
    expect(keys).toEqual(["1", "2", "3"]);
    // It is heard as soon as both are there again; until then it says so to its caller.
    await waitFor(async () => taken[0]?.stop().then(() => true), { what: "a command", timeoutMs: 20_000 });
    fixture.say(call, hangupEvent);
    expect((await taken[0]?.ended)?.by).toBe("caller");
  });

  test("the master stands still, with its connections open: it is left for the new one", async () => {
    await using watched = await WatchedRedis.start({ sentinelPassword });
    // Nothing but the Sentinels' word could tell so soon: no PING is sent and no answer given up for minutes.
    const limits = { pingEveryMs: 600_000, answerMs: 600_000 };
    await using fixture = await linkFixture({ redis: address(watched), limits });
    const call = fixture.open("call-1", "bot");
    fixture.say(call, callEvent);
    await waitFor(() => fixture.link.stats().queued === 0, { what: "the first event", timeoutMs: 10_000 });
    await watched.replicated();
    await watched.first.freeze();
    fixture.say(call, digitEvent("1"));
    await watched.failedOver();
    await waitFor(() => fixture.link.ready() && fixture.link.stats().queued === 0, {
      what: "the new master",
      timeoutMs: 20_000,
    });
    expect(await seqs(watched.second.port, "bot")).toEqual([1, 2]);
    watched.first.unfreeze();
  });

  test("a fail-over that was asked for, with one Sentinel gone: the link follows", async () => {
    await using watched = await WatchedRedis.start({ sentinelPassword });
    await watched.crashSentinel(0);
    await using fixture = await linkFixture({ redis: address(watched) });
    expect(fixture.states).toEqual(["ready"]);
    const call = fixture.open("call-1", "bot");
    fixture.say(call, callEvent);
    await waitFor(() => fixture.link.stats().queued === 0, { what: "the first event", timeoutMs: 10_000 });
    await watched.replicated();
    await watched.switchOver(1);
    await waitFor(() => fixture.states.length >= 3 && fixture.link.ready(), { what: "the switch", timeoutMs: 30_000 });
    fixture.say(call, digitEvent("1"));
    await waitFor(() => fixture.link.stats().queued === 0, { what: "the event", timeoutMs: 10_000 });
    expect(await seqs(watched.second.port, "bot")).toEqual([1, 2]);
  });

  test.each([
    ["a wrong name", { name: "nobody" }],
    ["a wrong password", { password: "wrong" }],
  ])("%s: not ready, said in the log, no password in it, and closed at once", async (_what, changes) => {
    await using watched = await WatchedRedis.start({ sentinelPassword });
    const fixture = await linkFixture({ redis: address(watched, changes), startMs: 1_500 });
    expect(fixture.link.ready()).toBe(false);
    expect(fixture.logged.join("\n")).toContain("warn the connection to Redis failed");
    expect(fixture.logged.join("\n")).not.toMatch(/wise|wrong/);
    await fixture[Symbol.asyncDispose]();
  });
});

test("a node of a cluster is not used, and the log says why", async () => {
  await using redis = await RedisServer.start({ args: ["--cluster-enabled", "yes"] });
  await using fixture = await linkFixture({ redis: { url: redis.url }, startMs: 1_000 });
  expect(fixture.link.ready()).toBe(false);
  expect(fixture.logged.join("\n")).toContain("this Redis is a node of a cluster, which is not supported");
});
