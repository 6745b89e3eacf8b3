// drachtio-fsmrf against an event socket that does what FreeSWITCH does in trouble. Where a test starts the library itself,
// it fails as soon as the library can do without what src/media/freeswitch/fsmrf.ts does for it.
import { execFile } from "node:child_process";
import { createRequire } from "node:module";
import { createServer, Socket } from "node:net";
import type { AddressInfo, Server } from "node:net";
import { afterEach, describe, expect, test, vi } from "vitest";
import { hasProfile, probe, readBlocks } from "../../src/media/freeswitch/event-socket.ts";
import { FsmrfConnection } from "../../src/media/freeswitch/fsmrf.ts";
import { ServerPool } from "../../src/media/freeswitch/servers.ts";
import { systemMediaClock } from "../../src/media/options.ts";
import type { FreeswitchServer } from "../../src/media/options.ts";

const profileLine = "   drachtio_mrf\tprofile\t sip:mod_sofia@127.0.0.1:5080\tRUNNING (0)\n";
const closing: (() => void)[] = [];
afterEach(() => {
  for (const close of closing.splice(0)) close();
});

/** An event socket with the password `right`. `answer` null: the connection breaks instead. `load`: calls, and the most. */
async function eventSocket(
  status: string,
  answer: string | null = "+OK",
  load: readonly [number, number] = [0, 0],
): Promise<number> {
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => undefined);
    socket.write("Content-Type: auth/request\n\n");
    let text = "";
    socket.on("data", (bytes) => {
      text += bytes.toString("utf8");
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
        const line = text.slice(0, end);
        text = text.slice(end + 2);
        const reply = (ok: string): boolean => socket.write(`Content-Type: command/reply\nReply-Text: ${ok}\n\n`);
        if (line === "auth right") reply("+OK accepted");
        else if (line.startsWith("auth ")) reply("-ERR invalid");
        else if (line.startsWith("api ")) {
          const body = line === "api sofia status" ? status : answer;
          if (body === null) socket.destroy();
          else socket.write(`Content-Type: api/response\nContent-Length: ${body.length}\n\n${body}`);
        } else {
          reply("+OK");
          const beat = {
            "Event-Name": "HEARTBEAT",
            "Core-UUID": "1",
            "Session-Count": load[0],
            "Max-Sessions": load[1],
          };
          const json = JSON.stringify(beat);
          if (line.includes("HEARTBEAT")) {
            socket.write(`Content-Length: ${json.length}\nContent-Type: text/event-json\n\n${json}`);
          }
        }
      }
    });
  });
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  closing.push(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return (server.address() as AddressInfo).port;
}

function placeAt(port: number, password = "right"): FreeswitchServer {
  const listen = { listenAddress: "127.0.0.1", listenPort: 0 } as const;
  return { host: "127.0.0.1", port, password, profile: "drachtio_mrf", ...listen };
}

const noSip = { open: () => Promise.reject(new Error("no SIP here")) };
const log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

async function open(port: number, onEnd: () => void = () => {}): Promise<FsmrfConnection> {
  const connection = await FsmrfConnection.open({
    server: placeAt(port),
    sip: noSip,
    commandTimeoutMs: 300,
    clock: systemMediaClock,
    log,
    onEnd,
  });
  closing.push(() => connection.close());
  return connection;
}

/** What becomes of the library alone, in a process of its own. */
async function alone(port: number, password: string, then: string): Promise<{ code: number | null; output: string }> {
  const library = JSON.stringify(createRequire(import.meta.url).resolve("drachtio-fsmrf"));
  const order = JSON.stringify({ address: "127.0.0.1", port, secret: password, listenAddress: "127.0.0.1" });
  const script = `const Mrf = require(${library}); const settled = (text) => console.log("settled", text);
    const net = require("node:net"); const connecting = new Mrf({}).connect(${order}); ${then}`;
  return new Promise((resolve) => {
    execFile(process.execPath, ["-e", script], { timeout: 20_000 }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code ?? -1), output: stdout + stderr });
    });
  });
}

describe("a FreeSWITCH without our SIP profile", () => {
  test("is refused with that reason, and the process lives", async () => {
    const port = await eventSocket("   internal\tprofile\t sip:mod_sofia@127.0.0.1:5080\tRUNNING (0)\n");
    await expect(open(port)).rejects.toMatchObject({ code: "no_profile" });
  });

  test("ends the process of the library alone", async () => {
    const { code, output } = await alone(await eventSocket("none\n"), "right", "connecting.then(settled, settled);");
    expect([code, output]).toEqual([1, expect.stringContaining("No drachtio_mrf sip profile found")]);
  });
});

describe("a wrong password", () => {
  test("is told", async () => {
    const port = await eventSocket(profileLine);
    await expect(probe(placeAt(port, "wrong"), 1_000, systemMediaClock)).rejects.toMatchObject({
      code: "wrong_password",
    });
  });

  test("is never told by the library alone", async () => {
    const then = `connecting.then(settled, settled); setTimeout(() => { console.log("waited"); process.exit(0); }, 2_000);`;
    const { output } = await alone(await eventSocket(profileLine), "wrong", then);
    expect(output.trim()).toBe("waited");
  });
});

describe("an event socket that is not there", () => {
  test("is told", async () => {
    await expect(open(1)).rejects.toMatchObject({ code: "unreachable" });
  });

  test("is tried again by the library alone although it has given up", async () => {
    const then = `connecting.catch(() => net.createServer(() => { console.log("again"); process.exit(0); })
      .listen(PORT, "127.0.0.1")); setTimeout(() => process.exit(1), 10_000);`;
    const free = createServer();
    await new Promise<void>((resolve) => {
      free.listen(0, "127.0.0.1", resolve);
    });
    const { port } = free.address() as AddressInfo;
    await new Promise<void>((resolve) => {
      free.close(() => resolve());
    });
    const { code, output } = await alone(port, "right", then.replace("PORT", String(port)));
    expect([code, output.trim()]).toEqual([0, "again"]);
  });
});

describe("an answer that is lost with its connection", () => {
  test("is a failure, and the end of the connection is told once", async () => {
    let ended = 0;
    const connection = await open(await eventSocket(profileLine, null), () => {
      ended += 1;
    });
    await expect(connection.api("uptime")).rejects.toMatchObject({ code: "timeout" });
    expect(ended).toBe(1);
    await expect(connection.api("uptime")).rejects.toMatchObject({ code: "media_lost" });
    connection.close();
  });

  test("is waited for by the library alone for ever", async () => {
    const then = `connecting.then((server) => server.api("uptime").then(settled, settled));
      setTimeout(() => { console.log("waited"); process.exit(0); }, 3_000);`;
    const { output } = await alone(await eventSocket(profileLine, null), "right", then);
    expect(output).toContain("waited");
    expect(output).not.toContain("settled");
  });
});

describe("a command", () => {
  test("is sent at once", async () => {
    const port = await eventSocket(profileLine);
    const noDelay = vi.spyOn(Socket.prototype, "setNoDelay");
    closing.push(() => noDelay.mockRestore());
    const connection = await open(port);
    expect(noDelay.mock.calls).toEqual([[true]]);
    connection.close();
  });

  test("is written in two pieces by the library alone", async () => {
    const then = `connecting.then(({ conn }) => {
      conn.socket.write = (text) => console.log(JSON.stringify(text));
      conn.api("uptime", "", () => undefined);
      process.exit(0);
    });`;
    const { output } = await alone(await eventSocket(profileLine), "right", then);
    expect(output.trim().split("\n")).toEqual([String.raw`"api uptime\n"`, String.raw`"\n"`]);
  });
});

describe("several FreeSWITCHes", () => {
  function poolOf(ports: readonly number[]): { readonly pool: ServerPool; readonly lost: number[] } {
    const lost: number[] = [];
    const pool = new ServerPool({
      servers: ports.map((port) => placeAt(port)),
      sip: noSip,
      commandTimeoutMs: 300,
      pingMs: 50,
      lostAfterMs: 200,
      clock: systemMediaClock,
      log,
      onLost: ({ port }) => void lost.push(port),
    });
    closing.push(() => {
      pool.close();
      pool.disconnect();
    });
    return { pool, lost };
  }

  test("get new calls by the share of their places in use; a full one and an excepted one get none", async () => {
    const half = await eventSocket(profileLine, "+OK", [50, 100]);
    const least = await eventSocket(profileLine, "+OK", [60, 1_000]);
    const full = await eventSocket(profileLine, "+OK", [10, 10]);
    const { pool } = poolOf([half, least, full]);
    await pool.start();
    const [, second] = pool.all();
    const heard = (): boolean => pool.all().every(({ connection }) => (connection?.load.most ?? 0) > 0);
    await vi.waitFor(() => expect(heard()).toBe(true), { timeout: 10_000 });
    expect(pool.choose(new Set())?.port).toBe(least);
    // What was begun since the heartbeat counts at once.
    second!.calls = 700;
    expect(pool.choose(new Set())?.port).toBe(half);
    second!.calls = 0;
    expect(pool.choose(new Set([second!]))?.port).toBe(half);
    expect(pool.choose(new Set(pool.all()))).toBeUndefined();
  });

  test("are connected again after a loss, which is told once", async () => {
    const flaky = await eventSocket(profileLine, null);
    const { pool, lost } = poolOf([flaky, 1]);
    await pool.start();
    expect(pool.anyHealthy).toBe(true);
    const first = pool.all()[0]?.connection;
    // Its answer to the first check breaks the connection.
    await vi.waitFor(() => expect(pool.all()[0]?.connection).not.toBe(first), { timeout: 5_000 });
    await vi.waitFor(() => expect(pool.all()[0]?.connection ?? first).not.toBe(first), { timeout: 5_000 });
    await vi.waitFor(() => expect(lost).toContain(1), { timeout: 5_000 });
    expect(lost.filter((port) => port === 1)).toHaveLength(1);
  });
});

test("answers of an event socket are read in pieces and with bodies", () => {
  const { blocks, rest } = readBlocks("Content-Type: a\n\nContent-Type: b\nContent-Length: 3\n\nxyzContent-Ty");
  expect(blocks).toEqual([
    { head: "Content-Type: a", body: "" },
    { head: "Content-Type: b\nContent-Length: 3", body: "xyz" },
  ]);
  expect(rest).toBe("Content-Ty");
  expect(readBlocks("Content-Length: 4\n\nabc").blocks).toEqual([]);
});

test("a profile counts by its whole name and with an IPv4 address", () => {
  expect(hasProfile(profileLine, "drachtio_mrf")).toBe(true);
  expect(hasProfile(profileLine, "drachtio")).toBe(false);
  expect(hasProfile(profileLine.replace("127.0.0.1", "[::1]"), "drachtio_mrf")).toBe(false);
});
