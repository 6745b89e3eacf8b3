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
  /** Made when it is asked for: what no application reads costs nothing. */
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
  /** Who takes over the dialogs of a lost connection: one with the same tags, else the only one there is. */
  heirOf(tags: string): ClientId | undefined;
  /**
   * Outbound mode: connects to an application for one new request. `offer` is called once, later: with the connection, or
   * with `undefined` when no application could be reached. It returns false when the request is over by then, and the
   * connection is closed. Absent when applications connect by themselves.
   */
  readonly dial?: ((offer: (client: ClientId | undefined) => boolean) => void) | undefined;
  isConnected(client: ClientId): boolean;
  /** False when the connection is gone: the message then went nowhere. */
  deliver(client: ClientId, delivery: Delivery): boolean;
  /** Answers the command `requestId` of that connection. */
  reply(client: ClientId, requestId: string, reply: CommandReply): void;
}

/** An application connection that is gone. */
export interface LostClient {
  readonly client: ClientId;
  /** Its tags in one canonical text; empty when it gave none. */
  readonly tags: string;
  readonly verbs: readonly string[];
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
  /** A connection that authenticated can be given messages: it may get what others have left behind. */
  clientReady(client: ClientId): void;
  /** A connection wants requests of that verb from now on. */
  routed(verb: string): void;
  /** The connections that own a dialog or have a request open in either direction. */
  busyClients(): ReadonlySet<ClientId>;
  /** The connection is gone: what it owned goes to an heir or waits for one. */
  clientGone(lost: LostClient): void;
}
