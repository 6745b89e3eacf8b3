// RFC 4028 both ways (contract test 21): drachtio-srf on one side, raw sockets or SIPp on the other.
import { fileURLToPath } from "node:url";

import { afterEach, describe, expect, it } from "vitest";

import type { EngineOptions } from "../../src/engine/index.ts";
import { expectSuccess, runSipp, Sipp } from "../support/sipp.ts";
import type { Packet, SrfDialog, SrfInstance, SrfMessage, SrfReply, TestEngine } from "./engine-support.ts";
import { Closings, failure, RawCall, RawCallee, RawPeer, sdp, startTestEngine } from "./engine-support.ts";

const closings = new Closings();
let sip: TestEngine;
let srf: SrfInstance;
let peer: RawPeer;

/** A second of a session interval: 90 of them, the least there may be, are 2.25 s. */
const secondMs = 25;
/** Longer than two refreshes, shorter than a test waits for rest: an application that is lost is remembered for so long. */
const orphanGraceMs = 6_000;

async function start(options: Partial<EngineOptions> = {}): Promise<void> {
  sip = await startTestEngine(closings, { sessionTimers: { secondMs }, ...options });
  srf = await sip.connect();
  peer = await RawPeer.open(closings);
}

afterEach(async () => {
  await closings.closeAll();
});

const timer = "Supported: timer";
const weRefresh = [timer, "Session-Expires: 90;refresher=uas"];
const theyRefresh = [timer, "Session-Expires: 90;refresher=uac"];
const expired = 'SIP ;cause=200 ;text="Session timer expired"';

interface Call {
  readonly call: RawCall;
  readonly dialog: SrfDialog;
  readonly ok: Packet;
  /** Resolves when drachtio-srf tells that the dialog is over, with the source of the BYE. */
  readonly destroyed: Promise<string>;
  readonly modified: SrfMessage[];
}

function watch(dialog: SrfDialog): { readonly destroyed: Promise<string>; readonly modified: SrfMessage[] } {
  const modified: SrfMessage[] = [];
  dialog.on("modify", (req: SrfMessage, res: SrfReply) => {
    modified.push(req);
    res.send(200, { body: dialog.local.sdp });
  });
  return {
    modified,
    destroyed: new Promise((resolve) => {
      dialog.on("destroy", (bye: SrfMessage) => {
        resolve(bye.source);
      });
    }),
  };
}

/** A call from the peer, answered and acknowledged. */
async function incoming(headers: readonly string[], answer: Record<string, string> = {}): Promise<Call> {
  const made = new Promise<SrfDialog>((resolve, reject) => {
    srf.invite((req, res) => {
      srf.createUAS(req, res, { localSdp: sdp(5000), headers: answer }).then(resolve, reject);
    });
  });
  await expect.poll(() => sip.engine.stats().wire.routes).toBe(1);
  const call = new RawCall(peer, sip.port);
  const ok = await call.invite({ body: sdp(4000), headers });
  call.send("ACK");
  const dialog = await made;
  return { call, dialog, ok, ...watch(dialog) };
}

interface MadeCall {
  readonly callee: RawCallee;
  readonly dialog: SrfDialog;
  readonly destroyed: Promise<string>;
  readonly modified: SrfMessage[];
}

/** A call to the peer that offers a session timer, answered and acknowledged. */
async function outgoing(
  answer: readonly string[],
  headers: Record<string, string> = { "Session-Expires": "90;refresher=uac", "Min-SE": "90" },
): Promise<MadeCall> {
  const calling = srf.createUAC(peer.uri, { localSdp: sdp(5000), headers });
  const callee = new RawCallee(peer, await peer.request("INVITE"));
  callee.reply(200, "OK", { body: sdp(4000), headers: answer });
  const dialog = await calling;
  await peer.request("ACK");
  return { callee, dialog, ...watch(dialog) };
}

async function hangUp(dialog: SrfDialog): Promise<void> {
  const ended = dialog.destroy();
  peer.reply(await peer.request("BYE"), 200, "OK");
  await ended;
}

async function expectExpired(destroyed: Promise<string>): Promise<void> {
  const bye = await peer.request("BYE");
  expect(bye.header("Reason")).toBe(expired);
  peer.reply(bye, 200, "OK");
  expect(await destroyed).toBe("application");
}

/** Our refresh: everything of it but its answer. */
async function refresh(seconds = 90): Promise<Packet> {
  const invite = await peer.request("INVITE");
  expect(invite.body).toBe(sdp(5000));
  expect(invite.header("Content-Type")).toBe("application/sdp");
  expect(invite.header("Contact")).toContain(`127.0.0.1:${sip.port}`);
  expect(invite.header("Session-Expires")).toBe(`${seconds};refresher=uac`);
  expect(invite.header("Min-SE")).toBe(String(seconds));
  expect(invite.header("Supported")).toBe("timer");
  return invite;
}

const seqOf = (packet: Packet): number => Number.parseInt(packet.header("CSeq"), 10);

async function accept(invite: Packet, seconds = 90): Promise<void> {
  peer.reply(invite, 200, "OK", { body: sdp(4000), headers: [`Session-Expires: ${seconds};refresher=uac`] });
  const ack = await peer.take(
    "ACK of the 2xx",
    (packet) => packet.method === "ACK" && packet.status === 0 && seqOf(packet) === seqOf(invite),
  );
  expect(ack.body).toBe("");
}

describe("we refresh", () => {
  it("UAS: re-INVITE with our SDP as it was, acknowledged by the engine, again and again; the application hears nothing", async () => {
    await start();
    const { call, dialog, ok, modified } = await incoming(weRefresh);
    expect(ok.header("Session-Expires")).toBe("90;refresher=uas");
    expect(ok.header("Require")).toBe("timer");
    expect(ok.header("Supported")).toBe("timer");
    const first = await refresh();
    expect(first.header("To")).toContain(call.fromTag);
    await accept(first);
    const second = await refresh();
    expect(seqOf(second)).toBe(seqOf(first) + 1);
    await accept(second);
    expect(modified).toEqual([]);
    expect(dialog.connected).toBe(true);
    await call.bye();
  });

  it("UAC: the same", async () => {
    await start();
    const { dialog } = await outgoing([timer, "Require: timer", "Session-Expires: 90;refresher=uac"]);
    await accept(await refresh());
    await accept(await refresh());
    await hangUp(dialog);
  });

  it("UAC: our INVITE says that we know session timers", async () => {
    await start();
    const calling = srf.createUAC(peer.uri, { localSdp: sdp(5000), headers: { "Session-Expires": "1800" } });
    const invite = await peer.request("INVITE");
    expect(invite.headers("Supported")).toEqual(["timer"]);
    new RawCallee(peer, invite).reply(486, "Busy Here");
    expect((await failure(calling)).status).toBe(486);
  });

  it("UAC: a 200 that names no refresher means us", async () => {
    await start();
    const { dialog } = await outgoing(["Session-Expires: 90"]);
    await accept(await refresh());
    await hangUp(dialog);
  });

  it("UAS: a caller who knows no session timers is refreshed all the same, for as long as he answers", async () => {
    await start();
    const { call, ok } = await incoming([], { "Session-Expires": "90;refresher=uas" });
    expect(ok.header("Session-Expires")).toBe("90;refresher=uas");
    expect(ok.header("Require")).toBe("");
    for (let round = 0; round < 2; round += 1) {
      peer.reply(await refresh(), 200, "OK", { body: sdp(4000) });
      await peer.request("ACK");
    }
    await call.bye();
  });

  it("with no application attached", async () => {
    await start({ orphanGraceMs });
    const { call } = await incoming(weRefresh);
    srf.disconnect();
    await expect.poll(() => sip.engine.stats().wire.clients).toBe(0);
    await accept(await refresh());
    await accept(await refresh());
    await call.bye();
  });

  it.each([
    [491, []],
    [500, ["Retry-After: 1"]],
  ] as const)("%i: once more a little later", async (status, headers) => {
    await start();
    const { call } = await incoming(weRefresh);
    const first = await refresh();
    peer.reply(first, status, "Glare", { headers });
    expect(seqOf(await peer.request("ACK"))).toBe(seqOf(first));
    const second = await refresh();
    expect(seqOf(second)).toBe(seqOf(first) + 1);
    await accept(second);
    await call.bye();
  });

  it("422: at once with the larger interval", async () => {
    await start();
    const { call } = await incoming(weRefresh);
    peer.reply(await refresh(), 422, "Session Interval Too Small", { headers: ["Min-SE: 120"] });
    await accept(await refresh(120), 120);
    await accept(await refresh(120), 120);
    await call.bye();
  });

  it("422 for ever: BYE", async () => {
    await start();
    const { destroyed } = await incoming(weRefresh);
    for (const [seconds, larger] of [
      [90, 100],
      [100, 110],
      [110, 120],
    ] as const) {
      peer.reply(await refresh(seconds), 422, "Session Interval Too Small", { headers: [`Min-SE: ${larger}`] });
    }
    await expectExpired(destroyed);
  });

  it.each([408, 481, 488, 603])("%i: BYE, and the application learns of it", async (status) => {
    await start();
    const { destroyed } = await incoming(weRefresh);
    peer.reply(await refresh(), status, "No");
    await expectExpired(destroyed);
  });

  it("a caller who knows no session timers and refuses the re-INVITE is there: he is asked again, not hung up on", async () => {
    await start();
    const { call } = await incoming([], { "Session-Expires": "90;refresher=uas" });
    for (let round = 0; round < 2; round += 1) {
      peer.reply(await refresh(), 488, "Not Acceptable Here");
    }
    await refresh().then((invite) => {
      peer.reply(invite, 200, "OK", { body: sdp(4000) });
    });
    await call.bye();
  });

  it("no answer at all: BYE when the session expires", async () => {
    await start();
    const { destroyed } = await outgoing(["Session-Expires: 90;refresher=uac"]);
    await refresh();
    await expectExpired(destroyed);
  });

  it("100 and no more: the same", async () => {
    await start();
    const { destroyed } = await outgoing(["Session-Expires: 90;refresher=uac"]);
    const invite = await refresh();
    peer.reply(invite, 100, "Trying");
    const cancel = await peer.request("CANCEL");
    peer.reply(cancel, 200, "OK");
    peer.reply(invite, 487, "Request Terminated");
    await expectExpired(destroyed);
  });

  it("the application's re-INVITE counts as a refresh and says so", async () => {
    await start();
    const { call, dialog } = await incoming(weRefresh);
    const modifying = dialog.modify(sdp(5010, 2));
    const own = await peer.request("INVITE");
    expect(own.body).toBe(sdp(5010, 2));
    expect(own.header("Session-Expires")).toBe("90;refresher=uac");
    expect(own.header("Min-SE")).toBe("90");
    // From now on the peer refreshes.
    peer.reply(own, 200, "OK", { body: sdp(4000), headers: ["Session-Expires: 90;refresher=uas"] });
    await modifying;
    await peer.request("ACK");
    const bye = await peer.request("BYE");
    expect(bye.header("Reason")).toBe(expired);
    // No refresh of ours came in between.
    expect(peer.count((packet) => packet.status === 0 && packet.method === "INVITE" && packet.body === sdp(5000))).toBe(
      0,
    );
    peer.reply(bye, 200, "OK");
    expect(call.toTag).not.toBe("");
  });

  it("the refresh repeats the SDP of the application's last accepted re-INVITE, not of a refused one", async () => {
    await start();
    const { call, dialog } = await incoming(weRefresh);
    const modifying = dialog.modify(sdp(5010, 2));
    peer.reply(await peer.request("INVITE"), 200, "OK", {
      body: sdp(4000),
      headers: ["Session-Expires: 90;refresher=uac"],
    });
    await modifying;
    await peer.request("ACK");
    const refused = failure(dialog.modify(sdp(5020, 3)));
    peer.reply(await peer.request("INVITE"), 488, "Not Acceptable Here");
    await refused;
    const invite = await peer.request("INVITE");
    expect(invite.body).toBe(sdp(5010, 2));
    await accept(invite);
    await call.bye();
  });

  it("the application's re-INVITE waits for the refresh under way", async () => {
    await start();
    const { call, dialog } = await incoming(weRefresh);
    const invite = await refresh();
    const modifying = dialog.modify(sdp(5010, 2));
    await expect.poll(() => sip.engine.stats().counters.framesIn).toBeGreaterThan(3);
    expect(peer.count((packet) => packet.method === "INVITE" && packet.body === sdp(5010, 2))).toBe(0);
    await accept(invite);
    const own = await peer.request("INVITE");
    expect(own.body).toBe(sdp(5010, 2));
    peer.reply(own, 200, "OK", { body: sdp(4000) });
    await modifying;
    await call.bye();
  });

  it("the peer's re-INVITE while our refresh is under way: 491", async () => {
    await start();
    const { call, modified } = await incoming(weRefresh);
    const invite = await refresh();
    call.send("INVITE", { body: sdp(4010, 2) });
    await peer.response(491, "INVITE");
    call.send("ACK", { branch: call.lastBranch });
    await accept(invite);
    expect(modified).toEqual([]);
    await call.bye();
  });

  it("the application hangs up while the refresh is under way", async () => {
    await start();
    const { dialog } = await outgoing(["Session-Expires: 90;refresher=uac"]);
    const invite = await refresh();
    peer.reply(invite, 100, "Trying");
    const ended = dialog.destroy();
    peer.reply(await peer.request("BYE"), 200, "OK");
    peer.reply(await peer.request("CANCEL"), 200, "OK");
    peer.reply(invite, 487, "Request Terminated");
    await ended;
  });
});

describe("they refresh", () => {
  it("UAS: nothing comes: BYE before the session expires", async () => {
    await start();
    const { destroyed, ok } = await incoming(theyRefresh);
    expect(ok.header("Session-Expires")).toBe("90;refresher=uac");
    expect(ok.header("Require")).toBe("timer");
    const bye = await peer.request("BYE");
    expect(bye.header("Reason")).toBe(expired);
    // RFC 4028 §10: not at 90 s but a third before, and never sooner.
    expect(bye.at - ok.at).toBeGreaterThan(59 * secondMs);
    expect(bye.at - ok.at).toBeLessThan(90 * secondMs);
    peer.reply(bye, 200, "OK");
    expect(await destroyed).toBe("application");
  });

  it("UAC: the same, with no application attached", async () => {
    await start({ orphanGraceMs });
    await outgoing(["Session-Expires: 90;refresher=uas"]);
    srf.disconnect();
    const bye = await peer.request("BYE");
    expect(bye.header("Reason")).toBe(expired);
    peer.reply(bye, 200, "OK");
  });

  it("a re-INVITE refreshes: Session-Expires comes back in its 200, which drachtio-srf has not written", async () => {
    await start();
    const { call, modified, destroyed } = await incoming(theyRefresh);
    for (let round = 0; round < 2; round += 1) {
      call.send("INVITE", { body: sdp(4000), headers: theyRefresh });
      const ok = await peer.response(200, "INVITE");
      expect(ok.header("Session-Expires")).toBe("90;refresher=uac");
      expect(ok.header("Require")).toBe("timer");
      call.send("ACK");
    }
    expect(modified).toHaveLength(2);
    await expectExpired(destroyed);
  });

  it("so does an UPDATE without a body", async () => {
    await start();
    const { call, dialog, destroyed } = await incoming(theyRefresh);
    dialog.on("update", (_req: SrfMessage, res: SrfReply) => {
      res.send(200);
    });
    call.send("UPDATE", { headers: theyRefresh });
    const ok = await peer.response(200, "UPDATE");
    expect(ok.header("Session-Expires")).toBe("90;refresher=uac");
    expect(ok.header("Require")).toBe("timer");
    await expectExpired(destroyed);
  });

  it("a re-INVITE that the application refuses refreshes nothing", async () => {
    await start();
    const { call, dialog, destroyed } = await incoming(theyRefresh);
    dialog.removeAllListeners("modify");
    dialog.on("modify", (_req: SrfMessage, res: SrfReply) => {
      res.send(488);
    });
    call.send("INVITE", { body: sdp(4010, 2), headers: [timer, "Session-Expires: 9000;refresher=uas"] });
    await peer.response(488, "INVITE");
    call.send("ACK", { branch: call.lastBranch });
    // A timer armed by the refused offer would run for minutes even here.
    await expectExpired(destroyed);
  });
});

describe("too small an interval", () => {
  const small = [timer, "Session-Expires: 89;refresher=uac"];

  it("in an INVITE: 422 with Min-SE, the application is not asked; the retry with the same Call-ID is", async () => {
    await start();
    const asked: SrfMessage[] = [];
    srf.invite((req, res) => {
      asked.push(req);
      void srf.createUAS(req, res, { localSdp: sdp(5000) });
    });
    await expect.poll(() => sip.engine.stats().wire.routes).toBe(1);
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000), headers: small });
    expect((await peer.response(422, "INVITE")).header("Min-SE")).toBe("90");
    call.send("ACK", { branch: call.lastBranch });
    expect(asked).toEqual([]);
    const ok = await call.invite({ body: sdp(4000), headers: [...theyRefresh, "Min-SE: 90"] });
    expect(ok.header("Session-Expires")).toBe("90;refresher=uac");
    call.send("ACK");
    await call.bye();
    expect(asked).toHaveLength(1);
  });

  it.each(["INVITE", "UPDATE"])("in a dialog, %s: 422, the timer runs on as it was", async (method) => {
    await start();
    const { call, modified, destroyed } = await incoming(theyRefresh);
    call.send(method, { body: method === "INVITE" ? sdp(4010, 2) : "", headers: small });
    expect((await peer.response(422, method)).header("Min-SE")).toBe("90");
    if (method === "INVITE") {
      call.send("ACK", { branch: call.lastBranch });
    }
    expect(modified).toEqual([]);
    await expectExpired(destroyed);
  });

  it("422 to our INVITE goes up, the application's retry with the same Call-ID works", async () => {
    await start();
    let sent: SrfMessage | undefined;
    const calling = srf.createUAC(
      peer.uri,
      { localSdp: sdp(5000), headers: { "Session-Expires": "100;refresher=uac", "Min-SE": "90" } },
      {
        cbRequest: (_error, req) => {
          sent = req;
        },
      },
    );
    const invite = await peer.request("INVITE");
    new RawCallee(peer, invite).reply(422, "Session Interval Too Small", { headers: ["Min-SE: 120"] });
    expect((await failure(calling)).status).toBe(422);
    await peer.request("ACK");
    const again = srf.createUAC(peer.uri, {
      localSdp: sdp(5000),
      headers: {
        "Call-ID": sent?.get("Call-ID"),
        From: sent?.get("From"),
        CSeq: `${seqOf(invite) + 1} INVITE`,
        "Session-Expires": "120;refresher=uac",
        "Min-SE": "120",
      },
    });
    const retry = await peer.request("INVITE");
    expect(retry.header("Call-ID")).toBe(invite.header("Call-ID"));
    expect(retry.header("From")).toBe(invite.header("From"));
    expect(seqOf(retry)).toBe(seqOf(invite) + 1);
    new RawCallee(peer, retry).reply(200, "OK", {
      body: sdp(4000),
      headers: ["Session-Expires: 120;refresher=uac"],
    });
    const dialog = await again;
    await peer.request("ACK");
    await accept(await refresh(120), 120);
    await hangUp(dialog);
  });

  it("the smallest interval can be raised", async () => {
    await start({ sessionTimers: { secondMs, minimumSeconds: 600 } });
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000), headers: theyRefresh });
    expect((await peer.response(422, "INVITE")).header("Min-SE")).toBe("600");
    call.send("ACK", { branch: call.lastBranch });
  });
});

describe("not", () => {
  it("an offer without a refresher is left alone", async () => {
    await start();
    const { call, ok } = await incoming([timer, "Session-Expires: 90"]);
    expect(ok.header("Session-Expires")).toBe("");
    expect(ok.header("Require")).toBe("");
    await call.bye();
  });

  it.each(["uac", "uas"] as const)("unless the engine's default is %s", async (defaultRefresher) => {
    await start({ sessionTimers: { secondMs, defaultRefresher } });
    const { call, ok } = await incoming([timer, "Session-Expires: 90"]);
    expect(ok.header("Session-Expires")).toBe(`90;refresher=${defaultRefresher}`);
    await call.bye();
  });

  it("a 200 without Session-Expires arms nothing", async () => {
    await start();
    const { dialog } = await outgoing([]);
    await expect.poll(() => sip.engine.stats().agent.outgoing).toBe(1);
    // All that is left is the INVITE that is kept for repetitions of its 200; the dialog itself has no timer.
    expect(sip.engine.stats().agent.timers).toBe(1);
    await hangUp(dialog);
  });

  it("Require: timer is understood", async () => {
    await start();
    const { call, ok } = await incoming(["Require: timer", "Session-Expires: 90;refresher=uac"]);
    expect(ok.header("Session-Expires")).toBe("90;refresher=uac");
    await call.bye();
  });
});

describe("SIPp as the peer", () => {
  const scenario = (name: string): string => fileURLToPath(new URL(`sipp/engine/${name}.xml`, import.meta.url));

  it("calls, is refreshed twice, and hangs up", async () => {
    await start({ t1Ms: 250 });
    srf.invite((req, res) => {
      void srf.createUAS(req, res, { localSdp: sdp(5000) });
    });
    await expect.poll(() => sip.engine.stats().wire.routes).toBe(1);
    expectSuccess(
      await runSipp({
        scenario: scenario("refreshed-caller"),
        target: `127.0.0.1:${sip.port}`,
        calls: 3,
        callsPerSecond: 3,
      }),
    );
  });

  it("is called, refreshes twice, stops, and gets the BYE", async () => {
    await start({ t1Ms: 250 });
    await using sipp = await Sipp.start({ scenario: scenario("refreshing-callee"), calls: 3 });
    const ended = await Promise.all(
      Array.from({ length: 3 }, async () => {
        const dialog = await srf.createUAC(`sip:bob@127.0.0.1:${sipp.port}`, {
          localSdp: sdp(5000),
          headers: { "Session-Expires": "90;refresher=uas", "Min-SE": "90" },
        });
        return watch(dialog).destroyed;
      }),
    );
    expectSuccess(await sipp.finished());
    expect(ended).toEqual(["application", "application", "application"]);
  });
});
