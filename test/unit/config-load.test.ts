import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { z } from "zod";

import { checkConfig, loadConfig, parseConfig } from "../../src/config/load.ts";
import { ConfigError } from "../../src/config/problem.ts";
import { promptProblems } from "../../src/config/prompts.ts";
import { configSchema, usesAnchor } from "../../src/config/schema.ts";
import type { Config } from "../../src/config/schema.ts";

const example = readFileSync(new URL("../../config/patchbay.example.yaml", import.meta.url), "utf8");

function parsed(text: string, env: Record<string, string> = {}): Config {
  const result = parseConfig(text, env, "/base");
  if (!result.ok) {
    throw new Error(JSON.stringify(result.problems));
  }
  return result.config;
}

/** Every problem as `path: message`. */
function problems(text: string, env: Record<string, string> = {}): string[] {
  return checkConfig(text, env).map(({ path, message }) => `${path}: ${message}`);
}

const trunk = `
trunks:
  - { id: a, sources: [192.0.2.1], gateways: [{ host: 192.0.2.1 }] }
`;

describe("the example file", () => {
  test("is valid, and its prompts lie in its prompt folder", () => {
    expect(checkConfig(example, {})).toEqual([]);
    expect(promptProblems(parsed(example))).toEqual([]);
  });

  test("mentions every section and every field of the schema", () => {
    const mentioned = new Set([...example.matchAll(/([A-Za-z0-9]+):/g)].map((match) => match[1]));
    const missing = fieldNames(z.toJSONSchema(configSchema, { io: "input" })).filter((name) => !mentioned.has(name));
    // Alternatives to what the example chose.
    const alternatives = [
      "url",
      "accessKeyEnv",
      "secretKeyEnv",
      "format",
      "headers",
      "authorizationEnv",
      "authorizationFile",
      "voice",
      "secretEnv",
    ];
    expect(missing.filter((name) => !alternatives.includes(name))).toEqual([]);
  });
});

function fieldNames(schema: unknown): string[] {
  if (typeof schema !== "object" || schema === null) {
    return [];
  }
  const own = "properties" in schema ? Object.keys(schema.properties as object) : [];
  return [...new Set([...own, ...Object.values(schema).flatMap((value) => fieldNames(value))])];
}

describe("FreeSWITCH as the media server", () => {
  const both = "media: { anchor: freeswitch, freeswitch: { passwordEnv: FS } }";

  test("wants a password where it is used, for all calls or those of one bot", () => {
    const path = "media.freeswitch";
    expect(problems("media: { anchor: freeswitch }")[0]).toContain(`${path}: has no password`);
    const channel = "channels: [{ botId: b, trunk: a, numbers: ['1'], mediaAnchor: freeswitch }]";
    expect(problems(`${trunk}${channel}`)[0]).toContain(`${path}: has no password`);
    expect(problems(both)).toEqual([]);
    expect(problems("media: { freeswitch: { servers: [{ host: h }] } }")).toEqual([]);
  });

  test("is used where a channel names it, or where one that names none is left to it", () => {
    const used = (text: string): readonly boolean[] =>
      (["rtpengine", "freeswitch"] as const).map((anchor) => usesAnchor(parsed(trunk + text), anchor));
    const channel = (fields: string): string => `{ botId: b, trunk: a, numbers: ['1'], ${fields} }`;
    const other = "{ botId: c, trunk: a, numbers: ['2'] }";
    expect(used("")).toEqual([true, false]);
    expect(used(`${both}\nchannels: [${channel("mediaAnchor: rtpengine")}]`)).toEqual([true, false]);
    expect(used(`${both}\nchannels: [${channel("mediaAnchor: rtpengine")}, ${other}]`)).toEqual([true, true]);
    expect(used(`${both}\nchannels: [${other}]`)).toEqual([false, true]);
  });

  test("has a port for the connections of each instance, or is told how many are too many", () => {
    const listening = (port: number): string[] =>
      problems(
        `media: { anchor: freeswitch, freeswitch: { passwordEnv: FS, servers: [{ host: a }, { host: b }, { host: c }], listen: { port: ${port} } } }`,
      );
    expect(listening(0)).toEqual([]);
    expect(listening(65_533)).toEqual([]);
    expect(listening(65_534)).toEqual([
      "media.freeswitch.listen.port: 65534 leaves no port for the last of 3 servers, each of which takes the next one: use 65533 at most, or 0 for free ones",
    ]);
  });

  test("cannot be told of folders with blanks", () => {
    expect(problems(`${both}\nrecording: { spoolFolder: 'my spool' }`)[0]).toContain(
      "recording.spoolFolder: holds a blank",
    );
  });
});

describe("defaults", () => {
  test("an empty file is a whole configuration", () => {
    const config = parsed("");
    expect(config.sip.listen).toEqual([
      { protocol: "udp", address: "127.0.0.1", port: 5060 },
      { protocol: "tcp", address: "127.0.0.1", port: 5060 },
    ]);
    expect(config.redis).toEqual({ url: "redis://127.0.0.1:6379", prefix: "pb", streamMaxLength: 10_000 });
    expect(config.media.tts).toEqual({ kind: "none" });
    expect(config.media.ringback).toEqual({ frequenciesHz: [425], onMs: 1000, offMs: 4000 });
    expect(config.admin).toEqual({ address: "127.0.0.1", port: 9080 });
  });

  test("a trunk and a channel need few lines", () => {
    const config = parsed(`${trunk}channels: [{ botId: b, trunk: a, numbers: ["100"] }]`);
    expect(config.trunks[0]).toMatchObject({
      callerId: "auto",
      supportsForeignCallerId: true,
      sipUriVia: "direct",
      refer: "fallback",
      progressTimeoutMs: 10_000,
      rules: { strip: "", prepend: "", plus: "keep" },
    });
    expect(config.channels[0]).toMatchObject({ answer: "immediately", recording: { enabled: false } });
  });

  test("every field of the schema says what it is", () => {
    const silent: string[] = [];
    const visit = (schema: Record<string, unknown>, path: string): void => {
      for (const [name, field] of Object.entries(
        (schema["properties"] ?? {}) as Record<string, Record<string, unknown>>,
      )) {
        if (typeof field["description"] !== "string") {
          silent.push(`${path}.${name}`);
        }
        visit(field, `${path}.${name}`);
      }
      for (const key of ["items", "anyOf", "oneOf"]) {
        const below = schema[key];
        for (const option of below === undefined ? [] : [below].flat()) {
          visit(option as Record<string, unknown>, path);
        }
      }
    };
    visit(z.toJSONSchema(configSchema, { io: "input" }) as Record<string, unknown>, "");
    expect(silent).toEqual([]);
  });

  test("the result is frozen to the bottom", () => {
    const config = parsed(example);
    expect(Object.isFrozen(config)).toBe(true);
    expect(Object.isFrozen(config.trunks[0]?.gateways[0])).toBe(true);
    expect(() => {
      (config.sip as { engine: string }).engine = "drachtio";
    }).toThrow(TypeError);
  });

  test("relative folders count from the file's folder, absolute ones stay", () => {
    const config = parsed("media: { promptFolder: sounds, cacheFolder: /var/cache/patchbay }");
    expect(config.media.promptFolder).toBe("/base/sounds");
    expect(config.media.cacheFolder).toBe("/var/cache/patchbay");
    expect(config.recording.spoolFolder).toBe("/base/spool");
  });
});

describe("the environment", () => {
  test.each([
    ["PATCHBAY_REDIS__URL", "redis://redis:6380", (config: Config) => config.redis.url, "redis://redis:6380"],
    ["PATCHBAY_MEDIA__CACHE_MAX_MB", "7", (config: Config) => config.media.cacheMaxMb, 7],
    ["PATCHBAY_TRUNKS__0__ASSERTED_IDENTITY", "true", (config: Config) => config.trunks[0]?.assertedIdentity, true],
    ["PATCHBAY_TRUNKS__0__GATEWAYS__0__PORT", "5070", (config: Config) => config.trunks[0]?.gateways[0]?.port, 5070],
    ["PATCHBAY_TRUNKS__0__NUMBER", "0123", (config: Config) => config.trunks[0]?.number, "0123"],
    ["PATCHBAY_TRUNKS__0__SOURCES", "[10.0.0.0/8]", (config: Config) => config.trunks[0]?.sources, ["10.0.0.0/8"]],
    ["PATCHBAY_TRUNKS__1__ID", "b", (config: Config) => config.trunks[1]?.id, "b"],
    ["PATCHBAY_MEDIA__TTS__KIND", "none", (config: Config) => config.media.tts.kind, "none"],
  ])("%s=%s overrides the file", (name, value, read, expected) => {
    const more = name === "PATCHBAY_TRUNKS__1__ID" ? { PATCHBAY_TRUNKS__1__SOURCES__0: "198.51.100.1" } : {};
    expect(read(parsed(trunk, { [name]: value, ...more }))).toEqual(expected);
  });

  test("variables of others and secrets are left alone", () => {
    expect(problems("", { PATH: "/bin", PATCHBAY_REDIS_PASSWORD: "x", OTHER__THING: "y" })).toEqual([]);
  });

  test("a misspelt one is refused with the nearest name", () => {
    expect(problems("", { PATCHBAY_REDIS__URI: "redis://x" })).toEqual([
      "PATCHBAY_REDIS__URI: there is no field `URI`: did you mean PATCHBAY_REDIS__URL?",
    ]);
    expect(problems("", { PATCHBAY_MEDIA__CASH_MAX_MB: "1" })[0]).toContain(
      "did you mean PATCHBAY_MEDIA__CACHE_MAX_MB?",
    );
    expect(problems("", { PATCHBAY_REDIS__URL__X: "1" })[0]).toContain("remove the variable");
    expect(problems(trunk, { PATCHBAY_TRUNKS__5__ID: "x" })[0]).toContain("use a position from 0 to 1");
    expect(problems(trunk, { PATCHBAY_TRUNKS__A__ID: "x" })[0]).toContain("trunks is a list with 1 entries");
  });

  test("a wrong value is judged as if it stood in the file", () => {
    expect(problems("", { PATCHBAY_ADMIN__PORT: "many" })[0]).toMatch(/^admin\.port: /);
  });
});

describe("what is refused", () => {
  test("unknown fields, with the nearest known name", () => {
    expect(problems("redis: { ulr: x }")).toEqual(["redis.ulr: there is no such field: did you mean `url`?"]);
    expect(problems("redis: { cluster: [a] }")[0]).toContain("redis.cluster: Redis Cluster is not supported");
    expect(problems("chanels: []")).toEqual(["chanels: there is no such field: did you mean `channels`?"]);
    expect(problems("trunks: [{ id: a, sources: [192.0.2.1], caller_id: bot }]")).toEqual([
      "trunks[0].caller_id: there is no such field: did you mean `callerId`?",
    ]);
    expect(problems("media: { tts: { kind: http, url: 'http://x/', comand: [x] } }")[0]).toContain("media.tts.comand");
    expect(problems("log: { colour: red }")).toEqual([
      "log.colour: there is no such field: remove it, or use one of level, showPersonal",
    ]);
  });

  test("several problems are told at once", () => {
    const found = problems("redis: { prefix: '' }\nadmin: { port: 99999 }\nlog: { level: loud }\nnonsense: 1");
    expect(found).toHaveLength(4);
    expect(found.map((line) => line.split(":")[0]).toSorted((a = "", b = "") => a.localeCompare(b))).toEqual([
      "admin.port",
      "log.level",
      "nonsense",
      "redis.prefix",
    ]);
  });

  test.each([
    ["password: x", "redis.password", "redis: { password: hunter2 }", "passwordEnv"],
    ["secret: x", "sip.drachtio.secret", "sip: { engine: drachtio, drachtio: { secret: hunter2 } }", "secretFile"],
    [
      "trunk password",
      "trunks[0].outbound.password",
      "trunks: [{ id: a, gateways: [{ host: h }], outbound: { username: u, password: hunter2, passwordEnv: P } }]",
      "passwordFile",
    ],
    [
      "authorization header",
      "media.tts.headers.Authorization",
      "media: { tts: { kind: http, url: 'https://tts.example/', headers: { Authorization: hunter2 } } }",
      "authorizationEnv",
    ],
  ])("a secret in the file (%s) is refused and never printed", (_name, path, text, fix) => {
    const found = problems(text);
    const line = found.find((problem) => problem.startsWith(`${path}: `));
    expect(line).toContain("secrets never stand in the file");
    expect(line).toContain(fix);
    expect(found.join("\n")).not.toContain("hunter2");
  });

  test("what is no YAML, no mapping or a bomb", () => {
    expect(problems("a: [1")[0]).toContain("is not YAML");
    expect(problems("redis: {}\nredis: {}")[0]).toContain("is not YAML");
    expect(problems("- 1")[0]).toContain("must be a YAML mapping");
    const bomb = [
      "a: &a [x]",
      ...Array.from({ length: 12 }, (_, i) => {
        const previous = i === 0 ? "a" : `b${i - 1}`;
        return `b${i}: &b${i} [${Array.from({ length: 9 }, () => `*${previous}`).join(",")}]`;
      }),
    ].join("\n");
    expect(problems(bomb)[0]).toContain("is not usable YAML");
  });

  test("numbers without quotes, because YAML has already changed them", () => {
    expect(problems("trunks: [{ id: a, sources: [192.0.2.1], number: 0749512 }]")[0]).toContain(
      "must be written in quotes",
    );
    expect(problems("trunks: [{ id: a, sources: [192.0.2.1], callerId: 749512 }]")[0]).toContain(
      "must be written in quotes",
    );
    expect(problems(`${trunk}channels: [{ botId: b, trunk: a, numbers: [100] }]`)[0]).toContain(
      "must be written in quotes",
    );
  });

  test("what is no address, network or host", () => {
    expect(problems("trunks: [{ id: a, sources: [192.0.2.0/33] }]")[0]).toContain(
      "trunks[0].sources[0]: must be an IP",
    );
    expect(problems("trunks: [{ id: a, gateways: [{ host: 'a b' }] }]")[0]).toContain("trunks[0].gateways[0].host");
    expect(problems("sip: { listen: [{ protocol: udp, address: localhost }] }")[0]).toContain("must be an IP address");
    const channel = (host: string): string =>
      `channels: [{ botId: b, trunk: a, destinations: { sipHosts: ['${host}'] } }]`;
    expect(problems(channel("sip:192.0.2.1"))[0]).toContain("without `sip:`");
    expect(problems(channel("pbx.example:70000"))[0]).toContain("sipHosts[0]");
    expect(problems(channel("192.0.2.999:5060"))[0]).toContain("four numbers from 0 to 255");
    for (const good of ["2001:db8::1", "[2001:db8::1]:7000", "*.example.org", "192.0.2.9:*", "pbx1:5070"]) {
      expect(problems(`${trunk}${channel(good)}`)).toEqual([]);
    }
  });

  test.each([
    ["192.0.2.999", "looks like an IP address and is none: that is four numbers from 0 to 255, such as 192.0.2.20"],
    ["2130706433", "looks like an IP address"],
    ["0x7f.1", "looks like an IP address"],
    ["192.0.2.1:5060", "holds a port: write 192.0.2.1 here, and `port: 5060` beside it"],
    ["sip.example.org:5070", "holds a port: write sip.example.org here, and `port: 5070` beside it"],
    ["[2001:db8::1]:5060", "holds a port: write 2001:db8::1 here"],
    ["[2001:db8::1]", "must be an IPv6 address without brackets"],
    ["sip:pbx.example", "must be the host alone, without `sip:`"],
    ["a b", "must be an IP address or a host name, such as"],
    ["", "must be an IP address or a host name"],
  ])("a gateway's host %j", (host, says) => {
    const [found, ...others] = problems(`trunks: [{ id: a, gateways: [{ host: ${JSON.stringify(host)} }] }]`);
    expect(found).toContain(`trunks[0].gateways[0].host: ${says}`);
    expect(others).toEqual([]);
  });

  test.each(["192.0.2.1", "2001:db8::1", "pbx", "gw-1.example.org", "sip2", "1.example"])("%s is a host", (host) => {
    expect(problems(`trunks: [{ id: a, gateways: [{ host: "${host}" }] }]`)).toEqual([]);
  });

  test.each([
    ["port: abc", 'port: must be a whole number from 1 to 65535, not the text "abc"'],
    ["port: 70000", "port: must be a whole number from 1 to 65535, not 70000"],
    ["port: 5060.5", "port: must be a whole number from 1 to 65535, not 5060.5"],
    ["port: [1]", "port: must be a whole number from 1 to 65535, not a list"],
    ["port: null", "port: must be a whole number from 1 to 65535, not nothing"],
    ["id: true", "id: must be a text, not true"],
  ])("a gateway with %s", (field, says) => {
    expect(problems(`trunks: [{ id: a, gateways: [{ host: h, ${field} }] }]`)).toEqual([
      `trunks[0].gateways[0].${says}`,
    ]);
  });

  test.each([
    [
      "media: { talkTimeoutMs: soon }",
      'media.talkTimeoutMs: must be 0 or a whole number from 2000 to 3600000, not the text "soon"',
    ],
    ["media: { talkTimeoutMs: 100 }", "media.talkTimeoutMs: must be 0 or a whole number from 2000 to 3600000, not 100"],
    [
      "media: { talkTimeoutMs: 2000.5 }",
      "media.talkTimeoutMs: must be 0 or a whole number from 2000 to 3600000, not 2000.5",
    ],
    [
      "trunks: [{ id: a, qualifyMs: {} }]",
      "trunks[0].qualifyMs: must be 0 or a whole number from 1000 to 3600000, not a mapping",
    ],
    ["media: { fetch: { hosts: all } }", 'media.fetch.hosts: must be any or a list, not the text "all"'],
    ["media: { fetch: { hosts: [a.example, 7] } }", "media.fetch.hosts[1]: must be a text, not 7"],
    ["engine: { sources: true }", "engine.sources: must be any or a list, not true"],
    ["engine: { sources: [192.0.2.1, [1]] }", "engine.sources[1]: must be a text, not a list"],
    ["engine: { sources: [here] }", "engine.sources[0]: must be an IP address or a network such as 192.0.2.0/24"],
    ["media: { tts: { kind: spoken } }", 'media.tts.kind: must be none, command or http, not the text "spoken"'],
    ["media: { tts: {} }", "media.tts.kind: is missing: must be none, command or http"],
    ["media: { tts: espeak }", 'media.tts: must be a mapping of fields, not the text "espeak"'],
    ["trunks: [{ id: a, callerId: me }]", "trunks[0].callerId: must be auto, caller, bot or a number in quotes"],
  ])("a field that may be of several kinds: %s", (text, says) => {
    expect(problems(text)).toEqual([says]);
  });

  test("what is left out or of another kind altogether", () => {
    expect(problems("trunks: [{ id: a, gateways: [{ port: 5060 }] }]")).toEqual([
      "trunks[0].gateways[0].host: is missing",
    ]);
    expect(problems("trunks: { id: a }")).toEqual(["trunks: must be a list, not a mapping"]);
    expect(problems("media: { ringback: { frequenciesHz: [50] } }")).toEqual([
      "media.ringback.frequenciesHz[0]: must be a number from 100 to 3400, not 50",
    ]);
  });

  test("prompts of a channel that lie elsewhere than in the prompt folder", () => {
    const of = (fields: string): string[] =>
      promptProblems(
        parsed(`${trunk}channels: [{ botId: b, trunk: a, ${fields} }]\nmedia: { promptFolder: sounds }`),
      ).map(({ path, message }) => `${path}: ${message}`);
    expect(
      of("sounds: { ringbackUrl: 'file:///base/sounds/in/ring.wav', holdUrl: 'https://x.example/a.wav' }"),
    ).toEqual([]);
    const found = of("fallback: { audioUrl: 'file:///prompts/sorry.wav', goodbyeUrl: 'file:///base/sounds/../x.wav' }");
    expect(found).toHaveLength(2);
    expect(found[0]).toContain("channels[0].fallback.audioUrl: names /prompts/sorry.wav, which is not in");
    expect(found[0]).toContain("`media.promptFolder`, /base/sounds");
    expect(found[1]).toContain("channels[0].fallback.goodbyeUrl: names /base/x.wav");
  });
});

describe("contradictions name the field and the fix", () => {
  test.each<[name: string, text: string, path: string, says: string[]]>([
    ["drachtio without its place", "sip: { engine: drachtio }", "sip.drachtio", ["add host, port and secretEnv"]],
    [
      "drachtio without a secret",
      "sip: { engine: drachtio, drachtio: {} }",
      "sip.drachtio",
      ["add secretEnv or secretFile"],
    ],
    [
      "drachtio with two secrets",
      "sip: { engine: drachtio, drachtio: { secretEnv: A, secretFile: b } }",
      "sip.drachtio",
      ["keep one of them"],
    ],
    [
      "drachtio beside the embedded engine",
      "sip: { drachtio: { secretEnv: A } }",
      "sip.drachtio",
      ["set `sip.engine` to separate or drachtio"],
    ],
    [
      "listening everywhere without an address to show",
      "sip: { listen: [{ protocol: udp, address: 0.0.0.0 }] }",
      "sip.listen[0].address",
      ["set `sip.externalAddress`"],
    ],
    [
      "a TLS listener without certificate",
      "sip: { listen: [{ protocol: tls, address: 127.0.0.1 }] }",
      "sip.listen[0].tls",
      ["`certificateFile`"],
    ],
    [
      "a certificate where there is no TLS",
      "sip: { listen: [{ protocol: tcp, address: 127.0.0.1, tls: { certificateFile: a, keyFile: b } }] }",
      "sip.listen[0].tls",
      ["set `protocol` to tls"],
    ],
    [
      "client certificates of anybody",
      "sip: { listen: [{ protocol: tls, address: 127.0.0.1, tls: { certificateFile: a, keyFile: b, requireClientCertificate: true } }] }",
      "sip.listen[0].tls.caFile",
      ["name your own"],
    ],
    [
      "a TLS gateway without a TLS listener",
      "trunks: [{ id: a, gateways: [{ host: 192.0.2.1, transport: tls }] }]",
      "trunks[0].gateways[0].transport",
      ["protocol: tls"],
    ],
    [
      "one listener twice",
      "sip: { listen: [{ protocol: udp, address: 127.0.0.1 }, { protocol: udp, address: 127.0.0.1 }] }",
      "sip.listen[1]",
      ["remove one"],
    ],
    ["a password in the Redis URL", "redis: { url: 'redis://:hunter2@h' }", "redis.url", ["redis.passwordEnv"]],
    [
      "two passwords of the Sentinels",
      "redis: { sentinel: { nodes: [{ host: a }], passwordEnv: A, passwordFile: b } }",
      "redis.sentinel",
      ["passwordEnv", "passwordFile"],
    ],
    ["a URL that is none", "redis: { url: localhost }", "redis.url", ["redis://127.0.0.1:6379"]],
    ["two Redis passwords", "redis: { passwordEnv: A, passwordFile: b }", "redis", ["keep one of them"]],
    [
      "a spool in the recordings",
      "recording: { folder: r, spoolFolder: r }",
      "recording.spoolFolder",
      ["folder of its own"],
    ],
    [
      "a storage that is no URL",
      "recording: { upload: { endpoint: s3.example, bucket: calls, accessKeyEnv: A, secretKeyEnv: B } }",
      "recording.upload.endpoint",
      ["https://"],
    ],
    [
      "a bucket in the storage's URL",
      "recording: { upload: { endpoint: 'https://s3.example/calls', bucket: calls, accessKeyEnv: A, secretKeyEnv: B } }",
      "recording.upload.endpoint",
      ["`bucket`"],
    ],
    [
      "a name and password in the storage's URL",
      "recording: { upload: { endpoint: 'https://a:b@s3.example', bucket: calls, accessKeyEnv: A, secretKeyEnv: B } }",
      "recording.upload.endpoint",
      ["`secretKeyFile`"],
    ],
    [
      "a bucket before an IP address",
      "recording: { upload: { endpoint: 'http://192.0.2.1:9000', bucket: calls, pathStyle: false, accessKeyEnv: A, secretKeyEnv: B } }",
      "recording.upload.pathStyle",
      ["IP address"],
    ],
    [
      "a bucket with an empty label",
      "recording: { upload: { endpoint: 'https://s3.example', bucket: a..b, accessKeyEnv: A, secretKeyEnv: B } }",
      "recording.upload.bucket",
      ["name of a bucket"],
    ],
    [
      "a storage without a secret key",
      "recording: { upload: { endpoint: 'https://s3.example', bucket: calls, accessKeyEnv: A } }",
      "recording.upload",
      ["secretKeyEnv or secretKeyFile"],
    ],
    [
      "two authorizations for text-to-speech",
      "media: { tts: { kind: http, url: 'https://t/', authorizationEnv: A, authorizationFile: b } }",
      "media.tts",
      ["keep one of them"],
    ],
    [
      "a text-to-speech command with an unknown placeholder",
      "media: { tts: { kind: command, command: [espeak-ng, '{language}'] } }",
      "media.tts.command[1]",
      ["{language}", "use one of {text}, {lang}"],
    ],
    [
      "a trunk that registers nowhere",
      "trunks: [{ id: a, sources: [192.0.2.1], register: true, number: '7' }]",
      "trunks[0].register",
      ["add the registrar as a gateway"],
    ],
    [
      "a trunk that registers as nobody",
      "trunks: [{ id: a, gateways: [{ host: sip.example }], register: true }]",
      "trunks[0].register",
      ["as whom", "add `outbound` credentials"],
    ],
    ["a trunk nobody can use", "trunks: [{ id: a }]", "trunks[0]", ["add one of them"]],
    [
      "inbound credentials without a password",
      "trunks: [{ id: a, inbound: { username: u } }]",
      "trunks[0].inbound",
      ["add passwordEnv or passwordFile"],
    ],
    [
      "outbound credentials without a gateway",
      "trunks: [{ id: a, sources: [192.0.2.1], outbound: { username: u, passwordEnv: P } }]",
      "trunks[0].outbound",
      ["add a gateway"],
    ],
    [
      "a trunk id twice",
      "trunks: [{ id: a, sources: [192.0.2.1] }, { id: a, sources: [192.0.2.2] }]",
      "trunks[1].id",
      ["exists already at trunks[0].id", "another name"],
    ],
    [
      "a gateway id twice, also where one is a default",
      "trunks: [{ id: a, gateways: [{ host: h }] }, { id: b, gateways: [{ id: a-1, host: h }] }]",
      "trunks[1].gateways[0].id",
      ["exists already at trunks[0].gateways[0].id"],
    ],
    [
      "one source in two trunks",
      "trunks: [{ id: a, sources: [192.0.2.0/24] }, { id: b, sources: [192.0.2.9/24] }]",
      "trunks[1].sources[0]",
      ["overlaps with 192.0.2.0/24 of trunk a", "remove one"],
    ],
    [
      "one source twice",
      "trunks: [{ id: a, sources: [192.0.2.1, 192.0.2.1/32] }]",
      "trunks[0].sources[1]",
      ["remove one"],
    ],
    [
      "callers from anywhere with different realms",
      "trunks: [{ id: a, inbound: { username: u, passwordEnv: A } }, { id: b, inbound: { username: v, passwordEnv: B, realm: other } }]",
      "trunks[1].inbound.realm",
      ["use the same, or add sources"],
    ],
    [
      "callers from anywhere with one name",
      "trunks: [{ id: a, inbound: { username: u, passwordEnv: A } }, { id: b, inbound: { username: u, passwordEnv: B } }]",
      "trunks[1].inbound.username",
      ["another user name"],
    ],
    [
      "a channel on no trunk",
      "channels: [{ botId: b, trunk: nowhere }]",
      "channels[0].trunk",
      ["there is no trunk nowhere", "add it under trunks"],
    ],
    [
      "a channel on an unknown trunk names those that exist",
      `${trunk}channels: [{ botId: b, trunk: aa }]`,
      "channels[0].trunk",
      ["use one of a, or add it"],
    ],
    [
      "a trunk without gateways that transfers must use",
      "trunks: [{ id: a, sources: [192.0.2.1] }]\nchannels: [{ botId: b, trunk: a }]",
      "channels[0].trunk",
      ["has no gateways", "add a gateway"],
    ],
    [
      "numbers nobody can call",
      "trunks: [{ id: a, gateways: [{ host: h }] }]\nchannels: [{ botId: b, trunk: a, numbers: ['1'] }]",
      "channels[0].numbers",
      ["nobody can call these numbers", "add one of them to the trunk"],
    ],
    [
      "a bot with two channels",
      `${trunk}channels: [{ botId: b, trunk: a }, { botId: b, trunk: a }]`,
      "channels[1].botId",
      ["merge them"],
    ],
    [
      "one number claimed by two channels",
      `${trunk}channels: [{ botId: b, trunk: a, numbers: ["+100"] }, { botId: c, trunk: a, numbers: ["100"] }]`,
      "channels[1].numbers[0]",
      ["claimed already at channels[0].numbers[0]", "remove it"],
    ],
  ])("%s", (_name, text, path, says) => {
    const found = checkConfig(text, {});
    const problem = found.find((candidate) => candidate.path === path);
    expect(found.map((candidate) => candidate.path)).toContain(path);
    for (const phrase of says) {
      expect(problem?.message).toContain(phrase);
    }
    expect(JSON.stringify(found)).not.toContain("hunter2");
  });

  test("a smaller network inside another trunk's larger one is no contradiction: it wins", () => {
    expect(problems("trunks: [{ id: a, sources: [10.0.0.0/8] }, { id: b, sources: [10.1.0.0/16] }]")).toEqual([]);
  });

  test("the same number on two trunks is no contradiction", () => {
    const text = `
trunks:
  - { id: a, sources: [192.0.2.1], gateways: [{ host: h }] }
  - { id: b, sources: [192.0.2.2], gateways: [{ host: h }] }
channels: [{ botId: x, trunk: a, numbers: ["1"] }, { botId: y, trunk: b, numbers: ["1"] }]`;
    expect(problems(text)).toEqual([]);
  });
});

describe("loadConfig", () => {
  let folder = "";

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), "config-"));
  });

  afterEach(() => {
    rmSync(folder, { recursive: true });
  });

  test("reads a file", () => {
    const file = join(folder, "patchbay.yaml");
    writeFileSync(file, "recording: { folder: rec }");
    expect(loadConfig(file, {}).recording.folder).toBe(join(folder, "rec"));
  });

  test("throws one error with all problems", () => {
    const file = join(folder, "patchbay.yaml");
    writeFileSync(file, "a: 1\nb: 2");
    expect(() => loadConfig(file, {})).toThrow(ConfigError);
    try {
      loadConfig(file, {});
    } catch (error) {
      expect((error as ConfigError).code).toBe("config_invalid");
      expect((error as ConfigError).problems).toHaveLength(2);
      expect((error as ConfigError).message).toContain("  a: there is no such field");
    }
    expect(() => loadConfig(join(folder, "none.yaml"), {})).toThrow(/cannot be read: ENOENT/);
  });
});
