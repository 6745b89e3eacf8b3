import { afterEach, beforeEach, describe, expect, it } from "vitest";

import type { SrfDialog, SrfInstance, SrfMessage, SrfReply, TestEngine } from "./engine-support.ts";
import { Closings, failure, RawCall, RawPeer, sdp, startTestEngine, tagOf } from "./engine-support.ts";

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

interface Invited {
  readonly req: SrfMessage;
  readonly res: SrfReply;
}

/** The next INVITE the application gets, unanswered. */
async function invited(): Promise<Invited> {
  return new Promise((resolve) => {
    srf.invite((req, res) => {
      resolve({ req, res });
    });
  });
}

/** Answers every INVITE by createUAS. */
function answerAll(options: object = {}): { readonly dialogs: SrfDialog[]; readonly events: string[] } {
  const dialogs: SrfDialog[] = [];
  const events: string[] = [];
  srf.invite((req, res) => {
    srf.createUAS(req, res, { localSdp: sdp(5000), ...options }).then(
      (dialog) => {
        dialogs.push(dialog);
        dialog.on("ack", () => events.push("ack"));
        dialog.on("destroy", (_bye: SrfMessage, reason: string) => events.push(`destroy: ${reason}`));
      },
      (error: unknown) => events.push(`failed: ${String(error)}`),
    );
  });
  return { dialogs, events };
}

describe("createUAS", () => {
  it("answers a call and takes the caller's BYE", async () => {
    const { dialogs, events } = answerAll({ headers: { "X-Foo": "é" } });
    const call = new RawCall(peer, sip.port);
    const ok = await call.establish();
    expect(ok.header("X-Foo")).toBe("é");
    expect(ok.header("Content-Type")).toBe("application/sdp");
    expect(ok.header("Content-Length")).toBe(String(Buffer.byteLength(sdp(5000))));
    expect(ok.header("Contact")).toBe(`<sip:127.0.0.1:${sip.port}>`);
    expect(ok.body).toBe(sdp(5000));
    await expect.poll(() => events).toEqual(["ack"]);
    const [dialog] = dialogs;
    expect(dialog?.id).toBe(`${call.callId};from-tag=${call.fromTag}`);
    expect(dialog?.sip).toEqual({ callId: call.callId, localTag: call.toTag, remoteTag: call.fromTag });
    expect(dialog?.remote.sdp).toBe(sdp(4000));
    expect(srf.findDialogByCallIDAndFromTag(call.callId, call.fromTag)).toBe(dialog);
    await call.bye();
    expect(events).toEqual(["ack", "destroy: normal release"]);
    expect(dialog?.connected).toBe(false);
  });

  it("ends a call by its own BYE", async () => {
    const { dialogs, events } = answerAll();
    const call = new RawCall(peer, sip.port);
    await call.establish();
    await expect.poll(() => events).toEqual(["ack"]);
    const ended = dialogs[0]?.destroy({ headers: { "X-Reason": "done" } });
    const bye = await peer.request("BYE");
    expect(bye.startLine).toBe(`BYE ${peer.uri} SIP/2.0`);
    expect(bye.header("X-Reason")).toBe("done");
    expect(tagOf(bye.header("From"))).toBe(call.toTag);
    expect(tagOf(bye.header("To"))).toBe(call.fromTag);
    peer.reply(bye, 200, "OK");
    await ended;
    expect(sip.engine.stats().agent.dialogs).toBe(0);
  });

  it("sends 100 at once, before any application has seen the INVITE", async () => {
    const call = new RawCall(peer, sip.port);
    const asked = invited();
    call.send("INVITE", { body: sdp(4000) });
    const trying = await peer.response(100, "INVITE");
    expect(tagOf(trying.header("To"))).toBe("");
    const { res } = await asked;
    res.send(486);
    await peer.response(486, "INVITE");
    call.send("ACK", { branch: call.lastBranch });
  });

  it("tells the application where the request came from and came in", async () => {
    const call = new RawCall(peer, sip.port);
    const asked = invited();
    call.send("INVITE", { body: sdp(4000) });
    const { req, res } = await asked;
    expect([req.source, req.protocol, req.source_address, req.source_port]).toEqual([
      "network",
      "udp",
      "127.0.0.1",
      peer.port,
    ]);
    expect(req.receivedOn).toBe(`127.0.0.1:${sip.port}`);
    res.send(404);
    await peer.response(404, "INVITE");
  });

  it("keeps one To tag over all responses, and the application's own where it brings one", async () => {
    const call = new RawCall(peer, sip.port);
    const asked = invited();
    call.send("INVITE", { body: sdp(4000) });
    const { res } = await asked;
    res.send(180, { headers: { To: "<sip:x>;tag=chosen-by-app" } });
    res.send(183, { body: sdp(5000) });
    res.send(486);
    const tags = [
      await peer.response(180, "INVITE"),
      await peer.response(183, "INVITE"),
      await peer.response(486, "INVITE"),
    ].map((response) => tagOf(response.header("To")));
    expect(tags).toEqual(["chosen-by-app", "chosen-by-app", "chosen-by-app"]);
  });

  it("puts Contact and Record-Route on responses that make a dialog, and not on others", async () => {
    const call = new RawCall(peer, sip.port);
    const asked = invited();
    const routes = ["Record-Route: <sip:10.0.0.1;lr>, <sip:10.0.0.2;lr>", "Record-Route: <sip:10.0.0.3;lr>"];
    call.send("INVITE", { headers: routes });
    const { res } = await asked;
    res.send(180);
    res.send(486);
    const ringing = await peer.response(180, "INVITE");
    expect(ringing.header("Contact")).toBe(`<sip:127.0.0.1:${sip.port}>`);
    expect(ringing.headers("Record-Route")).toEqual(["<sip:10.0.0.1;lr>, <sip:10.0.0.2;lr>", "<sip:10.0.0.3;lr>"]);
    const busy = await peer.response(486, "INVITE");
    expect(busy.headers("Contact")).toEqual([]);
    expect(busy.headers("Record-Route")).toEqual([]);
  });
});

describe("2xx and its ACK", () => {
  it("repeats the 200 until the ACK comes", async () => {
    const { events } = answerAll();
    const call = new RawCall(peer, sip.port);
    const ok = await call.invite();
    await peer.repeated(200, "INVITE");
    await peer.repeated(200, "INVITE");
    const third = await peer.repeated(200, "INVITE");
    expect(third.text).toBe(ok.text);
    call.send("ACK");
    await expect.poll(() => events).toEqual(["ack"]);
    await call.bye();
  });

  it("delivers a repeated ACK once only", async () => {
    const { events } = answerAll();
    const call = new RawCall(peer, sip.port);
    await call.establish();
    await expect.poll(() => events).toEqual(["ack"]);
    call.send("ACK");
    call.send("ACK");
    await call.bye();
    expect(events).toEqual(["ack", "destroy: normal release"]);
    expect(sip.engine.stats().counters.acksUnmatched).toBe(2);
  });

  it("answers a repeated INVITE with the 200 it has", async () => {
    answerAll();
    const call = new RawCall(peer, sip.port);
    const text = call.send("INVITE", { body: sdp(4000) });
    const ok = await peer.response(200, "INVITE");
    peer.send(text, sip.port);
    const again = await peer.repeated(200, "INVITE");
    expect(again.text).toBe(ok.text);
    call.toTag = tagOf(ok.header("To"));
    call.send("ACK");
    await call.bye();
  });

  it("sends BYE when no ACK came in 64*T1, and tells the application", async () => {
    const { dialogs, events } = answerAll();
    const call = new RawCall(peer, sip.port);
    await call.invite();
    const bye = await peer.request("BYE");
    expect(bye.header("Reason")).toBe('SIP ;cause=200 ;text="ACK timeout"');
    peer.reply(bye, 200, "OK");
    await expect.poll(() => events).toEqual(["destroy: ACK timeout"]);
    expect(dialogs[0]?.connected).toBe(false);
    expect(sip.engine.stats().agent.dialogs).toBe(0);
  });

  it("holds the application's BYE until the ACK came", async () => {
    const { dialogs } = answerAll();
    const call = new RawCall(peer, sip.port);
    await call.invite();
    await expect.poll(() => dialogs.length).toBe(1);
    const ended = dialogs[0]?.destroy();
    await peer.repeated(200, "INVITE");
    expect(peer.count((packet) => packet.method === "BYE")).toBe(0);
    call.send("ACK");
    const bye = await peer.request("BYE");
    peer.reply(bye, 200, "OK");
    await ended;
  });

  it("sends the held BYE after 64*T1 when no ACK comes", async () => {
    const { dialogs, events } = answerAll();
    const call = new RawCall(peer, sip.port);
    await call.invite();
    await expect.poll(() => dialogs.length).toBe(1);
    const ended = dialogs[0]?.destroy();
    const bye = await peer.request("BYE");
    expect(bye.headers("Reason")).toEqual([]);
    peer.reply(bye, 200, "OK");
    await ended;
    expect(events).toEqual([]);
    expect(peer.count((packet) => packet.method === "BYE")).toBe(1);
  });

  it("absorbs the ACK to a failure and repeats the failure until it comes", async () => {
    const asked = invited();
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000) });
    const { res } = await asked;
    res.send(486);
    await peer.response(486, "INVITE");
    const again = await peer.repeated(486, "INVITE");
    call.toTag = tagOf(again.header("To"));
    call.send("ACK", { branch: call.lastBranch });
  });
});

describe("responses of the application that come too late", () => {
  it("refuses a response to a transaction that is over", async () => {
    const asked = invited();
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000) });
    const { req, res } = await asked;
    call.send("CANCEL", { branch: call.lastBranch });
    await peer.response(487, "INVITE");
    const error = await failure(srf.createUAS(req, res, { localSdp: sdp(5000) }));
    expect(error.message).toBe("Response not sent due to unknown transaction");
    call.send("ACK", { branch: call.lastBranch });
  });

  it("answers an INVITE 408 when the application does not answer for 128*T1, and refuses its answer then", async () => {
    const asked = invited();
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000) });
    const { req, res } = await asked;
    await peer.response(408, "INVITE");
    call.send("ACK", { branch: call.lastBranch });
    const error = await failure(srf.createUAS(req, res, { localSdp: sdp(5000) }));
    expect(error.message).toBe("Response not sent due to unknown transaction");
  });

  it("answers a request that is no INVITE not at all", async () => {
    const got = new Promise<SrfReply>((resolve) => {
      srf.options((_req, res) => {
        resolve(res);
      });
    });
    const call = new RawCall(peer, sip.port);
    call.send("OPTIONS");
    await got;
    await expect.poll(() => sip.engine.isIdle(), { timeout: 5000 }).toBe(true);
    expect(peer.count((packet) => packet.status > 0)).toBe(0);
  });
});

describe("CANCEL from the caller", () => {
  it.each([["before any response"], ["after 180"]])("%s: 200, 487 and a cancel event", async (when) => {
    const asked = invited();
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000) });
    const branch = call.lastBranch;
    const { req, res } = await asked;
    if (when === "after 180") {
      res.send(180);
      await peer.response(180, "INVITE");
    }
    const cancelled = new Promise<SrfMessage>((resolve) => {
      req.on("cancel", resolve);
    });
    call.send("CANCEL", { branch, headers: ['Reason: SIP;cause=200;text="Call completed elsewhere"'] });
    const ok = await peer.response(200, "CANCEL");
    const terminated = await peer.response(487, "INVITE");
    expect(tagOf(ok.header("To"))).toBe(tagOf(terminated.header("To")));
    expect((await cancelled).get("Reason")).toContain("Call completed elsewhere");
    call.toTag = tagOf(terminated.header("To"));
    call.send("ACK", { branch });
    expect(sip.engine.stats().agent.dialogs).toBe(0);
    expect(sip.engine.stats().agent.incoming).toBe(0);
  });

  it("after the 200: 481, and the call stands", async () => {
    const { events } = answerAll();
    const call = new RawCall(peer, sip.port);
    const ok = await call.invite();
    const branch = call.lastBranch;
    call.send("CANCEL", { branch });
    await peer.response(481, "CANCEL");
    expect(ok.status).toBe(200);
    call.send("ACK");
    await expect.poll(() => events).toEqual(["ack"]);
    await call.bye();
  });

  it("of nothing: 481", async () => {
    const call = new RawCall(peer, sip.port);
    call.seq = 1;
    call.send("CANCEL");
    await peer.response(481, "CANCEL");
  });

  it("matches although a NAT changed the sent-by", async () => {
    const asked = invited();
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000) });
    const branch = call.lastBranch;
    await asked;
    call.send("CANCEL", { branch, via: `Via: SIP/2.0/UDP 192.0.2.77:5099;rport;branch=${branch}` });
    await peer.response(200, "CANCEL");
    await peer.response(487, "INVITE");
    call.send("ACK", { branch });
  });

  it("by BYE in the early dialog: 200, 487 and a cancel event", async () => {
    const asked = invited();
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000) });
    const branch = call.lastBranch;
    const { req, res } = await asked;
    res.send(180);
    call.toTag = tagOf((await peer.response(180, "INVITE")).header("To"));
    const cancelled = new Promise((resolve) => {
      req.on("cancel", resolve);
    });
    call.send("BYE");
    await peer.response(200, "BYE");
    await peer.response(487, "INVITE");
    await cancelled;
    call.send("ACK", { branch, seq: 1 });
    expect(sip.engine.stats().agent.dialogs).toBe(0);
  });
});

describe("refused before any application sees it", () => {
  const contactless = { contact: undefined };

  it.each([
    ["an INVITE without Contact", contactless, 400],
    ["an INVITE with Contact: *", { contact: "*" }, 400],
    ["an INVITE whose Contact has no host", { contact: "<sip:>" }, 400],
    ["an INVITE whose Contact is a telephone number", { contact: "<tel:+49123>" }, 400],
    ["an unknown scheme", { uri: "nobodyKnowsThisScheme:totallyopaquecontent" }, 416],
    ["an unknown extension", { headers: ["Require: nothingSupportsThis, nothingSupportsThisEither"] }, 420],
    ["an INVITE of an unknown dialog", { toTag: "unknown" }, 481],
  ])("%s", async (_name, parts, status) => {
    const { events, dialogs } = answerAll();
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000), ...parts });
    const refused = await peer.response(status, "INVITE");
    if (status === 420) {
      expect(refused.header("Unsupported")).toBe("nothingSupportsThis, nothingSupportsThisEither");
    }
    call.toTag = tagOf(refused.header("To"));
    expect(call.toTag).not.toBe("");
    call.send("ACK", { branch: call.lastBranch, toTag: call.toTag });
    expect([...events, ...dialogs]).toEqual([]);
  });

  it("an INVITE without a From tag", async () => {
    const { events } = answerAll();
    const call = new RawCall(peer, sip.port);
    peer.send(call.text("INVITE").replace(`;tag=${call.fromTag}`, ""), sip.port);
    await peer.response(400, "INVITE");
    expect(events).toEqual([]);
  });

  it.each(["BYE", "UPDATE", "REFER", "PRACK"])("%s of an unknown dialog: 481", async (method) => {
    srf.use(method.toLowerCase(), () => undefined);
    new RawCall(peer, sip.port).send(method, { toTag: "unknown" });
    await peer.response(481, method);
  });

  it.each(["OPTIONS", "INFO", "NOTIFY", "MESSAGE"])("%s of an unknown dialog is a new request", async (method) => {
    srf.use(method.toLowerCase(), (req, res) => {
      expect(req.stackDialogId).toBe("");
      res.send(202);
    });
    await routed(method);
    new RawCall(peer, sip.port).send(method, { toTag: "unknown" });
    const answer = await peer.response(202, method);
    expect(answer.header("To")).toContain("tag=unknown");
  });

  it.each([
    ["OPTIONS", 503],
    ["INVITE", 503],
    ["REFER", 405],
    ["UNHEARDOF", 501],
  ])("%s that no application routed: %d", async (method, status) => {
    const call = new RawCall(peer, sip.port);
    call.send(method);
    await peer.response(status, method);
    if (method === "INVITE") {
      call.send("ACK", { branch: call.lastBranch });
    }
  });

  it("a REFER out of dialog is delivered where an application routed it", async () => {
    srf.refer((_req, res) => {
      res.send(603);
    });
    await routed("REFER");
    new RawCall(peer, sip.port).send("REFER", { headers: ["Refer-To: <sip:x@192.0.2.1>"] });
    await peer.response(603, "REFER");
  });

  it("a method with percent escapes: 501, never what it decodes to", async () => {
    srf.use("register", (_req, res) => {
      res.send(200);
    });
    await routed("REGISTER");
    new RawCall(peer, sip.port).send("RE%47IST%45R");
    await peer.response(501, "RE%47IST%45R");
  });

  it("a second INVITE of the same Call-ID while the first rings: 482", async () => {
    const asked = invited();
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000) });
    const branch = call.lastBranch;
    const { res } = await asked;
    call.send("INVITE", { body: sdp(4000) });
    await peer.response(482, "INVITE");
    call.send("ACK", { branch: call.lastBranch });
    res.send(486);
    await peer.response(486, "INVITE");
    call.send("ACK", { branch, seq: 1 });
  });

  it("an INVITE that would be the same dialog again: 480", async () => {
    answerAll();
    const call = new RawCall(peer, sip.port);
    await call.establish();
    call.send("INVITE", { toTag: "", uri: `sip:100@127.0.0.1:${sip.port}` });
    const refused = await peer.response(480, "INVITE");
    expect(refused.startLine).toContain("dialog already exists");
    call.send("ACK", { branch: call.lastBranch, toTag: tagOf(refused.header("To")) });
    await call.bye();
  });
});

/** The route has reached the engine when it answers by the application. */
async function routed(method: string): Promise<void> {
  await expect.poll(() => sip.engine.stats().wire.routes).toBeGreaterThan(0);
  expect(method).toBe(method.toUpperCase());
}

describe("what drachtio-srf gets to read", () => {
  it("is cleaned: whole lines, full names, no folds, no runs of blanks", async () => {
    const asked = invited();
    const call = new RawCall(peer, sip.port);
    const text = call
      .text("INVITE", { headers: ["Subject: one\r\n   two", "k: a,   b", "C%6Fntact: <sip:evil@x>", "__proto__: x"] })
      .replace("Contact:", "m:");
    peer.send(text, sip.port);
    const { req, res } = await asked;
    expect(req.get("Subject")).toBe("one two");
    expect(req.get("Supported")).toBe("a, b");
    expect(req.get("Contact")).toBe(`<${peer.uri}>`);
    expect(Object.getPrototypeOf(req.headers)).toBe(Object.prototype);
    res.send(486);
    await peer.response(486, "INVITE");
    call.send("ACK", { branch: call.lastBranch });
  });

  it("keeps a body of several bytes per character whole", async () => {
    const got = new Promise<SrfMessage>((resolve) => {
      srf.message((req, res) => {
        resolve(req);
        res.send(200);
      });
    });
    await routed("MESSAGE");
    const call = new RawCall(peer, sip.port);
    call.send("MESSAGE", { body: "Привет 🙂 é" });
    expect((await got).body).toBe("Привет 🙂 é");
    await peer.response(200, "MESSAGE");
  });
});
