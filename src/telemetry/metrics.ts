import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from "prom-client";

/** Everything that is counted; labels have few values, details are in the log. */
export interface Metrics {
  readonly callsStarted: Counter;
  readonly callsEnded: Counter<"by">;
  readonly callsHeld: Gauge<"phase">;
  readonly transfers: Counter<"status" | "cause">;
  readonly ringSeconds: Histogram;
  readonly talkSeconds: Histogram;
  readonly fallbacks: Counter;
  readonly commandsRejected: Counter<"code">;
  readonly recordings: Counter<"state">;
  readonly inboxOverflows: Counter;
  readonly gatewayChanges: Counter<"gateway" | "state">;
  /** The page operators scrape, in Prometheus' text format. */
  render(): Promise<{ contentType: string; body: string }>;
}

/** What is asked at each scrape, because somebody else counts it. */
export interface MetricSources {
  /** Calls by phase. */
  readonly phases: () => ReadonlyMap<string, number>;
  /** State by gateway. */
  readonly gateways: () => ReadonlyMap<string, string>;
  /** State by trunk that registers. */
  readonly registrations: () => ReadonlyMap<string, string>;
}

export function createMetrics({ phases, gateways, registrations }: MetricSources): Metrics {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });
  const seconds = [0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800];
  const states = (name: string, help: string, label: string, read: () => ReadonlyMap<string, string>): void => {
    const gauge = new Gauge({
      name,
      help,
      labelNames: [label, "state"],
      registers: [],
      collect() {
        this.reset();
        for (const [one, state] of read()) this.set({ [label]: one, state }, 1);
      },
    });
    registry.registerMetric(gauge);
  };
  states("patchbay_gateways", "1 for the state that a gateway is in: up, down, resting.", "gateway", gateways);
  states("patchbay_registrations", "1 for the state that a trunk's registration is in.", "trunk", registrations);
  return {
    callsStarted: new Counter({ name: "patchbay_calls_started_total", help: "Calls taken in.", registers }),
    callsEnded: new Counter({
      name: "patchbay_calls_ended_total",
      help: "Calls that ended, by who ended them.",
      labelNames: ["by"],
      registers,
    }),
    callsHeld: new Gauge({
      name: "patchbay_calls",
      help: "Calls held now, by phase.",
      labelNames: ["phase"],
      registers,
      collect() {
        this.reset();
        for (const [phase, count] of phases()) this.set({ phase }, count);
      },
    }),
    transfers: new Counter({
      name: "patchbay_transfers_total",
      help: "Transfers that ended, by status and cause.",
      labelNames: ["status", "cause"],
      registers,
    }),
    ringSeconds: new Histogram({
      name: "patchbay_transfer_ring_seconds",
      help: "How long operators rang.",
      buckets: seconds,
      registers,
    }),
    talkSeconds: new Histogram({
      name: "patchbay_transfer_talk_seconds",
      help: "How long callers talked with operators.",
      buckets: seconds,
      registers,
    }),
    fallbacks: new Counter({
      name: "patchbay_fallbacks_total",
      help: "Calls that a silent bot lost to its channel's fallback.",
      registers,
    }),
    commandsRejected: new Counter({
      name: "patchbay_commands_rejected_total",
      help: "Commands of bots that were rejected, by code.",
      labelNames: ["code"],
      registers,
    }),
    recordings: new Counter({
      name: "patchbay_recordings_total",
      help: "Recording events, by state.",
      labelNames: ["state"],
      registers,
    }),
    inboxOverflows: new Counter({
      name: "patchbay_inbox_overflows_total",
      help: "Calls ended because more events waited than a call may have.",
      registers,
    }),
    gatewayChanges: new Counter({
      name: "patchbay_gateway_changes_total",
      help: "Gateways that went down or came up.",
      labelNames: ["gateway", "state"],
      registers,
    }),
    render: async () => ({ contentType: registry.contentType, body: await registry.metrics() }),
  };
}
