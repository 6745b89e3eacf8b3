import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { access, mkdir, readdir, readFile, rename, stat, statfs, utimes } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import type { TalkPhase } from "../../call/effect.ts";
import type { RecordingOrder } from "../../call/ports.ts";
import type { G711Law } from "../audio/g711.ts";
import { codeOf, MediaError, messageOf } from "../media-error.ts";
import type { MediaClock, MediaLog, RecordingOptions } from "../options.ts";
import type { RenderedRecording } from "../worker/job.ts";
import { WorkerPool } from "../worker/pool.ts";
import type { Delivered } from "./delivery.ts";
import { claimMark, journalEnding, journalFolderName, journalStem, JournalWriter, parseJournal } from "./journal.ts";
import type { JournalLine } from "./journal.ts";

const workerIdleMs = 10_000;
/** Far more than an hour's call needs; a job that is still not done hangs on its disk. */
const renderTimeoutMs = 30 * 60 * 1_000;
/** Whoever claimed a log so long ago has died or has failed with it. Rendering takes half of that at most. */
const staleClaimMs = 60 * 60 * 1_000;
const spoolMode = 0o750;
const usualLeastFreeBytes = 100 * 1_024 * 1_024;
/** A caller's packets (2 s of them) after which a capture that has not grown is taken for one that nobody writes. */
const tellingPackets = 100;
/** Failures of a disk that may be mended soon; what was recorded is rendered then. */
const passingFailures: ReadonlySet<string> = new Set(["ENOSPC", "EDQUOT", "ENOENT", "EROFS", "EACCES", "overloaded"]);

export interface RecorderOptions extends RecordingOptions {
  readonly clock: MediaClock;
  readonly log: MediaLog;
  /** A recording could not be rendered and stays in the spool: it is worth looking there again later. */
  readonly onLeft: () => void;
}

/** A recording that is done. */
export interface FinishedRecording extends Delivered {
  /** Length of the audio. */
  readonly durationMs: number;
}

/** Where the finished recording will be. */
type Place = Omit<Delivered, "reason">;

/** Text in the form that file names and rtpengine's call-ids can have without any escaping. */
export function safeName(text: string): string {
  return text.replaceAll(/[^A-Za-z0-9-]/g, "-").slice(0, 80);
}

/** Below the spool folder: where rtpengine puts its captures. */
const pcapFolder = "pcaps";

interface CaptureUnderWay {
  /** The folder of the captures of the media server that writes it. */
  readonly folder: string;
  /** The name that the media server knows. */
  readonly file: string;
  /** How often it was put aside. */
  readonly asides: number;
  /** How it was when it was last seen to grow; `packets` is null before it was looked at. */
  readonly size: number;
  readonly packets: number | null;
}

/** One recording while it is made: everything that the packets do not tell goes into its log. Nothing here throws. */
export class CallRecording {
  readonly place: Place;
  readonly spoolFolder: string;
  readonly #captureFolder: string;
  readonly #journal: JournalWriter;
  readonly #leastFreeBytes: number;
  readonly #render: (flushed: Promise<string>) => Promise<FinishedRecording>;
  #lastPlay = 0;
  #capture: CaptureUnderWay | null = null;

  constructor(options: {
    readonly place: Place;
    readonly spoolFolder: string;
    /** Below it: where the media server puts what it captures. */
    readonly captureFolder: string;
    readonly journal: JournalWriter;
    /** With less room than this on the spool's disk nothing more is recorded. */
    readonly leastFreeBytes: number;
    readonly render: (flushed: Promise<string>) => Promise<FinishedRecording>;
  }) {
    this.place = options.place;
    this.spoolFolder = options.spoolFolder;
    this.#captureFolder = options.captureFolder;
    this.#journal = options.journal;
    this.#leastFreeBytes = options.leastFreeBytes;
    this.#render = options.render;
  }

  leg(at: number, leg: string, port: number, laws: ReadonlyMap<number, G711Law>): void {
    this.#journal.write({ type: "leg", at, leg, port, laws: [...laws] });
  }

  joined(at: number, leg: string): void {
    this.#journal.write({ type: "join", at, leg });
  }

  left(at: number, leg: string): void {
    this.#journal.write({ type: "leave", at, leg });
  }

  phase(at: number, phase: TalkPhase): void {
    this.#journal.write({ type: "phase", at, phase });
  }

  /**
   * The media server captures to that file of its spool. rtpengine's is put aside at once, which it does not notice: when it
   * crashes and comes back with its calls, it would begin the same file anew, and all until then would be lost. Rejects when
   * the file is not there. `spoolFolder`: that of the media server, which the call may have moved to since.
   */
  async captured(file: string, spoolFolder: string = this.spoolFolder): Promise<void> {
    const folder = join(spoolFolder, this.#captureFolder);
    await access(join(folder, file));
    this.#capture = { folder, file, asides: 0, size: 0, packets: null };
    this.#noteCapture(this.#capture, file);
    if (this.#captureFolder === pcapFolder) await this.#putAside(this.#capture);
  }

  #noteCapture({ folder }: CaptureUnderWay, name: string): void {
    const own = folder === join(this.spoolFolder, this.#captureFolder);
    this.#journal.write({ type: "capture", file: own ? name : resolve(folder, name) });
  }

  async #putAside(capture: CaptureUnderWay): Promise<void> {
    const { folder, file } = capture;
    const asides = capture.asides + 1;
    const aside = asideName(file, asides);
    // Noted first: a crash in between leaves a name without a file, which does no harm.
    this.#noteCapture(capture, aside);
    await rename(join(folder, file), join(folder, aside));
    this.#capture = { folder, file, asides, size: 0, packets: null };
  }

  /**
   * Looks whether the capture still grows; `packets`: how many have come from the caller so far, null when that is not known.
   * Resolves with why nothing more can be recorded: `disk_full`, `no_spool`, `capture_stopped`; else null. Never rejects.
   */
  async trouble(packets: number | null): Promise<string | null> {
    const capture = this.#capture;
    if (capture === null) return null;
    try {
      const { bavail, bsize } = await statfs(capture.folder);
      if (bavail * bsize < this.#leastFreeBytes) return "disk_full";
      // rtpengine has been away, and goes on in a new file.
      if (capture.asides > 0 && (await stat(join(capture.folder, capture.file)).catch(() => null)) !== null) {
        await this.#putAside(capture);
        return null;
      }
      const { size } = await stat(join(capture.folder, asideName(capture.file, capture.asides)));
      if (this.#capture !== capture || packets === null) return null;
      const before = capture.packets ?? packets;
      if (capture.packets === null || size !== capture.size || packets < before) {
        this.#capture = { ...capture, size, packets };
      }
      return size === capture.size && packets - before >= tellingPackets ? "capture_stopped" : null;
    } catch (error) {
      return codeOf(error, "") === "ENOENT" ? "no_spool" : null;
    }
  }

  run(at: number): void {
    this.#journal.write({ type: "run", at });
  }

  hold(at: number): void {
    this.#journal.write({ type: "hold", at });
  }

  /** The caller hears `file` from `at` on; what is returned names this playing in `cut`. */
  play(at: number, file: string, times: number): number {
    this.#lastPlay += 1;
    this.#journal.keepPrompt(file);
    this.#journal.write({ type: "play", at, id: this.#lastPlay, file, times });
    return this.#lastPlay;
  }

  cut(at: number, play: number): void {
    this.#journal.write({ type: "cut", at, id: play });
  }

  /** Ends the recording, `lost` when the media server is gone, and renders it. Rejects with a MediaError or the system's error. */
  async finish(at: number, lost = false): Promise<FinishedRecording> {
    this.#journal.write({ type: "end", at, ...(lost ? { lost } : {}) });
    return this.#render(this.#journal.flush());
  }
}

/** The names of captures have no tilde of their own. */
function asideName(file: string, asides: number): string {
  return asides === 0 ? file : `${basename(file, ".pcap")}~${asides}.pcap`;
}

/** A recording of an earlier run that was found in the spool. */
export type RecoveredRecording =
  | { readonly ok: true; readonly callId: string; readonly recording: RenderedRecording }
  | { readonly ok: false; readonly callId: string | null; readonly code: string; readonly message: string };

export interface Recovery {
  readonly recovered: readonly RecoveredRecording[];
  /** Logs that may be recovered later: their calls go on, or another process is rendering them. */
  readonly left: number;
}

export interface RecoveryOptions {
  /** Whether the call with that name is certainly not in rtpengine any more. Never rejects. */
  readonly isOver: (ngCall: string) => Promise<boolean>;
  /**
   * Gives a process whose call has just ended or is lost the time to notice that and to render the recording itself.
   * Resolves with false when the recovery is to be given up.
   */
  readonly pause: () => Promise<boolean>;
}

/** A log in the spool, and how it looked then: one that changes is still being written. */
interface FoundJournal {
  readonly path: string;
  readonly size: number;
  readonly mtimeMs: number;
}

/** The first line of a log; undefined when there is none of this version or the log cannot be read. */
async function readOpening(journal: string): Promise<Extract<JournalLine, { readonly type: "open" }> | undefined> {
  const text = await readFile(journal, "utf8").catch(() => "");
  const first = parseJournal(text.slice(0, text.indexOf("\n") + 1))[0];
  return first?.type === "open" ? first : undefined;
}

/** A log that is not rendered after all can be claimed by anybody. It is gone when it was rendered in the last moment. */
async function giveBack(claimed: string): Promise<void> {
  await rename(claimed, journalStem(claimed) + journalEnding).catch(() => {});
}

const succeeded = (): boolean => true;
const failed = (): boolean => false;

async function checkFree(folder: string, leastBytes: number): Promise<void> {
  const { bavail, bsize } = await statfs(folder);
  if (bavail * bsize < leastBytes) throw new MediaError("disk_full", `less than ${leastBytes} bytes are free`);
}

/** Makes recordings of captured packets and logs; renders them one after another in workers of low priority. */
export class Recorder {
  readonly #options: RecorderOptions;
  readonly #workers: WorkerPool;
  /** Stems of the logs that this process writes or renders. */
  readonly #active = new Set<string>();
  /** Claimed logs that wait for rendering or are rendered. */
  readonly #claims = new Set<string>();
  #closed = false;

  constructor(given: RecorderOptions) {
    // Bots are told the path of a finished recording: it must mean the same to everybody.
    const options = { ...given, folder: resolve(given.folder) };
    this.#options = options;
    this.#workers = new WorkerPool({
      size: options.mostRenders,
      mostWaiting: options.mostWaiting,
      jobTimeoutMs: renderTimeoutMs,
      idleMs: workerIdleMs,
      clock: options.clock,
      log: options.log,
    });
  }

  /** Makes the folders where that is possible; what is missing shows when a recording is asked for. */
  async start(): Promise<void> {
    const { folder, log } = this.#options;
    try {
      await mkdir(folder, { recursive: true, mode: spoolMode });
      await access(folder, constants.W_OK);
    } catch (error) {
      log.error({ error: messageOf(error) }, "the recording folder cannot be used: recordings will fail");
    }
  }

  stats(): { readonly active: number; readonly rendering: number; readonly waiting: number } {
    const { running, waiting } = this.#workers.stats();
    return { active: this.#active.size, rendering: running, waiting };
  }

  /**
   * Begins the log of a recording. Rejects with a MediaError `no_recording_folder` when the finished file could not be
   * written, `no_spool` when the media server's folder is not there or not ours to write in, `disk_full` when too little is
   * free.
   */
  async open(
    callId: string,
    ngCall: string,
    order: RecordingOrder,
    spoolFolder: string,
    captureFolder: string = pcapFolder,
  ): Promise<CallRecording> {
    const { folder, clock } = this.#options;
    // The slash: a file of that name will not do.
    await access(`${folder}/`, constants.W_OK).catch((error: unknown) => {
      throw new MediaError("no_recording_folder", "the recording folder cannot be written", { cause: error });
    });
    const journalFolder = join(spoolFolder, journalFolderName);
    try {
      await access(join(spoolFolder, captureFolder), constants.W_OK);
      await mkdir(journalFolder, { recursive: true, mode: spoolMode });
    } catch (error) {
      throw new MediaError("no_spool", "the media server's recording folder cannot be used", { cause: error });
    }
    const { delivery, leastFreeBytes = usualLeastFreeBytes } = this.#options;
    await checkFree(folder, leastFreeBytes);
    await checkFree(spoolFolder, leastFreeBytes);
    const startedAt = new Date(clock.wallMs()).toISOString().replaceAll(/[-:.]/g, "");
    const name = `${safeName(callId)}-${startedAt}`;
    const journal = new JournalWriter(journalFolder, name, (error) => {
      this.#options.log.warn({ call: callId, error: messageOf(error) }, "a prompt will be missing in a recording");
    });
    const stem = journalStem(journal.path);
    this.#active.add(stem);
    const { botId, caller, called } = order;
    journal.write({ type: "open", v: 1, callId, ngCall, botId, caller, called, name });
    return new CallRecording({
      place: delivery?.placeOf(name) ?? { file: join(folder, `${name}.wav`), url: null },
      spoolFolder,
      captureFolder,
      journal,
      // Lower than what a recording begins with, else every recording would end together with the first.
      leastFreeBytes: leastFreeBytes / 2,
      render: async (flushed) => {
        try {
          const unwritten = await flushed;
          const claimed = await this.#claim(journal.path);
          if (claimed === undefined) throw new MediaError("journal_taken", "the log is gone");
          const { file, durationMs } = await this.#render(claimed, spoolFolder, unwritten);
          const delivered = (await delivery?.take(name)) ?? { file, url: null, reason: null };
          return { ...delivered, durationMs };
        } finally {
          this.#active.delete(stem);
        }
      },
    });
  }

  /** Renders a log that this process has claimed. */
  async #render(claimed: string, spoolFolder: string, unwritten: string): Promise<RenderedRecording> {
    this.#claims.add(claimed);
    try {
      const { folder, delivery } = this.#options;
      const mark = delivery?.mark ?? null;
      const order = { journal: claimed, unwritten, spoolFolder, folder, mark };
      const recording = await this.#workers.run({ type: "render", ...order });
      this.#claims.delete(claimed);
      return recording;
    } catch (error) {
      // What was not even tried, or may soon be mended, is anybody's again at once; all else only when the claim is stale.
      if (passingFailures.has(codeOf(error, ""))) await giveBack(claimed);
      if (!this.#closed && codeOf(error, "") !== "no_audio") this.#options.onLeft();
      // What closing has broken off is given back when the worker has ended for certain.
      if (!this.#closed) this.#claims.delete(claimed);
      throw error;
    }
  }

  /** Makes a log ours for rendering: of several processes that try, one succeeds. Undefined when it is not there. */
  async #claim(journal: string): Promise<string | undefined> {
    const claimed = journalStem(journal) + journalEnding + claimMark + randomBytes(6).toString("hex");
    try {
      // A log keeps the time of its last line through a renaming, which would make the claim stale from the start.
      const now = new Date(this.#options.clock.wallMs());
      await utimes(journal, now, now);
      await rename(journal, claimed);
      return claimed;
    } catch (error) {
      if (codeOf(error, "") === "ENOENT") return undefined;
      throw error;
    }
  }

  /** Renders what a process that is gone has left in a spool. Never rejects. */
  async recover(spoolFolder: string, { isOver, pause }: RecoveryOptions): Promise<Recovery> {
    const before = await this.#found(spoolFolder);
    const over: FoundJournal[] = [];
    let left = before.waiting;
    for (const journal of before.journals) {
      const opened = await readOpening(journal.path);
      // A log without a first line may be one that has only just been begun.
      if (opened === undefined || (await isOver(opened.ngCall))) over.push(journal);
      else left += 1;
    }
    // Without room each try would fill the disk to its last byte before it fails.
    const { folder, leastFreeBytes = usualLeastFreeBytes } = this.#options;
    const room = over.length > 0 && (await checkFree(folder, leastFreeBytes).then(succeeded, failed));
    if (!room || !(await pause())) return { recovered: [], left: left + over.length };
    const after = new Map((await this.#found(spoolFolder)).journals.map((journal) => [journal.path, journal]));
    const recovered: RecoveredRecording[] = [];
    for (const { path, size, mtimeMs } of over) {
      const now = after.get(path);
      if (now === undefined) continue;
      const changed = now.size !== size || now.mtimeMs !== mtimeMs;
      const outcome = changed ? undefined : await this.#recoverOne(path, spoolFolder);
      if (outcome !== undefined) recovered.push(outcome);
      // Another process was faster, or will go on with it: whether anything of it stays is seen the next time.
      if (outcome?.ok !== true) left += 1;
    }
    return { recovered, left };
  }

  /** Logs that nobody has claimed, or somebody too long ago; and how many others have claimed. */
  async #found(spoolFolder: string): Promise<{ readonly journals: readonly FoundJournal[]; readonly waiting: number }> {
    const folder = join(spoolFolder, journalFolderName);
    const names = await readdir(folder).catch((): string[] => []);
    const journals: FoundJournal[] = [];
    let waiting = 0;
    for (const name of names.sort()) {
      const path = join(folder, name);
      const claimed = name.includes(journalEnding + claimMark);
      if ((!claimed && !name.endsWith(journalEnding)) || this.#active.has(journalStem(path))) continue;
      const found = await stat(path).catch(() => undefined);
      if (found === undefined) continue;
      if (claimed && this.#options.clock.wallMs() - found.mtimeMs < staleClaimMs) waiting += 1;
      else journals.push({ path, size: found.size, mtimeMs: found.mtimeMs });
    }
    return { journals, waiting };
  }

  async #recoverOne(journal: string, spoolFolder: string): Promise<RecoveredRecording | undefined> {
    const { log } = this.#options;
    const stem = journalStem(journal);
    if (this.#active.has(stem)) return undefined;
    this.#active.add(stem);
    let callId: string | null = null;
    try {
      const claimed = await this.#claim(journal);
      if (claimed === undefined) return undefined;
      callId = (await readOpening(claimed))?.callId ?? null;
      const recording = await this.#render(claimed, spoolFolder, "");
      void this.#options.delivery?.take(basename(recording.file, ".wav"));
      log.info({ call: callId }, "a recording of an earlier run was rendered");
      return { ok: true, callId: callId ?? "", recording };
    } catch (error) {
      const code = error instanceof MediaError ? error.code : "internal";
      log.warn({ code, error: messageOf(error) }, "a recording of an earlier run could not be rendered");
      return { ok: false, callId, code, message: messageOf(error) };
    } finally {
      this.#active.delete(stem);
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    await this.#workers.close();
    for (const claimed of this.#claims) await giveBack(claimed);
    this.#claims.clear();
  }
}
