// Contract test 26: fifty calls a second for two minutes through drachtio-srf and the embedded engine in one process.
// Growth in one run proves nothing, so the same load is repeated: what is left after each has to be nothing, and the heap
// after the last as large as after the second.
import { fileURLToPath } from "node:url";

import { expect, it } from "vitest";

import { ask } from "../../bench/columns.ts";
import { runLoad } from "../../bench/load.ts";
import type { Witnessed } from "../../bench/programs/witness.ts";
import { claimPort } from "../support/ports.ts";
import { RunningProcess } from "../support/process.ts";

const callsPerSecond = 50;
const secondsPerRound = 30;
const rounds = 4;
/** drachtio-srf gives its Dialogs away one turn after the answer; a BYE that comes sooner finds nobody listening. */
const holdMs = 200;
/** What the garbage collector may misjudge; a call that left a single object behind would leave more. */
const mostBytesPerCall = 100;

/** What the program counts that has to be nothing at rest. */
function leftIn({ own }: Witnessed): Readonly<Record<string, number>> {
  return Object.fromEntries(Object.entries(own).filter(([name, count]) => name.startsWith("left.") && count !== 0));
}

it("50 calls a second for two minutes leave no map, timer or socket behind, and the heap as it was", async () => {
  await using sip = await claimPort();
  await using callee = await claimPort();
  await using program = await RunningProcess.start({
    name: "srf-b2bua",
    command: "node",
    args: [
      "--expose-gc",
      "--import",
      "tsx",
      fileURLToPath(new URL("../../bench/programs/srf-b2bua.ts", import.meta.url)),
    ],
    env: {
      NODE_OPTIONS: "",
      BENCH_EMBEDDED: "1",
      BENCH_SIP_PORT: String(sip.port),
      BENCH_CALLEE_PORT: String(callee.port),
      BENCH_SECRET: "soak",
      // What waits for 64*T1 is gone after 6.4 s, so that every round ends with nothing.
      BENCH_T1_MS: "100",
    },
    ready: (child) => child.stdout.includes('{"type":"ready"}'),
    readyTimeoutMs: 60_000,
  });
  const atRest: Witnessed[] = [];
  const before = await ask(program);
  for (let round = 1; round <= rounds; round += 1) {
    const result = await runLoad(
      { target: sip.port, callee: callee.port, callsPerSecond, calls: callsPerSecond * secondsPerRound, holdMs },
      undefined,
    );
    expect(result).toMatchObject({ failed: 0, succeeded: callsPerSecond * secondsPerRound });
    await expect.poll(async () => leftIn(await ask(program)), { timeout: 30_000, interval: 500 }).toEqual({});
    atRest.push(await ask(program));
  }
  const sockets = ({ own }: Witnessed): Readonly<Record<string, number>> =>
    Object.fromEntries(Object.entries(own).filter(([name]) => name.startsWith("open.")));
  for (const one of atRest) {
    expect(one.own["failed"]).toBe(0);
    expect(sockets(one)).toEqual(sockets(before));
  }
  const [, second, , last] = atRest.map(({ heapUsed }) => heapUsed);
  const calls = 2 * callsPerSecond * secondsPerRound;
  expect(((last ?? Number.NaN) - (second ?? 0)) / calls).toBeLessThan(mostBytesPerCall);
});
