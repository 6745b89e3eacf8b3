import type { AttemptRecord, HangupBy, TransferCause, TransferStatus } from "../bot-event.ts";
import type { Effect } from "../effect.ts";
import type { CallCore, OpenTransfer, Transferring } from "../state.ts";
import { publish } from "../step.ts";
import type { TransferRequest } from "../transfer.ts";

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
  const times = transferTimes(state, end.atMs);
  const invited = transfer.firstInviteAtMs !== null;
  return publish({
    event: "transfer",
    transferStatus: { status: end.status, hangup: end.hangup, number: request.number },
    transferDetails: {
      transferId: request.transferId,
      cause: end.cause,
      endedBy: end.endedBy,
      method: state.phase === "referring" ? "refer" : "invite",
      sipCode: end.sipCode ?? null,
      sipReason: end.sipReason ?? null,
      q850: end.q850 ?? null,
      ...times,
      trunk: request.route.trunk,
      callerIdShown: invited ? transfer.identity : null,
      recording: core.recording === "on" ? "continuous" : core.recording,
      confirmed: end.confirmed ?? true,
      attempts: withCurrentAttempt(state, end),
    },
  });
}

function transferTimes(
  state: Transferring,
  atMs: number,
): { ringMs: number | null; answerMs: number | null; talkMs: number | null } {
  if (state.phase === "referring") return { ringMs: null, answerMs: null, talkMs: null };
  const { ringingAtMs } = state.attempt;
  if (state.phase === "dialling") {
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

/** The ledger with the attempt under way; attempts that failed before it are in it already. */
function withCurrentAttempt(state: Transferring, end: TransferEnd): readonly AttemptRecord[] {
  if (state.phase === "referring") return state.transfer.attempts;
  const { attempts } = state.transfer;
  const endedAtMs = state.phase === "withOperator" ? state.answeredAtMs : end.atMs;
  const current = attemptRecord(state, endedAtMs, end.cause, end.sipCode ?? null);
  return current === null ? attempts : [...attempts, current];
}

/** The ledger's line for the attempt under way; null when its INVITE never went out. */
export function attemptRecord(
  state: Exclude<Transferring, { phase: "referring" }>,
  endedAtMs: number,
  cause: TransferCause,
  sipCode: number | null,
): AttemptRecord | null {
  const { invitedAtMs } = state.attempt;
  if (invitedAtMs === null) return null;
  const { request } = state.transfer;
  const target = targetText(state.transfer);
  return { trunk: request.route.trunk, target, sipCode, cause, ms: Math.round(endedAtMs - invitedAtMs) };
}

function targetText(transfer: OpenTransfer): string {
  return transfer.redirected && transfer.target.kind === "uri" ? transfer.target.uri : transfer.request.number;
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
