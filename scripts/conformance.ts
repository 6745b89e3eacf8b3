// Runs the conformance suite on the embedded engine, on the engine with `strictParity`, and on the drachtio-server that
// PATCHBAY_TEST_DRACHTIO names, and says what became of each case.
//   npm run conformance [-- --write]   `--write` notes the run on the drachtio-server and writes docs/sip-conformance.md
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

interface Verdict {
  readonly id: string;
  readonly title: string;
  readonly state: "passed" | "failed" | "skipped";
  readonly reason?: string;
}
interface Verdicts {
  readonly personality: string;
  readonly version: string;
  readonly verdicts: readonly Verdict[];
}

const root = fileURLToPath(new URL("..", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "patchbay-conformance-"));
let failures = 0;
try {
  const vitest = join(root, "node_modules/.bin/vitest");
  const run = (args: readonly string[], env: NodeJS.ProcessEnv = {}): number =>
    spawnSync(vitest, ["run", ...args], {
      cwd: root,
      env: { ...process.env, ...env },
      stdio: ["ignore", "inherit", "inherit"],
    }).status ?? 1;
  const status = run(["--project", "wire", "test/conformance/", "--reporter=dot"], {
    PATCHBAY_CONFORMANCE_REPORT: folder,
  });
  for (const personality of ["engine", "strict", "real"]) {
    const path = join(folder, `${personality}.json`);
    if (personality === "real" && !process.env["PATCHBAY_TEST_DRACHTIO"]) {
      console.log("\nreal\n  every case skipped: PATCHBAY_TEST_DRACHTIO names no drachtio-server");
      continue;
    }
    if (!existsSync(path)) {
      failures += 1;
      console.log(`${personality}: the tests ended without a result`);
      continue;
    }
    const { version, verdicts } = JSON.parse(readFileSync(path, "utf8")) as Verdicts;
    console.log(`\n${personality} ${version}`);
    for (const { id, title, state, reason } of verdicts) {
      console.log(`  ${state.padEnd(7)} ${id.padEnd(5)} ${title}${reason === undefined ? "" : ` (${reason})`}`);
    }
    const count = (state: Verdict["state"]): number => verdicts.filter((verdict) => verdict.state === state).length;
    console.log(`  ${count("passed")} passed, ${count("failed")} failed, ${count("skipped")} skipped`);
    failures += count("failed");
    if (personality === "real" && count("passed") > 0 && process.argv.includes("--write")) {
      const day = new Date().toISOString().slice(0, 10);
      const passed = verdicts.filter(({ state }) => state === "passed").map(({ id }) => id);
      writeFileSync(
        join(root, "test/conformance/real-run.json"),
        `${JSON.stringify({ version, day, passed }, undefined, 2)}\n`,
      );
    }
  }
  if (status !== 0 && failures === 0) failures = 1;
  // The page is made from what the cases expect, so the same code as in `npm test` says whether it is current.
  const page = run(
    ["--project", "pure", "test/unit/conformance.test.ts", "--reporter=dot"],
    process.argv.includes("--write") ? { PATCHBAY_CONFORMANCE_WRITE: "yes" } : {},
  );
  if (page !== 0) failures += 1;
} finally {
  rmSync(folder, { recursive: true, force: true });
}
process.exitCode = failures === 0 ? 0 : 1;
