import { createHash, timingSafeEqual } from "node:crypto";

import { unquote } from "./uri.ts";

/** Hash algorithms of RFC 8760 §2.1, in the order in which we prefer them. */
export type DigestAlgorithm = "SHA-512-256" | "SHA-256" | "MD5";

const hashNames: Readonly<Record<DigestAlgorithm, string>> = {
  "SHA-512-256": "sha512-256",
  "SHA-256": "sha256",
  MD5: "md5",
};

/** One `Digest` challenge of a 401 or 407. */
export interface Challenge {
  readonly realm: string;
  readonly nonce: string;
  readonly opaque: string | null;
  readonly algorithm: DigestAlgorithm;
  /** Null: the server is of the age of RFC 2069 and knows no `qop`. */
  readonly qop: "auth" | null;
  readonly stale: boolean;
}

export interface Credentials {
  readonly username: string;
  readonly password: string;
}

/** What a client answers to a challenge. */
export interface DigestAnswer {
  readonly username: string;
  readonly realm: string;
  readonly nonce: string;
  readonly uri: string;
  readonly response: string;
  readonly algorithm: DigestAlgorithm;
  readonly qop: "auth" | null;
  readonly nonceCount: number | null;
  readonly cnonce: string | null;
}

interface DigestInput {
  readonly algorithm: DigestAlgorithm;
  readonly username: string;
  readonly realm: string;
  readonly password: string;
  readonly method: string;
  readonly uri: string;
  readonly nonce: string;
  readonly qop: "auth" | null;
  /** Eight hexadecimal digits. */
  readonly nc: string;
  readonly cnonce: string;
}

/** RFC 7616 §3.4.1; without `qop` the form of RFC 2069. */
export function digestResponse(input: DigestInput): string {
  const hash = (text: string): string => createHash(hashNames[input.algorithm]).update(text, "utf8").digest("hex");
  const ha1 = hash(`${input.username}:${input.realm}:${input.password}`);
  const ha2 = hash(`${input.method}:${input.uri}`);
  return input.qop === null
    ? hash(`${ha1}:${input.nonce}:${ha2}`)
    : hash(`${ha1}:${input.nonce}:${input.nc}:${input.cnonce}:${input.qop}:${ha2}`);
}

/**
 * The challenge that is answered: RFC 8760 §2.4, the topmost whose algorithm is supported. Challenges of other schemes,
 * with unknown algorithms, or with nothing but `auth-int` are passed over. `realm` null takes any realm.
 */
export function chooseChallenge(headerLines: readonly string[], realm: string | null): Challenge | undefined {
  return headerLines
    .flatMap((line) => parseDigestLists(line))
    .flatMap((fields) => readChallenge(fields) ?? [])
    .find((challenge) => realm === null || challenge.realm === realm);
}

/** The value of Authorization or Proxy-Authorization for a request (RFC 7616 §3.4). */
export function authorization(
  challenge: Challenge,
  credentials: Credentials,
  request: { readonly method: string; readonly uri: string },
  count: { readonly nonceCount: number; readonly cnonce: string },
): string {
  const { realm, nonce, opaque, algorithm, qop } = challenge;
  const nc = count.nonceCount.toString(16).padStart(8, "0");
  const response = digestResponse({
    ...credentials,
    ...request,
    algorithm,
    realm,
    nonce,
    qop,
    nc,
    cnonce: count.cnonce,
  });
  const fields = [
    `username="${escapeQuoted(credentials.username)}"`,
    `realm="${escapeQuoted(realm)}"`,
    `nonce="${escapeQuoted(nonce)}"`,
    `uri="${request.uri}"`,
    `response="${response}"`,
    `algorithm=${algorithm}`,
    ...(opaque === null ? [] : [`opaque="${escapeQuoted(opaque)}"`]),
    // RFC 7616 §3.4: qop and nc are not quoted, cnonce is.
    ...(qop === null ? [] : [`qop=${qop}`, `nc=${nc}`, `cnonce="${count.cnonce}"`]),
  ];
  return `Digest ${fields.join(", ")}`;
}

/** Every `Digest` answer in the Authorization lines of a request that is complete enough to be checked. */
export function parseAnswers(headerLines: readonly string[]): readonly DigestAnswer[] {
  return headerLines.flatMap((line) => parseDigestLists(line)).flatMap((fields) => readAnswer(fields) ?? []);
}

/** Compares two texts in a time that does not tell where they differ. */
export function equalInConstantTime(a: string, b: string): boolean {
  // Hashing first makes both the same length, which timingSafeEqual demands.
  const digest = (text: string): Buffer => createHash("sha256").update(text, "utf8").digest();
  return timingSafeEqual(digest(a), digest(b));
}

type Fields = ReadonlyMap<string, string>;

/**
 * `Digest a="b", c=d` into fields. drachtio-srf joins the lines of one header with commas, so a new scheme may begin
 * within the text; other schemes than Digest are left out. One pass over the text, whatever stands in it.
 */
function parseDigestLists(text: string): Fields[] {
  const lists: { readonly digest: boolean; readonly fields: Map<string, string> }[] = [];
  const token = /[\s,]*([A-Za-z0-9!%'*+.^_`~-]+)(?:[ \t]*=[ \t]*("(?:[^"\\]|\\.)*"|[^\s,"]*)|[ \t]+|$)/gy;
  for (let match = token.exec(text); match !== null; match = token.exec(text)) {
    const [, name = "", value] = match;
    if (value === undefined) {
      lists.push({ digest: name.toLowerCase() === "digest", fields: new Map() });
    } else {
      const fields = lists.at(-1)?.fields;
      // RFC 7616 §3.3: a field stands once; the first counts, so that nobody can override it by an addition.
      if (fields !== undefined && !fields.has(name.toLowerCase())) {
        fields.set(name.toLowerCase(), unquote(value));
      }
    }
  }
  return lists.filter(({ digest }) => digest).map(({ fields }) => fields);
}

function readChallenge(fields: Fields): Challenge | undefined {
  const realm = fields.get("realm");
  const nonce = fields.get("nonce");
  const algorithm = readAlgorithm(fields.get("algorithm"));
  const offered = fields
    .get("qop")
    ?.split(",")
    .map((entry) => entry.trim().toLowerCase());
  if (
    realm === undefined ||
    nonce === undefined ||
    algorithm === undefined ||
    (offered !== undefined && !offered.includes("auth"))
  ) {
    return undefined;
  }
  return {
    realm,
    nonce,
    opaque: fields.get("opaque") ?? null,
    algorithm,
    qop: offered === undefined ? null : "auth",
    stale: fields.get("stale")?.toLowerCase() === "true",
  };
}

function readAnswer(fields: Fields): DigestAnswer | undefined {
  const [username, realm, nonce, uri, response] = ["username", "realm", "nonce", "uri", "response"].map((name) =>
    fields.get(name),
  );
  const algorithm = readAlgorithm(fields.get("algorithm"));
  const qop = fields.get("qop")?.toLowerCase();
  const nc = fields.get("nc");
  const cnonce = fields.get("cnonce") ?? null;
  const withQop = qop === "auth" && nc !== undefined && /^[0-9a-f]{8}$/i.test(nc) && cnonce !== null;
  if (
    username === undefined ||
    realm === undefined ||
    nonce === undefined ||
    uri === undefined ||
    response === undefined ||
    algorithm === undefined ||
    (qop !== undefined && !withQop)
  ) {
    return undefined;
  }
  return {
    username,
    realm,
    nonce,
    uri,
    response: response.toLowerCase(),
    algorithm,
    qop: withQop ? "auth" : null,
    nonceCount: withQop ? Number.parseInt(nc, 16) : null,
    cnonce,
  };
}

/** RFC 7616 §3.3: MD5 when nothing is said. */
function readAlgorithm(text: string | undefined): DigestAlgorithm | undefined {
  const name = (text ?? "MD5").toUpperCase();
  return name === "MD5" || name === "SHA-256" || name === "SHA-512-256" ? name : undefined;
}

function escapeQuoted(text: string): string {
  return text.replaceAll(/["\\]/g, String.raw`\$&`);
}
