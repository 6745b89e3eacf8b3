// Configuration folders for baresip, the softphone that Debian has: `baresip -f FOLDER`.
import { existsSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

export interface BaresipOptions {
  /** The user part of its address. */
  readonly user: string;
  /** Where it listens for SIP on 127.0.0.1. */
  readonly sipPort: number;
  /** `devices`: microphone and loudspeaker. `tone`: sends a tone and writes what it hears to a WAV file. */
  readonly sound: { readonly type: "devices" } | { readonly type: "tone"; readonly hz: number };
  readonly answering: "by-hand" | "at-once";
  /** In the order of preference. */
  readonly codecs: readonly ("opus" | "g722" | "g711")[];
  readonly modules?: readonly string[];
  /** More lines of its configuration. */
  readonly lines?: readonly string[];
}

/** Where packages put baresip's modules: Debian's place, and those of other systems. */
const moduleFolders = [
  "/usr/lib/baresip/modules",
  "/usr/lib64/baresip/modules",
  "/usr/local/lib/baresip/modules",
  "/opt/homebrew/lib/baresip/modules",
];

function configurationOf(folder: string, options: BaresipOptions): string {
  const sound =
    options.sound.type === "devices"
      ? ["audio_source alsa,default", "audio_player alsa,default", "audio_alert alsa,default", "module alsa.so"]
      : [
          `audio_source ausine,${options.sound.hz}`,
          // The only form in which it makes tones; baresip converts them for the codec.
          "ausrc_srate 48000",
          "ausrc_channels 2",
          // A bridge with one end swallows what it is given.
          "audio_player aubridge,nowhere",
          "audio_alert aubridge,nobody",
          "module ausine.so",
          "module aubridge.so",
          "module sndfile.so",
          `snd_path ${folder}`,
        ];
  return [
    `sip_listen 127.0.0.1:${options.sipPort}`,
    "audio_buffer 20-160",
    `module_path ${moduleFolders.find((path) => existsSync(path)) ?? moduleFolders[0]}`,
    ...sound,
    ...options.codecs.map((codec) => `module ${codec}.so`),
    "module stdio.so",
    ...(options.modules ?? []).map((module) => `module ${module}.so`),
    "module_tmp uuid.so",
    "module_tmp account.so",
    "module_app menu.so",
    ...(options.lines ?? []),
    "",
  ].join("\n");
}

/** Writes the folder anew. */
export async function writeBaresipFolder(folder: string, options: BaresipOptions): Promise<void> {
  const { user, sipPort, answering } = options;
  await mkdir(folder, { recursive: true });
  const answer = answering === "at-once" ? ";answermode=auto" : "";
  await Promise.all([
    writeFile(join(folder, "config"), configurationOf(folder, options)),
    // regint=0: it registers nowhere.
    writeFile(join(folder, "accounts"), `<sip:${user}@127.0.0.1:${sipPort}>;regint=0${answer}\n`),
    writeFile(join(folder, "contacts"), ""),
  ]);
}
