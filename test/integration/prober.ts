import { createSocket } from "node:dgram";
import { once } from "node:events";
import { connect } from "node:net";

import { waitFor } from "../support/wait.ts";

let probes = 0;

/** A sender of any bytes over UDP or TCP that collects what comes back and can ask whether everything is worked off. */
export class Prober implements AsyncDisposable {
  readonly #send: (bytes: Buffer) => void;
  readonly #close: () => void;
  readonly #transport: "UDP" | "TCP";
  #datagrams: string[] = [];
  #stream = "";
  #closed = false;

  private constructor(transport: "UDP" | "TCP", send: (bytes: Buffer) => void, close: () => void) {
    this.#transport = transport;
    this.#send = send;
    this.#close = close;
  }

  static async open(transport: "udp" | "tcp", port: number): Promise<Prober> {
    if (transport === "udp") {
      const socket = createSocket("udp4");
      const prober = new Prober(
        "UDP",
        (bytes) => {
          socket.send(bytes, port, "127.0.0.1");
        },
        () => {
          socket.close();
        },
      );
      socket.on("message", (bytes) => prober.#datagrams.push(bytes.toString("latin1")));
      socket.bind(0, "127.0.0.1");
      await once(socket, "listening");
      return prober;
    }
    const socket = connect(port, "127.0.0.1");
    const prober = new Prober(
      "TCP",
      (bytes) => {
        socket.write(bytes);
      },
      () => {
        socket.destroy();
      },
    );
    socket.on("error", () => undefined);
    socket.on("data", (bytes) => {
      prober.#stream += bytes.toString("latin1");
    });
    for (const event of ["end", "close"]) {
      socket.on(event, () => {
        prober.#closed = true;
      });
    }
    await once(socket, "connect");
    return prober;
  }

  send(bytes: Buffer): void {
    this.#send(bytes);
  }

  /** Everything that came but the answers to our own probes. */
  text(): string {
    return this.#messages().join("");
  }

  /** Statuses of the final answers; one that came again is one answer. */
  finals(): number[] {
    const statuses = this.#messages().map((text) => Number(/^SIP\/2\.0 (\d{3})/.exec(text)?.[1]));
    return [...new Set(statuses)].filter((status) => status >= 200);
  }

  packets(): number {
    return this.#messages().length;
  }

  bytes(): number {
    return this.text().length;
  }

  closed(): boolean {
    return this.#closed;
  }

  /** Comes back when an OPTIONS sent now has been answered, and so everything before it has been worked off. */
  async probe(): Promise<void> {
    const id = `probe-${(probes += 1)}`;
    this.#send(
      Buffer.from(
        `OPTIONS sip:probe@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/${this.#transport} 127.0.0.1;rport;branch=z9hG4bK${id}\r\n` +
          `From: <sip:p@127.0.0.1>;tag=${id}\r\nTo: <sip:probe@127.0.0.1>\r\nCall-ID: ${id}\r\nCSeq: 1 OPTIONS\r\n` +
          "Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n",
      ),
    );
    await waitFor(
      () => this.#everything().some((text) => text.startsWith("SIP/2.0 200") && text.includes(`tag=${id}`)),
      {
        what: `the answer to ${id}`,
        intervalMs: 1,
      },
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#close();
    await Promise.resolve();
  }

  #everything(): string[] {
    return this.#transport === "UDP"
      ? this.#datagrams
      : this.#stream.split(/(?=SIP\/2\.0 \d{3} )/).filter((text) => text.startsWith("SIP/2.0"));
  }

  #messages(): string[] {
    return this.#everything().filter((text) => !text.includes("probe-"));
  }
}
