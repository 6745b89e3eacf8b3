// Watches what goes over Redis, events and commands alike. By MONITOR and not by a subscription: PUBLISH tells a bot how
// many receivers there were, and a witness must not be one of them.
import { connect, type Socket } from "node:net";
import type { RedisAddress } from "../src/client/index.ts";
import { within } from "../test/support/wait.ts";

export interface WireObject {
  readonly [key: string]: unknown;
}

export interface RedisMessage {
  /** When Redis carried it out, milliseconds since the epoch. */
  readonly atMs: number;
  /** An event of Patchbay's, or a command of the bot's. */
  readonly kind: "event" | "command";
  readonly channel: string;
  /** The very text that was published. */
  readonly text: string;
  readonly body: WireObject;
}

const escapes: Readonly<Record<string, number>> = { n: 10, r: 13, t: 9, a: 7, b: 8 };

/** One argument as MONITOR writes it, back to what it was: bytes that are no printable ASCII stand there as `\xd0`. */
function unescaped(written: string): string {
  const bytes: number[] = [];
  for (const [, hex, escape, plain] of written.matchAll(/\\x([0-9a-f]{2})|\\(.)|([^\\])/gs)) {
    if (hex !== undefined) bytes.push(Number.parseInt(hex, 16));
    else if (escape !== undefined) bytes.push(escapes[escape] ?? escape.charCodeAt(0));
    else if (plain !== undefined) bytes.push(plain.charCodeAt(0));
  }
  return Buffer.from(bytes).toString("utf8");
}

function isObject(value: unknown): value is WireObject {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** One line of MONITOR; undefined when it is no PUBLISH of a JSON object, as the bot contract has them. */
export function readMonitorLine(line: string): RedisMessage | undefined {
  const time = /^\+?(\d+\.\d+) \[/.exec(line)?.[1];
  if (time === undefined) return undefined;
  const [name, channel, text] = Array.from(line.matchAll(/"((?:[^"\\]|\\.)*)"/g), ([, written]) =>
    unescaped(written ?? ""),
  );
  if (name?.toUpperCase() !== "PUBLISH" || channel === undefined || text === undefined) return undefined;
  try {
    const body: unknown = JSON.parse(text);
    const kind = channel.endsWith(":events") ? "event" : "command";
    return isObject(body) ? { atMs: Number(time) * 1_000, kind, channel, text, body } : undefined;
  } catch {
    return undefined;
  }
}

/** Commands are smaller than 64 KiB, and escaping makes them four times as long at most. */
const lineMost = 1024 * 1024;
/** No call of a demo comes near it. */
const messagesMost = 100_000;

interface WitnessOptions {
  readonly botId?: string;
  readonly keep: boolean;
  readonly seen: (message: RedisMessage) => void;
}

export class RedisWitness implements AsyncDisposable {
  /** What was seen, when it is kept. */
  readonly messages: RedisMessage[] = [];
  readonly #socket: Socket;

  private constructor(socket: Socket) {
    this.#socket = socket;
  }

  /**
   * Comes back when it watches. `seen` is called with each message, of one bot where `botId` says so; with `keep` they
   * are kept too.
   * Rejects when Redis cannot be reached or refuses.
   */
  static async start({ url, password }: RedisAddress, { botId, keep, seen }: WitnessOptions): Promise<RedisWitness> {
    const { hostname, port } = new URL(url);
    const socket = connect({ host: hostname, port: Number(port || 6379) }).setEncoding("latin1");
    const witness = new RedisWitness(socket);
    const commands = [...(password === undefined ? [] : [`AUTH ${password}`]), "MONITOR"];
    const watching = new Promise<void>((resolve, reject) => {
      let rest = "";
      let waiting = commands.length;
      socket.once("error", reject);
      socket.once("connect", () => socket.write(`${commands.join("\r\n")}\r\n`));
      socket.on("data", (bytes: string) => {
        const lines = (rest + bytes).split("\r\n");
        rest = (lines.pop() ?? "").slice(0, lineMost);
        for (const line of lines) {
          if (line === "+OK" && --waiting === 0) resolve();
          if (line.startsWith("-")) reject(new Error(`Redis says: ${line.slice(1)}`));
          const message = readMonitorLine(line);
          if (message === undefined) continue;
          if (botId !== undefined && !message.channel.includes(`{${botId}}`)) continue;
          if (keep && witness.messages.length < messagesMost) witness.messages.push(message);
          seen(message);
        }
      });
    });
    // A Redis that goes away later shows as events that are missing.
    socket.on("error", () => undefined);
    try {
      await within(watching, 5_000, "Redis to be watched");
    } catch (error) {
      socket.destroy();
      throw error;
    }
    return witness;
  }

  get events(): readonly WireObject[] {
    return this.messages.filter(({ kind }) => kind === "event").map(({ body }) => body);
  }
  get commands(): readonly WireObject[] {
    return this.messages.filter(({ kind }) => kind === "command").map(({ body }) => body);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#socket.destroy();
  }
}
