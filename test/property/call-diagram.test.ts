import { readFileSync } from "node:fs";
import fc from "fast-check";
import { expect, test } from "vitest";
import { begin, decide } from "../../src/call/decide.ts";
import type { CallState } from "../../src/call/state.ts";
import { setup } from "../scenario/script.ts";
import { eventOf, type Move, move, policy } from "./call-moves.ts";

/** A call that something was seen to lead to, `atMs` after its beginning. */
interface Reached {
  readonly state: CallState;
  readonly atMs: number;
}

/** After so many rounds what was not seen is taken to be impossible; and no fewer are tried. */
const mostRounds = 150;
const leastRounds = 10;
const eventsPerRound = 20_000;
const eventsPerWalk = 6;
const mostKindsPerPhase = 1_000;

/** What kind of state a call is in: which parts there are, and whether none, one or more of each; not what they are called. */
function kindOf(value: unknown, depth = 2): string {
  if (value === null || typeof value === "boolean") return value === null ? "-" : value ? "y" : "n";
  if (typeof value !== "object") return "";
  if (depth === 0) return "+";
  if (Array.isArray(value)) return `[${Math.min(value.length, 2)}${kindOf(value.at(-1), depth - 1)}]`;
  return `{${Object.entries(value)
    .map(([name, part]) => name.slice(0, 4) + kindOf(part, depth - 1))
    .join()}}`;
}

/** The latest call of each kind that was seen in one phase. */
class ReachedCalls {
  readonly #byKind = new Map<string, Reached>();
  #turn = this.#byKind.values();

  note(call: Reached): void {
    const kind = kindOf(call.state);
    if (this.#byKind.has(kind) || this.#byKind.size < mostKindsPerPhase) this.#byKind.set(kind, call);
  }

  /** All in turn; what is noted meanwhile comes in the same turn. */
  next(): Reached | undefined {
    const { value } = this.#turn.next();
    if (value !== undefined) return value;
    this.#turn = this.#byKind.values();
    return this.#turn.next().value;
  }
}

/**
 * Every change of phase that events bring about, as `phase | event | phase`. Random walks, in turn from every kind of state
 * that was reached before in every phase: rare stories need not happen by chance from their beginning.
 */
function observedArrows(written: ReadonlySet<string>): Set<string> {
  const seen = new Set<string>();
  const missed = new Set(written);
  const reached = new Map<CallState["phase"], ReachedCalls>();
  const note = (state: CallState, atMs: number): void => {
    const calls = reached.get(state.phase) ?? new ReachedCalls();
    reached.set(state.phase, calls);
    calls.note({ state, atMs });
  };
  const walk = ({ state: from, atMs: start }: Reached, moves: readonly Move[]): void => {
    let state = from;
    let atMs = start;
    for (const step of moves) {
      atMs += 1;
      const event = eventOf(state, step, atMs);
      const [next] = decide(state, event, atMs);
      if (next.phase !== state.phase) {
        const arrow = `${state.phase} | ${event.type} | ${next.phase}`;
        seen.add(arrow);
        missed.delete(arrow);
        note(next, atMs);
      }
      state = next;
      if (state.phase === "ended") return;
    }
    note(state, atMs);
  };
  for (let round = 0; round < mostRounds && (round < leastRounds || missed.size > 0); round += 1) {
    for (const channel of fc.sample(policy, { numRuns: 20, seed: round })) note(begin(setup(channel))[0], 0);
    const moves = fc.sample(move, { numRuns: eventsPerRound, seed: round });
    while (moves.length > 0) {
      for (const calls of reached.values()) {
        const from = calls.next();
        if (from !== undefined && from.state.phase !== "ended") walk(from, moves.splice(-eventsPerWalk));
      }
    }
  }
  return seen;
}

test("the table of phases in src/call/README.md is what decide() does", () => {
  const page = readFileSync(new URL("../../src/call/README.md", import.meta.url), "utf8");
  const rows = page.matchAll(/^\| (\w+) \| `([\w.]+)` \| (\w+) \|/gm);
  const written = new Set([...rows].map(([, from, event, to]) => `${from} | ${event} | ${to}`));
  const observed = observedArrows(written);
  const missing = [...observed].filter((arrow) => !written.has(arrow)).toSorted();
  const stale = [...written].filter((arrow) => !observed.has(arrow)).toSorted();
  expect({ missing, stale }).toEqual({ missing: [], stale: [] });
});
