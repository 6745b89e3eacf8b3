import { EventEmitter, once } from "node:events";
import { connect, createServer } from "node:net";
import type { AddressInfo, Socket } from "node:net";

import { expect } from "vitest";

import type { InviteOrder } from "../../src/call/effect.ts";
import type { CallEvent } from "../../src/call/event.ts";
import type { CallId, CommandId, GatewayId, LegId, Sdp, TransferId, TrunkId } from "../../src/call/ids.ts";
import type { CallSetup } from "../../src/call/setup.ts";
import type { TransferRequest } from "../../src/call/transfer.ts";
import type { Engine, EngineOptions } from "../../src/engine/index.ts";
import { parseConfig } from "../../src/config/load.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { SipSide } from "../../src/sip/side.ts";
import type { SipSideOptions } from "../../src/sip/side.ts";
import { silentLog } from "../../src/telemetry/log.ts";
import { TrunkTable } from "../../src/trunk/table.ts";
import { botHeaderNames, drachtioProgram, DrachtioServer } from "../support/drachtio.ts";
import { secret, settlesTo, startTestEngine } from "./engine-support.ts";
import type { Closings, Packet, RawPeer } from "./engine-support.ts";

type EventOf<T extends CallEvent["type"]> = Extract<CallEvent, { type: T }>;

/** What speaks SIP for a side: the embedded engine, or a drachtio-server where PATCHBAY_TEST_DRACHTIO names one. */
export interface SipServer {
  /** Of UDP. */
  readonly port: number;
  readonly portOf: (protocol: "udp" | "tcp") => number;
  readonly controlPort: number;
  readonly t1Ms: number;
  /** The embedded engine's own figures and commands. Fails on a drachtio-server: `engineOnly` leaves the test out there. */
  readonly embedded: () => Engine;
}

/** The signalling side on a real engine, with a call that does nothing but remember what it is told. */
export class TestSide {
  readonly side: SipSide;
  readonly engine: SipServer;
  readonly calls: CallSetup[] = [];
  readonly events: { readonly call: CallId; readonly event: CallEvent }[] = [];
  /** What `post` answers: false for a call that is not held any more. */
  held = true;
  readonly #arrivals = new EventEmitter();
  readonly #taken = new Set<unknown>();

  constructor(engine: SipServer, table: TrunkTable, options: Partial<SipSideOptions>) {
    this.engine = engine;
    let count = 0;
    this.side = new SipSide({
      engine: { host: "127.0.0.1", port: engine.controlPort, secret },
      directory: table,
      password: () => undefined,
      post: (call, event) => {
        this.events.push({ call, event });
        this.#arrivals.emit("change");
        return this.held;
      },
      onCall: (setup) => {
        this.calls.push(setup);
        this.#arrivals.emit("change");
      },
      mintCallId: () => {
        count += 1;
        return `01TEST${count}` as CallId;
      },
      clock: systemClock,
      log: silentLog,
      t1Ms: engine.t1Ms,
      ...options,
    });
  }

  /** The next call that no earlier `call` took. */
  async call(): Promise<CallSetup> {
    return this.#take("a call", () => this.calls.find((setup) => !this.#taken.has(setup)));
  }

  /** The next event of this kind that no earlier `event` took. */
  async event<T extends CallEvent["type"]>(type: T): Promise<EventOf<T>> {
    const { event } = await this.#take(type, () =>
      this.events.find((entry) => entry.event.type === type && !this.#taken.has(entry)),
    );
    return event as EventOf<T>;
  }

  seen(type: CallEvent["type"]): number {
    return this.events.filter(({ event }) => event.type === type).length;
  }

  async #take<T>(what: string, find: () => T | undefined): Promise<T> {
    const deadline = performance.now() + 5000;
    for (;;) {
      const found = find();
      if (found !== undefined) {
        this.#taken.add(found);
        return found;
      }
      const left = deadline - performance.now();
      if (left <= 0) {
        throw new Error(`no ${what}; events: ${JSON.stringify(this.events.map(({ event }) => event))}`);
      }
      await once(this.#arrivals, "change", { signal: AbortSignal.timeout(Math.ceil(left)) }).catch(() => undefined);
    }
  }
}

interface SipServerOptions {
  readonly t1Ms?: number;
  readonly sources?: EngineOptions["sources"];
  /** What only the embedded engine has: with this it is the embedded engine everywhere. */
  readonly embedded?: Partial<EngineOptions>;
}

export async function startSipServer(closings: Closings, options: SipServerOptions = {}): Promise<SipServer> {
  const { t1Ms, sources, embedded } = options;
  if (drachtioProgram === undefined || embedded !== undefined) {
    const started = await startTestEngine(closings, {
      ...(sources === undefined ? {} : { sources }),
      ...(t1Ms === undefined ? {} : { t1Ms }),
      ...embedded,
    });
    const { engine, port } = started;
    return {
      port,
      portOf: (protocol) => engine.listening.find((listener) => listener.protocol === protocol)?.port ?? 0,
      controlPort: engine.controlPort,
      t1Ms: started.t1Ms,
      embedded: () => engine,
    };
  }
  const own = { t1Ms: t1Ms ?? 25, headerNames: botHeaderNames };
  const server = await DrachtioServer.start(own);
  closings.addSettling(() => server[Symbol.asyncDispose]());
  return {
    port: server.sipPort,
    portOf: () => server.sipPort,
    controlPort: server.controlPort,
    t1Ms: own.t1Ms,
    embedded: () => {
      throw new Error("there is no embedded engine here");
    },
  };
}

/**
 * Starts an engine and a side on a configuration with `trunks` and `channels`. When the test ends everything of both has
 * to become empty by itself.
 */
export async function startSide(
  closings: Closings,
  yaml: string,
  options: Partial<SipSideOptions> & {
    readonly onEngine?: (server: SipServer) => void;
    readonly embedded?: Partial<EngineOptions>;
  } = {},
): Promise<TestSide> {
  const parsed = parseConfig(yaml, {}, ".");
  if (!parsed.ok) {
    throw new Error(JSON.stringify(parsed.problems));
  }
  const table = new TrunkTable(parsed.config);
  const engine = await startSipServer(closings, { ...options, sources: table.allowedSources() });
  options.onEngine?.(engine);
  const test = new TestSide(engine, table, options);
  await test.side.start();
  closings.addSettling(async () => {
    try {
      await settlesTo(() => test.side.stats(), nothing, 64 * engine.t1Ms * 2 + 10_000);
    } finally {
      await test.side.close();
    }
    expect(test.side.stats()).toEqual(nothing);
  });
  return test;
}

/** A line between us and the engine that can be cut. */
export async function cuttableLine(
  closings: Closings,
  target: () => number,
): Promise<{ port: number; cut(): void; stall(): void; sent(): number }> {
  let stalled = false;
  let sent = 0;
  const pairs = new Set<Socket>();
  const server = createServer((near) => {
    const far = connect(target(), "127.0.0.1");
    for (const [socket, other] of [
      [near, far],
      [far, near],
    ] as const) {
      pairs.add(socket);
      socket.on("error", () => undefined);
      socket.on("data", (bytes) => {
        sent += socket === near ? 1 : 0;
        if (!stalled) other.write(bytes);
      });
      socket.on("close", () => {
        pairs.delete(socket);
        other.destroy();
      });
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  closings.add(() => {
    server.close();
  });
  return {
    port: (server.address() as AddressInfo).port,
    /** How often something came from us. */
    sent: () => sent,
    stall: () => {
      stalled = true;
    },
    cut: () => {
      stalled = false;
      for (const socket of pairs) {
        socket.destroy();
      }
    },
  };
}

const branchesSeen = new WeakMap<RawPeer, Set<string>>();

/** The next request of this method that is no retransmission of one that was taken before. */
export async function fresh(peer: RawPeer, method: string): Promise<Packet> {
  const seen = branchesSeen.get(peer) ?? new Set();
  branchesSeen.set(peer, seen);
  const packet = await peer.take(
    method,
    (candidate) => candidate.status === 0 && candidate.method === method && !seen.has(transactionOf(candidate)),
  );
  seen.add(transactionOf(packet));
  return packet;
}

/** How many different requests of these methods came, however often each was sent. */
export function requests(peer: RawPeer, ...methods: readonly string[]): number {
  const found = peer.received.filter(({ status, method }) => status === 0 && methods.includes(method));
  return new Set(found.map(transactionOf)).size;
}

function transactionOf(packet: Packet): string {
  return `${packet.method} ${/;branch=([^;]+)/.exec(packet.header("Via"))?.[1] ?? ""}`;
}

export const nothing = {
  legs: 0,
  onTrunks: 0,
  calls: 0,
  timers: 0,
  dialogs: 0,
  invites: 0,
  requests: 0,
  unanswered: 0,
};

/** One trunk `t` that 127.0.0.1 calls in on, with a gateway `g`, and a bot `b` on all its numbers. */
export function oneTrunk(
  gatewayPort: number,
  more = "",
  channel = "",
  gateways = `gateways: [{ id: g, host: 127.0.0.1, port: ${gatewayPort} }]`,
): string {
  return `
trunks:
  - id: t
    sources: [127.0.0.1]
    ${gateways}
    ${more}
channels:
  - botId: b
    trunk: t
    numbers: ["100", "7495*"]
    ${channel}
`;
}

export function order(setup: CallSetup, over: Partial<InviteOrder> = {}): InviteOrder {
  return {
    leg: `${setup.call}/operator-1` as LegId,
    target: { kind: "phone", digits: "79123456789" },
    trunk: "t" as TrunkId,
    gateway: "g" as GatewayId,
    identity: "caller",
    headers: [],
    offer: "v=0\r\no=- 7 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 6000 RTP/AVP 8\r\n" as Sdp,
    ...over,
  };
}

/** A `switch` that asks for a REFER to a number. */
export const referRequest: TransferRequest = {
  transferId: "t1" as TransferId,
  commandId: "c1" as CommandId,
  method: "refer",
  target: { kind: "phone", digits: "79123456789" },
  number: "79123456789",
  route: {
    trunk: "t" as TrunkId,
    gateways: ["g" as GatewayId],
    identity: "caller",
    retryWithBotNumber: false,
    sipUriVia: "direct",
    progressTimeoutMs: 1000,
  },
  headers: [],
  answerTimeoutMs: 1000,
  continueCall: false,
  continueRecording: false,
  referFallback: true,
  others: [],
  strategy: "serial",
  confirm: null,
  maxTalkMs: null,
  duringRing: [],
};
