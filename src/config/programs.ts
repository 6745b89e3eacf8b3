import { spawnSync } from "node:child_process";

import type { ConfigProblem } from "./problem.ts";
import type { Config } from "./schema.ts";

const answerMs = 10_000;
const encoderOf = { opus: "libopus", mp3: "libmp3lame" } as const;

/** Everything wrong with the programs that the configuration needs. Runs them, and waits for that. */
export function programProblems({ recording: { format, ffmpeg } }: Config): readonly ConfigProblem[] {
  if (format === "wav") return [];
  const { error, status, stdout } = spawnSync(ffmpeg, ["-hide_banner", "-v", "error", "-encoders"], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
    timeout: answerMs,
  });
  if (error !== undefined || status !== 0) {
    const reason = error !== undefined && "code" in error ? String(error.code) : `exit status ${status}`;
    return [
      {
        path: "recording.ffmpeg",
        message: `${ffmpeg} cannot be run (${reason}), and \`recording.format\` ${format} needs it: install ffmpeg (build Patchbay's image with --build-arg MORE_PACKAGES=ffmpeg), or set the format to wav`,
      },
    ];
  }
  const encoder = encoderOf[format];
  if (stdout.split(/\s+/).includes(encoder)) return [];
  return [
    {
      path: "recording.format",
      message: `${ffmpeg} was built without ${encoder}, which ${format} needs: install another ffmpeg, or choose another format`,
    },
  ];
}
