import { describe, expect, test } from "vitest";
import { parseConfig } from "../../src/config/load.ts";
import { Allowance } from "../../src/trunk/allowance.ts";
import { numberClass } from "../../src/trunk/number-class.ts";
import { TrunkTable } from "../../src/trunk/table.ts";
import type { TrunkId } from "../../src/call/ids.ts";

function table(destinations: string, rules = "{}"): TrunkTable {
  const parsed = parseConfig(
    `trunks: [{ id: t, sources: [192.0.2.1], gateways: [{ host: 192.0.2.1 }], rules: ${rules} }]
channels: [{ botId: b, trunk: t, numbers: ["100"], destinations: ${destinations} }]`,
    {},
    ".",
  );
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
  return new TrunkTable(parsed.config);
}

function refusal(number: string, destinations = "{}", rules = "{}"): string | null {
  return table(destinations, rules).numberRefusal("b", "t" as TrunkId, number);
}

describe("the class of a number", () => {
  test.each([
    // number, country, class
    ["112", "", "emergency"],
    ["+112", "", "emergency"],
    ["911", "7", "emergency"],
    ["112#", "", "emergency"],
    ["103", "7", "emergency"],
    ["103", "", "emergency"],
    ["103", "44", null],
    ["9112", "", null],
    ["1120", "", null],
    ["*67911", "1", "emergency"],
    ["+88161234567", "", "satellite"],
    ["0088161234567", "", "satellite"],
    ["+0088161234567", "", "satellite"],
    ["+*670088161234567", "", "satellite"],
    // Whoever leaves the + out of a Japanese number must not be taken for one who dials 810.
    ["+81088161234567", "7", null],
    ["01188161234567", "1", "satellite"],
    ["901188161234567", "1", "satellite"],
    ["81088161234567", "7", "satellite"],
    ["881612345678", "", "satellite"],
    ["870772001234", "", "satellite"],
    // St Petersburg, with the trunk prefix 8 and the area code 812.
    ["88123456789", "7", null],
    ["88123456789", "", null],
    ["84951234567", "7", null],
    ["84951234567", "", null],
    ["+74951234567", "7", null],
    ["79161234567", "", null],
    ["88005553535", "7", null],
    ["+442071234567", "44", null],
    ["02071234567", "44", null],
    ["+18765551234", "1", "premium"],
    ["18765551234", "1", "premium"],
    ["8765551234", "1", "premium"],
    ["19005551234", "1", "premium"],
    ["+12125551234", "1", null],
    ["2125551234", "1", null],
    ["8704251234", "1", null],
    ["88095551234", "7", "premium"],
    ["+979123456789", "", "premium"],
    ["0909 879 0000".replaceAll(" ", ""), "44", "premium"],
    ["2222", "7", null],
    ["*72#", "1", null],
    ["0", "", null],
  ] as const)("%s dialled in country %j: %s", (number, country, expected) => {
    expect(numberClass(number, country)).toBe(expected);
  });
});

describe("every country's own numbers", () => {
  test.each([
    ["1", "933", "19005551234"],
    ["7", "02", "88091234567"],
    ["31", "112", "0900123456"],
    ["32", "100", "090212345"],
    ["33", "15", "0899123456"],
    ["34", "061", "803123456"],
    ["39", "113", "899123456"],
    ["41", "144", "0900123456"],
    ["43", "133", "0930123456"],
    ["44", "999", "08711234567"],
    ["46", "112", "09391234567"],
    ["48", "997", "701234567"],
    ["49", "110", "01371234567"],
    ["61", "106", "1902123456"],
    ["81", "118", "0990123456"],
    ["90", "155", "09001234567"],
    ["375", "102", "8902123456"],
    ["380", "103", "0900123456"],
    ["420", "158", "900123456"],
  ])("in %s: %s is an emergency number, %s is premium rate", (country, emergency, premium) => {
    expect([numberClass(emergency, country), numberClass(premium, country)]).toEqual(["emergency", "premium"]);
  });
});

describe("numbers that a bot may call", () => {
  test("classes are refused until they are allowed", () => {
    for (const [number, kind] of [
      ["112", "emergency"],
      ["+88161234567", "satellite"],
      ["+979123456789", "premium"],
    ] as const) {
      expect(refusal(number)).toContain(`destinations.numbers.${kind}`);
      expect(refusal(number, `{ numbers: { ${kind}: true } }`)).toBeNull();
    }
    expect(refusal("74951234567")).toBeNull();
  });

  test("number rules neither hide a refused number nor make one", () => {
    // 9 for an outside line: what is dialled is 9 and the emergency number.
    expect(refusal("112", "{}", '{ prepend: "9" }')).toContain("emergency");
    expect(refusal("5112", "{}", '{ strip: "5" }')).toContain("emergency");
    expect(refusal("2222", "{}", '{ prepend: "9" }')).toBeNull();
  });

  test.each([
    ["+74951234567", null],
    ["84951234567", null],
    ["81074951234567", null],
    ["2222", null],
    ["3333", "does not hold"],
    ["+442071234567", "does not hold"],
    ["00442071234567", "does not hold"],
    ["810442071234567", "does not hold"],
    ["+78401234567", "deny"],
    ["88401234567", "deny"],
    ["81078401234567", "deny"],
    ["2999", "deny"],
  ])("%s with an allow list and a deny list", (number, expected) => {
    const said = refusal(number, '{ numbers: { allow: ["+7", "2"], deny: ["+7840", "2999"] } }', '{ country: "7" }');
    if (expected === null) expect(said).toBeNull();
    else expect(said).toContain(expected);
  });

  test("a number that is another one for the trunk has to be allowed as both", () => {
    const elsewhere = '{ strip: "7", prepend: "44" }';
    expect(refusal("+74951234567", '{ numbers: { allow: ["+7"] } }', elsewhere)).toContain("does not hold");
    expect(refusal("+74951234567", '{ numbers: { allow: ["+44"] } }', elsewhere)).toContain("does not hold");
    expect(refusal("+74951234567", '{ numbers: { allow: ["+7"] } }', '{ plus: "remove" }')).toBeNull();
  });

  test("no refusal holds the number", () => {
    for (const number of ["112", "+88161234567", "3333"]) {
      expect(refusal(number, '{ numbers: { allow: ["9"] } }')).not.toContain(number);
    }
  });
});

describe("hosts of SIP URIs", () => {
  const list = '[ok.example, "*.ops.example", "pbx.example:5160", "any.example:*", 192.0.2.9, "[2001:db8::1]:7000"]';
  test.each([
    ["ok.example", null, true],
    ["OK.example.", 5060, true],
    ["ok.example", 5090, true],
    ["ok.example", 22, false],
    ["ok.example", 6379, false],
    ["ok.example", 9022, false],
    ["a.ops.example", 5061, true],
    ["ops.example", null, false],
    ["evil-ops.example", null, false],
    ["pbx.example", 5160, true],
    ["pbx.example", 5060, false],
    ["pbx.example", null, false],
    ["any.example", 1, true],
    ["192.0.2.9", null, true],
    ["::ffff:192.0.2.9", null, true],
    ["192.0.2.10", null, false],
    ["[2001:db8::1]", 7000, true],
    ["2001:DB8:0::1", 7000, true],
    ["2001:db8::1", 5060, false],
    ["old.ops.example", null, false],
    ["169.254.169.254", null, false],
    ["100.100.100.200", null, false],
    ["fd00:ec2::254", null, false],
  ] as const)("%s port %s: %s", (host, port, allowed) => {
    const trunks = table(`{ sipHosts: ${list}, deniedSipHosts: [old.ops.example] }`);
    expect(trunks.hostRefusal("b", host, port) === null).toBe(allowed);
  });

  test("metadata addresses are refused even when they are listed", () => {
    const trunks = table('{ sipHosts: ["169.254.169.254:*"], privateNetworks: ["169.254.0.0/16"] }');
    expect(trunks.hostRefusal("b", "169.254.169.254", 5060)).not.toBeNull();
    expect(trunks.addressRefusal("b", "169.254.169.254", "ok.example")).not.toBeNull();
  });

  test.each([
    ["8.8.8.8", true],
    ["2606:4700::1111", true],
    ["127.0.0.1", false],
    ["::1", false],
    ["::", false],
    ["0.0.0.0", false],
    ["10.1.2.3", false],
    ["10.20.3.4", true],
    ["100.64.0.1", false],
    ["169.254.1.1", false],
    ["172.16.0.1", false],
    ["172.32.0.1", true],
    ["192.168.1.1", false],
    ["224.0.0.1", false],
    ["255.255.255.255", false],
    ["::ffff:127.0.0.1", false],
    ["::ffff:10.20.3.4", true],
    ["fe80::1", false],
    ["fd12::1", false],
    ["64:ff9b::7f00:1", false],
    ["2002:7f00:1::", false],
    ["not an address", false],
  ])("a name that resolves to %s: %s", (address, allowed) => {
    const trunks = table("{ sipHosts: [ok.example], privateNetworks: [10.20.0.0/16] }");
    expect(trunks.addressRefusal("b", address, "ok.example") === null).toBe(allowed);
  });
});

describe("how often and how long a bot may have operators called", () => {
  function allowance(limits: string): {
    allowed: Allowance;
    state: { now: number; halted: boolean; talkedMs: number };
  } {
    const state = { now: 5000, halted: false, talkedMs: 0 };
    const trunks = table(limits);
    const allowed = new Allowance({
      limitsOf: (botId) => trunks.limits(botId),
      halted: () => state.halted,
      talkedMs: () => state.talkedMs,
      addTalk: (_botId, ms) => {
        state.talkedMs += ms;
      },
      now: () => state.now,
    });
    return { allowed, state };
  }

  test("so many in a second, over a window that slides", () => {
    const { allowed, state } = allowance("{ maxCallsPerSecond: 2 }");
    expect([allowed.enter("b"), allowed.enter("b")]).toEqual([null, null]);
    allowed.leave("b", 0);
    allowed.leave("b", 0);
    state.now += 999;
    expect(allowed.enter("b")).toContain("maxCallsPerSecond");
    state.now += 1;
    expect(allowed.enter("b")).toBeNull();
  });

  test("the same target by another way is no call more, but is one that is held, and halted like any", () => {
    const { allowed, state } = allowance("{ maxCallsPerSecond: 1, maxOperatorCalls: 3 }");
    expect([allowed.enter("b"), allowed.enter("b", true)]).toEqual([null, null]);
    expect(allowed.enter("b")).toContain("maxCallsPerSecond");
    expect(allowed.enter("b", true)).toBeNull();
    expect(allowed.enter("b", true)).toContain("maxOperatorCalls");
    state.halted = true;
    allowed.leave("b", 0);
    expect(allowed.enter("b", true)).toContain("halted");
  });

  test("so many at once", () => {
    const { allowed } = allowance("{ maxOperatorCalls: 1 }");
    expect(allowed.enter("b")).toBeNull();
    expect(allowed.enter("b")).toContain("maxOperatorCalls");
    allowed.leave("b", 0);
    expect(allowed.enter("b")).toBeNull();
  });

  test("so many minutes a day, the one who talks is not cut off", () => {
    const { allowed, state } = allowance("{ maxTalkMinutesPerDay: 1 }");
    expect(allowed.enter("b")).toBeNull();
    allowed.leave("b", 60_000);
    expect(allowed.enter("b")).toContain("maxTalkMinutesPerDay");
    state.talkedMs = 0;
    expect(allowed.enter("b")).toBeNull();
  });

  test("none while the bot is halted, and a refusal counts nothing", () => {
    const { allowed, state } = allowance("{ maxOperatorCalls: 1, maxCallsPerSecond: 1 }");
    state.halted = true;
    expect(allowed.enter("b")).toContain("halted");
    state.halted = false;
    expect(allowed.enter("b")).toBeNull();
  });

  test("nothing stays behind of a bot whose operators are gone", () => {
    const { allowed, state } = allowance("{}");
    allowed.enter("b");
    state.now += 2000;
    allowed.leave("b", 0);
    expect(allowed.size).toBe(0);
  });
});
