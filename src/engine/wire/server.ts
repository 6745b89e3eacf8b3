import { createHash, timingSafeEqual } from "node:crypto";
import { createServer } from "node:net";
import type { AddressInfo, Server, Socket } from "node:net";

import type { Counters } from "../counters.ts";
import type { ClientId, CommandReply, Delivery, EngineEvents, SipCommand, SipCommands } from "../events.ts";
import type { EngineLimits, EngineLog } from "../options.ts";
import type { Difference } from "../parity.ts";
import type { Clock, Random } from "../timers.ts";
import { TimerSet } from "../timers.ts";
import { encodeFrame, FrameDecoder, frameWarningBytes } from "./frame.ts";
import type { WireMessage } from "./frame.ts";
import { OutboundDialer } from "./outbound.ts";
import type { OutboundTarget } from "./outbound.ts";

/** What drachtio-srf sees as the server's version; it only parses the `v0.9.9` in front (pings need at least v0.8.2). */
export const wireVersion = "v0.9.9-patchbay";

const verbPattern = /^[a-zA-Z0-9\-.!%*_+`'~:]{1,32}$/;
// drachtio-srf keeps its applications to these.
const mostTags = 20;
const mostTagLength = 32;
const requestIdPattern = /^[\x21-\x7e]{1,128}$/;

export interface WireServerParts {
  readonly address: string;
  readonly port: number;
  readonly secret: string;
  readonly limits: EngineLimits;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: EngineLog;
  readonly counters: Counters;
  /** `proto/host:port` of what is advertised to peers and of what is really listened on. */
  readonly hostports: () => { readonly advertised: readonly string[]; readonly local: readonly string[] };
  /** Whether to behave like drachtio-server in that respect. */
  readonly imitates: (difference: Difference) => boolean;
  /** Outbound mode: the applications that new requests are taken to. Empty: applications connect by themselves. */
  readonly outbound: {
    readonly targets: readonly OutboundTarget[];
    readonly connectMs: number;
    readonly authenticationMs: number;
    /** A connection that nothing needs any more is closed after one to two of these, in milliseconds. */
    readonly idleMs: number;
  };
}

/** What becomes of a connection that the engine made itself. */
interface OutboundEnd {
  ready(client: ClientId): void;
  failed(): void;
}

interface Client {
  readonly id: ClientId;
  readonly socket: Socket;
  readonly decoder: FrameDecoder;
  readonly verbs: Set<string>;
  readonly timers: TimerSet;
  /** Set for connections that the engine made itself. */
  readonly outbound: OutboundEnd | undefined;
  /** Its tags, sorted, in one text. */
  tags: string;
  authenticated: boolean;
  /** It had nothing to do at the last look. */
  idle: boolean;
  /** It has shown that it works on what it is given, so it may be an heir. */
  ready: boolean;
  closing: boolean;
  /** The core knows that it is gone. */
  gone: boolean;
}

export interface WireStats {
  readonly clients: number;
  readonly routes: number;
  /** Connections of outbound mode, those that are being made included. */
  readonly outbound: number;
}

/** Whoever has not said the secret yet has no longer frame to say than the secret with twenty tags of 32 characters. */
const strangerFrameBytes = 4096;

/**
 * drachtio-srf serves what it reads right after its routes before it tells its application that it is connected, and a BYE
 * for a dialog that the application has not made again yet would be lost. What others have left behind is therefore handed
 * over this long after the last new verb (after `authenticate` where none is routed), or with the first command.
 */
const readyAfterMs = 300;

/**
 * The listener that drachtio-srf connects to ("inbound" mode of drachtio). It authenticates, routes verbs, frames and
 * unframes; what the SIP text means is the core's matter.
 */
export class WireServer implements EngineEvents {
  readonly #parts: WireServerParts;
  readonly #core: SipCommands;
  readonly #server: Server;
  readonly #clients = new Map<ClientId, Client>();
  /** Per verb the id of the connection that was chosen last, so that the next one is after it in line. */
  readonly #lastChosen = new Map<string, ClientId>();
  readonly #secretDigest: Buffer;
  readonly #dialer: OutboundDialer;
  readonly #timers: TimerSet;
  readonly dial: EngineEvents["dial"];
  #nextId: ClientId = 1;
  #closed = false;

  constructor(parts: WireServerParts, core: SipCommands) {
    if (parts.secret === "") {
      throw new Error("the control port needs a secret");
    }
    this.#parts = parts;
    this.#core = core;
    this.#secretDigest = createHash("sha256").update(parts.secret).digest();
    this.#server = createServer({ allowHalfOpen: false, noDelay: true, keepAlive: true }, (socket) => {
      try {
        this.#accept(socket, undefined);
      } catch (error) {
        parts.log.error("a control connection could not be accepted", { error });
        socket.destroy();
      }
    });
    this.#timers = new TimerSet(parts.clock);
    const { targets, connectMs } = parts.outbound;
    this.#dialer = new OutboundDialer({
      targets,
      connectMs,
      mostConnections: parts.limits.outboundConnections,
      clock: parts.clock,
      log: parts.log,
      attach: (socket, on) => {
        this.#accept(socket, on);
      },
      release: (id) => {
        const client = this.#clients.get(id);
        if (client !== undefined) {
          this.#close(client);
        }
      },
    });
    this.dial =
      targets.length === 0
        ? undefined
        : (offer) => {
            this.#dialer.dial(offer);
          };
  }

  /** Listens and returns the port. Rejects when the address is taken. */
  async start(): Promise<number> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen({ host: this.#parts.address, port: this.#parts.port }, () => {
        this.#server.off("error", reject);
        // A listener may still fail when accepting (too many open files): that must not end the process.
        this.#server.on("error", (error) => {
          this.#parts.log.error("the control listener failed", { error });
        });
        resolve();
      });
    });
    return (this.#server.address() as AddressInfo).port;
  }

  /** A connection of an application in this process, which authenticates like any other. */
  attach(socket: Socket): void {
    this.#accept(socket, undefined);
  }

  /** Closes every connection and the listener. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) {
      return;
    }
    this.#closed = true;
    this.#dialer.close();
    this.#timers.clear();
    for (const client of this.#clients.values()) {
      client.timers.clear();
      client.socket.destroy();
    }
    if (this.#server.listening) {
      await new Promise<void>((resolve) => {
        this.#server.close(() => {
          resolve();
        });
      });
    }
  }

  stats(): WireStats {
    let routes = 0;
    for (const client of this.#clients.values()) {
      routes += client.verbs.size;
    }
    return { clients: this.#clients.size, routes, outbound: this.#dialer.size };
  }

  heirOf(tags: string): ClientId | undefined {
    let newestOfTags: ClientId | undefined;
    let only: ClientId | undefined;
    let count = 0;
    for (const client of this.#clients.values()) {
      // A connection of outbound mode is there for one call and goes with it.
      if (!client.authenticated || client.closing || client.outbound !== undefined) {
        continue;
      }
      count += 1;
      if (!client.ready) {
        continue;
      }
      only = client.id;
      if (tags !== "" && client.tags === tags) {
        newestOfTags = client.id;
      }
    }
    return newestOfTags ?? (count === 1 ? only : undefined);
  }

  choose(verb: string): ClientId | undefined {
    const last = this.#lastChosen.get(verb) ?? 0;
    let first: ClientId | undefined;
    // Ids grow, and a Map keeps the order of insertion: the first id above the last one chosen is the next in line.
    for (const client of this.#clients.values()) {
      if (!client.authenticated || client.closing || client.outbound !== undefined || !client.verbs.has(verb)) {
        continue;
      }
      if (client.id > last) {
        this.#lastChosen.set(verb, client.id);
        return client.id;
      }
      first ??= client.id;
    }
    if (first !== undefined) {
      this.#lastChosen.set(verb, first);
    }
    return first;
  }

  isConnected(id: ClientId): boolean {
    const client = this.#clients.get(id);
    return client !== undefined && client.authenticated && !client.closing;
  }

  deliver(id: ClientId, delivery: Delivery): boolean {
    const client = this.#clients.get(id);
    if (client === undefined || client.closing) {
      return false;
    }
    const { peer, receivedOn, message } = delivery;
    const tokens = [
      this.#parts.random.uuid(),
      "sip",
      delivery.source,
      String(message.length),
      peer.protocol,
      peer.address,
      String(peer.port),
      wireTime(),
      delivery.txnId,
      delivery.dialogId ?? "",
    ];
    if (receivedOn !== undefined) {
      tokens.push(receivedOn.address, String(receivedOn.port));
    }
    tokens.push("");
    return this.#write(client, encodeFrame(tokens, message));
  }

  reply(id: ClientId, requestId: string, reply: CommandReply): void {
    const client = this.#clients.get(id);
    if (client === undefined) {
      return;
    }
    if (reply.type === "refused") {
      this.#parts.counters.add("commandsRefused");
      this.#answer(client, requestId, ["NOK", reply.text]);
      return;
    }
    const { peer, message } = reply;
    const tokens = [
      "OK",
      "application",
      String(message.length),
      peer.protocol,
      peer.address,
      String(peer.port),
      wireTime(),
      reply.txnId,
    ];
    // The echo of a response has two columns more than that of a request; drachtio-srf counts columns.
    if (reply.kind === "response") {
      tokens.push(reply.dialogId ?? "", "");
    }
    tokens.push("Msg sent:", "");
    this.#answer(client, requestId, tokens, message);
  }

  #answer(client: Client, requestId: string, tokens: readonly string[], sip?: Buffer): void {
    this.#write(client, encodeFrame([this.#parts.random.uuid(), "response", requestId, ...tokens], sip));
  }

  #write(client: Client, frame: Buffer): boolean {
    if (client.socket.destroyed || !client.socket.writable) {
      return false;
    }
    if (client.socket.writableLength + frame.length > this.#parts.limits.clientBacklogBytes) {
      // An application that stopped reading would make the engine hold its messages without end.
      this.#parts.log.error("an application does not read its messages, its connection is dropped", {
        client: client.id,
      });
      client.socket.destroy();
      return false;
    }
    this.#parts.counters.add("framesOut");
    // One write per frame, although joined ones would be cheaper: drachtio-srf takes all frames of one read without a turn
    // between them, and a BYE that came with the answer before it would meet a Dialog that nobody listens to yet.
    client.socket.write(frame);
    return true;
  }

  #accept(socket: Socket, outbound: OutboundEnd | undefined): void {
    const { limits, counters, log, clock } = this.#parts;
    // Without a listener an ECONNRESET between accept and the next line would end the process.
    socket.on("error", (error) => {
      log.debug("a control connection failed", { error });
    });
    const inbound = [...this.#clients.values()].filter((client) => client.outbound === undefined && !client.closing);
    const isFull = outbound === undefined && inbound.length >= limits.clients;
    // Whoever connects and says nothing must not keep applications out: the oldest of them gives way.
    const silent = isFull ? inbound.find(({ authenticated }) => !authenticated) : undefined;
    if (silent !== undefined) {
      silent.closing = true;
      silent.socket.destroy();
    }
    if (this.#closed || (isFull && silent === undefined)) {
      counters.add("clientsRefused");
      log.warn("a control connection was refused: too many connections", { limit: limits.clients });
      socket.destroy();
      return;
    }
    const client: Client = {
      id: this.#nextId,
      socket,
      decoder: new FrameDecoder(Math.min(strangerFrameBytes, limits.frameBytes)),
      verbs: new Set(),
      timers: new TimerSet(clock),
      outbound,
      tags: "",
      authenticated: false,
      idle: false,
      ready: false,
      closing: false,
      gone: false,
    };
    this.#nextId += 1;
    this.#clients.set(client.id, client);
    counters.add("clientsAccepted");
    const timeMs = outbound === undefined ? limits.authenticationMs : this.#parts.outbound.authenticationMs;
    client.timers.start("authentication", timeMs, () => {
      log.warn("a control connection did not authenticate in time", { client: client.id });
      socket.destroy();
    });
    socket.on("data", (chunk: Buffer) => {
      try {
        this.#read(client, chunk);
      } catch (error) {
        // Nothing may be thrown out of a socket callback; a connection that hit a bug is not to be trusted further.
        log.error("a frame of an application could not be served", { client: client.id, error });
        socket.destroy();
      }
    });
    socket.once("close", () => {
      client.timers.clear();
      client.closing = true;
      this.#clients.delete(client.id);
      counters.add("clientsClosed");
      if (client.authenticated) {
        log.info("an application disconnected", { client: client.id });
      }
      this.#gone(client);
    });
  }

  /** Tells the core, once, that nothing comes of that connection any more. */
  #gone(client: Client): void {
    if (client.gone) {
      return;
    }
    client.gone = true;
    if (!client.authenticated) {
      client.outbound?.failed();
      return;
    }
    try {
      this.#core.clientGone({ client: client.id, tags: client.tags, verbs: [...client.verbs] });
    } catch (error) {
      this.#parts.log.error("a lost application could not be cleaned up after", { client: client.id, error });
    }
  }

  #readySoon(client: Client): void {
    if (!client.ready) {
      client.timers.start("ready", readyAfterMs, () => {
        this.#ready(client);
      });
    }
  }

  #ready(client: Client): void {
    client.timers.stop("ready");
    if (client.ready || client.closing) {
      return;
    }
    client.ready = true;
    this.#core.clientReady(client.id);
  }

  #read(client: Client, chunk: Buffer): void {
    const { messages, error } = client.decoder.push(chunk);
    for (const message of messages) {
      if (client.closing) {
        return;
      }
      this.#parts.counters.add("framesIn");
      if (message.bytes > frameWarningBytes) {
        this.#parts.log.warn("a frame would be cut off by drachtio-server", {
          client: client.id,
          bytes: message.bytes,
        });
      }
      this.#obey(client, message);
    }
    if (error !== undefined && !client.closing) {
      this.#parts.log.warn("an application sent a broken frame, its connection is closed", {
        client: client.id,
        reason: error,
      });
      this.#close(client);
    }
  }

  #obey(client: Client, message: WireMessage): void {
    const [requestId = "", type = "", ...rest] = message.tokens;
    if (!requestIdPattern.test(requestId)) {
      this.#parts.log.warn("an application sent a frame without a request id, its connection is closed", {
        client: client.id,
      });
      this.#close(client);
      return;
    }
    if (type === "authenticate") {
      this.#authenticate(client, requestId, rest);
      return;
    }
    // REAL obeys connections that never authenticated; here nothing but `authenticate` is obeyed before it succeeded.
    if (!client.authenticated) {
      this.#parts.counters.add("authenticationFailures");
      this.#refuse(client, requestId, "not authenticated");
      return;
    }
    switch (type) {
      case "route":
      case "remove_route":
        this.#route(client, requestId, type, rest[0] ?? "");
        return;
      case "ping":
        this.#answer(client, requestId, ["OK", "pong"]);
        return;
      case "sip":
        this.#sip(client, requestId, rest, message.sip);
        return;
      case "proxy":
        this.#parts.counters.add("commandsRefused");
        this.#answer(client, requestId, ["NOK", "proxy not supported by embedded engine"]);
        return;
      default:
        this.#refuse(client, requestId, "Unknown message type");
    }
  }

  #authenticate(client: Client, requestId: string, tokens: readonly string[]): void {
    const [secret = "", tags = ""] = tokens;
    // Digests have one length, so the comparison tells neither the secret's length nor its common prefix.
    const given = createHash("sha256").update(secret).digest();
    if (!timingSafeEqual(given, this.#secretDigest)) {
      this.#parts.counters.add("authenticationFailures");
      this.#parts.log.warn("an application gave a wrong secret", { client: client.id });
      this.#refuse(client, requestId, "incorrect secret");
      return;
    }
    if (client.authenticated) {
      this.#answer(client, requestId, ["NOK", "already authenticated"]);
      return;
    }
    client.timers.stop("authentication");
    client.authenticated = true;
    client.decoder.limitBytes = this.#parts.limits.frameBytes;
    client.tags = canonicalTags(tags);
    const { advertised, local } = this.#parts.hostports();
    this.#answer(client, requestId, ["OK", advertised.join(","), wireVersion, local.join(",")]);
    this.#parts.log.info("an application connected", { client: client.id, tags: client.tags });
    if (client.outbound === undefined) {
      this.#readySoon(client);
    } else {
      client.outbound.ready(client.id);
      if (!this.#timers.has("idle")) {
        this.#watchIdle();
      }
    }
  }

  /** An application that forgets `srf.endSession` would leave one open connection for each call. */
  #watchIdle(): void {
    this.#timers.start("idle", this.#parts.outbound.idleMs, () => {
      const busy = this.#core.busyClients();
      const outbound = [...this.#clients.values()].filter((client) => client.outbound !== undefined);
      for (const client of outbound) {
        if (client.idle && !busy.has(client.id) && !client.closing) {
          this.#parts.log.info("a connection to an application that nothing needs is closed", { client: client.id });
          this.#close(client);
        }
        client.idle = !busy.has(client.id);
      }
      if (outbound.length > 0) {
        this.#watchIdle();
      }
    });
  }

  #route(client: Client, requestId: string, type: "route" | "remove_route", verb: string): void {
    if (!verbPattern.test(verb)) {
      this.#answer(client, requestId, ["NOK", "invalid verb"]);
      return;
    }
    if (verb.startsWith("cdr:")) {
      this.#parts.counters.add("commandsRefused");
      this.#answer(client, requestId, ["NOK", "cdr messages not supported by embedded engine"]);
      return;
    }
    if (type === "remove_route") {
      if (this.#parts.imitates("routes")) {
        client.verbs.clear();
        this.#answer(client, requestId, ["OK"]);
        return;
      }
      client.verbs.delete(verb);
      this.#parts.log.info("a verb was removed; drachtio-server would have removed every verb of the connection", {
        client: client.id,
        verb,
      });
      this.#answer(client, requestId, ["OK"]);
      return;
    }
    // drachtio-srf repeats its routes whenever a verb is added: verbs are a set, repeating one must not weigh it double.
    if (!client.verbs.has(verb) && client.verbs.size >= this.#parts.limits.verbsPerClient) {
      this.#answer(client, requestId, ["NOK", "too many verbs"]);
      return;
    }
    if (verb !== verb.toLowerCase()) {
      this.#parts.log.warn("a verb in upper case was routed; requests are looked up in lower case and never reach it", {
        client: client.id,
        verb,
      });
    }
    if (!client.verbs.has(verb)) {
      client.verbs.add(verb);
      this.#readySoon(client);
    }
    this.#answer(client, requestId, ["OK"]);
    this.#core.routed(verb);
  }

  #sip(client: Client, requestId: string, tokens: readonly string[], sip: Buffer | undefined): void {
    this.#ready(client);
    if (sip === undefined || sip.length === 0) {
      this.#refuse(client, requestId, "sip message missing");
      return;
    }
    const [txnId = "", dialogId = "", proxyUri = ""] = tokens;
    const command: SipCommand = { client: client.id, requestId, sip };
    if (isResponse(sip)) {
      if (txnId === "") {
        this.#refuse(client, requestId, "transaction id missing");
        return;
      }
      this.#core.respond(command, txnId);
      return;
    }
    if (txnId !== "" && startsWith(sip, "CANCEL ")) {
      this.#core.cancel(command, txnId);
      return;
    }
    if (dialogId !== "") {
      this.#core.requestInDialog(command, dialogId);
      return;
    }
    this.#core.requestOutOfDialog(command, proxyUri === "" ? undefined : proxyUri);
  }

  /** A protocol-level failure: `NO` and the end of the connection. */
  #refuse(client: Client, requestId: string, text: string): void {
    this.#parts.counters.add("commandsRefused");
    this.#answer(client, requestId, ["NO", text]);
    this.#close(client);
  }

  #close(client: Client): void {
    client.closing = true;
    this.#gone(client);
    client.socket.end();
    // A peer that never closes its side would hold the connection's slot.
    client.timers.start("closing", 2000, () => {
      client.socket.destroy();
    });
  }
}

/** Two connections with the same tags are the same application, in whatever order they name them. */
function canonicalTags(tags: string): string {
  return [...new Set(tags.split(",").map((tag) => tag.trim()))]
    .filter((tag) => tag !== "" && tag.length <= mostTagLength)
    .slice(0, mostTags)
    .toSorted()
    .join(",");
}

function isResponse(sip: Buffer): boolean {
  return startsWith(sip, "SIP/2.0 ");
}

function startsWith(bytes: Buffer, text: string): boolean {
  return bytes.subarray(0, text.length).toString("latin1") === text;
}

/** `HH:MM:SS.uuuuuu` in UTC. Informational only, therefore not taken from the injected clock, which has no wall time. */
function wireTime(): string {
  const now = Date.now();
  if (now !== wireTimeAtMs) {
    wireTimeAtMs = now;
    wireTimeText = `${new Date(now).toISOString().slice(11, 23)}000`;
  }
  return wireTimeText;
}

let wireTimeAtMs = Number.NaN;
let wireTimeText = "";
