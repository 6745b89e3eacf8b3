import { createPrivateKey, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";

import { ConfigError, relativePaths } from "./problem.ts";
import type { ConfigProblem } from "./problem.ts";
import type { Config } from "./schema.ts";

type Listener = Config["sip"]["listen"][number];
type TlsConfig = NonNullable<Listener["tls"]>;

/** What a TLS listener shows and whom it believes, as PEM texts. The key is a secret: never print this. */
export interface ListenerTls {
  readonly certificate: string;
  readonly key: string;
  readonly authorities: string | undefined;
  readonly requireClientCertificate: boolean;
  readonly verifyServers: boolean;
}

/**
 * Reads the certificate, key and authority files of a listener; undefined for one without TLS.
 * @throws ConfigError that names every file that cannot be used, its field, and what to do.
 */
export function listenerTls(config: Config, index: number): ListenerTls | undefined {
  const tls = config.sip.listen[index]?.tls;
  if (tls === undefined) {
    return undefined;
  }
  const problems: ConfigProblem[] = [];
  const path = `sip.listen[${index}].tls`;
  const certificate = readPem(
    tls.certificateFile,
    `${path}.certificateFile`,
    "the certificate and its chain",
    problems,
  );
  const key = readPem(tls.keyFile, `${path}.keyFile`, "the private key, readable for this user only", problems);
  const authorities =
    tls.caFile === undefined
      ? undefined
      : readPem(tls.caFile, `${path}.caFile`, "the authorities' certificates", problems);
  problems.push(...pairProblems(tls, path, certificate, key));
  if (authorities !== undefined && certificatesOf(authorities).length === 0) {
    problems.push({
      path: `${path}.caFile`,
      message: `${tls.caFile} holds no PEM certificate: put the authorities there`,
    });
  }
  if (problems.length > 0 || certificate === undefined || key === undefined) {
    throw new ConfigError(problems);
  }
  const { requireClientCertificate, verifyServers } = tls;
  return { certificate, key, authorities, requireClientCertificate, verifyServers };
}

/** Everything wrong with the files of all TLS listeners. */
export function certificateProblems(config: Config): readonly ConfigProblem[] {
  return config.sip.listen.flatMap((_listener, index) => {
    try {
      listenerTls(config, index);
      return [];
    } catch (error) {
      if (error instanceof ConfigError) {
        return error.problems;
      }
      throw error;
    }
  });
}

function readPem(file: string, path: string, what: string, problems: ConfigProblem[]): string | undefined {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : "unknown error";
    const message = `the file ${file} cannot be read (${code}): put ${what} there; ${relativePaths}`;
    problems.push({ path, message });
    return undefined;
  }
}

function pairProblems(
  tls: TlsConfig,
  path: string,
  certificate: string | undefined,
  key: string | undefined,
): ConfigProblem[] {
  const problems: ConfigProblem[] = [];
  const [own] = certificate === undefined ? [] : certificatesOf(certificate);
  if (certificate !== undefined && own === undefined) {
    problems.push({
      path: `${path}.certificateFile`,
      message: `${tls.certificateFile} holds no PEM certificate: it must begin with -----BEGIN CERTIFICATE-----`,
    });
  }
  if (own !== undefined && Date.parse(own.validTo) < Date.now()) {
    problems.push({
      path: `${path}.certificateFile`,
      message: `the certificate in ${tls.certificateFile} expired on ${own.validTo}: renew it`,
    });
  }
  const privateKey = key === undefined ? undefined : privateKeyOf(key);
  if (key !== undefined && privateKey === undefined) {
    problems.push({
      path: `${path}.keyFile`,
      message: `${tls.keyFile} holds no PEM private key, or one with a passphrase: put the plain key there`,
    });
  }
  if (own !== undefined && privateKey !== undefined && !own.checkPrivateKey(privateKey)) {
    problems.push({
      path: `${path}.keyFile`,
      message: `the key in ${tls.keyFile} does not belong to the certificate in ${tls.certificateFile}: use the pair that was made together`,
    });
  }
  return problems;
}

/** None where the text holds none, or one that cannot be read. */
function certificatesOf(text: string): X509Certificate[] {
  const blocks = text.match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g) ?? [];
  try {
    return blocks.map((block) => new X509Certificate(block));
  } catch {
    return [];
  }
}

function privateKeyOf(text: string): ReturnType<typeof createPrivateKey> | undefined {
  try {
    return createPrivateKey(text);
  } catch {
    return undefined;
  }
}
