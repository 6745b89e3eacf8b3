import {
  closeSync,
  existsSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs";
import { basename, dirname, isAbsolute, join } from "node:path";
import { WavReader, WavWriter } from "../audio/wav.ts";
import { MediaError } from "../media-error.ts";
import type { RenderedRecording, RenderOrder } from "../worker/job.ts";
import { journalStem, parseJournal } from "./journal.ts";
import type { JournalLine } from "./journal.ts";
import { writeMark } from "./mark.ts";
import { readCapture } from "./pcap.ts";
import type { CapturedPacket } from "./pcap.ts";
import { PromptTrack } from "./prompt-track.ts";
import { parseRtp, recordingRate, RtpTrack } from "./rtp-track.ts";
import { isSegment, joinSegments, segmentMs, segmentsOf, switchesOf } from "./segments.ts";
import { callerLeg, sidecarOf, timelineOf } from "./timeline.ts";
import type { Span, Timeline } from "./timeline.ts";

/** Recordings are read by their owner and his group only. */
const recordingMode = 0o640;
const blockSamples = recordingRate;
/** Packets are read this far ahead of what is written, so that late and reordered ones find their place. */
const lookAheadSamples = 2 * recordingRate;
const samplesPerMs = recordingRate / 1_000;
const mostJournalBytes = 32 * 1_024 * 1_024;

/** When the first packet of a capture came; those without any come last. */
function begunAt(path: string): number {
  for (const { atMs } of readCapture(path)) return atMs;
  return Number.POSITIVE_INFINITY;
}

/** All captures one after another: rtpengine starts a new file only after it has closed the one before. */
function* packetsOf(captures: readonly string[]): Generator<CapturedPacket, void, undefined> {
  for (const path of captures) yield* readCapture(path);
}

function lastPacketAt(captures: readonly string[]): number {
  let last = 0;
  for (const { atMs } of packetsOf(captures)) last = Math.max(last, atMs);
  return last;
}

/**
 * When rtpengine was gone. After a crash it goes on in a new capture, which else begins after a pause only: so it was away from
 * the last packet of the one to the first of the next, and to the end when it never came back.
 */
function lostSpans(captures: readonly string[], recorded: readonly Span[], lostAtEnd: boolean): readonly Span[] {
  if (captures.length < 2 && !lostAtEnd) return [];
  const filled = captures
    .map((path) => ({ from: begunAt(path), to: lastPacketAt([path]) }))
    .filter(({ from }) => from < Number.POSITIVE_INFINITY);
  const end = lostAtEnd ? recorded.at(-1)?.to : undefined;
  return filled.flatMap(({ to: from }, index) => {
    const to = filled[index + 1]?.from ?? end ?? from;
    return from < to && recorded.some((span) => from >= span.from && to <= span.to) ? [{ from, to }] : [];
  });
}

interface Place {
  readonly from: number;
  readonly to: number;
}

interface LegOnPort {
  readonly port: number;
  /** Packets before this were another leg's. */
  readonly since: number;
  readonly caller: boolean;
  readonly track: RtpTrack;
  readonly heard: readonly Place[];
}

/** Renders one log and its captures onto a time line that begins with the recording and is counted in samples. */
class Mixer {
  readonly #timeline: Timeline;
  readonly #origin: number;
  readonly #lost: readonly Span[];
  readonly #promptFolder: string;
  readonly #legs: readonly LegOnPort[];
  readonly #playing = new Set<PromptTrack>();
  #nextPrompt = 0;

  constructor(timeline: Timeline, lost: readonly Span[], promptFolder: string) {
    this.#timeline = timeline;
    this.#lost = lost;
    this.#origin = timeline.recorded[0]?.from ?? 0;
    this.#promptFolder = promptFolder;
    this.#legs = timeline.legs.map(({ leg, port, at, laws, heard }) => ({
      port,
      since: this.#sampleAt(at),
      caller: leg === callerLeg,
      track: new RtpTrack(new Map(laws)),
      heard: heard.map((span) => this.#placeOf(span)),
    }));
  }

  #placeOf(span: Span): Place {
    return { from: this.#sampleAt(span.from), to: this.#sampleAt(span.to) };
  }

  #sampleAt(ms: number): number {
    return ms === Number.POSITIVE_INFINITY ? ms : Math.round((ms - this.#origin) * samplesPerMs);
  }

  render(packets: Iterator<CapturedPacket>, writer: WavWriter): void {
    const recorded = this.#timeline.recorded.map((span) => this.#placeOf(span));
    const end = recorded.at(-1)?.to ?? 0;
    let packet = packets.next();
    for (let from = 0; from < end; from += blockSamples) {
      const to = Math.min(end, from + blockSamples);
      while (packet.done !== true && this.#sampleAt(packet.value.atMs) < to + lookAheadSamples) {
        this.#take(packet.value);
        packet = packets.next();
      }
      const block = this.#mix(from, to);
      for (const span of recorded) {
        const first = Math.max(from, span.from);
        const last = Math.min(to, span.to);
        if (last > first) writer.write(block.subarray((first - from) * 2, (last - from) * 2));
      }
    }
  }

  #take(packet: CapturedPacket): void {
    const arrival = this.#sampleAt(packet.atMs);
    const leg = this.#legs.findLast(({ port, since }) => port === packet.destinationPort && since <= arrival);
    const rtp = leg === undefined ? undefined : parseRtp(packet.payload);
    if (rtp !== undefined) leg?.track.add(rtp, arrival);
  }

  /** Both channels of one block, held at the limits of 16 bits instead of wrapping around. */
  #mix(from: number, to: number): Int16Array {
    const left = new Int32Array(to - from);
    const right = new Int32Array(to - from);
    for (const { caller, track, heard } of this.#legs) {
      const open = (place: number): boolean => heard.some((span) => place >= span.from && place < span.to);
      track.drain(from, to, caller ? left : right, caller ? () => true : open);
    }
    this.#startPrompts(to);
    for (const prompt of this.#playing) {
      prompt.drain(from, to, right);
      if (!prompt.finished) continue;
      this.#playing.delete(prompt);
      prompt[Symbol.dispose]();
    }
    const both = new Int16Array(left.length * 2);
    for (let index = 0; index < left.length; index += 1) {
      both[index * 2] = Math.max(-32_768, Math.min(32_767, left[index] ?? 0));
      both[index * 2 + 1] = Math.max(-32_768, Math.min(32_767, right[index] ?? 0));
    }
    return both;
  }

  #startPrompts(until: number): void {
    const { prompts } = this.#timeline;
    for (;;) {
      const prompt = prompts[this.#nextPrompt];
      if (prompt === undefined || this.#sampleAt(prompt.at) >= until) return;
      this.#nextPrompt += 1;
      const path = join(this.#promptFolder, basename(prompt.file));
      // A prompt that could not be kept is missing in the recording; the rest of the call must not be lost for it.
      if (!existsSync(path)) continue;
      // What rtpengine played is gone with it; Patchbay begins it again when it is back, which the log says.
      const gone = this.#lost.find(({ from }) => from > prompt.at)?.from ?? Number.POSITIVE_INFINITY;
      const end = this.#sampleAt(Math.min(prompt.until, gone));
      this.#playing.add(new PromptTrack(path, prompt.times, this.#sampleAt(prompt.at), end));
    }
  }

  close(): void {
    for (const prompt of this.#playing) prompt[Symbol.dispose]();
  }
}

function mix(mixer: Mixer, captures: readonly string[], writer: WavWriter): void {
  try {
    mixer.render(packetsOf(captures), writer);
  } finally {
    mixer.close();
  }
}

function capturePath(spoolFolder: string, file: string): string {
  return join(spoolOf(spoolFolder, file), isSegment(file) ? "segments" : "pcaps", basename(file));
}

/** The spool of a capture, which may be another than that of its log: the call has moved. */
function spoolOf(spoolFolder: string, file: string): string {
  return isAbsolute(file) ? dirname(dirname(file)) : spoolFolder;
}

/** The captures that are there, by the time they were begun. */
function capturesInOrder(spoolFolder: string, named: readonly string[]): readonly string[] {
  return [...new Set(named)]
    .map((file) => capturePath(spoolFolder, file))
    .filter((path) => existsSync(path))
    .map((path) => ({ path, at: begunAt(path) }))
    .sort((a, b) => a.at - b.at)
    .map(({ path }) => path);
}

/** When the last segment of a recording that was never ended must have ended. */
function lastSegmentEnd(lines: readonly JournalLine[], segments: readonly string[]): number {
  const path = segments.at(-1);
  const began = Math.max(0, ...lines.map((line) => (line.type === "run" ? line.at : 0)));
  return path === undefined || !existsSync(path) ? began : began + segmentMs(path);
}

function writeAside(path: string, text: string): void {
  const file = openSync(`${path}.part`, "w", recordingMode);
  try {
    writeSync(file, text);
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

/** Removes everything of a recording from the spool; the log goes last, so that a crash in between is only a repetition. */
export function removeFromSpool(journal: string, spoolFolder: string, captures: readonly string[]): void {
  for (const capture of captures) {
    if (isSegment(capture)) {
      rmSync(capturePath(spoolFolder, capture), { force: true });
      continue;
    }
    const name = basename(capture, ".pcap");
    const spool = spoolOf(spoolFolder, capture);
    rmSync(join(spool, "metadata", `rtpengine-meta-${name}.txt`), { force: true });
    rmSync(join(spool, "tmp", `rtpengine-meta-${name}.tmp`), { force: true });
    rmSync(capturePath(spoolFolder, capture), { force: true });
  }
  rmSync(journalStem(journal), { recursive: true, force: true });
  rmSync(journal, { force: true });
}

/**
 * Renders a recording and removes its spool. Throws a MediaError `no_audio` when nothing was recorded (the spool is then
 * removed too), `journal_damaged`, or the system's error, which leaves the spool as it is. Synchronous: runs in a worker.
 */
export function renderRecording({ journal, unwritten, spoolFolder, folder, mark }: RenderOrder): RenderedRecording {
  if (statSync(journal).size > mostJournalBytes) throw new MediaError("journal_damaged", "the log is far too long");
  const written = readFileSync(journal, "utf8");
  // What came after the last whole line is among the unwritten ones.
  const lines = parseJournal(unwritten === "" ? written : written.slice(0, written.lastIndexOf("\n") + 1) + unwritten);
  if (lines.length === 0) throw new MediaError("journal_damaged", "the log has no first line of this version");
  const named = lines.flatMap((line) => (line.type === "capture" ? [line.file] : []));
  const bySegments = named.some(isSegment);
  const captures = bySegments
    ? segmentsOf(lines).map((file) => capturePath(spoolFolder, file))
    : capturesInOrder(spoolFolder, named);
  const ended = lines.find((line) => line.type === "end");
  const timeline = timelineOf(
    lines,
    ended !== undefined ? 0 : bySegments ? lastSegmentEnd(lines, captures) : lastPacketAt(captures),
  );
  if (timeline === undefined) {
    removeFromSpool(journal, spoolFolder, named);
    throw new MediaError("no_audio", "nothing was recorded");
  }
  const lost = bySegments ? [] : lostSpans(captures, timeline.recorded, ended?.lost === true);
  const name = basename(timeline.opened.name);
  const file = join(folder, `${name}.wav`);
  const sidecar = join(folder, `${name}.json`);
  try {
    using writer = new WavWriter(`${file}.part`, 2, recordingRate, recordingMode);
    if (bySegments) joinSegments(captures, timeline.recorded, switchesOf(lines), writer);
    else mix(new Mixer(timeline, lost, journalStem(journal)), captures, writer);
    writer.finish();
    const seconds = writer.frames / recordingRate;
    writeAside(sidecar, `${JSON.stringify(sidecarOf(timeline, seconds, recordingRate, lost), null, 2)}\n`);
    renameSync(`${sidecar}.part`, sidecar);
    renameSync(`${file}.part`, file);
    checkReadable(file, writer.frames);
    if (mark !== null) writeMark(folder, name, mark);
    removeFromSpool(journal, spoolFolder, named);
    return { file, sidecar, durationMs: Math.round(seconds * 1_000) };
  } catch (error) {
    rmSync(`${file}.part`, { force: true });
    rmSync(`${sidecar}.part`, { force: true });
    throw error;
  }
}

/** The packets are only thrown away when what was made of them can be read back. */
function checkReadable(file: string, frames: number): void {
  using reader = new WavReader(file);
  if (reader.format.frames !== frames) throw new MediaError("unreadable", "the written recording is not whole");
}
