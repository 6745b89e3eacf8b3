// A B2BUA on drachtio-srf in a process of its own. It notes both dialogs of each call in a file, and after a crash the next
// one makes drachtio-srf's objects again from what stands there, as drachtio.md §4.2 says. Its arguments come in the
// environment: JOURNAL (file), CONTROL_PORT, CONTROL_SECRET, CALLEE (SIP URI of the other side).
import { appendFileSync, existsSync, readFileSync } from "node:fs";
import type { EventEmitter } from "node:events";
import { createRequire } from "node:module";

import { rebuildDialog, type SavedDialog, saveDialog } from "./saved-dialog.ts";

interface Dialog extends EventEmitter {
  readonly id: string;
  readonly type: "uas" | "uac";
  readonly sip: { readonly callId: string; readonly localTag: string; readonly remoteTag: string };
  readonly local: { readonly sdp: string; readonly contact: string };
  readonly remote: { readonly uri: string; readonly sdp: string };
  destroy(): Promise<unknown>;
}

type Answer = (req: unknown, res: { send(status: number): void }) => void;

interface Srf extends EventEmitter {
  connect(options: object): void;
  invite(handler: (req: { readonly body: string }, res: object) => void): void;
  use(verb: string, handler: Answer): void;
  createB2BUA(req: object, res: object, uri: string, options: object): Promise<{ uas: Dialog; uac: Dialog }>;
}

type SrfClass = new () => Srf;

const { JOURNAL: journal = "", CONTROL_PORT: port, CONTROL_SECRET: secret, CALLEE: callee = "" } = process.env;
const Library = createRequire(import.meta.url)("drachtio-srf") as SrfClass;
const srf = new Library();

function bridge(one: Dialog, other: Dialog): void {
  const ended = (dialog: Dialog, rest: Dialog): void => {
    dialog.on("destroy", () => {
      appendFileSync(journal, `${JSON.stringify({ ended: [one.id, other.id] })}\n`);
      rest.destroy().catch(() => undefined);
    });
  };
  ended(one, other);
  ended(other, one);
}

function readJournal(): readonly (readonly [SavedDialog, SavedDialog])[] {
  const pairs = new Map<string, readonly [SavedDialog, SavedDialog]>();
  for (const line of existsSync(journal) ? readFileSync(journal, "utf8").split("\n") : []) {
    if (line === "") continue;
    const entry = JSON.parse(line) as { pair?: readonly [SavedDialog, SavedDialog]; ended?: readonly string[] };
    if (entry.pair !== undefined) pairs.set(entry.pair[0].id, entry.pair);
    for (const id of entry.ended ?? []) pairs.delete(id);
  }
  return [...pairs.values()];
}

srf.invite((req, res) => {
  srf
    .createB2BUA(req, res, callee, { localSdpB: req.body })
    .then(({ uas, uac }) => {
      appendFileSync(journal, `${JSON.stringify({ pair: [saveDialog(uas), saveDialog(uac)] })}\n`);
      bridge(uas, uac);
    })
    .catch((error: unknown) => process.stdout.write(`failed ${String(error)}\n`));
});
srf.on("error", () => undefined);
srf.on("connect", (error: unknown) => {
  if (error instanceof Error) throw error;
  const left = readJournal();
  for (const [uas, uac] of left) bridge(rebuildDialog(srf, uas) as Dialog, rebuildDialog(srf, uac) as Dialog);
  process.stdout.write(`connected ${left.length}\n`);
});
srf.connect({ host: "127.0.0.1", port: Number(port), secret });
