import { randomUUID } from "node:crypto";
import Mrf from "drachtio-fsmrf";
import type { Endpoint, EslConnection, EslEvent, MediaServer } from "drachtio-fsmrf";
import { MediaError, messageOf } from "../media-error.ts";
import type { FreeswitchServer, MediaClock, MediaLog, MediaSip, MediaSipDialog } from "../options.ts";
import { probe } from "./event-socket.ts";

// The only file that imports drachtio-fsmrf. What is done here against the library's pitfalls says so with "fsmrf:", and
// test/unit/media-fsmrf.test.ts fails when the library does not need it any more.

/** Events of a channel beyond those that the library asks for itself. */
const moreEvents = "CHANNEL_PARK CHANNEL_BRIDGE";
const legHeader = "X-Patchbay-Leg";

export interface FsmrfOptions {
  readonly server: FreeswitchServer;
  readonly sip: MediaSip;
  readonly commandTimeoutMs: number;
  readonly clock: MediaClock;
  readonly log: MediaLog;
  /** The connection is gone. Called at most once. */
  readonly onEnd: () => void;
}

/** Rejects with `error` when `work` takes longer. */
async function within<T>(clock: MediaClock, ms: number, what: string, work: Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const deadline = clock.after(ms, () => reject(new MediaError("timeout", `${what} took longer than ${ms} ms`)));
    work.then(
      (value) => {
        deadline.cancel();
        resolve(value);
      },
      (error: unknown) => {
        deadline.cancel();
        reject(error instanceof Error ? error : new Error(String(error)));
      },
    );
  });
}

/**
 * fsmrf: writes a command in two pieces. By itself the kernel keeps the second until the first has been acknowledged, which
 * FreeSWITCH's kernel does 40 ms later: so long would every command take.
 */
function sendAtOnce(connection: EslConnection | null): void {
  connection?.socket?.setNoDelay(true);
}

/** One connection to one FreeSWITCH, until it breaks. */
export class FsmrfConnection {
  readonly #options: FsmrfOptions;
  /** Dialogs of channels that are being made, by the header that names them. */
  readonly #dialogs = new Map<string, MediaSipDialog>();
  #server: MediaServer | undefined;
  #ended = false;

  private constructor(options: FsmrfOptions) {
    this.#options = options;
  }

  /** Rejects when it does not answer, refuses the password or has no such SIP profile. */
  static async open(options: FsmrfOptions): Promise<FsmrfConnection> {
    const connection = new FsmrfConnection(options);
    await connection.#open();
    return connection;
  }

  async #open(): Promise<void> {
    const { server, clock, commandTimeoutMs } = this.#options;
    // fsmrf: a connection that is refused is tried again for ever behind our back, a wrong password is never answered, and
    // without the SIP profile the library throws out of a socket callback, which ends the process. So all of that is found
    // out before it is asked.
    await probe(server, Math.max(2_000, commandTimeoutMs), clock);
    const { host, port, password, profile, listenAddress, listenPort, advertisedAddress } = server;
    const mrf = new Mrf({
      createUAC: (uri: string, order: { readonly headers: Record<string, string>; readonly localSdp: string }) =>
        this.#invite(uri, order.headers, order.localSdp),
    });
    const connecting = mrf.connect({
      address: host,
      port,
      secret: password,
      listenAddress,
      listenPort,
      ...(advertisedAddress === undefined ? {} : { advertisedAddress }),
      profile,
    });
    // A connection that comes late would stay.
    connecting.then(
      (late) => {
        if (this.#ended) late.disconnect();
      },
      () => undefined,
    );
    try {
      this.#server = await within(clock, Math.max(2_000, commandTimeoutMs), "the connection", connecting);
    } catch (error) {
      this.#ended = true;
      throw error;
    }
    sendAtOnce(this.#server.conn);
    this.#server.once("end", () => this.#end());
    // fsmrf: an `error` without a listener would end the process.
    this.#server.on("error", () => undefined);
  }

  /** Calls of everybody in this FreeSWITCH, and how many it takes; 0 and 0 before its first heartbeat. */
  get load(): { readonly calls: number; readonly most: number } {
    return { calls: this.#server?.currentSessions ?? 0, most: this.#server?.maxSessions ?? 0 };
  }

  /** Sends a command that belongs to no channel; resolves with what it prints. */
  async api(command: string): Promise<string> {
    const server = this.#server;
    if (server === undefined || this.#ended) throw new MediaError("media_lost", "no connection to FreeSWITCH");
    const { clock, commandTimeoutMs } = this.#options;
    // fsmrf: a command whose answer is lost with its connection never settles.
    return within(clock, commandTimeoutMs, command.split(" ")[0] ?? "", server.api(command));
  }

  /** Makes a channel whose peer has this description. Rejects when FreeSWITCH does not take it. */
  async channel(sdp: string): Promise<Channel> {
    const server = this.#server;
    if (server === undefined || this.#ended) throw new MediaError("media_lost", "no connection to FreeSWITCH");
    const { clock, commandTimeoutMs } = this.#options;
    const name = randomUUID();
    const making = server.createEndpoint({ remoteSdp: sdp, headers: { [legHeader]: name } });
    let late = false;
    making.then(
      () => late && void this.#release(name),
      () => undefined,
    );
    try {
      // fsmrf: never settles when FreeSWITCH closes the channel's connection at once.
      const endpoint = await within(clock, 2 * commandTimeoutMs + 4_000, "a channel", making);
      const dialog = this.#dialogs.get(name);
      if (dialog === undefined) throw new MediaError("media_lost", "the channel's dialog is gone");
      this.#dialogs.delete(name);
      return new Channel(endpoint, dialog, clock, commandTimeoutMs);
    } catch (error) {
      late = true;
      await this.#release(name);
      throw error instanceof MediaError ? error : new MediaError("refused", messageOf(error), { cause: error });
    }
  }

  async #invite(uri: string, headers: Record<string, string>, sdp: string): Promise<object> {
    const name = headers[legHeader] ?? "";
    const dialog = await this.#options.sip.open(uri, headers, sdp);
    this.#dialogs.set(name, dialog);
    return { destroy: () => void this.#release(name), once: () => undefined };
  }

  async #release(name: string): Promise<void> {
    const dialog = this.#dialogs.get(name);
    this.#dialogs.delete(name);
    await dialog?.bye();
  }

  #end(): void {
    if (this.#ended) return;
    this.close();
    this.#options.onEnd();
  }

  /** Channels that were made stay as they are. */
  close(): void {
    if (this.#ended) return;
    this.#ended = true;
    try {
      this.#server?.disconnect();
    } catch (error) {
      // fsmrf: throws when the connection is gone already.
      this.#options.log.debug({ error: messageOf(error) }, "a connection to FreeSWITCH was closed twice");
    }
  }
}

type ChannelEvent = "CHANNEL_PARK" | "CHANNEL_BRIDGE";

/** One channel of a FreeSWITCH and the SIP dialog with it. */
export class Channel {
  readonly uuid: string;
  readonly #endpoint: Endpoint;
  readonly #dialog: MediaSipDialog;
  readonly #clock: MediaClock;
  readonly #timeoutMs: number;
  readonly #waiting = new Map<ChannelEvent, Set<() => void>>();
  #onDigit: (digit: string, durationMs: number) => void = () => undefined;
  #onGone: (reason: string) => void = () => undefined;
  #gone = false;

  constructor(endpoint: Endpoint, dialog: MediaSipDialog, clock: MediaClock, timeoutMs: number) {
    this.uuid = endpoint.uuid;
    this.#endpoint = endpoint;
    this.#dialog = dialog;
    this.#clock = clock;
    this.#timeoutMs = timeoutMs;
    endpoint.on("dtmf", ({ dtmf, duration }: { readonly dtmf?: string | null; readonly duration?: string | null }) => {
      // Counted in samples of 8000 Hz.
      const ms = Math.round(Number(duration) / 8);
      if (typeof dtmf === "string" && /^[0-9*#A-D]$/.test(dtmf)) this.#onDigit(dtmf, ms > 0 ? ms : 0);
    });
    endpoint.once("destroy", () => this.#lose("FreeSWITCH has ended the channel"));
    dialog.onEnded(() => this.#lose("FreeSWITCH has ended the dialog"));
    sendAtOnce(endpoint.conn);
    endpoint.conn?.subscribe(moreEvents);
    for (const event of ["CHANNEL_PARK", "CHANNEL_BRIDGE"] as const) {
      endpoint.conn?.on(`esl::event::${event}::${this.uuid}`, (arrived) => {
        // The first parking is the library's own, within `socket`, and may be told when ours is waited for.
        if (event === "CHANNEL_PARK" && arrived.getHeader("variable_current_application") !== "park") return;
        for (const run of this.#waiting.get(event) ?? []) run();
      });
    }
  }

  /** How FreeSWITCH describes its end. */
  get sdp(): string {
    return this.#dialog.sdp;
  }

  get gone(): boolean {
    return this.#gone;
  }

  listen(onDigit: (digit: string, durationMs: number) => void, onGone: (reason: string) => void): void {
    this.#onDigit = onDigit;
    this.#onGone = onGone;
    if (this.#gone) onGone("FreeSWITCH has ended the channel");
  }

  /** The peer has another description now; resolves with FreeSWITCH's answer. */
  async modify(sdp: string): Promise<string> {
    return this.#dialog.modify(sdp);
  }

  /** Sends a command about this channel. Resolves with what it prints; rejects when that is an error. */
  async command(verb: string, ...args: readonly string[]): Promise<string> {
    return this.#ask(verb, [this.uuid, ...args]);
  }

  /** FreeSWITCH ends the channel by itself when it has not been told this again for so long. */
  async keepFor(seconds: number): Promise<void> {
    // In that order: one connection's commands are carried out one after the other.
    await Promise.all([this.#ask("sched_del", [this.uuid]), this.#ask("sched_hangup", [`+${seconds}`, this.uuid])]);
  }

  async #ask(verb: string, args: readonly string[]): Promise<string> {
    const { conn } = this.#endpoint;
    if (conn === null || this.#gone) throw new MediaError("media_lost", "the channel is gone");
    const asked = new Promise<EslEvent>((resolve) => {
      conn.api(verb, args.join(" "), resolve);
    });
    // fsmrf: a command whose answer is lost with its connection never settles.
    const body = (await within(this.#clock, this.#timeoutMs, verb, asked)).getBody()?.trim() ?? "";
    if (/^-(ERR|USAGE)/.test(body)) throw new MediaError("refused", `${verb}: ${body}`);
    return body;
  }

  /** Resolves when `event` has come after `run` was begun, and `run` has succeeded. */
  async until(event: ChannelEvent, run: () => Promise<unknown>): Promise<void> {
    const waiting = this.#waiting.get(event) ?? new Set();
    this.#waiting.set(event, waiting);
    let came = (): void => undefined;
    const coming = new Promise<void>((resolve) => {
      came = resolve;
    });
    waiting.add(came);
    try {
      await run();
      await within(this.#clock, this.#timeoutMs, event, coming);
    } finally {
      waiting.delete(came);
    }
  }

  /** Ends the channel. Resolves always. */
  async hangUp(): Promise<void> {
    this.#gone = true;
    this.#onGone = () => undefined;
    this.#onDigit = () => undefined;
    await this.#dialog.bye();
  }

  #lose(reason: string): void {
    if (this.#gone) return;
    this.#gone = true;
    this.#onGone(reason);
  }
}
