import { afterEach, beforeEach, describe, expect, it } from "vitest";

import type { SrfDialog, SrfInstance, SrfMessage, TestEngine } from "./engine-support.ts";
import { Closings, RawCall, RawCallee, RawPeer, sdp, startTestEngine, tagOf } from "./engine-support.ts";

const closings = new Closings();
let sip: TestEngine;
let srf: SrfInstance;
let caller: RawPeer;
let operator: RawPeer;

beforeEach(async () => {
  sip = await startTestEngine(closings);
  srf = await sip.connect();
  caller = await RawPeer.open(closings);
  operator = await RawPeer.open(closings);
});

afterEach(async () => {
  await closings.closeAll();
});

interface Bridge {
  readonly legs: Promise<{ uas: SrfDialog; uac: SrfDialog }>;
}

/** Bridges every incoming call to the operator's peer. */
function bridgeAll(options: object = {}): Bridge {
  const legs = new Promise<{ uas: SrfDialog; uac: SrfDialog }>((resolve, reject) => {
    srf.invite((req, res) => {
      srf.createB2BUA(req, res, operator.uri, { ...options }).then((both) => {
        const { uas, uac } = both;
        uas.on("destroy", () => void uac.destroy());
        uac.on("destroy", () => void uas.destroy());
        resolve(both);
      }, reject);
    });
  });
  legs.catch(() => undefined);
  return { legs };
}

describe("createB2BUA", () => {
  it("passes provisional SDP through, bridges, and relays BYE", async () => {
    const { legs } = bridgeAll({ proxyRequestHeaders: ["X-In"], proxyResponseHeaders: ["X-Out"] });
    const call = new RawCall(caller, sip.port);
    call.send("INVITE", { body: sdp(4000), headers: ["X-In: in"] });
    const callee = new RawCallee(operator, await operator.request("INVITE"));
    expect(callee.invite.body).toBe(sdp(4000));
    expect(callee.invite.header("X-In")).toBe("in");
    expect(callee.invite.header("From")).toContain(`<sip:alice@127.0.0.1:${sip.port}>`);
    callee.reply(183, "Session Progress", { body: sdp(6000) });
    const progress = await caller.response(183, "INVITE");
    expect(progress.body).toBe(sdp(6000));
    callee.reply(200, "OK", { body: sdp(6000), headers: ["X-Out: out"] });
    const ok = await caller.response(200, "INVITE");
    expect([ok.body, ok.header("X-Out")]).toEqual([sdp(6000), "out"]);
    expect(tagOf(ok.header("To"))).toBe(tagOf(progress.header("To")));
    await operator.request("ACK");
    call.toTag = tagOf(ok.header("To"));
    call.send("ACK");
    const { uas, uac } = await legs;
    expect(uas.other).toBe(uac);
    await call.bye();
    const bye = await operator.request("BYE");
    operator.reply(bye, 200, "OK");
    await expect.poll(() => sip.engine.stats().agent.dialogs).toBe(0);
  });

  it("keeps the operator's requests until the caller's ACK", async () => {
    bridgeAll();
    const call = new RawCall(caller, sip.port);
    call.send("INVITE", { body: sdp(4000) });
    const callee = new RawCallee(operator, await operator.request("INVITE"));
    callee.reply(200, "OK", { body: sdp(6000) });
    call.toTag = tagOf((await caller.response(200, "INVITE")).header("To"));
    await operator.request("ACK");
    callee.send("INFO");
    // A repetition of the 200 shows that time has passed without an answer to the INFO.
    await caller.repeated(200, "INVITE");
    expect(operator.count((packet) => packet.status === 200 && packet.method === "INFO")).toBe(0);
    call.send("ACK");
    await operator.response(200, "INFO");
    callee.send("BYE");
    await operator.response(200, "BYE");
    const bye = await caller.request("BYE");
    caller.reply(bye, 200, "OK");
  });

  it("passes a failure on", async () => {
    const { legs } = bridgeAll();
    const call = new RawCall(caller, sip.port);
    call.send("INVITE", { body: sdp(4000) });
    new RawCallee(operator, await operator.request("INVITE")).reply(486, "Busy Here");
    const busy = await caller.response(486, "INVITE");
    call.send("ACK", { branch: call.lastBranch, toTag: tagOf(busy.header("To")) });
    await expect(legs).rejects.toMatchObject({ status: 486 });
  });

  it("relays the caller's CANCEL with its Reason, and both sides get 487", async () => {
    const { legs } = bridgeAll();
    const call = new RawCall(caller, sip.port);
    call.send("INVITE", { body: sdp(4000) });
    const branch = call.lastBranch;
    const callee = new RawCallee(operator, await operator.request("INVITE"));
    callee.reply(180, "Ringing");
    await caller.response(180, "INVITE");
    call.send("CANCEL", { branch, headers: ['Reason: SIP;cause=200;text="Call completed elsewhere"', "X-Reason: z"] });
    await caller.response(200, "CANCEL");
    const terminated = await caller.response(487, "INVITE");
    call.send("ACK", { branch, toTag: tagOf(terminated.header("To")) });
    const cancel = await operator.request("CANCEL");
    expect(cancel.header("Reason")).toBe('SIP;cause=200;text="Call completed elsewhere"');
    expect(cancel.header("X-Reason")).toBe("z");
    operator.reply(cancel, 200, "OK");
    callee.reply(487, "Request Terminated");
    await operator.request("ACK");
    await expect(legs).rejects.toMatchObject({ status: 487 });
  });

  it("CANCEL against the operator's 200: the operator's leg is acknowledged and ended", async () => {
    const { legs } = bridgeAll();
    const call = new RawCall(caller, sip.port);
    call.send("INVITE", { body: sdp(4000) });
    const branch = call.lastBranch;
    const callee = new RawCallee(operator, await operator.request("INVITE"));
    callee.reply(180, "Ringing");
    await caller.response(180, "INVITE");
    call.send("CANCEL", { branch });
    await operator.request("CANCEL");
    callee.reply(200, "OK", { body: sdp(6000) });
    await operator.request("ACK");
    operator.reply(await operator.request("BYE"), 200, "OK");
    const terminated = await caller.response(487, "INVITE");
    call.send("ACK", { branch, toTag: tagOf(terminated.header("To")) });
    await expect(legs).rejects.toBeDefined();
    expect(sip.engine.stats().agent.dialogs).toBe(0);
  });

  it("answers an early UPDATE of the caller with the session there is", async () => {
    bridgeAll();
    const call = new RawCall(caller, sip.port);
    call.send("INVITE", { body: sdp(4000) });
    const branch = call.lastBranch;
    const callee = new RawCallee(operator, await operator.request("INVITE"));
    callee.reply(183, "Session Progress", { body: sdp(6000) });
    call.toTag = tagOf((await caller.response(183, "INVITE")).header("To"));
    call.send("UPDATE", { body: sdp(4002, 2) });
    const updated = await caller.response(200, "UPDATE");
    expect(updated.body).toBe(sdp(6000));
    callee.reply(486, "Busy Here");
    await caller.response(486, "INVITE");
    call.send("ACK", { branch, seq: 1 });
  });

  it("delayed offer over both legs", async () => {
    const { legs } = bridgeAll();
    const call = new RawCall(caller, sip.port);
    call.send("INVITE");
    const callee = new RawCallee(operator, await operator.request("INVITE"));
    expect(callee.invite.body).toBe("");
    callee.reply(200, "OK", { body: sdp(6000) });
    const ok = await caller.response(200, "INVITE");
    expect(ok.body).toBe(sdp(6000));
    call.toTag = tagOf(ok.header("To"));
    call.send("ACK", { body: sdp(4000) });
    const ack = await operator.request("ACK");
    expect(ack.body).toBe(sdp(4000));
    await legs;
    await call.bye();
    operator.reply(await operator.request("BYE"), 200, "OK");
  });

  it("twenty calls at once, each with its own operator leg", async () => {
    const ended: string[] = [];
    srf.invite((req, res) => {
      void srf.createB2BUA(req, res, operator.uri, {}).then(({ uas, uac }) => {
        uas.on("destroy", (bye: SrfMessage) => {
          ended.push(bye.get("Call-ID"));
          void uac.destroy();
        });
      });
    });
    const calls = Array.from({ length: 20 }, () => new RawCall(caller, sip.port));
    for (const call of calls) {
      call.send("INVITE", { body: sdp(4000) });
    }
    const answered = calls.map(async (call) => {
      const ok = await caller.take("200", (one) => one.status === 200 && one.header("Call-ID") === call.callId);
      call.toTag = tagOf(ok.header("To"));
      call.send("ACK");
    });
    const seen = new Set<string>();
    while (seen.size < calls.length) {
      const invite = await operator.request("INVITE");
      // Repetitions happen under load; each leg is answered once.
      if (!seen.has(invite.header("Call-ID"))) {
        seen.add(invite.header("Call-ID"));
        new RawCallee(operator, invite).reply(200, "OK", { body: sdp(6000) });
      }
    }
    await Promise.all(answered);
    await expect.poll(() => sip.engine.stats().agent.dialogs).toBe(40);
    await Promise.all(
      calls.map(async (call) => {
        call.send("BYE");
        await caller.take("200 BYE", (one) => one.method === "BYE" && one.header("Call-ID") === call.callId);
      }),
    );
    const byes = new Set<string>();
    while (byes.size < calls.length) {
      const bye = await operator.request("BYE");
      byes.add(bye.header("Call-ID"));
      operator.reply(bye, 200, "OK");
    }
    await expect.poll(() => sip.engine.stats().agent.dialogs).toBe(0);
    expect(new Set(ended).size).toBe(20);
  });
});
