import { isAbsolute, relative } from "node:path";
import { fileURLToPath } from "node:url";

import type { ConfigProblem } from "./problem.ts";
import type { Config } from "./schema.ts";

/** `file:` prompts of channels that would not be played, because they lie outside of `media.promptFolder`. */
export function promptProblems({ channels, media: { promptFolder } }: Config): readonly ConfigProblem[] {
  return channels.flatMap(({ sounds, fallback }, index) => {
    const urls = {
      "sounds.ringbackUrl": sounds.ringbackUrl,
      "sounds.holdUrl": sounds.holdUrl,
      "fallback.audioUrl": fallback?.audioUrl,
      "fallback.goodbyeUrl": fallback?.goodbyeUrl,
    };
    return Object.entries(urls).flatMap(([field, url]) => {
      const file = fileOf(url);
      if (file === undefined) return [];
      const inside = relative(promptFolder, file);
      if (inside !== "" && !/^\.\.(?:\/|$)/.test(inside) && !isAbsolute(inside)) return [];
      const message = `names ${file}, which is not in \`media.promptFolder\`, ${promptFolder}: a \`file:\` URL has the whole path of a file in there`;
      return [{ path: `channels[${index}].${field}`, message }];
    });
  });
}

function fileOf(url: string | undefined): string | undefined {
  if (url === undefined || !/^file:/i.test(url) || !URL.canParse(url)) return undefined;
  try {
    return fileURLToPath(url);
  } catch {
    // Another host, or an escaped slash: the player says so.
    return undefined;
  }
}
