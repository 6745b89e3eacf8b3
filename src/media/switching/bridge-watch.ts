import { messageOf } from "../media-error.ts";
import type { MediaClock, MediaLog } from "../options.ts";

/** What the media server has received from one leg. */
export interface Received {
  readonly rtpPackets: number;
  /** RTCP too: a side that sends nothing but reports is there. */
  readonly packets: number;
  /** Packets that were not taken, because they came from elsewhere than this leg's sound. */
  readonly refused: number;
}

/** What has come from the caller and from the operator. */
export interface Sides {
  readonly caller: Received;
  readonly operator: Received;
}

type Side = keyof Sides;

/** From the bridge to the first look, from the repair to the second, and between looks at a talk. */
const firstLookMs = 2_000;
const secondLookMs = 1_000;
const talkLookMs = 2_000;
/** To the next look when somebody sends from elsewhere. */
const soonMs = 500;
/** Refused packets between two looks that are somebody's sound: a quarter of a second of it. */
export const fewestRefused = 12;

export interface BridgeWatchOptions {
  readonly clock: MediaClock;
  readonly log: MediaLog;
  /** An operator of a talk who sends nothing for so long is asked for; 0: never. */
  readonly talkTimeoutMs: number;
  /** Runs a step in the call's queue; false when it will not run. */
  readonly enqueue: (step: () => Promise<void>) => boolean;
  readonly received: () => Promise<Sides | undefined>;
  /** False while the caller has agreed to send nothing. */
  readonly callerSends: () => boolean;
  /** The media server learns anew where both send from. */
  readonly relatch: () => Promise<void>;
  /** Not one packet has come from the operator. */
  readonly unheard: () => void;
  /** Nothing comes from him any more. `asked`: not after he was asked either, and nothing from the caller. */
  readonly silent: (asked: boolean) => void;
}

/** What has been done about an operator who has become silent. */
type Repair = "none" | "relatched" | "asked";

/**
 * Finds a bridge over which nothing comes from the operator. A muted phone still sends: packets of silence, comfort noise
 * (RFC 3389), or at least RTCP. So only a side that has sent nothing whatever is taken for dead, and one packet is enough
 * to be joined for good: a phone with silence suppression may then be quiet for as long as it likes, provided that it
 * answers when it is asked, or that the caller is heard.
 *
 * Once he was heard, rtpengine takes packets of each side from one place only. When none come from there and others are
 * refused meanwhile, the phone has moved without a word, and rtpengine learns its place anew. Nobody can take the place of
 * a phone that sends.
 */
export class BridgeWatch {
  readonly #options: BridgeWatchOptions;
  #timer: { cancel(): void } | undefined;
  #heard = false;
  #relatched = false;
  #repair: Repair = "none";
  /** When a packet was last seen to have come. */
  #lastMs: Readonly<Record<Side, number>> = { caller: 0, operator: 0 };
  /** Counts the watches, so that a step of one that was stopped does nothing. */
  #round = 0;

  constructor(options: BridgeWatchOptions) {
    this.#options = options;
  }

  /** Watches from now on. Within a step of the queue; never rejects. */
  async start(): Promise<void> {
    this.stop();
    const round = this.#round;
    const before = await this.#received();
    const nowMs = this.#options.clock.now();
    this.#lastMs = { caller: nowMs, operator: nowMs };
    if (before !== undefined) this.#wait(round, before, this.#heard ? talkLookMs : firstLookMs);
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
    this.#repair = "none";
  }

  #wait(round: number, before: Sides, ms: number): void {
    const { clock, enqueue, log } = this.#options;
    if (round !== this.#round) return;
    this.#timer = clock.after(ms, () => {
      this.#timer = undefined;
      const accepted = enqueue(async () => {
        const now = round === this.#round ? await this.#received() : undefined;
        if (round !== this.#round) return;
        if (now === undefined) this.#wait(round, before, ms);
        else await (this.#heard ? this.#lookAtTalk(round, before, now) : this.#look(round, before, now));
      });
      if (accepted) return;
      log.warn({}, "too many commands wait: a bridge is not watched for a while");
      this.#wait(round, before, ms);
    });
  }

  async #look(round: number, before: Sides, now: Sides): Promise<void> {
    const { callerSends, relatch, unheard, log } = this.#options;
    this.#heard = now.operator.packets > before.operator.packets;
    const callerHeard = now.caller.packets > before.caller.packets || !callerSends();
    if (this.#heard && (callerHeard || this.#relatched)) {
      // Nothing at the operator's end could mend that, and a caller who only listens is no fault.
      if (!callerHeard) log.info({}, "nothing comes from the caller of a bridged call");
      await this.#lookAtTalk(round, before, now);
    } else if (!this.#relatched) {
      this.#relatched = true;
      await relatch();
      this.#wait(round, before, secondLookMs);
    } else {
      unheard();
    }
  }

  async #lookAtTalk(round: number, before: Sides, now: Sides): Promise<void> {
    const { clock, relatch, log } = this.#options;
    const nowMs = clock.now();
    const sends = (side: Side): boolean => now[side].packets > before[side].packets;
    const moved = (side: Side): boolean => !sends(side) && now[side].refused - before[side].refused >= fewestRefused;
    if (moved("caller") || moved("operator")) {
      log.info({ operator: moved("operator") }, "the sound of a talk comes from another place: it is taken from there");
      await relatch();
    }
    this.#lastMs = {
      caller: sends("caller") ? nowMs : this.#lastMs.caller,
      operator: sends("operator") ? nowMs : this.#lastMs.operator,
    };
    if (sends("operator")) this.#repair = "none";
    else await this.#repairTalk(nowMs);
    const strange = (side: Side): boolean => now[side].refused > before[side].refused;
    this.#wait(round, now, strange("caller") || strange("operator") ? soonMs : talkLookMs);
  }

  async #repairTalk(nowMs: number): Promise<void> {
    const { talkTimeoutMs, callerSends, relatch, silent, log } = this.#options;
    if (talkTimeoutMs === 0 || nowMs - this.#lastMs.operator < talkTimeoutMs) return;
    switch (this.#repair) {
      case "none":
        this.#repair = "relatched";
        await relatch();
        return;
      case "relatched":
        log.info({}, "nothing comes from an operator any more: he is asked whether he is there");
        this.#repair = "asked";
        // He has as long again to answer, and to send.
        this.#lastMs = { caller: nowMs, operator: nowMs };
        silent(false);
        return;
      case "asked":
        if (callerSends() && nowMs - this.#lastMs.caller >= talkTimeoutMs) silent(true);
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
