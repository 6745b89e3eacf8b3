/** Why a prompt, a job or a command failed. `code` is stable and goes to the bot as the reason. */
export class MediaError extends Error {
  readonly code: string;

  constructor(code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = "MediaError";
    this.code = code;
  }
}

/** The stable code of anything that was thrown; system errors have one of their own (`ENOSPC`). */
export function codeOf(error: unknown, otherwise: string): string {
  if (error instanceof Error && "code" in error && typeof error.code === "string") return error.code;
  return otherwise;
}

export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
