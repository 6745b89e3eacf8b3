// A rtpengine that refuses what a test wants refused: stands between a service and a real one.
import { createSocket, type Socket } from "node:dgram";

export class NgFront implements AsyncDisposable {
  /** Commands that were refused. */
  refused = 0;
  /** The words with which a command, as it stands on the wire, is refused; undefined lets it pass. */
  refuses: (command: string) => string | undefined = () => undefined;
  readonly #front: Socket;
  readonly #back: Socket;
  #rtpenginePort: number | undefined;

  private constructor(front: Socket, back: Socket) {
    this.#front = front;
    this.#back = back;
    let service: { readonly port: number; readonly address: string } | undefined;
    back.on("message", (bytes) => {
      if (service !== undefined) front.send(bytes, service.port, service.address);
    });
    front.on("message", (bytes, peer) => {
      service = peer;
      const command = bytes.toString("latin1");
      const reason = this.refuses(command);
      if (reason === undefined) {
        if (this.#rtpenginePort !== undefined) back.send(bytes, this.#rtpenginePort, "127.0.0.1");
        return;
      }
      this.refused += 1;
      const [cookie = ""] = command.split(" ", 1);
      front.send(`${cookie} d12:error-reason${reason.length}:${reason}6:result5:errore`, peer.port, peer.address);
    });
  }

  static async start(): Promise<NgFront> {
    const [front, back] = [createSocket("udp4"), createSocket("udp4")];
    await new Promise<void>((resolve) => {
      front.bind(0, "127.0.0.1", resolve);
    });
    return new NgFront(front, back);
  }

  get port(): number {
    return this.#front.address().port;
  }

  /** Whose commands it passes on from now on. */
  standBefore(rtpenginePort: number): void {
    this.#rtpenginePort = rtpenginePort;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = [this.#front, this.#back].map(
      (socket) => new Promise<void>((resolve) => socket.close(() => resolve())),
    );
    await Promise.all(closed);
  }
}
