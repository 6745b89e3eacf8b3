import { describe, expect, test } from "vitest";

import { chooseIdentity, escapeUser, identityHeaders } from "../../src/call/identity.ts";
import type { CallerIdPolicy, IdentityInput } from "../../src/call/identity.ts";
import type { ShownIdentity } from "../../src/call/transfer.ts";

describe("whom the operator sees: trunk × provider × privacy of the caller", () => {
  const fixed = { fixed: "+74950000000" };
  test.each<[CallerIdPolicy["callerId"], boolean, boolean, ShownIdentity, ShownIdentity]>([
    // callerId, credentials, foreign numbers supported → open caller, withheld caller
    ["auto", false, true, "caller", "anonymous"],
    ["auto", true, true, "bot", "bot"],
    ["auto", false, false, "bot", "bot"],
    ["auto", true, false, "bot", "bot"],
    ["caller", false, true, "caller", "anonymous"],
    ["caller", true, true, "caller", "anonymous"],
    ["caller", true, false, "caller", "anonymous"],
    ["bot", false, true, "bot", "bot"],
    ["bot", true, true, "bot", "bot"],
    [fixed, false, true, "fixed", "fixed"],
    [fixed, true, false, "fixed", "fixed"],
  ])("%j, credentials %s, foreign %s → %s, withheld → %s", (callerId, hasCredentials, foreign, open, withheld) => {
    const policy = { callerId, hasCredentials, supportsForeignCallerId: foreign };
    expect(chooseIdentity(policy, false)).toBe(open);
    expect(chooseIdentity(policy, true)).toBe(withheld);
  });
});

function input(over: Partial<IdentityInput>): IdentityInput {
  return {
    identity: "caller",
    caller: { number: "+79991112233", display: "Ivan", withheld: false },
    botNumber: "+74951234567",
    fixedNumber: null,
    assertedIdentity: false,
    diversion: false,
    host: "sip.example.net",
    custom: [],
    identityHeaders: "allow",
    ...over,
  };
}

function lines(over: Partial<IdentityInput>): string[] {
  const { from, headers } = identityHeaders(input(over));
  const display = from.display === null ? "" : `"${from.display}" `;
  return [
    `From: ${display}<sip:${from.user}@${from.host ?? "localhost"}>`,
    ...headers.map(({ name, value }) => `${name}: ${value}`),
  ];
}

describe("what that means on the wire", () => {
  test.each<[string, Partial<IdentityInput>, string[]]>([
    ["caller", { identity: "caller" }, ['From: "Ivan" <sip:+79991112233@localhost>']],
    [
      "caller, asserted",
      { identity: "caller", assertedIdentity: true },
      ['From: "Ivan" <sip:+79991112233@localhost>', "P-Asserted-Identity: <sip:+79991112233@sip.example.net>"],
    ],
    [
      "caller, diverted",
      { identity: "caller", diversion: true },
      [
        'From: "Ivan" <sip:+79991112233@localhost>',
        "Diversion: <sip:+74951234567@sip.example.net>;reason=unconditional",
      ],
    ],
    [
      "bot, both",
      { identity: "bot", assertedIdentity: true, diversion: true },
      [
        "From: <sip:+74951234567@localhost>",
        "P-Asserted-Identity: <sip:+74951234567@sip.example.net>",
        "Diversion: <sip:+74951234567@sip.example.net>;reason=unconditional",
      ],
    ],
    ["fixed", { identity: "fixed", fixedNumber: "100" }, ["From: <sip:100@localhost>"]],
    ["anonymous", { identity: "anonymous" }, ['From: "Anonymous" <sip:anonymous@anonymous.invalid>', "Privacy: id"]],
    [
      "anonymous, asserted: the bot's number stands for the withheld one",
      { identity: "anonymous", assertedIdentity: true },
      [
        'From: "Anonymous" <sip:anonymous@anonymous.invalid>',
        "P-Asserted-Identity: <sip:+74951234567@sip.example.net>",
        "Privacy: id",
      ],
    ],
  ])("%s", (_name, over, expected) => {
    expect(lines(over)).toEqual(expected);
  });

  test("a withheld number never leaves us, whatever was chosen", () => {
    for (const identity of ["caller", "bot", "fixed", "anonymous"] as const) {
      const shown = lines({
        identity,
        caller: { number: "+79991112233", display: "Ivan", withheld: true },
        assertedIdentity: true,
        diversion: true,
        fixedNumber: "1",
      }).join("\n");
      expect(shown).not.toContain("79991112233");
      expect(shown).not.toContain("Ivan");
    }
  });

  test("a caller without a number is anonymous", () => {
    expect(lines({ caller: { number: "", display: null, withheld: false } })[0]).toContain("anonymous.invalid");
  });

  test("identity headers of the bot replace ours of the same name, byte for byte", () => {
    const custom = [
      { name: "p-asserted-identity", value: '"7701" <sip:7701@92.46.54.211>' },
      { name: "Privacy", value: "none" },
      { name: "testheader", value: "header" },
    ];
    expect(lines({ identity: "anonymous", assertedIdentity: true, diversion: true, custom })).toEqual([
      'From: "Anonymous" <sip:anonymous@anonymous.invalid>',
      "Diversion: <sip:+74951234567@sip.example.net>;reason=unconditional",
      'p-asserted-identity: "7701" <sip:7701@92.46.54.211>',
      "Privacy: none",
      "testheader: header",
    ]);
  });

  test("a trunk that drops identity headers keeps its own and the bot's other headers", () => {
    const custom = [
      "P-Asserted-Identity",
      "P-Preferred-Identity",
      "Remote-Party-ID",
      "DIVERSION",
      "History-Info",
      "privacy",
    ]
      .map((name) => ({ name, value: "x" }))
      .concat({ name: "testheader", value: "header" });
    expect(lines({ identity: "bot", assertedIdentity: true, custom, identityHeaders: "drop" })).toEqual([
      "From: <sip:+74951234567@localhost>",
      "P-Asserted-Identity: <sip:+74951234567@sip.example.net>",
      "testheader: header",
    ]);
  });

  test("the input is left as it was", () => {
    const custom = [{ name: "Privacy", value: "none" }];
    identityHeaders(input({ custom, identityHeaders: "drop" }));
    expect(custom).toHaveLength(1);
  });
});

test("a user part is escaped as RFC 3261 wants it", () => {
  expect(escapeUser("+7(495)123-45-67")).toBe("+7(495)123-45-67");
  expect(escapeUser("*72#")).toBe("*72%23");
  expect(escapeUser("a b@c>\r\n")).toBe("a%20b%40c%3E%0D%0A");
  expect(escapeUser("é💬")).toBe("%C3%A9%F0%9F%92%AC");
});
