import { once } from "node:events";
import { connect as connectTcp, createServer } from "node:net";
import type { AddressInfo, Socket } from "node:net";
import { connect as connectTls } from "node:tls";
import type { TLSSocket } from "node:tls";

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";

import { Authority } from "../support/certificates.ts";
import type { Certificate } from "../support/certificates.ts";
import { temporaryFolder } from "../support/folder.ts";
import type { TemporaryFolder } from "../support/folder.ts";
import { waitFor } from "../support/wait.ts";
import type { Packet, SrfDialog, SrfInstance, SrfMessage, TestEngine } from "./engine-support.ts";
import {
  Closings,
  failure,
  RawPeer,
  RawTcpPeer,
  replyText,
  sdp,
  startTestEngine,
  tagOf,
  unique,
  uriOf,
} from "./engine-support.ts";

const closings = new Closings();
let folder: TemporaryFolder;
let authority: Authority;
let own: Certificate;
let remote: Certificate;
let stranger: Authority;
let sip: TestEngine;
let srf: SrfInstance;
let tlsPort: number;

beforeAll(async () => {
  folder = await temporaryFolder("tls");
  authority = await Authority.create(folder.path);
  stranger = await Authority.create(folder.path, "stranger");
  own = await authority.sign("engine", "DNS:engine.example,IP:127.0.0.1");
  // A certificate as RFC 5922 wants it: the SIP domain as a URI, while the host of the server is called otherwise.
  remote = await authority.sign("remote", "URI:sip:localhost,IP:127.0.0.1");
});

afterAll(async () => {
  await folder[Symbol.asyncDispose]();
});

const listen = (tls: Record<string, unknown> = {}) =>
  [
    { protocol: "udp", address: "127.0.0.1", port: 0 },
    { protocol: "tcp", address: "127.0.0.1", port: 0 },
    {
      protocol: "tls",
      address: "127.0.0.1",
      port: 0,
      tls: { certificate: own.certificate, key: own.key, authorities: authority.certificate, ...tls },
    },
  ] as const;

async function start(tls: Record<string, unknown> = {}): Promise<void> {
  sip = await startTestEngine(closings, { listen: listen(tls) });
  srf = await sip.connect();
  tlsPort = sip.engine.listening.find(({ protocol }) => protocol === "tls")?.port ?? 0;
}

afterEach(async () => {
  await closings.closeAll();
});

const isRequest =
  (method: string) =>
  (packet: Packet): boolean =>
    packet.status === 0 && packet.method === method;

const believing = (): { ca: string; servername: string } => ({
  ca: authority.certificate,
  servername: "engine.example",
});

function request(
  method: string,
  ids: { uri: string; callId: string; fromTag: string; toTag?: string; seq: number; contact: string; port: number },
  body = "",
): string {
  const lines = [
    `${method} ${ids.uri} SIP/2.0`,
    `Via: SIP/2.0/TLS 127.0.0.1:${ids.port};branch=z9hG4bK${unique("b")};rport`,
    "Max-Forwards: 70",
    `From: <sip:alice@127.0.0.1>;tag=${ids.fromTag}`,
    `To: <sip:100@127.0.0.1>${ids.toTag === undefined ? "" : `;tag=${ids.toTag}`}`,
    `Call-ID: ${ids.callId}`,
    `CSeq: ${ids.seq} ${method}`,
    `Contact: <${ids.contact}>`,
    ...(body === "" ? [] : ["Content-Type: application/sdp"]),
    `Content-Length: ${body.length}`,
  ];
  return `${lines.join("\r\n")}\r\n\r\n${body}`;
}

/** A server of the other side whose certificate the engine believes. */
const server = (certificate: Certificate = remote): Promise<RawTcpPeer> =>
  RawTcpPeer.open(closings, { tls: { cert: certificate.certificate, key: certificate.key } });

describe("calls over TLS", () => {
  beforeEach(async () => {
    await start();
  });

  it.each([
    ["sips", "sips:100@127.0.0.1", "sips:alice@127.0.0.1:9"],
    ["sip with transport=tls", "sip:100@127.0.0.1;transport=tls", "sip:alice@127.0.0.1:9;transport=tls"],
  ])(
    "to the engine, %s: Via, Contact and meta tokens say it; both ways on the one connection",
    async (_what, uri, contact) => {
      const secure = uri.startsWith("sips:");
      let invited: SrfMessage | undefined;
      const answered = new Promise<SrfDialog>((resolve) => {
        srf.invite((req, res) => {
          invited = req;
          void srf.createUAS(req, res, { localSdp: sdp(5000) }).then(resolve);
        });
      });
      const peer = await RawTcpPeer.open(closings);
      const socket = await peer.dial(tlsPort, believing());
      const ids = { uri, callId: unique("c"), fromTag: unique("f"), seq: 1, contact, port: peer.port };
      socket.write(request("INVITE", ids, sdp(4000)));
      const ok = await peer.take("200", (packet) => packet.status === 200);
      expect(ok.header("Contact")).toBe(
        secure ? `<sips:127.0.0.1:${tlsPort}>` : `<sip:127.0.0.1:${tlsPort};transport=tls>`,
      );
      expect(ok.header("Via")).toContain(`;rport=${socket.localPort};received=127.0.0.1`);
      expect(invited?.protocol).toBe("tls");
      expect(invited?.source_port).toBe(socket.localPort);
      const inDialog = { ...ids, toTag: tagOf(ok.header("To")), uri: uriOf(ok.header("Contact")) };
      socket.write(request("ACK", inDialog));
      const dialog = await answered;
      // The Contact leads nowhere (port 9): what the peer has open is the only way.
      const ended = dialog.destroy();
      const bye = await peer.take("BYE", isRequest("BYE"));
      expect(bye.connection).toBe(socket);
      expect(bye.startLine).toBe(`BYE ${contact} SIP/2.0`);
      expect(bye.header("Via")).toContain(`SIP/2.0/TLS 127.0.0.1:${tlsPort};`);
      socket.write(replyText(bye, 200, "OK"));
      await ended;
      expect(sip.engine.stats().transport.tcpConnections).toBe(1);
    },
  );

  it("from the engine to a sips URI: TLS with SNI, a sips Contact, and the whole call on one connection", async () => {
    const peer = await server();
    const calling = srf.createUAC(`sips:bob@localhost:${peer.port}`, {
      localSdp: sdp(5000),
      headers: { From: "sip:123@localhost", Contact: "<sip:123@localhost>" },
    });
    const invite = await peer.take("INVITE", isRequest("INVITE"));
    expect((invite.connection as TLSSocket & { servername: string }).servername).toBe("localhost");
    expect((invite.connection as TLSSocket).getProtocol()).toMatch(/^TLSv1\.[23]$/);
    expect(invite.header("Via")).toContain(`SIP/2.0/TLS 127.0.0.1:${tlsPort};`);
    expect(invite.header("Contact")).toBe(`<sips:123@127.0.0.1:${tlsPort}>`);
    invite.connection?.write(
      replyText(invite, 200, "OK", { tag: "t", contact: `<sips:bob@127.0.0.1:${peer.port}>`, body: sdp(4000) }),
    );
    const dialog = await calling;
    await peer.take("ACK", isRequest("ACK"));
    const ended = dialog.destroy();
    const bye = await peer.take("BYE", isRequest("BYE"));
    expect(bye.startLine).toBe(`BYE sips:bob@127.0.0.1:${peer.port} SIP/2.0`);
    bye.connection?.write(replyText(bye, 200, "OK"));
    await ended;
    expect(peer.connections).toHaveLength(1);
  });

  it("a server that is lost has to be the same domain again, although its Contact is an address", async () => {
    const peer = await server(await authority.sign("by-name", "URI:sip:localhost"));
    const calling = srf.createUAC(`sips:bob@localhost:${peer.port}`, { localSdp: sdp(5000) });
    const invite = await peer.take("INVITE", isRequest("INVITE"));
    const contact = `<sips:bob@127.0.0.1:${peer.port}>`;
    invite.connection?.write(replyText(invite, 200, "OK", { tag: "t", contact, body: sdp(4000) }));
    const dialog = await calling;
    await peer.take("ACK", isRequest("ACK"));
    invite.connection?.destroy();
    await expect.poll(() => sip.engine.stats().transport.tcpConnections).toBe(0);
    const ended = dialog.destroy();
    const bye = await peer.take("BYE", isRequest("BYE"));
    bye.connection?.write(replyText(bye, 200, "OK"));
    await ended;
    expect(peer.connections).toHaveLength(2);
  });

  it("a sips request that came over TCP, past a proxy, gets a Contact of the TLS listener", async () => {
    srf.invite((req, res) => {
      void srf.createUAS(req, res, { localSdp: sdp(5000) }).catch(() => undefined);
    });
    await expect.poll(() => sip.engine.stats().wire.routes).toBe(1);
    const peer = await RawTcpPeer.open(closings);
    const socket = await peer.dial(sip.port);
    const ids = { callId: unique("c"), fromTag: unique("f"), seq: 1, contact: "sips:a@127.0.0.1:9", port: peer.port };
    const invite = request("INVITE", { ...ids, uri: "sips:100@127.0.0.1" }, sdp(4000)).replace(
      "SIP/2.0/TLS",
      "SIP/2.0/TCP",
    );
    socket.write(invite);
    const ok = await peer.take("200", (packet) => packet.status === 200);
    expect(ok.header("Contact")).toBe(`<sips:127.0.0.1:${tlsPort}>`);
    const bye = { ...ids, toTag: tagOf(ok.header("To")), uri: uriOf(ok.header("Contact")) };
    socket.write(request("ACK", bye));
    socket.write(request("BYE", { ...bye, seq: 2 }));
    await peer.take("200 BYE", (packet) => packet.status === 200 && packet.method === "BYE");
  });

  it("transport=tls without sips: TLS, a sip Contact with the transport", async () => {
    const peer = await server();
    const calling = failure(srf.createUAC(`sip:bob@127.0.0.1:${peer.port};transport=tls`, { localSdp: sdp(5000) }));
    const invite = await peer.take("INVITE", isRequest("INVITE"));
    expect(invite.header("Contact")).toBe(`<sip:127.0.0.1:${tlsPort};transport=tls>`);
    invite.connection?.write(replyText(invite, 486, "Busy Here", { tag: "t" }));
    expect((await calling).status).toBe(486);
    expect((await peer.take("ACK", isRequest("ACK"))).connection).toBe(invite.connection);
  });

  it("a sips URI never goes over anything but TLS, whatever the proxy is called", async () => {
    const [plain, peer, datagrams] = [await RawTcpPeer.open(closings), await server(), await RawPeer.open(closings)];
    const refused = await failure(
      srf.createUAC(`sips:bob@127.0.0.1:${datagrams.port};transport=udp`, { localSdp: sdp(1) }),
    );
    expect(refused.message).toContain("requested protocol/transport not available");
    const toPlain = await failure(
      srf.createUAC(`sips:bob@127.0.0.1:${plain.port};transport=tcp`, { localSdp: sdp(1) }),
    );
    // It does not understand what it is told, and says nothing.
    expect(toPlain.status).toBe(408);
    const proxied = failure(
      srf.createUAC("sips:bob@far.example", { localSdp: sdp(1), proxy: `sip:127.0.0.1:${peer.port};transport=tcp` }),
    );
    const invite = await peer.take("INVITE", isRequest("INVITE"));
    expect(invite.startLine).toBe("INVITE sips:bob@far.example SIP/2.0");
    expect(invite.header("Contact")).toMatch(/^<sips:/);
    invite.connection?.write(replyText(invite, 404, "Not Found", { tag: "t" }));
    expect((await proxied).status).toBe(404);
    expect(plain.received).toEqual([]);
    expect(datagrams.received).toEqual([]);
  });

  it("`maddr` says where a proxy is, and the certificate there has to name the proxy's host", async () => {
    const peer = await server(await authority.sign("pinned", "DNS:ops.example"));
    const proxied = (uri: string, host: string): Promise<{ status?: number }> =>
      failure(
        srf.createUAC(uri, { localSdp: sdp(1), proxy: `sip:${host}:${peer.port};transport=tls;maddr=127.0.0.1` }),
      );
    for (const uri of ["sip:bob@far.example;transport=tls", "sips:bob@far.example"]) {
      const calling = proxied(uri, "ops.example");
      const invite = await peer.take("INVITE", isRequest("INVITE"));
      expect(invite.startLine).toBe(`INVITE ${uri} SIP/2.0`);
      expect((invite.connection as TLSSocket & { servername: string }).servername).toBe("ops.example");
      invite.connection?.write(replyText(invite, 486, "Busy Here", { tag: "t" }));
      expect((await calling).status).toBe(486);
    }
    expect((await proxied("sip:bob@far.example;transport=tls", "other.example")).status).toBe(503);
    // That of a request URI is somebody else's word.
    const own = `sip:bob@127.0.0.9:${peer.port};transport=tls;maddr=127.0.0.1`;
    expect((await failure(srf.createUAC(own, { localSdp: sdp(1) }))).status).toBe(503);
    expect(peer.received.filter(isRequest("INVITE"))).toHaveLength(2);
  });

  it("what is not SIP over TLS, or not TLS at all, harms nobody", async () => {
    const plain = connectTcp({ host: "127.0.0.1", port: tlsPort });
    plain.on("error", () => undefined);
    plain.write("OPTIONS sip:x SIP/2.0\r\n\r\n");
    await once(plain, "close");
    const cut: Socket = connectTcp({ host: "127.0.0.1", port: tlsPort });
    cut.on("error", () => undefined);
    await once(cut, "connect");
    cut.write(Buffer.from([0x16, 0x03, 0x01, 0x01, 0x00]));
    cut.destroy();
    await expect.poll(() => sip.engine.stats().transport.handshakesFailed).toBe(2);
    const peer = await RawTcpPeer.open(closings);
    const socket = await peer.dial(tlsPort, believing());
    socket.write("\r\n\r\n");
    const [pong] = (await once(socket, "data")) as [Buffer];
    expect(pong.toString()).toBe("\r\n");
  });

  it("a server that breaks off within the handshake is a 503, and nothing of the connection is left", async () => {
    const good = await server();
    /** Passes so many bytes of the server's and then closes its half, or breaks off. */
    const cutAfter = async (bytes: number, broken: boolean): Promise<number> => {
      const relay = createServer((socket) => {
        const behind = connectTcp({ host: "127.0.0.1", port: good.port });
        socket.on("error", () => undefined);
        behind.on("error", () => undefined);
        socket.on("data", (chunk) => behind.write(chunk));
        socket.on("close", () => behind.destroy());
        behind.once("data", (chunk: Buffer) => {
          socket.write(chunk.subarray(0, bytes), () => {
            if (broken) {
              socket.resetAndDestroy();
            } else {
              socket.end();
            }
          });
          behind.destroy();
        });
      });
      relay.listen(0, "127.0.0.1");
      await once(relay, "listening");
      closings.add(() => {
        relay.close();
      });
      return (relay.address() as AddressInfo).port;
    };
    const failed = sip.engine.stats().transport.handshakesFailed;
    const cuts = [
      { bytes: 0, broken: false },
      { bytes: 0, broken: true },
      { bytes: 100, broken: false },
      { bytes: 100, broken: true },
    ];
    for (const { bytes, broken } of cuts) {
      const uri = `sips:bob@127.0.0.1:${await cutAfter(bytes, broken)}`;
      const refused = await failure(srf.createUAC(uri, { localSdp: sdp(5000) }));
      expect(refused.status).toBe(503);
    }
    expect(sip.engine.stats().transport.handshakesFailed - failed).toBe(cuts.length);
    expect(sip.engine.stats().transport.tcpConnections).toBe(0);
  });

  it("nothing older than TLS 1.2 is spoken", async () => {
    const socket = connectTls({
      host: "127.0.0.1",
      port: tlsPort,
      ...believing(),
      minVersion: "TLSv1",
      maxVersion: "TLSv1.1",
      ciphers: "DEFAULT@SECLEVEL=0",
    });
    const [error] = (await once(socket, "error")) as [NodeJS.ErrnoException];
    expect(error.code).toMatch(/PROTOCOL_VERSION|UNSUPPORTED_PROTOCOL/);
  });

  it("an application sees the listener among the host ports", async () => {
    const again = await sip.connect();
    const ports = await new Promise<string>((resolve) => {
      again.disconnect();
      const next = once(again, "connect") as Promise<[unknown, string]>;
      again.connect({ host: "127.0.0.1", port: sip.engine.controlPort, secret: "a-secret-of-the-test" });
      void next.then(([, hostports]) => {
        resolve(hostports);
      });
    });
    expect(ports).toContain(`tls/127.0.0.1:${tlsPort}`);
  });
});

describe("the certificate of a server", () => {
  it.each([
    ["of another domain", () => authority.sign("elsewhere", "DNS:elsewhere.example"), "localhost"],
    ["with a wildcard", () => authority.sign("wild", "DNS:*.localhost,DNS:*"), "localhost"],
    ["of an authority nobody knows", () => stranger.sign("unknown", "DNS:localhost"), "localhost"],
    ["that expired", () => authority.sign("expired", "DNS:localhost", { days: -1 }), "localhost"],
    [
      "that names no address where an address was asked for",
      () => authority.sign("named", "DNS:localhost"),
      "127.0.0.1",
    ],
  ])("%s: 503, and not a byte of the request", async (_what, make, host) => {
    await start();
    const peer = await server(await make());
    const { status } = await failure(srf.createUAC(`sips:bob@${host}:${peer.port}`, { localSdp: sdp(5000) }));
    expect(status).toBe(503);
    expect(peer.received).toEqual([]);
    expect(sip.engine.stats().transport.handshakesFailed).toBe(1);
    expect(sip.engine.stats().transport.tcpConnections).toBe(0);
  });

  it("is not looked at where the configuration says so, which is warned of", async () => {
    const warnings: string[] = [];
    const log = {
      debug: () => undefined,
      info: () => undefined,
      warn: (message: string) => warnings.push(message),
      error: () => undefined,
    };
    sip = await startTestEngine(closings, { listen: listen({ verifyServers: false }), log });
    srf = await sip.connect();
    expect(warnings.join()).toContain("not verified");
    const peer = await server(await stranger.sign("anybody", "DNS:elsewhere.example"));
    const calling = failure(srf.createUAC(`sips:bob@127.0.0.1:${peer.port}`, { localSdp: sdp(5000) }));
    const invite = await peer.take("INVITE", isRequest("INVITE"));
    invite.connection?.write(replyText(invite, 603, "Decline", { tag: "t" }));
    expect((await calling).status).toBe(603);
  });

  it("two domains at one address get a connection each", async () => {
    await start();
    const peer = await server();
    for (const [index, host] of ["localhost", "127.0.0.1"].entries()) {
      const calling = failure(srf.createUAC(`sips:bob@${host}:${peer.port}`, { localSdp: sdp(5000) }));
      const invite = await peer.take("INVITE", isRequest("INVITE"));
      invite.connection?.write(replyText(invite, 486, "Busy Here", { tag: "t" }));
      expect((await calling).status).toBe(486);
      expect(peer.connections).toHaveLength(index + 1);
    }
  });

  it("that cannot be used by ourselves stops the start", async () => {
    const bad = startTestEngine(closings, { listen: listen({ key: remote.key }) });
    await expect(bad).rejects.toMatchObject({ code: "ELISTEN", message: expect.stringContaining("tls") as string });
  });
});

/** The other side closed the connection, with an alert or without. */
async function refusal(socket: TLSSocket): Promise<void> {
  await new Promise<void>((resolve) => {
    socket.on("error", () => undefined).on("close", () => resolve());
    socket.resume();
  });
}

describe("certificates of clients", () => {
  it("are demanded where the configuration says so", async () => {
    await start({ requireClientCertificate: true });
    const peer = await RawTcpPeer.open(closings);
    const client = await authority.sign("client", "DNS:client.example");
    const good = await peer.dial(tlsPort, { ...believing(), cert: client.certificate, key: client.key });
    good.write("\r\n\r\n");
    await once(good, "data");
    const without = connectTls({ host: "127.0.0.1", port: tlsPort, ...believing() });
    // With TLS 1.3 the refusal comes when the client believes to be done.
    await refusal(without);
    const foreign = await stranger.sign("foreigner", "DNS:client.example");
    const signedByOthers = connectTls({
      host: "127.0.0.1",
      port: tlsPort,
      ...believing(),
      cert: foreign.certificate,
      key: foreign.key,
    });
    await refusal(signedByOthers);
    await waitFor(() => sip.engine.stats().transport.tcpConnections === 1, { what: "the good one alone" });
  });

  it("are shown by the engine to a server that demands them", async () => {
    await start();
    const peer = await RawTcpPeer.open(closings, {
      tls: {
        cert: remote.certificate,
        key: remote.key,
        ca: authority.certificate,
        requestCert: true,
        rejectUnauthorized: true,
      },
    });
    const calling = failure(srf.createUAC(`sips:bob@127.0.0.1:${peer.port}`, { localSdp: sdp(5000) }));
    const invite = await peer.take("INVITE", isRequest("INVITE"));
    expect((invite.connection as TLSSocket).getPeerCertificate().subject.CN).toBe("engine");
    invite.connection?.write(replyText(invite, 486, "Busy Here", { tag: "t" }));
    expect((await calling).status).toBe(486);
  });
});
