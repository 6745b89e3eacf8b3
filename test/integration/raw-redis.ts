// The Redis protocol (RESP2) over a plain socket: what shows that a bot needs no library, ours least of all.
import { connect, type Socket } from "node:net";
import { within } from "../support/wait.ts";

export type RedisReply = string | number | null | RedisError | readonly RedisReply[];

export class RedisError extends Error {}

type Parsed = { readonly reply: RedisReply; readonly next: number } | undefined;

/** One reply that begins at `at`, or undefined while bytes of it are missing. */
function parse(bytes: Buffer, at: number): Parsed {
  const end = bytes.indexOf("\r\n", at);
  if (end < 0) return undefined;
  const line = bytes.toString("utf8", at + 1, end);
  const next = end + 2;
  switch (String.fromCharCode(bytes[at] ?? 0)) {
    case "+":
      return { reply: line, next };
    case "-":
      return { reply: new RedisError(line), next };
    case ":":
      return { reply: Number(line), next };
    case "$": {
      const length = Number(line);
      if (length < 0) return { reply: null, next };
      if (bytes.length < next + length + 2) return undefined;
      return { reply: bytes.toString("utf8", next, next + length), next: next + length + 2 };
    }
    case "*": {
      if (Number(line) < 0) return { reply: null, next };
      const items: RedisReply[] = [];
      let position = next;
      for (let left = Number(line); left > 0; left -= 1) {
        const item = parse(bytes, position);
        if (item === undefined) return undefined;
        items.push(item.reply);
        position = item.next;
      }
      return { reply: items, next: position };
    }
    default:
      throw new Error(`not a reply of Redis: ${JSON.stringify(line.slice(0, 40))}`);
  }
}

export class RawRedis implements AsyncDisposable {
  readonly #socket: Socket;
  readonly #waiting: { resolve(reply: RedisReply): void; reject(error: Error): void }[] = [];
  readonly #onMessage: (channel: string, text: string) => void;
  #unread: Buffer = Buffer.alloc(0);

  private constructor(socket: Socket, onMessage: (channel: string, text: string) => void) {
    this.#socket = socket;
    this.#onMessage = onMessage;
    socket.on("data", (bytes) => this.#received(bytes));
    socket.on("error", (error) => this.#fail(error));
    socket.on("close", () => this.#fail(new Error("Redis closed the connection")));
  }

  static async connect(port: number, onMessage: (channel: string, text: string) => void = () => {}): Promise<RawRedis> {
    const socket = connect({ host: "127.0.0.1", port, noDelay: true });
    const connected = new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", reject);
    });
    await within(connected, 5_000, "a connection to Redis");
    return new RawRedis(socket, onMessage);
  }

  /** Sends one command as an array of bulk strings; rejects when Redis answers with an error. */
  command(...words: readonly (string | Uint8Array)[]): Promise<RedisReply> {
    const parts: Uint8Array[] = [Buffer.from(`*${words.length}\r\n`)];
    for (const word of words) {
      const bytes = Buffer.from(word);
      parts.push(Buffer.from(`$${bytes.length}\r\n`), bytes, Buffer.from("\r\n"));
    }
    const reply = new Promise<RedisReply>((resolve, reject) => this.#waiting.push({ resolve, reject }));
    this.#socket.write(Buffer.concat(parts));
    return within(reply, 10_000, `Redis's answer to ${Buffer.from(words[0] ?? "").toString("utf8")}`);
  }

  #received(bytes: Buffer): void {
    this.#unread = Buffer.concat([this.#unread, bytes]);
    let at = 0;
    for (let parsed = parse(this.#unread, at); parsed !== undefined; parsed = parse(this.#unread, at)) {
      at = parsed.next;
      this.#take(parsed.reply);
    }
    this.#unread = this.#unread.subarray(at);
  }

  #take(reply: RedisReply): void {
    if (Array.isArray(reply) && reply[0] === "message") {
      this.#onMessage(String(reply[1]), String(reply[2]));
      return;
    }
    const first = this.#waiting.shift();
    if (reply instanceof RedisError) first?.reject(reply);
    else first?.resolve(reply);
  }

  #fail(error: Error): void {
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#socket.closed) return;
    const closed = new Promise<void>((resolve) => this.#socket.once("close", () => resolve()));
    this.#socket.destroy();
    await closed;
  }
}
