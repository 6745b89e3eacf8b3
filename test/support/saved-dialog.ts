// A dialog of drachtio-srf as plain data, and drachtio-srf's object made again from it in another process (drachtio.md §4.2).
import type { EventEmitter } from "node:events";
import { createRequire } from "node:module";
import type { Socket } from "node:net";

export interface SavedDialog {
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

/** What is read of a dialog to save it. */
export interface LiveDialog {
  readonly id: string;
  readonly type: string;
  readonly sip: { readonly callId: string; readonly localTag: string; readonly remoteTag: string };
  readonly local: { readonly sdp: string; readonly contact: string };
  readonly remote: { readonly uri: string; readonly sdp: string };
}

/** The members of an Srf that no typing of it shows. */
interface SrfInside {
  readonly app: { readonly client: { readonly mapServer: Map<Socket, unknown> } };
  addDialog(dialog: object): void;
}

interface SrfClass {
  readonly SipMessage: new (text: string) => object;
  readonly SipRequest: new (message: object, meta: object) => object;
  readonly SipResponse: new () => object;
  readonly Dialog: new (srf: object, type: string, options: object) => object;
}

const Library = createRequire(import.meta.url)("drachtio-srf") as SrfClass;

export function saveDialog({ id, type, sip, local, remote }: LiveDialog): SavedDialog {
  return {
    id,
    type: type === "uas" ? "uas" : "uac",
    callId: sip.callId,
    localTag: sip.localTag,
    remoteTag: sip.remoteTag,
    localContact: local.contact,
    remoteContact: `<${remote.uri}>`,
    localSdp: local.sdp,
    remoteSdp: remote.sdp,
  };
}

/** Needs a connected `srf`. */
export function rebuildDialog(srf: object, saved: SavedDialog): EventEmitter {
  const { app } = srf as SrfInside;
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
  const agent = app.client;
  const [socket] = agent.mapServer.keys();
  const meta = { source: "network", address: "127.0.0.1", port: "5060", protocol: "udp", time: "", dialogId: id };
  const req = Object.assign(new Library.SipRequest(invite, meta), { agent, socket });
  const res = Object.assign(new Library.SipResponse(), { agent, socket });
  Object.assign(res, { msg: ok });
  Object.assign(res, { req, meta });
  const dialog = new Library.Dialog(srf, type, type === "uas" ? { req, res, sent: ok } : { req, res });
  (srf as SrfInside).addDialog(dialog);
  return dialog as EventEmitter;
}
