// The files that Prometheus and Grafana are given, on a real Prometheus that reads a real service during real calls: every query
// can be answered, and what should have data after calls has some. Grafana itself is not there: what its provisioning wants of
// a dashboard is checked on the file.
import { spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { drachtioProgram } from "../support/drachtio.ts";
import { temporaryFolder } from "../support/folder.ts";
import { findProgram } from "../support/process.ts";
import { PrometheusServer, prometheusProgram } from "../support/prometheus.ts";
import type { Series } from "../support/prometheus.ts";
import { waitFor } from "../support/wait.ts";
import { operatorNumber, Stage } from "./stage.ts";

const read = (path: string): string => readFileSync(new URL(`../../docker/${path}`, import.meta.url), "utf8");

interface Place {
  readonly x: number;
  readonly y: number;
  readonly w: number;
  readonly h: number;
}
interface Panel {
  readonly id: number;
  readonly type: string;
  readonly title: string;
  readonly gridPos: Place;
  readonly datasource?: { readonly type: string; readonly uid: string };
  readonly targets?: readonly { readonly refId: string; readonly expr: string; readonly datasource?: object }[];
}
interface Dashboard {
  readonly uid: string;
  readonly title: string;
  readonly schemaVersion: number;
  readonly panels: readonly Panel[];
  readonly templating: {
    readonly list: readonly { readonly name: string; readonly definition: string; readonly query: { query: string } }[];
  };
}

const dashboard = JSON.parse(read("grafana/dashboards/patchbay.json")) as Dashboard;
const queries = dashboard.panels.flatMap(({ title, targets = [] }) =>
  targets.map(({ refId, expr }) => [`${title} ${refId}`, expr] as const),
);
const { groups } = parse(read("alerts.yml")) as {
  groups: readonly {
    rules: readonly {
      alert: string;
      expr: string;
      labels: Readonly<Record<string, string>>;
      annotations: { readonly summary: string };
    }[];
  }[];
};
const rulesOf = groups.flatMap(({ rules }) => rules);
const alerts = rulesOf.map(({ alert, expr }) => [alert, expr] as const);

/** What has no data after calls in which nothing goes wrong, with the reason. */
const quiet: Readonly<Record<string, string>> = {
  "Gateways that went down or came up A": "no gateway went down",
};

describe("the dashboard's file", () => {
  test("is one that Grafana's provisioning takes: a version, a name of its own, panels that are told apart", () => {
    const { uid, title, schemaVersion, panels } = dashboard;
    // Since then data sources are named by kind and uid, as they are here; Grafana converts what is older than itself.
    expect(schemaVersion).toBeGreaterThanOrEqual(36);
    expect(uid).toMatch(/^[A-Za-z0-9_-]{1,40}$/);
    expect(title).not.toBe("");
    expect(dashboard).not.toHaveProperty("id");
    const ids = panels.map(({ id }) => id);
    expect(new Set(ids).size).toBe(ids.length);
    for (const { title: name, targets = [] } of panels) {
      const refs = targets.map(({ refId }) => refId);
      expect(new Set(refs).size, name).toBe(refs.length);
    }
  });

  test("has panels within its 24 columns, none upon another", () => {
    const { panels } = dashboard;
    for (const { title, gridPos } of panels) {
      const { x, y, w, h } = gridPos;
      expect([x >= 0, y >= 0, w > 0, h > 0, x + w <= 24], title).toEqual([true, true, true, true, true]);
    }
    const apart = (a: Place, b: Place): boolean =>
      a.x + a.w <= b.x || b.x + b.w <= a.x || a.y + a.h <= b.y || b.y + b.h <= a.y;
    const overlaps = panels.flatMap((one, index) =>
      panels
        .slice(index + 1)
        .filter((other) => !apart(one.gridPos, other.gridPos))
        .map((other) => `${one.title} and ${other.title}`),
    );
    expect(overlaps).toEqual([]);
  });

  test("asks the data source that is provisioned, in every panel and variable", () => {
    const { datasources } = parse(read("grafana/provisioning/datasources/prometheus.yaml")) as {
      datasources: readonly { uid: string; type: string }[];
    };
    const provisioned = datasources.map(({ type, uid }) => ({ type, uid }));
    for (const { title, type, datasource, targets = [] } of dashboard.panels) {
      if (type === "row") continue;
      expect(provisioned, title).toContainEqual(datasource);
      for (const target of targets) expect(provisioned, title).toContainEqual(target.datasource ?? datasource);
    }
    for (const variable of dashboard.templating.list)
      expect(provisioned).toContainEqual(Reflect.get(variable, "datasource"));
  });
});

const describeIfInstalled = prometheusProgram === undefined ? describe.skip : describe;
if (prometheusProgram === undefined) {
  test("Prometheus on the service", (context) => context.skip("Debian's package prometheus is not installed"));
}

describeIfInstalled("a real Prometheus", () => {
  const scrapeSeconds = 1;
  let stage: Stage;
  let prometheus: PrometheusServer;
  let begunMs = 0;
  let endMs = 0;
  let instances: readonly string[] = [];

  beforeAll(async () => {
    stage = await Stage.start({
      channel: { recording: { enabled: true } },
      // The other trunk registers with a phone, which takes no registrations.
      change: ({ trunks }) => Object.assign(trunks[1] ?? {}, { register: true }),
    });
    // As it is delivered but for the addresses, and more often, because a test cannot wait for quarters of a minute.
    const [given, address] = [read("prometheus.yml"), "127.0.0.1:9080"];
    expect(given.split(address)).toHaveLength(2);
    expect(given.split("_interval: 15s")).toHaveLength(3);
    begunMs = Date.now();
    prometheus = await PrometheusServer.start({
      "alerts.yml": read("alerts.yml"),
      "prometheus.yml": given
        .replace(address, `127.0.0.1:${stage.app.adminPort}`)
        .replaceAll("_interval: 15s", `_interval: ${scrapeSeconds}s`),
    });
    // A rate begins with the second reading: every counter that is there from the start has to be read before the calls.
    await readings(1);
    for (let round = 0; round < 2; round += 1) {
      await oneCall();
      await readings(2);
    }
    endMs = Date.now();
    instances = await prometheus.labelValues("patchbay_build_info", "instance");
  }, 120_000);
  afterAll(async () => {
    await prometheus?.[Symbol.asyncDispose]();
    await stage?.[Symbol.asyncDispose]();
  });

  /** Until Prometheus has read the page so many times more. */
  async function readings(count: number): Promise<void> {
    const taken = async (): Promise<number> =>
      (await prometheus.instant('count_over_time(up{job="patchbay"}[1h])'))[0]?.values[0] ?? 0;
    const before = await taken();
    await waitFor(async () => (await taken()) >= before + count, {
      what: `${count} readings`,
      timeoutMs: 30_000,
      intervalMs: 200,
    });
  }

  /** A call that has a bit of everything: a prompt, a refused command, an operator, a recording; and one that is not let in. */
  async function oneCall(): Promise<void> {
    const { leg, call } = await stage.talk();
    await call.play(stage.prompts.short);
    await call.command([{ type: "switch" }]);
    await call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: true, continueRecording: true });
    const operator = await stage.incoming();
    await operator.acknowledged;
    await operator.hangUp();
    await call.transfer();
    await leg.hangUp();
    await call.event("recording", { where: ({ state }) => state === "finished" });
    await call.event("hangup");
    const stranger = await stage.phone();
    await (await stranger.dial(stage.uri("99999"))).established.catch(() => undefined);
    await stage.clear();
  }

  /** An expression as Grafana fills it in for the instances of the variable. */
  const filledIn = (expression: string): string =>
    expression
      .replaceAll("$__rate_interval", `${4 * scrapeSeconds}s`)
      .replaceAll("$instance", `(${instances.map((one) => one.replaceAll(".", "\\\\.")).join("|")})`);

  const hasData = (series: readonly Series[]): boolean =>
    series.some(({ values }) => values.some((value) => !Number.isNaN(value)));

  test("reads the service, and finds the instances that the dashboard is chosen by", async () => {
    expect(instances).toEqual([`127.0.0.1:${stage.app.adminPort}`]);
    expect(dashboard.templating.list.map(({ query }) => query.query)).toEqual([
      "label_values(patchbay_build_info, instance)",
    ]);
    expect((await prometheus.instant('up{job="patchbay"}')).map(({ values }) => values)).toEqual([[1]]);
  });

  test.each(queries)("can answer the dashboard's %s, and has data for it", async (panel, expression) => {
    const series = await prometheus.range(filledIn(expression), begunMs, endMs);
    if (drachtioProgram !== undefined && expression.includes("patchbay_engine_")) return;
    expect([panel, hasData(series), expression]).toEqual([panel, quiet[panel] === undefined, expression]);
  });

  test("has more than forty queries of the dashboard", () => {
    expect(queries.length).toBeGreaterThan(40);
  });

  test("has loaded every alert, evaluates it without an error, and none fires on a service in order", async () => {
    const rules = await waitFor(
      async () => {
        const all = await prometheus.rules();
        return all.every(({ health }) => health !== "unknown") && all;
      },
      { what: "the evaluation of all rules", timeoutMs: 20_000 },
    );
    expect(rules.map(({ name }) => name)).toEqual(alerts.map(([name]) => name));
    expect(rules.filter(({ health, lastError }) => health !== "ok" || lastError)).toEqual([]);
    expect(rules.filter(({ state }) => state === "firing").map(({ name }) => name)).toEqual([]);
  });

  test.each(alerts)("has data for everything that %s compares", async (_alert, expression) => {
    await prometheus.instant(expression);
    for (const operand of operandsOf(expression)) {
      if (drachtioProgram !== undefined && operand.includes("patchbay_engine_")) continue;
      expect([operand, (await prometheus.instant(operand)).length > 0]).toEqual([operand, true]);
    }
  });

  test("says what is wrong with a query", async () => {
    await expect(prometheus.instant("sum by (le (up)")).rejects.toThrow(/parse error/);
    expect(hasData(await prometheus.range("patchbay_no_such_metric", begunMs, endMs))).toBe(false);
  });
});

/** A series of the service as promtool writes it: a value and what is added every minute, for 75 of them. */
interface Fed {
  readonly name: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly from: number;
  readonly step?: number;
}

const from = { instance: "127.0.0.1:9080", job: "patchbay" };
const refused = { step: "upload" };

/** By alert: what makes it fire, the same in order, and what it is labelled with beside where it comes from. */
const stories: Readonly<
  Record<string, { readonly bad: readonly Fed[]; readonly good: readonly Fed[]; readonly labels?: Fed["labels"] }>
> = {
  PatchbayAway: { bad: [{ name: "up", from: 0 }], good: [{ name: "up", from: 1 }] },
  PatchbayNotReady: {
    bad: [
      { name: "patchbay_part_up", labels: { part: "redis" }, from: 0 },
      { name: "patchbay_draining", from: 0 },
    ],
    // A service that drains refuses new calls because it was told to.
    good: [
      { name: "patchbay_part_up", labels: { part: "engine" }, from: 0 },
      { name: "patchbay_draining", from: 1 },
    ],
    labels: { part: "redis" },
  },
  PatchbayAnchorDown: gaugeStory("patchbay_anchor_up", { anchor: "m:22222" }, 0, 1),
  PatchbayTrunkDown: gaugeStory("patchbay_trunk_state", { trunk: "t", state: "down" }, 1, 0),
  PatchbayTrunkDegraded: gaugeStory("patchbay_trunk_state", { trunk: "t", state: "degraded" }, 1, 0),
  PatchbayRegistrationRefused: gaugeStory("patchbay_registration_state", { trunk: "t", state: "refused" }, 1, 0),
  PatchbayTrunkNearlyFull: shareStory("patchbay_trunk_legs", "patchbay_trunk_legs_max", { trunk: "t" }),
  PatchbayCallsRefused: {
    bad: [{ name: "patchbay_calls_refused_total", labels: { status: "503" }, from: 0, step: 12 }],
    good: [{ name: "patchbay_calls_refused_total", labels: { status: "401" }, from: 0, step: 300 }],
  },
  PatchbayTransfersFail: {
    bad: [
      { name: "patchbay_transfers_total", labels: { status: "FAIL", cause: "trunk_failure" }, from: 0, step: 1 },
      { name: "patchbay_transfers_total", labels: { status: "SUCCESS", cause: "completed" }, from: 0, step: 2 },
    ],
    good: [
      { name: "patchbay_transfers_total", labels: { status: "FAIL", cause: "busy" }, from: 0, step: 5 },
      { name: "patchbay_transfers_total", labels: { status: "FAIL", cause: "internal" }, from: 0 },
      { name: "patchbay_transfers_total", labels: { status: "SUCCESS", cause: "completed" }, from: 0, step: 2 },
    ],
  },
  PatchbayBotsSilent: counterStory("patchbay_fallbacks_total"),
  PatchbayRedisLag: gaugeStory("patchbay_redis_lag_seconds", {}, 3, 0.1),
  PatchbayEventsLost: counterStory("patchbay_redis_events_dropped_total"),
  PatchbayRecordingFailed: counterStory("patchbay_recordings_total", { state: "failed" }),
  PatchbayRecordingsWait: gaugeStory("patchbay_recordings_waiting", {}, 30, 2),
  PatchbayRecordingsNotUploaded: {
    bad: [
      { name: "patchbay_recordings_undelivered", labels: refused, from: 3 },
      { name: "patchbay_recording_deliveries_total", labels: { ...refused, result: "done" }, from: 9 },
    ],
    good: [
      { name: "patchbay_recordings_undelivered", labels: refused, from: 3 },
      { name: "patchbay_recording_deliveries_total", labels: { ...refused, result: "done" }, from: 9, step: 1 },
    ],
    labels: refused,
  },
  PatchbayDiskNearlyFull: gaugeStory("patchbay_recording_free_bytes", { folder: "spool" }, 1e9, 1e11),
  PatchbayLoopDelay: gaugeStory("nodejs_eventloop_lag_p99_seconds", {}, 0.3, 0.02),
  PatchbayProcessorFull: {
    bad: [{ name: "process_cpu_seconds_total", from: 0, step: 56 }],
    good: [{ name: "process_cpu_seconds_total", from: 0, step: 28 }],
  },
  PatchbayFewDescriptors: shareStory("process_open_fds", "process_max_fds"),
  PatchbayEngineOverloaded: counterStory("patchbay_engine_overloaded_total"),
  PatchbayFault: counterStory("patchbay_engine_faults_total"),
};

function gaugeStory(name: string, labels: Readonly<Record<string, string>>, bad: number, good: number) {
  return { bad: [{ name, labels, from: bad }], good: [{ name, labels, from: good }], labels };
}
function counterStory(name: string, labels: Readonly<Record<string, string>> = {}) {
  return { bad: [{ name, labels, from: 0, step: 1 }], good: [{ name, labels, from: 7 }], labels };
}
function shareStory(part: string, whole: string, labels: Readonly<Record<string, string>> = {}) {
  const used = (value: number) => [
    { name: part, labels, from: value },
    { name: whole, labels, from: 100 },
  ];
  return { bad: used(90), good: used(50), labels };
}

/** One story as promtool's rule tests have it: what every alert says after 70 minutes. */
function ruleTest(name: string, series: readonly Fed[], firing: readonly string[]): object {
  const textOf = (labels: Readonly<Record<string, string>>): string =>
    Object.entries({ ...from, ...labels })
      .map(([label, value]) => `${label}="${value}"`)
      .join(",");
  return {
    name,
    interval: "1m",
    input_series: series.map(({ name: metric, labels = {}, from: first, step = 0 }) => ({
      series: `${metric}{${textOf(labels)}}`,
      values: `${first}+${step}x75`,
    })),
    alert_rule_test: rulesOf.map(({ alert, labels: own, annotations }) => {
      const labels: Record<string, string> = { ...from, ...stories[alert]?.labels };
      // Sums over causes and statuses know the instance only.
      if (/^Patchbay(?:CallsRefused|TransfersFail)$/.test(alert)) delete labels["job"];
      const summary = annotations.summary.replaceAll(
        /\{\{ \$labels\.(\w+) \}\}/g,
        (_, label: string) => labels[label] ?? "",
      );
      const expected = { exp_labels: { ...labels, ...own }, exp_annotations: { summary } };
      return { eval_time: "70m", alertname: alert, exp_alerts: firing.includes(alert) ? [expected] : [] };
    }),
  };
}

test("every alert fires on what it is there for, with its sentence, and not on what is in order", async (context) => {
  const promtool = findProgram("promtool");
  if (promtool === undefined) return context.skip("Debian's package prometheus is not installed");
  expect(Object.keys(stories)).toEqual(alerts.map(([alert]) => alert));
  await using folder = await temporaryFolder("rules");
  writeFileSync(join(folder.path, "alerts.yml"), read("alerts.yml"));
  const tests = Object.entries(stories).flatMap(([alert, { bad, good }]) => [
    ruleTest(`${alert} fires`, bad, [alert]),
    ruleTest(`${alert} is silent`, good, []),
  ]);
  // JSON is YAML.
  const file = { rule_files: ["alerts.yml"], evaluation_interval: "1m", tests };
  writeFileSync(join(folder.path, "tests.yml"), JSON.stringify(file));
  const { status, stdout, stderr } = spawnSync(promtool, ["test", "rules", "tests.yml"], {
    cwd: folder.path,
    encoding: "utf8",
  });
  expect(`${stdout}${stderr}`).toContain("SUCCESS");
  expect(status).toBe(0);
});

/** The parts of an alert's expression that are compared with a number or joined with one another. */
function operandsOf(expression: string): readonly string[] {
  return expression
    .split(/\b(?:and|or|unless)\b(?:\s+(?:on|ignoring)\s*\([^)]*\))?/)
    .map((part) => part.replace(/\s(?:==|>|<)\s*[\d.e]+\s*$/, "").trim());
}

test("an alert's expression is taken apart where it compares and joins", () => {
  expect(operandsOf('a{b="c|d"} > 0 and ignoring(e) increase(f[1h]) == 0')).toEqual(['a{b="c|d"}', "increase(f[1h])"]);
});
