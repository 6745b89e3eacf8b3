import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { WavReader, WavWriter } from "../../src/media/audio/wav.ts";
import type { JournalLine } from "../../src/media/recording/journal.ts";
import { renderRecording } from "../../src/media/recording/render.ts";
import type { Sidecar } from "../../src/media/recording/timeline.ts";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "segments-"));
  mkdirSync(join(folder, "spool", "segments"), { recursive: true });
  mkdirSync(join(folder, "spool", "patchbay"));
});
afterEach(() => {
  rmSync(folder, { recursive: true, force: true });
});

/** A segment whose left samples are all `value` and whose right ones are its negative. */
function segment(name: string, ms: number, value: number, channels = 2): void {
  using writer = new WavWriter(join(folder, "spool", "segments", name), channels, 8_000, 0o640);
  const frames = ms * 8;
  writer.write(Int16Array.from({ length: frames * channels }, (_, index) => (index % channels === 0 ? value : -value)));
  writer.finish();
}

function render(lines: readonly JournalLine[]): { samples: number[][]; sidecar: Sidecar; ms: number } {
  const journal = join(folder, "spool", "patchbay", "call.jsonl");
  const opening = {
    type: "open",
    v: 1,
    callId: "c",
    ngCall: "uuid",
    botId: "b",
    caller: "1",
    called: "2",
    name: "c-1",
  } as const;
  writeFileSync(journal, [opening, ...lines].map((line) => `${JSON.stringify(line)}\n`).join(""));
  const { file, sidecar, durationMs } = renderRecording({
    journal,
    unwritten: "",
    spoolFolder: join(folder, "spool"),
    folder,
    mark: null,
  });
  using reader = new WavReader(file);
  const bytes = reader.readBytes(reader.format.frames);
  const samples = Array.from({ length: reader.format.frames }, (_, frame) => [
    bytes.readInt16LE(frame * 4),
    bytes.readInt16LE(frame * 4 + 2),
  ]);
  return { samples, ms: durationMs, sidecar: JSON.parse(readFileSync(sidecar, "utf8")) as Sidecar };
}

describe("segments that a media server has recorded", () => {
  test("are put together, each with the room that its time takes, and removed", () => {
    segment("a-1.wav", 1_040, 100);
    segment("a-2.wav", 480, 200);
    const { samples, sidecar, ms } = render([
      { type: "capture", file: "a-1.wav" },
      { type: "run", at: 10_000 },
      { type: "phase", at: 10_000, phase: "bot" },
      { type: "hold", at: 11_000 },
      { type: "capture", file: "a-2.wav" },
      { type: "run", at: 13_000 },
      { type: "hold", at: 13_500 },
      { type: "end", at: 14_000 },
    ]);
    expect(ms).toBe(1_500);
    expect([samples[0], samples[7_999], samples[8_000], samples[11_839], samples[11_840], samples[11_999]]).toEqual([
      [100, -100],
      [100, -100],
      [200, -200],
      [200, -200],
      [0, 0],
      [0, 0],
    ]);
    expect(sidecar.gaps).toEqual([{ at: 1, seconds: 2, reason: "paused" }]);
    expect(readdirSync(join(folder, "spool", "segments"))).toEqual([]);
  });

  test("have silence where the caller was switched for what was dropped there, and no more than that", () => {
    // 40 ms are missing, and 700: the one was dropped at two switches, the other is not there for another reason.
    for (const [ms, ends] of [
      [960, [0, 160]],
      [300, [0, 480]],
    ] as const) {
      segment("a-1.wav", ms, 100);
      const { samples } = render([
        { type: "capture", file: "a-1.wav" },
        { type: "join", at: 10_000, leg: "operator-1" },
        { type: "run", at: 10_000 },
        { type: "leave", at: 10_100, leg: "operator-1" },
        { type: "join", at: 10_200, leg: "operator-2" },
        { type: "end", at: 11_000 },
      ]);
      const silent = samples.flatMap(([left], frame) => (left === 0 ? [frame] : []));
      const at = (frame: number): number =>
        silent.filter((silence) => silence >= frame && silence < frame + 800).length;
      expect(samples).toHaveLength(8_000);
      expect([at(0), at(800), at(1_600)]).toEqual([ends[0], ends[1], ends[1]]);
    }
  });

  test("keep their places when one is missing or its time was empty", () => {
    segment("a-3.wav", 1_000, 300);
    const { samples } = render([
      { type: "capture", file: "a-1.wav" },
      { type: "run", at: 10_000 },
      { type: "hold", at: 10_000 },
      { type: "capture", file: "a-2.wav" },
      { type: "run", at: 11_000 },
      { type: "hold", at: 11_500 },
      { type: "capture", file: "a-3.wav" },
      { type: "run", at: 12_000 },
      { type: "end", at: 13_000 },
    ]);
    expect([samples.length, samples[3_999], samples[4_000]]).toEqual([12_000, [0, 0], [300, -300]]);
  });

  test("tell after a crash how long the recording was", () => {
    segment("a-1.wav", 2_500, 100);
    const { ms } = render([
      { type: "capture", file: "a-1.wav" },
      { type: "run", at: 10_000 },
    ]);
    expect(ms).toBe(2_500);
  });

  test("of another form are refused and stay", () => {
    segment("a-1.wav", 500, 100, 1);
    const lines: JournalLine[] = [
      { type: "capture", file: "a-1.wav" },
      { type: "run", at: 10_000 },
      { type: "end", at: 10_500 },
    ];
    expect(() => render(lines)).toThrowError(/1 channels/);
    expect(readdirSync(join(folder, "spool", "segments"))).toEqual(["a-1.wav"]);
  });
});
