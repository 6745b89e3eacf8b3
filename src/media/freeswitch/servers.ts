import { codeOf, messageOf } from "../media-error.ts";
import type { FreeswitchServer, MediaClock, MediaLog, MediaSip } from "../options.ts";
import { FsmrfConnection } from "./fsmrf.ts";

/** One FreeSWITCH and what is known of it. */
export interface Server {
  readonly host: string;
  readonly port: number;
  /** Null while there is no connection. */
  readonly connection: FsmrfConnection | null;
  /** Calls of ours in it. */
  calls: number;
}

export interface ServerPoolOptions {
  readonly servers: readonly FreeswitchServer[];
  readonly sip: MediaSip;
  readonly commandTimeoutMs: number;
  readonly pingMs: number;
  readonly lostAfterMs: number;
  readonly clock: MediaClock;
  readonly log: MediaLog;
  /** It has answered nothing for so long that its calls are given up. Those whose channels it has closed know already. */
  readonly onLost: (server: Server) => void;
}

interface Watched {
  readonly server: FreeswitchServer;
  readonly host: string;
  readonly port: number;
  connection: FsmrfConnection | null;
  calls: number;
  lastAnswerAt: number;
  lost: boolean;
  timer: { cancel(): void } | undefined;
}

/** Keeps a connection to every FreeSWITCH, and chooses one for a new call. */
export class ServerPool {
  readonly #options: ServerPoolOptions;
  readonly #servers: readonly Watched[];
  #closed = false;

  constructor(options: ServerPoolOptions) {
    this.#options = options;
    this.#servers = options.servers.map((server) => ({
      server,
      host: server.host,
      port: server.port,
      connection: null,
      calls: 0,
      lastAnswerAt: options.clock.now(),
      lost: false,
      timer: undefined,
    }));
  }

  /** Resolves after the first attempt at every server, whatever came of it. */
  async start(): Promise<void> {
    await Promise.all(this.#servers.map((server) => this.#check(server)));
  }

  get anyHealthy(): boolean {
    return this.#servers.some(({ connection }) => connection !== null);
  }

  all(): readonly Server[] {
    return this.#servers;
  }

  /**
   * The one with the smallest share of its calls in use, those of other services counted too. Undefined when none answers or
   * all are full. `except` are servers that have just failed for this call.
   */
  choose(except: ReadonlySet<Server>): Server | undefined {
    let best: { readonly server: Watched; readonly share: number } | undefined;
    for (const server of this.#servers) {
      if (server.connection === null || except.has(server)) continue;
      const { calls, most } = server.connection.load;
      // The heartbeat is 20 seconds old at worst: what was begun since then is only known from here.
      const used = Math.max(calls, server.calls);
      if (most > 0 && used >= most) continue;
      const share = used / (most > 0 ? most : 1_000);
      if (best === undefined || share < best.share) best = { server, share };
    }
    return best?.server;
  }

  async #check(watched: Watched): Promise<void> {
    const { clock, log, pingMs, lostAfterMs, onLost } = this.#options;
    const { host, port } = watched;
    try {
      if (watched.connection === null) await this.#connect(watched);
      else await watched.connection.api("uptime");
      if (this.#closed) return;
      watched.lost = false;
      watched.lastAnswerAt = clock.now();
    } catch (error) {
      if (this.#closed) return;
      if (watched.connection !== null) {
        log.error({ host, port, error: messageOf(error) }, "FreeSWITCH does not answer");
      } else log.debug({ host, port, code: codeOf(error, "failed") }, "no connection to FreeSWITCH yet");
      watched.connection?.close();
      watched.connection = null;
      if (!watched.lost && clock.now() - watched.lastAnswerAt >= lostAfterMs) {
        watched.lost = true;
        onLost(watched);
      }
    }
    watched.timer = clock.after(pingMs, () => void this.#check(watched));
  }

  async #connect(watched: Watched): Promise<void> {
    const { sip, commandTimeoutMs, clock, log } = this.#options;
    const { server, host, port } = watched;
    const connection = await FsmrfConnection.open({
      server,
      sip,
      commandTimeoutMs,
      clock,
      log,
      onEnd: () => {
        if (watched.connection !== connection) return;
        watched.connection = null;
        if (!this.#closed) log.error({ host, port }, "the connection to FreeSWITCH is lost");
      },
    });
    if (this.#closed) {
      connection.close();
      return;
    }
    watched.connection = connection;
    log.info({ host, port }, "FreeSWITCH is connected");
  }

  close(): void {
    this.#closed = true;
    for (const watched of this.#servers) watched.timer?.cancel();
  }

  /** After the last call has ended. */
  disconnect(): void {
    for (const watched of this.#servers) {
      watched.connection?.close();
      watched.connection = null;
    }
  }
}
