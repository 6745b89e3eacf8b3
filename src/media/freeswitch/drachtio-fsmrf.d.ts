// drachtio-fsmrf 5.0.1 has no types: this declares the part that fsmrf.ts uses.
declare module "drachtio-fsmrf" {
  import type { EventEmitter } from "node:events";
  import type { Socket } from "node:net";

  interface EslEvent {
    getHeader(name: string): string | null | undefined;
    getBody(): string | undefined;
  }
  interface EslConnection {
    /** Null when it is closed. */
    readonly socket: Socket | null;
    on(event: string, run: (event: EslEvent) => void): void;
    api(command: string, args: string, callback: (event: EslEvent) => void): void;
    subscribe(events: string): void;
  }
  interface Endpoint extends EventEmitter {
    readonly uuid: string;
    /** Null when FreeSWITCH has closed the connection of this channel. */
    readonly conn: EslConnection | null;
  }
  interface MediaServer extends EventEmitter {
    readonly maxSessions: number;
    readonly currentSessions: number;
    readonly conn: EslConnection | null;
    createEndpoint(options: {
      readonly remoteSdp: string;
      readonly headers: Readonly<Record<string, string>>;
    }): Promise<Endpoint>;
    api(command: string): Promise<string>;
    disconnect(): void;
  }
  export default class Mrf extends EventEmitter {
    constructor(srf: object);
    connect(options: {
      readonly address: string;
      readonly port: number;
      readonly secret: string;
      readonly listenAddress: string;
      readonly listenPort: number;
      readonly advertisedAddress?: string;
      readonly profile: string;
    }): Promise<MediaServer>;
  }
}
