import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { expect, it } from "vitest";

import { differences } from "../../src/engine/parity.ts";
import {
  agent,
  answered,
  apps,
  clock,
  command,
  counters,
  expectNothingLeft,
  localTag,
  network,
  receive,
  start,
} from "./engine-ua-stage.ts";

const folder = fileURLToPath(new URL("../../src/engine", import.meta.url));

it("each row of the table is asked for somewhere, and says what both servers do", () => {
  const source = readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".ts") && !name.endsWith("parity.ts"))
    .map((name) => readFileSync(join(folder, name), "utf8"))
    .join("\n");
  const rows = Object.entries(differences);
  expect(rows.length).toBeGreaterThan(8);
  const unread = rows.filter(([name]) => !source.includes(`imitates("${name}")`)).map(([name]) => name);
  expect(unread).toEqual([]);
  for (const [, text] of rows) {
    expect(text.split(" | ")).toHaveLength(2);
  }
});

it("a dialog of a lost application is forgotten in the end: four hours after the last that was sent in it", async () => {
  const hourMs = 3_600_000;
  start({}, true);
  const { inbound, dialogId } = answered();
  receive("ACK", { toTag: localTag(inbound) });
  apps.connected.clear();
  apps.connected.add(2);
  agent.clientGone({ client: 1, tags: "", verbs: [] });
  await clock.advance(3 * hourMs);
  agent.requestInDialog(command("MESSAGE sip:placeholder SIP/2.0\r\n\r\n", 2), dialogId);
  network.last("MESSAGE").respond(200);
  await clock.advance(3 * hourMs);
  expect(agent.stats().dialogs).toBe(1);
  await clock.advance(hourMs + 1);
  expect(counters.get("orphansEnded")).toBe(1);
  expectNothingLeft();
});
