// `npm run demo`: one call from bot to operator and back on the real parts, shown while it happens and judged at its end.
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { nowMs } from "../test/support/clock.ts";
import { type Evidence, type Finding, judge } from "./expectations.ts";
import { interruption, startUnless } from "./interruption.ts";
import { drawHeading } from "./ladder.ts";
import { findingLines, jsonFailure, jsonReport, recordingLines } from "./report.ts";
import { playShortStory, setShortStage, stories } from "./short-stories.ts";
import { playStory, setStage, setStageAt, type Stage } from "./story.ts";
import { Trace } from "./trace.ts";

const usage = `Usage: npm run demo -- [--json] [--folder DIR] [--story NAME]
       npm run demo -- [--json] --running FILE --sip HOST:PORT
  --json        the last line of standard output is one JSON object
  --folder DIR  where the recording is kept (default: .patchbay/demo)
  --running FILE, --sip HOST:PORT
                starts phones and a bot only, for a Patchbay that runs already on this configuration and takes calls there
  --story NAME  a short story in place of the whole one:
${Object.entries(stories)
  .map(([name, { about }]) => `                  ${name.padEnd(9)} ${about}`)
  .join("\n")}
`;

const defaultFolder = join(fileURLToPath(new URL("..", import.meta.url)), ".patchbay", "demo");

const write = (line: string): void => void process.stdout.write(`${line}\n`);

async function watched(stage: Stage, interrupted: Promise<never>, colour: boolean): Promise<Evidence> {
  await using trace = new Trace({ zeroMs: nowMs(), colour, write, now: nowMs });
  return await Promise.race([playStory(stage, trace), interrupted]);
}

function logEnd(log: string): string {
  return log.trimEnd().split("\n").slice(-20).join("\n");
}

async function play(setting: Promise<Stage>, json: boolean, interrupted: Promise<never>): Promise<boolean> {
  const colour = process.stdout.isTTY && process.env["NO_COLOR"] === undefined;
  await using stage = await startUnless(interrupted, setting);
  const { service, exchange, silent, caller } = stage;
  write(
    `  Patchbay takes calls at ${service.sip.host}:${service.sip.port} (SIP over UDP and TCP), Redis is at ${service.redis.url}.`,
  );
  write(`  Phones: the caller's at port ${caller.port}, the operators' at ports ${exchange.port} and ${silent.port}.`);
  write("");
  write(drawHeading());
  const evidence = await watched(stage, interrupted, colour);
  const findings = judge(evidence, stage.plan);
  write("");
  if (evidence.recording !== undefined) for (const line of recordingLines(evidence.recording)) write(line);
  const held = tell(findings, service.log, colour);
  if (json) write(JSON.stringify(jsonReport(evidence, findings)));
  return held;
}

/** Prints what had to hold, and whether it did. */
function tell(findings: readonly Finding[], log: string, colour: boolean): boolean {
  const failed = findings.filter(({ held }) => !held);
  write("");
  write("What had to hold:");
  for (const line of findingLines(findings, colour)) write(line);
  write("");
  if (failed.length > 0 && log !== "") process.stderr.write(`Patchbay's log ends:\n${logEnd(log)}\n`);
  if (failed.length === 0) write(`All ${findings.length} expectations held.`);
  else {
    const [first] = failed;
    complain(`${failed.length} of ${findings.length} expectations did not hold.`);
    complain(`The first: ${first?.expected}; found: ${first?.found}.`);
  }
  return failed.length === 0;
}

async function playShort(name: string, folder: string, json: boolean, interrupted: Promise<never>): Promise<boolean> {
  const story = stories[name];
  if (story === undefined) throw new Error(`there is no story ${name}`);
  const colour = process.stdout.isTTY && process.env["NO_COLOR"] === undefined;
  write(`${name}: ${story.about}.`);
  await using stage = await startUnless(interrupted, setShortStage(story, folder));
  write(drawHeading());
  const play = async (): Promise<readonly Finding[]> => {
    await using trace = new Trace({ zeroMs: nowMs(), colour, write, now: nowMs });
    return await playShortStory(stage, trace);
  };
  const findings = await Promise.race([play(), interrupted]);
  const held = tell(findings, stage.service.log, colour);
  if (json) write(JSON.stringify({ ok: held, story: name, findings }));
  return held;
}

/** Starts everything, or finds what runs. */
function setting({ running, sip, folder }: Values): Promise<Stage> {
  if (running !== undefined && sip !== undefined) {
    write("Three phones and a bot for a Patchbay that runs already …");
    return setStageAt(running, sip);
  }
  write("Starting Redis, rtpengine, Patchbay with its embedded SIP engine, and three phones on loopback …");
  return setStage(folderOf(folder));
}

const folderOf = (folder: string | undefined): string => (folder === undefined ? defaultFolder : resolve(folder));

interface Values {
  readonly json?: boolean;
  readonly folder?: string;
  readonly help?: boolean;
  readonly story?: string;
  readonly running?: string;
  readonly sip?: string;
}

const complain = (sentence: string): void => void process.stderr.write(`demo: ${sentence}\n`);
const sentenceOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** Exit status: 0 everything held, 1 something did not or could not be started, 2 wrong arguments. */
async function main(): Promise<number> {
  let values: Values;
  try {
    ({ values } = parseArgs({
      options: {
        json: { type: "boolean" },
        folder: { type: "string" },
        help: { type: "boolean", short: "h" },
        story: { type: "string" },
        running: { type: "string" },
        sip: { type: "string" },
      },
    }));
    if ((values.running === undefined) !== (values.sip === undefined))
      throw new Error("--running and --sip go together");
    if (values.running !== undefined && (values.story ?? values.folder) !== undefined)
      throw new Error("--running plays the whole story only, and recordings stay where that Patchbay keeps them");
  } catch (error) {
    process.stderr.write(`demo: ${sentenceOf(error)}\n${usage}`);
    return 2;
  }
  if (values.help === true) {
    process.stdout.write(usage);
    return 0;
  }
  const { story } = values;
  if (story !== undefined && !Object.hasOwn(stories, story)) {
    process.stderr.write(`demo: there is no story ${JSON.stringify(story)}\n${usage}`);
    return 2;
  }
  const json = values.json === true;
  try {
    const playing =
      story === undefined
        ? play(setting(values), json, interruption())
        : playShort(story, folderOf(values.folder), json, interruption());
    return (await playing) ? 0 : 1;
  } catch (error) {
    complain(sentenceOf(error));
    if (json) write(JSON.stringify(jsonFailure(sentenceOf(error))));
    return 1;
  }
}

// A story that was interrupted may still wait for something that cannot come any more.
process.exit(await main());
