import { once } from "node:events";
import { Socket } from "node:net";

import { expect, it } from "vitest";

import { inProcessPair } from "../../src/engine/wire/in-process.ts";

it("what the engine writes is read write by write, with all promises in between", async () => {
  const { engine, application } = inProcessPair();
  const seen: string[] = [];
  application.on("data", (chunk: Buffer) => {
    seen.push(String(chunk));
    void Promise.resolve()
      .then(() => undefined)
      .then(() => seen.push(`after ${String(chunk)}`));
  });
  for (const one of ["a", "b", "c"]) engine.write(one);
  await expect.poll(() => seen).toEqual(["a", "after a", "b", "after b", "c", "after c"]);
});

it("what the application writes arrives as bytes and in order, also when it is corked", async () => {
  const { engine, application } = inProcessPair();
  const seen: Buffer[] = [];
  engine.on("data", (chunk: Buffer) => seen.push(chunk));
  application.write("5#жx|");
  application.cork();
  application.write(Buffer.from([1, 2]));
  application.write("é", "latin1");
  application.uncork();
  await expect.poll(() => Buffer.concat(seen)).toEqual(Buffer.from([...Buffer.from("5#жx|"), 1, 2, 0xe9]));
});

it.each(["engine", "application"] as const)("ends and breaks at both ends: the %s begins", async (one) => {
  for (const how of ["end", "destroy"] as const) {
    const pair = inProcessPair();
    expect(pair.application).toBeInstanceOf(Socket);
    pair.engine.resume();
    pair.application.resume();
    const closed = [once(pair.engine, "close"), once(pair.application, "close")];
    pair[one][how]();
    await Promise.all(closed);
    expect([pair.engine.destroyed, pair.application.destroyed, pair.engine.writable]).toEqual([true, true, false]);
    // Nothing is thrown by what is still on its way.
    pair[one === "engine" ? "application" : "engine"].on("error", () => undefined).write("late");
  }
});
