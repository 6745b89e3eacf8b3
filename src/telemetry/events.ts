import type { Log } from "./log.ts";
import type { Metrics } from "./metrics.ts";

/** Business events: each has one call site, and writes its log line and its counters together. */
export interface Telemetry {
  callStarted(call: string, facts: { botId: string; trunk: string; caller: string; called: string }): void;
  /** An INVITE was not let in; `status` is one of those that the door knows. */
  callRefused(status: number): void;
  callEnded(call: string, facts: { by: string; reason: string | null; durationMs: number }): void;
  phaseChanged(call: string, from: string, to: string): void;
  transferEnded(call: string, facts: TransferFacts): void;
  /** The bot was silent for too long: the channel's fallback has the call. */
  botLost(call: string): void;
  commandRejected(call: string, code: string, pointer: string | null): void;
  recordingChanged(call: string, state: string, reason: string | null): void;
  /** A finished recording was converted or uploaded, or a try at it has failed. Its log line is the media side's. */
  recordingDelivered(step: "convert" | "upload", result: "done" | "failed"): void;
  /** A gateway does not answer any more, or does so again. */
  gatewayChanged(gateway: string, state: "up" | "down"): void;
  inboxOverflowed(call: string): void;
  effectFailed(call: string, effect: string, error: unknown): void;
  eventFailed(call: string, event: string, error: unknown): void;
}

export interface TransferFacts {
  readonly transferId: string;
  readonly status: string;
  readonly cause: string;
  readonly sipCode: number | null;
  readonly ringMs: number | null;
  readonly talkMs: number | null;
}

export function createTelemetry(log: Log, metrics: Metrics): Telemetry {
  return {
    callStarted(call, facts) {
      metrics.callsStarted.inc();
      log.info({ call, ...facts }, "call started");
    },
    callRefused(status) {
      metrics.callsRefused.inc({ status: String(status) });
    },
    callEnded(call, facts) {
      metrics.callsEnded.inc({ by: facts.by });
      if (facts.durationMs > 0) metrics.callSeconds.observe(facts.durationMs / 1000);
      log.info({ call, ...facts }, "call ended");
    },
    phaseChanged(call, before, after) {
      log.debug({ call, before, after }, "phase changed");
    },
    transferEnded(call, facts) {
      metrics.transfers.inc({ status: facts.status, cause: facts.cause });
      if (facts.ringMs !== null) metrics.ringSeconds.observe(facts.ringMs / 1000);
      if (facts.talkMs !== null) metrics.talkSeconds.observe(facts.talkMs / 1000);
      log.info({ call, ...facts }, "transfer ended");
    },
    botLost(call) {
      metrics.fallbacks.inc();
      log.warn({ call }, "the bot was silent for too long, the fallback has the call");
    },
    commandRejected(call, code, pointer) {
      metrics.commandsRejected.inc({ code });
      log.info({ call, code, pointer }, "command rejected");
    },
    recordingChanged(call, state, reason) {
      metrics.recordings.inc({ state });
      log[state === "failed" ? "warn" : "info"]({ call, state, reason }, "recording changed");
    },
    recordingDelivered(step, result) {
      metrics.deliveries.inc({ step, result });
    },
    gatewayChanged(gateway, state) {
      metrics.gatewayChanges.inc({ gateway, state });
      log[state === "down" ? "warn" : "info"]({ gateway }, state === "down" ? "a gateway is down" : "a gateway is up");
    },
    inboxOverflowed(call) {
      metrics.inboxOverflows.inc();
      log.error({ call }, "too many events wait: the call is ended");
    },
    effectFailed(call, effect, error) {
      log.error({ call, effect, err: error }, "an adapter threw: the call is ended");
    },
    eventFailed(call, event, error) {
      log.error({ call, event, err: error }, "the call core threw: the call is ended");
    },
  };
}
