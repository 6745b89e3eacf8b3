import type { Prompt, TalkPhase } from "../../call/effect.ts";
import type { CallEvent } from "../../call/event.ts";
import type { CallId, ExchangeId, LegId, PlayId, Sdp } from "../../call/ids.ts";
import type { CallerPolicy, MediaAnchor, RecordingOrder } from "../../call/ports.ts";
import { type KeyPolicy, usualKeys, usualSounds } from "../../call/setup.ts";
import { CountingClock } from "../../lib/counting-clock.ts";
import type { Tone } from "../audio/tones.ts";
import { messageOf } from "../media-error.ts";
import type { AnchorOptions } from "../options.ts";
import { PromptLibrary } from "../prompts/library.ts";
import type { ReadyPrompt } from "../prompts/library.ts";
import { Recorder } from "../recording/recorder.ts";
import type { RecoveredRecording } from "../recording/recorder.ts";
import { createSpeech } from "../tts/speech.ts";
import { WorkerPool } from "../worker/pool.ts";
import type { Waiting } from "./backdrop.ts";
import type { SwitchedCallOptions } from "./call-options.ts";
import type { SwitchedCall } from "./switched-call.ts";

/** What a caller on hold hears where the channel has no music of its own: a slow broken chord. */
const melody: readonly Tone[] = [
  ...[392, 494, 587, 784, 587, 494].map((hz): Tone => ({ frequenciesHz: [hz], ms: 400 })),
  ...[349, 440, 523, 698, 523, 440].map((hz): Tone => ({ frequenciesHz: [hz], ms: 400 })),
];

const usualPolicy: CallerPolicy = { sounds: usualSounds, keys: usualKeys };
const conversionWorkers = 2;
const mostWaitingConversions = 256;
const workerIdleMs = 60_000;
/** Between two looks at recordings of other processes whose calls still went on. */
const usualLookAgainMs = 60_000;
/** Time for open calls to end when the service does. */
const closingMs = 10_000;

export interface MediaStats {
  readonly calls: number;
  /** Commands of all calls that wait or run. */
  readonly queued: number;
  /** Timers of calls; health checks of media servers and looks at what other processes have left are not counted. */
  readonly timers: number;
  /** Replies that came late or twice. */
  readonly strayReplies: number;
  readonly preparingPrompts: number;
  readonly promptsInUse: number;
  readonly recordings: number;
  readonly rendering: number;
  readonly waitingForRendering: number;
}

/** One media server as it is told to people and monitors. */
export interface AnchorState {
  readonly name: string;
  readonly healthy: boolean;
  readonly calls: number;
}

/** Any of the anchors. */
export type Anchor = SwitchingAnchor<SwitchedCall>;

/** What is the same for every media anchor: the calls by their names, prompts, recordings, and how it ends. */
export abstract class SwitchingAnchor<C extends SwitchedCall> implements MediaAnchor, AsyncDisposable {
  protected readonly clock: CountingClock;
  protected readonly calls = new Map<CallId, C>();
  readonly #options: AnchorOptions;
  readonly #library: PromptLibrary;
  readonly #converters: WorkerPool;
  readonly #recorder: Recorder | null;
  readonly #waitingForEnd = new Set<() => void>();
  #usual: Readonly<Record<Waiting, ReadyPrompt>> | null = null;
  /** Ends the waiting of a recovery. */
  readonly #closing = new AbortController();
  #nextLook: { cancel(): void } | undefined;
  #closed = false;

  constructor(options: AnchorOptions) {
    this.#options = options;
    const { log, clock } = options;
    this.clock = new CountingClock(clock, (error) => log.error({ error: messageOf(error) }, "a media timer failed"));
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
    this.#recorder =
      options.recording === null
        ? null
        : new Recorder({ ...options.recording, clock, log, onLeft: () => this.#lookLater() });
  }

  /** Makes one call; nothing is sent before its `open`. */
  protected abstract newCall(options: SwitchedCallOptions): C;
  /** The call is held no more. */
  protected forget(_call: C): void {}
  /** The media servers by their addresses, with the calls of ours that each holds. */
  abstract anchors(): readonly AnchorState[];
  protected abstract startServers(): Promise<void>;
  /** No call is watched any more. */
  protected abstract stopServers(): void;
  /** Lets go of everything, after the calls have ended. */
  protected abstract closeServers(): Promise<void>;
  /** A new call would find a media server. */
  protected abstract get anyServer(): boolean;
  protected abstract get strayReplies(): number;
  protected abstract get spoolFolders(): ReadonlySet<string>;
  /** Whether the call with that name is certainly over. False too when that cannot be found out. Never rejects. */
  protected abstract isOver(name: string, spoolFolder: string): Promise<boolean>;

  /**
   * Calls of an earlier process whose legs are being ended: the media server would hold their ports, and their recordings,
   * until its own timeout. Never rejects.
   */
  abstract releaseLeft(calls: readonly string[]): Promise<void>;

  /** Rejects when what it needs of this machine is taken, or the prompt cache cannot be used. */
  async start(): Promise<void> {
    const { ringback } = this.#options;
    await this.#recorder?.start();
    await this.#library.start();
    const [ringing, held] = await Promise.all([
      this.#library.prepareTones(ringback),
      this.#library.prepareTones(melody),
    ]);
    this.#usual = { ringing, held };
    await this.startServers();
  }

  /** True when a new call can be anchored. */
  ready(): boolean {
    return !this.#closed && this.#usual !== null && this.anyServer;
  }

  /** Everything but `strayReplies` is zero when no call is open and nothing is being rendered. */
  stats(): MediaStats {
    const prompts = this.#library.stats();
    const recordings = this.#recorder?.stats() ?? { active: 0, rendering: 0, waiting: 0 };
    return {
      calls: this.calls.size,
      queued: [...this.calls.values()].reduce((sum, call) => sum + call.queued, 0),
      timers: this.clock.running,
      strayReplies: this.strayReplies,
      preparingPrompts: prompts.preparing,
      promptsInUse: prompts.inUse - (this.#usual === null ? 0 : 2),
      recordings: recordings.active,
      rendering: recordings.rendering,
      waitingForRendering: recordings.waiting,
    };
  }

  /**
   * Renders the recordings that a crashed process has left, and looks again later while there are some whose calls still go
   * on in the media server: those of another process that is running, or of one that died while its callers stayed. Gives
   * what was recovered at once. Never rejects.
   */
  async recoverSpool(): Promise<readonly RecoveredRecording[]> {
    const recorder = this.#recorder;
    if (recorder === null || this.#closed) return [];
    this.#nextLook?.cancel();
    const recovered: RecoveredRecording[] = [];
    let left = 0;
    for (const folder of this.spoolFolders) {
      const recovery = await recorder.recover(folder, {
        isOver: (name) => this.isOver(name, folder),
        pause: () => this.#pauseBeforeRecovery(),
      });
      recovered.push(...recovery.recovered);
      left += recovery.left;
    }
    if (left > 0) this.#lookLater();
    return recovered;
  }

  #lookLater(): void {
    if (this.#closing.signal.aborted) return;
    const lookAgainMs = this.#options.recording?.lookAgainMs ?? usualLookAgainMs;
    this.#nextLook?.cancel();
    this.#nextLook = this.#options.clock.after(lookAgainMs, () => void this.recoverSpool());
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

  open(
    call: CallId,
    leg: LegId,
    offer: Sdp,
    recording: RecordingOrder,
    { sounds, keys }: CallerPolicy = usualPolicy,
  ): void {
    const { limits, log, watchMs, callerTimeoutMs, talkTimeoutMs } = this.#options;
    const usual = this.#usual;
    if (this.calls.has(call)) {
      log.error({ call }, "a call was opened twice");
      return;
    }
    if (usual === null || this.#closed || this.calls.size >= limits.mostCalls) {
      const reason = this.calls.size >= limits.mostCalls ? "overloaded" : "not ready";
      this.#postSoon(call, { type: "media.openFailed", incompatible: false, reason });
      return;
    }
    const switched: C = this.newCall({
      call,
      caller: leg,
      order: recording,
      sounds,
      callerKeys: keys,
      usualSounds: usual,
      prepare: (prompt) => this.#library.prepare(prompt),
      recorder: this.#recorder,
      spoolFolder: this.#options.recording?.spoolFolder ?? "",
      watchMs,
      mostQueued: limits.mostQueuedPerCall,
      mostLegs: limits.mostLegsPerCall,
      clock: this.clock,
      log,
      callerTimeoutMs,
      talkTimeoutMs,
      post: (event) => this.#post(call, event),
      onClosed: () => {
        this.calls.delete(call);
        this.forget(switched);
        if (this.calls.size === 0) for (const resolve of this.#waitingForEnd) resolve();
      },
    });
    this.calls.set(call, switched);
    switched.open(offer);
  }

  play(call: CallId, play: PlayId, leg: LegId, prompt: Prompt): void {
    const switched = this.calls.get(call);
    if (switched !== undefined) switched.play(play, leg, prompt);
    else this.#postSoon(call, { type: "media.played", play, result: "failed", reason: "not_open" });
  }

  stop(call: CallId, leg: LegId): void {
    this.calls.get(call)?.stop(leg);
  }

  ringback(call: CallId, on: boolean): void {
    this.calls.get(call)?.ringback(on);
  }

  offer(call: CallId, leg: LegId, keys: KeyPolicy = usualKeys): void {
    const switched = this.calls.get(call);
    if (switched !== undefined) switched.offer(leg, keys);
    else this.#postSoon(call, { type: "media.legFailed", leg, reason: "not_open" });
  }

  early(call: CallId, leg: LegId, answer: Sdp): void {
    this.calls.get(call)?.early(leg, answer);
  }

  renew(call: CallId, leg: LegId, answer: Sdp, taken: boolean): void {
    this.calls.get(call)?.renew(leg, answer, taken);
  }

  consult(call: CallId, leg: LegId, answer: Sdp): void {
    const switched = this.calls.get(call);
    if (switched !== undefined) switched.consult(leg, answer);
    else this.#postSoon(call, { type: "media.legFailed", leg, reason: "not_open" });
  }

  join(call: CallId, leg: LegId, answer: Sdp): void {
    const switched = this.calls.get(call);
    if (switched !== undefined) switched.join(leg, answer);
    else this.#postSoon(call, { type: "media.legFailed", leg, reason: "not_open" });
  }

  aside(call: CallId, leg: LegId, on: boolean): void {
    this.calls.get(call)?.aside(leg, on);
  }

  drop(call: CallId, leg: LegId): void {
    this.calls.get(call)?.drop(leg);
  }

  update(call: CallId, leg: LegId, exchange: ExchangeId, offer: Sdp | null): void {
    const switched = this.calls.get(call);
    if (switched !== undefined) switched.update(leg, exchange, offer);
    else this.#postSoon(call, { type: "media.updateFailed", leg, exchange });
  }

  propose(call: CallId, leg: LegId, exchange: ExchangeId, offer: Sdp): void {
    const switched = this.calls.get(call);
    if (switched !== undefined) switched.propose(leg, exchange, offer);
    else this.#postSoon(call, { type: "media.updateFailed", leg, exchange });
  }

  phase(call: CallId, phase: TalkPhase): void {
    this.calls.get(call)?.phase(phase);
  }

  recording(call: CallId, to: "start" | "pause" | "resume" | "stop"): void {
    this.calls.get(call)?.recording(to);
  }

  close(call: CallId): void {
    const switched = this.calls.get(call);
    if (switched !== undefined) switched.close();
    else this.#postSoon(call, { type: "media.closed" });
  }

  /**
   * Ends every call, waits a while for their recordings and releases everything. Calls must not be left open: rtpengine 10.5
   * crashes when it is stopped while it captures.
   */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#closing.abort();
    this.#nextLook?.cancel();
    for (const call of this.calls.values()) call.close();
    if (this.calls.size > 0) await this.#end();
    this.stopServers();
    if (this.#usual !== null) for (const ready of Object.values(this.#usual)) ready.release();
    await this.closeServers();
    await this.#recorder?.close();
    await this.#converters.close();
  }

  async #end(): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = this.clock.after(closingMs, () => done());
      const done = (): void => {
        timer.cancel();
        this.#waitingForEnd.delete(done);
        resolve();
      };
      this.#waitingForEnd.add(done);
    });
  }
}

/** Starts an anchor. Rejects when it cannot run at all, and nothing of it is left then. */
export async function startAnchor<A extends Anchor>(anchor: A): Promise<A> {
  try {
    await anchor.start();
    return anchor;
  } catch (error) {
    await anchor[Symbol.asyncDispose]();
    throw error;
  }
}
