import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { inspect } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { parseConfig } from "../../src/config/load.ts";
import { ConfigError } from "../../src/config/problem.ts";
import type { Config } from "../../src/config/schema.ts";
import { loadSecrets } from "../../src/config/secrets.ts";

const text = `
redis: { passwordEnv: PATCHBAY_REDIS_PASSWORD }
sip: { engine: drachtio, drachtio: { secretFile: drachtio.txt } }
recording:
  upload: { endpoint: "https://s3.example", bucket: calls, accessKeyEnv: S3_ID, secretKeyFile: s3.txt }
media: { tts: { kind: http, url: "https://tts.example/", authorizationEnv: TTS_KEY } }
trunks:
  - id: a
    gateways: [{ host: h }]
    inbound: { username: in, passwordFile: in.txt }
    outbound: { username: out, passwordEnv: OUT }
`;

function config(): Config {
  const parsed = parseConfig(text, {}, ".");
  if (!parsed.ok) {
    throw new Error(JSON.stringify(parsed.problems));
  }
  return parsed.config;
}

let folder = "";

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "secrets-"));
  writeFileSync(join(folder, "drachtio.txt"), "cymru\n");
  writeFileSync(join(folder, "in.txt"), "sesame ");
  writeFileSync(join(folder, "s3.txt"), "s3-secr3t\n");
});

afterAll(() => {
  rmSync(folder, { recursive: true });
});

const env = { PATCHBAY_REDIS_PASSWORD: "r3dis", TTS_KEY: "Bearer k", OUT: "o-t", S3_ID: "s3-id" };

describe("secrets", () => {
  test("come from variables and files, keyed by what they belong to", () => {
    const secrets = loadSecrets(config(), env, folder);
    expect(secrets.get("redis")).toBe("r3dis");
    expect(secrets.get("sip.drachtio")).toBe("cymru");
    expect(secrets.get("media.tts")).toBe("Bearer k");
    expect(secrets.get("recording.upload.accessKey")).toBe("s3-id");
    expect(secrets.get("recording.upload.secretKey")).toBe("s3-secr3t");
    // Only the line end goes; blanks may be part of a password.
    expect(secrets.get("trunk:a:inbound")).toBe("sesame ");
    expect(secrets.get("trunk:a:outbound")).toBe("o-t");
    expect(secrets.get("trunk:b:inbound")).toBeUndefined();
  });

  test("are printed by nothing", () => {
    const secrets = loadSecrets(config(), env, folder);
    for (const printed of [
      JSON.stringify({ secrets }),
      inspect({ secrets }, { depth: 9, showHidden: true }),
      secrets.toString(),
    ]) {
      expect(printed).toContain("[secrets]");
      expect(printed).not.toMatch(/r3dis|cymru|sesame|Bearer|o-t|s3-/);
    }
  });

  test("that are missing are named all at once, with what to do", () => {
    try {
      loadSecrets(config(), {}, "/nowhere");
      expect.unreachable();
    } catch (error) {
      expect(error).toBeInstanceOf(ConfigError);
      const lines = (error as ConfigError).problems.map(({ path, message }) => `${path}: ${message}`);
      expect(lines).toEqual([
        "redis.passwordEnv: the environment variable PATCHBAY_REDIS_PASSWORD is not set: set it, or use passwordFile",
        "sip.drachtio.secretFile: the file /nowhere/drachtio.txt cannot be read (ENOENT): create it, readable for this user only; a relative path counts from the folder of the configuration file",
        "media.tts.authorizationEnv: the environment variable TTS_KEY is not set: set it, or use authorizationFile",
        "recording.upload.accessKeyEnv: the environment variable S3_ID is not set: set it, or use accessKeyFile",
        "recording.upload.secretKeyFile: the file /nowhere/s3.txt cannot be read (ENOENT): create it, readable for this user only; a relative path counts from the folder of the configuration file",
        "trunks[0].inbound.passwordFile: the file /nowhere/in.txt cannot be read (ENOENT): create it, readable for this user only; a relative path counts from the folder of the configuration file",
        "trunks[0].outbound.passwordEnv: the environment variable OUT is not set: set it, or use passwordFile",
      ]);
    }
  });

  test("that are empty or have several lines are refused without being shown", () => {
    expect(() => loadSecrets(config(), { ...env, OUT: "" }, folder)).toThrow(/environment variable OUT is empty/);
    expect(() => loadSecrets(config(), { ...env, OUT: "a\r\nX-Evil: 1" }, folder)).toThrow(/more than one line/);
    expect(() => loadSecrets(config(), { ...env, OUT: "a\r\nX-Evil: 1" }, folder)).not.toThrow(/Evil/);
  });
});
