import { describe, expect, it } from "vitest";

import { median, pairedRatio, quantile, seededRandom } from "../../bench/statistics.ts";
import { wholeCallTable } from "../../bench/whole-call.ts";

describe("the statistics of the benchmark", () => {
  it("finds the middle of odd and even numbers of values, in whatever order", () => {
    expect(median([3, 1, 2])).toBe(2);
    expect(median([4, 1, 3, 2])).toBe(2.5);
    expect(median([])).toBeNaN();
  });

  it("interpolates quantiles", () => {
    expect(quantile([10, 20, 30, 40, 50], 0)).toBe(10);
    expect(quantile([50, 10, 30, 40, 20], 0.5)).toBe(30);
    expect(quantile([10, 20], 0.25)).toBe(12.5);
    expect(quantile([10, 20], 1)).toBe(20);
  });

  it("takes the ratio block by block, so that a slow spell of the machine cancels out", () => {
    const theirs = [1, 1, 10, 1, 10];
    const ours = theirs.map((value) => value / 2);
    expect(pairedRatio(ours, theirs)).toEqual({ median: 0.5, low: 0.5, high: 0.5, blocks: 5 });
  });

  it("leaves out pairs of which a side is missing, and has nothing to say without pairs", () => {
    expect(pairedRatio([1, undefined, 3], [2, 2, undefined])).toMatchObject({ median: 0.5, blocks: 1 });
    expect(pairedRatio([undefined, 1], [1, undefined])).toBeUndefined();
    expect(pairedRatio([1], [0])).toBeUndefined();
  });

  it("gives an interval that holds the median, lies within the ratios and repeats itself", () => {
    const ours = [0.9, 1.1, 1, 1.3, 0.95, 1.05, 1.02, 0.99];
    const theirs = ours.map(() => 1);
    const ratio = pairedRatio(ours, theirs);
    expect(ratio).toEqual(pairedRatio(ours, theirs));
    expect(ratio?.median).toBeCloseTo(1.01);
    expect(ratio?.low).toBeGreaterThanOrEqual(0.9);
    expect(ratio?.low).toBeLessThan(1.01);
    expect(ratio?.high).toBeGreaterThan(1.01);
    expect(ratio?.high).toBeLessThanOrEqual(1.3);
  });

  it("draws even random numbers from a seed", () => {
    const random = seededRandom(7);
    const values = Array.from({ length: 10_000 }, random);
    expect(values.every((value) => value >= 0 && value < 1)).toBe(true);
    expect(quantile(values, 0.5)).toBeCloseTo(0.5, 1);
    expect(seededRandom(7)()).toBe(values[0]);
  });
});

it("makes a table of whole calls: medians, ratios to the bare call beside each block, and why a block does not count", () => {
  const block = (service: number, bare: number | undefined) =>
    ({ ok: true, value: { service, busiest: service / 2, rtpengine: 80, redis: 4, bare, busy: 0.5 } }) as const;
  const table = wholeCallTable(
    [block(60, 10), block(40, undefined), block(80, 20), { ok: false, reason: "2 of 45 calls failed" }],
    "Measured then.",
  );
  expect(table).toContain("| Patchbay, all threads | 60.00 | 5.0 (4.0–6.0) |");
  expect(table).toContain("| bare bridged call, engine and drachtio-srf | 15.00 | 1.0 (1.0–1.0) |");
  expect(table).toContain("Half of a core for the busiest thread: 17 calls a second. Both cores were 50 % busy");
  expect(table).toContain("- a block does not count: 2 of 45 calls failed");
  expect(wholeCallTable([{ ok: false, reason: "no" }], "Measured then.")).toContain("No block counts.");
});
