import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { setPriority } from "node:os";
import { MediaError, messageOf } from "./media-error.ts";

export interface ProgramRun {
  readonly program: string;
  readonly args: readonly string[];
  /** After this many milliseconds it is killed. */
  readonly timeoutMs: number;
  /** What it reads on its standard input; nothing when left out. */
  readonly input?: string;
  /** Where its standard output goes: a file that is open, or whoever takes the pieces; nowhere when left out. */
  readonly output?: number | ((bytes: Buffer) => void);
  /** From 1 (nearly as important as we are) to 19; 0 when left out. */
  readonly niceness?: number;
  /** Kills it. */
  readonly signal?: AbortSignal;
}

const mostErrorText = 500;

/** Runs a program, never by a shell. Rejects with a MediaError: `timeout`, `aborted`, or `failed` with what it complained about. */
export function runProgram(run: ProgramRun): Promise<void> {
  const { program, args, timeoutMs, input = "", output, niceness = 0, signal } = run;
  return new Promise((resolve, reject) => {
    if (signal?.aborted === true) {
      reject(new MediaError("aborted", "it was not wanted any more"));
      return;
    }
    const taken = typeof output === "number" ? output : output === undefined ? "ignore" : "pipe";
    const child: ChildProcess = spawn(program, args, { stdio: ["pipe", taken, "pipe"] });
    const giveUp = (error: MediaError): void => {
      child.kill("SIGKILL");
      // The children of a script outlive it and hold its pipes open: nobody waits for them to close these.
      child.stdout?.destroy();
      child.stderr?.destroy();
      settle();
      reject(error);
    };
    const abort = (): void => giveUp(new MediaError("aborted", "it was not wanted any more"));
    const deadline = setTimeout(() => giveUp(new MediaError("timeout", `not done within ${timeoutMs} ms`)), timeoutMs);
    const settle = (): void => {
      clearTimeout(deadline);
      signal?.removeEventListener("abort", abort);
    };
    signal?.addEventListener("abort", abort, { once: true });
    if (niceness > 0 && child.pid !== undefined) lower(child.pid, niceness);
    let errors = "";
    child.stderr?.setEncoding("utf8");
    child.stderr?.on("data", (text: string) => {
      if (errors.length < mostErrorText) errors += text.slice(0, mostErrorText - errors.length);
    });
    if (typeof output === "function") child.stdout?.on("data", output);
    child.once("error", (error) => {
      settle();
      reject(new MediaError("failed", messageOf(error), { cause: error }));
    });
    child.once("close", (status, killed) => {
      settle();
      if (status === 0) resolve();
      else reject(new MediaError("failed", `ended by ${String(status ?? killed)}: ${errors.trim()}`));
    });
    // A program that does not read its input closes the pipe under us; its exit status tells the rest.
    child.stdin?.on("error", () => {});
    child.stdin?.end(input);
  });
}

function lower(pid: number, niceness: number): void {
  try {
    setPriority(pid, niceness);
  } catch {
    // It has ended already, or the system refuses: then it runs less politely.
  }
}
