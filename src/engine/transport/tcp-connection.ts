import type { Socket } from "node:net";

import type { MessageLimits } from "../sip/parse.ts";
import { StreamFramer, type StreamPiece } from "../sip/stream.ts";
import { type Clock, TimerSet } from "../timers.ts";

/** TLS is TCP with a handshake in front. */
export type StreamProtocol = "tcp" | "tls";

export interface TcpLimits {
  readonly connections: number;
  /** Connections that one address may open to us. */
  readonly connectionsPerAddress: number;
  /** Of `connections`, those that addresses which are not on the list may hold together. */
  readonly strangerConnections: number;
  /** How long such an address may take from its connection to its first message that belongs to a call of ours. */
  readonly strangerMs: number;
  readonly connectTimeoutMs: number;
  /** A connection that nothing uses is closed after this long without a byte. */
  readonly idleMs: number;
  /** How long one message may take from its first byte to its last. */
  readonly partialMessageMs: number;
  /** Bytes that may wait for a slow peer before the connection is given up. */
  readonly backlogBytes: number;
  /** How often a keep-alive goes out on a connection that a call needs; 0 sends none. */
  readonly keepAliveMs: number;
  /** How long a peer that has answered keep-alives before may take for the next answer. */
  readonly pongMs: number;
}

export const defaultTcpLimits: TcpLimits = {
  connections: 1_024,
  connectionsPerAddress: 64,
  strangerConnections: 128,
  strangerMs: 5_000,
  connectTimeoutMs: 5_000,
  idleMs: 120_000,
  partialMessageMs: 10_000,
  backlogBytes: 1024 * 1024,
  // RFC 5626 §4.4.1: 95 to 120 s, and some NATs forget sooner.
  keepAliveMs: 95_000,
  pongMs: 10_000,
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

/** Whom a connection leads to. */
export interface StreamPeer extends PeerAddress {
  readonly protocol: StreamProtocol;
  /** TLS, for connections of ours: the domain that the certificate of the other end names (RFC 5922 §4). */
  readonly domain?: string | undefined;
}

interface ConnectionParts {
  readonly socket: Socket;
  readonly peer: StreamPeer;
  readonly local: PeerAddress;
  readonly opener: "us" | "peer";
  readonly limits: TcpLimits;
  readonly messageLimits: MessageLimits;
  readonly clock: Clock;
  readonly events: TcpEvents;
}

// While a peer that closed its half still waits for our answer, this is how often we look whether it has got it.
const halfClosedCheckMs = 1_000;

const ping = Buffer.from("\r\n\r\n");
const pong = Buffer.from("\r\n");

/** One TCP or TLS connection with its framing, its limits and what still waits to be sent. */
export class TcpConnection {
  readonly peer: StreamPeer;
  readonly opener: "us" | "peer";
  readonly #parts: ConnectionParts;
  readonly #framer: StreamFramer;
  readonly #timers: TimerSet;
  readonly #unsent = new Set<(error: Error) => void>();
  #lastActivityMs: number;
  #lastReceivedMs: number;
  #answersPings = false;
  #state: "connecting" | "open" | "halfClosed" | "closed";
  #error: Error | undefined;
  /** A stranger that never sent anything known gets little time and no pong. */
  #trusted: boolean;

  constructor(parts: ConnectionParts) {
    this.#parts = parts;
    this.peer = parts.peer;
    this.opener = parts.opener;
    this.#framer = new StreamFramer(parts.messageLimits);
    this.#timers = new TimerSet(parts.clock);
    this.#lastActivityMs = parts.clock.now();
    this.#lastReceivedMs = this.#lastActivityMs;
    this.#state = parts.opener === "us" ? "connecting" : "open";
    this.#trusted = parts.opener === "us" || parts.events.isListed(parts.peer.address);
    this.#attach(parts.socket);
    if (this.#state === "connecting") {
      this.#timers.start("connect", parts.limits.connectTimeoutMs, () => {
        this.destroy(new Error("the connection was not established in time"));
      });
      if (parts.peer.protocol === "tls") {
        // Not a byte may leave before the certificate was looked at.
        parts.socket.cork();
      }
    } else {
      this.#watchIdle();
    }
    if (!this.#trusted) {
      // However it drips its bytes.
      this.#timers.start("stranger", parts.limits.strangerMs, () => {
        this.destroy();
      });
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

  /** Milliseconds since the peer was last heard. */
  get silentMs(): number {
    return this.#parts.clock.now() - this.#lastReceivedMs;
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
    socket.on(this.peer.protocol === "tls" ? "secureConnect" : "connect", () => {
      if (this.#state === "connecting") {
        this.#state = "open";
        this.#timers.stop("connect");
        socket.uncork();
        this.#watchIdle();
        this.#keepAlive();
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
    this.#lastReceivedMs = this.#lastActivityMs;
    if (this.#timers.has("pong")) {
      this.#timers.stop("pong");
      if (chunk.equals(pong) && !this.#framer.isMidMessage) {
        // Not for the framer, to which two pongs in a row would be a ping.
        this.#answersPings = true;
        return;
      }
    }
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
        this.#timers.stop("stranger");
      } else if (!this.#trusted) {
        // A stranger gets no answer and no second message. On a connection that a call of ours runs over, what belongs to
        // nothing (a keep-alive by OPTIONS, a late repetition) must not cost the call its connection.
        this.destroy();
        return;
      }
      if (piece.type === "broken") {
        // Nothing more can be read, but requests that came before are still answered (RFC 3261 §18.2.2).
        this.#peerEnded();
        return;
      }
    }
    if (pinged && this.#trusted) {
      // RFC 5626 §4.4.1: a double CRLF is answered by a single one; one per chunk is enough, however many came.
      this.send(pong, () => undefined);
    }
    if (!this.#framer.isMidMessage) {
      this.#timers.stop("partial");
    } else if (!this.#timers.has("partial")) {
      this.#timers.start("partial", this.#parts.limits.partialMessageMs, () => {
        this.#giveUpMessage();
      });
    }
  }

  /** A listed peer is told what was wrong, as in a datagram that ends too early; then the connection is broken off. */
  #giveUpMessage(): void {
    const error = new Error("a message was not completed in time");
    if (!this.#parts.events.onPiece(this.#framer.giveUp(error.message), this)) {
      this.destroy(error);
      return;
    }
    this.#error ??= error;
    this.#state = "halfClosed";
    this.end();
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

  /**
   * RFC 5626 §3.5.1, §4.4.1: a ping on each connection of ours that a call needs keeps the way through a NAT open. A peer
   * that has answered pings before and does not now is gone; one that never did need not know them.
   */
  #keepAlive(): void {
    const { socket, limits, events } = this.#parts;
    if (limits.keepAliveMs === 0) {
      return;
    }
    this.#timers.start("keepAlive", limits.keepAliveMs, () => {
      if (this.#state === "open" && (events.isInUse(this) || events.isNeeded(this))) {
        socket.write(ping);
        if (!this.#timers.has("pong")) {
          this.#timers.start("pong", limits.pongMs, () => {
            if (this.#answersPings) {
              this.destroy(new Error("the peer does not answer keep-alives any more"));
            }
          });
        }
      }
      this.#keepAlive();
    });
  }

  #watchIdle(): void {
    const { limits, clock } = this.#parts;
    const leftMs = this.#lastActivityMs + limits.idleMs - clock.now();
    this.#timers.start("idle", Math.max(leftMs, 1), () => {
      const idle = clock.now() - this.#lastActivityMs >= limits.idleMs;
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
