import { describe, expect, test } from "vitest";

import type { GatewayId } from "../../src/call/ids.ts";
import { GatewayHealth, restMaxMs } from "../../src/trunk/gateway-health.ts";
import { drawnOrder } from "../../src/trunk/gateway-order.ts";

const [a, b] = ["a", "b"] as unknown as [GatewayId, GatewayId];

function made(probed = false): { health: GatewayHealth; time: { nowMs: number }; changes: string[] } {
  const time = { nowMs: 0 };
  const changes: string[] = [];
  const rules = { failures: 2, retryMs: 30_000, probed };
  const health = new GatewayHealth(
    new Map([
      [a, rules],
      [b, rules],
    ]),
    () => time.nowMs,
    (gateway, state) => changes.push(`${gateway} ${state}`),
  );
  return { health, time, changes };
}

describe("gateways that asked for rest", () => {
  test("are passed over until their time is up", () => {
    const { health, time } = made();
    expect(health.order([a, b])).toEqual([a, b]);
    health.rest(a, 5_000);
    time.nowMs = 4_999;
    expect(health.order([a, b])).toEqual([b]);
    expect([health.state(a), health.state(b)]).toEqual(["resting", "up"]);
    time.nowMs = 5_000;
    expect(health.order([a, b])).toEqual([a, b]);
    expect(health.state(a)).toBe("up");
  });

  test("where all rest all are tried, and nobody rests longer than the limit", () => {
    const { health, time } = made();
    health.rest(a, 10 * restMaxMs);
    expect(health.order([a])).toEqual([a]);
    health.rest(b, 1_000);
    expect(health.order([a, b])).toEqual([a, b]);
    time.nowMs = restMaxMs;
    expect(health.order([a, b])).toEqual([a, b]);
    health.rest(b, 1_000);
    expect(health.order([a, b])).toEqual([a]);
  });
});

describe("the circuit breaker", () => {
  test("only failures in a row count, and a gateway that is down comes last", () => {
    const { health, changes } = made();
    health.report(a, false);
    health.report(a, true);
    health.report(a, false);
    expect(health.order([a, b])).toEqual([a, b]);
    health.report(a, false);
    expect(health.order([a, b])).toEqual([b, a]);
    expect(changes).toEqual(["a down"]);
    health.report(a, false);
    expect(changes).toEqual(["a down"]);
  });

  test("after a while one call tries it in its place; no answer: left alone again, an answer: up", () => {
    const { health, time, changes } = made();
    health.report(a, false);
    health.report(a, false);
    time.nowMs = 29_999;
    expect(health.order([a, b])).toEqual([b, a]);
    time.nowMs = 30_000;
    expect(health.order([a, b])).toEqual([a, b]);
    expect(health.order([a, b])).toEqual([b, a]);
    health.report(a, false);
    time.nowMs = 59_999;
    expect(health.order([a, b])).toEqual([b, a]);
    time.nowMs = 60_000;
    expect(health.order([a, b])).toEqual([a, b]);
    health.report(a, true);
    expect(health.order([a, b])).toEqual([a, b]);
    expect(changes).toEqual(["a down", "a up"]);
  });

  test("where somebody asks gateways, no call is the probe; when all are down all are tried", () => {
    const { health, time } = made(true);
    for (const gateway of [a, a, b, b]) health.report(gateway, false);
    time.nowMs = 1_000_000;
    expect(health.order([a, b])).toEqual([a, b]);
    health.report(b, true);
    expect(health.order([a, b])).toEqual([b, a]);
  });
});

describe("order and weight", () => {
  const gateway = (id: string, priority: number, weight: number) => ({ id, priority, weight });
  const ids = (list: readonly { id: string }[]): string => list.map(({ id }) => id).join("");
  /** Gives these numbers, and then 0.5. */
  const given =
    (...numbers: number[]): (() => number) =>
    () =>
      numbers.shift() ?? 0.5;

  test("a lower priority goes first, whatever stands in the list", () => {
    expect(ids(drawnOrder([gateway("c", 2, 1), gateway("a", 0, 1), gateway("b", 1, 1)], given()))).toBe("abc");
  });

  test("RFC 2782: the running sum that reaches the number drawn wins, then the rest is drawn again", () => {
    const group = [gateway("a", 0, 10), gateway("b", 0, 30), gateway("z", 0, 0)];
    expect(ids(drawnOrder(group, given(0, 0)))).toBe("zab");
    expect(ids(drawnOrder(group, given(1 / 41, 0)))).toBe("azb");
    expect(ids(drawnOrder(group, given(0.999, 0.999)))).toBe("baz");
  });

  test("weights are shares of the calls", () => {
    const group = [gateway("a", 0, 30), gateway("b", 0, 10)];
    let first = 0;
    for (let n = 0; n < 4100; n += 1) {
      if (drawnOrder(group, () => n / 4100)[0]?.id === "a") first += 1;
    }
    expect(first / 4100).toBeCloseTo(31 / 41, 2);
  });

  test("a draw never loses or doubles one", () => {
    const group = [gateway("a", 0, 0), gateway("b", 0, 0), gateway("c", 0, 65_535)];
    for (let n = 0; n < 100; n += 1)
      expect(ids(drawnOrder(group, Math.random).toSorted((x, y) => (x.id < y.id ? -1 : 1)))).toBe("abc");
  });
});
