import { contractLimits } from "./contract.ts";

// JSON.parse cannot refuse duplicate keys or depth and gives objects a prototype, so a command is read by a parser of our
// own. It goes over the text once, so its time is linear in the size that was checked before.

export type Json = string | number | boolean | null | readonly Json[] | JsonObject;
/** Has no prototype: `__proto__`, `constructor` and the like are keys as any other. */
export interface JsonObject {
  readonly [key: string]: Json;
}

export type JsonOutcome =
  | { readonly ok: true; readonly value: JsonObject }
  | {
      readonly ok: false;
      readonly code: "bad_json" | "too_large" | "duplicate_key";
      readonly message: string;
      readonly pointer: string | null;
    };

/** Reads one command from the wire. Never throws, and never repeats what it refuses. */
export function readJson(bytes: Uint8Array): JsonOutcome {
  if (bytes.byteLength > contractLimits.commandBytesMax) {
    return refuse("too_large", `a command is limited to ${contractLimits.commandBytesMax} bytes`);
  }
  let text: string;
  try {
    // A byte order mark is kept, so that the parser refuses it: RFC 8259 §8.1 forbids to send one.
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return refuse("bad_json", "the command is not UTF-8");
  }
  try {
    const value = new Reader(text).document();
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      return refuse("bad_json", "a command is a JSON object");
    }
    return { ok: true, value: value as JsonObject };
  } catch (error) {
    if (error instanceof JsonFault)
      return { ok: false, code: error.code, message: error.message, pointer: error.pointer };
    return refuse("bad_json", "the command is not JSON");
  }
}

function refuse(code: "bad_json" | "too_large", message: string): JsonOutcome {
  return { ok: false, code, message, pointer: null };
}

const pointerPartMax = 64;

/** One reference token of a JSON pointer (RFC 6901 §3), shortened so that a bot's text is never echoed at length. */
export function pointerPart(key: string | number): string {
  const text = String(key);
  const short = text.length > pointerPartMax ? `${text.slice(0, pointerPartMax)}…` : text;
  return short.replaceAll("~", "~0").replaceAll("/", "~1");
}

/**
 * Read objects inherit no name that a key could collide with. They can be made a text all the same: zod compares the
 * `length` of whatever it finds with a number, and an object there that cannot be compared would throw.
 */
const bare: object = Object.freeze(
  Object.create(null, { [Symbol.toPrimitive]: { value: () => "an object" } }) as object,
);

class JsonFault extends Error {
  readonly code: "bad_json" | "too_large" | "duplicate_key";
  readonly pointer: string | null;
  constructor(code: JsonFault["code"], message: string, pointer: string | null = null) {
    super(message);
    this.code = code;
    this.pointer = pointer;
  }
}

// RFC 8259 §6.
const number = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
// RFC 8259 §7: everything but the quote, the backslash and C0 stands for itself.
// oxlint-disable-next-line no-control-regex -- the grammar names the control characters
const plain = /[^"\\\u0000-\u001f]*/y;
const fourHex = /[0-9a-fA-F]{4}/y;
const escapes: ReadonlyMap<string, string> = new Map([
  ['"', '"'],
  ["\\", "\\"],
  ["/", "/"],
  ["b", "\b"],
  ["f", "\f"],
  ["n", "\n"],
  ["r", "\r"],
  ["t", "\t"],
]);

class Reader {
  readonly #text: string;
  readonly #path: (string | number)[] = [];
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  document(): Json {
    const value = this.#value(0);
    this.#blanks();
    if (this.#at < this.#text.length) throw this.#bad();
    return value;
  }

  #value(depth: number): Json {
    this.#blanks();
    switch (this.#text[this.#at]) {
      case "{":
        return this.#object(depth + 1);
      case "[":
        return this.#array(depth + 1);
      case '"':
        return this.#string();
      case "t":
        return this.#word("true", true);
      case "f":
        return this.#word("false", false);
      case "n":
        return this.#word("null", null);
      default:
        return this.#number();
    }
  }

  #object(depth: number): JsonObject {
    this.#descend(depth);
    const object: Record<string, Json> = Object.create(bare) as Record<string, Json>;
    this.#blanks();
    if (this.#skip("}")) return object;
    do {
      this.#blanks();
      if (this.#text[this.#at] !== '"') throw this.#bad();
      const key = this.#string();
      this.#path.push(key);
      if (key in object) {
        // Two parsers that disagree on which one counts are a way past a check, so neither is taken.
        throw new JsonFault("duplicate_key", "an object has the same key twice", this.#pointer());
      }
      this.#blanks();
      this.#expect(":");
      object[key] = this.#value(depth);
      this.#path.pop();
      this.#blanks();
    } while (this.#skip(","));
    this.#expect("}");
    return object;
  }

  #array(depth: number): readonly Json[] {
    this.#descend(depth);
    const items: Json[] = [];
    this.#blanks();
    if (this.#skip("]")) return items;
    do {
      this.#path.push(items.length);
      items.push(this.#value(depth));
      this.#path.pop();
      this.#blanks();
    } while (this.#skip(","));
    this.#expect("]");
    return items;
  }

  #descend(depth: number): void {
    if (depth > contractLimits.depthMax) {
      throw new JsonFault("too_large", `a command is nested at most ${contractLimits.depthMax} deep`, this.#pointer());
    }
    this.#at += 1;
  }

  #string(): string {
    this.#at += 1;
    let result = "";
    for (;;) {
      result += this.#match(plain);
      const next = this.#text[this.#at];
      if (next === '"') {
        this.#at += 1;
        return result;
      }
      if (next !== "\\") throw this.#bad();
      this.#at += 1;
      result += this.#escape();
    }
  }

  #escape(): string {
    const letter = this.#text[this.#at] ?? "";
    this.#at += 1;
    if (letter === "u") {
      const digits = this.#match(fourHex);
      if (digits === "") throw this.#bad();
      return String.fromCharCode(Number.parseInt(digits, 16));
    }
    const character = escapes.get(letter);
    if (character === undefined) throw this.#bad();
    return character;
  }

  #number(): number {
    const digits = this.#match(number);
    if (digits === "") throw this.#bad();
    return Number(digits);
  }

  #word<Value extends boolean | null>(word: string, value: Value): Value {
    if (!this.#text.startsWith(word, this.#at)) throw this.#bad();
    this.#at += word.length;
    return value;
  }

  #match(sticky: RegExp): string {
    sticky.lastIndex = this.#at;
    const found = sticky.exec(this.#text)?.[0] ?? "";
    this.#at += found.length;
    return found;
  }

  #blanks(): void {
    for (;;) {
      const code = this.#text.charCodeAt(this.#at);
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return;
      this.#at += 1;
    }
  }

  #skip(character: string): boolean {
    if (this.#text[this.#at] !== character) return false;
    this.#at += 1;
    return true;
  }

  #expect(character: string): void {
    if (!this.#skip(character)) throw this.#bad();
  }

  #bad(): JsonFault {
    return new JsonFault("bad_json", `the command is not JSON at character ${this.#at}`);
  }

  #pointer(): string {
    return this.#path.map((part) => `/${pointerPart(part)}`).join("");
  }
}
