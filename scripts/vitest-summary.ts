// A vitest reporter that writes the sums of a run, with the reason of every skip, for the last line of scripts/test.sh.
// vitest's own JSON reporter leaves out the reasons of skips and the errors outside tests.
import { writeFileSync } from "node:fs";
import type { Reporter, SerializedError, TestModule } from "vitest/node";

export interface RunSummary {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
  /** Why something was skipped, one line per test. */
  readonly skips: readonly string[];
}

export function summarise(modules: readonly TestModule[], unhandled: readonly SerializedError[]): RunSummary {
  let [passed, failed, skipped] = [0, unhandled.length, 0];
  const skips: string[] = [];
  for (const module of modules) {
    let seen = 0;
    for (const test of module.children.allTests()) {
      const result = test.result();
      seen += 1;
      if (result.state === "passed") passed += 1;
      else if (result.state === "skipped") {
        skipped += 1;
        skips.push(`${module.relativeModuleId} > ${test.fullName}: ${result.note ?? "no reason given"}`);
      }
      // A test that is still pending when the run is over was never finished, which is no pass.
      else failed += 1;
    }
    // A file that cannot be loaded, or a hook that failed, has no failed test of its own.
    if (!module.ok() && (seen === 0 || module.errors().length > 0)) failed += 1;
  }
  return { passed, failed, skipped, skips };
}

export default class SummaryReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandled: readonly SerializedError[]): void {
    const path = process.env["TEST_SUMMARY_FILE"];
    if (path !== undefined) writeFileSync(path, JSON.stringify(summarise(modules, unhandled)));
  }
}
