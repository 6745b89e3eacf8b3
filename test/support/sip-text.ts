// SIP messages as plain text, for a phone that must not share a line with the engine it bears witness against.

export interface SipText {
  /** Present in a request only. */
  readonly method?: string;
  readonly uri?: string;
  /** Present in a response only. */
  readonly status?: number;
  readonly reason?: string;
  readonly headers: readonly (readonly [name: string, value: string])[];
  readonly body: string;
}

const longNames: Readonly<Record<string, string>> = {
  v: "via",
  f: "from",
  t: "to",
  i: "call-id",
  m: "contact",
  l: "content-length",
  c: "content-type",
  k: "supported",
  r: "refer-to",
  b: "referred-by",
  o: "event",
  s: "subject",
};
const canonical = (name: string): string => longNames[name.toLowerCase()] ?? name.toLowerCase();

/** Undefined for what is no SIP message (keep-alives, noise). */
export function parseSip(text: string): SipText | undefined {
  const end = text.indexOf("\r\n\r\n");
  if (end < 0) return undefined;
  const [start = "", ...lines] = text
    .slice(0, end)
    .replaceAll(/\r\n[ \t]+/g, " ")
    .split("\r\n");
  const headers = lines.flatMap((line): readonly (readonly [string, string])[] => {
    const colon = line.indexOf(":");
    return colon < 1 ? [] : [[line.slice(0, colon).trim(), line.slice(colon + 1).trim()]];
  });
  const body = text.slice(end + 4);
  const response = /^SIP\/2\.0 (\d{3}) ?(.*)$/.exec(start);
  if (response !== null) return { status: Number(response[1]), reason: response[2] ?? "", headers, body };
  const request = /^(\S+) (\S+) SIP\/2\.0$/.exec(start);
  if (request?.[1] === undefined || request[2] === undefined) return undefined;
  return { method: request[1], uri: request[2], headers, body };
}

export function formatSip(message: SipText): string {
  const start =
    message.method === undefined
      ? `SIP/2.0 ${message.status} ${message.reason ?? ""}`
      : `${message.method} ${message.uri} SIP/2.0`;
  const lines = message.headers.map(([name, value]) => `${name}: ${value}`);
  return [start, ...lines, `Content-Length: ${Buffer.byteLength(message.body)}`, "", message.body].join("\r\n");
}

/** The first header of that name, long or compact. */
export const header = (message: SipText, name: string): string | undefined =>
  message.headers.find(([candidate]) => canonical(candidate) === canonical(name))?.[1];

export const headersOf = (message: SipText, name: string): readonly string[] =>
  message.headers.filter(([candidate]) => canonical(candidate) === canonical(name)).map(([, value]) => value);

/** The value of a header parameter such as `tag` or `branch`. */
export const parameter = (value: string | undefined, name: string): string | undefined =>
  value === undefined
    ? undefined
    : new RegExp(`;\\s*${name}\\s*=\\s*"?([^;,\\s"]+)`, "i").exec(value.replace(/^[^<]*<[^>]*>/, ""))?.[1];

/** The URI inside a From, To, Contact or Route value. */
export const uriOf = (value: string): string => /<([^>]+)>/.exec(value)?.[1] ?? value.split(";")[0]?.trim() ?? value;

export interface HostPort {
  readonly address: string;
  readonly port: number;
}

/** Where a SIP URI points to. Names are not looked up: these phones live on loopback. */
export function hostPortOf(uri: string): HostPort {
  const match = /^sips?:(?:[^@]*@)?([^;?:>]+)(?::(\d+))?/i.exec(uri);
  const host = match?.[1];
  if (host === undefined) throw new Error(`${uri} is no SIP URI`);
  const address = host === "localhost" ? "127.0.0.1" : host;
  if (!/^\d+(?:\.\d+){3}$/.test(address)) throw new Error(`${uri}: the phone dials IPv4 addresses only`);
  return { address, port: match?.[2] === undefined ? 5060 : Number(match[2]) };
}

/** The user part of a SIP URI, or undefined. */
export const userOf = (uri: string): string | undefined => /^sips?:([^@;?]*)@/i.exec(uri)?.[1];

export const cseqOf = (message: SipText): { readonly number: number; readonly method: string } => {
  const [number = "0", method = ""] = (header(message, "CSeq") ?? "").split(/\s+/);
  return { number: Number(number), method };
};

/** One short word for a ladder: `INVITE`, or `200 OK (INVITE)`. */
export const titleOf = (message: SipText): string =>
  message.method ?? `${message.status} ${message.reason} (${cseqOf(message).method})`;
