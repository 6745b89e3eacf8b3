import { readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { z } from "zod";
import { parseDocument } from "yaml";

import { contradictions } from "./contradictions.ts";
import { applyOverrides } from "./overrides.ts";
import type { Environment } from "./overrides.ts";
import { ConfigError, pathText } from "./problem.ts";
import type { ConfigProblem } from "./problem.ts";
import { configSchema } from "./schema.ts";
import type { Config } from "./schema.ts";
import { bareSchema, isRecord, keysOf, kindOf, nearestName, schemaAt } from "./schema-walk.ts";

export type ParsedConfig =
  | { readonly ok: true; readonly config: Config }
  | { readonly ok: false; readonly problems: readonly ConfigProblem[] };

const largestFileBytes = 4 * 1024 * 1024;

/**
 * Reads the configuration file. Relative paths in it count from the file's folder.
 * @throws ConfigError with everything that is wrong.
 */
export function loadConfig(file: string, env: Environment): Config {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ConfigError([{ path: "", message: `cannot be read: ${reason}` }]);
  }
  const parsed = parseConfig(text, env, dirname(resolve(file)));
  if (!parsed.ok) {
    throw new ConfigError(parsed.problems);
  }
  return parsed.config;
}

/** Everything wrong with a configuration text; empty when it can be used. Secrets are looked at by `loadSecrets` only. */
export function checkConfig(text: string, env: Environment): readonly ConfigProblem[] {
  const parsed = parseConfig(text, env, ".");
  return parsed.ok ? [] : parsed.problems;
}

/** Text and environment to a frozen configuration; `baseFolder` is where relative paths count from. */
export function parseConfig(text: string, env: Environment, baseFolder: string): ParsedConfig {
  const problems: ConfigProblem[] = [];
  const raw = readYaml(text, problems);
  if (raw === undefined) {
    return { ok: false, problems };
  }
  problems.push(...takeOutSecrets(raw, []));
  problems.push(...applyOverrides(raw, env));
  const result = configSchema.safeParse(raw);
  if (!result.success) {
    problems.push(...result.error.issues.flatMap((issue) => explain(issue, raw)));
    return { ok: false, problems };
  }
  problems.push(...contradictions(result.data));
  return problems.length > 0
    ? { ok: false, problems }
    : { ok: true, config: deepFreeze(withAbsolutePaths(result.data, baseFolder)) };
}

function readYaml(text: string, problems: ConfigProblem[]): Record<string, unknown> | undefined {
  if (Buffer.byteLength(text) > largestFileBytes) {
    problems.push({ path: "", message: `is larger than ${largestFileBytes} bytes: this cannot be a configuration` });
    return undefined;
  }
  const document = parseDocument(text, { uniqueKeys: true, prettyErrors: true });
  if (document.errors.length > 0) {
    problems.push(
      ...document.errors.map((error) => ({ path: "", message: `is not YAML: ${error.message.split("\n")[0]}` })),
    );
    return undefined;
  }
  let value: unknown;
  try {
    // The limit stops "billion laughs": few aliases that expand to gigabytes.
    value = document.toJS({ maxAliasCount: 100 });
  } catch (error) {
    problems.push({
      path: "",
      message: `is not usable YAML: ${error instanceof Error ? error.message : String(error)}`,
    });
    return undefined;
  }
  if (value === null || value === undefined) {
    return {};
  }
  if (!isRecord(value)) {
    problems.push({ path: "", message: "must be a YAML mapping with sections such as sip, redis, trunks" });
    return undefined;
  }
  return value;
}

const secretNames = /^(?:password|passwd|pass|secret|token|authorization|credentials?|accessKey|secretKey)$/i;

/** Removes what looks like a secret, so that nothing later can print it, and says where it belongs. */
function takeOutSecrets(place: unknown, path: readonly PropertyKey[]): ConfigProblem[] {
  if (Array.isArray(place)) {
    return place.flatMap((item, index) => takeOutSecrets(item, [...path, index]));
  }
  if (!isRecord(place)) {
    return [];
  }
  return Object.keys(place).flatMap((name) => {
    if (!secretNames.test(name) || isRecord(place[name])) {
      return takeOutSecrets(place[name], [...path, name]);
    }
    delete place[name];
    const [word = "password"] = ["secret", "authorization", "accessKey", "secretKey"].filter(
      (one) => one.toLowerCase() === name.toLowerCase(),
    );
    return [
      {
        path: pathText([...path, name]),
        message: `secrets never stand in the file: name a variable with ${word}Env or a file with ${word}File instead`,
      },
    ];
  });
}

/** What somebody may well look for and is not there. */
const absent: Readonly<Record<string, string>> = {
  "redis.cluster":
    "Redis Cluster is not supported: name a single Redis in `url`, or Sentinels in `sentinel`; docs/operations.md says why",
};

function explain(issue: z.core.$ZodIssue, raw: unknown): ConfigProblem[] {
  if (issue.code === "unrecognized_keys") {
    const schema = schemaAt(configSchema, issue.path, raw);
    const known = schema === undefined ? [] : keysOf(schema);
    return issue.keys.map((key) => {
      const near = nearestName(key, known);
      const path = pathText([...issue.path, key]);
      const reason = absent[path];
      if (reason !== undefined) return { path, message: reason };
      return {
        path,
        message:
          near === undefined
            ? `there is no such field: remove it, or use one of ${known.join(", ")}`
            : `there is no such field: did you mean \`${near}\`?`,
      };
    });
  }
  if (issue.code === "invalid_union") {
    // Alternatives of another kind than the value say nothing: what counts is what is wrong within the one that it has.
    const within = issue.errors.filter((errors) => errors.length > 0 && errors.every(({ path }) => path.length > 0));
    const [only] = within;
    if (only !== undefined && within.length === 1) {
      return only.flatMap((inner) => explain({ ...inner, path: [...issue.path, ...inner.path] }, raw));
    }
  }
  return [{ path: pathText(issue.path), message: messageOf(issue, raw) }];
}

/** The schema's own words where it has some; what zod says of types and bounds is said in ours. */
function messageOf(issue: z.core.$ZodIssue, raw: unknown): string {
  const { message, path } = issue;
  const value = valueAt(raw, path);
  const mustBe = (allowed: string): string => `must be ${allowed}, not ${shown(value)}`;
  const wanted = (expected: string): string => mustBe(wantedOf(expected, schemaAt(configSchema, path, raw)));
  if (issue.code === "invalid_type" && message.startsWith("Invalid input: expected")) {
    return value === undefined ? "is missing" : wanted(issue.expected);
  }
  if (/^Too (?:small|big): expected (?:number|int)/.test(message)) {
    return wanted("number");
  }
  if (issue.code === "invalid_union" && /^Invalid (?:input|discriminator value)/.test(message)) {
    const choices = "options" in issue ? issue.options : undefined;
    if (choices === undefined) return wanted("of another kind");
    const allowed = choices.map(String);
    return value === undefined ? `is missing: must be ${orList(allowed)}` : mustBe(orList(allowed));
  }
  return message.charAt(0).toLowerCase() + message.slice(1);
}

function wantedOf(expected: string, schema: z.core.$ZodType | undefined): string {
  if (schema instanceof z.ZodUnion) {
    const kinds = schema.options.map((option) => wantedOf(kindOf(option), bareSchema(option, undefined)));
    return orList([...new Set(kinds)]);
  }
  if (schema instanceof z.ZodLiteral) return orList([...schema.values].map(String));
  if (schema instanceof z.ZodNumber) {
    const { minValue, maxValue } = schema;
    const kind = schema.isInt ? "a whole number" : "a number";
    return Number.isSafeInteger(minValue) && Number.isSafeInteger(maxValue)
      ? `${kind} from ${minValue} to ${maxValue}`
      : kind;
  }
  const words: Readonly<Record<string, string>> = {
    string: "a text",
    boolean: "true or false",
    array: "a list",
    object: "a mapping of fields",
    record: "a mapping of names",
  };
  return words[expected] ?? expected;
}

function orList(words: readonly string[]): string {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} or ${words.at(-1)}`;
}

/** A value in a message: short, and no more than the kind of what has parts. */
function shown(value: unknown): string {
  if (Array.isArray(value)) return "a list";
  if (isRecord(value)) return "a mapping";
  if (typeof value === "string") return `the text ${JSON.stringify(value.slice(0, 40))}`;
  return value === null ? "nothing" : (JSON.stringify(value) ?? "nothing");
}

function valueAt(raw: unknown, path: readonly PropertyKey[]): unknown {
  return path.reduce<unknown>(
    (place, part) =>
      isRecord(place) || Array.isArray(place) ? (place as Record<PropertyKey, unknown>)[part] : undefined,
    raw,
  );
}

function withAbsolutePaths(config: z.output<typeof configSchema>, baseFolder: string): z.output<typeof configSchema> {
  const { sip, media, recording } = config;
  return {
    ...config,
    sip: {
      ...sip,
      stateFolder: resolve(baseFolder, sip.stateFolder),
      listen: sip.listen.map((listener) =>
        listener.tls === undefined ? listener : { ...listener, tls: withAbsoluteFiles(listener.tls, baseFolder) },
      ),
    },
    media: {
      ...media,
      promptFolder: resolve(baseFolder, media.promptFolder),
      cacheFolder: resolve(baseFolder, media.cacheFolder),
    },
    recording: {
      ...recording,
      folder: resolve(baseFolder, recording.folder),
      spoolFolder: resolve(baseFolder, recording.spoolFolder),
    },
  };
}

function withAbsoluteFiles<T extends { certificateFile: string; keyFile: string; caFile?: string | undefined }>(
  tls: T,
  baseFolder: string,
): T {
  const { certificateFile, keyFile, caFile } = tls;
  return {
    ...tls,
    certificateFile: resolve(baseFolder, certificateFile),
    keyFile: resolve(baseFolder, keyFile),
    ...(caFile === undefined ? {} : { caFile: resolve(baseFolder, caFile) }),
  };
}

function deepFreeze<T>(value: T): T {
  if (typeof value === "object" && value !== null && !Object.isFrozen(value)) {
    Object.freeze(value);
    for (const item of Object.values(value)) {
      deepFreeze(item);
    }
  }
  return value;
}
