import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { beforeAll, describe, expect, it } from "vitest";

import type { Sdp } from "../../src/call/ids.ts";
import type { CallSetup } from "../../src/call/setup.ts";
import { waitFor } from "../support/wait.ts";
import { Closings, RawCall, RawCallee, RawPeer, replyText, sdp, tagOf } from "./engine-support.ts";
import { Prober } from "./prober.ts";
import { fresh, oneTrunk, order, startSide, type TestSide } from "./sip-support.ts";

// What no RFC's corpus has and scanners, broken phones and attackers send all the same: each with its exact answer, over UDP
// and over TCP, from the whole signalling side (the engine, a real drachtio-srf and our own user agent behind it). Calls
// that are let in are refused 486, so 486 means "understood".

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
    passHeaders: ["__proto__", "constructor", "toString", "X-Name"]
`;
  const onCall = (setup: CallSetup): void => {
    calls.push(setup);
    side.side.reject(setup.call, setup.caller, 486, "Busy Here");
  };
  side = await startSide(closings, yaml, { t1Ms: 5, onCall, embedded: { limits: { tcp: { partialMessageMs: 300 } } } });
  port = side.engine.port;
});
const calls: CallSetup[] = [];

type Transport = "udp" | "tcp";

/** The lines of a sound request by their names; a test replaces, adds or, with undefined, removes. */
type Lines = Readonly<Record<string, string | readonly string[] | undefined>>;

interface Shape {
  readonly method?: string;
  readonly uri?: string;
  readonly lines?: Lines;
  /** The body without which there is no offer. */
  readonly body?: string;
  /** The last word on the bytes. */
  readonly change?: (text: string) => string | Buffer;
}

let sent = 0;

function request(transport: Transport, { method = "INVITE", uri = "sip:100@127.0.0.1", ...shape }: Shape): Buffer {
  sent += 1;
  const id = `own${sent}`;
  const body = shape.body ?? (method === "INVITE" ? sdp(4_000) : "");
  const lines: Record<string, string | readonly string[] | undefined> = {
    Via: `SIP/2.0/${transport.toUpperCase()} 127.0.0.1;rport;branch=z9hG4bK${id}`,
    "Max-Forwards": "70",
    From: `<sip:a@127.0.0.1>;tag=${id}`,
    To: "<sip:100@127.0.0.1>",
    "Call-ID": id,
    CSeq: `1 ${method}`,
    Contact: "<sip:a@127.0.0.1>",
    ...(body === "" ? {} : { "Content-Type": "application/sdp" }),
    "Content-Length": String(Buffer.byteLength(body)),
    ...shape.lines,
  };
  const head = Object.entries(lines).flatMap(([name, value = []]) =>
    (typeof value === "string" ? [value] : value).map((one) => `${name}: ${one}`),
  );
  const text = `${method} ${uri} SIP/2.0\r\n${head.join("\r\n")}\r\n\r\n${body}`;
  const changed = shape.change?.(text) ?? text;
  return typeof changed === "string" ? Buffer.from(changed) : changed;
}

interface Answer {
  readonly udp: number | "none";
  readonly tcp: number | "none";
  /** TCP: the connection is closed behind the answer. */
  readonly closes?: boolean;
}

const both = (status: number | "none", closes = false): Answer => ({ udp: status, tcp: status, closes });

/** Sends one request and looks at everything its sender gets: the one answer, once, and nothing else. */
function answers(name: string, shape: Shape, answer: Answer): void {
  for (const transport of ["udp", "tcp"] as const) {
    const status = answer[transport];
    const closes = transport === "tcp" && answer.closes === true;
    it(`${name}, over ${transport}: ${status}${closes ? ", closed" : ""}`, async () => {
      await using one = await Prober.open(transport, port);
      one.send(request(transport, shape));
      if (status !== "none") {
        await waitFor(() => one.finals().length > 0, { what: "the final answer" });
      }
      if (closes) {
        await waitFor(() => one.closed(), { what: "the end of the connection" });
      }
      // The next sound message is served, on the same connection where that is still open.
      await using other = await Prober.open(transport, port);
      await (closes ? other : one).probe();
      expect(one.closed()).toBe(closes);
      expect(one.finals()).toEqual(status === "none" ? [] : [status]);
      if (status === "none") {
        expect(one.packets()).toBe(0);
      }
    });
  }
}

const hostless = ["sip:", "sip:a@", "sip:@", "sip::5060", "sip:a@:5060", "sip:;lr", "sips:a@", "sip:a@[]"];

describe("a URI without a host in a request", () => {
  for (const uri of hostless) {
    answers(`Request-URI ${uri}`, { uri }, both(400));
    for (const name of ["From", "To"]) {
      answers(`${name} <${uri}>`, { lines: { [name]: `<${uri}>;tag=x` } }, both(400));
    }
    for (const name of ["Contact", "Route", "Record-Route", "P-Asserted-Identity"]) {
      answers(`${name} <${uri}>`, { lines: { [name]: `<${uri}>` } }, both(400));
    }
    answers(`Refer-To <${uri}>`, { method: "REFER", lines: { "Refer-To": `<${uri}>` } }, both(400));
    answers(`a second Route <${uri}>`, { lines: { Route: ["<sip:127.0.0.1;lr>", `<${uri}>`] } }, both(400));
  }
  answers("Via without a host", { lines: { Via: "SIP/2.0/UDP ;rport;branch=z9hG4bKno-host" } }, both(400));
});

describe("Contact", () => {
  answers("no Contact in an INVITE", { lines: { Contact: undefined } }, both(400));
  answers("Contact: * in an INVITE", { lines: { Contact: "*" } }, both(400));
  answers("Contact: * beside another", { lines: { Contact: ["<sip:a@127.0.0.1>", "*"] } }, both(400));
  answers("an empty Contact", { lines: { Contact: "" } }, both(400));
  answers("no Contact in an OPTIONS", { method: "OPTIONS", lines: { Contact: undefined } }, both(200));
});

describe("header names that mean something to JavaScript", () => {
  const names = ["__proto__", "constructor", "toString", "hasOwnProperty", "valueOf", "__defineGetter__"];
  answers("all of them", { lines: Object.fromEntries(names.map((name) => [name, "evil"])) }, both(486));
  for (const name of names) {
    answers(`${name} twice`, { lines: { [name]: ["evil", "evil"] } }, both(486));
  }
});

const blanks = 60_000;
describe("sizes", () => {
  answers(
    "a message of 65,507 bytes",
    {
      change: (text) =>
        text.replace("Max-Forwards", `Xx: ${"a".repeat(65_507 - Buffer.byteLength(text) - 6)}\r\nMax-Forwards`),
    },
    { udp: 513, tcp: 400 },
  );
  answers(
    "1,000 Vias in one line",
    { change: (text) => text.replace("\r\nMax", `${",SIP/2.0/UDP h".repeat(999)}\r\nMax`) },
    both("none"),
  );
  answers(
    "1,000 Vias in 1,000 lines",
    { change: (text) => text.replace("\r\nMax", `${"\r\nVia:SIP/2.0/UDP h".repeat(999)}\r\nMax`) },
    { udp: 513, tcp: 400 },
  );
  answers(
    "10,000 header lines",
    { change: (text) => text.replace("\r\nMax", `${"\r\nX:1".repeat(10_000)}\r\nMax`) },
    { udp: 513, tcp: 400 },
  );
  // What answers are made of is read up to the limit of a line only, and without a Via there is no answer (RFC 3261 §8.2.6.2).
  const unanswered = (name: string, answer: Answer): Answer => (name === "Via" ? both("none") : answer);
  for (const name of [
    "Via",
    "Max-Forwards",
    "From",
    "To",
    "Call-ID",
    "CSeq",
    "Contact",
    "Content-Type",
    "Content-Length",
  ]) {
    answers(
      `60,000 blanks in ${name}`,
      { change: (text) => text.replace(`${name}: `, `${name}: ${" ".repeat(blanks)}`) },
      unanswered(name, { udp: 513, tcp: 400 }),
    );
    answers(
      `15,000 blanks in ${name}`,
      { change: (text) => text.replace(`${name}: `, `${name}: ${" ".repeat(15_000)}`) },
      unanswered(name, both(400)),
    );
    answers(
      `15,000 blanks as folds in ${name}`,
      { change: (text) => text.replace(`${name}: `, `${name}: ${"\r\n ".repeat(5_000)}`) },
      both(400, name === "Content-Length"),
    );
    answers(
      `1,900 blanks in ${name}`,
      { change: (text) => text.replace(`${name}: `, `${name}: ${" ".repeat(1_900)}`) },
      both(486),
    );
  }
});

describe("bytes", () => {
  for (const [name, byte] of [
    ["NUL", "\0"],
    ["CR", "\r"],
    ["LF", "\n"],
    ["BEL", "\u0007"],
    ["DEL", "\u007f"],
  ] as const) {
    answers(`${name} in a header`, { lines: { Subject: `a${byte}b` } }, both(400));
    answers(`${name} in a display name`, { lines: { Contact: `"a${byte}b" <sip:a@127.0.0.1>` } }, both(400));
    answers(`${name} in a header name`, { lines: { [`X${byte}x`]: "1" } }, both(400));
    // Where a line end cuts it off, the request line is none, and nobody knows that it was SIP.
    const cut = byte === "\r" || byte === "\n";
    answers(`${name} in the Request-URI`, { uri: `sip:1${byte}00@127.0.0.1` }, both(cut ? "none" : 400));
  }
  answers("lines that end in CR only", { change: (text) => text.replaceAll("\r\n", "\r") }, both(400, true));
  answers("lines that end in LF only", { change: (text) => text.replaceAll("\r\n", "\n") }, both(400, true));
  const named = (name: string) => ({ change: (text: string) => text.replace("From: <", `From: "${name}" <`) });
  const bytes = (hex: string) => ({
    change: (text: string) =>
      Buffer.from(text.replace("From: <", `From: "${Buffer.from(hex, "hex").toString("latin1")}" <`), "latin1"),
  });
  answers("overlong UTF-8 of a slash", bytes("c0af"), both(400));
  answers("overlong UTF-8 of NUL", bytes("c080"), both(400));
  answers("a lone surrogate in UTF-8", bytes("eda080"), both(400));
  answers("Latin-1", bytes("e9"), both(400));
  answers("emoji", named("\u{1f600}\u{1f468}\u200d\u{1f469}"), both(486));
  answers("names from right to left", named("\u202e\u05d0\u05d1\u0627\u0644\u202c"), both(486));
});

describe("Content-Length", () => {
  answers("0 in front of a body", { lines: { "Content-Length": "0" } }, both(488, true));
  answers("0 without a body", { body: "", lines: { "Content-Length": "0" } }, both(488));
  answers("negative", { lines: { "Content-Length": "-1" } }, both(400, true));
  answers("5000000000", { lines: { "Content-Length": "5000000000" } }, both(400, true));
  answers("5e9", { lines: { "Content-Length": "5e9" } }, both(400, true));
  answers("two that differ", { lines: { "Content-Length": ["1", "2"] } }, both(400, true));
  answers("two that are the same", { lines: { "Content-Length": ["1", "1"] } }, both(400, true));
  answers("one more than there is", { lines: { "Content-Length": String(sdp(4_000).length + 1) } }, both(400, true));
  answers("one less than there is", { lines: { "Content-Length": String(sdp(4_000).length - 1) } }, both(486, true));
  answers("empty", { lines: { "Content-Length": "" } }, both(400, true));
  answers("none", { lines: { "Content-Length": undefined } }, { udp: 486, tcp: 400, closes: true });
});

describe("Max-Forwards", () => {
  answers("0", { lines: { "Max-Forwards": "0" } }, both(486));
  answers("none", { lines: { "Max-Forwards": undefined } }, both(486));
  answers("255", { lines: { "Max-Forwards": "255" } }, both(486));
  for (const value of ["256", "-1", "", "70, 70", "1e1", "0x1"]) {
    answers(`"${value}"`, { lines: { "Max-Forwards": value } }, both(400));
  }
});

describe("a To tag that no dialog has", () => {
  for (const method of [
    "INVITE",
    "BYE",
    "UPDATE",
    "REFER",
    "PRACK",
    "SUBSCRIBE",
    "INFO",
    "NOTIFY",
    "MESSAGE",
    "OPTIONS",
    "CANCEL",
  ]) {
    answers(
      method,
      {
        method,
        lines: {
          To: "<sip:100@127.0.0.1>;tag=nobody",
          "Refer-To": "<sip:c@127.0.0.1>",
          Event: "x",
          RAck: "1 1 INVITE",
        },
      },
      both(481),
    );
  }
  answers("ACK", { method: "ACK", lines: { To: "<sip:100@127.0.0.1>;tag=nobody" } }, both("none"));
});

it("a bot is told of such headers as of any others, and nothing else changes", async () => {
  await using one = await Prober.open("udp", port);
  const before = calls.length;
  one.send(request("udp", { lines: { ["__proto__"]: "x", constructor: "y", toString: "z" } }));
  await waitFor(() => calls.length > before, { what: "the call" });
  const headers = calls.at(-1)?.headers ?? {};
  expect(Object.getPrototypeOf(headers)).toBe(Object.prototype);
  expect(Object.keys(headers).every((name) => ["__proto__", "constructor", "toString"].includes(name))).toBe(true);
  expect(Object.keys(Object.prototype)).toEqual([]);
  await waitFor(() => one.finals().includes(486), { what: "the final answer" });
});

/** A bare TCP connection to the engine and the text that comes back. */
async function openStream(): Promise<{ readonly socket: Socket; readonly text: () => string } & AsyncDisposable> {
  const socket = connect({ host: "127.0.0.1", port, noDelay: true });
  let text = "";
  socket.on("error", () => undefined);
  socket.on("data", (bytes) => (text += bytes.toString("latin1")));
  await once(socket, "connect");
  return {
    socket,
    text: () => text,
    [Symbol.asyncDispose]: async () => {
      socket.destroy();
      await Promise.resolve();
    },
  };
}

/** Writes so that the engine reads it as one piece: the next write comes when this one has left. */
async function writeAlone(socket: Socket, bytes: Buffer): Promise<void> {
  await new Promise<void>((resolve) => {
    socket.write(bytes, () => {
      setImmediate(resolve);
    });
  });
}

const callIdsIn = (text: string): string[] => [...text.matchAll(/^Call-ID: (.*)\r$/gm)].map(([, id = ""]) => id);

describe("a TCP stream", () => {
  it("one byte at a time: the INVITE is answered as if it had come at once", async () => {
    await using one = await openStream();
    for (const byte of request("tcp", {})) {
      await writeAlone(one.socket, Buffer.of(byte));
    }
    await waitFor(() => one.text().includes("SIP/2.0 486 "), { what: "the final answer" });
  });

  it("cut in two at each byte: each message is answered once, in order", async () => {
    await using one = await openStream();
    const length = request("tcp", { method: "OPTIONS" }).length;
    const wanted: string[] = [];
    for (let cut = 1; cut < length; cut += 1) {
      const bytes = request("tcp", { method: "OPTIONS" });
      wanted.push(`own${sent}`);
      await writeAlone(one.socket, bytes.subarray(0, cut));
      await writeAlone(one.socket, bytes.subarray(cut));
    }
    await waitFor(() => callIdsIn(one.text()).length >= wanted.length, { what: "all answers" });
    expect(callIdsIn(one.text())).toEqual(wanted);
    expect(one.text().match(/^SIP\/2\.0 (?!200 )/gm)).toBeNull();
  });

  it("100 messages in one write: each is answered once, and INVITEs among them", async () => {
    await using one = await openStream();
    const methods = Array.from({ length: 100 }, (_, index) => (index % 10 === 0 ? "INVITE" : "OPTIONS"));
    one.socket.write(Buffer.concat(methods.map((method) => request("tcp", { method }))));
    const finals = (): string[] => one.text().match(/^SIP\/2\.0 [2-6]\d\d/gm) ?? [];
    await waitFor(() => finals().length >= 100, { what: "all answers" });
    expect(finals().filter((line) => line.endsWith("200"))).toHaveLength(90);
    expect(finals().filter((line) => line.endsWith("486"))).toHaveLength(10);
    expect(new Set(callIdsIn(one.text())).size).toBe(100);
  });

  it("keep-alives: a double CRLF is answered by one CRLF, a single one not, and neither disturbs the messages", async () => {
    await using one = await openStream();
    await writeAlone(one.socket, Buffer.from("\r\n\r\n"));
    await waitFor(() => one.text() === "\r\n", { what: "the pong" });
    await writeAlone(one.socket, Buffer.from("\r\n"));
    await writeAlone(one.socket, request("tcp", { method: "OPTIONS" }));
    await waitFor(() => one.text().endsWith("\r\n\r\n"), { what: "the answer" });
    expect(one.text()).toMatch(/^\r\nSIP\/2\.0 200 /);
  });
});

describe("order and repetition", () => {
  /** A caller who is with the bot on a side of its own. */
  async function talk(): Promise<{
    caller: RawCall;
    peer: RawPeer;
    operator: RawPeer;
    own: TestSide;
    setup: CallSetup;
  }> {
    const peer = await RawPeer.open(closings);
    const operator = await RawPeer.open(closings);
    const own = await startSide(closings, oneTrunk(operator.port), { embedded: {} });
    const caller = new RawCall(peer, own.engine.port);
    caller.send("INVITE", { body: sdp(4_000) });
    const setup = await own.call();
    own.side.accept(setup.call, setup.caller, sdp(7_000) as Sdp);
    const ok = await peer.response(200, "INVITE");
    caller.toTag = tagOf(ok.header("To"));
    caller.send("ACK");
    await own.event("leg.confirmed");
    return { caller, peer, operator, own, setup };
  }

  it("a lower CSeq in a dialog: 500, and the call goes on", async () => {
    const { caller, peer } = await talk();
    caller.seq = 10;
    caller.send("OPTIONS");
    await peer.response(200, "OPTIONS");
    for (const method of ["INFO", "OPTIONS", "INVITE", "UPDATE", "BYE"]) {
      caller.send(method, { seq: 5, ...(method === "INVITE" ? { body: sdp(4_000, 2) } : {}) });
      const refused = await peer.response(500, method);
      if (method === "INVITE") {
        caller.send("ACK", { seq: 5, branch: caller.lastBranch, toTag: tagOf(refused.header("To")) });
      }
    }
    await caller.bye();
  });

  it("the same request by another path: 482 for the second", async () => {
    const peer = await RawPeer.open(closings);
    const own = await startSide(closings, oneTrunk(9), { embedded: {} });
    const caller = new RawCall(peer, own.engine.port);
    caller.send("INVITE", { body: sdp(4_000) });
    const setup = await own.call();
    caller.send("INVITE", { seq: 1, body: sdp(4_000) });
    const merged = await peer.response(482, "INVITE");
    caller.send("ACK", { branch: caller.lastBranch, toTag: tagOf(merged.header("To")) });
    expect(own.calls).toHaveLength(1);
    own.side.reject(setup.call, setup.caller, 486, "Busy Here");
    await peer.response(486, "INVITE");
  });

  describe("a URI without a host in the answer of an operator", () => {
    const uris = ["sip:", "sip:a@", "sip:;lr"];
    for (const uri of uris) {
      for (const name of ["P-Asserted-Identity", "Refer-To", "Route", "Remote-Party-ID"]) {
        it(`${name} <${uri}>: nobody needs it, and the call is answered`, async () => {
          const { caller, operator, own, setup } = await talk();
          own.side.invite(setup.call, order(setup));
          const callee = new RawCallee(operator, await fresh(operator, "INVITE"));
          callee.reply(200, "OK", { body: sdp(5_000), headers: [`${name}: <${uri}>`] });
          await own.event("leg.answered");
          await fresh(operator, "ACK");
          callee.send("BYE");
          await operator.response(200, "BYE");
          await caller.bye();
        });
      }

      it(`Contact <${uri}>: acknowledged, hung up, and a failed leg`, async () => {
        const { caller, operator, own, setup } = await talk();
        own.side.invite(setup.call, order(setup));
        const callee = new RawCallee(operator, await fresh(operator, "INVITE"));
        callee.reply(200, "OK", { body: sdp(5_000), contact: `<${uri}>` });
        await fresh(operator, "ACK");
        operator.reply(await fresh(operator, "BYE"), 200, "OK");
        await own.event("leg.failed");
        await caller.bye();
      });

      it(`Record-Route <${uri}>: left out of the way, and the call is answered`, async () => {
        const { caller, operator, own, setup } = await talk();
        own.side.invite(setup.call, order(setup));
        const callee = new RawCallee(operator, await fresh(operator, "INVITE"));
        const proxy = `<sip:127.0.0.1:${operator.port};lr>`;
        callee.reply(200, "OK", { body: sdp(5_000), headers: [`Record-Route: ${proxy}`, `Record-Route: <${uri}>`] });
        await own.event("leg.answered");
        expect((await fresh(operator, "ACK")).headers("Route")).toEqual([proxy]);
        callee.send("BYE");
        await operator.response(200, "BYE");
        await caller.bye();
      });

      for (const name of ["From", "To"]) {
        it(`${name} <${uri}>: no answer to anything, so the sound one behind it counts`, async () => {
          const { caller, operator, own, setup } = await talk();
          own.side.invite(setup.call, order(setup));
          const invite = await fresh(operator, "INVITE");
          const callee = new RawCallee(operator, invite);
          const text = replyText(invite, 603, "Decline", { tag: callee.tag });
          const before = own.engine.embedded().stats().transport.malformed;
          operator.send(text.replace(new RegExp(`^${name}: [^;\r]*`, "m"), `${name}: <${uri}>`), invite.from.port);
          await waitFor(() => own.engine.embedded().stats().transport.malformed === before + 1, {
            what: "the dropped response",
          });
          callee.reply(486, "Busy Here");
          expect(await own.event("leg.failed")).toMatchObject({ status: 486 });
          await fresh(operator, "ACK");
          await caller.bye();
        });
      }
    }
  });
});

it("nothing is left behind in the engine", async () => {
  await closings.settleAll();
});
