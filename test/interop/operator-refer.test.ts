// An operator passes the caller on by REFER: blind, attended, and where nobody may.
import { describe, expect, test } from "vitest";
import { drachtioProgram } from "../support/drachtio.ts";
import { pitches } from "../support/pitch.ts";
import type { Phone, PhoneCall } from "../support/rtp-phone.ts";
import { header, type SipText } from "../support/sip-text.ts";
import { waitFor } from "../support/wait.ts";
import { operatorNumber, sharedStage, type Talk } from "../integration/stage.ts";

const stage = sharedStage({
  channel: { operatorRefer: "accept", destinations: { sipHosts: ["127.0.0.1:*"] }, recording: { enabled: true } },
});

interface Joined extends Talk {
  readonly operator: PhoneCall;
}

async function joined(fields: object = {}): Promise<Joined> {
  const talk = await stage().talk();
  await talk.call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: true, ...fields });
  const operator = await stage().incoming();
  await talk.leg.media.hears(pitches.operator);
  return { ...talk, operator };
}

const uriOf = (phone: Phone): string => `sip:${phone.user}@${phone.address}:${phone.port}`;
const refer = (operator: PhoneCall, to: string, more: readonly (readonly [string, string])[] = []): Promise<SipText> =>
  operator.request("REFER", {
    headers: [["Refer-To", to], ["Referred-By", "<sip:7701@127.0.0.1>"], ...more],
  });

const fragmentsOf = (operator: PhoneCall): readonly (string | undefined)[] =>
  operator.received("NOTIFY").map(({ body }) => body.trim());
const lastNotify = (operator: PhoneCall): Promise<SipText> =>
  waitFor(
    () => operator.received("NOTIFY").find((one) => header(one, "Subscription-State")?.startsWith("terminated")),
    { what: "the last NOTIFY" },
  );

describe("blind", () => {
  test("202, NOTIFY 100, 180, 200; ringback meanwhile; the operator gets BYE and the next one has the caller", async () => {
    const { secondOperator } = stage();
    secondOperator.answering = { type: "manual" };
    const { leg, call, operator } = await joined({ headers: { "X-Crm": "42" }, continueRecording: true });
    const accepted = await refer(operator, `<${uriOf(secondOperator)}>`);
    expect(accepted.status).toBe(202);
    expect(header(accepted, "Contact")).toBeDefined();
    const next = await stage().incoming(secondOperator);
    expect(header(next.invite, "Referred-By")).toBe("<sip:7701@127.0.0.1>");
    expect(header(next.invite, "X-Crm")).toBe("42");
    await leg.media.hears(pitches.ringback);
    next.ring(180);
    await waitFor(() => fragmentsOf(operator).length === 2, { what: "the NOTIFY of 180" });
    next.answer();
    expect((await operator.ended).how).toBe("BYE");
    await leg.media.hears(pitches.operator2);
    await next.media.hears(pitches.caller);
    expect(fragmentsOf(operator)).toEqual(["SIP/2.0 100 Trying", "SIP/2.0 180 Ringing", "SIP/2.0 200 OK"]);
    const notifies = operator.received("NOTIFY");
    expect(notifies.map((one) => header(one, "Event"))).toEqual(["refer", "refer", "refer"]);
    expect(header(notifies[0]!, "Content-Type")).toBe("message/sipfrag;version=2.0");
    expect(header(notifies[2]!, "Subscription-State")).toBe("terminated;reason=noresource");
    await next.hangUp();
    const { status, details } = await call.transfer();
    expect(status).toEqual({ status: "SUCCESS", hangup: false, number: operatorNumber });
    expect(details).toMatchObject({ cause: "completed", endedBy: "operator", recording: "continuous" });
    expect(details.attempts.map(({ cause }) => cause)).toEqual(["completed", "completed"]);
    expect(leg.reInvites).toEqual([]);
    await leg.hangUp();
    const { sidecar } = await stage().recording(call);
    // The bot's first moment may be too short to be written down.
    const phases = sidecar.phases.map(({ phase }) => phase).slice(-5);
    expect(phases).toEqual(["dialling", "operator", "dialling", "operator", "bot"]);
  });

  test("a number goes through the trunk; the first gateway may be down", async () => {
    const { operator: gateway, secondOperator } = stage();
    const { leg, call, operator } = await joined();
    gateway.answering = { type: "reject", status: 503 };
    await refer(operator, "<tel:+7-495-000-11-22>");
    await leg.media.hears(pitches.operator2);
    const next = await stage().incoming(secondOperator);
    expect(next.invite.uri).toMatch(/^sip:\+?74950001122@/);
    expect((await lastNotify(operator)).body).toContain("200 OK");
    await leg.hangUp();
    expect((await call.transfer()).details.attempts.map(({ cause }) => cause)).toEqual([
      "completed",
      "trunk_failure",
      "completed",
    ]);
  });

  test("busy: the operator is told and has the caller again, as often as he tries", async () => {
    const { secondOperator } = stage();
    secondOperator.answering = { type: "reject", status: 486, afterMs: 300 };
    const { leg, call, operator } = await joined();
    for (const round of [1, 2]) {
      expect((await refer(operator, `<${uriOf(secondOperator)}>`)).status).toBe(202);
      await leg.media.hears(pitches.ringback);
      await waitFor(() => fragmentsOf(operator).filter((text) => text === "SIP/2.0 486 Busy Here").length === round, {
        what: "the NOTIFY of 486",
      });
      await leg.media.hears(pitches.operator);
      await operator.media.hears(pitches.caller);
    }
    // RFC 3515 §2.4.6: the second REFER's NOTIFYs name it.
    const events = new Set(operator.received("NOTIFY").map((one) => header(one, "Event")));
    expect([...events]).toEqual(["refer", expect.stringMatching(/^refer;id=\d+$/)]);
    await operator.hangUp();
    const { status, details } = await call.transfer();
    expect(status).toEqual({ status: "SUCCESS", hangup: false, number: operatorNumber });
    expect(details.attempts.map(({ cause }) => cause)).toEqual(["busy", "busy", "completed"]);
    await leg.hangUp();
  });

  test("he hangs up right after his REFER: the caller hears ringback and then the next one", async () => {
    const { secondOperator } = stage();
    secondOperator.answering = { type: "answer", afterMs: 700 };
    const { leg, call, operator } = await joined({ continueCall: false });
    await refer(operator, `<${uriOf(secondOperator)}>`);
    await operator.hangUp();
    // A drachtio-server knows the dialog no more after the BYE, so nothing can be sent in it.
    if (drachtioProgram === undefined) {
      expect(header(await lastNotify(operator), "Subscription-State")).toBe("terminated;reason=noresource");
    }
    await leg.media.hears(pitches.ringback);
    await leg.media.hears(pitches.operator2);
    await leg.hangUp();
    expect(await call.transfer()).toMatchObject({
      status: { status: "SUCCESS", hangup: true, number: operatorNumber },
      details: { endedBy: "caller" },
    });
  });

  test("he hangs up and the next one does not answer: SUCCESS, and the caller is back with the bot", async () => {
    const { secondOperator } = stage();
    secondOperator.answering = { type: "reject", status: 603, afterMs: 300 };
    const { leg, call, operator } = await joined();
    await refer(operator, `<${uriOf(secondOperator)}>`);
    await operator.hangUp();
    const { status } = await call.transfer();
    expect(status).toEqual({ status: "SUCCESS", hangup: false, number: operatorNumber });
    await call.play(stage().prompts.short);
    await leg.hangUp();
  });

  test("the caller hangs up while the next one rings: CANCEL, NOTIFY 487, BYE", async () => {
    const { secondOperator } = stage();
    secondOperator.answering = { type: "ring" };
    const { leg, call, operator } = await joined();
    await refer(operator, `<${uriOf(secondOperator)}>`);
    const next = await stage().incoming(secondOperator);
    await waitFor(() => fragmentsOf(operator).length === 2, { what: "the NOTIFY of 180" });
    await leg.hangUp();
    expect((await next.ended).how).toBe("CANCEL");
    expect((await operator.ended).how).toBe("BYE");
    expect(fragmentsOf(operator).at(-1)).toBe("SIP/2.0 487 Request Terminated");
    expect((await call.transfer()).status).toMatchObject({ status: "SUCCESS", hangup: true });
  });

  test("the caller hangs up and the next one answers all the same: 200 after our CANCEL gets BYE", async () => {
    const { secondOperator } = stage();
    secondOperator.answering = { type: "ring", onCancel: "answer" };
    const { leg, call, operator } = await joined();
    await refer(operator, `<${uriOf(secondOperator)}>`);
    const next = await stage().incoming(secondOperator);
    await waitFor(() => fragmentsOf(operator).length === 2, { what: "the NOTIFY of 180" });
    await leg.hangUp();
    expect((await next.ended).how).toBe("BYE");
    expect((await operator.ended).how).toBe("BYE");
    const { status, details } = await call.transfer();
    expect(status).toMatchObject({ status: "SUCCESS", hangup: true });
    expect(details.attempts.map(({ cause }) => cause)).toEqual(["completed", "caller_hangup"]);
  });

  test("he hangs up while the next one answers: the caller is with that one", async () => {
    const { secondOperator } = stage();
    secondOperator.answering = { type: "manual" };
    const { leg, operator } = await joined();
    await refer(operator, `<${uriOf(secondOperator)}>`);
    const next = await stage().incoming(secondOperator);
    next.answer();
    await operator.hangUp();
    await leg.media.hears(pitches.operator2);
    await next.media.hears(pitches.caller);
    await leg.hangUp();
  });

  test("`Refer-Sub: false`: no NOTIFY (RFC 4488)", async () => {
    const { secondOperator } = stage();
    const { leg, operator } = await joined();
    const accepted = await refer(operator, `<${uriOf(secondOperator)}>`, [["Refer-Sub", "false"]]);
    expect([accepted.status, header(accepted, "Refer-Sub")]).toEqual([202, "false"]);
    await leg.media.hears(pitches.operator2);
    expect(operator.received("NOTIFY")).toEqual([]);
    await leg.hangUp();
  });
});

test("on hold first, as phones do it: music, ringback, and the next one; or the operator again", async () => {
  const { secondOperator } = stage();
  secondOperator.answering = { type: "reject", status: 486, afterMs: 300 };
  const { leg, operator } = await joined();
  await operator.reinvite({ direction: "sendonly" });
  await refer(operator, `<${uriOf(secondOperator)}>`);
  await leg.media.hears(pitches.ringback);
  expect((await lastNotify(operator)).body).toContain("486");
  await operator.reinvite({ direction: "sendrecv" });
  await leg.media.hears(pitches.operator);
  secondOperator.answering = { type: "answer", afterMs: 300 };
  await operator.reinvite({ direction: "inactive" });
  await refer(operator, `<${uriOf(secondOperator)}>`);
  await leg.media.hears(pitches.ringback);
  await leg.media.hears(pitches.operator2);
  await leg.hangUp();
});

test.each([
  ["&Subject=x", undefined],
  ["&require=100rel%2C%20replaces", "replaces"],
])("attended%s: who is called replaces the call that the operator has with him", async (more, required) => {
  const { secondOperator } = stage();
  const { leg, operator } = await joined();
  const dialog = "a84b4c76e66710%40pbx.example%3Bto-tag%3D1aB%3Bfrom-tag%3D9fx-2%3Bearly-only";
  await refer(operator, `<${uriOf(secondOperator)}?Replaces=${dialog}${more}>`);
  const { invite } = await stage().incoming(secondOperator);
  expect(header(invite, "Replaces")).toBe("a84b4c76e66710@pbx.example;to-tag=1aB;from-tag=9fx-2;early-only");
  expect(header(invite, "Require")).toBe(required);
  expect(header(invite, "Subject")).toBeUndefined();
  await leg.media.hears(pitches.operator2);
  await leg.hangUp();
});

describe("refused, and the two go on talking", () => {
  test.each([
    ["<sip:7702@evil.example>", 603],
    ["<sip:ops@169.254.169.254>", 603],
    ["<sips:7702@127.0.0.1>", 603],
    ["<sip:7702@127.0.0.1;method=BYE>", 603],
    ["<tel:abc>", 603],
    ["<tel:112>", 603],
    ["<mailto:a@b>", 603],
    ["<sip:7702@127.0.0.1>, <sip:7703@127.0.0.1>", 400],
    ["<sip:7702@127.0.0.1?Replaces=nonsense>", 400],
    ["<sip:7702@127.0.0.1?Replaces=a%3Bto-tag%3D1%0d%0aX%3Bfrom-tag%3D2>", 400],
  ])("%s: %d", async (to, status) => {
    const { leg, operator } = await joined();
    expect((await refer(operator, to)).status).toBe(status);
    await leg.media.hears(pitches.operator);
    expect(operator.received("NOTIFY")).toEqual([]);
    await leg.hangUp();
  });

  test("an extension that is not known: 420; a second REFER while one is under way: 603", async () => {
    const { secondOperator } = stage();
    secondOperator.answering = { type: "ring" };
    const { leg, operator } = await joined();
    const unknown = await refer(operator, `<${uriOf(secondOperator)}>`, [["Require", "tdialog"]]);
    expect([unknown.status, header(unknown, "Unsupported")]).toEqual([420, "tdialog"]);
    expect((await refer(operator, `<${uriOf(secondOperator)}>`)).status).toBe(202);
    expect((await refer(operator, `<${uriOf(secondOperator)}>`)).status).toBe(603);
    await leg.hangUp();
  });
});
