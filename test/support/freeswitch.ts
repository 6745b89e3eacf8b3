// A real FreeSWITCH, for those who have one. PATCHBAY_TEST_FREESWITCH is `host:port:password` of the event socket of one that
// runs: it must see this machine's files at the same paths, may write below its temporary folder, and has no other calls while
// tests run. PATCHBAY_TEST_FREESWITCH_COMMAND is the path of the program, or of a script that becomes it (`exec`) with the
// arguments it is given, for the tests that kill it: they start their own on free loopback ports.
import { once } from "node:events";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { DisposalStack } from "./disposal.ts";
import { temporaryFolder } from "./folder.ts";
import { claimPort, claimPortRange, ownsPort } from "./ports.ts";
import { RunningProcess } from "./process.ts";

export interface FreeswitchPlace {
  readonly host: string;
  readonly port: number;
  readonly password: string;
}

/** Undefined where there is none. */
export const freeswitchPlace: FreeswitchPlace | undefined = placeOf(process.env["PATCHBAY_TEST_FREESWITCH"] ?? "");
/** Why tests on one that runs are left out. */
export const noFreeswitch = "PATCHBAY_TEST_FREESWITCH names no host:port:password of a FreeSWITCH";

/** The path of the program, or undefined where none is given. */
export const freeswitchProgram: string | undefined = process.env["PATCHBAY_TEST_FREESWITCH_COMMAND"] || undefined;
/** Why tests that start their own are left out. */
export const noFreeswitchProgram = "PATCHBAY_TEST_FREESWITCH_COMMAND does not name a FreeSWITCH";

function placeOf(text: string): FreeswitchPlace | undefined {
  const [, host, port, password] = /^([^:]+):(\d+):(.+)$/.exec(text) ?? [];
  if (host === undefined || password === undefined) return undefined;
  return { host, port: Number(port), password };
}

/** Asks one command over a connection of its own, so that what a test sees does not come through what it tests. */
export async function askFreeswitch(place: FreeswitchPlace, command: string): Promise<string> {
  const socket = connect(place.port, place.host);
  try {
    await once(socket, "connect");
    let text = "";
    const block = async (): Promise<{ head: string; body: string }> => {
      for (;;) {
        const end = text.indexOf("\n\n");
        const length = Number(/^Content-Length: (\d+)$/m.exec(text.slice(0, Math.max(0, end)))?.[1] ?? 0);
        if (end >= 0 && Buffer.byteLength(text) >= end + 2 + length) {
          const [head, body] = [text.slice(0, end), text.slice(end + 2, end + 2 + length)];
          text = text.slice(end + 2 + length);
          return { head, body };
        }
        const [bytes] = (await once(socket, "data", { signal: AbortSignal.timeout(5_000) })) as [Buffer];
        text += bytes.toString("latin1");
      }
    };
    await block();
    socket.write(`auth ${place.password}\n\n`);
    const { head } = await block();
    if (!head.includes("+OK")) throw new Error("FreeSWITCH refuses the password of PATCHBAY_TEST_FREESWITCH");
    socket.write(`api ${command}\n\n`);
    return (await block()).body.trim();
  } finally {
    socket.destroy();
  }
}

/** How many channels it holds. Not by `show channels`, which reads a database that is written a little later. */
export async function channelsIn(place: FreeswitchPlace): Promise<number> {
  return Number(/^(\d+) session\(s\) - /m.exec(await askFreeswitch(place, "status"))?.[1]);
}

/** A FreeSWITCH of the test's own, with the configuration of the compose file, on free loopback ports. */
export class FreeswitchServer implements AsyncDisposable {
  readonly place: FreeswitchPlace;
  readonly #program: string;
  readonly #sipPort: number;
  readonly #folder: string;
  readonly #resources: DisposalStack;
  #process: RunningProcess | undefined;

  private constructor(
    program: string,
    place: FreeswitchPlace,
    sipPort: number,
    folder: string,
    resources: DisposalStack,
  ) {
    this.#program = program;
    this.place = place;
    this.#sipPort = sipPort;
    this.#folder = folder;
    this.#resources = resources;
  }

  static async start(): Promise<FreeswitchServer> {
    if (freeswitchProgram === undefined) throw new Error(noFreeswitchProgram);
    await using resources = new DisposalStack();
    const { port } = resources.use(await claimPort());
    const { port: sipPort } = resources.use(await claimPort());
    const { first, last } = resources.use(await claimPortRange());
    const { path } = resources.use(await temporaryFolder("freeswitch"));
    const place = { host: "127.0.0.1", port, password: "secretOfTheTest" };
    for (const name of ["conf", "log", "db", "run", "temp"]) await mkdir(join(path, name));
    await writeFile(join(path, "conf", "freeswitch.xml"), await configuration(place, sipPort, first, last));
    const server = new FreeswitchServer(freeswitchProgram, place, sipPort, path, resources.move());
    try {
      await server.start();
    } catch (error) {
      await server[Symbol.asyncDispose]();
      throw error;
    }
    return server;
  }

  /** Starts it, again on the same ports after `kill`. */
  async start(): Promise<void> {
    const folders = ["conf", "log", "db", "run", "temp"].flatMap((name) => [`-${name}`, join(this.#folder, name)]);
    this.#process = await RunningProcess.start({
      name: "FreeSWITCH",
      command: this.#program,
      args: ["-nonat", "-nc", "-nf", "-np", ...folders],
      ready: async ({ pid }) =>
        ownsPort(pid, "udp", this.#sipPort) &&
        ownsPort(pid, "tcp", this.place.port) &&
        (await askFreeswitch(this.place, "status")).includes("is ready"),
      readyTimeoutMs: 30_000,
    });
  }

  /** Ends it as a crash would. */
  async kill(): Promise<void> {
    await this.#process?.kill();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Asked to end, it waits for its channels first.
    await this.kill();
    await this.#resources[Symbol.asyncDispose]();
  }
}

/** That of `docker/`, on other ports. */
async function configuration(place: FreeswitchPlace, sipPort: number, first: number, last: number): Promise<string> {
  const file = new URL("../../docker/freeswitch/freeswitch.xml", import.meta.url);
  const changes: readonly (readonly [string, string | number])[] = [
    ["@PASSWORD@", place.password],
    ["@LOCAL_ADDRESS@", place.host],
    ["@PUBLIC_ADDRESS@", place.host],
    ['"listen-port" value="8021"', `"listen-port" value="${place.port}"`],
    ['"sip-port" value="5080"', `"sip-port" value="${sipPort}"`],
    ['"rtp-start-port" value="23000"', `"rtp-start-port" value="${first}"`],
    ['"rtp-end-port" value="32767"', `"rtp-end-port" value="${last}"`],
  ];
  let text = await readFile(file, "utf8");
  for (const [from, to] of changes) {
    if (!text.includes(from)) throw new Error(`${from} does not stand in docker/freeswitch/freeswitch.xml`);
    text = text.replace(from, String(to));
  }
  return text;
}
