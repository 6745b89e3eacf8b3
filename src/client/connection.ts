import { Redis } from "ioredis";
import type { RedisOptions } from "ioredis";
import type { ConnectionOptions } from "node:tls";
import { sentinelOptions, type Sentinels } from "../lib/redis-sentinel.ts";

/** Where the bot's Redis is, and its user there. */
export interface RedisAddress {
  readonly url: string;
  readonly username?: string;
  readonly password?: string;
  readonly tls?: ConnectionOptions;
  /** Redis Sentinels tell where the master is; of `url` only the scheme and the database count then. */
  readonly sentinel?: Sentinels;
}

const answerMs = 5_000;

/** A connection that stays usable under the rights of a bot's ACL user: no INFO, no CLIENT SETINFO, no HELLO. */
export function connectRedis(address: string | RedisAddress, name: string, onError: (error: Error) => void): Redis {
  const { url, sentinel, ...rest } = typeof address === "string" ? { url: address, sentinel: undefined } : address;
  const retryMs = (times: number): number => Math.min(50 * 2 ** Math.min(times - 1, 6), 2_000);
  const options = {
    ...rest,
    ...(sentinel === undefined ? {} : sentinelOptions(sentinel, { answerMs, retryMs })),
    connectionName: name,
    protocol: 2,
    disableClientInfo: true,
    // The ready check needs INFO. A Redis that is still loading answers with an error, and the caller tries again.
    enableReadyCheck: false,
    // What is safe to repeat is known above: reads go on from a position, commands have an id.
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    retryStrategy: retryMs,
  } satisfies RedisOptions;
  const redis = new Redis(url, options);
  redis.on("error", (error: Error) => onError(withoutCommand(error)));
  return redis;
}

/** ioredis hangs the refused command on its errors: the password of AUTH, or what was said to a call. */
export function withoutCommand<Thrown>(error: Thrown): Thrown {
  if (error instanceof Error && "command" in error) delete error.command;
  return error;
}

/** Resolves when commands can be sent; false when the connection was closed for good or `timeoutMs` passed. */
export async function whenConnected(redis: Redis, timeoutMs: number): Promise<boolean> {
  if (redis.status === "ready") return true;
  if (redis.status === "end") return false;
  return new Promise((resolve) => {
    const settle = (connected: boolean): void => {
      clearTimeout(timer);
      redis.off("ready", ready);
      redis.off("end", ended);
      resolve(connected);
    };
    const ready = (): void => settle(true);
    const ended = (): void => settle(false);
    const timer = setTimeout(() => settle(false), timeoutMs);
    redis.on("ready", ready);
    redis.on("end", ended);
  });
}

/** Closes at once, also when the other end is gone and would never close its half. */
export function dropConnection(redis: Redis): void {
  redis.disconnect();
  redis.stream?.destroy();
}

export type { Redis } from "ioredis";
