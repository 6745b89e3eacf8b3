import { once } from "node:events";

import { afterEach, beforeEach, describe, expect, it } from "vitest";

import { RawApp } from "../support/raw-app.ts";
import type { SrfDialog, SrfInstance, SrfMessage, SrfReply, TestEngine } from "./engine-support.ts";
import { Closings, RawCall, RawCallee, RawPeer, sdp, secret, startTestEngine, tagOf } from "./engine-support.ts";

// What happens to calls while their application is away: it has crashed, and another one comes or does not.

const closings = new Closings();
let sip: TestEngine;
let srf: SrfInstance;
let peer: RawPeer;

beforeEach(async () => {
  sip = await startTestEngine(closings, { orphanGraceMs: 3000, waitMs: 1000 });
  srf = await sip.connect();
  peer = await RawPeer.open(closings);
});

afterEach(async () => {
  await closings.closeAll();
});

function rawApp({ engine } = sip): RawApp {
  const app = new RawApp(engine.controlPort);
  closings.add(() => {
    app.socket.destroy();
  });
  return app;
}

async function crash(socket: { destroy(): void }): Promise<void> {
  const before = sip.engine.stats().counters.clientsClosed;
  socket.destroy();
  await expect.poll(() => sip.engine.stats().counters.clientsClosed).toBe(before + 1);
}

/** A call that was answered by an application which is dead since. */
async function orphan(): Promise<{ call: RawCall; dialogId: string }> {
  const answered = new Promise<SrfDialog>((resolve) => {
    srf.invite((req, res) => {
      void srf.createUAS(req, res, { localSdp: sdp(5000) }).then(resolve);
    });
  });
  await expect.poll(() => sip.engine.stats().wire.routes).toBe(1);
  const call = new RawCall(peer, sip.port);
  await call.establish();
  const dialog = await answered;
  await expect.poll(() => sip.engine.stats().agent.incoming).toBe(0);
  await crash(dialog.res.socket);
  return { call, dialogId: dialog.id };
}

/** The SIP messages an application was given, `INFO <dialog id>`. */
function given(app: RawApp): string[] {
  return app.received
    .filter(({ tokens }) => tokens[1] === "sip")
    .map(({ tokens, sip: text }) => `${text?.toString().split(" ")[0]} ${tokens[9]}`);
}

describe("a dialog without an application", () => {
  it("belongs to the only connection as soon as that is there, though it sends nothing", async () => {
    const { call, dialogId } = await orphan();
    const other = await sip.connect();
    const informed = new Promise<SrfMessage>((resolve) => {
      other.use("info", (req, res) => {
        resolve(req);
        res.send(200);
      });
    });
    await expect.poll(() => sip.engine.stats().counters.dialogsAdopted).toBe(1);
    expect(sip.engine.stats().agent.timers).toBe(0);
    call.send("INFO");
    await peer.response(200, "INFO");
    expect((await informed).stackDialogId).toBe(dialogId);
    other.use("bye", (_req, res) => {
      res.send(200);
    });
    await call.bye();
    expect(sip.engine.stats().counters.orphansEnded).toBe(0);
  });

  it("of two connections belongs to the one with the same tags, else to the one that sends in it", async () => {
    srf.disconnect();
    await expect.poll(() => sip.engine.stats().wire.clients).toBe(0);
    const [first, second] = [rawApp(), rawApp()];
    await first.authenticate(secret, "blue,red");
    await second.authenticate(secret, "green");
    first.send(["r", "route", "invite"]);
    await first.answer("r");
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000) });
    await first.until(() => given(first).length === 1);
    const txnId = first.received.find(({ tokens }) => tokens[1] === "sip")?.tokens[8] ?? "";
    first.send(["a", "sip", txnId, ""], `SIP/2.0 200 OK\r\nContent-Type: application/sdp\r\n\r\n${sdp(5000)}`);
    const dialogId = (await first.answer("a"))[10] ?? "";
    const ok = await peer.response(200, "INVITE");
    call.toTag = tagOf(ok.header("To"));
    call.send("ACK");
    const third = rawApp();
    await third.authenticate(secret, "");
    await crash(first.socket);
    call.send("INFO");
    // Neither of the two is its heir, so the request waits; who comes with the old tags gets it.
    const fourth = rawApp();
    await fourth.authenticate(secret, "red,blue");
    await fourth.until(() => given(fourth).includes(`INFO ${dialogId}`));
    expect([...given(second), ...given(third)]).toEqual([]);
    // Taken over by sending.
    third.send(["o", "sip", "", dialogId], "OPTIONS sip:placeholder SIP/2.0\r\n\r\n");
    peer.reply(await peer.request("OPTIONS"), 200, "OK");
    call.send("BYE");
    await third.until(() => given(third).includes(`BYE ${dialogId}`));
    const bye = third.received.findLast(({ tokens }) => tokens[1] === "sip")?.tokens[8] ?? "";
    third.send(["b", "sip", bye, ""], "SIP/2.0 200 OK\r\n\r\n");
    await peer.response(200, "BYE");
  });

  it("OPTIONS gets 200 at once, a re-INVITE 100 and then the answer of the heir, INFO waits for it too", async () => {
    const { call } = await orphan();
    call.send("OPTIONS");
    await peer.response(200, "OPTIONS");
    call.send("INVITE", { body: sdp(4002, 2) });
    await peer.response(100, "INVITE");
    call.send("INFO");
    await expect.poll(() => sip.engine.stats().agent.incoming).toBe(2);
    const other = await sip.connect();
    for (const verb of ["invite", "info"]) {
      other.use(verb, (_req: SrfMessage, res: SrfReply) => {
        res.send(200, { body: verb === "invite" ? sdp(5002, 2) : "" });
      });
    }
    await peer.response(200, "INFO");
    await peer.take("200 to the re-INVITE", ({ status, header }) => status === 200 && header("CSeq") === "3 INVITE");
    call.send("ACK", { seq: 3 });
    other.use("bye", (_req, res) => {
      res.send(200);
    });
    await expect.poll(() => sip.engine.stats().agent.incoming).toBe(0);
    await call.bye();
  });

  it("INFO gets 480 when nobody comes, and the dialog is ended after the grace time", async () => {
    const { call } = await orphan();
    call.send("INFO");
    await peer.response(480, "INFO");
    const bye = await peer.request("BYE");
    expect(bye.header("Reason")).toBe('SIP;cause=503;text="application gone"');
    peer.reply(bye, 200, "OK");
    await expect.poll(() => sip.engine.stats().agent.dialogs).toBe(0);
  });

  it("BYE gets 200 at once, and who comes is told of it, once", async () => {
    const { call, dialogId } = await orphan();
    await call.bye();
    expect(sip.engine.stats()).toMatchObject({ agent: { dialogs: 0, timers: 1 }, counters: { endsKept: 1 } });
    const other = rawApp();
    await other.authenticate(secret);
    await other.until(() => given(other).length > 0);
    expect(given(other)).toEqual([`BYE ${dialogId}`]);
    expect(sip.engine.stats().agent.timers).toBe(0);
    const late = rawApp();
    await late.authenticate(secret);
    late.send(["o", "sip", "", dialogId], "OPTIONS sip:placeholder SIP/2.0\r\n\r\n");
    expect((await late.answer("o"))[3]).toBe("Server error: unable to find dialog for dialog id provided");
    expect(given(late)).toEqual([]);
  });

  it("whoever asks for a dialog that the peer has ended meanwhile is told of the BYE first", async () => {
    const bystander = rawApp();
    await bystander.authenticate(secret, "x");
    const another = rawApp();
    await another.authenticate(secret, "y");
    const { call, dialogId } = await orphan();
    await call.bye();
    another.send(["o", "sip", "", dialogId], "OPTIONS sip:placeholder SIP/2.0\r\n\r\n");
    expect((await another.answer("o"))[2]).toBe("NOK");
    expect(given(another)).toEqual([`BYE ${dialogId}`]);
    expect(given(bystander)).toEqual([]);
  });
});

describe("a dialog of an engine that has died with its application", () => {
  const start = async (saved: readonly string[]): Promise<TestEngine> => {
    const next = await startTestEngine(closings, { orphanGraceMs: 3000, waitMs: 1000 });
    next.engine.takeBack(saved);
    return next;
  };

  /** A call, and what was saved of it; the engine it was in is out of it, as one that was killed would be. */
  async function saved(): Promise<{ call: RawCall; dialogId: string; text: string }> {
    const { call, dialogId } = await orphan();
    const text = sip.engine.saved(dialogId) ?? "";
    await call.bye();
    expect(sip.engine.saved(dialogId)).toBeUndefined();
    return { call, dialogId, text };
  }

  it("is made again by the next one, where an application ends it", async () => {
    const { call, dialogId, text } = await saved();
    const next = await start(["no dialog", text, text]);
    expect(next.engine.stats().agent).toMatchObject({ dialogs: 1, timers: 1 });
    const app = rawApp(next);
    await app.authenticate(secret);
    await expect.poll(() => next.engine.stats().counters.dialogsAdopted).toBe(1);
    app.send(["b", "sip", "", dialogId], "BYE sip:placeholder SIP/2.0\r\nReason: SIP;cause=503\r\n\r\n");
    const bye = await peer.request("BYE");
    expect(bye.header("Call-ID")).toBe(call.callId);
    expect([tagOf(bye.header("From")), tagOf(bye.header("To"))]).toEqual([call.toTag, call.fromTag]);
    expect(bye.header("Reason")).toBe("SIP;cause=503");
    // Higher than whatever was sent after it was saved.
    expect(Number.parseInt(bye.header("CSeq"), 10)).toBeGreaterThan(100_000);
    peer.reply(bye, 200, "OK");
    await expect.poll(() => next.engine.stats().agent).toMatchObject({ dialogs: 0, timers: 0 });
  });

  it("is ended by the engine itself when no application comes", async () => {
    const { text } = await saved();
    const next = await start([text]);
    const bye = await peer.request("BYE");
    expect(bye.header("Reason")).toBe('SIP;cause=503;text="application gone"');
    peer.reply(bye, 200, "OK");
    await expect.poll(() => next.engine.stats().agent.dialogs).toBe(0);
  });
});

describe("calls that were not answered yet when the application died", () => {
  it("a new application gets the INVITE that the old one was given and answers it", async () => {
    srf.invite((_req, res) => {
      res.send(180);
    });
    await expect.poll(() => sip.engine.stats().wire.routes).toBe(1);
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000) });
    const ringing = await peer.response(180, "INVITE");
    srf.disconnect();
    await expect.poll(() => sip.engine.stats().wire.clients).toBe(0);
    const other = await sip.connect();
    const answered = new Promise<SrfDialog>((resolve) => {
      other.invite((req, res) => {
        void other.createUAS(req, res, { localSdp: sdp(5000) }).then(resolve);
      });
    });
    const ok = await peer.response(200, "INVITE");
    // RFC 3261 §8.2.6.2: one To tag for all responses, whichever application gives them.
    expect(tagOf(ok.header("To"))).toBe(tagOf(ringing.header("To")));
    call.toTag = tagOf(ok.header("To"));
    call.send("ACK");
    const dialog = await answered;
    const ended = once(dialog, "destroy");
    await call.bye();
    await ended;
  });

  it("an INVITE that two applications died of is refused with 503", async () => {
    const call = new RawCall(peer, sip.port);
    const apps = [rawApp(), rawApp(), rawApp()];
    for (const app of apps) {
      await app.authenticate(secret);
      app.send(["r", "route", "invite"]);
      await app.answer("r");
    }
    call.send("INVITE", { body: sdp(4000) });
    for (let dead = 0; dead < 2; dead += 1) {
      const [victim] = await expect
        .poll(() => apps.filter((app) => !app.closed && given(app).length > 0))
        .toHaveLength(1)
        .then(() => apps.filter((app) => !app.closed && given(app).length > 0));
      await crash((victim as RawApp).socket);
    }
    const refused = await peer.response(503, "INVITE");
    call.send("ACK", { branch: call.lastBranch, toTag: tagOf(refused.header("To")) });
    expect(apps.filter((app) => given(app).length > 0)).toHaveLength(2);
  });

  it("a new call waits for an application that was there a moment ago, and gets 503 when it stays away", async () => {
    const app = rawApp();
    await app.authenticate(secret);
    app.send(["r", "route", "invite"]);
    await app.answer("r");
    await crash(app.socket);
    const served = new RawCall(peer, sip.port);
    served.send("INVITE", { body: sdp(4000) });
    await peer.response(100, "INVITE");
    const other = rawApp();
    await other.authenticate(secret);
    other.send(["r", "route", "invite"]);
    await other.until(() => given(other).length === 1);
    await crash(other.socket);
    const refused = await peer.response(503, "INVITE");
    served.send("ACK", { branch: served.lastBranch, toTag: tagOf(refused.header("To")) });
  });

  it("a call that is cancelled while it waits gets 487 and is given to nobody", async () => {
    const app = rawApp();
    await app.authenticate(secret);
    app.send(["r", "route", "invite"]);
    await app.answer("r");
    await crash(app.socket);
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000) });
    await peer.response(100, "INVITE");
    call.send("CANCEL", { branch: call.lastBranch });
    await peer.response(200, "CANCEL");
    const cancelled = await peer.response(487, "INVITE");
    call.send("ACK", { branch: call.lastBranch, toTag: tagOf(cancelled.header("To")) });
    const other = rawApp();
    await other.authenticate(secret);
    other.send(["r", "route", "invite"]);
    await other.answer("r");
    other.send(["p", "ping"]);
    await other.answer("p");
    expect(given(other)).toEqual([]);
  });

  it("another connection may answer a pending request and cancel an INVITE, by transaction id", async () => {
    const [one, two] = [rawApp(), rawApp()];
    for (const app of [one, two]) {
      await app.authenticate(secret);
    }
    one.send(["r", "route", "invite"]);
    await one.answer("r");
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000) });
    await one.until(() => given(one).length === 1);
    const incoming = one.received.find(({ tokens }) => tokens[1] === "sip")?.tokens[8] ?? "";
    two.send(["a", "sip", incoming, ""], "SIP/2.0 486 Busy Here\r\n\r\n");
    expect((await two.answer("a"))[2]).toBe("OK");
    const busy = await peer.response(486, "INVITE");
    call.send("ACK", { branch: call.lastBranch, toTag: tagOf(busy.header("To")) });
    one.send(["i", "sip", "", ""], `INVITE ${peer.uri} SIP/2.0\r\n\r\n`);
    const out = new RawCallee(peer, await peer.request("INVITE"));
    const outgoing = (await one.answer("i"))[9] ?? "";
    out.reply(180, "Ringing");
    two.send(["c", "sip", outgoing, ""], `CANCEL ${peer.uri} SIP/2.0\r\n\r\n`);
    expect((await two.answer("c"))[2]).toBe("OK");
    peer.reply(await peer.request("CANCEL"), 200, "OK");
    out.reply(487, "Request Terminated");
    await peer.request("ACK");
  });
});
