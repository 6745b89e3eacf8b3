// Several instances of the service on one engine: how calls are divided, and what happens to them when one is drained.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { type App, createApp } from "../../src/app.ts";
import { parseConfig } from "../../src/config/load.ts";
import type { Config } from "../../src/config/schema.ts";
import { loadSecrets, type Secrets } from "../../src/config/secrets.ts";
import { createEngineProcess } from "../../src/engine-process.ts";
import { silentLog } from "../../src/telemetry/log.ts";
import { DisposalStack } from "../support/disposal.ts";
import { drachtioProgram, noDrachtio, drachtioSecret, DrachtioServer } from "../support/drachtio.ts";
import { temporaryFolder } from "../support/folder.ts";
import { claimPort } from "../support/ports.ts";
import { RunningProcess } from "../support/process.ts";
import { RedisServer } from "../support/redis.ts";
import { RtpengineServer } from "../support/rtpengine.ts";
import { Phone } from "../support/rtp-phone.ts";
import { waitFor, within } from "../support/wait.ts";
import { RawBot } from "./raw-bot.ts";
import { botNumber, operatorNumber } from "./stage.ts";

const projectFolder = fileURLToPath(new URL("../..", import.meta.url));
const env = { SECRET: drachtioSecret };

interface Site {
  /** The second one, and the first where it is in this process. */
  readonly instances: readonly App[];
  /** The first instance as a process of its own, again after it was killed. */
  readonly startFirst: () => Promise<RunningProcess>;
  readonly bot: RawBot;
  readonly operator: Phone;
  readonly uri: string;
}

async function startSite(
  kind: "separate" | "drachtio",
  resources: DisposalStack,
  { apart = false }: { readonly apart?: boolean } = {},
): Promise<Site> {
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
  const { path: firstFolder } = resources.use(await temporaryFolder("instance"));
  const firstText = JSON.stringify(await configOf());
  await writeFile(join(firstFolder, "patchbay.yaml"), firstText);
  const read = (text: string, folder: string): readonly [Config, Secrets] => {
    const parsed = parseConfig(text, env, folder);
    if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
    return [parsed.config, loadSecrets(parsed.config, env)];
  };
  const start = async (text: string, folder: string): Promise<App> =>
    resources.use(await createApp(...read(text, folder), { log: silentLog }));
  if (kind === "separate") {
    resources.use(await createEngineProcess(...read(firstText, firstFolder), { log: silentLog }));
  }
  const startFirst = async (): Promise<RunningProcess> =>
    resources.use(
      await RunningProcess.start({
        name: "patchbay",
        command: "node",
        cwd: projectFolder,
        args: ["--import", "tsx", "src/main.ts", "--config", join(firstFolder, "patchbay.yaml")],
        env,
        ready: (child) => child.output.includes('"msg":"ready"'),
        readyTimeoutMs: 30_000,
      }),
    );
  const first = apart ? [] : [await start(firstText, firstFolder)];
  const { path: secondFolder } = resources.use(await temporaryFolder("instance"));
  const instances = [...first, await start(JSON.stringify(await configOf()), secondFolder)];
  const bot = resources.use(await RawBot.connect(redis.port, "bot-a"));
  return { instances, startFirst, bot, operator, uri: `sip:${botNumber}@127.0.0.1:${sipPort}` };
}

describe.each(["separate", "drachtio"] as const)("two instances on one engine: %s", (kind) => {
  test("take calls in turn; one that drains keeps its calls and gets no new ones, and nobody is refused", async (context) => {
    if (kind === "drachtio" && drachtioProgram === undefined) context.skip(noDrachtio);
    await using resources = new DisposalStack();
    const { instances, bot, operator, uri } = await startSite(kind, resources);
    const [first, second] = instances;
    if (first === undefined || second === undefined) throw new Error("no two instances");
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

  test("kill -9 of one: the other one's calls go on, and its own end when it is back", async (context) => {
    if (kind === "drachtio" && drachtioProgram === undefined) context.skip(noDrachtio);
    await using resources = new DisposalStack();
    const { instances, startFirst, bot, operator, uri } = await startSite(kind, resources, { apart: true });
    const [survivor] = instances;
    if (survivor === undefined) throw new Error("no survivor");
    const crashing = await startFirst();
    const talk = async () => {
      const before = operator.calls.length;
      const leg = await resources.use(await Phone.start()).dial(uri);
      const call = await bot.callOf(leg.callId);
      await call.event("answered");
      await call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: false });
      await call.progress("bridged");
      const other = await waitFor(() => operator.calls[before], { what: "the operator's call" });
      return { leg, other, call };
    };
    const talks = [await talk(), await talk()];
    expect(survivor.calls).toBe(1);
    await crashing.kill();
    // Which of the two it held shows when it is back and ends it.
    expect(talks.flatMap(({ leg, other }) => [leg.phase, other.phase])).toEqual(Array(4).fill("established"));
    await startFirst();
    await waitFor(
      () => talks.filter(({ leg, other }) => leg.phase === "ended" && other.phase === "ended").length === 1,
      {
        what: "the end of the crashed instance's call",
        timeoutMs: 20_000,
      },
    );
    const kept = talks.find(({ leg }) => leg.phase === "established");
    expect(kept?.other.phase).toBe("established");
    await kept?.other.hangUp();
    await kept?.call.event("hangup");
    await waitFor(() => survivor.calls === 0, { what: "rest" });
  });
});
