import { appendFileSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";

import { expect, it } from "vitest";

import { openEntries } from "../../src/lib/open-entries.ts";
import { temporaryFolder } from "../support/folder.ts";

const noError = (error: unknown): void => {
  throw error;
};

it("a process finds what the one before it had open, and only that", async () => {
  await using folder = await temporaryFolder("entries");
  const file = join(folder.path, "state", "dialogs");
  const first = openEntries(file, noError);
  expect([...first.left]).toEqual([]);
  first.add("a", "1");
  first.add("b", "line\nend");
  first.add("c", "");
  first.add("a", "2");
  first.remove("c");
  first.remove("never there");
  // No close: it was killed, in the middle of a line at that.
  appendFileSync(file, '["d","');
  const second = openEntries(file, noError);
  expect(Object.fromEntries(second.left)).toEqual({ a: "2", b: "line\nend" });
  second.remove("b");
  second.close();
  second.add("after", "closing");
  const third = openEntries(file, noError);
  expect(Object.fromEntries(third.left)).toEqual({ a: "2" });
  third.close();
});

it("the file does not grow with what has been and gone", async () => {
  await using folder = await temporaryFolder("entries");
  const file = join(folder.path, "calls");
  const entries = openEntries(file, noError);
  entries.add("kept", "x");
  for (let index = 0; index < 40_000; index += 1) {
    entries.add(`call-${index}`, "");
    entries.remove(`call-${index}`);
  }
  expect(entries.size).toBe(1);
  expect(readFileSync(file, "utf8").split("\n").length).toBeLessThan(25_000);
  entries.close();
  expect(Object.fromEntries(openEntries(file, noError).left)).toEqual({ kept: "x" });
});

it("nor with the values that one entry has had", async () => {
  await using folder = await temporaryFolder("entries");
  const file = join(folder.path, "calls");
  const entries = openEntries(file, noError);
  for (let index = 0; index < 25_000; index += 1) {
    entries.add("call", String(index));
  }
  expect(readFileSync(file, "utf8").split("\n").length).toBeLessThan(12_000);
  entries.close();
  expect(Object.fromEntries(openEntries(file, noError).left)).toEqual({ call: "24999" });
});

it("says once when it cannot write any more, and goes on without", async () => {
  await using folder = await temporaryFolder("entries");
  const file = join(folder.path, "state", "calls");
  const errors: unknown[] = [];
  const entries = openEntries(file, (error) => errors.push(error));
  rmSync(join(folder.path, "state"), { recursive: true });
  for (let index = 0; index < 30_000; index += 1) {
    entries.add("a", "");
    entries.remove("a");
  }
  expect(errors).toHaveLength(1);
  expect(entries.size).toBe(0);
});
