import { createSocket } from "node:dgram";
import { createServer } from "node:http";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { PlayId } from "../../src/call/ids.ts";
import { nowMs } from "../support/clock.ts";
import { pitches } from "../support/pitch.ts";
import { startRedis } from "../support/redis.ts";
import { delay, waitFor } from "../support/wait.ts";
import { expectAtRest, sdpOf, startStage, writeTone } from "./media-support.ts";

describe("telephone events", () => {
  test("a caller without them and an operator with another codec hear each other", async () => {
    await using stage = await startStage();
    const call = stage.call();
    const [caller, operator] = await stage.phones();
    await call.open(caller, { eventType: null });
    expect((await call.event("media.opened")).answer).not.toContain("telephone-event");
    caller.sendTone(pitches.caller);
    const play = call.play(stage.botPrompt(0.3));
    expect(await call.played(play)).toMatchObject({ result: "completed" });
    operator.connect("127.0.0.1", await call.offer("operator-1"), "PCMA");
    operator.sendTone(pitches.operator);
    expect((await call.event("media.offered")).offer).not.toContain("telephone-event");
    await call.join("operator-1", operator, { codecs: ["PCMA"], eventType: null });
    await caller.hears(pitches.operator);
    await operator.hears(pitches.caller);
    await call.close();
    await expectAtRest(stage);
  });

  test("an operator without them gets the caller's keys as sound, and the bot as events", async () => {
    await using stage = await startStage();
    const call = stage.call();
    const [caller, operator] = await stage.phones();
    await call.open(caller);
    caller.sendTone(pitches.caller);
    operator.connect("127.0.0.1", await call.offer("operator-1"), "PCMU");
    operator.sendTone(pitches.operator);
    await call.join("operator-1", operator, { eventType: null });
    await operator.hears(pitches.caller);
    const pressedAt = nowMs();
    caller.pressDigits("8", { durationMs: 300 });
    expect(await call.event("media.digit")).toMatchObject({ digit: "8", leg: call.caller });
    const heard = await operator.capture(pressedAt);
    expect(heard.payloadTypes).toEqual([0]);
    await call.close();
    await expectAtRest(stage);
  });

  test("a payload type of the caller's own is used on both sides", async () => {
    await using stage = await startStage();
    const call = stage.call();
    const [caller, operator] = await stage.phones();
    await call.open(caller, { eventType: 97, codecs: ["PCMA"] });
    caller.pressDigits("3");
    expect(await call.event("media.digit")).toMatchObject({ digit: "3" });
    operator.connect("127.0.0.1", await call.offer("operator-1"), "PCMU", 97);
    expect((await call.event("media.offered")).offer).toContain("a=rtpmap:97 telephone-event/8000");
    await call.join("operator-1", operator, { eventType: 97 });
    operator.sendTone(pitches.operator);
    await caller.hears(pitches.operator);
    caller.pressDigits("4");
    await waitFor(async () => (await operator.capture()).digits(97).some(({ digit }) => digit === "4"), {
      what: "the operator to receive the key",
    });
    await call.close();
    await expectAtRest(stage);
  });
});

describe("prompts", () => {
  test("speech of espeak-ng is heard, and made only once", async () => {
    await using stage = await startStage({
      speech: {
        kind: "command",
        command: ["espeak-ng", "-v", "{lang}", "-w", "{out}", "--stdin"],
        lang: "en",
        voice: "",
        timeoutMs: 10_000,
        mostAtOnce: 2,
      },
    });
    const call = stage.call();
    const caller = await stage.phone();
    await call.open(caller);
    const say = (name: string, text: string): PlayId => {
      const play = name as PlayId;
      stage.anchor.play(call.id, play, call.caller, { kind: "text", text, lang: null, voice: null });
      return play;
    };
    const from = nowMs();
    expect(await call.played(say("one", "Please hold the line."), 15_000)).toMatchObject({ result: "completed" });
    const heard = (await caller.capture(from)).level;
    expect(heard).toBeGreaterThan(200);
    const before = nowMs();
    await call.played(say("two", "Please hold the line."));
    expect(nowMs() - before).toBeLessThan(3_000);
    const bad = "three" as PlayId;
    stage.anchor.play(call.id, bad, call.caller, { kind: "text", text: "x", lang: "-x", voice: null });
    expect(await call.played(bad)).toMatchObject({ result: "failed", reason: "bad_lang" });
    await call.close();
    await expectAtRest(stage);
  });

  test("without text-to-speech a text says so", async () => {
    await using stage = await startStage();
    const call = stage.call();
    await call.open(await stage.phone());
    const play = "one" as PlayId;
    stage.anchor.play(call.id, play, call.caller, { kind: "text", text: "hello", lang: null, voice: null });
    expect(await call.played(play)).toMatchObject({ result: "failed", reason: "no_tts" });
    await call.close();
  });

  test("a prompt from a web server is heard; a slow one is given up and the next one plays meanwhile", async () => {
    await using stage = await startStage();
    const file = writeTone(join(stage.folder, "web.wav"), pitches.bot, 1, 44_100);
    const server = createServer((request, response) => {
      if (request.url === "/web.wav") response.end(readFileSync(file));
    });
    await new Promise<void>((resolve) => {
      server.listen(0, "127.0.0.1", resolve);
    });
    const address = server.address();
    const port = typeof address === "object" ? address?.port : 0;
    try {
      const [slow, quick] = [stage.call(), stage.call()];
      const [one, two] = await stage.phones();
      await slow.open(one);
      await quick.open(two);
      const waiting = slow.play(`http://127.0.0.1:${port}/never.wav`);
      const play = quick.play(`http://127.0.0.1:${port}/web.wav`);
      await two.hears(pitches.bot);
      expect(await quick.played(play)).toMatchObject({ result: "completed" });
      expect(slow.all("media.played")).toEqual([]);
      expect(await slow.played(waiting)).toMatchObject({ result: "failed", reason: "fetch_timeout" });
      await Promise.all([slow.close(), quick.close()]);
      await expectAtRest(stage);
    } finally {
      server.closeAllConnections();
      server.close();
    }
  });
});

describe("rtpengine in trouble", () => {
  test("a short stall is bridged by one repetition; late replies disturb nobody", async () => {
    await using stage = await startStage();
    const call = stage.call();
    const caller = await stage.phone();
    await call.open(caller);
    stage.server.freeze();
    stage.anchor.offer(call.id, call.leg("operator-1"));
    await delay(700);
    stage.server.unfreeze();
    await call.event("media.offered");
    await waitFor(() => stage.anchor.stats().strayReplies > 0, { what: "the late reply" });
    expect(await call.played(call.play(stage.botPrompt(0.3)))).toMatchObject({ result: "completed" });
    await call.close();
    await expectAtRest(stage);
  });

  test("a restart that keeps its calls (Redis) keeps them here too, and the prompt plays again", async () => {
    await using redis = await startRedis();
    await using stage = await startStage(
      { commandTimeoutMs: 300, pingMs: 200 },
      { redis: { port: redis.port, database: 0 } },
    );
    const call = stage.call();
    const caller = await stage.phone();
    const port = await call.open(caller);
    caller.sendTone(pitches.caller);
    const play = call.play(stage.botPrompt(5));
    await caller.hears(pitches.bot);
    await stage.server.crash();
    await waitFor(() => !stage.anchor.ready(), { what: "the outage to be noticed" });
    await stage.server.start();
    await caller.hears(pitches.bot);
    expect(await call.played(play, 15_000)).toMatchObject({ result: "completed" });
    expect(call.all("media.lost")).toEqual([]);
    expect((await caller.capture()).sources).toEqual([`127.0.0.1:${port}`]);
    await call.close();
    await expectAtRest(stage);
  });

  test("a newer rtpengine, which refuses to block a leg before its answer, is no obstacle", async () => {
    await using real = await startStage();
    await using newer = await startBlockRefusal(real.server.ngPort);
    await using stage = await startStage({
      instances: [{ host: "127.0.0.1", port: newer.port }],
      recording: null,
    });
    const call = stage.call();
    const [caller, operator] = await stage.phones();
    await call.open(caller);
    operator.connect("127.0.0.1", await call.offer("operator-1"), "PCMU");
    expect(newer.refused).toBe(1);
    await call.join("operator-1", operator);
    operator.sendTone(pitches.operator);
    await caller.hears(pitches.operator);
    await call.close();
  });

  test("the second of two instances takes the calls when the first is away", async () => {
    await using other = await startStage();
    await using stage = await startStage({
      instances: [
        { host: "127.0.0.1", port: 1 },
        { host: "127.0.0.1", port: other.server.ngPort },
      ],
      recording: null,
    });
    expect(stage.anchor.ready()).toBe(true);
    const call = stage.call();
    await call.open(await stage.phone());
    expect(await other.server.calls()).toHaveLength(1);
    stage.anchor.recording(call.id, "start");
    expect(await call.event("recording.changed")).toMatchObject({ state: "failed", reason: "not_configured" });
    await call.close();
    expect(await other.server.calls()).toEqual([]);
  });

  test("stopping the service ends its calls and leaves nothing behind", async () => {
    await using stage = await startStage();
    const calls = [stage.call(), stage.call()];
    for (const call of calls) {
      const phone = await stage.phone();
      await call.open(phone);
      phone.sendTone(pitches.caller);
      stage.anchor.recording(call.id, "start");
      await call.event("recording.changed");
    }
    await delay(300);
    await stage.anchor[Symbol.asyncDispose]();
    for (const call of calls) {
      expect(call.all("recording.changed").map(({ state }) => state)).toEqual(["started", "finished"]);
      expect(call.events.at(-1)?.type).toBe("media.closed");
    }
    expect(await stage.server.calls()).toEqual([]);
    expect(stage.spool()).toEqual([]);
    const late = stage.call();
    stage.anchor.open(late.id, late.caller, sdpOf(await stage.phone()), { botId: "b", caller: "1", called: "2" });
    expect(await late.event("media.openFailed")).toMatchObject({ incompatible: false });
  });
});

/** Between a service and its rtpengine: answers `block media` as versions from 12.4 on do for a leg without an answer. */
async function startBlockRefusal(
  rtpenginePort: number,
): Promise<AsyncDisposable & { readonly port: number; readonly refused: number }> {
  const front = createSocket("udp4");
  const back = createSocket("udp4");
  let refused = 0;
  let service: { readonly port: number; readonly address: string } | undefined;
  back.on("message", (bytes) => {
    if (service !== undefined) front.send(bytes, service.port, service.address);
  });
  front.on("message", (bytes, peer) => {
    service = peer;
    if (!bytes.includes("7:command11:block media")) return back.send(bytes, rtpenginePort, "127.0.0.1");
    refused += 1;
    const reason = "From-tag given, but no such tag exists";
    const cookie = bytes.toString("latin1").split(" ", 1)[0] ?? "";
    front.send(`${cookie} d12:error-reason${reason.length}:${reason}6:result5:errore`, peer.port, peer.address);
    return undefined;
  });
  await new Promise<void>((resolve) => {
    front.bind(0, "127.0.0.1", resolve);
  });
  return {
    port: front.address().port,
    get refused() {
      return refused;
    },
    async [Symbol.asyncDispose]() {
      await Promise.all([front, back].map((socket) => new Promise<void>((resolve) => socket.close(() => resolve()))));
    },
  };
}
