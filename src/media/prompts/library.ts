import { createHash, randomUUID } from "node:crypto";
import { createReadStream } from "node:fs";
import { mkdir, readdir, readFile, realpath, rename, rm, stat, writeFile } from "node:fs/promises";
import { isAbsolute, join, relative, resolve } from "node:path";
import { pipeline } from "node:stream/promises";
import { fileURLToPath } from "node:url";
import type { Prompt } from "../../call/effect.ts";
import { dtmfTones } from "../audio/tones.ts";
import type { Tone } from "../audio/tones.ts";
import { codeOf, MediaError, messageOf } from "../media-error.ts";
import type { MediaClock, MediaLog, PromptOptions } from "../options.ts";
import { Slots } from "../slots.ts";
import type { Speech } from "../tts/speech.ts";
import type { WorkerPool } from "../worker/pool.ts";
import { rtpengineRate } from "./convert.ts";
import { download } from "./download.ts";
import { FileCache } from "./file-cache.ts";
import type { PinnedFile } from "./file-cache.ts";
import { conditionalHeaders, validatorsOf } from "./http-freshness.ts";
import type { Validators } from "./http-freshness.ts";

/** A prompt that can be played now and stays on the disk until `release`. */
export interface ReadyPrompt {
  /** As this machine sees it. */
  readonly file: string;
  /** As the media server sees it. */
  readonly playableFile: string;
  readonly durationMs: number;
  release(): void;
}

/** What is known of a URL: which converted prompt it was, and how to ask whether it still is. */
interface KnownUrl {
  readonly validators: Validators;
  readonly key: string;
}

const mostKnownUrls = 10_000;
const mostWaitingDownloads = 512;
/** Behind a server that hangs nobody waits longer than a few time-outs: what comes on top fails at once. */
const mostWaitingPerHost = 64;
const usualRedirects = 3;
const mostUrlLength = 2_048;
const wavHeaderBytes = 44;

function hashOf(...parts: readonly string[]): string {
  return createHash("sha256").update(parts.join("\0")).digest("hex");
}

async function hashOfFile(path: string): Promise<string> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(path), hash);
  return hash.digest("hex");
}

export interface PromptLibraryOptions extends PromptOptions {
  readonly speech: Speech;
  readonly workers: WorkerPool;
  readonly clock: MediaClock;
  readonly log: MediaLog;
}

/** Turns every kind of prompt into a file that the media server plays well, once, and remembers it. */
export class PromptLibrary {
  readonly #options: PromptLibraryOptions;
  readonly #prompts: FileCache;
  readonly #urlFolder: string;
  readonly #temporaryFolder: string;
  readonly #downloads: Slots;
  /** By host, for as long as something is fetched from it: one that hangs must not take the places of all others. */
  readonly #hosts = new Map<string, Slots>();
  /** In the order of use. */
  readonly #knownUrls = new Map<string, KnownUrl>();
  readonly #resolving = new Map<string, Promise<string>>();
  readonly #rate: number;
  #preparing = 0;

  constructor(given: PromptLibraryOptions) {
    // rtpengine has a working directory of its own: it must be told whole paths.
    const options = { ...given, cacheFolder: resolve(given.cacheFolder) };
    this.#options = options;
    this.#rate = options.rate ?? rtpengineRate;
    this.#prompts = new FileCache(join(options.cacheFolder, "prompts"), options.cacheBytes, ".wav", options.log);
    this.#urlFolder = join(options.cacheFolder, "urls");
    this.#temporaryFolder = join(options.cacheFolder, "temporary");
    this.#downloads = new Slots(options.mostDownloads, mostWaitingDownloads);
  }

  /** Rejects when the cache folder cannot be used. */
  async start(): Promise<void> {
    await rm(this.#temporaryFolder, { recursive: true, force: true });
    await mkdir(this.#temporaryFolder, { recursive: true });
    await mkdir(this.#urlFolder, { recursive: true });
    await this.#prompts.start();
    await this.#loadKnownUrls();
  }

  stats(): { readonly preparing: number; readonly inUse: number; readonly files: number; readonly bytes: number } {
    return { preparing: this.#preparing, ...this.#prompts.stats() };
  }

  /** Rejects with a MediaError whose code says why the prompt cannot be played. */
  async prepare(prompt: Prompt): Promise<ReadyPrompt> {
    this.#preparing += 1;
    try {
      return this.#ready(await this.#pin(prompt));
    } finally {
      this.#preparing -= 1;
    }
  }

  /** A prompt of tones, ringback for one. */
  async prepareTones(tones: readonly Tone[]): Promise<ReadyPrompt> {
    return this.#ready(await this.#pinTones(tones));
  }

  #ready(pinned: PinnedFile): ReadyPrompt {
    const { cacheFolder, cacheFolderSeenByRtpengine } = this.#options;
    return {
      file: pinned.file,
      playableFile:
        cacheFolderSeenByRtpengine === undefined
          ? pinned.file
          : join(cacheFolderSeenByRtpengine, relative(cacheFolder, pinned.file)),
      durationMs: Math.max(0, pinned.bytes - wavHeaderBytes) / ((this.#rate * 2) / 1_000),
      release: () => pinned.release(),
    };
  }

  async #pin(prompt: Prompt): Promise<PinnedFile> {
    switch (prompt.kind) {
      case "digits": {
        const tones = dtmfTones(prompt.digits);
        if (tones === undefined) throw new MediaError("bad_digits", "not a dialling string");
        return this.#pinTones(tones);
      }
      case "text":
        return this.#pinSpeech(prompt.text, prompt.lang, prompt.voice);
      case "audio":
        return this.#pinUrl(prompt.url);
    }
  }

  async #pinTones(tones: readonly Tone[]): Promise<PinnedFile> {
    return this.#prompts.pin(`tones-${hashOf(JSON.stringify(tones))}`, (target) =>
      this.#options.workers.run({ type: "tones", tones, target, rate: this.#rate }),
    );
  }

  async #pinSpeech(text: string, lang: string | null, voice: string | null): Promise<PinnedFile> {
    const { speech } = this.#options;
    const order = speech.order(text, lang, voice);
    return this.#prompts.pin(`speech-${hashOf(speech.identity, order.lang, order.voice, text)}`, (target) =>
      this.#withTemporary(async (spoken) => {
        await speech.speak(order, spoken);
        await this.#convert(spoken, target);
      }),
    );
  }

  async #pinUrl(text: string): Promise<PinnedFile> {
    if (text.length > mostUrlLength || !URL.canParse(text)) throw new MediaError("bad_url", "not a URL");
    const url = new URL(text);
    if (url.protocol === "file:") return this.#pinFile(url);
    const hash = hashOf(url.href);
    let resolving = this.#resolving.get(hash);
    if (resolving === undefined) {
      resolving = this.#resolve(hash, url.href).finally(() => this.#resolving.delete(hash));
      this.#resolving.set(hash, resolving);
    }
    return this.#prompts.pin(await resolving, () =>
      Promise.reject(new MediaError("overloaded", "the prompt cache is too small for what is in use")),
    );
  }

  async #pinFile(url: URL): Promise<PinnedFile> {
    const path = await this.#allowedFile(url);
    const status = await stat(path);
    if (!status.isFile()) throw new MediaError("not_found", "not a regular file");
    if (status.size > this.#options.mostBytes) throw new MediaError("too_large", "the file is too large");
    const key = `file-${hashOf(path, String(status.mtimeMs), String(status.size))}`;
    return this.#prompts.pin(key, (target) => this.#convert(path, target));
  }

  /**
   * The real path of a file URL, checked before and after every symbolic link has been followed: before, so that nobody
   * can ask which files there are elsewhere.
   */
  async #allowedFile(url: URL): Promise<string> {
    const { folder } = this.#options;
    if (folder === null) throw new MediaError("outside_prompt_folder", "no prompt folder is configured");
    const asked = pathOf(url);
    if (isOutside(resolve(folder), asked)) throw outsidePromptFolder();
    let path: string;
    let root: string;
    try {
      root = await realpath(folder);
      path = await realpath(asked);
    } catch (error) {
      throw new MediaError("not_found", "the file cannot be opened", { cause: error });
    }
    if (isOutside(root, path)) throw outsidePromptFolder();
    return path;
  }

  async #convert(source: string, target: string): Promise<void> {
    const { workers, mostSeconds } = this.#options;
    await workers.run({ type: "convert", source, target, rate: this.#rate, mostSeconds });
  }

  async #withTemporary<T>(use: (path: string) => Promise<T>): Promise<T> {
    const path = join(this.#temporaryFolder, randomUUID());
    try {
      return await use(path);
    } finally {
      await rm(path, { force: true });
    }
  }

  /** The key of the prompt behind an http or https URL; the prompt is in the cache when this resolves. */
  async #resolve(hash: string, url: string): Promise<string> {
    const { clock, log } = this.#options;
    const known = this.#knownUrls.get(hash);
    const copy = known !== undefined && this.#prompts.has(known.key) ? known : undefined;
    if (copy !== undefined && clock.wallMs() < copy.validators.freshUntil) return copy.key;
    try {
      return await this.#inTurn(new URL(url).host, () =>
        this.#withTemporary((path) => this.#fetch(hash, url, copy, path)),
      );
    } catch (error) {
      const code = codeOf(error, "fetch_failed");
      const serverFails = code === "fetch_failed" || code === "fetch_timeout" || /^http_5\d\d$/.test(code);
      if (copy === undefined || !serverFails) throw error;
      // RFC 9111 §4.2.4 lets a copy be used when its server cannot be reached: better an old prompt than silence.
      log.warn({ code }, "a prompt's server does not answer: its last copy is played");
      return copy.key;
    }
  }

  async #inTurn<T>(host: string, work: () => Promise<T>): Promise<T> {
    const { mostDownloads } = this.#options;
    const slots = this.#hosts.get(host) ?? new Slots(Math.ceil(mostDownloads / 2), mostWaitingPerHost);
    this.#hosts.set(host, slots);
    try {
      return await slots.run(() => this.#downloads.run(work));
    } finally {
      if (slots.running === 0) this.#hosts.delete(host);
    }
  }

  async #fetch(hash: string, url: string, copy: KnownUrl | undefined, path: string): Promise<string> {
    const { clock, freshMs, mostBytes, timeoutMs, hosts, mostRedirects = usualRedirects } = this.#options;
    const { modified, headers } = await download({
      url,
      method: "GET",
      headers: {
        accept: "audio/wav, audio/*;q=0.5",
        ...(copy === undefined ? {} : conditionalHeaders(copy.validators)),
      },
      body: null,
      target: path,
      mostBytes,
      timeoutMs,
      mostRedirects,
      hosts,
    });
    const validators = validatorsOf(headers, clock.wallMs(), freshMs);
    if (!modified && copy === undefined) throw new MediaError("http_304", "the server answered 304 unasked");
    if (!modified && copy !== undefined) {
      const { etag, lastModified } = copy.validators;
      const kept = {
        ...validators,
        etag: validators.etag ?? etag,
        lastModified: validators.lastModified ?? lastModified,
      };
      await this.#remember(hash, { validators: kept, key: copy.key });
      return copy.key;
    }
    const key = `url-${await hashOfFile(path)}`;
    const pinned = await this.#prompts.pin(key, (target) => this.#convert(path, target));
    // Everybody who waits for this URL pins the prompt before the next turn of the event loop.
    setImmediate(() => pinned.release());
    await this.#remember(hash, { validators, key });
    return key;
  }

  async #remember(hash: string, known: KnownUrl): Promise<void> {
    this.#knownUrls.delete(hash);
    this.#knownUrls.set(hash, known);
    const oldest = this.#knownUrls.keys().next().value;
    try {
      if (this.#knownUrls.size > mostKnownUrls && oldest !== undefined) {
        this.#knownUrls.delete(oldest);
        await rm(join(this.#urlFolder, `${oldest}.json`), { force: true });
      }
      const path = join(this.#urlFolder, `${hash}.json`);
      await writeFile(`${path}.part`, JSON.stringify(known));
      await rename(`${path}.part`, path);
    } catch (error) {
      // Without the note the prompt is fetched again after a restart, and that is all.
      this.#options.log.warn({ error: messageOf(error) }, "a prompt's validators could not be stored");
    }
  }

  async #loadKnownUrls(): Promise<void> {
    const names = (await readdir(this.#urlFolder)).filter((name) => name.endsWith(".json"));
    for (const [index, name] of names.entries()) {
      const path = join(this.#urlFolder, name);
      const known = index < mostKnownUrls ? parseKnownUrl(await readFile(path, "utf8").catch(() => "")) : undefined;
      if (known === undefined || !this.#prompts.has(known.key)) await rm(path, { force: true });
      else this.#knownUrls.set(name.slice(0, -".json".length), known);
    }
  }
}

function outsidePromptFolder(): MediaError {
  return new MediaError("outside_prompt_folder", "the file is not below the prompt folder");
}

function isOutside(folder: string, path: string): boolean {
  const inside = relative(folder, path);
  return inside === "" || inside === ".." || inside.startsWith("../") || isAbsolute(inside);
}

function pathOf(url: URL): string {
  try {
    return fileURLToPath(url);
  } catch (error) {
    throw new MediaError("bad_url", "not a path on this machine", { cause: error });
  }
}

/** Undefined for a note that was not written by this version or is damaged. */
function parseKnownUrl(text: string): KnownUrl | undefined {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null || !("key" in value) || !("validators" in value)) return undefined;
  const { key, validators } = value;
  if (typeof key !== "string" || !/^url-[0-9a-f]{64}$/.test(key)) return undefined;
  if (typeof validators !== "object" || validators === null) return undefined;
  const { etag, lastModified, freshUntil } = validators as Readonly<Record<string, unknown>>;
  if (typeof freshUntil !== "number") return undefined;
  return {
    key,
    validators: {
      etag: typeof etag === "string" ? etag : null,
      lastModified: typeof lastModified === "string" ? lastModified : null,
      freshUntil,
    },
  };
}
