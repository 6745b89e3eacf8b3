import type { TransferCause } from "../bot-event.ts";
import type { Effect } from "../effect.ts";
import type { CallEvent, SipFailure } from "../event.ts";
import type { GatewayId, LegId } from "../ids.ts";
import { judge } from "../outcome.ts";
import type { Attempt, CallCore, In, OpenTransfer } from "../state.ts";
import { after, type Step } from "../step.ts";
import { attemptRecord } from "./report.ts";
import { finishTransfer, progress } from "./transfer-end.ts";

type Dialling = In<"dialling">;

/** Makes a leg for the next attempt; its INVITE goes out once the anchor has an offer for it. */
export function startAttempt(core: CallCore, transfer: OpenTransfer): Step {
  const operators = core.operators + 1;
  const leg = `${core.setup.call}/operator-${operators}` as LegId;
  const attempt: Attempt = { leg, invitedAtMs: null, ringingAtMs: null, lastStatus: null };
  return [{ phase: "dialling", core: { ...core, operators }, transfer, attempt }, [{ type: "media.offer", leg }]];
}

/** The caller hears ringing from here on, whatever the gateways do. */
export function startDialling(core: CallCore, transfer: OpenTransfer): Step {
  return after(
    [
      { type: "media.phase", phase: "dialling" },
      { type: "media.ringback", on: true },
    ],
    startAttempt(core, transfer),
  );
}

export function dialling(state: Dialling, event: CallEvent, atMs: number): Step {
  const { attempt } = state;
  switch (event.type) {
    case "media.offered":
      return event.leg === attempt.leg && attempt.invitedAtMs === null ? sendInvite(state, event, atMs) : [state, []];
    case "media.legFailed":
      if (event.leg !== attempt.leg) return [state, []];
      return finishTransfer(
        state,
        { status: "FAIL", cause: "media_failure", endedBy: "service", first: cancelAttempt(state, "media failed") },
        atMs,
      );
    case "leg.progress":
      return event.leg === attempt.leg ? provisional(state, event, atMs) : [state, []];
    case "leg.answered":
      return answered(state, event, atMs);
    case "leg.failed":
      return event.leg === attempt.leg ? attemptFailed(state, event, atMs) : [state, []];
    case "leg.ended":
      if (event.leg !== attempt.leg) return [state, []];
      return attemptFailed(state, { ...event, redirect: null }, atMs);
    case "timer.fired":
      return timeUp(state, event.timer, atMs);
    default:
      return [state, []];
  }
}

function sendInvite(state: Dialling, event: Extract<CallEvent, { type: "media.offered" }>, atMs: number): Step {
  const { transfer, attempt } = state;
  const { request } = transfer;
  const first = transfer.firstInviteAtMs === null;
  const next: Dialling = {
    ...state,
    transfer: { ...transfer, firstInviteAtMs: transfer.firstInviteAtMs ?? atMs },
    attempt: { ...attempt, invitedAtMs: atMs },
  };
  return [
    next,
    [
      {
        type: "leg.invite",
        order: {
          leg: attempt.leg,
          target: transfer.target,
          trunk: request.route.trunk,
          gateway: gatewayAt(transfer),
          identity: transfer.identity,
          headers: request.headers,
          offer: event.offer,
        },
      },
      ...(first ? ([{ type: "timer.start", timer: "answer", ms: request.answerTimeoutMs }] as const) : []),
      { type: "timer.start", timer: "progress", ms: request.route.progressTimeoutMs },
      progress(next, "dialing", null, atMs),
    ],
  ];
}

function gatewayAt({ request, gateway }: OpenTransfer): GatewayId {
  const { gateways } = request.route;
  return gateways[gateway] ?? gateways[0];
}

function provisional(state: Dialling, event: Extract<CallEvent, { type: "leg.progress" }>, atMs: number): Step {
  const { status, earlyMedia } = event;
  // RFC 3261 §21.1: 100 says only that the next hop lives, 18x that the operator is being reached.
  if (status < 180 || status > 189) return [state, []];
  const { attempt } = state;
  const next: Dialling = {
    ...state,
    attempt: { ...attempt, ringingAtMs: attempt.ringingAtMs ?? atMs, lastStatus: status },
  };
  const stop: Effect[] = attempt.ringingAtMs === null ? [{ type: "timer.stop", timer: "progress" }] : [];
  if (attempt.lastStatus === status) return [next, stop];
  return [next, [...stop, progress(next, earlyMedia ? "earlyMedia" : "ringing", status, atMs)]];
}

function answered(state: Dialling, event: Extract<CallEvent, { type: "leg.answered" }>, atMs: number): Step {
  const { core, transfer, attempt } = state;
  const paused = !transfer.request.continueRecording && core.recording === "on";
  const next: In<"withOperator"> = {
    phase: "withOperator",
    core: paused ? { ...core, recording: "paused" } : core,
    transfer,
    attempt,
    answeredAtMs: atMs,
    joinedAtMs: null,
    recordingPaused: paused,
  };
  return [
    next,
    [
      { type: "timer.stop", timer: "answer" },
      { type: "timer.stop", timer: "progress" },
      { type: "media.ringback", on: false },
      // Before the join, so that not a word of the operator is recorded.
      ...(paused ? ([{ type: "recording.set", to: "pause" }] as const) : []),
      { type: "media.join", leg: attempt.leg, answer: event.answer },
      progress(next, "answered", 200, atMs),
    ],
  ];
}

function attemptFailed(state: Dialling, failure: SipFailure, atMs: number): Step {
  const { transfer, attempt } = state;
  const { cause, next } = judge(failure, attempt.ringingAtMs !== null);
  const told = cause === "callerid_rejected" && transfer.request.route.identity !== "caller" ? "rejected" : cause;
  const retry = retryOf(transfer, next, failure);
  if (retry !== null) return tryAgain(state, retry, told, failure.status, atMs);
  return finishTransfer(
    state,
    {
      status: "FAIL",
      cause: told,
      endedBy: "operator",
      sipCode: failure.status,
      sipReason: failure.reason,
      q850: failure.q850,
    },
    atMs,
  );
}

/** What changes for the next attempt, or null when there is none. */
function retryOf(
  transfer: OpenTransfer,
  next: ReturnType<typeof judge>["next"],
  failure: Pick<SipFailure, "redirect">,
): Partial<OpenTransfer> | null {
  const { route } = transfer.request;
  switch (next) {
    case "gateway": {
      // Where a 3xx pointed belonged to the gateway that sent it; the next one is asked for whom the bot wants.
      const { target } = transfer.request;
      if (target.kind === "uri" && route.sipUriVia === "direct") return null;
      return transfer.gateway + 1 < route.gateways.length ? { gateway: transfer.gateway + 1, target } : null;
    }
    case "identity":
      return transfer.identity === "caller" && route.retryWithBotNumber ? { identity: "bot" } : null;
    case "redirect":
      if (transfer.redirected || failure.redirect === null) return null;
      return { redirected: true, target: { kind: "uri", uri: failure.redirect } };
    case "nothing":
      return null;
  }
}

function tryAgain(
  state: Dialling,
  changes: Partial<OpenTransfer>,
  cause: TransferCause,
  sipCode: number | null,
  atMs: number,
  first: readonly Effect[] = [],
): Step {
  const record = attemptRecord(state, atMs, cause, sipCode);
  const attempts = record === null ? state.transfer.attempts : [...state.transfer.attempts, record];
  return after(
    [...first, { type: "timer.stop", timer: "progress" }, { type: "media.drop", leg: state.attempt.leg }],
    startAttempt(state.core, { ...state.transfer, ...changes, attempts }),
  );
}

function cancelAttempt({ attempt }: Dialling, reason: string): Effect[] {
  return attempt.invitedAtMs === null ? [] : [{ type: "leg.cancel", leg: attempt.leg, reason }];
}

function timeUp(state: Dialling, timer: string, atMs: number): Step {
  const rang = state.attempt.ringingAtMs !== null;
  if (timer === "answer") {
    const cause = rang ? "no_answer" : "unreachable";
    return finishTransfer(
      state,
      { status: "FAIL", cause, endedBy: "service", first: cancelAttempt(state, "no answer in time") },
      atMs,
    );
  }
  if (timer !== "progress" || rang || state.attempt.invitedAtMs === null) return [state, []];
  const first = cancelAttempt(state, "no progress in time");
  const retry = retryOf(state.transfer, "gateway", { redirect: null });
  if (retry !== null) return tryAgain(state, retry, "unreachable", null, atMs, first);
  return finishTransfer(state, { status: "FAIL", cause: "unreachable", endedBy: "service", first }, atMs);
}

/** The bot takes back a transfer that nobody has answered; the caller stays with it. */
export function cancelTransfer(state: Dialling | In<"referring">, atMs: number): Step {
  const first = state.phase === "dialling" ? cancelAttempt(state, "cancelled by the bot") : [];
  return finishTransfer(state, { status: "FAIL", cause: "cancelled", endedBy: "bot", first, stays: true }, atMs);
}
