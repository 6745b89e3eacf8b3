import type { TransferId } from "../call/ids.ts";
import { fallbackCommand } from "../call/patience.ts";
import type { QueuedReply, Reply } from "../call/reply.ts";
import { readFrame, translate } from "./translate.ts";
import type { TransferPolicy } from "./translate.ts";

/** What a channel says and does in place of a bot that is silent, as the configuration has it. */
export interface FallbackPlan {
  readonly audioUrl?: string | undefined;
  readonly text?: string | undefined;
  readonly phoneNumber?: string | undefined;
  readonly sipUri?: string | undefined;
  readonly timeoutMs: number;
  readonly goodbyeUrl?: string | undefined;
}

export type FallbackOutcome =
  | { readonly ok: true; readonly replies: readonly QueuedReply[] }
  | { readonly ok: false; readonly message: string };

/**
 * The replies of a fallback, read by the rules of a bot's own. They always end the call: with the talk, or with a `hangup`.
 * A plan of nothing is a polite end.
 */
export function fallbackReplies(
  plan: FallbackPlan | undefined,
  policy: TransferPolicy,
  mintTransferId: () => TransferId,
): FallbackOutcome {
  const { audioUrl, text, phoneNumber, sipUri, timeoutMs, goodbyeUrl } = plan ?? { timeoutMs: 0 };
  const operator = phoneNumber !== undefined || sipUri !== undefined;
  // With a goodbye the caller comes back for it; behind it he is hung up on.
  const goodbye = goodbyeUrl !== undefined;
  const first = [
    ...(audioUrl === undefined ? [] : [{ type: "audio", audioUrl }]),
    ...(text === undefined ? [] : [{ type: "text", text }]),
    ...(operator
      ? [
          {
            type: "switch",
            phoneNumber,
            sipUri,
            timeout: timeoutMs / 1000,
            continueCall: goodbye,
            continueRecording: true,
          },
        ]
      : []),
  ];
  const last = [
    ...(goodbye ? [{ type: "audio", audioUrl: goodbyeUrl }] : []),
    ...(operator && !goodbye ? [] : [{ type: "hangup" }]),
  ];
  const replies: QueuedReply[] = [];
  // A bot's command ends with its `switch`, so what follows one here is a command of its own.
  for (const part of [first, last]) {
    const frame = readFrame({ replies: part });
    if (!frame.ok) return { ok: false, message: frame.rejection.message };
    const translation = translate(frame.frame, fallbackCommand, policy, mintTransferId);
    if (translation.type === "rejected") return { ok: false, message: translation.rejection.message };
    if (translation.type === "invalidSwitch") return { ok: false, message: translation.event.message };
    replies.push(...translation.command.replies.filter(isQueued));
  }
  return { ok: true, replies };
}

/** All that is written above waits its turn. */
function isQueued(reply: Reply): reply is QueuedReply {
  return reply.type === "audio" || reply.type === "text" || reply.type === "switch" || reply.type === "hangup";
}
