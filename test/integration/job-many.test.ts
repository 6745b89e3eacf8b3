// Twenty calls at once, each with a transfer and a return.
import { expect, test } from "vitest";
import type { Answering, PhoneCall } from "../support/rtp-phone.ts";
import { pitches } from "../support/pitch.ts";
import { type SipText, userOf } from "../support/sip-text.ts";
import { nowMs } from "../support/clock.ts";
import { waitFor } from "../support/wait.ts";
import { noChildren, Stage } from "./stage.ts";

const count = 20;

interface Story {
  readonly number: string;
  readonly caller: string;
  readonly callerHz: number;
  readonly operatorHz: number;
  readonly answering: Answering;
  readonly cause: "completed" | "busy" | "no_answer" | "rejected";
}

/** Every caller and every operator of this test has a pitch that tells him from those of the other calls. */
const hzOf = (place: number): number => 350 + 100 * (place % 30);
const candidates = Array.from({ length: 30 }, (_, place) => hzOf(place));

const answers: readonly (readonly [Answering, Story["cause"]])[] = [
  [{ type: "answer", afterMs: 200 }, "completed"],
  [{ type: "reject", status: 486, afterMs: 100 }, "busy"],
  [{ type: "answer" }, "completed"],
  [{ type: "ring" }, "no_answer"],
  [{ type: "reject", status: 603, afterMs: 300 }, "rejected"],
];

const stories = Array.from({ length: count }, (_, index): Story => {
  const [answering, cause] = answers[index % answers.length] ?? [{ type: "answer" }, "completed"];
  return {
    number: `7900${String(index).padStart(3, "0")}`,
    caller: `7999${String(index).padStart(3, "0")}`,
    callerHz: hzOf(index),
    operatorHz: hzOf(index + 10),
    answering,
    cause,
  };
});

async function hears({ media }: PhoneCall, hz: number): Promise<void> {
  let heard: readonly number[] = [];
  await waitFor(
    async () => {
      const now = nowMs();
      heard = (await media.capture(now - 200, now)).tones({ candidates }).map((tone) => tone.hz);
      return heard.length === 1 && heard[0] === hz;
    },
    { what: `${hz} Hz to be heard alone`, timeoutMs: 10_000, intervalMs: 50 },
  ).catch((error: unknown) => {
    throw new Error(`heard ${heard.join(" + ")} instead of ${hz} Hz`, { cause: error });
  });
}

async function play(stage: Stage, story: Story): Promise<string> {
  const caller = await stage.phone({ user: story.caller });
  const leg = await caller.dial(stage.uri());
  leg.media.sendTone(story.callerHz);
  const call = await stage.bot.callOf(leg.callId);
  await call.event("answered");
  const talks = story.cause === "completed";
  await call.run({
    type: "switch",
    phoneNumber: story.number,
    timeout: talks ? 20 : 2,
    continueCall: true,
    continueRecording: true,
  });
  if (talks) {
    const operator = await waitFor(
      () => stage.incomingCalls(stage.operator).find(({ invite }) => userOf(invite.uri ?? "") === story.number),
      { what: `the call to ${story.number}`, timeoutMs: 10_000 },
    );
    operator.media.sendTone(story.operatorHz);
    await operator.acknowledged;
    await Promise.all([hears(leg, story.operatorHz), hears(operator, story.callerHz)]);
    await operator.hangUp();
  }
  const transfer = await call.transfer({ timeoutMs: 15_000 });
  await call.run({ type: "audio", audioUrl: stage.prompts.second });
  await leg.media.hears(pitches.bot, { timeoutMs: 10_000 });
  expect(leg.reInvites).toEqual([]);
  await leg.hangUp();
  expect((await call.event("hangup", { timeoutMs: 20_000 })).body).toMatchObject({ by: "caller" });
  expect(call.all("transfer")).toHaveLength(1);
  expect(call.all("recording").map(({ body }) => body["state"])).toEqual(["started", "finished"]);
  const { sound } = await stage.recording(call);
  // Twenty phones share two cores with everything they test, so a longer gap than for one call says nothing of the service.
  expect(sound.left.longestGapMs).toBeLessThan(250);
  return `${transfer.statusText} ${transfer.details.cause}`;
}

test("20 calls at once: every outcome is right, nobody hears a stranger, nothing is left", async () => {
  {
    await using stage = await Stage.start({
      mediaPorts: 400,
      t1Ms: 50,
      channel: { recording: { enabled: true } },
    });
    const storyOf = (invite: SipText): Story | undefined =>
      stories.find(({ number }) => number === userOf(invite.uri ?? ""));
    stage.operator.answering = (invite) => storyOf(invite)?.answering ?? { type: "reject", status: 404 };
    const outcomes = await Promise.all(stories.map((story) => play(stage, story)));
    expect(outcomes).toEqual(
      stories.map(
        ({ number, cause }) =>
          `{"status":"${cause === "completed" ? "SUCCESS" : "FAIL"}","hangup":false,"number":"${number}"} ${cause}`,
      ),
    );
    await stage.atRest({ commandsToo: true });
  }
  await noChildren();
});
