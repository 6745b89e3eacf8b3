import { describe, expect, it } from "vitest";

import { Dialog, dialogIdOf } from "../../src/engine/dialog/dialog.ts";
import type { DialogState } from "../../src/engine/dialog/dialog.ts";
import { saveDialog, savedDialog } from "../../src/engine/dialog/saved.ts";
import { DialogTable } from "../../src/engine/dialog/table.ts";
import { Headers, SipRequest, SipResponse } from "../../src/engine/sip/message.ts";
import {
  cleanAppHeaders,
  contactForHop,
  contactTarget,
  ensureContentType,
  parseAppMessage,
  replaceLocalhost,
  textForApp,
  withTag,
} from "../../src/engine/ua/headers.ts";
import { ManualClock } from "./engine-clock.ts";

function dialog(parts: Partial<DialogState> = {}): Dialog {
  return new Dialog(
    {
      role: "uac",
      callId: "c",
      localTag: "l",
      remoteTag: "r",
      localAddress: "<sip:us@192.0.2.1>;tag=l",
      remoteAddress: "<sip:them@192.0.2.9>;tag=r",
      localContact: "<sip:192.0.2.1>",
      routeSet: [],
      remoteTarget: "sip:them@192.0.2.9:5070",
      localSeq: 10,
      remoteSeq: undefined,
      fromTag: "l",
      ...parts,
    },
    new ManualClock(),
  );
}

describe("a dialog's sequence numbers", () => {
  it("count our requests up and refuse lower ones of the peer only", () => {
    const one = dialog();
    expect([one.nextLocalSeq(), one.nextLocalSeq()]).toEqual([11, 12]);
    expect([5, 5, 7, 6].map((number) => one.acceptRemoteSeq(number))).toEqual([true, true, true, false]);
  });
});

describe("a dialog that is made again from text", () => {
  it.each(["uas", "uac"] as const)("is the same one, with higher numbers: %s", (role) => {
    const one = dialog({ role, routeSet: ["<sip:a.example;lr>"], remoteSeq: 5, fromTag: role === "uas" ? "r" : "l" });
    const again = savedDialog(saveDialog(one), new ManualClock());
    expect(again).toMatchObject({ id: one.id, phase: "confirmed" });
    expect(again?.state()).toEqual({ ...one.state(), localSeq: 100_010 });
    expect(again?.route()).toEqual(one.route());
  });

  it("has no number that no CSeq may have", () => {
    const again = savedDialog(saveDialog(dialog({ localSeq: 2 ** 31 - 5 })), new ManualClock());
    expect(again?.nextLocalSeq()).toBe(2 ** 31 - 1);
  });

  it.each(["", "{", "null", "7", "{}", JSON.stringify({ ...dialog().state(), routeSet: [7] })])(
    "is none from %j",
    (text) => {
      expect(savedDialog(text, new ManualClock())).toBeUndefined();
    },
  );
});

describe("a dialog's route (RFC 3261 §12.2.1.1)", () => {
  const target = "sip:them@192.0.2.9:5070";

  it.each([
    ["no route", [], { requestUri: target, routes: [], nextHop: target }],
    [
      "loose routes",
      ["<sip:a.example;lr>", "<sip:b.example;lr>"],
      { requestUri: target, routes: ["<sip:a.example;lr>", "<sip:b.example;lr>"], nextHop: "sip:a.example;lr" },
    ],
    [
      "a strict router first",
      ["<sip:a.example?x=y>", "<sip:b.example;lr>"],
      { requestUri: "sip:a.example", routes: ["<sip:b.example;lr>", `<${target}>`], nextHop: "sip:a.example?x=y" },
    ],
  ])("%s", (_name, routeSet, expected) => {
    expect(dialog({ routeSet }).route()).toEqual(expected);
  });

  it("takes routes and target from the 2xx, not from the provisional response", () => {
    const early = dialog({ routeSet: ["<sip:old.example;lr>"] });
    early.confirmFrom(
      new SipResponse(
        200,
        "OK",
        new Headers([
          { name: "Record-Route", value: "<sip:b.example;lr>, <sip:a.example;lr>" },
          { name: "Contact", value: "<sip:new@192.0.2.7>" },
        ]),
      ),
      new SipRequest("INVITE", target, new Headers()),
    );
    expect(early.routeSet).toEqual(["<sip:a.example;lr>", "<sip:b.example;lr>"]);
    expect(early.remoteTarget).toBe("sip:new@192.0.2.7");
    expect(early.phase).toBe("confirmed");
  });

  it("keeps the target when a refresh brings no usable Contact", () => {
    const one = dialog();
    one.refreshTarget(new SipRequest("INVITE", "sip:x@y", new Headers([{ name: "Contact", value: "<tel:+49>" }])));
    expect(one.remoteTarget).toBe(target);
  });
});

describe("the table of dialogs", () => {
  it("finds by id and by tags, refuses a second dialog of one id, and forgets both names", () => {
    const table = new DialogTable();
    const one = dialog();
    expect(table.add(one)).toBe(true);
    expect(table.add(dialog({ remoteTag: "other" }))).toBe(false);
    expect(table.byId(dialogIdOf("c", "l"))).toBe(one);
    expect(table.byTags("c", "l", "r")).toBe(one);
    expect(table.byTags("c", "r", "l")).toBeUndefined();
    table.remove(one);
    expect([table.size, table.byId("c;from-tag=l"), table.byTags("c", "l", "r")]).toEqual([0, undefined, undefined]);
  });
});

const here = { host: "192.0.2.1", port: 5060 };

describe("headers of applications", () => {
  it.each([
    ["<sip:123@localhost>", "<sip:123@192.0.2.1:5060>"],
    ["sip:123@localhost", "sip:123@192.0.2.1:5060"],
    ["<sip:123@localhost:5080;user=phone>;tag=1", "<sip:123@192.0.2.1:5060;user=phone>;tag=1"],
    ["<sip:1@localhost>, <sip:2@localhost>", "<sip:1@192.0.2.1:5060>, <sip:2@192.0.2.1:5060>"],
    ["<sip:localhost>", "<sip:localhost>"],
    ["<sip:1@localhost.example>", "<sip:1@localhost.example>"],
  ])("@localhost: %s", (value, expected) => {
    expect(replaceLocalhost(value, here)).toBe(expected);
  });

  it("brackets an IPv6 address of ours", () => {
    expect(replaceLocalhost("<sip:1@localhost>", { host: "2001:db8::1", port: 5060 })).toBe(
      "<sip:1@[2001:db8::1]:5060>",
    );
  });

  it("drops what is the engine's own, spells what is known, raises letters behind dashes elsewhere", () => {
    const names = ["via", "ROUTE", "Record-Route", "rseq", "content-length", "call-id", "cseq", "WWW-authenticate"];
    const more = ["x-my-own", "X-MY-own", "my-own-header", "p-charging-vector"];
    expect(
      cleanAppHeaders(
        [...names, ...more].map((name) => ({ name, value: "1" })),
        here,
      ).map(({ name }) => name),
    ).toEqual(["Call-ID", "CSeq", "WWW-Authenticate", "x-my-own", "X-MY-own", "my-Own-Header", "p-Charging-Vector"]);
  });

  it.each([
    ["<sip:a@b>", "<sip:a@b>;tag=T"],
    ["sip:a@b", "<sip:a@b>;tag=T"],
    ['"Nm" <sip:a@b>', '"Nm" <sip:a@b>;tag=T'],
    ["<sip:a@b>;tag=given", "<sip:a@b>;tag=given"],
  ])("tag: %s", (value, expected) => {
    expect(withTag(value, "T")).toBe(expected);
  });

  it("adds the transport to a Contact that was written with @localhost, and to no other", () => {
    const written = (value: string): ReturnType<typeof parseAppMessage> =>
      parseAppMessage(Buffer.from(`INVITE sip:a@b SIP/2.0\r\ncontact: ${value}\r\n\r\n`));
    const contact = (value: string, protocol: "udp" | "tcp" | "tls", secure = false): string => {
      const outcome = written(value);
      return outcome.ok ? contactForHop(replaceLocalhost(value, here), outcome.message, { protocol }, secure) : "";
    };
    expect(contact("<sip:1@localhost>", "udp")).toBe("<sip:1@192.0.2.1:5060>");
    expect(contact('"N" <sip:1@localhost>;x=y', "tcp")).toBe('"N" <sip:1@192.0.2.1:5060;transport=tcp>;x=y');
    expect(contact("sip:1@localhost", "tcp")).toBe("<sip:1@192.0.2.1:5060;transport=tcp>");
    expect(contact("<sip:1@localhost;transport=udp>", "tcp")).toBe("<sip:1@192.0.2.1:5060;transport=udp>");
    expect(contact("<sip:1@192.0.2.5>", "tcp")).toBe("<sip:1@192.0.2.5>");
    expect(contact("<sip:1@localhost>", "tls")).toBe("<sip:1@192.0.2.1:5060;transport=tls>");
    expect(contact("<sip:1@localhost>;x=y", "tls", true)).toBe("<sips:1@192.0.2.1:5060>;x=y");
    expect(contact("sip:1@192.0.2.5", "tls", true)).toBe("sip:1@192.0.2.5");
  });

  it.each([
    ["v=0\r\n", true, "application/sdp"],
    ["", true, undefined],
    ["hello", false, undefined],
  ])("type of the body %j", (body, fits, type) => {
    const headers = new Headers();
    expect(ensureContentType(headers, Buffer.from(body))).toBe(fits);
    expect(headers.get("Content-Type")).toBe(type);
  });

  it.each([
    ["<sip:a@192.0.2.1>", "sip:a@192.0.2.1"],
    ["sip:a@192.0.2.1;x=y", "sip:a@192.0.2.1"],
    ["*", undefined],
    ["<sip:>", undefined],
    ["<tel:+49123>", undefined],
    ["<sip:a@>", undefined],
  ])("where a Contact leads: %s", (value, target) => {
    expect(contactTarget(new Headers([{ name: "Contact", value }]))).toBe(target);
  });
});

describe("what an application wrote", () => {
  it("takes everything behind the first empty line for the body, whatever Content-Length says", () => {
    const outcome = parseAppMessage(
      Buffer.from("MESSAGE sip:a@b SIP/2.0\r\nContent-Length: 3\r\nX-A: 1\r\n\r\né\r\n\r\nmore"),
    );
    expect(outcome.ok && outcome.message.body.toString()).toBe("é\r\n\r\nmore");
  });

  it("leaves out lines that are no headers", () => {
    const outcome = parseAppMessage(Buffer.from("INFO sip:a@b SIP/2.0\r\nno colon\r\nb ad: 1\r\nX-A : 2\r\n\r\n"));
    expect(outcome.ok && outcome.message.lines).toEqual([{ name: "X-A", value: "2" }]);
  });

  it("reads responses with and without a phrase", () => {
    for (const [text, reason] of [
      ["SIP/2.0 486 Busy Here\r\n\r\n", "Busy Here"],
      ["SIP/2.0 486\r\n\r\n", ""],
    ] as const) {
      const outcome = parseAppMessage(Buffer.from(text));
      expect(outcome.ok && outcome.message).toMatchObject({ kind: "response", status: 486, reason });
    }
  });

  it.each([
    ["a NUL", "a\0b"],
    ["a bare CR", "a\rX-Evil: 1"],
    ["a bare LF", "a\nX-Evil: 1"],
    ["an escape", "a\u001bb"],
    ["a C1 control", "a\u0085b"],
    ["a line separator", "a\u2028b"],
    ["a delete", "a\u007fb"],
  ])("refuses %s in a value, a name and the start line", (_name, evil) => {
    for (const text of [
      `INFO sip:a@b SIP/2.0\r\nX-A: ${evil}\r\n\r\n`,
      `INFO sip:a@b SIP/2.0\r\nX-${evil}: 1\r\n\r\n`,
      `INFO sip:${evil}@b SIP/2.0\r\n\r\n`,
    ]) {
      expect(parseAppMessage(Buffer.from(text)).ok).toBe(false);
    }
  });

  it.each(["", "INFO", "INFO sip:a@b", "INFO sip:a@b SIP/3.0", "IN(FO sip:a@b SIP/2.0", "SIP/2.0 99 x", "SIP/2.0 abc"])(
    "refuses the start line %j",
    (line) => {
      expect(parseAppMessage(Buffer.from(`${line}\r\n\r\n`))).toEqual({ ok: false, text: "invalid start line" });
    },
  );
});

describe("the text for drachtio-srf", () => {
  it("has neither lines nor names that would break its parser, and the length in bytes", () => {
    const text = textForApp(
      new SipResponse(
        200,
        "O\u0007K",
        new Headers([
          { name: "X-A", value: "one\ttwo" },
          { name: "__proto__", value: "1" },
          { name: "constructor", value: "1" },
          { name: "C%6Fntact", value: "<sip:evil@x>" },
          { name: "Content-Length", value: "9" },
        ]),
        Buffer.from("é"),
      ),
    ).toString();
    expect(text).toBe("SIP/2.0 200 O K\r\nX-A: one\ttwo\r\nContent-Length: 2\r\n\r\né");
  });
});
