import { createHash } from "node:crypto";

import { afterEach, describe, expect, test } from "vitest";

import type { InviteOrder } from "../../src/call/effect.ts";
import type { GatewayId, LegId, Sdp, TrunkId } from "../../src/call/ids.ts";
import type { CallSetup } from "../../src/call/setup.ts";
import { Closings, RawCall, RawCallee, RawPeer, RawTcpPeer, replyText, sdp, tagOf, uriOf } from "./engine-support.ts";
import type { Packet } from "./engine-support.ts";
import { fresh, oneTrunk, order, requests, startSide } from "./sip-support.ts";
import type { TestSide } from "./sip-support.ts";

const closings = new Closings();

afterEach(async () => {
  await closings.closeAll();
});

interface Talk {
  readonly side: TestSide;
  readonly setup: CallSetup;
  readonly caller: RawCall;
  readonly operator: RawPeer;
}

/** A caller who is with the bot, and an operator's phone that stands at the gateway's place. */
async function talk(
  more = "",
  channel = "",
  options: Parameters<typeof startSide>[2] = {},
  gateways?: string,
): Promise<Talk> {
  const peer = await RawPeer.open(closings);
  const operator = await RawPeer.open(closings);
  const side = await startSide(closings, oneTrunk(operator.port, more, channel, gateways), options);
  const caller = new RawCall(peer, side.engine.port);
  caller.send("INVITE", { body: sdp(4000) });
  const setup = await side.call();
  side.side.accept(setup.call, setup.caller, sdp(7000) as Sdp);
  const ok = await peer.response(200, "INVITE");
  caller.toTag = tagOf(ok.header("To"));
  caller.send("ACK");
  await side.event("leg.confirmed");
  // However the test leaves it, the caller goes, so that the side can come to rest.
  closings.add(async () => {
    if (side.side.stats().calls > 0) {
      await caller.bye();
    }
  });
  return { side, setup, caller, operator };
}

function lines(packet: Packet): string[] {
  return packet.text.slice(0, packet.text.indexOf("\r\n\r\n")).split("\r\n");
}

describe("a call to an operator", () => {
  test("INVITE → 180 → 183 with audio → 200 → ACK → BYE from the operator", async () => {
    const { side, setup, operator } = await talk();
    const sent = order(setup);
    side.side.invite(setup.call, sent);
    const invite = await fresh(operator, "INVITE");
    expect(invite.startLine).toBe(`INVITE sip:79123456789@127.0.0.1:${operator.port} SIP/2.0`);
    expect(invite.body).toBe(sent.offer);
    expect(invite.header("Content-Type")).toBe("application/sdp");
    expect(invite.header("From")).toMatch(/^"Alice" <sip:alice@127\.0\.0\.1[^>]*>;tag=/);
    expect(invite.header("To")).toBe(`<sip:79123456789@127.0.0.1:${operator.port}>`);
    expect(invite.headers("P-Asserted-Identity")).toEqual([]);
    const callee = new RawCallee(operator, invite);
    callee.reply(180, "Ringing");
    expect(await side.event("leg.progress")).toEqual({
      type: "leg.progress",
      leg: sent.leg,
      status: 180,
      early: null,
    });
    callee.reply(183, "Session Progress", { body: sdp(5000) });
    expect(await side.event("leg.progress")).toMatchObject({ status: 183, early: expect.stringContaining("m=audio") });
    callee.reply(200, "OK", { body: sdp(5000) });
    expect(await side.event("leg.answered")).toEqual({ type: "leg.answered", leg: sent.leg, answer: sdp(5000) });
    await fresh(operator, "ACK");
    callee.send("BYE", { headers: ["Reason: Q.850;cause=31"] });
    await operator.response(200, "BYE");
    expect(await side.event("leg.ended")).toEqual({
      type: "leg.ended",
      leg: sent.leg,
      status: null,
      reason: null,
      q850: 31,
    });
  });

  test("Session-Expires is offered with us as refresher, and not where the trunk has none", async () => {
    const on = await talk();
    on.side.side.invite(on.setup.call, order(on.setup));
    const invite = await fresh(on.operator, "INVITE");
    expect(invite.header("Session-Expires")).toBe("1800;refresher=uac");
    expect(invite.header("Min-SE")).toBe("90");
    expect(invite.headers("Supported")).toEqual(["timer"]);
    new RawCallee(on.operator, invite).reply(486, "Busy Here");
    await on.side.event("leg.failed");
    // Who asks for passwords would ask at each refresh too, and only he can do without one.
    const asked = await talk("outbound: { username: us, passwordEnv: P }", "", { password: () => "secret" });
    asked.side.side.invite(asked.setup.call, order(asked.setup));
    const theirs = await fresh(asked.operator, "INVITE");
    expect(theirs.header("Session-Expires")).toBe("1800;refresher=uas");
    new RawCallee(asked.operator, theirs).reply(486, "Busy Here");
    await asked.side.event("leg.failed");
    const off = await talk("sessionExpiresSeconds: 0");
    off.side.side.invite(off.setup.call, order(off.setup));
    const plain = await fresh(off.operator, "INVITE");
    expect(plain.headers("Session-Expires")).toEqual([]);
    expect(plain.headers("Supported")).toEqual([]);
    new RawCallee(off.operator, plain).reply(486, "Busy Here");
    await off.side.event("leg.failed");
  });

  test("422: once more with its Min-SE in the same call; a second 422 is the operator's answer", async () => {
    const { side, setup, operator } = await talk();
    side.side.invite(setup.call, order(setup));
    const first = await fresh(operator, "INVITE");
    new RawCallee(operator, first).reply(422, "Session Interval Too Small", { headers: ["Min-SE: 2400"] });
    const second = await fresh(operator, "INVITE");
    expect(second.header("Session-Expires")).toBe("2400;refresher=uac");
    expect(second.header("Min-SE")).toBe("2400");
    expect(second.header("Call-ID")).toBe(first.header("Call-ID"));
    expect(second.header("From")).toBe(first.header("From"));
    expect(parseInt(second.header("CSeq"), 10)).toBe(parseInt(first.header("CSeq"), 10) + 1);
    expect(side.seen("leg.failed")).toBe(0);
    new RawCallee(operator, second).reply(422, "Session Interval Too Small", { headers: ["Min-SE: 4800"] });
    expect(await side.event("leg.failed")).toMatchObject({ status: 422 });
  });

  test("422 without a usable Min-SE is the operator's answer", async () => {
    const { side, setup, operator } = await talk();
    side.side.invite(setup.call, order(setup));
    new RawCallee(operator, await fresh(operator, "INVITE")).reply(422, "Session Interval Too Small");
    expect(await side.event("leg.failed")).toMatchObject({ status: 422 });
  });

  test("custom headers reach the wire byte for byte, also with names that every JavaScript object has", async () => {
    const { side, setup, operator } = await talk();
    const headers = [
      { name: "callReason", value: "support" },
      { name: "crmClientId", value: "none" },
      { name: "X-mixed-Case-name", value: 'Grüße, 你好 "q" <a@b>;p=1, two' },
      { name: "constructor", value: "c" },
      { name: "toString", value: "t" },
      { name: "__proto__", value: "p" },
      { name: "P-Asserted-Identity", value: '"7701" <sip:7701@92.46.54.211>' },
      { name: "Diversion", value: "<sip:1@2>;reason=unknown" },
    ];
    side.side.invite(setup.call, order(setup, { headers }));
    const invite = await fresh(operator, "INVITE");
    const own = lines(invite);
    for (const line of [
      "callReason: support",
      "crmClientId: none",
      'X-mixed-Case-name: Grüße, 你好 "q" <a@b>;p=1, two',
      'P-Asserted-Identity: "7701" <sip:7701@92.46.54.211>',
      "Diversion: <sip:1@2>;reason=unknown",
    ]) {
      expect(own).toContain(line);
    }
    // Header names compare without case (RFC 3261 §7.3.1).
    for (const line of ["constructor: c", "tostring: t", "__proto__: p"]) {
      expect(own.map((text) => text.toLowerCase())).toContain(line);
    }
    expect(own.filter((line) => /^(?:p-asserted-identity|diversion):/i.test(line))).toHaveLength(2);
    new RawCallee(operator, invite).reply(486, "Busy Here");
    await side.event("leg.failed");
  });

  test.each<[string, string, Partial<InviteOrder>, Record<string, RegExp | undefined>]>([
    ["bot", "", { identity: "bot" }, { From: /^<sip:100@127\.0\.0\.1[:\d]*>;tag=/, Privacy: undefined }],
    [
      "anonymous",
      "assertedIdentity: true",
      { identity: "anonymous" },
      {
        From: /^"Anonymous" <sip:anonymous@anonymous\.invalid>;tag=/,
        Privacy: /^id$/,
        "P-Asserted-Identity": /^<sip:100@127\.0\.0\.1[:\d]*>$/,
      },
    ],
    ["fixed", "callerId: '+4455'", { identity: "fixed" }, { From: /^<sip:\+4455@127\.0\.0\.1[:\d]*>;tag=/ }],
    [
      "caller, asserted and diverted, under the provider's name",
      "assertedIdentity: true, diversion: true, fromHost: sip.example.net",
      { identity: "caller" },
      {
        From: /^"Alice" <sip:alice@sip\.example\.net>;tag=/,
        "P-Asserted-Identity": /^<sip:alice@sip\.example\.net>$/,
        Diversion: /^<sip:100@sip\.example\.net>;reason=unconditional$/,
      },
    ],
  ])("identity %s", async (_name, more, over, expected) => {
    const { side, setup, operator } = await talk(more.replaceAll(", ", "\n    "));
    side.side.invite(setup.call, order(setup, over));
    const invite = await fresh(operator, "INVITE");
    for (const [name, pattern] of Object.entries(expected)) {
      if (pattern === undefined) {
        expect(invite.headers(name)).toEqual([]);
      } else {
        expect(invite.header(name)).toMatch(pattern);
        expect(invite.headers(name)).toHaveLength(1);
      }
    }
    new RawCallee(operator, invite).reply(480, "Temporarily Unavailable");
    await side.event("leg.failed");
  });

  test("number rules, and characters that must be escaped", async () => {
    const { side, setup, operator } = await talk('rules: { strip: "8", prepend: "7", plus: add }');
    for (const [digits, user] of [
      ["84951234567", "+74951234567"],
      ["*72#", "7*72%23"],
    ] as const) {
      const leg = `${setup.call}/operator-${digits}` as LegId;
      side.side.invite(setup.call, order(setup, { leg, target: { kind: "phone", digits } }));
      const invite = await fresh(operator, "INVITE");
      expect(uriOf(invite.header("To"))).toBe(`sip:${user}@127.0.0.1:${operator.port}`);
      expect(invite.startLine).toContain(` sip:${user}@127.0.0.1:`);
      new RawCallee(operator, invite).reply(404, "Not Found");
      await side.event("leg.failed");
    }
  });

  test("a SIP URI is called as given, or with the gateway as next hop", async () => {
    for (const via of ["direct", "gateway"]) {
      const { side, setup, operator } = await talk(
        `sipUriVia: ${via}`,
        'destinations: { sipHosts: ["127.0.0.1:*", sip.elsewhere.example] }',
      );
      const host = via === "direct" ? `127.0.0.1:${operator.port}` : "sip.elsewhere.example:5070";
      side.side.invite(setup.call, order(setup, { target: { kind: "uri", uri: `sip:ops@${host};x=1` } }));
      const invite = await fresh(operator, "INVITE");
      expect(invite.startLine).toBe(`INVITE sip:ops@${host};x=1 SIP/2.0`);
      expect(invite.header("To")).toBe(`<sip:ops@${host}>`);
      new RawCallee(operator, invite).reply(404, "Not Found");
      await side.event("leg.failed");
    }
  });

  test.each([
    [486, "Busy Here", [], { status: 486, reason: "Busy Here", q850: null, redirect: null }],
    [480, "Gone", ['Reason: Q.850;cause=19;text="no answer"'], { status: 480, q850: 19 }],
    [503, "Service Unavailable", ["Retry-After: 5"], { status: 503, q850: null }],
    [603, "Decline", ["Reason: SIP;cause=600, Q.850;cause=21"], { status: 603, q850: 21 }],
  ] as const)("%d %s → leg.failed", async (status, reason, headers, expected) => {
    const { side, setup, operator } = await talk();
    side.side.invite(setup.call, order(setup));
    const callee = new RawCallee(operator, await fresh(operator, "INVITE"));
    callee.reply(status, reason, { headers });
    await fresh(operator, "ACK");
    expect(await side.event("leg.failed")).toMatchObject({ type: "leg.failed", leg: order(setup).leg, ...expected });
  });

  test("a redirect is told only when the bot's destinations or the trunk's gateways allow it, and is built anew", async () => {
    const { side, setup, operator } = await talk("", 'destinations: { sipHosts: ["*.ok.example"] }');
    for (const [contact, redirect] of [
      ["<sip:evil@bad.example>", null],
      [
        '<sip:evil@bad.example>, "b, c" <sip:ann@A.ok.example:5090;transport=tcp;method=BYE>;q=0.3',
        "sip:ann@a.ok.example:5090;transport=tcp",
      ],
      [`<sip:2222@127.0.0.1:${operator.port};lr>`, `sip:2222@127.0.0.1:${operator.port}`],
      ["<sips:ann@a.ok.example>", null],
      ["<sip:ann@a.ok.example?Replaces=x>", null],
      ["*", null],
    ] as const) {
      const leg = `${setup.call}/operator-${contact}` as LegId;
      side.side.invite(setup.call, order(setup, { leg }));
      const callee = new RawCallee(operator, await fresh(operator, "INVITE"));
      callee.reply(302, "Moved Temporarily", { contact });
      expect(await side.event("leg.failed")).toMatchObject({ leg, status: 302, redirect });
    }
  });

  test("Retry-After of a failing gateway is told; of a busy operator, or of a URI called directly, it is not", async () => {
    const rests: (readonly [gateway: string, ms: number])[] = [];
    const { side, setup, operator } = await talk("", 'destinations: { sipHosts: ["127.0.0.1:*"] }', {
      onRetryAfter: (gateway, ms) => rests.push([gateway, ms]),
    });
    const uri = { kind: "uri", uri: `sip:x@127.0.0.1:${operator.port}` } as const;
    for (const [status, retryAfter, over] of [
      [503, "120 (maintenance);duration=60", {}],
      [500, "0", {}],
      [503, "soon", {}],
      [486, "30", {}],
      [503, "30", { target: uri }],
    ] as const) {
      side.side.invite(setup.call, order(setup, over));
      const callee = new RawCallee(operator, await fresh(operator, "INVITE"));
      callee.reply(status, "No", { headers: [`Retry-After: ${retryAfter}`] });
      expect(await side.event("leg.failed")).toMatchObject({ status });
    }
    expect(rests).toEqual([["g", 120_000]]);
  });

  test("a gateway that is not there, and targets that lead nowhere", async () => {
    const { side, setup } = await talk();
    side.side.invite(setup.call, order(setup, { gateway: "none" as GatewayId }));
    expect(await side.event("leg.failed")).toMatchObject({ status: null });
    side.side.invite(setup.call, order(setup, { trunk: "none" as TrunkId }));
    expect(await side.event("leg.failed")).toMatchObject({ status: null });
    side.side.invite(setup.call, order(setup, { target: { kind: "uri", uri: "tel:123" } }));
    expect(await side.event("leg.failed")).toMatchObject({ status: null });
    // Our own address: no packet is sent.
    side.side.invite(
      setup.call,
      order(setup, { target: { kind: "uri", uri: `sip:100@127.0.0.1:${side.engine.port}` } }),
    );
    expect(await side.event("leg.failed")).toMatchObject({
      status: null,
      reason: "the target is this service itself",
      refused: true,
    });
    expect(side.side.stats().legs).toBe(1);
  });

  test("a refused TCP connection → 503 or no status, at once", async () => {
    const { side, setup, operator } = await talk();
    const uri = `sip:x@127.0.0.1:${operator.port};transport=tcp`;
    side.side.invite(setup.call, order(setup, { target: { kind: "uri", uri } }));
    expect([503, null]).toContain((await side.event("leg.failed")).status);
  });

  test("a gateway on TCP: INVITE, ACK and BYE over one connection", async () => {
    const tcp = await RawTcpPeer.open(closings);
    const { side, setup } = await talk(
      `gateways: [{ id: g, host: 127.0.0.1, port: ${tcp.port}, transport: tcp }]`,
      "",
      {},
      "",
    );
    side.side.invite(setup.call, order(setup));
    const invite = await tcp.take("INVITE", ({ method, status }) => status === 0 && method === "INVITE");
    expect(invite.startLine).toBe(`INVITE sip:79123456789@127.0.0.1:${tcp.port};transport=tcp SIP/2.0`);
    expect(invite.header("Via")).toMatch(/^SIP\/2\.0\/TCP /);
    expect(invite.header("To")).toBe(`<sip:79123456789@127.0.0.1:${tcp.port}>`);
    const contact = `<sip:op@127.0.0.1:${tcp.port};transport=tcp>`;
    invite.connection?.write(replyText(invite, 200, "OK", { tag: "x", contact, body: sdp(5000) }));
    expect(await side.event("leg.answered")).toMatchObject({ answer: sdp(5000) });
    await tcp.take("ACK", ({ method, status }) => status === 0 && method === "ACK");
    side.side.bye(setup.call, order(setup).leg, "over", []);
    const bye = await tcp.take("BYE", ({ method, status }) => status === 0 && method === "BYE");
    expect(tcp.connections).toHaveLength(1);
    bye.connection?.write(replyText(bye, 200, "OK"));
  });

  test("a trunk that is full → 503 without an INVITE", async () => {
    const { side, setup, operator } = await talk("maxCalls: 1");
    side.side.invite(setup.call, order(setup));
    expect(await side.event("leg.failed")).toMatchObject({ status: 503, reason: "the trunk is full" });
    expect(operator.received).toEqual([]);
  });
});

describe("giving up on an operator", () => {
  test("CANCEL with a reason after the first provisional → 487", async () => {
    const { side, setup, operator } = await talk();
    const { leg } = order(setup);
    side.side.invite(setup.call, order(setup));
    const invite = await fresh(operator, "INVITE");
    const callee = new RawCallee(operator, invite);
    callee.reply(180, "Ringing");
    await side.event("leg.progress");
    side.side.cancel(setup.call, leg, "no answer in time");
    const cancel = await fresh(operator, "CANCEL");
    expect(cancel.header("Reason")).toBe('SIP;cause=487;text="no answer in time"');
    expect(cancel.header("CSeq")).toBe(invite.header("CSeq").replace("INVITE", "CANCEL"));
    operator.reply(cancel, 200, "OK", { contact: "" });
    callee.reply(487, "Request Terminated");
    await fresh(operator, "ACK");
    expect(await side.event("leg.failed")).toMatchObject({ leg, status: 487 });
    side.side.cancel(setup.call, leg, "again");
    side.side.bye(setup.call, leg, "again", []);
    expect(requests(operator, "CANCEL", "BYE")).toBe(1);
  });

  test("CANCEL in the same breath as the INVITE is held until the first provisional (RFC 3261 §9.1)", async () => {
    const { side, setup, operator } = await talk();
    side.side.invite(setup.call, order(setup));
    side.side.cancel(setup.call, order(setup).leg, "changed his mind");
    const callee = new RawCallee(operator, await fresh(operator, "INVITE"));
    callee.reply(100, "Trying");
    operator.reply(await fresh(operator, "CANCEL"), 200, "OK", { contact: "" });
    callee.reply(487, "Request Terminated");
    expect(await side.event("leg.failed")).toMatchObject({ status: 487 });
  });

  test("200 after CANCEL → ACK and BYE, and the call never hears that he answered", async () => {
    const { side, setup, operator } = await talk();
    side.side.invite(setup.call, order(setup));
    const callee = new RawCallee(operator, await fresh(operator, "INVITE"));
    callee.reply(180, "Ringing");
    await side.event("leg.progress");
    side.side.cancel(setup.call, order(setup).leg, "no answer in time");
    const cancel = await fresh(operator, "CANCEL");
    callee.reply(200, "OK", { body: sdp(5000) });
    operator.reply(cancel, 200, "OK", { contact: "" });
    await fresh(operator, "ACK");
    operator.reply(await fresh(operator, "BYE"), 200, "OK", { contact: "" });
    expect(await side.event("leg.failed")).toMatchObject({ status: 487 });
    expect(side.seen("leg.answered")).toBe(0);
  });

  test("a peer that ignores CANCEL → the leg is freed all the same", async () => {
    const { side, setup, operator } = await talk();
    side.side.invite(setup.call, order(setup));
    new RawCallee(operator, await fresh(operator, "INVITE")).reply(180, "Ringing");
    await side.event("leg.progress");
    side.side.cancel(setup.call, order(setup).leg, "no answer in time");
    await fresh(operator, "CANCEL");
    expect(await side.event("leg.failed")).toMatchObject({ status: 487 });
  });

  test("an operator who answers nothing at all → 408", async () => {
    const { side, setup, operator } = await talk();
    side.side.invite(setup.call, order(setup));
    await fresh(operator, "INVITE");
    expect(await side.event("leg.failed")).toMatchObject({ status: 408 });
  });

  test("an answer that no call wants is ended by BYE", async () => {
    const { side, setup, operator } = await talk();
    side.side.invite(setup.call, order(setup));
    const callee = new RawCallee(operator, await fresh(operator, "INVITE"));
    side.held = false;
    callee.reply(200, "OK", { body: sdp(5000) });
    await fresh(operator, "ACK");
    operator.reply(await fresh(operator, "BYE"), 200, "OK", { contact: "" });
  });

  test("our BYE carries a reason and the bot's headers; cancel after the answer is a BYE too", async () => {
    for (const how of ["bye", "cancel"] as const) {
      const { side, setup, operator } = await talk();
      const { leg } = order(setup);
      side.side.invite(setup.call, order(setup));
      const callee = new RawCallee(operator, await fresh(operator, "INVITE"));
      callee.reply(200, "OK", { body: sdp(5000) });
      await side.event("leg.answered");
      if (how === "bye") {
        side.side.bye(setup.call, leg, "caller hung up", [
          { name: "Reason", value: "X;cause=1" },
          { name: "X-A", value: "b" },
        ]);
      } else {
        side.side.cancel(setup.call, leg, "caller hung up");
      }
      const bye = await fresh(operator, "BYE");
      expect(bye.headers("Reason")).toEqual(how === "bye" ? ["X;cause=1"] : ['Q.850;cause=16;text="caller hung up"']);
      expect(bye.headers("X-A")).toEqual(how === "bye" ? ["b"] : []);
      operator.reply(bye, 200, "OK", { contact: "" });
      await expect.poll(() => side.side.stats().legs).toBe(1);
      expect(side.seen("leg.ended")).toBe(0);
    }
  });

  test("a BYE that comes before our ACK could arrive ends the leg", async () => {
    const { side, setup, operator } = await talk();
    side.side.invite(setup.call, order(setup));
    const callee = new RawCallee(operator, await fresh(operator, "INVITE"));
    callee.reply(200, "OK", { body: sdp(5000) });
    callee.send("BYE");
    expect(await side.event("leg.answered")).toMatchObject({ leg: order(setup).leg });
    expect(await side.event("leg.ended")).toMatchObject({ leg: order(setup).leg });
    await operator.response(200, "BYE");
  });

  test("BYEs that cross end the leg once", async () => {
    const { side, setup, operator } = await talk();
    side.side.invite(setup.call, order(setup));
    const callee = new RawCallee(operator, await fresh(operator, "INVITE"));
    callee.reply(200, "OK", { body: sdp(5000) });
    await side.event("leg.answered");
    side.side.bye(setup.call, order(setup).leg, "bye", []);
    const ours = await fresh(operator, "BYE");
    callee.send("BYE");
    await operator.take("an answer to his BYE", (packet) => packet.status > 0 && packet.method === "BYE");
    operator.reply(ours, 481, "Call/Transaction Does Not Exist", { contact: "" });
    await expect.poll(() => side.side.stats().legs).toBe(1);
    expect(side.seen("leg.ended")).toBe(0);
  });

  test("the operator's re-INVITE is answered, and his key presses are told", async () => {
    const { side, setup, operator } = await talk();
    const { leg } = order(setup);
    side.side.invite(setup.call, order(setup));
    const callee = new RawCallee(operator, await fresh(operator, "INVITE"));
    callee.reply(200, "OK", { body: sdp(5000) });
    await side.event("leg.answered");
    await fresh(operator, "ACK");
    callee.send("INVITE", { body: sdp(5002, 2) });
    const offered = await side.event("leg.offered");
    expect(offered).toMatchObject({ leg, offer: sdp(5002, 2) });
    side.side.reanswer(setup.call, leg, offered.exchange, sdp(6000, 2) as Sdp);
    expect((await operator.response(200, "INVITE")).body).toBe(sdp(6000, 2));
    callee.send("ACK", { seq: callee.seq });
    callee.send("REFER", { headers: ["Refer-To: <sip:x@y>"] });
    await operator.response(603, "REFER");
    callee.send("BYE");
    await operator.response(200, "BYE");
    expect(await side.event("leg.ended")).toMatchObject({ leg });
  });
});

describe("credentials", () => {
  const outbound = "outbound: { username: us, passwordEnv: P }";
  const password = {
    password: (_trunk: TrunkId, direction: string) => (direction === "outbound" ? "secret" : undefined),
  };

  function digestOf(packet: Packet, name: string): Map<string, string> {
    return new Map(
      [...packet.header(name).matchAll(/(\w+)=(?:"([^"]*)"|([^\s,]*))/g)].map((match) => [
        match[1] ?? "",
        match[2] ?? match[3] ?? "",
      ]),
    );
  }

  /** The response as RFC 7616 has it, worked out here and not by the code under test. */
  function expected(hash: string, packet: Packet, fields: Map<string, string>): string {
    const h = (text: string): string => createHash(hash).update(text).digest("hex");
    const method = packet.startLine.split(" ")[0];
    const uri = packet.startLine.split(" ")[1];
    const ha1 = h(`us:${fields.get("realm")}:secret`);
    const ha2 = h(`${method}:${uri}`);
    return h(`${ha1}:${fields.get("nonce")}:${fields.get("nc")}:${fields.get("cnonce")}:auth:${ha2}`);
  }

  test.each([
    ["SHA-256", "sha256", [401, "WWW-Authenticate", "Authorization"]],
    ["SHA-512-256", "sha512-256", [407, "Proxy-Authenticate", "Proxy-Authorization"]],
    ["MD5", "md5", [407, "Proxy-Authenticate", "Proxy-Authorization"]],
  ] as const)(
    "%s: the INVITE is repeated with the same Call-ID and tag and the next CSeq",
    async (algorithm, hash, [status, asks, answers]) => {
      const { side, setup, operator } = await talk(outbound, "", password);
      side.side.invite(setup.call, order(setup, { headers: [{ name: "callReason", value: "support" }] }));
      const first = await fresh(operator, "INVITE");
      expect(first.headers(answers)).toEqual([]);
      const nonce = 'a"nonce, with = signs';
      new RawCallee(operator, first).reply(status, "Who are you", {
        headers: [
          `${asks}: Digest realm="r", nonce="other", algorithm=SHA-9`,
          `${asks}: Digest realm="r", nonce="${nonce.replaceAll('"', String.raw`\"`)}", algorithm=${algorithm}, qop="auth,auth-int", opaque="o"`,
          `${asks}: Digest realm="r", nonce="md5", algorithm=MD5, qop="auth"`,
        ],
      });
      const second = await fresh(operator, "INVITE");
      expect(second.header("Call-ID")).toBe(first.header("Call-ID"));
      expect(tagOf(second.header("From"))).toBe(tagOf(first.header("From")));
      expect(second.header("From")).toBe(first.header("From"));
      expect(Number.parseInt(second.header("CSeq"), 10)).toBe(Number.parseInt(first.header("CSeq"), 10) + 1);
      expect(second.header("callReason")).toBe("support");
      expect(second.body).toBe(first.body);
      const fields = digestOf(second, answers);
      expect(fields.get("username")).toBe("us");
      expect(fields.get("algorithm")).toBe(algorithm);
      expect(fields.get("nc")).toBe("00000001");
      expect(fields.get("opaque")).toBe("o");
      expect(second.header(answers)).toContain(String.raw`nonce="a\"nonce, with = signs"`);
      fields.set("nonce", nonce);
      const response = /response="([0-9a-f]+)"/.exec(second.header(answers))?.[1];
      fields.set("cnonce", /cnonce="([0-9a-f]+)"/.exec(second.header(answers))?.[1] ?? "");
      expect(response).toBe(expected(hash, second, fields));
      const callee = new RawCallee(operator, second);
      callee.reply(200, "OK", { body: sdp(5000) });
      expect(await side.event("leg.answered")).toMatchObject({ leg: order(setup).leg });
      expect(side.seen("leg.failed")).toBe(0);
      // A gateway may ask once more for the BYE.
      side.side.bye(setup.call, order(setup).leg, "over", []);
      operator.reply(await fresh(operator, "BYE"), 407, "Proxy Authentication Required", {
        contact: "",
        headers: ['Proxy-Authenticate: Digest realm="r", nonce="n2", algorithm=MD5, qop="auth"'],
      });
      const again = await fresh(operator, "BYE");
      const byeFields = digestOf(again, "Proxy-Authorization");
      expect(byeFields.get("response")).toBe(expected("md5", again, byeFields));
      operator.reply(again, 200, "OK", { contact: "" });
    },
  );

  test("a proxy and the peer behind it may both ask; a stale nonce is answered once", async () => {
    const { side, setup, operator } = await talk(outbound, "", password);
    side.side.invite(setup.call, order(setup));
    const ask = async (status: number, header: string): Promise<Packet> => {
      const invite = await fresh(operator, "INVITE");
      new RawCallee(operator, invite).reply(status, "Auth", { headers: [header] });
      return invite;
    };
    await ask(407, 'Proxy-Authenticate: Digest realm="p", nonce="1", qop="auth"');
    await ask(401, 'WWW-Authenticate: Digest realm="u", nonce="2", qop="auth"');
    const third = await ask(401, 'WWW-Authenticate: Digest realm="u", nonce="3", qop="auth", stale=TRUE');
    expect(third.headers("Proxy-Authorization")).toHaveLength(1);
    expect(third.headers("Authorization")).toHaveLength(1);
    const fourth = await ask(401, 'WWW-Authenticate: Digest realm="u", nonce="4", qop="auth", stale=true');
    expect(digestOf(fourth, "Authorization").get("nonce")).toBe("3");
    expect(await side.event("leg.failed")).toMatchObject({ status: 401 });
  });

  test("a wrong password is told after one attempt", async () => {
    const { side, setup, operator } = await talk(outbound, "", password);
    side.side.invite(setup.call, order(setup));
    for (let attempt = 1; attempt <= 2; attempt += 1) {
      const invite = await fresh(operator, "INVITE");
      new RawCallee(operator, invite).reply(401, "Unauthorized", {
        headers: [`WWW-Authenticate: Digest realm="r", nonce="${attempt}", qop="auth"`],
      });
    }
    expect(await side.event("leg.failed")).toMatchObject({ status: 401 });
    expect(requests(operator, "INVITE")).toBe(2);
  });

  test.each<[string, string, Partial<Record<"password", () => undefined>>, Partial<InviteOrder>, string]>([
    ["without a password", outbound, { password: () => undefined }, {}, 'Digest realm="r", nonce="n", qop="auth"'],
    [
      "for another realm",
      "outbound: { username: us, passwordEnv: P, realm: mine }",
      {},
      {},
      'Digest realm="other", nonce="n"',
    ],
    ["for auth-int only", outbound, {}, {}, 'Digest realm="r", nonce="n", qop="auth-int"'],
    ["for another scheme", outbound, {}, {}, 'Basic realm="r"'],
    [
      "towards a URI that is not the trunk's",
      outbound,
      {},
      { target: { kind: "uri", uri: "sip:x@HOST" } },
      'Digest realm="r", nonce="n", qop="auth"',
    ],
  ])("nothing is given away %s", async (_name, more, over, target, challenge) => {
    const { side, setup, operator } = await talk(more, "", { ...password, ...over });
    const aimed =
      target.target?.kind === "uri"
        ? { target: { kind: "uri", uri: `sip:x@127.0.0.1:${operator.port}` } as const }
        : {};
    side.side.invite(setup.call, order(setup, aimed));
    const invite = await fresh(operator, "INVITE");
    new RawCallee(operator, invite).reply(401, "Unauthorized", { headers: [`WWW-Authenticate: ${challenge}`] });
    expect(await side.event("leg.failed")).toMatchObject({ status: 401 });
    expect(operator.received.some(({ text }) => /^(?:proxy-)?authorization:/im.test(text))).toBe(false);
  });

  test("CANCEL between the challenge and the repeated INVITE", async () => {
    const { side, setup, operator } = await talk(outbound, "", password);
    side.side.invite(setup.call, order(setup));
    new RawCallee(operator, await fresh(operator, "INVITE")).reply(401, "Unauthorized", {
      headers: ['WWW-Authenticate: Digest realm="r", nonce="n", qop="auth"'],
    });
    const second = await fresh(operator, "INVITE");
    side.side.cancel(setup.call, order(setup).leg, "gone");
    const callee = new RawCallee(operator, second);
    callee.reply(100, "Trying");
    operator.reply(await fresh(operator, "CANCEL"), 200, "OK", { contact: "" });
    callee.reply(487, "Request Terminated");
    expect(await side.event("leg.failed")).toMatchObject({ status: 487 });
  });
});
