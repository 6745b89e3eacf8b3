import type { InviteOrder } from "../call/effect.ts";
import type { CallEvent, SipFailure } from "../call/event.ts";
import type { CallId, ExchangeId, LegId, Sdp, TrunkId } from "../call/ids.ts";
import type { CustomHeader } from "../call/transfer.ts";
import { addressBits } from "../lib/ip-network.ts";
import type { Cancellable } from "../lib/clock.ts";
import type { SipGateway, SipTrunk } from "./directory.ts";
import { answerChallenge, hangUp } from "./hang-up.ts";
import type { TrunkCredentials } from "./hang-up.ts";
import { InDialog } from "./in-dialog.ts";
import type { CallFacts, Leg, LegContext } from "./leg.ts";
import type { HeaderLine } from "./message.ts";
import { operatorHeaders, operatorRoute } from "./operator-invite.ts";
import type { OperatorRoute } from "./operator-invite.ts";
import { formatReason, parseReason } from "./reason.ts";
import { SipFault } from "./link/fault.ts";
import type { IncomingRequest, OutgoingInvite, Reply, SentInvite, SipDialog } from "./link/types.ts";
import { destinationRefusal } from "./destination.ts";
import { readReferral, Referral } from "./referral.ts";
import { leastAcceptedBy } from "./session-expires.ts";
import { formatSipUri, parseNameAddr, parseSipUri, splitOutsideQuotes } from "./uri.ts";

/** Challenges that are answered for one INVITE: proxy and peer may both ask, and a nonce may be stale once. */
const maxChallenges = 3;

type State =
  | { readonly phase: "inviting"; readonly invite: OutgoingInvite; readonly sent: SentInvite | null }
  /** CANCEL is out; a 200 that still comes is ended by BYE (RFC 3261 §9.1, §15). */
  | { readonly phase: "cancelled"; readonly invite: OutgoingInvite; readonly deadline: Cancellable }
  | {
      readonly phase: "confirmed";
      readonly dialog: SipDialog;
      readonly inDialog: InDialog;
      /** His last REFER; there is one at a time. */
      readonly referral: Referral | null;
    }
  /** Our BYE is out, or nothing is left to do. */
  | { readonly phase: "over" };

/** An operator's side of a call: we are the UAC of its INVITE. */
export class OperatorLeg implements Leg {
  readonly id: LegId;
  readonly call: CallId;
  readonly trunk: TrunkId;
  readonly order: InviteOrder;
  readonly #facts: CallFacts;
  readonly #peer: SipTrunk;
  readonly #gateway: SipGateway;
  readonly #context: LegContext;
  readonly #route: OperatorRoute;
  readonly #credentials: TrunkCredentials | null;
  /** Judged addresses of the target's host, to be tried one after another. */
  readonly #proxies: readonly string[];
  #place = 0;
  /** Somebody has said more than that the INVITE has come. */
  #progressed = false;
  #state: State;
  #challenges = 0;
  /** The gateway has said something: it lives. */
  #heard = false;
  /** When the operator answered, on the clock. */
  #confirmedAtMs: number | null = null;
  /** The session interval that a 422 asked for. */
  #leastAccepted: number | undefined;
  /** Answers to challenges so far, by header name: a proxy's and the peer's are sent together. */
  readonly #answers = new Map<string, HeaderLine>();

  private constructor(
    order: InviteOrder,
    facts: CallFacts,
    peer: SipTrunk,
    gateway: SipGateway,
    route: OperatorRoute,
    context: LegContext,
    proxies: readonly string[],
  ) {
    this.#proxies = proxies;
    this.id = order.leg;
    this.call = facts.call;
    this.trunk = peer.id;
    this.order = order;
    this.#facts = facts;
    this.#peer = peer;
    this.#gateway = gateway;
    this.#context = context;
    this.#route = route;
    // Credentials leave us only towards the trunk's own gateway, never to a URI somewhere else.
    this.#credentials = route.viaGateway ? context.credentials(peer) : null;
    this.#state = { phase: "inviting", invite: this.#send([]), sent: null };
  }

  /** Sends the INVITE, to the first of `proxies` where there are some. A text is returned when there is nowhere to send it to. */
  static start(
    order: InviteOrder,
    facts: CallFacts,
    context: LegContext,
    proxies: readonly string[] = [],
  ): OperatorLeg | string {
    const peer = context.directory.trunk(order.trunk);
    const gateway = context.directory.gateway(order.gateway);
    if (peer === undefined || gateway === undefined) {
      return "the trunk or its gateway does not exist";
    }
    const route = operatorRoute(order, peer, gateway, context.directory);
    return route === undefined
      ? "the target is no SIP URI"
      : new OperatorLeg(order, facts, peer, gateway, route, context, proxies);
  }

  ring(): void {
    // Only an incoming INVITE rings.
  }

  accept(): void {
    // Only an incoming INVITE is accepted.
  }

  reject(_status: number, reason: string): void {
    this.cancel(reason, false);
  }

  refer(): void {
    // A REFER goes to the caller's side only.
  }

  cancel(reason: string, elsewhere: boolean): void {
    const state = this.#state;
    switch (state.phase) {
      case "inviting": {
        const { clock, times } = this.#context;
        // RFC 3326 §3.1: with 200 a phone knows that the call was not missed.
        const why = formatReason("SIP", elsewhere ? 200 : 487, reason);
        state.invite.cancel([{ name: "Reason", value: why }]);
        // drachtio-server forgets a cancelled INVITE after 32 s without a word, so the leg needs an end of its own.
        const deadline = clock.after(times.cancelMs, () => {
          state.invite.abandon();
          this.#failed({ status: 487, reason: "no final response after CANCEL", q850: null, redirect: null });
        });
        this.#state = { phase: "cancelled", invite: state.invite, deadline };
        break;
      }
      case "confirmed":
        // It answered before our CANCEL could be sent.
        this.#hangUp(
          state.dialog,
          reason,
          elsewhere ? [{ name: "Reason", value: formatReason("SIP", 200, reason) }] : [],
        );
        break;
      case "cancelled":
      case "over":
        break;
    }
  }

  bye(reason: string, headers: readonly CustomHeader[]): void {
    if (this.#state.phase === "confirmed") {
      this.#hangUp(this.#state.dialog, reason, headers);
    } else {
      this.cancel(reason, false);
    }
  }

  reinvite(offer: Sdp): void {
    const state = this.#state;
    if (state.phase !== "confirmed") {
      return;
    }
    const headers = [{ name: "Content-Type", value: "application/sdp" }];
    const { requestMs: timeoutMs } = this.#context.times;
    void state.dialog.send("INVITE", { headers, body: offer, timeoutMs }).then((result) => {
      if (this.#state.phase !== "confirmed") {
        return;
      }
      const taken = !(result instanceof SipFault) && result.status < 300 && result.body !== "";
      this.#post(
        taken
          ? { type: "leg.reanswered", leg: this.id, answer: result.body as Sdp }
          : { type: "leg.reinviteFailed", leg: this.id },
      );
    });
  }

  answerRefer(status: 202 | 603): void {
    if (this.#state.phase === "confirmed") {
      this.#state.referral?.answer(status);
    }
  }

  notifyRefer(status: number, reason: string | null, last: boolean): void {
    if (this.#state.phase === "confirmed") {
      this.#state.referral?.notify(status, reason, last);
    }
  }

  reanswer(exchange: ExchangeId, answer: Sdp): void {
    if (this.#state.phase === "confirmed") {
      this.#state.inDialog.reanswer(exchange, answer);
    }
  }

  refuse(exchange: ExchangeId, status: number): void {
    if (this.#state.phase === "confirmed") {
      this.#state.inDialog.refuse(exchange, status);
    }
  }

  end(): void {
    this.bye("service stops", []);
  }

  /** Milliseconds since the operator answered; 0 when he has not. */
  talkedMs(): number {
    return this.#confirmedAtMs === null ? 0 : Math.max(0, this.#context.clock.now() - this.#confirmedAtMs);
  }

  #send(extra: readonly HeaderLine[]): OutgoingInvite {
    const { uri } = this.#route;
    const proxy = this.#proxies[this.#place] ?? this.#route.proxy;
    return this.#context.link.invite(
      { uri, proxy, sdp: this.order.offer, headers: [...this.#headers(extra), ...extra] },
      {
        sent: (sent) => {
          if (this.#state.phase === "inviting") {
            this.#state = { ...this.#state, sent };
          }
        },
        provisional: ({ status, body }) => {
          this.#reached();
          if (this.#state.phase === "inviting") {
            this.#progressed = this.#progressed || status > 100;
            this.#post({ type: "leg.progress", leg: this.id, status, early: body === "" ? null : (body as Sdp) });
          }
        },
        answered: (dialog, reply) => {
          this.#reached();
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
    const { directory, link } = this.#context;
    // A repeated INVITE keeps From and its tag, given in `extra` (RFC 3261 §8.1.3.5).
    const given = new Set(extra.map(({ name }) => name.toLowerCase()));
    return operatorHeaders({
      order: this.order,
      facts: this.#facts,
      trunk: this.#peer,
      gateway: this.#gateway,
      route: this.#route,
      directory,
      listening: link.listening(),
      authenticates: this.#credentials !== null,
      leastAccepted: this.#leastAccepted,
    }).filter(({ name }) => !given.has(name.toLowerCase()));
  }

  #answered(dialog: SipDialog, reply: Reply): void {
    const state = this.#state;
    if (state.phase !== "inviting") {
      // RFC 3261 §9.1: a 200 that crossed our CANCEL. It was acknowledged and is ended; the call never hears of it.
      if (state.phase === "cancelled") {
        state.deadline.cancel();
      }
      this.#state = { phase: "over" };
      void this.#bye(dialog, "answered after CANCEL", []).finally(() => {
        this.#context.release(this.id);
        this.#post({
          type: "leg.failed",
          leg: this.id,
          status: 487,
          reason: "answered after CANCEL",
          q850: null,
          redirect: null,
        });
      });
      return;
    }
    const { clock, times } = this.#context;
    const inDialog = new InDialog({
      leg: this.id,
      dialog,
      clock,
      exchangeMs: times.exchangeMs,
      post: (event) => this.#post(event),
      onNotify: () => false,
      onRefer: (request) => {
        this.#referred(request);
      },
    });
    this.#state = { phase: "confirmed", dialog, inDialog, referral: null };
    this.#confirmedAtMs = clock.now();
    dialog.listen({
      acknowledged: (body) => {
        inDialog.acknowledged(body);
      },
      ended: ({ byPeer, text, headers }) => {
        if (this.#state.phase === "over") {
          // Crossing BYEs: ours has ended the leg already.
          return;
        }
        const { q850, sip, text: reason } = parseReason(headers.headerLines("reason"));
        this.#over();
        this.#post({
          type: "leg.ended",
          leg: this.id,
          status: byPeer ? sip : null,
          reason: byPeer ? reason : text,
          q850: byPeer ? q850 : null,
        });
      },
      offered: (request) => {
        inDialog.offered(request);
      },
      asked: (request) => {
        inDialog.asked(request);
      },
    });
    if (!this.#post({ type: "leg.answered", leg: this.id, answer: reply.body as Sdp })) {
      this.#hangUp(dialog, "no such call", []);
    }
  }

  /** He wants the caller to be brought to somebody else. */
  #referred(request: IncomingRequest): void {
    const state = this.#state;
    const { directory, link, times } = this.#context;
    const { botId } = this.#facts;
    if (state.phase !== "confirmed" || !directory.takesRefer(botId) || state.referral?.open === true) {
      request.respond(603);
      return;
    }
    const outcome = readReferral(request, {
      ownHosts: [...this.#peer.gateways.map(({ host }) => host), ...link.listening().map(({ address }) => address)],
      numberRefusal: (digits) => directory.numberRefusal(botId, this.trunk, digits),
      hostRefusal: (host, port) => directory.hostRefusal(botId, host, port),
    });
    if ("status" in outcome) {
      this.#context.log.info({ call: this.call, status: outcome.status }, "a REFER of an operator was refused");
      request.respond(outcome.status, outcome.reason, { headers: outcome.headers ?? [] });
      return;
    }
    const referral = new Referral({
      request,
      dialog: state.dialog,
      timeoutMs: times.requestMs,
      first: state.referral === null,
    });
    this.#state = { ...state, referral };
    if (!this.#post({ type: "leg.referred", leg: this.id, ...outcome.party })) {
      referral.answer(603);
    }
  }

  /**
   * RFC 3261 §22.2: the INVITE once more, with credentials, the same Call-ID and From tag and the next CSeq. Done here,
   * because drachtio-srf knows only MD5 and merges two challenges into one.
   */
  #answeredChallenge(result: Reply | SipFault): boolean {
    const state = this.#state;
    const credentials = this.#credentials;
    if (
      result instanceof SipFault ||
      state.phase !== "inviting" ||
      state.sent === null ||
      credentials === null ||
      this.#challenges >= maxChallenges ||
      !this.#fromGateway(result)
    ) {
      return false;
    }
    const answer = answerChallenge(result, credentials, { method: "INVITE", uri: state.sent.uri });
    // The same server asking again has refused the password, unless it says that only its nonce was too old.
    if (answer === undefined || (this.#answers.has(answer.name) && !saysStale(result))) {
      return false;
    }
    this.#challenges += 1;
    this.#answers.set(answer.name, answer);
    this.#sendAgain(state.sent);
    return true;
  }

  /** RFC 3263 §4.3: a host that cannot be reached, or answers 503, is tried at its next address, as a new request. */
  #triedNextPlace(result: Reply | SipFault): boolean {
    const unreachable =
      result instanceof SipFault
        ? result.code === "engine_refused" || result.code === "timeout"
        : result.status === 503 || (result.status === 408 && !this.#progressed);
    if (!unreachable || this.#state.phase !== "inviting" || this.#place + 1 >= this.#proxies.length) {
      return false;
    }
    this.#place += 1;
    this.#state = { phase: "inviting", invite: this.#send([]), sent: null };
    return true;
  }

  /** RFC 4028 §7.3: after a 422 the INVITE once more with the interval it asks for. */
  #raisedInterval(result: Reply | SipFault): boolean {
    const state = this.#state;
    if (result instanceof SipFault || result.status !== 422 || state.phase !== "inviting" || state.sent === null) {
      return false;
    }
    const least = leastAcceptedBy(result);
    if (least === undefined || this.#leastAccepted !== undefined || this.#peer.sessionExpiresSeconds === null) {
      return false;
    }
    this.#leastAccepted = least;
    this.#sendAgain(state.sent);
    return true;
  }

  /** The INVITE once more in the same call: RFC 3261 §8.1.3.5. */
  #sendAgain({ callId, cseq, from }: SentInvite): void {
    const invite = this.#send([
      { name: "From", value: from },
      { name: "Call-ID", value: callId },
      { name: "CSeq", value: `${cseq + 1} INVITE` },
      ...this.#answers.values(),
    ]);
    this.#state = { phase: "inviting", invite, sent: null };
  }

  /** A challenge that did not come from the gateway is a trap; host names cannot be compared, the route is trusted. */
  #fromGateway(reply: Reply): boolean {
    const expected = addressBits(this.#gateway.host);
    return expected === undefined || addressBits(reply.sourceAddress)?.prefix === expected.prefix;
  }

  #reached(): void {
    if (!this.#heard && this.#route.viaGateway) {
      this.#heard = true;
      this.#context.onGateway(this.#gateway.id, true);
    }
  }

  /** The engine tells a silence as 408 and a send that failed as 503 (RFC 3261 §8.1.3.1), so these prove no gateway. */
  #judgeGateway(result: Reply | SipFault): void {
    if (!(result instanceof SipFault) && result.status !== 408 && result.status !== 503) {
      this.#reached();
    } else if (!this.#heard && this.#route.viaGateway && (!(result instanceof SipFault) || result.code === "timeout")) {
      this.#context.onGateway(this.#gateway.id, false);
    }
  }

  #failureOf(result: Reply | SipFault): SipFailure {
    if (result instanceof SipFault) {
      const status = result.code === "cancelled" ? 487 : null;
      return { status, reason: result.message, q850: null, redirect: null };
    }
    const rest = this.#route.viaGateway && result.status >= 500 && result.status < 600 ? retryAfterMs(result) : null;
    if (rest !== null) {
      this.#context.onRetryAfter(this.#gateway.id, rest);
    }
    const { q850, sip } = parseReason(result.headerLines("reason"));
    return {
      status: result.status,
      reason: result.reason,
      q850,
      ...(sip === null ? {} : { sipCause: sip }),
      redirect: result.status >= 300 && result.status < 400 ? this.#redirectOf(result) : null,
    };
  }

  /** RFC 3261 §8.1.3.4: the first Contact of a 3xx that the bot's destinations or the trunk's gateways allow, built anew. */
  #redirectOf(reply: Reply): string | null {
    const contacts = reply
      .headerLines("contact")
      .flatMap((line) => splitOutsideQuotes(line, ","))
      .slice(0, 10);
    for (const contact of contacts) {
      const uri = parseSipUri(parseNameAddr(contact)?.uri ?? "");
      if (uri === undefined || uri.scheme !== "sip" || uri.user === null) {
        continue;
      }
      const target = { kind: "uri", uri: formatSipUri(uri) } as const;
      if (destinationRefusal({ ...this.order, target }, this.#facts.botId, this.#context) === null) {
        const transport = uri.params.get("transport")?.toLowerCase();
        const params =
          transport === "tcp" || transport === "udp" ? new Map([["transport", transport]]) : new Map<string, string>();
        return formatSipUri({ ...uri, params });
      }
    }
    return null;
  }

  #failed(failure: SipFailure): void {
    if (this.#state.phase === "over") {
      return;
    }
    this.#over();
    this.#post({ type: "leg.failed", leg: this.id, ...failure });
  }

  #hangUp(dialog: SipDialog, reason: string, headers: readonly CustomHeader[]): void {
    this.#leave();
    void this.#bye(dialog, reason, headers).finally(() => {
      this.#context.release(this.id);
    });
  }

  async #bye(dialog: SipDialog, reason: string, headers: readonly CustomHeader[]): Promise<void> {
    const { link, times } = this.#context;
    await hangUp(dialog, link, { reason, headers, timeoutMs: times.requestMs, credentials: this.#credentials });
  }

  #over(): void {
    this.#leave();
    this.#context.release(this.id);
  }

  #leave(): void {
    const state = this.#state;
    this.#state = { phase: "over" };
    if (state.phase === "cancelled") {
      state.deadline.cancel();
    } else if (state.phase === "confirmed") {
      state.referral?.close();
      state.inDialog.close();
    }
  }

  #post(event: CallEvent): boolean {
    return this.#context.post(this.call, event);
  }
}

/** RFC 3261 §20.33: seconds, before a comment and parameters that do not matter here. */
function retryAfterMs(reply: Reply): number | null {
  const seconds = /^\s*(\d{1,9})\b/.exec(reply.header("retry-after") ?? "")?.[1];
  return seconds === undefined || Number(seconds) === 0 ? null : Number(seconds) * 1000;
}

function saysStale(reply: Reply): boolean {
  return [...reply.headerLines("www-authenticate"), ...reply.headerLines("proxy-authenticate")].some((line) =>
    /\bstale\s*=\s*"?true\b/i.test(line),
  );
}
