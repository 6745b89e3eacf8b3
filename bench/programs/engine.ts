// The engine in a process of its own, with a control port for drachtio-srf.
import { startEngine } from "../../src/engine/index.ts";
import { benchLimits, remains } from "./limits.ts";
import { setting, witness } from "./witness.ts";

const engine = await startEngine({
  listen: [{ protocol: "udp", address: "127.0.0.1", port: Number(setting("BENCH_SIP_PORT")) }],
  control: { address: "127.0.0.1", port: Number(setting("BENCH_CONTROL_PORT")), secret: setting("BENCH_SECRET") },
  sources: "any",
  limits: benchLimits,
});
witness(() => remains(engine));
