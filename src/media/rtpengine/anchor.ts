import type { Prompt, TalkPhase } from "../../call/effect.ts";
import type { CallEvent } from "../../call/event.ts";
import type { CallId, ExchangeId, LegId, PlayId, Sdp } from "../../call/ids.ts";
import type { MediaAnchor, RecordingOrder } from "../../call/ports.ts";
import { type CallerSounds, usualSounds } from "../../call/setup.ts";
import { CountingClock } from "../../lib/counting-clock.ts";
import type { Tone } from "../audio/tones.ts";
import { messageOf } from "../media-error.ts";
import type { MediaOptions } from "../options.ts";
import { PromptLibrary } from "../prompts/library.ts";
import type { ReadyPrompt } from "../prompts/library.ts";
import { Recorder } from "../recording/recorder.ts";
import type { RecoveredRecording } from "../recording/recorder.ts";
import { createSpeech } from "../tts/speech.ts";
import { WorkerPool } from "../worker/pool.ts";
import { AnchoredCall, ngCallPrefix } from "./anchored-call.ts";
import type { Waiting } from "./backdrop.ts";
import { DtmfReceiver } from "./dtmf.ts";
import { InstancePool } from "./instances.ts";
import type { Instance } from "./instances.ts";
import { NgClient, NgError } from "./ng.ts";

/** What a caller on hold hears where the channel has no music of its own: a slow broken chord. */
const melody: readonly Tone[] = [
  ...[392, 494, 587, 784, 587, 494].map((hz): Tone => ({ frequenciesHz: [hz], ms: 400 })),
  ...[349, 440, 523, 698, 523, 440].map((hz): Tone => ({ frequenciesHz: [hz], ms: 400 })),
];

const conversionWorkers = 2;
const mostWaitingConversions = 256;
const workerIdleMs = 60_000;
/** Between two looks at recordings of other processes whose calls still went on. */
const usualLookAgainMs = 60_000;
/** Time for open calls to end when the service does. */
const closingMs = 10_000;
/** Calls that one rtpengine is asked for. */
const mostListed = 100_000;

export interface MediaStats {
  readonly calls: number;
  /** Commands of all calls that wait or run. */
  readonly queued: number;
  /** Timers of calls; health checks of instances and looks at what other processes have left are not counted. */
  readonly timers: number;
  /** Replies that came late or twice. */
  readonly strayReplies: number;
  readonly preparingPrompts: number;
  readonly promptsInUse: number;
  readonly recordings: number;
  readonly rendering: number;
  readonly waitingForRendering: number;
}

/** The media anchor on rtpengine. Made by `startRtpengineAnchor`. */
export class RtpengineAnchor implements MediaAnchor, AsyncDisposable {
  readonly #options: MediaOptions;
  readonly #clock: CountingClock;
  readonly #ng: NgClient;
  readonly #instances: InstancePool;
  readonly #dtmf: DtmfReceiver;
  readonly #library: PromptLibrary;
  readonly #converters: WorkerPool;
  readonly #recorder: Recorder | null;
  readonly #calls = new Map<CallId, AnchoredCall>();
  /** The same calls by their name in rtpengine. */
  readonly #byNgCall = new Map<string, AnchoredCall>();
  readonly #waitingForEnd = new Set<() => void>();
  #usual: Readonly<Record<Waiting, ReadyPrompt>> | null = null;
  /** Ends the waiting of a recovery. */
  readonly #closing = new AbortController();
  #nextLook: { cancel(): void } | undefined;
  #closed = false;

  constructor(options: MediaOptions) {
    this.#options = options;
    const { log, clock } = options;
    this.#clock = new CountingClock(clock, (error) => log.error({ error: messageOf(error) }, "a media timer failed"));
    this.#ng = new NgClient(options.commandTimeoutMs, log);
    this.#instances = new InstancePool({
      instances: options.instances,
      ng: this.#ng,
      pingMs: options.pingMs,
      lostAfterMs: options.lostAfterMs,
      clock,
      log,
      onLost: (instance) => this.#callsOf(instance).forEach((call) => call.lose("rtpengine does not answer")),
      onBack: (instance) => this.#callsOf(instance).forEach((call) => call.verify()),
    });
    this.#dtmf = new DtmfReceiver(log, ({ callId, tag, digit, durationMs }) => {
      this.#byNgCall.get(callId)?.digit(tag, digit, durationMs);
    });
    this.#converters = new WorkerPool({
      size: conversionWorkers,
      mostWaiting: mostWaitingConversions,
      jobTimeoutMs: options.prompts.timeoutMs,
      idleMs: workerIdleMs,
      clock,
      log,
    });
    const speech = createSpeech(options.speech, log);
    this.#library = new PromptLibrary({ ...options.prompts, speech, workers: this.#converters, clock, log });
    this.#recorder = options.recording === null ? null : new Recorder({ ...options.recording, clock, log });
  }

  /** Rejects when the socket for key presses cannot be bound or the prompt cache cannot be used. */
  async start(): Promise<void> {
    const { dtmf, ringback } = this.#options;
    await this.#recorder?.start();
    await this.#library.start();
    const [ringing, held] = await Promise.all([
      this.#library.prepareTones(ringback),
      this.#library.prepareTones(melody),
    ]);
    this.#usual = { ringing, held };
    await this.#dtmf.start(dtmf.address, dtmf.port);
    await this.#instances.start();
  }

  /** True when a new call can be anchored. */
  ready(): boolean {
    return !this.#closed && this.#usual !== null && this.#instances.anyHealthy;
  }

  /** The port that key presses are expected on, for rtpengine's `--dtmf-log-dest`. */
  get dtmfPort(): number {
    return this.#dtmf.port;
  }

  /** Everything but `strayReplies` is zero when no call is open and nothing is being rendered. */
  stats(): MediaStats {
    const prompts = this.#library.stats();
    const recordings = this.#recorder?.stats() ?? { active: 0, rendering: 0, waiting: 0 };
    return {
      calls: this.#calls.size,
      queued: [...this.#calls.values()].reduce((sum, call) => sum + call.queued, 0),
      timers: this.#clock.running,
      strayReplies: this.#ng.strays,
      preparingPrompts: prompts.preparing,
      promptsInUse: prompts.inUse - (this.#usual === null ? 0 : 2),
      recordings: recordings.active,
      rendering: recordings.rendering,
      waitingForRendering: recordings.waiting,
    };
  }

  /**
   * Renders the recordings that a crashed process has left, and looks again later while there are some whose calls still go
   * on in rtpengine: those of another process that is running, or of one that died while its callers stayed. Gives what
   * was recovered at once. Never rejects.
   */
  async recoverSpool(): Promise<readonly RecoveredRecording[]> {
    const recorder = this.#recorder;
    if (recorder === null || this.#closed) return [];
    this.#nextLook?.cancel();
    const folders = new Set(this.#instances.all().map((instance) => this.#spoolFolderOf(instance)));
    const recovered: RecoveredRecording[] = [];
    let left = 0;
    for (const folder of folders) {
      const recovery = await recorder.recover(folder, {
        isOver: (ngCall) => this.#isOver(ngCall, folder),
        pause: () => this.#pauseBeforeRecovery(),
      });
      recovered.push(...recovery.recovered);
      left += recovery.left;
    }
    if (left > 0 && !this.#closing.signal.aborted) {
      const lookAgainMs = this.#options.recording?.lookAgainMs ?? usualLookAgainMs;
      this.#nextLook?.cancel();
      this.#nextLook = this.#options.clock.after(lookAgainMs, () => void this.recoverSpool());
    }
    return recovered;
  }

  /**
   * Calls of an earlier process, whose legs are being ended: rtpengine would hold their ports, and their recordings, until
   * its own timeout. Never rejects.
   */
  async releaseLeft(calls: readonly string[]): Promise<void> {
    if (calls.length === 0) return;
    for (const instance of this.#instances.all()) {
      try {
        const { calls: known } = await this.#ng.request(instance, "list", { limit: mostListed });
        const held = Array.isArray(known) ? known.filter((id): id is string => typeof id === "string") : [];
        const left = held.filter((id) => calls.some((call) => id.startsWith(ngCallPrefix(call))));
        for (const id of left) await this.#ng.request(instance, "delete", { "call-id": id, "delete-delay": 0 });
      } catch (error) {
        this.#options.log.warn(
          { error: messageOf(error) },
          "rtpengine could not be told that calls of a crash are over",
        );
      }
    }
  }

  /** False too when an rtpengine that writes to this folder cannot be asked. */
  async #isOver(ngCall: string, folder: string): Promise<boolean> {
    const answers = await Promise.all(
      this.#instances.all().map(async (instance) => {
        try {
          await this.#ng.request(instance, "query", { "call-id": ngCall });
          return false;
        } catch (error) {
          const unknown = error instanceof NgError && error.unknownCall;
          return unknown || this.#spoolFolderOf(instance) !== folder;
        }
      }),
    );
    return answers.every(Boolean);
  }

  /** As long as another process may take to see that its call is gone, and to claim the recording's log. */
  async #pauseBeforeRecovery(): Promise<boolean> {
    const { signal } = this.#closing;
    const { clock, watchMs, commandTimeoutMs } = this.#options;
    if (signal.aborted) return false;
    return new Promise((resolve) => {
      const stop = (): void => {
        timer.cancel();
        resolve(false);
      };
      const timer = clock.after(2 * (watchMs + commandTimeoutMs), () => {
        signal.removeEventListener("abort", stop);
        resolve(true);
      });
      signal.addEventListener("abort", stop, { once: true });
    });
  }

  #spoolFolderOf(instance: Instance): string {
    return instance.spoolFolder ?? this.#options.recording?.spoolFolder ?? "";
  }

  #callsOf(instance: Instance): readonly AnchoredCall[] {
    return [...this.#calls.values()].filter((call) => call.instance === instance);
  }

  /** Posts after the method that caused it has returned, as every other event does. */
  #postSoon(call: CallId, event: CallEvent): void {
    setImmediate(() => this.#post(call, event));
  }

  #post(call: CallId, event: CallEvent): boolean {
    try {
      return this.#options.post(call, event);
    } catch (error) {
      this.#options.log.error({ call, event: event.type, error: messageOf(error) }, "an event was not taken");
      return false;
    }
  }

  open(call: CallId, leg: LegId, offer: Sdp, recording: RecordingOrder, sounds: CallerSounds = usualSounds): void {
    const { limits, parkingAddress, watchMs, callerTimeoutMs, log } = this.#options;
    const usual = this.#usual;
    if (this.#calls.has(call)) {
      log.error({ call }, "a call was opened twice");
      return;
    }
    if (usual === null || this.#closed || this.#calls.size >= limits.mostCalls) {
      const reason = this.#calls.size >= limits.mostCalls ? "overloaded" : "not ready";
      this.#postSoon(call, { type: "media.openFailed", incompatible: false, reason });
      return;
    }
    const anchored: AnchoredCall = new AnchoredCall({
      call,
      caller: leg,
      order: recording,
      ng: this.#ng,
      chooseInstance: (except) => this.#instances.choose(except),
      recorder: this.#recorder,
      spoolFolder: this.#options.recording?.spoolFolder ?? "",
      parkingAddress,
      watchMs,
      mostQueued: limits.mostQueuedPerCall,
      mostLegs: limits.mostLegsPerCall,
      clock: this.#clock,
      log,
      prepare: (prompt) => this.#library.prepare(prompt),
      sounds,
      usualSounds: usual,
      callerTimeoutMs,
      post: (event) => this.#post(call, event),
      onClosed: () => {
        this.#calls.delete(call);
        this.#byNgCall.delete(anchored.ngCall);
        if (this.#calls.size === 0) for (const resolve of this.#waitingForEnd) resolve();
      },
    });
    this.#calls.set(call, anchored);
    this.#byNgCall.set(anchored.ngCall, anchored);
    anchored.open(offer);
  }

  play(call: CallId, play: PlayId, leg: LegId, prompt: Prompt): void {
    const anchored = this.#calls.get(call);
    if (anchored !== undefined) anchored.play(play, leg, prompt);
    else this.#postSoon(call, { type: "media.played", play, result: "failed", reason: "not_open" });
  }

  stop(call: CallId, leg: LegId): void {
    this.#calls.get(call)?.stop(leg);
  }

  ringback(call: CallId, on: boolean): void {
    this.#calls.get(call)?.ringback(on);
  }

  offer(call: CallId, leg: LegId): void {
    const anchored = this.#calls.get(call);
    if (anchored !== undefined) anchored.offer(leg);
    else this.#postSoon(call, { type: "media.legFailed", leg, reason: "not_open" });
  }

  early(call: CallId, leg: LegId, answer: Sdp): void {
    this.#calls.get(call)?.early(leg, answer);
  }

  renew(call: CallId, leg: LegId, answer: Sdp): void {
    this.#calls.get(call)?.renew(leg, answer);
  }

  consult(call: CallId, leg: LegId, answer: Sdp): void {
    const anchored = this.#calls.get(call);
    if (anchored !== undefined) anchored.consult(leg, answer);
    else this.#postSoon(call, { type: "media.legFailed", leg, reason: "not_open" });
  }

  join(call: CallId, leg: LegId, answer: Sdp): void {
    const anchored = this.#calls.get(call);
    if (anchored !== undefined) anchored.join(leg, answer);
    else this.#postSoon(call, { type: "media.legFailed", leg, reason: "not_open" });
  }

  aside(call: CallId, leg: LegId, on: boolean): void {
    this.#calls.get(call)?.aside(leg, on);
  }

  drop(call: CallId, leg: LegId): void {
    this.#calls.get(call)?.drop(leg);
  }

  update(call: CallId, leg: LegId, exchange: ExchangeId, offer: Sdp | null): void {
    const anchored = this.#calls.get(call);
    if (anchored !== undefined) anchored.update(leg, exchange, offer);
    else this.#postSoon(call, { type: "media.updateFailed", leg, exchange });
  }

  phase(call: CallId, phase: TalkPhase): void {
    this.#calls.get(call)?.phase(phase);
  }

  recording(call: CallId, to: "start" | "pause" | "resume" | "stop"): void {
    this.#calls.get(call)?.recording(to);
  }

  close(call: CallId): void {
    const anchored = this.#calls.get(call);
    if (anchored !== undefined) anchored.close();
    else this.#postSoon(call, { type: "media.closed" });
  }

  /**
   * Ends every call, waits a while for their recordings and releases everything. Calls must not be left open in rtpengine:
   * 10.5 crashes when it is stopped while it captures.
   */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#closing.abort();
    this.#nextLook?.cancel();
    for (const call of this.#calls.values()) call.close();
    if (this.#calls.size > 0) await this.#end();
    this.#instances.close();
    if (this.#usual !== null) for (const ready of Object.values(this.#usual)) ready.release();
    await this.#dtmf.close();
    await this.#recorder?.close();
    await this.#converters.close();
    this.#ng.close();
  }

  async #end(): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = this.#clock.after(closingMs, () => done());
      const done = (): void => {
        timer.cancel();
        this.#waitingForEnd.delete(done);
        resolve();
      };
      this.#waitingForEnd.add(done);
    });
  }
}

/** Makes a media anchor and starts it. Rejects when it cannot run at all; an rtpengine that is away is waited for. */
export async function startRtpengineAnchor(options: MediaOptions): Promise<RtpengineAnchor> {
  const anchor = new RtpengineAnchor(options);
  try {
    await anchor.start();
    return anchor;
  } catch (error) {
    await anchor[Symbol.asyncDispose]();
    throw error;
  }
}
