import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { BotEvent } from "../../src/call/bot-event.ts";
import { begin, decide } from "../../src/call/decide.ts";
import type { Effect } from "../../src/call/effect.ts";
import type { CallEvent, TimerName } from "../../src/call/event.ts";
import type { CommandId, LegId } from "../../src/call/ids.ts";
import type { CallState } from "../../src/call/state.ts";
import { partiesOf } from "../../src/call/transfer.ts";
import { caller, sdp, setup } from "../scenario/script.ts";
import { eventOf, fallbackTransfer, move, policy } from "./call-moves.ts";

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
  readonly #joined = new Map<string, number>();
  readonly #invites = new Map<string, number>();
  readonly timers = new Set<TimerName>();
  #ringback = false;
  #recording: "off" | "on" | "paused" = "off";
  /** The operator who waits for the end of his REFER. */
  #subscribed: LegId | null = null;
  #passed = 0;
  /** REFERs without an answer. */
  #refers = 0;
  /** Whoever would take somebody's place, without an answer. */
  #claims = 0;
  #confirmed = false;
  #callerGone = false;
  /** Who does not know where the media server has moved to, or will not go there. */
  #astray: LegId | null = null;
  #closes = 0;
  #hangups = 0;
  #fallbacks = 0;

  before(state: CallState, event: CallEvent): void {
    if (event.type === "bot.command") {
      const wanted = event.command.replies.flatMap((r) => (r.type === "switch" ? [r.request.transferId] : []));
      this.#switches.set(event.command.commandId, wanted);
    }
    if (event.type === "bot.invalidSwitch") this.#switches.set(event.commandId, [event.transferId]);
    if (event.type === "timer.fired") this.timers.delete(event.timer);
    if (event.type === "recording.changed" && event.state === "failed") this.#recording = "off";
    if (event.type === "leg.confirmed" && state.phase === "answering") this.#confirmed = true;
    const moving = state.phase === "ending" || state.phase === "ended" ? [] : state.core.moving;
    const here = event.type === "leg.reinviteFailed" && (event.leg === caller || hasAnswered(state, event.leg));
    this.#astray = here && moving.includes(event.leg) ? event.leg : null;
    if (event.type === "leg.failed" || event.type === "leg.ended") {
      // A leg that has answered cannot fail any more, it can only end.
      if (event.type === "leg.ended" || !hasAnswered(state, event.leg)) this.#openLegs.delete(event.leg);
      if (event.leg === caller && event.type === "leg.ended") this.#callerGone = true;
      if (event.leg === this.#subscribed && event.type === "leg.ended") this.#subscribed = null;
    }
    if (event.type === "leg.referred" && state.phase !== "ending" && state.phase !== "ended") this.#refers += 1;
    if (event.type === "leg.claimed" && state.phase !== "ending" && state.phase !== "ended") this.#claims += 1;
    if (event.type === "leg.failed" && event.status === 486 && state.phase === "dialling") {
      const refused = state.legs.find(({ leg, invitedAtMs }) => leg === event.leg && invitedAtMs !== null);
      if (refused !== undefined) this.#busy.add(calledAs(state, refused.party));
    }
  }

  sees(effect: Effect, state: CallState): void {
    switch (effect.type) {
      case "leg.invite":
        holds(!this.#openLegs.has(effect.order.leg), "a leg is invited once");
        this.#openLegs.add(effect.order.leg);
        if (state.phase === "dialling") {
          const { transferId } = state.transfer.request;
          const party = state.legs.find(({ leg }) => leg === effect.order.leg)?.party ?? 0;
          holds(!this.#busy.has(calledAs(state, party)), "a busy operator is never dialled twice");
          this.#invites.set(transferId, (this.#invites.get(transferId) ?? 0) + 1);
        }
        break;
      case "media.join": {
        if (state.phase !== "withOperator") throw new Error("broken: only who has the call is joined");
        const { transferId } = state.transfer.request;
        // Each operator who passes the caller on makes room for one more.
        const bridges = (this.#joined.get(transferId) ?? 0) + 1;
        this.#joined.set(transferId, bridges);
        holds(bridges <= 1 + this.#passed, "one bridge per transfer, and one per REFER that was accepted");
        break;
      }
      case "refer.answer":
        this.#refers -= 1;
        if (effect.status === 202) {
          this.#passed += 1;
          holds(this.#subscribed === null, "one REFER at a time");
          this.#subscribed = effect.leg;
          if (state.phase === "dialling") {
            const { mostPasses = 0 } = state.core.setup.policy;
            const { passes } = state.transfer;
            holds(passes > 0 && passes <= mostPasses, "no caller is passed on more often than the channel wants");
          }
        }
        break;
      case "media.propose":
        this.#claims -= 1;
        holds(
          state.phase !== "ended" && state.core.setup.policy.operatorRefer === "accept",
          "nobody's place is taken where operators may not pass callers on",
        );
        break;
      case "leg.reinvite":
        if (effect.leg === caller)
          holds(this.#confirmed && !this.#callerGone, "only a caller who is there is offered to");
        else holds(hasAnswered(state, effect.leg), "only an operator who has answered is offered to");
        break;
      case "leg.refuse":
        if (effect.status === 603) this.#claims -= 1;
        break;
      case "refer.notify":
        holds(this.#subscribed === effect.leg, "only who waits for it is told how his REFER gets on");
        holds(effect.last === effect.status >= 200, "the last word is a final one");
        if (effect.last) this.#subscribed = null;
        break;
      case "leg.cancel":
      case "leg.bye":
      case "leg.reject":
        this.#openLegs.delete(effect.leg);
        holds(this.#subscribed !== effect.leg, "who asked for a REFER hears its end before he is hung up on");
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
      // An invalid switch gets its FAIL too, unless it was refused for another reason first.
      if (event.event === "accepted" || event.code === "invalid_target")
        for (const id of this.#switches.get(event.commandId) ?? []) this.#accepted.add(id);
    }
    if (event.event === "warning" && event.code === "fallback") {
      this.#fallbacks += 1;
      holds(this.#fallbacks === 1, "the fallback begins once");
    }
    if (event.event === "accepted") holds(this.#fallbacks === 0, "a bot that was given up is not obeyed");
    if (event.event === "transfer") {
      const { transferId } = event.transferDetails;
      holds(!this.#told.has(transferId), "one transfer event per switch");
      this.#told.set(transferId, event);
      const { transferStatus, transferDetails } = event;
      holds(Object.keys(transferStatus).join() === "status,hangup,number", "three keys in their order");
      const { attempts } = transferDetails;
      holds(attempts.length === (this.#invites.get(transferId) ?? 0), "the ledger shows every INVITE");
      const completed = transferDetails.cause === "completed";
      holds((transferStatus.status === "SUCCESS") === completed, "SUCCESS is completed and nothing else is");
    }
  }

  /** What holds after every single event. */
  atRest(state: CallState, effects: readonly Effect[]): void {
    const astray = this.#astray;
    holds(
      astray === null || effects.some((effect) => effect.type === "leg.bye" && effect.leg === astray),
      "nobody stays who does not follow the media server",
    );
    const waitsForOperator = state.phase === "dialling" || state.phase === "referring";
    this.#ownsItsLegsAndTimers(state);
    // A caller who hears nothing and is with nobody is waited for by this timer, or by nobody.
    holds(this.timers.has("bot") === waitsForBot(state), "the bot's time runs exactly while the caller waits for it");
    const listening = state.phase === "withBot" && waitsForBot(state);
    holds(!this.timers.has("input") || listening, "the caller's time runs only while the bot listens");
    if (state.phase === "withBot") {
      const { bot, playing, queue } = state.core;
      holds(bot !== "lost" || playing !== null || queue.length > 0, "the fallback never leaves the caller in silence");
    }
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

  /** The phone of whoever is not wanted any more has stopped ringing, and nobody's time runs on or is cut by another's end. */
  #ownsItsLegsAndTimers(state: CallState): void {
    holds(this.#refers === 0, "every REFER is answered");
    holds(this.#claims === 0, "whoever would take a place is answered");
    const passing = state.phase === "dialling" && state.passing?.here === true ? state.passing : null;
    holds(
      this.#subscribed === (passing?.attempt.leg ?? null),
      "an operator waits exactly while he passes the caller on",
    );
    const legs = state.phase === "dialling" ? state.legs : [];
    const invited = legs.filter(({ invitedAtMs }) => invitedAtMs !== null);
    const owned =
      state.phase === "withOperator"
        ? [state.attempt.leg]
        : [...invited, ...(passing === null ? [] : [passing.attempt])].map(({ leg }) => leg);
    holds([...this.#openLegs].toSorted().join() === owned.toSorted().join(), "no leg rings that nobody waits for");
    for (const { leg, invitedAtMs, ringingAtMs, answer } of legs) {
      const reaching = invitedAtMs !== null && ringingAtMs === null && answer === null;
      holds(this.timers.has(`progress ${leg}`) === reaching, "every leg has its own progress timer");
      holds(this.timers.has(`confirm ${leg}`) === (answer !== null), "every answered leg has its time to confirm");
    }
    const others = [...this.timers].filter((timer) => /^(?:progress|confirm) /.test(timer));
    holds(
      others.every((timer) => legs.some(({ leg }) => timer.endsWith(leg))),
      "no timer of a leg that is over",
    );
    const awaited = invited.some(({ answer }) => answer === null);
    holds(!awaited || this.timers.has("answer"), "one leg's end leaves the answer timer of the others alone");
    const limited = state.phase === "withOperator" && state.joinedAtMs !== null;
    const talk = limited && state.transfer.request.maxTalkMs !== null;
    holds(this.timers.has("talk") === talk, "the talk is limited exactly where the bot wants it");
  }

  atEnd(state: CallState): void {
    holds(state.phase === "ended", "the call ends");
    holds(this.#openLegs.size === 0, "every leg is released");
    holds(this.timers.size === 0, "every timer is stopped");
    holds(this.#callerGone, "the caller is released");
    holds(this.#closes === 1, "the anchor is closed once");
    holds(this.#hangups === 1, "one hangup event");
    const told = [...this.#told.keys()]
      .filter((id) => id !== fallbackTransfer)
      .toSorted()
      .join();
    holds(
      this.#fallbacks === 1 || !this.#told.has(fallbackTransfer),
      "the fallback's transfer comes with the fallback",
    );
    holds(told === [...this.#accepted].toSorted().join(), "every accepted switch has its transfer event");
    holds(
      [...this.#answers.values()].every((count) => count === 1),
      "every command is answered once",
    );
  }
}

function hasAnswered(state: CallState, leg: LegId): boolean {
  if (state.phase === "withOperator") return state.attempt.leg === leg;
  if (state.phase !== "dialling") return false;
  const passes = state.passing?.here === true && state.passing.attempt.leg === leg;
  return passes || state.legs.some((one) => one.leg === leg && one.answer !== null);
}

/** Who is called, and for which transfer. */
function calledAs({ transfer }: Extract<CallState, { phase: "dialling" }>, party: number): string {
  return `${transfer.request.transferId} ${partiesOf(transfer.request)[party]?.number}`;
}

function waitsForBot(state: CallState): boolean {
  switch (state.phase) {
    case "offered":
    case "ringing":
    case "answering":
    case "withBot":
      return state.core.bot !== "lost" && state.core.playing === null && state.core.queue.length === 0;
    default:
      return false;
  }
}

describe("a call under random events", () => {
  test("nothing is lost, nothing is told twice, nothing is left behind (25,000 sequences)", { timeout: 60_000 }, () => {
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
            const leg =
              before.phase === "dialling" &&
              before.legs.find((one) => one.leg === event.leg && one.invitedAtMs !== null && one.answer === null);
            const wanted = leg !== false && leg !== undefined;
            const asked = before.phase === "dialling" && before.transfer.request.confirm !== null;
            const fate = wanted ? (asked ? "media.consult" : "media.join") : "leg.bye";
            const met =
              hasAnswered(before, event.leg) ||
              effects.some((effect) => effect.type === fate && effect.leg === event.leg);
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
