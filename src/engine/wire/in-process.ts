import { Socket } from "node:net";

/**
 * One end of a connection within this process. drachtio-srf takes nothing but a `net.Socket`; this one has no file
 * descriptor, so a frame costs neither a system call nor a look at the kernel's queue.
 */
class End extends Socket {
  /** Set by `inProcessPair` before anything is written. */
  other: End | undefined;
  /** Whether each write is read in a turn of the event loop of its own. */
  readonly #inTurns: boolean;

  constructor(inTurns: boolean) {
    super({ allowHalfOpen: false });
    this.#inTurns = inTurns;
  }

  override _read(): void {
    // The other end pushes whatever it is given.
  }

  override _write(chunk: Buffer | string, encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.other?.hear(typeof chunk === "string" ? Buffer.from(chunk, encoding) : chunk);
    done();
  }

  override _writev(
    chunks: readonly { chunk: Buffer | string; encoding: BufferEncoding }[],
    done: (error?: Error | null) => void,
  ): void {
    for (const { chunk, encoding } of chunks) {
      this.other?.hear(typeof chunk === "string" ? Buffer.from(chunk, encoding) : chunk);
    }
    done();
  }

  override _final(done: (error?: Error | null) => void): void {
    this.other?.hear(null);
    done();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    setImmediate(() => this.other?.destroy());
    super._destroy(error, done);
  }

  /** Null is the end of the stream. */
  hear(chunk: Buffer | null): void {
    if (!this.#inTurns) {
      this.#take(chunk);
      return;
    }
    setImmediate(() => {
      this.#take(chunk);
    });
  }

  #take(chunk: Buffer | null): void {
    if (!this.destroyed && !this.readableEnded) {
      this.push(chunk);
    }
  }
}

/**
 * Two ends of a connection. What the engine writes is read one write a turn, because drachtio-srf serves all that it reads
 * at once without a turn between, and a BYE that came with the answer before it would meet a Dialog nobody listens to yet.
 * What the application writes is obeyed at once.
 */
export function inProcessPair(): { readonly engine: Socket; readonly application: Socket } {
  const engine = new End(false);
  const application = new End(true);
  engine.other = application;
  application.other = engine;
  return { engine, application };
}
