// Keys sent as telephone events, without an rtpengine.
import { describe, expect, test } from "vitest";
import { dialSteps } from "../../src/call/dial-string.ts";
import type { PlayId } from "../../src/call/ids.ts";
import type { MediaLog } from "../../src/media/options.ts";
import { EventKeys } from "../../src/media/rtpengine/event-keys.ts";
import { ManualClock, settled } from "./media-clock.ts";

const log: MediaLog = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

class Leg {
  readonly clock = new ManualClock();
  readonly did: string[] = [];
  able = true;
  presses = true;
  accepts = true;
  readonly keys = new EventKeys({
    clock: this.clock,
    log,
    enqueue: (step) => {
      if (this.accepts) void step();
      return this.accepts;
    },
    enqueueAlways: (step) => void step(),
    begin: () => Promise.resolve(this.able),
    partnerOf: () => "A",
    press: (tag, key) => {
      if (!this.presses) return Promise.reject(new Error("No matching codec SSRC handler"));
      this.did.push(`${tag} ${key} at ${Math.round(this.clock.now())}`);
      return Promise.resolve();
    },
    end: () => Promise.resolve(void this.did.push("end")),
    onPlayed: (play, result, reason) => void this.did.push(`${play} ${result} ${reason ?? ""}`.trim()),
  });

  async send(digits: string, play = "p1"): Promise<void> {
    this.keys.send(play as PlayId, "op1", digits, () => void this.did.push("otherwise"));
    await settled();
  }
}

describe("keys as telephone events", () => {
  test("one after the other, with their pauses; then rtpengine is as it was", async () => {
    const leg = new Leg();
    const startMs = leg.clock.now();
    await leg.send("w1#,2");
    expect(leg.keys.hearer).toBe("op1");
    await leg.clock.pass(10_000);
    const at = (ms: number): number => Math.round(startMs + ms);
    expect(leg.did).toEqual([`A 1 at ${at(500)}`, `A # at ${at(760)}`, `A 2 at ${at(3_020)}`, "end", "p1 completed"]);
    expect([leg.keys.hearer, leg.clock.timers]).toEqual([null, 0]);
  });

  test("a leg that can have none, or whose first key does not go, gets them in another way", async () => {
    for (const fault of ["able", "presses"] as const) {
      const leg = new Leg();
      leg[fault] = false;
      await leg.send("12");
      await leg.clock.pass(1_000);
      expect(leg.did).toEqual(["end", "otherwise"]);
      expect([leg.keys.hearer, leg.clock.timers]).toEqual([null, 0]);
    }
  });

  test("never twice: when a later key does not go, that is the end", async () => {
    const leg = new Leg();
    await leg.send("12");
    await settled();
    leg.presses = false;
    await leg.clock.pass(1_000);
    expect(leg.did.slice(1)).toEqual(["end", "p1 failed play_failed"]);
  });

  test("stopped by its leg's name, by any other order, or when too many commands wait", async () => {
    const leg = new Leg();
    await leg.send("123");
    await settled();
    leg.keys.stop("A");
    expect(leg.did).toHaveLength(1);
    await leg.send("4", "p2");
    await leg.clock.pass(1_000);
    expect(leg.did.filter((text) => text.startsWith("p"))).toEqual(["p1 stopped", "p2 completed"]);
    expect(leg.did.filter((text) => text.startsWith("A "))).toHaveLength(2);
    leg.accepts = false;
    await leg.send("5", "p3");
    expect(leg.did.at(-1)).toBe("p3 failed overloaded");
    expect(leg.clock.timers).toBe(0);
  });
});

test("what rtpengine tells of our own keys is known for what it is, once each", async () => {
  const leg = new Leg();
  await leg.send("55");
  await leg.clock.pass(1_000);
  const told = ["A", "op1", "A", "A", "A"].map((tag) => leg.keys.isEcho(tag, "5", 120));
  expect(told).toEqual([true, false, true, false, false]);
  await leg.send("5");
  await leg.clock.pass(1_000);
  // A finger holds it longer; and what is never told of is forgotten.
  expect(leg.keys.isEcho("A", "5", 240)).toBe(false);
  await leg.clock.pass(5_000);
  expect(leg.keys.isEcho("A", "5", 120)).toBe(false);
});

test("a dialling string: keys of a keypad and pauses, at least one key", () => {
  expect(dialSteps("1 w")).toEqual([{ key: "1" }, { pauseMs: 500 }, { pauseMs: 500 }]);
  expect(dialSteps("W,d")).toEqual([{ pauseMs: 1_000 }, { pauseMs: 2_000 }, { key: "D" }]);
  expect([dialSteps(""), dialSteps("ww"), dialSteps("1x"), dialSteps("e")]).toEqual(
    Array.from({ length: 4 }, () => undefined),
  );
});
