import { describe, expect, it } from "vitest";
import { CommandDesk } from "../../src/bot/command-desk.ts";
import { encodeEvent } from "../../src/bot/envelope.ts";
import type { EncodedEvent } from "../../src/bot/envelope.ts";
import { Outbox } from "../../src/bot/outbox.ts";
import { TokenBucket } from "../../src/lib/token-bucket.ts";
import type { BotEvent } from "../../src/call/bot-event.ts";
import type { CallId, CommandId, TransferId } from "../../src/call/ids.ts";
import type { Clock } from "../../src/lib/clock.ts";

/** Time that stands still until it is moved. */
class ManualClock implements Clock {
  #now = 0;
  readonly #timers = new Set<{ at: number; run: () => void }>();
  now = (): number => this.#now;
  wallMs = (): number => Date.UTC(2026, 10, 22) + this.#now;
  after(ms: number, run: () => void) {
    const timer = { at: this.#now + ms, run };
    this.#timers.add(timer);
    return { cancel: () => void this.#timers.delete(timer) };
  }
  get timers(): number {
    return this.#timers.size;
  }
  pass(ms: number): void {
    this.#now += ms;
    for (const timer of this.#timers) {
      if (timer.at > this.#now) continue;
      this.#timers.delete(timer);
      timer.run();
    }
  }
}

describe("the token bucket", () => {
  it("lets a burst of a second's worth pass, then a steady rate", () => {
    let now = 0;
    const bucket = new TokenBucket(20, () => now);
    const through = (count: number): number =>
      Array.from({ length: count }, () => bucket.take()).filter(Boolean).length;
    expect(through(100)).toBe(20);
    now += 100;
    expect(through(100)).toBe(2);
    now += 60_000;
    expect(through(100)).toBe(20);
  });
});

describe("the outbox", () => {
  const event = (seq: number): EncodedEvent => ({ eventId: `c:${seq}`, body: String(seq) });
  const settled = async (): Promise<void> => {
    for (let turn = 0; turn < 5; turn += 1) await Promise.resolve();
  };

  it("sends in order, one batch after the other, and repeats what was not acknowledged", async () => {
    const clock = new ManualClock();
    const batches: string[][] = [];
    const failures: unknown[] = [];
    const waited: number[] = [];
    let failing = 0;
    let empty = 0;
    let open = false;
    const outbox = new Outbox({
      clock,
      canSend: () => open,
      onFailure: (error) => failures.push(error),
      onStored: (waitedMs) => waited.push(waitedMs),
      onEmpty: () => (empty += 1),
      send(events) {
        batches.push(events.map((one) => one.body));
        if (failing === 0) return Promise.resolve();
        failing -= 1;
        return Promise.reject(new Error("no"));
      },
    });
    for (let seq = 1; seq <= 40; seq += 1) outbox.add(event(seq));
    expect(batches).toEqual([]);
    open = true;
    failing = 2;
    outbox.flush();
    outbox.flush();
    await settled();
    expect(batches).toHaveLength(1);
    expect(outbox.timers).toBe(1);
    expect(outbox.waitingSince).toBe(clock.now());
    clock.pass(50);
    await settled();
    expect(batches).toHaveLength(2);
    clock.pass(50);
    expect(batches).toHaveLength(2);
    clock.pass(50);
    await settled();
    expect(batches.map((batch) => [batch[0], batch.at(-1)])).toEqual([
      ["1", "32"],
      ["1", "32"],
      ["1", "32"],
      ["33", "40"],
    ]);
    expect(failures).toHaveLength(2);
    expect(waited).toEqual(Array.from({ length: 40 }, () => 150));
    expect(outbox.waitingSince).toBeNull();
    expect({ empty, size: outbox.size, timers: outbox.timers, left: clock.timers }).toEqual({
      empty: 1,
      size: 0,
      timers: 0,
      left: 0,
    });
  });
});

describe("the envelope", () => {
  it("has the contract's keys in the contract's order, and three keys in transferStatus", () => {
    const address = { call: "c" as CallId, botId: "b", caller: "", called: "2" };
    const status = { status: "FAIL", hangup: false, number: "1", extra: "never" } as const;
    const event = {
      event: "transfer",
      transferStatus: status,
      transferDetails: { transferId: "t" },
    } as unknown as BotEvent;
    const { eventId, body } = encodeEvent(address, "pb", 7, Date.UTC(2026, 10, 22), event);
    expect(eventId).toBe("c:7");
    expect(body).toBe(
      '{"v":1,"eventId":"c:7","seq":7,"event":"transfer","time":"2026-11-22T00:00:00.000Z","botId":"b","callId":"c",' +
        '"replyTo":"pb:{b}:call:c:commands","caller":"","called":"2","transferStatus":{"status":"FAIL","hangup":false,"number":"1"},' +
        '"transferDetails":{"transferId":"t"}}',
    );
  });
});

describe("the command desk", () => {
  function desk(overrides: Partial<ConstructorParameters<typeof CommandDesk>[0]> = {}) {
    const told: BotEvent[] = [];
    const faults: unknown[] = [];
    const made: CommandDesk = new CommandDesk({
      call: "c" as CallId,
      policy: {
        tls: false,
        numberRefusal: () => null,
        allowsSipHost: () => true,
        routeFor: () => {
          throw new Error("a bug");
        },
      },
      format: "patchbay",
      mintTransferId: () => "t" as TransferId,
      tell(event) {
        told.push(event);
        if (event.event === "accepted" || event.event === "rejected") made.settle(event);
      },
      post: () => true,
      allow: () => true,
      onFault: (error) => faults.push(error),
      ...overrides,
    });
    const send = (body: object): void => made.receive(Buffer.from(JSON.stringify(body)));
    return { made, told, faults, send };
  }

  it.each([
    ['{"commandId":{"length":{}},"replies":[]}', "invalid_command"],
    ['{"replies":{"length":{}}}', "invalid_command"],
    ['{"replies":[{"type":"text","text":{"length":{}}}]}', "invalid_reply"],
    ['{"replies":[{"type":"switch","phoneNumber":{"length":[]}}]}', null],
  ])("answers %s, whose length is no number", (body, code) => {
    const posted: unknown[] = [];
    const { made, told, faults } = desk({ post: (event) => posted.push(event) > 0 });
    made.receive(Buffer.from(body));
    expect(faults).toEqual([]);
    // An invalid switch is answered by the call.
    if (code === null) expect(posted).toMatchObject([{ type: "bot.invalidSwitch" }]);
    else expect(told).toMatchObject([{ event: "rejected", code }]);
  });

  it("answers even where judging fails by a bug", () => {
    const { told, faults, send } = desk();
    send({ commandId: "x", replies: [{ type: "switch", phoneNumber: "1" }] });
    expect(told).toMatchObject([{ event: "rejected", commandId: "x", code: "internal" }]);
    expect(faults).toHaveLength(1);
  });

  it("holds warnings until the call accepts, and drops them when it rejects", () => {
    const { made, told, send } = desk();
    send({ commandId: "a", replies: [], reply: [] });
    send({ commandId: "b", replies: [], reply: [] });
    expect(told).toEqual([]);
    made.settle({ event: "rejected", commandId: "a" as CommandId, code: "taken", message: "", pointer: null });
    expect(told).toEqual([]);
    made.settle({ event: "accepted", commandId: "b" as CommandId });
    expect(told).toEqual([]);
    send({ commandId: "c", replies: [], reples: [] });
    made.settle({ event: "accepted", commandId: "c" as CommandId });
    expect(told).toMatchObject([{ event: "warning", commandId: "c", code: "misspelt_key", pointer: "/reples" }]);
  });

  it("gives a repeat that comes before the answer the one answer, and looks into no large command of a flood", () => {
    let allowed = true;
    const { made, told, send } = desk({ allow: () => allowed });
    send({ commandId: "a", replies: [] });
    send({ commandId: "a", replies: [] });
    expect(told).toEqual([]);
    made.settle({ event: "accepted", commandId: "a" as CommandId });
    allowed = false;
    send({ commandId: "a", replies: [] });
    send({ commandId: "b", replies: [] });
    send({ commandId: "d", replies: [{ type: "text", text: "x".repeat(5000) }] });
    expect(told).toMatchObject([
      { event: "accepted", commandId: "a" },
      { event: "rejected", commandId: "b", code: "rate_limited" },
      { event: "rejected", commandId: null, code: "rate_limited" },
    ]);
  });
});
