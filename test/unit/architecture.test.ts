// Reads every import statement of src/ against the import table. The linter checks the same per folder, but a linter
// whose patterns match nothing is green: this test also fails when it read too little or when a rule has gone stale.
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, posix } from "node:path";
import { describe, expect, test } from "vitest";
import {
  folderRules,
  isImportOverride,
  lintOverrides,
  rootFiles,
  singleImporters,
} from "../../scripts/import-rules.ts";

const root = join(import.meta.dirname, "../..");
/** The tree of the first milestone has far more; fewer means that the scan looked in the wrong place. */
const fewestFiles = 40;
const fewestImports = 100;

interface Import {
  readonly specifier: string;
  /** `import type` or `export type`: nothing of the module runs here. */
  readonly typesOnly: boolean;
}

/** Strings, templates and regular expressions are kept whole: what looks like a comment inside them is none. */
const literals = [
  /"(?:[^"\\\n]|\\.)*"/,
  /'(?:[^'\\\n]|\\.)*'/,
  /(?<=[=(,:!&|?[{;]\s*|return\s)\/(?![*/])(?:[^/\\\n[]|\\.|\[(?:[^\]\\\n]|\\.)*\])+\/[a-z]*/,
  /`(?:[^`\\]|\\.)*`/,
];
const literalOrComment = new RegExp(
  String.raw`(${literals.map((pattern) => pattern.source).join("|")})|\/\*[\s\S]*?\*\/|\/\/[^\n]*`,
  "g",
);

/** Blanks out comments, so that an import named in prose does not count. */
function withoutComments(source: string): string {
  return source.replaceAll(literalOrComment, (_match, literal: string | undefined) => literal ?? "");
}

/** The code alone: every literal becomes an empty string, so that prose and generated code do not count. */
function codeOf(source: string): string {
  return source.replaceAll(literalOrComment, (_match, literal: string | undefined) =>
    literal === undefined ? "" : '""',
  );
}

function importsOf(source: string): readonly Import[] {
  const code = withoutComments(source);
  const found: Import[] = [];
  const statements = /^\s*(?:import|export)\s+(type\s+)?(?:[\w$*\s{},]+?\s+from\s+)["']([^"']+)["']/gm;
  for (const [, typeWord, specifier] of code.matchAll(statements)) {
    if (specifier !== undefined) found.push({ specifier, typesOnly: typeWord !== undefined });
  }
  const others = [
    /^\s*import\s+["']([^"']+)["']/gm,
    /\bimport\(\s*["'`]([^"'`]+)["'`]/g,
    /\brequire\(\s*["'`]([^"'`]+)["'`]/g,
  ];
  for (const pattern of others) {
    for (const [, specifier] of code.matchAll(pattern)) {
      if (specifier !== undefined) found.push({ specifier, typesOnly: false });
    }
  }
  return found;
}

const files = readdirSync(join(root, "src"), { recursive: true, encoding: "utf8" })
  .map((path) => posix.join("src", path.replaceAll("\\", "/")))
  .filter((path) => path.endsWith(".ts"));
const sources = new Map(files.map((file) => [file, readFileSync(join(root, file), "utf8")]));
const imports = new Map([...sources].map(([file, source]) => [file, importsOf(source)]));

/** The path below src/ that a relative import means, without its ending. */
function targetOf(file: string, specifier: string): string {
  return posix.relative("src", posix.join(posix.dirname(file), specifier)).replace(/\.ts$/, "");
}

const packageOf = (specifier: string): string =>
  specifier
    .split("/")
    .slice(0, specifier.startsWith("@") ? 2 : 1)
    .join("/");

/** What is wrong with one import of one file of a folder, or undefined. */
function faultOf(file: string, { specifier, typesOnly }: Import): string | undefined {
  const folder = file.split("/")[1] ?? "";
  const rule = folderRules.find((candidate) => candidate.folder === folder);
  if (rule === undefined) return rootFiles.includes(folder) ? undefined : `${file}: no rule for this place`;
  const fault = `${file} imports ${specifier}`;
  if (specifier.startsWith("node:")) return rule.node ? undefined : fault;
  if (!specifier.startsWith(".")) return rule.packages.includes(packageOf(specifier)) ? undefined : fault;
  const target = targetOf(file, specifier);
  const within = (path: string): boolean => target === path || target.startsWith(`${path}/`);
  if (within(folder) || rule.mayImport.some(within)) return undefined;
  if (rule.typesOnly?.some(within) === true) return typesOnly ? undefined : `${fault} for more than its types`;
  return fault;
}

describe("the scan itself", () => {
  test("finds every form of import and no import in a comment", () => {
    const sample = [
      'import { a } from "./a.ts";',
      "import type {\n  B,\n} from './b.ts';",
      'import c, * as d from "pkg/c";',
      'import "./effects.ts";',
      'export * from "./f.ts";',
      'export type { G } from "node:g";',
      'const h = await import("./h.ts");',
      'const i = require("@scope/i/deep");',
      '// import { j } from "./j.ts";',
      '/* import "./k.ts"; */ const url = "http://not.a/comment";',
      'const quotes = /[`\'"]/; // import("./l.ts") stays prose behind a regular expression full of quotes.',
    ].join("\n");
    expect(
      importsOf(sample)
        .map(({ specifier }) => specifier)
        .toSorted(),
    ).toEqual(["./a.ts", "./b.ts", "./effects.ts", "./f.ts", "./h.ts", "@scope/i/deep", "node:g", "pkg/c"]);
    expect(
      importsOf(sample)
        .filter(({ typesOnly }) => typesOnly)
        .map(({ specifier }) => specifier),
    ).toEqual(["./b.ts", "node:g"]);
  });

  test(`read at least ${fewestFiles} files and ${fewestImports} imports`, () => {
    expect(files.length).toBeGreaterThanOrEqual(fewestFiles);
    expect([...imports.values()].flat().length).toBeGreaterThanOrEqual(fewestImports);
  });

  test("no module is imported under a computed name, which no scan can follow", () => {
    const computed = [...sources].filter(([, source]) => /\b(?:import|require)\((?!\s*"")/.test(codeOf(source)));
    expect(computed.map(([file]) => file)).toEqual([]);
  });
});

describe("the import table", () => {
  test("every import of src/ is allowed", () => {
    const faults = [...imports].flatMap(([file, list]) => list.map((entry) => faultOf(file, entry)));
    expect(faults.filter((fault) => fault !== undefined)).toEqual([]);
  });

  test("nothing imports main.ts, and app.ts is imported by main.ts alone", () => {
    const importers = [...imports]
      .filter(([file, list]) =>
        list.some(({ specifier }) => specifier.startsWith(".") && ["main", "app"].includes(targetOf(file, specifier))),
      )
      .map(([file]) => file);
    expect(importers.filter((file) => file !== "src/main.ts")).toEqual([]);
  });

  test.each(folderRules.map((rule) => [rule.folder, rule] as const))("the rule of %s/ is not stale", (folder, rule) => {
    const own = files.filter((file) => file.startsWith(`src/${folder}/`));
    expect(own, `no file below src/${folder}`).not.toEqual([]);
    for (const path of [...rule.mayImport, ...(rule.typesOnly ?? [])]) {
      expect(
        existsSync(join(root, "src", path)) || existsSync(join(root, "src", `${path}.ts`)),
        `src/${path} is gone`,
      ).toBe(true);
    }
    const used = new Set(own.flatMap((file) => (imports.get(file) ?? []).map(({ specifier }) => packageOf(specifier))));
    expect(
      rule.packages.filter((name) => !used.has(name)),
      "packages that nothing there imports",
    ).toEqual([]);
  });

  test.each(rootFiles)("src/%s exists", (file) => {
    expect(existsSync(join(root, "src", file))).toBe(true);
  });
});

describe("one importing place", () => {
  test.each(singleImporters.map((entry) => [entry.package, entry.allowed] as const))(
    "%s is imported only in %j",
    (name, allowed) => {
      const importers = [...imports]
        .filter(([, list]) => list.some(({ specifier }) => packageOf(specifier) === name))
        .map(([file]) => file);
      const covers = (place: string, file: string): boolean =>
        place.endsWith("/") ? file.startsWith(place) : file === place;
      expect(importers.filter((file) => !allowed.some((place) => covers(place, file)))).toEqual([]);
      expect(
        allowed.filter((place) => !importers.some((file) => covers(place, file))),
        "stale entries",
      ).toEqual([]);
    },
  );

  test("only src/main.ts touches process", () => {
    const touches = (file: string, source: string): boolean =>
      /(?<![.\w])process\s*[.[]|globalThis\.process/.test(codeOf(source)) ||
      (imports.get(file) ?? []).some(({ specifier }) => specifier === "node:process");
    expect([...sources].filter(([file, source]) => touches(file, source)).map(([file]) => file)).toEqual([
      "src/main.ts",
    ]);
  });
});

test("the linter's overrides say the same as the table (npx tsx scripts/import-rules.ts writes them)", () => {
  const config = JSON.parse(readFileSync(join(root, ".oxlintrc.json"), "utf8")) as {
    overrides: { files: string[]; rules: Record<string, unknown> }[];
  };
  expect(config.overrides.filter(isImportOverride)).toEqual(lintOverrides());
});
