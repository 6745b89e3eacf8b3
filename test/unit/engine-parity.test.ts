import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { expect, it } from "vitest";

import { differences } from "../../src/engine/parity.ts";

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
