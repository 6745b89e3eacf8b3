// A media anchor on a real media server, and the events it posts, for the media tests.
import { fork } from "node:child_process";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { CallEvent } from "../../src/call/event.ts";
import type { CallId, ExchangeId, LegId, PlayId, Sdp } from "../../src/call/ids.ts";
import { toInt16, WavWriter } from "../../src/media/audio/wav.ts";
import { defaultMediaLimits, systemMediaClock } from "../../src/media/options.ts";
import type { Anchor } from "../../src/media/switching/switching-anchor.ts";
import type { AnchorOptions, MediaOptions } from "../../src/media/options.ts";
import { startRtpengineAnchor } from "../../src/media/rtpengine/anchor.ts";
import type { RtpengineAnchor } from "../../src/media/rtpengine/anchor.ts";
import { DisposalStack } from "../support/disposal.ts";
import { temporaryFolder } from "../support/folder.ts";
import type { CodecName } from "../support/g711.ts";
import { payloadTypeOf } from "../support/g711.ts";
import { PhoneMedia } from "../support/phone-media.ts";
import { pitches } from "../support/pitch.ts";
import { claimPort } from "../support/ports.ts";
import { startRtpengine } from "../support/rtpengine.ts";
import type { RtpengineOptions, RtpengineServer } from "../support/rtpengine.ts";
import { waitFor } from "../support/wait.ts";

type EventOf<T extends CallEvent["type"]> = Extract<CallEvent, { readonly type: T }>;

/** A WAV file with a tone. */
export function writeTone(path: string, hz: number, seconds: number, sampleRate = 48_000, amplitude = 0.25): string {
  using writer = new WavWriter(path, 1, sampleRate, 0o644);
  writer.write(
    toInt16(
      Float32Array.from(
        { length: Math.round(sampleRate * seconds) },
        (_, index) => amplitude * Math.sin((2 * Math.PI * hz * index) / sampleRate),
      ),
    ),
  );
  writer.finish();
  return path;
}

export interface SdpChoice {
  readonly codecs?: readonly CodecName[];
  readonly direction?: "sendrecv" | "sendonly" | "recvonly" | "inactive";
  /** null: no telephone events. */
  readonly eventType?: number | null;
  readonly version?: number;
}

export function sdpOf(media: PhoneMedia, choice: SdpChoice = {}): Sdp {
  const { codecs = ["PCMU"], direction = "sendrecv", eventType = 101, version = 1 } = choice;
  const types = [...codecs.map((codec) => payloadTypeOf[codec]), ...(eventType === null ? [] : [eventType])];
  const lines = [
    "v=0",
    `o=phone 1 ${version} IN IP4 ${media.address}`,
    "s=-",
    `c=IN IP4 ${media.address}`,
    "t=0 0",
    `m=audio ${media.port} RTP/AVP ${types.join(" ")}`,
    ...codecs.map((codec) => `a=rtpmap:${payloadTypeOf[codec]} ${codec}/8000`),
    ...(eventType === null ? [] : [`a=rtpmap:${eventType} telephone-event/8000`]),
    `a=${direction}`,
  ];
  return `${lines.join("\r\n")}\r\n` as Sdp;
}

export function portIn(sdp: string): number {
  return Number(/^m=audio (\d+)/m.exec(sdp)?.[1]);
}

/** One call as its owner sees it: what is asked of the anchor, and what comes back. */
type Updated = EventOf<"media.updated"> | EventOf<"media.updateFailed">;

export class TestCall {
  readonly id: CallId;
  readonly caller: LegId;
  readonly events: CallEvent[] = [];
  readonly #anchor: Anchor;
  #plays = 0;

  constructor(anchor: Anchor, id: string) {
    this.#anchor = anchor;
    this.id = id as CallId;
    this.caller = `${id}/caller` as LegId;
  }

  all<T extends CallEvent["type"]>(type: T): readonly EventOf<T>[] {
    return this.events.filter((event): event is EventOf<T> => event.type === type);
  }

  /** The event of that kind with that number, as soon as it comes. */
  async event<T extends CallEvent["type"]>(type: T, index = 0, timeoutMs = 5_000): Promise<EventOf<T>> {
    return waitFor(() => this.all(type)[index], {
      timeoutMs,
      what: `${type} number ${index + 1}; there were ${this.events.map((event) => event.type).join(", ")}`,
    });
  }

  /** Parks a caller and lets his phone send. */
  async open(phone: PhoneMedia, choice: SdpChoice = {}): Promise<number> {
    this.#anchor.open(this.id, this.caller, sdpOf(phone, choice), { botId: "bot-1", caller: "100", called: "200" });
    const { answer } = await this.event("media.opened");
    const port = portIn(answer);
    phone.connect("127.0.0.1", port, choice.codecs?.[0] ?? "PCMU", choice.eventType ?? 101);
    return port;
  }

  leg(name: string): LegId {
    return `${this.id}/${name}` as LegId;
  }

  /** Offers a leg to an operator; gives the port for his phone. */
  async offer(name: string): Promise<number> {
    const leg = this.leg(name);
    this.#anchor.offer(this.id, leg);
    const { offer } = await waitFor(() => this.all("media.offered").find((event) => event.leg === leg), {
      what: `the offer for ${name}`,
    });
    return portIn(offer);
  }

  async join(name: string, phone: PhoneMedia, choice: SdpChoice = {}): Promise<void> {
    const leg = this.leg(name);
    this.#anchor.join(this.id, leg, sdpOf(phone, choice));
    await waitFor(() => this.all("media.joined").some((event) => event.leg === leg), { what: `${name} to be joined` });
  }

  drop(name: string): void {
    this.#anchor.drop(this.id, this.leg(name));
  }

  play(url: string, times = 1, leg: LegId = this.caller): PlayId {
    this.#plays += 1;
    const play = `${this.id}/play-${this.#plays}` as PlayId;
    this.#anchor.play(this.id, play, leg, { kind: "audio", url, times });
    return play;
  }

  async played(play: PlayId, timeoutMs = 8_000): Promise<EventOf<"media.played">> {
    return waitFor(() => this.all("media.played").find((event) => event.play === play), {
      timeoutMs,
      what: `the end of ${play}`,
    });
  }

  async update(leg: LegId, offer: Sdp | null): Promise<Updated> {
    const exchange = `${leg}/${this.events.length}` as ExchangeId;
    this.#anchor.update(this.id, leg, exchange, offer);
    return this.#updated(exchange);
  }

  /** What somebody who would take the leg's place is answered. */
  async propose(leg: LegId, offer: Sdp): Promise<Updated> {
    const exchange = `${leg}/${this.events.length}` as ExchangeId;
    this.#anchor.propose(this.id, leg, exchange, offer);
    return this.#updated(exchange);
  }

  async #updated(exchange: ExchangeId): Promise<Updated> {
    return waitFor(
      () =>
        this.events.find(
          (event): event is EventOf<"media.updated"> | EventOf<"media.updateFailed"> =>
            (event.type === "media.updated" || event.type === "media.updateFailed") && event.exchange === exchange,
        ),
      { what: "the answer to an update" },
    );
  }

  async close(timeoutMs = 15_000): Promise<void> {
    this.#anchor.close(this.id);
    await this.event("media.closed", 0, timeoutMs);
  }
}

/** An anchor and what it works with. */
export interface MediaStage extends AsyncDisposable {
  readonly anchor: Anchor;
  readonly folder: string;
  readonly promptFolder: string;
  readonly recordingFolder: string;
  /** `file:` URL of a prompt with the bot's pitch. */
  readonly botPrompt: (seconds: number) => string;
  readonly call: (id?: string) => TestCall;
  readonly phone: () => Promise<PhoneMedia>;
  readonly phones: () => Promise<readonly [PhoneMedia, PhoneMedia, PhoneMedia]>;
  /** What the media side has logged. */
  readonly logged: readonly string[];
  /** Calls or channels that the media server holds. */
  readonly held: () => Promise<number>;
  /** Files in the folder of recordings under way, ours included. */
  readonly spool: () => readonly string[];
}

export interface Talk {
  readonly call: TestCall;
  readonly caller: PhoneMedia;
  readonly operator: PhoneMedia;
  /** Whoever comes later. */
  readonly other: PhoneMedia;
  /** Where the caller's phone sends to, and the operator's. */
  readonly port: number;
  readonly operatorPort: number;
}

/** A call whose caller is joined with `operator-1`; both send the tones of their parts. */
export async function talk(
  stage: MediaStage,
  { caller: callerChoice = {}, operator: operatorChoice = {} }: { caller?: SdpChoice; operator?: SdpChoice } = {},
): Promise<Talk> {
  const call = stage.call();
  const [caller, operator, other] = await stage.phones();
  const port = await call.open(caller, callerChoice);
  caller.sendTone(pitches.caller);
  const operatorPort = await call.offer("operator-1");
  operator.connect("127.0.0.1", operatorPort, operatorChoice.codecs?.[0] ?? "PCMU", operatorChoice.eventType ?? 101);
  operator.sendTone(pitches.operator);
  await call.join("operator-1", operator, operatorChoice);
  return { call, caller, operator, other, port, operatorPort };
}

/** A call whose caller sends his tone and is being recorded. */
export async function recorded(stage: MediaStage): Promise<Pick<Talk, "call" | "caller">> {
  const call = stage.call();
  const caller = await stage.phone();
  await call.open(caller);
  caller.sendTone(pitches.caller);
  stage.anchor.recording(call.id, "start");
  await call.event("recording.changed");
  return { call, caller };
}

/** Starts an anchor of one kind; what is in `change` differs from the options a service has. */
export type StartStage = (change?: Partial<AnchorOptions>) => Promise<MediaStage>;

/** What an anchor is started with, and what becomes of it. */
export interface StageParts<A extends Anchor> {
  readonly anchor: A;
  readonly spoolFolder: string;
  readonly held: () => Promise<number>;
}

/** Builds a stage in `resources`, which it owns from then on. */
export async function buildStage<A extends Anchor>(
  resources: DisposalStack,
  start: (common: Omit<AnchorOptions, "recording">, folder: string) => Promise<StageParts<A>>,
): Promise<MediaStage & { readonly anchor: A }> {
  const { path } = resources.use(await temporaryFolder("media"));
  const promptFolder = join(path, "prompts");
  await mkdir(promptFolder);
  const calls = new Map<string, TestCall>();
  const logged: string[] = [];
  const log = (level: string) => (fields: object, message: string) => {
    logged.push(`${level} ${message} ${JSON.stringify(fields)}`);
  };
  const { anchor, spoolFolder, held } = await start(
    {
      commandTimeoutMs: 500,
      pingMs: 500,
      watchMs: 500,
      callerTimeoutMs: 60_000,
      talkTimeoutMs: 20_000,
      lostAfterMs: 3_000,
      ringback: [
        { frequenciesHz: [pitches.ringback], ms: 1_000 },
        { frequenciesHz: [], ms: 500 },
      ],
      prompts: {
        folder: promptFolder,
        cacheFolder: join(path, "cache"),
        cacheBytes: 50_000_000,
        mostBytes: 20_000_000,
        mostSeconds: 600,
        timeoutMs: 6_000,
        freshMs: 60_000,
        hosts: "any",
        mostDownloads: 8,
      },
      speech: { kind: "none" },
      limits: defaultMediaLimits,
      post(call, event) {
        calls.get(call)?.events.push(event);
        return calls.has(call);
      },
      log: { debug: log("debug"), info: log("info"), warn: log("warn"), error: log("error") },
      clock: systemMediaClock,
    },
    path,
  );
  resources.use(anchor);
  const owned = resources.move();
  const phone = async (): Promise<PhoneMedia> => owned.use(await PhoneMedia.open("127.0.0.1"));
  return {
    anchor,
    folder: path,
    promptFolder,
    recordingFolder: recordingFolderOf(path),
    botPrompt(seconds) {
      const file = join(promptFolder, `bot-${seconds}.wav`);
      writeTone(file, pitches.bot, seconds, 16_000);
      return `file://${file}`;
    },
    call(id = `call-${calls.size + 1}`) {
      const call = new TestCall(anchor, id);
      calls.set(id, call);
      return call;
    },
    logged,
    phone,
    phones: () => Promise.all([phone(), phone(), phone()]),
    held,
    spool: () =>
      readdirSync(spoolFolder, { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile())
        .map((entry) => join(entry.parentPath, entry.name)),
    async [Symbol.asyncDispose]() {
      await owned[Symbol.asyncDispose]();
    },
  };
}

export function recordingFolderOf(folder: string): string {
  return join(folder, "recordings");
}

export interface RtpengineStage extends MediaStage {
  readonly server: RtpengineServer;
  readonly anchor: RtpengineAnchor;
  readonly options: MediaOptions;
}

/** A stage on a real rtpengine of its own; `change` may look at the options that a service has. */
export async function startStage(
  change: Partial<MediaOptions> | ((usual: MediaOptions) => Partial<MediaOptions>) = {},
  server: Omit<RtpengineOptions, "dtmfLog"> = {},
): Promise<RtpengineStage> {
  await using resources = new DisposalStack();
  const dtmf = { address: "127.0.0.1", port: resources.use(await claimPort()).port };
  const rtpengine = resources.use(await startRtpengine({ ...server, dtmfLog: dtmf }));
  let options: MediaOptions | undefined;
  const stage = await buildStage(resources, async (common, folder) => {
    const usual: MediaOptions = {
      ...common,
      instances: [{ host: "127.0.0.1", port: rtpengine.ngPort }],
      dtmf,
      parkingAddress: "127.0.0.1",
      recording: {
        folder: recordingFolderOf(folder),
        spoolFolder: rtpengine.recordingFolder,
        mostRenders: 1,
        mostWaiting: 100,
      },
    };
    options = { ...usual, ...(typeof change === "function" ? change(usual) : change) };
    return {
      anchor: await startRtpengineAnchor(options),
      spoolFolder: rtpengine.recordingFolder,
      held: async () => (await rtpengine.calls()).length,
    };
  });
  if (options === undefined) throw new Error("the stage was built without options");
  return { ...stage, server: rtpengine, options };
}

export interface KillableService {
  /** Port of its only caller. */
  readonly port: number;
  /** As a crash does it: nothing is closed. */
  readonly kill: () => Promise<void>;
}

/** A service in a process of its own that has one call and records it. */
export async function startKillableService(
  options: MediaOptions,
  cacheFolder: string,
  offer: Sdp,
): Promise<KillableService> {
  const given = {
    ...options,
    dtmf: { address: "127.0.0.1", port: 0 },
    prompts: { ...options.prompts, cacheFolder },
  };
  const child = fork(join(import.meta.dirname, "media-killable.ts"), [JSON.stringify(given), offer], {
    execArgv: ["--import", "tsx"],
    stdio: ["ignore", "ignore", "inherit", "ipc"],
  });
  const told: { readonly opened?: Sdp; readonly recording?: string }[] = [];
  child.on("message", (message) => void told.push(message as (typeof told)[number]));
  const kill = async (): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, "exit");
    child.kill("SIGKILL");
    await exited;
  };
  try {
    await waitFor(() => told.some(({ recording }) => recording === "started"), {
      what: `the other service to record; it said ${JSON.stringify(told)}`,
      timeoutMs: 15_000,
    });
  } catch (error) {
    await kill();
    throw error;
  }
  return { port: portIn(told.find(({ opened }) => opened !== undefined)?.opened ?? ""), kill };
}

/** Nothing of any call is left: in the anchor, in the media server, in the spool. */
export async function expectAtRest(stage: MediaStage): Promise<void> {
  await waitFor(
    async () => {
      const { strayReplies: _, ...rest } = stage.anchor.stats();
      const left = Object.values(rest).reduce((sum, count) => sum + count, 0);
      return left === 0 && (await stage.held()) === 0 && stage.spool().length === 0;
    },
    { what: `rest: ${JSON.stringify(stage.anchor.stats())} ${stage.spool().join(" ")}`, timeoutMs: 5_000 },
  );
}
