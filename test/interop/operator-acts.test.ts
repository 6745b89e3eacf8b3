// Operators who do things: hold, other codecs and ports, offers without SDP, no sound at all. Audio is measured on both sides.
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { describe, expect, test } from "vitest";
import { nowMs } from "../support/clock.ts";
import { engineOnly } from "../support/drachtio.ts";
import type { CodecName } from "../support/g711.ts";
import { PhoneMedia } from "../support/phone-media.ts";
import { pitches } from "../support/pitch.ts";
import type { PhoneCall } from "../support/rtp-phone.ts";
import { type Direction, formatSdp } from "../support/sdp-text.ts";
import { Sipp } from "../support/sipp.ts";
import { delay, waitFor } from "../support/wait.ts";
import type { BotCall, Reply } from "../integration/raw-bot.ts";
import { anchoredInFreeswitch, operatorNumber, sharedStage } from "../integration/stage.ts";

const mostSilenceMs = 300;
const stage = sharedStage({
  channel: { destinations: { sipHosts: ["127.0.0.1:*"] }, recording: { enabled: true } },
  change: ({ channels: [first], media }, folder) => {
    const holdUrl = pathToFileURL(join(folder, "prompts", "second.wav")).href;
    Object.assign(first!, { sounds: { holdUrl } });
    Object.assign(media, { talkTimeoutMs: 4_000 });
  },
});

/** What the hold music of these tests sounds like. */
const music = pitches.bot;

const switchTo = (fields: object = {}): Reply => ({
  type: "switch",
  phoneNumber: operatorNumber,
  continueCall: true,
  continueRecording: true,
  ...fields,
});

interface Bridge {
  readonly leg: PhoneCall;
  readonly call: BotCall;
  readonly operator: PhoneCall;
}

async function bridged(fields: object = {}): Promise<Bridge> {
  const { leg, call } = await stage().talk();
  await call.run(switchTo(fields));
  const operator = await stage().incoming();
  await Promise.all([leg.media.hears(pitches.operator), operator.media.hears(pitches.caller)]);
  return { leg, call, operator };
}

interface Shape {
  readonly media?: PhoneMedia;
  readonly codec?: CodecName;
  readonly direction?: Direction;
  readonly address?: string;
}
let versions = 100;

/** An operator's SDP that his phone would not write by itself. */
function sdpOf({ media }: PhoneCall, { codec = "PCMA", direction = "sendrecv", ...shape }: Shape = {}): string {
  versions += 1;
  const at = shape.media ?? media;
  const place = { address: shape.address ?? at.address, port: at.port };
  return formatSdp({ ...place, codecs: [codec], eventPayloadType: 101, direction }, { id: 7, version: versions });
}

/** What each hears during a stretch in which nothing changes. */
async function hearing(phone: PhoneMedia, ms = 300): Promise<readonly number[]> {
  const fromMs = nowMs();
  await delay(ms);
  return (await phone.capture(fromMs)).tones().map(({ hz }) => hz);
}

async function neverSilent(leg: PhoneCall, fromMs: number): Promise<void> {
  const heard = await leg.media.capture(fromMs);
  process.stdout.write(`longest silence ${heard.longestSilenceMs.toFixed(0)} ms\n`);
  expect(heard.longestSilenceMs).toBeLessThan(mostSilenceMs);
}

describe("hold", () => {
  test("by re-INVITE and UPDATE in every form: music for the caller, nothing for the operator; all of it is recorded", async () => {
    const { leg, call, operator } = await bridged();
    const fromMs = nowMs();
    const forms: readonly (readonly [method: "INVITE" | "UPDATE", Shape])[] = [
      ["INVITE", { direction: "inactive" }],
      ["UPDATE", { direction: "sendonly" }],
      ["INVITE", { address: "0.0.0.0" }],
      ["UPDATE", { address: "0.0.0.0", direction: "inactive" }],
    ];
    for (const [method, shape] of forms) {
      const held = await operator.request(method, { body: sdpOf(operator, shape) });
      expect(held.status).toBe(200);
      expect(held.body).toMatch(shape.direction === "inactive" ? /^a=inactive\r?$/m : /^a=recvonly\r?$/m);
      operator.media.pause();
      await leg.media.hears(music);
      expect(await hearing(leg.media)).toEqual([music]);
      expect(await hearing(operator.media, 100)).toEqual([]);
      // Once more: a session refresh while he holds.
      expect((await operator.request(method, { body: sdpOf(operator, shape) })).status).toBe(200);
      operator.media.pause();
      expect(await hearing(leg.media)).toEqual([music]);
      expect((await operator.reinvite()).status).toBe(200);
      await Promise.all([leg.media.hears(pitches.operator), operator.media.hears(pitches.caller)]);
    }
    await neverSilent(leg, fromMs);
    await operator.hangUp();
    await call.transfer();
    await call.run({ type: "audio", audioUrl: stage().prompts.short });
    await leg.media.hears(pitches.bot);
    expect(leg.reInvites).toEqual([]);
    await leg.hangUp();
    const { sound } = await stage().recording(call);
    expect(sound.right.everyPitch()).toEqual(expect.arrayContaining([pitches.operator, music]));
    expect(sound.left.longestGapMs).toBeLessThan(60);
  });

  test("an operator whose exchange plays its own music is heard; ours takes its place when that stops", async () => {
    const { leg, operator } = await bridged();
    operator.media.sendTone(pitches.operator3);
    expect((await operator.reinvite({ direction: "sendonly" })).status).toBe(200);
    const fromMs = await leg.media.hears(pitches.operator3);
    expect(await hearing(leg.media, 500)).toEqual([pitches.operator3]);
    expect(await hearing(operator.media, 100)).toEqual([]);
    operator.media.pause();
    await leg.media.hears(music);
    await neverSilent(leg, fromMs);
    // He hangs up while he holds: the caller is with the bot, without music.
    await operator.hangUp();
    await leg.media.hears([]);
    await leg.hangUp();
  });
});

describe("offers during the talk", () => {
  test("a re-INVITE without SDP gets our offer, and the SDP of its ACK is followed", async () => {
    await using elsewhere = await PhoneMedia.open("127.0.0.1");
    const { leg, operator } = await bridged();
    const offered = await operator.request("INVITE", { ackBody: sdpOf(operator, { media: elsewhere, codec: "PCMU" }) });
    expect(offered.status).toBe(200);
    expect(offered.body).toMatch(/^a=sendrecv\r?$/m);
    expect(offered.body).toMatch(/^m=audio \d+ RTP\/AVP (?:8 0|0 8)\b/m);
    operator.media.pause();
    elsewhere.sendTone(pitches.operator2);
    elsewhere.connect("127.0.0.1", Number(/^m=audio (\d+)/m.exec(offered.body)?.[1]), "PCMU");
    await Promise.all([elsewhere.hears(pitches.caller), leg.media.hears(pitches.operator2)]);
    const followedMs = nowMs();
    expect(await hearing(elsewhere)).toEqual([pitches.caller]);
    expect((await elsewhere.capture(followedMs)).payloadTypes).toEqual([0]);
    expect(leg.reInvites).toEqual([]);
    await leg.hangUp();
  });

  test("another codec, and a session refresh that changes nothing: the talk has no gap", async () => {
    const { leg, operator } = await bridged();
    const fromMs = nowMs();
    const refreshed = await operator.reinvite();
    expect(refreshed.status).toBe(200);
    expect((await operator.request("UPDATE")).status).toBe(200);
    await Promise.all([leg.media.hears(pitches.operator), operator.media.hears(pitches.caller)]);
    const changed = await operator.request("INVITE", { body: sdpOf(operator, { codec: "PCMU" }) });
    expect(changed.status).toBe(200);
    operator.media.connect("127.0.0.1", operator.remoteSdp!.port, "PCMU");
    await leg.media.hears(pitches.operator);
    await operator.media.hears(pitches.caller);
    expect(await hearing(operator.media)).toEqual([pitches.caller]);
    // A last packet of the codec before may still be on its way.
    const typesFromNow = async (): Promise<readonly number[]> => {
      const changedMs = nowMs();
      await operator.media.hears(pitches.caller);
      return (await operator.media.capture(changedMs)).payloadTypes;
    };
    await expect.poll(typesFromNow).toEqual([0]);
    await neverSilent(leg, fromMs);
    await leg.hangUp();
  });
});

describe("sound that does not come as it should", () => {
  test("a phone that sends from another port than its SDP says is heard and answered there", async () => {
    await using elsewhere = await PhoneMedia.open("127.0.0.1");
    elsewhere.sendTone(pitches.operator2);
    const { leg, call } = await stage().talk();
    await call.run(switchTo());
    const operator = await stage().incoming();
    await operator.acknowledged;
    operator.media.pause();
    elsewhere.connect("127.0.0.1", operator.remoteSdp!.port, "PCMA");
    await leg.media.hears(pitches.operator2);
    await elsewhere.hears(pitches.caller, { timeoutMs: 8_000 });
    expect(operator.reInvites).toEqual([]);
    await leg.hangUp();
  });

  test.for(["operator", "caller"] as const)(
    "the %s's phone moves to another port in mid-talk: the sound goes on",
    async (who, context) => {
      if (anchoredInFreeswitch) context.skip("FreeSWITCH does not tell that packets come from elsewhere");
      await using elsewhere = await PhoneMedia.open("127.0.0.1");
      const { leg, call, operator } = await bridged();
      const [mover, other] = who === "operator" ? [operator, leg] : [leg, operator];
      const [stays, moves] =
        who === "operator" ? [pitches.caller, pitches.operator] : [pitches.operator, pitches.caller];
      // Until then rtpengine takes sound from anywhere, because a phone may be behind an address translation.
      await delay(4_500);
      elsewhere.sendTone(moves);
      mover.media.pause();
      const movedMs = nowMs();
      elsewhere.connect("127.0.0.1", mover.remoteSdp!.port, who === "operator" ? "PCMA" : "PCMU");
      const [thereMs, hereMs] = await Promise.all([
        elsewhere.hears(stays, { timeoutMs: 8_000 }),
        delay(300).then(() => other.media.hears(moves, { timeoutMs: 8_000 })),
      ]);
      const gap = await other.media.capture(movedMs, hereMs);
      process.stdout.write(
        `heard at the new port after ${(thereMs - movedMs).toFixed(0)} ms, silence ${gap.longestSilenceMs.toFixed(0)} ms\n`,
      );
      expect(gap.longestSilenceMs).toBeLessThan(6_000);
      expect([...operator.reInvites, ...leg.reInvites]).toEqual([]);
      expect(call.find("transfer")).toBeUndefined();
      await leg.hangUp();
    },
  );

  test("who sends to a phone's port beside the phone itself is not heard, and hears nothing", async () => {
    await using stranger = await PhoneMedia.open("127.0.0.1");
    const { leg, operator } = await bridged();
    await delay(4_500);
    stranger.sendTone(pitches.operator3);
    stranger.connect("127.0.0.1", operator.remoteSdp!.port, "PCMA");
    const fromMs = nowMs();
    await delay(5_000);
    expect((await leg.media.capture(fromMs)).tones().map(({ hz }) => hz)).toEqual([pitches.operator]);
    expect((await stranger.capture()).packets).toEqual([]);
    expect(await hearing(operator.media)).toEqual([pitches.caller]);
    await leg.hangUp();
  });

  test("nothing comes from the operator until he is asked again: the talk goes on, nobody is told", async () => {
    const { leg, call } = await stage().talk();
    await call.run(switchTo());
    const operator = await stage().incoming();
    await operator.acknowledged;
    // His phone has forgotten to send; the re-INVITE reminds it.
    operator.media.pause();
    await leg.media.hears(pitches.operator, { timeoutMs: 8_000 });
    await operator.media.hears(pitches.caller);
    expect(operator.reInvites).toHaveLength(1);
    await delay(2_200);
    expect(call.find("transfer")).toBeUndefined();
    await operator.hangUp();
    expect((await call.transfer()).status.status).toBe("SUCCESS");
    await leg.hangUp();
  });

  test("nothing comes from him at all: FAIL, media_failure, and the caller hears the bot", async () => {
    await using mute = await Sipp.start({ scenario: "test/integration/sipp/job/operator-never-sounds.xml" });
    const { leg, call } = await stage().talk();
    const fromMs = nowMs();
    await call.run(switchTo({ sipUri: `mute@127.0.0.1:${mute.port}`, continueRecording: false }));
    const { status, details } = await call.transfer({ timeoutMs: 10_000 });
    expect(status).toMatchObject({ status: "FAIL", hangup: false });
    expect(details).toMatchObject({ cause: "media_failure", endedBy: "service" });
    expect(details.attempts.map(({ cause }) => cause)).toEqual(["media_failure"]);
    await call.run({ type: "audio", audioUrl: stage().prompts.short });
    const backMs = await leg.media.hears(pitches.bot);
    process.stdout.write(`from the switch to the bot again ${(backMs - fromMs).toFixed(0)} ms\n`);
    expect(backMs - fromMs).toBeLessThan(8_000);
    const { exitCode, errors } = await mute.finished();
    expect(exitCode, errors).toBe(0);
    expect(leg.reInvites).toEqual([]);
    await leg.hangUp();
    await stage().recording(call);
    expect(call.all("recording").map(({ body }) => body["state"])).toEqual([
      "started",
      "paused",
      "resumed",
      "finished",
    ]);
  });

  test("a muted phone that has sent one packet, and a caller who sends nothing, are let alone", async () => {
    const { leg, call } = await stage().talk();
    leg.media.pause();
    await call.run(switchTo());
    const operator = await stage().incoming();
    await leg.media.hears(pitches.operator);
    await delay(100);
    operator.media.pause();
    await delay(3_800);
    expect(operator.reInvites).toEqual([]);
    expect(call.find("transfer")).toBeUndefined();
    await leg.hangUp();
  });
});

describe("an operator who was heard and sends nothing any more", () => {
  async function bridgedTo(inviteStatus: number): Promise<Bridge> {
    const phone = await stage().phone({
      user: "second",
      tone: pitches.operator2,
      responses: { INVITE: inviteStatus },
    });
    const { leg, call } = await stage().talk();
    await call.run(switchTo({ sipUri: `second@127.0.0.1:${phone.port}` }));
    const operator = await stage().incoming(phone);
    await Promise.all([leg.media.hears(pitches.operator2), operator.media.hears(pitches.caller)]);
    return { leg, call, operator };
  }
  const asked = async (operator: PhoneCall): Promise<void> =>
    void (await waitFor(() => operator.reInvites.length > 0, { what: "a re-INVITE", timeoutMs: 15_000 }));

  test("is asked whether he is there, and the talk goes on when he sends again", async () => {
    const { leg, call, operator } = await bridged();
    operator.media.pause();
    await leg.media.hears([]);
    await leg.media.hears(pitches.operator, { timeoutMs: 15_000 });
    expect(operator.reInvites).toHaveLength(1);
    await operator.hangUp();
    expect((await call.transfer()).details).toMatchObject({ cause: "completed", endedBy: "operator" });
    await leg.hangUp();
  });

  test("and answers 481: the talk has ended, SUCCESS, and the caller is with the bot", async () => {
    const { leg, call, operator } = await bridgedTo(481);
    operator.media.pause();
    const { status, details } = await call.transfer({ timeoutMs: 20_000 });
    expect(status).toMatchObject({ status: "SUCCESS", hangup: false });
    expect(details).toMatchObject({ cause: "completed", endedBy: "service" });
    await call.run({ type: "audio", audioUrl: stage().prompts.short });
    await leg.media.hears(pitches.bot);
    await leg.hangUp();
  });

  test("and refuses the question: he is there, so the talk goes on while the caller is heard", async () => {
    const { leg, call, operator } = await bridgedTo(488);
    operator.media.pause();
    await asked(operator);
    await delay(6_500);
    expect(call.find("transfer")).toBeUndefined();
    expect(operator.reInvites).toHaveLength(1);
    expect(await hearing(operator.media)).toEqual([pitches.caller]);
    // Nor does he send when the caller falls silent: then nobody is left in the talk.
    leg.media.pause();
    const { details } = await call.transfer({ timeoutMs: 20_000 });
    expect(details).toMatchObject({ cause: "completed", endedBy: "service" });
    await leg.hangUp();
  });
});

test("two answers from a fork: one is joined, the other gets ACK and BYE", async (context) => {
  engineOnly(context, "it leaves the other answer alone (C 8.1)");
  await using fork = await Sipp.start({ scenario: "test/integration/sipp/job/operator-forks.xml" });
  const { leg, call } = await stage().talk();
  await call.run(switchTo({ sipUri: `fork@127.0.0.1:${fork.port}` }));
  await call.progress("bridged");
  await waitFor(() => fork.messages.some(({ what }) => what === "BYE"), { what: "BYE to the second phone" });
  await leg.hangUp();
  const { exitCode, errors } = await fork.finished();
  expect(exitCode, errors).toBe(0);
  expect((await call.transfer()).details.attempts).toHaveLength(1);
});
