import type { MediaClock } from "../options.ts";

/** Notices a caller whose phone has sent nothing for so long that he must be gone. */
export class CallerWatch {
  readonly #clock: MediaClock;
  readonly #timeoutMs: number;
  readonly #gone: (reason: string) => void;
  #heard = { packets: -1, atMs: 0 };

  constructor(clock: MediaClock, timeoutMs: number, gone: (reason: string) => void) {
    this.#clock = clock;
    this.#timeoutMs = timeoutMs;
    this.#gone = gone;
  }

  /** So many packets have come from him. `sends`: he should send, which nobody does who has put us on hold. */
  seen(packets: number, sends: boolean): void {
    const nowMs = this.#clock.now();
    if (!sends || packets !== this.#heard.packets) {
      this.#heard = { packets, atMs: nowMs };
    } else if (nowMs - this.#heard.atMs >= this.#timeoutMs) {
      this.#heard = { packets, atMs: nowMs };
      this.#gone("nothing comes from the caller any more");
    }
  }
}
