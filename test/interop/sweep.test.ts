// Whoever hangs up, and whenever: the bot is told each transfer once, everybody is released, and nothing is left.
import { describe, expect, test } from "vitest";
import type { Phone, PhoneCall } from "../support/rtp-phone.ts";
import { header } from "../support/sip-text.ts";
import { delay, waitFor } from "../support/wait.ts";
import { type BotCall, transferOf } from "../integration/raw-bot.ts";
import { sharedStage, type Talk } from "../integration/stage.ts";

const stage = sharedStage({
  channel: { destinations: { sipHosts: ["127.0.0.1:*"], maxCallsPerSecond: 1000 } },
  mediaPorts: 400,
});
const operators = (): readonly Phone[] => [stage().operator, stage().secondOperator, stage().otherOperator];
const uriOf = (phone: Phone): string => `${phone.user}@${phone.address}:${phone.port}`;

/** What has come to the operators by a header of the switch that called them. */
const callsOf = (mark: string): readonly PhoneCall[] =>
  operators()
    .flatMap((phone) => stage().incomingCalls(phone))
    .filter(({ invite }) => header(invite, "X-Mark") === mark);

/** Runs all jobs, at most `most` at a time. */
async function pooled(jobs: readonly (() => Promise<void>)[], most: number): Promise<void> {
  const waiting = [...jobs];
  const worker = async (): Promise<void> => {
    for (let job = waiting.shift(); job !== undefined; job = waiting.shift()) await job();
  };
  await Promise.all(Array.from({ length: most }, worker));
}

async function overOnce({ call }: Talk): Promise<void> {
  await call.event("hangup", { timeoutMs: 15_000 });
  // The switch was accepted before anybody hung up, so its one outcome is owed whether or not it had begun.
  expect(call.all("transfer").map((event) => transferOf(event).details.transferId)).toHaveLength(1);
}

describe("every 50 ms of a call with a prompt, two operators who ring, a talk and a return", () => {
  const endMs = 1_500;
  const stepMs = 50;
  const moments = Array.from({ length: endMs / stepMs }, (_, step) => step * stepMs);

  async function play(who: "caller" | "bot" | "operator", afterMs: number): Promise<void> {
    const mark = `${who}-${afterMs}`;
    const talk = await stage().talk();
    const { leg, call } = talk;
    const [first, second] = operators() as [Phone, Phone, Phone];
    await call.run(
      { type: "audio", audioUrl: stage().prompts.short },
      {
        type: "switch",
        targets: [{ sipUri: uriOf(first) }, { sipUri: uriOf(second) }],
        strategy: "ring",
        headers: { "X-Mark": mark },
        duringRing: [{ type: "audio", audioUrl: stage().prompts.short }],
        maxTalkSeconds: 1,
        continueCall: true,
      },
    );
    // The moment is the point.
    await delay(afterMs);
    if (who === "caller") await leg.hangUp();
    else if (who === "bot") await call.command([{ type: "stop" }, { type: "hangup" }]).catch(() => undefined);
    else for (const one of callsOf(mark)) await one.hangUp().catch(() => undefined);
    if (who === "operator") {
      await call.event("transfer", { timeoutMs: 15_000 });
      await leg.hangUp();
    }
    await leg.ended;
    await overOnce(talk);
    await waitFor(() => callsOf(mark).every(({ phase }) => phase === "ended"), { what: `the operators of ${mark}` });
  }

  test.each(["caller", "bot", "operator"] as const)(
    "the %s hangs up",
    async (who) => {
      const [first, second] = operators() as [Phone, Phone, Phone];
      first.answering = { type: "answer", afterMs: 350, ring: [{ status: 180, afterMs: 30 }] };
      second.answering = { type: "answer", afterMs: 360, ring: [{ status: 183, afterMs: 60 }] };
      await pooled(
        moments.map((afterMs) => () => play(who, afterMs)),
        5,
      );
    },
    120_000,
  );
});

test(
  "1,000 answers that cross a CANCEL: one bridge per transfer, nobody is left in a call",
  { timeout: 300_000 },
  async () => {
    const crossings = 1_000;
    const calls = 5;
    // Seeded, so that a failure can be seen again.
    let seed = 20_261_122;
    const random = (): number => {
      seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
      return seed / 2 ** 32;
    };
    for (const phone of operators()) {
      phone.answering = () => ({
        type: "answer",
        // Late enough for all three to be called, and close enough together to cross.
        afterMs: 60 + Math.round(random() * 25),
        onCancel: random() < 0.5 ? "answer" : "end",
      });
    }
    const targets = operators().map((phone) => ({ sipUri: uriOf(phone) }));
    let losers = 0;
    const enough = (): boolean => losers >= crossings;
    const hunt = async (call: BotCall): Promise<void> => {
      const after = call.seq;
      await call.run({ type: "switch", targets, strategy: "ring", headers: { "X-Mark": call.id }, continueCall: true });
      await call.progress("bridged", { after });
      // Only the one who has the call is left; the service has released the others.
      const left = (): readonly PhoneCall[] => callsOf(call.id).filter(({ phase }) => phase !== "ended");
      await waitFor(() => left().length === 1, { what: "one operator in the call" });
      await left()[0]!.hangUp();
      const { status, details } = await call.transfer({ after });
      expect(status.status).toBe("SUCCESS");
      expect(details.attempts.filter(({ cause }) => cause === "completed")).toHaveLength(1);
      losers += details.attempts.length - 1;
    };
    await pooled(
      Array.from({ length: calls }, () => async () => {
        const { leg, call } = await stage().talk();
        let hunts = 0;
        for (; !enough() && hunts < 180; hunts += 1) await hunt(call);
        await leg.hangUp();
        await call.event("hangup");
        expect(call.all("transfer")).toHaveLength(hunts);
        const bridged = call.all("transferProgress").filter(({ body }) => body["phase"] === "bridged");
        expect(bridged).toHaveLength(hunts);
      }),
      calls,
    );
    const seen = operators().flatMap((phone) => stage().incomingCalls(phone));
    await waitFor(() => seen.every(({ phase }) => phase === "ended"), { what: "the end of every operator's call" });
    expect(losers).toBeGreaterThanOrEqual(crossings);
  },
);
