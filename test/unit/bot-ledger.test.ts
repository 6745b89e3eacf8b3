// Minutes of talk by the day they were talked on, kept until Redis was told.
import { describe, expect, test } from "vitest";
import { BotLedger, type LedgerStore } from "../../src/bot/ledger.ts";
import { systemClock } from "../../src/lib/clock.ts";

const midnight = Date.UTC(2026, 10, 23);
const minute = 60_000;

/** A store that adds up, and a clock that stands where it is put. */
function ledger(): {
  readonly ledger: BotLedger;
  readonly kept: Map<string, number>;
  readonly state: { wallMs: number; away: boolean; failing: boolean };
} {
  const kept = new Map<string, number>();
  const state = { wallMs: midnight, away: false, failing: false };
  const store: LedgerStore = {
    get: async (keys) => keys.map((key) => kept.get(key)?.toString() ?? null),
    add: async (key, ms) => {
      if (state.failing) throw new Error("no");
      kept.set(key, (kept.get(key) ?? 0) + ms);
      return kept.get(key) ?? 0;
    },
  };
  return {
    kept,
    state,
    ledger: new BotLedger({
      prefix: "pb",
      clock: { now: () => 0, wallMs: () => state.wallMs, after: () => ({ cancel: () => undefined }) },
      store: () => (state.away ? null : store),
      bots: () => ["b"],
      onFailure: () => undefined,
      everyMs: 500,
    }),
  };
}

const yesterday = "pb.talk:{b}:2026-11-22";
const today = "pb.talk:{b}:2026-11-23";

describe("talk", () => {
  test("over midnight counts for each day with its part", async () => {
    const { ledger: book, kept, state } = ledger();
    state.wallMs = midnight + 2 * minute;
    book.addTalk("b", 5 * minute);
    expect(book.talkedMs("b")).toBe(2 * minute);
    await book.flush();
    expect(Object.fromEntries(kept)).toEqual({ [yesterday]: 3 * minute, [today]: 2 * minute });
    expect(book.talkedMs("b")).toBe(2 * minute);
  });

  test("that ends at midnight was yesterday's, and one of today leaves yesterday alone", async () => {
    const { ledger: book, kept, state } = ledger();
    book.addTalk("b", minute);
    expect(book.talkedMs("b")).toBe(0);
    state.wallMs = midnight + 3 * minute;
    book.addTalk("b", minute);
    await book.flush();
    expect(Object.fromEntries(kept)).toEqual({ [yesterday]: minute, [today]: minute });
  });

  test("that Redis was not told before midnight is still yesterday's", async () => {
    const { ledger: book, kept, state } = ledger();
    state.wallMs = midnight - minute;
    state.away = true;
    book.addTalk("b", 4 * minute);
    expect(book.talkedMs("b")).toBe(4 * minute);
    await book.flush();
    state.wallMs = midnight + minute;
    expect(book.talkedMs("b")).toBe(0);
    book.addTalk("b", 2 * minute);
    expect(book.talkedMs("b")).toBe(minute);
    state.away = false;
    await book.flush();
    expect(Object.fromEntries(kept)).toEqual({ [yesterday]: 5 * minute, [today]: minute });
    await book.flush();
    expect(kept.get(today)).toBe(minute);
  });

  test("that Redis did not take is told it again; of the day before yesterday nobody asks", async () => {
    const { ledger: book, kept, state } = ledger();
    state.wallMs = midnight + minute;
    state.failing = true;
    book.addTalk("b", minute);
    await book.flush();
    expect([book.talkedMs("b"), kept.size]).toEqual([minute, 0]);
    state.wallMs = midnight + 49 * 60 * minute;
    book.addTalk("b", 60 * minute);
    state.failing = false;
    await book.flush();
    expect(Object.fromEntries(kept)).toEqual({ "pb.talk:{b}:2026-11-25": 60 * minute });
  });
});

test("a flush tells what was added while a question was on its way", async () => {
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
  expect([...sums.values()].reduce((sum, ms) => sum + ms, 0)).toBe(250);
});
