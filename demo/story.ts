// Plays one call from the greeting to the last event and gathers what was seen of it.
import { connectBot } from "../src/client/index.ts";
import { nowMs } from "../test/support/clock.ts";
import { DisposalStack } from "../test/support/disposal.ts";
import { pitches } from "../test/support/pitch.ts";
import { type Answering, Phone, type PhoneCall } from "../test/support/rtp-phone.ts";
import { type SipText, userOf } from "../test/support/sip-text.ts";
import { delay, waitFor, within } from "../test/support/wait.ts";
import { serveDemoCall } from "./bot.ts";
import type { Evidence, EventSeen, HeardSeen, Plan, TransferSeen } from "./expectations.ts";
import { redisRows, sipArrow } from "./labels.ts";
import { measureByPhase, type MeasuredRecording } from "./recording.ts";
import { type RedisMessage, RedisWitness, type WireObject } from "./redis-witness.ts";
import { findService } from "./found-service.ts";
import { Service, type Serving } from "./service.ts";
import type { Trace } from "./trace.ts";

const botId = "demo-bot";
const callerNumber = "79991112233";
const numbers = { answers: "79123456789", busy: "79120000486" } as const;
const headers = { callReason: "support", crmClientId: "c-4711" } as const;
const silentTimeoutS = 3;
const talkMs = 4_000;
/** Sound that was on its way when the talk began or ended says nothing about the talk. */
const talkEdgeMs = 300;
const ringbackHz = 425;
const knownPitches = [pitches.caller, pitches.operator, ringbackHz];
const storyTimeoutMs = 60_000;

/** What the exchange does with a call, by the number that was dialled. */
function exchangeAnswers(invite: SipText): Answering {
  if (userOf(invite.uri ?? "") === numbers.busy) return { type: "reject", status: 486, afterMs: 900 };
  return { type: "answer", ring: [{ status: 180, afterMs: 150 }], afterMs: 1_500 };
}

export interface Stage extends AsyncDisposable {
  readonly service: Serving;
  /** What the caller dials: the user part of the URI. */
  readonly number: string;
  readonly caller: Phone;
  /** Behind the trunk's gateway: the operator who answers and the one who is busy. */
  readonly exchange: Phone;
  /** The operator who lets it ring, reached by his SIP URI. */
  readonly silent: Phone;
  readonly plan: Plan;
}

/** Starts everything that the call needs but the bot. */
export async function setStage(recordingFolder: string): Promise<Stage> {
  await using resources = new DisposalStack();
  const phones = resources.use(await startPhones());
  const number = "demo";
  const service = resources.use(
    await Service.start({
      channels: [{ botId, number }],
      gateway: { host: phones.exchange.address, port: phones.exchange.port },
      sipHosts: [phones.silent.address],
      sources: ["127.0.0.1"],
      recordingFolder,
    }),
  );
  return stageOf(phones, service, number, resources.move());
}

/** The same on a service that runs already on this configuration and takes calls at `sip`, HOST:PORT. */
export async function setStageAt(configurationFile: string, sip: string): Promise<Stage> {
  await using resources = new DisposalStack();
  const service = resources.use(await findService(configurationFile, botId, sip));
  const phones = resources.use(await startPhones(service.gateway));
  return stageOf(phones, service, service.number, resources.move());
}

type Phones = Pick<Stage, "caller" | "exchange" | "silent">;

async function startPhones(gateway?: {
  readonly host: string;
  readonly port: number;
}): Promise<Phones & AsyncDisposable> {
  await using resources = new DisposalStack();
  const exchange = resources.use(
    await Phone.start({
      user: "exchange",
      tone: pitches.operator,
      answering: exchangeAnswers,
      ...(gateway && { address: gateway.host, port: gateway.port }),
    }),
  );
  const silent = resources.use(await Phone.start({ user: "night-desk", answering: { type: "ring" } }));
  const caller = resources.use(await Phone.start({ user: callerNumber, tone: pitches.caller }));
  const held = resources.move();
  return { exchange, silent, caller, [Symbol.asyncDispose]: () => held[Symbol.asyncDispose]() };
}

function stageOf({ exchange, silent, caller }: Phones, service: Serving, number: string, held: AsyncDisposable): Stage {
  const failed = (failedNumber: string, cause: string): TransferSeen => ({
    status: "FAIL",
    hangup: false,
    number: failedNumber,
    cause,
  });
  const plan: Plan = {
    transfers: [
      { status: "SUCCESS", hangup: false, number: numbers.answers, cause: "completed" },
      failed(numbers.busy, "busy"),
      failed(silentTarget(silent), "no_answer"),
    ],
    headers,
    callerHz: pitches.caller,
    operatorHz: pitches.operator,
    longestGapMs: service.longestGapMs,
  };
  return { service, number, caller, exchange, silent, plan, [Symbol.asyncDispose]: () => held[Symbol.asyncDispose]() };
}

function silentTarget(silent: Phone): string {
  return `${silent.user}@${silent.address}:${silent.port}`;
}

function watchPhones({ caller, exchange, silent }: Stage, trace: Trace): void {
  for (const [phone, role] of [
    [caller, "caller"],
    [exchange, "operator"],
    [silent, "operator"],
  ] as const) {
    phone.onMessage(({ direction, atMs, message, repeated }) => {
      if (!repeated) trace.add(atMs, sipArrow(role, direction, message));
    });
  }
}

/** The caller and the operator talk; then the operator hangs up. */
async function talk(operator: PhoneCall, callerCall: PhoneCall, trace: Trace): Promise<HeardSeen> {
  await operator.acknowledged;
  const fromMs = nowMs() + talkEdgeMs;
  await delay(talkMs);
  const toMs = nowMs();
  const [atCaller, atOperator] = await Promise.all([
    callerCall.media.capture(fromMs, toMs),
    operator.media.capture(fromMs, toMs),
  ]);
  const heard = {
    callerHeardHz: atCaller.pitch(knownPitches),
    operatorHeardHz: atOperator.pitch(knownPitches),
    callerGapMs: atCaller.longestGapMs,
  };
  trace.add(nowMs(), {
    type: "note",
    text: `they talk: the caller hears ${heard.callerHeardHz ?? "no"} Hz, the operator ${heard.operatorHeardHz ?? "no"} Hz`,
    tint: "media",
  });
  await operator.hangUp();
  return heard;
}

/** Rejects when Patchbay ends before the story does. */
async function untilPatchbayEnds({ service }: Stage): Promise<never> {
  throw new Error(`Patchbay ended by itself (${await service.ended})`);
}

async function playCall(stage: Stage, witness: RedisWitness, trace: Trace): Promise<Played> {
  const { service, silent } = stage;
  await using bot = connectBot({ redis: service.redis, botId, worker: "demo" });
  const botFails = new Promise<never>((_resolve, reject) => {
    bot.on("error", (error) => reject(new Error("the bot failed", { cause: error })));
  });
  bot.onCall((call) =>
    serveDemoCall(call, {
      answers: {
        phoneNumber: numbers.answers,
        timeout: "30",
        headers,
        continueCall: true,
        continueRecording: true,
      },
      busy: { phoneNumber: numbers.busy, timeout: "30", continueCall: true, continueRecording: true },
      silent: {
        sipUri: silentTarget(silent),
        timeout: String(silentTimeoutS),
        continueCall: true,
        continueRecording: true,
      },
    }),
  );
  await within(bot.ready, 10_000, "the bot's connection to Redis");
  return await Promise.race([watchCall(stage, witness, trace), botFails]);
}

/** The caller's side of the story and the operators'; the bot plays its own. */
async function watchCall(stage: Stage, witness: RedisWitness, trace: Trace): Promise<Played> {
  const { service, number, caller, exchange } = stage;
  const callerCall = await caller.dial(`sip:${number}@${service.sip.host}:${service.sip.port}`);
  const heard = await talk(await exchange.nextCall({ timeoutMs: 30_000 }), callerCall, trace);
  await within(callerCall.ended, storyTimeoutMs, "the end of the call");
  await waitFor(() => witness.events.some(({ event }) => event === "hangup"), {
    timeoutMs: 30_000,
    what: "the hangup event",
  });
  const { sources, audio, ssrcs, sequenceJumps } = await callerCall.media.capture();
  return { heard, stream: { sources, packets: audio.length, ssrcs: ssrcs.length, sequenceJumps } };
}

interface Played {
  readonly heard: HeardSeen;
  readonly stream: Evidence["callerStream"];
}

function textOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause instanceof Error ? `${error.message} (${error.cause.message})` : error.message;
}

const field = (event: WireObject, name: string): WireObject => (event[name] ?? {}) as WireObject;

function transferSeen(event: WireObject): TransferSeen {
  const { status, hangup, number } = field(event, "transferStatus");
  const { cause } = field(event, "transferDetails");
  return { status: String(status), hangup: hangup === true, number: String(number), cause: String(cause) };
}

async function measured(witness: RedisWitness): Promise<MeasuredRecording | undefined> {
  const finished = witness.events.find(({ event, state }) => event === "recording" && state === "finished");
  return typeof finished?.["file"] === "string" ? measureByPhase(finished["file"], knownPitches) : undefined;
}

function switchesIn(commands: readonly WireObject[]): number {
  // A command that is sent again carries the same id and is one command.
  const once = new Map(commands.map((command) => [command["commandId"], command]));
  const replies = [...once.values()].flatMap((command): unknown[] =>
    Array.isArray(command["replies"]) ? command["replies"] : [],
  );
  return replies.filter((reply) => (reply as WireObject | null)?.["type"] === "switch").length;
}

/** Plays the whole story. Whatever goes wrong is part of the evidence; it rejects only when nothing could be watched. */
export async function playStory(stage: Stage, trace: Trace): Promise<Evidence> {
  watchPhones(stage, trace);
  const seen = (message: RedisMessage): void => {
    for (const row of redisRows(message)) trace.add(message.atMs, row);
  };
  await using witness = await RedisWitness.start(stage.service.redis, { botId, keep: true, seen });
  let fault: string | undefined;
  let played: Played | undefined;
  let recording: MeasuredRecording | undefined;
  try {
    const playing = Promise.race([playCall(stage, witness, trace), untilPatchbayEnds(stage)]);
    played = await within(playing, storyTimeoutMs, "the story to be played");
    recording = await measured(witness);
  } catch (error) {
    fault = textOf(error);
  }
  const { caller, exchange, silent } = stage;
  return {
    switches: switchesIn(witness.commands),
    transfers: witness.events.filter(({ event }) => event === "transfer").map(transferSeen),
    events: witness.events.map(({ event, seq }): EventSeen => ({ event: String(event), seq: Number(seq) })),
    invitesToCaller: caller.records.filter(
      ({ direction, message }) => direction === "received" && message.method === "INVITE",
    ).length,
    operatorInvites: [...exchange.invitesReceived, ...silent.invitesReceived]
      .toSorted((a, b) => a.atMs - b.atMs)
      .map(({ message }) => ({ headers: message.headers })),
    callerStream: played?.stream ?? { sources: [], packets: 0, ssrcs: 0, sequenceJumps: 0 },
    talk: played?.heard ?? { callerHeardHz: undefined, operatorHeardHz: undefined, callerGapMs: undefined },
    recording,
    callsLeft: await stage.service.mediaCalls().catch(() => undefined),
    fault,
  };
}
