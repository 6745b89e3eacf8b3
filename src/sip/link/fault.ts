import type { Log } from "../../telemetry/log.ts";

/** Why the signalling engine could not do what was asked; every way in which drachtio-srf fails becomes one of these. */
export type FaultCode =
  /** No connection to the engine, or it was lost while we waited. */
  | "engine_away"
  /** The engine refused; its text is the message. */
  | "engine_refused"
  /** The dialog does not exist (any more). */
  | "dialog_gone"
  /** The peer gave up first. */
  | "cancelled"
  /** The engine said nothing in time. */
  | "timeout";

export class SipFault extends Error {
  readonly code: FaultCode;

  constructor(code: FaultCode, message: string) {
    super(message);
    this.name = "SipFault";
    this.code = code;
  }
}

/** srf: rejections are strings, Errors with or without a code, or SipErrors; here all become one type. */
export function faultOf(error: unknown): SipFault {
  if (error instanceof SipFault) {
    return error;
  }
  const message = error instanceof Error ? error.message : String(error);
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  if (code === "ENODIALOG" || /unable to find dialog/i.test(message)) {
    return new SipFault("dialog_gone", message);
  }
  if (error instanceof Error && "status" in error && error.status === 487) {
    return new SipFault("cancelled", message);
  }
  const away =
    code === "ESOCKETDESTROYED" || code === "EINVALIDSOCKET" || code === "ECONNREFUSED" || code === "ERR_ASSERTION";
  return new SipFault(away || /socket connection closed/.test(message) ? "engine_away" : "engine_refused", message);
}

/** Nothing may be thrown into drachtio-srf: from its socket callbacks it would end the process. False when something was. */
export function guard(log: Log, run: () => void): boolean {
  try {
    run();
    return true;
  } catch (error) {
    log.error({ err: error }, "an error in a signalling callback");
    return false;
  }
}
