// A Patchbay that runs already, found by its configuration: the story is played against it as a caller would.
import { dirname, resolve } from "node:path";
import { z } from "zod";
import { loadConfig } from "../src/config/load.ts";
import { loadSecrets } from "../src/config/secrets.ts";
import { callsOf } from "../test/support/rtpengine.ts";
import { waitFor } from "../test/support/wait.ts";
import { longestGapMs, type Serving } from "./service.ts";

const readyTimeoutMs = 60_000;
/** Of `/readyz`, what is asked here. */
const readinessSchema = z.object({ anchors: z.record(z.string(), z.object({ calls: z.number() })) });

export interface FoundService extends Serving {
  /** What the story's caller dials: the user part of the URI. */
  readonly number: string;
  /** Where it calls phone numbers. */
  readonly gateway: { readonly host: string; readonly port: number };
}

/** `host:port`, as it stands on a command line. */
function hostAndPort(text: string): { readonly host: string; readonly port: number } {
  const [, host, port] = /^(.+?):(\d+)$/.exec(text) ?? [];
  if (host === undefined) throw new Error(`${text} is not an address with a port, such as 127.0.0.1:5060`);
  return { host, port: Number(port) };
}

const anchorsAt = async (url: string): Promise<z.infer<typeof readinessSchema>["anchors"]> =>
  readinessSchema.parse(await (await fetch(url)).json()).anchors;

/**
 * Reads the configuration and waits until the service says that it is ready. `sip` is where it takes calls, HOST:PORT.
 * Rejects when the bot has no channel with a number and a gateway, and when nobody is ready within a minute.
 */
export async function findService(file: string, botId: string, sip: string): Promise<FoundService> {
  const config = loadConfig(file, process.env);
  const channel = config.channels.find((candidate) => candidate.botId === botId);
  const gateway = config.trunks.find(({ id }) => id === channel?.trunk)?.gateways[0];
  const number = channel?.numbers[0];
  if (number === undefined || gateway === undefined)
    throw new Error(`${file} has no channel of the bot ${botId} with a number and a trunk with a gateway`);
  const { media, admin } = config;
  // The other secrets are the service's own, and may not be at hand here.
  const withRedisOnly = { ...config, trunks: [], sip: { ...config.sip, drachtio: undefined } };
  const secrets = loadSecrets(
    { ...withRedisOnly, media: { ...media, tts: { kind: "none" } } },
    process.env,
    dirname(resolve(file)),
  );
  const password = secrets.get("redis");
  const url = `http://${admin.address}:${admin.port}/readyz`;
  await waitFor(async () => (await fetch(url)).ok, {
    timeoutMs: readyTimeoutMs,
    intervalMs: 500,
    what: `a Patchbay that is ready at ${url}; is it running?`,
  });
  const rtpengineOf = (name: string): (typeof media.rtpengine)[number] | undefined =>
    media.rtpengine.find(({ host, port }) => name === `${host}:${port}`);
  return {
    number,
    gateway: { host: gateway.host, port: gateway.port ?? 5060 },
    redis: { url: config.redis.url, ...(password !== undefined && { password }) },
    sip: hostAndPort(sip),
    longestGapMs: Object.keys(await anchorsAt(url)).every((name) => rtpengineOf(name) !== undefined)
      ? longestGapMs.rtpengine
      : longestGapMs.freeswitch,
    mediaCalls: async () => {
      const counts = Object.entries(await anchorsAt(url)).map(async ([name, { calls }]) => {
        // An rtpengine tells by itself; of a FreeSWITCH Patchbay's own count is all there is without its password.
        const instance = rtpengineOf(name);
        return instance === undefined ? calls : (await callsOf(instance.port, instance.host)).length;
      });
      return (await Promise.all(counts)).reduce((sum, count) => sum + count, 0);
    },
    // Whether it ends is seen by those who started it; the story's own time limit covers it here.
    ended: new Promise(() => undefined),
    log: "",
    [Symbol.asyncDispose]: () => Promise.resolve(),
  };
}
