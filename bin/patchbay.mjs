#!/usr/bin/env node
// The `patchbay` command. An installed copy runs the compiled service; a checkout that was not built runs the sources.
import { existsSync } from "node:fs";

const compiled = new URL("../dist/main.js", import.meta.url);
const source = new URL("../src/main.ts", import.meta.url);

if (existsSync(compiled)) {
  await import(compiled.href);
} else if (existsSync(source)) {
  const { register } = await import("tsx/esm/api");
  register();
  await import(source.href);
} else {
  console.error("patchbay: neither dist/main.js nor src/main.ts is here; run `npm ci && npm run build` first.");
  process.exitCode = 1;
}
