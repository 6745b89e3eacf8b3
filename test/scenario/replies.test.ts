import { describe, expect, test } from "vitest";
import type { CommandId, PlayId, TransferId } from "../../src/call/ids.ts";
import { queueMax } from "../../src/call/phases/replies.ts";
import type { Reply } from "../../src/call/reply.ts";
import { caller, callId, CallScript, operator, sdp, transferTo } from "./script.ts";

const say: Reply = { type: "text", text: "hello", lang: null, voice: null };
const prompt = (n: number): PlayId => `${callId}/play-${n}` as PlayId;
const script = (): CallScript => new CallScript().callerIsWithBot();
const plays = (call: CallScript, n: number): CallScript =>
  call.happens({ type: "media.played", play: prompt(n), result: "completed", reason: null });

describe("the queue of replies", () => {
  test("each after the one before has ended; switch waits for the prompts before it", () => {
    const call = script().bot(say, say, { type: "switch", request: transferTo("100") });
    expect(call.asked("media.play")).toHaveLength(1);
    plays(call, 1);
    expect(call.asked("media.play")).toHaveLength(2);
    expect(call.state.phase).toBe("withBot");
    plays(call, 2);
    expect(call.state.phase).toBe("dialling");
    expect(call.toldOf("playback")).toMatchObject([
      { index: 0, result: "completed" },
      { index: 1, result: "completed" },
    ]);
  });

  test("commands that come before the ACK wait for it", () => {
    const call = new CallScript().bot(say, { type: "hangup", headers: [] });
    expect(call.asked("media.play")).toHaveLength(0);
    call.callerIsWithBot();
    expect(call.asked("media.play")).toHaveLength(1);
    plays(call, 1);
    expect(call.state.phase).toBe("ending");
  });

  test("stop clears the queue and what plays; a switch in it ends as cancelled, the caller stays", () => {
    const call = script()
      .bot(say, { type: "switch", request: transferTo("100") }, say)
      .bot({ type: "stop" });
    expect(call.asked("media.stop")).toMatchObject([{ leg: caller }]);
    // Every prompt gets its end, also one that had not begun; the one behind the switch is no exception.
    expect(call.toldOf("playback")).toMatchObject([
      { index: 0, result: "stopped" },
      { index: 2, result: "stopped" },
    ]);
    expect(call.transfers).toMatchObject([
      { status: { status: "FAIL", hangup: false }, details: { cause: "cancelled" } },
    ]);
    plays(call, 1);
    expect(call.toldOf("playback")).toHaveLength(2);
    expect(call.state.phase).toBe("withBot");
  });

  test("caller hangs up while a switch waits for its prompt → FAIL caller_hangup, once", () => {
    const call = script()
      .bot(say, { type: "switch", request: transferTo("100") })
      .hangsUp(caller)
      .mediaCloses();
    expect(call.transfers).toMatchObject([
      { status: { status: "FAIL", hangup: true }, details: { cause: "caller_hangup" } },
    ]);
    expect(call.told.at(-1)).toMatchObject({ event: "hangup" });
  });

  test("prompts sent during the talk are spoken when the caller is back", () => {
    const call = script().botSwitches().invited().answers().joined().bot(say);
    expect(call.asked("media.play")).toHaveLength(0);
    call.hangsUp(operator(1));
    expect(call.asked("media.play")).toHaveLength(1);
  });

  test("no text-to-speech → warning and playback failed, the queue goes on", () => {
    const call = script().bot(say, say);
    call.happens({ type: "media.played", play: prompt(1), result: "failed", reason: "no_tts" });
    expect(call.toldOf("warning")).toMatchObject([{ code: "no_tts", pointer: "/replies/0" }]);
    expect(call.asked("media.play")).toHaveLength(2);
  });

  test("the queue has a limit, and the command that exceeds it changes nothing", () => {
    const many = Array.from({ length: queueMax + 1 }, (): Reply => say);
    const call = script().bot(...many);
    expect(call.toldOf("rejected")).toMatchObject([{ code: "queue_full" }]);
    expect(call.asked("media.play")).toHaveLength(0);
  });
});

describe("switch and switchCancel", () => {
  test("a second switch during a transfer → transfer_in_progress with its place", () => {
    const call = script()
      .botSwitches()
      .bot(say, { type: "switch", request: transferTo("200") });
    expect(call.toldOf("rejected")).toMatchObject([{ code: "transfer_in_progress", pointer: "/replies/1" }]);
    call.invited().answers().joined().botSwitches(transferTo("200"));
    expect(call.toldOf("rejected")).toHaveLength(2);
    expect(call.asked("media.play")).toHaveLength(0);
  });

  test("switchCancel, then a new switch in one command", () => {
    const second = transferTo("200", { transferId: "t2" as TransferId });
    const call = script().botSwitches().invited();
    call.bot({ type: "switchCancel", transferId: null }, { type: "switch", request: second });
    expect(call.transfers).toMatchObject([{ status: { number: "100" }, details: { cause: "cancelled" } }]);
    expect(call.state.phase).toBe("dialling");
    call.invited(2).answers(2).joined(2).hangsUp(operator(2));
    expect(call.transfers[1]).toMatchObject({ status: { status: "SUCCESS", number: "200" } });
  });

  test("switchCancel after the answer, or of another transfer → rejected", () => {
    const call = script().botSwitches().invited().bot({ type: "switchCancel", transferId: "other" });
    call.answers().joined().bot({ type: "switchCancel", transferId: null });
    expect(call.toldOf("rejected")).toMatchObject([{ code: "no_transfer" }, { code: "no_transfer" }]);
    expect(call.state.phase).toBe("withOperator");
  });

  test("an invalid switch → rejected with its pointer and FAIL, the caller stays", () => {
    const call = script().happens({
      type: "bot.invalidSwitch",
      worker: null,
      commandId: "x" as CommandId,
      transferId: "t9" as TransferId,
      method: "invite",
      number: "not a number",
      code: "invalid_target",
      message: "phoneNumber is not a number",
      pointer: "/replies/0/phoneNumber",
    });
    expect(call.toldOf("rejected")).toMatchObject([{ pointer: "/replies/0/phoneNumber" }]);
    expect(call.transfers).toMatchObject([
      { status: { status: "FAIL", hangup: false, number: "not a number" }, details: { cause: "invalid_reply" } },
    ]);
    expect(call.state.phase).toBe("withBot");
  });
});

test("an invalid switch during a transfer → transfer_in_progress and no event that could be taken for the running one", () => {
  const call = script()
    .botSwitches()
    .invited()
    .happens({
      type: "bot.invalidSwitch",
      worker: null,
      commandId: "x" as CommandId,
      transferId: "t9" as TransferId,
      method: "invite",
      number: "?",
      code: "invalid_reply",
      message: "phoneNumber is not a number",
      pointer: "/replies/0/phoneNumber",
    });
  expect(call.toldOf("rejected")).toMatchObject([{ code: "transfer_in_progress" }]);
  expect(call.transfers).toHaveLength(0);
});

describe("hangup by the bot", () => {
  test("after the replies before it, with its headers", () => {
    const call = script().bot(say, { type: "hangup", headers: [{ name: "X-Why", value: "done" }] });
    expect(call.state.phase).toBe("withBot");
    plays(call, 1).mediaCloses();
    expect(call.asked("leg.bye")).toMatchObject([{ leg: caller, headers: [{ name: "X-Why", value: "done" }] }]);
    expect(call.told.at(-1)).toMatchObject({ event: "hangup", by: "bot" });
  });

  test("while it rings → CANCEL, FAIL cancelled with hangup", () => {
    const call = script().botSwitches().invited().rings().bot({ type: "hangup", headers: [] });
    expect(call.transfers).toMatchObject([
      { status: { status: "FAIL", hangup: true }, details: { cause: "cancelled", endedBy: "bot" } },
    ]);
  });

  test("during the talk → BYE to both, SUCCESS", () => {
    const call = script().botSwitches().invited().answers().joined().bot({ type: "hangup", headers: [] });
    expect(call.asked("leg.bye").map((e) => (e.type === "leg.bye" ? e.leg : ""))).toEqual([operator(1), caller]);
    expect(call.transfers).toMatchObject([
      { status: { status: "SUCCESS", hangup: true }, details: { endedBy: "bot" } },
    ]);
  });
});

describe("workers", () => {
  const command = (worker: string | null, ...replies: Reply[]) =>
    ({ type: "bot.command", command: { commandId: "c" as CommandId, worker, replies } }) as const;

  test("the first take holds; another worker is refused until release", () => {
    const call = script().bot({ type: "take", worker: "a" }).bot({ type: "take", worker: "b" });
    expect(call.toldOf("rejected")).toMatchObject([{ code: "taken" }]);
    call.happens(command("b", say));
    expect(call.asked("media.play")).toHaveLength(0);
    call.happens(command("a", say)).happens(command("a", { type: "release", worker: "a" }));
    call.happens(command("b", { type: "take", worker: "b" }));
    expect(call.toldOf("rejected")).toHaveLength(2);
    expect(call.toldOf("accepted")).toHaveLength(4);
  });
});

describe("arriving and leaving", () => {
  test("on-command: the caller hears ringing until the first reply", () => {
    const call = new CallScript({ answer: "on-command" }).happens({ type: "media.opened", answer: sdp });
    expect(call.state.phase).toBe("ringing");
    call.bot({ type: "take", worker: "a" });
    expect(call.state.phase).toBe("ringing");
    call.bot(say);
    expect(call.arrows).toBe("offered → ringing → answering");
    call.happens({ type: "leg.confirmed", leg: caller });
    expect(call.asked("media.play")).toHaveLength(1);
  });

  test("on-command: hangup as the first reply → 603 to the caller", () => {
    const call = new CallScript({ answer: "on-command" }).happens({ type: "media.opened", answer: sdp });
    call.bot({ type: "hangup", headers: [] });
    expect(call.asked("leg.reject")).toMatchObject([{ status: 603 }]);
  });

  test.each([
    [true, 488],
    [false, 503],
  ])("no anchor (incompatible %s) → %i", (incompatible, status) => {
    const call = new CallScript().happens({ type: "media.openFailed", incompatible, reason: "x" }).mediaCloses();
    expect(call.asked("leg.reject")).toMatchObject([{ status }]);
    expect(call.told.at(-1)).toMatchObject({ event: "hangup", by: "service", sipCode: status, durationMs: 0 });
  });

  test("the last event waits for the recording, but not for ever", () => {
    const call = script().after(4000).hangsUp(caller);
    expect(call.toldOf("hangup")).toHaveLength(0);
    call.happens({ type: "recording.changed", state: "finished", file: "a.wav", durationMs: 4000, reason: null });
    call.mediaCloses();
    expect(call.told.slice(-2)).toMatchObject([{ event: "recording" }, { event: "hangup", durationMs: 4000 }]);
    expect(script().hangsUp(caller).timeIsUp("closing").told.at(-1)).toMatchObject({ event: "hangup" });
  });

  test("a command after the end → unknown_call", () => {
    const call = script().hangsUp(caller).bot(say);
    expect(call.toldOf("rejected")).toMatchObject([{ code: "unknown_call" }]);
  });

  test("shutdown before the answer → 503, so that the trunk tries elsewhere", () => {
    expect(new CallScript().happens({ type: "shutdown" }).asked("leg.reject")).toMatchObject([{ status: 503 }]);
  });

  test("shutdown during a talk releases everybody and tells the outcome", () => {
    const call = script().botSwitches().invited().answers().joined().happens({ type: "shutdown" });
    expect(call.transfers).toHaveLength(1);
    expect(call.asked("leg.bye")).toHaveLength(2);
  });
});

describe("media events", () => {
  test("digits are told with who pressed them; a late digit of a former operator is not", () => {
    const call = script().happens({ type: "media.digit", leg: caller, digit: "5", durationMs: 100 });
    call.botSwitches().invited().answers().joined();
    call.happens({ type: "media.digit", leg: operator(1), digit: "7", durationMs: 80 }).hangsUp(operator(1));
    call.happens({ type: "media.digit", leg: operator(1), digit: "8", durationMs: 80 });
    expect(call.toldOf("dtmf")).toMatchObject([
      { digit: "5", from: "caller" },
      { digit: "7", from: "operator" },
    ]);
  });

  test("our own failure before the bridge stands → FAIL, because the two have never met", () => {
    const answered = (): CallScript => script().botSwitches().invited().answers();
    const lost = answered().happens({ type: "media.lost", reason: "anchor died" });
    expect(lost.transfers).toMatchObject([
      { status: { status: "FAIL", hangup: true }, details: { cause: "media_failure", sipCode: 200, talkMs: 0 } },
    ]);
    const stopped = answered().happens({ type: "shutdown" });
    expect(stopped.transfers).toMatchObject([{ status: { status: "FAIL" }, details: { cause: "internal" } }]);
  });

  test("media lost during a transfer → FAIL media_failure with hangup", () => {
    const call = script().botSwitches().invited().happens({ type: "media.lost", reason: "anchor died" });
    expect(call.transfers).toMatchObject([
      { status: { status: "FAIL", hangup: true }, details: { cause: "media_failure" } },
    ]);
  });
});
