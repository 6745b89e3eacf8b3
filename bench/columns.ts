// The systems under test. Every one is started once, listens on a port of its own and calls the same callee's port.
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { claimPort, ownsPort } from "../test/support/ports.ts";
import { findProgram, RunningProcess } from "../test/support/process.ts";
import { pinned } from "./load.ts";
import type { Witnessed } from "./programs/witness.ts";

export interface ColumnContext {
  /** Where the programs of `bench/` lie, compiled: a loader that rewrites sources would be measured with them. */
  readonly programs: string;
  readonly core: number;
  readonly callee: number;
  /** Options of Node for the measured programs, such as a profiler's. */
  readonly nodeOptions: readonly string[];
}

/** A system under test that runs. */
export interface Sut {
  readonly port: number;
  /** The processes whose time and memory count; their children are found by themselves. */
  readonly pids: readonly number[];
  readonly nodes: readonly RunningProcess[];
  stop(): Promise<void>;
}

export interface Column {
  readonly name: string;
  readonly title: string;
  /** Why it cannot run here, or undefined. */
  missing(): string | undefined;
  /** Files whose hashes say which build was measured, beside our own sources. */
  readonly binaries: () => readonly string[];
  start(context: ColumnContext): Promise<Sut>;
}

const secret = "bench-secret";

async function startNode(
  context: ColumnContext,
  program: string,
  env: Readonly<Record<string, string>>,
): Promise<RunningProcess> {
  const { command, args } = pinned(context.core, [
    process.execPath,
    "--expose-gc",
    // As the service is started: what waits for 64*T1 would else be copied about by every small collection.
    "--max-semi-space-size=32",
    ...context.nodeOptions,
    join(context.programs, `${program}.js`),
  ]);
  return await RunningProcess.start({
    name: program,
    command,
    args,
    env: { BENCH_CALLEE_PORT: String(context.callee), BENCH_SECRET: secret, NODE_OPTIONS: "", ...env },
    ready: (child) => child.stdout.includes('{"type":"ready"}'),
    readyTimeoutMs: 30_000,
  });
}

function sut(
  port: { readonly port: number; release(): Promise<void> },
  processes: readonly RunningProcess[],
  nodes: readonly RunningProcess[] = processes,
  more: () => Promise<void> = async () => {},
): Sut {
  return {
    port: port.port,
    pids: processes.map((one) => one.pid),
    nodes,
    stop: async () => {
      for (const one of processes.toReversed()) {
        await one.stop();
      }
      await port.release();
      await more();
    },
  };
}

function nodeColumn(name: string, title: string, program: string, env: Readonly<Record<string, string>> = {}): Column {
  return {
    name,
    title,
    missing: () => undefined,
    binaries: () => [process.execPath],
    start: async (context) => {
      const port = await claimPort();
      return sut(port, [await startNode(context, program, { BENCH_SIP_PORT: String(port.port), ...env })]);
    },
  };
}

const apart: Column = {
  name: "apart",
  title: "engine apart + srf",
  missing: () => undefined,
  binaries: () => [process.execPath],
  start: async (context) => {
    const port = await claimPort();
    const control = await claimPort();
    const env = { BENCH_SIP_PORT: String(port.port), BENCH_CONTROL_PORT: String(control.port) };
    const engine = await startNode(context, "engine", env);
    return sut(port, [engine, await startNode(context, "srf-b2bua", env)], undefined, () => control.release());
  },
};

const kamailio: Column = {
  name: "kamailio",
  title: "Kamailio (proxy)",
  missing: () =>
    findProgram("kamailio") === undefined ? "kamailio is not installed (apt-get install kamailio)" : undefined,
  binaries: () => [findProgram("kamailio") ?? ""],
  start: async (context) => {
    const port = await claimPort();
    const folder = await mkdtemp(join(tmpdir(), "bench-kamailio-"));
    const template = await readFile(new URL("kamailio.cfg", import.meta.url), "utf8");
    const file = join(folder, "kamailio.cfg");
    await writeFile(file, template.replaceAll("PORT", String(port.port)).replaceAll("CALLEE", String(context.callee)));
    const { command, args } = pinned(context.core, [
      "kamailio",
      "-f",
      file,
      "-DD",
      "-E",
      "-Y",
      folder,
      "-m",
      "512",
      "-M",
      "16",
    ]);
    const running = await RunningProcess.start({
      name: "kamailio",
      command,
      args,
      ready: (child) => ownsPort(child.pid, "udp", port.port),
    });
    return sut(port, [running], [], () => rm(folder, { recursive: true, force: true }));
  },
};

/** Where a drachtio-server listens that somebody else started, or undefined. */
function runningServer(): { sip: number; control: number; secret: string; pid: number } | undefined {
  const { DRACHTIO_CONTROL, DRACHTIO_SIP, DRACHTIO_SECRET = "cymru", DRACHTIO_PID } = process.env;
  const [control, sip, pid] = [DRACHTIO_CONTROL, DRACHTIO_SIP, DRACHTIO_PID].map(Number);
  return control && sip && pid ? { sip, control, secret: DRACHTIO_SECRET, pid } : undefined;
}

/** The yardstick. DRACHTIO_BIN names the program; or a running one is given by its ports, its secret and its process. */
const pair: Column = {
  name: "pair",
  title: "drachtio-server + srf",
  missing: () =>
    findServer() === undefined && runningServer() === undefined
      ? "neither DRACHTIO_BIN names a program nor DRACHTIO_CONTROL, DRACHTIO_SIP and DRACHTIO_PID a running one"
      : undefined,
  binaries: () => [process.execPath, ...(findServer() ?? [])],
  start: async (context) => {
    const running = runningServer();
    const [program, ...ownArgs] = findServer() ?? [];
    if (program === undefined && running !== undefined) {
      const { sip, control, pid } = running;
      const app = await startNode(context, "srf-b2bua", {
        BENCH_CONTROL_PORT: String(control),
        BENCH_SECRET: running.secret,
      });
      const one = sut({ port: sip, release: async () => {} }, [app]);
      return { ...one, pids: [...one.pids, pid] };
    }
    const port = await claimPort();
    const control = await claimPort();
    const folder = await mkdtemp(join(tmpdir(), "bench-drachtio-"));
    const file = join(folder, "drachtio.conf.xml");
    await writeFile(file, serverConfiguration(port.port, control.port));
    const { command, args } = pinned(context.core, [program ?? "", ...ownArgs, "-f", file, "--disable-nat-detection"]);
    const server = await RunningProcess.start({
      name: "drachtio-server",
      command,
      args,
      cwd: folder,
      ready: (child) => ownsPort(child.pid, "tcp", control.port) && ownsPort(child.pid, "udp", port.port),
    });
    try {
      const app = await startNode(context, "srf-b2bua", { BENCH_CONTROL_PORT: String(control.port) });
      return sut(port, [server, app], [app], async () => {
        await control.release();
        await rm(folder, { recursive: true, force: true });
      });
    } catch (error) {
      await server.stop();
      throw error;
    }
  },
};

/** As cheap as drachtio-server gets: errors only, no log of its SIP stack, no call records. */
function serverConfiguration(sipPort: number, controlPort: number): string {
  return `<drachtio>
<admin port="${controlPort}" secret="${secret}">127.0.0.1</admin>
<sip><contacts><contact>sip:127.0.0.1:${sipPort};transport=udp</contact></contacts><udp-mtu>4096</udp-mtu></sip>
<cdrs>false</cdrs>
<logging><console/><sofia-loglevel>0</sofia-loglevel><loglevel>error</loglevel></logging>
</drachtio>`;
}

/** DRACHTIO_BIN taken apart at blanks: a program and arguments that go before ours. */
function findServer(): readonly string[] | undefined {
  const [program, ...args] = (process.env["DRACHTIO_BIN"] ?? "").split(" ").filter((one) => one !== "");
  return program !== undefined && (existsSync(program) || findProgram(program) !== undefined)
    ? [program, ...args]
    : undefined;
}

/** The same programs of an earlier build: what an optimisation changed, measured beside what it changed. */
export function earlier(programs: string): readonly Column[] {
  return [
    nodeColumn("inside-before", "embedded + srf before", "srf-b2bua", { BENCH_EMBEDDED: "1" }),
    nodeColumn("native-before", "engine alone before", "native-b2bua"),
  ].map((column) => ({ ...column, start: (context) => column.start({ ...context, programs }) }));
}

export const columns: readonly Column[] = [
  nodeColumn("floor", "Node floor", "null-b2bua"),
  kamailio,
  pair,
  apart,
  nodeColumn("inside", "embedded + srf", "srf-b2bua", { BENCH_EMBEDDED: "1" }),
  nodeColumn("native", "engine alone", "native-b2bua"),
];

/** What a measured Node program says of itself. Throws when it does not answer. */
export async function ask(node: RunningProcess): Promise<Witnessed> {
  const count = (): number => node.stdout.split('{"type":"witness"').length;
  const before = count();
  node.signal("SIGUSR2");
  const deadline = performance.now() + 20_000;
  while (count() === before || !node.stdout.endsWith("\n")) {
    if (performance.now() > deadline || node.exit !== undefined) {
      throw new Error(`${node.name} does not answer; it printed:\n${node.output.slice(-2_000)}`);
    }
    await new Promise<void>((resolve) => {
      setTimeout(resolve, 20);
    });
  }
  return JSON.parse(node.stdout.trimEnd().split("\n").at(-1) ?? "") as Witnessed;
}

export async function hashOf(file: string): Promise<string> {
  return createHash("sha256")
    .update(await readFile(file))
    .digest("hex")
    .slice(0, 16);
}
