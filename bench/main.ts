// `npm run bench -- engine|call [--quick] [--json FILE]`: see docs/performance.md.
import { spawnSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

import { claimPort } from "../test/support/ports.ts";
import { findProgram } from "../test/support/process.ts";
import { type ColumnContext, columns, earlier, hashOf } from "./columns.ts";
import { machineClass } from "./machine.ts";
import {
  type Bench,
  cores,
  cpuPerCall,
  highestCleanRate,
  loopDelay,
  memoryPerCall,
  sleep,
  systemCalls,
  withColumns,
} from "./measure.ts";
import { markdown, type Results, verdicts } from "./report.ts";
import { wholeCall, wholeCallTable } from "./whole-call.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const compiled = `${root}node_modules/.cache/bench`;

const usage = `npm run bench -- call [--quick] [--rate N] [--blocks N] [--seconds N] [--json FILE]
  what a whole call costs Patchbay: bot, prompt, transfer, sound, recording (about 4 minutes)
npm run bench -- engine [options]
  --quick           fewer and shorter blocks
  --json FILE       the raw data of every block
  --columns A,B     only these columns: ${columns.map(({ name }) => name).join(", ")}
  --only A,B        only these measurements: cpu, ladder, loop, syscalls, memory
  --rates A,B       calls a second of the CPU blocks (default 100,400)
  --blocks N        blocks per rate
  --seconds N       length of a block
  --before DIR      also the programs of an earlier build, a copy of node_modules/.cache/bench in the same folder
  --shared          the machine has other work: its load discards no block (for development, never for a published table)
DRACHTIO_BIN names a drachtio-server; a running one is given by DRACHTIO_CONTROL, DRACHTIO_SIP (ports), DRACHTIO_SECRET
and DRACHTIO_PID. Without either, what compares with it is reported as not run.`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    quick: { type: "boolean", default: false },
    shared: { type: "boolean", default: false },
    json: { type: "string" },
    before: { type: "string" },
    columns: { type: "string" },
    only: { type: "string" },
    rates: { type: "string", default: "100,400" },
    rate: { type: "string", default: "5" },
    blocks: { type: "string" },
    seconds: { type: "string" },
  },
});

const allColumns = [
  ...columns,
  ...(values.before === undefined ? [] : earlier(`${resolve(values.before)}/bench/programs`)),
];

function list(text: string | undefined): readonly string[] | undefined {
  return text?.split(",").map((one) => one.trim());
}

function compile(): void {
  const built = spawnSync(
    process.execPath,
    [`${root}node_modules/typescript/bin/tsc`, "-p", `${root}bench/tsconfig.json`],
    {
      stdio: "inherit",
    },
  );
  if (built.status !== 0) {
    throw new Error("the measured programs could not be compiled");
  }
  mkdirSync(compiled, { recursive: true });
  // Node looks for the kind of module no higher than node_modules.
  writeFileSync(`${compiled}/package.json`, '{"type":"module"}\n');
}

function say(text: string): void {
  console.error(`${new Date().toISOString().slice(11, 19)} ${text}`);
}

function contextFor(callee: number): ColumnContext {
  return {
    programs: `${compiled}/bench/programs`,
    core: cores.sut,
    callee,
    nodeOptions: (process.env["BENCH_NODE_OPTIONS"] ?? "").split(" ").filter((one) => one !== ""),
  };
}

async function engine(): Promise<void> {
  for (const program of ["sipp", "taskset"]) {
    if (findProgram(program) === undefined) {
      throw new Error(`${program} is not installed; run: bash scripts/setup.sh test`);
    }
  }
  compile();
  const { quick, shared } = values;
  const wanted = list(values.columns);
  const asked = allColumns.filter(({ name }) => wanted === undefined || wanted.includes(name));
  const skipped = asked.flatMap((column) => {
    const { title } = column;
    const reason = column.missing();
    return reason === undefined ? [] : [{ title, reason }];
  });
  for (const { title, reason } of skipped) {
    say(`skipped: ${title}: ${reason}`);
  }
  const present = asked.filter((column) => column.missing() === undefined);
  const only = new Set(list(values.only) ?? ["cpu", "ladder", "loop", "syscalls", "memory"]);
  const blocks = Number(values.blocks ?? (quick ? 3 : 8));
  const seconds = Number(values.seconds ?? (quick ? 4 : 6));
  await using callee = await claimPort();
  const bench: Bench = {
    columns: present,
    context: contextFor(callee.port),
    rules: { shared },
    say,
  };
  const begun = new Date();
  const results: Results = await withColumns(bench, async (suts) => {
    const cpu = new Map<number, Awaited<ReturnType<typeof cpuPerCall>>>();
    if (only.has("cpu")) {
      for (const rate of (list(values.rates) ?? []).map(Number)) {
        cpu.set(rate, await cpuPerCall(bench, suts, rate, blocks, seconds));
      }
    }
    const loop = only.has("loop") ? await loopDelay(bench, suts, 400, seconds) : new Map();
    const syscalls = only.has("syscalls") ? await systemCalls(bench, suts) : new Map();
    const rates = only.has("ladder")
      ? await highestCleanRate(bench, suts, { from: 300, seconds: quick ? 4 : 8, bisections: quick ? 1 : 2 })
      : new Map();
    return { columns: present, skipped, cpu, loop, syscalls, rates, memory: new Map() };
  });
  if (only.has("memory")) {
    // What is left of the calls above has nothing to do with it, but the processor has: it is let go quiet first.
    await sleep(1_000);
    say("memory: about three minutes, all columns at once");
  }
  const memory = only.has("memory") ? await memoryPerCall(bench, quick ? 1_000 : 3_000, 100) : new Map();
  const all: Results = { ...results, memory };
  const { cpu, cores: coreCount, kernel } = machineClass();
  const heading =
    `Measured ${begun.toISOString().slice(0, 10)} on ${coreCount} cores (${cpu}, Linux ${kernel}), Node ${process.versions.node}, ` +
    `${blocks} blocks of ${seconds} s, system under test on one core${shared ? "; THE MACHINE HAD OTHER WORK" : ""}.`;
  console.log(markdown(all, heading));
  if (values.json !== undefined) {
    const files = new Set(present.flatMap(({ binaries }) => binaries()).filter((file) => file.startsWith("/")));
    const hashes = await Promise.all(
      [...files].map(async (file) => [file.split("/").at(-1), await hashOf(file)] as const),
    );
    const plain = (_key: string, value: unknown): unknown => (value instanceof Map ? Object.fromEntries(value) : value);
    const raw = {
      begun,
      machine: machineClass(),
      versions: process.versions,
      sipp: spawnSync(findProgram("sipp") ?? "", ["-v"], { encoding: "utf8" })
        .stdout.trim()
        .split("\n")[0],
      source: spawnSync("git", ["rev-parse", "HEAD"], { cwd: root, encoding: "utf8" }).stdout.trim(),
      hashes: Object.fromEntries(hashes) as Readonly<Record<string, string>>,
      options: { blocks, seconds, shared, quick },
      results: { ...all, columns: present.map(({ name, title }) => ({ name, title })) },
      verdicts: verdicts(all),
    };
    writeFileSync(values.json, JSON.stringify(raw, plain, 2));
  }
}

async function call(): Promise<void> {
  for (const program of ["sipp", "taskset", "redis-server", "rtpengine"]) {
    if (findProgram(program) === undefined) {
      throw new Error(`${program} is not installed; run: bash scripts/setup.sh test`);
    }
  }
  compile();
  const { quick } = values;
  const options = {
    callsPerSecond: Number(values.rate),
    holdSeconds: 8,
    seconds: Number(values.seconds ?? (quick ? 10 : 30)),
    blocks: Number(values.blocks ?? (quick ? 2 : 5)),
  };
  const begun = new Date();
  await using callee = await claimPort();
  const cells = await wholeCall(contextFor(callee.port), options, say);
  const { cpu, cores: coreCount, kernel } = machineClass();
  const heading =
    `Measured ${begun.toISOString().slice(0, 10)} on ${coreCount} cores (${cpu}, Linux ${kernel}), Node ${process.versions.node}: ` +
    `${options.blocks} blocks of ${options.seconds} s, ${options.callsPerSecond} calls a second of ${options.holdSeconds} s each.`;
  console.log(wholeCallTable(cells, heading));
  if (values.json !== undefined) {
    const source = spawnSync("git", ["rev-parse", "HEAD"], { cwd: root, encoding: "utf8" }).stdout.trim();
    writeFileSync(values.json, JSON.stringify({ begun, machine: machineClass(), source, options, cells }, null, 2));
  }
}

const [command, ...rest] = positionals;
if (command === "engine" && rest.length === 0) {
  await engine();
} else if (command === "call" && rest.length === 0) {
  await call();
} else {
  console.error(usage);
  process.exitCode = 2;
}
