import { readFileSync } from "node:fs";

import { expected, type Observed } from "./case.ts";
import { cases } from "./cases/index.ts";

interface RealRun {
  readonly version: string;
  readonly day: string;
  /** The cases that showed on that server what they expect of it. */
  readonly passed: readonly string[];
}

const begin = "<!-- generated: differences -->";
const end = "<!-- end of what is generated -->";

/** The page with the table of differences made anew between its markers. Throws when a marker is missing. */
export function withTable(page: string): string {
  const from = page.indexOf(begin);
  const to = page.indexOf(end);
  if (from === -1 || to < from) throw new Error("docs/sip-conformance.md has lost its markers");
  return `${page.slice(0, from + begin.length)}\n\n${table()}\n${page.slice(to)}`;
}

function table(): string {
  const run = JSON.parse(readFileSync(new URL("real-run.json", import.meta.url), "utf8")) as RealRun;
  const rows = cases.flatMap((one) => {
    const columns = [expected(one, "engine"), expected(one, "strict"), expected(one, "real")];
    return Object.keys(one.engine)
      .filter((name) => new Set(columns.map((column) => column[name])).size > 1)
      .map((name) => {
        const [engine, strict, real] = columns.map((column) => word(column, name));
        const seen = run.passed.includes(one.id) ? real : `${real} (not run)`;
        return `| ${one.id} | ${one.title}: ${name} | ${engine} | ${strict} | ${seen} |`;
      });
  });
  const notRun = cases.filter(({ id }) => !run.passed.includes(id)).map(({ id }) => id);
  return [
    `${cases.length} cases, each on all three. Last run on drachtio-server ${run.version}: ${run.day}, ` +
      `${run.passed.length} cases as expected${notRun.length === 0 ? "" : `, not confirmed: ${notRun.join(", ")}`}.`,
    "",
    "| case | what is looked at | engine | `strictParity` | drachtio-server |",
    "|---|---|---|---|---|",
    ...rows,
    "",
  ].join("\n");
}

function word(column: Observed, name: string): string {
  const value = column[name];
  return typeof value === "boolean" ? (value ? "yes" : "no") : String(value);
}
