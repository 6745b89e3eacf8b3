import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { once } from "node:events";
import type { AddressInfo } from "node:net";

export interface AdminOptions {
  readonly address: string;
  /** 0 takes a free port. */
  readonly port: number;
  /** What `/readyz` tells: `ready`, by which it is 200 or 503, and whatever else is known. */
  readonly state: () => { readonly ready: boolean };
  readonly metrics: () => Promise<{ contentType: string; body: string }>;
}

/** `/livez`, `/readyz` and `/metrics`; nothing here changes anything. */
export class AdminServer {
  readonly #options: AdminOptions;
  readonly #server: Server;

  constructor(options: AdminOptions) {
    this.#options = options;
    this.#server = createServer({ requestTimeout: 10_000, headersTimeout: 5_000 }, (request, response) => {
      this.#answer(request, response).catch(() => response.destroy());
    });
    this.#server.maxConnections = 64;
  }

  /** Rejects when the address is in use. */
  async start(): Promise<number> {
    this.#server.listen(this.#options.port, this.#options.address);
    await once(this.#server, "listening");
    return (this.#server.address() as AddressInfo).port;
  }

  async close(): Promise<void> {
    if (!this.#server.listening) return;
    this.#server.close();
    this.#server.closeAllConnections();
    await once(this.#server, "close");
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = (request.url ?? "").split("?")[0];
    if (request.method !== "GET" && request.method !== "HEAD") return send(response, 405, "text/plain", "GET only\n");
    switch (path) {
      case "/livez":
        return send(response, 200, "text/plain", "ok\n");
      case "/readyz": {
        const state = this.#options.state();
        return send(response, state.ready ? 200 : 503, "application/json", `${JSON.stringify(state)}\n`);
      }
      case "/metrics": {
        const { contentType, body } = await this.#options.metrics();
        return send(response, 200, contentType, body);
      }
      default:
        return send(response, 404, "text/plain", "/livez, /readyz or /metrics\n");
    }
  }
}

function send(response: ServerResponse, status: number, contentType: string, body: string): void {
  response.writeHead(status, { "content-type": contentType, "content-length": Buffer.byteLength(body) });
  response.end(body);
}
