import { connect, createServer, type Server, type Socket } from "node:net";

import type { MessageLimits } from "../sip/parse.ts";
import { StreamFramer, type StreamPiece } from "../sip/stream.ts";
import { type Clock, TimerSet } from "../timers.ts";
import { plainAddress } from "./sources.ts";

export interface TcpLimits {
  readonly connections: number;
  /** Connections that one address may open to us. */
  readonly connectionsPerAddress: number;
  readonly connectTimeoutMs: number;
  /** A connection that nothing uses is closed after this long without a byte. */
  readonly idleMs: number;
  /** How long one message may take from its first byte to its last. */
  readonly partialMessageMs: number;
  /** Bytes that may wait for a slow peer before the connection is given up. */
  readonly backlogBytes: number;
}

export const defaultTcpLimits: TcpLimits = {
  connections: 1_024,
  connectionsPerAddress: 64,
  connectTimeoutMs: 5_000,
  idleMs: 120_000,
  partialMessageMs: 10_000,
  backlogBytes: 1024 * 1024,
};

export interface TcpEvents {
  /** One piece of the stream. False for a message of a stranger that belongs to nothing. */
  onPiece(piece: StreamPiece, connection: TcpConnection): boolean;
  /** Whether the peer may be answered at all before it sent a message that we know. */
  isListed(address: string): boolean;
  /** Whether a transaction still needs the connection. */
  isInUse(connection: TcpConnection): boolean;
  /** Whether a dialog needs the connection: it may lie idle for as long as the dialog lives. */
  isNeeded(connection: TcpConnection): boolean;
  /** The connection is gone; `error` when it did not simply end. */
  onClosed(connection: TcpConnection, error: Error | undefined): void;
  onError(error: unknown): void;
}

export interface PeerAddress {
  readonly address: string;
  readonly port: number;
}

interface ConnectionParts {
  readonly socket: Socket;
  readonly peer: PeerAddress;
  readonly local: PeerAddress;
  readonly opener: "us" | "peer";
  readonly limits: TcpLimits;
  readonly messageLimits: MessageLimits;
  readonly clock: Clock;
  readonly events: TcpEvents;
}

// While a peer that closed its half still waits for our answer, this is how often we look whether it has got it.
const halfClosedCheckMs = 1_000;

/** One TCP connection with its framing, its limits and what still waits to be sent. */
export class TcpConnection {
  readonly peer: PeerAddress;
  readonly opener: "us" | "peer";
  readonly #parts: ConnectionParts;
  readonly #framer: StreamFramer;
  readonly #timers: TimerSet;
  readonly #unsent = new Set<(error: Error) => void>();
  #lastActivityMs: number;
  #state: "connecting" | "open" | "halfClosed" | "closed";
  #error: Error | undefined;
  /** A stranger that never sent anything known gets less time and no pong. */
  #trusted: boolean;

  constructor(parts: ConnectionParts) {
    this.#parts = parts;
    this.peer = parts.peer;
    this.opener = parts.opener;
    this.#framer = new StreamFramer(parts.messageLimits);
    this.#timers = new TimerSet(parts.clock);
    this.#lastActivityMs = parts.clock.now();
    this.#state = parts.opener === "us" ? "connecting" : "open";
    this.#trusted = parts.opener === "us" || parts.events.isListed(parts.peer.address);
    this.#attach(parts.socket);
    if (this.#state === "connecting") {
      this.#timers.start("connect", parts.limits.connectTimeoutMs, () => {
        this.destroy(new Error("the connection was not established in time"));
      });
    } else {
      this.#watchIdle();
    }
  }

  /** Where the connection ends on our side: the listener's address, not an ephemeral port of ours. */
  get local(): PeerAddress {
    return this.#parts.local;
  }

  get isOpen(): boolean {
    return this.#state !== "closed";
  }

  /** Whether requests may go out on it: not when the peer has already said goodbye. */
  get takesRequests(): boolean {
    return this.#state === "connecting" || this.#state === "open";
  }

  send(bytes: Buffer, onError: (error: Error) => void): void {
    const { socket, limits } = this.#parts;
    if (this.#state === "closed") {
      queueMicrotask(() => {
        onError(this.#error ?? new Error("the connection is closed"));
      });
      return;
    }
    this.#unsent.add(onError);
    this.#lastActivityMs = this.#parts.clock.now();
    if (socket.writableLength + bytes.length > limits.backlogBytes) {
      this.destroy(new Error("the peer does not read"));
      return;
    }
    socket.write(bytes, (error) => {
      // What failed is told to all that wait when the connection closes.
      if (error === undefined || error === null) {
        this.#unsent.delete(onError);
      }
    });
  }

  /** Lets what was written go out, then closes. */
  end(): void {
    if (this.#state !== "closed") {
      this.#parts.socket.destroySoon();
    }
  }

  destroy(error?: Error): void {
    this.#error ??= error;
    this.#parts.socket.destroy();
    this.#closed();
  }

  #attach(socket: Socket): void {
    const guarded = (run: () => void): void => {
      try {
        run();
      } catch (error) {
        this.#parts.events.onError(error);
        this.destroy();
      }
    };
    socket.on("connect", () => {
      if (this.#state === "connecting") {
        this.#state = "open";
        this.#timers.stop("connect");
        this.#watchIdle();
      }
    });
    socket.on("data", (chunk) => {
      guarded(() => {
        this.#read(chunk);
      });
    });
    socket.on("end", () => {
      guarded(() => {
        this.#peerEnded();
      });
    });
    socket.on("error", (error) => {
      this.#error ??= error;
    });
    socket.on("close", () => {
      guarded(() => {
        this.#closed();
      });
    });
  }

  #read(chunk: Buffer): void {
    this.#lastActivityMs = this.#parts.clock.now();
    let pinged = false;
    for (const piece of this.#framer.push(chunk)) {
      if (this.#state === "closed") {
        return;
      }
      if (piece.type === "ping") {
        pinged = true;
        continue;
      }
      this.#timers.stop("partial");
      if (this.#parts.events.onPiece(piece, this)) {
        this.#trusted = true;
      } else if (!this.#trusted) {
        // A stranger gets no answer and no second message. On a connection that a call of ours runs over, what belongs to
        // nothing (a keep-alive by OPTIONS, a late repetition) must not cost the call its connection.
        this.destroy();
        return;
      }
      if (piece.type === "broken") {
        this.end();
        return;
      }
    }
    if (pinged && this.#trusted) {
      // RFC 5626 §4.4.1: a double CRLF is answered by a single one; one per chunk is enough, however many came.
      this.send(Buffer.from("\r\n"), () => undefined);
    }
    if (!this.#framer.isMidMessage) {
      this.#timers.stop("partial");
    } else if (!this.#timers.has("partial")) {
      this.#timers.start("partial", this.#parts.limits.partialMessageMs, () => {
        this.destroy(new Error("a message was not completed in time"));
      });
    }
  }

  #peerEnded(): void {
    if (this.#state === "closed") {
      return;
    }
    this.#state = "halfClosed";
    this.#timers.stop("partial");
    this.#endWhenUnused();
  }

  /** RFC 3261 §18.2.2: responses go back on this connection while it is open, so it stays until they have gone. */
  #endWhenUnused(): void {
    if (this.#parts.events.isInUse(this)) {
      this.#timers.start("halfClosed", halfClosedCheckMs, () => {
        this.#endWhenUnused();
      });
    } else {
      this.end();
    }
  }

  #watchIdle(): void {
    const { limits, clock } = this.#parts;
    const allowedMs = this.#trusted ? limits.idleMs : Math.min(limits.idleMs, limits.partialMessageMs);
    const leftMs = this.#lastActivityMs + allowedMs - clock.now();
    this.#timers.start("idle", Math.max(leftMs, 1), () => {
      const idle = clock.now() - this.#lastActivityMs >= (this.#trusted ? limits.idleMs : allowedMs);
      // What a transaction or a dialog needs stays, and is looked at again after another idle time.
      if (idle && !this.#parts.events.isInUse(this) && !this.#parts.events.isNeeded(this)) {
        this.end();
        return;
      }
      if (idle) {
        this.#lastActivityMs = clock.now();
      }
      this.#watchIdle();
    });
  }

  #closed(): void {
    if (this.#state === "closed") {
      return;
    }
    this.#state = "closed";
    this.#timers.clear();
    const waiting = [...this.#unsent];
    this.#unsent.clear();
    const error = this.#error ?? (waiting.length > 0 ? new Error("the connection was closed") : undefined);
    this.#parts.events.onClosed(this, this.#error);
    for (const onError of waiting) {
      queueMicrotask(() => {
        onError(error ?? new Error("the connection was closed"));
      });
    }
  }
}

export interface TcpParts {
  readonly limits: TcpLimits;
  readonly messageLimits: MessageLimits;
  readonly clock: Clock;
  readonly events: TcpEvents;
}

/** All TCP listeners and connections of the engine. */
export class TcpTransport {
  readonly #parts: TcpParts;
  readonly #events: TcpEvents;
  readonly #servers = new Set<Server>();
  readonly #connections = new Set<TcpConnection>();
  /** Connections that a request to that address and port can go out on, by `address port`. */
  readonly #byPeer = new Map<string, TcpConnection>();
  readonly #openedByAddress = new Map<string, number>();
  #refused = 0;

  constructor(parts: TcpParts) {
    this.#parts = parts;
    this.#events = {
      onPiece: (piece, connection) => parts.events.onPiece(piece, connection),
      isListed: (address) => parts.events.isListed(address),
      isInUse: (connection) => parts.events.isInUse(connection),
      isNeeded: (connection) => parts.events.isNeeded(connection),
      onError: (error) => {
        parts.events.onError(error);
      },
      onClosed: (connection, error) => {
        this.#forget(connection);
        parts.events.onClosed(connection, error);
      },
    };
  }

  get connections(): number {
    return this.#connections.size;
  }

  /** Connections refused because a limit was reached. */
  get refused(): number {
    return this.#refused;
  }

  /** Resolves with the port really bound; rejects with the system's error when the address is taken. */
  async listen(address: string, port: number): Promise<number> {
    // Half-open connections are wanted: a peer may close its side and still wait for the response.
    const server = createServer({ allowHalfOpen: true, noDelay: true, keepAlive: true });
    let boundPort = port;
    server.on("connection", (socket) => {
      const reached = isWildcard(address) ? plainAddress(socket.localAddress ?? address) : address;
      this.#accept(socket, { address: reached, port: boundPort });
    });
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen({ host: address, port, exclusive: true }, () => {
        server.off("error", reject);
        // Accepting may fail later (too many open files): that must not end the process.
        server.on("error", (error) => {
          this.#parts.events.onError(error);
        });
        resolve();
      });
    });
    this.#servers.add(server);
    const bound = server.address();
    boundPort = typeof bound === "object" && bound !== null ? bound.port : port;
    return boundPort;
  }

  /** Sends on the open connection given or known for that peer, else opens one from `local`. */
  send(
    bytes: Buffer,
    to: { readonly peer: PeerAddress; readonly connection?: TcpConnection | undefined; readonly local: PeerAddress },
    onError: (error: Error) => void,
  ): void {
    const open = to.connection?.isOpen === true ? to.connection : this.connectionTo(to.peer);
    if (open !== undefined) {
      open.send(bytes, onError);
      return;
    }
    if (this.#connections.size >= this.#parts.limits.connections) {
      this.#refused += 1;
      queueMicrotask(() => {
        onError(new Error("too many connections"));
      });
      return;
    }
    this.#connect(to.peer, to.local).send(bytes, onError);
  }

  /** The connection that a request to that peer would go out on. */
  connectionTo(peer: PeerAddress): TcpConnection | undefined {
    const connection = this.#byPeer.get(peerKey(peer));
    return connection?.takesRequests === true ? connection : undefined;
  }

  async close(): Promise<void> {
    const closed = [...this.#servers].map(
      (server) =>
        new Promise<void>((resolve) => {
          server.close(() => {
            resolve();
          });
        }),
    );
    this.#servers.clear();
    for (const connection of this.#connections) {
      connection.destroy();
    }
    await Promise.all(closed);
  }

  #connect(peer: PeerAddress, local: PeerAddress): TcpConnection {
    const socket = connect({
      host: peer.address,
      port: peer.port,
      allowHalfOpen: true,
      noDelay: true,
      keepAlive: true,
      // From the address that Via and Contact name, so that the peer's own allow-list recognises us.
      ...(isWildcard(local.address) ? {} : { localAddress: local.address }),
    });
    return this.#add(socket, peer, local, "us");
  }

  #accept(socket: Socket, local: PeerAddress): void {
    const address = plainAddress(socket.remoteAddress ?? "");
    const port = socket.remotePort ?? 0;
    const opened = this.#openedByAddress.get(address) ?? 0;
    const { connections, connectionsPerAddress } = this.#parts.limits;
    if (address === "" || opened >= connectionsPerAddress || this.#connections.size >= connections) {
      this.#refused += 1;
      socket.on("error", () => undefined);
      socket.destroy();
      return;
    }
    this.#openedByAddress.set(address, opened + 1);
    this.#add(socket, { address, port }, local, "peer");
  }

  #add(socket: Socket, peer: PeerAddress, local: PeerAddress, opener: "us" | "peer"): TcpConnection {
    const { limits, messageLimits, clock } = this.#parts;
    const connection = new TcpConnection({
      socket,
      peer,
      local,
      opener,
      limits,
      messageLimits,
      clock,
      events: this.#events,
    });
    this.#connections.add(connection);
    this.#byPeer.set(peerKey(peer), connection);
    return connection;
  }

  #forget(connection: TcpConnection): void {
    if (!this.#connections.delete(connection)) {
      return;
    }
    const key = peerKey(connection.peer);
    if (this.#byPeer.get(key) === connection) {
      this.#byPeer.delete(key);
    }
    if (connection.opener === "peer") {
      const left = (this.#openedByAddress.get(connection.peer.address) ?? 1) - 1;
      if (left === 0) {
        this.#openedByAddress.delete(connection.peer.address);
      } else {
        this.#openedByAddress.set(connection.peer.address, left);
      }
    }
  }
}

function peerKey(peer: PeerAddress): string {
  return `${peer.address} ${peer.port}`;
}

/** Whether the address means "all addresses of this machine". */
export function isWildcard(address: string): boolean {
  return address === "0.0.0.0" || address === "::";
}
