import { readFileSync } from "node:fs";
import fc from "fast-check";
import { expect, test } from "vitest";
import { begin, decide } from "../../src/call/decide.ts";
import { setup } from "../scenario/script.ts";
import { eventOf, move, policy } from "./call-moves.ts";

/** Every change of phase that random events bring about, as `phase --event--> phase`. */
function observedArrows(): Set<string> {
  const seen = new Set<string>();
  fc.assert(
    fc.property(policy, fc.array(move, { minLength: 20, maxLength: 80 }), (channel, moves) => {
      let [state] = begin(setup(channel));
      for (const [n, step] of moves.entries()) {
        const event = eventOf(state, step, n);
        const [next] = decide(state, event, n);
        if (next.phase !== state.phase) seen.add(`${state.phase} | ${event.type} | ${next.phase}`);
        state = next;
      }
    }),
    // A fixed seed: this test compares a page with the code, it does not search.
    { numRuns: 20_000, seed: 1 },
  );
  return seen;
}

test("the table of phases in src/call/README.md is what decide() does", () => {
  const page = readFileSync(new URL("../../src/call/README.md", import.meta.url), "utf8");
  const rows = page.matchAll(/^\| (\w+) \| `([\w.]+)` \| (\w+) \|/gm);
  const written = new Set([...rows].map(([, from, event, to]) => `${from} | ${event} | ${to}`));
  const observed = observedArrows();
  const missing = [...observed].filter((arrow) => !written.has(arrow)).toSorted();
  const stale = [...written].filter((arrow) => !observed.has(arrow)).toSorted();
  expect({ missing, stale }).toEqual({ missing: [], stale: [] });
});
