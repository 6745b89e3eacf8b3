// `npm start` with softphones: our own phone with the offer of a usual softphone, and a real baresip where it is installed.
import { createSocket } from "node:dgram";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { type BaresipOptions, writeBaresipFolder } from "../../demo/baresip.ts";
import { measureRecording } from "../../src/media/audio/measure.ts";
import { DisposalStack } from "../support/disposal.ts";
import { temporaryFolder } from "../support/folder.ts";
import { pitches } from "../support/pitch.ts";
import { claimPort } from "../support/ports.ts";
import { findProgram, RunningProcess } from "../support/process.ts";
import { Phone } from "../support/rtp-phone.ts";
import { waitFor, within } from "../support/wait.ts";

const projectFolder = fileURLToPath(new URL("../..", import.meta.url));

interface QuickStart extends AsyncDisposable {
  readonly process: RunningProcess;
  readonly patchbayPort: number;
  readonly operatorPort: number;
  readonly callerPort: number;
  readonly folder: string;
}

async function startQuickStart(): Promise<QuickStart> {
  await using resources = new DisposalStack();
  const { path: folder } = resources.use(await temporaryFolder("quick-start"));
  const [patchbayPort, operatorPort, callerPort] = [
    resources.use(await claimPort()).port,
    resources.use(await claimPort()).port,
    resources.use(await claimPort()).port,
  ];
  const child = resources.use(
    await RunningProcess.start({
      name: "npm start",
      command: "node",
      cwd: projectFolder,
      args: ["--import", "tsx", "demo/quick-start.ts", "--folder", folder],
      env: {
        PATCHBAY_SIP_PORT: String(patchbayPort),
        PATCHBAY_OPERATOR_PORT: String(operatorPort),
        PATCHBAY_CALLER_PORT: String(callerPort),
      },
      ready: ({ stdout }) => stdout.includes("Patchbay is ready") && stdout.includes("redis-cli -p"),
      readyTimeoutMs: 40_000,
    }),
  );
  const held = resources.move();
  const dispose = (): Promise<void> => held[Symbol.asyncDispose]();
  return { process: child, patchbayPort, operatorPort, callerPort, folder, [Symbol.asyncDispose]: dispose };
}

/** What a Linphone offers: many codecs, telephone-event at several rates, ICE, a video stream. */
function softphoneOffer(): string {
  return [
    "v=0",
    "o=caller 1 1 IN IP4 127.0.0.1",
    "s=Talk",
    "c=IN IP4 127.0.0.1",
    "t=0 0",
    "a=ice-pwd:aaaaaaaaaaaaaaaaaaaaaaaa",
    "a=ice-ufrag:abcd1234",
    "a=rtcp-xr:rcvr-rtt=all:10000 stat-summary=loss,dup,jitt,TTL voip-metrics",
    "m=audio 9 RTP/AVP 96 97 98 8 0 18 101 99 100",
    "a=rtpmap:96 opus/48000/2",
    "a=fmtp:96 useinbandfec=1",
    "a=rtpmap:97 speex/16000",
    "a=rtpmap:98 speex/8000",
    "a=fmtp:18 annexb=yes",
    "a=rtpmap:101 telephone-event/48000",
    "a=rtpmap:99 telephone-event/16000",
    "a=rtpmap:100 telephone-event/8000",
    "a=candidate:1 1 UDP 2130706303 127.0.0.1 9 typ host",
    "a=rtcp-fb:* trr-int 1000",
    "m=video 11 RTP/AVP 96",
    "a=rtpmap:96 VP8/90000",
    "",
  ].join("\r\n");
}

describe("npm start", () => {
  it("lets a softphone talk to the bot, to the operator's softphone, and to the bot again", async () => {
    await using start = await startQuickStart();
    await using operator = await Phone.start({
      user: "operator",
      port: start.operatorPort,
      tone: pitches.operator,
      codecs: ["PCMU", "PCMA"],
    });
    await using caller = await Phone.start({ user: "caller", tone: pitches.caller, codecs: ["PCMU", "PCMA"] });
    const call = await caller.dial(`sip:demo@127.0.0.1:${start.patchbayPort}`, { body: softphoneOffer() });
    await within(call.established, 5_000, "the answer");
    // RFC 3264 §6: one m= line for each that was offered, the one that is not wanted with port 0.
    const answer = call.responses.at(-1)?.body ?? "";
    expect(answer).toMatch(/^m=audio \d+ RTP\/AVP 8 100\r$/m);
    expect(answer).toMatch(/^m=video 0 /m);

    const seen = (text: string): Promise<true> =>
      waitFor(() => start.process.stdout.includes(text), { timeoutMs: 15_000, what: `"${text}" on the screen` });
    await seen("playback completed");
    call.media.pressDigits("1");
    await seen("dtmf 1");
    const talk = await operator.nextCall({ timeoutMs: 15_000 });
    await talk.media.hears(pitches.caller);
    await call.media.hears(pitches.operator);
    await talk.hangUp();
    await seen('transferStatus {"status":"SUCCESS","hangup":false');
    expect(await within(call.ended, 20_000, "the bot's goodbye")).toMatchObject({ by: "peer", how: "BYE" });
    expect(call.reInvites).toEqual([]);
    await seen("hangup by bot");
    const files = await readdir(join(start.folder, "recordings"));
    expect(files.map((file) => file.slice(file.lastIndexOf("."))).toSorted()).toEqual([".json", ".wav"]);

    start.process.signal("SIGINT");
    expect(await within(start.process.exited, 15_000, "npm start to stop")).toMatchObject({ code: 0 });
  });

  it("says which port is in use and how to choose another", async () => {
    await using folder = await temporaryFolder("quick-start");
    await using taken = await claimPort();
    const socket = createSocket("udp4");
    await new Promise<void>((resolve) => socket.bind(taken.port, "127.0.0.1", resolve));
    try {
      await using child = await RunningProcess.start({
        name: "npm start",
        command: "node",
        cwd: projectFolder,
        args: ["--import", "tsx", "demo/quick-start.ts", "--folder", folder.path],
        env: { PATCHBAY_SIP_PORT: String(taken.port) },
      });
      expect(await within(child.exited, 20_000, "the refusal")).toMatchObject({ code: 1 });
      expect(child.output).toContain(`port ${taken.port} on 127.0.0.1 is in use`);
      expect(child.output).toContain("PATCHBAY_SIP_PORT=5062 npm start");
    } finally {
      socket.close();
    }
  });
});

/** A baresip without sound devices: it sends a tone, and what it hears goes to a file. Keys come over UDP. */
class Baresip implements AsyncDisposable {
  readonly process: RunningProcess;
  readonly #consolePort: number;
  readonly #folder: string;
  readonly #resources: DisposalStack;

  private constructor(process: RunningProcess, consolePort: number, folder: string, resources: DisposalStack) {
    this.process = process;
    this.#consolePort = consolePort;
    this.#folder = folder;
    this.#resources = resources;
  }

  static async start(options: Pick<BaresipOptions, "user" | "sipPort" | "answering">, hz: number): Promise<Baresip> {
    await using resources = new DisposalStack();
    const { path: folder } = resources.use(await temporaryFolder("baresip"));
    const { port: consolePort } = resources.use(await claimPort());
    await writeBaresipFolder(folder, {
      ...options,
      sound: { type: "tone", hz },
      codecs: ["opus", "g722", "g711"],
      modules: ["cons", "stun", "turn", "ice"],
      lines: [`cons_listen 127.0.0.1:${consolePort}`],
    });
    const child = resources.use(
      await RunningProcess.start({
        name: "baresip",
        command: "baresip",
        cwd: folder,
        args: ["-4", "-v", "-s", "-f", folder],
        ready: ({ output }) => output.includes("baresip is ready"),
      }),
    );
    return new Baresip(child, consolePort, folder, resources.move());
  }

  /** Presses keys, or gives a command such as "/dial sip:…\n". */
  async press(keys: string): Promise<void> {
    const socket = createSocket("udp4");
    await new Promise<void>((resolve, reject) => {
      socket.send(keys, this.#consolePort, "127.0.0.1", (error) => (error === null ? resolve() : reject(error)));
    });
    socket.close();
  }

  /** Presses one key and lets it go. */
  async tap(key: string): Promise<void> {
    await this.press(`${key}\u0004`);
  }

  /** How many of its status lines told of sound in both directions: bits a second, sent and received. */
  flowing(): number {
    const lines = this.process.output.matchAll(/audio=(\d+)\/(\d+)/g);
    return [...lines].filter(([, sent, received]) => Number(sent) > 50_000 && Number(received) > 50_000).length;
  }

  /** Shares of a pitch in what it heard, per second of sound. */
  async heard(hz: number): Promise<readonly number[]> {
    const name = (await readdir(this.#folder)).find((file) => file.endsWith("-dec.wav"));
    if (name === undefined) return [];
    const file = join(this.#folder, name);
    const { seconds } = await measureRecording(file);
    const windows = Array.from({ length: Math.floor(seconds) }, (_, from) => ({ from, to: from + 1 }));
    const measured = await measureRecording(file, { windows, pitchesHz: [hz] });
    return measured.windows.map(({ channels }) => channels[0]?.pitchShares[0] ?? 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#resources[Symbol.asyncDispose]();
  }
}

const withoutBaresip = findProgram("baresip") === undefined;

describe.skipIf(withoutBaresip)("npm start with baresip (skipped where baresip is not installed)", () => {
  it.each(["udp", "tcp"])("transfers from one baresip to another and back, called over %s", async (protocol) => {
    await using start = await startQuickStart();
    await using operator = await Baresip.start(
      { user: "operator", sipPort: start.operatorPort, answering: "at-once" },
      pitches.operator,
    );
    await using caller = await Baresip.start(
      { user: "caller", sipPort: start.callerPort, answering: "by-hand" },
      pitches.caller,
    );
    const seen = (text: string): Promise<true> =>
      waitFor(() => start.process.stdout.includes(text), { timeoutMs: 15_000, what: `"${text}" on the screen` });
    const suffix = protocol === "tcp" ? ";transport=tcp" : "";
    await caller.press(`/dial sip:demo@127.0.0.1:${start.patchbayPort}${suffix}\n`);
    await seen("playback completed");
    await caller.tap("1");
    await seen("dtmf 1");
    await seen("transferProgress bridged");
    // Enough of the talk to be measured afterwards. Each figure is of the last seconds, so not each is the 64,000 of G.711.
    await waitFor(() => operator.flowing() > 25, {
      timeoutMs: 15_000,
      what: "sound in both directions at the operator's baresip",
    });
    await operator.press("b");
    await seen('transferStatus {"status":"SUCCESS","hangup":false');
    await seen("hangup by bot");
    await waitFor(async () => (await caller.heard(pitches.operator)).length > 5, {
      what: "the file of what was heard",
    });
    const atCaller = await caller.heard(pitches.operator);
    expect(Math.max(...atCaller)).toBeGreaterThan(0.9);
    expect(atCaller[0]).toBeLessThan(0.2);
    expect(Math.max(...(await operator.heard(pitches.caller)))).toBeGreaterThan(0.9);
  });
});
