// A B2BUA on drachtio-srf in a process of its own. It notes both dialogs of each call in a file, and after a crash the next
// one makes drachtio-srf's objects again from what stands there, as drachtio.md §4.2 says. Its arguments come in the
// environment: JOURNAL (file), CONTROL_PORT, CONTROL_SECRET, CALLEE (SIP URI of the other side).
import { appendFileSync, existsSync, readFileSync } from "node:fs";
import type { EventEmitter } from "node:events";
import { createRequire } from "node:module";
import type { Socket } from "node:net";

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
  readonly app: { readonly client: { readonly mapServer: Map<Socket, unknown> } };
  connect(options: object): void;
  invite(handler: (req: { readonly body: string }, res: object) => void): void;
  use(verb: string, handler: Answer): void;
  createB2BUA(req: object, res: object, uri: string, options: object): Promise<{ uas: Dialog; uac: Dialog }>;
  addDialog(dialog: Dialog): void;
}

type Parsed = object;
interface SrfClass {
  new (): Srf;
  readonly SipMessage: new (text: string) => Parsed;
  readonly SipRequest: new (message: Parsed, meta: object) => object;
  readonly SipResponse: new () => object;
  readonly Dialog: new (srf: Srf, type: string, options: object) => Dialog;
}

interface Saved {
  readonly id: string;
  readonly type: "uas" | "uac";
  readonly callId: string;
  readonly localTag: string;
  readonly remoteTag: string;
  readonly localContact: string;
  readonly remoteContact: string;
  readonly localSdp: string;
  readonly remoteSdp: string;
}

const { JOURNAL: journal = "", CONTROL_PORT: port, CONTROL_SECRET: secret, CALLEE: callee = "" } = process.env;
const Library = createRequire(import.meta.url)("drachtio-srf") as SrfClass;
const srf = new Library();

function save({ id, type, sip, local, remote }: Dialog): Saved {
  return {
    id,
    type,
    ...sip,
    localContact: local.contact,
    remoteContact: `<${remote.uri}>`,
    localSdp: local.sdp,
    remoteSdp: remote.sdp,
  };
}

function rebuild(saved: Saved): Dialog {
  const { type, id, callId, localTag, remoteTag, localContact, remoteContact, localSdp, remoteSdp } = saved;
  const [requestContact, responseContact] =
    type === "uas" ? [remoteContact, localContact] : [localContact, remoteContact];
  const [requestSdp, responseSdp] = type === "uas" ? [remoteSdp, localSdp] : [localSdp, remoteSdp];
  const [fromTag, toTag] = type === "uas" ? [remoteTag, localTag] : [localTag, remoteTag];
  const text = (first: string, contact: string, body: string): string =>
    [
      first,
      `From: <sip:a@invalid>;tag=${fromTag}`,
      `To: <sip:b@invalid>;tag=${toTag}`,
      `Call-ID: ${callId}`,
      "CSeq: 1 INVITE",
      `Contact: ${contact}`,
      "",
      body,
    ].join("\r\n");
  const invite = new Library.SipMessage(text("INVITE sip:b@invalid SIP/2.0", requestContact, requestSdp));
  const ok = new Library.SipMessage(text("SIP/2.0 200 OK", responseContact, responseSdp));
  const agent = srf.app.client;
  const [socket] = agent.mapServer.keys();
  const meta = { source: "network", address: "127.0.0.1", port: "5060", protocol: "udp", time: "", dialogId: id };
  const req = Object.assign(new Library.SipRequest(invite, meta), { agent, socket });
  const res = Object.assign(new Library.SipResponse(), { agent, socket });
  Object.assign(res, { msg: ok });
  Object.assign(res, { req, meta });
  const dialog = new Library.Dialog(srf, type, type === "uas" ? { req, res, sent: ok } : { req, res });
  srf.addDialog(dialog);
  return dialog;
}

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

function readJournal(): readonly (readonly [Saved, Saved])[] {
  const pairs = new Map<string, readonly [Saved, Saved]>();
  for (const line of existsSync(journal) ? readFileSync(journal, "utf8").split("\n") : []) {
    if (line === "") continue;
    const entry = JSON.parse(line) as { pair?: readonly [Saved, Saved]; ended?: readonly string[] };
    if (entry.pair !== undefined) pairs.set(entry.pair[0].id, entry.pair);
    for (const id of entry.ended ?? []) pairs.delete(id);
  }
  return [...pairs.values()];
}

srf.invite((req, res) => {
  srf
    .createB2BUA(req, res, callee, { localSdpB: req.body })
    .then(({ uas, uac }) => {
      appendFileSync(journal, `${JSON.stringify({ pair: [save(uas), save(uac)] })}\n`);
      bridge(uas, uac);
    })
    .catch((error: unknown) => process.stdout.write(`failed ${String(error)}\n`));
});
srf.on("error", () => undefined);
srf.on("connect", (error: unknown) => {
  if (error instanceof Error) throw error;
  const left = readJournal();
  for (const [uas, uac] of left) bridge(rebuild(uas), rebuild(uac));
  process.stdout.write(`connected ${left.length}\n`);
});
srf.connect({ host: "127.0.0.1", port: Number(port), secret });
