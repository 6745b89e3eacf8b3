import { beforeAll, describe, expect, it } from "vitest";

import type { CallSetup } from "../../src/call/setup.ts";
import { Closings } from "./engine-support.ts";
import { startSide, type TestSide } from "./sip-support.ts";
import { Prober } from "./prober.ts";
import { hasTortureMessages, tortureMessages, withRport } from "../support/sip-corpus.ts";
import { waitFor } from "../support/wait.ts";

// What the sender of each torture message sees of the whole signalling side: the engine, a real drachtio-srf and our own
// user agent behind it. Calls that are let in are refused 486, so that every INVITE gets its final answer.

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
    "invut.dat": 415,
    "regaut01.dat": 405,
    "multi01.dat": 400,
    "mcl01.dat": 400,
    "bcast.dat": none,
    "zeromf.dat": 200,
    "cparam01.dat": 405,
    "cparam02.dat": 405,
    "regescrt.dat": 405,
    "sdp01.dat": 406,
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

// What differs on TCP, where a message ends where its Content-Length says (RFC 3261 §18.3).
const overTcp: Readonly<Record<string, readonly number[]>> = {
  // The octets behind it are the next message, an INVITE without a Contact, and behind that there is no message.
  "dblreq.dat": [400, 405],
};
/** The place of the next message is lost, or what is left of this one never comes: the connection is closed. */
const closedOverTcp: ReadonlySet<string> = new Set(["clerr.dat", "dblreq.dat", "ncl.dat", "mcl01.dat", "inv2543.dat"]);
/** Headers that go with some answers. */
const accompanied: Readonly<Record<number, string>> = { 405: "Allow", 415: "Accept", 420: "Unsupported", 501: "Allow" };

const closings = new Closings();
let side: TestSide;
let port: number;

beforeAll(async () => {
  const yaml = `
trunks:
  - id: t
    sources: [127.0.0.1]
    gateways: [{ id: g, host: 127.0.0.1, port: 9 }]
channels:
  - botId: b
    trunk: t
    numbers: ["*"]
`;
  const onCall = (setup: CallSetup): void => {
    side.side.reject(setup.call, setup.caller, 486, "Busy Here");
  };
  // Peers that do not finish a message are given up soon.
  side = await startSide(closings, yaml, { t1Ms: 5, onCall, embedded: { limits: { tcp: { partialMessageMs: 300 } } } });
  port = side.engine.port;
});

/** Top Vias sent so far: with the same one again, two messages of the corpus would be one transaction. */
const vias = new Set<string>();

async function awaitFreshVia(bytes: Buffer): Promise<void> {
  const via = /^(?:via|v)[ \t]*:[^\r]*/im.exec(bytes.toString("latin1"))?.[0] ?? "";
  if (vias.has(via)) {
    await waitFor(() => side.engine.embedded().isIdle(), { what: "the end of the earlier transaction" });
  }
  vias.add(via);
}

describe.skipIf(!hasTortureMessages)(
  "torture messages on the wire (skipped where ../shared/data is not beside the project)",
  () => {
    for (const set of ["rfc4475", "rfc5118"] as const) {
      const table = answers[set] ?? {};
      it(`${set}: the table names every message there is`, () => {
        expect([...tortureMessages(set).keys()]).toEqual(Object.keys(table).toSorted());
      });

      for (const [name, bytes] of tortureMessages(set)) {
        const status = table[name] ?? none;
        it(`${set} ${name} over UDP: ${status === none ? "no answer" : status}`, async () => {
          await using one = await Prober.open("udp", port);
          await awaitFreshVia(bytes);
          one.send(withRport(bytes));
          await one.probe();
          if (status === none) {
            // The probe behind it has been answered, so an answer to it would be there.
            expect(one.packets()).toBe(0);
            return;
          }
          await waitFor(() => one.finals().length > 0, { what: "the final answer" });
          expect(one.finals()).toEqual([status]);
          // What is refused before it is understood gets no more than its status.
          const header = name === "mismatch02.dat" ? undefined : accompanied[status];
          expect(one.text()).toMatch(new RegExp(`^${header ?? "Via"}: `, "m"));
          if (status === 400 || status === 501 || status === 505) {
            // One packet in, one packet out: nobody can use us to multiply traffic.
            expect(one.packets()).toBe(1);
          }
        });

        const wanted = overTcp[name] ?? (status === none ? [] : [status]);
        const closes = closedOverTcp.has(name);
        it(`${set} ${name} over TCP: ${wanted.length === 0 ? "no answer" : wanted.join(", ")}${closes ? ", closed" : ""}`, async () => {
          await using one = await Prober.open("tcp", port);
          await awaitFreshVia(bytes);
          one.send(bytes);
          if (closes) {
            await waitFor(() => one.closed(), { what: "the end of the connection" });
            await waitFor(() => one.finals().length >= wanted.length, { what: "the final answers" });
          } else {
            await waitFor(() => one.finals().length >= wanted.length, { what: "the final answers" });
            // On a connection of its own, because octets behind a message are the beginning of the next one here.
            await using other = await Prober.open("tcp", port);
            await (wanted.length === 0 ? one : other).probe();
            expect(one.closed()).toBe(false);
          }
          expect(one.finals().toSorted((a, b) => a - b)).toEqual(wanted);
          if (wanted.length === 0) {
            expect(one.packets()).toBe(0);
          }
        });
      }
    }
  },
);

it("nothing is left behind in the engine", async () => {
  await closings.settleAll();
});
