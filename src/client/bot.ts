import { randomUUID } from "node:crypto";

import { contractLimits, eventsChannel, eventSchema, eventSchemas, streamField } from "../bot/contract.ts";
import type { WireEvent, WireEventOf } from "../bot/contract.ts";
import { BotCall } from "./call.ts";
import type { CallLink } from "./call.ts";
import type { CommandTiming } from "./command-sender.ts";
import { connectRedis, dropConnection } from "./connection.ts";
import type { Redis, RedisAddress } from "./connection.ts";
import { BadEventError, CallEndedError, CallGoneError, CommandRejectedError } from "./errors.ts";
import { EventReader } from "./event-reader.ts";
import { Pacer } from "./pacer.ts";

export interface BotOptions {
  readonly redis: string | RedisAddress;
  readonly botId: string;
  /** Name of this worker among the workers of the bot. One that keeps its name across restarts gets its calls back. */
  readonly worker?: string;
  /**
   * A consumer group in Redis that remembers how far this worker has read, also while it is not running. It must be this
   * worker's own: workers of one group share the events, and a call needs all of its events.
   */
  readonly group?: string;
  /** First part of every name, as Patchbay is configured; `pb` unless given. */
  readonly prefix?: string;
  /** Where reading begins: `new` (default), `beginning`, or a position kept from an earlier run (`bot.position`). */
  readonly startAt?: string;
  /** What becomes of a call whose callback failed: `log` (default) reports it, `hangup` also ends the call. */
  readonly onError?: "log" | "hangup";
  /** False: calls are not taken, every worker's callback runs. */
  readonly take?: boolean;
  readonly timing?: Partial<CommandTiming>;
  /** How often a call is asked whether it still exists; 120 seconds unless given. */
  readonly livenessMs?: number;
}

export type CallCallback = (call: BotCall) => Promise<void> | void;

export interface BotEvents {
  /** A callback or a listener failed, Redis refused something, or an event did not follow the contract. */
  error: (error: unknown, call: BotCall | null) => void;
  /** Events of a call are missing: they were trimmed away, or Patchbay could not keep them. */
  gap: (gap: { readonly callId: string; readonly expected: number; readonly got: number }) => void;
}

// A little under the contract's limit, because the clocks of both ends are not one.
const commandsPerSecond = contractLimits.commandsPerSecond - 1;
const livenessMsPerCall = 500;
const endedRemembered = 1_000;
const heldEntriesMax = 10_000;

interface HeldCall {
  readonly call: BotCall;
  seq: number;
  /** Stream entries that are acknowledged when the call is over, so that a restarted worker of a group gets them again. */
  readonly entries: string[];
}

/** Begins to read the bot's events at once; `onCall` may be set until the next turn of the event loop. */
export function connectBot(options: BotOptions): Bot {
  return new Bot(options);
}

/** A bot backend: takes the calls of one botId and runs a callback for each. */
export class Bot implements AsyncDisposable {
  readonly botId: string;
  readonly worker: string;
  readonly #options: BotOptions;
  readonly #reader: EventReader;
  readonly #commands: Redis;
  readonly #stream: string;
  readonly #reading: Promise<void>;
  readonly #held = new Map<string, HeldCall>();
  readonly #ended = new Set<string>();
  readonly #listeners: { readonly [Name in keyof BotEvents]: Set<BotEvents[Name]> } = {
    error: new Set(),
    gap: new Set(),
  };
  readonly #pacer = new Pacer(commandsPerSecond, commandsPerSecond);
  /** Calls seen while catching up: most of them are over before the end of what was missed is reached. */
  #offeredCalls: HeldCall[] = [];
  #callback: CallCallback | null = null;
  #closed = false;

  constructor(options: BotOptions) {
    this.#options = options;
    this.botId = options.botId;
    this.worker = options.worker ?? `worker-${randomUUID()}`;
    this.#stream = eventsChannel(options.prefix ?? "pb", options.botId);
    const connectionFailed = (error: Error): void => {
      if (!this.#closed) this.#report(error, null);
    };
    this.#commands = connectRedis(options.redis, "patchbay-bot-commands", connectionFailed);
    this.#reader = new EventReader({
      redis: connectRedis(options.redis, "patchbay-bot-events", connectionFailed),
      stream: this.#stream,
      field: streamField,
      group: options.group === undefined ? null : { name: options.group, consumer: this.worker },
      startAt: options.startAt ?? "new",
      onEntry: (id, body) => this.#entry(id, body),
      onTrimmed: (id) => this.#acknowledge([id]),
      onCaughtUp: () => this.#serveOffered(),
      onError: (error) => this.#report(error, null),
    });
    this.#reading = this.#reader.run();
  }

  /** Settles when the bot is connected and misses no call from now on. */
  get ready(): Promise<void> {
    return this.#reader.started;
  }

  /** Id of the last stream entry that was read; `startAt` of a later run. Null before the first and with a group. */
  get position(): string | null {
    return this.#reader.position;
  }

  /** Calls this worker has. */
  get calls(): readonly BotCall[] {
    return [...this.#held.values()].map(({ call }) => call);
  }

  /** Runs for every call this worker has taken. */
  onCall(callback: CallCallback): this {
    this.#callback = callback;
    return this;
  }

  on<Name extends keyof BotEvents>(name: Name, listener: BotEvents[Name]): this {
    this.#listeners[name].add(listener);
    return this;
  }

  /** Stops reading and closes the connections. Calls go on without this worker; what waits for them here is released. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.#reader.close();
    for (const { call } of this.#held.values()) {
      call.over({ by: "service", sipCode: null, reason: "the bot was closed", durationMs: 0 });
    }
    this.#held.clear();
    dropConnection(this.#commands);
    await this.#reading;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #entry(id: string, body: string): void {
    let held: HeldCall | undefined;
    try {
      const event = parseEvent(body);
      if (event !== null && event.botId === this.botId) held = this.#event(event);
    } catch (error) {
      this.#report(error, null);
    }
    if (this.#options.group === undefined) return;
    // The entries of a call that goes on stay pending, so that this worker gets them again if it restarts.
    if (held === undefined) this.#acknowledge([id]);
    else if (!held.entries.includes(id) && held.entries.push(id) > heldEntriesMax)
      this.#acknowledge(held.entries.splice(1, 1));
  }

  /** The call the event belongs to, while it is held here and goes on. */
  #event(event: WireEvent): HeldCall | undefined {
    const known = this.#held.get(event.callId);
    if (known === undefined) return event.event === "call" ? this.#offered(event) : undefined;
    if (event.seq <= known.seq) return known;
    if (event.seq > known.seq + 1) {
      const gap = { callId: event.callId, expected: known.seq + 1, got: event.seq };
      for (const listener of this.#listeners.gap) {
        try {
          listener(gap);
        } catch (error) {
          this.#report(error, known.call);
        }
      }
    }
    known.seq = event.seq;
    known.call.receive(event);
    if (!known.call.isOver) return known;
    this.#forget(known);
    return undefined;
  }

  #offered(event: WireEventOf<"call">): HeldCall | undefined {
    if (this.#ended.has(event.callId)) return undefined;
    const link: CallLink = {
      commands: this.#commands,
      worker: this.worker,
      timing: { answerMs: 1_500, attemptsMax: 5, giveUpMs: 15_000, ...this.#options.timing },
      pacer: this.#pacer,
      // The checks of many calls share the bot's rate limit, so they grow rarer with the number of calls.
      livenessMs: () => Math.max(this.#options.livenessMs ?? 120_000, this.#held.size * livenessMsPerCall),
      onListenerError: (error, call) => this.#report(error, call),
    };
    const held: HeldCall = { call: new BotCall(link, event), seq: event.seq, entries: [] };
    this.#held.set(event.callId, held);
    void held.call.ended.then(() => this.#forget(held));
    this.#offeredCalls.push(held);
    return held;
  }

  #serveOffered(): void {
    const offered = this.#offeredCalls;
    this.#offeredCalls = [];
    for (const held of offered) if (!held.call.isOver) void this.#serve(held);
  }

  async #serve(held: HeldCall): Promise<void> {
    const { call } = held;
    try {
      if (this.#options.take !== false && !(await this.#taken(call))) return this.#forget(held);
      call.watch();
      await this.#callback?.(call);
    } catch (error) {
      // The callback ended with its call, as it should.
      if (error instanceof CallEndedError || error instanceof CallGoneError || this.#closed) return;
      this.#report(error, call);
      if (this.#options.onError === "hangup") await this.#hangUp(call);
    }
  }

  /** False when another worker has the call, or nobody has it any more. */
  async #taken(call: BotCall): Promise<boolean> {
    try {
      await call.take();
      return true;
    } catch (error) {
      const others = error instanceof CommandRejectedError && error.code === "taken";
      if (!others && !(error instanceof CallEndedError) && !(error instanceof CallGoneError)) this.#report(error, call);
      return false;
    }
  }

  async #hangUp(call: BotCall): Promise<void> {
    try {
      await call.send([{ type: "stop" }, { type: "hangup" }]);
    } catch (error) {
      if (!(error instanceof CallEndedError)) this.#report(error, call);
    }
  }

  #forget(held: HeldCall): void {
    const { callId } = held.call;
    if (this.#held.get(callId) !== held) return;
    this.#held.delete(callId);
    this.#ended.add(callId);
    if (this.#ended.size > endedRemembered) {
      const oldest = this.#ended.values().next();
      if (!oldest.done) this.#ended.delete(oldest.value);
    }
    this.#acknowledge(held.entries.splice(0));
  }

  #acknowledge(ids: readonly string[]): void {
    const { group } = this.#options;
    if (group === undefined || ids.length === 0 || this.#closed) return;
    // What is not acknowledged now is read again after the next loss of the connection, and then acknowledged.
    this.#commands.xack(this.#stream, group, ...ids).catch(() => undefined);
  }

  #report(error: unknown, call: BotCall | null): void {
    if (this.#listeners.error.size === 0) complain(error);
    for (const listener of this.#listeners.error) {
      try {
        listener(error, call);
      } catch (failure) {
        complain(failure);
      }
    }
  }
}

/** A failure nobody listens for must not be lost without a word. */
function complain(error: unknown): void {
  // oxlint-disable-next-line no-console -- a library knows no other place to say it
  console.error("patchbay/client:", error);
}

/** Null for an event of a later version of the contract; throws BadEventError. */
function parseEvent(body: string): WireEvent | null {
  let json: unknown;
  try {
    json = JSON.parse(body);
  } catch (error) {
    throw new BadEventError("an event is not JSON", { cause: error });
  }
  const parsed = eventSchema.safeParse(json);
  if (parsed.success) return parsed.data;
  const name = typeof json === "object" && json !== null && "event" in json ? json.event : undefined;
  if (typeof name === "string" && !Object.hasOwn(eventSchemas, name)) return null;
  throw new BadEventError("an event does not follow the contract", { cause: parsed.error });
}
