import { networkInterfaces } from "node:os";
import { fileURLToPath } from "node:url";

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";

import { Authority } from "../support/certificates.ts";
import { DnsServer } from "../support/dns-server.ts";
import { temporaryFolder } from "../support/folder.ts";
import type { TemporaryFolder } from "../support/folder.ts";
import { claimPort } from "../support/ports.ts";
import { expectSuccess, runSipp, Sipp } from "../support/sipp.ts";
import type { Packet, SrfDialog, SrfInstance, SrfMessage, TestEngine } from "./engine-support.ts";
import {
  Closings,
  failure,
  RawCall,
  RawCallee,
  RawPeer,
  RawTcpPeer,
  replyText,
  sdp,
  startTestEngine,
} from "./engine-support.ts";

const hasIpv6 = Object.values(networkInterfaces()).some((all) => all?.some(({ address }) => address === "::1"));
if (!hasIpv6) {
  console.warn("IPv6 tests are left out: this machine has no ::1");
}

const closings = new Closings();
let folder: TemporaryFolder;
let authority: Authority;

beforeAll(async () => {
  folder = await temporaryFolder("ipv6");
  authority = await Authority.create(folder.path);
});

afterAll(async () => {
  await folder[Symbol.asyncDispose]();
});

afterEach(async () => {
  await closings.closeAll();
});

const scenario = (name: string): string => fileURLToPath(new URL(`sipp/engine/${name}.xml`, import.meta.url));
const isRequest =
  (method: string) =>
  (packet: Packet): boolean =>
    packet.status === 0 && packet.method === method;

const loopback = (address = "::1") =>
  [
    { protocol: "udp", address, port: 0 },
    { protocol: "tcp", address, port: 0 },
  ] as const;

describe.runIf(hasIpv6)("on ::1", () => {
  let sip: TestEngine;
  let srf: SrfInstance;

  beforeEach(async () => {
    // However it is written.
    sip = await startTestEngine(closings, { listen: loopback("0:0:0:0:0:0:0:1"), sources: ["::1/128"], t1Ms: 100 });
    srf = await sip.connect();
  });

  it("a call in: received without brackets, Contact with them, and what drachtio-srf is told", async () => {
    let invited: SrfMessage | undefined;
    const answered = new Promise<SrfDialog>((resolve) => {
      srf.invite((req, res) => {
        invited = req;
        void srf.createUAS(req, res, { localSdp: sdp(5000) }).then(resolve);
      });
    });
    await expect.poll(() => sip.engine.stats().wire.routes).toBe(1);
    const peer = await RawPeer.open(closings, "::1");
    const call = new RawCall(peer, sip.port);
    const via = `Via: SIP/2.0/UDP [2001:db8::9]:5099;branch=z9hG4bKipv6;rport`;
    const ok = await call.invite({ body: sdp(4000), via });
    expect(ok.header("Via")).toBe(`SIP/2.0/UDP [2001:db8::9]:5099;branch=z9hG4bKipv6;rport=${peer.port};received=::1`);
    expect(ok.header("Contact")).toBe(`<sip:[::1]:${sip.port}>`);
    call.send("ACK");
    const dialog = await answered;
    expect(invited?.source_address).toBe("::1");
    const ended = dialog.destroy();
    const bye = await peer.request("BYE");
    expect(bye.startLine).toBe(`BYE sip:peer@[::1]:${peer.port} SIP/2.0`);
    expect(bye.header("Via")).toContain(`SIP/2.0/UDP [::1]:${sip.port};`);
    peer.reply(bye, 200, "OK");
    await ended;
  });

  it.each(["udp", "tcp"] as const)("a call out to an address in brackets over %s", async (protocol) => {
    const [datagrams, stream] = [
      await RawPeer.open(closings, "::1"),
      await RawTcpPeer.open(closings, { address: "::1" }),
    ];
    const port = protocol === "udp" ? datagrams.port : stream.port;
    const calling = failure(
      srf.createUAC(`sip:bob@[0:0::1]:${port};transport=${protocol}`, {
        localSdp: sdp(5000),
        headers: { From: "sip:123@localhost", Contact: "<sip:123@localhost>" },
      }),
    );
    const invite =
      protocol === "udp" ? await datagrams.request("INVITE") : await stream.take("INVITE", isRequest("INVITE"));
    expect(invite.header("Via")).toContain(`SIP/2.0/${protocol.toUpperCase()} [::1]:${sip.port};`);
    expect(invite.header("From")).toMatch(new RegExp(`^<?sip:123@\\[::1\\]:${sip.port}>?;tag=`));
    expect(invite.header("Contact")).toContain(`sip:123@[::1]:${sip.port}`);
    const busy = replyText(invite, 486, "Busy Here", { tag: "t" });
    if (protocol === "udp") {
      datagrams.send(busy, invite.from.port);
    } else {
      invite.connection?.write(busy);
    }
    expect((await calling).status).toBe(486);
  });

  it("does not call itself, however its address is written", async () => {
    const { message } = await failure(srf.createUAC(`sip:x@[0::0:1]:${sip.port}`, { localSdp: sdp(5000) }));
    expect(message).toContain("can not send request to myself");
  });

  it("has no way to an IPv4 address", async () => {
    const { message } = await failure(srf.createUAC("sip:x@127.0.0.1:5060", { localSdp: sdp(5000) }));
    expect(message).toContain("requested protocol/transport not available");
  });

  it("notices that nobody listens", async () => {
    const dead = await claimPort();
    closings.add(async () => dead[Symbol.asyncDispose]());
    const { status } = await failure(srf.createUAC(`sip:x@[::1]:${dead.port}`, { localSdp: sdp(5000) }));
    expect(status).toBe(503);
  });

  it("takes an AAAA record for a name", async () => {
    const dns = await DnsServer.start({ "AAAA six.test": ["::1"], "A six.test": ["127.0.0.1"] });
    closings.add(async () => dns[Symbol.asyncDispose]());
    const named = await startTestEngine(closings, { listen: loopback(), dnsServers: [dns.address] });
    const app = await named.connect();
    const peer = await RawPeer.open(closings, "::1");
    const calling = failure(app.createUAC(`sip:bob@six.test:${peer.port}`, { localSdp: sdp(5000) }));
    peer.reply(await peer.request("INVITE"), 404, "Not Found", { tag: "t" });
    expect((await calling).status).toBe(404);
    expect(dns.asked).toEqual(["AAAA six.test"]);
  });

  it.each(["udp", "tcp"] as const)("SIPp calls in over %s, twenty times", async (protocol) => {
    let ended = 0;
    srf.invite((req, res) => {
      res.send(180);
      void srf.createUAS(req, res, { localSdp: sdp(5000) }).then((dialog) => {
        dialog.on("destroy", () => (ended += 1));
      });
    });
    await expect.poll(() => sip.engine.stats().wire.routes).toBe(1);
    const target = `[::1]:${sip.port}`;
    const options = { scenario: scenario("caller"), address: "::1", protocol, calls: 20, callsPerSecond: 10 };
    expectSuccess(await runSipp({ ...options, target }));
    await expect.poll(() => ended).toBe(20);
  });

  it("SIPp is called, ten times", async () => {
    await using sipp = await Sipp.start({ scenario: scenario("callee"), address: "::1", calls: 10 });
    for (let call = 0; call < 10; call += 1) {
      const dialog = await srf.createUAC(`sip:${call}@[::1]:${sipp.port}`, { localSdp: sdp(5000) });
      await dialog.destroy();
    }
    expectSuccess(await sipp.finished());
  });
});

describe.runIf(hasIpv6)("TLS on ::1", () => {
  it("a certificate names the address", async () => {
    const [own, remote] = [await authority.sign("engine6", "IP:::1"), await authority.sign("remote6", "IP:::1")];
    const tls = { certificate: own.certificate, key: own.key, authorities: authority.certificate };
    const sip = await startTestEngine(closings, { listen: [{ protocol: "tls", address: "::1", port: 0, tls }] });
    const srf = await sip.connect();
    const peer = await RawTcpPeer.open(closings, {
      address: "::1",
      tls: { cert: remote.certificate, key: remote.key },
    });
    const calling = failure(srf.createUAC(`sips:bob@[::1]:${peer.port}`, { localSdp: sdp(5000) }));
    const invite = await peer.take("INVITE", isRequest("INVITE"));
    expect(invite.header("Via")).toContain(`SIP/2.0/TLS [::1]:${sip.port};`);
    expect(invite.header("Contact")).toBe(`<sips:[::1]:${sip.port}>`);
    invite.connection?.write(replyText(invite, 486, "Busy Here", { tag: "t" }));
    expect((await calling).status).toBe(486);
  });
});

describe.runIf(hasIpv6)("on the wildcards", () => {
  it("`::` alone takes both families, and shows each peer the address he reached", async () => {
    const sip = await startTestEngine(closings, { listen: loopback("::"), sources: ["127.0.0.1", "::1"], t1Ms: 100 });
    const srf = await sip.connect();
    for (const address of ["127.0.0.1", "::1"]) {
      const peer = await RawPeer.open(closings, address);
      const calling = srf.createUAC(`sip:bob@${peer.host}:${peer.port}`, { localSdp: sdp(5000) });
      const invite = await peer.request("INVITE");
      expect(invite.header("Via")).toContain(`SIP/2.0/UDP ${peer.host}:${sip.port};`);
      const callee = new RawCallee(peer, invite);
      callee.reply(200, "OK", { body: sdp(4000) });
      const dialog = await calling;
      await peer.request("ACK");
      const ended = dialog.destroy();
      peer.reply(await peer.request("BYE"), 200, "OK");
      await ended;
    }
  });

  it("`::` and 0.0.0.0 on one port stand beside each other", async () => {
    const port = await claimPort();
    await port[Symbol.asyncDispose]();
    const listen = (["udp", "tcp"] as const).flatMap((protocol) =>
      ["::", "0.0.0.0"].map((address) => ({ protocol, address, port: port.port })),
    );
    const sip = await startTestEngine(closings, { listen });
    const srf = await sip.connect();
    for (const address of ["127.0.0.1", "::1"]) {
      const peer = await RawPeer.open(closings, address);
      const calling = failure(srf.createUAC(`sip:bob@${peer.host}:${peer.port}`, { localSdp: sdp(5000) }));
      const invite = await peer.request("INVITE");
      expect(invite.from.port).toBe(port.port);
      peer.reply(invite, 486, "Busy Here", { tag: "t" });
      expect((await calling).status).toBe(486);
    }
  });
});

it.runIf(hasIpv6)("a source that is not on the list gets no answer", async () => {
  const sip = await startTestEngine(closings, { listen: loopback(), sources: ["2001:db8::/32", "127.0.0.1"] });
  const peer = await RawPeer.open(closings, "::1");
  new RawCall(peer, sip.port).send("OPTIONS");
  await expect.poll(() => sip.engine.stats().transport.unlisted).toBe(1);
  expect(sip.engine.stats().transport.messagesOut).toBe(0);
});
