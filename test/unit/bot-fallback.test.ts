import { describe, expect, it } from "vitest";
import { fallbackReplies } from "../../src/bot/fallback.ts";
import type { TransferId } from "../../src/call/ids.ts";
import { route } from "../scenario/script.ts";

const policy = {
  tls: false,
  numberRefusal: () => null,
  allowsSipHost: (host: string) => host === "allowed.example.org",
  routeFor: () => ({
    route: route(),
    known: true,
    identityHeaders: "allow" as const,
    referFallback: true,
    referFollowed: true,
  }),
};
const read = (plan: Parameters<typeof fallbackReplies>[0]) => fallbackReplies(plan, policy, () => "t1" as TransferId);
const typesOf = (plan: Parameters<typeof fallbackReplies>[0]): readonly string[] => {
  const outcome = read(plan);
  if (!outcome.ok) throw new Error(outcome.message);
  return outcome.replies.map(({ type }) => type);
};

describe("the replies of a fallback always end the call", () => {
  it.each([
    ["nothing at all", undefined, ["hangup"]],
    ["a prompt", { audioUrl: "file:///a.wav", timeoutMs: 1_000 }, ["audio", "hangup"]],
    ["an operator", { phoneNumber: "100", timeoutMs: 1_000 }, ["switch"]],
    [
      "all",
      { text: "x", phoneNumber: "100", timeoutMs: 1_000, goodbyeUrl: "file:///b.wav" },
      ["text", "switch", "audio", "hangup"],
    ],
  ] as const)("%s", (_, plan, types) => {
    expect(typesOf(plan)).toEqual(types);
  });

  it("brings the caller back from the operator only for a goodbye", () => {
    const back = (goodbyeUrl?: string): unknown => {
      const outcome = read({ phoneNumber: "100", timeoutMs: 7_000, goodbyeUrl });
      return outcome.ok && outcome.replies.find(({ type }) => type === "switch");
    };
    expect(back()).toMatchObject({ request: { continueCall: false, answerTimeoutMs: 7_000 } });
    expect(back("file:///b.wav")).toMatchObject({ request: { continueCall: true } });
  });

  it("refuses what a bot could not do either", () => {
    expect(read({ sipUri: "a@elsewhere.example.org", timeoutMs: 1_000 })).toMatchObject({ ok: false });
    expect(typesOf({ sipUri: "a@allowed.example.org", timeoutMs: 1_000 })).toEqual(["switch"]);
  });
});
