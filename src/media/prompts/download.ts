import { open } from "node:fs/promises";
import { MediaError, messageOf } from "../media-error.ts";

const redirectStatuses = new Set([301, 302, 303, 307, 308]);
const riffHeaderBytes = 12;

export interface DownloadRequest {
  readonly url: string;
  readonly method: "GET" | "POST";
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | null;
  /** Where the answer's body is written. */
  readonly target: string;
  readonly mostBytes: number;
  readonly timeoutMs: number;
  readonly mostRedirects: number;
  /** Hosts that may be asked, redirects included. */
  readonly hosts: readonly string[] | "any";
}

export interface Download {
  /** False when the server said 304: nothing was written. */
  readonly modified: boolean;
  readonly headers: Headers;
}

/** A URL that may be fetched. Throws a MediaError `bad_url` or `host_not_allowed`. */
export function fetchableUrl(text: string, base: string | undefined, hosts: readonly string[] | "any"): URL {
  const url = URL.canParse(text, base) ? new URL(text, base) : undefined;
  if (url === undefined || (url.protocol !== "http:" && url.protocol !== "https:")) {
    throw new MediaError("bad_url", "neither an http nor an https URL");
  }
  if (url.username !== "" || url.password !== "") throw new MediaError("bad_url", "the URL carries credentials");
  if (hosts !== "any" && !hosts.includes(url.host) && !hosts.includes(url.hostname)) {
    throw new MediaError("host_not_allowed", "prompts may not be fetched from this host");
  }
  return url;
}

/**
 * Fetches a WAV file into `target` within the limits of the request. Rejects with a MediaError: `bad_url`,
 * `host_not_allowed`, `fetch_failed`, `fetch_timeout`, `too_large`, `not_audio`, `too_many_redirects`, `http_<status>`.
 */
export async function download(request: DownloadRequest): Promise<Download> {
  const deadline = AbortSignal.timeout(request.timeoutMs);
  try {
    return await follow(request, deadline);
  } catch (error) {
    if (error instanceof MediaError) throw error;
    if (deadline.aborted) throw new MediaError("fetch_timeout", `no answer within ${request.timeoutMs} ms`);
    const cause = error instanceof Error && error.cause !== undefined ? messageOf(error.cause) : messageOf(error);
    throw new MediaError("fetch_failed", cause, { cause: error });
  }
}

async function follow(request: DownloadRequest, deadline: AbortSignal): Promise<Download> {
  let url = fetchableUrl(request.url, undefined, request.hosts);
  for (let hop = 0; hop <= request.mostRedirects; hop += 1) {
    const response = await fetch(url, {
      method: request.method,
      headers: request.headers,
      body: request.body,
      redirect: "manual",
      signal: deadline,
    });
    const location = response.headers.get("location");
    if (redirectStatuses.has(response.status) && location !== null) {
      await response.body?.cancel();
      url = fetchableUrl(location, url.href, request.hosts);
      continue;
    }
    if (response.status === 304) {
      await response.body?.cancel();
      return { modified: false, headers: response.headers };
    }
    if (response.status !== 200 || response.body === null) {
      await response.body?.cancel();
      throw new MediaError(`http_${response.status}`, `the server answered ${response.status}`);
    }
    await store(response.body, request);
    return { modified: true, headers: response.headers };
  }
  throw new MediaError("too_many_redirects", `more than ${request.mostRedirects} redirects`);
}

/** Writes the body as it comes and breaks off as soon as it is too long or cannot be a WAV file. */
async function store(body: ReadableStream<Uint8Array>, request: DownloadRequest): Promise<void> {
  await using file = await open(request.target, "w", 0o600);
  let written = 0;
  let head = Buffer.alloc(0);
  for await (const piece of body) {
    if (head.length < riffHeaderBytes) {
      head = Buffer.concat([head, piece.subarray(0, riffHeaderBytes - head.length)]);
      if (head.length === riffHeaderBytes) checkHead(head);
    }
    if (written + piece.length > request.mostBytes) {
      throw new MediaError("too_large", `more than ${request.mostBytes} bytes`);
    }
    await file.writeFile(piece);
    written += piece.length;
  }
  if (head.length < riffHeaderBytes) throw new MediaError("not_audio", "the answer is too short for a WAV file");
}

function checkHead(head: Buffer): void {
  if (head.toString("latin1", 0, 4) !== "RIFF" || head.toString("latin1", 8, 12) !== "WAVE") {
    throw new MediaError("not_audio", "the answer is not a WAV file");
  }
}
