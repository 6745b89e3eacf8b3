import type { GatewayId, TrunkId } from "../call/ids.ts";

// What this side must know of trunks and channels. `trunk/table.ts` has it; adapters do not import each other, so only
// the shape stands here.

export interface SipGateway {
  readonly id: GatewayId;
  readonly trunk: TrunkId;
  readonly host: string;
  /** Undefined: the transport's default port, and for a host name what DNS says. */
  readonly port: number | undefined;
  readonly transport: "udp" | "tcp" | "tls";
}

export interface SipTrunk {
  readonly id: TrunkId;
  readonly gateways: readonly SipGateway[];
  readonly inbound: {
    readonly username: string;
    readonly realm: string;
    /** What the peer may prove it with. */
    readonly algorithms: readonly ("SHA-256" | "MD5")[];
  } | null;
  readonly outbound: { readonly username: string; readonly realm: string | null } | null;
  readonly fixedNumber: string | null;
  readonly assertedIdentity: boolean;
  readonly diversion: boolean;
  readonly identityHeaders: "allow" | "drop";
  readonly trustIdentity: boolean;
  readonly fromHost: string | null;
  readonly sipUriVia: "direct" | "gateway";
  readonly maxCalls: number;
  /** New calls per second in each direction; null: no limit. */
  readonly callsPerSecond: number | null;
  /** Interval of OPTIONS to each gateway; null: none are sent. */
  readonly qualifyMs: number | null;
  /** Null: the trunk does not register. */
  readonly registration: { readonly user: string; readonly expiresSeconds: number } | null;
  /** The session interval that is offered to this trunk (RFC 4028). Null: none. */
  readonly sessionExpiresSeconds: number | null;
}

export interface SipChannel {
  readonly botId: string;
  readonly trunk: TrunkId;
  readonly answer: "immediately" | "on-command";
  readonly passHeaders: readonly string[];
  readonly recording: { readonly enabled: boolean; readonly resumeOnReturn: boolean };
  /** Empty: an operator has no keys to hand the caller back. */
  readonly returnKeys: string;
  readonly operatorRefer: "accept" | "refuse";
  readonly maxOperatorRefers: number;
}

export type SipAdmission =
  | { readonly type: "trunk"; readonly trunk: SipTrunk }
  | { readonly type: "challenge"; readonly realm: string; readonly trunks: readonly SipTrunk[] }
  | { readonly type: "unknown" };

export interface TrunkDirectory {
  /** Whose call an INVITE from this address is. */
  admit(address: string): SipAdmission;
  /** True for a gateway given as this IP address: it may ask whether we are there, but not call. */
  isGateway(address: string): boolean;
  trunks(): readonly SipTrunk[];
  trunk(id: TrunkId): SipTrunk | undefined;
  gateway(id: GatewayId): SipGateway | undefined;
  channelFor(trunk: TrunkId, called: string): SipChannel | undefined;
  dialled(trunk: TrunkId, digits: string): string;
  /** Why a bot may not call this number through this trunk, in words without the number; null when it may. */
  numberRefusal(botId: string, trunk: TrunkId, digits: string): string | null;
  /** The same for the host of a SIP URI; `port` is null when the URI names none. */
  hostRefusal(botId: string, host: string, port: number | null): string | null;
  /** The same for an address that the host resolves to. */
  addressRefusal(botId: string, address: string, host: string): string | null;
  /** Whether an operator may pass this bot's callers on by REFER. */
  takesRefer(botId: string): boolean;
  botNumber(botId: string, trunk: TrunkId, called: string): string;
}
