import type { Effect } from "../effect.ts";
import type { CallEvent } from "../event.ts";
import type { Attempt, In, Live, OpenTransfer, PassingOperator } from "../state.ts";
import { type ChannelPolicy, usualPasses } from "../setup.ts";
import { after, type Step } from "../step.ts";
import type { LegEnd } from "./dialling.ts";
import { gatewayOf, gatewaysFrom, partyAt, startDialling } from "./hunt.ts";
import { silenceRing, stopTimers, tellPassing, withoutTones } from "./release.ts";
import { attemptRecord, transferTimes } from "./report.ts";
import { progress } from "./transfer-end.ts";
import { talkTimer } from "./with-operator.ts";

// An operator passes the caller on: whom he names is called like any other target of the same transfer, and he is kept
// until that one has answered, because a caller must not be lost to a wrong number.

/** Whether operators may still pass this caller on: a caller who is sent round in a circle must stop somewhere. */
export function mayPass({ passes }: OpenTransfer, { operatorRefer, mostPasses = usualPasses }: ChannelPolicy): boolean {
  return operatorRefer === "accept" && passes < mostPasses;
}

/** His REFER: 202 where the channel lets him and he talks to the caller, else 603. RFC 3515 §2.4.2. */
export function passOn(state: Live, event: Extract<CallEvent, { type: "leg.referred" }>, atMs: number): Step {
  const { policy } = state.core.setup;
  const { leg, target, number, headers } = event;
  if (
    state.phase !== "withOperator" ||
    state.attempt.leg !== leg ||
    state.joinedAtMs === null ||
    !mayPass(state.transfer, policy)
  ) {
    return [state, [{ type: "refer.answer", leg, status: 603 }]];
  }
  const { core, transfer, attempt, answeredAtMs, joinedAtMs, recordingPaused } = state;
  // Keys for an extension belong to the number the bot gave.
  const { dtmf: _, ...request } = transfer.request;
  const party = partyAt(transfer, attempt.party);
  // Of the last REFER nothing is passed on: its Replaces names a dialog that is over.
  const own = transfer.talk?.headers ?? party.headers;
  const his = attemptRecord(transfer, attempt, answeredAtMs, "completed", 200);
  const { ringMs, answerMs } = transferTimes(state, atMs);
  const next: OpenTransfer = {
    ...transfer,
    // What the bot wanted of the talk holds for the next one too; whom to call is the operator's choice alone.
    request: {
      ...request,
      method: "invite",
      target,
      number,
      headers: [...own, ...headers],
      // His own gateway first: it lives, and a dialog that he names may be known to it alone.
      route: { ...request.route, gateways: gatewaysFrom(request.route.gateways, gatewayOf(request, attempt)) },
      others: [],
      strategy: "serial",
      confirm: null,
      duringRing: [],
    },
    firstInviteAtMs: null,
    called: 0,
    attempts: his === null ? transfer.attempts : [...transfer.attempts, his],
    ringPrompts: [],
    passes: transfer.passes + 1,
    talk: transfer.talk ?? { number: party.number, headers: own, ringMs, answerMs, joinedAtMs },
  };
  const passing: PassingOperator = {
    attempt,
    answeredAtMs,
    joinedAtMs,
    recordingPaused,
    transfer,
    here: true,
  };
  const first: readonly Effect[] = [
    { type: "refer.answer", leg, status: 202 },
    ...stopTimers(state),
    ...(core.playing?.leg === leg ? ([{ type: "media.stop", leg }] as const) : []),
    { type: "media.aside", leg, on: true },
  ];
  return after(first, startDialling(withoutTones(core), next, passing));
}

/** What comes from the operator who waits. */
export function ofPassing(state: In<"dialling">, passing: PassingOperator, event: CallEvent): Step {
  const { leg } = passing.attempt;
  const gone: In<"dialling"> = { ...state, passing: { ...passing, here: false } };
  switch (event.type) {
    // RFC 5589 §6: he may hang up as soon as his REFER is accepted; the caller is on his way.
    case "leg.ended":
      return [gone, [{ type: "media.drop", leg }]];
    case "media.legFailed":
      return [
        gone,
        [
          ...tellPassing(state, { status: 500, reason: "Media Failure", last: true }),
          { type: "leg.bye", leg, reason: "media failed", headers: [] },
          { type: "media.drop", leg },
        ],
      ];
    default:
      return [state, []];
  }
}

/** Nobody else took the caller: the operator has him again. */
export function backToOperator(
  state: In<"dialling">,
  passing: PassingOperator,
  attempt: Attempt,
  end: LegEnd,
  atMs: number,
): Step {
  const { leg } = passing.attempt;
  const { core, effects: silenced } = silenceRing(state);
  const { begun, attempts, passes } = state.transfer;
  const record = attemptRecord(state.transfer, attempt, atMs, end.cause, end.sipCode ?? null);
  // His own line in the ledger is written when his talk is over.
  const since = [...attempts.slice(passing.transfer.attempts.length + 1), ...(record === null ? [] : [record])];
  const before = passing.transfer;
  const transfer: OpenTransfer = { ...before, begun, passes, attempts: [...before.attempts, ...since] };
  const { answeredAtMs, joinedAtMs, recordingPaused } = passing;
  // RFC 3515 §2.4.5: a final status must be told, also where no response came.
  const status = end.sipCode ?? (end.cause === "no_answer" ? 408 : 503);
  return [
    {
      phase: "withOperator",
      core,
      transfer,
      // He is listened for anew, and has talked whatever comes of that.
      attempt: { ...passing.attempt, talkedBefore: true },
      answeredAtMs,
      joinedAtMs,
      reinvited: false,
      recordingPaused,
    },
    [
      ...end.first,
      ...stopTimers(state),
      ...silenced,
      { type: "media.ringback", on: false },
      { type: "media.drop", leg: attempt.leg },
      { type: "media.aside", leg, on: false },
      { type: "media.phase", phase: "operator" },
      ...talkTimer(transfer, joinedAtMs, atMs),
      ...tellPassing(state, { status, reason: end.sipReason ?? null, last: true }),
      progress(transfer, passing.attempt, "bridged", 200, atMs),
    ],
  ];
}
