import { expect, test } from "vitest";

import type { TrunkId } from "../../src/call/ids.ts";
import { ReferMemory, referRestMs } from "../../src/trunk/refer-memory.ts";

const [a, b] = ["a", "b"] as unknown as [TrunkId, TrunkId];

test("a trunk that did not follow a REFER is not asked for an hour, and no other trunk is concerned", () => {
  let nowMs = 5;
  const memory = new ReferMemory(() => nowMs);
  expect(memory.follows(a)).toBe(true);
  memory.withoutRefer(a);
  nowMs += referRestMs - 1;
  expect([memory.follows(a), memory.follows(b)]).toEqual([false, true]);
  nowMs += 1;
  expect(memory.follows(a)).toBe(true);
});
