import type { CallId, ExchangeId, GatewayId, LegId, PlayId, Sdp, TrunkId } from "../call/ids.ts";
import type { Post } from "../call/ports.ts";
import type { CalledParty, CustomHeader, TransferRequest } from "../call/transfer.ts";
import type { Clock } from "../lib/clock.ts";
import type { Log } from "../telemetry/log.ts";
import type { SipTrunk, TrunkDirectory } from "./directory.ts";
import type { TrunkCredentials } from "./hang-up.ts";
import type { ReplacedDialog } from "./replaces.ts";
import type { EngineLink } from "./srf.ts";

/** What is known of a call on this side while one of its legs lives. */
export interface CallFacts {
  readonly call: CallId;
  readonly botId: string;
  readonly trunk: TrunkId;
  readonly calledNumber: string;
  readonly caller: {
    /** As the trunk gave it, also when it was withheld: it is shown to nobody then. */
    readonly number: string;
    readonly display: string | null;
    readonly withheld: boolean;
  };
}

/** How long things may take, in milliseconds; all follow from T1, so that tests can run them fast. */
export interface LegTimes {
  /** 64*T1: the life of a transaction (RFC 3261 §17.1.1.2). */
  readonly transactionMs: number;
  /** For a final response to an INVITE we cancelled; the engine should have given one after 64*T1. */
  readonly cancelMs: number;
  /** For the response to our BYE or REFER. */
  readonly requestMs: number;
  /** For the call's answer to an offer inside the dialog. */
  readonly exchangeMs: number;
}

/** What a leg needs from the side it lives in. */
export interface LegContext {
  readonly link: EngineLink;
  readonly directory: TrunkDirectory;
  /** What the trunk's gateways may be answered; null where we have no password. */
  readonly credentials: (trunk: SipTrunk) => TrunkCredentials | null;
  readonly post: Post;
  readonly clock: Clock;
  readonly log: Log;
  /** A gateway asked not to be called for this long. */
  readonly onRetryAfter: (gateway: GatewayId, ms: number) => void;
  /** A gateway has answered an INVITE, or it has not. */
  readonly onGateway: (gateway: GatewayId, answered: boolean) => void;
  readonly times: LegTimes;
  /**
   * Who is at the other end of the call that this dialog of ours belongs to, so that the asker's caller may be joined with
   * him; null when the two calls may not become one, undefined when there is no such dialog.
   */
  readonly consulted: (
    dialog: ReplacedDialog,
    asker: Pick<Leg, "call" | "trunk">,
  ) => Pick<CalledParty, "target" | "number"> | null | undefined;
  /** The leg lives on within this process: the trunk carries nothing of it any more. */
  readonly offTrunk: (leg: LegId) => void;
  /** The leg is over: it is forgotten and nothing is posted for it any more. */
  readonly release: (leg: LegId) => void;
}

/** One SIP side of a call. A request that does not fit the leg's state is no mistake, only late, and does nothing. */
export interface Leg {
  readonly id: LegId;
  readonly call: CallId;
  readonly trunk: TrunkId;
  ring(): void;
  accept(answer: Sdp): void;
  reject(status: number, reason: string): void;
  /** `elsewhere`: somebody else has taken the call. */
  cancel(reason: string, elsewhere: boolean): void;
  bye(reason: string, headers: readonly CustomHeader[]): void;
  refer(request: TransferRequest): void;
  answerRefer(status: 202 | 603): void;
  notifyRefer(status: number, reason: string | null, last: boolean): void;
  reanswer(exchange: ExchangeId, answer: Sdp): void;
  /** Offers our end anew in a dialog that stands. */
  reinvite(offer: Sdp): void;
  /** Keys by INFO, in place of those under way; an empty text only ends these. */
  press(play: PlayId, digits: string): void;
  refuse(exchange: ExchangeId, status: number): void;
  /** Ends the leg in whatever state it is, without a word to the call: the service stops. */
  end(): void;
}
