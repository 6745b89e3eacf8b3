// A caller whose phone is gone without BYE: found out by what it does not send.
import { expect, test } from "vitest";
import { pitches } from "../support/pitch.ts";
import { delay } from "../support/wait.ts";
import type { Reply } from "../integration/raw-bot.ts";
import { operatorNumber, sharedStage } from "../integration/stage.ts";

const stage = sharedStage({ change: ({ media }) => Object.assign(media, { callerTimeoutMs: 1_500 }) });
const toOperator: Reply = { type: "switch", phoneNumber: operatorNumber, continueCall: true };

test("after a talk and during another one: the call ends and the operator is released", async () => {
  const { caller, leg, call } = await stage().talk();
  await call.run(toOperator);
  const first = await stage().incoming();
  await leg.media.hears(pitches.operator);
  await first.hangUp();
  const { event } = await call.transfer();
  await call.run(toOperator);
  const operator = await stage().incoming(undefined, 1);
  await leg.media.hears(pitches.operator);
  await caller.vanish();
  expect(await operator.ended).toMatchObject({ by: "peer", how: "BYE" });
  expect((await call.transfer({ after: event.seq })).status).toMatchObject({ status: "SUCCESS", hangup: true });
  const { body } = await call.event("hangup");
  expect(body).toMatchObject({ by: "service", reason: "media lost: nothing comes from the caller any more" });
});

test("with the bot, when an operator has come and gone", async () => {
  const { caller, leg, call } = await stage().talk();
  await call.run(toOperator);
  const operator = await stage().incoming();
  await leg.media.hears(pitches.operator);
  await operator.hangUp();
  await call.transfer();
  await caller.vanish();
  expect((await call.event("hangup")).body).toMatchObject({ by: "service" });
});

test("but not one who holds", async () => {
  const { leg, call } = await stage().talk();
  expect((await leg.reinvite({ direction: "inactive" })).status).toBe(200);
  await delay(3_200);
  expect(call.find("hangup")).toBeUndefined();
  expect((await leg.reinvite()).status).toBe(200);
  await call.run({ type: "audio", audioUrl: stage().prompts.short });
  await leg.media.hears(pitches.bot);
  await leg.hangUp();
});
