import type { z } from "zod";

import type { Prompt } from "../call/effect.ts";
import type { CallEvent } from "../call/event.ts";
import { customHeaders } from "../call/headers.ts";
import type { CommandId, TransferId, TrunkId } from "../call/ids.ts";
import type { Command, Reply } from "../call/reply.ts";
import type { CalledParty, Confirmation, CustomHeader, Route, TransferRequest } from "../call/transfer.ts";
import { commandFrameSchema, contractLimits, foreignKeys, replySchemas } from "./contract.ts";
import type { RejectionCode, ReplyType, SwitchReply, WarningCode } from "./contract.ts";
import { pointerPart } from "./json.ts";
import type { Json, JsonObject } from "./json.ts";
import { phoneTarget, uriTarget } from "./target.ts";
import type { SipDestinations, TargetOutcome } from "./target.ts";

/** What a `switch` of this call may use, looked up when the command arrives. */
export interface RouteChoice {
  readonly route: Route;
  /** False when `transferChannel` names no channel and the call's own trunk is used instead. */
  readonly known: boolean;
  readonly identityHeaders: "allow" | "drop";
  /** Whether a REFER that fails is followed by an INVITE. */
  readonly referFallback: boolean;
  /** False when the call's trunk did not follow a REFER lately. */
  readonly referFollowed: boolean;
}

export interface TransferPolicy extends SipDestinations {
  /** `transferChannel` is null when the bot named none: the call's own trunk. */
  routeFor(transferChannel: string | null): RouteChoice;
  /** Why this number may not be called through this trunk, in words without the number; null when it may. */
  numberRefusal(digits: string, trunk: TrunkId): string | null;
}

/** What is told to the bot of one field. */
export interface Notice<Code extends string = string> {
  readonly code: Code;
  readonly message: string;
  /** RFC 6901. */
  readonly pointer: string | null;
}
type Warning = Notice<WarningCode>;
export type Rejection = Notice<RejectionCode>;

/** A command whose frame is right; its replies have not been looked at. */
export interface CommandFrame {
  readonly commandId: string | null;
  readonly worker: string | null;
  readonly replies: readonly unknown[];
  readonly warnings: readonly Warning[];
}

export type FrameOutcome =
  | { readonly ok: true; readonly frame: CommandFrame }
  /** `commandId` is told where it could be read, so that the bot knows what was refused. */
  | { readonly ok: false; readonly commandId: string | null; readonly rejection: Rejection };

export type Translation =
  | { readonly type: "command"; readonly command: Command; readonly warnings: readonly Notice[] }
  | { readonly type: "invalidSwitch"; readonly event: Extract<CallEvent, { readonly type: "bot.invalidSwitch" }> }
  | { readonly type: "rejected"; readonly rejection: Rejection };

/** Judges the frame of a command. Never throws. */
export function readFrame(value: JsonObject): FrameOutcome {
  const parsed = commandFrameSchema.safeParse(value);
  if (!parsed.success) {
    const commandId = commandFrameSchema.shape.commandId.safeParse(value["commandId"]);
    return {
      ok: false,
      commandId: commandId.success ? (commandId.data ?? null) : null,
      rejection: notice("invalid_command", parsed.error, ""),
    };
  }
  const { commandId, worker, replies } = parsed.data;
  const warnings = misspeltKeys(value, Object.keys(commandFrameSchema.shape), "");
  return { ok: true, frame: { commandId: commandId ?? null, worker: worker ?? null, replies, warnings } };
}

/**
 * Turns a frame into what the call core understands: the whole command, or the first thing that is wrong with it. An
 * invalid `switch` goes before any other fault, because the bot waits for the `transfer` event of it. Never throws.
 */
export function translate(
  frame: CommandFrame,
  commandId: CommandId,
  policy: TransferPolicy,
  mintTransferId: () => TransferId,
): Translation {
  const warnings: Warning[] = [...frame.warnings];
  const replies: Reply[] = [];
  let fault: Rejection | null = null;
  let switched = false;
  for (const [index, raw] of frame.replies.entries()) {
    const pointer = `/replies/${index}`;
    const reply = readReply(raw, pointer);
    if (!reply.ok && reply.type === "switch" && !switched) {
      return invalidSwitch(raw, reply.rejection, frame, commandId, mintTransferId());
    }
    if (switched && (reply.ok || reply.type === "switch")) {
      const message = "a reply behind a switch in the same command was dropped";
      warnings.push({ code: "dropped_after_switch", message, pointer });
      continue;
    }
    if (!reply.ok) {
      fault ??= reply.rejection;
      continue;
    }
    warnings.push(...reply.warnings);
    if (reply.value.type === "switch") {
      const outcome = switchReply(reply.value, pointer, commandId, policy, mintTransferId);
      if (!outcome.ok) return invalidSwitch(raw, outcome.rejection, frame, commandId, outcome.transferId);
      warnings.push(...outcome.warnings);
      replies.push({ type: "switch", request: outcome.request });
      switched = true;
    } else {
      replies.push(plainReply(reply.value, pointer, warnings));
    }
  }
  if (fault !== null) return { type: "rejected", rejection: fault };
  return { type: "command", command: { commandId, worker: frame.worker, replies }, warnings: limited(warnings) };
}

function limited(warnings: readonly Warning[]): readonly Warning[] {
  const max = contractLimits.warningsPerCommandMax;
  if (warnings.length <= max) return warnings;
  const message = `${warnings.length - max + 1} more warnings are not told`;
  return [...warnings.slice(0, max - 1), { code: "more_warnings", message, pointer: null }];
}

// ----------------------------------------------------------------------------------------------------------- replies

type WireReplyValue = z.infer<(typeof replySchemas)[ReplyType]>;
type ReadReply =
  | { readonly ok: true; readonly value: WireReplyValue; readonly warnings: readonly Warning[] }
  | { readonly ok: false; readonly type: ReplyType | null; readonly rejection: Rejection };

function readReply(raw: unknown, pointer: string): ReadReply {
  if (!isObject(raw)) {
    return { ok: false, type: null, rejection: { code: "invalid_reply", message: "a reply is an object", pointer } };
  }
  const type = raw["type"];
  if (!isReplyType(type)) {
    const message = `a reply's type is one of ${Object.keys(replySchemas).join(", ")}`;
    return { ok: false, type: null, rejection: { code: "unknown_reply", message, pointer: `${pointer}/type` } };
  }
  const schema = replySchemas[type];
  const parsed = schema.safeParse(raw);
  if (!parsed.success) return { ok: false, type, rejection: notice("invalid_reply", parsed.error, pointer) };
  return { ok: true, value: parsed.data, warnings: misspeltKeys(raw, Object.keys(schema.shape), pointer) };
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isReplyType(type: unknown): type is ReplyType {
  return typeof type === "string" && Object.hasOwn(replySchemas, type);
}

function plainReply(value: Exclude<WireReplyValue, SwitchReply>, pointer: string, warnings: Warning[]): Reply {
  switch (value.type) {
    case "text":
      return { type: "text", ...textOf(value) };
    case "audio":
      return { type: "audio", ...audioOf(value) };
    case "duringRing":
      return { type: "duringRing", prompts: value.prompts.map(promptOf) };
    case "switchCancel":
      return { type: "switchCancel", transferId: value.transferId ?? null };
    case "dtmf":
      return { type: "dtmf", digits: value.digits, to: value.to ?? "caller" };
    case "record":
      return { type: "record", action: value.action };
    case "hangup": {
      const headers = takenHeaders(value.headers, "allow", pointer, warnings);
      return { type: "hangup", headers };
    }
    case "stop":
      return { type: "stop" };
    case "take":
      return { type: "take", worker: value.worker };
    case "release":
      return { type: "release", worker: value.worker };
  }
}

type TextValue = Extract<WireReplyValue, { type: "text" }>;
type AudioValue = Extract<WireReplyValue, { type: "audio" }>;

function textOf({ text, tts, lang }: TextValue) {
  return { text: spoken(tts ?? text), lang: lang ?? null, voice: null };
}

function audioOf({ audioUrl, times }: AudioValue) {
  return { url: audioUrl, times: times ?? 1 };
}

function promptOf(value: TextValue | AudioValue): Prompt {
  return value.type === "text" ? { kind: "text", ...textOf(value) } : { kind: "audio", ...audioOf(value) };
}

/** Text as a voice can say it: composed, without control characters, without halves of characters. */
function spoken(text: string): string {
  return text
    .normalize("NFC")
    .replaceAll(/[\t\n\r\u2028\u2029]+/g, " ")
    .replaceAll(/[\p{Cc}\p{Surrogate}]/gu, "");
}

function takenHeaders(
  input: Readonly<Record<string, unknown>> | null | undefined,
  identityHeaders: "allow" | "drop",
  pointer: string,
  warnings: Warning[],
): readonly CustomHeader[] {
  const outcome = customHeaders(input ?? {}, { identityHeaders });
  for (const { code, message, name } of outcome.warnings) {
    warnings.push({ code, message, pointer: `${pointer}/headers/${pointerPart(name)}` });
  }
  return outcome.headers;
}

// ------------------------------------------------------------------------------------------------------------ switch

type SwitchOutcome =
  | { readonly ok: true; readonly request: TransferRequest; readonly warnings: readonly Warning[] }
  | { readonly ok: false; readonly rejection: Rejection; readonly transferId: TransferId };

function switchReply(
  value: SwitchReply,
  pointer: string,
  commandId: CommandId,
  policy: TransferPolicy,
  mintTransferId: () => TransferId,
): SwitchOutcome {
  const transferId = mintTransferId();
  const refused = (message: string, field: string, code: RejectionCode = "invalid_reply"): SwitchOutcome => {
    return { ok: false, transferId, rejection: { code, message, pointer: `${pointer}${field}` } };
  };
  const method = value.method === "refer" || value.method === "transfer" ? "refer" : "invite";
  const several = (value.targets?.length ?? 0) > 0;
  if (method === "refer" && (value.targets?.length ?? 0) > 1) {
    return refused("a REFER goes to one target", "/method");
  }
  const warnings: Warning[] = [];
  const transferChannel = value.transferChannel ?? null;
  const choice = policy.routeFor(transferChannel);
  if (!choice.known) {
    const message = "no channel has this botId; the call's own trunk is used";
    warnings.push({ code: "transfer_channel_unknown", message, pointer: `${pointer}/transferChannel` });
  }
  if (value.method === "transfer") {
    const message = 'method "transfer" is the old word for "refer"';
    warnings.push({ code: "method_deprecated", message, pointer: `${pointer}/method` });
  }
  // With `refer: never` nobody would call him by INVITE, so the REFER is tried every time.
  const skipped = method === "refer" && choice.referFallback && !choice.referFollowed;
  if (skipped) {
    const message = "the call's trunk did not follow a REFER within the last hour; the target is called by INVITE";
    warnings.push({ code: "refer_skipped", message, pointer: `${pointer}/method` });
  }
  const timeout = answerTimeout(value.timeout);
  if (timeout.warning !== null) warnings.push({ ...timeout.warning, pointer: `${pointer}/timeout` });
  const common = takenHeaders(value.headers, choice.identityHeaders, pointer, warnings);
  const parties: CalledParty[] = [];
  for (const [position, target] of (several ? (value.targets ?? []) : [value]).entries()) {
    const place = several ? `/targets/${position}` : "";
    const { field, text, outcome } = wantedTarget(target, policy);
    if (!outcome.ok) {
      const code = outcome.policy === true ? "destination_refused" : "invalid_reply";
      return refused(outcome.message, field === null ? place : `${place}/${field}`, code);
    }
    const { target: wanted } = outcome;
    const refusal = wanted.kind === "phone" ? policy.numberRefusal(wanted.digits, choice.route.trunk) : null;
    if (refusal !== null) return refused(refusal, `${place}/phoneNumber`, "destination_refused");
    const own = several ? takenHeaders(target.headers, choice.identityHeaders, `${pointer}${place}`, warnings) : [];
    parties.push({ target: outcome.target, number: text, headers: mergedHeaders(common, own) });
  }
  const [first, ...others] = parties;
  if (first === undefined) return refused("a switch needs a target", "");
  const request: TransferRequest = {
    ...first,
    others,
    transferId,
    commandId,
    method: skipped ? "invite" : method,
    strategy: value.strategy ?? "serial",
    confirm: confirmationOf(value.confirm),
    route: choice.route,
    answerTimeoutMs: timeout.ms,
    maxTalkMs: milliseconds(value.maxTalkSeconds),
    ...(typeof value.dtmf === "string" ? { dtmf: value.dtmf } : {}),
    duringRing: (value.duringRing ?? []).map(promptOf),
    continueCall: isTrue(value.continueCall),
    continueRecording: isTrue(value.continueRecording),
    referFallback: choice.referFallback,
  };
  return { ok: true, request, warnings };
}

/** A target's own headers stand in place of those of the `switch` of the same name. */
function mergedHeaders(common: readonly CustomHeader[], own: readonly CustomHeader[]): readonly CustomHeader[] {
  const given = new Set(own.map(({ name }) => name.toLowerCase()));
  return [...common.filter(({ name }) => !given.has(name.toLowerCase())), ...own];
}

function confirmationOf(confirm: SwitchReply["confirm"]): Confirmation | null {
  if (confirm === null || confirm === undefined) return null;
  const { prompt, digit, timeout } = confirm;
  const timeoutMs = milliseconds(timeout) ?? contractLimits.confirmTimeoutDefaultS * 1000;
  return { prompt: promptOf(prompt), digit: digit ?? "1", timeoutMs };
}

function milliseconds(seconds: number | null | undefined): number | null {
  return seconds === null || seconds === undefined ? null : Math.round(seconds * 1000);
}

interface WantedTarget {
  readonly field: "sipUri" | "phoneNumber" | null;
  /** What the bot sent, as text. */
  readonly text: string;
  readonly outcome: TargetOutcome;
}

function wantedTarget(value: Pick<SwitchReply, "sipUri" | "phoneNumber">, policy: SipDestinations): WantedTarget {
  const { sipUri, phoneNumber } = value;
  // An empty field is what a form without a value sends, so it does not hide the other one.
  if (typeof sipUri === "string" && sipUri !== "") {
    return { field: "sipUri", text: sipUri, outcome: uriTarget(sipUri, policy) };
  }
  if (phoneNumber === null || phoneNumber === undefined) {
    const field = typeof sipUri === "string" ? "sipUri" : null;
    return { field, text: "", outcome: { ok: false, message: "a switch needs a phoneNumber or a sipUri" } };
  }
  const text = String(phoneNumber);
  // Beyond 2^53 a number has lost digits on the way: whoever answered would not be whom the bot meant.
  const exact = typeof phoneNumber === "string" || (Number.isSafeInteger(phoneNumber) && phoneNumber >= 0);
  const outcome = exact
    ? phoneTarget(text)
    : { ok: false as const, message: "a phone number is a string or an integer" };
  return { field: "phoneNumber", text, outcome };
}

function isTrue(flag: boolean | "true" | "false" | null | undefined): boolean {
  return flag === true || flag === "true";
}

interface AnswerTimeout {
  readonly ms: number;
  readonly warning: { readonly code: WarningCode; readonly message: string } | null;
}

const decimal = /^\s{0,16}[+-]?\d{1,32}(?:\.\d{1,32})?(?:[eE][+-]?\d{1,4})?\s{0,16}$/;

/** `timeout` in milliseconds (bot-contract §3): a default for what is no time at all, a bound for what is too much or too little. */
function answerTimeout(raw: unknown): AnswerTimeout {
  const { switchTimeoutDefaultS: standard, switchTimeoutMinS: min, switchTimeoutMaxS: max } = contractLimits;
  if (raw === undefined || raw === null) return { ms: standard * 1000, warning: null };
  const seconds =
    typeof raw === "number" ? raw : typeof raw === "string" && decimal.test(raw) ? Number(raw) : Number.NaN;
  if (!(seconds > 0)) {
    const message = `the timeout is a positive number of seconds; ${standard} is used`;
    return { ms: standard * 1000, warning: { code: "timeout_invalid", message } };
  }
  const bounded = Math.min(Math.max(seconds, min), max);
  const message = `the timeout is ${min} to ${max} seconds; ${bounded} is used`;
  return {
    ms: Math.round(bounded * 1000),
    warning: bounded === seconds ? null : { code: "timeout_clamped", message },
  };
}

const echoMax = 100;

function invalidSwitch(
  raw: unknown,
  rejection: Rejection,
  { worker }: CommandFrame,
  commandId: CommandId,
  transferId: TransferId,
): Translation {
  const whole = isObject(raw) ? raw : {};
  const first: unknown = Array.isArray(whole["targets"]) ? whole["targets"][0] : undefined;
  const fields = isObject(first) ? first : whole;
  const text = [fields["sipUri"], fields["phoneNumber"]].find(
    (field): field is string | number => (typeof field === "string" && field !== "") || typeof field === "number",
  );
  const method = whole["method"] === "refer" || whole["method"] === "transfer" ? "refer" : "invite";
  return {
    type: "invalidSwitch",
    event: {
      type: "bot.invalidSwitch",
      worker,
      commandId,
      transferId,
      method,
      // A refused text is only told back as far as a refused text may be (bot-contract §8).
      number: text === undefined ? "" : `${text}`.slice(0, echoMax),
      ...rejection,
    },
  };
}

// ----------------------------------------------------------------------------------------------------------- notices

function notice(code: RejectionCode, error: z.ZodError, base: string): Rejection {
  const issue = error.issues[0];
  const path = (issue?.path ?? []).map((part) => `/${pointerPart(typeof part === "symbol" ? "?" : part)}`).join("");
  return { code, message: issue?.message ?? "the command breaks a rule", pointer: `${base}${path}` };
}

const keyMax = 40;

/** Warns of unknown keys that look like known ones: `continue_call`, `sipuri`, `timeuot`. */
function misspeltKeys(
  object: Readonly<Record<string, unknown> | Record<string, Json>>,
  known: readonly string[],
  pointer: string,
): Warning[] {
  const warnings: Warning[] = [];
  for (const key of Object.keys(object)) {
    if (known.includes(key) || foreignKeys.has(key) || key.length > keyMax) continue;
    const meant = known.find((name) => looksLike(key, name));
    if (meant === undefined) continue;
    const message = `the key ${JSON.stringify(key)} is not known and was ignored; did you mean ${JSON.stringify(meant)}?`;
    warnings.push({ code: "misspelt_key", message, pointer: `${pointer}/${pointerPart(key)}` });
    if (warnings.length >= contractLimits.warningsPerCommandMax) break;
  }
  return warnings;
}

function looksLike(key: string, name: string): boolean {
  const plainKey = key.toLowerCase().replaceAll(/[^a-z0-9]/g, "");
  const plainName = name.toLowerCase();
  if (plainKey === plainName) return true;
  // In a short word two letters make another word: only long names are compared by distance.
  const allowed = plainName.length >= 8 ? 2 : plainName.length >= 5 ? 1 : 0;
  return allowed > 0 && distance(plainKey, plainName) <= allowed;
}

/** Levenshtein distance with swapped neighbours counted once; both texts are short. */
function distance(a: string, b: string): number {
  let before: number[] = [];
  let previous = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let row = 1; row <= a.length; row += 1) {
    const current = [row];
    for (let column = 1; column <= b.length; column += 1) {
      const same = a[row - 1] === b[column - 1];
      let best = Math.min(
        (previous[column] ?? 0) + 1,
        (current[column - 1] ?? 0) + 1,
        (previous[column - 1] ?? 0) + (same ? 0 : 1),
      );
      if (row > 1 && column > 1 && a[row - 1] === b[column - 2] && a[row - 2] === b[column - 1]) {
        best = Math.min(best, (before[column - 2] ?? 0) + 1);
      }
      current.push(best);
    }
    before = previous;
    previous = current;
  }
  return previous[b.length] ?? 0;
}
