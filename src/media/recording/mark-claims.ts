import { randomBytes } from "node:crypto";
import { access, rename, stat, unlink, utimes } from "node:fs/promises";
import { join } from "node:path";
import { codeOf } from "../media-error.ts";
import type { MediaClock } from "../options.ts";
import { markFile } from "./mark.ts";

/** A mark that one process has to itself; it lies at `path` meanwhile. */
export interface Claim {
  readonly name: string;
  readonly path: string;
}

/** Follows a mark's name while it is claimed; what is random and the owner's alone stands behind it. */
const sign = ".claimed-";

/**
 * Makes one of several services that share a folder do what a mark asks for. Whoever succeeds in renaming the mark has it, and
 * shows four times in `leaseMs`, by the file's time, that he is still at it. A claim that is older belongs to a process that is
 * gone, and is anybody's again; hosts that share the folder need clocks that agree to within half of that.
 */
export class MarkClaims {
  readonly #folder: string;
  readonly #leaseMs: number;
  readonly #clock: MediaClock;
  readonly #held = new Set<string>();
  #beat: { cancel(): void } | undefined;

  constructor(folder: string, leaseMs: number, clock: MediaClock) {
    this.#folder = folder;
    this.#leaseMs = leaseMs;
    this.#clock = clock;
  }

  /** Undefined when another one has it, or nothing is to be done any more. Rejects with the system's error. */
  async take(name: string): Promise<Claim | undefined> {
    const mark = join(this.#folder, markFile(name));
    const path = `${mark}${sign}${randomBytes(6).toString("hex")}`;
    try {
      // First, because a file keeps its time through a renaming: the claim could be stale from the start.
      await this.#touch(mark);
      await rename(mark, path);
    } catch (error) {
      gone(error);
      return undefined;
    }
    this.#held.add(path);
    this.#beatLater();
    return { name, path };
  }

  /** False when another one took it over, because this process stood still for too long. */
  async holds({ path }: Claim): Promise<boolean> {
    return this.#held.has(path) && (await isThere(path));
  }

  /** The mark is as it was. */
  async giveBack({ name, path }: Claim): Promise<void> {
    this.#release(path);
    await rename(path, join(this.#folder, markFile(name))).catch(gone);
  }

  /** Nothing is to be done any more. */
  async done({ path }: Claim): Promise<void> {
    this.#release(path);
    await unlink(path).catch(gone);
  }

  /**
   * Gives a claim that lies there as `file` back when its owner is gone: the name of its recording, else undefined. Rejects with
   * the system's error.
   */
  async free(file: string): Promise<string | undefined> {
    const [name = "", owner] = file.split(markFile("") + sign, 2);
    const path = join(this.#folder, file);
    if (owner === undefined || this.#held.has(path) || !(await this.isStale(path))) return undefined;
    try {
      await rename(path, join(this.#folder, markFile(name)));
      return name;
    } catch (error) {
      gone(error);
      return undefined;
    }
  }

  /** Nobody has touched that file for as long as an owner may be silent. */
  async isStale(path: string): Promise<boolean> {
    const { mtimeMs } = await stat(path).catch(() => ({ mtimeMs: Number.POSITIVE_INFINITY }));
    return this.#clock.wallMs() - mtimeMs >= this.#leaseMs;
  }

  #release(path: string): void {
    this.#held.delete(path);
    if (this.#held.size > 0) return;
    this.#beat?.cancel();
    this.#beat = undefined;
  }

  #beatLater(): void {
    this.#beat ??= this.#clock.after(this.#leaseMs / 4, () => {
      this.#beat = undefined;
      const touching = [...this.#held].map((path) => this.#touch(path).catch(() => this.#held.delete(path)));
      void Promise.all(touching).then(() => {
        if (this.#held.size > 0) this.#beatLater();
      });
    });
  }

  async #touch(path: string): Promise<void> {
    const now = new Date(this.#clock.wallMs());
    await utimes(path, now, now);
  }
}

/** Rejects when that cannot be told: a file that cannot be looked at is not one that has been delivered. */
export async function isThere(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    (error: unknown) => {
      gone(error);
      return false;
    },
  );
}

/** A file that another one has removed meanwhile is as good as removed by us. */
export function gone(error: unknown): void {
  if (codeOf(error, "") !== "ENOENT") throw error;
}
