// G.711 by the formulas of ITU-T G.711, written for the tests alone: what measures the service must not share its code.

export type CodecName = "PCMU" | "PCMA";

const muLawBias = 0x84;
const muLawClip = 32_635;

function encodeMuLaw(sample: number): number {
  const sign = sample < 0 ? 0x80 : 0;
  const magnitude = Math.min(Math.abs(sample), muLawClip) + muLawBias;
  // The segment is the place of the highest bit above bit 7.
  const segment = Math.max(0, 31 - Math.clz32(magnitude) - 7);
  const step = (magnitude >> (segment + 3)) & 0x0f;
  return ~(sign | (segment << 4) | step) & 0xff;
}

function decodeMuLaw(byte: number): number {
  const bits = ~byte & 0xff;
  const magnitude = ((((bits & 0x0f) << 3) + muLawBias) << ((bits & 0x70) >> 4)) - muLawBias;
  return (bits & 0x80) === 0 ? magnitude : -magnitude;
}

function encodeALaw(sample: number): number {
  // 13 bits of magnitude; a negative value counts from -1, so that both halves have the same number of steps.
  const positive = sample >= 0;
  const magnitude = Math.min(positive ? sample >> 3 : ~sample >> 3, 0x0fff);
  const segment = magnitude < 0x20 ? 0 : 31 - Math.clz32(magnitude) - 4;
  const step = segment < 2 ? (magnitude >> 1) & 0x0f : (magnitude >> segment) & 0x0f;
  return ((positive ? 0x80 : 0) | (segment << 4) | step) ^ 0x55;
}

function decodeALaw(byte: number): number {
  const bits = byte ^ 0x55;
  const segment = (bits & 0x70) >> 4;
  const step = (bits & 0x0f) << 4;
  const magnitude = segment === 0 ? step + 8 : (step + 0x108) << (segment - 1);
  return (bits & 0x80) === 0 ? -magnitude : magnitude;
}

const decoded: Readonly<Record<CodecName, Int16Array>> = {
  PCMU: Int16Array.from({ length: 256 }, (_, byte) => decodeMuLaw(byte)),
  PCMA: Int16Array.from({ length: 256 }, (_, byte) => decodeALaw(byte)),
};
const encoders: Readonly<Record<CodecName, (sample: number) => number>> = { PCMU: encodeMuLaw, PCMA: encodeALaw };

/** The static payload types of RFC 3551 §6. */
export const payloadTypeOf: Readonly<Record<CodecName, number>> = { PCMU: 0, PCMA: 8 };

export function codecOf(payloadType: number): CodecName | undefined {
  if (payloadType === 0) return "PCMU";
  return payloadType === 8 ? "PCMA" : undefined;
}

/** Linear 16-bit samples to one byte each. */
export function encode(codec: CodecName, samples: ArrayLike<number>): Uint8Array {
  const encoder = encoders[codec];
  const bytes = new Uint8Array(samples.length);
  for (let index = 0; index < samples.length; index += 1) bytes[index] = encoder(Math.round(samples[index] ?? 0));
  return bytes;
}

/** One byte each to linear 16-bit samples. */
export function decode(codec: CodecName, bytes: Uint8Array): Int16Array {
  const table = decoded[codec];
  const samples = new Int16Array(bytes.length);
  for (let index = 0; index < bytes.length; index += 1) samples[index] = table[bytes[index] ?? 0] ?? 0;
  return samples;
}
