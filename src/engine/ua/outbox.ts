import { isIP } from "node:net";

import type { Dialog, DialogRoute } from "../dialog/dialog.ts";
import type { SipUri } from "../sip/grammar.ts";
import { parseUri } from "../sip/grammar.ts";
import { overConnection, usableConnection, withKnownDomain } from "./connection.ts";
import type { Network, Resolution } from "./core.ts";
import { isSecure } from "./headers.ts";

/** Requests inside a dialog that wait for the name of their next hop to be looked up. */
export class Outbox {
  readonly #network: Network;
  readonly #waiting = new Map<Dialog, { uri: SipUri; run: (resolution: Resolution) => void }[]>();

  constructor(network: Network) {
    this.#network = network;
  }

  /** Dialogs in which something waits. */
  get size(): number {
    return this.#waiting.size;
  }

  waitingIn(dialog: Dialog): number {
    return this.#waiting.get(dialog)?.length ?? 0;
  }

  /**
   * Finds the next hop of a dialog's request and sends in the order of the commands: looking up a name takes time, and an
   * ACK must not be overtaken by the BYE behind it.
   */
  inOrder(dialog: Dialog, run: (resolution: Resolution, route: DialogRoute) => void): void {
    const route = dialog.route();
    const next = parseUri(route.nextHop);
    if (next === undefined) {
      run({ type: "failed", reason: "the next hop of the dialog has no host" }, route);
      return;
    }
    // RFC 3261 §8.1.2: a request for a sips URI takes TLS on its first hop too, whatever scheme the route has.
    const uri: SipUri = isSecure(route.requestUri) ? { ...next, scheme: "sips" } : next;
    const job = {
      uri,
      run: (resolution: Resolution): void => {
        run(resolution, route);
      },
    };
    const waiting = this.#waiting.get(dialog);
    if (waiting !== undefined) {
      waiting.push(job);
      return;
    }
    const jobs = [job];
    this.#waiting.set(dialog, jobs);
    this.#pump(dialog, jobs);
  }

  clear(): void {
    this.#waiting.clear();
  }

  #pump(dialog: Dialog, jobs: { uri: SipUri; run: (resolution: Resolution) => void }[]): void {
    const [job] = jobs;
    if (job === undefined) {
      this.#waiting.delete(dialog);
      return;
    }
    this.#resolve(dialog, job.uri, (resolution) => {
      jobs.shift();
      try {
        job.run(resolution);
      } finally {
        this.#pump(dialog, jobs);
      }
    });
  }

  #resolve(dialog: Dialog, uri: SipUri, done: (resolution: Resolution) => void): void {
    const network = this.#network;
    const open = usableConnection(network, dialog.connection, uri);
    // The name in the Contact of a peer who is connected to us is often one that only his own network knows.
    if (open?.direct === true && isIP(uri.host) === 0) {
      done({ type: "hops", hops: [open.hop] });
      return;
    }
    network.resolve(uri, (resolution) => {
      // Asked again, because a lookup takes its time.
      const connection = usableConnection(network, dialog.connection, uri);
      const named = withKnownDomain(resolution, dialog.connection);
      done(connection === undefined ? named : overConnection(connection, named));
    });
  }
}
