import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { access, mkdir, readdir, readFile, rename, stat, statfs, utimes } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { TalkPhase } from "../../call/effect.ts";
import type { RecordingOrder } from "../../call/ports.ts";
import type { G711Law } from "../audio/g711.ts";
import { codeOf, MediaError, messageOf } from "../media-error.ts";
import type { MediaClock, MediaLog, RecordingOptions } from "../options.ts";
import type { RenderedRecording } from "../worker/job.ts";
import { WorkerPool } from "../worker/pool.ts";
import { claimMark, journalEnding, journalFolderName, journalStem, JournalWriter, parseJournal } from "./journal.ts";
import type { JournalLine } from "./journal.ts";

const workerIdleMs = 10_000;
/** Far more than an hour's call needs; a job that is still not done hangs on its disk. */
const renderTimeoutMs = 30 * 60 * 1_000;
/** Whoever claimed a log so long ago has died or has failed with it. Rendering takes half of that at most. */
const staleClaimMs = 60 * 60 * 1_000;
const spoolMode = 0o750;
const usualLeastFreeBytes = 100 * 1_024 * 1_024;

export interface RecorderOptions extends RecordingOptions {
  readonly clock: MediaClock;
  readonly log: MediaLog;
}

/** Text in the form that file names and rtpengine's call-ids can have without any escaping. */
export function safeName(text: string): string {
  return text.replaceAll(/[^A-Za-z0-9-]/g, "-").slice(0, 80);
}

/** One recording while it is made: everything that the packets do not tell goes into its log. Nothing here throws. */
export class CallRecording {
  /** Where the finished recording will be. */
  readonly file: string;
  readonly spoolFolder: string;
  readonly #journal: JournalWriter;
  readonly #render: (flushed: Promise<void>) => Promise<RenderedRecording>;
  #lastPlay = 0;

  constructor(
    file: string,
    spoolFolder: string,
    journal: JournalWriter,
    render: (flushed: Promise<void>) => Promise<RenderedRecording>,
  ) {
    this.file = file;
    this.spoolFolder = spoolFolder;
    this.#journal = journal;
    this.#render = render;
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

  captured(file: string): void {
    this.#journal.write({ type: "capture", file });
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

  /** Ends the recording and renders it. Rejects with a MediaError or the system's error. */
  async finish(at: number): Promise<RenderedRecording> {
    this.#journal.write({ type: "end", at });
    return this.#render(this.#journal.flush());
  }
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
    captureFolder = "pcaps",
  ): Promise<CallRecording> {
    const { folder, clock } = this.#options;
    await access(folder, constants.W_OK).catch((error: unknown) => {
      throw new MediaError("no_recording_folder", "the recording folder cannot be written", { cause: error });
    });
    const journalFolder = join(spoolFolder, journalFolderName);
    try {
      await access(join(spoolFolder, captureFolder), constants.W_OK);
      await mkdir(journalFolder, { recursive: true, mode: spoolMode });
    } catch (error) {
      throw new MediaError("no_spool", "the media server's recording folder cannot be used", { cause: error });
    }
    await this.#checkFree(folder);
    await this.#checkFree(spoolFolder);
    const startedAt = new Date(clock.wallMs()).toISOString().replaceAll(/[-:.]/g, "");
    const name = `${safeName(callId)}-${startedAt}`;
    const journal = new JournalWriter(journalFolder, name, (error) => {
      this.#options.log.warn({ call: callId, error: messageOf(error) }, "a prompt will be missing in a recording");
    });
    const stem = journalStem(journal.path);
    this.#active.add(stem);
    const { botId, caller, called } = order;
    journal.write({ type: "open", v: 1, callId, ngCall, botId, caller, called, name });
    return new CallRecording(join(folder, `${name}.wav`), spoolFolder, journal, async (flushed) => {
      try {
        await flushed;
        const claimed = await this.#claim(journal.path);
        if (claimed === undefined) throw new MediaError("journal_taken", "the log is gone");
        return await this.#render(claimed, spoolFolder);
      } finally {
        this.#active.delete(stem);
      }
    });
  }

  async #checkFree(folder: string): Promise<void> {
    const { bavail, bsize } = await statfs(folder);
    const least = this.#options.leastFreeBytes ?? usualLeastFreeBytes;
    if (bavail * bsize < least) throw new MediaError("disk_full", `less than ${least} bytes are free`);
  }

  /** Renders a log that this process has claimed. */
  async #render(claimed: string, spoolFolder: string): Promise<RenderedRecording> {
    this.#claims.add(claimed);
    try {
      const { folder } = this.#options;
      const recording = await this.#workers.run({ type: "render", journal: claimed, spoolFolder, folder });
      this.#claims.delete(claimed);
      return recording;
    } catch (error) {
      // What was not even tried is anybody's again at once; what failed is only tried again when the claim is stale.
      if (codeOf(error, "") === "overloaded") await giveBack(claimed);
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
    if (over.length === 0 || !(await pause())) return { recovered: [], left: left + over.length };
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
      const recording = await this.#render(claimed, spoolFolder);
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
