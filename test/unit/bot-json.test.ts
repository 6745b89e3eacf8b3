import { describe, expect, it, test } from "vitest";
import { readJson } from "../../src/bot/json.ts";
import { growth, linear } from "../support/growth.ts";

const bytes = (text: string): Buffer => Buffer.from(text, "utf8");

describe("reading a command's JSON", () => {
  test.each([
    ["nothing", ""],
    ["blanks", "  \n"],
    ["a word", "hello"],
    ["a byte order mark", '\ufeff{"replies":[]}'],
    ["a trailing comma in an object", '{"a":1,}'],
    ["a trailing comma in an array", '{"a":[1,]}'],
    ["single quotes", "{'a':1}"],
    ["an unquoted key", "{a:1}"],
    ["a comment", '{"a":1}//x'],
    ["two documents", "{}{}"],
    ["an unfinished object", '{"a":'],
    ["an unfinished string", '{"a":"b'],
    ["a raw line end in a string", '{"a":"b\nc"}'],
    ["a raw NUL in a string", '{"a":"b\0c"}'],
    ["a bad escape", '{"a":"\\x41"}'],
    ["a short \\u", '{"a":"\\u12"}'],
    ["a leading zero", '{"a":01}'],
    ["a plus sign", '{"a":+1}'],
    ["a bare point", '{"a":.5}'],
    ["NaN", '{"a":NaN}'],
    ["Infinity", '{"a":Infinity}'],
    ["a misspelt word", '{"a":tru}'],
    ["a string", '"x"'],
    ["a number", "1"],
    ["an array", "[]"],
    ["null", "null"],
    ["a missing colon", '{"a" 1}'],
    ["a vertical tab between tokens", '{\v"a":1}'],
    ["a non-breaking space between tokens", '{\u00a0"a":1}'],
  ])("refuses %s", (_what, text) => {
    const outcome = readJson(bytes(text));
    expect(outcome).toMatchObject({ ok: false, code: "bad_json", pointer: null });
    expect(outcome.ok || outcome.message.length).toBeLessThan(100);
  });

  test.each([
    ["an overlong slash", [0xc0, 0xaf]],
    ["a lone continuation byte", [0x80]],
    ["a surrogate half as three bytes", [0xed, 0xa0, 0x80]],
    ["Latin-1", [0xe9]],
    ["binary", [0x00, 0xff, 0xfe, 0x01]],
  ])("refuses %s", (_what, octets) => {
    const outcome = readJson(Buffer.concat([bytes('{"a":"'), Buffer.from(octets), bytes('"}')]));
    expect(outcome).toMatchObject({ ok: false, code: "bad_json" });
  });

  it("checks the size before anything else", () => {
    expect(readJson(Buffer.alloc(64 * 1024 + 1, 0xff))).toMatchObject({ ok: false, code: "too_large" });
    const edge = `{"a":"${"x".repeat(64 * 1024 - 8)}"}`;
    expect(edge).toHaveLength(64 * 1024);
    expect(readJson(bytes(edge)).ok).toBe(true);
    // 22,000 characters of three bytes each are more than 64 KiB.
    expect(readJson(bytes(`{"a":"${"€".repeat(22_000)}"}`))).toMatchObject({ ok: false, code: "too_large" });
  });

  it("limits the depth to 8", () => {
    const nested = (depth: number): string => '{"a":'.repeat(depth - 1) + "{}" + "}".repeat(depth - 1);
    expect(readJson(bytes(nested(8))).ok).toBe(true);
    expect(readJson(bytes(nested(9)))).toMatchObject({ ok: false, code: "too_large", pointer: "/a/a/a/a/a/a/a/a" });
    expect(readJson(bytes('{"a":' + "[".repeat(60_000)))).toMatchObject({ ok: false, code: "too_large" });
  });

  it("refuses a key that comes twice, also when it is spelt differently", () => {
    expect(readJson(bytes('{"phoneNumber":"1","phoneNumber":"2"}'))).toMatchObject({
      ok: false,
      code: "duplicate_key",
      pointer: "/phoneNumber",
    });
    expect(readJson(bytes('{"replies":[{},{"a":1,"\\u0061":2}]}'))).toMatchObject({
      code: "duplicate_key",
      pointer: "/replies/1/a",
    });
    expect(readJson(bytes('{"__proto__":1,"__proto__":2}'))).toMatchObject({ code: "duplicate_key" });
    const long = "k".repeat(5000);
    const outcome = readJson(bytes(`{"${long}":1,"${long}":2}`));
    expect(outcome.ok ? "" : outcome.pointer?.length).toBeLessThanOrEqual(100);
  });

  it("takes the names of an object's own machinery for keys as any other", () => {
    const outcome = readJson(bytes('{"__proto__":{"polluted":true},"constructor":{"prototype":{"x":1}},"toJSON":"t"}'));
    if (!outcome.ok) throw new Error(outcome.message);
    const inherited = Object.getPrototypeOf(outcome.value) as object;
    expect(Object.getPrototypeOf(inherited)).toBeNull();
    expect(Object.getOwnPropertyNames(inherited)).toEqual([]);
    expect(Object.isFrozen(inherited)).toBe(true);
    expect(Object.keys(outcome.value)).toEqual(["__proto__", "constructor", "toJSON"]);
    expect(({} as Record<string, unknown>)["polluted"]).toBeUndefined();
  });

  it("reads what JSON.parse reads, to the same values", () => {
    const text =
      ' {"s":"a\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00é😀","n":[0,-0,1.5,1e3,1E-2,-12,1e999],"t":true,"f":false,"z":null,"o":{},"e":[]}\n';
    const outcome = readJson(bytes(text));
    if (!outcome.ok) throw new Error(outcome.message);
    expect(JSON.stringify(outcome.value)).toBe(JSON.stringify(JSON.parse(text)));
  });

  // The reader refuses what is larger than a command may be, so growth is seen below that.
  const hostile: Readonly<Record<string, (size: number) => string>> = {
    backslashes: (size) => `{"a":"${"\\\\".repeat(size / 2)}"}`,
    "escaped characters": (size) => `{"a":"${"\\u0041".repeat(size / 6)}"}`,
    blanks: (size) => `{"a":${" ".repeat(size)}1}`,
    digits: (size) => `{"a":${"1".repeat(size)}}`,
    elements: (size) => `{"a":[${"1,".repeat(size / 2)}1]}`,
    keys: (size) => `{${Array.from({ length: size / 11 }, (_, index) => `"k${index}":1`).join(",")}}`,
  };
  it.each(Object.entries(hostile))("%s: takes time in proportion to the size", (_name, shape) => {
    const reading = (size: number) => {
      const text = bytes(shape(size));
      return (): void => {
        for (let time = 0; time < 20; time += 1) readJson(text);
      };
    };
    expect(growth(reading, 7_500)).toBeLessThan(linear);
  });
});
