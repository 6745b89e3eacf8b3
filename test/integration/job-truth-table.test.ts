// Every row of the truth table that concerns INVITE (bot-contract §2), and the causes of §5, on the wire.
import { beforeAll, describe, expect, test } from "vitest";
import { nowMs } from "../support/clock.ts";
import { drachtioProgram } from "../support/drachtio.ts";
import { pitches } from "../support/pitch.ts";
import { type Answering, type HeaderList, Phone, type PhoneCall } from "../support/rtp-phone.ts";
import { header, type SipText, userOf, uriOf } from "../support/sip-text.ts";
import { expectSuccess, Sipp } from "../support/sipp.ts";
import { delay, waitFor } from "../support/wait.ts";
import { type BotCall, type Reply, type Transfer, transferOf } from "./raw-bot.ts";
import {
  anchoredInFreeswitch,
  botNumber,
  callerNumber,
  operatorNumber,
  sharedStage,
  Stage,
  type Talk,
  trunkPassword,
} from "./stage.ts";

const switchTo = (fields: Readonly<Record<string, unknown>> = {}): Reply => ({
  type: "switch",
  phoneNumber: operatorNumber,
  ...fields,
});

const statusText = (status: "SUCCESS" | "FAIL", hangup: boolean, number = operatorNumber): string =>
  `{"status":"${status}","hangup":${hangup},"number":"${number}"}`;

/** The caller is with the bot: he hears it when it speaks. */
async function expectWithBot({ leg, call, stage }: Talk): Promise<void> {
  expect(leg.phase).toBe("established");
  const answer = await call.run({ type: "audio", audioUrl: stage.prompts.second });
  await leg.media.hears(pitches.bot);
  await call.run({ type: "stop" });
  await call.event("playback", { where: (body) => body["commandId"] === answer.body["commandId"] });
}

/** Lets the call end and counts: whatever is told is told by then. */
async function expectOneTransfer(call: BotCall): Promise<void> {
  const hangup = await call.event("hangup");
  expect(hangup.seq).toBe(call.seq);
  expect(call.all("transfer")).toHaveLength(1);
}

/** The caller hangs up, and the one transfer stays the only one. */
async function farewell({ leg, call }: Talk): Promise<void> {
  const end = await leg.hangUp();
  expect(end.message?.status).toBe(200);
  expect((await call.event("hangup")).body).toMatchObject({ by: "caller" });
  await expectOneTransfer(call);
  expect(leg.reInvites).toEqual([]);
}

/** The caller is hung up by the service. */
async function expectHungUp({ leg, call }: Talk): Promise<void> {
  expect(await leg.ended).toMatchObject({ by: "peer", how: "BYE" });
  await expectOneTransfer(call);
}

/** Both hear each other. */
async function expectBridged(talk: Talk, operator: PhoneCall): Promise<void> {
  await operator.acknowledged;
  await talk.call.progress("bridged");
  await Promise.all([talk.leg.media.hears(pitches.operator), operator.media.hears(pitches.caller)]);
}

const requestsAt = (phone: Phone, method: string, fromMs = 0): readonly { message: SipText; atMs: number }[] =>
  phone.records.filter(
    ({ direction, message, repeated, atMs }) =>
      direction === "received" && message.method === method && !repeated && atMs >= fromMs,
  );

describe("an operator who talks", () => {
  const stage = sharedStage();

  test("operator hangs up, continueCall true: SUCCESS, hangup false, the caller is back with the bot", async () => {
    const talk = await stage().talk();
    await talk.call.run(switchTo({ continueCall: true }));
    const operator = await stage().incoming();
    await expectBridged(talk, operator);
    await operator.hangUp();
    const transfer = await talk.call.transfer();
    expect(transfer.statusText).toBe(statusText("SUCCESS", false));
    expect(transfer.details).toMatchObject({
      cause: "completed",
      endedBy: "operator",
      method: "invite",
      sipCode: 200,
      sipReason: "OK",
      trunk: "trunk-a",
      callerIdShown: "caller",
      attempts: [{ trunk: "trunk-a", target: operatorNumber, sipCode: 200, cause: "completed" }],
    });
    expect(transfer.details.talkMs).toBeGreaterThan(0);
    await expectWithBot(talk);
    await farewell(talk);
  });

  test("operator hangs up, continueCall false: SUCCESS, hangup true, BYE to the caller, the event is still sent", async () => {
    const talk = await stage().talk();
    await talk.call.run(switchTo({ continueCall: false }));
    const operator = await stage().incoming();
    await expectBridged(talk, operator);
    await operator.hangUp();
    const transfer = await talk.call.transfer();
    expect(transfer.statusText).toBe(statusText("SUCCESS", true));
    expect(transfer.details).toMatchObject({ cause: "completed", endedBy: "operator" });
    await expectHungUp(talk);
    expect((await talk.call.event("hangup")).body).toMatchObject({ by: "operator" });
  });

  test.each([true, false])(
    "caller hangs up, continueCall %s: SUCCESS, hangup true, BYE to the operator",
    async (continueCall) => {
      const talk = await stage().talk();
      await talk.call.run(switchTo({ continueCall }));
      const operator = await stage().incoming();
      await expectBridged(talk, operator);
      await talk.leg.hangUp();
      expect(await operator.ended).toMatchObject({ by: "peer", how: "BYE" });
      const transfer = await talk.call.transfer();
      expect(transfer.statusText).toBe(statusText("SUCCESS", true));
      expect(transfer.details).toMatchObject({ cause: "completed", endedBy: "caller" });
      await expectOneTransfer(talk.call);
    },
  );

  test("the bot hangs up during the talk: BYE to both", async () => {
    const talk = await stage().talk();
    await talk.call.run(switchTo({ continueCall: true }));
    const operator = await stage().incoming();
    await expectBridged(talk, operator);
    await talk.call.run({ type: "hangup" });
    expect(await operator.ended).toMatchObject({ by: "peer", how: "BYE" });
    expect((await talk.call.transfer()).statusText).toBe(statusText("SUCCESS", true));
    await expectHungUp(talk);
  });

  test("BYE of the operator before our ACK: 200 to it, ACK, SUCCESS, and the caller goes where the bot said", async () => {
    stage().operator.answering = { type: "manual", ring: [] };
    const talk = await stage().talk();
    await talk.call.run(switchTo({ continueCall: true }));
    const operator = await stage().incoming();
    operator.answer();
    const end = await operator.hangUp();
    expect(end.message?.status).toBe(200);
    const sent = operator.records.findIndex(
      ({ message, direction }) => direction === "sent" && message.method === "BYE",
    );
    const ack = operator.records.findIndex(({ message }) => message.method === "ACK");
    // The BYE was on its way before the ACK came, or the test shows nothing.
    expect(ack === -1 || sent < ack).toBe(true);
    // A drachtio-server never sends it once the call is over.
    if (drachtioProgram === undefined) {
      await waitFor(() => operator.received("ACK").length > 0, { what: "the ACK" });
    }
    const transfer = await talk.call.transfer();
    expect(transfer.statusText).toBe(statusText("SUCCESS", false));
    expect(transfer.details).toMatchObject({ cause: "completed", endedBy: "operator" });
    await expectWithBot(talk);
    await farewell(talk);
  });

  test("BYE of the operator before our ACK, continueCall false: BYE to the caller", async () => {
    stage().operator.answering = { type: "manual", ring: [] };
    const talk = await stage().talk();
    await talk.call.run(switchTo());
    const operator = await stage().incoming();
    operator.answer();
    await operator.hangUp();
    expect((await talk.call.transfer()).statusText).toBe(statusText("SUCCESS", true));
    await expectHungUp(talk);
  });

  test("BYE of the operator at our ACK", async () => {
    stage().operator.answering = { type: "manual" };
    const talk = await stage().talk();
    await talk.call.run(switchTo({ continueCall: true }));
    const operator = await stage().incoming();
    operator.answer();
    await operator.acknowledged;
    expect((await operator.hangUp()).message?.status).toBe(200);
    expect((await talk.call.transfer()).statusText).toBe(statusText("SUCCESS", false));
    await expectWithBot(talk);
    await farewell(talk);
  });
});

interface Failure {
  readonly name: string;
  readonly answering: Answering;
  readonly cause: string;
  readonly sipCode: number | null;
  readonly q850?: number | null;
  /** How often the first and the second gateway are called. */
  readonly dialled: readonly [first: number, second: number];
}

const reject = (status: number, headers: HeaderList = []): Answering => ({ type: "reject", status, headers });
const q850 = (cause: number): HeaderList => [["Reason", `Q.850;cause=${cause};text="why"`]];

const failures: readonly Failure[] = [
  { name: "486", answering: reject(486), cause: "busy", sipCode: 486, dialled: [1, 0] },
  { name: "600", answering: reject(600), cause: "busy", sipCode: 600, dialled: [1, 0] },
  {
    name: "480 with Q.850 17",
    answering: reject(480, q850(17)),
    cause: "busy",
    sipCode: 480,
    q850: 17,
    dialled: [1, 0],
  },
  {
    name: "503 with Q.850 17",
    answering: reject(503, q850(17)),
    cause: "busy",
    sipCode: 503,
    q850: 17,
    dialled: [1, 0],
  },
  { name: "480", answering: reject(480), cause: "unavailable", sipCode: 480, dialled: [1, 0] },
  {
    name: "480 with Q.850 18",
    answering: reject(480, q850(18)),
    cause: "unavailable",
    sipCode: 480,
    q850: 18,
    dialled: [1, 0],
  },
  {
    name: "480 with Q.850 19",
    answering: reject(480, q850(19)),
    cause: "unavailable",
    sipCode: 480,
    q850: 19,
    dialled: [1, 0],
  },
  {
    name: "480 with Q.850 20",
    answering: reject(480, q850(20)),
    cause: "unavailable",
    sipCode: 480,
    q850: 20,
    dialled: [1, 0],
  },
  // What somebody behind the gateway has said, RFC 3326.
  {
    name: "480 with SIP 486",
    answering: reject(480, [["Reason", 'SIP;cause=486;text="Busy Here"']]),
    cause: "busy",
    sipCode: 480,
    dialled: [1, 0],
  },
  {
    name: "503 with SIP 603",
    answering: reject(503, [["Reason", "SIP;cause=603"]]),
    cause: "rejected",
    sipCode: 503,
    dialled: [1, 0],
  },
  {
    name: "500 with SIP 404",
    answering: reject(500, [["Reason", "SIP ;cause=404"]]),
    cause: "invalid_number",
    sipCode: 500,
    dialled: [1, 0],
  },
  {
    name: "486 with SIP 503",
    answering: reject(486, [["Reason", "SIP;cause=503"]]),
    cause: "busy",
    sipCode: 486,
    dialled: [1, 0],
  },
  { name: "603", answering: reject(603), cause: "rejected", sipCode: 603, dialled: [1, 0] },
  {
    name: "480 with Q.850 21",
    answering: reject(480, q850(21)),
    cause: "rejected",
    sipCode: 480,
    q850: 21,
    dialled: [1, 0],
  },
  ...[404, 410, 484, 485, 604].map((status): Failure => ({
    name: `${status}`,
    answering: reject(status),
    cause: "invalid_number",
    sipCode: status,
    dialled: [1, 0],
  })),
  {
    name: "500 with Q.850 1",
    answering: reject(500, q850(1)),
    cause: "invalid_number",
    sipCode: 500,
    q850: 1,
    dialled: [1, 0],
  },
  {
    name: "480 with Q.850 28",
    answering: reject(480, q850(28)),
    cause: "invalid_number",
    sipCode: 480,
    q850: 28,
    dialled: [1, 0],
  },
  ...[415, 488, 606].map((status): Failure => ({
    name: `${status}`,
    answering: reject(status),
    cause: "media_incompatible",
    sipCode: status,
    dialled: [1, 1],
  })),
  ...[500, 502, 503, 504, 513].map((status): Failure => ({
    name: `${status}`,
    answering: reject(status),
    cause: "trunk_failure",
    sipCode: status,
    dialled: [1, 1],
  })),
  ...[34, 38, 41, 42].map((value): Failure => ({
    name: `480 with Q.850 ${value}`,
    answering: reject(480, q850(value)),
    cause: "trunk_failure",
    sipCode: 480,
    q850: value,
    dialled: [1, 1],
  })),
  ...[403, 433, 438, 607, 608].map(
    // Once with the caller's number and once with the bot's, at the same gateway.
    (status): Failure => ({
      name: `${status}`,
      answering: reject(status),
      cause: "callerid_rejected",
      sipCode: status,
      dialled: [2, 0],
    }),
  ),
  { name: "401", answering: reject(401), cause: "auth_failed", sipCode: 401, dialled: [1, 1] },
  { name: "407", answering: reject(407), cause: "auth_failed", sipCode: 407, dialled: [1, 1] },
  {
    name: "408 before any 18x",
    answering: { type: "reject", status: 408, ring: [] },
    cause: "unreachable",
    sipCode: 408,
    dialled: [1, 1],
  },
  { name: "408 after a 18x", answering: reject(408), cause: "no_answer", sipCode: 408, dialled: [1, 0] },
];

describe("an operator who cannot be had, all ways at once", () => {
  const stage = sharedStage({ concurrent: true, commandsToo: true });
  const numberOf = (failure: Failure): string => `7900${failures.indexOf(failure).toString().padStart(3, "0")}`;
  const rowOf = (invite: SipText): Failure | undefined =>
    failures.find((failure) => numberOf(failure) === userOf(invite.uri ?? ""));
  const dialled = (phone: Phone, number: string): number =>
    requestsAt(phone, "INVITE").filter(({ message }) => userOf(message.uri ?? "") === number).length;

  beforeAll(() => {
    for (const phone of [stage().operator, stage().secondOperator]) {
      phone.answering = (invite) => rowOf(invite)?.answering ?? reject(500);
    }
  });

  test.concurrent.each(failures)("$name: FAIL, $cause, the caller is back with the bot", async (failure) => {
    const { operator, secondOperator } = stage();
    const phoneNumber = numberOf(failure);
    const talk = await stage().talk();
    await talk.call.run({ type: "switch", phoneNumber, continueCall: true });
    const transfer = await talk.call.transfer();
    expect(transfer.statusText).toBe(statusText("FAIL", false, phoneNumber));
    expect(transfer.details).toMatchObject({
      cause: failure.cause,
      sipCode: failure.sipCode,
      q850: failure.q850 ?? null,
      answerMs: null,
      talkMs: null,
    });
    expect(transfer.details.attempts).toHaveLength(failure.dialled[0] + failure.dialled[1]);
    expect([dialled(operator, phoneNumber), dialled(secondOperator, phoneNumber)]).toEqual(failure.dialled);
    await expectWithBot(talk);
    await farewell(talk);
  });
});

describe("an operator who cannot be had", () => {
  const stage = sharedStage();

  test.each([
    { name: "busy", answering: reject(486), cause: "busy", by: "operator" },
    { name: "rejected", answering: reject(603), cause: "rejected", by: "operator" },
    { name: "no answer", answering: { type: "ring" }, cause: "no_answer", by: "service" },
  ] as const)("$name, continueCall false: FAIL, hangup true, BYE to the caller", async ({ answering, cause, by }) => {
    stage().operator.answering = answering;
    const talk = await stage().talk();
    await talk.call.run(switchTo({ timeout: 1 }));
    const transfer = await talk.call.transfer();
    expect(transfer.statusText).toBe(statusText("FAIL", true));
    expect(transfer.details.cause).toBe(cause);
    await expectHungUp(talk);
    expect((await talk.call.event("hangup")).body).toMatchObject({ by });
  });

  test("503 of the first gateway: the second one answers", async () => {
    const { operator, secondOperator } = stage();
    operator.answering = reject(503);
    const talk = await stage().talk();
    await talk.call.run(switchTo({ continueCall: true }));
    const answered = await stage().incoming(secondOperator);
    await answered.acknowledged;
    await talk.leg.media.hears(pitches.operator2);
    await answered.hangUp();
    const transfer = await talk.call.transfer();
    expect(transfer.statusText).toBe(statusText("SUCCESS", false));
    expect(transfer.details.attempts.map(({ sipCode, cause }) => ({ sipCode, cause }))).toEqual([
      { sipCode: 503, cause: "trunk_failure" },
      { sipCode: 200, cause: "completed" },
    ]);
    await expectWithBot(talk);
    await farewell(talk);
  });

  test("403 with the caller's number: once more with the bot's, which is let through", async () => {
    stage().operator.answering = (invite) =>
      userOf(uriOf(header(invite, "From") ?? "")) === callerNumber ? reject(403) : { type: "answer" };
    const fromMs = nowMs();
    const talk = await stage().talk();
    await talk.call.run(switchTo({ continueCall: true }));
    const refused = await stage().incoming();
    const answered = await stage().incoming(stage().operator, 1);
    await answered.acknowledged;
    await expectBridged(talk, answered);
    expect(userOf(uriOf(header(refused.invite, "From") ?? ""))).toBe(callerNumber);
    expect(userOf(uriOf(header(answered.invite, "From") ?? ""))?.replace("+", "")).toBe(botNumber);
    await answered.hangUp();
    const transfer = await talk.call.transfer();
    expect(transfer.details).toMatchObject({ cause: "completed", callerIdShown: "bot" });
    expect(transfer.details.attempts).toHaveLength(2);
    expect(requestsAt(stage().secondOperator, "INVITE", fromMs)).toHaveLength(0);
    await farewell(talk);
  });

  test("302: its Contact is followed once", async () => {
    const { secondOperator } = stage();
    await using redirecting = await Sipp.start({
      scenario: "test/integration/sipp/job/operator-redirects.xml",
      variables: { contact: `sip:followed@127.0.0.1:${secondOperator.port}` },
    });
    const talk = await stage().talk();
    const sipUri = `sip:moved@127.0.0.1:${redirecting.port}`;
    await talk.call.run({ type: "switch", sipUri, continueCall: true });
    const answered = await stage().incoming(secondOperator);
    await answered.acknowledged;
    expect(userOf(answered.invite.uri ?? "")).toBe("followed");
    await talk.leg.media.hears(pitches.operator2);
    await answered.hangUp();
    const transfer = await talk.call.transfer();
    expect(transfer.statusText).toBe(statusText("SUCCESS", false, sipUri));
    expect(transfer.details.attempts.map(({ sipCode }) => sipCode)).toEqual([302, 200]);
    await farewell(talk);
    expect((await redirecting.finished()).exitCode).toBe(0);
  });

  test("302 twice: the second is not followed", async () => {
    const { secondOperator } = stage();
    secondOperator.answering = reject(302);
    await using redirecting = await Sipp.start({
      scenario: "test/integration/sipp/job/operator-redirects.xml",
      variables: { contact: `sip:followed@127.0.0.1:${secondOperator.port}` },
    });
    const talk = await stage().talk();
    await talk.call.run({ type: "switch", sipUri: `moved@127.0.0.1:${redirecting.port}`, continueCall: true });
    const transfer = await talk.call.transfer();
    expect(transfer.status).toMatchObject({ status: "FAIL", hangup: false });
    expect(transfer.details).toMatchObject({ cause: "rejected", sipCode: 302 });
    expect(stage().incomingCalls(secondOperator)).toHaveLength(1);
    await expectWithBot(talk);
    await farewell(talk);
  });

  test("302 to a host the channel does not allow: rejected, and nobody there is called", async () => {
    await using stranger = await Phone.start({ address: "127.0.0.2" });
    await using redirecting = await Sipp.start({
      scenario: "test/integration/sipp/job/operator-redirects.xml",
      variables: { contact: `sip:followed@127.0.0.2:${stranger.port}` },
    });
    const talk = await stage().talk();
    await talk.call.run({ type: "switch", sipUri: `moved@127.0.0.1:${redirecting.port}`, continueCall: true });
    const transfer = await talk.call.transfer();
    expect(transfer.status).toMatchObject({ status: "FAIL", hangup: false });
    expect(transfer.details).toMatchObject({ cause: "rejected", sipCode: 302 });
    await expectWithBot(talk);
    await farewell(talk);
    expect(stranger.records).toEqual([]);
  });

  test("an answer without usable sound: FAIL, media_failure, BYE to the operator", async () => {
    await using deaf = await Sipp.start({ scenario: "test/integration/sipp/job/operator-without-sound.xml" });
    const talk = await stage().talk();
    await talk.call.run({ type: "switch", sipUri: `deaf@127.0.0.1:${deaf.port}`, continueCall: true });
    const transfer = await talk.call.transfer();
    expect(transfer.status).toMatchObject({ status: "FAIL", hangup: false });
    expect(transfer.details.cause).toBe("media_failure");
    expect((await deaf.finished()).exitCode).toBe(0);
    await expectWithBot(talk);
    await farewell(talk);
  });
});

describe("gateways that say nothing", () => {
  const stage = sharedStage({ trunk: { progressTimeoutMs: 500 } });

  test("no 18x within the progress time: unreachable, and the second gateway is tried", async () => {
    const { operator, secondOperator } = stage();
    // 100 Trying keeps the transaction alive, so it is the progress timer that ends the attempt.
    operator.answering = { type: "manual", ring: [] };
    const talk = await stage().talk();
    await talk.call.run(switchTo({ continueCall: true }));
    const first = await stage().incoming();
    const answered = await stage().incoming(secondOperator);
    await answered.acknowledged;
    expect(await first.ended).toMatchObject({ by: "peer", how: "CANCEL" });
    await talk.leg.media.hears(pitches.operator2);
    await answered.hangUp();
    const transfer = await talk.call.transfer();
    expect(transfer.details.attempts.map(({ cause }) => cause)).toEqual(["unreachable", "completed"]);
    await farewell(talk);
  });

  test("both silent: FAIL, unreachable, the caller is back with the bot", async () => {
    stage().operator.answering = { type: "silent" };
    stage().secondOperator.answering = { type: "silent" };
    const talk = await stage().talk();
    await talk.call.run(switchTo({ continueCall: true }));
    const transfer = await talk.call.transfer();
    expect(transfer.statusText).toBe(statusText("FAIL", false));
    expect(transfer.details).toMatchObject({ cause: "unreachable", ringMs: null });
    expect(transfer.details.attempts).toHaveLength(2);
    await expectWithBot(talk);
    await farewell(talk);
  });
});

describe("a gateway that is down", () => {
  const stage = sharedStage({ trunk: { progressTimeoutMs: 500, gatewayFailures: 1, gatewayRetryMs: 3_600_000 } });

  test("is called last from then on, and /readyz tells; the service stays ready", async () => {
    const { operator, secondOperator, app } = stage();
    operator.answering = { type: "silent" };
    secondOperator.answering = reject(486);
    const talk = await stage().talk();
    const states = async (): Promise<unknown> => {
      const page = await fetch(`http://127.0.0.1:${app.adminPort}/readyz`);
      return ((await page.json()) as { trunks: Record<string, { gateways: unknown }> }).trunks["trunk-a"]?.gateways;
    };
    expect(await states()).toEqual({ "gateway-1": "up", "gateway-2": "up" });
    await talk.call.run(switchTo({ continueCall: true }));
    const first = await talk.call.transfer();
    expect(first.details.attempts.map(({ cause }) => cause)).toEqual(["unreachable", "busy"]);
    // The gateway counts as silent when 64*T1 are over (RFC 3261 §17.1.1.2).
    await expect.poll(states).toEqual({ "gateway-1": "down", "gateway-2": "up" });
    expect((await fetch(`http://127.0.0.1:${app.adminPort}/readyz`)).status).toBe(200);
    const dialled = requestsAt(operator, "INVITE").length;
    await talk.call.run(switchTo({ continueCall: true }));
    const second = await talk.call.transfer({ after: first.event.seq });
    expect(second.details.attempts.map(({ cause }) => cause)).toEqual(["busy"]);
    expect(requestsAt(operator, "INVITE")).toHaveLength(dialled);
    await talk.leg.hangUp();
    await talk.call.event("hangup");
  });
});

describe("an operator who does not answer in time", () => {
  const stage = sharedStage();

  test.each([
    { timeout: "1", expected: 1_000 },
    { timeout: 1.5, expected: 1_500 },
    { timeout: "2", expected: 2_000 },
  ])("timeout $timeout: CANCEL on the wire within 300 ms of it, FAIL, no_answer", async ({ timeout, expected }) => {
    const { operator } = stage();
    operator.answering = { type: "ring" };
    const fromMs = nowMs();
    const talk = await stage().talk();
    await talk.call.run(switchTo({ timeout, continueCall: true }));
    const rang = await stage().incoming();
    expect(await rang.ended).toMatchObject({ by: "peer", how: "CANCEL" });
    const [invite] = requestsAt(operator, "INVITE", fromMs);
    const [cancel] = requestsAt(operator, "CANCEL", fromMs);
    const tookMs = (cancel?.atMs ?? 0) - (invite?.atMs ?? 0);
    expect(Math.abs(tookMs - expected)).toBeLessThan(300);
    const transfer = await talk.call.transfer();
    expect(transfer.statusText).toBe(statusText("FAIL", false));
    expect(transfer.details).toMatchObject({ cause: "no_answer", endedBy: "service" });
    await expectWithBot(talk);
    await farewell(talk);
  });

  test("the timeout counts over all gateways", async () => {
    const { operator, secondOperator } = stage();
    operator.answering = { type: "reject", status: 503, afterMs: 700, ring: [] };
    secondOperator.answering = { type: "ring" };
    const fromMs = nowMs();
    const talk = await stage().talk();
    await talk.call.run(switchTo({ timeout: 2, continueCall: true }));
    const rang = await stage().incoming(secondOperator);
    expect(await rang.ended).toMatchObject({ how: "CANCEL" });
    const [invite] = requestsAt(operator, "INVITE", fromMs);
    const [cancel] = requestsAt(secondOperator, "CANCEL", fromMs);
    expect(Math.abs((cancel?.atMs ?? 0) - (invite?.atMs ?? 0) - 2_000)).toBeLessThan(300);
    expect((await talk.call.transfer()).details).toMatchObject({ cause: "no_answer" });
    await farewell(talk);
  });

  test("200 that crosses our CANCEL: ACK, BYE, FAIL, and the caller never hears him", async () => {
    stage().operator.answering = { type: "ring", onCancel: "answer" };
    const talk = await stage().talk();
    await talk.call.run(switchTo({ timeout: 1, continueCall: true }));
    const late = await stage().incoming();
    expect(await late.ended).toMatchObject({ by: "peer", how: "BYE" });
    expect(late.received("ACK")).not.toHaveLength(0);
    const transfer = await talk.call.transfer();
    expect(transfer.statusText).toBe(statusText("FAIL", false));
    expect(transfer.details.cause).toBe("no_answer");
    await expectWithBot(talk);
    expect((await talk.leg.media.capture()).amplitudeOf(pitches.operator)).toBeLessThan(50);
    await farewell(talk);
  });

  test("the bot cancels while it rings: CANCEL, FAIL, cancelled, the caller stays, continueCall or not", async () => {
    stage().operator.answering = { type: "ring" };
    const talk = await stage().talk();
    await talk.call.run(switchTo({ continueCall: false }));
    const rang = await stage().incoming();
    await talk.call.progress("ringing");
    await talk.leg.media.hears(pitches.ringback);
    await talk.call.run({ type: "switchCancel" });
    expect(await rang.ended).toMatchObject({ by: "peer", how: "CANCEL" });
    const transfer = await talk.call.transfer();
    expect(transfer.statusText).toBe(statusText("FAIL", false));
    expect(transfer.details).toMatchObject({ cause: "cancelled", endedBy: "bot" });
    await expectWithBot(talk);
    await farewell(talk);
  });

  test("200 that crosses the CANCEL of the bot: ACK, BYE, never bridged", async () => {
    stage().operator.answering = { type: "ring", onCancel: "answer" };
    const talk = await stage().talk();
    await talk.call.run(switchTo({ continueCall: true }));
    const late = await stage().incoming();
    await talk.call.progress("ringing");
    await talk.call.run({ type: "switchCancel" });
    expect(await late.ended).toMatchObject({ by: "peer", how: "BYE" });
    expect((await talk.call.transfer()).details.cause).toBe("cancelled");
    await expectWithBot(talk);
    await farewell(talk);
  });

  test("the bot hangs up while it rings: CANCEL, BYE to the caller", async () => {
    stage().operator.answering = { type: "ring" };
    const talk = await stage().talk();
    await talk.call.run(switchTo({ continueCall: true }));
    const rang = await stage().incoming();
    await talk.call.progress("ringing");
    await talk.call.run({ type: "hangup" });
    expect(await rang.ended).toMatchObject({ by: "peer", how: "CANCEL" });
    const transfer = await talk.call.transfer();
    expect(transfer.statusText).toBe(statusText("FAIL", true));
    expect(transfer.details).toMatchObject({ cause: "cancelled", endedBy: "bot" });
    await expectHungUp(talk);
  });
});

describe("the caller hangs up", () => {
  const stage = sharedStage();
  const hungUpByCaller = { by: "caller" };

  const expectNoTransfer = async (call: BotCall): Promise<void> => {
    expect((await call.event("hangup")).body).toMatchObject(hungUpByCaller);
    expect(call.all("transfer")).toHaveLength(0);
  };

  const expectCallerGone = async (talk: Talk): Promise<Transfer> => {
    const event = await talk.call.event("transfer");
    const transfer = transferOf(event);
    expect(transfer.statusText).toBe(statusText("FAIL", true));
    expect(transfer.details).toMatchObject({ cause: "caller_hangup", endedBy: "caller" });
    expect((await talk.call.event("hangup")).body).toMatchObject(hungUpByCaller);
    await expectOneTransfer(talk.call);
    return transfer;
  };

  test("with CANCEL right behind his INVITE", async () => {
    const caller = await stage().phone();
    const leg = await caller.dial(stage().uri());
    const end = await leg.cancel();
    // Who was faster is open: 487, or a 200 that the phone then ends by BYE. Neither may leave anything behind.
    expect(end.by).toBe("self");
    const call = await stage().bot.nextCall();
    await expectNoTransfer(call);
  });

  test("before his ACK", async () => {
    const caller = await stage().phone();
    const leg = await caller.dial(stage().uri(), { withoutAck: true });
    await leg.established;
    const call = await stage().bot.nextCall();
    expect((await leg.hangUp()).message?.status).toBe(200);
    await expectNoTransfer(call);
    expect(call.all("answered")).toHaveLength(0);
  });

  test("with the bot", async () => {
    const { leg, call } = await stage().talk();
    expect((await leg.hangUp()).message?.status).toBe(200);
    await expectNoTransfer(call);
  });

  test("while a prompt plays, and the switch behind it", async () => {
    const talk = await stage().talk();
    const { leg, call } = talk;
    await call.run({ type: "audio", audioUrl: stage().prompts.long }, switchTo({ continueCall: true }));
    await leg.media.hears(pitches.bot);
    await leg.hangUp();
    // The accepted switch has its one event though it never began.
    await expectCallerGone(talk);
    expect(stage().incomingCalls(stage().operator)).toHaveLength(0);
  });

  test("while a prompt plays", async () => {
    const { leg, call } = await stage().talk();
    await call.run({ type: "audio", audioUrl: stage().prompts.long });
    await leg.media.hears(pitches.bot);
    await leg.hangUp();
    await expectNoTransfer(call);
  });

  test("while the operator is dialled, before any 18x: CANCEL", async () => {
    stage().operator.answering = { type: "manual", ring: [] };
    const talk = await stage().talk();
    await talk.call.run(switchTo({ continueCall: true }));
    const operator = await stage().incoming();
    await talk.leg.hangUp();
    expect(await operator.ended).toMatchObject({ by: "peer", how: "CANCEL" });
    expect((await expectCallerGone(talk)).details.ringMs).toBeNull();
  });

  test.each([true, false])(
    "while the operator's phone rings, continueCall %s: CANCEL within 100 ms",
    async (continueCall) => {
      stage().operator.answering = { type: "ring" };
      const talk = await stage().talk();
      await talk.call.run(switchTo({ continueCall }));
      const operator = await stage().incoming();
      await talk.call.progress("ringing");
      await talk.leg.hangUp();
      const { atMs } = await operator.ended;
      const bye = talk.leg.records.find(({ message }) => message.method === "BYE");
      expect(atMs - (bye?.atMs ?? 0)).toBeLessThan(100);
      await expectCallerGone(talk);
    },
  );

  test("and the operator's 200 crosses our CANCEL: ACK, BYE, told once", async () => {
    stage().operator.answering = { type: "ring", onCancel: "answer" };
    const talk = await stage().talk();
    await talk.call.run(switchTo({ continueCall: true }));
    const late = await stage().incoming();
    await talk.call.progress("ringing");
    await talk.leg.hangUp();
    expect(await late.ended).toMatchObject({ by: "peer", how: "BYE" });
    expect(late.received("ACK")).not.toHaveLength(0);
    await expectCallerGone(talk);
  });

  test("0 to 60 ms after a switch, whatever has happened by then", async () => {
    const hangUpAfter = async (afterMs: number): Promise<void> => {
      const talk = await stage().talk();
      await talk.call.publish(JSON.stringify({ replies: [switchTo({ continueCall: true })] }));
      // The moment is the point: before the INVITE, between INVITE and 200, at the ACK, at the bridge, in the talk.
      await delay(afterMs);
      expect((await talk.leg.hangUp()).message?.status).toBe(200);
      await talk.call.event("hangup");
      const transfers = talk.call.all("transfer").map((event) => transferOf(event).statusText);
      // A command that came too late was refused and has no transfer.
      expect(transfers).toHaveLength(talk.call.all("accepted").length);
      for (const told of transfers) expect([statusText("FAIL", true), statusText("SUCCESS", true)]).toContain(told);
    };
    for (const afterMs of [0, 2, 4, 6, 8]) await hangUpAfter(afterMs);
    await Promise.all([0, 5, 10, 15, 20, 25, 30, 40, 50, 60].map(hangUpAfter));
    for (const operator of stage().incomingCalls(stage().operator)) {
      expect(await operator.ended).toMatchObject({ by: "peer" });
    }
  });

  test("while the gateway has said nothing: no CANCEL, for there is nothing to cancel", async () => {
    stage().operator.answering = { type: "silent" };
    const fromMs = nowMs();
    const talk = await stage().talk();
    await talk.call.run(switchTo({ continueCall: true }));
    await waitFor(() => requestsAt(stage().operator, "INVITE", fromMs).length > 0, { what: "the INVITE" });
    await talk.leg.hangUp();
    await expectCallerGone(talk);
    await stage().atRest();
    // RFC 3261 §9.1: not before a provisional response.
    expect(requestsAt(stage().operator, "CANCEL", fromMs)).toEqual([]);
  });

  test("while the gateway has said nothing, and it rings later: CANCEL then", async () => {
    await using late = await Sipp.start({ scenario: "test/integration/sipp/job/operator-answers-late.xml" });
    const talk = await stage().talk();
    const sipUri = `late@127.0.0.1:${late.port}`;
    await talk.call.run({ type: "switch", sipUri, continueCall: true });
    await waitFor(() => late.messages.some(({ what }) => what === "INVITE"), { what: "the INVITE" });
    await talk.leg.hangUp();
    const transfer = await talk.call.transfer();
    expect(transfer.statusText).toBe(statusText("FAIL", true, sipUri));
    expectSuccess(await late.finished());
    await expectOneTransfer(talk.call);
  });

  test("or rather never acknowledges the 200: it is sent again, then BYE, and the bot is told", async () => {
    const caller = await stage().phone();
    const leg = await caller.dial(stage().uri(), { withoutAck: true });
    await leg.established;
    expect(await leg.ended).toMatchObject({ by: "peer", how: "BYE" });
    const answers = leg.records.filter(({ message, direction }) => direction === "received" && message.status === 200);
    // A drachtio-server repeats it after 500 ms whatever T1 is, and we give up before the third.
    expect(answers.length).toBeGreaterThan(drachtioProgram === undefined ? 3 : 1);
    const call = await stage().bot.callOf(leg.callId);
    await call.event("hangup");
    expect(call.all("answered")).toHaveLength(0);
  });

  test("at the moment of the operator's 200: whatever was first, both are released and told once", async () => {
    stage().operator.answering = { type: "manual" };
    const talk = await stage().talk();
    await talk.call.run(switchTo({ continueCall: true }));
    const operator = await stage().incoming();
    await talk.call.progress("ringing");
    const gone = talk.leg.hangUp();
    operator.answer();
    await gone;
    await operator.ended;
    const transfer = await talk.call.transfer();
    expect([statusText("FAIL", true), statusText("SUCCESS", true)]).toContain(transfer.statusText);
    await expectOneTransfer(talk.call);
  });

  test("the operator's 200 first, the caller's BYE right behind it", async () => {
    stage().operator.answering = { type: "manual" };
    const talk = await stage().talk();
    await talk.call.run(switchTo({ continueCall: true }));
    const operator = await stage().incoming();
    await talk.call.progress("ringing");
    operator.answer();
    await talk.leg.hangUp();
    expect(await operator.ended).toMatchObject({ by: "peer", how: "BYE" });
    const transfer = await talk.call.transfer();
    expect(transfer.status).toMatchObject({ hangup: true });
    await expectOneTransfer(talk.call);
  });

  test("at the moment the operator hangs up", async () => {
    const talk = await stage().talk();
    await talk.call.run(switchTo({ continueCall: true }));
    const operator = await stage().incoming();
    await expectBridged(talk, operator);
    await Promise.all([operator.hangUp(), talk.leg.hangUp()]);
    const transfer = await talk.call.transfer();
    expect(transfer.status.status).toBe("SUCCESS");
    await expectOneTransfer(talk.call);
  });

  test("on the way back to the bot", async () => {
    const talk = await stage().talk();
    await talk.call.run(switchTo({ continueCall: true }));
    const operator = await stage().incoming();
    await expectBridged(talk, operator);
    await operator.hangUp();
    await talk.call.progress("returning");
    await talk.leg.hangUp();
    expect((await talk.call.transfer()).statusText).toBe(statusText("SUCCESS", false));
    await expectOneTransfer(talk.call);
  });
});

describe("the caller hangs up before the bot has answered", () => {
  const stage = sharedStage({ channel: { answer: "on-command" } });

  test("CANCEL while it rings: 487, the bot is told", async () => {
    const caller = await stage().phone();
    const leg = await caller.dial(stage().uri());
    await leg.progress(180);
    const call = await stage().bot.nextCall();
    expect(await leg.cancel()).toMatchObject({ by: "self", how: "CANCEL", status: 487 });
    expect((await call.event("hangup")).body).toMatchObject({ by: "caller", durationMs: 0 });
    expect(call.all("transfer")).toHaveLength(0);
    expect(call.all("answered")).toHaveLength(0);
  });

  test("CANCEL as the bot answers: both sides agree in the end", async () => {
    const caller = await stage().phone();
    const leg = await caller.dial(stage().uri());
    await leg.progress(180);
    const call = await stage().bot.nextCall();
    await Promise.all([
      leg.cancel(),
      call.publish(JSON.stringify({ replies: [{ type: "audio", audioUrl: stage().prompts.long }] })),
    ]);
    await leg.ended;
    await call.event("hangup");
  });
});

describe("targets and what the operator is shown", () => {
  const stage = sharedStage();

  test("custom headers byte for byte", async () => {
    const talk = await stage().talk();
    const headers = {
      callReason: "support",
      crmClientId: "none",
      "X-Name": "Иван Петров — «тест» 🙂",
      testheader: 'a  b;c="d", <sip:e@f> %0d%0a \\',
      "X-Number": 42,
      "X-Flag": true,
      "X-Nothing": null,
      "P-Asserted-Identity": '"7701" <sip:7701@92.46.54.211>',
    };
    await talk.call.run(switchTo({ headers, continueCall: true }));
    const operator = await stage().incoming();
    const bytes = (name: string): Buffer | undefined => {
      const found = operator.invite.headers.filter(([candidate]) => candidate === name);
      return found.length === 1 ? Buffer.from(found[0]?.[1] ?? "") : undefined;
    };
    expect(bytes("callReason")).toEqual(Buffer.from("support"));
    expect(bytes("crmClientId")).toEqual(Buffer.from("none"));
    expect(bytes("X-Name")).toEqual(Buffer.from(headers["X-Name"]));
    expect(bytes("testheader")).toEqual(Buffer.from(headers.testheader));
    expect(bytes("X-Number")).toEqual(Buffer.from("42"));
    expect(bytes("X-Flag")).toEqual(Buffer.from("true"));
    expect(bytes("P-Asserted-Identity")).toEqual(Buffer.from(headers["P-Asserted-Identity"]));
    expect(header(operator.invite, "X-Nothing")).toBeUndefined();
    await expectBridged(talk, operator);
    await operator.hangUp();
    await talk.call.transfer();
    await farewell(talk);
  });

  test.each([
    { phoneNumber: "8 (495) 123-45-67", dialled: "84951234567" },
    { phoneNumber: "+7.912.345.67.89", dialled: "+79123456789" },
    { phoneNumber: "2222", dialled: "2222" },
    { phoneNumber: 79123456789, dialled: "79123456789" },
  ])(
    "phoneNumber $phoneNumber is dialled as $dialled and told back as it was sent",
    async ({ phoneNumber, dialled }) => {
      stage().operator.answering = reject(486);
      const talk = await stage().talk();
      await talk.call.run({ type: "switch", phoneNumber, continueCall: true });
      const transfer = await talk.call.transfer();
      expect(transfer.statusText).toBe(statusText("FAIL", false, String(phoneNumber)));
      const operator = await stage().incoming();
      expect(userOf(operator.invite.uri ?? "")).toBe(dialled);
      expect(userOf(uriOf(header(operator.invite, "From") ?? ""))).toBe(callerNumber);
      await farewell(talk);
    },
  );

  test("sipUri: called directly, and wins over phoneNumber", async () => {
    const { secondOperator } = stage();
    const talk = await stage().talk();
    const sipUri = `second@127.0.0.1:${secondOperator.port}`;
    await talk.call.run({ type: "switch", sipUri, phoneNumber: operatorNumber, continueCall: true });
    const operator = await stage().incoming(secondOperator);
    await operator.acknowledged;
    expect(operator.invite.uri).toBe(`sip:second@127.0.0.1:${secondOperator.port}`);
    await talk.leg.media.hears(pitches.operator2);
    await operator.hangUp();
    expect((await talk.call.transfer()).statusText).toBe(statusText("SUCCESS", false, sipUri));
    expect(stage().incomingCalls(stage().operator)).toHaveLength(0);
    await farewell(talk);
  });

  test("transferChannel: the other trunk, with its password and its number", async () => {
    const { otherOperator } = stage();
    otherOperator.answering = {
      type: "challenge",
      realm: "other.example",
      credentials: trunkPassword,
      next: { type: "answer" },
    };
    const talk = await stage().talk();
    await talk.call.run(switchTo({ transferChannel: "bot-b", continueCall: true }));
    const operator = await stage().incoming(otherOperator);
    await operator.acknowledged;
    await talk.leg.media.hears(pitches.operator3);
    expect(userOf(uriOf(header(operator.invite, "From") ?? ""))).toBe("+74950000000");
    await operator.hangUp();
    const transfer = await talk.call.transfer();
    expect(transfer.statusText).toBe(statusText("SUCCESS", false));
    expect(transfer.details).toMatchObject({ trunk: "trunk-b", callerIdShown: "bot" });
    expect(transfer.details.attempts).toHaveLength(1);
    expect(talk.call.all("warning")).toHaveLength(0);
    await farewell(talk);
  });

  test("transferChannel with a password that is not the right one: auth_failed, asked once", async () => {
    const { otherOperator } = stage();
    const fromMs = nowMs();
    otherOperator.answering = {
      type: "challenge",
      realm: "other.example",
      credentials: { username: trunkPassword.username, password: "another" },
      next: { type: "answer" },
    };
    const talk = await stage().talk();
    await talk.call.run(switchTo({ transferChannel: "bot-b", continueCall: true }));
    const transfer = await talk.call.transfer();
    expect(transfer.details).toMatchObject({ cause: "auth_failed", sipCode: 407 });
    expect(requestsAt(otherOperator, "INVITE", fromMs)).toHaveLength(2);
    await expectWithBot(talk);
    await farewell(talk);
  });

  test("an unknown transferChannel: the call's own trunk, and a warning", async () => {
    const talk = await stage().talk();
    await talk.call.run(switchTo({ transferChannel: "nobody", continueCall: true }));
    const operator = await stage().incoming();
    await expectBridged(talk, operator);
    const warning = await talk.call.event("warning");
    expect(warning.body).toMatchObject({ code: "transfer_channel_unknown", pointer: "/replies/0/transferChannel" });
    await operator.hangUp();
    expect((await talk.call.transfer()).details.trunk).toBe("trunk-a");
    await farewell(talk);
  });

  test("two transfers in one call: one event each, the second after the first", async () => {
    stage().operator.answering = reject(486);
    const talk = await stage().talk();
    await talk.call.run(switchTo({ continueCall: true }));
    const first = await talk.call.transfer();
    stage().operator.answering = { type: "answer" };
    await talk.call.run(switchTo({ phoneNumber: "2222", continueCall: true }));
    const operator = await stage().incoming(stage().operator, 1);
    await operator.acknowledged;
    await talk.leg.media.hears(pitches.operator);
    await operator.hangUp();
    const second = await talk.call.transfer({ after: first.event.seq });
    expect([first.statusText, second.statusText]).toEqual([
      statusText("FAIL", false),
      statusText("SUCCESS", false, "2222"),
    ]);
    expect(first.details.transferId).not.toBe(second.details.transferId);
    await talk.leg.hangUp();
    await talk.call.event("hangup");
    expect(talk.call.all("transfer")).toHaveLength(2);
  });
});

describe("a trunk that is full", () => {
  const stage = sharedStage({ trunk: { maxCalls: 1 } });

  test("another caller gets 503, and a transfer through it fails as trunk_failure", async () => {
    const talk = await stage().talk();
    const late = await stage().phone();
    expect(await (await late.dial(stage().uri())).ended).toMatchObject({ by: "peer", status: 503 });
    await talk.call.run(switchTo({ continueCall: true }));
    const transfer = await talk.call.transfer();
    expect(transfer.statusText).toBe(statusText("FAIL", false));
    expect(transfer.details.cause).toBe("trunk_failure");
    expect(stage().incomingCalls(stage().operator)).toHaveLength(0);
    await expectWithBot(talk);
    await farewell(talk);
  });
});

describe("the service ends while an operator's phone rings", () => {
  test("CANCEL, BYE, FAIL with cause internal, and the last event of the call", async () => {
    await using stage = await Stage.start();
    stage.operator.answering = { type: "ring" };
    const talk = await stage.talk();
    await talk.call.run(switchTo({ continueCall: true }));
    const rang = await stage.incoming();
    await talk.call.progress("ringing");
    await stage.app.close();
    expect(await rang.ended).toMatchObject({ by: "peer", how: "CANCEL" });
    expect(await talk.leg.ended).toMatchObject({ by: "peer", how: "BYE" });
    const transfer = await talk.call.transfer();
    expect(transfer.statusText).toBe(statusText("FAIL", true));
    expect(transfer.details.cause).toBe("internal");
    expect((await talk.call.event("hangup")).body).toMatchObject({ by: "service" });
    expect(await stage.rtpengine.calls()).toEqual([]);
  });

  test("rtpengine dies while an operator's phone rings: FAIL, media_failure, everybody is released", async (context) => {
    if (anchoredInFreeswitch) context.skip("media-freeswitch-crash.test.ts has the same with a FreeSWITCH that dies");
    await using stage = await Stage.start();
    stage.operator.answering = { type: "ring" };
    const talk = await stage.talk();
    await talk.call.run(switchTo({ continueCall: true }));
    const rang = await stage.incoming();
    await talk.call.progress("ringing");
    // One that is there again takes the call over; this one stays away.
    await stage.rtpengine.crash();
    const transfer = await talk.call.transfer({ timeoutMs: 40_000 });
    expect(transfer.status.status).toBe("FAIL");
    expect(transfer.details.cause).toBe("media_failure");
    expect(await rang.ended).toMatchObject({ by: "peer", how: "CANCEL" });
    expect(await talk.leg.ended).toMatchObject({ by: "peer", how: "BYE" });
    await expectOneTransfer(talk.call);
    await stage.rtpengine.start();
    await stage.atRest();
  });
});
