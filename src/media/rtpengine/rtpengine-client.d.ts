// rtpengine-client 0.4.12 has no types: this declares the part that ng.ts uses, inner methods included.
declare module "rtpengine-client" {
  import type { EventEmitter } from "node:events";

  interface Target {
    readonly host: string;
    readonly port: number;
  }
  type Command = (target: Target, parameters: object) => Promise<unknown>;

  export class Client extends EventEmitter {
    constructor(options: { readonly timeout: number; readonly localAddress?: string; readonly localPort?: number });
    /** Callbacks by cookie; a cookie that is not here was answered before or given up. */
    readonly messages: ReadonlyMap<string, unknown>;
    /** Datagrams that have arrived and are decoded in the next turn. */
    readonly incomingMsgs: Buffer[];
    readonly offer: Command;
    readonly answer: Command;
    readonly delete: Command;
    readonly query: Command;
    readonly list: Command;
    readonly ping: Command;
    readonly playMedia: Command;
    readonly stopMedia: Command;
    readonly blockMedia: Command;
    readonly unblockMedia: Command;
    readonly blockDTMF: Command;
    readonly unblockDTMF: Command;
    readonly playDTMF: Command;
    readonly startRecording: Command;
    readonly stopRecording: Command;
    close(): void;
    protected _handleIncomingMessages(): void;
    protected _onParsedMessage(message: { readonly id: string; readonly data: unknown }): void;
    protected _onMessageTimeout(cookie: string): void;
    static decodeMessage(message: Buffer): { readonly id: string; readonly data: unknown };
  }
}
