import { createSocket, type Socket } from "node:dgram";
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { beforeAll, describe, expect, it } from "vitest";

import { Closings, startTestEngine, type TestEngine } from "./engine-support.ts";
import { waitFor } from "../support/wait.ts";
import { seededRandom } from "../unit/engine-clock.ts";

// The whole engine with a real drachtio-srf behind it: what the sender of each message sees. The application answers
// 486 to INVITE, 200 to OPTIONS and, as Patchbay is no registrar and no message store, 405 to REGISTER and MESSAGE.

const folder = fileURLToPath(new URL("../../../shared/data", import.meta.url));
const present = existsSync(folder);
if (!present) {
  console.log(`skipped: the torture messages are not at ${folder}`);
}

const none = 0;
const answers: Readonly<Record<string, Readonly<Record<string, number>>>> = {
  rfc4475: {
    "wsinv.dat": 481,
    "intmeth.dat": 501,
    "esc01.dat": 486,
    "escnull.dat": 405,
    "esc02.dat": 501,
    "lwsdisp.dat": 200,
    "longreq.dat": 486,
    "dblreq.dat": 405,
    "semiuri.dat": 200,
    "transports.dat": 200,
    "mpart01.dat": 405,
    "unreason.dat": none,
    "noreason.dat": none,
    "badinv01.dat": 400,
    "clerr.dat": 400,
    "ncl.dat": 400,
    "scalar02.dat": 400,
    "scalarlg.dat": none,
    "quotbal.dat": 400,
    "ltgtruri.dat": 400,
    "lwsruri.dat": 400,
    "lwsstart.dat": 400,
    "trws.dat": 400,
    "escruri.dat": 400,
    "baddate.dat": 486,
    "regbadct.dat": 400,
    "badaspec.dat": 400,
    "baddn.dat": 400,
    "badvers.dat": 505,
    "mismatch01.dat": 400,
    "mismatch02.dat": 501,
    "bigcode.dat": none,
    "badbranch.dat": 400,
    "insuf.dat": 400,
    "unkscm.dat": 416,
    "novelsc.dat": 416,
    "unksm2.dat": 405,
    "bext01.dat": 420,
    "invut.dat": 486,
    "regaut01.dat": 405,
    "multi01.dat": 400,
    "mcl01.dat": 400,
    "bcast.dat": none,
    "zeromf.dat": 200,
    "cparam01.dat": 405,
    "cparam02.dat": 405,
    "regescrt.dat": 405,
    "sdp01.dat": 486,
    "inv2543.dat": 400,
  },
  rfc5118: {
    "ipv6-good": 405,
    "ipv6-bad": 400,
    "port-ambiguous": 405,
    "port-unambiguous": 405,
    "via-received-param-with-delim": 481,
    "via-received-param-no-delim": 200,
    "ipv6-in-sdp": 486,
    "mult-ip-in-header": 481,
    "mult-ip-in-sdp": 486,
    "ipv4-mapped-ipv6": 486,
    "ipv6-bug-abnf-3-colons": 400,
    "ipv6-correct-abnf-2-colons": 200,
  },
};

/** Asks for the answer at the port it is sent from, which the senders of 2006 did not. Nothing else is changed. */
function withRport(bytes: Buffer): Buffer {
  const text = bytes.toString("latin1");
  // Up to the first parameter or the end of the first Via value, folds included.
  const via = /^(?:via|v)[ \t]*:(?:[^;,\r\n]|\r\n[ \t])*/im.exec(text);
  if (via === null || /rport/i.test(text.slice(via.index, text.indexOf("\r\n", via.index + via[0].length)))) {
    return bytes;
  }
  const end = via.index + via[0].length;
  return Buffer.from(`${text.slice(0, end)};rport${text.slice(end)}`, "latin1");
}

interface Prober {
  readonly finals: () => number[];
  readonly packets: () => number;
  send(bytes: Buffer): void;
  /** An OPTIONS that is answered only when everything before it has been worked off; gives the milliseconds it took. */
  probe(): Promise<void>;
  close(): void;
}

let probes = 0;

async function prober(port: number): Promise<Prober> {
  const socket: Socket = createSocket("udp4");
  const got: string[] = [];
  socket.on("message", (bytes) => got.push(bytes.toString("latin1")));
  await new Promise<void>((resolve) => {
    socket.bind(0, "127.0.0.1", resolve);
  });
  const others = (): string[] => got.filter((text) => !text.includes("probe-"));
  return {
    // A retransmitted final response is one answer.
    finals: () =>
      [...new Set(others().map((text) => Number(/^SIP\/2\.0 (\d{3})/.exec(text)?.[1])))].filter((one) => one >= 200),
    packets: () => others().length,
    send: (bytes) => {
      socket.send(bytes, port, "127.0.0.1");
    },
    probe: async () => {
      const id = `probe-${(probes += 1)}`;
      socket.send(
        `OPTIONS sip:probe@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;rport;branch=z9hG4bK${id}\r\n` +
          `From: <sip:p@127.0.0.1>;tag=${id}\r\nTo: <sip:probe@127.0.0.1>\r\nCall-ID: ${id}\r\nCSeq: 1 OPTIONS\r\n` +
          "Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n",
        port,
        "127.0.0.1",
      );
      await waitFor(() => got.some((text) => text.startsWith("SIP/2.0 200") && text.includes(`tag=${id}`)), {
        what: `the answer to ${id}`,
        intervalMs: 1,
      });
    },
    close: () => {
      socket.close();
    },
  };
}

const closings = new Closings();
let rig: TestEngine;

beforeAll(async () => {
  rig = await startTestEngine(closings, { t1Ms: 5 });
  const srf = await rig.connect();
  srf.invite((_req, res) => {
    res.send(486);
  });
  srf.options((_req, res) => {
    res.send(200);
  });
  for (const verb of ["register", "message"]) {
    srf.use(verb, (_req, res) => {
      res.send(405);
    });
  }
});

/** Top Vias sent so far: with the same one again, two messages of the corpus would be one transaction. */
const vias = new Set<string>();

async function awaitFreshVia(bytes: Buffer): Promise<void> {
  const via = /^(?:via|v)[ \t]*:[^\r]*/im.exec(bytes.toString("latin1"))?.[0] ?? "";
  if (vias.has(via)) {
    await waitFor(() => rig.engine.isIdle(), { what: "the end of the earlier transaction" });
  }
  vias.add(via);
}

describe.skipIf(!present)(
  "torture messages on the wire (skipped where ../shared/data is not beside the project)",
  () => {
    for (const [set, table] of Object.entries(answers)) {
      for (const [name, status] of Object.entries(table)) {
        it(`${set} ${name}: ${status === none ? "no answer" : status}`, async () => {
          const one = await prober(rig.port);
          try {
            const bytes = readFileSync(`${folder}/${set}/${name}`);
            await awaitFreshVia(bytes);
            one.send(withRport(bytes));
            await one.probe();
            if (status === none) {
              // The probe behind it has been answered, so an answer to it would be there.
              expect(one.packets()).toBe(0);
            } else {
              await waitFor(() => one.finals().length > 0, { what: "the final answer" });
              expect(one.finals()).toEqual([status]);
            }
            if (status === 400 || status === 501 || status === 505) {
              // One packet in, one packet out: nobody can use us to multiply traffic.
              expect(one.packets()).toBe(1);
            }
          } finally {
            one.close();
          }
        });
      }
    }
  },
);

describe("a corpus of malformed INVITEs", () => {
  const invite = (id: string): string =>
    `INVITE sip:100@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;rport;branch=z9hG4bK${id}\r\nMax-Forwards: 70\r\n` +
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

  it("is survived: every INVITE is answered, the next OPTIONS too, and nothing is left behind", async () => {
    const random = seededRandom(20_020_101);
    const one = await prober(rig.port);
    try {
      for (let count = 0; count < 400; count += 1) {
        const id = `protos${count}`;
        const parts = pieces(invite(id));
        for (let changes = 1 + random.integer(3); changes > 0; changes -= 1) {
          parts[random.integer(parts.length)] = elements[random.integer(elements.length)] ?? "";
        }
        one.send(Buffer.from(parts.join(""), "latin1"));
        await one.probe();
      }
      // Everything the engine took as a transaction ends by itself: an answer that nobody acknowledges, then timer H.
      await waitFor(() => rig.engine.isIdle(), { what: "an idle engine", timeoutMs: 10_000 });
      const { agent, counters, transport } = rig.engine.stats();
      expect(agent.incoming).toBe(0);
      expect(counters.requestsUnanswered).toBe(0);
      expect(transport.faults).toBe(0);
      expect(one.finals()).toContain(486);
      expect(one.finals()).toContain(400);
    } finally {
      one.close();
    }
  });
});

it("nothing is left behind in the engine", async () => {
  await closings.settleAll();
});
