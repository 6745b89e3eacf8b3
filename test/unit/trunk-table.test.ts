import { describe, expect, test } from "vitest";

import type { GatewayId, TrunkId } from "../../src/call/ids.ts";
import { parseConfig } from "../../src/config/load.ts";
import { dialledNumber } from "../../src/trunk/number-rules.ts";
import type { NumberRules } from "../../src/trunk/number-rules.ts";
import { TrunkTable } from "../../src/trunk/table.ts";

function table(yaml: string): TrunkTable {
  const parsed = parseConfig(yaml, {}, ".");
  if (!parsed.ok) {
    throw new Error(JSON.stringify(parsed.problems));
  }
  return new TrunkTable(parsed.config);
}

const a = "a" as TrunkId;
const b = "b" as TrunkId;

const two = `
trunks:
  - { id: a, sources: [10.0.0.0/8, "2001:db8::/32"], gateways: [{ id: ga, host: 10.0.0.1 }, { host: gw.example, port: 5070, transport: tcp }] }
  - id: b
    sources: [10.1.0.0/16]
    gateways: [{ host: 192.0.2.9 }]
    outbound: { username: u, passwordEnv: P }
    refer: never
    progressTimeoutMs: 700
    dtmf: { fallback: info, detectTones: true }
    number: "+7495"
channels:
  - { botId: bot-a, trunk: a, numbers: ["+100", "74*", "7495*", demo], number: "+4401", destinations: { sipHosts: [OK.example, "*.ops.example", "2001:db8::1"] } }
  - { botId: bot-b, trunk: b, numbers: ["*"] }
`;

describe("whose call it is", () => {
  const trunks = table(two);

  test.each([
    ["10.9.9.9", "a"],
    ["10.1.2.3", "b"],
    ["::ffff:10.1.2.3", "b"],
    ["2001:db8::77", "a"],
    ["192.0.2.9", "unknown"],
    ["11.0.0.1", "unknown"],
    ["", "unknown"],
    ["gw.example", "unknown"],
  ])("%s → %s (the longest prefix wins)", (address, expected) => {
    const admission = trunks.admit(address);
    expect(admission.type === "trunk" ? admission.trunk.id : admission.type).toBe(expected);
  });

  test("the engine lets in sources and literal gateways, nothing else", () => {
    expect(trunks.allowedSources()).toEqual(["10.0.0.0/8", "2001:db8::/32", "10.0.0.1", "10.1.0.0/16", "192.0.2.9"]);
    expect(trunks.isGateway("192.0.2.9")).toBe(true);
    expect(trunks.isGateway("192.0.2.10")).toBe(false);
  });

  test("a trunk known by credentials alone opens the door to everybody and challenges him", () => {
    const open = table(`
trunks:
  - { id: a, sources: [10.0.0.0/8], inbound: { username: x, passwordEnv: X } }
  - { id: b, inbound: { username: u, passwordEnv: P, realm: r } }
  - { id: c, inbound: { username: v, passwordEnv: P, realm: r } }`);
    expect(open.allowedSources()).toBe("any");
    expect(open.admit("10.0.0.1")).toMatchObject({ type: "trunk", trunk: { id: "a", inbound: { username: "x" } } });
    expect(open.admit("203.0.113.5")).toMatchObject({
      type: "challenge",
      realm: "r",
      trunks: [{ id: "b" }, { id: "c" }],
    });
  });
});

describe("which channel answers", () => {
  const trunks = table(two);

  test.each([
    [a, "100", "bot-a"],
    [a, "+100", "bot-a"],
    [a, "1000", undefined],
    [a, "7412", "bot-a"],
    [a, "+74951", "bot-a"],
    [a, "demo", "bot-a"],
    [a, "Demo", undefined],
    [a, "", undefined],
    [b, "anything", "bot-b"],
    [b, "", "bot-b"],
    ["c" as TrunkId, "100", undefined],
  ])("trunk %s, called %s → %s", (trunk, called, botId) => {
    expect(trunks.channelFor(trunk, called)?.botId).toBe(botId);
  });

  test("an exact number wins over a prefix, a longer prefix over a shorter one, whatever their order", () => {
    const overlapping = table(`
trunks: [{ id: a, sources: [10.0.0.1], gateways: [{ host: h }] }]
channels:
  - { botId: all, trunk: a, numbers: ["*"] }
  - { botId: short, trunk: a, numbers: ["7*"] }
  - { botId: exact, trunk: a, numbers: ["74"] }
  - { botId: long, trunk: a, numbers: ["74*"] }`);
    expect(["1", "73", "74", "745"].map((called) => overlapping.channelFor(a, called)?.botId)).toEqual([
      "all",
      "short",
      "exact",
      "long",
    ]);
  });
});

describe("where a transfer goes", () => {
  const trunks = table(two);

  test("by default through the call's own trunk, all gateways in their order", () => {
    expect(trunks.routeFor("bot-a", null, false, Math.random)).toEqual({
      known: true,
      ownTrunk: "a",
      referFallback: true,
      route: {
        trunk: "a",
        gateways: ["ga", "a-2"],
        identity: "caller",
        sipUriVia: "direct",
        retryWithBotNumber: true,
        progressTimeoutMs: 10_000,
        keys: { byInfo: false, detectTones: false },
      },
    });
  });

  test("through the trunk of the channel that is named, with all its settings", () => {
    expect(trunks.routeFor("bot-a", "bot-b", false, Math.random)).toEqual({
      known: true,
      // A REFER goes to the caller's side, whatever trunk the INVITE takes.
      ownTrunk: "a",
      referFallback: true,
      route: {
        trunk: "b",
        gateways: ["b-1"],
        sipUriVia: "direct",
        identity: "bot",
        retryWithBotNumber: false,
        progressTimeoutMs: 700,
        keys: { byInfo: true, detectTones: true },
      },
    });
  });

  test("an unknown name means the own trunk, and says so", () => {
    expect(trunks.routeFor("bot-a", "nobody", false, Math.random)).toMatchObject({
      known: false,
      route: { trunk: "a" },
    });
  });

  test("a caller who withheld his number is anonymous and is not tried again with another", () => {
    expect(trunks.routeFor("bot-a", null, true, Math.random)?.route).toMatchObject({
      identity: "anonymous",
      sipUriVia: "direct",
      retryWithBotNumber: false,
    });
  });

  test.each([
    ["sources: [192.0.2.1]", "caller"],
    ["outbound: { username: u, passwordEnv: P }", "bot"],
    ['register: true, number: "7495"', "bot"],
    ["sources: [192.0.2.1], supportsForeignCallerId: false", "bot"],
  ])("a trunk with %s shows the operator: %s", (fields, identity) => {
    const yaml = `trunks: [{ id: a, gateways: [{ host: 192.0.2.9 }], ${fields} }]\nchannels: [{ botId: x, trunk: a }]`;
    expect(table(yaml).routeFor("x", null, false, Math.random)?.route).toMatchObject({ identity });
  });

  test("gateways are found by id", () => {
    expect(trunks.gateway("ga" as GatewayId)).toEqual({
      id: "ga",
      trunk: "a",
      host: "10.0.0.1",
      port: undefined,
      transport: "udp",
      priority: 0,
      weight: 1,
    });
    expect(trunks.gateway("a-2" as GatewayId)).toMatchObject({ host: "gw.example", port: 5070, transport: "tcp" });
    expect(trunks.gateway("x" as GatewayId)).toBeUndefined();
  });

  test.each([
    ["ok.example", true],
    ["OK.EXAMPLE.", true],
    ["no.example", false],
    ["a.ops.example", true],
    ["a.b.ops.example", true],
    ["ops.example", false],
    [".ops.example", false],
    ["evilops.example", false],
    ["[2001:db8::1]", true],
    ["", false],
  ])("host %s is allowed: %s", (host, expected) => {
    expect(trunks.hostRefusal("bot-a", host, null) === null).toBe(expected);
  });

  test("another bot's hosts are not ours, and no list allows nothing", () => {
    expect(trunks.hostRefusal("bot-b", "ok.example", null)).not.toBeNull();
    expect(trunks.hostRefusal("nobody", "ok.example", null)).not.toBeNull();
  });

  test("the bot's number is its own on its trunk, the trunk's elsewhere, else the called one", () => {
    expect(trunks.botNumber("bot-a", a, "100")).toBe("+4401");
    expect(trunks.botNumber("bot-a", b, "100")).toBe("+7495");
    expect(trunks.botNumber("bot-b", a, "200")).toBe("200");
    expect(trunks.botNumber("bot-b", b, "200")).toBe("+7495");
  });
});

describe("number rules", () => {
  const rules = (over: Partial<NumberRules>): NumberRules => ({ strip: "", prepend: "", plus: "keep", ...over });

  test.each<[NumberRules, string, string]>([
    [rules({}), "79123456789", "79123456789"],
    [rules({}), "+79123456789", "+79123456789"],
    [rules({ plus: "add" }), "79123456789", "+79123456789"],
    [rules({ plus: "remove" }), "+79123456789", "79123456789"],
    [rules({ strip: "8", prepend: "7", plus: "add" }), "84951234567", "+74951234567"],
    [rules({ strip: "8", prepend: "7", plus: "add" }), "4951234567", "+74951234567"],
    [rules({ prepend: "9" }), "2222", "92222"],
    [rules({ prepend: "9" }), "+2222", "+92222"],
    [rules({ plus: "add" }), "*72#", "*72#"],
    [rules({ plus: "keep", prepend: "*" }), "+1", "*1"],
    [rules({ strip: "00", plus: "add" }), "0049123", "+49123"],
    [rules({ strip: "2222" }), "2222", ""],
  ])("%j dials %s as %s", (rule, digits, dialled) => {
    expect(dialledNumber(rule, digits)).toBe(dialled);
  });
});
