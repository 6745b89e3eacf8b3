import { isIP } from "node:net";

import type { EngineLog } from "./options.ts";
import { param } from "./sip/grammar.ts";
import type { SipUri } from "./sip/grammar.ts";
import type { SipRequest } from "./sip/message.ts";
import { defaultPort } from "./transport/index.ts";
import type { Protocol, TransportLayer } from "./transport/index.ts";
import type { TargetResolver } from "./transport/resolve.ts";
import type { TransactionLayer } from "./txn/index.ts";
import type { Network, NextHop, Outbound, OutboundEvents, Resolution } from "./ua/core.ts";
import type { LocalHost } from "./ua/headers.ts";

/** The layers below the user agent, in the words of the user agent. */
export class EngineNetwork implements Network {
  readonly #transport: TransportLayer;
  readonly #transactions: TransactionLayer;
  readonly #resolver: TargetResolver;
  readonly #log: EngineLog;

  constructor(transport: TransportLayer, transactions: TransactionLayer, resolver: TargetResolver, log: EngineLog) {
    this.#transport = transport;
    this.#transactions = transactions;
    this.#resolver = resolver;
    this.#log = log;
  }

  localFor(hop: NextHop): LocalHost {
    const [first] = this.#transport.listeners();
    return (
      this.#transport.sentBy(hop) ?? {
        host: first?.external ?? first?.address ?? "127.0.0.1",
        port: first?.port ?? 5060,
      }
    );
  }

  resolve(uri: SipUri, done: (resolution: Resolution) => void, address?: string): void {
    const [preferred, ...others] = this.#protocolsOf(uri);
    if (preferred === undefined) {
      done({ type: "noTransport" });
      return;
    }
    // `maddr` is not followed: it would take a request past whoever judged the host of its URI. That of a proxy which the
    // application names is its own judgement and comes as `address`.
    const { host, port } = uri;
    if (address !== undefined || isIP(host) !== 0) {
      const hop: NextHop = {
        protocol: preferred,
        address: address ?? host,
        port: port ?? defaultPort(preferred),
        // RFC 5922 §4: who listens at that address has to be the domain that was asked for.
        ...(address !== undefined && preferred === "tls" ? { domain: host } : {}),
      };
      done(this.#transport.listenerFor(hop) === undefined ? { type: "noTransport" } : { type: "hops", hops: [hop] });
      return;
    }
    const found = this.#resolver.resolve({ host, port, protocols: [preferred, ...others] }).then(
      (outcome) => {
        if (!outcome.ok) {
          done({ type: "failed", reason: outcome.reason === "timeout" ? "name lookup timed out" : "name not found" });
          return;
        }
        // RFC 5922 §4: the certificate has to name the domain that was asked for, not what DNS made of it.
        const [first, ...rest] = outcome.addresses.map((one): NextHop =>
          one.protocol === "tls" ? { ...one, domain: host } : one,
        );
        done(
          first === undefined ? { type: "failed", reason: "name not found" } : { type: "hops", hops: [first, ...rest] },
        );
      },
      () => {
        done({ type: "failed", reason: "name lookup failed" });
      },
    );
    // A rejection that nobody handles would end the process.
    found.catch((error: unknown) => {
      this.#log.error("a request could not be sent behind a name lookup", { error });
    });
  }

  /**
   * RFC 3263 §4.1: what may carry a request to that URI, best first. The transport parameter decides, else UDP before TCP,
   * and TLS where there is nothing else.
   */
  #protocolsOf(uri: SipUri): readonly Protocol[] {
    const asked = param(uri.params, "transport")?.toLowerCase();
    const offers = (protocol: Protocol): boolean =>
      this.#transport.listeners().some((listener) => listener.protocol === protocol);
    let allowed: readonly Protocol[];
    if (uri.scheme === "sips") {
      // RFC 5630 §3.1.2: TLS and nothing else; its transport is called tcp.
      allowed = asked === undefined || asked === "tcp" || asked === "tls" ? ["tls"] : [];
    } else if (asked === undefined) {
      allowed = offers("udp") || offers("tcp") ? ["udp", "tcp"] : ["tls"];
    } else {
      allowed = asked === "udp" || asked === "tcp" || asked === "tls" ? [asked] : [];
    }
    return allowed.filter(offers);
  }

  isOwn(host: string, port: number): boolean {
    return this.#transport.isOwnAddress(host, port);
  }

  request(request: SipRequest, hops: readonly NextHop[], on: OutboundEvents): Outbound {
    return this.#transactions.request(request, hops, on);
  }

  send(message: SipRequest, hops: readonly NextHop[]): void {
    const [hop, ...others] = hops;
    if (hop !== undefined) {
      this.#transactions.send(message, hop, () => {
        this.send(message, others);
      });
    }
  }

  takesRequests(connection: object): boolean {
    return this.#transport.takesRequests(connection);
  }

  viaFor(hop: NextHop): string {
    return this.#transactions.viaFor(hop);
  }
}
