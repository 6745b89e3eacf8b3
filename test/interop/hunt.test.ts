// Several operators for one caller: all at once or one after the other, with a key to press, and prompts while it rings.
import { describe, expect, test } from "vitest";
import { nowMs } from "../support/clock.ts";
import { pitches } from "../support/pitch.ts";
import type { Phone } from "../support/rtp-phone.ts";
import { header } from "../support/sip-text.ts";
import { Sipp } from "../support/sipp.ts";
import { waitFor } from "../support/wait.ts";
import type { BotCall, Reply } from "../integration/raw-bot.ts";
import { sharedStage } from "../integration/stage.ts";

const stage = sharedStage({ channel: { destinations: { sipHosts: ["127.0.0.1:*"] } } });

const uriOf = (phone: Phone): string => `${phone.user}@${phone.address}:${phone.port}`;
const target = (phone: Phone, headers?: object): object => ({
  sipUri: uriOf(phone),
  ...(headers === undefined ? {} : { headers }),
});
const all = (): readonly Phone[] => [stage().operator, stage().secondOperator, stage().otherOperator];

function hunt(strategy: "ring" | "serial", fields: object = {}, phones = all()): Reply {
  return { type: "switch", targets: phones.map((phone) => target(phone)), strategy, continueCall: true, ...fields };
}

const attemptsOf = async (call: BotCall): Promise<readonly (readonly [string, string])[]> =>
  (await call.transfer()).details.attempts.map((attempt) => [attempt.target, attempt.cause] as const);

describe("all at once", () => {
  test("the first to answer has the call; the others get CANCEL with `Call completed elsewhere`", async () => {
    const [first, second, third] = all() as [Phone, Phone, Phone];
    first.answering = { type: "ring" };
    second.answering = { type: "manual" };
    third.answering = { type: "ring" };
    const { leg, call } = await stage().talk();
    await call.run(hunt("ring"));
    const [one, two, three] = await Promise.all([
      stage().incoming(first),
      stage().incoming(second),
      stage().incoming(third),
    ]);
    await leg.media.hears(pitches.ringback);
    two.answer();
    await leg.media.hears(pitches.operator2);
    for (const loser of [one, three]) {
      const end = await loser.ended;
      expect(end).toMatchObject({ by: "peer", how: "CANCEL" });
      expect(header(end.message!, "Reason")).toBe('SIP;cause=200;text="Call completed elsewhere"');
    }
    await two.hangUp();
    const { status, details } = await call.transfer();
    expect(status).toEqual({ status: "SUCCESS", hangup: false, number: uriOf(second) });
    expect(details.attempts.map(({ target: to, cause }) => [to, cause])).toEqual([
      [uriOf(first), "cancelled"],
      [uriOf(third), "cancelled"],
      [uriOf(second), "completed"],
    ]);
    expect(leg.reInvites).toEqual([]);
    await leg.hangUp();
  });

  test("an answer that crosses the CANCEL, and answers at the same moment: one bridge, BYE to the rest", async () => {
    const [first, second, third] = all() as [Phone, Phone, Phone];
    for (let round = 0; round < 5; round += 1) {
      first.answering = { type: "manual", onCancel: "answer" };
      second.answering = { type: "manual", onCancel: "answer" };
      third.answering = { type: "ring", onCancel: "answer" };
      const { leg, call } = await stage().talk();
      await call.run(hunt("ring"));
      const calls = await Promise.all(all().map((phone) => stage().incoming(phone, round)));
      for (const call of calls.slice(0, 2)) call.answer();
      const bridged = await call.progress("bridged");
      expect(bridged.body["sipCode"]).toBe(200);
      await waitFor(() => calls.filter(({ phase }) => phase === "ended").length === 2, {
        what: "the end of the losers",
      });
      await leg.hangUp();
      const { details } = await call.transfer();
      expect(details.attempts.filter(({ cause }) => cause === "completed")).toHaveLength(1);
      expect(details.attempts).toHaveLength(3);
      await Promise.all(calls.map(({ ended }) => ended));
      expect(call.all("transferProgress").filter(({ body }) => body["phase"] === "bridged")).toHaveLength(1);
    }
  });

  test("a leg that fails leaves the others and their time alone; the transfer fails when nobody is left", async () => {
    const [first, second, third] = all() as [Phone, Phone, Phone];
    first.answering = { type: "reject", status: 486 };
    second.answering = { type: "reject", status: 603, afterMs: 200 };
    third.answering = { type: "ring" };
    const { leg, call } = await stage().talk();
    await call.run(hunt("ring", { timeout: 2 }));
    const end = await (await stage().incoming(third)).ended;
    expect(header(end.message!, "Reason")).toBe('SIP;cause=487;text="no answer in time"');
    const { status, details } = await call.transfer();
    expect(status).toEqual({ status: "FAIL", hangup: false, number: uriOf(third) });
    expect(details.attempts.map(({ cause }) => cause)).toEqual(["busy", "rejected", "no_answer"]);
    expect(details.attempts[2]!.ms).toBeGreaterThan(1_500);
    await leg.hangUp();
  });

  test("the caller hangs up while all ring: CANCEL for all, not answered elsewhere", async () => {
    for (const phone of all()) phone.answering = { type: "ring" };
    const { leg, call } = await stage().talk();
    await call.run(hunt("ring"));
    const calls = await Promise.all(all().map((phone) => stage().incoming(phone)));
    await leg.hangUp();
    for (const one of calls) {
      const { message } = await one.ended;
      expect(header(message!, "Reason")).toContain("cause=487");
    }
    expect(await attemptsOf(call)).toHaveLength(3);
    expect((await call.transfer()).status.hangup).toBe(true);
  });
});

test("an operator on SIPp who rings late: CANCEL behind his 180, with the reason", async () => {
  await using late = await Sipp.start({ scenario: "test/integration/sipp/job/operator-answers-late.xml" });
  const { operator } = stage();
  operator.answering = { type: "answer", afterMs: 100 };
  const { leg, call } = await stage().talk();
  const targets = [{ sipUri: `late@127.0.0.1:${late.port}` }, target(operator)];
  await call.run({ type: "switch", targets, strategy: "ring", continueCall: true });
  await leg.media.hears(pitches.operator);
  const { exitCode, messages, errors } = await late.finished();
  expect(exitCode, errors).toBe(0);
  const cancel = messages.find(({ what }) => what === "CANCEL");
  expect(cancel?.text).toContain('Reason: SIP;cause=200;text="Call completed elsewhere"');
  await leg.hangUp();
  expect((await call.transfer()).details.attempts).toMatchObject([{ cause: "cancelled" }, { cause: "completed" }]);
});

describe("one after the other", () => {
  test("busy, no answer, then somebody: each has his own headers and his share of the time", async () => {
    const [first, second, third] = all() as [Phone, Phone, Phone];
    first.answering = { type: "reject", status: 486 };
    second.answering = { type: "ring" };
    const { leg, call } = await stage().talk();
    const targets = [
      target(first, { "X-Place": "1" }),
      target(second, { "X-Place": "2", "X-All": "own" }),
      target(third),
    ];
    await call.run({ type: "switch", targets, headers: { "X-All": "yes" }, timeout: 3, continueCall: true });
    await leg.media.hears(pitches.operator3);
    const invites = await Promise.all(
      [first, second, third].map(async (phone) => (await stage().incoming(phone)).invite),
    );
    expect(invites.map((invite) => [header(invite, "X-Place"), header(invite, "X-All")])).toEqual([
      ["1", "yes"],
      ["2", "own"],
      [undefined, "yes"],
    ]);
    await (await stage().incoming(third)).hangUp();
    expect(await attemptsOf(call)).toEqual([
      [uriOf(first), "busy"],
      [uriOf(second), "no_answer"],
      [uriOf(third), "completed"],
    ]);
    await leg.hangUp();
  });
});

describe("a key to press", () => {
  const confirm = (): object => ({ prompt: { type: "audio", audioUrl: stage().prompts.second }, timeout: 3 });

  test("the operator hears the prompt, the caller ringback; they hear each other when he has pressed it", async () => {
    stage().operator.answering = { type: "answer", afterMs: 1_000 };
    const { leg, call } = await stage().talk();
    await call.run(hunt("serial", { confirm: confirm() }, [stage().operator]));
    const operator = await stage().incoming();
    await leg.media.hears(pitches.ringback);
    const askedAtMs = nowMs();
    await operator.media.hears(pitches.bot);
    await leg.media.hears(pitches.ringback);
    const ringing = await leg.media.capture(askedAtMs, nowMs());
    // A machine that is busy with other tests may lose some packets of it.
    expect(ringing.longestGapMs).toBeLessThan(200);
    expect(call.find("transferProgress", { where: (body) => body["phase"] === "bridged" })).toBeUndefined();
    const [atCaller, atOperator] = await Promise.all(
      [leg, operator].map(({ media }) => media.capture(nowMs() - 300, nowMs())),
    );
    expect(atCaller?.tones().map(({ hz }) => hz)).toEqual([pitches.ringback]);
    expect(atOperator?.tones().map(({ hz }) => hz)).toEqual([pitches.bot]);
    // Wrong keys first: each must be told when it is pressed, or the right one would not be told at all.
    operator.media.pressDigits("24561");
    await leg.media.hears(pitches.operator);
    await operator.media.hears(pitches.caller);
    await operator.hangUp();
    expect((await call.transfer()).status.status).toBe("SUCCESS");
    await leg.hangUp();
  });

  test("who does not press is let go and the next is called; INFO counts as a key too", async () => {
    const [first, second] = all() as [Phone, Phone, Phone];
    const { leg, call } = await stage().talk();
    await call.run(hunt("serial", { confirm: { ...confirm(), timeout: 1 } }, [first, second]));
    expect(await (await stage().incoming(first)).ended).toMatchObject({ by: "peer", how: "BYE" });
    const operator = await stage().incoming(second);
    await operator.acknowledged;
    await operator.infoDigit("1");
    await leg.media.hears(pitches.operator2);
    await operator.hangUp();
    expect(await attemptsOf(call)).toEqual([
      [uriOf(first), "rejected"],
      [uriOf(second), "completed"],
    ]);
    await leg.hangUp();
  });
});

describe("while it rings", () => {
  test("prompts of the switch and of a later command are heard between the ringing, and stop at the answer", async () => {
    stage().operator.answering = { type: "manual" };
    const { leg, call } = await stage().talk();
    const short = { type: "audio", audioUrl: stage().prompts.short };
    await call.run(hunt("serial", { duringRing: [short] }, [stage().operator]));
    const operator = await stage().incoming();
    expect((await call.event("playback")).body).toMatchObject({ index: 0, part: 0, result: "completed" });
    await leg.media.hears(pitches.ringback);
    await call.run({ type: "duringRing", prompts: [{ ...short, times: 100 }, short] });
    await leg.media.hears(pitches.bot);
    const after = call.seq;
    operator.answer();
    await leg.media.hears(pitches.operator);
    const ends = await waitFor(
      () => {
        const told = call.all("playback").filter(({ seq }) => seq > after);
        return told.length === 2 ? told : undefined;
      },
      { what: "the ends of both prompts" },
    );
    expect(ends.map(({ body }) => [body["part"], body["result"]])).toEqual([
      [0, "stopped"],
      [1, "stopped"],
    ]);
    await leg.hangUp();
  });

  test("without a transfer there is nothing to play them in", async () => {
    const { leg, call } = await stage().talk();
    const answer = await call.command([{ type: "duringRing", prompts: [{ type: "text", text: "x" }] }]);
    expect(answer.body).toMatchObject({ event: "rejected", code: "no_transfer", pointer: "/replies/0" });
    await leg.hangUp();
  });
});

test("maxTalkSeconds: the operator is hung up on, the caller is back with the bot", async () => {
  const { leg, call } = await stage().talk();
  await call.run(hunt("serial", { maxTalkSeconds: 1 }, [stage().operator]));
  const operator = await stage().incoming();
  expect(await operator.ended).toMatchObject({ by: "peer", how: "BYE" });
  const { status, details } = await call.transfer();
  expect(status).toMatchObject({ status: "SUCCESS", hangup: false });
  expect(details).toMatchObject({ cause: "completed", endedBy: "service" });
  await call.play(stage().prompts.short);
  await leg.hangUp();
});
