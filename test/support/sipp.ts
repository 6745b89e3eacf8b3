// Runs SIPp, the independent SIP implementation of Debian's sip-tester, on a scenario of ours.
import { readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { DisposalStack } from "./disposal.ts";
import { temporaryFolder } from "./folder.ts";
import { claimPort, claimPortRange, ownsPort } from "./ports.ts";
import { RunningProcess } from "./process.ts";

export interface SippOptions {
  /** The scenario: a path of an XML file, or the XML itself (it begins with `<`). */
  readonly scenario: string;
  /** Where to send to, `127.0.0.1:5060`. A scenario that waits for calls needs none. */
  readonly target?: string;
  /** The `[service]` of the scenario: the user part that is called. */
  readonly service?: string;
  /** Variables of the scenario: `{ reason: "busy" }` stands where it says `[reason]`. */
  readonly variables?: Readonly<Record<string, string | number>>;
  /** The local port; default: a free one. */
  readonly port?: number;
  /** The local address, `::1` for IPv6. Default 127.0.0.1. */
  readonly address?: string;
  readonly protocol?: "udp" | "tcp";
  readonly calls?: number;
  readonly callsPerSecond?: number;
  /** Calls at once, at most. */
  readonly limit?: number;
  /** After this time SIPp itself gives up and fails. */
  readonly timeoutMs?: number;
  readonly args?: readonly string[];
}

export interface SippMessage {
  readonly direction: "sent" | "received";
  /** The time as SIPp wrote it, in milliseconds since the epoch. */
  readonly atMs: number;
  readonly text: string;
  /** `INVITE` for a request, `200` for a response. */
  readonly what: string;
}

export interface SippResult {
  /** 0: all calls succeeded. 1: at least one failed. Others: see sipp(1). */
  readonly exitCode: number | null;
  readonly messages: readonly SippMessage[];
  /** What SIPp wrote into its error file: the unexpected message and what was expected. */
  readonly errors: string;
  readonly output: string;
}

const separator = /^-{20,} (\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d\.\d+).*$/m;

/** Reads a `-trace_msg` file. */
export function parseMessageTrace(trace: string): readonly SippMessage[] {
  const parts = trace.split(separator);
  const messages: SippMessage[] = [];
  for (let index = 1; index + 2 < parts.length; index += 3) {
    const [date, time, body] = [parts[index], parts[index + 1], parts[index + 2] ?? ""];
    const heading = /^\s*(?:UDP|TCP|TLS)? ?message (sent|received)[^\n]*:\s*\n/im.exec(body);
    if (heading === null) continue;
    const text = body
      .slice(heading.index + heading[0].length)
      .replace(/^[\r\n]+/, "")
      .replace(/\n$/, "");
    const first = text.split(/\r?\n/, 1)[0] ?? "";
    messages.push({
      direction: heading[1] === "sent" ? "sent" : "received",
      atMs: Date.parse(`${date}T${time?.slice(0, 12)}`),
      text,
      what: (first.startsWith("SIP/2.0 ") ? first.split(" ")[1] : first.split(" ")[0]) ?? "",
    });
  }
  return messages;
}

function readIfThere(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

export class Sipp implements AsyncDisposable {
  readonly port: number;
  readonly #folder: string;
  readonly #process: RunningProcess;
  readonly #resources: DisposalStack;

  private constructor(port: number, folder: string, child: RunningProcess, resources: DisposalStack) {
    this.port = port;
    this.#folder = folder;
    this.#process = child;
    this.#resources = resources;
  }

  /** Starts SIPp and comes back when it listens. */
  static async start(options: SippOptions): Promise<Sipp> {
    await using resources = new DisposalStack();
    const { path: folder } = resources.use(await temporaryFolder("sipp"));
    const port = options.port ?? resources.use(await claimPort()).port;
    // SIPp listens for remote control too, by default on 8888 upwards, where two of them at once may meet.
    const control = resources.use(await claimPort()).port;
    // SIPp takes the port two above for video, whether there is any or not.
    const media = resources.use(await claimPortRange(4)).first;
    let file = resolve(options.scenario);
    if (options.scenario.trimStart().startsWith("<")) {
      file = join(folder, "scenario.xml");
      await writeFile(file, options.scenario);
    }
    const {
      target,
      address = "127.0.0.1",
      service,
      variables = {},
      protocol = "udp",
      calls = 1,
      callsPerSecond = 10,
      timeoutMs = 30_000,
    } = options;
    const child = await RunningProcess.start({
      name: "sipp",
      command: "sipp",
      cwd: folder,
      // Without a terminal it must not look for one.
      env: { TERM: "dumb" },
      args: [
        ...(target === undefined ? [] : [target]),
        "-sf",
        file,
        "-i",
        address,
        "-p",
        String(port),
        "-mi",
        address,
        "-mp",
        String(media & ~1),
        // Not on the wildcard address: it would meet the guard of its own port.
        "-ci",
        "127.0.0.1",
        "-cp",
        String(control),
        "-t",
        protocol === "udp" ? "u1" : "t1",
        "-m",
        String(calls),
        "-r",
        String(callsPerSecond),
        ...(options.limit === undefined ? [] : ["-l", String(options.limit)]),
        ...(service === undefined ? [] : ["-s", service]),
        ...Object.entries(variables).flatMap(([name, value]) => ["-key", name, String(value)]),
        "-timeout",
        `${Math.ceil(timeoutMs / 1_000)}`,
        "-timeout_error",
        "-nostdin",
        "-trace_msg",
        "-message_file",
        join(folder, "messages.log"),
        "-trace_err",
        "-error_file",
        join(folder, "errors.log"),
        ...(options.args ?? []),
      ],
      // A short scenario may be over before it was seen listening.
      ready: (running) =>
        running.exit !== undefined ||
        ownsPort(running.pid, protocol === "udp" || target !== undefined ? "udp" : "tcp", port) ||
        (protocol === "tcp" && target !== undefined),
    });
    return new Sipp(port, folder, child, resources.move());
  }

  get messages(): readonly SippMessage[] {
    return parseMessageTrace(readIfThere(join(this.#folder, "messages.log")));
  }
  get errors(): string {
    return readIfThere(join(this.#folder, "errors.log"));
  }

  /** The result once SIPp has ended by itself. */
  async finished(): Promise<SippResult> {
    const { code } = await this.#process.exited;
    return { exitCode: code, messages: this.messages, errors: this.errors, output: this.#process.output };
  }

  async stop(): Promise<void> {
    await this.#process.stop({ graceMs: 1_000 });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
    await this.#resources[Symbol.asyncDispose]();
  }
}

/** Runs one scenario to its end. */
export async function runSipp(options: SippOptions): Promise<SippResult> {
  await using sipp = await Sipp.start(options);
  return await sipp.finished();
}

/** Fails with everything SIPp said unless all its calls succeeded. */
export function expectSuccess(result: SippResult): void {
  if (result.exitCode === 0) return;
  const ladder = result.messages
    .map((message) => `${message.direction === "sent" ? "->" : "<-"} ${message.what}`)
    .join("\n");
  throw new Error(
    `SIPp ended with status ${result.exitCode}\n${result.errors}\n${ladder}\n${result.output.slice(-2_000)}`,
  );
}
