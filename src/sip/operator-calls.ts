import type { InviteOrder } from "../call/effect.ts";
import type { CallEvent } from "../call/event.ts";
import type { CallId, LegId, Sdp, TrunkId } from "../call/ids.ts";
import type { TransferRequest } from "../call/transfer.ts";
import { destinationRefusal } from "./destination.ts";
import type { SipTrunk } from "./directory.ts";
import type { CallFacts, Leg, LegContext } from "./leg.ts";
import type { LegTable } from "./leg-table.ts";
import { inviteLocally } from "./local-call.ts";
import { OperatorLeg } from "./outbound.ts";
import { PendingLeg, pin, uriToPin } from "./pinning.ts";
import type { HostResolver, PinOutcome } from "./pinning.ts";
import type { Claimable, Replacements } from "./replacements.ts";
import type { TrunkLoad } from "./trunk-load.ts";
import type { SipUri } from "./uri.ts";

/** How many operators a bot may have called. */
export interface OperatorGate {
  /**
   * Counts one more operator, or says why there may be none, in words without a number. `again`: he is called by another
   * way than a moment ago.
   */
  enter(botId: string, again: boolean): string | null;
  /** One that was counted is over; milliseconds of talk. */
  leave(botId: string, talkedMs: number): void;
}

interface OperatorCallsOptions {
  readonly context: LegContext;
  readonly legs: LegTable;
  readonly load: TrunkLoad;
  readonly replacements: Replacements;
  /** Undefined: hosts of SIP URIs are not judged by their addresses. */
  readonly resolve: HostResolver | undefined;
  /** Undefined: no limits. */
  readonly gate: OperatorGate | undefined;
  /** Not from within the call that ordered it. */
  readonly postSoon: (call: CallId, event: CallEvent) => void;
}

/** From the order to call an operator to his leg, or to why he is not called. */
export class OperatorCalls {
  readonly #options: OperatorCallsOptions;

  constructor(options: OperatorCallsOptions) {
    this.#options = options;
  }

  invite(call: CallId, order: InviteOrder): void {
    const facts = this.#options.legs.factsOf(call);
    const trunk = this.#options.context.directory.trunk(order.trunk);
    if (facts === undefined) {
      this.#inviteFailed(call, order.leg, null, "the call has no caller any more");
      return;
    }
    if (this.#options.legs.has(order.leg)) {
      this.#options.context.log.error({ call, leg: order.leg }, "a leg was invited twice");
      return;
    }
    const { gate } = this.#options;
    const consulted = this.#options.replacements.consultedLeg(order, call);
    const refusal =
      (consulted === undefined ? destinationRefusal(order, facts.botId, this.#options.context) : null) ??
      (order.fallback === true ? null : (gate?.enter(facts.botId, order.again === true) ?? null));
    if (refusal !== null) {
      this.#options.context.log.warn({ call, botId: facts.botId, refusal }, "an operator is not called");
      this.#inviteFailed(call, order.leg, null, refusal, true);
      return;
    }
    if (consulted !== undefined) {
      // Nothing goes over the trunk.
      this.#start(order, facts, [], consulted);
      return;
    }
    const full = this.#trunkRefusal(trunk);
    if (full !== null) {
      this.left(order, facts, 0);
      this.#inviteFailed(call, order.leg, 503, full);
      return;
    }
    const uri = this.#options.resolve === undefined ? undefined : uriToPin(order, this.#options.context);
    if (uri === undefined) {
      this.#start(order, facts, []);
      return;
    }
    const pending = new PendingLeg(order, facts, this.#options.context);
    this.#hold(pending, facts, true);
    void this.#pinned(pending, uri, facts);
  }

  /** Why nobody can be called through the trunk at this moment. */
  #trunkRefusal(trunk: SipTrunk | undefined): string | null {
    if (trunk === undefined) return null;
    if (this.#options.load.isFull(trunk)) return "the trunk is full";
    return this.#options.load.withinPace("out", trunk) ? null : "too many calls per second on the trunk";
  }

  async #pinned(pending: PendingLeg, uri: SipUri, facts: CallFacts): Promise<void> {
    const { resolve, context } = this.#options;
    const { log } = context;
    const { order, call } = pending;
    let outcome: PinOutcome = { ok: false, refused: false, reason: "the host name cannot be resolved" };
    try {
      if (resolve !== undefined) outcome = await pin(uri, facts.botId, resolve, this.#options.context);
    } catch (error) {
      log.error({ err: error, call }, "a host name could not be judged");
    }
    if (pending.over) {
      return;
    }
    if (outcome.ok) {
      this.#start(order, facts, outcome.proxies);
      return;
    }
    if (outcome.refused) {
      log.warn({ call, botId: facts.botId, refusal: outcome.reason }, "an operator is not called");
    }
    this.#options.context.release(order.leg);
    this.#inviteFailed(call, order.leg, null, outcome.reason, outcome.refused);
  }

  /** Sends the INVITE; a leg that was pending gives its place to the one that is started. */
  #start(order: InviteOrder, facts: CallFacts, proxies: readonly string[], consulted?: Claimable): void {
    let failure = "the INVITE could not be built";
    try {
      const { log } = this.#options.context;
      const local: Parameters<typeof OperatorLeg.start>[4] = consulted && {
        invite: (options, events) =>
          inviteLocally(options, events, (invite) => consulted.claim(invite, options.sdp as Sdp), log),
      };
      const leg = OperatorLeg.start(order, facts, this.#options.context, proxies, local ?? null);
      if (typeof leg !== "string") {
        if (this.#options.legs.has(order.leg)) this.#options.legs.exchange(leg);
        else this.#hold(leg, facts, consulted === undefined);
        this.#options.postSoon(facts.call, { type: "leg.invited", leg: order.leg });
        return;
      }
      failure = leg;
    } catch (error) {
      this.#options.context.log.error({ err: error, call: facts.call }, "an INVITE could not be built");
    }
    if (this.#options.legs.has(order.leg)) this.#options.context.release(order.leg);
    else this.left(order, facts, 0);
    this.#inviteFailed(facts.call, order.leg, null, failure);
  }

  /** Whom the caller's side is asked to call is judged like whom we call ourselves, by the rules of its own trunk. */
  referRefusal({ target }: TransferRequest, trunk: TrunkId, botId: string): string | null {
    const [gateway] = this.#options.context.directory.trunk(trunk)?.gateways ?? [];
    const refusal =
      gateway === undefined
        ? null
        : destinationRefusal({ target, trunk, gateway: gateway.id }, botId, this.#options.context);
    if (refusal !== null) return refusal;
    const full = this.#options.gate?.enter(botId, false) ?? null;
    // Who follows a REFER talks without us: he counts for the calls of this second only.
    if (full === null) this.#options.gate?.leave(botId, 0);
    return full;
  }

  /** An operator who was counted is over. */
  left({ fallback }: InviteOrder, { botId }: CallFacts, talkedMs: number): void {
    if (fallback !== true) this.#options.gate?.leave(botId, talkedMs);
  }

  #inviteFailed(call: CallId, leg: LegId, status: number | null, reason: string, refused = false): void {
    const failure = { status, reason, q850: null, redirect: null, ...(refused ? { refused: true as const } : {}) };
    this.#options.postSoon(call, { type: "leg.failed", leg, ...failure });
  }

  #hold(leg: Leg, facts: CallFacts, onTrunk: boolean): void {
    this.#options.legs.add(leg, facts);
    if (onTrunk) this.#options.load.enter(leg.id, leg.trunk);
  }
}
