// What a waiting caller hears, and when a bridge counts as dead: by counters and time alone.
import { describe, expect, test } from "vitest";
import { usualSounds } from "../../src/call/setup.ts";
import type { MediaLog } from "../../src/media/options.ts";
import type { ReadyPrompt } from "../../src/media/prompts/library.ts";
import { Backdrop } from "../../src/media/switching/backdrop.ts";
import { BridgeWatch } from "../../src/media/switching/bridge-watch.ts";
import { receivedFrom } from "../../src/media/rtpengine/streams.ts";
import { ManualClock, settled } from "./media-clock.ts";

const log: MediaLog = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

function sound(name: string, onRelease: () => void = () => {}): ReadyPrompt {
  return { file: name, playableFile: name, durationMs: 1_000, release: onRelease };
}

/** A caller whose operators send as many packets as the test says. */
class Waiting {
  readonly clock = new ManualClock();
  /** Packets a second of each leg. */
  readonly rates = new Map<string, number>();
  readonly #packets = new Map<string, number>();
  readonly did: string[] = [];
  #shown = "";
  prompting = false;
  released = 0;
  readonly backdrop: Backdrop;

  constructor(ringbackUrl: string | null = null) {
    this.backdrop = new Backdrop({
      sounds: { ...usualSounds, ringbackUrl },
      usual: { ringing: sound("tone"), held: sound("melody") },
      clock: this.clock,
      log,
      prepare: (prompt) =>
        prompt.kind === "audio" && prompt.url === "good"
          ? Promise.resolve(sound("own", () => void (this.released += 1)))
          : Promise.reject(new Error("gone")),
      enqueue: (step) => {
        void step();
        return true;
      },
      packetsOf: (tag) => Promise.resolve(Math.floor(this.#packets.get(tag) ?? 0)),
      prompting: () => this.prompting,
      show: (shown) => {
        const file = shown?.file ?? "none";
        if (file !== this.#shown) this.did.push(`hears ${file}`);
        this.#shown = file;
      },
      letThrough: (tag) => Promise.resolve(void this.did.push(`opens ${tag}`)),
      shutOut: (tag) => Promise.resolve(void this.did.push(`shuts ${tag}`)),
    });
  }

  async pass(ms: number): Promise<void> {
    for (let passed = 0; passed < ms; passed += 10) {
      for (const [tag, rate] of this.rates) this.#packets.set(tag, (this.#packets.get(tag) ?? 0) + rate / 100);
      await this.clock.pass(10);
    }
  }

  take(): readonly string[] {
    return this.did.splice(0);
  }
}

describe("what a waiting caller hears", () => {
  test("the tone; the operator while his packets flow; the tone again within 300 ms; nothing when nobody waits", async () => {
    const caller = new Waiting();
    caller.backdrop.set("ringing");
    expect(caller.take()).toEqual(["hears tone"]);
    caller.backdrop.admit("op1", false);
    await caller.pass(2_000);
    expect(caller.take()).toEqual([]);
    caller.rates.set("op1", 50);
    await caller.pass(400);
    expect(caller.take()).toEqual(["opens op1", "hears none"]);
    await caller.pass(3_000);
    expect(caller.take()).toEqual([]);
    caller.rates.set("op1", 0);
    await caller.pass(200);
    expect(caller.take()).toEqual(["hears tone", "shuts op1"]);
    caller.rates.set("op1", 50);
    await caller.pass(400);
    expect(caller.take()).toEqual(["opens op1", "hears none"]);
    await caller.backdrop.clear("op1");
    await caller.pass(1_000);
    expect(caller.take()).toEqual([]);
    expect(caller.clock.timers).toBe(0);
  });

  test("two packets a second are keep-alives; packets of 60 ms are a stream", async () => {
    const caller = new Waiting();
    caller.backdrop.set("ringing");
    caller.backdrop.admit("op1", false);
    caller.rates.set("op1", 2);
    await caller.pass(5_000);
    expect(caller.take()).toEqual(["hears tone"]);
    caller.rates.set("op1", 1_000 / 60);
    await caller.pass(3_000);
    expect(caller.take()).toEqual(["opens op1", "hears none"]);
  });

  test("one at a time; the next as soon as the first falls silent; nobody during a prompt", async () => {
    const caller = new Waiting();
    caller.backdrop.set("ringing");
    for (const tag of ["op1", "op2"]) {
      caller.backdrop.admit(tag, false);
      caller.rates.set(tag, 50);
    }
    await caller.pass(500);
    expect(caller.take()).toEqual(["hears tone", "opens op1", "hears none"]);
    caller.rates.set("op1", 0);
    await caller.pass(400);
    expect(caller.take()).toEqual(["hears tone", "shuts op1", "opens op2", "hears none"]);
    caller.prompting = true;
    await caller.backdrop.interrupt();
    await caller.pass(2_000);
    expect(caller.take()).toEqual(["hears tone", "shuts op2"]);
    caller.prompting = false;
    await caller.pass(400);
    expect(caller.take()).toEqual(["opens op2", "hears none"]);
    await caller.backdrop.withdraw("op2");
    expect(caller.take()).toEqual(["hears tone", "shuts op2"]);
  });

  test("who is heard already stays heard, and is replaced by music when nothing comes", async () => {
    const caller = new Waiting();
    caller.backdrop.admit("op1", true);
    caller.backdrop.set("held");
    await caller.pass(250);
    expect(caller.take()).toEqual(["hears none", "hears melody", "shuts op1"]);
  });

  test("the channel's own sound as soon as it is there, ours when it cannot be had; it is released in the end", async () => {
    const good = new Waiting("good");
    good.backdrop.set("ringing");
    good.backdrop.prepare();
    await settled();
    expect(good.take()).toEqual(["hears tone", "hears own"]);
    good.backdrop.close();
    expect(good.released).toBe(1);
    const bad = new Waiting("bad");
    bad.backdrop.prepare();
    bad.backdrop.set("ringing");
    await settled();
    expect(bad.take()).toEqual(["hears tone"]);
    const late = new Waiting("good");
    late.backdrop.prepare();
    late.backdrop.close();
    await settled();
    expect(late.released).toBe(1);
    expect(late.clock.timers + bad.clock.timers + good.clock.timers).toBe(0);
  });
});

describe("a bridge", () => {
  class Bridge {
    readonly clock = new ManualClock();
    readonly caller = { rtpPackets: 0, packets: 0, refused: 0 };
    readonly operator = { rtpPackets: 0, packets: 0, refused: 0 };
    callerSends = true;
    answers = true;
    readonly did: string[] = [];
    readonly watch = new BridgeWatch({
      clock: this.clock,
      log,
      talkTimeoutMs: 20_000,
      enqueue: (step) => {
        void step();
        return true;
      },
      received: () =>
        this.answers
          ? Promise.resolve({ caller: { ...this.caller }, operator: { ...this.operator } })
          : Promise.reject(new Error("rtpengine does not answer")),
      callerSends: () => this.callerSends,
      relatch: () => Promise.resolve(void this.did.push("relatch")),
      unheard: () => void this.did.push("unheard"),
      silent: (asked) => void this.did.push(asked ? "silent again" : "silent"),
    });

    /** Time in which each side sends, or does not, or sends from elsewhere. */
    async talks(ms: number, sides: Partial<Record<"caller" | "operator", "silent" | "elsewhere">> = {}): Promise<void> {
      for (let passed = 0; passed < ms; passed += 100) {
        for (const side of ["caller", "operator"] as const) {
          if (sides[side] === undefined) this[side].packets += 5;
          else if (sides[side] === "elsewhere") this[side].refused += 5;
        }
        await this.clock.pass(100);
      }
    }
  }

  async function talking(): Promise<Bridge> {
    const bridge = new Bridge();
    await bridge.watch.start();
    await bridge.talks(3_000);
    return bridge;
  }

  test("both are heard: nothing is done; after a hold he need not be heard again", async () => {
    const bridge = new Bridge();
    await bridge.watch.start();
    bridge.caller.packets = bridge.operator.packets = 100;
    await bridge.clock.pass(10_000);
    expect(bridge.did).toEqual([]);
    bridge.watch.stop();
    expect(bridge.clock.timers).toBe(0);
    await bridge.watch.start();
    await bridge.clock.pass(10_000);
    expect(bridge.did).toEqual([]);
  });

  describe("in a talk", () => {
    test("a side that sends from elsewhere is learnt anew, and only while nothing comes from where it was", async () => {
      for (const side of ["caller", "operator"] as const) {
        const bridge = await talking();
        for (let second = 0; second < 6; second += 1) {
          bridge[side].refused += 50;
          await bridge.talks(1_000);
        }
        await bridge.talks(3_000, { [side]: "silent" });
        bridge[side].refused += 11;
        await bridge.talks(3_000, { [side]: "silent" });
        expect(bridge.did).toEqual([]);
        await bridge.talks(2_000, { [side]: "elsewhere" });
        expect(bridge.did).toEqual(["relatch"]);
      }
    });

    test("nothing from the operator for 20 s: learnt anew, then he is asked; one who answers may be silent", async () => {
      const bridge = await talking();
      await bridge.talks(19_000, { operator: "silent" });
      expect(bridge.did).toEqual([]);
      await bridge.talks(5_000, { operator: "silent" });
      expect(bridge.did).toEqual(["relatch", "silent"]);
      // His answer to the re-INVITE.
      await bridge.watch.start();
      await bridge.talks(60_000, { operator: "silent" });
      expect(bridge.did).toEqual(["relatch", "silent"]);
      // He speaks, and is silent again.
      await bridge.talks(3_000);
      await bridge.talks(26_000, { operator: "silent" });
      expect(bridge.did).toEqual(["relatch", "silent", "relatch", "silent"]);
    });

    test("nothing from the caller either: told once more, 20 s after he was asked", async () => {
      const bridge = await talking();
      await bridge.clock.pass(25_000);
      expect(bridge.did).toEqual(["relatch", "silent"]);
      await bridge.watch.start();
      await bridge.clock.pass(19_000);
      expect(bridge.did).toEqual(["relatch", "silent"]);
      await bridge.clock.pass(4_000);
      expect(bridge.did.slice(0, 3)).toEqual(["relatch", "silent", "silent again"]);
    });

    test("a caller who has agreed to send nothing does not count; a silent caller alone is no fault", async () => {
      const bridge = await talking();
      bridge.callerSends = false;
      await bridge.clock.pass(120_000);
      expect(bridge.did).toEqual(["relatch", "silent"]);
      const other = await talking();
      await other.talks(120_000, { caller: "silent" });
      expect(other.did).toEqual([]);
    });
  });

  test("one packet of comfort noise, or RTCP alone, is a sign of life", async () => {
    const bridge = new Bridge();
    await bridge.watch.start();
    bridge.operator.packets = 1;
    bridge.callerSends = false;
    await bridge.clock.pass(10_000);
    expect(bridge.did).toEqual([]);
  });

  test("nothing from the operator: learnt anew after 2 s, told after 3; after the repair told once more", async () => {
    const bridge = new Bridge();
    await bridge.watch.start();
    bridge.caller.packets = 100;
    await bridge.clock.pass(1_990);
    expect(bridge.did).toEqual([]);
    await bridge.clock.pass(20);
    expect(bridge.did).toEqual(["relatch"]);
    await bridge.clock.pass(1_000);
    expect(bridge.did).toEqual(["relatch", "unheard"]);
    await bridge.watch.start();
    await bridge.clock.pass(2_000);
    expect(bridge.did).toEqual(["relatch", "unheard", "unheard"]);
    expect(bridge.clock.timers).toBe(0);
    bridge.watch.stop();
  });

  test("learning anew helps: nothing is told", async () => {
    const bridge = new Bridge();
    await bridge.watch.start();
    await bridge.clock.pass(2_100);
    bridge.operator.packets = 5;
    await bridge.clock.pass(5_000);
    expect(bridge.did).toEqual(["relatch"]);
  });

  test("a caller who sends nothing is no reason to end the talk", async () => {
    const bridge = new Bridge();
    await bridge.watch.start();
    bridge.operator.packets = 100;
    await bridge.clock.pass(10_000);
    expect(bridge.did).toEqual(["relatch"]);
  });

  test("stopped while he holds or is gone, silent while rtpengine is; the next operator is another one", async () => {
    const bridge = new Bridge();
    await bridge.watch.start();
    bridge.watch.stop();
    await bridge.clock.pass(10_000);
    expect([bridge.did, bridge.clock.timers]).toEqual([[], 0]);
    await bridge.watch.start();
    bridge.answers = false;
    await bridge.clock.pass(10_000);
    expect(bridge.did).toEqual([]);
    bridge.answers = true;
    bridge.watch.reset();
    expect(bridge.clock.timers).toBe(0);
    await bridge.watch.start();
    await bridge.clock.pass(10_000);
    expect(bridge.did).toEqual(["relatch", "unheard"]);
  });
});

describe("what rtpengine says it has received", () => {
  const streams = [
    { stats: { packets: 425, bytes: 1, errors: 2 }, flags: ["RTP", "filled"], SSRC: 7 },
    { stats: { packets: 8 }, flags: ["RTCP"], SSRC: 9 },
  ];
  const reply = { tags: { A: { medias: [{ streams }] }, bot: { medias: [] } } };

  test("RTP, and RTCP beside it", () => {
    expect(receivedFrom(reply, "A")).toEqual({ rtpPackets: 423, packets: 431, refused: 2 });
  });

  test.each([
    [{}, "A"],
    [reply, "op1"],
    [reply, "bot"],
    [reply, "constructor"],
    [{ tags: { A: { medias: [{ streams: "x" }] } } }, "A"],
    [{ tags: { A: { medias: [{ streams: [{ stats: { packets: "many" } }] }] } } }, "A"],
  ])("nothing where it says nothing (%#)", (odd, tag) => {
    expect(receivedFrom(odd, tag)).toBeUndefined();
  });
});
