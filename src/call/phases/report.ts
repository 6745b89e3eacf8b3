import type { AttemptRecord, HangupBy, TransferCause, TransferStatus } from "../bot-event.ts";
import type { Effect } from "../effect.ts";
import type { Attempt, CallCore, OpenTransfer, Transferring } from "../state.ts";
import { publish } from "../step.ts";
import type { TransferRequest } from "../transfer.ts";
import { partyAt } from "./hunt.ts";

/** How a transfer ended, as far as the phase that ends it knows. */
export interface TransferEnd {
  readonly status: TransferStatus["status"];
  readonly hangup: boolean;
  readonly cause: TransferCause;
  readonly endedBy: HangupBy | null;
  readonly atMs: number;
  readonly sipCode?: number | null;
  readonly sipReason?: string | null;
  readonly q850?: number | null;
  readonly confirmed?: boolean;
}

/** The one terminal `transfer` event of an accepted `switch` (bot-contract §2). */
export function reportTransfer(state: Transferring, end: TransferEnd): Effect {
  const { core, transfer } = state;
  const { request } = transfer;
  const main = attemptOf(state);
  const times = transferTimes(state, end.atMs);
  const { talk } = transfer;
  const invited = transfer.firstInviteAtMs !== null || talk !== null;
  const number = talk?.number ?? partyAt(transfer, main?.party ?? 0).number;
  // Whom an operator wanted next is his affair: the ledger says how that ended.
  const told = talk === null ? end : { ...end, cause: "completed" as const, sipCode: 200, sipReason: "OK" };
  return publish({
    event: "transfer",
    transferStatus: { status: statusOf(transfer, end), hangup: end.hangup, number },
    transferDetails: {
      transferId: request.transferId,
      cause: told.cause,
      endedBy: end.endedBy,
      method: state.phase === "referring" ? "refer" : "invite",
      sipCode: told.sipCode ?? null,
      sipReason: told.sipReason ?? null,
      q850: end.q850 ?? null,
      ...times,
      trunk: request.route.trunk,
      callerIdShown: invited && main !== null ? main.identity : null,
      recording: core.recording === "on" ? "continuous" : core.recording,
      confirmed: end.confirmed ?? true,
      attempts: wholeLedger(state, end),
    },
  });
}

/** A transfer whose operator has talked has succeeded, whomever he passed the caller on to. */
export function statusOf({ talk }: OpenTransfer, { status }: Pick<TransferEnd, "status">): TransferEnd["status"] {
  return talk === null ? status : "SUCCESS";
}

/** The attempt that is told as the transfer's: whoever is nearest to the caller. */
export function mainAttempt(legs: readonly Attempt[]): Attempt | undefined {
  return legs.find(({ answer }) => answer !== null) ?? legs.find(({ ringingAtMs }) => ringingAtMs !== null) ?? legs[0];
}

function attemptOf(state: Transferring): Attempt | null {
  switch (state.phase) {
    case "referring":
      return null;
    case "dialling":
      return mainAttempt(state.legs) ?? null;
    case "withOperator":
      return state.attempt;
  }
}

export function transferTimes(
  state: Transferring,
  atMs: number,
): { readonly ringMs: number | null; readonly answerMs: number | null; readonly talkMs: number | null } {
  const { talk } = state.transfer;
  if (talk !== null) {
    const { ringMs, answerMs, joinedAtMs } = talk;
    return { ringMs, answerMs, talkMs: Math.round(atMs - joinedAtMs) };
  }
  const ringingAtMs = attemptOf(state)?.ringingAtMs ?? null;
  if (state.phase !== "withOperator") {
    return { ringMs: ringingAtMs === null ? null : Math.round(atMs - ringingAtMs), answerMs: null, talkMs: null };
  }
  const { answeredAtMs, joinedAtMs } = state;
  const { firstInviteAtMs } = state.transfer;
  return {
    ringMs: ringingAtMs === null ? null : Math.round(answeredAtMs - ringingAtMs),
    answerMs: firstInviteAtMs === null ? null : Math.round(answeredAtMs - firstInviteAtMs),
    talkMs: joinedAtMs === null ? 0 : Math.round(atMs - joinedAtMs),
  };
}

/** The ledger with the attempts under way; those that failed before are in it already. */
function wholeLedger(state: Transferring, end: TransferEnd): readonly AttemptRecord[] {
  const { transfer } = state;
  const main = attemptOf(state);
  const endedAtMs = state.phase === "withOperator" ? state.answeredAtMs : end.atMs;
  const others = state.phase === "dialling" ? state.legs.filter((attempt) => attempt !== main) : [];
  const open = [...others, ...(main === null ? [] : [main])];
  const records = open.flatMap((attempt) => {
    const sipCode = attempt === main ? (end.sipCode ?? null) : null;
    return attemptRecord(transfer, attempt, endedAtMs, end.cause, sipCode) ?? [];
  });
  return [...transfer.attempts, ...records];
}

/** The ledger's line for an attempt; null when its INVITE never went out. */
export function attemptRecord(
  transfer: OpenTransfer,
  attempt: Attempt,
  endedAtMs: number,
  cause: TransferCause,
  sipCode: number | null,
): AttemptRecord | null {
  const { invitedAtMs, redirected, target, takenBy } = attempt;
  if (invitedAtMs === null) return null;
  const called = redirected && target.kind === "uri" ? target.uri : partyAt(transfer, attempt.party).number;
  const { trunk } = transfer.request.route;
  return {
    trunk,
    target: called,
    sipCode,
    cause,
    ms: Math.round(endedAtMs - invitedAtMs),
    ...(takenBy === undefined ? {} : { takenBy }),
  };
}

/** A `switch` that was accepted but had not begun: it, too, gets its one `transfer` event. */
export function cancelQueuedSwitch(
  core: CallCore,
  cause: TransferCause,
  endedBy: HangupBy,
  hangup: boolean,
): readonly Effect[] {
  return core.queue.flatMap(({ reply }) =>
    reply.type === "switch" ? [reportUnstarted(core, reply.request, cause, endedBy, hangup)] : [],
  );
}

function reportUnstarted(
  core: CallCore,
  request: TransferRequest,
  cause: TransferCause,
  endedBy: HangupBy,
  hangup: boolean,
): Effect {
  return publish({
    event: "transfer",
    transferStatus: { status: "FAIL", hangup, number: request.number },
    transferDetails: {
      ...noDetails,
      transferId: request.transferId,
      cause,
      endedBy,
      method: request.method,
      trunk: request.route.trunk,
      recording: core.recording === "on" ? "continuous" : core.recording,
    },
  });
}

/** The details of a transfer that sent nothing. */
export const noDetails = {
  sipCode: null,
  sipReason: null,
  q850: null,
  ringMs: null,
  answerMs: null,
  talkMs: null,
  callerIdShown: null,
  confirmed: true,
  attempts: [],
} as const;
