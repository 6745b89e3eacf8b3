import { afterEach, beforeEach, describe, expect, it } from "vitest";

import type { SrfDialog, SrfInstance, SrfMessage, SrfReply, TestEngine } from "./engine-support.ts";
import { Closings, failure, RawCall, RawCallee, RawPeer, sdp, startTestEngine, tagOf } from "./engine-support.ts";

const closings = new Closings();
let sip: TestEngine;
let srf: SrfInstance;
let peer: RawPeer;

beforeEach(async () => {
  sip = await startTestEngine(closings);
  srf = await sip.connect();
  peer = await RawPeer.open(closings);
});

afterEach(async () => {
  await closings.closeAll();
});

interface Incoming {
  readonly call: RawCall;
  readonly dialog: SrfDialog;
}

/** A call from the peer, answered and acknowledged. */
async function incomingCall(headers: readonly string[] = []): Promise<Incoming> {
  const answered = new Promise<SrfDialog>((resolve, reject) => {
    srf.invite((req, res) => {
      srf.createUAS(req, res, { localSdp: sdp(5000) }).then((dialog) => {
        dialog.once("ack", () => {
          resolve(dialog);
        });
      }, reject);
    });
  });
  const call = new RawCall(peer, sip.port);
  await call.invite({ body: sdp(4000), headers });
  call.send("ACK");
  return { call, dialog: await answered };
}

interface Outgoing {
  readonly callee: RawCallee;
  readonly dialog: SrfDialog;
}

/** A call to the peer, answered and acknowledged. */
async function outgoingCall(headers: readonly string[] = []): Promise<Outgoing> {
  const calling = srf.createUAC(peer.uri, { localSdp: sdp(5000) });
  const callee = new RawCallee(peer, await peer.request("INVITE"));
  callee.reply(200, "OK", { body: sdp(4000), headers });
  const dialog = await calling;
  await peer.request("ACK");
  return { dialog, callee };
}

async function hangUp(dialog: SrfDialog): Promise<void> {
  const ended = dialog.destroy();
  const bye = await peer.request("BYE");
  peer.send(
    [
      "SIP/2.0 200 OK",
      `Via: ${bye.header("Via")}`,
      `From: ${bye.header("From")}`,
      `To: ${bye.header("To")}`,
      `Call-ID: ${bye.header("Call-ID")}`,
      `CSeq: ${bye.header("CSeq")}`,
      "Content-Length: 0",
      "",
      "",
    ].join("\r\n"),
    sip.port,
  );
  await ended;
}

const seqOf = (packet: { header(name: string): string }): number => parseInt(packet.header("CSeq"), 10);

describe("requests from the peer inside a dialog", () => {
  it.each(["INFO", "OPTIONS", "MESSAGE", "NOTIFY", "REFER", "UPDATE"])("%s reaches its listener", async (method) => {
    const { call, dialog } = await incomingCall();
    const got = new Promise<SrfMessage>((resolve) => {
      dialog.on(method.toLowerCase(), (req: SrfMessage, res: SrfReply) => {
        resolve(req);
        res.send(202, { headers: { "X-Answer": "yes" } });
      });
    });
    call.send(method, {
      headers: ["Refer-To: <sip:operator@192.0.2.1>", "Event: refer", "Subscription-State: active"],
      body: method === "UPDATE" ? "" : "signal=5",
    });
    const answer = await peer.response(202, method);
    expect(answer.header("X-Answer")).toBe("yes");
    expect(tagOf(answer.header("To"))).toBe(call.toTag);
    const req = await got;
    expect(req.stackDialogId).toBe(dialog.id);
    expect(req.body).toBe(method === "UPDATE" ? "" : "signal=5");
    await call.bye();
  });

  it.each(["INFO", "NOTIFY"])("%s in a call that we made", async (method) => {
    const { callee, dialog } = await outgoingCall();
    const got = new Promise<SrfMessage>((resolve) => {
      dialog.on(method.toLowerCase(), (req: SrfMessage, res: SrfReply) => {
        resolve(req);
        res.send(200);
      });
    });
    callee.send(method, { headers: ["Event: refer", "Subscription-State: terminated"] });
    await peer.response(200, method);
    expect((await got).stackDialogId).toBe(dialog.id);
    // A NOTIFY with `terminated` ends a subscription, never the call.
    expect(sip.engine.stats().agent.dialogs).toBe(1);
    await hangUp(dialog);
  });

  it("re-INVITE: 100 at once, delivered, 200 with our Contact repeated until the ACK", async () => {
    const { call, dialog } = await incomingCall();
    const acks: SrfMessage[] = [];
    dialog.on("ack", (ack: SrfMessage) => acks.push(ack));
    dialog.on("modify", (req: SrfMessage, res: SrfReply) => {
      expect(req.body).toBe(sdp(4010, 2));
      res.send(200, { body: sdp(5010, 2) });
    });
    call.send("INVITE", { body: sdp(4010, 2) });
    expect((await peer.response(100, "INVITE")).header("CSeq")).toBe("1 INVITE");
    expect((await peer.response(100, "INVITE")).header("CSeq")).toBe("2 INVITE");
    const ok = await peer.response(200, "INVITE");
    expect(ok.body).toBe(sdp(5010, 2));
    expect(ok.header("Contact")).toBe(`<sip:127.0.0.1:${sip.port}>`);
    const again = await peer.repeated(200, "INVITE");
    expect(again.text).toBe(ok.text);
    call.send("ACK");
    await expect.poll(() => acks.length).toBe(1);
    await call.bye();
  });

  it("re-INVITE whose 200 is never acknowledged ends the call by BYE", async () => {
    const { call, dialog } = await incomingCall();
    const destroyed = new Promise<string>((resolve) => {
      dialog.on("destroy", (_bye: SrfMessage, reason: string) => {
        resolve(reason);
      });
    });
    call.send("INVITE", { body: sdp(4010, 2) });
    await peer.response(200, "INVITE");
    const bye = await peer.request("BYE");
    expect(bye.header("Reason")).toContain("ACK timeout");
    peer.reply(bye, 200, "OK");
    expect(await destroyed).toBe("ACK timeout");
  });

  it("re-INVITE without SDP: our offer goes out in the 200, the answer comes in the ACK", async () => {
    const { call, dialog } = await incomingCall();
    dialog.on("modify", (req: SrfMessage, res: SrfReply) => {
      expect(req.body).toBe("");
      res.send(200, { body: sdp(5010, 2) });
    });
    const acked = new Promise<SrfMessage>((resolve) => {
      dialog.on("ack", resolve);
    });
    call.send("INVITE");
    expect((await peer.response(200, "INVITE")).body).toBe(sdp(5010, 2));
    call.send("ACK", { body: sdp(4010, 2) });
    expect((await acked).body).toBe(sdp(4010, 2));
    await call.bye();
  });

  it("re-INVITE cancelled by the peer: 487, and the call stands", async () => {
    const { call, dialog } = await incomingCall();
    const modified = new Promise<SrfMessage>((resolve) => {
      dialog.on("modify", resolve);
    });
    call.send("INVITE", { body: sdp(4010, 2) });
    const branch = call.lastBranch;
    const req = await modified;
    const cancelled = new Promise((resolve) => {
      req.on("cancel", resolve);
    });
    call.send("CANCEL", { branch, toTag: call.toTag });
    await peer.response(200, "CANCEL");
    await peer.response(487, "INVITE");
    call.send("ACK", { branch });
    await cancelled;
    expect(sip.engine.stats().agent.dialogs).toBe(1);
    await call.bye();
  });

  it("lower CSeq: 500", async () => {
    const { call } = await incomingCall();
    call.send("INFO", { seq: 5 });
    await peer.response(200, "INFO");
    call.send("INFO", { seq: 4 });
    const refused = await peer.response(500, "INFO");
    expect(refused.header("CSeq")).toBe("4 INFO");
    call.seq = 5;
    await call.bye();
  });

  it("second re-INVITE while the first is open: 500 with Retry-After of 0 to 10 s", async () => {
    const { call, dialog } = await incomingCall();
    const held = new Promise<SrfReply>((resolve) => {
      dialog.on("modify", (_req: SrfMessage, res: SrfReply) => {
        resolve(res);
      });
    });
    call.send("INVITE", { body: sdp(4010, 2) });
    const first = call.lastBranch;
    const res = await held;
    call.send("INVITE", { body: sdp(4012, 3) });
    const refused = await peer.response(500, "INVITE");
    expect(Number(refused.header("Retry-After"))).toBeGreaterThanOrEqual(0);
    expect(Number(refused.header("Retry-After"))).toBeLessThanOrEqual(10);
    call.send("ACK", { branch: call.lastBranch });
    res.send(488);
    await peer.response(488, "INVITE");
    call.send("ACK", { branch: first, seq: 2 });
    await call.bye();
  });

  it("re-INVITE and UPDATE with an offer while our own re-INVITE is open: 491", async () => {
    const { call, dialog } = await incomingCall();
    const modifying = dialog.request({ method: "INVITE", body: sdp(5010, 2) });
    const ours = await peer.request("INVITE");
    call.send("INVITE", { body: sdp(4010, 2) });
    await peer.response(491, "INVITE");
    call.send("ACK", { branch: call.lastBranch });
    call.send("UPDATE", { body: sdp(4010, 2) });
    await peer.response(491, "UPDATE");
    peer.reply(ours, 200, "OK", { body: sdp(4000) });
    expect((await modifying).status).toBe(200);
    await peer.request("ACK");
    await call.bye();
  });

  it("unanswered INFO: 500 after 64*T1, in place of silence", async () => {
    const { call, dialog } = await incomingCall();
    dialog.on("info", () => undefined);
    call.send("INFO");
    await peer.response(500, "INFO");
    await call.bye();
  });

  it("UPDATE is answered with a Contact (RFC 3311), a second one while it is open by 500", async () => {
    const { call, dialog } = await incomingCall();
    const held = new Promise<SrfReply>((resolve) => {
      dialog.on("update", (_req: SrfMessage, res: SrfReply) => {
        resolve(res);
      });
    });
    call.send("UPDATE", { body: sdp(4010, 2) });
    const res = await held;
    call.send("UPDATE", { body: sdp(4012, 3) });
    expect((await peer.response(500, "UPDATE")).headers("Retry-After")).toHaveLength(1);
    res.send(200, { body: sdp(5010, 2) });
    const ok = await peer.response(200, "UPDATE");
    expect(ok.header("Contact")).toBe(`<sip:127.0.0.1:${sip.port}>`);
    await call.bye();
  });
});

describe("requests of the application inside a dialog", () => {
  it.each(["INFO", "OPTIONS", "MESSAGE", "NOTIFY", "REFER", "UPDATE"])("%s", async (method) => {
    const { call, dialog } = await incomingCall();
    const sent = dialog.request({
      method,
      headers: { "X-A": "1", "Refer-To": "<sip:x@192.0.2.1>", "Content-Type": "text/plain" },
      body: "é",
    });
    const request = await peer.request(method);
    expect(request.startLine).toBe(`${method} ${peer.uri} SIP/2.0`);
    expect(tagOf(request.header("From"))).toBe(call.toTag);
    expect(tagOf(request.header("To"))).toBe(call.fromTag);
    expect(request.header("Call-ID")).toBe(call.callId);
    expect(request.header("X-A")).toBe("1");
    expect(request.body).toBe("é");
    expect(request.headers("Contact")).toHaveLength(["REFER", "NOTIFY", "UPDATE"].includes(method) ? 1 : 0);
    peer.reply(request, 202, "Accepted", { headers: ["X-B: 2"], contact: "" });
    const res = await sent;
    expect([res.status, res.get("X-B")]).toEqual([202, "2"]);
    await call.bye();
  });

  it("numbers its requests one after the other, on either side", async () => {
    const { dialog, callee } = await outgoingCall();
    const first = seqOf(callee.invite);
    for (const step of [1, 2, 3]) {
      const sent = dialog.request({ method: "INFO" });
      const info = await peer.request("INFO");
      expect(seqOf(info)).toBe(first + step);
      peer.reply(info, 200, "OK");
      await sent;
    }
    await hangUp(dialog);
  });

  it("refuses an INFO whose body has no type, and numbers on without a gap", async () => {
    const { dialog, callee } = await outgoingCall();
    const error = await failure(dialog.request({ method: "INFO", body: "v=0 or not" }));
    expect(error.message).toBe("Server error: missing content-type");
    const sent = dialog.request({ method: "INFO" });
    const info = await peer.request("INFO");
    expect(seqOf(info)).toBe(seqOf(callee.invite) + 1);
    peer.reply(info, 200, "OK");
    await sent;
    await hangUp(dialog);
  });

  it("REFER and its NOTIFYs with sipfrag", async () => {
    const { dialog, callee } = await outgoingCall();
    const notified: string[] = [];
    dialog.on("notify", (req: SrfMessage, res: SrfReply) => {
      notified.push(req.body);
      res.send(200);
    });
    const referred = dialog.request({
      method: "REFER",
      headers: { "Refer-To": "<sip:operator@192.0.2.1>", "Referred-By": "<sip:bot@192.0.2.2>" },
    });
    const refer = await peer.request("REFER");
    expect(refer.header("Referred-By")).toBe("<sip:bot@192.0.2.2>");
    peer.reply(refer, 202, "Accepted");
    expect((await referred).status).toBe(202);
    for (const fragment of ["SIP/2.0 100 Trying", "SIP/2.0 200 OK"]) {
      callee.send("NOTIFY", { headers: ["Event: refer", "Subscription-State: active"], body: fragment });
      await peer.response(200, "NOTIFY");
    }
    expect(notified).toEqual(["SIP/2.0 100 Trying", "SIP/2.0 200 OK"]);
    await hangUp(dialog);
  });

  it("re-INVITE by modify(), acknowledged with the same CSeq, its 200 by the same ACK again", async () => {
    const { dialog, call } = await incomingCall();
    const modified = dialog.modify(sdp(5010, 2));
    const reinvite = await peer.request("INVITE");
    expect(reinvite.body).toBe(sdp(5010, 2));
    expect(reinvite.header("Content-Type")).toBe("application/sdp");
    expect(reinvite.header("Contact")).toBe(dialog.local.contact);
    peer.reply(reinvite, 200, "OK", { body: sdp(4010, 2) });
    expect(await modified).toBe(sdp(4010, 2));
    const ack = await peer.request("ACK");
    expect(seqOf(ack)).toBe(seqOf(reinvite));
    peer.reply(reinvite, 200, "OK", { body: sdp(4010, 2) });
    expect((await peer.request("ACK")).text).toBe(ack.text);
    await call.bye();
  });

  it("re-INVITE answered by 183 and then 200: the 200 counts", async () => {
    const { dialog, call } = await incomingCall();
    const modified = dialog.modify(sdp(5010, 2));
    const reinvite = await peer.request("INVITE");
    peer.reply(reinvite, 183, "Session Progress");
    peer.reply(reinvite, 200, "OK", { body: sdp(4010, 2) });
    expect(await modified).toBe(sdp(4010, 2));
    await peer.request("ACK");
    await call.bye();
  });

  it("re-INVITE without SDP: the answer goes out in the ACK", async () => {
    const { dialog, call } = await incomingCall();
    const modified = dialog.modify({ noAck: true }) as unknown as Promise<{ sdp: string; ack: (sdp: string) => void }>;
    const reinvite = await peer.request("INVITE");
    expect(reinvite.body).toBe("");
    peer.reply(reinvite, 200, "OK", { body: sdp(4010, 2) });
    const offer = await modified;
    expect(offer.sdp).toBe(sdp(4010, 2));
    expect(peer.count((packet) => packet.method === "ACK")).toBe(0);
    offer.ack(sdp(5010, 2));
    expect((await peer.request("ACK")).body).toBe(sdp(5010, 2));
    await call.bye();
  });

  it("re-INVITE refused by 491 goes up unchanged, and the next one may follow", async () => {
    const { dialog, call } = await incomingCall();
    const refused = dialog.request({ method: "INVITE", body: sdp(5010, 2) });
    peer.reply(await peer.request("INVITE"), 491, "Request Pending");
    expect((await refused).status).toBe(491);
    await peer.request("ACK");
    const accepted = dialog.request({ method: "INVITE", body: sdp(5010, 2) });
    peer.reply(await peer.request("INVITE"), 200, "OK", { body: sdp(4010, 2) });
    expect((await accepted).status).toBe(200);
    await peer.request("ACK");
    await call.bye();
  });

  it("refuses a second re-INVITE while the first is open (RFC 3261 §14.1)", async () => {
    const { dialog, call } = await incomingCall();
    const first = dialog.request({ method: "INVITE", body: sdp(5010, 2) });
    const reinvite = await peer.request("INVITE");
    const error = await failure(dialog.request({ method: "INVITE", body: sdp(5012, 3) }));
    expect(error.message).toContain("another INVITE is in progress");
    peer.reply(reinvite, 200, "OK", { body: sdp(4010, 2) });
    await first;
    await peer.request("ACK");
    await call.bye();
  });

  it("answers a request in a dialog that is gone with ENODIALOG", async () => {
    const { dialog, call } = await incomingCall();
    await call.bye();
    const error = await failure(dialog.request({ method: "INFO" }));
    expect(error.message).toBe("Server error: unable to find dialog for dialog id provided");
    expect(error.code).toBe("ENODIALOG");
  });

  it("keeps the dialog after 481 or 408 to a request of ours", async () => {
    const { dialog, call } = await incomingCall();
    const sent = dialog.request({ method: "INFO" });
    peer.reply(await peer.request("INFO"), 481, "Call/Transaction Does Not Exist");
    expect((await sent).status).toBe(481);
    expect(sip.engine.stats().agent.dialogs).toBe(1);
    await call.bye();
  });
});

describe("BYE", () => {
  it("while our re-INVITE is open: CANCEL, a 487 for the application, then BYE", async () => {
    const { dialog } = await incomingCall();
    const modifying = failure(dialog.modify(sdp(5010, 2)));
    const reinvite = await peer.request("INVITE");
    peer.reply(reinvite, 100, "Trying");
    await expect.poll(() => sip.engine.stats().counters.responsesIn).toBeGreaterThan(0);
    const ended = dialog.destroy();
    const cancel = await peer.request("CANCEL");
    expect(cancel.header("CSeq")).toBe(reinvite.header("CSeq").replace("INVITE", "CANCEL"));
    const bye = await peer.request("BYE");
    expect(seqOf(bye)).toBe(seqOf(reinvite) + 1);
    peer.reply(cancel, 200, "OK");
    peer.reply(reinvite, 487, "Request Terminated");
    await peer.request("ACK");
    peer.reply(bye, 200, "OK");
    await ended;
    expect((await modifying).status).toBe(487);
  });

  it("from the peer while our re-INVITE is open: 487 for the application, a late 200 is still acknowledged", async () => {
    const { dialog, call } = await incomingCall();
    const modifying = failure(dialog.modify(sdp(5010, 2)));
    const reinvite = await peer.request("INVITE");
    await call.bye();
    expect((await modifying).status).toBe(487);
    peer.reply(reinvite, 200, "OK", { body: sdp(4010, 2) });
    expect(seqOf(await peer.request("ACK"))).toBe(seqOf(reinvite));
  });

  it("from the peer while its own re-INVITE is open: the re-INVITE gets 487", async () => {
    const { dialog, call } = await incomingCall();
    const modified = new Promise((resolve) => {
      dialog.on("modify", resolve);
    });
    call.send("INVITE", { body: sdp(4010, 2) });
    const branch = call.lastBranch;
    await modified;
    await call.bye();
    await peer.response(487, "INVITE");
    call.send("ACK", { branch, seq: 2 });
  });

  it("crossing BYEs: both sides get an answer", async () => {
    const { dialog, call } = await incomingCall();
    const ended = dialog.destroy();
    const ours = await peer.request("BYE");
    call.send("BYE");
    await peer.response(200, "BYE");
    peer.reply(ours, 481, "Call/Transaction Does Not Exist");
    await ended;
    expect(sip.engine.stats().agent.dialogs).toBe(0);
  });

  it("challenged by 401 keeps the dialog for the BYE with credentials", async () => {
    const { dialog } = await incomingCall();
    const ended = dialog.destroy({ auth: { username: "u", password: "p" } });
    const first = await peer.request("BYE");
    peer.reply(first, 401, "Unauthorized", { headers: ['WWW-Authenticate: Digest realm="r", nonce="n"'] });
    const second = await peer.request("BYE");
    expect(second.header("Authorization")).toContain('username="u"');
    expect(seqOf(second)).toBe(seqOf(first) + 1);
    expect(tagOf(second.header("To"))).toBe(tagOf(first.header("To")));
    peer.reply(second, 200, "OK");
    await ended;
    expect(sip.engine.stats().agent.dialogs).toBe(0);
  });

  it("never answered: the promise settles by a 408 after 64*T1 and the dialog is gone", async () => {
    const { dialog } = await incomingCall();
    await dialog.destroy();
    expect(sip.engine.stats().agent.dialogs).toBe(0);
  });

  it("a re-INVITE that crosses our BYE: 481", async () => {
    const { dialog, call } = await incomingCall();
    const ended = dialog.destroy();
    const bye = await peer.request("BYE");
    call.send("INVITE", { body: sdp(4010, 2) });
    await peer.response(481, "INVITE");
    call.send("ACK", { branch: call.lastBranch });
    peer.reply(bye, 200, "OK");
    await ended;
  });
});

describe("remote target and route set", () => {
  it("follows the Contact of an accepted re-INVITE", async () => {
    const { call, dialog } = await incomingCall();
    const moved = await RawPeer.open(closings);
    call.send("INVITE", { body: sdp(4010, 2), contact: `<sip:moved@127.0.0.1:${moved.port}>` });
    await peer.response(200, "INVITE");
    call.send("ACK");
    const sent = dialog.request({ method: "INFO" });
    const info = await moved.request("INFO");
    expect(info.startLine).toBe(`INFO sip:moved@127.0.0.1:${moved.port} SIP/2.0`);
    moved.reply(info, 200, "OK");
    await sent;
    await call.bye();
  });

  it("stays with the old one when the re-INVITE is refused", async () => {
    const { call, dialog } = await incomingCall();
    dialog.on("modify", (_req: SrfMessage, res: SrfReply) => {
      res.send(488);
    });
    call.send("INVITE", { body: sdp(4010, 2), contact: "<sip:moved@127.0.0.1:9>" });
    await peer.response(488, "INVITE");
    call.send("ACK", { branch: call.lastBranch });
    const sent = dialog.request({ method: "INFO" });
    const info = await peer.request("INFO");
    peer.reply(info, 200, "OK");
    await sent;
    await call.bye();
  });

  it("follows the Contact of the 2xx to our re-INVITE, already with its ACK", async () => {
    const { dialog } = await outgoingCall();
    const moved = await RawPeer.open(closings);
    const modified = dialog.modify(sdp(5010, 2));
    const reinvite = await peer.request("INVITE");
    peer.reply(reinvite, 200, "OK", { body: sdp(4010, 2), contact: `<sip:moved@127.0.0.1:${moved.port}>` });
    await modified;
    expect((await moved.request("ACK")).startLine).toBe(`ACK sip:moved@127.0.0.1:${moved.port} SIP/2.0`);
    const ended = dialog.destroy();
    moved.reply(await moved.request("BYE"), 200, "OK");
    await ended;
  });

  it("a re-INVITE whose Contact has no host: 400", async () => {
    const { call } = await incomingCall();
    call.send("INVITE", { body: sdp(4010, 2), contact: "<sip:>" });
    await peer.response(400, "INVITE");
    call.send("ACK", { branch: call.lastBranch });
    call.seq += 1;
    await call.bye();
  });

  it("UAS: loose routes in the order of the INVITE, sent to the first", async () => {
    const proxy = await RawPeer.open(closings);
    const routes = [`<sip:127.0.0.1:${proxy.port};lr>`, "<sip:10.0.0.2;lr>", "<sip:10.0.0.3;lr>"];
    const { call, dialog } = await incomingCall([
      `Record-Route: ${routes[0]}, ${routes[1]}`,
      `Record-Route: ${routes[2]}`,
    ]);
    const sent = dialog.request({ method: "INFO" });
    const info = await proxy.request("INFO");
    expect(info.startLine).toBe(`INFO ${peer.uri} SIP/2.0`);
    expect(info.headers("Route")).toEqual(routes);
    proxy.reply(info, 200, "OK");
    await sent;
    await call.bye();
  });

  it("UAC: the routes of the 200 in reverse order, ACK and BYE too", async () => {
    const proxy = await RawPeer.open(closings);
    const calling = srf.createUAC(peer.uri, { localSdp: sdp(5000) });
    const callee = new RawCallee(peer, await peer.request("INVITE"));
    callee.reply(200, "OK", {
      body: sdp(4000),
      headers: ["Record-Route: <sip:10.0.0.3;lr>, <sip:10.0.0.2;lr>", `Record-Route: <sip:127.0.0.1:${proxy.port};lr>`],
    });
    const dialog = await calling;
    const routes = [`<sip:127.0.0.1:${proxy.port};lr>`, "<sip:10.0.0.2;lr>", "<sip:10.0.0.3;lr>"];
    const ack = await proxy.request("ACK");
    expect(ack.startLine).toBe(`ACK ${peer.uri} SIP/2.0`);
    expect(ack.headers("Route")).toEqual(routes);
    const ended = dialog.destroy();
    const bye = await proxy.request("BYE");
    expect(bye.headers("Route")).toEqual(routes);
    proxy.reply(bye, 200, "OK");
    await ended;
  });

  it("a strict router gets its own URI, and the target at the end of the routes", async () => {
    const proxy = await RawPeer.open(closings);
    const { call, dialog } = await incomingCall([`Record-Route: <sip:127.0.0.1:${proxy.port}>, <sip:10.0.0.2;lr>`]);
    const sent = dialog.request({ method: "INFO" });
    const info = await proxy.request("INFO");
    expect(info.startLine).toBe(`INFO sip:127.0.0.1:${proxy.port} SIP/2.0`);
    expect(info.headers("Route")).toEqual(["<sip:10.0.0.2;lr>", `<${peer.uri}>`]);
    proxy.reply(info, 200, "OK");
    await sent;
    await call.bye();
  });
});

describe("delayed offer", () => {
  it("UAS: the ACK's body is delivered", async () => {
    const acked = new Promise<{ ack: SrfMessage; dialog: SrfDialog }>((resolve) => {
      srf.invite((req, res) => {
        void srf.createUAS(req, res, { localSdp: sdp(5000) }).then((dialog) => {
          dialog.on("ack", (ack: SrfMessage) => {
            resolve({ ack, dialog });
          });
        });
      });
    });
    const call = new RawCall(peer, sip.port);
    const ok = await call.invite({});
    expect(ok.body).toBe(sdp(5000));
    call.send("ACK", { body: sdp(4000) });
    const { ack, dialog } = await acked;
    expect(ack.body).toBe(sdp(4000));
    expect(dialog.remote.sdp).toBe(sdp(4000));
    await call.bye();
  });

  it("UAC: the 200 is not acknowledged by the engine, its repetitions are absorbed, the ACK carries the answer", async () => {
    const calling = srf.createUAC(peer.uri, { noAck: true }) as unknown as Promise<{
      sdp: string;
      ack: (sdp: string) => Promise<SrfDialog>;
    }>;
    const callee = new RawCallee(peer, await peer.request("INVITE"));
    expect(callee.invite.body).toBe("");
    callee.reply(200, "OK", { body: sdp(4000) });
    const offer = await calling;
    callee.reply(200, "OK", { body: sdp(4000) });
    callee.reply(200, "OK", { body: sdp(4000) });
    await expect.poll(() => sip.engine.stats().counters.responsesIn).toBe(3);
    expect(peer.count((packet) => packet.method === "ACK")).toBe(0);
    const dialog = await offer.ack(sdp(5000));
    const ack = await peer.request("ACK");
    expect(ack.body).toBe(sdp(5000));
    expect(ack.header("Content-Type")).toBe("application/sdp");
    await hangUp(dialog);
  });

  it("UAC: an application that never acknowledges: ACK and BYE after 64*T1", async () => {
    const calling = srf.createUAC(peer.uri, { noAck: true });
    const callee = new RawCallee(peer, await peer.request("INVITE"));
    callee.reply(200, "OK", { body: sdp(4000) });
    await calling;
    await peer.request("ACK");
    const bye = await peer.request("BYE");
    expect(bye.header("Reason")).toContain("ACK timeout");
    peer.reply(bye, 200, "OK");
  });
});
