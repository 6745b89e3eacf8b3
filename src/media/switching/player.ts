import type { Prompt } from "../../call/effect.ts";
import type { PlayId } from "../../call/ids.ts";
import { codeOf } from "../media-error.ts";
import type { MediaClock } from "../options.ts";
import type { ReadyPrompt } from "../prompts/library.ts";

/** The last packets of a prompt are still on their way when its length is over. */
const tailMs = 40;
/** Media servers want a number of repetitions: this many cycles of a ringing tone last for hours. */
const backgroundCycles = 3_600;

/** More repetitions of one prompt are cut to this. */
const mostTimes = 1_000;

/** `tones`: nothing else may be heard with them. `background`: what is heard while there is no prompt. */
export type SoundKind = "prompt" | "tones" | "background";

export interface PlayerOptions {
  readonly clock: MediaClock;
  prepare(prompt: Prompt): Promise<ReadyPrompt>;
  /** Runs a step in the call's queue; false when it will not run. */
  enqueue(step: () => Promise<void>): boolean;
  /** Starts playing in place of what plays; resolves when it plays, with the length of one cycle in milliseconds. */
  start(ready: ReadyPrompt, times: number, kind: SoundKind): Promise<number>;
  stop(): Promise<void>;
  /** What the leg hears from now on is this file, or nothing: for the recording. */
  onSound(prompt: ReadyPrompt | null, times: number): void;
  onPlayed(play: PlayId, result: "completed" | "stopped" | "failed", reason: string | null): void;
  /** No prompt plays any more. */
  onIdle(): void;
}

interface Playing {
  readonly play: PlayId;
  readonly times: number;
  /** Detectors of tones fail when they hear a voice with them. */
  readonly kind: "prompt" | "tones";
  ready: ReadyPrompt | null;
  /** Set when the media server has begun to play it. */
  started: boolean;
  timer: { cancel(): void } | null;
}

/**
 * What one leg hears from us: at most one prompt, and a background (ringback, music) while there is none. rtpengine tells
 * neither when a prompt ends nor what it plays, so this keeps what should be heard and what is, and brings the second to
 * the first.
 */
export class Player {
  readonly #options: PlayerOptions;
  #current: Playing | null = null;
  #background: ReadyPrompt | null = null;
  /** What the media server plays: a prompt's mark, or the background itself. */
  #sounding: "nothing" | "prompt" | ReadyPrompt = "nothing";
  #syncing = false;
  #closed = false;

  constructor(options: PlayerOptions) {
    this.#options = options;
  }

  /** True while a prompt plays that would be cut off if rtpengine stopped playing. */
  get busy(): boolean {
    return this.#current?.started ?? false;
  }

  play(play: PlayId, prompt: Prompt): void {
    this.#end("stopped", null);
    if (this.#closed) {
      this.#options.onPlayed(play, "stopped", null);
      return;
    }
    const times = prompt.kind === "audio" ? Math.min(mostTimes, Math.max(1, Math.floor(prompt.times))) : 1;
    const kind = prompt.kind === "digits" ? "tones" : "prompt";
    const playing: Playing = { play, times, kind, ready: null, started: false, timer: null };
    this.#current = playing;
    // What played before must not sound on while a slow URL is fetched.
    if (this.#sounding === "prompt") this.#sync();
    this.#options.prepare(prompt).then(
      (ready) => {
        if (this.#current !== playing) {
          ready.release();
          return;
        }
        playing.ready = ready;
        this.#sync();
      },
      (error: unknown) => {
        if (this.#current === playing) this.#end("failed", codeOf(error, "failed"));
        this.#sync();
      },
    );
  }

  stop(): void {
    this.#end("stopped", null);
    this.#sync();
  }

  /** `sound` is repeated while no prompt plays; null ends it. */
  background(sound: ReadyPrompt | null): void {
    this.#background = sound;
    this.#sync();
  }

  /** Within a step of the queue: what should be heard now is heard when this resolves. */
  async settle(): Promise<void> {
    await this.#reconcile();
  }

  /**
   * The media server may have stopped by itself what it played: what should be heard is started anew. A prompt begins from its
   * start then, so that is only done when it was certainly silenced (`promptsToo`).
   */
  async restart(promptsToo: boolean): Promise<void> {
    const current = this.#current;
    if (current?.started && !promptsToo) return;
    if (current !== null) {
      current.timer?.cancel();
      current.started = false;
    }
    this.#sounding = "nothing";
    await this.#reconcile();
  }

  /** The leg is gone or the call ends: reports what was playing and does nothing more. */
  close(): void {
    if (this.#closed) return;
    this.#end("stopped", null);
    this.#background = null;
    this.#closed = true;
    if (this.#sounding !== "nothing") this.#options.onSound(null, 0);
    this.#sounding = "nothing";
  }

  #end(result: "completed" | "stopped" | "failed", reason: string | null): void {
    const current = this.#current;
    if (current === null) return;
    this.#current = null;
    current.timer?.cancel();
    current.ready?.release();
    this.#options.onPlayed(current.play, result, reason);
    if (current.started) this.#options.onIdle();
  }

  #sync(): void {
    if (this.#syncing || this.#closed) return;
    this.#syncing = true;
    const accepted = this.#options.enqueue(async () => {
      this.#syncing = false;
      await this.#reconcile();
    });
    if (accepted) return;
    this.#syncing = false;
    // Without a place in the queue the prompt can never start.
    if (this.#current !== null && !this.#current.started) this.#end("failed", "overloaded");
  }

  async #reconcile(): Promise<void> {
    if (this.#closed) return;
    const current = this.#current;
    if (current?.started) return;
    if (current !== null && current.ready !== null) await this.#startPrompt(current, current.ready);
    // A prompt that is still being fetched does not silence the background before it can be heard.
    else if (this.#background !== null) await this.#startBackground(this.#background);
    else await this.#stopSound();
  }

  async #startPrompt(playing: Playing, ready: ReadyPrompt): Promise<void> {
    let durationMs: number;
    try {
      durationMs = await this.#options.start(ready, playing.times, playing.kind);
    } catch (error) {
      if (this.#current === playing) this.#end("failed", codeOf(error, "play_failed"));
      this.#sync();
      return;
    }
    this.#sounding = "prompt";
    this.#options.onSound(ready, playing.times);
    if (this.#closed) return;
    // Stopped or replaced while the command was under way: the next step silences it.
    if (this.#current !== playing) {
      this.#sync();
      return;
    }
    playing.started = true;
    playing.timer = this.#options.clock.after(durationMs * playing.times + tailMs, () => {
      this.#sounding = "nothing";
      this.#options.onSound(null, 0);
      this.#end("completed", null);
      if (this.#background !== null) this.#sync();
    });
  }

  async #startBackground(ready: ReadyPrompt): Promise<void> {
    if (this.#sounding === ready) return;
    await this.#options.start(ready, backgroundCycles, "background");
    this.#sounding = ready;
    this.#options.onSound(ready, backgroundCycles);
  }

  async #stopSound(): Promise<void> {
    if (this.#sounding === "nothing") return;
    this.#sounding = "nothing";
    this.#options.onSound(null, 0);
    await this.#options.stop();
  }
}
