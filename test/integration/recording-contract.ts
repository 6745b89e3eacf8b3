// What a recording of a call must contain, whichever media server made it.
import { readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { measureRecording } from "../../src/media/audio/measure.ts";
import type { RecordingMeasure } from "../../src/media/audio/measure.ts";
import { WavReader } from "../../src/media/audio/wav.ts";
import type { Sidecar } from "../../src/media/recording/timeline.ts";
import { nowMs } from "../support/clock.ts";
import { allPitches, pitches } from "../support/pitch.ts";
import { delay, waitFor } from "../support/wait.ts";
import { expectAtRest, recorded } from "./media-support.ts";
import type { MediaStage, StartStage, TestCall } from "./media-support.ts";

interface Finished {
  readonly file: string;
  readonly sidecar: Sidecar;
  readonly durationMs: number;
}

export async function finished(call: TestCall): Promise<Finished> {
  const event = await waitFor(() => call.all("recording.changed").find(({ state }) => state === "finished"), {
    what: `the recording; there was ${JSON.stringify(call.all("recording.changed"))}`,
    timeoutMs: 10_000,
  });
  const file = event.file ?? "";
  return {
    file,
    durationMs: event.durationMs ?? 0,
    sidecar: JSON.parse(readFileSync(file.replace(/\.wav$/, ".json"), "utf8")) as Sidecar,
  };
}

/** What is in the file before its only gap and behind it. */
export function aroundGap({ gaps, seconds }: Sidecar): readonly { readonly from: number; readonly to: number }[] {
  const [gap] = gaps;
  if (gap === undefined) throw new Error("the recording has no gap");
  return [
    { from: 0, to: gap.at },
    { from: gap.at + gap.seconds, to: seconds },
  ];
}

/** The pitch heard in each channel of each stretch, a little inside its edges. */
export async function heard(
  file: string,
  stretches: readonly { readonly from: number; readonly to: number }[],
  margin = 0.25,
): Promise<{ readonly pitches: (number | null)[][]; readonly measure: RecordingMeasure }> {
  const measure = await measureRecording(file, {
    windows: stretches.map(({ from, to }) => ({ from: from + margin, to: to - margin })),
    pitchesHz: allPitches,
  });
  return {
    measure,
    pitches: measure.windows.map((window) =>
      window.channels.map((channel) => (channel.rmsDbfs < -45 ? null : channel.pitchHz)),
    ),
  };
}

/** Silence is one byte all along; some media servers send that before anything else. */
const isSound = ({ payload }: { readonly payload: Uint8Array }): boolean => new Set(payload).size > 4;

/** Seconds at which a channel is first loud. */
function onsetOf(file: string, channel: 0 | 1): number {
  using reader = new WavReader(file);
  const bytes = reader.readBytes(reader.format.frames);
  for (let frame = 0; frame * 4 < bytes.length; frame += 1) {
    if (Math.abs(bytes.readInt16LE(frame * 4 + channel * 2)) > 1_000) return frame / reader.format.sampleRate;
  }
  return Number.POSITIVE_INFINITY;
}

/** Defines the tests for one kind of anchor. `mostHoleMs`: what may be missing of a side while it is switched. */
export function recordingContract(start: StartStage, mostHoleMs: number): void {
  let stage: MediaStage;
  beforeEach(async () => {
    stage = await start();
  });
  afterEach(async () => {
    await stage[Symbol.asyncDispose]();
  });

  describe("the recording of a call", () => {
    test("is one gapless stereo file over bot, operator and bot, with phases and prompts at their places", async () => {
      const call = stage.call();
      const [caller, operator] = await stage.phones();
      await call.open(caller);
      caller.sendTone(pitches.caller);
      await caller.hears([]);
      stage.anchor.phase(call.id, "bot");
      stage.anchor.recording(call.id, "start");
      const started = await call.event("recording.changed");
      expect(started).toMatchObject({ state: "started", durationMs: null, reason: null });
      const startedAt = nowMs();
      await delay(700);
      const prompt = call.play(stage.botPrompt(1));
      const promptAt = await caller.hears(pitches.bot);
      await call.played(prompt);
      const greeting = (await caller.capture()).audio;
      stage.anchor.phase(call.id, "dialling");
      stage.anchor.ringback(call.id, true);
      const port = await call.offer("operator-1");
      operator.connect("127.0.0.1", port, "PCMA", 101);
      operator.sendTone(pitches.operator);
      await caller.hears(pitches.ringback);
      await delay(700);
      await call.join("operator-1", operator, { codecs: ["PCMA"] });
      stage.anchor.phase(call.id, "operator");
      await delay(1_500);
      call.drop("operator-1");
      stage.anchor.phase(call.id, "bot");
      await call.played(call.play(stage.botPrompt(1)));
      const endedAt = nowMs();
      await call.close();
      const { file, sidecar, durationMs } = await finished(call);
      expect(call.events.at(-1)?.type).toBe("media.closed");
      expect(file).toBe(started.file);

      expect(sidecar).toMatchObject({
        callId: call.id,
        botId: "bot-1",
        caller: "100",
        called: "200",
        channels: 2,
        sampleRate: 8_000,
        gaps: [],
      });
      expect(sidecar.phases.map(({ phase }) => phase)).toEqual(["bot", "dialling", "operator", "bot"]);
      expect(Math.abs(sidecar.seconds - (endedAt - startedAt) / 1_000)).toBeLessThan(0.15);
      expect(durationMs).toBe(Math.round(sidecar.seconds * 1_000));
      expect(sidecar.segments).toHaveLength(1);
      expect(statSync(file).mode & 0o777).toBe(0o640);

      const { measure } = await heard(file, [{ from: 0.05, to: sidecar.seconds - 0.05 }], 0);
      expect(measure).toMatchObject({ channels: 2, sampleRate: 8_000 });
      expect(measure.windows[0]?.channels[0]?.pitchHz).toBe(pitches.caller);
      expect(measure.windows[0]?.channels[0]?.longestSilenceMs).toBeLessThan(mostHoleMs);

      // The prompt lies where the caller's phone received it.
      const firstPacket = greeting.find(isSound)?.atMs ?? promptAt;
      const promptFrom = (firstPacket - startedAt) / 1_000;
      const { pitches: around } = await heard(
        file,
        [
          { from: promptFrom - 0.3, to: promptFrom - 0.1 },
          { from: promptFrom + 0.1, to: promptFrom + 0.9 },
          { from: promptFrom + 1.1, to: promptFrom + 1.2 },
        ],
        0,
      );
      expect(around.map((channels) => channels[0])).toEqual([pitches.caller, pitches.caller, pitches.caller]);
      expect(around.map((channels) => channels[1])[0]).toBeNull();
      expect(around.map((channels) => channels[1])[1]).toBe(pitches.bot);
      expect(around.map((channels) => channels[1])[2]).not.toBe(pitches.bot);
      expect(Math.abs(onsetOf(file, 1) - promptFrom)).toBeLessThan(0.1);

      const [, dialling, talk, thanks] = sidecar.phases;
      const { pitches: byPhase } = await heard(file, [dialling!, talk!, thanks!]);
      expect(byPhase).toEqual([
        [pitches.caller, pitches.ringback],
        [pitches.caller, pitches.operator],
        [pitches.caller, pitches.bot],
      ]);
      await expectAtRest(stage);
      expect(readdirSync(stage.recordingFolder).sort()).toEqual([
        file.slice(stage.recordingFolder.length + 1).replace(/wav$/, "json"),
        file.slice(stage.recordingFolder.length + 1),
      ]);
    });

    test("leaves paused time out and says so", async () => {
      const call = stage.call();
      const [caller, operator] = await stage.phones();
      await call.open(caller);
      caller.sendTone(pitches.caller);
      stage.anchor.phase(call.id, "bot");
      stage.anchor.recording(call.id, "start");
      await call.event("recording.changed");
      await delay(800);
      operator.connect("127.0.0.1", await call.offer("operator-1"), "PCMU", 101);
      operator.sendTone(pitches.operator);
      stage.anchor.recording(call.id, "pause");
      await call.event("recording.changed", 1);
      stage.anchor.phase(call.id, "operator");
      await call.join("operator-1", operator);
      await delay(1_000);
      call.drop("operator-1");
      stage.anchor.phase(call.id, "bot");
      caller.sendTone(pitches.operator2);
      await delay(200);
      stage.anchor.recording(call.id, "resume");
      await call.event("recording.changed", 2);
      await delay(700);
      await call.close();
      const { file, sidecar } = await finished(call);
      expect(call.all("recording.changed").map(({ state }) => state)).toEqual([
        "started",
        "paused",
        "resumed",
        "finished",
      ]);
      expect(sidecar.segments).toHaveLength(2);
      expect(sidecar.gaps).toHaveLength(1);
      const gap = sidecar.gaps[0]!;
      expect(gap.reason).toBe("paused");
      expect(gap.seconds).toBeGreaterThan(1.15);
      expect(gap.seconds).toBeLessThan(2.5);
      expect(sidecar.seconds).toBeLessThan(1.9);
      expect(sidecar.phases.map(({ phase }) => phase)).not.toContain("operator");
      const { pitches: parts } = await heard(
        file,
        [
          { from: 0, to: gap.at },
          { from: gap.at, to: sidecar.seconds },
        ],
        0.1,
      );
      expect(parts).toEqual([
        [pitches.caller, null],
        [pitches.operator2, null],
      ]);
      await expectAtRest(stage);
    });

    test("a stopped recording is finished while the call goes on", async () => {
      const { call } = await recorded(stage);
      await delay(300);
      stage.anchor.recording(call.id, "stop");
      await finished(call);
      expect(call.all("media.closed")).toEqual([]);
      expect(await call.played(call.play(stage.botPrompt(0.3)))).toMatchObject({ result: "completed" });
      await call.close();
      await expectAtRest(stage);
    });

    test("a prompt that is cut off and one that was playing before the recording began are in it as they were heard", async () => {
      const call = stage.call();
      const caller = await stage.phone();
      await call.open(caller);
      caller.sendTone(pitches.caller);
      const play = call.play(stage.botPrompt(5));
      await caller.hears(pitches.bot);
      stage.anchor.recording(call.id, "start");
      await call.event("recording.changed");
      await delay(500);
      stage.anchor.stop(call.id, call.caller);
      await call.played(play);
      await delay(500);
      await call.close();
      const { file, sidecar } = await finished(call);
      const { pitches: parts } = await heard(
        file,
        [
          { from: 0, to: 0.5 },
          { from: 0.5, to: sidecar.seconds },
        ],
        0.1,
      );
      expect(parts.map((channels) => channels[1])).toEqual([pitches.bot, null]);
      await expectAtRest(stage);
    });

    test("twenty calls at once are all recorded whole", async () => {
      const calls = Array.from({ length: 20 }, () => stage.call());
      const phones = await Promise.all(calls.map(() => stage.phone()));
      await Promise.all(calls.map((call, index) => call.open(phones[index]!)));
      for (const [index, call] of calls.entries()) {
        phones[index]!.sendTone(pitches.caller);
        stage.anchor.recording(call.id, "start");
      }
      await Promise.all(calls.map((call) => call.event("recording.changed")));
      await Promise.all(calls.map(async (call) => call.played(call.play(stage.botPrompt(1)))));
      await Promise.all(calls.map((call) => call.close()));
      for (const call of calls) {
        const { file, sidecar } = await finished(call);
        expect(sidecar.seconds).toBeGreaterThan(1);
        const { measure } = await heard(file, [{ from: 0.1, to: sidecar.seconds - 0.1 }], 0);
        expect(measure.windows[0]?.channels[0]?.longestSilenceMs).toBeLessThan(mostHoleMs);
      }
      await expectAtRest(stage);
    }, 60_000);

    test("fails with its reason when the recording folder is gone", async () => {
      rmSync(stage.recordingFolder, { recursive: true });
      writeFileSync(stage.recordingFolder, "not a folder");
      const call = stage.call();
      const caller = await stage.phone();
      await call.open(caller);
      caller.sendTone(pitches.caller);
      stage.anchor.recording(call.id, "start");
      expect(await call.event("recording.changed")).toMatchObject({ state: "failed", file: null });
      expect(await call.played(call.play(stage.botPrompt(0.3)))).toMatchObject({ result: "completed" });
      await call.close();
      expect(call.all("recording.changed")).toHaveLength(1);
    });
  });
}
