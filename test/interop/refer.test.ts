// A transfer by REFER that the caller's side does not follow: the caller is kept, and the operator is called by INVITE.
import { describe, expect, test } from "vitest";
import { pitches } from "../support/pitch.ts";
import { operatorNumber, sharedStage } from "../integration/stage.ts";

const refer = { type: "switch", phoneNumber: operatorNumber, method: "refer", continueCall: true, timeout: 2 } as const;
/** From the refusal to the INVITE (bot-contract §6). */
const mostMs = 300;

describe.each([405, 420, 501, 603])("REFER refused with %d", (status) => {
  const stage = sharedStage();

  test("INVITE within 300 ms, the caller hears him; the next transfer on the trunk sends no REFER", async () => {
    const { leg, call } = await stage().talk({ responses: { REFER: status } });
    await call.run({ ...refer, headers: { "X-Crm": "1" } });
    const refused = Date.now();
    const operator = await stage().incoming();
    // The REFER goes out after the command was answered, so this counts more than is asked for.
    expect(Date.now() - refused).toBeLessThan(mostMs);
    await leg.media.hears(pitches.operator);
    expect(leg.received("REFER")).toHaveLength(1);
    await operator.hangUp();
    expect(await call.transfer()).toMatchObject({ status: { status: "SUCCESS", hangup: false } });
    const warnings = call.all("warning").map(({ body }) => body["code"]);
    expect(warnings).toEqual(["refer_failed"]);
    await leg.hangUp();

    const next = await stage().talk({ responses: { REFER: 202 } });
    await next.call.run(refer);
    await next.leg.media.hears(pitches.operator);
    expect(next.leg.received("REFER")).toEqual([]);
    expect(next.call.all("warning").map(({ body }) => body["code"])).toEqual(["refer_skipped"]);
    await next.leg.hangUp();
  });
});

describe("REFER accepted", () => {
  const stage = sharedStage();
  const sipfrag = (text: string, state: string): { headers: [string, string][]; body: string } => ({
    headers: [
      ["Event", "refer"],
      ["Subscription-State", state],
      ["Content-Type", "message/sipfrag;version=2.0"],
    ],
    body: `${text}\r\n`,
  });

  test("NOTIFY 180, then 486: the operator is called by INVITE, and the caller has not been dropped", async () => {
    const { leg, call } = await stage().talk({ responses: { REFER: 202 } });
    await call.run(refer);
    await leg.media.hears(pitches.ringback);
    await leg.request("NOTIFY", sipfrag("SIP/2.0 180 Ringing", "active;expires=60"));
    await leg.request("NOTIFY", sipfrag("SIP/2.0 486 Busy Here", "terminated;reason=noresource"));
    await leg.media.hears(pitches.operator);
    await leg.hangUp();
    expect(await call.transfer()).toMatchObject({
      status: { status: "SUCCESS", hangup: true },
      details: { method: "invite" },
    });
  });
});
