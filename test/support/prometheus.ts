// A real Prometheus on a free loopback port, with a configuration of its own folder.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { DisposalStack } from "./disposal.ts";
import { temporaryFolder } from "./folder.ts";
import { claimPort } from "./ports.ts";
import { findProgram, RunningProcess } from "./process.ts";

/** Undefined where Debian's package `prometheus` is not installed. */
export const prometheusProgram = findProgram("prometheus");

/** One series of an answer, with its values in time; an instant query has one. NaN is among them. */
export interface Series {
  readonly labels: Readonly<Record<string, string>>;
  readonly values: readonly number[];
}

export interface Rule {
  readonly name: string;
  readonly health: string;
  readonly lastError?: string;
  readonly state: string;
  readonly alerts: readonly { readonly annotations: Readonly<Record<string, string>> }[];
}

type Sample = readonly [seconds: number, value: string];

export class PrometheusServer implements AsyncDisposable {
  readonly port: number;
  readonly #resources: DisposalStack;

  private constructor(port: number, resources: DisposalStack) {
    this.port = port;
    this.#resources = resources;
  }

  /** `files`: texts by name; `prometheus.yml` is the configuration. */
  static async start(files: Readonly<Record<string, string>>): Promise<PrometheusServer> {
    await using resources = new DisposalStack();
    const { port } = resources.use(await claimPort());
    const { path } = resources.use(await temporaryFolder("prometheus"));
    for (const [name, text] of Object.entries(files)) await writeFile(join(path, name), text);
    resources.use(
      await RunningProcess.start({
        name: "prometheus",
        command: "prometheus",
        cwd: path,
        args: [
          `--config.file=${join(path, "prometheus.yml")}`,
          `--storage.tsdb.path=${join(path, "data")}`,
          `--web.listen-address=127.0.0.1:${port}`,
        ],
        ready: async () => (await fetch(`http://127.0.0.1:${port}/-/ready`).catch(() => undefined))?.ok === true,
        readyTimeoutMs: 60_000,
      }),
    );
    return new PrometheusServer(port, resources.move());
  }

  /** Throws with what Prometheus says is wrong. */
  async #ask<T>(path: string, parameters: Readonly<Record<string, string>>): Promise<T> {
    const query = new URLSearchParams(parameters).toString();
    const response = await fetch(`http://127.0.0.1:${this.port}/api/v1/${path}?${query}`);
    const answer = (await response.json()) as { status: string; error?: string; data: T };
    if (answer.status !== "success") throw new Error(`${parameters["query"] ?? path}: ${answer.error ?? "no reason"}`);
    return answer.data;
  }

  async instant(query: string): Promise<readonly Series[]> {
    const { result } = await this.#ask<{ result: { metric: Series["labels"]; value: Sample }[] }>("query", { query });
    return result.map(({ metric, value }) => ({ labels: metric, values: [Number(value[1])] }));
  }

  /** As Grafana asks for a graph, one point per second. */
  async range(query: string, fromMs: number, toMs: number): Promise<readonly Series[]> {
    const { result } = await this.#ask<{ result: { metric: Series["labels"]; values: Sample[] }[] }>("query_range", {
      query,
      start: String(fromMs / 1_000),
      end: String(toMs / 1_000),
      step: "1",
    });
    return result.map(({ metric, values }) => ({ labels: metric, values: values.map(([, value]) => Number(value)) }));
  }

  /** The values of a label, as Grafana's `label_values(metric, label)` asks for them. */
  async labelValues(metric: string, label: string): Promise<readonly string[]> {
    return this.#ask<readonly string[]>(`label/${label}/values`, { "match[]": metric });
  }

  async rules(): Promise<readonly Rule[]> {
    const { groups } = await this.#ask<{ groups: { rules: Rule[] }[] }>("rules", {});
    return groups.flatMap(({ rules }) => rules);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#resources[Symbol.asyncDispose]();
  }
}
