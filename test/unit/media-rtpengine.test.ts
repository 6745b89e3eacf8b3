import { createSocket } from "node:dgram";
import type { Socket } from "node:dgram";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import type { CallEvent } from "../../src/call/event.ts";
import type { CallId, PlayId } from "../../src/call/ids.ts";
import { CountingClock } from "../../src/lib/counting-clock.ts";
import { MediaError } from "../../src/media/media-error.ts";
import { systemMediaClock } from "../../src/media/options.ts";
import type { MediaLog } from "../../src/media/options.ts";
import type { ReadyPrompt } from "../../src/media/prompts/library.ts";
import type { CallRecording, Recorder } from "../../src/media/recording/recorder.ts";
import { RecordingControl } from "../../src/media/recording/call-recording.ts";
import { parseDigit } from "../../src/media/rtpengine/dtmf.ts";
import { InstancePool } from "../../src/media/rtpengine/instances.ts";
import type { Instance } from "../../src/media/rtpengine/instances.ts";
import { NgClient, NgError } from "../../src/media/rtpengine/ng.ts";
import { Player } from "../../src/media/switching/player.ts";
import { SerialQueue } from "../../src/media/switching/serial-queue.ts";
import { Slots } from "../../src/media/slots.ts";
import { ManualClock, settled } from "./media-clock.ts";

const log: MediaLog = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

describe("ng client", () => {
  let server: Socket;
  let received: string[] = [];
  let answer: (cookie: string, send: (text: string) => void) => void = () => {};
  let client: NgClient;
  const target = (): { host: string; port: number } => ({
    host: "127.0.0.1",
    port: server.address().port,
  });

  beforeEach(async () => {
    received = [];
    server = createSocket("udp4");
    server.on("message", (bytes, peer) => {
      const text = bytes.toString();
      received.push(text.slice(37));
      answer(text.slice(0, 36), (reply) => server.send(reply, peer.port, peer.address));
    });
    await new Promise<void>((resolve) => {
      server.bind(0, "127.0.0.1", resolve);
    });
    client = new NgClient(60, log);
  });
  afterEach(() => {
    client.close();
    server.close();
  });

  test("gives the fields of a reply", async () => {
    answer = (cookie, send) => send(`${cookie} d8:durationi3000e6:result2:oke`);
    await expect(client.request(target(), "playMedia", { file: "/x.wav" })).resolves.toEqual({
      duration: 3_000,
      result: "ok",
    });
    expect(received).toEqual(["d7:command10:play media4:file6:/x.wave"]);
  });

  test("an error of rtpengine is an error here", async () => {
    answer = (cookie, send) => send(`${cookie} d12:error-reason15:Unknown call-id6:result5:errore`);
    const error = await client.request(target(), "query", {}).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(NgError);
    expect(error).toMatchObject({ code: "refused", message: "Unknown call-id", unknownCall: true });
    answer = (cookie, send) => send(`${cookie} d12:error-reason15:Unknown call-ID6:result5:errore`);
    await expect(client.request(target(), "playMedia", {})).rejects.toMatchObject({ unknownCall: true });
    answer = (cookie, send) => send(`${cookie} le`);
    await expect(client.request(target(), "ping", {})).rejects.toMatchObject({ code: "refused", unknownCall: false });
  });

  test("a lost reply is asked for once more where that is harmless, and only there", async () => {
    answer = () => {};
    await expect(client.request(target(), "offer", {})).rejects.toMatchObject({ code: "timeout" });
    expect(received).toHaveLength(2);
    await expect(client.request(target(), "delete", {}, true)).rejects.toMatchObject({ code: "timeout" });
    expect(received).toHaveLength(3);
    await expect(client.request(target(), "playMedia", {})).rejects.toMatchObject({ code: "timeout" });
    await expect(client.request(target(), "stopMedia", {})).rejects.toMatchObject({ code: "timeout" });
    expect(received).toHaveLength(5);
    let asked = 0;
    answer = (cookie, send) => {
      asked += 1;
      if (asked === 2) send(`${cookie} d6:result2:oke`);
    };
    await expect(client.request(target(), "answer", {})).resolves.toEqual({ result: "ok" });
  });

  test("replies that come late, twice, unasked or broken are counted, and nothing is printed", async () => {
    const printed = vi.spyOn(console, "log").mockImplementation(() => {});
    answer = (cookie, send) => {
      send(`${cookie} d6:result2:oke`);
      send(`${cookie} d6:result2:oke`);
      send("rubbish");
      send(`${"x".repeat(36)} d6:result`);
      send(`${"0".repeat(36)} d6:result2:oke`);
    };
    await client.request(target(), "ping", {});
    await vi.waitFor(() => expect(client.strays).toBe(4), { timeout: 10_000 });
    expect(printed).not.toHaveBeenCalled();
    printed.mockRestore();
  });

  test("a closed client refuses at once", async () => {
    const place = target();
    client.close();
    await expect(client.request(place, "ping", {})).rejects.toMatchObject({ code: "failed" });
  });
});

describe("instances", () => {
  function pool(answers: Record<number, boolean>, clock: ManualClock) {
    const lost: number[] = [];
    const back: number[] = [];
    const ng = {
      request: async (target: { port: number }) => {
        if (answers[target.port] !== true) throw new NgError("timeout", "no reply");
        return Promise.resolve({ result: "pong" });
      },
    } as unknown as NgClient;
    const made = new InstancePool({
      instances: Object.keys(answers).map((port) => ({ host: "h", port: Number(port) })),
      ng,
      pingMs: 1_000,
      lostAfterMs: 3_000,
      clock,
      log,
      onLost: (instance) => lost.push(instance.port),
      onBack: (instance) => back.push(instance.port),
    });
    return { made, lost, back };
  }

  test("a new call goes to the healthy instance with the fewest calls", async () => {
    const clock = new ManualClock();
    const { made } = pool({ 1: true, 2: true, 3: false }, clock);
    await made.start();
    const [first, second] = made.all() as [Instance, Instance, Instance];
    first.calls = 3;
    second.calls = 2;
    expect(made.choose(new Set())?.port).toBe(2);
    expect(made.choose(new Set([second]))?.port).toBe(1);
    expect(made.choose(new Set([first, second]))).toBeUndefined();
    made.close();
    expect(clock.timers).toBe(0);
  });

  test("an instance that stays away loses its calls once; one that comes back has them looked at", async () => {
    const clock = new ManualClock();
    const answers = { 1: true };
    const { made, lost, back } = pool(answers, clock);
    await made.start();
    made.all()[0]!.calls = 1;
    answers[1] = false;
    await clock.pass(2_500);
    expect([made.anyHealthy, lost]).toEqual([false, []]);
    answers[1] = true;
    await clock.pass(1_000);
    expect([made.anyHealthy, back]).toEqual([true, [1]]);
    answers[1] = false;
    await clock.pass(10_000);
    expect(lost).toEqual([1]);
    made.close();
  });

  test("one that answers a call before the next check is there: the call may be made there anew, the others are looked at", async () => {
    const clock = new ManualClock();
    const answers = { 1: true };
    const { made, lost, back } = pool(answers, clock);
    await made.start();
    const [only] = made.all() as [Instance];
    only.calls = 2;
    answers[1] = false;
    await clock.pass(1_500);
    expect(made.choose(new Set())).toBeUndefined();
    made.answered(only);
    expect([made.choose(new Set())?.port, back, lost]).toEqual([1, [1], []]);
    made.answered(only);
    expect(back).toEqual([1]);
    made.close();
  });
});

describe("key presses", () => {
  const logged = { callid: "c", source_tag: "A", type: "DTMF", event: 5, duration: 200, volume: 10 };
  const parse = (change: object): ReturnType<typeof parseDigit> =>
    parseDigit(Buffer.from(JSON.stringify({ ...logged, ...change })));

  test("all sixteen keys", () => {
    const digits = Array.from({ length: 16 }, (_, event) => parse({ event })?.digit).join("");
    expect(digits).toBe("0123456789*#ABCD");
    expect(parse({})).toEqual({ callId: "c", tag: "A", digit: "5", durationMs: 200 });
  });

  test.each([
    { event: 16 },
    { event: -1 },
    { event: 1.5 },
    { event: "5" },
    { type: "other" },
    { callid: 5 },
    { source_tag: null },
  ])("%j is none", (change) => {
    expect(parse(change)).toBeUndefined();
  });

  test("a strange length does not spread, and what is no JSON is none", () => {
    expect(parse({ duration: 1e12 })?.durationMs).toBe(60_000);
    expect(parse({ duration: -5 })?.durationMs).toBe(0);
    expect(parseDigit(Buffer.from("{"))).toBeUndefined();
    expect(parseDigit(Buffer.from("null"))).toBeUndefined();
    expect(parseDigit(Buffer.alloc(10_000, 32))).toBeUndefined();
  });
});

describe("player", () => {
  const play = (name: string): PlayId => name as PlayId;
  const prompt = (url: string, times = 1) => ({ kind: "audio", url, times }) as const;

  class Stage {
    readonly clock = new ManualClock();
    readonly did: string[] = [];
    readonly held = new Map<string, number>();
    readonly gates = new Map<string, { open: () => void; fail: (error: Error) => void }>();
    readonly queue = new SerialQueue(10, () => this.did.push("error"));
    full = false;
    startFails = false;
    readonly ringback = this.#ready("ringback");
    readonly player = new Player({
      clock: this.clock,
      prepare: async ({ kind, ...rest }) => {
        const name = kind === "audio" && "url" in rest ? rest.url : kind;
        await new Promise<void>((resolve, reject) => {
          if (name.startsWith("slow")) this.gates.set(name, { open: resolve, fail: reject });
          else resolve();
        });
        return this.#ready(name);
      },
      enqueue: (step) => !this.full && this.queue.push(step),
      start: async ({ playableFile: file }, times) => {
        await settled();
        if (this.startFails) throw new MediaError("on_hold", "held");
        this.did.push(`start ${file}${times === 1 ? "" : ` x${times}`}`);
        return 1_000;
      },
      stop: async () => {
        await settled();
        this.did.push("stop");
      },
      onSound: (ready) => this.did.push(`sound ${ready?.file ?? "none"}`),
      onPlayed: (id, result, reason) => this.did.push(`${id} ${result}${reason === null ? "" : ` ${reason}`}`),
      onIdle: () => this.did.push("idle"),
    });

    #ready(name: string): ReadyPrompt {
      this.held.set(name, (this.held.get(name) ?? 0) + 1);
      return {
        file: name,
        playableFile: name,
        durationMs: 1_000,
        release: () => void this.held.set(name, (this.held.get(name) ?? 0) - 1),
      };
    }

    async expect(...what: string[]): Promise<void> {
      await this.clock.pass(0);
      await settled();
      expect(this.did.splice(0)).toEqual(what);
    }
  }

  test("a prompt ends by its length times its repetitions", async () => {
    const stage = new Stage();
    stage.player.play(play("p1"), prompt("a", 3));
    await stage.expect("start a x3", "sound a");
    expect(stage.player.busy).toBe(true);
    await stage.clock.pass(2_900);
    await stage.expect();
    await stage.clock.pass(200);
    await stage.expect("sound none", "p1 completed", "idle");
    expect([stage.player.busy, stage.clock.timers, stage.held.get("a")]).toEqual([false, 0, 0]);
  });

  test("ringback goes on after a prompt, and both end where nothing is wanted any more", async () => {
    const stage = new Stage();
    stage.player.background(stage.ringback);
    await stage.expect("start ringback x3600", "sound ringback");
    stage.player.play(play("p1"), prompt("a"));
    await stage.expect("start a", "sound a");
    await stage.clock.pass(1_100);
    await stage.expect("sound none", "p1 completed", "idle", "start ringback x3600", "sound ringback");
    stage.player.play(play("p2"), prompt("b"));
    await stage.expect("start b", "sound b");
    stage.player.background(null);
    stage.player.stop();
    await stage.player.settle();
    await stage.expect("p2 stopped", "idle", "sound none", "stop");
    expect(stage.clock.timers).toBe(0);
  });

  test("what is stopped or replaced while it is fetched never plays and is released", async () => {
    const stage = new Stage();
    stage.player.play(play("p1"), prompt("slow-1"));
    stage.player.play(play("p2"), prompt("slow-2"));
    await stage.expect("p1 stopped");
    stage.player.stop();
    await stage.expect("p2 stopped");
    stage.gates.get("slow-1")?.open();
    stage.gates.get("slow-2")?.open();
    await stage.expect();
    expect([stage.held.get("slow-1"), stage.held.get("slow-2")]).toEqual([0, 0]);
  });

  test("the old prompt falls silent at once while the new one is fetched", async () => {
    const stage = new Stage();
    stage.player.play(play("p1"), prompt("a"));
    await stage.expect("start a", "sound a");
    stage.player.play(play("p2"), prompt("slow"));
    await stage.expect("p1 stopped", "idle", "sound none", "stop");
    stage.gates.get("slow")?.open();
    await stage.expect("start slow", "sound slow");
  });

  test("a prompt that is stopped while its command is under way is silenced after it", async () => {
    const stage = new Stage();
    stage.player.play(play("p1"), prompt("a"));
    await Promise.resolve();
    await Promise.resolve();
    await Promise.resolve();
    stage.player.stop();
    await settled();
    await settled();
    const did = stage.did.splice(0);
    expect(did[0]).toBe("p1 stopped");
    // Either the command never went out, or it was taken back.
    if (did.includes("start a")) expect(did.slice(-2)).toEqual(["sound none", "stop"]);
    expect(stage.held.get("a")).toBe(0);
  });

  test("failures are told with their reason and the ringback goes on", async () => {
    const stage = new Stage();
    stage.player.background(stage.ringback);
    await stage.expect("start ringback x3600", "sound ringback");
    stage.player.play(play("p1"), prompt("slow"));
    stage.gates.get("slow")?.fail(new MediaError("http_404", "gone"));
    await stage.expect("p1 failed http_404");
    stage.startFails = true;
    stage.player.play(play("p2"), prompt("a"));
    await stage.expect("p2 failed on_hold");
    expect(stage.held.get("a")).toBe(0);
    stage.full = true;
    stage.player.play(play("p3"), prompt("b"));
    await stage.expect("p3 failed overloaded");
  });

  test("a restart plays the ringback anew, and prompts only when they were silenced for certain", async () => {
    const stage = new Stage();
    stage.player.background(stage.ringback);
    await stage.expect("start ringback x3600", "sound ringback");
    await stage.player.restart(false);
    await stage.expect("start ringback x3600", "sound ringback");
    stage.player.play(play("p1"), prompt("a"));
    await stage.expect("start a", "sound a");
    await stage.player.restart(false);
    await stage.expect();
    await stage.clock.pass(900);
    await stage.player.restart(true);
    await stage.expect("start a", "sound a");
    await stage.clock.pass(900);
    await stage.expect();
    await stage.clock.pass(200);
    expect(stage.did.splice(0).slice(0, 2)).toEqual(["sound none", "p1 completed"]);
  });

  test("a closed player reports what it played and does nothing more", async () => {
    const stage = new Stage();
    stage.player.play(play("p1"), prompt("a"));
    await stage.expect("start a", "sound a");
    stage.player.close();
    await stage.expect("p1 stopped", "idle", "sound none");
    stage.player.play(play("p2"), prompt("b"));
    stage.player.background(stage.ringback);
    await stage.expect("p2 stopped");
    expect([stage.clock.timers, stage.held.get("a")]).toEqual([0, 0]);
  });
});

describe("the recording of a call", () => {
  const order = { botId: "b", caller: "1", called: "2" };

  function control(recording: Partial<CallRecording>, startCapture: () => Promise<string | undefined>) {
    const events: CallEvent[] = [];
    const made = new RecordingControl({
      call: "c" as CallId,
      name: () => "pb-c",
      captureFolder: "pcaps",
      order,
      recorder: { open: () => Promise.resolve(recording) } as unknown as Recorder,
      spoolFolder: "/nowhere",
      clock: new ManualClock(),
      log,
      startCapture,
      stopCapture: () => Promise.resolve(),
      again: (run) => run(),
      enqueue: (step) => void step(),
      post: (event) => void events.push(event),
    });
    return { made, events };
  }

  test("that cannot begin does not hold up the call's commands until its remains are removed", async () => {
    let removed = (): void => {};
    const remains = new Promise<void>((resolve) => {
      removed = resolve;
    });
    const { made, events } = control({ finish: () => remains.then(() => Promise.reject(new Error("no_audio"))) }, () =>
      Promise.reject(new MediaError("refused", "no")),
    );
    await made.start();
    expect(events).toMatchObject([{ type: "recording.changed", state: "failed", reason: "refused" }]);
    let finished = false;
    void made.finished().then(() => (finished = true));
    await settled();
    expect(finished).toBe(false);
    removed();
    await settled();
    expect(finished).toBe(true);
  });

  test("notes a leg only when it has changed", async () => {
    const noted: number[] = [];
    const { made } = control(
      { leg: (_at, _leg, port) => void noted.push(port), finish: () => Promise.reject(new Error()) },
      () => new Promise(() => {}),
    );
    void made.start();
    await settled();
    const both = (): Map<number, "PCMU" | "PCMA"> =>
      new Map([
        [0, "PCMU"],
        [8, "PCMA"],
      ]);
    for (let index = 0; index < 3; index += 1) made.setLeg("caller", 4_000, both());
    made.setLeg("caller", 4_000, new Map([...both(), [96, "PCMU"]]));
    made.setLeg("caller", 4_002, both());
    expect(noted).toEqual([4_000, 4_000, 4_002]);
  });
});

describe("small parts", () => {
  test("a serial queue runs one step at a time, in order, past failures, up to its limit", async () => {
    const did: string[] = [];
    const queue = new SerialQueue(2, () => did.push("failed"));
    const step =
      (name: string, fails = false) =>
      async () => {
        did.push(`${name} begins`);
        await settled();
        did.push(`${name} ends`);
        if (fails) throw new Error(name);
      };
    expect([queue.push(step("a", true)), queue.push(step("b")), queue.push(step("c")), queue.push(step("d"))]).toEqual([
      true,
      true,
      true,
      false,
    ]);
    queue.pushAlways(step("e"));
    expect(queue.length).toBe(4);
    await vi.waitFor(() => expect(queue.length).toBe(0), { timeout: 10_000 });
    expect(did).toEqual([
      "a begins",
      "a ends",
      "failed",
      ...["b", "c", "e"].flatMap((x) => [`${x} begins`, `${x} ends`]),
    ]);
  });

  test("slots let some run, some wait, and refuse the rest", async () => {
    const slots = new Slots(1, 1);
    const gates: (() => void)[] = [];
    const work = () =>
      new Promise<void>((resolve) => {
        gates.push(resolve);
      });
    const first = slots.run(work);
    const second = slots.run(work);
    await expect(slots.run(work)).rejects.toMatchObject({ code: "overloaded" });
    expect([slots.running, slots.waiting, gates.length]).toEqual([1, 1, 1]);
    gates[0]?.();
    await first;
    await vi.waitFor(() => expect(gates).toHaveLength(2), { timeout: 10_000 });
    gates[1]?.();
    await second;
    await expect(slots.run(() => Promise.reject(new Error("x")))).rejects.toThrow("x");
    expect([slots.running, slots.waiting]).toEqual([0, 0]);
  });

  test("the wall clock is asked anew each time, because rtpengine's packets follow it when it is set", () => {
    vi.useFakeTimers({ toFake: ["Date"] });
    try {
      const later = Date.now() + 3_600_000;
      vi.setSystemTime(later);
      expect(systemMediaClock.wallMs()).toBe(later);
      expect(new CountingClock(systemMediaClock, () => {}).wallMs()).toBe(later);
    } finally {
      vi.useRealTimers();
    }
  });

  test("a counting clock counts what runs, and what a timer throws is reported", async () => {
    const manual = new ManualClock();
    const errors: unknown[] = [];
    const clock = new CountingClock(manual, (error) => errors.push(error));
    const first = clock.after(10, () => {
      throw new Error("x");
    });
    const second = clock.after(20, () => {});
    expect(clock.running).toBe(2);
    second.cancel();
    second.cancel();
    expect(clock.running).toBe(1);
    await manual.pass(30);
    first.cancel();
    expect([clock.running, errors.length]).toEqual([0, 1]);
  });
});
