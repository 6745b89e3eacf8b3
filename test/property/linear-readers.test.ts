import { describe, expect, it } from "vitest";

import type { LegId } from "../../src/call/ids.ts";
import { systemClock } from "../../src/engine/timers.ts";
import type { Lookups } from "../../src/engine/transport/lookups.ts";
import { orderServices, TargetResolver } from "../../src/engine/transport/resolve.ts";
import { Sources } from "../../src/engine/transport/sources.ts";
import { readAudio } from "../../src/media/switching/sdp.ts";
import type { IncomingRequest, SipDialog } from "../../src/sip/link/types.ts";
import { readHeaders, type ReceivedHeaders } from "../../src/sip/message.ts";
import { parseReason } from "../../src/sip/reason.ts";
import { ReferWatch } from "../../src/sip/refer.ts";
import { answerSession, leastAcceptedBy } from "../../src/sip/session-expires.ts";
import { growth, linear } from "../support/growth.ts";
import { seededRandom } from "../unit/engine-clock.ts";

// Every reader of what others write, behind the engine's parser (engine-parser.test.ts) and beside it: eight times the input
// takes about eight times the work.

/** A test of its own for each shape of input; `read` gets it ready made. */
function linearIn<T>(shapes: Readonly<Record<string, (size: number) => T>>, size: number, read: (input: T) => unknown) {
  for (const [name, shape] of Object.entries(shapes)) {
    it(name, () => {
      const reading = (wanted: number) => {
        const input = shape(wanted);
        return (): void => {
          read(input);
        };
      };
      expect(growth(reading, size)).toBeLessThan(linear);
    });
  }
}

const bits = ['"', ";", ",", " ", "\\", "=", "<", ">", "a ", ";a=", '";', '",', "\t ;", "%41", "\r\n "] as const;
const repeated = (head: string): Record<string, (size: number) => string> =>
  Object.fromEntries(
    bits.map((bit) => [JSON.stringify(bit), (size: number) => head + bit.repeat(size / bit.length) + "x"]),
  );

describe("a session description", () => {
  // Read up to 32 KiB, so this is what the largest costs against an eighth of it.
  const whole = (media: string): string =>
    `v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n${media}`;
  const audio = "m=audio 4000 RTP/AVP 0\r\n";
  const lines =
    (line: string) =>
    (size: number): string =>
      whole(audio + `${line}\r\n`.repeat(size / (line.length + 2)));
  linearIn(
    {
      attributes: lines("a=x"),
      "rtpmap lines": lines("a=rtpmap:0 PCMU/8000"),
      "rtpmap with blanks": (size) => whole(`${audio}a=rtpmap:0${" ".repeat(size)}`),
      "connection lines": lines("c=IN IP4 192.0.2.1"),
      "a connection of blanks": (size) => whole(`${audio}c=IN${" ".repeat(size)}IP4`),
      "payload types": (size) => whole(`m=audio 4000 RTP/AVP${" 97".repeat(size / 3)}\r\n`),
      "blanks in a stream": (size) => whole(`m=audio${" ".repeat(size)}`),
      "blanks at the end of a line": (size) => whole(`${audio}a=x${" \t".repeat(size / 2)}b`),
      "line ends": (size) => whole(audio + "\r".repeat(size)),
      "session lines": (size) => `v=0\r\n${"a=sendrecv\r\n".repeat(size / 12)}c=IN IP4 192.0.2.1\r\n${audio}`,
    },
    4_000,
    readAudio,
  );
});

describe("header lines of a message", () => {
  linearIn(
    {
      lines: (size) => `BYE sip:a@b SIP/2.0\r\n${"X: 1\r\n".repeat(size / 6)}\r\n`,
      "different lines": (size) =>
        `BYE sip:a@b SIP/2.0\r\n${Array.from({ length: size / 8 }, (_, index) => `X${index}: 1\r\n`).join("")}\r\n`,
      folds: (size) => `BYE sip:a@b SIP/2.0\r\nX: 1${"\r\n ".repeat(size / 3)}\r\n\r\n`,
      blanks: (size) => `BYE sip:a@b SIP/2.0\r\nX: 1${" ".repeat(size)}1\r\n\r\n`,
      colons: (size) => `BYE sip:a@b SIP/2.0\r\nX${":".repeat(size)}\r\n\r\n`,
      "line ends": (size) => `BYE sip:a@b SIP/2.0${"\r\n\r".repeat(size / 3)}`,
    },
    50_000,
    (text) => readHeaders(text).headerLines("x"),
  );
});

describe("Reason", () => {
  linearIn(
    Object.fromEntries(
      Object.entries(repeated("Q.850;cause=16;text=")).map(([name, shape]) => [name, (size: number) => [shape(size)]]),
    ),
    50_000,
    parseReason,
  );
});

describe("what a session timer is asked for", () => {
  const headersOf = (value: string): ReceivedHeaders => ({ header: () => value, headerLines: () => [value] });
  linearIn(repeated("1800"), 50_000, (text) => [answerSession(90, headersOf(text)), leastAcceptedBy(headersOf(text))]);
});

describe("the NOTIFY of a REFER", () => {
  const notify = (text: string): IncomingRequest => ({
    method: "NOTIFY",
    uri: "sip:a@b",
    body: text,
    protocol: "udp",
    sourceAddress: "192.0.2.1",
    sourcePort: 5060,
    settled: false,
    respond: () => undefined,
    ignore: () => undefined,
    header: () => `refer;${text}`,
    headerLines: () => [`refer;${text}`],
  });
  linearIn(
    { ...repeated("SIP/2.0 100"), ...Object.fromEntries([["blanks", (size: number) => " ".repeat(size)]]) },
    50_000,
    (text) => {
      // The REFER has no response yet, and a NOTIFY may be earlier.
      const dialog = { send: () => new Promise<never>(() => undefined) } as Partial<SipDialog> as SipDialog;
      const order = { leg: "leg" as LegId, dialog, referTo: "sip:a@b", referredBy: "sip:c@d", timeoutMs: 1 };
      return new ReferWatch({ ...order, post: () => true, credentials: () => null }).notified(notify(text));
    },
  );
});

const networks = (size: number): string[] =>
  Array.from({ length: size }, (_, index) => `10.${index >> 8}.${index & 255}.0/24`);

describe("the list of sources", () => {
  linearIn({ "to take it in": networks }, 1_000, (list) => new Sources(list));
  linearIn({ "to ask it": (size) => new Sources(networks(size)) }, 1_000, (sources) => {
    for (let count = 0; count < 100; count += 1) {
      sources.allows("192.0.2.1");
    }
  });
});

describe("what a name server answers", () => {
  const services = (size: number) =>
    Array.from({ length: size }, (_, index) => ({ name: `h${index}`, port: index, priority: 1, weight: 1 }));
  linearIn({ "service records": services }, 5_000, (records) => orderServices(records, seededRandom(1), 10));

  /** Time for `addresses` of each of ten hosts; what is asynchronous in it is of the same number for every size. */
  async function resolveMs(addresses: number): Promise<number> {
    const found = Array.from({ length: addresses }, (_, index) => ({
      address: `10.${index >> 16}.${(index >> 8) & 255}.${index & 255}`,
      ttlSeconds: 60,
    }));
    const none = { ipv6: async () => [], local: async () => [], cancel: () => undefined };
    const lookups: Lookups = { ipv4: async () => found, service: async () => services(10), ...none };
    const resolver = new TargetResolver({
      families: () => [4],
      lookups: () => lookups,
      clock: systemClock,
      random: seededRandom(1),
    });
    const { user } = process.cpuUsage();
    const outcome = await resolver.resolve({ host: "many.example", port: undefined, protocols: ["udp"] });
    const ms = process.cpuUsage({ user, system: 0 }).user / 1_000;
    expect(outcome.ok && outcome.addresses.length).toBe(10);
    return ms;
  }

  it("addresses", async () => {
    let least = Infinity;
    for (let round = 0; round < 4 && least >= linear; round += 1) {
      const small = Math.max(await resolveMs(1_000), 1);
      least = Math.min(least, (await resolveMs(8_000)) / small);
    }
    expect(least).toBeLessThan(linear);
  });
});
