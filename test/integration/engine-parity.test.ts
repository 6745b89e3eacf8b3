import { afterEach, beforeEach, describe, expect, it } from "vitest";

import { RawApp } from "../support/raw-app.ts";
import type { SrfDialog, SrfInstance, TestEngine } from "./engine-support.ts";
import {
  Closings,
  RawCall,
  RawCallee,
  RawPeer,
  sdp,
  secret,
  settlesTo,
  startTestEngine,
  tagOf,
} from "./engine-support.ts";

// `strictParity`: what drachtio-server does where the engine does better. Each test fails without the option.

const closings = new Closings();
let sip: TestEngine;
let srf: SrfInstance;
let peer: RawPeer;

beforeEach(async () => {
  sip = await startTestEngine(closings, { strictParity: true, orphanGraceMs: 500, waitMs: 25_000 });
  srf = await sip.connect();
  peer = await RawPeer.open(closings);
});

afterEach(async () => {
  await closings.closeAll();
});

async function rawApp(): Promise<RawApp> {
  const app = new RawApp(sip.engine.controlPort);
  closings.add(() => {
    app.socket.destroy();
  });
  await app.authenticate(secret);
  return app;
}

async function answered(): Promise<{ call: RawCall; dialog: SrfDialog }> {
  const answering = new Promise<SrfDialog>((resolve) => {
    srf.invite((req, res) => {
      void srf.createUAS(req, res, { localSdp: sdp(5000) }).then(resolve);
    });
  });
  await expect.poll(() => sip.engine.stats().wire.routes).toBeGreaterThan(0);
  const call = new RawCall(peer, sip.port);
  await call.establish();
  const dialog = await answering;
  await expect.poll(() => sip.engine.stats().agent.incoming).toBe(0);
  return { call, dialog };
}

async function crash(dialog: SrfDialog): Promise<void> {
  const before = sip.engine.stats().counters.clientsClosed;
  dialog.res.socket.destroy();
  await expect.poll(() => sip.engine.stats().counters.clientsClosed).toBe(before + 1);
}

describe("orphans and adoption", () => {
  it("everything in a dialog of a lost application gets 481, a BYE deletes it, whoever else is there", async () => {
    const { call, dialog } = await answered();
    await crash(dialog);
    await rawApp();
    call.send("OPTIONS");
    await peer.response(481, "OPTIONS");
    expect(sip.engine.stats().agent).toMatchObject({ dialogs: 1, timers: 1 });
    call.send("BYE");
    await peer.response(481, "BYE");
    expect(sip.engine.stats().agent.dialogs).toBe(0);
  });

  it("a connection may send in a dialog but does not get what comes in it", async () => {
    const { call, dialog } = await answered();
    const other = await rawApp();
    other.send(["o", "sip", "", dialog.id], "OPTIONS sip:placeholder SIP/2.0\r\n\r\n");
    peer.reply(await peer.request("OPTIONS"), 200, "OK");
    await other.until(() => other.received.some(({ tokens }) => tokens[1] === "sip"));
    const informed = new Promise<void>((resolve) => {
      dialog.on("info", (_req: unknown, res: { send(status: number): void }) => {
        res.send(200);
        resolve();
      });
    });
    call.send("INFO");
    await peer.response(200, "INFO");
    await informed;
    await call.bye();
  });

  it("the ringing call of a lost application is not cancelled, and its 200 gets no ACK", async () => {
    void srf.createUAC(peer.uri, { localSdp: sdp(5000) }).catch(() => undefined);
    const out = new RawCallee(peer, await peer.request("INVITE"));
    out.reply(180, "Ringing");
    await expect.poll(() => sip.engine.stats().counters.responsesIn).toBe(1);
    srf.disconnect();
    await expect.poll(() => sip.engine.stats().wire.clients).toBe(0);
    out.reply(200, "OK", { body: sdp(4000) });
    await settlesTo(() => sip.engine.stats().agent.outgoing, 0, 64 * sip.t1Ms * 3);
    // Of this call only: a port may have belonged to a peer of another test, whose engine still repeats something.
    const own = peer.received.filter(({ header }) => header("Call-ID") === out.invite.header("Call-ID"));
    expect(own.map(({ method }) => method).filter((method) => method !== "INVITE")).toEqual([]);
  });

  it("a new call gets 503 at once, though the application was there a moment ago", async () => {
    const { call, dialog } = await answered();
    await crash(dialog);
    const refused = new RawCall(peer, sip.port);
    refused.send("INVITE", { body: sdp(4000) });
    const answer = await peer.response(503, "INVITE");
    refused.send("ACK", { branch: refused.lastBranch, toTag: tagOf(answer.header("To")) });
    call.send("BYE");
    await peer.response(481, "BYE");
  });
});

describe("inside a dialog", () => {
  it("a re-INVITE that crosses ours is delivered, no 491; the Contact it brings is not taken over", async () => {
    const { call, dialog } = await answered();
    const other = await RawPeer.open(closings);
    const offered = new Promise<void>((resolve) => {
      dialog.on("modify", (_req: unknown, res: { send(status: number, options?: object): void }) => {
        res.send(200, { body: sdp(5002, 2) });
        resolve();
      });
    });
    const ours = dialog.request({
      method: "INVITE",
      body: sdp(5004, 3),
      headers: { "Content-Type": "application/sdp" },
    });
    const invite = await peer.request("INVITE");
    call.send("INVITE", { body: sdp(4002, 2), contact: `<${other.uri}>` });
    await offered;
    await peer.take("200 to the re-INVITE", ({ status, header }) => status === 200 && header("CSeq") === "2 INVITE");
    call.send("ACK", { seq: 2 });
    peer.reply(invite, 200, "OK", { body: sdp(4004, 3) });
    await peer.request("ACK");
    await ours;
    const ended = dialog.destroy();
    peer.reply(await peer.request("BYE"), 200, "OK");
    await ended;
    expect(other.received).toEqual([]);
  });

  it("a request with a lower CSeq number is delivered", async () => {
    const { call, dialog } = await answered();
    dialog.on("info", (_req: unknown, res: { send(status: number): void }) => {
      res.send(200);
    });
    call.send("INFO", { seq: 9 });
    await peer.response(200, "INFO");
    call.send("INFO", { seq: 5 });
    await peer.take("200 to the late INFO", ({ status, header }) => status === 200 && header("CSeq") === "5 INFO");
    call.seq = 9;
    await call.bye();
  });
});

describe("outside of dialogs", () => {
  it("an application never hears of an INVITE whose CANCEL the peer ignores", async () => {
    const app = await rawApp();
    app.send(["i", "sip", "", ""], `INVITE ${peer.uri} SIP/2.0\r\n\r\n`);
    const out = new RawCallee(peer, await peer.request("INVITE"));
    out.reply(180, "Ringing");
    await app.until(() => app.received.some(({ tokens }) => tokens[1] === "sip"));
    app.send(["c", "sip", (await app.answer("i"))[9] ?? "", ""], `CANCEL ${peer.uri} SIP/2.0\r\n\r\n`);
    peer.reply(await peer.request("CANCEL"), 200, "OK");
    await settlesTo(() => sip.engine.stats().agent.outgoing, 0, 64 * sip.t1Ms * 4);
    expect(app.received.filter(({ tokens }) => tokens[1] === "sip")).toHaveLength(1);
  });

  it("an INVITE that nobody answers is forgotten without an answer", async () => {
    srf.invite(() => undefined);
    await expect.poll(() => sip.engine.stats().wire.routes).toBe(1);
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000) });
    await peer.response(100, "INVITE");
    await settlesTo(() => sip.engine.stats().agent.incoming, 0, 64 * sip.t1Ms * 4);
    const own = peer.received.filter(({ header }) => header("Call-ID") === call.callId);
    expect(own.map(({ status }) => status).filter((status) => status !== 100)).toEqual([]);
  });

  it("a REFER that nobody routes gets no answer, and remove_route takes every verb", async () => {
    const call = new RawCall(peer, sip.port);
    call.send("REFER", { headers: ["Refer-To: <sip:x@127.0.0.1>"] });
    await expect.poll(() => sip.engine.stats().counters.requestsUnrouted).toBe(1);
    const app = await rawApp();
    for (const [id, type, verb] of [
      ["1", "route", "invite"],
      ["2", "route", "message"],
      ["3", "remove_route", "message"],
    ] as const) {
      app.send([id, type, verb]);
      await app.answer(id);
    }
    expect(sip.engine.stats().wire.routes).toBe(0);
    expect(peer.received.filter(({ header }) => header("Call-ID") === call.callId)).toEqual([]);
  });
});
