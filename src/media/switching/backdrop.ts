import type { Prompt } from "../../call/effect.ts";
import type { CallerSounds } from "../../call/setup.ts";
import { messageOf } from "../media-error.ts";
import type { MediaClock, MediaLog } from "../options.ts";
import type { ReadyPrompt } from "../prompts/library.ts";

/** Between two looks at the counters while the caller hears us, and while he hears the other side, whose end must not be missed. */
const lookMs = 100;
const closeLookMs = 40;
/** Without a packet for so long the other side has fallen silent. With one look and the start of our sound that stays below 300 ms. */
const quietMs = 120;
/** So many packets within this time are a stream, and no keep-alive of a gateway. */
const leastPackets = 3;
const windowMs = 400;

/** Why the caller waits. */
export type Waiting = "ringing" | "held";

export interface BackdropOptions {
  readonly sounds: CallerSounds;
  /** What is heard where the channel has no sound of its own, or none that can be had. */
  readonly usual: Readonly<Record<Waiting, ReadyPrompt>>;
  readonly clock: MediaClock;
  readonly log: MediaLog;
  readonly prepare: (prompt: Prompt) => Promise<ReadyPrompt>;
  /** Runs a step in the call's queue; false when it will not run. */
  readonly enqueue: (step: () => Promise<void>) => boolean;
  /** RTP packets of a leg so far. */
  readonly packetsOf: (tag: string) => Promise<number>;
  /** A prompt plays, which nothing may be heard with. */
  readonly prompting: () => boolean;
  /** The sound that stands in for the other side's, or none. */
  readonly show: (sound: ReadyPrompt | null) => void;
  readonly letThrough: (tag: string) => Promise<void>;
  readonly shutOut: (tag: string) => Promise<void>;
}

interface Look {
  readonly atMs: number;
  readonly packets: number;
}

/**
 * What a waiting caller hears: ringback, or music while the operator holds him. It gives way to a leg whose RTP really
 * flows (early media, the music of the operator's own exchange) and comes back when that falls silent. Only packets count:
 * a 183 with SDP is often followed by nothing.
 */
export class Backdrop {
  readonly #options: BackdropOptions;
  readonly #own: Partial<Record<Waiting, ReadyPrompt>> = {};
  #waiting: Waiting | null = null;
  /** Legs that may be heard, with the latest looks at their counters, oldest first. */
  readonly #sources = new Map<string, Look[]>();
  #through: string | null = null;
  #timer: { cancel(): void } | undefined;
  #closed = false;

  constructor(options: BackdropOptions) {
    this.#options = options;
  }

  /** Fetches the channel's own sounds; until they are there the usual ones are heard. */
  prepare(): void {
    const { sounds } = this.#options;
    if (sounds.ringbackUrl !== null) this.#fetch("ringing", sounds.ringbackUrl);
    if (sounds.holdUrl !== null) this.#fetch("held", sounds.holdUrl);
  }

  #fetch(waiting: Waiting, url: string): void {
    const { prepare, log } = this.#options;
    prepare({ kind: "audio", url, times: 1 }).then(
      (ready) => {
        if (this.#closed) {
          ready.release();
          return;
        }
        this.#own[waiting] = ready;
        this.#show();
      },
      (error: unknown) => log.warn({ waiting, error: messageOf(error) }, "a sound for waiting callers cannot be had"),
    );
  }

  /** From now on the caller waits, or does not. What comes from the other side is left as it is. */
  set(waiting: Waiting | null): void {
    if (this.#closed) return;
    this.#waiting = waiting;
    this.#show();
    this.#schedule();
  }

  /** This leg may be heard when it sends. `flowing`: it is heard already. */
  admit(tag: string, flowing: boolean): void {
    if (this.#closed || this.#sources.has(tag)) return;
    this.#sources.set(tag, flowing ? [{ atMs: this.#options.clock.now(), packets: -1 }] : []);
    if (flowing) this.#through = tag;
    this.#show();
    this.#schedule();
  }

  /** This leg is not heard any more, whatever it sends. Within a step of the queue. */
  async withdraw(tag: string): Promise<void> {
    this.#sources.delete(tag);
    if (this.#through === tag) await this.#close(tag);
  }

  /** Nobody is waited for any more; whoever is heard is shut out, but for `except`. Within a step of the queue. */
  async clear(except: string | null): Promise<void> {
    this.#waiting = null;
    this.#sources.clear();
    const through = this.#through;
    this.#through = null;
    this.#show();
    if (through !== null && through !== except) await this.#options.shutOut(through);
  }

  /** A prompt begins. Within a step of the queue. */
  async interrupt(): Promise<void> {
    const through = this.#through;
    if (through === null) return;
    this.#sources.set(through, []);
    await this.#close(through);
  }

  close(): void {
    this.#closed = true;
    this.#timer?.cancel();
    this.#sources.clear();
    for (const own of Object.values(this.#own)) own.release();
  }

  async #close(tag: string): Promise<void> {
    this.#through = null;
    this.#show();
    await this.#options.shutOut(tag);
  }

  #show(): void {
    const waiting = this.#through === null ? this.#waiting : null;
    this.#options.show(waiting === null ? null : (this.#own[waiting] ?? this.#options.usual[waiting]));
  }

  #schedule(): void {
    if (this.#timer !== undefined || this.#closed || this.#waiting === null || this.#sources.size === 0) return;
    const { clock, enqueue } = this.#options;
    this.#timer = clock.after(this.#through === null ? lookMs : closeLookMs, () => {
      const accepted = enqueue(async () => {
        try {
          await this.#look();
        } finally {
          this.#timer = undefined;
          this.#schedule();
        }
      });
      if (accepted) return;
      this.#timer = undefined;
      this.#schedule();
    });
  }

  async #look(): Promise<void> {
    if (this.#waiting === null) return;
    for (const [tag, looks] of this.#sources) {
      const packets = await this.#options.packetsOf(tag);
      const atMs = this.#options.clock.now();
      // The latest look that saw another number says since when nothing has come.
      if (looks.at(-1)?.packets !== packets) looks.push({ atMs, packets });
      while (looks.length > 1 && (looks[0]?.atMs ?? atMs) < atMs - windowMs) looks.shift();
    }
    const now = this.#options.clock.now();
    const heard = this.#through;
    if (heard !== null) {
      const last = this.#sources.get(heard)?.at(-1);
      if (last !== undefined && now - last.atMs < quietMs) return;
      this.#sources.set(heard, []);
      await this.#close(heard);
    }
    if (this.#options.prompting()) return;
    for (const [tag, looks] of this.#sources) {
      const [first, last] = [looks[0], looks.at(-1)];
      if (first === undefined || last === undefined || last.packets - first.packets < leastPackets) continue;
      if (now - last.atMs >= quietMs) continue;
      await this.#options.letThrough(tag);
      this.#through = tag;
      this.#show();
      return;
    }
  }
}
