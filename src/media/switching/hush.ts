import type { MediaClock } from "../options.ts";

/** The caller's leg; operators have tags of their own. */
export const callerTag = "A";

/** Tones are over by then even when their end was never told. */
const aloneTailMs = 1_000;

export interface HushOptions {
  readonly clock: MediaClock;
  /** The operator whose sound and the caller's go to each other. */
  readonly operator: () => string | undefined;
  /** Whether the caller must not hear this operator anyway. */
  readonly shutOut: (tag: string) => boolean;
  /** Keeps the sound of this leg from its partner, or does no longer; a leg that has gone may be named. */
  readonly mute: (tag: string, on: boolean) => Promise<void>;
}

/**
 * Detectors of tones fail when they hear a voice with them: whoever's partner hears tones is hushed meanwhile. `settle` runs
 * as a step of the call's queue.
 */
export class Hush {
  readonly #options: HushOptions;
  /** Legs, by tag, that hear tones which nothing may be mixed with, and when these are over at the latest. */
  readonly #alone = new Map<string, number>();
  /** Legs, by tag, whose sound is kept from their partner. */
  readonly #hushed = new Set<string>();

  constructor(options: HushOptions) {
    this.#options = options;
  }

  /** This leg hears nothing but tones: for so long, or until these have been started. */
  begin(tag: string, durationMs = Number.POSITIVE_INFINITY): void {
    this.#alone.set(tag, this.#options.clock.now() + durationMs + aloneTailMs);
  }

  /** True when that changes anything: then it must be settled. */
  end(tag: string): boolean {
    return this.#alone.delete(tag);
  }

  /** Whether the sound of this leg is kept from its partner. */
  keepsBack(tag: string): boolean {
    return this.#hushed.has(tag);
  }

  /** The leg has gone. */
  forget(tag: string): void {
    this.#alone.delete(tag);
    this.#hushed.delete(tag);
  }

  /** Brings the media server to what should be heard. */
  async settle(): Promise<void> {
    const { clock, operator: operatorOf, shutOut, mute } = this.#options;
    const now = clock.now();
    for (const [tag, until] of this.#alone) if (until <= now) this.#alone.delete(tag);
    const operator = operatorOf();
    const wanted = new Set<string>();
    if (operator !== undefined) {
      if (this.#alone.has(operator)) wanted.add(callerTag);
      if (this.#alone.has(callerTag) || shutOut(operator)) wanted.add(operator);
    }
    for (const tag of this.#hushed) {
      if (wanted.has(tag)) continue;
      // Forgotten only then: when the command fails, the next look at the call tries again.
      await mute(tag, false);
      this.#hushed.delete(tag);
    }
    for (const tag of wanted) {
      if (this.#hushed.has(tag)) continue;
      // Before the command: when only its reply is lost, it must be undone all the same.
      this.#hushed.add(tag);
      await mute(tag, true);
    }
  }
}
