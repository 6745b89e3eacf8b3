import { constants } from "node:fs";
import { copyFile, link, mkdir, open } from "node:fs/promises";
import { basename, join } from "node:path";
import type { TalkPhase } from "../../call/effect.ts";
import type { G711Law } from "../audio/g711.ts";
import { codeOf, MediaError } from "../media-error.ts";

/**
 * One line of a recording's log: what the packets alone do not tell. Times (`at`) are milliseconds since 1970. The log is
 * all that a later start needs to render what a crash has left.
 */
export type JournalLine =
  | {
      readonly type: "open";
      readonly v: 1;
      readonly callId: string;
      /** The call's name in the media server, which tells another process whether the call still goes on. */
      readonly ngCall: string;
      readonly botId: string;
      readonly caller: string;
      readonly called: string;
      /** Name of the finished files without their ending. */
      readonly name: string;
    }
  /** From here on packets to `port` are this leg's: rtpengine gives a freed port to the next one. `laws` are its payload types. */
  | {
      readonly type: "leg";
      readonly at: number;
      readonly leg: string;
      readonly port: number;
      readonly laws: readonly (readonly [number, G711Law])[];
    }
  /** From here on the caller hears the leg, or no longer. */
  | { readonly type: "join" | "leave"; readonly at: number; readonly leg: string }
  | { readonly type: "run" | "hold"; readonly at: number }
  /** The name of a file in this spool, or the whole path of one in that of another media server. */
  | { readonly type: "capture"; readonly file: string }
  | { readonly type: "phase"; readonly at: number; readonly phase: TalkPhase }
  /** The caller hears the prompt `file` of the journal's own folder, `times` times, until its end or a `cut`. */
  | {
      readonly type: "play";
      readonly at: number;
      readonly id: number;
      readonly file: string;
      readonly times: number;
    }
  | { readonly type: "cut"; readonly at: number; readonly id: number }
  /** `lost`: the media server was gone by then, so that nothing was captured of the last while. */
  | { readonly type: "end"; readonly at: number; readonly lost?: true };

/** Folder of the logs below rtpengine's recording folder. */
export const journalFolderName = "patchbay";
export const journalEnding = ".jsonl";
/** Added to the name of a log, with something random behind it, by whoever is about to render it. */
export const claimMark = ".claimed-";

/** What the paths of everything that belongs to a log begin with, whether it is claimed or not. */
export function journalStem(path: string): string {
  return path.slice(0, path.lastIndexOf(journalEnding));
}

/** Lines of a call that wait for a disk to have room again; no call has as many. */
const mostUnwritten = 100_000;

/**
 * Writes lines in order, without making anyone wait: lines that come while one write is under way go out together. What a full
 * disk does not take is tried again with the next line, and is told at the end.
 */
export class JournalWriter {
  readonly path: string;
  readonly #promptFolder: string;
  readonly #onPromptLost: (error: unknown) => void;
  readonly #kept = new Set<string>();
  #pending: string[] = [];
  #writing: Promise<void> | undefined;
  #keeping: Promise<void> = Promise.resolve();
  #taken: MediaError | undefined;
  #begun = false;
  /** Bytes of whole lines in the file. */
  #written = 0;

  /** `folder` exists already. `onPromptLost`: a prompt could not be kept and will be missing in the recording. */
  constructor(folder: string, id: string, onPromptLost: (error: unknown) => void) {
    this.#onPromptLost = onPromptLost;
    this.path = join(folder, id + journalEnding);
    this.#promptFolder = join(folder, id);
  }

  write(line: JournalLine): void {
    if (this.#pending.length >= mostUnwritten) return;
    this.#pending.push(`${JSON.stringify(line)}\n`);
    this.#writing ??= this.#drain();
  }

  async #drain(): Promise<void> {
    while (this.#pending.length > 0) {
      const lines = this.#pending;
      this.#pending = [];
      try {
        await this.#append(lines.join(""));
      } catch (error) {
        if (this.#begun && codeOf(error, "") === "ENOENT") {
          this.#taken ??= new MediaError("journal_taken", "the log is gone", { cause: error });
        }
        this.#pending = [...lines, ...this.#pending];
        break;
      }
    }
    this.#writing = undefined;
  }

  async #append(text: string): Promise<void> {
    // A log that is there no more has been taken by another process: the rest of it would be of no use by itself.
    const file = await open(this.path, this.#begun ? constants.O_WRONLY | constants.O_APPEND : "a", 0o640);
    try {
      this.#begun = true;
      // A full disk may have taken a part of the lines.
      await file.truncate(this.#written);
      await file.appendFile(text);
      this.#written += Buffer.byteLength(text);
    } finally {
      await file.close();
    }
  }

  /** Keeps a prompt for rendering, under its own name: as a second link where that works, else as a copy. */
  keepPrompt(file: string): void {
    const name = basename(file);
    if (this.#kept.has(name)) return;
    this.#kept.add(name);
    this.#keeping = this.#keeping.then(() => this.#keep(file, name));
  }

  async #keep(file: string, name: string): Promise<void> {
    const target = join(this.#promptFolder, name);
    try {
      await mkdir(this.#promptFolder, { recursive: true });
      await link(file, target).catch(async (error: unknown) => {
        if (codeOf(error, "") !== "EEXIST") await copyFile(file, target);
      });
    } catch (error) {
      // The rest of the call is worth more than one prompt of it.
      this.#onPromptLost(error);
    }
  }

  /** Resolves with the lines that the disk does not take; rejects when the log has been taken by another process. */
  async flush(): Promise<string> {
    await this.#keeping;
    while (this.#writing !== undefined) await this.#writing;
    if (this.#pending.length > 0) await this.#drain();
    if (this.#taken !== undefined) throw this.#taken;
    return this.#pending.join("");
  }
}

/** The lines of a log. A last line that was cut off by a crash is left out, and so is what is not of this version. */
export function parseJournal(text: string): readonly JournalLine[] {
  const lines: JournalLine[] = [];
  for (const line of text.split("\n")) {
    if (line === "") continue;
    try {
      lines.push(JSON.parse(line) as JournalLine);
    } catch {
      break;
    }
  }
  const first = lines[0];
  return first?.type === "open" && first.v === 1 ? lines : [];
}
