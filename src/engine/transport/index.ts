import { isIP } from "node:net";

import type { EngineLog } from "../options.ts";
import { markSource } from "../sip/answer.ts";
import { param, parseVias, type Via } from "../sip/grammar.ts";
import type { SipMessage } from "../sip/message.ts";
import { defaultMessageLimits, type MessageLimits, type ParseOutcome, parseMessage } from "../sip/parse.ts";
import type { StreamPiece } from "../sip/stream.ts";
import type { Clock } from "../timers.ts";
import { closeness, isLoopback, MachineAddresses } from "./machine-addresses.ts";
import { canonicalAddress, Sources } from "./sources.ts";
import { isWildcard, TcpTransport } from "./tcp.ts";
import { defaultTcpLimits, type StreamPeer, TcpConnection, type TcpLimits } from "./tcp-connection.ts";
import { secureContext, type TlsOptions } from "./tls.ts";
import { UdpListener } from "./udp.ts";
import { UdpProbes } from "./udp-probe.ts";

export type Protocol = "udp" | "tcp" | "tls";

/** RFC 3261 §19.1.2: where a URI or a Via names no port. */
export function defaultPort(protocol: Protocol): number {
  return protocol === "tls" ? 5_061 : 5_060;
}

/** Where a message came from. */
export interface Source {
  readonly protocol: Protocol;
  readonly address: string;
  readonly port: number;
  /** Our own address and port that it reached. */
  readonly local: { readonly address: string; readonly port: number };
  /** UDP: length of the datagram, which limits what may go back to an address that may be forged. */
  readonly bytes?: number;
  /** The TCP or TLS connection; opaque outside of the transport. */
  readonly connection?: object;
  /** TLS: the domain that the other end of a connection of ours has shown to be. */
  readonly domain?: string;
}

/** Where a message goes to. */
export interface Target {
  readonly protocol: Protocol;
  /** An IP address: names are resolved before (`resolve.ts`). */
  readonly address: string;
  readonly port: number;
  /** Our own address to send from, when it matters (responses, RFC 3581 §4). */
  readonly local?: { readonly address: string; readonly port: number };
  /** The connection to prefer while it is open. */
  readonly connection?: object;
  /** TLS: the domain that the certificate of the other end has to name (RFC 5922 §4); the address when left out. */
  readonly domain?: string;
  /** How long to wait for a new connection, in milliseconds, where the usual time is too long. */
  readonly connectTimeoutMs?: number;
}

/** The other end of a connection. */
export interface Peer {
  readonly protocol: Protocol;
  readonly address: string;
  readonly port: number;
  readonly domain?: string | undefined;
  readonly connection: object;
}

export interface Listener {
  readonly protocol: Protocol;
  readonly address: string;
  readonly port: number;
  /** The address that Via and Contact show instead, where one is configured. */
  readonly external?: string;
}

export interface TransportLimits {
  readonly message: MessageLimits;
  readonly tcp: TcpLimits;
}

const defaultTransportLimits: TransportLimits = { message: defaultMessageLimits, tcp: defaultTcpLimits };

/** One address to listen on. Port 0 takes a free one, the same for UDP and TCP of one address. */
export interface ListenOption {
  readonly protocol: Protocol;
  readonly address: string;
  readonly port: number;
  /** For `tls`, and only for it. */
  readonly tls?: TlsOptions | undefined;
}

export interface TransportOptions {
  readonly listen: readonly ListenOption[];
  readonly externalAddress?: string | undefined;
  readonly sources: readonly string[] | "any";
  readonly limits?: TransportLimits | undefined;
  /** RFC 3261 §18.1.1: requests over 1,300 bytes go by TCP instead of UDP. Default true. */
  readonly largeByTcp?: boolean | undefined;
  readonly clock: Clock;
  readonly log: EngineLog;
}

export interface TransportStats {
  readonly udpSockets: number;
  readonly tcpConnections: number;
  /** Sockets that ask a silent UDP address whether anybody listens. */
  readonly probes: number;
  /** Totals since the start. */
  readonly messagesIn: number;
  readonly messagesOut: number;
  readonly malformed: number;
  /** Dropped without an answer, because the source is not on the list and the message belongs to nothing. */
  readonly unlisted: number;
  /** Responses that were not meant for us (RFC 3261 §18.1.2). */
  readonly strayVia: number;
  readonly sendFailures: number;
  readonly connectionsRefused: number;
  /** TLS handshakes that came to nothing, in either direction. */
  readonly handshakesFailed: number;
  /** Exceptions caught at a socket: each is a bug. */
  readonly faults: number;
}

type MutableCounts = {
  -readonly [
    Name in Exclude<
      keyof TransportStats,
      "udpSockets" | "tcpConnections" | "probes" | "connectionsRefused" | "handshakesFailed"
    >
  ]: TransportStats[Name];
};

/** Thrown when a listen address cannot be had: a bad start. */
export class ListenError extends Error {
  readonly code = "ELISTEN";

  constructor(protocol: Protocol, address: string, port: number, cause: unknown) {
    super(`cannot listen on ${protocol} ${address} port ${port}`, { cause });
    this.name = "ListenError";
  }
}

const mostFreePortTries = 20;

// A firewall that swallows TCP must not hold a call up for long; whoever did so is left alone for a while.
const streamInsteadMs = 1_000;
const datagramPeerMs = 600_000;
const mostDatagramPeers = 1_000;

/** UDP, TCP and TLS: sockets in, parsed messages out, and the rules of RFC 3261 §18 between them. */
export class TransportLayer {
  /** A well-formed message from a source that is listened to. Requests carry `received` and `rport` in their Via. */
  onMessage: (message: SipMessage, source: Source) => void = () => undefined;
  /** What could not be parsed, from a source on the list. */
  onMalformed: (outcome: Extract<ParseOutcome, { ok: false }>, source: Source) => void = () => undefined;
  /** A message could not be sent. The callback given to `send` is called as well. */
  onFailure: (target: Target, error: Error) => void = () => undefined;
  /** A TCP connection broke (not: ended in order). */
  onBroken: (peer: Peer) => void = () => undefined;
  /** Nobody listens at a UDP address that was probed. */
  onRefused: (peer: { readonly address: string; readonly port: number }) => void = () => undefined;
  /** Whether a message from an unlisted source belongs to a transaction or dialog of ours. */
  isKnown: (message: SipMessage) => boolean = () => false;
  /** Whether a transaction still needs this connection. */
  isInUse: (peer: Peer) => boolean = () => false;

  /** Whether a dialog needs this connection: it then stays open although nothing is sent on it. */
  isNeeded: (connection: object) => boolean = () => false;

  readonly #options: TransportOptions;
  readonly #limits: TransportLimits;
  readonly #tcp: TcpTransport;
  readonly #udp: UdpListener[] = [];
  readonly #probes: UdpProbes;
  /** UDP peers that refused TCP, by address and port, and until when they are not asked again. */
  readonly #datagramPeers = new Map<string, number>();
  readonly #listeners: Listener[] = [];
  readonly #tls = new Map<Listener, TlsOptions>();
  /** Listeners on `::` that take IPv4 as well. */
  readonly #dualStack = new Set<Listener>();
  readonly #machine: MachineAddresses;
  #sources: Sources;
  #closed = false;
  readonly #counts: MutableCounts = {
    messagesIn: 0,
    messagesOut: 0,
    malformed: 0,
    unlisted: 0,
    strayVia: 0,
    sendFailures: 0,
    faults: 0,
  };

  /** Throws `SourceError` for a source list that is none. */
  constructor(options: TransportOptions) {
    this.#options = options;
    this.#limits = options.limits ?? defaultTransportLimits;
    this.#machine = new MachineAddresses(options.clock);
    this.#sources = new Sources(options.sources);
    this.#probes = new UdpProbes(options.clock, (peer) => {
      this.#guard(() => {
        this.onRefused(peer);
      });
    });
    this.#tcp = new TcpTransport({
      limits: this.#limits.tcp,
      messageLimits: this.#limits.message,
      clock: options.clock,
      events: {
        onPiece: (piece, connection) => this.#onPiece(piece, connection),
        isListed: (address) => this.#sources.allows(address),
        isInUse: (connection) => this.isInUse(describe(connection)),
        isNeeded: (connection) => this.isNeeded(connection),
        onClosed: (connection, error) => {
          if (error !== undefined && !this.#closed) {
            this.onBroken(describe(connection));
          }
        },
        onError: (error) => {
          this.#fault(error);
        },
      },
    });
  }

  /** Opens all listen addresses; rejects with `ListenError` and leaves nothing open when one of them is taken. */
  async start(): Promise<void> {
    try {
      for (const one of this.#options.listen) {
        const { address, protocol, port } = one;
        const partner = this.#options.listen.find(
          (other) =>
            other.address === address &&
            other.protocol !== protocol &&
            other.protocol !== "tls" &&
            protocol !== "tls" &&
            other.port === 0,
        );
        if (port !== 0 || partner === undefined) {
          await this.#open(one);
        } else if (protocol === "udp") {
          await this.#openPair(address);
        }
      }
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#probes.close();
    await Promise.all([this.#tcp.close(), ...this.#udp.map(async (socket) => socket.close())]);
    this.#udp.length = 0;
    this.#listeners.length = 0;
    this.#tls.clear();
    this.#dualStack.clear();
  }

  listeners(): readonly Listener[] {
    return this.#listeners;
  }

  /** Replaces the list of who may send requests, from the next message on. Throws `SourceError`. */
  setSources(list: readonly string[] | "any"): void {
    this.#sources = new Sources(list);
  }

  /** Whether the list of sources names that address; "any" names none. */
  isNamed(address: string): boolean {
    return this.#sources.names(address);
  }

  /** RFC 3261 §17: on a reliable transport nothing is retransmitted. */
  isReliable(protocol: Protocol): boolean {
    return protocol !== "udp";
  }

  /** Whether a connection that a message came over is still open for requests of ours. */
  takesRequests(connection: object): boolean {
    return connection instanceof TcpConnection && connection.takesRequests;
  }

  /** The address families that can be sent from with that protocol. */
  families(protocol: Protocol): (4 | 6)[] {
    const families = new Set<4 | 6>();
    for (const listener of this.#listeners) {
      if (listener.protocol === protocol) {
        families.add(isIP(listener.address) === 6 ? 6 : 4);
        if (this.#dualStack.has(listener)) {
          families.add(4);
        }
      }
    }
    return [...families];
  }

  /** The listener that a message to that target leaves from; undefined when none speaks its protocol and family. */
  listenerFor(target: Target): Listener | undefined {
    const { local } = target;
    const family = familyOf(target.address);
    let best: Listener | undefined;
    for (const one of this.#listeners) {
      const reaches = familyOf(one.address) === family || (family === 4 && this.#dualStack.has(one));
      if (one.protocol !== target.protocol || !reaches) {
        continue;
      }
      if (one.address === local?.address && one.port === local.port) {
        return one;
      }
      // Nearly always there is only one, and nothing to compare.
      if (best === undefined || closeness(one.address, target.address) > closeness(best.address, target.address)) {
        best = one;
      }
    }
    return best;
  }

  /** What to show as our own address towards that target: Via sent-by, Contact and `@localhost`. */
  sentBy(target: Target): { readonly host: string; readonly port: number } | undefined {
    const listener = this.listenerFor(target);
    if (listener === undefined) {
      return undefined;
    }
    // Through the loopback interface nobody sees the external address.
    const { external } = listener;
    if (external !== undefined && !isLoopback(target.address) && isReadable(external, target.address)) {
      return { host: external, port: listener.port };
    }
    const host = isWildcard(listener.address) ? this.#machine.towards(target.address) : listener.address;
    return { host: host ?? listener.address, port: listener.port };
  }

  /** Whether host and port name one of our own listen addresses, external ones included. */
  isOwnAddress(host: string, port: number): boolean {
    const wanted = host.includes(":") ? canonicalAddress(host) : host.toLowerCase();
    return this.#listeners.some(
      (one) =>
        one.port === port &&
        (one.address === wanted ||
          one.external?.toLowerCase() === wanted ||
          (isWildcard(one.address) && this.#machine.has(wanted))),
    );
  }

  /** RFC 3261 §18.2.2, RFC 3581 §4: where the response to a request with that topmost Via goes. */
  responseTarget(via: Via | undefined, source: Source): Target {
    const { protocol, address, local, connection } = source;
    // `maddr` is left aside: it is for multicast, which we do not listen to, and would send our packets to any host.
    const askedPort = protocol === "udp" && via !== undefined && param(via.params, "rport") !== undefined;
    // What came without a readable Via is answered to where it came from.
    const port = via === undefined || askedPort ? source.port : (via.port ?? defaultPort(protocol));
    return {
      protocol,
      address,
      port,
      local,
      ...(connection === undefined ? {} : { connection }),
      // Without the connection a new one is opened, to whom the Via names (RFC 5922 §4).
      ...(protocol === "tls" && via !== undefined ? { domain: via.host } : {}),
    };
  }

  /**
   * Sends bytes. Never throws; a failure is told to `onFailure` and to `onError`, always later than this call. On UDP
   * only what our own machine refuses counts, because ICMP does not reach an unconnected socket.
   */
  send(bytes: Buffer, target: Target, onError?: (error: Error) => void): void {
    const failed = (error: Error): void => {
      if (this.#closed) {
        return;
      }
      this.#counts.sendFailures += 1;
      this.#guard(() => {
        this.onFailure(target, error);
        onError?.(error);
      });
    };
    const listener = this.listenerFor(target);
    if (listener === undefined) {
      queueMicrotask(() => {
        failed(new Error(`no ${target.protocol} listener reaches this address family`));
      });
      return;
    }
    this.#counts.messagesOut += 1;
    if (target.protocol === "udp") {
      const socket = this.#udp.find((one) => one.address === listener.address && one.port === listener.port);
      socket?.send(bytes, target.address, target.port, failed);
      return;
    }
    const { connectTimeoutMs } = target;
    const connection = target.connection instanceof TcpConnection ? target.connection : undefined;
    const tls = this.#tls.get(listener);
    this.#tcp.send(bytes, { peer: streamPeer(target), connection, local: listener, tls, connectTimeoutMs }, failed);
  }

  /**
   * RFC 3261 §18.1.1: the TCP target for a request that is too large for UDP; undefined where it is none, where we have no
   * TCP, where the peer refused it not long ago, and where the engine's options say so.
   */
  streamInstead(target: Target): Target | undefined {
    if (target.protocol !== "udp" || this.#options.largeByTcp === false) {
      return undefined;
    }
    const { address, port } = target;
    const stream: Target = { protocol: "tcp", address, port, connectTimeoutMs: streamInsteadMs };
    const refusedUntilMs = this.#datagramPeers.get(peerKey(target)) ?? -Infinity;
    return refusedUntilMs > this.#options.clock.now() || this.listenerFor(stream) === undefined ? undefined : stream;
  }

  /** That peer did not take TCP. */
  refusedStream(target: Target): void {
    const key = peerKey(target);
    // The newest goes to the end, so that the first is the one to give up.
    this.#datagramPeers.delete(key);
    const [oldest] = this.#datagramPeers.keys();
    if (this.#datagramPeers.size >= mostDatagramPeers && oldest !== undefined) {
      this.#datagramPeers.delete(oldest);
    }
    this.#datagramPeers.set(key, this.#options.clock.now() + datagramPeerMs);
  }

  /** Asks whether anybody listens at a UDP address; `onRefused` tells when nobody does. */
  probe(target: Target): void {
    const listener = this.listenerFor(target);
    if (listener !== undefined && !this.#closed) {
      this.#probes.send(target, isIP(listener.address) === isIP(target.address) ? listener.address : undefined);
    }
  }

  /** A request to that target got no answer: a connection that was silent for as long is dead, and broken off. */
  doubt(target: Target, silentMs: number): void {
    const connection =
      target.connection instanceof TcpConnection ? target.connection : this.#tcp.connectionTo(streamPeer(target));
    if (target.protocol !== "udp" && connection !== undefined && connection.silentMs >= silentMs) {
      connection.destroy(new Error("the peer has been silent"));
    }
  }

  stats(): TransportStats {
    return {
      ...this.#counts,
      udpSockets: this.#udp.length,
      tcpConnections: this.#tcp.connections,
      probes: this.#probes.size,
      connectionsRefused: this.#tcp.refused,
      handshakesFailed: this.#tcp.handshakesFailed,
    };
  }

  async #open(option: ListenOption): Promise<number> {
    const { protocol, port, tls } = option;
    const address = canonicalAddress(option.address);
    // `::` takes IPv4 too where that is not listened to by its own.
    const ipv6Only =
      address === "::" &&
      this.#options.listen.some(
        (other) => other.protocol === protocol && other.port === port && isIP(other.address) === 4,
      );
    try {
      if (tls !== undefined) {
        // Tried first, so that a certificate that cannot be used stops the start and not the first call.
        secureContext(tls);
      }
      const bound =
        protocol === "udp"
          ? await this.#openUdp(address, port, ipv6Only)
          : await this.#tcp.listen(address, port, { tls, ipv6Only });
      const external = this.#options.externalAddress;
      // An address of one family means nothing to a peer of the other.
      const shown =
        external !== undefined && !isLoopback(address) && (address === "::" || isReadable(external, address));
      const listener: Listener = { protocol, address, port: bound, ...(shown ? { external } : {}) };
      this.#listeners.push(listener);
      if (tls !== undefined) {
        this.#tls.set(listener, tls);
        if (tls.verifyServers === false) {
          this.#options.log.warn(
            "TLS certificates of servers are not verified: anybody in between can read and change calls",
          );
        }
      }
      if (address === "::" && !ipv6Only) {
        this.#dualStack.add(listener);
      }
      return bound;
    } catch (error) {
      throw new ListenError(protocol, address, port, error);
    }
  }

  async #openUdp(address: string, port: number, ipv6Only: boolean): Promise<number> {
    const socket = new UdpListener(
      address,
      {
        onDatagram: (bytes, from, receiver) => {
          this.#guard(() => {
            this.#onDatagram(bytes, from, receiver);
          });
        },
        onError: (error) => {
          this.#fault(error);
        },
      },
      ipv6Only,
    );
    const bound = await socket.bind(port);
    this.#udp.push(socket);
    return bound;
  }

  /** One free port for both protocols: a peer may answer a UDP request over TCP to the port it knows. */
  async #openPair(address: string): Promise<void> {
    for (let attempt = 1; ; attempt += 1) {
      const port = await this.#open({ protocol: "udp", address, port: 0 });
      try {
        await this.#open({ protocol: "tcp", address, port });
        return;
      } catch (error) {
        if (attempt === mostFreePortTries) {
          throw error;
        }
        this.#listeners.pop();
        await this.#udp.pop()?.close();
      }
    }
  }

  #onDatagram(bytes: Buffer, from: { readonly address: string; readonly port: number }, socket: UdpListener): void {
    // RFC 5626 §4.4: keep-alives of CRLF (and the single NUL some phones send) are no messages.
    if (bytes.length <= 4 && bytes.every((byte) => byte === 13 || byte === 10 || byte === 0)) {
      return;
    }
    const local = { address: socket.address, port: socket.port };
    this.#onBytes(bytes, { protocol: "udp", ...from, local, bytes: bytes.length }, "datagram");
  }

  #onPiece(piece: StreamPiece, connection: TcpConnection): boolean {
    if (piece.type === "ping") {
      return true;
    }
    const { local } = connection;
    const { protocol, address, port, domain } = connection.peer;
    const source: Source = { protocol, address, port, local, connection, ...(domain === undefined ? {} : { domain }) };
    let listenedTo = true;
    this.#guard(() => {
      listenedTo = this.#onBytes(piece.bytes, source, "stream");
    });
    return listenedTo;
  }

  /** False when the source is a stranger whose message belongs to nothing. */
  #onBytes(bytes: Buffer, source: Source, framing: "datagram" | "stream"): boolean {
    this.#counts.messagesIn += 1;
    const outcome = parseMessage(bytes, this.#limits.message, framing);
    if (!this.#sources.allows(source.address) && !(outcome.ok && this.isKnown(outcome.message))) {
      this.#counts.unlisted += 1;
      return false;
    }
    if (!outcome.ok) {
      this.#counts.malformed += 1;
      this.onMalformed(outcome, source);
      return true;
    }
    const { message } = outcome;
    if (message.kind === "request") {
      markSource(message.headers, source.address, source.port);
    } else if (!this.#isForUs(message.headers.all("via"), source.protocol)) {
      this.#counts.strayVia += 1;
      return true;
    }
    this.onMessage(message, source);
    return true;
  }

  /** RFC 3261 §18.1.2 (sent-by is ours) and §8.1.3.3 (one Via only, as we are the client and no proxy). */
  #isForUs(lines: readonly string[], protocol: Protocol): boolean {
    const [line = ""] = lines;
    const [via, ...others] = parseVias(line) ?? [];
    return (
      lines.length === 1 &&
      others.length === 0 &&
      via !== undefined &&
      this.isOwnAddress(via.host, via.port ?? defaultPort(protocol))
    );
  }

  #guard(run: () => void): void {
    try {
      run();
    } catch (error) {
      this.#fault(error);
    }
  }

  #fault(error: unknown): void {
    this.#counts.faults += 1;
    this.#options.log.error("a socket callback failed", { error });
  }
}

/** Of an address, not of a name. */
function familyOf(address: string): 4 | 6 {
  return address.includes(":") ? 6 : 4;
}

function peerKey({ address, port }: Target): string {
  return `${address} ${port}`;
}

function streamPeer({ protocol, address, port, domain }: Target): StreamPeer {
  return protocol === "tls"
    ? { protocol, address, port, domain: domain ?? address }
    : { protocol: "tcp", address, port };
}

function describe(connection: TcpConnection): Peer {
  return { ...connection.peer, connection };
}

/** Whether a peer at `address` can do something with a host: a name says everything to everybody. */
function isReadable(host: string, address: string): boolean {
  return isIP(host) === 0 || isIP(host) === isIP(address);
}
