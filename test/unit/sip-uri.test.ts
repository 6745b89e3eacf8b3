import { describe, expect, test } from "vitest";

import { readKeyPress } from "../../src/sip/in-dialog.ts";
import { readHeaders } from "../../src/sip/message.ts";
import { formatReason, parseReason } from "../../src/sip/reason.ts";
import { growth, linear } from "../support/growth.ts";
import {
  formatNameAddr,
  formatSipUri,
  parseNameAddr,
  parseSipUri,
  splitOutsideQuotes,
  userOf,
} from "../../src/sip/uri.ts";

function again(text: string): string | undefined {
  const uri = parseSipUri(text);
  return uri === undefined ? undefined : formatSipUri(uri);
}

describe("SIP URIs", () => {
  test.each([
    ["sip:100@127.0.0.1", "sip:100@127.0.0.1"],
    ["SIP:Ann@Host.Example:5070;Transport=TCP;lr", "sip:Ann@host.example:5070;transport=TCP;lr"],
    ["sips:a@h", "sips:a@h"],
    ["sip:h", "sip:h"],
    ["sip:+4420;phone-context=x@h", "sip:+4420;phone-context=x@h"],
    ["sip:user;par=u%40example.net@h", "sip:user;par=u%40example.net@h"],
    ["sip:%61b%23@h", "sip:ab%23@h"],
    ["sip:u:password@h", "sip:u@h"],
    ["sip:a@[2001:DB8::1]:5060", "sip:a@[2001:db8::1]:5060"],
    ["sip:a@192.0.2.1.", "sip:a@192.0.2.1."],
  ])("%s is written again as %s", (text, expected) => {
    expect(again(text)).toBe(expected);
  });

  test.each([
    "",
    "sip:",
    "tel:+44",
    "http://h",
    "sip:a@",
    "sip:a@h:0",
    "sip:a@h:65536",
    "sip:a@h:x",
    "sip:a@h?Replaces=1",
    "sip:a@h;x=1?y=2",
    "sip:a b@h",
    "sip:a@h\r\nX: 1",
    "sip:a%0d%0a@h",
    "sip:a%zz@h",
    "sip:<a@h>",
    'sip:"a"@h',
    "sip:a@-h",
    "sip:a@[::1",
    `sip:${"a".repeat(5000)}@h`,
  ])("%j is none", (text) => {
    expect(parseSipUri(text)).toBeUndefined();
  });

  test.each([
    ["sip:100@h", "100"],
    ["sip:+4420;phone-context=x@h;user=phone", "+4420"],
    ["sip:%2B44@h", "+44"],
    ["sip:h", ""],
    ["tel:+44-20-(7)123.4;ext=5", "+442071234"],
    ["tel:x", ""],
    ["mailto:a@b", ""],
  ])("who is called by %s: %s", (uri, user) => {
    expect(userOf(uri)).toBe(user);
  });
});

describe("name-addr", () => {
  test.each<[string, string | null, string, Record<string, string | null>]>([
    ['"Ann \\"A\\" <x>" <sip:a@b;p=1>;tag=7;lr', 'Ann "A" <x>', "sip:a@b;p=1", { tag: "7", lr: null }],
    ["Ann Lee <sip:a@b>", "Ann Lee", "sip:a@b", {}],
    ["<sip:a@b>", null, "sip:a@b", {}],
    ["sip:a@b;tag=7", null, "sip:a@b", { tag: "7" }],
    ["Иван <sip:a@b> ; Tag = 7", "Иван", "sip:a@b", { tag: "7" }],
    ['<tel:+44;phone-context=x>;q=";"', null, "tel:+44;phone-context=x", { q: '";"' }],
  ])("%s", (text, display, uri, params) => {
    const parsed = parseNameAddr(text);
    expect(parsed).toMatchObject({ display, uri });
    expect(Object.fromEntries(parsed?.params ?? [])).toEqual(params);
  });

  test.each(["", '"Ann', "<sip:a@b", '"Ann" sip:a@b', `<${"x".repeat(5000)}>`])("%j is none", (text) => {
    expect(parseNameAddr(text)).toBeUndefined();
  });

  test("a name can neither end its quotes nor the line", () => {
    expect(formatNameAddr('a"b\\\r\nX: 1\u2028', "sip:x@y")).toBe(String.raw`"a\"b\\  X: 1 " <sip:x@y>`);
    expect(formatNameAddr(null, "sip:x@y")).toBe("<sip:x@y>");
    expect(formatNameAddr("", "sip:x@y")).toBe("<sip:x@y>");
  });

  test("lists are split outside of quotes and angle brackets, in linear time", () => {
    expect(splitOutsideQuotes('"a,b" <sip:x,y@z>;p=",", c,', ",")).toEqual(['"a,b" <sip:x,y@z>;p=","', " c", ""]);
    for (const part of ['"', "<", ",", "\\"]) {
      const reading = (size: number) => {
        const text = `"${part.repeat(size)}`;
        return (): void => {
          splitOutsideQuotes(text, ",");
        };
      };
      expect(growth(reading, 50_000)).toBeLessThan(linear);
    }
  });
});

describe("Reason", () => {
  test.each<[string[], number | null, number | null, string | null]>([
    [['Q.850;cause=16;text="Normal call clearing"'], 16, null, "Normal call clearing"],
    [['SIP ;cause=200 ;text="Call completed elsewhere"'], null, 200, "Call completed elsewhere"],
    [["SIP;cause=600, Q.850;cause=21"], 21, 600, null],
    [["q.850;Cause=17", "SIP;cause=486"], 17, 486, null],
    [["Q.850;cause=16", "Q.850;cause=17"], 16, null, null],
    [["Q.850;cause=999"], null, null, null],
    [["Q.850;cause=x;text=plain"], null, null, "plain"],
    [["preemption;cause=1"], null, null, null],
    [['Q.850;text="a;cause=3,";cause=18'], 18, null, "a;cause=3,"],
    [[], null, null, null],
  ])("%j", (lines, q850, sip, text) => {
    expect(parseReason(lines)).toEqual({ q850, sip, text });
  });

  test("ours can hold no line end and no quote", () => {
    expect(formatReason("SIP", 487, 'a"b\r\nX: 1\\')).toBe(`SIP;cause=487;text="a'b  X: 1'"`);
  });
});

describe("header lines", () => {
  const message = readHeaders(
    [
      "INVITE sip:a@b SIP/2.0",
      "Via: 1",
      "v: 2",
      "SUBJECT: folded",
      "\tline",
      "no colon here",
      "X-Long : spaced ",
      "constructor: c",
      "",
      "Body: none",
    ].join("\r\n"),
  );

  test("compare without case, know compact names, keep their order and end with the headers", () => {
    expect(message.headerLines("via")).toEqual(["1", "2"]);
    expect(message.header("V")).toBe("1");
    expect(message.header("s")).toBe("folded\tline");
    expect(message.header("x-long")).toBe("spaced");
    expect(message.header("constructor")).toBe("c");
    expect(message.header("toString")).toBeUndefined();
    expect(message.header("body")).toBeUndefined();
    expect(readHeaders("").headerLines("via")).toEqual([]);
  });
});

describe("key presses in INFO", () => {
  test.each<[string, string, { digit: string; durationMs: number } | undefined]>([
    ["application/dtmf-relay", "Signal=5\r\nDuration=160\r\n", { digit: "5", durationMs: 160 }],
    ["application/dtmf-relay", "Signal= * \r\nDuration= 40 ", { digit: "*", durationMs: 40 }],
    ["application/dtmf-relay", "signal=d\n", { digit: "D", durationMs: 160 }],
    ["application/dtmf-relay", "Signal=11\r\n", { digit: "#", durationMs: 160 }],
    ["application/dtmf-relay", "Signal=16\r\n", undefined],
    ["application/dtmf-relay", "Signal=5\r\nDuration=99999", { digit: "5", durationMs: 10_000 }],
    ["application/dtmf-relay", "Duration=5", undefined],
    ["application/dtmf", "7", { digit: "7", durationMs: 160 }],
    ["application/dtmf", "77", undefined],
    ["application/dtmf", "", undefined],
  ])("%s %j", (type, body, expected) => {
    expect(readKeyPress(type, body)).toEqual(expected);
  });
});
