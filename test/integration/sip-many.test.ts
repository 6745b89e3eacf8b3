import { afterEach, expect, test } from "vitest";

import type { CallEvent } from "../../src/call/event.ts";
import type { CallId, LegId, Sdp } from "../../src/call/ids.ts";
import type { CallSetup } from "../../src/call/setup.ts";
import type { SipSide } from "../../src/sip/side.ts";
import { expectSuccess, runSipp, Sipp } from "../support/sipp.ts";
import { Closings, sdp } from "./engine-support.ts";
import { oneTrunk, order, startSide } from "./sip-support.ts";
import type { TestSide } from "./sip-support.ts";

const closings = new Closings();

afterEach(async () => {
  await closings.closeAll();
});

const calls = 100;

test("a hundred calls from SIPp to SIPp, callers and operators on both ends: none fails and nothing is left", async () => {
  await using operators = await Sipp.start({
    scenario: "test/integration/sipp/sip/operator.xml",
    calls,
    timeoutMs: 40_000,
    // On a machine that stands still an INVITE is repeated behind the operator's answers. SIPp takes that for unexpected and
    // would hang up; without this it goes on waiting for the ACK and the BYE, without which the call still fails.
    args: ["-default_behaviors", "all,-abortunexp"],
  });
  const setups = new Map<CallId, CallSetup>();
  const answered = new Set<LegId>();
  const operatorOf = (call: CallId): LegId => `${call}/operator-1` as LegId;
  const side = (): SipSide => started.side;
  const onEvent = (call: CallId, event: CallEvent): void => {
    const setup = setups.get(call);
    if (setup === undefined) {
      return;
    }
    if (event.type === "leg.confirmed") {
      side().invite(call, order(setup, { leg: operatorOf(call) }));
    } else if (event.type === "leg.answered") {
      answered.add(event.leg);
    } else if (event.type === "leg.ended" && event.leg === setup.caller) {
      side().bye(call, operatorOf(call), "caller hung up", []);
    }
  };
  const started: TestSide = await startSide(closings, oneTrunk(operators.port), {
    // SIPp takes some repetitions for unexpected: on a slow machine nothing is to be repeated.
    t1Ms: 500,
    onCall: (setup) => {
      setups.set(setup.call, setup);
      side().ring(setup.call, setup.caller);
      side().accept(setup.call, setup.caller, sdp(7000) as Sdp);
    },
    post: (call, event) => {
      onEvent(call, event);
      return true;
    },
  });
  const callers = await runSipp({
    scenario: "test/integration/sipp/sip/caller.xml",
    target: `127.0.0.1:${started.engine.port}`,
    service: "100",
    calls,
    callsPerSecond: 50,
    timeoutMs: 40_000,
  });
  expectSuccess(callers);
  expectSuccess(await operators.finished());
  expect(setups.size).toBe(calls);
  expect(answered.size).toBe(calls);
});
