import { messageOf } from "../media-error.ts";
import type { MediaClock, MediaLog, RtpengineInstance } from "../options.ts";
import type { NgClient } from "./ng.ts";

/** One rtpengine and what is known of its health. */
export interface Instance extends RtpengineInstance {
  /** Whether it answered the last check. */
  readonly healthy: boolean;
  /** Calls that are anchored in it. */
  calls: number;
}

export interface InstancePoolOptions {
  readonly instances: readonly RtpengineInstance[];
  readonly ng: NgClient;
  readonly pingMs: number;
  readonly lostAfterMs: number;
  readonly clock: MediaClock;
  readonly log: MediaLog;
  /** The instance has not answered for so long that its calls are given up. */
  readonly onLost: (instance: Instance) => void;
  /** The instance answers again after it did not: its calls may or may not have survived. */
  readonly onBack: (instance: Instance) => void;
}

interface Watched {
  readonly host: string;
  readonly port: number;
  readonly spoolFolder?: string;
  healthy: boolean;
  calls: number;
  lastAnswerAt: number;
  lost: boolean;
  timer: { cancel(): void } | undefined;
}

/** Knows which rtpengines answer, and chooses one for a new call: the healthy one with the fewest calls. */
export class InstancePool {
  readonly #options: InstancePoolOptions;
  readonly #instances: readonly Watched[];
  #closed = false;

  constructor(options: InstancePoolOptions) {
    this.#options = options;
    this.#instances = options.instances.map((instance) => ({
      ...instance,
      healthy: false,
      calls: 0,
      lastAnswerAt: options.clock.now(),
      lost: false,
      timer: undefined,
    }));
  }

  /** Resolves after the first check of every instance, whatever came of it. */
  async start(): Promise<void> {
    await Promise.all(this.#instances.map((instance) => this.#check(instance)));
  }

  get anyHealthy(): boolean {
    return this.#instances.some((instance) => instance.healthy);
  }

  all(): readonly Instance[] {
    return this.#instances;
  }

  /** Undefined when no instance answers. `except` are instances that have just failed for this call. */
  choose(except: ReadonlySet<Instance>): Instance | undefined {
    let best: Instance | undefined;
    for (const instance of this.#instances) {
      if (!instance.healthy || except.has(instance)) continue;
      if (best === undefined || instance.calls < best.calls) best = instance;
    }
    return best;
  }

  /** It has just answered a command, whatever it said. */
  answered(instance: Instance): void {
    const watched = this.#instances.find((one) => one === instance);
    if (watched !== undefined && !this.#closed) this.#alive(watched);
  }

  #alive(instance: Watched): void {
    const { clock, log, onBack } = this.#options;
    const { host, port } = instance;
    if (!instance.healthy) log.info({ host, port }, "rtpengine answers");
    const wasAway = !instance.healthy && instance.calls > 0;
    instance.healthy = true;
    instance.lost = false;
    instance.lastAnswerAt = clock.now();
    if (wasAway) onBack(instance);
  }

  async #check(instance: Watched): Promise<void> {
    const { ng, clock, log, pingMs, lostAfterMs, onLost } = this.#options;
    const { host, port } = instance;
    try {
      await ng.request(instance, "ping", {});
      if (this.#closed) return;
      this.#alive(instance);
    } catch (error) {
      if (this.#closed) return;
      if (instance.healthy) log.error({ host, port, error: messageOf(error) }, "rtpengine does not answer");
      instance.healthy = false;
      if (!instance.lost && clock.now() - instance.lastAnswerAt >= lostAfterMs) {
        instance.lost = true;
        onLost(instance);
      }
    }
    instance.timer = clock.after(pingMs, () => void this.#check(instance));
  }

  close(): void {
    this.#closed = true;
    for (const instance of this.#instances) instance.timer?.cancel();
  }
}
