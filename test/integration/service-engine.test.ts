// The whole service on `patchbay engine`, each in a process of its own, and with the engine in its own: what a crash costs.
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { describe, expect, test } from "vitest";

import { openEntries } from "../../src/lib/open-entries.ts";
import { DisposalStack } from "../support/disposal.ts";
import { temporaryFolder } from "../support/folder.ts";
import { claimPort } from "../support/ports.ts";
import { RunningProcess } from "../support/process.ts";
import { RedisServer } from "../support/redis.ts";
import { Phone } from "../support/rtp-phone.ts";
import type { PhoneCall } from "../support/rtp-phone.ts";
import { RtpengineServer } from "../support/rtpengine.ts";
import { header } from "../support/sip-text.ts";
import { waitFor } from "../support/wait.ts";
import type { BotCall } from "./raw-bot.ts";
import { RawBot } from "./raw-bot.ts";
import { botNumber, filesBelow, operatorNumber } from "./stage.ts";

const projectFolder = fileURLToPath(new URL("../..", import.meta.url));

interface Site extends AsyncDisposable {
  readonly bot: RawBot;
  readonly operator: Phone;
  readonly uri: string;
  readonly folder: string;
  /** rtpengine's recordings that were not written yet. */
  readonly spoolFolder: string;
  start(what: "engine" | "service"): Promise<RunningProcess>;
  phone(): Promise<Phone>;
  /** Calls that rtpengine holds. */
  mediaCalls(): Promise<readonly string[]>;
  /** Dialogs the engine holds. */
  dialogs(): Promise<number>;
}

async function startSite(engine: "separate" | "embedded" = "separate"): Promise<Site> {
  await using resources = new DisposalStack();
  const { path: folder } = resources.use(await temporaryFolder("separate"));
  const redis = resources.use(await RedisServer.start());
  const port = async (): Promise<number> => resources.use(await claimPort()).port;
  const [dtmf, sip, control, admin, engineAdmin] = [
    await port(),
    await port(),
    await port(),
    await port(),
    await port(),
  ];
  const rtpengine = resources.use(await RtpengineServer.start({ dtmfLog: { address: "127.0.0.1", port: dtmf } }));
  const operator = resources.use(await Phone.start({ user: "operator" }));
  const file = join(folder, "patchbay.yaml");
  await writeFile(join(folder, "secret"), "a-secret\n", { mode: 0o600 });
  const config = {
    sip: {
      engine,
      listen: [{ protocol: "udp", address: "127.0.0.1", port: sip }],
      ...(engine === "separate" ? { drachtio: { port: control, secretFile: "secret" } } : {}),
      t1Ms: 50,
    },
    engine: { admin: { port: engineAdmin } },
    redis: { url: redis.url },
    media: {
      rtpengine: [{ host: rtpengine.address, port: rtpengine.ngPort }],
      dtmf: { address: "127.0.0.1", port: dtmf },
    },
    recording: { folder: "recordings", spoolFolder: rtpengine.recordingFolder },
    trunks: [{ id: "t", sources: ["127.0.0.1"], gateways: [{ host: operator.address, port: operator.port }] }],
    channels: [{ botId: "bot-a", trunk: "t", numbers: [botNumber], recording: { enabled: engine === "embedded" } }],
    admin: { address: "127.0.0.1", port: admin },
  };
  await writeFile(file, JSON.stringify(config));
  const bot = resources.use(await RawBot.connect(redis.port, "bot-a"));
  const kept = resources.move();
  return {
    bot,
    operator,
    uri: `sip:${botNumber}@127.0.0.1:${sip}`,
    folder,
    spoolFolder: rtpengine.recordingFolder,
    start: async (what) =>
      kept.use(
        await RunningProcess.start({
          name: `patchbay ${what}`,
          command: "node",
          cwd: projectFolder,
          args: ["--import", "tsx", "src/main.ts", ...(what === "engine" ? ["engine"] : []), "--config", file],
          ready: (child) => child.output.includes('"msg":"ready"'),
          readyTimeoutMs: 30_000,
        }),
      ),
    phone: async () => kept.use(await Phone.start()),
    mediaCalls: () => rtpengine.calls(),
    dialogs: async () => {
      const port = engine === "separate" ? engineAdmin : admin;
      const page = await (await fetch(`http://127.0.0.1:${port}/metrics`)).text();
      return Number(/^patchbay_engine_dialogs (\d+)$/m.exec(page)?.[1] ?? Number.NaN);
    },
    [Symbol.asyncDispose]: () => kept[Symbol.asyncDispose](),
  };
}

interface Talk {
  readonly leg: PhoneCall;
  readonly operator: PhoneCall;
  readonly call: BotCall;
}

/** A caller with an operator, brought there by the bot. */
async function talk(site: Site): Promise<Talk> {
  const before = site.operator.calls.length;
  const leg = await (await site.phone()).dial(site.uri);
  const call = await site.bot.callOf(leg.callId);
  await call.event("answered");
  await call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: false });
  await call.event("transferProgress", { where: (body) => body["phase"] === "bridged" });
  const operator = await waitFor(() => site.operator.calls[before], { what: "the operator's call" });
  return { leg, operator, call };
}

describe("kill -9 of the service with calls up, the engine apart", () => {
  test("its next process ends both legs with a reason, tells the bots, and takes new calls", async () => {
    await using site = await startSite();
    await site.start("engine");
    const service = await site.start("service");
    const talks = [await talk(site), await talk(site), await talk(site)];
    expect(await site.dialogs()).toBe(6);
    await service.kill();
    // Nobody is cut off by the crash itself.
    expect(talks.flatMap(({ leg, operator }) => [leg.phase, operator.phase])).toEqual(Array(6).fill("established"));
    // One of the callers hangs up while the service is away.
    await talks[0]?.leg.hangUp();
    const again = await site.start("service");
    for (const [index, { leg, operator, call }] of talks.entries()) {
      for (const end of [operator, ...(index === 0 ? [] : [leg])]) {
        const { by, how, message } = await end.ended;
        expect({ by, how }).toEqual({ by: "peer", how: "BYE" });
        expect(message === undefined ? "" : header(message, "Reason")).toBe('SIP;cause=503;text="service restarted"');
      }
      const { body } = await call.event("hangup");
      expect(body).toMatchObject({ by: "service", reason: "service restarted" });
    }
    await waitFor(async () => (await site.dialogs()) === 0, { what: "no dialog", timeoutMs: 10_000 });
    // Otherwise their ports, and recordings, would be held until rtpengine's own timeout.
    await waitFor(async () => (await site.mediaCalls()).length === 0, { what: "no media", timeoutMs: 10_000 });
    const next = await talk(site);
    await next.leg.hangUp();
    await next.call.event("hangup");
    await waitFor(async () => (await site.dialogs()) === 0, { what: "no dialog again", timeoutMs: 10_000 });
    expect(again.output).not.toContain('"level":"error"');
  });

  test("a third process has nothing left to end", async () => {
    await using site = await startSite();
    await site.start("engine");
    const service = await site.start("service");
    const { leg, call } = await talk(site);
    await leg.hangUp();
    await call.event("hangup");
    await waitFor(async () => (await site.dialogs()) === 0, { what: "no dialog", timeoutMs: 10_000 });
    const told = (await site.bot.stream()).length;
    await service.kill();
    await site.start("service");
    const other = await talk(site);
    await other.leg.hangUp();
    await other.call.event("hangup");
    const events = (await site.bot.stream()).slice(told).map((raw) => JSON.parse(raw) as { callId: string });
    expect(new Set(events.map(({ callId }) => callId)).size).toBe(1);
  });
});

describe("kill -9 of the service with calls up, the engine in it", () => {
  test("its next process ends all legs with a reason, tells the bots, writes the recordings, and takes new calls", async () => {
    await using site = await startSite("embedded");
    const service = await site.start("service");
    const talking = await talk(site);
    const parkedLeg = await (await site.phone()).dial(site.uri);
    const parked = await site.bot.callOf(parkedLeg.callId);
    const calls = [talking.call, parked];
    for (const call of calls) {
      await call.event("recording", { where: (body) => body["state"] === "started" });
    }
    expect(await site.dialogs()).toBe(3);
    await service.kill();
    const again = await site.start("service");
    for (const end of [talking.leg, talking.operator, parkedLeg]) {
      const { by, how, message } = await end.ended;
      expect({ by, how }).toEqual({ by: "peer", how: "BYE" });
      expect(message === undefined ? "" : header(message, "Reason")).toBe('SIP;cause=503;text="service restarted"');
    }
    for (const call of calls) {
      const { body } = await call.event("hangup");
      expect(body).toMatchObject({ by: "service", reason: "service restarted" });
    }
    await waitFor(async () => (await site.dialogs()) === 0, { what: "no dialog", timeoutMs: 10_000 });
    await waitFor(async () => (await site.mediaCalls()).length === 0, { what: "no media", timeoutMs: 10_000 });
    expect((await recordedCalls(site, calls.length)).toSorted()).toEqual(calls.map(({ id }) => id).toSorted());
    const next = await talk(site);
    await next.leg.hangUp();
    await next.call.event("hangup");
    await waitFor(async () => (await site.dialogs()) === 0, { what: "no dialog again", timeoutMs: 10_000 });
    expect(again.output).not.toContain('"level":"error"');
    again.signal("SIGTERM");
    expect(await again.exited).toMatchObject({ code: 0 });
    expect([...stateLeft(site, "calls"), ...stateLeft(site, "dialogs")]).toEqual([]);
    expect(await filesBelow(site.spoolFolder)).toEqual([]);
  }, 120_000);
});

/** The calls whose recordings are written, once there are so many. */
async function recordedCalls(site: Site, count: number): Promise<readonly string[]> {
  const folder = join(site.folder, "recordings");
  const sidecars = await waitFor(
    async () => {
      const names = (await readdir(folder)).filter((name) => name.endsWith(".json"));
      return names.length >= count ? names : undefined;
    },
    { what: "the recordings", timeoutMs: 40_000 },
  );
  const texts = await Promise.all(sidecars.map((name) => readFile(join(folder, name), "utf8")));
  return texts.map((text) => (JSON.parse(text) as { callId: string }).callId);
}

function stateLeft(site: Site, list: "calls" | "dialogs"): readonly string[] {
  const entries = openEntries(join(site.folder, "state", list), (error) => {
    throw error;
  });
  entries.close();
  return [...entries.left.keys()];
}

test("kill -9 of the engine: the service ends its calls towards the bots and takes new ones from the next engine", async () => {
  await using site = await startSite();
  const engine = await site.start("engine");
  await site.start("service");
  const { call } = await talk(site);
  await engine.kill();
  await site.start("engine");
  expect((await call.event("hangup")).body).toMatchObject({ event: "hangup" });
  const next = await talk(site);
  await next.leg.hangUp();
  await next.call.event("hangup");
});
