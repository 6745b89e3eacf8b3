import { randomInt } from "node:crypto";
import { isIP } from "node:net";
import type { Sdp } from "../../call/ids.ts";
import type { G711Law } from "../audio/g711.ts";
import { MediaError } from "../media-error.ts";

// Session descriptions (RFC 8866, offer/answer by RFC 3264) as far as one audio stream of G.711 needs them.

export type Direction = "sendrecv" | "sendonly" | "recvonly" | "inactive";

export interface AudioCodec {
  readonly law: G711Law;
  readonly payloadType: number;
}

/** What one side says of its audio. */
export interface AudioDescription {
  readonly family: "IP4" | "IP6";
  readonly address: string;
  readonly port: number;
  /** Port of RTCP when it is not the next one (RFC 3605). */
  readonly rtcpPort: number | null;
  readonly direction: Direction;
  /** G.711 in the side's order of preference. */
  readonly codecs: readonly AudioCodec[];
  /** Payload type of telephone events (RFC 4733). */
  readonly eventType: number | null;
  readonly ptimeMs: number | null;
  /** Every m= line, so that an answer can have as many (RFC 3264 §6); `audioIndex` is the one described here. */
  readonly streams: readonly Stream[];
  readonly audioIndex: number;
}

/** One m= line without its port. */
export interface Stream {
  readonly media: string;
  readonly protocol: string;
  readonly formats: readonly string[];
}

export type SdpFault = "malformed" | "no_audio" | "no_common_codec" | "unsupported_transport";
export type AudioOutcome =
  | { readonly ok: true; readonly audio: AudioDescription }
  | { readonly ok: false; readonly fault: SdpFault };

const mostLength = 32_768;
const mostStreams = 16;
/** Payload types with a fixed meaning (RFC 3551 §6). */
const staticLaws: Readonly<Record<string, G711Law>> = { 0: "PCMU", 8: "PCMA" };
const directions: ReadonlySet<string> = new Set<Direction>(["sendrecv", "sendonly", "recvonly", "inactive"]);
/** AVPF without feedback attributes is plain RTP to the media server (RFC 4585 §1.3). */
const plainProtocols = new Set(["RTP/AVP", "RTP/AVPF"]);

interface Section {
  readonly stream: Stream;
  readonly port: number;
  connection: string | undefined;
  readonly attributes: string[];
}

function readSections(text: string): { sessionLines: string[]; sections: Section[] } | undefined {
  const sessionLines: string[] = [];
  const sections: Section[] = [];
  for (const line of text.split(/\r\n|\n|\r/)) {
    if (line === "") continue;
    if (line[1] !== "=") return undefined;
    const value = line.slice(2).trim();
    if (line.startsWith("m=")) {
      const [media, port, protocol, ...formats] = value.split(/ +/);
      if (media === undefined || port === undefined || protocol === undefined || formats.length === 0) return undefined;
      const number = /^(\d{1,5})(?:\/\d+)?$/.exec(port)?.[1];
      if (number === undefined || Number(number) > 65_535 || sections.length >= mostStreams) return undefined;
      sections.push({
        stream: { media, protocol, formats },
        port: Number(number),
        connection: undefined,
        attributes: [],
      });
      continue;
    }
    const section = sections.at(-1);
    if (section === undefined) sessionLines.push(line);
    else if (line.startsWith("c=")) section.connection = value;
    else if (line.startsWith("a=")) section.attributes.push(value);
  }
  return { sessionLines, sections };
}

function codecsOf(section: Section): { codecs: AudioCodec[]; eventType: number | null } {
  const names = new Map<string, string>();
  for (const attribute of section.attributes) {
    const [, payloadType, name] = /^rtpmap:(\d{1,3}) +([^ ]+)/i.exec(attribute) ?? [];
    if (payloadType !== undefined && name !== undefined) names.set(payloadType, name.toUpperCase());
  }
  const codecs: AudioCodec[] = [];
  let eventType: number | null = null;
  for (const format of section.stream.formats) {
    const payloadType = Number(format);
    if (!/^\d{1,3}$/.test(format) || payloadType > 127) continue;
    const name = names.get(format) ?? (staticLaws[format] === undefined ? "" : `${staticLaws[format]}/8000`);
    if (/^PCMU\/8000(\/1)?$/.test(name)) codecs.push({ law: "PCMU", payloadType });
    else if (/^PCMA\/8000(\/1)?$/.test(name)) codecs.push({ law: "PCMA", payloadType });
    else if (name === "TELEPHONE-EVENT/8000") eventType ??= payloadType;
  }
  return { codecs, eventType };
}

/** The first audio stream of a description that we could take part in. */
export function readAudio(text: string): AudioOutcome {
  const parts = text.length > mostLength ? undefined : readSections(text);
  if (parts === undefined || !parts.sessionLines.some((line) => line === "v=0"))
    return { ok: false, fault: "malformed" };
  const { sessionLines, sections } = parts;
  let fault: SdpFault = "no_audio";
  for (const [audioIndex, section] of sections.entries()) {
    // RFC 3264 §5.1: port 0 means that the stream is not wanted.
    if (section.stream.media !== "audio" || section.port === 0) continue;
    if (!plainProtocols.has(section.stream.protocol.toUpperCase())) {
      fault = "unsupported_transport";
      continue;
    }
    const { codecs, eventType } = codecsOf(section);
    if (codecs.length === 0) {
      if (fault !== "unsupported_transport") fault = "no_common_codec";
      continue;
    }
    const connection = section.connection ?? sessionLines.find((line) => line.startsWith("c="))?.slice(2);
    const [, family, address = ""] = /^IN +(IP4|IP6) +([0-9A-Fa-f.:]{2,45}) *$/.exec(connection ?? "") ?? [];
    // RFC 8866 §5.7 allows a name too, but the media server takes addresses only, and nobody is asked to find out one.
    if ((family !== "IP4" && family !== "IP6") || isIP(address) !== (family === "IP4" ? 4 : 6)) {
      return { ok: false, fault: "malformed" };
    }
    const all = [
      ...sessionLines.filter((line) => line.startsWith("a=")).map((line) => line.slice(2)),
      ...section.attributes,
    ];
    const number = (form: RegExp): number | null => {
      const digits = all.map((attribute) => form.exec(attribute)?.[1]).findLast((found) => found !== undefined);
      return digits === undefined ? null : Number(digits);
    };
    const direction = all.findLast((attribute): attribute is Direction => directions.has(attribute)) ?? "sendrecv";
    return {
      ok: true,
      audio: {
        family,
        address,
        port: section.port,
        rtcpPort: number(/^rtcp:(\d{1,5})(?: |$)/),
        // A connection to nowhere asks us to send nothing.
        direction: isNowhere({ address }) && direction === "sendrecv" ? "sendonly" : direction,
        codecs,
        eventType,
        ptimeMs: number(/^ptime:(\d{1,3})$/),
        streams: sections.map(({ stream }) => stream),
        audioIndex,
      },
    };
  }
  return { ok: false, fault };
}

/** The same for one that must be there. Throws a MediaError that says whose it is not. */
export function described(text: string, whose: string): AudioDescription {
  const outcome = readAudio(text);
  if (!outcome.ok) throw new MediaError(outcome.fault, `${whose}: ${outcome.fault}`);
  return outcome.audio;
}

/** RFC 3264 §8.4: the old form of hold, a connection to nowhere. */
export function isNowhere({ address }: Pick<AudioDescription, "address">): boolean {
  return address === "0.0.0.0" || address === "::";
}

/** The direction an answer gives to the direction it was offered (RFC 3264 §6.1). */
export function mirrored(direction: Direction): Direction {
  if (direction === "sendonly") return "recvonly";
  return direction === "recvonly" ? "sendonly" : direction;
}

/** Our end towards one peer; it stays the same for as long as the leg lives. */
export interface LocalEnd {
  /** `o=` line: the version grows with every description, the rest never changes, not even when the end moves (RFC 3264 §8). */
  readonly originId: number;
  readonly originAddress: string;
  version: number;
  readonly family: "IP4" | "IP6";
  readonly address: string;
  readonly port: number;
}

export interface AudioFormats {
  readonly codecs: readonly AudioCodec[];
  readonly eventType: number | null;
}

/** One codec, and events where both sides know them. */
export type ChosenFormats = AudioFormats & { readonly codecs: readonly [AudioCodec] };

/** The first codec of a description that we take; the one in use, when it is among them, so that nothing changes. */
export function chooseFormats(audio: AudioDescription, inUse: G711Law | null): ChosenFormats | undefined {
  const codec = audio.codecs.find(({ law }) => law === inUse) ?? audio.codecs[0];
  return codec === undefined ? undefined : { codecs: [codec], eventType: audio.eventType };
}

/** Our end as the media server has just named it. */
export function newEnd({ family, address, port }: AudioDescription): LocalEnd {
  const originAddress = `${family} ${address}`;
  return { originId: randomInt(2 ** 47), originAddress, version: 1, family, address, port };
}

/** The same end at another place: what is described next is a new offer in the same session. */
export function movedEnd(end: LocalEnd, { family, address, port }: AudioDescription): LocalEnd {
  return { ...end, family, address, port };
}

/** Whether a side with this direction takes sound from us. */
export function mayHear(direction: Direction | undefined): boolean {
  return direction === "sendrecv" || direction === "recvonly";
}

/** The answer of this end, which takes telephone events where `formats` has them, to what an operator offers. */
export function describeAnswer(end: LocalEnd, formats: AudioFormats, offer: AudioDescription): Sdp {
  const { codecs, direction } = offer;
  const eventType = formats.eventType === null ? null : offer.eventType;
  return describeEnd(end, { codecs, eventType }, mirrored(direction), offer);
}

/** RFC 3264 §8.4: he sends only, or nothing at all, and wants nothing of ours. */
export function holds(remote: AudioDescription | null): boolean {
  return remote?.direction === "sendonly" || remote?.direction === "inactive";
}

function formatLines({ codecs, eventType }: AudioFormats): string[] {
  const lines = codecs.map(({ law, payloadType }) => `a=rtpmap:${payloadType} ${law}/8000`);
  if (eventType !== null) {
    lines.push(`a=rtpmap:${eventType} telephone-event/8000`, `a=fmtp:${eventType} 0-15`);
  }
  return lines;
}

function payloadTypes({ codecs, eventType }: AudioFormats): string {
  return [...codecs.map(({ payloadType }) => payloadType), ...(eventType === null ? [] : [eventType])].join(" ");
}

/** A description of our end. `like` is the peer's latest one, whose streams it answers line by line. */
export function describeEnd(
  end: LocalEnd,
  formats: AudioFormats,
  direction: Direction,
  like: Pick<AudioDescription, "streams" | "audioIndex"> | null,
): Sdp {
  const streams = like?.streams ?? [{ media: "audio", protocol: "RTP/AVP", formats: [] }];
  const lines = [
    "v=0",
    `o=- ${end.originId} ${end.version} IN ${end.originAddress}`,
    "s=-",
    `c=IN ${end.family} ${end.address}`,
    "t=0 0",
  ];
  for (const [index, stream] of streams.entries()) {
    if (index !== (like?.audioIndex ?? 0)) {
      // RFC 3264 §6: a stream that is not taken is answered with port 0 and at least one format.
      lines.push(`m=${stream.media} 0 ${stream.protocol} ${stream.formats[0] ?? "0"}`);
      continue;
    }
    lines.push(`m=audio ${end.port} ${stream.protocol} ${payloadTypes(formats)}`, ...formatLines(formats));
    lines.push(`a=${direction}`, "a=ptime:20");
  }
  return `${lines.join("\r\n")}\r\n` as Sdp;
}

/** A peer's end as the media server is told of it: one stream, our choice of formats and nothing else. */
export function describePeer(
  peer: Pick<AudioDescription, "family" | "address" | "port" | "rtcpPort" | "ptimeMs">,
  formats: AudioFormats,
  direction: Direction,
): string {
  const lines = [
    "v=0",
    `o=- 1 1 IN ${peer.family} ${peer.address}`,
    "s=-",
    `c=IN ${peer.family} ${peer.address}`,
    "t=0 0",
    `m=audio ${peer.port} RTP/AVP ${payloadTypes(formats)}`,
    ...formatLines(formats),
    `a=${direction}`,
  ];
  if (peer.rtcpPort !== null) lines.push(`a=rtcp:${peer.rtcpPort}`);
  if (peer.ptimeMs !== null) lines.push(`a=ptime:${peer.ptimeMs}`);
  return `${lines.join("\r\n")}\r\n`;
}
