import { describe, expect, it } from "vitest";

import { createSystemClock, sipTimers, systemRandom, TimerSet } from "../../src/engine/timers.ts";
import { waitFor } from "../support/wait.ts";
import { ManualClock } from "./engine-clock.ts";

describe("sipTimers", () => {
  it("are those of RFC 3261 table 4 for T1 = 500 ms, and scale with T1", () => {
    expect(sipTimers()).toEqual({ t1Ms: 500, t2Ms: 4_000, t4Ms: 5_000, t64Ms: 32_000 });
    expect(sipTimers(5)).toEqual({ t1Ms: 5, t2Ms: 40, t4Ms: 50, t64Ms: 320 });
  });
});

describe("TimerSet", () => {
  it("starts, replaces, stops and clears timers by name", async () => {
    const clock = new ManualClock();
    const timers = new TimerSet(clock);
    const fired: string[] = [];
    timers.start("a", 10, () => fired.push("a"));
    timers.start("b", 10, () => fired.push("b"));
    timers.start("b", 20, () => fired.push("b again"));
    timers.start("c", 30, () => fired.push("c"));
    timers.stop("c");
    timers.stop("never started");
    expect([timers.size, timers.has("b"), timers.has("c")]).toEqual([2, true, false]);
    await clock.advance(25);
    expect(fired).toEqual(["a", "b again"]);
    timers.start("d", 10, () => fired.push("d"));
    timers.clear();
    await clock.advance(100);
    expect(fired).toHaveLength(2);
    expect([timers.size, clock.pending]).toEqual([0, 0]);
  });

  it("lets a timer start itself again", async () => {
    const clock = new ManualClock();
    const timers = new TimerSet(clock);
    let count = 0;
    const again = (): void => {
      count += 1;
      timers.start("tick", 10, again);
    };
    timers.start("tick", 10, again);
    await clock.advance(100);
    expect(count).toBe(10);
    expect(timers.size).toBe(1);
  });
});

describe("the system clock", () => {
  it("runs once, reports what is thrown, and takes delays of any length", async () => {
    const errors: unknown[] = [];
    const clock = createSystemClock((error) => errors.push(error));
    let ran = 0;
    clock.after(-5, () => {
      ran += 1;
      throw new Error("a bug");
    });
    const far = clock.after(1e12, () => (ran += 1));
    clock.after(1, () => (ran += 1)).cancel();
    await waitFor(() => errors.length === 1, { what: "the reported error" });
    expect(ran).toBe(1);
    far.cancel();
    far.cancel();
    const before = clock.now();
    expect(clock.now()).toBeGreaterThanOrEqual(before);
  });
});

describe("systemRandom", () => {
  it("gives tokens of the strength asked for, whole numbers below the limit, and UUIDs", () => {
    expect(systemRandom.token(64)).toMatch(/^[0-9a-f]{16}$/);
    expect(systemRandom.token(1)).toMatch(/^[0-9a-f]{2}$/);
    expect(new Set(Array.from({ length: 1_000 }, () => systemRandom.token(128))).size).toBe(1_000);
    expect(Array.from({ length: 100 }, () => systemRandom.integer(3)).every((one) => one >= 0 && one < 3)).toBe(true);
    expect(systemRandom.uuid()).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  });
});
