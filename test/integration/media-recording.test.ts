import { existsSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { WavReader } from "../../src/media/audio/wav.ts";
import { startRtpengineAnchor } from "../../src/media/rtpengine/anchor.ts";
import type { RtpengineAnchor } from "../../src/media/rtpengine/anchor.ts";
import type { Sidecar } from "../../src/media/recording/timeline.ts";
import { nowMs } from "../support/clock.ts";
import { codecOf, decode } from "../support/g711.ts";
import { allPitches, amplitudes, pitches, rms } from "../support/pitch.ts";
import type { Capture } from "../support/rtp-capture.ts";
import { delay, waitFor } from "../support/wait.ts";
import { aroundGap, finished, heard, recordingContract } from "./recording-contract.ts";
import { expectAtRest, portIn, recorded, sdpOf, startKillableService, startStage } from "./media-support.ts";
import type { RtpengineStage } from "./media-support.ts";

describe("the recording contract on rtpengine", () => {
  recordingContract(startStage, 60);
});

/** The first notes of the music on hold: 20 ms are too short to tell 587 Hz from the bot's pitch without asking for it. */
const notes = [392, 494, 587, 784];

/** What is heard in 20 ms: one of the tests' pitches, something else, or nothing. */
function soundOf(samples: Int16Array): number | "other" | null {
  if (rms(samples) < 300) return null;
  const strongest = amplitudes([samples], [...allPitches, ...notes]).toSorted((a, b) => b.amplitude - a.amplitude)[0];
  const heard = strongest !== undefined && strongest.amplitude > rms(samples) ? strongest.hz : "other";
  return allPitches.includes(Number(heard)) ? heard : "other";
}

interface Heard {
  readonly sound: number | "other";
  readonly fromMs: number;
  readonly toMs: number;
}

/** Stretches of one sound that are long enough to be meant; what is between two of the same sound is taken for a flaw. */
function stretchesOf(
  frames: readonly { readonly atMs: number; readonly sound: number | "other" | null }[],
): readonly Heard[] {
  const found: Heard[] = [];
  for (const [index, { atMs, sound }] of frames.entries()) {
    const last = found.at(-1);
    // A single frame of something else is the seam between two sounds.
    if (sound === null || (sound !== frames[index - 1]?.sound && sound !== frames[index + 1]?.sound)) continue;
    // An rtpengine that gets too little of the processor leaves packets out; between two prompts there are 300 ms.
    if (last?.sound === sound && atMs - last.toMs < 250) found[found.length - 1] = { ...last, toMs: atMs + 20 };
    else found.push({ sound, fromMs: atMs, toMs: atMs + 20 });
  }
  return found.filter(({ fromMs, toMs }) => toMs - fromMs >= 150);
}

function heardByPhone(capture: Capture): readonly Heard[] {
  return stretchesOf(
    capture.audio.map(({ atMs, payloadType, payload }) => {
      const codec = codecOf(payloadType);
      return { atMs, sound: codec === undefined ? null : soundOf(decode(codec, payload)) };
    }),
  );
}

/** The right channel, on the wall clock. */
function heardInRecording(file: string, startedAt: string): readonly Heard[] {
  using reader = new WavReader(file);
  const bytes = reader.readBytes(reader.format.frames);
  const origin = Date.parse(startedAt);
  const frames = Array.from({ length: Math.floor(bytes.length / 640) }, (_, frame) => ({
    atMs: origin + frame * 20,
    sound: soundOf(
      Int16Array.from({ length: 160 }, (_sample, index) => bytes.readInt16LE(frame * 640 + index * 4 + 2)),
    ),
  }));
  return stretchesOf(frames);
}

test("has everything the caller heard within 100 ms of when he heard it: prompts, ringback, talk, hold, a pass", async () => {
  await using stage = await startStage();
  const call = stage.call();
  const [caller, operator, second] = await stage.phones();
  await call.open(caller);
  caller.sendTone(pitches.caller);
  await caller.hears([]);
  stage.anchor.recording(call.id, "start");
  await call.event("recording.changed");
  // Two prompts, one that the bot cuts off, one that is repeated.
  await call.played(call.play(stage.botPrompt(0.7)));
  await delay(300);
  await call.played(call.play(stage.botPrompt(0.4)));
  await delay(300);
  const cut = call.play(stage.botPrompt(5));
  await caller.hears(pitches.bot);
  await delay(500);
  stage.anchor.stop(call.id, call.caller);
  await call.played(cut);
  await delay(300);
  await call.played(call.play(stage.botPrompt(0.3), 3));
  // Ringback, and a prompt in the midst of it.
  stage.anchor.ringback(call.id, true);
  await caller.hears(pitches.ringback);
  await delay(500);
  await call.played(call.play(stage.botPrompt(0.5)));
  await caller.hears(pitches.ringback);
  const port = await call.offer("operator-1");
  operator.connect("127.0.0.1", port, "PCMA", 101);
  operator.sendTone(pitches.operator);
  stage.anchor.ringback(call.id, false);
  await call.join("operator-1", operator, { codecs: ["PCMA"] });
  await caller.hears(pitches.operator);
  await delay(600);
  // He holds the caller, and takes him back.
  const leg = call.leg("operator-1");
  await call.update(leg, sdpOf(operator, { codecs: ["PCMA"], direction: "inactive", version: 2 }));
  operator.pause();
  await delay(1_300);
  await call.update(leg, sdpOf(operator, { codecs: ["PCMA"], version: 3 }));
  operator.connect("127.0.0.1", port, "PCMA", 101);
  await caller.hears(pitches.operator);
  await delay(400);
  // He passes the caller on.
  stage.anchor.aside(call.id, leg, true);
  stage.anchor.ringback(call.id, true);
  second.connect("127.0.0.1", await call.offer("operator-2"), "PCMU", 101);
  await caller.hears(pitches.ringback);
  await delay(400);
  second.sendTone(pitches.operator2);
  stage.anchor.ringback(call.id, false);
  await call.join("operator-2", second);
  call.drop("operator-1");
  await caller.hears(pitches.operator2);
  await delay(400);
  call.drop("operator-2");
  await call.played(call.play(stage.botPrompt(0.5)));
  const byPhone = heardByPhone(await caller.capture());
  await call.close();
  const { file, sidecar } = await finished(call);
  const recorded = heardInRecording(file, sidecar.startedAt);
  const told = JSON.stringify({ byPhone, recorded });
  expect(
    recorded.map(({ sound }) => sound),
    told,
  ).toEqual(byPhone.map(({ sound }) => sound));
  expect(new Set(recorded.map(({ sound }) => sound))).toEqual(
    new Set([pitches.bot, pitches.ringback, pitches.operator, "other", pitches.operator2]),
  );
  for (const [index, { sound, fromMs, toMs }] of recorded.entries()) {
    const there = byPhone[index];
    expect(Math.abs(fromMs - (there?.fromMs ?? 0)), `${sound} begins: ${told}`).toBeLessThan(100);
    // An rtpengine that gets too little of the processor leaves packets of a prompt out, which then ends early for the phone.
    const after = toMs - (there?.toMs ?? 0);
    expect(after, `${sound} ends: ${told}`).toBeGreaterThan(-100);
    expect(after, `${sound} ends: ${told}`).toBeLessThan(250);
  }
  const { measure } = await heard(file, [{ from: 0.05, to: sidecar.seconds - 0.05 }], 0);
  expect(measure.windows[0]?.channels[0]?.longestSilenceMs).toBeLessThan(60);
  await expectAtRest(stage);
});

let stage: RtpengineStage;

describe("a recording that cannot be made", () => {
  beforeEach(async () => {
    stage = await startStage();
  });
  afterEach(async () => {
    await stage[Symbol.asyncDispose]();
  });

  test("fails with its reason when the spool is missing, and the call goes on", async () => {
    rmSync(join(stage.server.recordingFolder, "pcaps"), { recursive: true });
    const call = stage.call();
    const caller = await stage.phone();
    await call.open(caller);
    stage.anchor.recording(call.id, "start");
    expect(await call.event("recording.changed")).toMatchObject({ state: "failed", file: null, reason: "no_spool" });
    expect(await call.played(call.play(stage.botPrompt(0.3)))).toMatchObject({ result: "completed" });
    await call.close();
    expect(call.all("recording.changed")).toHaveLength(1);
  });

  test("fails when rtpengine records nothing because it has no recording folder", async () => {
    await using bare = await startStage({}, { args: ["--recording-method=pcap", "--recording-dir="] });
    const call = bare.call();
    const caller = await bare.phone();
    await call.open(caller);
    bare.anchor.recording(call.id, "start");
    expect(await call.event("recording.changed")).toMatchObject({ state: "failed", reason: "no_spool" });
    await call.close();
  });
});

describe("after a crash", () => {
  beforeEach(async () => {
    stage = await startStage();
  });
  afterEach(async () => {
    await stage[Symbol.asyncDispose]();
  });

  /** Another service on the same rtpengine and the same folders. */
  async function another(number = 2): Promise<RtpengineAnchor> {
    return startRtpengineAnchor({
      ...stage.options,
      dtmf: { address: "127.0.0.1", port: 0 },
      prompts: { ...stage.options.prompts, cacheFolder: join(stage.folder, `cache-${number}`) },
      recording: { ...stage.options.recording!, lookAgainMs: 200 },
    });
  }

  const wavs = (): readonly string[] => readdirSync(stage.recordingFolder).filter((name) => name.endsWith(".wav"));

  test("a service that starts beside another leaves the recordings of its live calls alone", async () => {
    const call = stage.call();
    const [caller] = await stage.phones();
    await call.open(caller);
    caller.sendTone(pitches.caller);
    stage.anchor.phase(call.id, "bot");
    stage.anchor.recording(call.id, "start");
    await call.event("recording.changed");
    const startedAt = nowMs();
    await using next = await another();
    expect(await next.recoverSpool()).toEqual([]);
    // It looks again and again, and once more by itself when the call has just ended.
    await call.played(call.play(stage.botPrompt(1)));
    expect(await next.recoverSpool()).toEqual([]);
    await call.played(call.play(stage.botPrompt(1)));
    const endedAt = nowMs();
    await call.close();
    const { file, sidecar } = await finished(call);
    expect(Math.abs(sidecar.seconds - (endedAt - startedAt) / 1_000)).toBeLessThan(0.15);
    const { pitches: parts } = await heard(file, [{ from: sidecar.seconds - 0.7, to: sidecar.seconds - 0.3 }], 0);
    expect(parts[0]).toEqual([pitches.caller, pitches.bot]);
    expect(await next.recoverSpool()).toEqual([]);
    expect(wavs()).toHaveLength(1);
    await expectAtRest(stage);
    expect(next.stats()).toMatchObject({ calls: 0, timers: 0, recordings: 0, rendering: 0 });
  });

  test("what a killed service left is rendered once rtpengine does not know its call, by one of two", async () => {
    const phone = await stage.phone();
    const dead = await startKillableService(stage.options, join(stage.folder, "cache-killed"), sdpOf(phone));
    phone.connect("127.0.0.1", dead.port, "PCMU", 101);
    phone.sendTone(pitches.caller);
    await delay(1_500);
    await dead.kill();
    await using second = await another(2);
    await using third = await another(3);
    // The caller is still there, and rtpengine still records him.
    expect(await Promise.all([second.recoverSpool(), third.recoverSpool()])).toEqual([[], []]);
    expect(await stage.server.calls()).toHaveLength(1);
    await delay(1_000);
    expect(wavs()).toEqual([]);
    for (const name of await stage.server.calls())
      await stage.server.ask({ command: "delete", "call-id": name, "delete-delay": 0 });
    const [file = ""] = await waitFor(() => (wavs().length > 0 ? wavs() : undefined), {
      what: `the recording; there was ${stage.spool().join(" ")}`,
      timeoutMs: 10_000,
    });
    const path = join(stage.recordingFolder, file);
    const sidecar = JSON.parse(readFileSync(path.replace(/wav$/, "json"), "utf8")) as Sidecar;
    expect(sidecar.callId).toBe("killed-call");
    expect(sidecar.seconds).toBeGreaterThan(2.3);
    const { pitches: parts } = await heard(path, [{ from: 0.2, to: sidecar.seconds - 0.2 }], 0);
    expect(parts[0]).toEqual([pitches.caller, null]);
    await waitFor(() => stage.spool().length === 0, { what: "the spool to be empty" });
    expect(await Promise.all([second.recoverSpool(), third.recoverSpool()])).toEqual([[], []]);
    expect(wavs()).toHaveLength(1);
    // The file is there a moment before its line in the log.
    const told = (): readonly string[] => stage.logged.filter((line) => line.includes("of an earlier run"));
    await waitFor(() => told().length > 0, { what: "the log line of the recovered recording" });
    expect(told()).toHaveLength(1);
  });

  test("a call that rtpengine has lost is left alone while rtpengine cannot be asked", async () => {
    const { call } = await recorded(stage);
    await stage.server.crash();
    await using next = await another();
    expect(await next.recoverSpool()).toEqual([]);
    await call.event("media.lost", 0, 10_000);
    await call.close();
    await finished(call);
    expect(wavs()).toHaveLength(1);
  });

  test("rtpengine is killed: the call is told, the recording so far is rendered, and closing ends", async () => {
    const call = stage.call();
    const [caller, operator] = await stage.phones();
    await call.open(caller);
    caller.sendTone(pitches.caller);
    stage.anchor.recording(call.id, "start");
    await call.event("recording.changed");
    const play = call.play(stage.botPrompt(30));
    await caller.hears(pitches.bot);
    await delay(1_000);
    await stage.server.crash();
    stage.anchor.offer(call.id, call.leg("operator-1"));
    stage.anchor.join(call.id, call.leg("operator-1"), sdpOf(operator));
    expect(await call.event("media.legFailed", 1, 10_000)).toBeDefined();
    await call.event("media.lost", 0, 10_000);
    await call.close();
    expect(await call.played(play)).toMatchObject({ result: "stopped" });
    const { sidecar } = await finished(call);
    expect(sidecar.seconds).toBeGreaterThan(1);
    // From the last packet that reached the disk to the end.
    const [gap, ...more] = sidecar.gaps;
    expect([gap?.reason, more]).toEqual(["lost", []]);
    expect(Math.abs((gap?.at ?? 0) + (gap?.seconds ?? 0) - sidecar.seconds)).toBeLessThan(0.01);
    expect(call.all("media.lost")).toHaveLength(1);
    expect(call.all("media.closed")).toHaveLength(1);
    expect(stage.anchor.ready()).toBe(false);
    expect(stage.anchor.stats()).toMatchObject({ calls: 0, queued: 0, timers: 0, recordings: 0 });
    const next = stage.call();
    const phone = await stage.phone();
    stage.anchor.open(next.id, next.caller, sdpOf(phone), {
      botId: "b",
      caller: "1",
      called: "2",
    });
    expect(await next.event("media.openFailed")).toMatchObject({ incompatible: false });
    await stage.server.start();
    await waitFor(() => stage.anchor.ready(), { what: "the anchor to be ready again", timeoutMs: 10_000 });
  });

  test("a recording that is asked for before a loss is noticed begins where the call has moved to", async () => {
    const call = stage.call();
    const caller = await stage.phone();
    await call.open(caller);
    await stage.server.crash();
    await stage.server.start();
    stage.anchor.recording(call.id, "start");
    expect(await call.event("recording.changed", 0, 10_000)).toMatchObject({ state: "started" });
    const { offer } = await call.event("media.moved");
    caller.connect("127.0.0.1", portIn(offer), "PCMU", 101);
    caller.sendTone(pitches.caller);
    stage.anchor.renew(call.id, call.caller, sdpOf(caller, { version: 2 }), false);
    await delay(1_000);
    await call.close();
    const { sidecar, file } = await finished(call);
    const { seconds } = sidecar;
    expect((await heard(file, [{ from: seconds - 0.8, to: seconds }])).pitches).toEqual([[pitches.caller, null]]);
  });

  test("rtpengine restarts without its calls: that is noticed by asking, and the recording goes on", async () => {
    const { call, caller } = await recorded(stage);
    await delay(1_000);
    await stage.server.crash();
    await stage.server.start();
    const { offer } = await call.event("media.moved", 0, 10_000);
    caller.connect("127.0.0.1", portIn(offer), "PCMU", 101);
    stage.anchor.renew(call.id, call.caller, sdpOf(caller, { version: 2 }), false);
    await delay(1_000);
    expect(call.all("media.lost")).toEqual([]);
    await call.close();
    const { sidecar, file } = await finished(call);
    expect(sidecar.gaps).toMatchObject([{ reason: "lost" }]);
    expect((await heard(file, aroundGap(sidecar))).pitches).toEqual([
      [pitches.caller, null],
      [pitches.caller, null],
    ]);
    expect(existsSync(stage.server.recordingFolder)).toBe(true);
  });
});
