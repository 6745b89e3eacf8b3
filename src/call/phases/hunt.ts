import type { Effect } from "../effect.ts";
import type { LegTimer, SipFailure } from "../event.ts";
import type { GatewayId, LegId } from "../ids.ts";
import type { judge } from "../outcome.ts";
import type { Attempt, CallCore, CallState, In, OpenTransfer, PassingOperator } from "../state.ts";
import { after, type Step } from "../step.ts";
import { type CalledParty, partiesOf, type Route, type TransferRequest } from "../transfer.ts";

// Whom to call next, by which way: gateways of one party, and parties in a row or all at once. A plain `switch` is a hunt of one.

type Way = Pick<Attempt, "party" | "opens" | "again" | "gateway" | "identity" | "target" | "redirected">;

/** Whether this leg is an operator's who is being called. */
export function awaitsAnswer(state: CallState, leg: LegId): boolean {
  if (state.phase !== "dialling") return false;
  return state.legs.some((one) => one.leg === leg && one.invitedAtMs !== null && one.answer === null);
}

export const progressTimer = (leg: LegId): LegTimer => `progress ${leg}`;
export const confirmTimer = (leg: LegId): LegTimer => `confirm ${leg}`;

/** The caller hears ringing from here on, whatever the gateways do. */
export function startDialling(core: CallCore, transfer: OpenTransfer, passing: PassingOperator | null = null): Step {
  const first: readonly Effect[] = [
    { type: "media.phase", phase: "dialling" },
    { type: "media.ringback", on: true },
  ];
  const { request } = transfer;
  const parties = request.strategy === "ring" ? partiesOf(request).length : 1;
  let state: In<"dialling"> = { phase: "dialling", core, transfer, legs: [], passing };
  const offers: Effect[] = [];
  for (let n = 0; n < parties; n += 1) {
    const [next, effects] = callNext(state);
    state = next;
    offers.push(...effects);
  }
  return after(first, [state, offers]);
}

/** Calls the next party of the request. */
export function callNext(state: In<"dialling">): readonly [In<"dialling">, readonly Effect[]] {
  const { transfer } = state;
  const party = transfer.called;
  const { route, method } = transfer.request;
  const { identity } = route;
  // A REFER that was not followed has tried the one target it can have.
  const again = method === "refer";
  const next = { ...state, transfer: { ...transfer, called: party + 1 } };
  const { target } = partyAt(transfer, party);
  return startAttempt(next, { party, opens: true, again, gateway: 0, identity, target, redirected: false });
}

/** Makes a leg for an attempt; its INVITE goes out once the anchor has an offer for it. */
export function startAttempt(state: In<"dialling">, way: Way): readonly [In<"dialling">, readonly Effect[]] {
  const operators = state.core.operators + 1;
  const leg = `${state.core.setup.call}/operator-${operators}` as LegId;
  const number = state.transfer.begun + 1;
  const { keys } = state.transfer.request.route;
  const attempt: Attempt = {
    leg,
    number,
    ...way,
    invitedAtMs: null,
    ringingAtMs: null,
    lastStatus: null,
    answer: null,
  };
  return [
    {
      ...state,
      core: { ...state.core, operators },
      transfer: { ...state.transfer, begun: number },
      legs: [...state.legs, attempt],
    },
    [{ type: "media.offer", leg, ...(keys === undefined ? {} : { keys }) }],
  ];
}

export function partyAt({ request }: Pick<OpenTransfer, "request">, position: number): CalledParty {
  return partiesOf(request)[position] ?? request;
}

export function gatewayOf({ route }: TransferRequest, { gateway }: Attempt): GatewayId {
  return route.gateways[gateway] ?? route.gateways[0];
}

/** The same gateways, this one first. */
export function gatewaysFrom(gateways: Route["gateways"], first: GatewayId): Route["gateways"] {
  return [first, ...gateways.filter((gateway) => gateway !== first)];
}

/** Another way to the same party, or null when there is none. */
export function retryOf(
  { request }: OpenTransfer,
  { party, gateway, identity, target, redirected }: Attempt,
  next: ReturnType<typeof judge>["next"],
  { redirect }: Pick<SipFailure, "redirect">,
): Way | null {
  const { route } = request;
  switch (next) {
    case "gateway": {
      // Where a 3xx pointed belonged to the gateway that sent it; the next one is asked for whom the bot wants.
      const wanted = partyAt({ request }, party).target;
      if (wanted.kind === "uri" && route.sipUriVia === "direct") return null;
      if (gateway + 1 >= route.gateways.length) return null;
      return { party, opens: false, again: true, gateway: gateway + 1, identity, target: wanted, redirected };
    }
    case "identity":
      if (identity !== "caller" || !route.retryWithBotNumber) return null;
      return { party, opens: false, again: true, gateway, identity: "bot", target, redirected };
    case "redirect":
      if (redirected || redirect === null) return null;
      return {
        party,
        opens: false,
        again: false,
        gateway,
        identity,
        target: { kind: "uri", uri: redirect },
        redirected: true,
      };
    case "nothing":
      return null;
  }
}

/** Whether somebody waits for his turn and there is time left for him. */
export function anotherWaits({ request, called, firstInviteAtMs }: OpenTransfer, atMs: number): boolean {
  if (called >= partiesOf(request).length) return false;
  return firstInviteAtMs === null || atMs - firstInviteAtMs < request.answerTimeoutMs;
}

/**
 * The answer timer for an INVITE that is going out, or null when it runs already: for the first INVITE of all, and in a
 * row for the first of each party, which gets an equal share of what is left.
 */
export function answerTimeMs(
  { request, called, firstInviteAtMs }: OpenTransfer,
  attempt: Attempt,
  atMs: number,
): number | null {
  const total = request.answerTimeoutMs;
  const waiting = partiesOf(request).length - called;
  if (firstInviteAtMs === null) return Math.round(total / (waiting + 1));
  if (request.strategy === "ring" || !attempt.opens) return null;
  return Math.round(Math.max(0, total - (atMs - firstInviteAtMs)) / (waiting + 1));
}
