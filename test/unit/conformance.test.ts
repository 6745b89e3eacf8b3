import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";

import { cases } from "../conformance/cases/index.ts";
import { withTable } from "../conformance/table.ts";

const page = new URL("../../docs/sip-conformance.md", import.meta.url);
const read = (path: string): string => readFileSync(new URL(`../../${path}`, import.meta.url), "utf8");

test("the table of differences in docs/sip-conformance.md is current (if not: npm run conformance -- --write)", () => {
  const text = readFileSync(page, "utf8");
  if (process.env["PATCHBAY_CONFORMANCE_WRITE"] !== undefined) writeFileSync(page, withTable(text));
  expect(readFileSync(page, "utf8")).toBe(withTable(text));
});

test("the ids of the cases are unique", () => {
  const ids = cases.map(({ id }) => id);
  expect(new Set(ids).size).toBe(ids.length);
});

test("every test that docs/sip-conformance.md names is there, by its file and by its words", () => {
  // `U engine-races "a fault of ours"`: a folder of test/, a file in it, and optionally words of a title.
  const folders: Readonly<Record<string, string>> = {
    U: "unit",
    I: "integration",
    P: "property",
    T: "torture",
    S: "soak",
    X: "interop",
  };
  const ids = new Set(cases.map(({ id }) => id));
  const text = readFileSync(page, "utf8");
  const named = [...text.matchAll(/`([UIPTSX]) ([a-z0-9-]+)(?: "([^"]+)")?`/g)];
  const numbered = [...text.matchAll(/`C (\d+\.\d+)`/g)];
  expect(named.length).toBeGreaterThan(40);
  expect(numbered.length).toBeGreaterThan(20);
  const faults: string[] = [];
  for (const [, id = ""] of numbered) if (!ids.has(id)) faults.push(`case ${id}`);
  for (const [, folder = "", name = "", title = ""] of named) {
    const path = `test/${folders[folder] ?? ""}/${name}.test.ts`;
    if (!existsSync(new URL(`../../${path}`, import.meta.url))) faults.push(path);
    else if (!read(path).includes(title)) faults.push(`${path}: ${title}`);
  }
  expect(faults).toEqual([]);
});
