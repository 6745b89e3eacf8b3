import { createSocket, type Socket as UdpSocket } from "node:dgram";
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { afterEach, describe, expect, it } from "vitest";

import { silentLog } from "../../src/engine/options.ts";
import { responseTo } from "../../src/engine/sip/answer.ts";
import { Headers, SipRequest, type SipMessage } from "../../src/engine/sip/message.ts";
import { defaultMessageLimits } from "../../src/engine/sip/parse.ts";
import { type Clock, createSystemClock, sipTimers } from "../../src/engine/timers.ts";
import {
  ListenError,
  type Source,
  type Target,
  TransportLayer,
  type TransportOptions,
} from "../../src/engine/transport/index.ts";
import { plainAddress, SourceError, Sources } from "../../src/engine/transport/sources.ts";
import { defaultTcpLimits, type TcpLimits } from "../../src/engine/transport/tcp-connection.ts";
import { TransactionLayer } from "../../src/engine/txn/index.ts";
import { waitFor } from "../support/wait.ts";
import { ManualClock, seededRandom } from "./engine-clock.ts";

const errors: unknown[] = [];
const systemClock = createSystemClock((error) => errors.push(error));
const both = [
  { protocol: "udp", address: "127.0.0.1", port: 0 },
  { protocol: "tcp", address: "127.0.0.1", port: 0 },
] as const;

const closers: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0).toReversed()) {
    await close();
  }
  expect(errors.splice(0)).toEqual([]);
});

interface Rig {
  readonly transport: TransportLayer;
  readonly port: number;
  readonly got: { message: SipMessage; source: Source }[];
}

async function open(
  options: Partial<TransportOptions> & { tcp?: Partial<TcpLimits>; clock?: Clock } = {},
): Promise<Rig> {
  const { tcp, ...rest } = options;
  const transport = new TransportLayer({
    listen: both,
    sources: "any",
    clock: systemClock,
    log: silentLog,
    limits: { message: defaultMessageLimits, tcp: { ...defaultTcpLimits, ...tcp } },
    ...rest,
  });
  const got: Rig["got"] = [];
  transport.onMessage = (message, source) => {
    got.push({ message, source });
  };
  await transport.start();
  closers.push(async () => {
    await transport.close();
    expect(transport.stats()).toMatchObject({ udpSockets: 0, tcpConnections: 0, faults: 0 });
  });
  return { transport, port: transport.listeners()[0]?.port ?? 0, got };
}

interface UdpPeer {
  readonly socket: UdpSocket;
  readonly port: number;
  readonly got: string[];
  send(text: string | Buffer, to: number): void;
}

async function udpPeer(): Promise<UdpPeer> {
  const socket = createSocket("udp4");
  const got: string[] = [];
  socket.on("message", (bytes) => got.push(bytes.toString()));
  await new Promise<void>((resolve) => {
    socket.bind(0, "127.0.0.1", resolve);
  });
  closers.push(() => {
    socket.close();
  });
  return {
    socket,
    port: socket.address().port,
    got,
    send: (text, to) => {
      socket.send(text, to, "127.0.0.1");
    },
  };
}

interface TcpPeer {
  readonly socket: Socket;
  readonly got: () => string;
  readonly ended: () => boolean;
}

function watch(socket: Socket): TcpPeer {
  let text = "";
  let over = false;
  socket.on("data", (chunk) => (text += chunk.toString()));
  socket.on("end", () => (over = true));
  socket.on("close", () => (over = true));
  socket.on("error", () => (over = true));
  closers.push(() => {
    socket.destroy();
  });
  return { socket, got: () => text, ended: () => over };
}

async function tcpPeer(port: number, localAddress = "127.0.0.1"): Promise<TcpPeer> {
  const socket = connect({ port, host: "127.0.0.1", localAddress, allowHalfOpen: true, noDelay: true });
  const peer = watch(socket);
  await new Promise<void>((resolve, reject) => {
    socket.once("connect", resolve);
    socket.once("error", reject);
  });
  return peer;
}

async function tcpServer(): Promise<{ port: number; accepted: TcpPeer[]; server: Server }> {
  const accepted: TcpPeer[] = [];
  const server = createServer({ allowHalfOpen: true }, (socket) => accepted.push(watch(socket)));
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  closers.push(() => {
    server.close();
  });
  return { port: (server.address() as AddressInfo).port, accepted, server };
}

function request(method = "OPTIONS", via = "SIP/2.0/UDP 10.9.9.9:5099;branch=z9hG4bKx;rport", body = ""): string {
  return (
    `${method} sip:b@127.0.0.1 SIP/2.0\r\nVia: ${via}\r\nFrom: <sip:a@127.0.0.1>;tag=1\r\nTo: <sip:b@127.0.0.1>\r\n` +
    `Call-ID: c\r\nCSeq: 1 ${method}\r\nContent-Length: ${body.length}\r\n\r\n${body}`
  );
}

function response(via: string): string {
  return (
    `SIP/2.0 200 OK\r\nVia: ${via}\r\nFrom: <sip:a@127.0.0.1>;tag=1\r\nTo: <sip:b@127.0.0.1>;tag=2\r\nCall-ID: c\r\n` +
    `CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n`
  );
}

const tcpVia = "SIP/2.0/TCP 127.0.0.1:5099;branch=z9hG4bKx";

/** Answers 200 to everything, as a transaction user would. */
function answerAll(rig: Rig): TransactionLayer {
  const layer = new TransactionLayer({
    transport: rig.transport,
    timers: sipTimers(20),
    clock: systemClock,
    random: seededRandom(3),
    log: silentLog,
  });
  layer.onRequest = (transaction, one, source) => {
    rig.got.push({ message: one, source });
    transaction.respond(responseTo(one, 200, { toTag: "t" }));
  };
  closers.push(() => {
    layer.close();
  });
  return layer;
}

describe("listening", () => {
  it("takes the same free port for UDP and TCP, and frees both", async () => {
    const { transport, port } = await open();
    expect(transport.listeners()).toEqual([
      { protocol: "udp", address: "127.0.0.1", port },
      { protocol: "tcp", address: "127.0.0.1", port },
    ]);
    await transport.close();
    const again = await open({ listen: both.map((one) => ({ ...one, port })) });
    expect(again.port).toBe(port);
  });

  it("refuses a taken address with ELISTEN and leaves nothing open", async () => {
    const { port } = await open();
    for (const protocol of ["udp", "tcp"] as const) {
      const second = new TransportLayer({
        listen: [
          { protocol: "udp", address: "127.0.0.1", port: 0 },
          { protocol, address: "127.0.0.1", port },
        ],
        sources: "any",
        clock: systemClock,
        log: silentLog,
      });
      await expect(second.start()).rejects.toMatchObject({ name: "ListenError", code: "ELISTEN" });
      await expect(second.start()).rejects.toBeInstanceOf(ListenError);
      expect(second.stats().udpSockets).toBe(0);
    }
  });

  it("shows the external address outside of the loopback interface only, and knows its own addresses", async () => {
    const { transport, port } = await open({
      listen: [{ protocol: "udp", address: "0.0.0.0", port: 0 }],
      externalAddress: "198.51.100.7",
    });
    const to = (address: string): Target => ({ protocol: "udp", address, port: 5_060 });
    expect(transport.sentBy(to("192.0.2.1"))).toEqual({ host: "198.51.100.7", port });
    expect(transport.sentBy(to("127.0.0.1"))).toEqual({ host: "127.0.0.1", port });
    expect(transport.sentBy(to("::1"))).toBeUndefined();
    expect(transport.families("udp")).toEqual([4]);
    expect(transport.families("tcp")).toEqual([]);
    expect(transport.isOwnAddress("198.51.100.7", port)).toBe(true);
    expect(transport.isOwnAddress("127.0.0.1", port)).toBe(true);
    expect(transport.isOwnAddress("127.0.0.1", port + 1)).toBe(false);
    expect(transport.isOwnAddress("192.0.2.1", port)).toBe(false);
  });

  it("sends from the listener that is most like the target", async () => {
    const { transport } = await open({
      listen: [
        { protocol: "udp", address: "127.0.0.1", port: 0 },
        { protocol: "udp", address: "127.0.0.2", port: 0 },
        { protocol: "udp", address: "0.0.0.0", port: 0 },
      ],
    });
    const from = (address: string): string | undefined =>
      transport.listenerFor({ protocol: "udp", address, port: 5_060 })?.address;
    expect([from("127.0.0.2"), from("127.0.0.1"), from("192.0.2.1")]).toEqual(["127.0.0.2", "127.0.0.1", "0.0.0.0"]);
  });
});

describe("UDP", () => {
  it("writes the source into the Via and answers to it", async () => {
    const rig = await open();
    answerAll(rig);
    const peer = await udpPeer();
    peer.send(request(), rig.port);
    await waitFor(() => peer.got.length === 1, { what: "the answer" });
    const via = `Via: SIP/2.0/UDP 10.9.9.9:5099;branch=z9hG4bKx;rport=${peer.port};received=127.0.0.1`;
    expect(peer.got[0]).toContain(`${via}\r\n`);
    expect(rig.got[0]?.source).toEqual({
      protocol: "udp",
      address: "127.0.0.1",
      port: peer.port,
      local: { address: "127.0.0.1", port: rig.port },
      bytes: request().length,
    });
  });

  it("answers to the port of the Via where no rport was asked for", async () => {
    const rig = await open();
    answerAll(rig);
    const [sender, named] = [await udpPeer(), await udpPeer()];
    sender.send(request("OPTIONS", `SIP/2.0/UDP 127.0.0.1:${named.port};branch=z9hG4bKx`), rig.port);
    await waitFor(() => named.got.length === 1, { what: "the answer at the port of the Via" });
    expect(sender.got).toEqual([]);
  });

  it("gives no answer of any kind to a source that is not on the list, from the change of the list on", async () => {
    const rig = await open({ sources: ["192.0.2.0/24"] });
    const layer = answerAll(rig);
    const peer = await udpPeer();
    peer.send(request(), rig.port);
    peer.send("OPTIONS  two blanks SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKy\r\n\r\n", rig.port);
    peer.send(request("INVITE"), rig.port);
    await waitFor(() => rig.transport.stats().unlisted === 3, { what: "three dropped packets" });
    expect(layer.stats().server).toBe(0);
    rig.transport.setSources(["192.0.2.0/24", "127.0.0.0/8"]);
    peer.send(request("MESSAGE"), rig.port);
    await waitFor(() => peer.got.length === 1, { what: "the answer to the listed source" });
    expect(peer.got[0]).toContain("CSeq: 1 MESSAGE");
    expect(() => {
      rig.transport.setSources(["nonsense"]);
    }).toThrow(SourceError);
    rig.transport.setSources([]);
    peer.send(request("INFO"), rig.port);
    await waitFor(() => rig.transport.stats().unlisted === 4, { what: "the fourth dropped packet" });
    expect(peer.got).toHaveLength(1);
  });

  it("listens to an unlisted source where the message belongs to something", async () => {
    const rig = await open({ sources: [] });
    const layer = answerAll(rig);
    const peer = await udpPeer();
    const target: Target = { protocol: "udp", address: "127.0.0.1", port: peer.port };
    const heard: number[] = [];
    const lines = ["From: <sip:a@h>;tag=1", "To: <sip:b@h>", "Call-ID: c", "CSeq: 1 OPTIONS"].map((line) => {
      const [name = "", value = ""] = line.split(": ");
      return { name, value };
    });
    layer.request(new SipRequest("OPTIONS", "sip:b@127.0.0.1", new Headers(lines)), target, {
      response: ({ status }) => heard.push(status),
      timeout: () => undefined,
      transportError: () => undefined,
    });
    await waitFor(() => peer.got.length >= 1, { what: "the request" });
    const via = /Via: (.*)\r\n/.exec(peer.got[0] ?? "")?.[1] ?? "";
    peer.send(response(`${via}x`), rig.port);
    peer.send(response(via), rig.port);
    await waitFor(() => heard.length === 1, { what: "the response" });
    expect(heard).toEqual([200]);
    expect(rig.transport.stats().unlisted).toBe(1);
  });

  it("drops responses that are not for us: another sent-by, or more than one Via", async () => {
    const rig = await open();
    const peer = await udpPeer();
    peer.send(response("SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKx"), rig.port);
    peer.send(response(`SIP/2.0/UDP 127.0.0.1:${rig.port + 1};branch=z9hG4bKx`), rig.port);
    peer.send(response(`SIP/2.0/UDP 127.0.0.1:${rig.port};branch=z9hG4bKx, SIP/2.0/UDP h`), rig.port);
    peer.send(response(`SIP/2.0/UDP 127.0.0.1:${rig.port};branch=z9hG4bKx`), rig.port);
    await waitFor(() => rig.got.length === 1, { what: "the response that is for us" });
    expect(rig.transport.stats().strayVia).toBe(3);
  });

  it("ignores keep-alives, answers what is malformed once, and goes on after junk", async () => {
    const rig = await open({ sources: ["127.0.0.1"] });
    answerAll(rig);
    const peer = await udpPeer();
    for (const text of ["\r\n\r\n", "\r\n", "\0", "junk", "", "ACK  x SIP/2.0\r\nVia: SIP/2.0/UDP h\r\n\r\n"]) {
      peer.send(text, rig.port);
    }
    peer.send(Buffer.alloc(60_000, " "), rig.port);
    peer.send(request("OPTIONS", "SIP/2.0/UDP 127.0.0.1;rport;branch=z9hG4bK"), rig.port);
    peer.send(request("MESSAGE"), rig.port);
    await waitFor(() => peer.got.length === 2, { what: "both answers" });
    expect(peer.got[0]).toMatch(/^SIP\/2\.0 400 Branch Identifies Nothing\r\n/);
    expect(peer.got[1]).toMatch(/^SIP\/2\.0 200 OK\r\n/);
    expect(rig.transport.stats().malformed).toBe(4);
  });

  it("reports what our own machine refuses to send, later than the call", async () => {
    const { transport } = await open();
    const failures: string[] = [];
    transport.onFailure = (target) => failures.push(`${target.protocol} ${target.address}`);
    const send = (target: Target, bytes = Buffer.from("x")): void => {
      let returned = false;
      transport.send(bytes, target, () => failures.push(returned ? "reported" : "reported too early"));
      returned = true;
    };
    send({ protocol: "udp", address: "127.0.0.1", port: 5_060 }, Buffer.alloc(65_600));
    send({ protocol: "udp", address: "::1", port: 5_060 });
    send({ protocol: "udp", address: "127.0.0.1", port: 0 });
    await waitFor(() => failures.length === 6, { what: "three failures" });
    expect(failures.filter((one) => one === "reported")).toHaveLength(3);
    expect(transport.stats().sendFailures).toBe(3);
  });

  it("keeps exceptions of its user away from the socket and counts them", async () => {
    const rig = await open();
    const peer = await udpPeer();
    let calls = 0;
    rig.transport.onMessage = () => {
      calls += 1;
      throw new Error("a bug of the user");
    };
    peer.send(request(), rig.port);
    const tcp = await tcpPeer(rig.port);
    tcp.socket.write(request("OPTIONS", tcpVia));
    tcp.socket.write(request("OPTIONS", tcpVia));
    await waitFor(() => calls === 3, { what: "three calls" });
    expect(rig.transport.stats()).toMatchObject({ faults: 3, tcpConnections: 1 });
    closers.splice(0, 1);
    await rig.transport.close();
  });
});

describe("TCP", () => {
  it("reads messages in any chunks and answers on the same connection, whatever port the Via names", async () => {
    const rig = await open();
    answerAll(rig);
    const peer = await tcpPeer(rig.port);
    for (const byte of Buffer.from(request("OPTIONS", tcpVia))) {
      peer.socket.write(Buffer.from([byte]));
    }
    await waitFor(() => peer.got().includes("\r\n\r\n"), { what: "the answer" });
    peer.socket.write(request("INFO", tcpVia) + request("MESSAGE", tcpVia, "body"));
    await waitFor(() => peer.got().split("SIP/2.0 200 OK").length === 4, { what: "three answers" });
    expect(rig.transport.stats().tcpConnections).toBe(1);
    expect(rig.got[0]?.source).toMatchObject({
      protocol: "tcp",
      port: peer.socket.localPort,
      local: { port: rig.port },
    });
  });

  it("answers on a new connection to the Via's port when the old one is gone (RFC 3261 §18.2.2)", async () => {
    const rig = await open();
    const server = await tcpServer();
    const layer = new TransactionLayer({
      transport: rig.transport,
      timers: sipTimers(20),
      clock: systemClock,
      random: seededRandom(3),
      log: silentLog,
    });
    let answer: (() => void) | undefined;
    layer.onRequest = (transaction, one) => {
      answer = () => transaction.respond(responseTo(one, 200, { toTag: "t" }));
    };
    const peer = await tcpPeer(rig.port);
    peer.socket.write(request("OPTIONS", `SIP/2.0/TCP 127.0.0.1:${server.port};branch=z9hG4bKx`));
    await waitFor(() => answer !== undefined, { what: "the request" });
    peer.socket.resetAndDestroy();
    await waitFor(() => rig.transport.stats().tcpConnections === 0, { what: "the end of the first connection" });
    answer?.();
    await waitFor(() => server.accepted[0]?.got().startsWith("SIP/2.0 200 OK"), { what: "the answer" });
    layer.close();
  });

  it("still answers a peer that has closed its half, then closes too", async () => {
    const rig = await open();
    const layer = new TransactionLayer({
      transport: rig.transport,
      timers: sipTimers(20),
      clock: systemClock,
      random: seededRandom(3),
      log: silentLog,
    });
    let answer: (() => void) | undefined;
    layer.onRequest = (transaction, one) => {
      answer = () => transaction.respond(responseTo(one, 200, { toTag: "t" }));
    };
    const peer = await tcpPeer(rig.port);
    peer.socket.end(request("OPTIONS", tcpVia));
    await waitFor(() => answer !== undefined, { what: "the request" });
    answer?.();
    await waitFor(() => peer.got().startsWith("SIP/2.0 200 OK"), { what: "the answer" });
    await waitFor(peer.ended, { what: "our end of the connection" });
    await waitFor(() => rig.transport.stats().tcpConnections === 0, { what: "no connection" });
  });

  it("uses one connection for all messages to one peer, the peer's own messages included", async () => {
    const rig = await open();
    answerAll(rig);
    const server = await tcpServer();
    const target: Target = { protocol: "tcp", address: "127.0.0.1", port: server.port };
    for (let count = 0; count < 5; count += 1) {
      rig.transport.send(Buffer.from(request("INFO", tcpVia)), target);
    }
    await waitFor(() => server.accepted[0]?.got().split("INFO sip:").length === 6, { what: "five requests" });
    expect(server.accepted).toHaveLength(1);
    server.accepted[0]?.socket.write(request("OPTIONS", tcpVia));
    await waitFor(() => server.accepted[0]?.got().includes("SIP/2.0 200 OK"), { what: "an answer on that connection" });
    expect(rig.transport.stats().tcpConnections).toBe(1);
  });

  it("reports a refused connection for every message that waited for it", async () => {
    const { transport } = await open();
    const server = await tcpServer();
    server.server.close();
    const failed: string[] = [];
    const target: Target = { protocol: "tcp", address: "127.0.0.1", port: server.port };
    for (let count = 0; count < 3; count += 1) {
      transport.send(Buffer.from("x"), target, (error) =>
        failed.push((error as NodeJS.ErrnoException).code ?? error.message),
      );
    }
    await waitFor(() => failed.length === 3, { what: "three failures" });
    expect(failed).toEqual(["ECONNREFUSED", "ECONNREFUSED", "ECONNREFUSED"]);
    expect(transport.stats().tcpConnections).toBe(0);
  });

  it("gives up a connection that is not established in time", async () => {
    const clock = new ManualClock();
    const { transport } = await open({ clock });
    const server = await tcpServer();
    const failed: string[] = [];
    transport.send(Buffer.from("x"), { protocol: "tcp", address: "127.0.0.1", port: server.port }, (error) =>
      failed.push(error.message),
    );
    // Microtasks only: the event loop has no chance to finish the handshake before the clock has moved on.
    await clock.advance(5_000);
    expect(failed).toEqual(["the connection was not established in time"]);
    expect(transport.stats().tcpConnections).toBe(0);
    expect(clock.pending).toBe(0);
  });

  it("answers a keep-alive ping with one CRLF (RFC 5626 §4.4.1)", async () => {
    const { port } = await open();
    const peer = await tcpPeer(port);
    peer.socket.write("\r\n\r\n");
    await waitFor(() => peer.got() === "\r\n", { what: "the pong" });
    peer.socket.write("\r\n\r\n".repeat(1_000));
    await waitFor(() => peer.got().length >= 4, { what: "the second pong" });
    // Never as many as came: one per chunk that was read.
    expect(peer.got().length).toBeLessThan(200);
  });

  it("closes an idle connection, but not while a transaction needs it", async () => {
    const clock = new ManualClock();
    const rig = await open({ clock });
    let needed = true;
    rig.transport.isInUse = () => needed;
    const peer = await tcpPeer(rig.port);
    peer.socket.write(request("OPTIONS", tcpVia));
    await waitFor(() => rig.got.length === 1, { what: "the request" });
    await clock.advance(120_000);
    await clock.advance(119_000);
    expect(rig.transport.stats().tcpConnections).toBe(1);
    needed = false;
    await clock.advance(1_000);
    await waitFor(peer.ended, { what: "the end of the idle connection" });
    peer.socket.end();
    await waitFor(() => rig.transport.stats().tcpConnections === 0, { what: "no connection" });
    expect(clock.pending).toBe(0);
  });

  it("closes a connection whose message is not complete after 10 s, however busy it drips", async () => {
    const clock = new ManualClock();
    const rig = await open({ clock });
    const peer = await tcpPeer(rig.port);
    peer.socket.write(request("OPTIONS", tcpVia));
    await waitFor(() => rig.got.length === 1, { what: "the first message" });
    const slow = Buffer.from(request("INFO", tcpVia));
    for (let second = 0; second < 10; second += 1) {
      const before = rig.transport.stats().tcpConnections;
      peer.socket.write(slow.subarray(second, second + 1));
      // The byte has to have arrived before the clock moves.
      await waitFor(() => clock.pending === 2, { what: "the running limit of the message" });
      expect(before).toBe(1);
      await clock.advance(1_000);
    }
    await waitFor(peer.ended, { what: "the end of the slow connection" });
    expect(rig.transport.stats().tcpConnections).toBe(0);
    expect(rig.got).toHaveLength(1);
  });

  it("answers a stream that lost its place once, then closes it", async () => {
    const rig = await open();
    answerAll(rig);
    const peer = await tcpPeer(rig.port);
    peer.socket.write(
      request("OPTIONS", tcpVia).replace("Content-Length: 0", "Content-Length: -1") + request("INFO", tcpVia),
    );
    await waitFor(peer.ended, { what: "the end of the connection" });
    expect(peer.got()).toMatch(/^SIP\/2\.0 400 Malformed Content-Length\r\n[\s\S]*\r\n\r\n$/);
    expect(
      peer
        .got()
        .split("SIP/2.0 ")
        .filter((part) => /^\d{3} /.test(part)),
    ).toHaveLength(1);
    expect(rig.got).toEqual([]);
  });

  it("accepts so many connections from one address and no more", async () => {
    const rig = await open({ tcp: { connectionsPerAddress: 3 } });
    const peers = [await tcpPeer(rig.port), await tcpPeer(rig.port), await tcpPeer(rig.port)];
    await waitFor(() => rig.transport.stats().tcpConnections === 3, { what: "three connections" });
    const fourth = await tcpPeer(rig.port);
    await waitFor(fourth.ended, { what: "the end of the fourth" });
    expect(rig.transport.stats()).toMatchObject({ tcpConnections: 3, connectionsRefused: 1 });
    peers[0]?.socket.destroy();
    await waitFor(() => rig.transport.stats().tcpConnections === 2, { what: "two connections" });
    await tcpPeer(rig.port);
    await waitFor(() => rig.transport.stats().tcpConnections === 3, { what: "three connections again" });
  });

  it("opens so many connections in all and no more", async () => {
    const rig = await open({ tcp: { connections: 1 } });
    const [one, two] = [await tcpServer(), await tcpServer()];
    const failed: string[] = [];
    const send = (port: number): void => {
      rig.transport.send(Buffer.from("x"), { protocol: "tcp", address: "127.0.0.1", port }, (error) =>
        failed.push(error.message),
      );
    };
    send(one.port);
    send(two.port);
    await waitFor(() => failed.length === 1, { what: "the refused connection" });
    expect(failed).toEqual(["too many connections"]);
  });

  it("drops the connection of a stranger without a word: no pong, no answer, no error", async () => {
    const rig = await open({ sources: ["192.0.2.0/24"] });
    answerAll(rig);
    const peers = [await tcpPeer(rig.port), await tcpPeer(rig.port)];
    peers[0]?.socket.write(`\r\n\r\n${request("OPTIONS", tcpVia)}`);
    peers[1]?.socket.write(request("OPTIONS", tcpVia).replace("Content-Length: 0", "Content-Length: -1"));
    for (const peer of peers) {
      await waitFor(peer.ended, { what: "the end of the stranger's connection" });
      expect(peer.got()).toBe("");
    }
    expect(rig.transport.stats()).toMatchObject({ unlisted: 2, tcpConnections: 0 });
  });

  it("leaves connections for listed peers, however many strangers hold", async () => {
    const limits = { connections: 4, strangerConnections: 2, connectionsPerAddress: 10 };
    const rig = await open({ sources: ["127.0.0.2"], tcp: limits });
    await tcpPeer(rig.port);
    const second = await tcpPeer(rig.port);
    await waitFor(() => rig.transport.stats().tcpConnections === 2, { what: "two strangers" });
    const third = await tcpPeer(rig.port);
    await waitFor(third.ended, { what: "the end of the third" });
    await tcpPeer(rig.port, "127.0.0.2");
    await tcpPeer(rig.port, "127.0.0.2");
    await waitFor(() => rig.transport.stats().tcpConnections === 4, { what: "the listed ones" });
    const listed = await tcpPeer(rig.port, "127.0.0.2");
    await waitFor(listed.ended, { what: "the end of one over the limit" });
    second.socket.destroy();
    await waitFor(() => rig.transport.stats().tcpConnections === 3, { what: "the end of a stranger" });
    await tcpPeer(rig.port);
    await waitFor(() => rig.transport.stats().tcpConnections === 4, { what: "another stranger in its place" });
    expect(rig.transport.stats().connectionsRefused).toBe(2);
  });

  it("gives a stranger 5 s for his first message, however he drips it", async () => {
    const clock = new ManualClock();
    const rig = await open({ clock, sources: [] });
    const peer = await tcpPeer(rig.port);
    await waitFor(() => rig.transport.stats().tcpConnections === 1, { what: "the connection" });
    peer.socket.write("O");
    // The limits of an idle connection, of a stranger, and of a message that has begun.
    await waitFor(() => clock.pending === 3, { what: "the first byte" });
    await clock.advance(4_900);
    peer.socket.write("P");
    expect(rig.transport.stats().tcpConnections).toBe(1);
    await clock.advance(100);
    await waitFor(peer.ended, { what: "the end of the connection" });
    expect(peer.got()).toBe("");
    expect(clock.pending).toBe(0);
  });

  it("answers a listed peer whose message is not complete in time, then closes", async () => {
    const clock = new ManualClock();
    const rig = await open({ clock });
    answerAll(rig);
    const peer = await tcpPeer(rig.port);
    peer.socket.write(request("OPTIONS", tcpVia).replace("Content-Length: 0", "Content-Length: 5"));
    await waitFor(() => clock.pending === 2, { what: "the running limit of the message" });
    await clock.advance(10_000);
    await waitFor(peer.ended, { what: "the end of the connection" });
    expect(peer.got()).toMatch(/^SIP\/2\.0 400 Malformed Content-Length\r\n[\s\S]*\r\n\r\n$/);
  });

  it("gives a stranger who says nothing no more than the time of one message", async () => {
    const clock = new ManualClock();
    const rig = await open({ clock, sources: [] });
    const peer = await tcpPeer(rig.port);
    await waitFor(() => rig.transport.stats().tcpConnections === 1, { what: "the connection" });
    peer.socket.write("\r\n\r\n");
    await clock.advance(10_000);
    await clock.advance(10_000);
    await waitFor(peer.ended, { what: "the end of the connection" });
    expect(peer.got()).toBe("");
  });

  it("gives up a peer that does not read", async () => {
    const rig = await open({ tcp: { backlogBytes: 200_000 } });
    const server = createServer((socket) => {
      socket.pause();
      socket.on("error", () => undefined);
      closers.push(() => {
        socket.destroy();
      });
    });
    await new Promise<void>((resolve) => {
      server.listen(0, "127.0.0.1", resolve);
    });
    closers.push(() => {
      server.close();
    });
    const target: Target = { protocol: "tcp", address: "127.0.0.1", port: (server.address() as AddressInfo).port };
    const failed: string[] = [];
    const bytes = Buffer.alloc(60_000);
    await waitFor(
      () => {
        rig.transport.send(bytes, target, (error) => failed.push(error.message));
        return failed.length > 0;
      },
      { what: "the end of patience", intervalMs: 1 },
    );
    expect(failed[0]).toBe("the peer does not read");
  });

  it("fails an unanswered request when its connection breaks", async () => {
    const rig = await open();
    const layer = answerAll(rig);
    const server = await tcpServer();
    const heard: string[] = [];
    const headers = new Headers([
      { name: "From", value: "<sip:a@h>;tag=1" },
      { name: "To", value: "<sip:b@h>" },
      { name: "Call-ID", value: "c" },
      { name: "CSeq", value: "1 INVITE" },
    ]);
    layer.request(
      new SipRequest("INVITE", "sip:b@127.0.0.1", headers),
      { protocol: "tcp", address: "127.0.0.1", port: server.port },
      {
        response: ({ status }) => heard.push(String(status)),
        timeout: () => heard.push("timeout"),
        transportError: () => heard.push("transport error"),
      },
    );
    await waitFor(() => server.accepted[0]?.got().includes("INVITE"), { what: "the INVITE" });
    server.accepted[0]?.socket.resetAndDestroy();
    await waitFor(() => heard.length === 1, { what: "the error" });
    expect(heard).toEqual(["transport error"]);
  });
});

describe("sources", () => {
  it("allow addresses and networks of both families, and IPv4 in the clothes of IPv6", () => {
    const sources = new Sources(["192.0.2.1", "198.51.100.0/24", "2001:db8::/32", "10.0.0.0/8"]);
    for (const address of ["192.0.2.1", "198.51.100.255", "2001:db8:1::1", "::ffff:192.0.2.1", "10.255.0.1"]) {
      expect(sources.allows(address)).toBe(true);
    }
    for (const address of ["192.0.2.2", "198.51.101.0", "2001:db9::1", "::1", "", "nonsense", "::ffff:192.0.2.2"]) {
      expect(sources.allows(address)).toBe(false);
    }
    expect(new Sources("any").allows("203.0.113.9")).toBe(true);
    expect(new Sources([]).allows("127.0.0.1")).toBe(false);
    expect(new Sources(["0.0.0.0/0"]).allows("203.0.113.9")).toBe(true);
    expect(new Sources(["0.0.0.0/0"]).allows("2001:db8::1")).toBe(false);
    expect(plainAddress("::FFFF:1.2.3.4")).toBe("1.2.3.4");
  });

  it("refuse a list that says nothing", () => {
    for (const entry of [
      "",
      "host",
      "192.0.2.0/33",
      "192.0.2.0/-1",
      "192.0.2.0/",
      "192.0.2/24",
      "2001:db8::/129",
      "any",
    ]) {
      expect(() => new Sources([entry])).toThrow(SourceError);
    }
    expect(() => new Sources(["x"])).toThrow(expect.objectContaining({ code: "EBADSOURCE" }) as Error);
  });
});
