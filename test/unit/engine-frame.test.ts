import { describe, expect, it } from "vitest";

import { encodeFrame, FrameDecoder, parseWireMessage } from "../../src/engine/wire/frame.ts";
import { growth, linear } from "../support/growth.ts";

const sip = Buffer.from("SIP/2.0 200 OK\r\nX-Foo: é🙂\r\n\r\nv=0\r\ns=Иван\r\n");

describe("frames of the wire protocol", () => {
  it("counts bytes, not characters", () => {
    const frame = encodeFrame(["id", "sip", "é"], sip);
    const meta = Buffer.from("id|sip|é");
    expect(frame.toString("utf8")).toBe(`${meta.length + 2 + sip.length}#id|sip|é\r\n${sip.toString("utf8")}`);
  });

  it("never lets a CR or LF of a token shift the SIP text", () => {
    expect(encodeFrame(["a\r\nb", "c"]).toString()).toBe("6#a  b|c");
  });

  it("gives the same messages wherever the stream is split, inside digits and UTF-8 characters too", () => {
    const stream = Buffer.concat([
      encodeFrame(["1", "ping"]),
      encodeFrame(["2", "sip", "", "dialog"], sip),
      encodeFrame(["3", "route", "invite"]),
    ]);
    for (let at = 0; at <= stream.length; at += 1) {
      const decoder = new FrameDecoder();
      const messages = [
        ...decoder.push(stream.subarray(0, at)).messages,
        ...decoder.push(stream.subarray(at)).messages,
      ];
      expect(messages.map((message) => message.tokens)).toEqual([
        ["1", "ping"],
        ["2", "sip", "", "dialog"],
        ["3", "route", "invite"],
      ]);
      expect(messages[1]?.sip?.equals(sip)).toBe(true);
      expect(messages[0]?.sip).toBeUndefined();
      expect(decoder.pendingBytes).toBe(0);
    }
  });

  it("takes one byte at a time", () => {
    const decoder = new FrameDecoder();
    const messages = [...encodeFrame(["x", "sip"], sip)].flatMap((byte) => decoder.push(Buffer.from([byte])).messages);
    expect(messages).toHaveLength(1);
    expect(messages[0]?.sip?.equals(sip)).toBe(true);
  });

  it("needs time in proportion to the frame, however small the reads are", () => {
    const reading = (bytes: number) => (): void => {
      const frame = encodeFrame(["x", "sip"], Buffer.alloc(bytes, 65));
      const decoder = new FrameDecoder();
      for (let at = 0; at < frame.length; at += 16) {
        decoder.push(frame.subarray(at, at + 16));
      }
    };
    expect(growth(reading, 100_000)).toBeLessThan(linear);
  });

  it.each([
    ["no length", "#abc"],
    ["a length of zero", "0#"],
    ["a sign", "-1#a"],
    ["a blank in the length", " 3#abc"],
    ["text before the length", "hello"],
    ["too many digits", "123456789012#"],
    ["a length above the limit", "2000000#"],
  ])("refuses %s and says so", (_name, text) => {
    const { messages, error } = new FrameDecoder().push(Buffer.from(text));
    expect(messages).toEqual([]);
    expect(error).toBeTypeOf("string");
  });

  it("keeps what came before the broken frame, and stays failed", () => {
    const decoder = new FrameDecoder();
    const first = decoder.push(Buffer.concat([encodeFrame(["1", "ping"]), Buffer.from("x")]));
    expect(first.messages).toHaveLength(1);
    expect(first.error).toBeDefined();
    expect(decoder.push(encodeFrame(["2", "ping"])).error).toBeDefined();
  });

  it("accepts a frame of exactly the limit and refuses one more byte", () => {
    const limit = 64;
    const exact = Buffer.alloc(limit, 65);
    expect(new FrameDecoder(limit).push(Buffer.concat([Buffer.from("64#"), exact])).messages).toHaveLength(1);
    expect(new FrameDecoder(limit).push(Buffer.from("65#")).error).toContain("64");
  });

  it("cuts the meta at the first CRLF only", () => {
    const message = parseWireMessage(Buffer.from("a|b|\r\nBYE x SIP/2.0\r\n\r\n"));
    expect(message.tokens).toEqual(["a", "b", ""]);
    expect(message.sip?.toString()).toBe("BYE x SIP/2.0\r\n\r\n");
  });
});
