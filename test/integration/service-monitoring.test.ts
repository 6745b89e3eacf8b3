// The files that Prometheus and Grafana are given, on a real Prometheus that reads a real service during real calls: every query
// can be answered, and what should have data after calls has some. Grafana itself is not there: what its provisioning wants of
// a dashboard is checked on the file.
import { readFileSync } from "node:fs";
import { parse } from "yaml";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { drachtioProgram } from "../support/drachtio.ts";
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
  groups: readonly { rules: readonly { alert: string; expr: string }[] }[];
};
const alerts = groups.flatMap(({ rules }) => rules.map(({ alert, expr }) => [alert, expr] as const));

/** What has no data after calls in which nothing goes wrong, with the reason. */
const quiet: Readonly<Record<string, string>> = {
  "Gateways that went down or came up A": "no gateway went down",
};

describe("the dashboard's file", () => {
  test("is one that Grafana's provisioning takes: a version, a name of its own, panels that are told apart", () => {
    const { uid, title, schemaVersion, panels } = dashboard;
    // Older ones are converted at each load; newer ones than the image's are refused.
    expect(schemaVersion).toBe(39);
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

/** The parts of an alert's expression that are compared with a number or joined with one another. */
function operandsOf(expression: string): readonly string[] {
  return expression
    .split(/\b(?:and|or|unless)\b(?:\s+(?:on|ignoring)\s*\([^)]*\))?/)
    .map((part) => part.replace(/\s(?:==|>|<)\s*[\d.e]+\s*$/, "").trim());
}

test("an alert's expression is taken apart where it compares and joins", () => {
  expect(operandsOf('a{b="c|d"} > 0 and ignoring(e) increase(f[1h]) == 0')).toEqual(['a{b="c|d"}', "increase(f[1h])"]);
});
