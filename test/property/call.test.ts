import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { BotEvent } from "../../src/call/bot-event.ts";
import { begin, decide } from "../../src/call/decide.ts";
import type { Effect } from "../../src/call/effect.ts";
import type { CallEvent, TimerName } from "../../src/call/event.ts";
import type { CommandId, ExchangeId, LegId, PlayId, TransferId } from "../../src/call/ids.ts";
import type { Reply } from "../../src/call/reply.ts";
import type { CallState } from "../../src/call/state.ts";
import { caller, callId, gateways, operator, route, sdp, setup, transferTo } from "../scenario/script.ts";

/** One thing the world may do; `pick` chooses among legs and prompts, stale ones included. */
interface Move {
  readonly kind: number;
  readonly pick: number;
  readonly status: number;
  readonly flag: boolean;
  readonly flag2: boolean;
  readonly ms: number;
}

const statuses = [180, 183, 200, 302, 401, 403, 404, 408, 480, 486, 487, 488, 500, 503, 600, 603] as const;
const move: fc.Arbitrary<Move> = fc.record({
  kind: fc.nat({ max: 31 }),
  pick: fc.nat({ max: 5 }),
  status: fc.constantFrom(...statuses),
  flag: fc.boolean(),
  flag2: fc.boolean(),
  ms: fc.nat({ max: 20_000 }),
});
const policy = fc.record({
  answer: fc.constantFrom("immediately" as const, "on-command" as const),
  recording: fc.record({ enabled: fc.boolean(), resumeOnReturn: fc.boolean() }),
});

/** Turns a move into an event that fits the call more often than not, so that the sequences get far. */
function eventOf(state: CallState, { kind, pick, status, flag, flag2 }: Move, n: number): CallEvent {
  const current = state.phase === "dialling" || state.phase === "withOperator" ? state.attempt.leg : operator(1);
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
  const say: Reply = { type: "text", text: "x", lang: null, voice: null };
  const change: Reply = {
    type: "switch",
    request: transferTo("100", {
      transferId,
      continueCall: flag,
      continueRecording: flag2,
      method: pick === 0 ? "refer" : "invite",
      referFallback: flag2,
      route: route({ gateways: pick > 2 ? gateways("g1", "g2") : gateways("g1"), identity: flag ? "caller" : "bot" }),
    }),
  };
  const command = (...replies: Reply[]): CallEvent => ({
    type: "bot.command",
    command: { commandId, worker: pick === 1 ? "w1" : pick === 2 ? "w2" : null, replies },
  });
  const playing = state.phase === "ended" ? null : state.core.playing;
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
      return { type: "media.offered", leg: callee, offer: sdp };
    case 10:
      return { type: "leg.progress", leg: callee, status, earlyMedia: flag };
    case 11:
    case 12:
    case 13:
      return { type: "leg.answered", leg: callee, answer: sdp };
    case 14:
    case 15:
      return { type: "media.joined", leg: callee };
    case 16:
    case 17:
      return { type: "leg.failed", leg: callee, ...failure };
    case 18:
      return { type: "leg.ended", leg: flag ? leg : current, status: null, reason: null, q850: null };
    case 19: {
      const timer = (["answer", "progress", "refer", "closing"] as const)[pick % 4] ?? "answer";
      return { type: "timer.fired", timer };
    }
    case 20:
      return { type: "media.legFailed", leg: callee, reason: "x" };
    case 21:
    case 22: {
      const play = playing !== null && pick < 4 ? playing.play : (`${callId}/play-${pick}` as PlayId);
      return { type: "media.played", play, result: flag ? "completed" : "failed", reason: flag2 ? "no_tts" : null };
    }
    case 23:
      return command(say, say, ...(flag ? [change] : []), ...(flag2 ? [{ type: "hangup", headers: [] } as const] : []));
    case 24:
      return command(flag ? { type: "stop" } : { type: "switchCancel", transferId: null }, ...(flag2 ? [change] : []));
    case 25:
      return command({ type: "record", action: (["start", "pause", "resume", "stop"] as const)[pick % 4] ?? "stop" });
    case 26:
      return flag
        ? command({ type: "take", worker: `w${pick % 3}` })
        : command({ type: "dtmf", digits: "1", to: flag2 ? "caller" : "operator" });
    case 27:
      return flag ? { type: "refer.progress", leg: caller, status } : { type: "refer.done", leg: caller, ...failure };
    case 28:
      return { type: "leg.offered", leg, exchange: `x${n}` as ExchangeId, offer: flag ? sdp : null };
    case 29:
      return { type: "media.digit", leg, digit: "5", durationMs: 100 };
    case 30:
      return flag && flag2
        ? { type: "media.lost", reason: "x" }
        : {
            type: "bot.invalidSwitch",
            commandId,
            transferId,
            method: "invite",
            number: "",
            code: "invalid_target",
            message: "x",
            pointer: null,
          };
    default:
      return flag && flag2 && pick === 0
        ? { type: "shutdown" }
        : { type: "recording.changed", state: "failed", file: null, durationMs: null, reason: "disk full" };
  }
}

/** A plain check: the runner's own matchers cost more than the calls themselves here. */
function holds(condition: boolean, rule: string): void {
  if (!condition) throw new Error(`broken: ${rule}`);
}

/** Watches one call from outside, as the adapters and the bot would, and knows what must hold. */
class Witness {
  readonly #accepted = new Set<string>();
  readonly #told = new Map<string, BotEvent & { event: "transfer" }>();
  readonly #switches = new Map<CommandId, readonly string[]>();
  readonly #answers = new Map<CommandId, number>();
  readonly #openLegs = new Set<LegId>();
  readonly #busy = new Set<string>();
  readonly timers = new Set<TimerName>();
  #ringback = false;
  #recording: "off" | "on" | "paused" = "off";
  #callerGone = false;
  #closes = 0;
  #hangups = 0;

  before(state: CallState, event: CallEvent): void {
    if (event.type === "bot.command") {
      const wanted = event.command.replies.flatMap((r) => (r.type === "switch" ? [r.request.transferId] : []));
      this.#switches.set(event.command.commandId, wanted);
    }
    if (event.type === "bot.invalidSwitch" && state.phase !== "ending" && state.phase !== "ended") {
      this.#accepted.add(event.transferId);
    }
    if (event.type === "timer.fired") this.timers.delete(event.timer);
    if (event.type === "leg.failed" || event.type === "leg.ended") {
      this.#openLegs.delete(event.leg);
      if (event.leg === caller && event.type === "leg.ended") this.#callerGone = true;
    }
    if (
      event.type === "leg.failed" &&
      event.status === 486 &&
      state.phase === "dialling" &&
      state.attempt.leg === event.leg
    ) {
      this.#busy.add(state.transfer.request.transferId);
    }
  }

  sees(effect: Effect, state: CallState): void {
    switch (effect.type) {
      case "leg.invite":
        holds(!this.#openLegs.has(effect.order.leg), "a leg is invited once");
        this.#openLegs.add(effect.order.leg);
        if (state.phase === "dialling") {
          const { transferId } = state.transfer.request;
          holds(!this.#busy.has(transferId), "a busy operator is never dialled twice");
        }
        break;
      case "leg.cancel":
      case "leg.bye":
      case "leg.reject":
        this.#openLegs.delete(effect.leg);
        if (effect.leg === caller) {
          holds(!this.#callerGone, "the caller is released once");
          this.#callerGone = true;
        }
        break;
      case "timer.start":
        this.timers.add(effect.timer);
        break;
      case "timer.stop":
        this.timers.delete(effect.timer);
        break;
      case "media.ringback":
        this.#ringback = effect.on;
        break;
      case "media.close":
        this.#closes += 1;
        break;
      case "recording.set":
        this.#record(effect.to);
        break;
      case "bot.publish":
        this.#hears(effect.event);
        break;
      default:
        break;
    }
  }

  #record(to: "start" | "pause" | "resume" | "stop"): void {
    const from = { start: ["off"], pause: ["on"], resume: ["paused"], stop: ["on", "paused"] }[to];
    holds(from.includes(this.#recording), `recording goes from ${this.#recording} by ${to}`);
    this.#recording = to === "pause" ? "paused" : to === "stop" ? "off" : "on";
  }

  #hears(event: BotEvent): void {
    holds(this.#hangups === 0, "hangup is the last event");
    if (event.event === "hangup") this.#hangups += 1;
    if (event.event === "accepted" || event.event === "rejected") {
      if (event.commandId === null) return;
      this.#answers.set(event.commandId, (this.#answers.get(event.commandId) ?? 0) + 1);
      if (event.event === "accepted")
        for (const id of this.#switches.get(event.commandId) ?? []) this.#accepted.add(id);
    }
    if (event.event === "transfer") {
      const { transferId } = event.transferDetails;
      holds(!this.#told.has(transferId), "one transfer event per switch");
      this.#told.set(transferId, event);
      const { transferStatus, transferDetails } = event;
      holds(Object.keys(transferStatus).join() === "status,hangup,number", "three keys in their order");
      const completed = transferDetails.cause === "completed";
      holds((transferStatus.status === "SUCCESS") === completed, "SUCCESS is completed and nothing else is");
    }
  }

  /** What holds after every single event. */
  atRest(state: CallState, effects: readonly Effect[]): void {
    const waitsForOperator = state.phase === "dialling" || state.phase === "referring";
    if (state.phase !== "ending" && state.phase !== "ended") {
      holds(this.#ringback === waitsForOperator, "ringback plays exactly while an operator is awaited");
      holds(state.core.recording === this.#recording, "the state knows what the recorder does");
    }
    // What is not to be recorded is paused before the operator can be heard.
    if (state.phase === "withOperator" && effects.some((effect) => effect.type === "media.join")) {
      const unwanted = !state.transfer.request.continueRecording && this.#recording === "on";
      holds(!unwanted, "a talk that is not to be recorded is not");
    }
    for (const effect of effects) {
      if (effect.type !== "bot.publish" || effect.event.event !== "transfer") continue;
      // `hangup` tells whether the caller's leg is gone once this event has been dealt with.
      const over = state.phase === "ending" || state.phase === "ended";
      if (effect.event.transferStatus.hangup) holds(over, "hangup true means the caller is gone");
    }
  }

  atEnd(state: CallState): void {
    holds(state.phase === "ended", "the call ends");
    holds(this.#openLegs.size === 0, "every leg is released");
    holds(this.timers.size === 0, "every timer is stopped");
    holds(this.#callerGone, "the caller is released");
    holds(this.#closes === 1, "the anchor is closed once");
    holds(this.#hangups === 1, "one hangup event");
    const told = [...this.#told.keys()].toSorted().join();
    holds(told === [...this.#accepted].toSorted().join(), "every accepted switch has its transfer event");
    holds(
      [...this.#answers.values()].every((count) => count === 1),
      "every command is answered once",
    );
  }
}

describe("a call under random events", () => {
  test("nothing is lost, nothing is told twice, nothing is left behind (25,000 sequences)", () => {
    const phases = new Map<string, number>();
    fc.assert(
      fc.property(policy, fc.array(move, { minLength: 5, maxLength: 60 }), (channel, moves) => {
        const witness = new Witness();
        const [offered, first] = begin(setup(channel));
        let state = offered;
        for (const effect of first) witness.sees(effect, state);
        let atMs = 0;
        const apply = (event: CallEvent): void => {
          witness.before(state, event);
          const before = state;
          const [next, effects] = decide(state, event, atMs);
          if (before.phase === "ended")
            holds(
              effects.every((e) => e.type === "leg.bye"),
              "nothing but late BYEs after the end",
            );
          else for (const effect of effects) witness.sees(effect, next);
          if (event.type === "leg.answered") {
            const wanted = before.phase === "dialling" && before.attempt.leg === event.leg;
            const fate = wanted ? "media.join" : "leg.bye";
            const met = effects.some((effect) => effect.type === fate && effect.leg === event.leg);
            holds(met, "a leg that answers is joined if it is awaited and hung up if it is not");
          }
          state = next;
          witness.atRest(state, effects);
          phases.set(state.phase, (phases.get(state.phase) ?? 0) + 1);
        };
        // A good start for most, so that the interesting phases are reached often.
        const start = moves[0]!.pick;
        if (start > 0) apply({ type: "media.opened", answer: sdp });
        if (start > 1) apply({ type: "leg.confirmed", leg: caller });
        for (const [n, step] of moves.entries()) {
          atMs += step.ms;
          apply(eventOf(state, step, n));
        }
        apply({ type: "shutdown" });
        apply({ type: "media.closed" });
        witness.atEnd(state);
      }),
      { numRuns: 25_000 },
    );
    // A property over states that are never reached would prove nothing.
    for (const phase of ["ringing", "withBot", "dialling", "withOperator", "referring", "ending", "ended"]) {
      expect(phases.get(phase) ?? 0, `phase ${phase} was hardly visited`).toBeGreaterThan(1000);
    }
  });

  test("a state is plain JSON: written and read back, it decides the same (2,000 sequences)", () => {
    fc.assert(
      fc.property(fc.array(move, { maxLength: 40 }), (moves) => {
        let [state] = begin(setup());
        for (const [n, step] of moves.entries()) {
          const event = eventOf(state, step, n);
          const copy = decide(
            JSON.parse(JSON.stringify(state)) as CallState,
            JSON.parse(JSON.stringify(event)) as CallEvent,
            n,
          );
          const step1 = decide(state, event, n);
          expect(copy).toEqual(step1);
          state = step1[0];
        }
      }),
      { numRuns: 2_000 },
    );
  });
});
