import { afterEach, beforeEach, describe, expect, it } from "vitest";

import type { SrfDialog, SrfInstance, SrfMessage, TestEngine } from "./engine-support.ts";
import { Closings, failure, RawCallee, RawPeer, replyText, sdp, startTestEngine, tagOf } from "./engine-support.ts";

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

interface Calling {
  readonly calling: Promise<SrfDialog>;
  readonly req: SrfMessage;
  readonly callee: RawCallee;
}

async function callPeer(options: object = {}): Promise<Calling> {
  let calling: Promise<SrfDialog> | undefined;
  const req = await new Promise<SrfMessage>((resolve, reject) => {
    calling = srf.createUAC(
      peer.uri,
      { localSdp: sdp(5000), ...options },
      {
        cbRequest: (error, sent) => {
          if (error === null) {
            resolve(sent);
          } else {
            reject(new Error("refused", { cause: error }));
          }
        },
      },
    );
    // Who calls waits for it later; a rejection before that is no unhandled one.
    calling.catch(() => undefined);
  });
  if (calling === undefined) {
    throw new Error("createUAC was not called");
  }
  return { calling, req, callee: new RawCallee(peer, await peer.request("INVITE")) };
}

describe("CANCEL by the application", () => {
  it("after a provisional response goes out at once and equals the INVITE where it must", async () => {
    const { calling, req, callee } = await callPeer();
    callee.reply(180, "Ringing");
    await expect.poll(() => sip.engine.stats().counters.responsesIn).toBe(1);
    const echo = new Promise<SrfMessage>((resolve, reject) => {
      req.cancel(
        { headers: { Reason: 'Q.850;cause=16;text="x"', "X-Why": "1", From: "<sip:evil@x>" } },
        (error, sent) => {
          if (error === null) {
            resolve(sent);
          } else {
            reject(new Error("refused", { cause: error }));
          }
        },
      );
    });
    const cancel = await peer.request("CANCEL");
    const { invite } = callee;
    expect(cancel.startLine).toBe(`CANCEL ${peer.uri} SIP/2.0`);
    for (const name of ["Via", "From", "To", "Call-ID"]) {
      expect(cancel.headers(name)).toEqual(invite.headers(name));
    }
    expect(cancel.header("CSeq")).toBe(invite.header("CSeq").replace("INVITE", "CANCEL"));
    expect(cancel.header("Reason")).toBe('Q.850;cause=16;text="x"');
    expect(cancel.header("X-Why")).toBe("1");
    expect((await echo).method).toBe("CANCEL");
    expect((await echo).stackTxnId).not.toBe(req.stackTxnId);
    peer.reply(cancel, 200, "OK");
    callee.reply(487, "Request Terminated");
    await peer.request("ACK");
    expect((await failure(calling)).status).toBe(487);
  });

  it("before any response is held until the first provisional one", async () => {
    const { calling, req, callee } = await callPeer();
    await new Promise<void>((resolve) => {
      req.cancel(() => {
        resolve();
      });
    });
    // A repetition of the INVITE shows that time has passed without a CANCEL.
    await peer.take("repeated INVITE", (packet) => packet.method === "INVITE");
    expect(peer.count((packet) => packet.method === "CANCEL")).toBe(0);
    callee.reply(100, "Trying");
    const cancel = await peer.request("CANCEL");
    peer.reply(cancel, 200, "OK");
    callee.reply(487, "Request Terminated");
    await peer.request("ACK");
    expect((await failure(calling)).status).toBe(487);
  });

  it("with no response ever: the INVITE ends by 408 and no CANCEL goes out", async () => {
    const { calling, req } = await callPeer();
    req.cancel();
    expect((await failure(calling)).status).toBe(408);
    expect(peer.count((packet) => packet.method === "CANCEL")).toBe(0);
  });

  it("never answered by the peer: a 487 of the engine after 64*T1", async () => {
    const { calling, req, callee } = await callPeer();
    callee.reply(180, "Ringing");
    await expect.poll(() => sip.engine.stats().counters.responsesIn).toBe(1);
    req.cancel();
    await peer.request("CANCEL");
    const asked = performance.now();
    expect((await failure(calling)).status).toBe(487);
    expect(performance.now() - asked).toBeGreaterThan(64 * sip.t1Ms * 0.8);
    expect(sip.engine.stats().agent.dialogs).toBe(0);
  });

  it("given up after 64*T1, a 200 that comes even later is acknowledged and ended, be it a stranger's", async () => {
    const { calling, req, callee } = await callPeer();
    sip.engine.setSources([]);
    callee.reply(180, "Ringing");
    await expect.poll(() => sip.engine.stats().counters.responsesIn).toBe(1);
    req.cancel();
    await peer.request("CANCEL");
    expect((await failure(calling)).status).toBe(487);
    callee.reply(200, "OK", { body: sdp(4000) });
    const ack = await peer.request("ACK");
    const bye = await peer.request("BYE");
    expect(bye.header("Reason")).toContain("answered too late");
    peer.reply(bye, 200, "OK");
    callee.reply(200, "OK", { body: sdp(4000) });
    expect((await peer.request("ACK")).text).toBe(ack.text);
  });

  it("answered 200 only, the INVITE not at all: a 487 of the engine after 64*T1", async () => {
    const { calling, req, callee } = await callPeer();
    callee.reply(180, "Ringing");
    await expect.poll(() => sip.engine.stats().counters.responsesIn).toBe(1);
    req.cancel();
    peer.reply(await peer.request("CANCEL"), 200, "OK");
    expect((await failure(calling)).status).toBe(487);
  });

  it("crossed by a 200: delivered, acknowledged, then BYE with its reason and a destroy event", async () => {
    const { calling, req, callee } = await callPeer();
    callee.reply(180, "Ringing");
    await expect.poll(() => sip.engine.stats().counters.responsesIn).toBe(1);
    req.cancel();
    const cancel = await peer.request("CANCEL");
    callee.reply(200, "OK", { body: sdp(4000) });
    peer.reply(cancel, 481, "Call/Transaction Does Not Exist");
    const dialog = await calling;
    const destroyed = new Promise<string>((resolve) => {
      dialog.on("destroy", (_bye: SrfMessage, reason: string) => {
        resolve(reason);
      });
    });
    await peer.request("ACK");
    const bye = await peer.request("BYE");
    expect(bye.header("Reason")).toBe('SIP ;cause=200 ;text="ACK-BYE due to cancel race condition"');
    peer.reply(bye, 200, "OK");
    expect(await destroyed).toBe("ACK-BYE due to cancel race condition");
    expect(sip.engine.stats().agent.dialogs).toBe(0);
  });

  it("held, and a 200 comes as the first response: acknowledged, then BYE; no CANCEL", async () => {
    const { calling, req, callee } = await callPeer();
    await new Promise<void>((resolve) => {
      req.cancel(() => {
        resolve();
      });
    });
    callee.reply(200, "OK", { body: sdp(4000) });
    await calling;
    await peer.request("ACK");
    peer.reply(await peer.request("BYE"), 200, "OK");
    expect(peer.count((packet) => packet.method === "CANCEL")).toBe(0);
  });

  it("of an INVITE that is being challenged cancels the one with credentials", async () => {
    const { calling, req, callee } = await callPeer({ auth: { username: "u", password: "p" } });
    callee.reply(407, "Proxy Authentication Required", {
      headers: ['Proxy-Authenticate: Digest realm="r", nonce="n"'],
    });
    const second = new RawCallee(
      peer,
      await peer.take("second INVITE", (one) => one.header("Proxy-Authorization") !== ""),
    );
    second.reply(180, "Ringing");
    await expect.poll(() => sip.engine.stats().counters.responsesIn).toBe(2);
    req.cancel();
    const cancel = await peer.request("CANCEL");
    expect(cancel.header("Via")).toBe(second.invite.header("Via"));
    peer.reply(cancel, 200, "OK");
    second.reply(487, "Request Terminated");
    expect((await failure(calling)).status).toBe(487);
  });

  it("of a transaction that is over is refused", async () => {
    const { calling, req, callee } = await callPeer();
    callee.reply(200, "OK", { body: sdp(4000) });
    const dialog = await calling;
    const error = await new Promise<Error>((resolve) => {
      req.cancel((refused) => {
        resolve(refused as Error);
      });
    });
    expect(error.message).toBe(`unable to cancel unknown transaction id: ${req.stackTxnId}`);
    const ended = dialog.destroy();
    peer.reply(await peer.request("BYE"), 200, "OK");
    await ended;
  });

  it("loses against a forked 200 too: every leg is acknowledged and ended", async () => {
    const { calling, req, callee } = await callPeer();
    callee.reply(180, "Ringing");
    await expect.poll(() => sip.engine.stats().counters.responsesIn).toBe(1);
    req.cancel();
    await peer.request("CANCEL");
    callee.reply(200, "OK", { body: sdp(4000) });
    peer.send(
      replyText(callee.invite, 200, "OK", { tag: "fork-2", contact: `<${peer.uri}>`, body: sdp(4002) }),
      sip.port,
    );
    await calling;
    const legs = [callee.tag, "fork-2"].toSorted();
    const ended = [];
    for (const method of ["ACK", "ACK", "BYE", "BYE"]) {
      const packet = await peer.request(method);
      ended.push(`${method} ${tagOf(packet.header("To"))}`);
      if (method === "BYE") {
        peer.reply(packet, 200, "OK");
      }
    }
    expect(ended.toSorted()).toEqual(["ACK", "BYE"].flatMap((method) => legs.map((tag) => `${method} ${tag}`)));
    expect(sip.engine.stats().agent.dialogs).toBe(0);
  });
});

describe("an INVITE that rings for ever", () => {
  it("is cancelled when the limit of the engine is reached", async () => {
    sip = await startTestEngine(closings, { ringingLimitMs: 300 });
    srf = await sip.connect();
    const { calling, callee } = await callPeer();
    callee.reply(180, "Ringing");
    const cancel = await peer.take("CANCEL", (packet) => packet.method === "CANCEL", 5000);
    peer.reply(cancel, 200, "OK");
    callee.reply(487, "Request Terminated");
    expect((await failure(calling)).status).toBe(487);
  });
});
