// The bot of the whole call: a sentence from a file, then the caller is handed over for good.
import { connectBot } from "../../src/client/index.ts";
import { setting, witness } from "./witness.ts";

let failed = 0;
const bot = connectBot({ redis: { url: setting("BENCH_REDIS") }, botId: "bench", onError: "hangup" });
bot.onCall(async (call) => {
  await call.play(setting("BENCH_PROMPT"));
  await call.switch({ phoneNumber: "79123456789", continueRecording: true });
});
bot.on("error", (error) => {
  failed += 1;
  console.error(error);
});
await bot.ready;
witness(() => ({ failed }));
