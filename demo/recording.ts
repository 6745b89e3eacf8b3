// Measures a finished recording: its length, and per phase of its sidecar the level and the pitch in both channels.
import { readFile } from "node:fs/promises";
import { z } from "zod";
import { measureRecording } from "../src/media/audio/measure.ts";

export interface MeasuredChannel {
  /** Root mean square on the 16-bit scale, 0 to 32767. */
  readonly rms: number;
  readonly dbfs: number;
  /** The tone that carries most of it, of those that were asked for. */
  readonly pitchHz: number | null;
  readonly longestSilenceMs: number;
}
export interface MeasuredPhase {
  readonly phase: string;
  /** Seconds in the file. */
  readonly from: number;
  readonly to: number;
  readonly left: MeasuredChannel;
  readonly right: MeasuredChannel;
}
export interface MeasuredRecording {
  readonly file: string;
  readonly seconds: number;
  readonly channels: number;
  readonly sampleRate: number;
  readonly phases: readonly MeasuredPhase[];
  /** Of the whole file. */
  readonly longestSilenceLeftMs: number;
  /** Time that the sidecar declares to be left out. */
  readonly gaps: number;
}

const sidecarSchema = z.object({
  phases: z.array(z.object({ phase: z.string(), from: z.number(), to: z.number() })).min(1),
  gaps: z.array(z.unknown()),
});

/** The JSON file that lies beside a recording. */
export function sidecarOf(file: string): string {
  return file.replace(/\.wav$/, ".json");
}

function channelOf(measured: {
  readonly rmsDbfs: number;
  readonly pitchHz: number | null;
  readonly longestSilenceMs: number;
}): MeasuredChannel {
  return {
    rms: 32_768 * 10 ** (measured.rmsDbfs / 20),
    dbfs: measured.rmsDbfs,
    pitchHz: measured.pitchHz,
    longestSilenceMs: measured.longestSilenceMs,
  };
}

const nothing = { rmsDbfs: -120, pitchHz: null, longestSilenceMs: 0 };

/** Reads the WAV and its sidecar. Rejects when one of them is missing or is not what it should be. */
export async function measureByPhase(file: string, pitchesHz: readonly number[]): Promise<MeasuredRecording> {
  const sidecar = sidecarSchema.parse(JSON.parse(await readFile(sidecarOf(file), "utf8")));
  const whole = await measureRecording(file);
  const byPhase = await measureRecording(file, { windows: sidecar.phases, pitchesHz });
  return {
    file,
    seconds: whole.seconds,
    channels: whole.channels,
    sampleRate: whole.sampleRate,
    longestSilenceLeftMs: whole.windows[0]?.channels[0]?.longestSilenceMs ?? Number.POSITIVE_INFINITY,
    gaps: sidecar.gaps.length,
    phases: sidecar.phases.map(({ phase, from, to }, index) => {
      const [left, right] = byPhase.windows[index]?.channels ?? [];
      return { phase, from, to, left: channelOf(left ?? nothing), right: channelOf(right ?? nothing) };
    }),
  };
}
