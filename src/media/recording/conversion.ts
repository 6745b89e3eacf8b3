import { open } from "node:fs/promises";
import { MediaError } from "../media-error.ts";
import { runProgram } from "../program.ts";
import { recordingRate } from "./rtp-track.ts";

export type CompressedFormat = "opus" | "mp3";
export type RecordingFormat = "wav" | CompressedFormat;

export interface ConversionOptions {
  /** The program, by a name on the path or a full path. */
  readonly ffmpeg: string;
  /** For one conversion; as long again for reading its result. */
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

/** Calls come first: as unimportant as the rendering of recordings. */
const niceness = 10;
/** A converted file may be so much longer or shorter than the WAV: codecs work in frames of up to 60 ms. */
const mostDriftMs = 150;
const wavHeaderBytes = 44;

/** Both keep the channels apart: what one party says must not be heard faintly in the other's channel. */
const encoders: Readonly<Record<CompressedFormat, readonly string[]>> = {
  opus: ["-c:a", "libopus", "-application", "voip", "-compression_level", "5", "-b:a", "48k", "-f", "ogg"],
  mp3: ["-c:a", "libmp3lame", "-joint_stereo", "0", "-b:a", "48k", "-f", "mp3"],
};

/**
 * Converts a recording and reads the result from its first to its last second: it must have the same channels and length.
 * Rejects with a MediaError: `timeout`, `aborted`, `failed`, or `unlike` when the result is not what went in; `target` may
 * exist then. When it resolves, `target` is on the disk.
 */
export async function convertRecording(
  wav: string,
  target: string,
  format: CompressedFormat,
  expected: { readonly channels: number; readonly durationMs: number },
  { ffmpeg, timeoutMs, signal }: ConversionOptions,
): Promise<void> {
  const run = { program: ffmpeg, timeoutMs, signal, niceness };
  const quiet = ["-nostdin", "-hide_banner", "-v", "error", "-threads", "1"];
  await runProgram({ ...run, args: [...quiet, "-y", "-i", wav, "-map_metadata", "-1", ...encoders[format], target] });
  let header = Buffer.alloc(0);
  let bytes = 0;
  await runProgram({
    ...run,
    args: [
      ...quiet,
      "-i",
      target,
      "-ar",
      String(recordingRate),
      "-c:a",
      "pcm_s16le",
      "-bitexact",
      "-f",
      "wav",
      "pipe:1",
    ],
    output: (piece) => {
      if (header.length < wavHeaderBytes) header = Buffer.concat([header, piece]).subarray(0, wavHeaderBytes);
      bytes += piece.length;
    },
  });
  const channels = header.length < wavHeaderBytes ? 0 : header.readUInt16LE(22);
  if (channels !== expected.channels) {
    throw new MediaError("unlike", `the result has ${channels} channels, not ${expected.channels}`);
  }
  const durationMs = ((bytes - wavHeaderBytes) / (2 * channels * recordingRate)) * 1_000;
  if (Math.abs(durationMs - expected.durationMs) > mostDriftMs) {
    throw new MediaError("unlike", `the result is ${Math.round(durationMs)} ms long, not ${expected.durationMs} ms`);
  }
  await persist(target);
}

async function persist(path: string): Promise<void> {
  const file = await open(path, "r+");
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}
