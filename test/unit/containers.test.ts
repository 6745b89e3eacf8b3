// There is no container runtime in the tests, so the files are read instead: every path, port, variable, profile, secret
// and image they name has to exist on the other side, where a spelling mistake would show only on somebody's server.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, posix, relative } from "node:path";
import { describe, expect, test } from "vitest";
import { parse } from "yaml";
import { type ParsedConfig, parseConfig } from "../../src/config/load.ts";
import { temporaryFolder } from "../support/folder.ts";

const root = join(import.meta.dirname, "../..");
const read = (path: string): string => readFileSync(join(root, path), "utf8");

interface Instruction {
  readonly word: string;
  readonly text: string;
  /** The stage it belongs to: the name behind AS, or "" for the last one. */
  readonly stage: string;
}

/** The instructions of a Dockerfile, one per logical line, comments left out. */
function instructionsOf(path: string): readonly Instruction[] {
  let stage = "";
  return read(path)
    .replaceAll(/^\s*#.*\n/gm, "")
    .replaceAll(/\\\n/g, " ")
    .split("\n")
    .filter((line) => line.trim() !== "")
    .map((line) => {
      const [word = "", ...rest] = line.trim().split(/\s+/);
      const text = rest.join(" ");
      if (word.toUpperCase() === "FROM") stage = / AS (\S+)$/i.exec(text)?.[1] ?? "";
      return { word: word.toUpperCase(), text, stage };
    });
}

const dockerfile = instructionsOf("Dockerfile");
const ofStage = (stage: string): readonly Instruction[] => dockerfile.filter((line) => line.stage === stage);
const stages = new Set(dockerfile.map(({ stage }) => stage));

/** The words of an instruction in its JSON form. */
const wordsOf = (instructions: readonly Instruction[], word: string): readonly string[] =>
  JSON.parse(instructions.findLast((instruction) => instruction.word === word)?.text ?? "[]") as string[];

interface Service {
  readonly build?:
    | string
    | { readonly context: string; readonly target?: string; readonly args?: Readonly<Record<string, string>> };
  readonly image?: string;
  readonly profiles?: readonly string[];
  readonly entrypoint?: readonly string[];
  readonly command?: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  readonly volumes?: readonly string[];
  readonly secrets?: readonly string[];
  readonly depends_on?: Readonly<Record<string, { readonly condition: string }>>;
  readonly healthcheck?: { readonly test: readonly string[] };
  readonly network_mode?: string;
  readonly read_only?: boolean;
  readonly cap_drop?: readonly string[];
  readonly security_opt?: readonly string[];
  readonly tmpfs?: readonly string[];
  readonly user?: string;
}
interface Compose {
  readonly services: Readonly<Record<string, Service>>;
  readonly secrets: Readonly<Record<string, { readonly file: string }>>;
  readonly volumes: Readonly<Record<string, unknown>>;
}

const composeText = read("docker-compose.yml");

/** `${NAME}` and `${NAME:-otherwise}`, which may be nested, as compose fills them in. */
function filledIn(text: string, environment: Readonly<Record<string, string>>): string {
  const innermost = /\$\{(\w+)(?::-([^${}]*))?\}/;
  let filled = text;
  for (let found = innermost.exec(filled); found !== null; found = innermost.exec(filled)) {
    const [whole, name = "", otherwise = ""] = found;
    filled = filled.replace(whole, () => environment[name] || otherwise);
  }
  expect(filled).not.toMatch(/\$\{/);
  return filled;
}

const publicAddress = "203.0.113.5";
const localAddress = "10.0.0.5";
const compose = parse(
  filledIn(composeText, { PATCHBAY_PUBLIC_ADDRESS: publicAddress, PATCHBAY_LOCAL_ADDRESS: localAddress }),
  { merge: true },
) as Compose;
const services = Object.entries(compose.services);
const service = (name: string): Service => {
  const found = compose.services[name];
  if (found === undefined) throw new Error(`there is no service ${name}`);
  return found;
};

interface Mount {
  readonly from: string;
  readonly writable: boolean;
}
/** What is mounted, by the place inside. */
const mounts = (name: string): ReadonlyMap<string, Mount> =>
  new Map(
    (service(name).volumes ?? []).map((volume) => {
      const [from = "", to = "", mode] = volume.split(":");
      return [to, { from, writable: mode !== "ro" }];
    }),
  );
/** The script that a service runs, as it lies in the repository. */
function scriptOf(name: string, words: readonly string[] | undefined): string {
  const place = (words ?? []).find((word) => word.endsWith(".sh")) ?? "";
  return read(mounts(name).get(place)?.from ?? `${name} does not mount ${place}`);
}

/** One Patchbay for each way of running it, by its profile. */
const patchbays = services.filter(([, { image }]) => image === "patchbay").map(([name]) => name);

function configuration(name: string): Extract<ParsedConfig, { readonly ok: true }>["config"] {
  const parsed = parseConfig(read("docker/patchbay.yaml"), service(name).environment ?? {}, "/etc/patchbay");
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
  return parsed.config;
}

/** The variables of .env, those too that stand there as a comment. */
const variables = new Map(
  Array.from(read(".env").matchAll(/^(?:# )?([A-Z_]+)=(.*)$/gm), ([, name = "", value = ""]) => [name, value]),
);

describe("Dockerfile", () => {
  test("copies only files that exist and that .dockerignore lets through", () => {
    const allowed = read(".dockerignore")
      .split("\n")
      .filter((line) => line.startsWith("!"))
      .map((line) => line.slice(1));
    const copied = dockerfile
      .filter(({ word, text }) => word === "COPY" && !text.startsWith("--from="))
      .flatMap(({ text }) => text.split(" ").slice(0, -1));
    expect(copied.length).toBeGreaterThan(8);
    expect(copied.filter((path) => !existsSync(join(root, path)))).toEqual([]);
    expect(copied.filter((path) => !allowed.includes(path.replace(/^\.\//, "")))).toEqual([]);
    expect(allowed.filter((path) => !existsSync(join(root, path)))).toEqual([]);
  });

  test("copies from stages that are there, and starts from images of a version", () => {
    const from = dockerfile.flatMap(({ text }) => /^--from=(\S+)/.exec(text)?.[1] ?? []);
    expect(from.length).toBeGreaterThan(0);
    expect(from.filter((stage) => !stages.has(stage))).toEqual([]);
    const images = [...dockerfile, ...instructionsOf("docker/rtpengine/Dockerfile")]
      .filter(({ word }) => word === "FROM")
      .map(({ text }) => text.split(" ")[0] ?? "")
      .filter((image) => !stages.has(image));
    expect(new Set(images)).toEqual(new Set(["node:24-bookworm-slim", "debian:bookworm-slim"]));
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
    const entry = wordsOf(ofStage(""), "ENTRYPOINT");
    const { compilerOptions } = JSON.parse(read("tsconfig.build.json")) as {
      compilerOptions: { rootDir: string; outDir: string };
    };
    const program = entry.find((word) => word.endsWith(".js"));
    expect(program).toBe(posix.join(compilerOptions.outDir, "main.js"));
    expect(existsSync(join(root, compilerOptions.rootDir, "main.ts"))).toBe(true);
    expect(entry.at(-1)).toBe("--config");
    expect(read("src/main.ts")).toContain('"--config"');
    for (const stage of ["", "trial"]) {
      expect(ofStage(stage).findLast(({ word }) => word === "USER")?.text).toBe("node");
      expect(ofStage(stage).find(({ word }) => word === "STOPSIGNAL")?.text).toBe("SIGTERM");
    }
  });

  test("asks for its health where the status page is", () => {
    const check = dockerfile.find(({ word }) => word === "HEALTHCHECK")?.text ?? "";
    const url = /http:\/\/127\.0\.0\.1:(\d+)(\/\w+)/.exec(check);
    expect(Number(url?.[1])).toBe(configuration("patchbay").admin.port);
    expect(read("src/admin/http.ts")).toContain(`"${url?.[2]}"`);
  });

  test("installs the program that speaks, and makes every folder that the service writes to", () => {
    const { media, recording, sip } = configuration("patchbay");
    const all = ofStage("")
      .map(({ text }) => text)
      .join("\n");
    const [program = "none"] = media.tts.kind === "command" ? media.tts.command : [];
    expect(all).toMatch(new RegExp(`install [^&]*\\b${program}\\b`));
    for (const folder of [
      media.promptFolder,
      media.cacheFolder,
      recording.folder,
      recording.spoolFolder,
      sip.stateFolder,
    ])
      expect(all).toContain(folder);
  });

  test("takes further packages where that is asked for: ffmpeg, which check-config says is missing, and none by itself", () => {
    const [declared] = ofStage("").filter(({ word }) => word === "ARG");
    expect(declared?.text).toBe("MORE_PACKAGES=");
    const installs = ofStage("").filter(({ text }) => /install [^&]*\$MORE_PACKAGES/.test(text));
    expect(installs).toHaveLength(1);
    expect(ofStage("").indexOf(declared!)).toBeLessThan(ofStage("").indexOf(installs[0]!));
    expect(read("src/config/programs.ts")).toContain("--build-arg MORE_PACKAGES=ffmpeg");
    const asked = parse(filledIn(composeText, { PATCHBAY_MORE_PACKAGES: "ffmpeg" }), { merge: true }) as Compose;
    for (const name of patchbays) {
      expect(service(name).build).toEqual({ context: ".", args: { MORE_PACKAGES: "" } });
      expect(asked.services[name]?.build).toEqual({ context: ".", args: { MORE_PACKAGES: "ffmpeg" } });
    }
  });

  test("takes into the trial image whatever its programs import", () => {
    const copied = ofStage("trial")
      .filter(({ word }) => word === "COPY")
      .flatMap(({ text }) => text.split(" ").slice(0, -1));
    const inside = (path: string): boolean => copied.some((folder) => path === folder || path.startsWith(`${folder}/`));
    for (const name of ["bot", "demo"]) {
      const { entrypoint = [], command = [], build } = service(name);
      expect(build).toEqual({ context: ".", target: "trial" });
      const program = [...entrypoint, ...command].find((word) => word.endsWith(".ts")) ?? "";
      expect(inside(program), program).toBe(true);
      expect(existsSync(join(root, program)), program).toBe(true);
    }
    let imports = 0;
    for (const folder of copied.filter((path) => !path.includes("."))) {
      for (const file of readdirSync(join(root, folder), { recursive: true, encoding: "utf8" })) {
        if (!file.endsWith(".ts")) continue;
        const path = join(root, folder, file);
        for (const [, imported = ""] of readFileSync(path, "utf8").matchAll(/^import .* from "(\.[^"]+)";$/gm)) {
          imports += 1;
          const target = relative(root, join(dirname(path), imported));
          expect(inside(target) && existsSync(join(root, target)), `${folder}/${file}: ${imported}`).toBe(true);
        }
      }
    }
    expect(imports).toBeGreaterThan(100);
  });
});

describe("docker-compose.yml", () => {
  test("builds from folders and stages that are there, and mounts files that exist", () => {
    const builds = services.flatMap(([, { build }]) => (build === undefined ? [] : [build]));
    expect(builds.length).toBeGreaterThan(3);
    for (const build of builds) {
      const { context, target } = typeof build === "string" ? { context: build, target: undefined } : build;
      expect(existsSync(join(root, context, "Dockerfile")), context).toBe(true);
      if (target !== undefined) expect(stages).toContain(target);
    }
    const sources = services.flatMap(([name]) => [...mounts(name).values()].map(({ from }) => from));
    const paths = sources.filter((source) => source.startsWith("."));
    expect(paths.length).toBeGreaterThan(5);
    expect(paths.filter((path) => !existsSync(join(root, path)))).toEqual([]);
    const volumes = sources.filter((source) => !source.startsWith("."));
    expect(new Set(volumes)).toEqual(new Set(Object.keys(compose.volumes)));
  });

  test("takes images of others by a version, one for each", () => {
    const images = services.flatMap(([, { image, build }]) => (build === undefined ? [image ?? "none"] : []));
    expect(images.length).toBeGreaterThan(1);
    expect(images.filter((image) => !/^[a-z0-9/-]+:v?\d+\.\d+\.\d+(?:-[a-z]+)?$/.test(image))).toEqual([]);
    expect(images).toContain("drachtio/drachtio-server:0.9.10");
  });

  test("names variables that .env explains, and profiles that it lists", () => {
    const named = new Set(Array.from(composeText.matchAll(/\$\{(\w+)/g), ([, name = ""]) => name));
    expect(new Set([...variables.keys()].filter((name) => name !== "COMPOSE_PROFILES"))).toEqual(named);
    const profiles = new Set(services.flatMap(([, { profiles = [] }]) => profiles));
    const [, list = ""] = /^# Profiles: ([\w, ]+)$/m.exec(read(".env")) ?? [];
    const listed = list.split(", ");
    expect(new Set(listed)).toEqual(profiles);
    expect(listed).toContain(variables.get("COMPOSE_PROFILES"));
  });

  test("runs one Patchbay in each profile that signals, with everything it waits for", () => {
    const active = (profile: string): readonly string[] =>
      services.filter(([, { profiles }]) => profiles?.includes(profile) ?? true).map(([name]) => name);
    const signalling = patchbays.flatMap((name) => service(name).profiles ?? ["always"]);
    expect(new Set(signalling)).toEqual(new Set(["drachtio", "embedded", "freeswitch"]));
    for (const profile of signalling) {
      const running = active(profile);
      expect(running.filter((name) => patchbays.includes(name))).toHaveLength(1);
      expect(running.includes("drachtio")).toBe(profile !== "embedded");
      expect(running.includes("rtpengine")).toBe(profile !== "freeswitch");
      expect(running.includes("freeswitch")).toBe(profile === "freeswitch");
      expect(running).toEqual(expect.arrayContaining(["redis", "bot"]));
      const awaited = running.flatMap((name) => Object.keys(service(name).depends_on ?? {}));
      expect(awaited.filter((name) => !running.includes(name))).toEqual([]);
    }
    const healthy = services.flatMap(([, { depends_on: awaited = {} }]) =>
      Object.entries(awaited).filter(([, { condition }]) => condition === "service_healthy"),
    );
    expect(healthy.filter(([name]) => service(name).healthcheck === undefined)).toEqual([]);
  });

  test("hands out secrets that are declared, made by the script, ignored by git, and read where they are given", () => {
    const used = new Set(services.flatMap(([, { secrets = [] }]) => secrets));
    expect(used).toEqual(new Set(Object.keys(compose.secrets)));
    const [, made = ""] = /for name in ([\w ]+); do/.exec(read("docker/make-secrets.sh")) ?? [];
    expect(new Set(made.split(" "))).toEqual(used);
    const ignored = read(".gitignore").split("\n");
    for (const [name, { file }] of Object.entries(compose.secrets)) {
      expect(file).toBe(`docker/secrets/${name}`);
      expect(ignored).toContain(`/${posix.dirname(file)}/`);
    }
    for (const [name, { environment = {}, secrets = [], entrypoint, healthcheck }] of services) {
      const texts = Object.values(environment);
      for (const words of [entrypoint, healthcheck?.test]) {
        if (words?.some((word) => word.endsWith(".sh"))) texts.push(scriptOf(name, words));
      }
      if (mounts(name).has("/etc/patchbay/patchbay.yaml")) texts.push(read("docker/patchbay.yaml"));
      const wanted = texts.flatMap((text) => Array.from(text.matchAll(/\/run\/secrets\/(\w+)/g), ([, file]) => file));
      expect(new Set(wanted), name).toEqual(new Set(secrets));
    }
  });

  test("lets nobody be root or write to an image, and limits what all of them log", () => {
    for (const [
      name,
      { read_only: readOnly, cap_drop: dropped, security_opt: options, tmpfs, network_mode },
    ] of services) {
      expect({ name, readOnly, dropped, options, network: network_mode }).toEqual({
        name,
        readOnly: true,
        dropped: ["ALL"],
        options: ["no-new-privileges:true"],
        network: "host",
      });
      expect(tmpfs?.[0]).toMatch(/^\/tmp:size=/);
    }
    // Images of our own say USER; those of others are told.
    const others = services.filter(([, { build }]) => build === undefined);
    expect(others.filter(([, { user }]) => !/^[1-9]\d*:\d+$/.test(user ?? ""))).toEqual([]);
    expect(instructionsOf("docker/rtpengine/Dockerfile").find(({ word }) => word === "USER")?.text).toBe("1000:1000");
  });

  test.each(patchbays)("gives %s a configuration that it accepts, and places to write to", (name) => {
    const { sip, redis, media, recording } = configuration(name);
    expect(mounts(name).get(wordsOf(ofStage(""), "CMD")[0] ?? "")?.from).toBe("./docker/patchbay.yaml");
    expect(redis.passwordFile).toBe("/run/secrets/redis_password");
    for (const folder of [media.cacheFolder, recording.folder, recording.spoolFolder, sip.stateFolder])
      expect(mounts(name).get(folder)?.writable, folder).toBe(true);
    if (sip.engine === "embedded") {
      expect(sip.externalAddress).toBe(publicAddress);
      expect(sip.listen.map(({ protocol, address, port }) => `${protocol} ${address} ${port}`)).toEqual([
        `udp ${localAddress} 5060`,
        `tcp ${localAddress} 5060`,
      ]);
    } else {
      expect(sip.drachtio).toMatchObject({ host: "127.0.0.1", port: 9022, secretFile: "/run/secrets/drachtio_secret" });
    }
  });

  test.each(patchbays)("every variable of %s names a field of the configuration", (name) => {
    const environment = service(name).environment ?? {};
    const names = Object.keys(environment);
    expect(names.length).toBeGreaterThan(2);
    // A misspelt one is a problem of the loader, which is what this asks.
    for (const variable of names) {
      const misspelt = { ...environment, [`${variable}X`]: "1" };
      expect(parseConfig(read("docker/patchbay.yaml"), misspelt, "/etc/patchbay").ok, variable).toBe(false);
    }
  });

  test("starts rtpengine with the ports and folders that Patchbay's configuration says", () => {
    const { media, recording } = configuration("patchbay");
    const flags = new Map((service("rtpengine").command ?? []).map((flag) => flag.split("=") as [string, string]));
    const [instance] = media.rtpengine;
    expect(flags.get("--interface")).toBe(`${localAddress}!${publicAddress}`);
    expect(flags.get("--listen-ng")).toBe(`${instance?.host}:${instance?.port}`);
    expect(flags.get("--dtmf-log-dest")).toBe(`${media.dtmf.address}:${media.dtmf.port}`);
    expect(flags.get("--recording-dir")).toBe(recording.spoolFolder);
    for (const folder of [media.promptFolder, media.cacheFolder, recording.spoolFolder]) {
      expect(mounts("rtpengine").get(folder)?.from, folder).toBe(mounts("patchbay").get(folder)?.from);
    }
    expect(scriptOf("rtpengine", service("rtpengine").healthcheck?.test)).toContain(
      `/dev/udp/${instance?.host}/${instance?.port}`,
    );
  });

  test("starts drachtio-server with its control port on loopback and the safe settings of the design", () => {
    const script = scriptOf("drachtio", service("drachtio").entrypoint);
    const { sip } = configuration("patchbay");
    const { host, port } = sip.drachtio ?? {};
    expect(script).toMatch(new RegExp(`<admin port="${port}" secret="\\$secret" [^>]*>${host}</admin>`));
    expect(scriptOf("drachtio", service("drachtio").healthcheck?.test)).toContain(`/dev/tcp/${host}/${port}`);
    expect(script).toContain("cat /run/secrets/drachtio_secret");
    expect(script).toContain("sip:$PATCHBAY_LOCAL_ADDRESS:5060;transport=udp,tcp");
    for (const setting of [
      '<session-timers default-refresher="uas"/>',
      "<min-tls-version>1.2</min-tls-version>",
      "<udp-mtu>4096</udp-mtu>",
      "<cdrs>false</cdrs>",
      "<sofia-loglevel>3</sofia-loglevel>",
      "<loglevel>warning</loglevel>",
    ])
      expect(script).toContain(setting);
    expect(script).toMatch(/^exec drachtio -f \S+ --disable-nat-detection$/m);
    // Neither in the list of processes nor in the environment.
    expect(script).not.toMatch(/--secret|DRACHTIO_SECRET|memory-debug/);
    const { DRACHTIO_PRESERVE_HEADER_NAMES: kept, ...environment } = service("drachtio").environment ?? {};
    const [, headers = ""] = /^const headers = \{(.*)\} as const;$/m.exec(read("demo/story.ts")) ?? [];
    expect(kept?.split(",")).toEqual(Array.from(headers.matchAll(/(\w+):/g), ([, name]) => name));
    const known = Object.keys(environment);
    const named = Array.from(script.matchAll(/\$(PATCHBAY_\w+)/g), ([, name]) => name);
    expect(new Set(named)).toEqual(new Set(known));
  });

  test("opens SIP over TLS where docker/tls has a certificate, and not without one", async () => {
    await using folder = await temporaryFolder("containers");
    const { path } = folder;
    const [tls, file] = [join(path, "tls"), join(path, "drachtio.conf.xml")];
    expect(mounts("drachtio").get("/etc/patchbay-tls")).toEqual({ from: "./docker/tls", writable: false });
    expect(read(".gitignore").split("\n")).toContain("/docker/tls/*.pem");
    const script = scriptOf("drachtio", service("drachtio").entrypoint)
      .replaceAll("/run/secrets/drachtio_secret", join(path, "secret"))
      .replaceAll("/etc/patchbay-tls", tls)
      .replaceAll("/tmp/drachtio.conf.xml", file)
      .replace(/^exec drachtio .*$/m, "");
    const written = (publicAddress: string): string => {
      const env = { ...process.env, PATCHBAY_PUBLIC_ADDRESS: publicAddress, PATCHBAY_LOCAL_ADDRESS: localAddress };
      execFileSync("sh", ["-c", script], { env, stdio: "pipe" });
      return readFileSync(file, "utf8");
    };
    writeFileSync(join(path, "secret"), "abc123");
    expect(written(localAddress)).not.toMatch(/transport=tls|-file>/);
    mkdirSync(tls);
    writeFileSync(join(tls, "cert.pem"), "");
    expect(() => written(localAddress)).toThrow("cannot read");
    writeFileSync(join(tls, "key.pem"), "");
    const inside = written(localAddress);
    expect(inside).toContain(`<contact>sips:${localAddress}:5061;transport=tls</contact>`);
    expect(inside).toContain(`<key-file>${tls}/key.pem</key-file>`);
    for (const name of ["cert-file", "chain-file"]) expect(inside).toContain(`<${name}>${tls}/cert.pem</${name}>`);
    const external = `<contact external-ip="${publicAddress}">sip`;
    expect(written(publicAddress).split(external)).toHaveLength(3);
  });

  test("starts FreeSWITCH with its event socket and its SIP on loopback, where Patchbay looks for it", () => {
    const { media, recording } = configuration("patchbay-freeswitch");
    expect(media.anchor).toBe("freeswitch");
    expect(configuration("patchbay").media.anchor).toBe("rtpengine");
    const [server] = media.freeswitch.servers;
    const xml = read(mounts("freeswitch").get("/etc/freeswitch/freeswitch.xml")?.from ?? "");
    const values = (section: string, name: string): readonly string[] => {
      const [, inside = ""] =
        new RegExp(`<(?:configuration|profile) name="${section}">(.*?)</(?:configuration|profile)>`, "s").exec(xml) ??
        [];
      return Array.from(inside.matchAll(new RegExp(`name="${name}" value="([^"]*)"`, "g")), ([, value = ""]) => value);
    };
    expect(values("event_socket.conf", "listen-ip")).toEqual([server?.host]);
    expect(values("event_socket.conf", "listen-port")).toEqual([`${server?.port}`]);
    expect(values(server?.profile ?? "none", "sip-ip")).toEqual(["127.0.0.1"]);
    const [low, high] = ["rtp-start-port", "rtp-end-port"].map((name) => values("switch.conf", name)[0]);
    expect(service("rtpengine").command).toEqual(expect.arrayContaining([`--port-min=${low}`, `--port-max=${high}`]));

    const script = scriptOf("freeswitch", service("freeswitch").entrypoint);
    const placed = new Set(Array.from(xml.matchAll(/@[A-Z_]+@/g), ([name]) => name));
    placed.delete("@NAMES@");
    expect(new Set(Array.from(script.matchAll(/^s\/(@[A-Z_]+@)\//gm), ([, name]) => name))).toEqual(placed);
    expect(scriptOf("freeswitch", service("freeswitch").healthcheck?.test)).toContain(
      `/dev/tcp/${server?.host}/${server?.port}`,
    );
    for (const folder of [media.promptFolder, media.cacheFolder, recording.spoolFolder]) {
      expect(mounts("freeswitch").get(folder)?.from, folder).toBe(mounts("patchbay-freeswitch").get(folder)?.from);
    }
    expect(mounts("freeswitch").get(recording.spoolFolder)?.writable).toBe(true);
  });

  test("binds Redis and the status page to loopback, keeps Redis's data, and gives bots the rights of the contract", () => {
    const { redis, admin } = configuration("patchbay");
    const script = scriptOf("redis", service("redis").entrypoint);
    expect(script).toMatch(/^bind 127\.0\.0\.1$/m);
    expect(script).toMatch(/^appendonly yes$/m);
    expect(script).toContain(`port ${new URL(redis.url).port}`);
    expect([new URL(redis.url).hostname, admin.address]).toEqual(["127.0.0.1", "127.0.0.1"]);
    const [, rights = "none"] = /^ACL SETUSER bot-1 on >secret (.*)$/m.exec(read("docs/bot-contract.md")) ?? [];
    const { command = [], environment = {} } = service("bot");
    const [, botId = "none", , url] = command;
    expect(script).toContain(
      `user ${environment["REDIS_USERNAME"]} on >$bot_password ${rights.replaceAll("bot-1", botId)}`,
    );
    expect(url).toBe(redis.url);
    for (const name of Object.keys(environment)) expect(read("examples/bot-typescript/bot.ts")).toContain(name);
  });

  test("has channels for the sample bot and for the demo, which finds the recordings where Patchbay says they are", () => {
    const { channels, trunks, recording } = configuration("patchbay");
    const [, botId] = service("bot").command ?? [];
    const [, story] = /^const botId = "(.*)";$/m.exec(read("demo/story.ts")) ?? [];
    expect(channels.map((channel) => channel.botId)).toEqual([botId, story]);
    for (const { trunk } of channels) expect(trunks.find(({ id }) => id === trunk)?.gateways).toHaveLength(1);
    expect(mounts("demo").get(recording.folder)).toEqual({
      from: mounts("patchbay").get(recording.folder)?.from,
      writable: false,
    });
    const options = (service("demo").entrypoint ?? []).filter((word) => /^--(?!import)/.test(word));
    expect(options).toEqual(["--running", "--sip"]);
    for (const option of options) expect(read("demo/main.ts")).toContain(`${option.slice(2)}: { type: "string" }`);
    expect(service("demo").entrypoint?.at(-1)).toBe(`${localAddress}:5060`);
  });

  test("watches Patchbay's status page by Prometheus, and shows it in Grafana, both on loopback", () => {
    const { admin } = configuration("patchbay");
    const { scrape_configs: jobs, rule_files: rules } = parse(read("docker/prometheus.yml")) as {
      scrape_configs: readonly { static_configs: readonly { targets: readonly string[] }[] }[];
      rule_files: readonly string[];
    };
    const targets = jobs.flatMap((job) => job.static_configs.flatMap((config) => config.targets));
    expect(targets).toContain(`${admin.address}:${admin.port}`);
    for (const file of ["prometheus.yml", ...rules])
      expect(mounts("prometheus").get(`/etc/prometheus/${file}`)?.from).toBe(`./docker/${file}`);
    const flags = new Map((service("prometheus").command ?? []).map((flag) => flag.split("=") as [string, string]));
    const address = flags.get("--web.listen-address") ?? "";
    expect(address).toMatch(/^127\.0\.0\.1:/);
    expect(mounts("prometheus").get(flags.get("--storage.tsdb.path") ?? "")?.writable).toBe(true);

    const provisioned = mounts("grafana").get("/etc/grafana/provisioning")?.from ?? "";
    const { datasources } = parse(read(`${provisioned}/datasources/prometheus.yaml`)) as {
      datasources: readonly { url: string }[];
    };
    expect(datasources.map(({ url }) => url)).toEqual([`http://${address}`]);
    const { providers } = parse(read(`${provisioned}/dashboards/patchbay.yaml`)) as {
      providers: readonly { options: { path: string } }[];
    };
    const [folder = ""] = providers.map(({ options }) => options.path);
    const dashboards = mounts("grafana").get(folder)?.from ?? "";
    const { environment = {} } = service("grafana");
    expect(environment["GF_SERVER_HTTP_ADDR"]).toBe("127.0.0.1");
    const home = environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] ?? "";
    expect(existsSync(join(root, dashboards, posix.relative(folder, home)))).toBe(true);
  });

  test("runs scripts that a shell can read", () => {
    const scripts = readdirSync(join(root, "docker"), { recursive: true, encoding: "utf8" }).filter((path) =>
      path.endsWith(".sh"),
    );
    expect(scripts.length).toBeGreaterThan(5);
    for (const script of scripts) {
      const [, shell = ""] = /^#!(\/bin\/(?:ba)?sh)\n/.exec(read(`docker/${script}`)) ?? [];
      expect(() => execFileSync(shell, ["-n", join(root, "docker", script)])).not.toThrow();
    }
  });
});
