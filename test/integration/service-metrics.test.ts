// What /metrics really shows, against everything that relies on it: the dashboard, the alerts, the reference page.
import { readFileSync } from "node:fs";
import { parse } from "yaml";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parseConfig } from "../../src/config/load.ts";
import { loadSecrets } from "../../src/config/secrets.ts";
import { createEngineProcess } from "../../src/engine-process.ts";
import { silentLog } from "../../src/telemetry/log.ts";
import { drachtioProgram } from "../support/drachtio.ts";
import { claimPort } from "../support/ports.ts";
import { callerNumber, operatorNumber, Stage } from "./stage.ts";

const read = (path: string): string => readFileSync(new URL(`../../${path}`, import.meta.url), "utf8");

/** Names and samples of a page in Prometheus' text format. */
interface Scrape {
  readonly metrics: ReadonlySet<string>;
  /** Sample names: a histogram has three for its one name. */
  readonly samples: ReadonlySet<string>;
  readonly lines: readonly string[];
}

async function scrape(port: number): Promise<Scrape> {
  const lines = (await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()).split("\n");
  const samples = lines.flatMap((line) => /^([a-z_]\w*)(?:\{.*\})? [-+.\deNa]+$/.exec(line)?.[1] ?? []);
  const metrics = lines.flatMap((line) => /^# TYPE (\S+) /.exec(line)?.[1] ?? []);
  return { metrics: new Set(metrics), samples: new Set(samples), lines };
}

/** Names of metrics in a PromQL expression: words that are no function, label, keyword or text in quotes. */
function namesIn(expression: string): readonly string[] {
  const bare = expression
    .replaceAll(/"[^"]*"/g, "")
    .replaceAll(/\{[^}]*\}/g, "")
    .replaceAll(/\[[^\]]*\]/g, "")
    .replaceAll(/\b(?:by|on|ignoring|without|group_left|group_right)\s*\([^)]*\)/g, "");
  return [...bare.matchAll(/\b[a-z]\w*\b(?!\s*\()/g)]
    .map(([name]) => name)
    .filter((name) => !["and", "or", "unless", "by", "sum", "max", "min"].includes(name));
}

/** Every text under a key of that name, however deep. */
function textsAt(document: unknown, key: string): readonly string[] {
  if (Array.isArray(document)) return document.flatMap((item) => textsAt(item, key));
  if (typeof document !== "object" || document === null) return [];
  return Object.entries(document).flatMap(([name, value]) =>
    name === key && typeof value === "string" ? [value] : textsAt(value, key),
  );
}

function documented(part: string): ReadonlySet<string> {
  const page = read("docs/operations.md");
  const table = new RegExp(`<!-- generated: ${part} -->([\\s\\S]*?)<!-- end -->`).exec(page)?.[1] ?? "";
  return new Set([...table.matchAll(/^\| `(\w+)`/gm)].flatMap(([, name]) => name ?? []));
}

let stage: Stage;
let page: Scrape;
beforeAll(async () => {
  stage = await Stage.start();
  const { leg, call } = await stage.talk();
  await call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: true });
  const operator = await stage.incoming();
  await operator.acknowledged;
  await operator.hangUp();
  await call.transfer();
  await leg.hangUp();
  await call.event("hangup");
  page = await scrape(stage.app.adminPort);
});
afterAll(async () => {
  await stage[Symbol.asyncDispose]();
});

describe("the page after a call", () => {
  test("has every metric that the reference page documents, and no other", () => {
    const engine = drachtioProgram === undefined ? documented("engineMetrics") : new Set<string>();
    const all = [...documented("serviceMetrics"), ...engine, ...documented("processMetrics")];
    expect(all.length).toBeGreaterThan(40);
    expect([...page.metrics].toSorted()).toEqual(all.toSorted());
  });

  test("has what happened in it", () => {
    expect(page.lines).toContain("patchbay_calls_started_total 1");
    expect(page.lines).toContain('patchbay_calls_ended_total{by="caller"} 1');
    expect(page.lines).toContain('patchbay_transfers_total{status="SUCCESS",cause="completed"} 1');
    expect(page.lines).toContain("patchbay_transfer_talk_seconds_count 1");
    expect(page.lines).toContain('patchbay_trunk_state{trunk="trunk-a",state="up"} 1');
    expect(page.lines).toContain('patchbay_part_up{part="redis"} 1');
    expect(page.lines.some((line) => /^patchbay_redis_delivery_seconds_count [1-9]/.test(line))).toBe(true);
    expect(page.lines.some((line) => /^patchbay_recording_free_bytes\{folder="spool"\} [1-9]/.test(line))).toBe(true);
  });

  test("has labels of few values only: no number, no bot, no call", () => {
    const labels = new Set(page.lines.flatMap((line) => [...line.matchAll(/[{,](\w+)="/g)].map(([, name]) => name)));
    const ours = "anchor by cause code folder gateway part phase result state status step trunk".split(" ");
    const ofLibrary = ["le", "version", "major", "minor", "patch", "kind", "space", "type"];
    expect([...labels].filter((label) => ![...ours, ...ofLibrary].includes(label ?? ""))).toEqual([]);
    const text = page.lines.join("\n");
    for (const secret of [callerNumber, operatorNumber, "bot-a"]) expect(text).not.toContain(secret);
  });
});

describe("what relies on the page", () => {
  const dashboard: unknown = JSON.parse(read("docker/grafana/dashboards/patchbay.json"));
  const alerts: unknown = parse(read("docker/alerts.yml"));

  test.each([
    ["the dashboard", textsAt(dashboard, "expr"), 30],
    ["the alerts", textsAt(alerts, "expr"), 15],
  ])("%s asks only for what is there", (_what, expressions, atLeast) => {
    expect(expressions.length).toBeGreaterThan(atLeast);
    const wanted = new Set(expressions.flatMap(namesIn));
    // Prometheus makes `up` itself.
    const missing = [...wanted].filter((name) => name !== "up" && !page.samples.has(name) && !page.metrics.has(name));
    const ofEngine = (name: string): boolean => drachtioProgram !== undefined && name.startsWith("patchbay_engine_");
    expect(missing.filter((name) => !ofEngine(name))).toEqual([]);
  });

  test("an unknown name would be found", () => {
    expect(namesIn('sum by (le) (rate(patchbay_gone_total{a="b"}[5m])) / max(other) unless on (x) third == 1')).toEqual(
      ["patchbay_gone_total", "other", "third"],
    );
  });
});

test("the page of the engine's own process has what the reference page documents", async () => {
  await using control = await claimPort();
  const env = { SECRET: "open sesame" };
  const parsed = parseConfig(
    JSON.stringify({
      sip: {
        engine: "separate",
        listen: [{ protocol: "udp", address: "127.0.0.1", port: 0 }],
        drachtio: { port: control.port, secretEnv: "SECRET" },
      },
      engine: { admin: { port: 0 } },
    }),
    env,
    ".",
  );
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
  await using engine = await createEngineProcess(parsed.config, loadSecrets(parsed.config, env), { log: silentLog });
  const { metrics } = await scrape(engine.adminPort);
  expect([...metrics].toSorted()).toEqual([...documented("engineMetrics"), ...documented("processMetrics")].toSorted());
});
