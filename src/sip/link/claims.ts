import type { Cancellable, Clock } from "../../lib/clock.ts";
import type { Dialog } from "./dialog.ts";

/** Dialogs that are asked for at the same time, so that a thousand calls do not mean a burst. */
export const claimsAtOnce = 16;

/**
 * Dialogs of an earlier connection. Each is claimed by a request in it: the engine hands what a dialog's peer sends to the
 * connection that last sent in it, and the answer tells which dialogs are gone.
 */
export class Claims {
  readonly #clock: Clock;
  readonly #againMs: number;
  #held = new Set<Dialog>();
  #next: Cancellable | undefined;

  /** `againMs`: interval after which those that are left are claimed again; 0 for never. */
  constructor(clock: Clock, againMs: number) {
    this.#clock = clock;
    this.#againMs = againMs;
  }

  begin(dialogs: Iterable<Dialog>): void {
    this.end();
    this.#held = new Set(dialogs);
    this.#claim(this.#held);
  }

  /** This one is over. */
  gone(dialog: Dialog): void {
    if (this.#held.delete(dialog) && this.#held.size === 0) {
      this.end();
    }
  }

  /** Those that are left are not claimed any more. */
  end(): void {
    this.#next?.cancel();
    this.#held = new Set();
  }

  #claim(held: Set<Dialog>): void {
    const left = [...held];
    const claim = async (): Promise<void> => {
      for (let dialog = left.pop(); dialog !== undefined; dialog = left.pop()) {
        await dialog.claim();
      }
    };
    void Promise.all(Array.from({ length: claimsAtOnce }, claim)).then(() => {
      if (this.#againMs > 0 && held.size > 0 && held === this.#held) {
        this.#next = this.#clock.after(this.#againMs, () => {
          this.#claim(held);
        });
      }
    });
  }
}
