import { describe, expect, test } from "vitest";
import { decide } from "../../src/call/decide.ts";
import type { Effect } from "../../src/call/effect.ts";
import type { TransferId } from "../../src/call/ids.ts";
import type { QueuedReply, Reply } from "../../src/call/reply.ts";
import { CallScript, caller, operator, transferTo } from "./script.ts";

const sorry: QueuedReply = { type: "audio", url: "file:///sorry.wav", times: 1 };
const goodbye: QueuedReply = { type: "audio", url: "file:///goodbye.wav", times: 1 };
const say: Reply = { type: "text", text: "hello", lang: null, voice: null };
const fallbackRequest = transferTo("74950000000", { transferId: "t-fallback" as TransferId, continueCall: false });
const toOperator: QueuedReply = { type: "switch", request: fallbackRequest };
const hangUp: QueuedReply = { type: "hangup", headers: [] };

function patient(...fallback: QueuedReply[]): CallScript {
  return new CallScript({ patience: { answerMs: 10_000, silenceMs: 60_000, inputMs: null, fallback } });
}

/** The bot's time that was set last: null while it is stopped. */
function waiting(call: CallScript): number | null {
  const last = call.effects.findLast(
    (effect): effect is Extract<Effect, { type: "timer.start" | "timer.stop" }> =>
      (effect.type === "timer.start" || effect.type === "timer.stop") && effect.timer === "bot",
  );
  return last?.type === "timer.start" ? last.ms : null;
}

function playEnds(call: CallScript): CallScript {
  if (call.state.phase === "ended" || call.state.core.playing === null) throw new Error("nothing plays");
  const { play } = call.state.core.playing;
  return call.happens({ type: "media.played", play, result: "completed", reason: null });
}

describe("how long a bot is waited for", () => {
  test("from the INVITE to its first command", () => {
    const call = patient(hangUp);
    expect(waiting(call)).toBe(10_000);
    call.callerIsWithBot();
    expect(call.asked("timer.start")).toHaveLength(1);
    call.bot({ type: "record", action: "pause" });
    expect(waiting(call)).toBe(60_000);
  });

  test("a worker that takes the call is waited for anew, but not for longer", () => {
    const call = patient(hangUp).callerIsWithBot().bot({ type: "take", worker: "w1" });
    expect(call.last).toContainEqual({ type: "timer.start", timer: "bot", ms: 10_000 });
  });

  test("not while a prompt plays or waits, and anew from its end", () => {
    const call = patient(hangUp).callerIsWithBot().bot(say, say);
    expect(waiting(call)).toBeNull();
    playEnds(call);
    expect(waiting(call)).toBeNull();
    playEnds(call);
    expect(waiting(call)).toBe(60_000);
  });

  test("not during a transfer, and shortly after it: the caller is back and hears nothing", () => {
    const call = patient(hangUp).callerIsWithBot().botSwitches().invited().answers().joined();
    expect(waiting(call)).toBeNull();
    call.hangsUp(operator(1));
    expect(call.state.phase).toBe("withBot");
    expect(waiting(call)).toBe(10_000);
  });

  test("every accepted command begins the wait anew, a rejected one does not", () => {
    const call = patient(hangUp).callerIsWithBot().bot({ type: "record", action: "pause" });
    call.bot({ type: "record", action: "resume" });
    expect(call.last).toContainEqual({ type: "timer.start", timer: "bot", ms: 60_000 });
    call.bot({ type: "switchCancel", transferId: null });
    expect(call.last.filter(({ type }) => type.startsWith("timer"))).toEqual([]);
  });

  test("when Redis goes away only as long as for a first word", () => {
    const call = patient(hangUp)
      .callerIsWithBot()
      .bot({ type: "record", action: "pause" })
      .happens({ type: "bot.away" });
    expect(waiting(call)).toBe(10_000);
  });

  test("for ever where the channel says nothing of it", () => {
    const call = new CallScript().callerIsWithBot();
    expect(call.asked("timer.start")).toEqual([]);
    expect(call.timeIsUp("bot").state.phase).toBe("withBot");
  });
});

describe("a bot that stays silent", () => {
  test("withBot → dialling → withOperator → ending: a prompt and the default operator", () => {
    const call = patient(sorry, toOperator).callerIsWithBot().timeIsUp("bot");
    expect(call.toldOf("warning")).toMatchObject([{ code: "fallback", commandId: null }]);
    expect(call.asked("media.play")).toMatchObject([{ leg: caller, prompt: { url: "file:///sorry.wav" } }]);
    playEnds(call).invited().answers().joined().after(5_000).hangsUp(operator(1));
    expect(call.arrows).toBe("offered → answering → withBot → dialling → withOperator → ending");
    expect(call.transfers).toMatchObject([{ status: { status: "SUCCESS", hangup: true, number: "74950000000" } }]);
  });

  test("the prompt fails: the operator is called all the same", () => {
    const call = patient(sorry, toOperator).callerIsWithBot().timeIsUp("bot");
    if (call.state.phase !== "withBot" || call.state.core.playing === null) throw new Error("no prompt");
    const { play } = call.state.core.playing;
    call.happens({ type: "media.played", play, result: "failed", reason: "not_found" });
    expect(call.state.phase).toBe("dialling");
  });

  test("nobody answers: a goodbye, then the end", () => {
    const request = { ...fallbackRequest, continueCall: true };
    const call = patient({ type: "switch", request }, goodbye, hangUp).callerIsWithBot().timeIsUp("bot");
    call.invited().refuses(486);
    expect(call.asked("media.play")).toMatchObject([{ prompt: { url: "file:///goodbye.wav" } }]);
    playEnds(call);
    expect(call.state).toMatchObject({ phase: "ending", end: { by: "service", reason: "no word from the bot" } });
    expect(call.asked("leg.bye")).toMatchObject([{ leg: caller }]);
    expect(call.transfers).toHaveLength(1);
  });

  test("a polite end: BYE by the service", () => {
    const call = patient(hangUp).callerIsWithBot().timeIsUp("bot").mediaCloses();
    expect(call.toldOf("hangup")).toMatchObject([{ by: "service", reason: "no word from the bot" }]);
  });

  test("ringing (on-command): the caller is answered for the prompt, or refused with 480", () => {
    const policy = {
      answer: "on-command",
      patience: { answerMs: 1, silenceMs: 1, inputMs: null, fallback: [hangUp] },
    } as const;
    const refused = new CallScript(policy).happens({ type: "media.opened", answer: "v=0" as never }).timeIsUp("bot");
    expect(refused.asked("leg.reject")).toMatchObject([{ leg: caller, status: 480 }]);
    const prompted = new CallScript({ ...policy, patience: { ...policy.patience, fallback: [sorry, hangUp] } });
    prompted.happens({ type: "media.opened", answer: "v=0" as never }).timeIsUp("bot");
    expect(prompted.state.phase).toBe("answering");
    prompted.happens({ type: "leg.confirmed", leg: caller });
    expect(prompted.asked("media.play")).toHaveLength(1);
  });

  test("its time is over before the caller was answered: the fallback waits for the ACK", () => {
    const call = patient(sorry, hangUp).timeIsUp("bot");
    expect(call.asked("media.play")).toEqual([]);
    call.callerIsWithBot();
    expect(call.asked("media.play")).toHaveLength(1);
  });

  test("a bot that comes back is not obeyed, and the fallback begins once", () => {
    const call = patient(sorry, hangUp).callerIsWithBot().timeIsUp("bot").bot(say).timeIsUp("bot");
    expect(call.toldOf("rejected")).toMatchObject([{ code: "fallback" }]);
    expect(call.toldOf("warning")).toHaveLength(1);
    expect(call.asked("media.play")).toHaveLength(1);
  });

  test("a timer that fires while the bot speaks does nothing", () => {
    const call = patient(hangUp).callerIsWithBot().bot(say);
    const [next, effects] = decide(call.state, { type: "timer.fired", timer: "bot" }, call.atMs);
    expect([next.phase, effects]).toEqual(["withBot", []]);
  });
});

describe("a caller who presses nothing", () => {
  const listening = (): CallScript =>
    new CallScript({ patience: { answerMs: 10_000, silenceMs: 60_000, inputMs: 5_000, fallback: [hangUp] } });
  const started = (call: CallScript): number =>
    call.asked("timer.start").filter((effect) => effect.type === "timer.start" && effect.timer === "input").length;

  test("is told the bot once, from the end of its prompts on", () => {
    const call = listening().callerIsWithBot().bot(say);
    const before = started(call);
    playEnds(call);
    expect(started(call)).toBe(before + 1);
    call.timeIsUp("input").bot({ type: "record", action: "pause" });
    expect(call.toldOf("noInput")).toHaveLength(1);
    expect(started(call)).toBe(before + 1);
  });

  test("is not waited for before he has heard anything, and not when he is back from an operator", () => {
    expect(started(listening().callerIsWithBot().bot({ type: "record", action: "pause" }))).toBe(0);
    const back = listening().callerIsWithBot().botSwitches().invited().answers().joined().hangsUp(operator(1));
    expect(started(back)).toBe(0);
  });

  test("every key gives him time for another one", () => {
    const call = listening().callerIsWithBot();
    const before = started(call);
    call.happens({ type: "media.digit", leg: caller, digit: "1", durationMs: 100 });
    expect(started(call)).toBe(before + 1);
  });

  test("is not told while a prompt plays, with an operator, and where the channel does not want to know", () => {
    expect(listening().callerIsWithBot().bot(say).timeIsUp("input").toldOf("noInput")).toEqual([]);
    expect(listening().callerIsWithBot().botSwitches().timeIsUp("input").toldOf("noInput")).toEqual([]);
    expect(patient(hangUp).callerIsWithBot().timeIsUp("input").toldOf("noInput")).toEqual([]);
  });
});
