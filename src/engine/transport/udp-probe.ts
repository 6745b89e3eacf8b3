import { createSocket, type Socket } from "node:dgram";
import { isIPv6 } from "node:net";

import { type Clock, TimerSet } from "../timers.ts";
import { isWildcard } from "./tcp.ts";

export interface ProbedPeer {
  readonly address: string;
  readonly port: number;
}

const mostProbes = 64;
const waitMs = 1_000;

// RFC 5626 §4.4: a keep-alive that every SIP element lets pass, because many phones send it.
const harmless = Buffer.from("\r\n\r\n");

/**
 * Finds out that nobody listens at a UDP address. Linux tells an ICMP "port unreachable" to connected sockets only, and the
 * sockets we listen on cannot be connected. A second, connected socket on the same port would need SO_REUSEADDR on both,
 * with which any other program could take our datagrams. So a socket of its own, on a free port, asks on the side, and only
 * when a request had to be repeated: calls that are answered pay nothing. Silence says nothing, only a refusal does.
 */
export class UdpProbes {
  readonly #onRefused: (peer: ProbedPeer) => void;
  readonly #sockets = new Map<string, Socket>();
  readonly #timers: TimerSet;

  constructor(clock: Clock, onRefused: (peer: ProbedPeer) => void) {
    this.#onRefused = onRefused;
    this.#timers = new TimerSet(clock);
  }

  get size(): number {
    return this.#sockets.size;
  }

  /** Nothing happens while that peer is being asked already, or too many are. Never throws. */
  send({ address, port }: ProbedPeer, localAddress: string | undefined): void {
    const key = `${address} ${port}`;
    if (this.#sockets.has(key) || this.#sockets.size >= mostProbes) {
      return;
    }
    const family = isIPv6(address) ? 6 : 4;
    const socket = createSocket({
      type: family === 6 ? "udp6" : "udp4",
      lookup: (host, _options, callback) => {
        callback(null, host, family);
      },
    });
    this.#sockets.set(key, socket);
    this.#timers.start(key, waitMs, () => {
      this.#close(key);
    });
    socket.on("error", (error: NodeJS.ErrnoException) => {
      this.#close(key);
      if (error.code === "ECONNREFUSED") {
        this.#onRefused({ address, port });
      }
    });
    socket.on("connect", () => {
      socket.send(harmless);
    });
    const connect = (): void => {
      if (this.#sockets.get(key) === socket) {
        socket.connect(port, address);
      }
    };
    if (localAddress === undefined || isWildcard(localAddress)) {
      connect();
    } else {
      socket.bind({ address: localAddress, port: 0, exclusive: true }, connect);
    }
  }

  close(): void {
    for (const key of this.#sockets.keys()) {
      this.#close(key);
    }
  }

  #close(key: string): void {
    this.#timers.stop(key);
    const socket = this.#sockets.get(key);
    this.#sockets.delete(key);
    socket?.close();
  }
}
