// What the core makes of an operator's sound before and after his answer.
import { describe, expect, test } from "vitest";
import type { TransferRequest } from "../../src/call/transfer.ts";
import { CallScript, caller, operator, sdp, transferTo } from "./script.ts";

const dialled = (over: Partial<TransferRequest> = {}): CallScript =>
  new CallScript().callerIsWithBot().botSwitches(transferTo("100", over)).invited();
const bridged = (over: Partial<TransferRequest> = {}): CallScript => dialled(over).answers().joined();
const unheard = { type: "media.unheard", leg: operator(1), offer: sdp } as const;
const refused = { type: "leg.reinviteFailed", leg: operator(1), gone: false } as const;

describe("before the answer", () => {
  test("only a response with SDP says anything of sound; a repeated one says it again", () => {
    const call = dialled().rings(1, 180);
    expect(call.asked("media.early")).toEqual([]);
    call.rings(1, 183).rings(1, 183);
    expect(call.asked("media.early")).toEqual([
      { type: "media.early", leg: operator(1), answer: sdp },
      { type: "media.early", leg: operator(1), answer: sdp },
    ]);
    expect(call.toldOf("transferProgress").map(({ phase }) => phase)).toEqual(["dialing", "ringing", "earlyMedia"]);
  });

  test("not where the channel does not want it", () => {
    const sounds = { ringbackUrl: null, holdUrl: null, earlyMedia: false };
    const call = new CallScript({ sounds }).callerIsWithBot().botSwitches().invited().rings(1, 183);
    expect(call.asked("media.early")).toEqual([]);
    expect(call.toldOf("transferProgress").at(-1)).toMatchObject({ phase: "earlyMedia" });
  });

  test("not of an operator who has answered and is asked to confirm", () => {
    const confirm = {
      prompt: { kind: "audio", url: "file:///beep.wav", times: 1 },
      digit: "1",
      timeoutMs: 5_000,
    } as const;
    const call = dialled({ confirm }).answers().rings(1, 183);
    expect(call.asked("media.early")).toEqual([]);
  });
});

describe("an operator who answers and is not heard", () => {
  test("is not asked before the bridge stands: nothing of his could be heard yet", () => {
    const call = dialled().answers().happens(unheard);
    expect([call.last, call.state.phase]).toEqual([[], "withOperator"]);
  });

  test("is asked once more; when that helps nobody is told anything", () => {
    const call = bridged().happens(unheard);
    expect(call.last).toEqual([{ type: "leg.reinvite", leg: operator(1), offer: sdp }]);
    call.happens({ type: "leg.reanswered", leg: operator(1), answer: sdp });
    expect(call.last).toEqual([{ type: "media.renew", leg: operator(1), answer: sdp }]);
    expect([call.state.phase, call.transfers]).toEqual(["withOperator", []]);
    call.hangsUp(operator(1));
    expect(call.transfers).toMatchObject([{ status: { status: "SUCCESS" } }]);
  });

  test.each([unheard, refused])(
    "not then either ($type): FAIL, media_failure, BYE to him, the caller is back",
    (again) => {
      const call = bridged({ continueRecording: false }).happens(unheard).happens(again);
      expect(call.state.phase).toBe("withBot");
      expect(call.asked("leg.bye")).toMatchObject([{ leg: operator(1), reason: "no sound" }]);
      expect(call.asked("media.drop")).toMatchObject([{ leg: operator(1) }]);
      expect(call.asked("recording.set").at(-1)).toEqual({ type: "recording.set", to: "resume" });
      expect(call.transfers).toMatchObject([
        {
          status: { status: "FAIL", hangup: false },
          details: { cause: "media_failure", endedBy: "service", sipCode: 200, attempts: [{ cause: "media_failure" }] },
        },
      ]);
    },
  );

  test("continueCall false: the call ends", () => {
    const call = bridged({ continueCall: false }).happens(unheard).happens(unheard);
    expect(call.state.phase).toBe("ending");
    expect(call.asked("leg.bye")).toMatchObject([{ leg: operator(1) }, { leg: caller }]);
    expect(call.transfers).toMatchObject([{ status: { status: "FAIL", hangup: true } }]);
  });

  test("a word about somebody else, or one that comes late, changes nothing", () => {
    const call = bridged()
      .happens({ ...unheard, leg: operator(2) })
      .happens(refused);
    expect(call.asked("leg.reinvite")).toEqual([]);
    call.hangsUp(operator(1)).happens(unheard).happens(refused);
    expect([call.state.phase, call.last]).toEqual(["withBot", []]);
  });
});

describe("an operator who was heard and becomes silent", () => {
  const silent = { type: "media.silent", leg: operator(1), offer: sdp } as const;
  const silentStill = { ...silent, offer: null } as const;
  const gone = { ...refused, gone: true } as const;

  test("is asked whether he is there; whoever answers at all may be silent", () => {
    for (const answer of [refused, { type: "leg.reanswered", leg: operator(1), answer: sdp }] as const) {
      const call = bridged().happens(silent);
      expect(call.last).toEqual([{ type: "leg.reinvite", leg: operator(1), offer: sdp }]);
      call.happens(answer);
      expect([call.state.phase, call.transfers]).toEqual(["withOperator", []]);
      // Another silence, another question.
      call.happens(silent);
      expect(call.last).toMatchObject([{ type: "leg.reinvite" }]);
    }
  });

  test.each([gone, silentStill])(
    "is let go when he is not ($type): they have talked, SUCCESS, and the caller is back",
    (end) => {
      const call = bridged({ continueRecording: false }).after(90_000).happens(silent).happens(end);
      expect(call.state.phase).toBe("withBot");
      expect(call.asked("leg.bye")).toMatchObject([{ leg: operator(1), reason: "no sound any more" }]);
      expect(call.transfers).toMatchObject([
        {
          status: { status: "SUCCESS", hangup: false },
          details: {
            cause: "completed",
            endedBy: "service",
            sipCode: 200,
            talkMs: 90_000,
            attempts: [{ cause: "completed" }],
          },
        },
      ]);
      // As after any talk that was not to be recorded.
      expect(call.asked("recording.set").at(-1)).toEqual({ type: "recording.set", to: "pause" });
    },
  );

  test("continueCall false: the call ends", () => {
    const call = bridged({ continueCall: false }).happens(silent).happens(silentStill);
    expect(call.state.phase).toBe("ending");
    expect(call.transfers).toMatchObject([{ status: { status: "SUCCESS", hangup: true } }]);
  });

  test("a word about somebody else, or out of turn, changes nothing", () => {
    const call = bridged()
      .happens({ ...silent, leg: operator(2) })
      .happens(silentStill)
      .happens(gone);
    expect([call.state.phase, call.asked("leg.reinvite")]).toEqual(["withOperator", []]);
  });
});
