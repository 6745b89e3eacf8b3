// A small support bot on the client library:
//   npx tsx examples/bot-typescript/bot.ts BOT_ID OPERATOR [redis://127.0.0.1:6379]
// OPERATOR is a phone number, or a SIP address such as operator@127.0.0.1:5070. Where Redis wants a user, REDIS_USERNAME
// names him and REDIS_PASSWORD_FILE the file with his password.
// In a project of its own the import is `from "patchbay/client"`.
import { readFileSync } from "node:fs";
import { connectBot } from "../../src/client/index.ts";
import type { BotCall, TransferStatus } from "../../src/client/index.ts";

const [botId, operator, url = "redis://127.0.0.1:6379"] = process.argv.slice(2);
if (botId === undefined || operator === undefined) {
  console.error("usage: bot.ts BOT_ID OPERATOR [REDIS_URL]");
  process.exit(2);
}

/** One caller, from the greeting to the goodbye. Whatever is awaited ends when the caller hangs up. */
async function support(call: BotCall, target: string): Promise<void> {
  await call.say("Hello! Press 1 for an operator, or stay with me.");
  const { digits } = await call.waitForDigits({ count: 1, timeoutMs: 5_000 });
  if (digits === "1") {
    await call.say("I am transferring you to an operator.");
    call.on("transferProgress", ({ phase, ms }) => console.log(`${call.callId}: ${phase} after ${ms} ms`));
    const outcome = await call.switch({
      ...(target.includes("@") ? { sipUri: target } : { phoneNumber: target }),
      timeout: 30,
      headers: { callReason: "support", crmClientId: "none" },
      continueCall: true,
      continueRecording: true,
    });
    console.log(
      `${call.callId}: ${outcome.status}, ${outcome.details?.cause ?? outcome.refusal?.code ?? "the call ended"}`,
    );
    if (outcome.hangup) return;
    await call.say(farewell(outcome));
  } else {
    await call.say("Then I have nothing more to say. Goodbye!");
  }
  await call.hangup();
}

function farewell(outcome: TransferStatus): string {
  if (outcome.status === "SUCCESS") return "You are back with the bot. Thank you for calling!";
  return outcome.details?.cause === "busy" ? "All operators are busy. Please call again." : "No operator is free.";
}

const { REDIS_USERNAME: username, REDIS_PASSWORD_FILE: file } = process.env;
const password = file === undefined ? undefined : readFileSync(file, "utf8").trim();
const redis = { url, ...(username && { username }), ...(password && { password }) };

const bot = connectBot({ redis, botId, onError: "hangup" });
bot.onCall((call) => support(call, operator));
bot.on("error", (error, call) => console.error(call === null ? "bot" : call.callId, error));
process.once("SIGINT", () => void bot.close());
process.once("SIGTERM", () => void bot.close());

await bot.ready;
console.log(`waiting for calls of ${botId}`);
