// There is no container runtime in the tests, so the files are read instead: every path, port and variable they name has
// to exist on the other side, where a spelling mistake would show only on somebody's server.
import { existsSync, readFileSync } from "node:fs";
import { join, posix } from "node:path";
import { describe, expect, test } from "vitest";
import { parse } from "yaml";
import { type ParsedConfig, parseConfig } from "../../src/config/load.ts";

const root = join(import.meta.dirname, "../..");
const read = (path: string): string => readFileSync(join(root, path), "utf8");

interface Instruction {
  readonly word: string;
  readonly text: string;
}

/** The instructions of a Dockerfile, one per logical line, comments left out. */
function instructionsOf(path: string): readonly Instruction[] {
  return read(path)
    .replaceAll(/^\s*#.*\n/gm, "")
    .replaceAll(/\\\n/g, " ")
    .split("\n")
    .filter((line) => line.trim() !== "")
    .map((line) => {
      const [word = "", ...rest] = line.trim().split(/\s+/);
      return { word: word.toUpperCase(), text: rest.join(" ") };
    });
}

/** The words of an instruction in its JSON form. */
const wordsOf = (instructions: readonly Instruction[], word: string): readonly string[] =>
  JSON.parse(instructions.findLast((instruction) => instruction.word === word)?.text ?? "[]") as string[];

interface Service {
  readonly build?: string;
  readonly image?: string;
  readonly command?: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  readonly volumes?: readonly string[];
  readonly secrets?: readonly string[];
  readonly depends_on?: readonly string[];
  readonly network_mode?: string;
}
interface Compose {
  readonly services: Readonly<Record<string, Service>>;
  readonly secrets: Readonly<Record<string, { readonly file: string }>>;
  readonly volumes: Readonly<Record<string, unknown>>;
}

const dockerfile = instructionsOf("Dockerfile");
const compose = parse(read("docker-compose.yml")) as Compose;
const services = Object.entries(compose.services);
const mounts = (name: string): ReadonlyMap<string, string> =>
  new Map(
    (compose.services[name]?.volumes ?? []).map((volume) => [volume.split(":")[1] ?? "", volume.split(":")[0] ?? ""]),
  );
const publicAddress = "203.0.113.5";
/** What compose puts in for `${NAME:?message}`. */
const filledIn = (value: string): string => value.replaceAll(/\$\{PATCHBAY_PUBLIC_ADDRESS:\?[^}]*\}/g, publicAddress);
const environment = Object.fromEntries(
  Object.entries(compose.services["patchbay"]?.environment ?? {}).map(([name, value]) => [name, filledIn(value)]),
);

function configuration(): Extract<ParsedConfig, { readonly ok: true }>["config"] {
  const parsed = parseConfig(read("docker/patchbay.yaml"), environment, "/etc/patchbay");
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
  return parsed.config;
}

describe("Dockerfile", () => {
  test("copies only files that exist and that .dockerignore lets through", () => {
    const allowed = read(".dockerignore")
      .split("\n")
      .filter((line) => line.startsWith("!"))
      .map((line) => line.slice(1));
    const copied = dockerfile
      .filter(({ word, text }) => word === "COPY" && !text.startsWith("--from="))
      .flatMap(({ text }) => text.split(" ").slice(0, -1));
    expect(copied.length).toBeGreaterThan(5);
    expect(copied.filter((path) => !existsSync(join(root, path)))).toEqual([]);
    expect(copied.filter((path) => !allowed.includes(path.replace(/^\.\//, "")))).toEqual([]);
    expect(allowed.filter((path) => !existsSync(join(root, path)))).toEqual([]);
  });

  test("runs scripts that package.json has", () => {
    const { scripts } = JSON.parse(read("package.json")) as { scripts: Record<string, string> };
    const named = dockerfile.flatMap(({ text }) =>
      [...text.matchAll(/npm run ([\w:-]+)/g)].map((match) => match[1] ?? ""),
    );
    expect(named).toContain("build");
    expect(named.filter((name) => !(name in scripts))).toEqual([]);
  });

  test("starts what the build makes of src/main.ts, as another user than root, ended by SIGTERM", () => {
    const entry = wordsOf(dockerfile, "ENTRYPOINT");
    const { compilerOptions } = JSON.parse(read("tsconfig.build.json")) as {
      compilerOptions: { rootDir: string; outDir: string };
    };
    const program = entry.find((word) => word.endsWith(".js"));
    expect(program).toBe(posix.join(compilerOptions.outDir, "main.js"));
    expect(existsSync(join(root, compilerOptions.rootDir, "main.ts"))).toBe(true);
    expect(entry.at(-1)).toBe("--config");
    expect(read("src/main.ts")).toContain('"--config"');
    expect(dockerfile.findLast(({ word }) => word === "USER")?.text).toBe("node");
    expect(dockerfile.find(({ word }) => word === "STOPSIGNAL")?.text).toBe("SIGTERM");
  });

  test("asks for its health where the status page is", () => {
    const check = dockerfile.find(({ word }) => word === "HEALTHCHECK")?.text ?? "";
    const url = /http:\/\/127\.0\.0\.1:(\d+)(\/\w+)/.exec(check);
    expect(Number(url?.[1])).toBe(configuration().admin.port);
    expect(read("src/admin/http.ts")).toContain(`"${url?.[2]}"`);
  });

  test("installs the program that speaks, and makes every folder that the service writes to", () => {
    const { media, recording } = configuration();
    const all = dockerfile.map(({ text }) => text).join("\n");
    const [program = "none"] = media.tts.kind === "command" ? media.tts.command : [];
    expect(all).toMatch(new RegExp(`install [^&]*\\b${program}\\b`));
    for (const folder of [media.promptFolder, media.cacheFolder, recording.folder, recording.spoolFolder])
      expect(all).toContain(folder);
  });
});

describe("docker-compose.yml", () => {
  test("builds from folders with a Dockerfile, and mounts files that exist", () => {
    const builds = services.map(([, service]) => service.build).filter((path) => path !== undefined);
    expect(builds.filter((path) => !existsSync(join(root, path, "Dockerfile")))).toEqual([]);
    const sources = services.flatMap(([name]) => [...mounts(name).values()]);
    const paths = sources.filter((source) => source.startsWith("."));
    expect(paths.length).toBeGreaterThan(2);
    expect(paths.filter((path) => !existsSync(join(root, path)))).toEqual([]);
    const volumes = sources.filter((source) => !source.startsWith("."));
    expect(new Set(volumes)).toEqual(new Set(Object.keys(compose.volumes)));
  });

  test("waits for services and hands out secrets that are declared, and git ignores the secrets", () => {
    const named = services.flatMap(([, service]) => service.depends_on ?? []);
    expect(named.filter((name) => !(name in compose.services))).toEqual([]);
    const used = new Set(services.flatMap(([, service]) => service.secrets ?? []));
    expect(used).toEqual(new Set(Object.keys(compose.secrets)));
    const ignored = read(".gitignore").split("\n");
    for (const { file } of Object.values(compose.secrets)) expect(ignored).toContain(`/${posix.dirname(file)}/`);
  });

  test("gives Patchbay a configuration that it accepts, where its image looks for it", () => {
    expect(mounts("patchbay").get(wordsOf(dockerfile, "CMD")[0] ?? "")).toBe("./docker/patchbay.yaml");
    const { sip, redis } = configuration();
    expect(sip.externalAddress).toBe(publicAddress);
    expect(posix.dirname(redis.passwordFile ?? "")).toBe("/run/secrets");
    expect(compose.services["patchbay"]?.secrets).toContain(posix.basename(redis.passwordFile ?? ""));
  });

  test("every variable names a field of the configuration", () => {
    const names = Object.keys(environment);
    expect(names.length).toBeGreaterThan(0);
    // A misspelt one is a problem of the loader, which is what this asks.
    const misspelt = { ...environment, PATCHBAY_SIP__EXTERNAL_ADRESS: publicAddress };
    expect(parseConfig(read("docker/patchbay.yaml"), misspelt, "/etc/patchbay").ok).toBe(false);
    expect(parseConfig(read("docker/patchbay.yaml"), environment, "/etc/patchbay").ok).toBe(true);
  });

  test("starts rtpengine with the ports and folders that Patchbay's configuration says", () => {
    const { media, recording } = configuration();
    const flags = new Map(
      (compose.services["rtpengine"]?.command ?? []).map((flag) => flag.split("=") as [string, string]),
    );
    const [instance] = media.rtpengine;
    expect(flags.get("--listen-ng")).toBe(`${instance?.host}:${instance?.port}`);
    expect(flags.get("--dtmf-log-dest")).toBe(`${media.dtmf.address}:${media.dtmf.port}`);
    expect(flags.get("--recording-dir")).toBe(recording.spoolFolder);
    for (const folder of [media.promptFolder, media.cacheFolder, recording.spoolFolder]) {
      expect(mounts("rtpengine").get(folder), folder).toBe(mounts("patchbay").get(folder));
    }
    expect(instructionsOf("docker/rtpengine/Dockerfile").map(({ word }) => word)).toEqual(
      expect.arrayContaining(["USER", "ENTRYPOINT"]),
    );
  });

  test("binds Redis, the ng port and the status page to loopback, and keeps Redis's data in an append-only file", () => {
    const { redis, admin } = configuration();
    const script = read(mounts("redis").get((compose.services["redis"]?.command ?? [])[1] ?? "") ?? "");
    expect(script).toMatch(/^bind 127\.0\.0\.1$/m);
    expect(script).toMatch(/^appendonly yes$/m);
    expect(script).toContain(`port ${new URL(redis.url).port}`);
    expect([new URL(redis.url).hostname, admin.address]).toEqual(["127.0.0.1", "127.0.0.1"]);
    expect(services.map(([, service]) => service.network_mode)).toEqual(["host", "host", "host"]);
  });
});
