// An object storage on loopback that takes PUT and HEAD and checks every signature, hash and length as strictly as Amazon S3
// does. It can be told to misbehave.
import { createHash } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { s3Signature, sha256 } from "./s3-signature.ts";

export interface StoredObject {
  readonly body: Buffer;
  readonly headers: Readonly<Record<string, string>>;
}

export interface S3Request {
  readonly method: string;
  readonly key: string;
  /** Status of the answer; 0 for none. */
  readonly status: number;
}

/** How the next requests go wrong; undefined: they do not. */
export type S3Fault =
  | { readonly type: "refuse"; readonly status: number; readonly code: string; readonly only?: string }
  /** Takes the object, and closes the connection instead of saying so. */
  | { readonly type: "silent" }
  /** Says that it has the object, and throws it away. */
  | { readonly type: "lies" }
  /** Reads nothing and answers nothing. */
  | { readonly type: "stalls" }
  /** Its ETag is no MD5, as with encryption by keys of the storage's own. */
  | { readonly type: "encrypts" };

const longestSkewMs = 15 * 60 * 1_000;

export class S3Server implements AsyncDisposable {
  readonly accessKey = "test-access-key";
  readonly secretKey = "test/secret+key";
  readonly region = "eu-test-1";
  readonly bucket = "recordings";
  readonly objects = new Map<string, StoredObject>();
  readonly requests: S3Request[] = [];
  fault: S3Fault | undefined;
  /** The most PUTs that were under way at once. */
  mostAtOnce = 0;
  #atOnce = 0;
  #port = 0;
  #server: Server | undefined;

  static async start(): Promise<S3Server> {
    const server = new S3Server();
    await server.open();
    return server;
  }

  get endpoint(): string {
    return `http://127.0.0.1:${this.#port}`;
  }

  /** On the same port as before, once it has had one. */
  async open(): Promise<void> {
    this.#server = createServer((request, response) => {
      this.#serve(request, response).catch((error: unknown) => response.destroy(error as Error));
    });
    this.#server.listen(this.#port, "127.0.0.1");
    await once(this.#server, "listening");
    this.#port = (this.#server.address() as AddressInfo).port;
  }

  /** As a storage that is away: connections are refused. */
  async close(): Promise<void> {
    const server = this.#server;
    this.#server = undefined;
    if (server === undefined) return;
    server.closeAllConnections();
    server.close();
    await once(server, "close");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = "", url = "" } = request;
    const key = decodeURIComponent(url.slice(`/${this.bucket}/`.length));
    if (this.fault?.type === "stalls") {
      this.requests.push({ method, key, status: 0 });
      return;
    }
    if (method === "PUT") this.mostAtOnce = Math.max(this.mostAtOnce, (this.#atOnce += 1));
    try {
      const pieces: Buffer[] = [];
      for await (const piece of request) pieces.push(piece as Buffer);
      const [status, code, headers = {}] = this.#answer(request, key, Buffer.concat(pieces));
      this.requests.push({ method, key, status });
      if (status === 0) {
        response.destroy();
        return;
      }
      response.writeHead(status, headers);
      response.end(method === "HEAD" || code === "" ? undefined : `<Error><Code>${code}</Code></Error>`);
    } finally {
      if (method === "PUT") this.#atOnce -= 1;
    }
  }

  #answer(request: IncomingMessage, key: string, body: Buffer): readonly [number, string, Record<string, string>?] {
    const { fault } = this;
    const wrong = this.#wrongWith(request, body);
    if (wrong !== undefined) return wrong;
    if (fault?.type === "refuse" && (fault.only === undefined || key.includes(fault.only))) {
      return [fault.status, fault.code];
    }
    if (request.method === "HEAD") {
      const object = this.objects.get(key);
      return object === undefined ? [404, "NoSuchKey"] : [200, "", { ...object.headers }];
    }
    const md5 = createHash("md5").update(body).digest("hex");
    const etag = fault?.type === "encrypts" ? sha256(`sealed ${md5}`).slice(0, 32) : md5;
    const kept = Object.entries(request.headers).filter(
      ([name]) => name.startsWith("x-amz-meta-") || name === "content-type" || name === "content-length",
    );
    const headers = { ...(Object.fromEntries(kept) as Record<string, string>), etag: `"${etag}"` };
    if (fault?.type === "lies") return [200, "", { etag: '"00000000000000000000000000000000"' }];
    this.objects.set(key, { body, headers });
    return fault?.type === "silent" ? [0, ""] : [200, "", { etag: `"${etag}"` }];
  }

  /** What Amazon would refuse the request for. */
  #wrongWith(request: IncomingMessage, body: Buffer): readonly [number, string] | undefined {
    const { method = "", url = "" } = request;
    const headers = request.headers as Readonly<Record<string, string>>;
    if (!url.startsWith(`/${this.bucket}/`)) return [404, "NoSuchBucket"];
    if (method !== "PUT" && method !== "HEAD") return [405, "MethodNotAllowed"];
    const given =
      /^AWS4-HMAC-SHA256 Credential=([^/]+)\/(\d{8})\/([^/]+)\/s3\/aws4_request, SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})$/.exec(
        headers["authorization"] ?? "",
      );
    if (given === null) return [403, "AccessDenied"];
    const [, accessKey = "", day = "", region = "", names = "", signature = ""] = given;
    const time = headers["x-amz-date"] ?? "";
    const at = Date.parse(
      time.replace(
        /^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/,
        (_, ...[y, mo, d, h, mi, s]) => `${y}-${mo}-${d}T${h}:${mi}:${s}Z`,
      ),
    );
    if (!time.startsWith(day) || Number.isNaN(at)) return [403, "AccessDenied"];
    if (Math.abs(Date.now() - at) > longestSkewMs) return [403, "RequestTimeTooSkewed"];
    if (accessKey !== this.accessKey) return [403, "InvalidAccessKeyId"];
    if (region !== this.region) return [400, "AuthorizationHeaderMalformed"];
    const signedHeaders = names.split(";");
    const mustBeSigned = ["host", ...Object.keys(headers).filter((name) => name.startsWith("x-amz-"))];
    if (mustBeSigned.some((name) => !signedHeaders.includes(name))) return [403, "AccessDenied"];
    if (signedHeaders.toSorted().join(";") !== names) return [403, "SignatureDoesNotMatch"];
    const { secretKey } = this;
    if (s3Signature({ method, target: url, headers, signedHeaders, time, region, secretKey }) !== signature) {
      return [403, "SignatureDoesNotMatch"];
    }
    if (headers["x-amz-content-sha256"] !== sha256(body)) return [400, "XAmzContentSHA256Mismatch"];
    if (method === "PUT") {
      if (headers["content-length"] === undefined) return [411, "MissingContentLength"];
      const md5 = headers["content-md5"];
      if (md5 !== undefined && md5 !== createHash("md5").update(body).digest("base64")) return [400, "BadDigest"];
    }
    return undefined;
  }
}
