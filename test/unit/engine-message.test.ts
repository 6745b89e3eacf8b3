import { describe, expect, it } from "vitest";

import { markSource, reasonPhrase, responseTo, viaWithSource } from "../../src/engine/sip/answer.ts";
import { parseVia } from "../../src/engine/sip/grammar.ts";
import { Headers, type HeaderLine, SipRequest } from "../../src/engine/sip/message.ts";
import { defaultMessageLimits, parseMessage, type ParseOutcome } from "../../src/engine/sip/parse.ts";

const mandatory: readonly string[] = [
  "Via: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKx",
  "From: <sip:a@example.com>;tag=1",
  "To: <sip:b@example.com>",
  "Call-ID: c@example.com",
  "CSeq: 1 METHOD",
];

/** A request whose mandatory lines are replaced by the given ones of the same name, and the others added. */
function request(method: string, lines: readonly string[] = [], body = ""): Buffer {
  const name = (line: string): string => line.slice(0, line.indexOf(":")).trim().toLowerCase();
  const replaced = new Set(lines.map(name));
  const kept = mandatory.filter((line) => !replaced.has(name(line))).map((line) => line.replace("METHOD", method));
  return Buffer.from(`${method} sip:b@example.com SIP/2.0\r\n${[...kept, ...lines].join("\r\n")}\r\n\r\n${body}`);
}

function parse(bytes: Buffer, transport: "datagram" | "stream" = "datagram"): ParseOutcome {
  return parseMessage(bytes, defaultMessageLimits, transport);
}

function status(bytes: Buffer): number | "accepted" | "dropped" {
  const outcome = parse(bytes);
  return outcome.ok ? "accepted" : (outcome.answerable?.status ?? "dropped");
}

function headersOf(bytes: Buffer): Headers {
  const outcome = parse(bytes);
  if (!outcome.ok) {
    throw new Error(outcome.reason);
  }
  return outcome.message.headers;
}

describe("Headers", () => {
  it("keep the order of lines and compare names without case, compact forms expanded", () => {
    const headers = new Headers([
      { name: "v", value: "one" },
      { name: "VIA", value: "two, three" },
      { name: "Subject", value: "a, b" },
      { name: "s", value: "c" },
    ]);
    expect(headers.get("Via")).toBe("one");
    expect(headers.all("via")).toEqual(["one", "two, three"]);
    expect(headers.list("V")).toEqual(["one", "two", "three"]);
    expect(headers.list("subject")).toEqual(["a, b", "c"]);
    expect(headers.count("via")).toBe(2);
    expect(headers.lines.map(({ name }) => name)).toEqual(["Via", "VIA", "Subject", "Subject"]);
  });

  it("change in place", () => {
    const headers = new Headers([
      { name: "Aa", value: "1" },
      { name: "Via", value: "1" },
      { name: "Via", value: "2" },
      { name: "Bb", value: "1" },
    ]);
    headers.setFirst("via", "x");
    expect(headers.all("Via")).toEqual(["x", "2"]);
    headers.set("via", "y");
    expect(headers.lines.map(({ name, value }) => `${name}=${value}`)).toEqual(["Aa=1", "via=y", "Bb=1"]);
    headers.prepend("Route", "r");
    headers.add("Route", "s");
    headers.removeFirst("Route");
    const copy = headers.clone();
    copy.remove("Route");
    copy.set("New", "n");
    expect(headers.has("Route")).toBe(true);
    expect(headers.has("New")).toBe(false);
  });

  it("treat names that mean something to JavaScript like any other", () => {
    const names = ["__proto__", "constructor", "toString", "hasOwnProperty"];
    const headers = headersOf(
      request(
        "OPTIONS",
        names.map((name) => `${name}: x`),
      ),
    );
    expect(names.map((name) => headers.get(name))).toEqual(["x", "x", "x", "x"]);
    expect(headers.get("valueOf")).toBeUndefined();
  });
});

describe("reading", () => {
  it("unfolds lines, collapses runs of blanks outside quotes and trims values", () => {
    const headers = headersOf(
      request("OPTIONS", [
        "Subject \t:  a   b\t\tc \r\n\t d  ",
        'From: "two  blanks   inside"    <sip:a@example.com>  ;tag=1',
        "Xx:",
      ]),
    );
    expect(headers.get("Subject")).toBe("a b c d");
    expect(headers.get("From")).toBe('"two  blanks   inside" <sip:a@example.com> ;tag=1');
    expect(headers.get("Xx")).toBe("");
  });

  it("keeps UTF-8 as it is, and refuses what is not UTF-8 or an overlong form of it", () => {
    const name = '"Анна 👩🏽‍💻 \u202eאב"';
    expect(headersOf(request("OPTIONS", [`From: ${name} <sip:a@example.com>;tag=1`])).get("From")).toContain(name);
    const bytes = request("OPTIONS", ["Xx: abc"]);
    for (const bad of [
      [0xff, 0xfe, 0x41],
      [0xc0, 0xaf, 0x41],
      [0xed, 0xa0, 0x80],
    ]) {
      const broken = Buffer.from(bytes);
      broken.set(bad, bytes.indexOf("abc"));
      expect(status(broken)).toBe(400);
    }
  });

  it("ignores CRLF before the start line, and takes the rest of a datagram without Content-Length as the body", () => {
    const outcome = parse(Buffer.concat([Buffer.from("\r\n\r\n"), request("MESSAGE", [], "hello")]));
    expect(outcome.ok && outcome.message.body.toString()).toBe("hello");
  });

  it("wants a Content-Length on a stream", () => {
    expect(parse(request("OPTIONS"), "stream")).toMatchObject({ ok: false, answerable: { status: 400 } });
    expect(parse(request("OPTIONS", ["l: 0"]), "stream")).toMatchObject({ ok: true });
  });

  const refused: readonly (readonly [string, string, Buffer])[] = [
    ["NUL in a value", "Control Character In Header", request("OPTIONS", ["Xx: a\0b"])],
    ["CR alone", "Control Character In Header", request("OPTIONS", ["Xx: a\rEvil: b"])],
    ["LF alone", "Control Character In Header", request("OPTIONS", ["Xx: a\nEvil: b"])],
    ["LF line ends", "Header Section Has No End", Buffer.from(request("OPTIONS").toString().replaceAll("\r\n", "\n"))],
    ["CR line ends", "Header Section Has No End", Buffer.from(request("OPTIONS").toString().replaceAll("\r\n", "\r"))],
    ["a control character in a quoted string", "Control Character In Header", request("OPTIONS", ['Xx: "\u0007"'])],
    ["a quoted CR", "Control Character In Header", request("OPTIONS", ['Xx: "\\\r"'])],
    ["a line without a colon", "Malformed Header", request("OPTIONS", ["no colon"])],
    ["a blank in a header name", "Malformed Header", request("OPTIONS", ["X Y: 1"])],
    ["an empty header name", "Malformed Header", request("OPTIONS", [": 1"])],
    ["a folded start line", "Malformed Header", Buffer.from(request("OPTIONS").toString().replace("\r\n", "\r\n "))],
    ["no Via but a blank one", "Malformed Via", request("OPTIONS", ["Via: "])],
    ["two Call-IDs", "Repeated Call-ID", request("OPTIONS", ["Call-ID: a", "i: b"])],
    ["a Call-ID with a blank", "Malformed Call-ID", request("OPTIONS", ["Call-ID: a b"])],
    ["a Call-ID of 257 bytes", "Malformed Call-ID", request("OPTIONS", [`Call-ID: ${"a".repeat(257)}`])],
    ["a From tag of 257 bytes", "Malformed From", request("OPTIONS", [`From: <sip:a@b>;tag=${"a".repeat(257)}`])],
    ["a To tag of 257 bytes", "Malformed To", request("OPTIONS", [`To: <sip:a@b>;tag=${"a".repeat(257)}`])],
    ["an empty tag", "Malformed From", request("OPTIONS", ["From: <sip:a@b>;tag="])],
    ["a parameter given twice", "Malformed From", request("OPTIONS", ["From: <sip:a@b>;tag=1;TAG=2"])],
    ["a From without a host", "Malformed From", request("OPTIONS", ["From: <sip:a@>;tag=1"])],
    ["a To without a host", "Malformed To", request("OPTIONS", ["To: <sip:>"])],
    ["a Contact without a host", "Malformed Contact", request("INVITE", ["Contact: <sip:a@>"])],
    ["a Contact without anything", "Malformed Contact", request("INVITE", ["Contact: <>"])],
    ["Contact: * outside of REGISTER", "Malformed Contact", request("INVITE", ["Contact: *"])],
    ["Contact: * among others", "Malformed Contact", request("REGISTER", ["Contact: *", "Contact: <sip:a@b>"])],
    ["a Route without a host", "Malformed Route", request("INVITE", ["Route: <sip:;lr>"])],
    ["a Record-Route without a host", "Malformed Record-Route", request("INVITE", ["Record-Route: <sip:x@>"])],
    ["a Refer-To without a host", "Malformed Refer-To", request("REFER", ["Refer-To: <sip:x@>"])],
    [
      "a P-Asserted-Identity without a host",
      "Malformed P-Asserted-Identity",
      request("INVITE", ["P-Asserted-Identity: <sip:x@>"]),
    ],
    ["Max-Forwards 256", "Malformed Max-Forwards", request("OPTIONS", ["Max-Forwards: 256"])],
    ["Max-Forwards -1", "Malformed Max-Forwards", request("OPTIONS", ["Max-Forwards: -1"])],
    ["Content-Length -1", "Malformed Content-Length", request("OPTIONS", ["Content-Length: -1"])],
    ["Content-Length 5e9", "Malformed Content-Length", request("OPTIONS", ["Content-Length: 5000000000"])],
    ["Content-Length in hex", "Malformed Content-Length", request("OPTIONS", ["Content-Length: 0x1"], "a")],
    [
      "two different Content-Lengths",
      "Repeated Content-Length",
      request("OPTIONS", ["Content-Length: 0", "l: 1"], "a"),
    ],
    ["CSeq 2^31", "Malformed CSeq", request("OPTIONS", ["CSeq: 2147483648 OPTIONS"])],
    ["a CSeq without a method", "Malformed CSeq", request("OPTIONS", ["CSeq: 1"])],
    [
      "65 header lines",
      "Too Many Headers",
      request(
        "OPTIONS",
        Array.from({ length: 60 }, (_, index) => `X-${index}: 1`),
      ),
    ],
    [
      "1,000 header lines",
      "Too Many Headers",
      request(
        "OPTIONS",
        Array.from({ length: 1_000 }, () => "Xx: 1"),
      ),
    ],
    ["a header line of more than 2 KiB", "Header Too Long", request("OPTIONS", [`Xx: ${"a".repeat(2_045)}`])],
    ["a header of more than 2 KiB in folds", "Header Too Long", request("OPTIONS", [`Xx: ${"a\r\n ".repeat(600)}`])],
    [
      "300 Vias",
      "Too Many Headers",
      request(
        "OPTIONS",
        Array.from({ length: 300 }, (_, index) => `Via: SIP/2.0/UDP h;branch=z9hG4bK${index}`),
      ),
    ],
  ];

  for (const [name, reason, bytes] of refused) {
    it(`refuses ${name} with 400 ${reason}`, () => {
      expect(parse(bytes)).toMatchObject({ ok: false, reason, answerable: { status: 400 } });
    });
  }

  const accepted: readonly (readonly [string, Buffer])[] = [
    ["Max-Forwards 0", request("OPTIONS", ["Max-Forwards: 0"])],
    [
      "64 header lines",
      request(
        "OPTIONS",
        Array.from({ length: 59 }, (_, index) => `X-${index}: 1`),
      ),
    ],
    ["a header line of 2 KiB", request("OPTIONS", [`Xx: ${"a".repeat(2_044)}`])],
    ["a Call-ID of 256 bytes", request("OPTIONS", [`Call-ID: ${"a".repeat(256)}`])],
    ["Contact: * in a REGISTER", request("REGISTER", ["Contact: *"])],
    ["a tel: From", request("INVITE", ["From: <tel:+441234567890>;tag=1"])],
    ["a tel: P-Asserted-Identity beside a sip one", request("INVITE", ["P-Asserted-Identity: <sip:a@b>, <tel:+44>"])],
    ["a URI with # in the user, as phones dial it", request("INVITE", ["Contact: <sip:*72#@192.0.2.9>"])],
    ["a host name with an underscore, as container networks have it", request("INVITE", ["Contact: <sip:a@my_host>"])],
    ["a Call-ID in base64", request("INVITE", ["Call-ID: aGVsbG8+/w==@192.0.2.9"])],
    ["base64 in a Record-Route parameter", request("INVITE", ["Record-Route: <sip:192.0.2.7;lr=on;vsf=AAA==;ftag=1>"])],
    ["a blank Supported", request("INVITE", ["Supported:"])],
  ];

  for (const [name, bytes] of accepted) {
    it(`accepts ${name}`, () => {
      expect(status(bytes)).toBe("accepted");
    });
  }

  it("drops malformed responses, malformed ACKs and what is no SIP, all without anybody to answer", () => {
    const response = request("OPTIONS").toString().replace("OPTIONS sip:b@example.com SIP/2.0", "SIP/2.0 200 OK");
    expect(status(Buffer.from(response))).toBe("accepted");
    expect(status(Buffer.from(response.replace("Via", "X-Via")))).toBe("dropped");
    expect(status(Buffer.from(response.replace("200", "099")))).toBe("dropped");
    expect(status(Buffer.from(response.replace("200", "700")))).toBe("dropped");
    expect(status(request("ACK", ["CSeq: x"]))).toBe("dropped");
    expect(status(Buffer.from("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))).toBe("dropped");
    expect(status(Buffer.alloc(0))).toBe("dropped");
    expect(status(Buffer.from("OPTIONS sip:a@b SIP/2.0\r\nX: y\r\n\r\n"))).toBe("dropped");
  });

  it("leaves out a line without a colon in a response, and leaves a Contact without a host to the user agent", () => {
    const response = request("INVITE", ["no colon", "Contact: <sip:a@>"]).toString();
    const outcome = parse(Buffer.from(response.replace("INVITE sip:b@example.com SIP/2.0", "SIP/2.0 200 OK")));
    expect(outcome.ok && outcome.message.headers.get("Contact")).toBe("<sip:a@>");
  });

  it("answers 501 to an unknown method before anything else that is wrong, and 505 to another version", () => {
    expect(status(request("NEWMETHOD", ["CSeq: 1 INVITE"]))).toBe(501);
    expect(status(Buffer.from(request("OPTIONS").toString().replace("SIP/2.0\r", "SIP/3.1\r")))).toBe(505);
    expect(status(Buffer.from(request("OPTIONS").toString().replace("SIP/2.0\r", "sip/2.0\r")))).toBe("accepted");
    expect(status(Buffer.from(request("OPTIONS").toString().replace("SIP/2.0\r", "SIP/2.x\r")))).toBe(400);
  });

  it("keeps in `answerable` only lines a response copies, each once but Via, and none over the limit", () => {
    const outcome = parse(
      request("OPTIONS", [
        "CSeq: x",
        "From: <sip:first@b>;tag=1",
        "From: <sip:second@b>;tag=1",
        `To: <sip:${"a".repeat(3_000)}@b>`,
      ]),
    );
    const names = (lines: readonly HeaderLine[]): string[] => lines.map(({ name, value }) => `${name}: ${value}`);
    expect(!outcome.ok && names(outcome.answerable?.lines ?? [])).toEqual([
      "Via: SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKx",
      "Call-ID: c@example.com",
      "CSeq: x",
      "From: <sip:first@b>;tag=1",
    ]);
  });
});

describe("answers", () => {
  it("copy Via, From, To, Call-ID and CSeq, give To a tag once, and put the Timestamp into a 100 only", () => {
    const outcome = parse(
      request("INVITE", ["Via: SIP/2.0/UDP a;branch=z9hG4bK1", "Via: SIP/2.0/UDP b", "Timestamp: 54", "Xx: y"]),
    );
    if (!outcome.ok || outcome.message.kind !== "request") {
      throw new Error("not a request");
    }
    const busy = responseTo(outcome.message, 486, { toTag: "ours" });
    expect(busy.toBuffer().toString()).toBe(
      "SIP/2.0 486 Busy Here\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nVia: SIP/2.0/UDP b\r\nFrom: <sip:a@example.com>;tag=1\r\n" +
        "To: <sip:b@example.com>;tag=ours\r\nCall-ID: c@example.com\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n",
    );
    expect(responseTo(outcome.message, 100).headers.get("Timestamp")).toBe("54");
    outcome.message.headers.set("To", "<sip:b@example.com>;tag=there");
    expect(responseTo(outcome.message, 200, { toTag: "ours" }).headers.get("To")).toBe("<sip:b@example.com>;tag=there");
  });

  it("have a phrase for every status", () => {
    expect([486, 299, 499, 599, 699].map(reasonPhrase)).toEqual([
      "Busy Here",
      "Success",
      "Client Error",
      "Server Error",
      "Global Failure",
    ]);
  });

  it("note the source of a request in its topmost Via only (RFC 3261 §18.2.1, RFC 3581 §4)", () => {
    const marked = (via: string): string => {
      const headers = new Headers([{ name: "Via", value: via }]);
      markSource(headers, "192.0.2.9", 40_000);
      return headers.get("Via") ?? "";
    };
    expect(marked("SIP/2.0/UDP 192.0.2.9:5060;branch=x")).toBe("SIP/2.0/UDP 192.0.2.9:5060;branch=x");
    expect(marked("SIP/2.0/UDP pc33.example.com;branch=x")).toBe(
      "SIP/2.0/UDP pc33.example.com;branch=x;received=192.0.2.9",
    );
    expect(marked("SIP/2.0/UDP 10.0.0.1;rport;branch=x, SIP/2.0/UDP b;rport")).toBe(
      "SIP/2.0/UDP 10.0.0.1;rport=40000;branch=x;received=192.0.2.9, SIP/2.0/UDP b;rport",
    );
    // What the sender wrote into the parameters itself does not count.
    expect(marked("SIP/2.0/UDP a;received=203.0.113.1;rport=1;branch=x")).toBe(
      "SIP/2.0/UDP a;received=192.0.2.9;rport=40000;branch=x",
    );
    const via = parseVia("SIP/2.0/TCP [2001:db8::1]:5070;branch=x");
    expect(via && viaWithSource(via, "2001:db8::1", 5_070).params).toEqual([{ name: "branch", value: "x" }]);
  });

  it("of a request that was cloned do not change it", () => {
    const one = new SipRequest("OPTIONS", "sip:a@b", new Headers([{ name: "Xx", value: "1" }]), Buffer.from("a"));
    const two = one.clone();
    two.headers.set("Xx", "2");
    two.uri = "sip:c@d";
    expect(one.toBuffer().toString()).toBe("OPTIONS sip:a@b SIP/2.0\r\nXx: 1\r\nContent-Length: 1\r\n\r\na");
  });
});
