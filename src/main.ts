import { readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { parseArgs } from "node:util";
import { type App, createApp } from "./app.ts";
import { certificateProblems } from "./config/certificates.ts";
import { checkConfig, loadConfig } from "./config/load.ts";
import { ConfigError } from "./config/problem.ts";
import { programProblems } from "./config/programs.ts";
import { promptProblems } from "./config/prompts.ts";
import { nearestName } from "./config/schema-walk.ts";
import { loadSecrets } from "./config/secrets.ts";
import { createEngineProcess } from "./engine-process.ts";
import { explain } from "./explain.ts";
import type { ConfigProblem } from "./config/problem.ts";
import type { Config } from "./config/schema.ts";
import { version } from "./lib/version.ts";
import { createLog, type Log } from "./telemetry/log.ts";
import { fallbackProblems } from "./transfer-policy.ts";

const usage = `Usage:
  patchbay --config FILE         run the service on that configuration
  patchbay engine --config FILE  run the SIP engine alone, for \`sip.engine: separate\` in that configuration
  patchbay check-config FILE     say what is wrong with a configuration, or that nothing is; exit status 1 where only
                                 its secrets are missing on this machine
  patchbay explain --channel BOT SWITCH.json [--caller NUMBER] [--called NUMBER] [--config FILE]
                                 print the INVITEs that this \`switch\` of the bot would send, and send nothing;
                                 without --caller he withholds his number, without --config it is patchbay.yaml
  patchbay --help | --version

Without a configuration, \`npm start\` starts everything on this machine with a sample bot.
`;

/** How long calls may go on after SIGTERM before they are ended. */
const drainMs = 900_000;

const commands = ["engine", "check-config", "explain"];

/** Exit status: 0 done, 1 a fault, missing secrets, or a switch that would be refused, 2 wrong arguments or configuration. */
async function main(args: readonly string[]): Promise<number> {
  const [first, second, third, ...rest] = args;
  if (first === "--help" || first === "-h") return print(usage);
  if (first === "--version") return print(`${version()}\n`);
  if (first === "engine" && second === "--config" && third !== undefined && rest.length === 0) return runEngine(third);
  if (first === "explain") return explainSwitch(args.slice(1));
  if (first === "check-config" && second !== undefined && third === undefined) return check(second);
  if (first === "--config" && second !== undefined && third === undefined) return run(second);
  if (first === undefined) return wrong("say what is to be done");
  if (commands.includes(first) || first === "--config") return wrong(`${first} needs other arguments`);
  const near = nearestName(first, [...commands, "--config", "--help", "--version"]);
  const what = first.startsWith("-") ? "option" : "command";
  return wrong(`there is no ${what} ${first}${near === undefined ? "" : `: did you mean ${near}?`}`);
}

function wrong(why: string): number {
  process.stderr.write(`patchbay: ${why}\n\n${usage}`);
  return 2;
}

function print(text: string): number {
  process.stdout.write(text);
  return 0;
}

function check(file: string): number {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    process.stderr.write(`${file}: cannot be read: ${error instanceof Error ? error.message : String(error)}\n`);
    return 2;
  }
  const inText = checkConfig(text, process.env);
  const problems = inText.length > 0 ? inText : problemsBeyondText(loadConfig(file, process.env));
  if (problems.length === 0) {
    const missing = missingSecrets(file);
    print(`${file}: no problems\n${missing}`);
    return missing === "" ? 0 : 1;
  }
  for (const { path, message } of problems) {
    process.stderr.write(path === "" ? `${file}: ${message}\n` : `${file}: ${path}: ${message}\n`);
  }
  return 2;
}

/** What only the files it names, or its parts together, can tell. */
function problemsBeyondText(config: Config): readonly ConfigProblem[] {
  return [
    ...certificateProblems(config),
    ...programProblems(config),
    ...promptProblems(config),
    ...fallbackProblems(config),
  ];
}

/** The file may be right where its secrets are not at hand; the service would not start there, so it is said. */
function missingSecrets(file: string): string {
  try {
    loadSecrets(loadConfig(file, process.env), process.env, dirname(resolve(file)));
    return "";
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    const lines = error.problems.map(({ path, message }) => `  ${path}: ${message}\n`);
    return `The service cannot start here, because secrets are missing:\n${lines.join("")}`;
  }
}

function explainSwitch(args: readonly string[]): number {
  const text = { type: "string" } as const;
  const options = { channel: text, caller: text, called: text, config: text };
  let parsed: ReturnType<typeof parseArgs<{ options: typeof options; allowPositionals: true }>>;
  try {
    parsed = parseArgs({ args: [...args], options, allowPositionals: true });
  } catch (error) {
    return wrong(`explain: ${error instanceof Error ? error.message : String(error)}`);
  }
  const { values, positionals } = parsed;
  const [file, ...more] = positionals;
  if (values.channel === undefined || file === undefined || more.length > 0) {
    return wrong("explain needs --channel BOT and one SWITCH.json");
  }
  const config = loadConfig(values.config ?? "patchbay.yaml", process.env);
  let json: Uint8Array;
  try {
    json = readFileSync(file);
  } catch (error) {
    process.stderr.write(`${file}: cannot be read: ${error instanceof Error ? error.message : String(error)}\n`);
    return 2;
  }
  const { text: said, refused } = explain(config, {
    botId: values.channel,
    json,
    caller: values.caller ?? "",
    called: values.called,
  });
  print(said);
  return refused ? 1 : 0;
}

async function run(file: string): Promise<number> {
  const config = loadConfig(file, process.env);
  const secrets = loadSecrets(config, process.env, dirname(resolve(file)));
  const log = createLog(config.log);
  await using app = await createApp(config, secrets, { log });
  return await serve(app, log);
}

async function runEngine(file: string): Promise<number> {
  const config = loadConfig(file, process.env);
  const secrets = loadSecrets(config, process.env, dirname(resolve(file)));
  const log = createLog(config.log);
  await using engine = await createEngineProcess(config, secrets, { log });
  return await serve(engine, log);
}

/** Until the first signal, and then until the calls are over, the time is up, or the second signal comes. */
async function serve(service: Service, log: Log): Promise<number> {
  const listening = service.listening.map(({ protocol, address, port }) => `${protocol}/${address}:${port}`);
  const [first, second] = listenForSignals();
  log.info({ listening, admin: service.adminPort }, "ready");
  await first;
  log.info({ calls: service.calls }, "draining: no new calls; a second signal ends the calls that are held");
  const ended = await Promise.race([service.drain(drainMs).then(() => true), second.then(() => false)]);
  if (!ended) log.warn({ calls: service.calls }, "second signal: ending the calls");
  return 0;
}

type Service = Pick<App, "listening" | "adminPort" | "calls" | "drain">;

/**
 * The first and the second SIGTERM or SIGINT. The listeners stay: a terminal's Ctrl-C often comes twice, and a signal
 * during closing would end the process with events and recordings unwritten. Closing has time limits of its own.
 */
function listenForSignals(): readonly [first: Promise<void>, second: Promise<void>] {
  const waiting: (() => void)[] = [];
  const next = (): Promise<void> => new Promise((resolve) => waiting.push(resolve));
  const arrived = (): void => waiting.shift()?.();
  process.on("SIGTERM", arrived).on("SIGINT", arrived);
  return [next(), next()];
}

try {
  process.exitCode = await main(process.argv.slice(2));
} catch (error) {
  process.exitCode = error instanceof ConfigError ? 2 : 1;
  process.stderr.write(error instanceof ConfigError ? `${error.message}\n` : `${describe(error)}\n`);
}

/** The sentence of an error and of what caused it; the stack is for faults of ours, which have no code. */
function describe(error: unknown): string {
  if (!(error instanceof Error)) return `patchbay: ${String(error)}`;
  const cause = error.cause instanceof Error ? ` (${error.cause.message})` : "";
  return "code" in error ? `patchbay: ${error.message}${cause}` : `patchbay: ${error.stack ?? error.message}${cause}`;
}
