import type { MediaOptions } from "../options.ts";
import { messageOf } from "../media-error.ts";
import type { SwitchedCallOptions } from "../switching/call-options.ts";
import { type AnchorState, startAnchor, SwitchingAnchor } from "../switching/switching-anchor.ts";
import { AnchoredCall } from "./anchored-call.ts";
import { DtmfReceiver } from "./dtmf.ts";
import { InstancePool } from "./instances.ts";
import type { Instance } from "./instances.ts";
import { NgClient, NgError } from "./ng.ts";
import { ngCallPrefix } from "./ng-call.ts";

/** Calls that one rtpengine is asked for. */
const mostListed = 100_000;

/** The media anchor on rtpengine. Made by `startRtpengineAnchor`. */
export class RtpengineAnchor extends SwitchingAnchor<AnchoredCall> {
  readonly #options: MediaOptions;
  readonly #ng: NgClient;
  readonly #instances: InstancePool;
  readonly #dtmf: DtmfReceiver;
  /** The calls by their name in rtpengine. */
  readonly #byNgCall = new Map<string, AnchoredCall>();

  constructor(options: MediaOptions) {
    super(options);
    this.#options = options;
    const { log, clock } = options;
    this.#ng = new NgClient(options.commandTimeoutMs, log);
    this.#instances = new InstancePool({
      instances: options.instances,
      ng: this.#ng,
      pingMs: options.pingMs,
      lostAfterMs: options.lostAfterMs,
      clock,
      log,
      onLost: (instance) => this.#callsOf(instance).forEach((call) => call.lose("rtpengine does not answer")),
      onBack: (instance) => this.#callsOf(instance).forEach((call) => call.verify()),
    });
    this.#dtmf = new DtmfReceiver(log, ({ callId, tag, digit, durationMs }) => {
      this.#byNgCall.get(callId)?.digit(tag, digit, durationMs);
    });
  }

  override anchors(): readonly AnchorState[] {
    return this.#instances.all().map(({ host, port, healthy, calls }) => ({ name: `${host}:${port}`, healthy, calls }));
  }

  /** The port that key presses are expected on, for rtpengine's `--dtmf-log-dest`. */
  get dtmfPort(): number {
    return this.#dtmf.port;
  }

  protected override async startServers(): Promise<void> {
    const { dtmf } = this.#options;
    await this.#dtmf.start(dtmf.address, dtmf.port);
    await this.#instances.start();
  }

  protected override stopServers(): void {
    this.#instances.close();
  }

  protected override async closeServers(): Promise<void> {
    await this.#dtmf.close();
    this.#ng.close();
  }

  protected override get anyServer(): boolean {
    return this.#instances.anyHealthy;
  }

  protected override get strayReplies(): number {
    return this.#ng.strays;
  }

  protected override get spoolFolders(): ReadonlySet<string> {
    return new Set(this.#instances.all().map((instance) => this.#spoolFolderOf(instance)));
  }

  override async releaseLeft(calls: readonly string[]): Promise<void> {
    if (calls.length === 0) return;
    for (const instance of this.#instances.all()) {
      try {
        const { calls: known } = await this.#ng.request(instance, "list", { limit: mostListed });
        const held = Array.isArray(known) ? known.filter((id): id is string => typeof id === "string") : [];
        const left = held.filter((id) => calls.some((call) => id.startsWith(ngCallPrefix(call))));
        for (const id of left) await this.#ng.request(instance, "delete", { "call-id": id, "delete-delay": 0 });
      } catch (error) {
        this.#options.log.warn(
          { error: messageOf(error) },
          "rtpengine could not be told that calls of a crash are over",
        );
      }
    }
  }

  /** False too when an rtpengine that writes to this folder cannot be asked. */
  protected override async isOver(ngCall: string, folder: string): Promise<boolean> {
    const answers = await Promise.all(
      this.#instances.all().map(async (instance) => {
        try {
          await this.#ng.request(instance, "query", { "call-id": ngCall });
          return false;
        } catch (error) {
          const unknown = error instanceof NgError && error.unknownCall;
          return unknown || this.#spoolFolderOf(instance) !== folder;
        }
      }),
    );
    return answers.every(Boolean);
  }

  #spoolFolderOf(instance: Instance): string {
    return instance.spoolFolder ?? this.#options.recording?.spoolFolder ?? "";
  }

  #callsOf(instance: Instance): readonly AnchoredCall[] {
    return [...this.calls.values()].filter((call) => call.server === instance);
  }

  protected override newCall(options: SwitchedCallOptions): AnchoredCall {
    const anchored = new AnchoredCall({
      ...options,
      ng: this.#ng,
      chooseInstance: (except) => this.#instances.choose(except),
      answered: (instance) => this.#instances.answered(instance),
      parkingAddress: this.#options.parkingAddress,
    });
    this.#byNgCall.set(anchored.ngCall, anchored);
    return anchored;
  }

  protected override forget(anchored: AnchoredCall): void {
    this.#byNgCall.delete(anchored.ngCall);
  }
}

/** Makes a media anchor and starts it. Rejects when it cannot run at all; an rtpengine that is away is waited for. */
export async function startRtpengineAnchor(options: MediaOptions): Promise<RtpengineAnchor> {
  return startAnchor(new RtpengineAnchor(options));
}
