import type { Effect } from "../effect.ts";
import type { CallEvent } from "../event.ts";
import type { ExchangeId, LegId, Sdp } from "../ids.ts";
import type { CallCore, CallState, In, Live } from "../state.ts";
import { publish, type Step } from "../step.ts";
import { endCall } from "./ending.ts";

// The media server has lost the call and another one has it: everybody who talks is told by a re-INVITE where his sound is
// now (RFC 3261 §14.1), and the call goes on in the phase it was in. Who does not follow cannot be heard any more.

/** The call cannot go on without its sound. */
export function loseMedia(state: Live, reason: string, atMs: number): Step {
  return endCall(
    state,
    { by: "service", sipCode: null, reason: `media lost: ${reason}`, cause: "media_failure" },
    atMs,
  );
}

export function moved(state: Live, { leg, offer }: Extract<CallEvent, { type: "media.moved" }>, atMs: number): Step {
  const { core } = state;
  if (leg !== core.setup.caller) {
    if (!hasAnswered(state, leg)) return [state, []];
    const [told, effects] = tellMoved(core, leg, offer);
    return [{ ...state, core: told }, effects];
  }
  const message = "The media server was lost; the call goes on at another one, without what was said meanwhile.";
  const warning = publish({ event: "warning", commandId: null, code: "media_moved", message, pointer: null });
  switch (state.phase) {
    case "offered":
      return loseMedia(state, "lost before it was open", atMs);
    case "ringing": {
      // He has no answer of ours yet: his offer is answered by the new end.
      const exchange = `${leg}/moved` as ExchangeId;
      return [{ ...state, answer: null }, [{ type: "media.update", leg, exchange, offer: core.setup.offer }, warning]];
    }
    case "answering":
      // RFC 3261 §14.1: no re-INVITE before the ACK of the INVITE.
      return [{ ...state, moved: offer }, [warning]];
    case "withBot":
    case "dialling":
    case "withOperator":
    case "referring": {
      const [told, effects] = tellMoved(core, leg, offer);
      return [{ ...afterTheTalk(state), core: told }, [...effects, warning]];
    }
  }
}

/** The operator is listened for anew: that he has talked must not be forgotten, and that he was asked before does not count. */
function afterTheTalk(state: Live): Live {
  if (state.phase !== "withOperator" || state.joinedAtMs === null) return state;
  return { ...state, attempt: { ...state.attempt, talkedBefore: true }, reinvited: false };
}

/** Whether this operator is being asked to confirm, talks, or passes the caller on. */
export function hasAnswered(state: CallState, leg: LegId): boolean {
  if (state.phase === "withOperator") return state.attempt.leg === leg;
  if (state.phase !== "dialling") return false;
  if (state.passing?.here === true && state.passing.attempt.leg === leg) return true;
  return state.legs.some((one) => one.leg === leg && one.answer !== null);
}

export function tellMoved(core: CallCore, leg: LegId, offer: Sdp): readonly [CallCore, readonly Effect[]] {
  const moving = core.moving.includes(leg) ? core.moving : [...core.moving, leg];
  return [{ ...core, moving }, [{ type: "leg.reinvite", leg, offer }]];
}

/** The answer to the caller's own offer, for when he is accepted. */
export function remade(state: In<"ringing">, { answer }: Extract<CallEvent, { type: "media.updated" }>): Step {
  return [{ ...state, answer }, []];
}

/** He knows where his sound is. */
export function hasFollowed(state: Live, leg: LegId): Live {
  const { core } = state;
  if (!core.moving.includes(leg)) return state;
  return { ...state, core: { ...core, moving: core.moving.filter((one) => one !== leg) } };
}

/** He refuses, or is gone. An operator's end is that of any whose media has failed: `fail` ends it. */
export function notFollowed(
  state: Live,
  leg: LegId,
  atMs: number,
  fail: (state: Live, failure: Extract<CallEvent, { type: "media.legFailed" }>) => Step,
): Step {
  if (leg === state.core.setup.caller) return loseMedia(state, "the caller does not follow it", atMs);
  return fail(hasFollowed(state, leg), { type: "media.legFailed", leg, reason: "not followed" });
}
