import { open, stat } from "node:fs/promises";
import { MediaError, messageOf } from "../media-error.ts";
import type { MediaLog, SpeechOptions } from "../options.ts";
import { runProgram } from "../program.ts";
import { download } from "../prompts/download.ts";
import { Slots } from "../slots.ts";

export interface SpeechOrder {
  readonly text: string;
  readonly lang: string;
  readonly voice: string;
}

/** Turns text into a WAV file. */
export interface Speech {
  /** Names the engine and its settings, so that a change of either makes new speech instead of finding the old. */
  readonly identity: string;
  /** Completes what the bot asked for. Throws a MediaError: `no_tts`, `text_too_long`, `bad_lang`, `bad_voice`. */
  order(text: string, lang: string | null, voice: string | null): SpeechOrder;
  /** Writes the speech to `target`. Rejects with a MediaError whose code begins with `tts_`, or `overloaded`. */
  speak(order: SpeechOrder, target: string): Promise<void>;
}

const mostTextLength = 5_000;
const mostWaiting = 256;
const mostSpeechBytes = 64 * 1_024 * 1_024;

/** Language and voice become arguments of a program or keys of a request: a leading dash would be an option. */
const nameForm = /^[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}$/;

type Configured = Exclude<SpeechOptions, { readonly kind: "none" }>;

export function createSpeech(options: SpeechOptions, log: MediaLog): Speech {
  if (options.kind === "none") {
    const refuse = (): never => {
      throw new MediaError("no_tts", "no text-to-speech is configured");
    };
    return { identity: "none", order: refuse, speak: refuse };
  }
  const slots = new Slots(options.mostAtOnce, mostWaiting);
  const speakOnce = (order: SpeechOrder, target: string): Promise<void> =>
    options.kind === "command" ? speakByCommand(options, order, target) : speakByHttp(options, order, target);
  return {
    identity: identityOf(options),
    order: (text, lang, voice) => completeOrder(options, text, lang, voice),
    speak: (order, target) =>
      slots.run(async () => {
        try {
          await speakOnce(order, target);
        } catch (error) {
          const failure = error instanceof MediaError ? error : new MediaError("tts_failed", messageOf(error));
          log.warn({ code: failure.code, error: failure.message }, "text-to-speech failed");
          throw failure;
        }
      }),
  };
}

function identityOf(options: Configured): string {
  return options.kind === "command" ? JSON.stringify(options.command) : `${options.body} ${options.url}`;
}

function completeOrder(options: Configured, text: string, lang: string | null, voice: string | null): SpeechOrder {
  if (text.trim() === "") throw new MediaError("no_text", "there is nothing to say");
  if (text.length > mostTextLength) throw new MediaError("text_too_long", `more than ${mostTextLength} characters`);
  const order = { text, lang: lang ?? options.lang, voice: voice ?? options.voice };
  if (!nameForm.test(order.lang)) throw new MediaError("bad_lang", "not the name of a language");
  // A voice may be left open: most engines choose one by the language.
  if (order.voice !== "" && !nameForm.test(order.voice)) throw new MediaError("bad_voice", "not the name of a voice");
  return order;
}

async function speakByHttp(
  options: Extract<SpeechOptions, { readonly kind: "http" }>,
  order: SpeechOrder,
  target: string,
): Promise<void> {
  const json = options.body === "json";
  try {
    await download({
      url: options.url,
      method: "POST",
      headers: {
        accept: "audio/wav",
        "content-type": json ? "application/json" : "text/plain; charset=utf-8",
        ...options.headers,
      },
      body: json ? JSON.stringify(order) : order.text,
      target,
      mostBytes: mostSpeechBytes,
      timeoutMs: options.timeoutMs,
      // The headers may carry a key of the service: a redirect must not take it elsewhere.
      mostRedirects: 0,
      hosts: [new URL(options.url).host],
    });
  } catch (error) {
    if (error instanceof MediaError) throw new MediaError(`tts_${error.code}`, error.message, { cause: error });
    throw error;
  }
}

async function speakByCommand(
  options: Extract<SpeechOptions, { readonly kind: "command" }>,
  order: SpeechOrder,
  target: string,
): Promise<void> {
  const [program, ...template] = options.command;
  const toFile = template.some((argument) => argument.includes("{out}"));
  const textAsArgument = template.some((argument) => argument.includes("{text}"));
  // A text that begins with a dash would be an option of the program; a blank before it is not heard.
  const text = order.text.startsWith("-") ? ` ${order.text}` : order.text;
  const values: Readonly<Record<string, string>> = { ...order, text, out: target };
  const args = template
    .map((argument) => argument.replaceAll(/\{(text|lang|voice|out)\}/g, (_, name: string) => values[name] ?? ""))
    // An argument that was nothing but an empty voice is left out.
    .filter((argument, index) => argument !== "" || template[index] === "");
  const output = toFile ? undefined : await open(target, "w", 0o600);
  try {
    await runProgram({
      program,
      args,
      timeoutMs: options.timeoutMs,
      ...(textAsArgument ? {} : { input: order.text }),
      ...(output === undefined ? {} : { output: output.fd }),
    });
  } catch (error) {
    if (error instanceof MediaError) throw new MediaError(`tts_${error.code}`, error.message, { cause: error });
    throw error;
  } finally {
    await output?.close();
  }
  const size = await stat(target).then(
    (status) => status.size,
    () => 0,
  );
  if (size === 0) throw new MediaError("tts_failed", "the program wrote no audio");
  if (size > mostSpeechBytes) throw new MediaError("tts_too_large", `more than ${mostSpeechBytes} bytes`);
}
