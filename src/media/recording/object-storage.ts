import { createHash } from "node:crypto";
import { open } from "node:fs/promises";
import type { FileHandle } from "node:fs/promises";
import { request as plainRequest } from "node:http";
import type { IncomingMessage } from "node:http";
import { request as tlsRequest } from "node:https";
import { pipeline } from "node:stream/promises";
import { AwsV4Signer } from "aws4fetch";
import { codeOf, MediaError, messageOf } from "../media-error.ts";

/** A bucket of Amazon S3 or of anything that speaks its protocol. */
export interface StorageOptions {
  /** `https://host` or `http://host:port`, without a path. */
  readonly endpoint: string;
  readonly bucket: string;
  /** What every object's name begins with; may be empty. */
  readonly prefix: string;
  readonly region: string;
  readonly accessKey: string;
  readonly secretKey: string;
  /** The bucket is the first part of the path; else it is the first label of the host name. */
  readonly pathStyle: boolean;
  /** An upload of which no byte moves for so long is given up; half a minute when left out. */
  readonly stallMs?: number;
}

/** Why an object could not be stored. `everywhere`: the next one would most likely fail as well. */
export class StorageError extends MediaError {
  readonly everywhere: boolean;

  constructor(code: string, message: string, everywhere: boolean, options?: ErrorOptions) {
    super(code, message, options);
    this.name = "StorageError";
    this.everywhere = everywhere;
  }
}

interface StorageAnswer {
  readonly status: number;
  readonly headers: IncomingMessage["headers"];
  readonly text: string;
}

interface Content {
  readonly bytes: number;
  readonly sha256: string;
  readonly md5: Buffer;
}

/** Amazon's own limit for an object that is sent at once: more than 43 hours of a WAV. */
const mostBytes = 5 * 1_024 ** 3;
const mostAnswerBytes = 16 * 1_024;
const usualStallMs = 30_000;
/** A storage that takes a file byte by byte would hold its place for ever. */
const longestUploadMs = 60 * 60 * 1_000;
/** Of what was sent, in lower-case hex: tells a later run that the object is there already. */
const sha256Header = "x-amz-meta-sha256";

/** Refusals that are about this one object; all others (keys, bucket, clock, load) would meet the next one too. */
const aboutObject: ReadonlySet<number> = new Set([400, 405, 411, 412, 413, 414, 415, 422]);

/** Stores files as objects. One request at a time for each call of `put`. */
export class ObjectStorage {
  readonly #options: StorageOptions;
  readonly #base: URL;

  constructor(options: StorageOptions) {
    this.#options = options;
    const { endpoint, bucket, pathStyle } = options;
    const base = new URL(endpoint);
    if (pathStyle) base.pathname = `/${bucket}/`;
    else base.hostname = `${bucket}.${base.hostname}`;
    this.#base = base;
  }

  /** Where the object of that name is, once it is stored. */
  urlOf(name: string): string {
    return new URL(this.#options.prefix + name, this.#base).href;
  }

  /**
   * Stores a file and makes sure that it is there whole. `mayBeThere`: an earlier run may have stored it, which is then enough.
   * Rejects with a StorageError, or with the system's error when the file cannot be read.
   */
  async put(path: string, name: string, contentType: string, mayBeThere: boolean, signal: AbortSignal): Promise<void> {
    // Opened once: what is sent is what was hashed, even when the file is replaced meanwhile.
    const file = await open(path, "r");
    try {
      const content = await contentOf(file);
      if (content.bytes > mostBytes) {
        throw new StorageError("too_large", `${content.bytes} bytes are more than an object may have`, false);
      }
      if (mayBeThere && (await this.#doubt(name, content, signal)) === null) return;
      const answer = await this.#send("PUT", name, signal, content.sha256, {
        file,
        headers: {
          "content-length": String(content.bytes),
          "content-type": contentType,
          // The storage itself refuses what was damaged on its way: by this, and by the hash that is signed.
          "content-md5": content.md5.toString("base64"),
          [sha256Header]: content.sha256,
        },
      });
      if (answer.status !== 200) throw refused("PUT", answer);
      // The ETag of an object sent at once is its MD5, unless the storage encrypts with keys of its own.
      if (answer.headers.etag?.replaceAll('"', "") === content.md5.toString("hex")) return;
      const doubt = await this.#doubt(name, content, signal);
      if (doubt !== null) {
        throw new StorageError("unconfirmed", `the storage says that it has the object, but ${doubt}`, false);
      }
    } finally {
      await file.close();
    }
  }

  /** Why it cannot be said that the object is there whole; null when it is. */
  async #doubt(name: string, content: Content, signal: AbortSignal): Promise<string | null> {
    const { status, headers } = await this.#send("HEAD", name, signal, emptySha256);
    if (status !== 200) return `does not show it: ${status} to HEAD`;
    if (headers["content-length"] !== String(content.bytes)) return `it has ${headers["content-length"]} bytes`;
    return headers[sha256Header] === content.sha256 ? null : "it is not what was sent";
  }

  async #send(
    method: "HEAD" | "PUT",
    name: string,
    signal: AbortSignal,
    sha256: string,
    body?: { readonly file: FileHandle; readonly headers: Readonly<Record<string, string>> },
  ): Promise<StorageAnswer> {
    const { accessKey, secretKey, region, stallMs = usualStallMs } = this.#options;
    const signer = new AwsV4Signer({
      method,
      url: this.urlOf(name),
      headers: { ...body?.headers, "x-amz-content-sha256": sha256 },
      accessKeyId: accessKey,
      secretAccessKey: secretKey,
      service: "s3",
      region,
    });
    const { url, headers } = await signer.sign();
    const send = url.protocol === "https:" ? tlsRequest : plainRequest;
    const request = send(url, {
      method,
      headers: Object.fromEntries(headers),
      // A connection that was kept may be closed by the storage just when it is used again.
      agent: false,
      timeout: stallMs,
      signal,
    });
    request.once("timeout", () => request.destroy(new Error(`nothing moved for ${stallMs} ms`)));
    const limit = setTimeout(() => request.destroy(new Error(`not done in ${longestUploadMs} ms`)), longestUploadMs);
    try {
      const answered = new Promise<StorageAnswer>((resolve, reject) => {
        request.on("error", reject);
        request.once("response", (response) => {
          readAnswer(response).then(resolve, reject);
        });
      });
      if (body === undefined) request.end();
      else {
        // A storage may refuse before it has read everything, and then close: its answer counts, not the broken pipe.
        pipeline(body.file.createReadStream({ start: 0, autoClose: false }), request).catch(() => {});
      }
      return await answered;
    } catch (error) {
      if (signal.aborted) throw new StorageError("aborted", "it was not wanted any more", true, { cause: error });
      const reason = messageOf(error) === "" ? codeOf(error, "unknown error") : messageOf(error);
      throw new StorageError("unreachable", `${method}: ${reason}`, true, { cause: error });
    } finally {
      clearTimeout(limit);
      // Else a body that nobody reads any more would hold the file.
      if (!request.writableFinished) request.destroy();
    }
  }
}

const emptySha256 = createHash("sha256").update("").digest("hex");

async function contentOf(file: FileHandle): Promise<Content> {
  const sha256 = createHash("sha256");
  const md5 = createHash("md5");
  let bytes = 0;
  for await (const piece of file.createReadStream({ start: 0, autoClose: false })) {
    sha256.update(piece as Buffer);
    md5.update(piece as Buffer);
    bytes += (piece as Buffer).length;
  }
  return { bytes, sha256: sha256.digest("hex"), md5: md5.digest() };
}

async function readAnswer(response: IncomingMessage): Promise<StorageAnswer> {
  const pieces: Buffer[] = [];
  let length = 0;
  for await (const piece of response) {
    // The rest of an answer that is far too long tells nothing; it is read so that the connection can be used again.
    if (length < mostAnswerBytes) pieces.push(piece as Buffer);
    length += (piece as Buffer).length;
  }
  return {
    status: response.statusCode ?? 0,
    headers: response.headers,
    text: Buffer.concat(pieces).toString("utf8"),
  };
}

function refused(method: string, { status, headers, text }: StorageAnswer): StorageError {
  const code = /<Code>([A-Za-z0-9.]{1,64})<\/Code>/.exec(text)?.[1] ?? "";
  const region = headers["x-amz-bucket-region"];
  const elsewhere = typeof region === "string" ? `, the bucket is in the region ${region}` : "";
  const answer = `${method}: ${status} ${code}`.trimEnd() + elsewhere;
  return new StorageError("refused", answer, !aboutObject.has(status) || code === "AuthorizationHeaderMalformed");
}
