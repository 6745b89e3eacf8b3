// The library for bot backends: `import { connectBot } from "patchbay/client"`.
export { Bot, connectBot } from "./bot.ts";
export type { BotEvents, BotOptions, CallCallback } from "./bot.ts";
export type {
  BotCall,
  Digits,
  DigitsRequest,
  EventListener,
  Hangup,
  OperatorOutcome,
  OperatorRequest,
  Playback,
  SwitchRequest,
  SwitchTarget,
  TransferDetails,
  TransferStatus,
} from "./call.ts";
export type { RedisAddress } from "./connection.ts";
export {
  BadEventError,
  BotClientError,
  CallEndedError,
  CallGoneError,
  CommandRejectedError,
  NoAnswerError,
} from "./errors.ts";
export type { EventName, WireEvent, WireEventOf, WirePrompt, WireReply } from "../bot/contract.ts";
