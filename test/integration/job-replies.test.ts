// What a bot can ask for besides a transfer, heard and seen from outside: prompts, digits, recording, speech.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { pitches } from "../support/pitch.ts";
import { operatorNumber, sharedStage } from "./stage.ts";

describe("prompts", () => {
  const stage = sharedStage();

  test("replies run in order, each after the one before; a prompt is repeated as often as asked", async () => {
    const { leg, call } = await stage().talk();
    const { short, second } = stage().prompts;
    const answer = await call.run(
      { type: "audio", audioUrl: short, times: 3 },
      { type: "audio", audioUrl: second },
      { type: "audio", audioUrl: short },
    );
    const last = await call.event("playback", { where: (body) => body["index"] === 2 });
    const played = call.all("playback");
    expect(played.map(({ body }) => [body["index"], body["result"]])).toEqual([
      [0, "completed"],
      [1, "completed"],
      [2, "completed"],
    ]);
    const tookMs = last.atMs - answer.atMs;
    // 3 × 0.3 s + 1 s + 0.3 s of sound, and what lies between them.
    expect(tookMs).toBeGreaterThan(2_150);
    expect(tookMs).toBeLessThan(3_000);
    expect((await leg.media.capture()).tones().map(({ hz }) => hz)).toEqual([pitches.bot]);
    await leg.hangUp();
    await call.event("hangup");
  });

  test("stop ends what plays and what waits", async () => {
    const { leg, call } = await stage().talk();
    await call.run(
      { type: "audio", audioUrl: stage().prompts.long },
      { type: "audio", audioUrl: stage().prompts.second },
    );
    await leg.media.hears(pitches.bot);
    await call.run({ type: "stop" });
    await leg.media.hears([]);
    await call.play(stage().prompts.short);
    // Each prompt has its one end, also the one that never began.
    expect(call.all("playback").map(({ body }) => [body["index"], body["result"]])).toEqual([
      [0, "stopped"],
      [1, "stopped"],
      [0, "completed"],
    ]);
    await leg.hangUp();
    await call.event("hangup");
  });

  test("a prompt over HTTP is fetched once; one that cannot be had fails and the queue goes on", async () => {
    let asked = 0;
    const server = createServer((request, response) => {
      asked += 1;
      if (request.url !== "/tone.wav") {
        response.writeHead(404).end();
        return;
      }
      readFile(join(stage().folder, "prompts", "second.wav")).then(
        (bytes) => response.writeHead(200, { "content-type": "audio/wav", "cache-control": "max-age=600" }).end(bytes),
        () => response.writeHead(500).end(),
      );
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    try {
      const { leg, call } = await stage().talk();
      for (const audioUrl of [
        `${base}/none.wav`,
        "http://127.0.0.1:1/refused.wav",
        "file:///etc/hostname",
        `${stage().prompts.short}/../../../../etc/hostname`,
        "ftp://127.0.0.1/x.wav",
        "not a url",
      ]) {
        const played = await call.play(audioUrl);
        expect(played.body).toMatchObject({ result: "failed" });
        expect(typeof played.body["reason"]).toBe("string");
      }
      await call.run({ type: "audio", audioUrl: `${base}/none.wav` }, { type: "audio", audioUrl: `${base}/tone.wav` });
      await leg.media.hears(pitches.bot);
      await call.event("playback", { where: (body) => body["index"] === 1 });
      const before = asked;
      expect((await call.play(`${base}/tone.wav`)).body).toMatchObject({ result: "completed" });
      expect(asked).toBe(before);
      await leg.hangUp();
      await call.event("hangup");
    } finally {
      await new Promise((resolve) => server.close(resolve));
    }
  });

  test("text without text-to-speech: warning no_tts, and the queue goes on", async () => {
    const { leg, call } = await stage().talk();
    await call.run({ type: "text", text: "Hello" }, { type: "audio", audioUrl: stage().prompts.second });
    await leg.media.hears(pitches.bot);
    expect((await call.event("warning")).body).toMatchObject({ code: "no_tts", pointer: "/replies/0" });
    await leg.hangUp();
    await call.event("hangup");
  });

  test("a transfer waits for the prompt before it, and digits reach whom they are for", async () => {
    const { leg, call } = await stage().talk();
    await call.run(
      { type: "audio", audioUrl: stage().prompts.second },
      { type: "switch", phoneNumber: operatorNumber, continueCall: true },
    );
    const operator = await stage().incoming();
    await operator.acknowledged;
    const completed = await call.event("playback");
    const dialing = await call.progress("dialing");
    expect(completed.seq).toBeLessThan(dialing.seq);
    await Promise.all([leg.media.hears(pitches.operator), operator.media.hears(pitches.caller)]);

    // 1 is 697 Hz and 1209 Hz (ITU-T Q.23).
    const digitTones = { candidates: [697, 770, 852, 941, 1_209, 1_336, 1_477] };
    const heardDigit = async (listener: typeof leg): Promise<boolean> => {
      const heard = await listener.media.capture();
      if (heard.digits().some(({ digit }) => digit === "1")) return true;
      return heard.timeline(40).some(({ fromMs }) => {
        const tones = heard.between(fromMs, fromMs + 40).tones(digitTones);
        return [697, 1_209].every((hz) => tones.some((tone) => tone.hz === hz));
      });
    };
    expect(await heardDigit(operator)).toBe(false);
    await call.run({ type: "dtmf", digits: "1", to: "operator" });
    await expect.poll(() => heardDigit(operator), { timeout: 5_000 }).toBe(true);
    expect(await heardDigit(leg)).toBe(false);
    await operator.hangUp();
    await call.transfer();
    await call.run({ type: "dtmf", digits: "1" });
    await expect.poll(() => heardDigit(leg), { timeout: 5_000 }).toBe(true);
    await leg.hangUp();
    await call.event("hangup");
  });
});

describe("speech", () => {
  const stage = sharedStage({
    change: ({ media }) =>
      Object.assign(media, {
        tts: { kind: "command", command: ["espeak-ng", "-v", "{lang}", "-w", "{out}", "--stdin"], lang: "en" },
      }),
  });

  test("text is spoken, in the order of the replies", async () => {
    const { leg, call } = await stage().talk();
    await call.run(
      { type: "text", text: "I am transferring you to an operator." },
      { type: "text", text: "; rm -rf $(pwd)" },
    );
    await call.event("playback", { where: (body) => body["index"] === 1, timeoutMs: 15_000 });
    expect(call.all("playback").map(({ body }) => body["result"])).toEqual(["completed", "completed"]);
    expect(call.all("warning")).toHaveLength(0);
    // A voice is loud and is none of the tones of this test.
    const heard = await leg.media.capture();
    expect(heard.level).toBeGreaterThan(500);
    await leg.hangUp();
    await call.event("hangup");
  });
});

describe("recording on command", () => {
  const stage = sharedStage();

  test("start, pause, resume, stop: only what lies between is in the file", async () => {
    const { leg, call } = await stage().talk();
    const states = (): readonly unknown[] => call.all("recording").map(({ body }) => body["state"]);
    leg.media.sendTone(pitches.operator);
    await call.run({ type: "audio", audioUrl: stage().prompts.short });
    await call.event("playback");
    leg.media.sendTone(pitches.caller);
    await call.run({ type: "record", action: "start" }, { type: "audio", audioUrl: stage().prompts.second });
    await call.event("playback", { after: call.seq });
    await call.run({ type: "record", action: "pause" });
    await call.event("recording", { where: (body) => body["state"] === "paused" });
    leg.media.sendTone(pitches.operator2);
    await call.run({ type: "audio", audioUrl: stage().prompts.short });
    await call.event("playback", { after: call.seq });
    leg.media.sendTone(pitches.caller);
    // Its own packets must be on their way before the recording goes on.
    await call.run({ type: "audio", audioUrl: stage().prompts.short });
    await call.event("playback", { after: call.seq });
    await call.run({ type: "record", action: "resume" }, { type: "audio", audioUrl: stage().prompts.second });
    await call.event("playback", { after: call.seq });
    await call.run({ type: "record", action: "stop" });
    await call.event("recording", { where: (body) => body["state"] === "finished" });
    await leg.hangUp();
    await call.event("hangup");
    expect(states()).toEqual(["started", "paused", "resumed", "finished"]);
    const { sound, sidecar } = await stage().recording(call);
    expect(sound.left.pitches()).toEqual([pitches.caller]);
    expect(sound.right.pitches()).toEqual([pitches.bot]);
    expect(sound.seconds).toBeGreaterThan(1.9);
    expect(sound.seconds).toBeLessThan(3.5);
    expect(sidecar.gaps).toHaveLength(1);
  });
});
