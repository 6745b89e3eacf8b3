import type { Personality, World } from "./world.ts";

/** What a case saw, by what it looked at. */
export type Observed = Readonly<Record<string, string | number | boolean>>;

export interface Case {
  /** The number of the contract test in the design, and one of its own. */
  readonly id: string;
  readonly title: string;
  /** Waits for half a minute or more on every server: run by `npm run conformance` only. */
  readonly slow?: true;
  /** Why it cannot be run here. */
  readonly skipped?: string | undefined;
  /** T1 of the server, in milliseconds, where the usual short one would not do. */
  readonly t1Ms?: number;
  readonly run: (world: World) => Promise<Observed>;
  /** What the embedded engine shows. */
  readonly engine: Observed;
  /** Where `strictParity` differs from that. */
  readonly strict?: Observed;
  /** Where a drachtio-server differs from the engine. */
  readonly real?: Observed;
}

/** What a case has to show on a server of that personality. */
export function expected({ engine, strict = {}, real = {} }: Case, personality: Personality): Observed {
  return { ...engine, ...(personality === "strict" ? strict : personality === "real" ? real : {}) };
}
