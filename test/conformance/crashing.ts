// A server under test in a process of its own, which can be killed as a crash would and started again on the same ports.
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import type { Closings } from "../integration/engine-support.ts";
import { DrachtioServer } from "../support/drachtio.ts";
import { temporaryFolder } from "../support/folder.ts";
import { claimPort } from "../support/ports.ts";
import { RunningProcess } from "../support/process.ts";
import type { Personality } from "./world.ts";

export interface Crashing {
  readonly sipPort: number;
  readonly controlPort: number;
  /** kill -9 */
  kill(): Promise<void>;
  start(): Promise<void>;
}

const projectFolder = fileURLToPath(new URL("../..", import.meta.url));

/** A drachtio-server, or `patchbay engine`; it runs when this is over. */
export async function startCrashing(
  personality: Personality,
  { t1Ms, secret }: { readonly t1Ms: number; readonly secret: string },
  closings: Closings,
): Promise<Crashing> {
  if (personality === "real") {
    const server = await DrachtioServer.start({ t1Ms });
    closings.add(() => server[Symbol.asyncDispose]());
    return server;
  }
  const folder = await temporaryFolder("engine");
  const [sip, control, admin] = [await claimPort(), await claimPort(), await claimPort()];
  const file = join(folder.path, "patchbay.yaml");
  await writeFile(join(folder.path, "secret"), `${secret}\n`, { mode: 0o600 });
  const config = {
    sip: {
      engine: "separate",
      listen: [{ protocol: "udp", address: "127.0.0.1", port: sip.port }],
      drachtio: { port: control.port, secretFile: "secret" },
      t1Ms,
    },
    engine: { sources: ["127.0.0.1"], admin: { port: admin.port }, strictParity: personality === "strict" },
  };
  await writeFile(file, JSON.stringify(config));
  let engine: RunningProcess | undefined;
  const start = async (): Promise<void> => {
    engine = await RunningProcess.start({
      name: "patchbay engine",
      command: "node",
      cwd: projectFolder,
      args: ["--import", "tsx", "src/main.ts", "engine", "--config", file],
      ready: (child) => child.output.includes('"msg":"ready"'),
      readyTimeoutMs: 30_000,
    });
  };
  const kill = async (): Promise<void> => {
    await engine?.kill();
  };
  closings.add(async () => {
    await kill();
    for (const one of [sip, control, admin, folder]) await one[Symbol.asyncDispose]();
  });
  await start();
  return { sipPort: sip.port, controlPort: control.port, kill, start };
}
