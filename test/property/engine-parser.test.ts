import fc from "fast-check";
import { describe, expect, it } from "vitest";

import {
  formatNameAddr,
  formatUri,
  formatVia,
  type NameAddr,
  parseCSeq,
  parseNameAddr,
  parseUri,
  parseVia,
  splitList,
  type SipUri,
} from "../../src/engine/sip/grammar.ts";
import { Headers, SipRequest, SipResponse } from "../../src/engine/sip/message.ts";
import { defaultMessageLimits, parseMessage } from "../../src/engine/sip/parse.ts";
import { StreamFramer, type StreamPiece } from "../../src/engine/sip/stream.ts";
import { growth, linear } from "../support/growth.ts";
import { corpus, mutate, mutation } from "../support/sip-corpus.ts";

const limits = defaultMessageLimits;
const tokenCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.!%*_+`'~".split("");
const token = fc.string({ unit: fc.constantFrom(...tokenCharacters), minLength: 1, maxLength: 20 });
const label = fc.stringMatching(/^[a-z](?:[a-z0-9-]{0,8}[a-z0-9])?$/);
const host = fc.oneof(
  fc.array(label, { minLength: 1, maxLength: 4 }).map((labels) => labels.join(".")),
  fc.ipV4(),
  fc.ipV6(),
);
const port = fc.integer({ min: 1, max: 65_535 });
const uriParams = fc
  .uniqueArray(
    fc.tuple(fc.stringMatching(/^[a-z][a-z0-9-]{0,8}$/), fc.option(fc.stringMatching(/^[a-z0-9.:&+$-]{1,12}$/))),
    {
      selector: ([name]) => name,
      maxLength: 4,
    },
  )
  .map((pairs) => pairs.map(([name, value]) => (value === null ? { name } : { name, value })));
const uri: fc.Arbitrary<SipUri> = fc
  .record({
    scheme: fc.constantFrom("sip" as const, "sips" as const),
    user: fc.option(fc.stringMatching(/^(?:[A-Za-z0-9\-_.!~*'()&=+$,;?/#]|%[0-9A-F]{2}){1,16}$/)),
    host,
    port: fc.option(port),
    params: uriParams,
  })
  .map(({ scheme, user, host: name, port: number, params }) => ({
    scheme,
    ...(user === null ? {} : { user }),
    host: name,
    ...(number === null ? {} : { port: number }),
    params,
  }));
// Any text: what stands in a quoted display name (control characters only come as quoted pairs, which tests of their own cover).
const display = fc
  .string({ unit: "grapheme", minLength: 1, maxLength: 20 })
  .filter((text) => !/\p{Cc}|\p{Cs}/u.test(text));

describe("grammar", () => {
  it("reads every URI that it writes as what it was", () => {
    fc.assert(
      fc.property(uri, (one) => {
        expect(parseUri(formatUri(one))).toEqual(one);
      }),
      { numRuns: 1_000 },
    );
  });

  it("reads every name-addr that it writes as what it was, whatever the display name", () => {
    fc.assert(
      fc.property(display, uri, fc.option(token), (name, one, tag) => {
        const address: NameAddr = {
          display: name,
          uri: formatUri(one),
          sip: one,
          params: tag === null ? [] : [{ name: "tag", value: tag }],
          ...(tag === null ? {} : { tag }),
        };
        expect(parseNameAddr(formatNameAddr(address))).toEqual(address);
      }),
      { numRuns: 1_000 },
    );
  });

  it("reads every Via that it writes as what it was", () => {
    fc.assert(
      fc.property(
        fc.constantFrom("UDP", "TCP", "TLS", "X"),
        host,
        fc.option(port),
        token,
        (transport, name, number, branch) => {
          const via = {
            transport,
            host: name,
            ...(number === null ? {} : { port: number }),
            params: [{ name: "rport" }, { name: "branch", value: branch }],
            branch,
          };
          expect(parseVia(formatVia(via))).toEqual(via);
        },
      ),
      { numRuns: 1_000 },
    );
  });

  it("never throws, whatever text it gets", () => {
    const text = fc.oneof(
      fc.string({ maxLength: 200 }),
      fc.string({ unit: fc.constantFrom(...'<>"\\;,:=@[]%? \tsip/2.0UDPa1'.split("")), maxLength: 60 }),
    );
    fc.assert(
      fc.property(text, (one) => {
        for (const parse of [parseUri, parseNameAddr, parseVia, parseCSeq, splitList]) {
          parse(one);
        }
      }),
      { numRuns: 5_000 },
    );
  });
});

const value = fc.stringMatching(/^[!-~](?:[ !-~]{0,30}[!-~])?$/).filter((text) => !/["\\]| {2}/.test(text));
const headerName = token.filter((name) => name.length > 3);
const body = fc.uint8Array({ maxLength: 300 }).map((bytes) => Buffer.from(bytes));
const request = fc
  .tuple(token, uri, fc.array(fc.tuple(headerName, value), { maxLength: 20 }), body)
  .map(([method, to, extra, content]) => {
    const headers = new Headers([
      { name: "Via", value: "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKx" },
      { name: "From", value: "<sip:a@b>;tag=1" },
      { name: "To", value: "<sip:c@d>" },
      { name: "Call-ID", value: "x@y" },
      { name: "CSeq", value: `1 ${method}` },
    ]);
    for (const [name, text] of extra) {
      headers.add(`X-${name}`, text);
    }
    headers.add("Content-Length", String(content.length));
    return new SipRequest(method, formatUri(to), headers, content);
  });

describe("message", () => {
  it("reads every request that it writes as what it was: lines in their order, body byte for byte", () => {
    fc.assert(
      fc.property(request, (one) => {
        const outcome = parseMessage(one.toBuffer(), limits, "datagram");
        expect(outcome).toMatchObject({ ok: true, message: { kind: "request", method: one.method, uri: one.uri } });
        if (outcome.ok) {
          expect(outcome.message.headers.lines).toEqual(one.headers.lines);
          expect(outcome.message.body.equals(one.body)).toBe(true);
          expect(outcome.message.toBuffer().equals(one.toBuffer())).toBe(true);
        }
      }),
      { numRuns: 500 },
    );
  });

  it("writes the Content-Length of the bytes, not of the characters", () => {
    const response = new SipResponse(200, "OK", new Headers([{ name: "l", value: "7" }]), Buffer.from("Привет"));
    expect(response.toBuffer().toString()).toBe("SIP/2.0 200 OK\r\nContent-Length: 12\r\n\r\nПривет");
  });
});

const seeds = corpus();

describe("mutated torture messages", () => {
  it("never make the parser throw, and what it accepts is written so that it is accepted again", () => {
    fc.assert(
      fc.property(fc.constantFrom(...seeds), fc.array(mutation, { minLength: 1, maxLength: 8 }), (bytes, changes) => {
        const damaged = mutate(bytes, changes);
        for (const transport of ["datagram", "stream"] as const) {
          const outcome = parseMessage(damaged, limits, transport);
          if (outcome.ok) {
            const again = parseMessage(outcome.message.toBuffer(), limits, transport);
            expect(again.ok).toBe(true);
            expect(again.ok && again.message.toBuffer().equals(outcome.message.toBuffer())).toBe(true);
          }
        }
      }),
      { numRuns: 5_000 },
    );
  });

  it("come out of a stream the same, however it is cut into chunks", () => {
    const flatten = (pieces: readonly StreamPiece[]): string[] =>
      // What a lost place still says of itself depends on how much had arrived.
      pieces.map((piece) => (piece.type === "message" ? piece.bytes.toString("latin1") : piece.type));
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.constantFrom(...seeds), fc.array(mutation, { maxLength: 1 })), {
          minLength: 1,
          maxLength: 4,
        }),
        fc.array(fc.integer({ min: 1, max: 200 }), { minLength: 1, maxLength: 20 }),
        (messages, sizes) => {
          const stream = Buffer.concat(messages.map(([bytes, changes]) => mutate(bytes, changes)));
          const whole = flatten(new StreamFramer(limits).push(stream));
          const framer = new StreamFramer(limits);
          const cut: string[] = [];
          for (let at = 0, turn = 0; at < stream.length; turn += 1) {
            const size = sizes[turn % sizes.length] ?? 1;
            cut.push(...flatten(framer.push(stream.subarray(at, at + size))));
            at += size;
          }
          expect(cut).toEqual(whole);
        },
      ),
      { numRuns: 500 },
    );
  });
});

describe("time is linear in the size of the input", () => {
  // Big enough that a quadratic path would take seconds; generous enough for a busy machine.
  const wide = {
    ...limits,
    datagramBytes: 1e9,
    streamBytes: 1e9,
    headerLineBytes: 1e9,
    headerLines: 1e9,
    identifierBytes: 1e9,
    listValues: 1e9,
    parameters: 1e9,
    parameterBytes: 1e9,
    bodyBytes: 1e9,
  };
  const head = (extra: string): Buffer =>
    Buffer.from(
      "OPTIONS sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\n" +
        `Call-ID: 1\r\nCSeq: 1 OPTIONS\r\n${extra}Content-Length: 0\r\n\r\n`,
    );
  const shapes: Readonly<Record<string, (size: number) => Buffer>> = {
    "blanks in From": (size) =>
      Buffer.from(
        head("")
          .toString()
          .replace("<sip:a@b>;", `<sip:a@b>${" ".repeat(size)};`),
      ),
    "blanks in a display name": (size) =>
      Buffer.from(
        head("")
          .toString()
          .replace("From: ", `From: "${" ".repeat(size)}" `),
      ),
    "blanks in an unknown header": (size) => head(`Xx: a${" \t".repeat(size / 2)}b\r\n`),
    "an open quote": (size) => head(`Xx: "${"a ".repeat(size / 2)}\r\n`),
    "backslashes in quotes": (size) => head(`Xx: "${"\\".repeat(size)}\r\n`),
    folds: (size) => head(`Xx: a${"\r\n b".repeat(size / 4)}\r\n`),
    "header lines": (size) => head("Xx: a\r\n".repeat(size / 6)),
    Vias: (size) => head("Via: SIP/2.0/UDP h;branch=z9hG4bK2\r\n".repeat(size / 36)),
    "Vias on one line": (size) => head(`Via: ${"SIP/2.0/UDP h;branch=z9hG4bK2,".repeat(size / 30)}SIP/2.0/UDP h\r\n`),
    "contacts on one line": (size) => head(`Contact: ${"<sip:a@b>,".repeat(size / 10)}<sip:a@b>\r\n`),
    parameters: (size) =>
      head(`Contact: <sip:a@b>${Array.from({ length: size / 8 }, (_, index) => `;p${index}`).join("")}\r\n`),
    "URI parameters": (size) =>
      head(`Contact: <sip:a@b${Array.from({ length: size / 8 }, (_, index) => `;p${index}`).join("")}>\r\n`),
    "tokens in a display name": (size) => head(`Contact: ${"a ".repeat(size / 2)}<sip:a@b>\r\n`),
    "colons in a user": (size) => head(`Contact: <sip:${":".repeat(size)}@b>\r\n`),
    "percent signs": (size) => head(`Contact: <sip:${"%41".repeat(size / 3)}@b>\r\n`),
    "dots in a host": (size) => head(`Contact: <sip:${"a.".repeat(size / 2)}>\r\n`),
    commas: (size) => head(`Route: ${",".repeat(size)}\r\n`),
    "line breaks before a message": (size) => Buffer.concat([Buffer.from("\r\n".repeat(size / 2)), head("")]),
    "line breaks that end nothing": (size) => Buffer.from(`OPTIONS sip:a@b SIP/2.0${"\r\n\r".repeat(size / 3)}`),
    "no line break at all": (size) => Buffer.from(`OPTIONS ${"a".repeat(size)}`),
    "a body": (size) =>
      Buffer.concat([
        Buffer.from(head("").toString().replace("Content-Length: 0", `Content-Length: ${size}`)),
        Buffer.alloc(size, 13),
      ]),
  };
  for (const [name, shape] of Object.entries(shapes)) {
    it(`${name}: eight times the input takes far less than 64 times the time`, () => {
      const parsing = (size: number) => {
        const bytes = shape(size);
        return (): void => {
          parseMessage(bytes, wide, "datagram");
        };
      };
      expect(growth(parsing, 32_768)).toBeLessThan(linear);
    });

    it(`${name}: the same on a stream that comes byte by byte`, () => {
      const framing = (size: number) => {
        const bytes = shape(size);
        return (): void => {
          const framer = new StreamFramer(wide);
          for (let at = 0; at < bytes.length; at += 1) {
            framer.push(bytes.subarray(at, at + 1));
          }
        };
      };
      expect(growth(framing, 7_200)).toBeLessThan(linear);
    });
  }
});
