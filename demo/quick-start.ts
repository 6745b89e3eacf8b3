// `npm start` without a configuration: everything a softphone needs to call a bot and be transferred, on loopback.
import { createSocket } from "node:dgram";
import { existsSync } from "node:fs";
import { createServer } from "node:net";
import { networkInterfaces } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { DisposalStack } from "../test/support/disposal.ts";
import { RunningProcess } from "../test/support/process.ts";
import { type BaresipOptions, writeBaresipFolder } from "./baresip.ts";
import { Interrupted, interruption, startUnless } from "./interruption.ts";
import { redisRows } from "./labels.ts";
import { tinted } from "./ladder.ts";
import { type RedisMessage, RedisWitness } from "./redis-witness.ts";
import { shownPath } from "./report.ts";
import { Service } from "./service.ts";

const projectFolder = fileURLToPath(new URL("..", import.meta.url));
const usualFolder = join(projectFolder, ".patchbay");
/** The bot that a caller of sip:demo@… talks to, and the one that nobody plays, for redis-cli. */
const sampleBot = "demo";
const manualBot = "manual";

interface Places {
  /** Where Patchbay, the operator's and the caller's softphone listen for SIP. */
  readonly patchbay: number;
  readonly operator: number;
  readonly caller: number;
  readonly recordingFolder: string;
  /** Configurations for baresip. */
  readonly phoneFolders: { readonly operator: string; readonly caller: string };
}

function placesFrom(environment: NodeJS.ProcessEnv, folder: string): Places {
  return {
    patchbay: portFrom(environment, "PATCHBAY_SIP_PORT", 5060),
    operator: portFrom(environment, "PATCHBAY_OPERATOR_PORT", 5070),
    caller: portFrom(environment, "PATCHBAY_CALLER_PORT", 5080),
    recordingFolder: join(folder, "recordings"),
    phoneFolders: { operator: join(folder, "baresip", "operator"), caller: join(folder, "baresip", "caller") },
  };
}

const write = (line: string): void => void process.stdout.write(`${line}\n`);

function portFrom(environment: NodeJS.ProcessEnv, variable: string, usual: number): number {
  const text = environment[variable];
  if (text === undefined || text === "") return usual;
  const port = Number(text);
  if (!Number.isInteger(port) || port < 1 || port > 65_535)
    throw new Error(`${variable} is ${text}: not a port number`);
  return port;
}

function udpIsFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = createSocket("udp4");
    socket.once("error", () => {
      socket.close();
      resolve(false);
    });
    socket.bind({ address: "127.0.0.1", port, exclusive: true }, () => socket.close(() => resolve(true)));
  });
}

function tcpIsFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen({ host: "127.0.0.1", port, exclusive: true }, () => server.close(() => resolve(true)));
  });
}

async function checkPort(port: number): Promise<void> {
  if ((await udpIsFree(port)) && (await tcpIsFree(port))) return;
  throw new Error(
    `port ${port} on 127.0.0.1 is in use, perhaps by a softphone or another SIP service; ` +
      `close it, or take another port: PATCHBAY_SIP_PORT=5062 npm start`,
  );
}

/** A softphone on this machine may send from any of its addresses. */
function ownAddresses(): readonly string[] {
  const addresses = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  return addresses.filter(({ family, internal }) => family === "IPv4" && !internal).map(({ address }) => address);
}

/** Without a sound device baresip gives up its calls, so it sends a tone there and writes what it hears to a file. */
const hasSoundDevice = existsSync("/dev/snd");

async function writePhoneFolders({ operator, caller, phoneFolders }: Places): Promise<void> {
  const soundOf = (hz: number): BaresipOptions["sound"] =>
    hasSoundDevice ? { type: "devices" } : { type: "tone", hz };
  const usual = { answering: "by-hand", codecs: ["opus", "g722", "g711"] } as const;
  await Promise.all([
    writeBaresipFolder(phoneFolders.operator, { user: "operator", sipPort: operator, sound: soundOf(850), ...usual }),
    writeBaresipFolder(phoneFolders.caller, { user: "caller", sipPort: caller, sound: soundOf(440), ...usual }),
  ]);
}

/** The one screen. */
function screen(places: Places, redisPort: number): readonly string[] {
  const { patchbay, operator, caller, recordingFolder, phoneFolders } = places;
  const host = patchbay === 5060 ? "127.0.0.1" : `127.0.0.1:${patchbay}`;
  return [
    "",
    "Patchbay is ready. Ctrl-C stops everything.",
    "",
    `  call        sip:demo@${host}`,
    `              It listens on 127.0.0.1:${patchbay}, UDP and TCP; no registration, no password.`,
    `  operator    sip:operator@127.0.0.1:${operator}`,
    "              Let a second softphone listen there: the bot transfers the caller to it.",
    `  recordings  ${shownPath(recordingFolder)}`,
    `  Redis       port ${redisPort}`,
    "",
    "With baresip (apt-get install baresip-core), in two more terminals, the operator first:",
    `  baresip -f ${shownPath(phoneFolders.operator)}`,
    `  baresip -f ${shownPath(phoneFolders.caller)} -e '/dial sip:demo@${host}'`,
    "  Keys: 1 asks the bot for the operator, a answers, b hangs up, q quits.",
    ...(hasSoundDevice
      ? []
      : ["  No sound device here: they send tones and write what they hear to WAV files in these folders."]),
    "With Linphone or another softphone: no account; in its network settings the SIP port (UDP)",
    `${operator} for the operator and ${caller} for the caller. Then dial the address above.`,
    "",
    `To play the bot yourself, dial sip:${manualBot}@${host} and talk to Redis; README.md shows how:`,
    `  redis-cli -p ${redisPort} subscribe 'pb:{${manualBot}}:events'`,
    "",
  ];
}

function showMessage(message: RedisMessage, colour: boolean): void {
  const time = new Date(message.atMs).toISOString().slice(11, 19);
  for (const row of redisRows(message)) {
    if (row.type === "note") write(`${time}      ${tinted(row.text, row.tint, colour)}`);
    else write(`${time}  ${row.from === "bot" ? "<-" : "->"}  ${tinted(row.label, row.tint, colour)}`);
  }
}

async function startAll(places: Places): Promise<Running> {
  await using resources = new DisposalStack();
  await checkPort(places.patchbay);
  await writePhoneFolders(places);
  const service = resources.use(
    await Service.start({
      channels: [
        { botId: sampleBot, number: "demo" },
        // Whoever plays the bot in a terminal needs time to type.
        { botId: manualBot, number: manualBot, more: { botTimeoutMs: 600_000, botSilenceMs: 3_600_000 } },
      ],
      gateway: { host: "127.0.0.1", port: places.operator },
      sipHosts: ["127.0.0.1", "localhost", ...ownAddresses()],
      sources: ["127.0.0.0/8", ...ownAddresses()],
      sipPort: places.patchbay,
      recordingFolder: places.recordingFolder,
    }),
  );
  const bot = resources.use(
    await RunningProcess.start({
      name: "the sample bot",
      command: "node",
      cwd: projectFolder,
      args: [
        "--import",
        "tsx",
        "examples/bot-typescript/bot.ts",
        sampleBot,
        `operator@127.0.0.1:${places.operator}`,
        service.redis.url,
      ],
      ready: (child) => child.stdout.includes("waiting for calls"),
    }),
  );
  const colour = process.stdout.isTTY && process.env["NO_COLOR"] === undefined;
  resources.use(
    await RedisWitness.start(service.redis, { keep: false, seen: (message) => showMessage(message, colour) }),
  );
  const held = resources.move();
  return { service, bot, [Symbol.asyncDispose]: () => held[Symbol.asyncDispose]() };
}

interface Running extends AsyncDisposable {
  readonly service: Service;
  readonly bot: RunningProcess;
}

/** Rejects when one of the processes ends by itself. */
async function untilOneEnds({ service, bot }: Running): Promise<never> {
  const ended = await Promise.race([service.patchbay, bot].map((child) => child.exited.then(() => child)));
  throw new Error(`${ended.name} has ended; its last words:\n${ended.output.slice(-2_000)}`);
}

/** Exit status: 0 stopped by a signal, 1 could not be started or ended by itself. */
async function main(): Promise<number> {
  const interrupted = interruption();
  try {
    const { values } = parseArgs({ options: { folder: { type: "string" } } });
    const places = placesFrom(process.env, values.folder === undefined ? usualFolder : resolve(values.folder));
    write("Starting Redis, rtpengine, Patchbay with its embedded SIP engine, and the sample bot …");
    await using running = await startUnless(interrupted, startAll(places));
    for (const line of screen(places, running.service.redis.port)) write(line);
    return await Promise.race([untilOneEnds(running), interrupted]);
  } catch (error) {
    if (error instanceof Interrupted) {
      write("stopped");
      return 0;
    }
    process.stderr.write(`start: ${error instanceof Error ? error.message : String(error)}\n`);
    return 1;
  }
}

process.exit(await main());
