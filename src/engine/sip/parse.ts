import { isAscii, isUtf8 } from "node:buffer";
import type { NameAddr, Via } from "./grammar.ts";
import {
  isCallId,
  isToken,
  isUri,
  parseContacts,
  parseCSeq,
  parseDecimal,
  parseNameAddr,
  parseNameAddrs,
  parseUri,
  parseVias,
  trimBlanks,
  uriScheme,
} from "./grammar.ts";
import {
  expandHeaderName,
  isListHeader,
  type HeaderLine,
  type SipMessage,
  SipRequest,
  SipResponse,
  standardMethods,
} from "./message.ts";

/** Bytes and counts above which a message is refused before any of it is interpreted. */
export interface MessageLimits {
  readonly datagramBytes: number;
  /** Head and body of one message on a stream. */
  readonly streamBytes: number;
  readonly headerLines: number;
  /** One header line with all its folds; the start line too. */
  readonly headerLineBytes: number;
  /** Call-ID and tags. */
  readonly identifierBytes: number;
  /** Values of one list header (Via, Contact, Route...), over all its lines. */
  readonly listValues: number;
  /** Parameters in one header line or in the Request-URI, counted by their semicolons. */
  readonly parameters: number;
  /** One of these parameters, name and value. */
  readonly parameterBytes: number;
  readonly bodyBytes: number;
}

export const defaultMessageLimits: MessageLimits = {
  datagramBytes: 16_384,
  streamBytes: 65_536,
  headerLines: 64,
  headerLineBytes: 2_048,
  identifierBytes: 256,
  listValues: 100,
  parameters: 100,
  parameterBytes: 1_024,
  bodyBytes: 32_768,
};

// RFC 3261 §7.3.1: headers that are not lists may appear once only; a second one is another message in disguise
// (RFC 4475 multi01, mcl01).
const singleHeaders: readonly string[] = [
  "From",
  "To",
  "Call-ID",
  "CSeq",
  "Max-Forwards",
  "Content-Length",
  "Content-Type",
  "Refer-To",
  "Referred-By",
  "Replaces",
  "RAck",
  "RSeq",
  "Session-Expires",
  "Min-SE",
  "Expires",
  "Event",
  "Subscription-State",
];

/** What is left of a malformed request: enough to say so to its sender, without state. */
export interface Answerable {
  readonly status: 400 | 413 | 414 | 501 | 505 | 513;
  readonly reason: string;
  readonly method: string;
  /** The lines that a response copies (Via, From, To, Call-ID, CSeq), in their order, as far as they exist. */
  readonly lines: readonly HeaderLine[];
  /** The topmost Via where it can be read; without it the answer goes to where the packet came from. */
  readonly via?: Via;
}

export type ParseOutcome =
  | { readonly ok: true; readonly message: SipMessage }
  | { readonly ok: false; readonly reason: string; readonly answerable?: Answerable };

class Refusal {
  readonly reason: string;
  readonly status: Answerable["status"];

  constructor(reason: string, status: Answerable["status"] = 400) {
    this.reason = reason;
    this.status = status;
  }
}

/**
 * Reads one message from a datagram, or from the bytes a stream framer cut out. Never throws. What is refused carries in
 * `answerable` what a stateless answer needs, where there is anybody to answer: not for responses, not for ACK.
 */
export function parseMessage(bytes: Buffer, limits: MessageLimits, transport: "datagram" | "stream"): ParseOutcome {
  const outcome = readMessage(bytes, limits, transport);
  if (!(outcome instanceof Refusal)) {
    return { ok: true, message: outcome };
  }
  const answerable = salvage(bytes, limits, outcome);
  return { ok: false, reason: outcome.reason, ...(answerable === undefined ? {} : { answerable }) };
}

const headEndMark = Buffer.from("\r\n\r\n");

function readMessage(bytes: Buffer, limits: MessageLimits, transport: "datagram" | "stream"): SipMessage | Refusal {
  if (bytes.length > (transport === "datagram" ? limits.datagramBytes : limits.streamBytes)) {
    return new Refusal("Message Too Large", 513);
  }
  let start = 0;
  // RFC 3261 §7.5: CRLF before the start line is ignored.
  while (bytes[start] === 13 && bytes[start + 1] === 10) {
    start += 2;
  }
  const headEnd = bytes.indexOf(headEndMark, start);
  if (headEnd === -1) {
    return new Refusal("Header Section Has No End");
  }
  const lines = splitLines(bytes, start, headEnd, limits);
  if (lines instanceof Refusal) {
    return lines;
  }
  const message = readStartLine(lines.startLine);
  if (message instanceof Refusal) {
    return message;
  }
  const fault =
    parameterFault(lines.startLine, limits) ??
    readHeaders(lines.headerLines, message, limits) ??
    validate(message, limits);
  if (fault !== undefined) {
    // RFC 3261 §8.2: the method is inspected first, so an unknown one is 501 whatever else is wrong (RFC 4475 mismatch02).
    return message.kind === "request" && fault.status === 400 && !standardMethods.has(message.method)
      ? new Refusal("Not Implemented", 501)
      : fault;
  }
  return readBody(bytes, headEnd + 4, transport, message) ?? bodyFault(message, limits) ?? message;
}

interface Lines {
  readonly startLine: string;
  /** Unfolded, with their colon still inside. */
  readonly headerLines: readonly string[];
}

function splitLines(bytes: Buffer, start: number, end: number, limits: MessageLimits): Lines | Refusal {
  const head = bytes.subarray(start, end);
  if (!isUtf8(head)) {
    return new Refusal("Header Is Not UTF-8");
  }
  // One character per byte, so that limits count bytes; what is not ASCII is decoded line by line.
  const text = head.toString("latin1");
  const decode = isAscii(head)
    ? (line: string) => line
    : (line: string) => Buffer.from(line, "latin1").toString("utf8");
  const headerLines: string[] = [];
  let startLine: string | undefined;
  let lineStart = 0;
  while (lineStart <= text.length) {
    let lineEnd = endOfLine(text, lineStart);
    let line = text.slice(lineStart, lineEnd);
    // RFC 3261 §7.3.1: a line that begins with a blank continues the one before it, and the fold counts as one SP.
    while (isFolded(text, lineStart, lineEnd)) {
      const foldStart = lineEnd + 2;
      lineEnd = endOfLine(text, foldStart);
      if (lineEnd - lineStart > limits.headerLineBytes) {
        break;
      }
      line += text.slice(foldStart, lineEnd).replace(/^[ \t]+/, " ");
    }
    if (lineEnd - lineStart > limits.headerLineBytes) {
      // RFC 3261 §21.4.12: what makes a start line long is its Request-URI.
      return lineStart === 0 ? new Refusal("Request-URI Too Long", 414) : new Refusal("Header Too Long");
    }
    if (startLine === undefined) {
      startLine = decode(line);
    } else {
      if (headerLines.length === limits.headerLines) {
        return new Refusal("Too Many Headers");
      }
      headerLines.push(decode(line));
    }
    lineStart = lineEnd + 2;
  }
  return { startLine: startLine ?? "", headerLines };
}

/** The start line is never folded (RFC 3261 §7.1). */
function isFolded(text: string, lineStart: number, lineEnd: number): boolean {
  return lineStart > 0 && isBlank(text.charCodeAt(lineEnd + 2));
}

function endOfLine(text: string, from: number): number {
  const end = text.indexOf("\r\n", from);
  return end === -1 ? text.length : end;
}

function isBlank(code: number): boolean {
  return code === 32 || code === 9;
}

function readStartLine(line: string): SipMessage | Refusal {
  if (/^SIP\//i.test(line)) {
    const status = /^SIP\/2\.0 ([1-6]\d\d)(?: ([^\r\n\0]*))?$/i.exec(line);
    // RFC 4475 bigcode: a status outside 100..699 is nothing we could act on.
    return status === null ? new Refusal("Malformed Status-Line") : new SipResponse(Number(status[1]), status[2] ?? "");
  }
  // RFC 3261 §7.1: exactly one SP between the parts and none behind the last (RFC 4475 lwsruri, lwsstart, trws).
  const parts = line.split(" ");
  const [method = "", uri = "", version = ""] = parts;
  if (parts.length !== 3 || !isToken(method)) {
    return new Refusal("Malformed Request-Line");
  }
  if (version.toUpperCase() !== "SIP/2.0") {
    return /^SIP\/\d+\.\d+$/i.test(version)
      ? new Refusal("Version Not Supported", 505)
      : new Refusal("Malformed Request-Line");
  }
  return new SipRequest(method, uri);
}

function readHeaders(lines: readonly string[], message: SipMessage, limits: MessageLimits): Refusal | undefined {
  for (const line of lines) {
    const colon = line.indexOf(":");
    // A blank before the name would be a fold of the start line, which there is not (RFC 3261 §7.3.1).
    const name = colon === -1 || isBlank(line.charCodeAt(0)) ? "" : trimBlanks(line.slice(0, colon));
    if (!isToken(name)) {
      // A response is not worth a lost call for one odd line; a request with one is refused.
      if (message.kind === "response") {
        continue;
      }
      return new Refusal("Malformed Header");
    }
    const value = cleanValue(line, colon + 1);
    if (value === undefined) {
      return new Refusal("Control Character In Header");
    }
    const fault = parameterFault(value, limits);
    if (fault !== undefined) {
      return fault;
    }
    message.headers.add(name, value);
  }
  return undefined;
}

/** Too many parameters in a line, or one that is too long. Semicolons within quotes are text. */
function parameterFault(text: string, limits: MessageLimits): Refusal | undefined {
  if (text.length <= limits.parameters && text.length <= limits.parameterBytes) {
    return undefined;
  }
  let count = 0;
  let from = text.indexOf(";") + 1;
  let quoted = false;
  for (let at = 0; at <= text.length; at += 1) {
    const code = text.charCodeAt(at);
    if (code === 34) {
      quoted = !quoted;
    } else if (code === 92 && quoted) {
      at += 1;
    } else if (from > 0 && at >= from && (at === text.length || (code === 59 && !quoted))) {
      if (at - from > limits.parameterBytes) {
        return new Refusal("Parameter Too Long");
      }
      from = at + 1;
      count += 1;
    }
  }
  return count > limits.parameters ? new Refusal("Too Many Parameters") : undefined;
}

/**
 * The value from `start` without blanks at its ends, and with runs of blanks outside quotes as one SP: all the same to
 * RFC 3261 §7.3.1, and it takes away what makes parsers behind us slow. Undefined where a control character stands that
 * is no quoted pair (RFC 3261 §25.1 allows those: RFC 4475 intmeth).
 */
function cleanValue(line: string, start: number): string | undefined {
  let clean = "";
  let copied = start;
  let quoted = false;
  for (let at = start; at < line.length; at += 1) {
    const code = line.charCodeAt(at);
    if (code === 34) {
      quoted = !quoted;
    } else if (code === 92 && quoted && !isLineBreak(line.charCodeAt(at + 1))) {
      at += 1;
    } else if (isBlank(code)) {
      if (!quoted) {
        const runStart = at;
        while (isBlank(line.charCodeAt(at + 1))) {
          at += 1;
        }
        clean += `${line.slice(copied, runStart)} `;
        copied = at + 1;
      }
    } else if (code < 32 || code === 127) {
      return undefined;
    }
  }
  return trimBlanks(clean + line.slice(copied));
}

function isLineBreak(code: number): boolean {
  return code === 13 || code === 10;
}

// The five fields that every message has and that identify its transaction and dialog (RFC 3261 §8.1.1, without Max-Forwards).
const identifyingHeaders: readonly string[] = ["From", "To", "Call-ID", "CSeq", "Content-Length"];

const singleKeys: ReadonlySet<string> = new Set(singleHeaders.map((name) => name.toLowerCase()));

function repeatedHeader({ kind, headers }: SipMessage): string | undefined {
  const { lines } = headers;
  for (let at = 1; at < lines.length; at += 1) {
    const key = lines[at]?.key ?? "";
    if (singleKeys.has(key) && headers.indexOf(key) < at) {
      return (kind === "request" ? singleHeaders : identifyingHeaders).find((name) => headers.count(name) > 1);
    }
  }
  return undefined;
}

function validate(message: SipMessage, limits: MessageLimits): Refusal | undefined {
  const { headers } = message;
  const repeated = repeatedHeader(message);
  if (repeated !== undefined) {
    return new Refusal(`Repeated ${repeated}`);
  }
  const overfull = overfullList(message, limits);
  if (overfull !== undefined) {
    return new Refusal(`Too Many Values In ${overfull}`);
  }
  const vias = parseAll(headers.all("via"), parseVias);
  if (vias === undefined || vias.length === 0) {
    return new Refusal("Malformed Via");
  }
  const from = parseNameAddr(headers.get("from") ?? "");
  if (from === undefined || (from.tag ?? "").length > limits.identifierBytes) {
    return new Refusal("Malformed From");
  }
  const to = parseNameAddr(headers.get("to") ?? "");
  if (to === undefined || (to.tag ?? "").length > limits.identifierBytes) {
    return new Refusal("Malformed To");
  }
  const callId = headers.get("call-id") ?? "";
  if (!isCallId(callId) || callId.length > limits.identifierBytes) {
    return new Refusal("Malformed Call-ID");
  }
  const cseq = parseCSeq(headers.get("cseq") ?? "");
  if (cseq === undefined) {
    return new Refusal("Malformed CSeq");
  }
  if (message.kind === "response") {
    return undefined;
  }
  if (cseq.method !== message.method) {
    return new Refusal("CSeq Method Does Not Match");
  }
  return validateBranch(vias[0], from) ?? validateUri(message.uri) ?? validateAddresses(message);
}

/**
 * The name of a list header that has too many values. Parsers behind us take time that grows with the square of their
 * number; a comma within quotes counts too, which no honest message notices.
 */
function overfullList({ headers }: SipMessage, limits: MessageLimits): string | undefined {
  let most = headers.lines.length;
  for (const { value } of headers.lines) {
    most += commasIn(value);
  }
  if (most <= limits.listValues) {
    return undefined;
  }
  const counts = new Map<string, number>();
  for (const { name, key, value } of headers.lines) {
    if (isListHeader(name)) {
      const count = (counts.get(key) ?? 0) + 1 + commasIn(value);
      if (count > limits.listValues) {
        return name;
      }
      counts.set(key, count);
    }
  }
  return undefined;
}

function commasIn(value: string): number {
  let count = 0;
  for (let comma = value.indexOf(","); comma !== -1; comma = value.indexOf(",", comma + 1)) {
    count += 1;
  }
  return count;
}

function parseAll<T>(values: readonly string[], parse: (value: string) => readonly T[] | undefined): T[] | undefined {
  const all: T[] = [];
  for (const value of values) {
    const parsed = parse(value);
    if (parsed === undefined) {
      return undefined;
    }
    all.push(...parsed);
  }
  return all;
}

function validateBranch(via: Via | undefined, from: NameAddr): Refusal | undefined {
  // RFC 4475 badbranch: the magic cookie alone identifies nothing.
  if (via?.branch?.toLowerCase() === "z9hg4bk") {
    return new Refusal("Branch Identifies Nothing");
  }
  // A request in the style of RFC 2543 is taken as long as something in it identifies its transaction; with neither
  // branch nor From tag (RFC 4475 inv2543) nothing does.
  return via?.branch === undefined && from.tag === undefined ? new Refusal("Neither Branch Nor From Tag") : undefined;
}

function validateUri(uri: string): Refusal | undefined {
  const scheme = uriScheme(uri);
  if (scheme !== "sip" && scheme !== "sips") {
    // An unknown scheme is well-formed here; the user agent answers 416 (RFC 3261 §8.2.2.1).
    return isUri(uri) ? undefined : new Refusal("Malformed Request-URI");
  }
  const parsed = parseUri(uri);
  // RFC 3261 §19.1.1 table 1: headers are not allowed in a Request-URI.
  return parsed === undefined || parsed.headers !== undefined ? new Refusal("Malformed Request-URI") : undefined;
}

// Address headers that decide where packets go or who is shown: one without a host never gets past the parser.
const addressLists: readonly string[] = ["Route", "Record-Route", "P-Asserted-Identity", "Refer-To", "Referred-By"];

function validateAddresses(request: SipRequest): Refusal | undefined {
  const { headers } = request;
  const maxForwards = headers.get("max-forwards");
  // RFC 3261 §20.22: 0 to 255.
  if (maxForwards !== undefined && parseDecimal(maxForwards, 255) === undefined) {
    return new Refusal("Malformed Max-Forwards");
  }
  const contacts = parseContacts(headers.all("contact"));
  // RFC 3261 §10.2.2: `*` means something in a REGISTER only.
  if (contacts === undefined || (contacts.type === "star" && request.method !== "REGISTER")) {
    return new Refusal("Malformed Contact");
  }
  for (const name of addressLists) {
    if (parseAll(headers.all(name), parseNameAddrs) === undefined) {
      return new Refusal(`Malformed ${name}`);
    }
  }
  return undefined;
}

function readBody(
  bytes: Buffer,
  start: number,
  transport: "datagram" | "stream",
  message: SipMessage,
): Refusal | undefined {
  const available = bytes.length - start;
  const lengthText = message.headers.get("content-length");
  if (lengthText === undefined) {
    // RFC 3261 §20.14: on a stream the length is mandatory, in a datagram the body ends with it.
    if (transport === "stream") {
      return new Refusal("Content-Length Required");
    }
    message.body = bytes.subarray(start);
    return undefined;
  }
  const length = parseDecimal(lengthText, 2 ** 31 - 1);
  // RFC 3261 §18.3: a datagram shorter than its Content-Length is an error; octets behind it are thrown away.
  if (length === undefined || length > available) {
    return new Refusal("Malformed Content-Length");
  }
  message.body = bytes.subarray(start, start + length);
  return undefined;
}

// RFC 5322 §2.1.1: no line of a header is longer, that of a MIME part neither.
const mimeLineBytes = 998;
const partType = Buffer.from("Content-Type:");

function bodyFault(message: SipMessage, limits: MessageLimits): Refusal | undefined {
  const { body, headers } = message;
  if (body.length > limits.bodyBytes) {
    return new Refusal("Request Entity Too Large", 413);
  }
  if (body.length <= mimeLineBytes || headers.get("content-type")?.includes("multipart/") !== true) {
    return undefined;
  }
  // drachtio-srf looks into the parts with an expression that takes seconds for a Content-Type of 60 kB of blanks.
  for (let at = body.indexOf(partType); at !== -1; at = body.indexOf(partType, at)) {
    const start = at;
    while (at < body.length && !isLineBreak(body[at] ?? 0)) {
      at += 1;
    }
    if (at - start > mimeLineBytes) {
      return new Refusal("Malformed Multipart Body");
    }
  }
  return undefined;
}

const copiedHeaders: ReadonlySet<string> = new Set(["via", "from", "to", "call-id", "cseq"]);

/** What can be read of a refused request without trusting any of it. */
function salvage(bytes: Buffer, limits: MessageLimits, refusal: Refusal): Answerable | undefined {
  const end = bytes.indexOf(headEndMark);
  const head = bytes.subarray(0, Math.min(end === -1 ? bytes.length : end, limits.datagramBytes));
  const [startLine = "", ...rest] = looseLines(head.toString("utf8"), limits);
  const method = startLine.slice(0, Math.max(startLine.search(/[ \t]/), 0));
  // RFC 3261 §8.2.6, §17.1.1.3: nothing is ever sent for a response or an ACK.
  if (!isToken(method) || method === "ACK" || !startLine.toUpperCase().includes(" SIP/")) {
    return undefined;
  }
  const lines: HeaderLine[] = [];
  const seen = new Set<string>();
  for (const line of rest) {
    const colon = line.indexOf(":");
    const name = expandHeaderName(trimBlanks(line.slice(0, Math.max(colon, 0))));
    const key = name.toLowerCase();
    const value = cleanValue(line, colon + 1);
    if (value === undefined || !copiedHeaders.has(key) || (seen.has(key) && key !== "via")) {
      continue;
    }
    seen.add(key);
    lines.push({ name, value });
  }
  // RFC 3261 §8.2.6.2: without a Via no response can be told from any other.
  if (!seen.has("via")) {
    return undefined;
  }
  const via = parseVias(lines.find((line) => line.name.toLowerCase() === "via")?.value ?? "")?.[0];
  return { status: refusal.status, reason: refusal.reason, method, lines, ...(via === undefined ? {} : { via }) };
}

/** Unfolded lines, whatever ends them; lines over the limit are left out, and no more are read than limits allow. */
function looseLines(text: string, limits: MessageLimits): string[] {
  const lines: string[] = [];
  for (const line of text.replace(/^[\r\n]+/, "").split(/\r\n|\r|\n/, limits.headerLines + 1)) {
    const last = lines.length - 1;
    if (last > 0 && isBlank(line.charCodeAt(0))) {
      lines[last] = `${lines[last] ?? ""} ${trimBlanks(line)}`;
    } else {
      lines.push(line);
    }
  }
  return lines.filter((line, index) => index === 0 || line.length <= limits.headerLineBytes);
}
