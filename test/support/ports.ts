// Free ports for real servers on loopback, safe against other test processes on the same machine.
//
// Asking the kernel for port 0 and closing the socket again is a race: the next process may be given the same number
// before the server has bound it. So a port is claimed first, by binding a guard socket to the same number on another
// loopback address. The kernel allows one guard per number on the whole machine and drops it when its process dies, so no
// lock file can go stale. All numbers lie below the range the kernel hands out by itself (32768 and above).
import { createSocket, type Socket } from "node:dgram";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { createServer } from "node:net";
import { randomInt } from "node:crypto";

const guardAddress = "127.89.0.1";
const singlePorts = { first: 10_000, last: 19_999 } as const;
const rangePorts = { first: 20_000, last: 31_999, step: 100 } as const;

export interface ClaimedPort extends AsyncDisposable {
  readonly port: number;
  /** Lets others have the port; done by disposal too. */
  release(): Promise<void>;
}
export interface ClaimedRange extends AsyncDisposable {
  readonly first: number;
  readonly last: number;
  release(): Promise<void>;
}

function bindUdp(address: string, port: number): Promise<Socket | undefined> {
  return new Promise((resolve) => {
    const socket = createSocket("udp4");
    socket.once("error", () => {
      socket.close();
      resolve(undefined);
    });
    socket.bind({ address, port, exclusive: true }, () => resolve(socket));
  });
}

const closeUdp = (socket: Socket): Promise<void> => new Promise((resolve) => socket.close(resolve));

function tcpIsFree(address: string, port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen({ host: address, port, exclusive: true }, () => server.close(() => resolve(true)));
  });
}

async function isFree(address: string, port: number): Promise<boolean> {
  const socket = await bindUdp(address, port);
  if (socket === undefined) return false;
  await closeUdp(socket);
  return tcpIsFree(address, port);
}

interface Guard {
  release(): Promise<void>;
}

/** Holds a number on the guard address until it is released or the process ends. */
async function guard(port: number): Promise<Guard | undefined> {
  const socket = await bindUdp(guardAddress, port);
  if (socket === undefined) return undefined;
  socket.unref();
  let released: Promise<void> | undefined;
  return { release: () => (released ??= closeUdp(socket)) };
}

/** Claims one port number that is free for UDP and for TCP on 127.0.0.1. */
export async function claimPort(): Promise<ClaimedPort> {
  const count = singlePorts.last - singlePorts.first + 1;
  const start = randomInt(count);
  for (let step = 0; step < count; step += 1) {
    const port = singlePorts.first + ((start + step) % count);
    const held = await guard(port);
    if (held === undefined) continue;
    if (await isFree("127.0.0.1", port)) {
      return { port, release: () => held.release(), [Symbol.asyncDispose]: () => held.release() };
    }
    await held.release();
  }
  throw new Error(`no free port between ${singlePorts.first} and ${singlePorts.last}`);
}

/** Claims a run of UDP ports, for a media server. At most 1,000, in blocks of 100 that begin at an even number. */
export async function claimPortRange(size = 200): Promise<ClaimedRange> {
  const blocks = Math.ceil(size / rangePorts.step);
  if (blocks < 1 || blocks > 10) throw new RangeError(`a range of ${size} ports is not between 1 and 1000`);
  const count = Math.floor((rangePorts.last - rangePorts.first + 1) / rangePorts.step);
  const start = randomInt(count);
  for (let step = 0; step < count; step += 1) {
    const block = (start + step) % count;
    if (block + blocks > count) continue;
    const guards: Guard[] = [];
    for (let index = 0; index < blocks; index += 1) {
      const held = await guard(rangePorts.first + (block + index) * rangePorts.step);
      if (held === undefined) break;
      guards.push(held);
    }
    const release = async (): Promise<void> => {
      await Promise.all(guards.map((held) => held.release()));
    };
    if (guards.length === blocks) {
      const first = rangePorts.first + block * rangePorts.step;
      return { first, last: first + blocks * rangePorts.step - 1, release, [Symbol.asyncDispose]: release };
    }
    await release();
  }
  throw new Error(`no free range of ${size} ports between ${rangePorts.first} and ${rangePorts.last}`);
}

/** The socket inodes that the kernel lists for a local port: `listening` only matters for TCP (state 0A). */
function inodesOf(protocol: "udp" | "tcp", port: number): ReadonlySet<string> {
  const wanted = port.toString(16).toUpperCase().padStart(4, "0");
  const inodes = new Set<string>();
  for (const file of [`/proc/net/${protocol}`, `/proc/net/${protocol}6`]) {
    let table: string;
    try {
      table = readFileSync(file, "utf8");
    } catch {
      continue;
    }
    for (const line of table.split("\n").slice(1)) {
      const columns = line.trim().split(/\s+/);
      const listens = protocol === "udp" || columns[3] === "0A";
      if (listens && columns[1]?.endsWith(`:${wanted}`) === true && columns[9] !== undefined) inodes.add(columns[9]);
    }
  }
  return inodes;
}

/** Whether this very process holds the port, so that no other server that happens to answer is taken for it. */
export function ownsPort(pid: number, protocol: "udp" | "tcp", port: number): boolean {
  const inodes = inodesOf(protocol, port);
  if (inodes.size === 0) return false;
  let descriptors: readonly string[];
  try {
    descriptors = readdirSync(`/proc/${pid}/fd`);
  } catch {
    return false;
  }
  return descriptors.some((descriptor) => {
    try {
      const inode = /^socket:\[(\d+)\]$/.exec(readlinkSync(`/proc/${pid}/fd/${descriptor}`))?.[1];
      return inode !== undefined && inodes.has(inode);
    } catch {
      return false;
    }
  });
}
