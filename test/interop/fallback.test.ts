// A caller is never left in silence: the bot is not there, goes silent, or cannot be reached because Redis is away.
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { describe, expect, test } from "vitest";
import { pitches } from "../support/pitch.ts";
import { waitFor } from "../support/wait.ts";
import { RawBot } from "../integration/raw-bot.ts";
import { operatorNumber, sharedStage, Stage, type StageOptions } from "../integration/stage.ts";

const withFallback = (fallback: object, channel: object = {}, prompt = true): StageOptions => ({
  channel: { botTimeoutMs: 700, botSilenceMs: 1_000, ...channel },
  change: ({ channels: [first] }, folder) => {
    const audioUrl = pathToFileURL(join(folder, "prompts", "short.wav")).href;
    Object.assign(first!, { fallback: { ...(prompt ? { audioUrl } : {}), ...fallback } });
  },
});

describe("a fallback with a prompt and an operator", () => {
  const stage = sharedStage(withFallback({ phoneNumber: operatorNumber }));

  test("no bot says a word: prompt, ringback, operator; the bot is told all of it", async () => {
    const { leg, call } = await stage().talk();
    await leg.media.hears(pitches.bot);
    const operator = await stage().incoming();
    await leg.media.hears(pitches.operator);
    await operator.hangUp();
    expect(await leg.ended).toMatchObject({ by: "peer", how: "BYE" });
    expect((await call.event("warning")).body).toMatchObject({ code: "fallback", commandId: null });
    const { status } = await call.transfer();
    expect(status).toEqual({ status: "SUCCESS", hangup: true, number: operatorNumber });
    expect(leg.reInvites).toEqual([]);
  });

  test("a bot that speaks is left alone; when it falls silent the operator is called", async () => {
    const { leg, call } = await stage().talk();
    await call.play(stage().prompts.second);
    expect(call.all("warning")).toEqual([]);
    await stage().incoming();
    await leg.media.hears(pitches.operator);
    const late = await call.command([{ type: "audio", audioUrl: stage().prompts.short }]);
    expect(late.body).toMatchObject({ event: "rejected", code: "fallback" });
    await leg.hangUp();
  });

  test("the caller is back from his operator and the bot says nothing: the fallback, not silence", async () => {
    const { leg, call } = await stage().talk();
    await call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: true });
    const first = await stage().incoming();
    await call.progress("bridged");
    await first.hangUp();
    await call.transfer();
    await stage().incoming(stage().operator, 1);
    await leg.media.hears(pitches.operator);
    await leg.hangUp();
  });

  test("the operator is busy: the caller is hung up on, not kept", async () => {
    stage().operator.answering = { type: "reject", status: 486 };
    const { leg, call } = await stage().talk();
    expect(await leg.ended).toMatchObject({ by: "peer", how: "BYE" });
    expect((await call.transfer()).details.cause).toBe("busy");
    expect((await call.event("hangup")).body).toMatchObject({ by: "operator" });
    const metrics = await (await fetch(`http://127.0.0.1:${stage().app.adminPort}/metrics`)).text();
    expect(metrics).toMatch(/^patchbay_fallbacks_total [1-9]/m);
  });
});

describe("without an operator", () => {
  const stage = sharedStage(withFallback({}));

  test("the prompt, then BYE", async () => {
    const { leg, call } = await stage().talk();
    await leg.media.hears(pitches.bot);
    expect(await leg.ended).toMatchObject({ by: "peer", how: "BYE" });
    expect((await call.event("hangup")).body).toMatchObject({ by: "service", reason: "no word from the bot" });
  });
});

describe("without a fallback", () => {
  const stage = sharedStage({ channel: { botTimeoutMs: 700 } });

  test("the caller of a dead bot is hung up on", async () => {
    const { leg } = await stage().talk();
    expect(await leg.ended).toMatchObject({ by: "peer", how: "BYE" });
  });
});

describe("a channel that rings until the bot's first command", () => {
  const stage = sharedStage({ channel: { botTimeoutMs: 700, answer: "on-command" } });

  test("a dead bot: 480", async () => {
    const caller = await stage().phone();
    const leg = await caller.dial(stage().uri());
    expect(await leg.ended).toMatchObject({ status: 480 });
  });
});

test("Redis is away: a new call is taken and gets prompt and operator; afterwards the bot is told", async () => {
  await using stage = await Stage.start(withFallback({ phoneNumber: operatorNumber }, { botTimeoutMs: 30_000 }));
  await stage.redis.crash();
  const ready = async (): Promise<string> => (await fetch(`http://127.0.0.1:${stage.app.adminPort}/readyz`)).text();
  await waitFor(async () => (await ready()).includes('"redis":false'), { what: "the loss of Redis" });
  const caller = await stage.phone();
  const leg = await caller.dial(stage.uri());
  await leg.established;
  await leg.media.hears(pitches.bot);
  const operator = await stage.incoming();
  await leg.media.hears(pitches.operator);
  await operator.hangUp();
  expect(await leg.ended).toMatchObject({ by: "peer", how: "BYE" });
  await stage.redis.start();
  await waitFor(() => stage.app.stats().bot.queued === 0, { what: "all events in Redis", timeoutMs: 8_000 });
  await using later = await RawBot.connect(stage.redis.port, "bot-a");
  const told = (await later.stream()).map((raw) => JSON.parse(raw) as { event: string; code?: string });
  const story = told.filter(({ event }) => ["call", "warning", "transfer", "hangup"].includes(event));
  expect(story.map(({ event }) => event)).toEqual(["call", "warning", "transfer", "hangup"]);
});

test("Redis dies while the caller waits for the bot: the fallback does not wait for the longest silence", async () => {
  await using stage = await Stage.start(
    withFallback({ phoneNumber: operatorNumber }, { botTimeoutMs: 1_000, botSilenceMs: 600_000 }, false),
  );
  const { leg, call } = await stage.talk();
  await call.run({ type: "record", action: "stop" });
  await stage.redis.crash();
  await stage.incoming();
  await leg.media.hears(pitches.operator);
  await leg.hangUp();
});
