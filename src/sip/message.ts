/** One header line to be sent. */
export interface HeaderLine {
  readonly name: string;
  readonly value: string;
}

/** A received message as far as this side reads it. Header names compare without case. */
export interface ReceivedHeaders {
  /** The first line of a header. */
  header(name: string): string | undefined;
  /** Every line of a header, in order. */
  headerLines(name: string): readonly string[];
}

// RFC 3261 §7.3.3 and later registrations; a real drachtio-server hands these on as they came.
const compactNames: Readonly<Record<string, string>> = {
  a: "accept-contact",
  b: "referred-by",
  c: "content-type",
  d: "request-disposition",
  e: "content-encoding",
  f: "from",
  i: "call-id",
  j: "reject-contact",
  k: "supported",
  l: "content-length",
  m: "contact",
  n: "identity-info",
  o: "event",
  r: "refer-to",
  s: "subject",
  t: "to",
  u: "allow-events",
  v: "via",
  x: "session-expires",
  y: "identity",
};

/** Header lines that were never sent, as if they had been received. */
export function receivedHeaders(lines: readonly HeaderLine[]): ReceivedHeaders {
  return readHeaders(["", ...lines.map(({ name, value }) => `${name}: ${value}`)].join("\r\n"));
}

/**
 * The header lines of a message's text. drachtio-srf's own parser joins repeated lines with commas and decodes percent
 * escapes in names, so the lines are read from the raw text.
 */
export function readHeaders(raw: string): ReceivedHeaders {
  const byName = new Map<string, string[]>();
  const end = raw.indexOf("\r\n\r\n");
  const head = end < 0 ? raw : raw.slice(0, end);
  for (const line of head.split(/\r\n(?![ \t])/).slice(1)) {
    const colon = line.indexOf(":");
    if (colon > 0) {
      const name = fullName(line.slice(0, colon).trim());
      // RFC 3261 §7.3.1: a folded line counts as if its line end and blanks were one blank.
      const value = line
        .slice(colon + 1)
        .replaceAll("\r\n", "")
        .trim();
      const lines = byName.get(name);
      if (lines === undefined) {
        byName.set(name, [value]);
      } else {
        lines.push(value);
      }
    }
  }
  return {
    header: (name) => byName.get(fullName(name))?.[0],
    headerLines: (name) => byName.get(fullName(name)) ?? [],
  };
}

function fullName(name: string): string {
  const lower = name.toLowerCase();
  return lower.length === 1 ? (compactNames[lower] ?? lower) : lower;
}
