// What is left of calls when FreeSWITCH dies under them, and what FreeSWITCH has left when the service dies.
import { readFileSync, writeFileSync } from "node:fs";
import { mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { parseConfig } from "../../src/config/load.ts";
import { loadSecrets } from "../../src/config/secrets.ts";
import { createEngineProcess } from "../../src/engine-process.ts";
import type { Sidecar } from "../../src/media/recording/timeline.ts";
import { silentLog } from "../../src/telemetry/log.ts";
import { nowMs } from "../support/clock.ts";
import { DisposalStack } from "../support/disposal.ts";
import { temporaryFolder } from "../support/folder.ts";
import { channelsIn, FreeswitchServer, freeswitchProgram, noFreeswitchProgram } from "../support/freeswitch.ts";
import { pitches } from "../support/pitch.ts";
import { claimPort } from "../support/ports.ts";
import { RunningProcess } from "../support/process.ts";
import { RedisServer } from "../support/redis.ts";
import { Phone, type PhoneCall } from "../support/rtp-phone.ts";
import { delay, waitFor } from "../support/wait.ts";
import { startFreeswitchStage, testServer } from "./media-freeswitch-support.ts";
import { expectAtRest, sdpOf } from "./media-support.ts";
import { RawBot } from "./raw-bot.ts";
import { finished, heard } from "./recording-contract.ts";
import { botNumber, operatorNumber, Stage } from "./stage.ts";

async function hungUp(...parties: readonly PhoneCall[]): Promise<void> {
  await waitFor(() => parties.every(({ phase }) => phase === "ended"), {
    what: `the end of all: ${parties.map(({ phase }) => phase).join(", ")}`,
    timeoutMs: 20_000,
  });
  for (const { ended } of parties) expect(await ended).toMatchObject({ by: "peer", how: "BYE" });
}

const projectFolder = fileURLToPath(new URL("../..", import.meta.url));

if (freeswitchProgram === undefined) {
  test("FreeSWITCH and the service are killed", (context) => context.skip(noFreeswitchProgram));
} else {
  describe("FreeSWITCH is killed", () => {
    test("parked, ringing, talking and recorded calls are told once, recordings are finished, and it is used again", async () => {
      await using freeswitch = await FreeswitchServer.start();
      await using stage = await startFreeswitchStage({}, testServer({}, freeswitch.place));
      const [parked, ringing, talking] = [stage.call(), stage.call(), stage.call()];
      const calls = [parked, ringing, talking];
      const [one, two, three] = await stage.phones();
      await parked.open(one);
      await ringing.open(two);
      await talking.open(three);
      for (const phone of [one, two, three]) phone.sendTone(pitches.caller);
      const prompt = parked.play(stage.botPrompt(30));
      await one.hears(pitches.bot);
      stage.anchor.ringback(ringing.id, true);
      await ringing.offer("operator-1");
      await two.hears(pitches.ringback);
      const operator = await stage.phone();
      operator.connect("127.0.0.1", await talking.offer("operator-1"), "PCMU", 101);
      operator.sendTone(pitches.operator);
      await talking.join("operator-1", operator);
      await three.hears(pitches.operator);
      for (const call of [parked, talking]) {
        stage.anchor.recording(call.id, "start");
        expect(await call.event("recording.changed")).toMatchObject({ state: "started" });
      }
      const recordedSince = nowMs();
      await delay(2_000);
      const recordedSeconds = (nowMs() - recordedSince) / 1_000;
      await freeswitch.kill();

      for (const call of calls) await call.event("media.lost", 0, 10_000);
      await waitFor(() => !stage.anchor.ready(), { what: "the anchor to know" });
      // Whatever is asked now is answered, and never by another loss.
      const late = stage.call();
      stage.anchor.open(late.id, late.caller, sdpOf(one), { botId: "b", caller: "1", called: "2" });
      expect(await late.event("media.openFailed")).toMatchObject({ incompatible: false });
      stage.anchor.offer(parked.id, parked.leg("operator-9"));
      await parked.event("media.legFailed", 0, 10_000);
      for (const call of calls) {
        await call.close();
        expect(call.all("media.lost")).toHaveLength(1);
        expect(call.all("media.closed")).toHaveLength(1);
      }
      expect(parked.all("media.played").filter(({ play }) => play === prompt).length).toBeLessThanOrEqual(1);
      // It is the call that is lost, and not a leg that another may take the place of.
      expect([...ringing.all("media.legFailed"), ...talking.all("media.legFailed")]).toEqual([]);

      for (const [call, right] of [
        [parked, pitches.bot],
        [talking, pitches.operator],
      ] as const) {
        const { file, sidecar } = await finished(call);
        expect(sidecar.seconds).toBeGreaterThan(recordedSeconds - 0.1);
        const { pitches: parts } = await heard(file, [{ from: 0.2, to: recordedSeconds - 0.2 }], 0);
        expect(parts).toEqual([[pitches.caller, right]]);
      }
      expect(stage.anchor.anchors()).toMatchObject([{ healthy: false, calls: 0 }]);
      await waitFor(() => stage.dialogs() === 0, { what: "the dialogs to end", timeoutMs: 10_000 });
      expect(stage.spool()).toEqual([]);

      await freeswitch.start();
      await waitFor(() => stage.anchor.ready(), { what: "the anchor to be back", timeoutMs: 15_000 });
      const next = stage.call();
      await next.open(one);
      const again = next.play(stage.botPrompt(0.5));
      await one.hears(pitches.bot);
      expect(await next.played(again)).toMatchObject({ result: "completed" });
      operator.connect("127.0.0.1", await next.offer("operator-1"), "PCMU", 101);
      await next.join("operator-1", operator);
      await one.hears(pitches.operator);
      await next.close();
      await expectAtRest(stage);
    }, 90_000);

    test("with the service around it: both parties get BYE, the bot is told all, and the next call is served", async () => {
      await using freeswitch = await FreeswitchServer.start();
      await using stage = await Stage.start({
        channel: { recording: { enabled: true } },
        change(config, folder) {
          const passwordFile = join(folder, "freeswitch-password");
          writeFileSync(passwordFile, freeswitch.place.password);
          const { host, port } = freeswitch.place;
          Object.assign(config.media, {
            anchor: "freeswitch",
            freeswitch: { servers: [{ host, port }], passwordFile },
          });
        },
      });
      const talk = await stage.talk();
      await talk.call.run({
        type: "switch",
        phoneNumber: operatorNumber,
        continueCall: false,
        continueRecording: true,
      });
      const operator = await stage.incoming();
      await operator.acknowledged;
      await operator.media.hears(pitches.caller);
      const { leg: parked, call: parkedCall } = await stage.talk();
      stage.operator.answering = { type: "ring" };
      const ringing = await stage.talk();
      await ringing.call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: true });
      const rang = await stage.incoming(stage.operator, 1);
      await ringing.call.progress("ringing");
      await delay(1_500);
      await freeswitch.kill();
      await hungUp(talk.leg, operator, parked, ringing.leg);
      expect(await rang.ended).toMatchObject({ by: "peer", how: "CANCEL" });
      const failed = await ringing.call.transfer();
      expect([failed.status.status, failed.details.cause]).toEqual(["FAIL", "media_failure"]);
      expect((await talk.call.transfer()).status).toMatchObject({ status: "SUCCESS" });
      for (const call of [talk.call, parkedCall, ringing.call]) {
        const { sidecar } = await stage.recording(call);
        expect(sidecar.seconds).toBeGreaterThan(1.4);
        expect((await call.event("hangup")).body).toMatchObject({ by: "service" });
      }
      stage.operator.answering = { type: "answer" };
      await freeswitch.start();
      await waitFor(async () => (await fetch(`http://127.0.0.1:${stage.app.adminPort}/readyz`)).ok, {
        what: "the service to be ready again",
        timeoutMs: 15_000,
      });
      const next = await stage.talk();
      await next.leg.hangUp();
      await next.call.event("hangup");
      await stage.atRest();
      expect(await channelsIn(freeswitch.place)).toBe(0);
    }, 90_000);
  });

  describe("the service is killed", () => {
    test("the next one hangs up, frees the channels and renders what FreeSWITCH has recorded until then", async () => {
      await using resources = new DisposalStack();
      const freeswitch = resources.use(await FreeswitchServer.start());
      const { path: folder } = resources.use(await temporaryFolder("service"));
      const redis = resources.use(await RedisServer.start());
      const gateway = resources.use(await Phone.start({ tone: pitches.operator }));
      const caller = resources.use(await Phone.start({ tone: pitches.caller }));
      const sip = resources.use(await claimPort());
      const control = resources.use(await claimPort());
      const admin = resources.use(await claimPort());
      const file = join(folder, "patchbay.yaml");
      await mkdir(join(folder, "spool"));
      const passwordFile = join(folder, "password");
      await writeFile(passwordFile, freeswitch.place.password);
      const { host, port } = freeswitch.place;
      const config = {
        // With an engine of its own process, whose calls outlive the service's.
        sip: {
          engine: "separate",
          listen: [{ protocol: "udp", address: "127.0.0.1", port: sip.port }],
          drachtio: { port: control.port, secretEnv: "SECRET" },
          t1Ms: 50,
        },
        engine: { admin: { port: 0 } },
        redis: { url: redis.url },
        media: { anchor: "freeswitch", freeswitch: { servers: [{ host, port }], passwordFile } },
        recording: { folder: "recordings", spoolFolder: "spool" },
        trunks: [{ id: "t", sources: ["127.0.0.1"], gateways: [{ host: gateway.address, port: gateway.port }] }],
        channels: [{ botId: "bot-a", trunk: "t", numbers: [botNumber], recording: { enabled: true } }],
        admin: { address: "127.0.0.1", port: admin.port },
      };
      await writeFile(file, JSON.stringify(config));
      const env = { SECRET: "a secret of the test" };
      const parsed = parseConfig(JSON.stringify(config), env, folder);
      if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
      resources.use(await createEngineProcess(parsed.config, loadSecrets(parsed.config, env), { log: silentLog }));
      const start = async (): Promise<RunningProcess> =>
        resources.use(
          await RunningProcess.start({
            name: "patchbay",
            command: "node",
            cwd: projectFolder,
            args: ["--import", "tsx", "src/main.ts", "--config", file],
            env,
            ready: (child) => child.output.includes('"msg":"ready"'),
            readyTimeoutMs: 30_000,
          }),
        );
      const first = await start();
      const bot = resources.use(await RawBot.connect(redis.port, "bot-a"));
      const leg = await caller.dial(`sip:${botNumber}@127.0.0.1:${sip.port}`);
      const call = await bot.callOf(leg.callId);
      await call.event("recording", { where: (body) => body["state"] === "started" });
      await call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: true, continueRecording: true });
      const operator = await waitFor(() => gateway.calls[0], { what: "the operator's call" });
      await operator.acknowledged;
      await operator.media.hears(pitches.caller);
      await delay(1_500);
      await first.kill();
      expect(await channelsIn(freeswitch.place)).toBe(2);

      await start();
      await hungUp(leg, operator);
      expect((await call.event("hangup")).body).toMatchObject({ by: "service", reason: "service restarted" });
      await waitFor(async () => (await channelsIn(freeswitch.place)) === 0, { what: "the channels to be freed" });
      const recordings = join(folder, "recordings");
      const wav = await waitFor(async () => (await readdir(recordings)).find((name) => name.endsWith(".wav")), {
        what: "the recording",
        timeoutMs: 40_000,
      });
      const path = join(recordings, wav);
      const sidecar = JSON.parse(readFileSync(path.replace(/wav$/, "json"), "utf8")) as Sidecar;
      expect(sidecar.callId).toBe(call.id);
      expect(sidecar.phases.map(({ phase }) => phase)).toContain("operator");
      const talk = sidecar.phases.find(({ phase }) => phase === "operator");
      const from = (talk?.from ?? 0) + 0.5;
      const { pitches: parts } = await heard(path, [{ from, to: from + 1 }], 0);
      expect(parts).toEqual([[pitches.caller, pitches.operator]]);
      await waitFor(
        async () => {
          const left = await readdir(join(folder, "spool"), { recursive: true, withFileTypes: true });
          return left.every((entry) => entry.isDirectory());
        },
        { what: "the spool to be empty" },
      );
    }, 120_000);
  });
}
