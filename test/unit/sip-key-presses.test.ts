// Keys sent by INFO, with a dialog that is played here.
import { expect, test } from "vitest";
import type { CallEvent } from "../../src/call/event.ts";
import type { PlayId } from "../../src/call/ids.ts";
import { KeyPresses } from "../../src/sip/key-presses.ts";
import { SipFault } from "../../src/sip/link/fault.ts";
import type { Reply, SipDialog } from "../../src/sip/link/types.ts";
import { readHeaders } from "../../src/sip/message.ts";
import { ManualClock, settled } from "./media-clock.ts";

const play = "p1" as PlayId;

class Peer {
  readonly clock = new ManualClock();
  readonly sent: string[] = [];
  readonly posted: CallEvent[] = [];
  /** The next answers; 200 when there is none. */
  readonly answers: (number | SipFault)[] = [];
  readonly keys = new KeyPresses({
    dialog: {
      send: async (method: string, { body = "" }: { readonly body?: string }): Promise<Reply | SipFault> => {
        this.sent.push(`${method} ${body.replaceAll("\r\n", " ").trim()} at ${this.clock.now() - 1_000_000}`);
        const answer = this.answers.shift() ?? 200;
        if (answer instanceof SipFault) return answer;
        return { ...readHeaders(""), status: answer, reason: "", body: "", sourceAddress: "" };
      },
    } as unknown as SipDialog,
    clock: this.clock,
    timeoutMs: 1_000,
    post: (event) => void this.posted.push(event),
  });
}

test("one after the other, with their pauses, and the end is told", async () => {
  const peer = new Peer();
  peer.keys.press(play, "w1,#");
  await peer.clock.pass(2_980);
  expect(peer.sent).toEqual(["INFO Signal=1 Duration=160 at 500", "INFO Signal=# Duration=160 at 2740"]);
  expect([peer.posted, peer.clock.timers]).toEqual([
    [{ type: "media.played", play, result: "completed", reason: null }],
    0,
  ]);
});

test("a refusal of the first key says that another way is open, one of a later key that none is", async () => {
  const silence = new SipFault("timeout", "no answer");
  for (const [refusal, reason] of [
    [415, "info_refused"],
    [501, "info_refused"],
    [408, "info_failed"],
    [silence, "info_failed"],
  ] as const) {
    const peer = new Peer();
    peer.answers.push(refusal);
    peer.keys.press(play, "12");
    await settled();
    await peer.clock.pass(1_000);
    expect(peer.sent).toHaveLength(1);
    expect(peer.posted).toMatchObject([{ result: "failed", reason }]);
    const later = new Peer();
    later.answers.push(200, refusal);
    later.keys.press(play, "123");
    await settled();
    await later.clock.pass(1_000);
    expect(later.sent).toHaveLength(2);
    expect(later.posted).toMatchObject([{ result: "failed", reason: "info_failed" }]);
  }
});

test("another order, an empty one, or the end of the call stops it without a word", async () => {
  const peer = new Peer();
  peer.keys.press(play, "111");
  await settled();
  peer.keys.press("p2" as PlayId, "2");
  await settled();
  await peer.clock.pass(1_000);
  expect(peer.sent).toHaveLength(2);
  expect(peer.posted).toMatchObject([{ play: "p2", result: "completed" }]);
  peer.keys.press(play, "ww3");
  peer.keys.press(play, "");
  peer.keys.press(play, "w4");
  peer.keys.close();
  await peer.clock.pass(5_000);
  expect([peer.sent.length, peer.posted.length, peer.clock.timers]).toEqual([2, 1, 0]);
  peer.keys.press(play, "w5");
  peer.keys.abandon();
  peer.keys.abandon();
  await peer.clock.pass(5_000);
  expect(peer.posted.slice(1)).toMatchObject([{ play, result: "failed", reason: "info_failed" }]);
});
