import { closeSync, fstatSync, fsyncSync, openSync, readSync, writeSync } from "node:fs";
import { decodeG711 } from "./g711.ts";

/** A file that is not the audio it should be. `code` is stable, the message names what was found. */
export class AudioError extends Error {
  readonly code: "not_audio" | "unsupported_audio" | "too_long";

  constructor(code: AudioError["code"], message: string) {
    super(message);
    this.name = "AudioError";
    this.code = code;
  }
}

export interface WavFormat {
  readonly encoding: "pcm" | "float" | "PCMU" | "PCMA";
  readonly channels: number;
  /** Frames per second. */
  readonly sampleRate: number;
  readonly bitsPerSample: number;
  /** Whole frames that are really in the file, whatever its header says. */
  readonly frames: number;
}

interface WavLayout extends WavFormat {
  readonly dataStart: number;
}

const smallestRate = 8_000;
const largestRate = 96_000;
/** A header with more chunks than this before its samples is not one that any recorder writes. */
const mostChunks = 64;

function encodingOf(tag: number, bits: number): WavFormat["encoding"] | undefined {
  if (tag === 1 && (bits === 8 || bits === 16 || bits === 24 || bits === 32)) return "pcm";
  if (tag === 3 && bits === 32) return "float";
  if (tag === 6 && bits === 8) return "PCMA";
  if (tag === 7 && bits === 8) return "PCMU";
  return undefined;
}

function readExactly(file: number, length: number, position: number): Buffer | undefined {
  const bytes = Buffer.alloc(length);
  return readSync(file, bytes, 0, length, position) === length ? bytes : undefined;
}

function readLayout(file: number): WavLayout {
  const size = fstatSync(file).size;
  const riff = readExactly(file, 12, 0);
  if (riff === undefined || riff.toString("latin1", 0, 4) !== "RIFF" || riff.toString("latin1", 8, 12) !== "WAVE") {
    throw new AudioError("not_audio", "the file is not a RIFF WAVE file");
  }
  let position = 12;
  let format: Omit<WavFormat, "frames"> | undefined;
  for (let chunk = 0; chunk < mostChunks; chunk += 1) {
    const header = readExactly(file, 8, position);
    if (header === undefined) break;
    const name = header.toString("latin1", 0, 4);
    const length = header.readUInt32LE(4);
    position += 8;
    if (name === "fmt ") {
      const fmt = readExactly(file, Math.min(length, 40), position);
      if (fmt === undefined || fmt.length < 16) throw new AudioError("not_audio", "the fmt chunk is cut off");
      let tag = fmt.readUInt16LE(0);
      // WAVE_FORMAT_EXTENSIBLE: the real format is in the first two bytes of the sub-format GUID.
      if (tag === 0xfffe && fmt.length >= 26) tag = fmt.readUInt16LE(24);
      const channels = fmt.readUInt16LE(2);
      const sampleRate = fmt.readUInt32LE(4);
      const bitsPerSample = fmt.readUInt16LE(14);
      const encoding = encodingOf(tag, bitsPerSample);
      if (encoding === undefined) {
        throw new AudioError("unsupported_audio", `WAVE format ${tag} with ${bitsPerSample} bits is not supported`);
      }
      if (channels < 1 || channels > 2) throw new AudioError("unsupported_audio", `${channels} channels, not 1 or 2`);
      if (sampleRate < smallestRate || sampleRate > largestRate) {
        throw new AudioError("unsupported_audio", `${sampleRate} Hz is not within ${smallestRate} to ${largestRate}`);
      }
      format = { encoding, channels, sampleRate, bitsPerSample };
    } else if (name === "data") {
      if (format === undefined) throw new AudioError("not_audio", "the samples come before the fmt chunk");
      // A writer that streams to a pipe cannot know the length and leaves 0 or a huge number: the file's end counts.
      const present = Math.max(0, size - position);
      const bytes = length === 0 || length > present ? present : length;
      const frameBytes = format.channels * (format.bitsPerSample / 8);
      return { ...format, dataStart: position, frames: Math.floor(bytes / frameBytes) };
    }
    position += length + (length & 1);
  }
  throw new AudioError("not_audio", "the file holds no samples");
}

/** Samples of one channel or the mean of two, as numbers from -1 up to 1. */
function toMono(bytes: Buffer, frames: number, format: WavFormat): Float32Array {
  const { channels, encoding } = format;
  const count = frames * channels;
  const all = new Float32Array(count);
  if (encoding === "PCMU" || encoding === "PCMA") {
    const decoded = decodeG711(encoding, bytes.subarray(0, count));
    for (let index = 0; index < count; index += 1) all[index] = (decoded[index] ?? 0) / 32_768;
  } else if (encoding === "float") {
    for (let index = 0; index < count; index += 1) {
      const sample = bytes.readFloatLE(index * 4);
      all[index] = Number.isFinite(sample) ? Math.max(-1, Math.min(1, sample)) : 0;
    }
  } else if (format.bitsPerSample === 8) {
    for (let index = 0; index < count; index += 1) all[index] = ((bytes[index] ?? 128) - 128) / 128;
  } else {
    const width = format.bitsPerSample / 8;
    const scale = 2 ** (format.bitsPerSample - 1);
    for (let index = 0; index < count; index += 1) all[index] = bytes.readIntLE(index * width, width) / scale;
  }
  if (channels === 1) return all;
  const mono = new Float32Array(frames);
  for (let frame = 0; frame < frames; frame += 1) {
    mono[frame] = ((all[frame * 2] ?? 0) + (all[frame * 2 + 1] ?? 0)) / 2;
  }
  return mono;
}

/** Reads a WAV file piece by piece. Reads synchronously: for workers and tools, never for the service's own thread. */
export class WavReader implements Disposable {
  readonly format: WavFormat;
  readonly #file: number;
  readonly #layout: WavLayout;
  #frame = 0;

  /** Throws an AudioError when the file is no WAV this code reads, and the system's error when it cannot be opened. */
  constructor(path: string) {
    this.#file = openSync(path, "r");
    try {
      this.#layout = readLayout(this.#file);
    } catch (error) {
      closeSync(this.#file);
      throw error;
    }
    this.format = this.#layout;
  }

  /** The next frames as they are in the file, at most `frames`; empty at the end. */
  readBytes(frames: number): Buffer {
    const wanted = Math.min(frames, this.#layout.frames - this.#frame);
    const frameBytes = this.#layout.channels * (this.#layout.bitsPerSample / 8);
    const bytes = Buffer.alloc(Math.max(0, wanted) * frameBytes);
    if (bytes.length === 0) return bytes;
    const read = readSync(this.#file, bytes, 0, bytes.length, this.#layout.dataStart + this.#frame * frameBytes);
    const whole = Math.floor(read / frameBytes);
    this.#frame += whole;
    return bytes.subarray(0, whole * frameBytes);
  }

  /** The next frames mixed to one channel, -1 to 1; empty at the end. */
  readMono(frames: number): Float32Array {
    const bytes = this.readBytes(frames);
    const frameBytes = this.#layout.channels * (this.#layout.bitsPerSample / 8);
    return toMono(bytes, bytes.length / frameBytes, this.#layout);
  }

  /** Goes back to the first frame. */
  rewind(): void {
    this.#frame = 0;
  }

  [Symbol.dispose](): void {
    closeSync(this.#file);
  }
}

const headerBytes = 44;
/** The two lengths of a RIFF header are 32 bits wide. */
const mostDataBytes = 0xffff_ffff - headerBytes;

function wavHeader(channels: number, sampleRate: number, dataBytes: number): Buffer {
  const header = Buffer.alloc(headerBytes);
  header.write("RIFF", 0, "latin1");
  header.writeUInt32LE(dataBytes + headerBytes - 8, 4);
  header.write("WAVEfmt ", 8, "latin1");
  header.writeUInt32LE(16, 16);
  header.writeUInt16LE(1, 20);
  header.writeUInt16LE(channels, 22);
  header.writeUInt32LE(sampleRate, 24);
  header.writeUInt32LE(sampleRate * channels * 2, 28);
  header.writeUInt16LE(channels * 2, 32);
  header.writeUInt16LE(16, 34);
  header.write("data", 36, "latin1");
  header.writeUInt32LE(dataBytes, 40);
  return header;
}

/** Bytes of 16-bit samples in the order WAV wants, whatever the machine's own order is. */
function littleEndian(samples: Int16Array): Buffer {
  const bytes = Buffer.from(samples.buffer, samples.byteOffset, samples.byteLength);
  return new Uint8Array(Uint16Array.of(1).buffer)[0] === 1 ? bytes : Buffer.from(bytes).swap16();
}

/** Writes a 16-bit WAV file piece by piece; its header is right once `finish` returned. Synchronous, like the reader. */
export class WavWriter implements Disposable {
  readonly #file: number;
  readonly #channels: number;
  readonly #sampleRate: number;
  #bytes = 0;
  #open = true;

  /** `mode` is the file's permission bits. Throws the system's error when the file cannot be made. */
  constructor(path: string, channels: number, sampleRate: number, mode: number) {
    this.#file = openSync(path, "w", mode);
    this.#channels = channels;
    this.#sampleRate = sampleRate;
    writeSync(this.#file, wavHeader(channels, sampleRate, 0));
  }

  get frames(): number {
    return this.#bytes / (2 * this.#channels);
  }

  /** Appends frames; with two channels the samples alternate. Throws when the disk or the format is full. */
  write(samples: Int16Array): void {
    const bytes = littleEndian(samples);
    if (this.#bytes + bytes.length > mostDataBytes) throw new AudioError("too_long", "a WAV file holds 4 GiB at most");
    let done = 0;
    while (done < bytes.length) done += writeSync(this.#file, bytes, done);
    this.#bytes += bytes.length;
  }

  /** Writes the final header and makes sure that everything is on the disk. */
  finish(): void {
    writeSync(this.#file, wavHeader(this.#channels, this.#sampleRate, this.#bytes), 0, headerBytes, 0);
    fsyncSync(this.#file);
    this[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    if (!this.#open) return;
    this.#open = false;
    closeSync(this.#file);
  }
}

/** 16-bit samples of numbers from -1 to 1; louder ones are held at the limit instead of wrapping around. */
export function toInt16(samples: Float32Array): Int16Array {
  const out = new Int16Array(samples.length);
  for (let index = 0; index < samples.length; index += 1) {
    out[index] = Math.max(-32_768, Math.min(32_767, Math.round((samples[index] ?? 0) * 32_768)));
  }
  return out;
}
