import { describe, expect, it } from "vitest";

import {
  formatHostPort,
  formatNameAddr,
  formatUri,
  isHost,
  isToken,
  isUri,
  param,
  parseContacts,
  parseCSeq,
  parseDecimal,
  parseNameAddr,
  parseNameAddrs,
  parseParams,
  parseUri,
  parseVia,
  parseVias,
  quote,
  splitList,
  uriScheme,
  withoutParam,
  withParam,
} from "../../src/engine/sip/grammar.ts";

describe("parseUri", () => {
  it("takes a URI apart", () => {
    expect(parseUri("SIPS:alice:secret@Example.COM:5061;transport=TCP;lr?Subject=a%20b")).toEqual({
      scheme: "sips",
      user: "alice",
      password: "secret",
      host: "Example.COM",
      port: 5_061,
      params: [{ name: "transport", value: "TCP" }, { name: "lr" }],
      headers: "Subject=a%20b",
    });
    expect(parseUri("sip:[2001:db8::1]:5070")).toMatchObject({ host: "2001:db8::1", port: 5_070 });
    expect(parseUri("sip:+44(0)20%2F1;ext=2@gw.example.net;user=phone")?.user).toBe("+44(0)20%2F1;ext=2");
  });

  it("writes it back", () => {
    for (const text of ["sip:a:b@h:1;x=y;z?q=1", "sips:[::1]", "sip:h", "sip:a@h;lr", "sip:a:@h"]) {
      const uri = parseUri(text);
      expect(uri && formatUri(uri)).toBe(text);
    }
  });

  const refused = [
    "",
    "sip",
    "sip:",
    "sip:@",
    "sip:a@",
    "sip:@h",
    "sip:a@b@c",
    "tel:+44",
    "<sip:a@h>",
    "sip:a@h ",
    " sip:a@h",
    "sip:a b@h",
    "sip:a@h:",
    "sip:a@h:0",
    "sip:a@h:65536",
    "sip:a@h:5x",
    "sip:a@h:-1",
    "sip:a@h;",
    "sip:a@h;;lr",
    "sip:a@h;x=",
    "sip:a@h;lr;LR",
    "sip:a@h?",
    "sip:a@h?a b",
    "sip:a%4@h",
    "sip:a%zz@h",
    "sip:a@h;x=%4",
    "sip:a\r\nb@h",
    "sip:a\0@h",
    "sip:ä@h",
    "sip:a@ä.de",
    "sip:a@-h",
    "sip:a@h-",
    "sip:a@h..i",
    "sip:a@.h",
    "sip:a@2130706433",
    "sip:a@127.1",
    "sip:a@0x7f.1",
    "sip:a@1.2.3.256",
    "sip:a@1.2.3.4.5",
    "sip:a@2001:db8::1",
    "sip:a@[2001:db8::1",
    "sip:a@[1.2.3.4]",
    "sip:a@[::1%25eth0]",
    "sip:a@[:::1]",
    "sip:a@[]",
    `sip:a@${"a".repeat(64)}`,
    `sip:a@${"a.".repeat(130)}b`,
    'sip:"a"@h',
    "sip:a<b@h",
    "sip:a@h>",
  ];
  for (const text of refused) {
    it(`refuses ${JSON.stringify(text.slice(0, 40))}`, () => {
      expect(parseUri(text)).toBeUndefined();
    });
  }
});

describe("hosts, tokens, numbers", () => {
  it("are what RFC 3261 §25.1 says", () => {
    for (const host of ["h", "a-b.c1", "example.com.", "192.0.2.1", "[::1]", "[::ffff:192.0.2.1]", "my_host", "1a.b"]) {
      expect(isHost(host)).toBe(true);
    }
    expect(["a b", "a/b", "", "::1", "1.2.3"].map(isHost)).toEqual([false, false, false, false, false]);
    expect(isToken("!RE%47IST%45R.-_*+`'~")).toBe(true);
    expect(["", "a b", "a:b", "ü", "a\0"].map(isToken)).toEqual([false, false, false, false, false]);
    expect(parseDecimal("0068", 255)).toBe(68);
    expect(["", "-1", "+1", "1.0", "1e1", "٣", "256"].map((text) => parseDecimal(text, 255))).toEqual(
      Array(7).fill(undefined),
    );
    expect(formatHostPort("::1", 5_060)).toBe("[::1]:5060");
    expect(formatHostPort("h")).toBe("h");
  });

  it("URIs of other schemes are visible ASCII after a scheme", () => {
    expect(uriScheme("Soap.Beep://192.0.2.103:3002")).toBe("soap.beep");
    expect(["tel:+44", "isbn:2983792873", "http://a/b?c#d"].map(isUri)).toEqual([true, true, true]);
    expect(["tel:", "1tel:+44", "no scheme", "tel:+44 1", "x:<y>", 'x:"', "sip:", ":x"].map(isUri)).toEqual(
      Array(8).fill(false),
    );
  });
});

describe("parseNameAddr", () => {
  it("reads the forms of RFC 3261 §20.10", () => {
    expect(parseNameAddr('"A. G. \\"Bell\\"" <sip:agb@bell.example>;tag=a48s;x')).toMatchObject({
      display: 'A. G. "Bell"',
      uri: "sip:agb@bell.example",
      tag: "a48s",
      params: [{ name: "tag", value: "a48s" }, { name: "x" }],
    });
    expect(parseNameAddr("sip:+12125551212@server.example;tag=887s")).toMatchObject({
      uri: "sip:+12125551212@server.example",
      sip: { params: [] },
      tag: "887s",
    });
    expect(parseNameAddr("Anonymous One <sip:c8oqz84zk7z@privacy.example;lr>;tag=hyh8")).toMatchObject({
      display: "Anonymous One",
      sip: { params: [{ name: "lr" }] },
    });
    expect(parseNameAddr("caller<sip:a@h>")?.display).toBe("caller");
    expect(parseNameAddr("<tel:+44>")).toEqual({ uri: "tel:+44", params: [] });
    expect(parseNameAddr('"" <sip:a@h>')).not.toHaveProperty("display");
    expect(parseNameAddr('"a;b,c<d>" <sip:a@h>;q=0.5')?.display).toBe("a;b,c<d>");
  });

  const refused = [
    "",
    "<>",
    "<sip:a@h",
    "sip:a@h>",
    '"open <sip:a@h>',
    "Bell, Alexander <sip:a@h>",
    "Иван <sip:a@h>",
    '"a" sip:a@h',
    "< sip:a@h >",
    "<sip:a@h> x",
    "<sip:a@h>;",
    "<sip:a@h>;;x",
    "<sip:a@h>;x=",
    "<sip:a@h>;x=y z",
    "<sip:a@h>;tag",
    "<sip:a@h>;tag=",
    '<sip:a@h>;tag="a"',
    "<sip:a@h>;x;X",
    "sip:a@h?Route=x",
    "sip:a@h,b",
    "<sip:@h>",
    "<sip:a@>",
    '"a"b <sip:a@h>',
    "<sip:a@h><sip:b@h>",
  ];
  for (const text of refused) {
    it(`refuses ${text}`, () => {
      expect(parseNameAddr(text)).toBeUndefined();
    });
  }

  it("is written with quotes and brackets", () => {
    expect(
      formatNameAddr({ display: 'a "b" \\', uri: "sip:a@h", params: [{ name: "tag", value: "1" }, { name: "x" }] }),
    ).toBe('"a \\"b\\" \\\\" <sip:a@h>;tag=1;x');
    expect(quote("")).toBe('""');
  });

  it("lists: all or nothing, * only alone", () => {
    expect(parseNameAddrs('"a,b" <sip:a@h;x=1>, sip:c@h;q=1')).toHaveLength(2);
    expect(parseNameAddrs("<sip:a@h>, ")).toBeUndefined();
    expect(parseNameAddrs("<sip:a@h>, <sip:@>")).toBeUndefined();
    expect(parseContacts([" * "])).toEqual({ type: "star" });
    expect(parseContacts(["*", "<sip:a@h>"])).toBeUndefined();
    expect(parseContacts([])).toEqual({ type: "contacts", contacts: [] });
  });
});

describe("Via, CSeq, parameters, lists", () => {
  it("reads a Via with blanks wherever RFC 3261 §25.1 allows them", () => {
    expect(
      parseVia("SIP / 2.0 / udp first.example.com: 4000;ttl=16 ;maddr=224.2.0.1 ;branch=z9hG4bKa7c6a8dlze.1"),
    ).toMatchObject({
      transport: "UDP",
      host: "first.example.com",
      port: 4_000,
      branch: "z9hG4bKa7c6a8dlze.1",
    });
    expect(parseVia("SIP/2.0/UDP [2001:db8::9:1]:6050;received=2001:db8::9:255")?.params).toEqual([
      { name: "received", value: "2001:db8::9:255" },
    ]);
    expect(parseVias('SIP/2.0/UDP a;branch=1, SIP/2.0/TCP b;x="c,d"')).toHaveLength(2);
  });

  it("refuses a Via that is none", () => {
    for (const text of [
      "",
      "SIP/2.0/UDP",
      "SIP/2.0/UDP ",
      "SIP/2.0/UDPhost",
      "SIP/3.0/UDP h",
      "HTTP/2.0/UDP h",
      "SIP/2.0 h",
      "SIP/2.0/UDP h;;",
      "SIP/2.0/UDP h:0",
      "SIP/2.0/UDP h i",
      "SIP/2.0/UDP 2001:db8::1",
      "SIP/2.0/UDP h;branch=a;branch=b",
    ]) {
      expect(parseVia(text)).toBeUndefined();
    }
    expect(parseVias("SIP/2.0/UDP a,")).toBeUndefined();
  });

  it("reads a CSeq below 2^31", () => {
    expect(parseCSeq("0009 INVITE")).toEqual({ number: 9, method: "INVITE" });
    expect(parseCSeq("2147483647\t BYE")).toEqual({ number: 2_147_483_647, method: "BYE" });
    for (const text of [
      "",
      "1",
      "INVITE",
      "INVITE 1",
      "-1 BYE",
      "2147483648 BYE",
      "1 B YE",
      "1 ",
      "1.0 BYE",
      " 1 BYE",
    ]) {
      expect(parseCSeq(text)).toBeUndefined();
    }
  });

  it("finds, replaces and removes parameters without regard to case", () => {
    const params = parseParams(' ; Rport ; branch = "a;b" ;x=1') ?? [];
    expect(param(params, "rPORT")).toBe("");
    expect(param(params, "branch")).toBe('"a;b"');
    expect(param(params, "none")).toBeUndefined();
    expect(withParam(params, "rport", "5060")[0]).toEqual({ name: "rport", value: "5060" });
    expect(withParam(params, "new")).toHaveLength(4);
    expect(withoutParam(params, "X")).toHaveLength(2);
    expect(parseParams("")).toEqual([]);
    expect(parseParams("x")).toBeUndefined();
  });

  it("splits lists at commas outside quotes and brackets", () => {
    expect(splitList('a , "b,\\",c" , <d,e>')).toEqual(["a", '"b,\\",c"', "<d,e>"]);
    for (const text of ["", "a,", ",a", "a,,b", '"a', "<a", ", "]) {
      expect(splitList(text)).toBeUndefined();
    }
  });
});
