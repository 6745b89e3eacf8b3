// A real Redis master with a replica, watched by three real Sentinels, all on loopback.
import { writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { DisposalStack } from "./disposal.ts";
import { temporaryFolder } from "./folder.ts";
import { claimPort, ownsPort } from "./ports.ts";
import { RunningProcess } from "./process.ts";
import { RedisServer } from "./redis.ts";
import { waitFor } from "./wait.ts";

export const masterName = "calls";

/** Sends inline commands and gives the raw bytes of the replies as text. A Sentinel knows no QUIT, so a PING ends it. */
function ask(port: number, ...commands: string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: "127.0.0.1", port });
    let reply = "";
    socket.setTimeout(2_000, () => socket.destroy(new Error("no answer within 2000 ms")));
    socket.once("connect", () => socket.write(`${[...commands, "PING"].join("\r\n")}\r\n`));
    socket.on("data", (bytes) => {
      reply += bytes.toString("utf8");
      if (reply.endsWith("+PONG\r\n")) socket.destroy();
    });
    socket.once("error", reject);
    socket.once("close", () => resolve(reply));
  });
}

export interface WatchedRedisOptions {
  /** Asks every client of the Sentinels for this password. */
  readonly sentinelPassword?: string;
}

export class WatchedRedis implements AsyncDisposable {
  /** The master at the start, and its replica. */
  readonly first: RedisServer;
  readonly second: RedisServer;
  readonly sentinels: readonly { readonly host: string; readonly port: number }[];
  readonly #processes: readonly RunningProcess[];
  readonly #options: WatchedRedisOptions;
  readonly #resources: DisposalStack;

  private constructor(
    [first, second]: readonly [RedisServer, RedisServer],
    sentinels: readonly { readonly port: number; readonly process: RunningProcess }[],
    options: WatchedRedisOptions,
    resources: DisposalStack,
  ) {
    this.first = first;
    this.second = second;
    this.sentinels = sentinels.map(({ port }) => ({ host: "127.0.0.1", port }));
    this.#processes = sentinels.map(({ process }) => process);
    this.#options = options;
    this.#resources = resources;
  }

  static async start(options: WatchedRedisOptions = {}): Promise<WatchedRedis> {
    await using resources = new DisposalStack();
    const first = resources.use(await RedisServer.start());
    const second = resources.use(
      await RedisServer.start({
        args: ["--replicaof", "127.0.0.1", String(first.port), "--repl-diskless-sync-delay", "0"],
      }),
    );
    await waitFor(async () => (await ask(second.port, "INFO replication")).includes("master_link_status:up"), {
      what: "the replica",
      timeoutMs: 30_000,
    });
    const sentinels: { readonly port: number; readonly process: RunningProcess }[] = [];
    for (let index = 0; index < 3; index += 1) {
      const { port } = resources.use(await claimPort());
      const { path } = resources.use(await temporaryFolder("sentinel"));
      sentinels.push({ port, process: resources.use(await startSentinel(port, path, first.port, options)) });
    }
    const watched = new WatchedRedis([first, second], sentinels, options, resources.move());
    try {
      // Two of three must agree, and each must know the replica before there is somebody to promote.
      for (const { port } of watched.sentinels) {
        await waitFor(
          async () => {
            const facts = await watched.#ask(port, `SENTINEL MASTER ${masterName}`);
            return field(facts, "num-other-sentinels") === "2" && field(facts, "num-slaves") === "1";
          },
          { what: "the Sentinels to find each other", timeoutMs: 30_000, intervalMs: 100 },
        );
      }
    } catch (error) {
      await watched[Symbol.asyncDispose]();
      throw error;
    }
    return watched;
  }

  #ask(port: number, command: string): Promise<string> {
    const { sentinelPassword } = this.#options;
    return ask(port, ...(sentinelPassword === undefined ? [] : [`AUTH ${sentinelPassword}`]), command);
  }

  /** Resolves when every Sentinel names the second Redis as the master. */
  async failedOver(): Promise<void> {
    for (const { port } of this.sentinels) {
      await waitFor(
        async () =>
          (await this.#ask(port, `SENTINEL GET-MASTER-ADDR-BY-NAME ${masterName}`)).includes(String(this.second.port)),
        { what: "the fail-over", timeoutMs: 40_000, intervalMs: 50 },
      );
    }
  }

  /** What the master has is on the replica too. */
  async replicated(): Promise<void> {
    await waitFor(async () => (await ask(this.first.port, "WAIT 1 1000")).includes(":1"), { what: "replication" });
  }

  /** A fail-over that somebody asks for: the master lives on as a replica. */
  async switchOver(asked = 0): Promise<void> {
    const sentinel = this.sentinels[asked];
    if (sentinel !== undefined) await this.#ask(sentinel.port, `SENTINEL FAILOVER ${masterName}`);
  }

  /** Ends one Sentinel as a crash would. */
  async crashSentinel(index: number): Promise<void> {
    await this.#processes[index]?.kill();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#resources[Symbol.asyncDispose]();
  }
}

/** The value behind a name in a flat list of replies. */
function field(reply: string, name: string): string | undefined {
  const lines = reply.split("\r\n");
  const at = lines.indexOf(name);
  return at < 0 ? undefined : lines[at + 2];
}

async function startSentinel(
  port: number,
  folder: string,
  masterPort: number,
  { sentinelPassword }: WatchedRedisOptions,
): Promise<RunningProcess> {
  const file = join(folder, "sentinel.conf");
  const lines = [
    `port ${port}`,
    "bind 127.0.0.1",
    `dir ${folder}`,
    `sentinel monitor ${masterName} 127.0.0.1 ${masterPort} 2`,
    `sentinel down-after-milliseconds ${masterName} 1000`,
    `sentinel failover-timeout ${masterName} 6000`,
    ...(sentinelPassword === undefined
      ? []
      : [`requirepass ${sentinelPassword}`, `sentinel sentinel-pass ${sentinelPassword}`]),
  ];
  await writeFile(file, `${lines.join("\n")}\n`);
  return await RunningProcess.start({
    name: "redis-sentinel",
    command: "redis-server",
    cwd: folder,
    args: [file, "--sentinel"],
    ready: (child) => ownsPort(child.pid, "tcp", port),
  });
}
