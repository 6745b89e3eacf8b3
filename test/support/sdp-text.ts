// The little SDP a G.711 phone needs (RFC 4566, RFC 3264), independent of the service.
import { type CodecName, codecOf, payloadTypeOf } from "./g711.ts";

export type Direction = "sendrecv" | "sendonly" | "recvonly" | "inactive";

export interface Sdp {
  readonly address: string;
  readonly port: number;
  /** G.711 variants in the order of the m= line. */
  readonly codecs: readonly CodecName[];
  /** Payload type of telephone-event, where offered. */
  readonly eventPayloadType?: number;
  readonly direction: Direction;
}

export interface SdpOrigin {
  readonly id: number;
  readonly version: number;
}

export function formatSdp(sdp: Sdp, origin: SdpOrigin): string {
  const types = sdp.codecs.map((codec) => payloadTypeOf[codec]);
  const event = sdp.eventPayloadType;
  return [
    "v=0",
    `o=- ${origin.id} ${origin.version} IN IP4 ${sdp.address}`,
    "s=-",
    `c=IN IP4 ${sdp.address}`,
    "t=0 0",
    `m=audio ${sdp.port} RTP/AVP ${[...types, ...(event === undefined ? [] : [event])].join(" ")}`,
    ...sdp.codecs.map((codec) => `a=rtpmap:${payloadTypeOf[codec]} ${codec}/8000`),
    ...(event === undefined ? [] : [`a=rtpmap:${event} telephone-event/8000`, `a=fmtp:${event} 0-16`]),
    "a=ptime:20",
    `a=${sdp.direction}`,
    "",
  ].join("\r\n");
}

export function parseSdp(body: string): Sdp | undefined {
  const lines = body.split(/\r?\n/);
  const media = lines.findIndex((line) => line.startsWith("m=audio "));
  if (media < 0) return undefined;
  const next = lines.findIndex((line, index) => index > media && line.startsWith("m="));
  const section = lines.slice(media, next < 0 ? undefined : next);
  const inSection = (prefix: string): string | undefined => section.find((line) => line.startsWith(prefix));
  const anywhere = (prefix: string): string | undefined =>
    inSection(prefix) ?? lines.slice(0, media).find((line) => line.startsWith(prefix));
  const [, port = "0", , ...types] = (section[0] ?? "").split(" ");
  const codecs = types.map((type) => codecOf(Number(type))).filter((codec) => codec !== undefined);
  const event = section
    .map((line) => /^a=rtpmap:(\d+) telephone-event\/8000/i.exec(line)?.[1])
    .find((type) => type !== undefined);
  const direction = (["sendonly", "recvonly", "inactive"] as const).find((word) => anywhere(`a=${word}`) !== undefined);
  return {
    address: anywhere("c=IN IP4 ")?.slice("c=IN IP4 ".length).split("/")[0]?.trim() ?? "0.0.0.0",
    port: Number(port),
    codecs,
    ...(event === undefined ? {} : { eventPayloadType: Number(event) }),
    direction: direction ?? "sendrecv",
  };
}

/** What we may do when the other side says it does this (RFC 3264 §6.1). */
export function mirrored(direction: Direction): Direction {
  if (direction === "sendonly") return "recvonly";
  return direction === "recvonly" ? "sendonly" : direction;
}
