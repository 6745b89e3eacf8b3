// Listens to everything that goes over Redis, events and commands alike, without taking part in it.
import { Redis } from "ioredis";
import { nowMs } from "../test/support/clock.ts";

export interface WireObject {
  readonly [key: string]: unknown;
}

export interface RedisMessage {
  /** When it arrived, milliseconds since the epoch. */
  readonly atMs: number;
  /** An event of Patchbay's, or a command of the bot's. */
  readonly kind: "event" | "command";
  readonly channel: string;
  /** The very text that was published. */
  readonly text: string;
  readonly body: WireObject;
}

function isObject(value: unknown): value is WireObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** One message of a Redis channel; undefined when it is not the JSON object that the bot contract asks for. */
export function readMessage(channel: string, text: string, atMs: number): RedisMessage | undefined {
  const kind = channel.endsWith(":events") ? "event" : "command";
  try {
    const body: unknown = JSON.parse(text);
    return isObject(body) ? { atMs, kind, channel, text, body } : undefined;
  } catch {
    return undefined;
  }
}

export class RedisWitness implements AsyncDisposable {
  readonly messages: RedisMessage[] = [];
  readonly #redis: Redis;

  private constructor(redis: Redis) {
    this.#redis = redis;
  }

  /** Comes back when it listens. `seen` is called with each message as it arrives. */
  static async start(url: string, prefix: string, seen: (message: RedisMessage) => void): Promise<RedisWitness> {
    const redis = new Redis(url, { lazyConnect: true, maxRetriesPerRequest: null });
    // Without a listener ioredis prints its errors; what matters of them shows as an event that is missing.
    redis.on("error", () => undefined);
    const witness = new RedisWitness(redis);
    redis.on("pmessage", (_pattern: string, channel: string, text: string) => {
      const message = readMessage(channel, text, nowMs());
      if (message === undefined) return;
      witness.messages.push(message);
      seen(message);
    });
    await redis.connect();
    await redis.psubscribe(`${prefix}:*`);
    return witness;
  }

  get events(): readonly WireObject[] {
    return this.messages.filter(({ kind }) => kind === "event").map(({ body }) => body);
  }
  get commands(): readonly WireObject[] {
    return this.messages.filter(({ kind }) => kind === "command").map(({ body }) => body);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#redis.disconnect();
  }
}
