import type { CustomHeader, ShownIdentity } from "./transfer.ts";

/** What a trunk says about caller ids (bot-contract §7). */
export interface CallerIdPolicy {
  readonly callerId: "auto" | "caller" | "bot" | { readonly fixed: string };
  /** The trunk has a password or registers: its provider rejects numbers that are not its own. */
  readonly hasCredentials: boolean;
  readonly supportsForeignCallerId: boolean;
}

/**
 * Whom the operator's phone shows. `withheld`: the caller asked for privacy (RFC 3323) or gave no number, so that his
 * own number is never shown, whatever the trunk says.
 */
export function chooseIdentity(policy: CallerIdPolicy, withheld: boolean): ShownIdentity {
  if (typeof policy.callerId === "object") {
    return "fixed";
  }
  const ownNumberOnly = policy.hasCredentials || !policy.supportsForeignCallerId;
  if (policy.callerId === "bot" || (policy.callerId === "auto" && ownNumberOnly)) {
    return "bot";
  }
  return withheld ? "anonymous" : "caller";
}

export interface IdentityInput {
  readonly identity: ShownIdentity;
  readonly caller: {
    readonly number: string;
    readonly display: string | null;
    /** He asked for privacy: neither number nor name leave us, also when the identity says `caller`. */
    readonly withheld: boolean;
  };
  readonly botNumber: string;
  /** The trunk's fixed number; used with the identity `fixed` only. */
  readonly fixedNumber: string | null;
  readonly assertedIdentity: boolean;
  readonly diversion: boolean;
  /** Host of the addresses in P-Asserted-Identity and Diversion. */
  readonly host: string;
  readonly custom: readonly CustomHeader[];
  readonly identityHeaders: "allow" | "drop";
}

export interface ShownParty {
  readonly display: string | null;
  readonly user: string;
  /** Null: the host the trunk's settings give. */
  readonly host: string | null;
}

export interface IdentityHeaders {
  readonly from: ShownParty;
  /** Ours, and after them the bot's, each name once. */
  readonly headers: readonly CustomHeader[];
}

const identityNames = new Set([
  "p-asserted-identity",
  "p-preferred-identity",
  "remote-party-id",
  "diversion",
  "history-info",
  "privacy",
]);

/** From, P-Asserted-Identity, Diversion and Privacy of an INVITE to an operator, and the bot's own headers with them. */
export function identityHeaders(input: IdentityInput): IdentityHeaders {
  const custom = input.custom.filter(
    ({ name }) => input.identityHeaders === "allow" || !identityNames.has(name.toLowerCase()),
  );
  // Bots in the field rely on their own identity headers, so these replace ours of the same name.
  const given = new Set(custom.map(({ name }) => name.toLowerCase()));
  const own = ownHeaders(input).filter(({ name }) => !given.has(name.toLowerCase()));
  return { from: shownParty(input), headers: [...own, ...custom] };
}

function shownParty({ identity, caller, botNumber, fixedNumber }: IdentityInput): ShownParty {
  switch (effective(identity, caller)) {
    case "caller":
      return { display: caller.display, user: caller.number, host: null };
    case "bot":
      return { display: null, user: botNumber, host: null };
    case "fixed":
      return { display: null, user: fixedNumber ?? botNumber, host: null };
    case "anonymous":
      // RFC 3323 §4.1.1.3: the From of an anonymous call.
      return { display: "Anonymous", user: "anonymous", host: "anonymous.invalid" };
  }
}

function ownHeaders(input: IdentityInput): CustomHeader[] {
  const { identity, caller, botNumber, assertedIdentity, diversion, host } = input;
  const shown = effective(identity, caller);
  const headers: CustomHeader[] = [];
  if (assertedIdentity) {
    // RFC 3325 §7 would let a trusted peer see a withheld number; the bot's is asserted instead, so it never leaves us.
    const user = shown === "anonymous" ? botNumber : shownParty(input).user;
    headers.push({ name: "P-Asserted-Identity", value: `<${addressOf(user, host)}>` });
  }
  if (diversion) {
    headers.push({ name: "Diversion", value: `<${addressOf(botNumber, host)}>;reason=unconditional` });
  }
  if (shown === "anonymous") {
    headers.push({ name: "Privacy", value: "id" });
  }
  return headers;
}

/** The caller's wish for privacy may be stronger than what was chosen when the transfer began. */
function effective(identity: ShownIdentity, caller: IdentityInput["caller"]): ShownIdentity {
  return identity === "caller" && (caller.withheld || caller.number === "") ? "anonymous" : identity;
}

function addressOf(user: string, host: string): string {
  return user === "" ? `sip:${host}` : `sip:${escapeUser(user)}@${host}`;
}

/** RFC 3261 §25.1 `user`: everything but unreserved and user-unreserved characters is percent-encoded as UTF-8. */
export function escapeUser(user: string): string {
  return user.replaceAll(/[^A-Za-z0-9\-_.!~*'()&=+$,;?/]/gu, (character) => encodeURIComponent(character));
}
