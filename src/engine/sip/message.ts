import { splitList } from "./grammar.ts";

// RFC 3261 §7.3.3 and §20, RFC 3265, RFC 3515, RFC 3892, RFC 4028, RFC 3841.
const compactForms: ReadonlyMap<string, string> = new Map([
  ["a", "Accept-Contact"],
  ["b", "Referred-By"],
  ["c", "Content-Type"],
  ["d", "Request-Disposition"],
  ["e", "Content-Encoding"],
  ["f", "From"],
  ["i", "Call-ID"],
  ["j", "Reject-Contact"],
  ["k", "Supported"],
  ["l", "Content-Length"],
  ["m", "Contact"],
  ["n", "Identity-Info"],
  ["o", "Event"],
  ["r", "Refer-To"],
  ["s", "Subject"],
  ["t", "To"],
  ["u", "Allow-Events"],
  ["v", "Via"],
  ["x", "Session-Expires"],
  ["y", "Identity"],
]);

// Headers whose lines may hold several values separated by commas. In all others a comma is text.
const listHeaders: ReadonlySet<string> = new Set([
  "accept",
  "accept-contact",
  "accept-encoding",
  "accept-language",
  "alert-info",
  "allow",
  "allow-events",
  "call-info",
  "contact",
  "content-encoding",
  "content-language",
  "diversion",
  "error-info",
  "history-info",
  "in-reply-to",
  "p-asserted-identity",
  "p-preferred-identity",
  "path",
  "proxy-require",
  "reason",
  "record-route",
  "reject-contact",
  "require",
  "route",
  "service-route",
  "supported",
  "unsupported",
  "via",
  "warning",
]);

// drachtio's spelling of the headers it knows.
const knownNames: readonly string[] = [
  "Accept",
  "Accept-Contact",
  "Accept-Encoding",
  "Accept-Language",
  "Alert-Info",
  "Allow",
  "Allow-Events",
  "Authentication-Info",
  "Authorization",
  "Call-ID",
  "Call-Info",
  "Contact",
  "Content-Disposition",
  "Content-Encoding",
  "Content-Language",
  "Content-Length",
  "Content-Type",
  "CSeq",
  "Date",
  "Diversion",
  "Error-Info",
  "Event",
  "Expires",
  "From",
  "History-Info",
  "Identity",
  "In-Reply-To",
  "Max-Forwards",
  "MIME-Version",
  "Min-Expires",
  "Min-SE",
  "Organization",
  "P-Asserted-Identity",
  "P-Preferred-Identity",
  "Path",
  "Priority",
  "Privacy",
  "Proxy-Authenticate",
  "Proxy-Authorization",
  "Proxy-Require",
  "RAck",
  "Reason",
  "Record-Route",
  "Refer-Sub",
  "Refer-To",
  "Referred-By",
  "Reject-Contact",
  "Remote-Party-ID",
  "Replaces",
  "Reply-To",
  "Request-Disposition",
  "Require",
  "Retry-After",
  "Route",
  "RSeq",
  "Server",
  "Service-Route",
  "Session-Expires",
  "SIP-ETag",
  "SIP-If-Match",
  "Subject",
  "Subscription-State",
  "Supported",
  "Timestamp",
  "To",
  "Unsupported",
  "User-Agent",
  "Via",
  "Warning",
  "WWW-Authenticate",
];

/** What an application writes in any case goes out like this; by the name in lower case. */
export const knownSpellings: ReadonlyMap<string, string> = new Map(
  knownNames.map((name) => [name.toLowerCase(), name]),
);

// Nearly every name is one of these, and looking it up is cheaper than making it small letters: of each message dozens of
// names are asked for.
const knownKeys: ReadonlyMap<string, string> = new Map(
  knownNames.flatMap((name) => {
    const key = name.toLowerCase();
    return [[name, key] as const, [key, key] as const];
  }),
);

/** The full name of a compact form, anything else unchanged. */
export function expandHeaderName(name: string): string {
  return name.length === 1 ? (compactForms.get(name.toLowerCase()) ?? name) : name;
}

/** Whether the lines of that header may hold several values separated by commas. */
export function isListHeader(name: string): boolean {
  return listHeaders.has(keyOf(name));
}

function keyOf(name: string): string {
  return knownKeys.get(name) ?? expandHeaderName(name).toLowerCase();
}

export interface HeaderLine {
  readonly name: string;
  readonly value: string;
}

/** With the full name in small letters, by which lines are compared. */
export interface StoredLine extends HeaderLine {
  readonly key: string;
}

/** Header lines in their order on the wire. Names compare without regard to case; compact forms are expanded. */
export class Headers {
  #lines: StoredLine[] = [];

  constructor(lines: Iterable<HeaderLine> = []) {
    for (const { name, value } of lines) {
      this.add(name, value);
    }
  }

  get lines(): readonly StoredLine[] {
    return this.#lines;
  }

  /** The value of the first line of that name. */
  get(name: string): string | undefined {
    const key = keyOf(name);
    return this.#lines.find((line) => line.key === key)?.value;
  }

  /** Where the first line of that name stands, -1 without one. */
  indexOf(name: string): number {
    const key = keyOf(name);
    return this.#lines.findIndex((line) => line.key === key);
  }

  /** One entry per line of that name. */
  all(name: string): string[] {
    const key = keyOf(name);
    const values: string[] = [];
    for (const line of this.#lines) {
      if (line.key === key) {
        values.push(line.value);
      }
    }
    return values;
  }

  /** One entry per value: lines of list headers are split at their commas, lines that cannot be split stay whole. */
  list(name: string): string[] {
    const values = this.all(name);
    return values.some((value) => value.includes(",")) && isListHeader(name)
      ? values.flatMap((value) => splitList(value) ?? [value])
      : values;
  }

  has(name: string): boolean {
    const key = keyOf(name);
    return this.#lines.some((line) => line.key === key);
  }

  count(name: string): number {
    const key = keyOf(name);
    return this.#lines.reduce((sum, line) => (line.key === key ? sum + 1 : sum), 0);
  }

  /** Replaces all lines of that name by one, in the place of the first, or at the end. */
  set(name: string, value: string): void {
    const line = stored(name, value);
    const at = this.#lines.findIndex((one) => one.key === line.key);
    if (at === -1) {
      this.#lines.push(line);
      return;
    }
    this.#lines = this.#lines.filter((one, index) => one.key !== line.key || index === at);
    this.#lines[at] = line;
  }

  /** Replaces the first line of that name only and leaves the others, as Via and Route need it. */
  setFirst(name: string, value: string): void {
    const line = stored(name, value);
    const at = this.#lines.findIndex((one) => one.key === line.key);
    if (at === -1) {
      this.#lines.push(line);
    } else {
      this.#lines[at] = line;
    }
  }

  /** Adds a line behind all others. */
  add(name: string, value: string): void {
    this.#lines.push(stored(name, value));
  }

  /** Adds a line before all others. */
  prepend(name: string, value: string): void {
    this.#lines.unshift(stored(name, value));
  }

  remove(name: string): void {
    const key = keyOf(name);
    this.#lines = this.#lines.filter((line) => line.key !== key);
  }

  /** Removes the first line of that name only. */
  removeFirst(name: string): void {
    const key = keyOf(name);
    const at = this.#lines.findIndex((line) => line.key === key);
    if (at !== -1) {
      this.#lines.splice(at, 1);
    }
  }

  clone(): Headers {
    const copy = new Headers();
    copy.#lines = [...this.#lines];
    return copy;
  }
}

function stored(name: string, value: string): StoredLine {
  return { name: expandHeaderName(name), value, key: keyOf(name) };
}

const noBody = Buffer.alloc(0);

function serialise(startLine: string, headers: Headers, body: Buffer): Buffer {
  let head = `${startLine}\r\n`;
  let lengthWritten = false;
  for (const { name, key, value } of headers.lines) {
    // RFC 3261 §20.14: the length counts bytes of the body as it is now, whatever the line said before.
    if (key === "content-length") {
      if (lengthWritten) {
        continue;
      }
      lengthWritten = true;
      head += `Content-Length: ${body.length}\r\n`;
    } else {
      head += `${name}: ${value}\r\n`;
    }
  }
  head += lengthWritten ? "\r\n" : `Content-Length: ${body.length}\r\n\r\n`;
  return joined(head, body);
}

/** Head and body in one buffer, written once. */
export function joined(head: string, body: Buffer): Buffer {
  if (body.length === 0) {
    return Buffer.from(head, "utf8");
  }
  const headBytes = Buffer.byteLength(head, "utf8");
  const bytes = Buffer.allocUnsafe(headBytes + body.length);
  bytes.write(head, 0, "utf8");
  body.copy(bytes, headBytes);
  return bytes;
}

export class SipRequest {
  readonly kind = "request";
  method: string;
  uri: string;
  readonly headers: Headers;
  body: Buffer;

  constructor(method: string, uri: string, headers = new Headers(), body: Buffer = noBody) {
    this.method = method;
    this.uri = uri;
    this.headers = headers;
    this.body = body;
  }

  clone(): SipRequest {
    return new SipRequest(this.method, this.uri, this.headers.clone(), this.body);
  }

  toBuffer(): Buffer {
    return serialise(`${this.method} ${this.uri} SIP/2.0`, this.headers, this.body);
  }
}

export class SipResponse {
  readonly kind = "response";
  status: number;
  reason: string;
  readonly headers: Headers;
  body: Buffer;

  constructor(status: number, reason: string, headers = new Headers(), body: Buffer = noBody) {
    this.status = status;
    this.reason = reason;
    this.headers = headers;
    this.body = body;
  }

  clone(): SipResponse {
    return new SipResponse(this.status, this.reason, this.headers.clone(), this.body);
  }

  toBuffer(): Buffer {
    return serialise(`SIP/2.0 ${this.status} ${this.reason}`, this.headers, this.body);
  }
}

export type SipMessage = SipRequest | SipResponse;

/** Methods of the RFCs: an unknown one is answered 501 even where another fault would have made it a 400. */
export const standardMethods: ReadonlySet<string> = new Set([
  "INVITE",
  "ACK",
  "BYE",
  "CANCEL",
  "OPTIONS",
  "REGISTER",
  "PRACK",
  "SUBSCRIBE",
  "NOTIFY",
  "PUBLISH",
  "INFO",
  "REFER",
  "MESSAGE",
  "UPDATE",
]);

const spent = new Map<string, SipRequest>();

/** A request of which only the method is left, for whoever has to remember that there was one. Never to be sent. */
export function withoutContents({ method }: SipRequest): SipRequest {
  // Methods of no RFC are any number, so they are not kept.
  let request = spent.get(method);
  if (request === undefined) {
    request = new SipRequest(method, "");
    if (standardMethods.has(method)) {
      spent.set(method, request);
    }
  }
  return request;
}
