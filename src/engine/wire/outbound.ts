import { connect } from "node:net";
import type { Socket } from "node:net";

import type { ClientId } from "../events.ts";
import type { EngineLog } from "../options.ts";
import type { Clock } from "../timers.ts";

/** An application that waits for the engine with `srf.listen`. */
export interface OutboundTarget {
  readonly host: string;
  readonly port: number;
}

export interface OutboundParts {
  readonly targets: readonly OutboundTarget[];
  /** How long a connection may take to be made, in milliseconds; drachtio-server gives 2 s too. */
  readonly connectMs: number;
  /** Connections at once, those that are being made included. */
  readonly mostConnections: number;
  readonly clock: Clock;
  readonly log: EngineLog;
  /** Takes over a connection; exactly one of the two is called, the first when the application has authenticated. */
  readonly attach: (socket: Socket, on: { ready(client: ClientId): void; failed(): void }) => void;
  /** Ends a connection that nobody has use for. */
  readonly release: (client: ClientId) => void;
}

/** `tcp://host:port`, or `undefined` for anything else. An IPv6 address stands in brackets. */
export function parseTarget(text: string): OutboundTarget | undefined {
  const match = /^tcp:\/\/(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9._-]+)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3] ?? 0);
  const host = match?.[1] ?? match?.[2];
  return host === undefined || port < 1 || port > 65_535 ? undefined : { host, port };
}

/**
 * "Outbound" mode of drachtio: for each new request outside of a dialog a connection to one of the applications, in turn,
 * and to the next one when that fails. The connection serves the dialogs that come of the request; the application ends it.
 */
export class OutboundDialer {
  readonly #parts: OutboundParts;
  readonly #connecting = new Set<Socket>();
  #next = 0;
  #open = 0;
  #closed = false;

  constructor(parts: OutboundParts) {
    this.#parts = parts;
  }

  /** Connections that are being made or open. */
  get size(): number {
    return this.#open;
  }

  /** Calls `offer` once, later: see `EngineEvents.dial`. */
  dial(offer: (client: ClientId | undefined) => boolean): void {
    const { targets, mostConnections, log, clock } = this.#parts;
    if (this.#open >= mostConnections) {
      log.warn("no application is called: too many outbound connections", { limit: mostConnections });
      clock.after(0, () => {
        offer(undefined);
      });
      return;
    }
    const first = this.#next;
    this.#next = (this.#next + 1) % targets.length;
    this.#open += 1;
    this.#try(first, targets.length, offer);
  }

  close(): void {
    this.#closed = true;
    for (const socket of this.#connecting) {
      socket.destroy();
    }
  }

  #try(index: number, left: number, offer: (client: ClientId | undefined) => boolean): void {
    const { targets, connectMs, clock, log, attach, release } = this.#parts;
    const target = targets[index % targets.length];
    if (target === undefined || left === 0 || this.#closed) {
      this.#open -= 1;
      offer(undefined);
      return;
    }
    const socket = connect({ host: target.host, port: target.port, noDelay: true, keepAlive: true });
    this.#connecting.add(socket);
    let settled = false;
    const failed = (reason: string): void => {
      if (settled) {
        return;
      }
      settled = true;
      deadline.cancel();
      this.#connecting.delete(socket);
      socket.destroy();
      log.warn("an application could not be reached", { host: target.host, port: target.port, reason });
      this.#try(index + 1, left - 1, offer);
    };
    const deadline = clock.after(connectMs, () => {
      failed("no connection in time");
    });
    socket.on("error", (error) => {
      failed(error.message);
    });
    socket.once("close", () => {
      failed("closed");
    });
    socket.once("connect", () => {
      deadline.cancel();
      this.#connecting.delete(socket);
      attach(socket, {
        ready: (client) => {
          settled = true;
          socket.once("close", () => {
            this.#open -= 1;
          });
          if (!offer(client)) {
            release(client);
          }
        },
        failed: () => {
          failed("it did not authenticate");
        },
      });
    });
  }
}
