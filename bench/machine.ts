// What the kernel counts: processor time per thread, receive buffers that overflowed, time that the host took away.
import { readdirSync, readFileSync } from "node:fs";
import { cpus } from "node:os";

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    // A process or thread may end while it is looked at.
    return "";
  }
}

/** A process and all its descendants. */
export function processTree(root: number): number[] {
  const children = new Map<number, number[]>();
  for (const entry of readdirSync("/proc")) {
    const stat = /^\d+$/.test(entry) ? read(`/proc/${entry}/stat`) : "";
    if (stat !== "") {
      // The name in brackets may hold blanks and brackets itself.
      const parent = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
      children.set(parent, [...(children.get(parent) ?? []), Number(entry)]);
    }
  }
  const tree = [root];
  for (const pid of tree) {
    tree.push(...(children.get(pid) ?? []));
  }
  return tree;
}

/** Nanoseconds on a processor, by `pid/tid name`. */
export type ThreadTimes = ReadonlyMap<string, number>;

/** The processor time of every thread of these processes and their descendants, in nanoseconds (schedstat). */
export function threadTimes(roots: readonly number[]): ThreadTimes {
  const times = new Map<string, number>();
  for (const pid of roots.flatMap(processTree)) {
    let threads: readonly string[] = [];
    try {
      threads = readdirSync(`/proc/${pid}/task`);
    } catch {
      continue;
    }
    for (const thread of threads) {
      const nanoseconds = Number(read(`/proc/${pid}/task/${thread}/schedstat`).split(" ")[0]);
      const name = read(`/proc/${pid}/task/${thread}/comm`).trim();
      times.set(`${pid}/${thread} ${name}`, Number.isFinite(nanoseconds) ? nanoseconds : 0);
    }
  }
  return times;
}

/** Milliseconds between two readings: of all threads together, and of the one that was busiest. */
export function spentMs(before: ThreadTimes, after: ThreadTimes): { readonly all: number; readonly busiest: number } {
  let all = 0;
  let busiest = 0;
  for (const [thread, nanoseconds] of after) {
    const spent = (nanoseconds - (before.get(thread) ?? 0)) / 1e6;
    all += spent;
    busiest = Math.max(busiest, spent);
  }
  return { all, busiest };
}

const ticksPerSecond = 100;

/** Milliseconds that a process has had, those of its threads that have ended among them; in steps of 10. */
export function processMs(pid: number): number {
  const stat = read(`/proc/${pid}/stat`);
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return ((Number(fields[11] ?? 0) + Number(fields[12] ?? 0)) * 1_000) / ticksPerSecond;
}

/** Resident bytes of these processes and their descendants. */
export function residentBytes(roots: readonly number[]): number {
  let pages = 0;
  for (const pid of roots.flatMap(processTree)) {
    pages += Number(read(`/proc/${pid}/statm`).split(" ")[1] ?? 0);
  }
  return pages * 4_096;
}

/** Datagrams the kernel dropped at the sockets bound to these local ports. */
export function socketDrops(ports: readonly number[]): number {
  const wanted = new Set(ports.map((port) => port.toString(16).toUpperCase().padStart(4, "0")));
  let drops = 0;
  for (const line of read("/proc/net/udp").split("\n").slice(1)) {
    const columns = line.trim().split(/\s+/);
    if (wanted.has(columns[1]?.split(":")[1] ?? "")) {
      drops += Number(columns[12] ?? 0);
    }
  }
  return drops;
}

/** RcvbufErrors of the whole machine. */
export function receiveErrors(): number {
  const [names, values] = read("/proc/net/snmp")
    .split("\n")
    .filter((line) => line.startsWith("Udp:"));
  const at = names?.split(" ").indexOf("RcvbufErrors") ?? -1;
  return Number(values?.split(" ")[at] ?? 0);
}

export interface CoreTimes {
  readonly busy: number;
  readonly total: number;
  readonly steal: number;
}

/** Clock ticks of one processor since the machine was started. */
export function coreTimes(core: number): CoreTimes {
  const line = read("/proc/stat")
    .split("\n")
    .find((one) => one.startsWith(`cpu${core} `));
  const [user = 0, nice = 0, system = 0, idle = 0, waiting = 0, irq = 0, softirq = 0, steal = 0] =
    line?.split(/\s+/).slice(1).map(Number) ?? [];
  const busy = user + nice + system + irq + softirq + steal;
  return { busy, total: busy + idle + waiting, steal };
}

/** What a reader of a table has to know of where it was made; no name of the machine. */
export function machineClass(): { readonly cpu: string; readonly cores: number; readonly kernel: string } {
  return {
    cpu: cpus()[0]?.model ?? "unknown",
    cores: cpus().length,
    kernel: read("/proc/sys/kernel/osrelease").trim(),
  };
}
