import type { Live } from "../state.ts";

/** Why a command is rejected. */
export interface Refusal {
  readonly code: string;
  readonly message: string;
  /** RFC 6901. */
  readonly pointer: string | null;
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
