// Whom a bot may have called: what is refused is told, nobody is called, and the caller stays with the bot.
import { Redis } from "ioredis";
import { describe, expect, test } from "vitest";
import { pitches } from "../support/pitch.ts";
import { waitFor } from "../support/wait.ts";
import { operatorNumber, sharedStage } from "./stage.ts";
import type { Talk } from "./stage.ts";

async function expectWithBot({ stage, leg, call }: Talk): Promise<void> {
  expect(leg.phase).toBe("established");
  await call.run({ type: "stop" }, { type: "audio", audioUrl: stage.prompts.second });
  await leg.media.hears(pitches.bot);
  await leg.hangUp();
  await call.event("hangup");
}

describe("the destination policy", () => {
  const stage = sharedStage({
    channel: {
      destinations: { sipHosts: ["127.0.0.1:*", "localhost:*"], numbers: { deny: ["+7840"] }, maxOperatorCalls: 2 },
    },
  });

  test.each([
    ["112", "emergency"],
    ["+88161234567", "satellite"],
    ["00 979 123 456 789", "premium"],
    ["+7 (840) 123-45-67", "deny"],
  ])("%s is refused: %s", async (phoneNumber, why) => {
    const talk = await stage().talk();
    const answer = await talk.call.command([{ type: "switch", phoneNumber, continueCall: false }]);
    expect(answer.body).toMatchObject({
      event: "rejected",
      code: "destination_refused",
      pointer: "/replies/0/phoneNumber",
    });
    expect(String(answer.body["message"])).toContain(why);
    const transfer = await talk.call.transfer();
    expect(transfer.statusText).toBe(JSON.stringify({ status: "FAIL", hangup: false, number: phoneNumber }));
    await expectWithBot(talk);
    expect(stage().operator.records).toEqual([]);
  });

  test("a name that resolves to this machine is refused after the switch was accepted", async () => {
    const talk = await stage().talk();
    const sipUri = `op@localhost:${stage().operator.port}`;
    const answer = await talk.call.command([{ type: "switch", sipUri, continueCall: true }]);
    expect(answer.body).toMatchObject({ event: "accepted" });
    const transfer = await talk.call.transfer();
    expect(transfer.statusText).toBe(JSON.stringify({ status: "FAIL", hangup: false, number: sipUri }));
    expect(transfer.details).toMatchObject({ cause: "rejected", sipCode: null });
    expect(talk.call.all("transferProgress").map(({ body }) => body["phase"])).toEqual(["returning"]);
    await expectWithBot(talk);
    expect(stage().operator.records).toEqual([]);
  });

  test("the halt key in Redis stops transfers within a second and lets them go on when it is gone", async () => {
    const talk = await stage().talk();
    const redis = new Redis(stage().redis.url);
    try {
      const key = `pb.halt:{${stage().bot.botId}}`;
      const outcome = async (): Promise<string> => {
        const after = talk.call.seq;
        await talk.call.command([{ type: "switch", phoneNumber: operatorNumber, continueCall: true }]);
        const transfer = await talk.call.transfer({ after });
        return transfer.details.cause;
      };
      stage().operator.answering = { type: "reject", status: 486 };
      expect(await outcome()).toBe("busy");
      await redis.set(key, "fraud");
      // Two rounds of the question that the service asks Redis.
      await waitFor(async () => (await outcome()) === "rejected", { what: "the halt", timeoutMs: 5_000 });
      const before = talk.call.seq;
      expect(await outcome()).toBe("rejected");
      // Nobody was called, so nobody is told as being called.
      const told = talk.call.all("transferProgress").filter(({ seq }) => seq > before);
      expect(told.map(({ body }) => body["phase"])).toEqual(["returning"]);
      await redis.del(key);
      await waitFor(async () => (await outcome()) === "busy", { what: "the end of the halt", timeoutMs: 5_000 });
    } finally {
      redis.disconnect();
    }
    await expectWithBot(talk);
  });
});
