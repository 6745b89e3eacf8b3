// SIPp, the load generator: one caller and one callee process on a core of their own.
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { claimPort, claimPortRange, ownsPort } from "../test/support/ports.ts";
import { RunningProcess } from "../test/support/process.ts";

export interface LoadOptions {
  readonly target: number;
  readonly callee: number;
  readonly callsPerSecond: number;
  readonly calls: number;
  /** How long a call is held before the caller's BYE, in milliseconds. */
  readonly holdMs?: number;
  /** SIPp's arguments for what each side does. Default: its own scenarios, without sound. */
  readonly caller?: readonly string[];
  readonly called?: readonly string[];
}

export interface LoadResult {
  readonly created: number;
  readonly succeeded: number;
  readonly failed: number;
  /** Of both sides together. */
  readonly retransmissions: number;
  /** Calls a second while calls were offered. */
  readonly offered: number;
}

/** Pins a command to a core, if it is to be on one. */
export function pinned(
  core: number | undefined,
  command: readonly string[],
): { command: string; args: readonly string[] } {
  const [program = "", ...ownArgs] = command;
  if (core === undefined) {
    return { command: program, args: ownArgs };
  }
  return { command: "taskset", args: ["-c", String(core), ...command] };
}

interface Generator {
  readonly process: RunningProcess;
  readonly port: number;
  close(): Promise<void>;
}

async function sipp(
  name: string,
  core: number | undefined,
  folder: string,
  port: number | undefined,
  args: readonly string[],
): Promise<Generator> {
  const claimed = port === undefined ? await claimPort() : undefined;
  const own = port ?? claimed?.port ?? 0;
  const control = await claimPort();
  // A caller with sound has two ports for each of his calls.
  const media = await claimPortRange(400);
  const close = async (): Promise<void> => {
    await Promise.all([claimed?.release(), control.release(), media.release()]);
  };
  const { command, args: wrapped } = pinned(core, [
    "sipp",
    ...args,
    "-i",
    "127.0.0.1",
    "-p",
    String(own),
    "-nostdin",
    "-timer_resol",
    "1",
    "-ci",
    "127.0.0.1",
    "-cp",
    String(control.port),
    "-mi",
    "127.0.0.1",
    "-mp",
    String(media.first & ~1),
    "-trace_stat",
    "-fd",
    "1",
    "-stf",
    join(folder, `${name}.csv`),
  ]);
  try {
    const running = await RunningProcess.start({
      name: `sipp (${name})`,
      command,
      args: wrapped,
      cwd: folder,
      env: { TERM: "dumb" },
      ready: (child) => child.exit !== undefined || ownsPort(child.pid, "udp", own),
    });
    return { process: running, port: own, close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function columns(file: string): Promise<readonly ReadonlyMap<string, string>[]> {
  const [head = "", ...rows] = (await readFile(file, "utf8").catch(() => "")).trim().split("\n");
  const names = head.split(";");
  return rows.map((row) => new Map(row.split(";").map((value, index) => [names[index] ?? "", value])));
}

/** A load that goes on while the caller looks at the system under test. */
export interface RunningLoad {
  readonly ports: readonly number[];
  readonly pids: readonly number[];
  /** Waits until all calls have ended and returns what came of them. */
  finished(): Promise<LoadResult>;
  /** Ends it without waiting for its calls. */
  stop(): Promise<void>;
}

export async function startLoad(options: LoadOptions, core: number | undefined): Promise<RunningLoad> {
  const {
    target,
    callee,
    callsPerSecond,
    calls,
    holdMs = 0,
    caller = ["-sn", "uac"],
    called = ["-sn", "uas"],
  } = options;
  const folder = await mkdtemp(join(tmpdir(), "bench-"));
  const seconds = calls / callsPerSecond + holdMs / 1_000;
  const uas = await sipp("callee", core, folder, callee, called);
  const uac = await sipp("caller", core, folder, undefined, [
    ...caller,
    `127.0.0.1:${target}`,
    "-r",
    String(callsPerSecond),
    "-m",
    String(calls),
    // Without a limit of its own SIPp holds back calls at about three times rate times duration.
    "-l",
    "60000",
    "-d",
    String(holdMs),
    // A call lost by the system under test would be waited for without end.
    "-timeout",
    `${Math.ceil(seconds + 20)}s`,
    "-timeout_error",
  ]);
  const close = async (): Promise<void> => {
    await Promise.all([uac.process.stop(), uas.process.stop({ graceMs: 200 })]);
    await Promise.all([uac.close(), uas.close()]);
  };
  return {
    ports: [uac.port, uas.port],
    pids: [uac.process.pid, uas.process.pid],
    finished: async () => {
      await uac.process.exited;
      // The last row of the callee is written once a second.
      await new Promise<void>((resolve) => {
        setTimeout(resolve, 1_100);
      });
      const [callerRows, calledRows] = [
        await columns(join(folder, "caller.csv")),
        await columns(join(folder, "callee.csv")),
      ];
      await close();
      await rm(folder, { recursive: true, force: true });
      const last = callerRows.at(-1);
      const number = (row: ReadonlyMap<string, string> | undefined, name: string): number =>
        Number(row?.get(name) ?? 0);
      const created = number(last, "TotalCallCreated");
      // The row in which the last call was begun: what follows is waiting for calls to end.
      const offering = callerRows.find((row) => number(row, "TotalCallCreated") === created);
      return {
        created,
        succeeded: number(last, "SuccessfulCall(C)"),
        failed: calls - number(last, "SuccessfulCall(C)"),
        retransmissions: number(last, "Retransmissions(C)") + number(calledRows.at(-1), "Retransmissions(C)"),
        offered: number(offering, "CallRate(C)"),
      };
    },
    stop: async () => {
      await close();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

export async function runLoad(options: LoadOptions, core: number | undefined): Promise<LoadResult> {
  const load = await startLoad(options, core);
  return await load.finished();
}
