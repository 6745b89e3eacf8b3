import { constants } from "node:fs";
import { access, mkdir, readdir, readFile, statfs } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { TalkPhase } from "../../call/effect.ts";
import type { RecordingOrder } from "../../call/ports.ts";
import type { G711Law } from "../audio/g711.ts";
import { MediaError, messageOf } from "../media-error.ts";
import type { MediaClock, MediaLog, RecordingOptions } from "../options.ts";
import type { RenderedRecording } from "../worker/job.ts";
import { WorkerPool } from "../worker/pool.ts";
import { journalEnding, journalFolderName, JournalWriter, parseJournal } from "./journal.ts";

const workerIdleMs = 10_000;
/** Far more than an hour's call needs; a job that is still not done hangs on its disk. */
const renderTimeoutMs = 30 * 60 * 1_000;
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

/** Makes recordings of captured packets and logs; renders them one after another in workers of low priority. */
export class Recorder {
  readonly #options: RecorderOptions;
  readonly #workers: WorkerPool;
  /** Logs that this run writes to; everything else in the spool was left by an earlier one. */
  readonly #active = new Set<string>();

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
   * written, `no_spool` when rtpengine's folder is not there or not ours to write in, `disk_full` when too little is free.
   */
  async open(callId: string, order: RecordingOrder, spoolFolder: string): Promise<CallRecording> {
    const { folder, clock } = this.#options;
    await access(folder, constants.W_OK).catch((error: unknown) => {
      throw new MediaError("no_recording_folder", "the recording folder cannot be written", { cause: error });
    });
    const journalFolder = join(spoolFolder, journalFolderName);
    try {
      await access(join(spoolFolder, "pcaps"), constants.W_OK);
      await mkdir(journalFolder, { recursive: true, mode: spoolMode });
    } catch (error) {
      throw new MediaError("no_spool", "rtpengine's recording folder cannot be used", { cause: error });
    }
    await this.#checkFree(folder);
    await this.#checkFree(spoolFolder);
    const startedAt = new Date(clock.wallMs()).toISOString().replaceAll(/[-:.]/g, "");
    const name = `${safeName(callId)}-${startedAt}`;
    const journal = new JournalWriter(journalFolder, name, (error) => {
      this.#options.log.warn({ call: callId, error: messageOf(error) }, "a prompt will be missing in a recording");
    });
    this.#active.add(journal.path);
    const { botId, caller, called } = order;
    journal.write({ type: "open", v: 1, callId, botId, caller, called, name });
    return new CallRecording(join(folder, `${name}.wav`), spoolFolder, journal, async (flushed) => {
      try {
        await flushed;
        return await this.#render(journal.path, spoolFolder);
      } finally {
        this.#active.delete(journal.path);
      }
    });
  }

  async #checkFree(folder: string): Promise<void> {
    const { bavail, bsize } = await statfs(folder);
    const least = this.#options.leastFreeBytes ?? usualLeastFreeBytes;
    if (bavail * bsize < least) throw new MediaError("disk_full", `less than ${least} bytes are free`);
  }

  async #render(journal: string, spoolFolder: string): Promise<RenderedRecording> {
    return this.#workers.run({ type: "render", journal, spoolFolder, folder: this.#options.folder });
  }

  /** Renders what an earlier run has left in a spool. Never rejects. */
  async recover(spoolFolder: string): Promise<readonly RecoveredRecording[]> {
    const folder = join(spoolFolder, journalFolderName);
    const names = await readdir(folder).catch(() => []);
    const recovered: RecoveredRecording[] = [];
    for (const name of names.filter((candidate) => candidate.endsWith(journalEnding)).sort()) {
      const journal = join(folder, name);
      if (this.#active.has(journal)) continue;
      this.#active.add(journal);
      recovered.push(await this.#recoverOne(journal, spoolFolder).finally(() => this.#active.delete(journal)));
    }
    return recovered;
  }

  async #recoverOne(journal: string, spoolFolder: string): Promise<RecoveredRecording> {
    let callId: string | null = null;
    try {
      const opened = parseJournal(await readFile(journal, "utf8"))[0];
      callId = opened?.type === "open" ? opened.callId : null;
      return { ok: true, callId: callId ?? "", recording: await this.#render(journal, spoolFolder) };
    } catch (error) {
      const code = error instanceof MediaError ? error.code : "internal";
      this.#options.log.warn({ code, error: messageOf(error) }, "a recording of an earlier run could not be rendered");
      return { ok: false, callId, code, message: messageOf(error) };
    }
  }

  async close(): Promise<void> {
    await this.#workers.close();
  }
}
