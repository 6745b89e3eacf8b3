import type { CallEvent } from "../event.ts";
import type { In, Queued } from "../state.ts";
import type { Step } from "../step.ts";
import { finishTransfer } from "./transfer-end.ts";

/** Keys pressed further apart than this are not one code. */
const betweenKeysMs = 3_000;
/** Tones last longer than an INFO takes: whoever sends more has them lost, and does not fill the bot's queue. */
const keysMax = 32;

type Digit = Extract<CallEvent, { type: "media.digit" }>;
type Talking = In<"withOperator">;

/** A key pressed while caller and operator talk. */
export function pressed(state: Talking, event: Digit, atMs: number): Step {
  if (state.joinedAtMs === null) return [state, []];
  return event.leg === state.attempt.leg ? pressedByOperator(state, event, atMs) : [passedOn(state, event, atMs), []];
}

function pressedByOperator(state: Talking, event: Digit, atMs: number): Step {
  // A bot that is lost can take nobody back: its caller would hear nothing.
  const code = state.core.bot === "lost" ? "" : (state.core.setup.policy.returnKeys ?? "");
  const recent = state.keys !== undefined && atMs - state.keys.atMs <= betweenKeysMs ? state.keys.text : "";
  const text = (recent + event.digit).slice(-Math.max(1, code.length));
  if (code === "" || text !== code) return [passedOn({ ...state, keys: { text, atMs } }, event, atMs), []];
  const first = [{ type: "leg.bye", leg: state.attempt.leg, reason: "caller handed back", headers: [] }] as const;
  const answered = { sipCode: 200, sipReason: "OK", endedBy: "operator", first, stays: true } as const;
  return finishTransfer(state, { ...answered, status: "SUCCESS", cause: "completed" }, atMs);
}

/** What is not in the other side's sound is sent there. */
function passedOn(state: Talking, event: Digit, atMs: number): Talking {
  if (event.carriedBy === undefined) return state;
  const to = event.leg === state.attempt.leg ? "caller" : "operator";
  return withDigits(state, event.digit, to, atMs);
}

/** Digits are sent before anything else that waits. */
export function withDigits(state: Talking, digits: string, to: "caller" | "operator", atMs: number): Talking {
  const { commandId } = state.transfer.request;
  const reply = { type: "dtmf", digits, to } as const;
  const queued: Queued = { reply, commandId, index: 0, arrivedAtMs: atMs, ofTalk: true };
  const { queue } = state.core;
  if (queue.filter(({ ofTalk }) => ofTalk === true).length >= keysMax) return state;
  // Behind digits that wait already, so that a code keeps its order.
  const place = queue.findIndex(({ reply }) => reply.type !== "dtmf");
  const at = place < 0 ? queue.length : place;
  return { ...state, core: { ...state.core, queue: [...queue.slice(0, at), queued, ...queue.slice(at)] } };
}
