import { randomBytes } from "node:crypto";
import type { Prompt } from "../../call/effect.ts";
import type { CallEvent } from "../../call/event.ts";
import type { ExchangeId, LegId, PlayId, Sdp } from "../../call/ids.ts";
import type { KeyPolicy } from "../../call/setup.ts";
import { keyMs } from "../audio/tones.ts";
import type { G711Law } from "../audio/g711.ts";
import { MediaError, messageOf } from "../media-error.ts";
import type { MediaClock, MediaLog } from "../options.ts";
import { safeName } from "../recording/recorder.ts";
import { callerLeg } from "../recording/timeline.ts";
import { Backdrop } from "../switching/backdrop.ts";
import { BridgeWatch } from "../switching/bridge-watch.ts";
import { RecordingControl } from "../recording/call-recording.ts";
import { CallerWatch } from "../switching/caller-watch.ts";
import { EventKeys, leastPauseMs } from "./event-keys.ts";
import type { Instance } from "./instances.ts";
import { NgError } from "./ng.ts";
import type { NgClient, NgReply, NgVerb } from "./ng.ts";
import { Player, type SoundKind } from "../switching/player.ts";
import {
  chooseFormats,
  describeAnswer,
  describeEnd,
  describePeer,
  holds,
  isNowhere,
  mayHear,
  mirrored,
  newEnd,
  readAudio,
} from "../switching/sdp.ts";
import type {
  AudioCodec,
  AudioDescription,
  AudioFormats,
  ChosenFormats,
  Direction,
  LocalEnd,
} from "../switching/sdp.ts";
import { SerialQueue } from "../switching/serial-queue.ts";
import type { SwitchedCall, SwitchedCallOptions } from "../switching/switching-anchor.ts";
import { receivedFrom } from "./streams.ts";

export interface AnchoredCallOptions extends SwitchedCallOptions {
  readonly ng: NgClient;
  /** Undefined when no instance answers; `except` have failed for this call already. */
  readonly chooseInstance: (except: ReadonlySet<Instance>) => Instance | undefined;
  /** Spool of an instance that has none of its own. */
  readonly spoolFolder: string;
  readonly parkingAddress: string;
  readonly watchMs: number;
  readonly mostQueued: number;
  readonly mostLegs: number;
  readonly clock: MediaClock;
  readonly log: MediaLog;
  /** A caller who sends nothing for so long is gone. */
  readonly callerTimeoutMs: number;
  /** An operator who was heard and has sent nothing for so long is asked for; 0: never. */
  readonly talkTimeoutMs: number;
}

// Sent in every offer and answer. Port latching keeps the caller's port when the far party changes. With strict source a leg
// is heard from one place only, from three seconds after the last offer or answer on.
const common = {
  replace: ["origin", "session connection"],
  ICE: "remove",
  flags: ["trust address", "port latching", "strict source"],
};
/** rtpengine's names of the legs: the caller, the far end of a parked caller, operators by number. */
const callerTag = "A";
const botTag = "bot";
const parkingPort = 9;
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
/** Tones are over by then even when their end was never told. */
const aloneTailMs = 1_000;
/** Packets are G.711 by their fixed types whatever else was agreed (RFC 3551 §6). */
const fixedLaws: readonly (readonly [number, G711Law])[] = [
  [0, "PCMU"],
  [8, "PCMA"],
];

/** Someone behind the caller's leg: the parking place of the bot's side, or an operator. */
interface FarEnd {
  readonly tag: string;
  /** The caller's description that it was last offered, by number: an older one is offered again before an answer. */
  offered: number;
}

interface Operator extends FarEnd {
  readonly leg: LegId;
  readonly end: LocalEnd;
  readonly formats: AudioFormats;
  readonly keys: KeyPolicy;
  /** His latest description; null until he has sent one. */
  remote: AudioDescription | null;
  /** He has, or had, a parking place of his own. */
  parked: boolean;
  /** The text of his latest description before his answer: it is repeated with every 18x. */
  early: string;
}

const parkingOf = ({ tag }: Operator): string => `${tag}-parking`;

interface CallerEnd {
  remote: AudioDescription;
  formats: ChosenFormats;
  /** Null until rtpengine has named it. */
  end: LocalEnd | null;
}

function lawsOf(codecs: readonly AudioCodec[]): ReadonlyMap<number, G711Law> {
  return new Map([...fixedLaws, ...codecs.map(({ payloadType, law }) => [payloadType, law] as const)]);
}

/** What the names of a call's media begin with in rtpengine. */
export function ngCallPrefix(call: string): string {
  return `pb-${safeName(call)}-`;
}

/**
 * One call in one rtpengine. The caller's leg is offered once; who is behind it changes by `answer`s of which his phone
 * sees nothing. Commands run one after another in the order of the calls of the methods.
 */
export class AnchoredCall implements SwitchedCall {
  /** The call's name in rtpengine: no character of it is ever escaped, and it is never used twice. */
  readonly ngCall: string;
  readonly #options: AnchoredCallOptions;
  readonly #queue: SerialQueue;
  readonly #recording: RecordingControl;
  readonly #callerPlayer: Player;
  readonly #operatorPlayers = new Map<LegId, Player>();
  readonly #operators = new Map<LegId, Operator>();
  readonly #bot: FarEnd = { tag: botTag, offered: 0 };
  /** Operators whose leg is deleted as soon as no prompt plays, because deleting it would cut the prompt off. */
  readonly #leaving = new Set<Operator>();
  /** Legs, by tag, that hear tones which nothing may be mixed with, and when these are over at the latest. */
  readonly #hearAlone = new Map<string, number>();
  /** Legs, by tag, whose sound is blocked for the sake of such tones. */
  readonly #hushed = new Set<string>();
  /** The operator who holds the caller and is not heard meanwhile. */
  #heldBack: string | null = null;
  readonly #backdrop: Backdrop;
  readonly #bridgeWatch: BridgeWatch;
  readonly #callerWatch: CallerWatch;
  readonly #eventKeys: EventKeys;
  /** What rtpengine was told to do with the key presses of a leg, by its tag. */
  readonly #keyModes = new Map<string, KeyMode>();
  /** When a leg was last told to have pressed a key, by its tag. */
  readonly #lastKeyMs = new Map<string, number>();
  #instance: Instance | undefined;
  #callerEnd: CallerEnd | undefined;
  /** Counts the caller's descriptions. */
  #callerVersion = 1;
  #current: FarEnd = this.#bot;
  #operatorCount = 0;
  #watch: { cancel(): void } | undefined;
  #closing = false;
  #lost = false;

  constructor(options: AnchoredCallOptions) {
    this.#options = options;
    this.ngCall = `${ngCallPrefix(options.call)}${randomBytes(6).toString("hex")}`;
    this.#queue = new SerialQueue(options.mostQueued, (error) => {
      options.log.warn({ call: options.call, error: messageOf(error) }, "a media command failed");
    });
    this.#callerPlayer = this.#newPlayer(callerTag, true);
    const { call, order, recorder, clock, log, sounds, usualSounds, prepare } = options;
    const enqueue = (step: () => Promise<void>): boolean => this.#queue.push(() => this.#unlessEnding(step));
    this.#backdrop = new Backdrop({
      sounds,
      usual: usualSounds,
      clock,
      log,
      prepare,
      enqueue,
      packetsOf: async (tag) => receivedFrom(await this.#query(tag), tag)?.rtpPackets ?? 0,
      prompting: () => this.#callerPlayer.busy,
      show: (sound) => this.#callerPlayer.background(sound),
      letThrough: (tag) => this.#letThrough(tag),
      shutOut: (tag) => this.#shutOut(tag),
    });
    this.#eventKeys = new EventKeys({
      clock,
      log,
      enqueue,
      enqueueAlways: (step) => this.#queue.pushAlways(() => this.#unlessEnding(step)),
      begin: (tag) => this.#readyForEvents(tag),
      partnerOf: (tag) => this.#partnerOf(tag),
      press: async (partner, code) =>
        void (await this.#ng("playDTMF", { "from-tag": partner, code, duration: keyMs, pause: leastPauseMs })),
      end: () => this.#settleKeys(),
      onPlayed: (play, result, reason) => this.#post({ type: "media.played", play, result, reason }),
    });
    this.#bridgeWatch = new BridgeWatch({
      clock,
      log,
      talkTimeoutMs: options.talkTimeoutMs,
      enqueue,
      received: () => this.#receivedOnBridge(),
      callerSends: () => this.#callerEnd?.remote.direction === "sendrecv",
      relatch: async () => void (await this.#answerFrom(this.#partner)),
      unheard: () => this.#askAgain((leg, offer) => this.#post({ type: "media.unheard", leg, offer })),
      silent: (asked) =>
        this.#askAgain((leg, offer) => this.#post({ type: "media.silent", leg, offer: asked ? null : offer })),
    });
    this.#callerWatch = new CallerWatch(clock, options.callerTimeoutMs, (reason) => {
      log.warn({ call }, reason);
      this.#post({ type: "media.lost", reason });
    });
    // The instance is chosen when the call opens, and recordings only begin after that.
    const spoolFolder = (): string => this.#instance?.spoolFolder ?? options.spoolFolder;
    this.#recording = new RecordingControl({
      call,
      name: () => this.ngCall,
      captureFolder: "pcaps",
      order,
      recorder,
      get spoolFolder() {
        return spoolFolder();
      },
      clock,
      log,
      startCapture: () => this.#startCapture(),
      stopCapture: async () => void (await this.#ng("stopRecording", {})),
      enqueue: (step) => this.#queue.pushAlways(() => this.#unlessEnding(step)),
      post: (event) => void options.post(event),
    });
  }

  get queued(): number {
    return this.#queue.length;
  }

  get instance(): Instance | undefined {
    return this.#instance;
  }

  // The methods of the port: each returns at once.

  open(offer: Sdp): void {
    this.#step(
      () => this.#open(offer),
      () => this.#openFailed(false, "overloaded"),
    );
  }

  play(play: PlayId, leg: LegId, prompt: Prompt): void {
    const player = leg === this.#options.caller ? this.#callerPlayer : this.#operatorPlayers.get(leg);
    const tag = leg === this.#options.caller ? callerTag : this.#operators.get(leg)?.tag;
    if (player === undefined || tag === undefined) {
      this.#post({ type: "media.played", play, result: "failed", reason: "no_such_leg" });
      return;
    }
    this.#eventKeys.stop(tag);
    if (prompt.kind !== "digits") {
      player.play(play, prompt);
      return;
    }
    this.#eventKeys.send(play, tag, prompt.digits, () => {
      if (prompt.tones === false) this.#post({ type: "media.played", play, result: "failed", reason: "no_events" });
      else player.play(play, prompt);
    });
  }

  stop(leg: LegId): void {
    const tag = leg === this.#options.caller ? callerTag : this.#operators.get(leg)?.tag;
    if (tag !== undefined) this.#eventKeys.stop(tag);
    if (leg === this.#options.caller) this.#callerPlayer.stop();
    else this.#operatorPlayers.get(leg)?.stop();
  }

  ringback(on: boolean): void {
    this.#backdrop.set(on ? "ringing" : null);
  }

  offer(leg: LegId, keys: KeyPolicy): void {
    this.#withOperator(leg, () => this.#offer(leg, keys));
  }

  /** A step for an operator's leg: when it fails or has no place, the leg has failed. */
  #withOperator(leg: LegId, run: () => Promise<void>): void {
    const failed = (reason: string): void => this.#post({ type: "media.legFailed", leg, reason });
    this.#step(
      run,
      () => failed("overloaded"),
      (error) => failed(messageOf(error)),
    );
  }

  early(leg: LegId, answer: Sdp): void {
    this.#step(
      () => this.#early(leg, answer),
      () => {},
    );
  }

  renew(leg: LegId, answer: Sdp, taken: boolean): void {
    if (leg !== this.#options.caller) {
      this.#withOperator(leg, () => {
        // Whoever has taken his place has not been heard yet.
        if (taken && this.#current === this.#operators.get(leg)) this.#bridgeWatch.reset();
        return this.#renew(leg, answer);
      });
      return;
    }
    this.#step(
      async () => void (await this.#updateCaller(answer)),
      () => {},
    );
  }

  consult(leg: LegId, answer: Sdp): void {
    this.#withOperator(leg, () => this.#consult(leg, answer));
  }

  join(leg: LegId, answer: Sdp): void {
    // At once: a prompt that is ordered while this waits for its turn is for what comes after.
    this.#callerPlayer.stop();
    this.#withOperator(leg, () => this.#join(leg, answer));
  }

  aside(leg: LegId, on: boolean): void {
    if (!on) this.#callerPlayer.stop();
    this.#withOperator(leg, () => (on ? this.#part(leg) : this.#bridge(this.#operatorOf(leg))));
  }

  drop(leg: LegId): void {
    // A leg that stays behind costs ports: a drop is never refused.
    this.#queue.pushAlways(() => this.#unlessEnding(() => this.#drop(leg)));
  }

  update(leg: LegId, exchange: ExchangeId, offer: Sdp | null): void {
    const failed = (): void => this.#post({ type: "media.updateFailed", leg, exchange });
    this.#step(
      async () => {
        const answer =
          leg === this.#options.caller ? await this.#updateCaller(offer) : await this.#updateOperator(leg, offer);
        this.#post({ type: "media.updated", leg, exchange, answer });
      },
      failed,
      failed,
    );
  }

  propose(leg: LegId, exchange: ExchangeId, offer: Sdp): void {
    const failed = (): void => this.#post({ type: "media.updateFailed", leg, exchange });
    this.#step(
      async () => {
        this.#post({ type: "media.updated", leg, exchange, answer: this.#proposal(leg, offer) });
      },
      failed,
      failed,
    );
  }

  recording(to: "start" | "pause" | "resume" | "stop"): void {
    this.#step(
      () => this.#recording[to](),
      () => this.#options.log.warn({ call: this.#options.call, to }, "too many commands wait: recording unchanged"),
    );
  }

  phase(phase: Parameters<RecordingControl["setPhase"]>[0]): void {
    this.#recording.setPhase(phase);
  }

  /** A key press that rtpengine has detected. */
  digit(tag: string, digit: string, durationMs: number): void {
    const leg =
      tag === callerTag
        ? this.#options.caller
        : [...this.#operators.values()].find((operator) => operator.tag === tag)?.leg;
    if (leg === undefined || this.#eventKeys.isEcho(tag, digit, durationMs)) return;
    this.#lastKeyMs.set(tag, this.#options.clock.now());
    const kept = this.#keyModes.get(tag) === "keep" ? ({ carriedBy: "kept" } as const) : {};
    this.#post({ type: "media.digit", leg, digit, durationMs, ...kept });
  }

  close(): void {
    if (this.#closing) return;
    this.#watch?.cancel();
    this.#bridgeWatch.stop();
    this.#eventKeys.stop();
    this.#backdrop.close();
    this.#callerPlayer.close();
    for (const player of this.#operatorPlayers.values()) player.close();
    this.#closing = true;
    this.#queue.pushAlways(() => this.#close());
  }

  /** rtpengine does not have the call any more. Reported once. */
  lose(reason: string): void {
    if (this.#lost || this.#closing) return;
    this.#lost = true;
    this.#watch?.cancel();
    this.#options.log.error({ call: this.#options.call, reason }, "the media of a call is lost");
    this.#post({ type: "media.lost", reason });
  }

  /** Asks rtpengine at once whether it still holds the call, and starts again what a restart has silenced. */
  verify(): void {
    this.#step(
      async () => {
        await this.#query(this.#current.tag);
        // It may have begun a new capture.
        this.#recording.look(null);
        // What was to be done with key presses is not restored.
        this.#keyModes.clear();
        await this.#settleKeys();
        await this.#callerPlayer.restart(true);
      },
      () => {},
    );
  }

  // The queue.

  #step(run: () => Promise<void>, onFull: () => void, onError?: (error: unknown) => void): void {
    const accepted = this.#queue.push(() =>
      this.#unlessEnding(async () => {
        try {
          await run();
        } catch (error) {
          if (onError === undefined) throw error;
          this.#options.log.warn({ call: this.#options.call, error: messageOf(error) }, "a media command failed");
          onError(error);
        }
      }),
    );
    if (!accepted) onFull();
  }

  /** What waited when the call was closed is not done any more. */
  async #unlessEnding(run: () => Promise<void>): Promise<void> {
    if (!this.#closing) await run();
  }

  #post(event: CallEvent): void {
    if (!this.#closing) this.#options.post(event);
  }

  // Commands.

  async #ng(verb: NgVerb, parameters: object, once = false): Promise<NgReply> {
    const instance = this.#instance;
    if (instance === undefined) throw new MediaError("not_open", "the call is not anchored");
    if (this.#lost) throw new MediaError("media_lost", "rtpengine has lost the call");
    try {
      return await this.#options.ng.request(instance, verb, { "call-id": this.ngCall, ...parameters }, once);
    } catch (error) {
      if (error instanceof NgError && error.unknownCall) this.lose("rtpengine does not know the call any more");
      throw error;
    }
  }

  #legParameters(tag: string, fromTag = callerTag): object {
    return { "from-tag": fromTag, "to-tag": tag, "via-branch": `z9hG4bK-${tag}`, ...common };
  }

  async #describeByNg(verb: "offer" | "answer", tag: string, parameters: object): Promise<AudioDescription> {
    const reply = await this.#ng(verb, { ...this.#legParameters(tag), ...parameters });
    const sdp = reply["sdp"];
    const outcome = readAudio(typeof sdp === "string" ? sdp : "");
    if (!outcome.ok) throw new MediaError("bad_reply", `rtpengine's ${verb} reply: ${outcome.fault}`);
    return outcome.audio;
  }

  #caller(): CallerEnd {
    if (this.#callerEnd === undefined) throw new MediaError("not_open", "the call is not anchored");
    return this.#callerEnd;
  }

  #endOfCaller(): LocalEnd {
    const { end } = this.#caller();
    if (end === null) throw new MediaError("not_open", "the call is not anchored");
    return end;
  }

  /** Offers the caller to a far end. */
  async #offerTo(far: FarEnd): Promise<AudioDescription> {
    const { remote, formats } = this.#caller();
    const other: G711Law = formats.codecs[0].law === "PCMU" ? "PCMA" : "PCMU";
    // Both laws are offered to operators; telephone events are accepted from the caller even when an operator has none, and
    // are made from his tones where these are looked for.
    const codec = this.#makesEvents
      ? { transcode: [other, "telephone-event"] }
      : { transcode: [other], accept: ["telephone-event"] };
    const audio = await this.#describeByNg("offer", far.tag, {
      sdp: describePeer(remote, formats, remote.direction),
      ...(far.tag === botTag ? {} : { codec }),
    });
    far.offered = this.#callerVersion;
    return audio;
  }

  /** Makes a far end the caller's partner. The caller must not have to be told of a new port: that takes a re-INVITE. */
  async #answerFrom(far: FarEnd): Promise<AudioDescription> {
    if (far.offered !== this.#callerVersion) await this.#offerTo(far);
    const audio = await this.#describeByNg("answer", far.tag, { sdp: this.#descriptionOf(far) });
    const { end } = this.#caller();
    if (end !== null && audio.port !== end.port) {
      throw new MediaError("caller_port_changed", `from ${end.port} to ${audio.port}`);
    }
    return audio;
  }

  #descriptionOf(far: FarEnd): string {
    const { remote, formats } = this.#caller();
    const operator = far === this.#bot ? undefined : (far as Operator);
    if (operator === undefined) return this.#parkingPlace(formats, remote.direction);
    if (operator.remote === null) throw new MediaError("not_answered", "the operator has not answered");
    const { codecs, direction } = operator.remote;
    // Told that he takes events, rtpengine makes no tones of the caller's, and can be told to keep them back.
    const eventType = operator.remote.eventType ?? (operator.keys.byInfo ? operator.formats.eventType : null);
    return describePeer(operator.remote, { codecs, eventType }, direction);
  }

  /** A partner for a party with this direction who hears nobody and says nothing. */
  #parkingPlace(formats: AudioFormats, direction: Direction): string {
    const { parkingAddress: address } = this.#options;
    const place = { family: "IP4", address, port: parkingPort, rtcpPort: null, ptimeMs: null } as const;
    return describePeer(place, formats, mirrored(direction));
  }

  async #setBlocked(verb: "blockMedia" | "unblockMedia", tag: string): Promise<void> {
    await this.#ng(verb, { "from-tag": tag, flags: ["directional"] });
  }

  async #blockMedia(verb: "blockMedia" | "unblockMedia", operator: Operator): Promise<void> {
    try {
      await this.#setBlocked(verb, operator.tag);
    } catch (error) {
      // From 12.4 on rtpengine knows no tag before its answer, and then forwards nothing of it either.
      if (!(error instanceof NgError && error.unknownTag && operator.remote === null)) throw error;
    }
  }

  /**
   * Blocks the sound of everybody whose partner hears tones alone, and unblocks those whose partner does no longer.
   * rtpengine does not mix a file with what it forwards: both would arrive in turns as two streams.
   */
  async #settleHush(): Promise<void> {
    const now = this.#options.clock.now();
    for (const [tag, until] of this.#hearAlone) if (until <= now) this.#hearAlone.delete(tag);
    const operator = this.#current === this.#bot ? undefined : this.#current.tag;
    const wanted = new Set<string>();
    if (operator !== undefined && this.#hearAlone.has(operator)) wanted.add(callerTag);
    if (operator !== undefined && this.#hearAlone.has(callerTag)) wanted.add(operator);
    if (operator !== undefined && this.#heldBack === operator) wanted.add(operator);
    for (const tag of this.#hushed) {
      if (wanted.has(tag)) continue;
      // An operator who does not talk to the caller any more is gone, or blocked for good.
      if (tag === callerTag || tag === operator) await this.#setBlocked("unblockMedia", tag);
      this.#hushed.delete(tag);
      if (tag === operator) this.#recording.join(tag);
    }
    for (const tag of wanted) {
      if (this.#hushed.has(tag)) continue;
      // Before the command: when only its reply is lost, it must be undone all the same.
      this.#hushed.add(tag);
      await this.#setBlocked("blockMedia", tag);
      if (tag === operator) this.#recording.leave();
    }
  }

  /** In its turn, and whatever waits: a side that stays blocked is worse than anything. */
  #settleHushSoon(): void {
    this.#queue.pushAlways(() => this.#unlessEnding(() => this.#settleHush()));
  }

  /** Tones of the caller become telephone events. */
  get #makesEvents(): boolean {
    const { callerKeys } = this.#options;
    return callerKeys.detectTones && this.#callerEnd?.formats.eventType === null;
  }

  /** Brings rtpengine to what is to be done with the key presses of each leg. */
  async #settleKeys(): Promise<void> {
    const wanted = new Map<string, KeyMode>();
    const operator = this.#current === this.#bot ? undefined : this.#operatorByTag(this.#current.tag);
    for (const one of this.#operators.values()) {
      const answered = one === operator || one.parked;
      if (answered && one.keys.detectTones && one.remote?.eventType === null) wanted.set(one.tag, "detect");
    }
    if (operator !== undefined) {
      if (operator.keys.byInfo && operator.remote?.eventType === null) wanted.set(callerTag, "keep");
      // Events are put in the place of detected sound only.
      if (this.#eventKeys.hearer === operator.tag) wanted.set(callerTag, "detect");
      if (this.#eventKeys.hearer === callerTag) wanted.set(operator.tag, "detect");
    }
    if (this.#makesEvents) wanted.set(callerTag, "detect");
    for (const [tag, mode] of this.#keyModes) {
      if (wanted.get(tag) === mode) continue;
      this.#keyModes.delete(tag);
      const exists = tag === callerTag || this.#operatorByTag(tag) !== undefined;
      if (exists && !wanted.has(tag)) await this.#ng("unblockDTMF", { "from-tag": tag, flags: ["directional"] });
    }
    for (const [tag, mode] of wanted) {
      if (this.#keyModes.has(tag)) continue;
      await this.#ng("blockDTMF", { "from-tag": tag, ...keyModeParameters[mode] });
      this.#keyModes.set(tag, mode);
    }
  }

  /** Keys that are not told, or told twice, are no reason to end a talk. */
  async #trySettleKeys(): Promise<void> {
    try {
      await this.#settleKeys();
    } catch (error) {
      this.#options.log.warn({ call: this.#options.call, error: messageOf(error) }, "key presses may be missed");
    }
  }

  /** The leg that a leg hears; undefined while it hears nobody. */
  #partnerOf(tag: string): string | undefined {
    const operator = this.#current === this.#bot ? undefined : this.#operatorByTag(this.#current.tag);
    if (operator === undefined || holds(operator.remote)) return undefined;
    if (tag === operator.tag) return callerTag;
    return tag === callerTag ? operator.tag : undefined;
  }

  /**
   * rtpengine puts events in the place of packets of the sound that the leg hears: somebody must be sending it, and rtpengine
   * must be decoding it.
   */
  async #readyForEvents(tag: string): Promise<boolean> {
    const partner = this.#partnerOf(tag);
    const operator = this.#operatorByTag(this.#current.tag);
    const eventType =
      tag === callerTag
        ? this.#callerEnd?.formats.eventType
        : operator?.formats.eventType && operator.remote?.eventType;
    if (partner === undefined || operator === undefined || typeof eventType !== "number") return false;
    const { clock } = this.#options;
    const pause = async (ms: number): Promise<void> =>
      new Promise((resolve) => {
        clock.after(Math.max(0, ms), resolve);
      });
    // While the end of his own key is repeated, rtpengine would take it for what is to be sent (RFC 4733 §2.5.1.4).
    await pause((this.#lastKeyMs.get(partner) ?? Number.NEGATIVE_INFINITY) + keyTailMs - clock.now());
    const before = receivedFrom(await this.#query(operator.tag), partner);
    await this.#settleKeys();
    await pause(eventReadyMs);
    const after = receivedFrom(await this.#query(operator.tag), partner);
    return (after?.rtpPackets ?? 0) > (before?.rtpPackets ?? 0);
  }

  async #deleteLeg(operator: Operator): Promise<void> {
    if (operator.parked) await this.#deleteBehind(operator.tag, parkingOf(operator));
    await this.#deleteBehind(callerTag, operator.tag);
  }

  async #deleteBehind(fromTag: string, tag: string): Promise<void> {
    await this.#ng("delete", {
      "from-tag": fromTag,
      "to-tag": tag,
      "via-branch": `z9hG4bK-${tag}`,
      flags: ["to-tag"],
      "delete-delay": 0,
    });
  }

  // The steps.

  async #open(offer: Sdp): Promise<void> {
    const outcome = readAudio(offer);
    const formats = outcome.ok ? chooseFormats(outcome.audio, null) : undefined;
    if (!outcome.ok || formats === undefined) {
      this.#openFailed(true, outcome.ok ? "no_common_codec" : outcome.fault);
      return;
    }
    const failed = new Set<Instance>();
    let reason = "no rtpengine answers";
    for (;;) {
      const instance = this.#options.chooseInstance(failed);
      if (instance === undefined || this.#closing) break;
      try {
        await this.#park(instance, outcome.audio, formats);
        this.#opened(outcome.audio, formats);
        return;
      } catch (error) {
        reason = messageOf(error);
        this.#options.log.warn({ call: this.#options.call, host: instance.host, error: reason }, "a call did not open");
        await this.#unpark();
        failed.add(instance);
      }
    }
    this.#openFailed(false, reason);
  }

  async #park(instance: Instance, remote: AudioDescription, formats: CallerEnd["formats"]): Promise<void> {
    this.#instance = instance;
    instance.calls += 1;
    this.#callerEnd = { remote, formats, end: null };
    await this.#offerTo(this.#bot);
    this.#callerEnd.end = newEnd(await this.#answerFrom(this.#bot));
  }

  async #unpark(): Promise<void> {
    const instance = this.#instance;
    await this.#ng("delete", { "from-tag": callerTag, "delete-delay": 0 }, true).catch(() => {});
    if (instance !== undefined) instance.calls -= 1;
    this.#instance = undefined;
    this.#callerEnd = undefined;
    this.#bot.offered = 0;
  }

  #opened(remote: AudioDescription, formats: CallerEnd["formats"]): void {
    const end = this.#endOfCaller();
    this.#recording.setLeg(callerLeg, end.port, lawsOf(formats.codecs));
    this.#startWatch();
    if (this.#makesEvents) this.#queue.push(() => this.#unlessEnding(() => this.#trySettleKeys()));
    this.#backdrop.prepare();
    const answer = describeEnd(end, formats, mirrored(remote.direction), remote);
    if (!this.#closing && !this.#options.post({ type: "media.opened", answer })) this.close();
  }

  /** Nothing is left of the call here: a later `close` is answered without it. */
  #openFailed(incompatible: boolean, reason: string): void {
    if (this.#closing) return;
    this.#closing = true;
    this.#backdrop.close();
    this.#callerPlayer.close();
    // First forgotten, then told: the call closes its anchor while it hears of the failure, and must be answered.
    this.#options.onClosed();
    this.#options.post({ type: "media.openFailed", incompatible, reason });
  }

  async #offer(leg: LegId, keys: KeyPolicy): Promise<void> {
    if (this.#operators.has(leg)) throw new MediaError("offered_twice", "the leg has been offered already");
    if (this.#operators.size >= this.#options.mostLegs) throw new MediaError("overloaded", "too many legs");
    this.#operatorCount += 1;
    const tag = `op${this.#operatorCount}`;
    const far = { tag, offered: 0 };
    const audio = await this.#offerTo(far);
    const { formats } = this.#caller();
    const operator: Operator = {
      tag,
      offered: far.offered,
      leg,
      end: newEnd(audio),
      formats: {
        codecs: audio.codecs,
        eventType: formats.eventType === null && !this.#makesEvents ? null : audio.eventType,
      },
      keys,
      remote: null,
      parked: false,
      early: "",
    };
    this.#operators.set(leg, operator);
    this.#operatorPlayers.set(leg, this.#newPlayer(tag, false));
    try {
      // rtpengine 10.5 cuts the caller off from his partner with the offer: the partner is answered once more at once.
      await this.#answerFrom(this.#partner);
      // Early media would be mixed into what the caller hears, ringback above all.
      await this.#blockMedia("blockMedia", operator);
    } catch (error) {
      await this.#remove(operator);
      throw error;
    }
    this.#recording.setLeg(tag, operator.end.port, lawsOf(audio.codecs));
    this.#post({
      type: "media.offered",
      leg,
      offer: describeEnd(operator.end, operator.formats, "sendrecv", null),
    });
  }

  #operatorOf(leg: LegId): Operator {
    const operator = this.#operators.get(leg);
    if (operator === undefined) throw new MediaError("no_such_leg", "the leg has not been offered");
    return operator;
  }

  #answeredBy(leg: LegId, answer: Sdp): Operator & { readonly remote: AudioDescription } {
    const operator = this.#operatorOf(leg);
    // RFC 3261 §13.2.1 wants the answer in the 200 again; some leave it out when it stood in a 183.
    if (answer === "" && operator.remote !== null) return Object.assign(operator, { remote: operator.remote });
    const outcome = readAudio(answer);
    if (!outcome.ok) throw new MediaError(outcome.fault, `the operator's answer: ${outcome.fault}`);
    return Object.assign(operator, { remote: outcome.audio });
  }

  /**
   * The operator gets a parking place of his own as partner, and the caller keeps his. He must not be blocked: from a blocked
   * stream rtpengine takes only the key presses, misses the packets between them, and tells each press with the next one.
   */
  async #consult(leg: LegId, answer: Sdp): Promise<void> {
    const operator = this.#answeredBy(leg, answer);
    await this.#backdrop.withdraw(operator.tag);
    const { remote } = operator;
    const formats = chooseFormats(remote, null);
    if (formats === undefined) throw new MediaError("no_common_codec", "the operator answers no codec of ours");
    const parking = this.#legParameters(parkingOf(operator), operator.tag);
    operator.parked = true;
    await this.#ng("offer", { ...parking, sdp: describePeer(remote, formats, remote.direction) });
    await this.#ng("answer", { ...parking, sdp: this.#parkingPlace(formats, remote.direction) });
    await this.#blockMedia("unblockMedia", operator);
    await this.#trySettleKeys();
    // What the caller is offered to next must be offered anew.
    operator.offered = 0;
  }

  /** The same, and the caller hears him as soon as he sends. An INVITE goes on whatever comes of it. */
  async #early(leg: LegId, answer: Sdp): Promise<void> {
    const known = this.#operators.get(leg);
    if (known === undefined || known === this.#current || known.early === answer) return;
    known.early = answer;
    const operator = this.#answeredBy(leg, answer);
    // RFC 3264 §5.1: nothing comes from a side that says so, and from a held one nothing is wanted.
    if (operator.remote?.direction !== "sendrecv" && operator.remote?.direction !== "sendonly") return;
    await this.#answerFrom(operator);
    await this.#answerFrom(this.#partner);
    await this.#callerPlayer.restart(false);
    this.#backdrop.admit(operator.tag, false);
  }

  async #join(leg: LegId, answer: Sdp): Promise<void> {
    const operator = this.#answeredBy(leg, answer);
    await this.#bridge(operator);
    this.#post({ type: "media.joined", leg });
  }

  async #bridge(operator: Operator): Promise<void> {
    await this.#backdrop.clear(operator.tag);
    await this.#callerPlayer.settle();
    this.#current = operator;
    this.#bridgeWatch.reset();
    await this.#connect(operator);
  }

  /** Caller and operator hear each other; or the caller is parked, with music, because the operator holds him. */
  async #connect(operator: Operator): Promise<void> {
    const { remote } = operator;
    if (holds(operator.remote)) {
      const flows = remote?.direction === "sendonly" && !isNowhere(remote);
      this.#bridgeWatch.stop();
      if (flows) await this.#answerFrom(operator);
      await this.#answerFrom(this.#bot);
      this.#heldBack = flows ? null : operator.tag;
      await this.#settleHush();
      if (flows) this.#backdrop.admit(operator.tag, true);
      else await this.#backdrop.withdraw(operator.tag);
      if (!flows) this.#recording.leave();
      this.#backdrop.set("held");
      return;
    }
    await this.#backdrop.clear(operator.tag);
    await this.#answerFrom(operator);
    this.#heldBack = null;
    await this.#blockMedia("unblockMedia", operator);
    this.#recording.join(operator.tag);
    await this.#settleHush();
    await this.#trySettleKeys();
    if (remote?.direction === "sendrecv") await this.#bridgeWatch.start();
  }

  /** Whom the caller's sound goes to: an operator who holds him wants none. */
  get #partner(): FarEnd {
    const current = this.#current;
    return current !== this.#bot && holds((current as Operator).remote) ? this.#bot : current;
  }

  #operatorByTag(tag: string): Operator | undefined {
    return [...this.#operators.values()].find((operator) => operator.tag === tag);
  }

  async #letThrough(tag: string): Promise<void> {
    const operator = this.#operatorByTag(tag);
    if (operator === undefined) return;
    if (operator === this.#current) {
      this.#heldBack = null;
      await this.#settleHush();
    } else await this.#blockMedia("unblockMedia", operator);
    this.#recording.join(tag);
  }

  async #shutOut(tag: string): Promise<void> {
    const operator = this.#operatorByTag(tag);
    if (operator === undefined) return;
    this.#recording.leave();
    if (operator === this.#current) {
      this.#heldBack = tag;
      await this.#settleHush();
    } else await this.#blockMedia("blockMedia", operator);
  }

  async #receivedOnBridge(): ReturnType<ConstructorParameters<typeof BridgeWatch>[0]["received"]> {
    if (this.#current === this.#bot) return undefined;
    const { tag } = this.#current;
    const reply = await this.#query(tag);
    const [caller, operator] = [receivedFrom(reply, callerTag), receivedFrom(reply, tag)];
    return caller === undefined || operator === undefined ? undefined : { caller, operator };
  }

  /** With a description of our end, for a re-INVITE to the operator. */
  #askAgain(post: (leg: LegId, offer: Sdp) => void): void {
    const operator = this.#operatorByTag(this.#current.tag);
    if (operator === undefined) return;
    operator.end.version += 1;
    post(operator.leg, describeEnd(operator.end, operator.formats, "sendrecv", null));
  }

  /** The caller is with the bot's side again, and the operator, who stays, is not heard. */
  async #part(leg: LegId): Promise<void> {
    const operator = this.#operatorOf(leg);
    if (this.#current !== operator) return;
    await this.#leaveBridge(operator);
    await this.#blockMedia("blockMedia", operator);
    await this.#answerFrom(this.#bot);
    await this.#settleHush();
    await this.#trySettleKeys();
    await this.#callerPlayer.restart(false);
  }

  /** What the caller hears while he waits was set when this was ordered, and stays. */
  async #leaveBridge(operator: Operator): Promise<void> {
    this.#eventKeys.stop();
    await this.#backdrop.withdraw(operator.tag);
    this.#bridgeWatch.reset();
    this.#heldBack = null;
    this.#recording.leave();
    this.#current = this.#bot;
  }

  async #drop(leg: LegId): Promise<void> {
    const operator = this.#operators.get(leg);
    if (operator === undefined) return;
    const joined = this.#current === operator;
    this.#operatorPlayers.get(leg)?.close();
    this.#operatorPlayers.delete(leg);
    if (joined) {
      await this.#leaveBridge(operator);
      await this.#backdrop.clear(null);
    } else await this.#backdrop.withdraw(operator.tag);
    try {
      // The new partner before the old one goes: rtpengine closes the caller's port with his last far leg.
      await this.#answerFrom(this.#partner);
    } finally {
      if (this.#callerPlayer.busy) await this.#removeLater(operator);
      else await this.#remove(operator);
    }
    if (!joined) await this.#answerFrom(this.#partner);
    await this.#trySettleKeys();
    await this.#callerPlayer.restart(false);
  }

  async #removeLater(operator: Operator): Promise<void> {
    this.#operators.delete(operator.leg);
    this.#leaving.add(operator);
    await this.#blockMedia("blockMedia", operator);
  }

  async #remove(operator: Operator): Promise<void> {
    this.#operators.delete(operator.leg);
    this.#operatorPlayers.delete(operator.leg);
    this.#leaving.delete(operator);
    try {
      await this.#deleteLeg(operator);
    } finally {
      this.#recording.forgetLeg(operator.tag);
      this.#keyModes.delete(operator.tag);
      this.#lastKeyMs.delete(operator.tag);
    }
  }

  /** Deletes the legs that only waited for the prompt to end; before the next prompt starts, which it would cut off. */
  async #removeLeaving(): Promise<void> {
    for (const operator of this.#leaving) {
      await this.#remove(operator).catch((error: unknown) => {
        this.#options.log.warn({ call: this.#options.call, error: messageOf(error) }, "a leg could not be deleted");
      });
    }
  }

  async #updateCaller(offer: Sdp | null): Promise<Sdp> {
    const caller = this.#caller();
    const end = this.#endOfCaller();
    end.version += 1;
    if (offer === null) return describeEnd(end, caller.formats, "sendrecv", caller.remote);
    const outcome = readAudio(offer);
    if (!outcome.ok) throw new MediaError(outcome.fault, `the caller's offer: ${outcome.fault}`);
    const formats = chooseFormats(outcome.audio, caller.formats.codecs[0].law);
    if (formats === undefined) throw new MediaError("no_common_codec", "the caller offers no codec of ours");
    const before = { remote: caller.remote, formats: caller.formats };
    Object.assign(caller, { remote: outcome.audio, formats });
    this.#callerVersion += 1;
    try {
      await this.#answerFrom(this.#partner);
    } catch (error) {
      // The exchange is refused, so that what was agreed before still holds (RFC 3264 §8).
      Object.assign(caller, before);
      this.#callerVersion += 1;
      throw error;
    }
    this.#recording.setLeg(callerLeg, end.port, lawsOf(formats.codecs));
    await this.#trySettleKeys();
    if (outcome.audio.direction === "sendrecv") await this.#callerPlayer.restart(false);
    return describeEnd(end, formats, mirrored(outcome.audio.direction), outcome.audio);
  }

  async #updateOperator(leg: LegId, offer: Sdp | null): Promise<Sdp> {
    const operator = this.#operators.get(leg);
    if (operator === undefined || operator.remote === null) throw new MediaError("no_such_leg", "no such operator");
    const { end, formats } = operator;
    end.version += 1;
    if (offer === null) return describeEnd(end, formats, "sendrecv", operator.remote);
    const outcome = readAudio(offer);
    if (!outcome.ok) throw new MediaError(outcome.fault, `the operator's offer: ${outcome.fault}`);
    await this.#follow(operator, outcome.audio);
    return describeAnswer(end, formats, outcome.audio);
  }

  #proposal(leg: LegId, offer: Sdp): Sdp {
    const outcome = readAudio(offer);
    if (!outcome.ok) throw new MediaError(outcome.fault, `the offer: ${outcome.fault}`);
    if (leg !== this.#options.caller) {
      const { end, formats } = this.#operatorOf(leg);
      end.version += 1;
      return describeAnswer(end, formats, outcome.audio);
    }
    const end = this.#endOfCaller();
    const formats = chooseFormats(outcome.audio, this.#caller().formats.codecs[0].law);
    if (formats === undefined) throw new MediaError("no_common_codec", "the caller offers no codec of ours");
    end.version += 1;
    return describeEnd(end, formats, mirrored(outcome.audio.direction), outcome.audio);
  }

  /** The operator's answer to our re-INVITE, or to the offer he asked us for. */
  async #renew(leg: LegId, answer: Sdp): Promise<void> {
    const operator = this.#operators.get(leg);
    if (operator === undefined) return;
    const outcome = readAudio(answer);
    if (!outcome.ok) throw new MediaError(outcome.fault, `the operator's answer: ${outcome.fault}`);
    await this.#follow(operator, outcome.audio);
  }

  async #follow(operator: Operator, audio: AudioDescription): Promise<void> {
    operator.remote = audio;
    this.#recording.setLeg(operator.tag, operator.end.port, lawsOf(audio.codecs));
    if (this.#current !== operator) {
      // Should the caller come to him, or back to him, he must be offered anew.
      operator.offered = 0;
      return;
    }
    // An answer alone does not take a new codec over: the caller is offered again behind the scenes.
    if (!isNowhere(audio)) await this.#offerTo(operator);
    await this.#connect(operator);
  }

  async #startCapture(): Promise<string | undefined> {
    await this.#ng("startRecording", {});
    // The path stands in no reply to `start recording`, but in that of every offer and answer after it.
    const reply = await this.#ng("answer", {
      ...this.#legParameters(this.#partner.tag),
      sdp: this.#descriptionOf(this.#partner),
    });
    const paths = reply["recordings"];
    const path: unknown = Array.isArray(paths) ? paths[0] : undefined;
    return typeof path === "string" ? path : undefined;
  }

  #newPlayer(tag: string, isCaller: boolean): Player {
    const { clock, prepare } = this.#options;
    return new Player({
      clock,
      prepare,
      enqueue: (step) => this.#queue.push(() => this.#unlessEnding(step)),
      start: async ({ playableFile: file }, times, kind: SoundKind) => {
        if (isCaller) await this.#removeLeaving();
        if (isCaller && kind !== "background") await this.#backdrop.interrupt();
        if (kind === "tones") return this.#playAlone(tag, file, times);
        const duration = await this.#playFile(tag, file, times);
        if (this.#hearAlone.delete(tag)) this.#settleHushSoon();
        return duration;
      },
      stop: async () => void (await this.#ng("stopMedia", { "from-tag": tag })),
      onSound: (prompt, times) => {
        if (isCaller) this.#recording.setSound(prompt?.file ?? null, times);
        if (prompt === null && this.#hearAlone.delete(tag)) this.#settleHushSoon();
      },
      onPlayed: (play, result, reason) => this.#post({ type: "media.played", play, result, reason }),
      onIdle: () => {
        if (!isCaller || this.#leaving.size === 0) return;
        this.#queue.pushAlways(() => this.#unlessEnding(() => this.#removeLeaving()));
      },
    });
  }

  async #playAlone(tag: string, file: string, times: number): Promise<number> {
    this.#hearAlone.set(tag, Number.POSITIVE_INFINITY);
    try {
      await this.#settleHush();
      const duration = await this.#playFile(tag, file, times);
      this.#hearAlone.set(tag, this.#options.clock.now() + duration * times + aloneTailMs);
      return duration;
    } catch (error) {
      this.#hearAlone.delete(tag);
      this.#settleHushSoon();
      throw error;
    }
  }

  async #playFile(tag: string, file: string, times: number): Promise<number> {
    const repeat = times > 1 ? { "repeat-times": times } : {};
    let reply: NgReply;
    try {
      reply = await this.#ng("playMedia", { "from-tag": tag, file, ...repeat });
    } catch (error) {
      const held = tag === callerTag && !mayHear(this.#callerEnd?.remote.direction);
      const code = error instanceof MediaError ? error.code : held ? "on_hold" : "play_failed";
      throw new MediaError(code, messageOf(error), { cause: error });
    }
    const duration = reply["duration"];
    // rtpengine 10.5 says ok to formats it cannot play: only the length tells that it plays.
    if (typeof duration !== "number" || duration <= 0)
      throw new MediaError("play_failed", "rtpengine gave no duration");
    return duration;
  }

  #startWatch(): void {
    if (this.#closing) return;
    const { clock, watchMs } = this.#options;
    this.#watch = clock.after(watchMs, () => {
      this.#step(
        async () => {
          await this.#lookAtStreams().finally(() => {
            if (!this.#lost) this.#startWatch();
          });
          // When a command that should have ended it was lost.
          await this.#settleHush();
        },
        () => this.#startWatch(),
      );
    });
  }

  async #query(tag: string): Promise<NgReply> {
    return this.#ng("query", { "from-tag": callerTag, "to-tag": tag });
  }

  async #lookAtStreams(): Promise<void> {
    // Also while rtpengine does not answer: what it writes to, and the room there, can be seen without it.
    const reply = await this.#query(this.#partner.tag).catch((error: unknown) => {
      this.#recording.look(null);
      throw error;
    });
    const received = receivedFrom(reply, callerTag);
    this.#recording.look(received?.rtpPackets ?? null);
    if (received === undefined) return;
    // In a talk the bridge is watched more often.
    if (this.#current === this.#bot && this.#callerWatch.moved(received)) {
      const { call, log } = this.#options;
      log.info({ call }, "the caller's sound comes from another place: it is taken from there");
      await this.#answerFrom(this.#partner);
    }
    // rtpengine itself counts the streams of operators who have gone, and so keeps a call whose caller has vanished for an hour.
    this.#callerWatch.seen(received, this.#caller().remote.direction === "sendrecv");
  }

  async #close(): Promise<void> {
    const { log, call } = this.#options;
    const reachable = !this.#lost && this.#instance !== undefined;
    await this.#recording.stop(reachable);
    if (reachable) {
      // All of it: with the caller's name alone an operator who has a parking place of his own would stay behind.
      await this.#ng("delete", { "delete-delay": 0 }, true).catch((error: unknown) => {
        log.warn({ call, error: messageOf(error) }, "a call could not be deleted in rtpengine");
      });
    }
    if (this.#instance !== undefined) this.#instance.calls -= 1;
    this.#operators.clear();
    this.#operatorPlayers.clear();
    this.#leaving.clear();
    // Rendering takes its time: it must not hold the queue, whose length says what rtpengine has still to do.
    void this.#recording.finished().then(() => {
      this.#options.post({ type: "media.closed" });
      this.#options.onClosed();
    });
  }
}
