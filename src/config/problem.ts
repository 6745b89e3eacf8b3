/** One thing that is wrong with a configuration: where, what, and what to do. */
export interface ConfigProblem {
  /** Such as `trunks[0].gateways[1].host`; empty for the file as a whole. */
  readonly path: string;
  readonly message: string;
}

/** The configuration or its secrets cannot be used; `problems` names everything found, not only the first. */
export class ConfigError extends Error {
  readonly code = "config_invalid";
  readonly problems: readonly ConfigProblem[];

  constructor(problems: readonly ConfigProblem[]) {
    super(`The configuration cannot be used:\n${formatProblems(problems)}`);
    this.name = "ConfigError";
    this.problems = problems;
  }
}

/** One line per problem, for people. */
export function formatProblems(problems: readonly ConfigProblem[]): string {
  return problems.map(({ path, message }) => `  ${path === "" ? "(file)" : path}: ${message}`).join("\n");
}

/** For messages about files that are not there. */
export const relativePaths = "a relative path counts from the folder of the configuration file";

export function pathText(path: readonly PropertyKey[]): string {
  return path.reduce<string>(
    (text, part) =>
      typeof part === "number" ? `${text}[${part}]` : text === "" ? String(part) : `${text}.${String(part)}`,
    "",
  );
}
