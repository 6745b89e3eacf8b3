// A call while the Redis master behind Sentinels is killed: nobody on the telephone notices.
import { expect, test } from "vitest";
import { pitches } from "../support/pitch.ts";
import { masterName, WatchedRedis } from "../support/sentinel.ts";
import { waitFor } from "../support/wait.ts";
import { RawBot } from "./raw-bot.ts";
import { operatorNumber, Stage } from "./stage.ts";

test("the master dies while caller and operator talk: they talk on, and the bot has the caller again on the new one", async () => {
  await using watched = await WatchedRedis.start();
  await using stage = await Stage.start({
    change: (config) =>
      Object.assign(config, { redis: { sentinel: { name: masterName, nodes: [...watched.sentinels] } } }),
    // Longer than the fail-over: what the bot's channel would do without a bot is another test's.
    channel: { botTimeoutMs: 60_000 },
  });
  await using bot = await RawBot.connect(watched.first.port, "bot-a");
  const caller = await stage.phone();
  const leg = await caller.dial(stage.uri());
  const call = await bot.callOf(leg.callId);
  await leg.established;
  await call.event("answered");
  await call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: true });
  const operator = await stage.incoming();
  await call.progress("bridged");
  await leg.media.hears(pitches.operator);
  await watched.replicated();
  const before = bot.events.length;

  const ready = async (): Promise<boolean> => {
    const page = await fetch(`http://127.0.0.1:${stage.app.adminPort}/readyz`);
    return page.ok;
  };
  await watched.first.crash();
  await waitFor(async () => !(await ready()), { what: "the loss to show", timeoutMs: 10_000 });
  await leg.media.hears(pitches.operator);
  await operator.media.hears(pitches.caller);
  // He hangs up while there is no Redis at all.
  await operator.hangUp();
  await watched.failedOver();
  await waitFor(ready, { what: "the new master", timeoutMs: 30_000 });
  expect(leg.phase).toBe("established");
  expect(leg.reInvites).toEqual([]);

  await using later = await RawBot.connect(watched.second.port, "bot-a");
  const told = async (): Promise<readonly string[]> =>
    (await later.stream()).map((raw) => (JSON.parse(raw) as { event: string }).event);
  await waitFor(async () => (await told()).includes("transfer"), {
    what: "the end of the transfer",
    timeoutMs: 10_000,
  });
  const replies = [{ type: "audio", audioUrl: stage.prompts.long }];
  const command = JSON.stringify({ replies });
  await waitFor(async () => (await later.redis.command("PUBLISH", call.replyTo, command)) === 1, {
    what: "somebody who hears the command",
  });
  await leg.media.hears(pitches.bot);
  await leg.hangUp();
  await waitFor(async () => (await told()).at(-1) === "hangup", { what: "the end of the call", timeoutMs: 10_000 });
  const events = (await later.stream()).map((raw) => JSON.parse(raw) as { seq: number; callId: string });
  // None is missing, none is there twice, also of those before the crash.
  expect(events.map(({ seq }) => seq)).toEqual(events.map((_event, index) => index + 1));
  expect(events.length).toBeGreaterThan(before);
});
