import { describe, expect, it } from "vitest";
import { type Evidence, judge, type Plan } from "../../demo/expectations.ts";
import type { MeasuredChannel, MeasuredPhase } from "../../demo/recording.ts";
import { findingLines, jsonFailure, jsonReport, recordingLines } from "../../demo/report.ts";
import { serviceConfiguration } from "../../demo/service.ts";
import { parseConfig } from "../../src/config/load.ts";

const channel = (pitchHz: number | null, dbfs: number): MeasuredChannel => ({
  pitchHz,
  dbfs,
  rms: 32_768 * 10 ** (dbfs / 20),
  longestSilenceMs: 10,
});
const phase = (name: string, from: number, to: number, rightHz: number | null): MeasuredPhase => ({
  phase: name,
  from,
  to,
  left: channel(440, -15),
  right: channel(rightHz, -20),
});

const plan: Plan = {
  transfers: [
    { status: "SUCCESS", hangup: false, number: "79123456789", cause: "completed" },
    { status: "FAIL", hangup: false, number: "79120000486", cause: "busy" },
  ],
  headers: { callReason: "support" },
  callerHz: 440,
  operatorHz: 850,
  longestGapMs: 60,
};

const good: Evidence = {
  switches: 2,
  transfers: plan.transfers,
  events: ["call", "answered", "transfer", "transfer", "hangup"].map((event, index) => ({ event, seq: index + 1 })),
  invitesToCaller: 0,
  operatorInvites: [{ headers: [["callReason", "support"]] }, { headers: [] }],
  callerStream: { sources: ["127.0.0.1:20000"], packets: 900, ssrcs: 2, sequenceJumps: 0 },
  talk: { callerHeardHz: 850, operatorHeardHz: 440, callerGapMs: 29 },
  recording: {
    file: "/recordings/a.wav",
    seconds: 12,
    channels: 2,
    sampleRate: 8_000,
    longestSilenceLeftMs: 20,
    gaps: 0,
    phases: [
      phase("bot", 0, 3, null),
      phase("dialling", 3, 5, 425),
      phase("operator", 5, 9, 850),
      phase("bot", 9, 10, null),
      phase("dialling", 10, 10.1, 425),
      phase("bot", 10.1, 12, null),
    ],
  },
  callsLeft: 0,
  fault: undefined,
};

const failures = (change: Partial<Evidence>): readonly string[] =>
  judge({ ...good, ...change }, plan)
    .filter(({ held }) => !held)
    .map(({ expected }) => expected);

const recordingWith = (change: Partial<NonNullable<Evidence["recording"]>>): Partial<Evidence> => {
  if (good.recording === undefined) throw new Error("no recording");
  return { recording: { ...good.recording, ...change } };
};

describe("the demo's judgement", () => {
  it("finds nothing wrong when everything held", () => {
    expect(failures({})).toEqual([]);
    expect(judge(good, plan).length).toBeGreaterThan(15);
  });

  const [completed, busy] = plan.transfers;
  it.each<[string, Partial<Evidence>, RegExp]>([
    ["another cause", { transfers: [completed!, { ...busy!, cause: "no_answer" }] }, /^transfer 2 ends FAIL busy/],
    ["two transfer events for one switch", { transfers: [completed!, busy!, busy!] }, /^exactly one transfer event/],
    ["a gap in seq", { events: good.events.map((event) => ({ ...event, seq: event.seq * 2 })) }, /without gaps/],
    ["no hangup at the end", { events: good.events.slice(0, -1) }, /hangup the last/],
    ["a warning", { events: good.events.with(1, { event: "warning", seq: 2 }) }, /no command was rejected/],
    [
      "a header that lost its case",
      { operatorInvites: [{ headers: [["Callreason", "support"]] }, { headers: [] }] },
      /callReason: support/,
    ],
    [
      "a header that came twice",
      {
        operatorInvites: [
          {
            headers: [
              ["callReason", "support"],
              ["callReason", "support"],
            ],
          },
          { headers: [] },
        ],
      },
      /callReason/,
    ],
    ["a re-INVITE", { invitesToCaller: 1 }, /no re-INVITE/],
    ["sound from two places", { callerStream: { ...good.callerStream, sources: ["a:1", "a:2"] } }, /from one place/],
    ["lost packets", { callerStream: { ...good.callerStream, sequenceJumps: 9 } }, /less than one packet of it/],
    ["a caller who hears himself", { talk: { ...good.talk, callerHeardHz: 440 } }, /the caller hears/],
    ["no recording", { recording: undefined }, /there is a recording/],
    ["one channel", recordingWith({ channels: 1 }), /two channels/],
    ["a caller who is not there for 200 ms", recordingWith({ longestSilenceLeftMs: 200 }), /never silent/],
    ["time that was cut out", recordingWith({ gaps: 1 }), /no time is missing/],
    ["no talk in the file", recordingWith({ phases: [phase("bot", 0, 3, null)] }), /the recording goes/],
    ["a call that is left over", { callsLeft: 1 }, /holds no call/],
    ["a fault of the bot", { fault: "the bot failed" }, /played to its end/],
  ])("sees %s", (_what, change, expected) => {
    expect(failures(change).join("\n")).toMatch(expected);
  });

  it("sees each channel that holds the wrong sound in one phase", () => {
    const phases = good.recording?.phases ?? [];
    const swapped = phases.with(2, { ...phases[2]!, left: channel(850, -15), right: channel(440, -15) });
    expect(failures(recordingWith({ phases: swapped }))).toEqual([
      "left: the caller's 440 Hz in every phase",
      "right: the operator's 850 Hz while they talk",
    ]);
    const mute = phases.with(3, { ...phases[3]!, right: channel(null, -90) });
    expect(failures(recordingWith({ phases: mute }))).toEqual([
      "right: the bot's voice while the caller is with the bot",
    ]);
  });
});

describe("the demo's report", () => {
  it("has the shape that programs read", () => {
    const report = jsonReport(good, judge(good, plan));
    expect(Object.keys(report)).toEqual(["ok", "transfers", "events", "recording"]);
    expect(report.ok).toBe(true);
    expect(Object.keys(report.transfers[0]!)).toEqual(["status", "hangup", "number", "cause"]);
    expect(report.events).toEqual(["call", "answered", "transfer", "transfer", "hangup"]);
    expect(Object.keys(report.recording!)).toEqual(["file", "seconds", "channels", "phases"]);
    expect(report.recording!.phases[2]).toEqual({
      phase: "operator",
      from: 5,
      to: 9,
      rmsLeft: 5_827.1,
      rmsRight: 3_276.8,
    });
  });

  it("says what failed, and is not ok then", () => {
    const evidence = { ...good, invitesToCaller: 2 };
    expect(jsonReport(evidence, judge(evidence, plan))).toMatchObject({
      ok: false,
      failed: ["the caller's phone saw no re-INVITE: found 2 INVITEs"],
    });
    expect(jsonFailure("no Redis")).toMatchObject({ ok: false, recording: null, failed: ["no Redis"] });
  });

  it("fits 100 columns", () => {
    const lines = [...recordingLines(good.recording!), ...findingLines(judge(good, plan), false)];
    expect(lines.filter((line) => line.length > 100)).toEqual([]);
  });
});

describe("the demo's configuration", () => {
  it("is one that the service takes", () => {
    const configuration = serviceConfiguration(
      {
        channels: [
          { botId: "demo-bot", number: "demo" },
          { botId: "manual", number: "manual" },
        ],
        gateway: { host: "127.0.0.1", port: 5_070 },
        sipHosts: ["127.0.0.1"],
        sources: ["127.0.0.0/8"],
        recordingFolder: "/recordings",
        sipPort: 5_060,
      },
      {
        redisUrl: "redis://127.0.0.1:1",
        ngPort: 2,
        dtmfPort: 3,
        adminPort: 4,
        spoolFolder: "/spool",
        folder: "/service",
      },
    );
    const parsed = parseConfig(JSON.stringify(configuration), {}, "/");
    expect(parsed.ok ? [] : parsed.problems).toEqual([]);
  });
});
