import type { Socket } from "node:net";

import { Counters } from "./counters.ts";
import type { CounterValues } from "./counters.ts";
import { defaultSessionRules } from "./dialog/session-timer.ts";
import type { EngineEvents, SipCommands } from "./events.ts";
import { EngineNetwork } from "./network.ts";
import { defaultLimits, silentLog } from "./options.ts";
import type { EngineLimits, EngineLog, EngineOptions } from "./options.ts";
import { formatHostPort, parseUri } from "./sip/grammar.ts";
import { defaultMessageLimits } from "./sip/parse.ts";
import { createSystemClock, sipTimers, systemRandom } from "./timers.ts";
import type { Clock, Random } from "./timers.ts";
import { TransportLayer } from "./transport/index.ts";
import type { Listener, TransportStats } from "./transport/index.ts";
import { TargetResolver } from "./transport/resolve.ts";
import { defaultTcpLimits } from "./transport/tcp-connection.ts";
import { defaultTransactionLimits, TransactionLayer } from "./txn/index.ts";
import type { TransactionStats } from "./txn/index.ts";
import { UserAgent } from "./ua/agent.ts";
import type { AgentStats } from "./ua/agent.ts";
import { inProcessPair } from "./wire/in-process.ts";
import { parseTarget } from "./wire/outbound.ts";
import { WireServer } from "./wire/server.ts";
import type { WireServerParts, WireStats } from "./wire/server.ts";

export type { EngineLog, EngineOptions } from "./options.ts";
export { TargetResolver } from "./transport/resolve.ts";

/** Sizes of every map and number of every timer: all zero at rest, but for the sockets and the connected applications. */
export interface EngineStats {
  readonly agent: AgentStats;
  readonly transactions: TransactionStats;
  readonly transport: TransportStats;
  readonly wire: WireStats;
  readonly counters: CounterValues;
}

export interface Engine {
  /** The port that drachtio-srf connects to. */
  readonly controlPort: number;
  /**
   * A connection to the engine for an application in the same process: drachtio-srf's end of it, for a `net.Server` that
   * listens nowhere and is given to `srf.listen`. It authenticates and routes like one that came by TCP.
   */
  connection(): Socket;
  /** The SIP addresses really listened on. */
  readonly listening: readonly Listener[];
  /** Replaces the list of who may send requests, from the next message on. Throws `SourceError`. */
  setSources(sources: readonly string[] | "any"): void;
  /** A dialog as text, which its remote target and routes are in as they are now; undefined when there is none of that id. */
  saved(dialogId: string): string | undefined;
  /**
   * Makes dialogs again from what `saved` gave of them in a process that has died. They are without an application until one
   * connects, or are ended by BYE after the grace time. What cannot be read is passed over.
   */
  takeBack(saved: Iterable<string>): void;
  stats(): EngineStats;
  /** Whether nothing is left of any call: no dialog, no transaction, no timer, no pending request. */
  isIdle(): boolean;
  /** Takes no new calls from now on (503); those that are there stay. */
  drain(): void;
  /** Ends the calls there are by BYE, waits shortly for the answers, closes everything. Idempotent, never rejects. */
  close(): Promise<void>;
}

/** How long `close` waits for the answers to its BYEs, in units of T1. */
const closingWaitT1 = 4;
const closingCheckMs = 10;
const defaultOrphanGraceMs = 30_000;
const defaultWaitMs = 10_000;
const outboundConnectMs = 2000;
const outboundAuthenticationMs = 3000;
const outboundIdleMs = 30_000;
const defaultRingingLimitMs = 660_000;

/**
 * What stands on the application's side of the SIP core: the wire server, or the program with which the benchmark
 * measures the core alone. `start` resolves with the control port.
 */
export interface ApplicationSide extends EngineEvents {
  start(): Promise<number>;
  /** Takes a connection of an application in this process. */
  attach(socket: Socket): void;
  close(): Promise<void>;
  stats(): WireStats;
}

/**
 * Starts the embedded SIP engine: a SIP stack that speaks drachtio-server's wire protocol on its control port.
 * Rejects with `ListenError` when an address is taken, `SourceError` for a bad source list.
 */
export async function startEngine(options: EngineOptions): Promise<Engine> {
  return await startEngineWith(options, (parts, core) => new WireServer(parts, core));
}

/** The same with another application side. */
export async function startEngineWith(
  options: EngineOptions,
  side: (parts: WireServerParts, core: SipCommands) => ApplicationSide,
): Promise<Engine> {
  const log: EngineLog = options.log ?? silentLog;
  const clock: Clock =
    options.clock ??
    createSystemClock((error) => {
      log.error("a timer callback failed", { error });
    });
  const random: Random = options.random ?? systemRandom;
  const timers = sipTimers(options.t1Ms);
  const { message, tcp, transactions: transactionLimits, ...ownLimits } = options.limits ?? {};
  const limits: EngineLimits = { ...defaultLimits, ...ownLimits };
  const counters = new Counters();
  const outboundProxy = options.outboundProxy === undefined ? undefined : parseUri(options.outboundProxy);
  if (options.outboundProxy !== undefined && outboundProxy === undefined) {
    throw new Error("outboundProxy is not a SIP URI");
  }

  const strictParity = options.strictParity ?? false;
  const applications = (options.applications ?? []).map((text) => {
    const target = parseTarget(text);
    if (target === undefined) {
      throw new Error(`${text} is not an application's address, such as tcp://127.0.0.1:3001`);
    }
    return target;
  });

  const transport = new TransportLayer({
    listen: options.listen,
    externalAddress: options.externalAddress,
    sources: options.sources,
    largeByTcp: options.largeByTcp,
    limits: { message: { ...defaultMessageLimits, ...message }, tcp: { ...defaultTcpLimits, ...tcp } },
    clock,
    log,
  });
  const transactions = new TransactionLayer({
    transport,
    timers,
    clock,
    random,
    log,
    limits: { ...defaultTransactionLimits, ...transactionLimits },
  });
  const resolver = new TargetResolver({
    families: (protocol) => transport.families(protocol),
    servers: options.dnsServers,
    clock,
    random,
  });
  const network = new EngineNetwork(transport, transactions, resolver, log);

  const agent: UserAgent = new UserAgent({
    clock,
    random,
    timers,
    log,
    counters,
    limits,
    settings: {
      orphanGraceMs: options.orphanGraceMs ?? defaultOrphanGraceMs,
      waitMs: options.waitMs ?? defaultWaitMs,
      strictParity,
      ringingLimitMs: options.ringingLimitMs ?? defaultRingingLimitMs,
      outboundProxy,
      userAgent: options.userAgent,
      session: { ...defaultSessionRules, ...options.sessionTimers },
    },
    network,
    events: {
      choose: (verb) => wire.choose(verb),
      heirOf: (tags) => wire.heirOf(tags),
      dial:
        applications.length === 0
          ? undefined
          : (offer) => {
              wire.dial?.(offer);
            },
      isConnected: (client) => wire.isConnected(client),
      deliver: (client, delivery) => wire.deliver(client, delivery),
      reply: (client, requestId, reply) => {
        wire.reply(client, requestId, reply);
      },
    },
  });
  const wire: ApplicationSide = side(
    {
      ...options.control,
      limits,
      clock,
      random,
      log,
      counters,
      hostports: () => hostports(transport.listeners()),
      imitates: () => strictParity,
      outbound: {
        targets: applications,
        connectMs: outboundConnectMs,
        authenticationMs: outboundAuthenticationMs,
        idleMs: outboundIdleMs,
      },
    },
    agent,
  );

  transactions.onRequest = (transaction, request) => {
    if (request.method === "CANCEL") {
      agent.onCancel(transaction, transaction.cancels);
    } else {
      agent.onRequest(transaction);
    }
  };
  transactions.onAck = (request, source) => {
    agent.onAck(request, source);
  };
  transactions.onStrayResponse = (response, source) => {
    agent.onStrayResponse(response, source);
  };
  // A request from a stranger is served when it belongs to something of ours, else it gets no answer at all.
  transport.isKnown = (message) => transactions.knows(message) || agent.isKnown(message);
  transactions.isInDialog = (request) => agent.isKnown(request);
  transport.isNeeded = (connection) => agent.needsConnection(connection);
  transport.onFailure = ({ protocol }, error) => {
    log.info("a SIP message could not be sent", { protocol, error });
  };

  await transport.start();
  let controlPort: number;
  try {
    controlPort = await wire.start();
  } catch (error) {
    await transport.close();
    throw error;
  }

  const isIdle = (): boolean => {
    const { dialogs, incoming, invites, outgoing, lookups, timers: agentTimers } = agent.stats();
    const { client, server, timers: transactionTimers } = transactions.stats();
    return dialogs + incoming + invites + outgoing + lookups + agentTimers + client + server + transactionTimers === 0;
  };

  let closing: Promise<void> | undefined;
  const close = async (): Promise<void> => {
    agent.endAll();
    const deadline = clock.now() + closingWaitT1 * timers.t1Ms;
    while (agent.stats().outgoing > 0 && clock.now() < deadline) {
      await new Promise<void>((resolve) => {
        clock.after(closingCheckMs, resolve);
      });
    }
    await wire.close();
    agent.close();
    transactions.close();
    await transport.close();
  };

  return {
    controlPort,
    connection: () => {
      const pair = inProcessPair();
      wire.attach(pair.engine);
      return pair.application;
    },
    listening: [...transport.listeners()],
    setSources: (sources) => {
      transport.setSources(sources);
    },
    saved: (dialogId) => agent.saved(dialogId),
    takeBack: (saved) => {
      agent.takeBack(saved);
    },
    stats: () => ({
      agent: agent.stats(),
      transactions: transactions.stats(),
      transport: transport.stats(),
      wire: wire.stats(),
      counters: counters.values(),
    }),
    isIdle,
    drain: () => {
      agent.drain();
    },
    close: async () => {
      closing ??= close();
      await closing;
    },
  };
}

/** What drachtio-srf emits with `connect`: `proto/host:port` as advertised and as listened on. */
function hostports(listeners: readonly Listener[]): { advertised: readonly string[]; local: readonly string[] } {
  return {
    advertised: listeners.map((one) => `${one.protocol}/${formatHostPort(one.external ?? one.address, one.port)}`),
    local: listeners.map((one) => `${one.protocol}/${formatHostPort(one.address, one.port)}`),
  };
}
