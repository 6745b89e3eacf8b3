/** What is remembered of a downloaded prompt, so that its server can be asked whether it has changed. */
export interface Validators {
  readonly etag: string | null;
  readonly lastModified: string | null;
  /** Milliseconds since 1970 until which the copy is used without asking. */
  readonly freshUntil: number;
}

/** Longer answers to "how long may I keep it" are cut: a wrong header must not freeze a prompt for years. */
const longestFreshMs = 24 * 60 * 60 * 1_000;

function directive(cacheControl: string, name: string): string | undefined {
  for (const part of cacheControl.split(",")) {
    const [key = "", value = ""] = part.trim().split("=", 2);
    if (key.toLowerCase() === name) return value.replaceAll('"', "");
  }
  return undefined;
}

/** How long a response may be reused (RFC 9111 §4.2), `otherwiseMs` when it does not say. */
function freshMsOf(headers: Headers, nowMs: number, otherwiseMs: number): number {
  const cacheControl = headers.get("cache-control") ?? "";
  // RFC 9111 §5.2.2.4 and §5.2.2.5: both ask us not to reuse it without asking the server.
  if (directive(cacheControl, "no-cache") !== undefined || directive(cacheControl, "no-store") !== undefined) return 0;
  const maxAge = Number(directive(cacheControl, "max-age") ?? Number.NaN);
  if (Number.isFinite(maxAge)) {
    const age = Number(headers.get("age") ?? 0);
    return (maxAge - (Number.isFinite(age) ? age : 0)) * 1_000;
  }
  const expires = headers.get("expires");
  if (expires !== null) {
    const at = Date.parse(expires);
    // RFC 9111 §5.3: an invalid date, `0` above all, means that it has expired already.
    return Number.isNaN(at) ? 0 : at - nowMs;
  }
  return otherwiseMs;
}

export function validatorsOf(headers: Headers, nowMs: number, otherwiseMs: number): Validators {
  const freshMs = Math.min(longestFreshMs, Math.max(0, freshMsOf(headers, nowMs, otherwiseMs)));
  return {
    etag: headers.get("etag"),
    lastModified: headers.get("last-modified"),
    freshUntil: nowMs + freshMs,
  };
}

/** Headers that ask for the body only if it has changed (RFC 9110 §13.1). */
export function conditionalHeaders(validators: Validators): Record<string, string> {
  if (validators.etag !== null) return { "if-none-match": validators.etag };
  if (validators.lastModified !== null) return { "if-modified-since": validators.lastModified };
  return {};
}
