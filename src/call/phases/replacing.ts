import type { CallEvent } from "../event.ts";
import type { LegId } from "../ids.ts";
import type { Attempt, Live, OpenTransfer } from "../state.ts";
import type { Step } from "../step.ts";
import { awaitsAnswer } from "./hunt.ts";
import { hasFollowed } from "./moving.ts";
import { mayPass } from "./passing.ts";
import { progress } from "./transfer-end.ts";

// Somebody takes the place of a leg's peer by an INVITE with Replaces (RFC 3891). The leg, its sound, its timers and its
// line in the ledger stay: it is the same talk with another phone at its end.

/** He is let in where an operator could pass the caller on himself, else declined and nothing changes. RFC 3891 §3. */
export function claimed(state: Live, { leg, exchange, offer }: Extract<CallEvent, { type: "leg.claimed" }>): Step {
  return mayTake(state, leg)
    ? [state, [{ type: "media.propose", leg, exchange, offer }]]
    : [state, [{ type: "leg.refuse", leg, exchange, status: 603 }]];
}

function mayTake(state: Live, leg: LegId): boolean {
  const { setup, answeredAtMs } = state.core;
  // A caller has nobody who passes him on; his place is taken when he is an operator of another call, who asked for it.
  // Not while he is asked to follow a REFER: its outcome would never be heard of.
  if (leg === setup.caller) {
    return setup.policy.operatorRefer === "accept" && answeredAtMs !== null && state.phase !== "referring";
  }
  // A phone that rings may be answered by a colleague: nobody is passed on, so that it does not count as such.
  if (awaitsAnswer(state, leg)) return setup.policy.operatorRefer === "accept";
  if (state.phase !== "withOperator" || state.attempt.leg !== leg || state.joinedAtMs === null) return false;
  return mayPass(state.transfer, setup.policy);
}

export function replaced(
  state: Live,
  { leg, offer, takenBy }: Extract<CallEvent, { type: "leg.replaced" }>,
  atMs: number,
): Step {
  const renewed = { type: "media.renew", leg, answer: offer, taken: true } as const;
  // What the one before him was asked in his own dialog is answered by nobody any more.
  const here = hasFollowed(state, leg);
  if (leg === here.core.setup.caller) return [endsWithTheTalk(here), [renewed]];
  if (here.phase !== "withOperator" || here.attempt.leg !== leg) return [state, []];
  const { transfer, attempt, asked: _, ...rest } = here;
  const taken: Attempt = { ...attempt, talkedBefore: true, ...(takenBy === undefined ? {} : { takenBy }) };
  return [
    { ...rest, attempt: taken, reinvited: false, transfer: { ...transfer, passes: transfer.passes + 1 } },
    [renewed, progress(transfer, attempt, "bridged", 200, atMs)],
  ];
}

/** Who is behind the caller's leg now is another call's caller: this bot has nothing to say to him. */
function endsWithTheTalk(state: Live): Live {
  if (state.phase !== "dialling" && state.phase !== "withOperator") return state;
  const ends = (transfer: OpenTransfer): OpenTransfer => ({
    ...transfer,
    request: { ...transfer.request, continueCall: false },
  });
  const transfer = ends(state.transfer);
  if (state.phase === "withOperator") return { ...state, transfer };
  const { passing } = state;
  return {
    ...state,
    transfer,
    passing: passing === null ? null : { ...passing, transfer: ends(passing.transfer) },
  };
}
