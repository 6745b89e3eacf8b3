import { randomBytes } from "node:crypto";
import { join } from "node:path";
import type { Prompt } from "../../call/effect.ts";
import type { LegId, PlayId } from "../../call/ids.ts";
import { MediaError, messageOf } from "../media-error.ts";
import type { ReadyPrompt } from "../prompts/library.ts";
import { safeName } from "../recording/recorder.ts";
import type { Received, Sides } from "../switching/bridge-watch.ts";
import type { CallerLeg, OperatorLeg } from "../switching/call-legs.ts";
import type { SwitchedCallOptions } from "../switching/call-options.ts";
import { callerTag } from "../switching/hush.ts";
import type { SoundKind } from "../switching/player.ts";
import { described, describePeer, isNowhere, mayHear, newEnd } from "../switching/sdp.ts";
import type { AudioDescription, ChosenFormats, LocalEnd } from "../switching/sdp.ts";
import { SwitchedCall } from "../switching/switched-call.ts";
import { ChannelSound } from "./channel-sound.ts";
import type { Channel } from "./fsmrf.ts";
import type { Server } from "./servers.ts";

export interface BridgedCallOptions extends SwitchedCallOptions {
  /** Undefined when none answers or all are full; `except` have failed for this call already. */
  readonly chooseServer: (except: ReadonlySet<Server>) => Server | undefined;
  /** A channel that is not spoken of for so long is ended by FreeSWITCH; in whole seconds. */
  readonly leaseMs: number;
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
  "rtp_jitter_buffer_during_bridge=true",
];

/**
 * In packets: the least and the most. Whenever a channel is bridged or parked, FreeSWITCH reads nothing from it for some
 * packets' time, and then throws away what has come meanwhile; with a jitter buffer it reads that instead, all at once.
 */
const recordedBuffer = "1p:50p";

/**
 * So long after the last word of a service FreeSWITCH ends its channels: it has no other way to notice that a service has
 * died, and what nobody ends would take ports and record for ever.
 */
export const usualLeaseMs = 120_000;

/** An operator's channel is made before his phone is known: until then it sends to where nobody listens. */
const nowhere = { family: "IP4", address: "127.0.0.1", port: 9, rtcpPort: null, ptimeMs: 20 } as const;

interface Leg {
  readonly tag: string;
  readonly channel: Channel;
  readonly sound: ChannelSound;
  end: LocalEnd;
}

interface Caller extends CallerLeg, Leg {
  readonly end: LocalEnd;
}

interface Operator extends OperatorLeg, Leg {
  /** What had come from him when he was described; null once a talk was watched from there. */
  before: Promise<Received | null> | null;
}

/**
 * One call in one FreeSWITCH: a channel for the caller, which stays for as long as the call does, and one for each
 * operator. They are bridged and parked; nobody's phone is told.
 */
export class BridgedCall extends SwitchedCall<Server, Caller, Operator> {
  protected override readonly serverName = "FreeSWITCH";
  readonly #options: BridgedCallOptions;
  readonly #name: string;
  /** Whose channel is bridged with the caller's. */
  #bridged: Operator | null = null;
  #segments = 0;
  #segment = "";
  #leasedAt: number;

  constructor(options: BridgedCallOptions) {
    super(options, segmentFolder);
    this.#options = options;
    this.#leasedAt = options.clock.now();
    this.#name = `${safeName(options.call)}-${randomBytes(6).toString("hex")}`;
  }

  override play(play: PlayId, leg: LegId, prompt: Prompt): void {
    // Telephone events are not sent here.
    if (prompt.kind !== "digits" || prompt.tones !== false) super.play(play, leg, prompt);
    else this.post({ type: "media.played", play, result: "failed", reason: "no_events" });
  }

  // Channels.

  async #newLeg(server: Server, tag: string, sdp: string): Promise<Leg> {
    const { call, log } = this.#options;
    if (server.connection === null) throw new MediaError("media_lost", "no connection to FreeSWITCH");
    const channel = await server.connection.channel(sdp);
    try {
      const variables = [...channelVariables, `${callVariable}=${call}`].join(";");
      await Promise.all([channel.command("uuid_setvar_multi", variables), channel.keepFor(this.#leaseSeconds)]);
      // What a parked channel is sent is decided when it is parked: anew, now that the variables are there.
      await channel.until("CHANNEL_PARK", () => channel.command("uuid_transfer", "park", "inline"));
      const audio = described(channel.sdp, "FreeSWITCH's answer");
      return { tag, channel, sound: new ChannelSound(channel, log), end: newEnd(audio) };
    } catch (error) {
      await channel.hangUp();
      throw error;
    }
  }

  get #leaseSeconds(): number {
    return Math.round(this.#options.leaseMs / 1_000);
  }

  /** In time for several attempts. */
  async #keep(): Promise<void> {
    const { clock, leaseMs } = this.#options;
    if (clock.now() - this.#leasedAt < leaseMs / 4) return;
    this.#leasedAt = clock.now();
    const legs: readonly Leg[] = [this.caller(), ...this.operators.values()];
    const outcomes = await Promise.allSettled(legs.map(({ channel }) => channel.keepFor(this.#leaseSeconds)));
    // The next watch tries again.
    if (outcomes.some(({ status }) => status === "rejected")) this.#leasedAt = -Infinity;
  }

  protected override choose(except: ReadonlySet<Server>): Server | undefined {
    return this.#options.chooseServer(except);
  }

  protected override async anchorCaller(
    server: Server,
    remote: AudioDescription,
    formats: ChosenFormats,
  ): Promise<void> {
    const leg = await this.#newLeg(server, callerTag, describePeer(remote, formats, remote.direction));
    this.heldBy = server;
    this.callerLeg = { ...leg, remote, formats };
    leg.channel.listen(
      (digit, durationMs) => this.post({ type: "media.digit", leg: this.#options.caller, digit, durationMs }),
      (reason) => this.lose(reason),
    );
  }

  protected override async describeCaller(remote: AudioDescription, formats: ChosenFormats): Promise<void> {
    const caller = this.caller();
    const { end, channel } = caller;
    const answer = described(await channel.modify(describePeer(remote, formats, remote.direction)), "FreeSWITCH's");
    if (answer.port !== end.port) {
      throw new MediaError("caller_port_changed", `from ${end.port} to ${answer.port}`);
    }
    Object.assign(caller, { remote, formats });
  }

  protected override async newOperator(leg: LegId, tag: string): Promise<Operator> {
    if (this.server === undefined || this.lost) throw new MediaError("media_lost", "FreeSWITCH has lost the call");
    const { eventType, codecs } = this.caller().formats;
    const laws = codecs[0].law === "PCMU" ? (["PCMU", "PCMA"] as const) : (["PCMA", "PCMU"] as const);
    const formats = { codecs: laws.map((law) => ({ law, payloadType: law === "PCMU" ? 0 : 8 })), eventType };
    const made = await this.#newLeg(this.server, tag, describePeer(nowhere, formats, "sendrecv"));
    return { ...made, leg, formats, remote: null, early: "", before: null };
  }

  protected override async readyOperator({ channel, leg }: Operator): Promise<void> {
    channel.listen(
      (digit, durationMs) => this.post({ type: "media.digit", leg, digit, durationMs }),
      (reason) => void this.#gone(leg, reason),
    );
  }

  async #gone(leg: LegId, reason: string): Promise<void> {
    // A FreeSWITCH that dies closes one channel's connection after the other: the caller's may be next, and then it is the
    // call that is lost and no leg of it.
    await this.callerLeg?.channel.command("uuid_exists").catch(() => undefined);
    if (!this.lost) this.post({ type: "media.legFailed", leg, reason });
  }

  protected override async describeOperator(operator: Operator, remote: AudioDescription): Promise<void> {
    const { codecs, eventType } = remote;
    if (!isNowhere(remote)) {
      await operator.channel.modify(describePeer(remote, { codecs, eventType }, remote.direction));
    }
    // A bridge takes its time, and one packet of him within it says that he is there.
    operator.before = this.#received(operator.channel).catch(() => null);
    operator.remote = remote;
  }

  protected override async follow(operator: Operator, remote: AudioDescription): Promise<void> {
    await this.describeOperator(operator, remote);
    if (this.current === operator) await this.connect(operator);
  }

  // Bridges. An operator's channel is parked from the beginning.

  protected override async parkOperator(): Promise<void> {}

  protected override async readyEarly(): Promise<void> {}

  protected override async bridge(operator: Operator): Promise<void> {
    if (this.#bridged === operator) return;
    if (this.#bridged !== null) await this.#parkBoth();
    const { channel } = this.caller();
    this.#bridged = operator;
    this.recordings.join(operator.tag);
    try {
      await channel.until("CHANNEL_BRIDGE", () => channel.command("uuid_bridge", operator.channel.uuid));
    } catch (error) {
      // Else parting would wait for channels that come from no bridge.
      this.#bridged = null;
      throw error;
    }
    await this.hush.settle();
  }

  protected override async bridgeHeld(operator: Operator, flows: boolean): Promise<void> {
    if (flows) await this.bridge(operator);
    else await this.#parkBoth();
  }

  protected override async leaveBridge(operator: Operator): Promise<void> {
    await super.leaveBridge(operator);
    await this.#parkBoth();
  }

  /** They go on to hear what we play to them. */
  async #parkBoth(): Promise<void> {
    const operator = this.#bridged;
    this.#bridged = null;
    if (operator === null) return;
    this.recordings.leave();
    await this.hush.settle();
    const { channel } = this.caller();
    if (operator.channel.gone) return;
    await Promise.all([
      channel.until("CHANNEL_PARK", () => channel.command("uuid_transfer", "-both", "park", "inline")),
      operator.channel.until("CHANNEL_PARK", () => Promise.resolve()),
    ]);
  }

  protected override async removeOperator(operator: Operator, joined: boolean): Promise<void> {
    try {
      if (joined) {
        try {
          await this.leaveBridge(operator);
        } finally {
          // What plays ends with him, also where FreeSWITCH does not take them apart.
          await this.backdrop.clear(null);
        }
      } else await this.backdrop.withdraw(operator.tag);
    } finally {
      this.forgetOperator(operator);
      this.hush.forget(operator.tag);
      if (this.#bridged === operator) this.#bridged = null;
      void operator.channel.hangUp();
    }
  }

  protected override async letThrough(tag: string): Promise<void> {
    const operator = this.operatorByTag(tag);
    if (operator !== undefined) await this.bridge(operator);
  }

  protected override async shutOut(tag: string): Promise<void> {
    if (this.#bridged?.tag === tag) await this.#parkBoth();
  }

  protected override bridgedTag(): string | undefined {
    return this.#bridged?.tag;
  }

  protected override async mute(tag: string, on: boolean): Promise<void> {
    const channel = this.#legOf(tag)?.channel;
    if (on) await channel?.command("uuid_audio", "start", "read", "mute", "1");
    else if (channel?.gone === false) await channel.command("uuid_audio", "stop");
  }

  // Sound.

  #legOf(tag: string): Leg | undefined {
    return tag === callerTag ? this.callerLeg : this.operatorByTag(tag);
  }

  protected override async startSound(
    tag: string,
    { playableFile, durationMs }: ReadyPrompt,
    times: number,
    kind: SoundKind,
  ): Promise<number> {
    const leg = this.#legOf(tag);
    if (leg === undefined) throw new MediaError("no_such_leg", "the leg is gone");
    if (tag === callerTag && !mayHear(this.caller().remote.direction))
      throw new MediaError("on_hold", "the caller holds us");
    if (tag === callerTag && kind !== "background") await this.backdrop.interrupt();
    if (kind === "tones") this.hush.begin(tag, durationMs * times);
    else this.hush.end(tag);
    await this.hush.settle();
    try {
      await leg.sound.start(playableFile, times);
    } catch (error) {
      this.endTones(tag);
      throw error instanceof MediaError && error.code === "refused"
        ? new MediaError("play_failed", error.message, { cause: error })
        : error;
    }
    return durationMs;
  }

  protected override async stopSound(tag: string): Promise<void> {
    await this.#legOf(tag)?.sound.stop();
  }

  // Recordings.

  /** By this another process finds out whether the call still goes on. */
  protected override get nameInServer(): string {
    return this.callerLeg?.channel.uuid ?? "";
  }

  protected override async startCapture(): Promise<string> {
    this.#segments += 1;
    this.#segment = join(this.#options.spoolFolder, segmentFolder, `${this.#name}-${this.#segments}.wav`);
    const { channel } = this.caller();
    // Where that fails, the recording has short holes.
    await channel.command("uuid_jitterbuffer", recordedBuffer).catch((error: unknown) => {
      this.#options.log.debug({ call: this.#options.call, error: messageOf(error) }, "no jitter buffer");
    });
    await channel.command("uuid_record", "start", this.#segment);
    return this.#segment;
  }

  protected override async stopCapture(): Promise<void> {
    await this.caller().channel.command("uuid_record", "stop", this.#segment);
  }

  // Watches.

  async #received(channel: Channel): Promise<Received> {
    await channel.command("uuid_set_media_stats");
    const rtp = Number(await channel.command("uuid_getvar", "rtp_audio_in_packet_count"));
    const rtcp = Number(await channel.command("uuid_getvar", "rtp_audio_rtcp_packet_count"));
    const rtpPackets = Number.isFinite(rtp) ? rtp : 0;
    // It takes them from everywhere.
    return { rtpPackets, packets: rtpPackets + (Number.isFinite(rtcp) ? rtcp : 0), refused: 0 };
  }

  protected override async packetsOf(tag: string): Promise<number> {
    const operator = this.operatorByTag(tag);
    return operator === undefined ? 0 : (await this.#received(operator.channel)).rtpPackets;
  }

  protected override async receivedOnBridge(): Promise<Sides | undefined> {
    const operator = this.current;
    if (operator === null) return undefined;
    const { before } = operator;
    operator.before = null;
    return {
      caller: await this.#received(this.caller().channel),
      operator: (await before) ?? (await this.#received(operator.channel)),
    };
  }

  /** FreeSWITCH follows a phone by itself, where its first packets come from; not later, and it does not tell of others. */
  protected override async relatch(): Promise<void> {}

  protected override async lookAtCaller(): Promise<void> {
    await this.#keep();
    const { channel, remote } = this.caller();
    const received = await this.#received(channel);
    this.recordings.look(received.rtpPackets);
    this.callerWatch.seen(received, remote.direction === "sendrecv");
  }

  protected override async release(): Promise<void> {
    for (const operator of this.operators.values()) void operator.channel.hangUp();
    await this.callerLeg?.channel.hangUp();
  }
}
