import type { CallEvent } from "./event.ts";
import type { CommandId } from "./ids.ts";
import type { CallState, Live, Queued } from "./state.ts";
import { publish, type Step } from "./step.ts";

/** Under this name the replies of the fallback are told the bot. */
export const fallbackCommand = "fallback" as CommandId;

/** How long the bot may stay silent now; null while nothing is waited for from it. */
function patience(state: CallState): number | null {
  if (state.phase === "ending" || state.phase === "ended") return null;
  const { core, phase } = state;
  const limits = core.setup.policy.patience;
  const awaited = phase === "offered" || phase === "ringing" || phase === "answering" || phase === "withBot";
  if (limits === undefined || !awaited || core.bot === "lost") return null;
  if (core.playing !== null || core.queue.length > 0) return null;
  return core.bot === "heard" ? limits.silenceMs : limits.answerMs;
}

/** Starts and stops the bot's time and the caller's after an event, so that no phase has to think of them. */
export function watchSilence(before: CallState | null, event: CallEvent | null, step: Step): Step {
  return watchInput(before, event, watchBot(before, event, step));
}

/** The caller's time to press a key; null while he is not waited for. */
function inputTime(state: CallState | null): number | null {
  if (state === null || state.phase !== "withBot" || patience(state) === null) return null;
  return state.core.setup.policy.patience?.inputMs ?? null;
}

function watchInput(before: CallState | null, event: CallEvent | null, [state, effects]: Step): Step {
  const ms = inputTime(state);
  const was = inputTime(before);
  if (ms === null)
    return was === null ? [state, effects] : [state, [...effects, { type: "timer.stop", timer: "input" }]];
  // From the end of a prompt, and every key gives him the time for another one. A bot that says nothing is not told again.
  const again = event?.type === "media.played" || event?.type === "media.digit";
  return again ? [state, [...effects, { type: "timer.start", timer: "input", ms }]] : [state, effects];
}

/** The caller's time is over. */
export function noInput(state: Live): Step {
  return [state, inputTime(state) === null ? [] : [publish({ event: "noInput" })]];
}

function watchBot(before: CallState | null, event: CallEvent | null, [state, effects]: Step): Step {
  const ms = patience(state);
  const was = before === null ? null : patience(before);
  if (ms === null) {
    return was === null ? [state, effects] : [state, [...effects, { type: "timer.stop", timer: "bot" }]];
  }
  const spoke = effects.some((effect) => effect.type === "bot.publish" && effect.event.event === "accepted");
  // A command that leads to nothing audible is a word of the bot all the same; a prompt that has ended begins a new wait.
  const again = was !== ms || spoke || event?.type === "media.played";
  return again ? [state, [...effects, { type: "timer.start", timer: "bot", ms }]] : [state, effects];
}

/** The bot has been silent too long: from now on the call is run by the fallback, and the bot is not obeyed any more. */
export function loseBot(state: Live, atMs: number): Step {
  const { core } = state;
  const ms = patience(state);
  const limits = core.setup.policy.patience;
  if (ms === null || limits === undefined) return [state, []];
  const queue = limits.fallback.map((reply, index): Queued => ({
    reply,
    commandId: fallbackCommand,
    index,
    arrivedAtMs: atMs,
  }));
  const message = "The bot was silent for too long; the channel's fallback has the call.";
  return [
    { ...state, core: { ...core, bot: "lost", queue } },
    [publish({ event: "warning", commandId: null, code: "fallback", message, pointer: null })],
  ];
}
