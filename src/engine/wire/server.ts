import { createHash, timingSafeEqual } from "node:crypto";
import { createServer } from "node:net";
import type { AddressInfo, Server, Socket } from "node:net";

import type { Counters } from "../counters.ts";
import type { ClientId, CommandReply, Delivery, EngineEvents, SipCommand, SipCommands } from "../events.ts";
import type { EngineLimits, EngineLog } from "../options.ts";
import type { Clock, Random } from "../timers.ts";
import { TimerSet } from "../timers.ts";
import { encodeFrame, FrameDecoder, frameWarningBytes } from "./frame.ts";
import type { WireMessage } from "./frame.ts";

/** What drachtio-srf sees as the server's version; it only parses the `v0.9.9` in front (pings need at least v0.8.2). */
export const wireVersion = "v0.9.9-patchbay";

const verbPattern = /^[a-zA-Z0-9\-.!%*_+`'~:]{1,32}$/;
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
}

interface Client {
  readonly id: ClientId;
  readonly socket: Socket;
  readonly decoder: FrameDecoder;
  readonly verbs: Set<string>;
  readonly timers: TimerSet;
  authenticated: boolean;
  closing: boolean;
}

export interface WireStats {
  readonly clients: number;
  readonly routes: number;
}

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
        this.#accept(socket);
      } catch (error) {
        parts.log.error("a control connection could not be accepted", { error });
        socket.destroy();
      }
    });
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

  /** Closes every connection and the listener. Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) {
      return;
    }
    this.#closed = true;
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
    return { clients: this.#clients.size, routes };
  }

  choose(verb: string): ClientId | undefined {
    const last = this.#lastChosen.get(verb) ?? 0;
    let first: ClientId | undefined;
    // Ids grow, and a Map keeps the order of insertion: the first id above the last one chosen is the next in line.
    for (const client of this.#clients.values()) {
      if (!client.authenticated || client.closing || !client.verbs.has(verb)) {
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
    const { peer, receivedOn } = delivery;
    const tokens = [
      this.#parts.random.uuid(),
      "sip",
      delivery.source,
      String(delivery.message.length),
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
    return this.#write(client, encodeFrame(tokens, delivery.message));
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
    const { peer } = reply;
    const tokens = [
      "OK",
      "application",
      String(reply.message.length),
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
    this.#answer(client, requestId, tokens, reply.message);
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
    client.socket.write(frame);
    return true;
  }

  #accept(socket: Socket): void {
    const { limits, counters, log, clock } = this.#parts;
    // Without a listener an ECONNRESET between accept and the next line would end the process.
    socket.on("error", (error) => {
      log.debug("a control connection failed", { error });
    });
    if (this.#closed || this.#clients.size >= limits.clients) {
      counters.add("clientsRefused");
      log.warn("a control connection was refused: too many connections", { limit: limits.clients });
      socket.destroy();
      return;
    }
    const client: Client = {
      id: this.#nextId,
      socket,
      decoder: new FrameDecoder(limits.frameBytes),
      verbs: new Set(),
      timers: new TimerSet(clock),
      authenticated: false,
      closing: false,
    };
    this.#nextId += 1;
    this.#clients.set(client.id, client);
    counters.add("clientsAccepted");
    client.timers.start("authentication", limits.authenticationMs, () => {
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
        try {
          this.#core.clientGone(client.id);
        } catch (error) {
          log.error("a lost application could not be cleaned up after", { client: client.id, error });
        }
      }
    });
  }

  #read(client: Client, chunk: Buffer): void {
    const { messages, error } = client.decoder.push(chunk);
    for (const message of messages) {
      if (client.closing) {
        return;
      }
      this.#parts.counters.add("framesIn");
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
    client.timers.stop("authentication");
    client.authenticated = true;
    const { advertised, local } = this.#parts.hostports();
    this.#answer(client, requestId, ["OK", advertised.join(","), wireVersion, local.join(",")]);
    this.#parts.log.info("an application connected", { client: client.id, tags: tags === "" ? [] : tags.split(",") });
  }

  #route(client: Client, requestId: string, type: "route" | "remove_route", verb: string): void {
    if (!verbPattern.test(verb)) {
      this.#answer(client, requestId, ["NOK", "invalid verb"]);
      return;
    }
    if (type === "remove_route") {
      // REAL drops all verbs of the connection here, whichever one is named.
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
    client.verbs.add(verb);
    this.#answer(client, requestId, ["OK"]);
  }

  #sip(client: Client, requestId: string, tokens: readonly string[], sip: Buffer | undefined): void {
    if (sip === undefined || sip.length === 0) {
      this.#refuse(client, requestId, "sip message missing");
      return;
    }
    if (sip.length > frameWarningBytes) {
      this.#parts.log.warn("a frame would be cut off by drachtio-server", { client: client.id, bytes: sip.length });
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
    client.socket.end();
    // A peer that never closes its side would hold the connection's slot.
    client.timers.start("closing", 2000, () => {
      client.socket.destroy();
    });
  }
}

function isResponse(sip: Buffer): boolean {
  return startsWith(sip, "SIP/2.0 ");
}

function startsWith(bytes: Buffer, text: string): boolean {
  return bytes.subarray(0, text.length).toString("latin1") === text;
}

/** `HH:MM:SS.uuuuuu` in UTC. Informational only, therefore not taken from the injected clock, which has no wall time. */
function wireTime(): string {
  return `${new Date().toISOString().slice(11, 23)}000`;
}
