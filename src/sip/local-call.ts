import type { Log } from "../telemetry/log.ts";
import { guard, SipFault } from "./link/fault.ts";
import type {
  AcceptEvents,
  DialogEvents,
  IncomingInvite,
  IncomingRequest,
  InviteEvents,
  InviteOptions,
  OutgoingInvite,
  Reply,
  ReplyOptions,
  SipDialog,
} from "./link/types.ts";
import { type HeaderLine, type ReceivedHeaders, receivedHeaders } from "./message.ts";

// A call from one of our calls to another, which never leaves this process: both legs work as if there were a network
// between them. Nothing arrives before whoever sent it has returned.

const localProtocol = "local";

/** Whether it comes from a leg of another call of ours, and not over a trunk. */
export function isLocal({ protocol }: Pick<IncomingRequest, "protocol">): boolean {
  return protocol === localProtocol;
}

function later(log: Log, run: () => void): void {
  queueMicrotask(() => void guard(log, run));
}

function replyOf(status: number, reason: string, { headers = [], body = "" }: ReplyOptions = {}): Reply {
  return { ...receivedHeaders(headers), status, reason, body, sourceAddress: "" };
}

class LocalRequest implements IncomingRequest {
  readonly method: string;
  readonly uri: string;
  readonly body: string;
  readonly protocol = localProtocol;
  readonly sourceAddress = "";
  readonly sourcePort = 0;
  readonly #headers: ReceivedHeaders;
  readonly #answered: (reply: Reply) => void;
  #settled = false;

  constructor(
    method: string,
    uri: string,
    { headers = [], body = "" }: ReplyOptions,
    answered: (reply: Reply) => void,
  ) {
    this.#headers = receivedHeaders(headers);
    this.method = method;
    this.uri = uri;
    this.body = body;
    this.#answered = answered;
  }

  get settled(): boolean {
    return this.#settled;
  }

  header(name: string): string | undefined {
    return this.#headers.header(name);
  }

  headerLines(name: string): readonly string[] {
    return this.#headers.headerLines(name);
  }

  respond(status: number, reason = "", options: ReplyOptions = {}): void {
    if (this.#settled || status < 200) return;
    this.#settled = true;
    this.#answered(replyOf(status, reason, options));
  }

  ignore(): void {
    this.respond(408);
  }

  /** It is answered in another way, or was cancelled. False when it had an answer before. */
  settle(): boolean {
    const open = !this.#settled;
    this.#settled = true;
    return open;
  }
}

class LocalDialog implements SipDialog {
  readonly callId = "";
  readonly localTag = "";
  readonly remoteTag = "";
  readonly remoteUri = "sip:invalid";
  readonly localContact = "<sip:invalid>";
  readonly #log: Log;
  #peer: LocalDialog | undefined;
  #events: DialogEvents | undefined;

  constructor(log: Log) {
    this.#log = log;
  }

  static pair(log: Log): readonly [LocalDialog, LocalDialog] {
    const [one, other] = [new LocalDialog(log), new LocalDialog(log)];
    one.#peer = other;
    other.#peer = one;
    return [one, other];
  }

  get connected(): boolean {
    return this.#peer !== undefined;
  }

  listen(events: DialogEvents): void {
    this.#events = events;
  }

  forget(): void {
    this.#events = undefined;
    this.#peer = undefined;
  }

  acknowledged(): void {
    later(this.#log, () => this.#events?.acknowledged(""));
  }

  async send(
    method: "BYE" | "INFO" | "INVITE" | "NOTIFY" | "OPTIONS" | "REFER",
    options: ReplyOptions,
  ): Promise<Reply> {
    return new Promise((resolve) => {
      later(this.#log, () => {
        const peer = this.#peer;
        const events = peer === undefined ? undefined : peer.#events;
        if (peer === undefined || events === undefined) {
          resolve(replyOf(481, "Call/Transaction Does Not Exist"));
          return;
        }
        if (method === "BYE") {
          peer.forget();
          this.forget();
          resolve(replyOf(200, "OK"));
          events.ended({ byPeer: true, text: "", headers: receivedHeaders(options.headers ?? []) });
          return;
        }
        const request = new LocalRequest(method, this.remoteUri, options, (reply) => {
          if (method === "INVITE" && reply.status < 300) peer.acknowledged();
          resolve(reply);
        });
        if (method === "INVITE") events.offered(request);
        else events.asked(request);
      });
    });
  }
}

class LocalInvite extends LocalRequest implements IncomingInvite {
  readonly #log: Log;
  readonly #events: InviteEvents;
  #onCancel: ((cancel: ReceivedHeaders) => void) | undefined;
  #cancel: ReceivedHeaders | undefined;

  constructor({ uri, headers, sdp }: InviteOptions, events: InviteEvents, log: Log) {
    super("INVITE", uri, { headers, body: sdp }, (reply) => {
      later(log, () => {
        events.failed(reply);
      });
    });
    this.#events = events;
    this.#log = log;
  }

  onCancel(run: (cancel: ReceivedHeaders) => void): void {
    if (this.#cancel === undefined) this.#onCancel = run;
    else run(this.#cancel);
  }

  /** False when it had an answer before. */
  cancelled(headers: readonly HeaderLine[]): boolean {
    if (!this.settle()) return false;
    const cancel = receivedHeaders(headers);
    this.#cancel = cancel;
    later(this.#log, () => this.#onCancel?.(cancel));
    return true;
  }

  accept(sdp: string, headers: readonly HeaderLine[], on: AcceptEvents): void {
    if (!this.settle()) {
      on.failed(new SipFault("cancelled", "the request has been answered or cancelled before"));
      return;
    }
    const [caller, called] = LocalDialog.pair(this.#log);
    const type = { name: "Content-Type", value: "application/sdp" };
    later(this.#log, () => {
      on.accepted(called);
      this.#events.answered(caller, replyOf(200, "OK", { headers: [type, ...headers], body: sdp }));
      called.acknowledged();
    });
  }
}

/** Sends an INVITE to a leg of another call of ours. */
export function inviteLocally(
  options: InviteOptions,
  events: InviteEvents,
  take: (invite: IncomingInvite) => void,
  log: Log,
): OutgoingInvite {
  const invite = new LocalInvite(options, events, log);
  later(log, () => {
    if (!invite.settled) take(invite);
  });
  return {
    cancel: (headers) => {
      if (!invite.cancelled(headers)) return;
      later(log, () => {
        events.failed(replyOf(487, "Request Terminated"));
      });
    },
    abandon: () => {
      invite.cancelled([]);
    },
  };
}
