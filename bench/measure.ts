// The measurements, each for all columns next to one another, so that whatever else the machine does hits all of them.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { cpus, tmpdir } from "node:os";
import { join } from "node:path";

import { claimPort } from "../test/support/ports.ts";
import { findProgram } from "../test/support/process.ts";
import { ask, type Column, type ColumnContext, type Sut } from "./columns.ts";
import { type LoadOptions, runLoad, startLoad } from "./load.ts";
import { coreTimes, receiveErrors, residentBytes, socketDrops, spentMs, threadTimes } from "./machine.ts";

export interface Cores {
  readonly sut: number;
  readonly generator: number;
}

/** The system under test alone on core 0, everything else on core 1; on one core both share it. */
export const cores: Cores = { sut: 0, generator: cpus().length > 1 ? 1 : 0 };

/** A value, or why there is none. */
export type Cell<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly reason: string };

export interface Block {
  readonly callsPerSecond: number;
  /** Milliseconds of processor time per bridged call, of all threads and of the busiest one. */
  readonly cpuMs: number;
  readonly busiestMs: number;
}

export interface Rules {
  /** The machine has other work: what that work does to the generator's core and to other sockets is not counted. */
  readonly shared: boolean;
}

const mostTries = 3;

export async function sleep(ms: number): Promise<void> {
  await new Promise<void>((resolve) => {
    setTimeout(resolve, ms);
  });
}

/** One measured block, or the rule that discards it. */
export async function measureBlock(sut: Sut, load: LoadOptions, rules: Rules): Promise<Cell<Block>> {
  const coreBefore = [coreTimes(cores.sut), coreTimes(cores.generator)];
  const errorsBefore = receiveErrors();
  const dropsBefore = socketDrops([sut.port]);
  const before = threadTimes(sut.pids);
  const running = await startLoad(load, cores.generator);
  const result = await running.finished();
  const { all, busiest } = spentMs(before, threadTimes(sut.pids));
  const drops = socketDrops([sut.port]) - dropsBefore;
  const errors = receiveErrors() - errorsBefore;
  const [sutCore, generatorCore] = [coreTimes(cores.sut), coreTimes(cores.generator)].map((now, index) => {
    const then = coreBefore[index] ?? now;
    const total = Math.max(1, now.total - then.total);
    return { busy: (now.busy - then.busy) / total, steal: (now.steal - then.steal) / total };
  });
  const off = Math.abs(result.offered / load.callsPerSecond - 1);
  const reason =
    result.failed > 0
      ? `${result.failed} of ${load.calls} calls failed`
      : result.retransmissions > 0
        ? `${result.retransmissions} retransmissions`
        : drops > 0 || (errors > 0 && !rules.shared)
          ? `${Math.max(drops, errors)} datagrams dropped for a full receive buffer`
          : Math.max(sutCore?.steal ?? 0, generatorCore?.steal ?? 0) >= 0.02
            ? "the host took 2 % or more of the processor"
            : (generatorCore?.busy ?? 0) >= 0.7 && !rules.shared
              ? generatorTooBusy
              : off > 0.01
                ? `${result.offered.toFixed(1)} calls a second offered instead of ${load.callsPerSecond}`
                : undefined;
  return reason === undefined
    ? {
        ok: true,
        value: {
          callsPerSecond: load.callsPerSecond,
          cpuMs: all / result.created,
          busiestMs: busiest / result.created,
        },
      }
    : { ok: false, reason };
}

const generatorTooBusy = "the generator's core was 70 % busy or more";

export interface Bench {
  readonly columns: readonly Column[];
  readonly context: ColumnContext;
  readonly rules: Rules;
  readonly say: (text: string) => void;
}

/** Starts every column, warms it up at 200 calls a second for 4 s, runs the work and stops them all. */
export async function withColumns<T>(bench: Bench, work: (suts: ReadonlyMap<Column, Sut>) => Promise<T>): Promise<T> {
  const suts = new Map<Column, Sut>();
  try {
    for (const column of bench.columns) {
      let sut: Sut;
      try {
        sut = await column.start(bench.context);
      } catch (error) {
        // The other columns are worth measuring without it; what compares with it is then not run.
        bench.say(`skipped: ${column.title}: ${reasonOf(error)}`);
        continue;
      }
      suts.set(column, sut);
      await runLoad(
        { target: sut.port, callee: bench.context.callee, callsPerSecond: 200, calls: 800 },
        cores.generator,
      );
    }
    return await work(suts);
  } finally {
    for (const sut of suts.values()) {
      await sut.stop();
    }
  }
}

function reasonOf(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).replaceAll(/\s+/g, " ").slice(0, 200);
}

/** Per column one cell per block; blocks with the same index were measured next to one another. */
export type Series = ReadonlyMap<string, readonly Cell<Block>[]>;

/** Interleaved blocks at one rate; the order changes with every round, so that no column always follows the same one. */
export async function cpuPerCall(
  bench: Bench,
  suts: ReadonlyMap<Column, Sut>,
  callsPerSecond: number,
  blocks: number,
  seconds: number,
): Promise<Series> {
  const series = new Map<string, Cell<Block>[]>([...suts.keys()].map(({ name }) => [name, []]));
  for (let round = 0; round < blocks; round += 1) {
    const entries = [...suts];
    const from = round % entries.length;
    for (const [column, sut] of [...entries.slice(from), ...entries.slice(0, from)]) {
      const load = { target: sut.port, callee: bench.context.callee, callsPerSecond, calls: callsPerSecond * seconds };
      let cell: Cell<Block> = { ok: false, reason: "not measured" };
      for (let attempt = 1; attempt <= mostTries && !cell.ok; attempt += 1) {
        cell = await measureBlock(sut, load, bench.rules);
      }
      series.get(column.name)?.push(cell);
      bench.say(
        `${callsPerSecond} cps, block ${round + 1}, ${column.title}: ${cell.ok ? `${cell.value.cpuMs.toFixed(3)} ms` : cell.reason}`,
      );
    }
  }
  return series;
}

export interface CleanRate {
  readonly callsPerSecond: number;
  /** What the next rate failed by. */
  readonly limit: string;
}

/** How many times more the next step of the ladder offers. */
const ladderStep = 1.3;
const ladderEnd = 6_000;

/**
 * The highest rate without a failed call, a retransmission or a dropped datagram: a ladder, then bisection. A rate that
 * failed is tried a second time before it counts as failed. The columns take turns at every step.
 */
export async function highestCleanRate(
  bench: Bench,
  suts: ReadonlyMap<Column, Sut>,
  options: { readonly from: number; readonly seconds: number; readonly bisections: number },
): Promise<ReadonlyMap<string, CleanRate>> {
  interface Search {
    clean: number;
    failed: number | undefined;
    limit: string;
    bisections: number;
  }
  const searches = new Map<Column, Search>(
    [...suts.keys()].map((column) => [column, { clean: 0, failed: undefined, limit: "", bisections: 0 }]),
  );
  const isOpen = ({ clean, failed, bisections }: Search): boolean =>
    failed === undefined ? clean < ladderEnd : bisections < options.bisections;
  while ([...searches.values()].some(isOpen)) {
    for (const [column, search] of searches) {
      const sut = suts.get(column);
      if (sut === undefined || !isOpen(search)) {
        continue;
      }
      const next =
        search.failed === undefined
          ? search.clean === 0
            ? options.from
            : search.clean * ladderStep
          : (search.clean + search.failed) / 2;
      const callsPerSecond = Math.round(next / 10) * 10;
      search.bisections += search.failed === undefined ? 0 : 1;
      const load = {
        target: sut.port,
        callee: bench.context.callee,
        callsPerSecond,
        calls: callsPerSecond * options.seconds,
      };
      let cell = await measureBlock(sut, load, bench.rules);
      if (!cell.ok) {
        await sleep(1_000);
        cell = await measureBlock(sut, load, bench.rules);
      }
      bench.say(`ladder, ${column.title}, ${callsPerSecond} cps: ${cell.ok ? "clean" : cell.reason}`);
      if (cell.ok) {
        search.clean = callsPerSecond;
      } else {
        search.failed = callsPerSecond;
        search.limit = cell.reason;
      }
    }
  }
  return new Map([...searches].map(([{ name }, { clean, limit }]) => [name, { callsPerSecond: clean, limit }]));
}

export interface LoopDelay {
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

/** How late the event loop of each measured Node program ran at that rate; the latest of several processes. */
export async function loopDelay(
  bench: Bench,
  suts: ReadonlyMap<Column, Sut>,
  callsPerSecond: number,
  seconds: number,
): Promise<ReadonlyMap<string, Cell<LoopDelay>>> {
  const delays = new Map<string, Cell<LoopDelay>>();
  for (const [column, sut] of suts) {
    if (sut.nodes.length === 0) {
      delays.set(column.name, { ok: false, reason: "no Node process" });
      continue;
    }
    for (const node of sut.nodes) {
      node.signal("SIGHUP");
    }
    await runLoad(
      { target: sut.port, callee: bench.context.callee, callsPerSecond, calls: callsPerSecond * seconds },
      cores.generator,
    );
    const told = await Promise.all(sut.nodes.map(ask)).catch(reasonOf);
    if (typeof told === "string") {
      delays.set(column.name, { ok: false, reason: told });
      continue;
    }
    const loops = told.map(({ loop }) => loop ?? { p50: 0, p99: 0, max: 0 });
    const worst = (pick: (loop: { p50: number; p99: number; max: number }) => number): number =>
      Math.max(...loops.map(pick));
    delays.set(column.name, {
      ok: true,
      value: { p50Ms: worst((one) => one.p50), p99Ms: worst((one) => one.p99), maxMs: worst((one) => one.max) },
    });
  }
  return delays;
}

const straceCalls = 400;
const straceRate = 40;

/** System calls per bridged call, counted by strace in a run of its own: nothing is as slow as being traced. */
export async function systemCalls(
  bench: Bench,
  suts: ReadonlyMap<Column, Sut>,
): Promise<ReadonlyMap<string, Cell<number>>> {
  const counts = new Map<string, Cell<number>>();
  for (const [column, sut] of suts) {
    const cell = await traced(bench, sut);
    bench.say(`system calls, ${column.title}: ${cell.ok ? cell.value.toFixed(0) : cell.reason}`);
    counts.set(column.name, cell);
  }
  return counts;
}

async function traced(bench: Bench, sut: Sut): Promise<Cell<number>> {
  const strace = findProgram("strace");
  if (strace === undefined) {
    return { ok: false, reason: "strace is not installed" };
  }
  const folder = await mkdtemp(join(tmpdir(), "bench-strace-"));
  const file = join(folder, "counts");
  try {
    // Counts go out when the tracer is interrupted; it lets go of the traced processes then.
    const tracer = spawn(
      strace,
      ["-f", "-c", "-S", "calls", "-U", "calls,name", "-o", file, ...sut.pids.flatMap((pid) => ["-p", String(pid)])],
      { stdio: ["ignore", "ignore", "pipe"] },
    );
    const ended = once(tracer, "exit");
    let said = "";
    tracer.stderr.setEncoding("utf8").on("data", (text: string) => (said += text));
    const attached = performance.now() + 5_000;
    while (!said.includes("attached") && tracer.exitCode === null && performance.now() < attached) {
      await sleep(20);
    }
    if (tracer.exitCode !== null || !said.includes("attached")) {
      tracer.kill("SIGINT");
      return { ok: false, reason: `strace cannot attach: ${said.trim().split("\n")[0] ?? ""}` };
    }
    const result = await runLoad(
      { target: sut.port, callee: bench.context.callee, callsPerSecond: straceRate, calls: straceCalls },
      cores.generator,
    );
    tracer.kill("SIGINT");
    await ended;
    if (result.failed > 0) {
      return { ok: false, reason: `${result.failed} calls failed under strace` };
    }
    const total = /^\s*(\d+)\s+total\s*$/m.exec(await readFile(file, "utf8"))?.[1];
    return total === undefined
      ? { ok: false, reason: "strace counted nothing" }
      : { ok: true, value: Number(total) / straceCalls };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

export interface Memory {
  /** Resident bytes per call held, once its transactions are gone. */
  readonly perHeldCall: number;
  /** Resident bytes per call that has ended but whose transactions still wait for 64*T1. */
  readonly perFinishedCall: number;
  /** The same of what is in use of V8's heap, where all processes are Node's. */
  readonly heapPerHeldCall: number | undefined;
  readonly heapPerFinishedCall: number | undefined;
  /** Bytes of the heap per finished call that are still there when 64*T1 are over. */
  readonly heapKeptPerFinishedCall: number | undefined;
}

/** 64*T1 and T4, and a little. */
const lingerMs = 40_000;

/**
 * What calls cost in memory, of all columns at once, because memory does not mind company. Each column is fresh and has
 * a callee of its own.
 */
export async function memoryPerCall(
  bench: Bench,
  calls: number,
  callsPerSecond: number,
): Promise<ReadonlyMap<string, Cell<Memory>>> {
  const cells = await Promise.all(
    bench.columns.map(async (column): Promise<[string, Cell<Memory>]> => {
      await using callee = await claimPort();
      let sut: Sut | undefined;
      try {
        sut = await column.start({ ...bench.context, callee: callee.port });
        return [column.name, await memoryOf(sut, callee.port, calls, callsPerSecond)];
      } catch (error) {
        return [column.name, { ok: false, reason: reasonOf(error) }];
      } finally {
        await sut?.stop();
      }
    }),
  );
  return new Map(cells);
}

async function memoryOf(sut: Sut, callee: number, calls: number, callsPerSecond: number): Promise<Cell<Memory>> {
  const load = { target: sut.port, callee, callsPerSecond };
  const look = async (): Promise<{ rss: number; heap: number }> => {
    // Collected before it is looked at; what the allocator keeps for later counts as resident all the same.
    const told = await Promise.all(sut.nodes.map(ask));
    return { rss: residentBytes(sut.pids), heap: told.reduce((sum, { heapUsed }) => sum + heapUsed, 0) };
  };
  await runLoad({ ...load, calls: 2 * callsPerSecond }, cores.generator);
  await sleep(lingerMs);
  const empty = await look();
  const rampMs = (calls / callsPerSecond) * 1_000;
  const holding = await startLoad({ ...load, calls, holdMs: rampMs + lingerMs + 15_000 }, cores.generator);
  await sleep(rampMs + lingerMs);
  const held = await look();
  const heldResult = await holding.finished();
  if (heldResult.failed > 0) {
    return { ok: false, reason: `${heldResult.failed} of ${calls} held calls failed` };
  }
  await sleep(lingerMs);
  const between = await look();
  // All columns share the core: twice as many of these were more than it bears.
  const ended = calls / 2;
  const finished = await runLoad({ ...load, calls: ended, callsPerSecond: ended / 20 }, cores.generator);
  const after = await look();
  if (finished.failed > 0) {
    return { ok: false, reason: `${finished.failed} of ${ended} calls failed` };
  }
  await sleep(lingerMs);
  const drained = await look();
  const onlyNode = sut.nodes.length === sut.pids.length;
  return {
    ok: true,
    value: {
      perHeldCall: (held.rss - empty.rss) / calls,
      perFinishedCall: (after.rss - between.rss) / ended,
      heapPerHeldCall: onlyNode ? (held.heap - empty.heap) / calls : undefined,
      heapPerFinishedCall: onlyNode ? (after.heap - between.heap) / ended : undefined,
      heapKeptPerFinishedCall: onlyNode ? (drained.heap - between.heap) / ended : undefined,
    },
  };
}
