import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { parseConfig } from "../../src/config/load.ts";
import { programProblems } from "../../src/config/programs.ts";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "programs-"));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

/** A program that stands for ffmpeg and lists that encoder. */
function listing(encoder: string): string {
  const path = join(folder, encoder);
  writeFileSync(path, `#!/bin/sh\necho ' A....D ${encoder} something'\n`, { mode: 0o755 });
  return path;
}

function problemsWith(format: string, ffmpeg: string): readonly string[] {
  const parsed = parseConfig(`recording: { format: ${format}, ffmpeg: ${ffmpeg} }`, {}, ".");
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
  return programProblems(parsed.config).map(({ path, message }) => `${path}: ${message}`);
}

test("ffmpeg is needed for everything but WAV, with the encoder of the format", () => {
  expect(problemsWith("wav", "/nowhere/ffmpeg")).toEqual([]);
  expect(problemsWith("opus", listing("libopus"))).toEqual([]);
  expect(problemsWith("mp3", listing("libmp3lame"))).toEqual([]);
  expect(problemsWith("opus", "/nowhere/ffmpeg")).toEqual([
    "recording.ffmpeg: /nowhere/ffmpeg cannot be run (ENOENT), and `recording.format` opus needs it: install ffmpeg (build Patchbay's image with --build-arg MORE_PACKAGES=ffmpeg), or set the format to wav",
  ]);
  expect(problemsWith("mp3", "/bin/false")).toEqual([expect.stringContaining("exit status 1")]);
  expect(problemsWith("mp3", listing("libopus"))).toEqual([expect.stringContaining("built without libmp3lame")]);
});
