import { renameSync, rmSync } from "node:fs";
import { Resampler } from "../audio/resample.ts";
import { renderTones } from "../audio/tones.ts";
import type { Tone } from "../audio/tones.ts";
import { AudioError, toInt16, WavReader, WavWriter } from "../audio/wav.ts";

/** What every rtpengine plays with even pacing; prompts have one channel of 16 bits. */
export const rtpengineRate = 48_000;
/** FreeSWITCH shifts the pitch of what it has to bring to the telephone's rate in small pieces, so it gets that rate. */
export const freeswitchRate = 8_000;
const readFrames = 16_384;
/** rtpengine runs under its own user and must be able to read prompts. */
const promptMode = 0o644;

/** Writes a file under a temporary name and renames it, so that nobody ever sees half a prompt. */
function writeWhole(target: string, rate: number, write: (writer: WavWriter) => void): number {
  const part = `${target}.part`;
  try {
    using writer = new WavWriter(part, 1, rate, promptMode);
    write(writer);
    writer.finish();
    renameSync(part, target);
    return (writer.frames * 1_000) / rate;
  } catch (error) {
    rmSync(part, { force: true });
    throw error;
  }
}

/**
 * Converts a WAV file into a prompt and returns its length in milliseconds. Throws an AudioError for what is no WAV this
 * code reads, is empty, or is longer than `mostSeconds`. Synchronous: runs in a worker.
 */
export function convertToPrompt(source: string, target: string, rate: number, mostSeconds: number): number {
  using reader = new WavReader(source);
  const { frames, sampleRate } = reader.format;
  if (frames === 0) throw new AudioError("not_audio", "the file holds no samples");
  if (frames / sampleRate > mostSeconds) throw new AudioError("too_long", `longer than ${mostSeconds} s`);
  return writeWhole(target, rate, (writer) => {
    const resampler = sampleRate === rate ? undefined : new Resampler(sampleRate, rate);
    for (let left = frames; left > 0;) {
      const samples = reader.readMono(readFrames);
      if (samples.length === 0) break;
      left -= samples.length;
      writer.write(toInt16(resampler?.push(samples) ?? samples));
    }
    if (resampler !== undefined) writer.write(toInt16(resampler.flush()));
  });
}

/** Writes tones as a prompt and returns its length in milliseconds. Synchronous: runs in a worker. */
export function writeTonePrompt(tones: readonly Tone[], target: string, rate: number): number {
  return writeWhole(target, rate, (writer) => {
    for (const tone of tones) writer.write(toInt16(renderTones([tone], rate)));
  });
}
