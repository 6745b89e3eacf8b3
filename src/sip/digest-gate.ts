import { createHmac, randomBytes } from "node:crypto";

import { digestResponse, equalInConstantTime, parseAnswers } from "./digest.ts";
import type { DigestAlgorithm, DigestAnswer } from "./digest.ts";

export interface DigestGateOptions {
  /** Monotonic milliseconds. */
  readonly now: () => number;
  /** How long a nonce is good. */
  readonly nonceMs?: number;
  /** Wrong passwords from one address until it is banned. */
  readonly maxFailures?: number;
  readonly banMs?: number;
  /** Addresses and nonces remembered at most; the oldest are forgotten first. */
  readonly maxRemembered?: number;
}

export type GateVerdict =
  | { readonly type: "accepted"; readonly username: string }
  /** Ask for credentials; `stale` when only the nonce was too old (RFC 7616 §3.3). */
  | { readonly type: "challenge"; readonly stale: boolean }
  /** The address has failed too often. */
  | { readonly type: "banned" };

export interface GateUser {
  readonly username: string;
  readonly realm: string;
  readonly password: string;
  /** Left out: all there are. */
  readonly algorithms?: readonly DigestAlgorithm[];
}

const known: readonly DigestAlgorithm[] = ["SHA-256", "MD5"];

/**
 * Our own digest authentication of callers (RFC 3261 §22, RFC 7616, RFC 8760). A nonce is an HMAC over time and source
 * address, so that it needs no memory until it is used and is worth nothing from another address.
 */
export class DigestGate {
  readonly #key = randomBytes(32);
  readonly #now: () => number;
  readonly #nonceMs: number;
  readonly #maxFailures: number;
  readonly #banMs: number;
  readonly #maxRemembered: number;
  readonly #used = new Map<string, { readonly count: number; readonly expiresAt: number }>();
  readonly #failures = new Map<string, { readonly count: number; readonly expiresAt: number }>();

  constructor(options: DigestGateOptions) {
    this.#now = options.now;
    this.#nonceMs = options.nonceMs ?? 60_000;
    this.#maxFailures = options.maxFailures ?? 3;
    this.#banMs = options.banMs ?? 15 * 60_000;
    this.#maxRemembered = options.maxRemembered ?? 10_000;
  }

  /** Values for as many WWW-Authenticate lines, the strongest first (RFC 8760 §2.3), of what one of `users` may answer. */
  challenges(realm: string, source: string, stale: boolean, users: readonly GateUser[] = []): readonly string[] {
    const nonce = this.#mint(source);
    return offeredTo(users).map(
      (algorithm) =>
        `Digest realm="${realm}", nonce="${nonce}", algorithm=${algorithm}, qop="auth"${stale ? ", stale=true" : ""}`,
    );
  }

  /** Judges a request's Authorization lines; `users` are those who may call from this source. */
  check(request: {
    readonly headerLines: readonly string[];
    readonly method: string;
    readonly source: string;
    readonly users: readonly GateUser[];
  }): GateVerdict {
    const now = this.#now();
    forgetExpired(this.#used, now);
    forgetExpired(this.#failures, now);
    if ((this.#failures.get(request.source)?.count ?? 0) >= this.#maxFailures) {
      return { type: "banned" };
    }
    const realms = new Set(request.users.map(({ realm }) => realm));
    const offered = offeredTo(request.users);
    const answer = parseAnswers(request.headerLines).find(
      ({ realm, algorithm }) => realms.has(realm) && offered.includes(algorithm),
    );
    if (answer === undefined) {
      return { type: "challenge", stale: false };
    }
    const mintedAt = this.#mintedAt(answer.nonce, request.source);
    if (mintedAt === undefined) {
      // Not our nonce, or another's: nothing that could be counted against this address.
      return { type: "challenge", stale: false };
    }
    if (!this.#passwordRight(answer, request.method, request.users)) {
      return this.#failed(request.source, now);
    }
    if (mintedAt + this.#nonceMs <= now) {
      return { type: "challenge", stale: true };
    }
    return this.#countOnce(answer, mintedAt)
      ? { type: "accepted", username: answer.username }
      : { type: "challenge", stale: true };
  }

  /** Entries held, for leak tests; they go by time and by limit. */
  stats(): { readonly nonces: number; readonly failures: number } {
    const now = this.#now();
    forgetExpired(this.#used, now);
    forgetExpired(this.#failures, now);
    return { nonces: this.#used.size, failures: this.#failures.size };
  }

  #passwordRight(answer: DigestAnswer, method: string, users: readonly GateUser[]): boolean {
    const user = users.find(({ username, realm }) => username === answer.username && realm === answer.realm);
    const expected = digestResponse({
      algorithm: answer.algorithm,
      username: answer.username,
      realm: answer.realm,
      // An unknown user costs the same work as a known one, so that the time does not tell them apart.
      password: user?.password ?? "",
      method,
      uri: answer.uri,
      nonce: answer.nonce,
      qop: answer.qop,
      nc: (answer.nonceCount ?? 0).toString(16).padStart(8, "0"),
      cnonce: answer.cnonce ?? "",
    });
    const allowed = user !== undefined && (user.algorithms ?? known).includes(answer.algorithm);
    return equalInConstantTime(expected, answer.response) && allowed;
  }

  /** RFC 7616 §3.4: a nonce count that does not grow is a replay; without qop a nonce is good for one request. */
  #countOnce({ nonce, nonceCount }: DigestAnswer, mintedAt: number): boolean {
    const count = nonceCount ?? Number.MAX_SAFE_INTEGER;
    if (count <= (this.#used.get(nonce)?.count ?? 0)) {
      return false;
    }
    remember(this.#used, nonce, { count, expiresAt: mintedAt + this.#nonceMs }, this.#maxRemembered);
    return true;
  }

  #failed(source: string, now: number): GateVerdict {
    const count = (this.#failures.get(source)?.count ?? 0) + 1;
    remember(this.#failures, source, { count, expiresAt: now + this.#banMs }, this.#maxRemembered);
    return count >= this.#maxFailures ? { type: "banned" } : { type: "challenge", stale: false };
  }

  #mint(source: string): string {
    const stamp = `${Math.floor(this.#now()).toString(36)}.${randomBytes(9).toString("base64url")}`;
    return `${stamp}.${this.#seal(stamp, source)}`;
  }

  #mintedAt(nonce: string, source: string): number | undefined {
    const [time = "", salt = "", seal = "", ...more] = nonce.split(".");
    if (
      more.length > 0 ||
      !/^[0-9a-z]{1,12}$/.test(time) ||
      !equalInConstantTime(seal, this.#seal(`${time}.${salt}`, source))
    ) {
      return undefined;
    }
    return Number.parseInt(time, 36);
  }

  #seal(stamp: string, source: string): string {
    return createHmac("sha256", this.#key).update(`${stamp} ${source}`).digest("base64url");
  }
}

/** The same for all who may call from one source, so that nobody's algorithms can be found out by a name. */
function offeredTo(users: readonly GateUser[]): readonly DigestAlgorithm[] {
  const wanted = new Set(users.flatMap(({ algorithms }) => algorithms ?? known));
  return wanted.size === 0 ? known : known.filter((algorithm) => wanted.has(algorithm));
}

function remember<T>(map: Map<string, T>, key: string, value: T, max: number): void {
  // Deleted first, so that the order of the map is the order of the last use.
  map.delete(key);
  for (const oldest of map.keys()) {
    if (map.size < max) {
      break;
    }
    map.delete(oldest);
  }
  map.set(key, value);
}

function forgetExpired(map: Map<string, { readonly expiresAt: number }>, now: number): void {
  // Entries stand in the order of their last use and so nearly in that of their expiry: the first that is good ends it.
  for (const [key, { expiresAt }] of map) {
    if (expiresAt > now) {
      break;
    }
    map.delete(key);
  }
}
