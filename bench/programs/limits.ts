import type { Engine } from "../../src/engine/index.ts";

/** Wide enough for the highest rate of the ladder times the 32 s that finished transactions stay. */
export const benchLimits = {
  dialogs: 200_000,
  pendingRequests: 100_000,
  outgoingRequests: 200_000,
  transactions: { client: 500_000, server: 500_000 },
} as const;

/** What an engine holds: `left.` has to be nothing at rest, `open.` the same as at the start. */
export function remains(engine: Engine): Readonly<Record<string, number>> {
  const { agent, transactions, transport, wire } = engine.stats();
  const counts: Record<string, number> = {
    "left.client": transactions.client,
    "left.server": transactions.server,
    "left.timers": transactions.timers,
    "left.busy": engine.isIdle() ? 0 : 1,
    "open.udp": transport.udpSockets,
    "open.tcp": transport.tcpConnections,
    "open.applications": wire.clients,
  };
  for (const [name, count] of Object.entries<number>({ ...agent })) {
    counts[`left.${name}`] = count;
  }
  for (const kind of process.getActiveResourcesInfo()) {
    // Sockets of every kind; timers that are Node's own come and go.
    if (kind.endsWith("Wrap")) {
      counts[`open.${kind}`] = (counts[`open.${kind}`] ?? 0) + 1;
    }
  }
  return counts;
}
