import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:http";
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Prompt } from "../../src/call/effect.ts";
import { codeOf } from "../../src/media/media-error.ts";
import { measureRecording } from "../../src/media/audio/measure.ts";
import { toInt16, WavWriter } from "../../src/media/audio/wav.ts";
import { systemMediaClock } from "../../src/media/options.ts";
import type { MediaLog, PromptOptions, SpeechOptions } from "../../src/media/options.ts";
import { conditionalHeaders, validatorsOf } from "../../src/media/prompts/http-freshness.ts";
import { PromptLibrary } from "../../src/media/prompts/library.ts";
import { createSpeech } from "../../src/media/tts/speech.ts";
import { WorkerPool } from "../../src/media/worker/pool.ts";
import { waitFor } from "../support/wait.ts";

const log: MediaLog = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
const audio = (url: string): Prompt => ({ kind: "audio", url, times: 1 });

let folder = "";
let server: Server;
let requests: { readonly url: string; readonly headers: IncomingMessage["headers"]; readonly body: string }[] = [];
let answer: (request: IncomingMessage, response: ServerResponse) => void = () => {};
let now = 0;
let library: PromptLibrary;
const workers = new WorkerPool({
  size: 1,
  mostWaiting: 100,
  jobTimeoutMs: 10_000,
  idleMs: 60_000,
  clock: systemMediaClock,
  log,
});

function tone(hz: number, seconds: number, sampleRate = 8_000): Buffer {
  const path = join(folder, "made.wav");
  using writer = new WavWriter(path, 1, sampleRate, 0o600);
  writer.write(
    toInt16(
      Float32Array.from(
        { length: seconds * sampleRate },
        (_, index) => 0.3 * Math.sin((2 * Math.PI * hz * index) / sampleRate),
      ),
    ),
  );
  writer.finish();
  return readFileSync(path);
}

async function makeLibrary(
  change: Partial<PromptOptions> = {},
  speech: SpeechOptions = { kind: "none" },
): Promise<PromptLibrary> {
  const made = new PromptLibrary({
    folder: join(folder, "prompts"),
    cacheFolder: join(folder, "cache"),
    cacheBytes: 10_000_000,
    mostBytes: 1_000_000,
    mostSeconds: 60,
    timeoutMs: 5_000,
    freshMs: 60_000,
    hosts: "any",
    mostDownloads: 4,
    ...change,
    speech: createSpeech(speech, log),
    workers,
    clock: { now: () => now, wallMs: () => now, after: systemMediaClock.after.bind(systemMediaClock) },
    log,
  });
  await made.start();
  return made;
}

const base = (): string => `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "patchbay-prompts-"));
  mkdirSync(join(folder, "prompts"));
  requests = [];
  now = Date.now();
  server = createServer((request, response) => {
    let body = "";
    request.setEncoding("utf8");
    request.on("data", (text: string) => {
      body += text;
    });
    request.on("end", () => {
      requests.push({ url: request.url ?? "", headers: request.headers, body });
      answer(request, response);
    });
  });
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  library = await makeLibrary();
});

afterEach(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => {
    server.close(resolve);
  });
  rmSync(folder, { recursive: true });
});

afterAll(async () => {
  await workers.close();
});

describe("file prompts", () => {
  test("a file below the prompt folder is converted once and converted anew when it has changed", async () => {
    const path = join(folder, "prompts", "a.wav");
    writeFileSync(path, tone(500, 1, 22_050));
    const first = await library.prepare(audio(`file://${path}`));
    expect(first.durationMs).toBeCloseTo(1_000, 0);
    const measured = await measureRecording(first.file, { pitchesHz: [500, 700] });
    expect(measured).toMatchObject({ sampleRate: 48_000, channels: 1 });
    expect(measured.windows[0]?.channels[0]?.pitchHz).toBe(500);
    const again = await library.prepare(audio(`file://${path}`));
    expect(again.file).toBe(first.file);
    expect(library.stats()).toMatchObject({ files: 1, inUse: 2, preparing: 0 });
    first.release();
    first.release();
    again.release();
    expect(library.stats().inUse).toBe(0);
    writeFileSync(path, tone(700, 1));
    utimesSync(path, 1, 1);
    const changed = await library.prepare(audio(`file://${path}`));
    expect(changed.file).not.toBe(first.file);
    expect((await measureRecording(changed.file, { pitchesHz: [500, 700] })).windows[0]?.channels[0]?.pitchHz).toBe(
      700,
    );
    changed.release();
  });

  test("no path leads out of the prompt folder, and nobody learns what lies elsewhere", async () => {
    writeFileSync(join(folder, "secret.wav"), tone(500, 1));
    symlinkSync(join(folder, "secret.wav"), join(folder, "prompts", "link.wav"));
    symlinkSync(folder, join(folder, "prompts", "up"));
    mkdirSync(join(folder, "prompts-of-others"));
    writeFileSync(join(folder, "prompts-of-others", "x.wav"), tone(500, 1));
    for (const path of [
      "prompts/../secret.wav",
      "prompts/%2e%2e/secret.wav",
      "prompts/link.wav",
      "prompts/up/secret.wav",
      "prompts-of-others/x.wav",
      "secret.wav",
      "does-not-exist.wav",
      "prompts",
    ]) {
      await expect(library.prepare(audio(`file://${folder}/${path}`)), path).rejects.toMatchObject({
        code: "outside_prompt_folder",
      });
    }
    await expect(library.prepare(audio(`file://${folder}/prompts/none.wav`))).rejects.toMatchObject({
      code: "not_found",
    });
    await expect(library.prepare(audio(`file://${folder}/prompts/up`))).rejects.toMatchObject({
      code: "outside_prompt_folder",
    });
    mkdirSync(join(folder, "prompts", "sub"));
    await expect(library.prepare(audio(`file://${folder}/prompts/sub`))).rejects.toMatchObject({ code: "not_found" });
    await expect(library.prepare(audio(`file://elsewhere${folder}/prompts/x.wav`))).rejects.toMatchObject({
      code: "bad_url",
    });
    await expect(library.prepare(audio(`file://${folder}/prompts%2fx.wav`))).rejects.toMatchObject({ code: "bad_url" });
    const closed = await makeLibrary({ folder: null });
    await expect(closed.prepare(audio(`file://${folder}/prompts/x.wav`))).rejects.toMatchObject({
      code: "outside_prompt_folder",
    });
  });

  test("what is no audio, too long or too large is refused with its reason", async () => {
    const path = join(folder, "prompts", "x.wav");
    writeFileSync(path, "this is text and not audio, whatever its name says");
    await expect(library.prepare(audio(`file://${path}`))).rejects.toMatchObject({ code: "not_audio" });
    writeFileSync(path, tone(500, 62));
    await expect(library.prepare(audio(`file://${path}`))).rejects.toMatchObject({ code: "too_long" });
    writeFileSync(path, Buffer.alloc(1_000_001));
    await expect(library.prepare(audio(`file://${path}`))).rejects.toMatchObject({ code: "too_large" });
    expect(readdirSync(join(folder, "cache", "prompts"))).toEqual([]);
  });
});

describe("downloaded prompts", () => {
  function serve(headers: Record<string, string> = {}): void {
    const body = tone(500, 1);
    answer = (request, response) => {
      if (headers["etag"] !== undefined && request.headers["if-none-match"] === headers["etag"]) {
        response.writeHead(304, headers).end();
      } else response.writeHead(200, headers).end(body);
    };
  }

  test("requests for one URL at the same time are one request", async () => {
    serve();
    const all = await Promise.all(Array.from({ length: 10 }, () => library.prepare(audio(`${base()}/a.wav`))));
    expect(requests).toHaveLength(1);
    expect(new Set(all.map(({ file }) => file)).size).toBe(1);
    expect(library.stats().inUse).toBe(10);
    for (const prompt of all) prompt.release();
  });

  test("a copy is used while it is fresh and then asked for with its validator", async () => {
    serve({ etag: '"v1"', "cache-control": "max-age=10" });
    (await library.prepare(audio(`${base()}/a.wav`))).release();
    now += 9_000;
    (await library.prepare(audio(`${base()}/a.wav`))).release();
    expect(requests).toHaveLength(1);
    now += 2_000;
    (await library.prepare(audio(`${base()}/a.wav`))).release();
    expect(requests).toHaveLength(2);
    expect(requests[1]?.headers["if-none-match"]).toBe('"v1"');
    now += 9_000;
    (await library.prepare(audio(`${base()}/a.wav`))).release();
    expect(requests).toHaveLength(2);
  });

  test("what is known of a URL survives a restart", async () => {
    serve({ etag: '"v1"', "cache-control": "max-age=10" });
    (await library.prepare(audio(`${base()}/a.wav`))).release();
    const next = await makeLibrary();
    (await next.prepare(audio(`${base()}/a.wav`))).release();
    expect(requests).toHaveLength(1);
    now += 11_000;
    (await next.prepare(audio(`${base()}/a.wav`))).release();
    expect(requests[1]?.headers["if-none-match"]).toBe('"v1"');
  });

  test("the last copy is played when the server fails, and is not when it says that there is none", async () => {
    serve({ "cache-control": "no-cache" });
    (await library.prepare(audio(`${base()}/a.wav`))).release();
    answer = (_request, response) => response.writeHead(503).end();
    (await library.prepare(audio(`${base()}/a.wav`))).release();
    answer = (_request, response) => response.writeHead(404).end();
    await expect(library.prepare(audio(`${base()}/a.wav`))).rejects.toMatchObject({ code: "http_404" });
  });

  test.each([
    ["http_404", (_: IncomingMessage, response: ServerResponse) => response.writeHead(404).end()],
    ["not_audio", (_: IncomingMessage, response: ServerResponse) => response.end("<html>".repeat(100))],
    ["not_audio", (_: IncomingMessage, response: ServerResponse) => response.end("x")],
    [
      "too_large",
      (_: IncomingMessage, response: ServerResponse) =>
        response.end(Buffer.concat([tone(500, 1), Buffer.alloc(2_000_000)])),
    ],
    ["fetch_timeout", () => {}],
    ["fetch_timeout", (_: IncomingMessage, response: ServerResponse) => response.write(tone(500, 1).subarray(0, 100))],
    ["fetch_failed", (request: IncomingMessage) => request.socket.destroy()],
    [
      "bad_url",
      (_: IncomingMessage, response: ServerResponse) =>
        response.writeHead(302, { location: "file:///etc/passwd" }).end(),
    ],
    [
      "too_many_redirects",
      (_: IncomingMessage, response: ServerResponse) => response.writeHead(302, { location: "/again" }).end(),
    ],
  ] as const)("a bad answer fails with %s", async (code, bad) => {
    answer = bad;
    if (code === "fetch_timeout") library = await makeLibrary({ timeoutMs: 200 });
    await expect(library.prepare(audio(`${base()}/a.wav`))).rejects.toMatchObject({ code });
    expect(readdirSync(join(folder, "cache", "temporary"))).toEqual([]);
    expect(readdirSync(join(folder, "cache", "prompts"))).toEqual([]);
    expect(library.stats()).toMatchObject({ preparing: 0, inUse: 0 });
  });

  test("three redirects are followed, and only to hosts that are allowed", async () => {
    const body = tone(500, 1);
    answer = (request, response) => {
      const hop = Number(request.url?.slice(1));
      if (hop < 3) response.writeHead(302, { location: `/${hop + 1}` }).end();
      else response.end(body);
    };
    (await library.prepare(audio(`${base()}/0`))).release();
    expect(requests).toHaveLength(4);
    const strict = await makeLibrary({ hosts: [new URL(base()).host] });
    (await strict.prepare(audio(`${base()}/0`))).release();
    answer = (_request, response) =>
      response.writeHead(302, { location: base().replace("127.0.0.1", "localhost") }).end();
    now += 120_000;
    await expect(strict.prepare(audio(`${base()}/9`))).rejects.toMatchObject({ code: "host_not_allowed" });
  });

  test("a slow URL does not hold up another prompt", async () => {
    answer = () => {};
    library = await makeLibrary({ timeoutMs: 1_000 });
    const slow = library.prepare(audio(`${base()}/slow.wav`)).catch((error: unknown) => error);
    writeFileSync(join(folder, "prompts", "a.wav"), tone(500, 0.5));
    (await library.prepare(audio(`file://${folder}/prompts/a.wav`))).release();
    expect(library.stats().preparing).toBe(1);
    expect(await slow).toMatchObject({ code: "fetch_timeout" });
  });

  test("a server that hangs takes only its share of the downloads", async () => {
    const body = tone(500, 1);
    answer = (request, response) => {
      if (request.url === "/good.wav") response.end(body);
    };
    const hanging = Array.from({ length: 70 }, (_, index) =>
      library.prepare(audio(`${base()}/hang-${index}.wav`)).catch((error: unknown) => codeOf(error, "")),
    );
    await waitFor(() => requests.length === 2, { what: "the first downloads" });
    // Another host, as far as a URL tells.
    (await library.prepare(audio(`${base().replace("127.0.0.1", "localhost")}/good.wav`))).release();
    expect(requests.map(({ url }) => url)).toEqual(["/hang-0.wav", "/hang-1.wav", "/good.wav"]);
    expect(library.stats().preparing).toBe(66);
    answer = (_request, response) => response.writeHead(404).end();
    server.closeAllConnections();
    const codes = await Promise.all(hanging);
    expect(codes.slice(66)).toEqual(["overloaded", "overloaded", "overloaded", "overloaded"]);
    expect(codes.slice(2, 66).every((code) => code === "http_404")).toBe(true);
  });

  test("a copy that is still fresh does not wait for downloads of others", async () => {
    library = await makeLibrary({ mostDownloads: 1 });
    const body = tone(500, 1);
    answer = (request, response) => {
      if (request.url === "/fresh.wav") response.end(body);
    };
    (await library.prepare(audio(`${base()}/fresh.wav`))).release();
    const slow = library.prepare(audio(`${base()}/slow.wav`)).catch((error: unknown) => error);
    await waitFor(() => requests.some(({ url }) => url === "/slow.wav"), { what: "the slow download" });
    (await library.prepare(audio(`${base()}/fresh.wav`))).release();
    expect(library.stats().preparing).toBe(1);
    server.closeAllConnections();
    expect(await slow).toMatchObject({ code: "fetch_failed" });
  });

  test.each([
    "",
    "no url",
    "ftp://x/y.wav",
    "http://",
    "data:audio/wav;base64,AAAA",
    `http://x/${"y".repeat(3_000)}`,
    "http://u:p@127.0.0.1/",
  ])("%j is no URL of a prompt", async (url) => {
    await expect(library.prepare(audio(url))).rejects.toMatchObject({ code: "bad_url" });
  });
});

describe("the cache", () => {
  test("removes the least recently used prompts, never one in use", async () => {
    const small = await makeLibrary({ cacheBytes: 250_000 });
    const prepare = (digits: string) => small.prepare({ kind: "digits", digits });
    // 1.2 s of tones are 115 kB.
    const [first, second] = [await prepare("111111"), await prepare("222222")];
    const third = await prepare("333333");
    expect(small.stats()).toMatchObject({ files: 3, inUse: 3 });
    first.release();
    expect(small.stats().files).toBe(2);
    second.release();
    third.release();
    expect(small.stats()).toMatchObject({ files: 2, inUse: 0 });
    (await prepare("222222")).release();
    (await prepare("444444")).release();
    await new Promise((resolve) => {
      setImmediate(resolve);
    });
    expect(small.stats().files).toBe(2);
    const next = await makeLibrary({ cacheBytes: 250_000 });
    expect(next.stats().files).toBe(2);
  });

  test("makes anew what someone else has removed", async () => {
    const first = await library.prepare({ kind: "digits", digits: "1" });
    first.release();
    rmSync(first.file);
    const again = await library.prepare({ kind: "digits", digits: "1" });
    expect(readdirSync(join(folder, "cache", "prompts"))).toHaveLength(1);
    again.release();
  });

  test("refuses what is no dialling string", async () => {
    await expect(library.prepare({ kind: "digits", digits: "12z" })).rejects.toMatchObject({ code: "bad_digits" });
  });

  test("gives the file's name as rtpengine sees it", async () => {
    const mounted = await makeLibrary({ cacheFolderSeenByRtpengine: "/media" });
    const { playableFile, release } = await mounted.prepare({ kind: "digits", digits: "1" });
    expect(playableFile).toMatch(/^\/media\/prompts\/tones-[0-9a-f]{64}\.wav$/);
    release();
  });
});

describe("text-to-speech", () => {
  const text = (say: string, lang: string | null = null, voice: string | null = null): Prompt => ({
    kind: "text",
    text: say,
    lang,
    voice,
  });
  const command = (...words: [string, ...string[]]): SpeechOptions => ({
    kind: "command",
    command: words,
    lang: "en",
    voice: "",
    timeoutMs: 10_000,
    mostAtOnce: 2,
  });

  test("none configured", async () => {
    await expect(library.prepare(text("hello"))).rejects.toMatchObject({ code: "no_tts" });
  });

  test("a program that writes a file gets language, voice and the text on its standard input, never a shell", async () => {
    writeFileSync(join(folder, "voice.wav"), tone(500, 1));
    const script = `cat > ${folder}/heard; printf %s "$1 $2" > ${folder}/args; cat ${folder}/voice.wav > "$3"`;
    const speaking = await makeLibrary({}, command("sh", "-c", script, "sh", "{lang}", "{voice}", "{out}"));
    const said = 'it\'s $(touch /x) `y`; "z"\nnext line';
    const prompt = await speaking.prepare(text(said, "de", "anna"));
    expect(prompt.durationMs).toBeCloseTo(1_000, 0);
    prompt.release();
    expect(readFileSync(join(folder, "heard"), "utf8")).toBe(said);
    expect(readFileSync(join(folder, "args"), "utf8")).toBe("de anna");
    rmSync(join(folder, "heard"));
    (await speaking.prepare(text(said, "de", "anna"))).release();
    expect(readdirSync(folder)).not.toContain("heard");
    expect(readdirSync(join(folder, "cache", "temporary"))).toEqual([]);
  });

  test("a program that writes to standard output and takes the text as an argument", async () => {
    writeFileSync(join(folder, "voice.wav"), tone(500, 1));
    const script = `printf %s "$1" > ${folder}/heard; cat ${folder}/voice.wav`;
    const speaking = await makeLibrary({}, command("sh", "-c", script, "sh", "{text}"));
    (await speaking.prepare(text("What -f is?"))).release();
    expect(readFileSync(join(folder, "heard"), "utf8")).toBe("What -f is?");
    // A bot must not be able to give the program an option, such as one that reads a file aloud.
    (await speaking.prepare(text("-f/etc/passwd"))).release();
    expect(readFileSync(join(folder, "heard"), "utf8")).toBe(" -f/etc/passwd");
  });

  test("a script whose children outlive it does not keep its place for ever", async () => {
    const script = "sleep 5 & wait";
    const speaking = await makeLibrary({}, {
      ...command("sh", "-c", script),
      timeoutMs: 50,
      mostAtOnce: 1,
    } as SpeechOptions);
    await expect(speaking.prepare(text("one"))).rejects.toMatchObject({ code: "tts_timeout" });
    await expect(speaking.prepare(text("two"))).rejects.toMatchObject({ code: "tts_timeout" });
  }, 4_000);

  test.each([
    ["tts_failed", command("false")],
    ["tts_failed", command("no-such-program-anywhere")],
    ["tts_failed", command("true")],
    ["tts_timeout", { ...command("sleep", "30"), timeoutMs: 100 } as SpeechOptions],
    ["not_audio", command("echo", "this is not a sound at all, it is only text")],
  ])("a program that fails: %s", async (code, options) => {
    const speaking = await makeLibrary({}, options);
    await expect(speaking.prepare(text("hello"))).rejects.toMatchObject({ code });
    expect(readdirSync(join(folder, "cache", "temporary"))).toEqual([]);
  });

  test("language and voice cannot become options, and text has a limit", async () => {
    const speaking = await makeLibrary({}, command("true"));
    await expect(speaking.prepare(text("hello", "--help"))).rejects.toMatchObject({ code: "bad_lang" });
    await expect(speaking.prepare(text("hello", "en", "a b"))).rejects.toMatchObject({ code: "bad_voice" });
    await expect(speaking.prepare(text("x".repeat(5_001)))).rejects.toMatchObject({ code: "text_too_long" });
    await expect(speaking.prepare(text("  "))).rejects.toMatchObject({ code: "no_text" });
  });

  test("an HTTP service gets JSON or bare text and its headers", async () => {
    const body = tone(500, 1);
    answer = (_request, response) => response.end(body);
    const options = {
      kind: "http",
      url: `${base()}/speak`,
      headers: { authorization: "Bearer t" },
      body: "json",
      lang: "en",
      voice: "eve",
      timeoutMs: 5_000,
      mostAtOnce: 2,
    } as const;
    (await (await makeLibrary({}, options)).prepare(text("hello"))).release();
    expect(requests[0]?.headers).toMatchObject({ authorization: "Bearer t", "content-type": "application/json" });
    expect(JSON.parse(requests[0]?.body ?? "")).toEqual({ text: "hello", lang: "en", voice: "eve" });
    (await (await makeLibrary({}, { ...options, body: "text" })).prepare(text("hello"))).release();
    expect(requests[1]?.body).toBe("hello");
    answer = (_request, response) => response.writeHead(307, { location: "http://elsewhere.invalid/" }).end();
    await expect((await makeLibrary({}, options)).prepare(text("other"))).rejects.toMatchObject({
      code: "tts_host_not_allowed",
    });
    answer = (_request, response) => response.writeHead(500).end();
    await expect((await makeLibrary({}, options)).prepare(text("other"))).rejects.toMatchObject({
      code: "tts_http_500",
    });
  });
});

describe("freshness", () => {
  const at = Date.UTC(2026, 0, 1);
  test.each([
    [{}, 60_000],
    [{ "cache-control": "max-age=5" }, 5_000],
    [{ "cache-control": 'public, Max-Age="5"', age: "2" }, 3_000],
    [{ "cache-control": "no-store" }, 0],
    [{ "cache-control": "no-cache, max-age=5" }, 0],
    [{ "cache-control": "max-age=999999999" }, 86_400_000],
    [{ expires: new Date(at + 7_000).toUTCString() }, 7_000],
    [{ expires: "0" }, 0],
    [{ "cache-control": "max-age=banana" }, 60_000],
  ] as const)("%j is fresh for %i ms", (headers, freshMs) => {
    expect(validatorsOf(new Headers({ ...headers }), at, 60_000).freshUntil - at).toBe(freshMs);
  });

  test("an ETag is asked with before a date", () => {
    const validators = { etag: '"a"', lastModified: "Thu, 01 Jan 2026 00:00:00 GMT", freshUntil: 0 };
    expect(conditionalHeaders(validators)).toEqual({ "if-none-match": '"a"' });
    expect(conditionalHeaders({ ...validators, etag: null })).toEqual({
      "if-modified-since": "Thu, 01 Jan 2026 00:00:00 GMT",
    });
    expect(conditionalHeaders({ ...validators, etag: null, lastModified: null })).toEqual({});
  });
});
