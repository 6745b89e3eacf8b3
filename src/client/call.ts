import { randomUUID } from "node:crypto";

import type { EventName, WireEvent, WireEventOf, WirePrompt, WireReply } from "../bot/contract.ts";
import { sendCommand } from "./command-sender.ts";
import type { Answer, CommandTiming, OutgoingCommand } from "./command-sender.ts";
import type { Redis } from "./connection.ts";
import { deferred, delay } from "./deferred.ts";
import type { Deferred } from "./deferred.ts";
import { BotClientError, CallEndedError, CallGoneError, CommandRejectedError } from "./errors.ts";
import type { Pacer } from "./pacer.ts";

/** How a prompt ended. */
export interface Playback {
  readonly result: "completed" | "stopped" | "failed";
  readonly reason: string | null;
}

type HeaderValues = Readonly<Record<string, string | number | boolean | null>>;

export interface SwitchTarget {
  readonly phoneNumber?: string | number;
  /** Wins over `phoneNumber`. */
  readonly sipUri?: string;
  readonly headers?: HeaderValues;
}

/** Whom a caller is to be transferred to, and how; all times in the contract's seconds. */
export interface SwitchRequest extends SwitchTarget {
  /** Several operators; wins over `phoneNumber` and `sipUri`. Their own headers win over those of the switch. */
  readonly targets?: readonly SwitchTarget[];
  /** One after the other (`serial`, unless given) or all at once. */
  readonly strategy?: "serial" | "ring";
  /** The operator hears the prompt and presses the key (`1` unless given) before he is joined. */
  readonly confirm?: { readonly prompt: WirePrompt; readonly digit?: string; readonly timeout?: number };
  /** What the caller hears while an operator is called. */
  readonly duringRing?: readonly WirePrompt[];
  readonly maxTalkSeconds?: number;
  /** Digits sent to the operator's side when the talk begins, for an extension. */
  readonly dtmf?: string;
  /** Seconds from the first INVITE to the answer; 60 unless given. */
  readonly timeout?: number | string;
  /** botId of the channel whose trunk is used. */
  readonly transferChannel?: string;
  readonly continueCall?: boolean;
  readonly continueRecording?: boolean;
  readonly method?: "invite" | "refer";
}

export type TransferDetails = WireEventOf<"transfer">["transferDetails"];

/** How a transfer ended: the contract's three fields, and what else there is to know. */
export interface TransferStatus {
  readonly status: "SUCCESS" | "FAIL";
  /** True when the caller is gone. */
  readonly hangup: boolean;
  readonly number: string;
  /** Null where no `transfer` event told them: the command was refused, or the call ended first. */
  readonly details: TransferDetails | null;
  /** Why no transfer was begun; null when one was. */
  readonly refusal: { readonly code: string; readonly message: string; readonly pointer: string | null } | null;
}

/** As the tag `TransferCallToOperator` of the JAICP platform has it. */
export interface OperatorRequest {
  readonly phoneNumber: string | number;
  /** Seconds; 60 unless given. */
  readonly timeout?: number | string;
  /** Where the bot goes on after a talk, when nobody answered in time, and after any other failure. */
  readonly then?: string;
  readonly timeoutState?: string;
  readonly errorState?: string;
}

/** Which of the three applies, what the bot named so, and how the transfer ended. */
export interface OperatorOutcome {
  readonly applies: "then" | "timeoutState" | "errorState";
  readonly state: string | null;
  readonly status: TransferStatus;
}

/** How a call ended. */
export interface Hangup {
  readonly by: "caller" | "bot" | "operator" | "service";
  readonly sipCode: number | null;
  readonly reason: string | null;
  readonly durationMs: number;
}

export interface DigitsRequest {
  /** Done when so many have been pressed. */
  readonly count?: number;
  /** Done when this key is pressed; it is not part of the digits. */
  readonly terminator?: string;
  /** Time for all of them, 10 seconds unless given. */
  readonly timeoutMs?: number;
}

export interface Digits {
  readonly digits: string;
  readonly reason: "count" | "terminator" | "timeout" | "ended";
}

export type EventListener<Name extends EventName> = (event: WireEventOf<Name>) => void;

/** What a call needs of its bot. */
export interface CallLink {
  readonly commands: Redis;
  readonly worker: string;
  readonly timing: CommandTiming;
  readonly pacer: Pacer;
  /** How often a call is asked whether it still exists. */
  livenessMs(): number;
  onListenerError(error: unknown, call: BotCall): void;
}

interface PendingSwitch {
  readonly number: string;
  readonly outcome: Deferred<TransferStatus>;
  accepted: boolean;
  refusal: TransferStatus["refusal"];
}

interface DigitWait {
  readonly request: DigitsRequest;
  readonly outcome: Deferred<Digits>;
  readonly timer: NodeJS.Timeout;
}

// After `rejected` of an invalid switch its `transfer` event is already under way.
const transferAfterRefusalMs = 2_000;
const typedAheadMax = 64;
const limitedMinMs = 200;
const limitedSpreadMs = 400;

/** One call, as its bot sees it. */
export class BotCall {
  readonly callId: string;
  readonly botId: string;
  /** The caller's number, empty when withheld. */
  readonly caller: string;
  /** The number that was called. */
  readonly called: string;
  readonly trunk: string;
  readonly sipCallId: string;
  /** The inbound SIP headers the channel lets through. */
  readonly headers: Readonly<Record<string, string>>;
  /** The call is older than the Patchbay process that holds it. */
  readonly resumed: boolean;
  /** Settles when the call is over, and never rejects. */
  readonly ended: Promise<Hangup>;

  readonly #link: CallLink;
  readonly #replyTo: string;
  readonly #ended: Deferred<Hangup> = deferred();
  readonly #answers = new Map<string, { readonly settle: Deferred<Answer>; readonly fail: (error: Error) => void }>();
  readonly #plays = new Map<string, Deferred<Playback>>();
  readonly #switches = new Map<string, PendingSwitch>();
  readonly #listeners = new Map<string, Set<(event: WireEvent) => void>>();
  #digitWait: DigitWait | null = null;
  #typed = "";
  #transferStatus: TransferStatus | null = null;
  #hangup: Hangup | null = null;
  #liveness: NodeJS.Timeout | null = null;

  constructor(link: CallLink, event: WireEventOf<"call">) {
    this.#link = link;
    this.#replyTo = event.replyTo;
    this.callId = event.callId;
    this.botId = event.botId;
    this.caller = event.caller;
    this.called = event.called;
    this.trunk = event.trunk;
    this.sipCallId = event.sipCallId;
    this.headers = event.headers;
    this.resumed = event.resumed;
    this.ended = this.#ended.promise;
  }

  get isOver(): boolean {
    return this.#hangup !== null;
  }

  /** Says a text. Resolves when it has been said, was stopped, or could not be said. */
  async say(text: string, options: { readonly lang?: string; readonly tts?: string } = {}): Promise<Playback> {
    return this.#played({ type: "text", text, ...options });
  }

  /** Plays a prompt: http, https, or a file under Patchbay's prompt folder. Resolves as `say` does. */
  async play(audioUrl: string, options: { readonly times?: number } = {}): Promise<Playback> {
    return this.#played({ type: "audio", audioUrl, ...options });
  }

  /** Clears the queue and stops what plays. */
  async stop(): Promise<void> {
    if (this.isOver) return;
    await this.send([{ type: "stop" }]);
  }

  /**
   * Transfers the caller. Resolves exactly once, whatever becomes of it: with how the transfer ended, or with FAIL when it was
   * refused or the call ended. Never rejects.
   */
  async switch(request: SwitchRequest): Promise<TransferStatus> {
    const pending: PendingSwitch = {
      number: numberOf(request.targets?.[0] ?? request),
      outcome: deferred(),
      accepted: false,
      refusal: null,
    };
    if (this.isOver) return failed(pending.number, true, null);
    const naming = (commandId: string, before: string | null): void => {
      if (before !== null) this.#switches.delete(before);
      this.#switches.set(commandId, pending);
    };
    this.#command([{ type: "switch", ...wireSwitch(request) }], naming).catch((error: unknown) =>
      this.#switchRefused(pending, error),
    );
    return pending.outcome.promise;
  }

  /** Transfers the caller, who comes back afterwards, and says where the bot goes on. Never rejects. */
  async transferCallToOperator(request: OperatorRequest): Promise<OperatorOutcome> {
    const { phoneNumber, timeout } = request;
    const status = await this.switch({
      phoneNumber,
      continueCall: true,
      ...(timeout === undefined ? {} : { timeout }),
    });
    const missed = status.details?.cause === "no_answer";
    const applies = status.status === "SUCCESS" ? "then" : missed ? "timeoutState" : "errorState";
    return { applies, state: request[applies] ?? null, status };
  }

  /** More prompts for a caller for whom an operator is being called; they stop when somebody answers. */
  async duringRing(prompts: readonly WirePrompt[]): Promise<void> {
    await this.send([{ type: "duringRing", prompts: [...prompts] }]);
  }

  /** Ends a transfer that has not been answered; `switch` then resolves with FAIL. */
  async cancelSwitch(transferId?: string): Promise<void> {
    await this.send([{ type: "switchCancel", ...(transferId === undefined ? {} : { transferId }) }]);
  }

  /** How the last transfer ended, null when there was none. */
  getTransferStatus(): TransferStatus | null {
    return this.#transferStatus;
  }

  async record(action: "start" | "pause" | "resume" | "stop"): Promise<void> {
    await this.send([{ type: "record", action }]);
  }

  /** 0-9 * # A-D; `w`, `W`, `,` and a blank are pauses. */
  async sendDigits(digits: string, to: "caller" | "operator" = "caller"): Promise<void> {
    await this.send([{ type: "dtmf", digits, to }]);
  }

  /** Hangs up after what is queued. Resolves when the call is over. */
  async hangup(headers?: Readonly<Record<string, string | number | boolean | null>>): Promise<Hangup> {
    if (!this.isOver) {
      try {
        await this.send([{ type: "hangup", ...(headers === undefined ? {} : { headers }) }]);
      } catch (error) {
        if (!(error instanceof CallEndedError || error instanceof CallGoneError)) throw error;
      }
    }
    return this.ended;
  }

  /** Gives the call up to other workers. */
  async release(): Promise<void> {
    await this.send([{ type: "release", worker: this.#link.worker }]);
  }

  /** Claims the call for this worker; the bot does it by itself before its callback runs. */
  async take(): Promise<void> {
    await this.send([{ type: "take", worker: this.#link.worker }]);
  }

  /** Sends replies as they are; resolves when they are accepted. */
  async send(replies: readonly WireReply[]): Promise<void> {
    const stops = replies.some(({ type }) => type === "stop");
    const playing = stops ? [...this.#plays.keys()] : [];
    await this.#command(replies, () => undefined);
    // Patchbay tells the end of what was playing, but not of prompts that were still in the queue.
    for (const key of playing) this.#playEnded(key, { result: "stopped", reason: null });
  }

  /**
   * Collects keys the caller presses, with those he pressed since the last collection. Ends by count, terminator, time or the
   * end of the call, and never rejects. A second collection ends the first one.
   */
  async waitForDigits(request: DigitsRequest): Promise<Digits> {
    this.#digitsDone("timeout");
    if (this.isOver) return { digits: this.#typed, reason: "ended" };
    const outcome = deferred<Digits>();
    const timer = setTimeout(() => this.#digitsDone("timeout"), request.timeoutMs ?? 10_000);
    this.#digitWait = { request, outcome, timer };
    this.#digitsChanged();
    return outcome.promise;
  }

  /** Listens to events of this call; the result ends it. */
  on<Name extends EventName>(name: Name, listener: EventListener<Name>): () => void {
    const listeners = this.#listeners.get(name) ?? new Set();
    const any = listener as (event: WireEvent) => void;
    listeners.add(any);
    this.#listeners.set(name, listeners);
    return () => {
      listeners.delete(any);
    };
  }

  // ----------------------------------------------------------------------------------------------- for the bot

  /** An event of this call, in order and once. */
  receive(event: WireEvent): void {
    switch (event.event) {
      case "accepted":
        this.#accepted(event.commandId);
        break;
      case "rejected":
        if (event.commandId !== null) this.#answers.get(event.commandId)?.settle.resolve(event);
        break;
      case "playback":
        // What is heard while it rings is waited for by nobody.
        if (event.part === undefined) this.#playEnded(`${event.commandId}:${event.index}`, event);
        break;
      case "warning":
        // Where there is no text-to-speech, nothing is played that could end.
        if (event.code === "no_tts" && event.commandId !== null) this.#notSpoken(event.commandId);
        break;
      case "dtmf":
        if (event.from === "caller") this.#pressed(event.digit);
        break;
      case "transfer":
        this.#transferred(event);
        break;
      case "hangup":
        this.over(event);
        break;
      case "call":
      case "answered":
      case "noInput":
      case "recording":
      case "transferProgress":
        break;
    }
    for (const listener of this.#listeners.get(event.event) ?? []) {
      try {
        listener(event);
      } catch (error) {
        this.#link.onListenerError(error, this);
      }
    }
  }

  /** The call is over: nothing that waits for it waits any longer. */
  over(hangup: Hangup): void {
    if (this.#hangup !== null) return;
    const { by, sipCode, reason, durationMs } = hangup;
    this.#hangup = { by, sipCode, reason, durationMs };
    if (this.#liveness !== null) clearTimeout(this.#liveness);
    this.#liveness = null;
    for (const { fail } of this.#answers.values()) fail(new CallEndedError());
    for (const key of this.#plays.keys()) this.#playEnded(key, { result: "stopped", reason: "call_ended" });
    for (const pending of this.#switches.values()) this.#switchOver(pending, true);
    this.#digitsDone("ended");
    this.#ended.resolve(this.#hangup);
  }

  // ------------------------------------------------------------------------------------------------- commands

  /**
   * Sends until it is accepted. `naming` is told the command's id before it is sent, and a new one in place of `before` when
   * the rate limit was hit: a rejected id stays rejected.
   */
  async #command(
    replies: readonly WireReply[],
    naming: (commandId: string, before: string | null) => void,
  ): Promise<void> {
    const giveUpAt = performance.now() + this.#link.timing.giveUpMs;
    for (let before: string | null = null; ;) {
      const commandId = randomUUID();
      if (this.isOver) throw new CallEndedError();
      naming(commandId, before);
      await this.#link.pacer.turn();
      try {
        return await this.#once({ commandId, worker: this.#link.worker, replies });
      } catch (error) {
        const limited = error instanceof CommandRejectedError && error.code === "rate_limited";
        if (!limited || performance.now() >= giveUpAt) throw error;
      }
      before = commandId;
      // Other workers of the bot share its limit, so they must not all come back at the same moment.
      await delay(limitedMinMs + Math.random() * limitedSpreadMs);
    }
  }

  async #once(command: OutgoingCommand): Promise<void> {
    if (this.isOver) throw new CallEndedError();
    const settle = deferred<Answer>();
    let fail: (error: Error) => void = () => undefined;
    const answer = new Promise<Answer>((resolve, reject) => {
      settle.promise.then(resolve, reject);
      fail = reject;
    });
    // It may be refused while nobody is looking, between two attempts.
    answer.catch(() => undefined);
    this.#answers.set(command.commandId, { settle, fail });
    try {
      await sendCommand(this.#link.commands, this.#replyTo, command, answer, this.#link.timing);
    } catch (error) {
      if (error instanceof CommandRejectedError && error.code === "unknown_call")
        throw new CallEndedError(error.message);
      if (error instanceof CallGoneError) this.#lost();
      throw error;
    } finally {
      this.#answers.delete(command.commandId);
    }
  }

  #accepted(commandId: string): void {
    const pending = this.#switches.get(commandId);
    if (pending !== undefined) pending.accepted = true;
    this.#answers.get(commandId)?.settle.resolve({ event: "accepted" });
  }

  #lost(): void {
    this.over({ by: "service", sipCode: null, reason: "no instance of Patchbay holds the call", durationMs: 0 });
  }

  // -------------------------------------------------------------------------------------------------- prompts

  async #played(reply: WireReply): Promise<Playback> {
    if (this.isOver) throw new CallEndedError();
    const outcome = deferred<Playback>();
    let key = "";
    try {
      await this.#command([reply], (commandId) => {
        this.#plays.delete(key);
        key = `${commandId}:0`;
        this.#plays.set(key, outcome);
      });
    } catch (error) {
      this.#plays.delete(key);
      throw error;
    }
    return outcome.promise;
  }

  #playEnded(key: string, { result, reason }: Playback): void {
    this.#plays.get(key)?.resolve({ result, reason });
    this.#plays.delete(key);
  }

  #notSpoken(commandId: string): void {
    this.#playEnded(`${commandId}:0`, { result: "failed", reason: "no_tts" });
  }

  // ------------------------------------------------------------------------------------------------ transfers

  #transferred(event: WireEventOf<"transfer">): void {
    const { status, hangup, number } = event.transferStatus;
    const details = event.transferDetails;
    this.#transferStatus = { status, hangup, number, details, refusal: null };
    this.#typed = "";
    // An invalid switch is never accepted, and may be answered while another one is under way.
    const refused = details.cause === "invalid_reply";
    const mine = [...this.#switches].find(([, pending]) => pending.accepted !== refused);
    if (mine === undefined) return;
    const [commandId, pending] = mine;
    this.#switches.delete(commandId);
    this.#transferStatus = { ...this.#transferStatus, refusal: pending.refusal };
    pending.outcome.resolve(this.#transferStatus);
  }

  #switchRefused(pending: PendingSwitch, error: unknown): void {
    if (pending.accepted) return;
    pending.refusal = refusalOf(error);
    if (pending.refusal.code === "invalid_reply" || pending.refusal.code === "destination_refused") {
      setTimeout(() => this.#switchOver(pending, false), transferAfterRefusalMs).unref();
    } else {
      this.#switchOver(pending, error instanceof CallEndedError || error instanceof CallGoneError);
    }
  }

  #switchOver(pending: PendingSwitch, hangup: boolean): void {
    const entry = [...this.#switches].find(([, other]) => other === pending);
    if (entry === undefined) return;
    this.#switches.delete(entry[0]);
    const status = failed(pending.number, hangup, pending.refusal);
    // A switch beside another one says nothing of the transfer that is under way.
    if (pending.refusal?.code !== "transfer_in_progress") this.#transferStatus = status;
    pending.outcome.resolve(status);
  }

  // --------------------------------------------------------------------------------------------------- digits

  #pressed(digit: string): void {
    if (this.#typed.length < typedAheadMax) this.#typed += digit;
    this.#digitsChanged();
  }

  #digitsChanged(): void {
    const wait = this.#digitWait;
    if (wait === null) return;
    const { count, terminator } = wait.request;
    const end = terminator === undefined ? -1 : this.#typed.indexOf(terminator);
    if (count !== undefined && this.#typed.length >= count && (end < 0 || end >= count)) {
      this.#digitsDone("count", count, count);
    } else if (end >= 0) {
      this.#digitsDone("terminator", end, end + 1);
    }
  }

  /** Ends the collection with the first `taken` digits and forgets the first `used`; what was pressed after stays. */
  #digitsDone(reason: Digits["reason"], taken = this.#typed.length, used = taken): void {
    const wait = this.#digitWait;
    if (wait === null) return;
    clearTimeout(wait.timer);
    this.#digitWait = null;
    wait.outcome.resolve({ digits: this.#typed.slice(0, taken), reason });
    this.#typed = this.#typed.slice(used);
  }

  // ------------------------------------------------------------------------------------------------- liveness

  /** A Patchbay that died can tell nobody: from now on the call is asked now and then whether it still exists. */
  watch(): void {
    if (this.#liveness !== null || this.isOver) return;
    this.#liveness = setTimeout(() => {
      this.#liveness = null;
      if (this.isOver) return;
      // An empty command does nothing but to be answered. That the call is gone is seen inside; all else is for next time.
      this.send([]).then(
        () => this.watch(),
        () => this.watch(),
      );
    }, this.#link.livenessMs());
    this.#liveness.unref();
  }
}

function failed(number: string, hangup: boolean, refusal: TransferStatus["refusal"]): TransferStatus {
  return { status: "FAIL", hangup, number, details: null, refusal };
}

function refusalOf(error: unknown): NonNullable<TransferStatus["refusal"]> {
  if (error instanceof CommandRejectedError)
    return { code: error.code, message: error.message, pointer: error.pointer };
  if (error instanceof BotClientError) return { code: error.code, message: error.message, pointer: null };
  return { code: "internal", message: error instanceof Error ? error.message : String(error), pointer: null };
}

function numberOf({ sipUri, phoneNumber }: SwitchTarget): string {
  return String(sipUri ?? phoneNumber ?? "");
}

/** The wire's lists are the sender's own. */
function wireSwitch({ targets, duringRing, ...rest }: SwitchRequest) {
  return {
    ...rest,
    ...(targets === undefined ? {} : { targets: targets.map((target) => ({ ...target })) }),
    ...(duringRing === undefined ? {} : { duringRing: [...duringRing] }),
  };
}
