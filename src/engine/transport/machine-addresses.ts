import { isIP } from "node:net";
import { networkInterfaces } from "node:os";

import type { Clock } from "../timers.ts";
import { isWildcard } from "./tcp.ts";

interface MachineAddress {
  readonly address: string;
  readonly family: "IPv4" | "IPv6";
}

// Asking the system for its interfaces is slow and they hardly ever change.
const interfacesKeptMs = 5_000;

/** The addresses of this machine that a wildcard listener can be reached on. */
export class MachineAddresses {
  readonly #clock: Clock;
  #addresses: readonly MachineAddress[] = [];
  #readAtMs = -Infinity;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  has(address: string): boolean {
    return this.#current().some((one) => one.address === address);
  }

  /** The address that is most like the target's: what a wildcard listener shows of itself. */
  towards(targetAddress: string): string | undefined {
    const family = isIP(targetAddress) === 6 ? "IPv6" : "IPv4";
    let best: string | undefined;
    for (const one of this.#current()) {
      const closer = best === undefined || closeness(one.address, targetAddress) > closeness(best, targetAddress);
      if (one.family === family && closer) {
        best = one.address;
      }
    }
    return best;
  }

  #current(): readonly MachineAddress[] {
    const now = this.#clock.now();
    if (now - this.#readAtMs > interfacesKeptMs) {
      this.#readAtMs = now;
      this.#addresses = Object.values(networkInterfaces())
        .flatMap((addresses) => addresses ?? [])
        // A link-local address means nothing without its interface, so it is never shown to anybody.
        .filter((one) => one.scopeid === undefined || one.scopeid === 0)
        .map(({ address, family }) => ({ address, family }));
    }
    return this.#addresses;
  }
}

export function isLoopback(address: string): boolean {
  return address.startsWith("127.") || address === "::1";
}

/** How much a listener's address is like a target's: the more, the better. A loopback address is right for loopback targets only. */
export function closeness(listenAddress: string, targetAddress: string): number {
  if (isWildcard(listenAddress)) {
    return 0.5;
  }
  if (isLoopback(listenAddress) !== isLoopback(targetAddress)) {
    return isLoopback(listenAddress) ? -1 : 0;
  }
  const ours = listenAddress.split(/[.:]/);
  const theirs = targetAddress.split(/[.:]/);
  const different = ours.findIndex((part, index) => part !== theirs[index]);
  return 1 + (different === -1 ? ours.length : different);
}
