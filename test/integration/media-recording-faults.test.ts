// What befalls a recording while its call goes on: the call must not notice, and what was recorded must stay.
import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmSync, statfsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { measureRecording } from "../../src/media/audio/measure.ts";
import type { MediaOptions, RecordingOptions } from "../../src/media/options.ts";
import { RecordingDelivery } from "../../src/media/recording/delivery.ts";
import { JournalWriter, parseJournal } from "../../src/media/recording/journal.ts";
import type { JournalLine } from "../../src/media/recording/journal.ts";
import type { Sidecar } from "../../src/media/recording/timeline.ts";
import { temporaryFolder } from "../support/folder.ts";
import { allPitches, pitches } from "../support/pitch.ts";
import { startRedis } from "../support/redis.ts";
import { S3Server } from "../support/s3-server.ts";
import { delay, waitFor } from "../support/wait.ts";
import { expectAtRest, startStage } from "./media-support.ts";
import type { RtpengineStage, TestCall } from "./media-support.ts";

/** A small file system of its own over `folder`; undefined where one may not be mounted. */
function mountSmall(folder: string, bytes: number): Disposable | undefined {
  const { status } = spawnSync("mount", ["-t", "tmpfs", "-o", `size=${bytes}`, "none", folder]);
  if (status !== 0) return undefined;
  return { [Symbol.dispose]: () => void spawnSync("umount", ["--lazy", folder]) };
}

const noMount = "no file system can be mounted here: only root may";

/** Takes all the room that is left. */
function fill(folder: string): void {
  const { bavail, bsize } = statfsSync(folder);
  writeFileSync(join(folder, "ballast"), Buffer.alloc(bavail * bsize));
}

const recordingWith =
  (change: Partial<RecordingOptions>) =>
  (usual: MediaOptions): Partial<MediaOptions> => ({ recording: { ...usual.recording!, ...change } });

const states = (call: TestCall): readonly string[] => call.all("recording.changed").map(({ state }) => state);

async function heard(file: string, from: number, to: number): Promise<readonly (number | null)[]> {
  const { windows } = await measureRecording(file, { windows: [{ from, to }], pitchesHz: allPitches });
  return (windows[0]?.channels ?? []).map(({ rmsDbfs, pitchHz }) => (rmsDbfs < -45 ? null : pitchHz));
}

function sidecarOf(file: string): Sidecar {
  return JSON.parse(readFileSync(file.replace(/\.[a-z0-9]+$/, ".json"), "utf8")) as Sidecar;
}

async function ended(call: TestCall, state: "finished" | "failed") {
  return waitFor(() => call.all("recording.changed").find((event) => event.state === state), {
    what: `the recording to be ${state}; there was ${JSON.stringify(call.all("recording.changed"))}`,
    timeoutMs: 15_000,
  });
}

/** A call that is being recorded for a second, with a prompt in it. */
async function recordedCall(stage: RtpengineStage) {
  const call = stage.call();
  const [caller, operator] = await stage.phones();
  await call.open(caller);
  caller.sendTone(pitches.caller);
  stage.anchor.phase(call.id, "bot");
  stage.anchor.recording(call.id, "start");
  expect(await call.event("recording.changed")).toMatchObject({ state: "started" });
  await call.played(call.play(stage.botPrompt(1)));
  return { call, caller, operator };
}

/** The caller still talks with an operator, and hears prompts. */
async function goesOn(stage: RtpengineStage, { call, caller, operator }: Awaited<ReturnType<typeof recordedCall>>) {
  operator.connect("127.0.0.1", await call.offer("operator-9"), "PCMU", 101);
  operator.sendTone(pitches.operator);
  await call.join("operator-9", operator);
  await caller.hears(pitches.operator);
  call.drop("operator-9");
  expect(await call.played(call.play(stage.botPrompt(0.3)))).toMatchObject({ result: "completed" });
  expect(call.all("media.lost")).toEqual([]);
}

describe("a recording whose disk is full", () => {
  test("ends with an event within seconds; what was recorded is there, and a new one can begin", async (context) => {
    await using stage = await startStage(recordingWith({ leastFreeBytes: 1_000_000 }));
    const spool = stage.server.recordingFolder;
    using mounted = mountSmall(spool, 8_000_000);
    if (mounted === undefined) return context.skip(noMount);
    for (const name of ["pcaps", "metadata", "tmp"]) mkdirSync(join(spool, name));
    const parties = await recordedCall(stage);
    const { call } = parties;
    fill(spool);
    expect(await ended(call, "failed")).toMatchObject({ reason: "disk_full", file: null });
    const { file, durationMs } = await ended(call, "finished");
    expect(durationMs).toBeGreaterThan(900);
    expect(await heard(file ?? "", 0.3, 0.7)).toEqual([pitches.caller, pitches.bot]);
    await goesOn(stage, parties);
    stage.anchor.recording(call.id, "start");
    await waitFor(() => states(call).filter((state) => state === "failed").length === 2, { what: "the refusal" });
    rmSync(join(spool, "ballast"));
    stage.anchor.recording(call.id, "start");
    await waitFor(() => states(call).filter((state) => state === "started").length === 2, { what: "the next one" });
    await delay(700);
    await call.close();
    expect(states(call)).toEqual(["started", "failed", "finished", "failed", "started", "finished"]);
    expect(readdirSync(stage.recordingFolder).filter((name) => name.endsWith(".wav"))).toHaveLength(2);
    await expectAtRest(stage);
  });

  test("is rendered as soon as there is room for it when only that for finished ones is full", async (context) => {
    await using stage = await startStage(recordingWith({ leastFreeBytes: 1_000_000, lookAgainMs: 300 }));
    using mounted = mountSmall(stage.recordingFolder, 8_000_000);
    if (mounted === undefined) return context.skip(noMount);
    const parties = await recordedCall(stage);
    fill(stage.recordingFolder);
    await goesOn(stage, parties);
    await parties.call.close();
    expect(await ended(parties.call, "failed")).toMatchObject({ reason: "ENOSPC" });
    expect(readdirSync(stage.recordingFolder)).toEqual(["ballast"]);
    rmSync(join(stage.recordingFolder, "ballast"));
    const [name = ""] = await waitFor(
      () => {
        const wavs = readdirSync(stage.recordingFolder).filter((file) => file.endsWith(".wav"));
        return wavs.length > 0 ? wavs : undefined;
      },
      { what: "the recording", timeoutMs: 20_000 },
    );
    expect(await heard(join(stage.recordingFolder, name), 0.3, 0.7)).toEqual([pitches.caller, pitches.bot]);
    await waitFor(() => stage.spool().length === 0, { what: "the spool to be empty" });
  });
});

test("the log of a recording loses no line to a full disk", async (context) => {
  await using temporary = await temporaryFolder("log");
  using mounted = mountSmall(temporary.path, 64 * 1_024);
  if (mounted === undefined) return context.skip(noMount);
  const journal = new JournalWriter(temporary.path, "one", () => {});
  const line = (at: number): JournalLine => ({ type: "join", at, leg: `operator-${"x".repeat(1_500)}` });
  const opened: JournalLine = {
    type: "open",
    v: 1,
    callId: "c",
    ngCall: "pb-c",
    botId: "b",
    caller: "1",
    called: "2",
    name: "one",
  };
  journal.write(opened);
  expect(await journal.flush()).toBe("");
  fill(temporary.path);
  for (const at of [1, 2, 3, 4, 5]) {
    journal.write(line(at));
    await journal.flush();
  }
  // The page that the log had already takes some of them, and a part of one.
  const unwritten = await journal.flush();
  expect(unwritten.split("\n").length).toBeGreaterThan(2);
  const written = readFileSync(journal.path, "utf8");
  const whole = written.slice(0, written.lastIndexOf("\n") + 1) + unwritten;
  expect(parseJournal(whole)).toEqual([opened, ...[1, 2, 3, 4, 5].map(line)]);
  rmSync(join(temporary.path, "ballast"));
  journal.write(line(6));
  expect(await journal.flush()).toBe("");
  expect(parseJournal(readFileSync(journal.path, "utf8"))).toEqual([opened, ...[1, 2, 3, 4, 5, 6].map(line)]);
});

describe("a recording whose folder is gone", () => {
  test("ends with an event when it is rtpengine's, and the call goes on", async () => {
    await using stage = await startStage();
    const parties = await recordedCall(stage);
    rmSync(stage.server.recordingFolder, { recursive: true });
    expect(await ended(parties.call, "failed")).toMatchObject({ reason: "no_spool" });
    await goesOn(stage, parties);
    await parties.call.close();
    expect(states(parties.call).slice(0, 2)).toEqual(["started", "failed"]);
    expect(parties.call.events.at(-1)?.type).toBe("media.closed");
  });

  test("stays in the spool when it is that of finished ones, and is rendered when it is back", async () => {
    await using stage = await startStage(recordingWith({ lookAgainMs: 300 }));
    const parties = await recordedCall(stage);
    rmSync(stage.recordingFolder, { recursive: true });
    await goesOn(stage, parties);
    await parties.call.close();
    expect(await ended(parties.call, "failed")).toMatchObject({ reason: "ENOENT" });
    expect(stage.spool().some((path) => path.endsWith(".pcap"))).toBe(true);
    mkdirSync(stage.recordingFolder);
    await waitFor(() => readdirSync(stage.recordingFolder).some((name) => name.endsWith(".wav")), {
      what: "the recording",
      timeoutMs: 20_000,
    });
    await waitFor(() => stage.spool().length === 0, { what: "the spool to be empty" });
  });
});

test("an rtpengine that crashes and comes back with its calls costs the recording nothing but its absence", async () => {
  await using redis = await startRedis();
  await using stage = await startStage(
    { commandTimeoutMs: 300, pingMs: 200, watchMs: 300 },
    { redis: { port: redis.port, database: 0 } },
  );
  const parties = await recordedCall(stage);
  const { call, caller } = parties;
  for (let crash = 0; crash < 2; crash += 1) {
    await stage.server.crash();
    await waitFor(() => !stage.anchor.ready(), { what: "the outage to be noticed" });
    await stage.server.start();
    await waitFor(() => stage.anchor.ready(), { what: "rtpengine to be back" });
    await call.played(call.play(stage.botPrompt(1)));
    await waitFor(
      () => readdirSync(join(stage.server.recordingFolder, "pcaps")).some((name) => name.includes(`~${crash + 2}`)),
      {
        what: `the next capture; there is ${readdirSync(join(stage.server.recordingFolder, "pcaps")).join(" ")}`,
      },
    );
  }
  await goesOn(stage, parties);
  await caller.hears([]);
  await delay(500);
  await call.close();
  const { file } = await ended(call, "finished");
  expect(states(call)).toEqual(["started", "finished"]);
  const { seconds, gaps } = sidecarOf(file ?? "");
  // Where nothing was recorded stands beside it, and nobody is heard there.
  expect(gaps.map(({ reason }) => reason)).toEqual(["lost", "lost"]);
  for (const { at, seconds: away } of gaps) {
    expect(away).toBeGreaterThan(0.25);
    expect(await heard(file ?? "", at + 0.1, at + away - 0.05)).toEqual([null, null]);
  }
  // Before the first crash, between the two, and after both.
  expect(await heard(file ?? "", 0.3, 0.7)).toEqual([pitches.caller, pitches.bot]);
  expect(await heard(file ?? "", seconds - 0.4, seconds - 0.1)).toEqual([pitches.caller, null]);
  const { windows } = await measureRecording(file ?? "", {
    windows: Array.from({ length: Math.floor(seconds * 5) }, (_, index) => ({ from: index / 5, to: (index + 1) / 5 })),
    pitchesHz: allPitches,
  });
  const withBot = windows.filter(({ channels }) => channels[1]?.pitchHz === pitches.bot).length;
  expect(withBot).toBeGreaterThanOrEqual(12);
  await expectAtRest(stage);
});

test("a finished recording is told with its place in the storage, and is there", async (context) => {
  if (spawnSync("ffmpeg", ["-version"]).status !== 0) return context.skip("no ffmpeg");
  await using storage = await S3Server.start();
  const { endpoint, bucket, region, accessKey, secretKey } = storage;
  let delivery: RecordingDelivery | undefined;
  await using stage = await startStage((usual) => {
    delivery = new RecordingDelivery({
      folder: usual.recording!.folder,
      format: "opus",
      ffmpeg: "ffmpeg",
      conversionTimeoutMs: 30_000,
      upload: { endpoint, bucket, region, accessKey, secretKey, prefix: "", pathStyle: true, keepLocal: false },
      firstRetryMs: 100,
      longestRetryMs: 1_000,
      patienceMs: 15_000,
      clock: usual.clock,
      log: usual.log,
    });
    return { recording: { ...usual.recording!, delivery } };
  });
  const { call } = await recordedCall(stage);
  await call.close();
  const finished = await ended(call, "finished");
  expect(finished.file).toMatch(/\.opus$/);
  const name = finished.file?.slice(stage.recordingFolder.length + 1) ?? "";
  expect(finished).toMatchObject({ url: `${endpoint}/${bucket}/${name}`, reason: null });
  expect(call.all("recording.changed")[0]).toMatchObject({ file: finished.file, url: finished.url });
  await waitFor(() => storage.objects.size === 2, { what: "the upload" });
  expect([...storage.objects.keys()].sort()).toEqual([name.replace("opus", "json"), name]);
  await waitFor(() => readdirSync(stage.recordingFolder).join() === "pending", { what: "the folder to be empty" });
  // The mark goes last.
  await waitFor(() => readdirSync(join(stage.recordingFolder, "pending")).length === 0, { what: "the end of it" });
  await expectAtRest(stage);
  await delivery?.[Symbol.asyncDispose]();
});
