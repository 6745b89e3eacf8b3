// Stand-ins for what lies below and above the user agent core, so that it runs without sockets and on a manual clock.
import type { CommandReply, Delivery, EngineEvents } from "../../src/engine/events.ts";
import type { SipUri } from "../../src/engine/sip/grammar.ts";
import { defaultMessageLimits, parseMessage } from "../../src/engine/sip/parse.ts";
import type { SipRequest, SipResponse } from "../../src/engine/sip/message.ts";
import type { ParseOutcome } from "../../src/engine/sip/parse.ts";
import type {
  Inbound,
  Network,
  NextHop,
  Origin,
  Outbound,
  OutboundEvents,
  Resolution,
} from "../../src/engine/ua/core.ts";
import type { ManualClock } from "./engine-clock.ts";

export const origin: Origin = {
  protocol: "udp",
  address: "192.0.2.9",
  port: 5070,
  local: { address: "192.0.2.1", port: 5060 },
};

export class FakeInbound implements Inbound {
  readonly responses: SipResponse[] = [];
  abandoned = false;
  open = true;
  readonly key: string;
  readonly request: SipRequest;
  readonly source: Origin;

  constructor(key: string, request: SipRequest, source: Origin) {
    this.key = key;
    this.request = request;
    this.source = source;
  }

  respond(response: SipResponse): boolean {
    if (this.open) {
      this.responses.push(response);
    }
    return this.open;
  }

  abandon(): void {
    this.abandoned = true;
  }

  get statuses(): number[] {
    return this.responses.map((response) => response.status);
  }
}

export class FakeOutbound implements Outbound {
  cancels = 0;
  abandoned = false;
  readonly request: SipRequest;
  readonly hops: readonly NextHop[];
  readonly on: OutboundEvents;

  constructor(request: SipRequest, hops: readonly NextHop[], on: OutboundEvents) {
    this.request = request;
    this.hops = hops;
    this.on = on;
  }

  cancel(): void {
    this.cancels += 1;
  }

  abandon(): void {
    this.abandoned = true;
  }

  respond(status: number, reason = "Whatever", tag = "their-tag", lines: readonly string[] = []): void {
    const { headers } = this.request;
    const to = headers.get("To") ?? "";
    this.on.response(
      response(
        [
          `SIP/2.0 ${status} ${reason}`,
          `Via: ${headers.get("Via")}`,
          `From: ${headers.get("From")}`,
          `To: ${to.includes("tag=") ? to : `${to};tag=${tag}`}`,
          `Call-ID: ${headers.get("Call-ID")}`,
          `CSeq: ${headers.get("CSeq")}`,
          ...(status < 300 ? ["Contact: <sip:peer@192.0.2.9:5070>"] : []),
          ...lines,
        ].join("\r\n"),
      ),
      origin,
    );
  }
}

export class FakeNetwork implements Network {
  readonly requests: FakeOutbound[] = [];
  readonly sent: { message: SipRequest; hops: readonly NextHop[] }[] = [];
  readonly openConnections = new Set<object>();
  readonly lookups: { uri: SipUri; done: (resolution: Resolution) => void }[] = [];

  localFor(): { host: string; port: number } {
    return { host: "192.0.2.1", port: 5060 };
  }
  resolve(uri: SipUri, done: (resolution: Resolution) => void): void {
    if (/^[\d.]+$/.test(uri.host)) {
      done({ type: "hops", hops: [{ protocol: "udp", address: uri.host, port: uri.port ?? 5060 }] });
    } else {
      this.lookups.push({ uri, done });
    }
  }
  isOwn(host: string, port: number): boolean {
    return host === "192.0.2.1" && port === 5060;
  }
  request(request: SipRequest, hops: readonly NextHop[], on: OutboundEvents): Outbound {
    const sent = request.clone();
    sent.headers.prepend("Via", "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKx");
    const outbound = new FakeOutbound(sent, hops, on);
    this.requests.push(outbound);
    return outbound;
  }
  send(message: SipRequest, hops: readonly NextHop[]): void {
    this.sent.push({ message, hops });
  }
  takesRequests(connection: object): boolean {
    return this.openConnections.has(connection);
  }
  viaFor(): string {
    return "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKack";
  }
  last(method: string): FakeOutbound {
    const found = this.requests.findLast((one) => one.request.method === method);
    if (found === undefined) {
      throw new Error(`no ${method} was sent`);
    }
    return found;
  }
}

/** Ends client transactions like timers B and F do; a proceeding INVITE is the user agent's own matter. */
export class TimedNetwork extends FakeNetwork {
  readonly #clock: ManualClock;

  constructor(clock: ManualClock) {
    super();
    this.#clock = clock;
  }

  override request(sent: SipRequest, hops: readonly NextHop[], on: OutboundEvents): Outbound {
    let state: "waiting" | "proceeding" | "over" = "waiting";
    const outbound = super.request(sent, hops, {
      response: (response, source) => {
        const twoHundred = response.status >= 200 && response.status < 300 && sent.method === "INVITE";
        if (state === "over" && !twoHundred) {
          return;
        }
        state = response.status >= 200 ? "over" : "proceeding";
        on.response(response, source);
      },
      timeout: () => undefined,
      transportError: () => undefined,
    }) as FakeOutbound;
    this.#clock.after(32_000, () => {
      if ((state === "waiting" || (state === "proceeding" && sent.method !== "INVITE")) && !outbound.abandoned) {
        state = "over";
        on.timeout();
      }
    });
    return outbound;
  }
}

export class FakeApps implements EngineEvents {
  readonly connected = new Set([1]);
  readonly verbs = new Set(["invite", "options", "info"]);
  readonly deliveries: (Delivery & { client: number; text: string })[] = [];
  readonly replies: (CommandReply & { requestId: string })[] = [];

  choose(verb: string): number | undefined {
    return this.verbs.has(verb) ? [...this.connected][0] : undefined;
  }
  heirOf(): number | undefined {
    return this.connected.size === 1 ? [...this.connected][0] : undefined;
  }
  isConnected(client: number): boolean {
    return this.connected.has(client);
  }
  deliver(client: number, delivery: Delivery): boolean {
    if (!this.connected.has(client)) {
      return false;
    }
    this.deliveries.push({ ...delivery, client, text: delivery.message.toString() });
    return true;
  }
  reply(_client: number, requestId: string, reply: CommandReply): void {
    this.replies.push({ ...reply, requestId });
  }
  get refusals(): string[] {
    return this.replies.flatMap((reply) => (reply.type === "refused" ? [reply.text] : []));
  }
  get lastTxn(): string {
    return this.deliveries.at(-1)?.txnId ?? "";
  }
  get lastLine(): string {
    return this.deliveries.at(-1)?.text.split("\r\n")[0] ?? "";
  }
}

function parsed(text: string): ParseOutcome {
  return parseMessage(Buffer.from(`${text}\r\n\r\n`), defaultMessageLimits, "datagram");
}

export function response(text: string): SipResponse {
  const outcome = parsed(text);
  if (!outcome.ok || outcome.message.kind !== "response") {
    throw new Error(`no response: ${text}`);
  }
  return outcome.message;
}

export function request(text: string): SipRequest {
  const outcome = parsed(text);
  if (!outcome.ok || outcome.message.kind !== "request") {
    throw new Error(`no request: ${outcome.ok ? "a response" : outcome.reason}`);
  }
  return outcome.message;
}
