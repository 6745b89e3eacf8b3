// The base B2BUA: the idiom of drachtio-srf's README, so that engines are compared under the same
// application. BENCH_EMBEDDED=1 runs the engine in the same process, else BENCH_CONTROL_PORT says where one listens.
import type { EventEmitter } from "node:events";
import { createRequire } from "node:module";
import { Server } from "node:net";
import type { Socket } from "node:net";

import { startEngine } from "../../src/engine/index.ts";
import { benchLimits, remains } from "./limits.ts";
import { setting, witness } from "./witness.ts";

interface SrfDialog extends EventEmitter {
  readonly connected: boolean;
  destroy(): Promise<unknown>;
}

interface Srf extends EventEmitter {
  readonly app: { readonly client: { routeVerbs(socket: Socket): void } };
  connect(options: { host: string; port: number; secret: string }): void;
  listen(options: { server: Server; secret: string }): void;
  invite(handler: (req: { body: string }, res: object) => void): void;
  createB2BUA(req: object, res: object, uri: string, options: object): Promise<{ uas: SrfDialog; uac: SrfDialog }>;
}

const secret = setting("BENCH_SECRET");
const target = `sip:callee@127.0.0.1:${setting("BENCH_CALLEE_PORT")}`;
const embedded = process.env["BENCH_EMBEDDED"] === "1";
const engine = embedded
  ? await startEngine({
      listen: [{ protocol: "udp", address: "127.0.0.1", port: Number(setting("BENCH_SIP_PORT")) }],
      control: { address: "127.0.0.1", port: 0, secret },
      sources: "any",
      limits: benchLimits,
      t1Ms: Number(process.env["BENCH_T1_MS"] ?? 500),
    })
  : undefined;

let failed = 0;
const srf = new (createRequire(import.meta.url)("drachtio-srf") as new () => Srf)();

async function bridge(req: { body: string }, res: object): Promise<void> {
  try {
    const { uas, uac } = await srf.createB2BUA(req, res, target, { localSdpB: req.body });
    // Beyond the idiom: a BYE in the same read as the answer before it has been served by now, and nobody was listening.
    if (!uas.connected || !uac.connected) {
      await Promise.all([uas, uac].filter(({ connected }) => connected).map((leg) => leg.destroy()));
      return;
    }
    uas.on("destroy", () => void uac.destroy().catch(() => (failed += 1)));
    uac.on("destroy", () => void uas.destroy().catch(() => (failed += 1)));
  } catch {
    failed += 1;
  }
}

srf.invite((req, res) => void bridge(req, res));
srf.on("error", (error: unknown) => {
  console.error(error);
});
srf.once("connect", () => {
  witness((): Readonly<Record<string, number>> => {
    if (engine === undefined) {
      return { failed };
    }
    return { failed, ...remains(engine) };
  });
});
if (engine === undefined) {
  srf.connect({ host: "127.0.0.1", port: Number(setting("BENCH_CONTROL_PORT")), secret });
} else {
  // As src/sip/srf.ts does it: over a stream in this process.
  const server = new Server();
  const socket = engine.connection();
  srf.once("connect", () => {
    srf.app.client.routeVerbs(socket);
  });
  srf.listen({ server, secret });
  server.emit("connection", socket);
}
