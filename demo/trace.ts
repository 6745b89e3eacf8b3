// Prints rows of the ladder in the order of their times, though they come from several watchers.
import { drawRow, type Row } from "./ladder.ts";

export interface TraceOptions {
  /** What counts as 0.000, milliseconds since the epoch. */
  readonly zeroMs: number;
  readonly colour: boolean;
  readonly write: (line: string) => void;
  readonly now: () => number;
}

interface Entry {
  readonly atMs: number;
  readonly row: Row;
}

/** A row waits this long for earlier ones of another watcher, which looks at its source less often. */
const holdBackMs = 120;
const flushEveryMs = 40;
/** No call of the demo comes near it; a runaway watcher must not fill the memory. */
const mostWaiting = 10_000;

export class Trace implements AsyncDisposable {
  readonly #options: TraceOptions;
  readonly #timer: NodeJS.Timeout;
  #waiting: Entry[] = [];

  constructor(options: TraceOptions) {
    this.#options = options;
    this.#timer = setInterval(() => this.#flush(options.now() - holdBackMs), flushEveryMs);
  }

  /** Adds a row; `atMs` is the time since the epoch at which it happened. */
  add(atMs: number, row: Row): void {
    if (this.#waiting.length < mostWaiting) this.#waiting.push({ atMs, row });
  }

  #flush(untilMs: number): void {
    const due = this.#waiting.filter(({ atMs }) => atMs <= untilMs).toSorted((a, b) => a.atMs - b.atMs);
    this.#waiting = this.#waiting.filter(({ atMs }) => atMs > untilMs);
    const { zeroMs, colour, write } = this.#options;
    for (const { atMs, row } of due) write(drawRow(atMs - zeroMs, row, colour));
  }

  /** Prints everything that still waits. */
  finish(): void {
    this.#flush(Number.POSITIVE_INFINITY);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    this.finish();
  }
}
