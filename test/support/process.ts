// A real server as a child process: started, proved to be ready, stopped by its own process id, its output kept.
import { spawn, type ChildProcess } from "node:child_process";
import { accessSync, constants, readdirSync, readFileSync } from "node:fs";
import { delimiter, isAbsolute, join } from "node:path";
import { delay, waitFor } from "./wait.ts";

export interface ProcessOptions {
  /** How it is called in messages. */
  readonly name: string;
  readonly command: string;
  readonly args: readonly string[];
  readonly cwd?: string;
  /** Added to the environment of this process. */
  readonly env?: Readonly<Record<string, string>>;
  /** Asked until it says yes; without it the process counts as ready at once. */
  readonly ready?: (child: RunningProcess) => boolean | Promise<boolean>;
  readonly readyTimeoutMs?: number;
}

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** The last part of what a process printed is enough to see why it failed. */
const outputLimit = 512 * 1024;

const alive = new Set<ChildProcess>();
process.on("exit", () => {
  for (const child of alive) child.kill("SIGKILL");
});

/**
 * The full path of a program, looked for in the sbin folders too, which ordinary users do not have on their path. A name
 * that is a path already is looked for nowhere else.
 */
export function findProgram(name: string): string | undefined {
  if (isAbsolute(name)) return name;
  const folders = [...(process.env["PATH"] ?? "").split(delimiter), "/usr/local/sbin", "/usr/sbin", "/sbin"];
  for (const folder of folders.filter((path) => path !== "")) {
    try {
      accessSync(join(folder, name), constants.X_OK);
      return join(folder, name);
    } catch {
      // Not in this folder.
    }
  }
  return undefined;
}

export class RunningProcess implements AsyncDisposable {
  readonly name: string;
  readonly pid: number;
  readonly exited: Promise<Exit>;
  #exit: Exit | undefined;
  #output = "";
  #stdout = "";
  readonly #child: ChildProcess;

  private constructor(name: string, child: ChildProcess, pid: number) {
    this.name = name;
    this.pid = pid;
    this.#child = child;
    alive.add(child);
    child.stdout?.setEncoding("utf8").on("data", (text: string) => {
      this.#stdout = (this.#stdout + text).slice(-outputLimit);
      this.#output = (this.#output + text).slice(-outputLimit);
    });
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.#output = (this.#output + text).slice(-outputLimit);
    });
    this.exited = new Promise((resolve) => {
      // `close` comes after `exit` and after the last output, so a failure message has everything.
      child.once("close", (code, signal) => {
        alive.delete(child);
        this.#exit = { code, signal };
        resolve(this.#exit);
      });
    });
  }

  static async start(options: ProcessOptions): Promise<RunningProcess> {
    const program = findProgram(options.command);
    if (program === undefined) throw new Error(`${options.command} is not installed; run: bash scripts/setup.sh test`);
    // setpriv (util-linux) makes the kernel kill the child when this process dies by SIGKILL and can clean up no more.
    const setpriv = findProgram("setpriv");
    const [command, args] =
      setpriv === undefined
        ? [program, options.args]
        : [setpriv, ["--pdeathsig", "KILL", "--", program, ...options.args]];
    const child = spawn(command, args, {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, ...options.env },
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
    const failedToStart = new Promise<never>((_resolve, reject) => {
      child.once("error", (error) => reject(new Error(`could not start ${options.name}`, { cause: error })));
    });
    failedToStart.catch(() => {});
    if (child.pid === undefined) return failedToStart;
    const running = new RunningProcess(options.name, child, child.pid);
    try {
      await running.#waitUntilReady(options);
    } catch (error) {
      await running.kill();
      throw error;
    }
    return running;
  }

  async #waitUntilReady({ ready, readyTimeoutMs = 10_000 }: ProcessOptions): Promise<void> {
    if (ready === undefined) return;
    const deadline = performance.now() + readyTimeoutMs;
    let lastError: unknown;
    for (;;) {
      if (this.#exit !== undefined) throw new Error(this.#failure("ended before it was ready"));
      try {
        if (await ready(this)) return;
      } catch (error) {
        lastError = error;
      }
      if (performance.now() > deadline) {
        throw new Error(this.#failure(`was not ready after ${readyTimeoutMs} ms`), { cause: lastError });
      }
      await delay(10);
    }
  }

  #failure(what: string): string {
    const how = this.#exit === undefined ? "" : ` (exit status ${this.#exit.code ?? this.#exit.signal})`;
    return `${this.name} ${what}${how}; it printed:\n${this.#output.slice(-4_000)}`;
  }

  /** What it printed on standard output and standard error, at most the last 512 KiB. */
  get output(): string {
    return this.#output;
  }
  /** Standard output alone. */
  get stdout(): string {
    return this.#stdout;
  }
  get exit(): Exit | undefined {
    return this.#exit;
  }

  /** Sends a signal to this very process; does nothing when it has ended. */
  signal(signal: NodeJS.Signals): void {
    if (this.#exit === undefined) this.#child.kill(signal);
  }

  /** Stops it without ending it, as on a stalled host; resolves when none of its threads runs any more. */
  async freeze(): Promise<void> {
    this.signal("SIGSTOP");
    // The signal alone says nothing: on a loaded machine a thread goes on for milliseconds.
    await waitFor(() => this.#exit !== undefined || threadStates(this.pid).every((state) => state === "T"), {
      what: `${this.name} to stand still`,
      intervalMs: 1,
    });
  }

  unfreeze(): void {
    this.signal("SIGCONT");
  }

  /** Asks it to end, and after the grace time makes it end. */
  async stop({ graceMs = 3_000 }: { readonly graceMs?: number } = {}): Promise<Exit> {
    this.signal("SIGTERM");
    const timer = setTimeout(() => this.signal("SIGKILL"), graceMs);
    try {
      return await this.exited;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Ends it as a crash would. */
  async kill(): Promise<Exit> {
    this.signal("SIGKILL");
    return this.exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

/** One letter for each thread (proc_pid_stat(5)). */
function threadStates(pid: number): readonly string[] {
  const threads = `/proc/${pid}/task`;
  // The name, in brackets, may itself hold spaces and brackets.
  return readdirSync(threads).map(
    (id) => /^.*\) (.)/s.exec(readFileSync(join(threads, id, "stat"), "utf8"))?.[1] ?? "",
  );
}
