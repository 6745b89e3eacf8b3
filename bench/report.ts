// The table for people and the verdict on each target; whatever was not measured is said not to be.
import type { CleanRate, Cell, LoopDelay, Memory, Series } from "./measure.ts";
import { median, pairedRatio, type Ratio } from "./statistics.ts";

export interface Results {
  readonly columns: readonly { readonly name: string; readonly title: string }[];
  readonly skipped: readonly { readonly title: string; readonly reason: string }[];
  /** By calls a second. */
  readonly cpu: ReadonlyMap<number, Series>;
  readonly rates: ReadonlyMap<string, CleanRate>;
  readonly loop: ReadonlyMap<string, Cell<LoopDelay>>;
  readonly syscalls: ReadonlyMap<string, Cell<number>>;
  readonly memory: ReadonlyMap<string, Cell<Memory>>;
}

/** The blocks of a column, with holes where a block was discarded. */
function blocksOf(results: Results, rate: number, column: string): readonly (number | undefined)[] {
  return (results.cpu.get(rate)?.get(column) ?? []).map((cell) => (cell.ok ? cell.value.cpuMs : undefined));
}

function ratioOf(results: Results, rate: number, ours: string, theirs: string): Ratio | undefined {
  return pairedRatio(blocksOf(results, rate, ours), blocksOf(results, rate, theirs));
}

function formatRatio(ratio: Ratio | undefined): string {
  return ratio === undefined ? "–" : `${ratio.median.toFixed(2)} (${ratio.low.toFixed(2)}–${ratio.high.toFixed(2)})`;
}

function cellText<T>(cell: Cell<T> | undefined, format: (value: T) => string): string {
  return cell === undefined ? "–" : cell.ok ? format(cell.value) : `invalid: ${cell.reason}`;
}

const kilobytes = (bytes: number | undefined): string => (bytes === undefined ? "–" : (bytes / 1_000).toFixed(1));

function cpuText(results: Results, rate: number, column: string): string {
  const cells = results.cpu.get(rate)?.get(column);
  if (cells === undefined) {
    return "–";
  }
  const good = cells.flatMap((cell) => (cell.ok ? [cell.value] : []));
  const bad = cells.find((cell) => !cell.ok);
  if (good.length === 0) {
    return bad?.ok === false ? `invalid: ${bad.reason}` : "–";
  }
  const busiest = median(good.map((one) => one.busiestMs));
  return `${median(good.map((one) => one.cpuMs)).toFixed(2)} (${busiest.toFixed(2)})`;
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n");
}

export interface Verdict {
  readonly target: string;
  readonly verdict: "passed" | "missed" | "not run";
  readonly found: string;
}

interface CpuTarget {
  readonly id: string;
  readonly ours: string;
  readonly theirs: string;
  readonly must: number;
  readonly aim: number;
}

const cpuTargets: readonly CpuTarget[] = [
  { id: "a4", ours: "native", theirs: "pair", must: 0.35, aim: 0.2 },
  { id: "a5", ours: "native", theirs: "kamailio", must: 1.5, aim: 1 },
  { id: "f1", ours: "inside", theirs: "pair", must: 0.65, aim: 0.45 },
  { id: "f2", ours: "apart", theirs: "pair", must: 0.85, aim: 0.6 },
];

/** A claim stands only when the worse end of its interval meets the target. */
export function verdicts(results: Results): Verdict[] {
  const title = (name: string): string => results.columns.find((one) => one.name === name)?.title ?? name;
  const all: Verdict[] = cpuTargets.map(({ id, ours, theirs, must, aim }) => {
    const ratio = ratioOf(results, 400, ours, theirs);
    return {
      target: `${id}: CPU at 400 cps, ${title(ours)} / ${title(theirs)} at most ${must} (aim ${aim})`,
      verdict: ratio === undefined ? "not run" : ratio.high <= must ? "passed" : "missed",
      found: formatRatio(ratio),
    };
  });
  const quotient = (
    target: string,
    ours: number | undefined,
    theirs: number | undefined,
    meets: (value: number) => boolean,
  ): Verdict => {
    const value = ours === undefined || theirs === undefined || theirs <= 0 ? undefined : ours / theirs;
    return {
      target,
      verdict: value === undefined ? "not run" : meets(value) ? "passed" : "missed",
      found: value === undefined ? "–" : value.toFixed(2),
    };
  };
  const rate = (name: string): number | undefined => results.rates.get(name)?.callsPerSecond;
  const calls = (name: string): number | undefined => valueOf(results.syscalls.get(name));
  const held = (name: string): number | undefined => valueOf(results.memory.get(name))?.perHeldCall;
  const finished = (name: string): number | undefined => valueOf(results.memory.get(name))?.perFinishedCall;
  all.push(
    quotient(
      "a6: clean rate on one core, engine alone / pair at least 3 (aim 5)",
      rate("native"),
      rate("pair"),
      (value) => value >= 3,
    ),
    quotient(
      "a7: system calls, engine alone / pair at most 0.25 (aim 0.13)",
      calls("native"),
      calls("pair"),
      (value) => value <= 0.25,
    ),
    quotient(
      "c2: memory per held call, embedded + srf / pair at most 0.5 (aim 0.25)",
      held("inside"),
      held("pair"),
      (value) => value <= 0.5,
    ),
    quotient(
      "c3: memory per finished call, embedded + srf / pair at most 0.2 (aim 0.07)",
      finished("inside"),
      finished("pair"),
      (value) => value <= 0.2,
    ),
  );
  return all;
}

function valueOf<T>(cell: Cell<T> | undefined): T | undefined {
  return cell?.ok === true ? cell.value : undefined;
}

export function markdown(results: Results, heading: string): string {
  const { columns } = results;
  const rates = [...results.cpu.keys()];
  const rows: (readonly string[])[] = [];
  for (const rate of rates) {
    rows.push([
      `CPU ms per call at ${rate} cps (busiest thread)`,
      ...columns.map(({ name }) => cpuText(results, rate, name)),
    ]);
    for (const [yard, title] of [
      ["pair", "the pair"],
      ["kamailio", "Kamailio"],
      ["floor", "the floor"],
      ["native-before", "the engine before"],
      ["inside-before", "embedded + srf before"],
    ] as const) {
      if (columns.some(({ name }) => name === yard)) {
        rows.push([
          `– ratio to ${title}, 95 % interval`,
          ...columns.map(({ name }) => (name === yard ? "1" : formatRatio(ratioOf(results, rate, name, yard)))),
        ]);
      }
    }
  }
  if (results.rates.size > 0) {
    rows.push([
      "highest clean rate on one core, cps",
      ...columns.map(({ name }) => String(results.rates.get(name)?.callsPerSecond ?? "–")),
    ]);
  }
  if (results.memory.size > 0) {
    const memory = (pick: (value: Memory) => number | undefined): string[] =>
      columns.map(({ name }) => cellText(results.memory.get(name), (value) => kilobytes(pick(value))));
    rows.push(["RSS per held call, kB", ...memory((one) => one.perHeldCall)]);
    rows.push(["V8 heap per held call, kB", ...memory((one) => one.heapPerHeldCall)]);
    rows.push(["RSS per finished call within 64*T1, kB", ...memory((one) => one.perFinishedCall)]);
    rows.push(["V8 heap per finished call, kB", ...memory((one) => one.heapPerFinishedCall)]);
    rows.push(["V8 heap kept after 64*T1, kB", ...memory((one) => one.heapKeptPerFinishedCall)]);
  }
  if (results.loop.size > 0) {
    rows.push([
      "loop delay p50 / p99 / max, ms",
      ...columns.map(({ name }) =>
        cellText(
          results.loop.get(name),
          ({ p50Ms, p99Ms, maxMs }) => `${p50Ms.toFixed(1)} / ${p99Ms.toFixed(1)} / ${maxMs.toFixed(1)}`,
        ).replace("invalid: no Node process", "–"),
      ),
    ]);
  }
  if (results.syscalls.size > 0) {
    rows.push([
      "system calls per call (40 cps)",
      ...columns.map(({ name }) => cellText(results.syscalls.get(name), (count) => count.toFixed(0))),
    ]);
  }
  return [
    heading,
    table(["", ...columns.map(({ title }) => title)], rows),
    ...results.skipped.map(({ title, reason }) => `Skipped: ${title}: ${reason}.`),
    table(
      ["target", "found", "verdict"],
      verdicts(results).map(({ target, found, verdict }) => [target, found, verdict]),
    ),
  ].join("\n\n");
}
