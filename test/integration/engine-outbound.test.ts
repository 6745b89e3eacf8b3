import { once } from "node:events";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import type { AddressInfo, Server, Socket } from "node:net";

import { afterEach, beforeEach, describe, expect, it } from "vitest";

import type { SrfInstance, SrfMessage, SrfReply, TestEngine } from "./engine-support.ts";
import { Closings, RawCall, RawCallee, RawPeer, sdp, secret, startTestEngine, tagOf } from "./engine-support.ts";

// Outbound mode: the engine connects to applications that wait with `srf.listen`, one connection for each new request.

const closings = new Closings();
let peer: RawPeer;

beforeEach(async () => {
  peer = await RawPeer.open(closings);
});

afterEach(async () => {
  await closings.closeAll();
});

interface ListeningSrf extends SrfInstance {
  listen(options: { server: Server; secret: string }): void;
  endSession(req: SrfMessage): void;
}

const Srf = createRequire(import.meta.url)("drachtio-srf") as new () => ListeningSrf;

async function openServer(accept?: (socket: Socket) => void): Promise<Server> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => undefined);
    accept?.(socket);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  closings.add(() => {
    for (const socket of sockets) {
      socket.destroy();
    }
    server.close();
  });
  return server;
}

const addressOf = (server: Server): string => `tcp://127.0.0.1:${(server.address() as AddressInfo).port}`;

/** A real drachtio-srf that listens; `calls` are the new requests it was given. */
async function listeningApp(password = secret): Promise<{ srf: ListeningSrf; address: string; calls: string[] }> {
  const srf = new Srf();
  srf.on("error", () => undefined);
  srf.on("connect", () => undefined);
  const server = await openServer();
  srf.listen({ server, secret: password });
  return { srf, address: addressOf(server), calls: [] };
}

/** Answers each call and gives the connection back when it is over. */
function answering(app: { srf: ListeningSrf; calls: string[] }): void {
  app.srf.invite((req: SrfMessage, res: SrfReply) => {
    app.calls.push(req.get("Call-ID"));
    void app.srf.createUAS(req, res, { localSdp: sdp(5000) }).then((dialog) => {
      dialog.on("destroy", () => {
        // After the answer to the BYE has gone out on that connection.
        setImmediate(() => {
          app.srf.endSession(req);
        });
      });
    });
  });
}

async function start(applications: readonly string[]): Promise<TestEngine> {
  return startTestEngine(closings, { applications, orphanGraceMs: 1500, waitMs: 500 });
}

const connections = (sip: TestEngine): unknown => sip.engine.stats().wire;

describe("outbound mode", () => {
  it("each call goes over a connection of its own, to the applications in turn, and endSession closes it", async () => {
    const apps = [await listeningApp(), await listeningApp()];
    for (const app of apps) {
      answering(app);
    }
    const sip = await start(apps.map(({ address }) => address));
    const calls = Array.from({ length: 4 }, () => new RawCall(peer, sip.port));
    for (const call of calls) {
      await call.establish();
    }
    expect(apps.map(({ calls: taken }) => taken)).toEqual([
      [calls[0]?.callId, calls[2]?.callId],
      [calls[1]?.callId, calls[3]?.callId],
    ]);
    expect(connections(sip)).toEqual({ clients: 4, outbound: 4, routes: 0 });
    for (const call of calls) {
      await call.bye();
    }
    await expect.poll(() => connections(sip)).toEqual({ clients: 0, outbound: 0, routes: 0 });
    expect(sip.engine.stats().counters.endsKept).toBe(0);
  });

  it("both legs of a B2BUA live on that connection", async () => {
    const app = await listeningApp();
    const callee = await RawPeer.open(closings);
    app.srf.invite((req, res) => {
      void app.srf.createB2BUA(req, res, callee.uri).then(({ uas, uac }) => {
        uas.on("destroy", () => {
          void uac.destroy().then(() => {
            app.srf.endSession(req);
          });
        });
      });
    });
    const sip = await start([app.address]);
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000) });
    new RawCallee(callee, await callee.request("INVITE")).reply(200, "OK", { body: sdp(4002) });
    await callee.request("ACK");
    const ok = await peer.response(200, "INVITE");
    call.toTag = tagOf(ok.header("To"));
    call.send("ACK");
    call.send("BYE");
    callee.reply(await callee.request("BYE"), 200, "OK");
    await peer.response(200, "BYE");
    await expect.poll(() => connections(sip)).toEqual({ clients: 0, outbound: 0, routes: 0 });
  });

  it("an application that refuses, closes or has another secret is passed over", async () => {
    const closed = await openServer();
    const refusing = addressOf(closed);
    closed.close();
    const closing = addressOf(await openServer((socket) => socket.end()));
    const stranger = await listeningApp("another-secret");
    const good = await listeningApp();
    answering(good);
    const sip = await start([refusing, closing, stranger.address, good.address]);
    const call = new RawCall(peer, sip.port);
    await call.establish();
    expect(good.calls).toEqual([call.callId]);
    await call.bye();
  });

  it("an application that breaks off before it answers: the call goes to the next one", async () => {
    const broken = await listeningApp();
    const calls: string[] = [];
    broken.srf.invite((req) => {
      calls.push(req.get("Call-ID"));
      (req as unknown as { socket: Socket }).socket.destroy();
    });
    const good = await listeningApp();
    answering(good);
    const sip = await start([broken.address, good.address]);
    const call = new RawCall(peer, sip.port);
    await call.establish();
    expect(calls).toEqual([call.callId]);
    expect(good.calls).toEqual([call.callId]);
    await call.bye();
    await expect.poll(() => connections(sip)).toEqual({ clients: 0, outbound: 0, routes: 0 });
  });

  it("480 when none can be reached", async () => {
    const closed = await openServer();
    const sip = await start([addressOf(closed)]);
    closed.close();
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000) });
    const refused = await peer.response(480, "INVITE");
    call.send("ACK", { branch: call.lastBranch, toTag: tagOf(refused.header("To")) });
    expect(connections(sip)).toEqual({ clients: 0, outbound: 0, routes: 0 });
  });

  it("a call that is cancelled before an application has it gets 487 and is never delivered", async () => {
    const app = await listeningApp();
    answering(app);
    // Between the engine and the application: nothing passes before the test says so.
    const held: Socket[] = [];
    const gate = await openServer((socket) => held.push(socket));
    const sip = await start([addressOf(gate)]);
    const call = new RawCall(peer, sip.port);
    call.send("INVITE", { body: sdp(4000) });
    await expect.poll(() => held.length).toBe(1);
    call.send("CANCEL", { branch: call.lastBranch });
    await peer.response(200, "CANCEL");
    const cancelled = await peer.response(487, "INVITE");
    call.send("ACK", { branch: call.lastBranch, toTag: tagOf(cancelled.header("To")) });
    let text = "";
    const [socket] = held;
    socket?.on("data", (chunk: Buffer) => (text += chunk.toString()));
    const authenticate = `id-1|authenticate|${secret}|`;
    socket?.write(`${authenticate.length}#${authenticate}`);
    await expect.poll(() => connections(sip)).toEqual({ clients: 0, outbound: 0, routes: 0 });
    expect(text).toContain("|response|id-1|OK|");
    expect(text).not.toContain("INVITE");
  });

  it("when the connection breaks its dialog is an orphan: ended after the grace time, adopted by one that connects", async () => {
    const app = await listeningApp();
    answering(app);
    const sip = await start([app.address]);
    const [lost, kept] = [new RawCall(peer, sip.port), new RawCall(peer, sip.port)];
    await lost.establish();
    const sockets = (): Socket[] => [
      ...(app.srf as unknown as { app: { client: { mapServer: Map<Socket, unknown> } } }).app.client.mapServer.keys(),
    ];
    await expect.poll(() => sip.engine.stats().agent.incoming).toBe(0);
    sockets()[0]?.destroy();
    const bye = await peer.request("BYE");
    expect(bye.header("Reason")).toBe('SIP;cause=503;text="application gone"');
    peer.reply(bye, 200, "OK");
    await kept.establish();
    await expect.poll(() => sip.engine.stats().agent.incoming).toBe(0);
    sockets()[0]?.destroy();
    const heir = await sip.connect();
    heir.use("bye", (_req, res) => {
      res.send(200);
    });
    await expect.poll(() => sip.engine.stats().counters.dialogsAdopted).toBe(1);
    await kept.bye();
  });
});
