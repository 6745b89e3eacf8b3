import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { inspect } from "node:util";

import type { Environment } from "./overrides.ts";
import { ConfigError, relativePaths } from "./problem.ts";
import type { ConfigProblem } from "./problem.ts";
import { usesAnchor } from "./schema.ts";
import type { Config } from "./schema.ts";

/** What a secret belongs to. */
export type SecretName =
  | "redis"
  | "redis.sentinel"
  | "sip.drachtio"
  | "media.tts"
  | "recording.upload.accessKey"
  | "recording.upload.secretKey"
  | "media.freeswitch"
  | `trunk:${string}:inbound`
  | `trunk:${string}:outbound`;

/** The secrets of a configuration, apart from it, so that printing either never shows one. */
export class Secrets {
  readonly #values: ReadonlyMap<SecretName, string>;

  constructor(values: ReadonlyMap<SecretName, string>) {
    this.#values = values;
  }

  /** Undefined when the configuration names no such secret. */
  get(name: SecretName): string | undefined {
    return this.#values.get(name);
  }

  toJSON(): string {
    return "[secrets]";
  }

  toString(): string {
    return "[secrets]";
  }

  [inspect.custom](): string {
    return "[secrets]";
  }
}

interface Reference {
  readonly name: SecretName;
  readonly path: string;
  readonly env: string | undefined;
  readonly file: string | undefined;
}

/**
 * Fetches every secret the configuration names. A file's trailing line end is taken off; relative file names count from
 * `baseFolder`.
 * @throws ConfigError that names every missing one (and never shows what was found).
 */
export function loadSecrets(config: Config, env: Environment, baseFolder = "."): Secrets {
  const problems: ConfigProblem[] = [];
  const values = new Map<SecretName, string>();
  for (const reference of references(config)) {
    const value = fetchSecret(reference, env, baseFolder, problems);
    if (value !== undefined) {
      values.set(reference.name, value);
    }
  }
  if (problems.length > 0) {
    throw new ConfigError(problems);
  }
  return new Secrets(values);
}

function references(config: Config): readonly Reference[] {
  const { redis, sip, media, recording, trunks } = config;
  const all: Reference[] = [
    { name: "redis", path: "redis.password", env: redis.passwordEnv, file: redis.passwordFile },
    {
      name: "redis.sentinel",
      path: "redis.sentinel.password",
      env: redis.sentinel?.passwordEnv,
      file: redis.sentinel?.passwordFile,
    },
    { name: "sip.drachtio", path: "sip.drachtio.secret", env: sip.drachtio?.secretEnv, file: sip.drachtio?.secretFile },
  ];
  if (usesAnchor(config, "freeswitch")) {
    const { passwordEnv, passwordFile } = media.freeswitch;
    all.push({ name: "media.freeswitch", path: "media.freeswitch.password", env: passwordEnv, file: passwordFile });
  }
  if (media.tts.kind === "http") {
    const { authorizationEnv, authorizationFile } = media.tts;
    all.push({ name: "media.tts", path: "media.tts.authorization", env: authorizationEnv, file: authorizationFile });
  }
  const { accessKeyEnv, accessKeyFile, secretKeyEnv, secretKeyFile } = recording.upload ?? {};
  const [accessKey, secretKey] = ["recording.upload.accessKey", "recording.upload.secretKey"] as const;
  all.push({ name: accessKey, path: accessKey, env: accessKeyEnv, file: accessKeyFile });
  all.push({ name: secretKey, path: secretKey, env: secretKeyEnv, file: secretKeyFile });
  for (const [index, { id, inbound, outbound }] of trunks.entries()) {
    const path = `trunks[${index}]`;
    all.push(
      {
        name: `trunk:${id}:inbound`,
        path: `${path}.inbound.password`,
        env: inbound?.passwordEnv,
        file: inbound?.passwordFile,
      },
      {
        name: `trunk:${id}:outbound`,
        path: `${path}.outbound.password`,
        env: outbound?.passwordEnv,
        file: outbound?.passwordFile,
      },
    );
  }
  return all.filter(({ env, file }) => env !== undefined || file !== undefined);
}

function fetchSecret(
  { path, env: variable, file }: Reference,
  env: Environment,
  baseFolder: string,
  problems: ConfigProblem[],
): string | undefined {
  const origin = variable === undefined ? `file ${file}` : `environment variable ${variable}`;
  let value: string | undefined;
  if (variable !== undefined) {
    value = env[variable];
    if (value === undefined) {
      problems.push({
        path: `${path}Env`,
        message: `the environment variable ${variable} is not set: set it, or use ${lastName(path)}File`,
      });
      return undefined;
    }
  } else if (file !== undefined) {
    const place = resolve(baseFolder, file);
    try {
      value = readFileSync(place, "utf8").replace(/\r?\n$/, "");
    } catch (error) {
      const code = error instanceof Error && "code" in error ? String(error.code) : "unknown error";
      problems.push({
        path: `${path}File`,
        message: `the file ${place} cannot be read (${code}): create it, readable for this user only; ${relativePaths}`,
      });
      return undefined;
    }
  }
  if (value === "") {
    problems.push({ path, message: `the ${origin} is empty: put the secret there` });
    return undefined;
  }
  // Digest, AUTH and the drachtio frame would all break in their own way on a line end inside.
  if (value !== undefined && /[\r\n\0]/.test(value)) {
    problems.push({ path, message: `the ${origin} holds more than one line: only the secret may stand there` });
    return undefined;
  }
  return value;
}

function lastName(path: string): string {
  return path.slice(path.lastIndexOf(".") + 1);
}
