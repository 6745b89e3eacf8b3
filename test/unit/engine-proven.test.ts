import { describe, expect, it } from "vitest";

import { responseTo } from "../../src/engine/sip/answer.ts";
import { defaultMessageLimits as limits, parseMessage } from "../../src/engine/sip/parse.ts";
import type { ServerTransaction } from "../../src/engine/txn/index.ts";
import { ProvenAddresses } from "../../src/engine/txn/proven.ts";
import { ManualClock } from "./engine-clock.ts";
import { incoming, peer, type RequestFields, stack, startLine } from "./engine-wire-tap.ts";

// Anybody may send, nobody vouches for anybody: whoever forges the source of a datagram must not be able to make us send
// more packets to that address than he sent himself.

function open() {
  const { clock, tap, layer } = stack(undefined, 500, "any");
  const requests: ServerTransaction[] = [];
  layer.onRequest = (transaction) => {
    requests.push(transaction);
    transaction.respond(responseTo(transaction.request, 401, { toTag: "our-secret-tag" }));
  };
  let received = 0;
  const send = (method: string, fields: RequestFields = {}): void => {
    received += 1;
    tap.onMessage(incoming(method, fields), peer());
  };
  const lines = (): string[] => tap.sent.map(({ message }) => startLine(message));
  return { clock, layer, send, lines, received: () => received };
}

describe("an address that has not proved itself", () => {
  it("gets one packet for each of its own: a refusal is repeated with its INVITE only", async () => {
    const { clock, layer, send, lines, received } = open();
    send("INVITE");
    await clock.advance(20_000);
    expect(lines()).toEqual(["401 INVITE"]);
    send("INVITE");
    expect(lines()).toEqual(["401 INVITE", "401 INVITE"]);
    await clock.advance(64_000);
    expect(lines()).toHaveLength(received());
    expect(layer.stats()).toMatchObject({ server: 0, timers: 0 });
  });

  it("gets a 100 for its second INVITE where the application takes its time", () => {
    const { layer, send, lines } = open();
    layer.onRequest = () => undefined;
    send("INVITE");
    expect(lines()).toEqual([]);
    send("INVITE");
    expect(lines()).toEqual(["100 INVITE"]);
    send("INVITE");
    expect(lines()).toEqual(["100 INVITE", "100 INVITE"]);
  });

  it("does not prove itself by an ACK that it could have written without our answer", async () => {
    const { clock, send, lines } = open();
    send("INVITE");
    send("ACK", { toTag: "guessed" });
    send("INVITE", { branch: "z9hG4bKsecond", callId: "call-2", toTag: "its-own" });
    send("ACK", { branch: "z9hG4bKsecond", callId: "call-2", toTag: "its-own" });
    send("INVITE", { branch: "z9hG4bKthird", callId: "call-3" });
    await clock.advance(64_000);
    expect(lines()).toEqual(["401 INVITE", "401 INVITE", "401 INVITE"]);
  });

  it("proves itself by the tag of our answer, and then gets 100 at once and its refusals again", async () => {
    const { clock, send, lines } = open();
    send("INVITE");
    send("ACK", { toTag: "our-secret-tag" });
    send("INVITE", { branch: "z9hG4bKsecond", callId: "call-2" });
    await clock.advance(1_600);
    expect(lines()).toEqual(["401 INVITE", "100 INVITE", "401 INVITE", "401 INVITE", "401 INVITE"]);
  });

  it("proves itself by the tags of a dialog of ours", () => {
    const { layer, send, lines } = open();
    layer.isInDialog = (request) => request.headers.get("To")?.includes("dialog-tag") === true;
    send("OPTIONS", { toTag: "dialog-tag" });
    send("INVITE", { branch: "z9hG4bKsecond", callId: "call-2" });
    expect(lines()).toEqual(["401 OPTIONS", "100 INVITE", "401 INVITE"]);
  });
});

describe("bytes to an address that has not proved itself", () => {
  function answering(status: number, length: number) {
    const { tap, layer } = stack(undefined, 500, "any");
    layer.onRequest = (transaction) => {
      const response = responseTo(transaction.request, status, { toTag: "our-secret-tag" });
      response.headers.add("X-Long", "a".repeat(length));
      transaction.respond(response);
    };
    let received = 0;
    const send = (method: string, source = peer()): number => {
      const request = incoming(method);
      const bytes = request.toBuffer().length;
      received += bytes;
      tap.onMessage(request, { ...source, bytes });
      return tap.sent.length;
    };
    const ratio = (): number => tap.sent.reduce((sum, { bytes }) => sum + bytes.length, 0) / received;
    return { tap, layer, send, ratio };
  }

  it.each([
    ["OPTIONS", 200],
    ["INVITE", 401],
    ["REGISTER", 405],
  ])("a long answer to %s (%i) waits until as much has come", (method, status) => {
    const { send, ratio } = answering(status, 500);
    expect([send(method), send(method)]).toEqual([0, 0]);
    expect(send(method)).toBe(1);
    expect(ratio()).toBeLessThanOrEqual(1.2);
    // Two of the next three are needed for one more.
    send(method);
    send(method);
    send(method);
    expect(ratio()).toBeLessThanOrEqual(1.2);
  });

  it("goes out at once where it is no longer than the request, by TCP, and to those who are proved", () => {
    const short = answering(403, 0);
    expect(short.send("OPTIONS")).toBe(1);
    expect(short.ratio()).toBeLessThanOrEqual(1.2);
    expect(answering(200, 500).send("OPTIONS", peer("tcp"))).toBe(1);
    const proved = answering(200, 500);
    proved.layer.isInDialog = () => true;
    expect(proved.send("OPTIONS")).toBe(1);
  });

  it("the call that an application takes is answered at once", () => {
    expect(answering(200, 500).send("INVITE")).toBeGreaterThan(0);
  });

  it("a malformed request gets no more than its status where it is short, and nothing where even that is too long", () => {
    const { tap } = answering(200, 0);
    const refuse = (reason: string, bytes: number): string => {
      const before = tap.sent.length;
      const lines = ["Via: SIP/2.0/UDP h;branch=z9hG4bKx;rport", "From: <sip:a@h>", "To: <sip:b@h>", "Call-ID: c"];
      const outcome = parseMessage(Buffer.from(`${reason}\r\n${lines.join("\r\n")}\r\n\r\n`), limits, "datagram");
      if (outcome.ok) {
        throw new Error("it is well-formed");
      }
      tap.onMalformed(outcome, { ...peer(), bytes });
      return tap.sent[before]?.bytes.toString().split("\r\n")[0] ?? "nothing";
    };
    expect(refuse("OPTIONS sip:b@h SIP/2.0", 1_000)).toBe("SIP/2.0 400 Malformed CSeq");
    const whole = tap.sent[0]?.bytes.length ?? 0;
    expect(refuse("OPTIONS sip:b@h SIP/2.0", whole / 1.2 - 1)).toBe("SIP/2.0 400 ");
    expect(refuse("OPTIONS sip:b@h SIP/2.0", whole / 2)).toBe("nothing");
  });
});

describe("proven addresses", () => {
  it("are forgotten after ten minutes, and the oldest when there are 10,000", async () => {
    const clock = new ManualClock();
    const proven = new ProvenAddresses(clock);
    proven.add("first");
    await clock.advance(599_999);
    expect(proven.has("first")).toBe(true);
    await clock.advance(1);
    expect(proven.has("first")).toBe(false);
    for (let count = 0; count < 10_001; count += 1) {
      proven.add(`address-${count}`);
    }
    expect([proven.has("address-0"), proven.has("address-1"), proven.has("address-10000")]).toEqual([
      false,
      true,
      true,
    ]);
  });
});
