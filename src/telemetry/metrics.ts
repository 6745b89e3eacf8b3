import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from "prom-client";
import type { Figure } from "./figures.ts";
import { addFigures } from "./figures.ts";
import type { ServiceState } from "./service-state.ts";
import { gatewayWords, registrationWords, trunkWords } from "./service-state.ts";

/** Everything that is counted; labels have few values, details are in the log. */
export interface Metrics {
  readonly callsStarted: Counter;
  readonly callsEnded: Counter<"by">;
  readonly callsRefused: Counter<"status">;
  readonly callSeconds: Histogram;
  readonly transfers: Counter<"status" | "cause">;
  readonly ringSeconds: Histogram;
  readonly talkSeconds: Histogram;
  readonly fallbacks: Counter;
  readonly commandsRejected: Counter<"code">;
  readonly recordings: Counter<"state">;
  readonly deliveries: Counter<"step" | "result">;
  readonly inboxOverflows: Counter;
  readonly gatewayChanges: Counter<"gateway" | "state">;
  /** From an event to Redis' word that it has it. */
  readonly redisDelivery: Histogram;
  /** Figures of a part that keeps them itself. */
  add<Source>(figures: readonly Figure<Source>[], source: () => Source): void;
  /** Every metric of the page. */
  list(): readonly MetricFacts[];
  /** The page operators scrape, in Prometheus' text format. */
  render(): Promise<Page>;
}

export interface Page {
  readonly contentType: string;
  readonly body: string;
}

export interface MetricFacts {
  readonly name: string;
  readonly type: string;
  readonly help: string;
  readonly labels: readonly string[];
}

/** What is asked at each scrape, because somebody else keeps it. */
export interface MetricSources {
  readonly version: string;
  readonly state: () => ServiceState;
  /** Calls by phase; all phases are there. */
  readonly phases: () => Readonly<Record<string, number>>;
  readonly redis: () => RedisTotals;
  /** Recordings of ended calls that are being written or wait for it. */
  readonly recordingsWaiting: () => number;
  /** Everything that a transfer may end by. */
  readonly transferCauses: readonly string[];
  /** Finished recordings that wait for something or are at it, by what for. */
  readonly recordingsUndelivered: () => Readonly<Record<string, number>>;
  /** Free bytes where recordings are written, by the word that stands for the folder. Answers soon, and never rejects. */
  readonly freeSpace: () => Promise<Readonly<Record<string, number>>>;
}

/** Totals since the start. */
export interface RedisTotals {
  readonly published: number;
  readonly dropped: number;
  readonly commands: number;
  readonly failures: number;
}

const callBuckets = [0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800];
const deliveryBuckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];
/** A label that is unknown until its first value would hide that first one from `increase()`. */
const recordingStates = ["started", "paused", "resumed", "finished", "failed"];
const deliverySteps = ["convert", "upload"];
const enders = ["caller", "bot", "operator", "service"];
/** What the door answers with every day; what a broken INVITE gets is seldom. */
const refusals = ["401", "403", "404", "503"];

const redisFigures: readonly Figure<RedisTotals>[] = [
  {
    name: "patchbay_redis_events_total",
    help: "Events that Redis has confirmed.",
    type: "counter",
    read: ({ published }) => published,
  },
  {
    name: "patchbay_redis_events_dropped_total",
    help: "Events that were lost, because too many waited for Redis.",
    type: "counter",
    read: ({ dropped }) => dropped,
  },
  {
    name: "patchbay_redis_failures_total",
    help: "Requests that Redis refused or left unanswered, and connections lost under them.",
    type: "counter",
    read: ({ failures }) => failures,
  },
  {
    name: "patchbay_commands_total",
    help: "Commands of bots that came, rejected ones among them.",
    type: "counter",
    read: ({ commands }) => commands,
  },
];

const stateFigures: readonly Figure<ServiceState>[] = [
  {
    name: "patchbay_draining",
    help: "1 after SIGTERM: no new calls are taken.",
    type: "gauge",
    read: ({ draining }) => (draining ? 1 : 0),
  },
  {
    name: "patchbay_redis_queued_events",
    help: "Events of all calls that Redis has not confirmed.",
    type: "gauge",
    read: ({ redis }) => redis.queuedEvents,
  },
  {
    name: "patchbay_redis_lag_seconds",
    help: "How long the oldest of them has waited; 0 when none waits.",
    type: "gauge",
    read: ({ redis }) => redis.lagMs / 1000,
  },
];

export function createMetrics(sources: MetricSources): Metrics {
  const registry = new Registry();
  const registers = [registry];
  collectDefaultMetrics({ register: registry });

  const counter = <Label extends string>(name: string, help: string, ...labelNames: Label[]): Counter<Label> =>
    new Counter({ name, help, labelNames, registers });
  const histogram = (name: string, help: string, buckets: number[]): Histogram =>
    new Histogram({ name, help, buckets, registers });
  const gauge = <Label extends string>(
    name: string,
    help: string,
    labelNames: readonly Label[],
    fill: (set: (labels: Record<Label, string>, value: number) => void) => void | Promise<void>,
  ): void => {
    registry.registerMetric(
      new Gauge({
        name,
        help,
        labelNames,
        registers: [],
        collect() {
          this.reset();
          return fill((labels, value) => this.set(labels, value));
        },
      }),
    );
  };
  /** One series per word, 1 for the one that holds: a state that was left shows 0 and not what it was. */
  const words = <Label extends string>(
    all: readonly string[],
    now: string,
    labels: Record<Label, string>,
    set: (labels: Record<Label | "state", string>, value: number) => void,
  ): void => {
    for (const word of all) set({ ...labels, state: word }, word === now ? 1 : 0);
  };

  // One snapshot per page, however many gauges are made of it.
  let state = sources.state;
  gauge("patchbay_build_info", "1, with the version that runs.", ["version"], (set) =>
    set({ version: sources.version }, 1),
  );
  gauge(
    "patchbay_part_up",
    "1 when the part works; media: when every kind of media server in use does.",
    ["part"],
    (set) => {
      for (const [part, up] of Object.entries(state().parts)) set({ part }, up ? 1 : 0);
    },
  );
  gauge("patchbay_calls", "Calls held now, by phase.", ["phase"], (set) => {
    for (const [phase, count] of Object.entries(sources.phases())) set({ phase }, count);
  });
  gauge("patchbay_anchor_up", "1 when the media server answers.", ["anchor"], (set) => {
    for (const [anchor, one] of Object.entries(state().anchors)) set({ anchor }, one.state === "up" ? 1 : 0);
  });
  gauge("patchbay_anchor_calls", "Calls anchored in the media server now.", ["anchor"], (set) => {
    for (const [anchor, { calls }] of Object.entries(state().anchors)) set({ anchor }, calls);
  });
  gauge("patchbay_trunk_state", "1 for the state of the trunk: up, degraded, down.", ["trunk", "state"], (set) => {
    for (const [trunk, one] of Object.entries(state().trunks)) words(trunkWords, one.state, { trunk }, set);
  });
  gauge(
    "patchbay_registration_state",
    "1 for the state of the trunk's registration: registering, registered, failing, refused, ended.",
    ["trunk", "state"],
    (set) => {
      for (const [trunk, { registration }] of Object.entries(state().trunks)) {
        if (registration !== undefined) words(registrationWords, registration, { trunk }, set);
      }
    },
  );
  gauge(
    "patchbay_gateway_state",
    "1 for the state of the gateway: up, down (it does not answer), resting (it asked not to be called).",
    ["trunk", "gateway", "state"],
    (set) => {
      for (const [trunk, { gateways }] of Object.entries(state().trunks)) {
        for (const [gateway, word] of Object.entries(gateways)) words(gatewayWords, word, { trunk, gateway }, set);
      }
    },
  );
  gauge("patchbay_trunk_legs", "Legs of calls on the trunk now.", ["trunk"], (set) => {
    for (const [trunk, { legs }] of Object.entries(state().trunks)) set({ trunk }, legs);
  });
  gauge("patchbay_trunk_legs_max", "Legs that the trunk may have (`maxCalls`).", ["trunk"], (set) => {
    for (const [trunk, { legsMax }] of Object.entries(state().trunks)) set({ trunk }, legsMax);
  });
  gauge("patchbay_recordings_waiting", "Recordings of ended calls that are being written or wait for it.", [], (set) =>
    set({}, sources.recordingsWaiting()),
  );
  gauge(
    "patchbay_recordings_undelivered",
    "Finished recordings that wait for their conversion or upload, or are at it.",
    ["step"],
    (set) => {
      for (const [step, count] of Object.entries(sources.recordingsUndelivered())) set({ step }, count);
    },
  );
  gauge(
    "patchbay_recording_free_bytes",
    "Free space where recordings are written; 0 when the folder is gone, or its disk has not answered for a minute.",
    ["folder"],
    async (set) => {
      for (const [folder, bytes] of Object.entries(await sources.freeSpace())) set({ folder }, bytes);
    },
  );
  addFigures(registry, stateFigures, () => state());
  addFigures(registry, redisFigures, sources.redis);

  const callsEnded = counter("patchbay_calls_ended_total", "Calls that ended, by who ended them.", "by");
  for (const by of enders) callsEnded.inc({ by }, 0);
  const callsRefused = counter(
    "patchbay_calls_refused_total",
    "INVITEs that were not let in, by SIP status; 401 asks for the password.",
    "status",
  );
  for (const status of refusals) callsRefused.inc({ status }, 0);
  const transfers = counter(
    "patchbay_transfers_total",
    "Transfers that ended, by status and cause.",
    "status",
    "cause",
  );
  for (const cause of sources.transferCauses) {
    transfers.inc({ status: cause === "completed" ? "SUCCESS" : "FAIL", cause }, 0);
  }
  const recordings = counter("patchbay_recordings_total", "Recording events, by state.", "state");
  for (const recording of recordingStates) recordings.inc({ state: recording }, 0);
  const deliveries = counter(
    "patchbay_recording_deliveries_total",
    "Finished recordings that were converted or uploaded, and tries at it that failed.",
    "step",
    "result",
  );
  for (const step of deliverySteps) for (const result of ["done", "failed"]) deliveries.inc({ step, result }, 0);
  return {
    callsStarted: counter("patchbay_calls_started_total", "Calls taken in."),
    callsEnded,
    callsRefused,
    callSeconds: histogram("patchbay_call_duration_seconds", "How long answered calls lasted.", callBuckets),
    transfers,
    ringSeconds: histogram("patchbay_transfer_ring_seconds", "How long operators rang.", callBuckets),
    talkSeconds: histogram("patchbay_transfer_talk_seconds", "How long callers talked with operators.", callBuckets),
    fallbacks: counter("patchbay_fallbacks_total", "Calls that a silent bot lost to its channel's fallback."),
    commandsRejected: counter(
      "patchbay_commands_rejected_total",
      "Commands of bots that were rejected, by code.",
      "code",
    ),
    recordings,
    deliveries,
    inboxOverflows: counter(
      "patchbay_inbox_overflows_total",
      "Calls ended because more events waited than a call may have.",
    ),
    gatewayChanges: counter(
      "patchbay_gateway_changes_total",
      "Gateways that went down or came up.",
      "gateway",
      "state",
    ),
    redisDelivery: histogram(
      "patchbay_redis_delivery_seconds",
      "From an event to Redis' word that it has it.",
      deliveryBuckets,
    ),
    add: (figures, source) => addFigures(registry, figures, source),
    list: () =>
      registry.getMetricsAsArray().map((metric) => {
        // The library's types leave the label names out.
        const { name, help, type, labelNames } = metric as typeof metric & { labelNames?: readonly string[] };
        return { name, help, type: String(type), labels: labelNames ?? [] };
      }),
    async render() {
      const snapshot = sources.state();
      state = () => snapshot;
      return { contentType: registry.contentType, body: await registry.metrics() };
    },
  };
}

/** A page with the figures of one part alone and those of the process. */
export function figuresPage<Source>(figures: readonly Figure<Source>[], source: () => Source): () => Promise<Page> {
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  addFigures(registry, figures, source);
  return async () => ({ contentType: registry.contentType, body: await registry.metrics() });
}
