import { afterEach, beforeEach, describe, expect, it } from "vitest";

import { DnsServer } from "../support/dns-server.ts";
import type { DnsService, DnsZone } from "../support/dns-server.ts";
import { claimPort } from "../support/ports.ts";
import type { Packet, SrfInstance, SrfMessage, TestEngine } from "./engine-support.ts";
import {
  Closings,
  failure,
  RawCallee,
  RawPeer,
  RawTcpPeer,
  replyText,
  sdp,
  startTestEngine,
} from "./engine-support.ts";

const closings = new Closings();
let dns: DnsServer;
let sip: TestEngine;
let srf: SrfInstance;
let one: RawPeer;
let two: RawPeer;

beforeEach(async () => {
  dns = await DnsServer.start({});
  closings.add(() => dns[Symbol.asyncDispose]());
  sip = await startTestEngine(closings, { dnsServers: [dns.address] });
  srf = await sip.connect();
  one = await RawPeer.open(closings);
  two = await RawPeer.open(closings);
});

afterEach(async () => {
  await closings.closeAll();
});

const service = (port: number, priority = 10, weight = 10, target = "host.test"): DnsService => ({
  priority,
  weight,
  port,
  target,
});

const zoneOf = (...services: DnsService[]): DnsZone => ({
  "SRV _sip._udp.op.test": services,
  "A host.test": ["127.0.0.1"],
});

const branchOf = (packet: Packet): string => /branch=([^;,\s]+)/.exec(packet.header("Via"))?.[1] ?? "";
const isRequest =
  (method: string) =>
  (packet: Packet): boolean =>
    packet.status === 0 && packet.method === method;

/** A port of 127.0.0.1 that nobody listens on. */
async function deadPort(): Promise<number> {
  const port = await claimPort();
  closings.add(async () => port[Symbol.asyncDispose]());
  return port.port;
}

describe("SRV (RFC 3263)", () => {
  it("the first by priority gets the INVITE, and the URI stays as it was", async () => {
    dns.zone = zoneOf(service(two.port, 20), service(one.port, 10));
    const calling = srf.createUAC("sip:bob@op.test", { localSdp: sdp(5000) });
    const invite = await one.request("INVITE");
    expect(invite.startLine).toBe("INVITE sip:bob@op.test SIP/2.0");
    const callee = new RawCallee(one, invite);
    callee.reply(200, "OK", { body: sdp(4000) });
    const dialog = await calling;
    await one.request("ACK");
    const ended = dialog.destroy();
    one.reply(await one.request("BYE"), 200, "OK");
    await ended;
    expect(two.received).toEqual([]);
    expect(dns.asked.toSorted()).toEqual(["A host.test", "SRV _sip._tcp.op.test", "SRV _sip._udp.op.test"]);
  });

  it("where only TCP is offered, TCP is taken", async () => {
    const peer = await RawTcpPeer.open(closings);
    dns.zone = { "SRV _sip._tcp.op.test": [service(peer.port)], "A host.test": ["127.0.0.1"] };
    const calling = failure(srf.createUAC("sip:bob@op.test", { localSdp: sdp(5000) }));
    const invite = await peer.take("INVITE", isRequest("INVITE"));
    expect(invite.header("Via")).toContain("SIP/2.0/TCP");
    expect(invite.header("Contact")).toContain(";transport=tcp>");
    invite.connection?.write(replyText(invite, 486, "Busy Here", { tag: "t" }));
    expect((await calling).status).toBe(486);
  });

  it("a name that has none is looked for by its addresses", async () => {
    dns.zone = { "A op.test": ["127.0.0.1"] };
    const calling = failure(srf.createUAC(`sip:bob@op.test:${one.port}`, { localSdp: sdp(5000) }));
    one.reply(await one.request("INVITE"), 404, "Not Found", { tag: "t" });
    expect((await calling).status).toBe(404);
    expect(dns.asked).toEqual(["A op.test"]);
  });

  it("a name that nobody knows is a 503 without a packet", async () => {
    expect(await failure(srf.createUAC("sip:bob@nowhere.test", { localSdp: sdp(5000) }))).toMatchObject({
      status: 503,
    });
    expect(sip.engine.stats().transport.messagesOut).toBe(0);
  });
});

describe("the next target (RFC 3263 §4.3)", () => {
  it.each(["INVITE", "OPTIONS"])("after a 503, with a branch of its own and all else the same: %s", async (method) => {
    dns.zone = zoneOf(service(one.port, 1), service(two.port, 2));
    const asking =
      method === "INVITE"
        ? failure(srf.createUAC("sip:bob@op.test", { localSdp: sdp(5000) })).then(({ status }) => status)
        : srf
            .request("sip:bob@op.test", { method })
            .then(
              async (req) =>
                new Promise<number>((resolve) => req.once("response", (res: SrfMessage) => resolve(res.status))),
            );
    const first = await one.request(method);
    one.reply(first, 503, "Service Unavailable", { tag: "x" });
    const second = await two.request(method);
    if (method === "INVITE") {
      const ack = await one.request("ACK");
      expect(branchOf(ack)).toBe(branchOf(first));
    }
    expect(branchOf(second)).not.toBe(branchOf(first));
    const withoutVia = (packet: Packet): string => packet.text.replace(/^Via:.*\r\n/m, "");
    expect(withoutVia(second)).toBe(withoutVia(first));
    two.reply(second, 486, "Busy Here", { tag: "y" });
    expect(await asking).toBe(486);
  });

  it("the last 503 is the answer", async () => {
    dns.zone = zoneOf(service(one.port, 1), service(two.port, 2));
    const calling = failure(srf.createUAC("sip:bob@op.test", { localSdp: sdp(5000) }));
    one.reply(await one.request("INVITE"), 503, "Service Unavailable", { tag: "x" });
    two.reply(await two.request("INVITE"), 503, "Two", { tag: "y" });
    expect(await calling).toMatchObject({ status: 503 });
    expect(one.count(isRequest("INVITE"))).toBe(1);
  });

  it("after a silence of 64*T1", async () => {
    dns.zone = zoneOf(service(one.port, 1), service(two.port, 2));
    const calling = failure(srf.createUAC("sip:bob@op.test", { localSdp: sdp(5000) }));
    await one.request("INVITE");
    two.reply(await two.request("INVITE"), 486, "Busy Here", { tag: "y" });
    expect((await calling).status).toBe(486);
    expect(one.count(isRequest("INVITE"))).toBeGreaterThan(3);
  });

  it("where nobody listens on the first, long before that", async () => {
    dns.zone = zoneOf(service(await deadPort(), 1), service(two.port, 2));
    const slow = await startTestEngine(closings, { dnsServers: [dns.address], t1Ms: 250 });
    const app = await slow.connect();
    const calling = failure(app.createUAC("sip:bob@op.test", { localSdp: sdp(5000) }));
    // 64*T1 would be 16 s.
    two.reply(await two.request("INVITE", 8_000), 486, "Busy Here", { tag: "y" });
    expect((await calling).status).toBe(486);
  });

  it("where nobody listens at all: 503 and no wait", async () => {
    const slow = await startTestEngine(closings, { t1Ms: 250 });
    const app = await slow.connect();
    const began = performance.now();
    const dead = await deadPort();
    expect((await failure(app.createUAC(`sip:bob@127.0.0.1:${dead}`, { localSdp: sdp(5000) }))).status).toBe(503);
    expect(performance.now() - began).toBeLessThan(10_000);
    await expect.poll(() => slow.engine.stats().transport.probes).toBe(0);
  });

  it("a silent one that is there is repeated to for 64*T1: a probe that nobody answers says nothing", async () => {
    const calling = failure(srf.createUAC(`sip:bob@127.0.0.1:${one.port}`, { localSdp: sdp(5000) }));
    expect((await calling).status).toBe(408);
    expect(one.count(isRequest("INVITE"))).toBeGreaterThan(3);
  });

  it("not after it has rung: what follows is that server's answer", async () => {
    dns.zone = zoneOf(service(one.port, 1), service(two.port, 2));
    const calling = failure(srf.createUAC("sip:bob@op.test", { localSdp: sdp(5000) }));
    const callee = new RawCallee(one, await one.request("INVITE"));
    callee.reply(180, "Ringing");
    callee.reply(503, "Service Unavailable");
    expect((await calling).status).toBe(503);
    expect(two.received).toEqual([]);
  });

  it("not for a cancelled INVITE, and the CANCEL goes to the target in use", async () => {
    const three = await RawPeer.open(closings);
    dns.zone = zoneOf(service(one.port, 1), service(two.port, 2), service(three.port, 3));
    let sent: SrfMessage | undefined;
    const calling = failure(
      srf.createUAC(
        "sip:bob@op.test",
        { localSdp: sdp(5000) },
        {
          cbRequest: (_error, req) => {
            sent = req;
          },
        },
      ),
    );
    one.reply(await one.request("INVITE"), 503, "Service Unavailable", { tag: "x" });
    const callee = new RawCallee(two, await two.request("INVITE"));
    callee.reply(100, "Trying");
    await expect.poll(() => sip.engine.stats().counters.responsesIn).toBe(1);
    sent?.cancel();
    const cancel = await two.request("CANCEL");
    expect(branchOf(cancel)).toBe(branchOf(callee.invite));
    two.reply(cancel, 200, "OK");
    callee.reply(503, "Service Unavailable");
    expect((await calling).status).toBe(503);
    expect(three.received).toEqual([]);
    expect(one.count(isRequest("CANCEL"))).toBe(0);
    expect(one.count(isRequest("INVITE"))).toBe(1);
  });

  it("within a dialog too: a BYE goes on to the next address of the Contact", async () => {
    dns.zone = zoneOf(service(one.port, 1), service(two.port, 2));
    const calling = srf.createUAC(`sip:bob@127.0.0.1:${one.port}`, { localSdp: sdp(5000) });
    const callee = new RawCallee(one, await one.request("INVITE"));
    callee.reply(200, "OK", { body: sdp(4000), contact: "<sip:bob@op.test>" });
    const dialog = await calling;
    await one.request("ACK");
    const ended = dialog.destroy();
    const first = await one.request("BYE");
    one.reply(first, 503, "Service Unavailable");
    const second = await two.request("BYE");
    expect(second.header("CSeq")).toBe(first.header("CSeq"));
    expect(branchOf(second)).not.toBe(branchOf(first));
    two.reply(second, 200, "OK");
    await ended;
  });
});

describe("name servers", () => {
  const ask = async (uri: string): Promise<number> =>
    (await failure(srf.createUAC(uri, { localSdp: sdp(5000) }))).status;

  it("are asked once for the time to live, and answer many calls at once", async () => {
    dns.zone = zoneOf(service(one.port));
    const calls = [1, 2, 3, 4].map(() => ask("sip:bob@op.test"));
    for (const _call of calls) {
      one.reply(await one.request("INVITE"), 486, "Busy Here", { tag: "t" });
    }
    expect(await Promise.all(calls)).toEqual([486, 486, 486, 486]);
    expect(dns.times("SRV _sip._udp.op.test")).toBe(1);
    expect(dns.times("A host.test")).toBe(1);
  });

  it.each(["silent", "failing"] as const)(
    "that are %s: what was known before is used, else 503 in time",
    async (mood) => {
      dns.zone = { "A op.test": ["127.0.0.1"] };
      dns.ttlSeconds = 0;
      const known = ask(`sip:bob@op.test:${one.port}`);
      one.reply(await one.request("INVITE"), 486, "Busy Here", { tag: "t" });
      expect(await known).toBe(486);
      dns.mood = mood;
      expect(await ask("sip:bob@other.test")).toBe(503);
      // The answer was kept for the shortest time there is, a second.
      const stale = ask(`sip:bob@op.test:${one.port}`);
      one.reply(await one.request("INVITE"), 487, "Gone", { tag: "t" });
      expect(await stale).toBe(487);
    },
  );
});

describe("requests over 1,300 bytes (RFC 3261 §18.1.1)", () => {
  const large = `${sdp(5000)}${"a=candidate:1 1 UDP 1 192.0.2.1 9 typ host\r\n".repeat(30)}`;

  it("go by TCP to a peer that is called by UDP, with a Via that says so, and the CANCEL with them", async () => {
    const peer = await RawTcpPeer.open(closings);
    let sent: SrfMessage | undefined;
    const calling = failure(
      srf.createUAC(
        `sip:bob@127.0.0.1:${peer.port}`,
        { localSdp: large },
        {
          cbRequest: (_error, req) => {
            sent = req;
          },
        },
      ),
    );
    const invite = await peer.take("INVITE", isRequest("INVITE"));
    expect(invite.body).toBe(large);
    expect(invite.header("Via")).toContain(`SIP/2.0/TCP 127.0.0.1:${sip.port};`);
    invite.connection?.write(replyText(invite, 180, "Ringing", { tag: "t" }));
    await expect.poll(() => sip.engine.stats().counters.responsesIn).toBe(1);
    sent?.cancel();
    const cancel = await peer.take("CANCEL", isRequest("CANCEL"));
    expect(cancel.header("Via")).toBe(invite.header("Via"));
    cancel.connection?.write(replyText(cancel, 200, "OK"));
    invite.connection?.write(replyText(invite, 487, "Request Terminated", { tag: "t" }));
    expect((await calling).status).toBe(487);
    expect(sip.engine.stats().transport.sendFailures).toBe(0);
  });

  it("go by UDP after all where TCP is refused, and are not tried again", async () => {
    for (const failures of [1, 1]) {
      const calling = failure(srf.createUAC(`sip:bob@127.0.0.1:${one.port}`, { localSdp: large }));
      const invite = await one.request("INVITE");
      expect(invite.body).toBe(large);
      expect(invite.header("Via")).toContain("SIP/2.0/UDP");
      one.reply(invite, 486, "Busy Here", { tag: "t" });
      expect((await calling).status).toBe(486);
      expect(sip.engine.stats().transport.sendFailures).toBe(failures);
    }
  });

  it("an ACK that carries the answer goes the same way", async () => {
    const peer = await RawTcpPeer.open(closings);
    const datagrams = await RawPeer.open(closings);
    const calling = srf.createUAC(`sip:bob@127.0.0.1:${datagrams.port}`, { noAck: true });
    const callee = new RawCallee(datagrams, await datagrams.request("INVITE"));
    callee.reply(200, "OK", { body: sdp(4000), contact: `<sip:bob@127.0.0.1:${peer.port}>` });
    const { ack } = (await calling) as unknown as { ack: (answer: string) => Promise<unknown> };
    const acknowledged = ack(large);
    const packet = await peer.take("ACK", isRequest("ACK"));
    expect(packet.body).toBe(large);
    expect(packet.header("Via")).toContain("SIP/2.0/TCP");
    await acknowledged;
    callee.send("BYE");
    await datagrams.response(200, "BYE");
  });

  it("stay with UDP where the engine is told so", async () => {
    const plain = await startTestEngine(closings, { largeByTcp: false });
    const app = await plain.connect();
    const peer = await RawTcpPeer.open(closings);
    const calling = failure(app.createUAC(`sip:bob@127.0.0.1:${one.port}`, { localSdp: large }));
    one.reply(await one.request("INVITE"), 486, "Busy Here", { tag: "t" });
    expect((await calling).status).toBe(486);
    expect(plain.engine.stats().transport.sendFailures).toBe(0);
    expect(peer.connections).toHaveLength(0);
  });
});
