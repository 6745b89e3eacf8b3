import type { Cancellable, Clock, Random } from "../../src/engine/timers.ts";

interface Appointment {
  readonly dueMs: number;
  readonly order: number;
  readonly run: () => void;
}

/** A clock that stands still until the test moves it; timers run in the order of their times. */
export class ManualClock implements Clock {
  #nowMs = 1_000;
  #order = 0;
  readonly #due = new Set<Appointment>();
  /** What timer callbacks threw: nothing, in a sound engine. */
  readonly errors: unknown[] = [];

  get pending(): number {
    return this.#due.size;
  }

  now(): number {
    return this.#nowMs;
  }

  after(ms: number, run: () => void): Cancellable {
    const appointment = { dueMs: this.#nowMs + ms, order: (this.#order += 1), run };
    this.#due.add(appointment);
    return {
      cancel: () => {
        this.#due.delete(appointment);
      },
    };
  }

  /** Moves on by so many milliseconds, running what falls due on the way, and lets microtasks run in between. */
  async advance(ms: number): Promise<void> {
    const endMs = this.#nowMs + ms;
    await settle();
    for (let next = this.#nextUntil(endMs); next !== undefined; next = this.#nextUntil(endMs)) {
      this.#due.delete(next);
      this.#nowMs = next.dueMs;
      try {
        next.run();
      } catch (error) {
        this.errors.push(error);
      }
      await settle();
    }
    this.#nowMs = endMs;
  }

  #nextUntil(endMs: number): Appointment | undefined {
    let first: Appointment | undefined;
    for (const one of this.#due) {
      const earlier =
        first === undefined || one.dueMs < first.dueMs || (one.dueMs === first.dueMs && one.order < first.order);
      if (one.dueMs <= endMs && earlier) {
        first = one;
      }
    }
    return first;
  }
}

async function settle(): Promise<void> {
  for (let turn = 0; turn < 4; turn += 1) {
    await Promise.resolve();
  }
}

/** Always the same "random" numbers for the same seed. */
export function seededRandom(seed = 1): Random {
  let state = seed >>> 0 || 1;
  const next = (): number => {
    // xorshift32: plain, and good enough for tests.
    state ^= state << 13;
    state >>>= 0;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state;
  };
  const token = (bits: number): string => {
    let text = "";
    while (text.length * 4 < bits) {
      text += next().toString(16).padStart(8, "0");
    }
    return text.slice(0, Math.ceil(bits / 4));
  };
  return {
    token,
    integer: (maxExclusive) => next() % maxExclusive,
    uuid: () => {
      const hex = token(128);
      return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20)}`;
    },
  };
}
