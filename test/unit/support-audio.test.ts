import { describe, expect, test } from "vitest";
import { type CodecName, decode, encode } from "../support/g711.ts";
import { allPitches, amplitudes, pitches, rms, sine, tonesIn } from "../support/pitch.ts";

const codecs: readonly CodecName[] = ["PCMU", "PCMA"];

describe("G.711", () => {
  test("the reference points of ITU-T G.711: silence, full scale and both signs", () => {
    expect([...encode("PCMU", [0, 32_767, -32_768])]).toEqual([0xff, 0x80, 0x00]);
    expect([...encode("PCMA", [0, 32_767, -32_768])]).toEqual([0xd5, 0xaa, 0x2a]);
    expect([...decode("PCMU", Uint8Array.of(0xff, 0x7f, 0x80, 0x00))]).toEqual([0, 0, 32_124, -32_124]);
    expect([...decode("PCMA", Uint8Array.of(0xd5, 0x55, 0xaa, 0x2a))]).toEqual([8, -8, 32_256, -32_256]);
  });

  test.each(codecs)("%s: every byte survives decoding and encoding", (codec) => {
    const bytes = Uint8Array.from({ length: 256 }, (_, byte) => byte);
    // µ-law has two zeros; the negative one comes back as the positive one.
    const expected = codec === "PCMU" ? bytes.map((byte) => (byte === 0x7f ? 0xff : byte)) : bytes;
    expect([...encode(codec, decode(codec, bytes))]).toEqual([...expected]);
  });

  test.each(codecs)("%s: the error of any sample is within a sixteenth of it, or within one smallest step", (codec) => {
    for (let sample = -32_000; sample <= 32_000; sample += 7) {
      const [back = 0] = decode(codec, encode(codec, [sample]));
      expect(Math.abs(back - sample)).toBeLessThanOrEqual(Math.max(Math.abs(sample) / 16, 8) + 4);
    }
  });
});

describe("the pitch meter", () => {
  test.each(codecs)("hears one tone through %s with its amplitude, and no other", (codec) => {
    for (const hz of allPitches) {
      const heard = tonesIn([decode(codec, encode(codec, sine(hz, 8_000, 0, 8_000)))]);
      expect(heard.map((tone) => tone.hz)).toEqual([hz]);
      expect(heard[0]!.amplitude).toBeGreaterThan(7_600);
      expect(heard[0]!.amplitude).toBeLessThan(8_400);
    }
  });

  test("hears two tones at once, the louder one first", () => {
    const mixed = sine(pitches.bot, 3_000, 0, 8_000).map(
      (sample, index) => sample + sine(pitches.operator, 9_000, index, 1)[0]!,
    );
    expect(tonesIn([mixed]).map((tone) => tone.hz)).toEqual([pitches.operator, pitches.bot]);
  });

  test("hears nothing in silence and in noise below its floor", () => {
    expect(tonesIn([new Int16Array(8_000)])).toEqual([]);
    let seed = 1;
    const noise = Int16Array.from({ length: 8_000 }, () => ((seed = (seed * 48_271) % 2_147_483_647) % 2_000) - 1_000);
    expect(tonesIn([noise])).toEqual([]);
  });

  test("a tone that jumps in phase with every packet of 20 ms is still heard", () => {
    const packets = Array.from({ length: 50 }, (_, index) => sine(pitches.caller, 8_000, index * 37, 160));
    expect(tonesIn(packets).map((tone) => tone.hz)).toEqual([pitches.caller]);
  });

  test("runs shorter than 20 ms say nothing", () => {
    expect(amplitudes([sine(440, 8_000, 0, 100)], [440])).toEqual([{ hz: 440, amplitude: 0 }]);
  });

  test("a full-scale sine has an rms of 0.707 of it", () => {
    expect(rms(sine(1_000, 32_767, 0, 8_000))).toBeCloseTo(32_767 / Math.SQRT2, -1);
    expect(rms([])).toBe(0);
  });
});
