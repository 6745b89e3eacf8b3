import type { HangupBy, TransferCause } from "../bot-event.ts";
import type { Effect } from "../effect.ts";
import type { CallEvent } from "../event.ts";
import type { Attempt, In, Live, OpenTransfer, Transferring } from "../state.ts";
import { after, publish, type Step } from "../step.ts";
import { botLost, takenByAnother, transferInProgress } from "./refusal.ts";
import { endCall } from "./ending.ts";
import { silenceRing, stopTimers, withoutTones } from "./release.ts";
import { mainAttempt, noDetails, reportTransfer, statusOf, type TransferEnd } from "./report.ts";

export interface Finish {
  readonly status: TransferEnd["status"];
  readonly cause: TransferCause;
  readonly endedBy: HangupBy | null;
  readonly sipCode?: number | null;
  readonly sipReason?: string | null;
  readonly q850?: number | null;
  /** What the operator's leg still needs: CANCEL or BYE. */
  readonly first?: readonly Effect[];
  /** The caller stays whatever `continueCall` says (cancelled by the bot, a REFER that failed). */
  readonly stays?: boolean;
}

/** The transfer is over and the caller is still here: back to the bot, or goodbye, as the bot asked. */
export function finishTransfer(state: Transferring, finish: Finish, atMs: number): Step {
  const { request } = state.transfer;
  const stays = finish.stays === true || request.continueCall;
  const first = [...(finish.first ?? []), ...stopTimers(state)];
  const report = reportTransfer(state, { ...finish, hangup: !stays, atMs });
  const resume = resumesRecording(state, statusOf(state.transfer, finish));
  const { core, effects: silenced } = silenceRing(state);
  const bot: In<"withBot"> = {
    phase: "withBot",
    core: {
      ...withoutTones(core),
      recording: resume ? "on" : core.recording,
      // The caller is back and hears nothing: it is the bot's turn.
      bot: core.bot === "heard" ? "awaited" : core.bot,
    },
  };
  if (!stays) {
    const by = finish.endedBy ?? "service";
    return after([...first, report], endCall(bot, { by, sipCode: finish.sipCode ?? null, reason: finish.cause }, atMs));
  }
  return [
    bot,
    [
      ...first,
      ...silenced,
      ...backToBot(state),
      { type: "media.phase", phase: "bot" },
      ...(resume ? ([{ type: "recording.set", to: "resume" }] as const) : []),
      progress(state.transfer, lastAttempt(state), "returning", finish.sipCode ?? null, atMs),
      report,
    ],
  ];
}

function backToBot(state: Transferring): readonly Effect[] {
  const legs = state.phase === "referring" ? [] : state.phase === "dialling" ? state.legs : [state.attempt];
  return [{ type: "media.ringback", on: false }, ...legs.map(({ leg }) => ({ type: "media.drop", leg }) as const)];
}

function lastAttempt(state: Transferring): Pick<Attempt, "number"> {
  if (state.phase === "withOperator") return state.attempt;
  const main = state.phase === "dialling" ? mainAttempt(state.legs) : undefined;
  return main ?? { number: Math.max(1, state.transfer.begun) };
}

/** Paused for the talk: it goes on only when there was no talk, or when the channel wants the return recorded (bot-contract §3). */
function resumesRecording(state: Transferring, status: TransferEnd["status"]): boolean {
  const paused =
    state.phase === "withOperator"
      ? state.recordingPaused
      : state.phase === "dialling" && state.passing?.recordingPaused === true;
  if (!paused || state.core.recording !== "paused") return false;
  return status === "FAIL" || state.core.setup.policy.recording.resumeOnReturn;
}

export function progress(
  { request, commandAtMs }: OpenTransfer,
  { number }: Pick<Attempt, "number">,
  phase: "dialing" | "ringing" | "earlyMedia" | "answered" | "bridged" | "returning",
  sipCode: number | null,
  atMs: number,
): Effect {
  return publish({
    event: "transferProgress",
    transferId: request.transferId,
    phase,
    attempt: number,
    sipCode,
    ms: Math.round(atMs - commandAtMs),
  });
}

/** A `switch` that names nobody or somebody impossible: FAIL is told and the caller stays with the bot (bot-contract §3). */
export function invalidSwitch(state: Live, event: Extract<CallEvent, { type: "bot.invalidSwitch" }>): Step {
  const { commandId, code, message, pointer, transferId, method, number } = event;
  const { recording, worker } = state.core;
  const lost = botLost(state);
  if (lost !== null) return [state, [publish({ event: "rejected", commandId, ...lost })]];
  if (worker !== null && event.worker !== null && event.worker !== worker) {
    return [state, [publish({ event: "rejected", commandId, ...takenByAnother("/worker") })]];
  }
  // A FAIL event now would be taken for the transfer that is under way.
  const busy = transferInProgress(state, pointer);
  if (busy !== null) return [state, [publish({ event: "rejected", commandId, ...busy })]];
  return [
    state,
    [
      publish({ event: "rejected", commandId, code, message, pointer }),
      publish({
        event: "transfer",
        transferStatus: { status: "FAIL", hangup: false, number },
        transferDetails: {
          ...noDetails,
          transferId,
          cause: "invalid_reply",
          endedBy: null,
          method,
          trunk: null,
          recording: recording === "on" ? "continuous" : recording,
        },
      }),
    ],
  ];
}
