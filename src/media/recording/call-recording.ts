import { basename } from "node:path";
import type { TalkPhase } from "../../call/effect.ts";
import type { CallEvent } from "../../call/event.ts";
import type { CallId } from "../../call/ids.ts";
import type { RecordingOrder } from "../../call/ports.ts";
import type { G711Law } from "../audio/g711.ts";
import { codeOf, MediaError, messageOf } from "../media-error.ts";
import type { MediaClock, MediaLog } from "../options.ts";
import type { CallRecording, Recorder } from "./recorder.ts";

export interface RecordingControlOptions {
  readonly call: CallId;
  /** The call's name in the media server; never used twice. */
  readonly name: () => string;
  /** Where below the spool folder the media server puts what it captures. */
  readonly captureFolder: "pcaps" | "segments";
  readonly order: RecordingOrder;
  /** Null when no recordings are configured. */
  readonly recorder: Recorder | null;
  readonly spoolFolder: string;
  readonly clock: MediaClock;
  readonly log: MediaLog;
  /** Starts capturing; resolves with the capture's path as the media server sees it, undefined when it names none. */
  startCapture(): Promise<string | undefined>;
  stopCapture(): Promise<void>;
  /** Within a step: does once more what has failed because the media server had lost the call, when another one has it. */
  again(run: () => Promise<void>): Promise<void>;
  /** Runs a step in the call's queue, however many wait. */
  enqueue(step: () => Promise<void>): void;
  post(event: CallEvent): void;
}

interface KnownLeg {
  readonly leg: string;
  readonly port: number;
  readonly laws: ReadonlyMap<number, G711Law>;
}

interface Sound {
  readonly file: string;
  readonly times: number;
  readonly at: number;
}

/**
 * The recording of one call: tells the recorder what happens in the call, and what it must know of what happened before
 * the recording began. Its asynchronous methods run as steps of the call's queue and never reject.
 */
export class RecordingControl {
  readonly #options: RecordingControlOptions;
  readonly #legs = new Map<string, KnownLeg>();
  #joined: string | null = null;
  #phase: { readonly phase: TalkPhase; readonly at: number } | null = null;
  #sound: Sound | null = null;
  #recording: CallRecording | null = null;
  #play: number | null = null;
  #running = false;
  #looking = false;
  /** Recordings that are being rendered. */
  readonly #finishing = new Set<Promise<void>>();

  constructor(options: RecordingControlOptions) {
    this.#options = options;
  }

  get #now(): number {
    return this.#options.clock.wallMs();
  }

  /** Packets to `port` are this leg's. */
  setLeg(leg: string, port: number, laws: ReadonlyMap<number, G711Law>): void {
    const known = this.#legs.get(leg);
    // A phone that offers the same again, however often, is no news.
    if (known?.port === port && sameLaws(known.laws, laws)) return;
    this.#legs.set(leg, { leg, port, laws });
    this.#recording?.leg(this.#now, leg, port, laws);
  }

  join(leg: string): void {
    if (this.#joined === leg) return;
    this.leave();
    this.#joined = leg;
    this.#recording?.joined(this.#now, leg);
  }

  leave(): void {
    if (this.#joined !== null) this.#recording?.left(this.#now, this.#joined);
    this.#joined = null;
  }

  forgetLeg(leg: string): void {
    if (this.#joined === leg) this.leave();
    this.#legs.delete(leg);
  }

  setPhase(phase: TalkPhase): void {
    this.#phase = { phase, at: this.#now };
    this.#recording?.phase(this.#now, phase);
  }

  /** What the caller hears from us from now on: a prompt file, or nothing. */
  setSound(file: string | null, times: number): void {
    if (this.#play !== null) this.#recording?.cut(this.#now, this.#play);
    this.#play = null;
    this.#sound = file === null ? null : { file, times, at: this.#now };
    if (file !== null) this.#play = this.#recording?.play(this.#now, file, times) ?? null;
  }

  async start(): Promise<void> {
    const { recorder, call, name, order, spoolFolder, captureFolder } = this.#options;
    if (this.#recording !== null) {
      await this.resume();
      return;
    }
    if (recorder === null) {
      this.#failed("not_configured");
      return;
    }
    try {
      const recording = await recorder.open(call, name(), order, spoolFolder, captureFolder);
      this.#recording = recording;
      for (const { leg, port, laws } of this.#legs.values()) recording.leg(0, leg, port, laws);
      if (this.#joined !== null) recording.joined(this.#now, this.#joined);
      await this.#options.again(() => this.#capture(recording));
      if (this.#phase !== null) recording.phase(this.#phase.at, this.#phase.phase);
      const sound = this.#sound;
      this.#play = sound === null ? null : recording.play(sound.at, sound.file, sound.times);
      this.#options.post(changed("started", recording.place));
    } catch (error) {
      this.#failed(codeOf(error, "internal"), error);
      await this.#options.stopCapture().catch(() => {});
      this.#discard();
    }
  }

  async #capture(recording: CallRecording): Promise<void> {
    const path = await this.#options.startCapture();
    // Without a recording folder rtpengine 10.5 says that all is well and records nothing: the file is the only proof.
    if (path === undefined) throw new MediaError("no_spool", "the media server names no capture file");
    await recording.captured(basename(path), this.#options.spoolFolder).catch((error: unknown) => {
      throw new MediaError("no_spool", "the media server's capture is not in the spool folder", { cause: error });
    });
    recording.run(this.#now);
    this.#running = true;
  }

  /** Nothing was recorded: what had been begun is removed again, in its turn among the renderings. */
  #discard(): void {
    const recording = this.#recording;
    this.#recording = null;
    this.#running = false;
    if (recording !== null) this.#track(recording.finish(this.#now).then(nothing, nothing));
  }

  async pause(): Promise<void> {
    const recording = this.#recording;
    if (recording === null || !this.#running) return;
    await this.#hold(recording);
    this.#options.post(changed("paused", recording.place));
  }

  async #hold(recording: CallRecording): Promise<void> {
    this.#running = false;
    recording.hold(this.#now);
    try {
      await this.#options.stopCapture();
    } catch (error) {
      // The log says when the pause began: packets that are captured in spite of it are not rendered.
      this.#options.log.warn({ call: this.#options.call, error: messageOf(error) }, "a capture could not be stopped");
    }
  }

  async resume(): Promise<void> {
    const recording = this.#recording;
    if (recording === null || this.#running) return;
    try {
      await this.#options.again(() => this.#capture(recording));
      this.#options.post(changed("resumed", recording.place));
    } catch (error) {
      // What was recorded before the pause is rendered at the end all the same.
      this.#failed(codeOf(error, "internal"), error);
    }
  }

  /** Another media server has the call: what it captures is a further part of the same recording. */
  async move(): Promise<void> {
    const recording = this.#recording;
    if (recording === null || !this.#running) return;
    this.#running = false;
    try {
      await this.#capture(recording);
    } catch (error) {
      // What was recorded before is rendered at the end all the same.
      recording.hold(this.#now);
      this.#failed(codeOf(error, "internal"), error);
    }
  }

  /**
   * Looks from time to time whether what is captured reaches the disk: media servers do not tell. `packets`: how many have
   * come from the caller, null when that is not known. Returns at once, because a disk may answer late or never.
   */
  look(packets: number | null): void {
    const recording = this.#recording;
    if (recording === null || !this.#running || this.#looking) return;
    this.#looking = true;
    void recording.trouble(packets).then((reason) => {
      this.#looking = false;
      if (reason !== null) this.#options.enqueue(() => this.#breakOff(recording, reason));
    });
  }

  /** Nothing more can be recorded: what was is finished, and the call goes on without. */
  async #breakOff(recording: CallRecording, reason: string): Promise<void> {
    if (this.#recording !== recording || !this.#running) return;
    this.#failed(reason);
    await this.stop();
  }

  /** Ends the recording; it is rendered while the call goes on. `reachable`: the media server can still be asked to stop. */
  async stop(reachable = true): Promise<void> {
    const recording = this.#recording;
    if (recording === null) return;
    if (this.#running && reachable) await this.#hold(recording);
    this.#recording = null;
    this.#running = false;
    this.#play = null;
    this.#track(this.#finish(recording, !reachable));
  }

  #track(finishing: Promise<void>): void {
    this.#finishing.add(finishing);
    void finishing.finally(() => this.#finishing.delete(finishing));
  }

  async #finish(recording: CallRecording, lost: boolean): Promise<void> {
    try {
      const { durationMs, reason, ...place } = await recording.finish(this.#now, lost);
      this.#options.post(changed("finished", place, durationMs, reason));
    } catch (error) {
      this.#failed(codeOf(error, "internal"), error);
    }
  }

  /** Resolves when every recording of the call is rendered or has failed. */
  async finished(): Promise<void> {
    await Promise.all(this.#finishing);
  }

  #failed(reason: string, error?: unknown): void {
    const { log, call } = this.#options;
    const fields = { call, reason, ...(error === undefined ? {} : { error: messageOf(error) }) };
    log.warn(fields, "a recording failed");
    this.#options.post(changed("failed", { file: null, url: null }, null, reason));
  }
}

const nothing = (): void => {};

function sameLaws(a: ReadonlyMap<number, G711Law>, b: ReadonlyMap<number, G711Law>): boolean {
  return a.size === b.size && [...a].every(([payloadType, law]) => b.get(payloadType) === law);
}

function changed(
  state: Extract<CallEvent, { readonly type: "recording.changed" }>["state"],
  place: { readonly file: string | null; readonly url: string | null },
  durationMs: number | null = null,
  reason: string | null = null,
): CallEvent {
  return { type: "recording.changed", state, ...place, durationMs, reason };
}
