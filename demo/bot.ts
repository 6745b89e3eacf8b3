// The bot of the demo: greets, transfers three times, and tells the caller what came of each.
import type { BotCall, SwitchRequest } from "../src/client/index.ts";

export interface Transfers {
  readonly answers: SwitchRequest;
  readonly busy: SwitchRequest;
  readonly silent: SwitchRequest;
}

/** Serves one call to its end. */
export async function serveDemoCall(call: BotCall, transfers: Transfers): Promise<void> {
  await call.say("Hello! This is the support bot.");
  await call.say("I am transferring you to an operator.");
  const first = await call.switch(transfers.answers);
  if (first.hangup) return;
  await call.say(first.status === "SUCCESS" ? "You are back with the bot. Thank you!" : "The operator is unavailable.");

  const second = await call.switch(transfers.busy);
  if (second.hangup) return;
  if (second.status === "FAIL") await call.say("I am sorry, no operator is free.");

  const third = await call.switch(transfers.silent);
  if (third.hangup) return;
  const last = call.getTransferStatus();
  await call.say(last?.details?.cause === "no_answer" ? "Nobody answers. Goodbye!" : "Goodbye!");
  await call.hangup();
}
