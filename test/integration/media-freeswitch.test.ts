// Only where PATCHBAY_TEST_FREESWITCH names one: vitest.config.ts leaves this file out otherwise.
import { describe, expect, test } from "vitest";
import { askFreeswitch } from "../support/freeswitch.ts";
import { pitches } from "../support/pitch.ts";
import { delay, waitFor } from "../support/wait.ts";
import { mediaContract } from "./media-contract.ts";
import { startFreeswitchStage, testServer } from "./media-freeswitch-support.ts";
import { expectAtRest, sdpOf } from "./media-support.ts";
import { finished, recordingContract } from "./recording-contract.ts";

describe("the media contract on FreeSWITCH", () => {
  mediaContract(startFreeswitchStage, { partnersGapMs: 1_000, ownStream: false });
});

describe("the recording contract on FreeSWITCH", () => {
  // FreeSWITCH reads nothing from a channel while it is bridged or parked.
  recordingContract(startFreeswitchStage, 250);
});

describe("FreeSWITCH in trouble", () => {
  test("a channel that it ends takes the call with it, and what was recorded stays", async () => {
    await using stage = await startFreeswitchStage();
    const call = stage.call();
    const caller = await stage.phone();
    await call.open(caller);
    caller.sendTone(pitches.caller);
    stage.anchor.recording(call.id, "start");
    await call.event("recording.changed");
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

  test("calls of a process that has died are ended by the next one", async () => {
    await using stage = await startFreeswitchStage();
    const call = stage.call();
    await call.open(await stage.phone());
    await stage.anchor.releaseLeft(["somebody-else"]);
    expect(await stage.held()).toBe(1);
    await stage.anchor.releaseLeft([call.id]);
    await call.event("media.lost");
    expect(await stage.held()).toBe(0);
    await call.close();
    await expectAtRest(stage);
  });
});
