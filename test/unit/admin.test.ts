import { afterEach, expect, test } from "vitest";
import { AdminServer } from "../../src/admin/http.ts";
import { createMetrics } from "../../src/telemetry/metrics.ts";

let server: AdminServer | undefined;
afterEach(async () => server?.close());

test("/livez lives, /readyz tells which part is missing, /metrics counts", async () => {
  const parts = { redis: true, media: false };
  const metrics = createMetrics(() => new Map([["withBot", 2]]));
  metrics.transfers.inc({ status: "FAIL", cause: "busy" });
  server = new AdminServer({ address: "127.0.0.1", port: 0, ready: () => parts, metrics: () => metrics.render() });
  const base = `http://127.0.0.1:${await server.start()}`;
  expect((await fetch(`${base}/livez`)).status).toBe(200);
  const notReady = await fetch(`${base}/readyz`);
  expect(notReady.status).toBe(503);
  expect(await notReady.json()).toEqual({ ready: false, parts: { redis: true, media: false } });
  parts.media = true;
  expect((await fetch(`${base}/readyz`)).status).toBe(200);
  const page = await (await fetch(`${base}/metrics`)).text();
  expect(page).toContain('patchbay_transfers_total{status="FAIL",cause="busy"} 1');
  expect(page).toContain('patchbay_calls{phase="withBot"} 2');
  expect((await fetch(`${base}/other`)).status).toBe(404);
  expect((await fetch(`${base}/livez`, { method: "POST" })).status).toBe(405);
});
