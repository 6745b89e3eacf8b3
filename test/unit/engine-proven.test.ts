import { describe, expect, it } from "vitest";

import { responseTo } from "../../src/engine/sip/answer.ts";
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
