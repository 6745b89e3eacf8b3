// The starters of the real servers, and the claims on ports they stand on.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { connect } from "node:net";
import { expect, test } from "vitest";
import { temporaryFolder } from "../support/folder.ts";
import { claimPort, claimPortRange, ownsPort } from "../support/ports.ts";
import { RunningProcess } from "../support/process.ts";
import { startRedis } from "../support/redis.ts";
import { startRtpengine } from "../support/rtpengine.ts";
import { waitFor } from "../support/wait.ts";

/** The raw reply of a Redis server to some inline commands. */
function redis(port: number, ...commands: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: "127.0.0.1", port }, () => socket.end([...commands, "QUIT", ""].join("\r\n")));
    let reply = "";
    socket.setEncoding("utf8").on("data", (text: string) => (reply += text));
    socket.on("error", reject);
    socket.on("close", () => resolve(reply));
  });
}

const isAlive = (pid: number): boolean => existsSync(`/proc/${pid}`);

test("redis: answers on its own port, forgets nothing over a crash when persistent, and is gone at the end", async () => {
  let pid = 0;
  let folder = "";
  {
    await using server = await startRedis({ persistent: true });
    pid = server.pid!;
    folder = server.folder;
    expect(ownsPort(pid, "tcp", server.port)).toBe(true);
    expect(await redis(server.port, "SET k v")).toContain("+OK");
    await server.crash();
    expect(isAlive(pid)).toBe(false);
    await server.start();
    expect(server.pid).not.toBe(pid);
    expect(await redis(server.port, "GET k")).toContain("$1\r\nv");
    pid = server.pid!;
  }
  expect([isAlive(pid), existsSync(folder)]).toEqual([false, false]);
});

test("redis: with a password, nobody gets in without it", async () => {
  await using server = await startRedis({ password: "s3cret" });
  expect(await redis(server.port, "PING")).toContain("-NOAUTH");
  expect(await redis(server.port, "AUTH s3cret", "PING")).toContain("+PONG");
});

test("a bind that fails is an error with the server's own words", async () => {
  await using first = await startRedis();
  await expect(
    RunningProcess.start({
      name: "a second redis",
      command: "redis-server",
      args: ["--bind", "127.0.0.1", "--port", String(first.port), "--save", ""],
      ready: (child) => ownsPort(child.pid, "tcp", first.port),
    }),
  ).rejects.toThrow(/a second redis ended before it was ready \(exit status 1\)[\s\S]*Address already in use/);
});

test("rtpengine: two at once with ports of their own, a crash and a start on the same ports", async () => {
  await using one = await startRtpengine();
  await using two = await startRtpengine();
  expect(one.ngPort).not.toBe(two.ngPort);
  expect(one.media.first > two.media.last || two.media.first > one.media.last).toBe(true);
  await one.crash();
  await one.start();
  expect(await one.ask({ command: "ping" })).toEqual({ result: "pong" });
});

test("claimed ports are not claimed twice until they are released", async () => {
  const claims = await Promise.all(Array.from({ length: 200 }, () => claimPort()));
  expect(new Set(claims.map(({ port }) => port)).size).toBe(200);
  await Promise.all(claims.map((claim) => claim.release()));
  const ranges = await Promise.all(Array.from({ length: 20 }, () => claimPortRange(200)));
  const starts = ranges.map(({ first }) => first).toSorted((a, b) => a - b);
  expect(starts.every((first, index) => index === 0 || first - starts[index - 1]! >= 200)).toBe(true);
  expect(ranges.every(({ first, last }) => first % 2 === 0 && last - first === 199)).toBe(true);
  await Promise.all(ranges.map((range) => range.release()));
});

test("a server dies with the process that started it, even when that is killed", async () => {
  await using folder = await temporaryFolder("orphan");
  const script = `
    import { startRedis } from ${JSON.stringify(new URL("../support/redis.ts", import.meta.url).href)};
    const server = await startRedis();
    console.log("PID " + server.pid + " " + server.folder);
    setInterval(() => {}, 1000);`;
  const parent = spawn(process.execPath, ["--import", "tsx", "--input-type=module", "--eval", script], {
    stdio: ["ignore", "pipe", "inherit"],
    env: { ...process.env, TMPDIR: folder.path },
  });
  let output = "";
  parent.stdout.setEncoding("utf8").on("data", (text: string) => (output += text));
  const [, pid] = await waitFor(() => /PID (\d+) /.exec(output), { what: "the child's server", timeoutMs: 10_000 });
  expect(isAlive(Number(pid))).toBe(true);
  parent.kill("SIGKILL");
  await waitFor(() => !isAlive(Number(pid)), { what: "the server to die" });
});
