import { mkdir, readdir, rm, stat } from "node:fs/promises";
import { join } from "node:path";
import { MediaError, messageOf } from "../media-error.ts";
import type { MediaLog } from "../options.ts";

const mostAttempts = 3;

interface Entry {
  bytes: number;
  users: number;
}

/** A file that stays in its cache until `release` is called. */
export interface PinnedFile {
  readonly file: string;
  readonly bytes: number;
  release(): void;
}

/**
 * Files by key in one folder, with a limit on their sizes together: the least recently used ones go first, never one that
 * is in use. Requests for a key that is being made wait for the same file.
 */
export class FileCache {
  readonly #folder: string;
  readonly #mostBytes: number;
  readonly #ending: string;
  readonly #log: MediaLog;
  /** In the order of use, least recently used first. */
  readonly #entries = new Map<string, Entry>();
  readonly #making = new Map<string, Promise<void>>();
  readonly #removing = new Map<string, Promise<void>>();
  #bytes = 0;

  constructor(folder: string, mostBytes: number, ending: string, log: MediaLog) {
    this.#folder = folder;
    this.#mostBytes = mostBytes;
    this.#ending = ending;
    this.#log = log;
  }

  /** Makes the folder and takes over what an earlier run left there. Rejects when the folder cannot be used. */
  async start(): Promise<void> {
    await mkdir(this.#folder, { recursive: true });
    const found: { readonly key: string; readonly bytes: number; readonly usedAt: number }[] = [];
    for (const name of await readdir(this.#folder)) {
      const path = join(this.#folder, name);
      const status = await stat(path);
      if (!status.isFile()) continue;
      if (!name.endsWith(this.#ending)) await rm(path, { force: true });
      else found.push({ key: name.slice(0, -this.#ending.length), bytes: status.size, usedAt: status.mtimeMs });
    }
    for (const { key, bytes } of found.sort((a, b) => a.usedAt - b.usedAt)) {
      this.#entries.set(key, { bytes, users: 0 });
      this.#bytes += bytes;
    }
    this.#trim();
  }

  has(key: string): boolean {
    return this.#entries.has(key);
  }

  stats(): { readonly files: number; readonly bytes: number; readonly inUse: number } {
    const inUse = [...this.#entries.values()].reduce((sum, entry) => sum + entry.users, 0);
    return { files: this.#entries.size, bytes: this.#bytes, inUse };
  }

  /** The file of `key`, made by `make` when there is none. Rejects with what `make` rejected with. */
  async pin(key: string, make: (target: string) => Promise<unknown>): Promise<PinnedFile> {
    const file = join(this.#folder, key + this.#ending);
    await this.#forgetIfGone(key, file);
    // A far too small cache may evict the file between the end of making it and the turn that pins it: then once more.
    for (let attempt = 0; attempt < mostAttempts; attempt += 1) {
      if (!this.#entries.has(key)) await this.#makeOnce(key, file, make);
      const entry = this.#entries.get(key);
      if (entry !== undefined) return this.#hold(key, file, entry);
    }
    throw new MediaError("overloaded", "the prompt cache is too small for what is in use");
  }

  /** Someone may have cleaned the folder behind our back. */
  async #forgetIfGone(key: string, file: string): Promise<void> {
    const entry = this.#entries.get(key);
    if (entry === undefined) return;
    entry.users += 1;
    const present = await stat(file).then(
      () => true,
      () => false,
    );
    entry.users -= 1;
    if (present || this.#entries.get(key) !== entry) return;
    this.#entries.delete(key);
    this.#bytes -= entry.bytes;
  }

  #hold(key: string, file: string, entry: Entry): PinnedFile {
    this.#entries.delete(key);
    this.#entries.set(key, entry);
    entry.users += 1;
    let held = true;
    return {
      file,
      bytes: entry.bytes,
      release: () => {
        if (!held) return;
        held = false;
        entry.users -= 1;
        this.#trim();
      },
    };
  }

  async #makeOnce(key: string, file: string, make: (target: string) => Promise<unknown>): Promise<void> {
    let making = this.#making.get(key);
    if (making === undefined) {
      making = this.#make(key, file, make).finally(() => this.#making.delete(key));
      this.#making.set(key, making);
    }
    await making;
  }

  async #make(key: string, file: string, make: (target: string) => Promise<unknown>): Promise<void> {
    await this.#removing.get(key);
    await make(file);
    const { size } = await stat(file);
    this.#entries.set(key, { bytes: size, users: 0 });
    this.#bytes += size;
    // Those who wait for this file pin it within this turn of the event loop: trimming comes after them.
    setImmediate(() => this.#trim());
  }

  #trim(): void {
    for (const [key, entry] of this.#entries) {
      if (this.#bytes <= this.#mostBytes) return;
      if (entry.users > 0) continue;
      this.#entries.delete(key);
      this.#bytes -= entry.bytes;
      const removing = rm(join(this.#folder, key + this.#ending), { force: true })
        .catch((error: unknown) => {
          this.#log.warn({ error: messageOf(error) }, "a cached prompt could not be removed");
        })
        .finally(() => this.#removing.delete(key));
      this.#removing.set(key, removing);
    }
  }
}
