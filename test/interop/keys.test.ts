// Key presses between caller and operator, in every way a phone can send and take them.
import { describe, expect, test } from "vitest";
import { keyPitches, pitches } from "../support/pitch.ts";
import type { PhoneCall, PhoneOptions } from "../support/rtp-phone.ts";
import { operatorNumber, sharedStage } from "../integration/stage.ts";
import type { Stage, StageOptions, Talk } from "../integration/stage.ts";

const candidates = [697, 770, 852, 941, 1_209, 1_336, 1_477];
const operatorWithout: PhoneOptions = { dtmf: false };

/** One way of taking and giving keys, for both sides. */
function stageWith(options: StageOptions): {
  readonly stage: () => Stage;
  readonly talk: (fields?: object, caller?: PhoneOptions) => Promise<Talk & { readonly operator: PhoneCall }>;
} {
  const stage = sharedStage(options);
  return {
    stage,
    async talk(fields = {}, caller = {}) {
      const begun = await stage().talk({ tone: pitches.caller, ...caller });
      await begun.call.command([{ type: "switch", phoneNumber: operatorNumber, continueCall: true, ...fields }]);
      const operator = await stage().incoming();
      await operator.acknowledged;
      await begun.call.progress("bridged");
      return { ...begun, operator };
    },
  };
}

async function heardTones(listener: PhoneCall, key: string): Promise<boolean> {
  const heard = await listener.media.capture();
  return heard.timeline(40).some(({ fromMs }) => {
    const tones = heard.between(fromMs, fromMs + 40).tones({ candidates });
    return keyPitches(key).every((hz) => tones.some((tone) => tone.hz === hz));
  });
}

const events = async (listener: PhoneCall): Promise<string> =>
  (await listener.media.capture())
    .digits(listener.remoteSdp?.eventPayloadType)
    .map(({ digit }) => digit)
    .join("");
const infos = (listener: PhoneCall): string =>
  listener
    .received("INFO")
    .map(({ body }) => /^Signal=(\S)\r$/m.exec(body)?.[1] ?? "?")
    .join("");
const patience = { timeout: 8_000 };

async function hangUp({ leg, call, operator }: Talk & { readonly operator: PhoneCall }): Promise<void> {
  await operator.hangUp();
  await call.transfer();
  await leg.hangUp();
  await call.event("hangup");
}

async function hearEachOther({ leg, operator }: Talk & { readonly operator: PhoneCall }): Promise<void> {
  await Promise.all([leg.media.hears(pitches.operator), operator.media.hears(pitches.caller)]);
}

/** Somebody holds a key, which his partner hears as tones, and the bot has tones sent there before he lets it go. */
async function tonesOverKey(parts: {
  readonly call: Talk["call"];
  readonly presser: PhoneCall;
  readonly hearer: PhoneCall;
  readonly to: "caller" | "operator";
  readonly pitch: number;
}): Promise<void> {
  const { call, presser, hearer, to, pitch } = parts;
  const heldMs = 1_000;
  presser.media.pressDigits("1", { durationMs: heldMs });
  await expect.poll(() => heardTones(hearer, "1"), patience).toBe(true);
  await call.command([{ type: "dtmf", digits: "33333333", to }]);
  const steps = async (of: (hz: readonly number[]) => boolean): Promise<readonly number[]> => {
    const heard = await hearer.media.capture();
    return heard
      .timeline(40)
      .filter(({ fromMs }) => {
        const tones = heard.between(fromMs, fromMs + 40).tones({ candidates: [...keyPitches("1"), 1_477, pitch] });
        return of(tones.map(({ hz }) => hz));
      })
      .map(({ fromMs }) => fromMs);
  };
  const sounds = (key: string) => (hz: readonly number[]) => keyPitches(key).every((one) => hz.includes(one));
  await expect.poll(async () => (await steps(sounds("3"))).length, patience).toBeGreaterThan(8 * 2);
  await hearer.media.hears(pitch, { timeoutMs: 3_000 });
  const [[held = Number.NaN], ours] = [await steps(sounds("1")), await steps(sounds("3"))];
  const [begin, end] = [ours[0] ?? Number.NaN, ours.at(-1) ?? Number.NaN];
  const voice = (await steps((hz) => hz.length === 1 && hz[0] === pitch)).find((atMs) => atMs > end) ?? Number.NaN;
  process.stdout.write(`held ${(begin - held).toFixed(0)} ms, heard ${(voice - end).toFixed(0)} ms after the tones\n`);
  // Else this would have shown nothing: they began before his key was over, and he was heard anew behind them.
  expect(begin - held).toBeLessThan(heldMs);
  expect(voice - end).toBeLessThan(1_000);
}

describe("phones that know telephone events (RFC 4733)", () => {
  const { stage, talk } = stageWith({});

  test("theirs go through as they are, INFO is turned into events, both ways, and the bot is told all", async () => {
    const begun = await talk();
    const { leg, call, operator } = begun;
    await hearEachOther(begun);
    leg.media.pressDigits("42");
    await expect.poll(() => events(operator), patience).toBe("42");
    operator.media.pressDigits("3");
    await expect.poll(() => events(leg), patience).toBe("3");
    const told = (): readonly string[] =>
      call.all("dtmf").map(({ body }) => `${String(body["from"])} ${String(body["digit"])}`);
    // A key is told when it is let go, which for RFC 4733 is later than it is heard.
    await expect.poll(told, patience).toEqual(["caller 4", "caller 2", "operator 3"]);
    await leg.infoDigit("5");
    await expect.poll(() => events(operator), patience).toBe("425");
    await operator.infoDigit("9");
    await expect.poll(() => events(leg), patience).toBe("39");
    await hearEachOther(begun);
    await expect.poll(told, patience).toEqual(["caller 4", "caller 2", "operator 3", "caller 5", "operator 9"]);
    expect([await heardTones(operator, "5"), await heardTones(leg, "9")]).toEqual([false, false]);
    expect([infos(operator), infos(leg)]).toEqual(["", ""]);
    await hangUp(begun);
  });

  test("the switch's own digits reach the operator as events, complete and once; the caller hears nothing of it", async () => {
    const begun = await talk({ dtmf: "ww12,3#" });
    const { leg, call, operator } = begun;
    await expect.poll(() => events(operator), patience).toBe("123#");
    const whole = async (): Promise<boolean> =>
      (await operator.media.capture())
        .digits()
        .every(({ ended, durationMs }) => ended && durationMs >= 100 && durationMs <= 200);
    await expect.poll(whole, patience).toBe(true);
    const pressed = (await operator.media.capture()).digits();
    const times = pressed.map(({ atMs }) => atMs - (pressed[0]?.atMs ?? 0));
    process.stdout.write(`keys at ${times.map((ms) => ms.toFixed(0)).join(", ")} ms\n`);
    expect(times[2]).toBeGreaterThan(1_900);
    await hearEachOther(begun);
    expect(await events(leg)).toBe("");
    expect(await heardTones(operator, "2")).toBe(false);
    expect(call.all("dtmf")).toEqual([]);
    await hangUp(begun);
  });

  test("what the caller presses between the switch's digits goes through, and costs none of ours, how many it may be", async () => {
    const begun = await talk({ dtmf: "ww1,,2" });
    const { leg, call, operator } = begun;
    /** Those that are over: what is pressed meanwhile cuts a key short. */
    const whole = async (): Promise<string> =>
      (await operator.media.capture())
        .digits(operator.remoteSdp?.eventPayloadType)
        .map(({ digit, ended }) => (ended ? digit : ""))
        .join("");
    await expect.poll(whole, patience).toBe("1");
    // From the third key on rtpengine would take events for his sound.
    leg.media.pressDigits("734");
    await expect.poll(whole, patience).toBe("17342");
    await call.run({ type: "dtmf", digits: "56", to: "operator" });
    await expect.poll(whole, patience).toBe("1734256");
    expect(call.all("dtmf").map(({ body }) => body["digit"])).toEqual(["7", "3", "4"]);
    await hearEachOther(begun);
    await hangUp(begun);
  });

  test("behind events of ours tones in a phone's sound are looked for no longer", async () => {
    const begun = await talk();
    const { leg, call, operator } = begun;
    await hearEachOther(begun);
    await call.run({ type: "dtmf", digits: "1", to: "operator" });
    await expect.poll(() => events(operator), patience).toBe("1");
    // While the event is sent they are.
    const tonesHeard = async (): Promise<boolean> => {
      leg.media.pressTones("8");
      return heardTones(operator, "8");
    };
    await expect.poll(tonesHeard, { ...patience, interval: 500 }).toBe(true);
    const told = (): readonly unknown[] => call.all("dtmf").map(({ body }) => body["digit"]);
    const before = told().length;
    leg.media.pressTones("8");
    leg.media.sendTone(pitches.caller);
    await hearEachOther(begun);
    // What is told next is the event.
    leg.media.pressDigits("4");
    await expect.poll(() => told().slice(before), patience).toEqual(["4"]);
    await hangUp(begun);
  });

  test("a caller who sends nothing: his operator gets the digits as tones", async () => {
    const { leg, call } = await stage().talk();
    leg.media.pause();
    await call.command([{ type: "switch", phoneNumber: operatorNumber, continueCall: true, dtmf: "5" }]);
    const operator = await stage().incoming();
    await expect.poll(() => heardTones(operator, "5"), patience).toBe(true);
    expect(await events(operator)).toBe("");
    await leg.hangUp();
    await call.event("hangup");
  });

  test("the operator presses *7: BYE to him, the caller is with the bot, whatever continueCall says", async () => {
    const { leg, call, operator } = await talk({ continueCall: false });
    operator.media.pressDigits("1*7");
    await operator.ended;
    const transfer = await call.transfer();
    expect(transfer.statusText).toBe(JSON.stringify({ status: "SUCCESS", hangup: false, number: operatorNumber }));
    expect(transfer.details).toMatchObject({ cause: "completed", endedBy: "operator" });
    await call.run({ type: "audio", audioUrl: stage().prompts.second });
    await leg.media.hears(pitches.bot);
    await leg.hangUp();
    await call.event("hangup");
  });

  test("digits that are none are refused with the field", async () => {
    const { leg, call } = await stage().talk();
    const answer = await call.command([{ type: "switch", phoneNumber: operatorNumber, dtmf: "12x" }]);
    expect(answer.body).toMatchObject({ event: "rejected", code: "invalid_reply", pointer: "/replies/0/dtmf" });
    await call.transfer();
    await leg.hangUp();
    await call.event("hangup");
  });
});

describe("an operator who knows no telephone events", () => {
  const { talk } = stageWith({ operator: operatorWithout });

  test("gets tones: the switch's digits, the caller's events, the caller's INFO", async () => {
    const begun = await talk({ dtmf: "w5" });
    const { leg, operator } = begun;
    await expect.poll(() => heardTones(operator, "5"), patience).toBe(true);
    expect(await heardTones(leg, "5")).toBe(false);
    await hearEachOther(begun);
    leg.media.pressDigits("1");
    await expect.poll(() => heardTones(operator, "1"), patience).toBe(true);
    // While he still holds the key.
    await leg.infoDigit("9");
    await expect.poll(() => heardTones(operator, "9"), patience).toBe(true);
    await hearEachOther(begun);
    expect([await events(operator), infos(operator)]).toEqual(["", ""]);
    await hangUp(begun);
  });

  test("tones that begin while the caller holds a key, and last longer, cost nothing of his sound behind them", async () => {
    const begun = await talk();
    const { call, leg, operator } = begun;
    await hearEachOther(begun);
    await tonesOverKey({ call, presser: leg, hearer: operator, to: "operator", pitch: pitches.caller });
    // The next key is heard and told as ever.
    leg.media.pressDigits("5");
    await expect.poll(() => heardTones(operator, "5"), patience).toBe(true);
    await expect.poll(() => call.all("dtmf").map(({ body }) => body["digit"]), patience).toEqual(["5"]);
    await hearEachOther(begun);
    await hangUp(begun);
  });

  test("a key that the caller holds when he is put on hold costs nothing of his sound when he is back", async () => {
    const begun = await talk();
    const { leg, operator } = begun;
    await hearEachOther(begun);
    leg.media.pressDigits("1", { durationMs: 1_000 });
    await expect.poll(() => heardTones(operator, "1"), patience).toBe(true);
    expect((await operator.reinvite({ direction: "sendonly" })).status).toBe(200);
    // The key is over by then.
    await expect.poll(() => begun.call.all("dtmf").length, patience).toBe(1);
    expect((await operator.reinvite()).status).toBe(200);
    await operator.media.hears(pitches.caller, { timeoutMs: 3_000 });
    await hangUp(begun);
  });
});

describe("a trunk whose phones take keys by INFO", () => {
  const { talk, stage } = stageWith({
    operator: operatorWithout,
    trunk: { dtmf: { fallback: "info" } },
  });

  test("the switch's digits, the caller's events and his INFO go there by INFO, and in no other way", async () => {
    const begun = await talk({ dtmf: "w12" });
    const { leg, call, operator } = begun;
    await expect.poll(() => infos(operator), patience).toBe("12");
    await hearEachOther(begun);
    leg.media.pressDigits("5");
    await expect.poll(() => infos(operator), patience).toBe("125");
    await leg.infoDigit("9");
    await expect.poll(() => infos(operator), patience).toBe("1259");
    // His own INFO is the caller's telephone event.
    await operator.infoDigit("4");
    await expect.poll(() => events(leg), patience).toBe("4");
    await hearEachOther(begun);
    expect([await heardTones(operator, "5"), await heardTones(operator, "1")]).toEqual([false, false]);
    expect(infos(leg)).toBe("");
    expect(call.all("dtmf").map(({ body }) => body["digit"])).toEqual(["5", "9", "4"]);
    await hangUp(begun);
  });

  test("a caller without telephone events gets the operator's keys by INFO too", async () => {
    const begun = await talk({}, operatorWithout);
    const { leg, operator } = begun;
    await hearEachOther(begun);
    await operator.infoDigit("6");
    await expect.poll(() => infos(leg), patience).toBe("6");
    await hangUp(begun);
  });

  test("whoever refuses INFO gets tones", async () => {
    const second = await stage().phone({ ...operatorWithout, tone: pitches.operator2, responses: { INFO: 415 } });
    const { leg, call } = await stage().talk();
    const sipUri = `x@127.0.0.1:${second.port}`;
    await call.command([{ type: "switch", sipUri, continueCall: true, dtmf: "5" }]);
    const operator = await stage().incoming(second);
    await expect.poll(() => heardTones(operator, "5"), patience).toBe(true);
    expect(infos(operator)).toBe("5");
    await leg.hangUp();
    await call.event("hangup");
  });
});

describe("tones that are key presses", () => {
  const detecting = { trunk: { dtmf: { detectTones: true } } };

  describe("of a caller without telephone events", () => {
    const { talk } = stageWith(detecting);

    test("the bot is told, in the talk and after it; the operator gets events", async () => {
      const begun = await talk({}, operatorWithout);
      const { leg, call, operator } = begun;
      const told = (): string =>
        call
          .all("dtmf")
          .map(({ body }) => String(body["digit"]))
          .join("");
      await hearEachOther(begun);
      leg.media.pressTones("25");
      await expect.poll(told, patience).toBe("25");
      await expect.poll(() => events(operator), patience).toBe("25");
      leg.media.sendTone(pitches.caller);
      await hearEachOther(begun);
      await operator.hangUp();
      await call.transfer();
      leg.media.pressTones("8");
      await expect.poll(told, patience).toBe("258");
      await leg.hangUp();
      await call.event("hangup");
    });

    test("tones of ours that begin while the operator holds a key cost nothing of his sound behind them", async () => {
      const begun = await talk({}, operatorWithout);
      const { leg, call, operator } = begun;
      await hearEachOther(begun);
      await tonesOverKey({ call, presser: operator, hearer: leg, to: "caller", pitch: pitches.operator });
      await hearEachOther(begun);
      await hangUp(begun);
    });
  });

  describe("of an operator without telephone events", () => {
    const { talk, stage } = stageWith({ ...detecting, operator: operatorWithout });

    test("his *7 hands the caller back, other keys are told the bot and are the caller's events", async () => {
      const begun = await talk({ continueCall: false });
      const { leg, call, operator } = begun;
      await hearEachOther(begun);
      operator.media.pressTones("4");
      await expect.poll(() => events(leg), patience).toBe("4");
      const told = (): readonly string[] =>
        call.all("dtmf").map(({ body }) => `${String(body["from"])} ${String(body["digit"])}`);
      await expect.poll(told, patience).toEqual(["operator 4"]);
      operator.media.pressTones("*7");
      await operator.ended;
      expect((await call.transfer()).details).toMatchObject({ cause: "completed", endedBy: "operator" });
      expect(told()).toEqual(["operator 4", "operator *", "operator 7"]);
      await call.run({ type: "audio", audioUrl: stage().prompts.second });
      await leg.media.hears(pitches.bot);
      await leg.hangUp();
      await call.event("hangup");
    });
  });
});
