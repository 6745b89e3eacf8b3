// What /readyz says of a trunk, from what is known of its gateways and its registration.
import { describe, expect, test } from "vitest";
import { serviceState, type ServiceParts } from "../../src/service-state.ts";
import type { RegistrationState } from "../../src/sip/registration.ts";
import type { GatewayState } from "../../src/trunk/gateway-health.ts";

interface Known {
  readonly gateways: Readonly<Record<string, GatewayState>>;
  readonly registration?: RegistrationState;
}

/** The parts of a service with one trunk, as far as they are asked. */
function parts(
  { gateways, registration }: Known,
  { connected = true, draining = false, redisUp = false, rtpengine = true, freeswitch = true } = {},
): ServiceParts {
  return {
    config: { sip: { engine: "separate" } },
    table: { trunks: () => [{ id: "t", maxCalls: 30, gateways: Object.keys(gateways).map((id) => ({ id })) }] },
    health: { state: (id: string) => gateways[id] },
    link: { ready: () => redisUp, lagMs: () => 1_500, stats: () => ({ queued: 3 }) },
    sip: {
      connected: () => connected,
      ready: () => connected && !draining,
      draining,
      registrations: () => new Map(registration === undefined ? [] : [["t", registration]]),
      legsByTrunk: () => new Map([["t", 2]]),
    },
    media: {
      ready: () => ({ rtpengine, freeswitch }),
      anchors: () => [{ name: "m:1", healthy: false, calls: 1 }],
    },
  } as unknown as ServiceParts;
}

describe("a trunk is", () => {
  test.each<[string, Known, string]>([
    ["up with gateways that are", { gateways: { a: "up", b: "up" } }, "up"],
    ["up without gateways: there is nothing to be down", { gateways: {} }, "up"],
    ["degraded with one that rests", { gateways: { a: "up", b: "resting" } }, "degraded"],
    ["down when none is up", { gateways: { a: "down", b: "resting" } }, "down"],
    ["up while it is registered", { gateways: { a: "up" }, registration: "registered" }, "up"],
    ["up while it registers for the first time", { gateways: { a: "up" }, registration: "registering" }, "up"],
    ["down when its registration fails", { gateways: { a: "up" }, registration: "failing" }, "down"],
    ["down when it is refused", { gateways: { a: "up" }, registration: "refused" }, "down"],
  ])("%s", (_what, known, state) => {
    const { registration, gateways } = known;
    expect(serviceState(parts(known)).trunks).toEqual({
      t: { state, legs: 2, legsMax: 30, gateways, ...(registration === undefined ? {} : { registration }) },
    });
  });
});

test("the engine is up while it drains, but the part takes no calls", () => {
  const state = serviceState(parts({ gateways: {} }, { draining: true }));
  expect(state).toMatchObject({ draining: true, engine: { kind: "separate", state: "up" }, parts: { engine: false } });
  expect(serviceState(parts({ gateways: {} }, { connected: false })).engine.state).toBe("down");
});

test("Redis and the media servers are told with what waits and what they hold", () => {
  expect(serviceState(parts({ gateways: {} }))).toMatchObject({
    parts: { redis: false, media: true },
    redis: { state: "down", queuedEvents: 3, lagMs: 1_500 },
    media: { rtpengine: "up", freeswitch: "up" },
    anchors: { "m:1": { state: "down", calls: 1 } },
  });
});

test("one kind of media server that is down is told by its name, and the calls of the other may come", () => {
  const one = serviceState(parts({ gateways: {} }, { redisUp: true, freeswitch: false }));
  expect(one).toMatchObject({ ready: true, parts: { media: false }, media: { rtpengine: "up", freeswitch: "down" } });
  const none = serviceState(parts({ gateways: {} }, { redisUp: true, freeswitch: false, rtpengine: false }));
  expect(none).toMatchObject({ ready: false, parts: { redis: true, engine: true, media: false } });
});

test.each([
  ["all is there", {}, true],
  ["Redis is away", { redisUp: false }, false],
  ["the engine is away", { connected: false }, false],
  ["the service drains", { draining: true }, false],
])("new calls can be served: %s", (_what, change, ready) => {
  expect(serviceState(parts({ gateways: {} }, { redisUp: true, ...change })).ready).toBe(ready);
});
