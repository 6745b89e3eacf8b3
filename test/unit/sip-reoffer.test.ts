// Our own offers inside a dialog, with a dialog that is played here.
import { describe, expect, test } from "vitest";
import type { CallEvent } from "../../src/call/event.ts";
import type { LegId, Sdp } from "../../src/call/ids.ts";
import { SipFault } from "../../src/sip/link/fault.ts";
import type { Reply, ReplyOptions, SipDialog } from "../../src/sip/link/types.ts";
import { readHeaders } from "../../src/sip/message.ts";
import { Reoffer } from "../../src/sip/reoffer.ts";
import { ManualClock, settled } from "./media-clock.ts";

const leg = "c1/caller" as LegId;
const offer = "v=0 ours" as Sdp;
const answer = "v=0 his" as Sdp;
const gateway = "192.0.2.1";

interface Answer {
  readonly status: number;
  readonly headers?: string;
  readonly from?: string;
}

class Peer {
  readonly clock = new ManualClock();
  readonly sent: { readonly body: string; readonly headers: readonly string[]; readonly atMs: number }[] = [];
  readonly posted: CallEvent[] = [];
  /** The next answers; 200 when there is none. */
  readonly answers: (Answer | SipFault | Promise<void>)[] = [];
  readonly reoffer: Reoffer;
  /** The engine, once it is known whether it comes back. */
  up: (up: boolean) => void = () => {};

  constructor({ ownsCallId = false, credentials = false } = {}) {
    const send = async (_method: string, { body = "", headers = [] }: ReplyOptions): Promise<Reply | SipFault> => {
      this.sent.push({ body, headers: headers.map(({ name }) => name), atMs: this.clock.now() });
      const next = this.answers.shift() ?? { status: 200 };
      if (next instanceof Promise) await next;
      if (next instanceof SipFault) return next;
      const { status, headers: lines = "", from = gateway } = next instanceof Promise ? { status: 200 } : next;
      return {
        ...readHeaders(`SIP/2.0 ${status} X\r\n${lines}\r\n`),
        status,
        reason: "",
        body: status === 200 ? answer : "",
        sourceAddress: from,
      };
    };
    this.reoffer = new Reoffer({
      leg,
      dialog: { send, remoteUri: `sip:peer@${gateway}` } as unknown as SipDialog,
      ownsCallId,
      clock: this.clock,
      link: { whenUp: async () => new Promise((resolve) => (this.up = resolve)) },
      timeoutMs: 1_000,
      credentials: ({ sourceAddress }) =>
        credentials && sourceAddress === gateway ? { username: "u", password: "p", realm: null } : null,
      post: (event) => this.posted.push(event) > 0,
    });
  }

  /** Time goes by, and what is sent meanwhile is answered. */
  async passes(times: number, ms: number): Promise<void> {
    for (let left = times; left > 0; left -= 1) {
      await settled();
      await this.clock.pass(ms);
    }
    await settled();
  }
}

const reanswered = { type: "leg.reanswered", leg, answer };

test("the answer is told, a refusal too, and whether anybody is there", async () => {
  for (const [given, told] of [
    [{ status: 200 }, reanswered],
    [{ status: 488 }, { type: "leg.reinviteFailed", leg, gone: false }],
    [{ status: 500 }, { type: "leg.reinviteFailed", leg, gone: false }],
    [{ status: 481 }, { type: "leg.reinviteFailed", leg, gone: true }],
    [new SipFault("timeout", "no answer"), { type: "leg.reinviteFailed", leg, gone: true }],
  ] as const) {
    const peer = new Peer();
    peer.answers.push(given);
    peer.reoffer.offer(offer);
    await settled();
    expect([peer.posted, peer.sent.length, peer.clock.timers]).toEqual([[told], 1, 0]);
  }
});

test.each([
  [false, 0, 2_000],
  [true, 2_100, 4_000],
])("RFC 3261 §14.1: offers that cross are made again (owner of the Call-ID: %s)", async (ownsCallId, least, most) => {
  const peer = new Peer({ ownsCallId });
  peer.answers.push({ status: 491 }, new SipFault("engine_refused", "another INVITE is in progress"));
  peer.answers.push({ status: 500, headers: "Retry-After: 1\r\n" });
  peer.reoffer.offer(offer);
  await peer.passes(3, most);
  expect(peer.posted).toEqual([reanswered]);
  expect(peer.sent).toHaveLength(4);
  for (const [index, { atMs }] of peer.sent.slice(1).entries()) {
    const waited = atMs - (peer.sent[index]?.atMs ?? 0);
    expect(waited).toBeGreaterThanOrEqual(least);
    expect(waited).toBeLessThanOrEqual(most);
  }
});

test("but not for ever", async () => {
  const peer = new Peer();
  peer.answers.push(...Array.from({ length: 9 }, () => ({ status: 491 })));
  peer.reoffer.offer(offer);
  await peer.passes(9, 2_000);
  expect([peer.sent.length, peer.posted]).toEqual([4, [{ type: "leg.reinviteFailed", leg, gone: false }]]);
});

test("of an offer that another has followed nothing is told, and nothing after the end", async () => {
  const peer = new Peer();
  let late: () => void = () => {};
  peer.answers.push(new Promise<void>((resolve) => (late = resolve)), { status: 488 }, { status: 491 });
  peer.reoffer.offer(offer);
  peer.reoffer.offer(offer);
  late();
  await settled();
  expect(peer.posted).toEqual([{ type: "leg.reinviteFailed", leg, gone: false }]);
  peer.reoffer.offer(offer);
  await settled();
  expect(peer.clock.timers).toBe(1);
  peer.reoffer.close();
  await peer.clock.pass(5_000);
  expect([peer.sent.length, peer.posted.length, peer.clock.timers]).toEqual([3, 1, 0]);
});

test("a challenge is answered once, by whoever may", async () => {
  const challenge = { status: 407, headers: 'Proxy-Authenticate: Digest realm="r", nonce="n"\r\n' };
  const mute = new Peer();
  mute.answers.push(challenge);
  mute.reoffer.offer(offer);
  await settled();
  expect([mute.sent.length, mute.posted]).toMatchObject([1, [{ type: "leg.reinviteFailed" }]]);
  const stranger = new Peer({ credentials: true });
  stranger.answers.push({ ...challenge, from: "192.0.2.9" });
  stranger.reoffer.offer(offer);
  await settled();
  expect([stranger.sent.length, stranger.posted]).toMatchObject([1, [{ type: "leg.reinviteFailed" }]]);
  const known = new Peer({ credentials: true });
  known.answers.push(challenge);
  known.reoffer.offer(offer);
  await settled();
  expect(known.sent.map(({ headers }) => headers)).toEqual([["Content-Type"], ["Content-Type", "Proxy-Authorization"]]);
  expect(known.posted).toEqual([reanswered]);
});

describe("the connection to the engine breaks", () => {
  const away = new SipFault("engine_away", "no engine");
  const failed = { type: "leg.reinviteFailed", leg, gone: false };

  test("he is asked when it is back", async () => {
    const peer = new Peer();
    peer.answers.push(away);
    peer.reoffer.offer(offer);
    await settled();
    expect([peer.sent.length, peer.posted]).toEqual([1, []]);
    peer.up(true);
    await settled();
    expect([peer.sent.length, peer.posted, peer.clock.timers]).toEqual([2, [reanswered], 0]);
  });

  test("it stays away, or breaks again and again: he has not followed", async () => {
    const peer = new Peer();
    peer.answers.push(away);
    peer.reoffer.offer(offer);
    await settled();
    peer.up(false);
    await settled();
    expect([peer.sent.length, peer.posted]).toEqual([1, [failed]]);
    const often = new Peer();
    often.answers.push(...Array.from({ length: 9 }, () => away));
    often.reoffer.offer(offer);
    for (let times = 0; times < 9; times += 1) {
      await settled();
      often.up(true);
    }
    await settled();
    expect([often.sent.length, often.posted]).toEqual([4, [failed]]);
  });

  test("and the leg ends meanwhile: nothing is sent any more", async () => {
    const peer = new Peer();
    peer.answers.push(away);
    peer.reoffer.offer(offer);
    await settled();
    peer.reoffer.close();
    peer.up(true);
    await settled();
    expect([peer.sent.length, peer.posted]).toEqual([1, []]);
  });
});
