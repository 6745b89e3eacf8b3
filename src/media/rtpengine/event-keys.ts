import { dialSteps } from "../../call/dial-string.ts";
import type { DialStep } from "../../call/dial-string.ts";
import type { PlayId } from "../../call/ids.ts";
import { keyMs } from "../audio/tones.ts";
import { messageOf } from "../media-error.ts";
import type { MediaClock, MediaLog } from "../options.ts";

/** rtpengine tells of the keys that it makes itself as of any others, and before it answers the command. */
const echoMs = 5_000;
/** rtpengine makes a key up to a packet longer, and no pause shorter than 100 ms: what is still to come would be cut off. */
export const leastPauseMs = 100;
const eventPauseMs = leastPauseMs + 40;
const echoToleranceMs = 30;

export interface EventKeysOptions {
  readonly clock: MediaClock;
  readonly log: MediaLog;
  /** Runs a step in the call's queue; false when it will not run. */
  readonly enqueue: (step: () => Promise<void>) => boolean;
  /** The same for a step that must run. */
  readonly enqueueAlways: (step: () => Promise<void>) => void;
  /** Readies the leg for events; false when it cannot have any. */
  readonly begin: (tag: string) => Promise<boolean>;
  /** The leg whose sound this one hears: it seems to press the keys. */
  readonly partnerOf: (tag: string) => string | undefined;
  /** One event in the place of this leg's sound. */
  readonly press: (partner: string, key: string) => Promise<void>;
  /** Undoes `begin`. */
  readonly end: () => Promise<void>;
  readonly onPlayed: (play: PlayId, result: "completed" | "stopped" | "failed", reason: string | null) => void;
}

interface Sending {
  readonly play: PlayId;
  readonly tag: string;
  readonly steps: DialStep[];
  /** What is done when the leg can have no events. */
  readonly otherwise: () => void;
  begun: boolean;
  pressed: boolean;
  timer: { cancel(): void } | null;
}

/** Sends keys to one leg at a time as telephone events (RFC 4733), which rtpengine puts in place of its partner's sound. */
export class EventKeys {
  readonly #options: EventKeysOptions;
  #sending: Sending | null = null;
  /** Keys of ours that rtpengine has not told us of. */
  #echoes: readonly { readonly tag: string; readonly key: string; readonly untilMs: number }[] = [];

  constructor(options: EventKeysOptions) {
    this.#options = options;
  }

  /** The leg that keys are being sent to. */
  get hearer(): string | null {
    return this.#sending?.begun === true ? this.#sending.tag : null;
  }

  send(play: PlayId, tag: string, digits: string, otherwise: () => void): void {
    this.stop();
    const steps = [...(dialSteps(digits) ?? [])];
    const sending: Sending = { play, tag, steps, otherwise, begun: false, pressed: false, timer: null };
    this.#sending = sending;
    const accepted = this.#options.enqueue(async () => {
      if (this.#sending !== sending) return;
      sending.begun = true;
      const able = await this.#try(() => this.#options.begin(tag));
      if (this.#sending !== sending) return;
      if (able !== true) await this.#giveUp(sending);
      else this.#next(sending);
    });
    if (!accepted) this.#finish("failed", "overloaded");
  }

  /** Ends what is being sent to this leg, or to any. */
  stop(tag?: string): void {
    if (this.#sending !== null && (tag === undefined || this.#sending.tag === tag)) this.#finish("stopped", null);
  }

  /** Whether a key press that rtpengine tells of is one of ours; each is told once. */
  isEcho(tag: string, key: string, durationMs: number): boolean {
    const nowMs = this.#options.clock.now();
    this.#echoes = this.#echoes.filter(({ untilMs }) => untilMs > nowMs);
    const ours =
      Math.abs(durationMs - keyMs) <= echoToleranceMs
        ? this.#echoes.find((echo) => echo.tag === tag && echo.key === key)
        : undefined;
    this.#echoes = this.#echoes.filter((echo) => echo !== ours);
    return ours !== undefined;
  }

  #next(sending: Sending): void {
    if (this.#sending !== sending) return;
    const step = sending.steps.shift();
    if (step === undefined) this.#finish("completed", null);
    else if ("pauseMs" in step) this.#wait(sending, step.pauseMs);
    else if (!this.#options.enqueue(() => this.#press(sending, step.key))) this.#finish("failed", "overloaded");
  }

  async #press(sending: Sending, key: string): Promise<void> {
    if (this.#sending !== sending) return;
    const pressed = await this.#try(async () => {
      const tag = this.#options.partnerOf(sending.tag);
      if (tag === undefined) return false;
      this.#echoes = [...this.#echoes, { tag, key, untilMs: this.#options.clock.now() + echoMs }];
      await this.#options.press(tag, key);
      return true;
    });
    if (this.#sending !== sending) return;
    if (pressed === true) {
      sending.pressed = true;
      this.#wait(sending, keyMs + eventPauseMs);
    } else if (sending.pressed) this.#finish("failed", "play_failed");
    else await this.#giveUp(sending);
  }

  #wait(sending: Sending, ms: number): void {
    sending.timer = this.#options.clock.after(ms, () => this.#next(sending));
  }

  /** Nothing has been sent: another way is taken, once rtpengine is as it was. */
  async #giveUp(sending: Sending): Promise<void> {
    this.#sending = null;
    await this.#try(async () => this.#options.end());
    sending.otherwise();
  }

  #finish(result: "completed" | "stopped" | "failed", reason: string | null): void {
    const sending = this.#sending;
    if (sending === null) return;
    this.#sending = null;
    sending.timer?.cancel();
    if (sending.begun) this.#options.enqueueAlways(() => this.#options.end());
    this.#options.onPlayed(sending.play, result, reason);
  }

  async #try<T>(run: () => Promise<T>): Promise<T | undefined> {
    try {
      return await run();
    } catch (error) {
      this.#options.log.warn({ error: messageOf(error) }, "telephone events could not be sent");
      return undefined;
    }
  }
}
