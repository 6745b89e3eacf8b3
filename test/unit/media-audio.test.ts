import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { decodeG711, encodeG711 } from "../../src/media/audio/g711.ts";
import { measureRecording, pitchPower, rmsDbfs } from "../../src/media/audio/measure.ts";
import { Resampler } from "../../src/media/audio/resample.ts";
import { dtmfFrequencies, dtmfTones, renderTones } from "../../src/media/audio/tones.ts";
import { AudioError, toInt16, WavReader, WavWriter } from "../../src/media/audio/wav.ts";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "patchbay-audio-"));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

function sine(hz: number, sampleRate: number, seconds: number, amplitude = 0.5): Float32Array {
  return Float32Array.from(
    { length: Math.round(sampleRate * seconds) },
    (_, index) => amplitude * Math.sin((2 * Math.PI * hz * index) / sampleRate),
  );
}

/** Resamples in pieces of uneven length, as files are read. */
function resample(samples: Float32Array, from: number, to: number): Float32Array {
  const resampler = new Resampler(from, to);
  const pieces: Float32Array[] = [];
  for (let start = 0, length = 1; start < samples.length; start += length, length = (length * 7) % 4_099) {
    pieces.push(resampler.push(samples.subarray(start, start + length)));
    if (start + length >= samples.length) break;
  }
  pieces.push(resampler.flush());
  const out = new Float32Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  let offset = 0;
  for (const piece of pieces) {
    out.set(piece, offset);
    offset += piece.length;
  }
  return out;
}

describe("G.711", () => {
  // Values of ITU-T G.711 tables 1 and 2: the ends, the smallest steps and the sign.
  test.each([
    ["PCMU", 0x00, -32_124],
    ["PCMU", 0x80, 32_124],
    ["PCMU", 0xff, 0],
    ["PCMU", 0x7f, 0],
    ["PCMU", 0xfe, 8],
    ["PCMA", 0xd5, 8],
    ["PCMA", 0x55, -8],
    ["PCMA", 0xaa, 32_256],
    ["PCMA", 0x2a, -32_256],
  ] as const)("%s code %i is the sample %i", (law, code, sample) => {
    expect(decodeG711(law, Uint8Array.of(code))[0]).toBe(sample);
  });

  test.each(["PCMU", "PCMA"] as const)("%s: every code comes back as the same sample", (law) => {
    const codes = Uint8Array.from({ length: 256 }, (_, code) => code);
    const samples = decodeG711(law, codes);
    expect(decodeG711(law, encodeG711(law, samples))).toEqual(samples);
  });

  test.each(["PCMU", "PCMA"] as const)("%s: a sine keeps 35 dB of signal to noise", (law) => {
    const samples = toInt16(sine(1_004, 8_000, 1));
    const back = decodeG711(law, encodeG711(law, samples));
    const noise = Float32Array.from(samples, (sample, index) => (sample - (back[index] ?? 0)) / 32_768);
    expect(rmsDbfs(sine(1_004, 8_000, 1)) - rmsDbfs(noise)).toBeGreaterThan(35);
  });
});

describe("resampler", () => {
  test.each([8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000])(
    "%i Hz to 48 kHz keeps length, pitch and level",
    (rate) => {
      const out = resample(sine(1_000, rate, 1), rate, 48_000);
      expect(Math.abs(out.length - 48_000)).toBeLessThanOrEqual(1);
      const middle = out.subarray(4_800, 43_200);
      expect(rmsDbfs(middle)).toBeCloseTo(rmsDbfs(sine(1_000, 48_000, 1)), 1);
      expect(pitchPower(middle, 48_000, 1_000) / 0.125).toBeCloseTo(1, 2);
    },
  );

  test("is aligned: a sample's neighbourhood stays where it was", () => {
    const click = new Float32Array(8_000);
    click[4_000] = 1;
    const out = resample(click, 8_000, 48_000);
    const peak = out.indexOf(Math.max(...out));
    expect(peak).toBe(24_000);
  });

  test.each([5_000, 7_000, 9_000, 15_000, 20_000])("%i Hz does not fold into 8 kHz telephony", (hz) => {
    const out = resample(sine(hz, 48_000, 1), 48_000, 8_000);
    expect(rmsDbfs(out.subarray(800, 7_200))).toBeLessThan(-80);
  });

  test("images of 8 kHz speech stay 80 dB down", () => {
    const out = resample(sine(3_000, 8_000, 1), 8_000, 48_000).subarray(4_800, 43_200);
    expect(10 * Math.log10(pitchPower(out, 48_000, 5_000))).toBeLessThan(-80);
  });

  test("3.3 kHz passes into 8 kHz within 1 dB", () => {
    const out = resample(sine(3_300, 48_000, 1), 48_000, 8_000).subarray(800, 7_200);
    expect(rmsDbfs(out)).toBeGreaterThan(rmsDbfs(sine(3_300, 8_000, 1)) - 1);
  });
});

interface Layout {
  readonly tag: number;
  readonly channels: number;
  readonly sampleRate: number;
  readonly bits: number;
  readonly extensible?: boolean;
  readonly dataLength?: number;
  readonly before?: Buffer;
}

function wavBytes(layout: Layout, data: Buffer): Buffer {
  const fmt = Buffer.alloc(layout.extensible ? 40 : 16);
  fmt.writeUInt16LE(layout.extensible ? 0xfffe : layout.tag, 0);
  fmt.writeUInt16LE(layout.channels, 2);
  fmt.writeUInt32LE(layout.sampleRate, 4);
  const frame = (layout.channels * layout.bits) / 8;
  fmt.writeUInt32LE(layout.sampleRate * frame, 8);
  fmt.writeUInt16LE(frame, 12);
  fmt.writeUInt16LE(layout.bits, 14);
  if (layout.extensible) {
    fmt.writeUInt16LE(22, 16);
    fmt.writeUInt16LE(layout.bits, 18);
    fmt.writeUInt16LE(layout.tag, 24);
  }
  const chunk = (name: string, body: Buffer, length = body.length): Buffer => {
    const header = Buffer.alloc(8);
    header.write(name, "latin1");
    header.writeUInt32LE(length, 4);
    return Buffer.concat([header, body, Buffer.alloc(body.length & 1)]);
  };
  const body = Buffer.concat([
    Buffer.from("WAVE"),
    layout.before ?? Buffer.alloc(0),
    chunk("fmt ", fmt),
    chunk("data", data, layout.dataLength ?? data.length),
  ]);
  return Buffer.concat([chunk("RIFF", body).subarray(0, 8), body]);
}

function samplesAs(layout: Layout, samples: Float32Array): Buffer {
  const bytes = layout.bits / 8;
  const data = Buffer.alloc(samples.length * layout.channels * bytes);
  for (const [index, sample] of samples.entries()) {
    for (let channel = 0; channel < layout.channels; channel += 1) {
      const at = (index * layout.channels + channel) * bytes;
      if (layout.tag === 6 || layout.tag === 7) {
        data[at] = encodeG711(layout.tag === 6 ? "PCMA" : "PCMU", toInt16(Float32Array.of(sample)))[0] ?? 0;
      } else if (layout.tag === 3) data.writeFloatLE(sample, at);
      else if (layout.bits === 8) data[at] = Math.round(sample * 127) + 128;
      else data.writeIntLE(Math.round(sample * (2 ** (layout.bits - 1) - 1)), at, bytes);
    }
  }
  return data;
}

describe("WAV", () => {
  const layouts: readonly (Layout & { readonly name: string })[] = [
    { name: "8-bit", tag: 1, channels: 1, sampleRate: 8_000, bits: 8 },
    { name: "16-bit", tag: 1, channels: 1, sampleRate: 8_000, bits: 16 },
    { name: "16-bit stereo", tag: 1, channels: 2, sampleRate: 44_100, bits: 16 },
    { name: "24-bit", tag: 1, channels: 1, sampleRate: 48_000, bits: 24 },
    { name: "24-bit extensible stereo", tag: 1, channels: 2, sampleRate: 96_000, bits: 24, extensible: true },
    { name: "32-bit", tag: 1, channels: 1, sampleRate: 32_000, bits: 32 },
    { name: "float", tag: 3, channels: 1, sampleRate: 22_050, bits: 32 },
    { name: "float extensible", tag: 3, channels: 2, sampleRate: 48_000, bits: 32, extensible: true },
    { name: "A-law", tag: 6, channels: 1, sampleRate: 8_000, bits: 8 },
    { name: "mu-law", tag: 7, channels: 2, sampleRate: 8_000, bits: 8 },
    { name: "unknown length (pipe)", tag: 1, channels: 1, sampleRate: 22_050, bits: 16, dataLength: 0xffff_ffff },
    { name: "zero length (pipe)", tag: 1, channels: 1, sampleRate: 22_050, bits: 16, dataLength: 0 },
    {
      name: "other chunks first",
      tag: 1,
      channels: 1,
      sampleRate: 16_000,
      bits: 16,
      before: Buffer.from("LIST\x03\0\0\0abc\0", "latin1"),
    },
  ];

  test.each(layouts)("reads $name", (layout) => {
    const tone = sine(500, layout.sampleRate, 0.5);
    const path = join(folder, "in.wav");
    writeFileSync(path, wavBytes(layout, samplesAs(layout, tone)));
    using reader = new WavReader(path);
    expect(reader.format.frames).toBe(tone.length);
    const samples = reader.readMono(tone.length + 10);
    expect(samples).toHaveLength(tone.length);
    expect(rmsDbfs(samples)).toBeCloseTo(rmsDbfs(tone), 0);
    expect(pitchPower(samples, layout.sampleRate, 500)).toBeGreaterThan(0.12);
    expect(reader.readMono(1)).toHaveLength(0);
  });

  test.each([
    ["text", Buffer.from("this is not audio at all, whatever the name says"), "not_audio"],
    ["an empty file", Buffer.alloc(0), "not_audio"],
    [
      "no samples",
      wavBytes({ tag: 1, channels: 1, sampleRate: 8_000, bits: 16 }, Buffer.alloc(0)).subarray(0, 36),
      "not_audio",
    ],
    ["ADPCM", wavBytes({ tag: 2, channels: 1, sampleRate: 8_000, bits: 4 }, Buffer.alloc(8)), "unsupported_audio"],
    ["5.1", wavBytes({ tag: 1, channels: 6, sampleRate: 8_000, bits: 16 }, Buffer.alloc(24)), "unsupported_audio"],
    ["4 kHz", wavBytes({ tag: 1, channels: 1, sampleRate: 4_000, bits: 16 }, Buffer.alloc(8)), "unsupported_audio"],
    [
      "no channels",
      wavBytes({ tag: 1, channels: 0, sampleRate: 8_000, bits: 16 }, Buffer.alloc(8)),
      "unsupported_audio",
    ],
  ] as const)("refuses %s", (_name, bytes, code) => {
    const path = join(folder, "bad.wav");
    writeFileSync(path, bytes);
    expect(() => new WavReader(path)).toThrow(expect.objectContaining({ code }));
    expect(() => new WavReader(path)).toThrow(AudioError);
  });

  test("holds too loud samples at the limit", () => {
    expect([...toInt16(Float32Array.of(2, -2, 0.5))]).toEqual([32_767, -32_768, 16_384]);
  });

  test("a written stereo file measures as written, window by window", async () => {
    const path = join(folder, "out.wav");
    const writer = new WavWriter(path, 2, 8_000, 0o640);
    const left = toInt16(sine(440, 8_000, 2));
    const right = toInt16(sine(800, 8_000, 2, 0.1));
    const frames = new Int16Array(32_000);
    for (let index = 0; index < 16_000; index += 1) {
      frames[index * 2] = index >= 8_000 && index < 8_800 ? 0 : (left[index] ?? 0);
      frames[index * 2 + 1] = right[index] ?? 0;
    }
    writer.write(frames);
    writer.finish();
    const measured = await measureRecording(path, {
      windows: [
        { from: 0, to: 1 },
        { from: 1, to: 2 },
      ],
      pitchesHz: [440, 600, 800],
    });
    expect(measured).toMatchObject({ seconds: 2, channels: 2, sampleRate: 8_000 });
    const [first, second] = measured.windows;
    expect(first?.channels.map((channel) => channel.pitchHz)).toEqual([440, 800]);
    expect(first?.channels[0]?.longestSilenceMs).toBe(0);
    expect(second?.channels[0]?.longestSilenceMs).toBe(100);
    expect(first?.channels[1]?.rmsDbfs).toBeCloseTo(-23, 0);
  });
});

describe("tones", () => {
  test("each key has its two frequencies", () => {
    expect(dtmfFrequencies("5")).toEqual([770, 1_336]);
    expect(dtmfFrequencies("*")).toEqual([941, 1_209]);
    expect(dtmfFrequencies("d")).toEqual([941, 1_633]);
    expect(dtmfFrequencies("x")).toBeUndefined();
    expect(dtmfFrequencies("")).toBeUndefined();
  });

  test("a dialling string becomes tones and pauses", () => {
    const tones = dtmfTones("1w2,") ?? [];
    expect(tones.map((tone) => tone.frequenciesHz.length)).toEqual([2, 0, 0, 2, 0, 0]);
    expect(tones.reduce((sum, tone) => sum + tone.ms, 0)).toBe(2 * 200 + 500 + 2_000);
    expect(dtmfTones("12x")).toBeUndefined();
    expect(dtmfTones("ww")).toBeUndefined();
  });

  test("the rendered tone has both pitches and nothing else of weight", () => {
    const samples = renderTones([{ frequenciesHz: [697, 1_209], ms: 500 }], 48_000);
    const shares = [697, 1_209, 941].map((hz) => pitchPower(samples, 48_000, hz) / 0.0625);
    expect(shares[0]).toBeCloseTo(0.5, 1);
    expect(shares[1]).toBeCloseTo(0.5, 1);
    expect(shares[2]).toBeLessThan(0.01);
  });
});
