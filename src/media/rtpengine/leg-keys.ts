import type { PlayId } from "../../call/ids.ts";
import type { KeyPolicy } from "../../call/setup.ts";
import { keyMs } from "../audio/tones.ts";
import { messageOf } from "../media-error.ts";
import type { MediaClock, MediaLog } from "../options.ts";
import type { CallerLeg, OperatorLeg } from "../switching/call-legs.ts";
import type { CallQueue } from "../switching/call-queue.ts";
import { callerTag } from "../switching/hush.ts";
import { holds } from "../switching/sdp.ts";
import { EventKeys, leastPauseMs } from "./event-keys.ts";
import type { NgCall } from "./ng-call.ts";

/** A packet of the sound has come by then, and rtpengine has made a decoder for it. */
const eventReadyMs = 80;
/** Another event must not follow one of the partner's own sooner. */
const keyTailMs = 150;
/**
 * What is done with the key presses of a leg. `keep`: its telephone events are told us, and its partner does not get them.
 * `detect`: tones in its sound are keys. `replace`: events of ours can be put in the place of its sound.
 */
type KeyMode = "keep" | "detect" | "replace" | "leave";
const directional = { flags: ["directional"] };
// With a delay buffer, even of no length, `block DTMF` takes all of this over, or its absence. A delay of events, even by a
// millisecond, has rtpengine make one stream of a leg's sound, its events and ours. Without it none of ours is sent while
// rtpengine has counted more packets of events than of sound among those it remembers, and the leg's own are lost or cost ours.
const keyModeParameters: Readonly<Record<KeyMode, object>> = {
  keep: { ...directional, "delay-buffer": 0 },
  detect: { flags: ["directional", "detect DTMF"], "delay-buffer": 0 },
  replace: { ...directional, "delay-buffer": 1, "DTMF-delay": 1 },
  leave: { ...directional, "delay-buffer": 0 },
};

/** For this one rtpengine makes other decoders. */
const otherDetection: Readonly<Record<KeyMode, KeyMode>> = {
  keep: "replace",
  detect: "leave",
  replace: "keep",
  leave: "detect",
};

/** An operator's leg, as far as his keys are concerned. */
export interface KeyedLeg extends OperatorLeg {
  readonly keys: KeyPolicy;
  /** He has, or had, a parking place of his own. */
  readonly parked: boolean;
}

export interface LegKeysOptions {
  readonly call: string;
  readonly ng: NgCall;
  readonly queue: CallQueue;
  readonly clock: MediaClock;
  readonly log: MediaLog;
  readonly callerKeys: KeyPolicy;
  readonly caller: () => CallerLeg | undefined;
  readonly operators: () => Iterable<KeyedLeg>;
  /** Whom the caller talks to. */
  readonly current: () => KeyedLeg | null;
  readonly onPlayed: (play: PlayId, result: "completed" | "stopped" | "failed", reason: string | null) => void;
}

/** The keys that the legs of a call press, and those that are sent to them as telephone events. */
export class LegKeys {
  readonly #options: LegKeysOptions;
  readonly #events: EventKeys;
  /** What rtpengine was told to do with the key presses of a leg, by its tag. */
  readonly #modes = new Map<string, KeyMode>();
  /** When a leg was last told to have pressed a key, by its tag. */
  readonly #lastKeyMs = new Map<string, number>();
  /** When rtpengine was last made ready for events of ours. */
  #readyAtMs = 0;

  constructor(options: LegKeysOptions) {
    this.#options = options;
    const { clock, log, queue, onPlayed } = options;
    this.#events = new EventKeys({
      clock,
      log,
      enqueue: (step) => queue.push(step),
      enqueueAlways: (step) => queue.pushAlways(step),
      begin: (tag) => this.#readyForEvents(tag),
      partnerOf: (tag) => this.#partnerOf(tag),
      press: (partner, code) => this.#press(partner, code),
      end: () => this.settle(),
      onPlayed,
    });
  }

  /** Tones of the caller become telephone events. */
  get makesEvents(): boolean {
    const { callerKeys, caller } = this.#options;
    return callerKeys.detectTones && caller()?.formats.eventType === null;
  }

  /** Sends keys to a leg; `otherwise` when it can have no events. */
  send(play: PlayId, tag: string, digits: string, otherwise: () => void): void {
    this.#events.send(play, tag, digits, otherwise);
  }

  /** Ends what is being sent to this leg, or to any. */
  stop(tag?: string): void {
    this.#events.stop(tag);
  }

  /** rtpengine tells of a key press: whether its partner gets it, or nothing when it was one of ours. */
  pressed(tag: string, digit: string, durationMs: number): { readonly kept: boolean } | undefined {
    if (this.#events.isEcho(tag, digit, durationMs)) return undefined;
    this.#lastKeyMs.set(tag, this.#options.clock.now());
    return { kept: this.#modes.get(tag) === "keep" };
  }

  /** What a leg sends telephone events as; null when it knows none. */
  #eventType(tag: string): number | null {
    const { caller, operators } = this.#options;
    if (tag === callerTag) return caller()?.formats.eventType ?? null;
    return [...operators()].find((operator) => operator.tag === tag)?.remote?.eventType ?? null;
  }

  forget(tag: string): void {
    this.#modes.delete(tag);
    this.#lastKeyMs.delete(tag);
  }

  /** rtpengine has forgotten what was to be done with key presses. */
  async restore(): Promise<void> {
    this.#modes.clear();
    await this.settle();
  }

  /** Brings rtpengine to what is to be done with the key presses of each leg. */
  async settle(): Promise<void> {
    const wanted = this.#wanted();
    for (const [tag, mode] of wanted) if (this.#modes.get(tag) !== mode) await this.#treat(tag, mode);
    const tags = new Set([callerTag, ...[...this.#options.operators()].map(({ tag }) => tag)]);
    for (const tag of this.#modes.keys()) {
      if (wanted.has(tag)) continue;
      if (tags.has(tag)) await this.#treat(tag, "leave");
      else this.#modes.delete(tag);
    }
  }

  async #treat(tag: string, mode: KeyMode): Promise<void> {
    const { ng } = this.#options;
    await ng.request("blockDTMF", { "from-tag": tag, ...keyModeParameters[mode] });
    if (mode !== "keep") await ng.request("unblockDTMF", { "from-tag": tag, ...directional });
    if (mode === "leave") this.#modes.delete(tag);
    else this.#modes.set(tag, mode);
  }

  #wanted(): ReadonlyMap<string, KeyMode> {
    const wanted = new Map<string, KeyMode>();
    const operator = this.#options.current();
    for (const one of this.#options.operators()) {
      const answered = one === operator || one.parked;
      if (answered && one.keys.detectTones && one.remote?.eventType === null) wanted.set(one.tag, "detect");
    }
    if (operator !== null) {
      if (operator.keys.byInfo && operator.remote?.eventType === null) wanted.set(callerTag, "keep");
      if (this.#events.hearer === operator.tag) wanted.set(callerTag, "replace");
      if (this.#events.hearer === callerTag) wanted.set(operator.tag, "replace");
    }
    if (this.makesEvents) wanted.set(callerTag, "detect");
    return wanted;
  }

  /** Keys that are not told, or told twice, are no reason to end a talk. Never rejects. */
  async trySettle(): Promise<void> {
    await this.#try(() => this.settle());
  }

  /**
   * To be done before a leg is heard again by the one that it talks to: has rtpengine `missed` some of its sound, it waits for
   * that, in half of all streams until ten more packets have come, a fifth of a second. And where it makes tones of the leg's
   * telephone events, it suppresses the sound beside a key until it gets the key's end: of an end that it did not get there,
   * because the leg was blocked or parked, it knows nothing for ten seconds of sound. Decoders that are made anew wait for
   * nothing and know of no key, and with every change of this kind they are. Never rejects.
   */
  async decodeAnew(tag: string, missed: boolean): Promise<void> {
    const operator = this.#options.current();
    const mode = this.#modes.get(tag) ?? "leave";
    const partner = tag === callerTag ? operator?.tag : callerTag;
    const becomeTones =
      mode === "leave" && partner !== undefined && this.#eventType(tag) !== null && this.#eventType(partner) === null;
    if (!missed && !becomeTones) return;
    await this.#try(async () => {
      await this.#treat(tag, otherDetection[mode]);
      await this.settle();
    });
  }

  async #try(run: () => Promise<void>): Promise<void> {
    try {
      await run();
    } catch (error) {
      const { call, log } = this.#options;
      log.warn({ call, error: messageOf(error) }, "key presses may be missed");
    }
  }

  /** The leg that a leg hears; undefined while it hears nobody. */
  #partnerOf(tag: string): string | undefined {
    const operator = this.#options.current();
    if (operator === null || holds(operator.remote)) return undefined;
    if (tag === operator.tag) return callerTag;
    return tag === callerTag ? operator.tag : undefined;
  }

  /**
   * rtpengine puts events in the place of packets of the sound that the leg hears: somebody must be sending it, and rtpengine
   * must be decoding it.
   */
  async #readyForEvents(tag: string): Promise<boolean> {
    const { clock, ng, caller, current } = this.#options;
    const partner = this.#partnerOf(tag);
    const operator = current();
    const eventType =
      tag === callerTag ? caller()?.formats.eventType : operator?.formats.eventType && operator.remote?.eventType;
    if (partner === undefined || operator === null || typeof eventType !== "number") return false;
    await this.#keyOver(partner);
    const [before] = await ng.received(operator.tag, partner);
    await this.settle();
    this.#readyAtMs = clock.now();
    await this.#pause(eventReadyMs);
    const [after] = await ng.received(operator.tag, partner);
    return (after?.rtpPackets ?? 0) > (before?.rtpPackets ?? 0);
  }

  async #press(partner: string, code: string): Promise<void> {
    const { clock, ng } = this.#options;
    // With each of the partner's own keys rtpengine falls behind in time: by some it would take ours for over at once.
    if (this.#lastKeyAtMs(partner) >= this.#readyAtMs) {
      await this.#keyOver(partner);
      await this.decodeAnew(partner, true);
      this.#readyAtMs = clock.now();
      await this.#pause(eventReadyMs);
    }
    await ng.request("playDTMF", { "from-tag": partner, code, duration: keyMs, pause: leastPauseMs });
  }

  #lastKeyAtMs(tag: string): number {
    return this.#lastKeyMs.get(tag) ?? Number.NEGATIVE_INFINITY;
  }

  /** While the end of a leg's own key is repeated, rtpengine would take it for what is to be sent (RFC 4733 §2.5.1.4). */
  async #keyOver(tag: string): Promise<void> {
    await this.#pause(this.#lastKeyAtMs(tag) + keyTailMs - this.#options.clock.now());
  }

  async #pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      this.#options.clock.after(Math.max(0, ms), resolve);
    });
  }
}
