import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { certificateProblems, listenerTls } from "../../src/config/certificates.ts";
import { parseConfig } from "../../src/config/load.ts";
import { ConfigError } from "../../src/config/problem.ts";
import type { Config } from "../../src/config/schema.ts";
import { Authority } from "../support/certificates.ts";
import { temporaryFolder } from "../support/folder.ts";
import type { TemporaryFolder } from "../support/folder.ts";

let folder: TemporaryFolder;

beforeAll(async () => {
  folder = await temporaryFolder("certificates");
  const authority = await Authority.create(folder.path);
  await authority.sign("good", "DNS:example.org");
  await authority.sign("other", "DNS:example.org");
  await authority.sign("old", "DNS:example.org", { days: -1 });
  writeFileSync(join(folder.path, "text.pem"), "hello\n");
});

afterAll(async () => {
  await folder[Symbol.asyncDispose]();
});

function configured(tls: Record<string, unknown>): Config {
  const file = { sip: { listen: [{ protocol: "tls", address: "127.0.0.1", tls }] } };
  const parsed = parseConfig(JSON.stringify(file), {}, folder.path);
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
  return parsed.config;
}

const good = { certificateFile: "good.pem", keyFile: "good-key.pem", caFile: "authority.pem" };

describe("the files of a TLS listener", () => {
  test("are read from the folder of the configuration", () => {
    const config = configured(good);
    expect(certificateProblems(config)).toEqual([]);
    expect(listenerTls(config, 0)).toMatchObject({
      certificate: expect.stringContaining("BEGIN CERTIFICATE") as string,
      key: expect.stringContaining("BEGIN PRIVATE KEY") as string,
      authorities: expect.stringContaining("BEGIN CERTIFICATE") as string,
      requireClientCertificate: false,
      verifyServers: true,
    });
    expect(listenerTls(config, 1)).toBeUndefined();
  });

  test.each([
    [
      "a missing certificate",
      { certificateFile: "none.pem" },
      "certificateFile",
      "cannot be read (ENOENT): put the certificate and its chain there; a relative path counts from the folder of the",
    ],
    ["a missing key", { keyFile: "none.pem" }, "keyFile", "cannot be read (ENOENT): put"],
    ["a missing authority", { caFile: "none.pem" }, "caFile", "cannot be read (ENOENT): put"],
    ["a certificate that is none", { certificateFile: "text.pem" }, "certificateFile", "holds no PEM certificate"],
    ["a key that is none", { keyFile: "text.pem" }, "keyFile", "holds no PEM private key"],
    ["authorities that are none", { caFile: "text.pem" }, "caFile", "holds no PEM certificate"],
    ["the key of another", { keyFile: "other-key.pem" }, "keyFile", "use the pair that was made together"],
    ["one that expired", { certificateFile: "old.pem", keyFile: "old-key.pem" }, "certificateFile", "renew it"],
  ])("%s is named by its field, with what to do", (_what, change, field, text) => {
    const config = configured({ ...good, ...change });
    const [problem, ...others] = certificateProblems(config);
    expect(others).toEqual([]);
    expect(problem?.path).toBe(`sip.listen[0].tls.${field}`);
    expect(problem?.message).toContain(text);
    expect(() => listenerTls(config, 0)).toThrow(ConfigError);
  });
});
