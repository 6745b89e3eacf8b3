import type { Prompt } from "./effect.ts";
import type { CommandId } from "./ids.ts";
import type { CustomHeader, TransferRequest } from "./transfer.ts";

/** What a bot may ask for, validated and translated from the wire (bot-contract §3). */
export type Reply =
  | { readonly type: "text"; readonly text: string; readonly lang: string | null; readonly voice: string | null }
  | { readonly type: "audio"; readonly url: string; readonly times: number }
  | { readonly type: "switch"; readonly request: TransferRequest }
  | { readonly type: "switchCancel"; readonly transferId: string | null }
  | { readonly type: "duringRing"; readonly prompts: readonly Prompt[] }
  | { readonly type: "dtmf"; readonly digits: string; readonly to: "caller" | "operator" }
  | { readonly type: "record"; readonly action: "start" | "pause" | "resume" | "stop" }
  | { readonly type: "hangup"; readonly headers: readonly CustomHeader[] }
  | { readonly type: "stop" }
  | { readonly type: "take"; readonly worker: string }
  | { readonly type: "release"; readonly worker: string };

/** Replies that wait their turn; the others act the moment they arrive. */
export type QueuedReply = Exclude<Reply, { type: "stop" | "switchCancel" | "duringRing" | "take" | "release" }>;

/** One message of the bot; it is accepted or rejected as a whole. */
export interface Command {
  readonly commandId: CommandId;
  /** The worker of the bot that sent it, where it says so. */
  readonly worker: string | null;
  readonly replies: readonly Reply[];
}
