import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { messageOf } from "../media-error.ts";
import type { FreeswitchOptions } from "../options.ts";
import { freeswitchRate } from "../prompts/convert.ts";
import type { SwitchedCallOptions } from "../switching/call-options.ts";
import { type AnchorState, startAnchor, SwitchingAnchor } from "../switching/switching-anchor.ts";
import { ServerPool } from "./servers.ts";
import type { Server } from "./servers.ts";
import { BridgedCall, callVariable, segmentFolder, usualLeaseMs } from "./bridged-call.ts";

/** FreeSWITCH, which may run as another user of the same group, writes there. */
const segmentMode = 0o2770;

/** The media anchor on FreeSWITCH. Made by `startFreeswitchAnchor`. */
export class FreeswitchAnchor extends SwitchingAnchor<BridgedCall> {
  readonly #options: FreeswitchOptions;
  readonly #servers: ServerPool;

  constructor(given: FreeswitchOptions) {
    const options = inOwnFolders(given);
    super(options);
    this.#options = options;
    const { servers, sip, commandTimeoutMs, pingMs, lostAfterMs, clock, log } = options;
    this.#servers = new ServerPool({
      servers,
      sip,
      commandTimeoutMs,
      pingMs,
      lostAfterMs,
      clock,
      log,
      onLost: (server) => {
        for (const call of this.calls.values()) {
          if (call.server === server) call.lose("FreeSWITCH does not answer");
        }
      },
    });
  }

  override anchors(): readonly AnchorState[] {
    return this.#servers
      .all()
      .map(({ host, port, connection, calls }) => ({ name: `${host}:${port}`, healthy: connection !== null, calls }));
  }

  protected override async startServers(): Promise<void> {
    const spool = this.#options.recording?.spoolFolder;
    if (spool !== undefined) {
      // Where that fails, asking for a recording does too.
      await mkdir(join(spool, segmentFolder), { recursive: true, mode: segmentMode }).catch((error: unknown) => {
        this.#options.log.error({ error: messageOf(error) }, "the spool folder cannot be used: recordings will fail");
      });
    }
    await this.#servers.start();
  }

  protected override stopServers(): void {
    this.#servers.close();
  }

  protected override async closeServers(): Promise<void> {
    this.#servers.disconnect();
  }

  protected override get anyServer(): boolean {
    return this.#servers.anyHealthy;
  }

  /** Answers come over TCP and in order. */
  protected override get strayReplies(): number {
    return 0;
  }

  protected override get spoolFolders(): ReadonlySet<string> {
    return new Set(this.#options.recording === null ? [] : [this.#options.recording.spoolFolder]);
  }

  protected override async isOver(uuid: string): Promise<boolean> {
    const answers = await Promise.all(this.#servers.all().map((server) => this.#lacks(server, uuid)));
    return answers.every(Boolean);
  }

  async #lacks({ connection }: Server, uuid: string): Promise<boolean> {
    // One that is away may still hold the call.
    if (connection === null) return false;
    try {
      return (await connection.api(`uuid_exists ${uuid}`)).trim() === "false";
    } catch {
      return false;
    }
  }

  override async releaseLeft(calls: readonly string[]): Promise<void> {
    for (const { connection } of this.#servers.all()) {
      try {
        for (const call of calls) await connection?.api(`hupall NORMAL_CLEARING ${callVariable} ${call}`);
      } catch (error) {
        const fields = { error: messageOf(error) };
        this.#options.log.warn(fields, "FreeSWITCH could not be told that calls of a crash are over");
      }
    }
  }

  protected override newCall(options: SwitchedCallOptions): BridgedCall {
    const { leaseMs = usualLeaseMs } = this.#options;
    return new BridgedCall({ ...options, leaseMs, chooseServer: (except) => this.#servers.choose(except) });
  }
}

/** Prompts and recordings of an anchor on rtpengine, beside this one or in an earlier life of the service, are left alone. */
function inOwnFolders(options: FreeswitchOptions): FreeswitchOptions {
  const { prompts, recording } = options;
  const below = (folder: string): string => join(folder, "freeswitch");
  return {
    ...options,
    prompts: { ...prompts, cacheFolder: below(prompts.cacheFolder), rate: freeswitchRate },
    recording: recording === null ? null : { ...recording, spoolFolder: below(recording.spoolFolder) },
  };
}

/** Makes a media anchor and starts it. Rejects when it cannot run at all; a FreeSWITCH that is away is waited for. */
export async function startFreeswitchAnchor(options: FreeswitchOptions): Promise<FreeswitchAnchor> {
  return startAnchor(new FreeswitchAnchor(options));
}
