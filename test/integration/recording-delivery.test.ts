import { execFileSync, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { measureRecording } from "../../src/media/audio/measure.ts";
import { WavWriter } from "../../src/media/audio/wav.ts";
import { systemMediaClock } from "../../src/media/options.ts";
import { RecordingDelivery } from "../../src/media/recording/delivery.ts";
import type { DeliveryOptions } from "../../src/media/recording/delivery.ts";
import { pendingFolderName, writeMark } from "../../src/media/recording/mark.ts";
import { temporaryFolder } from "../support/folder.ts";
import type { TemporaryFolder } from "../support/folder.ts";
import { pitches } from "../support/pitch.ts";
import { S3Server } from "../support/s3-server.ts";
import { waitFor } from "../support/wait.ts";

let temporary: TemporaryFolder;
let folder: string;
let logged: { level: string; message: string; code?: string; waiting?: number }[];
let counted: string[];
const running: RecordingDelivery[] = [];

beforeEach(async () => {
  temporary = await temporaryFolder("delivery");
  folder = join(temporary.path, "recordings");
  mkdirSync(folder);
  logged = [];
  counted = [];
});
afterEach(async () => {
  for (const delivery of running.splice(0)) await delivery[Symbol.asyncDispose]();
  await temporary[Symbol.asyncDispose]();
});

const log = (level: string) => (fields: object, message: string) => void logged.push({ level, message, ...fields });

function deliveryOf(change: Partial<DeliveryOptions>): RecordingDelivery {
  const delivery = new RecordingDelivery({
    folder,
    format: "wav",
    ffmpeg: "ffmpeg",
    conversionTimeoutMs: 30_000,
    upload: null,
    firstRetryMs: 20,
    longestRetryMs: 100,
    patienceMs: 30_000,
    leaseMs: 1_000,
    clock: systemMediaClock,
    log: { debug: log("debug"), info: log("info"), warn: log("warn"), error: log("error") },
    counted: (step, result) => void counted.push(`${step} ${result}`),
    ...change,
  });
  running.push(delivery);
  return delivery;
}

/** What an ended process does not do any more; it leaves what lies in the folder. */
async function restart(change: Partial<DeliveryOptions>): Promise<RecordingDelivery> {
  for (const delivery of running.splice(0)) await delivery[Symbol.asyncDispose]();
  const next = deliveryOf(change);
  await next.start();
  return next;
}

/**
 * A rendered recording as the renderer leaves it: the caller speaks for its first half on the left, the bot for its second
 * half on the right.
 */
function record(name: string, seconds: number, delivery: RecordingDelivery): void {
  {
    using writer = new WavWriter(join(folder, `${name}.wav`), 2, 8_000, 0o640);
    const frames = Math.round(seconds * 8_000);
    const samples = new Int16Array(frames * 2);
    for (let frame = 0; frame < frames; frame += 1) {
      const [channel, hz] = frame < frames / 2 ? [0, pitches.caller] : [1, pitches.bot];
      samples[frame * 2 + channel] = Math.round(8_000 * Math.sin((2 * Math.PI * hz * frame) / 8_000));
    }
    writer.write(samples);
    writer.finish();
  }
  writeFileSync(join(folder, `${name}.json`), JSON.stringify({ seconds, channels: 2 }));
  writeMark(folder, name, delivery.mark);
}

const files = (): readonly string[] =>
  readdirSync(folder)
    .filter((name) => name !== pendingFolderName)
    .sort();
const pending = (): readonly string[] => readdirSync(join(folder, pendingFolderName)).sort();

async function atRest(delivery: RecordingDelivery): Promise<void> {
  const nothing = { waiting: { convert: 0, upload: 0 }, timers: 0 };
  await waitFor(() => JSON.stringify(delivery.stats()) === JSON.stringify(nothing) && pending().length === 0, {
    what: `rest: ${JSON.stringify(delivery.stats())} ${pending().join(" ")} ${JSON.stringify(logged)}`,
    timeoutMs: 30_000,
  });
}

/** A program that stands for ffmpeg. */
function program(text: string): string {
  const path = join(temporary.path, "program");
  writeFileSync(path, `#!/bin/sh\n${text}\n`, { mode: 0o755 });
  return path;
}

describe("conversion", () => {
  test.for(["opus", "mp3"] as const)(
    "to %s keeps the length and both parties apart; the WAV is gone",
    async (format, context) => {
      if (spawnSync("ffmpeg", ["-version"]).status !== 0) return context.skip("no ffmpeg");
      const delivery = deliveryOf({ format });
      record("one", 4, delivery);
      const wavBytes = readFileSync(join(folder, "one.wav")).length;
      expect(await delivery.take("one")).toEqual({ file: join(folder, `one.${format}`), url: null, reason: null });
      expect(files()).toEqual(["one.json", `one.${format}`]);
      const converted = join(folder, `one.${format}`);
      expect(readFileSync(converted).length).toBeLessThan(wavBytes / 2);
      const back = join(temporary.path, "back.wav");
      execFileSync("ffmpeg", ["-v", "error", "-i", converted, "-ar", "8000", back]);
      const { seconds, channels, windows } = await measureRecording(back, {
        windows: [
          { from: 0.2, to: 1.8 },
          { from: 2.2, to: 3.8 },
        ],
        pitchesHz: [pitches.caller, pitches.bot],
      });
      expect(channels).toBe(2);
      expect(Math.abs(seconds - 4)).toBeLessThan(0.1);
      const [first, second] = windows;
      expect([first?.channels[0]?.pitchHz, second?.channels[1]?.pitchHz]).toEqual([pitches.caller, pitches.bot]);
      for (const [loud, quiet] of [
        [first?.channels[0], first?.channels[1]],
        [second?.channels[1], second?.channels[0]],
      ]) {
        expect(loud?.rmsDbfs).toBeGreaterThan(-18);
        expect(quiet?.rmsDbfs).toBeLessThan(-55);
      }
      await atRest(delivery);
      expect(counted).toEqual(["convert done"]);
    },
  );

  test.for([
    ["a program that is not there", () => join(temporary.path, "nowhere"), "failed"],
    ["a program that fails", () => program("echo broken >&2; exit 3"), "failed"],
    ["a program that writes nothing", () => program("exit 0"), "unlike"],
    ["a program that never ends", () => program("exec sleep 600"), "timeout"],
    [
      "a result that is too short",
      () => program(`for last; do :; done; case "$last" in pipe:1) exec ffmpeg "$@" ;; esac; exec ffmpeg -t 1 "$@"`),
      "unlike",
    ],
    [
      "a result with one channel",
      () =>
        program(`case "$*" in *pipe:1) exec ffmpeg "$@" ;; esac; exec ffmpeg $(echo "$@" | sed 's/-c:a/-ac 1 -c:a/')`),
      "unlike",
    ],
  ] as const)("that goes wrong leaves the WAV and says so: %s", async ([, ffmpeg, code]) => {
    const delivery = deliveryOf({
      format: "opus",
      ffmpeg: ffmpeg(),
      conversionTimeoutMs: code === "timeout" ? 300 : 30_000,
    });
    record("one", 3, delivery);
    const before = readFileSync(join(folder, "one.wav"));
    expect(await delivery.take("one")).toEqual({
      file: join(folder, "one.wav"),
      url: null,
      reason: "conversion_failed",
    });
    expect(files()).toEqual(["one.json", "one.wav"]);
    expect(readFileSync(join(folder, "one.wav")).equals(before)).toBe(true);
    await atRest(delivery);
    expect(counted).toEqual(["convert failed"]);
    expect(logged.filter(({ level }) => level === "warn").map((line) => line.code)).toEqual([code]);
  });

  test("never holds a call longer than it is patient, one runs at a time, and a restart goes on", async () => {
    const marks = join(temporary.path, "marks");
    mkdirSync(marks);
    const ffmpeg = program(`touch ${marks}/$$; sleep 0.3; nice > ${marks}/$$; exec sleep 600`);
    const delivery = deliveryOf({ format: "opus", ffmpeg, patienceMs: 200 });
    for (const name of ["one", "two", "three"]) record(name, 1, delivery);
    const told = await Promise.all(["one", "two", "three"].map((name) => delivery.take(name)));
    expect(told.map(({ file, reason }) => [file, reason])).toEqual(
      ["one", "two", "three"].map((name) => [join(folder, `${name}.opus`), "conversion_pending"]),
    );
    const begun = await waitFor(() => readdirSync(marks)[0], { what: "the program to begin" });
    await waitFor(() => readFileSync(join(marks, begun), "utf8") === "10\n", { what: "its low priority" });
    expect(readdirSync(marks)).toHaveLength(1);
    expect(delivery.stats().waiting.convert).toBe(3);
    const next = await restart({ format: "opus" });
    await atRest(next);
    expect(files().filter((name) => !name.endsWith(".json"))).toEqual(["one.opus", "three.opus", "two.opus"]);
  });

  test("of which only the removal of the WAV was missing is not done again", async () => {
    const delivery = deliveryOf({ format: "opus", ffmpeg: program("exit 1") });
    record("one", 1, delivery);
    writeFileSync(join(folder, "one.opus"), "read through before the crash");
    await delivery.start();
    await atRest(delivery);
    expect(files()).toEqual(["one.json", "one.opus"]);
  });
});

describe("upload", () => {
  let storage: S3Server;
  beforeEach(async () => {
    storage = await S3Server.start();
  });
  afterEach(async () => {
    await storage[Symbol.asyncDispose]();
  });

  function upload(change: Partial<NonNullable<DeliveryOptions["upload"]>> = {}): Partial<DeliveryOptions> {
    const { endpoint, bucket, region, accessKey, secretKey } = storage;
    const prefix = "calls/2026/";
    const options = { endpoint, bucket, prefix, region, accessKey, secretKey, pathStyle: true, keepLocal: false };
    return { upload: { ...options, stallMs: 500, ...change } };
  }

  const keys = (): readonly string[] => [...storage.objects.keys()].sort();
  const puts = (): readonly string[] =>
    storage.requests.filter(({ method }) => method === "PUT").map(({ key, status }) => `${key} ${status}`);

  /** Nothing is missing and nothing is done: the local files are as they were. */
  function expectUntouched(...names: readonly string[]): void {
    expect(files()).toEqual(names.flatMap((name) => [`${name}.json`, `${name}.wav`]).sort());
    // A try may be under way.
    const marks = pending().map((name) => name.replace(/\.claimed-[0-9a-f]{12}$/, ""));
    expect(marks).toEqual(names.map((name) => `${name}.json`).sort());
  }

  test("stores the recording and its sidecar whole, and then removes them", async () => {
    const delivery = deliveryOf(upload());
    record("one", 2, delivery);
    const [wav, json] = ["one.wav", "one.json"].map((name) => readFileSync(join(folder, name)));
    expect(await delivery.take("one")).toEqual({
      file: join(folder, "one.wav"),
      url: `${storage.endpoint}/recordings/calls/2026/one.wav`,
      reason: null,
    });
    await atRest(delivery);
    expect(keys()).toEqual(["calls/2026/one.json", "calls/2026/one.wav"]);
    expect(storage.objects.get("calls/2026/one.wav")?.body.equals(wav!)).toBe(true);
    expect(storage.objects.get("calls/2026/one.json")?.body.equals(json!)).toBe(true);
    expect(storage.objects.get("calls/2026/one.wav")?.headers["content-type"]).toBe("audio/wav");
    expect(files()).toEqual([]);
    expect(counted).toEqual(["upload done"]);
    // An ETag that is the MD5 confirms by itself.
    expect(storage.requests.map(({ method }) => method)).toEqual(["PUT", "PUT"]);
  });

  test("keeps the files where that is wanted", async () => {
    const delivery = deliveryOf(upload({ keepLocal: true }));
    record("one", 1, delivery);
    await delivery.take("one");
    await atRest(delivery);
    expect(keys()).toHaveLength(2);
    expect(files()).toEqual(["one.json", "one.wav"]);
  });

  test("comes after the conversion, also after one that failed", async (context) => {
    if (spawnSync("ffmpeg", ["-version"]).status !== 0) return context.skip("no ffmpeg");
    const delivery = deliveryOf({ ...upload(), format: "opus" });
    record("good", 2, delivery);
    record("bad", 2, delivery);
    writeFileSync(join(folder, "bad.wav"), "no audio");
    const told = await Promise.all(["good", "bad"].map((name) => delivery.take(name)));
    expect(told.map(({ url, reason }) => [url?.split("/").at(-1), reason])).toEqual([
      ["good.opus", null],
      ["bad.wav", "conversion_failed"],
    ]);
    await atRest(delivery);
    expect(keys()).toEqual(["bad.json", "bad.wav", "good.json", "good.opus"].map((name) => `calls/2026/${name}`));
    expect(files()).toEqual([]);
  });

  test("of many runs two at a time", async () => {
    const delivery = deliveryOf(upload());
    const names = Array.from({ length: 12 }, (_, index) => `many-${index}`);
    for (const name of names) record(name, 1, delivery);
    await Promise.all(names.map((name) => delivery.take(name)));
    await atRest(delivery);
    expect(keys()).toHaveLength(24);
    expect(storage.mostAtOnce).toBeLessThanOrEqual(2);
    expect(files()).toEqual([]);
  });

  test("waits for a storage that is away, also over a restart, and says so", async () => {
    await storage.close();
    const delivery = deliveryOf(upload());
    for (const name of ["one", "two", "three"]) {
      record(name, 1, delivery);
      expect((await delivery.take(name)).reason).toBeNull();
    }
    const warned = (): number => logged.filter(({ level }) => level === "warn").length;
    await waitFor(() => warned() > 4, { what: "several tries" });
    expectUntouched("one", "three", "two");
    expect(delivery.stats().waiting.upload).toBe(3);
    expect(logged.find(({ level }) => level === "warn")).toMatchObject({ code: "unreachable" });
    expect(counted).not.toContain("upload done");
    const next = await restart(upload());
    const before = warned();
    await waitFor(() => warned() > before + 1, { what: "tries of the next run" });
    expectUntouched("one", "three", "two");
    await storage.open();
    await atRest(next);
    expect(keys()).toHaveLength(6);
    expect(files()).toEqual([]);
  });

  test.for([
    ["a wrong secret", { secretKey: "wrong" }, "refused"],
    ["a key that nobody knows", { accessKey: "nobody" }, "refused"],
    ["another region", { region: "us-east-1" }, "refused"],
    ["no such bucket", { bucket: "elsewhere" }, "refused"],
  ] as const)("is refused for %s: the file stays", async ([, change, code]) => {
    const delivery = deliveryOf(upload(change));
    record("one", 1, delivery);
    await delivery.take("one");
    await waitFor(() => logged.filter(({ level }) => level === "warn").length > 1, { what: "two tries" });
    expect(logged.find(({ level }) => level === "warn")).toMatchObject({ code });
    expect(JSON.stringify(logged)).not.toContain(storage.secretKey);
    expectUntouched("one");
    expect(keys()).toEqual([]);
    await atRest(await restart(upload()));
    expect(keys()).toHaveLength(2);
  });

  test("that was not confirmed counts for nothing", async () => {
    const delivery = deliveryOf(upload());
    storage.fault = { type: "lies" };
    record("one", 1, delivery);
    await delivery.take("one");
    await waitFor(() => logged.some(({ code }) => code === "unconfirmed"), { what: "the doubt" });
    expectUntouched("one");
    storage.fault = undefined;
    await atRest(delivery);
    expect(keys()).toHaveLength(2);
    expect(files()).toEqual([]);
  });

  test("is confirmed by asking where the ETag tells nothing", async () => {
    const delivery = deliveryOf(upload());
    storage.fault = { type: "encrypts" };
    record("one", 1, delivery);
    await delivery.take("one");
    await atRest(delivery);
    expect(storage.requests.map(({ method, status }) => `${method} ${status}`)).toEqual([
      "PUT 200",
      "HEAD 200",
      "PUT 200",
      "HEAD 200",
    ]);
    expect(files()).toEqual([]);
  });

  test("whose answer was lost is not sent again", async () => {
    const delivery = deliveryOf({ ...upload(), firstRetryMs: 1_000, longestRetryMs: 1_000 });
    storage.fault = { type: "silent" };
    record("one", 1, delivery);
    await delivery.take("one");
    await waitFor(() => logged.some(({ code }) => code === "unreachable"), { what: "the failure" });
    expectUntouched("one");
    storage.fault = undefined;
    await atRest(delivery);
    expect(puts().filter((put) => put === "calls/2026/one.wav 200")).toEqual([]);
    expect(keys()).toHaveLength(2);
  });

  test("that stalls is given up; closing does not wait for it", async () => {
    const delivery = deliveryOf(upload({ stallMs: 30_000 }));
    storage.fault = { type: "stalls" };
    record("one", 20, delivery);
    await delivery.take("one");
    await waitFor(() => storage.requests.length > 0, { what: "the upload to begin" });
    const next = await restart(upload());
    expectUntouched("one");
    await waitFor(() => logged.some(({ code }) => code === "unreachable"), { what: "the stall to be noticed" });
    expectUntouched("one");
    storage.fault = undefined;
    await atRest(next);
    expect(keys()).toHaveLength(2);
  });

  test("of one recording that is refused does not hold up the others", async () => {
    const delivery = deliveryOf(upload());
    storage.fault = { type: "refuse", status: 400, code: "InvalidRequest", only: "bad" };
    for (const name of ["bad", "one", "two"]) {
      record(name, 1, delivery);
      await delivery.take(name);
    }
    await waitFor(() => keys().length === 4 && pending().length === 1, { what: "the others" });
    expectUntouched("bad");
    storage.fault = undefined;
    await atRest(delivery);
    expect(keys()).toHaveLength(6);
  });

  test("of a list too long to be known at once goes on while one of it is refused", async () => {
    const delivery = deliveryOf({ ...upload(), mostKnown: 4 });
    storage.fault = { type: "refuse", status: 400, code: "InvalidRequest", only: "bad" };
    for (const name of ["bad", ...Array.from({ length: 9 }, (_, index) => `long-${index}`)]) record(name, 1, delivery);
    await delivery.take("bad");
    await delivery.start();
    await waitFor(() => keys().length === 18 && pending().length === 1, { what: "the others", timeoutMs: 10_000 });
    expectUntouched("bad");
    storage.fault = undefined;
    await atRest(delivery);
    expect(files()).toEqual([]);
  });

  test("that a crash broke off anywhere is completed", async () => {
    const first = deliveryOf(upload());
    // Uploaded, but not removed.
    record("stored", 1, first);
    // The recording is uploaded and removed, the sidecar not yet.
    record("half", 1, first);
    // Everything but the mark is gone.
    record("done", 1, first);
    await first.start();
    await atRest(first);
    record("stored", 1, first);
    record("half", 1, first);
    record("done", 1, first);
    rmSync(join(folder, "half.wav"));
    for (const ending of ["wav", "json"]) rmSync(join(folder, `done.${ending}`));
    const before = puts().length;
    await atRest(await restart(upload()));
    expect(puts()).toHaveLength(before);
    expect(keys()).toHaveLength(6);
    expect(files()).toEqual([]);
    expect(existsSync(folder)).toBe(true);
  });

  test("by two services that share the folder loses nothing", async () => {
    const [one, other] = [deliveryOf(upload()), deliveryOf(upload())];
    const names = Array.from({ length: 6 }, (_, index) => `shared-${index}`);
    for (const name of names) record(name, 1, one);
    await Promise.all([one.start(), other.start()]);
    await atRest(one);
    await atRest(other);
    expect(keys()).toHaveLength(12);
    for (const [key, { body }] of storage.objects) expect(body.length, key).toBeGreaterThan(0);
    expect(files()).toEqual([]);
  });

  test("of a service that was killed while it converted, and again while it uploaded, is completed", async (context) => {
    if (spawnSync("ffmpeg", ["-version"]).status !== 0) return context.skip("no ffmpeg");
    record("one", 2, deliveryOf({ format: "opus" }));
    const began = join(temporary.path, "began");
    await killWhen(() => existsSync(began), {
      ...upload(),
      format: "opus",
      ffmpeg: program(`echo $$ > ${began}; exec sleep 600`),
    });
    // Its child outlives it, and is none of the next one's business.
    process.kill(Number(readFileSync(began, "utf8")), "SIGKILL");
    expect(files()).toEqual(["one.json", "one.wav"]);
    const [part = "", mark] = pending();
    const claimed = expect.stringMatching(/^one\.json\.claimed-[0-9a-f]{12}$/);
    expect([part, mark]).toEqual([expect.stringMatching(/^one-[0-9a-f]{12}\.opus\.part$/), claimed]);
    storage.fault = { type: "stalls" };
    await killWhen(() => storage.requests.length > 0, { ...upload({ stallMs: 60_000 }), format: "opus" });
    expect(files()).toEqual(["one.json", "one.opus"]);
    expect(pending()).toEqual([part, claimed]);
    storage.fault = undefined;
    // Another process might still be at work on what was written a moment ago.
    const longAgo = new Date(Date.now() - 2 * 60 * 60 * 1_000);
    utimesSync(join(folder, pendingFolderName, part), longAgo, longAgo);
    await atRest(await restart({ ...upload(), format: "opus" }));
    expect(keys()).toEqual(["calls/2026/one.json", "calls/2026/one.opus"]);
    expect(files()).toEqual([]);
  });

  test("by two processes that share the folder is done by one of them, which no other disturbs; a dead one loses it", async (context) => {
    if (spawnSync("ffmpeg", ["-version"]).status !== 0) return context.skip("no ffmpeg");
    const maker = deliveryOf({ format: "opus" });
    const names = Array.from({ length: 8 }, (_, index) => `shared-${index}`);
    for (const name of names) record(name, 1, maker);
    // The first conversion of all hangs; what each process converts is noted.
    const converted = join(temporary.path, "converted");
    const hanging = join(temporary.path, "hanging");
    const ffmpeg = program(`
      case "$*" in *pipe:1) exec ffmpeg "$@" ;; esac
      echo "$PPID $*" >> ${converted}
      if mkdir ${hanging}.lock 2>/dev/null; then echo "$PPID $$" > ${hanging}; exec sleep 600; fi
      exec ffmpeg "$@"`);
    const options = { ...upload(), format: "opus", ffmpeg } as const;
    const both = [startAnother(options), startAnother(options)];
    try {
      const [slow, child] = await waitFor(
        () => (existsSync(hanging) ? readFileSync(hanging, "utf8").trim().split(" ").map(Number) : undefined),
        { what: "the conversion that hangs", timeoutMs: 30_000 },
      );
      await waitFor(() => keys().length === 14 && pending().filter((name) => !name.endsWith(".part")).length === 1, {
        what: "all but one to be stored",
        timeoutMs: 30_000,
      });
      const claimed = pending().filter((name) => name.includes(".claimed-"));
      // It shows that it is at work for longer than others would wait for it.
      const seen = statSync(join(folder, pendingFolderName, claimed[0] ?? "")).mtimeMs;
      await waitFor(() => statSync(join(folder, pendingFolderName, claimed[0] ?? "")).mtimeMs > seen + 2_000, {
        what: "the claim to be kept",
      });
      expect(keys()).toHaveLength(14);
      await both.find(({ pid }) => pid === slow)?.kill();
      process.kill(child ?? 0, "SIGKILL");
      await waitFor(() => keys().length === 16 && pending().every((name) => name.endsWith(".part")), {
        what: "the other one to take it over",
        timeoutMs: 30_000,
      });
      const perRecording = new Map<string, number>();
      for (const line of readFileSync(converted, "utf8").trim().split("\n")) {
        const name = /(shared-\d)\.wav/.exec(line)?.[1] ?? line;
        perRecording.set(name, (perRecording.get(name) ?? 0) + 1);
      }
      const twice = /(shared-\d)\.json/.exec(claimed[0] ?? "")?.[1];
      expect(Object.fromEntries(perRecording)).toEqual(
        Object.fromEntries(names.map((name) => [name, name === twice ? 2 : 1])),
      );
      expect(puts().toSorted()).toEqual(
        names.flatMap((name) => [`calls/2026/${name}.json 200`, `calls/2026/${name}.opus 200`]),
      );
      expect(files()).toEqual([]);
    } finally {
      for (const one of both) await one.kill();
    }
  });

  /** Another process that delivers what it finds, and is killed as soon as it has come so far. */
  async function killWhen(sofar: () => boolean, change: Partial<DeliveryOptions>): Promise<void> {
    const other = startAnother(change);
    try {
      await waitFor(sofar, { what: "the other process to come so far", timeoutMs: 30_000 });
    } finally {
      await other.kill();
    }
  }

  function startAnother(change: Partial<DeliveryOptions>): { readonly pid: number | undefined; kill(): Promise<void> } {
    const source = new URL("../../src/media/", import.meta.url);
    const options = {
      folder,
      ffmpeg: "ffmpeg",
      conversionTimeoutMs: 60_000,
      firstRetryMs: 20,
      longestRetryMs: 100,
      leaseMs: 1_000,
      ...change,
    };
    const code = `
      import { systemMediaClock } from ${JSON.stringify(new URL("options.ts", source).href)};
      import { RecordingDelivery } from ${JSON.stringify(new URL("recording/delivery.ts", source).href)};
      const quiet = () => {};
      const log = { debug: quiet, info: quiet, warn: quiet, error: quiet };
      const options = ${JSON.stringify({ ...options, patienceMs: 60_000 })};
      await new RecordingDelivery({ ...options, clock: systemMediaClock, log }).start();
      setInterval(quiet, 1_000);
    `;
    const child = spawn(process.execPath, ["--import", "tsx", "--input-type=module", "--eval", code], {
      stdio: "inherit",
    });
    const exited = once(child, "exit");
    return {
      pid: child.pid,
      kill: async () => {
        child.kill("SIGKILL");
        await exited;
      },
    };
  }
});
