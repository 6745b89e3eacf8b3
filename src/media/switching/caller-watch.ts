import type { MediaClock } from "../options.ts";
import { fewestRefused, type Received } from "./bridge-watch.ts";

/** Notices a caller whose phone has sent nothing for so long that he must be gone, or who sends from elsewhere. */
export class CallerWatch {
  readonly #clock: MediaClock;
  readonly #timeoutMs: number;
  readonly #gone: (reason: string) => void;
  #heard = { packets: -1, refused: 0, atMs: 0 };

  constructor(clock: MediaClock, timeoutMs: number, gone: (reason: string) => void) {
    this.#clock = clock;
    this.#timeoutMs = timeoutMs;
    this.#gone = gone;
  }

  /** Since he was last seen nothing has come from where he was, and sound from somewhere else. */
  moved({ packets, refused }: Received): boolean {
    return packets === this.#heard.packets && refused - this.#heard.refused >= fewestRefused;
  }

  /** So much has come from him. `sends`: he should send, which nobody does who has put us on hold. */
  seen({ packets, refused }: Received, sends: boolean): void {
    const nowMs = this.#clock.now();
    if (!sends || packets !== this.#heard.packets) {
      this.#heard = { packets, refused, atMs: nowMs };
    } else if (nowMs - this.#heard.atMs >= this.#timeoutMs) {
      this.#heard = { packets, refused, atMs: nowMs };
      this.#gone("nothing comes from the caller any more");
    }
  }
}
