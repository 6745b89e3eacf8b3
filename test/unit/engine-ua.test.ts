import { beforeEach, describe, expect, it } from "vitest";

import { formatHostPort, parseUri } from "../../src/engine/sip/grammar.ts";
import { origin, response } from "./engine-fakes.ts";
import {
  agent,
  answered,
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

describe("times of the UAS, with T1 = 500 ms", () => {
  it("repeats a 200 after 0.5, 1.5, 3.5, 7.5 s and then every 4 s; BYE at 32 s (timer H)", async () => {
    const { inbound } = answered();
    const times: number[] = [];
    for (let at = 0; at < 31_900; at += 100) {
      const before = inbound.responses.length;
      await clock.advance(100);
      if (inbound.responses.length > before) {
        times.push(at + 100);
      }
    }
    expect(times).toEqual([500, 1500, 3500, 7500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]);
    expect(network.requests).toEqual([]);
    await clock.advance(100);
    const bye = network.last("BYE");
    expect(bye.request.headers.get("Reason")).toBe('SIP ;cause=200 ;text="ACK timeout"');
    expect(apps.deliveries.at(-1)).toMatchObject({
      source: "application",
      txnId: "unsolicited",
      dialogId: "call-1;from-tag=alice",
    });
    bye.respond(200);
    expectNothingLeft();
  });

  it("over TCP the 200 is repeated only when a proxy stands in between", async () => {
    for (const [vias, copies] of [
      [1, 1],
      [2, 3],
    ] as const) {
      const inbound = receive("INVITE", { callId: `tcp-${vias}`, vias, protocol: "tcp" });
      respond(apps.lastTxn, "200 OK");
      await clock.advance(2000);
      expect(inbound.statuses.filter((status) => status === 200)).toHaveLength(copies);
    }
  });

  it("answers an INVITE 408 at 64 s when no application does, and an OPTIONS not at all", async () => {
    const invite = receive("INVITE");
    const options = receive("OPTIONS", { callId: "other" });
    await clock.advance(63_999);
    expect([invite.statuses, options.statuses, options.abandoned]).toEqual([[], [], false]);
    await clock.advance(1);
    expect([invite.statuses, options.statuses, options.abandoned]).toEqual([[408], [], true]);
    expectNothingLeft();
  });

  it("rings again every minute, so that no proxy on the way gives up (RFC 3261 §13.3.1.1)", async () => {
    const invite = receive("INVITE", { headers: ["Supported: 100rel"] });
    const txnId = apps.lastTxn;
    respond(txnId, "180 Ringing");
    await clock.advance(59_000);
    expect(invite.statuses).toEqual([180]);
    await clock.advance(122_000);
    expect(invite.statuses).toEqual([180, 180, 180, 180]);
    respond(txnId, "183 Session Progress", "Require: 100rel\r\n", 1, "v=0\r\n");
    const rseq = invite.responses.at(-1)?.headers.get("RSeq") ?? "";
    receive("PRACK", { toTag: localTag(invite), seq: 2, headers: [`RAck: ${rseq} 1 INVITE`] });
    respond(apps.lastTxn, "200 OK");
    await clock.advance(60_000);
    // A reliable response has its number for one time; what follows is an ordinary one.
    const [reliable, plain] = invite.responses.slice(-2);
    expect([reliable?.headers.has("RSeq"), plain?.headers.has("RSeq")]).toEqual([true, false]);
    expect([plain?.status, plain?.body.length, plain?.headers.has("Content-Type")]).toEqual([183, 0, false]);
    respond(txnId, "486 Busy Here");
    await clock.advance(120_000);
    expect(invite.statuses.at(-1)).toBe(486);
    expectNothingLeft();
  });

  it("lets an INVITE ring for ten minutes at most", async () => {
    const invite = receive("INVITE");
    respond(apps.lastTxn, "180 Ringing");
    await clock.advance(599_999);
    expect(new Set(invite.statuses)).toEqual(new Set([180]));
    await clock.advance(1);
    expect(invite.statuses.at(-1)).toBe(408);
    expectNothingLeft();
  });

  it("answers a request inside a dialog 500 at 32 s", async () => {
    const { tag } = answered();
    receive("ACK", { toTag: tag });
    const info = receive("INFO", { toTag: tag, seq: 2 });
    await clock.advance(31_999);
    expect(info.statuses).toEqual([]);
    await clock.advance(1);
    expect(info.statuses).toEqual([500]);
  });

  it("a dialog without its application is ended after 30 s, unless another connection used it", async () => {
    const kept = answered("kept");
    const lost = answered("lost");
    for (const { tag, dialogId } of [kept, lost]) {
      receive("ACK", { toTag: tag, callId: dialogId.split(";")[0] ?? "" });
    }
    apps.connected.delete(1);
    agent.clientGone({ client: 1, tags: "", verbs: [] });
    apps.connected.add(2);
    await clock.advance(15_000);
    agent.requestInDialog(command("INFO sip:placeholder SIP/2.0\r\n\r\n", 2), kept.dialogId);
    network.last("INFO").respond(200);
    await clock.advance(14_999);
    expect(network.requests.filter((one) => one.request.method === "BYE")).toEqual([]);
    await clock.advance(1);
    const byes = network.requests.filter((one) => one.request.method === "BYE");
    expect(byes.map((one) => one.request.headers.get("Call-ID"))).toEqual(["lost"]);
    await clock.advance(60_000);
    expect(agent.stats().dialogs).toBe(1);
    expect(counters.get("orphansEnded")).toBe(1);
  });
});

describe("times of the UAC, with T1 = 500 ms", () => {
  it("487 of its own 32 s after the CANCEL, and silence 32 s later", async () => {
    const { outbound, txnId } = calling();
    outbound.respond(180);
    agent.cancel(command("CANCEL sip:x SIP/2.0\r\n\r\n"), txnId);
    expect(outbound.cancels).toBe(1);
    await clock.advance(31_999);
    expect(apps.lastLine).toContain("180");
    await clock.advance(1);
    expect(apps.lastLine).toBe("SIP/2.0 487 Request Terminated");
    expect(outbound.abandoned).toBe(true);
    await clock.advance(32_000);
    expectNothingLeft();
  });

  it("counts those 32 s from the first provisional response when the CANCEL was held until then", async () => {
    const { outbound, txnId } = calling();
    agent.cancel(command("CANCEL sip:x SIP/2.0\r\n\r\n"), txnId);
    await clock.advance(20_000);
    outbound.respond(100);
    await clock.advance(31_999);
    expect(apps.deliveries).toEqual([]);
    await clock.advance(1);
    expect(apps.lastLine).toContain("487");
  });

  it("cancels what rings for longer than the limit since its last provisional response", async () => {
    const { outbound } = calling();
    outbound.respond(180);
    await clock.advance(100_000);
    outbound.respond(183);
    await clock.advance(599_999);
    expect(outbound.cancels).toBe(0);
    await clock.advance(1);
    expect(outbound.cancels).toBe(1);
  });

  it("ACK and BYE when the application did not acknowledge a 2xx for 32 s", async () => {
    const { outbound } = calling();
    outbound.respond(200);
    await clock.advance(31_999);
    expect(network.sent).toEqual([]);
    await clock.advance(1);
    expect(network.sent.map(({ message: sent }) => sent.method)).toEqual(["ACK"]);
    expect(network.last("BYE").request.headers.get("Reason")).toContain("ACK timeout");
    expect(apps.deliveries.at(-1)?.txnId).toBe("unsolicited");
    network.last("BYE").respond(200);
    await clock.advance(10_000);
    expectNothingLeft();
  });

  it("keeps the ACK for 37 s and repeats it for every repetition of the 2xx", async () => {
    const { outbound } = calling();
    outbound.respond(200);
    agent.requestInDialog(command("ACK sip:x SIP/2.0\r\n\r\n"), dialogOf(outbound));
    await clock.advance(30_000);
    outbound.respond(200);
    expect(network.sent).toHaveLength(2);
    expect(network.sent[1]).toEqual(network.sent[0]);
    await clock.advance(7_000);
    outbound.respond(200);
    expect(network.sent).toHaveLength(2);
    expect(agent.stats()).toMatchObject({ dialogs: 1, outgoing: 0, timers: 0 });
  });
});

describe("forks", () => {
  it("the dialog is that of the branch that answered, not of the one that rang first", () => {
    const { outbound } = calling();
    outbound.respond(180, "Ringing", "first");
    outbound.respond(200, "OK", "second");
    expect(agent.stats().dialogs).toBe(1);
    agent.requestInDialog(command("ACK sip:x SIP/2.0\r\n\r\n"), dialogOf(outbound));
    expect(network.sent[0]?.message.headers.get("To")).toContain("tag=second");
    expect(network.requests.map((one) => one.request.method)).toEqual(["INVITE"]);
  });

  it("each further branch that answers is acknowledged and ended, once", () => {
    const { outbound } = calling();
    for (const tag of ["one", "two", "three", "two"]) {
      outbound.respond(200, "OK", tag);
    }
    const to = (one: { headers: { get(name: string): string | undefined } }): string =>
      /tag=(\w+)/.exec(one.headers.get("To") ?? "")?.[1] ?? "";
    expect(network.sent.map(({ message: ack }) => to(ack))).toEqual(["two", "three", "two"]);
    const byes = network.requests.filter((one) => one.request.method === "BYE");
    expect(byes.map((one) => to(one.request))).toEqual(["two", "three"]);
    expect(apps.deliveries).toHaveLength(1);
  });
});

describe("names that have to be looked up", () => {
  it("an ACK is never overtaken by the BYE behind it", () => {
    const { outbound } = calling();
    outbound.on.response(
      response(
        [
          "SIP/2.0 200 OK",
          `Via: ${outbound.request.headers.get("Via")}`,
          `From: ${outbound.request.headers.get("From")}`,
          `To: ${outbound.request.headers.get("To")};tag=t`,
          `Call-ID: ${outbound.request.headers.get("Call-ID")}`,
          `CSeq: ${outbound.request.headers.get("CSeq")}`,
          "Contact: <sip:peer@peer.example>",
        ].join("\r\n"),
      ),
      origin,
    );
    const dialogId = dialogOf(outbound);
    agent.requestInDialog(command("ACK sip:x SIP/2.0\r\n\r\n"), dialogId);
    agent.requestInDialog(command("BYE sip:placeholder SIP/2.0\r\n\r\n"), dialogId);
    expect(network.lookups).toHaveLength(1);
    expect([...network.sent, ...network.requests.slice(1)]).toEqual([]);
    network.lookups[0]?.done({ type: "hops", hops: [{ protocol: "udp", address: "192.0.2.8", port: 5060 }] });
    expect(network.sent.map(({ message: sent }) => sent.method)).toEqual(["ACK"]);
    expect(network.requests.map((one) => one.request.method)).toEqual(["INVITE"]);
    network.lookups[1]?.done({ type: "hops", hops: [{ protocol: "udp", address: "192.0.2.8", port: 5060 }] });
    expect(network.requests.map((one) => one.request.method)).toEqual(["INVITE", "BYE"]);
  });

  it("a call whose application left while its name was looked up is not made", () => {
    agent.requestOutOfDialog(command("INVITE sip:bob@slow.example SIP/2.0\r\n\r\n"), undefined);
    apps.connected.delete(1);
    agent.clientGone({ client: 1, tags: "", verbs: [] });
    network.lookups[0]?.done({ type: "hops", hops: [{ protocol: "udp", address: "192.0.2.8", port: 5060 }] });
    expect(network.requests).toEqual([]);
    expectNothingLeft();
  });

  it("a failed look-up is a 503 like any other server that cannot be reached", async () => {
    agent.requestOutOfDialog(command("INVITE sip:bob@nowhere.example SIP/2.0\r\n\r\n"), undefined);
    network.lookups[0]?.done({ type: "failed", reason: "name not found" });
    expect(apps.replies.at(-1)).toMatchObject({ type: "sent", kind: "request" });
    expect(apps.lastLine).toBe("SIP/2.0 503 DNS Error");
    await clock.advance(64_000);
    expectNothingLeft();
  });
});

describe("limits", () => {
  it("refuses new calls with 503 and Retry-After when too many wait, and serves a BYE even then", () => {
    start({ pendingRequests: 1 });
    const { tag } = answered();
    receive("ACK", { toTag: tag });
    receive("OPTIONS", { callId: "o" });
    const refused = receive("INVITE", { callId: "two" });
    expect(refused.statuses).toEqual([503]);
    expect(refused.responses[0]?.headers.get("Retry-After")).toBe("5");
    receive("BYE", { toTag: tag, seq: 2 });
    expect(apps.lastLine).toContain("BYE");
  });

  it("refuses new calls with 503 when there are too many dialogs", () => {
    start({ dialogs: 1 });
    answered();
    expect(receive("INVITE", { callId: "two" }).statuses).toEqual([503]);
  });

  it("refuses requests of applications when too many are on their way", () => {
    start({ outgoingRequests: 1 });
    calling();
    agent.requestOutOfDialog(command("OPTIONS sip:bob@192.0.2.9 SIP/2.0\r\n\r\n"), undefined);
    expect(apps.refusals).toEqual(["too many requests in progress"]);
  });

  it("refuses what piles up in a dialog that waits for its ACK", () => {
    const { dialogId } = answered();
    for (let sent = 0; sent < 65; sent += 1) {
      agent.requestInDialog(command("BYE sip:placeholder SIP/2.0\r\n\r\n"), dialogId);
    }
    expect(apps.refusals).toEqual(["too many requests in progress"]);
  });

  it("ends a 2xx that no dialog can be made for", () => {
    start({ dialogs: 1 });
    answered();
    const { outbound } = calling();
    outbound.respond(200);
    expect(network.sent.map(({ message: sent }) => sent.method)).toEqual(["ACK"]);
    expect(network.last("BYE").request.headers.get("Reason")).toContain("too many dialogs");
    expect(apps.lastLine).toContain("503");
  });
});

describe("the texts that drachtio-srf and applications match on", () => {
  it.each([
    ["ACK", "c;from-tag=x", "Server error: ACK for non-success final response is automatically generated by server"],
    ["BYE", "c;from-tag=x", "Server error: unable to find dialog for dialog id provided"],
    ["CANCEL", "c;from-tag=x", "Server error: unable to find dialog for dialog id provided"],
  ])("%s in an unknown dialog", (method, dialogId, text) => {
    agent.requestInDialog(command(`${method} sip:placeholder SIP/2.0\r\n\r\n`), dialogId);
    expect(apps.refusals).toEqual([text]);
  });

  it("unknown transactions", () => {
    respond("nothing", "200 OK");
    agent.cancel(command("CANCEL sip:x SIP/2.0\r\n\r\n"), "nothing|\r\n");
    expect(apps.refusals).toEqual([
      "Response not sent due to unknown transaction",
      "unable to cancel unknown transaction id: nothing???",
    ]);
  });

  it("reliable provisional responses the caller cannot take", () => {
    receive("INVITE", { callId: "plain" });
    respond(apps.lastTxn, "183 Session Progress", "Require: 100rel\r\n");
    receive("OPTIONS", { callId: "able", headers: ["Supported: timer, 100rel"] });
    respond(apps.lastTxn, "183 Session Progress", "Require: 100rel\r\n");
    expect(apps.refusals).toEqual(["Remote endpoint does not support 100rel", "invalid response to OPTIONS"]);
  });

  it("a second final response, a transport that is gone, a dialog there is already", () => {
    const { inbound } = answered();
    respond(apps.deliveries[0]?.txnId ?? "", "200 OK");
    const other = receive("INVITE", { callId: "other" });
    other.open = false;
    respond(apps.lastTxn, "200 OK");
    expect(apps.refusals).toEqual([
      "final response already sent",
      "transport for response has been shutdown or closed",
    ]);
    expect(inbound.statuses).toEqual([200]);
    expect(agent.stats().dialogs).toBe(1);
  });
});

describe("taking a dialog back after a restart of the engine (§4.4)", () => {
  it("keeps the application's Call-ID, tags and CSeq, and makes the dialog of both tags", () => {
    const { outbound } = calling(
      "sip:peer@192.0.2.9:5070",
      [
        "From: <sip:100@192.0.2.1>;tag=ours",
        "To: <sip:alice@192.0.2.9>;tag=theirs",
        "Call-ID: old-call",
        "CSeq: 1001 INVITE",
        "",
      ].join("\r\n"),
    );
    const { headers } = outbound.request;
    expect(headers.get("From")).toBe("<sip:100@192.0.2.1>;tag=ours");
    expect(headers.get("To")).toBe("<sip:alice@192.0.2.9>;tag=theirs");
    expect(headers.get("Call-ID")).toBe("old-call");
    expect(headers.get("CSeq")).toBe("1001 INVITE");
    outbound.respond(200);
    agent.requestInDialog(command("ACK sip:x SIP/2.0\r\n\r\n"), "old-call;from-tag=ours");
    agent.requestInDialog(command("BYE sip:placeholder SIP/2.0\r\n\r\n"), "old-call;from-tag=ours");
    const bye = network.last("BYE");
    expect(bye.request.headers.get("To")).toContain("tag=theirs");
    expect(bye.request.headers.get("CSeq")).toBe("1002 BYE");
  });
});

describe("identity of the software", () => {
  it("names itself in User-Agent and Server where the application does not", () => {
    const { outbound } = calling();
    expect(outbound.request.headers.get("User-Agent")).toBe("pb/1");
    const { inbound } = answered();
    expect(inbound.responses[0]?.headers.get("Server")).toBe("pb/1");
  });

  it("never names a host of its own accord that is not ours", () => {
    const { outbound } = calling();
    const contact = outbound.request.headers.get("Contact") ?? "";
    expect(contact).toBe(`<sip:${formatHostPort("192.0.2.1", 5060)}>`);
    expect(parseUri(contact.slice(1, -1))?.host).toBe("192.0.2.1");
  });
});
