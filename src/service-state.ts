import type { Phase } from "./call/state.ts";
import type { Config } from "./config/schema.ts";
import type { RedisBotLink } from "./bot/link.ts";
import type { AnchorChoice } from "./media/anchor-choice.ts";
import type { CallRegistry } from "./runtime/registry.ts";
import type { RegistrationState } from "./sip/registration.ts";
import type { SipSide } from "./sip/side.ts";
import type { ServiceState, TrunkState } from "./telemetry/service-state.ts";
import type { GatewayHealth, GatewayState } from "./trunk/gateway-health.ts";
import type { TrunkTable } from "./trunk/table.ts";

export interface ServiceParts {
  readonly config: Config;
  readonly table: TrunkTable;
  readonly health: GatewayHealth;
  readonly link: RedisBotLink;
  readonly sip: SipSide;
  readonly media: AnchorChoice;
}

/** One snapshot of everything that `/readyz` and the gauges of `/metrics` tell. */
export function serviceState({ config, table, health, link, sip, media }: ServiceParts): ServiceState {
  const { queued } = link.stats();
  const registrations = sip.registrations();
  const legs = sip.legsByTrunk();
  const anchored = Object.entries(media.ready());
  return {
    ready: link.ready() && sip.ready() && anchored.some(([, ready]) => ready),
    parts: { redis: link.ready(), engine: sip.ready(), media: anchored.every(([, ready]) => ready) },
    draining: sip.draining,
    redis: { state: link.ready() ? "up" : "down", queuedEvents: queued, lagMs: link.lagMs() },
    engine: { kind: config.sip.engine, state: sip.connected() ? "up" : "down" },
    media: Object.fromEntries(anchored.map(([kind, ready]) => [kind, ready ? "up" : "down"])),
    anchors: Object.fromEntries(
      media.anchors().map(({ name, healthy, calls }) => [name, { state: healthy ? "up" : "down", calls }]),
    ),
    trunks: Object.fromEntries(
      table.trunks().map(({ id, gateways, maxCalls }) => {
        const states = gateways.map((gateway) => [gateway.id, health.state(gateway.id)] as const);
        return [id, trunkState(states, registrations.get(id), legs.get(id) ?? 0, maxCalls)];
      }),
    ),
  };
}

function trunkState(
  gateways: readonly (readonly [string, GatewayState])[],
  registration: RegistrationState | undefined,
  legs: number,
  legsMax: number,
): TrunkState {
  const up = gateways.filter(([, state]) => state === "up").length;
  const unregistered = registration === "failing" || registration === "refused";
  const cut = unregistered || (gateways.length > 0 && up === 0);
  return {
    state: cut ? "down" : up < gateways.length ? "degraded" : "up",
    ...(registration === undefined ? {} : { registration }),
    legs,
    legsMax,
    gateways: Object.fromEntries(gateways),
  };
}

/** Every phase that a held call can be in, so that a graph shows the one where nobody is as 0. */
const noCalls: Readonly<Record<Exclude<Phase, "ended">, 0>> = {
  offered: 0,
  ringing: 0,
  answering: 0,
  withBot: 0,
  dialling: 0,
  withOperator: 0,
  referring: 0,
  ending: 0,
};

export function callsByPhase(registry: CallRegistry): Readonly<Record<string, number>> {
  return { ...noCalls, ...Object.fromEntries(registry.phases()) };
}
