import type { Prompt } from "../../call/effect.ts";
import type { LegId, PlayId } from "../../call/ids.ts";
import type { KeyPolicy } from "../../call/setup.ts";
import type { G711Law } from "../audio/g711.ts";
import { MediaError, messageOf } from "../media-error.ts";
import type { ReadyPrompt } from "../prompts/library.ts";
import { callerLeg } from "../recording/timeline.ts";
import type { Sides } from "../switching/bridge-watch.ts";
import type { CallerLeg } from "../switching/call-legs.ts";
import type { SwitchedCallOptions } from "../switching/call-options.ts";
import { callerTag } from "../switching/hush.ts";
import type { SoundKind } from "../switching/player.ts";
import {
  chooseFormats,
  describePeer,
  holds,
  isNowhere,
  mayHear,
  mirrored,
  movedEnd,
  newEnd,
} from "../switching/sdp.ts";
import type { AudioCodec, AudioDescription, AudioFormats, ChosenFormats, Direction } from "../switching/sdp.ts";
import { SwitchedCall } from "../switching/switched-call.ts";
import type { Instance } from "./instances.ts";
import { type KeyedLeg, LegKeys } from "./leg-keys.ts";
import { NgError } from "./ng.ts";
import type { NgClient } from "./ng.ts";
import { NgCall } from "./ng-call.ts";

export interface AnchoredCallOptions extends SwitchedCallOptions {
  readonly ng: NgClient;
  /** Undefined when no instance answers; `except` have failed for this call already. */
  readonly chooseInstance: (except: ReadonlySet<Instance>) => Instance | undefined;
  /** It has answered a command, whatever it said. */
  readonly answered: (instance: Instance) => void;
  readonly parkingAddress: string;
}

/** rtpengine's name of the far end of a parked caller. */
const botTag = "bot";
const parkingPort = 9;
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

interface Operator extends FarEnd, KeyedLeg {
  readonly tag: string;
  parked: boolean;
}

const parkingOf = ({ tag }: Operator): string => `${tag}-parking`;

function lawsOf(codecs: readonly AudioCodec[]): ReadonlyMap<number, G711Law> {
  return new Map([...fixedLaws, ...codecs.map(({ payloadType, law }) => [payloadType, law] as const)]);
}

/**
 * One call in one rtpengine. The caller's leg is offered once; who is behind it changes by `answer`s of which his phone
 * sees nothing.
 */
export class AnchoredCall extends SwitchedCall<Instance, CallerLeg, Operator> {
  protected override readonly serverName = "rtpengine";
  readonly #options: AnchoredCallOptions;
  readonly #ng: NgCall;
  readonly #keys: LegKeys;
  readonly #bot: FarEnd = { tag: botTag, offered: 0 };
  /** Operators whose leg is deleted as soon as no prompt plays, because deleting it would cut the prompt off. */
  readonly #leaving = new Set<Operator>();
  /** The operator who holds the caller and is not heard meanwhile. */
  #heldBack: string | null = null;
  /** Legs, by tag, that their partner has heard and does not hear now: rtpengine misses some of their sound. */
  readonly #missed = new Set<string>();
  /** Counts the caller's descriptions. */
  #callerVersion = 1;

  constructor(options: AnchoredCallOptions) {
    super(options, "pcaps");
    this.#options = options;
    const { call, clock, log, callerKeys, ng } = options;
    this.#ng = new NgCall({
      ng,
      call,
      instance: () => this.server,
      lost: () => this.lost,
      onUnknown: () => {
        if (this.server !== undefined) options.answered(this.server);
        this.lose("rtpengine does not know the call any more");
      },
    });
    this.#keys = new LegKeys({
      call,
      ng: this.#ng,
      queue: this.queue,
      clock,
      log,
      callerKeys,
      caller: () => this.callerLeg,
      operators: () => this.operators.values(),
      current: () => this.current,
      onPlayed: (play, result, reason) => this.post({ type: "media.played", play, result, reason }),
    });
  }

  /** The call's name in rtpengine. */
  get ngCall(): string {
    return this.#ng.name;
  }

  override play(play: PlayId, leg: LegId, prompt: Prompt): void {
    const player = this.playerOf(leg);
    const tag = this.#tagOf(leg);
    if (player === undefined || tag === undefined) {
      super.play(play, leg, prompt);
      return;
    }
    this.#keys.stop(tag);
    if (prompt.kind !== "digits") {
      player.play(play, prompt);
      return;
    }
    this.#keys.send(play, tag, prompt.digits, () => {
      if (prompt.tones === false) this.post({ type: "media.played", play, result: "failed", reason: "no_events" });
      else player.play(play, prompt);
    });
  }

  override stop(leg: LegId): void {
    const tag = this.#tagOf(leg);
    if (tag !== undefined) this.#keys.stop(tag);
    super.stop(leg);
  }

  #tagOf(leg: LegId): string | undefined {
    return leg === this.#options.caller ? callerTag : this.operators.get(leg)?.tag;
  }

  override close(): void {
    this.#keys.stop();
    super.close();
  }

  /** A key press that rtpengine has detected. */
  digit(tag: string, digit: string, durationMs: number): void {
    const leg = tag === callerTag ? this.#options.caller : this.operatorByTag(tag)?.leg;
    const press = leg === undefined ? undefined : this.#keys.pressed(tag, digit, durationMs);
    if (leg === undefined || press === undefined) return;
    this.post({ type: "media.digit", leg, digit, durationMs, ...(press.kept ? { carriedBy: "kept" } : {}) });
  }

  /** Asks rtpengine at once whether it still holds the call, and starts again what a restart has silenced. */
  verify(): void {
    this.queue.run(
      async () => {
        await this.#ng.received((this.current ?? this.#bot).tag);
        if (this.awaitsCaller) return;
        // It may have begun a new capture.
        this.recordings.look(null);
        await this.#keys.restore();
        await this.callerPlayer.restart(true);
      },
      () => {},
    );
  }

  // Commands.

  /** Offers the caller to a far end. */
  async #offerTo(far: FarEnd): Promise<AudioDescription> {
    const { remote, formats } = this.caller();
    const other: G711Law = formats.codecs[0].law === "PCMU" ? "PCMA" : "PCMU";
    // Both laws are offered to operators; telephone events are accepted from the caller even when an operator has none, and
    // are made from his tones where these are looked for.
    const codec = this.#keys.makesEvents
      ? { transcode: [other, "telephone-event"] }
      : { transcode: [other], accept: ["telephone-event"] };
    const audio = await this.#ng.describe("offer", far.tag, {
      sdp: describePeer(remote, formats, remote.direction),
      ...(far.tag === botTag ? {} : { codec }),
    });
    far.offered = this.#callerVersion;
    return audio;
  }

  /** Makes a far end the caller's partner. The caller must not have to be told of a new port: that takes a re-INVITE. */
  async #answerFrom(far: FarEnd): Promise<AudioDescription> {
    if (far.offered !== this.#callerVersion) await this.#offerTo(far);
    const audio = await this.#ng.describe("answer", far.tag, { sdp: this.#descriptionOf(far) });
    const { end } = this.caller();
    if (end !== null && audio.port !== end.port) {
      throw new MediaError("caller_port_changed", `from ${end.port} to ${audio.port}`);
    }
    return audio;
  }

  #descriptionOf(far: FarEnd): string {
    if (far === this.#bot) {
      const { remote, formats } = this.caller();
      return this.#parkingPlace(formats, remote.direction);
    }
    const { remote, keys, formats } = far as Operator;
    if (remote === null) throw new MediaError("not_answered", "the operator has not answered");
    const { codecs, direction } = remote;
    // Told that he takes events, rtpengine makes no tones of the caller's, and can be told to keep them back.
    const eventType = remote.eventType ?? (keys.byInfo ? formats.eventType : null);
    return describePeer(remote, { codecs, eventType }, direction);
  }

  /** A partner for a party with this direction who hears nobody and says nothing. */
  #parkingPlace(formats: AudioFormats, direction: Direction): string {
    const { parkingAddress: address } = this.#options;
    const place = { family: "IP4", address, port: parkingPort, rtcpPort: null, ptimeMs: null } as const;
    return describePeer(place, formats, mirrored(direction));
  }

  async #block(operator: Operator, on: boolean): Promise<void> {
    try {
      await this.#ng.block(operator.tag, on);
    } catch (error) {
      // From 12.4 on rtpengine knows no tag before its answer, and then forwards nothing of it either.
      if (!(error instanceof NgError && error.unknownTag && operator.remote === null)) throw error;
    }
  }

  /** rtpengine does not mix a file with what it forwards: both would arrive in turns as two streams. */
  protected override async mute(tag: string, on: boolean): Promise<void> {
    const operator = this.current?.tag;
    // An operator who does not talk to the caller any more is gone, or blocked for good.
    if (!on && tag !== callerTag && tag !== operator) return;
    if (on) this.#missed.add(tag);
    else await this.#heardAgain(tag);
    await this.#ng.block(tag, on);
    if (tag !== operator) return;
    if (on) this.recordings.leave();
    else this.recordings.join(tag);
  }

  protected override bridgedTag(): string | undefined {
    return this.current?.tag;
  }

  protected override isShutOut(tag: string): boolean {
    return this.#heldBack === tag;
  }

  // The caller.

  protected override choose(except: ReadonlySet<Instance>): Instance | undefined {
    return this.#options.chooseInstance(except);
  }

  protected override async anchorCaller(
    instance: Instance,
    remote: AudioDescription,
    formats: ChosenFormats,
  ): Promise<void> {
    this.heldBy = instance;
    this.callerLeg = { remote, formats, end: null };
    await this.#offerTo(this.#bot);
    const end = newEnd(await this.#answerFrom(this.#bot));
    this.callerLeg.end = end;
    this.recordings.setLeg(callerLeg, end.port, lawsOf(formats.codecs));
    if (this.#keys.makesEvents) this.queue.push(() => this.#keys.trySettle());
  }

  protected override async abandonCaller(): Promise<void> {
    await this.#ng.request("delete", { "delete-delay": 0 }, true).catch(() => {});
    this.#bot.offered = 0;
  }

  // The move.

  protected override readonly movable = true;

  override lose(reason: string): void {
    // While a call opens, the next rtpengine is tried anyway.
    if (this.callerLeg !== undefined && this.callerLeg.end !== null) super.lose(reason);
  }

  protected override async rebuild(): Promise<void> {
    const caller = this.caller();
    const before = this.endOfCaller();
    this.#keys.stop();
    for (const far of [this.#bot, ...this.operators.values()]) far.offered = 0;
    for (const tag of [callerTag, ...[...this.operators.values()].map((operator) => operator.tag)]) {
      this.hush.forget(tag);
      this.#keys.forget(tag);
    }
    for (const { tag } of this.#leaving) this.recordings.forgetLeg(tag);
    this.#leaving.clear();
    this.#missed.clear();
    this.#heldBack = null;
    // It may name any port.
    caller.end = null;
    let end = before;
    try {
      end = movedEnd(before, await this.#answerFrom(this.#bot));
    } finally {
      caller.end = end;
    }
    this.recordings.setLeg(callerLeg, end.port, lawsOf(caller.formats.codecs));
    for (const operator of this.operators.values()) await this.#rebuildOperator(operator);
    if (this.current === null) await this.#answerFrom(this.#bot);
    else await this.connect(this.current);
    // He is not heard before he knows where to send.
    this.bridgeWatch.reset();
    await this.recordings.move();
    await this.#keys.trySettle();
  }

  async #rebuildOperator(operator: Operator): Promise<void> {
    operator.end = movedEnd(operator.end, await this.#offerTo(operator));
    const { codecs } = operator.remote ?? operator.formats;
    this.recordings.setLeg(operator.tag, operator.end.port, lawsOf(codecs));
    if (operator === this.current) return;
    await this.#answerFrom(this.#bot);
    await this.#block(operator, true);
    await this.backdrop.withdraw(operator.tag);
    if (operator.parked) await this.parkOperator(operator);
  }

  protected override async describeCaller(remote: AudioDescription, formats: ChosenFormats): Promise<void> {
    const caller = this.caller();
    const before = { remote: caller.remote, formats: caller.formats };
    Object.assign(caller, { remote, formats });
    this.#callerVersion += 1;
    try {
      await this.#answerFrom(this.#partner);
    } catch (error) {
      Object.assign(caller, before);
      this.#callerVersion += 1;
      throw error;
    }
    this.recordings.setLeg(callerLeg, this.endOfCaller().port, lawsOf(formats.codecs));
    await this.#keys.trySettle();
  }

  // Operators.

  protected override async newOperator(leg: LegId, tag: string, keys: KeyPolicy): Promise<Operator> {
    const far = { tag, offered: 0 };
    const audio = await this.#offerTo(far);
    const noEvents = this.caller().formats.eventType === null && !this.#keys.makesEvents;
    const formats: AudioFormats = { codecs: audio.codecs, eventType: noEvents ? null : audio.eventType };
    return { ...far, leg, end: newEnd(audio), formats, keys, remote: null, parked: false, early: "" };
  }

  protected override async readyOperator(operator: Operator): Promise<void> {
    try {
      // rtpengine 10.5 cuts the caller off from his partner with the offer: the partner is answered once more at once.
      await this.#answerFrom(this.#partner);
      // Early media would be mixed into what the caller hears, ringback above all.
      await this.#block(operator, true);
    } catch (error) {
      await this.#remove(operator);
      throw error;
    }
    this.recordings.setLeg(operator.tag, operator.end.port, lawsOf(operator.formats.codecs));
  }

  protected override async describeOperator(operator: Operator, remote: AudioDescription): Promise<void> {
    operator.remote = remote;
  }

  protected override async follow(operator: Operator, remote: AudioDescription): Promise<void> {
    operator.remote = remote;
    this.recordings.setLeg(operator.tag, operator.end.port, lawsOf(remote.codecs));
    if (this.current !== operator) {
      // Should the caller come to him, or back to him, he must be offered anew.
      operator.offered = 0;
      return;
    }
    // An answer alone does not take a new codec over: the caller is offered again behind the scenes.
    if (!isNowhere(remote)) await this.#offerTo(operator);
    await this.connect(operator);
  }

  /**
   * The operator gets a parking place of his own as partner, and the caller keeps his. He must not be blocked: from a blocked
   * stream rtpengine takes only the key presses, misses the packets between them, and tells each press with the next one.
   */
  protected override async parkOperator(operator: Operator): Promise<void> {
    const { remote } = operator;
    const formats = remote === null ? undefined : chooseFormats(remote, null);
    if (remote === null || formats === undefined) {
      throw new MediaError("no_common_codec", "the operator answers no codec of ours");
    }
    const { tag } = operator;
    operator.parked = true;
    const parking = parkingOf(operator);
    await this.#ng.exchange("offer", parking, { sdp: describePeer(remote, formats, remote.direction) }, tag);
    await this.#ng.exchange("answer", parking, { sdp: this.#parkingPlace(formats, remote.direction) }, tag);
    await this.#block(operator, false);
    await this.#keys.trySettle();
    // What the caller is offered to next must be offered anew.
    operator.offered = 0;
  }

  protected override async readyEarly(operator: Operator): Promise<void> {
    await this.#answerFrom(operator);
    await this.#answerFrom(this.#partner);
    await this.callerPlayer.restart(false);
  }

  protected override async removeOperator(operator: Operator, joined: boolean): Promise<void> {
    try {
      await this.#leave(operator, joined);
    } finally {
      if (this.callerPlayer.busy) await this.#removeLater(operator);
      else await this.#remove(operator);
    }
    if (!joined) await this.#answerFrom(this.#partner);
    await this.#keys.trySettle();
    await this.callerPlayer.restart(false);
  }

  /** Each of these is tried whatever became of the one before: nobody asks for it again. */
  async #leave(operator: Operator, joined: boolean): Promise<void> {
    try {
      if (joined) await this.leaveBridge(operator);
      else await this.backdrop.withdraw(operator.tag);
    } finally {
      if (joined) await this.backdrop.clear(null);
      // The new partner before the old one goes: rtpengine closes the caller's port with his last far leg.
      await this.#answerFrom(this.#partner);
    }
  }

  async #removeLater(operator: Operator): Promise<void> {
    this.forgetOperator(operator);
    this.#leaving.add(operator);
    await this.#block(operator, true);
  }

  async #remove(operator: Operator): Promise<void> {
    this.forgetOperator(operator);
    this.#leaving.delete(operator);
    try {
      if (operator.parked) await this.#ng.deleteLeg(parkingOf(operator), operator.tag);
      await this.#ng.deleteLeg(operator.tag);
    } finally {
      this.recordings.forgetLeg(operator.tag);
      this.#keys.forget(operator.tag);
      this.#missed.delete(operator.tag);
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

  // Who hears whom.

  /** Whom the caller's sound goes to: an operator who holds him wants none. */
  get #partner(): FarEnd {
    return this.current === null || holds(this.current.remote) ? this.#bot : this.current;
  }

  /** Before a leg is let through to its partner. */
  async #heardAgain(tag: string): Promise<void> {
    await this.#keys.decodeAnew(tag, this.#missed.delete(tag));
  }

  protected override async bridge(operator: Operator): Promise<void> {
    await this.#answerFrom(operator);
    for (const tag of [callerTag, operator.tag]) if (!this.hush.keepsBack(tag)) await this.#heardAgain(tag);
    this.#heldBack = null;
    await this.hush.settle();
    // A re-INVITE of his while the caller hears tones must not let him in among them.
    if (!this.hush.keepsBack(operator.tag)) {
      await this.#block(operator, false);
      this.recordings.join(operator.tag);
    }
    await this.#keys.trySettle();
  }

  protected override async bridgeHeld(operator: Operator, flows: boolean): Promise<void> {
    if (flows) await this.#answerFrom(operator);
    this.#missed.add(callerTag);
    await this.#answerFrom(this.#bot);
    this.#heldBack = flows ? null : operator.tag;
    await this.hush.settle();
    if (!flows) this.recordings.leave();
  }

  protected override async leaveBridge(operator: Operator): Promise<void> {
    this.#keys.stop();
    await super.leaveBridge(operator);
    this.#heldBack = null;
    this.recordings.leave();
  }

  protected override async part(operator: Operator): Promise<void> {
    for (const tag of [callerTag, operator.tag]) this.#missed.add(tag);
    await this.#block(operator, true);
    await this.#answerFrom(this.#bot);
    await this.hush.settle();
    await this.#keys.trySettle();
    await this.callerPlayer.restart(false);
  }

  protected override async letThrough(tag: string): Promise<void> {
    const operator = this.operatorByTag(tag);
    if (operator === undefined) return;
    if (operator === this.current) {
      this.#heldBack = null;
      await this.hush.settle();
    } else {
      await this.#heardAgain(tag);
      await this.#block(operator, false);
    }
    this.recordings.join(tag);
  }

  protected override async shutOut(tag: string): Promise<void> {
    const operator = this.operatorByTag(tag);
    if (operator === undefined) return;
    this.recordings.leave();
    if (operator === this.current) {
      this.#heldBack = tag;
      await this.hush.settle();
    } else {
      this.#missed.add(tag);
      await this.#block(operator, true);
    }
  }

  // Sound.

  protected override async startSound(
    tag: string,
    { playableFile: file }: ReadyPrompt,
    times: number,
    kind: SoundKind,
  ): Promise<number> {
    if (tag === callerTag) await this.#removeLeaving();
    if (tag === callerTag && kind !== "background") await this.backdrop.interrupt();
    if (kind === "tones") return this.#playAlone(tag, file, times);
    const duration = await this.#playFile(tag, file, times);
    this.endTones(tag);
    return duration;
  }

  protected override async stopSound(tag: string): Promise<void> {
    await this.#ng.request("stopMedia", { "from-tag": tag });
  }

  protected override soundChanged(tag: string, ready: ReadyPrompt | null, times: number): void {
    if (tag === callerTag) this.recordings.setSound(ready?.file ?? null, times);
  }

  protected override soundIdle(tag: string): void {
    if (tag === callerTag && this.#leaving.size > 0) this.queue.pushAlways(() => this.#removeLeaving());
  }

  async #playAlone(tag: string, file: string, times: number): Promise<number> {
    this.hush.begin(tag);
    try {
      await this.hush.settle();
      const duration = await this.#playFile(tag, file, times);
      this.hush.begin(tag, duration * times);
      return duration;
    } catch (error) {
      this.endTones(tag);
      throw error;
    }
  }

  async #playFile(tag: string, file: string, times: number): Promise<number> {
    try {
      return await this.#ng.playFile(tag, file, times);
    } catch (error) {
      const held = tag === callerTag && !mayHear(this.callerLeg?.remote.direction);
      const code = error instanceof MediaError ? error.code : held ? "on_hold" : "play_failed";
      throw new MediaError(code, messageOf(error), { cause: error });
    }
  }

  // Recordings.

  protected override get nameInServer(): string {
    return this.ngCall;
  }

  protected override get spoolFolder(): string {
    return this.server?.spoolFolder ?? super.spoolFolder;
  }

  protected override async startCapture(): Promise<string | undefined> {
    await this.#ng.request("startRecording", {});
    // The path stands in no reply to `start recording`, but in that of every offer and answer after it.
    const reply = await this.#ng.exchange("answer", this.#partner.tag, { sdp: this.#descriptionOf(this.#partner) });
    const paths = reply["recordings"];
    const path: unknown = Array.isArray(paths) ? paths[0] : undefined;
    return typeof path === "string" ? path : undefined;
  }

  protected override async stopCapture(): Promise<void> {
    await this.#ng.request("stopRecording", {});
  }

  // Watches.

  protected override async packetsOf(tag: string): Promise<number> {
    const [received] = await this.#ng.received(tag, tag);
    return received?.rtpPackets ?? 0;
  }

  protected override async receivedOnBridge(): Promise<Sides | undefined> {
    if (this.current === null) return undefined;
    const { tag } = this.current;
    const [caller, operator] = await this.#ng.received(tag, callerTag, tag);
    return caller === undefined || operator === undefined ? undefined : { caller, operator };
  }

  protected override async relatch(): Promise<void> {
    await this.#answerFrom(this.#partner);
  }

  protected override async lookAtCaller(): Promise<void> {
    // Also while rtpengine does not answer: what it writes to, and the room there, can be seen without it.
    const [received] = await this.#ng.received(this.#partner.tag, callerTag).catch((error: unknown) => {
      this.recordings.look(null);
      throw error;
    });
    this.recordings.look(received?.rtpPackets ?? null);
    if (received === undefined) return;
    // In a talk the bridge is watched more often.
    if (this.current === null && this.callerWatch.moved(received)) {
      const { call, log } = this.#options;
      log.info({ call }, "the caller's sound comes from another place: it is taken from there");
      await this.#answerFrom(this.#partner);
    }
    // rtpengine itself counts the streams of operators who have gone, and so keeps a call whose caller has vanished for an hour.
    this.callerWatch.seen(received, this.caller().remote.direction === "sendrecv");
  }

  protected override async release(reachable: boolean): Promise<void> {
    const { log, call } = this.#options;
    this.#leaving.clear();
    for (const instance of this.former) {
      const everything = { "call-id": this.ngCall, "delete-delay": 0 };
      void this.#options.ng.request(instance, "delete", everything, true).catch(() => {});
    }
    if (!reachable) return;
    // All of it: with the caller's name alone an operator who has a parking place of his own would stay behind.
    await this.#ng.request("delete", { "delete-delay": 0 }, true).catch((error: unknown) => {
      log.warn({ call, error: messageOf(error) }, "a call could not be deleted in rtpengine");
    });
  }
}
