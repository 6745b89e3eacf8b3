import { afterEach, beforeEach, describe, expect, it } from "vitest";

import type { SrfDialog, SrfInstance, SrfMessage, TestEngine } from "./engine-support.ts";
import { Closings, RawCall, RawPeer, sdp, startTestEngine, tagOf } from "./engine-support.ts";

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

describe("createUAS", () => {
  it("answers a call and takes the caller's BYE", async () => {
    const dialogs: SrfDialog[] = [];
    const destroyed: SrfMessage[] = [];
    const acks: SrfMessage[] = [];
    srf.invite((req, res) => {
      void srf.createUAS(req, res, { localSdp: sdp(5000), headers: { "X-Foo": "é" } }).then((dialog) => {
        dialogs.push(dialog);
        dialog.on("ack", (ack: SrfMessage) => acks.push(ack));
        dialog.on("destroy", (bye: SrfMessage) => destroyed.push(bye));
      });
    });
    const call = new RawCall(peer, sip.port);
    const ok = await call.establish();
    expect(ok.header("X-Foo")).toBe("é");
    expect(ok.header("Content-Type")).toBe("application/sdp");
    expect(ok.header("Content-Length")).toBe(String(Buffer.byteLength(sdp(5000))));
    expect(ok.header("Contact")).toBe(`<sip:127.0.0.1:${sip.port}>`);
    expect(ok.body).toBe(sdp(5000));
    await expect.poll(() => acks.length).toBe(1);
    const [dialog] = dialogs;
    expect(dialog?.id).toBe(`${call.callId};from-tag=${call.fromTag}`);
    expect(dialog?.sip).toEqual({ callId: call.callId, localTag: call.toTag, remoteTag: call.fromTag });
    expect(dialog?.remote.sdp).toBe(sdp(4000));
    await call.bye();
    expect(destroyed).toHaveLength(1);
    expect(dialog?.connected).toBe(false);
  });

  it("ends a call by its own BYE", async () => {
    const answered = new Promise<SrfDialog>((resolve) => {
      srf.invite((req, res) => {
        void srf.createUAS(req, res, { localSdp: sdp(5000) }).then(resolve);
      });
    });
    const call = new RawCall(peer, sip.port);
    await call.establish();
    const dialog = await answered;
    const ended = dialog.destroy({ headers: { "X-Reason": "done" } });
    const bye = await peer.request("BYE");
    expect(bye.startLine).toBe(`BYE ${peer.uri} SIP/2.0`);
    expect(bye.header("X-Reason")).toBe("done");
    expect(tagOf(bye.header("From"))).toBe(call.toTag);
    expect(tagOf(bye.header("To"))).toBe(call.fromTag);
    peer.reply(bye, 200, "OK");
    await ended;
    expect(sip.engine.stats().agent.dialogs).toBe(0);
  });
});
