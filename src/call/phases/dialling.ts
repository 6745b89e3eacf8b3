import type { TransferCause } from "../bot-event.ts";
import type { Effect } from "../effect.ts";
import type { CallEvent, SipFailure, TimerName } from "../event.ts";
import type { PlayId } from "../ids.ts";
import { fallbackCommand } from "../patience.ts";
import { judge } from "../outcome.ts";
import { usualSounds } from "../setup.ts";
import type { Attempt, In, OpenTransfer } from "../state.ts";
import { after, type Step } from "../step.ts";
import {
  answerTimeMs,
  anotherWaits,
  callNext,
  confirmTimer,
  gatewayOf,
  partyAt,
  progressTimer,
  retryOf,
  startAttempt,
} from "./hunt.ts";
import { backToOperator, ofPassing } from "./passing.ts";
import { attemptRecord, mainAttempt } from "./report.ts";
import { legTimers, releaseLegs, releasePassing, silenceRing, tellPassing } from "./release.ts";
import { type Finish, finishTransfer, progress } from "./transfer-end.ts";

type Dialling = In<"dialling">;

export function dialling(state: Dialling, event: CallEvent, atMs: number): Step {
  if (event.type === "timer.fired") return timeUp(state, event.timer, atMs);
  const { passing } = state;
  if (passing?.here === true && "leg" in event && event.leg === passing.attempt.leg) {
    return ofPassing(state, passing, event);
  }
  const attempt = "leg" in event ? state.legs.find(({ leg }) => leg === event.leg) : undefined;
  if (attempt === undefined) return [state, []];
  // Nothing of a leg's signalling can come before its INVITE.
  if (attempt.invitedAtMs === null && !event.type.startsWith("media.")) return [state, []];
  switch (event.type) {
    case "media.offered":
      return attempt.invitedAtMs === null ? sendInvite(state, attempt, event, atMs) : [state, []];
    case "media.legFailed":
      return legFailed(state, attempt, atMs);
    case "leg.invited":
      return [state, [progress(state.transfer, attempt, "dialing", null, atMs)]];
    case "leg.progress":
      return provisional(state, attempt, event, atMs);
    case "leg.answered":
      return answered(state, attempt, event, atMs);
    case "media.digit":
      return pressed(state, attempt, event, atMs);
    case "leg.failed":
      return attempt.answer === null ? attemptFailed(state, attempt, event, atMs) : [state, []];
    case "leg.ended":
      if (attempt.answer !== null) return notConfirmed(state, attempt, [], atMs);
      return attemptFailed(state, attempt, { ...event, redirect: null }, atMs);
    default:
      return [state, []];
  }
}

/** The same state with a leg changed. */
function withLeg(state: Dialling, changed: Attempt): Dialling {
  return { ...state, legs: state.legs.map((attempt) => (attempt.leg === changed.leg ? changed : attempt)) };
}

function sendInvite(
  state: Dialling,
  attempt: Attempt,
  { offer }: Extract<CallEvent, { type: "media.offered" }>,
  atMs: number,
): Step {
  const { transfer } = state;
  const { request } = transfer;
  const answerMs = answerTimeMs(transfer, attempt, atMs);
  const invited: Attempt = { ...attempt, invitedAtMs: atMs };
  return [
    withLeg({ ...state, transfer: { ...transfer, firstInviteAtMs: transfer.firstInviteAtMs ?? atMs } }, invited),
    [
      {
        type: "leg.invite",
        order: {
          leg: attempt.leg,
          target: attempt.target,
          trunk: request.route.trunk,
          gateway: gatewayOf(request, attempt),
          identity: attempt.identity,
          headers: partyAt(transfer, attempt.party).headers,
          offer,
          ...(attempt.again ? { again: true as const } : {}),
          ...(request.commandId === fallbackCommand ? { fallback: true as const } : {}),
        },
      },
      ...(answerMs === null ? [] : ([{ type: "timer.start", timer: "answer", ms: answerMs }] as const)),
      { type: "timer.start", timer: progressTimer(attempt.leg), ms: request.route.progressTimeoutMs },
    ],
  ];
}

function provisional(
  state: Dialling,
  attempt: Attempt,
  { status, early }: Extract<CallEvent, { type: "leg.progress" }>,
  atMs: number,
): Step {
  // RFC 3261 §21.1: 100 says only that the next hop lives, 18x that the operator is being reached.
  if (status < 180 || status > 189) return [state, []];
  const rings: Attempt = { ...attempt, ringingAtMs: attempt.ringingAtMs ?? atMs, lastStatus: status };
  const stop: Effect[] =
    attempt.ringingAtMs === null ? [{ type: "timer.stop", timer: progressTimer(attempt.leg) }] : [];
  const heard = early !== null && attempt.answer === null && (state.core.setup.policy.sounds ?? usualSounds).earlyMedia;
  const sound: Effect[] = heard ? [{ type: "media.early", leg: attempt.leg, answer: early }] : [];
  if (attempt.lastStatus === status) return [withLeg(state, rings), [...stop, ...sound]];
  // One word is enough for him who waits for this call, whatever else comes before the answer.
  const told = attempt.ringingAtMs === null ? tellPassing(state, { status, reason: null, last: false }) : [];
  const phase = early === null ? "ringing" : "earlyMedia";
  return [withLeg(state, rings), [...stop, ...sound, progress(state.transfer, rings, phase, status, atMs), ...told]];
}

// ------------------------------------------------------------------------------------------------------- somebody answers

function answered(
  state: Dialling,
  ringing: Attempt,
  { answer, takenBy }: Extract<CallEvent, { type: "leg.answered" }>,
  atMs: number,
): Step {
  const attempt: Attempt = takenBy === undefined ? ringing : { ...ringing, takenBy };
  const { confirm, strategy } = state.transfer.request;
  const told = progress(state.transfer, attempt, "answered", 200, atMs);
  if (confirm === null) return join(state, attempt, { sdp: answer, atMs }, [told], atMs);
  const plays = state.core.plays + 1;
  const asked = withLeg(state, { ...attempt, answer: { sdp: answer, atMs } });
  const play = `${state.core.setup.call}/play-${plays}` as const;
  return [
    { ...asked, core: { ...state.core, plays } },
    [
      { type: "timer.stop", timer: progressTimer(attempt.leg) },
      // Those who still ring keep their time; in a row nobody does.
      ...(strategy === "ring" ? [] : ([{ type: "timer.stop", timer: "answer" }] as const)),
      { type: "timer.start", timer: confirmTimer(attempt.leg), ms: confirm.timeoutMs },
      { type: "media.consult", leg: attempt.leg, answer },
      { type: "media.play", play: play as PlayId, leg: attempt.leg, prompt: confirm.prompt },
      told,
    ],
  ];
}

function pressed(
  state: Dialling,
  attempt: Attempt,
  { digit }: Extract<CallEvent, { type: "media.digit" }>,
  atMs: number,
): Step {
  if (attempt.answer === null || digit !== state.transfer.request.confirm?.digit) return [state, []];
  return join(state, attempt, attempt.answer, [], atMs);
}

/** One operator gets the call; everybody else is released and told that it was answered elsewhere. */
function join(
  state: Dialling,
  attempt: Attempt,
  answer: NonNullable<Attempt["answer"]>,
  then: readonly Effect[],
  atMs: number,
): Step {
  const losers = state.legs.filter(({ leg }) => leg !== attempt.leg);
  const transfer: OpenTransfer = {
    ...state.transfer,
    attempts: [
      ...state.transfer.attempts,
      ...losers.flatMap((loser) => attemptRecord(state.transfer, loser, atMs, "cancelled", null) ?? []),
    ],
  };
  const quiet = silenceRing(state);
  const { passing } = state;
  const paused = !transfer.request.continueRecording && quiet.core.recording === "on";
  const next: In<"withOperator"> = {
    phase: "withOperator",
    core: paused ? { ...quiet.core, recording: "paused" } : quiet.core,
    transfer: { ...transfer, ringPrompts: [] },
    attempt: { ...attempt, answer: null },
    answeredAtMs: answer.atMs,
    joinedAtMs: null,
    reinvited: false,
    recordingPaused: paused || (passing?.recordingPaused ?? false),
  };
  return [
    next,
    [
      { type: "timer.stop", timer: "answer" },
      ...state.legs.flatMap(legTimers),
      ...quiet.effects,
      { type: "media.ringback", on: false },
      // Before the join, so that not a word of the operator is recorded.
      ...(paused ? ([{ type: "recording.set", to: "pause" }] as const) : []),
      ...(attempt.answer === null ? [] : ([{ type: "media.stop", leg: attempt.leg }] as const)),
      { type: "media.join", leg: attempt.leg, answer: answer.sdp },
      ...then,
      ...releaseLegs(losers, completedElsewhere, true),
      ...losers.map(({ leg }) => ({ type: "media.drop", leg }) as const),
      ...releasePassing(state, { status: 200, reason: "OK" }, "passed on"),
      ...(passing?.here === true ? ([{ type: "media.drop", leg: passing.attempt.leg }] as const) : []),
    ],
  ];
}

/** RFC 3326 §2 and the practice of hunt groups: with SIP cause 200 a phone shows no missed call. */
const completedElsewhere = "Call completed elsewhere";

/** He answered and did not want the call, or did not say so in time. */
function notConfirmed(state: Dialling, attempt: Attempt, first: readonly Effect[], atMs: number): Step {
  return legOver(
    state,
    attempt,
    { cause: "rejected", sipCode: 200, sipReason: "OK", endedBy: "operator", first },
    atMs,
  );
}

// ------------------------------------------------------------------------------------------------------- somebody does not

function legFailed(state: Dialling, attempt: Attempt, atMs: number): Step {
  const first = releaseLegs([attempt], "media failed", false);
  return legOver(state, attempt, { cause: "media_failure", endedBy: "service", first }, atMs);
}

function attemptFailed(state: Dialling, attempt: Attempt, failure: SipFailure, atMs: number): Step {
  const { transfer } = state;
  const { cause, next } = judge(failure, attempt.ringingAtMs !== null);
  const told = cause === "callerid_rejected" && transfer.request.route.identity !== "caller" ? "rejected" : cause;
  const way = retryOf(transfer, attempt, next, failure);
  const { status: sipCode, reason: sipReason, q850 } = failure;
  const endedBy = failure.refused === true ? "service" : "operator";
  const over: LegEnd = { cause: told, endedBy, sipCode, sipReason, q850, first: [] };
  return way === null ? legOver(state, attempt, over, atMs) : tryAgain(state, attempt, way, over, atMs);
}

export type LegEnd = Omit<Finish, "status" | "first" | "stays"> & { readonly first: readonly Effect[] };

/** The leg is over and stands in the ledger; the others are what they were. */
function without(state: Dialling, { leg }: Attempt, record: ReturnType<typeof attemptRecord>): Dialling {
  const { transfer } = state;
  const attempts = record === null ? transfer.attempts : [...transfer.attempts, record];
  return {
    ...state,
    transfer: { ...transfer, attempts },
    legs: state.legs.filter((attempt) => attempt.leg !== leg),
  };
}

function tryAgain(
  state: Dialling,
  attempt: Attempt,
  way: NonNullable<ReturnType<typeof retryOf>>,
  { cause, sipCode = null, first }: LegEnd,
  atMs: number,
): Step {
  const record = attemptRecord(state.transfer, attempt, atMs, cause, sipCode);
  return after(
    [...first, ...legTimers(attempt), { type: "media.drop", leg: attempt.leg }],
    startAttempt(without(state, attempt, record), way),
  );
}

/** There is no other way to this party: the others go on ringing, the next in the row is called, or the transfer is over. */
function legOver(state: Dialling, attempt: Attempt, end: LegEnd, atMs: number): Step {
  const { transfer } = state;
  const others = state.legs.length > 1;
  if (!others && !anotherWaits(transfer, atMs)) {
    if (state.passing?.here === true) return backToOperator(state, state.passing, attempt, end, atMs);
    return finishTransfer(state, { ...end, status: "FAIL" }, atMs);
  }
  const { cause, sipCode = null, first } = end;
  const rest = without(state, attempt, attemptRecord(transfer, attempt, atMs, cause, sipCode));
  const gone: readonly Effect[] = [...first, ...legTimers(attempt), { type: "media.drop", leg: attempt.leg }];
  if (others) return [rest, gone];
  return after([...gone, { type: "timer.stop", timer: "answer" }], callNext(rest));
}

// ------------------------------------------------------------------------------------------------------------------- time

function timeUp(state: Dialling, timer: TimerName, atMs: number): Step {
  if (timer === "answer") return answerTimeUp(state, atMs);
  const attempt = state.legs.find(({ leg }) => timer === progressTimer(leg) || timer === confirmTimer(leg));
  if (attempt === undefined) return [state, []];
  if (timer === confirmTimer(attempt.leg)) {
    if (attempt.answer === null) return [state, []];
    return notConfirmed(state, attempt, releaseLegs([attempt], "not confirmed", false), atMs);
  }
  if (attempt.ringingAtMs !== null || attempt.invitedAtMs === null || attempt.answer !== null) return [state, []];
  const over: LegEnd = {
    cause: "unreachable",
    endedBy: "service",
    first: releaseLegs([attempt], "no progress in time", false),
  };
  const way = retryOf(state.transfer, attempt, "gateway", { redirect: null });
  return way === null ? legOver(state, attempt, over, atMs) : tryAgain(state, attempt, way, over, atMs);
}

/** Everybody who still rings has rung long enough; who was asked to confirm keeps his own time. */
function answerTimeUp(state: Dialling, atMs: number): Step {
  const main = mainAttempt(state.legs);
  let next = state;
  const effects: Effect[] = [];
  const timedOut = state.legs.filter(({ answer }) => answer === null);
  // The one whose end is told as the transfer's goes last.
  for (const attempt of [...timedOut.filter((one) => one !== main), ...timedOut.filter((one) => one === main)]) {
    const cause: TransferCause = attempt.ringingAtMs === null ? "unreachable" : "no_answer";
    const first = releaseLegs([attempt], "no answer in time", false);
    const [step, more] = legOver(next, attempt, { cause, endedBy: "service", first }, atMs);
    effects.push(...more);
    if (step.phase !== "dialling") return [step, effects];
    next = step;
  }
  return [next, effects];
}

/** The bot takes back a transfer that nobody has answered; the caller stays with it. */
export function cancelTransfer(state: Dialling | In<"referring">, atMs: number): Step {
  const first = state.phase === "dialling" ? releaseLegs(state.legs, "cancelled by the bot", false) : [];
  return finishTransfer(state, { status: "FAIL", cause: "cancelled", endedBy: "bot", first, stays: true }, atMs);
}
