// Several instances of the service on one engine: how calls are divided, and what happens to them when one is drained.
import { describe, expect, test } from "vitest";
import { type App, createApp } from "../../src/app.ts";
import { parseConfig } from "../../src/config/load.ts";
import { loadSecrets } from "../../src/config/secrets.ts";
import { createEngineProcess } from "../../src/engine-process.ts";
import { silentLog } from "../../src/telemetry/log.ts";
import { DisposalStack } from "../support/disposal.ts";
import { drachtioProgram, drachtioSecret, DrachtioServer } from "../support/drachtio.ts";
import { temporaryFolder } from "../support/folder.ts";
import { claimPort } from "../support/ports.ts";
import { RedisServer } from "../support/redis.ts";
import { RtpengineServer } from "../support/rtpengine.ts";
import { Phone } from "../support/rtp-phone.ts";
import { within } from "../support/wait.ts";
import { RawBot } from "./raw-bot.ts";
import { botNumber, operatorNumber } from "./stage.ts";

const env = { SECRET: drachtioSecret };

interface Site {
  readonly instances: readonly [App, App];
  readonly bot: RawBot;
  readonly operator: Phone;
  readonly uri: string;
}

async function startSite(kind: "separate" | "drachtio", resources: DisposalStack): Promise<Site> {
  const redis = resources.use(await RedisServer.start());
  const operator = resources.use(await Phone.start({ user: "operator" }));
  const server = kind === "drachtio" ? resources.use(await DrachtioServer.start({ t1Ms: 50 })) : undefined;
  const sipPort = server?.sipPort ?? resources.use(await claimPort()).port;
  const control = server?.controlPort ?? resources.use(await claimPort()).port;
  const configOf = async (): Promise<object> => {
    const dtmf = { address: "127.0.0.1", port: resources.use(await claimPort()).port };
    // Each has a media server of its own: keys are reported to one address only.
    const rtpengine = resources.use(await RtpengineServer.start({ dtmfLog: dtmf }));
    return {
      sip: {
        engine: kind,
        listen: [{ protocol: "udp", address: "127.0.0.1", port: sipPort }],
        drachtio: { port: control, secretEnv: "SECRET" },
        t1Ms: 50,
      },
      engine: { admin: { port: 0 } },
      redis: { url: redis.url },
      media: { rtpengine: [{ host: rtpengine.address, port: rtpengine.ngPort }], dtmf },
      recording: { folder: "recordings", spoolFolder: rtpengine.recordingFolder },
      trunks: [{ id: "t", sources: ["127.0.0.1"], gateways: [{ host: operator.address, port: operator.port }] }],
      channels: [{ botId: "bot-a", trunk: "t", numbers: [botNumber] }],
      admin: { port: 0 },
    };
  };
  const start = async (serveEngine: boolean): Promise<App> => {
    const { path } = resources.use(await temporaryFolder("instance"));
    const parsed = parseConfig(JSON.stringify(await configOf()), env, path);
    if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
    const { config } = parsed;
    const secrets = loadSecrets(config, env);
    if (serveEngine) resources.use(await createEngineProcess(config, secrets, { log: silentLog }));
    return resources.use(await createApp(config, secrets, { log: silentLog }));
  };
  const instances = [await start(kind === "separate"), await start(false)] as const;
  const bot = resources.use(await RawBot.connect(redis.port, "bot-a"));
  return { instances, bot, operator, uri: `sip:${botNumber}@127.0.0.1:${sipPort}` };
}

describe.each(["separate", "drachtio"] as const)("two instances on one engine: %s", (kind) => {
  test("take calls in turn; one that drains keeps its calls and gets no new ones, and nobody is refused", async (context) => {
    if (kind === "drachtio" && drachtioProgram === undefined) {
      context.skip("PATCHBAY_TEST_DRACHTIO does not name a drachtio-server");
    }
    await using resources = new DisposalStack();
    const { instances, bot, operator, uri } = await startSite(kind, resources);
    const [first, second] = instances;
    const talk = async () => {
      const phone = resources.use(await Phone.start());
      const leg = await phone.dial(uri);
      const call = await bot.callOf(leg.callId);
      await leg.established;
      await call.event("answered");
      return { leg, call };
    };
    const talks = [await talk(), await talk(), await talk(), await talk()];
    expect(instances.map(({ calls }) => calls)).toEqual([2, 2]);

    let drained = false;
    const drain = first.drain(60_000).then(() => (drained = true));
    // Crossing ones may still be refused; the engine has been told before the next caller has dialled.
    await expect.poll(async () => (await fetch(`http://127.0.0.1:${first.adminPort}/readyz`)).status).toBe(503);
    const later = [await talk(), await talk(), await talk()];
    expect(instances.map(({ calls }) => calls)).toEqual([2, 5]);
    expect((await fetch(`http://127.0.0.1:${second.adminPort}/readyz`)).status).toBe(200);

    // Whoever holds a call hears its bot, also the one that drains, and can still call an operator.
    for (const [index, { call }] of talks.entries()) {
      await call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: true });
      await call.progress("bridged");
      await operator.calls[index]?.hangUp();
      await call.transfer();
    }
    expect(drained).toBe(false);
    for (const { leg, call } of [...talks, ...later]) {
      await leg.hangUp();
      await call.event("hangup");
    }
    await within(drain, 20_000, "the end of draining");
    expect(instances.map(({ calls }) => calls)).toEqual([0, 0]);
  });
});
