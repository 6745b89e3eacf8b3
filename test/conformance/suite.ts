import { writeFileSync } from "node:fs";
import { afterAll, describe, test } from "vitest";

import { Closings } from "../integration/engine-support.ts";
import type { Observed } from "./case.ts";
import { expected } from "./case.ts";
import { cases } from "./cases/index.ts";
import { type Personality, World } from "./world.ts";

/** What became of one case on one server, as `npm run conformance` prints it. */
export interface Verdict {
  readonly id: string;
  readonly title: string;
  readonly state: "passed" | "failed" | "skipped";
  readonly reason?: string;
}

export interface Verdicts {
  readonly personality: Personality;
  readonly version: string;
  readonly verdicts: readonly Verdict[];
}

/** The folder that `npm run conformance` reads the verdicts from. */
const reportFolder = process.env["PATCHBAY_CONFORMANCE_REPORT"];

/** Every case of the suite as a test on a server of that personality. */
export function conformance(personality: Personality): void {
  const verdicts = new Map<string, Verdict>();
  let version = "";

  describe.concurrent(`on ${personality}`, () => {
    for (const one of cases) {
      const { id, title } = one;
      const reason = one.skipped ?? (one.slow === true && reportFolder === undefined ? "slow" : undefined);
      const verdict = (state: Verdict["state"], why?: string): void => {
        verdicts.set(id, { id, title, state, ...(why === undefined ? {} : { reason: why }) });
      };
      if (reason !== undefined) {
        verdict("skipped", reason);
        continue;
      }
      test(`${id} ${title}`, { timeout: 150_000 }, async ({ expect: check }) => {
        verdict("failed", "it did not come to an end");
        const closings = new Closings();
        let observed: Observed | undefined;
        try {
          const world = await World.open(personality, closings, one.t1Ms);
          version ||= (await world.connecting()).version;
          observed = await one.run(world);
          check(world.server.alive(), "the server has ended").toBe(true);
          check(observed).toEqual(expected(one, personality));
          verdict("passed");
        } catch (error) {
          verdict("failed", observed === undefined ? String(error) : `saw ${JSON.stringify(observed)}`);
          throw error;
        } finally {
          await closings.closeAll(`${personality} ${id} ${title}`);
        }
      });
    }
  });

  afterAll(() => {
    if (reportFolder === undefined) return;
    const report: Verdicts = { personality, version, verdicts: [...verdicts.values()] };
    writeFileSync(`${reportFolder}/${personality}.json`, JSON.stringify(report));
  });
}
