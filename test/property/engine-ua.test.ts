import fc from "fast-check";
import { expect, it } from "vitest";

import { counterNames, Counters } from "../../src/engine/counters.ts";
import type { CounterName } from "../../src/engine/counters.ts";
import { defaultSessionRules } from "../../src/engine/dialog/session-timer.ts";
import { defaultLimits, silentLog } from "../../src/engine/options.ts";
import { sipTimers } from "../../src/engine/timers.ts";
import { UserAgent } from "../../src/engine/ua/agent.ts";
import { ManualClock, seededRandom } from "../unit/engine-clock.ts";
import { FakeApps, FakeInbound, origin, request, TimedNetwork } from "../unit/engine-fakes.ts";

// Whatever the network and the applications do, in whatever order: nothing throws, no INVITE stays unanswered, every
// request of an application gets its one reply, and after the longest timer nothing of any call is left.

const interesting: readonly CounterName[] = [
  "dialogsCreated",
  "ackTimeouts",
  "prackTimeouts",
  "forksEnded",
  "orphansEnded",
  "requestsUnanswered",
  "responsesOut",
  "syntheticResponses",
];

type Step =
  | { readonly type: "advance"; readonly ms: number }
  | { readonly type: "receive"; readonly method: string; readonly call: number }
  | { readonly type: "answer"; readonly which: number; readonly status: number; readonly reliable: boolean }
  | { readonly type: "call"; readonly method: string }
  | {
      readonly type: "respond";
      readonly which: number;
      readonly status: number;
      readonly tag: string;
      readonly rseq: number;
    }
  | { readonly type: "send"; readonly method: string; readonly which: number }
  | { readonly type: "cancel"; readonly which: number }
  | { readonly type: "crash" };

const finals = fc.constantFrom(200, 200, 200, 202, 302, 401, 481, 486, 491, 503);
const statuses = fc.oneof(fc.constantFrom(180, 183), finals);
const few = fc.constantFrom(0, 0, 0, 1, 2, 3);
// Some more often than others, so that calls get somewhere.
const methods = [
  "INVITE",
  "INVITE",
  "ACK",
  "ACK",
  "ACK",
  "BYE",
  "CANCEL",
  "INFO",
  "UPDATE",
  "OPTIONS",
  "PRACK",
  "PRACK",
  "SUBSCRIBE",
  "NOTIFY",
  "REFER",
];
const steps = fc.array(
  fc.oneof(
    { weight: 4, arbitrary: fc.record({ type: fc.constant("advance" as const), ms: fc.constantFrom(1, 500, 4_000) }) },
    { weight: 1, arbitrary: fc.record({ type: fc.constant("advance" as const), ms: fc.constantFrom(32_000, 64_000) }) },
    {
      weight: 8,
      arbitrary: fc.record({
        type: fc.constant("receive" as const),
        method: fc.constantFrom(...methods),
        call: fc.constantFrom(0, 0, 1),
      }),
    },
    {
      weight: 6,
      arbitrary: fc.record({
        type: fc.constant("answer" as const),
        which: few,
        status: statuses,
        reliable: fc.boolean(),
      }),
    },
    {
      weight: 3,
      arbitrary: fc.record({
        type: fc.constant("call" as const),
        method: fc.constantFrom("INVITE", "INVITE", "SUBSCRIBE"),
      }),
    },
    {
      weight: 6,
      arbitrary: fc.record({
        type: fc.constant("respond" as const),
        which: few,
        status: statuses,
        tag: fc.constantFrom("one", "one", "one", "two"),
        rseq: fc.constantFrom(0, 0, 1, 1, 2, 3),
      }),
    },
    {
      weight: 6,
      arbitrary: fc.record({
        type: fc.constant("send" as const),
        method: fc.constantFrom(
          "ACK",
          "ACK",
          "ACK",
          "BYE",
          "INVITE",
          "INFO",
          "UPDATE",
          "PRACK",
          "SUBSCRIBE",
          "NOTIFY",
          "REFER",
        ),
        which: few,
      }),
    },
    { weight: 2, arbitrary: fc.record({ type: fc.constant("cancel" as const), which: few }) },
    { weight: 1, arbitrary: fc.record({ type: fc.constant("crash" as const) }) },
  ),
  { minLength: 20, maxLength: 60, size: "max" },
);

class World {
  readonly clock = new ManualClock();
  readonly network = new TimedNetwork(this.clock);
  readonly apps = new FakeApps();
  readonly counters = new Counters();
  readonly inbounds: FakeInbound[] = [];
  readonly lastInvite = new Map<number, FakeInbound>();
  readonly agent: UserAgent;
  commands = 0;
  dropped = 0;
  #seq = 0;
  #client = 1;

  constructor() {
    this.agent = new UserAgent({
      clock: this.clock,
      random: seededRandom(7),
      timers: sipTimers(),
      log: silentLog,
      counters: this.counters,
      limits: defaultLimits,
      settings: {
        orphanGraceMs: 30_000,
        waitMs: 10_000,
        strictParity: false,
        ringingLimitMs: 600_000,
        outboundProxy: undefined,
        userAgent: undefined,
        session: defaultSessionRules,
      },
      network: this.network,
      events: this.apps,
    });
    this.apps.verbs.add("subscribe");
  }

  #command(sip: string): { client: number; requestId: string; sip: Buffer } {
    this.commands += 1;
    return { client: this.#client, requestId: String(this.commands), sip: Buffer.from(sip) };
  }

  #receive(method: string, call: number): void {
    this.#seq += 1;
    const invite = this.lastInvite.get(call);
    const inviteSeq = /^\d+/.exec(invite?.request.headers.get("CSeq") ?? "1")?.[0] ?? "1";
    const toTag = /tag=(\w+)/.exec(invite?.responses.findLast((one) => one.status > 100)?.headers.get("To") ?? "")?.[1];
    const seq = method === "ACK" || method === "CANCEL" ? inviteSeq : String(this.#seq);
    const text = [
      `${method} sip:100@192.0.2.1 SIP/2.0`,
      `Via: SIP/2.0/UDP 192.0.2.9:5070;branch=z9hG4bK${this.#seq}`,
      `From: <sip:alice@192.0.2.9>;tag=alice${call}`,
      `To: <sip:100@192.0.2.1>${toTag === undefined || method === "CANCEL" ? "" : `;tag=${toTag}`}`,
      `Call-ID: call-${call}`,
      `CSeq: ${seq} ${method}`,
      "Contact: <sip:alice@192.0.2.9:5070>",
      "Supported: 100rel",
      `Event: ${method === "NOTIFY" ? "refer" : "presence"}`,
      "Expires: 60",
      `RAck: ${invite?.responses.findLast((one) => one.headers.has("RSeq"))?.headers.get("RSeq") ?? "1"} ${inviteSeq} INVITE`,
    ].join("\r\n");
    const inbound = new FakeInbound(String(this.#seq), request(text), origin);
    if (method === "ACK") {
      this.agent.onAck(inbound.request, origin);
    } else if (method === "CANCEL") {
      this.agent.onCancel(inbound, invite);
    } else {
      this.inbounds.push(inbound);
      if (method === "INVITE") {
        this.lastInvite.set(call, inbound);
      }
      this.agent.onRequest(inbound);
    }
  }

  /** The ids of dialogs and transactions that applications have been told of, newest first. */
  #dialogIds(): string[] {
    const ids = this.apps.deliveries.flatMap((one) => (one.dialogId === undefined ? [] : [one.dialogId]));
    const echoed = this.apps.replies.flatMap((one) =>
      one.type === "sent" && one.dialogId !== undefined ? [one.dialogId] : [],
    );
    return [...new Set([...ids, ...echoed])].toReversed();
  }

  async run(step: Step): Promise<void> {
    switch (step.type) {
      case "advance":
        await this.clock.advance(step.ms);
        return;
      case "receive":
        this.#receive(step.method, step.call);
        return;
      case "answer": {
        const asked = this.apps.deliveries.filter((one) => !one.text.startsWith("SIP/2.0"));
        const txnId = asked.at(-1 - step.which)?.txnId ?? "none";
        const require = step.reliable && step.status < 200 ? "Require: 100rel\r\n" : "";
        const body = step.reliable ? "v=0\r\n" : "";
        this.agent.respond(this.#command(`SIP/2.0 ${step.status} X\r\n${require}\r\n${body}`), txnId);
        return;
      }
      case "call":
        this.agent.requestOutOfDialog(
          this.#command(`${step.method} sip:bob@192.0.2.9:5070 SIP/2.0\r\nEvent: presence\r\n\r\n`),
          undefined,
        );
        return;
      case "respond":
        this.network.requests
          .at(-1 - step.which)
          ?.respond(
            step.status,
            "X",
            step.tag,
            step.status < 200 && step.rseq > 0 ? [`RSeq: ${step.rseq}`, "Require: 100rel"] : [],
          );
        return;
      case "send": {
        const dialogId = this.#dialogIds()[step.which] ?? "none";
        this.agent.requestInDialog(this.#command(`${step.method} sip:placeholder SIP/2.0\r\n\r\n`), dialogId);
        return;
      }
      case "cancel": {
        const sent = this.apps.replies.filter((one) => one.type === "sent" && one.kind === "request");
        const found = sent.at(-1 - step.which);
        const txnId = found?.type === "sent" ? found.txnId : "none";
        this.agent.cancel(this.#command("CANCEL sip:x SIP/2.0\r\n\r\n"), txnId);
        return;
      }
      case "crash":
        this.apps.connected.delete(this.#client);
        this.agent.clientGone({ client: this.#client, tags: "", verbs: ["invite"] });
        this.#client += 1;
        this.apps.connected.add(this.#client);
    }
  }
}

it("ends every call and forgets it, in any order of events", async () => {
  const seen = new Map<CounterName, number>();
  await fc.assert(
    fc.asyncProperty(steps, async (sequence) => {
      const world = new World();
      for (const step of sequence) {
        await world.run(step);
      }
      // Ringing ends after ten minutes, the guard behind a CANCEL after half a minute, an orphan too.
      await world.run({ type: "crash" });
      await world.clock.advance(1_500_000);
      expect(world.clock.errors).toEqual([]);
      expect(world.agent.stats()).toEqual({
        dialogs: 0,
        incoming: 0,
        invites: 0,
        outgoing: 0,
        lookups: 0,
        timers: 0,
      });
      for (const inbound of world.inbounds) {
        const finals = new Set(inbound.statuses.filter((status) => status >= 200));
        // One final response at most; an INVITE has one for certain.
        expect(finals.size).toBeLessThanOrEqual(1);
        expect(finals.size === 1 || inbound.request.method !== "INVITE").toBe(true);
      }
      const replied = world.apps.replies.map((one) => one.requestId);
      expect(replied.length).toBe(new Set(replied).size);
      expect(replied.length).toBe(world.commands);
      for (const name of counterNames) {
        seen.set(name, (seen.get(name) ?? 0) + world.counters.get(name));
      }
    }),
    { numRuns: 1_500 },
  );
  // The sequences have to get somewhere: a generator that only makes refused requests would prove nothing.
  for (const name of interesting) {
    expect(seen.get(name), name).toBeGreaterThan(0);
  }
});
