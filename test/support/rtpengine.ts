// A real rtpengine on free loopback ports, with the start line of the media adapter, in a folder of its own.
import { createSocket } from "node:dgram";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { DisposalStack } from "./disposal.ts";
import { temporaryFolder } from "./folder.ts";
import { claimPort, claimPortRange, ownsPort } from "./ports.ts";
import { RunningProcess } from "./process.ts";

export interface RtpengineOptions {
  /** Where it sends one UDP datagram per DTMF digit (`--dtmf-log-dest`). */
  readonly dtmfLog?: { readonly address: string; readonly port: number };
  /** Where it keeps its calls so that they survive `crash` and `start`. */
  readonly redis?: { readonly port: number; readonly database: number };
  /** Size of its range of media ports; a call with an operator ringing takes 6. */
  readonly mediaPorts?: number;
  readonly logLevel?: number;
  readonly args?: readonly string[];
}

/** One command over the ng protocol in its JSON form. */
function askNg(port: number, command: object, host = "127.0.0.1"): Promise<Record<string, unknown>> {
  return new Promise((resolve, reject) => {
    const socket = createSocket("udp4");
    const cookie = Math.random().toString(36).slice(2);
    const timer = setTimeout(() => finish(new Error("rtpengine did not answer")), 1_000);
    const finish = (result: Error | Record<string, unknown>): void => {
      clearTimeout(timer);
      socket.close();
      if (result instanceof Error) reject(result);
      else resolve(result);
    };
    socket.once("error", finish);
    socket.once("message", (bytes) => {
      const text = bytes.toString("utf8");
      if (text.startsWith(`${cookie} `)) finish(JSON.parse(text.slice(cookie.length + 1)) as Record<string, unknown>);
    });
    socket.send(`${cookie} ${JSON.stringify(command)}`, port, host);
  });
}

/** The call-ids that the rtpengine at this ng port holds now. */
export async function callsOf(port: number, host?: string): Promise<readonly string[]> {
  const reply = await askNg(port, { command: "list", limit: 10_000 }, host);
  return Array.isArray(reply["calls"]) ? (reply["calls"] as string[]) : [];
}

export class RtpengineServer implements AsyncDisposable {
  readonly ngPort: number;
  readonly address = "127.0.0.1";
  readonly media: { readonly first: number; readonly last: number };
  readonly folder: string;
  /** The folder it writes its pcap files to (below it: pcaps, metadata, tmp). */
  readonly recordingFolder: string;
  readonly #options: RtpengineOptions;
  readonly #resources: DisposalStack;
  #process: RunningProcess | undefined;

  private constructor(
    ngPort: number,
    media: { readonly first: number; readonly last: number },
    folder: string,
    options: RtpengineOptions,
    resources: DisposalStack,
  ) {
    this.ngPort = ngPort;
    this.media = media;
    this.folder = folder;
    this.recordingFolder = join(folder, "recordings");
    this.#options = options;
    this.#resources = resources;
  }

  static async start(options: RtpengineOptions = {}): Promise<RtpengineServer> {
    await using resources = new DisposalStack();
    const { port } = resources.use(await claimPort());
    const { first, last } = resources.use(await claimPortRange(options.mediaPorts ?? 200));
    const { path } = resources.use(await temporaryFolder("rtpengine"));
    await mkdir(join(path, "recordings"));
    const server = new RtpengineServer(port, { first, last }, path, options, resources.move());
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

  /** Starts it again on the same ports after `stop` or `crash`. */
  async start(): Promise<void> {
    if (this.#process !== undefined && this.#process.exit === undefined) return;
    const { dtmfLog, redis, logLevel = 5, args = [] } = this.#options;
    this.#process = await RunningProcess.start({
      name: "rtpengine",
      command: "rtpengine",
      cwd: this.folder,
      args: [
        "--config-file=none",
        "--foreground",
        "--table=-1",
        `--interface=${this.address}`,
        `--listen-ng=${this.address}:${this.ngPort}`,
        `--port-min=${this.media.first}`,
        `--port-max=${this.media.last}`,
        `--recording-dir=${this.recordingFolder}`,
        "--recording-method=pcap",
        ...(dtmfLog === undefined ? [] : [`--dtmf-log-dest=${dtmfLog.address}:${dtmfLog.port}`]),
        ...(redis === undefined ? [] : [`--redis=127.0.0.1:${redis.port}/${redis.database}`, "--redis-expires=3600"]),
        "--timeout=60",
        "--silent-timeout=3600",
        "--log-stderr",
        `--log-level=${logLevel}`,
        ...args,
      ],
      ready: async (child) => {
        if (!ownsPort(child.pid, "udp", this.ngPort)) return false;
        return (await askNg(this.ngPort, { command: "ping" }))["result"] === "pong";
      },
    });
  }

  /** One raw command, for what a test wants to know from the server itself (`list`, `query`, `statistics`). */
  ask(command: object): Promise<Record<string, unknown>> {
    return askNg(this.ngPort, command);
  }

  /** The call-ids it holds now. */
  calls(): Promise<readonly string[]> {
    return callsOf(this.ngPort);
  }

  async crash(): Promise<void> {
    await this.#process?.kill();
  }

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

export const startRtpengine = (options?: RtpengineOptions): Promise<RtpengineServer> => RtpengineServer.start(options);
