// An application that speaks the control protocol by hand, for what drachtio-srf would never send.
import { connect } from "node:net";
import type { Socket } from "node:net";

import { encodeFrame, FrameDecoder } from "../../src/engine/wire/frame.ts";
import type { WireMessage } from "../../src/engine/wire/frame.ts";

/** An application on a raw control connection: sends frames, keeps what came back. */
export class RawApp {
  readonly socket: Socket;
  readonly received: WireMessage[] = [];
  closed = false;
  readonly #decoder = new FrameDecoder();
  #waiting: (() => void)[] = [];

  constructor(port: number) {
    this.socket = connect({ host: "127.0.0.1", port });
    this.socket.on("data", (chunk: Buffer) => {
      this.received.push(...this.#decoder.push(chunk).messages);
      this.#wake();
    });
    this.socket.on("error", () => undefined);
    this.socket.on("close", () => {
      this.closed = true;
      this.#wake();
    });
  }

  #wake(): void {
    for (const wake of this.#waiting.splice(0)) {
      wake();
    }
  }

  send(tokens: readonly string[], sip?: string): void {
    this.socket.write(encodeFrame(tokens, sip === undefined ? undefined : Buffer.from(sip)));
  }

  async until(condition: () => boolean): Promise<void> {
    const deadline = performance.now() + 5000;
    while (!condition()) {
      if (performance.now() > deadline) {
        throw new Error(`waited too long; received ${JSON.stringify(this.received.map((one) => one.tokens))}`);
      }
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, 500);
        this.#waiting.push(() => {
          clearTimeout(timer);
          resolve();
        });
      });
    }
  }

  /** The answer to a command, without its random first token. */
  async answer(requestId: string): Promise<readonly string[]> {
    const find = (): WireMessage | undefined =>
      this.received.find((message) => message.tokens[1] === "response" && message.tokens[2] === requestId);
    await this.until(() => find() !== undefined || this.closed);
    return find()?.tokens.slice(1) ?? [];
  }

  async authenticate(secret = "cymru", tags = ""): Promise<readonly string[]> {
    this.send(["auth-1", "authenticate", secret, tags]);
    return this.answer("auth-1");
  }
}
