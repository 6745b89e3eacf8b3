import { fileURLToPath } from "node:url";

import { afterEach, beforeEach, describe, expect, it } from "vitest";

import { expectSuccess, runSipp, Sipp } from "../support/sipp.ts";
import type { SrfDialog, SrfInstance, SrfMessage, TestEngine } from "./engine-support.ts";
import { Closings, failure, RawCall, RawCallee, RawPeer, sdp, startTestEngine, tagOf } from "./engine-support.ts";

// Test 22 of the specification: reliable provisional responses both ways.

const closings = new Closings();
let sip: TestEngine;
let srf: SrfInstance;
let peer: RawPeer;

const scenario = (name: string): string => fileURLToPath(new URL(`sipp/engine/${name}.xml`, import.meta.url));
const require100rel = { headers: { Require: "100rel" } };

async function begin(t1Ms?: number): Promise<void> {
  sip = await startTestEngine(closings, t1Ms === undefined ? {} : { t1Ms });
  srf = await sip.connect();
  peer = await RawPeer.open(closings);
}

afterEach(async () => {
  await closings.closeAll();
});

/** Rings reliably with SDP and answers at once: the engine makes the 200 wait. */
function ringReliably(): { readonly dialogs: SrfDialog[]; readonly failed: { message: string }[]; pracks: number } {
  const seen = { dialogs: [] as SrfDialog[], failed: [] as { message: string }[], pracks: 0 };
  srf.invite((req, res) => {
    const onPrack = (prack: SrfMessage): void => {
      seen.pracks += prack.method === "PRACK" ? 1 : 0;
    };
    (res.send as (...parts: unknown[]) => void)(183, { ...require100rel, body: sdp(5000) }, undefined, onPrack);
    void failure(
      srf.createUAS(req, res, { localSdp: sdp(5000) }).then((dialog) => {
        seen.dialogs.push(dialog);
        throw new Error("answered");
      }),
    ).then((error) => seen.failed.push(error));
  });
  return seen;
}

describe("SIPp as the peer", () => {
  beforeEach(async () => {
    await begin(250);
  });

  it.each(["udp", "tcp"] as const)("calls in over %s and takes a reliable 183, twenty times", async (protocol) => {
    const seen = ringReliably();
    await expect.poll(() => sip.engine.stats().wire.routes).toBe(1);
    const target = `127.0.0.1:${sip.port}`;
    const file = scenario("caller-100rel");
    const result = await runSipp({ scenario: file, target, protocol, calls: 20, callsPerSecond: 20 });
    expectSuccess(result);
    expect(seen.pracks).toBe(20);
    expect(seen.dialogs).toHaveLength(20);
  });

  it.each(["udp", "tcp"] as const)("rings reliably over %s and gets its PRACK, ten times at once", async (protocol) => {
    await using sipp = await Sipp.start({ scenario: scenario("callee-100rel"), calls: 10, protocol });
    await Promise.all(
      Array.from({ length: 10 }, async (_value, index) => {
        const uri = `sip:${index}@127.0.0.1:${sipp.port};transport=${protocol}`;
        const dialog = await srf.createUAC(uri, { localSdp: sdp(5000), headers: { Supported: "100rel" } });
        await dialog.destroy();
      }),
    );
    expectSuccess(await sipp.finished());
  });
});

describe("UAS", () => {
  beforeEach(async () => {
    await begin();
  });

  it("repeats the 183 until its PRACK comes; the 200 waits for it", async () => {
    const seen = ringReliably();
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000), headers: ["Supported: 100rel"] });
    const ringing = await peer.response(183, "INVITE");
    await peer.repeated(183, "INVITE");
    await peer.repeated(183, "INVITE");
    expect(peer.count((packet) => packet.status === 200)).toBe(0);
    call.toTag = tagOf(ringing.header("To"));
    call.send("PRACK", { headers: [`RAck: ${ringing.header("RSeq")} 1 INVITE`] });
    await peer.response(200, "PRACK");
    await peer.response(200, "INVITE");
    call.send("ACK", { seq: 1 });
    await call.bye();
    await expect.poll(() => [seen.pracks, seen.dialogs.length]).toEqual([1, 1]);
  });

  it("no PRACK in 64*T1: 504 to the caller, and the 200 that waited is refused", async () => {
    const seen = ringReliably();
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000), headers: ["Supported: 100rel"] });
    const failed = await peer.response(504, "INVITE", 20_000);
    call.send("ACK", { seq: 1, toTag: tagOf(failed.header("To")) });
    await expect.poll(() => seen.failed.map(({ message }) => message)).toHaveLength(1);
    expect(seen.dialogs).toEqual([]);
  });

  it("the caller's CANCEL meanwhile: 487, and the answer that waited is refused", async () => {
    const seen = ringReliably();
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000), headers: ["Supported: 100rel"] });
    const inviteBranch = call.lastBranch;
    await peer.response(183, "INVITE");
    call.send("CANCEL", { branch: inviteBranch });
    await peer.response(200, "CANCEL");
    const terminated = await peer.response(487, "INVITE");
    call.send("ACK", { branch: inviteBranch, toTag: tagOf(terminated.header("To")) });
    await expect.poll(() => seen.failed).toHaveLength(1);
    expect(seen.dialogs).toEqual([]);
  });

  it("NOK where the INVITE does not offer it", async () => {
    const sent = new Promise<unknown>((resolve) => {
      srf.invite((_req, res) => {
        res.send(183, require100rel, (error) => {
          resolve(error);
          res.send(480);
        });
      });
    });
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000) });
    const failed = await peer.response(480, "INVITE");
    call.send("ACK", { branch: call.lastBranch, toTag: tagOf(failed.header("To")) });
    expect(await sent).toContain("Remote endpoint does not support 100rel");
  });

  it("an UPDATE in the early dialog is delivered and answered", async () => {
    srf.invite((req, res) => {
      req.on("update", (_update: SrfMessage, reply: { send(status: number, options: object): void }) => {
        reply.send(200, { body: sdp(5000, 2) });
        res.send(486);
      });
      (res.send as (...parts: unknown[]) => void)(183, { ...require100rel, body: sdp(5000) });
    });
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000), headers: ["Supported: 100rel"] });
    const inviteBranch = call.lastBranch;
    const ringing = await peer.response(183, "INVITE");
    call.toTag = tagOf(ringing.header("To"));
    call.send("PRACK", { headers: [`RAck: ${ringing.header("RSeq")} 1 INVITE`] });
    await peer.response(200, "PRACK");
    call.send("UPDATE", { body: sdp(4002, 2) });
    expect((await peer.response(200, "UPDATE")).body).toBe(sdp(5000, 2));
    await peer.response(486, "INVITE");
    call.send("ACK", { branch: inviteBranch, seq: 1 });
  });
});

describe("UAC", () => {
  beforeEach(async () => {
    await begin();
  });

  it("a PRACK for each reliable response, none for a repetition or one that is out of order", async () => {
    const provisional: number[] = [];
    const calling = srf.createUAC(
      peer.uri,
      { localSdp: sdp(5000), headers: { Supported: "100rel" } },
      { cbProvisional: (res) => provisional.push(res.status) },
    );
    const invite = await peer.request("INVITE");
    const callee = new RawCallee(peer, invite);
    const seq = parseInt(invite.header("CSeq"), 10);
    const ring = (status: number, rseq: number): void => {
      callee.reply(status, "Progress", { headers: ["Require: 100rel", `RSeq: ${rseq}`], body: sdp(4000) });
    };
    ring(183, 20);
    const first = await peer.request("PRACK");
    expect(first.header("RAck")).toBe(`20 ${seq} INVITE`);
    expect(first.startLine).toBe(`PRACK ${peer.uri} SIP/2.0`);
    expect(tagOf(first.header("To"))).toBe(callee.tag);
    peer.reply(first, 200, "OK");
    ring(183, 20);
    ring(180, 22);
    ring(180, 21);
    const second = await peer.request("PRACK");
    expect(second.header("RAck")).toBe(`21 ${seq} INVITE`);
    peer.reply(second, 200, "OK");
    callee.reply(200, "OK", { body: sdp(4000) });
    const dialog = await calling;
    expect((await peer.request("ACK")).header("CSeq")).toBe(`${seq} ACK`);
    expect(provisional).toEqual([183, 180]);
    const ended = dialog.destroy();
    const bye = await peer.request("BYE");
    expect(bye.header("CSeq")).toBe(`${seq + 3} BYE`);
    peer.reply(bye, 200, "OK");
    await ended;
  });

  it("PRACKs both branches of a fork, and the callee's early UPDATE is answered", async () => {
    const calling = srf.createUAC(peer.uri, { localSdp: sdp(5000), headers: { Supported: "100rel" } });
    const invite = await peer.request("INVITE");
    const branches = [new RawCallee(peer, invite), new RawCallee(peer, invite)];
    for (const [at, callee] of branches.entries()) {
      const rseq = 100 * (at + 1);
      callee.reply(183, "Progress", { headers: ["Require: 100rel", `RSeq: ${rseq}`], body: sdp(4000) });
      const prack = await peer.request("PRACK");
      expect([tagOf(prack.header("To")), prack.header("RAck").split(" ")[0]]).toEqual([callee.tag, String(rseq)]);
      peer.reply(prack, 200, "OK");
    }
    const [, second] = branches;
    second?.send("UPDATE", { body: sdp(4002, 2) });
    expect((await peer.response(200, "UPDATE")).body).toBe(sdp(5000));
    second?.reply(200, "OK", { body: sdp(4002, 2) });
    const dialog = await calling;
    await peer.request("ACK");
    const ended = dialog.destroy();
    const bye = await peer.request("BYE");
    expect(tagOf(bye.header("To"))).toBe(second?.tag);
    peer.reply(bye, 200, "OK");
    await ended;
  });

  it("over both legs of a B2BUA: the caller's PRACK and ours", async () => {
    const operator = await RawPeer.open(closings);
    const legs = new Promise<{ uas: SrfDialog; uac: SrfDialog }>((resolve, reject) => {
      srf.invite((req, res) => {
        const options = { proxyRequestHeaders: ["Supported"], proxyResponseHeaders: ["Require"] };
        srf.createB2BUA(req, res, operator.uri, options).then((both) => {
          both.uas.on("destroy", () => void both.uac.destroy());
          resolve(both);
        }, reject);
      });
    });
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000), headers: ["Supported: 100rel"] });
    const callee = new RawCallee(operator, await operator.request("INVITE"));
    expect(callee.invite.header("Supported")).toBe("100rel");
    callee.reply(183, "Progress", { headers: ["Require: 100rel", "RSeq: 9"], body: sdp(6000) });
    const prack = await operator.request("PRACK");
    operator.reply(prack, 200, "OK");
    const ringing = await peer.response(183, "INVITE");
    expect([ringing.header("Require"), ringing.body]).toEqual(["100rel", sdp(6000)]);
    call.toTag = tagOf(ringing.header("To"));
    call.send("PRACK", { headers: [`RAck: ${ringing.header("RSeq")} 1 INVITE`] });
    await peer.response(200, "PRACK");
    callee.reply(200, "OK", { body: sdp(6000) });
    await peer.response(200, "INVITE");
    await operator.request("ACK");
    call.send("ACK", { seq: 1 });
    await legs;
    call.send("BYE");
    operator.reply(await operator.request("BYE"), 200, "OK");
    await peer.response(200, "BYE");
  });
});
