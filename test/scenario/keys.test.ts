import { describe, expect, test } from "vitest";
import { fallbackCommand } from "../../src/call/patience.ts";
import type { TransferRequest } from "../../src/call/transfer.ts";
import { CallScript, caller, operator, route, transferTo } from "./script.ts";

const talking = (over: Partial<TransferRequest> = {}, returnKeys = "*7"): CallScript =>
  new CallScript({ returnKeys }).callerIsWithBot().botSwitches(transferTo("100", over)).invited().answers().joined();

function presses(call: CallScript, keys: string, leg = operator(1), carriedBy?: "info" | "kept"): CallScript {
  for (const digit of keys) {
    call.happens({
      type: "media.digit",
      leg,
      digit,
      durationMs: 100,
      ...(carriedBy === undefined ? {} : { carriedBy }),
    });
  }
  return call;
}
const digitsSent = (call: CallScript): readonly (readonly [string, string])[] =>
  call.effects.flatMap((effect) =>
    effect.type === "media.play" && effect.prompt.kind === "digits"
      ? [[effect.leg, effect.prompt.digits] as const]
      : [],
  );
function played(call: CallScript): void {
  if (call.state.phase !== "withOperator" || call.state.core.playing === null) throw new Error("nothing plays");
  call.happens({ type: "media.played", play: call.state.core.playing.play, result: "completed", reason: null });
}

describe("the operator hands the caller back", () => {
  test("by the channel's keys: SUCCESS, BYE to him, the caller with the bot though continueCall is false", () => {
    const call = presses(talking({ continueCall: false }), "12*7");
    expect(call.asked("leg.bye")).toMatchObject([{ leg: operator(1), reason: "caller handed back" }]);
    expect(call.transfers).toMatchObject([
      { status: { status: "SUCCESS", hangup: false }, details: { cause: "completed", endedBy: "operator" } },
    ]);
    expect(call.state.phase).toBe("withBot");
  });

  test("not by the caller's keys, not by half of the code, not when it takes too long, not when no keys are set", () => {
    for (const call of [
      presses(talking(), "*7", caller),
      presses(talking(), "*"),
      presses(talking(), "7*"),
      presses(presses(talking(), "*").after(3_001), "7"),
      presses(talking({}, ""), "*7"),
    ]) {
      expect(call.state.phase).toBe("withOperator");
      expect(call.asked("leg.bye")).toEqual([]);
    }
  });

  test("the keys are told the bot as any others", () => {
    const call = presses(talking(), "*7");
    const told = call.effects.flatMap((effect) =>
      effect.type === "bot.publish" && effect.event.event === "dtmf" ? [effect.event.digit + effect.event.from] : [],
    );
    expect(told).toEqual(["*operator", "7operator"]);
  });

  test("not before the two are joined", () => {
    const call = new CallScript({ returnKeys: "*7" })
      .callerIsWithBot()
      .botSwitches(transferTo("100"))
      .invited()
      .answers();
    expect(presses(call, "*7").state.phase).toBe("withOperator");
  });
});

test("keys that come by INFO while one is being sent keep their order, and go before what else waits", () => {
  const call = presses(talking(), "1", caller, "info");
  call.bot({ type: "audio", url: "file:///x.wav", times: 1 });
  presses(call, "234", caller, "info");
  for (let sent = 0; sent < 4; sent += 1) played(call);
  expect(digitsSent(call)).toEqual(["1", "2", "3", "4"].map((digit) => [operator(1), digit]));
});

test("a caller whose bot is lost is not handed back to it: he would hear nothing", () => {
  const fallback = transferTo("74950000000", { continueCall: false, commandId: fallbackCommand });
  const patience = { answerMs: 1000, silenceMs: 1000, inputMs: null };
  const call = new CallScript({
    returnKeys: "*7",
    patience: { ...patience, fallback: [{ type: "switch", request: fallback }] },
  })
    .callerIsWithBot()
    .happens({ type: "timer.fired", timer: "bot" })
    .invited()
    .answers()
    .joined();
  expect(presses(call, "*7").state.phase).toBe("withOperator");
  call.hangsUp(operator(1));
  expect(call.asked("leg.bye")).toMatchObject([{ leg: caller }]);
});

describe("keys that come by INFO", () => {
  test("are sent to the other side as tones, one after the other and in their order", () => {
    const call = presses(talking(), "12", caller, "info");
    expect(digitsSent(call)).toEqual([[operator(1), "1"]]);
    played(call);
    expect(digitsSent(call)).toEqual([
      [operator(1), "1"],
      [operator(1), "2"],
    ]);
    played(call);
    presses(call, "3", operator(1), "info");
    expect(digitsSent(call)).toContainEqual([caller, "3"]);
  });

  test("do not fill the bot's queue, and end with the talk", () => {
    const call = presses(talking({ continueCall: true }), "1".repeat(300), caller, "info");
    call.bot({ type: "text", text: "still there?", lang: null, voice: null });
    expect(call.effects).not.toContainEqual(
      expect.objectContaining({ event: expect.objectContaining({ event: "rejected" }) }),
    );
    presses(call, "2", operator(1), "info");
    call.hangsUp(operator(1));
    expect(call.last.filter(({ type }) => type === "media.play")).toMatchObject([{ prompt: { kind: "text" } }]);
    expect(call.effects).not.toContainEqual(
      expect.objectContaining({ event: expect.objectContaining({ code: "no_operator" }) }),
    );
  });

  test("those in the sound are there already", () => {
    expect(digitsSent(presses(presses(talking(), "1", caller), "2"))).toEqual([]);
  });
});

test("digits of the switch are sent to the operator when the two are joined, and not before", () => {
  const call = new CallScript()
    .callerIsWithBot()
    .botSwitches(transferTo("100", { dtmf: "ww123#" }))
    .invited()
    .answers();
  expect(digitsSent(call)).toEqual([]);
  call.joined();
  expect(digitsSent(call)).toEqual([[operator(1), "ww123#"]]);
});

describe("keys for a side that gets them by INFO", () => {
  const byInfo = { byInfo: true, detectTones: false };
  const call = (): CallScript =>
    new CallScript({ keys: byInfo })
      .callerIsWithBot()
      .botSwitches(transferTo("100", { route: route({ keys: byInfo }), dtmf: "12" }))
      .invited()
      .answers()
      .joined();
  const failed = (script: CallScript, reason: string): CallScript => {
    if (script.state.phase !== "withOperator" || script.state.core.playing === null) throw new Error("nothing plays");
    const { play } = script.state.core.playing;
    return script.happens({ type: "media.played", play, result: "failed", reason });
  };

  test("telephone events first, then INFO, and tones where INFO is refused; nobody is told", () => {
    const script = call();
    expect(script.asked("media.play").at(-1)).toMatchObject({ prompt: { digits: "12", tones: false } });
    failed(script, "no_events");
    expect(script.last).toMatchObject([{ type: "leg.press", leg: operator(1), digits: "12" }]);
    failed(script, "info_refused");
    expect(script.last).toMatchObject([{ type: "media.play", leg: operator(1), prompt: { digits: "12" } }]);
    expect(script.last[0]).not.toHaveProperty("prompt.tones");
    failed(script, "play_failed");
    expect(script.last).toEqual([]);
    expect(script.toldOf("playback")).toEqual([]);
  });

  test("after some have gone none goes twice", () => {
    const script = failed(failed(call(), "no_events"), "info_failed");
    expect(script.last).toEqual([]);
  });

  test("a stop ends them", () => {
    const script = failed(call(), "no_events");
    script.bot({ type: "stop" });
    expect(script.asked("leg.press").at(-1)).toMatchObject({ leg: operator(1), digits: "" });
  });

  test("what the anchor keeps from the other side is sent there", () => {
    const script = presses(call(), "5", caller, "kept");
    played(script);
    expect(script.asked("media.play").at(-1)).toMatchObject({
      leg: operator(1),
      prompt: { digits: "5", tones: false },
    });
  });

  test("operators are offered with the policy of their trunk", () => {
    expect(call().asked("media.offer")).toEqual([{ type: "media.offer", leg: operator(1), keys: byInfo }]);
  });
});
