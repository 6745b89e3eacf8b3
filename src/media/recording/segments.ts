import { existsSync } from "node:fs";
import { WavReader } from "../audio/wav.ts";
import type { WavWriter } from "../audio/wav.ts";
import { MediaError } from "../media-error.ts";
import type { JournalLine } from "./journal.ts";
import { recordingRate } from "./rtp-track.ts";
import type { Span } from "./timeline.ts";

const blockFrames = recordingRate;

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

/**
 * Puts segments together; `paths[n]` was recorded during `recorded[n]`, and is given as much room as that is long, so that
 * every moment lies where the sidecar says.
 */
export function joinSegments(paths: readonly string[], recorded: readonly Span[], writer: WavWriter): void {
  for (const [index, { from, to }] of recorded.entries()) {
    const path = paths[index];
    const frames = Math.round(((to - from) * recordingRate) / 1_000);
    const written = path === undefined || !existsSync(path) ? 0 : copyFrames(path, frames, writer);
    for (let left = frames - written; left > 0; left -= blockFrames) {
      writer.write(new Int16Array(Math.min(left, blockFrames) * 2));
    }
  }
}

function copyFrames(path: string, most: number, writer: WavWriter): number {
  using reader = openSegment(path);
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
