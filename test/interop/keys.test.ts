// Key presses between caller and operator, in every way a phone can send them.
import { describe, expect, test } from "vitest";
import { pitches } from "../support/pitch.ts";
import type { PhoneCall } from "../support/rtp-phone.ts";
import { operatorNumber, sharedStage } from "../integration/stage.ts";
import type { Talk } from "../integration/stage.ts";

const stage = sharedStage();

async function talk(fields: object = {}): Promise<Talk & { readonly operator: PhoneCall }> {
  const begun = await stage().talk();
  await begun.call.command([{ type: "switch", phoneNumber: operatorNumber, continueCall: true, ...fields }]);
  const operator = await stage().incoming();
  await operator.acknowledged;
  await begun.call.progress("bridged");
  return { ...begun, operator };
}

/** The two tones of ITU-T Q.23 that make a key. */
const tonesOf: Readonly<Record<string, readonly [number, number]>> = {
  "1": [697, 1_209],
  "5": [770, 1_336],
  "9": [852, 1_477],
};
const candidates = [697, 770, 852, 941, 1_209, 1_336, 1_477];

async function heardTones(listener: PhoneCall, key: string): Promise<boolean> {
  const heard = await listener.media.capture();
  return heard.timeline(40).some(({ fromMs }) => {
    const tones = heard.between(fromMs, fromMs + 40).tones({ candidates });
    return (tonesOf[key] ?? []).every((hz) => tones.some((tone) => tone.hz === hz));
  });
}

describe("keys while they talk", () => {
  test("RFC 4733 goes through as it is, INFO is turned into tones, both ways, and the bot is told all", async () => {
    const { leg, call, operator } = await talk();
    await Promise.all([leg.media.hears(pitches.operator), operator.media.hears(pitches.caller)]);
    leg.media.pressDigits("42");
    await expect
      .poll(async () => (await operator.media.capture()).digits().map(({ digit }) => digit), { timeout: 5_000 })
      .toEqual(["4", "2"]);
    operator.media.pressDigits("3");
    await expect
      .poll(async () => (await leg.media.capture()).digits().map(({ digit }) => digit), { timeout: 5_000 })
      .toEqual(["3"]);
    const told = (): readonly string[] =>
      call.all("dtmf").map(({ body }) => `${String(body["from"])} ${String(body["digit"])}`);
    // A key is told when it is let go, which for RFC 4733 is later than it is heard.
    await expect.poll(told, { timeout: 5_000 }).toEqual(["caller 4", "caller 2", "operator 3"]);
    expect(await heardTones(operator, "5")).toBe(false);
    await leg.infoDigit("5");
    await expect.poll(() => heardTones(operator, "5"), { timeout: 5_000 }).toBe(true);
    expect(await heardTones(leg, "9")).toBe(false);
    await operator.infoDigit("9");
    await expect.poll(() => heardTones(leg, "9"), { timeout: 5_000 }).toBe(true);
    // Afterwards they hear each other again.
    await Promise.all([leg.media.hears(pitches.operator), operator.media.hears(pitches.caller)]);
    await expect
      .poll(told, { timeout: 5_000 })
      .toEqual(["caller 4", "caller 2", "operator 3", "caller 5", "operator 9"]);
    await operator.hangUp();
    await call.transfer();
    await leg.hangUp();
    await call.event("hangup");
  });

  test("the switch's own digits reach the operator after the answer", async () => {
    const { leg, call, operator } = await talk({ dtmf: "w5" });
    await expect.poll(() => heardTones(operator, "5"), { timeout: 5_000 }).toBe(true);
    expect(await heardTones(leg, "5")).toBe(false);
    await Promise.all([leg.media.hears(pitches.operator), operator.media.hears(pitches.caller)]);
    await operator.hangUp();
    await call.transfer();
    await leg.hangUp();
    await call.event("hangup");
  });

  test("the operator presses *7: BYE to him, the caller is with the bot, whatever continueCall says", async () => {
    const { leg, call, operator } = await talk({ continueCall: false });
    operator.media.pressDigits("1*7");
    await operator.ended;
    const transfer = await call.transfer();
    expect(transfer.statusText).toBe(JSON.stringify({ status: "SUCCESS", hangup: false, number: operatorNumber }));
    expect(transfer.details).toMatchObject({ cause: "completed", endedBy: "operator" });
    await call.run({ type: "audio", audioUrl: stage().prompts.second });
    await leg.media.hears(pitches.bot);
    await leg.hangUp();
    await call.event("hangup");
  });
});

test("digits that are none are refused with the field", async () => {
  const { leg, call } = await stage().talk();
  const answer = await call.command([{ type: "switch", phoneNumber: operatorNumber, dtmf: "12x" }]);
  expect(answer.body).toMatchObject({ event: "rejected", code: "invalid_reply", pointer: "/replies/0/dtmf" });
  await call.transfer();
  await leg.hangUp();
  await call.event("hangup");
});
