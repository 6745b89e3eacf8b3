import { describe, expect, test } from "vitest";
import { caller, CallScript, gateways, operator, route, sdp, transferTo } from "./script.ts";
import type { TransferRequest } from "../../src/call/transfer.ts";

/** Every row of bot-contract §2 about INVITE transfers, against the pure core. */
const script = (): CallScript => new CallScript().callerIsWithBot();
const talk = (request?: TransferRequest): CallScript =>
  script().botSwitches(request).invited().rings().answers().joined().after(5000);

describe("operator talked", () => {
  test("operator hung up, continueCall true → SUCCESS, caller back with the bot", () => {
    const call = talk().hangsUp(operator(1));
    expect(call.arrows).toBe("offered → answering → withBot → dialling → withOperator → withBot");
    expect(call.transfers).toMatchObject([
      {
        status: { status: "SUCCESS", hangup: false, number: "100" },
        details: { cause: "completed", endedBy: "operator", sipCode: 200, talkMs: 5000 },
      },
    ]);
    expect(Object.keys(call.transfers[0]!.status)).toEqual(["status", "hangup", "number"]);
  });

  test("between his 200 and the bridge: SUCCESS when the caller hangs up, FAIL when it is our own failure", () => {
    const answered = (): CallScript => script().botSwitches().invited().answers();
    expect(answered().hangsUp(caller).transfers).toMatchObject([
      { status: { status: "SUCCESS", hangup: true }, details: { cause: "completed", endedBy: "caller", talkMs: 0 } },
    ]);
    expect(answered().happens({ type: "media.lost", reason: "gone" }).transfers).toMatchObject([
      { status: { status: "FAIL", hangup: true }, details: { cause: "media_failure", endedBy: "service" } },
    ]);
  });

  test("operator hung up, continueCall false → SUCCESS with hangup, BYE to the caller after the event", () => {
    const call = talk(transferTo("100", { continueCall: false }))
      .hangsUp(operator(1))
      .mediaCloses();
    expect(call.transfers).toMatchObject([{ status: { status: "SUCCESS", hangup: true } }]);
    expect(call.asked("leg.bye")).toMatchObject([{ leg: caller }]);
    expect(call.told.at(-1)).toMatchObject({ event: "hangup", by: "operator" });
  });

  test.each([true, false])("caller hung up, continueCall %s → SUCCESS with hangup, BYE to the operator", (keep) => {
    const call = talk(transferTo("100", { continueCall: keep }))
      .hangsUp(caller)
      .mediaCloses();
    expect(call.transfers).toMatchObject([
      { status: { status: "SUCCESS", hangup: true }, details: { cause: "completed", endedBy: "caller" } },
    ]);
    expect(call.asked("leg.bye")).toMatchObject([{ leg: operator(1) }]);
  });

  test("operator answers and hangs up before the bridge stands → SUCCESS, talkMs 0", () => {
    const call = script().botSwitches().invited().answers().hangsUp(operator(1));
    expect(call.transfers).toMatchObject([{ status: { status: "SUCCESS", hangup: false }, details: { talkMs: 0 } }]);
  });
});

describe("operator not reached", () => {
  const rows: [status: number, cause: string][] = [
    [486, "busy"],
    [600, "busy"],
    [480, "unavailable"],
    [603, "rejected"],
    [404, "invalid_number"],
    [410, "invalid_number"],
    [484, "invalid_number"],
    [485, "invalid_number"],
    [604, "invalid_number"],
    [401, "auth_failed"],
    [407, "auth_failed"],
    [415, "media_incompatible"],
    [488, "media_incompatible"],
    [606, "media_incompatible"],
    [500, "trunk_failure"],
    [502, "trunk_failure"],
    [503, "trunk_failure"],
    [504, "trunk_failure"],
    [513, "trunk_failure"],
    [408, "unreachable"],
    [302, "rejected"],
  ];
  test.each(rows)("%i, continueCall true → FAIL %s, caller back with the bot", (status, cause) => {
    const call = script().botSwitches().invited().refuses(status);
    expect(call.transfers).toMatchObject([
      { status: { status: "FAIL", hangup: false }, details: { cause, sipCode: status } },
    ]);
    expect(call.state.phase).toBe("withBot");
  });

  test.each(rows)("%i, continueCall false → FAIL %s with hangup, BYE to the caller", (status, cause) => {
    const call = script()
      .botSwitches(transferTo("100", { continueCall: false }))
      .invited()
      .refuses(status);
    expect(call.transfers).toMatchObject([{ status: { status: "FAIL", hangup: true }, details: { cause } }]);
    expect(call.state.phase).toBe("ending");
    expect(call.asked("leg.bye")).toMatchObject([{ leg: caller }]);
  });

  test.each([408, 487])("%i after a 18x → no_answer", (status) => {
    expect(script().botSwitches().invited().rings().refuses(status).transfers[0]!.details.cause).toBe("no_answer");
  });

  test.each([
    [480, 17, "busy"],
    [503, 17, "busy"],
    [480, 21, "rejected"],
    [404, 34, "trunk_failure"],
    [486, 34, "busy"],
    [500, 1, "invalid_number"],
  ])("%i with Q.850 %i → %s", (status, q850, cause) => {
    expect(script().botSwitches().invited().refuses(status, 1, q850).transfers[0]!.details).toMatchObject({
      cause,
      q850,
    });
  });

  test("answer timer after a 18x → CANCEL, no_answer", () => {
    const call = script().botSwitches().invited().rings().after(30_000).timeIsUp("answer");
    expect(call.asked("leg.cancel")).toMatchObject([{ leg: operator(1) }]);
    expect(call.transfers).toMatchObject([
      { status: { status: "FAIL", hangup: false }, details: { cause: "no_answer", sipCode: null } },
    ]);
  });

  test("answer timer without a 18x → unreachable", () => {
    const call = script().botSwitches().invited().timeIsUp("answer");
    expect(call.transfers[0]!.details.cause).toBe("unreachable");
  });

  test("caller hung up while it rang → CANCEL, FAIL with hangup, caller_hangup", () => {
    const call = script().botSwitches().invited().rings().hangsUp(caller).mediaCloses();
    expect(call.asked("leg.cancel")).toHaveLength(1);
    expect(call.transfers).toMatchObject([
      { status: { status: "FAIL", hangup: true }, details: { cause: "caller_hangup", endedBy: "caller" } },
    ]);
    expect(call.told.at(-1)).toMatchObject({ event: "hangup", by: "caller" });
  });

  test.each([true, false])("bot cancelled while it rang, continueCall %s → FAIL, caller with the bot", (keep) => {
    const call = script()
      .botSwitches(transferTo("100", { continueCall: keep }))
      .invited()
      .rings()
      .bot({ type: "switchCancel", transferId: null });
    expect(call.transfers).toMatchObject([
      { status: { status: "FAIL", hangup: false }, details: { cause: "cancelled" } },
    ]);
    expect(call.state.phase).toBe("withBot");
    expect(call.asked("leg.cancel")).toHaveLength(1);
  });

  test("media fails while dialling → FAIL media_failure", () => {
    const call = script()
      .botSwitches()
      .happens({ type: "media.legFailed", leg: operator(1), reason: "no ports" });
    expect(call.transfers).toMatchObject([
      { status: { status: "FAIL", hangup: false }, details: { cause: "media_failure" } },
    ]);
  });

  test("200 crosses our CANCEL → BYE to that leg, the outcome stands", () => {
    const call = script().botSwitches().invited().rings().timeIsUp("answer").answers();
    expect(call.last).toMatchObject([{ type: "leg.bye", leg: operator(1) }]);
    expect(call.transfers).toHaveLength(1);
    expect(call.state.phase).toBe("withBot");
  });
});

describe("hunting over the trunk's gateways", () => {
  const two = transferTo("100", { route: route({ gateways: gateways("g1", "g2") }) });

  test("503 → next gateway, both in the ledger", () => {
    const call = script()
      .botSwitches(two)
      .invited()
      .after(380)
      .refuses(503)
      .invited(2)
      .after(6120)
      .answers(2)
      .joined(2);
    call.hangsUp(operator(2));
    expect(call.asked("leg.invite")).toMatchObject([{ order: { gateway: "g1" } }, { order: { gateway: "g2" } }]);
    expect(call.transfers[0]!.details.attempts).toMatchObject([
      { sipCode: 503, cause: "trunk_failure", ms: 380 },
      { sipCode: 200, cause: "completed", ms: 6120 },
    ]);
  });

  test.each([486, 600, 603, 480, 404])("%i is final: no second gateway", (status) => {
    const call = script().botSwitches(two).invited().refuses(status);
    expect(call.asked("leg.invite")).toHaveLength(1);
    expect(call.transfers).toHaveLength(1);
  });

  test("a SIP URI that is called directly has no second way: 503 and silence are final", () => {
    const direct = transferTo("a@b.example", { ...two, target: { kind: "uri", uri: "sip:a@b.example" } });
    const refused = script().botSwitches(direct).invited().refuses(503);
    expect(refused.asked("leg.invite")).toHaveLength(1);
    expect(refused.transfers).toMatchObject([{ details: { cause: "trunk_failure", attempts: [{}] } }]);
    const silent = script().botSwitches(direct).invited().timeIsUp("progress");
    expect(silent.asked("leg.invite")).toHaveLength(1);
    expect(silent.transfers).toMatchObject([{ details: { cause: "unreachable" } }]);
  });

  test("a SIP URI that goes by the gateways is tried at each", () => {
    const byGateway = transferTo("a@b.example", {
      target: { kind: "uri", uri: "sip:a@b.example" },
      route: route({ gateways: gateways("g1", "g2"), sipUriVia: "gateway" }),
    });
    const call = script().botSwitches(byGateway).invited().refuses(503).invited(2);
    expect(call.asked("leg.invite")).toMatchObject([{ order: { gateway: "g1" } }, { order: { gateway: "g2" } }]);
  });

  test("where a 3xx points fails → the next gateway is asked for the number, not for the 3xx's target again", () => {
    const call = script().botSwitches(two).invited().refuses(302, 1, null, "sip:200@b.example").invited(2);
    call.refuses(503, 2).invited(3);
    expect(call.asked("leg.invite")).toMatchObject([
      { order: { gateway: "g1", target: { kind: "phone", digits: "100" } } },
      { order: { target: { kind: "uri", uri: "sip:200@b.example" } } },
      { order: { gateway: "g2", target: { kind: "phone", digits: "100" } } },
    ]);
    call.refuses(486, 3);
    const targets = call.transfers[0]!.details.attempts.map(({ target }) => target);
    expect(targets).toEqual(["100", "sip:200@b.example", "100"]);
  });

  test("no 18x within the progress timer → CANCEL, next gateway, then unreachable", () => {
    const call = script().botSwitches(two).invited().timeIsUp("progress").invited(2).timeIsUp("progress", 2);
    expect(call.asked("leg.cancel")).toMatchObject([{ leg: operator(1) }, { leg: operator(2) }]);
    expect(call.transfers).toMatchObject([{ details: { cause: "unreachable", attempts: [{}, {}] } }]);
  });

  test("the same target by another way is no further call of the bot's; another target is one", () => {
    const again = (call: CallScript): boolean[] =>
      call.asked("leg.invite").map((effect) => effect.type === "leg.invite" && effect.order.again === true);
    const failing = script().botSwitches(two).invited().refuses(403).invited(2).refuses(503, 2).invited(3);
    expect(again(failing)).toEqual([false, true, true]);
    const moved = script().botSwitches(two).invited().refuses(302, 1, null, "sip:200@b.example").invited(2);
    expect(again(moved.refuses(503, 2).invited(3))).toEqual([false, false, true]);
    const next = { target: { kind: "phone", digits: "200" }, number: "200", headers: [] } as const;
    const row = script().botSwitches(transferTo("100", { others: [next] }));
    expect(again(row.invited().refuses(486).invited(2))).toEqual([false, false]);
    const referred = script()
      .botSwitches({ ...two, method: "refer" })
      .timeIsUp("refer")
      .invited();
    expect(again(referred.refuses(503).invited(2))).toEqual([true, true]);
  });

  test("nobody is told as being called before his INVITE is on its way", () => {
    const call = script()
      .botSwitches(two)
      .happens({ type: "media.offered", leg: operator(1), offer: sdp });
    expect(call.asked("leg.invite")).toHaveLength(1);
    const failure = { status: null, reason: "halted", q850: null, redirect: null, refused: true } as const;
    call.happens({ type: "leg.failed", leg: operator(1), ...failure });
    expect(call.toldOf("transferProgress").map(({ phase }) => phase)).toEqual(["returning"]);
    expect(call.transfers).toMatchObject([{ details: { cause: "rejected", endedBy: "service" } }]);
    const sent = script().botSwitches(two).invited();
    expect(sent.toldOf("transferProgress")).toMatchObject([{ phase: "dialing", attempt: 1, sipCode: null }]);
  });

  test("100 says only that the next hop lives: nobody is told of ringing, and the progress timer goes on", () => {
    const call = script().botSwitches(two).invited().rings(1, 100).rings(1, 199);
    expect(call.last).toEqual([]);
    expect(call.toldOf("transferProgress").map(({ phase }) => phase)).toEqual(["dialing"]);
    call.timeIsUp("progress").invited(2);
    expect(call.asked("leg.invite")).toHaveLength(2);
  });

  test("the answer timer starts once, at the first INVITE", () => {
    const call = script().botSwitches(two).invited().refuses(503).invited(2);
    expect(call.asked("timer.start").filter((e) => e.type === "timer.start" && e.timer === "answer")).toHaveLength(1);
  });

  test("403 on the caller's number → once more with the bot's, then callerid_rejected", () => {
    const call = script().botSwitches(two).invited().refuses(403).invited(2).refuses(403, 2);
    expect(call.asked("leg.invite")).toMatchObject([
      { order: { gateway: "g1", identity: "caller" } },
      { order: { gateway: "g1", identity: "bot" } },
    ]);
    expect(call.transfers[0]!.details).toMatchObject({ cause: "callerid_rejected", callerIdShown: "bot" });
  });

  test("403 on the bot's own number → rejected, no retry", () => {
    const own = transferTo("100", { route: route({ identity: "bot" }) });
    const call = script().botSwitches(own).invited().refuses(403);
    expect(call.transfers[0]!.details.cause).toBe("rejected");
    expect(call.asked("leg.invite")).toHaveLength(1);
  });

  test("302 within the policy is followed once", () => {
    const call = script()
      .botSwitches()
      .invited()
      .refuses(302, 1, null, "sip:200@b.example")
      .invited(2)
      .refuses(302, 2, null, "sip:300@b.example");
    expect(call.asked("leg.invite")[1]).toMatchObject({ order: { target: { kind: "uri", uri: "sip:200@b.example" } } });
    expect(call.transfers).toMatchObject([
      {
        status: { number: "100" },
        details: { cause: "rejected", attempts: [{ target: "100" }, { target: "sip:200@b.example" }] },
      },
    ]);
  });
});

describe("recording", () => {
  const marks = (call: CallScript): string[] =>
    call.effects.flatMap((effect) => (effect.type === "recording.set" ? [effect.to] : []));

  test("continueRecording true → never touched", () => {
    const call = talk().hangsUp(operator(1));
    expect(marks(call)).toEqual(["start"]);
    expect(call.transfers[0]!.details.recording).toBe("continuous");
  });

  test("continueRecording false → paused before the join, not resumed after the talk", () => {
    const call = talk(transferTo("100", { continueRecording: false }));
    const pause = call.effects.findIndex((e) => e.type === "recording.set" && e.to === "pause");
    const join = call.effects.findIndex((e) => e.type === "media.join");
    expect(pause).toBeGreaterThan(-1);
    expect(pause).toBeLessThan(join);
    call.hangsUp(operator(1));
    expect(marks(call)).toEqual(["start", "pause"]);
    expect(call.transfers[0]!.details.recording).toBe("paused");
  });

  test("resumeOnReturn → resumed after the talk", () => {
    const call = new CallScript({ recording: { enabled: true, resumeOnReturn: true } }).callerIsWithBot();
    call
      .botSwitches(transferTo("100", { continueRecording: false }))
      .invited()
      .answers()
      .joined()
      .hangsUp(operator(1));
    expect(marks(call)).toEqual(["start", "pause", "resume"]);
  });

  test("join fails → resumed, FAIL", () => {
    const call = script()
      .botSwitches(transferTo("100", { continueRecording: false }))
      .invited()
      .answers();
    call.happens({ type: "media.legFailed", leg: operator(1), reason: "gone" });
    expect(marks(call)).toEqual(["start", "pause", "resume"]);
    expect(call.transfers).toMatchObject([{ status: { status: "FAIL" }, details: { cause: "media_failure" } }]);
  });

  test("a recording that failed is not told as going on, and the bot may start another", () => {
    const call = script();
    call.happens({ type: "recording.changed", state: "failed", file: null, durationMs: null, reason: "disk_full" });
    call.botSwitches().invited().answers().joined().hangsUp(operator(1));
    expect(call.transfers[0]!.details.recording).toBe("off");
    call.bot({ type: "record", action: "start" });
    expect(marks(call)).toEqual(["start", "start"]);
  });

  test("a channel that does not record is not made to", () => {
    const call = new CallScript({ recording: { enabled: false, resumeOnReturn: false } }).callerIsWithBot();
    call.botSwitches().invited().answers().joined().hangsUp(operator(1));
    expect(marks(call)).toEqual([]);
    expect(call.transfers[0]!.details.recording).toBe("off");
  });
});

describe("REFER", () => {
  const refer = transferTo("100", { method: "refer", referFallback: false });
  const leg = caller;

  test("NOTIFY 200 → SUCCESS with hangup, the call has left us", () => {
    const call = script().botSwitches(refer).happens({ type: "refer.progress", leg, status: 100 });
    call.happens({ type: "refer.done", leg, status: 200, reason: "OK", q850: null, redirect: null });
    expect(call.transfers).toMatchObject([
      { status: { status: "SUCCESS", hangup: true }, details: { method: "refer", confirmed: true } },
    ]);
  });

  test("BYE after 202 → SUCCESS, not confirmed", () => {
    const call = script().botSwitches(refer).happens({ type: "refer.progress", leg, status: 202 }).hangsUp(caller);
    expect(call.transfers).toMatchObject([
      { status: { status: "SUCCESS", hangup: true }, details: { confirmed: false } },
    ]);
  });

  test("refused by ourselves → FAIL rejected, no INVITE instead, the caller stays", () => {
    const call = script().botSwitches({ ...refer, referFallback: true });
    call.happens({
      type: "refer.done",
      leg,
      status: null,
      reason: "halted",
      q850: null,
      redirect: null,
      refused: true,
    });
    expect(call.transfers).toMatchObject([
      { status: { status: "FAIL", hangup: false }, details: { cause: "rejected" } },
    ]);
    expect(call.asked("trunk.withoutRefer")).toEqual([]);
    expect(call.state.phase).toBe("withBot");
  });

  test.each([true, false])("refused, continueCall %s → FAIL refer_refused, the caller stays", (keep) => {
    const call = script().botSwitches({ ...refer, continueCall: keep });
    call.happens({ type: "refer.done", leg, status: 405, reason: null, q850: null, redirect: null });
    expect(call.transfers).toMatchObject([
      { status: { status: "FAIL", hangup: false }, details: { cause: "refer_refused" } },
    ]);
    expect(call.state.phase).toBe("withBot");
  });

  test("refused with fall-back → the target is called by INVITE, one outcome", () => {
    const call = script().botSwitches({ ...refer, referFallback: true });
    call.happens({ type: "refer.done", leg, status: 603, reason: null, q850: null, redirect: null });
    expect(call.state.phase).toBe("dialling");
    call.invited().answers().joined().hangsUp(operator(1));
    expect(call.transfers).toMatchObject([{ status: { status: "SUCCESS" }, details: { method: "invite" } }]);
    const warned = { code: "refer_failed", commandId: "cmd" };
    expect(call.toldOf("warning")).toMatchObject([warned]);
  });

  const withFallback = { ...refer, referFallback: true };
  const done = { type: "refer.done", leg, reason: null, q850: null, redirect: null } as const;
  const forgets = [{ type: "trunk.withoutRefer", trunk: "trunk-a" }];

  test.each([405, 420, 501, 603, 403, 408])("refused with %d: the trunk is not asked again", (status) => {
    const call = script()
      .botSwitches(withFallback)
      .happens({ ...done, status });
    expect(call.asked("trunk.withoutRefer")).toEqual(forgets);
  });

  test.each([null, 481, 491, 500, 503, 504])(
    "%s says nothing about the trunk: INVITE, and REFER again next time",
    (status) => {
      const call = script()
        .botSwitches(withFallback)
        .happens({ ...done, status });
      expect([call.state.phase, call.asked("trunk.withoutRefer")]).toEqual(["dialling", []]);
    },
  );

  test("silence, and a NOTIFY of 486 after 180: INVITE, and the trunk is not asked again", () => {
    const silent = script().botSwitches(withFallback).timeIsUp("refer");
    const busy = script().botSwitches(withFallback).happens({ type: "refer.progress", leg, status: 180 });
    busy.happens({ ...done, status: 486 });
    for (const call of [silent, busy]) {
      expect(call.state.phase).toBe("dialling");
      expect(call.asked("trunk.withoutRefer")).toEqual(forgets);
      expect(call.asked("media.ringback").every((effect) => "on" in effect && effect.on)).toBe(true);
    }
  });

  test("without fall-back nothing is remembered", () => {
    const call = script().botSwitches(refer).timeIsUp("refer");
    expect([call.asked("trunk.withoutRefer"), call.toldOf("warning")]).toEqual([[], []]);
  });

  test("every NOTIFY renews the wait, and the answer time of the INVITE begins anew", () => {
    const call = script().botSwitches(withFallback);
    for (const status of [202, 100, 180]) {
      call.happens({ type: "refer.progress", leg, status });
      expect(call.last).toContainEqual({ type: "timer.start", timer: "refer", ms: 30_000 });
    }
    call.timeIsUp("refer").invited();
    expect(call.last).toContainEqual({ type: "timer.start", timer: "answer", ms: 30_000 });
  });

  test("the caller hangs up before anybody has accepted the REFER, and after the INVITE took over: FAIL", () => {
    const crossing = script().botSwitches(withFallback).hangsUp(caller);
    const later = script()
      .botSwitches(withFallback)
      .happens({ ...done, status: 486 })
      .hangsUp(caller);
    for (const call of [crossing, later])
      expect(call.transfers).toMatchObject([
        { status: { status: "FAIL", hangup: true }, details: { cause: "caller_hangup" } },
      ]);
  });
});
