import { createSocket } from "node:dgram";
import type { Socket as UdpSocket } from "node:dgram";
import { once } from "node:events";
import type { EventEmitter } from "node:events";
import { createRequire } from "node:module";
import { connect, createServer } from "node:net";
import type { AddressInfo, Server, Socket } from "node:net";
import { connect as connectTls, createServer as createTlsServer } from "node:tls";
import type { ConnectionOptions, TlsOptions as TlsServerOptions } from "node:tls";
import { isDeepStrictEqual } from "node:util";

import { afterAll, expect } from "vitest";

import { startEngine } from "../../src/engine/index.ts";
import type { Engine, EngineOptions } from "../../src/engine/index.ts";
import { drachtioSecret } from "../support/drachtio.ts";
import { delay } from "../support/wait.ts";

// drachtio-srf's own typings are thin and partly wrong (drachtio.md, pitfall 22); what these tests use is stated here.

export interface SrfMessage extends EventEmitter {
  method: string;
  uri: string;
  body: string;
  status: number;
  reason: string;
  source: string;
  source_address: string;
  source_port: number;
  protocol: string;
  stackTxnId: string;
  stackDialogId: string;
  receivedOn: string;
  headers: Record<string, string>;
  get(name: string): string;
  has(name: string): boolean;
  cancel(opts?: { headers?: Record<string, string> }, callback?: (err: unknown, req: SrfMessage) => void): void;
  cancel(callback?: (err: unknown, req: SrfMessage) => void): void;
}

export interface SrfReply extends EventEmitter {
  send(status: number, options?: object, callback?: (err: unknown, sent: SrfMessage) => void): void;
  send(status: number, reason: string, options?: object, callback?: (err: unknown, sent: SrfMessage) => void): void;
}

export interface SrfDialog extends EventEmitter {
  id: string;
  type: string;
  connected: boolean;
  sip: { callId: string; localTag: string; remoteTag: string };
  local: { uri: string; sdp: string; contact: string };
  remote: { uri: string; sdp: string };
  req: { socket: Socket };
  res: SrfMessage & { socket: Socket };
  other: SrfDialog;
  destroy(options?: object): Promise<SrfMessage>;
  modify(sdp: string | object, options?: object): Promise<string>;
  request(options: object): Promise<SrfMessage>;
}

export interface SrfInstance extends EventEmitter {
  connect(options: object): void;
  disconnect(): void;
  use(verb: string, handler: (req: SrfMessage, res: SrfReply) => void): void;
  invite(handler: (req: SrfMessage, res: SrfReply) => void): void;
  options(handler: (req: SrfMessage, res: SrfReply) => void): void;
  message(handler: (req: SrfMessage, res: SrfReply) => void): void;
  refer(handler: (req: SrfMessage, res: SrfReply) => void): void;
  createUAS(req: SrfMessage, res: SrfReply, options: object): Promise<SrfDialog>;
  createUAC(uri: string, options?: object, callbacks?: UacCallbacks): Promise<SrfDialog>;
  createB2BUA(
    req: SrfMessage,
    res: SrfReply,
    uri: string,
    options?: object,
    callbacks?: UacCallbacks,
  ): Promise<{ uas: SrfDialog; uac: SrfDialog }>;
  request(uri: string, options: object): Promise<SrfMessage>;
  findDialogByCallIDAndFromTag(callId: string, tag: string): SrfDialog | undefined;
}

export interface UacCallbacks {
  cbRequest?: (err: unknown, req: SrfMessage) => void;
  cbProvisional?: (res: SrfMessage) => void;
}

const Srf = createRequire(import.meta.url)("drachtio-srf") as new () => SrfInstance;

/** One for both, so that a test need not know which it speaks to. */
export const secret = drachtioSecret;

/** Something that has to end before a test is over. */
export type Closing = () => Promise<void> | void;

/** What has come to rest, or why it has not, of tests that are over. */
const settled: Promise<{ readonly test: string; readonly error: unknown } | undefined>[] = [];

afterAll(async () => {
  for (const failed of await Promise.all(settled.splice(0))) {
    if (failed !== undefined) {
      throw new Error(`something is left of "${failed.test}"`, { cause: failed.error });
    }
  }
});

/** Collects what a test opened and closes it in reverse order. */
export class Closings {
  readonly #closings: Closing[] = [];
  readonly #settling: Closing[] = [];

  add(closing: Closing): void {
    this.#closings.push(closing);
  }

  /** A closing that first waits for SIP timers to run out. The other closings come before it. */
  addSettling(closing: Closing): void {
    this.#settling.push(closing);
  }

  /** What has to settle does so while the next tests run; the file fails when something of it does not. */
  async closeAll(name?: string): Promise<void> {
    // Of tests that run at the same time vitest names the one that began last.
    const test = name ?? expect.getState().currentTestName ?? "";
    for (const closing of this.#closings.splice(0).toReversed()) {
      await closing();
    }
    settled.push(
      this.#settle().then(
        () => undefined,
        (error: unknown) => ({ test, error }),
      ),
    );
  }

  /** The same, and waits for it. */
  async settleAll(): Promise<void> {
    for (const closing of this.#closings.splice(0).toReversed()) {
      await closing();
    }
    await this.#settle();
  }

  async #settle(): Promise<void> {
    for (const closing of this.#settling.splice(0).toReversed()) {
      await closing();
    }
  }
}

/** Comes back when `actual` equals `expected`; fails with what differs when it does not in time. */
export async function settlesTo(actual: () => unknown, expected: unknown, timeoutMs: number): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  while (!isDeepStrictEqual(actual(), expected) && performance.now() < deadline) {
    await delay(20);
  }
  expect(actual()).toEqual(expected);
}

export interface TestEngine {
  readonly engine: Engine;
  readonly port: number;
  readonly t1Ms: number;
  readonly uri: (user: string) => string;
  /** Another application on the same engine. */
  connect(): Promise<SrfInstance>;
}

/** An engine on free loopback ports. When the test ends, every map of it has to become empty by itself. */
export async function startTestEngine(closings: Closings, options: Partial<EngineOptions> = {}): Promise<TestEngine> {
  // 64*T1 is the time a peer has for its ACK: long enough for a machine that stands still in between.
  const t1Ms = options.t1Ms ?? 25;
  const engine = await startEngine({
    listen: [
      { protocol: "udp", address: "127.0.0.1", port: 0 },
      { protocol: "tcp", address: "127.0.0.1", port: 0 },
    ],
    control: { address: "127.0.0.1", port: 0, secret },
    // Named, so that peers are answered as a trunk is; "any" trusts nobody before it has proved its address.
    sources: ["0.0.0.0/0", "::/0"],
    ...options,
    t1Ms,
  });
  const port = engine.listening[0]?.port ?? 0;
  closings.addSettling(async () => {
    try {
      // Twice the hold time of a request nobody answered is the longest anything may stay.
      await settlesTo(() => leftovers(engine), nothing, 64 * t1Ms * 3 + 10_000);
    } finally {
      await engine.close();
    }
    expect(engine.stats().transport.faults).toBe(0);
  });
  return {
    engine,
    port,
    t1Ms,
    uri: (user) => `sip:${user}@127.0.0.1:${port}`,
    connect: async () => connectSrf(closings, engine.controlPort),
  };
}

const nothing = { dialogs: 0, incoming: 0, invites: 0, outgoing: 0, lookups: 0, timers: 0, client: 0, server: 0 };

export function leftovers(engine: Engine): Record<string, number> {
  const { agent, transactions } = engine.stats();
  const { client, server } = transactions;
  return { ...agent, timers: agent.timers + transactions.timers, client, server };
}

/** A real drachtio-srf, connected and authenticated. */
export async function connectSrf(closings: Closings, controlPort: number, password = secret): Promise<SrfInstance> {
  const srf = new Srf();
  // Without a listener an ECONNRESET at the end of a test would be thrown (pitfall 15).
  srf.on("error", () => undefined);
  const connected = once(srf, "connect") as Promise<[Error | null, string]>;
  srf.connect({ host: "127.0.0.1", port: controlPort, secret: password, reconnect: { maxAttempts: 1 } });
  const [error] = await connected;
  closings.add(() => {
    try {
      srf.disconnect();
    } catch {
      // Already disconnected by the test itself.
    }
  });
  if (error !== null) {
    throw error;
  }
  return srf;
}

/** A SIP message as this file reads it: on its own, so that it can tell whether the engine writes it right. */
export interface Packet {
  readonly text: string;
  readonly startLine: string;
  readonly status: number;
  readonly method: string;
  readonly body: string;
  readonly at: number;
  readonly from: { readonly address: string; readonly port: number };
  readonly connection?: Socket;
  header(name: string): string;
  headers(name: string): string[];
}

function readPacket(text: string, from: { address: string; port: number }, connection?: Socket): Packet {
  const end = text.indexOf("\r\n\r\n");
  const [startLine = "", ...lines] = text.slice(0, end).split("\r\n");
  const headers = (name: string): string[] =>
    lines
      .filter((line) => line.slice(0, line.indexOf(":")).trim().toLowerCase() === name.toLowerCase())
      .map((line) => line.slice(line.indexOf(":") + 1).trim());
  const isResponse = startLine.startsWith("SIP/2.0");
  const cseqMethod = (headers("CSeq")[0] ?? "").split(" ")[1] ?? "";
  return {
    text,
    startLine,
    status: isResponse ? Number(startLine.split(" ")[1]) : 0,
    method: isResponse ? cseqMethod : (startLine.split(" ")[0] ?? ""),
    body: text.slice(end + 4),
    at: performance.now(),
    from,
    ...(connection === undefined ? {} : { connection }),
    headers,
    header: (name) => headers(name)[0] ?? "",
  };
}

export function tagOf(address: string): string {
  return /;tag=([^;>\s]+)/.exec(address)?.[1] ?? "";
}

export function uriOf(address: string): string {
  return /<([^>]+)>/.exec(address)?.[1] ?? address.split(";")[0] ?? "";
}

export const sdp = (port: number, version = 1): string =>
  `v=0\r\no=- 1 ${version} IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio ${port} RTP/AVP 0\r\na=sendrecv\r\n`;

/** Wakes whoever waits for the next packet. */
class Arrivals {
  #waiting: (() => void)[] = [];

  wake(): void {
    for (const wake of this.#waiting.splice(0)) {
      wake();
    }
  }

  async next(timeoutMs: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      this.#waiting.push(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }
}

/**
 * A SIP peer over raw UDP that does nothing on its own: tests say what it sends and see every packet it gets. That is how
 * lost, late, crossing and malformed messages can be played.
 */
export class RawPeer {
  readonly port: number;
  readonly address: string;
  /** The address as URIs write it. */
  readonly host: string;
  readonly received: Packet[] = [];
  readonly #socket: UdpSocket;
  readonly #arrivals = new Arrivals();
  readonly #taken = new Set<Packet>();

  private constructor(socket: UdpSocket) {
    this.#socket = socket;
    this.port = socket.address().port;
    this.address = socket.address().address;
    this.host = this.address.includes(":") ? `[${this.address}]` : this.address;
    socket.on("message", (bytes, from) => {
      this.received.push(readPacket(bytes.toString("utf8"), { address: from.address, port: from.port }));
      this.#arrivals.wake();
    });
  }

  static async open(closings: Closings, address = "127.0.0.1"): Promise<RawPeer> {
    const socket = createSocket(address.includes(":") ? "udp6" : "udp4");
    socket.bind(0, address);
    await once(socket, "listening");
    const peer = new RawPeer(socket);
    closings.add(() => {
      socket.close();
    });
    return peer;
  }

  get uri(): string {
    return `sip:peer@${this.host}:${this.port}`;
  }

  send(text: string | Buffer, port: number): void {
    this.#socket.send(text, port, this.address);
  }

  /** The next packet that fits and that no earlier call took. */
  async take(what: string, fits: (packet: Packet) => boolean, timeoutMs = 10_000): Promise<Packet> {
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      const found = this.received.find((packet) => !this.#taken.has(packet) && fits(packet));
      if (found !== undefined) {
        this.#taken.add(found);
        return found;
      }
      const left = deadline - performance.now();
      if (left <= 0) {
        const seen = this.received.map((packet) => `${packet.startLine} [${packet.header("CSeq")}]`).join("\n  ");
        throw new Error(`no ${what} within ${timeoutMs} ms; received:\n  ${seen}`);
      }
      await this.#arrivals.next(left);
    }
  }

  /** The next request of that method that is no repetition of one taken before; an ACK is repeated for a reason. */
  async request(method: string, timeoutMs?: number): Promise<Packet> {
    const fits = (packet: Packet): boolean =>
      packet.status === 0 && packet.method === method && (method === "ACK" || !this.#isRepetition(packet));
    return this.take(method, fits, timeoutMs);
  }

  /** A response that was taken before, once more. */
  async repeated(status: number, method: string): Promise<Packet> {
    return this.take(
      `repeated ${status} (${method})`,
      (packet) => packet.status === status && packet.method === method && this.#isRepetition(packet),
    );
  }

  #isRepetition(packet: Packet): boolean {
    return this.received.some((other) => this.#taken.has(other) && other.text === packet.text);
  }

  /** The next response that is no repetition of one taken before, as a slow test makes them happen. */
  async response(status: number, method: string, timeoutMs?: number): Promise<Packet> {
    return this.take(
      `${status} (${method})`,
      (packet) => packet.status === status && packet.method === method && !this.#isRepetition(packet),
      timeoutMs,
    );
  }

  count(fits: (packet: Packet) => boolean): number {
    return this.received.filter(fits).length;
  }

  /** Answers a request it got; `headers` replace or add whole lines. */
  reply(
    request: Packet,
    status: number,
    reason: string,
    parts: { tag?: string; headers?: readonly string[]; body?: string; contact?: string } = {},
  ): void {
    this.send(replyText(request, status, reason, { contact: `<${this.uri}>`, ...parts }), request.from.port);
  }
}

export function replyText(
  request: Packet,
  status: number,
  reason: string,
  parts: { tag?: string; headers?: readonly string[]; body?: string; contact?: string } = {},
): string {
  const to = request.header("To");
  const tagged = parts.tag === undefined || to.includes("tag=") ? to : `${to};tag=${parts.tag}`;
  const body = parts.body ?? "";
  const lines = [
    `SIP/2.0 ${status} ${reason}`,
    ...request.headers("Via").map((via) => `Via: ${via}`),
    ...request.headers("Record-Route").map((route) => `Record-Route: ${route}`),
    `From: ${request.header("From")}`,
    `To: ${tagged}`,
    `Call-ID: ${request.header("Call-ID")}`,
    `CSeq: ${request.header("CSeq")}`,
    ...(parts.contact === undefined || parts.contact === "" ? [] : [`Contact: ${parts.contact}`]),
    ...(parts.headers ?? []),
    ...(body === "" ? [] : ["Content-Type: application/sdp"]),
    `Content-Length: ${Buffer.byteLength(body)}`,
  ];
  return `${lines.join("\r\n")}\r\n\r\n${body}`;
}

let counter = 0;
export const unique = (prefix: string): string => {
  counter += 1;
  return `${prefix}-${process.pid}-${counter}-${Math.random().toString(36).slice(2)}`;
};

/** One call from a raw peer to the engine: knows its identifiers and writes requests with them. */
export class RawCall {
  readonly callId = unique("call");
  readonly fromTag = unique("ft");
  readonly peer: RawPeer;
  readonly enginePort: number;
  readonly user: string;
  toTag = "";
  /** What requests inside the dialog are sent to. */
  target: string;
  contact: string;
  lastBranch = "";
  seq = 0;

  constructor(peer: RawPeer, enginePort: number, user = "100") {
    this.peer = peer;
    this.enginePort = enginePort;
    this.user = user;
    this.target = `sip:${user}@${peer.host}:${enginePort}`;
    this.contact = `<${peer.uri}>`;
  }

  text(
    method: string,
    parts: {
      seq?: number;
      branch?: string;
      headers?: readonly string[];
      body?: string;
      toTag?: string;
      contact?: string | undefined;
      uri?: string;
      via?: string;
    } = {},
  ): string {
    const seq = parts.seq ?? (method === "ACK" || method === "CANCEL" ? this.seq : (this.seq += 1));
    const branch = parts.branch ?? `z9hG4bK${unique("b")}`;
    this.lastBranch = branch;
    const toTag = parts.toTag ?? (method === "CANCEL" ? "" : this.toTag);
    const body = parts.body ?? "";
    const contact = "contact" in parts ? parts.contact : this.contact;
    const lines = [
      `${method} ${parts.uri ?? this.target} SIP/2.0`,
      parts.via ?? `Via: SIP/2.0/UDP ${this.peer.host}:${this.peer.port};branch=${branch}`,
      "Max-Forwards: 70",
      `From: "Alice" <sip:alice@${this.peer.host}:${this.peer.port}>;tag=${this.fromTag}`,
      `To: <sip:${this.user}@${this.peer.host}:${this.enginePort}>${toTag === "" ? "" : `;tag=${toTag}`}`,
      `Call-ID: ${this.callId}`,
      `CSeq: ${seq} ${method}`,
      ...(contact === undefined ? [] : [`Contact: ${contact}`]),
      ...(parts.headers ?? []),
      ...(body === "" ? [] : ["Content-Type: application/sdp"]),
      `Content-Length: ${Buffer.byteLength(body)}`,
    ];
    return `${lines.join("\r\n")}\r\n\r\n${body}`;
  }

  send(method: string, parts: Parameters<RawCall["text"]>[1] = {}): string {
    const text = this.text(method, parts);
    this.peer.send(text, this.enginePort);
    return text;
  }

  /** INVITE, wait for the 200, take its tag and target over; the ACK is the test's. */
  async invite(parts: Parameters<RawCall["text"]>[1] = { body: sdp(4000) }): Promise<Packet> {
    this.send("INVITE", parts);
    const ok = await this.peer.response(200, "INVITE");
    this.toTag = tagOf(ok.header("To"));
    this.target = uriOf(ok.header("Contact"));
    return ok;
  }

  /** A whole set-up, ACK included. */
  async establish(): Promise<Packet> {
    const ok = await this.invite();
    this.send("ACK");
    return ok;
  }

  async bye(): Promise<Packet> {
    this.send("BYE");
    return this.peer.response(200, "BYE");
  }
}

/** The callee's side of a call that the engine made to a raw peer. */
export class RawCallee {
  readonly peer: RawPeer;
  readonly invite: Packet;
  readonly tag = unique("tt");
  readonly enginePort: number;
  seq = 100;

  constructor(peer: RawPeer, invite: Packet) {
    this.peer = peer;
    this.invite = invite;
    this.enginePort = invite.from.port;
  }

  reply(
    status: number,
    reason: string,
    parts: { headers?: readonly string[]; body?: string; contact?: string } = {},
  ): void {
    this.peer.reply(this.invite, status, reason, { tag: this.tag, ...parts });
  }

  /** A request of the callee inside the dialog. */
  send(
    method: string,
    parts: { seq?: number; headers?: readonly string[]; body?: string; contact?: string } = {},
  ): void {
    const seq = parts.seq ?? (this.seq += 1);
    const body = parts.body ?? "";
    const to = this.invite.header("To");
    const lines = [
      `${method} ${uriOf(this.invite.header("Contact"))} SIP/2.0`,
      `Via: SIP/2.0/UDP ${this.peer.host}:${this.peer.port};branch=z9hG4bK${unique("b")}`,
      "Max-Forwards: 70",
      `From: ${to.includes("tag=") ? to : `${to};tag=${this.tag}`}`,
      `To: ${this.invite.header("From")}`,
      `Call-ID: ${this.invite.header("Call-ID")}`,
      `CSeq: ${seq} ${method}`,
      `Contact: ${parts.contact ?? `<${this.peer.uri}>`}`,
      ...(parts.headers ?? []),
      ...(body === "" ? [] : ["Content-Type: application/sdp"]),
      `Content-Length: ${Buffer.byteLength(body)}`,
    ];
    this.peer.send(`${lines.join("\r\n")}\r\n\r\n${body}`, this.enginePort);
  }
}

export interface StreamPeerOptions {
  /** Default 127.0.0.1. */
  readonly address?: string;
  /** Listens for TLS with this. */
  readonly tls?: TlsServerOptions;
}

/** A raw TCP or TLS side: listens, and can dial the engine. Cuts messages at their Content-Length. */
export class RawTcpPeer {
  readonly port: number;
  readonly received: Packet[] = [];
  readonly connections: Socket[] = [];
  readonly #address: string;
  readonly #arrivals = new Arrivals();
  readonly #taken = new Set<Packet>();

  private constructor(server: Server, { address = "127.0.0.1", tls }: StreamPeerOptions) {
    this.port = (server.address() as AddressInfo).port;
    this.#address = address;
    server.on(tls === undefined ? "connection" : "secureConnection", (socket: Socket) => {
      this.#read(socket);
    });
  }

  static async open(closings: Closings, options: StreamPeerOptions = {}): Promise<RawTcpPeer> {
    const { address = "127.0.0.1", tls } = options;
    const server = tls === undefined ? createServer({ allowHalfOpen: true }) : createTlsServer(tls);
    server.listen(0, address);
    await once(server, "listening");
    const peer = new RawTcpPeer(server, options);
    closings.add(() => {
      for (const connection of peer.connections) {
        connection.destroy();
      }
      server.close();
    });
    return peer;
  }

  /** Opens a connection to the engine; by TLS with `tls`. */
  async dial(port: number, tls?: ConnectionOptions): Promise<Socket> {
    const to = { host: this.#address, port, allowHalfOpen: true };
    const socket = tls === undefined ? connect(to) : connectTls({ ...to, ...tls });
    await once(socket, tls === undefined ? "connect" : "secureConnect");
    this.#read(socket);
    return socket;
  }

  #read(socket: Socket): void {
    this.connections.push(socket);
    let buffered = Buffer.alloc(0);
    socket.on("error", () => undefined);
    socket.on("data", (chunk: Buffer) => {
      buffered = Buffer.concat([buffered, chunk]);
      for (;;) {
        const end = buffered.indexOf("\r\n\r\n");
        const length = Number(/^content-length:\s*(\d+)/im.exec(buffered.subarray(0, end).toString())?.[1] ?? 0);
        if (end === -1 || buffered.length < end + 4 + length) {
          return;
        }
        const text = buffered.subarray(0, end + 4 + length).toString("utf8");
        buffered = buffered.subarray(end + 4 + length);
        const from = { address: socket.remoteAddress ?? "", port: socket.remotePort ?? 0 };
        this.received.push(readPacket(text.replace(/^(\r\n)+/, ""), from, socket));
        this.#arrivals.wake();
      }
    });
  }

  async take(what: string, fits: (packet: Packet) => boolean, timeoutMs = 10_000): Promise<Packet> {
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      const found = this.received.find((packet) => !this.#taken.has(packet) && fits(packet));
      if (found !== undefined) {
        this.#taken.add(found);
        return found;
      }
      const left = deadline - performance.now();
      if (left <= 0) {
        throw new Error(`no ${what}; received ${this.received.map((packet) => packet.startLine).join(", ")}`);
      }
      await this.#arrivals.next(left);
    }
  }
}

/** Resolves with what `run` threw or rejected with; drachtio-srf rejects with strings too. */
export async function failure(run: Promise<unknown>): Promise<{ message: string; status: number; code: string }> {
  try {
    await run;
  } catch (error) {
    if (typeof error === "string") {
      return { message: error, status: 0, code: "" };
    }
    const { message = "", status = 0, code = "" } = error as { message?: string; status?: number; code?: string };
    return { message, status, code };
  }
  throw new Error("it did not fail");
}
