import type { Cancellable, Clock } from "../lib/clock.ts";

/** What is asked of Redis here. */
export interface LedgerStore {
  get(keys: readonly string[]): Promise<readonly (string | null)[]>;
  /** Adds and sets the time to live in one step, so that no key stays for ever. Resolves to the sum. */
  add(key: string, ms: number, lifeSeconds: number): Promise<number>;
}

export interface LedgerOptions {
  /** First part of every key. */
  readonly prefix: string;
  readonly clock: Clock;
  /** Null while Redis is away. */
  readonly store: () => LedgerStore | null;
  /** The bots that have calls. */
  readonly bots: () => Iterable<string>;
  /** Redis answered with an error; told at the first failure and at every hundredth in a row. */
  readonly onFailure: (error: unknown) => void;
  /** Redis is asked this often while a bot has a call. */
  readonly everyMs: number;
}

interface Page {
  halted: boolean;
  day: string;
  /** Of all instances on `day`, as Redis told it last. */
  sharedMs: number;
  /** Of this instance, not in Redis yet, by day: no more than today and yesterday. */
  readonly unsentMs: Map<string, number>;
  /** The question that is on its way to Redis. */
  asking: Promise<void> | null;
}

const keptSeconds = 2 * 86_400;
const dayMs = 86_400_000;
/** More bots than a configuration can have. */
const pagesMax = 10_000;

/**
 * What the operators of this installation keep in Redis about a bot: whether it is halted, and how long its operators have
 * talked today (UTC). The keys begin with `<prefix>.` and not with `<prefix>:`, so that no bot's rights reach them.
 */
export class BotLedger {
  readonly #options: LedgerOptions;
  readonly #pages = new Map<string, Page>();
  #next: Cancellable | null = null;
  #failures = 0;

  constructor(options: LedgerOptions) {
    this.#options = options;
  }

  get timers(): number {
    return this.#next === null ? 0 : 1;
  }

  /** A bot has a call: Redis is asked about it now and again and again until it has none. */
  open(botId: string): void {
    void this.#refresh(botId);
    this.#schedule();
  }

  stop(): void {
    this.#next?.cancel();
    this.#next = null;
    this.#pages.clear();
  }

  halted(botId: string): boolean {
    return this.#pages.get(botId)?.halted ?? false;
  }

  /** Milliseconds of talk today, with what Redis has not been told yet. */
  talkedMs(botId: string): number {
    const page = this.#pages.get(botId);
    const today = this.#today();
    if (page === undefined) return 0;
    return (page.day === today ? page.sharedMs : 0) + (page.unsentMs.get(today) ?? 0);
  }

  /** Counts a talk that ends now, each day's part for that day. It is kept here until Redis was told. */
  addTalk(botId: string, ms: number): void {
    const page = this.#page(botId);
    if (page === undefined) return;
    const nowMs = this.#options.clock.wallMs();
    const todayMs = Math.min(ms, nowMs % dayMs);
    const parts: readonly (readonly [day: string, ms: number])[] = [
      [dayOf(nowMs), todayMs],
      // Of a talk that is older still nobody asks any more.
      [dayOf(nowMs - dayMs), Math.min(ms - todayMs, dayMs)],
    ];
    for (const [day, part] of parts) {
      const sum = (page.unsentMs.get(day) ?? 0) + Math.round(part);
      if (sum > 0) page.unsentMs.set(day, sum);
    }
    for (const day of page.unsentMs.keys()) {
      if (!parts.some(([known]) => known === day)) page.unsentMs.delete(day);
    }
    this.#schedule();
  }

  /** Brings to Redis what it was not told yet. Never rejects. */
  async flush(): Promise<void> {
    const tell = async (botId: string, page: Page): Promise<void> => {
      // What is on its way may have left before the last talk was added.
      await page.asking;
      if (page.unsentMs.size > 0) await this.#refresh(botId);
    };
    await Promise.all([...this.#pages].map(([botId, page]) => tell(botId, page)));
  }

  #schedule(): void {
    this.#next ??= this.#options.clock.after(this.#options.everyMs, () => {
      this.#next = null;
      const wanted = new Set(this.#options.bots());
      for (const [botId, page] of this.#pages) {
        if (wanted.has(botId)) continue;
        if (page.unsentMs.size > 0) wanted.add(botId);
        else if (page.asking === null) this.#pages.delete(botId);
      }
      for (const botId of wanted) void this.#refresh(botId);
      if (wanted.size > 0) this.#schedule();
    });
  }

  /** Where Redis fails, what was known stays valid and what was not told is told the next time. */
  async #refresh(botId: string): Promise<void> {
    const store = this.#options.store();
    const page = this.#page(botId);
    if (store === null || page === undefined || page.asking !== null) return;
    page.asking = this.#ask(store, botId, page).finally(() => {
      page.asking = null;
    });
    await page.asking;
  }

  async #ask(store: LedgerStore, botId: string, page: Page): Promise<void> {
    const { prefix } = this.#options;
    const talk = (day: string): string => `${prefix}.talk:{${botId}}:${day}`;
    try {
      for (const [day, ms] of page.unsentMs) {
        const sum = await store.add(talk(day), ms, keptSeconds);
        if (day === page.day) page.sharedMs = sum;
        const left = (page.unsentMs.get(day) ?? ms) - ms;
        if (left > 0) page.unsentMs.set(day, left);
        else page.unsentMs.delete(day);
      }
      const [halt, shared] = await store.get([`${prefix}.halt:{${botId}}`, talk(page.day)]);
      page.halted = typeof halt === "string";
      page.sharedMs = Number(shared ?? 0) || 0;
      this.#failures = 0;
    } catch (error) {
      // A connection that is lost tells of itself.
      if (this.#options.store() !== null && this.#failures++ % 100 === 0) this.#options.onFailure(error);
    }
  }

  #today(): string {
    return dayOf(this.#options.clock.wallMs());
  }

  #page(botId: string): Page | undefined {
    const day = this.#today();
    const known = this.#pages.get(botId);
    if (known !== undefined) {
      if (known.day !== day && known.asking === null) {
        known.day = day;
        known.sharedMs = 0;
      }
      return known;
    }
    if (this.#pages.size >= pagesMax) return undefined;
    const page: Page = { halted: false, day, sharedMs: 0, unsentMs: new Map(), asking: null };
    this.#pages.set(botId, page);
    return page;
  }
}

/** The UTC day of a wall-clock time: `2026-11-23`. */
function dayOf(wallMs: number): string {
  return new Date(wallMs).toISOString().slice(0, 10);
}
