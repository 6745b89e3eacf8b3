import type { Effect } from "../effect.ts";
import type { CallEvent } from "../event.ts";
import type { In, OpenTransfer } from "../state.ts";
import type { Step } from "../step.ts";
import { withDigits } from "./keys.ts";
import { type Finish, finishTransfer, progress } from "./transfer-end.ts";

export function withOperator(state: In<"withOperator">, event: CallEvent, atMs: number): Step {
  const { attempt } = state;
  switch (event.type) {
    case "media.joined": {
      if (event.leg !== attempt.leg || state.joinedAtMs !== null) return [state, []];
      const joined = { ...state, joinedAtMs: atMs };
      const { dtmf } = state.transfer.request;
      const next = dtmf === undefined ? joined : withDigits(joined, dtmf, "operator", atMs);
      return [
        next,
        [
          { type: "media.phase", phase: "operator" },
          ...talkTimer(state.transfer, atMs, atMs),
          progress(state.transfer, attempt, "bridged", 200, atMs),
        ],
      ];
    }
    case "timer.fired": {
      if (event.timer !== "talk" || state.joinedAtMs === null) return [state, []];
      return letGo(state, "longest talk reached", talked, atMs);
    }
    case "media.legFailed":
      if (event.leg !== attempt.leg) return [state, []];
      return letGo(state, "media failed", state.joinedAtMs === null ? noTalk : talked, atMs);
    case "media.unheard": {
      if (event.leg !== attempt.leg || state.joinedAtMs === null) return [state, []];
      if (state.reinvited) return neverHeard(state, atMs);
      return [{ ...state, reinvited: true }, [{ type: "leg.reinvite", leg: attempt.leg, offer: event.offer }]];
    }
    case "media.silent": {
      const { leg, offer } = event;
      if (leg !== attempt.leg || state.joinedAtMs === null) return [state, []];
      if (offer === null) return state.asked === true ? letGo(state, "no sound any more", talked, atMs) : [state, []];
      return [{ ...state, asked: true }, [{ type: "leg.reinvite", leg, offer }]];
    }
    case "leg.reinviteFailed":
      if (event.leg !== attempt.leg) return [state, []];
      // Whoever answers at all is there: a phone that is muted may send nothing for as long as it likes.
      if (state.asked === true) return event.gone ? letGo(state, "no sound any more", talked, atMs) : [state, []];
      return state.reinvited ? neverHeard(state, atMs) : [state, []];
    case "leg.ended":
      if (event.leg !== attempt.leg) return [state, []];
      return finishTransfer(
        state,
        {
          status: "SUCCESS",
          cause: "completed",
          endedBy: "operator",
          sipCode: 200,
          sipReason: "OK",
          q850: event.q850,
        },
        atMs,
      );
    default:
      return [state, []];
  }
}

/** What is left of the longest talk: it counts from the first operator's bridge, whomever he has passed the caller on to. */
export function talkTimer({ request, talk }: OpenTransfer, joinedAtMs: number, atMs: number): readonly Effect[] {
  const { maxTalkMs } = request;
  if (maxTalkMs === null) return [];
  const talkedMs = atMs - (talk?.joinedAtMs ?? joinedAtMs);
  return [{ type: "timer.start", timer: "talk", ms: Math.max(1, Math.round(maxTalkMs - talkedMs)) }];
}

/** Once the two have talked the transfer has succeeded, however the talk ended (bot-contract §5). */
const talked = { status: "SUCCESS", cause: "completed" } as const;
/** Not one packet of his has come, whatever was tried, or the bridge never stood. */
const noTalk = { status: "FAIL", cause: "media_failure" } as const;

/** We end it: `endedBy` tells the bot that neither of the two hung up. */
function letGo(
  state: In<"withOperator">,
  reason: string,
  outcome: Pick<Finish, "status" | "cause">,
  atMs: number,
): Step {
  const first = [{ type: "leg.bye", leg: state.attempt.leg, reason, headers: [] }] as const;
  return finishTransfer(state, { ...outcome, sipCode: 200, sipReason: "OK", endedBy: "service", first }, atMs);
}

function neverHeard(state: In<"withOperator">, atMs: number): Step {
  // The caller has talked all the same: with the one whose place he has taken, or with him, at another media server.
  return letGo(state, "no sound", state.attempt.talkedBefore === true ? talked : noTalk, atMs);
}
