// What the whole service does when a part it needs is away, and how it stops.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { temporaryFolder } from "../support/folder.ts";
import { claimPort } from "../support/ports.ts";
import { RunningProcess } from "../support/process.ts";
import { RedisServer } from "../support/redis.ts";
import { RtpengineServer } from "../support/rtpengine.ts";
import { header } from "../support/sip-text.ts";
import { waitFor } from "../support/wait.ts";
import { Phone } from "../support/rtp-phone.ts";
import { RawBot } from "./raw-bot.ts";
import { botNumber, operatorNumber, Stage } from "./stage.ts";

const projectFolder = fileURLToPath(new URL("../..", import.meta.url));

async function readiness(stage: Stage): Promise<unknown> {
  return (await fetch(`http://127.0.0.1:${stage.app.adminPort}/readyz`)).json();
}

describe("Redis dies", () => {
  test("a talk with an operator goes on, new calls get 503 and not silence, and afterwards all is told", async () => {
    await using stage = await Stage.start();
    const { leg, call, caller } = await stage.talk();
    await call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: false });
    const operator = await stage.incoming();
    await operator.acknowledged;
    await stage.redis.crash();
    await waitFor(async () => JSON.stringify(await readiness(stage)).includes('"redis":false'), { what: "not ready" });
    const refused = await caller.dial(stage.uri());
    expect(await refused.ended).toMatchObject({ status: 503 });
    expect(header(refused.responses.at(-1)!, "Retry-After")).toBe("10");
    expect([leg.phase, operator.phase]).toEqual(["established", "established"]);
    await operator.hangUp();
    expect(await leg.ended).toMatchObject({ by: "peer", how: "BYE" });
    await stage.redis.start();
    await waitFor(() => stage.app.stats().bot.queued === 0, { what: "all events in Redis", timeoutMs: 8_000 });
    await using later = await RawBot.connect(stage.redis.port, "bot-a");
    const told = (await later.stream()).map((raw) => (JSON.parse(raw) as { event: string }).event);
    expect(told.filter((name) => name === "transfer" || name === "hangup")).toEqual(["transfer", "hangup"]);
    const again = await caller.dial(stage.uri());
    await again.established;
    await again.hangUp();
  });
});

describe("rtpengine dies", () => {
  test("new calls get 503, and are told the bot as over", async () => {
    // The engine gives a call 64 times T1 to be answered, and the media side tries longer than with the usual short T1.
    await using stage = await Stage.start({ t1Ms: 200 });
    await stage.rtpengine.crash();
    const caller = await stage.phone({ t1Ms: 200 });
    const refused = await caller.dial(stage.uri());
    expect(await refused.ended).toMatchObject({ status: 503 });
    const call = await stage.bot.callOf(refused.callId);
    expect((await call.event("hangup")).body).toMatchObject({ by: "service", sipCode: 503, durationMs: 0 });
    expect(stage.app.calls).toBe(0);
  });
});

test("a caller without a codec of ours gets 488, and nothing waits for a recording that never began", async () => {
  await using stage = await Stage.start();
  const caller = await stage.phone();
  const body = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9000 RTP/AVP 18\r\n";
  const refused = await caller.dial(stage.uri(), { body });
  expect(await refused.ended).toMatchObject({ status: 488 });
  const call = await stage.bot.callOf(refused.callId);
  expect((await call.event("hangup")).body).toMatchObject({ by: "service", sipCode: 488 });
  await stage.atRest();
});

describe("the service stops", () => {
  test("draining: who talks goes on talking, who calls gets 503; closing ends them and tells the bot", async () => {
    await using stage = await Stage.start();
    const { leg, call, caller } = await stage.talk();
    await call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: true });
    const operator = await stage.incoming();
    await call.event("transferProgress", { where: (body) => body["phase"] === "bridged" });
    let drained = false;
    const drain = stage.app.drain(60_000).then(() => (drained = true));
    const refused = await caller.dial(stage.uri());
    expect(await refused.ended).toMatchObject({ status: 503 });
    expect([leg.phase, operator.phase, drained]).toEqual(["established", "established", false]);
    await stage.app.close();
    await drain;
    expect(await leg.ended).toMatchObject({ by: "peer", how: "BYE" });
    expect(await operator.ended).toMatchObject({ by: "peer", how: "BYE" });
    const transfer = await call.transfer();
    expect(transfer.status).toMatchObject({ status: "SUCCESS", hangup: true });
    expect((await call.event("hangup")).body).toMatchObject({ by: "service" });
    await stage.app.close();
  });

  test("SIGTERM with a call, again, and again while it closes: both are hung up, the bot is told, exit status 0", async () => {
    await using folder = await temporaryFolder("service");
    await using redis = await RedisServer.start();
    await using dtmf = await claimPort();
    await using rtpengine = await RtpengineServer.start({ dtmfLog: { address: "127.0.0.1", port: dtmf.port } });
    await using gateway = await Phone.start();
    await using sip = await claimPort();
    await using admin = await claimPort();
    const file = join(folder.path, "patchbay.yaml");
    const config = {
      sip: { listen: [{ protocol: "udp", address: "127.0.0.1", port: sip.port }], t1Ms: 20 },
      redis: { url: redis.url },
      media: {
        rtpengine: [{ host: rtpengine.address, port: rtpengine.ngPort }],
        dtmf: { address: "127.0.0.1", port: dtmf.port },
      },
      recording: { folder: "recordings", spoolFolder: rtpengine.recordingFolder },
      trunks: [{ id: "t", sources: ["127.0.0.1"], gateways: [{ host: gateway.address, port: gateway.port }] }],
      channels: [{ botId: "bot-a", trunk: "t", numbers: [botNumber], recording: { enabled: true } }],
      admin: { address: "127.0.0.1", port: admin.port },
    };
    await writeFile(file, JSON.stringify(config));
    await using service = await RunningProcess.start({
      name: "patchbay",
      command: "node",
      cwd: projectFolder,
      args: ["--import", "tsx", "src/main.ts", "--config", file],
      ready: (child) => child.output.includes('"msg":"ready"'),
      readyTimeoutMs: 30_000,
    });
    await using bot = await RawBot.connect(redis.port, "bot-a");
    await using caller = await Phone.start();
    const leg = await caller.dial(`sip:${botNumber}@127.0.0.1:${sip.port}`);
    const call = await bot.callOf(leg.callId);
    await call.event("answered");
    service.signal("SIGTERM");
    await waitFor(() => service.output.includes("draining"), { what: "the drain" });
    expect(leg.phase).toBe("established");
    service.signal("SIGTERM");
    await waitFor(() => service.output.includes("second signal"), { what: "the end of the drain" });
    service.signal("SIGINT");
    service.signal("SIGTERM");
    expect(await service.exited).toMatchObject({ code: 0 });
    expect(await leg.ended).toMatchObject({ by: "peer", how: "BYE" });
    expect((await call.event("recording", { where: (body) => body["state"] === "finished" })).body).toBeDefined();
    expect((await call.event("hangup")).body).toMatchObject({ by: "service" });
  });
});
