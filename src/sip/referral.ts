import type { CalledParty, CustomHeader } from "../call/transfer.ts";
import type { HeaderLine } from "./message.ts";
import type { IncomingRequest, SipDialog } from "./link/types.ts";
import { formatReplaces, replacesIn, type ReplacedDialog } from "./replaces.ts";
import { formatSipUri, hostText, parseNameAddr, parseSipUri, splitOutsideQuotes, userOf } from "./uri.ts";

/** How long the operator may keep his subscription; the call he asked for is over long before (RFC 3515 §2.4.4). */
const subscriptionSeconds = 660;

type Named = Pick<CalledParty, "target" | "number">;

export interface ReferralRules {
  /** Hosts behind which a user is a number of the trunk: its gateways and ourselves. */
  readonly ownHosts: readonly string[];
  /** Why the bot may not call there; null when it may. */
  readonly numberRefusal: (digits: string) => string | null;
  readonly hostRefusal: (host: string, port: number | null) => string | null;
  /** Who talks with him in this dialog of ours; null when the two calls may not become one, undefined when it is not ours. */
  readonly consulted: (dialog: ReplacedDialog) => Named | null | undefined;
}

export interface ReferralRefusal {
  readonly status: number;
  readonly reason?: string;
  readonly headers?: readonly HeaderLine[];
}

/** Whom an operator's REFER names, built anew, or what it is refused with. */
export function readReferral(
  request: IncomingRequest,
  rules: ReferralRules,
): { readonly party: CalledParty } | ReferralRefusal {
  // RFC 3261 §8.2.2.3; RFC 4488 is the one extension of a REFER that is supported.
  const required = listOf(request, "require").filter((tag) => tag.toLowerCase() !== "norefersub");
  if (required.length > 0) {
    const known = required.filter((tag) => /^[A-Za-z0-9!%'*+.^_`~-]{1,64}$/.test(tag));
    return { status: 420, headers: [{ name: "Unsupported", value: known.join(", ") }] };
  }
  // RFC 3515 §2.4.1: exactly one Refer-To.
  const values = request.headerLines("refer-to").flatMap((line) => splitOutsideQuotes(line, ","));
  const address = values.length === 1 ? parseNameAddr(values[0] ?? "") : undefined;
  if (address === undefined) return { status: 400, reason: "Bad Refer-To" };
  const [, uri = "", headerText = ""] = /^([^?]*)\??(.*)$/s.exec(address.uri) ?? [];
  const replaces = headerText === "" ? undefined : replacesIn(headerText);
  if (replaces === null) return { status: 400, reason: "Bad Replaces" };
  // Where the dialog is ours it does not matter by which of our addresses he knows us.
  const consulted = replaces && rules.consulted(replaces.dialog);
  const found = consulted === undefined ? targetOf(uri, rules) : consulted;
  if (found === undefined || found === null) return { status: 603 };
  const referredBy = referredByOf(request);
  return {
    party: {
      ...found,
      headers: [
        ...(referredBy === undefined ? [] : [{ name: "Referred-By", value: referredBy }]),
        ...(replaces === undefined ? [] : [{ name: "Replaces", value: formatReplaces(replaces.dialog) }]),
        // Only where he asks for it: exchanges that take the Replaces without knowing the option would answer 420.
        ...(replaces?.required === true ? [{ name: "Require", value: "replaces" }] : []),
      ],
    },
  };
}

function targetOf(text: string, { ownHosts, numberRefusal, hostRefusal }: ReferralRules): Named | undefined {
  const digits = userOf(text).replaceAll(/[().-]/g, "");
  const isNumber = /^\+?[0-9*#]{1,32}$/.test(digits) && numberRefusal(digits) === null;
  const phone = { target: { kind: "phone", digits }, number: digits } as const;
  if (/^tel:/i.test(text)) return isNumber ? phone : undefined;
  const uri = parseSipUri(text);
  if (uri === undefined || uri.user === null || uri.scheme !== "sip") return undefined;
  const method = uri.params.get("method");
  // RFC 3515 §2.1: a Refer-To may ask for any method; we call, and do nothing else.
  if (method !== undefined && method?.toUpperCase() !== "INVITE") return undefined;
  // His phone knows nobody but his exchange and us, so that both mean "the number behind the trunk".
  if (isNumber && ownHosts.some((host) => hostText(host).toLowerCase() === uri.host)) return phone;
  if (hostRefusal(uri.host, uri.port) !== null) return undefined;
  const transport = uri.params.get("transport")?.toLowerCase();
  const params = transport === "tcp" || transport === "udp" ? new Map([["transport", transport]]) : new Map();
  const wanted = formatSipUri({ ...uri, params });
  return { target: { kind: "uri", uri: wanted }, number: wanted.replace(/^sip:/, "") };
}

/** RFC 3892 §2.1: the call that is made says on whose behalf. */
function referredByOf(request: IncomingRequest): string | undefined {
  const uri = parseSipUri(parseNameAddr(request.header("referred-by") ?? "")?.uri ?? "");
  return uri === undefined ? undefined : `<${formatSipUri({ ...uri, params: new Map() })}>`;
}

function listOf(request: IncomingRequest, name: string): readonly string[] {
  return request
    .headerLines(name)
    .flatMap((line) => line.split(","))
    .map((tag) => tag.trim())
    .filter((tag) => tag !== "");
}

/** An operator's REFER, from its answer to the last NOTIFY of its implicit subscription (RFC 3515 §2.4). */
export class Referral {
  readonly #request: IncomingRequest;
  readonly #dialog: SipDialog;
  readonly #timeoutMs: number;
  readonly #event: string;
  /** RFC 4488 §4: he does not want to hear of it. */
  readonly #silent: boolean;
  #phase: "asked" | "accepted" | "over" = "asked";

  constructor(order: {
    readonly request: IncomingRequest;
    readonly dialog: SipDialog;
    /** How long the answer to a NOTIFY may take. */
    readonly timeoutMs: number;
    /** The first REFER of its dialog. */
    readonly first: boolean;
  }) {
    const { request, dialog, timeoutMs, first } = order;
    this.#request = request;
    this.#dialog = dialog;
    this.#timeoutMs = timeoutMs;
    // RFC 3515 §2.4.6: from the second one on the NOTIFYs say which REFER they belong to.
    this.#event = first ? "refer" : `refer;id=${/^(\d+)/.exec(request.header("cseq") ?? "")?.[1] ?? "0"}`;
    this.#silent = /^\s*false\b/i.test(request.header("refer-sub") ?? "");
  }

  /** Whether there is still something to be told of it. */
  get open(): boolean {
    return this.#phase !== "over";
  }

  answer(status: 202 | 603): void {
    if (this.#phase !== "asked") return;
    if (status === 603) {
      this.#phase = "over";
      this.#request.respond(603);
      return;
    }
    this.#phase = "accepted";
    const headers: HeaderLine[] = [{ name: "Contact", value: this.#dialog.localContact }];
    if (this.#silent) headers.push({ name: "Refer-Sub", value: "false" });
    this.#request.respond(202, undefined, { headers });
    // RFC 3515 §2.4.4: the first NOTIFY goes out at once.
    this.notify(100, "Trying", false);
  }

  notify(status: number, reason: string | null, last: boolean): void {
    if (this.#phase !== "accepted") return;
    if (last) this.#phase = "over";
    if (this.#silent) return;
    const state = last ? "terminated;reason=noresource" : `active;expires=${subscriptionSeconds}`;
    const text = (reason ?? reasonOf(status)).replaceAll(/[^\x20-\x7e]/g, " ").slice(0, 100);
    const headers: readonly CustomHeader[] = [
      { name: "Event", value: this.#event },
      { name: "Subscription-State", value: state },
      { name: "Contact", value: this.#dialog.localContact },
      { name: "Content-Type", value: "message/sipfrag;version=2.0" },
    ];
    // Whatever he answers, the call goes on.
    void this.#dialog.send("NOTIFY", {
      headers,
      body: `SIP/2.0 ${status} ${text}\r\n`,
      timeoutMs: this.#timeoutMs,
    });
  }

  /** The call of this dialog is over: a REFER that was not answered must be, and a subscription must not outlive it. */
  close(): void {
    if (this.#phase === "asked") this.#request.respond(481);
    // RFC 5057 §4.1: his BYE has ended the call in the dialog and not the subscription; what comes of it we do not tell.
    this.notify(100, "Trying", true);
    this.#phase = "over";
  }
}

const reasons: Readonly<Record<number, string>> = {
  180: "Ringing",
  181: "Call Is Being Forwarded",
  182: "Queued",
  183: "Session Progress",
  408: "Request Timeout",
  503: "Service Unavailable",
};

function reasonOf(status: number): string {
  return reasons[status] ?? (status < 200 ? "Session Progress" : "Call Failed");
}
