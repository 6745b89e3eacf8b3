import type { BotEvent } from "../call/bot-event.ts";
import type { CallEvent } from "../call/event.ts";
import type { CallId, CommandId, TransferId } from "../call/ids.ts";
import { contractLimits } from "./contract.ts";
import type { RejectionCode } from "./contract.ts";
import type { BotFormat } from "./envelope.ts";
import { commandOfJaicp } from "./jaicp.ts";
import { readJson } from "./json.ts";
import { readFrame, translate } from "./translate.ts";
import type { Notice, TransferPolicy } from "./translate.ts";

type Answer = Extract<BotEvent, { readonly event: "accepted" | "rejected" }>;

export interface CommandDeskOptions {
  readonly call: CallId;
  readonly policy: TransferPolicy;
  readonly format: BotFormat;
  mintTransferId(): TransferId;
  /** Gives the command to the call; false when no such call is held. */
  post(event: CallEvent): boolean;
  /** Publishes an answer; it comes back to `settle`. */
  tell(event: BotEvent): void;
  /** One of the bot's commands passes its rate limit. */
  allow(): boolean;
  /** A bug in what judges commands; the bot is answered all the same. */
  onFault(error: unknown): void;
}

// A bot that floods is not worth the reading of large commands: beyond the limit only short ones are looked into for their
// commandId.
const floodBytesMax = 4096;
const internalFault = { code: "internal", message: "the service could not read this command", pointer: null } as const;
/** Command ids that are remembered per call. */
const answersMax = 4096;

/**
 * Takes the commands of one call, as bytes from Redis, and answers each exactly once: refused here, or handed to the call,
 * which answers itself. A repeat of a command gets the first answer and does nothing (bot-contract §3).
 */
export class CommandDesk {
  readonly #options: CommandDeskOptions;
  /** Null while the call has not answered yet. */
  readonly #answers = new Map<string, Answer | null>();
  /** What is told after `accepted`. */
  readonly #warnings = new Map<string, readonly Notice[]>();
  #minted = 0;
  #ended = false;

  constructor(options: CommandDeskOptions) {
    this.#options = options;
  }

  /** Every command from now on is for a call that is over. */
  end(): void {
    this.#ended = true;
  }

  /** Judges one command. Never throws. */
  receive(bytes: Uint8Array): void {
    try {
      this.#receive(bytes);
    } catch (error) {
      this.#options.onFault(error);
      this.#reject(null, internalFault);
    }
  }

  #receive(bytes: Uint8Array): void {
    const allowed = this.#options.allow();
    if (!allowed && bytes.byteLength > floodBytesMax) return this.#rateLimited(null);
    const json = readJson(bytes);
    if (!json.ok) return allowed ? this.#reject(null, json) : this.#rateLimited(null);
    const outcome = readFrame(this.#options.format === "jaicp" ? commandOfJaicp(json.value) : json.value);
    const given = outcome.ok ? outcome.frame.commandId : outcome.commandId;
    if (given !== null && this.#answers.has(given)) return this.#repeat(given);
    if (!allowed) return this.#rateLimited(given);
    if (this.#ended) return this.#unknownCall(given);
    if (!outcome.ok) return this.#reject(given, outcome.rejection);

    const commandId = (given ?? this.#mintCommandId()) as CommandId;
    this.#remember(commandId, null);
    try {
      const translation = translate(outcome.frame, commandId, this.#options.policy, () =>
        this.#options.mintTransferId(),
      );
      switch (translation.type) {
        case "rejected":
          return this.#reject(commandId, translation.rejection);
        case "invalidSwitch":
          // The call answers `rejected` and sends the `transfer` event that says FAIL.
          if (!this.#options.post(translation.event)) this.#unknownCall(commandId);
          return undefined;
        case "command":
          if (translation.warnings.length > 0) this.#warnings.set(commandId, translation.warnings);
          if (!this.#options.post({ type: "bot.command", command: translation.command })) this.#unknownCall(commandId);
          return undefined;
      }
    } catch (error) {
      this.#options.onFault(error);
      if (this.#answers.get(commandId) === null) {
        this.#reject(commandId, internalFault);
      }
    }
  }

  /** An answer goes out, whoever made it: it is kept for repeats, and what was to be warned of follows it. */
  settle(answer: Answer): void {
    const { commandId } = answer;
    if (commandId === null || this.#answers.get(commandId)) return;
    this.#remember(commandId, answer);
    const warnings = this.#warnings.get(commandId) ?? [];
    this.#warnings.delete(commandId);
    // Of a rejected command nothing was carried out, so nothing was changed in it either.
    if (answer.event === "rejected") return;
    for (const { code, message, pointer } of warnings) {
      this.#options.tell({ event: "warning", commandId, code, message, pointer });
    }
  }

  #repeat(commandId: string): void {
    const answer = this.#answers.get(commandId) ?? null;
    // Not answered yet: the answer that is under way is the repeat's too.
    if (answer !== null) this.#options.tell(answer);
  }

  #mintCommandId(): string {
    let commandId: string;
    do {
      this.#minted += 1;
      commandId = `${this.#options.call}:c${this.#minted}`;
    } while (this.#answers.has(commandId));
    return commandId;
  }

  #remember(commandId: string, answer: Answer | null): void {
    this.#answers.set(commandId, answer);
    if (this.#answers.size <= answersMax) return;
    const oldest = this.#answers.keys().next();
    if (!oldest.done) {
      this.#answers.delete(oldest.value);
      this.#warnings.delete(oldest.value);
    }
  }

  #rateLimited(commandId: string | null): void {
    const message = `a bot sends at most ${contractLimits.commandsPerSecond} commands a second`;
    this.#reject(commandId, { code: "rate_limited", message, pointer: null });
  }

  #unknownCall(commandId: string | null): void {
    this.#reject(commandId, { code: "unknown_call", message: "there is no such call", pointer: null });
  }

  #reject(commandId: string | null, rejection: Notice<RejectionCode>): void {
    const { code, message, pointer } = rejection;
    this.#options.tell({ event: "rejected", commandId: commandId as CommandId | null, code, message, pointer });
  }
}
