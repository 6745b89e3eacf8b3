import { describe, expect, test } from "vitest";
import type { CallEvent } from "../../src/call/event.ts";
import type { Effect } from "../../src/call/effect.ts";
import type { CallId, LegId } from "../../src/call/ids.ts";
import type { BotEvent } from "../../src/call/bot-event.ts";
import type { Cancellable, Clock } from "../../src/lib/clock.ts";
import { CallActor, inboxMax } from "../../src/runtime/call-actor.ts";
import type { Ports } from "../../src/runtime/effects.ts";
import { CallRegistry } from "../../src/runtime/registry.ts";
import { CallTimers } from "../../src/runtime/timers.ts";
import { createTelemetry } from "../../src/telemetry/events.ts";
import { silentLog } from "../../src/telemetry/log.ts";
import { sourcesAtRest } from "../../scripts/metrics-table.ts";
import { createMetrics } from "../../src/telemetry/metrics.ts";
import { begin } from "../../src/call/decide.ts";
import { caller, callId, sdp, setup, operator } from "../scenario/script.ts";

class ManualClock implements Clock {
  #nowMs = 0;
  readonly #timers = new Map<object, { atMs: number; run: () => void }>();
  now = (): number => this.#nowMs;
  wallMs = (): number => this.#nowMs;
  after(ms: number, run: () => void): Cancellable {
    const key = {};
    this.#timers.set(key, { atMs: this.#nowMs + ms, run });
    return { cancel: () => this.#timers.delete(key) };
  }
  advance(ms: number): void {
    this.#nowMs += ms;
    for (const [key, timer] of this.#timers) {
      if (timer.atMs > this.#nowMs) continue;
      this.#timers.delete(key);
      timer.run();
    }
  }
  get running(): number {
    return this.#timers.size;
  }
}

/** Ports that only write down what they were asked; `failing` throws at one effect, as a bug would. */
function recordingPorts(asked: string[], told: BotEvent[], failing = ""): Omit<Ports, "timers"> {
  const note =
    (name: string) =>
    (...args: unknown[]): void => {
      if (name === failing) throw new Error("a bug");
      asked.push(name);
      if (name === "publish") told.push(args[1] as BotEvent);
    };
  const all = (names: string[]): Record<string, (...args: unknown[]) => void> =>
    Object.fromEntries(names.map((name) => [name, note(name)]));
  return {
    signalling: all(["ring", "accept", "reject", "invite", "cancel", "bye", "refer", "reanswer", "refuse"]),
    media: all(["open", "play", "stop", "ringback", "offer", "join", "drop", "update", "phase", "recording", "close"]),
    bot: all(["publish"]),
  } as unknown as Omit<Ports, "timers">;
}

function registryWith(failing = ""): {
  registry: CallRegistry;
  asked: string[];
  told: BotEvent[];
  clock: ManualClock;
  ended: CallId[];
} {
  const clock = new ManualClock();
  const ended: CallId[] = [];
  const telemetry = createTelemetry(silentLog, createMetrics(sourcesAtRest));
  const registry: CallRegistry = new CallRegistry({ clock, telemetry, ended: (call) => ended.push(call) });
  const asked: string[] = [];
  const told: BotEvent[] = [];
  registry.connect(recordingPorts(asked, told, failing));
  return { registry, asked, told, clock, ended };
}

describe("the registry", () => {
  test("a call lives from begin to media.closed, and leaves nothing", async () => {
    const { registry, asked, told, clock, ended } = registryWith();
    registry.begin(setup());
    expect(registry.post(callId, { type: "media.opened", answer: sdp })).toBe(true);
    registry.post(callId, { type: "leg.confirmed", leg: caller });
    expect(registry.phases()).toEqual(new Map([["withBot", 1]]));
    registry.post(callId, { type: "leg.ended", leg: caller, status: null, reason: null, q850: null });
    const idle = registry.idle();
    registry.post(callId, { type: "media.closed" });
    await idle;
    expect([registry.size, registry.timers, clock.running]).toEqual([0, 0, 0]);
    expect(ended).toEqual([callId]);
    expect(told.map((event) => event.event)).toEqual(["call", "answered", "hangup"]);
    expect(asked.filter((name) => name === "close")).toHaveLength(1);
    expect(registry.post(callId, { type: "shutdown" })).toBe(false);
  });

  test("a port that throws ends the call and releases the caller", () => {
    const { registry, asked } = registryWith("accept");
    registry.begin(setup());
    registry.post(callId, { type: "media.opened", answer: sdp });
    expect(asked).toContain("bye");
    expect(asked).toContain("close");
  });

  test("an event the core throws at gives up its call and no other", () => {
    const { registry, asked, clock } = registryWith();
    registry.begin(setup());
    registry.begin({ ...setup(), call: "c2" as CallId, caller: "c2/caller" as LegId });
    registry.post(callId, { type: "media.opened", answer: sdp });
    registry.post(callId, { type: "leg.confirmed", leg: caller });
    const broken = { type: "bot.command", command: { commandId: "x", worker: null } } as unknown as CallEvent;
    expect(() => registry.post(callId, broken)).not.toThrow();
    expect(asked).toContain("bye");
    expect(registry.phases()).toEqual(
      new Map([
        ["ending", 1],
        ["offered", 1],
      ]),
    );
    clock.advance(60_000);
    expect(registry.phases()).toEqual(new Map([["offered", 1]]));
  });

  test("endAll ends every call and waits for the last one", async () => {
    const { registry, clock } = registryWith();
    registry.begin(setup());
    registry.begin({ ...setup(), call: "c2" as CallId, caller: "c2/caller" as LegId });
    const over = registry.endAll();
    // The media side never answers here: the closing timer lets the calls go.
    clock.advance(60_000);
    await over;
    expect([registry.size, registry.timers]).toEqual([0, 0]);
  });
});

describe("the actor", () => {
  test("events posted by an effect wait for the effect's own event to be done", () => {
    const order: string[] = [];
    const first = begin(setup());
    const actor: CallActor = new CallActor(first, () => 0, {
      run: (effect: Effect) => {
        order.push(effect.type);
        if (effect.type === "media.open") actor.post({ type: "media.opened", answer: sdp });
      },
      changed: (_before, now) => order.push(`→ ${now.phase}`),
      overflowed: () => order.push("overflow"),
      failed: (event) => order.push(`failed at ${event}`),
    });
    actor.start(first);
    expect(order).toEqual(["bot.publish", "media.open", "leg.accept", "→ answering"]);
  });

  test("an inbox that runs over ends the call instead of growing", () => {
    let overflows = 0;
    const first = begin(setup());
    const actor: CallActor = new CallActor(first, () => 0, {
      run: (effect: Effect) => {
        if (effect.type !== "media.open") return;
        for (let n = 0; n < inboxMax + 10; n += 1) actor.post({ type: "leg.confirmed", leg: caller });
      },
      changed: () => undefined,
      overflowed: () => {
        overflows += 1;
      },
      failed: (_event, error) => {
        throw error;
      },
    });
    actor.start(first);
    expect(overflows).toBe(1);
    expect(actor.state.phase).toBe("ending");
  });
});

describe("timers", () => {
  test("starting again restarts; stopping and clearing leave nothing", () => {
    const clock = new ManualClock();
    const fired: string[] = [];
    const timers = new CallTimers(clock, (_call, event) => {
      if (event.type === "timer.fired") fired.push(event.timer);
      return true;
    });
    timers.start(callId, "answer", 100);
    clock.advance(60);
    timers.start(callId, "answer", 100);
    clock.advance(60);
    expect(fired).toEqual([]);
    clock.advance(60);
    expect(fired).toEqual(["answer"]);
    timers.start(callId, `progress ${operator(1)}`, 10);
    timers.start(callId, `progress ${operator(2)}`, 10);
    timers.stop(callId, `progress ${operator(1)}`);
    expect(timers.size).toBe(1);
    timers.start(callId, "closing", 10);
    timers.clear(callId);
    clock.advance(100);
    expect(fired).toEqual(["answer"]);
    expect([timers.size, clock.running]).toEqual([0, 0]);
  });
});
