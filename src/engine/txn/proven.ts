import type { Clock } from "../timers.ts";

// Long enough for a phone that calls again, short enough that an address which changed hands is asked again.
const provenMs = 600_000;
const mostProven = 10_000;

/**
 * How many bytes may go to an address that may be forged for each that came from it: an answer is hardly longer than its
 * request, so that whoever wants to flood somebody gains nothing by sending to us.
 */
export const mostAmplification = 1.2;

/**
 * Addresses that have shown to get what is sent to them: whoever forges the source of his datagrams cannot know the To tag
 * that we gave. Until then an address gets one packet for each of its own, so that nobody can use us to flood another.
 */
export class ProvenAddresses {
  readonly #clock: Clock;
  readonly #untilMs = new Map<string, number>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  has(address: string): boolean {
    return (this.#untilMs.get(address) ?? -Infinity) > this.#clock.now();
  }

  add(address: string): void {
    // The newest goes to the end, so that the first is the one to give up.
    this.#untilMs.delete(address);
    const [oldest] = this.#untilMs.keys();
    if (this.#untilMs.size >= mostProven && oldest !== undefined) {
      this.#untilMs.delete(oldest);
    }
    this.#untilMs.set(address, this.#clock.now() + provenMs);
  }
}
