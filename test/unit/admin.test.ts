import { afterEach, expect, test } from "vitest";
import { AdminServer } from "../../src/admin/http.ts";
import { sourcesAtRest } from "../../scripts/metrics-table.ts";
import { createMetrics } from "../../src/telemetry/metrics.ts";
import type { ServiceState } from "../../src/telemetry/service-state.ts";

let server: AdminServer | undefined;
afterEach(async () => server?.close());

test("/livez lives, /readyz tells which part is missing, /metrics counts", async () => {
  const state = { ready: false, parts: { redis: true, media: false } };
  const trunks: ServiceState["trunks"] = {
    t: { state: "down", registration: "registered", legs: 3, legsMax: 30, gateways: { "g-1": "down" } },
  };
  const metrics = createMetrics({
    ...sourcesAtRest,
    phases: () => ({ withBot: 2 }),
    state: () => ({ ...sourcesAtRest.state(), trunks }),
  });
  metrics.transfers.inc({ status: "FAIL", cause: "busy" });
  server = new AdminServer({
    address: "127.0.0.1",
    port: 0,
    state: () => ({ ...state, trunks }),
    metrics: () => metrics.render(),
  });
  const base = `http://127.0.0.1:${await server.start()}`;
  expect((await fetch(`${base}/livez`)).status).toBe(200);
  const notReady = await fetch(`${base}/readyz`);
  expect(notReady.status).toBe(503);
  expect(await notReady.json()).toEqual({ ...state, trunks });
  state.ready = true;
  expect((await fetch(`${base}/readyz`)).status).toBe(200);
  const page = await (await fetch(`${base}/metrics`)).text();
  expect(page).toContain('patchbay_transfers_total{status="FAIL",cause="busy"} 1');
  expect(page).toContain('patchbay_calls{phase="withBot"} 2');
  expect(page).toContain('patchbay_gateway_state{trunk="t",gateway="g-1",state="down"} 1');
  expect(page).toContain('patchbay_gateway_state{trunk="t",gateway="g-1",state="up"} 0');
  expect(page).toContain('patchbay_registration_state{trunk="t",state="registered"} 1');
  expect(page).toContain('patchbay_trunk_state{trunk="t",state="down"} 1');
  expect(page).toContain('patchbay_trunk_legs{trunk="t"} 3');
  expect(page).toContain('patchbay_recordings_total{state="failed"} 0');
  expect((await fetch(`${base}/other`)).status).toBe(404);
  expect((await fetch(`${base}/livez`, { method: "POST" })).status).toBe(405);
});
