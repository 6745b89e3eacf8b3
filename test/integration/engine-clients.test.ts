import { once } from "node:events";
import type { Socket } from "node:net";

import { afterEach, beforeEach, describe, expect, it } from "vitest";

import type { SrfDialog, SrfInstance, SrfMessage, SrfReply, TestEngine } from "./engine-support.ts";
import {
  Closings,
  connectSrf,
  failure,
  RawCall,
  RawCallee,
  RawPeer,
  sdp,
  startTestEngine,
  tagOf,
} from "./engine-support.ts";

const closings = new Closings();
let sip: TestEngine;
let srf: SrfInstance;
let peer: RawPeer;

beforeEach(async () => {
  sip = await startTestEngine(closings, { orphanGraceMs: 2000, waitMs: 500 });
  srf = await sip.connect();
  peer = await RawPeer.open(closings);
});

afterEach(async () => {
  await closings.closeAll();
});

function answerAll(app: SrfInstance): SrfDialog[] {
  const dialogs: SrfDialog[] = [];
  app.invite((req, res) => {
    void srf.createUAS.call(app, req, res, { localSdp: sdp(5000) }).then((dialog) => dialogs.push(dialog));
  });
  return dialogs;
}

async function routes(count: number): Promise<void> {
  await expect.poll(() => sip.engine.stats().wire.routes).toBe(count);
}

/** Ends the connection of a dialog's application as a crash would. */
async function crash(dialog: SrfDialog): Promise<void> {
  const { socket } = dialog.res;
  const before = sip.engine.stats().counters.clientsClosed;
  socket.destroy();
  await expect.poll(() => sip.engine.stats().counters.clientsClosed).toBe(before + 1);
}

async function establish(call = new RawCall(peer, sip.port)): Promise<RawCall> {
  await call.establish();
  return call;
}

describe("drachtio-srf's connection", () => {
  it("gets the addresses and the version with its connect event", async () => {
    const app = await sip.connect();
    const agent = (app as unknown as { app: { client: { mapServer: Map<Socket, Record<string, string>> } } }).app
      .client;
    const [server] = [...agent.mapServer.values()];
    expect(server?.["hostport"]).toBe(`udp/127.0.0.1:${sip.port},tcp/127.0.0.1:${sip.port}`);
    expect(server?.["serverVersion"]).toMatch(/^v0\.9\.9/);
  });

  it("is refused with a wrong secret", async () => {
    await expect(connectSrf(closings, sip.engine.controlPort, "wrong")).rejects.toThrow("failed to authenticate");
    expect(sip.engine.stats().counters.authenticationFailures).toBe(1);
  });
});

describe("two applications", () => {
  it("take new calls in turn, and each gets what comes in its own", async () => {
    const other = await sip.connect();
    const mine = answerAll(srf);
    const theirs = answerAll(other);
    await routes(2);
    const calls = [await establish(), await establish(), await establish(), await establish()];
    await expect.poll(() => [mine.length, theirs.length]).toEqual([2, 2]);
    const informed: string[] = [];
    for (const [name, dialogs] of Object.entries({ mine, theirs })) {
      for (const dialog of dialogs) {
        dialog.on("info", (req: SrfMessage, res: SrfReply) => {
          informed.push(`${name} ${req.get("Call-ID")}`);
          res.send(200);
        });
      }
    }
    for (const call of calls) {
      call.send("INFO");
      await peer.response(200, "INFO");
    }
    const expected = calls.map((call) =>
      mine.some((dialog) => dialog.sip.callId === call.callId) ? `mine ${call.callId}` : `theirs ${call.callId}`,
    );
    expect(informed).toEqual(expected);
    for (const call of calls) {
      await call.bye();
    }
  });

  it("a dialog goes over to the application that sends something in it", async () => {
    const dialogs = answerAll(srf);
    await routes(1);
    const call = await establish();
    await expect.poll(() => dialogs.length).toBe(1);
    const other = await sip.connect();
    const got = new Promise<SrfMessage>((resolve) => {
      other.use("info", (req, res) => {
        resolve(req);
        res.send(200);
      });
    });
    await routes(2);
    const adopted = other.request("sip:placeholder", { method: "INFO", stackDialogId: dialogs[0]?.id });
    peer.reply(await peer.request("INFO"), 200, "OK");
    await adopted;
    call.send("INFO");
    await peer.response(200, "INFO");
    expect((await got).stackDialogId).toBe(dialogs[0]?.id);
    other.use("bye", (_req, res) => {
      res.send(200);
    });
    await call.bye();
  });
});

describe("an application that is gone", () => {
  it("a dialog nobody takes over is ended by BYE after the grace time", async () => {
    const dialogs = answerAll(srf);
    await routes(1);
    await establish();
    await expect.poll(() => dialogs.length).toBe(1);
    await crash(dialogs[0] as SrfDialog);
    const bye = await peer.request("BYE");
    expect(bye.header("Reason")).toContain("SIP;cause=503");
    peer.reply(bye, 200, "OK");
    expect(sip.engine.stats().agent.dialogs).toBe(0);
    expect(sip.engine.stats().counters.orphansEnded).toBe(1);
  });

  it("a dialog that a new connection uses within the grace time lives on", async () => {
    const dialogs = answerAll(srf);
    await routes(1);
    const call = await establish();
    await expect.poll(() => dialogs.length).toBe(1);
    const [dialog] = dialogs as [SrfDialog];
    await crash(dialog);
    const other = await sip.connect();
    const asked = other.request("sip:placeholder", { method: "OPTIONS", stackDialogId: dialog.id });
    const request = await peer.request("OPTIONS");
    expect(tagOf(request.header("To"))).toBe(call.fromTag);
    peer.reply(request, 200, "OK");
    const req = await asked;
    await once(req, "response");
    // Nothing ends the dialog any more: no timer of it is left.
    await expect.poll(() => sip.engine.stats().agent.timers).toBe(0);
    const ended = other.request("sip:placeholder", { method: "BYE", stackDialogId: dialog.id });
    peer.reply(await peer.request("BYE"), 200, "OK");
    await ended;
  });

  it("its unanswered INVITE is answered 503 when no other comes, its outgoing one cancelled", async () => {
    const invited = new Promise<SrfMessage>((resolve) => {
      srf.invite((req) => {
        resolve(req);
      });
    });
    await routes(1);
    const callee = await RawPeer.open(closings);
    void srf.createUAC(callee.uri, { localSdp: sdp(5000) }).catch(() => undefined);
    const out = new RawCallee(callee, await callee.request("INVITE"));
    out.reply(180, "Ringing");
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000) });
    const req = await invited;
    (req as unknown as { socket: Socket }).socket.destroy();
    const refused = await peer.response(503, "INVITE");
    call.send("ACK", { branch: call.lastBranch, toTag: tagOf(refused.header("To")) });
    const cancel = await callee.request("CANCEL");
    callee.reply(cancel, 200, "OK");
    out.reply(487, "Request Terminated");
    await callee.request("ACK");
  });

  it("a 200 that comes for nobody is acknowledged and ended", async () => {
    void srf.createUAC(peer.uri, { localSdp: sdp(5000) }).catch(() => undefined);
    const out = new RawCallee(peer, await peer.request("INVITE"));
    out.reply(180, "Ringing");
    await expect.poll(() => sip.engine.stats().counters.responsesIn).toBe(1);
    srf.disconnect();
    await peer.request("CANCEL");
    out.reply(200, "OK", { body: sdp(4000) });
    await peer.request("ACK");
    const bye = await peer.request("BYE");
    expect(bye.header("Reason")).toContain("SIP;cause=503");
    peer.reply(bye, 200, "OK");
  });
});

describe("sources", () => {
  it("a stranger gets no answer at all, and is served again once it is on the list", async () => {
    answerAll(srf);
    await routes(1);
    sip.engine.setSources(["192.0.2.0/24"]);
    new RawCall(peer, sip.port).send("OPTIONS");
    peer.send("garbage\r\n\r\n", sip.port);
    await expect.poll(() => sip.engine.stats().transport.unlisted).toBe(2);
    expect(peer.received).toEqual([]);
    sip.engine.setSources(["127.0.0.1"]);
    new RawCall(peer, sip.port).send("OPTIONS");
    await peer.response(503, "OPTIONS");
  });

  it("what belongs to a call of ours is served from anywhere", async () => {
    sip.engine.setSources(["192.0.2.0/24"]);
    const calling = srf.createUAC(peer.uri, { localSdp: sdp(5000) });
    const callee = new RawCallee(peer, await peer.request("INVITE"));
    callee.reply(200, "OK", { body: sdp(4000) });
    const dialog = await calling;
    await peer.request("ACK");
    const ended = once(dialog, "destroy");
    callee.send("BYE");
    await peer.response(200, "BYE");
    await ended;
  });
});

describe("closing the engine", () => {
  it("ends the calls there are by BYE", async () => {
    const dialogs = answerAll(srf);
    await routes(1);
    await establish();
    await expect.poll(() => dialogs.length).toBe(1);
    await expect.poll(() => sip.engine.stats().agent.incoming).toBe(0);
    const closed = sip.engine.close();
    const bye = await peer.request("BYE");
    expect(bye.header("Reason")).toContain("engine closing");
    peer.reply(bye, 200, "OK");
    await closed;
    expect(sip.engine.isIdle()).toBe(true);
    await sip.engine.close();
  });

  it("refuses the call that is not answered yet, cancels the one that rings, and takes no other", async () => {
    srf.invite((_req, res) => {
      res.send(180);
    });
    await routes(1);
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000) });
    await peer.response(180, "INVITE");
    const callee = await RawPeer.open(closings);
    void srf.createUAC(callee.uri, { localSdp: sdp(5000) }).catch(() => undefined);
    const out = new RawCallee(callee, await callee.request("INVITE"));
    out.reply(180, "Ringing");
    await expect.poll(() => sip.engine.stats().counters.responsesIn).toBe(1);
    const closed = sip.engine.close();
    new RawCall(peer, sip.port).send("OPTIONS");
    const refused = await peer.response(503, "INVITE");
    call.send("ACK", { branch: call.lastBranch, toTag: tagOf(refused.header("To")) });
    const cancel = await callee.request("CANCEL");
    expect(cancel.header("Reason")).toContain("engine closing");
    callee.reply(cancel, 200, "OK");
    out.reply(487, "Request Terminated");
    await callee.request("ACK");
    await peer.response(503, "OPTIONS");
    await closed;
  });

  it("does not start on an address that is taken, and leaves nothing open", async () => {
    const error = await failure(
      startTestEngine(closings, { listen: [{ protocol: "udp", address: "127.0.0.1", port: sip.port }] }),
    );
    expect(error.code).toBe("ELISTEN");
  });
});
