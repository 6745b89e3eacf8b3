import { param, parseDecimal, parseParams, trimBlanks } from "../sip/grammar.ts";
import type { Headers } from "../sip/message.ts";

// RFC 4028 without a clock and without a wire: what the two sides agree on, and what is due then.

/** Who refreshes, in the words of the request that carries it: its client or its server (RFC 4028 §4). */
export type Refresher = "uac" | "uas";

export interface SessionExpires {
  readonly seconds: number;
  readonly refresher: Refresher | undefined;
}

export interface SessionRules {
  /** The smallest interval that is accepted (RFC 4028 §4, §5: never below 90 on the open network). */
  readonly minimumSeconds: number;
  /** Who refreshes when the peer offers an interval and leaves that open; `none`: there is no session timer then. */
  readonly defaultRefresher: "none" | Refresher;
  /** How long one second of a session interval lasts: 1000, but in tests, which cannot wait for 90 real ones. */
  readonly secondMs: number;
}

export const defaultSessionRules: SessionRules = { minimumSeconds: 90, defaultRefresher: "none", secondMs: 1000 };

/** What both sides of a dialog have agreed on. */
export interface SessionTerms {
  readonly seconds: number;
  /** RFC 4028 §7.4: the largest Min-SE seen in this dialog, which every refresh repeats. */
  readonly minimumSeconds: number;
  readonly weRefresh: boolean;
  /** The session expires on the peer's side as well; false for one who knows no session timers. */
  readonly peerExpires: boolean;
}

// Node cannot wait for more than 2^31 milliseconds; 24 days are for ever in a telephone call.
const longestSeconds = 2_147_483;
const largestDelta = 2 ** 32 - 1;

/** RFC 4028 §4. Undefined for a value that is no interval: such a header counts as absent. */
export function readSessionExpires(headers: Headers): SessionExpires | undefined {
  const delta = readDelta(headers.get("Session-Expires"));
  const refresher = delta === undefined ? undefined : param(delta.params, "refresher")?.toLowerCase();
  return delta === undefined
    ? undefined
    : { seconds: delta.seconds, refresher: refresher === "uac" || refresher === "uas" ? refresher : undefined };
}

/** RFC 4028 §5; 0 where there is none. */
export function readMinSe(headers: Headers): number {
  return readDelta(headers.get("Min-SE"))?.seconds ?? 0;
}

function readDelta(
  value: string | undefined,
): { readonly seconds: number; readonly params: NonNullable<ReturnType<typeof parseParams>> } | undefined {
  if (value === undefined) {
    return undefined;
  }
  const semicolon = value.indexOf(";");
  const seconds = parseDecimal(trimBlanks(semicolon === -1 ? value : value.slice(0, semicolon)), largestDelta);
  const params = semicolon === -1 ? [] : parseParams(value, semicolon);
  return seconds === undefined || params === undefined
    ? undefined
    : { seconds: Math.min(seconds, longestSeconds), params };
}

/** RFC 4028 §9: an offered interval below our minimum is refused with 422, which names it in Min-SE. */
export function sessionTooSmall(request: Headers, { minimumSeconds }: SessionRules): boolean {
  const offer = readSessionExpires(request);
  return offer !== undefined && offer.seconds < minimumSeconds;
}

/**
 * What our 2xx to an INVITE or UPDATE says, from the request, from what the application wrote into the response, and from
 * what held before. Undefined: there is no session timer from now on.
 */
export function answerSession(
  request: Headers,
  response: Headers,
  current: SessionTerms | undefined,
  rules: SessionRules,
): SessionTerms | undefined {
  const offer = readSessionExpires(request);
  const own = readSessionExpires(response);
  const open = current === undefined ? rules.defaultRefresher : current.weRefresh ? "uas" : "uac";
  let seconds = 0;
  let refresher: Refresher;
  if (own !== undefined) {
    // RFC 4028 §9: a refresher that the request names must not be changed. drachtio takes `uac` where there is none.
    seconds = own.seconds;
    refresher = offer?.refresher ?? own.refresher ?? "uac";
  } else if (offer !== undefined) {
    const named = offer.refresher ?? open;
    if (named === "none") {
      return undefined;
    }
    seconds = offer.seconds;
    refresher = named;
  } else if (current !== undefined) {
    // A request without the header leaves it to us (RFC 4028 §9). drachtio-server lets the timer go then; kept, it still
    // finds a peer who vanishes, and he need not know of it.
    seconds = current.seconds;
    refresher = "uas";
  } else {
    return undefined;
  }
  // RFC 4028 §9, table 2: a peer who does not know session timers cannot refresh.
  if (refresher === "uac" && offer?.refresher === undefined && !supportsTimer(request)) {
    refresher = "uas";
  }
  // RFC 4028 §9: the interval may be shortened, but not below Min-SE, and never be lengthened.
  const minimumSeconds = Math.max(rules.minimumSeconds, readMinSe(request), current?.minimumSeconds ?? 0);
  const wanted = Math.min(seconds, offer?.seconds ?? seconds);
  return {
    seconds:
      offer === undefined
        ? Math.max(wanted, minimumSeconds)
        : Math.max(wanted, Math.min(minimumSeconds, offer.seconds)),
    minimumSeconds,
    weRefresh: refresher === "uas",
    peerExpires: offer !== undefined || supportsTimer(request),
  };
}

/** Writes those terms, or that there are none, into our 2xx. */
export function writeAnswer(request: Headers, response: Headers, terms: SessionTerms | undefined): void {
  if (terms === undefined) {
    response.remove("Session-Expires");
    return;
  }
  response.set("Session-Expires", `${terms.seconds};refresher=${terms.weRefresh ? "uas" : "uac"}`);
  addOption(response, "Supported");
  // RFC 4028 §9: the client must learn that it has to refresh, and should learn that it will be asked.
  if (supportsTimer(request) || !terms.weRefresh) {
    addOption(response, "Require");
  }
}

/** What a 2xx to our INVITE or UPDATE agrees on. Undefined: there is no session timer from now on. */
export function confirmSession(
  request: Headers,
  response: Headers,
  current: SessionTerms | undefined,
  rules: SessionRules,
): SessionTerms | undefined {
  const agreed = readSessionExpires(response);
  if (agreed === undefined) {
    // RFC 4028 §7.2: the session does not expire any more. Where we refresh, we go on: a peer who does not know session
    // timers never says anything of them, and the refresh is how we learn that he is gone.
    return current?.weRefresh === true ? current : undefined;
  }
  return {
    // An interval of a second would be a flood of re-INVITEs that the peer has us send.
    seconds: Math.max(agreed.seconds, rules.minimumSeconds),
    minimumSeconds: Math.max(rules.minimumSeconds, readMinSe(request), current?.minimumSeconds ?? 0),
    // RFC 4028 §7.2: the 2xx always names one; drachtio takes us where it does not.
    weRefresh: agreed.refresher !== "uas",
    peerExpires: true,
  };
}

/**
 * RFC 4028 §7.1, §7.4: what a request of ours says of the session timer: `Supported` where there is an interval in it or one
 * in force, and inside a dialog the terms in force, unless the application wrote its own.
 */
export function writeRequest(headers: Headers, current: SessionTerms | undefined): void {
  if (current !== undefined && !headers.has("Session-Expires")) {
    headers.set("Session-Expires", `${current.seconds};refresher=${current.weRefresh ? "uac" : "uas"}`);
    headers.set("Min-SE", String(current.minimumSeconds));
  }
  if (headers.has("Session-Expires")) {
    addOption(headers, "Supported");
  }
}

function supportsTimer(headers: Headers): boolean {
  return hasOption(headers, "Supported") || hasOption(headers, "Require");
}

function hasOption(headers: Headers, name: "Supported" | "Require"): boolean {
  return headers.list(name).some((one) => one.toLowerCase() === "timer");
}

function addOption(headers: Headers, name: "Supported" | "Require"): void {
  if (!hasOption(headers, name)) {
    headers.add(name, "timer");
  }
}

/** One dialog's session timer. In every phase but `off` exactly one timer runs, the one named by the last `arm`. */
export type SessionState =
  | { readonly phase: "off" }
  /** The next refresh, ours or the peer's, is awaited. */
  | { readonly phase: "waiting"; readonly terms: SessionTerms; readonly endsAtMs: number }
  /** Our refresh is under way. */
  | {
      readonly phase: "refreshing";
      readonly terms: SessionTerms;
      readonly endsAtMs: number;
      /** How many 422 in a row have raised the interval. */
      readonly raises: number;
    };

export const sessionOff: SessionState = { phase: "off" };

export type SessionEvent =
  /** A 2xx to an INVITE or UPDATE of either side agreed on these terms, or on none. */
  | { readonly type: "agreed"; readonly terms: SessionTerms | undefined }
  /** The timer ran out. */
  | { readonly type: "due" }
  /** Our refresh could not be sent now, because another INVITE is open in the dialog (RFC 3261 §14.1). */
  | { readonly type: "postponed"; readonly retryMs: number }
  /** Our refresh got a final response other than a 2xx, or none at all (408, 503). */
  | {
      readonly type: "refused";
      readonly status: number;
      readonly minimumSeconds: number;
      readonly retryMs: number;
      readonly retryAfter: boolean;
    }
  /** The dialog is over. */
  | { readonly type: "gone" };

export type SessionEffect =
  /** Starts the one timer anew. */
  | { readonly type: "arm"; readonly ms: number }
  | { readonly type: "disarm" }
  | { readonly type: "refresh"; readonly terms: SessionTerms }
  /** Ends the dialog by BYE. */
  | { readonly type: "end" };

export type SessionStep = readonly [SessionState, readonly SessionEffect[]];

/** A peer that keeps answering 422 is not served for ever. */
const mostRaises = 2;

/** The session timer's whole behaviour. `nowMs` is monotonic; intervals in seconds last `secondMs` each. */
export function stepSession(state: SessionState, event: SessionEvent, nowMs: number, secondMs: number): SessionStep {
  switch (event.type) {
    case "agreed":
      return agreed(state, event.terms, nowMs, secondMs);
    case "due":
      return due(state, nowMs);
    case "postponed":
      return state.phase === "refreshing" ? wait(state.terms, state.endsAtMs, event.retryMs, nowMs) : [state, []];
    case "refused":
      return refused(state, event, nowMs, secondMs);
    case "gone":
      return [sessionOff, [{ type: "disarm" }]];
  }
}

function agreed(state: SessionState, terms: SessionTerms | undefined, nowMs: number, secondMs: number): SessionStep {
  if (terms === undefined) {
    return state.phase === "off" ? [state, []] : [sessionOff, [{ type: "disarm" }]];
  }
  const { seconds } = terms;
  // RFC 4028 §10: the BYE comes before the session expires, by 32 s or a third of the interval, whichever is less. The
  // refresher keeps to the same moment, because that is when the peer gives up.
  const lastsMs = (seconds - Math.min(32, seconds / 3)) * secondMs;
  // RFC 4028 §7.4: refreshed once half of the interval has passed.
  const firstMs = terms.weRefresh ? (seconds / 2) * secondMs : lastsMs;
  return [{ phase: "waiting", terms, endsAtMs: nowMs + lastsMs }, [{ type: "arm", ms: firstMs }]];
}

function due(state: SessionState, nowMs: number): SessionStep {
  if (state.phase === "off") {
    return [state, []];
  }
  const { terms, endsAtMs } = state;
  // A timer of Node may fire a part of a millisecond early.
  if (state.phase === "refreshing" || !terms.weRefresh || nowMs + 1 >= endsAtMs) {
    return [sessionOff, [{ type: "end" }]];
  }
  return refresh(terms, endsAtMs, 0, nowMs);
}

function refused(
  state: SessionState,
  { status, minimumSeconds, retryMs, retryAfter }: SessionEvent & { type: "refused" },
  nowMs: number,
  secondMs: number,
): SessionStep {
  // RFC 3261 §12.2.1.2, RFC 4028 §10: the peer does not know the dialog, or is not there.
  if (state.phase !== "off" && (status === 408 || status === 481)) {
    return [sessionOff, [{ type: "disarm" }, { type: "end" }]];
  }
  if (state.phase !== "refreshing") {
    // The peer has refreshed the session while our own refresh was under way.
    return [state, []];
  }
  const { terms, endsAtMs, raises } = state;
  // RFC 4028 §7.3: once more with the larger interval. The time until it ends is still that of the old one.
  if (status === 422 && minimumSeconds > terms.minimumSeconds && raises < mostRaises) {
    const raised = { ...terms, seconds: Math.max(terms.seconds, minimumSeconds), minimumSeconds };
    return refresh(raised, endsAtMs, raises + 1, nowMs);
  }
  // RFC 3261 §14.1, §14.2: the peer's own INVITE is in the way.
  if (status === 491 || (status === 500 && retryAfter)) {
    return wait(terms, endsAtMs, retryMs, nowMs);
  }
  // A peer who knows no session timers and likes no re-INVITE is still there, which is all that was to be found out. A 503
  // is what the engine makes of a host that cannot be reached.
  if (!terms.peerExpires && status !== 503) {
    return agreed(state, terms, nowMs, secondMs);
  }
  // RFC 3261 §22.2: only the application has credentials. Until the session expires it may refresh by itself, or the peer.
  if (status === 401 || status === 407) {
    return wait(terms, endsAtMs, endsAtMs - nowMs, nowMs);
  }
  return [sessionOff, [{ type: "disarm" }, { type: "end" }]];
}

function wait(terms: SessionTerms, endsAtMs: number, retryMs: number, nowMs: number): SessionStep {
  return [
    { phase: "waiting", terms, endsAtMs },
    [{ type: "arm", ms: Math.max(0, Math.min(retryMs, endsAtMs - nowMs)) }],
  ];
}

function refresh(terms: SessionTerms, endsAtMs: number, raises: number, nowMs: number): SessionStep {
  return [
    { phase: "refreshing", terms, endsAtMs, raises },
    // Armed while it is under way too: a peer that answers 100 and no more must not hold the session for ever.
    [
      { type: "arm", ms: Math.max(0, endsAtMs - nowMs) },
      { type: "refresh", terms },
    ],
  ];
}
