// The tables of metrics in docs/operations.md, from the metrics themselves.
import { engineFigures } from "../src/engine-figures.ts";
import type { MetricFacts, MetricSources } from "../src/telemetry/metrics.ts";
import { createMetrics } from "../src/telemetry/metrics.ts";

/** A service without calls, trunks and media servers. */
export const sourcesAtRest: MetricSources = {
  version: "0.0.0",
  state: () => ({
    ready: true,
    parts: { redis: true, engine: true, media: true },
    draining: false,
    redis: { state: "up", queuedEvents: 0, lagMs: 0 },
    engine: { kind: "embedded", state: "up" },
    media: {},
    anchors: {},
    trunks: {},
  }),
  phases: () => ({}),
  redis: () => ({ published: 0, dropped: 0, commands: 0, failures: 0 }),
  recordingsWaiting: () => 0,
  recordingsUndelivered: () => ({ convert: 0, upload: 0 }),
  transferCauses: [],
  freeSpace: () => Promise.resolve({}),
};

/** Tables by the name of their place in the page. */
export function metricsTables(): Readonly<Record<"serviceMetrics" | "engineMetrics" | "processMetrics", string>> {
  const all = createMetrics(sourcesAtRest).list();
  return {
    serviceMetrics: table(all.filter(({ name }) => name.startsWith("patchbay_"))),
    engineMetrics: table(engineFigures.map(({ name, type, help }) => ({ name, type, help, labels: [] }))),
    processMetrics: table(all.filter(({ name }) => !name.startsWith("patchbay_"))),
  };
}

function table(metrics: readonly MetricFacts[]): string {
  const rows = metrics
    .toSorted((a, b) => (a.name < b.name ? -1 : 1))
    .map(({ name, type, labels, help }) => {
      const shown = labels.map((label) => `\`${label}\``).join(" ");
      return `| \`${name}\` | ${type} | ${shown} | ${help.replaceAll("|", "\\|")} |`;
    });
  return ["| metric | type | labels | meaning |", "|---|---|---|---|", ...rows].join("\n");
}
