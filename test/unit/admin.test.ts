import { afterEach, expect, test } from "vitest";
import { AdminServer } from "../../src/admin/http.ts";
import { createMetrics } from "../../src/telemetry/metrics.ts";

let server: AdminServer | undefined;
afterEach(async () => server?.close());

test("/livez lives, /readyz tells which part is missing, /metrics counts", async () => {
  const parts = { redis: true, media: false };
  const metrics = createMetrics({
    phases: () => new Map([["withBot", 2]]),
    gateways: () => new Map([["g-1", "down"]]),
    registrations: () => new Map([["t", "registered"]]),
  });
  metrics.transfers.inc({ status: "FAIL", cause: "busy" });
  const trunks = { t: { registration: "failing", gateways: { "g-1": "down" } } };
  server = new AdminServer({
    address: "127.0.0.1",
    port: 0,
    ready: () => parts,
    trunks: () => trunks,
    metrics: () => metrics.render(),
  });
  const base = `http://127.0.0.1:${await server.start()}`;
  expect((await fetch(`${base}/livez`)).status).toBe(200);
  const notReady = await fetch(`${base}/readyz`);
  expect(notReady.status).toBe(503);
  expect(await notReady.json()).toEqual({ ready: false, parts: { redis: true, media: false }, trunks });
  parts.media = true;
  expect((await fetch(`${base}/readyz`)).status).toBe(200);
  const page = await (await fetch(`${base}/metrics`)).text();
  expect(page).toContain('patchbay_transfers_total{status="FAIL",cause="busy"} 1');
  expect(page).toContain('patchbay_calls{phase="withBot"} 2');
  expect(page).toContain('patchbay_gateways{gateway="g-1",state="down"} 1');
  expect(page).toContain('patchbay_registrations{trunk="t",state="registered"} 1');
  expect((await fetch(`${base}/other`)).status).toBe(404);
  expect((await fetch(`${base}/livez`, { method: "POST" })).status).toBe(405);
});
