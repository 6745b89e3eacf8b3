// The real parts that the demo and the quick start run: Redis, rtpengine and Patchbay itself as a child process.
import { mkdir, writeFile } from "node:fs/promises";
import { isIP } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { stringify } from "yaml";
import type { RedisAddress } from "../src/client/index.ts";
import { DisposalStack } from "../test/support/disposal.ts";
import { temporaryFolder } from "../test/support/folder.ts";
import { claimPort } from "../test/support/ports.ts";
import { RunningProcess } from "../test/support/process.ts";
import { type RedisServer, startRedis } from "../test/support/redis.ts";
import { type RtpengineServer, startRtpengine } from "../test/support/rtpengine.ts";
import { delay } from "../test/support/wait.ts";

const patienceMs = 300;
const projectFolder = fileURLToPath(new URL("..", import.meta.url));

export interface BotChannel {
  readonly botId: string;
  /** What a caller dials: the user part of the URI. */
  readonly number: string;
  /** Further fields of the channel, as in the configuration. */
  readonly more?: Readonly<Record<string, unknown>>;
}

export interface ServiceOptions {
  readonly channels: readonly BotChannel[];
  /** Where phone numbers are called. */
  readonly gateway: { readonly host: string; readonly port: number };
  /** Hosts that the bot may name in a `sipUri`. */
  readonly sipHosts: readonly string[];
  /** Addresses and networks that callers come from. */
  readonly sources: readonly string[];
  /** SIP port on 127.0.0.1, UDP and TCP. Default: a free one. */
  readonly sipPort?: number;
  /** Where finished recordings are kept; it outlives the service. */
  readonly recordingFolder: string;
}

/** rtpengine records every packet; FreeSWITCH begins a new file wherever a caller is switched. */
export const longestGapMs = { rtpengine: 60, freeswitch: 250 } as const;

/** What a story needs of Patchbay and of what it runs on. */
export interface Serving extends AsyncDisposable {
  readonly redis: RedisAddress;
  /** Where it takes calls. */
  readonly sip: { readonly host: string; readonly port: number };
  /** The longest silence that a recording may have where the caller is switched. */
  readonly longestGapMs: number;
  /** How many calls the media server holds. */
  mediaCalls(): Promise<number>;
  /** Resolves with the reason when Patchbay ends by itself. */
  readonly ended: Promise<string>;
  /** What Patchbay has logged, as far as it is known here. */
  readonly log: string;
}

/** The configuration the service runs on, as it would stand in a file. */
export function serviceConfiguration(
  options: ServiceOptions & { readonly sipPort: number },
  parts: {
    readonly redisUrl: string;
    readonly ngPort: number;
    readonly dtmfPort: number;
    readonly adminPort: number;
    readonly spoolFolder: string;
    readonly folder: string;
  },
): object {
  return {
    sip: {
      engine: "embedded",
      listen: [
        { protocol: "udp", address: "127.0.0.1", port: options.sipPort },
        { protocol: "tcp", address: "127.0.0.1", port: options.sipPort },
      ],
    },
    redis: { url: parts.redisUrl },
    media: {
      rtpengine: [{ host: "127.0.0.1", port: parts.ngPort }],
      dtmf: { address: "127.0.0.1", port: parts.dtmfPort },
      promptFolder: join(parts.folder, "prompts"),
      cacheFolder: join(parts.folder, "cache"),
      tts: { kind: "command", command: ["espeak-ng", "-v", "{lang}", "-w", "{out}", "--stdin"], lang: "en" },
    },
    recording: { folder: options.recordingFolder, spoolFolder: parts.spoolFolder },
    trunks: [
      {
        id: "loopback",
        sources: options.sources,
        gateways: [{ id: "operators", host: options.gateway.host, port: options.gateway.port }],
      },
    ],
    channels: options.channels.map(({ botId, number, more }) => ({
      botId,
      ...more,
      trunk: "loopback",
      numbers: [number],
      recording: { enabled: true },
      // Phones on this machine listen on any port; names such as localhost resolve into it.
      destinations: {
        sipHosts: options.sipHosts.map((host) => (isIP(host) === 6 ? `[${host}]:*` : `${host}:*`)),
        privateNetworks: ["127.0.0.0/8", "::1/128"],
      },
    })),
    admin: { address: "127.0.0.1", port: parts.adminPort },
    log: { level: "info" },
  };
}

/** Whether the log has the line that says that the service takes calls now. */
function saysReady(log: string): boolean {
  return log.includes('"msg":"ready"');
}

export class Service implements Serving {
  readonly redis: RedisServer;
  readonly rtpengine: RtpengineServer;
  readonly patchbay: RunningProcess;
  readonly sipPort: number;
  readonly configurationFile: string;
  readonly #resources: DisposalStack;

  private constructor(
    redis: RedisServer,
    rtpengine: RtpengineServer,
    patchbay: RunningProcess,
    sipPort: number,
    configurationFile: string,
    resources: DisposalStack,
  ) {
    this.redis = redis;
    this.rtpengine = rtpengine;
    this.patchbay = patchbay;
    this.sipPort = sipPort;
    this.configurationFile = configurationFile;
    this.#resources = resources;
  }

  /** Starts all three and comes back when calls are taken. Whatever was started is stopped when one of them fails. */
  static async start(options: ServiceOptions): Promise<Service> {
    // The configuration is written here whole; a variable of somebody else's service must not change it.
    for (const name of Object.keys(process.env)) if (/^PATCHBAY_.*__/.test(name)) delete process.env[name];
    await using resources = new DisposalStack();
    const { path: folder } = resources.use(await temporaryFolder("service"));
    await Promise.all([
      mkdir(join(folder, "prompts")),
      mkdir(join(folder, "cache")),
      mkdir(options.recordingFolder, { recursive: true }),
    ]);
    const redis = resources.use(await startRedis());
    const dtmf = resources.use(await claimPort());
    const rtpengine = resources.use(await startRtpengine({ dtmfLog: { address: "127.0.0.1", port: dtmf.port } }));
    const admin = resources.use(await claimPort());
    const sipPort = options.sipPort ?? resources.use(await claimPort()).port;
    const configurationFile = join(folder, "patchbay.yaml");
    const configuration = serviceConfiguration(
      { ...options, sipPort },
      {
        redisUrl: redis.url,
        ngPort: rtpengine.ngPort,
        dtmfPort: dtmf.port,
        adminPort: admin.port,
        spoolFolder: rtpengine.recordingFolder,
        folder,
      },
    );
    await writeFile(configurationFile, stringify(configuration));
    const patchbay = resources.use(
      await RunningProcess.start({
        name: "Patchbay",
        command: "node",
        cwd: projectFolder,
        args: ["--import", "tsx", "src/main.ts", "--config", configurationFile],
        ready: (child) => saysReady(child.output),
        readyTimeoutMs: 30_000,
      }),
    );
    return new Service(redis, rtpengine, patchbay, sipPort, configurationFile, resources.move());
  }

  get longestGapMs(): number {
    return longestGapMs.rtpengine;
  }
  get sip(): Serving["sip"] {
    return { host: "127.0.0.1", port: this.sipPort };
  }
  get log(): string {
    return this.patchbay.output;
  }
  get ended(): Promise<string> {
    return this.patchbay.exited.then(({ code, signal }) => signal ?? `exit status ${code}`);
  }
  async mediaCalls(): Promise<number> {
    return (await this.rtpengine.calls()).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // The first signal lets calls go on to their end; the second, which disposal sends, ends them.
    this.patchbay.signal("SIGTERM");
    await Promise.race([this.patchbay.exited, delay(patienceMs)]);
    await this.#resources[Symbol.asyncDispose]();
  }
}
