// Sounds of a channel's own for callers who wait.
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { expect, test } from "vitest";
import { nowMs } from "../support/clock.ts";
import { pitches } from "../support/pitch.ts";
import { delay } from "../support/wait.ts";
import { operatorNumber, sharedStage } from "../integration/stage.ts";

const stage = sharedStage({
  change: ({ channels: [first] }, folder) => {
    const ringbackUrl = pathToFileURL(join(folder, "prompts", "second.wav")).href;
    Object.assign(first!, { sounds: { ringbackUrl, holdUrl: `${ringbackUrl}.missing`, earlyMedia: false } });
  },
});

test("a file in place of the tone; no early media; a file that is not there is replaced by ours", async () => {
  stage().operator.answering = { type: "manual", ring: [] };
  const { leg, call } = await stage().talk();
  await call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: true });
  const operator = await stage().incoming();
  const fromMs = await leg.media.hears(pitches.bot);
  operator.ring(183, true);
  // Longer than the file, which has to go on.
  const ringingMs = nowMs();
  await delay(1_300);
  const ringing = await leg.media.capture(ringingMs);
  expect(ringing.tones().map(({ hz }) => hz)).toEqual([pitches.bot]);
  operator.answer();
  await leg.media.hears(pitches.operator);
  await operator.reinvite({ direction: "inactive" });
  const heldMs = nowMs();
  await delay(600);
  const held = await leg.media.capture(heldMs + 300);
  expect(held.amplitudeOf(pitches.operator)).toBeLessThan(100);
  expect(held.level).toBeGreaterThan(1_000);
  expect((await leg.media.capture(fromMs)).longestSilenceMs).toBeLessThan(300);
  await leg.hangUp();
});
