import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  renameSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { encodeG711 } from "../../src/media/audio/g711.ts";
import { measureRecording } from "../../src/media/audio/measure.ts";
import { toInt16, WavReader, WavWriter } from "../../src/media/audio/wav.ts";
import type { JournalLine } from "../../src/media/recording/journal.ts";
import { JournalWriter, parseJournal } from "../../src/media/recording/journal.ts";
import { Recorder } from "../../src/media/recording/recorder.ts";
import type { CallRecording, RecorderOptions, RecoveryOptions } from "../../src/media/recording/recorder.ts";
import { systemMediaClock } from "../../src/media/options.ts";
import { readCapture, udpOf } from "../../src/media/recording/pcap.ts";
import { renderRecording } from "../../src/media/recording/render.ts";
import { parseRtp, RtpTrack } from "../../src/media/recording/rtp-track.ts";
import { secondsInFile, sidecarOf, timelineOf } from "../../src/media/recording/timeline.ts";
import type { Sidecar } from "../../src/media/recording/timeline.ts";

const start = Date.UTC(2026, 10, 22, 17, 0, 0);
const callerPort = 40_000;
const operatorPort = 40_010;

let folder = "";
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "patchbay-render-"));
  for (const name of ["pcaps", "metadata", "tmp", "patchbay", "out"]) mkdirSync(join(folder, name));
});
afterEach(() => {
  rmSync(folder, { recursive: true });
});

interface Sent {
  readonly atMs: number;
  readonly port: number;
  readonly payload: Buffer;
}

function rtp(
  sequence: number,
  timestamp: number,
  ssrc: number,
  payloadType: number,
  payload: Uint8Array,
  marker = false,
): Buffer {
  const header = Buffer.alloc(12);
  header[0] = 0x80;
  header[1] = payloadType | (marker ? 0x80 : 0);
  header.writeUInt16BE(sequence & 0xffff, 2);
  header.writeUInt32BE(timestamp >>> 0, 4);
  header.writeUInt32BE(ssrc, 8);
  return Buffer.concat([header, payload]);
}

function udpFrame(port: number, payload: Buffer, link: 1 | 101, version: 4 | 6): Buffer {
  const udp = Buffer.alloc(8);
  udp.writeUInt16BE(5_000, 0);
  udp.writeUInt16BE(port, 2);
  udp.writeUInt16BE(8 + payload.length, 4);
  let ip: Buffer;
  if (version === 4) {
    ip = Buffer.alloc(20);
    ip[0] = 0x45;
    ip[9] = 17;
  } else {
    ip = Buffer.alloc(40);
    ip[0] = 0x60;
    ip[6] = 17;
  }
  const ethernet =
    link === 1
      ? Buffer.concat([Buffer.alloc(12), Buffer.from(version === 4 ? "0800" : "86dd", "hex")])
      : Buffer.alloc(0);
  return Buffer.concat([ethernet, ip, udp, payload]);
}

function pcap(packets: readonly Sent[], link: 1 | 101 = 101, version: 4 | 6 = 4): Buffer {
  const header = Buffer.alloc(24);
  header.writeUInt32LE(0xa1b2c3d4, 0);
  header.writeUInt32LE(link, 20);
  return Buffer.concat([
    header,
    ...packets.flatMap(({ atMs, port, payload }) => {
      const frame = udpFrame(port, payload, link, version);
      const record = Buffer.alloc(16);
      record.writeUInt32LE(Math.floor(atMs / 1_000), 0);
      record.writeUInt32LE(Math.round((atMs % 1_000) * 1_000), 4);
      record.writeUInt32LE(frame.length, 8);
      record.writeUInt32LE(frame.length, 12);
      return [record, frame];
    }),
  ]);
}

interface Stream {
  readonly port: number;
  readonly hz: number;
  readonly fromMs: number;
  readonly toMs: number;
  readonly payloadType?: 0 | 8;
  readonly ssrc?: number;
  readonly firstTimestamp?: number;
  readonly amplitude?: number;
  /** Delay of the packet with that number, in milliseconds; undefined: lost. */
  readonly delayMs?: (index: number) => number | undefined;
}

/** A tone as a phone sends it: 20 ms packets, the phase going on from packet to packet. */
function stream(choice: Stream): Sent[] {
  const { port, hz, fromMs, toMs, payloadType = 0, ssrc = 1, firstTimestamp = 4_294_960_000, amplitude = 0.4 } = choice;
  const sent: Sent[] = [];
  for (let index = 0; fromMs + index * 20 < toMs; index += 1) {
    const delay = choice.delayMs === undefined ? 0 : choice.delayMs(index);
    if (delay === undefined) continue;
    const samples = Float32Array.from(
      { length: 160 },
      (_, sample) => amplitude * Math.sin((2 * Math.PI * hz * (index * 160 + sample)) / 8_000),
    );
    const payload = encodeG711(payloadType === 0 ? "PCMU" : "PCMA", toInt16(samples));
    const packet = rtp(index, firstTimestamp + index * 160, ssrc, payloadType, payload);
    sent.push({ atMs: start + fromMs + index * 20 + delay, port, payload: packet });
  }
  return sent;
}

const opened: JournalLine = {
  type: "open",
  v: 1,
  callId: "call-1",
  ngCall: "pb-call",
  botId: "bot-1",
  caller: "100",
  called: "200",
  name: "call-1-x",
};
const legs: readonly JournalLine[] = [
  {
    type: "leg",
    at: 0,
    leg: "caller",
    port: callerPort,
    laws: [
      [0, "PCMU"],
      [8, "PCMA"],
    ],
  },
  {
    type: "leg",
    at: start,
    leg: "op1",
    port: operatorPort,
    laws: [
      [0, "PCMU"],
      [8, "PCMA"],
    ],
  },
];

function render(
  lines: readonly JournalLine[],
  packets: readonly Sent[] | Buffer,
): Promise<{ file: string; durationMs: number; sidecar: Sidecar }> {
  writeFileSync(
    join(folder, "pcaps", "one.pcap"),
    Buffer.isBuffer(packets) ? packets : pcap(packets.toSorted((a, b) => a.atMs - b.atMs)),
  );
  const journal = join(folder, "patchbay", "call-1-x.jsonl");
  const all: readonly JournalLine[] = [opened, ...legs, { type: "capture", file: "one.pcap" }, ...lines];
  writeFileSync(journal, all.map((line) => `${JSON.stringify(line)}\n`).join(""));
  const { file, durationMs, sidecar } = renderRecording({
    journal,
    unwritten: "",
    spoolFolder: folder,
    folder: join(folder, "out"),
    mark: null,
  });
  return Promise.resolve({ file, durationMs, sidecar: JSON.parse(readFileSync(sidecar, "utf8")) as Sidecar });
}

async function pitchesOf(file: string, windows: readonly { from: number; to: number }[]): Promise<(number | null)[][]> {
  const measure = await measureRecording(file, { windows, pitchesHz: [440, 620, 850] });
  return measure.windows.map(({ channels }) =>
    channels.map(({ rmsDbfs, pitchHz }) => (rmsDbfs < -50 ? null : pitchHz)),
  );
}

const run = (ms: number): JournalLine => ({ type: "run", at: start + ms });
const hold = (ms: number): JournalLine => ({ type: "hold", at: start + ms });
const end = (ms: number): JournalLine => ({ type: "end", at: start + ms });

describe("rendering", () => {
  test("jitter, reordering and duplicates leave no gap in the sound", async () => {
    const packets = stream({
      port: callerPort,
      hz: 440,
      fromMs: 0,
      toMs: 5_000,
      delayMs: (index) => [0, 35, 5, 70, 12][index % 5],
    });
    const { file, sidecar } = await render([run(0), end(5_000)], [...packets, ...packets.slice(20, 40)]);
    expect(sidecar.seconds).toBeCloseTo(5, 1);
    const measure = await measureRecording(file, { windows: [{ from: 0.1, to: 4.9 }], pitchesHz: [440] });
    expect(measure.windows[0]?.channels[0]?.longestSilenceMs).toBe(0);
    expect(measure.windows[0]?.channels[0]?.pitchShares[0]).toBeGreaterThan(0.98);
    expect(measure.windows[0]?.channels[1]?.rmsDbfs).toBe(-120);
  });

  test("what is lost stays silent in its place", async () => {
    const { file } = await render(
      [run(0), end(3_000)],
      stream({
        port: callerPort,
        hz: 440,
        fromMs: 0,
        toMs: 3_000,
        delayMs: (index) => (index >= 50 && index < 75 ? undefined : 0),
      }),
    );
    const measure = await measureRecording(file, { windows: [{ from: 0.1, to: 2.9 }] });
    expect(measure.windows[0]?.channels[0]?.longestSilenceMs).toBeGreaterThanOrEqual(490);
    expect(measure.windows[0]?.channels[0]?.longestSilenceMs).toBeLessThanOrEqual(510);
    expect(
      await pitchesOf(file, [
        { from: 0.8, to: 0.98 },
        { from: 1.52, to: 1.8 },
      ]),
    ).toEqual([
      [440, null],
      [440, null],
    ]);
  });

  test("a new SSRC, a jump of the clock and a sender that stops in silence are placed by their arrival", async () => {
    const { file } = await render(
      [run(0), end(4_000)],
      [
        ...stream({ port: callerPort, hz: 440, fromMs: 0, toMs: 1_000, ssrc: 1 }),
        ...stream({ port: callerPort, hz: 620, fromMs: 1_000, toMs: 2_000, ssrc: 2, firstTimestamp: 77 }),
        ...stream({ port: callerPort, hz: 850, fromMs: 3_000, toMs: 4_000, ssrc: 2, firstTimestamp: 77 + 50 * 160 }),
      ],
    );
    expect(
      await pitchesOf(file, [
        { from: 0.1, to: 0.9 },
        { from: 1.1, to: 1.9 },
        { from: 2.1, to: 2.9 },
        { from: 3.1, to: 3.9 },
      ]),
    ).toEqual([
      [440, null],
      [620, null],
      [null, null],
      [850, null],
    ]);
  });

  test("a phone whose clock is slow or fast stays aligned and without long gaps", async () => {
    for (const drift of [0.999, 1.001]) {
      const packets = stream({
        port: callerPort,
        hz: 440,
        fromMs: 0,
        toMs: 60_000,
        delayMs: (index) => index * 20 * (drift - 1),
      });
      const last = Math.max(...packets.map(({ atMs }) => atMs)) - start;
      const { file } = await render([run(0), end(last + 1_000)], packets);
      const measure = await measureRecording(file, {
        windows: [
          { from: 0.1, to: last / 1_000 - 0.05 },
          { from: last / 1_000 + 0.1, to: last / 1_000 + 0.9 },
        ],
      });
      expect(measure.windows[0]?.channels[0]?.longestSilenceMs).toBeLessThan(60);
      expect(measure.windows[1]?.channels[0]?.rmsDbfs).toBe(-120);
      rmSync(file);
    }
  });

  test("the operator counts only while he is joined, and a freed port belongs to the next one", async () => {
    const early = stream({ port: operatorPort, hz: 620, fromMs: 0, toMs: 3_000, payloadType: 8, ssrc: 5 });
    const next = stream({ port: operatorPort, hz: 850, fromMs: 3_000, toMs: 5_000, ssrc: 6 });
    const { file } = await render(
      [
        run(0),
        { type: "join", at: start + 1_000, leg: "op1" },
        { type: "leave", at: start + 2_000, leg: "op1" },
        { type: "leg", at: start + 2_900, leg: "op2", port: operatorPort, laws: [[0, "PCMU"]] },
        { type: "join", at: start + 3_500, leg: "op2" },
        end(5_000),
      ],
      [...early, ...next],
    );
    expect(
      await pitchesOf(file, [
        { from: 0.1, to: 0.95 },
        { from: 1.05, to: 1.95 },
        { from: 2.05, to: 3.45 },
        { from: 3.6, to: 4.9 },
      ]),
    ).toEqual([
      [null, null],
      [null, 620],
      [null, null],
      [null, 850],
    ]);
  });

  test("prompts are mixed in where they were played, cut where they were cut, and loud sums do not wrap", async () => {
    const promptFolder = join(folder, "patchbay", "call-1-x");
    mkdirSync(promptFolder);
    using writer = new WavWriter(join(promptFolder, "tone.wav"), 1, 48_000, 0o644);
    writer.write(
      toInt16(
        Float32Array.from({ length: 48_000 }, (_, index) => 0.95 * Math.sin((2 * Math.PI * 620 * index) / 48_000)),
      ),
    );
    writer.finish();
    const { file } = await render(
      [
        run(0),
        { type: "play", at: start + 1_000, id: 1, file: "/somewhere/else/tone.wav", times: 2 },
        { type: "play", at: start + 4_000, id: 2, file: "tone.wav", times: 1 },
        { type: "cut", at: start + 4_500, id: 2 },
        { type: "play", at: start + 5_200, id: 3, file: "missing.wav", times: 1 },
        { type: "join", at: start + 1_500, leg: "op1" },
        { type: "leave", at: start + 2_000, leg: "op1" },
        end(6_000),
      ],
      stream({ port: operatorPort, hz: 620, fromMs: 0, toMs: 6_000, amplitude: 0.9 }),
    );
    expect(
      await pitchesOf(file, [
        { from: 0.1, to: 0.98 },
        { from: 1.02, to: 2.98 },
        { from: 3.02, to: 3.98 },
        { from: 4.02, to: 4.48 },
        { from: 4.52, to: 5.9 },
      ]),
    ).toEqual([
      [null, null],
      [null, 620],
      [null, null],
      [null, 620],
      [null, null],
    ]);
    // Repetitions join without a gap, and the edges are where they belong.
    using reader = new WavReader(file);
    const frames = reader.readBytes(60_000);
    const right = (index: number): number => frames.readInt16LE(index * 4 + 2);
    const first = Array.from({ length: 48_000 }, (_, index) => right(index)).findIndex(
      (sample) => Math.abs(sample) > 1_000,
    );
    expect(Math.abs(first - 8_000)).toBeLessThan(20);
    for (let index = 12_001; index < 16_000; index += 1) {
      // At 620 Hz two neighbouring samples of the clipped sum can differ by no more than this; wrapping around would.
      expect(Math.abs(right(index) - right(index - 1))).toBeLessThan(35_000);
    }
  });

  test("pauses are cut out, told in the sidecar, and phases are placed in what is left", async () => {
    const { sidecar, durationMs } = await render(
      [
        { type: "phase", at: start - 500, phase: "bot" },
        run(0),
        { type: "phase", at: start + 1_000, phase: "dialling" },
        hold(2_000),
        { type: "phase", at: start + 2_100, phase: "operator" },
        { type: "phase", at: start + 4_900, phase: "bot" },
        run(5_000),
        end(6_000),
      ],
      stream({ port: callerPort, hz: 440, fromMs: 0, toMs: 6_000 }),
    );
    expect(durationMs).toBe(3_000);
    expect(sidecar).toEqual({
      callId: "call-1",
      botId: "bot-1",
      caller: "100",
      called: "200",
      startedAt: new Date(start).toISOString(),
      seconds: 3,
      channels: 2,
      sampleRate: 8_000,
      phases: [
        { phase: "bot", from: 0, to: 1, startedAt: new Date(start - 500).toISOString() },
        { phase: "dialling", from: 1, to: 2, startedAt: new Date(start + 1_000).toISOString() },
        { phase: "bot", from: 2, to: 3, startedAt: new Date(start + 4_900).toISOString() },
      ],
      gaps: [{ at: 2, seconds: 3, reason: "paused" }],
      segments: [
        { from: 0, to: 2, startedAt: new Date(start).toISOString() },
        { from: 2, to: 3, startedAt: new Date(start + 5_000).toISOString() },
      ],
    });
  });

  test("time without rtpengine is a silence in its place, told in the sidecar; what it played ends with it", async () => {
    const promptFolder = join(folder, "patchbay", "call-1-x");
    mkdirSync(promptFolder);
    using writer = new WavWriter(join(promptFolder, "tone.wav"), 1, 8_000, 0o644);
    const tone = Float32Array.from(
      { length: 80_000 },
      (_, index) => 0.5 * Math.sin((2 * Math.PI * 620 * index) / 8_000),
    );
    writer.write(toInt16(tone));
    writer.finish();
    const capture = (name: string, fromMs: number, toMs: number): JournalLine => {
      const packets = fromMs < toMs ? stream({ port: callerPort, hz: 440, fromMs, toMs, ssrc: fromMs }) : [];
      writeFileSync(join(folder, "pcaps", name), pcap(packets));
      return { type: "capture", file: name };
    };
    const { sidecar, file } = await render(
      [
        run(0),
        { type: "play", at: start + 1_000, id: 1, file: "tone.wav", times: 1 },
        // Away from 2 to 3.5 s; the prompt is begun again at 4 s.
        capture("one~1.pcap", 3_500, 5_000),
        { type: "cut", at: start + 4_000, id: 1 },
        { type: "play", at: start + 4_000, id: 2, file: "tone.wav", times: 1 },
        { type: "cut", at: start + 5_000, id: 2 },
        // A pause, after which there is always a new capture.
        hold(5_000),
        run(7_000),
        capture("two.pcap", 6_980, 8_000),
        capture("two~1.pcap", 0, 0),
        { type: "end", at: start + 10_000, lost: true },
      ],
      stream({ port: callerPort, hz: 440, fromMs: 0, toMs: 2_000 }),
    );
    expect(sidecar.gaps).toEqual([
      { at: 1.98, seconds: 1.52, reason: "lost" },
      { at: 5, seconds: 2, reason: "paused" },
      { at: 5.98, seconds: 2.02, reason: "lost" },
    ]);
    expect(sidecar.seconds).toBe(8);
    expect(
      await pitchesOf(file, [
        { from: 0.1, to: 0.9 },
        { from: 1.1, to: 1.9 },
        { from: 2.1, to: 3.4 },
        { from: 3.6, to: 3.9 },
        { from: 4.1, to: 4.9 },
        { from: 5.1, to: 5.9 },
        { from: 6.1, to: 7.9 },
      ]),
    ).toEqual([
      [440, null],
      [440, 620],
      [null, null],
      [440, null],
      [440, 620],
      [440, null],
      [null, null],
    ]);
  });

  test("the spool is removed when the file is whole, metadata included", async () => {
    writeFileSync(join(folder, "metadata", "rtpengine-meta-one.txt"), "x");
    writeFileSync(join(folder, "tmp", "rtpengine-meta-one.tmp"), "x");
    writeFileSync(join(folder, "pcaps", "other.pcap"), "not ours");
    const { file } = await render([run(0), end(100)], stream({ port: callerPort, hz: 440, fromMs: 0, toMs: 100 }));
    expect(readdirSync(join(folder, "pcaps"))).toEqual(["other.pcap"]);
    expect(["metadata", "tmp", "patchbay"].map((name) => readdirSync(join(folder, name)))).toEqual([[], [], []]);
    expect(readdirSync(join(folder, "out")).sort()).toEqual([basename(file).replace("wav", "json"), basename(file)]);
    expect(statSync(file).mode & 0o777).toBe(0o640);
  });

  test("a log without an end and a capture that breaks off are rendered as far as they go", async () => {
    const whole = pcap(stream({ port: callerPort, hz: 440, fromMs: 0, toMs: 2_000 }));
    const { sidecar, file } = await render([run(0)], whole.subarray(0, whole.length - 100));
    expect(sidecar.seconds).toBeGreaterThan(1.9);
    expect(sidecar.seconds).toBeLessThan(2.01);
    expect(await pitchesOf(file, [{ from: 0.1, to: 1.8 }])).toEqual([[440, null]]);
  });

  test("a recording of nothing leaves nothing", async () => {
    await expect(async () => render([end(0)], [])).rejects.toMatchObject({ code: "no_audio" });
    expect(existsSync(join(folder, "patchbay", "call-1-x.jsonl"))).toBe(false);
    expect(readdirSync(join(folder, "out"))).toEqual([]);
  });

  test("a failure keeps the spool and leaves no half file", async () => {
    rmSync(join(folder, "out"), { recursive: true });
    writeFileSync(join(folder, "out"), "a file where the folder should be");
    const packets = stream({ port: callerPort, hz: 440, fromMs: 0, toMs: 100 });
    await expect(async () => render([run(0), end(100)], packets)).rejects.toMatchObject({ code: "ENOTDIR" });
    expect(existsSync(join(folder, "patchbay", "call-1-x.jsonl"))).toBe(true);
    expect(readdirSync(join(folder, "pcaps"))).toEqual(["one.pcap"]);
  });

  test("memory does not grow with the length of a call", async () => {
    const before = process.memoryUsage();
    const packets = stream({ port: callerPort, hz: 440, fromMs: 0, toMs: 600_000 });
    writeFileSync(join(folder, "pcaps", "one.pcap"), pcap(packets));
    packets.length = 0;
    const { durationMs } = await render([run(0), end(600_000)], readFileSync(join(folder, "pcaps", "one.pcap")));
    expect(durationMs).toBe(600_000);
    expect(process.memoryUsage().rss - before.rss).toBeLessThan(400_000_000);
  });
});

describe("captures", () => {
  test.each([
    [1, 4],
    [101, 4],
    [1, 6],
    [101, 6],
  ] as const)("link type %i with IPv%i", (link, version) => {
    const path = join(folder, "c.pcap");
    const sent = { atMs: start + 0.5, port: 4_000, payload: Buffer.from("hello") };
    writeFileSync(path, pcap([sent, { ...sent, port: 4_001 }], link, version));
    const read = [...readCapture(path)].map(({ atMs, destinationPort, payload }) => ({
      atMs,
      destinationPort,
      text: payload.toString(),
    }));
    expect(read).toEqual([
      { atMs: start + 0.5, destinationPort: 4_000, text: "hello" },
      { atMs: start + 0.5, destinationPort: 4_001, text: "hello" },
    ]);
  });

  test("what is no capture, or damaged, ends quietly", () => {
    const path = join(folder, "c.pcap");
    const good = pcap([{ atMs: start, port: 1, payload: Buffer.from("x") }]);
    for (const bytes of [Buffer.alloc(0), Buffer.from("hello"), Buffer.alloc(100), good.subarray(0, 30)]) {
      writeFileSync(path, bytes);
      expect([...readCapture(path)]).toEqual([]);
    }
    const huge = Buffer.concat([good, Buffer.alloc(16, 0xff)]);
    writeFileSync(path, huge);
    expect([...readCapture(path)]).toHaveLength(1);
  });

  test("fragments, other protocols and cut frames are no UDP packets", () => {
    const frame = udpFrame(4_000, Buffer.from("hello"), 101, 4);
    expect(udpOf(frame, 101)?.payload.toString()).toBe("hello");
    const fragment = Buffer.from(frame);
    fragment.writeUInt16BE(0x2000, 6);
    expect(udpOf(fragment, 101)).toBeUndefined();
    const tcp = Buffer.from(frame);
    tcp[9] = 6;
    expect(udpOf(tcp, 101)).toBeUndefined();
    expect(udpOf(frame.subarray(0, 22), 101)).toBeUndefined();
    expect(udpOf(frame, 113)).toBeUndefined();
  });
});

describe("RTP", () => {
  test("headers with contributing sources, extension and padding", () => {
    const packet = rtp(1, 2, 3, 0, Buffer.from([9, 9, 9, 0, 0, 2]));
    packet[0] = 0xa0;
    expect(parseRtp(packet)?.payload).toEqual(Buffer.from([9, 9, 9, 0]));
    const extended = Buffer.concat([rtp(1, 2, 3, 8, new Uint8Array()), Buffer.from([0, 0, 0, 1, 1, 1, 1, 1, 7])]);
    extended[0] = 0x90;
    expect(parseRtp(extended)).toMatchObject({ payloadType: 8, payload: Buffer.from([7]) });
    expect(parseRtp(Buffer.alloc(8))).toBeUndefined();
    expect(parseRtp(Buffer.from([0x80, 200, ...Buffer.alloc(20)]))).toBeUndefined();
    expect(parseRtp(Buffer.from([0x9f, 0, ...Buffer.alloc(20)]))).toBeUndefined();
  });

  test("telephone events neither sound nor move the stream", () => {
    const track = new RtpTrack(new Map([[0, "PCMU"]]));
    const sample = encodeG711("PCMU", Int16Array.of(8_000));
    track.add(parseRtp(rtp(1, 1_000, 1, 0, sample))!, 0);
    track.add(parseRtp(rtp(2, 1_000, 1, 101, Buffer.from([5, 0, 0, 160])))!, 800);
    track.add(parseRtp(rtp(3, 1_100, 1, 0, sample))!, 120);
    const sum = new Int32Array(200);
    track.drain(0, 200, sum, () => true);
    expect([...sum.entries()].filter(([, value]) => value !== 0).map(([index]) => index)).toEqual([0, 100]);
  });
});

describe("logs", () => {
  test("a last line that was cut off is left out; another version is not touched", () => {
    const text = `${JSON.stringify(opened)}\n${JSON.stringify(run(0))}\n{"type":"hol`;
    expect(parseJournal(text)).toEqual([opened, run(0)]);
    expect(parseJournal(text.replace('"v":1', '"v":2'))).toEqual([]);
    expect(parseJournal("")).toEqual([]);
  });

  test("moments are placed in the file with the pauses taken out", () => {
    const recorded = [
      { from: 1_000, to: 2_000 },
      { from: 5_000, to: 6_000 },
    ];
    expect([500, 1_500, 3_000, 5_500, 9_000].map((at) => secondsInFile(recorded, at))).toEqual([0, 0.5, 1, 1.5, 2]);
  });

  test("pausing twice and resuming twice change nothing", () => {
    const timeline = timelineOf([opened, run(0), run(100), hold(1_000), hold(1_100), run(2_000), end(3_000)], 0)!;
    expect(timeline.recorded).toEqual([
      { from: start, to: start + 1_000 },
      { from: start + 2_000, to: start + 3_000 },
    ]);
    expect(sidecarOf(timeline, 2, 8_000).segments).toHaveLength(2);
  });
});

test("a prompt that cannot be kept is told, and costs nothing but itself", async () => {
  const lost: unknown[] = [];
  const writer = new JournalWriter(join(folder, "patchbay"), "one", (error) => lost.push(error));
  writer.write(opened);
  writer.keepPrompt(join(folder, "gone.wav"));
  await writer.flush();
  expect(lost).toMatchObject([{ code: "ENOENT" }]);
  expect(parseJournal(readFileSync(writer.path, "utf8"))).toEqual([opened]);
});

describe("recovery", () => {
  const quiet = (): void => {};
  const options = (): RecorderOptions => ({
    onLeft: quiet,
    folder: join(folder, "out"),
    spoolFolder: folder,
    leastFreeBytes: 0,
    mostRenders: 1,
    mostWaiting: 10,
    clock: systemMediaClock,
    log: { debug: quiet, info: quiet, warn: quiet, error: quiet },
  });
  const over: RecoveryOptions = { isOver: () => Promise.resolve(true), pause: () => Promise.resolve(true) };
  const journals = (): readonly string[] => readdirSync(join(folder, "patchbay"));
  const recorders: Recorder[] = [];
  const another = (change: Partial<RecorderOptions> = {}): Recorder => {
    const recorder = new Recorder({ ...options(), ...change });
    recorders.push(recorder);
    return recorder;
  };
  afterEach(async () => {
    for (const recorder of recorders.splice(0)) await recorder.close();
  });

  /** What a process that died during a call has left. */
  function leave(): string {
    writeFileSync(join(folder, "pcaps", "one.pcap"), pcap(stream({ port: callerPort, hz: 440, fromMs: 0, toMs: 500 })));
    const journal = join(folder, "patchbay", "call-1-x.jsonl");
    const lines: readonly JournalLine[] = [opened, ...legs, { type: "capture", file: "one.pcap" }, run(0)];
    writeFileSync(journal, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
    return journal;
  }

  test("asks by the call's name in rtpengine, and leaves a call that goes on", async () => {
    leave();
    const asked: string[] = [];
    const recovery = await another().recover(folder, {
      ...over,
      isOver: (ngCall) => {
        asked.push(ngCall);
        return Promise.resolve(false);
      },
    });
    expect([recovery, asked, journals()]).toEqual([{ recovered: [], left: 1 }, ["pb-call"], ["call-1-x.jsonl"]]);
  });

  test("of several processes at once one renders", async () => {
    leave();
    const outcomes = await Promise.all(Array.from({ length: 4 }, () => another().recover(folder, over)));
    expect(outcomes.flatMap(({ recovered }) => recovered)).toMatchObject([{ ok: true, callId: "call-1" }]);
    expect([journals(), readdirSync(join(folder, "pcaps"))]).toEqual([[], []]);
    expect(readdirSync(join(folder, "out")).sort()).toEqual(["call-1-x.json", "call-1-x.wav"]);
  });

  test("leaves a log that grows or is claimed while it waits, and gives up when it is closed", async () => {
    const journal = leave();
    const recorder = another();
    const grows = async (): Promise<boolean> => {
      writeFileSync(journal, `${JSON.stringify(end(400))}\n`, { flag: "a" });
      return true;
    };
    expect(await recorder.recover(folder, { ...over, pause: grows })).toEqual({ recovered: [], left: 1 });
    expect(await recorder.recover(folder, { ...over, pause: () => Promise.resolve(false) })).toEqual({
      recovered: [],
      left: 1,
    });
    const claims = async (): Promise<boolean> => {
      renameSync(journal, `${journal}.claimed-other`);
      return true;
    };
    expect(await recorder.recover(folder, { ...over, pause: claims })).toEqual({ recovered: [], left: 0 });
    expect(journals()).toEqual(["call-1-x.jsonl.claimed-other"]);
  });

  test("another's claim is left alone for an hour", async () => {
    const journal = leave();
    const claimed = `${journal}.claimed-other`;
    renameSync(journal, claimed);
    const minutesAgo = (minutes: number): Date => new Date(Date.now() - minutes * 60_000);
    utimesSync(claimed, minutesAgo(59), minutesAgo(59));
    expect(await another().recover(folder, over)).toEqual({ recovered: [], left: 1 });
    utimesSync(claimed, minutesAgo(61), minutesAgo(61));
    expect(await another().recover(folder, over)).toMatchObject({ recovered: [{ ok: true }], left: 0 });
    expect(journals()).toEqual([]);
  });

  test("what failed stays claimed; what there was no place for is free again", async () => {
    const journal = leave();
    expect(await another({ mostWaiting: 0 }).recover(folder, over)).toMatchObject({
      recovered: [{ ok: false, code: "overloaded" }],
      left: 1,
    });
    expect(journals()).toEqual(["call-1-x.jsonl"]);
    writeFileSync(journal, "no log\n");
    expect(await another().recover(folder, over)).toMatchObject({
      recovered: [{ ok: false, code: "journal_damaged" }],
      left: 1,
    });
    expect(journals()).toEqual([expect.stringMatching(/^call-1-x\.jsonl\.claimed-[0-9a-f]{12}$/)]);
  });

  test("without room for the finished file nothing is tried", async () => {
    leave();
    const recovery = await another({ leastFreeBytes: Number.MAX_SAFE_INTEGER }).recover(folder, over);
    expect([recovery, journals()]).toEqual([{ recovered: [], left: 1 }, ["call-1-x.jsonl"]]);
  });

  test("a process whose log was taken says so, and does not begin another one", async () => {
    const recorder = another();
    const recording = await recorder.open("call-2", "pb-2", { botId: "b", caller: "1", called: "2" }, folder);
    recording.run(start);
    const log = await vi.waitFor(() => journals()[0] ?? Promise.reject(new Error("no log yet")), { timeout: 10_000 });
    renameSync(join(folder, "patchbay", log), join(folder, "patchbay", `${log}.claimed-other`));
    await expect(recording.finish(start + 1_000)).rejects.toMatchObject({ code: "journal_taken" });
    expect(journals()).toEqual([`${log}.claimed-other`]);
    expect(recorder.stats()).toMatchObject({ active: 0, rendering: 0 });
  });
});

describe("a capture that is looked at", () => {
  const quiet = (): void => {};
  const recorders: Recorder[] = [];
  afterEach(async () => {
    for (const recorder of recorders.splice(0)) await recorder.close();
  });

  async function recording(captureFolder: string, leastFreeBytes = 0): Promise<CallRecording> {
    const recorder = new Recorder({
      folder: join(folder, "out"),
      spoolFolder: folder,
      leastFreeBytes,
      mostRenders: 1,
      mostWaiting: 10,
      clock: systemMediaClock,
      log: { debug: quiet, info: quiet, warn: quiet, error: quiet },
      onLeft: quiet,
    });
    recorders.push(recorder);
    return recorder.open("call-3", "pb-3", { botId: "b", caller: "1", called: "2" }, folder, captureFolder);
  }

  test("has stopped when packets come and it does not grow, and only then", async () => {
    const made = await recording("pcaps");
    const capture = join(folder, "pcaps", "c.pcap");
    writeFileSync(capture, "");
    await made.captured("c.pcap");
    // Put aside at once; whoever writes to it does not notice.
    const aside = join(folder, "pcaps", "c~1.pcap");
    expect(readdirSync(join(folder, "pcaps"))).toEqual(["c~1.pcap"]);
    // The caller had been sending for long when the recording began.
    expect(await made.trouble(5_000)).toBeNull();
    expect(await made.trouble(5_050)).toBeNull();
    writeFileSync(aside, "more", { flag: "a" });
    expect(await made.trouble(5_200)).toBeNull();
    // He holds the call and sends nothing.
    expect(await made.trouble(5_200)).toBeNull();
    expect(await made.trouble(null)).toBeNull();
    // rtpengine came back and counts anew, in a new file.
    writeFileSync(capture, "");
    expect(await made.trouble(10)).toBeNull();
    expect(readdirSync(join(folder, "pcaps"))).toEqual(["c~1.pcap", "c~2.pcap"]);
    expect(await made.trouble(20)).toBeNull();
    expect(await made.trouble(119)).toBeNull();
    expect(await made.trouble(120)).toBe("capture_stopped");
    rmSync(join(folder, "pcaps", "c~2.pcap"));
    expect(await made.trouble(121)).toBe("no_spool");
  });

  test("of another media server keeps its name", async () => {
    mkdirSync(join(folder, "segments"));
    const made = await recording("segments");
    await expect(made.captured("c.wav")).rejects.toMatchObject({ code: "ENOENT" });
    writeFileSync(join(folder, "segments", "c.wav"), "");
    await made.captured("c.wav");
    expect([await made.trouble(0), await made.trouble(99), await made.trouble(100)]).toEqual([
      null,
      null,
      "capture_stopped",
    ]);
    expect(readdirSync(join(folder, "segments"))).toEqual(["c.wav"]);
  });
});
