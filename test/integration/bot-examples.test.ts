import { expect, test } from "vitest";
import type { CallId } from "../../src/call/ids.ts";
import { RunningProcess } from "../support/process.ts";
import { startRedis } from "../support/redis.ts";
import { waitFor } from "../support/wait.ts";
import { callEvent, digitEvent, hangupEvent, linkFixture, transferEvent } from "./bot-fixture.ts";

const root = new URL("../../", import.meta.url).pathname;

test.each([
  ["python3", ["examples/bot-python/bot.py"]],
  ["node", ["--import", "tsx", "examples/bot-typescript/bot.ts"]],
])("the example bot of %s serves a call by the contract alone", async (command, args) => {
  await using redis = await startRedis();
  const told: string[] = [];
  await using fixture = await linkFixture({
    redis: { url: redis.url },
    onCommand(call, { commandId, replies }, say) {
      say({ event: "accepted", commandId });
      for (const [index, reply] of replies.entries()) {
        told.push(reply.type === "text" ? reply.text : reply.type);
        if (reply.type === "text") {
          if (reply.text.includes("Press 1")) fixture.say(call, digitEvent("1"));
          say({ event: "playback", commandId, index, result: "completed", reason: null });
        } else if (reply.type === "switch") {
          const { transferId, number, answerTimeoutMs, continueCall } = reply.request;
          expect({ number, answerTimeoutMs, continueCall }).toEqual({
            number: "100",
            answerTimeoutMs: 30_000,
            continueCall: true,
          });
          say({ event: "transferProgress", transferId, phase: "bridged", attempt: 1, sipCode: 200, ms: 900 });
          say(transferEvent("SUCCESS", number, transferId, "completed"));
        } else if (reply.type === "hangup") {
          say({ ...hangupEvent, by: "bot" } as typeof hangupEvent);
          fixture.link.close(call);
        }
      }
      return true;
    },
  });
  const bot = await RunningProcess.start({
    name: "example bot",
    command,
    cwd: root,
    args: [...args, "bot-1", "100", redis.url],
    ready: (child) => Promise.resolve(child.output.includes("waiting for calls")),
  });
  try {
    for (const id of ["one", "two"]) {
      fixture.open(id, "bot-1");
      fixture.say(id as CallId, callEvent);
      await waitFor(() => told.at(-1) === "hangup", { timeoutMs: 10_000, what: `call ${id} to be hung up` });
      expect(told.filter((word) => word === "switch")).toHaveLength(1);
      expect(told.some((word) => word.includes("Thank you for calling"))).toBe(true);
      told.length = 0;
    }
    await waitFor(() => bot.output.includes("SUCCESS"), { what: "the bot to say how the transfer went" });
  } finally {
    await bot.stop();
  }
});
