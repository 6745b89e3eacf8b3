import { randomBytes } from "node:crypto";
import { join } from "node:path";
import type { Prompt } from "../../call/effect.ts";
import type { CallEvent } from "../../call/event.ts";
import type { ExchangeId, LegId, PlayId, Sdp } from "../../call/ids.ts";
import { MediaError, messageOf } from "../media-error.ts";
import type { MediaClock, MediaLog } from "../options.ts";
import { RecordingControl } from "../recording/call-recording.ts";
import { safeName } from "../recording/recorder.ts";
import { Backdrop } from "../switching/backdrop.ts";
import { BridgeWatch } from "../switching/bridge-watch.ts";
import type { Received } from "../switching/bridge-watch.ts";
import { CallerWatch } from "../switching/caller-watch.ts";
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
import type { AudioDescription, AudioFormats, ChosenFormats, LocalEnd } from "../switching/sdp.ts";
import { SerialQueue } from "../switching/serial-queue.ts";
import type { SwitchedCall, SwitchedCallOptions } from "../switching/switching-anchor.ts";
import { ChannelSound } from "./channel-sound.ts";
import type { Channel } from "./fsmrf.ts";
import type { Server } from "./servers.ts";

export interface BridgedCallOptions extends SwitchedCallOptions {
  /** Undefined when none answers or all are full; `except` have failed for this call already. */
  readonly chooseServer: (except: ReadonlySet<Server>) => Server | undefined;
  readonly spoolFolder: string;
  readonly watchMs: number;
  readonly mostQueued: number;
  readonly mostLegs: number;
  readonly clock: MediaClock;
  readonly log: MediaLog;
  readonly callerTimeoutMs: number;
  /** An operator who was heard and has sent nothing for so long is asked for; 0: never. */
  readonly talkTimeoutMs: number;
}

/** Holds the call's id in every channel of it, so that a later process finds what a crash has left. */
export const callVariable = "patchbay_call";
/** Below the recordings' spool folder. */
export const segmentFolder = "segments";

/** What makes a channel of FreeSWITCH behave like the end of a leg here. */
const channelVariables = [
  // Whoever is left alone after a bridge waits for us.
  "park_after_bridge=true",
  "hangup_after_bridge=false",
  // Silence, and no noise, goes to a parked channel and to one whose partner sends nothing: prompts are mixed into these
  // packets, and a recording has a place for every moment.
  "send_silence_when_idle=-1",
  "bridge_generate_comfort_noise=-1",
  "RECORD_STEREO=true",
  // Three seconds in FreeSWITCH: shorter stretches between two pauses would be thrown away.
  "RECORD_MIN_SEC=0",
  // 25 in FreeSWITCH: the first half second of a recording would be silent.
  "RECORD_PRE_BUFFER_FRAMES=1",
  "record_sample_rate=8000",
  "enable_file_write_buffering=false",
];

const callerTag = "caller";
/** Tones are over by then even when their end was never told. */
const aloneTailMs = 1_000;
/** An operator's channel is made before his phone is known: until then it sends to where nobody listens. */
const nowhere = { family: "IP4", address: "127.0.0.1", port: 9, rtcpPort: null, ptimeMs: 20 } as const;

interface Leg {
  readonly tag: string;
  readonly channel: Channel;
  readonly sound: ChannelSound;
  readonly end: LocalEnd;
}

interface Caller extends Leg {
  remote: AudioDescription;
  formats: ChosenFormats;
}

interface Operator extends Leg {
  readonly leg: LegId;
  readonly formats: AudioFormats;
  /** His latest description; null until he has sent one. */
  remote: AudioDescription | null;
  /** The text of his latest description before his answer: it is repeated with every 18x. */
  early: string;
}

/**
 * One call in one FreeSWITCH: a channel for the caller, which stays for as long as the call does, and one for each
 * operator. They are bridged and parked; nobody's phone is told. Commands run one after another in the order of the calls
 * of the methods.
 */
export class BridgedCall implements SwitchedCall {
  readonly #options: BridgedCallOptions;
  readonly #queue: SerialQueue;
  readonly #recording: RecordingControl;
  readonly #callerPlayer: Player;
  readonly #operatorPlayers = new Map<LegId, Player>();
  readonly #operators = new Map<LegId, Operator>();
  readonly #backdrop: Backdrop;
  readonly #bridgeWatch: BridgeWatch;
  readonly #callerWatch: CallerWatch;
  readonly #name: string;
  /** Legs, by tag, that hear tones which nothing may be mixed with, and when these are over at the latest. */
  readonly #hearAlone = new Map<string, number>();
  /** Legs whose sound is kept from their partner for the sake of such tones. */
  readonly #hushed = new Set<Leg>();
  #server: Server | undefined;
  #callerLeg: Caller | undefined;
  /** Whom the caller talks to. */
  #current: Operator | null = null;
  /** Whose channel is bridged with the caller's. */
  #bridged: Operator | null = null;
  #operatorCount = 0;
  #segments = 0;
  #segment = "";
  #watch: { cancel(): void } | undefined;
  #closing = false;
  #lost = false;

  constructor(options: BridgedCallOptions) {
    this.#options = options;
    const { call, order, recorder, clock, log, sounds, usualSounds, prepare, spoolFolder } = options;
    this.#name = `${safeName(call)}-${randomBytes(6).toString("hex")}`;
    this.#queue = new SerialQueue(options.mostQueued, (error) => {
      log.warn({ call, error: messageOf(error) }, "a media command failed");
    });
    this.#callerPlayer = this.#newPlayer(callerTag);
    const enqueue = (step: () => Promise<void>): boolean => this.#queue.push(() => this.#unlessEnding(step));
    this.#backdrop = new Backdrop({
      sounds,
      usual: usualSounds,
      clock,
      log,
      prepare,
      enqueue,
      packetsOf: async (tag) => {
        const operator = this.#operatorByTag(tag);
        return operator === undefined ? 0 : (await this.#received(operator.channel)).rtpPackets;
      },
      prompting: () => this.#callerPlayer.busy,
      show: (sound) => this.#callerPlayer.background(sound),
      letThrough: async (tag) => {
        const operator = this.#operatorByTag(tag);
        if (operator !== undefined) await this.#bridge(operator);
      },
      shutOut: async (tag) => {
        if (this.#bridged?.tag === tag) await this.#part();
      },
    });
    this.#bridgeWatch = new BridgeWatch({
      clock,
      log,
      enqueue,
      received: () => this.#receivedOnBridge(),
      callerSends: () => this.#callerLeg?.remote.direction === "sendrecv",
      // FreeSWITCH follows packets that come from elsewhere by itself.
      relatch: () => Promise.resolve(),
      talkTimeoutMs: options.talkTimeoutMs,
      unheard: () => this.#askAgain((leg, offer) => this.#post({ type: "media.unheard", leg, offer })),
      silent: (asked) =>
        this.#askAgain((leg, offer) => this.#post({ type: "media.silent", leg, offer: asked ? null : offer })),
    });
    this.#callerWatch = new CallerWatch(clock, options.callerTimeoutMs, (reason) => {
      log.warn({ call }, reason);
      this.#post({ type: "media.lost", reason });
    });
    this.#recording = new RecordingControl({
      call,
      // By this another process finds out whether the call still goes on.
      name: () => this.#callerLeg?.channel.uuid ?? "",
      captureFolder: segmentFolder,
      order,
      recorder,
      spoolFolder,
      clock,
      log,
      enqueue: (step) => this.#queue.pushAlways(() => this.#unlessEnding(step)),
      startCapture: () => this.#startSegment(),
      stopCapture: async () => void (await this.#caller().channel.command("uuid_record", "stop", this.#segment)),
      post: (event) => void options.post(event),
    });
  }

  get queued(): number {
    return this.#queue.length;
  }

  get server(): Server | undefined {
    return this.#server;
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
    const fault =
      // Telephone events are not sent here.
      prompt.kind === "digits" && prompt.tones === false ? "no_events" : player === undefined ? "no_such_leg" : null;
    if (fault === null) player?.play(play, prompt);
    else this.#post({ type: "media.played", play, result: "failed", reason: fault });
  }

  stop(leg: LegId): void {
    if (leg === this.#options.caller) this.#callerPlayer.stop();
    else this.#operatorPlayers.get(leg)?.stop();
  }

  ringback(on: boolean): void {
    this.#backdrop.set(on ? "ringing" : null);
  }

  offer(leg: LegId): void {
    this.#withOperator(leg, () => this.#offer(leg));
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
      this.#withOperator(leg, async () => {
        const operator = this.#operators.get(leg);
        if (operator === undefined) return;
        // Whoever has taken his place has not been heard yet.
        if (taken && this.#current === operator) this.#bridgeWatch.reset();
        await this.#follow(operator, described(answer, "the operator's answer"));
      });
      return;
    }
    this.#step(
      async () => void (await this.#updateCaller(answer)),
      () => {},
    );
  }

  consult(leg: LegId, answer: Sdp): void {
    this.#withOperator(leg, async () => {
      const operator = this.#operatorOf(leg);
      await this.#backdrop.withdraw(operator.tag);
      await this.#answered(operator, answer);
    });
  }

  join(leg: LegId, answer: Sdp): void {
    // At once: a prompt that is ordered while FreeSWITCH is told of his answer is for what comes after.
    this.#callerPlayer.stop();
    this.#withOperator(leg, async () => {
      const operator = this.#operatorOf(leg);
      await this.#backdrop.clear(operator.tag);
      await this.#callerPlayer.settle();
      await this.#answered(operator, answer);
      await this.#join(operator);
      this.#post({ type: "media.joined", leg });
    });
  }

  aside(leg: LegId, on: boolean): void {
    if (!on) this.#callerPlayer.stop();
    this.#withOperator(leg, async () => {
      const operator = this.#operatorOf(leg);
      if (on) {
        if (this.#current === operator) await this.#leave(operator);
        return;
      }
      await this.#callerPlayer.settle();
      await this.#join(operator);
    });
  }

  drop(leg: LegId): void {
    // A channel that stays behind costs ports: a drop is never refused.
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

  close(): void {
    if (this.#closing) return;
    this.#watch?.cancel();
    this.#bridgeWatch.stop();
    this.#backdrop.close();
    this.#callerPlayer.close();
    for (const player of this.#operatorPlayers.values()) player.close();
    this.#closing = true;
    this.#queue.pushAlways(() => this.#close());
  }

  /** FreeSWITCH does not have the call any more. Reported once. */
  lose(reason: string): void {
    if (this.#lost || this.#closing) return;
    this.#lost = true;
    this.#watch?.cancel();
    this.#options.log.error({ call: this.#options.call, reason }, "the media of a call is lost");
    this.#post({ type: "media.lost", reason });
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

  // Channels.

  #caller(): Caller {
    if (this.#callerLeg === undefined) throw new MediaError("not_open", "the call is not anchored");
    return this.#callerLeg;
  }

  #operatorOf(leg: LegId): Operator {
    const operator = this.#operators.get(leg);
    if (operator === undefined) throw new MediaError("no_such_leg", "the leg has not been offered");
    return operator;
  }

  #operatorByTag(tag: string): Operator | undefined {
    return [...this.#operators.values()].find((operator) => operator.tag === tag);
  }

  async #newLeg(server: Server, tag: string, sdp: string): Promise<Leg> {
    const { call, log } = this.#options;
    if (server.connection === null) throw new MediaError("media_lost", "no connection to FreeSWITCH");
    const channel = await server.connection.channel(sdp);
    try {
      const variables = [...channelVariables, `${callVariable}=${call}`].join(";");
      await channel.command("uuid_setvar_multi", variables);
      // What a parked channel is sent is decided when it is parked: anew, now that the variables are there.
      await channel.until("CHANNEL_PARK", () => channel.command("uuid_transfer", "park", "inline"));
      const audio = described(channel.sdp as Sdp, "FreeSWITCH's answer");
      return { tag, channel, sound: new ChannelSound(channel, log), end: newEnd(audio) };
    } catch (error) {
      await channel.hangUp();
      throw error;
    }
  }

  /** Caller and operator hear each other. */
  async #bridge(operator: Operator): Promise<void> {
    if (this.#bridged === operator) return;
    if (this.#bridged !== null) await this.#part();
    const { channel } = this.#caller();
    this.#bridged = operator;
    try {
      await channel.until("CHANNEL_BRIDGE", () => channel.command("uuid_bridge", operator.channel.uuid));
    } catch (error) {
      // Else parting would wait for channels that come from no bridge.
      this.#bridged = null;
      throw error;
    }
    await this.#settleHush();
  }

  /** Both are parked, and go on to hear what we play to them. */
  async #part(): Promise<void> {
    const operator = this.#bridged;
    this.#bridged = null;
    if (operator === null) return;
    await this.#settleHush();
    const { channel } = this.#caller();
    if (operator.channel.gone) return;
    await Promise.all([
      channel.until("CHANNEL_PARK", () => channel.command("uuid_transfer", "-both", "park", "inline")),
      operator.channel.until("CHANNEL_PARK", () => Promise.resolve()),
    ]);
  }

  /** Keeps everybody's sound from a partner who hears tones, and from him alone. */
  async #settleHush(): Promise<void> {
    const now = this.#options.clock.now();
    for (const [tag, until] of this.#hearAlone) if (until <= now) this.#hearAlone.delete(tag);
    const pair: readonly Leg[] = this.#bridged === null ? [] : [this.#caller(), this.#bridged];
    const wanted = new Set<Leg>(pair.filter((_, index) => this.#hearAlone.has(pair[1 - index]?.tag ?? "")));
    for (const leg of this.#hushed) {
      if (wanted.has(leg)) continue;
      this.#hushed.delete(leg);
      if (!leg.channel.gone) await leg.channel.command("uuid_audio", "stop");
    }
    for (const leg of wanted) {
      if (this.#hushed.has(leg)) continue;
      this.#hushed.add(leg);
      await leg.channel.command("uuid_audio", "start", "read", "mute", "1");
    }
  }

  /** In its turn, and whatever waits: a side that stays hushed is worse than anything. */
  #settleHushSoon(): void {
    this.#queue.pushAlways(() => this.#unlessEnding(() => this.#settleHush()));
  }

  async #received(channel: Channel): Promise<Received> {
    await channel.command("uuid_set_media_stats");
    const rtp = Number(await channel.command("uuid_getvar", "rtp_audio_in_packet_count"));
    const rtcp = Number(await channel.command("uuid_getvar", "rtp_audio_rtcp_packet_count"));
    const rtpPackets = Number.isFinite(rtp) ? rtp : 0;
    // It takes them from everywhere.
    return { rtpPackets, packets: rtpPackets + (Number.isFinite(rtcp) ? rtcp : 0), refused: 0 };
  }

  // The steps.

  async #open(offer: Sdp): Promise<void> {
    const outcome = readAudio(offer);
    const formats = outcome.ok ? chooseFormats(outcome.audio, null) : undefined;
    if (!outcome.ok || formats === undefined) {
      this.#openFailed(true, outcome.ok ? "no_common_codec" : outcome.fault);
      return;
    }
    const remote = outcome.audio;
    const failed = new Set<Server>();
    let reason = "no FreeSWITCH answers";
    for (;;) {
      const server = this.#options.chooseServer(failed);
      if (server === undefined || this.#closing) break;
      server.calls += 1;
      try {
        const leg = await this.#newLeg(server, callerTag, describePeer(remote, formats, remote.direction));
        this.#server = server;
        this.#opened({ ...leg, remote, formats });
        return;
      } catch (error) {
        server.calls -= 1;
        reason = messageOf(error);
        this.#options.log.warn({ call: this.#options.call, host: server.host, error: reason }, "a call did not open");
        failed.add(server);
      }
    }
    this.#openFailed(false, reason);
  }

  #opened(caller: Caller): void {
    this.#callerLeg = caller;
    const { end, formats, remote, channel } = caller;
    channel.listen(
      (digit, durationMs) => this.#post({ type: "media.digit", leg: this.#options.caller, digit, durationMs }),
      (reason) => this.lose(reason),
    );
    this.#startWatch();
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

  async #offer(leg: LegId): Promise<void> {
    if (this.#operators.has(leg)) throw new MediaError("offered_twice", "the leg has been offered already");
    if (this.#operators.size >= this.#options.mostLegs) throw new MediaError("overloaded", "too many legs");
    if (this.#server === undefined || this.#lost) throw new MediaError("media_lost", "FreeSWITCH has lost the call");
    this.#operatorCount += 1;
    const { law } = this.#caller().formats.codecs[0];
    const laws = law === "PCMU" ? (["PCMU", "PCMA"] as const) : (["PCMA", "PCMU"] as const);
    const { eventType } = this.#caller().formats;
    const formats = { codecs: laws.map((name) => ({ law: name, payloadType: name === "PCMU" ? 0 : 8 })), eventType };
    const made = await this.#newLeg(
      this.#server,
      `operator-${this.#operatorCount}`,
      describePeer(nowhere, formats, "sendrecv"),
    );
    const operator: Operator = { ...made, leg, formats, remote: null, early: "" };
    this.#operators.set(leg, operator);
    this.#operatorPlayers.set(leg, this.#newPlayer(operator.tag));
    operator.channel.listen(
      (digit, durationMs) => this.#post({ type: "media.digit", leg, digit, durationMs }),
      (reason) => this.#post({ type: "media.legFailed", leg, reason }),
    );
    this.#post({ type: "media.offered", leg, offer: describeEnd(operator.end, formats, "sendrecv", null) });
  }

  /** The operator's side is as his answer says. */
  async #answered(operator: Operator, answer: Sdp): Promise<void> {
    // RFC 3261 §13.2.1 wants the answer in the 200 again; some leave it out when it stood in a 183.
    if (answer === "" && operator.remote !== null) return;
    await this.#describe(operator, described(answer, "the operator's answer"));
  }

  async #describe(operator: Operator, remote: AudioDescription): Promise<void> {
    const { codecs, eventType } = remote;
    if (!isNowhere(remote)) {
      await operator.channel.modify(describePeer(remote, { codecs, eventType }, remote.direction));
    }
    operator.remote = remote;
  }

  /** He is heard as soon as he sends. An INVITE goes on whatever comes of it. */
  async #early(leg: LegId, answer: Sdp): Promise<void> {
    const operator = this.#operators.get(leg);
    if (operator === undefined || operator === this.#current || operator.early === answer) return;
    operator.early = answer;
    await this.#answered(operator, answer);
    // RFC 3264 §5.1: nothing comes from a side that says so, and from a held one nothing is wanted.
    if (operator.remote?.direction !== "sendrecv" && operator.remote?.direction !== "sendonly") return;
    this.#backdrop.admit(operator.tag, false);
  }

  async #join(operator: Operator): Promise<void> {
    this.#current = operator;
    this.#bridgeWatch.reset();
    await this.#connect(operator);
  }

  /** Caller and operator hear each other; or the caller is parked, with music, because the operator holds him. */
  async #connect(operator: Operator): Promise<void> {
    const { remote } = operator;
    if (holds(remote)) {
      const flows = remote?.direction === "sendonly" && !isNowhere(remote);
      this.#bridgeWatch.stop();
      if (flows) await this.#bridge(operator);
      else await this.#part();
      if (flows) this.#backdrop.admit(operator.tag, true);
      else await this.#backdrop.withdraw(operator.tag);
      this.#backdrop.set("held");
      return;
    }
    await this.#backdrop.clear(operator.tag);
    await this.#bridge(operator);
    if (remote?.direction === "sendrecv") await this.#bridgeWatch.start();
  }

  async #receivedOnBridge(): ReturnType<ConstructorParameters<typeof BridgeWatch>[0]["received"]> {
    const operator = this.#current;
    if (operator === null) return undefined;
    return {
      caller: await this.#received(this.#caller().channel),
      operator: await this.#received(operator.channel),
    };
  }

  /** With a description of our end, for a re-INVITE to the operator. */
  #askAgain(post: (leg: LegId, offer: Sdp) => void): void {
    const operator = this.#current;
    if (operator === null) return;
    operator.end.version += 1;
    post(operator.leg, describeEnd(operator.end, operator.formats, "sendrecv", null));
  }

  /** The caller is with the bot's side again. What he hears while he waits was set when this was ordered, and stays. */
  async #leave(operator: Operator): Promise<void> {
    await this.#backdrop.withdraw(operator.tag);
    this.#bridgeWatch.reset();
    this.#current = null;
    await this.#part();
  }

  async #drop(leg: LegId): Promise<void> {
    const operator = this.#operators.get(leg);
    if (operator === undefined) return;
    const joined = this.#current === operator;
    this.#operatorPlayers.get(leg)?.close();
    this.#operatorPlayers.delete(leg);
    this.#hearAlone.delete(operator.tag);
    try {
      if (joined) {
        try {
          await this.#leave(operator);
        } finally {
          // What plays ends with him, also where FreeSWITCH does not take them apart.
          await this.#backdrop.clear(null);
        }
      } else await this.#backdrop.withdraw(operator.tag);
    } finally {
      this.#operators.delete(leg);
      this.#hushed.delete(operator);
      if (this.#bridged === operator) this.#bridged = null;
      void operator.channel.hangUp();
    }
  }

  async #updateCaller(offer: Sdp | null): Promise<Sdp> {
    const caller = this.#caller();
    const { end, channel } = caller;
    end.version += 1;
    if (offer === null) return describeEnd(end, caller.formats, "sendrecv", caller.remote);
    const remote = described(offer, "the caller's offer");
    const formats = chooseFormats(remote, caller.formats.codecs[0].law);
    if (formats === undefined) throw new MediaError("no_common_codec", "the caller offers no codec of ours");
    // Refused, what was agreed before still holds (RFC 3264 §8).
    const answer = described(
      (await channel.modify(describePeer(remote, formats, remote.direction))) as Sdp,
      "FreeSWITCH's",
    );
    if (answer.port !== end.port) {
      throw new MediaError("caller_port_changed", `from ${end.port} to ${answer.port}`);
    }
    Object.assign(caller, { remote, formats });
    if (remote.direction === "sendrecv") await this.#callerPlayer.restart(false);
    return describeEnd(end, formats, mirrored(remote.direction), remote);
  }

  async #updateOperator(leg: LegId, offer: Sdp | null): Promise<Sdp> {
    const operator = this.#operators.get(leg);
    if (operator === undefined || operator.remote === null) throw new MediaError("no_such_leg", "no such operator");
    const { end, formats } = operator;
    end.version += 1;
    if (offer === null) return describeEnd(end, formats, "sendrecv", operator.remote);
    const remote = described(offer, "the operator's offer");
    await this.#follow(operator, remote);
    return describeAnswer(end, formats, remote);
  }

  #proposal(leg: LegId, offer: Sdp): Sdp {
    const remote = described(offer, "the offer");
    if (leg !== this.#options.caller) {
      const { end, formats } = this.#operatorOf(leg);
      end.version += 1;
      return describeAnswer(end, formats, remote);
    }
    const { end, formats: inUse } = this.#caller();
    const formats = chooseFormats(remote, inUse.codecs[0].law);
    if (formats === undefined) throw new MediaError("no_common_codec", "the caller offers no codec of ours");
    end.version += 1;
    return describeEnd(end, formats, mirrored(remote.direction), remote);
  }

  /** The operator's description within the dialog. */
  async #follow(operator: Operator, remote: AudioDescription): Promise<void> {
    await this.#describe(operator, remote);
    if (this.#current === operator) await this.#connect(operator);
  }

  async #startSegment(): Promise<string> {
    this.#segments += 1;
    this.#segment = join(this.#options.spoolFolder, segmentFolder, `${this.#name}-${this.#segments}.wav`);
    await this.#caller().channel.command("uuid_record", "start", this.#segment);
    return this.#segment;
  }

  #newPlayer(tag: string): Player {
    const { clock, prepare } = this.#options;
    const isCaller = tag === callerTag;
    const legOf = (): Leg | undefined => (isCaller ? this.#callerLeg : this.#operatorByTag(tag));
    return new Player({
      clock,
      prepare,
      enqueue: (step) => this.#queue.push(() => this.#unlessEnding(step)),
      start: async ({ playableFile, durationMs }, times, kind: SoundKind) => {
        const leg = legOf();
        if (leg === undefined) throw new MediaError("no_such_leg", "the leg is gone");
        if (isCaller && !mayHear(this.#caller().remote.direction))
          throw new MediaError("on_hold", "the caller holds us");
        if (isCaller && kind !== "background") await this.#backdrop.interrupt();
        if (kind === "tones") this.#hearAlone.set(tag, clock.now() + durationMs * times + aloneTailMs);
        else this.#hearAlone.delete(tag);
        await this.#settleHush();
        try {
          await leg.sound.start(playableFile, times);
        } catch (error) {
          if (this.#hearAlone.delete(tag)) this.#settleHushSoon();
          throw error instanceof MediaError && error.code === "refused"
            ? new MediaError("play_failed", error.message, { cause: error })
            : error;
        }
        return durationMs;
      },
      stop: async () => legOf()?.sound.stop(),
      onSound: (prompt) => {
        if (prompt === null && this.#hearAlone.delete(tag)) this.#settleHushSoon();
      },
      onPlayed: (play, result, reason) => this.#post({ type: "media.played", play, result, reason }),
      onIdle: () => undefined,
    });
  }

  #startWatch(): void {
    if (this.#closing) return;
    const { clock, watchMs } = this.#options;
    this.#watch = clock.after(watchMs, () => {
      this.#step(
        async () => {
          const { channel, remote } = this.#caller();
          try {
            const received = await this.#received(channel);
            this.#recording.look(received.rtpPackets);
            this.#callerWatch.seen(received, remote.direction === "sendrecv");
          } finally {
            if (!this.#lost) this.#startWatch();
          }
          // When a command that should have ended it was lost.
          await this.#settleHush();
        },
        () => this.#startWatch(),
      );
    });
  }

  async #close(): Promise<void> {
    const caller = this.#callerLeg;
    const reachable = !this.#lost && caller !== undefined;
    await this.#recording.stop(reachable);
    for (const operator of this.#operators.values()) void operator.channel.hangUp();
    if (caller !== undefined) await caller.channel.hangUp();
    if (this.#server !== undefined) this.#server.calls -= 1;
    this.#operators.clear();
    this.#operatorPlayers.clear();
    // Rendering takes its time: it must not hold the queue, whose length says what FreeSWITCH has still to do.
    void this.#recording.finished().then(() => {
      this.#options.post({ type: "media.closed" });
      this.#options.onClosed();
    });
  }
}

function described(text: Sdp, whose: string): AudioDescription {
  const outcome = readAudio(text);
  if (!outcome.ok) throw new MediaError(outcome.fault, `${whose}: ${outcome.fault}`);
  return outcome.audio;
}
