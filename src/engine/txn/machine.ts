import type { SipTimers } from "../timers.ts";

/** The timers of RFC 3261 table 4 and RFC 6026 §7 that transactions run. */
export type TimerName = "A" | "B" | "D" | "E" | "F" | "G" | "H" | "I" | "J" | "K" | "L" | "M";

/** What a row asks for. `send` is the request of a client, the last response of a server. */
export type Effect =
  | { readonly type: "send" }
  /** The ACK to a non-2xx final response, which belongs to the INVITE transaction (RFC 3261 §17.1.1.3). */
  | { readonly type: "sendAck" }
  /** The message goes to the transaction user. */
  | { readonly type: "passUp" }
  /** A 2xx that came after another final response: not of this transaction, but somebody has to end its dialog. */
  | { readonly type: "passUpStray" }
  | { readonly type: "reportTimeout" }
  | { readonly type: "reportTransportError" }
  | { readonly type: "startTimer"; readonly timer: TimerName; readonly ms: number }
  | { readonly type: "stopTimer"; readonly timer: TimerName };

/** An effect as a table writes it: timers by name only, because their length depends on T1 and the transport. */
export type RowEffect = Exclude<Effect, { type: "startTimer" }>["type"] | `start ${TimerName}` | `stop ${TimerName}`;

export interface Row<State extends string> {
  readonly to: State;
  readonly effects: readonly RowEffect[];
}

/** One transaction machine: per state the events that mean something in it. All others are ignored. */
export type Table<State extends string, Event extends string> = Readonly<
  Record<State, Readonly<Partial<Record<Event, Row<State>>>>>
>;

export interface Timing {
  readonly timers: SipTimers;
  /** TCP: nothing is retransmitted and nothing is waited for. */
  readonly reliable: boolean;
  /** How long the timer that just fired had run: retransmission timers double it. */
  readonly firedMs?: number | undefined;
}

export interface Step<State extends string> {
  readonly state: State;
  readonly effects: readonly Effect[];
}

/** The pure transition function of all four machines. An event without a row changes nothing. */
export function step<State extends string, Event extends string>(
  table: Table<State, Event>,
  state: State,
  event: Event,
  timing: Timing,
): Step<State> {
  const row = table[state][event];
  if (row === undefined) {
    return { state, effects: [] };
  }
  const effects: Effect[] = [];
  for (const effect of row.effects) {
    const one = toEffect(effect, state, timing);
    if (one !== undefined) {
      effects.push(one);
    }
  }
  return { state: row.to, effects };
}

function toEffect(effect: RowEffect, from: string, timing: Timing): Effect | undefined {
  if (effect.startsWith("start ")) {
    const timer = effect.slice(6) as TimerName;
    const ms = timerMs(timer, from, timing);
    return ms === undefined ? undefined : { type: "startTimer", timer, ms };
  }
  if (effect.startsWith("stop ")) {
    return { type: "stopTimer", timer: effect.slice(5) as TimerName };
  }
  return { type: effect as Exclude<Effect["type"], "startTimer" | "stopTimer"> };
}

/** The length of a timer; undefined where the transport makes it needless, 0 where it fires at once. */
function timerMs(timer: TimerName, from: string, { timers, reliable, firedMs }: Timing): number | undefined {
  switch (timer) {
    // RFC 3261 §17.1.1.2: A starts at T1 and doubles without a cap; B ends it.
    case "A":
      return reliable ? undefined : (firedMs ?? timers.t1Ms / 2) * 2;
    // RFC 3261 §17.1.2.2: E starts at T1, doubles up to T2, and is T2 once a provisional response is there.
    case "E":
      if (reliable) {
        return undefined;
      }
      return from === "proceeding" ? timers.t2Ms : Math.min((firedMs ?? timers.t1Ms / 2) * 2, timers.t2Ms);
    // RFC 3261 §17.2.1: G starts at T1 and doubles up to T2.
    case "G":
      return reliable ? undefined : Math.min((firedMs ?? timers.t1Ms / 2) * 2, timers.t2Ms);
    // RFC 3261 §17.1.1.2: "at least 32 seconds for unreliable transports", nothing for reliable ones; §17.2.2 J likewise.
    case "D":
    case "J":
      return reliable ? 0 : timers.t64Ms;
    // RFC 3261 §17.2.1, §17.1.2.2: T4 for what is still under way.
    case "I":
    case "K":
      return reliable ? 0 : timers.t4Ms;
    // RFC 6026 §7: L and M are 64*T1 on every transport, because 2xx are retransmitted by the user agent on all of them.
    case "B":
    case "F":
    case "H":
    case "L":
    case "M":
      return timers.t64Ms;
  }
}

/** The response classes that the tables tell apart. */
export function responseClass(status: number): "1xx" | "2xx" | "3xx-6xx" {
  if (status < 200) {
    return "1xx";
  }
  return status < 300 ? "2xx" : "3xx-6xx";
}
