// The end of the demo: what was measured and what held, as text for people and as one object for programs.
import { relative } from "node:path";
import type { Evidence, Finding, TransferSeen } from "./expectations.ts";
import { shortened, tinted } from "./ladder.ts";
import { type MeasuredRecording, sidecarOf } from "./recording.ts";

const widthMax = 100;

/** A path as a person would type it. */
export function shownPath(file: string): string {
  const fromHere = relative(process.cwd(), file);
  return fromHere.startsWith("..") ? file : fromHere;
}

function bar(dbfs: number): string {
  // From silence at -60 dBFS to the loudest sound in ten steps.
  const steps = Math.max(0, Math.min(10, Math.round((dbfs + 60) / 6)));
  return "█".repeat(steps).padEnd(10, "·");
}

function channelText(channel: { readonly dbfs: number; readonly pitchHz: number | null }): string {
  const pitch = channel.pitchHz === null ? "" : `${channel.pitchHz} Hz`;
  return `${bar(channel.dbfs)} ${channel.dbfs.toFixed(1).padStart(6)} dBFS ${pitch.padEnd(8)}`;
}

/** Length, and level and pitch of both channels in each phase. */
export function recordingLines(recording: MeasuredRecording): readonly string[] {
  return [
    `Recording: ${shownPath(recording.file)}`,
    `Phases:    ${shownPath(sidecarOf(recording.file))}`,
    `           ${recording.seconds.toFixed(2)} s, ${recording.channels} channels, ${recording.sampleRate} Hz`,
    `           longest gap in the caller's channel: ${recording.longestSilenceLeftMs} ms`,
    "",
    "   phase        from      to    left: caller                  right: bot and operator",
    ...recording.phases.map(({ phase, from, to, left, right }) =>
      `   ${phase.padEnd(9)} ${from.toFixed(2).padStart(7)} ${to.toFixed(2).padStart(7)}    ${channelText(left)}   ${channelText(right)}`.trimEnd(),
    ),
  ];
}

function findingText({ expected, held, found }: Finding): string {
  if (!held) return `   FAILED  ${expected}: found ${found}`;
  // What was found is said where it is more than the expectation in other words.
  const line = `   ok      ${expected}`;
  const whole = `${line} (${found})`;
  return found === "" || expected.includes(found) || whole.length > widthMax ? shortened(line, widthMax) : whole;
}

/** One line per expectation, and what was found where it matters. */
export function findingLines(findings: readonly Finding[], colour: boolean): readonly string[] {
  return findings.map((finding) => tinted(findingText(finding), finding.held ? "good" : "bad", colour));
}

export interface JsonReport {
  readonly ok: boolean;
  readonly transfers: readonly TransferSeen[];
  readonly events: readonly string[];
  readonly recording: {
    readonly file: string;
    readonly seconds: number;
    readonly channels: number;
    readonly phases: readonly {
      readonly phase: string;
      readonly from: number;
      readonly to: number;
      /** Root mean square on the 16-bit scale, 0 to 32767. */
      readonly rmsLeft: number;
      readonly rmsRight: number;
    }[];
  } | null;
  /** Present only when something did not hold. */
  readonly failed?: readonly string[];
}

const rounded = (value: number, digits: number): number => Number(value.toFixed(digits));

/** The object that `--json` prints. */
export function jsonReport(evidence: Evidence, findings: readonly Finding[]): JsonReport {
  const failed = findings.filter(({ held }) => !held).map(({ expected, found }) => `${expected}: found ${found}`);
  const { recording } = evidence;
  return {
    ok: failed.length === 0,
    transfers: evidence.transfers,
    events: evidence.events.map(({ event }) => event),
    recording:
      recording === undefined
        ? null
        : {
            file: recording.file,
            seconds: rounded(recording.seconds, 3),
            channels: recording.channels,
            phases: recording.phases.map(({ phase, from, to, left, right }) => ({
              phase,
              from,
              to,
              rmsLeft: rounded(left.rms, 1),
              rmsRight: rounded(right.rms, 1),
            })),
          },
    ...(failed.length === 0 ? {} : { failed }),
  };
}

/** What `--json` prints when there was no call to report of. */
export function jsonFailure(reason: string): JsonReport {
  return { ok: false, transfers: [], events: [], recording: null, failed: [reason] };
}
