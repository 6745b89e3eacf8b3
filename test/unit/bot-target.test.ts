import { describe, expect, test } from "vitest";
import { phoneTarget, uriTarget } from "../../src/bot/target.ts";
import type { SipDestinations } from "../../src/bot/target.ts";

const any: SipDestinations = { allowsSipHost: () => true, tls: false };
const listed: SipDestinations = {
  allowsSipHost: (host) =>
    [
      "123.org",
      "ok.example",
      "trunk",
      "sip.voximplant.com",
      "[2001:db8::1]",
      "xn--exmple-cua.org",
      "10.0.0.5",
    ].includes(host),
  tls: false,
};

describe("phoneNumber", () => {
  test.each([
    ["+441234567890", "+441234567890"],
    ["00441234567890", "00441234567890"],
    ["8 (495) 123-45-67", "84951234567"],
    ["2222", "2222"],
    ["*72#", "*72#"],
    ["7.916.555.44.33", "79165554433"],
    ["+7 (916) 555-44-33", "+79165554433"],
    ["1", "1"],
    ["9".repeat(32), "9".repeat(32)],
  ])("%j is dialled as %s", (text, digits) => {
    expect(phoneTarget(text)).toEqual({ ok: true, target: { kind: "phone", digits } });
  });

  test.each([
    "",
    "+",
    "++44",
    "4+4",
    "9".repeat(33),
    "1-800-FLOWERS",
    "١٢٣٤",
    "１２３",
    "123,456",
    "123;456",
    "123p4",
    "123w4",
    "sip:123",
    "123@x",
    "12\t3",
    "12\r\n3",
    "12\u00003",
    "12\u202e3",
    "12\u200b3",
    "12\u00a03",
    "12\ud8003",
    "1".repeat(10_000),
    " ".repeat(10_000),
    "()",
    "%31",
    "-",
  ])("%j is refused", (text) => {
    expect(phoneTarget(text).ok).toBe(false);
  });
});

describe("sipUri: accepted and rebuilt", () => {
  test.each([
    ["123@123.org", "sip:123@123.org"],
    ["79123456789@sip.voximplant.com", "sip:79123456789@sip.voximplant.com"],
    ["sip:ops@ok.example", "sip:ops@ok.example"],
    ["SIP:ops@OK.Example", "sip:ops@ok.example"],
    ["sip:+441234@trunk;user=phone", "sip:+441234@trunk;user=phone"],
    ["ops@[2001:0DB8:0::1]:5060", "sip:ops@[2001:db8::1]:5060"],
    ["ops@10.0.0.5:5080;transport=TCP", "sip:ops@10.0.0.5:5080;transport=tcp"],
    ["ops@exämple.org", "sip:ops@xn--exmple-cua.org"],
    ["ops@ok.example.", "sip:ops@ok.example"],
    ["o%70s@ok.example", "sip:ops@ok.example"],
    ["o%2fs@ok.example", "sip:o%2Fs@ok.example"],
    ["%D0%B8@ok.example", "sip:%D0%B8@ok.example"],
    ["a;b=c&d@ok.example;X=Y", "sip:a;b=c&d@ok.example;x=Y"],
    ["*72@ok.example;ob", "sip:*72@ok.example;ob"],
    ["ops@ok.example:1", "sip:ops@ok.example:1"],
    ["ops@ok.example:65535", "sip:ops@ok.example:65535"],
  ])("%s → %s", (text, uri) => {
    expect(uriTarget(text, listed)).toEqual({ ok: true, target: { kind: "uri", uri } });
  });

  test("a host of 253 characters", () => {
    const host = `${"a".repeat(63)}.${"b".repeat(63)}.${"c".repeat(63)}.${"d".repeat(61)}`;
    expect(host).toHaveLength(253);
    expect(uriTarget(`x@${host}`, any).ok).toBe(true);
    expect(uriTarget(`x@${host}d`, any).ok).toBe(false);
  });
});

describe("sipUri: refused by the text alone", () => {
  test.each([
    "",
    "ok.example",
    "@ok.example",
    "sip:@ok.example",
    "sip:ok.example",
    "x@",
    "x@2130706433",
    "x@0x7f.1",
    "x@127.1",
    "x@0x7f000001",
    "x@1.2.3.4.5",
    "x@256.1.1.1",
    "x@01.2.3.4",
    "x@１２７.0.0.1",
    "x@[::1%eth0]",
    "x@::1",
    "x@[127.0.0.1]",
    "x@[::1",
    "x@a_b.example",
    "x@-a.example",
    "x@a-.example",
    "x@a..example",
    "x@.example",
    "x@foo/bar",
    "x@foo#bar",
    "x@foo%41",
    "x@ok.example?Replaces=1",
    "x?Replaces=1@ok.example",
    "x@ok.example;method=REGISTER",
    "x@ok.example;METHOD=BYE",
    "x@ok.example;m%61ddr=10.0.0.1",
    "x@ok.example;maddr=10.0.0.1",
    "x@ok.example;ttl=1",
    "x@ok.example;lr",
    "x@ok.example;transport=sctp",
    "x@ok.example;transport=%73ctp",
    "x@ok.example;transport=tls",
    "x@ok.example;transport",
    "x@ok.example;user=phone;user=ip",
    "x@ok.example;",
    "x@ok.example;=a",
    `x@ok.example${";a=1".repeat(9)}`,
    "u:pass@ok.example",
    "sip:u:pass@ok.example",
    "sip:sip:u@ok.example",
    "sips:x@ok.example",
    "tel:+441234",
    "tel:+441234@ok.example",
    "http://x@ok.example",
    "http:x@ok.example",
    "javascript:alert(1)",
    "mailto:x@ok.example",
    "x@y@ok.example",
    "x@ok.example\r\nX-Evil: 1",
    "x\r\n@ok.example",
    "x y@ok.example",
    "x@ok. example",
    " x@ok.example",
    "x@ok.example ",
    'x"y@ok.example',
    "<x@ok.example>",
    "<sip:x@ok.example>",
    "x@ok.example>",
    "x\t@ok.example",
    "x\u0000@ok.example",
    "x%00@ok.example",
    "x%0d%0aX-Evil:1@ok.example",
    "x%0D%0AX@ok.example",
    "x%7f@ok.example",
    "x%c2%85@ok.example",
    "x%e2%80%a8@ok.example",
    "x%e2%80%ae@ok.example",
    "x%2@ok.example",
    "x%zz@ok.example",
    "x%ff@ok.example",
    "x@ok.example;a=%0d%0a",
    "x@ok.example;a=%00",
    "имя@ok.example",
    "x\u202e@ok.example",
    "x\u200b@ok.example",
    "x\ud800@ok.example",
    "x@ok.example\u2028",
    "x@ok.example\u00a0",
    "x@ok.example:0",
    "x@ok.example:65536",
    "x@ok.example:99999999",
    "x@ok.example:",
    "x@ok.example:5060:5061",
    "x@ok.example:+5060",
    `${"u".repeat(129)}@ok.example`,
    `x@${"a".repeat(64)}.example`,
    `${"x".repeat(600)}@ok.example`,
    "x".repeat(10_000),
    "x\\y@ok.example",
  ])("%j", (text) => {
    expect(uriTarget(text, any).ok).toBe(false);
  });
});

describe("sipUri: the destination policy is asked for the canonical host", () => {
  test.each([
    ["sip:x@127.0.0.1:22;transport=tcp", "127.0.0.1", 22],
    ["x@[::1]", "[::1]", null],
    ["x@[::ffff:127.0.0.1]", "[::ffff:7f00:1]", null],
    ["x@0.0.0.0", "0.0.0.0", null],
    ["x@localhost", "localhost", null],
    ["x@LOCALHOST.", "localhost", null],
    ["x@169.254.169.254", "169.254.169.254", null],
    ["x@evil.example:5060", "evil.example", 5060],
  ])("%s", (text, host, port) => {
    const asked: unknown[] = [];
    const outcome = uriTarget(text, {
      tls: false,
      allowsSipHost: (...place) => {
        asked.push(place);
        return false;
      },
    });
    expect(outcome).toMatchObject({ ok: false, message: expect.stringContaining("destination policy") });
    expect(asked).toEqual([[host, port]]);
  });

  test("with a TLS trunk sips: and transport=tls are taken", () => {
    const tls = { allowsSipHost: () => true, tls: true };
    expect(uriTarget("sips:x@ok.example", tls)).toMatchObject({ target: { uri: "sips:x@ok.example" } });
    expect(uriTarget("x@ok.example;transport=tls", tls).ok).toBe(true);
  });
});
