import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { PlayId } from "../../src/call/ids.ts";
import { nowMs } from "../support/clock.ts";
import { pitches } from "../support/pitch.ts";
import { PhoneMedia } from "../support/phone-media.ts";
import { delay, waitFor } from "../support/wait.ts";
import { mediaContract } from "./media-contract.ts";
import { expectAtRest, portIn, sdpOf, startStage, talk } from "./media-support.ts";
import type { MediaStage } from "./media-support.ts";

describe("the media contract on rtpengine", () => {
  mediaContract(startStage, { partnersGapMs: 100, ownStream: true });
});

describe("rtpengine", () => {
  let stage: MediaStage;
  beforeEach(async () => {
    stage = await startStage();
  });
  afterEach(async () => {
    await stage[Symbol.asyncDispose]();
  });

  test.each(["operator", "caller"] as const)(
    "who is back from a hold is heard from the first packet on, though rtpengine has missed some before: the %s",
    async (who) => {
      const call = stage.call();
      // Of streams whose time stamps are in the upper half rtpengine waits for what is missing until ten more packets have come.
      const upperHalf = 2 ** 31 + 1_000_000;
      await using caller = await PhoneMedia.open("127.0.0.1", upperHalf);
      await using operator = await PhoneMedia.open("127.0.0.1", upperHalf);
      const ports = { caller: await call.open(caller), operator: await call.offer("operator-1") };
      const choice = { codecs: ["PCMA"] } as const;
      operator.connect("127.0.0.1", ports.operator, "PCMA", 101);
      operator.sendTone(pitches.operator);
      caller.sendTone(pitches.caller);
      await call.join("operator-1", operator, choice);
      const hearer = { operator: caller, caller: operator }[who];
      await hearer.hears(pitches[who]);
      const voice = (await hearer.capture(nowMs() - 100)).ssrcs;
      const leg = call.leg("operator-1");
      await call.update(leg, sdpOf(operator, { ...choice, direction: "inactive", version: 2 }));
      await delay(100);
      const speaker = { operator, caller }[who];
      speaker.pause();
      await call.update(leg, sdpOf(operator, { ...choice, version: 3 }));
      const from = nowMs();
      speaker.connect("127.0.0.1", ports[who], who === "operator" ? "PCMA" : "PCMU", 101);
      await delay(100);
      speaker.pause();
      await waitFor(async () => (await hearer.capture(from)).ssrcs.some((ssrc) => voice.includes(ssrc)), {
        what: `the first packets of the ${who}`,
      });
      await call.close();
      await expectAtRest(stage);
    },
  );

  test("an operator whose phone offers again while the caller hears tones is not let in among them", async () => {
    const eventType = null;
    const { call, caller, operator } = await talk(stage, { caller: { eventType }, operator: { eventType } });
    await caller.hears(pitches.operator);
    stage.anchor.play(call.id, "tones" as PlayId, call.caller, { kind: "digits", digits: "1WWWWWWWWW1" });
    await caller.hears([]);
    const again = await call.update(call.leg("operator-1"), sdpOf(operator, { eventType, version: 2 }));
    expect(again.type).toBe("media.updated");
    const from = nowMs();
    await delay(500);
    expect((await caller.capture(from)).tones()).toEqual([]);
    stage.anchor.stop(call.id, call.caller);
    await caller.hears(pitches.operator);
    await operator.hears(pitches.caller);
    await call.close();
    await expectAtRest(stage);
  });

  test("an operator who changes his codec while the caller is not with him is followed when he has him again", async () => {
    const talking = await talk(stage, { operator: { codecs: ["PCMA"] } });
    const { call, caller, operator, other: moved, operatorPort: port } = talking;
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
