// A caller who waits for an operator is never left in silence: his received RTP is decoded and measured.
import { describe, expect, test } from "vitest";
import { nowMs } from "../support/clock.ts";
import { pitches } from "../support/pitch.ts";
import type { Phone, PhoneCall } from "../support/rtp-phone.ts";
import { delay } from "../support/wait.ts";
import type { BotCall, Reply } from "../integration/raw-bot.ts";
import { anchoredInFreeswitch, operatorNumber, sharedStage } from "../integration/stage.ts";

const mostSilenceMs = 300;
const stage = sharedStage({ channel: { destinations: { sipHosts: ["127.0.0.1:*"] }, recording: { enabled: true } } });

const switchTo = (fields: object = {}): Reply => ({
  type: "switch",
  phoneNumber: operatorNumber,
  continueCall: true,
  continueRecording: true,
  ...fields,
});

/** A call whose operator does what the test says, from the first ringing on. */
async function waiting(
  fields: object = {},
): Promise<{ readonly leg: PhoneCall; readonly call: BotCall; readonly operator: PhoneCall; readonly fromMs: number }> {
  stage().operator.answering = { type: "manual", ring: [] };
  const { leg, call } = await stage().talk();
  await call.run(switchTo(fields));
  const operator = await stage().incoming();
  const fromMs = await leg.media.hears(pitches.ringback);
  return { leg, call, operator, fromMs };
}

async function neverSilent(leg: PhoneCall, fromMs: number): Promise<void> {
  const heard = await leg.media.capture(fromMs);
  process.stdout.write(`longest silence ${heard.longestSilenceMs.toFixed(0)} ms\n`);
  expect(heard.longestSilenceMs).toBeLessThan(mostSilenceMs);
}

/** What is heard during a stretch in which nothing changes. */
async function heardFor(leg: PhoneCall, ms: number): Promise<readonly number[]> {
  const fromMs = nowMs();
  await delay(ms);
  return (await leg.media.capture(fromMs)).tones().map(({ hz }) => hz);
}

async function talks(leg: PhoneCall, operator: PhoneCall, hz: number): Promise<void> {
  operator.answer();
  await Promise.all([leg.media.hears(hz), operator.media.hears(pitches.caller)]);
}

test("ringback begins within 150 ms of the end of the last prompt", async () => {
  stage().operator.answering = { type: "ring" };
  const { leg, call } = await stage().talk();
  await call.run({ type: "audio", audioUrl: stage().prompts.short }, switchTo());
  await leg.media.hears(pitches.ringback);
  const heard = await leg.media.capture();
  const rows = heard.packets.map(({ atMs }) => ({ atMs, hz: heard.between(atMs, atMs + 1).pitch() }));
  const promptEndMs = rows.findLast(({ hz }) => hz === pitches.bot)!.atMs;
  const ringsFromMs = rows.find(({ hz }) => hz === pitches.ringback)!.atMs;
  process.stdout.write(`from the last packet of the prompt to ringback ${(ringsFromMs - promptEndMs).toFixed(0)} ms\n`);
  expect(ringsFromMs - promptEndMs).toBeLessThan(150);
  await leg.hangUp();
});

describe("without RTP there is ringback, whatever the responses say", () => {
  test.each([
    { what: "180 without SDP", ring: [{ status: 180 }] },
    { what: "183 with SDP", ring: [{ status: 183, sdp: true }] },
    { what: "183 with SDP, then 180", ring: [{ status: 183, sdp: true }, { status: 180 }] },
    {
      what: "180, then 183 with SDP, twice",
      ring: [{ status: 180 }, { status: 183, sdp: true }, { status: 183, sdp: true }],
    },
  ])("$what", async ({ ring }) => {
    const { leg, operator, fromMs } = await waiting();
    for (const { status, sdp = false } of ring as readonly { status: number; sdp?: boolean }[]) {
      operator.ring(status, sdp);
      // Two packets at most get out: a keep-alive is no early media.
      operator.media.pause();
      expect(await heardFor(leg, 300)).toEqual([pitches.ringback]);
    }
    await talks(leg, operator, pitches.operator);
    await neverSilent(leg, fromMs);
    await leg.hangUp();
  });
});

test("early media is heard while it flows, and only then; a 180 changes nothing; it is in the recording", async () => {
  const { leg, call, operator, fromMs } = await waiting();
  operator.ring(180);
  operator.ring(183, true);
  await leg.media.hears(pitches.operator);
  operator.ring(180);
  expect(await heardFor(leg, 300)).toEqual([pitches.operator]);
  operator.media.pause();
  await leg.media.hears(pitches.ringback);
  // Longer than the recording takes for a delay of the network.
  expect(await heardFor(leg, 600)).toEqual([pitches.ringback]);
  operator.ring(183, true);
  await leg.media.hears(pitches.operator);
  // He does not hear the caller before he has answered. FreeSWITCH bridges both ways, as docs/media.md says.
  if (!anchoredInFreeswitch) expect((await operator.media.capture()).audio).toEqual([]);
  operator.media.sendTone(pitches.operator3);
  await talks(leg, operator, pitches.operator3);
  await neverSilent(leg, fromMs);
  await operator.hangUp();
  await call.transfer();
  await leg.hangUp();
  const { sound } = await stage().recording(call);
  expect(sound.right.everyPitch()).toEqual(
    expect.arrayContaining([pitches.ringback, pitches.operator, pitches.operator3]),
  );
});

test("several operators ring: whoever is heard is heard alone; who gives up leaves no gap", async () => {
  const [first, second] = [stage().operator, stage().secondOperator] as readonly [Phone, Phone];
  first.answering = { type: "manual", ring: [] };
  second.answering = { type: "manual", ring: [] };
  const { leg, call } = await stage().talk();
  const targets = [first, second].map((phone) => ({ sipUri: `${phone.user}@${phone.address}:${phone.port}` }));
  await call.run(switchTo({ targets, strategy: "ring" }));
  const [one, two] = await Promise.all([stage().incoming(first), stage().incoming(second)]);
  const fromMs = await leg.media.hears(pitches.ringback);
  one.ring(183, true);
  await leg.media.hears(pitches.operator);
  two.ring(183, true);
  expect(await heardFor(leg, 300)).toEqual([pitches.operator]);
  one.reject(486);
  await leg.media.hears(pitches.operator2);
  await talks(leg, two, pitches.operator2);
  await neverSilent(leg, fromMs);
  await leg.hangUp();
});

test("a prompt while it rings is heard alone, early media or not", async () => {
  const { leg, call, operator, fromMs } = await waiting();
  operator.ring(183, true);
  await leg.media.hears(pitches.operator);
  await call.run({ type: "duringRing", prompts: [{ type: "audio", audioUrl: stage().prompts.second }] });
  await leg.media.hears(pitches.bot);
  expect(await heardFor(leg, 300)).toEqual([pitches.bot]);
  await leg.media.hears(pitches.operator);
  await neverSilent(leg, fromMs);
  await leg.hangUp();
});

test("an operator who is asked to confirm is not heard, though he was before his answer", async () => {
  const confirm = { prompt: { type: "audio", audioUrl: stage().prompts.second }, timeout: 5 };
  const { leg, operator, fromMs } = await waiting({ confirm });
  operator.ring(183, true);
  await leg.media.hears(pitches.operator);
  operator.answer();
  await leg.media.hears(pitches.ringback);
  await operator.media.hears(pitches.bot);
  expect(await heardFor(leg, 300)).toEqual([pitches.ringback]);
  operator.media.pressDigits("1");
  await leg.media.hears(pitches.operator);
  await neverSilent(leg, fromMs);
  await leg.hangUp();
});
