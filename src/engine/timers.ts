import { randomFillSync, randomInt, randomUUID } from "node:crypto";

/** A timer that has been started. Cancelling twice, or after it fired, does nothing. */
export interface Cancellable {
  cancel(): void;
}

/** The only source of time in the engine, so that tests can run 64*T1 in no time at all. */
export interface Clock {
  /** Monotonic milliseconds with an arbitrary origin: for intervals, never for wall-clock times. */
  now(): number;
  /** Runs `run` once after `ms` milliseconds. What `run` throws is reported, never thrown out of the timer. */
  after(ms: number, run: () => void): Cancellable;
}

/** The only source of randomness in the engine. */
export interface Random {
  /** A string of RFC 3261 token characters (`0-9a-f`) that carries at least `bits` bits (at most 32,768). */
  token(bits: number): string;
  /** A whole number from 0 up to but excluding `maxExclusive` (1 to 2^47). */
  integer(maxExclusive: number): number;
  uuid(): string;
}

// Node fires a timer at once when its delay does not fit into 31 bits.
const longestDelayMs = 2 ** 31 - 1;

// Most timers of SIP run for 32 s and are cancelled or fire long after anything happens. Those of 4 s and more share one
// timer of Node's per slice of time: a timer of its own for each would be the largest thing that a finished call leaves.
const coarseFromMs = 4_000;
const sliceMs = 100;

/** The machine's clock; `onError` gets what a timer's callback threw. Timers of 4 s and more fire up to 0.1 s late. */
export function createSystemClock(onError: (error: unknown) => void): Clock {
  const guarded = (run: () => void): void => {
    try {
      run();
    } catch (error) {
      onError(error);
    }
  };
  const slices = new Map<number, Slice>();
  return {
    now: () => performance.now(),
    after(ms, run) {
      if (ms < coarseFromMs || ms > longestDelayMs - sliceMs) {
        return new OwnTimer(
          () => {
            guarded(run);
          },
          Math.min(Math.max(ms, 0), longestDelayMs),
        );
      }
      const now = performance.now();
      const number = Math.ceil((now + ms) / sliceMs);
      let slice = slices.get(number);
      if (slice === undefined) {
        slice = new Slice(Math.ceil(number * sliceMs - now), guarded, () => slices.delete(number));
        slices.set(number, slice);
      }
      return new SliceMember(run, slice);
    },
  };
}

class OwnTimer implements Cancellable {
  readonly #timer: NodeJS.Timeout;

  constructor(run: () => void, ms: number) {
    this.#timer = setTimeout(run, ms);
  }

  cancel(): void {
    clearTimeout(this.#timer);
  }
}

/** The timers that are due within one slice of time. */
class Slice {
  readonly members = new Set<SliceMember>();
  readonly #timer: NodeJS.Timeout;
  readonly #onOver: () => void;

  constructor(ms: number, guarded: (run: () => void) => void, onOver: () => void) {
    this.#onOver = onOver;
    this.#timer = setTimeout(() => {
      onOver();
      // A member that another one cancels leaves the set before its turn.
      for (const { run } of this.members) {
        guarded(run);
      }
    }, ms);
  }

  remove(member: SliceMember): void {
    this.members.delete(member);
    // An empty slice must not keep the process alive.
    if (this.members.size === 0) {
      clearTimeout(this.#timer);
      this.#onOver();
    }
  }
}

class SliceMember implements Cancellable {
  readonly run: () => void;
  readonly #slice: Slice;

  constructor(run: () => void, slice: Slice) {
    this.run = run;
    this.#slice = slice;
    slice.members.add(this);
  }

  cancel(): void {
    this.#slice.remove(this);
  }
}

/** The machine's clock for callers without a log of their own: what a callback throws is printed with its stack. */
export const systemClock: Clock = createSystemClock((error) => {
  // oxlint-disable-next-line no-console -- without a log this is the only way not to lose the error.
  console.error("a timer callback of the engine failed", error);
});

// The system is asked once for many tokens: a call takes six of them, and asking costs more than all else about a token.
const pool = Buffer.alloc(4_096);
let poolUsed = pool.length;

function takeToken(bits: number): string {
  const bytes = Math.ceil(bits / 8);
  if (poolUsed + bytes > pool.length) {
    randomFillSync(pool);
    poolUsed = 0;
  }
  const from = poolUsed;
  poolUsed += bytes;
  return pool.toString("hex", from, poolUsed);
}

export const systemRandom: Random = {
  token: takeToken,
  integer: (maxExclusive) => randomInt(maxExclusive),
  uuid: () => randomUUID(),
};

/** The timer values of RFC 3261 §17.1.1.1, all scaled from one T1 so that tests can run them fast. */
export interface SipTimers {
  /** Round-trip estimate; first retransmission interval. */
  readonly t1Ms: number;
  /** Longest retransmission interval of non-INVITE requests and INVITE responses. */
  readonly t2Ms: number;
  /** Longest time a message stays in the network (timers I and K). */
  readonly t4Ms: number;
  /** 64*T1: timers B, D, F, H, J, L and M. */
  readonly t64Ms: number;
}

/** All SIP timers from T1 in milliseconds (default 500, RFC 3261 table 4). */
export function sipTimers(t1Ms = 500): SipTimers {
  return { t1Ms, t2Ms: 8 * t1Ms, t4Ms: 10 * t1Ms, t64Ms: 64 * t1Ms };
}

interface NamedTimer {
  readonly name: string;
  readonly timer: Cancellable;
}

const none: readonly NamedTimer[] = [];

/** The named timers of one owner. Starting a name again replaces its timer; `clear()` leaves none behind. */
export class TimerSet {
  readonly #clock: Clock;
  // An owner has one to three timers at a time: a list is smaller than a map, and there are several owners to a call.
  #running: readonly NamedTimer[] = none;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get size(): number {
    return this.#running.length;
  }

  has(name: string): boolean {
    return this.#running.some((one) => one.name === name);
  }

  start(name: string, ms: number, run: () => void): void {
    this.stop(name);
    const timer = this.#clock.after(ms, () => {
      // Removed before it runs, so that `run` may start the same name again.
      this.#remove(name);
      run();
    });
    this.#running = [...this.#running, { name, timer }];
  }

  stop(name: string): void {
    const running = this.#running.find((one) => one.name === name);
    if (running !== undefined) {
      running.timer.cancel();
      this.#remove(name);
    }
  }

  clear(): void {
    for (const { timer } of this.#running) {
      timer.cancel();
    }
    this.#running = none;
  }

  #remove(name: string): void {
    this.#running = this.#running.length === 1 ? none : this.#running.filter((one) => one.name !== name);
  }
}
