// A media anchor on the FreeSWITCH that the environment names, with a signalling engine of its own for the SIP towards it.
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { startEngine } from "../../src/engine/index.ts";
import { systemClock } from "../../src/lib/clock.ts";
import { startFreeswitchAnchor } from "../../src/media/freeswitch/anchor.ts";
import type { FreeswitchAnchor } from "../../src/media/freeswitch/anchor.ts";
import type { FreeswitchOptions, FreeswitchServer } from "../../src/media/options.ts";
import { MediaDialogs } from "../../src/sip/media-dialogs.ts";
import { EngineLink } from "../../src/sip/srf.ts";
import { silentLog } from "../../src/telemetry/log.ts";
import { DisposalStack } from "../support/disposal.ts";
import { channelsIn, type FreeswitchPlace, freeswitchPlace, noFreeswitch } from "../support/freeswitch.ts";
import { waitFor } from "../support/wait.ts";
import { buildStage, recordingFolderOf } from "./media-support.ts";
import type { MediaStage } from "./media-support.ts";

const secret = "a-secret-of-the-test";

export interface FreeswitchStage extends MediaStage {
  readonly anchor: FreeswitchAnchor;
  readonly options: FreeswitchOptions;
  /** Dialogs with FreeSWITCH. */
  readonly dialogs: () => number;
}

/** A FreeSWITCH, else that of the environment, as a service is told of it. */
export function testServer(
  change: Partial<FreeswitchServer> = {},
  place: FreeswitchPlace | undefined = freeswitchPlace,
): FreeswitchServer {
  if (place === undefined) throw new Error(noFreeswitch);
  const listen = { listenAddress: "127.0.0.1", listenPort: 0 } as const;
  return { ...place, profile: "drachtio_mrf", ...listen, ...change };
}

/** A stage on the FreeSWITCH of the environment, or on another one. */
export async function startFreeswitchStage(
  change: Partial<FreeswitchOptions> = {},
  server: FreeswitchServer = testServer(),
): Promise<FreeswitchStage> {
  await using resources = new DisposalStack();
  const engine = await startEngine({
    listen: [{ protocol: "udp", address: "127.0.0.1", port: 0 }],
    control: { address: "127.0.0.1", port: 0, secret },
    sources: ["127.0.0.1"],
  });
  resources.use({ [Symbol.asyncDispose]: () => engine.close() });
  const link = new EngineLink({
    host: "127.0.0.1",
    port: engine.controlPort,
    secret,
    connectTimeoutMs: 5_000,
    pingMs: 0,
    replyTimeoutMs: 33_000,
    clock: systemClock,
    log: silentLog,
    onInvite: (invite) => invite.respond(603),
    onRequest: (request) => request.respond(405),
    onState: () => undefined,
  });
  resources.use({
    [Symbol.asyncDispose]: async () => {
      try {
        await waitFor(() => link.stats().dialogs === 0, { what: "the dialogs with FreeSWITCH to end" });
      } finally {
        link.close();
      }
    },
  });
  await link.start();
  const sip = new MediaDialogs(link, systemClock, 4_000);
  let options: FreeswitchOptions | undefined;
  const stage = await buildStage(resources, async (common, folder) => {
    const spoolFolder = join(folder, "spool");
    await mkdir(spoolFolder);
    options = {
      ...common,
      commandTimeoutMs: 2_000,
      servers: [server],
      sip,
      recording: { folder: recordingFolderOf(folder), spoolFolder, mostRenders: 1, mostWaiting: 100 },
      ...change,
    };
    return {
      anchor: await startFreeswitchAnchor(options),
      spoolFolder,
      held: () => channelsIn(server),
    };
  });
  if (options === undefined) throw new Error("the stage was built without options");
  return { ...stage, options, dialogs: () => link.stats().dialogs };
}
