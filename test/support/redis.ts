// A real redis-server on a free loopback port, in a folder of its own.
import { connect } from "node:net";
import { DisposalStack } from "./disposal.ts";
import { temporaryFolder } from "./folder.ts";
import { claimPort, ownsPort } from "./ports.ts";
import { RunningProcess } from "./process.ts";

export interface RedisOptions {
  /** Keeps the data in an append-only file, so that it survives `crash` and `start`. Default: nothing is written. */
  readonly persistent?: boolean;
  /** Asks every client for this password. */
  readonly password?: string;
  /** More lines of configuration, as arguments (`["--maxmemory", "10mb"]`). */
  readonly args?: readonly string[];
}

/** Sends one inline command and gives the raw bytes of the reply as text. */
function ask(port: number, command: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: "127.0.0.1", port });
    let reply = "";
    socket.setTimeout(1_000, () => socket.destroy(new Error("redis-server did not answer within 1000 ms")));
    socket.once("connect", () => socket.write(`${command}\r\nQUIT\r\n`));
    socket.on("data", (bytes) => (reply += bytes.toString("utf8")));
    socket.once("error", reject);
    socket.once("close", () => resolve(reply));
  });
}

export class RedisServer implements AsyncDisposable {
  readonly port: number;
  readonly folder: string;
  readonly url: string;
  readonly #options: RedisOptions;
  readonly #resources: DisposalStack;
  #process: RunningProcess | undefined;

  private constructor(port: number, folder: string, options: RedisOptions, resources: DisposalStack) {
    this.port = port;
    this.folder = folder;
    this.url =
      options.password === undefined ? `redis://127.0.0.1:${port}` : `redis://:${options.password}@127.0.0.1:${port}`;
    this.#options = options;
    this.#resources = resources;
  }

  static async start(options: RedisOptions = {}): Promise<RedisServer> {
    await using resources = new DisposalStack();
    const { port } = resources.use(await claimPort());
    const { path } = resources.use(await temporaryFolder("redis"));
    const server = new RedisServer(port, path, options, resources.move());
    try {
      await server.start();
    } catch (error) {
      await server[Symbol.asyncDispose]();
      throw error;
    }
    return server;
  }

  get pid(): number | undefined {
    return this.#process?.pid;
  }
  get output(): string {
    return this.#process?.output ?? "";
  }

  /** Starts it again on the same port after `stop` or `crash`. */
  async start(): Promise<void> {
    if (this.#process !== undefined && this.#process.exit === undefined) return;
    const { password, persistent = false, args = [] } = this.#options;
    this.#process = await RunningProcess.start({
      name: "redis-server",
      command: "redis-server",
      cwd: this.folder,
      args: [
        "--bind",
        "127.0.0.1",
        "--port",
        String(this.port),
        "--dir",
        this.folder,
        "--save",
        "",
        "--appendonly",
        persistent ? "yes" : "no",
        "--appendfsync",
        "always",
        "--daemonize",
        "no",
        "--protected-mode",
        "yes",
        ...(password === undefined ? [] : ["--requirepass", password]),
        ...args,
      ],
      ready: async (child) => {
        if (!ownsPort(child.pid, "tcp", this.port)) return false;
        const reply = await ask(this.port, password === undefined ? "PING" : `AUTH ${password}\r\nPING`);
        return reply.includes("+PONG");
      },
    });
  }

  /** Ends it as a crash would (SIGKILL); the port stays ours. */
  async crash(): Promise<void> {
    await this.#process?.kill();
  }

  /** Stops the process without ending it: connections hang, as on a stalled host. */
  async freeze(): Promise<void> {
    await this.#process?.freeze();
  }
  unfreeze(): void {
    this.#process?.unfreeze();
  }

  async stop(): Promise<void> {
    this.unfreeze();
    await this.#process?.stop();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    await this.#resources[Symbol.asyncDispose]();
  }
}

export const startRedis = (options?: RedisOptions): Promise<RedisServer> => RedisServer.start(options);
