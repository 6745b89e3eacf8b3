import { mkdirSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { CompressedFormat } from "./conversion.ts";

/** What is still to be done with a finished recording: one small file of its name in a folder of its own. */
export interface DeliveryMark {
  readonly v: 1;
  /** What it is to be converted to before it is uploaded; null: it stays as it is. */
  readonly format: CompressedFormat | null;
}

/** Below the folder of finished recordings. */
export const pendingFolderName = "pending";
const markEnding = ".json";

/** The name of that file. */
export function markFile(name: string): string {
  return name + markEnding;
}

/** The recording that a file of that folder is about; undefined for other files. */
export function markOf(fileName: string): string | undefined {
  return fileName.endsWith(markEnding) ? fileName.slice(0, -markEnding.length) : undefined;
}

/** Undefined for what is not of this version, or cut off by a crash. */
export function parseMark(text: string): DeliveryMark | undefined {
  try {
    const { v, format } = JSON.parse(text) as Partial<DeliveryMark>;
    if (v !== 1) return undefined;
    return { v, format: format === "opus" || format === "mp3" ? format : null };
  } catch {
    return undefined;
  }
}

/** Throws the system's error. Synchronous: runs in the worker that has rendered the recording. */
export function writeMark(folder: string, name: string, mark: DeliveryMark): void {
  const pending = join(folder, pendingFolderName);
  mkdirSync(pending, { recursive: true, mode: 0o750 });
  const path = join(pending, markFile(name));
  writeFileSync(`${path}.part`, JSON.stringify(mark), { mode: 0o640 });
  renameSync(`${path}.part`, path);
}
