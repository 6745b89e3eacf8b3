import fc from "fast-check";
import type { Prompt } from "../../src/call/effect.ts";
import type { CallEvent, TimerName } from "../../src/call/event.ts";
import type { CommandId, ExchangeId, LegId, PlayId, TransferId } from "../../src/call/ids.ts";
import type { Reply } from "../../src/call/reply.ts";
import type { CallState } from "../../src/call/state.ts";
import type { CalledParty } from "../../src/call/transfer.ts";
import { caller, callId, gateways, operator, route, sdp, transferTo } from "../scenario/script.ts";

/** One thing the world may do; `pick` chooses among legs and prompts, stale ones included. */
export interface Move {
  readonly kind: number;
  readonly pick: number;
  readonly status: number;
  readonly flag: boolean;
  readonly flag2: boolean;
  readonly ms: number;
}

export const fallbackTransfer = "t-fallback" as TransferId;

const statuses = [180, 183, 200, 302, 401, 403, 404, 408, 480, 486, 487, 488, 500, 503, 600, 603] as const;
export const move: fc.Arbitrary<Move> = fc.record({
  kind: fc.nat({ max: 43 }),
  pick: fc.nat({ max: 5 }),
  status: fc.constantFrom(...statuses),
  flag: fc.boolean(),
  flag2: fc.boolean(),
  ms: fc.nat({ max: 20_000 }),
});
export const policy = fc.record({
  answer: fc.constantFrom("immediately" as const, "on-command" as const),
  operatorRefer: fc.constantFrom("accept" as const, "accept" as const, "refuse" as const),
  mostPasses: fc.constantFrom(1, 3, 5),
  recording: fc.record({ enabled: fc.boolean(), resumeOnReturn: fc.boolean() }),
  returnKeys: fc.constantFrom("", "15", "5"),
  patience: fc.constantFrom(
    { answerMs: 10_000, silenceMs: 60_000, inputMs: 5_000, fallback: [{ type: "hangup", headers: [] } as const] },
    {
      answerMs: 10_000,
      silenceMs: 60_000,
      inputMs: null,
      fallback: [
        { type: "audio", url: "file:///sorry.wav", times: 1 } as const,
        { type: "switch", request: transferTo("900", { transferId: fallbackTransfer, continueCall: false }) } as const,
      ],
    },
    {
      answerMs: 10_000,
      silenceMs: 60_000,
      inputMs: null,
      fallback: [
        { type: "switch", request: transferTo("900", { transferId: fallbackTransfer }) } as const,
        { type: "audio", url: "file:///goodbye.wav", times: 1 } as const,
        { type: "hangup", headers: [] } as const,
      ],
    },
  ),
});

const reasons = ["no_tts", "no_events", "info_refused"];
const beep: Prompt = { kind: "audio", url: "file:///beep.wav", times: 1 };

function legsOf(state: CallState): readonly LegId[] {
  if (state.phase === "dialling") {
    const passing = state.passing === null ? [] : [state.passing.attempt.leg];
    return [...state.legs.map(({ leg }) => leg), ...passing];
  }
  return state.phase === "withOperator" ? [state.attempt.leg] : [operator(1)];
}

/** A leg that has been invited, or has not, so that transfers get far; another one where there is none. */
function legWhere(state: CallState, invited: boolean, other: LegId): LegId {
  if (state.phase !== "dialling") return other;
  return state.legs.find(({ invitedAtMs }) => (invitedAtMs !== null) === invited)?.leg ?? other;
}

/** An operator who has answered and is not joined, another leg where there is none. */
function legWithDialog(state: CallState, other: LegId): LegId {
  if (state.phase !== "dialling") return other;
  return state.legs.find(({ answer }) => answer !== null)?.leg ?? state.passing?.attempt.leg ?? other;
}

/** What comes next when all goes well, so that long stories happen; null when it is somebody's turn to act. */
function nextStep(state: CallState): CallEvent | null {
  switch (state.phase) {
    case "offered":
      return { type: "media.opened", answer: sdp };
    case "answering":
      return { type: "leg.confirmed", leg: caller };
    case "dialling": {
      const { playing } = state.core;
      // Digits are over soon, and somebody may wait for that.
      if (playing?.told === false)
        return { type: "media.played", play: playing.play, result: "completed", reason: null };
      const leg = state.legs.at(-1)?.leg ?? operator(1);
      const invited = state.legs.at(-1)?.invitedAtMs !== null;
      return invited ? { type: "leg.answered", leg, answer: sdp } : { type: "media.offered", leg, offer: sdp };
    }
    case "withOperator":
      return state.joinedAtMs === null ? { type: "media.joined", leg: state.attempt.leg } : null;
    default:
      return null;
  }
}

/** Turns a move into an event that fits the call more often than not, so that the sequences get far. */
export function eventOf(state: CallState, { kind, pick, status, flag, flag2, ms }: Move, n: number): CallEvent {
  const legs = legsOf(state);
  const current = legs[ms % legs.length] ?? operator(1);
  const leg = pick < 3 ? current : pick === 5 ? caller : operator(pick - 2);
  // We are the caller's UAS: he offers, confirms and ends, but never answers.
  const callee = leg === caller ? current : leg;
  const commandId = `cmd-${n}` as CommandId;
  const transferId = `t-${n}` as TransferId;
  const failure = {
    status: pick === 4 ? null : status,
    reason: null,
    q850: flag && flag2 ? 17 : null,
    redirect: flag ? "sip:r@x" : null,
  };
  const other = (number: string): CalledParty => ({
    target: { kind: "phone", digits: number },
    number,
    headers: [],
  });
  const hunt = ms % 4;
  const say: Reply = { type: "text", text: "x", lang: null, voice: null };
  const change: Reply = {
    type: "switch",
    request: transferTo("100", {
      transferId,
      continueCall: flag,
      continueRecording: flag2,
      method: pick === 0 ? "refer" : "invite",
      referFallback: flag2,
      others: hunt === 0 ? [] : [other("200"), other("300")].slice(0, hunt),
      strategy: ms % 3 === 0 ? "serial" : "ring",
      confirm: ms % 5 === 0 ? { prompt: beep, digit: "1", timeoutMs: 10_000 } : null,
      maxTalkMs: ms % 7 === 0 ? 60_000 : null,
      duringRing: ms % 6 === 0 ? [beep, beep] : [],
      route: route({ gateways: pick > 2 ? gateways("g1", "g2") : gateways("g1"), identity: flag ? "caller" : "bot" }),
    }),
  };
  const command = (...replies: Reply[]): CallEvent => ({
    type: "bot.command",
    command: { commandId, worker: pick === 1 ? "w1" : pick === 2 ? "w2" : null, replies },
  });
  const playing = state.phase === "ended" ? null : state.core.playing;
  // Once he is joined, what makes a bridge leads nowhere: rather nothing is heard of him, or the talk is too long.
  if (state.phase === "withOperator" && state.joinedAtMs !== null && kind >= 7 && kind <= 17 && pick < 2) {
    if (kind === 17) return { type: "timer.fired", timer: "talk" };
    if (kind > 11) return { type: "media.silent", leg: callee, offer: state.asked !== true && flag ? sdp : null };
    const failed = { type: "leg.reinviteFailed", leg: callee, gone: flag2 } as const;
    return flag ? { type: "media.unheard", leg: callee, offer: sdp } : failed;
  }
  switch (kind) {
    case 0:
    case 1:
      return { type: "media.opened", answer: sdp };
    case 2:
    case 3:
      return { type: "leg.confirmed", leg: caller };
    case 4:
    case 5:
    case 6:
      return command(change);
    case 7:
    case 8:
    case 9:
      return { type: "media.offered", leg: pick < 3 ? legWhere(state, false, callee) : callee, offer: sdp };
    case 10:
      if (pick === 4) return { type: "leg.invited", leg: callee };
      return { type: "leg.progress", leg: callee, status, early: flag ? sdp : null };
    case 11:
    case 12:
    case 13:
      return {
        type: "leg.answered",
        leg: pick < 3 ? legWhere(state, true, callee) : callee,
        answer: sdp,
        ...(flag2 ? { takenBy: "7702" } : {}),
      };
    case 14:
    case 15:
      return { type: "media.joined", leg: callee };
    case 16:
    case 17:
      // RFC 3261 §7.2: no INVITE fails by a provisional response.
      return { type: "leg.failed", leg: callee, ...failure, status: status < 200 ? 500 : failure.status };
    case 18:
      return { type: "leg.ended", leg: flag ? leg : (legs[0] ?? current), status: null, reason: null, q850: null };
    case 19: {
      const timers: TimerName[] = ["answer", `progress ${current}`, "refer", "closing", "talk", `confirm ${current}`];
      const timer = timers[pick] ?? "answer";
      return { type: "timer.fired", timer };
    }
    case 20:
      // Somebody can have taken the caller's place only once he was answered.
      if (pick === 5 && flag && ["withBot", "dialling", "withOperator", "referring"].includes(state.phase)) {
        return { type: "media.legFailed", leg: caller, reason: "x" };
      }
      return { type: "media.legFailed", leg: callee, reason: "x" };
    case 21:
    case 22: {
      const play = playing !== null && pick < 4 ? playing.play : (`${callId}/play-${pick}` as PlayId);
      return { type: "media.played", play, result: flag ? "completed" : "failed", reason: reasons[n % 4] ?? null };
    }
    case 23:
      return command(say, say, ...(flag ? [change] : []), ...(flag2 ? [{ type: "hangup", headers: [] } as const] : []));
    case 24:
      if (pick === 5) return command({ type: "duringRing", prompts: [beep] });
      return command(flag ? { type: "stop" } : { type: "switchCancel", transferId: null }, ...(flag2 ? [change] : []));
    case 25:
      return command({ type: "record", action: (["start", "pause", "resume", "stop"] as const)[pick % 4] ?? "stop" });
    case 26:
      return flag
        ? command({ type: "take", worker: `w${pick % 3}` })
        : command(
            { type: "dtmf", digits: "1", to: flag2 ? "caller" : "operator" },
            ...(pick > 3 ? [{ type: "hangup", headers: [] } as const] : []),
          );
    case 27:
      return flag ? { type: "refer.progress", leg: caller, status } : { type: "refer.done", leg: caller, ...failure };
    case 28:
      if (pick === 4) return { type: "leg.reanswered", leg, answer: sdp };
      if (pick > 1) {
        const taken = pick === 5 ? caller : current;
        if (flag) return { type: "leg.replaced", leg: taken, offer: sdp };
        return { type: "leg.claimed", leg: taken, exchange: `x${n}` as ExchangeId, offer: sdp };
      }
      return { type: "leg.offered", leg, exchange: `x${n}` as ExchangeId, offer: flag ? sdp : null };
    case 29:
      return {
        type: "media.digit",
        leg,
        digit: flag ? "1" : "5",
        durationMs: 100,
        ...(flag2 ? { carriedBy: pick < 3 ? ("info" as const) : ("kept" as const) } : {}),
      };
    case 30:
      return flag && flag2
        ? { type: "media.lost", reason: "x" }
        : {
            type: "bot.invalidSwitch",
            worker: flag ? "w1" : null,
            commandId,
            transferId,
            method: "invite",
            number: "",
            code: "invalid_target",
            message: "x",
            pointer: null,
          };
    case 31:
      return flag
        ? command({ type: "hangup", headers: [] })
        : { type: "media.digit", leg: flag2 ? current : caller, digit: "1", durationMs: 1 };
    case 32:
      return flag && pick < 2 ? { type: "media.closed" } : { type: "media.joined", leg: callee };
    case 35:
      return { type: "timer.fired", timer: flag ? "bot" : "input" };
    case 36:
      return { type: "bot.away" };
    case 37:
      return { type: "leg.referred", leg: callee, ...other(`9${n}`) };
    case 38:
    case 39:
    case 40:
      return nextStep(state) ?? { type: "leg.referred", leg: current, ...other(`9${n}`) };
    case 41: {
      const wanted: TimerName = flag ? "answer" : `progress ${current}`;
      const own: Partial<Record<string, TimerName>> = { withOperator: "talk", referring: "refer" };
      return { type: "timer.fired", timer: own[state.phase] ?? wanted };
    }
    case 42:
      return { type: "media.moved", leg: pick < 2 ? caller : legWithDialog(state, callee), offer: sdp };
    case 43: {
      const exchange = `${caller}/moved` as ExchangeId;
      if (state.phase === "ringing" && !flag) return { type: "media.updateFailed", leg: caller, exchange };
      if (state.phase === "ringing") return { type: "media.updated", leg: caller, exchange, answer: sdp };
      const told = state.phase === "ended" ? [] : state.core.moving;
      const moving = (flag2 ? undefined : told.findLast((one) => one !== caller)) ?? told[0];
      if (pick === 0) return { type: "leg.reanswered", leg: moving ?? leg, answer: sdp };
      return { type: "leg.reinviteFailed", leg: moving ?? leg, gone: flag };
    }
    case 33:
      return flag
        ? { type: "media.openFailed", incompatible: flag2, reason: "x" }
        : { type: "media.opened", answer: sdp };
    default:
      return flag && flag2 && pick === 0
        ? { type: "shutdown" }
        : { type: "recording.changed", state: "failed", file: null, durationMs: null, reason: "disk full" };
  }
}
