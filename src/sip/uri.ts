import { escapeUser } from "../call/identity.ts";

/** A `sip:` or `sips:` URI as far as this side needs it (RFC 3261 §19.1). */
export interface SipUri {
  readonly scheme: "sip" | "sips";
  /** Percent-decoded, without a password; null when the URI has no user. */
  readonly user: string | null;
  /** Lower case; an IPv6 address with its brackets. */
  readonly host: string;
  readonly port: number | null;
  /** Names in lower case; null for a parameter without a value. */
  readonly params: ReadonlyMap<string, string | null>;
}

/** A name-addr or addr-spec (RFC 3261 §20.10, §25.1). */
export interface NameAddr {
  readonly display: string | null;
  /** As it was written. */
  readonly uri: string;
  readonly params: ReadonlyMap<string, string | null>;
}

const longestText = 4096;

/** Undefined for anything that is no plain `sip:`/`sips:` URI; URI headers (`?Replaces=…`) are not let through. */
export function parseSipUri(text: string): SipUri | undefined {
  const scheme = /^(sips?):/i.exec(text)?.[1]?.toLowerCase() as "sip" | "sips" | undefined;
  if (scheme === undefined || text.length > longestText || hasForbidden(text)) {
    return undefined;
  }
  const rest = text.slice(scheme.length + 1);
  // RFC 3261 §19.1.1: the user part may hold `;` and `?`, so the last unescaped `@` ends it.
  const at = rest.lastIndexOf("@");
  const user = at < 0 ? null : decodeUser(rest.slice(0, at));
  if (user === undefined) {
    return undefined;
  }
  const [place = "", ...params] = rest.slice(at + 1).split(";");
  const parsed = parseHostPort(place);
  if (parsed === undefined || rest.slice(at + 1).includes("?")) {
    return undefined;
  }
  return { scheme, user, ...parsed, params: paramMap(params) };
}

/** Builds the text anew, so that nothing but what was understood is sent on. */
export function formatSipUri({ scheme, user, host, port, params }: SipUri): string {
  const userPart = user === null || user === "" ? "" : `${escapeUser(user)}@`;
  const portPart = port === null ? "" : `:${port}`;
  const paramPart = [...params].map(([name, value]) => (value === null ? `;${name}` : `;${name}=${value}`)).join("");
  return `${scheme}:${userPart}${hostText(host)}${portPart}${paramPart}`;
}

/** RFC 3261 §25.1 `IPv6reference`: an IPv6 address stands in brackets. */
export function hostText(host: string): string {
  return host.includes(":") && !host.startsWith("[") ? `[${host}]` : host;
}

/** The number or user in an address: the user of a SIP URI without its `;…` part (RFC 3261 §19.1.6), or a `tel:` number. */
export function userOf(uri: string): string {
  if (/^tel:/i.test(uri)) {
    const [number = ""] = uri.slice(4).split(";");
    return /^\+?[0-9*#A-D().-]{1,64}$/i.test(number) ? number.replaceAll(/[().-]/g, "") : "";
  }
  const [user = ""] = (parseSipUri(uri)?.user ?? "").split(";");
  return user;
}

/** Reads `"Ann" <sip:a@b>;tag=1`, `<sip:a@b>`, `sip:a@b;tag=1`. Undefined when there is no address in it. */
export function parseNameAddr(text: string): NameAddr | undefined {
  const trimmed = text.trim();
  if (trimmed.length > longestText) {
    return undefined;
  }
  const quoted = trimmed.startsWith('"') ? endOfQuoted(trimmed, 0) : 0;
  if (quoted < 0) {
    return undefined;
  }
  const open = trimmed.indexOf("<", quoted);
  if (open < 0) {
    // RFC 3261 §20: without angle brackets all parameters belong to the header, not to the URI.
    const [uri = "", ...params] = trimmed.split(";");
    return quoted > 0 || uri === "" ? undefined : { display: null, uri: uri.trim(), params: paramMap(params) };
  }
  const close = trimmed.indexOf(">", open);
  if (close < 0) {
    return undefined;
  }
  const name = quoted > 0 ? unquote(trimmed.slice(0, quoted)) : trimmed.slice(0, open).trim();
  return {
    display: name === "" ? null : name,
    uri: trimmed.slice(open + 1, close).trim(),
    params: paramMap(splitOutsideQuotes(trimmed.slice(close + 1), ";").slice(1)),
  };
}

/** `"Ann" <uri>` or `<uri>`, with the name quoted and cleaned of what could end a header line. */
export function formatNameAddr(display: string | null, uri: string): string {
  if (display === null || display === "") {
    return `<${uri}>`;
  }
  const clean = display.replaceAll(/[\p{Cc}\u2028\u2029]/gu, " ").replaceAll(/["\\]/g, String.raw`\$&`);
  return `"${clean}" <${uri}>`;
}

/** Splits at a separator that stands outside of quotes and angle brackets; takes time in proportion to the text. */
export function splitOutsideQuotes(text: string, separator: "," | ";"): string[] {
  const parts: string[] = [];
  let start = 0;
  let bracket = false;
  for (let index = 0; index < text.length; index += 1) {
    const character = text[index];
    if (character === '"') {
      const end = endOfQuoted(text, index);
      if (end < 0) {
        break;
      }
      index = end - 1;
    } else if (character === "<") {
      bracket = true;
    } else if (character === ">") {
      bracket = false;
    } else if (character === separator && !bracket) {
      parts.push(text.slice(start, index));
      start = index + 1;
    }
  }
  parts.push(text.slice(start));
  return parts;
}

/** The text inside a quoted string with its escapes undone; text without quotes is returned as it is. */
export function unquote(text: string): string {
  const trimmed = text.trim();
  return trimmed.startsWith('"') && trimmed.endsWith('"') && trimmed.length >= 2
    ? trimmed.slice(1, -1).replaceAll(/\\(.)/gs, "$1")
    : trimmed;
}

/** Position behind the quoted string that begins at `start`, or -1 when it never ends. */
function endOfQuoted(text: string, start: number): number {
  for (let index = start + 1; index < text.length; index += 1) {
    if (text[index] === "\\") {
      index += 1;
    } else if (text[index] === '"') {
      return index + 1;
    }
  }
  return -1;
}

function hasForbidden(text: string): boolean {
  return /[\p{Cc}\s<>"]/u.test(text);
}

function decodeUser(text: string): string | undefined {
  const [user = ""] = text.split(":");
  try {
    const decoded = decodeURIComponent(user);
    // RFC 3261 §25.1: `user` has at least one character.
    return decoded === "" || /\p{Cc}/u.test(decoded) ? undefined : decoded;
  } catch {
    return undefined;
  }
}

function parseHostPort(text: string): { readonly host: string; readonly port: number | null } | undefined {
  const match = /^(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9.])?)(?::([0-9]{1,5}))?$/.exec(
    text,
  );
  const host = match?.[1];
  if (host === undefined) {
    return undefined;
  }
  const port = match?.[2] === undefined ? null : Number(match[2]);
  return port !== null && (port < 1 || port > 65_535) ? undefined : { host: host.toLowerCase(), port };
}

function paramMap(parts: readonly string[]): ReadonlyMap<string, string | null> {
  return new Map(
    parts
      .filter((part) => part.trim() !== "")
      .map((part) => {
        const equals = part.indexOf("=");
        return equals < 0
          ? [part.trim().toLowerCase(), null]
          : [part.slice(0, equals).trim().toLowerCase(), part.slice(equals + 1).trim()];
      }),
  );
}
