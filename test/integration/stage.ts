// The whole service on real parts: Redis, rtpengine, the embedded engine, phones with sound, bots over plain sockets.
//
//   await using stage = await Stage.start();
//   const { caller, call } = await stage.talk();
//   await call.run({ type: "switch", phoneNumber: "79123456789", continueCall: true });
//   …
//   await stage.atRest();
import { mkdir, readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { afterAll, afterEach, beforeAll, beforeEach } from "vitest";
import { createApp, type App } from "../../src/app.ts";
import { parseConfig } from "../../src/config/load.ts";
import { loadSecrets } from "../../src/config/secrets.ts";
import { silentLog } from "../../src/telemetry/log.ts";
import { DisposalStack } from "../support/disposal.ts";
import { botHeaderNames, drachtioProgram, drachtioSecret, DrachtioServer } from "../support/drachtio.ts";
import { temporaryFolder } from "../support/folder.ts";
import { channelsIn, freeswitchPlace } from "../support/freeswitch.ts";
import { pitches } from "../support/pitch.ts";
import { claimPort } from "../support/ports.ts";
import { RedisServer } from "../support/redis.ts";
import { RtpengineServer } from "../support/rtpengine.ts";
import { type DialOptions, Phone, type PhoneCall, type PhoneOptions } from "../support/rtp-phone.ts";
import { waitFor } from "../support/wait.ts";
import { type BotCall, contractFaults, RawBot } from "./raw-bot.ts";
import { type Recording, readRecording, writeTone } from "./wav.ts";

export const callerNumber = "79991112233";
/** The number of the bot, called by the caller, and that of its channel. */
export const botNumber = "74951234567";
export const operatorNumber = "79123456789";
export const trunkPassword = { username: "patchbay", password: "open sesame" } as const;

const defaultT1Ms = 10;

/** Where PATCHBAY_TEST_ANCHOR says freeswitch, the service's calls are anchored in the one of PATCHBAY_TEST_FREESWITCH. */
const onFreeswitch = process.env["PATCHBAY_TEST_ANCHOR"] === "freeswitch" ? freeswitchPlace : undefined;

export const anchoredInFreeswitch = onFreeswitch !== undefined;

/** A configuration as it stands in a file, with what the tests change. */
export interface ConfigFile {
  readonly sip: Record<string, unknown>;
  readonly media: Record<string, unknown>;
  readonly recording: Record<string, unknown>;
  readonly trunks: (Record<string, unknown> & { readonly id: string })[];
  readonly channels: (Record<string, unknown> & { readonly botId: string })[];
  readonly [section: string]: unknown;
}

export interface StageOptions {
  /** T1 of the service's SIP timers: calls are forgotten 64 times that after their end. */
  readonly t1Ms?: number;
  /** Listens for TLS too. */
  readonly tls?: StageTls;
  /** How long a second of a session timer lasts. */
  readonly sessionSecondMs?: number;
  readonly operator?: PhoneOptions;
  /** Fields of the first trunk, the one that calls come from. */
  readonly trunk?: Readonly<Record<string, unknown>>;
  /** Fields of the first channel. */
  readonly channel?: Readonly<Record<string, unknown>>;
  /** Ports for sound; a call with an operator takes 6. */
  readonly mediaPorts?: number;
  /** `folder` holds the prompts, in `prompts`. */
  readonly change?: (config: ConfigFile, folder: string) => void;
}

export interface StageTls {
  readonly certificateFile: string;
  readonly keyFile: string;
  /** Who signed the certificates of the others. */
  readonly caFile: string;
}

export interface Talk {
  readonly stage: Stage;
  readonly caller: Phone;
  readonly leg: PhoneCall;
  readonly call: BotCall;
}

/** Prompts in the prompt folder, as URLs. They sound at the bot's pitch. */
export interface Prompts {
  /** Long enough to be recognised. */
  readonly short: string;
  readonly second: string;
  /** Longer than any test. */
  readonly long: string;
}

const promptSeconds: Readonly<Record<keyof Prompts, number>> = { short: 0.3, second: 1, long: 60 };

export class Stage implements AsyncDisposable {
  readonly app: App;
  readonly redis: RedisServer;
  readonly rtpengine: RtpengineServer;
  readonly bot: RawBot;
  /** The first and the second gateway of the trunk that calls come from. */
  readonly operator: Phone;
  readonly secondOperator: Phone;
  /** The gateway of the other trunk, which asks for a password. */
  readonly otherOperator: Phone;
  readonly folder: string;
  readonly prompts: Prompts;
  readonly #bots: RawBot[];
  readonly #drachtio: DrachtioServer | undefined;
  readonly #resources: DisposalStack;
  readonly #guests: Phone[] = [];
  /** Calls of the operators that belong to earlier tests. */
  readonly #seen = new Map<Phone, number>();
  readonly #idle: ReadonlyMap<string, number>;

  private constructor(parts: Parts, app: App, bot: RawBot, resources: DisposalStack) {
    ({
      redis: this.redis,
      rtpengine: this.rtpengine,
      operator: this.operator,
      secondOperator: this.secondOperator,
      otherOperator: this.otherOperator,
      folder: this.folder,
    } = parts);
    this.#drachtio = parts.drachtio;
    const prompt = (name: keyof Prompts): string => pathToFileURL(join(this.folder, "prompts", `${name}.wav`)).href;
    this.prompts = { short: prompt("short"), second: prompt("second"), long: prompt("long") };
    this.app = app;
    this.bot = bot;
    this.#bots = [bot];
    this.#resources = resources;
    this.#idle = new Map(numbersOf(app.stats(), ""));
  }

  static async start(options: StageOptions = {}): Promise<Stage> {
    await using resources = new DisposalStack();
    const parts = await startParts(options, resources);
    const file = configFile(parts, options);
    const env = {
      STAGE_TRUNK_PASSWORD: trunkPassword.password,
      STAGE_DRACHTIO_SECRET: drachtioSecret,
      STAGE_FREESWITCH_PASSWORD: onFreeswitch?.password ?? "",
    };
    const parsed = parseConfig(JSON.stringify(file), env, parts.folder);
    if (!parsed.ok) throw new Error(parsed.problems.map(({ path, message }) => `${path}: ${message}`).join("\n"));
    const { config } = parsed;
    const surroundings = options.sessionSecondMs === undefined ? {} : { sessionSecondMs: options.sessionSecondMs };
    const app = resources.use(await createApp(config, loadSecrets(config, env), { log: silentLog, ...surroundings }));
    const bot = resources.use(await RawBot.connect(parts.redis.port, "bot-a"));
    return new Stage(parts, app, bot, resources.move());
  }

  /** The port that SIP is spoken on. */
  port(protocol: "udp" | "tcp" | "tls" = "udp"): number {
    const server = this.#drachtio;
    if (server !== undefined) return protocol === "tls" ? (server.tlsPort ?? 0) : server.sipPort;
    const listener = this.app.listening.find((candidate) => candidate.protocol === protocol);
    if (listener === undefined) throw new Error(`the service does not listen on ${protocol}`);
    return listener.port;
  }

  uri(number: string = botNumber): string {
    return `sip:${number}@127.0.0.1:${this.port()}`;
  }

  /** Another bot of the configuration; its events are checked too. */
  async listen(botId: string): Promise<RawBot> {
    const bot = this.#resources.use(await RawBot.connect(this.redis.port, botId));
    this.#bots.push(bot);
    return bot;
  }

  /** A phone that is gone with the stage, or with `clear`. */
  async phone(options: PhoneOptions = {}): Promise<Phone> {
    const phone = this.#resources.use(await Phone.start({ user: callerNumber, tone: pitches.caller, ...options }));
    this.#guests.push(phone);
    return phone;
  }

  /** The call that came to a gateway's phone, counted from 0 since the last `clear`. */
  incoming(phone: Phone = this.operator, index = 0): Promise<PhoneCall> {
    return waitFor(() => this.incomingCalls(phone)[index], { what: `call ${index} at ${phone.user}`, intervalMs: 5 });
  }

  incomingCalls(phone: Phone): readonly PhoneCall[] {
    return phone.calls.slice(this.#seen.get(phone) ?? 0);
  }

  /** Makes room for the next test: guests leave, and what came to the operators so far is history. */
  async clear(): Promise<void> {
    for (const guest of this.#guests.splice(0)) await guest[Symbol.asyncDispose]();
    for (const phone of [this.operator, this.secondOperator, this.otherOperator]) {
      this.#seen.set(phone, phone.calls.length);
      phone.answering = { type: "answer" };
    }
  }

  /** A caller who has been answered and a bot that knows it. */
  async talk(options: PhoneOptions = {}, dial: DialOptions = {}): Promise<Talk> {
    const caller = await this.phone(options);
    const leg = await caller.dial(this.uri(), dial);
    const call = await this.bot.callOf(leg.callId);
    await leg.established;
    await call.event("answered");
    return { stage: this, caller, leg, call };
  }

  /** A finished recording: the sound, and what the file beside it says. */
  async recording(
    call: BotCall,
  ): Promise<{ readonly sound: Recording; readonly sidecar: Sidecar; readonly file: string }> {
    const finished = await call.event("recording", { where: (body) => body["state"] === "finished" });
    const file = String(finished.body["file"]);
    const sidecar = JSON.parse(await readFile(file.replace(/\.wav$/, ".json"), "utf8")) as Sidecar;
    return { sound: await readRecording(file), sidecar, file };
  }

  /**
   * Waits until nothing of any call is left, in the service, in rtpengine and on the disk, and checks what bots were told.
   * `commandsToo`: late commands of ended calls are answered for five seconds, and that must be over as well.
   */
  async atRest({ commandsToo = false }: { readonly commandsToo?: boolean } = {}): Promise<void> {
    let faults: readonly string[] = [];
    try {
      await waitFor(
        async () => {
          faults = await this.#restFaults(commandsToo);
          return faults.length === 0;
        },
        { what: "rest", timeoutMs: 12_000, intervalMs: 50 },
      );
    } catch (error) {
      throw new Error(`not at rest:\n${faults.join("\n")}`, { cause: error });
    }
    for (const bot of this.#bots) {
      const broken = contractFaults(bot, await bot.stream());
      if (broken.length > 0) throw new Error(`the contract is broken:\n${broken.join("\n")}`);
    }
  }

  async #restFaults(commandsToo: boolean): Promise<readonly string[]> {
    const stats = numbersOf(this.app.stats(), "").filter(
      ([path, value]) =>
        value > (this.#idle.get(path) ?? 0) && (commandsToo || !/^bot\.(?:calls|bots|timers)$/.test(path)),
    );
    const calls = await this.rtpengine.calls();
    const channels = onFreeswitch === undefined ? 0 : await channelsIn(onFreeswitch);
    const files = await filesBelow(this.rtpengine.recordingFolder);
    return [
      ...stats.map(([path, value]) => `${path} = ${value}`),
      ...(this.app.stats().engineIdle ? [] : ["the engine is not idle"]),
      ...calls.map((call) => `rtpengine holds ${call}`),
      ...(channels === 0 ? [] : [`FreeSWITCH holds ${channels} channels`]),
      ...files.map((file) => `in the spool: ${file}`),
    ];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#resources[Symbol.asyncDispose]();
  }
}

export interface Sidecar {
  readonly startedAt: string;
  readonly callId: string;
  readonly botId: string;
  readonly caller: string;
  readonly called: string;
  readonly seconds: number;
  readonly channels: number;
  readonly phases: readonly { readonly phase: string; readonly from: number; readonly to: number }[];
  readonly gaps: readonly { readonly at: number; readonly seconds: number; readonly reason: string }[];
}

interface Parts {
  readonly redis: RedisServer;
  readonly rtpengine: RtpengineServer;
  readonly operator: Phone;
  readonly secondOperator: Phone;
  readonly otherOperator: Phone;
  readonly dtmfPort: number;
  readonly folder: string;
  /** Where PATCHBAY_TEST_DRACHTIO names one, the service works on it in place of the embedded engine. */
  readonly drachtio: DrachtioServer | undefined;
}

async function startParts(options: StageOptions, resources: DisposalStack): Promise<Parts> {
  const { path: folder } = resources.use(await temporaryFolder("stage"));
  const promptFolder = join(folder, "prompts");
  await mkdir(promptFolder);
  for (const [name, seconds] of Object.entries(promptSeconds)) {
    await writeTone(join(promptFolder, `${name}.wav`), pitches.bot, seconds);
  }
  const { port: dtmfPort } = resources.use(await claimPort());
  const redis = resources.use(await RedisServer.start());
  const rtpengine = resources.use(
    await RtpengineServer.start({
      dtmfLog: { address: "127.0.0.1", port: dtmfPort },
      ...(options.mediaPorts === undefined ? {} : { mediaPorts: options.mediaPorts }),
    }),
  );
  const operator = resources.use(
    await Phone.start({ user: "operator", tone: pitches.operator, codecs: ["PCMA"], ...options.operator }),
  );
  const secondOperator = resources.use(await Phone.start({ user: "second", tone: pitches.operator2 }));
  const otherOperator = resources.use(await Phone.start({ user: "other", tone: pitches.operator3 }));
  const drachtio =
    drachtioProgram === undefined
      ? undefined
      : resources.use(
          await DrachtioServer.start({
            t1Ms: options.t1Ms ?? defaultT1Ms,
            headerNames: botHeaderNames,
            tls: options.tls,
          }),
        );
  return { redis, rtpengine, operator, secondOperator, otherOperator, dtmfPort, folder, drachtio };
}

function configFile(parts: Parts, options: StageOptions): ConfigFile {
  const { redis, rtpengine, operator, secondOperator, otherOperator, dtmfPort, drachtio } = parts;
  const gateway = (id: string, phone: Phone): object => ({ id, host: phone.address, port: phone.port });
  const config: ConfigFile = {
    sip: {
      listen: [
        { protocol: "udp", address: "127.0.0.1", port: 0 },
        { protocol: "tcp", address: "127.0.0.1", port: 0 },
        ...(options.tls === undefined ? [] : [{ protocol: "tls", address: "127.0.0.1", port: 0, tls: options.tls }]),
      ],
      t1Ms: options.t1Ms ?? defaultT1Ms,
      ...(drachtio === undefined
        ? {}
        : {
            engine: "drachtio",
            drachtio: { host: "127.0.0.1", port: drachtio.controlPort, secretEnv: "STAGE_DRACHTIO_SECRET" },
          }),
    },
    redis: { url: redis.url },
    media: {
      ...(onFreeswitch === undefined
        ? {}
        : {
            anchor: "freeswitch",
            freeswitch: {
              servers: [{ host: onFreeswitch.host, port: onFreeswitch.port }],
              passwordEnv: "STAGE_FREESWITCH_PASSWORD",
            },
          }),
      rtpengine: [{ host: rtpengine.address, port: rtpengine.ngPort }],
      dtmf: { address: "127.0.0.1", port: dtmfPort },
      promptFolder: "prompts",
      cacheFolder: "cache",
      // Nearly without pauses, so that any moment tells whether it rings.
      ringback: { frequenciesHz: [pitches.ringback], onMs: 2_000, offMs: 100 },
    },
    recording: { folder: "recordings", spoolFolder: rtpengine.recordingFolder },
    trunks: [
      {
        id: "trunk-a",
        sources: ["127.0.0.1"],
        gateways: [gateway("gateway-1", operator), gateway("gateway-2", secondOperator)],
        ...options.trunk,
      },
      {
        id: "trunk-b",
        sources: ["127.0.0.9"],
        gateways: [gateway("gateway-3", otherOperator)],
        outbound: { username: trunkPassword.username, passwordEnv: "STAGE_TRUNK_PASSWORD" },
        number: "+74950000000",
      },
    ],
    channels: [
      {
        botId: "bot-a",
        trunk: "trunk-a",
        numbers: [botNumber],
        number: botNumber,
        destinations: { sipHosts: ["127.0.0.1:*"] },
        ...options.channel,
      },
      { botId: "bot-b", trunk: "trunk-b", numbers: ["200"] },
    ],
    admin: { address: "127.0.0.1", port: 0 },
  };
  options.change?.(config, parts.folder);
  return config;
}

/** What counts things that have been and not things that are. Faults, failures and lost events are not among them. */
const countersOverTime: ReadonlySet<string> = new Set([
  "counters",
  "published",
  "commands",
  "messagesIn",
  "messagesOut",
  "malformed",
  "unlisted",
  "strayVia",
  "sendFailures",
  "connectionsRefused",
  "retransmissionsIn",
  "merged",
  "overloaded",
  "refused",
  "unmatchedResponses",
  "unmatchedAcks",
  "strayReplies",
]);

/** All sizes in the statistics, by path. */
function numbersOf(value: unknown, path: string): readonly (readonly [path: string, value: number])[] {
  if (typeof value === "number") return [[path, value]];
  if (typeof value !== "object" || value === null) return [];
  return Object.entries(value)
    .filter(([key]) => !countersOverTime.has(key))
    .flatMap(([key, item]) => numbersOf(item, path === "" ? key : `${path}.${key}`));
}

interface SharedStageOptions extends StageOptions {
  /** The tests run at the same time, and rest is asked for when the last one is over. */
  readonly concurrent?: boolean;
  /** At the end waits until late commands are no longer answered either, which takes five seconds. */
  readonly commandsToo?: boolean;
}

/** One stage for all tests of a `describe`: started before the first, at rest after each, gone at the end. */
export function sharedStage({
  concurrent = false,
  commandsToo = false,
  ...options
}: SharedStageOptions = {}): () => Stage {
  let stage: Stage | undefined;
  beforeAll(async () => {
    stage = await Stage.start(options);
  });
  if (!concurrent) {
    beforeEach(() => stage?.clear());
    afterEach(async () => {
      await stage?.clear();
      await stage?.atRest();
    });
  }
  afterAll(async () => {
    try {
      await stage?.clear();
      await stage?.atRest({ commandsToo });
    } finally {
      await stage?.[Symbol.asyncDispose]();
      stage = undefined;
    }
    await noChildren();
  });
  return () => {
    if (stage === undefined) throw new Error("the stage was not started");
    return stage;
  };
}

/** Fails when a process that this one has started is still there. */
export async function noChildren(): Promise<void> {
  let names: readonly string[] = [];
  await waitFor(
    async () => {
      names = await childrenOf(process.pid);
      return names.length === 0;
    },
    { what: "the end of all child processes", timeoutMs: 5_000, intervalMs: 50 },
  ).catch((error: unknown) => {
    throw new Error(`still running: ${names.join(", ")}`, { cause: error });
  });
}

async function childrenOf(parent: number): Promise<readonly string[]> {
  const names: string[] = [];
  for (const pid of (await readdir("/proc")).filter((name) => /^\d+$/.test(name))) {
    const stat = await readFile(`/proc/${pid}/stat`, "utf8").catch(() => "");
    // The name stands in brackets and may hold anything; the parent is the second field behind it.
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    // The TypeScript loader of the phones' sound thread keeps a compiler of its own; it is no part of the stage.
    if (Number(fields[1]) === parent && !stat.includes("(esbuild)"))
      names.push(stat.slice(0, stat.lastIndexOf(")") + 1));
  }
  return names;
}

export async function filesBelow(folder: string): Promise<readonly string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  return entries.filter((entry) => !entry.isDirectory()).map((entry) => join(entry.parentPath, entry.name));
}
