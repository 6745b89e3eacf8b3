import { dropConnection, whenConnected, withoutCommand } from "./connection.ts";
import type { Redis } from "./connection.ts";
import { deferred, delay } from "./deferred.ts";
import type { Deferred } from "./deferred.ts";

export interface EventReaderOptions {
  /** Used by nobody else: it is blocked most of the time. */
  readonly redis: Redis;
  readonly stream: string;
  readonly field: string;
  /** A consumer group remembers in Redis how far this worker has read. */
  readonly group: { readonly name: string; readonly consumer: string } | null;
  /** `new`, `beginning`, or the id of the last entry that was read. */
  readonly startAt: string;
  onEntry(id: string, body: string): void;
  /** Entries that were trimmed away before they were read again; they can only be acknowledged. */
  onTrimmed(id: string): void;
  /** Everything there was has been handed over; what comes now is news. */
  onCaughtUp(): void;
  onError(error: unknown): void;
}

type Entry = readonly [id: string, fields: readonly string[] | null];

const blockMs = 5_000;
const silenceMs = 5_000;
const pageMax = 200;
const backoffMinMs = 100;
const backoffMaxMs = 5_000;
const lastSeq = "18446744073709551615";

/**
 * Reads a bot's stream in order, from where it was left, for ever. A lost connection loses nothing: reading goes on from the
 * last entry that was handed over.
 */
export class EventReader {
  readonly #options: EventReaderOptions;
  readonly #started: Deferred<void> = deferred();
  #position: string | null = null;
  /** In a group: pending entries are read again before new ones, because a reply may have been lost on its way. */
  #pending = true;
  /** There may be more to read at once, so a read does not wait. */
  #behind = true;
  #closed = false;
  /** Ends the wait that is under way. */
  #wake: () => void = () => undefined;

  constructor(options: EventReaderOptions) {
    this.#options = options;
    if (options.startAt !== "new") this.#position = options.startAt === "beginning" ? "0-0" : options.startAt;
  }

  /** Settles when no event from now on is missed. */
  get started(): Promise<void> {
    return this.#started.promise;
  }

  /** Id of the last entry that was handed over. */
  get position(): string | null {
    return this.#position;
  }

  async run(): Promise<void> {
    let backoffMs = backoffMinMs;
    while (!this.#closed) {
      try {
        if (!(await this.#unlessClosed(whenConnected(this.#options.redis, blockMs)))) continue;
        await this.#prepare();
        this.#started.resolve();
        const entries = await this.#read();
        for (const entry of entries) this.#hand(entry);
        this.#behind = entries.length >= pageMax;
        if (!this.#behind && !this.#isClosed()) this.#options.onCaughtUp();
        backoffMs = backoffMinMs;
      } catch (error) {
        if (this.#isClosed()) return;
        this.#pending = true;
        this.#behind = true;
        // A connection that broke is told by its own error event; what Redis answers with is told here.
        if (this.#options.redis.status === "ready") this.#options.onError(withoutCommand(error));
        await this.#unlessClosed(delay(backoffMs));
        backoffMs = Math.min(backoffMs * 2, backoffMaxMs);
      }
    }
  }

  close(): void {
    this.#closed = true;
    this.#started.resolve();
    this.#wake();
    dropConnection(this.#options.redis);
  }

  /** A connection that is dropped between two attempts to connect never says so, so closing waits for nothing. */
  async #unlessClosed<Value>(wait: Promise<Value>): Promise<Value | undefined> {
    const stopped = deferred<undefined>();
    this.#wake = () => stopped.resolve(undefined);
    return Promise.race([wait, stopped.promise]);
  }

  #isClosed(): boolean {
    return this.#closed;
  }

  async #prepare(): Promise<void> {
    const { redis, stream, group } = this.#options;
    if (group === null) {
      this.#position ??= await this.#lastId();
      return;
    }
    if (!this.#pending) return;
    try {
      await redis.xgroup("CREATE", stream, group.name, this.#position ?? "$", "MKSTREAM");
    } catch (error) {
      if (!(error instanceof Error) || !error.message.startsWith("BUSYGROUP")) throw error;
    }
    await this.#readPending(group);
    this.#pending = false;
  }

  async #readPending(group: { readonly name: string; readonly consumer: string }): Promise<void> {
    const { redis, stream } = this.#options;
    for (let after = "0-0"; ;) {
      const entries = page(
        await redis.xreadgroup("GROUP", group.name, group.consumer, "COUNT", pageMax, "STREAMS", stream, after),
      );
      const last = entries.at(-1);
      if (last === undefined) return;
      for (const entry of entries) this.#hand(entry);
      after = last[0];
    }
  }

  async #read(): Promise<readonly Entry[]> {
    const { redis, stream, group } = this.#options;
    // A dead network answers nothing at all, while XREAD answers at the latest when its block ends.
    const watchdog = setTimeout(() => redis.stream?.destroy(), blockMs + silenceMs);
    const wait = this.#behind ? [] : ["BLOCK", blockMs];
    const words =
      group === null
        ? ["XREAD", "COUNT", pageMax, ...wait, "STREAMS", stream, this.#position ?? "$"]
        : ["XREADGROUP", "GROUP", group.name, group.consumer, "COUNT", pageMax, ...wait, "STREAMS", stream, ">"];
    const [command = "", ...args] = words;
    try {
      return page(await redis.call(String(command), ...args));
    } finally {
      clearTimeout(watchdog);
    }
  }

  #hand([id, fields]: Entry): void {
    if (this.#closed) return;
    if (this.#options.group === null) this.#position = id;
    if (fields === null) return this.#options.onTrimmed(id);
    const at = fields.indexOf(this.#options.field);
    const body = at >= 0 && at % 2 === 0 ? fields[at + 1] : undefined;
    if (body !== undefined) this.#options.onEntry(id, body);
    return undefined;
  }

  /**
   * Id of the newest entry. `$` would do for one read, but what comes between that read and the next would be lost with a
   * broken connection; XINFO and XREVRANGE are not among a bot's rights. So the time of the newest entry is bisected.
   */
  async #lastId(): Promise<string> {
    if (!(await this.#anyAfter("0-0"))) return "0-0";
    let low = 0;
    let high = 2 ** 48;
    while (low < high) {
      const middle = Math.floor((low + high) / 2);
      if (await this.#anyAfter(`${middle}-${lastSeq}`)) low = middle + 1;
      else high = middle;
    }
    const before = low === 0 ? "0-0" : `${low - 1}-${lastSeq}`;
    const { redis, stream } = this.#options;
    const newest = page(await redis.xread("COUNT", pageMax, "STREAMS", stream, before));
    return newest.findLast(([id]) => id.startsWith(`${low}-`))?.[0] ?? before;
  }

  async #anyAfter(id: string): Promise<boolean> {
    const { redis, stream } = this.#options;
    return page(await redis.xread("COUNT", 1, "STREAMS", stream, id)).length > 0;
  }
}

/** The entries of the one stream that was asked for. */
function page(reply: unknown): readonly Entry[] {
  const streams = (reply ?? []) as readonly (readonly [string, readonly Entry[]])[];
  return streams[0]?.[1] ?? [];
}
