import { existsSync, readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

import { refusalTo } from "../../src/engine/sip/answer.ts";
import { parseContacts, parseNameAddr, parseUri, parseVias } from "../../src/engine/sip/grammar.ts";
import type { SipMessage } from "../../src/engine/sip/message.ts";
import { defaultMessageLimits, parseMessage, type ParseOutcome } from "../../src/engine/sip/parse.ts";
import { StreamFramer } from "../../src/engine/sip/stream.ts";
import { seededRandom } from "../unit/engine-clock.ts";

const folder = fileURLToPath(new URL("../../../shared/data", import.meta.url));
const present = existsSync(folder);
if (!present) {
  console.log(`skipped: the torture messages are not at ${folder}`);
}

// What the parser does with each message: the method or status it reads, or the status it refuses with ("drop" where
// nobody is to be answered). The rest of the required answer (481, 416, 420...) is given by the user agent.
const rfc4475: Readonly<Record<string, string | number>> = {
  "wsinv.dat": "INVITE",
  "intmeth.dat": "!interesting-Method0123456789_*+`.%indeed'~",
  "esc01.dat": "INVITE",
  "escnull.dat": "REGISTER",
  "esc02.dat": "RE%47IST%45R",
  "lwsdisp.dat": "OPTIONS",
  "longreq.dat": "INVITE",
  "dblreq.dat": "REGISTER",
  "semiuri.dat": "OPTIONS",
  "transports.dat": "OPTIONS",
  "mpart01.dat": "MESSAGE",
  "unreason.dat": "200 response",
  "noreason.dat": "100 response",
  "badinv01.dat": 400,
  "clerr.dat": 400,
  "ncl.dat": 400,
  "scalar02.dat": 400,
  "scalarlg.dat": "drop",
  "quotbal.dat": 400,
  "ltgtruri.dat": 400,
  "lwsruri.dat": 400,
  "lwsstart.dat": 400,
  "trws.dat": 400,
  "escruri.dat": 400,
  "baddate.dat": "INVITE",
  "regbadct.dat": 400,
  "badaspec.dat": 400,
  "baddn.dat": 400,
  "badvers.dat": 505,
  "mismatch01.dat": 400,
  "mismatch02.dat": 501,
  "bigcode.dat": "drop",
  "badbranch.dat": 400,
  "insuf.dat": 400,
  "unkscm.dat": "OPTIONS",
  "novelsc.dat": "OPTIONS",
  "unksm2.dat": "REGISTER",
  "bext01.dat": "OPTIONS",
  "invut.dat": "INVITE",
  "regaut01.dat": "REGISTER",
  "multi01.dat": 400,
  "mcl01.dat": 400,
  "bcast.dat": "200 response",
  "zeromf.dat": "OPTIONS",
  "cparam01.dat": "REGISTER",
  "cparam02.dat": "REGISTER",
  "regescrt.dat": "REGISTER",
  "sdp01.dat": "INVITE",
  "inv2543.dat": 400,
};

const rfc5118: Readonly<Record<string, string | number>> = {
  "ipv6-good": "REGISTER",
  "ipv6-bad": 400,
  "port-ambiguous": "REGISTER",
  "port-unambiguous": "REGISTER",
  "via-received-param-with-delim": "BYE",
  "via-received-param-no-delim": "OPTIONS",
  "ipv6-in-sdp": "INVITE",
  "mult-ip-in-header": "BYE",
  "mult-ip-in-sdp": "INVITE",
  "ipv4-mapped-ipv6": "INVITE",
  "ipv6-bug-abnf-3-colons": 400,
  "ipv6-correct-abnf-2-colons": "OPTIONS",
};

function read(set: string, name: string): Buffer {
  return readFileSync(`${folder}/${set}/${name}`);
}

function seen(outcome: ParseOutcome): string | number {
  if (!outcome.ok) {
    return outcome.answerable?.status ?? "drop";
  }
  return outcome.message.kind === "request" ? outcome.message.method : `${outcome.message.status} response`;
}

function parsed(set: string, name: string): SipMessage {
  const outcome = parseMessage(read(set, name), defaultMessageLimits, "datagram");
  if (!outcome.ok) {
    throw new Error(outcome.reason);
  }
  return outcome.message;
}

describe.skipIf(!present)("torture messages (skipped where ../shared/data is not beside the project)", () => {
  for (const [set, table] of [
    ["rfc4475", rfc4475],
    ["rfc5118", rfc5118],
  ] as const) {
    it(`${set}: the table names every message there is`, () => {
      expect(readdirSync(`${folder}/${set}`).toSorted()).toEqual(Object.keys(table).toSorted());
    });

    for (const [name, required] of Object.entries(table)) {
      it(`${set} ${name}: ${required}`, () => {
        const outcome = parseMessage(read(set, name), defaultMessageLimits, "datagram");
        expect(seen(outcome)).toBe(required);
        if (outcome.ok) {
          // What was read is written so that it reads the same again.
          const again = parseMessage(outcome.message.toBuffer(), defaultMessageLimits, "datagram");
          expect(
            again.ok && again.message.headers.lines.filter(({ name: header }) => header !== "Content-Length"),
          ).toEqual(outcome.message.headers.lines.filter(({ name: header }) => header !== "Content-Length"));
          expect(again.ok && again.message.body.equals(outcome.message.body)).toBe(true);
        } else if (outcome.answerable !== undefined) {
          // RFC 3261 §8.2.6.2: the answer carries what it copies, and its To has a tag.
          const answer = refusalTo(outcome.answerable, { address: "192.0.2.200", port: 5_062 }, seededRandom());
          expect(answer.headers.count("Via")).toBeGreaterThan(0);
          expect(answer.headers.get("To") ?? ";tag=").toMatch(/;tag=/);
          expect(answer.toBuffer().toString("utf8")).toMatch(/^SIP\/2\.0 \d{3} [\s\S]+\r\nContent-Length: 0\r\n\r\n$/);
        }
      });
    }
  }

  it("baddn without its last blank line: 400", () => {
    const bytes = read("rfc4475", "baddn.dat");
    const cut = Buffer.from(bytes.toString("latin1").replace(/(\r\n)+$/, "\r\n"), "latin1");
    expect(seen(parseMessage(cut, defaultMessageLimits, "datagram"))).toBe(400);
  });

  it("wsinv: blanks, folds, compact forms and odd case are read", () => {
    const { headers } = parsed("rfc4475", "wsinv.dat");
    expect(headers.get("max-forwards")).toBe("0068");
    expect(headers.list("Via")).toHaveLength(3);
    expect(parseVias(headers.get("Via") ?? "")?.[0]).toMatchObject({ host: "192.0.2.2", branch: "390skdjuw" });
    expect(parseNameAddr(headers.get("From") ?? "")).toMatchObject({ display: 'J Rosenberg \\"', tag: "98asjd8" });
    expect(parseNameAddr(headers.get("To") ?? "")?.tag).toBe("1918181833n");
    expect(headers.get("NewFangledHeader")).toBe("newfangled value continued newfangled value");
    expect(headers.get("Subject")).toBe("");
    expect(headers.get("Contact")).toBe(
      '"Quoted string \\"\\"" <sip:jdrosen@example.com> ; newparam = newvalue ; secondparam ; q = 0.33',
    );
  });

  it("intmeth: control characters are allowed as quoted pairs, and kept", () => {
    const to = parseNameAddr(parsed("rfc4475", "intmeth.dat").headers.get("To") ?? "");
    expect(to?.display).toBe("BEL:\u0007 NUL:\u0000 DEL:\u007F");
  });

  it("esc02: neither method nor header names are percent-decoded", () => {
    const { headers } = parsed("rfc4475", "esc02.dat");
    expect(headers.has("C%6Fntact")).toBe(true);
    const contacts = parseContacts(headers.all("Contact"));
    expect(contacts?.type === "contacts" && contacts.contacts).toHaveLength(2);
  });

  it("semiuri: a semicolon before the @ belongs to the user", () => {
    const message = parsed("rfc4475", "semiuri.dat");
    expect(parseUri(message.kind === "request" ? message.uri : "")).toEqual({
      scheme: "sip",
      user: "user;par=u%40example.net",
      host: "example.com",
      params: [],
    });
  });

  it("dblreq: what lies behind the Content-Length is not read", () => {
    expect(parsed("rfc4475", "dblreq.dat").body).toHaveLength(0);
  });

  it("mpart01: a binary body keeps every byte", () => {
    const bytes = read("rfc4475", "mpart01.dat");
    const { body } = parsed("rfc4475", "mpart01.dat");
    expect(bytes.indexOf(body)).toBe(bytes.length - body.length);
    expect(body.length).toBe(Number(parsed("rfc4475", "mpart01.dat").headers.get("Content-Length")));
  });

  it("port-ambiguous: what looks like a port inside the brackets is the address", () => {
    const message = parsed("rfc5118", "port-ambiguous");
    expect(message.kind === "request" && message.uri).toBe("sip:[2001:db8::10:5070]");
  });

  it("received is read with and without brackets", () => {
    for (const name of ["via-received-param-no-delim", "via-received-param-with-delim"]) {
      const [via] = parseVias(parsed("rfc5118", name).headers.get("Via") ?? "") ?? [];
      expect(via?.params.find((param) => param.name === "received")?.value).toContain("2001:db8::9:255");
    }
  });

  it("on a stream clerr waits for the rest, ncl and mcl01 end the connection, dblreq begins with two messages", () => {
    const pieces = (name: string): string[] =>
      new StreamFramer(defaultMessageLimits).push(read("rfc4475", name)).map(({ type }) => type);
    expect(pieces("clerr.dat")).toEqual([]);
    expect(pieces("ncl.dat")).toEqual(["broken"]);
    expect(pieces("mcl01.dat")).toEqual(["broken"]);
    expect(pieces("dblreq.dat").slice(0, 2)).toEqual(["message", "message"]);
  });
});
