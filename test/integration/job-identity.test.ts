// Whom the operator sees (bot-contract §7), read from the INVITE on the wire.
import { describe, expect, test } from "vitest";
import { formatSip, header, headersOf, userOf, uriOf } from "../support/sip-text.ts";
import type { DialOptions, PhoneCall } from "../support/rtp-phone.ts";
import { botNumber, callerNumber, operatorNumber, sharedStage, type Stage, type StageOptions } from "./stage.ts";
import type { TransferDetails } from "./raw-bot.ts";

interface Seen {
  readonly from: string;
  readonly called: string | undefined;
  readonly asserted: readonly string[];
  readonly diversion: readonly string[];
  readonly details: TransferDetails;
  readonly invite: string;
}

async function transferred(
  stage: Stage,
  fields: Readonly<Record<string, unknown>> = {},
  dial: DialOptions = {},
): Promise<Seen> {
  stage.operator.answering = { type: "reject", status: 486 };
  const { leg, call } = await stage.talk({}, dial);
  await call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: true, ...fields });
  const { details } = await call.transfer();
  const { invite }: PhoneCall = await stage.incoming();
  await leg.hangUp();
  await call.event("hangup");
  return {
    from: userOf(uriOf(header(invite, "From") ?? "")) ?? "",
    called: userOf(invite.uri ?? ""),
    asserted: headersOf(invite, "P-Asserted-Identity"),
    diversion: headersOf(invite, "Diversion"),
    details,
    invite: formatSip(invite),
  };
}

const policies: readonly {
  readonly name: string;
  readonly trunk: NonNullable<StageOptions["trunk"]>;
  readonly shown: string;
  readonly from: string;
}[] = [
  { name: "auto without a password", trunk: {}, shown: "caller", from: callerNumber },
  {
    name: "auto where the provider takes no number but its own",
    trunk: { supportsForeignCallerId: false },
    shown: "bot",
    from: botNumber,
  },
  {
    name: "caller",
    trunk: { callerId: "caller", supportsForeignCallerId: false },
    shown: "caller",
    from: callerNumber,
  },
  { name: "bot", trunk: { callerId: "bot" }, shown: "bot", from: botNumber },
  { name: "a fixed number", trunk: { callerId: "+74959999999" }, shown: "fixed", from: "+74959999999" },
];

describe.each(policies)("caller id $name", ({ trunk, shown, from }) => {
  const stage = sharedStage({ trunk });

  test(`the operator sees ${from}`, async () => {
    const seen = await transferred(stage());
    expect(seen.from).toBe(from);
    expect(seen.details.callerIdShown).toBe(shown);
    expect(seen.asserted).toEqual([]);
    expect(seen.diversion).toEqual([]);
    if (shown !== "caller") expect(seen.invite).not.toContain(callerNumber);
  });
});

describe("a trunk with asserted identity, diversion and number rules", () => {
  const stage = sharedStage({
    trunk: { assertedIdentity: true, diversion: true, rules: { strip: "8", prepend: "7", plus: "add" } },
  });

  test("the number is dialled by the rules, the headers name the caller and the bot", async () => {
    const seen = await transferred(stage(), { phoneNumber: "8 912 345-67-89" });
    expect(seen.called).toBe("+79123456789");
    expect(seen.details.attempts).toMatchObject([{ target: "8 912 345-67-89" }]);
    expect(seen.asserted).toHaveLength(1);
    expect(userOf(uriOf(seen.asserted[0] ?? ""))).toBe(callerNumber);
    expect(seen.diversion).toHaveLength(1);
    expect(userOf(uriOf(seen.diversion[0] ?? ""))).toBe(botNumber);
    expect(seen.diversion[0]).toMatch(/;\s*reason=unconditional/);
  });

  test("an identity header of the bot overrides the trunk's", async () => {
    const own = '"7701" <sip:7701@92.46.54.211>';
    const seen = await transferred(stage(), {
      headers: { "P-Asserted-Identity": own, Diversion: "<sip:1@x>;reason=no-answer" },
    });
    expect(seen.asserted).toEqual([own]);
    expect(seen.diversion).toEqual(["<sip:1@x>;reason=no-answer"]);
  });

  test.each<{ name: string; dial: DialOptions }>([
    { name: "an anonymous From", dial: { from: '"Anonymous" <sip:anonymous@anonymous.invalid>' } },
    { name: "Privacy: id", dial: { headers: [["Privacy", "id"]] } },
  ])("a caller with $name stays unknown to the operator", async ({ dial }) => {
    const seen = await transferred(stage(), {}, dial);
    expect(seen.from.toLowerCase()).toBe("anonymous");
    expect(seen.details.callerIdShown).toBe("anonymous");
    expect(seen.invite.replace(/^(?:P-Asserted-Identity|v=|o=|c=).*$/gm, "")).not.toContain(callerNumber);
  });
});

describe("a trunk that lets bots set no identity", () => {
  const stage = sharedStage({ trunk: { identityHeaders: "drop" } });

  test("identity headers are dropped, others are not", async () => {
    const headers = {
      "P-Asserted-Identity": "<sip:1@x>",
      "Remote-Party-ID": "<sip:1@x>",
      Privacy: "none",
      testheader: "yes",
    };
    const seen = await transferred(stage(), { headers });
    expect(seen.asserted).toEqual([]);
    expect(seen.invite).not.toMatch(/^(?:Remote-Party-ID|Privacy):/m);
    expect(seen.invite).toMatch(/^testheader: yes\r?$/m);
    expect(seen.from).toBe(callerNumber);
  });
});
