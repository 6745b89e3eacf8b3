// A scripted SIP phone with real sound, the witness of the integration tests and the caller and operators of the demo.
// It shares no code with src/: SIP over raw UDP, RTP from a thread of its own, every message and packet kept with its time.
//
//   await using caller = await Phone.start({ user: "79991112233", tone: pitches.caller });
//   const call = await caller.dial(`sip:74951234567@127.0.0.1:${port}`);
//   await call.established;
//   await call.media.hears(pitches.bot);
//   await call.hangUp();
import { nowMs } from "./clock.ts";
import { answerChallenge, type Credentials, isAuthentic, makeChallenge } from "./digest.ts";
import type { CodecName } from "./g711.ts";
import { PhoneMedia } from "./phone-media.ts";
import { type Direction, formatSdp, mirrored, parseSdp, type Sdp } from "./sdp-text.ts";
import { newTag, type ServerTransaction, type SipRecord, SipSocket } from "./sip-socket.ts";
import { cseqOf, header, headersOf, type HostPort, hostPortOf, parameter, type SipText, uriOf } from "./sip-text.ts";
import { within, waitFor } from "./wait.ts";

export interface Ring {
  /** 180, 183 or another provisional status. */
  readonly status: number;
  /** Counted from the arrival of the INVITE. */
  readonly afterMs?: number;
  /** Sends its SDP and its sound already now (early media). */
  readonly sdp?: boolean;
}

interface RingOptions {
  /** Default: one 180 at once. */
  readonly ring?: readonly Ring[];
  /** What a CANCEL does: end the call with 487 (default), or lose the race: 200 to the CANCEL, then 200 to the INVITE. */
  readonly onCancel?: "end" | "answer";
}

/** What the phone does with an INVITE. All times count from its arrival. */
export type Answering =
  | (RingOptions & { readonly type: "answer"; readonly afterMs?: number; readonly headers?: HeaderList })
  | (RingOptions & {
      readonly type: "reject";
      readonly status: number;
      readonly reason?: string;
      readonly afterMs?: number;
      readonly headers?: HeaderList;
    })
  | (RingOptions & { readonly type: "ring" })
  /** Asks for a password first (407), then goes on. */
  | { readonly type: "challenge"; readonly realm: string; readonly credentials: Credentials; readonly next: Answering }
  /** As if the host were off: nothing at all. */
  | { readonly type: "silent" }
  /** The test answers, by the methods of the call. */
  | (RingOptions & { readonly type: "manual" });

export type HeaderList = readonly (readonly [name: string, value: string])[];

export interface PhoneOptions {
  /** The user part of its address. */
  readonly user?: string;
  readonly displayName?: string;
  readonly address?: string;
  readonly port?: number;
  /** In the order of preference. */
  readonly codecs?: readonly CodecName[];
  /** Offers telephone-event with payload type 101 (default true). */
  readonly dtmf?: boolean;
  /** The pitch it sends from the start of every call; without it silence. */
  readonly tone?: number;
  readonly amplitude?: number;
  readonly answering?: Answering | ((invite: SipText) => Answering);
  readonly credentials?: Credentials;
  readonly t1Ms?: number;
  /** Final answers to requests within a call by method, such as `{ REFER: 202 }`; default 200, and 501 for REFER. */
  readonly responses?: Readonly<Record<string, number>>;
}

export interface DialOptions {
  readonly headers?: HeaderList;
  /** Where to send the INVITE, when not to the host of the URI. */
  readonly proxy?: HostPort;
  /** The From, `"Name" <sip:user@host>`, without a tag. */
  readonly from?: string;
  /** Sends the INVITE without SDP; the answer then goes into the ACK. */
  readonly delayedOffer?: boolean;
  /** Replaces the SDP of the INVITE. */
  readonly body?: string;
  /** Never acknowledges the answer. */
  readonly withoutAck?: boolean;
}

/** This call's dialog as a `Replaces` (RFC 3891) names it towards its other side. */
export function replacesOf(call: PhoneCall): string {
  const own = parameter(header(call.invite, "From"), "tag");
  const other = parameter(header(call.responses.at(-1)!, "To"), "tag");
  const [toTag, fromTag] = call.direction === "outgoing" ? [other, own] : [own, other];
  return `${call.callId};to-tag=${toTag};from-tag=${fromTag}`;
}

export interface CallEnd {
  /** `self` when this phone ended it, `peer` when the other side did, `failure` when nobody answered. */
  readonly by: "self" | "peer" | "failure";
  /** The final status of an INVITE that failed. */
  readonly status?: number;
  /** `BYE`, `CANCEL`, `response` or `timeout`. */
  readonly how: "BYE" | "CANCEL" | "response" | "timeout";
  readonly message?: SipText;
  readonly atMs: number;
}

const eventPayloadType = 101;
const callsMax = 1_000;
const reasons: Readonly<Record<number, string>> = {
  100: "Trying",
  180: "Ringing",
  181: "Call Is Being Forwarded",
  183: "Session Progress",
  200: "OK",
  202: "Accepted",
  302: "Moved Temporarily",
  400: "Bad Request",
  401: "Unauthorized",
  403: "Forbidden",
  404: "Not Found",
  407: "Proxy Authentication Required",
  408: "Request Timeout",
  480: "Temporarily Unavailable",
  481: "Call/Transaction Does Not Exist",
  486: "Busy Here",
  487: "Request Terminated",
  488: "Not Acceptable Here",
  491: "Request Pending",
  500: "Server Internal Error",
  501: "Not Implemented",
  503: "Service Unavailable",
  600: "Busy Everywhere",
  603: "Decline",
};

class Settled<T> {
  readonly promise: Promise<T>;
  #resolve: (value: T) => void = () => {};
  #reject: (error: Error) => void = () => {};
  constructor() {
    this.promise = new Promise<T>((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    // Whoever never asks is not punished with an unhandled rejection.
    this.promise.catch(() => {});
  }
  resolve(value: T): void {
    this.#resolve(value);
  }
  reject(error: Error): void {
    this.#reject(error);
  }
}

/** One call of a phone, dialled or received. */
export class PhoneCall {
  readonly phone: Phone;
  readonly direction: "outgoing" | "incoming";
  readonly callId: string;
  readonly media: PhoneMedia;
  readonly startedMs = nowMs();
  /** Outgoing: the 2xx came. Incoming: the 2xx went out. Gives the time; rejects when the call ends before. */
  readonly established: Promise<number>;
  /** Incoming: the ACK came. Outgoing: the ACK went out. Gives the time. */
  readonly acknowledged: Promise<number>;
  readonly ended: Promise<CallEnd>;
  /** The INVITE that began the call. */
  invite: SipText;
  /** The latest SDP of the other side. */
  remoteSdp: Sdp | undefined;
  /** What the call's INVITE was answered with: provisional and final responses, in order. */
  readonly responses: SipText[] = [];

  readonly #socket: SipSocket;
  readonly #options: PhoneOptions;
  readonly #established = new Settled<number>();
  readonly #acknowledged = new Settled<number>();
  readonly #ended = new Settled<CallEnd>();
  readonly #localTag = newTag();
  readonly #sdpId = Math.floor(Math.random() * 1e9);
  #sdpVersion = 1;
  #phase: "inviting" | "established" | "ended" = "inviting";
  #localUri = "";
  #remoteUri = "";
  #remoteTag: string | undefined;
  #remoteTarget = "";
  #routes: readonly string[] = [];
  #cseq = 1;
  #proxy: HostPort | undefined;
  #lastAck: SipText | undefined;
  #inviteTransaction: ServerTransaction | undefined;
  #cancelWanted = false;
  #dial: DialOptions = {};
  #stopAnswering: () => void = () => {};
  #direction: Direction = "sendrecv";

  /** Made by Phone. */
  constructor(
    phone: Phone,
    socket: SipSocket,
    options: PhoneOptions,
    media: PhoneMedia,
    direction: "outgoing" | "incoming",
    invite: SipText,
  ) {
    this.phone = phone;
    this.direction = direction;
    this.media = media;
    this.invite = invite;
    this.callId = header(invite, "Call-ID") ?? "";
    this.#socket = socket;
    this.#options = options;
    this.established = this.#established.promise;
    this.acknowledged = this.#acknowledged.promise;
    this.ended = this.#ended.promise;
    if (options.tone !== undefined) media.sendTone(options.tone, options.amplitude);
  }

  get phase(): "inviting" | "established" | "ended" {
    return this.#phase;
  }
  /** Every SIP message of this call, in both directions. */
  get records(): readonly SipRecord[] {
    return this.#socket.records.filter(({ message }) => header(message, "Call-ID") === this.callId);
  }
  /** The requests of a method that came for this call, without repetitions. */
  received(method: string): readonly SipText[] {
    return this.#requests("received", method);
  }
  sent(method: string): readonly SipText[] {
    return this.#requests("sent", method);
  }
  #requests(direction: SipRecord["direction"], method: string): readonly SipText[] {
    return this.records
      .filter((record) => record.direction === direction && record.message.method === method && !record.repeated)
      .map((record) => record.message);
  }
  /** INVITEs within the call that came from the other side. */
  get reInvites(): readonly SipText[] {
    return this.received("INVITE").filter((message) => parameter(header(message, "To"), "tag") !== undefined);
  }

  /** Waits until the other side has sent a provisional response of that status. Gives it. */
  progress(status: number, { timeoutMs = 5_000 }: { readonly timeoutMs?: number } = {}): Promise<SipText> {
    return waitFor(() => this.responses.find((response) => response.status === status), {
      timeoutMs,
      what: `a ${status} response`,
    });
  }

  // --- Dialling ---------------------------------------------------------------------------------------------------------

  /** Sends the INVITE; called once by Phone. */
  start(uri: string, options: DialOptions, from: string): void {
    this.#dial = options;
    this.#proxy = options.proxy;
    this.#localUri = from;
    this.#remoteUri = `<${uri}>`;
    this.#remoteTarget = uri;
    this.#sendInvite();
  }

  #sendInvite(authorization?: readonly [string, string]): void {
    const body = this.#dial.body ?? (this.#dial.delayedOffer === true ? "" : this.#localSdp());
    const request = this.#buildRequest("INVITE", body, [
      ...(authorization === undefined ? [] : [authorization]),
      ["Allow", "INVITE, ACK, CANCEL, BYE, OPTIONS, INFO, UPDATE, REFER, NOTIFY"],
      ...(this.#dial.headers ?? []),
    ]);
    this.invite = request;
    this.#socket.request(
      request,
      this.#nextHop(),
      (response) => this.#inviteAnswered(request, response, authorization !== undefined),
      () => this.#finish({ by: "failure", how: "timeout", atMs: nowMs() }),
    );
  }

  #inviteAnswered(request: SipText, response: SipText, authorized: boolean): void {
    this.responses.push(response);
    const status = response.status ?? 0;
    if (status < 200) {
      const early = response.body === "" ? undefined : parseSdp(response.body);
      if (early !== undefined) this.#connect(early);
      if (this.#cancelWanted) this.#sendCancel();
      return;
    }
    if (status < 300) {
      this.#confirm(request, response);
      return;
    }
    const challenge = header(response, status === 401 ? "WWW-Authenticate" : "Proxy-Authenticate");
    if (
      (status === 401 || status === 407) &&
      !authorized &&
      challenge !== undefined &&
      this.#options.credentials !== undefined
    ) {
      const name = status === 401 ? "Authorization" : "Proxy-Authorization";
      this.#sendInvite([name, answerChallenge(challenge, this.#options.credentials, "INVITE", this.#remoteTarget)]);
      return;
    }
    this.#finish({
      by: this.#cancelWanted ? "self" : "peer",
      how: this.#cancelWanted ? "CANCEL" : "response",
      status,
      message: response,
      atMs: nowMs(),
    });
  }

  /** RFC 3261 §13.2.2.4: a 2xx makes the dialog and is acknowledged by the phone itself. */
  #confirm(request: SipText, response: SipText): void {
    this.#remoteTag = parameter(header(response, "To"), "tag");
    this.#remoteTarget = uriOf(header(response, "Contact") ?? this.#remoteTarget);
    this.#routes = headersOf(response, "Record-Route")
      .flatMap((value) => value.split(/,\s*(?=<)/))
      .toReversed();
    const sdp = parseSdp(response.body);
    this.#lastAck = this.#buildAck(request, this.#dial.delayedOffer === true ? this.#localSdp(sdp) : "");
    if (this.#dial.withoutAck !== true) this.#socket.send(this.#lastAck, this.#nextHop());
    if (sdp !== undefined) this.#connect(sdp);
    this.#phase = "established";
    this.#established.resolve(nowMs());
    this.#acknowledged.resolve(nowMs());
    // A 200 that crossed our CANCEL: the call stands, so it is ended by BYE (RFC 3261 §9.1).
    if (this.#cancelWanted) void this.hangUp();
  }

  /** Told by Phone: the 2xx came again, so our ACK was lost. */
  answerRepeated(): void {
    if (this.#lastAck !== undefined && this.#dial.withoutAck !== true)
      this.#socket.send(this.#lastAck, this.#nextHop());
  }

  /** Gives up dialling: CANCEL, as soon as it is allowed. Resolves when the call has ended. */
  async cancel(): Promise<CallEnd> {
    if (this.#phase === "inviting" && !this.#cancelWanted) {
      this.#cancelWanted = true;
      // RFC 3261 §9.1: not before a provisional response.
      if (this.#socket.hasProvisional(this.invite)) this.#sendCancel();
    }
    return this.ended;
  }

  #sendCancel(): void {
    if (this.sent("CANCEL").length > 0) return;
    const same = (name: string): HeaderList =>
      this.invite.headers.filter(([candidate]) => candidate.toLowerCase() === name);
    const cancel: SipText = {
      method: "CANCEL",
      uri: this.invite.uri ?? "",
      headers: [
        ...same("via"),
        ...same("route"),
        ["Max-Forwards", "70"],
        ...same("from"),
        ...same("to"),
        ...same("call-id"),
        ["CSeq", `${cseqOf(this.invite).number} CANCEL`],
      ],
      body: "",
    };
    this.#socket.request(
      cancel,
      this.#nextHop(),
      () => {},
      () => {},
    );
  }

  // --- Answering --------------------------------------------------------------------------------------------------------

  /** Takes an INVITE; called once by Phone. */
  receive(transaction: ServerTransaction, answering: Answering): void {
    const { request } = transaction;
    this.#inviteTransaction = transaction;
    this.#proxy = transaction.source;
    this.#localUri = header(request, "To") ?? "";
    this.#remoteUri = (header(request, "From") ?? "").replace(/;\s*tag=[^;]*/i, "");
    this.#remoteTag = parameter(header(request, "From"), "tag");
    this.#remoteTarget = uriOf(header(request, "Contact") ?? "");
    this.#routes = headersOf(request, "Record-Route").flatMap((value) => value.split(/,\s*(?=<)/));
    this.remoteSdp = parseSdp(request.body);
    this.#follow(answering);
  }

  #follow(answering: Answering): void {
    if (answering.type === "silent" || answering.type === "challenge") return;
    const stops: (() => void)[] = [];
    const at = (afterMs: number, run: () => void): void => {
      if (afterMs <= 0) run();
      else stops.push(this.#socket.after(afterMs, () => this.#phase === "inviting" && run()));
    };
    this.#stopAnswering = () => stops.forEach((stop) => stop());
    for (const ring of answering.ring ?? [{ status: 180 }])
      at(ring.afterMs ?? 0, () => this.ring(ring.status, ring.sdp === true));
    if (answering.type === "answer") at(answering.afterMs ?? 0, () => this.answer(answering.headers));
    if (answering.type === "reject") {
      at(answering.afterMs ?? 0, () => this.reject(answering.status, answering.headers, answering.reason));
    }
  }

  /** Sends a provisional response, with SDP for early media. */
  ring(status = 180, withSdp = false): void {
    if (withSdp && this.remoteSdp !== undefined) this.#connect(this.remoteSdp);
    this.#respondToInvite(status, withSdp ? this.#localSdp(this.remoteSdp) : "");
  }

  /** Answers with 200 and starts to send sound. Without a common codec: 488. */
  answer(headers: HeaderList = []): void {
    if (this.remoteSdp !== undefined && this.#commonCodecs(this.remoteSdp).length === 0) {
      this.reject(488);
      return;
    }
    this.#stopAnswering();
    this.#respondToInvite(200, this.#localSdp(this.remoteSdp), headers);
    if (this.remoteSdp !== undefined) this.#connect(this.remoteSdp);
    this.#phase = "established";
    this.#established.resolve(nowMs());
    const { t1Ms = 500 } = this.#options;
    // RFC 3261 §13.3.1.4: without an ACK the call is ended by BYE.
    const stopWaiting = this.#socket.after(64 * t1Ms, () => void this.hangUp());
    void this.acknowledged.then(stopWaiting, stopWaiting);
    void this.ended.then(stopWaiting);
  }

  reject(status: number, headers: HeaderList = [], reason?: string): void {
    this.#stopAnswering();
    const response = this.#respondToInvite(status, "", headers, reason);
    this.#finish({
      by: "self",
      how: "response",
      status,
      atMs: nowMs(),
      ...(response === undefined ? {} : { message: response }),
    });
  }

  #respondToInvite(status: number, body: string, headers: HeaderList = [], reason?: string): SipText | undefined {
    const transaction = this.#inviteTransaction;
    if (transaction === undefined || this.#phase !== "inviting") return undefined;
    const response = this.#buildResponse(transaction.request, status, body, headers, reason);
    this.responses.push(response);
    this.#socket.respond(transaction, response);
    return response;
  }

  /** Told by Phone: the ACK of our 2xx came. */
  takeAck(ack: SipText): void {
    this.#inviteTransaction?.acknowledged();
    const sdp = parseSdp(ack.body);
    if (sdp !== undefined) this.#connect(sdp);
    this.#acknowledged.resolve(nowMs());
  }

  /** Told by Phone: the other side gave up. */
  takeCancel(transaction: ServerTransaction, onCancel: "end" | "answer"): void {
    this.#socket.respond(transaction, this.#buildResponse(transaction.request, 200, ""));
    if (this.#phase !== "inviting") return;
    if (onCancel === "answer") {
      this.answer();
      return;
    }
    this.#stopAnswering();
    this.#respondToInvite(487, "");
    this.#finish({ by: "peer", how: "CANCEL", message: transaction.request, atMs: nowMs() });
  }

  // --- Within the call --------------------------------------------------------------------------------------------------

  /** Told by Phone: a request within the call. */
  takeRequest(transaction: ServerTransaction): void {
    const { request } = transaction;
    if (request.method === "BYE") {
      this.#socket.respond(transaction, this.#buildResponse(request, this.received("BYE").length > 1 ? 481 : 200, ""));
      this.#finish({ by: "peer", how: "BYE", message: request, atMs: nowMs() });
      return;
    }
    if (request.method === "INVITE" || request.method === "UPDATE") {
      const sdp = parseSdp(request.body);
      if (request.method === "INVITE") this.#inviteTransaction = transaction;
      this.#remoteTarget = uriOf(header(request, "Contact") ?? this.#remoteTarget);
      this.#sdpVersion += 1;
      const wanted = this.#options.responses?.[request.method] ?? 200;
      const body = wanted >= 300 || (request.method === "UPDATE" && sdp === undefined) ? "" : this.#localSdp(sdp);
      this.#socket.respond(transaction, this.#buildResponse(request, wanted, body));
      if (sdp !== undefined && wanted < 300) this.#connect(sdp);
      return;
    }
    const status = this.#options.responses?.[request.method ?? ""] ?? (request.method === "REFER" ? 501 : 200);
    this.#socket.respond(transaction, this.#buildResponse(request, status, ""));
  }

  /** Sends a request within the call and gives its final response; a re-INVITE is acknowledged. */
  request(
    method: string,
    {
      headers = [],
      body = "",
      ackBody = "",
    }: { readonly headers?: HeaderList; readonly body?: string; readonly ackBody?: string } = {},
  ): Promise<SipText> {
    const request = this.#buildRequest(method, body, headers);
    const answered = new Promise<SipText>((resolve, reject) => {
      this.#socket.request(
        request,
        this.#nextHop(),
        (response) => {
          const status = response.status ?? 0;
          if (status < 200) return;
          if (method === "INVITE" && status < 300) {
            this.#lastAck = this.#buildAck(request, ackBody);
            this.#socket.send(this.#lastAck, this.#nextHop());
            const sdp = parseSdp(response.body);
            if (sdp !== undefined) this.#connect(sdp);
          }
          resolve(response);
        },
        () => reject(new Error(`no response to ${method}`)),
      );
    });
    return answered;
  }

  /** Re-INVITE: hold (`sendonly`, `inactive`), resume (`sendrecv`), or other codecs by `body`. */
  reinvite({
    direction = "sendrecv",
    body,
  }: { readonly direction?: Direction; readonly body?: string } = {}): Promise<SipText> {
    this.#direction = direction;
    this.#sdpVersion += 1;
    return this.request("INVITE", { body: body ?? this.#localSdp() });
  }

  /** A digit as SIP INFO, in the form most phones use. */
  infoDigit(digit: string, durationMs = 160): Promise<SipText> {
    return this.request("INFO", {
      headers: [["Content-Type", "application/dtmf-relay"]],
      body: `Signal=${digit}\r\nDuration=${durationMs}\r\n`,
    });
  }

  /** Ends the call by what its phase asks for: CANCEL, a refusal, or BYE. Resolves when it is over on both sides. */
  async hangUp(headers: HeaderList = []): Promise<CallEnd> {
    if (this.#phase === "inviting") {
      if (this.direction === "outgoing") return this.cancel();
      this.reject(480);
      return this.ended;
    }
    if (this.#phase === "established") {
      // From here on nothing of the other side can change who ended the call.
      this.#phase = "ended";
      const atMs = nowMs();
      const message = await this.request("BYE", { headers }).catch(() => undefined);
      this.media.pause();
      this.#ended.resolve({
        by: "self",
        how: message === undefined ? "timeout" : "BYE",
        atMs,
        ...(message === undefined ? {} : { message }),
      });
    }
    return this.ended;
  }

  #finish(end: CallEnd): void {
    if (this.#phase === "ended") return;
    this.#phase = "ended";
    this.#stopAnswering();
    this.media.pause();
    const why = new Error(
      `the call ended first: ${end.how}${end.status === undefined ? "" : ` ${end.status}`} by ${end.by}`,
    );
    this.#established.reject(why);
    this.#acknowledged.reject(why);
    this.#ended.resolve(end);
  }

  // --- Messages ---------------------------------------------------------------------------------------------------------

  #nextHop(): HostPort {
    const [route] = this.#routes;
    if (route !== undefined) return hostPortOf(uriOf(route));
    return this.#remoteTag === undefined && this.#proxy !== undefined ? this.#proxy : hostPortOf(this.#remoteTarget);
  }

  #headersFor(method: string, cseq: number, body: string, extra: HeaderList): HeaderList {
    const has = (name: string): boolean => extra.some(([candidate]) => candidate.toLowerCase() === name);
    return [
      this.#socket.via(),
      ["Max-Forwards", "70"],
      ...this.#routes.map((route) => ["Route", route] as const),
      ["From", `${this.#localUri};tag=${this.#localTag}`],
      ["To", this.#remoteTag === undefined ? this.#remoteUri : `${this.#remoteUri};tag=${this.#remoteTag}`],
      ["Call-ID", this.callId],
      ["CSeq", `${cseq} ${method}`],
      ["Contact", `<${this.phone.uri}>`],
      ["User-Agent", "Patchbay test phone"],
      ...extra,
      ...(body === "" || has("content-type") ? [] : [["Content-Type", "application/sdp"] as const]),
    ];
  }

  /** RFC 3261 §13.2.2.4: the ACK of a 2xx is a request of its own, with the number of its INVITE. */
  #buildAck(invite: SipText, body: string): SipText {
    const headers = this.#headersFor("ACK", cseqOf(invite).number, body, []);
    return { method: "ACK", uri: this.#remoteTarget, headers, body };
  }

  #buildRequest(method: string, body: string, extra: HeaderList): SipText {
    this.#cseq += 1;
    return { method, uri: this.#remoteTarget, headers: this.#headersFor(method, this.#cseq, body, extra), body };
  }

  #buildResponse(request: SipText, status: number, body: string, extra: HeaderList = [], reason?: string): SipText {
    return this.phone.buildResponse(request, status, {
      body,
      headers: extra,
      tag: this.#localTag,
      ...(reason === undefined ? {} : { reason }),
    });
  }

  #commonCodecs(remote: Sdp): readonly CodecName[] {
    return (this.#options.codecs ?? ["PCMU"]).filter((codec) => remote.codecs.includes(codec));
  }

  /** Our side of the session: an offer, or the answer to what the other side offered. */
  #localSdp(remote?: Sdp): string {
    const { codecs = ["PCMU"], dtmf = true } = this.#options;
    const common = remote === undefined ? codecs : this.#commonCodecs(remote).slice(0, 1);
    const event = remote === undefined ? eventPayloadType : remote.eventPayloadType;
    return formatSdp(
      {
        address: this.media.address,
        port: this.media.port,
        codecs: common,
        ...(dtmf && event !== undefined ? { eventPayloadType: event } : {}),
        direction: remote === undefined ? this.#direction : mirrored(remote.direction),
      },
      { id: this.#sdpId, version: this.#sdpVersion },
    );
  }

  /** Sends sound to where the other side wants it, unless it wants none. */
  #connect(remote: Sdp): void {
    this.remoteSdp = remote;
    const [codec] = this.#commonCodecs(remote);
    const wanted = remote.direction === "sendrecv" || remote.direction === "recvonly";
    if (codec === undefined || remote.port === 0 || !wanted) this.media.pause();
    else this.media.connect(remote.address, remote.port, codec, remote.eventPayloadType);
  }
}

export class Phone implements AsyncDisposable {
  readonly user: string;
  readonly #socket: SipSocket;
  readonly #options: PhoneOptions;
  readonly calls: PhoneCall[] = [];
  #answering: NonNullable<PhoneOptions["answering"]>;
  readonly #nonce = newTag() + newTag();
  /** INVITEs whose call waits for its RTP socket. */
  readonly #opening = new Set<ServerTransaction>();
  /** How many calls `nextCall` has given out. */
  #given = 0;
  #disposed = false;

  private constructor(options: PhoneOptions, socket: SipSocket) {
    this.#options = options;
    this.#socket = socket;
    this.user = options.user ?? "phone";
    this.#answering = options.answering ?? { type: "answer" };
  }

  static async start(options: PhoneOptions = {}): Promise<Phone> {
    await PhoneMedia.warmUp();
    const requests: ServerTransaction[] = [];
    let take = (transaction: ServerTransaction): void => void requests.push(transaction);
    let takeAck: (ack: SipText) => void = () => {};
    let takeRepeated: (response: SipText) => void = () => {};
    const socket = await SipSocket.open({
      address: options.address ?? "127.0.0.1",
      t1Ms: options.t1Ms ?? 500,
      onRequest: (transaction) => take(transaction),
      onAck: (ack) => takeAck(ack),
      onRepeatedAnswer: (response) => takeRepeated(response),
      ...(options.port === undefined ? {} : { port: options.port }),
    });
    const phone = new Phone(options, socket);
    take = (transaction) => phone.#take(transaction);
    takeAck = (ack) => phone.#callOf(ack)?.takeAck(ack);
    takeRepeated = (response) => phone.#callOf(response)?.answerRepeated();
    for (const transaction of requests) phone.#take(transaction);
    return phone;
  }

  get address(): string {
    return this.#socket.address;
  }
  get port(): number {
    return this.#socket.port;
  }
  /** `sip:user@127.0.0.1:port`: how others reach it, and its Contact. */
  get uri(): string {
    return `sip:${this.user}@${this.address}:${this.port}`;
  }
  /** Every SIP message that went in or out, with its time. */
  get records(): readonly SipRecord[] {
    return this.#socket.records;
  }
  /** Tells of every message as it happens, for a ladder. */
  onMessage(listener: (record: SipRecord) => void): void {
    this.#socket.listen(listener);
  }
  /** How INVITEs are treated from now on. */
  set answering(answering: NonNullable<PhoneOptions["answering"]>) {
    this.#answering = answering;
  }

  /** The INVITEs that began calls here, repetitions left out. */
  get invitesReceived(): readonly SipRecord[] {
    return this.records.filter(
      ({ direction, message, repeated }) =>
        direction === "received" &&
        message.method === "INVITE" &&
        !repeated &&
        parameter(header(message, "To"), "tag") === undefined,
    );
  }

  /** Calls; comes back when the INVITE is on its way. */
  async dial(uri: string, options: DialOptions = {}): Promise<PhoneCall> {
    this.#checkRoom();
    const media = await PhoneMedia.open(this.address);
    const callId = `${newTag()}${newTag()}@${this.address}`;
    const name = this.#options.displayName === undefined ? "" : `"${this.#options.displayName}" `;
    const placeholder: SipText = { headers: [["Call-ID", callId]], body: "" };
    const call = new PhoneCall(this, this.#socket, this.#options, media, "outgoing", placeholder);
    this.calls.push(call);
    call.start(uri, options, options.from ?? `${name}<${this.uri}>`);
    return call;
  }

  /** The next call that comes in (each is given once), also when it came before it was asked for. */
  async nextCall({ timeoutMs = 5_000 }: { readonly timeoutMs?: number } = {}): Promise<PhoneCall> {
    const call = await waitFor(() => this.calls.filter(({ direction }) => direction === "incoming")[this.#given], {
      timeoutMs,
      intervalMs: 5,
      what: `a call at ${this.user}`,
    });
    this.#given += 1;
    return call;
  }

  /** Sends a request outside of calls (OPTIONS, MESSAGE…) and gives its final response. */
  request(
    method: string,
    uri: string,
    {
      headers = [],
      body = "",
      timeoutMs = 5_000,
    }: { readonly headers?: HeaderList; readonly body?: string; readonly timeoutMs?: number } = {},
  ): Promise<SipText> {
    const answered = new Promise<SipText>((resolve, reject) => {
      this.#socket.request(
        {
          method,
          uri,
          headers: [
            this.#socket.via(),
            ["Max-Forwards", "70"],
            ["From", `<${this.uri}>;tag=${newTag()}`],
            ["To", `<${uri}>`],
            ["Call-ID", `${newTag()}@${this.address}`],
            ["CSeq", `1 ${method}`],
            ["Contact", `<${this.uri}>`],
            ...headers,
          ],
          body,
        },
        hostPortOf(uri),
        (response) => {
          if ((response.status ?? 0) >= 200) resolve(response);
        },
        () => reject(new Error(`no response to ${method}`)),
      );
    });
    return within(answered, timeoutMs, `a response to ${method}`);
  }

  #checkRoom(): void {
    if (this.calls.length >= callsMax) throw new Error(`a phone has at most ${callsMax} calls in its life`);
  }

  #callOf(message: SipText): PhoneCall | undefined {
    const callId = header(message, "Call-ID");
    return this.calls.findLast((call) => call.callId === callId);
  }

  #take(transaction: ServerTransaction): void {
    const { request } = transaction;
    const call = this.#callOf(request);
    if (request.method === "CANCEL") {
      const answering = call === undefined ? undefined : this.#answeringOf(call.invite);
      const invite = this.#socket.inviteOf(request);
      if (invite !== undefined && this.#opening.has(invite)) {
        this.#opening.delete(invite);
        this.#refuse(transaction, 200);
        this.#refuse(invite, 487);
      } else if (call === undefined || invite === undefined) this.#refuse(transaction, 481);
      else
        call.takeCancel(
          transaction,
          answering !== undefined && "onCancel" in answering ? (answering.onCancel ?? "end") : "end",
        );
    } else if (call !== undefined && parameter(header(request, "To"), "tag") !== undefined) {
      call.takeRequest(transaction);
    } else if (request.method === "INVITE") void this.#takeInvite(transaction);
    else if (request.method === "OPTIONS" || request.method === "MESSAGE") this.#refuse(transaction, 200);
    else this.#refuse(transaction, 481);
  }

  /** What is to be done with an INVITE once it has proved its password, where one is asked for. */
  #answeringOf(invite: SipText): Answering {
    let answering = typeof this.#answering === "function" ? this.#answering(invite) : this.#answering;
    while (answering.type === "challenge") {
      const authorization = header(invite, "Proxy-Authorization");
      const authentic =
        authorization !== undefined && isAuthentic(authorization, answering.credentials, "INVITE", this.#nonce);
      if (!authentic) break;
      answering = answering.next;
    }
    return answering;
  }

  async #takeInvite(transaction: ServerTransaction): Promise<void> {
    const answering = this.#answeringOf(transaction.request);
    if (answering.type === "silent") return;
    this.#socket.respond(transaction, this.buildResponse(transaction.request, 100, {}));
    if (answering.type === "challenge") {
      const headers: HeaderList = [["Proxy-Authenticate", makeChallenge(answering.realm, this.#nonce)]];
      this.#socket.respond(transaction, this.buildResponse(transaction.request, 407, { headers, tag: newTag() }));
      return;
    }
    if (this.calls.length >= callsMax) {
      this.#refuse(transaction, 503);
      return;
    }
    this.#opening.add(transaction);
    const media = await PhoneMedia.open(this.address);
    // A CANCEL may have come while the RTP socket was opened.
    if (!this.#opening.delete(transaction) || this.#disposed) {
      await media.close();
      return;
    }
    const call = new PhoneCall(this, this.#socket, this.#options, media, "incoming", transaction.request);
    this.calls.push(call);
    call.receive(transaction, answering);
  }

  #refuse(transaction: ServerTransaction, status: number): void {
    this.#socket.respond(transaction, this.buildResponse(transaction.request, status, { tag: newTag() }));
  }

  /** RFC 3261 §8.2.6: a response takes Via, From, To, Call-ID, CSeq and Record-Route from its request. */
  buildResponse(
    request: SipText,
    status: number,
    {
      body = "",
      headers = [],
      tag,
      reason,
    }: { readonly body?: string; readonly headers?: HeaderList; readonly tag?: string; readonly reason?: string },
  ): SipText {
    const same = (name: string): HeaderList => headersOf(request, name).map((value) => [name, value]);
    const to = header(request, "To") ?? "";
    return {
      status,
      reason: reason ?? reasons[status] ?? "Response",
      headers: [
        ...same("Via"),
        ...(status > 100 && status < 300 ? same("Record-Route") : []),
        ...same("From"),
        ["To", tag === undefined || parameter(to, "tag") !== undefined ? to : `${to};tag=${tag}`],
        ...same("Call-ID"),
        ...same("CSeq"),
        ...(status > 100 ? [["Contact", `<${this.uri}>`] as const] : []),
        ...headers,
        ...(body === "" ? [] : [["Content-Type", "application/sdp"] as const]),
      ],
      body,
    };
  }

  /** As if the phone lost its power: from now on it sends nothing, takes nothing, and says goodbye to nobody. */
  async vanish(): Promise<void> {
    this.#disposed = true;
    await Promise.all(this.calls.map((call) => call.media.close()));
    await this.#socket[Symbol.asyncDispose]();
  }

  /** Hangs up what still stands, with little patience, and closes every socket. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    await Promise.all(
      this.calls.map((call) => within(call.hangUp(), 1_000, "the end of a call").catch(() => undefined)),
    );
    await Promise.all(this.calls.map((call) => call.media.close()));
    await this.#socket[Symbol.asyncDispose]();
  }
}
