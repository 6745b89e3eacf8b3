// The bot link on a real Redis, with the call core's place taken by a script that a test writes.
import { RedisBotLink } from "../../src/bot/link.ts";
import type { OpenCall, RedisAddress, RedisBotLinkLimits } from "../../src/bot/link.ts";
import type { TransferPolicy } from "../../src/bot/translate.ts";
import type { BotEvent } from "../../src/call/bot-event.ts";
import type { CallEvent } from "../../src/call/event.ts";
import type { CallId, GatewayId, TransferId, TrunkId } from "../../src/call/ids.ts";
import type { Command } from "../../src/call/reply.ts";
import { systemClock } from "../../src/lib/clock.ts";

export const openPolicy: TransferPolicy = {
  tls: false,
  numberRefusal: () => null,
  allowsSipHost: (host) => host === "123.org" || host === "sip.voximplant.com",
  routeFor: (channel) => ({
    route: {
      trunk: "own" as TrunkId,
      gateways: ["own-1" as GatewayId],
      identity: "caller",
      retryWithBotNumber: false,
      sipUriVia: "direct",
      progressTimeoutMs: 10_000,
    },
    known: channel === null || channel === "237-test-237-VDQ-28334674",
    identityHeaders: "allow",
    referFallback: true,
    referFollowed: true,
  }),
};

export interface LinkFixture extends AsyncDisposable {
  readonly link: RedisBotLink;
  readonly posted: { readonly call: CallId; readonly event: CallEvent }[];
  readonly logged: string[];
  readonly states: string[];
  open(call: string, botId: string): CallId;
  say(call: CallId, event: BotEvent): void;
}

export interface LinkFixtureOptions {
  readonly redis: RedisAddress;
  readonly prefix?: string;
  readonly limits?: Partial<RedisBotLinkLimits>;
  readonly streamMaxLength?: number;
  /** How long `start` waits for Redis; where it is not ready then, the fixture is given all the same. */
  readonly startMs?: number;
  /** What the call does with a command; the default accepts it. False: there is no such call. */
  onCommand?(call: CallId, command: Command, say: (event: BotEvent) => void): boolean | undefined;
}

export async function linkFixture(options: LinkFixtureOptions): Promise<LinkFixture> {
  const posted: { call: CallId; event: CallEvent }[] = [];
  const logged: string[] = [];
  const states: string[] = [];
  const note =
    (level: string) =>
    (fields: object, message: string): void => {
      logged.push(`${level} ${message} ${JSON.stringify(fields)}`);
    };
  let transfers = 0;
  const link = new RedisBotLink({
    redis: options.redis,
    prefix: options.prefix ?? "pb",
    streamMaxLength: options.streamMaxLength ?? 100_000,
    clock: systemClock,
    log: { debug: note("debug"), info: note("info"), warn: note("warn"), error: note("error") },
    mintTransferId: () => `transfer-${(transfers += 1)}` as TransferId,
    onState: (state) => states.push(state),
    ...(options.limits === undefined ? {} : { limits: options.limits }),
    post(call, event) {
      posted.push({ call, event });
      const say = (answer: BotEvent): void => link.publish(call, answer);
      if (event.type === "bot.invalidSwitch") {
        const { commandId, code, message, pointer } = event;
        say({ event: "rejected", commandId, code, message, pointer });
        say(transferEvent("FAIL", event.number, event.transferId, "invalid_reply"));
        return true;
      }
      if (event.type !== "bot.command") return true;
      if (options.onCommand !== undefined) return options.onCommand(call, event.command, say) ?? true;
      say({ event: "accepted", commandId: event.command.commandId });
      return true;
    },
  });
  await link.start(options.startMs ?? 10_000);
  return {
    link,
    posted,
    logged,
    states,
    open(call, botId) {
      const address: OpenCall = {
        call: call as CallId,
        botId,
        caller: "79991112233",
        called: "74951234567",
        policy: openPolicy,
        format: "patchbay",
      };
      link.open(address);
      return call as CallId;
    },
    say: (call, event) => link.publish(call, event),
    [Symbol.asyncDispose]: () => link.shutdown(2_000),
  };
}

export const callEvent: BotEvent = {
  event: "call",
  trunk: "trunk-a",
  sipCallId: "abc@host",
  headers: { "X-From-Trunk": "1" },
  resumed: false,
};

export const hangupEvent: BotEvent = { event: "hangup", by: "caller", sipCode: null, reason: null, durationMs: 1000 };

export function digitEvent(digit: string): BotEvent {
  return { event: "dtmf", digit, durationMs: 100, from: "caller" };
}

export function transferEvent(
  status: "SUCCESS" | "FAIL",
  number: string,
  transferId: TransferId,
  cause: "completed" | "busy" | "no_answer" | "invalid_reply",
): Extract<BotEvent, { readonly event: "transfer" }> {
  return {
    event: "transfer",
    transferStatus: { status, hangup: false, number },
    transferDetails: {
      transferId,
      cause,
      endedBy: status === "SUCCESS" ? "operator" : null,
      method: "invite",
      sipCode: status === "SUCCESS" ? 200 : 486,
      sipReason: null,
      q850: null,
      ringMs: null,
      answerMs: null,
      talkMs: null,
      trunk: "trunk-a",
      callerIdShown: "caller",
      recording: "off",
      confirmed: true,
      attempts: [],
    },
  };
}
