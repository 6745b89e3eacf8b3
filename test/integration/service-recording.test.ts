// A recording on its whole way, as the configuration file says: call, conversion, upload, and what bot and metrics are told.
import { spawnSync } from "node:child_process";
import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { S3Server } from "../support/s3-server.ts";
import { waitFor } from "../support/wait.ts";
import { type ConfigFile, Stage } from "./stage.ts";

const key = (name: string): string => `calls/${name}`;

test("is told with its URL, and is there when the storage is", async (context) => {
  if (spawnSync("ffmpeg", ["-version"]).status !== 0) return context.skip("no ffmpeg");
  await using storage = await S3Server.start();
  const change = ({ recording, channels }: ConfigFile, folder: string): void => {
    writeFileSync(join(folder, "access-key"), `${storage.accessKey}\n`);
    writeFileSync(join(folder, "secret-key"), `${storage.secretKey}\n`);
    const { endpoint, bucket, region } = storage;
    const keys = { accessKeyFile: join(folder, "access-key"), secretKeyFile: join(folder, "secret-key") };
    Object.assign(recording, { format: "opus", upload: { endpoint, bucket, region, prefix: "calls/", ...keys } });
    Object.assign(channels[0]!, { recording: { enabled: true } });
  };
  await using stage = await Stage.start({ change });
  const folder = join(stage.folder, "recordings");
  const metrics = async (): Promise<string> => (await fetch(`http://127.0.0.1:${stage.app.adminPort}/metrics`)).text();

  const recordOne = async (): Promise<string> => {
    const { leg, call } = await stage.talk();
    const begun = await call.event("recording", { where: (body) => body["state"] === "started" });
    await call.run({ type: "audio", audioUrl: stage.prompts.second });
    await leg.media.hears(620);
    await leg.hangUp();
    const finished = await call.event("recording", {
      where: (body) => body["state"] === "finished",
      timeoutMs: 20_000,
    });
    const name = String(finished.body["file"]).slice(folder.length + 1);
    expect(name).toMatch(/\.opus$/);
    expect(finished.body).toMatchObject({ url: `${storage.endpoint}/${storage.bucket}/${key(name)}`, reason: null });
    expect(begun.body).toMatchObject({ file: finished.body["file"], url: finished.body["url"] });
    await call.event("hangup");
    return name;
  };

  const first = await recordOne();
  await waitFor(() => storage.objects.size === 2, { what: "the upload", timeoutMs: 10_000 });
  expect([...storage.objects.keys()].sort()).toEqual([key(first.replace("opus", "json")), key(first)]);
  await waitFor(() => readdirSync(folder).join() === "pending", { what: "the folder to be empty" });
  const text = await metrics();
  expect(text).toContain('patchbay_recording_deliveries_total{step="convert",result="done"} 1');
  expect(text).toContain('patchbay_recording_deliveries_total{step="upload",result="done"} 1');

  // The storage is away: the call and its events are the same.
  await storage.close();
  const second = await recordOne();
  await waitFor(async () => (await metrics()).includes('patchbay_recordings_undelivered{step="upload"} 1'), {
    what: "the file that waits",
  });
  expect(readdirSync(folder).sort()).toEqual([second.replace("opus", "json"), second, "pending"].sort());
  await storage.open();
  await waitFor(() => storage.objects.size === 4, { what: "the second upload", timeoutMs: 20_000 });
  await waitFor(() => readdirSync(folder).join() === "pending", { what: "the folder to be empty" });
});
