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
