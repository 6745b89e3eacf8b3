import type { InviteOrder } from "../call/effect.ts";
import type { CallEvent, SipFailure } from "../call/event.ts";
import type { CallId, ExchangeId, LegId, PlayId, Sdp, TrunkId } from "../call/ids.ts";
import type { CustomHeader } from "../call/transfer.ts";
import type { SipGateway, SipTrunk } from "./directory.ts";
import { hangUp } from "./hang-up.ts";
import type { TrunkCredentials } from "./hang-up.ts";
import { InDialog } from "./in-dialog.ts";
import { KeyPresses } from "./key-presses.ts";
import type { CallFacts, Leg, LegContext } from "./leg.ts";
import { OperatorDial } from "./operator-dial.ts";
import { operatorRoute } from "./operator-invite.ts";
import type { OperatorRoute } from "./operator-invite.ts";
import { formatReason, reasonOfEnd } from "./reason.ts";
import type { IncomingInvite, IncomingRequest, Reply, SipDialog } from "./link/types.ts";
import { readReferral, Referral } from "./referral.ts";
import { Reoffer } from "./reoffer.ts";
import type { ReplacedDialog } from "./replaces.ts";
import { matches, type Taker, Takeovers } from "./takeover.ts";

type State =
  | { readonly phase: "inviting"; readonly dial: OperatorDial }
  /** CANCEL is out. */
  | { readonly phase: "cancelled" }
  | {
      readonly phase: "confirmed";
      readonly dialog: SipDialog;
      readonly inDialog: InDialog;
      readonly keys: KeyPresses;
      readonly reoffer: Reoffer;
      /** His last REFER; there is one at a time. */
      readonly referral: Referral | null;
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
  readonly #context: LegContext;
  #credentials: TrunkCredentials | null;
  readonly #takeovers: Takeovers;
  #state: State;
  #dialogs = 0;
  /** When somebody answered, on the clock. */
  #confirmedAtMs: number | null = null;

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
    this.id = order.leg;
    this.call = facts.call;
    this.trunk = peer.id;
    this.order = order;
    this.#facts = facts;
    this.#peer = peer;
    this.#context = context;
    // Credentials leave us only towards the trunk's own gateway, never to a URI somewhere else.
    const credentials = route.viaGateway ? context.credentials(peer) : null;
    this.#credentials = credentials;
    this.#takeovers = new Takeovers({
      leg: order.leg,
      trunk: peer,
      context,
      post: (event) => this.#post(event),
      taken: (taker) => {
        this.#taken(taker);
      },
    });
    const dial = new OperatorDial(
      { order, facts, peer, gateway, route, context, proxies, via, credentials },
      {
        progress: ({ status, body }) => {
          if (this.#state.phase !== "inviting") return;
          this.#post({ type: "leg.progress", leg: this.id, status, early: body === "" ? null : (body as Sdp) });
        },
        answered: (dialog, reply) => {
          this.#answered(dialog, reply);
        },
        failed: (failure) => {
          this.#failed(failure);
        },
      },
    );
    this.#state = { phase: "inviting", dial };
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
      case "inviting":
        this.#takeovers.close();
        this.#state = { phase: "cancelled" };
        // RFC 3326 §3.1: with 200 a phone knows that the call was not missed.
        if (!state.dial.cancel([{ name: "Reason", value: formatReason("SIP", elsewhere ? 200 : 487, reason) }])) {
          // He had refused, and somebody was on his way to pick the call up. The call that ordered this is still at work.
          queueMicrotask(() => this.#failed({ status: 487, reason, q850: null, redirect: null }));
        }
        break;
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
    if (this.#state.phase === "confirmed") {
      this.#state.reoffer.offer(offer);
    }
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
    if (!this.#takeovers.accept(exchange, answer)) this.#inDialog()?.reanswer(exchange, answer);
  }

  refuse(exchange: ExchangeId, status: number): void {
    if (!this.#takeovers.refuse(exchange, status)) this.#inDialog()?.refuse(exchange, status);
  }

  #inDialog(): InDialog | undefined {
    return this.#state.phase === "confirmed" ? this.#state.inDialog : undefined;
  }

  isIn(dialog: ReplacedDialog): "early" | "confirmed" | null {
    const state = this.#state;
    if (state.phase === "inviting") return state.dial.rings(dialog) ? "early" : null;
    return state.phase === "confirmed" && matches(state.dialog, dialog) ? "confirmed" : null;
  }

  claim(invite: IncomingInvite, offer: Sdp): void {
    const state = this.#state;
    // While he passes the caller on it is not he who is to be replaced.
    if (state.phase === "inviting" || (state.phase === "confirmed" && state.referral?.open !== true)) {
      this.#takeovers.begin(invite, offer);
    } else {
      invite.respond(603);
    }
  }

  #taken({ dialog, offer, by, local }: Taker): void {
    const state = this.#state;
    const takenBy = by === null ? {} : { takenBy: by };
    // What the trunk's gateway may be told is nothing for whoever has called us.
    const credentials = this.#credentials;
    this.#credentials = null;
    if (local) this.#context.offTrunk(this.id);
    switch (state.phase) {
      case "inviting": {
        // RFC 3891 §3: the phones that ring are silenced, once somebody else has the call.
        const reason = formatReason("SIP", 200, "Call completed elsewhere");
        this.#confirm(dialog, false);
        state.dial.cancel([{ name: "Reason", value: reason }]);
        this.#confirmedAtMs = this.#context.clock.now();
        this.#told(dialog, { type: "leg.answered", leg: this.id, answer: offer, ...takenBy });
        break;
      }
      case "confirmed":
        state.referral?.close();
        state.keys.abandon();
        state.reoffer.close();
        state.inDialog.close();
        // The dialog that was replaced is ended, once the other one stands.
        if (state.dialog.connected) void this.#bye(state.dialog, { reason: "replaced", headers: [], credentials });
        this.#confirm(dialog, false);
        this.#told(dialog, { type: "leg.replaced", leg: this.id, offer, ...takenBy });
        break;
      case "cancelled":
      case "over":
        break;
    }
  }

  /** Where no call holds the leg any more, whoever has just come to it is hung up on. */
  #told(dialog: SipDialog, event: CallEvent): void {
    if (!this.#post(event)) this.#hangUp(dialog, "no such call", []);
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

  #answered(dialog: SipDialog, reply: Reply): void {
    if (this.#state.phase !== "inviting") return;
    // Who answers first has the call.
    this.#takeovers.close(486);
    this.#confirm(dialog, true);
    this.#confirmedAtMs = this.#context.clock.now();
    this.#told(dialog, { type: "leg.answered", leg: this.id, answer: reply.body as Sdp });
  }

  /** From now on this is the operator's dialog. `called`: we have called him, and not he us. */
  #confirm(dialog: SipDialog, called: boolean): void {
    const { clock, link, times } = this.#context;
    this.#dialogs += 1;
    const inDialog = new InDialog({
      leg: this.id,
      dialog,
      number: this.#dialogs,
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
    const reoffer = new Reoffer({
      leg: this.id,
      dialog,
      ownsCallId: called,
      clock,
      link,
      timeoutMs: times.requestMs,
      credentials: () => this.#credentials,
      post: (event) => this.#post(event),
    });
    this.#state = { phase: "confirmed", dialog, inDialog, keys, reoffer, referral: null };
    dialog.listen({
      acknowledged: (body) => {
        inDialog.acknowledged(body);
      },
      ended: (end) => {
        const state = this.#state;
        if (state.phase !== "confirmed" || state.dialog !== dialog) {
          // Crossing BYEs: ours has ended the leg already, or somebody has taken his place.
          return;
        }
        const reason = reasonOfEnd(end);
        // His BYE may overtake the ACK of the one who takes his place: the caller is not to be lost between them.
        if (this.#takeovers.outlive(() => this.#ended(reason))) {
          state.referral?.close();
          inDialog.close();
        } else {
          this.#ended(reason);
        }
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
    const busy = state.phase !== "confirmed" || this.#takeovers.open || state.referral?.open === true;
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

  #failed(failure: SipFailure): void {
    // Of a call that was picked up the CANCEL's end is no news.
    if (this.#state.phase !== "inviting" && this.#state.phase !== "cancelled") return;
    if (this.#takeovers.outlive(() => this.#failed(failure))) return;
    this.#over();
    this.#post({ type: "leg.failed", leg: this.id, ...failure });
  }

  #hangUp(dialog: SipDialog, reason: string, headers: readonly CustomHeader[]): void {
    this.#leave();
    void this.#bye(dialog, { reason, headers, credentials: this.#credentials }).finally(() => {
      this.#context.release(this.id);
    });
  }

  async #bye(
    dialog: SipDialog,
    order: Pick<Parameters<typeof hangUp>[2], "reason" | "headers" | "credentials">,
  ): Promise<void> {
    const { link, times } = this.#context;
    await hangUp(dialog, link, { ...order, timeoutMs: times.requestMs });
  }

  #over(): void {
    this.#leave();
    this.#context.release(this.id);
  }

  #leave(): void {
    const state = this.#state;
    this.#state = { phase: "over" };
    this.#takeovers.close();
    if (state.phase === "confirmed") {
      state.referral?.close();
      state.keys.close();
      state.reoffer.close();
      state.inDialog.close();
    }
  }

  #post(event: CallEvent): boolean {
    return this.#context.post(this.call, event);
  }
}
