import { createHash } from "node:crypto";

import { afterEach, beforeEach, describe, expect, it } from "vitest";

import type { SrfDialog, SrfInstance, SrfMessage, TestEngine } from "./engine-support.ts";
import {
  Closings,
  failure,
  RawCallee,
  RawPeer,
  RawTcpPeer,
  replyText,
  sdp,
  startTestEngine,
  tagOf,
  uriOf,
} from "./engine-support.ts";

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

/** Answers the INVITE and its ACK, and hands both sides over. */
async function callPeer(options: object = {}): Promise<{ dialog: SrfDialog; callee: RawCallee }> {
  const calling = srf.createUAC(peer.uri, { localSdp: sdp(5000), ...options });
  const callee = new RawCallee(peer, await peer.request("INVITE"));
  callee.reply(200, "OK", { body: sdp(4000) });
  const dialog = await calling;
  await peer.request("ACK");
  return { dialog, callee };
}

async function hangUp(dialog: SrfDialog): Promise<void> {
  const ended = dialog.destroy();
  peer.reply(await peer.request("BYE"), 200, "OK");
  await ended;
}

describe("createUAC", () => {
  it("sends the default headers of the specification", async () => {
    const { dialog, callee } = await callPeer();
    const { invite } = callee;
    expect(invite.startLine).toBe(`INVITE ${peer.uri} SIP/2.0`);
    expect(invite.header("Via")).toMatch(
      new RegExp(`^SIP/2\\.0/UDP 127\\.0\\.0\\.1:${sip.port};rport;branch=z9hG4bK[0-9a-f]{16,}$`),
    );
    expect(invite.header("Max-Forwards")).toBe("70");
    expect(invite.header("From")).toMatch(new RegExp(`^<sip:127\\.0\\.0\\.1:${sip.port}>;tag=[0-9a-f]{16}$`));
    expect(invite.header("To")).toBe(`<${peer.uri}>`);
    expect(invite.header("Contact")).toBe(`<sip:127.0.0.1:${sip.port}>`);
    expect(invite.header("Call-ID")).toMatch(/^[0-9a-f-]{36}$/);
    expect(invite.header("CSeq")).toMatch(/^[1-9]\d* INVITE$/);
    expect(invite.header("Content-Type")).toBe("application/sdp");
    expect(invite.body).toBe(sdp(5000));
    expect(dialog.id).toBe(`${invite.header("Call-ID")};from-tag=${tagOf(invite.header("From"))}`);
    expect(dialog.sip.remoteTag).toBe(callee.tag);
    expect(dialog.remote.sdp).toBe(sdp(4000));
    await hangUp(dialog);
  });

  it("replaces @localhost in From, Contact, To and P-Asserted-Identity, and nowhere else", async () => {
    const { dialog, callee } = await callPeer({
      callingNumber: "123",
      callingName: "Nm é",
      headers: {
        To: "<sip:bob@localhost>",
        "P-Asserted-Identity": "<sip:555@localhost>",
        "X-Raw": "a@localhost",
        "x-lower-case": "1",
        "my-own-header": "2",
        "user-agent": "pb",
      },
    });
    const { invite } = callee;
    const here = `127.0.0.1:${sip.port}`;
    expect(invite.header("From")).toMatch(new RegExp(`^"Nm é" <sip:123@${here}>;tag=`));
    expect(invite.header("Contact")).toBe(`"Nm é" <sip:123@${here}>`);
    expect(invite.header("To")).toBe(`<sip:bob@${here}>`);
    expect(invite.header("P-Asserted-Identity")).toBe(`<sip:555@${here}>`);
    expect(invite.header("X-Raw")).toBe("a@localhost");
    expect(invite.text).toContain("\r\nx-lower-case: 1\r\n");
    expect(invite.text).toContain("\r\nmy-Own-Header: 2\r\n");
    expect(invite.text).toContain("\r\nUser-Agent: pb\r\n");
    await hangUp(dialog);
  });

  it("discards what an application may not set", async () => {
    const { dialog, callee } = await callPeer({
      headers: {
        Via: "SIP/2.0/UDP 192.0.2.1",
        Route: "<sip:192.0.2.2;lr>",
        "Record-Route": "<sip:192.0.2.3;lr>",
        RSeq: "1",
        "Call-ID": "chosen@app",
        "Max-Forwards": "20",
      },
    });
    const { invite } = callee;
    expect(invite.headers("Via")).toHaveLength(1);
    expect(invite.text).not.toMatch(/192\.0\.2|RSeq/);
    expect(invite.header("Call-ID")).toBe("chosen@app");
    expect(invite.header("Max-Forwards")).toBe("20");
    await hangUp(dialog);
  });

  it("uses `proxy` as the next hop and leaves the request URI alone", async () => {
    const calling = srf.createUAC("sip:bob@operator.example;x=1", {
      localSdp: sdp(5000),
      proxy: `sip:127.0.0.1:${peer.port}`,
    });
    const callee = new RawCallee(peer, await peer.request("INVITE"));
    expect(callee.invite.startLine).toBe("INVITE sip:bob@operator.example;x=1 SIP/2.0");
    expect(callee.invite.header("To")).toBe("<sip:bob@operator.example;x=1>");
    expect(callee.invite.headers("Route")).toEqual([]);
    callee.reply(200, "OK", { body: sdp(4000) });
    const dialog = await calling;
    expect((await peer.request("ACK")).startLine).toBe(`ACK ${peer.uri} SIP/2.0`);
    await hangUp(dialog);
  });

  it("hands provisional responses over, 100 excepted", async () => {
    const provisional: number[] = [];
    const calling = srf.createUAC(
      peer.uri,
      { localSdp: sdp(5000) },
      { cbProvisional: (res) => provisional.push(res.status) },
    );
    const callee = new RawCallee(peer, await peer.request("INVITE"));
    callee.reply(100, "Trying");
    callee.reply(180, "Ringing");
    callee.reply(183, "Session Progress", { body: sdp(4000) });
    callee.reply(200, "OK", { body: sdp(4000) });
    const dialog = await calling;
    expect(provisional).toEqual([180, 183]);
    await hangUp(dialog);
  });

  it.each([
    [486, "Busy Here"],
    [603, "Decline"],
    [302, "Moved Temporarily"],
    [503, "Service Unavailable"],
  ])("acknowledges %d itself and rejects with the status", async (status, reason) => {
    const calling = failure(srf.createUAC(peer.uri, { localSdp: sdp(5000) }));
    const callee = new RawCallee(peer, await peer.request("INVITE"));
    callee.reply(status, reason, { headers: ["X-Why: because"] });
    const ack = await peer.request("ACK");
    expect(ack.header("Via")).toBe(callee.invite.header("Via"));
    expect(ack.header("To")).toContain(callee.tag);
    expect((await calling).status).toBe(status);
    callee.reply(status, reason);
    await peer.request("ACK");
    expect(sip.engine.stats().agent.dialogs).toBe(0);
  });

  it("answers a digest challenge with the application's credentials, on the same Call-ID with the next CSeq", async () => {
    const calling = srf.createUAC(peer.uri, { localSdp: sdp(5000), auth: { username: "u", password: "p" } });
    const first = new RawCallee(peer, await peer.request("INVITE"));
    first.reply(407, "Proxy Authentication Required", {
      headers: ['Proxy-Authenticate: Digest realm="trunk", nonce="n1", algorithm=MD5'],
    });
    await peer.request("ACK");
    const second = new RawCallee(peer, await peer.request("INVITE"));
    const [was, is] = [first.invite, second.invite];
    expect(is.header("Call-ID")).toBe(was.header("Call-ID"));
    expect(is.header("From")).toBe(was.header("From"));
    expect(is.header("To")).toBe(was.header("To"));
    expect(parseInt(is.header("CSeq"), 10)).toBe(parseInt(was.header("CSeq"), 10) + 1);
    expect(is.header("Via")).not.toBe(was.header("Via"));
    const md5 = (text: string): string => createHash("md5").update(text).digest("hex");
    const expected = md5(`${md5("u:trunk:p")}:n1:${md5(`INVITE:${peer.uri}`)}`);
    expect(is.header("Proxy-Authorization")).toContain(`response="${expected}"`);
    second.reply(200, "OK", { body: sdp(4000) });
    const dialog = await calling;
    // RFC 3261 §13.2.2.4: the ACK carries the credentials of its INVITE.
    expect((await peer.request("ACK")).header("Proxy-Authorization")).toBe(is.header("Proxy-Authorization"));
    await hangUp(dialog);
  });

  it("pins the digest retry to where the challenge came from", async () => {
    const calling = failure(
      srf.createUAC(`sip:bob@localhost:${peer.port}`, {
        localSdp: sdp(5000),
        auth: { username: "u", password: "p" },
      }),
    );
    const first = new RawCallee(peer, await peer.request("INVITE"));
    first.reply(401, "Unauthorized", { headers: ['WWW-Authenticate: Digest realm="r", nonce="n"'] });
    await peer.request("ACK");
    const second = new RawCallee(peer, await peer.request("INVITE"));
    expect(second.invite.startLine).toBe(`INVITE sip:bob@localhost:${peer.port} SIP/2.0`);
    second.reply(403, "Forbidden");
    expect((await calling).status).toBe(403);
  });

  it("gives up after 64*T1 with a 408 of its own", async () => {
    const asked = performance.now();
    const error = await failure(srf.createUAC(peer.uri, { localSdp: sdp(5000) }));
    expect(error.status).toBe(408);
    const waited = performance.now() - asked;
    expect(waited).toBeGreaterThan(64 * sip.t1Ms * 0.9);
    const copies = peer.count((packet) => packet.method === "INVITE");
    expect(copies).toBeGreaterThanOrEqual(5);
    expect(copies).toBeLessThanOrEqual(7);
  });

  it("answers a refused TCP connection with a 503 of its own", async () => {
    const tcp = await RawTcpPeer.open(closings);
    const { port } = tcp;
    await closings.closeAll();
    sip = await startTestEngine(closings);
    srf = await sip.connect();
    const error = await failure(srf.createUAC(`sip:a@127.0.0.1:${port};transport=tcp`, { localSdp: sdp(5000) }));
    expect(error.status).toBe(503);
  });

  it("answers a name that does not exist with a 503 of its own", async () => {
    const error = await failure(srf.createUAC("sip:a@no-such-name.invalid", { localSdp: sdp(5000) }));
    expect(error.status).toBe(503);
  });

  it("acknowledges a 2xx again for each repetition, with the same ACK", async () => {
    const { dialog, callee } = await callPeer();
    const [first] = peer.received.filter((packet) => packet.method === "ACK");
    callee.reply(200, "OK", { body: sdp(4000) });
    const second = await peer.request("ACK");
    expect(second.text).toBe(first?.text);
    expect(second.header("CSeq")).toBe(callee.invite.header("CSeq").replace("INVITE", "ACK"));
    expect(second.header("Via")).not.toBe(callee.invite.header("Via"));
    await hangUp(dialog);
  });

  it("acknowledges and ends the second leg of a fork by itself", async () => {
    const { dialog, callee } = await callPeer();
    const fork = replyText(callee.invite, 200, "OK", {
      tag: "fork-2",
      contact: `<sip:fork@127.0.0.1:${peer.port}>`,
      body: sdp(4002),
    });
    peer.send(fork, sip.port);
    const ack = await peer.request("ACK");
    expect(ack.startLine).toBe(`ACK sip:fork@127.0.0.1:${peer.port} SIP/2.0`);
    expect(tagOf(ack.header("To"))).toBe("fork-2");
    const bye = await peer.request("BYE");
    expect(bye.startLine).toBe(`BYE sip:fork@127.0.0.1:${peer.port} SIP/2.0`);
    expect(tagOf(bye.header("To"))).toBe("fork-2");
    expect(bye.header("Reason")).toContain("Call completed elsewhere");
    peer.reply(bye, 200, "OK");
    peer.send(fork, sip.port);
    expect((await peer.request("ACK")).text).toBe(ack.text);
    expect(dialog.connected).toBe(true);
    expect(sip.engine.stats().counters.forksEnded).toBe(1);
    await hangUp(dialog);
  });

  it.each([
    ["no Contact", ""],
    ["a Contact without a host", "<sip:>"],
    ["a Contact that is no URI", "<nonsense>"],
  ])("rejects a 200 with %s, acknowledges it and hangs up", async (_name, contact) => {
    const calling = failure(srf.createUAC(peer.uri, { localSdp: sdp(5000) }));
    const callee = new RawCallee(peer, await peer.request("INVITE"));
    callee.reply(200, "OK", { body: sdp(4000), contact });
    expect((await calling).status).toBe(500);
    const ack = await peer.request("ACK");
    expect(ack.startLine).toBe(`ACK ${peer.uri} SIP/2.0`);
    const bye = await peer.request("BYE");
    expect(tagOf(bye.header("To"))).toBe(callee.tag);
    peer.reply(bye, 200, "OK");
    expect(sip.engine.stats().agent.dialogs).toBe(0);
  });
});

describe("refused before anything is sent", () => {
  it.each([
    ["a request URI that is none", "sip:a b@c", {}, "invalid request-uri: sip:a"],
    ["headers in the request URI", "sip:a@192.0.2.1?Replaces=x", {}, "Error creating leg"],
    ["TLS", "sips:a@192.0.2.1", {}, "requested protocol/transport not available"],
    ["an unknown transport", "sip:a@192.0.2.1;transport=ws", {}, "requested protocol/transport not available"],
    ["a body without a type", "sip:a@192.0.2.1", { localSdp: "hello" }, "missing content-type"],
    ["a proxy that is none", "sip:a@192.0.2.1", { proxy: "sip:@@" }, "invalid proxy uri: sip:@@"],
    ["a `maddr` that is no address", "sip:a@192.0.2.1", { proxy: "sip:p;maddr=x" }, "invalid proxy uri: sip:p;maddr=x"],
    ["a From that is none", "sip:a@192.0.2.1", { headers: { From: "<sip:>" } }, "invalid from header"],
    ["tel without a proxy", "tel:+4912345", {}, "invalid request-uri: tel:+4912345"],
    ["a NUL in a header", "sip:a@192.0.2.1", { headers: { "X-A": "a\0b" } }, "invalid character in header x-a"],
    ["a bare LF in a header", "sip:a@192.0.2.1", { headers: { "X-A": "a\nX-B: b" } }, "invalid character in header"],
    ["a bare CR in a header", "sip:a@192.0.2.1", { headers: { "X-A": "a\rX-B: b" } }, "invalid character in header"],
    ["a line break in the URI", "sip:a@192.0.2.1\r\nX-Evil: 1", {}, "invalid start line"],
  ])("%s", async (_name, uri, options, text) => {
    const error = await failure(srf.createUAC(uri, { localSdp: sdp(5000), ...options }));
    expect(error.message.toLowerCase()).toContain(text.toLowerCase());
    expect(sip.engine.stats().transport.messagesOut).toBe(0);
  });

  it("a call to itself", async () => {
    const error = await failure(srf.createUAC(sip.uri("me"), { localSdp: sdp(5000) }));
    expect(error.message).toBe("can not send request to myself");
    const viaProxy = await failure(
      srf.createUAC(sip.uri("me"), { localSdp: sdp(5000), proxy: `sip:127.0.0.1:${peer.port}` }),
    );
    expect(viaProxy.message).toBe("can not send request to myself");
  });
});

describe("requests outside of a dialog", () => {
  it.each(["OPTIONS", "REGISTER", "MESSAGE"])("%s by srf.request", async (method) => {
    const body = method === "MESSAGE" ? "hello é" : undefined;
    const req = await srf.request(peer.uri, {
      method,
      headers: { "X-A": "1", ...(body === undefined ? {} : { "Content-Type": "text/plain" }) },
      body,
    });
    const responded = new Promise<SrfMessage>((resolve) => {
      req.on("response", resolve);
    });
    const request = await peer.request(method);
    expect(request.startLine).toBe(`${method} ${peer.uri} SIP/2.0`);
    expect(request.header("X-A")).toBe("1");
    expect(request.body).toBe(body ?? "");
    expect(request.header("Content-Length")).toBe(String(Buffer.byteLength(body ?? "")));
    expect(req.get("call-id")).toBe(request.header("Call-ID"));
    peer.reply(request, 200, "OK", { tag: "x", headers: ["X-B: 2"] });
    const res = await responded;
    expect(res.status).toBe(200);
    expect(res.get("X-B")).toBe("2");
    expect(res.source_port).toBe(peer.port);
  });

  it("delivers a 408 of its own when nobody answers", async () => {
    const req = await srf.request(peer.uri, { method: "OPTIONS" });
    const res = await new Promise<SrfMessage>((resolve) => {
      req.on("response", resolve);
    });
    expect(res.status).toBe(408);
    expect(uriOf(res.get("to"))).toBe(peer.uri);
  });

  it("answers a digest challenge to a REGISTER", async () => {
    const req = await srf.request(peer.uri, { method: "REGISTER", auth: { username: "u", password: "p" } });
    const responded = new Promise<SrfMessage>((resolve) => {
      req.on("response", resolve);
    });
    const first = await peer.request("REGISTER");
    peer.reply(first, 401, "Unauthorized", { tag: "x", headers: ['WWW-Authenticate: Digest realm="r", nonce="n"'] });
    const second = await peer.request("REGISTER");
    expect(second.header("Call-ID")).toBe(first.header("Call-ID"));
    expect(second.header("Authorization")).toContain('username="u"');
    peer.reply(second, 200, "OK", { tag: "x" });
    expect((await responded).status).toBe(200);
  });
});
