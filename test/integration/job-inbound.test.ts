// Who is let in, how he is answered, and what the status pages say.
import { createSocket } from "node:dgram";
import { describe, expect, test } from "vitest";
import { pitches } from "../support/pitch.ts";
import { Phone } from "../support/rtp-phone.ts";
import { formatSip, header, headersOf, type SipText } from "../support/sip-text.ts";
import { expectSuccess, Sipp } from "../support/sipp.ts";
import { waitFor, within } from "../support/wait.ts";
import { drachtioProgram } from "../support/drachtio.ts";
import { Closings, type Packet, RawPeer } from "./engine-support.ts";
import { botNumber, noChildren, operatorNumber, sharedStage, Stage } from "./stage.ts";

/** What was answered, without what must differ from call to call. */
const anonymised = (response: SipText): string =>
  formatSip({
    ...response,
    headers: response.headers
      .filter(([name]) => !/^(?:via|from|call-id|cseq)$/i.test(name))
      .map(([name, value]) => [name, value.replace(/sip:[^@>]*@/, "sip:…@").replace(/;tag=.*/, ";tag=…")]),
  });

const sdpWith = (media: string): string =>
  ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "c=IN IP4 127.0.0.1", "t=0 0", media, ""].join("\r\n");

async function statusPage(stage: Stage, path: string): Promise<{ readonly status: number; readonly text: string }> {
  const response = await fetch(`http://127.0.0.1:${stage.app.adminPort}${path}`);
  return { status: response.status, text: await response.text() };
}

describe("who is let in", () => {
  const stage = sharedStage();

  test("an unknown source gets no answer at all, whatever it sends", async () => {
    // Small timers, so that the phone soon gives up.
    await using stranger = await Phone.start({ address: "127.0.0.7", t1Ms: 10 });
    const leg = await stranger.dial(stage().uri());
    const end = await within(leg.ended, 5_000, "the stranger to give up");
    // A drachtio-server has said 100 before it asks us, so an INVITE, and nothing else, has to be answered there.
    const silent = drachtioProgram === undefined;
    expect(end).toMatchObject(silent ? { by: "failure", how: "timeout" } : { by: "peer", status: 403 });
    await expect(stranger.request("OPTIONS", stage().uri())).rejects.toThrow("no response");
    const received = stranger.records.filter(({ direction }) => direction === "received");
    expect(new Set(received.map(({ message }) => message.status))).toEqual(new Set(silent ? [] : [100, 403]));
    expect(stranger.records.length).toBeGreaterThan(4);

    const noise = createSocket("udp4");
    const answers: Buffer[] = [];
    noise.on("message", (bytes) => answers.push(bytes));
    await new Promise<void>((resolve) => noise.bind(0, "127.0.0.7", resolve));
    for (const bytes of ["\r\n\r\n", "INVITE", "\u0000".repeat(100), "INVITE sip:x SIP/2.0\r\n\r\n"]) {
      noise.send(bytes, stage().port(), "127.0.0.1");
    }
    // Behind the noise comes a caller who is known; when he has been served, the noise has been read.
    const { leg: known, call } = await stage().talk();
    await known.hangUp();
    await call.event("hangup");
    expect(answers).toEqual([]);
    await new Promise<void>((resolve) => noise.close(() => resolve()));
    expect(stage().bot.events.filter(({ body, name }) => name === "call" && body["sipCallId"] === leg.callId)).toEqual(
      [],
    );
  });

  test("an unknown number: 404, the same bytes for each, and no bot is told", async () => {
    const caller = await stage().phone();
    const answers: string[] = [];
    for (const number of ["000", "74951234568", "7495123456", "bot-a"]) {
      const leg = await caller.dial(stage().uri(number));
      const end = await leg.ended;
      expect(end).toMatchObject({ by: "peer", how: "response", status: 404 });
      if (end.message !== undefined) answers.push(anonymised(end.message));
    }
    expect(answers).toHaveLength(4);
    expect(new Set(answers).size).toBe(1);
    const callIds = caller.calls.map(({ callId }) => callId);
    expect(stage().bot.events.filter(({ body }) => callIds.includes(String(body["sipCallId"])))).toEqual([]);
  });

  test("OPTIONS of a known source: 200", async () => {
    const caller = await stage().phone();
    expect((await caller.request("OPTIONS", stage().uri())).status).toBe(200);
  });

  test.each([
    { name: "no G.711", body: sdpWith("m=audio 40000 RTP/AVP 9\r\na=rtpmap:9 G722/8000") },
    { name: "no audio", body: sdpWith("m=video 40000 RTP/AVP 96\r\na=rtpmap:96 VP8/90000") },
  ])("an offer with $name: 488, and the bot is told that the call is over", async ({ body }) => {
    const caller = await stage().phone();
    const leg = await caller.dial(stage().uri(), { body });
    expect(await leg.ended).toMatchObject({ by: "peer", status: 488 });
    const call = await stage().bot.callOf(leg.callId);
    expect((await call.event("hangup")).body).toMatchObject({ by: "service", sipCode: 488, durationMs: 0 });
    expect(call.all("answered")).toHaveLength(0);
  });

  test("no offer at all: 488 with the reason in a Warning", async () => {
    const caller = await stage().phone();
    const leg = await caller.dial(stage().uri(), { delayedOffer: true });
    const end = await leg.ended;
    expect(end.status).toBe(488);
    expect(end.message === undefined ? undefined : header(end.message, "Warning")).toMatch(/^399 \S+ "/);
  });

  test("a caller over TCP: talk with the bot, transfer, return, BYE over the same connection", async () => {
    await using caller = await Sipp.start({
      scenario: "test/integration/sipp/job/caller-tcp.xml",
      protocol: "tcp",
      target: `127.0.0.1:${stage().port("tcp")}`,
      service: botNumber,
    });
    const call = await stage().bot.nextCall();
    await call.event("answered");
    await call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: true });
    const operator = await stage().incoming();
    await operator.acknowledged;
    await call.progress("bridged");
    await operator.hangUp();
    expect((await call.transfer()).status).toMatchObject({ status: "SUCCESS", hangup: false });
    await call.run({ type: "audio", audioUrl: stage().prompts.short }, { type: "hangup" });
    const result = await caller.finished();
    expectSuccess(result);
    expect(result.messages.filter(({ direction, what }) => direction === "received" && what === "INVITE")).toEqual([]);
    await call.event("hangup");
  });
});

describe("answer policy on-command", () => {
  const stage = sharedStage({ channel: { answer: "on-command", passHeaders: ["X-Campaign"] } });

  test("it rings until the first reply, which answers and is carried out", async () => {
    const caller = await stage().phone();
    const leg = await caller.dial(stage().uri(), {
      headers: [
        ["X-Campaign", "spring"],
        ["X-Other", "no"],
      ],
    });
    await leg.progress(180);
    const call = await stage().bot.callOf(leg.callId);
    expect(call.events[0]?.body["headers"]).toEqual({ "X-Campaign": "spring" });
    expect(leg.responses.some(({ status = 0 }) => status >= 200)).toBe(false);
    await call.run({ type: "audio", audioUrl: stage().prompts.second });
    await leg.established;
    await leg.media.hears(pitches.bot);
    expect(call.all("answered")).toHaveLength(1);
    await leg.hangUp();
    await call.event("hangup");
  });

  test("a switch as the first reply answers, then transfers", async () => {
    const caller = await stage().phone();
    const leg = await caller.dial(stage().uri());
    await leg.progress(180);
    const call = await stage().bot.callOf(leg.callId);
    await call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: true });
    await leg.established;
    const operator = await stage().incoming();
    await operator.acknowledged;
    await Promise.all([leg.media.hears(pitches.operator), operator.media.hears(pitches.caller)]);
    await operator.hangUp();
    expect((await call.transfer()).status).toMatchObject({ status: "SUCCESS", hangup: false });
    await leg.hangUp();
    await call.event("hangup");
  });

  test("hangup as the first reply refuses the call: 603", async () => {
    const caller = await stage().phone();
    const leg = await caller.dial(stage().uri());
    await leg.progress(180);
    const call = await stage().bot.callOf(leg.callId);
    await call.run({ type: "hangup" });
    expect(await leg.ended).toMatchObject({ by: "peer", status: 603 });
    expect((await call.event("hangup")).body).toMatchObject({ by: "bot", durationMs: 0 });
  });
});

describe("a trunk that tells its callers by a password", () => {
  const stage = sharedStage({
    trunk: { sources: [], inbound: { username: "alice", passwordEnv: "STAGE_TRUNK_PASSWORD", realm: "stage" } },
  });
  const right = { username: "alice", password: "open sesame" };

  test("no credentials: 401 with SHA-256 before MD5, and no bot is told", async () => {
    const caller = await stage().phone();
    const leg = await caller.dial(stage().uri());
    const end = await leg.ended;
    expect(end.status).toBe(401);
    const challenges = end.message === undefined ? [] : headersOf(end.message, "WWW-Authenticate");
    expect(challenges.map((value) => /algorithm=([A-Za-z0-9-]+)/.exec(value)?.[1])).toEqual(["SHA-256", "MD5"]);
    for (const value of challenges) expect(value).toMatch(/realm="stage".*nonce="[^"]+"/);
    expect(stage().bot.events.filter(({ body }) => body["sipCallId"] === leg.callId)).toEqual([]);
  });

  test("the right password: the call goes on to the bot and to an operator", async () => {
    const { leg, call } = await stage().talk({ credentials: right });
    await call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: true });
    const operator = await stage().incoming();
    await operator.acknowledged;
    await leg.media.hears(pitches.operator);
    await operator.hangUp();
    await call.transfer();
    await leg.hangUp();
    await call.event("hangup");
  });

  test.each([
    { name: "a wrong password", credentials: { ...right, password: "wrong" } },
    { name: "a wrong user", credentials: { ...right, username: "bob" } },
  ])("$name: refused", async ({ credentials }) => {
    const caller = await stage().phone({ credentials });
    const leg = await caller.dial(stage().uri());
    const end = await leg.ended;
    expect([401, 403]).toContain(end.status);
    expect(stage().bot.events.filter(({ body }) => body["sipCallId"] === leg.callId)).toEqual([]);
  });
});

describe("the service as a whole", () => {
  test("/livez, /readyz and /metrics; readiness follows Redis and rtpengine; calls go on without Redis", async () => {
    {
      await using stage = await Stage.start();
      expect(await statusPage(stage, "/livez")).toMatchObject({ status: 200 });
      const readiness = async (): Promise<unknown> => {
        const { status, text } = await statusPage(stage, "/readyz");
        return { status, ...(JSON.parse(text) as object) };
      };
      const all = { redis: true, engine: true, media: true };
      const trunk = { state: "up", legs: 0, legsMax: expect.any(Number) };
      const rest = {
        draining: false,
        engine: { kind: expect.stringMatching(/^(?:embedded|drachtio)$/), state: "up" },
        media: { rtpengine: "up" },
        trunks: {
          "trunk-a": { ...trunk, gateways: { "gateway-1": "up", "gateway-2": "up" } },
          "trunk-b": { ...trunk, gateways: { "gateway-3": "up" } },
        },
      };
      const anchor = `${stage.rtpengine.address}:${stage.rtpengine.ngPort}`;
      await waitFor(async () => (await statusPage(stage, "/readyz")).status === 200, { what: "readiness" });
      expect(await readiness()).toEqual({
        status: 200,
        ready: true,
        parts: all,
        redis: { state: "up", queuedEvents: 0, lagMs: 0 },
        anchors: { [anchor]: { state: "up", calls: 0 } },
        ...rest,
      });
      const { leg, call } = await stage.talk();
      const metrics = await statusPage(stage, "/metrics");
      expect(metrics.status).toBe(200);
      expect(metrics.text).toMatch(/^# TYPE \S+/m);
      expect(metrics.text).not.toContain(leg.phone.user);
      expect((await statusPage(stage, "/")).status).toBe(404);

      await call.run({ type: "audio", audioUrl: stage.prompts.long });
      await leg.media.hears(pitches.bot);
      await stage.redis.freeze();
      const publishing = call.run({ type: "stop" }, { type: "hangup" });
      // While Redis answers nothing the caller goes on hearing what he heard.
      await leg.media.hears(pitches.bot);
      expect(leg.phase).toBe("established");
      stage.redis.unfreeze();
      await publishing;
      await leg.ended;
      await call.event("hangup");

      await stage.rtpengine.stop();
      await waitFor(async () => (await statusPage(stage, "/readyz")).status === 503, {
        what: "the loss of rtpengine to show",
        timeoutMs: 20_000,
      });
      expect(await readiness()).toMatchObject({ parts: { ...all, media: false }, media: { rtpengine: "down" } });
      await stage.rtpengine.start();
      await waitFor(async () => (await statusPage(stage, "/readyz")).status === 200, {
        what: "the return of rtpengine to show",
        timeoutMs: 10_000,
      });
      await stage.atRest();

      await stage.redis.crash();
      await waitFor(async () => (await statusPage(stage, "/readyz")).status === 503, {
        what: "the loss of Redis to show",
      });
      expect(await readiness()).toEqual({
        status: 503,
        ready: false,
        parts: { ...all, redis: false },
        redis: { state: "down", queuedEvents: 0, lagMs: 0 },
        anchors: { [anchor]: { state: "up", calls: 0 } },
        ...rest,
      });
      await stage.redis.start();
      await waitFor(async () => (await statusPage(stage, "/readyz")).status === 200, {
        what: "the return of Redis to show",
        timeoutMs: 10_000,
      });
    }
    await noChildren();
  });

  test("draining: calls go on, new ones get 503 with Retry-After", async () => {
    await using stage = await Stage.start();
    const { leg, call } = await stage.talk();
    const drained = stage.app.drain(20_000);
    const late = await stage.phone();
    const refused = await (await late.dial(stage.uri())).ended;
    expect(refused.status).toBe(503);
    // A drachtio-server is told that we take no calls, and answers by itself.
    if (drachtioProgram === undefined) {
      expect(refused.message === undefined ? undefined : header(refused.message, "Retry-After")).toMatch(/^\d+$/);
    }
    await call.run({ type: "switch", phoneNumber: operatorNumber, continueCall: true });
    const operator = await stage.incoming();
    await operator.acknowledged;
    await leg.media.hears(pitches.operator);
    await operator.hangUp();
    await call.transfer();
    await leg.hangUp();
    await within(drained, 5_000, "the end of draining");
    expect(stage.app.calls).toBe(0);
    await stage.app.close();
    // Closing twice is closing once.
    await stage.app.close();
  });
});

describe("a trunk that registers", () => {
  test("is registered, refreshed and signed off; calls to the registration are its own; /readyz tells", async () => {
    const closings = new Closings();
    const registrar = await RawPeer.open(closings);
    const granting = (request: Packet, seconds: number): void => {
      registrar.reply(request, 200, "OK", {
        contact: `${request.header("Contact").split(";expires")[0]};expires=${seconds}`,
      });
    };
    try {
      let signedOff: Promise<void>;
      {
        await using stage = await Stage.start({
          sessionSecondMs: 20,
          trunk: {
            sources: [],
            register: true,
            number: botNumber,
            gateways: [{ id: "gateway-1", host: registrar.address, port: registrar.port }],
          },
        });
        const first = await registrar.request("REGISTER");
        expect(first.header("Contact")).toMatch(
          new RegExp(`^<sip:${botNumber}@127\\.0\\.0\\.1:${stage.port()}>;expires=600$`),
        );
        const early = await stage.phone();
        expect(await (await early.dial(stage.uri())).ended).toMatchObject({ by: "peer", status: 403 });
        granting(first, 10);
        const registration = async (): Promise<unknown> =>
          (JSON.parse((await statusPage(stage, "/readyz")).text) as { trunks: Record<string, object> }).trunks[
            "trunk-a"
          ];
        const registered = { state: "up", registration: "registered", gateways: { "gateway-1": "up" } };
        await expect.poll(registration).toMatchObject(registered);
        expect((await statusPage(stage, "/metrics")).text).toContain(
          'patchbay_registration_state{trunk="trunk-a",state="registered"} 1',
        );
        const refresh = await registrar.request("REGISTER");
        expect(refresh.header("Call-ID")).toBe(first.header("Call-ID"));
        expect(Number.parseInt(refresh.header("CSeq"), 10)).toBe(Number.parseInt(first.header("CSeq"), 10) + 1);
        granting(refresh, 36_000);
        const talk = await stage.talk();
        expect((await talk.call.event("call")).body).toMatchObject({ trunk: "trunk-a", called: botNumber });
        await talk.leg.hangUp();
        await talk.call.event("hangup");
        signedOff = registrar.request("REGISTER").then((last) => {
          expect(last.header("Expires")).toBe("0");
          granting(last, 0);
        });
      }
      await signedOff;
    } finally {
      await closings.closeAll();
    }
  });
});
