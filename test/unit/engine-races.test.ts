import { beforeEach, describe, expect, it, vi } from "vitest";

import type { FakeOutbound } from "./engine-fakes.ts";
import {
  agent,
  answered,
  apps,
  calling,
  clock,
  command,
  dialogOf,
  expectNothingLeft,
  localTag,
  network,
  receive,
  respond,
  start,
} from "./engine-ua-stage.ts";

// Messages that cross each other: RFC 3261 §14, RFC 3311 §5.2, RFC 5407 §3, and what must not be sent at all.

beforeEach(() => {
  start();
});

const sdp = "v=0\r\n";
const noDialog = "Server error: unable to find dialog for dialog id provided";

function send(dialogId: string, method: string, body = ""): void {
  agent.requestInDialog(command(`${method} sip:placeholder SIP/2.0\r\n\r\n${body}`), dialogId);
}

/** A call from the network, answered and acknowledged. */
function inCall(): { tag: string; dialogId: string } {
  const { tag, dialogId } = answered();
  receive("ACK", { toTag: tag });
  return { tag, dialogId };
}

/** A call to the network, answered and acknowledged. */
function outCall(): { outbound: FakeOutbound; dialogId: string } {
  const { outbound } = calling();
  outbound.respond(200);
  send(dialogOf(outbound), "ACK");
  return { outbound, dialogId: dialogOf(outbound) };
}

async function endBy(dialogId: string): Promise<void> {
  send(dialogId, "BYE");
  network.last("BYE").respond(200);
  await clock.advance(70_000);
  expectNothingLeft();
}

describe("offers that cross (RFC 3261 §14.2, RFC 3311 §5.2)", () => {
  it("our UPDATE with an offer is open: 491 to an INVITE and to an UPDATE with an offer, 200 to one without", async () => {
    const { tag, dialogId } = inCall();
    send(dialogId, "UPDATE", sdp);
    expect(receive("INVITE", { toTag: tag, seq: 2, body: sdp }).statuses).toEqual([491]);
    expect(receive("UPDATE", { toTag: tag, seq: 3, body: sdp }).statuses).toEqual([491]);
    const plain = receive("UPDATE", { toTag: tag, seq: 4 });
    respond(apps.lastTxn, "200 OK");
    expect(plain.statuses).toEqual([200]);
    network.last("UPDATE").respond(200);
    const after = receive("UPDATE", { toTag: tag, seq: 5, body: sdp });
    respond(apps.lastTxn, "200 OK");
    expect(after.statuses).toEqual([200]);
    await endBy(dialogId);
  });

  it("sends no second offer while one is open in either direction", async () => {
    const { tag, dialogId } = inCall();
    const refusal = "Server error: another offer is open in this dialog";
    send(dialogId, "UPDATE", sdp);
    send(dialogId, "UPDATE", sdp);
    expect(apps.refusals).toEqual([refusal]);
    network.last("UPDATE").respond(491);
    receive("UPDATE", { toTag: tag, seq: 2, body: sdp });
    const theirs = apps.lastTxn;
    send(dialogId, "UPDATE", sdp);
    expect(apps.refusals).toEqual([refusal, refusal]);
    respond(theirs, "200 OK");
    send(dialogId, "UPDATE", sdp);
    network.last("UPDATE").respond(200);
    expect(apps.refusals).toHaveLength(2);
    await endBy(dialogId);
  });
});

describe("the engine's own refresh (RFC 4028)", () => {
  it("is no second offer beside an UPDATE of either side, and comes when that is answered", async () => {
    const invite = receive("INVITE", {
      body: sdp,
      headers: ["Supported: timer", "Session-Expires: 100;refresher=uas"],
    });
    respond(apps.lastTxn, "200 OK", "Content-Type: application/sdp\r\n", 1, sdp);
    const tag = localTag(invite);
    receive("ACK", { toTag: tag });
    const dialogId = "call-1;from-tag=alice";
    const refreshes = (): number => network.requests.filter(({ request }) => request.method === "INVITE").length;

    await clock.advance(49_000);
    send(dialogId, "UPDATE", sdp);
    await clock.advance(2_000);
    expect(refreshes()).toBe(0);
    network.last("UPDATE").respond(491);
    receive("UPDATE", { toTag: tag, seq: 2, body: sdp });
    await clock.advance(5_000);
    expect(refreshes()).toBe(0);
    respond(apps.lastTxn, "488 Not Acceptable Here");
    await clock.advance(5_000);
    expect(refreshes()).toBe(1);
    network.last("INVITE").respond(200, "OK", "alice", ["Session-Expires: 100;refresher=uac"]);
    await endBy(dialogId);
  });

  it("nor does an application's INVITE go out beside its own UPDATE", async () => {
    const { dialogId } = inCall();
    send(dialogId, "UPDATE", sdp);
    send(dialogId, "INVITE", sdp);
    expect(apps.refusals).toEqual(["Server error: another offer is open in this dialog"]);
    network.last("UPDATE").respond(488);
    await endBy(dialogId);
  });
});

describe("RFC 5407: a call on its way up", () => {
  it("§3.1.4: the caller's re-INVITE comes before the ACK: served, or 491 where the ACK has to bring the answer", async () => {
    const { tag, dialogId } = answered();
    const first = receive("INVITE", { toTag: tag, seq: 2, body: sdp });
    // This INVITE had no offer, so its answer has to come in the ACK (§3.1.4).
    expect(first.statuses).toEqual([491]);
    receive("ACK", { toTag: tag });
    const second = receive("INVITE", { toTag: tag, seq: 3, body: sdp });
    respond(apps.lastTxn, "200 OK");
    expect(second.statuses).toEqual([200]);
    receive("ACK", { toTag: tag, seq: 3 });
    await endBy(dialogId);

    start();
    const invite = receive("INVITE", { body: sdp });
    respond(apps.lastTxn, "200 OK");
    const again = receive("INVITE", { toTag: localTag(invite), seq: 2, body: sdp });
    respond(apps.lastTxn, "200 OK");
    expect(again.statuses).toEqual([200]);
    for (const seq of [1, 2]) {
      receive("ACK", { toTag: localTag(invite), seq });
    }
    await endBy("call-1;from-tag=alice");
  });

  it("§3.1.5: the callee's re-INVITE overtakes his 200: 491, not 481; what makes no sense there still gets 481", async () => {
    const { outbound } = calling("sip:bob@192.0.2.9:5070", "Call-ID: call-9\r\n");
    const tag = dialogOf(outbound).split("from-tag=")[1] ?? "";
    const parts = { callId: "call-9", toTag: tag, fromTag: "bob" };
    expect(receive("INVITE", { ...parts, seq: 7, body: sdp }).statuses).toEqual([491]);
    expect(receive("UPDATE", { ...parts, seq: 8, body: sdp }).statuses).toEqual([491]);
    expect(receive("BYE", { ...parts, seq: 9 }).statuses).toEqual([481]);
    // With an early dialog it is the same.
    outbound.respond(180, "Ringing", "bob");
    expect(receive("INVITE", { ...parts, seq: 10, body: sdp }).statuses).toEqual([491]);
    outbound.respond(200, "OK", "bob");
    send(dialogOf(outbound), "ACK");
    await endBy(dialogOf(outbound));
    expect(receive("INVITE", { ...parts, seq: 11 }).statuses).toEqual([481]);
  });
});

describe("RFC 5407: a call on its way down", () => {
  it("§3.2.1: BYE crosses BYE: both are answered, and both sides end", async () => {
    const { tag, dialogId } = inCall();
    send(dialogId, "BYE");
    const theirs = receive("BYE", { toTag: tag, seq: 2 });
    respond(apps.lastTxn, "200 OK");
    expect(theirs.statuses).toEqual([200]);
    network.last("BYE").respond(481);
    await clock.advance(40_000);
    expectNothingLeft();
  });

  it("§3.2.2: a re-INVITE crosses our BYE: 481", async () => {
    const { tag, dialogId } = inCall();
    send(dialogId, "BYE");
    expect(receive("INVITE", { toTag: tag, seq: 2, body: sdp }).statuses).toEqual([481]);
    network.last("BYE").respond(200);
    await clock.advance(40_000);
    expectNothingLeft();
  });

  it("§3.2.3: the 200 to our re-INVITE crosses the peer's BYE: it is acknowledged", async () => {
    const { dialogId, outbound } = outCall();
    send(dialogId, "INVITE", sdp);
    const again = network.last("INVITE");
    const tag = dialogId.split("from-tag=")[1] ?? "";
    const callId = outbound.request.headers.get("Call-ID") ?? "";
    receive("BYE", { callId, toTag: tag, fromTag: "their-tag", seq: 2 });
    respond(apps.lastTxn, "200 OK");
    const acks = network.sent.length;
    again.respond(200);
    expect(network.sent.length).toBe(acks + 1);
    await clock.advance(80_000);
    expectNothingLeft();
  });

  it("§3.2.4: the 200 is repeated after our BYE: the ACK too", async () => {
    const { dialogId, outbound } = outCall();
    send(dialogId, "BYE");
    const acks = network.sent.length;
    outbound.respond(200);
    expect(network.sent.length).toBe(acks + 1);
    network.last("BYE").respond(200);
    await clock.advance(80_000);
    expectNothingLeft();
  });
});

describe("re-INVITE", () => {
  it("cancelled by the application: CANCEL, 487, and the call stands", async () => {
    const { dialogId } = outCall();
    send(dialogId, "INVITE", sdp);
    const reply = apps.replies.at(-1);
    const again = network.last("INVITE");
    again.respond(100);
    agent.cancel(command("CANCEL sip:x SIP/2.0\r\n\r\n"), reply?.type === "sent" ? reply.txnId : "");
    expect(again.cancels).toBe(1);
    again.respond(487);
    expect(agent.stats().dialogs).toBe(1);
    await endBy(dialogId);
  });

  it("answered 18x by us and by the peer: delivered, and the target moves with a reliable one (RFC 6141 §4.9)", async () => {
    const { tag, dialogId } = inCall();
    const contact = "<sip:moved@192.0.2.10>";
    const again = receive("INVITE", { toTag: tag, seq: 2, body: sdp, contact, headers: ["Supported: 100rel"] });
    const txnId = apps.lastTxn;
    respond(txnId, "180 Ringing");
    send(dialogId, "INFO");
    expect(network.last("INFO").request.uri).toBe("sip:alice@192.0.2.9:5070");
    network.last("INFO").respond(200);
    respond(txnId, "183 Session Progress", "Require: 100rel\r\n");
    send(dialogId, "INFO");
    expect(network.last("INFO").request.uri).toBe("sip:moved@192.0.2.10");
    network.last("INFO").respond(200);
    respond(txnId, "488 Not Acceptable Here");
    expect(again.statuses).toEqual([180, 183, 488]);
    await endBy(dialogId);
  });
});

describe("what must not be sent", () => {
  it("408 and provisional responses to a request that is no INVITE (RFC 4320)", async () => {
    const options = receive("OPTIONS");
    for (const line of ["180 Ringing", "408 Request Timeout"]) {
      respond(apps.lastTxn, line);
    }
    expect(options.statuses).toEqual([]);
    expect(apps.refusals).toEqual(["invalid response to OPTIONS", "invalid response to OPTIONS"]);
    respond(apps.lastTxn, "200 OK");
    expect(options.statuses).toEqual([200]);
    expectNothingLeft();
  });

  it("a request to ourselves, by whatever name: what it resolves to counts", () => {
    agent.requestOutOfDialog(command("INVITE sip:x@pbx.example SIP/2.0\r\n\r\n"), undefined);
    network.lookups[0]?.done({ type: "hops", hops: [{ protocol: "udp", address: "192.0.2.1", port: 5060 }] });
    agent.requestOutOfDialog(command("INVITE sip:x@192.0.2.9 SIP/2.0\r\n\r\n"), "sip:192.0.2.1:5060");
    expect(apps.refusals).toEqual(["can not send request to myself", "can not send request to myself"]);
    expect(network.requests).toEqual([]);
    expectNothingLeft();
  });

  it("a request in a dialog that is over", () => {
    send("unknown", "INFO");
    expect(apps.refusals).toEqual([noDialog]);
  });
});

describe("a fault of ours while a request is taken", () => {
  it.each([
    ["INVITE", "deliver"],
    ["OPTIONS", "deliver"],
    ["INVITE", "choose"],
  ] as const)("is answered 500 and leaves nothing: %s, in %s", (method, where) => {
    vi.spyOn(apps, where).mockImplementation(() => {
      throw new Error("a bug");
    });
    expect(receive(method).statuses).toEqual([500]);
    expectNothingLeft();
    vi.restoreAllMocks();
    expect(receive(method).statuses).toEqual([]);
    respond(apps.lastTxn, "486 Busy Here");
    expectNothingLeft();
  });

  it("inside a dialog too, and the dialog stands", async () => {
    const { tag, dialogId } = inCall();
    vi.spyOn(apps, "deliver").mockImplementationOnce(() => {
      throw new Error("a bug");
    });
    expect(receive("INVITE", { toTag: tag, seq: 2 }).statuses).toEqual([500]);
    expect(receive("INVITE", { toTag: tag, seq: 3 }).statuses).toEqual([]);
    respond(apps.lastTxn, "488 Not Acceptable Here");
    await endBy(dialogId);
  });
});

describe("taking a dialog back: `Route` on an INVITE with both tags (§4.4)", () => {
  const back = (routes: string, to = "To: <sip:alice@192.0.2.9>;tag=theirs\r\n"): string =>
    `From: <sip:100@192.0.2.1>;tag=ours\r\n${to}Call-ID: old-call\r\nCSeq: 1001 INVITE\r\n${routes}`;
  const routes = "Route: <sip:192.0.2.7;lr>, <sip:192.0.2.8;lr>\r\n";

  it("goes to the first of them, keeps them for the dialog, and lets the 2xx replace them", () => {
    for (const [recorded, expected] of [
      [[], ["<sip:192.0.2.7;lr>", "<sip:192.0.2.8;lr>"]],
      [["Record-Route: <sip:192.0.2.6;lr>"], ["<sip:192.0.2.6;lr>"]],
    ] as const) {
      start();
      const { outbound } = calling("sip:peer@192.0.2.9:5070", back(routes));
      expect(outbound.hops[0]).toMatchObject({ address: "192.0.2.7" });
      expect(outbound.request.uri).toBe("sip:peer@192.0.2.9:5070");
      expect(outbound.request.headers.all("Route")).toEqual(["<sip:192.0.2.7;lr>", "<sip:192.0.2.8;lr>"]);
      outbound.respond(183, "Progress");
      outbound.respond(200, "OK", "theirs", recorded);
      send("old-call;from-tag=ours", "ACK");
      send("old-call;from-tag=ours", "BYE");
      expect(network.last("BYE").request.headers.all("Route")).toEqual(expected);
    }
  });

  it("is discarded as ever without the peer's tag, and refused where it names no loose router", () => {
    const { outbound } = calling("sip:peer@192.0.2.9:5070", back(routes, "To: <sip:alice@192.0.2.9>\r\n"));
    expect(outbound.request.headers.has("Route")).toBe(false);
    for (const wrong of ["Route: <sip:192.0.2.7>\r\n", "Route: <tel:1;lr>\r\n", "Route: nothing\r\n"]) {
      agent.requestOutOfDialog(command(`INVITE sip:peer@192.0.2.9 SIP/2.0\r\n${back(wrong)}\r\n`), undefined);
    }
    expect(apps.refusals).toEqual(Array.from({ length: 3 }, () => "invalid route header"));
  });
});
