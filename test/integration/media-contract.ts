// What every media anchor must do, whichever media server does it: who hears what in each phase, keys, gaps, clean-up.
import { createServer } from "node:http";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { PlayId } from "../../src/call/ids.ts";
import { nowMs } from "../support/clock.ts";
import { pitches } from "../support/pitch.ts";
import { delay, waitFor } from "../support/wait.ts";
import { expectAtRest, portIn, sdpOf, talk, writeTone } from "./media-support.ts";
import type { MediaStage, StartStage } from "./media-support.ts";

/** What tones to one side of a talk do on a kind of media server. */
export interface TonesThere {
  /** The partner of whoever hears them misses no more than this, in milliseconds. */
  readonly partnersGapMs: number;
  /** They come with an SSRC of their own, and no packet of the voice comes among them. */
  readonly ownStream: boolean;
}

/** Defines the tests for one kind of anchor. */
export function mediaContract(start: StartStage, tones: TonesThere): void {
  let stage: MediaStage;
  beforeEach(async () => {
    stage = await start();
  });
  afterEach(async () => {
    await stage[Symbol.asyncDispose]();
  });

  describe("a parked caller", () => {
    test("hears a prompt at its pitch, learns when it ends, and presses keys", async () => {
      const call = stage.call();
      const phone = await stage.phone();
      await call.open(phone);
      const before = nowMs();
      const play = call.play(stage.botPrompt(1));
      await phone.hears(pitches.bot);
      const { result } = await call.played(play);
      expect(result).toBe("completed");
      expect(nowMs() - before).toBeGreaterThan(900);
      await phone.hears([]);
      phone.pressDigits("5#");
      await call.event("media.digit", 1);
      expect(call.all("media.digit").map(({ digit, leg }) => [digit, leg])).toEqual([
        ["5", call.caller],
        ["#", call.caller],
      ]);
      expect(call.all("media.digit")[0]?.durationMs).toBeGreaterThan(60);
      await call.close();
      await expectAtRest(stage);
    });

    test("a new prompt replaces the old one, and stop ends it", async () => {
      const call = stage.call();
      const phone = await stage.phone();
      await call.open(phone);
      const first = call.play(stage.botPrompt(5));
      await phone.hears(pitches.bot);
      const second = call.play(stage.botPrompt(4), 2);
      expect(await call.played(first)).toMatchObject({ result: "stopped", reason: null });
      await phone.hears(pitches.bot);
      stage.anchor.stop(call.id, call.caller);
      expect(await call.played(second)).toMatchObject({ result: "stopped" });
      await phone.hears([]);
      await call.close();
      expect(call.all("media.played")).toHaveLength(2);
      await expectAtRest(stage);
    });

    test("what cannot be played fails with its reason and the next prompt plays", async () => {
      const call = stage.call();
      const phone = await stage.phone();
      await call.open(phone);
      expect(await call.played(call.play("file:///etc/passwd"))).toMatchObject({
        result: "failed",
        reason: "outside_prompt_folder",
      });
      expect(await call.played(call.play(`file://${stage.promptFolder}/none.wav`))).toMatchObject({
        reason: "not_found",
      });
      expect(await call.played(call.play("gopher://x"))).toMatchObject({ reason: "bad_url" });
      expect(await call.played(call.play(stage.botPrompt(0.3)))).toMatchObject({ result: "completed" });
      await call.close();
      await expectAtRest(stage);
    });

    test("digits are played as tones in the voice", async () => {
      const call = stage.call();
      const phone = await stage.phone();
      await call.open(phone);
      const from = nowMs();
      const play = "digits" as Parameters<typeof call.played>[0];
      stage.anchor.play(call.id, play, call.caller, { kind: "digits", digits: "1w9" });
      expect(await call.played(play)).toMatchObject({ result: "completed" });
      const heard = await phone.capture(from);
      for (const hz of [697, 1_209, 852, 1_477]) expect(heard.amplitudeOf(hz)).toBeGreaterThan(200);
      await call.close();
    });

    test("an offer without G.711 is incompatible, and nothing is left of it", async () => {
      const call = stage.call();
      const phone = await stage.phone();
      const offer = sdpOf(phone).replace("RTP/AVP 0 101", "RTP/AVP 9 101") as ReturnType<typeof sdpOf>;
      stage.anchor.open(call.id, call.caller, offer, { botId: "b", caller: "1", called: "2" });
      expect(await call.event("media.openFailed")).toMatchObject({ incompatible: true, reason: "no_common_codec" });
      await call.close();
      await expectAtRest(stage);
    });

    test("closing what was never open is answered", async () => {
      const call = stage.call();
      await call.close();
      expect(call.events).toEqual([{ type: "media.closed" }]);
    });

    test("a caller whose call is gone already is released again", async () => {
      const phone = await stage.phone();
      const call = stage.call();
      const gone = `${call.id}-gone` as typeof call.id;
      stage.anchor.open(gone, call.caller, sdpOf(phone), { botId: "b", caller: "1", called: "2" });
      await waitFor(() => stage.anchor.stats().calls === 1, { what: "the call to open" });
      await expectAtRest(stage);
    });
  });

  describe("an operator behind the anchor", () => {
    test("bot, operator with another codec, bot again: the caller's port never changes and each hears exactly the other", async () => {
      const call = stage.call();
      const [caller, operator, second] = await stage.phones();
      const port = await call.open(caller);
      caller.sendTone(pitches.caller);
      const greeting = call.play(stage.botPrompt(0.5));
      await caller.hears(pitches.bot);
      await call.played(greeting);

      stage.anchor.ringback(call.id, true);
      const operatorPort = await call.offer("operator-1");
      await caller.hears(pitches.ringback);
      operator.connect("127.0.0.1", operatorPort, "PCMA", 101);
      operator.sendTone(pitches.operator);
      // Early media is not heard: the ringback alone is.
      await delay(300);
      await caller.hears(pitches.ringback);
      await call.join("operator-1", operator, { codecs: ["PCMA"] });
      const joined = nowMs();
      await caller.hears(pitches.operator);
      await operator.hears(pitches.caller);
      await delay(1_000);
      const talk = (await caller.capture()).between(joined + 300, nowMs());
      expect(talk.tones().map((tone) => tone.hz)).toEqual([pitches.operator]);
      expect(talk.longestGapMs).toBeLessThan(60);
      expect(
        (await operator.capture())
          .between(joined + 300, nowMs())
          .tones()
          .map((tone) => tone.hz),
      ).toEqual([pitches.caller]);
      expect((await operator.capture()).payloadTypes).toEqual([8]);

      operator.pressDigits("7");
      await call.event("media.digit");
      expect(call.all("media.digit")[0]).toMatchObject({ digit: "7", leg: call.leg("operator-1") });

      call.drop("operator-1");
      const thanks = call.play(stage.botPrompt(0.6));
      await caller.hears(pitches.bot);
      expect(await call.played(thanks)).toMatchObject({ result: "completed" });
      await caller.hears([]);

      const secondPort = await call.offer("operator-2");
      second.connect("127.0.0.1", secondPort, "PCMU", 101);
      second.sendTone(pitches.operator2);
      await call.join("operator-2", second);
      await caller.hears(pitches.operator2);
      await second.hears(pitches.caller);
      await call.close();

      const all = await caller.capture();
      expect(all.sources).toEqual([`127.0.0.1:${port}`]);
      expect(new Set(all.payloadTypes)).toEqual(new Set([0, 101]));
      await expectAtRest(stage);
    });

    test("a dropped attempt leaves the ringback playing and the caller parked", async () => {
      const call = stage.call();
      const [caller, busy] = await stage.phones();
      await call.open(caller);
      caller.sendTone(pitches.caller);
      stage.anchor.ringback(call.id, true);
      const port = await call.offer("operator-1");
      busy.connect("127.0.0.1", port, "PCMU", 101);
      busy.sendTone(pitches.operator);
      await caller.hears(pitches.ringback);
      const dropped = nowMs();
      call.drop("operator-1");
      call.drop("operator-9");
      await waitFor(() => stage.anchor.stats().queued === 0, { what: "the drop" });
      await delay(200);
      await caller.hears(pitches.ringback);
      expect((await caller.capture(dropped)).amplitudeOf(pitches.operator)).toBeLessThan(100);
      stage.anchor.ringback(call.id, false);
      await caller.hears([]);
      caller.pressDigits("1");
      expect(await call.event("media.digit")).toMatchObject({ digit: "1", leg: call.caller });
      expect(call.all("media.legFailed")).toEqual([]);
      await call.close();
      await expectAtRest(stage);
    });

    test("a prompt that plays while an attempt is dropped is heard to its end", async () => {
      const call = stage.call();
      const caller = await stage.phone();
      await call.open(caller);
      await call.offer("operator-1");
      const from = nowMs();
      const play = call.play(stage.botPrompt(1.5));
      await caller.hears(pitches.bot);
      call.drop("operator-1");
      expect(await call.played(play)).toMatchObject({ result: "completed" });
      const heard = (await caller.capture()).between(from + 300, from + 1_400);
      expect(heard.longestGapMs).toBeLessThan(60);
      await waitFor(() => stage.anchor.stats().queued === 0, { what: "the leg to be deleted" });
      await call.close();
      await expectAtRest(stage);
    });

    test("an operator who is gone as soon as he is joined leaves the caller with the next prompt", async () => {
      const call = stage.call();
      const [caller, operator] = await stage.phones();
      await call.open(caller);
      stage.anchor.ringback(call.id, true);
      operator.connect("127.0.0.1", await call.offer("operator-1"), "PCMU", 101);
      stage.anchor.ringback(call.id, false);
      stage.anchor.join(call.id, call.leg("operator-1"), sdpOf(operator));
      // His BYE never comes in the same turn.
      await delay(1);
      call.drop("operator-1");
      const play = call.play(stage.botPrompt(1));
      await caller.hears(pitches.bot);
      expect(await call.played(play)).toMatchObject({ result: "completed" });
      await call.close();
      await expectAtRest(stage);
    });

    test("an operator without a usable codec fails, the caller stays", async () => {
      const call = stage.call();
      const [caller, operator] = await stage.phones();
      await call.open(caller);
      await call.offer("operator-1");
      const answer = sdpOf(operator).replace(/^m=audio \d+/m, "m=audio 0") as ReturnType<typeof sdpOf>;
      stage.anchor.join(call.id, call.leg("operator-1"), answer);
      expect(await call.event("media.legFailed")).toMatchObject({ leg: call.leg("operator-1") });
      stage.anchor.join(call.id, call.leg("nobody"), answer);
      await call.event("media.legFailed", 1);
      call.drop("operator-1");
      await caller.hears([]);
      const play = call.play(stage.botPrompt(0.3));
      expect(await call.played(play)).toMatchObject({ result: "completed" });
      await call.close();
      await expectAtRest(stage);
    });
  });

  describe("offers inside the dialog", () => {
    test("hold and resume by the caller keep port, origin and codec, and prompts play again afterwards", async () => {
      const call = stage.call();
      const caller = await stage.phone();
      const port = await call.open(caller);
      const { answer } = await call.event("media.opened");
      const origin = /^o=- (\d+) (\d+)/m.exec(answer);
      for (const [index, [offered, answered]] of (
        [
          ["sendonly", "recvonly"],
          ["inactive", "inactive"],
          ["sendrecv", "sendrecv"],
        ] as const
      ).entries()) {
        const event = await call.update(call.caller, sdpOf(caller, { direction: offered, version: index + 2 }));
        expect(event.type).toBe("media.updated");
        const text = event.type === "media.updated" ? event.answer : "";
        expect(portIn(text)).toBe(port);
        expect(text).toContain(`a=${answered}`);
        const now = /^o=- (\d+) (\d+)/m.exec(text);
        expect([now?.[1], Number(now?.[2])]).toEqual([origin?.[1], Number(origin?.[2]) + index + 1]);
        if (offered === "inactive") {
          expect(await call.played(call.play(stage.botPrompt(0.3)))).toMatchObject({
            result: "failed",
            reason: "on_hold",
          });
        }
      }
      const asked = await call.update(call.caller, null);
      expect(asked.type === "media.updated" ? portIn(asked.answer) : 0).toBe(port);
      const refused = await call.update(
        call.caller,
        sdpOf(caller).replace(" 0 101", " 9 101") as ReturnType<typeof sdpOf>,
      );
      expect(refused.type).toBe("media.updateFailed");
      const play = call.play(stage.botPrompt(0.5));
      await caller.hears(pitches.bot);
      expect(await call.played(play)).toMatchObject({ result: "completed" });
      await call.close();
      await expectAtRest(stage);
    });

    test("an operator who changes his codec and his port is followed; the caller sees nothing", async () => {
      const talking = await talk(stage, { operator: { codecs: ["PCMA"] } });
      const { call, caller, operator, other: moved, port, operatorPort } = talking;
      await caller.hears(pitches.operator);
      const event = await call.update(call.leg("operator-1"), sdpOf(moved, { codecs: ["PCMU"], version: 2 }));
      expect(event.type === "media.updated" ? portIn(event.answer) : 0).toBe(operatorPort);
      operator.pause();
      moved.connect("127.0.0.1", operatorPort, "PCMU", 101);
      moved.sendTone(pitches.operator2);
      await caller.hears(pitches.operator2);
      await moved.hears(pitches.caller);
      expect((await moved.capture(nowMs() - 200)).payloadTypes).toEqual([0]);
      expect((await caller.capture()).sources).toEqual([`127.0.0.1:${port}`]);
      await call.close();
      await expectAtRest(stage);
    });

    test("a caller who changes his codec while he talks is heard and hears, also with the bot again", async () => {
      const { call, caller, operator, port } = await talk(stage, { caller: { codecs: ["PCMU", "PCMA"] } });
      const event = await call.update(call.caller, sdpOf(caller, { codecs: ["PCMA"], version: 2 }));
      expect(event.type === "media.updated" ? portIn(event.answer) : 0).toBe(port);
      caller.connect("127.0.0.1", port, "PCMA", 101);
      await operator.hears(pitches.caller);
      await caller.hears(pitches.operator);
      await waitFor(async () => (await caller.capture(nowMs() - 200)).payloadTypes.join() === "8", {
        what: "nothing but his new codec to come",
      });
      call.drop("operator-1");
      const play = call.play(stage.botPrompt(0.5));
      await caller.hears(pitches.bot);
      await call.played(play);
      await call.close();
      await expectAtRest(stage);
    });
  });

  describe("somebody who takes a place", () => {
    test("of an operator: he is answered, and heard only once he has it; nobody else sees anything", async () => {
      const talking = await talk(stage, { operator: { codecs: ["PCMA"] } });
      const { call, caller, operator, other: taker, port, operatorPort } = talking;
      await caller.hears(pitches.operator);
      const offer = sdpOf(taker, { codecs: ["PCMU"] });
      const proposed = await call.propose(call.leg("operator-1"), offer);
      const text = proposed.type === "media.updated" ? proposed.answer : "";
      expect(portIn(text)).toBe(operatorPort);
      expect(text).toContain("a=sendrecv");
      // He may still change his mind.
      await caller.hears(pitches.operator);
      await operator.hears(pitches.caller);
      taker.connect("127.0.0.1", operatorPort, "PCMU", 101);
      taker.sendTone(pitches.operator2);
      stage.anchor.renew(call.id, call.leg("operator-1"), offer, true);
      operator.pause();
      await caller.hears(pitches.operator2);
      await taker.hears(pitches.caller);
      await waitFor(async () => (await taker.capture(nowMs() - 200)).payloadTypes.join() === "0", {
        what: "his own codec",
      });
      expect((await caller.capture()).sources).toEqual([`127.0.0.1:${port}`]);
      await call.close();
      await expectAtRest(stage);
    });

    test("of an operator whose phone rings: he is joined with his offer for an answer", async () => {
      const call = stage.call();
      const [caller, taker] = await stage.phones();
      await call.open(caller);
      const operatorPort = await call.offer("operator-1");
      const proposed = await call.propose(call.leg("operator-1"), sdpOf(taker, { codecs: ["PCMU"] }));
      expect(proposed.type === "media.updated" ? portIn(proposed.answer) : 0).toBe(operatorPort);
      taker.connect("127.0.0.1", operatorPort, "PCMU", 101);
      taker.sendTone(pitches.operator2);
      caller.sendTone(pitches.caller);
      await call.join("operator-1", taker, { codecs: ["PCMU"] });
      await caller.hears(pitches.operator2);
      await taker.hears(pitches.caller);
      await call.close();
      await expectAtRest(stage);
    });

    test("of the caller: the operator hears on through the same port", async () => {
      const { call, caller, operator, other: taker, port } = await talk(stage);
      await operator.hears(pitches.caller);
      const offer = sdpOf(taker, { codecs: ["PCMU"] });
      const proposed = await call.propose(call.caller, offer);
      expect(proposed.type === "media.updated" ? portIn(proposed.answer) : 0).toBe(port);
      await operator.hears(pitches.caller);
      taker.connect("127.0.0.1", port, "PCMU", 101);
      taker.sendTone(pitches.operator2);
      stage.anchor.renew(call.id, call.caller, offer, true);
      caller.pause();
      await operator.hears(pitches.operator2);
      await taker.hears(pitches.operator);
      await call.close();
      await expectAtRest(stage);
    });

    test("an offer that cannot be taken is refused, of a leg that is not there too", async () => {
      const call = stage.call();
      const caller = await stage.phone();
      await call.open(caller);
      const bad = sdpOf(caller).replace(" 0 101", " 9 101") as ReturnType<typeof sdpOf>;
      expect((await call.propose(call.caller, bad)).type).toBe("media.updateFailed");
      expect((await call.propose(call.leg("operator-1"), sdpOf(caller))).type).toBe("media.updateFailed");
      // Who was there before is gone by then, so that the call must hear of it.
      stage.anchor.renew(call.id, call.caller, bad, true);
      expect(await call.event("media.legFailed")).toMatchObject({ leg: call.caller });
      await call.close();
      await expectAtRest(stage);
    });
  });

  describe("more than there may be", () => {
    test("is refused, calls and commands of one call alike", async () => {
      await using small = await start({ limits: { mostCalls: 1, mostQueuedPerCall: 2, mostLegsPerCall: 2 } });
      const phone = await small.phone();
      const [first, second] = [small.call(), small.call()];
      await first.open(phone);
      small.anchor.open(second.id, second.caller, sdpOf(phone), { botId: "b", caller: "1", called: "2" });
      expect(await second.event("media.openFailed")).toMatchObject({ incompatible: false, reason: "overloaded" });
      for (let index = 1; index <= 10; index += 1) small.anchor.offer(first.id, first.leg(`operator-${index}`));
      await waitFor(() => first.all("media.offered").length + first.all("media.legFailed").length === 10, {
        what: "ten answers",
      });
      expect(first.all("media.offered").length).toBeLessThanOrEqual(2);
      await first.close();
      await expectAtRest(small);
    });
  });

  describe("tones to one side of a talk", () => {
    // With telephone events on both sides there would be no tones.
    const eventType = null;

    test("come without the partner's voice, and he hears on meanwhile", async () => {
      const { call, caller, operator } = await talk(stage, { caller: { eventType }, operator: { eventType } });
      for (const [leg, hearer, voice, other, otherVoice] of [
        [call.leg("operator-1"), operator, pitches.caller, caller, pitches.operator],
        [call.caller, caller, pitches.operator, operator, pitches.caller],
      ] as const) {
        await hearer.hears(voice);
        const voiceSsrcs = (await hearer.capture(nowMs() - 100)).ssrcs;
        const play = `tones ${leg}` as PlayId;
        const from = nowMs();
        stage.anchor.play(call.id, play, leg, { kind: "digits", digits: "15WW92" });
        // Between the two halves nothing is played, and nothing else is heard.
        await hearer.hears([]);
        expect(await call.played(play)).toMatchObject({ result: "completed" });
        const to = nowMs();
        await hearer.hears(voice);
        const heard = await hearer.capture(from);
        expect(heard.amplitudeOf(697)).toBeGreaterThan(50);
        expect((await other.capture(from, to)).longestGapMs).toBeLessThan(tones.partnersGapMs);
        await other.hears(otherVoice);
        if (!tones.ownStream) continue;
        const toneSsrcs = heard.ssrcs.filter((ssrc) => !voiceSsrcs.includes(ssrc));
        expect(toneSsrcs).toHaveLength(1);
        const packets = heard.audio.filter(({ ssrc }) => toneSsrcs.includes(ssrc));
        expect(packets.length).toBeGreaterThan(30);
        const [first, last] = [packets[0]!.atMs, packets.at(-1)!.atMs];
        expect(heard.between(first + 1, last).ssrcs).toEqual(toneSsrcs);
      }
      await call.close();
      await expectAtRest(stage);
    }, 30_000);

    test("that are stopped, replaced, or whose hearer leaves give the voice back as well", async () => {
      const { call, caller, operator, other } = await talk(stage, { caller: { eventType }, operator: { eventType } });
      const leg = call.leg("operator-1");
      const hearTones = async (name: string): Promise<void> => {
        stage.anchor.play(call.id, name as PlayId, leg, { kind: "digits", digits: "1WWWWWWWWW1" });
        await operator.hears([]);
      };
      await operator.hears(pitches.caller);
      await hearTones("stopped");
      stage.anchor.stop(call.id, leg);
      await operator.hears(pitches.caller);
      await hearTones("replaced");
      await call.played(call.play(stage.botPrompt(0.5), 1, leg));
      await operator.hears(pitches.caller);
      await hearTones("held");
      const hold = sdpOf(caller, { direction: "sendonly", version: 2, eventType });
      expect(await call.update(call.caller, hold)).toMatchObject({ type: "media.updated" });
      stage.anchor.stop(call.id, leg);
      await operator.hears(pitches.caller);
      await call.update(call.caller, sdpOf(caller, { version: 3, eventType }));
      await hearTones("dropped");
      call.drop("operator-1");
      other.connect("127.0.0.1", await call.offer("operator-2"), "PCMU", 101);
      await call.join("operator-2", other, { eventType });
      await other.hears(pitches.caller);
      await call.close();
      await expectAtRest(stage);
    }, 30_000);
  });

  describe("telephone events", () => {
    test("a caller without them and an operator with another codec hear each other", async () => {
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

    test("a payload type of the caller's own is used on both sides", async () => {
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
      await using speaking = await start({
        speech: {
          kind: "command",
          command: ["espeak-ng", "-v", "{lang}", "-w", "{out}", "--stdin"],
          lang: "en",
          voice: "",
          timeoutMs: 10_000,
          mostAtOnce: 2,
        },
      });
      const call = speaking.call();
      const caller = await speaking.phone();
      await call.open(caller);
      const say = (name: string, text: string): PlayId => {
        const play = name as PlayId;
        speaking.anchor.play(call.id, play, call.caller, { kind: "text", text, lang: null, voice: null });
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
      speaking.anchor.play(call.id, bad, call.caller, { kind: "text", text: "x", lang: "-x", voice: null });
      expect(await call.played(bad)).toMatchObject({ result: "failed", reason: "bad_lang" });
      await call.close();
      await expectAtRest(speaking);
    });

    test("without text-to-speech a text says so", async () => {
      const call = stage.call();
      await call.open(await stage.phone());
      const play = "one" as PlayId;
      stage.anchor.play(call.id, play, call.caller, { kind: "text", text: "hello", lang: null, voice: null });
      expect(await call.played(play)).toMatchObject({ result: "failed", reason: "no_tts" });
      await call.close();
    });

    test("a prompt from a web server is heard; a slow one is given up and the next one plays meanwhile", async () => {
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
        expect(await slow.played(waiting, 20_000)).toMatchObject({ result: "failed", reason: "fetch_timeout" });
        await Promise.all([slow.close(), quick.close()]);
        await expectAtRest(stage);
      } finally {
        server.closeAllConnections();
        server.close();
      }
    });
  });

  describe("the end of the service", () => {
    test("stopping the service ends its calls and leaves nothing behind", async () => {
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
      // A media server may take a moment after it has answered.
      await waitFor(async () => (await stage.held()) === 0, { what: "the media server to be empty" });
      expect(stage.spool()).toEqual([]);
      const late = stage.call();
      stage.anchor.open(late.id, late.caller, sdpOf(await stage.phone()), { botId: "b", caller: "1", called: "2" });
      expect(await late.event("media.openFailed")).toMatchObject({ incompatible: false });
    });
  });
}
