import { setTimeout as sleep } from "node:timers/promises";

import { AdminServer } from "./admin/http.ts";
import { listenerTls } from "./config/certificates.ts";
import { ConfigError } from "./config/problem.ts";
import type { Config } from "./config/schema.ts";
import type { Secrets } from "./config/secrets.ts";
import { engineFigures } from "./engine-figures.ts";
import { type Engine, type EngineOptions, startEngine } from "./engine/index.ts";
import { Disposal } from "./lib/disposal.ts";
import { addressBits, networkContains, parseIpNetwork } from "./lib/ip-network.ts";
import type { Log } from "./telemetry/log.ts";
import { figuresPage } from "./telemetry/metrics.ts";
import { TrunkTable } from "./trunk/table.ts";

/** The SIP engine in a process of its own: calls survive a crash of the application that serves them. */
export interface EngineProcess extends AsyncDisposable {
  readonly listening: Engine["listening"];
  readonly adminPort: number;
  /** Dialogs held now. */
  readonly calls: number;
  /**
   * Takes no new calls (503) and resolves when the last dialog is over and no answer can come any more, which is 64*T1 later
   * (32 s), or after `timeoutMs`.
   */
  drain(timeoutMs: number): Promise<void>;
}

const drainCheckMs = 100;

/**
 * Starts the engine on `sip.listen` and its control port on `sip.drachtio`.
 * Rejects with ConfigError when the configuration wants no separate engine, and when an address is in use.
 */
export async function createEngineProcess(
  config: Config,
  secrets: Secrets,
  { log }: { readonly log: Log },
): Promise<EngineProcess> {
  const { sip, engine: own } = config;
  if (sip.engine !== "separate" || sip.drachtio === undefined) {
    const message = "`patchbay engine` serves a configuration with `sip.engine: separate`: set it";
    throw new ConfigError([{ path: "sip.engine", message }]);
  }
  await using disposal = new Disposal();
  const { host, port } = sip.drachtio;
  if (!isPrivate(host)) {
    log.warn(
      { host, port },
      "the control port may be reached from the internet: whoever knows the secret makes and ends calls, and nothing on it is encrypted",
    );
  }
  const engine = await startEngine({
    ...engineOptions(config, log),
    control: { address: host, port, secret: secrets.get("sip.drachtio") ?? "" },
    sources: own.sources ?? new TrunkTable(config).allowedSources(),
    orphanGraceMs: own.orphanGraceMs,
    waitMs: own.waitMs,
    applications: own.applications,
    strictParity: own.strictParity,
  });
  disposal.defer(() => engine.close());
  const admin = new AdminServer({
    ...own.admin,
    state: () => {
      const application = own.applications.length > 0 || engine.stats().wire.clients > 0;
      return { ready: application, parts: { application } };
    },
    metrics: figuresPage(engineFigures, () => engine.stats()),
  });
  const adminPort = await admin.start();
  disposal.defer(() => admin.close());
  log.info({ host, port: engine.controlPort }, "applications may connect");

  const closing = disposal.move();
  return {
    listening: engine.listening,
    adminPort,
    get calls() {
      return engine.stats().agent.dialogs;
    },
    async drain(timeoutMs) {
      engine.drain();
      const deadline = performance.now() + timeoutMs;
      let told = false;
      while (performance.now() < deadline) {
        const { dialogs, incoming, outgoing } = engine.stats().agent;
        const requests = incoming + outgoing;
        if (dialogs + requests === 0) return;
        if (dialogs === 0 && !told) {
          told = true;
          // RFC 3261 §13.2.2.4, §17.1.1.2: an answer to a request of ours may come, or come again, for 64*T1.
          log.info(
            { requests, atMostMs: 64 * sip.t1Ms },
            "no call is left: answers that may still come are waited for; a second signal ends that",
          );
        }
        await sleep(drainCheckMs);
      }
    },
    [Symbol.asyncDispose]: () => closing[Symbol.asyncDispose](),
  };
}

/** What an engine in this process and one in its own have in common. */
export function engineOptions(config: Config, log: Log): Omit<EngineOptions, "control" | "sources"> {
  const { listen, externalAddress, t1Ms } = config.sip;
  const engineLog = log.child({ part: "engine" });
  return {
    listen: listen.map(({ protocol, address, port }, index) => ({
      protocol,
      address,
      port: port ?? (protocol === "tls" ? 5061 : 5060),
      tls: listenerTls(config, index),
    })),
    externalAddress,
    t1Ms,
    log: {
      debug: (text, fields = {}) => engineLog.debug(fields, text),
      info: (text, fields = {}) => engineLog.info(fields, text),
      warn: (text, fields = {}) => engineLog.warn(fields, text),
      error: (text, fields = {}) => engineLog.error(fields, text),
    },
  };
}

/** RFC 1918, RFC 6598, RFC 4193, loopback and link-local: not reached from the internet. */
const privateNetworks = [
  "127.0.0.0/8",
  "10.0.0.0/8",
  "172.16.0.0/12",
  "192.168.0.0/16",
  "100.64.0.0/10",
  "169.254.0.0/16",
  "::1",
  "fc00::/7",
  "fe80::/10",
].flatMap((text) => parseIpNetwork(text) ?? []);

/** A name is looked up by whoever listens, so that only `localhost` is known to stay here. */
function isPrivate(host: string): boolean {
  const address = parseIpNetwork(host);
  return (
    host === "localhost" ||
    (address !== undefined &&
      addressBits(host) !== undefined &&
      privateNetworks.some((network) => networkContains(network, address)))
  );
}
