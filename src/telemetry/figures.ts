import { Counter, Gauge, type Registry } from "prom-client";

/** A number that somebody else keeps; it is read at each scrape. */
export interface Figure<Source> {
  /** In Prometheus' spelling; that of a counter ends in `_total`. */
  readonly name: string;
  readonly help: string;
  readonly type: "counter" | "gauge";
  readonly read: (source: Source) => number;
}

export function addFigures<Source>(registry: Registry, figures: readonly Figure<Source>[], source: () => Source): void {
  for (const { name, help, type, read } of figures) {
    const registers = [registry];
    if (type === "gauge") {
      const gauge: Gauge = new Gauge({ name, help, registers, collect: () => gauge.set(read(source())) });
    } else {
      const counter: Counter = new Counter({
        name,
        help,
        registers,
        collect() {
          counter.reset();
          counter.inc(read(source()));
        },
      });
    }
  }
}
