import { messageOf } from "../media-error.ts";
import type { MediaClock, MediaLog } from "../options.ts";

/** What the media server has received from one leg. */
export interface Received {
  readonly rtpPackets: number;
  /** RTCP too: a side that sends nothing but reports is there. */
  readonly packets: number;
}

/** From the bridge to the first look, and from the repair to the second. */
const firstLookMs = 2_000;
const secondLookMs = 1_000;

export interface BridgeWatchOptions {
  readonly clock: MediaClock;
  readonly log: MediaLog;
  /** Runs a step in the call's queue; false when it will not run. */
  readonly enqueue: (step: () => Promise<void>) => boolean;
  /** What has come from the caller and from the operator. */
  readonly received: () => Promise<{ readonly caller: Received; readonly operator: Received } | undefined>;
  /** False while the caller has agreed to send nothing. */
  readonly callerSends: () => boolean;
  /** The media server learns anew where both send from. */
  readonly relatch: () => Promise<void>;
  /** Not one packet has come from the operator. */
  readonly unheard: () => void;
}

/**
 * Finds a bridge over which nothing comes from the operator. A muted phone still sends: packets of silence, comfort noise
 * (RFC 3389), or at least RTCP. So only a side that has sent nothing whatever is taken for dead, and one packet is enough
 * to be let alone for good: a phone with silence suppression may then be quiet for as long as it likes.
 */
export class BridgeWatch {
  readonly #options: BridgeWatchOptions;
  #timer: { cancel(): void } | undefined;
  #heard = false;
  #relatched = false;
  /** Counts the watches, so that a step of one that was stopped does nothing. */
  #round = 0;

  constructor(options: BridgeWatchOptions) {
    this.#options = options;
  }

  /** Watches from now on, unless he has been heard before. Within a step of the queue; never rejects. */
  async start(): Promise<void> {
    this.stop();
    if (this.#heard) return;
    const round = this.#round;
    const before = await this.#received();
    if (before !== undefined) this.#wait(round, before, firstLookMs);
  }

  stop(): void {
    this.#round += 1;
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  /** The next operator is another one. */
  reset(): void {
    this.stop();
    this.#heard = false;
    this.#relatched = false;
  }

  #wait(round: number, before: Sides, ms: number): void {
    const { clock, enqueue, log } = this.#options;
    if (round !== this.#round) return;
    this.#timer = clock.after(ms, () => {
      this.#timer = undefined;
      const accepted = enqueue(() => this.#look(round, before));
      if (!accepted) log.warn({}, "too many commands wait: a bridge is not watched");
    });
  }

  async #look(round: number, before: Sides): Promise<void> {
    const { callerSends, relatch, unheard, log } = this.#options;
    const now = round === this.#round ? await this.#received() : undefined;
    if (now === undefined || round !== this.#round) return;
    this.#heard = now.operator.packets > before.operator.packets;
    const callerHeard = now.caller.packets > before.caller.packets || !callerSends();
    if (this.#heard && callerHeard) return;
    if (!this.#relatched) {
      this.#relatched = true;
      await relatch();
      this.#wait(round, before, secondLookMs);
    } else if (this.#heard) {
      // Nothing at the operator's end could mend that, and a caller who only listens is no fault.
      log.info({}, "nothing comes from the caller of a bridged call");
    } else {
      unheard();
    }
  }

  async #received(): Promise<Sides | undefined> {
    try {
      return await this.#options.received();
    } catch (error) {
      this.#options.log.warn({ error: messageOf(error) }, "a bridge cannot be watched");
      return undefined;
    }
  }
}

type Sides = NonNullable<Awaited<ReturnType<BridgeWatchOptions["received"]>>>;
