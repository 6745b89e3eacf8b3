import { pino } from "pino";

/**
 * A line of the log: facts in fields, a fixed sentence as text. Numbers of people, SIP URIs and header values stand in
 * the fields of `personal` only, so that one setting hides them.
 */
export interface Log {
  debug(fields: object, text: string): void;
  info(fields: object, text: string): void;
  warn(fields: object, text: string): void;
  error(fields: object, text: string): void;
  child(fields: object): Log;
}

/** Fields that may hold somebody's number, address or secret. */
const personal = ["caller", "called", "number", "uri", "target", "from", "to", "headers", "authorization", "password"];

export interface LogOptions {
  readonly level: "debug" | "info" | "warn" | "error" | "silent";
  /** Shows the fields that hold people's numbers; they are hidden by default. */
  readonly showPersonal: boolean;
}

/** JSON lines on standard error, so that standard output stays free for what a command prints. */
export function createLog(options: LogOptions): Log {
  return pino(
    {
      level: options.level,
      ...(options.showPersonal ? {} : { redact: { paths: personal.flatMap((p) => [p, `*.${p}`]), censor: "…" } }),
      timestamp: pino.stdTimeFunctions.isoTime,
      base: null,
    },
    pino.destination({ dest: 2, sync: false }),
  );
}

export const silentLog: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
  child: () => silentLog,
};
