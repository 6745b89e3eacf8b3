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

/** The machine's clock; `onError` gets what a timer's callback threw. */
export function createSystemClock(onError: (error: unknown) => void): Clock {
  return {
    now: () => performance.now(),
    after(ms, run) {
      const timer = setTimeout(
        () => {
          try {
            run();
          } catch (error) {
            onError(error);
          }
        },
        Math.min(Math.max(ms, 0), longestDelayMs),
      );
      return {
        cancel() {
          clearTimeout(timer);
        },
      };
    },
  };
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

/** The named timers of one owner. Starting a name again replaces its timer; `clear()` leaves none behind. */
export class TimerSet {
  readonly #clock: Clock;
  readonly #running = new Map<string, Cancellable>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get size(): number {
    return this.#running.size;
  }

  has(name: string): boolean {
    return this.#running.has(name);
  }

  start(name: string, ms: number, run: () => void): void {
    this.stop(name);
    const timer = this.#clock.after(ms, () => {
      // Removed before it runs, so that `run` may start the same name again.
      this.#running.delete(name);
      run();
    });
    this.#running.set(name, timer);
  }

  stop(name: string): void {
    this.#running.get(name)?.cancel();
    this.#running.delete(name);
  }

  clear(): void {
    for (const timer of this.#running.values()) {
      timer.cancel();
    }
    this.#running.clear();
  }
}
