// The one statement of who may import whom (the table in ARCHITECTURE.md says the same in prose).
// The linter's per-folder rules in .oxlintrc.json are generated from it by `npx tsx scripts/import-rules.ts`, and
// test/unit/architecture.test.ts reads the import statements against it, because a linter that scans nothing is green.
import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

export interface FolderRule {
  /** A folder below src/. */
  readonly folder: string;
  /** Other folders of src/ it may import; a longer path such as `bot/contract` allows only that module. */
  readonly mayImport: readonly string[];
  /** Folders of which only types may be imported (`import type`), so that nothing of them runs here. */
  readonly typesOnly?: readonly string[];
  /** npm packages it may import. */
  readonly packages: readonly string[];
  /** Whether node: modules are allowed; the call core knows no input or output at all. */
  readonly node: boolean;
}

export const folderRules: readonly FolderRule[] = [
  { folder: "call", mayImport: [], packages: [], node: false },
  { folder: "lib", mayImport: [], packages: [], node: true },
  { folder: "runtime", mayImport: ["call", "lib", "telemetry"], packages: [], node: true },
  { folder: "sip", mayImport: ["call", "lib", "telemetry"], packages: ["drachtio-srf"], node: true },
  {
    folder: "media",
    mayImport: ["call", "lib", "telemetry"],
    packages: ["rtpengine-client", "drachtio-fsmrf", "aws4fetch"],
    node: true,
  },
  { folder: "bot", mayImport: ["call", "lib", "telemetry"], packages: ["ioredis", "zod"], node: true },
  { folder: "client", mayImport: ["bot/contract", "lib"], packages: ["ioredis"], node: true },
  { folder: "trunk", mayImport: ["call", "lib"], typesOnly: ["config"], packages: [], node: true },
  { folder: "engine", mayImport: ["lib"], packages: [], node: true },
  { folder: "config", mayImport: ["lib"], packages: ["zod", "yaml"], node: true },
  { folder: "telemetry", mayImport: ["lib"], packages: ["pino", "prom-client"], node: true },
  { folder: "admin", mayImport: ["telemetry"], packages: [], node: true },
];

/** Files directly below src/. They compose the rest, so they may import every folder. */
export const rootFiles: readonly string[] = [
  "app.ts",
  "engine-figures.ts",
  "engine-process.ts",
  "explain.ts",
  "main.ts",
  "service-state.ts",
  "transfer-policy.ts",
];

/** Packages whose types and quirks stay in one place each. A path that ends in a slash is a folder. */
export const singleImporters: readonly { readonly package: string; readonly allowed: readonly string[] }[] = [
  { package: "drachtio-srf", allowed: ["src/sip/srf.ts"] },
  { package: "ioredis", allowed: ["src/bot/link.ts", "src/client/"] },
  { package: "rtpengine-client", allowed: ["src/media/rtpengine/ng.ts"] },
  { package: "drachtio-fsmrf", allowed: ["src/media/freeswitch/fsmrf.ts"] },
  { package: "aws4fetch", allowed: ["src/media/recording/object-storage.ts"] },
];

interface RestrictedPattern {
  readonly regex?: string;
  readonly group?: readonly string[];
  readonly message: string;
}
interface Override {
  readonly files: readonly string[];
  readonly rules: Readonly<Record<string, unknown>>;
}

/** The linter's overrides for one folder: one per depth, because a pattern sees only the text of the import. */
function overridesOfFolder(rule: FolderRule): readonly Override[] {
  const reachable = new Set(
    [rule.folder, ...rule.mayImport, ...(rule.typesOnly ?? [])].map((path) => path.split("/")[0]),
  );
  const forbidden = folderRules.map((other) => other.folder).filter((folder) => !reachable.has(folder));
  const allowed = [...rule.mayImport, ...(rule.typesOnly ?? []).map((folder) => `types of ${folder}`)].join(", ");
  const message = `${rule.folder}/ may import ${allowed === "" ? "only itself" : `itself, ${allowed}`}`;
  const packagesMessage = `${rule.folder}/ may import ${[...rule.packages, ...(rule.node ? ["node:"] : [])].join(", ") || "no package and no node: module"}`;
  const bare = [
    "*",
    "!.",
    "!..",
    "!./**",
    "!../**",
    ...(rule.node ? ["!node:*", "!node:*/*"] : []),
    ...rule.packages.map((name) => `!${name}`),
  ];
  return [1, 2].map((depth) => {
    const up = "\\.\\./".repeat(depth);
    const patterns: readonly RestrictedPattern[] = [
      { regex: `^${up}(?:${forbidden.join("|")})/`, message },
      { regex: `^${up}[^./][^/]*$`, message: "only main.ts and app.ts compose; nothing imports them" },
      { group: bare, message: packagesMessage },
    ];
    return {
      files: [`src/${rule.folder}/${"*/".repeat(depth - 1)}*.ts`],
      rules: { "no-restricted-imports": ["error", { patterns }] },
    };
  });
}

/** All overrides that .oxlintrc.json has to contain for the import table. */
export function lintOverrides(): readonly Override[] {
  return folderRules.flatMap(overridesOfFolder);
}

/** Tells the overrides made here from the hand-written ones. */
export function isImportOverride(override: Override): boolean {
  return "no-restricted-imports" in override.rules;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href) {
  const path = new URL("../.oxlintrc.json", import.meta.url);
  const config = JSON.parse(readFileSync(path, "utf8")) as { overrides: Override[] };
  config.overrides = [...config.overrides.filter((override) => !isImportOverride(override)), ...lintOverrides()];
  writeFileSync(path, `${JSON.stringify(config, null, 2)}\n`);
}
