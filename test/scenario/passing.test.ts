// An operator passes the caller on by REFER.
import { describe, expect, test } from "vitest";
import type { Effect } from "../../src/call/effect.ts";
import type { ExchangeId } from "../../src/call/ids.ts";
import type { CalledParty, TransferRequest } from "../../src/call/transfer.ts";
import { caller, CallScript, gateways, operator, route, sdp, transferTo } from "./script.ts";

const colleague: CalledParty = {
  target: { kind: "phone", digits: "7702" },
  number: "7702",
  headers: [{ name: "Referred-By", value: "<sip:7701@pbx>" }],
};

function talking(
  over: Partial<TransferRequest> = {},
  operatorRefer: "accept" | "refuse" = "accept",
  mostPasses = 5,
): CallScript {
  const request = transferTo("100", { headers: [{ name: "X-Crm", value: "1" }], ...over });
  return new CallScript({ operatorRefer, mostPasses })
    .callerIsWithBot()
    .botSwitches(request)
    .invited()
    .answers()
    .joined();
}

const passes = (call: CallScript, n = 1, party = colleague): CallScript =>
  call.happens({ type: "leg.referred", leg: operator(n), ...party });

const told = (call: CallScript): Effect[] => call.asked("refer.notify");
const orderOf = (effects: readonly Effect[], ...types: Effect["type"][]): string[] =>
  effects.filter(({ type }) => types.includes(type)).map(({ type }) => type);

describe("an operator passes the caller on", () => {
  test("202, ringback for the caller, an INVITE with the bot's headers and Referred-By", () => {
    const call = passes(talking());
    expect(orderOf(call.last, "refer.answer", "media.aside", "media.ringback", "media.offer")).toEqual([
      "refer.answer",
      "media.aside",
      "media.ringback",
      "media.offer",
    ]);
    expect(call.last).toContainEqual({ type: "refer.answer", leg: operator(1), status: 202 });
    call.invited(2);
    const order = { leg: operator(2), target: colleague.target, trunk: "trunk-a", gateway: "g1" };
    const headers = [{ name: "X-Crm", value: "1" }, ...colleague.headers];
    expect(call.last).toContainEqual({ type: "leg.invite", order: expect.objectContaining({ ...order, headers }) });
  });

  test("who has the caller back and is not heard any more is asked once, and has talked all the same", () => {
    const unheard = { type: "media.unheard", leg: operator(1), offer: sdp } as const;
    const call = talking({ continueCall: true }).happens(unheard).after(30_000);
    passes(call).invited(2).refuses(486, 2);
    call.happens(unheard);
    expect(call.last).toEqual([{ type: "leg.reinvite", leg: operator(1), offer: sdp }]);
    call.happens(unheard);
    expect(call.transfers).toMatchObject([{ status: { status: "SUCCESS" }, details: { endedBy: "service" } }]);
  });

  test("whom he names is called for the first time, also after a REFER of the bot's that nobody followed", () => {
    const request = transferTo("100", { method: "refer" });
    const call = new CallScript({ operatorRefer: "accept" }).callerIsWithBot().botSwitches(request).timeIsUp("refer");
    passes(call.invited().answers().joined()).invited(2);
    const again = call.asked("leg.invite").map((effect) => effect.type === "leg.invite" && effect.order.again);
    expect(again).toEqual([true, undefined]);
  });

  test("the next one answers: the operator is told and hung up on, one outcome under the bot's number", () => {
    const call = passes(talking().after(5_000)).invited(2).rings(2).rings(2, 183).rings(2, 180).after(2_000).answers(2);
    expect(told(call)).toEqual([
      { type: "refer.notify", leg: operator(1), status: 180, reason: null, last: false },
      { type: "refer.notify", leg: operator(1), status: 200, reason: "OK", last: true },
    ]);
    expect(orderOf(call.last, "media.join", "refer.notify", "leg.bye", "media.drop")).toEqual([
      "media.join",
      "refer.notify",
      "leg.bye",
      "media.drop",
    ]);
    call.joined(2).after(3_000).hangsUp(operator(2));
    expect(call.transfers).toMatchObject([
      {
        status: { status: "SUCCESS", hangup: false, number: "100" },
        details: {
          cause: "completed",
          endedBy: "operator",
          talkMs: 10_000,
          attempts: [
            { target: "100", cause: "completed", sipCode: 200 },
            { target: "7702", cause: "completed", sipCode: 200 },
          ],
        },
      },
    ]);
    expect(call.state.phase).toBe("withBot");
  });

  test("he hangs up as soon as his REFER is accepted: the caller's way goes on", () => {
    const call = passes(talking()).invited(2).hangsUp(operator(1));
    expect(call.state.phase).toBe("dialling");
    expect(call.last).toEqual([{ type: "media.drop", leg: operator(1) }]);
    call.rings(2).answers(2).joined(2).hangsUp(caller);
    expect(told(call)).toEqual([]);
    expect(call.asked("leg.bye")).toMatchObject([{ leg: operator(2) }]);
    expect(call.transfers).toMatchObject([
      { status: { status: "SUCCESS", hangup: true }, details: { endedBy: "caller" } },
    ]);
  });

  test.each([
    ["busy", (call: CallScript) => call.refuses(486, 2), 486, "busy"],
    ["no answer", (call: CallScript) => call.rings(2).timeIsUp("answer"), 408, "no_answer"],
    ["unreachable", (call: CallScript) => call.timeIsUp("progress", 2), 503, "unreachable"],
  ] as const)("%s: he has the caller again, and the one outcome is that of his talk", (_, fails, status, cause) => {
    const call = fails(passes(talking({ maxTalkMs: 60_000, continueCall: false })).invited(2));
    expect(call.state.phase).toBe("withOperator");
    expect(told(call).at(-1)).toMatchObject({ leg: operator(1), status, last: true });
    expect(call.last).toContainEqual({ type: "media.aside", leg: operator(1), on: false });
    expect(call.last).toContainEqual({ type: "timer.start", timer: "talk", ms: 60_000 });
    expect(call.transfers).toEqual([]);
    call.hangsUp(operator(1));
    expect(call.transfers).toMatchObject([
      {
        status: { status: "SUCCESS", hangup: true, number: "100" },
        details: {
          attempts: [
            { target: "7702", cause },
            { target: "100", cause: "completed" },
          ],
        },
      },
    ]);
  });

  test("he has gone and nobody answers: SUCCESS, because the caller has talked; he goes where the bot wanted", () => {
    for (const continueCall of [true, false]) {
      const call = passes(talking({ continueCall })).invited(2).hangsUp(operator(1)).refuses(486, 2);
      expect(call.state.phase).toBe(continueCall ? "withBot" : "ending");
      expect(call.transfers).toMatchObject([
        {
          status: { status: "SUCCESS", hangup: !continueCall, number: "100" },
          details: { cause: "completed", attempts: [{ cause: "completed" }, { target: "7702", cause: "busy" }] },
        },
      ]);
    }
  });

  test("the caller hangs up meanwhile: CANCEL, a last NOTIFY and BYE", () => {
    const call = passes(talking()).invited(2).hangsUp(caller);
    expect(orderOf(call.last, "leg.cancel", "refer.notify", "leg.bye")).toEqual([
      "leg.cancel",
      "refer.notify",
      "leg.bye",
    ]);
    expect(call.transfers).toMatchObject([
      { status: { status: "SUCCESS", hangup: true }, details: { cause: "completed", endedBy: "caller" } },
    ]);
  });

  test("the next gateway of the trunk is tried as for the bot, and the next one may pass him on again", () => {
    const call = passes(talking({ route: route({ gateways: gateways("g1", "g2") }) }))
      .invited(2)
      .refuses(503, 2);
    call.invited(3).answers(3).joined(3);
    passes(call, 3, { ...colleague, number: "7703" })
      .invited(4)
      .answers(4)
      .joined(4)
      .hangsUp(operator(4));
    const [{ status, details } = expect.fail()] = call.transfers;
    expect(status.number).toBe("100");
    expect(details.attempts.map(({ target, cause }) => [target, cause])).toEqual([
      ["100", "completed"],
      ["7702", "trunk_failure"],
      ["7702", "completed"],
      ["7703", "completed"],
    ]);
  });

  test("a recording that was paused for the operator stays paused for the next one", () => {
    const call = passes(talking({ continueRecording: false }))
      .invited(2)
      .answers(2)
      .joined(2);
    expect(call.asked("recording.set").map((effect) => "to" in effect && effect.to)).toEqual(["start", "pause"]);
    call.hangsUp(operator(2));
    expect(call.transfers[0]!.details.recording).toBe("paused");
  });

  test("the bot cannot take back what the operator does", () => {
    const call = passes(talking()).invited(2).bot({ type: "switchCancel", transferId: null });
    expect(call.toldOf("rejected")).toMatchObject([{ code: "no_transfer" }]);
    expect(call.state.phase).toBe("dialling");
  });
});

describe("what one talk has counts for the next", () => {
  const timers = (call: CallScript): readonly unknown[] =>
    call.effects.flatMap((effect) => (effect.type === "timer.start" && effect.timer === "talk" ? [effect.ms] : []));

  test("the longest talk is that of all of them, the calls in between included", () => {
    const call = passes(talking({ maxTalkMs: 60_000 }).after(20_000))
      .invited(2)
      .after(5_000)
      .answers(2)
      .joined(2);
    passes(call.after(30_000), 2).invited(3).after(1_000).refuses(486, 3);
    expect(timers(call)).toEqual([60_000, 35_000, 4_000]);
    passes(call, 2).invited(4).after(20_000).answers(4).joined(4);
    expect(timers(call).at(-1)).toBe(1);
    call.timeIsUp("talk");
    expect(call.transfers).toMatchObject([{ status: { status: "SUCCESS" }, details: { endedBy: "service" } }]);
  });

  test("the bot's headers go to everybody, those of a REFER only to whom it names; an extension only to the first", () => {
    const call = talking({ dtmf: "123" });
    const dialled = (): number => call.asked("media.play").length;
    const once = dialled();
    const attended = { ...colleague, headers: [...colleague.headers, { name: "Replaces", value: "x" }] };
    passes(call, 1, attended).invited(2).answers(2).joined(2);
    passes(call, 2, { ...colleague, headers: [] }).invited(3);
    const orders = call.effects.flatMap((effect) => (effect.type === "leg.invite" ? [effect.order.headers] : []));
    const own = { name: "X-Crm", value: "1" };
    expect(orders).toEqual([[own], [own, ...attended.headers], [own]]);
    expect([once, dialled()]).toEqual([1, 1]);
  });

  test("the gateway that the operator was reached by is asked first", () => {
    const call = talking({ route: route({ gateways: gateways("g1", "g2") }) });
    const second = new CallScript({ operatorRefer: "accept" })
      .callerIsWithBot()
      .botSwitches(transferTo("100", { route: route({ gateways: gateways("g1", "g2") }) }))
      .invited()
      .refuses(503)
      .invited(2)
      .answers(2)
      .joined(2);
    passes(call).invited(2).refuses(503, 2).invited(3);
    passes(second, 2).invited(3).refuses(503, 3).invited(4);
    const asked = ({ effects }: CallScript): readonly string[] =>
      effects.flatMap((effect) => (effect.type === "leg.invite" ? [effect.order.gateway] : []));
    expect([asked(call), asked(second)]).toEqual([
      ["g1", "g1", "g2"],
      ["g1", "g2", "g2", "g1"],
    ]);
  });
});

describe("somebody takes the operator's place by an INVITE with Replaces", () => {
  const exchange = "c1/operator-1/claim-1" as ExchangeId;
  const claims = (call: CallScript, leg = operator(1)): CallScript =>
    call.happens({ type: "leg.claimed", leg, exchange, offer: sdp });
  const proposal = { type: "media.propose", leg: operator(1), exchange, offer: sdp };
  const declined = { type: "leg.refuse", leg: operator(1), exchange, status: 603 };

  test("he is answered, and the talk is his from his ACK on", () => {
    const call = claims(talking({ maxTalkMs: 60_000 }));
    expect(call.last).toEqual([proposal]);
    call.happens({ type: "media.updated", leg: operator(1), exchange, answer: sdp });
    expect(call.last).toEqual([{ type: "leg.reanswer", leg: operator(1), exchange, answer: sdp }]);
    call.happens({ type: "leg.replaced", leg: operator(1), offer: sdp });
    expect(call.last).toMatchObject([
      { type: "media.renew", leg: operator(1), answer: sdp, taken: true },
      { type: "bot.publish", event: { event: "transferProgress", phase: "bridged" } },
    ]);
    call.hangsUp(operator(1));
    expect(call.transfers).toMatchObject([
      { status: { status: "SUCCESS", number: "100" }, details: { attempts: [{ cause: "completed" }] } },
    ]);
  });

  test("who has taken it and is never heard: the caller has talked all the same", () => {
    const call = talking({ continueCall: true }).happens({ type: "leg.replaced", leg: operator(1), offer: sdp });
    const unheard = { type: "media.unheard", leg: operator(1), offer: sdp } as const;
    call.happens(unheard);
    expect(call.last).toMatchObject([{ type: "leg.reinvite", leg: operator(1) }]);
    call.happens(unheard);
    expect(call.state.phase).toBe("withBot");
    expect(call.transfers).toMatchObject([
      { status: { status: "SUCCESS" }, details: { endedBy: "service", attempts: [{ cause: "completed" }] } },
    ]);
  });

  test("declined: not allowed, not talking yet, passing on, too often", () => {
    expect(claims(talking({}, "refuse")).last).toEqual([declined]);
    expect(claims(talking({}, "accept", 1)).last).toEqual([proposal]);
    const early = new CallScript({ operatorRefer: "accept" }).callerIsWithBot().botSwitches().invited().answers();
    expect(claims(early).last).toEqual([declined]);
    expect(claims(passes(talking())).last).toEqual([declined]);
    const often = talking({}, "accept", 1).happens({ type: "leg.replaced", leg: operator(1), offer: sdp });
    expect(claims(often).last).toEqual([declined]);
    expect(passes(often).last).toEqual([{ type: "refer.answer", leg: operator(1), status: 603 }]);
  });

  test("while his phone rings: the call is picked up, which is no passing on, and the ledger says by whom", () => {
    const ringing = (operatorRefer: "accept" | "refuse" = "accept"): CallScript =>
      new CallScript({ operatorRefer, mostPasses: 1 }).callerIsWithBot().botSwitches().invited().rings();
    expect(claims(ringing("refuse")).last).toEqual([declined]);
    expect(claims(ringing(), operator(2)).last).toEqual([{ ...declined, leg: operator(2) }]);
    const call = claims(ringing());
    expect(call.last).toEqual([proposal]);
    call.happens({ type: "leg.answered", leg: operator(1), answer: sdp, takenBy: "7702" });
    expect(orderOf(call.last, "media.join", "leg.bye", "leg.cancel")).toEqual(["media.join"]);
    claims(call.joined());
    expect(call.last).toEqual([proposal]);
    call.happens({ type: "leg.replaced", leg: operator(1), offer: sdp, takenBy: "7703" }).hangsUp(operator(1));
    expect(call.transfers).toMatchObject([
      { status: { status: "SUCCESS" }, details: { attempts: [{ cause: "completed", takenBy: "7703" }] } },
    ]);
  });

  test("a caller's place is not to be had while he is asked to follow a REFER", () => {
    const call = new CallScript({ operatorRefer: "accept" }).callerIsWithBot();
    expect(claims(call, caller).last).toEqual([{ ...proposal, leg: caller }]);
    call.botSwitches(transferTo("100", { method: "refer" }));
    expect(claims(call, caller).last).toEqual([{ ...declined, leg: caller }]);
  });

  test("another call takes the caller's place: this one ends with the talk, whatever its bot wanted", () => {
    const call = claims(talking({ continueCall: true }), caller);
    expect(call.last).toEqual([{ ...proposal, leg: caller }]);
    call.happens({ type: "leg.replaced", leg: caller, offer: sdp });
    expect(call.last).toEqual([{ type: "media.renew", leg: caller, answer: sdp, taken: true }]);
    call.hangsUp(operator(1));
    expect(call.transfers).toMatchObject([{ status: { status: "SUCCESS", hangup: true } }]);
    expect(call.last).toContainEqual(expect.objectContaining({ type: "leg.bye", leg: caller }));
  });

  test("who has taken the caller's place and gets no sound: the call ends, and the talk before was one", () => {
    for (const [call, transfers] of [
      [talking({ continueCall: true }), [{ status: { status: "SUCCESS", hangup: true } }]],
      [new CallScript({ operatorRefer: "accept" }).callerIsWithBot(), []],
    ] as const) {
      claims(call, caller).happens({ type: "leg.replaced", leg: caller, offer: sdp });
      call.happens({ type: "media.legFailed", leg: caller, reason: "refused" });
      expect(call.state.phase).toBe("ending");
      expect(call.last).toContainEqual(expect.objectContaining({ type: "leg.bye", leg: caller }));
      expect(call.transfers).toMatchObject(transfers);
    }
  });
});

describe("a REFER that is declined with 603", () => {
  const declined = { type: "refer.answer", leg: operator(1), status: 603 };

  test("where the channel does not allow it", () => {
    const call = passes(talking({}, "refuse"));
    expect([call.last, call.state.phase]).toEqual([[declined], "withOperator"]);
  });

  test("when the caller has been passed on often enough, failed attempts included", () => {
    const call = passes(talking({}, "accept", 2))
      .invited(2)
      .refuses(486, 2);
    passes(call).invited(3).answers(3).joined(3);
    passes(call, 3);
    expect([call.last, call.state.phase]).toEqual([[{ ...declined, leg: operator(3) }], "withOperator"]);
  });

  test("before the two talk, from somebody else, and while another one is under way", () => {
    const early = passes(
      new CallScript({ operatorRefer: "accept" }).callerIsWithBot().botSwitches().invited().answers(),
    );
    expect(early.last).toEqual([declined]);
    const foreign = passes(talking(), 7);
    expect(foreign.last).toEqual([{ ...declined, leg: operator(7) }]);
    const twice = passes(passes(talking()));
    expect(twice.last).toEqual([declined]);
  });
});
