import type { TalkPhase } from "../../call/effect.ts";
import type { JournalLine } from "./journal.ts";

/** A stretch of time in milliseconds since 1970. */
export interface Span {
  readonly from: number;
  readonly to: number;
}

export interface PlayedPrompt {
  readonly file: string;
  readonly times: number;
  readonly at: number;
  /** When it was cut off; infinity when it ran to its end. */
  readonly until: number;
}

/** Everything a recording's log says, put in order. */
export interface Timeline {
  readonly opened: Extract<JournalLine, { readonly type: "open" }>;
  /** What is in the file, in order, without overlaps. */
  readonly recorded: readonly Span[];
  readonly legs: readonly (Extract<JournalLine, { readonly type: "leg" }> & { readonly heard: readonly Span[] })[];
  readonly captures: readonly string[];
  readonly phases: readonly (Span & { readonly phase: TalkPhase })[];
  readonly prompts: readonly PlayedPrompt[];
}

/** The caller's own packets belong to this leg in a log. */
export const callerLeg = "caller";

/** Spans between lines that open and lines that close; one that is left open ends at `end`. */
function spansOf(marks: readonly { readonly at: number; readonly opens: boolean }[], end: number): Span[] {
  const spans: Span[] = [];
  let from: number | undefined;
  for (const { at, opens } of marks) {
    if (opens) from ??= at;
    else if (from !== undefined) {
      if (at > from) spans.push({ from, to: at });
      from = undefined;
    }
  }
  if (from !== undefined && end > from) spans.push({ from, to: end });
  return spans;
}

/**
 * Puts a log in order. `lastPacketAt` is when the last packet was captured: after a crash nothing else says when the
 * recording ended. Undefined when nothing was recorded at all.
 */
export function timelineOf(lines: readonly JournalLine[], lastPacketAt: number): Timeline | undefined {
  const opened = lines[0];
  if (opened?.type !== "open") return undefined;
  const ended = lines.find((line) => line.type === "end");
  const lastLineAt = Math.max(0, ...lines.map((line) => ("at" in line ? line.at : 0)));
  const end = ended?.at ?? Math.max(lastPacketAt, lastLineAt);
  const recorded = spansOf(
    lines.flatMap((line) =>
      line.type === "run" || line.type === "hold" ? [{ at: line.at, opens: line.type === "run" }] : [],
    ),
    end,
  );
  if (recorded.length === 0) return undefined;
  const legs = lines
    .filter((line) => line.type === "leg")
    .map((leg) => {
      const marks = lines.flatMap((line) =>
        (line.type === "join" || line.type === "leave") && line.leg === leg.leg
          ? [{ at: line.at, opens: line.type === "join" }]
          : [],
      );
      return { ...leg, heard: leg.leg === callerLeg ? recorded : spansOf(marks, end) };
    });
  const phaseLines = lines.filter((line) => line.type === "phase");
  const phases = phaseLines.map((line, index) => ({
    phase: line.phase,
    from: line.at,
    to: phaseLines[index + 1]?.at ?? end,
  }));
  const cuts = new Map(lines.flatMap((line) => (line.type === "cut" ? [[line.id, line.at] as const] : [])));
  const prompts = lines
    .filter((line) => line.type === "play")
    .map(({ file, times, at, id }) => ({ file, times, at, until: cuts.get(id) ?? Number.POSITIVE_INFINITY }));
  const captures = lines.flatMap((line) => (line.type === "capture" ? [line.file] : []));
  return { opened, recorded, legs, captures, phases, prompts };
}

/** Seconds into the file at which a moment lies; a moment within a pause lies where the pause was cut out. */
export function secondsInFile(recorded: readonly Span[], at: number): number {
  let ms = 0;
  for (const span of recorded) ms += Math.max(0, Math.min(at, span.to) - span.from);
  return ms / 1_000;
}

const rounded = (seconds: number): number => Math.round(seconds * 1_000) / 1_000;

/** The JSON file beside a recording. */
export interface Sidecar {
  readonly callId: string;
  readonly botId: string;
  readonly caller: string;
  readonly called: string;
  readonly startedAt: string;
  readonly seconds: number;
  readonly channels: 2;
  readonly sampleRate: number;
  /** Who was with the caller; seconds in the file. A phase that lies in a pause altogether is left out. */
  readonly phases: readonly {
    readonly phase: TalkPhase;
    readonly from: number;
    readonly to: number;
    readonly startedAt: string;
  }[];
  /**
   * Time of which nothing was recorded: where it lies in the file, and how long it was. `paused` was cut out there; of `lost`,
   * when the media server was gone, the file has the silence.
   */
  readonly gaps: readonly { readonly at: number; readonly seconds: number; readonly reason: "paused" | "lost" }[];
  /** The stretches the file is put together from. */
  readonly segments: readonly { readonly from: number; readonly to: number; readonly startedAt: string }[];
}

/** `lost`: when the media server was gone, in order. */
export function sidecarOf(
  timeline: Timeline,
  seconds: number,
  sampleRate: number,
  lost: readonly Span[] = [],
): Sidecar {
  const { opened, recorded, phases } = timeline;
  const place = (at: number): number => rounded(Math.min(seconds, secondsInFile(recorded, at)));
  const segments = recorded.map((span) => ({
    from: place(span.from),
    to: place(span.to),
    startedAt: new Date(span.from).toISOString(),
  }));
  const gapOf = ({ from, to }: Span, reason: "paused" | "lost"): Sidecar["gaps"][number] => ({
    at: place(from),
    seconds: rounded((to - from) / 1_000),
    reason,
  });
  const pauses = recorded.slice(1).map((span, index) => ({ from: recorded[index]?.to ?? span.from, to: span.from }));
  const gaps = [
    ...pauses.map((span) => ({ from: span.from, gap: gapOf(span, "paused") })),
    ...lost.map((span) => ({ from: span.from, gap: gapOf(span, "lost") })),
  ]
    .sort((a, b) => a.from - b.from)
    .map(({ gap }) => gap);
  const inFile = phases
    .map((span) => ({
      phase: span.phase,
      from: place(span.from),
      to: place(span.to),
      startedAt: new Date(span.from).toISOString(),
    }))
    .filter(({ from, to }) => to > from);
  return {
    callId: opened.callId,
    botId: opened.botId,
    caller: opened.caller,
    called: opened.called,
    startedAt: new Date(recorded[0]?.from ?? 0).toISOString(),
    seconds: rounded(seconds),
    channels: 2,
    sampleRate,
    phases: inFile,
    gaps,
    segments,
  };
}
