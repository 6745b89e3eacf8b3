// A case of the conformance suite speaks to a server under test through two sockets only: the control connection of an
// unmodified drachtio-srf, and SIP. So the embedded engine and a real drachtio-server can take the same case.
import { type EventEmitter, once } from "node:events";
import { createRequire } from "node:module";
import { connect, type Socket } from "node:net";

import {
  type Closings,
  type Packet,
  RawCall,
  RawCallee,
  RawPeer,
  sdp,
  secret,
  type SrfDialog,
  type SrfInstance,
  type SrfMessage,
  type SrfReply,
  startTestEngine,
} from "../integration/engine-support.ts";
import { drachtioSecret, DrachtioServer } from "../support/drachtio.ts";

/** `engine`: as Patchbay runs it. `strict`: with `strictParity`. `real`: a drachtio-server. */
export const personalities = ["engine", "strict", "real"] as const;
export type Personality = (typeof personalities)[number];

export interface ServerUnderTest {
  readonly personality: Personality;
  readonly sipPort: number;
  readonly controlPort: number;
  readonly secret: string;
  /** T1 of its transactions, in milliseconds. */
  readonly t1Ms: number;
  /** How long it waits for an ACK, or for an application, in milliseconds. A drachtio-server does not scale that with T1. */
  readonly patienceMs: number;
  /** Whether it still runs. */
  readonly alive: () => boolean;
}

async function startServer(
  personality: Personality,
  closings: Closings,
  wantedT1Ms: number | undefined,
): Promise<ServerUnderTest> {
  if (personality === "real") {
    const t1Ms = wantedT1Ms ?? 50;
    const server = await DrachtioServer.start({ t1Ms });
    closings.add(() => server[Symbol.asyncDispose]());
    return {
      personality,
      sipPort: server.sipPort,
      controlPort: server.controlPort,
      secret: drachtioSecret,
      t1Ms,
      patienceMs: 32_000,
      alive: () => server.exit === undefined,
    };
  }
  const { engine, port, t1Ms } = await startTestEngine(closings, {
    ...(personality === "strict" ? { strictParity: true } : {}),
    ...(wantedT1Ms === undefined ? {} : { t1Ms: wantedT1Ms }),
  });
  return {
    personality,
    sipPort: port,
    controlPort: engine.controlPort,
    secret,
    t1Ms,
    patienceMs: 64 * t1Ms,
    alive: () => true,
  };
}

const Srf = createRequire(import.meta.url)("drachtio-srf") as new () => SrfInstance;

/** What an application learns when it connects. */
export interface Connected {
  readonly srf: SrfInstance;
  readonly error: Error | null;
  readonly hostports: string;
  readonly version: string;
}

export class World {
  readonly server: ServerUnderTest;
  readonly peer: RawPeer;
  readonly closings: Closings;

  private constructor(server: ServerUnderTest, peer: RawPeer, closings: Closings) {
    this.server = server;
    this.peer = peer;
    this.closings = closings;
  }

  static async open(personality: Personality, closings: Closings, t1Ms?: number): Promise<World> {
    const server = await startServer(personality, closings, t1Ms);
    return new World(server, await RawPeer.open(closings), closings);
  }

  get sipPort(): number {
    return this.server.sipPort;
  }

  /** Time enough for something that the server does when its patience is at an end, in milliseconds. */
  get afterPatienceMs(): number {
    return this.server.patienceMs * 1.25 + 1_000;
  }

  /** Long enough for what comes at once, where a case has to see that nothing comes, in milliseconds. */
  get soonMs(): number {
    return 16 * this.server.t1Ms;
  }

  /** An unmodified drachtio-srf on the server, with whatever came of the connection. */
  async connecting(password = this.server.secret, port = this.server.controlPort): Promise<Connected> {
    const srf = new Srf();
    // Without a listener an ECONNRESET at the end of a case would be thrown (pitfall 15).
    srf.on("error", () => undefined);
    const connected = once(srf, "connect") as Promise<[Error | null, string, string]>;
    srf.connect({
      host: "127.0.0.1",
      port,
      secret: password,
      reconnect: { maxAttempts: 1 },
    });
    this.closings.add(() => {
      try {
        srf.disconnect();
      } catch {
        // The case has disconnected it itself.
      }
    });
    const [error, hostports, version] = await connected;
    return { srf, error, hostports, version };
  }

  /** A connected application; `prepare` says which requests it wants, and the server has heard it when this is over. */
  async application(prepare: (srf: SrfInstance) => void = () => {}): Promise<SrfInstance> {
    const { srf, error } = await this.connecting();
    if (error !== null) throw error;
    prepare(srf);
    await this.heard(srf);
    return srf;
  }

  /** Comes back when the server has worked on everything the application has sent: its frames are taken in order. */
  async heard(srf: SrfInstance): Promise<void> {
    const probe = await RawPeer.open(this.closings);
    const asked = srf.request(probe.uri, { method: "OPTIONS" });
    probe.reply(await probe.request("OPTIONS"), 200, "OK", { contact: "" });
    await asked;
  }

  /** The control port as bytes, for frames that drachtio-srf would not write. */
  async control(): Promise<ControlLine> {
    const socket = connect({ host: "127.0.0.1", port: this.server.controlPort, noDelay: true });
    await once(socket, "connect");
    this.closings.add(() => {
      socket.destroy();
    });
    return new ControlLine(socket);
  }

  call(user?: string): RawCall {
    return new RawCall(this.peer, this.sipPort, user);
  }

  /** A call from the peer, answered and acknowledged. */
  async incoming(headers: readonly string[] = []): Promise<Incoming> {
    const answered = deferred<SrfDialog>();
    const srf = await this.application((app) => {
      app.invite((req, res) => {
        app.createUAS(req, res, { localSdp: sdp(5000) }).then((dialog) => {
          dialog.once("ack", () => {
            answered.resolve(dialog);
          });
        }, answered.reject);
      });
    });
    const call = this.call();
    await call.invite({ body: sdp(4000), headers });
    call.send("ACK");
    return { srf, call, dialog: await answered.promise };
  }

  /** A call that the application has begun and nobody has answered yet. */
  async calling(options: object = {}, srf?: SrfInstance): Promise<Calling> {
    const app = srf ?? (await this.application());
    const sent = deferred<SrfMessage>();
    const provisional: SrfMessage[] = [];
    const dialog = app.createUAC(
      this.peer.uri,
      { localSdp: sdp(5000), ...options },
      {
        cbRequest: (error, req) => {
          if (error === null) sent.resolve(req);
          else sent.reject(new Error("refused", { cause: error }));
        },
        cbProvisional: (res) => provisional.push(res),
      },
    );
    // The case waits for it later; a rejection before that is no unhandled one.
    dialog.catch(() => undefined);
    const req = await sent.promise;
    return { srf: app, req, dialog, provisional, callee: new RawCallee(this.peer, await this.peer.request("INVITE")) };
  }

  /** A call to the peer, answered and acknowledged. */
  async outgoing(headers: readonly string[] = []): Promise<Outgoing> {
    const { srf, dialog, callee } = await this.calling();
    callee.reply(200, "OK", { body: sdp(4000), headers });
    const established = await dialog;
    const ack = await this.peer.request("ACK");
    return { srf, dialog: established, callee, ack };
  }

  /** The packet, or undefined when it has not come in that time; by default in the time of what comes at once. */
  async seen(fits: (packet: Packet) => boolean, timeoutMs = this.soonMs): Promise<Packet | undefined> {
    return this.peer.take("packet", fits, timeoutMs).catch(() => undefined);
  }
}

export interface Incoming {
  readonly srf: SrfInstance;
  readonly call: RawCall;
  readonly dialog: SrfDialog;
}

export interface Calling {
  readonly srf: SrfInstance;
  readonly req: SrfMessage;
  readonly dialog: Promise<SrfDialog>;
  readonly provisional: readonly SrfMessage[];
  readonly callee: RawCallee;
}

export interface Outgoing {
  readonly srf: SrfInstance;
  readonly callee: RawCallee;
  readonly dialog: SrfDialog;
  readonly ack: Packet;
}

/** A control connection that a case writes to byte by byte. */
export class ControlLine {
  readonly socket: Socket;
  received = "";
  closed = false;
  #wake = (): void => {};

  constructor(socket: Socket) {
    this.socket = socket;
    socket.on("error", () => undefined);
    socket.setEncoding("utf8");
    socket.on("data", (text: string) => {
      this.received += text;
      this.#wake();
    });
    socket.on("close", () => {
      this.closed = true;
      this.#wake();
    });
  }

  /** Waits until the condition holds or the time is over, and says whether it holds. */
  async until(condition: () => boolean, timeoutMs: number): Promise<boolean> {
    const deadline = performance.now() + timeoutMs;
    while (!condition() && performance.now() < deadline) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, deadline - performance.now());
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    return condition();
  }
}

export interface Deferred<T> {
  readonly promise: Promise<T>;
  readonly resolve: (value: T) => void;
  readonly reject: (reason: unknown) => void;
}

/** What Node 20 lacks of Promise.withResolvers. */
export function deferred<T>(): Deferred<T> {
  let resolve: (value: T) => void = () => {};
  let reject: (reason: unknown) => void = () => {};
  const promise = new Promise<T>((settle, fail) => {
    resolve = settle;
    reject = fail;
  });
  return { promise, resolve, reject };
}

export const frame = (message: string): string => `${Buffer.byteLength(message)}#${message}`;

/** What an event of a dialog or request comes with, or undefined when it has not come in that time. */
export async function event<T>(emitter: EventEmitter, name: string, timeoutMs: number): Promise<T | undefined> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => {
      resolve(undefined);
    }, timeoutMs);
    emitter.once(name, (first: T) => {
      clearTimeout(timer);
      resolve(first);
    });
  });
}

/** What came of a promise in that time: a word for its value, the status or message of its failure, or "never". */
export async function outcome(promise: Promise<unknown>, timeoutMs: number): Promise<string | number> {
  let timer: NodeJS.Timeout | undefined;
  const never = new Promise<"never">((resolve) => {
    timer = setTimeout(() => {
      resolve("never");
    }, timeoutMs);
  });
  const settled = promise.then(
    () => "success",
    (error: unknown) => {
      if (typeof error === "string") return error;
      const { status, message = "" } = error as { status?: number; message?: string };
      return status ?? message;
    },
  );
  try {
    return await Promise.race([settled, never]);
  } finally {
    clearTimeout(timer);
  }
}

/** Answers a request of the server under test as any user agent would. */
export function accept(peer: RawPeer, request: Packet | undefined): void {
  if (request !== undefined) peer.reply(request, 200, "OK", { contact: "" });
}

export type { SrfDialog, SrfInstance, SrfMessage, SrfReply };
