import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { PlayId } from "../../src/call/ids.ts";
import { nowMs } from "../support/clock.ts";
import { pitches } from "../support/pitch.ts";
import { waitFor } from "../support/wait.ts";
import { mediaContract } from "./media-contract.ts";
import { expectAtRest, portIn, sdpOf, startStage } from "./media-support.ts";
import type { MediaStage } from "./media-support.ts";

describe("the media contract on rtpengine", () => {
  mediaContract(startStage);
});

describe("rtpengine", () => {
  let stage: MediaStage;
  beforeEach(async () => {
    stage = await startStage();
  });
  afterEach(async () => {
    await stage[Symbol.asyncDispose]();
  });

  test("tones are a stream of their own: those to the operator are not mixed with the caller's voice, nor those to the caller with the operator's", async () => {
    const call = stage.call();
    const [caller, operator] = await stage.phones();
    // With telephone events on both sides there would be no tones.
    const eventType = null;
    await call.open(caller, { eventType });
    caller.sendTone(pitches.caller);
    operator.connect("127.0.0.1", await call.offer("operator-1"), "PCMU", 101);
    operator.sendTone(pitches.operator);
    await call.join("operator-1", operator, { eventType });
    for (const [leg, hearer, voice, other, otherVoice] of [
      [call.leg("operator-1"), operator, pitches.caller, caller, pitches.operator],
      [call.caller, caller, pitches.operator, operator, pitches.caller],
    ] as const) {
      await hearer.hears(voice);
      const voiceSsrcs = (await hearer.capture(nowMs() - 100)).ssrcs;
      const play = `tones ${leg}` as Parameters<typeof call.played>[0];
      const from = nowMs();
      stage.anchor.play(call.id, play, leg, { kind: "digits", digits: "1592" });
      expect(await call.played(play)).toMatchObject({ result: "completed" });
      await hearer.hears(voice);
      const heard = await hearer.capture(from);
      const toneSsrcs = heard.ssrcs.filter((ssrc) => !voiceSsrcs.includes(ssrc));
      expect(toneSsrcs).toHaveLength(1);
      const tones = heard.audio.filter(({ ssrc }) => toneSsrcs.includes(ssrc));
      expect(tones.length).toBeGreaterThan(30);
      const [first, last] = [tones[0]!.atMs, tones.at(-1)!.atMs];
      expect(heard.between(first + 1, last).ssrcs).toEqual(toneSsrcs);
      // The one who presses no keys hears his partner all the while.
      expect((await other.capture(first, last)).longestGapMs).toBeLessThan(100);
      await other.hears(otherVoice);
    }
    // Tones that are stopped, replaced or whose hearer leaves give the voice back as well.
    const tones = async (name: string): Promise<void> => {
      stage.anchor.play(call.id, name as PlayId, call.leg("operator-1"), { kind: "digits", digits: "1WWWWWWWWW1" });
      await operator.hears([]);
    };
    await tones("stopped");
    stage.anchor.stop(call.id, call.leg("operator-1"));
    await operator.hears(pitches.caller);
    await tones("replaced");
    await call.played(call.play(stage.botPrompt(0.5), 1, call.leg("operator-1")));
    await operator.hears(pitches.caller);
    await tones("held");
    expect(
      await call.update(call.caller, sdpOf(caller, { direction: "sendonly", version: 2, eventType })),
    ).toMatchObject({
      type: "media.updated",
    });
    stage.anchor.stop(call.id, call.leg("operator-1"));
    await operator.hears(pitches.caller);
    await call.update(call.caller, sdpOf(caller, { version: 3, eventType }));
    await tones("dropped");
    call.drop("operator-1");
    const next = await stage.phone();
    next.connect("127.0.0.1", await call.offer("operator-2"), "PCMU", 101);
    await call.join("operator-2", next, { eventType });
    await next.hears(pitches.caller);
    await call.close();
    await expectAtRest(stage);
  }, 30_000);

  test("an operator who changes his codec while the caller is not with him is followed when he has him again", async () => {
    const call = stage.call();
    const [caller, operator, moved] = await stage.phones();
    await call.open(caller);
    caller.sendTone(pitches.caller);
    const port = await call.offer("operator-1");
    operator.connect("127.0.0.1", port, "PCMA", 101);
    operator.sendTone(pitches.operator);
    await call.join("operator-1", operator, { codecs: ["PCMA"] });
    await caller.hears(pitches.operator);
    const leg = call.leg("operator-1");
    stage.anchor.aside(call.id, leg, true);
    expect((await call.update(leg, sdpOf(moved, { codecs: ["PCMU"], version: 2 }))).type).toBe("media.updated");
    operator.pause();
    moved.connect("127.0.0.1", port, "PCMU", 101);
    moved.sendTone(pitches.operator2);
    stage.anchor.aside(call.id, leg, false);
    await caller.hears(pitches.operator2);
    await moved.hears(pitches.caller);
    await waitFor(async () => (await moved.capture(nowMs() - 200)).payloadTypes.join() === "0", {
      what: "the new codec",
    });
    await call.close();
    await expectAtRest(stage);
  });

  test("fifty at once through bot, operator and bot again leave nothing behind", async () => {
    await using large = await startStage({}, { mediaPorts: 900 });
    const [caller, operator] = await large.phones();
    const prompt = large.botPrompt(0.2);
    const calls = Array.from({ length: 50 }, () => large.call());
    await Promise.all(
      calls.map(async (call) => {
        const port = await call.open(caller);
        large.anchor.recording(call.id, "start");
        expect(await call.played(call.play(prompt))).toMatchObject({ result: "completed" });
        large.anchor.ringback(call.id, true);
        await call.offer("operator-1");
        await call.join("operator-1", operator, { codecs: ["PCMA"] });
        call.drop("operator-1");
        expect(await call.played(call.play(prompt))).toMatchObject({ result: "completed" });
        expect(portIn((await call.event("media.opened")).answer)).toBe(port);
        await call.close();
        expect(call.all("recording.changed").map(({ state }) => state)).toEqual(["started", "finished"]);
      }),
    );
    await expectAtRest(large);
  }, 60_000);
});
