// A bot written for the JAICP platform: it is asked by requests, answers each with a response, and knows nothing else.
import { expect, test } from "vitest";
import { pitches } from "../support/pitch.ts";
import { waitFor } from "../support/wait.ts";
import { RawRedis } from "../integration/raw-redis.ts";
import { operatorNumber, sharedStage } from "../integration/stage.ts";

const stage = sharedStage({
  change: (config) => {
    config.channels.push({
      botId: "bot-j",
      trunk: "trunk-a",
      numbers: ["jaicp"],
      format: "jaicp",
      inputTimeoutMs: 1_000,
    });
  },
});

interface Request {
  readonly query: string | null;
  readonly event: string | null;
  readonly questionId: string;
  readonly rawRequest: Readonly<Record<string, unknown>>;
}

test("ringing, /start, a switch, the transfer's outcome, hangup: one request each, and the answers are obeyed", async () => {
  const { port } = stage().redis;
  const asked: Request[] = [];
  await using sender = await RawRedis.connect(port);
  const scenario: Readonly<Record<string, readonly object[]>> = {
    "/start": [{ type: "audio", audioUrl: stage().prompts.second, state: "/start" }],
    noDtmfAnswerEvent: [{ type: "audio", audioUrl: stage().prompts.short }],
    "5": [{ type: "switch", phoneNumber: operatorNumber, continueCall: true, headers: {}, method: "invite" }],
    transfer: [{ type: "audio", audioUrl: stage().prompts.long, state: "/back" }],
  };
  const answer = (request: Request): void => {
    asked.push(request);
    const replies = scenario[request.query ?? request.event ?? ""] ?? [];
    const response = { data: { replies, answer: "", sessionId: "s" }, questionId: request.questionId, version: 1 };
    void sender.command("PUBLISH", String(request.rawRequest["replyTo"]), JSON.stringify(response));
  };
  await using listener = await RawRedis.connect(port, (_channel, text) => answer(JSON.parse(text) as Request));
  await listener.command("SUBSCRIBE", "pb:{bot-j}:events");

  const caller = await stage().phone();
  const leg = await caller.dial(stage().uri("jaicp"));
  await leg.media.hears(pitches.bot);
  await waitFor(() => asked.some(({ event }) => event === "noDtmfAnswerEvent"), { what: "the question once more" });
  leg.media.pressDigits("5");
  const operator = await stage().incoming();
  await leg.media.hears(pitches.operator);
  await operator.hangUp();
  await leg.media.hears(pitches.bot);
  await leg.hangUp();
  await waitFor(() => asked.some(({ event }) => event === "hangup"), { what: "the last request" });
  expect(asked.map(({ query, event }) => query ?? event)).toEqual([
    "ringing",
    "/start",
    "noDtmfAnswerEvent",
    "5",
    "transfer",
    "hangup",
  ]);
  const transfer = asked.find(({ event }) => event === "transfer");
  expect(transfer?.rawRequest).toMatchObject({
    caller: "79991112233",
    extension: "jaicp",
    transferStatus: { status: "SUCCESS", hangup: false, number: operatorNumber },
  });
  expect(asked.map(({ rawRequest }) => rawRequest["seq"])).toEqual([1, 2, 3, 4, 5, 6]);
});
