import type { CallEvent } from "./event.ts";
import { endCall, finishEnding } from "./phases/ending.ts";
import { loseBot, noInput, watchSilence } from "./patience.ts";
import { answering, offered } from "./phases/arriving.ts";
import { dialling } from "./phases/dialling.ts";
import { awaitsAnswer } from "./phases/hunt.ts";
import { hasAnswered, hasFollowed, loseMedia, moved, notFollowed, remade } from "./phases/moving.ts";
import { referring } from "./phases/referring.ts";
import { passOn } from "./phases/passing.ts";
import { claimed, replaced } from "./phases/replacing.ts";
import { advance, receive, sendKeysAnew } from "./phases/replies.ts";
import { pressed } from "./phases/keys.ts";
import { invalidSwitch } from "./phases/transfer-end.ts";
import { withOperator } from "./phases/with-operator.ts";
import type { CallSetup } from "./setup.ts";
import type { CallState, Live } from "./state.ts";
import { after, publish, type Step } from "./step.ts";

/** The first step of a call whose INVITE was matched to a trunk and a channel. */
export function begin(setup: CallSetup): Step {
  return watchSilence(null, null, [
    {
      phase: "offered",
      core: {
        setup,
        answeredAtMs: null,
        operators: 0,
        plays: 0,
        queue: [],
        playing: null,
        recording: "off",
        worker: null,
        moving: [],
        bot: "awaited",
      },
    },
    [
      publish({
        event: "call",
        trunk: setup.trunk,
        sipCallId: setup.sipCallId,
        headers: setup.headers,
        resumed: false,
      }),
      { type: "media.open", leg: setup.caller, offer: setup.offer },
    ],
  ]);
}

/**
 * The whole life of one call. Pure: no I/O, no clock, no randomness; `atMs` is monotonic time and comes from outside.
 */
export function decide(state: CallState, event: CallEvent, atMs: number): Step {
  // A leg that answers when nobody wants it any more (200 crossing our CANCEL) is hung up in every phase. RFC 3261 §9.1, §15.
  if (event.type === "leg.answered" && !awaitsAnswer(state, event.leg)) {
    if (hasAnswered(state, event.leg)) return [state, []];
    return [state, [{ type: "leg.bye", leg: event.leg, reason: "answered too late", headers: [] }]];
  }
  switch (state.phase) {
    case "ended":
      return [state, []];
    case "ending":
      return finishEnding(state, event);
    default:
      return watchSilence(state, event, settle(live(state, event, atMs), atMs));
  }
}

/** What a call answers the same way in all phases in which the caller is there; the rest is the phase's business. */
function live(state: Live, event: CallEvent, atMs: number): Step {
  const { setup } = state.core;
  switch (event.type) {
    case "leg.ended":
      if (event.leg !== setup.caller) break;
      return endCall(state, { by: "caller", sipCode: event.status, reason: event.reason }, atMs);
    case "shutdown":
      return endCall(state, { by: "service", sipCode: unanswered(state) ? 503 : null, reason: "service stops" }, atMs);
    case "media.lost":
      return loseMedia(state, event.reason, atMs);
    case "media.moved":
      return moved(state, event, atMs);
    case "media.closed":
      return endCall(state, { by: "service", sipCode: null, reason: "media closed", cause: "media_failure" }, atMs);
    case "media.legFailed":
      // Who was there before has been hung up on, so that nobody is left to go back to.
      if (event.leg !== setup.caller) break;
      return endCall(state, { by: "service", sipCode: null, reason: "media failed", cause: "media_failure" }, atMs);
    case "timer.fired":
      if (event.timer === "bot") return loseBot(state, atMs);
      if (event.timer === "input") return noInput(state);
      break;
    case "bot.away":
      // What it said before is no sign of life any more.
      return [state.core.bot === "heard" ? { ...state, core: { ...state.core, bot: "awaited" } } : state, []];
    case "bot.command":
      return receive(state, event.command, atMs);
    case "bot.invalidSwitch":
      return invalidSwitch(state, event);
    case "recording.changed":
      return recordingChanged(state, event);
    case "media.played":
      return played(state, event);
    case "media.digit": {
      const { digit, durationMs } = event;
      const from = event.leg === setup.caller ? "caller" : "operator";
      if (from === "operator" && !(state.phase === "withOperator" && state.attempt.leg === event.leg)) break;
      const told = publish({ event: "dtmf", digit, durationMs, from });
      return state.phase === "withOperator" ? after([told], pressed(state, event, atMs)) : [state, [told]];
    }
    case "leg.referred":
      return passOn(state, event, atMs);
    case "leg.claimed":
      return claimed(state, event);
    case "leg.replaced":
      return replaced(state, event, atMs);
    case "leg.offered":
      return [state, [{ type: "media.update", leg: event.leg, exchange: event.exchange, offer: event.offer }]];
    case "media.updated":
      if (state.phase === "ringing") return remade(state, event);
      return [state, [{ type: "leg.reanswer", leg: event.leg, exchange: event.exchange, answer: event.answer }]];
    case "media.updateFailed":
      if (state.phase === "ringing") return loseMedia(state, "no answer can be made at another media server", atMs);
      // RFC 3261 §14.2: an offer we cannot take is refused and the talk goes on as it was.
      return [state, [{ type: "leg.refuse", leg: event.leg, exchange: event.exchange, status: 488 }]];
    case "leg.reanswered":
      return [hasFollowed(state, event.leg), [{ type: "media.renew", leg: event.leg, answer: event.answer }]];
    case "leg.reinviteFailed":
      if (!state.core.moving.includes(event.leg)) break;
      return notFollowed(state, event.leg, atMs, (rest, failure) => ofPhase(rest, failure, atMs));
    default:
      break;
  }
  return ofPhase(state, event, atMs);
}

function ofPhase(state: Live, event: CallEvent, atMs: number): Step {
  switch (state.phase) {
    case "offered":
      return offered(state, event, atMs);
    case "answering":
      return answering(state, event);
    // Here the call is moved by the bot's replies alone.
    case "ringing":
    case "withBot":
      return [state, []];
    case "dialling":
      return dialling(state, event, atMs);
    case "withOperator":
      return withOperator(state, event, atMs);
    case "referring":
      return referring(state, event, atMs);
  }
}

/** The INVITE still waits for a final response: 503 lets the trunk try elsewhere. RFC 3261 §21.5.4. */
function unanswered({ phase }: Live): boolean {
  return phase === "offered" || phase === "ringing";
}

/** After every event: whatever is due in the queue of replies happens now. */
function settle([state, effects]: Step, atMs: number): Step {
  if (state.phase === "ending" || state.phase === "ended") return [state, effects];
  return after(effects, advance(state, atMs));
}

function recordingChanged(state: Live, event: Extract<CallEvent, { type: "recording.changed" }>): Step {
  const { file, url = null, durationMs, reason } = event;
  // Nothing is recorded after a failure, so no outcome may say that it is, and the bot may start again.
  const core = event.state === "failed" ? { ...state.core, recording: "off" as const } : state.core;
  return [{ ...state, core }, [publish({ event: "recording", state: event.state, file, url, durationMs, reason })]];
}

function played(state: Live, event: Extract<CallEvent, { type: "media.played" }>): Step {
  const { playing } = state.core;
  // The end of a prompt that was stopped or replaced is no news.
  if (playing === null || playing.play !== event.play) return [state, []];
  const anew = event.result === "failed" ? sendKeysAnew(state, playing, event.reason) : null;
  if (anew !== null) return anew;
  const { commandId, index, part } = playing;
  const next: Live = { ...state, core: { ...state.core, playing: null } };
  if (!playing.told) return [next, []];
  const { result, reason } = event;
  const ended = publish({ event: "playback", commandId, index, ...(part === null ? {} : { part }), result, reason });
  if (reason !== "no_tts") return [next, [ended]];
  const message = "No text-to-speech is configured (media.tts), so the text was not spoken.";
  const pointer = part === null ? `/replies/${index}` : `/replies/${index}/duringRing/${part}`;
  return [next, [publish({ event: "warning", commandId, code: "no_tts", message, pointer }), ended]];
}
