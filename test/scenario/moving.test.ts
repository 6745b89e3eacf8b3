// What the core does when the media server has lost the call and another one has it.
import { describe, expect, test } from "vitest";
import type { ExchangeId } from "../../src/call/ids.ts";
import type { TransferRequest } from "../../src/call/transfer.ts";
import { CallScript, caller, operator, sdp, transferTo } from "./script.ts";

const callerMoved = { type: "media.moved", leg: caller, offer: sdp } as const;
const operatorMoved = { type: "media.moved", leg: operator(1), offer: sdp } as const;
const told = { type: "leg.reinvite", leg: caller, offer: sdp } as const;
const refused = { type: "leg.reinviteFailed", leg: caller, gone: false } as const;
const followed = (
  leg = caller,
): { readonly type: "leg.reanswered"; readonly leg: typeof caller; readonly answer: typeof sdp } => ({
  type: "leg.reanswered",
  leg,
  answer: sdp,
});
const bridged = (over: Partial<TransferRequest> = {}): CallScript =>
  new CallScript().callerIsWithBot().botSwitches(transferTo("100", over)).invited().answers().joined();

describe("the caller is with the bot", () => {
  test("he is told by a re-INVITE, the bot by a warning, and what it has said goes on", () => {
    const call = new CallScript().callerIsWithBot().bot({ type: "audio", url: "file:///a.wav", times: 1 });
    call.happens(callerMoved);
    expect(call.last).toMatchObject([told, { event: { event: "warning", code: "media_moved" } }]);
    call.happens(followed());
    expect(call.last).toEqual([{ type: "media.renew", leg: caller, answer: sdp }]);
    expect([call.arrows, call.state]).toMatchObject(["offered → answering → withBot", { core: { moving: [] } }]);
    expect(call.asked("media.play")).toHaveLength(1);
  });

  test("he does not follow: the call ends, and says why", () => {
    const call = new CallScript().callerIsWithBot().happens(callerMoved).happens(refused);
    expect(call.asked("leg.bye")).toMatchObject([{ leg: caller }]);
    call.mediaCloses();
    expect(call.toldOf("hangup")).toMatchObject([
      { by: "service", reason: "media lost: the caller does not follow it" },
    ]);
  });
});

describe("before the call is answered", () => {
  const ringing = (): CallScript =>
    new CallScript({ answer: "on-command" }).happens({ type: "media.opened", answer: sdp });
  const exchange = `${caller}/moved` as ExchangeId;

  test("a caller who hears ringing gets the answer of the new end, and not before it is there", () => {
    const call = ringing().happens(callerMoved);
    expect(call.last).toMatchObject([
      { type: "media.update", leg: caller, exchange, offer: sdp },
      { type: "bot.publish" },
    ]);
    call.bot({ type: "text", text: "hello", lang: null, voice: null });
    expect(call.asked("leg.accept")).toEqual([]);
    const answer = "v=0 anew" as typeof sdp;
    call.happens({ type: "media.updated", leg: caller, exchange, answer });
    expect(call.asked("leg.accept")).toEqual([{ type: "leg.accept", leg: caller, answer }]);
    expect(call.asked("leg.reanswer")).toEqual([]);
  });

  test("and is refused when there is none", () => {
    const call = ringing().happens(callerMoved).happens({ type: "media.updateFailed", leg: caller, exchange });
    expect(call.last).toMatchObject([
      { type: "leg.reject", leg: caller },
      { type: "timer.start" },
      { type: "media.close" },
    ]);
  });

  test("RFC 3261 §14.1: nothing is offered before the ACK, and at once with it", () => {
    const call = new CallScript().happens({ type: "media.opened", answer: sdp }).happens(callerMoved);
    expect(call.asked("leg.reinvite")).toEqual([]);
    call.happens({ type: "leg.confirmed", leg: caller });
    expect(call.last[0]).toEqual(told);
    call.happens(refused);
    expect(call.state.phase).toBe("ending");
  });
});

describe("the caller talks to an operator", () => {
  test("both are told, and the transfer goes on to its own end", () => {
    const call = bridged().happens(callerMoved).happens(operatorMoved);
    expect(call.asked("leg.reinvite")).toEqual([told, { ...told, leg: operator(1) }]);
    call.happens(followed(operator(1))).happens(followed());
    call.hangsUp(operator(1));
    expect(call.transfers).toMatchObject([
      { status: { status: "SUCCESS", hangup: false }, details: { cause: "completed", endedBy: "operator" } },
    ]);
    expect(call.state.phase).toBe("withBot");
  });

  test("the operator does not follow: he is hung up on, and the caller is back with the bot", () => {
    const call = bridged()
      .happens(callerMoved)
      .happens(operatorMoved)
      .happens({ ...refused, leg: operator(1) });
    expect(call.asked("leg.bye")).toMatchObject([{ leg: operator(1), reason: "media failed" }]);
    expect(call.transfers).toMatchObject([
      { status: { status: "SUCCESS", hangup: false }, details: { endedBy: "service" } },
    ]);
    expect(call.state.phase).toBe("withBot");
  });

  test("who has talked and is not heard any more behind the move: he is asked once, and the talk was one", () => {
    const unheard = { type: "media.unheard", leg: operator(1), offer: sdp } as const;
    // He was asked once already, when they were joined.
    const call = bridged()
      .happens(unheard)
      .happens(followed(operator(1)))
      .after(90_000);
    call
      .happens(callerMoved)
      .happens(operatorMoved)
      .happens(followed(operator(1)));
    call.happens(unheard);
    expect(call.last).toEqual([{ ...told, leg: operator(1) }]);
    call.happens(unheard);
    expect(call.state.phase).toBe("withBot");
    expect(call.transfers).toMatchObject([
      { status: { status: "SUCCESS", hangup: false }, details: { cause: "completed", endedBy: "service" } },
    ]);
  });

  test("who answers behind the move and is never heard has not talked", () => {
    const call = new CallScript().callerIsWithBot().botSwitches().invited().rings().happens(callerMoved);
    call
      .answers()
      .joined()
      .happens(operatorMoved)
      .happens(followed(operator(1)));
    const unheard = { type: "media.unheard", leg: operator(1), offer: sdp } as const;
    call.happens(unheard).happens(unheard);
    expect(call.transfers).toMatchObject([{ status: { status: "FAIL" }, details: { cause: "media_failure" } }]);
  });

  test("an operator who is asked for his sound and has not been told of a move may refuse as before", () => {
    const call = bridged().happens({ type: "media.silent", leg: operator(1), offer: sdp });
    call.happens({ ...refused, leg: operator(1) });
    expect([call.state.phase, call.transfers]).toEqual(["withOperator", []]);
  });
});

describe("an operator is being called", () => {
  const confirm = {
    prompt: { kind: "audio", url: "file:///beep.wav", times: 1 },
    digit: "1",
    timeoutMs: 5_000,
  } as const;

  test("his phone rings on: he is told when he has answered", () => {
    const call = new CallScript().callerIsWithBot().botSwitches().invited().rings().happens(callerMoved);
    expect(call.last).toMatchObject([told, { type: "bot.publish" }]);
    call.happens(operatorMoved);
    expect(call.last).toEqual([]);
    call.answers().joined().happens(operatorMoved);
    expect(call.last).toEqual([{ ...told, leg: operator(1) }]);
  });

  test("he has answered, is asked to confirm and does not follow: the next one is called, or the transfer fails", () => {
    const call = new CallScript().callerIsWithBot().botSwitches(transferTo("100", { confirm })).invited().answers();
    call.happens(operatorMoved);
    expect(call.last).toEqual([{ ...told, leg: operator(1) }]);
    call.happens({ ...refused, leg: operator(1) });
    expect(call.transfers).toMatchObject([{ status: { status: "FAIL" }, details: { cause: "media_failure" } }]);
    expect(call.state.phase).toBe("withBot");
  });
});

test("whoever takes a place is asked by nobody what the one before him was asked", () => {
  const call = bridged()
    .happens(operatorMoved)
    .happens({ type: "leg.replaced", leg: operator(1), offer: sdp });
  call.happens({ ...refused, leg: operator(1) });
  expect([call.state.phase, call.state]).toMatchObject(["withOperator", { core: { moving: [] } }]);
});

test("he is told himself where he was answered before the move, and ends when he does not follow", () => {
  const call = bridged()
    .happens(operatorMoved)
    .happens({ type: "leg.replaced", leg: operator(1), offer: sdp })
    .happens(operatorMoved);
  expect(call.last).toEqual([{ ...told, leg: operator(1) }]);
  call.happens({ ...refused, leg: operator(1) });
  expect(call.state.phase).toBe("withBot");
});
