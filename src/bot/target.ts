import { isIPv4, isIPv6 } from "node:net";
import { domainToASCII } from "node:url";

import type { TransferTarget } from "../call/transfer.ts";

/** What the channel allows a bot to call by SIP URI. */
export interface SipDestinations {
  /** Judges a canonical host: lower case, punycode, IPv6 in brackets. `port` is null when the URI names none. */
  allowsSipHost(host: string, port: number | null): boolean;
  /** Whether a trunk can carry `sips:` and `transport=tls`. */
  readonly tls: boolean;
}

export type TargetOutcome =
  | { readonly ok: true; readonly target: TransferTarget }
  /** `policy`: the target is a good one, but not for this channel. */
  | { readonly ok: false; readonly message: string; readonly policy?: true };

const phoneTextMax = 128;
const dialable = /^\+?[0-9*#]{1,32}$/;

/** Judges `phoneNumber` (bot-contract §3). Never throws. */
export function phoneTarget(text: string): TargetOutcome {
  if (text.length > phoneTextMax) return refuse("a phone number has at most 32 digits");
  const digits = text.replaceAll(/[ ().-]/g, "");
  if (!dialable.test(digits)) {
    return refuse("a phone number is an optional + and 1 to 32 of 0-9 * #; blanks and ( ) - . are ignored");
  }
  return { ok: true, target: { kind: "phone", digits } };
}

const uriTextMax = 512;
const userMax = 128;
const hostMax = 253;
const paramsMax = 8;

/**
 * Judges `sipUri` and builds a new URI from what was understood, so that nothing of the bot's text reaches the wire
 * unread (bot-contract §3). Never throws and asks no name server.
 */
export function uriTarget(text: string, destinations: SipDestinations): TargetOutcome {
  if (text.length > uriTextMax) return refuse(`a SIP URI has at most ${uriTextMax} characters`);
  // Blanks, quotes and angle brackets would end the URI where it stands in a header; a question mark starts headers.
  if (/[\s"<>\\?]/.test(text)) return refuse("a SIP URI has no blanks, quotes, brackets and no ?headers");
  if (/[\p{C}\p{Z}]/u.test(text)) return refuse("a SIP URI has no control or invisible characters");

  const scheme = /^sips?:/i.exec(text)?.[0].toLowerCase() ?? "sip:";
  const rest = /^sips?:/i.test(text) ? text.slice(scheme.length) : text;
  if (scheme === "sips:" && !destinations.tls) return refuse("sips: needs a trunk with TLS");

  const at = rest.indexOf("@");
  if (at < 1 || rest.includes("@", at + 1))
    return refuse("a SIP URI is user@host[:port][;params], with sip: or nothing before it");
  const user = userPart(rest.slice(0, at));
  if (user === null) return refuse(`the user of a SIP URI is 1 to ${userMax} allowed characters without a password`);

  const [address = "", ...rawParams] = rest.slice(at + 1).split(";");
  const place = hostPort(address);
  if (place === null)
    return refuse("the host of a SIP URI is a domain name, an IPv4 address or a [bracketed] IPv6 address");
  const params = uriParams(rawParams, destinations);
  if (!params.ok) return params;
  if (!destinations.allowsSipHost(place.host, place.port)) {
    return { ok: false, message: "the destination policy of the channel does not allow this host", policy: true };
  }
  const port = place.port === null ? "" : `:${place.port}`;
  const uri = `${scheme}${user}@${place.host}${port}${params.text}`;
  if (uri.length > uriTextMax) return refuse(`a SIP URI has at most ${uriTextMax} characters`);
  return { ok: true, target: { kind: "uri", uri } };
}

function refuse(message: string): { readonly ok: false; readonly message: string } {
  return { ok: false, message };
}

// RFC 3261 §25.1: user = 1*( unreserved / escaped / user-unreserved ). The question mark was refused before, and a colon
// would begin a password.
const userLiteral = /^[A-Za-z0-9\-_.!~*'()&=+$,;/]$/;

function userPart(raw: string): string | null {
  const user = normalised(raw, userLiteral);
  return user !== null && user.length <= userMax ? user : null;
}

/** Undoes escapes that were not needed and writes the needed ones in one way, so that one URI has one spelling. */
function normalised(raw: string, literal: RegExp): string | null {
  let decoded: string;
  try {
    decoded = decodeURIComponent(raw);
  } catch {
    return null;
  }
  // A control character behind a percent sign becomes a real one in a server that decodes before it writes.
  if (/[\p{C}\u2028\u2029]/u.test(decoded)) return null;
  let result = "";
  let at = 0;
  while (at < raw.length) {
    const character = raw[at] ?? "";
    if (character === "%") {
      const escape = raw.slice(at, at + 3);
      const meaning = String.fromCharCode(Number.parseInt(escape.slice(1), 16));
      result += /^[A-Za-z0-9\-_.!~*'()]$/.test(meaning) ? meaning : escape.toUpperCase();
      at += 3;
    } else {
      if (!literal.test(character)) return null;
      result += character;
      at += 1;
    }
  }
  return result === "" ? null : result;
}

interface Place {
  readonly host: string;
  readonly port: number | null;
}

function hostPort(text: string): Place | null {
  const parts = /^(\[[^\]]*\]|[^:[\]]*)(?::([0-9]{1,5}))?$/.exec(text);
  if (parts === null) return null;
  const host = canonicalHost(parts[1] ?? "");
  if (host === null) return null;
  if (parts[2] === undefined) return { host, port: null };
  const port = Number(parts[2]);
  return port >= 1 && port <= 65_535 ? { host, port } : null;
}

function canonicalHost(text: string): string | null {
  if (text.startsWith("[")) {
    const address = text.slice(1, -1);
    // A zone index names an interface of the sender and means nothing to anybody else.
    if (!isIPv6(address) || address.includes("%")) return null;
    return new URL(`http://[${address}]`).hostname;
  }
  if (isIPv4(text)) return text;
  const name = asciiName(text).replace(/\.$/, "");
  if (name === "" || name.length > hostMax) return null;
  const labels = name.split(".");
  if (!labels.every((label) => /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/.test(label))) return null;
  // 2130706433, 0x7f.1 and 127.1 are addresses to some resolvers: a name never ends in a number (RFC 3696 §2).
  const last = labels.at(-1) ?? "";
  if (/^(?:[0-9]+|0x[0-9a-f]*)$/.test(last)) return null;
  return name;
}

// domainToASCII reads a whole URL host: it would turn 2130706433 into an address and cut at a slash, so it only gets names
// that need it.
function asciiName(text: string): string {
  const lower = text.toLowerCase();
  if (/^[a-z0-9.-]*$/.test(lower)) return lower;
  return /^[\p{L}\p{M}\p{N}.-]+$/u.test(lower) ? domainToASCII(lower) : "";
}

// maddr and ttl send the request elsewhere, lr and method change what it is (RFC 3261 §19.1.1).
const refusedParams: ReadonlySet<string> = new Set(["maddr", "ttl", "lr", "method"]);
const paramName = /^[A-Za-z0-9\-_.!~*'()&+$]{1,32}$/;
const paramLiteral = /^[A-Za-z0-9\-_.!~*'()[\]/:&+$]$/;

type Params = { readonly ok: true; readonly text: string } | { readonly ok: false; readonly message: string };

function uriParams(raw: readonly string[], destinations: SipDestinations): Params {
  if (raw.length > paramsMax) return refuse(`a SIP URI has at most ${paramsMax} parameters`);
  const seen = new Set<string>();
  let text = "";
  for (const param of raw) {
    const equals = param.indexOf("=");
    const rawName = equals < 0 ? param : param.slice(0, equals);
    const name = rawName.toLowerCase();
    const value = equals < 0 ? "" : normalised(param.slice(equals + 1), paramLiteral);
    if (!paramName.test(name) || value === null || seen.has(name))
      return refuse("a parameter of the SIP URI is malformed");
    if (refusedParams.has(name)) return refuse(`the URI parameter ${name} is not allowed`);
    if (name === "transport" && !allowsTransport(value.toLowerCase(), destinations)) {
      return refuse("the URI parameter transport is udp or tcp, or tls where a trunk has it");
    }
    seen.add(name);
    text += value === "" ? `;${name}` : `;${name}=${name === "transport" ? value.toLowerCase() : value}`;
  }
  return { ok: true, text };
}

function allowsTransport(transport: string, destinations: SipDestinations): boolean {
  return transport === "udp" || transport === "tcp" || (transport === "tls" && destinations.tls);
}
