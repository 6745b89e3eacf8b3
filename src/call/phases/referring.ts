import type { CallEvent, SipFailure } from "../event.ts";
import { judge } from "../outcome.ts";
import type { CallCore, In, OpenTransfer } from "../state.ts";
import { after, publish, type Step } from "../step.ts";
import { startDialling } from "./hunt.ts";
import { endCall } from "./ending.ts";
import { reportTransfer } from "./report.ts";
import { finishTransfer } from "./transfer-end.ts";

type Referring = In<"referring">;

const silence = "no NOTIFY in time";

export function startReferring(core: CallCore, transfer: OpenTransfer): Step {
  const { request } = transfer;
  return [
    { phase: "referring", core, transfer, accepted: false },
    [
      { type: "media.phase", phase: "dialling" },
      { type: "media.ringback", on: true },
      { type: "leg.refer", leg: core.setup.caller, request },
      { type: "timer.start", timer: "refer", ms: request.answerTimeoutMs },
    ],
  ];
}

export function referring(state: Referring, event: CallEvent, atMs: number): Step {
  switch (event.type) {
    case "refer.progress":
      // Every NOTIFY renews the wait (bot-contract §6).
      return [
        { ...state, accepted: true },
        [{ type: "timer.start", timer: "refer", ms: state.transfer.request.answerTimeoutMs }],
      ];
    case "refer.done":
      if (event.status !== null && event.status >= 200 && event.status < 300) return left(state, event, atMs);
      return referFailed(state, event, atMs);
    case "timer.fired":
      if (event.timer !== "refer") return [state, []];
      return referFailed(state, { status: null, reason: silence, q850: null, redirect: null }, atMs);
    default:
      return [state, []];
  }
}

/** The transferee has reached the target: the call has left us. RFC 5589 §6. */
function left(state: Referring, { status, reason }: SipFailure, atMs: number): Step {
  const told = reportTransfer(state, {
    status: "SUCCESS",
    hangup: true,
    cause: "completed",
    endedBy: null,
    atMs,
    sipCode: status,
    sipReason: reason,
  });
  const bot: In<"withBot"> = { phase: "withBot", core: state.core };
  return after(
    [{ type: "timer.stop", timer: "refer" }, told],
    endCall(bot, { by: "service", sipCode: status, reason: "transferred" }, atMs),
  );
}

/** Refused or failed: the caller is still ours; the target is called by INVITE where the trunk allows it. RFC 3515 §2.4. */
function referFailed(state: Referring, failure: SipFailure, atMs: number): Step {
  const { core, transfer } = state;
  if (failure.refused === true) {
    return finishTransfer(
      state,
      { status: "FAIL", cause: "rejected", endedBy: "service", sipReason: failure.reason, stays: true },
      atMs,
    );
  }
  if (transfer.request.referFallback) {
    const message = `The caller's side did not follow the REFER (${told(failure)}); the target is called by INVITE.`;
    const { commandId } = transfer.request;
    return after(
      [
        { type: "timer.stop", timer: "refer" },
        ...(isPassing(state, failure) ? [] : ([{ type: "trunk.withoutRefer", trunk: core.setup.trunk }] as const)),
        publish({ event: "warning", commandId, code: "refer_failed", message, pointer: null }),
      ],
      startDialling(core, transfer),
    );
  }
  const cause = state.accepted ? (failure.status === null ? "no_answer" : judge(failure, true).cause) : "refer_refused";
  const { status, reason, q850 } = failure;
  return finishTransfer(
    state,
    { status: "FAIL", cause, endedBy: "operator", sipCode: status, sipReason: reason, q850, stays: true },
    atMs,
  );
}

/** A failure that says nothing about the trunk: a fault on our side, a dialog that is gone, an answer for the moment only. */
function isPassing({ accepted }: Referring, { status, reason }: SipFailure): boolean {
  if (accepted || reason === silence) return false;
  return status === null || status === 481 || status === 491 || status === 500 || status === 503 || status === 504;
}

function told({ status, reason }: SipFailure): string {
  return [status, reason].filter((part) => part !== null && part !== "").join(" ") || "no answer";
}
