import { connect } from "node:net";
import { beforeAll, describe, expect, it } from "vitest";

import { encodeFrame } from "../../src/engine/wire/frame.ts";
import { seededRandom } from "../unit/engine-clock.ts";
import { corpus } from "../support/sip-corpus.ts";
import { waitFor } from "../support/wait.ts";
import { Closings, secret, startTestEngine, type TestEngine } from "./engine-support.ts";
import { Prober } from "./prober.ts";

// The whole engine, drachtio-srf behind it, under messages that nobody should send: on UDP, on TCP and on the wire to the
// applications. Everything is answered or dropped, the next sound message is served, and nothing stays behind.

const closings = new Closings();
let rig: TestEngine;

beforeAll(async () => {
  rig = await startTestEngine(closings, {
    t1Ms: 5,
    limits: { tcp: { partialMessageMs: 200, connectionsPerAddress: 1_000 } },
  });
  const srf = await rig.connect();
  srf.invite((_req, res) => {
    res.send(486);
  });
  srf.options((_req, res) => {
    res.send(200);
  });
  for (const verb of ["register", "message", "info", "notify", "subscribe"]) {
    srf.use(verb, (_req, res) => {
      res.send(405);
    });
  }
});

const invite = (id: string, transport: string): string =>
  `INVITE sip:100@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/${transport} 127.0.0.1;rport;branch=z9hG4bK${id}\r\nMax-Forwards: 70\r\n` +
  `From: "Caller" <sip:caller@127.0.0.1:5070>;tag=${id}\r\nTo: "Callee" <sip:100@127.0.0.1>\r\nCall-ID: ${id}@127.0.0.1\r\n` +
  `CSeq: 1 INVITE\r\nContact: <sip:caller@127.0.0.1:5070;transport=udp>\r\nRoute: <sip:127.0.0.1;lr>\r\n` +
  `Record-Route: <sip:127.0.0.2;lr>\r\nP-Asserted-Identity: "A" <sip:+441234@127.0.0.1>\r\nContent-Type: application/sdp\r\n` +
  "Content-Length: 23\r\n\r\nv=0\r\no=- 1 1 IN IP4 1.1.";
// Elements as the PROTOS test suite of 2002 puts them in the place of sound ones: overflows, format strings, broken UTF-8,
// delimiters, signs, empty and repeated things.
const elements: readonly string[] = [
  "",
  " ",
  "\t",
  "a",
  "%s%s%s%n",
  "\0",
  "\u0001\u0007",
  "\u007f",
  "\u00ff\u00fe",
  "\u00c0\u00af",
  "\r",
  "\n",
  "\r\n",
  "\r\n ",
  "\r\n\r\n",
  "<",
  ">",
  "<>",
  "<<>>",
  '"',
  '""',
  '"\\',
  "\\",
  ";",
  ";;",
  ";=",
  "=",
  ",",
  ",,",
  ":",
  "::",
  "@",
  "@@",
  "?",
  "&",
  "%",
  "%0",
  "%00",
  "%zz",
  "[",
  "]",
  "[::1]",
  "[::::]",
  "1.2.3.4.5",
  "-1",
  "+1",
  "0",
  "4294967296",
  "99999999999999999999",
  "0x1",
  "1e9",
  "__proto__",
  "constructor",
  "sip:",
  "sip:@",
  "sips:a@b",
  "tel:1",
  "SIP/2.0",
  "INVITE",
  "z9hG4bK",
  "tag=",
  ";tag=x",
  ";branch=",
  "a".repeat(300),
  "a".repeat(3_000),
  " ".repeat(2_000),
  ";".repeat(1_000),
  "<".repeat(1_000),
  '"'.repeat(999),
  "\r\n ".repeat(500),
  "a=b;".repeat(400),
  "%41".repeat(500),
  "::".repeat(500),
];
const pieces = (text: string): string[] => text.split(/(?=[<>;:=@," \r])|(?<=[<>;:=@," \n])/);

/** One INVITE of the corpus: the first cases put one element into one place, the later ones several. */
function malformed(count: number, transport: string): Buffer {
  const random = seededRandom(20_020_101 + count);
  const parts = pieces(invite(`${transport}${count}`, transport));
  for (let changes = count % 4 === 0 ? 1 + random.integer(3) : 1; changes > 0; changes -= 1) {
    parts[random.integer(parts.length)] = elements[random.integer(elements.length)] ?? "";
  }
  return Buffer.from(parts.join(""), "latin1");
}

/** Nothing that hurt the engine happened, and everything it began has come to its end. */
async function isWell(): Promise<void> {
  await waitFor(() => rig.engine.isIdle(), { what: "an idle engine", timeoutMs: 10_000 });
  const { agent, counters, transport, transactions } = rig.engine.stats();
  expect(agent.incoming).toBe(0);
  expect(counters.requestsUnanswered).toBe(0);
  expect([transport.faults, transactions.faults]).toEqual([0, 0]);
}

const batch = 10;

describe("a corpus of malformed INVITEs", () => {
  it("2,000 over UDP: every INVITE is answered, the next OPTIONS too, and nothing is left behind", async () => {
    await using one = await Prober.open("udp", rig.port);
    for (let count = 0; count < 2_000; count += 1) {
      one.send(malformed(count, "UDP"));
      if (count % batch === batch - 1) {
        await one.probe();
      }
    }
    await isWell();
    expect(one.finals()).toContain(486);
    expect(one.finals()).toContain(400);
  });

  it("500 over TCP, each on a connection of its own that is closed at once or after its answer", async () => {
    for (let count = 0; count < 500; count += batch) {
      const senders: Prober[] = [];
      for (let index = count; index < count + batch; index += 1) {
        const one = await Prober.open("tcp", rig.port);
        senders.push(one);
        one.send(malformed(index, "TCP"));
      }
      await using probe = await Prober.open("tcp", rig.port);
      await probe.probe();
      for (const one of senders) {
        await one[Symbol.asyncDispose]();
      }
    }
    await isWell();
    await waitFor(() => rig.engine.stats().transport.tcpConnections === 0, { what: "all connections closed" });
  });

  it("messages of the corpora with bytes turned over, over UDP and TCP", async () => {
    const random = seededRandom(4_475);
    const seeds = corpus();
    await using udp = await Prober.open("udp", rig.port);
    for (let round = 0; round < 100; round += 1) {
      await using tcp = await Prober.open("tcp", rig.port);
      for (let index = 0; index < batch; index += 1) {
        const bytes = Buffer.from(seeds[random.integer(seeds.length)] ?? "");
        for (let change = 0; change < 3; change += 1) {
          bytes[random.integer(bytes.length)] = random.integer(256);
        }
        udp.send(bytes);
        tcp.send(bytes);
      }
      await udp.probe();
    }
    await isWell();
  });
});

describe("an application that sends nonsense over the wire", () => {
  const frame = (...tokens: string[]): Buffer => encodeFrame(["00000000-0000-4000-8000-000000000001", ...tokens]);
  const command = (sip: string, ...tokens: string[]): Buffer =>
    encodeFrame(["00000000-0000-4000-8000-000000000002", "sip", ...tokens], Buffer.from(sip, "latin1"));

  it("is refused or cut off, and the other application goes on", async () => {
    const random = seededRandom(9_022);
    await using probe = await Prober.open("udp", rig.port);
    for (let round = 0; round < 100; round += 1) {
      const socket = connect(rig.engine.controlPort, "127.0.0.1");
      socket.on("error", () => undefined);
      socket.resume();
      socket.write(frame("authenticate", secret));
      for (let index = 0; index < batch; index += 1) {
        const one = malformed(round * batch + index, "UDP").toString("latin1");
        const [, ...tokens] = pieces(invite("wire", "UDP"));
        socket.write(
          [
            command(one),
            command(one, "", "no-such-dialog"),
            command(one, "no-such-transaction", ""),
            frame("route", tokens[random.integer(tokens.length)] ?? ""),
            frame(elements[random.integer(elements.length)] ?? ""),
          ][random.integer(5)] ?? "",
        );
      }
      // The length of a frame that is none ends the connection.
      socket.write(elements[random.integer(elements.length)] ?? "");
      await probe.probe();
      socket.destroy();
    }
    await isWell();
    await waitFor(() => rig.engine.stats().wire.clients === 1, { what: "only the first application" });
  });
});

it("nothing is left behind in the engine", async () => {
  await closings.settleAll();
});
