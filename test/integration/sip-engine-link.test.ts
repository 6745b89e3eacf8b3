import { once } from "node:events";
import { type AddressInfo, createServer, type Socket } from "node:net";

import { afterEach, describe, expect, test } from "vitest";

import type { Sdp } from "../../src/call/ids.ts";
import { drachtioProgram, engineOnly } from "../support/drachtio.ts";
import { Closings, RawCall, RawCallee, RawPeer, sdp, secret, tagOf } from "./engine-support.ts";
import { cuttableLine, fresh, oneTrunk, order, startSide, startSipServer } from "./sip-support.ts";
import type { SipServer } from "./sip-support.ts";

const closings = new Closings();

afterEach(async () => {
  await closings.closeAll();
});

/** A caller who was answered, by a side whose line to its engine can be cut. */
async function answeredOverLine(engine: { readonly claimAgainMs?: number } = {}) {
  const peer = await RawPeer.open(closings);
  let control = 0;
  const line = await cuttableLine(closings, () => control);
  const side = await startSide(closings, oneTrunk(peer.port), {
    engine: { host: "127.0.0.1", port: line.port, secret, ...engine },
    onEngine: ({ controlPort }) => {
      control = controlPort;
    },
  });
  const call = new RawCall(peer, side.engine.port);
  call.send("INVITE", { body: sdp(4000) });
  const setup = await side.call();
  side.side.accept(setup.call, setup.caller, sdp(7000) as Sdp);
  const ok = await peer.response(200, "INVITE");
  call.toTag = tagOf(ok.header("To"));
  call.send("ACK");
  await side.event("leg.confirmed");
  return { peer, line, side, call, setup };
}

describe("the connection to the engine", () => {
  test("a wrong secret and an engine that is not there are told at once and in time", async () => {
    const peer = await RawPeer.open(closings);
    const engine = await startSipServer(closings);
    const bad = { host: "127.0.0.1", port: engine.controlPort, secret: `${secret}x` };
    const own = new Closings();
    await expect(startSide(own, oneTrunk(peer.port), { engine: bad })).rejects.toMatchObject({
      code: "engine_refused",
    });
    const nobody = { host: "127.0.0.1", port: peer.port, secret };
    await expect(startSide(own, oneTrunk(peer.port), { engine: nobody, connectTimeoutMs: 100 })).rejects.toMatchObject({
      code: "engine_away",
    });
    await own.settleAll();
  });

  test("an engine that lets us in and then says nothing has not heard which calls we take: that is no start", async () => {
    const peer = await RawPeer.open(closings);
    let authenticated = false;
    // What it is asked comes as `length#id|verb|…`, and answers name the id.
    const server = createServer((socket) => {
      socket
        .on("error", () => undefined)
        .on("data", (bytes) => {
          const id = /#([^|]+)\|authenticate\|/.exec(bytes.toString())?.[1];
          if (id === undefined) return;
          authenticated = true;
          const answer = `any-id|response|${id}|OK|udp/127.0.0.1:5060|v0.9.10`;
          socket.write(`${answer.length}#${answer}`);
        });
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    closings.add(() => void server.close());
    const mute = { host: "127.0.0.1", port: (server.address() as AddressInfo).port, secret };
    const own = new Closings();
    await expect(startSide(own, oneTrunk(peer.port), { engine: mute, connectTimeoutMs: 500 })).rejects.toMatchObject({
      code: "engine_away",
    });
    expect(authenticated).toBe(true);
    await own.settleAll();
  });

  test.for([
    ["over TCP", false],
    ["in this process", true],
  ] as const)(
    "%s: is cut and comes back: both dialogs go on, a call being dialled fails, new calls are taken",
    async ([, inside], context) => {
      if (inside) engineOnly(context, "it is no part of this process");
      const peer = await RawPeer.open(closings);
      const operator = await RawPeer.open(closings);
      let server: SipServer | undefined;
      const line = await cuttableLine(closings, () => server?.controlPort ?? 0);
      let last: Socket | undefined;
      const connection = (): Socket => {
        if (server === undefined) throw new Error("no engine yet");
        return (last = server.embedded().connection());
      };
      const states: boolean[] = [];
      const side = await startSide(closings, oneTrunk(operator.port), {
        engine: { host: "127.0.0.1", port: line.port, secret, ...(inside ? { connection } : {}) },
        onState: (up: boolean) => states.push(up),
        onEngine: (started) => {
          server = started;
        },
      });
      const call = new RawCall(peer, side.engine.port);
      call.send("INVITE", { body: sdp(4000) });
      const setup = await side.call();
      side.side.accept(setup.call, setup.caller, sdp(7000) as Sdp);
      const ok = await peer.response(200, "INVITE");
      call.toTag = tagOf(ok.header("To"));
      call.send("ACK");
      await side.event("leg.confirmed");
      side.side.invite(setup.call, order(setup));
      const callee = new RawCallee(operator, await fresh(operator, "INVITE"));
      callee.reply(200, "OK", { body: sdp(5000) });
      await side.event("leg.answered");
      await fresh(operator, "ACK");
      const second = order(setup, { leg: `${order(setup).leg}-2` as ReturnType<typeof order>["leg"] });
      side.side.invite(setup.call, second);
      const dialled = new RawCallee(operator, await fresh(operator, "INVITE"));
      dialled.reply(180, "Ringing");
      await side.event("leg.progress");

      if (inside) last?.destroy();
      else line.cut();
      expect(await side.event("leg.failed")).toMatchObject({ leg: second.leg, status: null });
      await expect.poll(() => side.side.ready()).toBe(true);
      expect(states).toEqual([true, false, true]);
      // What was being dialled is taken back as soon as the engine is there again.
      operator.reply(await fresh(operator, "CANCEL"), 200, "OK", { contact: "" });
      dialled.reply(487, "Request Terminated");
      // Both peers are asked whether they are still there, which makes the new connection the owner of the dialogs.
      const probe = await fresh(peer, "OPTIONS");
      expect(probe.header("Call-ID")).toBe(call.callId);
      peer.reply(probe, 200, "OK");
      operator.reply(await fresh(operator, "OPTIONS"), 200, "OK");
      // From us to the network …
      side.side.bye(setup.call, order(setup).leg, "over", []);
      operator.reply(await fresh(operator, "BYE"), 200, "OK", { contact: "" });
      // … and from the network to us, which a drachtio-server answers by itself (C 23.1).
      if (drachtioProgram === undefined) {
        await call.bye();
        expect(await side.event("leg.ended")).toMatchObject({ leg: setup.caller });
      } else {
        side.side.bye(setup.call, setup.caller, "over", []);
        peer.reply(await fresh(peer, "BYE"), 200, "OK", { contact: "" });
      }
      const next = new RawCall(peer, side.engine.port);
      next.send("INVITE", { body: sdp(4000) });
      const again = await side.call();
      side.side.reject(again.call, again.caller, 486, "Busy Here");
      await peer.response(486, "INVITE");
    },
  );

  test.for(["answered", "cancelled"])(
    "a call that rang when the connection broke is the same call when the engine gives it to us again: %s",
    async (end, context) => {
      engineOnly(context, "its INVITE is lost with the connection");
      const peer = await RawPeer.open(closings);
      let control = 0;
      const line = await cuttableLine(closings, () => control);
      const side = await startSide(closings, oneTrunk(peer.port), {
        engine: { host: "127.0.0.1", port: line.port, secret },
        onEngine: ({ controlPort }) => {
          control = controlPort;
        },
      });
      const call = new RawCall(peer, side.engine.port);
      call.send("INVITE", { body: sdp(4000) });
      const branch = call.lastBranch;
      const setup = await side.call();
      const engine = side.engine.embedded();
      const frames = engine.stats().counters.framesOut;
      line.cut();
      await expect.poll(() => side.side.ready()).toBe(true);
      // The answers to `authenticate`, to the routes and to the question behind them, and the INVITE once more.
      await expect
        .poll(() => engine.stats().counters.framesOut)
        .toBeGreaterThan(frames + engine.stats().wire.routes + 2);
      expect(side.side.stats()).toMatchObject({ calls: 1, legs: 1 });
      if (end === "answered") {
        side.side.accept(setup.call, setup.caller, sdp(7000) as Sdp);
        const ok = await peer.response(200, "INVITE");
        call.toTag = tagOf(ok.header("To"));
        call.send("ACK");
        await side.event("leg.confirmed");
        await call.bye();
      } else {
        call.send("CANCEL", { branch });
        const cancelled = await peer.response(487, "INVITE");
        call.send("ACK", { branch, toTag: tagOf(cancelled.header("To")) });
      }
      expect(await side.event("leg.ended")).toMatchObject({ leg: setup.caller });
      expect(side.side.stats()).toMatchObject({ calls: 0, legs: 0 });
    },
  );

  test("a dialog that is gone when the connection is back ends its leg", async () => {
    const { peer, line, side, call, setup } = await answeredOverLine();
    line.cut();
    // Hung up while nobody was there to hear it: the engine answers and forgets the dialog.
    call.send("BYE");
    // A drachtio-server that has not noticed the loss yet gives the BYE to nobody, and answers nothing.
    if (drachtioProgram === undefined) {
      await peer.take("an answer to BYE", (packet) => packet.method === "BYE" && packet.status > 0);
    }
    expect(await side.event("leg.ended")).toMatchObject({ leg: setup.caller, status: null, q850: null });
  });

  test.each([
    ["forgotten it", 481],
    ["not answered twice", 408],
  ])("an engine that hands nothing over: who was there before is asked again until he has %s", async (_what, end) => {
    const { peer, line, side, setup } = await answeredOverLine({ claimAgainMs: 100 });
    line.cut();
    for (let asked = 0; asked < 3; asked += 1) {
      peer.reply(await fresh(peer, "OPTIONS"), 200, "OK");
    }
    // Nobody may have heard it; who does not answer twice in a row is gone.
    for (const status of [408, 200, 408]) peer.reply(await fresh(peer, "OPTIONS"), status, "X");
    const last = await fresh(peer, "OPTIONS");
    expect(side.side.stats()).toMatchObject({ legs: 1, dialogs: 1 });
    peer.reply(last, end, "X");
    expect(await side.event("leg.ended")).toMatchObject({ leg: setup.caller });
    expect(side.side.stats()).toMatchObject({ legs: 0, dialogs: 0 });
    // Without a BYE of ours the engine would hold the dialog for ever.
    peer.reply(await fresh(peer, "BYE"), 481, "Call/Transaction Does Not Exist");
  });

  test("a caller who is to be hung up while it is away is hung up when it is back", async () => {
    const { peer, line, side, call, setup } = await answeredOverLine();
    line.cut();
    await expect.poll(() => side.side.ready()).toBe(false);
    side.side.bye(setup.call, setup.caller, "over", []);
    const bye = await fresh(peer, "BYE");
    expect(bye.header("Call-ID")).toBe(call.callId);
    peer.reply(bye, 200, "OK", { contact: "" });
    peer.reply(await fresh(peer, "OPTIONS"), 481, "Call/Transaction Does Not Exist");
  });

  test("a caller whose sound moves while it is away is told when it is back", async () => {
    const { peer, line, side, call, setup } = await answeredOverLine();
    line.cut();
    await expect.poll(() => side.side.ready()).toBe(false);
    side.side.reinvite(setup.call, setup.caller, sdp(7002) as Sdp);
    const offer = await fresh(peer, "INVITE");
    expect([offer.header("Call-ID"), offer.body]).toEqual([call.callId, sdp(7002)]);
    peer.reply(offer, 200, "OK", { body: sdp(4002) });
    expect(await side.event("leg.reanswered")).toMatchObject({ leg: setup.caller });
    peer.reply(await fresh(peer, "OPTIONS"), 481, "Call/Transaction Does Not Exist");
    expect(await side.event("leg.ended")).toMatchObject({ leg: setup.caller });
  });

  test("a line that carries nothing any more is noticed and made anew", async () => {
    const peer = await RawPeer.open(closings);
    let control = 0;
    const line = await cuttableLine(closings, () => control);
    const states: boolean[] = [];
    const side = await startSide(closings, oneTrunk(peer.port), {
      engine: { host: "127.0.0.1", port: line.port, secret },
      pingMs: 200,
      onState: (up: boolean) => {
        states.push(up);
        if (!up) {
          line.cut();
        }
      },
      onEngine: ({ controlPort }) => {
        control = controlPort;
      },
    });
    const before = line.sent();
    // Pings that are answered keep it up.
    await expect.poll(() => line.sent() - before).toBeGreaterThan(3);
    expect(states).toEqual([true]);
    line.stall();
    await expect.poll(() => states).toEqual([true, false, true]);
    closings.add(async () => {
      await side.side.close();
    });
  });

  test("while it is away, new attempts fail and closing does not hang", async () => {
    const peer = await RawPeer.open(closings);
    let control = 0;
    const line = await cuttableLine(closings, () => control);
    const own = new Closings();
    const side = await startSide(own, oneTrunk(peer.port), {
      engine: { host: "127.0.0.1", port: line.port, secret },
      onEngine: ({ controlPort }) => {
        control = controlPort;
      },
    });
    const call = new RawCall(peer, side.engine.port);
    call.send("INVITE", { body: sdp(4000) });
    const setup = await side.call();
    control = 1; // Nobody listens there: the line stays dead.
    line.cut();
    await expect.poll(() => side.side.ready()).toBe(false);
    side.side.invite(setup.call, order(setup));
    expect(await side.event("leg.failed")).toMatchObject({ status: null });
    await side.side.close();
    await side.side.close();
    expect(side.side.stats()).toMatchObject({ legs: 0, timers: 0, dialogs: 0 });
    await own.settleAll();
  });
});
