// Attended transfer: an operator brings his caller together with whom he has called before, whoever carries that call.
import { afterAll, afterEach, describe, expect, test } from "vitest";
import { nowMs } from "../support/clock.ts";
import { NgFront } from "../support/ng-front.ts";
import { pitches } from "../support/pitch.ts";
import { type Phone, type PhoneCall, type PhoneOptions, replacesOf } from "../support/rtp-phone.ts";
import { header, type SipText } from "../support/sip-text.ts";
import { delay, waitFor } from "../support/wait.ts";
import type { BotCall, RawBot } from "../integration/raw-bot.ts";
import { operatorNumber, sharedStage, Stage, type Talk } from "../integration/stage.ts";

const rtpengine = await NgFront.start();
afterEach(() => {
  rtpengine.refuses = () => undefined;
});
afterAll(() => rtpengine[Symbol.asyncDispose]());

const stage = sharedStage({
  channel: {
    operatorRefer: "accept",
    maxOperatorRefers: 3,
    destinations: { sipHosts: ["127.0.0.1:*"] },
    recording: { enabled: true },
  },
  change: (config) => {
    const [place] = config.media["rtpengine"] as { port: number }[];
    rtpengine.standBefore(place!.port);
    place!.port = rtpengine.port;
    const other = config.channels.find(({ botId }) => botId === "bot-b");
    Object.assign(other!, { operatorRefer: "accept", destinations: { sipHosts: ["127.0.0.1:*"] } });
    config.channels.push({
      botId: "bot-strict",
      trunk: "trunk-a",
      numbers: ["300"],
      destinations: { sipHosts: ["127.0.0.1:*"] },
    });
  },
});

let listening: Promise<RawBot> | undefined;
/** The bot whose channel lets no operator pass anybody on. */
const strictBot = (): Promise<RawBot> => (listening ??= stage().listen("bot-strict"));

let other: Promise<RawBot> | undefined;
const otherBot = (): Promise<RawBot> => (other ??= stage().listen("bot-b"));

interface Joined extends Talk {
  readonly operator: PhoneCall;
}

/** A caller who talks to an operator; `at` counts the calls to his phone. */
async function joined(
  fields: object = {},
  { phone = {}, at = 0 }: { readonly phone?: PhoneOptions; readonly at?: number } = {},
): Promise<Joined> {
  const talk = await stage().talk(phone);
  await talk.call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: true, ...fields });
  const operator = await stage().incoming(stage().operator, at);
  await talk.leg.media.hears(pitches.operator);
  return { ...talk, operator };
}

const uriOf = (phone: Phone): string => `sip:${phone.user}@${phone.address}:${phone.port}`;

const refer = (operator: PhoneCall, to: string, dialog: string, more = ""): Promise<SipText> =>
  operator.request("REFER", { headers: [["Refer-To", `<${to}?Replaces=${encodeURIComponent(dialog)}${more}>`]] });

const fragmentsOf = (operator: PhoneCall): readonly (string | undefined)[] =>
  operator.received("NOTIFY").map(({ body }) => body.trim());

describe("the consultation call does not go through us", () => {
  test("a colleague behind the exchange: the INVITE names that call, and he replaces it", async () => {
    const { operator: phone } = stage();
    const other = await stage().phone({ user: "colleague", tone: pitches.operator2, codecs: ["PCMU", "PCMA"] });
    const { leg, call, operator } = await joined();
    await operator.reinvite({ direction: "sendonly" });
    const consultation = await phone.dial(uriOf(other));
    await consultation.established;
    const colleague = await stage().incoming(other);
    const accepted = await refer(operator, uriOf(other), replacesOf(consultation), "&Require=replaces");
    expect(accepted.status).toBe(202);
    const next = await stage().incoming(other, 1);
    expect(header(next.invite, "Replaces")).toBe(replacesOf(consultation));
    expect(header(next.invite, "Require")).toBe("replaces");
    await colleague.hangUp();
    expect((await operator.ended).how).toBe("BYE");
    await leg.media.hears(pitches.operator2);
    await next.media.hears(pitches.caller);
    // A second one is not asked to replace what the first one has replaced.
    await next.request("REFER", { headers: [["Refer-To", `<${uriOf(phone)}>`]] });
    // Behind the one he has made himself.
    const third = await stage().incoming(phone, 2);
    expect(third.direction).toBe("incoming");
    expect(header(third.invite, "Replaces")).toBeUndefined();
    await leg.media.hears(pitches.operator);
    await leg.hangUp();
    expect((await call.transfer()).details.attempts.map(({ cause }) => cause)).toEqual([
      "completed",
      "completed",
      "completed",
    ]);
  });

  test("it is over when we ask for it: 481, the operator is told and has his caller again", async () => {
    const { secondOperator } = stage();
    secondOperator.answering = { type: "reject", status: 481 };
    const { leg, operator } = await joined();
    await refer(operator, uriOf(secondOperator), "gone@pbx.example;to-tag=1;from-tag=2");
    const { invite } = await stage().incoming(secondOperator);
    expect(header(invite, "Require")).toBeUndefined();
    await waitFor(() => fragmentsOf(operator).at(-1)?.includes("481") === true, { what: "the NOTIFY of 481" });
    await leg.media.hears(pitches.operator);
    await leg.hangUp();
  });
});

describe("the consultation call goes through us", () => {
  interface Consulted extends Joined {
    readonly consultation: PhoneCall;
    readonly colleague: PhoneCall;
    /** The bot's end of the operator's own call. */
    readonly second: BotCall;
  }

  /** The operator calls in himself, and that call is switched to a colleague. */
  async function consulted(fields: object = {}, at = 0): Promise<Consulted> {
    const { operator: phone, secondOperator, bot } = stage();
    const talk = await joined(fields, { at: 2 * at });
    const consultation = await phone.dial(stage().uri());
    const second = await bot.callOf(consultation.callId);
    await consultation.established;
    await second.event("answered");
    await second.run({
      type: "switch",
      sipUri: uriOf(secondOperator),
      continueCall: true,
      continueRecording: true,
    });
    const colleague = await stage().incoming(secondOperator, at);
    await consultation.media.hears(pitches.operator2);
    return { ...talk, consultation, colleague, second };
  }

  test("as a call to another bot: the caller has the colleague, both legs of the operator end", async () => {
    const { leg, call, operator, consultation, colleague, second } = await consulted({ continueRecording: true });
    const accepted = await refer(operator, stage().uri(), replacesOf(consultation));
    expect(accepted.status).toBe(202);
    expect((await operator.ended).how).toBe("BYE");
    expect((await consultation.ended).how).toBe("BYE");
    expect(fragmentsOf(operator)).toEqual(["SIP/2.0 100 Trying", "SIP/2.0 200 OK"]);
    await leg.media.hears(pitches.operator2);
    await colleague.media.hears(pitches.caller);
    expect([...leg.reInvites, ...colleague.reInvites]).toEqual([]);
    // Of the four legs that are left the two between the calls go over no trunk.
    await waitFor(() => stage().app.stats().sip.legs === 4, { what: "the legs of the operator to be gone" });
    expect(stage().app.stats().sip.onTrunks).toBe(2);
    await colleague.hangUp();
    expect((await second.transfer()).status).toMatchObject({ status: "SUCCESS", hangup: true });
    const { status, details } = await call.transfer();
    expect(status).toEqual({ status: "SUCCESS", hangup: false, number: operatorNumber });
    expect(details).toMatchObject({ cause: "completed", endedBy: "operator", recording: "continuous" });
    expect(details.attempts.map(({ cause }) => cause)).toEqual(["completed", "completed"]);
    // The caller is back with his own bot.
    await call.play(stage().prompts.short);
    await leg.hangUp();
    const { sound } = await stage().recording(call);
    expect(sound.right.everyPitch()).toEqual(expect.arrayContaining([pitches.operator, pitches.operator2]));
    const recorded = await stage().recording(second);
    expect(recorded.sound.left.everyPitch()).toEqual(expect.arrayContaining([pitches.operator, pitches.caller]));
  });

  test("as another of our calls to him: the two callers talk to each other", async () => {
    const first = await joined();
    const other = await joined({}, { phone: { user: "79995556677", tone: pitches.operator3 }, at: 1 });
    await refer(first.operator, uriOf(stage().operator), replacesOf(other.operator));
    expect((await first.operator.ended).how).toBe("BYE");
    expect((await other.operator.ended).how).toBe("BYE");
    await first.leg.media.hears(pitches.operator3);
    await other.leg.media.hears(pitches.caller);
    await first.leg.hangUp();
    expect((await other.call.transfer()).status).toMatchObject({ status: "SUCCESS", hangup: false });
    await other.call.play(stage().prompts.short);
    await other.leg.hangUp();
    const { status, details } = await first.call.transfer();
    expect(status).toMatchObject({ status: "SUCCESS", hangup: true });
    expect(details.attempts.at(-1)).toMatchObject({ target: "79995556677", cause: "completed" });
  });

  test("as a call to him by another trunk: joined when it is the same bot's, and not when it is another one's", async () => {
    const { operator: phone } = stage();
    const elsewhere = await otherBot();
    const first = await joined();
    const own = await stage().talk({ user: "79995556677", tone: pitches.operator3 });
    await own.call.run({ type: "switch", sipUri: uriOf(phone), transferChannel: "bot-b", continueCall: true });
    const ownOperator = await stage().incoming(phone, 1);
    await ownOperator.media.hears(pitches.operator3);
    const stranger = await stage().phone({ address: "127.0.0.9", user: "79990000000", tone: pitches.operator2 });
    const foreign = await stranger.dial(stage().uri("200"));
    const foreignCall = await elsewhere.callOf(foreign.callId);
    await foreign.established;
    await foreignCall.event("answered");
    await foreignCall.run({ type: "switch", sipUri: uriOf(phone), continueCall: true });
    const foreignOperator = await stage().incoming(phone, 2);
    await foreignOperator.media.hears(pitches.operator2);

    // For us no such call exists, so that his own exchange is asked, which does not know it either.
    phone.answering = { type: "reject", status: 481 };
    await refer(first.operator, uriOf(phone), replacesOf(foreignOperator));
    await waitFor(() => fragmentsOf(first.operator).at(-1)?.includes("481") === true, { what: "the NOTIFY of 481" });
    await first.leg.media.hears(pitches.operator);
    expect(foreignOperator.phase).toBe("established");

    await refer(first.operator, uriOf(phone), replacesOf(ownOperator));
    expect((await first.operator.ended).how).toBe("BYE");
    expect((await ownOperator.ended).how).toBe("BYE");
    await first.leg.media.hears(pitches.operator3);
    await own.leg.media.hears(pitches.caller);
    await Promise.all([first.leg.hangUp(), own.leg.hangUp(), foreign.hangUp()]);
    expect((await own.call.transfer()).details.trunk).toBe("trunk-b");
  });

  test("the caller hangs up at once: nobody is left in a call", async () => {
    const { leg, call, operator, consultation, colleague } = await consulted();
    void refer(operator, stage().uri(), replacesOf(consultation)).catch(() => undefined);
    await leg.hangUp();
    expect((await call.transfer()).status).toMatchObject({ hangup: true });
    expect((await operator.ended).how).toBe("BYE");
    // Whether he still has his own call depends on who was faster.
    await consultation.hangUp();
    await colleague.ended.catch(() => undefined);
  });

  test("whoever hangs up while the two calls are joined, and whenever: both end, each with one outcome", async () => {
    for (const [round, [who, afterMs]] of (
      ["caller", "operator", "consultation", "colleague"].flatMap((one) => [0, 4, 12, 30].map((ms) => [one, ms])) as [
        "caller" | "operator" | "consultation" | "colleague",
        number,
      ][]
    ).entries()) {
      const { leg, call, operator, consultation, colleague, second } = await consulted({}, round);
      refer(operator, stage().uri(), replacesOf(consultation)).catch(() => undefined);
      // The moment is the point.
      await delay(afterMs);
      await { caller: leg, operator, consultation, colleague }[who].hangUp();
      // Whatever came of it, the rest is over when these two are.
      await Promise.all([leg.hangUp(), consultation.hangUp()]);
      await Promise.all([call.event("hangup"), second.event("hangup")]);
      await Promise.all([operator.ended, colleague.ended]);
      expect([call.all("transfer").length, second.all("transfer").length], `${who} after ${afterMs} ms`).toEqual([
        1, 1,
      ]);
    }
  });

  test("the phone that gets his place cannot be given sound: that call ends at once, the caller is back", async () => {
    const { leg, call, operator, consultation, colleague, second } = await consulted();
    rtpengine.refuses = (command) =>
      command.includes(second.id) && command.includes("7:command5:offer") ? "no room" : undefined;
    expect((await refer(operator, stage().uri(), replacesOf(consultation))).status).toBe(202);
    expect((await colleague.ended).how).toBe("BYE");
    expect((await consultation.ended).how).toBe("BYE");
    expect(rtpengine.refused).toBeGreaterThan(0);
    // They had talked before, and so had the caller and his operator.
    expect((await second.transfer()).status).toMatchObject({ status: "SUCCESS", hangup: true });
    expect((await second.event("hangup")).body).toMatchObject({ by: "service", reason: "media failed" });
    expect((await call.transfer()).status).toMatchObject({ status: "SUCCESS", hangup: false });
    await call.play(stage().prompts.short);
    await leg.hangUp();
  });

  test("his own leg, and a call whose bot does not allow it: 603", async () => {
    const { operator: phone } = stage();
    const strict = await strictBot();
    const { leg, operator } = await joined();
    const line = await phone.dial(stage().uri("300"));
    const second = await strict.callOf(line.callId);
    await line.established;
    await second.event("answered");
    expect((await refer(operator, stage().uri(), replacesOf(line))).status).toBe(603);
    expect((await refer(operator, stage().uri(), replacesOf(operator))).status).toBe(603);
    await leg.media.hears(pitches.operator);
    await line.hangUp();
    await leg.hangUp();
  });
});

describe("an INVITE with Replaces takes the operator's place", () => {
  const claim = async (phone: Phone, value: string, number?: string, more = {}): Promise<PhoneCall> => {
    const taker = await phone.dial(stage().uri(number), { headers: [["Replaces", value]], ...more });
    taker.established.catch(() => undefined);
    return taker;
  };
  const answerTo = async (phone: Phone, value: string, number?: string): Promise<unknown> => {
    const end = await (await claim(phone, value, number)).ended;
    return end.status;
  };

  test("the caller hears him, the operator gets BYE; one outcome, the recording goes on", async () => {
    const { secondOperator } = stage();
    const { leg, call, operator } = await joined({ continueRecording: true });
    const taker = await claim(secondOperator, replacesOf(operator));
    await taker.established;
    expect(header(taker.responses.at(-1)!, "Supported")).toContain("replaces");
    expect((await operator.ended).how).toBe("BYE");
    await leg.media.hears(pitches.operator2);
    await taker.media.hears(pitches.caller);
    // In the codec that he and not the operator before him has offered.
    await waitFor(async () => (await taker.media.capture(nowMs() - 200)).payloadTypes.join() === "0", {
      what: "his own codec",
    });
    expect(leg.reInvites).toEqual([]);
    // He can do what an operator can.
    expect((await taker.reinvite({ direction: "sendonly" })).status).toBe(200);
    expect((await taker.reinvite({ direction: "sendrecv" })).status).toBe(200);
    await leg.media.hears(pitches.operator2);
    await taker.hangUp();
    const { status, details } = await call.transfer();
    expect(status).toEqual({ status: "SUCCESS", hangup: false, number: operatorNumber });
    expect(details).toMatchObject({ cause: "completed", endedBy: "operator", recording: "continuous" });
    expect(details.attempts).toHaveLength(1);
    await leg.hangUp();
    const { sound } = await stage().recording(call);
    expect(sound.right.everyPitch()).toEqual(expect.arrayContaining([pitches.operator, pitches.operator2]));
  });

  test("with his offer as a part of a larger body", async () => {
    const { secondOperator } = stage();
    const { leg, operator } = await joined();
    const offer = `v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\n`;
    const parts = ["Content-Type: application/x-other\r\n\r\nabc", `Content-Type: application/sdp\r\n\r\n${offer}`];
    const taker = await secondOperator.dial(stage().uri(), {
      headers: [
        ["Replaces", replacesOf(operator)],
        ["Content-Type", "multipart/mixed;boundary=cut"],
      ],
      body: `${parts.map((part) => `--cut\r\n${part}\r\n`).join("")}--cut--\r\n`,
    });
    await taker.established;
    expect((await operator.ended).how).toBe("BYE");
    await leg.hangUp();
    expect((await taker.ended).how).toBe("BYE");
  });

  test("the operator hangs up at the same moment: the caller is not lost between the two", async () => {
    const { secondOperator } = stage();
    const { leg, operator } = await joined();
    const taker = await claim(secondOperator, replacesOf(operator));
    await Promise.all([taker.established, operator.hangUp()]);
    await leg.media.hears(pitches.operator2);
    await leg.hangUp();
    expect((await taker.ended).how).toBe("BYE");
  });

  test("he never acknowledges: the operator keeps his caller", async () => {
    const { secondOperator } = stage();
    const { leg, operator } = await joined();
    const taker = await claim(secondOperator, replacesOf(operator), undefined, { withoutAck: true });
    await taker.established;
    expect((await taker.ended).how).toBe("BYE");
    await leg.media.hears(pitches.operator);
    await operator.media.hears(pitches.caller);
    expect(operator.received("BYE")).toEqual([]);
    await operator.hangUp();
    await leg.hangUp();
  });

  test("the caller hangs up while he is on his way", async () => {
    const { secondOperator } = stage();
    const { leg, operator } = await joined();
    const taker = await claim(secondOperator, replacesOf(operator));
    await leg.hangUp();
    await taker.ended;
    expect((await operator.ended).how).toBe("BYE");
  });

  test("no such call, one of another trunk, only early ones, the caller's own leg, two of them, no offer", async () => {
    const { secondOperator } = stage();
    const { leg, call, operator } = await joined();
    const dialog = replacesOf(operator);
    const foreign = await stage().phone({ address: "127.0.0.9" });
    expect(await answerTo(secondOperator, `${operator.callId};to-tag=1;from-tag=2`)).toBe(481);
    expect(await answerTo(foreign, dialog, "200")).toBe(481);
    expect(await answerTo(secondOperator, `${dialog};early-only`)).toBe(486);
    expect(await answerTo(secondOperator, replacesOf(leg))).toBe(603);
    expect(await answerTo(secondOperator, "nonsense")).toBe(400);
    const twice = await secondOperator.dial(stage().uri(), {
      headers: [
        ["Replaces", dialog],
        ["Join", dialog],
      ],
    });
    expect((await twice.ended).status).toBe(400);
    const silent = await claim(secondOperator, dialog, undefined, { delayedOffer: true });
    expect((await silent.ended).status).toBe(488);
    await leg.media.hears(pitches.operator);
    expect(operator.phase).toBe("established");
    await leg.hangUp();
    expect((await call.transfer()).details.attempts).toHaveLength(1);
  });

  test("where operators may not pass callers on: 603; and where they have done so too often", async () => {
    const { operator: phone, secondOperator } = stage();
    const strict = await strictBot();
    const caller = await stage().phone();
    const leg = await caller.dial(stage().uri("300"));
    const call = await strict.callOf(leg.callId);
    await leg.established;
    await call.event("answered");
    await call.run({ type: "switch", sipUri: uriOf(phone), continueCall: true });
    const operator = await stage().incoming(phone);
    await leg.media.hears(pitches.operator);
    expect(await answerTo(secondOperator, replacesOf(operator))).toBe(603);
    await leg.hangUp();

    const round = await joined({}, { at: 1 });
    let current = round.operator;
    for (const [taker, pitch] of [
      [secondOperator, pitches.operator2],
      [phone, pitches.operator],
      [secondOperator, pitches.operator2],
    ] as const) {
      const next = await claim(taker, replacesOf(current));
      await next.established;
      await round.leg.media.hears(pitch);
      expect((await current.ended).how).toBe("BYE");
      current = next;
    }
    expect(await answerTo(phone, replacesOf(current))).toBe(603);
    expect((await current.request("REFER", { headers: [["Refer-To", `<${uriOf(phone)}>`]] })).status).toBe(603);
    await round.leg.hangUp();
  });
});

test("two calls that were joined here leave their trunk's limit to others", async () => {
  await using small = await Stage.start({
    trunk: { maxCalls: 4 },
    channel: { operatorRefer: "accept", destinations: { sipHosts: ["127.0.0.1:*"] } },
  });
  const talk = async (at: number): Promise<Joined> => {
    const one = await small.talk({ user: `7999555667${at}` });
    await one.call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: true });
    const operator = await small.incoming(small.operator, at);
    await one.call.progress("bridged");
    return { ...one, operator };
  };
  const [first, second] = [await talk(0), await talk(1)];
  const caller = await small.phone();
  expect((await (await caller.dial(small.uri())).ended).status).toBe(503);
  await refer(first.operator, uriOf(small.operator), replacesOf(second.operator));
  await Promise.all([first.operator.ended, second.operator.ended]);
  await waitFor(() => small.app.stats().sip.onTrunks === 2, { what: "two legs on the trunk" });
  // Both lines that they had to the operator are free.
  const third = await talk(2);
  await third.leg.hangUp();
  await Promise.all([first.leg.hangUp(), second.leg.hangUp()]);
  await small.atRest();
});
