import fc from "fast-check";
import { expect, it } from "vitest";

import { Counters } from "../../src/engine/counters.ts";
import { defaultSessionRules, sessionOff, stepSession } from "../../src/engine/dialog/session-timer.ts";
import type { SessionEvent, SessionState } from "../../src/engine/dialog/session-timer.ts";
import { defaultLimits, silentLog } from "../../src/engine/options.ts";
import type { SipRequest } from "../../src/engine/sip/message.ts";
import { sipTimers } from "../../src/engine/timers.ts";
import { UserAgent } from "../../src/engine/ua/agent.ts";
import type { NextHop, Outbound, OutboundEvents } from "../../src/engine/ua/core.ts";
import { ManualClock, seededRandom } from "../unit/engine-clock.ts";
import { FakeApps, FakeInbound, origin, request, TimedNetwork } from "../unit/engine-fakes.ts";
import type { FakeOutbound } from "../unit/engine-fakes.ts";

// RFC 4028 in any order of refreshes, re-INVITEs of both sides, glare, 422, BYE and timers.

const seconds = fc.constantFrom(90, 91, 100, 1800, 86_400);
const terms = fc.record({
  seconds,
  minimumSeconds: fc.constantFrom(90, 100),
  weRefresh: fc.boolean(),
  peerExpires: fc.boolean(),
});
const retryMs = fc.integer({ min: 0, max: 4_000 });
const statuses = [401, 408, 422, 422, 481, 488, 491, 491, 500, 503] as const;
const events: fc.Arbitrary<SessionEvent> = fc.oneof(
  fc.record({ type: fc.constant("agreed" as const), terms: fc.option(terms, { nil: undefined, freq: 6 }) }),
  fc.constant({ type: "due" as const }),
  fc.record({ type: fc.constant("postponed" as const), retryMs }),
  fc.record({
    type: fc.constant("refused" as const),
    status: fc.constantFrom(...statuses),
    minimumSeconds: fc.constantFrom(0, 90, 120, 2_000),
    retryMs,
    retryAfter: fc.boolean(),
  }),
  fc.constant({ type: "gone" as const }),
);

it("the state: armed exactly while it is on, never beyond the end, one refresh at a time, and one end", () => {
  let ended = 0;
  let refreshed = 0;
  fc.assert(
    fc.property(fc.array(fc.tuple(events, fc.integer({ min: 0, max: 2_000_000 })), { maxLength: 40 }), (sequence) => {
      let state: SessionState = sessionOff;
      let nowMs = 0;
      let dueAtMs: number | undefined;
      const step = (event: SessionEvent): void => {
        const before = state;
        const [next, effects] = stepSession(state, event, nowMs, 1_000);
        state = next;
        if (event.type === "due") {
          dueAtMs = undefined;
        }
        for (const effect of effects) {
          if (effect.type === "arm") {
            expect(effect.ms).toBeGreaterThanOrEqual(0);
            dueAtMs = nowMs + effect.ms;
          } else if (effect.type === "disarm") {
            dueAtMs = undefined;
          } else if (effect.type === "refresh") {
            refreshed += 1;
            // Only the answer to the refresh before makes room for another.
            expect(before.phase === "refreshing" ? event.type : "due").toBe(
              before.phase === "refreshing" ? "refused" : "due",
            );
            expect(next.phase).toBe("refreshing");
          } else {
            ended += 1;
            expect(next.phase).toBe("off");
          }
        }
        expect(dueAtMs === undefined).toBe(next.phase === "off");
        if (next.phase !== "off" && dueAtMs !== undefined) {
          expect(dueAtMs).toBeLessThanOrEqual(Math.max(next.endsAtMs, nowMs));
        }
      };
      for (const [event, ms] of sequence) {
        // A timer that is due comes before anything later; an event of it that nothing armed cannot happen.
        if (event.type === "due") {
          if (dueAtMs !== undefined) {
            nowMs = Math.max(nowMs, dueAtMs);
            step(event);
          }
          continue;
        }
        nowMs = dueAtMs === undefined ? nowMs + ms : Math.min(nowMs + ms, dueAtMs);
        step(event);
      }
      // Nobody answers any more: the refresh that is due, and the end.
      for (let round = 0; round < 2; round += 1) {
        if (dueAtMs !== undefined) {
          nowMs = Math.max(nowMs, dueAtMs);
          step({ type: "due" });
        }
      }
      expect(state.phase).toBe("off");
    }),
    { numRuns: 20_000 },
  );
  expect(ended).toBeGreaterThan(1_000);
  expect(refreshed).toBeGreaterThan(1_000);
});

type Step =
  | { readonly type: "advance"; readonly ms: number }
  | { readonly type: "peer"; readonly method: string; readonly says: string }
  | { readonly type: "app"; readonly method: string }
  | { readonly type: "appAnswers"; readonly status: number }
  | { readonly type: "peerAnswers"; readonly status: number; readonly says: string }
  | { readonly type: "crash" };

function often<T>(value: T, times: number): readonly T[] {
  return Array.from({ length: times }, () => value);
}

const offers = fc.constantFrom(
  "Session-Expires: 90;refresher=uac",
  "Session-Expires: 90;refresher=uas",
  "Session-Expires: 1800;refresher=uas",
  "Session-Expires: 100",
);
const header = fc.constantFrom(
  "",
  "Session-Expires: 90;refresher=uac",
  "Session-Expires: 90;refresher=uas",
  "Session-Expires: 1800;refresher=uac",
  "Session-Expires: 100",
  "Session-Expires: 30;refresher=uas",
  "Min-SE: 120",
  "Retry-After: 1",
);
const steps = fc.array(
  fc.oneof(
    {
      weight: 5,
      arbitrary: fc.record({
        type: fc.constant("advance" as const),
        ms: fc.constantFrom(1, 500, 2_500, 20_000, 45_000, 60_000, 900_000),
      }),
    },
    {
      weight: 3,
      arbitrary: fc.record({
        type: fc.constant("peer" as const),
        method: fc.constantFrom(...often("INVITE", 8), ...often("ACK", 8), ...often("UPDATE", 4), "BYE"),
        says: header,
      }),
    },
    {
      weight: 2,
      arbitrary: fc.record({
        type: fc.constant("app" as const),
        method: fc.constantFrom(...often("INVITE", 6), ...often("ACK", 10), "BYE"),
      }),
    },
    {
      weight: 3,
      arbitrary: fc.record({ type: fc.constant("appAnswers" as const), status: fc.constantFrom(200, 200, 200, 488) }),
    },
    {
      weight: 6,
      arbitrary: fc.record({
        type: fc.constant("peerAnswers" as const),
        status: fc.constantFrom(100, 100, ...often(200, 12), ...statuses),
        says: header,
      }),
    },
    { weight: 1, arbitrary: fc.record({ type: fc.constant("crash" as const) }) },
  ),
  { minLength: 10, maxLength: 50, size: "max" },
);

const sdp = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\n";
const appSdp = "v=0\r\no=- 1 2 IN IP4 192.0.2.1\r\n";

/** Sees whether an INVITE goes out while another of ours waits for its final response. */
class WatchedNetwork extends TimedNetwork {
  crossed = 0;
  refreshes = 0;
  reInvites = 0;
  readonly #open = new Map<SipRequest, FakeOutbound>();

  override request(sent: SipRequest, hops: readonly NextHop[], on: OutboundEvents): Outbound {
    if (sent.method !== "INVITE") {
      return super.request(sent, hops, on);
    }
    // What the engine gave up 64*T1 after a CANCEL counts as over (RFC 3261 §9.1).
    this.crossed += [...this.#open.values()].filter(({ abandoned }) => !abandoned).length;
    if (sent.body.toString() === appSdp) {
      this.reInvites += 1;
    } else {
      this.refreshes += 1;
    }
    const outbound = super.request(sent, hops, {
      ...on,
      response: (response, source) => {
        if (response.status >= 200) {
          this.#open.delete(sent);
        }
        on.response(response, source);
      },
      timeout: () => {
        this.#open.delete(sent);
        on.timeout();
      },
    }) as FakeOutbound;
    this.#open.set(sent, outbound);
    return outbound;
  }
}

/** One call with a session timer, and everything that may happen in it. */
class Call {
  readonly clock = new ManualClock();
  readonly network = new WatchedNetwork(this.clock);
  readonly apps = new FakeApps();
  readonly agent: UserAgent;
  #commands = 0;
  #client = 1;
  #seq = 1;
  #tag = "";
  #inviteSeq = 1;

  constructor(offer: string) {
    this.agent = new UserAgent({
      clock: this.clock,
      random: seededRandom(11),
      timers: sipTimers(),
      log: silentLog,
      counters: new Counters(),
      limits: defaultLimits,
      settings: {
        orphanGraceMs: 30_000,
        waitMs: 10_000,
        strictParity: false,
        ringingLimitMs: 600_000,
        outboundProxy: undefined,
        userAgent: undefined,
        session: { ...defaultSessionRules, defaultRefresher: "uas" },
      },
      network: this.network,
      events: this.apps,
    });
    const invite = this.#receive("INVITE", offer);
    this.#answer(200);
    this.#tag = /tag=(\w+)/.exec(invite.responses.at(-1)?.headers.get("To") ?? "")?.[1] ?? "";
    this.#receive("ACK", "");
  }

  #receive(method: string, says: string): FakeInbound {
    if (method !== "ACK") {
      this.#seq += 1;
    }
    if (method === "INVITE") {
      this.#inviteSeq = this.#seq;
    }
    const text = [
      `${method} sip:100@192.0.2.1 SIP/2.0`,
      `Via: SIP/2.0/UDP 192.0.2.9:5070;branch=z9hG4bK${this.#seq}`,
      "From: <sip:alice@192.0.2.9>;tag=alice",
      `To: <sip:100@192.0.2.1>${this.#tag === "" ? "" : `;tag=${this.#tag}`}`,
      "Call-ID: call",
      `CSeq: ${method === "ACK" ? this.#inviteSeq : this.#seq} ${method}`,
      "Contact: <sip:alice@192.0.2.9:5070>",
      "Supported: timer",
      ...(says === "" ? [] : [says]),
    ].join("\r\n");
    const inbound = new FakeInbound(`${method}${this.#seq}`, request(text), origin);
    if (method === "ACK") {
      this.agent.onAck(inbound.request, origin);
    } else {
      this.agent.onRequest(inbound);
    }
    return inbound;
  }

  #command(sip: string): { client: number; requestId: string; sip: Buffer } {
    this.#commands += 1;
    return { client: this.#client, requestId: String(this.#commands), sip: Buffer.from(sip) };
  }

  #answer(status: number): void {
    const asked = this.apps.deliveries.findLast(
      (one) => /^(?:INVITE|UPDATE|BYE) /.test(one.text) && one.txnId !== "unsolicited",
    );
    this.agent.respond(this.#command(`SIP/2.0 ${status} X\r\n\r\n${sdp}`), asked?.txnId ?? "none");
  }

  async run(step: Step): Promise<void> {
    switch (step.type) {
      case "advance":
        await this.clock.advance(step.ms);
        break;
      case "peer":
        this.#receive(step.method, step.says);
        break;
      case "app": {
        const body = step.method === "INVITE" ? appSdp : "";
        this.agent.requestInDialog(
          this.#command(`${step.method} sip:placeholder SIP/2.0\r\n\r\n${body}`),
          "call;from-tag=alice",
        );
        break;
      }
      case "appAnswers":
        this.#answer(step.status);
        break;
      case "peerAnswers": {
        const last = this.network.requests.at(-1);
        if (last !== undefined) {
          last.respond(step.status, "X", "alice", step.says === "" ? [] : [step.says]);
        }
        break;
      }
      case "crash":
        this.apps.connected.delete(this.#client);
        this.agent.clientGone({ client: this.#client, verbs: ["invite"], tags: "" });
        this.#client += 1;
        this.apps.connected.add(this.#client);
    }
  }
}

it("a whole call: never two INVITEs of ours at once, and silence ends it", async () => {
  const seen = { refreshes: 0, expired: 0, reInvites: 0 };
  await fc.assert(
    fc.asyncProperty(offers, steps, async (offer, sequence) => {
      const call = new Call(offer);
      const { network, clock, agent } = call;
      for (const step of sequence) {
        await call.run(step);
      }
      // RFC 3261 §14.1.
      expect(network.crossed).toBe(0);
      // From now on the peer says nothing: whatever is armed refreshes in vain and ends the call.
      await clock.advance(200_000_000);
      expect(agent.stats().timers).toBe(0);
      await call.run({ type: "peer", method: "BYE", says: "" });
      await call.run({ type: "appAnswers", status: 200 });
      await clock.advance(100_000);
      expect(clock.errors).toEqual([]);
      expect(agent.stats()).toEqual({ dialogs: 0, incoming: 0, invites: 0, outgoing: 0, lookups: 0, timers: 0 });
      seen.refreshes += network.refreshes;
      seen.reInvites += network.reInvites;
      seen.expired += network.requests.filter(({ request: { headers } }) =>
        headers.get("Reason")?.includes("Session timer expired"),
      ).length;
    }),
    { numRuns: 1_500 },
  );
  // A generator whose calls go nowhere would prove nothing.
  expect(seen.refreshes).toBeGreaterThan(300);
  expect(seen.reInvites).toBeGreaterThan(300);
  expect(seen.expired).toBeGreaterThan(300);
});
