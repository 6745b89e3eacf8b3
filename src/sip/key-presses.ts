import { dialSteps } from "../call/dial-string.ts";
import type { CallEvent } from "../call/event.ts";
import type { PlayId } from "../call/ids.ts";
import type { Cancellable, Clock } from "../lib/clock.ts";
import { SipFault } from "./link/fault.ts";
import type { SipDialog } from "./link/types.ts";

/** As long as a finger would press the key, and the pause behind it. */
const pressMs = 160;
const pauseMs = 80;

export interface KeyPressOptions {
  readonly dialog: SipDialog;
  readonly clock: Clock;
  /** For the answer to one INFO. */
  readonly timeoutMs: number;
  readonly post: (event: CallEvent) => void;
}

/** Sends keys by SIP INFO (`application/dtmf-relay`), each after the one before was answered and its time is over. */
export class KeyPresses {
  readonly #options: KeyPressOptions;
  /** Whose keys are being sent. */
  #play: PlayId | null = null;
  /** Counts the orders: one that was replaced goes no further. */
  #round = 0;
  #wait: { readonly timer: Cancellable; readonly end: () => void } | undefined;

  constructor(options: KeyPressOptions) {
    this.#options = options;
  }

  press(play: PlayId, digits: string): void {
    this.close();
    if (digits === "") return;
    this.#play = play;
    void this.#send(play, digits, this.#round);
  }

  /** The dialog is another one: what has not been sent is not, and that is told. */
  abandon(): void {
    const play = this.#play;
    this.close();
    if (play !== null) this.#options.post({ type: "media.played", play, result: "failed", reason: "info_failed" });
  }

  /** Nothing more is sent, and nobody is told. */
  close(): void {
    this.#play = null;
    this.#round += 1;
    const wait = this.#wait;
    this.#wait = undefined;
    wait?.timer.cancel();
    wait?.end();
  }

  async #send(play: PlayId, digits: string, round: number): Promise<void> {
    const { dialog, timeoutMs, post } = this.#options;
    const ended = (result: "completed" | "failed", reason: string | null): void => {
      this.#play = null;
      post({ type: "media.played", play, result, reason });
    };
    const steps = dialSteps(digits) ?? [];
    let sent = 0;
    for (const step of steps) {
      if ("pauseMs" in step) {
        await this.#pause(step.pauseMs);
      } else {
        const result = await dialog.send("INFO", {
          headers: [{ name: "Content-Type", value: "application/dtmf-relay" }],
          body: `Signal=${step.key}\r\nDuration=${pressMs}\r\n`,
          timeoutMs,
        });
        if (round !== this.#round) return;
        if (result instanceof SipFault || result.status >= 300) {
          // RFC 6086 §4.2.2: 469, and in practice 405, 415 or 501. What the peer may have taken is not sent once more.
          const refused = sent === 0 && !(result instanceof SipFault) && result.status !== 408;
          ended("failed", refused ? "info_refused" : "info_failed");
          return;
        }
        sent += 1;
        await this.#pause(pressMs + pauseMs);
      }
      if (round !== this.#round) return;
    }
    if (steps.length === 0) ended("failed", "bad_digits");
    else ended("completed", null);
  }

  async #pause(ms: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = this.#options.clock.after(ms, () => {
        this.#wait = undefined;
        resolve();
      });
      this.#wait = { timer, end: resolve };
    });
  }
}
