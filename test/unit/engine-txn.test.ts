import { describe, expect, it } from "vitest";

import { responseTo } from "../../src/engine/sip/answer.ts";
import { parseVia } from "../../src/engine/sip/grammar.ts";
import { Headers, type SipRequest } from "../../src/engine/sip/message.ts";
import { defaultMessageLimits, parseMessage } from "../../src/engine/sip/parse.ts";
import type { ServerTransaction, TransactionLayer } from "../../src/engine/txn/index.ts";
import {
  answerTo,
  incoming,
  listener,
  outgoing,
  peer,
  stack,
  startLine,
  targetOf,
  type WireTap,
} from "./engine-wire-tap.ts";

function expectEmpty(layer: TransactionLayer): void {
  expect(layer.stats()).toMatchObject({ client: 0, server: 0, timers: 0, faults: 0 });
}

function requestAt(tap: WireTap, index: number): SipRequest {
  const message = tap.sent[index]?.message;
  if (message?.kind !== "request") {
    throw new Error(`no request at ${index}`);
  }
  return message;
}

/** The server transactions the layer reports, and the ACKs and strays. */
function record(layer: TransactionLayer): { requests: ServerTransaction[]; acks: string[]; strays: number[] } {
  const requests: ServerTransaction[] = [];
  const acks: string[] = [];
  const strays: number[] = [];
  layer.onRequest = (transaction) => {
    requests.push(transaction);
  };
  layer.onAck = (request) => {
    acks.push(request.headers.get("CSeq") ?? "");
  };
  layer.onStrayResponse = (response) => {
    strays.push(response.status);
  };
  return { requests, acks, strays };
}

describe("INVITE client transaction", () => {
  it("retransmits at T1, doubling without a cap, until timer B", async () => {
    const { clock, tap, layer } = stack();
    const { heard, on } = listener();
    const start = clock.now();
    layer.request(outgoing("INVITE"), targetOf(5_070), on);
    await clock.advance(31_999);
    expect(tap.sent.map(({ atMs }) => atMs - start)).toEqual([0, 500, 1_500, 3_500, 7_500, 15_500, 31_500]);
    expect(heard).toEqual([]);
    await clock.advance(1);
    expect(heard).toEqual(["timeout"]);
    expectEmpty(layer);
  });

  it("puts a Via with rport and an unguessable branch of its own on top of every request", () => {
    const { tap, layer } = stack();
    const { on } = listener();
    const one = layer.request(outgoing("INVITE"), targetOf(5_070), on);
    const two = layer.request(outgoing("INVITE"), targetOf(5_070), on);
    const via = parseVia(one.request.headers.get("Via") ?? "");
    expect(via).toMatchObject({ transport: "UDP", host: "192.0.2.1", port: 5_060 });
    expect(via?.branch).toMatch(/^z9hG4bK[0-9a-f]{32}$/);
    expect(via?.params.map(({ name }) => name)).toEqual(["rport", "branch"]);
    expect(one.key).not.toBe(two.key);
    expect(tap.take()).toEqual(["INVITE", "INVITE"]);
  });

  it("stops retransmitting at the first provisional response and waits without a limit of its own", async () => {
    const { clock, tap, layer } = stack();
    const { heard, on } = listener();
    const transaction = layer.request(outgoing("INVITE"), targetOf(5_070), on);
    tap.arrive(answerTo(transaction.request, 180));
    await clock.advance(600_000);
    expect(tap.take()).toEqual(["INVITE"]);
    expect(heard).toEqual(["180"]);
    transaction.abandon();
    expectEmpty(layer);
  });

  it("acknowledges a non-2xx itself, with URI, top Via, Route and CSeq number of the INVITE and the To of the response", async () => {
    const { clock, tap, layer } = stack();
    const { heard, on } = listener();
    const { request } = layer.request(outgoing("INVITE", 41), targetOf(5_070), on);
    tap.arrive(answerTo(request, 486, "busy-tag"));
    const ack = requestAt(tap, 1);
    expect(ack.method).toBe("ACK");
    expect(ack.uri).toBe(request.uri);
    expect(ack.headers.all("Via")).toEqual([request.headers.get("Via")]);
    expect(ack.headers.get("CSeq")).toBe("41 ACK");
    expect(ack.headers.get("To")).toContain(";tag=busy-tag");
    expect(ack.headers.all("Route")).toEqual(["<sip:192.0.2.7;lr>"]);
    expect(ack.headers.get("Call-ID")).toBe(request.headers.get("Call-ID"));
    // The final response again: acknowledged again, not reported again.
    tap.arrive(answerTo(request, 486, "busy-tag"));
    expect(tap.take()).toEqual(["INVITE", "ACK", "ACK"]);
    expect(heard).toEqual(["486"]);
    await clock.advance(32_000);
    expectEmpty(layer);
  });

  it("reports every 2xx for 64*T1, retransmitted or forked (RFC 6026), then strays to the layer's user", async () => {
    const { clock, tap, layer } = stack();
    const { heard, on } = listener();
    const { strays } = record(layer);
    const { request } = layer.request(outgoing("INVITE"), targetOf(5_070), on);
    tap.arrive(answerTo(request, 200, "fork-1"));
    tap.arrive(answerTo(request, 200, "fork-1"));
    tap.arrive(answerTo(request, 200, "fork-2"));
    expect(heard).toEqual(["200", "200", "200"]);
    // The user agent sends the ACK to a 2xx, never the transaction.
    expect(tap.take()).toEqual(["INVITE"]);
    await clock.advance(31_999);
    expect(layer.stats().client).toBe(1);
    await clock.advance(1);
    expectEmpty(layer);
    tap.arrive(answerTo(request, 200, "fork-3"));
    expect(heard).toHaveLength(3);
    expect(strays).toEqual([200]);
  });

  it("reports a 2xx after another final response as a stray, so that its dialog can be ended", () => {
    const { tap, layer } = stack();
    const { heard, on } = listener();
    const { strays } = record(layer);
    const { request } = layer.request(outgoing("INVITE"), targetOf(5_070), on);
    tap.arrive(answerTo(request, 603));
    tap.arrive(answerTo(request, 200, "fork-2"));
    expect(heard).toEqual(["603"]);
    expect(strays).toEqual([200]);
  });

  it("ends with a transport error, and goes to the next target with a new branch before that", async () => {
    const { clock, tap, layer } = stack();
    const { heard, on } = listener();
    tap.deadPorts.add(6_001).add(6_002);
    const transaction = layer.request(outgoing("INVITE"), [targetOf(6_001), targetOf(6_002), targetOf(6_003)], on);
    await clock.advance(0);
    expect(tap.sent.map(({ target }) => target.port)).toEqual([6_001, 6_002, 6_003]);
    expect(new Set(tap.sent.map(({ message }) => message.headers.get("Via"))).size).toBe(3);
    expect(transaction.target.port).toBe(6_003);
    expect(heard).toEqual([]);
    tap.arrive(answerTo(transaction.request, 200));
    expect(heard).toEqual(["200"]);

    const none = listener();
    layer.request(outgoing("INVITE"), [targetOf(6_001), targetOf(6_002)], none.on);
    await clock.advance(0);
    expect(none.heard).toEqual(["transport error"]);
    await clock.advance(32_000);
    expectEmpty(layer);
  });

  it("does not retransmit on TCP and needs no timer D", async () => {
    const { clock, tap, layer } = stack();
    const { heard, on } = listener();
    const { request } = layer.request(outgoing("INVITE"), targetOf(5_070, "tcp"), on);
    await clock.advance(20_000);
    expect(tap.take()).toEqual(["INVITE"]);
    tap.arrive(answerTo(request, 404), peer("tcp"));
    await clock.advance(0);
    expect(heard).toEqual(["404"]);
    expectEmpty(layer);
  });
});

describe("CANCEL of our INVITE", () => {
  it("is held until the first provisional response and equals its INVITE where RFC 3261 §9.1 says so", async () => {
    const { clock, tap, layer } = stack();
    const { heard, on } = listener();
    const transaction = layer.request(outgoing("INVITE", 9), targetOf(5_070), on);
    const { request } = transaction;
    transaction.cancel(new Headers([{ name: "Reason", value: "SIP;cause=200" }]));
    await clock.advance(100);
    expect(tap.take()).toEqual(["INVITE"]);
    tap.arrive(answerTo(request, 100));
    tap.arrive(answerTo(request, 180));
    expect(tap.sent.map(({ message }) => startLine(message))).toEqual(["CANCEL"]);
    const cancel = requestAt(tap, 0);
    expect(cancel.uri).toBe(request.uri);
    for (const name of ["Via", "From", "To", "Call-ID", "Route"]) {
      expect(cancel.headers.all(name)).toEqual(request.headers.all(name));
    }
    expect(cancel.headers.get("CSeq")).toBe("9 CANCEL");
    expect(cancel.headers.get("Reason")).toBe("SIP;cause=200");
    tap.arrive(answerTo(cancel, 200));
    tap.arrive(answerTo(request, 487));
    expect(heard).toEqual(["100", "180", "487"]);
    await clock.advance(32_000);
    expectEmpty(layer);
  });

  it("is sent once, and never when a final response came first", async () => {
    const { clock, tap, layer } = stack();
    const { heard, on } = listener();
    const held = layer.request(outgoing("INVITE"), targetOf(5_070), on);
    held.cancel();
    tap.arrive(answerTo(held.request, 200));
    held.cancel();
    const ringing = layer.request(outgoing("INVITE"), targetOf(5_070), on);
    tap.arrive(answerTo(ringing.request, 183));
    ringing.cancel();
    ringing.cancel();
    expect(tap.take()).toEqual(["INVITE", "INVITE", "CANCEL"]);
    // A 2xx that wins the race is reported like any other.
    tap.arrive(answerTo(ringing.request, 200));
    expect(heard).toEqual(["200", "183", "200"]);
    await clock.advance(32_000);
    expectEmpty(layer);
  });

  it("leaves the INVITE to timer B when nobody answers at all, and tries no other target", async () => {
    const { clock, tap, layer } = stack();
    const { heard, on } = listener();
    layer.request(outgoing("INVITE"), targetOf(5_070), on).cancel();
    await clock.advance(32_000);
    expect(heard).toEqual(["timeout"]);
    const failing = listener();
    tap.deadPorts.add(6_001);
    layer.request(outgoing("INVITE"), [targetOf(6_001), targetOf(6_002)], failing.on).cancel();
    await clock.advance(0);
    expect(failing.heard).toEqual(["transport error"]);
    expectEmpty(layer);
  });
});

describe("non-INVITE client transaction", () => {
  it("retransmits at T1, doubling to T2, until timer F", async () => {
    const { clock, tap, layer } = stack();
    const { heard, on } = listener();
    const start = clock.now();
    layer.request(outgoing("OPTIONS"), targetOf(5_070), on);
    await clock.advance(32_000);
    expect(tap.sent.map(({ atMs }) => atMs - start)).toEqual([
      0, 500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500,
    ]);
    expect(heard).toEqual(["timeout"]);
    expectEmpty(layer);
  });

  it("retransmits every T2 after a provisional response and absorbs repeated finals for T4", async () => {
    const { clock, tap, layer } = stack();
    const { heard, on } = listener();
    const { request } = layer.request(outgoing("BYE"), targetOf(5_070), on);
    tap.arrive(answerTo(request, 100));
    const start = clock.now();
    await clock.advance(12_500);
    expect(tap.sent.map(({ atMs }) => atMs - start)).toEqual([0, 500, 4_500, 8_500, 12_500]);
    tap.arrive(answerTo(request, 200));
    tap.arrive(answerTo(request, 200));
    expect(heard).toEqual(["100", "200"]);
    await clock.advance(5_000);
    expectEmpty(layer);
  });
});

describe("INVITE server transaction", () => {
  it("sends 100 at once, for a first INVITE and for a re-INVITE, before the user hears of it", () => {
    const { tap, layer } = stack();
    layer.onRequest = () => {
      expect(tap.sent.at(-1)?.message).toMatchObject({ status: 100 });
    };
    tap.arrive(incoming("INVITE"));
    tap.arrive(incoming("INVITE", { branch: "z9hG4bKpeer2", toTag: "ours", cseq: 2 }));
    expect(tap.take()).toEqual(["100 INVITE", "100 INVITE"]);
    expect(layer.stats().faults).toBe(0);
  });

  it("answers retransmissions with its last provisional response and reports the INVITE once", () => {
    const { tap, layer } = stack();
    const { requests } = record(layer);
    tap.arrive(incoming("INVITE"));
    requests[0]?.respond(responseTo(incoming("INVITE"), 180, { toTag: "ours" }));
    tap.arrive(incoming("INVITE"));
    expect(tap.take()).toEqual(["100 INVITE", "180 INVITE", "180 INVITE"]);
    expect(requests).toHaveLength(1);
    expect(layer.stats().retransmissionsIn).toBe(1);
  });

  it("retransmits a non-2xx at T1, doubling to T2, absorbs its ACK, and is gone after T4", async () => {
    const { clock, tap, layer } = stack();
    const { requests, acks } = record(layer);
    tap.arrive(incoming("INVITE"));
    tap.take();
    const start = clock.now();
    requests[0]?.respond(responseTo(incoming("INVITE"), 486, { toTag: "ours" }));
    await clock.advance(8_000);
    expect(tap.sent.map(({ atMs }) => atMs - start)).toEqual([0, 500, 1_500, 3_500, 7_500]);
    tap.take();
    tap.arrive(incoming("ACK", { toTag: "ours" }));
    tap.arrive(incoming("ACK", { toTag: "ours" }));
    expect(acks).toEqual([]);
    await clock.advance(5_000);
    expect(tap.take()).toEqual([]);
    expectEmpty(layer);
  });

  it("gives up an unacknowledged non-2xx at timer H", async () => {
    const { clock, tap, layer } = stack();
    const { requests } = record(layer);
    tap.arrive(incoming("INVITE"));
    requests[0]?.respond(responseTo(incoming("INVITE"), 486, { toTag: "ours" }));
    await clock.advance(32_000);
    expectEmpty(layer);
  });

  it("in Accepted absorbs INVITEs, lets the user repeat its 2xx, and passes ACKs up, whatever their branch", async () => {
    const { clock, tap, layer } = stack();
    const { requests, acks } = record(layer);
    tap.arrive(incoming("INVITE"));
    const ok = responseTo(incoming("INVITE"), 200, { toTag: "ours" });
    expect(requests[0]?.respond(ok)).toBe(true);
    tap.arrive(incoming("INVITE"));
    expect(requests[0]?.respond(ok)).toBe(true);
    expect(requests[0]?.respond(responseTo(incoming("INVITE"), 486))).toBe(false);
    expect(tap.take()).toEqual(["100 INVITE", "200 INVITE", "200 INVITE"]);
    tap.arrive(incoming("ACK", { toTag: "ours", branch: "z9hG4bKother" }));
    tap.arrive(incoming("ACK", { toTag: "ours" }));
    expect(acks).toEqual(["1 ACK", "1 ACK"]);
    await clock.advance(32_000);
    expectEmpty(layer);
    expect(requests[0]?.respond(ok)).toBe(false);
  });

  it("sends nothing to an ACK that belongs to nothing", () => {
    const { tap, layer } = stack();
    const { acks } = record(layer);
    tap.arrive(incoming("ACK", { toTag: "x" }));
    expect(acks).toEqual(["1 ACK"]);
    expect(tap.take()).toEqual([]);
  });
});

describe("non-INVITE server transaction", () => {
  it("ignores retransmissions until it is answered, replays its answer for 64*T1, then knows nothing", async () => {
    const { clock, tap, layer } = stack();
    const { requests } = record(layer);
    tap.arrive(incoming("OPTIONS"));
    tap.arrive(incoming("OPTIONS"));
    expect(tap.take()).toEqual([]);
    expect(requests).toHaveLength(1);
    const ok = responseTo(incoming("OPTIONS"), 200, { toTag: "ours" });
    expect(requests[0]?.respond(ok)).toBe(true);
    expect(requests[0]?.respond(ok)).toBe(false);
    tap.arrive(incoming("OPTIONS"));
    expect(tap.take()).toEqual(["200 OPTIONS", "200 OPTIONS"]);
    await clock.advance(32_000);
    expectEmpty(layer);
  });

  it("is forgotten without an answer when the user never gives one (RFC 4320)", async () => {
    const { clock, tap, layer } = stack();
    const { requests } = record(layer);
    tap.arrive(incoming("MESSAGE"));
    await clock.advance(64_000);
    expect(layer.stats().server).toBe(1);
    await clock.advance(3_200);
    expect(tap.take()).toEqual([]);
    expectEmpty(layer);
    expect(requests[0]?.respond(responseTo(incoming("MESSAGE"), 200))).toBe(false);
  });

  it("sends its response to the source address and the rport that was asked for", () => {
    const { tap, layer } = stack();
    const { requests } = record(layer);
    tap.arrive(incoming("OPTIONS", { sentBy: "10.1.1.1:5999" }), peer("udp", "192.0.2.77", 40_000));
    requests[0]?.respond(responseTo(incoming("OPTIONS"), 200));
    expect(tap.sent[0]?.target).toMatchObject({ address: "192.0.2.77", port: 40_000, local: { port: 5_060 } });
  });
});

describe("server transactions on TCP", () => {
  it("retransmit nothing and are gone as soon as their answer has done its work", async () => {
    const { clock, tap, layer } = stack();
    const { requests } = record(layer);
    const source = peer("tcp");
    tap.arrive(incoming("OPTIONS"), source);
    requests[0]?.respond(responseTo(incoming("OPTIONS"), 200, { toTag: "ours" }));
    await clock.advance(0);
    expectEmpty(layer);
    tap.arrive(incoming("INVITE"), source);
    requests[1]?.respond(responseTo(incoming("INVITE"), 603, { toTag: "ours" }));
    await clock.advance(31_999);
    expect(tap.take()).toEqual(["200 OPTIONS", "100 INVITE", "603 INVITE"]);
    tap.arrive(incoming("ACK", { toTag: "ours" }), source);
    await clock.advance(0);
    expectEmpty(layer);
  });

  it("answer to the connection, with the port of the Via for a new one", () => {
    const { tap, layer } = stack();
    const { requests } = record(layer);
    const connection = {};
    tap.arrive(incoming("OPTIONS", { sentBy: "192.0.2.9:5088" }), peer("tcp", "192.0.2.9", 49_152, connection));
    requests[0]?.respond(responseTo(incoming("OPTIONS"), 200));
    expect(tap.sent[0]?.target).toMatchObject({ protocol: "tcp", address: "192.0.2.9", port: 5_088 });
    expect(tap.sent[0]?.target.connection).toBe(connection);
  });
});

describe("server transactions whose answer cannot be sent", () => {
  it("tell their user: INVITE goes on (RFC 6026), others end", async () => {
    const { clock, tap, layer } = stack();
    const { requests } = record(layer);
    tap.deadPorts.add(5_070);
    tap.arrive(incoming("INVITE"));
    tap.arrive(incoming("OPTIONS", { branch: "z9hG4bKo", callId: "o" }));
    const told: string[] = [];
    for (const one of requests) {
      one.onTransportError = (error) => told.push(`${one.request.method} ${error.message}`);
    }
    requests[1]?.respond(responseTo(incoming("OPTIONS"), 200));
    await clock.advance(0);
    // The INVITE's is its 100: sent before anybody could listen, but failures are told later.
    expect(told).toEqual(["INVITE nobody there", "OPTIONS nobody there"]);
    expect(requests.map(({ state }) => state)).toEqual(["proceeding", "terminated"]);
    requests[0]?.abandon();
    expectEmpty(layer);
  });
});

describe("matching", () => {
  it("gives a CANCEL the INVITE it cancels, also when a NAT changed its sent-by", () => {
    const { tap, layer } = stack();
    const { requests } = record(layer);
    tap.arrive(incoming("INVITE"));
    tap.arrive(incoming("CANCEL"));
    tap.arrive(incoming("CANCEL", { sentBy: "198.51.100.1:1024" }));
    tap.arrive(incoming("CANCEL", { sentBy: "198.51.100.2:1024", callId: "other" }));
    tap.arrive(incoming("CANCEL", { branch: "z9hG4bKother" }));
    expect(requests.map((one) => one.request.method)).toEqual(["INVITE", "CANCEL", "CANCEL", "CANCEL", "CANCEL"]);
    expect(requests.map((one) => one.cancels === requests[0])).toEqual([false, true, true, false, false]);
  });

  it("tells requests apart by branch, sent-by and method", () => {
    const { tap, layer } = stack();
    const { requests } = record(layer);
    tap.arrive(incoming("INFO", { toTag: "ours" }));
    tap.arrive(incoming("OPTIONS", { toTag: "ours" }));
    tap.arrive(incoming("INFO", { toTag: "ours", sentBy: "192.0.2.10:5070" }));
    tap.arrive(incoming("INFO", { toTag: "ours", branch: "z9hG4bKpeer2" }));
    expect(requests).toHaveLength(4);
  });

  it("matches requests without the magic cookie as RFC 3261 §17.2.3 does for RFC 2543", () => {
    const { tap, layer } = stack();
    const { requests, acks } = record(layer);
    tap.arrive(incoming("INVITE", { branch: "1" }));
    tap.arrive(incoming("INVITE", { branch: "1" }));
    tap.arrive(incoming("INVITE", { branch: "1", callId: "call-2" }));
    expect(requests).toHaveLength(2);
    requests[0]?.respond(responseTo(incoming("INVITE", { branch: "1" }), 404, { toTag: "ours" }));
    tap.arrive(incoming("ACK", { branch: "1", toTag: "ours" }));
    expect(requests[0]?.state).toBe("confirmed");
    expect(acks).toEqual([]);
    tap.arrive(incoming("CANCEL", { branch: "1", callId: "call-2" }));
    expect(requests[2]?.cancels).toBe(requests[1]);
  });

  it("answers 482 to a copy of a request that came on another path (RFC 3261 §8.2.2.2)", async () => {
    const { clock, tap, layer } = stack();
    const { requests } = record(layer);
    tap.arrive(incoming("INVITE"));
    tap.arrive(incoming("INVITE", { branch: "z9hG4bKpath2" }));
    expect(requests).toHaveLength(1);
    expect(tap.take()).toEqual(["100 INVITE", "482 INVITE"]);
    tap.arrive(incoming("ACK", { branch: "z9hG4bKpath2", toTag: "x" }));
    // Inside a dialog nothing is merged, and another CSeq is another request.
    tap.arrive(incoming("INVITE", { branch: "z9hG4bKpath3", toTag: "ours" }));
    tap.arrive(incoming("INVITE", { branch: "z9hG4bKpath4", cseq: 2 }));
    expect(requests).toHaveLength(3);
    for (const one of requests) {
      one.abandon();
    }
    await clock.advance(32_000);
    expectEmpty(layer);
    tap.arrive(incoming("INVITE", { branch: "z9hG4bKpath5" }));
    expect(requests).toHaveLength(4);
  });

  it("drops responses that belong to nothing, all but a 2xx to an INVITE", () => {
    const { tap, layer } = stack();
    const { strays } = record(layer);
    for (const [method, status] of [
      ["INVITE", 180],
      ["INVITE", 486],
      ["INVITE", 200],
      ["BYE", 200],
    ] as const) {
      tap.arrive(answerTo(incoming(method), status));
    }
    expect(strays).toEqual([200]);
    expect(layer.stats().unmatchedResponses).toBe(4);
    expect(tap.take()).toEqual([]);
  });

  it("knows which messages are its own, for the source filter", () => {
    const { tap, layer } = stack();
    record(layer);
    const { request } = layer.request(outgoing("INVITE"), targetOf(5_070), listener().on);
    expect(layer.knows(answerTo(request, 180))).toBe(true);
    expect(layer.knows(answerTo(incoming("INVITE"), 180))).toBe(false);
    expect(layer.knows(incoming("INVITE"))).toBe(false);
    tap.arrive(incoming("INVITE"));
    expect(layer.knows(incoming("INVITE"))).toBe(true);
    expect(layer.knows(incoming("ACK"))).toBe(true);
    expect(layer.knows(incoming("CANCEL"))).toBe(true);
    expect(layer.knows(incoming("BYE"))).toBe(false);
  });
});

describe("limits and faults", () => {
  it("answers 503 with Retry-After above its limit of server transactions and keeps no state for it", async () => {
    const { clock, tap, layer } = stack({ client: 1, server: 2 });
    const { requests } = record(layer);
    tap.arrive(incoming("OPTIONS", { branch: "z9hG4bK1", cseq: 1 }));
    tap.arrive(incoming("OPTIONS", { branch: "z9hG4bK2", cseq: 2 }));
    tap.arrive(incoming("OPTIONS", { branch: "z9hG4bK3", cseq: 3 }));
    expect(requests).toHaveLength(2);
    expect(tap.sent[0]?.message).toMatchObject({ status: 503 });
    expect(tap.sent[0]?.message.headers.get("Retry-After")).toBe("5");
    expect(layer.stats()).toMatchObject({ server: 2, overloaded: 1 });
    const [first, second] = [listener(), listener()];
    layer.request(outgoing("OPTIONS"), targetOf(5_070), first.on);
    layer.request(outgoing("OPTIONS"), targetOf(5_070), second.on);
    await clock.advance(0);
    expect(first.heard).toEqual([]);
    expect(second.heard).toEqual(["transport error"]);
  });

  it("keeps what its users throw away from the sockets and timers", async () => {
    const { clock, tap, layer } = stack();
    const fail = (): never => {
      throw new Error("a bug of the user");
    };
    layer.onRequest = fail;
    layer.onAck = fail;
    layer.onStrayResponse = fail;
    tap.arrive(incoming("OPTIONS"));
    tap.arrive(incoming("ACK"));
    tap.arrive(answerTo(incoming("INVITE"), 200));
    const on = { response: fail, timeout: fail, transportError: fail };
    const { request } = layer.request(outgoing("BYE"), targetOf(5_070), on);
    tap.arrive(answerTo(request, 200));
    layer.request(outgoing("BYE"), targetOf(5_070), on);
    await clock.advance(70_000);
    expect(clock.errors).toEqual([]);
    expect(layer.stats()).toMatchObject({ client: 0, server: 0, timers: 0, faults: 5 });
  });

  it("keeps a TCP connection while a transaction needs it, and fails what a broken one took with it", async () => {
    const { clock, tap, layer } = stack();
    record(layer);
    const connection = {};
    const described = { protocol: "tcp", address: "192.0.2.9", port: 5_070, connection } as const;
    expect(tap.isInUse(described)).toBe(false);
    const { heard, on } = listener();
    const transaction = layer.request(outgoing("INVITE"), targetOf(5_070, "tcp"), on);
    expect(tap.isInUse(described)).toBe(true);
    tap.onBroken({ ...described, port: 5_071 });
    tap.onBroken({ ...described, protocol: "tls", connection: {} });
    expect(heard).toEqual([]);
    tap.onBroken(described);
    expect(heard).toEqual(["transport error"]);
    expect(transaction.state).toBe("terminated");
    tap.arrive(incoming("OPTIONS"), peer("tcp", "192.0.2.9", 49_152, connection));
    expect(tap.isInUse(described)).toBe(true);
    await clock.advance(70_000);
    expect(tap.isInUse(described)).toBe(false);
  });

  it("answers what is malformed once, without state, and never a response or an ACK", () => {
    const { tap, layer } = stack();
    const malformed = (text: string): void => {
      const outcome = parseMessage(Buffer.from(text), defaultMessageLimits, "datagram");
      if (outcome.ok) {
        throw new Error("well-formed after all");
      }
      tap.onMalformed(outcome, peer());
    };
    const rest =
      "Via: SIP/2.0/UDP 192.0.2.9:5070;branch=z9hG4bKx;rport\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\n" +
      "Call-ID: x\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n";
    malformed(`OPTIONS  sip:a@b SIP/2.0\r\n${rest}`);
    malformed(`OPTIONS sip:a@b SIP/3.0\r\n${rest}`);
    malformed(`NEWMETHOD sip:a@b SIP/2.0\r\n${rest}`);
    malformed(`ACK sip:a@b SIP/2.0\r\n${rest}`);
    malformed(`SIP/2.0 999 No\r\n${rest}`);
    malformed("no SIP at all\r\n\r\n");
    expect(tap.sent.map(({ bytes }) => bytes.toString().split("\r\n")[0])).toEqual([
      "SIP/2.0 400 Malformed Request-Line",
      "SIP/2.0 505 Version Not Supported",
      "SIP/2.0 501 Not Implemented",
    ]);
    expect(tap.sent[0]?.bytes.toString()).toMatch(
      /^Via: SIP\/2\.0\/UDP 192\.0\.2\.9:5070;branch=z9hG4bKx;rport=5070;received=192\.0\.2\.9\r\n/m,
    );
    expect(tap.sent[0]?.bytes.toString()).toMatch(/^To: <sip:c@d>;tag=[0-9a-f]+\r\n/m);
    expectEmpty(layer);
  });
});
