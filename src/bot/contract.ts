import { z } from "zod";

// The only statement of what goes over Redis between Patchbay and a bot. The JSON Schema, the AsyncAPI file and the
// tables of the reference page in docs/ are generated from it (`npm run docs`).

export const contractVersion = 1;

/** Limits of the wire. Everything a bot can send is bounded by one of them. */
export const contractLimits = {
  /** Size of one command as UTF-8, checked before it is parsed. */
  commandBytesMax: 64 * 1024,
  /** Nesting of objects and arrays in one command, the command itself counted. */
  depthMax: 8,
  repliesMax: 64,
  commandIdCharactersMax: 128,
  workerCharactersMax: 128,
  urlCharactersMax: 2048,
  playTimesMax: 100,
  digitsMax: 128,
  switchTimeoutDefaultS: 60,
  switchTimeoutMinS: 1,
  switchTimeoutMaxS: 600,
  targetsMax: 10,
  ringPromptsMax: 16,
  talkMaxS: 86_400,
  confirmTimeoutDefaultS: 20,
  confirmTimeoutMaxS: 120,
  commandsPerSecond: 20,
  warningsPerCommandMax: 40,
} as const;

/** Name of the Pub/Sub channel and of the stream that carry the events of one bot. The braces are Redis Cluster's hash tag. */
export function eventsChannel(prefix: string, botId: string): string {
  return `${prefix}:{${botId}}:events`;
}

/** Name of the Pub/Sub channel for the commands of one call; a bot takes it from `replyTo`. */
export function commandsChannel(prefix: string, botId: string, callId: string): string {
  return `${prefix}:{${botId}}:call:${callId}:commands`;
}

/** The field of a stream entry that holds the event. */
export const streamField = "event";

// ---------------------------------------------------------------------------------------------------------- events

const envelope = {
  v: z.literal(contractVersion).describe("Version of this contract."),
  eventId: z.string().describe("`<callId>:<seq>`; the same event never has another one, so a repeat is recognised."),
  seq: z.int().min(1).describe("Counts per call from 1 without gaps."),
};
const envelopeTail = {
  time: z.iso.datetime().describe("When it happened, UTC."),
  botId: z.string().describe("The bot the call belongs to."),
  callId: z.string().describe("The call; unique for ever."),
  replyTo: z.string().describe("Redis channel for commands to this call."),
  caller: z.string().describe("The caller's number, empty when withheld."),
  called: z.string().describe("The number that was called."),
};

function event<Name extends string, Fields extends z.ZodRawShape>(name: Name, about: string, fields: Fields) {
  return z
    .looseObject({ ...envelope, event: z.literal(name).describe("What happened."), ...envelopeTail, ...fields })
    .meta({ title: name, description: about });
}

const notice = {
  code: z.string().describe("Stable, for programs."),
  message: z.string().describe("For people; never more than 100 characters of what was sent."),
  pointer: z
    .string()
    .nullable()
    .describe("JSON pointer (RFC 6901) to the field at fault; null when it is the command as a whole."),
};

export const transferCauses = [
  "completed",
  "busy",
  "no_answer",
  "unreachable",
  "unavailable",
  "rejected",
  "callerid_rejected",
  "auth_failed",
  "invalid_number",
  "media_incompatible",
  "trunk_failure",
  "caller_hangup",
  "cancelled",
  "refer_refused",
  "invalid_reply",
  "media_failure",
  "internal",
] as const;
const transferCause = z.enum(transferCauses).describe("Why the transfer ended as it did.");

export const transferStatusSchema = z
  .object({
    status: z.enum(["SUCCESS", "FAIL"]).describe("SUCCESS: the operator and the caller talked."),
    hangup: z.boolean().describe("True when the caller's leg no longer exists after this event."),
    number: z
      .string()
      .describe(
        "What the bot asked for (`phoneNumber` or `sipUri`), unchanged, also when an operator has passed the caller on; of several targets the one who answered or was nearest to it.",
      ),
  })
  .describe("Exactly these three keys in this order.");

const whole = z.int().min(0);

export const transferDetailsSchema = z
  .looseObject({
    transferId: z.string().describe("Names the transfer, for `transferProgress` and `switchCancel`."),
    cause: transferCause,
    endedBy: z.enum(["caller", "operator", "bot", "service"]).nullable().describe("Who ended it."),
    method: z.enum(["invite", "refer"]).describe("How it was done last."),
    sipCode: z.int().nullable().describe("The last SIP status of the operator's side."),
    sipReason: z.string().nullable().describe("Its reason phrase."),
    q850: z.int().nullable().describe("ITU-T Q.850 cause from a Reason header."),
    ringMs: whole
      .nullable()
      .describe("How long the last attempt rang: from its first 18x to its answer or end, milliseconds."),
    answerMs: whole.nullable().describe("From the first INVITE to the answer, milliseconds."),
    talkMs: whole.nullable().describe("Length of the talk, milliseconds."),
    trunk: z.string().nullable().describe("The trunk that carried it."),
    callerIdShown: z
      .enum(["caller", "bot", "fixed", "anonymous"])
      .nullable()
      .describe("Whose number the operator's phone showed."),
    recording: z.enum(["continuous", "paused", "off"]).describe("What the recording did during the talk."),
    confirmed: z.boolean().describe("False when a REFER is taken for done without a word from the transfer target."),
    attempts: z
      .array(
        z.looseObject({
          trunk: z.string().describe("Trunk of this attempt."),
          target: z.string().describe("What was called."),
          sipCode: z.int().nullable().describe("Null when no SIP response came."),
          cause: transferCause,
          ms: whole.describe("Length of the attempt until its end or answer, milliseconds."),
          takenBy: z
            .string()
            .optional()
            .describe(
              "The number or user name of the phone that picked this call up, or took it over from this operator, by an INVITE with `Replaces`; left out when none did, or when it does not say who it is.",
            ),
        }),
      )
      .readonly()
      .describe(
        "One entry per INVITE, in the order of their ends. Whoever was called besides the one who answered has `cancelled`.",
      ),
  })
  .describe("Everything else there is to know of the transfer.");

export const eventSchemas = {
  call: event("call", "A caller's INVITE was accepted for this bot, before or after answering.", {
    trunk: z.string().describe("The trunk the call came on."),
    sipCallId: z.string().describe("Call-ID of the caller's INVITE."),
    headers: z.record(z.string(), z.string()).describe("The inbound headers the channel lets through."),
    resumed: z.boolean().describe("True when the call is older than this process and was taken over."),
  }),
  answered: event("answered", "The caller's ACK was seen: both sides hear each other.", {}),
  dtmf: event(
    "dtmf",
    "A digit, once per key press, whatever carried it (RFC 4733, SIP INFO, or tones where the trunk looks for them).",
    {
      digit: z.string().describe("0-9, *, #, A-D."),
      durationMs: whole.describe("Length of the key press, milliseconds."),
      from: z.enum(["caller", "operator"]).describe("Who pressed it."),
    },
  ),
  noInput: event(
    "noInput",
    "The caller has heard everything and pressed no key for the channel's `inputTimeoutMs`; never without it.",
    {},
  ),
  playback: event("playback", "A prompt ended.", {
    commandId: z.string().describe("The command it came with."),
    index: whole.describe("Position in the command's `replies`, from 0."),
    part: whole
      .optional()
      .describe("Position in that reply's `duringRing` prompts, from 0; left out for a reply of its own."),
    result: z.enum(["completed", "stopped", "failed"]).describe("How it ended."),
    reason: z.string().nullable().describe("Why it failed or was stopped, where known."),
  }),
  transferProgress: event("transferProgress", "Phases of a transfer.", {
    transferId: z.string().describe("The transfer."),
    phase: z.enum(["dialing", "ringing", "earlyMedia", "answered", "bridged", "returning"]).describe("What began."),
    attempt: z.int().min(0).describe("Counts from 1 within the transfer."),
    sipCode: z.int().nullable().describe("The SIP status that told it, where one did."),
    ms: whole.describe("Since the command arrived, milliseconds."),
  }),
  transfer: event("transfer", "A transfer is over: exactly one per accepted `switch`.", {
    transferStatus: transferStatusSchema,
    transferDetails: transferDetailsSchema,
  }),
  recording: event("recording", "The recording changed.", {
    state: z
      .enum(["started", "paused", "resumed", "finished", "failed"])
      .describe(
        "What it does now. After a `failed` in its midst comes a `finished` with what was recorded until then.",
      ),
    file: z.string().nullable().describe("Where the finished recording is or will be; null when it failed."),
    url: z
      .string()
      .nullable()
      .describe(
        "Where it is or will be in the object storage (`recording.upload`), with the same ending as `file`; null without one, and when it failed. The upload may take until long after `hangup`.",
      ),
    durationMs: whole.nullable().describe("Length of the audio, when it is finished, milliseconds."),
    reason: z
      .string()
      .nullable()
      .describe(
        "Why it failed, or why a finished one is not in its format: `conversion_failed`, it stays a WAV; `conversion_pending`, it is a WAV beside `file` until it has been converted.",
      ),
  }),
  hangup: event("hangup", "The call is over.", {
    by: z.enum(["caller", "bot", "operator", "service"]).describe("Who ended it."),
    sipCode: z.int().nullable().describe("SIP status, when the call ended by one."),
    reason: z.string().nullable().describe("Reason phrase or Reason header, where there was one."),
    durationMs: whole.describe("From the answer to the end, milliseconds; 0 for a call that was never answered."),
  }),
  accepted: event("accepted", "Answer to a command that is being carried out.", {
    commandId: z.string().describe("The command; minted where the bot gave none."),
  }),
  rejected: event("rejected", "Answer to a command of which nothing is carried out.", {
    commandId: z.string().nullable().describe("The command; null when it could not be read."),
    ...notice,
  }),
  warning: event("warning", "Something of an accepted command was ignored or changed.", {
    commandId: z.string().nullable().describe("The command it concerns."),
    ...notice,
  }),
} as const;

export const eventSchema = z.discriminatedUnion("event", [
  eventSchemas.call,
  eventSchemas.answered,
  eventSchemas.dtmf,
  eventSchemas.noInput,
  eventSchemas.playback,
  eventSchemas.transferProgress,
  eventSchemas.transfer,
  eventSchemas.recording,
  eventSchemas.hangup,
  eventSchemas.accepted,
  eventSchemas.rejected,
  eventSchemas.warning,
]);

export type WireEvent = z.infer<typeof eventSchema>;
export type EventName = WireEvent["event"];
export type WireEventOf<Name extends EventName> = Extract<WireEvent, { event: Name }>;

// -------------------------------------------------------------------------------------------------------- commands

// A JSON null stands for an absent key everywhere: client libraries of other languages write it for unset fields.
const flag = z.union([z.boolean(), z.enum(["true", "false"])]).nullish();
const noControls = /^[^\p{Cc}\u2028\u2029]*$/u;
const wordy = (max: number): z.ZodString => z.string().min(1).max(max).regex(noControls);
const headersField = z
  .record(z.string(), z.unknown())
  .meta({ additionalProperties: { type: ["string", "number", "boolean", "null"] } })
  .nullish()
  .describe("SIP headers to set: any RFC 3261 token as name; what is not allowed is dropped with a warning.");

function reply<Name extends string, Fields extends z.ZodRawShape>(name: Name, about: string, fields: Fields) {
  return z.looseObject({ type: z.literal(name), ...fields }).meta({ title: name, description: about });
}

/** Keys and pauses, sent one after another. */
const dialString = z.string().regex(new RegExp(`^[0-9*#A-D wW,]{1,${contractLimits.digitsMax}}$`));

const promptSchemas = {
  text: reply("text", "Speaks through the configured text-to-speech.", {
    text: z.string().describe("What is said."),
    tts: z.string().nullish().describe("Said in place of `text`, where the spoken form differs from the written one."),
    lang: z
      .string()
      .regex(/^[A-Za-z]{2,8}(?:[-_][A-Za-z0-9]{1,8}){0,4}$/)
      .nullish()
      .describe("Language tag such as `en` or `ru-RU`; the default is the service's."),
  }),
  audio: reply("audio", "Plays a prompt; a bad or slow URL gives `playback` `failed`, and the queue goes on.", {
    audioUrl: wordy(contractLimits.urlCharactersMax).describe(
      "http, https, or `file:` with the absolute path of a file under `media.promptFolder`.",
    ),
    times: z.int().min(1).max(contractLimits.playTimesMax).nullish().describe("How often it is played; default 1."),
  }),
} as const;
const promptSchema = z.discriminatedUnion("type", [promptSchemas.text, promptSchemas.audio]);

const targetFields = {
  phoneNumber: z
    .union([z.string(), z.number()])
    .nullish()
    .describe("Blanks and `()-.` are stripped, then `^\\+?[0-9*#]{1,32}$`; dialled through the trunk's number rules."),
  sipUri: z
    .string()
    .nullish()
    .describe("`user@host[:port][;params]`, `sip:` optional; wins over `phoneNumber`. It is parsed and rebuilt."),
};

export const replySchemas = {
  ...promptSchemas,
  switch: reply("switch", "Transfers the caller to a person.", {
    ...targetFields,
    targets: z
      .array(z.looseObject({ ...targetFields, headers: headersField }))
      .max(contractLimits.targetsMax)
      .nullish()
      .describe(
        "Several operators, each with `phoneNumber` or `sipUri` and `headers` of his own, which win over those of the `switch`. Wins over `phoneNumber` and `sipUri`.",
      ),
    strategy: z
      .enum(["serial", "ring"])
      .nullish()
      .describe(
        "`serial` (default): one after the other, each with an equal share of what is left of `timeout`. `ring`: all at once; the first to answer has the call.",
      ),
    confirm: z
      .looseObject({
        prompt: promptSchema.describe("What the operator hears: a `text` or `audio` reply."),
        digit: z
          .string()
          .regex(/^[0-9*#]$/)
          .nullish()
          .describe("The key; default `1`."),
        timeout: z
          .number()
          .min(1)
          .max(contractLimits.confirmTimeoutMaxS)
          .nullish()
          .describe("Seconds from his answer; default 20."),
      })
      .nullish()
      .describe(
        "The operator is joined when he presses a key; the caller hears ringback meanwhile. Without it in time: cause `rejected`, and the next target is called.",
      ),
    maxTalkSeconds: z
      .number()
      .min(1)
      .max(contractLimits.talkMaxS)
      .nullish()
      .describe("Longest talk; then the operator is hung up on and the transfer ends as if he had done it."),
    dtmf: dialString
      .nullish()
      .describe("Digits sent to the operator's side when the talk begins, for an extension: `ww123#`."),
    duringRing: z
      .array(promptSchema)
      .max(contractLimits.ringPromptsMax)
      .nullish()
      .describe("Prompts for the caller while an operator is called, with ringback after and between them."),
    timeout: z
      .unknown()
      .optional()
      .meta({
        type: ["string", "number", "null"],
        description:
          "Seconds from the first INVITE to the answer, over all attempts; default 60, clamped to 1..600 with a warning.",
      }),
    headers: headersField,
    transferChannel: z
      .string()
      .nullish()
      .describe("botId of the channel whose trunk is used; default the call's own trunk."),
    continueCall: flag.describe("True: the caller comes back to the bot after the talk and when nobody is available."),
    continueRecording: flag.describe("True: the talk is recorded too, into the same file."),
    method: z
      .enum(["invite", "refer", "transfer"])
      .nullish()
      .describe(
        "`invite` (default) calls and bridges; `refer` asks the caller's side; `transfer` is the old word for it.",
      ),
  }),
  switchCancel: reply("switchCancel", "Ends a transfer that has not been answered.", {
    transferId: z.string().nullish().describe("Only if this is the transfer under way."),
  }),
  duringRing: reply("duringRing", "More prompts for a caller for whom an operator is being called.", {
    prompts: z
      .array(promptSchema)
      .min(1)
      .max(contractLimits.ringPromptsMax)
      .describe("`text` and `audio` replies; they stop when somebody answers."),
  }),
  dtmf: reply(
    "dtmf",
    "Presses keys: telephone events (RFC 4733) where that side knows them, else tones, or SIP INFO where the trunk says so.",
    {
      digits: dialString.describe("0-9 * # A-D; `w`, `W`, `,` and a blank are pauses."),
      to: z.enum(["caller", "operator"]).nullish().describe("Default: the caller."),
    },
  ),
  record: reply(
    "record",
    "Controls the recording. A `start` after a `stop` begins another file; an action that changes nothing does nothing.",
    {
      action: z.enum(["start", "pause", "resume", "stop"]).describe("What it does."),
    },
  ),
  hangup: reply("hangup", "BYE to the caller, after the replies before it.", { headers: headersField }),
  stop: reply("stop", "Clears the queue and stops what plays.", {}),
  take: reply("take", "This worker of the bot has the call; the first one is accepted.", {
    worker: wordy(contractLimits.workerCharactersMax).describe("Name of the worker."),
  }),
  release: reply("release", "This worker gives the call up.", {
    worker: wordy(contractLimits.workerCharactersMax).describe("Name of the worker."),
  }),
} as const;

export type ReplyType = keyof typeof replySchemas;

export const replySchema = z.discriminatedUnion("type", [
  replySchemas.text,
  replySchemas.audio,
  replySchemas.switch,
  replySchemas.switchCancel,
  replySchemas.duringRing,
  replySchemas.dtmf,
  replySchemas.record,
  replySchemas.hangup,
  replySchemas.stop,
  replySchemas.take,
  replySchemas.release,
]);

const commandFields = {
  commandId: wordy(contractLimits.commandIdCharactersMax)
    .nullish()
    .describe("A repeat is answered with the first answer and does nothing. Without it one is minted."),
  worker: wordy(contractLimits.workerCharactersMax)
    .nullish()
    .describe(
      "The worker that sends it. Once a worker has taken the call, another worker's commands are refused; a command that names none is obeyed.",
    ),
};

/** One command as the documents show it. */
export const commandSchema = z
  .looseObject({
    ...commandFields,
    replies: z.array(replySchema).max(contractLimits.repliesMax).describe("Run in order, each after the one before."),
  })
  .meta({ title: "command", description: "What a bot publishes on `replyTo`." });

/** The frame of a command; its replies are judged one by one, so that the pointer of a refusal is exact. */
export const commandFrameSchema = z.looseObject({
  ...commandFields,
  replies: z.array(z.unknown()).max(contractLimits.repliesMax),
});

export type WirePrompt = z.input<typeof promptSchema>;
export type WireReply = z.input<typeof replySchema>;
export type SwitchReply = z.infer<typeof replySchemas.switch>;

/** Keys of the JAICP platform's own replies that mean nothing here; they are ignored without a word. */
export const foreignKeys: ReadonlySet<string> = new Set([
  "state",
  "markup",
  "tone",
  "bargeInReply",
  "firstMessage",
  "closeChatPhrases",
  "lastMessage",
  "attributes",
  "hiddenAttributes",
  "destination",
  "ignoreOffline",
  "oneTimeMessage",
  "appendCloseChatButton",
  "sendMessageHistoryAmount",
  "sendMessagesToOperator",
]);

/** Codes of `rejected`. */
export const rejectionCodes = {
  bad_json: "Not JSON, not UTF-8, or not an object.",
  too_large: "Over 64 KiB, or nested deeper than 8.",
  duplicate_key: "An object has the same key twice.",
  invalid_command: "The frame (`commandId`, `worker`, `replies`) breaks a rule.",
  unknown_reply: "A reply has a type that does not exist.",
  invalid_reply: "A field of a reply breaks a rule. For a `switch`, a `transfer` event with `FAIL` follows.",
  destination_refused:
    "The destination policy of the channel does not allow this number or SIP host. A `transfer` event with `FAIL` follows.",
  unknown_call: "The call is over or was never this bot's.",
  transfer_in_progress: "A `switch` while another transfer is under way.",
  taken: "Another worker has the call.",
  queue_full: "More replies wait than a call may have.",
  no_transfer: "A `switchCancel` or `duringRing` with no unanswered transfer.",
  fallback: "The bot was silent for too long, and the channel's fallback has the call.",
  rate_limited: "More than 20 commands a second for one bot.",
  internal: "The service failed to read the command; its log says why.",
} as const;

/** Codes of `warning`. */
export const warningCodes = {
  misspelt_key: "A key that is not known looks like one that is; it was ignored.",
  header_dropped: "A header breaks a rule; the request goes out without it.",
  timeout_clamped: "`timeout` was brought into 1..600 seconds.",
  timeout_invalid: "`timeout` is not a positive number; the default was used.",
  transfer_channel_unknown: "`transferChannel` names no channel; the call's own trunk was used.",
  method_deprecated: '`method: "transfer"` is the old word for `refer`.',
  refer_failed: "The caller's side did not follow a REFER; the target is called by INVITE.",
  refer_skipped: "The call's trunk did not follow a REFER within the last hour; the target is called by INVITE.",
  dropped_after_switch: "A reply behind a `switch` in the same command was dropped.",
  no_operator: "Digits for the operator were dropped, because the caller is not talking to one.",
  no_tts: "A `text` was not spoken because no text-to-speech is configured.",
  fallback: "The bot was silent for too long: from now on the channel's fallback has the call.",
  media_moved:
    "The media server was lost: the call goes on at another one, without what was said and played meanwhile.",
  more_warnings: "There were more warnings than one command may have.",
} as const;

export type RejectionCode = keyof typeof rejectionCodes;
export type WarningCode = keyof typeof warningCodes;
