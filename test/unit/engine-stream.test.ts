import { describe, expect, it } from "vitest";

import { defaultMessageLimits, parseMessage } from "../../src/engine/sip/parse.ts";
import { StreamFramer, type StreamPiece } from "../../src/engine/sip/stream.ts";

function message(body = "v=0 ü", name = "Content-Length"): Buffer {
  return Buffer.from(
    "OPTIONS sip:b@example.com SIP/2.0\r\nVia: SIP/2.0/TCP 192.0.2.9;branch=z9hG4bKx\r\nFrom: <sip:a@example.com>;tag=1\r\n" +
      `To: <sip:b@example.com>\r\nCall-ID: c\r\nCSeq: 1 OPTIONS\r\n${name}: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
}

function frame(...chunks: Buffer[]): StreamPiece[] {
  const framer = new StreamFramer(defaultMessageLimits);
  return chunks.flatMap((chunk) => framer.push(chunk));
}

function types(pieces: readonly StreamPiece[]): string {
  return pieces.map(({ type }) => type).join(" ");
}

describe("StreamFramer", () => {
  it("cuts two messages out of the stream wherever it is split", () => {
    const one = message();
    const both = Buffer.concat([one, message("")]);
    for (let at = 0; at <= both.length; at += 1) {
      const pieces = frame(both.subarray(0, at), both.subarray(at));
      expect(types(pieces)).toBe("message message");
      expect(
        pieces.map((piece) => piece.type === "message" && piece.bytes.equals(piece === pieces[0] ? one : message(""))),
      ).toEqual([true, true]);
    }
  });

  it("takes single bytes", () => {
    const both = Buffer.concat([message(), Buffer.from("\r\n\r\n"), message("")]);
    const framer = new StreamFramer(defaultMessageLimits);
    const pieces: StreamPiece[] = [];
    for (let at = 0; at < both.length; at += 1) {
      pieces.push(...framer.push(both.subarray(at, at + 1)));
    }
    expect(types(pieces)).toBe("message ping message");
    expect(framer.isMidMessage).toBe(false);
  });

  it("takes 100 messages in one chunk", () => {
    const pieces = frame(Buffer.concat(Array.from({ length: 100 }, (_, index) => message("x".repeat(index)))));
    expect(pieces).toHaveLength(100);
    expect(
      pieces.every((piece) => piece.type === "message" && parseMessage(piece.bytes, defaultMessageLimits, "stream").ok),
    ).toBe(true);
  });

  it("hands out messages that later chunks do not overwrite", () => {
    const framer = new StreamFramer(defaultMessageLimits);
    const [first] = framer.push(Buffer.concat([message("first"), message("second").subarray(0, 50)]));
    framer.push(message("second").subarray(50));
    framer.push(message("third!"));
    expect(first?.type === "message" && first.bytes.toString()).toBe(message("first").toString());
  });

  it("reads the length under every name and fold that it may have", () => {
    for (const name of ["content-length", "CONTENT-LENGTH", "l", "L", "Content-Length \t"]) {
      expect(types(frame(message("abc", name), message("")))).toBe("message message");
    }
    const folded = Buffer.from(message("abc").toString().replace("Content-Length: 3", "Content-Length:\r\n 3"));
    expect(types(frame(folded, message("")))).toBe("message message");
  });

  it("tells keep-alive pings from the line breaks before a message (RFC 5626 §3.5.1, RFC 3261 §7.5)", () => {
    expect(types(frame(Buffer.from("\r\n\r\n")))).toBe("ping");
    expect(types(frame(Buffer.from("\r\n\r\n\r\n\r\n")))).toBe("ping ping");
    expect(types(frame(Buffer.from("\r\n"), message()))).toBe("message");
    expect(types(frame(Buffer.from("\r"), Buffer.from("\n\r"), Buffer.from("\n"), message()))).toBe("ping message");
  });

  it("does not take a single CRLF, which answers a ping, for the beginning of a message", () => {
    const framer = new StreamFramer(defaultMessageLimits);
    framer.push(Buffer.from("\r\n"));
    expect(framer.isMidMessage).toBe(false);
    framer.push(Buffer.from("OPT"));
    expect(framer.isMidMessage).toBe(true);
  });

  const broken: readonly (readonly [string, Buffer, string])[] = [
    ["no Content-Length", message("", "X-Length"), "Malformed Content-Length"],
    ["a negative one", Buffer.from(message("").toString().replace(": 0", ": -1")), "Malformed Content-Length"],
    ["one that is no number", Buffer.from(message("").toString().replace(": 0", ": 0x0")), "Malformed Content-Length"],
    [
      "two of them",
      Buffer.from(message("").toString().replace("Call-ID", "l: 0\r\nCall-ID")),
      "Malformed Content-Length",
    ],
    ["5e9", Buffer.from(message("").toString().replace("Length: 0", "Length: 5000000000")), "Malformed Content-Length"],
    ["70,000", Buffer.from(message("").toString().replace("Length: 0", "Length: 70000")), "Message Too Large"],
    ["a head that never ends", Buffer.alloc(65_537, "a"), "Message Too Large"],
  ];
  for (const [name, bytes, reason] of broken) {
    it(`gives up the stream at ${name}, with what was read for one answer, and ignores what follows`, () => {
      const framer = new StreamFramer(defaultMessageLimits);
      const [piece, ...rest] = framer.push(bytes);
      expect(piece).toMatchObject({ type: "broken", reason });
      expect(rest).toEqual([]);
      expect(framer.push(message())).toEqual([]);
      expect(framer.isMidMessage).toBe(false);
    });
  }

  it("still gives the messages before the place where it gave up", () => {
    expect(types(frame(Buffer.concat([message(), message("", "X-Length"), message()])))).toBe("message broken");
  });
});
