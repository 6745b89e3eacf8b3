import { expect, it } from "vitest";

import { BotLedger, type LedgerStore } from "../../src/bot/ledger.ts";
import { systemClock } from "../../src/lib/clock.ts";

it("a flush tells what was added while a question was on its way", async () => {
  const sums = new Map<string, number>();
  const waiting: (() => void)[] = [];
  const store: LedgerStore = {
    add: async (key, ms) => {
      sums.set(key, (sums.get(key) ?? 0) + ms);
      return sums.get(key) ?? 0;
    },
    get: (keys) =>
      new Promise((resolve) => {
        waiting.push(() => resolve(keys.map(() => null)));
      }),
  };
  const ledger = new BotLedger({
    prefix: "pb",
    clock: systemClock,
    store: () => store,
    bots: () => [],
    onFailure: () => undefined,
    everyMs: 1_000_000,
  });
  ledger.open("b");
  ledger.addTalk("b", 250);
  const told = ledger.flush();
  waiting.shift()?.();
  await expect.poll(() => waiting.length).toBe(1);
  waiting.shift()?.();
  await told;
  ledger.stop();
  expect([...sums.values()]).toEqual([250]);
});
