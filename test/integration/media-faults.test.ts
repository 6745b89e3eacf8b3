import { describe, expect, test } from "vitest";
import { nowMs } from "../support/clock.ts";
import { NgFront } from "../support/ng-front.ts";
import { pitches } from "../support/pitch.ts";
import { startRedis } from "../support/redis.ts";
import { delay, waitFor } from "../support/wait.ts";
import { aroundGap, finished, heard } from "./recording-contract.ts";
import { expectAtRest, portIn, sdpOf, startStage, talk } from "./media-support.ts";

describe("telephone events", () => {
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
});

describe("rtpengine in trouble", () => {
  test("a short stall is bridged by one repetition; late replies disturb nobody", async () => {
    await using stage = await startStage();
    const call = stage.call();
    const caller = await stage.phone();
    await call.open(caller);
    await stage.server.freeze();
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
    await using newer = await NgFront.start();
    newer.standBefore(real.server.ngPort);
    // As versions from 12.4 on do for a leg without an answer.
    newer.refuses = (command) =>
      command.includes("7:command11:block media") ? "From-tag given, but no such tag exists" : undefined;
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
});

test("an operator who held the caller with music leaves, though rtpengine refuses to shut him out first", async () => {
  await using real = await startStage();
  await using front = await NgFront.start();
  front.standBefore(real.server.ngPort);
  await using stage = await startStage({ instances: [{ host: "127.0.0.1", port: front.port }], recording: null });
  const { call, caller, operator } = await talk(stage);
  await caller.hears(pitches.operator);
  await call.update(call.leg("operator-1"), sdpOf(operator, { direction: "sendonly", version: 2 }));
  await caller.hears(pitches.operator);
  front.refuses = (command) => (command.includes("7:command11:block media") ? "refused by the test" : undefined);
  call.drop("operator-1");
  await waitFor(() => front.refused > 0, { what: "a refusal" });
  // No music on hold either.
  await caller.hears([]);
  front.refuses = () => undefined;
  // Nothing is left of him: else the leg could not be offered again.
  stage.anchor.offer(call.id, call.leg("operator-1"));
  await call.event("media.offered", 1);
  await call.close();
  await expectAtRest(stage);
});

describe("a call moves while somebody is on his way to a place in it", () => {
  test("he was answered before: he is told when he has it; who is answered behind it is told nothing", async () => {
    await using stage = await startStage();
    const { call, caller, operator, other: taker } = await talk(stage);
    const [callerLeg, operatorLeg] = [call.caller, call.leg("operator-1")];
    const offer = sdpOf(taker, { codecs: ["PCMU"] });
    for (const leg of [callerLeg, operatorLeg]) expect((await call.propose(leg, offer)).type).toBe("media.updated");
    await stage.server.crash();
    await stage.server.start();
    const [toCaller] = await Promise.all([0, 1].map((index) => call.event("media.moved", index, 15_000)));
    caller.connect("127.0.0.1", portIn(toCaller?.offer ?? ""), "PCMU", 101);
    // Who was there before has followed.
    stage.anchor.renew(call.id, callerLeg, sdpOf(caller, { version: 2 }), false);
    stage.anchor.renew(call.id, operatorLeg, sdpOf(operator, { version: 2 }), false);
    operator.pause();
    stage.anchor.renew(call.id, operatorLeg, offer, true);
    const toTaker = await call.event("media.moved", 2);
    expect(toTaker.leg).toBe(operatorLeg);
    taker.connect("127.0.0.1", portIn(toTaker.offer), "PCMU", 101);
    taker.sendTone(pitches.operator2);
    stage.anchor.renew(call.id, operatorLeg, sdpOf(taker, { codecs: ["PCMU"], version: 2 }), false);
    await caller.hears(pitches.operator2);
    await taker.hears(pitches.caller);
    expect((await call.propose(operatorLeg, offer)).type).toBe("media.updated");
    stage.anchor.renew(call.id, operatorLeg, offer, true);
    stage.anchor.renew(call.id, callerLeg, offer, true);
    expect(await call.event("media.moved", 3)).toMatchObject({ leg: callerLeg });
    await call.close();
    expect(call.all("media.moved")).toHaveLength(4);
    await expectAtRest(stage);
  });
});

describe("a call whose rtpengine is gone for good", () => {
  test("moves to another one, with its recording, though that one has a spool of its own", async () => {
    await using other = await startStage();
    const second = { host: "127.0.0.1", port: other.server.ngPort, spoolFolder: other.server.recordingFolder };
    await using stage = await startStage(({ instances }) => ({
      instances: [...instances, second],
      lostAfterMs: 2_000,
    }));
    const call = stage.call();
    const [caller, operator] = await stage.phones();
    await call.open(caller);
    expect(await stage.server.calls()).toHaveLength(1);
    caller.sendTone(pitches.caller);
    operator.connect("127.0.0.1", await call.offer("operator-1"), "PCMU");
    await call.join("operator-1", operator);
    operator.sendTone(pitches.operator);
    stage.anchor.recording(call.id, "start");
    await call.event("recording.changed");
    await Promise.all([caller.hears(pitches.operator), operator.hears(pitches.caller)]);
    await delay(1_000);
    await stage.server.crash();
    const told = await Promise.all([0, 1].map((index) => call.event("media.moved", index, 15_000)));
    expect(told.map(({ leg }) => leg)).toEqual([call.caller, call.leg("operator-1")]);
    const [toCaller, toOperator] = told.map(({ offer }) => portIn(offer));
    caller.connect("127.0.0.1", toCaller ?? 0, "PCMU", 101);
    operator.connect("127.0.0.1", toOperator ?? 0, "PCMU");
    stage.anchor.renew(call.id, call.caller, sdpOf(caller, { version: 2 }), false);
    stage.anchor.renew(call.id, call.leg("operator-1"), sdpOf(operator, { version: 2 }), false);
    await Promise.all([caller.hears(pitches.operator), operator.hears(pitches.caller)]);
    await delay(1_000);
    await call.close();
    const { sidecar, file } = await finished(call);
    expect(sidecar.gaps).toMatchObject([{ reason: "lost" }]);
    expect((await heard(file, aroundGap(sidecar))).pitches).toEqual(
      Array.from({ length: 2 }, () => [pitches.caller, pitches.operator]),
    );
    expect(await other.server.calls()).toEqual([]);
    expect([stage.spool(), other.spool()]).toEqual([[], []]);
    expect(call.all("media.lost")).toEqual([]);
  });
});
