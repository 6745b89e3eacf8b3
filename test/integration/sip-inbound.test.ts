import { afterEach, describe, expect, test } from "vitest";

import type { ExchangeId, Sdp } from "../../src/call/ids.ts";
import { drachtioProgram } from "../support/drachtio.ts";
import { Closings, RawCall, RawPeer, sdp, tagOf } from "./engine-support.ts";
import { fresh, oneTrunk, startSide } from "./sip-support.ts";

const closings = new Closings();

afterEach(async () => {
  await closings.closeAll();
});

const answer = sdp(7000) as Sdp;

describe("a call that comes in", () => {
  test("INVITE → call → 200 → ACK → BYE, with what the bot must know", async () => {
    const peer = await RawPeer.open(closings);
    const side = await startSide(closings, oneTrunk(peer.port, "", "passHeaders: [X-Campaign, User-Agent]"));
    const call = new RawCall(peer, side.engine.port);
    call.send("INVITE", { body: sdp(4000), headers: ["X-Campaign: spring, 2026", "X-Other: no", "User-Agent: phone"] });
    const setup = await side.call();
    expect(setup).toMatchObject({
      call: "01TEST1",
      caller: "01TEST1/caller",
      offer: sdp(4000),
      botId: "b",
      trunk: "t",
      callerNumber: "alice",
      calledNumber: "100",
      sipCallId: call.callId,
      headers: { "X-Campaign": "spring, 2026", "User-Agent": "phone" },
      policy: { answer: "immediately", recording: { enabled: false, resumeOnReturn: false } },
    });
    side.side.ring(setup.call, setup.caller);
    const ringing = await peer.response(180, "INVITE");
    side.side.accept(setup.call, setup.caller, answer);
    const ok = await peer.response(200, "INVITE");
    expect(ok.body).toBe(answer);
    expect(ok.header("Content-Type")).toBe("application/sdp");
    expect(ok.header("Allow")).toContain("UPDATE");
    expect(tagOf(ok.header("To"))).toBe(tagOf(ringing.header("To")));
    expect(side.seen("leg.confirmed")).toBe(0);
    call.toTag = tagOf(ok.header("To"));
    call.send("ACK");
    expect(await side.event("leg.confirmed")).toEqual({ type: "leg.confirmed", leg: setup.caller });
    call.send("BYE", { headers: ['Reason: Q.850;cause=16;text="Normal, really"', "Reason: SIP;cause=480"] });
    await peer.response(200, "BYE");
    expect(await side.event("leg.ended")).toEqual({
      type: "leg.ended",
      leg: setup.caller,
      status: 480,
      reason: "Normal, really",
      q850: 16,
    });
  });

  test("is refused with the status and text the call chose", async () => {
    const peer = await RawPeer.open(closings);
    const side = await startSide(closings, oneTrunk(peer.port));
    const call = new RawCall(peer, side.engine.port);
    call.send("INVITE", { body: sdp(4000) });
    const setup = await side.call();
    side.side.reject(setup.call, setup.caller, 488, "no common codec");
    const refused = await peer.response(488, "INVITE");
    expect(refused.startLine).toBe("SIP/2.0 488 no common codec");
    call.toTag = tagOf(refused.header("To"));
    call.send("ACK", { branch: call.lastBranch });
    expect(side.events).toEqual([]);
  });

  test("is hung up by BYE with a reason and the bot's own headers", async () => {
    const peer = await RawPeer.open(closings);
    const side = await startSide(closings, oneTrunk(peer.port));
    const call = new RawCall(peer, side.engine.port);
    call.send("INVITE", { body: sdp(4000) });
    const setup = await side.call();
    side.side.accept(setup.call, setup.caller, answer);
    const ok = await peer.response(200, "INVITE");
    call.toTag = tagOf(ok.header("To"));
    call.send("ACK");
    await side.event("leg.confirmed");
    side.side.bye(setup.call, setup.caller, 'hung up by "the bot"', [{ name: "X-Why", value: "done" }]);
    const bye = await fresh(peer, "BYE");
    expect(bye.header("Reason")).toBe(`Q.850;cause=16;text="hung up by 'the bot'"`);
    expect(bye.header("X-Why")).toBe("done");
    peer.reply(bye, 200, "OK");
    await expect.poll(() => side.side.stats().legs).toBe(0);
    expect(side.seen("leg.ended")).toBe(0);
  });

  test("is not hung up before its ACK (RFC 3261 §15)", async () => {
    const peer = await RawPeer.open(closings);
    const side = await startSide(closings, oneTrunk(peer.port));
    const call = new RawCall(peer, side.engine.port);
    call.send("INVITE", { body: sdp(4000) });
    const setup = await side.call();
    side.side.accept(setup.call, setup.caller, answer);
    side.side.bye(setup.call, setup.caller, "too early", []);
    const ok = await peer.response(200, "INVITE");
    await peer.repeated(200, "INVITE"); // Still repeated: nobody has taken the ACK for granted.
    expect(peer.count((packet) => packet.method === "BYE")).toBe(0);
    call.toTag = tagOf(ok.header("To"));
    call.send("ACK");
    peer.reply(await fresh(peer, "BYE"), 200, "OK");
    expect(side.seen("leg.confirmed")).toBe(0);
  });

  test("whose ACK never comes is ended", async () => {
    const peer = await RawPeer.open(closings);
    const side = await startSide(closings, oneTrunk(peer.port));
    const call = new RawCall(peer, side.engine.port);
    call.send("INVITE", { body: sdp(4000) });
    const setup = await side.call();
    side.side.accept(setup.call, setup.caller, answer);
    peer.reply(await fresh(peer, "BYE"), 200, "OK");
    // The engine says so; behind a drachtio-server it is our own clock that runs out.
    const told =
      drachtioProgram === undefined ? { status: null, reason: "ACK timeout" } : { status: 408, reason: "no ACK" };
    expect(await side.event("leg.ended")).toMatchObject({ leg: setup.caller, ...told });
  });

  test("CANCEL before the answer → 487 and leg.ended, and a late 200 does nothing", async () => {
    const peer = await RawPeer.open(closings);
    const side = await startSide(closings, oneTrunk(peer.port));
    const call = new RawCall(peer, side.engine.port);
    call.send("INVITE", { body: sdp(4000) });
    const setup = await side.call();
    side.side.ring(setup.call, setup.caller);
    await peer.response(180, "INVITE");
    call.send("CANCEL", {
      branch: call.lastBranch,
      headers: ['Reason: SIP;cause=200;text="Call completed elsewhere"'],
    });
    await peer.response(200, "CANCEL");
    const terminated = await peer.response(487, "INVITE");
    call.toTag = tagOf(terminated.header("To"));
    call.send("ACK", { branch: call.lastBranch });
    expect(await side.event("leg.ended")).toEqual({
      type: "leg.ended",
      leg: setup.caller,
      status: 487,
      reason: "Call completed elsewhere",
      q850: null,
    });
    side.side.accept(setup.call, setup.caller, answer);
    side.side.bye(setup.call, setup.caller, "late", []);
    expect(peer.count((packet) => packet.status === 200 && packet.method === "INVITE")).toBe(0);
    expect(side.seen("leg.ended")).toBe(1);
  });

  test("a call that is not held any more when the ACK comes is hung up", async () => {
    const peer = await RawPeer.open(closings);
    const side = await startSide(closings, oneTrunk(peer.port));
    const call = new RawCall(peer, side.engine.port);
    call.send("INVITE", { body: sdp(4000) });
    const setup = await side.call();
    side.side.accept(setup.call, setup.caller, answer);
    const ok = await peer.response(200, "INVITE");
    side.held = false;
    call.toTag = tagOf(ok.header("To"));
    call.send("ACK");
    peer.reply(await fresh(peer, "BYE"), 200, "OK");
  });
});

describe("who is let in", () => {
  test("a source no trunk knows gets no answer at all; behind a server that lets it through, a 403 to its INVITE only", async () => {
    const stranger = await RawPeer.open(closings);
    const side = await startSide(
      closings,
      "trunks: [{ id: t, sources: [127.0.0.9], gateways: [{ host: 192.0.2.1 }] }]\nchannels: [{ botId: b, trunk: t, numbers: ['*'] }]",
    );
    if (drachtioProgram === undefined) {
      const engine = side.engine.embedded();
      const call = new RawCall(stranger, side.engine.port);
      call.send("INVITE", { body: sdp(4000) });
      call.send("OPTIONS");
      await expect.poll(() => engine.stats().transport.unlisted).toBe(2);
      // As behind a drachtio-server, which lets everybody through: the silence before was no fault of the line.
      engine.setSources(["127.0.0.1"]);
    }
    const passed = new RawCall(stranger, side.engine.port);
    // Whatever would be answered to it comes before the answer to the INVITE behind it.
    passed.send("OPTIONS");
    passed.send("INVITE", { body: sdp(4000) });
    const reply = await stranger.response(403, "INVITE");
    passed.send("ACK", { branch: passed.lastBranch, toTag: tagOf(reply.header("To")) });
    expect(reply.header("Call-ID")).toBe(passed.callId);
    expect(stranger.received.filter(({ method }) => method === "OPTIONS")).toEqual([]);
    expect(side.calls).toEqual([]);
  });

  test("an unknown number is 404, with the same bytes whatever was called", async () => {
    const peer = await RawPeer.open(closings);
    const side = await startSide(closings, oneTrunk(peer.port));
    const texts: string[] = [];
    for (const user of ["101", "00441234", "admin"]) {
      const call = new RawCall(peer, side.engine.port, user);
      call.send("INVITE", { body: sdp(4000) });
      const reply = await peer.response(404, "INVITE");
      call.toTag = tagOf(reply.header("To"));
      call.send("ACK", { branch: call.lastBranch });
      texts.push(reply.text.replace(/^(?:Via|From|To|Call-ID):.*$/gim, "").replaceAll(user, ""));
    }
    expect(new Set(texts).size).toBe(1);
    expect(side.calls).toEqual([]);
  });

  test.each([
    ["no offer", { body: "" }, 488, "Warning", /^399 patchbay "/],
    [
      "an extension it demands",
      { body: sdp(1), headers: ["Require: 100rel, x-thing"] },
      420,
      "Unsupported",
      // The engine refuses what it does not have; a drachtio-server leaves all of it to us, who use neither.
      drachtioProgram === undefined ? /^x-thing$/ : /^100rel, x-thing$/,
    ],
    [
      "an extension the engine has, but we do not use",
      { body: sdp(1), headers: ["Require: 100rel, timer"] },
      420,
      "Unsupported",
      /^100rel$/,
    ],
  ])("an INVITE with %s is refused", async (_name, parts, status, header, value) => {
    const peer = await RawPeer.open(closings);
    const side = await startSide(closings, oneTrunk(peer.port));
    const call = new RawCall(peer, side.engine.port);
    call.send("INVITE", parts);
    const reply = await peer.response(status, "INVITE");
    expect(reply.header(header)).toMatch(value);
    call.toTag = tagOf(reply.header("To"));
    call.send("ACK", { branch: call.lastBranch });
  });

  test("a multipart body is searched for its SDP", async () => {
    const peer = await RawPeer.open(closings);
    const side = await startSide(closings, oneTrunk(peer.port));
    const call = new RawCall(peer, side.engine.port);
    const parts = `--cut\r\nContent-Type: application/x-other\r\n\r\nabc\r\n--cut\r\nContent-Type: application/sdp\r\n\r\n${sdp(4000)}\r\n--cut--\r\n`;
    peer.send(
      call
        .text("INVITE", { body: parts })
        .replace(
          "Content-Type: application/sdp\r\nContent-Length",
          'Content-Type: multipart/mixed;boundary="cut"\r\nContent-Length',
        ),
      side.engine.port,
    );
    const setup = await side.call();
    expect(setup.offer).toBe(`${sdp(4000)}\r\n`);
    side.side.reject(setup.call, setup.caller, 486, "Busy Here");
    await peer.response(486, "INVITE");
  });

  test("a trunk that is full, and a service that drains, answer 503 with Retry-After", async () => {
    const peer = await RawPeer.open(closings);
    const side = await startSide(closings, oneTrunk(peer.port, "maxCalls: 1"));
    const first = new RawCall(peer, side.engine.port);
    first.send("INVITE", { body: sdp(4000) });
    const setup = await side.call();
    for (const drain of [false, true]) {
      if (drain) {
        side.side.reject(setup.call, setup.caller, 480, "gone");
        await peer.response(480, "INVITE");
        side.side.drain();
        expect(side.side.ready()).toBe(false);
      }
      const next = new RawCall(peer, side.engine.port);
      next.send("INVITE", { body: sdp(4000) });
      const reply = await peer.response(503, "INVITE");
      expect(reply.header("Retry-After")).toBe("10");
      next.toTag = tagOf(reply.header("To"));
      next.send("ACK", { branch: next.lastBranch });
    }
    expect(side.calls).toHaveLength(1);
    // RFC 3261 §11.2: who asks by OPTIONS learns it too.
    new RawCall(peer, side.engine.port).send("OPTIONS");
    expect((await peer.response(503, "OPTIONS")).header("Retry-After")).toBe("10");
  });

  test("OPTIONS is answered 200 to known peers, REGISTER and MESSAGE 405, requests of unknown dialogs 481", async () => {
    const peer = await RawPeer.open(closings);
    const side = await startSide(closings, oneTrunk(peer.port));
    const call = new RawCall(peer, side.engine.port);
    call.send("OPTIONS");
    expect((await peer.response(200, "OPTIONS")).header("Allow")).toContain("INVITE");
    call.send("REGISTER");
    expect((await peer.response(405, "REGISTER")).header("Allow")).toContain("INVITE");
    call.send("MESSAGE");
    await peer.response(405, "MESSAGE");
    call.send("INFO", { toTag: "nobody" });
    await peer.response(481, "INFO");
  });

  test("privacy: a withheld number is not told; an asserted one only when the trunk is trusted", async () => {
    const peer = await RawPeer.open(closings);
    const side = await startSide(closings, oneTrunk(peer.port, "trustIdentity: true"));
    const headers = ['P-Asserted-Identity: "Ann" <sip:+4420@x>, <tel:+4421>'];
    for (const [more, number] of [
      [[], "+4420"],
      [["Privacy: id;critical"], ""],
      [["Privacy: none"], "+4420"],
    ] as const) {
      const call = new RawCall(peer, side.engine.port);
      call.send("INVITE", { body: sdp(4000), headers: [...headers, ...more] });
      const setup = await side.call();
      expect(setup.callerNumber).toBe(number);
      side.side.reject(setup.call, setup.caller, 480, "x");
      await peer.response(480, "INVITE");
    }
  });
});

describe("inside the caller's dialog", () => {
  async function talk(): Promise<{
    peer: RawPeer;
    call: RawCall;
    side: Awaited<ReturnType<typeof startSide>>;
    setup: Awaited<ReturnType<Awaited<ReturnType<typeof startSide>>["call"]>>;
  }> {
    const peer = await RawPeer.open(closings);
    const side = await startSide(closings, oneTrunk(peer.port), { exchangeMs: 150 });
    const call = new RawCall(peer, side.engine.port);
    call.send("INVITE", { body: sdp(4000) });
    const setup = await side.call();
    side.side.accept(setup.call, setup.caller, answer);
    const ok = await peer.response(200, "INVITE");
    call.toTag = tagOf(ok.header("To"));
    call.send("ACK");
    await side.event("leg.confirmed");
    return { peer, call, side, setup };
  }

  test("re-INVITE → leg.offered → 200 with the call's answer; the first dialog lives on", async () => {
    const { peer, call, side, setup } = await talk();
    call.send("INVITE", { body: sdp(4002, 2) });
    const offered = await side.event("leg.offered");
    expect(offered).toMatchObject({ leg: setup.caller, offer: sdp(4002, 2) });
    side.side.reanswer(setup.call, setup.caller, offered.exchange, sdp(7000, 2) as Sdp);
    const ok = await peer.take(
      "200 with the new answer",
      (packet) => packet.status === 200 && packet.body === sdp(7000, 2),
    );
    expect(ok.header("Contact")).not.toBe("");
    call.send("ACK");
    await call.bye();
    await side.event("leg.ended");
    expect(side.seen("leg.confirmed")).toBe(1);
  });

  test("a request that comes while the call still rings does not end it", async () => {
    const peer = await RawPeer.open(closings);
    const side = await startSide(closings, oneTrunk(peer.port));
    const call = new RawCall(peer, side.engine.port);
    call.send("INVITE", { body: sdp(4000) });
    const setup = await side.call();
    side.side.ring(setup.call, setup.caller);
    call.toTag = tagOf((await peer.response(180, "INVITE")).header("To"));
    call.send("INFO");
    const later = await peer.response(500, "INFO");
    // A drachtio-server answers it by itself.
    if (drachtioProgram === undefined) expect(later.header("Retry-After")).not.toBe("");
    side.side.reject(setup.call, setup.caller, 480, "Temporarily Unavailable");
    await peer.response(480, "INVITE");
  });

  test("a re-INVITE without an offer asks for ours", async () => {
    const { peer, call, side, setup } = await talk();
    call.send("INVITE");
    const offered = await side.event("leg.offered");
    expect(offered.offer).toBeNull();
    side.side.reanswer(setup.call, setup.caller, offered.exchange, sdp(7000, 2) as Sdp);
    await peer.take("200 with our offer", (packet) => packet.status === 200 && packet.body === sdp(7000, 2));
    call.send("ACK", { body: sdp(4000, 3) });
    await call.bye();
  });

  test("an offer the call refuses, does not answer in time, or sends while another is open", async () => {
    const { peer, call, side, setup } = await talk();
    call.send("INVITE", { body: sdp(4002, 2) });
    const first = await side.event("leg.offered");
    side.side.refuse(setup.call, setup.caller, first.exchange, 488);
    await peer.response(488, "INVITE");
    call.send("ACK", { branch: call.lastBranch });
    call.send("UPDATE", { body: sdp(4004, 3) });
    const second = await side.event("leg.offered");
    expect(second.exchange).not.toBe(first.exchange);
    call.send("UPDATE", { body: sdp(4006, 4) });
    await peer.response(500, "UPDATE");
    await peer.response(500, "UPDATE"); // The second: its time is up.
    side.side.reanswer(setup.call, setup.caller, second.exchange, answer);
    side.side.refuse(setup.call, setup.caller, "nothing" as ExchangeId, 488);
    await call.bye();
  });

  test("UPDATE with an offer is answered like a re-INVITE, without one it is a refresh", async () => {
    const { peer, call, side, setup } = await talk();
    call.send("UPDATE", { body: sdp(4002, 2) });
    const offered = await side.event("leg.offered");
    side.side.reanswer(setup.call, setup.caller, offered.exchange, sdp(7000, 2) as Sdp);
    expect((await peer.response(200, "UPDATE")).body).toBe(sdp(7000, 2));
    call.send("UPDATE");
    const refreshed = await peer.response(200, "UPDATE");
    expect(refreshed.body).toBe("");
    expect(refreshed.header("Contact")).not.toBe("");
    await call.bye();
  });

  test("INFO carries key presses; other content is refused; REFER is declined, NOTIFY unknown, OPTIONS answered", async () => {
    const { peer, call, side, setup } = await talk();
    const info = (type: string, body: string): void => {
      peer.send(call.text("INFO", { body }).replace("application/sdp", type), side.engine.port);
    };
    info("application/dtmf-relay", "Signal=5\r\nDuration=250\r\n");
    expect(await side.event("media.digit")).toEqual({
      type: "media.digit",
      leg: setup.caller,
      digit: "5",
      durationMs: 250,
      carriedBy: "info",
    });
    info("application/dtmf", "#");
    expect(await side.event("media.digit")).toMatchObject({ digit: "#", durationMs: 160 });
    info("application/media_control+xml", "<x/>");
    await peer.response(415, "INFO");
    call.send("REFER", { headers: ["Refer-To: <sip:evil@example.com>"] });
    await peer.response(603, "REFER");
    call.send("NOTIFY", { headers: ["Event: refer", "Subscription-State: active"] });
    await peer.response(481, "NOTIFY");
    call.send("OPTIONS");
    await peer.response(200, "OPTIONS");
    call.send("MESSAGE", { headers: [] });
    await peer.response(405, "MESSAGE");
    await call.bye();
  });

  test("more requests than anybody needs in a second are refused", async () => {
    const { peer, call, side } = await talk();
    for (let count = 0; count < 60; count += 1) {
      call.send("OPTIONS");
    }
    await peer.response(500, "OPTIONS");
    await call.bye();
    await side.event("leg.ended");
  });

  test("the service stops: everybody is hung up", async () => {
    const { peer, side } = await talk();
    const second = new RawCall(peer, side.engine.port);
    second.send("INVITE", { body: sdp(4000) });
    await side.call();
    const closed = side.side.close();
    peer.reply(await fresh(peer, "BYE"), 200, "OK");
    const refused = await peer.response(503, "INVITE");
    second.toTag = tagOf(refused.header("To"));
    second.send("ACK", { branch: second.lastBranch });
    await closed;
    expect(side.side.ready()).toBe(false);
  });
});
