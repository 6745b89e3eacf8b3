import type { HangupBy, TransferCause } from "../bot-event.ts";
import type { Effect } from "../effect.ts";
import type { CallEvent } from "../event.ts";
import type { CommandId } from "../ids.ts";
import type { CustomHeader } from "../transfer.ts";
import type { In, Live } from "../state.ts";
import { publish, type Step } from "../step.ts";
import { cancelQueuedSwitch, reportTransfer } from "./report.ts";
import { releaseLegs, releasePassing, stopTimers } from "./release.ts";

/** How long the last event waits for the recording; what is not written by then follows on disk. */
export const closingTimeoutMs = 30_000;

export interface EndOrder {
  readonly by: HangupBy;
  /** The status of a refusal for a call that was not answered; of the peer's message otherwise. */
  readonly sipCode: number | null;
  readonly reason: string | null;
  readonly headers?: readonly CustomHeader[];
  /** Why a transfer that was open has failed, where the one who ends the call does not say it. */
  readonly cause?: TransferCause;
}

/** Ends the call from any phase: releases every leg the phase owns and tells the outcome of a transfer that was open. */
export function endCall(state: Live, order: EndOrder, atMs: number): Step {
  const { core } = state;
  const transfer = abandonTransfer(state, order, atMs);
  const queued = cancelQueuedSwitch(core, abandonCause(order), order.by, true);
  const { answeredAtMs } = core;
  const durationMs = answeredAtMs === null ? 0 : Math.max(0, Math.round(atMs - answeredAtMs));
  const { by, sipCode, reason } = order;
  return [
    {
      phase: "ending",
      core: { ...core, queue: [], playing: null },
      end: { by, sipCode, reason, durationMs },
    },
    [
      ...transfer,
      ...queued,
      ...releaseCaller(state, order),
      { type: "timer.start", timer: "closing", ms: closingTimeoutMs },
      { type: "media.close" },
    ],
  ];
}

function abandonCause(order: EndOrder): TransferCause {
  if (order.cause !== undefined) return order.cause;
  if (order.by === "caller") return "caller_hangup";
  return order.by === "bot" ? "cancelled" : "internal";
}

/** Releases the operator's leg and tells how the open transfer ended; the caller's leg is gone after it. */
function abandonTransfer(state: Live, order: EndOrder, atMs: number): Effect[] {
  const endedBy = order.by;
  const gone = { hangup: true, endedBy, atMs } as const;
  switch (state.phase) {
    case "dialling": {
      return [
        ...stopTimers(state),
        ...releaseLegs(state.legs, `${endedBy} hung up`, false),
        ...releasePassing(state, { status: 487, reason: "Request Terminated" }, `${endedBy} hung up`),
        reportTransfer(state, { ...gone, status: "FAIL", cause: abandonCause(order) }),
      ];
    }
    case "withOperator": {
      // Where our own failure came before the bridge stood, the two have never met.
      const met = state.joinedAtMs !== null || order.by !== "service";
      const outcome = met
        ? ({ status: "SUCCESS", cause: "completed" } as const)
        : ({ status: "FAIL", cause: abandonCause(order) } as const);
      return [
        ...stopTimers(state),
        { type: "leg.bye", leg: state.attempt.leg, reason: `${endedBy} hung up`, headers: [] },
        reportTransfer(state, { ...gone, ...outcome, sipCode: 200, sipReason: "OK" }),
      ];
    }
    case "referring": {
      const stop = stopTimers(state);
      // BYE from the caller's side after 202: he has followed the REFER, though nobody has confirmed it. RFC 5589 §6.1.
      if (state.accepted && endedBy === "caller") {
        return [...stop, reportTransfer(state, { ...gone, status: "SUCCESS", cause: "completed", confirmed: false })];
      }
      return [...stop, reportTransfer(state, { ...gone, status: "FAIL", cause: abandonCause(order) })];
    }
    case "offered":
    case "ringing":
    case "answering":
    case "withBot":
      return [];
  }
}

function releaseCaller(state: Live, order: EndOrder): Effect[] {
  const leg = state.core.setup.caller;
  if (order.by === "caller") return [];
  if (state.phase === "offered" || state.phase === "ringing") {
    return [{ type: "leg.reject", leg, status: order.sipCode ?? 480, reason: order.reason ?? "call ended" }];
  }
  return [{ type: "leg.bye", leg, reason: order.reason ?? `ended by ${order.by}`, headers: order.headers ?? [] }];
}

/** Waits for the media side's last word, but not for ever. */
export function finishEnding(state: In<"ending">, event: CallEvent): Step {
  const { core, end } = state;
  switch (event.type) {
    case "recording.changed": {
      const { file, url = null, durationMs, reason } = event;
      return [state, [publish({ event: "recording", state: event.state, file, url, durationMs, reason })]];
    }
    case "media.closed":
      return [
        { phase: "ended", call: core.setup.call },
        [{ type: "timer.stop", timer: "closing" }, publish({ event: "hangup", ...end })],
      ];
    case "timer.fired":
      if (event.timer !== "closing") return [state, []];
      return [{ phase: "ended", call: core.setup.call }, [publish({ event: "hangup", ...end })]];
    case "bot.command":
      return [state, [unknownCall(event.command.commandId)]];
    case "bot.invalidSwitch":
      return [state, [unknownCall(event.commandId)]];
    default:
      return [state, []];
  }
}

function unknownCall(commandId: CommandId): Effect {
  // The same words as for a call that is not held at all: nothing can be learnt from them (bot-contract §8).
  const message = "there is no such call";
  return publish({ event: "rejected", commandId, code: "unknown_call", message, pointer: null });
}
