import { randomBytes } from "node:crypto";
import { opendir, readFile, rename, rm, stat, unlink, writeFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import { codeOf, MediaError, messageOf } from "../media-error.ts";
import type { MediaClock, MediaLog } from "../options.ts";
import { convertRecording } from "./conversion.ts";
import type { CompressedFormat, RecordingFormat } from "./conversion.ts";
import { markFile, markOf, parseMark, pendingFolderName } from "./mark.ts";
import type { DeliveryMark } from "./mark.ts";
import { gone, isThere, MarkClaims } from "./mark-claims.ts";
import type { Claim } from "./mark-claims.ts";
import { ObjectStorage, StorageError } from "./object-storage.ts";
import type { StorageOptions } from "./object-storage.ts";
import type { Sidecar } from "./timeline.ts";

export interface DeliveryOptions {
  /** Where finished recordings and their sidecars are; what is still to be done with them is noted in a folder below it. */
  readonly folder: string;
  readonly format: RecordingFormat;
  readonly ffmpeg: string;
  readonly conversionTimeoutMs: number;
  /** Null: recordings stay in the folder. */
  readonly upload: (StorageOptions & { readonly keepLocal: boolean }) | null;
  /** First and longest rest after a storage that does not take anything, each shortened at random by up to a half. */
  readonly firstRetryMs: number;
  readonly longestRetryMs: number;
  /** A call's end waits so long for its recording to be converted; it is told where the file will be then. */
  readonly patienceMs: number;
  /** What is known at once of a longer list; the rest stays in the folder until half of these are done. Default 10000. */
  readonly mostKnown?: number;
  /**
   * Of services that share the folder, one that has not shown for so long that it is at work on a recording has lost it to the
   * others, which look as often. Default 60000.
   */
  readonly leaseMs?: number;
  readonly clock: MediaClock;
  readonly log: MediaLog;
  readonly counted?: (step: "convert" | "upload", result: "done" | "failed") => void;
}

/** Where a recording is, or will be. */
export interface Delivered {
  readonly file: string;
  /** In the object storage; null when there is none. */
  readonly url: string | null;
  /** Why the file is not in the format that is configured, or not yet: `conversion_failed`, `conversion_pending`. */
  readonly reason: string | null;
}

interface Item {
  readonly name: string;
  /** It may lie in the storage already: a run before this one, or a try before this one, may have come so far. */
  tried: boolean;
  failures: number;
  notBefore: number;
  /** How the conversion went; undefined before it is over. */
  outcome: { readonly reason: string | null } | undefined;
  /** Whoever waits for it. */
  readonly settled: ((reason: string | null) => void)[];
}

const mostConversions = 1;
const mostUploads = 2;
const usualMostKnown = 10_000;
const usualLeaseMs = 60_000;
/** A half-converted file that nobody has written to for so long is of a process that is gone: the next start removes it. */
const stalePartMs = 60 * 60 * 1_000;
const fileMode = 0o640;

const contentTypes: Readonly<Record<RecordingFormat, string>> = {
  wav: "audio/wav",
  opus: "audio/ogg",
  mp3: "audio/mpeg",
};

/**
 * Brings finished recordings into their format and to the storage, behind the calls' backs. What is still to be done is
 * noted in files beside the recordings and nowhere else: a process that dies loses nothing, and the next one goes on; so does
 * another one on the same folder, of which one at a time works on a recording. A WAV is removed when what was made of it has
 * been read through, a file that was uploaded when the storage has confirmed it.
 */
export class RecordingDelivery implements AsyncDisposable {
  readonly #options: DeliveryOptions;
  readonly #folder: string;
  readonly #storage: ObjectStorage | null;
  readonly #pending: string;
  readonly #claims: MarkClaims;
  readonly #closing = new AbortController();
  readonly #known = new Map<string, Item>();
  readonly #toConvert = new Set<Item>();
  readonly #toUpload = new Set<Item>();
  readonly #working = new Set<Promise<void>>();
  #converting = 0;
  #uploading = 0;
  /** Uploads in a row that failed for reasons which the next one would meet too. */
  #refusals = 0;
  #restUntil = 0;
  #more = false;
  #timer: { cancel(): void } | undefined;
  #lookTimer: { cancel(): void } | undefined;
  readonly #patience = new Set<{ cancel(): void }>();

  constructor(options: DeliveryOptions) {
    this.#options = options;
    // Bots are told the path: it must mean the same to everybody.
    this.#folder = resolve(options.folder);
    this.#pending = join(this.#folder, pendingFolderName);
    this.#claims = new MarkClaims(this.#pending, this.#leaseMs, options.clock);
    this.#storage = options.upload === null ? null : new ObjectStorage(options.upload);
  }

  /** What the renderer is to note beside a finished recording, so that it is never forgotten. */
  get mark(): DeliveryMark {
    const { format } = this.#options;
    return { v: 1, format: format === "wav" ? null : format };
  }

  /** Where the recording of that name will be when everything goes well. */
  placeOf(name: string): { readonly file: string; readonly url: string | null } {
    return this.#placeOf(name, this.#options.format);
  }

  #placeOf(name: string, format: RecordingFormat): { readonly file: string; readonly url: string | null } {
    const file = `${name}.${format}`;
    return { file: join(this.#folder, file), url: this.#storage?.urlOf(file) ?? null };
  }

  /** Goes on with what earlier runs have left, and from now on with what other services leave. Never rejects. */
  async start(): Promise<void> {
    await this.#look(true);
    if (this.#known.size > 0) {
      this.#options.log.info({ recordings: this.#known.size }, "recordings of an earlier run wait for their delivery");
    }
    this.#lookLater();
    this.#pump();
  }

  #lookLater(): void {
    if (this.#closing.signal.aborted) return;
    this.#lookTimer = this.#options.clock.after(this.#leaseMs, () => {
      this.#work(this.#look(false), () => this.#lookLater());
    });
  }

  get #leaseMs(): number {
    return this.#options.leaseMs ?? usualLeaseMs;
  }

  /** `waiting`: recordings that wait or are worked on, by what for. */
  stats(): { readonly waiting: { readonly convert: number; readonly upload: number }; readonly timers: number } {
    return {
      waiting: {
        convert: this.#toConvert.size + this.#converting,
        upload: this.#toUpload.size + this.#uploading,
      },
      timers: this.#patience.size + (this.#timer === undefined ? 0 : 1),
    };
  }

  /**
   * Takes over a recording that has been rendered and marked. Resolves when it is converted or cannot be, at the latest after
   * `patienceMs`; the upload goes on behind it. Never rejects.
   */
  async take(name: string): Promise<Delivered> {
    const { format } = this.#options;
    const closed = this.#closing.signal.aborted;
    if (format === "wav") {
      if (!closed) this.#add(name, false);
      this.#pump();
      return { ...this.placeOf(name), reason: null };
    }
    const reason = await new Promise<string | null>((resolve) => {
      const timer = this.#options.clock.after(this.#options.patienceMs, () => settle("conversion_pending"));
      const settle = (why: string | null): void => {
        timer.cancel();
        this.#patience.delete(timer);
        resolve(why);
      };
      this.#patience.add(timer);
      const item = closed ? undefined : this.#add(name, false);
      // What has no place now is found in the folder later.
      if (item === undefined) settle("conversion_pending");
      else if (item.outcome !== undefined) settle(item.outcome.reason);
      else item.settled.push(settle);
      this.#pump();
    });
    return { ...this.#placeOf(name, reason === "conversion_failed" ? "wav" : format), reason };
  }

  get #mostKnown(): number {
    return this.#options.mostKnown ?? usualMostKnown;
  }

  #add(name: string, tried: boolean): Item | undefined {
    const known = this.#known.get(name);
    if (known !== undefined) return known;
    if (this.#known.size >= this.#mostKnown) {
      this.#more = true;
      return undefined;
    }
    const item: Item = { name, tried, failures: 0, notBefore: 0, outcome: undefined, settled: [] };
    this.#known.set(name, item);
    this.#toConvert.add(item);
    return item;
  }

  /** Finds marked recordings in the folder; not those, unless `all` of them, that another service has just marked for itself. */
  async #look(all: boolean): Promise<void> {
    this.#more = false;
    try {
      for await (const { name } of await opendir(this.#pending)) {
        const path = join(this.#pending, name);
        if (name.endsWith(".part")) {
          await this.#removeStale(path);
          continue;
        }
        const marked = markOf(name) ?? (await this.#claims.free(name));
        if (marked === undefined || this.#known.has(marked)) continue;
        if (all || name !== markFile(marked) || (await this.#claims.isStale(path))) this.#add(marked, true);
        if (this.#more) break;
      }
    } catch (error) {
      // There is no such folder before the first recording.
      if (codeOf(error, "") !== "ENOENT") {
        this.#options.log.warn(
          { error: messageOf(error) },
          "recordings that wait for their delivery cannot be looked for",
        );
      }
    }
  }

  async #removeStale(path: string): Promise<void> {
    const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: Number.POSITIVE_INFINITY }));
    if (this.#options.clock.wallMs() - mtimeMs > stalePartMs) await rm(path, { force: true });
  }

  /** Begins whatever may be begun now, and sets the timer for what may not. Called whenever something has changed. */
  #pump(): void {
    if (this.#closing.signal.aborted) return;
    while (this.#converting < mostConversions) {
      const [item] = this.#toConvert;
      if (item === undefined) break;
      this.#toConvert.delete(item);
      this.#converting += 1;
      this.#work(this.#settle(item), () => (this.#converting -= 1), item);
    }
    const now = this.#options.clock.now();
    while (this.#uploading < mostUploads && this.#restUntil <= now) {
      const item = this.#dueUpload(now);
      if (item === undefined) break;
      this.#toUpload.delete(item);
      this.#uploading += 1;
      this.#work(this.#upload(item), () => (this.#uploading -= 1), item);
    }
    this.#timer?.cancel();
    this.#timer = undefined;
    if (this.#toUpload.size > 0 && this.#uploading < mostUploads) {
      let next = Number.POSITIVE_INFINITY;
      for (const { notBefore } of this.#toUpload) next = Math.min(next, notBefore);
      const ms = Math.max(1, Math.max(next, this.#restUntil) - now);
      this.#timer = this.#options.clock.after(ms, () => {
        this.#timer = undefined;
        this.#pump();
      });
    }
    // Not only when nothing is left: there may always be new ones, or one that nobody takes.
    if (this.#more && this.#known.size <= this.#mostKnown / 2) this.#work(this.#look(true), () => {});
  }

  #dueUpload(now: number): Item | undefined {
    for (const item of this.#toUpload) if (item.notBefore <= now) return item;
    return undefined;
  }

  #work(work: Promise<void>, over: () => void, item?: Item): void {
    const done = work
      .catch((error: unknown) => {
        // It is found in the folder again.
        if (item !== undefined) this.#known.delete(item.name);
        this.#options.log.warn({ error: messageOf(error) }, "a recording was left for a while");
      })
      .finally(() => {
        this.#working.delete(done);
        over();
        this.#pump();
      });
    this.#working.add(done);
  }

  /** Everything that comes before the upload. */
  async #settle(item: Item): Promise<void> {
    let reason: string | null = "conversion_failed";
    let claim: Claim | undefined;
    try {
      claim = await this.#claims.take(item.name);
      // Another service has it, and says how it went to nobody here.
      reason = claim === undefined ? "conversion_pending" : await this.#convert(claim);
    } finally {
      item.outcome = { reason };
      for (const settled of item.settled.splice(0)) settled(reason);
      // What closing has broken off stays marked.
      const settledHere = reason !== "conversion_pending";
      if (claim !== undefined) {
        const over = settledHere && this.#storage === null;
        await (over ? this.#claims.done(claim) : this.#claims.giveBack(claim));
      }
      // Only now: the upload claims the mark anew.
      if (settledHere && this.#storage !== null) this.#toUpload.add(item);
      else this.#known.delete(item.name);
    }
  }

  /** Null when the recording is in its format, else why not. Rejects when the mark cannot be written. */
  async #convert(claim: Claim): Promise<string | null> {
    const { counted, log } = this.#options;
    const { name } = claim;
    const mark = parseMark(await readFile(claim.path, "utf8").catch(() => ""));
    const format = mark?.format ?? null;
    const wav = join(this.#folder, `${name}.wav`);
    if (format === null || !(await isThere(wav))) return null;
    const target = join(this.#folder, `${name}.${format}`);
    // It got its name when it had been read through, so the WAV was only not removed any more.
    if (!(await isThere(target))) {
      const part = join(this.#pending, `${name}-${randomBytes(6).toString("hex")}.${format}.part`);
      try {
        await this.#convertTo(part, name, wav, format);
        if (await this.#claims.holds(claim)) await rename(part, target);
      } catch (error) {
        if (!this.#closing.signal.aborted && (await this.#claims.holds(claim))) {
          await rm(part, { force: true });
          counted?.("convert", "failed");
          log.warn(
            { recording: name, code: codeOf(error, "internal"), error: messageOf(error) },
            "a recording could not be converted and stays a WAV",
          );
          await writeWhole(claim.path, JSON.stringify({ v: 1, format: null } satisfies DeliveryMark));
          return "conversion_failed";
        }
      }
      await rm(part, { force: true });
      if (this.#closing.signal.aborted || !(await this.#claims.holds(claim))) return "conversion_pending";
    }
    await unlink(wav).catch(gone);
    counted?.("convert", "done");
    return null;
  }

  async #convertTo(part: string, name: string, wav: string, format: CompressedFormat): Promise<void> {
    const { ffmpeg, conversionTimeoutMs } = this.#options;
    const sidecar = await readFile(join(this.#folder, `${name}.json`), "utf8");
    const { seconds, channels } = JSON.parse(sidecar) as Sidecar;
    // Made here, so that the file has its rights from the beginning.
    await writeFile(part, "", { mode: fileMode });
    await convertRecording(
      wav,
      part,
      format,
      { channels, durationMs: Math.round(seconds * 1_000) },
      { ffmpeg, timeoutMs: conversionTimeoutMs, signal: this.#closing.signal },
    );
  }

  async #upload(item: Item): Promise<void> {
    const { clock, log, upload, counted } = this.#options;
    const claim = await this.#claims.take(item.name);
    if (claim === undefined) {
      // Another service has it, and when that fails, it is found in the folder again.
      this.#known.delete(item.name);
      return;
    }
    try {
      await this.#uploadFiles(item);
    } catch (error) {
      await this.#claims.giveBack(claim);
      if (this.#closing.signal.aborted) return;
      counted?.("upload", "failed");
      item.tried = true;
      item.failures += 1;
      const everywhere = error instanceof StorageError && error.everywhere;
      const ms = this.#restOf(everywhere ? this.#refusals : item.failures - 1);
      if (everywhere) {
        this.#refusals += 1;
        this.#restUntil = Math.max(this.#restUntil, clock.now() + ms);
      } else item.notBefore = clock.now() + ms;
      this.#toUpload.add(item);
      log.warn(
        {
          recording: item.name,
          code: codeOf(error, "internal"),
          error: messageOf(error),
          nextTryInMs: Math.round(ms),
          waiting: this.#toUpload.size,
        },
        everywhere ? "the storage takes no recordings: they stay here meanwhile" : "a recording could not be uploaded",
      );
      return;
    }
    if (this.#refusals > 0) log.info({ waiting: this.#toUpload.size }, "the storage takes recordings again");
    this.#refusals = 0;
    this.#restUntil = 0;
    counted?.("upload", "done");
    log.info({ recording: item.name, kept: upload?.keepLocal }, "a recording was uploaded");
    // Nothing is to be done any more: the mark goes last.
    this.#known.delete(item.name);
    await this.#claims.done(claim);
  }

  /** Several services wait differently long, so that they do not all come at once when the storage is back. */
  #restOf(failures: number): number {
    const { firstRetryMs, longestRetryMs } = this.#options;
    const ms = Math.min(longestRetryMs, firstRetryMs * 2 ** Math.min(failures, 30));
    return ms * (0.5 + Math.random() / 2);
  }

  async #uploadFiles({ name, tried }: Item): Promise<void> {
    const { upload } = this.#options;
    const stored: string[] = [];
    const kinds = [...Object.entries(contentTypes), ["json", "application/json"] as const];
    for (const [ending, contentType] of kinds) {
      const path = join(this.#folder, `${name}.${ending}`);
      // Another process on the same folder may have been faster; what was uploaded before a crash is not there any more.
      if (!(await isThere(path))) continue;
      await this.#storage?.put(path, basename(path), contentType, tried, this.#closing.signal);
      stored.push(path);
    }
    if (upload?.keepLocal === true) return;
    for (const path of stored) await unlink(path).catch(gone);
  }

  /** Breaks off what is under way; the next run goes on with it. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort(new MediaError("closed", "the media side is closing"));
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#lookTimer?.cancel();
    for (const item of this.#known.values()) {
      for (const settled of item.settled.splice(0)) settled("conversion_pending");
    }
    await Promise.all(this.#working);
    this.#known.clear();
    this.#toConvert.clear();
    this.#toUpload.clear();
  }
}

async function writeWhole(path: string, text: string): Promise<void> {
  await writeFile(`${path}.part`, text, { mode: fileMode });
  await rename(`${path}.part`, path);
}
