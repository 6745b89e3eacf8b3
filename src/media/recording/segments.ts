import { existsSync } from "node:fs";
import { WavReader } from "../audio/wav.ts";
import type { WavWriter } from "../audio/wav.ts";
import { MediaError } from "../media-error.ts";
import type { JournalLine } from "./journal.ts";
import { recordingRate } from "./rtp-track.ts";
import type { Span } from "./timeline.ts";

const blockFrames = recordingRate;
const framesOf = (ms: number): number => Math.round((ms * recordingRate) / 1_000);
/** More than a media server drops of a recording at one switch. */
const mostDropped = framesOf(60);

/** What a media server has recorded by itself, in both channels, between two pauses. */
export function isSegment(capture: string): boolean {
  return capture.endsWith(".wav");
}

/** The segments of a log, one for each stretch that `timelineOf` calls recorded. */
export function segmentsOf(lines: readonly JournalLine[]): readonly string[] {
  const files: string[] = [];
  let file = "";
  let from: number | undefined;
  for (const line of lines) {
    if (line.type === "capture") file = line.file;
    else if (line.type === "run") from ??= line.at;
    else if (line.type === "hold" || line.type === "end") {
      if (from !== undefined && line.at > from) files.push(file);
      from = undefined;
    }
  }
  return from === undefined ? files : [...files, file];
}

/** How long a segment is, in milliseconds: after a crash nothing else says when the recording ended. */
export function segmentMs(path: string): number {
  using reader = openSegment(path);
  return (reader.format.frames * 1_000) / recordingRate;
}

/** When the caller was put together with somebody, or parted. */
export function switchesOf(lines: readonly JournalLine[]): readonly number[] {
  return lines.flatMap((line) => (line.type === "join" || line.type === "leave" ? [line.at] : []));
}

/**
 * Puts segments together; `paths[n]` was recorded during `recorded[n]`, and is given as much room as that is long, so that
 * every moment lies where the sidecar says. What is missing of a segment's time was dropped at its `switches`.
 */
export function joinSegments(
  paths: readonly string[],
  recorded: readonly Span[],
  switches: readonly number[],
  writer: WavWriter,
): void {
  for (const [index, { from, to }] of recorded.entries()) {
    const path = paths[index];
    const frames = framesOf(to - from);
    const within = switches.filter((at) => at > from && at < to).map((at) => framesOf(at - from));
    const written = path === undefined || !existsSync(path) ? 0 : copySegment(path, frames, within, writer);
    writeSilence(frames - written, writer);
  }
}

/** Frames of the segment and of the silence at its switches, at most `most`. */
function copySegment(path: string, most: number, switches: readonly number[], writer: WavWriter): number {
  using reader = openSegment(path);
  const missing = Math.max(0, most - reader.format.frames);
  const room = switches.length === 0 ? 0 : Math.min(mostDropped, Math.floor(missing / switches.length));
  let written = 0;
  for (const at of switches) {
    written += copyFrames(reader, at - written, writer);
    written += writeSilence(Math.min(room, most - written), writer);
  }
  return written + copyFrames(reader, most - written, writer);
}

function writeSilence(frames: number, writer: WavWriter): number {
  for (let left = frames; left > 0; left -= blockFrames) writer.write(new Int16Array(Math.min(left, blockFrames) * 2));
  return Math.max(0, frames);
}

function copyFrames(reader: WavReader, most: number, writer: WavWriter): number {
  let written = 0;
  while (written < most) {
    const bytes = reader.readBytes(Math.min(blockFrames, most - written));
    if (bytes.length === 0) break;
    const samples = new Int16Array(bytes.length / 2);
    for (let index = 0; index < samples.length; index += 1) samples[index] = bytes.readInt16LE(index * 2);
    writer.write(samples);
    written += samples.length / 2;
  }
  return written;
}

function openSegment(path: string): WavReader {
  const reader = new WavReader(path);
  const { channels, sampleRate, encoding, bitsPerSample } = reader.format;
  if (channels === 2 && sampleRate === recordingRate && encoding === "pcm" && bitsPerSample === 16) return reader;
  reader[Symbol.dispose]();
  throw new MediaError("unsupported_audio", `a segment of ${channels} channels at ${sampleRate} Hz`);
}
