import { createSocket, type Socket } from "node:dgram";
import { isIPv6 } from "node:net";

import { plainAddress } from "./sources.ts";

export interface UdpEvents {
  onDatagram(bytes: Buffer, from: { readonly address: string; readonly port: number }, socket: UdpListener): void;
  onError(error: Error, socket: UdpListener): void;
}

/** What the kernel may hold back for us before further datagrams count as failed. */
const mostQueuedBytes = 4 * 1024 * 1024;

// A loop that stands still for 35 ms at 800 calls a second overflows the kernel's default, and SIP repairs that half a
// second later at the earliest. The kernel may grant less than asked (net.core.rmem_max).
const receiveBufferBytes = 4 * 1024 * 1024;

/** One UDP socket on one address. Requests leave from the port that their responses come back to. */
export class UdpListener {
  readonly address: string;
  readonly #socket: Socket;
  readonly #events: UdpEvents;
  readonly #ipv6: boolean;
  #port = 0;
  #open = false;

  /** `ipv6Only`: on `::` IPv4 stays out. */
  constructor(address: string, events: UdpEvents, ipv6Only = false) {
    this.address = address;
    this.#events = events;
    this.#ipv6 = isIPv6(address);
    this.#socket = createSocket({
      type: this.#ipv6 ? "udp6" : "udp4",
      ipv6Only,
      recvBufferSize: receiveBufferBytes,
      // Only addresses are ever sent to, so there is nothing to look up.
      lookup: (host, _options, callback) => {
        callback(null, host, this.#ipv6 ? 6 : 4);
      },
    });
    this.#socket.on("message", (bytes, from) => {
      this.#events.onDatagram(bytes, { address: plainAddress(from.address), port: from.port }, this);
    });
  }

  get port(): number {
    return this.#port;
  }

  /** Resolves with the port really bound; rejects with the system's error when the address is taken. */
  async bind(port: number): Promise<number> {
    await new Promise<void>((resolve, reject) => {
      this.#socket.once("error", reject);
      this.#socket.bind({ address: this.address, port, exclusive: true }, () => {
        this.#socket.off("error", reject);
        this.#socket.on("error", (error) => {
          this.#events.onError(error, this);
        });
        resolve();
      });
    });
    this.#open = true;
    this.#port = this.#socket.address().port;
    return this.#port;
  }

  /** `onError` is called later, never from within this call. ICMP errors do not reach an unconnected socket. */
  send(bytes: Buffer, address: string, port: number, onError: (error: Error) => void): void {
    if (!this.#open || this.#socket.getSendQueueSize() > mostQueuedBytes) {
      const error = new Error(this.#open ? "too much is waiting to be sent" : "the socket is closed");
      queueMicrotask(() => {
        onError(error);
      });
      return;
    }
    const host = this.#ipv6 && !isIPv6(address) ? `::ffff:${address}` : address;
    try {
      this.#socket.send(bytes, port, host, (error) => {
        if (error !== null) {
          onError(error);
        }
      });
    } catch (error) {
      // Node throws for arguments it does not like (a port out of range): for the caller a failure like any other.
      const reason = error instanceof Error ? error : new Error(String(error));
      queueMicrotask(() => {
        onError(reason);
      });
    }
  }

  async close(): Promise<void> {
    if (!this.#open) {
      return;
    }
    this.#open = false;
    await new Promise<void>((resolve) => {
      this.#socket.close(() => {
        resolve();
      });
    });
  }
}
