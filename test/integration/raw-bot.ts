// A bot backend that knows nothing but the contract's page and the Redis protocol: no code of the service is used here.
import { nowMs } from "../support/clock.ts";
import { waitFor } from "../support/wait.ts";
import { RawRedis } from "./raw-redis.ts";

/** One event as it came over Pub/Sub. */
export interface BotEvent {
  /** The bytes as they came. */
  readonly raw: string;
  /** When they came, milliseconds since the epoch (clock.ts). */
  readonly atMs: number;
  readonly name: string;
  readonly seq: number;
  readonly callId: string;
  readonly body: Readonly<Record<string, unknown>>;
}

export interface TransferStatus {
  readonly status: string;
  readonly hangup: boolean;
  readonly number: string;
}
export interface TransferDetails {
  readonly transferId: string;
  readonly cause: string;
  readonly endedBy: string | null;
  readonly method: string;
  readonly sipCode: number | null;
  readonly sipReason: string | null;
  readonly q850: number | null;
  readonly ringMs: number | null;
  readonly answerMs: number | null;
  readonly talkMs: number | null;
  readonly trunk: string | null;
  readonly callerIdShown: string | null;
  readonly recording: string;
  readonly attempts: readonly {
    readonly trunk: string;
    readonly target: string;
    readonly sipCode: number | null;
    readonly cause: string;
    readonly ms: number;
  }[];
}
export interface Transfer {
  /** The bytes of `transferStatus` as they stand in the event. */
  readonly statusText: string;
  readonly status: TransferStatus;
  readonly details: TransferDetails;
  readonly event: BotEvent;
}

export type Reply = Readonly<Record<string, unknown>> & { readonly type: string };

interface EventOptions {
  readonly where?: (body: Readonly<Record<string, unknown>>, event: BotEvent) => boolean;
  /** Only events with a higher `seq` count; see `BotCall.seq`. */
  readonly after?: number;
  readonly timeoutMs?: number;
}

/** A little less than what is allowed, because what we count as a second and what the service counts is not the same. */
const commandsPerSecond = 18;

export class BotCall {
  readonly id: string;
  readonly replyTo: string;
  readonly #bot: RawBot;

  constructor(bot: RawBot, first: BotEvent) {
    this.#bot = bot;
    this.id = first.callId;
    this.replyTo = String(first.body["replyTo"]);
  }

  get events(): readonly BotEvent[] {
    return this.#bot.events.filter(({ callId }) => callId === this.id);
  }

  /** The `seq` of the last event so far. */
  get seq(): number {
    return this.events.at(-1)?.seq ?? 0;
  }

  all(name: string): readonly BotEvent[] {
    return this.events.filter((event) => event.name === name);
  }

  find(name: string, { where, after = 0 }: EventOptions = {}): BotEvent | undefined {
    return this.all(name).find((event) => event.seq > after && (where === undefined || where(event.body, event)));
  }

  async event(name: string, options: EventOptions = {}): Promise<BotEvent> {
    try {
      return await waitFor(() => this.find(name, options), {
        timeoutMs: options.timeoutMs ?? 8_000,
        what: `the event ${name}`,
      });
    } catch (error) {
      const told = this.events.map(({ raw }) => raw).join("\n");
      throw new Error(`the bot was not told ${name}; it was told:\n${told}`, { cause: error });
    }
  }

  /** The next transfer event, or the first one after `after`. */
  async transfer(options: EventOptions = {}): Promise<Transfer> {
    return transferOf(await this.event("transfer", options));
  }

  progress(phase: string, options: EventOptions = {}): Promise<BotEvent> {
    return this.event("transferProgress", { ...options, where: (body) => body["phase"] === phase });
  }

  /** Waits until the bot may send one more command. */
  turn(): Promise<void> {
    return this.#bot.turn();
  }

  /** Publishes whatever text; gives the number of receivers. */
  async publish(text: string | Uint8Array): Promise<number> {
    return Number(await this.#bot.redis.command("PUBLISH", this.replyTo, text));
  }

  /** Sends a command and gives its answer, `accepted` or `rejected`. */
  async command(replies: readonly unknown[], extra: Readonly<Record<string, unknown>> = {}): Promise<BotEvent> {
    await this.#bot.turn();
    const commandId = this.#bot.mintCommandId();
    const after = this.seq;
    const receivers = await this.publish(JSON.stringify({ commandId, ...extra, replies }));
    if (receivers === 0) throw new Error("nobody holds the call: PUBLISH had no receivers");
    return this.answer(commandId, after);
  }

  answer(commandId: string, after = 0): Promise<BotEvent> {
    return waitFor(
      () =>
        this.events.find(
          ({ name, seq, body }) =>
            seq > after && (name === "accepted" || name === "rejected") && body["commandId"] === commandId,
        ),
      { what: `the answer to the command ${commandId}`, timeoutMs: 8_000 },
    );
  }

  /** Sends a command that must be accepted. */
  async run(...replies: readonly Reply[]): Promise<BotEvent> {
    const answer = await this.command(replies);
    if (answer.name !== "accepted") throw new Error(`the command was refused: ${answer.raw}`);
    return answer;
  }

  /** Plays a prompt and waits until it is over. */
  async play(audioUrl: string): Promise<BotEvent> {
    const answer = await this.run({ type: "audio", audioUrl });
    return this.event("playback", { where: (body) => body["commandId"] === answer.body["commandId"] });
  }
}

export function transferOf(event: BotEvent): Transfer {
  const { transferStatus, transferDetails } = event.body;
  return {
    statusText: /"transferStatus":(\{[^}]*\})/.exec(event.raw)?.[1] ?? "",
    status: transferStatus as TransferStatus,
    details: transferDetails as TransferDetails,
    event,
  };
}

export class RawBot implements AsyncDisposable {
  readonly botId: string;
  readonly events: BotEvent[] = [];
  /** What did not look like an event of the contract. */
  readonly faults: string[] = [];
  readonly redis: RawRedis;
  readonly eventsName: string;
  #listener: RawRedis | undefined;
  #commands = 0;
  readonly #sentAtMs: number[] = [];
  readonly #taken = new Set<string>();

  private constructor(botId: string, prefix: string, redis: RawRedis) {
    this.botId = botId;
    this.eventsName = `${prefix}:{${botId}}:events`;
    this.redis = redis;
  }

  static async connect(port: number, botId: string, prefix = "pb"): Promise<RawBot> {
    const bot = new RawBot(botId, prefix, await RawRedis.connect(port));
    bot.#listener = await RawRedis.connect(port, (_channel, text) => bot.#heard(text));
    await bot.#listener.command("SUBSCRIBE", bot.eventsName);
    return bot;
  }

  /** Waits until one more command keeps the bot under the 20 a second that it may send (bot-contract §8). */
  async turn(): Promise<void> {
    await waitFor(
      () => {
        const now = nowMs();
        while (this.#sentAtMs[0] !== undefined && this.#sentAtMs[0] < now - 1_000) this.#sentAtMs.shift();
        return this.#sentAtMs.length < commandsPerSecond && this.#sentAtMs.push(now);
      },
      { what: "the bot's turn", timeoutMs: 30_000 },
    );
  }

  mintCommandId(): string {
    this.#commands += 1;
    return `command-${this.#commands}`;
  }

  /** The next call that was not asked for yet. */
  nextCall(timeoutMs = 8_000): Promise<BotCall> {
    return this.#call(({ callId }) => !this.#taken.has(callId), timeoutMs);
  }

  /** The call whose INVITE has this Call-ID. */
  callOf(sipCallId: string, timeoutMs = 8_000): Promise<BotCall> {
    return this.#call(({ body }) => body["sipCallId"] === sipCallId, timeoutMs);
  }

  async #call(wanted: (event: BotEvent) => boolean, timeoutMs: number): Promise<BotCall> {
    const first = await waitFor(() => this.events.find((event) => event.name === "call" && wanted(event)), {
      what: `a call for the bot ${this.botId}`,
      timeoutMs,
    });
    this.#taken.add(first.callId);
    return new BotCall(this, first);
  }

  /** Every event in the stream, oldest first, as text. */
  async stream(): Promise<readonly string[]> {
    const reply = await this.redis.command("XRANGE", this.eventsName, "-", "+");
    if (!Array.isArray(reply)) throw new Error("XRANGE gave no list");
    return reply.map((entry) => {
      const [, fields] = entry as readonly [string, readonly string[]];
      const place = fields.indexOf("event");
      return fields[place + 1] ?? "";
    });
  }

  #heard(raw: string): void {
    const atMs = nowMs();
    try {
      const body = JSON.parse(raw) as Readonly<Record<string, unknown>>;
      const { event, seq, callId } = body;
      if (typeof event !== "string" || typeof seq !== "number" || typeof callId !== "string") throw new Error("keys");
      this.events.push({ raw, atMs, name: event, seq, callId, body });
    } catch {
      this.faults.push(raw);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#listener?.[Symbol.asyncDispose]();
    await this.redis[Symbol.asyncDispose]();
  }
}

const envelopeKeys = ["v", "eventId", "seq", "event", "time", "botId", "callId", "replyTo", "caller", "called"];

/** What must hold of every call that is over (bot-contract §1, §2); gives the sentences of what does not. */
export function contractFaults(bot: RawBot, stream: readonly string[]): readonly string[] {
  const faults = bot.faults.map((text) => `not an event: ${text.slice(0, 200)}`);
  const published = bot.events.map(({ raw }) => raw);
  if (JSON.stringify(published) !== JSON.stringify(stream)) {
    faults.push(`stream and Pub/Sub differ: ${stream.length} against ${published.length} events`);
  }
  for (const callId of new Set(bot.events.map((event) => event.callId))) {
    const events = bot.events.filter((event) => event.callId === callId);
    const names = events.map(({ name }) => name);
    if (events.some(({ seq }, index) => seq !== index + 1)) faults.push(`${callId}: seq has gaps: ${names.join(" ")}`);
    if (names[0] !== "call") faults.push(`${callId}: the first event is ${names[0]}`);
    const hangups = names.filter((name) => name === "hangup").length;
    if (hangups !== 1) faults.push(`${callId}: ${hangups} hangup events: ${names.join(" ")}`);
    const behind = names.slice(names.indexOf("hangup") + 1).filter((name) => name !== "rejected");
    if (behind.length > 0) faults.push(`${callId}: events behind hangup: ${behind.join(" ")}`);
    for (const { raw, body, seq } of events) {
      const keys = Object.keys(body).slice(0, envelopeKeys.length);
      if (keys.join() !== envelopeKeys.join()) faults.push(`${callId}: keys of the envelope: ${keys.join()}`);
      if (body["v"] !== 1 || body["botId"] !== bot.botId || body["eventId"] !== `${callId}:${seq}`) {
        faults.push(`${callId}: envelope: ${raw.slice(0, 200)}`);
      }
    }
    faults.push(...transferFaults(callId, events));
  }
  return faults;
}

/** Each accepted `switch` has one terminal event, and one that was never accepted has at most one. */
function transferFaults(callId: string, events: readonly BotEvent[]): readonly string[] {
  const ids = events.filter(({ name }) => name === "transfer").map((event) => transferOf(event).details.transferId);
  const begun = new Set(
    events.filter(({ name }) => name === "transferProgress").map(({ body }) => String(body["transferId"])),
  );
  const faults: string[] = [];
  if (new Set(ids).size !== ids.length) faults.push(`${callId}: a transfer was told twice: ${ids.join(" ")}`);
  for (const id of begun) if (!ids.includes(id)) faults.push(`${callId}: the end of transfer ${id} was never told`);
  for (const event of events) {
    if (event.name !== "transfer") continue;
    const { status, statusText } = transferOf(event);
    const exact = JSON.stringify({ status: status.status, hangup: status.hangup, number: status.number });
    if (Object.keys(status).join() !== "status,hangup,number" || statusText !== exact) {
      faults.push(`${callId}: transferStatus is ${statusText}`);
    }
  }
  return faults;
}
