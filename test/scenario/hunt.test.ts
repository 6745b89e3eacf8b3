import { describe, expect, test } from "vitest";
import type { Effect, Prompt } from "../../src/call/effect.ts";
import type { CalledParty, TransferRequest } from "../../src/call/transfer.ts";
import { CallScript, caller, gateways, operator, route, sdp, transferTo } from "./script.ts";

const beep: Prompt = { kind: "audio", url: "file:///beep.wav", times: 1 };
const party = (number: string): CalledParty => ({ target: { kind: "phone", digits: number }, number, headers: [] });
const others = [party("200"), party("300")];

function hunting(strategy: "serial" | "ring", over: Partial<TransferRequest> = {}): CallScript {
  return new CallScript().callerIsWithBot().botSwitches(transferTo("100", { others, strategy, ...over }));
}
const ringing = (over: Partial<TransferRequest> = {}): CallScript =>
  hunting("ring", over).invited(1).invited(2).invited(3);

function timers(call: CallScript, name: string): readonly (number | "stop")[] {
  return call.effects.flatMap((effect: Effect): (number | "stop")[] => {
    if (effect.type === "timer.start" && effect.timer === name) return [effect.ms];
    return effect.type === "timer.stop" && effect.timer === name ? ["stop"] : [];
  });
}
const ledger = (call: CallScript): unknown => call.transfers[0]?.details.attempts.map((a) => [a.target, a.cause]);

describe("all at once", () => {
  test("one answers: the others are cancelled as answered elsewhere, their timers stop, the ledger shows all", () => {
    const call = ringing().rings(1).answers(2);
    expect(call.asked("leg.cancel")).toMatchObject([
      { leg: operator(1), elsewhere: true, reason: "Call completed elsewhere" },
      { leg: operator(3), elsewhere: true },
    ]);
    expect(timers(call, `progress ${operator(3)}`)).toEqual([10_000, "stop"]);
    expect(call.asked("media.drop")).toMatchObject([{ leg: operator(1) }, { leg: operator(3) }]);
    call.joined(2).hangsUp(operator(2));
    expect(call.transfers).toMatchObject([{ status: { status: "SUCCESS", number: "200" } }]);
    expect(ledger(call)).toEqual([
      ["100", "cancelled"],
      ["300", "cancelled"],
      ["200", "completed"],
    ]);
  });

  test("two 200s: one bridge, BYE to the other", () => {
    const call = ringing().answers(3).answers(1);
    expect(call.asked("media.join")).toMatchObject([{ leg: operator(3) }]);
    expect(call.asked("leg.bye")).toMatchObject([{ leg: operator(1) }]);
    expect(call.state.phase).toBe("withOperator");
  });

  test("the answer timer starts once, and the end of one leg leaves it alone", () => {
    const call = ringing().refuses(486, 1).timeIsUp("progress", 2);
    expect(timers(call, "answer")).toEqual([30_000]);
    expect(call.state.phase).toBe("dialling");
    call.rings(3).timeIsUp("answer");
    expect(call.transfers).toMatchObject([{ status: { number: "300" }, details: { cause: "no_answer" } }]);
    expect(ledger(call)).toEqual([
      ["100", "busy"],
      ["200", "unreachable"],
      ["300", "no_answer"],
    ]);
  });

  test("time is up for all: what is told is the one who rang", () => {
    const call = ringing().rings(2).timeIsUp("answer");
    expect(call.asked("leg.cancel")).toMatchObject([{ elsewhere: false }, { elsewhere: false }, { elsewhere: false }]);
    expect(call.transfers).toMatchObject([{ status: { number: "200" }, details: { cause: "no_answer" } }]);
    expect(call.state.phase).toBe("withBot");
  });

  test("each leg has its own way through the gateways", () => {
    const call = ringing({ route: route({ gateways: gateways("g1", "g2") }) })
      .refuses(503, 2)
      .invited(4);
    const orders = call.asked("leg.invite").map((effect) => effect.type === "leg.invite" && effect.order);
    expect(orders[3]).toMatchObject({ gateway: "g2", target: { digits: "200" } });
    expect(call.toldOf("transferProgress").map(({ attempt }) => attempt)).toEqual([1, 2, 3, 4]);
  });

  test("a leg whose offer is not made when somebody answers is never invited", () => {
    const call = hunting("ring").invited(1).answers(1).invited(2);
    expect(call.asked("leg.invite")).toHaveLength(1);
    expect(call.asked("leg.cancel")).toEqual([]);
  });

  test("switchCancel and the caller's end cancel all of them, once told", () => {
    const cancelled = ringing().bot({ type: "switchCancel", transferId: null });
    expect(cancelled.asked("leg.cancel")).toHaveLength(3);
    expect(cancelled.transfers).toMatchObject([{ details: { cause: "cancelled", attempts: [{}, {}, {}] } }]);
    const gone = ringing().hangsUp(caller);
    expect(gone.asked("leg.cancel")).toHaveLength(3);
    expect(gone.transfers).toMatchObject([{ status: { hangup: true }, details: { cause: "caller_hangup" } }]);
  });
});

describe("one after the other", () => {
  test("each gets an equal share of what is left, and the last one all of it", () => {
    const call = hunting("serial").invited(1).after(10_000).timeIsUp("answer").invited(2);
    call.after(4_000).refuses(486, 2).invited(3);
    expect(timers(call, "answer").filter((ms) => ms !== "stop")).toEqual([10_000, 10_000, 16_000]);
    call.after(16_000).timeIsUp("answer");
    expect(call.transfers).toMatchObject([{ details: { attempts: [{}, { cause: "busy" }, {}] } }]);
  });

  test("nobody is called when no time is left", () => {
    const call = hunting("serial").invited(1).after(30_000).refuses(486);
    expect(call.asked("leg.invite")).toHaveLength(1);
    expect(call.state.phase).toBe("withBot");
  });

  test("one target is the plain switch", () => {
    const call = hunting("serial", { others: [] }).invited(1);
    expect(timers(call, "answer")).toEqual([30_000]);
  });
});

describe("a key to press", () => {
  const confirm = { prompt: beep, digit: "1", timeoutMs: 5_000 };
  const digit = (call: CallScript, key: string, n = 1): CallScript =>
    call.happens({ type: "media.digit", leg: operator(n), digit: key, durationMs: 100 });

  test("asked, pressed, joined; ringback until then", () => {
    const call = hunting("serial", { confirm, others: [] }).invited(1).answers(1);
    expect(call.state.phase).toBe("dialling");
    expect(call.asked("media.consult")).toMatchObject([{ leg: operator(1), answer: sdp }]);
    expect(call.asked("media.play")).toMatchObject([{ leg: operator(1), prompt: beep }]);
    expect(timers(call, "answer")).toEqual([30_000, "stop"]);
    digit(call, "5");
    expect(call.asked("media.join")).toEqual([]);
    digit(call, "1");
    expect(call.asked("media.join")).toMatchObject([{ leg: operator(1) }]);
    expect(call.asked("media.ringback")).toMatchObject([{ on: true }, { on: false }]);
    expect(timers(call, `confirm ${operator(1)}`)).toEqual([5_000, "stop"]);
    expect(call.toldOf("dtmf")).toEqual([]);
  });

  test.each(["in time", "at all: he hangs up"])(
    "not pressed %s: the next one is called, and his 200 is in the ledger",
    (how) => {
      const call = hunting("serial", { confirm, others: [party("200")] })
        .invited(1)
        .answers(1);
      if (how === "in time") call.timeIsUp("confirm");
      else call.hangsUp(operator(1));
      expect(call.asked("leg.bye")).toHaveLength(how === "in time" ? 1 : 0);
      call.invited(2).refuses(486, 2);
      expect(call.transfers[0]?.details.attempts).toMatchObject([
        { sipCode: 200, cause: "rejected" },
        { cause: "busy" },
      ]);
    },
  );

  test("all at once: the others ring on while one is asked; the first to press wins, who was asked too gets BYE", () => {
    const call = ringing({ confirm }).answers(1).answers(2);
    expect(call.asked("leg.cancel")).toEqual([]);
    digit(call, "1", 2);
    expect(call.asked("leg.bye")).toMatchObject([
      { leg: operator(1), headers: [{ name: "Reason", value: 'SIP;cause=200;text="Call completed elsewhere"' }] },
    ]);
    expect(call.asked("leg.cancel")).toMatchObject([{ leg: operator(3), elsewhere: true }]);
  });

  test("the answer time of the others ends, not that of the one who is asked", () => {
    const call = ringing({ confirm }).answers(1).timeIsUp("answer");
    expect(call.asked("leg.cancel")).toMatchObject([{ leg: operator(2) }, { leg: operator(3) }]);
    expect(call.state.phase).toBe("dialling");
    digit(call, "1", 1);
    expect(call.state.phase).toBe("withOperator");
  });
});

describe("the talk", () => {
  test("its limit runs from the bridge and ends it as completed", () => {
    const call = hunting("serial", { maxTalkMs: 60_000, others: [] }).invited().answers();
    expect(timers(call, "talk")).toEqual([]);
    call.joined().after(60_000).timeIsUp("talk");
    expect(call.asked("leg.bye")).toMatchObject([{ leg: operator(1) }]);
    expect(call.transfers).toMatchObject([
      {
        status: { status: "SUCCESS", hangup: false },
        details: { cause: "completed", endedBy: "service", talkMs: 60_000 },
      },
    ]);
    expect(call.state.phase).toBe("withBot");
  });

  test("the operator hangs up first: the limit is gone", () => {
    const call = hunting("serial", { maxTalkMs: 60_000, others: [] }).invited().answers().joined().hangsUp(operator(1));
    expect(timers(call, "talk")).toEqual([60_000, "stop"]);
  });
});

describe("while it rings", () => {
  const ended = (call: CallScript): CallScript => {
    if (call.state.phase === "ended" || call.state.core.playing === null) throw new Error("nothing plays");
    const { play } = call.state.core.playing;
    return call.happens({ type: "media.played", play, result: "completed", reason: null });
  };

  test("prompts of the switch and of a later command, one after the other, each told with its part", () => {
    const call = hunting("serial", { duringRing: [beep, beep], others: [] });
    expect(call.asked("media.play")).toHaveLength(1);
    ended(call).bot({ type: "duringRing", prompts: [beep] });
    ended(ended(call));
    expect(call.toldOf("playback").map(({ commandId, part }) => [commandId, part])).toEqual([
      ["cmd-1", 0],
      ["cmd-1", 1],
      ["cmd-2", 0],
    ]);
  });

  test.each(["answers", "fails", "is cancelled"])("the operator %s: every prompt gets its end", (how) => {
    const call = hunting("serial", { duringRing: [beep, beep], others: [] }).invited();
    if (how === "answers") call.answers();
    else if (how === "fails") call.refuses(486);
    else call.bot({ type: "switchCancel", transferId: null });
    expect(call.toldOf("playback")).toMatchObject([
      { part: 0, result: "stopped" },
      { part: 1, result: "stopped" },
    ]);
    expect(call.asked("media.stop")).toMatchObject([{ leg: caller }]);
    if (call.state.phase === "ended") throw new Error("over");
    expect(call.state.core.playing).toBeNull();
  });

  test("stop ends them, a hangup does not wait for them", () => {
    const call = hunting("serial", { duringRing: [beep, beep], others: [] }).bot({ type: "stop" });
    expect(call.toldOf("playback")).toHaveLength(2);
    const gone = hunting("serial", { duringRing: [beep], others: [] }).bot({ type: "hangup", headers: [] });
    expect(gone.state.phase).toBe("ending");
  });

  test("a plain prompt still waits for the caller's return, and nothing rings without a transfer", () => {
    const call = hunting("serial", { others: [] }).bot({ type: "audio", url: "file:///later.wav", times: 1 });
    expect(call.asked("media.play")).toEqual([]);
    const idle = new CallScript().callerIsWithBot().bot({ type: "duringRing", prompts: [beep] });
    expect(idle.toldOf("rejected")).toMatchObject([{ code: "no_transfer" }]);
  });
});
