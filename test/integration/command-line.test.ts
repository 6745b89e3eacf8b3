// What `patchbay` says to wrong arguments and files, and its exit status: the newcomer's first minutes.
import { execFile } from "node:child_process";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { temporaryFolder } from "../support/folder.ts";

const projectFolder = fileURLToPath(new URL("../..", import.meta.url));

interface Said {
  readonly status: number;
  readonly output: string;
  readonly errors: string;
}

/** Runs the program to its end, with `env` on top of an environment without settings of Patchbay. */
function patchbay(...args: readonly string[]): Promise<Said> {
  return new Promise((resolve, reject) => {
    const command = ["--import", "tsx", "src/main.ts", ...args];
    execFile("node", command, { cwd: projectFolder, timeout: 60_000 }, (error, output, errors) => {
      const status = error === null ? 0 : error.code;
      if (typeof status === "number") resolve({ status, output, errors });
      else reject(error ?? new Error("no exit status"));
    });
  });
}

const tlsListener = (certificateFile: string): object => ({
  listen: [{ protocol: "tls", address: "127.0.0.1", tls: { certificateFile, keyFile: "key.pem" } }],
});

test("wrong arguments are named before the usage, with status 2", async () => {
  const cases: readonly (readonly [args: readonly string[], says: string])[] = [
    [["chekc-config", "x.yaml"], "there is no command chekc-config: did you mean check-config?"],
    [["serve"], "there is no command serve"],
    [["--confg", "x.yaml"], "there is no option --confg: did you mean --config?"],
    [["check-config"], "check-config needs other arguments"],
    [[], "say what is to be done"],
    [["explain", "x.json"], "explain needs --channel BOT and one SWITCH.json"],
  ];
  for (const [args, says] of cases) {
    const { status, output, errors } = await patchbay(...args);
    expect([status, output]).toEqual([2, ""]);
    expect(errors.split("\n")[0]).toBe(`patchbay: ${says}`);
    expect(errors).toContain("Usage:");
  }
}, 120_000);

test("check-config: 0 for a good file, 2 for a bad one, 1 where only its secrets are missing", async () => {
  await using folder = await temporaryFolder("command-line");
  const file = join(folder.path, "patchbay.yaml");
  const check = async (config: object): Promise<Said> => {
    await writeFile(file, JSON.stringify(config));
    return await patchbay("check-config", file);
  };
  expect(await check({})).toEqual({ status: 0, output: `${file}: no problems\n`, errors: "" });
  const secret = await check({ redis: { passwordFile: "redis.secret" } });
  expect([secret.status, secret.errors]).toEqual([1, ""]);
  expect(secret.output).toContain("The service cannot start here, because secrets are missing");
  expect(secret.output).toContain(`redis.passwordFile: the file ${join(folder.path, "redis.secret")} cannot be read`);
  await writeFile(join(folder.path, "redis.secret"), "x\n");
  expect((await check({ redis: { passwordFile: "redis.secret" } })).status).toBe(0);
  const certificate = await check({ sip: tlsListener("tls/none.pem") });
  expect([certificate.status, certificate.output]).toEqual([2, ""]);
  expect(certificate.errors).toContain(
    `sip.listen[0].tls.certificateFile: the file ${join(folder.path, "tls/none.pem")} cannot be read (ENOENT)`,
  );
  expect(certificate.errors).toContain("a relative path counts from the folder of the configuration file");
  const gateway = { host: "192.0.2.999", port: "abc" };
  const several = await check({ trunks: [{ id: "a", gateways: [gateway] }] });
  expect(several.status).toBe(2);
  expect(several.errors).toContain("trunks[0].gateways[0].host: looks like an IP address and is none");
  expect(several.errors).toContain("trunks[0].gateways[0].port: must be a whole number from 1 to 65535");
}, 120_000);
