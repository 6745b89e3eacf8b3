// `npm start` without a configuration: everything a softphone needs to call a bot and be transferred, on loopback.
import { createSocket } from "node:dgram";
import { createServer } from "node:net";
import { networkInterfaces } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { nowMs } from "../test/support/clock.ts";
import { DisposalStack } from "../test/support/disposal.ts";
import { RunningProcess } from "../test/support/process.ts";
import { writeBaresipFolder } from "./baresip.ts";
import { Interrupted, interruption, startUnless } from "./interruption.ts";
import { redisRows } from "./labels.ts";
import { tinted } from "./ladder.ts";
import { type RedisMessage, RedisWitness } from "./redis-witness.ts";
import { shownPath } from "./report.ts";
import { Service } from "./service.ts";

const projectFolder = fileURLToPath(new URL("..", import.meta.url));
const dataFolder = join(projectFolder, ".patchbay");
const recordingFolder = join(dataFolder, "recordings");
/** The bot that a caller of sip:demo@… talks to, and the one that nobody plays, for redis-cli. */
const sampleBot = "demo";
const manualBot = "manual";

interface Ports {
  readonly patchbay: number;
  readonly operator: number;
  readonly caller: number;
}

const write = (line: string): void => void process.stdout.write(`${line}\n`);

function portFrom(variable: string, usual: number): number {
  const text = process.env[variable];
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

function writePhoneFolders({ operator, caller }: Ports): Promise<void[]> {
  const usual = { sound: { type: "devices" }, answering: "by-hand", codecs: ["opus", "g722", "g711"] } as const;
  return Promise.all([
    writeBaresipFolder(join(dataFolder, "baresip", "operator"), { user: "operator", sipPort: operator, ...usual }),
    writeBaresipFolder(join(dataFolder, "baresip", "caller"), { user: "caller", sipPort: caller, ...usual }),
  ]);
}

/** The one screen. */
function screen(ports: Ports, redisPort: number): readonly string[] {
  const at = ports.patchbay === 5060 ? "127.0.0.1" : `127.0.0.1:${ports.patchbay}`;
  const folder = (name: string): string => shownPath(join(dataFolder, "baresip", name));
  return [
    "",
    "Patchbay is ready. Ctrl-C stops everything.",
    "",
    `  call        sip:demo@${at}               no registration; SIP over UDP and TCP, port ${ports.patchbay}`,
    `  operator    sip:operator@127.0.0.1:${ports.operator}    a second softphone that listens there: the bot transfers to it`,
    `  recordings  ${shownPath(recordingFolder)}`,
    `  Redis       redis-cli -p ${redisPort} psubscribe 'pb:*'     shows every event and command`,
    "",
    "With baresip (apt-get install baresip), in two more terminals, operator first:",
    `  baresip -f ${folder("operator")}                                  a answers, b hangs up`,
    `  baresip -f ${folder("caller")} -e '/dial sip:demo@${at}'   the key 1 asks for the operator`,
    "With Linphone or any other softphone: no account, network settings with SIP port (UDP)",
    `${ports.operator} for the operator's and ${ports.caller} for the caller's, then dial the address above.`,
    "",
    `To play the bot yourself, dial sip:${manualBot}@${at} instead, take replyTo from the event`,
    `in pb:{${manualBot}}:events, and send it commands: README.md, "Drive a call with redis-cli".`,
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

async function startAll(ports: Ports): Promise<Running> {
  await using resources = new DisposalStack();
  await checkPort(ports.patchbay);
  await writePhoneFolders(ports);
  const service = resources.use(
    await Service.start({
      channels: [
        { botId: sampleBot, number: "demo" },
        { botId: manualBot, number: manualBot },
      ],
      gateway: { host: "127.0.0.1", port: ports.operator },
      sipHosts: ["127.0.0.1", "localhost", ...ownAddresses()],
      sources: ["127.0.0.0/8", ...ownAddresses()],
      sipPort: ports.patchbay,
      recordingFolder,
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
        `operator@127.0.0.1:${ports.operator}`,
        service.redis.url,
      ],
      ready: (child) => child.stdout.includes("waiting for calls"),
    }),
  );
  const colour = process.stdout.isTTY && process.env["NO_COLOR"] === undefined;
  resources.use(await RedisWitness.start(service.redis.url, "pb", (message) => showMessage(message, colour)));
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
    const ports: Ports = {
      patchbay: portFrom("PATCHBAY_SIP_PORT", 5060),
      operator: portFrom("PATCHBAY_OPERATOR_PORT", 5070),
      caller: portFrom("PATCHBAY_CALLER_PORT", 5080),
    };
    write("Starting Redis, rtpengine, Patchbay with its embedded SIP engine, and the sample bot …");
    const startedMs = nowMs();
    await using running = await startUnless(interrupted, startAll(ports));
    write(`  ready after ${((nowMs() - startedMs) / 1_000).toFixed(1)} s`);
    for (const line of screen(ports, running.service.redis.port)) write(line);
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
