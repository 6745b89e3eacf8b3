// WAV files as a test needs them: tones as prompts, and what a finished recording holds, read without the service's code.
import { readFile, writeFile } from "node:fs/promises";
import { sine, type Tone, tonesIn } from "../support/pitch.ts";

const promptRateHz = 16_000;

/** Writes a mono WAV with a tone of one pitch. */
export async function writeTone(path: string, hz: number, seconds: number, amplitude = 8_000): Promise<void> {
  const samples = sine(hz, amplitude, 0, Math.round(seconds * promptRateHz), promptRateHz);
  const header = Buffer.alloc(44);
  header.write("RIFF", 0, "latin1");
  header.writeUInt32LE(36 + samples.byteLength, 4);
  header.write("WAVEfmt ", 8, "latin1");
  header.writeUInt32LE(16, 16);
  header.writeUInt16LE(1, 20);
  header.writeUInt16LE(1, 22);
  header.writeUInt32LE(promptRateHz, 24);
  header.writeUInt32LE(promptRateHz * 2, 28);
  header.writeUInt16LE(2, 32);
  header.writeUInt16LE(16, 34);
  header.write("data", 36, "latin1");
  header.writeUInt32LE(samples.byteLength, 40);
  await writeFile(path, Buffer.concat([header, Buffer.from(samples.buffer, samples.byteOffset, samples.byteLength)]));
}

export class ChannelSound {
  readonly samples: Int16Array;
  readonly rateHz: number;

  constructor(samples: Int16Array, rateHz: number) {
    this.samples = samples;
    this.rateHz = rateHz;
  }

  between(fromS: number, toS: number): ChannelSound {
    const at = (seconds: number): number => Math.max(0, Math.round(seconds * this.rateHz));
    return new ChannelSound(this.samples.subarray(at(fromS), at(toS)), this.rateHz);
  }

  tones(): readonly Tone[] {
    return tonesIn([this.samples], { rateHz: this.rateHz });
  }

  /** Every pitch that is heard anywhere, looked for in steps so short that nothing hides in an average. */
  everyPitch(): readonly number[] {
    const found = new Set<number>();
    const stepS = 0.1;
    for (let fromS = 0; fromS < this.samples.length / this.rateHz; fromS += stepS) {
      for (const hz of this.between(fromS, fromS + stepS).pitches()) found.add(hz);
    }
    return [...found];
  }

  pitches(): readonly number[] {
    return this.tones().map(({ hz }) => hz);
  }

  /** The longest silence: samples that stay under a fortieth of a speaking voice's tone. */
  get longestGapMs(): number {
    let [longest, current] = [0, 0];
    for (const sample of this.samples) {
      current = Math.abs(sample) < 200 ? current + 1 : 0;
      longest = Math.max(longest, current);
    }
    return (longest * 1_000) / this.rateHz;
  }

  /** When the channel is first and last louder than silence, in seconds; undefined when never. */
  get sounding(): { readonly fromS: number; readonly toS: number } | undefined {
    const loud = (sample: number): boolean => Math.abs(sample) >= 200;
    const first = this.samples.findIndex(loud);
    if (first < 0) return undefined;
    return { fromS: first / this.rateHz, toS: (this.samples.findLastIndex(loud) + 1) / this.rateHz };
  }
}

export interface Recording {
  readonly channels: number;
  readonly rateHz: number;
  readonly seconds: number;
  readonly left: ChannelSound;
  readonly right: ChannelSound;
}

/** Reads a 16-bit PCM WAV with any number of chunks. */
export async function readRecording(path: string): Promise<Recording> {
  const bytes = await readFile(path);
  if (bytes.toString("latin1", 0, 4) !== "RIFF" || bytes.toString("latin1", 8, 12) !== "WAVE") {
    throw new Error(`${path} is no WAV file`);
  }
  let format: Buffer | undefined;
  let sound: Buffer | undefined;
  for (let at = 12; at + 8 <= bytes.length;) {
    const size = bytes.readUInt32LE(at + 4);
    const chunk = bytes.subarray(at + 8, at + 8 + size);
    const name = bytes.toString("latin1", at, at + 4);
    if (name === "fmt ") format = chunk;
    if (name === "data") sound = chunk;
    at += 8 + size + (size % 2);
  }
  if (format === undefined || sound === undefined) throw new Error(`${path} has no fmt or no data`);
  const [kind, channels, rateHz, bits] = [
    format.readUInt16LE(0),
    format.readUInt16LE(2),
    format.readUInt32LE(4),
    format.readUInt16LE(14),
  ];
  if (kind !== 1 || bits !== 16) throw new Error(`${path} is not 16-bit PCM`);
  const frames = Math.floor(sound.length / (2 * channels));
  const channel = (index: number): ChannelSound => {
    const samples = new Int16Array(frames);
    for (let frame = 0; frame < frames; frame += 1) {
      samples[frame] = index < channels ? sound.readInt16LE(2 * (frame * channels + index)) : 0;
    }
    return new ChannelSound(samples, rateHz);
  };
  return { channels, rateHz, seconds: frames / rateHz, left: channel(0), right: channel(1) };
}
