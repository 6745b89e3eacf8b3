// A README that names what is not there is worse than none.
import { existsSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { commandSchema } from "../../src/bot/contract.ts";

const projectFile = (path: string): string => fileURLToPath(new URL(`../../${path}`, import.meta.url));
const readme = readFileSync(projectFile("README.md"), "utf8");
const scripts = (JSON.parse(readFileSync(projectFile("package.json"), "utf8")) as { scripts: Record<string, string> })
  .scripts;

describe("README.md", () => {
  it("links to files that exist", () => {
    const links = Array.from(readme.matchAll(/\]\(([^)#]+)\)/g), ([, path]) => path!).filter(
      (path) => !path.includes(":"),
    );
    expect(links.length).toBeGreaterThan(10);
    expect(links.filter((path) => !existsSync(projectFile(path)))).toEqual([]);
  });

  it("names npm scripts that exist", () => {
    const named = Array.from(readme.matchAll(/npm (?:run )?(start|test|demo|build|check)\b/g), ([, name]) => name!);
    expect(new Set(named)).toEqual(new Set(["start", "test", "demo", "build"]));
    expect(named.filter((name) => scripts[name] === undefined)).toEqual([]);
  });

  it("shows commands that follow the contract", () => {
    const commands = Array.from(readme.matchAll(/publish "\$TO" '(\{.*?\})'\n/gs), ([, text]) => text!);
    expect(commands).toHaveLength(2);
    for (const text of commands) expect(commandSchema.safeParse(JSON.parse(text)).error).toBeUndefined();
  });
});
