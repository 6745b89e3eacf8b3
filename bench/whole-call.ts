// What a whole call costs Patchbay: SIP in, the bot over Redis, a prompt, the transfer, both parties' sound through rtpengine, and
// the recording, rendered. Beside it, block by block, the bare bridged call of the engine's benchmark at the same rate.
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { loadavg } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

import { DisposalStack } from "../test/support/disposal.ts";
import { temporaryFolder } from "../test/support/folder.ts";
import { claimPort } from "../test/support/ports.ts";
import { RunningProcess } from "../test/support/process.ts";
import { startRedis } from "../test/support/redis.ts";
import { startRtpengine } from "../test/support/rtpengine.ts";
import { writeTone } from "../test/integration/wav.ts";
import { columns, type ColumnContext, type Sut } from "./columns.ts";
import { runLoad } from "./load.ts";
import { coreTimes, processMs, spentMs, threadTimes } from "./machine.ts";
import { type Cell, cores, sleep } from "./measure.ts";
import { median, pairedRatio, type Ratio } from "./statistics.ts";

export interface WholeCallOptions {
  readonly callsPerSecond: number;
  /** How long a call lasts, from its answer to the caller's BYE. */
  readonly holdSeconds: number;
  readonly seconds: number;
  readonly blocks: number;
}

/** Processor time per call in milliseconds. */
export interface WholeCallBlock {
  /** All threads of the service, the busiest of them, the media server, and Redis. */
  readonly service: number;
  readonly busiest: number;
  readonly rtpengine: number;
  readonly redis: number;
  /** The bare call of the block beside it; undefined when that one does not count. */
  readonly bare: number | undefined;
  /** Share of both cores that was busy, by whomever. */
  readonly busy: number;
}

interface Patchbay {
  readonly port: number;
  readonly adminPort: number;
  readonly process: RunningProcess;
  readonly rtpenginePid: number;
  readonly redisPid: number;
  readonly callerArguments: readonly string[];
}

/** Recordings are written behind the calls: they belong to what a call costs. */
const mostRenderingMs = 60_000;

async function startPatchbay(context: ColumnContext, resources: DisposalStack): Promise<Patchbay> {
  const { path: folder } = resources.use(await temporaryFolder("bench"));
  const [{ port }, { port: adminPort }, { port: dtmfPort }] = [
    resources.use(await claimPort()),
    resources.use(await claimPort()),
    resources.use(await claimPort()),
  ];
  const redis = resources.use(await startRedis());
  const rtpengine = resources.use(
    await startRtpengine({ mediaPorts: 1_000, dtmfLog: { address: "127.0.0.1", port: dtmfPort } }),
  );
  const { pid: redisPid } = redis;
  const { pid: rtpenginePid } = rtpengine;
  if (redisPid === undefined || rtpenginePid === undefined) throw new Error("redis-server or rtpengine has ended");
  for (const pid of [redisPid, rtpenginePid]) spawnSync("taskset", ["-acp", String(cores.generator), String(pid)]);

  const prompts = join(folder, "prompts");
  await mkdir(prompts);
  await writeTone(join(prompts, "hello.wav"), 440, 1);
  const sound = join(folder, "sound");
  // As good as any: what is said costs nobody more or less.
  await writeFile(sound, randomBytes(8_000));
  const scenario = join(folder, "caller.xml");
  const template = await readFile(new URL("caller.xml", import.meta.url), "utf8");
  await writeFile(scenario, template.replaceAll("AUDIO", sound));
  await writeFile(
    join(folder, "patchbay.yaml"),
    JSON.stringify({
      sip: { listen: [{ protocol: "udp", address: "127.0.0.1", port }] },
      redis: { url: redis.url },
      media: {
        rtpengine: [{ host: rtpengine.address, port: rtpengine.ngPort }],
        dtmf: { address: "127.0.0.1", port: dtmfPort },
      },
      recording: { spoolFolder: rtpengine.recordingFolder },
      trunks: [
        {
          id: "load",
          sources: ["127.0.0.1"],
          gateways: [{ host: "127.0.0.1", port: context.callee }],
          maxCalls: 10_000,
        },
      ],
      channels: [
        {
          botId: "bench",
          trunk: "load",
          numbers: ["*"],
          recording: { enabled: true },
        },
      ],
      admin: { port: adminPort },
    }),
  );
  const service = resources.use(
    await RunningProcess.start({
      name: "patchbay",
      command: "taskset",
      args: [
        "-c",
        String(context.core),
        process.execPath,
        // As the image and `npm start` do.
        "--max-semi-space-size=32",
        ...context.nodeOptions,
        join(context.programs, "service.js"),
        "--config",
        join(folder, "patchbay.yaml"),
      ],
      env: { NODE_OPTIONS: "" },
      ready: (child) => child.output.includes('"msg":"ready"'),
      readyTimeoutMs: 30_000,
    }),
  );
  resources.use(
    await RunningProcess.start({
      name: "bot",
      command: "taskset",
      args: ["-c", String(cores.generator), process.execPath, join(context.programs, "transfer-bot.js")],
      env: {
        NODE_OPTIONS: "",
        BENCH_REDIS: redis.url,
        BENCH_PROMPT: pathToFileURL(join(prompts, "hello.wav")).href,
      },
      ready: (child) => child.stdout.includes('{"type":"ready"}'),
      readyTimeoutMs: 30_000,
    }),
  );
  return {
    port,
    adminPort,
    process: service,
    rtpenginePid,
    redisPid,
    callerArguments: ["-sf", scenario, "-s", "74951234567"],
  };
}

/** Sums of the samples of each metric on the service's page, over their labels. */
async function figures(port: number): Promise<(name: string, label?: string) => number> {
  const page = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
  return (name, label = "") => {
    let sum = 0;
    for (const line of page.split("\n")) {
      const [, found, labels = "", value] = /^([a-z_]+)(?:\{(.*)\})? (\S+)$/.exec(line) ?? [];
      if (found === name && labels.includes(label)) sum += Number(value);
    }
    return sum;
  };
}

/** Waits until every call is over and its recording is written; false when that takes too long. */
async function settled(port: number): Promise<boolean> {
  const deadline = performance.now() + mostRenderingMs;
  while (performance.now() < deadline) {
    const now = await figures(port);
    const started = now("patchbay_recordings_total", 'state="started"');
    const over =
      now("patchbay_recordings_total", 'state="finished"') + now("patchbay_recordings_total", 'state="failed"');
    if (now("patchbay_calls") === 0 && now("patchbay_recordings_waiting") === 0 && over >= started) return true;
    await sleep(200);
  }
  return false;
}

async function measureWholeCalls(
  patchbay: Patchbay,
  callee: number,
  { callsPerSecond, holdSeconds, seconds }: WholeCallOptions,
): Promise<Cell<Omit<WholeCallBlock, "bare" | "busy">>> {
  const pids = [patchbay.process.pid];
  const calls = Math.round(callsPerSecond * seconds);
  const before = await figures(patchbay.adminPort);
  const threads = threadTimes(pids);
  const spent = [patchbay.process.pid, patchbay.rtpenginePid, patchbay.redisPid].map(processMs);
  const result = await runLoad(
    {
      target: patchbay.port,
      callee,
      callsPerSecond,
      calls,
      holdMs: holdSeconds * 1_000,
      caller: patchbay.callerArguments,
      called: ["-sn", "uas", "-rtp_echo"],
    },
    cores.generator,
  );
  const inTime = await settled(patchbay.adminPort);
  const { busiest } = spentMs(threads, threadTimes(pids));
  const [service = 0, rtpengine = 0, redis = 0] = [patchbay.process.pid, patchbay.rtpenginePid, patchbay.redisPid].map(
    (pid, index) => (processMs(pid) - (spent[index] ?? 0)) / calls,
  );
  const after = await figures(patchbay.adminPort);
  const grown = (name: string, label?: string): number => after(name, label) - before(name, label);
  const transfers = grown("patchbay_transfers_total", 'status="SUCCESS"');
  const recordings = grown("patchbay_recordings_total", 'state="finished"');
  const reason =
    result.failed > 0
      ? `${result.failed} of ${calls} calls failed`
      : !inTime
        ? "calls or recordings were not over in time"
        : transfers !== calls
          ? `${transfers} of ${calls} transfers came about`
          : recordings !== calls
            ? `${recordings} of ${calls} recordings were written`
            : undefined;
  return reason === undefined
    ? { ok: true, value: { service, rtpengine, redis, busiest: busiest / calls } }
    : { ok: false, reason };
}

/** Processor time per bare bridged call, the embedded engine with drachtio-srf, at the same rate and without sound. */
async function measureBareCalls(
  sut: Sut,
  callee: number,
  { callsPerSecond, seconds }: WholeCallOptions,
): Promise<number | undefined> {
  const calls = Math.round(callsPerSecond * seconds);
  const before = sut.pids.map(processMs);
  const result = await runLoad({ target: sut.port, callee, callsPerSecond, calls }, cores.generator);
  const all = sut.pids.reduce((sum, pid, index) => sum + processMs(pid) - (before[index] ?? 0), 0);
  return result.failed > 0 ? undefined : all / calls;
}

/** Blocks of whole calls and of bare ones by turns. */
export async function wholeCall(
  context: ColumnContext,
  options: WholeCallOptions,
  say: (text: string) => void,
): Promise<readonly Cell<WholeCallBlock>[]> {
  await using resources = new DisposalStack();
  const bareColumn = columns.find(({ name }) => name === "inside");
  if (bareColumn === undefined) throw new Error("there is no column for the bare call");
  const bare = await bareColumn.start(context);
  resources.use({ [Symbol.asyncDispose]: () => bare.stop() });
  const patchbay = await startPatchbay(context, resources);
  // Code is compiled and prompts are converted by the first calls.
  const warm = { ...options, seconds: 5 };
  await measureWholeCalls(patchbay, context.callee, warm);
  await measureBareCalls(bare, context.callee, warm);
  const cells: Cell<WholeCallBlock>[] = [];
  const coresNow = (): readonly { busy: number; total: number }[] => [coreTimes(cores.sut), coreTimes(cores.generator)];
  for (let block = 0; block < options.blocks; block += 1) {
    const then = coresNow();
    const whole = await measureWholeCalls(patchbay, context.callee, options);
    const shares = coresNow().map(
      ({ busy, total }, index) => (busy - (then[index]?.busy ?? 0)) / Math.max(1, total - (then[index]?.total ?? 0)),
    );
    const busy = shares.reduce((sum, share) => sum + share, 0) / shares.length;
    const beside = await measureBareCalls(bare, context.callee, options);
    cells.push(whole.ok ? { ok: true, value: { ...whole.value, bare: beside, busy } } : whole);
    say(
      `block ${block + 1}: ${whole.ok ? `${whole.value.service.toFixed(1)} ms, rtpengine ${whole.value.rtpengine.toFixed(1)} ms` : whole.reason}` +
        `, bare ${beside?.toFixed(2) ?? "invalid"} ms, cores ${Math.round(busy * 100)} % busy, load ${loadavg()[0]?.toFixed(1)}`,
    );
  }
  return cells;
}

const twoPlaces = (ratio: Ratio): string =>
  `${ratio.median.toFixed(1)} (${ratio.low.toFixed(1)}–${ratio.high.toFixed(1)})`;

/** The table for people. */
export function wholeCallTable(cells: readonly Cell<WholeCallBlock>[], heading: string): string {
  const good = cells.flatMap((cell) => (cell.ok ? [cell.value] : []));
  const refused = cells.flatMap((cell) => (cell.ok ? [] : [`- a block does not count: ${cell.reason}`]));
  if (good.length === 0) return [heading, "No block counts.", ...refused].join("\n\n");
  const middle = (pick: (block: WholeCallBlock) => number): number =>
    // Where the bare calls of a block do not count there is no number.
    median(good.map(pick).filter((value) => !Number.isNaN(value)));
  const ratio = (pick: (block: WholeCallBlock) => number): Ratio | undefined =>
    pairedRatio(
      good.map(pick),
      good.map((block) => block.bare),
    );
  const row = (title: string, pick: (block: WholeCallBlock) => number): string => {
    const found = ratio(pick);
    return `| ${title} | ${middle(pick).toFixed(2)} | ${found === undefined ? "–" : twoPlaces(found)} |`;
  };
  return [
    heading,
    [
      "| per call | ms of processor time | times the bare call, 95 % interval |",
      "|---|---|---|",
      row("Patchbay, all threads", (block) => block.service),
      row("– its busiest thread, which limits a process", (block) => block.busiest),
      row("rtpengine", (block) => block.rtpengine),
      row("Redis", (block) => block.redis),
      row("bare bridged call, engine and drachtio-srf", (block) => block.bare ?? Number.NaN),
    ].join("\n"),
    `Half of a core for the busiest thread: ${(500 / middle((block) => block.busiest)).toFixed(0)} calls a second. ` +
      `Both cores were ${Math.round(middle((block) => block.busy) * 100)} % busy, all programs together.`,
    ...refused,
  ].join("\n\n");
}
