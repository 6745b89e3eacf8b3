import type { InviteOrder } from "../call/effect.ts";
import type { CallEvent, SipFailure } from "../call/event.ts";
import type { CallId, ExchangeId, LegId, PlayId, Sdp, TrunkId } from "../call/ids.ts";
import type { CustomHeader } from "../call/transfer.ts";
import { addressBits } from "../lib/ip-network.ts";
import type { Cancellable } from "../lib/clock.ts";
import type { SipGateway, SipTrunk } from "./directory.ts";
import { answerChallenge, hangUp } from "./hang-up.ts";
import type { TrunkCredentials } from "./hang-up.ts";
import { InDialog } from "./in-dialog.ts";
import { failureOf } from "./invite-failure.ts";
import { KeyPresses } from "./key-presses.ts";
import type { CallFacts, Leg, LegContext } from "./leg.ts";
import type { HeaderLine } from "./message.ts";
import { operatorHeaders, operatorRoute } from "./operator-invite.ts";
import type { OperatorRoute } from "./operator-invite.ts";
import { formatReason, parseReason } from "./reason.ts";
import { SipFault } from "./link/fault.ts";
import type { IncomingInvite, IncomingRequest, OutgoingInvite, Reply, SentInvite, SipDialog } from "./link/types.ts";
import { readReferral, Referral } from "./referral.ts";
import type { ReplacedDialog } from "./replaces.ts";
import { leastAcceptedBy } from "./session-expires.ts";
import { matches, Takeover } from "./takeover.ts";

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
      readonly keys: KeyPresses;
      /** His last REFER; there is one at a time. */
      readonly referral: Referral | null;
      /** Somebody is about to take his place. */
      readonly taking: Takeover | null;
      /** He has hung up, and only the one who takes his place is waited for. */
      readonly gone: Ended | null;
    }
  /** Our BYE is out, or nothing is left to do. */
  | { readonly phase: "over" };

type Ended = Omit<Extract<CallEvent, { type: "leg.ended" }>, "type" | "leg">;

/** An operator's side of a call: we are the UAC of its INVITE, and the UAS for whoever takes his place later. */
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
  #credentials: TrunkCredentials | null;
  readonly #via: Pick<LegContext["link"], "invite">;
  /** Judged addresses of the target's host, to be tried one after another. */
  readonly #proxies: readonly string[];
  #place = 0;
  /** Somebody has said more than that the INVITE has come. */
  #progressed = false;
  #state: State;
  #claims = 0;
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
    via: Pick<LegContext["link"], "invite">,
  ) {
    this.#proxies = proxies;
    this.#via = via;
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

  /**
   * Sends the INVITE, to the first of `proxies` where there are some. A text is returned when there is nowhere to send it to.
   * `local`: who takes it in place of the network.
   */
  static start(
    order: InviteOrder,
    facts: CallFacts,
    context: LegContext,
    proxies: readonly string[] = [],
    local: Pick<LegContext["link"], "invite"> | null = null,
  ): OperatorLeg | string {
    const peer = context.directory.trunk(order.trunk);
    const gateway = context.directory.gateway(order.gateway);
    if (peer === undefined || gateway === undefined) {
      return "the trunk or its gateway does not exist";
    }
    const route = operatorRoute(order, peer, gateway, context.directory);
    if (route === undefined) return "the target is no SIP URI";
    return local === null
      ? new OperatorLeg(order, facts, peer, gateway, route, context, proxies, context.link)
      : new OperatorLeg(order, facts, peer, gateway, { ...route, viaGateway: false }, context, [], local);
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
      // Nobody is there any more, or somebody else.
      if (this.#state.phase !== "confirmed" || this.#state.dialog !== state.dialog) {
        return;
      }
      if (!(result instanceof SipFault) && result.status < 300 && result.body !== "") {
        this.#post({ type: "leg.reanswered", leg: this.id, answer: result.body as Sdp });
        return;
      }
      // RFC 3261 §12.2.1.2: with 481 or 408, or without an answer, the dialog is over.
      const gone =
        result instanceof SipFault
          ? result.code === "timeout" || result.code === "dialog_gone"
          : result.status === 408 || result.status === 481;
      this.#post({ type: "leg.reinviteFailed", leg: this.id, gone });
    });
  }

  press(play: PlayId, digits: string): void {
    if (this.#state.phase === "confirmed") {
      this.#state.keys.press(play, digits);
    }
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
    const state = this.#state;
    if (state.phase !== "confirmed") return;
    if (state.taking?.exchange === exchange) state.taking.accept(answer);
    else state.inDialog.reanswer(exchange, answer);
  }

  refuse(exchange: ExchangeId, status: number): void {
    const state = this.#state;
    if (state.phase !== "confirmed") return;
    if (state.taking?.exchange === exchange) state.taking.refuse(status);
    else state.inDialog.refuse(exchange, status);
  }

  isIn(dialog: ReplacedDialog): boolean {
    return this.#state.phase === "confirmed" && matches(this.#state.dialog, dialog);
  }

  claim(invite: IncomingInvite, offer: Sdp): void {
    const state = this.#state;
    // One at a time; and while he passes the caller on it is not he who is to be replaced.
    if (state.phase !== "confirmed" || state.taking !== null || state.referral?.open === true) {
      invite.respond(603);
      return;
    }
    this.#claims += 1;
    const taking = new Takeover({
      invite,
      leg: this.id,
      number: this.#claims,
      trunk: this.#peer,
      context: this.#context,
      done: (dialog) => {
        this.#taken(dialog, offer);
      },
    });
    this.#state = { ...state, taking };
    taking.begin();
    if (!this.#post({ type: "leg.claimed", leg: this.id, exchange: taking.exchange, offer })) {
      taking.refuse(603);
    }
  }

  #taken(dialog: SipDialog | null, offer: Sdp): void {
    const state = this.#state;
    if (state.phase !== "confirmed") return;
    if (dialog === null) {
      this.#state = { ...state, taking: null };
      if (state.gone !== null) this.#ended(state.gone);
      return;
    }
    state.referral?.close();
    state.keys.abandon();
    state.inDialog.close();
    // RFC 3891 §3: the dialog that was replaced is ended, once the other one stands.
    if (state.gone === null) void this.#bye(state.dialog, "replaced", []);
    // What the trunk's gateway may be told is nothing for whoever has called us.
    this.#credentials = null;
    this.#confirm(dialog);
    if (!this.#post({ type: "leg.replaced", leg: this.id, offer })) {
      this.#hangUp(dialog, "no such call", []);
    }
  }

  #ended(end: Ended): void {
    this.#over();
    this.#post({ type: "leg.ended", leg: this.id, ...end });
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
    return this.#via.invite(
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
    this.#confirm(dialog);
    this.#confirmedAtMs = this.#context.clock.now();
    if (!this.#post({ type: "leg.answered", leg: this.id, answer: reply.body as Sdp })) {
      this.#hangUp(dialog, "no such call", []);
    }
  }

  /** From now on this is the operator's dialog. */
  #confirm(dialog: SipDialog): void {
    const { clock, times } = this.#context;
    const inDialog = new InDialog({
      leg: this.id,
      dialog,
      claims: this.#claims,
      clock,
      exchangeMs: times.exchangeMs,
      post: (event) => this.#post(event),
      onNotify: () => false,
      onRefer: (request) => {
        this.#referred(request);
      },
    });
    const keys = new KeyPresses({
      dialog,
      clock,
      timeoutMs: times.requestMs,
      post: (event) => void this.#post(event),
    });
    this.#state = { phase: "confirmed", dialog, inDialog, keys, referral: null, taking: null, gone: null };
    dialog.listen({
      acknowledged: (body) => {
        inDialog.acknowledged(body);
      },
      ended: ({ byPeer, text, headers }) => {
        const state = this.#state;
        if (state.phase !== "confirmed" || state.dialog !== dialog) {
          // Crossing BYEs: ours has ended the leg already, or somebody has taken his place.
          return;
        }
        const { q850, sip, text: reason } = parseReason(headers.headerLines("reason"));
        const end = byPeer ? { status: sip, reason, q850 } : { status: null, reason: text, q850: null };
        if (state.taking === null) {
          this.#ended(end);
          return;
        }
        // His BYE has overtaken the ACK of the one who takes his place: the caller is not to be lost between them.
        state.referral?.close();
        inDialog.close();
        this.#state = { ...state, gone: end };
      },
      offered: (request) => {
        inDialog.offered(request);
      },
      asked: (request) => {
        inDialog.asked(request);
      },
    });
  }

  /** He wants the caller to be brought to somebody else. */
  #referred(request: IncomingRequest): void {
    const state = this.#state;
    const { directory, link, times } = this.#context;
    const { botId } = this.#facts;
    const busy = state.phase !== "confirmed" || state.taking !== null || state.referral?.open === true;
    if (busy || !directory.takesRefer(botId)) {
      request.respond(603);
      return;
    }
    const outcome = readReferral(request, {
      ownHosts: [...this.#peer.gateways.map(({ host }) => host), ...link.listening().map(({ address }) => address)],
      numberRefusal: (digits) => directory.numberRefusal(botId, this.trunk, digits),
      hostRefusal: (host, port) => directory.hostRefusal(botId, host, port),
      consulted: (dialog) => this.#context.consulted(dialog, this),
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
    const { viaGateway } = this.#route;
    return failureOf(result, { order: this.order, botId: this.#facts.botId, viaGateway, context: this.#context });
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
      state.taking?.close();
      state.referral?.close();
      state.keys.close();
      state.inDialog.close();
    }
  }

  #post(event: CallEvent): boolean {
    return this.#context.post(this.call, event);
  }
}

function saysStale(reply: Reply): boolean {
  return [...reply.headerLines("www-authenticate"), ...reply.headerLines("proxy-authenticate")].some((line) =>
    /\bstale\s*=\s*"?true\b/i.test(line),
  );
}
