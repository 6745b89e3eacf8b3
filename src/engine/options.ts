import type { SessionRules } from "./dialog/session-timer.ts";
import type { MessageLimits } from "./sip/parse.ts";
import type { Clock, Random } from "./timers.ts";
import type { ListenOption } from "./transport/index.ts";
import type { TcpLimits } from "./transport/tcp-connection.ts";
import type { TransactionLimits } from "./txn/index.ts";

/** Where the engine reports what a person may want to read; message texts carry no numbers and no secrets. */
export interface EngineLog {
  debug(message: string, fields?: Readonly<Record<string, unknown>>): void;
  info(message: string, fields?: Readonly<Record<string, unknown>>): void;
  warn(message: string, fields?: Readonly<Record<string, unknown>>): void;
  error(message: string, fields?: Readonly<Record<string, unknown>>): void;
}

export const silentLog: EngineLog = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};

/** Every count and size the engine bounds. What exceeds a limit is refused with 503, NOK or a closed connection. */
export interface EngineLimits {
  /** Application connections at once. */
  readonly clients: number;
  /** Connections to applications in outbound mode: one per call. */
  readonly outboundConnections: number;
  /** Verbs one application connection may route. */
  readonly verbsPerClient: number;
  /** Bytes of one frame from an application. */
  readonly frameBytes: number;
  /** Bytes waiting for a slow application before its connection is dropped. */
  readonly clientBacklogBytes: number;
  /** Milliseconds a connection may stay unauthenticated. */
  readonly authenticationMs: number;
  /** Incoming requests an application has not answered yet. */
  readonly pendingRequests: number;
  /** Requests of ours that have no final response yet, and INVITEs that wait 37 s for repetitions of their 2xx. */
  readonly outgoingRequests: number;
  readonly dialogs: number;
}

export const defaultLimits: EngineLimits = {
  clients: 64,
  outboundConnections: 4000,
  verbsPerClient: 64,
  frameBytes: 1024 * 1024,
  clientBacklogBytes: 16 * 1024 * 1024,
  authenticationMs: 10_000,
  pendingRequests: 10_000,
  outgoingRequests: 60_000,
  dialogs: 20_000,
};

/** The limits that differ from the defaults; the parts of the engine that have limits of their own are named. */
export interface LimitOptions extends Partial<EngineLimits> {
  readonly message?: Partial<MessageLimits> | undefined;
  readonly tcp?: Partial<TcpLimits> | undefined;
  readonly transactions?: Partial<TransactionLimits> | undefined;
}

export interface EngineOptions {
  readonly listen: readonly ListenOption[];
  /** Address to advertise in Via and Contact when it is not the one listened on (a NAT or a floating address). */
  readonly externalAddress?: string | undefined;
  readonly control: { readonly address: string; readonly port: number; readonly secret: string };
  /**
   * Who may send requests: CIDRs or addresses; others get no answer at all. With "any" a UDP address is trusted with more
   * than one packet for each of its own only when it has proved to get ours.
   */
  readonly sources: readonly string[] | "any";
  /** RFC 3261 timer T1 in milliseconds (default 500); all other SIP timers scale with it. */
  readonly t1Ms?: number | undefined;
  /** How long a dialog may be without an application connection before the engine ends it, in milliseconds (default 30 s). */
  readonly orphanGraceMs?: number | undefined;
  /** How long requests wait for an application that was there a moment ago, in milliseconds (default 10 s). */
  readonly waitMs?: number | undefined;
  /** Behave like drachtio-server wherever a test can see a difference; `parity.ts` has the table. Default false. */
  readonly strictParity?: boolean | undefined;
  /**
   * Outbound mode: `tcp://host:port` of applications that wait with `srf.listen`. The engine connects to one of them, in
   * turn, for each new request outside of a dialog. Default none: applications connect to the control port.
   */
  readonly applications?: readonly string[] | undefined;
  /**
   * How long an INVITE, of ours or of a peer, may ring, in milliseconds. Default 11 min: longer than any time an application
   * of ours gives an operator, so that its own timer decides.
   */
  readonly ringingLimitMs?: number | undefined;
  /** DNS servers to ask instead of the machine's own, `address` or `address:port`. */
  readonly dnsServers?: readonly string[] | undefined;
  /**
   * RFC 3261 §18.1.1: requests over 1,300 bytes go by TCP instead of UDP, and by UDP after all where the peer refuses TCP.
   * Default true.
   */
  readonly largeByTcp?: boolean | undefined;
  /** First hop of every request outside of a dialog that names no `proxy` itself. */
  readonly outboundProxy?: string | undefined;
  /** Value of User-Agent and Server where the application gives none; none is sent by default. */
  readonly userAgent?: string | undefined;
  /** RFC 4028. Default: at least 90 s, none where the peer offers an interval and names no refresher. */
  readonly sessionTimers?: Partial<SessionRules> | undefined;
  readonly limits?: LimitOptions | undefined;
  readonly clock?: Clock | undefined;
  readonly random?: Random | undefined;
  readonly log?: EngineLog | undefined;
}
