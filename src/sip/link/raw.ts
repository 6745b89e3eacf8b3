import type { EventEmitter } from "node:events";
import type { Socket } from "node:net";

import { readHeaders } from "../message.ts";
import type { HeaderLine } from "../message.ts";
import type { Reply } from "./types.ts";

// The typings of drachtio-srf are thin and partly wrong; these say what 5.0.29 really has, as far as it is used.

export interface RawMessage {
  readonly raw?: string;
}

export interface RawRequest extends EventEmitter {
  readonly method: string;
  readonly uri: string;
  readonly body?: string;
  readonly msg: RawMessage;
  readonly source: string;
  readonly source_address: string;
  readonly source_port: number;
  readonly protocol: string;
  readonly stackTxnId?: string;
  readonly stackDialogId?: string;
  readonly srf: RawSrf;
  socket: Socket;
  has(name: string): boolean;
  cancel(options: { headers?: Record<string, string> }, callback: () => void): void;
}

export interface RawResponse extends EventEmitter {
  readonly status: number;
  readonly reason?: string;
  readonly body?: string;
  readonly msg: RawMessage;
  readonly headers: Record<string, string>;
  readonly finalResponseSent: boolean;
  readonly source_address?: string;
  readonly stackDialogId?: string;
  socket: Socket;
  send(status: number, reason: string | object, options?: object): void;
}

export interface RawDialog extends EventEmitter {
  readonly id: string;
  readonly sip: { readonly callId: string; readonly localTag?: string; readonly remoteTag?: string };
  readonly local: { readonly contact: string };
  readonly remote: { readonly uri: string };
  readonly req: RawRequest;
  readonly res: RawResponse;
  connected: boolean;
}

export type Middleware = (req: RawRequest, res: RawResponse) => void;

export interface RawSrf extends EventEmitter {
  readonly app: {
    readonly client?: {
      readonly mapServer: Map<Socket, { readonly pendingRequests: Map<string, () => void> }>;
      routeVerbs(socket: Socket): void;
      readonly wp: {
        closing?: boolean;
        readonly reconnectVars?: { retryTimer?: NodeJS.Timeout | null };
        send(socket: Socket, message: string): string;
      };
    };
  };
  connect(options: object): void;
  listen(options: object): void;
  use(run: Middleware): void;
  /** Throws when the verb was never asked for. */
  unregisterForMessages(verb: string): void;
  invite(run: Middleware): void;
  options(run: Middleware): void;
  register(run: Middleware): void;
  message(run: Middleware): void;
  subscribe(run: Middleware): void;
  publish(run: Middleware): void;
  notify(run: Middleware): void;
  info(run: Middleware): void;
  refer(run: Middleware): void;
  update(run: Middleware): void;
  request(uri: string, options: object, callback: (error: unknown, request?: RawRequest) => void): void;
  createUAS(
    req: RawRequest,
    res: RawResponse,
    options: object,
    callback: (error: unknown, dialog?: RawDialog) => void,
  ): void;
  createUAC(
    options: object,
    progress: {
      cbRequest(error: unknown, request?: RawRequest): void;
      cbProvisional(response: RawResponse): void;
    },
    callback: (error: unknown, dialog?: RawDialog) => void,
  ): void;
  removeDialog(dialog: RawDialog): void;
}

export const sdpType: HeaderLine = { name: "Content-Type", value: "application/sdp" };

/**
 * Header lines as the object drachtio-srf wants. A repeated name is written with other capitals, which makes it another
 * key and the same header; a name that every object has by nature (`constructor`) too, because the library would find
 * the inherited one.
 */
export function headerRecord(lines: readonly HeaderLine[]): Record<string, string> {
  const record: Record<string, string> = {};
  for (const { name, value } of lines) {
    let key = name;
    for (let variant = 1; key in record; variant += 1) {
      key = caseVariant(name, variant);
    }
    record[key] = value;
  }
  return record;
}

/** The name with its letters' case flipped where the bits of `variant` are set. */
function caseVariant(name: string, variant: number): string {
  let letter = 0;
  return Array.from(name)
    .map((character) => {
      const upper = character.toUpperCase();
      const lower = character.toLowerCase();
      if (upper === lower) {
        return character;
      }
      const flip = (variant >> Math.min(letter, 30)) & 1;
      letter += 1;
      return flip === 0 ? character : character === upper ? lower : upper;
    })
    .join("");
}

export function cleanReason(reason: string): string {
  return reason.replaceAll(/[^\x20-\x7e]/g, " ").slice(0, 128);
}

export function replyOf(response: RawResponse): Reply {
  return {
    ...readHeaders(response.msg.raw ?? ""),
    status: response.status,
    reason: response.reason ?? "",
    body: response.body ?? "",
    sourceAddress: response.source_address ?? "",
  };
}

export function responseOf(error: unknown): RawResponse | null {
  return error instanceof Error && "res" in error ? (error.res as RawResponse) : null;
}
