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
/** What is done with the key presses of a leg. `keep`: they are told us, and its partner does not get them. */
type KeyMode = "detect" | "keep";
const keyModeParameters: Readonly<Record<KeyMode, object>> = {
  // The detector is only switched on by a command whose name says something else.
  detect: { "DTMF-security": "off", "delay-buffer": 0, flags: ["detect DTMF", "directional"] },
  keep: { flags: ["directional"] },
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

  constructor(options: LegKeysOptions) {
    this.#options = options;
    const { clock, log, queue, ng, onPlayed } = options;
    this.#events = new EventKeys({
      clock,
      log,
      enqueue: (step) => queue.push(step),
      enqueueAlways: (step) => queue.pushAlways(step),
      begin: (tag) => this.#readyForEvents(tag),
      partnerOf: (tag) => this.#partnerOf(tag),
      press: async (partner, code) =>
        void (await ng.request("playDTMF", { "from-tag": partner, code, duration: keyMs, pause: leastPauseMs })),
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

  forget(tag: string): void {
    this.#modes.delete(tag);
    this.#lastKeyMs.delete(tag);
  }

  /** rtpengine has forgotten what was to be done with key presses. */
  async restore(): Promise<void> {
    this.#modes.clear();
    await this.settle();
  }

  /**
   * rtpengine puts the packets that it decodes in order, and waits for those that are missing, among them the ones that it
   * did not take because they were blocked: in half of all streams until ten more have come, a fifth of a second. Decoders
   * that are made anew wait for nothing, and with every change to what is detected they are.
   */
  async decodeAnew(tag: string): Promise<void> {
    const { ng } = this.#options;
    for (const flags of [["detect DTMF", "directional"], ["directional"]])
      await ng.request("unblockDTMF", { "from-tag": tag, "delay-buffer": 0, flags });
    const mode = this.#modes.get(tag);
    if (mode !== undefined) await ng.request("blockDTMF", { "from-tag": tag, ...keyModeParameters[mode] });
  }

  /** Brings rtpengine to what is to be done with the key presses of each leg. */
  async settle(): Promise<void> {
    const { ng } = this.#options;
    const wanted = this.#wanted();
    const tags = new Set([callerTag, ...[...this.#options.operators()].map(({ tag }) => tag)]);
    for (const [tag, mode] of this.#modes) {
      if (wanted.get(tag) === mode) continue;
      this.#modes.delete(tag);
      if (tags.has(tag) && !wanted.has(tag))
        await ng.request("unblockDTMF", { "from-tag": tag, flags: ["directional"] });
    }
    for (const [tag, mode] of wanted) {
      if (this.#modes.has(tag)) continue;
      await ng.request("blockDTMF", { "from-tag": tag, ...keyModeParameters[mode] });
      this.#modes.set(tag, mode);
    }
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
      // Events are put in the place of detected sound only.
      if (this.#events.hearer === operator.tag) wanted.set(callerTag, "detect");
      if (this.#events.hearer === callerTag) wanted.set(operator.tag, "detect");
    }
    if (this.makesEvents) wanted.set(callerTag, "detect");
    return wanted;
  }

  /** Keys that are not told, or told twice, are no reason to end a talk. Never rejects. */
  async trySettle(): Promise<void> {
    try {
      await this.settle();
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
    const pause = async (ms: number): Promise<void> =>
      new Promise((resolve) => {
        clock.after(Math.max(0, ms), resolve);
      });
    // While the end of his own key is repeated, rtpengine would take it for what is to be sent (RFC 4733 §2.5.1.4).
    await pause((this.#lastKeyMs.get(partner) ?? Number.NEGATIVE_INFINITY) + keyTailMs - clock.now());
    const [before] = await ng.received(operator.tag, partner);
    await this.settle();
    await pause(eventReadyMs);
    const [after] = await ng.received(operator.tag, partner);
    return (after?.rtpPackets ?? 0) > (before?.rtpPackets ?? 0);
  }
}
