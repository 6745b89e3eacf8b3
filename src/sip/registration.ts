import { randomUUID } from "node:crypto";

import { escapeUser } from "../call/identity.ts";
import { addressBits } from "../lib/ip-network.ts";
import type { Cancellable, Clock } from "../lib/clock.ts";
import type { Log } from "../telemetry/log.ts";
import type { SipGateway, SipTrunk } from "./directory.ts";
import { challengeOf, credentialsLine } from "./hang-up.ts";
import type { Asked, TrunkCredentials } from "./hang-up.ts";
import { allowedMethods } from "./in-dialog.ts";
import { SipFault } from "./link/fault.ts";
import type { OutsideReply, OutsideRequest } from "./link/request.ts";
import type { Reply } from "./link/types.ts";
import type { HeaderLine } from "./message.ts";
import { gatewayUri } from "./operator-invite.ts";
import { formatSipUri, hostText, parseNameAddr, parseSipUri, splitOutsideQuotes } from "./uri.ts";

/** `refused`: the registrar does not take our credentials, somebody has to look. `ended`: we have signed off. */
export type RegistrationState = "registering" | "registered" | "failing" | "refused" | "ended";

export interface RegistrationOptions {
  readonly trunk: SipTrunk;
  readonly registration: NonNullable<SipTrunk["registration"]>;
  /** Null: a challenge cannot be answered. */
  readonly credentials: () => TrunkCredentials | null;
  readonly send: (request: OutsideRequest) => Promise<OutsideReply | SipFault>;
  readonly clock: Clock;
  readonly log: Log;
  /** From 0 to below 1. */
  readonly random: () => number;
  /** How long a second lasts; other than 1000 in tests only. */
  readonly secondMs: number;
  readonly onState: (state: RegistrationState) => void;
}

const firstPauseSeconds = 30;
const longestPauseSeconds = 600;
/** Requests of one exchange: a proxy's and the registrar's challenge, each stale once, and a 423. */
const maxRequests = 6;

type Outcome =
  | { readonly type: "granted"; readonly seconds: number; readonly address: string }
  | { readonly type: "refused"; readonly text: string }
  | { readonly type: "failed"; readonly text: string; readonly retryAfterSeconds: number };

/**
 * A trunk's registration (RFC 3261 §10.2): kept while the engine is there, taken back at the end. One exchange at a time;
 * a failure is followed by the next gateway, and when all have failed by a pause of 30 s to 10 min.
 */
export class Registration {
  readonly trunk: SipTrunk;
  readonly user: string;
  readonly #options: RegistrationOptions;
  // RFC 3261 §10.2.4: all requests of one registration share Call-ID and count CSeq up.
  readonly #callId = randomUUID();
  readonly #tag = randomUUID().slice(0, 8);
  #cseq = 0;
  #expiresSeconds: number;
  #gateway = 0;
  /** Rounds through all gateways that have failed. */
  #rounds = 0;
  /** Counts up when what is under way is of no more interest. */
  #generation = 0;
  #timer: Cancellable | undefined;
  #state: RegistrationState = "registering";
  #address: string | undefined;
  /** What the registrar asked last, by the header that answers it, and how often that nonce was used. */
  readonly #asked = new Map<string, { readonly asked: Asked; count: number }>();

  constructor(options: RegistrationOptions) {
    this.#options = options;
    this.trunk = options.trunk;
    this.user = options.registration.user;
    this.#expiresSeconds = options.registration.expiresSeconds;
  }

  get state(): RegistrationState {
    return this.#state;
  }

  /** Where the registrar answered from, once it has taken us. */
  get address(): string | undefined {
    return this.#address;
  }

  /** The engine is there, for the first time or again: nobody knows what has become of the registration meanwhile. */
  begin(): void {
    if (this.#state !== "ended") {
      this.pause();
      this.#rounds = 0;
      void this.#register(this.#generation);
    }
  }

  /** The engine is away. */
  pause(): void {
    this.#generation += 1;
    this.#timer?.cancel();
  }

  /** Signs off, where the registrar may know us. Resolves with its answer, or without one in time. */
  async end(): Promise<void> {
    const known = this.#state === "registered" || this.#address !== undefined;
    this.pause();
    this.#enter("ended", "");
    if (known) {
      await this.#exchange(this.#gatewayNow(), 0);
    }
    this.#address = undefined;
  }

  async #register(generation: number): Promise<void> {
    const outcome = await this.#exchange(this.#gatewayNow(), this.#expiresSeconds);
    if (generation !== this.#generation) {
      return;
    }
    switch (outcome.type) {
      case "granted":
        this.#rounds = 0;
        this.#address = outcome.address;
        this.#enter("registered", "");
        // Well before it expires, and trunks that began together do not stay together.
        this.#again(generation, outcome.seconds * (0.7 + 0.1 * this.#options.random()));
        break;
      case "refused":
        this.#enter("refused", outcome.text);
        // More tries with the same password look like an attack and end with a ban.
        this.#again(generation, longestPauseSeconds);
        break;
      case "failed":
        this.#failed(generation, outcome);
        break;
    }
  }

  #failed(generation: number, { text, retryAfterSeconds }: Extract<Outcome, { type: "failed" }>): void {
    this.#enter("failing", text);
    this.#gateway = (this.#gateway + 1) % this.trunk.gateways.length;
    if (this.#gateway !== 0) {
      void this.#register(generation);
      return;
    }
    const pause = firstPauseSeconds * 2 ** Math.min(this.#rounds, 10) * (1 + 0.2 * this.#options.random());
    this.#rounds += 1;
    this.#again(generation, Math.min(longestPauseSeconds, Math.max(pause, retryAfterSeconds)));
  }

  #again(generation: number, seconds: number): void {
    this.#timer = this.#options.clock.after(seconds * this.#options.secondMs, () => {
      void this.#register(generation);
    });
  }

  #enter(state: RegistrationState, reason: string): void {
    if (state === this.#state) {
      return;
    }
    this.#state = state;
    const { log, onState, trunk } = this.#options;
    const fields = { trunk: trunk.id, reason };
    if (state === "refused") {
      log.error(fields, "the registrar refuses our registration: look at the trunk's credentials");
    } else if (state === "failing") {
      log.warn(fields, "the registration failed, it is tried again");
    } else {
      log.info(fields, state === "registered" ? "registered" : "the registration is taken back");
    }
    onState(state);
  }

  #gatewayNow(): SipGateway {
    const gateway = this.trunk.gateways[this.#gateway];
    // The configuration is refused where a trunk registers nowhere.
    if (gateway === undefined) throw new Error(`trunk ${this.trunk.id} has no gateway`);
    return gateway;
  }

  /** REGISTER until it is answered by something else than a question. Never throws. */
  async #exchange(gateway: SipGateway, expiresSeconds: number): Promise<Outcome> {
    const failed = (text: string, retryAfterSeconds = 0): Outcome => ({ type: "failed", text, retryAfterSeconds });
    const domain = this.trunk.fromHost ?? hostText(gateway.host);
    const uri = formatSipUri({ ...gatewayUri(gateway, null), host: domain, port: null });
    const direct = formatSipUri(gatewayUri(gateway, null));
    const answered = new Set<string>();
    let seconds = expiresSeconds;
    for (let sent = 0; sent < maxRequests; sent += 1) {
      const result = await this.#options.send({
        method: "REGISTER",
        uri,
        proxy: direct === uri ? null : direct,
        headers: this.#headers(domain, gateway, seconds, uri),
      });
      if (result instanceof SipFault) {
        return failed(result.message);
      }
      const { reply } = result;
      const { status, reason } = reply;
      if (status < 300) {
        const granted = grantedSeconds(result, seconds);
        return granted > 0 || expiresSeconds === 0
          ? { type: "granted", seconds: granted, address: reply.sourceAddress }
          : failed("the registrar has granted no time");
      }
      const least = secondsIn(reply.header("min-expires"));
      if (status === 423 && seconds > 0 && least !== undefined && least > seconds && least <= 86_400) {
        // RFC 3261 §10.2.8: once more with the time it asks for, and that from now on.
        seconds = least;
        this.#expiresSeconds = least;
        continue;
      }
      const asked = this.#challenge(reply, gateway);
      if (asked !== undefined && (asked.challenge.stale || !answered.has(asked.header))) {
        answered.add(asked.header);
        this.#asked.set(asked.header, { asked, count: 0 });
        continue;
      }
      const text = `${status} ${reason}`;
      return status === 401 || status === 403 || status === 407
        ? { type: "refused", text }
        : failed(text, secondsIn(reply.header("retry-after")) ?? 0);
    }
    return { type: "refused", text: "the registrar asks again and again" };
  }

  #headers(domain: string, { transport }: SipGateway, seconds: number, uri: string): readonly HeaderLine[] {
    const user = escapeUser(this.user);
    const self = `<sip:${user}@${domain}>`;
    const via = transport === "udp" ? "" : `;transport=${transport}`;
    const credentials = this.#options.credentials();
    this.#cseq += 1;
    return [
      { name: "From", value: `${self};tag=${this.#tag}` },
      { name: "To", value: self },
      { name: "Call-ID", value: this.#callId },
      { name: "CSeq", value: `${this.#cseq} REGISTER` },
      // The engine puts the address that this request leaves from for `localhost`.
      { name: "Contact", value: `<sip:${user}@localhost${via}>;expires=${seconds}` },
      { name: "Expires", value: String(seconds) },
      { name: "Allow", value: allowedMethods },
      ...(credentials === null ? [] : [...this.#asked.values()]).flatMap((entry) => {
        entry.count += 1;
        return credentials === null
          ? []
          : [credentialsLine(entry.asked, credentials, { method: "REGISTER", uri }, entry.count)];
      }),
    ];
  }

  /** A challenge that did not come from the gateway is a trap; host names cannot be compared, the route is trusted. */
  #challenge(reply: Reply, { host }: SipGateway): Asked | undefined {
    const credentials = this.#options.credentials();
    const expected = addressBits(host);
    const ours = expected === undefined || addressBits(reply.sourceAddress)?.prefix === expected.prefix;
    return credentials === null || !ours ? undefined : challengeOf(reply, credentials.realm);
  }
}

/** RFC 3261 §10.2.4: what stands at our own Contact counts, then Expires, then what we have asked for. */
function grantedSeconds({ reply, contact }: OutsideReply, asked: number): number {
  const contacts = reply
    .headerLines("contact")
    .flatMap((line) => splitOutsideQuotes(line, ","))
    .slice(0, 100)
    .flatMap((text) => parseNameAddr(text) ?? []);
  const sent = placeOf(parseNameAddr(contact ?? "")?.uri);
  const own = contacts.find(({ uri }) => placeOf(uri) === sent) ?? (contacts.length === 1 ? contacts[0] : undefined);
  return secondsIn(own?.params.get("expires") ?? undefined) ?? secondsIn(reply.header("expires")) ?? asked;
}

function placeOf(uri: string | undefined): string | undefined {
  const parsed = parseSipUri(uri ?? "");
  return parsed && `${parsed.user}@${parsed.host}:${parsed.port ?? ""}`;
}

function secondsIn(text: string | undefined): number | undefined {
  const digits = /^\s*(\d{1,9})\b/.exec(text ?? "")?.[1];
  return digits === undefined ? undefined : Number(digits);
}
