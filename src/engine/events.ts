/**
 * The seam between the wire server (which knows no SIP) and the SIP core (which knows no sockets). The core drives
 * `EngineEvents`, the wire server drives `SipCommands`; a test can put a fake on either side.
 */

/** Names one application connection for as long as it lives; never used again afterwards. */
export type ClientId = number;

/** Where a SIP message came from or went to: the meta tokens of drachtio's protocol. */
export interface WirePeer {
  readonly protocol: "udp" | "tcp" | "tls";
  readonly address: string;
  readonly port: number;
}

/** A SIP message for the application. `txnId` is `unsolicited` for a BYE that the engine sent on its own. */
export interface Delivery {
  readonly source: "network" | "application";
  readonly peer: WirePeer;
  readonly txnId: string;
  /** Absent for messages outside of any dialog. */
  readonly dialogId: string | undefined;
  /** Our own address the message came in on; given for new requests outside of any dialog only. */
  readonly receivedOn?: { readonly address: string; readonly port: number } | undefined;
  readonly message: Buffer;
}

/** The answer to one command: the message as really sent, or the text of drachtio's NOK. */
export type CommandReply =
  | {
      readonly type: "sent";
      readonly kind: "request" | "response";
      readonly peer: WirePeer;
      readonly txnId: string;
      readonly dialogId: string | undefined;
      readonly message: Buffer;
    }
  | { readonly type: "refused"; readonly text: string };

/** What the core tells the applications; implemented by the wire server. */
export interface EngineEvents {
  /** The next connection (round robin) that routed `verb` (lower case), or `undefined` when there is none. */
  choose(verb: string): ClientId | undefined;
  isConnected(client: ClientId): boolean;
  /** False when the connection is gone: the message then went nowhere. */
  deliver(client: ClientId, delivery: Delivery): boolean;
  /** Answers the command `requestId` of that connection. */
  reply(client: ClientId, requestId: string, reply: CommandReply): void;
}

/** One command of an application, already cut out of its frame. */
export interface SipCommand {
  readonly client: ClientId;
  readonly requestId: string;
  /** The SIP text as the application wrote it, unchecked. */
  readonly sip: Buffer;
}

/** What the applications ask of the core; implemented by the user agent core. */
export interface SipCommands {
  respond(command: SipCommand, txnId: string): void;
  cancel(command: SipCommand, txnId: string): void;
  requestInDialog(command: SipCommand, dialogId: string): void;
  requestOutOfDialog(command: SipCommand, proxyUri: string | undefined): void;
  /** The connection is gone: whatever it owned is answered for, and its dialogs wait for a new owner. */
  clientGone(client: ClientId): void;
}
