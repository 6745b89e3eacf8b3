import { describe, expect, it } from "vitest";
import { redisRows, sipArrow } from "../../demo/labels.ts";
import { type Arrow, drawHeading, drawRow, parties, shortened } from "../../demo/ladder.ts";
import { readMonitorLine } from "../../demo/redis-witness.ts";
import { Trace } from "../../demo/trace.ts";
import { parseSip } from "../support/sip-text.ts";

const arrow = (from: Arrow["from"], to: Arrow["to"], label: string): Arrow => ({
  type: "arrow",
  from,
  to,
  label,
  tint: "sip",
});

/** A line as Redis writes it for MONITOR. */
const monitorLine = (channel: string, text: string): string => {
  const written = Array.from(Buffer.from(text), (byte) => {
    const character = String.fromCharCode(byte);
    if (character === '"' || character === "\\") return `\\${character}`;
    return byte >= 32 && byte < 127 ? character : `\\x${byte.toString(16).padStart(2, "0")}`;
  }).join("");
  return `+1795379688.234567 [0 127.0.0.1:40000] "PUBLISH" "${channel}" "${written}"`;
};
const rows = (channel: string, body: object) => {
  const seen = readMonitorLine(monitorLine(channel, JSON.stringify(body)));
  if (seen === undefined) throw new Error("no message");
  return redisRows(seen);
};
const event = (body: object) => rows("pb:{demo-bot}:events", body);
const command = (replies: readonly object[]) => rows("pb:{demo-bot}:call:1:commands", { commandId: "1", replies });
const message = (text: string) => {
  const parsed = parseSip(text.replaceAll("\n", "\r\n"));
  if (parsed === undefined) throw new Error("no SIP message");
  return parsed;
};

describe("the ladder", () => {
  it("draws every arrow between two parties within 100 columns, whatever its text", () => {
    for (const from of parties) {
      for (const to of parties.filter((party) => party !== from)) {
        for (const label of ["", "BYE", "x".repeat(300), "Привет 👋🏽"]) {
          const line = drawRow(59_999, arrow(from, to, label), false);
          expect(line.length).toBeLessThanOrEqual(100);
          expect(line).toMatch(/^ {1}59\.999 /);
          expect(line.includes(">")).toBe(parties.indexOf(to) > parties.indexOf(from));
          expect(line.includes("<")).toBe(parties.indexOf(to) < parties.indexOf(from));
        }
      }
    }
  });

  it("keeps the other parties' lines standing", () => {
    const line = drawRow(0, arrow("caller", "Patchbay", "INVITE demo"), false);
    expect(line.match(/│/g)).toHaveLength(4);
    expect(line).toContain("│─ INVITE demo ───────>│");
  });

  it("puts the names over the lines", () => {
    const heading = drawHeading();
    const line = drawRow(0, arrow("caller", "Patchbay", "x"), false);
    for (const party of parties) {
      const middle = heading.indexOf(party) + Math.floor(party.length / 2);
      expect(line[middle]).toBe("│");
    }
  });

  it("colours the arrow and nothing else, and only when asked to", () => {
    const coloured = drawRow(0, arrow("caller", "Patchbay", "BYE"), true);
    expect(coloured).toContain("│\u001b[33m─ BYE ───────────────>\u001b[0m│");
    expect(drawRow(0, arrow("caller", "Patchbay", "BYE"), false)).not.toContain("\u001b");
  });

  it("draws notes within 100 columns", () => {
    const line = drawRow(1, { type: "note", text: "n".repeat(300), tint: "plain" }, false);
    expect(line.length).toBeLessThanOrEqual(100);
    expect(line).toContain("…");
  });

  it("shortens by characters, not by code units", () => {
    expect(shortened("👋🏽👋🏽👋🏽", 3)).toBe("👋🏽👋🏽👋🏽");
    expect(shortened("👋🏽👋🏽👋🏽", 2)).toBe("👋🏽…");
  });
});

describe("labels", () => {
  it("shows requests with whom an INVITE calls, responses with what they answer", () => {
    const invite = message("INVITE sip:79123456789@127.0.0.1:5 SIP/2.0\nCSeq: 1 INVITE\n\n");
    expect(sipArrow("operator", "received", invite)).toEqual(arrow("Patchbay", "operator", "INVITE 79123456789"));
    const busy = message("SIP/2.0 486 Busy Here\nCSeq: 1 INVITE\n\n");
    expect(sipArrow("operator", "sent", busy)).toMatchObject({
      from: "operator",
      to: "Patchbay",
      label: "486 Busy Here",
      tint: "bad",
    });
    const bye = message("SIP/2.0 200 OK\nCSeq: 2 BYE\n\n");
    expect(sipArrow("caller", "received", bye)).toMatchObject({ from: "Patchbay", to: "caller", label: "200 BYE" });
  });

  it("shows each reply of a command, and the headers of a switch", () => {
    const shown = command([
      { type: "text", text: 'say "hello"' },
      { type: "switch", phoneNumber: "79123456789", timeout: "30", headers: { callReason: "support" } },
      { type: "hangup" },
    ]);
    expect(shown.map((row) => (row.type === "arrow" ? `${row.from}>${row.to} ${row.label}` : row.text))).toEqual([
      'bot>Patchbay text "say \\"hello\\""',
      'bot>Patchbay switch 79123456789, timeout "30"',
      'headers {"callReason":"support"}',
      "bot>Patchbay hangup",
    ]);
  });

  it("shows a transfer with its whole transferStatus", () => {
    const transferStatus = { status: "FAIL", hangup: false, number: "1" };
    const shown = event({ event: "transfer", transferStatus, transferDetails: { cause: "busy" } });
    expect(shown).toEqual([
      { type: "arrow", from: "Patchbay", to: "bot", label: "transfer FAIL busy, hangup false", tint: "bad" },
      { type: "note", text: 'transferStatus {"status":"FAIL","hangup":false,"number":"1"}', tint: "bad" },
    ]);
  });

  it("shows an event that it does not know by its name", () => {
    expect(event({ event: "somethingNew", x: 1 })).toMatchObject([{ label: "somethingNew" }]);
  });
});

describe("the witness of Redis", () => {
  it("reads what was published back from MONITOR, byte for byte", () => {
    const text = JSON.stringify({ text: 'Привет, "world"\\ \n\t\u0001 👋 " "' });
    expect(readMonitorLine(monitorLine("pb:{a}:call:1:commands", text))).toEqual({
      atMs: expect.closeTo(1_795_379_688_234.567, 3),
      kind: "command",
      channel: "pb:{a}:call:1:commands",
      text,
      body: JSON.parse(text),
    });
  });

  it("knows events, also those that a script publishes", () => {
    const line = '+1795379688.234567 [0 lua] "publish" "pb:{a}:events" "{\\"event\\":\\"call\\"}"';
    expect(readMonitorLine(line)).toMatchObject({ kind: "event", body: { event: "call" } });
  });

  it.each([
    "+OK",
    "",
    '+1.5 [0 lua] "XADD" "a" "b"',
    '+1.5 [0 lua] "PUBLISH" "a" "[1]"',
    '+1.5 [0 x] "PUBLISH" "a" "{"',
  ])("passes over %s", (line) => {
    expect(readMonitorLine(line)).toBeUndefined();
  });
});

describe("the trace", () => {
  it("prints rows of several watchers in the order of their times", async () => {
    const lines: string[] = [];
    const trace = new Trace({ zeroMs: 1_000, colour: false, write: (line) => void lines.push(line), now: () => 0 });
    trace.add(1_300, arrow("caller", "Patchbay", "third"));
    trace.add(1_100, arrow("caller", "Patchbay", "first"));
    trace.add(1_200, arrow("caller", "Patchbay", "second"));
    await trace[Symbol.asyncDispose]();
    expect(lines.map((line) => /(\d\.\d+) .*─ (\w+) /.exec(line)?.slice(1).join(" "))).toEqual([
      "0.100 first",
      "0.200 second",
      "0.300 third",
    ]);
  });
});
