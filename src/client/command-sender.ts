import type { WireReply } from "../bot/contract.ts";
import { whenConnected, withoutCommand } from "./connection.ts";
import type { Redis } from "./connection.ts";
import { delay } from "./deferred.ts";
import { CallGoneError, CommandRejectedError, NoAnswerError } from "./errors.ts";

export interface CommandTiming {
  /** How long an answer may take before the command is sent again. */
  readonly answerMs: number;
  /** How often one command is sent at most. */
  readonly attemptsMax: number;
  /** How long a command waits for a Redis that is away, or for its turn under the rate limit. */
  readonly giveUpMs: number;
}

export interface OutgoingCommand {
  readonly commandId: string;
  readonly worker: string | null;
  readonly replies: readonly WireReply[];
}

export type Answer =
  | { readonly event: "accepted" }
  | { readonly event: "rejected"; readonly code: string; readonly message: string; readonly pointer: string | null };

const retryMs = 100;

/**
 * Sends a command until it is answered. The same commandId makes a repeat harmless: Patchbay answers it with its first answer.
 * Rejects with CommandRejectedError, CallGoneError or NoAnswerError, or with what `answer` rejects with.
 */
export async function sendCommand(
  redis: Redis,
  channel: string,
  command: OutgoingCommand,
  answer: Promise<Answer>,
  timing: CommandTiming,
): Promise<void> {
  const { commandId, worker, replies } = command;
  const body = JSON.stringify(worker === null ? { commandId, replies } : { commandId, worker, replies });
  const giveUpAt = performance.now() + timing.giveUpMs;
  let receivers = 0;
  let lastError: unknown;
  for (let attempt = 0; attempt < timing.attemptsMax;) {
    try {
      receivers = await redis.publish(channel, body);
      attempt += 1;
      lastError = undefined;
    } catch (error) {
      lastError = withoutCommand(error);
      // Not an attempt: nothing was received. A connection that answers with an error is not asked at once again.
      if (performance.now() >= giveUpAt || redis.status === "end") break;
      const again =
        redis.status === "ready" ? delay(retryMs) : whenConnected(redis, Math.max(0, giveUpAt - performance.now()));
      // The call may end, or the bot be closed, while Redis is away: then nobody waits for Redis any longer.
      await Promise.race([again, answer]);
      continue;
    }
    const settled = await within(answer, receivers === 0 ? retryMs * 2 ** attempt : timing.answerMs);
    if (settled === null) continue;
    if (settled.event === "accepted") return;
    throw new CommandRejectedError(settled.code, settled.message, settled.pointer);
  }
  if (lastError !== undefined) throw new NoAnswerError("Redis took no command", { cause: lastError });
  if (receivers === 0) throw new CallGoneError();
  throw new NoAnswerError(`the command was not answered, sent ${timing.attemptsMax} times`);
}

/** What the promise gives within the time, else null. */
async function within<Value>(promise: Promise<Value>, ms: number): Promise<Value | null> {
  let timer: NodeJS.Timeout | undefined;
  try {
    return await Promise.race([
      promise,
      new Promise<null>((resolve) => {
        timer = setTimeout(() => resolve(null), ms);
      }),
    ]);
  } finally {
    clearTimeout(timer);
  }
}
