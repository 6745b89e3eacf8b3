// A party that vanishes without BYE is found out by its session timer (RFC 4028).
import { describe, expect, test } from "vitest";
import { engineOnly } from "../support/drachtio.ts";
import { pitches } from "../support/pitch.ts";
import { header } from "../support/sip-text.ts";
import { within } from "../support/wait.ts";
import { operatorNumber, sharedStage } from "./stage.ts";

/** Its seconds are real ones, and 90 are the fewest: what it does with them is played in `test/conformance/`. */
const shortSeconds = "its session timers cannot be made short";

describe("a party that vanishes", () => {
  // 90 seconds, the least there may be, last 2.7 s here: a refresh after 1.35 s, the end after 1.8 s.
  const stage = sharedStage({ sessionSecondMs: 30, trunk: { sessionExpiresSeconds: 90 } });

  test("the caller, after his talk with an operator: the leg ends, and the bot is told that he is gone", async (context) => {
    engineOnly(context, shortSeconds);
    const { caller, leg, call } = await stage().talk();
    const ok = leg.responses.find(({ status }) => status === 200);
    expect(ok === undefined ? undefined : header(ok, "Session-Expires")).toBe("90;refresher=uas");
    await call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: true });
    const operator = await stage().incoming();
    await operator.acknowledged;
    await call.progress("bridged");
    await operator.hangUp();
    expect((await call.transfer()).details).toMatchObject({ cause: "completed", endedBy: "operator" });
    await caller.vanish();
    const hangup = await within(call.event("hangup"), 10_000, "the end of the session");
    expect(hangup.body).toMatchObject({ by: "caller" });
  });

  test("the operator, in the talk: the caller returns to the bot", async (context) => {
    engineOnly(context, shortSeconds);
    const answer = [["Session-Expires", "90;refresher=uac"] as const, ["Require", "timer"] as const];
    const phone = await stage().phone({
      user: "vanishing",
      tone: pitches.operator,
      answering: { type: "answer", headers: answer },
    });
    const { leg, call } = await stage().talk();
    await call.run({ type: "switch", sipUri: `vanishing@127.0.0.1:${phone.port}`, continueCall: true });
    const operator = await stage().incoming(phone);
    await operator.acknowledged;
    await call.progress("bridged");
    await leg.media.hears(pitches.operator);
    await phone.vanish();
    const transfer = await within(call.transfer(), 10_000, "the end of the operator's leg");
    expect(transfer.statusText).toContain('"status":"SUCCESS","hangup":false');
    expect(transfer.details).toMatchObject({ cause: "completed", endedBy: "operator" });
    await call.run({ type: "audio", audioUrl: stage().prompts.second });
    await leg.media.hears(pitches.bot);
    expect((await leg.hangUp()).message?.status).toBe(200);
    expect((await call.event("hangup")).body).toMatchObject({ by: "caller" });
  });

  test("who is there and answers is refreshed and stays", async (context) => {
    engineOnly(context, shortSeconds);
    const { leg, call } = await stage().talk();
    await expect.poll(() => leg.reInvites.length, { timeout: 10_000 }).toBeGreaterThan(1);
    expect(leg.phase).toBe("established");
    expect(new Set(leg.reInvites.map(({ body }) => body)).size).toBe(1);
    await leg.hangUp();
    await call.event("hangup");
  });
});
