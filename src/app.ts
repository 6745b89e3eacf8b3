import { randomBytes, randomUUID } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { AdminServer } from "./admin/http.ts";
import { fallbackReplies } from "./bot/fallback.ts";
import { transferCauses } from "./bot/contract.ts";
import type { BotFormat } from "./bot/envelope.ts";
import { type RedisAddress, RedisBotLink } from "./bot/link.ts";
import type { TransferPolicy } from "./bot/translate.ts";
import type { BotEvent } from "./call/bot-event.ts";
import type { CallId, TransferId } from "./call/ids.ts";
import type { Post } from "./call/ports.ts";
import { type CallSetup, type Patience, usualKeys, usualSounds } from "./call/setup.ts";
import { usesAnchor } from "./config/schema.ts";
import type { AnchorName, Config } from "./config/schema.ts";
import type { Secrets } from "./config/secrets.ts";
import { type Engine, startEngine, TargetResolver } from "./engine/index.ts";
import { systemClock as engineClock, systemRandom } from "./engine/timers.ts";
import { engineOptions } from "./engine-process.ts";
import { engineFigures } from "./engine-figures.ts";
import { systemClock } from "./lib/clock.ts";
import { Disposal } from "./lib/disposal.ts";
import { version } from "./lib/version.ts";
import { AnchorChoice } from "./media/anchor-choice.ts";
import { startFreeswitchAnchor } from "./media/freeswitch/anchor.ts";
import {
  type AnchorOptions,
  defaultMediaLimits,
  type FreeswitchServer,
  type MediaSip,
  type SpeechOptions,
  systemMediaClock,
} from "./media/options.ts";
import { RecordingDelivery } from "./media/recording/delivery.ts";
import { startRtpengineAnchor } from "./media/rtpengine/anchor.ts";
import type { Anchor } from "./media/switching/switching-anchor.ts";
import { CallRegistry } from "./runtime/registry.ts";
import { openCalls, type OpenCalls } from "./runtime/open-calls.ts";
import type { HostResolver } from "./sip/pinning.ts";
import { SipSide } from "./sip/side.ts";
import type { EnginePlace } from "./sip/srf.ts";
import { callsByPhase, serviceState } from "./service-state.ts";
import { createTelemetry, type Telemetry } from "./telemetry/events.ts";
import { FreeSpace } from "./telemetry/free-space.ts";
import type { Log } from "./telemetry/log.ts";
import { createMetrics } from "./telemetry/metrics.ts";
import type { ServiceState } from "./telemetry/service-state.ts";
import { fallbackProblems, type PolicyFacts, transferPolicy } from "./transfer-policy.ts";
import { Allowance } from "./trunk/allowance.ts";
import { GatewayHealth } from "./trunk/gateway-health.ts";
import { ReferMemory } from "./trunk/refer-memory.ts";
import { type Channel, TrunkTable } from "./trunk/table.ts";

/** What the one who builds the service brings along. */
export interface Surroundings {
  readonly log: Log;
  /** How long a second of session timers and registrations lasts; other than 1000 in tests only. */
  readonly sessionSecondMs?: number;
}

/** Sizes of everything that grows with calls; all zero at rest. */
export interface AppStats {
  readonly calls: number;
  readonly timers: number;
  readonly sip: ReturnType<SipSide["stats"]>;
  readonly media: ReturnType<AnchorChoice["stats"]>;
  readonly bot: ReturnType<RedisBotLink["stats"]>;
  /** Undefined with a drachtio-server. */
  readonly engine: ReturnType<Engine["stats"]> | undefined;
  /** True when nothing of any call is left in the embedded engine. */
  readonly engineIdle: boolean;
}

export interface App extends AsyncDisposable {
  /** SIP addresses of the embedded engine, with the ports really taken; empty with a drachtio-server. */
  readonly listening: Engine["listening"];
  readonly adminPort: number;
  /** Calls held now. */
  readonly calls: number;
  /** Takes no new calls (503) and resolves when the last one is over, or after `timeoutMs`. */
  drain(timeoutMs: number): Promise<void>;
  stats(): AppStats;
  /** Ends what is left, in the order of docs/closing.md. Idempotent. */
  close(): Promise<void>;
}

/** What the bot of a call is told that a crash has ended; how long it was is not known any more. */
const restarted: BotEvent = {
  event: "hangup",
  by: "service",
  sipCode: null,
  reason: "service restarted",
  durationMs: 0,
};

/** A little more than the core gives a recording to finish. */
const endAllMs = 35_000;
const redisStartMs = 10_000;
const flushMs = 5_000;
/** While Redis is away a caller may wait so long for it to come back before the fallback begins. */
const awayMs = 1_500;
/** What the JAICP platform waits where a bot says nothing else. */
const jaicpInputMs = 5_000;
const mintTransferId = (): TransferId => randomUUID() as TransferId;

/**
 * Builds the service. Rejects when something it cannot do without is missing: an address in use, no signalling engine, a
 * folder that cannot be made. Redis and media servers may come later; `/readyz` tells.
 */
export async function createApp(config: Config, secrets: Secrets, surroundings: Surroundings): Promise<App> {
  const { log, sessionSecondMs } = surroundings;
  await using disposal = new Disposal();
  const table = new TrunkTable(config);
  const carriesTls = config.sip.listen.some(({ protocol }) => protocol === "tls");
  const gateways = table.trunks().flatMap((trunk) => trunk.gateways.map(({ id }) => [id, trunk.health] as const));
  const health = new GatewayHealth(
    new Map(gateways),
    () => systemClock.now(),
    (gateway, state) => telemetry.gatewayChanged(gateway, state),
  );
  const referMemory = new ReferMemory(() => systemClock.now());
  const policyOf = (call: PolicyFacts): TransferPolicy =>
    transferPolicy(table, { health, referMemory }, carriesTls, call);
  const [unfit] = fallbackProblems(config);
  if (unfit !== undefined) throw Object.assign(new Error(`${unfit.path}: ${unfit.message}`), { code: "start_failed" });
  const state = (): ServiceState => serviceState({ config, table, health, link, sip, media });
  const freeSpace = new FreeSpace({ recordings: config.recording.folder, spool: config.recording.spoolFolder });
  const metrics = createMetrics({
    version: version(),
    state,
    phases: () => callsByPhase(registry),
    redis: () => link.stats(),
    recordingsWaiting: () => media.stats().rendering + media.stats().waitingForRendering,
    recordingsUndelivered: () => delivery?.stats().waiting ?? { convert: 0, upload: 0 },
    freeSpace: () => freeSpace.read(),
    transferCauses,
  });
  const telemetry = createTelemetry(log, metrics);
  const registry: CallRegistry = new CallRegistry({
    clock: systemClock,
    telemetry,
    ended: (call) => {
      link.close(call);
      open.ended(call);
    },
  });
  const { post } = registry;
  const formatOf = (botId: string): BotFormat => table.channel(botId)?.format ?? "patchbay";

  const link = new RedisBotLink({
    redis: redisAddress(config, secrets),
    prefix: config.redis.prefix,
    streamMaxLength: config.redis.streamMaxLength,
    clock: systemClock,
    log: log.child({ part: "bot" }),
    post,
    mintTransferId,
    onState: (state) => {
      if (state === "lost") registry.postAll({ type: "bot.away" });
    },
    onStored: (waitedMs) => metrics.redisDelivery.observe(waitedMs / 1000),
    onSeq: (call, seq) => open.said(call, seq),
  });
  // Deferred first, so that it answers to the end: whoever watches `/livez` would take a long closing for a crash.
  const admin = new AdminServer({
    ...config.admin,
    state,
    metrics: () => metrics.render(),
  });
  disposal.defer(() => admin.close());
  disposal.defer(() => link.shutdown(flushMs));

  const { media: mediaConfig, recording } = config;
  await named("media.cacheFolder", mkdir(mediaConfig.cacheFolder, { recursive: true }));
  await named("recording.folder", mkdir(recording.folder, { recursive: true }));
  await named("recording.spoolFolder", mkdir(recording.spoolFolder, { recursive: true }));
  const delivery = recordingDelivery(config, secrets, telemetry, log.child({ part: "recordings" }));
  disposal.defer(() => delivery?.[Symbol.asyncDispose]());
  const media = await named(
    "media (the digit listener `media.dtmf`, or the folder `media.cacheFolder`)",
    startAnchors(config, secrets, anchorOptions(config, secrets, log.child({ part: "media" }), post, delivery), table, {
      open: (...order) => sip.mediaDialogs.open(...order),
    }),
  );
  disposal.defer(() => media[Symbol.asyncDispose]());

  const allowance = new Allowance({
    limitsOf: (botId) => table.limits(botId),
    halted: (botId) => link.ledger.halted(botId),
    talkedMs: (botId) => link.ledger.talkedMs(botId),
    addTalk: (botId, ms) => link.ledger.addTalk(botId, ms),
    now: () => systemClock.now(),
  });
  const control = { address: "127.0.0.1", secret: randomBytes(24).toString("base64url") };
  const engine =
    config.sip.engine === "embedded"
      ? await startEngine({
          ...engineOptions(config, log),
          control: { ...control, port: 0 },
          sources: table.allowedSources(),
          sessionTimers: sessionSecondMs === undefined ? {} : { secondMs: sessionSecondMs },
        })
      : undefined;
  disposal.defer(() => engine?.close());
  if (engine !== undefined) metrics.add(engineFigures, () => engine.stats());
  // A separate engine has kept the dialogs of a dead process; an embedded one died with it and makes them again.
  const savedDialog = (id: string): string => engine?.saved(id) ?? "";
  const open: OpenCalls = await named("sip.stateFolder", openCalls(config.sip.stateFolder, savedDialog, log));
  disposal.defer(() => open.close());
  engine?.takeBack(open.leftDialogs.values());

  const sip: SipSide = new SipSide({
    engine:
      engine === undefined
        ? drachtioServer(config, secrets)
        : {
            host: control.address,
            port: engine.controlPort,
            secret: control.secret,
            connection: () => engine.connection(),
          },
    // An engine in this process cannot fall silent alone.
    pingMs: engine === undefined ? 5_000 : 0,
    sharesEngine: engine === undefined,
    directory: table,
    dialogs: open.dialogs,
    password: (trunk, direction) => secrets.get(`trunk:${trunk}:${direction}`),
    mintCallId: () => randomUUID() as CallId,
    t1Ms: config.sip.t1Ms,
    post,
    clock: systemClock,
    log: log.child({ part: "sip" }),
    onRetryAfter: (gateway, ms) => {
      log.info({ gateway, ms }, "a gateway asked for rest");
      health.rest(gateway, ms);
    },
    onGateway: (gateway, answered) => health.report(gateway, answered),
    onRegistration: () => {
      // Registrars known by name only: calls come from the address that took our registration.
      const listed = table.allowedSources();
      if (listed !== "any") engine?.setSources([...listed, ...sip.registrars()]);
    },
    ...optional("registerSecondMs", sessionSecondMs),
    operators: allowance,
    resolve: hostResolver(),
    // Without Redis no bot hears of the call: the caller gets the channel's fallback, or is refused before he is answered.
    takesCalls: (botId) => link.ready() || table.channel(botId)?.fallback !== undefined,
    onRefused: (status) => telemetry.callRefused(status),
    onCall: (admitted) => {
      const policy = policyOf(admitted);
      const channel = table.channel(admitted.botId);
      const patience = patienceOf(channel, policy, link.ready());
      const sounds = channel?.sounds ?? usualSounds;
      const keys = table.trunk(admitted.trunk)?.keys ?? usualKeys;
      const setup: CallSetup = { ...admitted, policy: { ...admitted.policy, sounds, keys, ...patience } };
      const address = { call: setup.call, botId: setup.botId, caller: setup.callerNumber, called: setup.calledNumber };
      open.begun(address);
      link.open({ ...address, policy, format: formatOf(setup.botId) });
      registry.begin(setup);
    },
  });
  disposal.defer(() => sip.close());
  registry.connect({ signalling: sip, media, bot: link, trunks: referMemory });
  disposal.defer(() => within(endAllMs, registry.endAll()));

  if (!(await link.start(redisStartMs))) {
    log.warn({}, "Redis does not answer yet: calls without a fallback are refused until it does");
  }
  await sip.start();
  disposal.defer(() => sip.drain());
  void sip.endLeft([...open.leftDialogs.keys()], (id) => {
    open.dialogs.ended(id);
  });
  for (const address of open.leftCalls) {
    link.open({
      ...address,
      format: formatOf(address.botId),
      policy: policyOf({ botId: address.botId, callerNumber: address.caller }),
    });
    link.publish(address.call, restarted);
    link.close(address.call);
    open.ended(address.call);
  }
  if (open.leftCalls.length > 0) log.warn({ calls: open.leftCalls.length }, "calls of an earlier process were ended");
  await media.releaseLeft(open.leftCalls.map(({ call }) => call));

  const adminPort = await named("admin.port", admin.start());

  // What a crash has left is rendered, and what has been rendered goes its way, while new calls are taken already.
  void delivery?.start();
  void media.recoverSpool().then((found) => {
    const recordings = found.filter(({ ok }) => ok).length;
    if (recordings > 0) log.info({ recordings }, "recordings of an earlier run were recovered");
  });

  const closing = disposal.move();
  let closed: Promise<void> | undefined;
  const close = (): Promise<void> => (closed ??= closing[Symbol.asyncDispose]());
  return {
    listening: engine?.listening ?? [],
    adminPort,
    get calls() {
      return registry.size;
    },
    async drain(timeoutMs) {
      sip.drain();
      await within(timeoutMs, registry.idle());
    },
    stats: () => ({
      calls: registry.size,
      timers: registry.timers,
      sip: sip.stats(),
      media: media.stats(),
      bot: link.stats(),
      engine: engine?.stats(),
      engineIdle: engine?.isIdle() ?? true,
    }),
    close,
    [Symbol.asyncDispose]: close,
  };
}

function redisAddress({ redis: { url, sentinel } }: Config, secrets: Secrets): RedisAddress {
  const password = optional("password", secrets.get("redis"));
  if (sentinel === undefined) return { url, ...password };
  const { name, nodes, tls, username } = sentinel;
  const ownPassword = optional("password", secrets.get("redis.sentinel"));
  return { url, ...password, sentinel: { name, nodes, tls, ...optional("username", username), ...ownPassword } };
}

function drachtioServer(config: Config, secrets: Secrets): EnginePlace {
  const { drachtio } = config.sip;
  // The schema refuses `engine: drachtio` without both.
  if (drachtio === undefined) throw new Error("sip.drachtio is missing");
  return {
    host: drachtio.host,
    port: drachtio.port,
    secret: secrets.get("sip.drachtio") ?? "",
    ...(config.sip.engine === "drachtio" ? { claimAgainMs: 10_000 } : {}),
  };
}

/** What is done about a silent bot; without Redis the caller waits no longer than for a slow bot's first word. */
function patienceOf(
  channel: Channel | undefined,
  policy: TransferPolicy,
  redisReady: boolean,
): { readonly patience?: Patience } {
  if (channel === undefined) return {};
  const outcome = fallbackReplies(channel.fallback, policy, mintTransferId);
  // Read once at the start, and refused there.
  if (!outcome.ok) throw new Error(outcome.message);
  const { botTimeoutMs, botSilenceMs, inputTimeoutMs, format } = channel;
  const inputMs = inputTimeoutMs ?? (format === "jaicp" ? jaicpInputMs : null);
  const answerMs = redisReady ? botTimeoutMs : Math.min(botTimeoutMs, awayMs);
  return { patience: { answerMs, silenceMs: botSilenceMs, inputMs, fallback: outcome.replies } };
}

/** By the machine's own DNS servers, whichever engine sends the requests. */
function hostResolver(): HostResolver {
  const resolver = new TargetResolver({ families: () => [4, 6], clock: engineClock, random: systemRandom });
  return async (host, port, transport) => {
    const outcome = await resolver.resolve({
      host,
      port: port ?? undefined,
      protocols: transport === null ? ["udp", "tcp"] : [transport],
    });
    return outcome.ok ? outcome.addresses.map(({ protocol, ...place }) => ({ transport: protocol, ...place })) : [];
  };
}

/** Undefined when finished recordings stay as and where they are. */
function recordingDelivery(
  { recording: { folder, format, ffmpeg, upload } }: Config,
  secrets: Secrets,
  telemetry: Telemetry,
  log: Log,
): RecordingDelivery | undefined {
  if (format === "wav" && upload === undefined) return undefined;
  // `loadSecrets` refuses a configuration without them.
  const accessKey = secrets.get("recording.upload.accessKey") ?? "";
  const secretKey = secrets.get("recording.upload.secretKey") ?? "";
  return new RecordingDelivery({
    folder,
    format,
    ffmpeg,
    conversionTimeoutMs: 600_000,
    upload: upload === undefined ? null : { ...upload, accessKey, secretKey },
    firstRetryMs: 1_000,
    longestRetryMs: 600_000,
    patienceMs: 15_000,
    clock: systemMediaClock,
    log,
    counted: (step, result) => telemetry.recordingDelivered(step, result),
  });
}

/** Starts every anchor that a channel uses, and says which has the calls of a bot. */
async function startAnchors(
  config: Config,
  secrets: Secrets,
  common: AnchorOptions,
  table: TrunkTable,
  sip: MediaSip,
): Promise<AnchorChoice> {
  await using started = new Disposal();
  const anchors = new Map<AnchorName, Anchor>();
  const own = async (name: AnchorName, starting: Promise<Anchor>): Promise<void> => {
    const anchor = await starting;
    started.defer(() => anchor[Symbol.asyncDispose]());
    anchors.set(name, anchor);
  };
  if (usesAnchor(config, "rtpengine")) {
    const [first, ...others] = config.media.rtpengine;
    if (first === undefined) throw new Error("media.rtpengine is empty");
    await own(
      "rtpengine",
      startRtpengineAnchor({
        ...common,
        instances: [first, ...others],
        dtmf: config.media.dtmf,
        // A parked caller's packets end on this host: a port where nobody listens.
        parkingAddress: "127.0.0.1",
      }),
    );
  }
  if (usesAnchor(config, "freeswitch")) {
    const [first, ...others] = freeswitchServers(config, secrets);
    if (first === undefined) throw new Error("media.freeswitch.servers is empty");
    await own("freeswitch", startFreeswitchAnchor({ ...common, servers: [first, ...others], sip }));
  }
  started.move();
  return new AnchorChoice(anchors, (botId) => table.channel(botId)?.mediaAnchor ?? config.media.anchor);
}

function freeswitchServers({ media: { freeswitch } }: Config, secrets: Secrets): readonly FreeswitchServer[] {
  const { servers, listen } = freeswitch;
  return servers.map((server, index) => ({
    ...server,
    password: secrets.get("media.freeswitch") ?? "",
    listenAddress: listen.address,
    listenPort: listen.port === 0 ? 0 : listen.port + index,
    ...optional("advertisedAddress", listen.advertisedAddress),
  }));
}

function anchorOptions(
  config: Config,
  secrets: Secrets,
  log: Log,
  post: Post,
  delivery: RecordingDelivery | undefined,
): AnchorOptions {
  const { media, recording } = config;
  const megabyte = 1024 * 1024;
  return {
    commandTimeoutMs: 1_000,
    pingMs: 2_000,
    watchMs: Math.min(5_000, media.callerTimeoutMs),
    callerTimeoutMs: media.callerTimeoutMs,
    talkTimeoutMs: media.talkTimeoutMs,
    lostAfterMs: 10_000,
    ringback: [
      { frequenciesHz: [...media.ringback.frequenciesHz], ms: media.ringback.onMs },
      { frequenciesHz: [], ms: media.ringback.offMs },
    ],
    prompts: {
      folder: media.promptFolder,
      cacheFolder: media.cacheFolder,
      cacheBytes: media.cacheMaxMb * megabyte,
      mostBytes: media.fetch.maxMb * megabyte,
      mostSeconds: 600,
      timeoutMs: media.fetch.timeoutMs,
      freshMs: media.fetch.freshMs,
      hosts: media.fetch.hosts,
      mostRedirects: media.fetch.maxRedirects,
      mostDownloads: 16,
    },
    speech: speechOptions(config.media.tts, secrets),
    recording: {
      folder: recording.folder,
      spoolFolder: recording.spoolFolder,
      mostRenders: 2,
      mostWaiting: 1_000,
      ...optional("delivery", delivery),
    },
    limits: defaultMediaLimits,
    post,
    log,
    clock: systemMediaClock,
  };
}

function speechOptions(tts: Config["media"]["tts"], secrets: Secrets): SpeechOptions {
  const mostAtOnce = 4;
  switch (tts.kind) {
    case "none":
      return { kind: "none" };
    case "command": {
      const [program, ...args] = tts.command;
      if (program === undefined) throw new Error("media.tts.command is empty");
      const { lang, voice = "", timeoutMs } = tts;
      return { kind: "command", command: [program, ...args], lang, voice, timeoutMs, mostAtOnce };
    }
    case "http": {
      const { url, format, lang, voice = "", timeoutMs } = tts;
      const authorization = secrets.get("media.tts");
      const headers = { ...tts.headers, ...(authorization === undefined ? {} : { authorization }) };
      return { kind: "http", url, headers, body: format, lang, voice, timeoutMs, mostAtOnce };
    }
  }
}

/** A part that could not start is told with the configuration field that is to be changed. */
async function named<T>(field: string, starting: Promise<T>): Promise<T> {
  try {
    return await starting;
  } catch (error) {
    throw Object.assign(new Error(`${field} cannot be used`, { cause: error }), { code: "start_failed" });
  }
}

/** A field that is left out when there is nothing to say. */
function optional<K extends string, V>(key: K, value: V | undefined): { [P in K]?: V } {
  return value === undefined ? {} : ({ [key]: value } as { [P in K]?: V });
}

/** Waits for `work`, but no longer than `timeoutMs`. */
async function within(timeoutMs: number, work: Promise<unknown>): Promise<void> {
  const time = new AbortController();
  try {
    await Promise.race([work, sleep(timeoutMs, undefined, { signal: time.signal }).catch(() => undefined)]);
  } finally {
    time.abort();
  }
}
