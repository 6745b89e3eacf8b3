import { beforeEach, describe, expect, it } from "vitest";

import type { FakeInbound, FakeOutbound } from "./engine-fakes.ts";
import {
  agent,
  apps,
  calling,
  clock,
  command,
  counters,
  dialogOf,
  expectNothingLeft,
  localTag,
  network,
  receive,
  respond,
  start,
} from "./engine-ua-stage.ts";

beforeEach(() => {
  start();
});

const require100rel = "Require: 100rel\r\n";
const offering = { headers: ["Supported: 100rel"] };
const sdp = "v=0\r\n";

function rseq(inbound: FakeInbound): number {
  return Number(inbound.responses.at(-1)?.headers.get("RSeq"));
}

/** A caller's INVITE that the application answered by a reliable 183. */
function ringing(body = sdp, headers = ["Supported: 100rel"]): { invite: FakeInbound; txnId: string; tag: string } {
  const invite = receive("INVITE", { headers });
  const txnId = apps.lastTxn;
  respond(txnId, "183 Session Progress", require100rel, 1, body);
  return { invite, txnId, tag: localTag(invite) };
}

function prack(rack: string, toTag: string, seq = 2): FakeInbound {
  return receive("PRACK", { seq, toTag, headers: [`RAck: ${rack}`] });
}

/** Ends the call of `ringing`, so that nothing may be left. */
async function end(txnId: string): Promise<void> {
  respond(txnId, "486 Busy Here");
  await clock.advance(64_000);
  expectNothingLeft();
}

describe("UAS: reliable provisional responses (RFC 3262 §3)", () => {
  it("repeats one after 0.5, 1.5, 3.5, 7.5, 15.5 and 31.5 s, and ends the INVITE by 504 at 32 s", async () => {
    const { invite, txnId, tag } = ringing();
    const times: number[] = [];
    for (let at = 100; at < 32_000; at += 100) {
      const before = invite.responses.length;
      await clock.advance(100);
      if (invite.responses.length > before) {
        times.push(at);
      }
    }
    expect(times).toEqual([500, 1500, 3500, 7500, 15_500, 31_500]);
    expect(new Set(invite.responses.map((one) => one.headers.get("RSeq"))).size).toBe(1);
    await clock.advance(100);
    expect(invite.statuses.at(-1)).toBe(504);
    expect(apps.lastLine).toContain("CANCEL");
    expect(counters.get("prackTimeouts")).toBe(1);
    respond(txnId, "200 OK");
    expect(apps.refusals).toEqual(["Response not sent due to unknown transaction"]);
    expect(prack("1 1 INVITE", tag).statuses).toEqual([481]);
    expectNothingLeft();
  });

  it("starts RSeq between 1 and 2^31, adds one each time, and repeats nothing after the PRACK", async () => {
    const { invite, txnId, tag } = ringing("");
    const first = rseq(invite);
    expect(first).toBeGreaterThan(0);
    expect(first).toBeLessThan(2 ** 31);
    prack(`${first} 1 INVITE`, tag);
    respond(apps.lastTxn, "200 OK");
    await clock.advance(31_000);
    expect(invite.statuses).toEqual([183]);
    respond(txnId, "180 Ringing", require100rel);
    expect(rseq(invite)).toBe(first + 1);
    await end(txnId);
  });

  it("takes the PRACK that fits in all three parts, once, and answers any other 481", async () => {
    const { invite, txnId, tag } = ringing();
    const number = rseq(invite);
    const wrong = ["", `${number}`, `${number + 1} 1 INVITE`, `${number} 2 INVITE`, `${number} 1 UPDATE`, "x y z"];
    let seq = 1;
    for (const rack of wrong) {
      seq += 1;
      expect(prack(rack, tag, seq).statuses, rack).toEqual([481]);
    }
    const before = apps.deliveries.length;
    const good = prack(`${number} 1 INVITE`, tag, 20);
    expect(apps.deliveries.length).toBe(before + 1);
    expect(apps.lastLine).toContain("PRACK");
    expect(apps.deliveries.at(-1)?.dialogId).toBe("call-1;from-tag=alice");
    expect(prack(`${number} 1 INVITE`, tag, 21).statuses).toEqual([481]);
    respond(apps.lastTxn, "200 OK");
    expect(good.statuses).toEqual([200]);
    expect(prack(`${number} 1 INVITE`, tag, 22).statuses).toEqual([481]);
    await end(txnId);
  });

  it("has one on its way at a time: the next waits for the PRACK, in the order of the application", async () => {
    const { invite, txnId, tag } = ringing("");
    respond(txnId, "180 Ringing", require100rel);
    respond(txnId, "182 Queued", require100rel);
    respond(txnId, "181 Call Is Being Forwarded");
    // What is not reliable has nothing to wait for.
    expect(invite.statuses).toEqual([183, 181]);
    const first = Number(invite.responses[0]?.headers.get("RSeq"));
    prack(`${first} 1 INVITE`, tag);
    respond(apps.lastTxn, "200 OK");
    expect(invite.statuses).toEqual([183, 181, 180]);
    prack(`${first + 1} 1 INVITE`, tag, 3);
    respond(apps.lastTxn, "200 OK");
    expect(invite.statuses).toEqual([183, 181, 180, 182]);
    // Every command had its one reply: five responses to the INVITE and its PRACKs are out, none was refused.
    expect(apps.replies).toHaveLength(6);
    expect(apps.refusals).toEqual([]);
    await end(txnId);
  });

  it("a 2xx waits for the PRACK of a 1xx that had a session description, and for no other", async () => {
    const { invite, txnId, tag } = ringing();
    respond(txnId, "200 OK");
    expect(invite.statuses).toEqual([183]);
    prack(`${rseq(invite)} 1 INVITE`, tag);
    respond(apps.lastTxn, "200 OK");
    expect(invite.statuses).toEqual([183, 200]);
    receive("ACK", { toTag: tag });
    receive("BYE", { seq: 3, toTag: tag });
    respond(apps.lastTxn, "200 OK");
    expectNothingLeft();

    start();
    const plain = ringing("");
    respond(plain.txnId, "200 OK");
    expect(plain.invite.statuses).toEqual([183, 200]);
    const number = plain.invite.responses[0]?.headers.get("RSeq") ?? "";
    // RFC 3262 §3: a PRACK is taken after the final response too.
    prack(`${number} 1 INVITE`, plain.tag);
    expect(apps.lastLine).toContain("PRACK");
    respond(apps.lastTxn, "200 OK");
    receive("ACK", { toTag: plain.tag });
    receive("BYE", { seq: 3, toTag: plain.tag });
    respond(apps.lastTxn, "200 OK");
    await clock.advance(32_000);
    expect(plain.invite.statuses).toEqual([183, 200]);
    expectNothingLeft();
  });

  it("a failure does not wait, and what waited is refused; CANCEL does the same", async () => {
    const { invite, txnId } = ringing();
    respond(txnId, "200 OK");
    respond(txnId, "486 Busy Here");
    expect(invite.statuses).toEqual([183, 486]);
    expect(apps.refusals).toEqual(["Response not sent due to unknown transaction"]);
    await clock.advance(64_000);
    expectNothingLeft();

    start();
    const called = ringing();
    respond(called.txnId, "200 OK");
    const cancel = receive("OPTIONS", { callId: "other" });
    agent.onCancel(cancel, called.invite);
    expect(called.invite.statuses).toEqual([183, 487]);
    expect(apps.refusals).toEqual(["Response not sent due to unknown transaction"]);
  });

  it("an offer in the 183 and its answer in the PRACK: the PRACK's body is delivered", async () => {
    const { invite, txnId, tag } = ringing();
    receive("PRACK", {
      seq: 2,
      toTag: tag,
      headers: [`RAck: ${rseq(invite)} 1 INVITE`, "Content-Type: application/sdp"],
      body: "v=0 answer",
    });
    expect(apps.deliveries.at(-1)?.text).toMatch(/^PRACK [^]*v=0 answer$/);
    respond(apps.lastTxn, "200 OK");
    await end(txnId);
  });

  it("is refused where the INVITE does not offer it, added by itself where the INVITE requires it", async () => {
    const plain = receive("INVITE", { callId: "plain" });
    respond(apps.lastTxn, "183 Session Progress", require100rel);
    expect(apps.refusals).toEqual(["Remote endpoint does not support 100rel"]);
    expect(plain.statuses).toEqual([]);
    respond(apps.lastTxn, "486 Busy Here");

    const invite = receive("INVITE", { headers: ["Require: 100rel"] });
    const txnId = apps.lastTxn;
    respond(txnId, "180 Ringing");
    expect(invite.responses.at(-1)?.headers.list("Require")).toEqual(["100rel"]);
    expect(rseq(invite)).toBeGreaterThan(0);
    await end(txnId);
  });

  it("refuses what piles up behind a PRACK that does not come", async () => {
    const { txnId } = ringing();
    for (let sent = 0; sent < 20; sent += 1) {
      respond(txnId, "180 Ringing", require100rel);
    }
    expect(apps.refusals).toEqual(Array.from({ length: 4 }, () => "too many responses wait for a PRACK"));
    await end(txnId);
  });

  it("a re-INVITE whose PRACK does not come gets 504 and the call stands", async () => {
    const invite = receive("INVITE");
    respond(apps.lastTxn, "200 OK");
    const tag = localTag(invite);
    receive("ACK", { toTag: tag });
    const again = receive("INVITE", { seq: 5, toTag: tag, ...offering });
    respond(apps.lastTxn, "183 Session Progress", require100rel);
    const before = apps.deliveries.length;
    await clock.advance(32_000);
    expect(again.statuses.at(-1)).toBe(504);
    expect(apps.deliveries.length).toBe(before);
    receive("BYE", { seq: 6, toTag: tag });
    respond(apps.lastTxn, "200 OK");
    expectNothingLeft();
  });
});

describe("UAC: reliable provisional responses (RFC 3262 §4)", () => {
  function ring(outbound: FakeOutbound, number: number, tag = "their-tag", status = 183): void {
    outbound.respond(status, "Progress", tag, [`RSeq: ${number}`, "Require: 100rel"]);
  }

  function sendPrack(outbound: FakeOutbound, headers = ""): void {
    agent.requestInDialog(command(`PRACK sip:placeholder SIP/2.0\r\n${headers}\r\n`), dialogOf(outbound));
  }

  async function refused(outbound: FakeOutbound): Promise<void> {
    for (const { request, on } of network.requests) {
      if (request.method === "PRACK") {
        on.timeout();
      }
    }
    outbound.respond(486);
    await clock.advance(64_000);
    expectNothingLeft();
  }

  it("builds the PRACK of what it has stored, whatever the application writes", async () => {
    const { outbound } = calling();
    const seq = outbound.request.headers.get("CSeq")?.split(" ")[0] ?? "";
    ring(outbound, 700);
    sendPrack(outbound, "RAck: 700 1 INVITE\r\nX-Of-The-Application: 1\r\n");
    const { request } = network.last("PRACK");
    expect(request.uri).toBe("sip:peer@192.0.2.9:5070");
    expect(request.headers.all("RAck")).toEqual([`700 ${seq} INVITE`]);
    expect(request.headers.get("CSeq")).toBe(`${Number(seq) + 1} PRACK`);
    expect(request.headers.get("To")).toContain("tag=their-tag");
    expect(request.headers.get("X-Of-The-Application")).toBe("1");
    await refused(outbound);
  });

  it("carries the application's answer to an offer in the 183", async () => {
    const { outbound } = calling();
    ring(outbound, 700);
    agent.requestInDialog(command("PRACK sip:x SIP/2.0\r\n\r\nv=0 answer"), dialogOf(outbound));
    const { request } = network.last("PRACK");
    expect([request.body.toString(), request.headers.get("Content-Type")]).toEqual(["v=0 answer", "application/sdp"]);
    await refused(outbound);
  });

  it("absorbs repetitions and what comes out of order, and lets each be acknowledged once", async () => {
    const { outbound } = calling();
    const before = apps.deliveries.length;
    ring(outbound, 700);
    ring(outbound, 700);
    ring(outbound, 702);
    ring(outbound, 699);
    expect(apps.deliveries.length).toBe(before + 1);
    ring(outbound, 701);
    expect(apps.deliveries.length).toBe(before + 2);
    sendPrack(outbound, "RAck: 702 1 INVITE\r\n");
    sendPrack(outbound);
    sendPrack(outbound);
    sendPrack(outbound);
    const racks = network.requests.flatMap(({ request }) => request.headers.all("RAck"));
    expect(racks.map((rack) => rack.split(" ")[0])).toEqual(["700", "701"]);
    const nothing = "Server error: no provisional response waits for a PRACK";
    expect(apps.refusals).toEqual([nothing, nothing]);
    await refused(outbound);
  });

  it("each branch of a fork counts for itself, and its PRACK goes to that branch", async () => {
    const { outbound } = calling();
    ring(outbound, 10, "one");
    ring(outbound, 500, "two");
    ring(outbound, 11, "one");
    sendPrack(outbound, "RAck: 500 1 INVITE\r\n");
    sendPrack(outbound, "RAck: 10 1 INVITE\r\n");
    const tags = network.requests
      .filter(({ request }) => request.method === "PRACK")
      .map(({ request }) => request.headers.get("To")?.split("tag=")[1]);
    expect(tags).toEqual(["two", "one"]);
    expect(agent.stats().dialogs).toBe(2);
    await refused(outbound);
  });

  it("the branch that answers keeps its numbers; the other early dialogs are over", async () => {
    const { outbound } = calling();
    const seq = Number(outbound.request.headers.get("CSeq")?.split(" ")[0]);
    ring(outbound, 10, "one");
    ring(outbound, 500, "two");
    for (const rack of [500, 10]) {
      sendPrack(outbound, `RAck: ${rack} 1 INVITE\r\n`);
      network.last("PRACK").respond(200);
    }
    outbound.respond(200, "OK", "two");
    expect(agent.stats().dialogs).toBe(1);
    agent.requestInDialog(command("ACK sip:x SIP/2.0\r\n\r\n"), dialogOf(outbound));
    expect(network.sent.at(-1)?.message.headers.get("CSeq")).toBe(`${seq} ACK`);
    // A second answer is ended with a number above that of the PRACKs of its own branch.
    outbound.respond(200, "OK", "one");
    expect(network.last("BYE").request.headers.get("CSeq")).toBe(`${seq + 2} BYE`);
    network.last("BYE").respond(200);
    agent.requestInDialog(command("BYE sip:x SIP/2.0\r\n\r\n"), dialogOf(outbound));
    expect(network.last("BYE").request.headers.get("CSeq")).toBe(`${seq + 2} BYE`);
    network.last("BYE").respond(200);
    await clock.advance(64_000);
    expectNothingLeft();
  });

  it("an RSeq without its Require, or without a dialog, is no reliable response", async () => {
    const { outbound } = calling();
    outbound.respond(183, "Progress", "one", ["RSeq: 5"]);
    expect(apps.deliveries.at(-1)?.text).not.toContain("RSeq");
    ring(outbound, 0, "one");
    expect(apps.deliveries.at(-1)?.text).not.toContain("RSeq");
    await refused(outbound);
  });

  it("acknowledges after a CANCEL too, until the INVITE is answered", async () => {
    const { outbound, txnId } = calling();
    ring(outbound, 5);
    agent.cancel(command("CANCEL sip:bob@192.0.2.9 SIP/2.0\r\n\r\n"), txnId);
    sendPrack(outbound);
    expect(network.last("PRACK").request.headers.get("RAck")).toMatch(/^5 \d+ INVITE$/);
    outbound.respond(487);
    sendPrack(outbound);
    expect(apps.refusals.at(-1)).toBe("Server error: unable to find dialog for dialog id provided");
    network.last("PRACK").respond(200);
    await clock.advance(64_000);
    expectNothingLeft();
  });

  it("tells so many branches apart and no more", async () => {
    const { outbound } = calling();
    for (let branch = 0; branch < 40; branch += 1) {
      ring(outbound, 1, `tag-${branch}`);
    }
    expect(agent.stats().dialogs).toBe(16);
    await refused(outbound);
  });
});
