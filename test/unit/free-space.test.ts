import { expect, test } from "vitest";
import { sourcesAtRest } from "../../scripts/metrics-table.ts";
import { FreeSpace } from "../../src/telemetry/free-space.ts";
import { createMetrics } from "../../src/telemetry/metrics.ts";

/** A disk that answers when the test says so, or never. */
function hangingDisk() {
  const answers: ((bytes: number) => void)[] = [];
  return { answers, ask: () => new Promise<number>((resolve) => void answers.push(resolve)) };
}

async function spool(space: FreeSpace): Promise<string | undefined> {
  const metrics = createMetrics({ ...sourcesAtRest, freeSpace: () => space.read() });
  return (await metrics.render()).body.split("\n").find((line) => line.startsWith("patchbay_recording_free_bytes{"));
}

test("a disk that answers is told as it is, and a folder that is gone as full", async () => {
  const space = new FreeSpace({ here: import.meta.dirname, gone: "/nowhere/at/all" });
  const { here, gone } = await space.read();
  expect(here).toBeGreaterThan(0);
  expect(gone).toBe(0);
});

test("a disk that never answers is asked once; the page comes all the same, with what was known and then with 0", async () => {
  let nowMs = 0;
  const { ask, answers } = hangingDisk();
  const space = new FreeSpace({ spool: "/spool" }, { ask, patienceMs: 5, knownForMs: 1_000, now: () => nowMs });
  expect(await spool(space)).toBe('patchbay_recording_free_bytes{folder="spool"} 0');
  expect(await spool(space)).toBe('patchbay_recording_free_bytes{folder="spool"} 0');
  expect(answers).toHaveLength(1);

  answers[0]?.(7_000);
  await Promise.resolve();
  expect(await spool(space)).toBe('patchbay_recording_free_bytes{folder="spool"} 7000');
  nowMs = 999;
  expect(await spool(space)).toBe('patchbay_recording_free_bytes{folder="spool"} 7000');
  nowMs = 1_000;
  expect(await spool(space)).toBe('patchbay_recording_free_bytes{folder="spool"} 0');
  // Hanging since the answer: one question, however often the page was read.
  expect(answers).toHaveLength(2);

  answers[1]?.(5_000);
  await Promise.resolve();
  expect(await spool(space)).toBe('patchbay_recording_free_bytes{folder="spool"} 5000');
});

test("a disk that hangs holds up no other", async () => {
  const { ask } = hangingDisk();
  const space = new FreeSpace(
    { spool: "/spool", recordings: "/recordings" },
    { patienceMs: 5, ask: (path) => (path === "/spool" ? ask() : Promise.resolve(3)) },
  );
  expect(await space.read()).toEqual({ spool: 0, recordings: 3 });
});
