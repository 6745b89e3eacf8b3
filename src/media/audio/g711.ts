// ITU-T G.711: 8 bits a sample, 8,000 samples a second.

/** The two laws of G.711 by their names in SDP (RFC 3551 §6). */
export type G711Law = "PCMU" | "PCMA";

function decodeMuLaw(code: number): number {
  const bits = ~code & 0xff;
  const magnitude = (((bits & 0x0f) << 3) + 0x84) << ((bits & 0x70) >> 4);
  return bits & 0x80 ? 0x84 - magnitude : magnitude - 0x84;
}

function decodeALaw(code: number): number {
  const bits = code ^ 0x55;
  const segment = (bits & 0x70) >> 4;
  const step = ((bits & 0x0f) << 4) + 8;
  const magnitude = segment === 0 ? step : (step + 0x100) << (segment - 1);
  return bits & 0x80 ? magnitude : -magnitude;
}

const decodeTables: Readonly<Record<G711Law, Int16Array>> = {
  PCMU: Int16Array.from({ length: 256 }, (_, code) => decodeMuLaw(code)),
  PCMA: Int16Array.from({ length: 256 }, (_, code) => decodeALaw(code)),
};

/** The 16-bit sample of each of the 256 codes, for loops that decode millions of them. */
export function g711Table(law: G711Law): Int16Array {
  return decodeTables[law];
}

/** Linear 16-bit samples of G.711 bytes. */
export function decodeG711(law: G711Law, bytes: Uint8Array): Int16Array {
  const table = decodeTables[law];
  const samples = new Int16Array(bytes.length);
  for (let index = 0; index < bytes.length; index += 1) samples[index] = table[bytes[index] ?? 0] ?? 0;
  return samples;
}

/** The code whose sample is nearest to each possible 16-bit value, found once by walking the sorted codes. */
function encodeTable(law: G711Law): Uint8Array {
  const codes = Array.from(decodeTables[law], (sample, code) => ({ sample, code })).sort((a, b) => a.sample - b.sample);
  const table = new Uint8Array(65_536);
  let nearest = 0;
  for (let sample = -32_768; sample <= 32_767; sample += 1) {
    while (nearest + 1 < codes.length) {
      const here = Math.abs((codes[nearest]?.sample ?? 0) - sample);
      const next = Math.abs((codes[nearest + 1]?.sample ?? 0) - sample);
      if (next > here) break;
      nearest += 1;
    }
    table[sample + 32_768] = codes[nearest]?.code ?? 0;
  }
  return table;
}

const encodeTables = new Map<G711Law, Uint8Array>();

/** G.711 bytes of linear 16-bit samples. */
export function encodeG711(law: G711Law, samples: Int16Array): Uint8Array {
  let table = encodeTables.get(law);
  if (table === undefined) {
    table = encodeTable(law);
    encodeTables.set(law, table);
  }
  const bytes = new Uint8Array(samples.length);
  for (let index = 0; index < samples.length; index += 1) bytes[index] = table[(samples[index] ?? 0) + 32_768] ?? 0;
  return bytes;
}
