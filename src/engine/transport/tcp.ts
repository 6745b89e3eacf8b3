import { connect, createServer, isIP, type Server, type Socket } from "node:net";
import { connect as connectTls, createServer as createTlsServer, type SecureContext } from "node:tls";

import type { MessageLimits } from "../sip/parse.ts";
import type { Clock } from "../timers.ts";
import { plainAddress } from "./sources.ts";
import {
  type PeerAddress,
  type StreamPeer,
  type StreamProtocol,
  TcpConnection,
  type TcpEvents,
  type TcpLimits,
} from "./tcp-connection.ts";
import { namesDomain, oldestTls, secureContext, type TlsOptions } from "./tls.ts";

// The kernel asks a silent peer whether he is still there and breaks the connection when he is not.
const kernelProbeMs = 30_000;

export interface TcpParts {
  readonly limits: TcpLimits;
  readonly messageLimits: MessageLimits;
  readonly clock: Clock;
  readonly events: TcpEvents;
}

/** Where a message goes on a stream. */
export interface StreamRoute {
  readonly peer: StreamPeer;
  readonly connection?: TcpConnection | undefined;
  /** The listener it leaves from, and how that one speaks TLS. */
  readonly local: PeerAddress;
  readonly tls?: TlsOptions | undefined;
  readonly connectTimeoutMs?: number | undefined;
}

/** All TCP and TLS listeners and connections of the engine. */
export class TcpTransport {
  readonly #parts: TcpParts;
  readonly #events: TcpEvents;
  readonly #servers = new Set<Server>();
  readonly #connections = new Set<TcpConnection>();
  /** Connections that a request to that peer can go out on. */
  readonly #byPeer = new Map<string, TcpConnection>();
  /** Sockets that peers opened, whether their handshake is done or not. */
  readonly #accepted = new Set<Socket>();
  readonly #openedByAddress = new Map<string, number>();
  /** Of the accepted ones, those of addresses that were not on the list. */
  #strangers = 0;
  readonly #contexts = new Map<TlsOptions, SecureContext>();
  /** Open connections of ours. */
  #dialled = 0;
  #refused = 0;
  #handshakesFailed = 0;

  constructor(parts: TcpParts) {
    this.#parts = parts;
    this.#events = {
      onPiece: (piece, connection) => parts.events.onPiece(piece, connection),
      isListed: (address) => parts.events.isListed(address),
      isInUse: (connection) => parts.events.isInUse(connection),
      isNeeded: (connection) => parts.events.isNeeded(connection),
      onError: (error) => {
        parts.events.onError(error);
      },
      onClosed: (connection, error) => {
        this.#forget(connection);
        parts.events.onClosed(connection, error);
      },
    };
  }

  get connections(): number {
    return this.#connections.size;
  }

  /** Connections refused because a limit was reached. */
  get refused(): number {
    return this.#refused;
  }

  /** Handshakes that came to nothing, in either direction. */
  get handshakesFailed(): number {
    return this.#handshakesFailed;
  }

  /**
   * Listens for TCP, or for TLS where `tls` is given. Resolves with the port really bound; rejects with the system's error
   * when the address is taken, with OpenSSL's when the certificate cannot be used.
   */
  async listen(
    address: string,
    port: number,
    options: { readonly tls?: TlsOptions | undefined; readonly ipv6Only?: boolean } = {},
  ): Promise<number> {
    const { tls, ipv6Only = false } = options;
    let boundPort = port;
    const open = (socket: Socket): void => {
      const reached = isWildcard(address) ? plainAddress(socket.localAddress ?? address) : address;
      this.#open(socket, { address: reached, port: boundPort }, tls === undefined ? "tcp" : "tls");
    };
    const server =
      tls === undefined ? createServer({ ...socketOptions, allowHalfOpen: true }) : this.#tlsServer(tls, open);
    server.on("connection", (socket: Socket) => {
      if (this.#admit(socket) && tls === undefined) {
        open(socket);
      }
    });
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen({ host: address, port, exclusive: true, ipv6Only }, () => {
        server.off("error", reject);
        // Accepting may fail later (too many open files): that must not end the process.
        server.on("error", (error) => {
          this.#parts.events.onError(error);
        });
        resolve();
      });
    });
    this.#servers.add(server);
    const bound = server.address();
    boundPort = typeof bound === "object" && bound !== null ? bound.port : port;
    return boundPort;
  }

  /** Sends on the open connection given or known for that peer, else opens one. */
  send(bytes: Buffer, to: StreamRoute, onError: (error: Error) => void): void {
    const open = to.connection?.isOpen === true ? to.connection : this.connectionTo(to.peer);
    if (open !== undefined) {
      open.send(bytes, onError);
      return;
    }
    if (this.#size >= this.#parts.limits.connections) {
      this.#refused += 1;
      queueMicrotask(() => {
        onError(new Error("too many connections"));
      });
      return;
    }
    this.#connect(to).send(bytes, onError);
  }

  /** The connection that a request to that peer would go out on. */
  connectionTo(peer: StreamPeer): TcpConnection | undefined {
    const connection = this.#byPeer.get(peerKey(peer));
    return connection?.takesRequests === true ? connection : undefined;
  }

  async close(): Promise<void> {
    const closed = [...this.#servers].map(
      (server) =>
        new Promise<void>((resolve) => {
          server.close(() => {
            resolve();
          });
        }),
    );
    this.#servers.clear();
    for (const connection of this.#connections) {
      connection.destroy();
    }
    for (const socket of this.#accepted) {
      socket.destroy();
    }
    await Promise.all(closed);
  }

  get #size(): number {
    return this.#accepted.size + this.#dialled;
  }

  #connect({ peer, local, tls, connectTimeoutMs }: StreamRoute): TcpConnection {
    const options = {
      ...socketOptions,
      host: peer.address,
      port: peer.port,
      // From the address that Via and Contact name, so that the peer's own allow-list recognises us.
      ...(isWildcard(local.address) ? {} : { localAddress: local.address }),
    };
    if (peer.protocol === "tcp" || tls === undefined) {
      const socket = connect({ ...options, allowHalfOpen: true });
      return this.#add(socket, peer, local, "us", connectTimeoutMs);
    }
    const domain = peer.domain ?? peer.address;
    const socket = connectTls({
      ...options,
      secureContext: this.#contextOf(tls),
      minVersion: oldestTls,
      // RFC 6066 §3: names only. RFC 5922 §4: it is the SIP domain asked for, whatever name DNS gave for it.
      ...(isIP(domain) === 0 ? { servername: domain } : {}),
      rejectUnauthorized: tls.verifyServers ?? true,
      checkServerIdentity: (_host, certificate) =>
        namesDomain(certificate, domain) ? undefined : new Error(`the certificate does not name ${domain}`),
    });
    socket.setKeepAlive(true, kernelProbeMs);
    socket.on("error", () => {
      this.#handshakesFailed += socket.authorized ? 0 : 1;
    });
    return this.#add(socket, peer, local, "us", connectTimeoutMs);
  }

  #tlsServer(tls: TlsOptions, open: (socket: Socket) => void): Server {
    const required = tls.requireClientCertificate ?? false;
    const server = createTlsServer({
      ...socketOptions,
      // Said here again, because a server makes its own context.
      cert: tls.certificate,
      key: tls.key,
      ...(tls.authorities === undefined ? {} : { ca: tls.authorities }),
      minVersion: oldestTls,
      requestCert: required,
      rejectUnauthorized: required,
      handshakeTimeout: this.#parts.limits.partialMessageMs,
    });
    server.on("secureConnection", open);
    server.on("tlsClientError", (_error, socket) => {
      this.#handshakesFailed += 1;
      socket.destroy();
    });
    return server;
  }

  #contextOf(tls: TlsOptions): SecureContext {
    const known = this.#contexts.get(tls) ?? secureContext(tls);
    this.#contexts.set(tls, known);
    return known;
  }

  /** Counts a socket that a peer opened, or closes it where there are too many. */
  #admit(socket: Socket): boolean {
    const address = plainAddress(socket.remoteAddress ?? "");
    const opened = this.#openedByAddress.get(address) ?? 0;
    const { connections, connectionsPerAddress, strangerConnections } = this.#parts.limits;
    const isStranger = !this.#events.isListed(address);
    if (
      address === "" ||
      opened >= connectionsPerAddress ||
      this.#size >= connections ||
      // Without a share of their own, a few addresses could keep every listed peer out.
      (isStranger && this.#strangers >= strangerConnections)
    ) {
      this.#refused += 1;
      socket.on("error", () => undefined);
      socket.destroy();
      return false;
    }
    this.#openedByAddress.set(address, opened + 1);
    this.#accepted.add(socket);
    this.#strangers += isStranger ? 1 : 0;
    socket.on("close", () => {
      this.#accepted.delete(socket);
      this.#strangers -= isStranger ? 1 : 0;
      const left = (this.#openedByAddress.get(address) ?? 1) - 1;
      if (left === 0) {
        this.#openedByAddress.delete(address);
      } else {
        this.#openedByAddress.set(address, left);
      }
    });
    return true;
  }

  #open(socket: Socket, local: PeerAddress, protocol: StreamProtocol): void {
    const address = plainAddress(socket.remoteAddress ?? "");
    if (address === "") {
      socket.destroy();
      return;
    }
    this.#add(socket, { protocol, address, port: socket.remotePort ?? 0 }, local, "peer");
  }

  #add(
    socket: Socket,
    peer: StreamPeer,
    local: PeerAddress,
    opener: "us" | "peer",
    connectTimeoutMs = this.#parts.limits.connectTimeoutMs,
  ): TcpConnection {
    const { messageLimits, clock } = this.#parts;
    const limits = opener === "us" ? { ...this.#parts.limits, connectTimeoutMs } : this.#parts.limits;
    this.#dialled += opener === "us" ? 1 : 0;
    const connection = new TcpConnection({
      socket,
      peer,
      local,
      opener,
      limits,
      messageLimits,
      clock,
      events: this.#events,
    });
    this.#connections.add(connection);
    // RFC 5923 §5: a connection that a peer opened is a way to him only where TCP says nothing about who he is anyway; by
    // TLS he has not shown that the domain is his. What came over it is answered on it all the same.
    if (peer.protocol === "tcp" || opener === "us") {
      this.#byPeer.set(peerKey(peer), connection);
    }
    return connection;
  }

  #forget(connection: TcpConnection): void {
    if (!this.#connections.delete(connection)) {
      return;
    }
    if (connection.opener === "us") {
      this.#dialled -= 1;
    }
    const key = peerKey(connection.peer);
    if (this.#byPeer.get(key) === connection) {
      this.#byPeer.delete(key);
    }
  }
}

const socketOptions = { noDelay: true, keepAlive: true, keepAliveInitialDelay: kernelProbeMs };

function peerKey({ protocol, domain, address, port }: StreamPeer): string {
  return `${protocol} ${address} ${port} ${domain ?? ""}`;
}

/** Whether the address means "all addresses of this machine". */
export function isWildcard(address: string): boolean {
  return address === "0.0.0.0" || address === "::";
}
