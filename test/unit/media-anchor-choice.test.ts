import { expect, test } from "vitest";
import type { CallId, LegId, PlayId, Sdp } from "../../src/call/ids.ts";
import { usualKeys, usualSounds } from "../../src/call/setup.ts";
import { AnchorChoice } from "../../src/media/anchor-choice.ts";
import type { Anchor } from "../../src/media/switching/switching-anchor.ts";

/** Writes down what it is asked; `ready` and `calls` are what it says of itself. */
function scribe(name: string, did: string[], ready = true): Anchor {
  const noted = new Proxy(
    {},
    {
      get: (_, method) => {
        if (method === "ready") return () => ready;
        if (method === "stats") return () => ({ calls: 1, timers: 2 });
        return (...parts: readonly unknown[]) => void did.push(`${name} ${String(method)} ${String(parts[0])}`);
      },
    },
  );
  return noted as Anchor;
}

const policy = { sounds: usualSounds, keys: usualKeys };
const order = (botId: string) => ({ botId, caller: "1", called: "2" });

test("a call stays with the anchor of its bot until it is closed", () => {
  const did: string[] = [];
  const [usual, other] = [scribe("usual", did), scribe("other", did)];
  const named = new Map([
    ["usual", usual],
    ["other", other],
  ]);
  const choice = new AnchorChoice(named, (botId) => (botId === "b2" ? "other" : "usual"));
  const [one, two] = ["1", "2"] as unknown as [CallId, CallId];
  const leg = "l" as LegId;
  choice.open(one, leg, "" as Sdp, order("b1"), policy);
  choice.open(two, leg, "" as Sdp, order("b2"), policy);
  choice.play(two, "p" as PlayId, leg, { kind: "digits", digits: "1" });
  choice.offer(one, leg, usualKeys);
  choice.join(two, leg, "" as Sdp);
  choice.close(two);
  choice.close(two);
  expect(did).toEqual([
    "usual open 1",
    "other open 2",
    "other play 2",
    "usual offer 1",
    "other join 2",
    "other close 2",
    "usual close 2",
  ]);
});

test("it says of each anchor whether it is ready, and counts them together", () => {
  const named = new Map([
    ["a", scribe("a", [])],
    ["b", scribe("b", [], false)],
  ]);
  const choice = new AnchorChoice(named, () => "a");
  expect(choice.ready()).toEqual({ a: true, b: false });
  expect(choice.stats()).toEqual({ calls: 2, timers: 4 });
  expect(() => new AnchorChoice(new Map(), () => "a")).toThrow("no media anchor is used");
});

test("what the caller's and the operators' sides are to be like reaches the anchor", () => {
  const did: (readonly unknown[])[] = [];
  const anchor = new Proxy(
    {},
    {
      get:
        () =>
        (...parts: readonly unknown[]) =>
          void did.push(parts),
    },
  ) as Anchor;
  const choice = new AnchorChoice(new Map([["only", anchor]]), () => "only");
  const keys = { byInfo: true, detectTones: true };
  const [call, leg, sdp] = ["1" as CallId, "l" as LegId, "" as Sdp];
  choice.open(call, leg, sdp, order("b1"), { ...policy, keys });
  choice.offer(call, leg, keys);
  expect(did).toEqual([
    [call, leg, sdp, order("b1"), { ...policy, keys }],
    [call, leg, keys],
  ]);
});
