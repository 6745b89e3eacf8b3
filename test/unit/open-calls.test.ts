import { mkdir, symlink } from "node:fs/promises";
import { join } from "node:path";

import { expect, it } from "vitest";

import type { CallId } from "../../src/call/ids.ts";
import { type OpenCalls, openCalls } from "../../src/runtime/open-calls.ts";
import { silentLog } from "../../src/telemetry/log.ts";
import { temporaryFolder } from "../support/folder.ts";

const open = (folder: string): Promise<OpenCalls> => openCalls(folder, (id) => `saved ${id}`, silentLog);

it("the next process finds the calls that were not over, and the dialogs as they were saved", async () => {
  await using folder = await temporaryFolder("calls");
  const path = join(folder.path, "state");
  const first = await open(path);
  const [over, left] = ["over" as CallId, "left" as CallId];
  for (const call of [over, left]) first.begun({ call, botId: "bot", caller: "1", called: "2" });
  first.said(left, 7);
  first.ended(over);
  for (const id of ["a", "b"]) first.dialogs.opened(id);
  first.dialogs.ended("a");
  await first.close();
  const second = await open(path);
  expect(second.leftCalls).toEqual([{ call: left, botId: "bot", caller: "1", called: "2", lastSeq: 7 }]);
  expect([...second.leftDialogs]).toEqual([["b", "saved b"]]);
  await second.close();
});

it.runIf(process.platform === "linux")("a folder belongs to one at a time, whatever path leads there", async () => {
  await using folder = await temporaryFolder("calls");
  const [path, other, alias] = ["state", "other", "alias"].map((name) => join(folder.path, name)) as [
    string,
    string,
    string,
  ];
  await mkdir(path);
  await symlink(path, alias);
  const first = await open(path);
  first.dialogs.opened("a");
  for (const taken of [path, alias]) {
    await expect(open(taken)).rejects.toThrow(`another instance has ${taken}: each needs a folder of its own`);
  }
  await (await open(other)).close();
  await first.close();
  const next = await open(alias);
  expect([...next.leftDialogs.keys()]).toEqual(["a"]);
  await next.close();
});
