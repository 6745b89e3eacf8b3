// A bot with nothing but the contract's page and a socket that speaks the Redis protocol: no client library at all.
import { expect, test } from "vitest";
import { pitches } from "../support/pitch.ts";
import type { PhoneCall } from "../support/rtp-phone.ts";
import { header } from "../support/sip-text.ts";
import { waitFor } from "../support/wait.ts";
import { RawRedis, type RedisReply } from "./raw-redis.ts";
import { operatorNumber, sharedStage } from "./stage.ts";

const stage = sharedStage();
const eventsName = "pb:{bot-a}:events";

type Told = Readonly<Record<string, unknown>>;

async function dial(): Promise<PhoneCall> {
  const caller = await stage().phone();
  return caller.dial(stage().uri());
}

test("SUBSCRIBE for events, PUBLISH to replyTo: prompt, transfer, talk, return, hangup", async () => {
  const told: Told[] = [];
  await using events = await RawRedis.connect(stage().redis.port, (channel, text) => {
    expect(channel).toBe(eventsName);
    told.push(JSON.parse(text) as Told);
  });
  await using redis = await RawRedis.connect(stage().redis.port);
  expect(await events.command("SUBSCRIBE", eventsName)).toEqual(["subscribe", eventsName, 1]);
  const next = (name: string, from = 0): Promise<Told> =>
    waitFor(() => told.slice(from).find((event) => event["event"] === name), { what: name, timeoutMs: 8_000 });

  const leg = await dial();
  const call = await next("call");
  const replyTo = String(call["replyTo"]);
  expect(replyTo).toBe(`pb:{bot-a}:call:${String(call["callId"])}:commands`);
  expect(call).toMatchObject({ v: 1, seq: 1, caller: leg.phone.user, called: "74951234567", sipCallId: leg.callId });
  await next("answered");

  const command = {
    commandId: "b2f1",
    replies: [
      { type: "audio", audioUrl: stage().prompts.second },
      {
        type: "switch",
        phoneNumber: operatorNumber,
        timeout: "30",
        headers: { callReason: "support", crmClientId: "none" },
        transferChannel: "bot-a",
        continueCall: true,
        continueRecording: true,
      },
    ],
  };
  expect(await redis.command("PUBLISH", replyTo, JSON.stringify(command))).toBe(1);
  expect(await next("accepted")).toMatchObject({ commandId: "b2f1" });
  await leg.media.hears(pitches.bot);
  expect(await next("playback")).toMatchObject({ commandId: "b2f1", index: 0, result: "completed" });
  const operator = await stage().incoming();
  expect(header(operator.invite, "callReason")).toBe("support");
  expect(header(operator.invite, "crmClientId")).toBe("none");
  await operator.acknowledged;
  await Promise.all([leg.media.hears(pitches.operator), operator.media.hears(pitches.caller)]);
  await operator.hangUp();
  const transfer = await next("transfer");
  expect(JSON.stringify(transfer["transferStatus"])).toBe(
    `{"status":"SUCCESS","hangup":false,"number":"${operatorNumber}"}`,
  );
  const phases = told.filter(({ event }) => event === "transferProgress").map(({ phase }) => phase);
  expect(phases).toEqual(["dialing", "ringing", "answered", "bridged", "returning"]);

  // A bare response of another platform has no commandId: one is minted and told.
  const place = told.length;
  await redis.command("PUBLISH", replyTo, `{"replies":[{"type":"audio","audioUrl":"${stage().prompts.second}"}]}`);
  const accepted = await next("accepted", place);
  expect(typeof accepted["commandId"]).toBe("string");
  await leg.media.hears(pitches.bot);
  await redis.command("PUBLISH", replyTo, '{"replies":[{"type":"stop"},{"type":"hangup"}]}');
  expect(await leg.ended).toMatchObject({ by: "peer", how: "BYE" });
  expect(await next("hangup")).toMatchObject({ by: "bot" });
  expect(told.at(-1)?.["event"]).toBe("hangup");
  expect(told.filter(({ event }) => event === "transfer")).toHaveLength(1);
  expect(told.map(({ seq }) => seq)).toEqual(told.map((_event, index) => index + 1));

  // Nobody holds the call any more once late commands are no longer answered.
  await waitFor(async () => (await redis.command("PUBLISH", replyTo, "{}")) === 0, {
    what: "PUBLISH without receivers",
    timeoutMs: 8_000,
  });
});

/** The entries of the one stream that was asked for, as [id, event]. */
function entriesOf(reply: RedisReply): readonly (readonly [id: string, event: Told])[] {
  if (reply === null) return [];
  const [[, entries]] = reply as [[string, [string, string[]][]]];
  return entries.map(([id, fields]) => {
    expect(fields[0]).toBe("event");
    return [id, JSON.parse(fields[1] ?? "") as Told];
  });
}

test("a consumer group of the stream alone: nothing is lost while the bot is away", async () => {
  await using redis = await RawRedis.connect(stage().redis.port);
  await redis.command("XGROUP", "CREATE", eventsName, "workers", "$", "MKSTREAM");
  // The bot is away: the call begins and waits in the stream.
  const leg = await dial();
  await leg.established;

  const seen: Told[] = [];
  await using reader = await RawRedis.connect(stage().redis.port);
  const next = async (name: string): Promise<Told> => {
    for (;;) {
      const block = ["GROUP", "workers", "one", "COUNT", "10", "BLOCK", "8000", "STREAMS", eventsName, ">"];
      const before = seen.length;
      for (const [id, event] of entriesOf(await reader.command("XREADGROUP", ...block))) {
        seen.push(event);
        expect(await redis.command("XACK", eventsName, "workers", id)).toBe(1);
      }
      const found = seen.slice(before).find(({ event }) => event === name);
      if (found !== undefined) return found;
      if (seen.length === before) throw new Error(`no ${name} in the stream: ${JSON.stringify(seen)}`);
    }
  };
  const answered = await next("answered");
  const replyTo = String(answered["replyTo"]);
  const ask = (...replies: readonly object[]): Promise<RedisReply> =>
    redis.command("PUBLISH", replyTo, JSON.stringify({ replies }));
  stage().operator.answering = { type: "reject", status: 486 };
  await ask({ type: "switch", phoneNumber: operatorNumber, continueCall: true });
  const transfer = await next("transfer");
  expect(JSON.stringify(transfer["transferStatus"])).toBe(
    `{"status":"FAIL","hangup":false,"number":"${operatorNumber}"}`,
  );
  expect(transfer["transferDetails"]).toMatchObject({ cause: "busy", sipCode: 486 });
  await ask({ type: "hangup", headers: { "X-Why": "done" } });
  await next("hangup");
  const { message } = await leg.ended;
  expect(message === undefined ? undefined : header(message, "X-Why")).toBe("done");
  expect(seen.map(({ seq }) => seq)).toEqual(seen.map((_event, index) => index + 1));
  expect(await redis.command("XPENDING", eventsName, "workers")).toEqual([0, null, null, null]);
});

test("a repeated commandId gets the first answer again and does nothing; a second worker is told that the call is taken", async () => {
  const { leg, call } = await stage().talk();
  const command = { commandId: "once", replies: [{ type: "audio", audioUrl: stage().prompts.short }] };
  await call.publish(JSON.stringify(command));
  await call.event("playback");
  const seq = call.seq;
  await call.publish(JSON.stringify(command));
  await call.answer("once", seq);
  // Whatever the repeat had started would be told before this command's own prompt.
  await call.play(stage().prompts.short);
  expect(call.all("playback")).toHaveLength(2);

  expect((await call.command([{ type: "take", worker: "one" }], { worker: "one" })).name).toBe("accepted");
  const refused = await call.command([{ type: "take", worker: "two" }], { worker: "two" });
  expect(refused.body).toMatchObject({ event: "rejected", code: "taken" });
  const silenced = await call.command([{ type: "hangup" }], { worker: "two" });
  expect(silenced.body).toMatchObject({ event: "rejected", code: "taken" });
  expect((await call.command([{ type: "release", worker: "one" }], { worker: "one" })).name).toBe("accepted");
  expect((await call.command([{ type: "hangup" }], { worker: "two" })).name).toBe("accepted");
  await leg.ended;
  await call.event("hangup");
});
