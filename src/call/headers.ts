import type { CustomHeader } from "./transfer.ts";

/** Why one header of the bot was not taken. `name` is the bot's key, for the JSON pointer of the warning. */
export interface HeaderWarning {
  readonly code: "header_dropped";
  readonly message: string;
  readonly name: string;
}

export interface CustomHeaders {
  readonly headers: readonly CustomHeader[];
  readonly warnings: readonly HeaderWarning[];
}

export interface CustomHeaderRules {
  /** `drop`: the trunk does not let a bot say who is calling. */
  readonly identityHeaders: "allow" | "drop";
}

export const headerLimits = {
  nameCharactersMax: 64,
  valueBytesMax: 512,
  countMax: 32,
  /** Names and values together. */
  totalBytesMax: 8 * 1024,
} as const;

// RFC 3261 §25.1: token = 1*(alphanum / "-" / "." / "!" / "%" / "*" / "_" / "+" / "`" / "'" / "~").
const token = /^[A-Za-z0-9\-.!%*_+`'~]+$/;

// RFC 3261 §7.3.3 and the registry of SIP header fields: a one-letter name is the same header as its long one.
const compactForms: ReadonlyMap<string, string> = new Map([
  ["a", "accept-contact"],
  ["b", "referred-by"],
  ["c", "content-type"],
  ["d", "request-disposition"],
  ["e", "content-encoding"],
  ["f", "from"],
  ["i", "call-id"],
  ["j", "reject-contact"],
  ["k", "supported"],
  ["l", "content-length"],
  ["m", "contact"],
  ["n", "identity-info"],
  ["o", "event"],
  ["r", "refer-to"],
  ["s", "subject"],
  ["t", "to"],
  ["u", "allow-events"],
  ["v", "via"],
  ["x", "session-expires"],
  ["y", "identity"],
]);

// Headers that belong to the transaction, the dialog, the body or a negotiation: a bot that set one could take the call apart.
const neverSettable: ReadonlySet<string> = new Set([
  "via",
  "from",
  "to",
  "call-id",
  "cseq",
  "contact",
  "max-forwards",
  "route",
  "record-route",
  "path",
  "service-route",
  "mime-version",
  // drachtio-srf takes a header of this name for the body and would replace the session description.
  "payload",
  "require",
  "supported",
  "allow",
  "authorization",
  "www-authenticate",
  "replaces",
  "join",
  "refer-to",
  "refer-sub",
  "event",
  "subscription-state",
  "session-expires",
  "min-se",
  "rseq",
  "rack",
  "expires",
  "date",
  "timestamp",
  "identity",
]);
const neverSettablePrefixes = ["content-", "allow-", "proxy-", "security-"] as const;

const identityNames: ReadonlySet<string> = new Set([
  "p-asserted-identity",
  "p-preferred-identity",
  "remote-party-id",
  "diversion",
  "history-info",
  "privacy",
]);

/**
 * Judges the headers a bot wants on a request (bot-contract §4). A header that breaks a rule is dropped as a whole and
 * told in a warning, `null` drops one silently, and what passes is unchanged byte for byte. Never throws.
 */
export function customHeaders(input: Readonly<Record<string, unknown>>, rules: CustomHeaderRules): CustomHeaders {
  const headers: CustomHeader[] = [];
  const warnings: HeaderWarning[] = [];
  const taken = new Set<string>();
  let totalBytes = 0;
  for (const name of Object.keys(input)) {
    const raw = input[name];
    if (raw === null || raw === undefined) continue;
    const drop = (message: string): void => {
      warnings.push({ code: "header_dropped", message, name });
    };
    const refusedName = whyNotName(name, rules);
    if (refusedName !== null) {
      drop(refusedName);
      continue;
    }
    const value = valueText(raw);
    if (value === null) {
      drop("the value of a header must be a string, a number or a boolean");
      continue;
    }
    const refusedValue = whyNotValue(value);
    if (refusedValue !== null) {
      drop(refusedValue);
      continue;
    }
    const canonical = canonicalName(name);
    if (taken.has(canonical)) {
      drop("the same header was given before under a name that is equal but for case or its compact form");
      continue;
    }
    if (headers.length >= headerLimits.countMax) {
      drop(`at most ${headerLimits.countMax} headers are taken`);
      continue;
    }
    const bytes = name.length + utf8Bytes(value);
    if (totalBytes + bytes > headerLimits.totalBytesMax) {
      drop(`all headers together are limited to ${headerLimits.totalBytesMax} bytes`);
      continue;
    }
    totalBytes += bytes;
    taken.add(canonical);
    headers.push({ name, value });
  }
  return { headers, warnings };
}

function whyNotName(name: string, rules: CustomHeaderRules): string | null {
  if (name.length > headerLimits.nameCharactersMax || !token.test(name)) {
    return `the name of a header must be an RFC 3261 token of 1 to ${headerLimits.nameCharactersMax} characters`;
  }
  const canonical = canonicalName(name);
  if (neverSettable.has(canonical) || neverSettablePrefixes.some((prefix) => canonical.startsWith(prefix))) {
    return "this header belongs to the signalling and cannot be set";
  }
  if (rules.identityHeaders === "drop" && identityNames.has(canonical)) {
    return "the trunk does not let a bot set identity headers";
  }
  return null;
}

function canonicalName(name: string): string {
  const lower = name.toLowerCase();
  return compactForms.get(lower) ?? lower;
}

function valueText(raw: unknown): string | null {
  switch (typeof raw) {
    case "string":
      return raw;
    case "boolean":
      return String(raw);
    case "number":
      return Number.isFinite(raw) ? String(raw) : null;
    default:
      return null;
  }
}

// Every control character: C0 with the tab, DEL, C1, and the two separators that some parsers take for a line end.
const forbiddenInValue = /[\p{Cc}\u2028\u2029]/u;
const loneSurrogate = /\p{Surrogate}/u;

function whyNotValue(value: string): string | null {
  if (forbiddenInValue.test(value))
    return "the value of a header must not contain control characters or line separators";
  if (loneSurrogate.test(value)) return "the value of a header must be well-formed Unicode";
  if (utf8Bytes(value) > headerLimits.valueBytesMax) {
    return `the value of a header is limited to ${headerLimits.valueBytesMax} bytes`;
  }
  return null;
}

// The core knows neither Buffer nor TextEncoder, so it counts the octets itself.
function utf8Bytes(text: string): number {
  let bytes = 0;
  for (const character of text) {
    const code = character.codePointAt(0) ?? 0;
    bytes += code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x1_0000 ? 3 : 4;
  }
  return bytes;
}
