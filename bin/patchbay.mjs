#!/usr/bin/env node
// The `patchbay` command. A checkout runs its sources, so that a forgotten build is never what runs; an installed copy
// has no sources and runs the compiled service.
import { existsSync } from "node:fs";

const source = new URL("../src/main.ts", import.meta.url);
const compiled = new URL("../dist/main.js", import.meta.url);

if (existsSync(source)) {
  const { register } = await import("tsx/esm/api");
  register();
  await import(source.href);
} else if (existsSync(compiled)) {
  await import(compiled.href);
} else {
  console.error("patchbay: neither src/main.ts nor dist/main.js is here; in a checkout run: npm ci");
  process.exitCode = 1;
}
