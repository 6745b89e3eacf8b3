import type { BotEvent } from "./bot-event.ts";
import type { Effect } from "./effect.ts";
import type { CallState } from "./state.ts";

/** The next state and what is asked of the adapters, in order. */
export type Step = readonly [next: CallState, effects: readonly Effect[]];

export function publish(event: BotEvent): Effect {
  return { type: "bot.publish", event };
}

/** Puts effects in front of those of a step. */
export function after(first: readonly Effect[], [next, effects]: Step): Step {
  return [next, [...first, ...effects]];
}
