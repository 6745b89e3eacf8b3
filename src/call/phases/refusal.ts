import type { Live } from "../state.ts";

/** Why a command is rejected. */
export interface Refusal {
  readonly code: string;
  readonly message: string;
  /** RFC 6901. */
  readonly pointer: string | null;
}

/** The fallback runs the call to its end: a bot that comes back must not talk into it. */
export function botLost({ core }: Live): Refusal | null {
  if (core.bot !== "lost") return null;
  const message = "The bot was silent for too long; the channel's fallback has the call.";
  return { code: "fallback", message, pointer: null };
}

export function takenByAnother(pointer: string): Refusal {
  return { code: "taken", message: "Another worker has taken this call.", pointer };
}

/** A `switch` is being carried out or waits in the queue: there is room for one. */
export function transferInProgress({ phase, core }: Live, pointer: string | null): Refusal | null {
  const open = phase === "dialling" || phase === "withOperator" || phase === "referring";
  if (!open && !core.queue.some(({ reply }) => reply.type === "switch")) return null;
  return {
    code: "transfer_in_progress",
    message: "A transfer is under way; until it is answered, switchCancel ends it.",
    pointer,
  };
}
