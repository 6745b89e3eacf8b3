import { mkdir } from "node:fs/promises";
import { join } from "node:path";

import type { CallId } from "../call/ids.ts";
import { claimFolder } from "../lib/claimed-folder.ts";
import { openEntries } from "../lib/open-entries.ts";
import type { Log } from "../telemetry/log.ts";

/** Whom the events of a call go to. */
export interface CallAddress {
  readonly call: CallId;
  readonly botId: string;
  readonly caller: string;
  readonly called: string;
}

/** The calls and dialogs that are open, known to the next process too. */
export interface OpenCalls {
  readonly dialogs: { opened(id: string): void; ended(id: string): void };
  /** What a crash has left, with the number of the last event of each call. */
  readonly leftCalls: readonly (CallAddress & { readonly lastSeq: number })[];
  /** By the engine's id, with what `savedDialog` said of each. */
  readonly leftDialogs: ReadonlyMap<string, string>;
  begun(address: CallAddress): void;
  /** An event of that number goes to the call's bot. */
  said(call: CallId, seq: number): void;
  /** The call is over and its bot was told so. */
  ended(call: CallId): void;
  close(): Promise<void>;
}

/**
 * `savedDialog` tells what else is to be noted of a dialog, by the engine's id. Rejects when the folder cannot be used, and
 * when another process uses it: its calls would be taken for left ones.
 */
export async function openCalls(folder: string, savedDialog: (id: string) => string, log: Log): Promise<OpenCalls> {
  await mkdir(folder, { recursive: true });
  const claim = await claimFolder(folder);
  const onError = (error: unknown): void => {
    log.error({ err: error, folder }, "open calls can no longer be noted: after a crash they would not be ended");
  };
  const calls = openEntries(join(folder, "calls"), onError);
  const dialogs = openEntries(join(folder, "dialogs"), onError);
  const addresses = new Map<CallId, CallAddress>();
  const note = (address: CallAddress, lastSeq: number): void => {
    calls.add(address.call, JSON.stringify({ ...address, lastSeq }));
  };
  return {
    dialogs: {
      opened: (id) => {
        dialogs.add(id, savedDialog(id));
      },
      ended: (id) => {
        dialogs.remove(id);
      },
    },
    leftCalls: [...calls.left.values()].map((text) => JSON.parse(text) as CallAddress & { readonly lastSeq: number }),
    leftDialogs: dialogs.left,
    begun: (address) => {
      addresses.set(address.call, address);
      note(address, 0);
    },
    said: (call, seq) => {
      const address = addresses.get(call);
      if (address !== undefined) {
        note(address, seq);
      }
    },
    ended: (call) => {
      addresses.delete(call);
      calls.remove(call);
    },
    close: async () => {
      calls.close();
      dialogs.close();
      await claim.release();
    },
  };
}
