import { isIPv4, isIPv6 } from "node:net";

/** One `;name=value`. Flags have no value; quoted values are kept with their quotes, so that they are written as they came. */
export interface Param {
  readonly name: string;
  readonly value?: string;
}

export type Params = readonly Param[];

export interface SipUri {
  readonly scheme: "sip" | "sips";
  /** As written, percent escapes and all. */
  readonly user?: string;
  readonly password?: string;
  /** An IPv6 address is kept without its brackets. */
  readonly host: string;
  readonly port?: number;
  readonly params: Params;
  /** What follows `?`, without it. */
  readonly headers?: string;
}

/** A display name, a URI and header parameters: From, To, Contact, Route, Record-Route, Refer-To and their like. */
export interface NameAddr {
  /** Without quotes, escapes resolved. */
  readonly display?: string;
  /** As written between the angle brackets. */
  readonly uri: string;
  /** The URI taken apart where its scheme is sip or sips. */
  readonly sip?: SipUri;
  readonly params: Params;
  readonly tag?: string;
}

export interface Via {
  /** Upper case, such as `UDP`. */
  readonly transport: string;
  /** An IPv6 address is kept without its brackets. */
  readonly host: string;
  readonly port?: number;
  readonly params: Params;
  readonly branch?: string;
}

export interface CSeq {
  readonly number: number;
  readonly method: string;
}

export type ContactList =
  | { readonly type: "star" }
  | { readonly type: "contacts"; readonly contacts: readonly NameAddr[] };

const tokenSymbols = "-.!%*_+`'~";
// Beyond `word`: base64 and other signs that are seen in the field. `;`, `,` and `|` would end it in headers or on the wire.
const callIdSymbols = `${tokenSymbols}()<>:\\"/[]?{}@=&$#`;
const userSymbols = "-_.!~*'()&=+$,;?/#%";
const passwordSymbols = "-_.!~*'()&=+$,%";
const uriParamSymbols = "-_.!~*'()[]/:&+$%";
const uriHeaderSymbols = "-_.!~*'()[]/?:+$%=&";

/** Values remembered of each kind, twice: the generation in use and the one before it. */
const mostRemembered = 256;
/** Longer values are rare and would keep a whole datagram each. */
const longestRemembered = 512;

/**
 * The same pure function with a memory of a bounded number of its latest results: every layer reads From, To and Via of
 * a message anew, and the messages of one call have most of them in common.
 */
function remembering<Result>(read: (text: string) => Result): (text: string) => Result {
  let young = new Map<string, Result>();
  let old = new Map<string, Result>();
  return (text) => {
    const known = young.get(text);
    if (known !== undefined) {
      return known;
    }
    const result = old.get(text) ?? read(text);
    // What is refused is not worth a place: it would let nonsense drive out what is used.
    if (result !== undefined && text.length <= longestRemembered) {
      if (young.size >= mostRemembered) {
        old = young;
        young = new Map();
      }
      young.set(text, result);
    }
    return result;
  };
}

function characterTable(symbols: string): Uint8Array {
  const table = new Uint8Array(128);
  for (const character of `0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz${symbols}`) {
    table[character.charCodeAt(0)] = 1;
  }
  return table;
}

const tokenTable = characterTable(tokenSymbols);
const callIdTable = characterTable(callIdSymbols);
const userTable = characterTable(userSymbols);
const passwordTable = characterTable(passwordSymbols);
const uriParamTable = characterTable(uriParamSymbols);
// Proxies put base64 with its padding into the Record-Route parameters that they want back.
const uriParamValueTable = characterTable(`${uriParamSymbols}=`);
const uriHeaderTable = characterTable(uriHeaderSymbols);
const hostTable = characterTable("-_.");
const ipv6Table = characterTable(":.");
// Header parameter values go beyond the grammar where the field does: addresses without brackets (RFC 5118) and
// base64 with its padding. What could end the value or the header stays out.
const headerParamTable = characterTable(`${tokenSymbols}[]/:=@?&$#^{}|()\\`);
const schemeTable = characterTable("+-.");

function isAll(text: string, table: Uint8Array, from = 0, to = text.length): boolean {
  if (from >= to) {
    return false;
  }
  for (let at = from; at < to; at += 1) {
    const code = text.charCodeAt(at);
    if (code > 127 || table[code] !== 1) {
      return false;
    }
  }
  return true;
}

/** RFC 3261 §25.1 `token`: method names, header names, tags, transports. */
export function isToken(text: string): boolean {
  return isAll(text, tokenTable);
}

/** A Call-ID: `word [ "@" word ]`, taken a little wider (more than one `@` is harmless). */
export function isCallId(text: string): boolean {
  return isAll(text, callIdTable);
}

/** Without SP and HT at its ends; other white space of Unicode is text to SIP and stays. */
export function trimBlanks(text: string): string {
  let from = 0;
  let to = text.length;
  while (from < to && (text.charCodeAt(from) === 32 || text.charCodeAt(from) === 9)) {
    from += 1;
  }
  while (to > from && (text.charCodeAt(to - 1) === 32 || text.charCodeAt(to - 1) === 9)) {
    to -= 1;
  }
  return text.slice(from, to);
}

function isHexDigit(code: number): boolean {
  return (code >= 48 && code <= 57) || (code >= 65 && code <= 70) || (code >= 97 && code <= 102);
}

/** Whether every `%` begins a whole escape; `RE%47` in a URI is one, `100%` is none. */
function hasWholeEscapes(text: string): boolean {
  for (let at = text.indexOf("%"); at !== -1; at = text.indexOf("%", at + 3)) {
    if (!isHexDigit(text.charCodeAt(at + 1)) || !isHexDigit(text.charCodeAt(at + 2))) {
      return false;
    }
  }
  return true;
}

/**
 * A host name, an IPv4 address or an IPv6 address in brackets.
 * Underscores are let through because container networks use them in names.
 */
export function isHost(text: string): boolean {
  return parseHost(text) !== undefined;
}

function parseHost(text: string): string | undefined {
  if (text.startsWith("[")) {
    const inner = text.slice(1, -1);
    return text.endsWith("]") && isAll(inner, ipv6Table) && isIPv6(inner) ? inner : undefined;
  }
  if (text.length > 255 || !isAll(text, hostTable)) {
    return undefined;
  }
  const name = text.endsWith(".") ? text.slice(0, -1) : text;
  let lastLabel = "";
  for (const label of name.split(".")) {
    if (label === "" || label.length > 63 || label.startsWith("-") || label.endsWith("-")) {
      return undefined;
    }
    lastLabel = label;
  }
  // RFC 3261 §25.1: the top label begins with a letter, so `2130706433` or `127.1` is no host name and no address either.
  const first = lastLabel.charCodeAt(0);
  if (first >= 48 && first <= 57) {
    return isIPv4(text) ? text : undefined;
  }
  return text;
}

/** A host as it stands in a URI or Via: IPv6 in brackets. */
function formatHost(host: string): string {
  return host.includes(":") ? `[${host}]` : host;
}

/** `host[:port]` as URIs and Via write it. */
export function formatHostPort(host: string, port?: number): string {
  return port === undefined ? formatHost(host) : `${formatHost(host)}:${port}`;
}

/** A decimal number without sign, at most `max`; undefined for anything else. */
export function parseDecimal(text: string, max: number): number | undefined {
  if (text === "") {
    return undefined;
  }
  let number = 0;
  for (let at = 0; at < text.length; at += 1) {
    const digit = text.charCodeAt(at) - 48;
    if (digit < 0 || digit > 9) {
      return undefined;
    }
    number = number * 10 + digit;
    if (number > max) {
      return undefined;
    }
  }
  return number;
}

interface HostPort {
  readonly host: string;
  readonly port?: number;
}

/** `host[:port]`, with blanks around the colon where `blanks` allows them (Via does, URIs do not). */
function parseHostPort(text: string, blanks = false): HostPort | undefined {
  const bracket = text.startsWith("[") ? text.indexOf("]") : 0;
  if (bracket === -1) {
    return undefined;
  }
  const colon = text.indexOf(":", bracket);
  const hostText = colon === -1 ? text : text.slice(0, colon);
  const host = parseHost(blanks ? trimBlanks(hostText) : hostText);
  if (host === undefined) {
    return undefined;
  }
  if (colon === -1) {
    return { host };
  }
  const portText = text.slice(colon + 1);
  const port = parseDecimal(blanks ? trimBlanks(portText) : portText, 65_535);
  return port === undefined || port === 0 ? undefined : { host, port };
}

/** The first value of a parameter: `""` for a flag, undefined when absent. Names compare without regard to case. */
export function param(params: Params, name: string): string | undefined {
  const wanted = name.toLowerCase();
  for (const one of params) {
    if (one.name.toLowerCase() === wanted) {
      return one.value ?? "";
    }
  }
  return undefined;
}

/** The parameters with one replaced in its place, or added at the end; `value` undefined makes a flag. */
export function withParam(params: Params, name: string, value?: string): Params {
  const added: Param = value === undefined ? { name } : { name, value };
  const wanted = name.toLowerCase();
  const at = params.findIndex((one) => one.name.toLowerCase() === wanted);
  return at === -1 ? [...params, added] : params.map((one, index) => (index === at ? added : one));
}

export function withoutParam(params: Params, name: string): Params {
  const wanted = name.toLowerCase();
  return params.filter((one) => one.name.toLowerCase() !== wanted);
}

function formatParams(params: Params): string {
  let text = "";
  for (const { name, value } of params) {
    text += value === undefined ? `;${name}` : `;${name}=${value}`;
  }
  return text;
}

/** The lower-case scheme of an absolute URI; undefined where the text is no URI at all. */
export function uriScheme(text: string): string | undefined {
  const colon = text.indexOf(":");
  if (colon < 1 || !isAll(text, schemeTable, 0, colon)) {
    return undefined;
  }
  const first = text.charCodeAt(0) | 32;
  return first >= 97 && first <= 122 ? text.slice(0, colon).toLowerCase() : undefined;
}

/**
 * A sip or sips URI. Undefined for other schemes and for what the grammar refuses: no host, blanks, brackets around it,
 * a broken escape, a parameter given twice.
 */
export const parseUri: (text: string) => SipUri | undefined = remembering(readUri);

function readUri(text: string): SipUri | undefined {
  const scheme = uriScheme(text);
  if (scheme !== "sip" && scheme !== "sips") {
    return undefined;
  }
  const start = scheme.length + 1;
  const at = text.indexOf("@", start);
  let user: string | undefined;
  let password: string | undefined;
  if (at !== -1) {
    const colon = text.slice(start, at).indexOf(":");
    user = colon === -1 ? text.slice(start, at) : text.slice(start, start + colon);
    if (!isAll(user, userTable) || !hasWholeEscapes(user)) {
      return undefined;
    }
    if (colon !== -1) {
      password = text.slice(start + colon + 1, at);
      if (password !== "" && (!isAll(password, passwordTable) || !hasWholeEscapes(password))) {
        return undefined;
      }
    }
  }
  const rest = text.slice(at === -1 ? start : at + 1);
  const question = rest.indexOf("?");
  const headers = question === -1 ? undefined : rest.slice(question + 1);
  if (headers !== undefined && (!isAll(headers, uriHeaderTable) || !hasWholeEscapes(headers))) {
    return undefined;
  }
  const [hostText = "", ...paramTexts] = (question === -1 ? rest : rest.slice(0, question)).split(";");
  const hostPort = parseHostPort(hostText);
  const params = parseUriParams(paramTexts);
  if (hostPort === undefined || params === undefined) {
    return undefined;
  }
  return {
    scheme,
    ...(user === undefined ? {} : { user }),
    ...(password === undefined ? {} : { password }),
    ...hostPort,
    params,
    ...(headers === undefined ? {} : { headers }),
  };
}

function parseUriParams(texts: readonly string[]): Params | undefined {
  const params: Param[] = [];
  const seen = new Set<string>();
  for (const text of texts) {
    const equals = text.indexOf("=");
    const name = equals === -1 ? text : text.slice(0, equals);
    const value = equals === -1 ? undefined : text.slice(equals + 1);
    const sound =
      isAll(name, uriParamTable) && hasWholeEscapes(name) && (value === undefined || isUriParamValue(value));
    // RFC 3261 §19.1.1: "any given parameter-name MUST NOT appear more than once".
    if (!sound || seen.has(name.toLowerCase())) {
      return undefined;
    }
    seen.add(name.toLowerCase());
    params.push(value === undefined ? { name } : { name, value });
  }
  return params;
}

function isUriParamValue(value: string): boolean {
  return isAll(value, uriParamValueTable) && hasWholeEscapes(value);
}

export function formatUri(uri: SipUri): string {
  const password = uri.password === undefined ? "" : `:${uri.password}`;
  const user = uri.user === undefined ? "" : `${uri.user}${password}@`;
  const headers = uri.headers === undefined ? "" : `?${uri.headers}`;
  return `${uri.scheme}:${user}${formatHostPort(uri.host, uri.port)}${formatParams(uri.params)}${headers}`;
}

/** Whether the text can stand as a URI between angle brackets: sip and sips by their grammar, others visible ASCII. */
export function isUri(text: string): boolean {
  const scheme = uriScheme(text);
  if (scheme === undefined) {
    return false;
  }
  if (scheme === "sip" || scheme === "sips") {
    return parseUri(text) !== undefined;
  }
  if (text.length === scheme.length + 1) {
    return false;
  }
  for (let at = 0; at < text.length; at += 1) {
    const code = text.charCodeAt(at);
    // Blanks, control characters, quotes and angle brackets never stand in a URI (RFC 3986 §2).
    if (code <= 32 || code >= 127 || code === 34 || code === 60 || code === 62) {
      return false;
    }
  }
  return true;
}

/** Where the quoted string that begins at `start` ends (behind its closing quote); -1 when it does not. */
function endOfQuoted(text: string, start: number): number {
  for (let at = start + 1; at < text.length; at += 1) {
    const code = text.charCodeAt(at);
    if (code === 92) {
      at += 1;
    } else if (code === 34) {
      return at + 1;
    }
  }
  return -1;
}

function unquote(quoted: string): string {
  const inner = quoted.slice(1, -1);
  return inner.includes("\\") ? inner.replaceAll(/\\([\s\S])/g, "$1") : inner;
}

/** Text as a quoted string, with `"` and `\` escaped. */
export function quote(text: string): string {
  return `"${text.replaceAll(/["\\]/g, String.raw`\$&`)}"`;
}

/**
 * Splits at commas that stand outside quotes and angle brackets. Undefined when a quote or bracket stays open, or when
 * an element is empty (RFC 4475 badinv01 is to be refused).
 */
export function splitList(text: string): string[] | undefined {
  const parts: string[] = [];
  let from = 0;
  let bracketed = false;
  for (let at = 0; at < text.length; at += 1) {
    const code = text.charCodeAt(at);
    if (code === 34 && !bracketed) {
      const end = endOfQuoted(text, at);
      if (end === -1) {
        return undefined;
      }
      at = end - 1;
    } else if (code === 60) {
      bracketed = true;
    } else if (code === 62) {
      bracketed = false;
    } else if (code === 44 && !bracketed) {
      parts.push(trimBlanks(text.slice(from, at)));
      from = at + 1;
    }
  }
  parts.push(trimBlanks(text.slice(from)));
  return bracketed || parts.includes("") ? undefined : parts;
}

/** `*( SEMI name [ EQUAL value ] )` from `start` to the end of the text. */
export function parseParams(text: string, start = 0): Params | undefined {
  const params: Param[] = [];
  const seen = new Set<string>();
  let at = skipBlanks(text, start);
  while (at < text.length) {
    if (text.charCodeAt(at) !== 59) {
      return undefined;
    }
    at = skipBlanks(text, at + 1);
    const nameStart = at;
    at = skipWhile(text, at, tokenTable);
    const name = text.slice(nameStart, at);
    // RFC 3261 §7.3.1: "any given parameter-name MUST NOT appear more than once".
    if (name === "" || seen.has(name.toLowerCase())) {
      return undefined;
    }
    seen.add(name.toLowerCase());
    at = skipBlanks(text, at);
    if (text.charCodeAt(at) !== 61) {
      params.push({ name });
      continue;
    }
    at = skipBlanks(text, at + 1);
    const valueStart = at;
    at = text.charCodeAt(at) === 34 ? endOfQuoted(text, at) : skipWhile(text, at, headerParamTable);
    if (at <= valueStart) {
      return undefined;
    }
    params.push({ name, value: text.slice(valueStart, at) });
    at = skipBlanks(text, at);
  }
  return params;
}

function skipBlanks(text: string, start: number): number {
  let at = start;
  while (text.charCodeAt(at) === 32 || text.charCodeAt(at) === 9) {
    at += 1;
  }
  return at;
}

function skipWhile(text: string, start: number, table: Uint8Array): number {
  let at = start;
  for (let code = text.charCodeAt(at); code < 128 && table[code] === 1; code = text.charCodeAt(at)) {
    at += 1;
  }
  return at;
}

/** One From, To, Contact, Route… value. Undefined where the grammar refuses it. */
export const parseNameAddr: (text: string) => NameAddr | undefined = remembering(readNameAddr);

function readNameAddr(text: string): NameAddr | undefined {
  const start = skipBlanks(text, 0);
  let at = start;
  let display: string | undefined;
  if (text.charCodeAt(at) === 34) {
    const end = endOfQuoted(text, at);
    if (end === -1) {
      return undefined;
    }
    display = unquote(text.slice(at, end));
    at = skipBlanks(text, end);
    if (text.charCodeAt(at) !== 60) {
      return undefined;
    }
  } else {
    // RFC 3261 §25.1: an unquoted display name is tokens and blanks only, so a comma in it (RFC 4475 baddn) is refused.
    for (at = skipBlanks(text, skipWhile(text, at, tokenTable)); isTokenAt(text, at);) {
      at = skipBlanks(text, skipWhile(text, at, tokenTable));
    }
    if (text.charCodeAt(at) !== 60) {
      return parseBareAddress(text, start);
    }
    display = at === start ? undefined : trimBlanks(text.slice(start, at));
  }
  const end = text.indexOf(">", at);
  if (end === -1) {
    return undefined;
  }
  const uri = text.slice(at + 1, end);
  return nameAddr(display, uri, parseParams(text, end + 1));
}

function isTokenAt(text: string, at: number): boolean {
  const code = text.charCodeAt(at);
  return code < 128 && tokenTable[code] === 1;
}

/** RFC 3261 §20.10: without brackets every parameter belongs to the header and `?` and `,` may not be in the URI. */
function parseBareAddress(text: string, start: number): NameAddr | undefined {
  const semicolon = text.indexOf(";", start);
  const uri = trimBlanks(text.slice(start, semicolon === -1 ? text.length : semicolon));
  if (uri.includes("?") || uri.includes(",")) {
    return undefined;
  }
  return nameAddr(undefined, uri, semicolon === -1 ? [] : parseParams(text, semicolon));
}

function nameAddr(display: string | undefined, uri: string, params: Params | undefined): NameAddr | undefined {
  const sip = parseUri(uri);
  if (params === undefined || (sip === undefined && (!isUri(uri) || /^sips?:/i.test(uri)))) {
    return undefined;
  }
  const tag = param(params, "tag");
  // RFC 3261 §25.1: a tag is a token, so never empty and never quoted. Base64 signs are let through, trunks use them.
  if (tag === "" || tag?.startsWith('"') === true) {
    return undefined;
  }
  return {
    ...(display === undefined || display === "" ? {} : { display }),
    uri,
    ...(sip === undefined ? {} : { sip }),
    params,
    ...(tag === undefined ? {} : { tag }),
  };
}

/** Always with angle brackets, and with quotes around the display name. */
export function formatNameAddr(address: Pick<NameAddr, "display" | "uri" | "params">): string {
  const display = address.display === undefined ? "" : `${quote(address.display)} `;
  return `${display}<${address.uri}>${formatParams(address.params)}`;
}

/** A list of name-addr values (Route, Record-Route, P-Asserted-Identity): undefined when one of them is malformed. */
export function parseNameAddrs(value: string): NameAddr[] | undefined {
  const parsed: NameAddr[] = [];
  for (const part of splitList(value) ?? [""]) {
    const address = parseNameAddr(part);
    if (address === undefined) {
      return undefined;
    }
    parsed.push(address);
  }
  return parsed;
}

/** All Contact lines of a message: `*` may only stand alone (RFC 3261 §20.10). */
export function parseContacts(values: readonly string[]): ContactList | undefined {
  if (values.length === 1 && trimBlanks(values[0] ?? "") === "*") {
    return { type: "star" };
  }
  const contacts: NameAddr[] = [];
  for (const value of values) {
    const parsed = parseNameAddrs(value);
    if (parsed === undefined) {
      return undefined;
    }
    contacts.push(...parsed);
  }
  return { type: "contacts", contacts };
}

/** One Via value: `SIP/2.0/UDP host[:port];params`. Other versions than 2.0 are undefined. */
export function parseVia(text: string): Via | undefined {
  const first = text.indexOf("/");
  const second = text.indexOf("/", first + 1);
  if (first === -1 || second === -1) {
    return undefined;
  }
  const protocol = trimBlanks(text.slice(0, first));
  const version = trimBlanks(text.slice(first + 1, second));
  const transportStart = skipBlanks(text, second + 1);
  const transportEnd = skipWhile(text, transportStart, tokenTable);
  const transport = text.slice(transportStart, transportEnd);
  const hostStart = skipBlanks(text, transportEnd);
  if (protocol.toUpperCase() !== "SIP" || version !== "2.0" || transport === "" || hostStart === transportEnd) {
    return undefined;
  }
  const semicolon = text.indexOf(";", hostStart);
  const hostPort = parseHostPort(trimBlanks(text.slice(hostStart, semicolon === -1 ? text.length : semicolon)), true);
  const params = semicolon === -1 ? [] : parseParams(text, semicolon);
  if (hostPort === undefined || params === undefined) {
    return undefined;
  }
  const branch = param(params, "branch");
  return {
    transport: transport.toUpperCase(),
    ...hostPort,
    params,
    ...(branch === undefined || branch === "" ? {} : { branch }),
  };
}

/** All values of one Via line, topmost first. */
export const parseVias: (value: string) => readonly Via[] | undefined = remembering(readVias);

function readVias(value: string): readonly Via[] | undefined {
  const parsed: Via[] = [];
  for (const part of splitList(value) ?? [""]) {
    const via = parseVia(part);
    if (via === undefined) {
      return undefined;
    }
    parsed.push(via);
  }
  return parsed;
}

export function formatVia(via: Pick<Via, "transport" | "host" | "port" | "params">): string {
  return `SIP/2.0/${via.transport} ${formatHostPort(via.host, via.port)}${formatParams(via.params)}`;
}

/** RFC 3261 §20.16: the number is below 2^31; leading zeros are allowed. */
export function parseCSeq(text: string): CSeq | undefined {
  const blank = text.search(/[ \t]/);
  if (blank === -1) {
    return undefined;
  }
  const number = parseDecimal(text.slice(0, blank), 2 ** 31 - 1);
  const method = trimBlanks(text.slice(blank));
  return number === undefined || !isToken(method) ? undefined : { number, method };
}
