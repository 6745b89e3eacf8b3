import { describe, expect, it, test } from "vitest";
import { customHeaders } from "../../src/call/headers.ts";

const allow = { identityHeaders: "allow" } as const;

function taken(input: Record<string, unknown>): Record<string, string> {
  return Object.fromEntries(customHeaders(input, allow).headers.map((header) => [header.name, header.value]));
}

const hostileValues: readonly (readonly [string, string])[] = [
  ["CR", "a\rb"],
  ["LF", "a\nb"],
  ["CRLF", "a\r\nX-Evil: 1"],
  ["LFCR", "a\n\rb"],
  ["NUL", "a\0b"],
  ["VT", "a\vb"],
  ["TAB", "a\tb"],
  ["ESC", "a\u001bb"],
  ["DEL", "a\u007fb"],
  ["C1 NEL", "a\u0085b"],
  ["U+2028", "a\u2028b"],
  ["U+2029", "a\u2029b"],
  ["folding", "a\r\n b"],
  ["trailing CRLF", "a\r\n"],
  ["lone surrogate", "a\ud800b"],
  ["513 bytes", "x".repeat(513)],
  ["257 two-byte characters", "é".repeat(257)],
  ["129 four-byte characters", "😀".repeat(129)],
];

const hostileNames: readonly string[] = [
  "with blank",
  "with:colon",
  "",
  " X",
  "X\r\nY",
  "X\0",
  "имя",
  "a(b)",
  "a/b",
  '"q"',
  "x".repeat(65),
];

const neverSettable: readonly string[] = [
  "Via From To Call-ID CSeq Contact Max-Forwards Route Record-Route Path Service-Route",
  "Content-Type Content-Length Content-Encoding Content-Disposition Content-Anything MIME-Version Payload",
  "Require Proxy-Require Supported Allow Allow-Events Authorization Proxy-Authorization Proxy-Authenticate Proxy-X",
  "WWW-Authenticate Replaces Join Refer-To Refer-Sub Event Subscription-State Session-Expires Min-SE RSeq RAck",
  "Expires Date Timestamp Security-Client Security-Server Security-Verify Identity",
  "v f t i m c e l k u r o x y",
]
  .join(" ")
  .split(" ");

describe("custom headers: dropped with a warning", () => {
  test.each(hostileValues)("a value with %s", (_what, value) => {
    const result = customHeaders({ "X-Bad": value, good: "1" }, allow);
    expect(result.headers).toEqual([{ name: "good", value: "1" }]);
    expect(result.warnings).toHaveLength(1);
    expect(result.warnings[0]).toMatchObject({ code: "header_dropped", name: "X-Bad" });
    expect(result.warnings[0]?.message).not.toContain(value.slice(0, 3));
  });

  test.each(hostileNames.map((name) => [name]))("the name %j", (name) => {
    const result = customHeaders({ [name]: "v", good: "1" }, allow);
    expect(result.headers).toEqual([{ name: "good", value: "1" }]);
    expect(result.warnings.map((warning) => warning.name)).toEqual([name]);
  });

  test.each(neverSettable.map((name) => [name]))("the never settable %s, in any case", (name) => {
    for (const form of [name, name.toLowerCase(), name.toUpperCase()]) {
      const result = customHeaders({ [form]: "v" }, allow);
      expect(result.headers).toEqual([]);
      expect(result.warnings).toHaveLength(1);
    }
  });

  it("drops the second of two names that are equal but for case", () => {
    const result = customHeaders({ "X-One": "1", "x-one": "2", s: "short", Subject: "long" }, allow);
    expect(result.headers).toEqual([
      { name: "X-One", value: "1" },
      { name: "s", value: "short" },
    ]);
    expect(result.warnings.map((warning) => warning.name)).toEqual(["x-one", "Subject"]);
  });

  it("drops the 33rd header", () => {
    const input = Object.fromEntries(Array.from({ length: 33 }, (_, index) => [`X-${index}`, index]));
    const result = customHeaders(input, allow);
    expect(result.headers).toHaveLength(32);
    expect(result.warnings.map((warning) => warning.name)).toEqual(["X-32"]);
  });

  it("drops what exceeds 8 KiB, and still takes what fits", () => {
    const input: Record<string, string> = {};
    for (let index = 0; index < 20; index += 1) input[`X-${String(index).padStart(2, "0")}`] = "v".repeat(508);
    input["small"] = "1";
    const result = customHeaders(input, allow);
    expect(result.headers).toHaveLength(16);
    expect(result.warnings.map((warning) => warning.name)).toEqual(["X-16", "X-17", "X-18", "X-19", "small"]);
    const roomy = customHeaders({ ...input, "X-15": "v" }, allow);
    expect(roomy.headers.some((header) => header.name === "small")).toBe(true);
  });

  test.each([
    ["an object", {}],
    ["an array", ["a"]],
    ["infinity", Number.POSITIVE_INFINITY],
    ["a function", () => 1],
  ])("a value that is %s", (_what, value) => {
    const result = customHeaders({ X: value }, allow);
    expect(result.headers).toEqual([]);
    expect(result.warnings).toHaveLength(1);
  });
});

describe("custom headers: taken", () => {
  it("takes any other token, numbers and booleans as text, and drops null silently", () => {
    const result = customHeaders(
      {
        testheader: "header",
        callReason: "support",
        n: 12.5,
        "X-Yes": true,
        "X-No": false,
        gone: null,
        "!%*_+`'~.-1": "t",
      },
      allow,
    );
    // The compact form n is Identity-Info, which is not on the list.
    expect(result.headers).toEqual([
      { name: "testheader", value: "header" },
      { name: "callReason", value: "support" },
      { name: "n", value: "12.5" },
      { name: "X-Yes", value: "true" },
      { name: "X-No", value: "false" },
      { name: "!%*_+`'~.-1", value: "t" },
    ]);
    expect(result.warnings).toEqual([]);
  });

  it("keeps values byte for byte: percent forms, quotes, non-ASCII, bidirectional marks", () => {
    const input = {
      "X-A": "%0d%0aX-Evil: 1",
      "P-Asserted-Identity": '"7701" <sip:7701@92.46.54.211>',
      "X-B": "Привет 😀",
      "X-C": "a\u202eb\u200bc",
      "X-D": "  blanks  ",
      "X-E": "",
      "X-F": "é".repeat(256),
    };
    expect(taken(input)).toEqual(input);
  });

  it("takes names that are properties of every object", () => {
    expect(taken({ constructor: "c", toString: "s", hasOwnProperty: "h" })).toEqual({
      constructor: "c",
      toString: "s",
      hasOwnProperty: "h",
    });
  });

  test.each(["P-Asserted-Identity", "P-Preferred-Identity", "Remote-Party-ID", "Diversion", "History-Info", "Privacy"])(
    "%s passes unless the trunk forbids it",
    (name) => {
      const input = { [name.toUpperCase()]: "v" };
      expect(customHeaders(input, allow).headers).toHaveLength(1);
      const dropped = customHeaders(input, { identityHeaders: "drop" });
      expect(dropped.headers).toEqual([]);
      expect(dropped.warnings).toHaveLength(1);
    },
  );
});
