import { fileURLToPath } from "node:url";

import { afterEach, beforeEach, describe, expect, it } from "vitest";

import { claimPort } from "../support/ports.ts";
import { expectSuccess, runSipp, Sipp } from "../support/sipp.ts";
import type { SrfInstance, SrfMessage, TestEngine } from "./engine-support.ts";
import { Closings, failure, sdp, startTestEngine } from "./engine-support.ts";

const closings = new Closings();
let sip: TestEngine;
let srf: SrfInstance;

const scenario = (name: string): string => fileURLToPath(new URL(`sipp/engine/${name}.xml`, import.meta.url));

beforeEach(async () => {
  // SIPp takes no answer by its CSeq, and some repetitions for unexpected: on a slow machine nothing is to be repeated.
  sip = await startTestEngine(closings, { t1Ms: 250 });
  srf = await sip.connect();
});

afterEach(async () => {
  await closings.closeAll();
});

function ringAndAnswer(): { readonly ended: string[]; readonly failed: unknown[] } {
  const ended: string[] = [];
  const failed: unknown[] = [];
  srf.invite((req, res) => {
    res.send(180);
    srf.createUAS(req, res, { localSdp: sdp(5000) }).then(
      (dialog) => {
        dialog.on("destroy", (bye: SrfMessage) => ended.push(bye.get("Call-ID")));
      },
      (error: unknown) => failed.push(error),
    );
  });
  return { ended, failed };
}

describe("SIPp as the peer", () => {
  it.each(["udp", "tcp"] as const)(
    "calls in over %s: 180, 200, INFO, re-INVITE, BYE, fifty times",
    async (protocol) => {
      const { ended, failed } = ringAndAnswer();
      await expect.poll(() => sip.engine.stats().wire.routes).toBe(1);
      const result = await runSipp({
        scenario: scenario("caller"),
        target: `127.0.0.1:${sip.port}`,
        protocol,
        calls: 50,
        callsPerSecond: 25,
      });
      expectSuccess(result);
      expect(failed).toEqual([]);
      await expect.poll(() => new Set(ended).size).toBe(50);
    },
  );

  it("hangs up while it rings, twenty times", async () => {
    const cancelled: string[] = [];
    srf.invite((req, res) => {
      req.on("cancel", (cancel: SrfMessage) => cancelled.push(cancel.get("Call-ID")));
      res.send(180);
    });
    await expect.poll(() => sip.engine.stats().wire.routes).toBe(1);
    const result = await runSipp({
      scenario: scenario("cancelling-caller"),
      target: `127.0.0.1:${sip.port}`,
      calls: 20,
      callsPerSecond: 20,
    });
    expectSuccess(result);
    expect(new Set(cancelled).size).toBe(20);
  });

  it.each(["udp", "tcp"] as const)("is called over %s and hung up on, twenty times at once", async (protocol) => {
    await using sipp = await Sipp.start({ scenario: scenario("callee"), calls: 20, protocol });
    await Promise.all(
      Array.from({ length: 20 }, async (_value, index) => {
        const uri = `sip:${index}@127.0.0.1:${sipp.port};transport=${protocol}`;
        const dialog = await srf.createUAC(uri, { localSdp: sdp(5000) });
        await dialog.destroy();
      }),
    );
    expectSuccess(await sipp.finished());
  });

  it("is not there at all", async () => {
    await using nobody = await claimPort();
    const quick = await startTestEngine(closings);
    const app = await quick.connect();
    const error = await failure(app.createUAC(`sip:x@127.0.0.1:${nobody.port}`, { localSdp: sdp(5000) }));
    expect(error.status).toBe(503);
  });
});
