import { expect, test } from "vitest";

import type { GatewayId } from "../../src/call/ids.ts";
import { Quarantine, quarantineMaxMs } from "../../src/trunk/quarantine.ts";

const [a, b] = ["a", "b"] as unknown as [GatewayId, GatewayId];

test("a gateway that asked for rest is passed over until its time is up", () => {
  let nowMs = 0;
  const quarantine = new Quarantine(() => nowMs);
  expect(quarantine.free([a, b])).toEqual([a, b]);
  quarantine.put(a, 5_000);
  nowMs = 4_999;
  expect(quarantine.free([a, b])).toEqual([b]);
  nowMs = 5_000;
  expect(quarantine.free([a, b])).toEqual([a, b]);
});

test("where all rest all are tried, and nobody rests longer than the limit", () => {
  let nowMs = 0;
  const quarantine = new Quarantine(() => nowMs);
  quarantine.put(a, 10 * quarantineMaxMs);
  expect(quarantine.free([a])).toEqual([a]);
  quarantine.put(b, 1_000);
  expect(quarantine.free([a, b])).toEqual([a, b]);
  nowMs = quarantineMaxMs;
  expect(quarantine.free([a, b])).toEqual([a, b]);
  quarantine.put(b, 1_000);
  expect(quarantine.free([a, b])).toEqual([a]);
});
