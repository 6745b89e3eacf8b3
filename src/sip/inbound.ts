import type { CallId, LegId, Sdp } from "../call/ids.ts";
import type { CallSetup } from "../call/setup.ts";
import type { Log } from "../telemetry/log.ts";
import type { DigestGate, GateUser } from "./digest-gate.ts";
import { callerOf } from "./caller-of.ts";
import type { SipAdmission, SipChannel, SipTrunk, TrunkDirectory } from "./directory.ts";
import { allowedMethods, answerOptions } from "./in-dialog.ts";
import type { CallFacts } from "./leg.ts";
import type { HeaderLine } from "./message.ts";
import type { IncomingInvite, IncomingRequest } from "./link/types.ts";
import { parseReplaces, type ReplacedDialog } from "./replaces.ts";
import { parseNameAddr, userOf } from "./uri.ts";

export interface DoorOptions {
  readonly directory: TrunkDirectory;
  readonly gate: DigestGate;
  /** Password that callers of a trunk must know; undefined when the trunk asks for none. */
  readonly inboundPassword: (trunk: SipTrunk) => string | undefined;
  /** The trunk that is registered with whoever has this address; `user` tells several accounts there apart. */
  readonly registeredAt: (address: string, user: string) => SipTrunk | undefined;
  /** True while the trunk carries as many calls as it may. */
  readonly isFull: (trunk: SipTrunk) => boolean;
  /** Counts a call of the trunk; false when it is one too many for this second. */
  readonly withinPace: (trunk: SipTrunk) => boolean;
  /** False when new calls of this bot are refused for now: the service stops, or nobody could talk to the caller. */
  readonly takesCalls: (botId: string) => boolean;
  /** True when the service stops: nobody gets a new call through. */
  readonly draining: () => boolean;
  readonly mintCallId: () => CallId;
  /** An INVITE was not let in and got this status. */
  readonly onRefused: (status: number) => void;
  readonly log: Log;
}

/** An INVITE that was let in. */
export interface Admitted {
  readonly setup: CallSetup;
  readonly facts: CallFacts;
}

/** An INVITE that would take the place of a dialog, of a trunk that may ask so. */
export interface Claim {
  readonly trunk: SipTrunk;
  readonly claims: ReplacedDialog;
  readonly offer: Sdp;
}

interface Refusal {
  readonly status: number;
  readonly reason?: string;
  readonly headers?: readonly HeaderLine[];
}

/**
 * Judges requests outside of dialogs. Whoever is not let in gets the same answer whatever he asked for, so that nothing
 * can be found out by asking. Unknown sources are dropped by our own engine before they come here. A drachtio-server lets
 * them through: their requests get no answer but the INVITE, to which the server has said 100 already; without a final
 * answer it would keep that transaction.
 */
export class Door {
  readonly #options: DoorOptions;

  constructor(options: DoorOptions) {
    this.#options = options;
  }

  /** Lets an INVITE in, or answers it and returns undefined. */
  admit(invite: IncomingInvite): Admitted | Claim | undefined {
    const result = this.#judge(invite);
    if ("status" in result) {
      const { status, reason, headers } = result;
      this.#options.log.debug({ status, source: invite.sourceAddress }, "an INVITE was not let in");
      this.#options.onRefused(status);
      invite.respond(status, reason, headers === undefined ? {} : { headers });
      return undefined;
    }
    return result;
  }

  /** Answers any other request that belongs to no dialog of ours. */
  answer(request: IncomingRequest, place: "outside" | "early" | "inDialog"): void {
    const { directory } = this.#options;
    const { sourceAddress } = request;
    if (place === "early") {
      // A 481 would end the peer's call that rings here (RFC 5057 §5.1), so he is asked to try again later.
      request.respond(500, undefined, { headers: [{ name: "Retry-After", value: "2" }] });
      return;
    }
    if (place === "inDialog") {
      // RFC 3261 §12.2.2: a dialog that does not exist here.
      request.respond(481);
      return;
    }
    const admission = this.#admission(sourceAddress, "").type;
    if (admission !== "trunk" && !directory.isGateway(sourceAddress)) {
      if (admission === "challenge") request.respond(403);
      else request.ignore();
    } else if (request.method === "OPTIONS" && this.#options.draining()) {
      // RFC 3261 §11.2: the answer an INVITE would get, so that who asks sends his calls elsewhere.
      request.respond(503, undefined, { headers: [{ name: "Retry-After", value: "10" }] });
    } else if (request.method === "OPTIONS") {
      answerOptions(request);
    } else {
      request.respond(405, undefined, { headers: [{ name: "Allow", value: allowedMethods }] });
    }
  }

  #judge(invite: IncomingInvite): Admitted | Claim | Refusal {
    const { directory, takesCalls, isFull, withinPace } = this.#options;
    const asked = userOf(invite.uri);
    const trunk = this.#identify(invite, this.#admission(invite.sourceAddress, asked));
    if ("status" in trunk) {
      return trunk;
    }
    const refusal = checkRequest(invite);
    if (refusal !== undefined) {
      return refusal;
    }
    const claims = claimOf(invite);
    if (claims !== undefined) {
      if ("status" in claims) return claims;
      const offer = checkBody(invite);
      if (typeof offer !== "string") return offer;
      if (!withinPace(trunk)) return { status: 503, headers: [{ name: "Retry-After", value: "1" }] };
      return { trunk, claims, offer: offer as Sdp };
    }
    let called = asked;
    let channel = directory.channelFor(trunk.id, called);
    if (channel === undefined && trunk.registration?.user === asked) {
      // A registrar calls our Contact (RFC 3261 §16.5); the number that was dialled stands in To.
      called = userOf(parseNameAddr(invite.header("to") ?? "")?.uri ?? "");
      channel = directory.channelFor(trunk.id, called);
    }
    if (channel === undefined) {
      return { status: 404 };
    }
    const content = checkBody(invite);
    if (typeof content !== "string") {
      return content;
    }
    if (!takesCalls(channel.botId) || isFull(trunk)) {
      return { status: 503, headers: [{ name: "Retry-After", value: "10" }] };
    }
    if (!withinPace(trunk)) {
      return { status: 503, headers: [{ name: "Retry-After", value: "1" }] };
    }
    return this.#setUp(invite, trunk, channel, { called, offer: content as Sdp });
  }

  /** Whom the source address stands for: a source that is configured goes before one that we have registered with. */
  #admission(address: string, user: string): SipAdmission {
    const { directory, registeredAt } = this.#options;
    const admission = directory.admit(address);
    const trunk = admission.type === "trunk" ? undefined : registeredAt(address, user);
    return trunk === undefined ? admission : { type: "trunk", trunk };
  }

  /** The trunk whose call this is, after asking for credentials where it wants them. */
  #identify(invite: IncomingInvite, admission: SipAdmission): SipTrunk | Refusal {
    switch (admission.type) {
      case "unknown":
        return { status: 403 };
      case "trunk": {
        const { trunk } = admission;
        return trunk.inbound === null ? trunk : this.#authenticate(invite, trunk.inbound.realm, [trunk]);
      }
      case "challenge":
        return this.#authenticate(invite, admission.realm, admission.trunks);
    }
  }

  #authenticate(invite: IncomingInvite, realm: string, trunks: readonly SipTrunk[]): SipTrunk | Refusal {
    const { gate, inboundPassword } = this.#options;
    const users = trunks.flatMap((trunk): GateUser[] => {
      const password = inboundPassword(trunk);
      return password === undefined || trunk.inbound === null ? [] : [{ ...trunk.inbound, password }];
    });
    const source = invite.sourceAddress;
    const verdict = gate.check({ headerLines: invite.headerLines("authorization"), method: "INVITE", source, users });
    if (verdict.type === "accepted") {
      return trunks.find(({ inbound }) => inbound?.username === verdict.username) ?? { status: 403 };
    }
    if (verdict.type === "banned") {
      this.#options.log.warn({ source }, "a source is banned for wrong passwords");
      return { status: 403 };
    }
    // RFC 8760 §2.3: one header line per algorithm, the strongest first.
    const headers = gate
      .challenges(realm, source, verdict.stale, users)
      .map((value) => ({ name: "WWW-Authenticate", value }));
    return { status: 401, headers };
  }

  #setUp(
    invite: IncomingInvite,
    trunk: SipTrunk,
    channel: SipChannel,
    { called, offer }: { readonly called: string; readonly offer: Sdp },
  ): Admitted {
    const call = this.#options.mintCallId();
    const caller = callerOf(invite, trunk.trustIdentity);
    return {
      facts: { call, botId: channel.botId, trunk: trunk.id, calledNumber: called, caller },
      setup: {
        call,
        caller: `${call}/caller` as LegId,
        offer,
        botId: channel.botId,
        trunk: trunk.id,
        callerNumber: caller.withheld ? "" : caller.number,
        calledNumber: called,
        sipCallId: invite.header("call-id") ?? "",
        headers: passedHeaders(invite, channel.passHeaders),
        policy: {
          answer: channel.answer,
          recording: channel.recording,
          returnKeys: channel.returnKeys,
          operatorRefer: channel.operatorRefer,
          mostPasses: channel.maxOperatorRefers,
        },
      },
    };
  }
}

/** RFC 3261 §8.2.2: the request line, then Require. */
function checkRequest(invite: IncomingInvite): Refusal | undefined {
  if (!/^(?:sips?|tel):/i.test(invite.uri)) {
    return { status: 416 };
  }
  if (invite.header("contact") === undefined) {
    return { status: 400, reason: "Missing Contact" };
  }
  const required = invite
    .headerLines("require")
    .flatMap((line) => line.split(","))
    .map((tag) => tag.trim())
    // RFC 4028 is the engine's business; RFC 3261 §8.2.2.3: no other extension is supported that a peer could demand.
    .filter((tag) => /^[A-Za-z0-9!%'*+.^_`~-]{1,64}$/.test(tag) && !["timer", "replaces"].includes(tag.toLowerCase()));
  return required.length === 0
    ? undefined
    : { status: 420, headers: [{ name: "Unsupported", value: required.join(", ") }] };
}

/** RFC 3891 §3: one Replaces, and no Join beside it. Undefined where nothing is to be replaced. */
function claimOf(invite: IncomingInvite): ReplacedDialog | Refusal | undefined {
  const [text, another] = invite.headerLines("replaces");
  if (text === undefined) return undefined;
  const alone = another === undefined && invite.header("join") === undefined;
  return (alone ? parseReplaces(text) : undefined) ?? { status: 400, reason: "Bad Replaces" };
}

/** RFC 3261 §8.2.3: the offer, or why there is none that can be used. */
function checkBody(invite: IncomingInvite): string | Refusal {
  if (invite.body === "") {
    const text = "an INVITE without an offer is not supported";
    return { status: 488, headers: [{ name: "Warning", value: `399 patchbay "${text}"` }] };
  }
  const type = (invite.header("content-type") ?? "").split(";")[0]?.trim().toLowerCase();
  if (type === "application/sdp") {
    return takesSdp(invite) ? invite.body : { status: 406 };
  }
  const part = type === "multipart/mixed" ? sdpPart(invite) : undefined;
  if (part !== undefined && !takesSdp(invite)) {
    return { status: 406 };
  }
  return part ?? { status: 415, headers: [{ name: "Accept", value: "application/sdp" }] };
}

/** RFC 3261 §20.1: without an Accept a peer takes SDP; with one, only what it names. */
function takesSdp(invite: IncomingInvite): boolean {
  const lines = invite.headerLines("accept");
  const ranges = lines.flatMap((line) => line.split(",")).map((range) => range.split(";")[0]?.trim().toLowerCase());
  return (
    lines.length === 0 ||
    ranges.some((range) => range === "application/sdp" || range === "application/*" || range === "*/*")
  );
}

/** RFC 2046 §5.1: the SDP in a multipart body, as SIP-I and some PBXs send it beside other parts. */
function sdpPart(invite: IncomingInvite): string | undefined {
  const boundary = /;\s*boundary=(?:"([^"]{1,70})"|([^\s;]{1,70}))/i.exec(invite.header("content-type") ?? "");
  const mark = boundary?.[1] ?? boundary?.[2];
  if (mark === undefined) {
    return undefined;
  }
  for (const part of `\r\n${invite.body}`.split(`\r\n--${mark}`).slice(1, 17)) {
    const blank = part.indexOf("\r\n\r\n");
    if (blank >= 0 && /^content-type:[ \t]*application\/sdp\b/im.test(part.slice(0, blank))) {
      return `${part.slice(blank + 4)}\r\n`;
    }
  }
  return undefined;
}

function passedHeaders(invite: IncomingInvite, names: readonly string[]): Readonly<Record<string, string>> {
  return Object.fromEntries(
    names.flatMap((name) => {
      const lines = invite.headerLines(name);
      return lines.length === 0 ? [] : [[name, lines.join(", ").slice(0, 2048)]];
    }),
  );
}
