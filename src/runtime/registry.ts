import { begin } from "../call/decide.ts";
import type { Effect } from "../call/effect.ts";
import type { CallEvent } from "../call/event.ts";
import type { CallId } from "../call/ids.ts";
import type { CallSetup } from "../call/setup.ts";
import type { Clock } from "../lib/clock.ts";
import type { Telemetry } from "../telemetry/events.ts";
import { CallActor } from "./call-actor.ts";
import { observe, type Ports, runEffect } from "./effects.ts";
import { CallTimers } from "./timers.ts";

export interface RegistryOptions {
  readonly clock: Clock;
  readonly telemetry: Telemetry;
  /** Told when a call is over and forgotten. */
  readonly ended: (call: CallId) => void;
}

/** Every call this process holds. */
export class CallRegistry {
  readonly #calls = new Map<CallId, CallActor>();
  readonly #options: RegistryOptions;
  readonly #timers: CallTimers;
  readonly #idle = new Set<() => void>();
  #ports: Ports | undefined;

  constructor(options: RegistryOptions) {
    this.#options = options;
    this.#timers = new CallTimers(options.clock, this.post);
  }

  /** The adapters need `post` to be made, so they come after the registry. */
  connect(ports: Omit<Ports, "timers">): void {
    this.#ports = { ...ports, timers: this.#timers };
  }

  get size(): number {
    return this.#calls.size;
  }

  /** Running timers of all calls. */
  get timers(): number {
    return this.#timers.size;
  }

  phases(): ReadonlyMap<string, number> {
    const phases = new Map<string, number>();
    for (const { state } of this.#calls.values()) phases.set(state.phase, (phases.get(state.phase) ?? 0) + 1);
    return phases;
  }

  /** Takes in a new call. Throws when its id is in use, which would be a fault of ours. */
  begin(setup: CallSetup): void {
    const { call, botId, trunk, callerNumber, calledNumber } = setup;
    if (this.#calls.has(call)) throw new Error(`call ${call} exists already`);
    const { telemetry, clock } = this.#options;
    const first = begin(setup);
    const actor = new CallActor(first, () => clock.now(), {
      run: (effect) => this.#run(setup, effect),
      overflowed: () => telemetry.inboxOverflowed(call),
      failed: (event, error) => telemetry.eventFailed(call, event, error),
      changed: (before, now) => {
        if (before.phase !== now.phase) telemetry.phaseChanged(call, before.phase, now.phase);
        if (now.phase === "ended") this.#forget(call);
      },
    });
    this.#calls.set(call, actor);
    telemetry.callStarted(call, { botId, trunk, caller: callerNumber, called: calledNumber });
    actor.start(first);
  }

  readonly post = (call: CallId, event: CallEvent): boolean => {
    const actor = this.#calls.get(call);
    actor?.post(event);
    return actor !== undefined;
  };

  /** Tells every call the same. */
  postAll(event: CallEvent): void {
    for (const call of this.#calls.keys()) this.post(call, event);
  }

  /** Ends every call; resolves when the last one is over. */
  async endAll(): Promise<void> {
    this.postAll({ type: "shutdown" });
    await this.idle();
  }

  /** Resolves when no call is held. */
  async idle(): Promise<void> {
    if (this.#calls.size === 0) return;
    await new Promise<void>((resolve) => {
      this.#idle.add(resolve);
    });
  }

  #run(setup: CallSetup, effect: Effect): void {
    const ports = this.#ports;
    if (ports === undefined) throw new Error("the registry takes calls only after connect()");
    const { telemetry } = this.#options;
    if (effect.type === "bot.publish") observe(telemetry, setup, effect.event);
    try {
      runEffect(ports, setup, effect);
    } catch (error) {
      // A port that throws is a bug of ours; the parties are released rather than left in silence.
      telemetry.effectFailed(setup.call, effect.type, error);
      this.post(setup.call, { type: "shutdown" });
    }
  }

  #forget(call: CallId): void {
    this.#timers.clear(call);
    if (!this.#calls.delete(call)) return;
    this.#options.ended(call);
    if (this.#calls.size > 0) return;
    for (const resolve of this.#idle) resolve();
    this.#idle.clear();
  }
}
