import { Redis } from "ioredis";
import type { RedisOptions } from "ioredis";
import type { ConnectionOptions } from "node:tls";

import type { BotEvent } from "../call/bot-event.ts";
import type { CallId, TransferId } from "../call/ids.ts";
import type { BotLink, Post } from "../call/ports.ts";
import type { Cancellable, Clock } from "../lib/clock.ts";
import { sentinelOptions, type Sentinels } from "../lib/redis-sentinel.ts";
import { CommandDesk } from "./command-desk.ts";
import { commandsChannel, contractLimits, eventsChannel, streamField } from "./contract.ts";
import { encodeEvent } from "./envelope.ts";
import type { BotFormat, CallAddress, EncodedEvent } from "./envelope.ts";
import { encodeJaicp, jaicpKnows } from "./jaicp.ts";
import { BotLedger } from "./ledger.ts";
import { Outbox } from "./outbox.ts";
import { TokenBucket } from "../lib/token-bucket.ts";
import type { TransferPolicy } from "./translate.ts";

/** Where Redis is. A `url` may carry everything but the password, which is a secret and comes apart. */
export interface RedisAddress {
  readonly url?: string;
  readonly host?: string;
  readonly port?: number;
  readonly username?: string;
  readonly password?: string;
  readonly db?: number;
  readonly tls?: ConnectionOptions;
  /** Who tells where the master is; host and port above do not count then. */
  readonly sentinel?: Sentinels;
}

/** The part of a structured log that is used here; pino's logger fits. */
export interface LinkLog {
  debug(fields: object, message: string): void;
  info(fields: object, message: string): void;
  warn(fields: object, message: string): void;
  error(fields: object, message: string): void;
}

export interface RedisBotLinkOptions {
  readonly redis: RedisAddress;
  /** First part of every name, `pb` unless configured. */
  readonly prefix: string;
  /** About how many events the stream of one bot keeps. */
  readonly streamMaxLength: number;
  readonly clock: Clock;
  readonly log: LinkLog;
  readonly post: Post;
  mintTransferId(): TransferId;
  /** Redis can be used, or is away. Calls go on without it; this is for readiness. */
  onState?(state: "ready" | "lost"): void;
  /** Redis has confirmed an event, so long after it happened. */
  onStored?(waitedMs: number): void;
  /** Told of the number of each event of a call before it is sent. */
  onSeq?(call: CallId, seq: number): void;
  readonly limits?: Partial<RedisBotLinkLimits>;
}

export interface RedisBotLinkLimits {
  /** Events that wait for Redis, over all calls and for one call. `call`, `transfer` and `hangup` may take twice as many. */
  readonly queuedMax: number;
  readonly queuedPerCallMax: number;
  /** How long the commands of an ended call are still answered. */
  readonly afterEndMs: number;
  /** Redis has this long to answer before the connection is given up. */
  readonly answerMs: number;
  readonly pingEveryMs: number;
  /** Wait before a refused subscription is tried again. */
  readonly refusedRetryMs: number;
  /** How often Redis is asked whether a bot that has calls is halted. */
  readonly ledgerEveryMs: number;
  /** How long the stream step recognises a repeat of one event. */
  readonly repeatGuardS: number;
}

const standardLimits: RedisBotLinkLimits = {
  queuedMax: 50_000,
  queuedPerCallMax: 2_000,
  afterEndMs: 5_000,
  answerMs: 5_000,
  pingEveryMs: 10_000,
  refusedRetryMs: 2_000,
  ledgerEveryMs: 500,
  repeatGuardS: 86_400,
};

/** A call whose events and commands go through the link. */
export interface OpenCall extends CallAddress {
  readonly format: BotFormat;
  readonly policy: TransferPolicy;
  /** The number of its last event; default 0. */
  readonly lastSeq?: number;
}

export interface RedisBotLinkStats {
  readonly calls: number;
  readonly bots: number;
  readonly timers: number;
  readonly queued: number;
  /** Since the start. */
  readonly published: number;
  readonly dropped: number;
  readonly commands: number;
  readonly failures: number;
}

// One step per batch, so that stream and Pub/Sub never disagree. The guard key is set after the append: where the append is
// refused (no memory, wrong type) nothing has happened and the repeat does it all. EVAL with the text, not EVALSHA: a
// restarted Redis has forgotten every script, and the text is short.
const publishScript = `
for i = 2, #KEYS do
  if redis.call('EXISTS', KEYS[i]) == 0 then
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', '${streamField}', ARGV[i + 1])
    redis.call('SET', KEYS[i], '1', 'EX', ARGV[2])
    redis.call('PUBLISH', KEYS[1], ARGV[i + 1])
  end
end
return #KEYS - 1`;

// Adding and limiting the life of the key are one step: a crash between them would leave it for ever.
const addScript = `
local sum = redis.call('INCRBY', KEYS[1], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return sum`;

const resubscribeChunk = 500;
const refusalsToldEveryMs = 1_000;
const neverDropped: ReadonlySet<BotEvent["event"]> = new Set(["call", "transfer", "hangup"]);

interface Line {
  readonly format: BotFormat;
  readonly address: CallAddress;
  readonly channel: string;
  readonly desk: CommandDesk;
  readonly outbox: Outbox;
  seq: number;
  subscribed: boolean;
  /** The call is over and its time for late commands has passed. */
  done: boolean;
  farewell: Cancellable | null;
}

interface Bot {
  readonly bucket: TokenBucket;
  calls: number;
}

/** The bot's end of Redis (bot-contract §1): events out in one atomic step, commands in, each answered once. */
export class RedisBotLink implements BotLink, AsyncDisposable {
  readonly #options: RedisBotLinkOptions;
  readonly #limits: RedisBotLinkLimits;
  readonly #writer: Redis;
  readonly #subscriber: Redis;
  readonly #lines = new Map<CallId, Line>();
  readonly #byChannel = new Map<string, Line>();
  readonly #bots = new Map<string, Bot>();
  readonly #ledger: BotLedger;
  readonly #waiting = new Set<(ready: boolean) => void>();
  #queued = 0;
  #published = 0;
  #dropped = 0;
  #commands = 0;
  #failures = 0;
  /** The subscriber is connected and every call's commands are heard again. */
  #listening = false;
  /** The writer's Redis was looked at and can be used. */
  #suitable = false;
  #state: "ready" | "lost" = "lost";
  #overflowing = false;
  #ping: Cancellable | null = null;
  /** Waits to make the subscriber's connection anew. */
  #again: Cancellable | null = null;
  #toldRefusalAt = Number.NEGATIVE_INFINITY;
  #closed = false;

  constructor(options: RedisBotLinkOptions) {
    this.#options = options;
    this.#limits = { ...standardLimits, ...options.limits };
    this.#writer = this.#connection("writer");
    this.#subscriber = this.#connection("subscriber");
    this.#ledger = new BotLedger({
      prefix: options.prefix,
      clock: options.clock,
      store: () =>
        this.#writer.status !== "ready"
          ? null
          : {
              get: (keys) => this.#writer.mget(...keys),
              add: async (key, ms, life) => Number(await this.#writer.eval(addScript, 1, key, ms, life)),
            },
      bots: () => this.#bots.keys(),
      everyMs: this.#limits.ledgerEveryMs,
      onFailure: (error) => {
        this.#failures += 1;
        options.log.error(
          { error: textOf(error) },
          "Redis does not tell whether a bot is halted, nor count its talk: see the rights in docs/bot-contract.md",
        );
      },
    });
    this.#writer.on("ready", () => void this.#judge());
    this.#writer.on("close", () =>
      this.#guarded(() => {
        this.#suitable = false;
        this.#connectionChanged();
      }),
    );
    this.#subscriber.on("ready", () => this.#guarded(() => this.#resubscribe()));
    this.#subscriber.on("close", () => this.#guarded(() => this.#unsubscribed()));
    this.#subscriber.on("messageBuffer", (channel: Buffer, bytes: Buffer) =>
      this.#guarded(() => this.#received(channel.toString("utf8"), bytes)),
    );
  }

  /** Begins to connect and keeps connecting until it is shut down; true once Redis can be used, false after `timeoutMs`. */
  async start(timeoutMs: number): Promise<boolean> {
    for (const connection of [this.#writer, this.#subscriber]) {
      // The reason of a failure comes to the error listener; connecting goes on by itself.
      if (connection.status === "wait") connection.connect().catch(() => undefined);
    }
    this.#schedulePing();
    if (this.ready()) return true;
    return new Promise((resolve) => {
      const timer = this.#options.clock.after(timeoutMs, () => settle(false));
      const settle = (ready: boolean): void => {
        timer.cancel();
        this.#waiting.delete(settle);
        resolve(ready);
      };
      this.#waiting.add(settle);
    });
  }

  /** True while Redis takes events and every call's commands are heard. */
  ready(): boolean {
    return this.#state === "ready";
  }

  /** What the operators of this installation keep about bots. */
  get ledger(): Pick<BotLedger, "halted" | "talkedMs" | "addTalk"> {
    return this.#ledger;
  }

  /** How long the oldest event that Redis has not confirmed has waited, in milliseconds; 0 when none waits. */
  lagMs(): number {
    const now = this.#options.clock.now();
    let lagMs = 0;
    for (const { outbox } of this.#lines.values()) lagMs = Math.max(lagMs, now - (outbox.waitingSince ?? now));
    return lagMs;
  }

  stats(): RedisBotLinkStats {
    let timers = this.#ledger.timers + (this.#ping === null ? 0 : 1) + (this.#again === null ? 0 : 1);
    for (const line of this.#lines.values()) timers += line.outbox.timers + (line.farewell === null ? 0 : 1);
    return {
      calls: this.#lines.size,
      bots: this.#bots.size,
      timers,
      queued: this.#queued,
      published: this.#published,
      dropped: this.#dropped,
      commands: this.#commands,
      failures: this.#failures,
    };
  }

  /** Begins to listen for the call's commands; its events wait until they are heard. Opening a call twice does nothing. */
  open(call: OpenCall): void {
    this.#guarded(() => {
      if (this.#closed || this.#lines.has(call.call)) return;
      const line = this.#line(call);
      this.#lines.set(call.call, line);
      this.#byChannel.set(line.channel, line);
      const bot = this.#bots.get(call.botId) ?? {
        bucket: new TokenBucket(contractLimits.commandsPerSecond, () => this.#options.clock.now()),
        calls: 0,
      };
      bot.calls += 1;
      this.#bots.set(call.botId, bot);
      if (bot.calls === 1) this.#ledger.open(call.botId);
      if (this.#subscriber.status === "ready") this.#subscribe([line]).catch(() => undefined);
    });
  }

  publish(call: CallId, event: BotEvent): void {
    this.#guarded(() => {
      const line = this.#lines.get(call);
      if (line === undefined) {
        this.#dropped += 1;
        this.#options.log.warn({ call, event: event.event }, "an event of a call that is not open was dropped");
        return;
      }
      this.#emit(line, event);
    });
  }

  /** The call is over. Its commands are still answered for a short while, and its events still reach Redis. */
  close(call: CallId): void {
    this.#guarded(() => {
      const line = this.#lines.get(call);
      if (line === undefined || line.farewell !== null || line.done) return;
      line.desk.end();
      line.farewell = this.#options.clock.after(this.#limits.afterEndMs, () =>
        this.#guarded(() => {
          line.farewell = null;
          line.done = true;
          this.#unsubscribe(line);
          this.#forgetWhenEmpty(line);
        }),
      );
    });
  }

  /** Waits up to `deadlineMs` for the queued events, then closes both connections. Events left over are counted in the log. */
  async shutdown(deadlineMs: number): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    const end = this.#options.clock.now() + deadlineMs;
    while (this.#queued > 0 && this.#options.clock.now() < end) {
      await new Promise<void>((resolve) => {
        this.#options.clock.after(Math.min(20, deadlineMs), resolve);
      });
    }
    await Promise.race([
      this.#ledger.flush(),
      new Promise<void>((resolve) => this.#options.clock.after(Math.max(1, end - this.#options.clock.now()), resolve)),
    ]);
    this.#ledger.stop();
    if (this.#queued > 0)
      this.#options.log.error({ events: this.#queued }, "events were lost: Redis did not take them");
    this.#ping?.cancel();
    this.#ping = null;
    this.#again?.cancel();
    this.#again = null;
    for (const line of this.#lines.values()) {
      line.farewell?.cancel();
      line.outbox.stop();
    }
    this.#lines.clear();
    this.#byChannel.clear();
    this.#bots.clear();
    this.#queued = 0;
    for (const settle of this.#waiting) settle(false);
    for (const connection of [this.#writer, this.#subscriber]) {
      connection.disconnect();
      // Half-closing would wait for a peer that may be gone.
      connection.stream?.destroy();
    }
    this.#state = "lost";
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.shutdown(2_000);
  }

  // ------------------------------------------------------------------------------------------------- events out

  #emit(line: Line, event: BotEvent): void {
    if (line.format === "patchbay" || jaicpKnows(event)) this.#enqueue(line, event);
    if (event.event === "accepted" || event.event === "rejected") line.desk.settle(event);
    if (event.event === "hangup") line.desk.end();
  }

  #enqueue(line: Line, event: BotEvent): void {
    const { clock, prefix, log } = this.#options;
    line.seq += 1;
    this.#options.onSeq?.(line.address.call, line.seq);
    const max = neverDropped.has(event.event) ? 2 : 1;
    if (this.#queued >= max * this.#limits.queuedMax || line.outbox.size >= max * this.#limits.queuedPerCallMax) {
      // The number of the lost event is used up, so that the bot sees the gap.
      this.#dropped += 1;
      if (!this.#overflowing) log.error({ queued: this.#queued }, "events are lost: too many wait for Redis");
      this.#overflowing = true;
    } else {
      this.#queued += 1;
      const encode = line.format === "jaicp" ? encodeJaicp : encodeEvent;
      line.outbox.add(encode(line.address, prefix, line.seq, clock.wallMs(), event));
    }
  }

  async #send(line: Line, events: readonly EncodedEvent[]): Promise<void> {
    const { prefix, streamMaxLength, clock, log } = this.#options;
    const { botId } = line.address;
    const keys = [
      eventsChannel(prefix, botId),
      // The guard keys start with "pb." and not "pb:", so that no bot's rights reach them; the tag keeps them in its slot.
      ...events.map((event) => `${prefix}.event:{${botId}}:${event.eventId}`),
    ];
    // A frozen Redis or a dead network answers nothing at all. Giving up is safe: the repeat is recognised.
    const deadline = clock.after(this.#limits.answerMs, () => {
      log.warn({}, "Redis does not answer, the connection is given up");
      this.#writer.stream?.destroy();
    });
    try {
      await this.#writer.eval(
        publishScript,
        keys.length,
        ...keys,
        streamMaxLength,
        this.#limits.repeatGuardS,
        ...events.map((event) => event.body),
      );
    } finally {
      deadline.cancel();
    }
    this.#queued = Math.max(0, this.#queued - events.length);
    this.#published += events.length;
    this.#overflowing = false;
  }

  /** A lost connection is told once by `onState`; an error Redis answers with is news, but not once per call. */
  #refused(error: unknown, call: CallId): void {
    this.#failures += 1;
    const now = this.#options.clock.now();
    if (this.#writer.status !== "ready" || now - this.#toldRefusalAt < refusalsToldEveryMs) return;
    this.#toldRefusalAt = now;
    this.#options.log.error({ error: textOf(error), call }, "Redis refused an event, it is sent again");
  }

  // ------------------------------------------------------------------------------------------------ commands in

  #received(channel: string, bytes: Buffer): void {
    const line = this.#byChannel.get(channel);
    if (line === undefined || this.#closed) return;
    this.#commands += 1;
    line.desk.receive(bytes);
  }

  #line(open: OpenCall): Line {
    const { clock, post, prefix, log } = this.#options;
    const { call, botId, caller, called, policy, format, lastSeq = 0 } = open;
    const line: Line = {
      format,
      address: { call, botId, caller, called },
      channel: commandsChannel(prefix, botId, call),
      seq: lastSeq,
      subscribed: false,
      done: false,
      farewell: null,
      desk: new CommandDesk({
        call,
        policy,
        format,
        mintTransferId: () => this.#options.mintTransferId(),
        post: (event) => post(call, event),
        tell: (event) => this.#emit(line, event),
        allow: () => this.#bots.get(botId)?.bucket.take() ?? false,
        onFault: (error) => {
          this.#failures += 1;
          log.error({ err: error, call }, "a command could not be judged");
        },
      }),
      outbox: new Outbox({
        clock,
        send: (events) => this.#send(line, events),
        canSend: () => line.subscribed && this.#suitable && this.#writer.status === "ready",
        onFailure: (error) => this.#refused(error, call),
        onStored: (waitedMs) => this.#options.onStored?.(waitedMs),
        onEmpty: () => this.#guarded(() => this.#forgetWhenEmpty(line)),
      }),
    };
    return line;
  }

  /** Settles when the commands of these calls are heard. */
  async #subscribe(lines: readonly Line[]): Promise<void> {
    const chunks: Line[][] = [];
    for (let at = 0; at < lines.length; at += resubscribeChunk) chunks.push(lines.slice(at, at + resubscribeChunk));
    try {
      await Promise.all(
        chunks.map(async (chunk) => {
          await this.#subscriber.subscribe(...chunk.map((line) => line.channel));
          for (const line of chunk) this.#heard(line);
        }),
      );
    } catch (error) {
      this.#subscribeFailed(error);
      throw error;
    }
  }

  #heard(line: Line): void {
    if (this.#lines.get(line.address.call) !== line) return;
    line.subscribed = true;
    line.outbox.flush();
  }

  #subscribeFailed(error: unknown): void {
    if (this.#closed || this.#subscriber.status !== "ready") return;
    this.#failures += 1;
    if (this.#again !== null) return;
    this.#options.log.error({ error: textOf(error) }, "Redis refused a subscription, the connection is made anew");
    // Rights that are missing are missing at once again, so the connection is not made anew in a circle.
    this.#again = this.#options.clock.after(this.#limits.refusedRetryMs, () => {
      this.#again = null;
      this.#subscriber.stream?.destroy();
    });
  }

  #resubscribe(): void {
    const lines = [...this.#lines.values()];
    this.#subscribe(lines.filter((line) => !line.done)).then(
      () =>
        this.#guarded(() => {
          if (this.#subscriber.status !== "ready") return;
          this.#listening = true;
          // A call that ended long before Redis came back has nobody to hear any more, only events to deliver.
          for (const line of lines) if (line.done) this.#heard(line);
          this.#connectionChanged();
        }),
      // Told and made anew in #subscribeFailed, or the connection is gone again.
      () => undefined,
    );
  }

  #unsubscribed(): void {
    for (const line of this.#lines.values()) line.subscribed = false;
    this.#listening = false;
    this.#connectionChanged();
  }

  #unsubscribe(line: Line): void {
    this.#byChannel.delete(line.channel);
    if (this.#subscriber.status !== "ready") return;
    this.#subscriber.unsubscribe(line.channel).catch(() => undefined);
  }

  #forgetWhenEmpty(line: Line): void {
    const { call, botId } = line.address;
    if (!line.done || line.outbox.size > 0 || this.#lines.get(call) !== line) return;
    this.#lines.delete(call);
    line.outbox.stop();
    const bot = this.#bots.get(botId);
    if (bot === undefined) return;
    bot.calls -= 1;
    if (bot.calls === 0) this.#bots.delete(botId);
  }

  // ------------------------------------------------------------------------------------------------ connections

  #connection(role: "writer" | "subscriber"): Redis {
    const { url, sentinel, ...rest } = this.#options.redis;
    const { answerMs } = this.#limits;
    const retryMs = (times: number): number | null =>
      this.#closed ? null : Math.min(50 * 2 ** Math.min(times - 1, 6), 2_000);
    const options = {
      ...rest,
      ...(sentinel === undefined ? {} : sentinelOptions(sentinel, { answerMs, retryMs })),
      lazyConnect: true,
      connectionName: `patchbay-${role}`,
      // RESP2: what is used here is the same in both, and every Redis since 6 and every proxy speaks it.
      protocol: 2,
      disableClientInfo: true,
      // Nothing is queued or repeated by the library: it would repeat what it cannot know to be safe. Events wait in the
      // outbox, subscriptions are made anew from the calls that are open.
      enableOfflineQueue: false,
      autoResendUnfulfilledCommands: false,
      autoResubscribe: false,
      maxRetriesPerRequest: 0,
      connectTimeout: answerMs,
      retryStrategy: retryMs,
      reconnectOnError: (error: Error) => (error.message.startsWith("READONLY") ? 1 : false),
    } satisfies RedisOptions;
    const connection =
      url === undefined ? new Redis(options) : new Redis(withoutUser(url), { ...userOf(url), ...options });
    connection.on("error", (error: Error) => {
      if (this.#closed) return;
      this.#options.log.warn({ error: textOf(error), connection: role }, "the connection to Redis failed");
    });
    return connection;
  }

  /** A node of a cluster would take the events of some bots and turn those of the others away, so it takes none. */
  async #judge(): Promise<void> {
    // Who may not ask is believed: the rights are the operator's business.
    const facts = await this.#writer.info("server").catch(() => "");
    this.#guarded(() => {
      if (this.#closed || this.#writer.status !== "ready") return;
      this.#suitable = !/^redis_mode:cluster\s*$/m.test(facts);
      if (!this.#suitable) {
        const { log } = this.#options;
        log.error({}, "this Redis is a node of a cluster, which is not supported: see docs/operations.md");
      }
      this.#connectionChanged();
    });
  }

  #connectionChanged(): void {
    if (this.#closed) return;
    const state = this.#writer.status === "ready" && this.#suitable && this.#listening ? "ready" : "lost";
    if (state === this.#state) return;
    this.#state = state;
    if (state === "lost") {
      this.#options.log.error({ calls: this.#lines.size }, "Redis is away; calls go on and events wait");
      this.#options.onState?.(state);
      return;
    }
    this.#options.log.info({ calls: this.#lines.size, queued: this.#queued }, "Redis can be used");
    for (const line of this.#lines.values()) line.outbox.flush();
    for (const settle of this.#waiting) settle(true);
    this.#options.onState?.(state);
  }

  #schedulePing(): void {
    this.#ping?.cancel();
    this.#ping = this.#options.clock.after(this.#limits.pingEveryMs, () =>
      this.#guarded(() => {
        for (const connection of [this.#writer, this.#subscriber]) this.#pingOne(connection);
        this.#schedulePing();
      }),
    );
  }

  /** A connection whose other end is gone without a word looks like a quiet one: it must answer now and then. */
  #pingOne(connection: Redis): void {
    if (connection.status !== "ready") return;
    const deadline = this.#options.clock.after(this.#limits.answerMs, () => {
      this.#options.log.warn({}, "Redis does not answer a PING, the connection is made anew");
      connection.stream?.destroy();
    });
    connection.ping().then(
      () => deadline.cancel(),
      () => deadline.cancel(),
    );
  }

  /** Nothing throws out of a method of the port or out of a socket's callback. */
  #guarded(run: () => void): void {
    try {
      run();
    } catch (error) {
      this.#failures += 1;
      this.#options.log.error({ err: error }, "the bot link failed");
    }
  }
}

/** ioredis takes the empty password of a URL that names a user alone for the password, and not the one given beside it. */
function userOf(url: string): { readonly username?: string } {
  const username = URL.canParse(url) ? decodeURIComponent(new URL(url).username) : "";
  return username === "" ? {} : { username };
}

function withoutUser(url: string): string {
  if (!URL.canParse(url)) return url;
  const parsed = new URL(url);
  parsed.username = "";
  return parsed.password === "" ? parsed.href : url;
}

/** ioredis hangs the refused command on its errors, with the password of AUTH or a whole event: only the text is logged. */
function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
