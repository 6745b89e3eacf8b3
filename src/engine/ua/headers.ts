import {
  formatHostPort,
  formatNameAddr,
  isToken,
  param,
  parseNameAddr,
  quote,
  splitList,
  uriScheme,
} from "../sip/grammar.ts";
import { joined, knownSpellings } from "../sip/message.ts";
import type { HeaderLine, Headers, SipMessage, SipRequest } from "../sip/message.ts";
import type { NextHop } from "./core.ts";

/** A SIP message as an application wrote it over the wire protocol: no Via, no tags, a Content-Length nobody may trust. */
export type AppMessage =
  | {
      readonly kind: "request";
      readonly method: string;
      readonly uri: string;
      readonly lines: readonly HeaderLine[];
      readonly body: Buffer;
    }
  | {
      readonly kind: "response";
      readonly status: number;
      readonly reason: string;
      readonly lines: readonly HeaderLine[];
      readonly body: Buffer;
    };

export type AppOutcome =
  | { readonly ok: true; readonly message: AppMessage }
  | { readonly ok: false; readonly text: string };

const headEndMark = Buffer.from("\r\n\r\n");
// Tabs are blanks in SIP; every other control character could end a line or a string somewhere behind us.
const requestLine = /^(\S+) (.+) SIP\/2\.0$/;
const statusLine = /^SIP\/2\.0 ([1-6]\d\d)(?: (.*))?$/;

/** Rule 1 of the specification: the engine writes these itself, an application never does. */
const neverFromApp: ReadonlySet<string> = new Set(["via", "route", "record-route", "rseq", "content-length"]);
const addressHeaders: ReadonlySet<string> = new Set(["from", "contact", "to", "p-asserted-identity"]);

/**
 * Whether a character could end a line or a string somewhere behind us: controls of ASCII and Latin-1, and Unicode's own
 * line ends. Tabs are blanks in SIP.
 */
function isControl(code: number): boolean {
  return (code < 0x20 && code !== 0x09) || (code >= 0x7f && code <= 0x9f) || code === 0x20_28 || code === 0x20_29;
}

function hasControl(text: string): boolean {
  for (let at = 0; at < text.length; at += 1) {
    if (isControl(text.charCodeAt(at))) {
      return true;
    }
  }
  return false;
}

/** Reads what an application wrote. The body is everything behind the first empty line, whatever Content-Length says. */
export function parseAppMessage(sip: Buffer): AppOutcome {
  const headEnd = sip.indexOf(headEndMark);
  const head = (headEnd === -1 ? sip : sip.subarray(0, headEnd)).toString("utf8");
  const body = headEnd === -1 ? Buffer.alloc(0) : sip.subarray(headEnd + headEndMark.length);
  const [startLine = "", ...headerLines] = head.split("\r\n");
  const lines: HeaderLine[] = [];
  if (hasControl(startLine)) {
    return { ok: false, text: "invalid character in start line" };
  }
  for (const line of headerLines) {
    if (line === "") {
      continue;
    }
    const colon = line.indexOf(":");
    const name = colon === -1 ? "" : line.slice(0, colon).trim();
    if (hasControl(line)) {
      return { ok: false, text: `invalid character in header ${isToken(name) ? name : "line"}` };
    }
    // Like drachtio's makeTags: a line whose name is no token is left out, the rest of the message still counts.
    if (isToken(name) && line[0] !== " " && line[0] !== "\t") {
      lines.push({ name, value: line.slice(colon + 1).trim() });
    }
  }
  const status = statusLine.exec(startLine);
  if (status !== null) {
    return {
      ok: true,
      message: { kind: "response", status: Number(status[1]), reason: status[2] ?? "", lines, body },
    };
  }
  const request = requestLine.exec(startLine);
  const method = request?.[1] ?? "";
  if (request === null || !isToken(method)) {
    return { ok: false, text: "invalid start line" };
  }
  return { ok: true, message: { kind: "request", method, uri: request[2] ?? "", lines, body } };
}

/** The host that stands in for `localhost`, and the port where it is not the default. */
export interface LocalHost {
  readonly host: string;
  readonly port: number;
}

/**
 * The application's headers by drachtio's rules: the engine's own headers out, known names in their usual spelling,
 * `@localhost` replaced by the address the message goes out from, letters after dashes of other names in upper case.
 */
export function cleanAppHeaders(lines: readonly HeaderLine[], local: LocalHost): HeaderLine[] {
  const clean: HeaderLine[] = [];
  for (const { name, value } of lines) {
    const key = name.toLowerCase();
    if (neverFromApp.has(key)) {
      continue;
    }
    clean.push({
      name: spell(name),
      value: addressHeaders.has(key) ? replaceLocalhost(value, local) : value,
    });
  }
  return clean;
}

function spell(name: string): string {
  const known = knownSpellings.get(name.toLowerCase());
  if (known !== undefined) {
    return known;
  }
  return /^x-/i.test(name)
    ? name
    : name.replaceAll(/-([a-z])/g, (_match, letter: string) => `-${letter.toUpperCase()}`);
}

/** `<sip:localhost>` without a user stays as it is, as with drachtio-server. */
export function replaceLocalhost(value: string, local: LocalHost): string {
  return value.replaceAll(/@localhost(?::\d{1,5})?(?=$|[\s;>?,])/g, `@${formatHostPort(local.host, local.port)}`);
}

/** The value with `tag` set; an address without brackets gets them, so that the tag cannot be read as a URI parameter. */
export function withTag(address: string, tag: string): string {
  const parsed = parseNameAddr(address);
  if (parsed?.tag !== undefined) {
    return address;
  }
  const text = address.trim();
  return text.includes("<") ? `${text};tag=${tag}` : `<${parsed?.uri ?? text}>;tag=${tag}`;
}

/** The tag of a From or To value. */
export function tagOf(address: string | undefined): string | undefined {
  return address === undefined ? undefined : parseNameAddr(address)?.tag;
}

/** `undefined` where a body has no type and none can be told from its first bytes. */
export function sniffContentType(body: Buffer): string | undefined {
  return body.subarray(0, 3).toString("latin1") === "v=0" ? "application/sdp" : undefined;
}

/**
 * Adds the Content-Type that drachtio-srf leaves out for SDP. False when a body has a type nobody can tell.
 */
export function ensureContentType(headers: Headers, body: Buffer): boolean {
  if (body.length === 0 || headers.has("Content-Type")) {
    return true;
  }
  const type = sniffContentType(body);
  if (type === undefined) {
    return false;
  }
  headers.add("Content-Type", type);
  return true;
}

// drachtio-srf keeps headers in a plain object; these names would hit what every object inherits.
const unsafeNames: ReadonlySet<string> = new Set(["__proto__", "constructor"]);

/**
 * The text drachtio-srf gets: whole lines only, full names, no folds, no runs of blanks. Its parser rejects a message
 * for one line without a colon, undoes percent escapes in header names (`C%6Fntact`), and is quadratic in blanks.
 */
export function textForApp(message: SipMessage): Buffer {
  let head =
    message.kind === "request"
      ? `${message.method} ${message.uri} SIP/2.0\r\n`
      : `SIP/2.0 ${message.status} ${cleanText(message.reason)}\r\n`;
  for (const { name, key, value } of message.headers.lines) {
    const known = knownSpellings.has(key);
    if (key === "content-length" || (!known && (unsafeNames.has(key) || name.includes("%") || !isToken(name)))) {
      continue;
    }
    head += `${name}: ${cleanText(addressLists.has(key) ? plainList(value) : value)}\r\n`;
  }
  head += `Content-Length: ${message.body.length}\r\n\r\n`;
  return joined(head, message.body);
}

// Lists of addresses that drachtio-srf takes apart, after joining all lines of the name.
const addressLists: ReadonlySet<string> = new Set(["contact", "route", "record-route", "path", "p-asserted-identity"]);

/**
 * The same list with angle brackets around every URI, and quotes around parameter values that are no tokens:
 * drachtio-srf takes the comma behind a bare URI for a part of it, and loses what follows a value with a slash.
 */
function plainList(value: string): string {
  // By far the most: one address in brackets, without anything that could be misread.
  if (/^<[^>,]*>$/.test(value)) {
    return value;
  }
  const parts = splitList(value) ?? [];
  const addresses = parts.map((part) => parseNameAddr(part));
  return addresses.every((address) => address !== undefined)
    ? addresses
        .map((address, index) => {
          const part = parts[index] ?? "";
          const params = address.params.map((one) =>
            one.value === undefined || one.value.startsWith('"') || isToken(one.value)
              ? one
              : { name: one.name, value: quote(one.value) },
          );
          // A display name stays as it came; only what stands behind it is written anew.
          const display = part.startsWith(address.uri) ? "" : part.slice(0, part.indexOf(`<${address.uri}>`));
          return display + formatNameAddr({ uri: address.uri, params });
        })
        .join(", ")
    : value;
}

function cleanText(value: string): string {
  if (!hasControl(value)) {
    return value.trim();
  }
  return Array.from(value, (character) => (isControl(character.charCodeAt(0)) ? " " : character))
    .join("")
    .trim();
}

/** A Contact that requests can be sent to: a sip or sips URI with a host. `undefined` for `*` and anything else. */
export function contactTarget(headers: Headers): string | undefined {
  const first = headers.list("Contact")[0];
  const address = first === undefined ? undefined : parseNameAddr(first);
  return address?.sip === undefined ? undefined : address.uri;
}

/** Whether a URI may be reached over TLS only (RFC 5630). */
export function isSecure(uri: string): boolean {
  return uriScheme(uri) === "sips";
}

/**
 * RFC 3261 §12.1.1: whether our Contact has to be a `sips` URI because the one who sent the request asked for that in its
 * URI, in its topmost Record-Route or, without one, in its Contact.
 */
export function asksForSecure({ uri, headers }: SipRequest): boolean {
  const [nearest = headers.list("Contact")[0]] = headers.list("Record-Route");
  return isSecure(uri) || (nearest !== undefined && parseNameAddr(nearest)?.sip?.scheme === "sips");
}

/**
 * A Contact written with `@localhost` means "reach me where this goes out", and that includes the transport, and with
 * `secure` the scheme (RFC 3261 §8.1.1.8, §12.1.1).
 */
export function contactForHop(
  contact: string,
  message: AppMessage,
  hop: Pick<NextHop, "protocol">,
  secure = false,
): string {
  const asWritten = message.lines.find((line) => line.name.toLowerCase() === "contact")?.value ?? "";
  if ((hop.protocol === "udp" && !secure) || !asWritten.includes("@localhost")) {
    return contact;
  }
  const address = parseNameAddr(contact);
  if (address?.sip === undefined || (param(address.sip.params, "transport") !== undefined && !secure)) {
    return contact;
  }
  const tail = contact.slice(contact.indexOf(address.uri) + address.uri.length);
  const head = contact.slice(0, contact.indexOf(address.uri));
  const uri = secure ? address.uri.replace(/^sip:/i, "sips:") : `${address.uri};transport=${hop.protocol}`;
  return contact.includes("<") ? `${head}${uri}${tail}` : `${head}<${uri}>${tail}`;
}
