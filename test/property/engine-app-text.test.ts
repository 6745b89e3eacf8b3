import fc from "fast-check";
import { createRequire } from "node:module";
import { describe, expect, it } from "vitest";

import { parseContacts, parseNameAddr, parseNameAddrs, parseVias, uriScheme } from "../../src/engine/sip/grammar.ts";
import { Headers, type SipMessage, SipRequest, SipResponse } from "../../src/engine/sip/message.ts";
import { defaultMessageLimits, parseMessage } from "../../src/engine/sip/parse.ts";
import { textForApp } from "../../src/engine/ua/headers.ts";
import { corpus, mutate, mutation } from "../support/sip-corpus.ts";
import { growth, linear } from "../support/growth.ts";

// What the engine hands to an application, judged by the parser that will read it there: drachtio-srf's own.

interface SrfAddress {
  readonly uri: string;
  readonly params: Readonly<Record<string, string | undefined>>;
}

interface SrfMessage {
  readonly method?: string;
  readonly uri?: string;
  readonly status?: number;
  readonly reason?: string;
  readonly body?: string;
  readonly headers: Readonly<Record<string, string>>;
  getParsedHeader(name: string): unknown;
}

const SrfSipMessage = createRequire(import.meta.url)("drachtio-srf/lib/sip-parser/message") as new (
  text: string,
) => SrfMessage;

function readBySrf(message: SipMessage): SrfMessage {
  return new SrfSipMessage(textForApp(message).toString("utf8"));
}

/** The headers as srf keys them, repeated ones joined: what the application's `get` has to give. */
function expectedHeaders(message: SipMessage): Map<string, string[]> {
  const expected = new Map<string, string[]>();
  for (const { name, value } of message.headers.lines) {
    const key =
      name.startsWith("X-") || (name.startsWith("P-") && !name.startsWith("P-Asserted")) ? name : name.toLowerCase();
    expected.set(key, [...(expected.get(key) ?? []), value]);
  }
  return expected;
}

const rewritten: ReadonlySet<string> = new Set(["contact", "route", "record-route", "path", "p-asserted-identity"]);
// Names that would reach what every object inherits, and escapes that srf would undo, are left out on purpose.
const leftOut = (name: string): boolean => name === "__proto__" || name === "constructor" || name.includes("%");

const withoutControls = (text: string): string => text.replaceAll(/(?!\t)[\p{Cc}\u2028\u2029]/gu, " ").trim();

function agrees(message: SipMessage): void {
  const read = readBySrf(message);
  if (message.kind === "request") {
    expect([read.method, read.uri]).toEqual([message.method, message.uri]);
  } else {
    expect([read.status, read.reason]).toEqual([message.status, withoutControls(message.reason)]);
  }
  const expected = expectedHeaders(message);
  for (const [name, values] of expected) {
    if (leftOut(name)) {
      expect(Object.hasOwn(read.headers, name)).toBe(false);
    } else if (name === "content-length") {
      expect(read.headers[name]).toBe(String(message.body.length));
    } else if (!rewritten.has(name)) {
      expect(read.headers[name]).toBe(values.map(withoutControls).join(","));
    }
  }
  if (message.body.length > 0) {
    const text = message.body.toString("utf8");
    expect(read.body).toBe(text.slice(0, message.body.length));
  }
  addressesAgree(message, read);
}

function addressesAgree({ headers }: SipMessage, read: SrfMessage): void {
  for (const name of ["From", "To", "Refer-To", "Referred-By"]) {
    const value = headers.get(name);
    const address = value === undefined ? undefined : parseNameAddr(value);
    if (address !== undefined) {
      expect((read.getParsedHeader(name) as SrfAddress).uri).toBe(address.uri);
    }
  }
  const contacts = parseContacts(headers.all("Contact"));
  if (contacts?.type === "contacts" && contacts.contacts.length > 0) {
    expect((read.getParsedHeader("Contact") as SrfAddress[]).map(({ uri }) => uri)).toEqual(
      contacts.contacts.map(({ uri }) => uri),
    );
  }
  for (const name of ["Route", "Record-Route"]) {
    const addresses = headers.all(name).flatMap((value) => parseNameAddrs(value) ?? []);
    if (addresses.length > 0) {
      expect(read.getParsedHeader(name)).toHaveLength(addresses.length);
    }
  }
  const vias = headers.all("Via").flatMap((value) => parseVias(value) ?? []);
  // srf knows no IPv6 in a Via; of the others it has to see the host.
  if (vias.length === 1 && vias[0] !== undefined && !vias[0].host.includes(":")) {
    expect((read.getParsedHeader("Via") as { host: string }[])[0]?.host).toBe(vias[0].host);
  }
  const cseq = read.getParsedHeader("CSeq") as { seq: number; method: string };
  expect(headers.get("CSeq")).toMatch(new RegExp(`^0*${cseq.seq}\\s`));
}

const seeds = corpus();

describe("the text for drachtio-srf", () => {
  it("of every message of the corpora that is delivered reads the same there as here", () => {
    for (const bytes of seeds) {
      const outcome = parseMessage(bytes, defaultMessageLimits, "datagram");
      if (outcome.ok && isDelivered(outcome.message)) {
        agrees(outcome.message);
      }
    }
  });

  it("of whatever is accepted reads the same there as here", () => {
    fc.assert(
      fc.property(fc.constantFrom(...seeds), fc.array(mutation, { minLength: 1, maxLength: 6 }), (bytes, changes) => {
        const outcome = parseMessage(mutate(bytes, changes), defaultMessageLimits, "datagram");
        if (outcome.ok && isDelivered(outcome.message)) {
          agrees(outcome.message);
        }
      }),
      { numRuns: 5_000 },
    );
  });

  it("unfolds lines, writes compact names in full, drops lines without a colon and collapses blanks", () => {
    const bytes = Buffer.from(
      "OPTIONS sip:a@b SIP/2.0\r\nv: SIP/2.0/UDP h;branch=z9hG4bK1\r\nf: <sip:a@b>\r\n  ;tag=1\r\nt: <sip:c@d>\r\n" +
        `i: 1\r\nCSeq: 1 OPTIONS\r\nr: <sip:r@h>\r\nb: <sip:b@h>\r\no: dialog\r\nx: 90\r\nSubject:${" \t".repeat(400)}a${" ".repeat(400)}b\r\n\r\n`,
    );
    const outcome = parseMessage(bytes, defaultMessageLimits, "datagram");
    expect(outcome.ok && textForApp(outcome.message).toString().split("\r\n").slice(1, 12)).toEqual([
      "Via: SIP/2.0/UDP h;branch=z9hG4bK1",
      "From: <sip:a@b> ;tag=1",
      "To: <sip:c@d>",
      "Call-ID: 1",
      "CSeq: 1 OPTIONS",
      "Refer-To: <sip:r@h>",
      "Referred-By: <sip:b@h>",
      "Event: dialog",
      "Session-Expires: 90",
      "Subject: a b",
      "Content-Length: 0",
    ]);
    const response = Buffer.from(
      "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h\r\nFrom: <sip:a@b>\r\nTo: <sip:c@d>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\nno colon\r\n\r\n",
    );
    const read = parseMessage(response, defaultMessageLimits, "datagram");
    expect(read.ok && textForApp(read.message).toString()).not.toContain("no colon");
  });

  it("puts brackets around every URI of a list, because srf takes the comma behind a bare one for a part of it", () => {
    const contact = (...values: string[]): string | undefined =>
      /^Contact: (.*)\r$/m.exec(
        textForApp(
          new SipResponse(300, "x", new Headers(values.map((value) => ({ name: "Contact", value })))),
        ).toString(),
      )?.[1];
    expect(contact("sip:a@b,sip:c@d;q=1")).toBe("<sip:a@b>, <sip:c@d>;q=1");
    expect(contact('"x, y" <sip:a@b>;q=1, Bob <sip:c@d>')).toBe('"x, y" <sip:a@b>;q=1, Bob <sip:c@d>');
    expect(contact("<sip:a@b>;x=a/b")).toBe('<sip:a@b>;x="a/b"');
    expect(contact("*")).toBe("*");
  });

  it("has no header that would reach what every object inherits", () => {
    const names = ["__proto__", "constructor", "toString", "__PROTO__", "hasOwnProperty", "C%6Fntact"];
    const request = new SipRequest("OPTIONS", "sip:a@b", new Headers(names.map((name) => ({ name, value: "x" }))));
    const read = readBySrf(request);
    expect(Object.keys(read.headers).toSorted()).toEqual(["content-length", "hasownproperty", "tostring"]);
    expect(Object.getPrototypeOf(read.headers)).toBe(Object.prototype);
  });
});

/** What the user agent would answer itself never reaches an application. */
function isDelivered(message: SipMessage): boolean {
  return (
    message.kind === "response" ||
    (/^[A-Z]+$/.test(message.method) && /^(?:sips?|tel)$/.test(uriScheme(message.uri) ?? ""))
  );
}

// The engine's limits bound what srf gets to read. What it makes of the worst within them must not hold up calls.
describe("the worst that is let through costs drachtio-srf little", () => {
  const head =
    "INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\n" +
    "Call-ID: 1\r\nCSeq: 1 INVITE\r\n";
  const times = (text: string, bytes: number): string => text.repeat(Math.floor(bytes / text.length));
  const lines = (line: string, bytes: number): string => times(`${line}\r\n`, bytes);
  const fills: Readonly<Record<string, (bytes: number) => string>> = {
    "Contacts on many lines": (bytes) => lines(`Contact: ${times("<sip:a@b>,", 1_900)}<sip:a@b>`, bytes),
    "Record-Routes on many lines": (bytes) => lines(`Record-Route: ${times("<sip:a@b>,", 1_900)}<sip:a@b>`, bytes),
    "parameters without number": (bytes) => lines(`Contact: <sip:a@b>${times(";a", 1_900)}`, bytes),
    "blanks in a From": (bytes) => `Subject: a${times(" ", bytes)}b\r\n`,
  };
  const bodies: Readonly<Record<string, (bytes: number) => string>> = {
    "blanks behind a Content-Type": (bytes) => `--x\r\n\r\n\r\n--x\r\nContent-Type:${times(" ", bytes)}`,
    "Content-Types without number": (bytes) => `--x\r\n\r\n\r\n--x\r\n${times("Content-Type:", bytes)}`,
    "parts without number": (bytes) => `--x\r\n\r\n${times("--x\r\n", bytes)}`,
  };
  const messages: Readonly<Record<string, (bytes: number) => string>> = {
    ...Object.fromEntries(
      Object.entries(fills).map(([name, fill]) => [
        name,
        (bytes: number) => `${head}${fill(bytes)}Content-Length: 0\r\n\r\n`,
      ]),
    ),
    ...Object.fromEntries(
      Object.entries(bodies).map(([name, fill]) => [
        name,
        (bytes: number) => {
          const body = fill(bytes);
          return `${head}Content-Type: multipart/mixed;boundary=x\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
        },
      ]),
    ),
  };
  for (const [name, make] of Object.entries(messages)) {
    it(`${name}: eight times the input takes far less than 64 times the time`, () => {
      const reading = (bytes: number) => {
        const text = make(bytes);
        return (): void => {
          const outcome = parseMessage(Buffer.from(text), defaultMessageLimits, "stream");
          if (outcome.ok) {
            const read = readBySrf(outcome.message);
            for (const header of ["Contact", "Record-Route"].filter((one) => outcome.message.headers.has(one))) {
              read.getParsedHeader(header);
            }
          }
        };
      };
      expect(growth(reading, 4_000)).toBeLessThan(linear);
    });
  }
});
