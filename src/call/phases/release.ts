import type { Effect } from "../effect.ts";
import type { Attempt, CallCore, In, Playing, RingPrompt, Transferring } from "../state.ts";
import { publish } from "../step.ts";
import { confirmTimer, progressTimer } from "./hunt.ts";

/** Timers that run only while this transfer does. */
export function stopTimers(state: Transferring): readonly Effect[] {
  switch (state.phase) {
    case "dialling":
      return [{ type: "timer.stop", timer: "answer" }, ...state.legs.flatMap(legTimers)];
    case "referring":
      return [{ type: "timer.stop", timer: "refer" }];
    case "withOperator":
      return state.transfer.request.maxTalkMs === null ? [] : [{ type: "timer.stop", timer: "talk" }];
  }
}

export function legTimers({ leg, answer }: Attempt): readonly Effect[] {
  return [{ type: "timer.stop", timer: answer === null ? progressTimer(leg) : confirmTimer(leg) }];
}

const elsewhereHeader = { name: "Reason", value: 'SIP;cause=200;text="Call completed elsewhere"' };

/** CANCEL or BYE for attempts that are given up; one whose INVITE never went out needs neither. */
export function releaseLegs(legs: readonly Attempt[], reason: string, elsewhere: boolean): readonly Effect[] {
  return legs.flatMap(({ leg, answer, invitedAtMs }): readonly Effect[] => {
    if (answer !== null) return [{ type: "leg.bye", leg, reason, headers: elsewhere ? [elsewhereHeader] : [] }];
    return invitedAtMs === null ? [] : [{ type: "leg.cancel", leg, reason, elsewhere }];
  });
}

/** Nobody is awaited any more: what was to be heard meanwhile stops, and no prompt is left without its end. */
export function silenceRing({ core, transfer }: Transferring): {
  readonly core: CallCore;
  readonly effects: readonly Effect[];
} {
  const waiting = transfer.ringPrompts.map(stopped);
  const { playing } = core;
  if (playing === null || playing.part === null) return { core, effects: waiting };
  return {
    core: { ...core, playing: null },
    effects: [{ type: "media.stop", leg: playing.leg }, stopped(playing), ...waiting],
  };
}

/** The end of a prompt that was not heard to its end. */
export function stopped({
  commandId,
  index,
  part,
}: Pick<Playing | RingPrompt, "commandId" | "index" | "part">): Effect {
  const place = part === null ? { index } : { index, part };
  return publish({ event: "playback", commandId, ...place, result: "stopped", reason: null });
}

/** What an operator who passes the caller on is told of the call he asked for (RFC 3515 §2.4.5). */
export function tellPassing(
  { passing }: In<"dialling">,
  news: { readonly status: number; readonly reason: string | null; readonly last: boolean },
): readonly Effect[] {
  return passing?.here === true ? [{ type: "refer.notify", leg: passing.attempt.leg, ...news }] : [];
}

/** He is told the end of his REFER first: after the BYE nobody would listen. */
export function releasePassing(
  state: In<"dialling">,
  end: { readonly status: number; readonly reason: string | null },
  reason: string,
): readonly Effect[] {
  const { passing } = state;
  if (passing?.here !== true) return [];
  return [
    ...tellPassing(state, { ...end, last: true }),
    { type: "leg.bye", leg: passing.attempt.leg, reason, headers: [] },
  ];
}

/** A tone towards an operator ends with him, and so do the keys of the talk that wait. */
export function withoutTones(core: CallCore): CallCore {
  const { playing } = core;
  return {
    ...core,
    playing: playing === null || playing.leg === core.setup.caller ? playing : null,
    queue: core.queue.filter(({ ofTalk }) => ofTalk !== true),
  };
}
