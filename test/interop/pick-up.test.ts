// Directed call pick-up: a colleague answers the call that rings at an operator's phone, by an INVITE with Replaces.
import { describe, expect, test } from "vitest";
import { pitches } from "../support/pitch.ts";
import { type DialOptions, type Phone, type PhoneCall, replacesOf } from "../support/rtp-phone.ts";
import { header } from "../support/sip-text.ts";
import { waitFor } from "../support/wait.ts";
import { operatorNumber, sharedStage, type Talk } from "../integration/stage.ts";

const destinations = { sipHosts: ["127.0.0.1:*"] };
const stage = sharedStage({
  channel: { operatorRefer: "accept", destinations },
  change: (config) => {
    config.channels.push(
      { botId: "bot-strict", trunk: "trunk-a", numbers: ["300"], destinations },
      { botId: "bot-late", trunk: "trunk-a", numbers: ["400"], destinations, answer: "on-command" },
    );
  },
});

const uriOf = (phone: Phone): string => `sip:${phone.user}@${phone.address}:${phone.port}`;

interface Ringing extends Talk {
  readonly ringing: PhoneCall;
}

/** A caller for whom the operator's phone rings. */
async function ringing(fields: object = {}): Promise<Ringing> {
  stage().operator.answering = { type: "manual", ring: [{ status: 180 }] };
  const talk = await stage().talk();
  await talk.call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: true, ...fields });
  const call = await stage().incoming(stage().operator);
  await talk.call.progress("ringing");
  return { ...talk, ringing: call };
}

/** The colleague picks a call up. */
async function picksUp(call: PhoneCall, more = "", options: DialOptions = {}): Promise<PhoneCall> {
  const { secondOperator } = stage();
  const headers = [["Replaces", `${replacesOf(call)}${more}`]] as const;
  const taker = await secondOperator.dial(stage().uri(), { headers, ...options });
  taker.established.catch(() => undefined);
  return taker;
}

test.each(["", ";early-only"])("he has the call, the phone that rang is told why it stops%s", async (more) => {
  const { leg, call, ringing: phone } = await ringing();
  const taker = await picksUp(phone, more);
  await taker.established;
  const { how, message } = await phone.ended;
  expect(how).toBe("CANCEL");
  expect(header(message!, "Reason")).toBe('SIP;cause=200;text="Call completed elsewhere"');
  await leg.media.hears(pitches.operator2);
  await taker.media.hears(pitches.caller);
  expect(leg.reInvites).toEqual([]);
  // He can do what an operator can, and another one can take over from him.
  expect((await taker.reinvite({ direction: "sendonly" })).status).toBe(200);
  expect((await taker.reinvite({ direction: "sendrecv" })).status).toBe(200);
  await leg.media.hears(pitches.operator2);
  await taker.hangUp();
  const { status, details } = await call.transfer();
  expect(status).toEqual({ status: "SUCCESS", hangup: false, number: operatorNumber });
  expect(details).toMatchObject({ cause: "completed", endedBy: "operator" });
  expect(details.attempts).toMatchObject([
    { target: operatorNumber, sipCode: 200, cause: "completed", takenBy: "second" },
  ]);
  await call.play(stage().prompts.short);
  await leg.hangUp();
});

test("one of several phones that ring: the others are told too, and the ledger shows all", async () => {
  const { operator, otherOperator } = stage();
  otherOperator.answering = { type: "ring" };
  const targets = [operator, otherOperator].map((phone) => ({ sipUri: uriOf(phone) }));
  const { leg, call, ringing: first } = await ringing({ targets, strategy: "ring" });
  const second = await stage().incoming(otherOperator);
  await waitFor(() => second.responses.length > 0, { what: "the second phone to ring" });
  await call.event("transferProgress", { where: ({ phase, attempt }) => phase === "ringing" && attempt === 2 });
  const taker = await picksUp(second);
  await taker.established;
  for (const { ended } of [first, second]) {
    const { how, message } = await ended;
    expect(how).toBe("CANCEL");
    expect(header(message!, "Reason")).toContain("SIP;cause=200");
  }
  await leg.media.hears(pitches.operator2);
  await leg.hangUp();
  const { details } = await call.transfer();
  expect(details.attempts.map(({ cause, ...line }) => [cause, (line as { takenBy?: string }).takenBy])).toEqual([
    ["cancelled", undefined],
    ["completed", "second"],
  ]);
});

describe("who is faster", () => {
  test("the operator answers at the same moment: one of the two has the call, the other is let go", async () => {
    for (let round = 0; round < 6; round += 1) {
      const { leg, call, ringing: phone } = await ringing();
      const dialling = picksUp(phone);
      phone.answer();
      const taker = await dialling;
      const loser = await Promise.race([phone.ended.then(() => phone), taker.ended.then(() => taker)]);
      await leg.media.hears(loser === taker ? pitches.operator : pitches.operator2);
      await leg.hangUp();
      await Promise.all([phone.ended, taker.ended]);
      const { status, details } = await call.transfer();
      expect(status).toMatchObject({ status: "SUCCESS", hangup: true });
      expect(details.attempts).toHaveLength(1);
      await stage().clear();
    }
  });

  test("the operator has answered before: 486 for whoever wants early calls only", async () => {
    const { leg, call, ringing: phone } = await ringing();
    phone.answer();
    await call.progress("bridged");
    const taker = await picksUp(phone, ";early-only");
    expect((await taker.ended).status).toBe(486);
    await leg.media.hears(pitches.operator);
    await leg.hangUp();
  });

  test("the colleague never acknowledges: the phone rings on, and its answer counts", async () => {
    const { leg, call, ringing: phone } = await ringing();
    const taker = await picksUp(phone, "", { withoutAck: true });
    await taker.established;
    expect((await taker.ended).how).toBe("BYE");
    expect(phone.phase).toBe("inviting");
    phone.answer();
    await leg.media.hears(pitches.operator);
    await leg.hangUp();
    expect((await call.transfer()).details.attempts).toMatchObject([{ cause: "completed" }]);
  });

  test("the operator refuses while the colleague is on his way: the caller is not lost between the two", async () => {
    const { leg, call, ringing: phone } = await ringing();
    const taker = await picksUp(phone);
    phone.reject(486);
    await taker.established;
    await leg.media.hears(pitches.operator2);
    await taker.hangUp();
    const { status, details } = await call.transfer();
    expect(status).toMatchObject({ status: "SUCCESS", hangup: false });
    expect(details.attempts).toMatchObject([{ cause: "completed", takenBy: "second" }]);
    await leg.hangUp();
  });

  test("the operator refuses, and the colleague never acknowledges: busy, as if he had not come", async () => {
    const { leg, call, ringing: phone } = await ringing();
    const taker = await picksUp(phone, "", { withoutAck: true });
    await taker.established;
    phone.reject(486);
    expect((await taker.ended).how).toBe("BYE");
    const { status, details } = await call.transfer();
    expect(status).toMatchObject({ status: "FAIL", hangup: false });
    expect(details).toMatchObject({ cause: "busy", sipCode: 486 });
    await leg.hangUp();
  });

  test("the caller hangs up while he is on his way: everybody is let go", async () => {
    const { leg, call, ringing: phone } = await ringing();
    const dialling = picksUp(phone);
    await leg.hangUp();
    await Promise.all([phone.ended, (await dialling).ended]);
    expect((await call.transfer()).status).toMatchObject({ hangup: true });
  });
});

describe("a call that is not to be picked up goes on ringing", () => {
  test("from another trunk, or with a tag that is not the phone's: 481", async () => {
    const { leg, ringing: phone } = await ringing();
    const foreign = await stage().phone({ address: "127.0.0.9" });
    const headers = [["Replaces", replacesOf(phone)]] as const;
    expect((await (await foreign.dial(stage().uri("200"), { headers })).ended).status).toBe(481);
    expect((await (await picksUp(phone, "x")).ended).status).toBe(481);
    expect(phone.phase).toBe("inviting");
    phone.answer();
    await leg.media.hears(pitches.operator);
    await leg.hangUp();
  });

  test("where operators may not pass callers on: 603", async () => {
    const strict = await stage().listen("bot-strict");
    stage().operator.answering = { type: "manual", ring: [{ status: 180 }] };
    const leg = await (await stage().phone()).dial(stage().uri("300"));
    const call = await strict.callOf(leg.callId);
    await leg.established;
    await call.event("answered");
    await call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: true });
    const phone = await stage().incoming(stage().operator);
    await call.progress("ringing");
    expect((await (await picksUp(phone)).ended).status).toBe(603);
    expect(phone.phase).toBe("inviting");
    await leg.hangUp();
  });

  test("a caller who hears it ring, which we have not begun (RFC 3891 §3): 481", async () => {
    const leg = await (await stage().phone()).dial(stage().uri("400"));
    await leg.progress(180);
    expect((await (await picksUp(leg)).ended).status).toBe(481);
    await leg.cancel();
  });
});
