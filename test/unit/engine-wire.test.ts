import { once } from "node:events";
import { createServer } from "node:net";
import type { AddressInfo, Socket } from "node:net";

import { afterEach, describe, expect, it } from "vitest";

import { Counters } from "../../src/engine/counters.ts";
import type { LostClient, SipCommand, SipCommands } from "../../src/engine/events.ts";
import { defaultLimits, silentLog } from "../../src/engine/options.ts";
import type { EngineLimits } from "../../src/engine/options.ts";
import { systemClock, systemRandom } from "../../src/engine/timers.ts";
import { encodeFrame } from "../../src/engine/wire/frame.ts";
import { WireServer } from "../../src/engine/wire/server.ts";
import type { WireServerParts } from "../../src/engine/wire/server.ts";
import { ManualClock } from "./engine-clock.ts";
import { RawApp } from "../support/raw-app.ts";

const peer = { protocol: "udp", address: "192.0.2.9", port: 5070 } as const;

type Called =
  | { readonly type: "respond" | "cancel"; readonly command: SipCommand; readonly id: string }
  | { readonly type: "inDialog"; readonly command: SipCommand; readonly id: string }
  | { readonly type: "outOfDialog"; readonly command: SipCommand; readonly id: string | undefined }
  | { readonly type: "gone"; readonly client: number };

class FakeCore implements SipCommands {
  readonly called: Called[] = [];
  readonly ready: number[] = [];
  readonly busy = new Set<number>();
  readonly routes: string[] = [];
  respond(command: SipCommand, id: string): void {
    this.called.push({ type: "respond", command, id });
  }
  cancel(command: SipCommand, id: string): void {
    this.called.push({ type: "cancel", command, id });
  }
  requestInDialog(command: SipCommand, id: string): void {
    this.called.push({ type: "inDialog", command, id });
  }
  requestOutOfDialog(command: SipCommand, id: string | undefined): void {
    this.called.push({ type: "outOfDialog", command, id });
  }
  clientReady(client: number): void {
    this.ready.push(client);
  }
  busyClients(): ReadonlySet<number> {
    return this.busy;
  }
  routed(verb: string): void {
    this.routes.push(verb);
  }
  clientGone({ client }: LostClient): void {
    this.called.push({ type: "gone", client });
  }
}

const open: { close: () => Promise<void> | void }[] = [];

afterEach(async () => {
  for (const one of open.splice(0).toReversed()) {
    await one.close();
  }
});

const inbound = {
  imitates: () => false,
  outbound: { targets: [], connectMs: 1000, authenticationMs: 1000, idleMs: 1000 },
} as const;

async function start(
  limits: Partial<EngineLimits> = {},
  options: Partial<WireServerParts> = {},
): Promise<{
  server: WireServer;
  core: FakeCore;
  port: number;
  app: () => RawApp;
}> {
  const core = new FakeCore();
  const server = new WireServer(
    {
      address: "127.0.0.1",
      port: 0,
      secret: "cymru",
      limits: { ...defaultLimits, ...limits },
      clock: systemClock,
      random: systemRandom,
      log: silentLog,
      counters: new Counters(),
      hostports: () => ({ advertised: ["udp/203.0.113.1:5060"], local: ["udp/127.0.0.1:5060", "tcp/127.0.0.1:5060"] }),
      ...inbound,
      ...options,
    },
    core,
  );
  const port = await server.start();
  open.push(server);
  return {
    server,
    core,
    port,
    app: () => {
      const app = new RawApp(port);
      open.push({
        close: () => {
          app.socket.destroy();
        },
      });
      return app;
    },
  };
}

describe("authentication on the control port", () => {
  it("answers OK with advertised addresses, version and local addresses", async () => {
    const { app } = await start();
    expect(await app().authenticate()).toEqual([
      "response",
      "auth-1",
      "OK",
      "udp/203.0.113.1:5060",
      "v0.9.9-patchbay",
      "udp/127.0.0.1:5060,tcp/127.0.0.1:5060",
    ]);
  });

  it("answers a wrong secret NO and closes", async () => {
    const { app, server } = await start();
    const one = app();
    expect(await one.authenticate("wrong")).toEqual(["response", "auth-1", "NO", "incorrect secret"]);
    await one.until(() => one.closed);
    await expect.poll(() => server.stats().clients).toBe(0);
  });

  it.each([
    ["route", ["r", "route", "invite"], undefined],
    ["sip", ["r", "sip", "", "call;from-tag=x"], "BYE sip:placeholder SIP/2.0\r\n\r\n"],
    ["ping", ["r", "ping"], undefined],
  ])("obeys no %s before it succeeded", async (_name, tokens, sip) => {
    const { app, core } = await start();
    const one = app();
    one.send(tokens, sip);
    expect(await one.answer("r")).toEqual(["response", "r", "NO", "not authenticated"]);
    await one.until(() => one.closed);
    expect(core.called).toEqual([]);
  });

  it("ends a connection that stays silent", async () => {
    const { app } = await start({ authenticationMs: 20 });
    const one = app();
    await one.until(() => one.closed);
    expect(one.received).toEqual([]);
  });

  it("refuses an empty secret at the start", () => {
    expect(
      () =>
        new WireServer(
          {
            address: "127.0.0.1",
            port: 0,
            secret: "",
            limits: defaultLimits,
            clock: systemClock,
            random: systemRandom,
            log: silentLog,
            counters: new Counters(),
            hostports: () => ({ advertised: [], local: [] }),
            ...inbound,
          },
          new FakeCore(),
        ),
    ).toThrow("secret");
  });
});

it("closes a connection it has made when nothing needs it for two looks, and not before", async () => {
  const listener = createServer();
  const accepted = once(listener, "connection") as Promise<[Socket]>;
  listener.listen(0, "127.0.0.1");
  await once(listener, "listening");
  open.push({
    close: () => {
      listener.close();
    },
  });
  const { port } = listener.address() as AddressInfo;
  const clock = new ManualClock();
  const targets = [{ host: "127.0.0.1", port }];
  const { server, core } = await start(
    {},
    { clock, outbound: { targets, connectMs: 1000, authenticationMs: 1000, idleMs: 1000 } },
  );
  let offered: number | undefined;
  server.dial?.((client) => {
    offered = client;
    return true;
  });
  const [socket] = await accepted;
  const ended = once(socket, "end");
  socket.resume();
  socket.write(encodeFrame(["a", "authenticate", "cymru", ""]));
  await expect.poll(() => offered).toBe(1);
  core.busy.add(1);
  await clock.advance(5000);
  expect(server.stats()).toMatchObject({ clients: 1, outbound: 1 });
  core.busy.clear();
  await clock.advance(1000);
  expect(server.stats()).toMatchObject({ clients: 1 });
  await clock.advance(1000);
  await ended;
  await expect.poll(() => server.stats()).toMatchObject({ clients: 0, outbound: 0 });
});

it("what others left behind is handed over when drachtio-srf has told its application that it is connected, not with its routes", async () => {
  const clock = new ManualClock();
  const { app, core } = await start({}, { clock });
  const one = app();
  await one.authenticate();
  await clock.advance(200);
  one.send(["r", "route", "invite"]);
  await one.answer("r");
  await clock.advance(200);
  expect(core.ready).toEqual([]);
  await clock.advance(100);
  expect(core.ready).toHaveLength(1);
  await clock.advance(5000);
  expect(core.ready).toHaveLength(1);
});

it("an application that routes nothing is handed what others left behind all the same, at its first command at the latest", async () => {
  const clock = new ManualClock();
  const { app, core } = await start({}, { clock });
  await app().authenticate();
  await clock.advance(300);
  expect(core.ready).toHaveLength(1);
  const other = app();
  await other.authenticate();
  other.send(["o", "sip", "", "a-dialog"], "INFO sip:placeholder SIP/2.0\r\n\r\n");
  await expect.poll(() => core.ready).toHaveLength(2);
});

describe("commands", () => {
  it("refuses call detail records by name", async () => {
    const { app } = await start();
    const one = app();
    await one.authenticate();
    one.send(["c", "route", "cdr:attempt"]);
    expect(await one.answer("c")).toEqual(["response", "c", "NOK", "cdr messages not supported by embedded engine"]);
  });

  it.each([
    [false, 1],
    [true, 0],
  ])("remove_route takes away one verb, and with strictParity (%s) all of them", async (strict, left) => {
    const { app, server } = await start({}, { imitates: () => strict });
    const one = app();
    await one.authenticate();
    for (const [id, type, verb] of [
      ["1", "route", "invite"],
      ["2", "route", "options"],
      ["3", "route", "invite"],
      ["4", "remove_route", "invite"],
    ] as const) {
      one.send([id, type, verb]);
      expect((await one.answer(id))[2]).toBe("OK");
    }
    expect(server.stats().routes).toBe(left);
  });

  it("warns of a frame that drachtio-server would cut off, however it is made up", async () => {
    const warned: unknown[] = [];
    const { app } = await start({}, { log: { ...silentLog, warn: (_text, fields) => warned.push(fields?.["bytes"]) } });
    const one = app();
    await one.authenticate();
    const ping = (bytes: number): string[] => ["p".repeat(100), "ping", "x".repeat(bytes - 106)];
    one.send(ping(8192));
    one.send(ping(8193));
    await one.until(() => one.received.length === 3);
    expect(warned).toEqual([8193]);
  });

  it("answers ping, proxy and what it does not know", async () => {
    const { app } = await start();
    const one = app();
    await one.authenticate();
    one.send(["p", "ping"]);
    expect(await one.answer("p")).toEqual(["response", "p", "OK", "pong"]);
    one.send(["x", "proxy", "txn", "", "fullResponse"], "INVITE sip:a@b SIP/2.0\r\n\r\n");
    expect(await one.answer("x")).toEqual(["response", "x", "NOK", "proxy not supported by embedded engine"]);
    one.send(["u", "logging"]);
    expect(await one.answer("u")).toEqual(["response", "u", "NO", "Unknown message type"]);
    await one.until(() => one.closed);
  });

  it("hands each kind of SIP message to its command, with the bytes as they came", async () => {
    const { app, core } = await start();
    const one = app();
    await one.authenticate();
    const response = "SIP/2.0 200 OK\r\nX-A: é\r\n\r\nbody";
    one.send(["1", "sip", "txn-1", ""], response);
    one.send(["2", "sip", "txn-2", ""], "CANCEL sip:a@b SIP/2.0\r\n\r\n");
    one.send(["3", "sip", "", "c1;from-tag=t"], "INFO sip:placeholder SIP/2.0\r\n\r\n");
    one.send(["4", "sip", "", "", "sip:10.1.1.1:5060"], "INVITE sip:a@b SIP/2.0\r\n\r\n");
    one.send(["5", "sip", "", ""], "OPTIONS sip:a@b SIP/2.0\r\n\r\n");
    one.send(["6", "ping"]);
    await one.answer("6");
    expect(core.called.map((call) => [call.type, "id" in call ? call.id : undefined])).toEqual([
      ["respond", "txn-1"],
      ["cancel", "txn-2"],
      ["inDialog", "c1;from-tag=t"],
      ["outOfDialog", "sip:10.1.1.1:5060"],
      ["outOfDialog", undefined],
    ]);
    const [first] = core.called;
    expect(first?.type === "respond" && first.command.sip.toString("utf8")).toBe(response);
  });

  it("ends a connection that answers no transaction", async () => {
    const { app } = await start();
    const one = app();
    await one.authenticate();
    one.send(["1", "sip", "", ""], "SIP/2.0 200 OK\r\n\r\n");
    expect(await one.answer("1")).toEqual(["response", "1", "NO", "transaction id missing"]);
    await one.until(() => one.closed);
  });

  it("takes long frames from whoever has said the secret only", async () => {
    const { app, core } = await start();
    const text = `INFO sip:placeholder SIP/2.0\r\nX-Long: ${"x".repeat(5000)}\r\n\r\n`;
    const stranger = app();
    stranger.send(["1", "sip", "", "a-dialog"], text);
    await stranger.until(() => stranger.closed);
    const one = app();
    await one.authenticate();
    one.send(["1", "sip", "", "a-dialog"], text);
    await expect.poll(() => core.called.map(({ type }) => type)).toEqual(["inDialog"]);
  });

  it("closes on a broken frame, whatever follows", async () => {
    const { app, core } = await start();
    const one = app();
    await one.authenticate();
    one.socket.write("nonsense#");
    await expect.poll(() => core.called).toEqual([{ type: "gone", client: 1 }]);
  });

  it("takes a frame of a megabyte and closes above it", async () => {
    const { app, core } = await start();
    const one = app();
    await one.authenticate();
    const head = "sip||\r\n";
    one.send(["big", "sip", "", ""], `MESSAGE sip:a@b SIP/2.0\r\n\r\n${"x".repeat(1024 * 1024 - 100)}`);
    one.send(["p", "ping"]);
    await one.answer("p");
    expect(core.called).toHaveLength(1);
    one.socket.write(`${1024 * 1024 + 1}#${head}`);
    await one.until(() => one.closed);
  });

  it("serves frames that arrive one byte at a time", async () => {
    const { app } = await start();
    const one = app();
    await one.authenticate();
    for (const byte of encodeFrame(["p", "ping"])) {
      one.socket.write(Buffer.from([byte]));
    }
    expect(await one.answer("p")).toEqual(["response", "p", "OK", "pong"]);
  });
});

describe("routes", () => {
  it("is a set per connection, and goes round over the connections", async () => {
    const { app, server } = await start();
    const [a, b] = [app(), app()];
    await a.authenticate();
    await b.authenticate();
    for (const id of ["1", "2", "3"]) {
      a.send([id, "route", "invite"]);
      await a.answer(id);
    }
    b.send(["1", "route", "invite"]);
    await b.answer("1");
    expect(server.stats().routes).toBe(2);
    const chosen = [1, 2, 3, 4].map(() => server.choose("invite"));
    expect(chosen).toEqual([1, 2, 1, 2]);
    expect(server.choose("options")).toBeUndefined();
  });

  it("removes the named verb only, and a connection with its end", async () => {
    const { app, server, core } = await start();
    const one = app();
    await one.authenticate();
    one.send(["1", "route", "invite"]);
    one.send(["2", "route", "options"]);
    one.send(["3", "remove_route", "invite"]);
    await one.answer("3");
    expect(server.choose("invite")).toBeUndefined();
    const owner = server.choose("options");
    expect(owner).toBe(1);
    one.socket.destroy();
    await expect.poll(() => server.choose("options")).toBeUndefined();
    expect(server.isConnected(1)).toBe(false);
    expect(core.called).toEqual([{ type: "gone", client: 1 }]);
  });

  it("bounds the verbs of a connection and the connections", async () => {
    const { app, server } = await start({ verbsPerClient: 1, clients: 1 });
    const one = app();
    await one.authenticate();
    one.send(["1", "route", "invite"]);
    one.send(["2", "route", "options"]);
    one.send(["3", "route", "bad verb|"]);
    expect(await one.answer("2")).toEqual(["response", "2", "NOK", "too many verbs"]);
    expect(await one.answer("3")).toEqual(["response", "3", "NOK", "invalid verb"]);
    const two = app();
    await two.until(() => two.closed);
    expect(server.stats().clients).toBe(1);
  });

  it("a connection that has not authenticated gives way when there are too many", async () => {
    const { app, server, core } = await start({ clients: 2 });
    const silent = app();
    const one = app();
    await one.authenticate();
    const two = app();
    await two.authenticate();
    await silent.until(() => silent.closed);
    expect([one.closed, two.closed]).toEqual([false, false]);
    expect(server.stats().clients).toBe(2);
    expect(core.called).toEqual([]);
  });

  it("looks verbs up in lower case, as drachtio-server does", async () => {
    const { app, server } = await start();
    const one = app();
    await one.authenticate();
    one.send(["1", "route", "INVITE"]);
    await one.answer("1");
    expect(server.choose("invite")).toBeUndefined();
  });
});

describe("frames to applications", () => {
  const message = Buffer.from("INVITE sip:é@b SIP/2.0\r\nCall-ID: 1\r\n\r\n");

  it("writes a new request with thirteen columns", async () => {
    const { app, server } = await start();
    const one = app();
    await one.authenticate();
    server.deliver(1, {
      source: "network",
      peer,
      txnId: "T1",
      dialogId: undefined,
      receivedOn: { address: "192.0.2.1", port: 5060 },
      message,
    });
    await one.until(() => one.received.length === 2);
    const [, delivered] = one.received;
    expect(delivered?.tokens.slice(1)).toEqual([
      "sip",
      "network",
      String(message.length),
      "udp",
      "192.0.2.9",
      "5070",
      expect.stringMatching(/^\d\d:\d\d:\d\d\.\d{6}$/),
      "T1",
      "",
      "192.0.2.1",
      "5060",
      "",
    ]);
    expect(delivered?.sip?.equals(message)).toBe(true);
  });

  it("writes everything else with the dialog id in the tenth column", async () => {
    const { app, server } = await start();
    const one = app();
    await one.authenticate();
    server.deliver(1, { source: "application", peer, txnId: "unsolicited", dialogId: "c;from-tag=t", message });
    await one.until(() => one.received.length === 2);
    expect(one.received[1]?.tokens.slice(8)).toEqual(["unsolicited", "c;from-tag=t", ""]);
  });

  it("echoes a request with eight columns before `Msg sent:` and a response with ten", async () => {
    const { app, server } = await start();
    const one = app();
    await one.authenticate();
    server.reply(1, "q", { type: "sent", kind: "request", peer, txnId: "T1", dialogId: undefined, message });
    server.reply(1, "r", { type: "sent", kind: "response", peer, txnId: "T2", dialogId: "c;from-tag=t", message });
    server.reply(1, "n", { type: "refused", text: "no" });
    const time = expect.stringMatching(/^\d\d:/) as string;
    const common = ["OK", "application", String(message.length), "udp", "192.0.2.9", "5070", time];
    expect(await one.answer("q")).toEqual(["response", "q", ...common, "T1", "Msg sent:", ""]);
    expect(await one.answer("r")).toEqual(["response", "r", ...common, "T2", "c;from-tag=t", "", "Msg sent:", ""]);
    expect(await one.answer("n")).toEqual(["response", "n", "NOK", "no"]);
  });

  it("drops an application that stopped reading", async () => {
    const { app, server } = await start({ clientBacklogBytes: 64 * 1024 });
    const one = app();
    await one.authenticate();
    one.socket.pause();
    const big = Buffer.alloc(60_000, 65);
    await expect
      .poll(() => server.deliver(1, { source: "network", peer, txnId: "T", dialogId: undefined, message: big }), {
        interval: 1,
      })
      .toBe(false);
    await expect.poll(() => server.stats().clients).toBe(0);
  });
});
