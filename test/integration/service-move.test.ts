// rtpengine is killed in the middle of calls and starts again without them: no caller is lost. What he hears before and
// after, what the other side is told, what the recording says, and what the bot is told.
import { describe, expect, test } from "vitest";
import { nowMs } from "../support/clock.ts";
import { pitches } from "../support/pitch.ts";
import type { PhoneCall, PhoneOptions } from "../support/rtp-phone.ts";
import { header } from "../support/sip-text.ts";
import { delay } from "../support/wait.ts";
import { operatorNumber, sharedStage, type Stage } from "./stage.ts";

const ringing = { botId: "bot-ring", trunk: "trunk-a", numbers: ["74950009999"], answer: "on-command" };
const stageOf = sharedStage({
  channel: { recording: { enabled: true } },
  change: ({ channels }) => void channels.push(ringing),
});
/** The loss is noticed within 5 s, and a loaded machine takes its time. */
const patient = { timeoutMs: 20_000 };

const originOf = (sdp: string): readonly string[] => /^o=(.+)$/m.exec(sdp)?.[1]?.split(" ") ?? [];

/** RFC 3264 §8: the same session, one version later. */
function expectSameSession(call: PhoneCall, firstSdp: string): void {
  const [offer] = call.reInvites;
  const [before, now] = [originOf(firstSdp), originOf(offer?.body ?? "")];
  expect(now.toSpliced(2, 1)).toEqual(before.toSpliced(2, 1));
  expect(Number(now[2])).toBe(Number(before[2]) + 1);
}

const firstAnswerTo = ({ responses }: PhoneCall): string => responses.find(({ status }) => status === 200)?.body ?? "";

/** Kills rtpengine where it stands and starts it again; gives when it was gone. */
async function restart({ rtpengine }: Stage): Promise<number> {
  await rtpengine.crash();
  const goneMs = nowMs();
  await rtpengine.start();
  expect(await rtpengine.calls()).toEqual([]);
  return goneMs;
}

describe("rtpengine is killed and starts again without its calls", () => {
  test(
    "the caller is with the bot: the prompt plays again, keys are told, the recording goes on behind a hole",
    { timeout: 90_000 },
    async () => {
      const stage = stageOf();
      const { leg, call } = await stage.talk();
      await call.event("recording", { where: (body) => body["state"] === "started" });
      await call.run({ type: "audio", audioUrl: stage.prompts.long });
      await leg.media.hears(pitches.bot);
      await delay(1_000);
      const goneMs = await restart(stage);
      await call.event("warning", { where: (body) => body["code"] === "media_moved", ...patient });
      await leg.media.hears(pitches.bot, patient);
      expectSameSession(leg, firstAnswerTo(leg));
      expect(leg.reInvites).toHaveLength(1);
      const after = await leg.media.capture(nowMs() - 300);
      expect(after.sources).toEqual([`127.0.0.1:${leg.remoteSdp?.port}`]);
      leg.media.pressDigits("7");
      expect((await call.event("dtmf")).body).toMatchObject({ digit: "7", from: "caller" });
      await call.run({ type: "stop" }, { type: "audio", audioUrl: stage.prompts.second });
      await call.event("playback", { where: (body) => body["result"] === "completed" });
      await leg.hangUp();
      expect((await call.event("hangup")).body).toMatchObject({ by: "caller" });
      const { sound, sidecar } = await stage.recording(call);
      expect(sidecar.gaps).toMatchObject([{ reason: "lost" }]);
      const [gap] = sidecar.gaps;
      // The hole begins where the packets end, and not where that was noticed.
      const lostAtMs = Date.parse(sidecar.startedAt) + (gap?.at ?? 0) * 1_000;
      expect(Math.abs(lostAtMs - goneMs)).toBeLessThan(1_000);
      expect(gap?.seconds).toBeGreaterThan(0.2);
      const [at, end] = [gap?.at ?? 0, sidecar.seconds];
      expect(sound.left.between(at - 0.6, at - 0.2).pitches()).toEqual([pitches.caller]);
      expect(sound.right.between(at - 0.6, at - 0.2).pitches()).toEqual([pitches.bot]);
      expect(sound.left.between(end - 0.9, end - 0.5).pitches()).toEqual([pitches.caller]);
    },
  );

  test(
    "the caller talks to an operator: both hear each other again, and the transfer has its own end",
    { timeout: 90_000 },
    async () => {
      const stage = stageOf();
      const { leg, call } = await stage.talk();
      await call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: true, continueRecording: true });
      const operator = await stage.incoming();
      await Promise.all([leg.media.hears(pitches.operator), operator.media.hears(pitches.caller)]);
      // rtpengine has then written some of it.
      await delay(1_000);
      await restart(stage);
      await Promise.all([leg.media.hears([], patient), operator.media.hears([], patient)]);
      await Promise.all([leg.media.hears(pitches.operator, patient), operator.media.hears(pitches.caller, patient)]);
      expectSameSession(leg, firstAnswerTo(leg));
      expectSameSession(operator, operator.invite.body);
      await delay(1_000);
      await operator.hangUp();
      const { status, details } = await call.transfer();
      expect(status).toMatchObject({ status: "SUCCESS", hangup: false });
      expect(details).toMatchObject({ cause: "completed", endedBy: "operator" });
      await call.run({ type: "audio", audioUrl: stage.prompts.second });
      await leg.media.hears(pitches.bot);
      await leg.hangUp();
      const { sound, sidecar } = await stage.recording(call);
      expect(sidecar.gaps).toMatchObject([{ reason: "lost" }]);
      const talk = sidecar.phases.find(({ phase }) => phase === "operator");
      const to = talk?.to ?? 0;
      expect(sound.left.between(to - 0.7, to - 0.3).pitches()).toEqual([pitches.caller]);
      expect(sound.right.between(to - 0.7, to - 0.3).pitches()).toEqual([pitches.operator]);
    },
  );

  test(
    "an operator's phone rings: the caller hears that it does, and whoever answers is heard",
    { timeout: 90_000 },
    async () => {
      const stage = stageOf();
      stage.operator.answering = { type: "manual" };
      const { leg, call } = await stage.talk();
      await call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: true });
      const operator = await stage.incoming();
      operator.ring();
      await leg.media.hears(pitches.ringback);
      await call.event("recording", { where: (body) => body["state"] === "started" });
      await restart(stage);
      await leg.media.hears([], patient);
      await leg.media.hears(pitches.ringback, patient);
      operator.answer();
      await Promise.all([leg.media.hears(pitches.operator, patient), operator.media.hears(pitches.caller, patient)]);
      expectSameSession(operator, operator.invite.body);
      await leg.hangUp();
      expect((await call.transfer()).status).toMatchObject({ status: "SUCCESS", hangup: true });
    },
  );

  test("a caller who will not follow is hung up on, and the bot is told", { timeout: 90_000 }, async () => {
    const stage = stageOf();
    const refuses: PhoneOptions = { responses: { INVITE: 488 } };
    const { leg, call } = await stage.talk(refuses);
    await call.event("recording", { where: (body) => body["state"] === "started" });
    await restart(stage);
    const end = await leg.ended;
    expect(end).toMatchObject({ by: "peer", how: "BYE" });
    expect(header(end.message!, "Reason")).toContain("media lost");
    expect((await call.event("hangup")).body).toMatchObject({ by: "service" });
  });

  test("a caller who still hears ringing is answered, and hears the bot", { timeout: 90_000 }, async () => {
    const stage = stageOf();
    const bot = await stage.listen("bot-ring");
    const caller = await stage.phone();
    const leg = await caller.dial(stage.uri("74950009999"));
    const call = await bot.callOf(leg.callId);
    await leg.progress(180);
    await restart(stage);
    await call.event("warning", { where: (body) => body["code"] === "media_moved", ...patient });
    await call.run({ type: "audio", audioUrl: stage.prompts.long });
    await leg.established;
    await leg.media.hears(pitches.bot);
    expect(leg.reInvites).toEqual([]);
    await leg.hangUp();
    expect((await call.event("hangup")).body).toMatchObject({ by: "caller" });
  });
});
