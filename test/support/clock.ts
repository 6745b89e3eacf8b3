// Wall-clock time that never jumps: comparable between threads and with the times in events, files and other processes.
import { isMainThread, workerData } from "node:worker_threads";

const monotonicMs = (): number => Number(process.hrtime.bigint()) / 1e6;

/** What has to be added to the monotonic clock, fixed once per process and handed on to its threads. */
export const clockOffsetMs: number =
  !isMainThread && hasOffset(workerData) ? workerData.clockOffsetMs : Date.now() - monotonicMs();

function hasOffset(value: unknown): value is { readonly clockOffsetMs: number } {
  return (
    typeof value === "object" && value !== null && "clockOffsetMs" in value && typeof value.clockOffsetMs === "number"
  );
}

/** Milliseconds since the epoch, with fractions, monotonic. */
export const nowMs = (): number => monotonicMs() + clockOffsetMs;
