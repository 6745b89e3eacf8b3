import { afterEach, beforeEach, expect, it } from "vitest";

import type { SrfDialog, SrfInstance, SrfMessage, SrfReply, TestEngine } from "./engine-support.ts";
import { Closings, failure, RawCall, RawCallee, RawPeer, startTestEngine, tagOf, uriOf } from "./engine-support.ts";

// SUBSCRIBE dialogs of drachtio-srf over the embedded engine (§2.11), with a raw peer on the other side.

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

const dialogs = (): number => sip.engine.stats().agent.dialogs;

it("the peer subscribes, is notified, refreshes, and is told the end", async () => {
  const made = new Promise<SrfDialog>((resolve, reject) => {
    srf.use("subscribe", (req, res) => {
      srf.createUAS(req, res, { headers: { Expires: "60" } }).then(resolve, reject);
    });
  });
  await expect.poll(() => sip.engine.stats().wire.routes).toBe(1);
  const call = new RawCall(peer, sip.port);
  call.send("SUBSCRIBE", { headers: ["Event: presence", "Expires: 60"] });
  const accepted = await peer.response(202, "SUBSCRIBE");
  call.toTag = tagOf(accepted.header("To"));
  call.target = uriOf(accepted.header("Contact"));
  const dialog = await made;
  expect(dialogs()).toBe(1);

  const headers = { Event: "presence", "Subscription-State": "active;expires=60" };
  const notifying = dialog.request({ method: "NOTIFY", headers });
  const notify = await peer.request("NOTIFY");
  expect(notify.startLine).toBe(`NOTIFY ${peer.uri} SIP/2.0`);
  expect(notify.header("Contact")).toContain(`127.0.0.1:${sip.port}`);
  peer.reply(notify, 200, "OK");
  expect((await notifying).status).toBe(200);

  dialog.on("subscribe", (_req: SrfMessage, res: SrfReply) => {
    res.send(200, { headers: { Expires: "120" } });
  });
  call.send("SUBSCRIBE", { headers: ["Event: presence", "Expires: 120"] });
  expect((await peer.response(200, "SUBSCRIBE")).header("Expires")).toBe("120");

  const ended = dialog.destroy();
  const last = await peer.request("NOTIFY");
  expect(last.header("Subscription-State")).toBe("terminated");
  peer.reply(last, 200, "OK");
  await ended;
  await expect.poll(dialogs).toBe(0);
});

it("we subscribe; a NOTIFY that overtakes the 202 reaches the dialog; `terminated` ends it", async () => {
  const headers = { Event: "presence", Expires: "60" };
  const subscribing = srf.createUAC(peer.uri, { method: "SUBSCRIBE", headers });
  const callee = new RawCallee(peer, await peer.request("SUBSCRIBE"));
  callee.send("NOTIFY", { headers: ["Event: presence", "Subscription-State: active;expires=60"] });
  callee.reply(202, "Accepted", { headers: ["Expires: 60"] });
  const dialog = await subscribing;
  await peer.response(200, "NOTIFY");

  const refreshing = dialog.request({ method: "SUBSCRIBE", headers });
  const refresh = await peer.request("SUBSCRIBE");
  expect(refresh.header("Contact")).toContain(`127.0.0.1:${sip.port}`);
  peer.reply(refresh, 200, "OK", { headers: ["Expires: 60"] });
  expect((await refreshing).status).toBe(200);

  // drachtio-srf looks for its subscription under the wrong address and emits no `destroy`; its `notify` event tells.
  const told = new Promise<string>((resolve) => {
    dialog.on("notify", (req: SrfMessage, res: SrfReply) => {
      res.send(200);
      resolve(req.get("Subscription-State"));
    });
  });
  callee.send("NOTIFY", { headers: ["Event: presence", "Subscription-State: terminated;reason=noresource"] });
  await peer.response(200, "NOTIFY");
  expect(await told).toBe("terminated;reason=noresource");
  await expect.poll(dialogs).toBe(0);
});

it("a refused subscription leaves nothing, and neither does one that is never refreshed", async () => {
  const headers = { Event: "presence", Expires: "1" };
  const refused = failure(srf.createUAC(peer.uri, { method: "SUBSCRIBE", headers }));
  peer.reply(await peer.request("SUBSCRIBE"), 489, "Bad Event", { tag: "none" });
  expect((await refused).status).toBe(489);
  const subscribing = srf.createUAC(peer.uri, { method: "SUBSCRIBE", headers });
  new RawCallee(peer, await peer.request("SUBSCRIBE")).reply(200, "OK", { headers: ["Expires: 1"] });
  await subscribing;
  expect(dialogs()).toBe(1);
  // 1 s and 64*T1 later it has to be gone by itself.
  await expect.poll(dialogs, { timeout: 15_000 }).toBe(0);
});
