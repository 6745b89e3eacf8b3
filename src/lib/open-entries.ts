import { closeSync, fsync, mkdirSync, openSync, readFileSync, renameSync, writeSync } from "node:fs";
import { dirname } from "node:path";

/** What is open now, kept in a file so that the next process learns what a crash has left open. */
export interface OpenEntries {
  /** What an earlier process had open when it ended. */
  readonly left: ReadonlyMap<string, string>;
  /** Entries that are open now, those left included. */
  readonly size: number;
  add(key: string, value: string): void;
  remove(key: string): void;
  close(): void;
}

/** Lines of entries that are closed or have another value by now, before the file is written anew. */
const mostClosedLines = 10_000;

/**
 * Opens the file and makes its folder. Each change is written before the call returns: it outlives the process, though not
 * a power failure. `onError` is told, once, when the file cannot be written any more; nothing is kept from then on.
 * @throws when the file cannot be read or made.
 */
export function openEntries(file: string, onError: (error: unknown) => void): OpenEntries {
  mkdirSync(dirname(file), { recursive: true });
  const entries = readEntries(file);
  const left = new Map(entries);
  let descriptor: number | undefined = rewrite(file, entries);
  let closedLines = 0;

  const write = (line: readonly string[]): void => {
    if (descriptor === undefined) {
      return;
    }
    try {
      if (closedLines > mostClosedLines + entries.size) {
        closeSync(descriptor);
        descriptor = undefined;
        descriptor = rewrite(file, entries);
        closedLines = 0;
      } else {
        writeSync(descriptor, `${JSON.stringify(line)}\n`);
      }
    } catch (error) {
      descriptor = undefined;
      onError(error);
    }
  };
  return {
    left,
    get size() {
      return entries.size;
    },
    add: (key, value) => {
      closedLines += entries.has(key) ? 1 : 0;
      entries.set(key, value);
      write([key, value]);
    },
    remove: (key) => {
      if (entries.delete(key)) {
        closedLines += 2;
        write([key]);
      }
    },
    close: () => {
      if (descriptor !== undefined) {
        closeSync(descriptor);
        descriptor = undefined;
      }
    },
  };
}

function readEntries(file: string): Map<string, string> {
  const entries = new Map<string, string>();
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") {
      return entries;
    }
    throw error;
  }
  for (const line of text.split("\n")) {
    let parts: unknown;
    try {
      parts = JSON.parse(line);
    } catch {
      // The last line of a process that was killed while it wrote.
      continue;
    }
    const [key, value] = Array.isArray(parts) ? (parts as readonly unknown[]) : [];
    if (typeof key === "string" && typeof value === "string") {
      entries.set(key, value);
    } else if (typeof key === "string") {
      entries.delete(key);
    }
  }
  return entries;
}

/** Writes a new file beside the old one and puts it in its place, so that there is a whole one at any time. */
function rewrite(file: string, entries: ReadonlyMap<string, string>): number {
  const next = `${file}.new`;
  const descriptor = openSync(next, "w", 0o640);
  const text = [...entries].map((entry) => `${JSON.stringify(entry)}\n`).join("");
  writeSync(descriptor, text);
  renameSync(next, file);
  // Not waited for: a disk takes tens of milliseconds for it, and calls are served by the same thread.
  fsync(descriptor, () => undefined);
  return descriptor;
}
