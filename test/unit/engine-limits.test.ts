import { describe, expect, it } from "vitest";

import { defaultMessageLimits as limits, parseMessage } from "../../src/engine/sip/parse.ts";
import { StreamFramer } from "../../src/engine/sip/stream.ts";

// Every limit of a message: what is exactly at it passes, one more is refused with the status that says why.

interface Shape {
  readonly uri?: string;
  readonly fromTag?: string;
  readonly toTag?: string;
  readonly callId?: string;
  readonly lines?: readonly string[];
  readonly body?: string;
}

function options({ uri = "sip:b@h", fromTag = "1", toTag, callId = "c", lines = [], body = "" }: Shape): Buffer {
  const head = [
    `OPTIONS ${uri} SIP/2.0`,
    "Via: SIP/2.0/UDP h;branch=z9hG4bKx",
    `From: <sip:a@h>;tag=${fromTag}`,
    `To: <sip:b@h>${toTag === undefined ? "" : `;tag=${toTag}`}`,
    `Call-ID: ${callId}`,
    "CSeq: 1 OPTIONS",
    `Content-Length: ${Buffer.byteLength(body)}`,
    ...lines,
  ];
  return Buffer.from(`${head.join("\r\n")}\r\n\r\n${body}`);
}

/** Lines that `options` writes by itself. */
const ownLines = 6;

/** A request of exactly that many bytes, no line of it long. */
function ofBytes(size: number): Buffer {
  const without = options({ body: "" }).length;
  const body = (length: number): string => "a".repeat(length);
  const digits = String(size).length - 1;
  const message = options({ body: body(size - without - digits) });
  return message.length === size ? message : options({ body: body(size - without - digits + size - message.length) });
}

function verdict(bytes: Buffer, transport: "datagram" | "stream" = "datagram"): string {
  const outcome = parseMessage(bytes, limits, transport);
  return outcome.ok ? "accepted" : `${outcome.answerable?.status ?? "dropped"} ${outcome.reason}`;
}

const fill = (length: number): string => "a".repeat(length);
const line = (bytes: number): string => `Subject: ${fill(bytes - "Subject: ".length)}`;
const uriOfLine = (bytes: number): string =>
  `sip:b@h;x=${fill(900)};y=${fill(900)};z=${fill(bytes - "OPTIONS sip:b@h;x=;y=;z= SIP/2.0".length - 1_800)}`;
const list = (name: string, value: string, count: number): string =>
  `${name}: ${Array.from({ length: count }, () => value).join(",")}`;
const flags = (count: number): string => Array.from({ length: count }, (_, index) => `;p${index}`).join("");

const cases: readonly (readonly [name: string, make: (over: 0 | 1) => Shape, answer: string])[] = [
  [
    "header lines",
    (over) => ({ lines: Array.from({ length: limits.headerLines - ownLines + over }, () => "Xx: 1") }),
    "400 Too Many Headers",
  ],
  ["bytes of a header line", (over) => ({ lines: [line(limits.headerLineBytes + over)] }), "400 Header Too Long"],
  [
    "bytes of a header line with its folds",
    (over) => ({ lines: [`${line(limits.headerLineBytes - 5 + over)}\r\n aa`] }),
    "400 Header Too Long",
  ],
  [
    "bytes of the start line",
    (over) => ({ uri: uriOfLine(limits.headerLineBytes + over) }),
    "414 Request-URI Too Long",
  ],
  ["bytes of a Call-ID", (over) => ({ callId: fill(limits.identifierBytes + over) }), "400 Malformed Call-ID"],
  ["bytes of a From tag", (over) => ({ fromTag: fill(limits.identifierBytes + over) }), "400 Malformed From"],
  ["bytes of a To tag", (over) => ({ toTag: fill(limits.identifierBytes + over) }), "400 Malformed To"],
  [
    "values of one list on one line",
    (over) => ({ lines: [list("Contact", "<sip:a@h>", limits.listValues + over)] }),
    "400 Too Many Values In Contact",
  ],
  [
    "values of one list over several lines, whatever the case of their names",
    (over) => ({
      lines: [list("Route", "<sip:h>", 50), list("ROUTE", "<sip:h>", limits.listValues - 50 + over)],
    }),
    "400 Too Many Values In ROUTE",
  ],
  [
    "parameters of a header",
    (over) => ({ lines: [`Contact: <sip:a@h>${flags(limits.parameters + over)}`] }),
    "400 Too Many Parameters",
  ],
  [
    "parameters of the Request-URI",
    (over) => ({ uri: `sip:b@h${flags(limits.parameters + over)}` }),
    "400 Too Many Parameters",
  ],
  [
    "bytes of a parameter",
    (over) => ({ lines: [`Contact: <sip:a@h>;x=${fill(limits.parameterBytes - 2 + over)}`] }),
    "400 Parameter Too Long",
  ],
];

describe("limits of a message", () => {
  for (const [name, make, answer] of cases) {
    for (const transport of ["datagram", "stream"] as const) {
      it(`${name} (${transport}): at the limit it passes, one above is ${answer}`, () => {
        expect(verdict(options(make(0)), transport)).toBe("accepted");
        expect(verdict(options(make(1)), transport)).toBe(answer);
      });
    }
  }

  it("bytes of a body: one above is 413", () => {
    expect(verdict(options({ body: fill(limits.bodyBytes) }), "stream")).toBe("accepted");
    expect(verdict(options({ body: fill(limits.bodyBytes + 1) }), "stream")).toBe("413 Request Entity Too Large");
  });

  it("bytes of a datagram: one above is 513", () => {
    expect(ofBytes(limits.datagramBytes)).toHaveLength(limits.datagramBytes);
    expect(verdict(ofBytes(limits.datagramBytes))).toBe("accepted");
    expect(verdict(ofBytes(limits.datagramBytes + 1))).toBe("513 Message Too Large");
    expect(verdict(ofBytes(65_507))).toBe("513 Message Too Large");
  });

  it("bytes on a stream: one above loses the place, and its sender is told 513", () => {
    const framed = (size: number): string => new StreamFramer(limits).push(ofBytes(size))[0]?.type ?? "nothing";
    expect(framed(limits.streamBytes)).toBe("message");
    expect(framed(limits.streamBytes + 1)).toBe("broken");
    expect(verdict(ofBytes(limits.streamBytes), "stream")).toBe("413 Request Entity Too Large");
    expect(verdict(ofBytes(limits.streamBytes + 1), "stream")).toBe("513 Message Too Large");
  });

  it("a response above a limit is dropped, for there is nobody to tell", () => {
    const response = (reason: string): Buffer =>
      Buffer.from(options({}).toString().replace("OPTIONS sip:b@h SIP/2.0", `SIP/2.0 200 ${reason}`));
    expect(verdict(response("OK"))).toBe("accepted");
    expect(verdict(response(fill(limits.headerLineBytes)))).toBe("dropped Request-URI Too Long");
    expect(
      verdict(
        Buffer.from(
          response("OK")
            .toString()
            .replace("<sip:a@h>", `<sip:a@h>${flags(101)}`),
        ),
      ),
    ).toBe("dropped Too Many Parameters");
  });

  it("semicolons and commas within quotes are text and count for no parameter", () => {
    const quoted = `"${";".repeat(150)}\\"${";".repeat(150)}"`;
    expect(verdict(options({ lines: [`Contact: ${quoted} <sip:a@h>`] }))).toBe("accepted");
  });

  // An expression of drachtio-srf takes 3.6 s for 60 kB of blanks there.
  it("a line of a MIME part is at most 998 bytes long", () => {
    const multipart = (blanks: number): Buffer =>
      options({
        lines: ["Content-Type: multipart/mixed;boundary=x"],
        body: `--x\r\n\r\n\r\n--x\r\nContent-Type:${" ".repeat(blanks)}\r\n\r\nbody\r\n--x--\r\n${fill(1_000)}`,
      });
    expect(verdict(multipart(998 - "Content-Type:".length))).toBe("accepted");
    expect(verdict(multipart(999 - "Content-Type:".length))).toBe("400 Malformed Multipart Body");
  });
});
