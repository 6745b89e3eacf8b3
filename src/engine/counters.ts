/** Names of everything the engine counts. Numbers only ever grow; sizes of live maps are in `EngineStats` instead. */
export const counterNames = [
  "clientsAccepted",
  "clientsRefused",
  "clientsClosed",
  "authenticationFailures",
  "framesIn",
  "framesOut",
  "commandsRefused",
  "requestsIn",
  "requestsRefused",
  "requestsUnrouted",
  "requestsUnanswered",
  "responsesIn",
  "responsesUnmatched",
  "requestsOut",
  "responsesOut",
  "acksUnmatched",
  "syntheticResponses",
  "forksEnded",
  "ackTimeouts",
  "prackTimeouts",
  "dialogsCreated",
  "dialogsEnded",
  "orphansEnded",
  "dialogsAdopted",
  "endsKept",
] as const;

export type CounterName = (typeof counterNames)[number];
export type CounterValues = Readonly<Record<CounterName, number>>;

/** The engine's own counters: no metrics package, whoever wants them reads `values()`. */
export class Counters {
  readonly #values = new Map<CounterName, number>(counterNames.map((name) => [name, 0]));

  add(name: CounterName): void {
    this.#values.set(name, this.get(name) + 1);
  }

  get(name: CounterName): number {
    return this.#values.get(name) ?? 0;
  }

  values(): CounterValues {
    return Object.fromEntries(this.#values) as Record<CounterName, number>;
  }
}
