import { afterEach, describe, expect, test } from "vitest";

import type { Sdp } from "../../src/call/ids.ts";
import type { CallSetup } from "../../src/call/setup.ts";
import type { TransferRequest } from "../../src/call/transfer.ts";
import { drachtioProgram } from "../support/drachtio.ts";
import { Closings, RawCall, RawPeer, sdp, tagOf } from "./engine-support.ts";
import type { Packet } from "./engine-support.ts";
import { fresh, oneTrunk, referRequest as request, startSide } from "./sip-support.ts";
import type { TestSide } from "./sip-support.ts";

const closings = new Closings();

afterEach(async () => {
  await closings.closeAll();
});

async function referred(
  over: Partial<TransferRequest> = {},
  trunk = "",
): Promise<{
  peer: RawPeer;
  call: RawCall;
  side: TestSide;
  setup: CallSetup;
  refer: Packet;
}> {
  const peer = await RawPeer.open(closings);
  const side = await startSide(
    closings,
    oneTrunk(5999, trunk, 'number: "+7495"\n    destinations: { sipHosts: [ok.example] }'),
    {
      password: (_trunk, direction) => (trunk !== "" && direction === "outbound" ? "secret" : undefined),
    },
  );
  const call = new RawCall(peer, side.engine.port);
  call.send("INVITE", { body: sdp(4000) });
  const setup = await side.call();
  side.side.accept(setup.call, setup.caller, sdp(7000) as Sdp);
  const ok = await peer.response(200, "INVITE");
  call.toTag = tagOf(ok.header("To"));
  call.send("ACK");
  await side.event("leg.confirmed");
  side.side.refer(setup.call, setup.caller, { ...request, ...over });
  const refer = await fresh(peer, "REFER");
  closings.add(async () => {
    if (side.side.stats().calls > 0) {
      await call.bye();
    }
  });
  return { peer, call, side, setup, refer };
}

async function notify(
  { peer, call }: { peer: RawPeer; call: RawCall },
  sipfrag: string,
  state: string,
  expected = 200,
  event = "refer",
): Promise<void> {
  peer.send(
    call
      .text("NOTIFY", { body: `${sipfrag}\r\n`, headers: [`Event: ${event}`, `Subscription-State: ${state}`] })
      .replace("application/sdp", "message/sipfrag;version=2.0"),
    call.enginePort,
  );
  await peer.response(expected, "NOTIFY");
}

describe("REFER to the caller's side", () => {
  test("202 → NOTIFY 100 → 180 → 200: progress each time, done once", async () => {
    const talk = await referred();
    const { peer, side, setup, refer } = talk;
    expect(refer.header("Refer-To")).toBe("<sip:79123456789@127.0.0.1:5999>");
    expect(refer.header("Referred-By")).toBe(`<sip:+7495@127.0.0.1:${side.engine.port}>`);
    expect(refer.header("Contact")).not.toBe("");
    peer.reply(refer, 202, "Accepted");
    expect(await side.event("refer.progress")).toEqual({ type: "refer.progress", leg: setup.caller, status: 202 });
    await notify(talk, "SIP/2.0 100 Trying", "active;expires=60");
    expect(await side.event("refer.progress")).toMatchObject({ status: 100 });
    await notify(talk, "SIP/2.0 180 Ringing", "active;expires=60");
    expect(await side.event("refer.progress")).toMatchObject({ status: 180 });
    await notify(talk, "SIP/2.0 200 OK", "terminated;reason=noresource");
    expect(await side.event("refer.done")).toEqual({
      type: "refer.done",
      leg: setup.caller,
      status: 200,
      reason: "OK",
      q850: null,
      redirect: null,
    });
    await notify(talk, "SIP/2.0 200 OK", "terminated;reason=noresource");
    expect(side.seen("refer.done")).toBe(1);
  });

  test.each([405, 420, 501, 603])("%d → done with that status", async (status) => {
    const { peer, side, refer } = await referred();
    peer.reply(refer, status, "No", { headers: ["Reason: Q.850;cause=79"] });
    expect(await side.event("refer.done")).toMatchObject({ status, reason: "No", q850: 79 });
    expect(side.seen("refer.progress")).toBe(0);
  });

  const password = "outbound: { username: patchbay, passwordEnv: NONE, realm: carrier }";
  const challenge = (realm: string): { headers: string[] } => ({
    headers: [`Proxy-Authenticate: Digest realm="${realm}", nonce="n1", algorithm=SHA-256, qop="auth"`],
  });

  test("a challenge from the trunk's gateway is answered once, one of another realm is not", async () => {
    const talk = await referred({}, password);
    const { peer, side, refer } = talk;
    peer.reply(refer, 407, "Proxy Authentication Required", challenge("carrier"));
    const again = await fresh(peer, "REFER");
    expect(again.header("Proxy-Authorization")).toMatch(/^Digest username="patchbay",.*algorithm=SHA-256/);
    expect(again.header("Refer-To")).toBe(refer.header("Refer-To"));
    peer.reply(again, 407, "Proxy Authentication Required", challenge("carrier"));
    expect(await side.event("refer.done")).toMatchObject({ status: 407 });

    const trap = await referred({}, password);
    trap.peer.reply(trap.refer, 407, "Proxy Authentication Required", challenge("elsewhere"));
    expect(await trap.side.event("refer.done")).toMatchObject({ status: 407 });
  });

  test("so is one of a re-INVITE of ours", async () => {
    const { peer, side, setup, refer } = await referred({}, password);
    peer.reply(refer, 405, "Method Not Allowed");
    await side.event("refer.done");
    side.side.reinvite(setup.call, setup.caller, sdp(7002) as Sdp);
    peer.reply(await fresh(peer, "INVITE"), 407, "Proxy Authentication Required", challenge("carrier"));
    const again = await fresh(peer, "INVITE");
    expect(again.header("Proxy-Authorization")).toMatch(/^Digest username="patchbay",.*algorithm=SHA-256/);
    peer.reply(again, 200, "OK", { body: sdp(4002) });
    expect(await side.event("leg.reanswered")).toMatchObject({ leg: setup.caller });
  });

  test("the subscription is that of the REFER which was accepted", async () => {
    const talk = await referred({}, password);
    talk.peer.reply(talk.refer, 407, "Proxy Authentication Required", challenge("carrier"));
    const again = await fresh(talk.peer, "REFER");
    talk.peer.reply(again, 202, "Accepted");
    await talk.side.event("refer.progress");
    const cseq = Number.parseInt(again.header("CSeq"), 10);
    await notify(talk, "SIP/2.0 200 OK", "terminated", 481, `refer;id=${cseq - 1}`);
    await notify(talk, "SIP/2.0 200 OK", "terminated", 200, `refer;id=${cseq}`);
    expect(await talk.side.event("refer.done")).toMatchObject({ status: 200 });
  });

  test("silence → done without or with 408", async () => {
    const { side } = await referred();
    expect([null, 408]).toContain((await side.event("refer.done")).status);
  });

  test("a NOTIFY of 486, and a subscription that ends without a result", async () => {
    const busy = await referred();
    busy.peer.reply(busy.refer, 202, "Accepted");
    await notify(busy, "SIP/2.0 486 Busy Here", "terminated;reason=noresource");
    expect(await busy.side.event("refer.done")).toMatchObject({ status: 486, reason: "Busy Here" });
    const lost = await referred();
    lost.peer.reply(lost.refer, 202, "Accepted");
    await notify(lost, "SIP/2.0 100 Trying", "terminated;reason=timeout");
    expect(await lost.side.event("refer.done")).toMatchObject({ status: null });
  });

  test("a NOTIFY that overtakes the 202, and one of another subscription", async () => {
    const talk = await referred();
    const { peer, side, refer } = talk;
    await notify(talk, "SIP/2.0 100 Trying", "active");
    expect(await side.event("refer.progress")).toMatchObject({ status: 100 });
    peer.reply(refer, 202, "Accepted");
    expect(await side.event("refer.progress")).toMatchObject({ status: 202 });
    await notify(talk, "SIP/2.0 200 OK", "terminated", 481, "refer;id=999999");
    // On a drachtio-server `terminated` of another event would end the call there (C 15.2).
    await notify(talk, "SIP/2.0 200 OK", drachtioProgram === undefined ? "terminated" : "active", 481, "dialog");
    await notify(talk, "SIP/2.0 200 OK", "terminated", 200, `refer;id=${Number.parseInt(refer.header("CSeq"), 10)}`);
    expect(await side.event("refer.done")).toMatchObject({ status: 200 });
  });

  test("a 200 alone is no success; BYE from the caller's side is leg.ended", async () => {
    const { peer, call, side, setup, refer } = await referred({ target: { kind: "uri", uri: "sip:ops@ok.example" } });
    expect(refer.header("Refer-To")).toBe("<sip:ops@ok.example>");
    peer.reply(refer, 200, "OK", { headers: ["Refer-Sub: false"] });
    expect(await side.event("refer.progress")).toMatchObject({ status: 200 });
    await call.bye();
    expect(await side.event("leg.ended")).toMatchObject({ leg: setup.caller });
    expect(side.seen("refer.done")).toBe(0);
  });

  test("a REFER for a caller who is gone is done at once", async () => {
    const { call, side, setup } = await referred();
    await call.bye();
    await side.event("leg.ended");
    side.side.refer(setup.call, setup.caller, request);
    expect(await side.event("refer.done")).toMatchObject({ leg: setup.caller, status: null });
  });
});
