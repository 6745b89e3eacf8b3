// Short stories beside the main one, each about one thing: `npm run demo -- --story NAME`.
import { connectBot } from "../src/client/index.ts";
import type { BotCall } from "../src/client/index.ts";
import { DisposalStack } from "../test/support/disposal.ts";
import { pitches } from "../test/support/pitch.ts";
import { Phone, type PhoneCall } from "../test/support/rtp-phone.ts";
import { header } from "../test/support/sip-text.ts";
import { delay, waitFor, within } from "../test/support/wait.ts";
import type { Finding } from "./expectations.ts";
import { redisRows, sipArrow } from "./labels.ts";
import { RedisWitness, type WireObject } from "./redis-witness.ts";
import { Service } from "./service.ts";
import type { Trace } from "./trace.ts";

const botId = "demo-bot";
const number = "79123456789";
const talkMs = 1_500;
const storyTimeoutMs = 40_000;

interface Story {
  readonly about: string;
  /** Further fields of the bot's channel. */
  readonly channel?: Readonly<Record<string, unknown>>;
  /** Left out: nobody takes the call. */
  readonly bot?: (call: BotCall, cast: Cast) => Promise<void>;
  readonly play: (leg: PhoneCall, cast: Cast) => Promise<void>;
  readonly judge: (seen: Seen) => readonly Finding[];
}

interface Cast {
  readonly caller: Phone;
  /** Behind the trunk's gateway, and by his own SIP URI. */
  readonly first: Phone;
  readonly second: Phone;
}

interface Seen extends Cast {
  readonly events: readonly WireObject[];
}

const uriOf = (phone: Phone): string => `${phone.user}@${phone.address}:${phone.port}`;

/** The caller and this operator hear each other; then the operator hangs up. */
async function talkWith(phone: Phone, hz: number, leg: PhoneCall): Promise<void> {
  const operator = await phone.nextCall({ timeoutMs: 20_000 });
  await leg.media.hears(hz, { timeoutMs: 20_000 });
  await operator.media.hears(pitches.caller);
  await delay(talkMs);
  await operator.hangUp();
}

function finding(expected: string, found: unknown, wanted: unknown): Finding {
  const text = JSON.stringify(found) ?? "nothing";
  return { expected, held: text === JSON.stringify(wanted), found: text };
}

const transferOf = ({ events }: Seen): WireObject => events.find(({ event }) => event === "transfer") ?? {};
const statusOf = (seen: Seen): unknown => transferOf(seen)["transferStatus"];
const detailsOf = (seen: Seen): WireObject => (transferOf(seen)["transferDetails"] ?? {}) as WireObject;
const attemptsOf = (seen: Seen): readonly WireObject[] => (detailsOf(seen)["attempts"] ?? []) as readonly WireObject[];
const requestsAt = (phone: Phone, method: string): number =>
  phone.records.filter(({ direction, message }) => direction === "received" && message.method === method).length;

export const stories: Readonly<Record<string, Story>> = {
  hunting: {
    about: "two operators are rung at once; the second answers, and the first one's phone is told so",
    bot: async (call, { first, second }) => {
      await call.say("I am calling two operators.");
      await call.switch({
        targets: [{ sipUri: uriOf(first) }, { sipUri: uriOf(second) }],
        strategy: "ring",
        duringRing: [{ type: "text", text: "You are the first in the queue." }],
        continueCall: true,
      });
      await call.say("You are back with the bot. Goodbye!");
      await call.hangup();
    },
    play: async (leg, { first, second }) => {
      first.answering = { type: "ring" };
      second.answering = { type: "answer", afterMs: 4_000 };
      await talkWith(second, pitches.operator2, leg);
    },
    judge: (seen) => {
      const cancel = seen.first.records.find(({ message }) => message.method === "CANCEL")?.message;
      return [
        finding("the second operator has the call", statusOf(seen), {
          status: "SUCCESS",
          hangup: false,
          number: uriOf(seen.second),
        }),
        finding(
          "the first operator's phone does not show a missed call",
          cancel === undefined ? null : header(cancel, "Reason"),
          'SIP;cause=200;text="Call completed elsewhere"',
        ),
        finding(
          "the ledger has both attempts",
          attemptsOf(seen).map(({ cause }) => cause),
          ["cancelled", "completed"],
        ),
      ];
    },
  },
  fallback: {
    about: "no bot takes the call: the channel's fallback speaks and calls the default operator",
    channel: {
      botTimeoutMs: 1_500,
      fallback: { text: "One moment please, I am connecting you.", phoneNumber: number },
    },
    play: async (leg, { first }) => {
      first.answering = { type: "answer", afterMs: 800 };
      await talkWith(first, pitches.operator, leg);
    },
    judge: (seen) => [
      finding(
        "the fallback is told the bot that was not there",
        seen.events.filter(({ event }) => event === "warning").map(({ code }) => code),
        ["fallback"],
      ),
      finding("the operator has the call, and it ends with his talk", statusOf(seen), {
        status: "SUCCESS",
        hangup: true,
        number,
      }),
    ],
  },
  refer: {
    about: "the bot wants a transfer by REFER; the caller's side refuses it, and the operator is called by INVITE",
    bot: async (call) => {
      await call.say("I am passing you on.");
      await call.switch({ phoneNumber: number, method: "refer", continueCall: true });
      await call.say("You are back with the bot. Goodbye!");
      await call.hangup();
    },
    play: async (leg, { first }) => {
      first.answering = { type: "answer", afterMs: 800 };
      await talkWith(first, pitches.operator, leg);
    },
    judge: (seen) => [
      finding("the caller's phone got one REFER and refused it", requestsAt(seen.caller, "REFER"), 1),
      finding("the transfer was made by INVITE", detailsOf(seen)["method"], "invite"),
      finding("the caller talked and came back", statusOf(seen), { status: "SUCCESS", hangup: false, number }),
    ],
  },
  passing: {
    about: "the operator passes the caller on to a colleague by a REFER of his own, and hears by NOTIFY how it gets on",
    channel: { operatorRefer: "accept" },
    bot: async (call) => {
      await call.say("I am connecting you.");
      await call.switch({ phoneNumber: number, continueCall: true });
      await call.say("You are back with the bot. Goodbye!");
      await call.hangup();
    },
    play: async (leg, { first, second }) => {
      first.answering = { type: "answer", afterMs: 800 };
      second.answering = { type: "answer", afterMs: 1_500 };
      const operator = await first.nextCall({ timeoutMs: 20_000 });
      await leg.media.hears(pitches.operator, { timeoutMs: 20_000 });
      await delay(talkMs);
      const headers = [
        ["Refer-To", `<sip:${uriOf(second)}>`],
        ["Referred-By", `<sip:${uriOf(first)}>`],
      ] as const;
      await Promise.all([talkWith(second, pitches.operator2, leg), operator.request("REFER", { headers })]);
    },
    judge: (seen) => [
      finding(
        "the operator was told how his REFER got on",
        seen.first.records
          .filter(({ direction, message, repeated }) => {
            return direction === "received" && !repeated && message.method === "NOTIFY";
          })
          .map(({ message }) => message.body.trim()),
        ["SIP/2.0 100 Trying", "SIP/2.0 180 Ringing", "SIP/2.0 200 OK"],
      ),
      finding("he was let go when his colleague had answered", requestsAt(seen.first, "BYE"), 1),
      finding("his talk is the transfer's success", statusOf(seen), { status: "SUCCESS", hangup: false, number }),
      finding(
        "both operators are in the ledger",
        attemptsOf(seen).map(({ cause }) => cause),
        ["completed", "completed"],
      ),
    ],
  },
};

export interface ShortStage extends Cast, AsyncDisposable {
  readonly story: Story;
  readonly service: Service;
}

/** Starts everything that the story needs but the bot. */
export async function setShortStage(story: Story, recordingFolder: string): Promise<ShortStage> {
  await using resources = new DisposalStack();
  const first = resources.use(await Phone.start({ user: "first", tone: pitches.operator }));
  const second = resources.use(await Phone.start({ user: "second", tone: pitches.operator2 }));
  const caller = resources.use(await Phone.start({ user: "79991112233", tone: pitches.caller }));
  const service = resources.use(
    await Service.start({
      channels: [{ botId, number: "demo", ...(story.channel === undefined ? {} : { more: story.channel }) }],
      gateway: { host: first.address, port: first.port },
      sipHosts: [first.address],
      sources: ["127.0.0.1"],
      recordingFolder,
    }),
  );
  const held = resources.move();
  return { story, service, caller, first, second, [Symbol.asyncDispose]: () => held[Symbol.asyncDispose]() };
}

/** Plays the story and judges it. Whatever goes wrong is a finding. */
export async function playShortStory(stage: ShortStage, trace: Trace): Promise<readonly Finding[]> {
  const { story, service, caller, first, second } = stage;
  for (const phone of [caller, first, second]) {
    phone.onMessage(({ direction, atMs, message, repeated }) => {
      if (!repeated) trace.add(atMs, sipArrow(phone === caller ? "caller" : "operator", direction, message));
    });
  }
  await using witness = await RedisWitness.start(service.redis, {
    keep: true,
    seen: (message) => {
      for (const row of redisRows(message)) trace.add(message.atMs, row);
    },
  });
  const cast = { caller, first, second };
  const findings: Finding[] = [];
  try {
    await within(playCall(stage, cast, witness), storyTimeoutMs, "the story to be played");
  } catch (error) {
    const found = error instanceof Error ? error.message : String(error);
    findings.push({ expected: "the story is played to its end", held: false, found });
  }
  const seen: Seen = { ...cast, events: witness.events };
  const names = witness.events.map(({ event }) => event);
  return [
    ...findings,
    ...story.judge(seen),
    finding("the caller's phone saw no re-INVITE", requestsAt(caller, "INVITE"), 0),
    finding("one transfer event", names.filter((name) => name === "transfer").length, 1),
    finding("hangup is the last event", names.at(-1), "hangup"),
    finding("the media server holds no call any more", await service.mediaCalls().catch(() => "no answer"), 0),
  ];
}

async function playCall({ story, service, caller }: ShortStage, cast: Cast, witness: RedisWitness): Promise<void> {
  const { bot: serve } = story;
  await using bot = serve === undefined ? undefined : connectBot({ redis: service.redis.url, botId, worker: "demo" });
  bot?.onCall((call) => serve?.(call, cast));
  await bot?.ready;
  const leg = await caller.dial(`sip:demo@127.0.0.1:${service.sipPort}`);
  await story.play(leg, cast);
  await leg.ended;
  await waitFor(() => witness.events.some(({ event }) => event === "hangup"), {
    timeoutMs: 15_000,
    what: "the hangup event",
  });
}
