import type { InviteOrder } from "../call/effect.ts";
import type { SipFailure } from "../call/event.ts";
import type { Cancellable } from "../lib/clock.ts";
import { addressBits } from "../lib/ip-network.ts";
import type { SipGateway, SipTrunk } from "./directory.ts";
import { answerChallenge, hangUp } from "./hang-up.ts";
import type { TrunkCredentials } from "./hang-up.ts";
import { failureOf } from "./invite-failure.ts";
import type { CallFacts, LegContext } from "./leg.ts";
import { SipFault } from "./link/fault.ts";
import type { OutgoingInvite, Reply, SentInvite, SipDialog } from "./link/types.ts";
import type { HeaderLine } from "./message.ts";
import { operatorHeaders } from "./operator-invite.ts";
import type { OperatorRoute } from "./operator-invite.ts";
import type { ReplacedDialog } from "./replaces.ts";
import { leastAcceptedBy } from "./session-expires.ts";
import { parseNameAddr } from "./uri.ts";

/** Challenges that are answered for one INVITE: proxy and peer may both ask, and a nonce may be stale once. */
const maxChallenges = 3;
/** Phones that ring behind one INVITE and can be told apart; a fork to more is no hunt group any more. */
const mostBranches = 32;

export interface OperatorDialOptions {
  readonly order: InviteOrder;
  readonly facts: CallFacts;
  readonly peer: SipTrunk;
  readonly gateway: SipGateway;
  readonly route: OperatorRoute;
  readonly context: LegContext;
  /** Judged addresses of the target's host, to be tried one after another. */
  readonly proxies: readonly string[];
  /** Who takes the INVITE: the network, or another leg of ours. */
  readonly via: Pick<LegContext["link"], "invite">;
  readonly credentials: TrunkCredentials | null;
}

/** Some `progress`, then exactly one of the other two. */
export interface OperatorDialEvents {
  progress(reply: Reply): void;
  /** Never after `cancel`. */
  answered(dialog: SipDialog, reply: Reply): void;
  failed(failure: SipFailure): void;
}

/**
 * The INVITE to one operator, sent again as long as an answer says how: with credentials, with a longer session interval, to
 * the next address of his host.
 */
export class OperatorDial {
  readonly #options: OperatorDialOptions;
  readonly #events: OperatorDialEvents;
  #phase: "calling" | "cancelled" | "over" = "calling";
  #invite: OutgoingInvite;
  #sent: SentInvite | null = null;
  /** Tags of the phones that ring, in the dialogs of the latest INVITE (RFC 3261 §12.1). */
  readonly #ringing = new Set<string>();
  #deadline: Cancellable | undefined;
  #place = 0;
  /** Somebody has said more than that the INVITE has come. */
  #progressed = false;
  #challenges = 0;
  /** The gateway has said something: it lives. */
  #heard = false;
  /** The session interval that a 422 asked for. */
  #leastAccepted: number | undefined;
  /** Answers to challenges so far, by header name: a proxy's and the peer's are sent together. */
  readonly #answers = new Map<string, HeaderLine>();

  constructor(options: OperatorDialOptions, events: OperatorDialEvents) {
    this.#options = options;
    this.#events = events;
    this.#invite = this.#send([]);
  }

  /** CANCEL; `failed` follows, also when a 200 crosses it (RFC 3261 §9.1). False when the INVITE has its end already. */
  cancel(headers: readonly HeaderLine[]): boolean {
    if (this.#phase !== "calling") return false;
    const { clock, times } = this.#options.context;
    this.#phase = "cancelled";
    this.#invite.cancel(headers);
    // drachtio-server forgets a cancelled INVITE after 32 s without a word, so it needs an end of its own.
    this.#deadline = clock.after(times.cancelMs, () => {
      this.#invite.abandon();
      this.#failed({ status: 487, reason: "no final response after CANCEL", q850: null, redirect: null });
    });
    return true;
  }

  /** Whether this is a dialog of a phone that rings (RFC 3891 §3: one that we have begun). */
  rings({ callId, toTag, fromTag }: ReplacedDialog): boolean {
    return (
      this.#phase === "calling" &&
      this.#sent?.callId === callId &&
      parseNameAddr(this.#sent.from)?.params.get("tag") === toTag &&
      this.#ringing.has(fromTag)
    );
  }

  #send(extra: readonly HeaderLine[]): OutgoingInvite {
    const { order, route, proxies, via } = this.#options;
    const proxy = proxies[this.#place] ?? route.proxy;
    this.#sent = null;
    this.#ringing.clear();
    return via.invite(
      { uri: route.uri, proxy, sdp: order.offer, headers: [...this.#headers(extra), ...extra] },
      {
        sent: (sent) => {
          this.#sent = sent;
        },
        provisional: (reply) => {
          this.#provisional(reply);
        },
        answered: (dialog, reply) => {
          this.#answered(dialog, reply);
        },
        failed: (result) => {
          this.#judgeGateway(result);
          if (!this.#answeredChallenge(result) && !this.#raisedInterval(result) && !this.#triedNextPlace(result)) {
            this.#failed(this.#failureOf(result));
          }
        },
      },
    );
  }

  #headers(extra: readonly HeaderLine[]): readonly HeaderLine[] {
    const { order, facts, peer, gateway, route, context, credentials } = this.#options;
    // A repeated INVITE keeps From and its tag, given in `extra` (RFC 3261 §8.1.3.5).
    const given = new Set(extra.map(({ name }) => name.toLowerCase()));
    return operatorHeaders({
      order,
      facts,
      trunk: peer,
      gateway,
      route,
      directory: context.directory,
      listening: context.link.listening(),
      authenticates: credentials !== null,
      leastAccepted: this.#leastAccepted,
    }).filter(({ name }) => !given.has(name.toLowerCase()));
  }

  #provisional(reply: Reply): void {
    this.#reached();
    if (this.#phase !== "calling") return;
    if (reply.status > 100) {
      this.#progressed = true;
      const tag = parseNameAddr(reply.header("to") ?? "")?.params.get("tag");
      if (typeof tag === "string" && this.#ringing.size < mostBranches) this.#ringing.add(tag);
    }
    this.#events.progress(reply);
  }

  #answered(dialog: SipDialog, reply: Reply): void {
    this.#reached();
    if (this.#phase === "calling") {
      this.#phase = "over";
      this.#events.answered(dialog, reply);
      return;
    }
    // RFC 3261 §9.1: a 200 that crossed our CANCEL. It was acknowledged and is ended; the call never hears of it.
    const { context, credentials } = this.#options;
    const reason = "answered after CANCEL";
    const order = { reason, headers: [], timeoutMs: context.times.requestMs, credentials };
    this.#deadline?.cancel();
    void hangUp(dialog, context.link, order).finally(() => {
      this.#failed({ status: 487, reason, q850: null, redirect: null });
    });
  }

  #failed(failure: SipFailure): void {
    if (this.#phase === "over") return;
    this.#phase = "over";
    this.#deadline?.cancel();
    this.#events.failed(failure);
  }

  #failureOf(result: Reply | SipFault): SipFailure {
    const { order, facts, route, context } = this.#options;
    return failureOf(result, { order, botId: facts.botId, viaGateway: route.viaGateway, context });
  }

  /**
   * RFC 3261 §22.2: the INVITE once more, with credentials, the same Call-ID and From tag and the next CSeq. Done here,
   * because drachtio-srf knows only MD5 and merges two challenges into one.
   */
  #answeredChallenge(result: Reply | SipFault): boolean {
    const { credentials } = this.#options;
    if (
      result instanceof SipFault ||
      this.#phase !== "calling" ||
      this.#sent === null ||
      credentials === null ||
      this.#challenges >= maxChallenges ||
      !this.#fromGateway(result)
    ) {
      return false;
    }
    const answer = answerChallenge(result, credentials, { method: "INVITE", uri: this.#sent.uri });
    // The same server asking again has refused the password, unless it says that only its nonce was too old.
    if (answer === undefined || (this.#answers.has(answer.name) && !saysStale(result))) {
      return false;
    }
    this.#challenges += 1;
    this.#answers.set(answer.name, answer);
    this.#sendAgain(this.#sent);
    return true;
  }

  /** RFC 3263 §4.3: a host that cannot be reached, or answers 503, is tried at its next address, as a new request. */
  #triedNextPlace(result: Reply | SipFault): boolean {
    const unreachable =
      result instanceof SipFault
        ? result.code === "engine_refused" || result.code === "timeout"
        : result.status === 503 || (result.status === 408 && !this.#progressed);
    if (!unreachable || this.#phase !== "calling" || this.#place + 1 >= this.#options.proxies.length) {
      return false;
    }
    this.#place += 1;
    this.#invite = this.#send([]);
    return true;
  }

  /** RFC 4028 §7.3: after a 422 the INVITE once more with the interval it asks for. */
  #raisedInterval(result: Reply | SipFault): boolean {
    if (result instanceof SipFault || result.status !== 422 || this.#phase !== "calling" || this.#sent === null) {
      return false;
    }
    const least = leastAcceptedBy(result);
    const { sessionExpiresSeconds } = this.#options.peer;
    if (least === undefined || this.#leastAccepted !== undefined || sessionExpiresSeconds === null) {
      return false;
    }
    this.#leastAccepted = least;
    this.#sendAgain(this.#sent);
    return true;
  }

  /** The INVITE once more in the same call: RFC 3261 §8.1.3.5. */
  #sendAgain({ callId, cseq, from }: SentInvite): void {
    this.#invite = this.#send([
      { name: "From", value: from },
      { name: "Call-ID", value: callId },
      { name: "CSeq", value: `${cseq + 1} INVITE` },
      ...this.#answers.values(),
    ]);
  }

  /** A challenge that did not come from the gateway is a trap; host names cannot be compared, the route is trusted. */
  #fromGateway(reply: Reply): boolean {
    const expected = addressBits(this.#options.gateway.host);
    return expected === undefined || addressBits(reply.sourceAddress)?.prefix === expected.prefix;
  }

  #reached(): void {
    const { route, context, gateway } = this.#options;
    if (!this.#heard && route.viaGateway) {
      this.#heard = true;
      context.onGateway(gateway.id, true);
    }
  }

  /** The engine tells a silence as 408 and a send that failed as 503 (RFC 3261 §8.1.3.1), so these prove no gateway. */
  #judgeGateway(result: Reply | SipFault): void {
    const { route, context, gateway } = this.#options;
    if (!(result instanceof SipFault) && result.status !== 408 && result.status !== 503) {
      this.#reached();
    } else if (!this.#heard && route.viaGateway && (!(result instanceof SipFault) || result.code === "timeout")) {
      context.onGateway(gateway.id, false);
    }
  }
}

function saysStale(reply: Reply): boolean {
  return [...reply.headerLines("www-authenticate"), ...reply.headerLines("proxy-authenticate")].some((line) =>
    /\bstale\s*=\s*"?true\b/i.test(line),
  );
}
