import { closeSync, openSync, readSync } from "node:fs";

/** One UDP packet of a capture. `payload` is valid until the next packet is read. */
export interface CapturedPacket {
  /** Milliseconds since 1970. */
  readonly atMs: number;
  readonly destinationPort: number;
  readonly payload: Buffer;
}

const linkEthernet = 1;
const linkRaw = 101;
const fileHeaderBytes = 24;
const packetHeaderBytes = 16;
const bufferBytes = 256 * 1_024;
/** No UDP packet is longer; a larger length means that the file is damaged. */
const mostPacketBytes = 66_000;

interface CaptureFormat {
  readonly bigEndian: boolean;
  /** Units of the second part of a timestamp per millisecond. */
  readonly unitsPerMs: number;
  readonly link: number;
}

function formatOf(header: Buffer): CaptureFormat | undefined {
  const read = (bigEndian: boolean, offset: number): number =>
    bigEndian ? header.readUInt32BE(offset) : header.readUInt32LE(offset);
  for (const bigEndian of [false, true]) {
    const magic = read(bigEndian, 0);
    const unitsPerMs = magic === 0xa1b2c3d4 ? 1_000 : magic === 0xa1b23c4d ? 1_000_000 : 0;
    if (unitsPerMs > 0) return { bigEndian, unitsPerMs, link: read(bigEndian, 20) & 0xffff };
  }
  return undefined;
}

/** The UDP packet inside a captured frame, undefined for everything else and for fragments. */
export function udpOf(frame: Buffer, link: number): Omit<CapturedPacket, "atMs"> | undefined {
  let start = 0;
  if (link === linkEthernet) {
    if (frame.length < 14) return undefined;
    start = frame.readUInt16BE(12) === 0x8100 ? 18 : 14;
  } else if (link !== linkRaw) return undefined;
  const version = (frame[start] ?? 0) >> 4;
  let udp: number;
  if (version === 4) {
    if (frame.length < start + 20 || frame[start + 9] !== 17) return undefined;
    // More-fragments flag or an offset: the header of UDP is in another frame or the payload is not whole.
    if ((frame.readUInt16BE(start + 6) & 0x3fff) !== 0) return undefined;
    udp = start + ((frame[start] ?? 0) & 0x0f) * 4;
  } else if (version === 6) {
    if (frame.length < start + 40 || frame[start + 6] !== 17) return undefined;
    udp = start + 40;
  } else return undefined;
  if (frame.length < udp + 8) return undefined;
  const length = frame.readUInt16BE(udp + 4);
  if (length < 8) return undefined;
  return {
    destinationPort: frame.readUInt16BE(udp + 2),
    payload: frame.subarray(udp + 8, Math.min(frame.length, udp + length)),
  };
}

/**
 * The UDP packets of a capture in the file's order. Ends quietly where the file ends, also in the middle of a packet: that
 * is what a crash of rtpengine leaves. Synchronous: runs in a worker. Throws the system's error when the file cannot be read.
 */
export function* readCapture(path: string): Generator<CapturedPacket, void, undefined> {
  const file = openSync(path, "r");
  try {
    const buffer = Buffer.alloc(bufferBytes);
    let start = 0;
    let end = 0;
    /** Makes sure that `length` bytes lie at `start`; false at the end of the file. */
    const need = (length: number): boolean => {
      if (end - start >= length) return true;
      buffer.copyWithin(0, start, end);
      end -= start;
      start = 0;
      while (end < length) {
        const read = readSync(file, buffer, end, buffer.length - end, null);
        if (read === 0) return false;
        end += read;
      }
      return true;
    };
    if (!need(fileHeaderBytes)) return;
    const format = formatOf(buffer.subarray(0, fileHeaderBytes));
    if (format === undefined) return;
    start += fileHeaderBytes;
    const word = (offset: number): number =>
      format.bigEndian ? buffer.readUInt32BE(start + offset) : buffer.readUInt32LE(start + offset);
    while (need(packetHeaderBytes)) {
      const atMs = word(0) * 1_000 + word(4) / format.unitsPerMs;
      const captured = word(8);
      if (captured > mostPacketBytes) return;
      if (!need(packetHeaderBytes + captured)) return;
      const frame = buffer.subarray(start + packetHeaderBytes, start + packetHeaderBytes + captured);
      start += packetHeaderBytes + captured;
      const packet = udpOf(frame, format.link);
      if (packet !== undefined) yield { atMs, ...packet };
    }
  } finally {
    closeSync(file);
  }
}
