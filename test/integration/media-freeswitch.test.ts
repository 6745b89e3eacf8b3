// Only where PATCHBAY_TEST_FREESWITCH names one: otherwise the whole file counts as one test that is skipped.
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { CallEvent } from "../../src/call/event.ts";
import type { CallId, LegId } from "../../src/call/ids.ts";
import { startFreeswitchAnchor } from "../../src/media/freeswitch/anchor.ts";
import { type MediaClock, systemMediaClock } from "../../src/media/options.ts";
import { askFreeswitch, freeswitchPlace, noFreeswitch } from "../support/freeswitch.ts";
import { pitches } from "../support/pitch.ts";
import { delay, waitFor } from "../support/wait.ts";
import { mediaContract } from "./media-contract.ts";
import { startFreeswitchStage, testServer } from "./media-freeswitch-support.ts";
import { expectAtRest, recorded, sdpOf } from "./media-support.ts";
import { finished, heard, recordingContract } from "./recording-contract.ts";

if (freeswitchPlace === undefined) {
  test("the contracts on FreeSWITCH", (context) => context.skip(noFreeswitch));
} else {
  describe("the media contract on FreeSWITCH", () => {
    mediaContract(startFreeswitchStage, { partnersGapMs: 1_000, ownStream: false });
  });

  describe("the recording contract on FreeSWITCH", () => {
    recordingContract(startFreeswitchStage, 60);
  });

  describe("FreeSWITCH in trouble", () => {
    test("a channel that it ends takes the call with it, and what was recorded stays", async () => {
      await using stage = await startFreeswitchStage();
      const { call } = await recorded(stage);
      await delay(1_500);
      await askFreeswitch(testServer(), `hupall NORMAL_CLEARING patchbay_call ${call.id}`);
      await call.event("media.lost");
      await call.close();
      const { sidecar } = await finished(call);
      expect(sidecar.seconds).toBeGreaterThan(1.4);
      expect(call.all("media.lost")).toHaveLength(1);
      await expectAtRest(stage);
      await waitFor(() => stage.dialogs() === 0, { what: "the dialogs to end" });
    });

    test("the second of two takes the calls when the first is away, refuses the password or has no such profile", async () => {
      const away = [testServer({ port: 1 }), testServer({ password: "wrong" }), testServer({ profile: "nobody" })];
      for (const first of away) {
        await using stage = await startFreeswitchStage({ servers: [first, testServer()] });
        expect(stage.anchor.ready()).toBe(true);
        const call = stage.call();
        await call.open(await stage.phone());
        expect(await stage.held()).toBe(1);
        await call.close();
        await expectAtRest(stage);
      }
    }, 30_000);

    test("without any the call is refused, and not for good", async () => {
      await using stage = await startFreeswitchStage({ servers: [testServer({ port: 1 })] });
      expect(stage.anchor.ready()).toBe(false);
      const call = stage.call();
      stage.anchor.open(call.id, call.caller, sdpOf(await stage.phone()), { botId: "b", caller: "1", called: "2" });
      expect(await call.event("media.openFailed")).toMatchObject({ incompatible: false });
    });

    test("a service that says nothing any more loses its channels; one that lives keeps them", async () => {
      let stopped = false;
      const { now, wallMs, after } = systemMediaClock;
      // A service that hangs: what it has waited for does not happen.
      const clock: MediaClock = { now, wallMs, after: (ms, run) => after(ms, () => stopped || run()) };
      await using stage = await startFreeswitchStage({ leaseMs: 2_000, watchMs: 200, clock });
      const call = stage.call();
      await call.open(await stage.phone());
      await call.offer("operator-1");
      await delay(4_000);
      expect(await stage.held()).toBe(2);
      expect(call.all("media.lost")).toEqual([]);
      stopped = true;
      await waitFor(async () => (await stage.held()) === 0, { what: "FreeSWITCH to end them", timeoutMs: 8_000 });
      await call.event("media.lost");
      stopped = false;
      await call.close();
    });

    test("calls of a process that has died are ended by the next one", async () => {
      await using stage = await startFreeswitchStage();
      const call = stage.call();
      await call.open(await stage.phone());
      await stage.anchor.releaseLeft(["somebody-else"]);
      expect(await stage.held()).toBe(1);
      await stage.anchor.releaseLeft([call.id]);
      await call.event("media.lost");
      // A channel whose end was told may still be counted.
      await waitFor(async () => (await stage.held()) === 0, { what: "FreeSWITCH to be empty" });
      await call.close();
      await expectAtRest(stage);
    });
  });

  describe("two services on one FreeSWITCH", () => {
    test("leave each other's calls and recordings alone, whatever becomes of either", async () => {
      await using stage = await startFreeswitchStage({ watchMs: 200 });
      const { call, caller } = await recorded(stage);

      // The other one shares the folders too, and looks for what a crash has left there again and again.
      const { recording } = stage.options;
      if (recording === null) throw new Error("the stage records nothing");
      const events: CallEvent["type"][] = [];
      const other = await startFreeswitchAnchor({
        ...stage.options,
        prompts: { ...stage.options.prompts, cacheFolder: join(stage.folder, "cache-other") },
        recording: { ...recording, lookAgainMs: 50 },
        watchMs: 200,
        commandTimeoutMs: 300,
        post: (_call, event) => events.push(event.type) > 0,
      });
      try {
        const [id, leg] = ["other-call" as CallId, "other-call/caller" as LegId];
        const seen = (type: CallEvent["type"]): Promise<boolean> =>
          waitFor(() => events.includes(type), { what: `${type}; there were ${events.join(", ")}` });
        const phone = await stage.phone();
        other.open(id, leg, sdpOf(phone), { botId: "b", caller: "1", called: "2" });
        await seen("media.opened");
        other.recording(id, "start");
        await seen("recording.changed");
        expect(await stage.held()).toBe(2);
        expect(await other.recoverSpool()).toEqual([]);
        await delay(1_500);
        other.close(id);
        await seen("media.closed");
        await other.releaseLeft([id]);
      } finally {
        await other[Symbol.asyncDispose]();
      }
      expect(events.filter((type) => type === "media.lost")).toEqual([]);

      expect(await stage.held()).toBe(1);
      const play = call.play(stage.botPrompt(0.5));
      await caller.hears(pitches.bot);
      expect(await call.played(play)).toMatchObject({ result: "completed" });
      await call.close();
      expect(call.all("media.lost")).toEqual([]);
      const { file, sidecar } = await finished(call);
      expect(sidecar.seconds).toBeGreaterThan(1.9);
      const { pitches: parts } = await heard(file, [{ from: 0.2, to: 1.4 }], 0);
      expect(parts).toEqual([[pitches.caller, null]]);
      expect(readdirSync(stage.recordingFolder).filter((name) => name.endsWith(".wav"))).toHaveLength(2);
      await expectAtRest(stage);
    }, 30_000);
  });
}
