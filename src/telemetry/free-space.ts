import { statfs } from "node:fs/promises";

interface Watched {
  readonly path: string;
  /** What the disk last said, and when. */
  known: { readonly bytes: number; readonly atMs: number } | undefined;
  asking: Promise<void> | undefined;
}

export interface FreeSpaceOptions {
  /** How long an answer is waited for, in milliseconds. Default 200. */
  readonly patienceMs?: number;
  /** How long the answer before is told in its place. Default 60000. */
  readonly knownForMs?: number;
  /** Milliseconds that never go back. */
  readonly now?: () => number;
  /** Bytes that are free where the path lies; rejects when it is not there. May never answer. */
  readonly ask?: (path: string) => Promise<number>;
}

/**
 * How much is free where recordings are written. A disk that hangs (a network file system whose server is gone) answers late or
 * never, and each question holds one of Node's four threads for files until then: so a folder is asked by one question at a
 * time, and nobody waits long for it.
 */
export class FreeSpace {
  readonly #folders: ReadonlyMap<string, Watched>;
  readonly #options: Required<FreeSpaceOptions>;

  /** `folders`: paths by the word that stands for them. */
  constructor(folders: Readonly<Record<string, string>>, options: FreeSpaceOptions = {}) {
    this.#options = { patienceMs: 200, knownForMs: 60_000, now: () => performance.now(), ask: freeBytes, ...options };
    this.#folders = new Map<string, Watched>(
      Object.entries(folders).map(([word, path]) => [word, { path, known: undefined, asking: undefined }]),
    );
  }

  /** Bytes by the folder's word; 0 for one that is gone, or whose disk has not answered for too long. Never rejects. */
  async read(): Promise<Readonly<Record<string, number>>> {
    const read = [...this.#folders].map(async ([word, folder]) => [word, await this.#of(folder)] as const);
    return Object.fromEntries(await Promise.all(read));
  }

  async #of(folder: Watched): Promise<number> {
    const { patienceMs, knownForMs, now } = this.#options;
    folder.asking ??= this.#ask(folder);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, patienceMs);
    });
    await Promise.race([folder.asking, late]);
    clearTimeout(timer);
    const { known } = folder;
    return known !== undefined && now() - known.atMs < knownForMs ? known.bytes : 0;
  }

  async #ask(folder: Watched): Promise<void> {
    const { ask, now } = this.#options;
    // A folder that is gone has no space left.
    const bytes = await ask(folder.path).catch(() => 0);
    folder.known = { bytes, atMs: now() };
    folder.asking = undefined;
  }
}

async function freeBytes(path: string): Promise<number> {
  const { bavail, bsize } = await statfs(path);
  return bavail * bsize;
}
