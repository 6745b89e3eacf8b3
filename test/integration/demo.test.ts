import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { RedisWitness } from "../../demo/redis-witness.ts";
import { Service } from "../../demo/service.ts";
import { measureRecording } from "../../src/media/audio/measure.ts";
import { temporaryFolder } from "../support/folder.ts";
import { pitches } from "../support/pitch.ts";
import { claimPort } from "../support/ports.ts";
import { RunningProcess } from "../support/process.ts";
import { startRedis } from "../support/redis.ts";
import { waitFor, within } from "../support/wait.ts";

const projectFolder = fileURLToPath(new URL("../..", import.meta.url));

function startDemo(args: readonly string[]): Promise<RunningProcess> {
  return RunningProcess.start({
    name: "the demo",
    command: "node",
    cwd: projectFolder,
    args: ["--import", "tsx", "demo/main.ts", ...args],
  });
}

/** The processes that a process has started and that are still there. */
function childrenOf(pid: number): readonly number[] {
  return readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(/\s+/).filter(Boolean).map(Number);
}

function isRunning(pid: number): boolean {
  try {
    return !readFileSync(`/proc/${pid}/stat`, "utf8").includes(") Z ");
  } catch {
    return false;
  }
}

const lastLine = (text: string): string => text.trimEnd().split("\n").at(-1) ?? "";

interface Report {
  readonly ok: boolean;
  readonly transfers: readonly object[];
  readonly events: readonly string[];
  readonly recording: {
    readonly file: string;
    readonly seconds: number;
    readonly channels: number;
    readonly phases: readonly {
      readonly phase: string;
      readonly from: number;
      readonly to: number;
      readonly rmsLeft: number;
      readonly rmsRight: number;
    }[];
  };
}

describe("npm run demo -- --story", () => {
  it.each(["hunting", "fallback", "refer", "passing"])("plays %s, and everything it promises holds", async (name) => {
    await using folder = await temporaryFolder("demo");
    await using demo = await startDemo(["--json", "--folder", folder.path, "--story", name]);
    const { code } = await within(demo.exited, 55_000, "the end of the story");
    expect(code, demo.output).toBe(0);
    expect(JSON.parse(lastLine(demo.stdout))).toMatchObject({ ok: true, story: name });
  });

  it("says which stories there are", async () => {
    await using demo = await startDemo(["--story", "constructor"]);
    expect(await within(demo.exited, 20_000, "its end")).toMatchObject({ code: 2 });
    expect(demo.output).toContain("hunting");
  });
});

describe("npm run demo -- --running", () => {
  it("plays the story against a Patchbay that runs already", { timeout: 120_000 }, async () => {
    await using folder = await temporaryFolder("demo");
    await using gateway = await claimPort();
    await using service = await Service.start({
      channels: [{ botId: "demo-bot", number: "story" }],
      gateway: { host: "127.0.0.1", port: gateway.port },
      sipHosts: ["127.0.0.1"],
      sources: ["127.0.0.1"],
      recordingFolder: folder.path,
    });
    const { host, port } = service.sip;
    await using demo = await startDemo(["--json", "--running", service.configurationFile, "--sip", `${host}:${port}`]);
    const { code } = await within(demo.exited, 110_000, "the end of the demo");
    expect(code, demo.output).toBe(0);
    const report = JSON.parse(lastLine(demo.stdout)) as Report;
    expect(report.ok).toBe(true);
    expect(dirname(report.recording.file)).toBe(folder.path);
    // It was not the demo's to stop.
    expect(service.patchbay.exit).toBeUndefined();
  });

  it("says what is missing", async () => {
    await using demo = await startDemo(["--running", "docker/patchbay.yaml"]);
    expect(await within(demo.exited, 20_000, "its end")).toMatchObject({ code: 2 });
    expect(demo.output).toContain("--running and --sip go together");
  });

  it("watches a Redis that wants a password, and one bot alone", async () => {
    await using redis = await startRedis({ password: "a-password-of-the-test" });
    const url = `redis://127.0.0.1:${redis.port}`;
    const told: string[] = [];
    const options = { botId: "mine", keep: true, seen: ({ channel }: { channel: string }) => void told.push(channel) };
    await expect(RedisWitness.start({ url, password: "wrong" }, options)).rejects.toThrow("Redis says: ");
    await using witness = await RedisWitness.start({ url, password: "a-password-of-the-test" }, options);
    await using publisher = await RunningProcess.start({
      name: "redis-cli",
      command: "sh",
      args: [
        "-c",
        `for bot in other mine; do redis-cli -p ${redis.port} -a a-password-of-the-test publish "pb:{$bot}:events" '{"event":"call"}'; done`,
      ],
    });
    await within(publisher.exited, 10_000, "both to be published");
    await waitFor(() => told.length > 0, { what: "the event of its bot" });
    expect(told).toEqual(["pb:{mine}:events"]);
    expect(witness.events).toEqual([{ event: "call" }]);
  });
});

describe("npm run demo", () => {
  it("plays the story, shows it as a ladder and tells what it measured", { timeout: 120_000 }, async () => {
    await using folder = await temporaryFolder("demo");
    await using demo = await startDemo(["--json", "--folder", folder.path]);
    const { code } = await within(demo.exited, 110_000, "the end of the demo");
    expect(code, demo.output).toBe(0);

    const lines = demo.stdout.trimEnd().split("\n");
    expect(demo.stdout).not.toContain("\u001b");
    const ladder = lines.filter((line) => /^ *\d+\.\d{3} /.test(line));
    expect(ladder.filter((line) => line.length > 100)).toEqual([]);
    expect(ladder.filter((line) => /─ INVITE 79123456789 /.test(line))).toHaveLength(1);
    expect(ladder.filter((line) => line.includes('transferStatus {"status":'))).toHaveLength(3);
    const times = ladder.map((line) => Number.parseFloat(line));
    expect(times).toEqual(times.toSorted((a, b) => a - b));

    const report = JSON.parse(lastLine(demo.stdout)) as Report;
    expect(Object.keys(report)).toEqual(["ok", "transfers", "events", "recording"]);
    expect(report.ok).toBe(true);
    expect(report.transfers).toEqual([
      { status: "SUCCESS", hangup: false, number: "79123456789", cause: "completed" },
      { status: "FAIL", hangup: false, number: "79120000486", cause: "busy" },
      {
        status: "FAIL",
        hangup: false,
        number: expect.stringMatching(/^night-desk@127\.0\.0\.1:\d+$/),
        cause: "no_answer",
      },
    ]);
    expect(report.events[0]).toBe("call");
    expect(report.events.at(-1)).toBe("hangup");
    expect(report.events.filter((name) => name === "transfer")).toHaveLength(3);

    // What the report says is what is in the file.
    const { file, seconds, channels, phases } = report.recording;
    expect(dirname(file)).toBe(folder.path);
    const measured = await measureRecording(file, { windows: phases, pitchesHz: [pitches.caller, pitches.operator] });
    expect({ seconds: measured.seconds, channels: measured.channels }).toEqual({
      seconds: expect.closeTo(seconds, 2),
      channels,
    });
    const talk = phases.findIndex(({ phase }) => phase === "operator");
    expect(measured.windows[talk]?.channels.map(({ pitchHz }) => pitchHz)).toEqual([pitches.caller, pitches.operator]);
    for (const { rmsLeft, rmsRight } of phases) {
      expect(rmsLeft).toBeGreaterThan(1_000);
      expect(rmsRight).toBeGreaterThan(300);
    }
  });

  it("stops everything it started when it is interrupted, and says so", async () => {
    await using folder = await temporaryFolder("demo");
    await using demo = await startDemo(["--json", "--folder", folder.path]);
    await waitFor(() => demo.stdout.includes(" INVITE demo "), { timeoutMs: 40_000, what: "the call to begin" });
    const children = childrenOf(demo.pid);
    expect(children.length).toBeGreaterThanOrEqual(3);
    demo.signal("SIGINT");
    const { code } = await within(demo.exited, 15_000, "the end of the demo");
    expect(code).toBe(1);
    expect(demo.output).toContain("demo: interrupted by SIGINT");
    expect(JSON.parse(lastLine(demo.stdout))).toMatchObject({ ok: false, recording: null });
    expect(children.filter(isRunning)).toEqual([]);
  });

  it("fails with a sentence when it cannot keep the recording", async () => {
    await using folder = await temporaryFolder("demo");
    const file = join(folder.path, "in-the-way");
    writeFileSync(file, "");
    await using demo = await startDemo(["--json", "--folder", file]);
    const { code } = await within(demo.exited, 30_000, "the end of the demo");
    expect(code).toBe(1);
    expect(demo.output).toMatch(/^demo: .*in-the-way/m);
    expect(JSON.parse(lastLine(demo.stdout))).toMatchObject({ ok: false });
    expect(readdirSync(folder.path)).toEqual(["in-the-way"]);
  });

  it("refuses arguments that it does not know", async () => {
    await using demo = await startDemo(["--jsno"]);
    expect((await demo.exited).code).toBe(2);
    expect(demo.output).toContain("Usage: npm run demo");
  });
});
