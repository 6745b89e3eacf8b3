// Who hears whom, and what the recording holds: tones of different pitch per party, RTP sent and decoded.
import { describe, expect, test } from "vitest";
import { nowMs } from "../support/clock.ts";
import type { CodecName } from "../support/g711.ts";
import { pitches } from "../support/pitch.ts";
import type { Capture } from "../support/rtp-capture.ts";
import type { PhoneCall } from "../support/rtp-phone.ts";
import { Sipp } from "../support/sipp.ts";
import { delay, waitFor } from "../support/wait.ts";
import type { BotCall, Reply } from "./raw-bot.ts";
import { noChildren, operatorNumber, sharedStage, type Sidecar, Stage } from "./stage.ts";
import type { Recording } from "./wav.ts";

/** Time for a party to be heard alone, in the middle of which the pitches are told apart. */
const listenMs = 600;
/** At the edges of a phase the sound of the one before is still on its way. */
const edgeMs = 120;

const switchTo = (fields: Readonly<Record<string, unknown>>): Reply => ({
  type: "switch",
  phoneNumber: operatorNumber,
  ...fields,
});

const pitchesOf = (capture: Capture): readonly number[] => capture.tones().map(({ hz }) => hz);

interface Span {
  readonly fromMs: number;
  readonly toMs: number;
}

/** The middle of a stretch during which a party was heard. */
const middle = ({ fromMs, toMs }: Span): Span => ({ fromMs: fromMs + edgeMs, toMs: toMs - edgeMs });

async function listen(): Promise<Span> {
  const fromMs = nowMs();
  // Listening takes time: this is what the test does, it does not wait for anything.
  await delay(listenMs + 2 * edgeMs);
  return { fromMs, toMs: nowMs() };
}

/** The bot speaks until it is told to stop, and the caller hears it. */
async function botSpeaks(leg: PhoneCall, call: BotCall, stage: Stage): Promise<Span> {
  await call.run({ type: "audio", audioUrl: stage.prompts.long });
  await leg.media.hears(pitches.bot);
  const span = await listen();
  await call.run({ type: "stop" });
  return span;
}

/** A stretch of wall-clock time within a recording that was not paused before it, in seconds. */
function inFile(sidecar: Sidecar, { fromMs, toMs }: Span): readonly [fromS: number, toS: number] {
  const startMs = Date.parse(sidecar.startedAt);
  return [(fromMs - startMs) / 1_000, (toMs - startMs) / 1_000];
}

const left = (sound: Recording, span: readonly [number, number]): readonly number[] =>
  sound.left.between(...span).pitches();
const right = (sound: Recording, span: readonly [number, number]): readonly number[] =>
  sound.right.between(...span).pitches();

describe("bot, operator, bot", () => {
  const stage = sharedStage({ channel: { recording: { enabled: true } } });

  test("each party hears exactly the other and the bot at the right time; the recording has it all", async () => {
    stage().operator.answering = { type: "answer", afterMs: 1_300 };
    const { leg, call } = await stage().talk({ codecs: ["PCMU"] });

    const first = await botSpeaks(leg, call, stage());
    await call.run(switchTo({ timeout: "30", continueCall: true, continueRecording: true }));
    const operator = await stage().incoming();
    const ringingFromMs = await leg.media.hears(pitches.ringback);
    await operator.acknowledged;
    const ringing = { fromMs: ringingFromMs, toMs: nowMs() };
    await Promise.all([leg.media.hears(pitches.operator), operator.media.hears(pitches.caller)]);
    const talk = await listen();
    const heardByOperator = await operator.media.capture();
    await operator.hangUp();
    const operatorGoneMs = nowMs();
    await call.transfer();
    const last = await botSpeaks(leg, call, stage());
    const heard = await leg.media.capture();
    await leg.hangUp();

    // The caller: the bot, ringing, the operator, the bot; never two of them, and nobody else.
    const during = (span: Span): readonly number[] => pitchesOf(heard.between(middle(span).fromMs, middle(span).toMs));
    expect(during(first)).toEqual([pitches.bot]);
    expect(during({ ...ringing, fromMs: ringing.fromMs - edgeMs })).toEqual([pitches.ringback]);
    expect(during(talk)).toEqual([pitches.operator]);
    expect(during(last)).toEqual([pitches.bot]);
    const answeredMs = await operator.established;
    expect(heard.between(0, answeredMs).amplitudeOf(pitches.operator)).toBeLessThan(50);
    expect(heard.between(operatorGoneMs + edgeMs, last.toMs).amplitudeOf(pitches.operator)).toBeLessThan(50);

    // The operator: the caller, and neither the bot nor the ringing.
    expect(pitchesOf(heardByOperator)).toEqual([pitches.caller]);
    expect(heardByOperator.payloadTypes.filter((type) => type !== 8)).toEqual([]);
    expect(heard.payloadTypes).toEqual([0]);

    // The wire: nothing was asked of the caller's phone, and all came from one port.
    expect(leg.reInvites).toEqual([]);
    expect(leg.received("UPDATE")).toEqual([]);
    expect(heard.sources).toHaveLength(1);
    expect(heard.sources[0]).toBe(`127.0.0.1:${leg.remoteSdp?.port}`);
    const switchGap = heard.between(ringing.fromMs, talk.toMs).gaps()[0];
    const returnGap = heard.between(talk.fromMs, last.toMs).gaps()[0];
    expect(switchGap?.ms).toBeLessThan(250);
    expect(returnGap?.ms).toBeLessThan(300);
    process.stdout.write(
      `caller's RTP: ${heard.ssrcs.length} SSRCs from ${heard.sources.length} port; longest gap at the switch ` +
        `${switchGap?.ms.toFixed(0)} ms, at the return until the bot speaks ${returnGap?.ms.toFixed(0)} ms\n`,
    );

    // The recording: caller left, the others right, nothing missing of the caller.
    const { sound, sidecar } = await stage().recording(call);
    expect(sound.channels).toBe(2);
    expect(sound.left.longestGapMs).toBeLessThan(60);
    expect(sound.left.pitches()).toEqual([pitches.caller]);
    for (const [span, hz] of [
      [first, pitches.bot],
      [talk, pitches.operator],
      [last, pitches.bot],
    ] as const) {
      expect(left(sound, inFile(sidecar, middle(span)))).toEqual([pitches.caller]);
      expect(right(sound, inFile(sidecar, middle(span)))).toEqual([hz]);
    }
    expect(call.all("recording").map(({ body }) => body["state"])).toEqual(["started", "finished"]);
    const [, toS] = inFile(sidecar, { fromMs: 0, toMs: await operator.established });
    expect(sound.right.between(0, toS - 0.02).pitches()).not.toContain(pitches.operator);

    // The sidecar: the phases in order, without holes, at the times they really had.
    expect(sidecar).toMatchObject({ callId: call.id, botId: "bot-a", caller: leg.phone.user, channels: 2, gaps: [] });
    expect(sidecar.phases.map(({ phase }) => phase)).toEqual(["bot", "dialling", "operator", "bot"]);
    expect(Math.abs(sidecar.seconds - sound.seconds)).toBeLessThan(0.01);
    expect(sidecar.phases[0]?.from).toBeLessThan(0.05);
    sidecar.phases.slice(1).forEach(({ from }, index) => expect(from).toBeCloseTo(sidecar.phases[index]?.to ?? -1, 2));
    expect(sidecar.phases.at(-1)?.to).toBeCloseTo(sound.seconds, 1);
    const bridgedMs = (await call.progress("bridged")).atMs;
    const [, bridgedS] = inFile(sidecar, { fromMs: 0, toMs: bridgedMs });
    const [, goneS] = inFile(sidecar, { fromMs: 0, toMs: operatorGoneMs });
    expect(Math.abs((sidecar.phases[2]?.from ?? 0) - bridgedS)).toBeLessThan(0.1);
    expect(Math.abs((sidecar.phases[2]?.to ?? 0) - goneS)).toBeLessThan(0.1);
  });

  test("a failed transfer leaves no gap in the recording, continueRecording or not", async () => {
    stage().operator.answering = { type: "reject", status: 486, afterMs: 300 };
    const { leg, call } = await stage().talk();
    await call.run(switchTo({ continueCall: true, continueRecording: false }));
    await call.transfer();
    const after = await botSpeaks(leg, call, stage());
    await leg.hangUp();
    const { sound, sidecar } = await stage().recording(call);
    expect(sound.left.longestGapMs).toBeLessThan(60);
    expect(right(sound, inFile(sidecar, middle(after)))).toEqual([pitches.bot]);
    expect(call.all("recording").map(({ body }) => body["state"])).toEqual(["started", "finished"]);
  });

  test("paused for an operator whose sound fails, resumed when the transfer has failed", async () => {
    await using deaf = await Sipp.start({ scenario: "test/integration/sipp/job/operator-without-sound.xml" });
    const { leg, call } = await stage().talk();
    await call.run({
      type: "switch",
      sipUri: `deaf@127.0.0.1:${deaf.port}`,
      continueCall: true,
      continueRecording: false,
    });
    const transfer = await call.transfer();
    expect(transfer.details).toMatchObject({ cause: "media_failure" });
    const after = await botSpeaks(leg, call, stage());
    await leg.hangUp();
    const { sound, sidecar } = await stage().recording(call);
    expect(call.all("recording").map(({ body }) => body["state"])).toEqual([
      "started",
      "paused",
      "resumed",
      "finished",
    ]);
    const pausedS = sidecar.gaps.reduce((sum, { seconds }) => sum + seconds, 0);
    const [fromS, toS] = inFile(sidecar, middle(after));
    expect(right(sound, [fromS - pausedS, toS - pausedS])).toEqual([pitches.bot]);
    expect(left(sound, [fromS - pausedS, toS - pausedS])).toEqual([pitches.caller]);
  });

  test.each([
    { continueRecording: true, caller: "PCMU", operator: "PCMU" },
    { continueRecording: true, caller: "PCMA", operator: "PCMU" },
    { continueRecording: true, caller: "PCMA", operator: "PCMA" },
  ] as const)("caller $caller, operator $operator", async ({ caller, operator: operatorCodec }) => {
    const { leg, call } = await stage().talk({ codecs: [caller] });
    const payloadType = (codec: CodecName): number => (codec === "PCMU" ? 0 : 8);
    const target = await stage().phone({
      user: "target",
      codecs: [operatorCodec],
      tone: pitches.operator,
      answering: { type: "answer" },
    });
    await call.run({
      type: "switch",
      sipUri: `target@127.0.0.1:${target.port}`,
      continueCall: true,
      continueRecording: true,
    });
    const operator = await stage().incoming(target);
    await operator.acknowledged;
    await Promise.all([leg.media.hears(pitches.operator), operator.media.hears(pitches.caller)]);
    const talk = await listen();
    const [heard, heardByOperator] = await Promise.all([
      leg.media.capture(talk.fromMs, talk.toMs),
      operator.media.capture(),
    ]);
    expect(heard.payloadTypes).toEqual([payloadType(caller)]);
    expect(heardByOperator.payloadTypes).toEqual([payloadType(operatorCodec)]);
    expect(pitchesOf(heard)).toEqual([pitches.operator]);
    expect(pitchesOf(heardByOperator)).toEqual([pitches.caller]);
    await operator.hangUp();
    await call.transfer();
    await botSpeaks(leg, call, stage());
    await leg.hangUp();
    const { sound, sidecar } = await stage().recording(call);
    expect(sound.left.longestGapMs).toBeLessThan(60);
    expect(left(sound, inFile(sidecar, middle(talk)))).toEqual([pitches.caller]);
    expect(right(sound, inFile(sidecar, middle(talk)))).toEqual([pitches.operator]);
  });
});

describe.each([
  { resumeOnReturn: false, states: ["started", "paused", "finished"] },
  { resumeOnReturn: true, states: ["started", "paused", "resumed", "finished"] },
])("an operator's talk that must not be recorded, resumeOnReturn $resumeOnReturn", ({ resumeOnReturn, states }) => {
  test("neither his voice nor what the caller says to him is in the file", async () => {
    {
      await using stage = await Stage.start({ channel: { recording: { enabled: true, resumeOnReturn } } });
      const { leg, call } = await stage.talk();
      const first = await botSpeaks(leg, call, stage);
      await call.run(switchTo({ continueCall: true, continueRecording: false }));
      const operator = await stage.incoming();
      await operator.acknowledged;
      await leg.media.hears(pitches.operator);
      // What the caller says to the operator has a pitch of its own.
      leg.media.sendTone(pitches.operator2);
      await operator.media.hears(pitches.operator2);
      await listen();
      leg.media.sendTone(pitches.caller);
      await operator.media.hears(pitches.caller);
      await operator.hangUp();
      await call.transfer();
      // And so has what he says when he is back with the bot.
      leg.media.sendTone(pitches.operator3);
      const last = await botSpeaks(leg, call, stage);
      await leg.hangUp();

      const { sound, sidecar } = await stage.recording(call);
      expect(call.all("recording").map(({ body }) => body["state"])).toEqual(states);
      const everywhere = [...sound.left.everyPitch(), ...sound.right.everyPitch()];
      expect(everywhere).not.toContain(pitches.operator);
      expect(everywhere).not.toContain(pitches.operator2);
      expect(left(sound, inFile(sidecar, middle(first)))).toEqual([pitches.caller]);
      expect(right(sound, inFile(sidecar, middle(first)))).toEqual([pitches.bot]);
      expect(sidecar.phases.map(({ phase }) => phase)).not.toContain("operator");
      if (resumeOnReturn) {
        const pausedS = sidecar.gaps.reduce((sum, { seconds }) => sum + seconds, 0);
        expect(pausedS).toBeGreaterThan(listenMs / 1_000);
        const [fromS, toS] = inFile(sidecar, middle(last));
        expect(left(sound, [fromS - pausedS, toS - pausedS])).toEqual([pitches.operator3]);
        expect(right(sound, [fromS - pausedS, toS - pausedS])).toEqual([pitches.bot]);
      } else {
        expect(everywhere).not.toContain(pitches.operator3);
      }
      await stage.atRest();
    }
    await noChildren();
  });
});

describe("what phones do during a talk", () => {
  const stage = sharedStage();

  test("the operator holds and takes back: the caller's phone is asked nothing", async () => {
    const { leg, call } = await stage().talk();
    await call.run(switchTo({ continueCall: true }));
    const operator = await stage().incoming();
    await operator.acknowledged;
    await leg.media.hears(pitches.operator);
    const before = operator.remoteSdp;
    const held = await operator.reinvite({ direction: "sendonly" });
    expect(held.status).toBe(200);
    expect(held.body).toMatch(/^a=recvonly\r?$/m);
    const back = await operator.reinvite();
    expect(back.status).toBe(200);
    expect(back.body).toMatch(/^a=sendrecv\r?$/m);
    // His sound goes where it went before.
    expect(operator.remoteSdp).toMatchObject({ address: before?.address, port: before?.port });
    await Promise.all([leg.media.hears(pitches.operator), operator.media.hears(pitches.caller)]);
    await operator.hangUp();
    await call.transfer();
    await botSpeaks(leg, call, stage());
    expect(leg.reInvites).toEqual([]);
    expect(leg.received("UPDATE")).toEqual([]);
    await leg.hangUp();
    await call.event("hangup");
  });

  test("the caller holds and takes back: the operator's phone is asked nothing", async () => {
    const { leg, call } = await stage().talk();
    await call.run(switchTo({ continueCall: true }));
    const operator = await stage().incoming();
    await operator.acknowledged;
    await leg.media.hears(pitches.operator);
    const before = leg.remoteSdp;
    expect((await leg.reinvite({ direction: "inactive" })).body).toMatch(/^a=inactive\r?$/m);
    const back = await leg.reinvite();
    expect(back.status).toBe(200);
    expect(leg.remoteSdp).toMatchObject({ address: before?.address, port: before?.port });
    await Promise.all([leg.media.hears(pitches.operator), operator.media.hears(pitches.caller)]);
    expect(operator.reInvites).toEqual([]);
    await operator.hangUp();
    await call.transfer();
    await botSpeaks(leg, call, stage());
    await leg.hangUp();
    await call.event("hangup");
  });

  test("two operators one after the other: each is heard alone, in one stream from one port", async () => {
    const { secondOperator } = stage();
    const { leg, call } = await stage().talk();
    await call.run(switchTo({ continueCall: true }));
    const first = await stage().incoming();
    await first.acknowledged;
    await Promise.all([leg.media.hears(pitches.operator), first.media.hears(pitches.caller)]);
    await first.hangUp();
    const { event } = await call.transfer();
    await call.run({ type: "switch", sipUri: `second@127.0.0.1:${secondOperator.port}`, continueCall: true });
    const second = await stage().incoming(secondOperator);
    await second.acknowledged;
    await Promise.all([leg.media.hears(pitches.operator2), second.media.hears(pitches.caller)]);
    const talk = await listen();
    expect(pitchesOf(await leg.media.capture(middle(talk).fromMs, middle(talk).toMs))).toEqual([pitches.operator2]);
    await second.hangUp();
    await call.transfer({ after: event.seq });
    await botSpeaks(leg, call, stage());
    expect((await leg.media.capture()).sources).toHaveLength(1);
    expect(leg.reInvites).toEqual([]);
    await leg.hangUp();
    await call.event("hangup");
  });
});

describe("digits during a call", () => {
  const stage = sharedStage();

  test("a key press is told once, with who pressed it, in RFC 4733 and in INFO", async () => {
    const { leg, call } = await stage().talk();
    await waitFor(() => leg.media.sending.packetsSent >= 0, { what: "sound" });
    leg.media.pressDigits("5");
    const first = await call.event("dtmf");
    expect(first.body).toMatchObject({ digit: "5", from: "caller" });
    expect((await leg.infoDigit("#")).status).toBe(200);
    const second = await call.event("dtmf", { after: first.seq });
    expect(second.body).toMatchObject({ digit: "#", from: "caller" });
    await call.run(switchTo({ continueCall: true }));
    const operator = await stage().incoming();
    await call.progress("bridged");
    await operator.media.hears(pitches.caller);
    operator.media.pressDigits("9");
    const third = await call.event("dtmf", { after: second.seq });
    expect(third.body).toMatchObject({ digit: "9", from: "operator" });
    await operator.hangUp();
    await leg.hangUp();
    await call.event("hangup");
    expect(call.all("dtmf")).toHaveLength(3);
  });
});
