// A name server on loopback: answers A, AAAA and SRV from a table, counts what it is asked, and can fail like a real one.
import { createSocket, type Socket } from "node:dgram";
import { once } from "node:events";

export interface DnsService {
  readonly priority: number;
  readonly weight: number;
  readonly port: number;
  readonly target: string;
}

/** Records by type and name, such as `A gw.test` or `SRV _sip._udp.test`. */
export interface DnsZone {
  readonly [question: `A ${string}` | `AAAA ${string}`]: readonly string[];
  readonly [question: `SRV ${string}`]: readonly DnsService[];
}

const types: ReadonlyMap<number, "A" | "AAAA" | "SRV"> = new Map([
  [1, "A"],
  [28, "AAAA"],
  [33, "SRV"],
]);

export class DnsServer implements AsyncDisposable {
  /** `address:port`, as a resolver takes it. */
  readonly address: string;
  readonly asked: string[] = [];
  zone: DnsZone;
  ttlSeconds = 60;
  /** `silent` answers nothing, `failing` says SERVFAIL. */
  mood: "well" | "silent" | "failing" = "well";
  readonly #socket: Socket;

  private constructor(socket: Socket, zone: DnsZone) {
    this.#socket = socket;
    this.zone = zone;
    this.address = `127.0.0.1:${socket.address().port}`;
    socket.on("message", (query, from) => {
      const answer = this.#answer(query);
      if (answer !== undefined) socket.send(answer, from.port, from.address);
    });
  }

  static async start(zone: DnsZone): Promise<DnsServer> {
    const socket = createSocket("udp4");
    socket.bind(0, "127.0.0.1");
    await once(socket, "listening");
    return new DnsServer(socket, zone);
  }

  times(question: string): number {
    return this.asked.filter((one) => one === question).length;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await new Promise<void>((resolve) => {
      this.#socket.close(resolve);
    });
  }

  /** RFC 1035 §4: the header, the question as it came, and one record per answer. */
  #answer(query: Buffer): Buffer | undefined {
    const labels: string[] = [];
    let at = 12;
    for (let length = query[at] ?? 0; length > 0; length = query[at] ?? 0) {
      labels.push(query.toString("latin1", at + 1, at + 1 + length));
      at += 1 + length;
    }
    const type = types.get(query.readUInt16BE(at + 1));
    const question = query.subarray(12, at + 5);
    const asked = `${type ?? "other"} ${labels.join(".").toLowerCase()}`;
    this.asked.push(asked);
    if (this.mood === "silent") return undefined;
    const records = this.mood === "well" ? this.#records(asked) : [];
    const known = Object.keys(this.zone).some((one) => one.endsWith(` ${labels.join(".").toLowerCase()}`));
    const code = this.mood === "failing" ? 2 : known ? 0 : 3;
    const header = Buffer.alloc(12);
    query.copy(header, 0, 0, 2);
    header.writeUInt16BE(0x8400 | (query.readUInt16BE(2) & 0x0100) | code, 2);
    header.writeUInt16BE(1, 4);
    header.writeUInt16BE(records.length, 6);
    return Buffer.concat([header, question, ...records.map((data) => this.#record(query.readUInt16BE(at + 1), data))]);
  }

  #records(asked: string): Buffer[] {
    if (asked.startsWith("SRV ")) {
      return (this.zone[asked as `SRV ${string}`] ?? []).map(({ priority, weight, port, target }) => {
        const numbers = Buffer.alloc(6);
        numbers.writeUInt16BE(priority, 0);
        numbers.writeUInt16BE(weight, 2);
        numbers.writeUInt16BE(port, 4);
        return Buffer.concat([numbers, nameBytes(target)]);
      });
    }
    return (this.zone[asked as `A ${string}`] ?? []).map((address) =>
      asked.startsWith("A ") ? Buffer.from(address.split(".").map(Number)) : ipv6Bytes(address),
    );
  }

  #record(type: number, data: Buffer): Buffer {
    const head = Buffer.alloc(12);
    // A pointer to the name of the question.
    head.writeUInt16BE(0xc00c, 0);
    head.writeUInt16BE(type, 2);
    head.writeUInt16BE(1, 4);
    head.writeUInt32BE(this.ttlSeconds, 6);
    head.writeUInt16BE(data.length, 10);
    return Buffer.concat([head, data]);
  }
}

function nameBytes(name: string): Buffer {
  const labels = name.split(".").filter((label) => label !== "");
  return Buffer.concat([
    ...labels.map((label) => Buffer.concat([Buffer.from([label.length]), Buffer.from(label)])),
    Buffer.of(0),
  ]);
}

function ipv6Bytes(address: string): Buffer {
  const [head = "", tail] = address.split("::");
  const left = head.split(":").filter((group) => group !== "");
  const right = (tail ?? "").split(":").filter((group) => group !== "");
  const zeros = Array.from({ length: tail === undefined ? 0 : 8 - left.length - right.length }, () => "0");
  const groups = [...left, ...zeros, ...right].map((group) => Number.parseInt(group, 16));
  return Buffer.from(groups.flatMap((group) => [group >> 8, group & 255]));
}
