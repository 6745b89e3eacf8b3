// Certificates made for one test, by openssl, in the test's own folder.
import { execFile } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";

const run = promisify(execFile);

export interface Certificate {
  readonly certificateFile: string;
  readonly keyFile: string;
  /** The same as PEM text. */
  readonly certificate: string;
  readonly key: string;
}

/** An authority of the test, and what it signs. */
export class Authority {
  readonly certificateFile: string;
  readonly certificate: string;
  readonly #folder: string;
  readonly #keyFile: string;
  #serial = 1;

  private constructor(folder: string, own: Certificate) {
    this.#folder = folder;
    this.certificateFile = own.certificateFile;
    this.certificate = own.certificate;
    this.#keyFile = own.keyFile;
  }

  static async create(folder: string, name = "authority"): Promise<Authority> {
    const certificateFile = join(folder, `${name}.pem`);
    const keyFile = join(folder, `${name}-key.pem`);
    await openssl(["req", "-x509", ...newKey(keyFile), "-out", certificateFile, "-days", "2", "-subj", `/CN=${name}`]);
    return new Authority(folder, await read(certificateFile, keyFile));
  }

  /** `names` as openssl writes alternative names: `DNS:example.org,URI:sip:example.org,IP:127.0.0.1`. */
  async sign(name: string, names: string, options: { readonly days?: number } = {}): Promise<Certificate> {
    const certificateFile = join(this.#folder, `${name}.pem`);
    const keyFile = join(this.#folder, `${name}-key.pem`);
    const requestFile = join(this.#folder, `${name}.csr`);
    const extensionFile = join(this.#folder, `${name}.ext`);
    this.#serial += 1;
    await writeFile(extensionFile, `subjectAltName=${names}\n`);
    await openssl(["req", ...newKey(keyFile), "-out", requestFile, "-subj", `/CN=${name}`]);
    const signing = ["-CA", this.certificateFile, "-CAkey", this.#keyFile, "-set_serial", String(this.#serial)];
    const days = ["-days", String(options.days ?? 2)];
    const files = ["-in", requestFile, "-out", certificateFile, "-extfile", extensionFile];
    await openssl(["x509", "-req", ...files, ...signing, ...days]);
    return read(certificateFile, keyFile);
  }
}

function newKey(keyFile: string): string[] {
  return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", keyFile];
}

async function openssl(args: readonly string[]): Promise<void> {
  await run("openssl", args, { timeout: 30_000 });
}

async function read(certificateFile: string, keyFile: string): Promise<Certificate> {
  const [certificate, key] = await Promise.all([readFile(certificateFile, "utf8"), readFile(keyFile, "utf8")]);
  return { certificateFile, keyFile, certificate, key };
}
