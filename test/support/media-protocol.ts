// What a phone and the thread that carries its sound say to each other.
import type { CodecName } from "./g711.ts";
import type { RtpPacket } from "./rtp-capture.ts";

export type Sound =
  | { readonly type: "silence" }
  | { readonly type: "tone"; readonly hz: number; readonly amplitude: number }
  | { readonly type: "samples"; readonly samples: Int16Array; readonly repeat: boolean };

export type MediaOrder =
  | { readonly type: "open"; readonly id: number; readonly address: string; readonly timestamp: number | null }
  | { readonly type: "close"; readonly id: number }
  /** Starts sending, or changes where to and in which codec; one SSRC over the life of the socket. */
  | {
      readonly type: "send";
      readonly id: number;
      readonly address: string;
      readonly port: number;
      readonly codec: CodecName;
    }
  | { readonly type: "pause"; readonly id: number }
  | { readonly type: "sound"; readonly id: number; readonly sound: Sound }
  | {
      readonly type: "digits";
      readonly id: number;
      readonly digits: string;
      readonly payloadType: number;
      readonly durationMs: number;
      readonly pauseMs: number;
    }
  /** Asks for the packets that arrived since the last time. */
  | { readonly type: "collect"; readonly id: number; readonly token: number };

export interface SendingReport {
  readonly packetsSent: number;
  /** How late the latest packet left, against its place in the 20 ms grid. Above some 15 ms the witness was disturbed. */
  readonly latestMs: number;
  readonly ssrc: number;
}

export type MediaNews =
  | { readonly type: "opened"; readonly id: number; readonly port: number }
  | { readonly type: "failed"; readonly id: number; readonly message: string }
  | { readonly type: "closed"; readonly id: number }
  | {
      readonly type: "collected";
      readonly id: number;
      readonly token: number;
      readonly packets: readonly RtpPacket[];
      readonly dropped: number;
      readonly sending: SendingReport;
    };
