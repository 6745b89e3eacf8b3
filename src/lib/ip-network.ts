import { isIP } from "node:net";

/** A range of addresses: those whose binary form begins with `prefix`. */
export interface IpNetwork {
  readonly family: 4 | 6;
  /** The fixed leading bits as a string of `0` and `1`; empty for a range that holds every address of the family. */
  readonly prefix: string;
}

/**
 * The bits of an IP literal as a string of `0` and `1` (32 or 128), undefined when it is none. An IPv4-mapped IPv6
 * address (`::ffff:192.0.2.1`) counts as the IPv4 address it stands for, because dual-stack sockets report it so.
 */
export function addressBits(address: string): IpNetwork | undefined {
  const text = address.startsWith("[") && address.endsWith("]") ? address.slice(1, -1) : address;
  switch (isIP(text)) {
    case 4:
      return { family: 4, prefix: bitsOf(text.split(".").map(Number), 8) };
    case 6: {
      const groups = ipv6Groups(text);
      const mapped = groups.slice(0, 5).every((group) => group === 0) && groups[5] === 0xffff;
      return mapped ? { family: 4, prefix: bitsOf(groups.slice(6), 16) } : { family: 6, prefix: bitsOf(groups, 16) };
    }
    default:
      return undefined;
  }
}

/** Reads `192.0.2.7`, `192.0.2.0/24`, `2001:db8::/32`. Undefined when the text is no address or its prefix does not fit. */
export function parseIpNetwork(text: string): IpNetwork | undefined {
  const [address = "", length, ...more] = text.split("/");
  const whole = addressBits(address);
  if (whole === undefined || more.length > 0) {
    return undefined;
  }
  if (length === undefined) {
    return whole;
  }
  // The length counts the bits of the family as it is written, which an IPv4-mapped address would make ambiguous.
  if (!/^\d{1,3}$/.test(length) || (whole.family === 4) !== (isIP(address) === 4)) {
    return undefined;
  }
  const bits = Number(length);
  return bits > whole.prefix.length ? undefined : { family: whole.family, prefix: whole.prefix.slice(0, bits) };
}

/** True when every address of `inner` lies in `outer`. */
export function networkContains(outer: IpNetwork, inner: IpNetwork): boolean {
  return outer.family === inner.family && inner.prefix.startsWith(outer.prefix);
}

function bitsOf(parts: readonly number[], width: number): string {
  return parts.map((part) => part.toString(2).padStart(width, "0")).join("");
}

function ipv6Groups(address: string): number[] {
  const [withoutZone = ""] = address.split("%");
  // A dotted tail stands for the last two groups.
  const text = withoutZone.replace(/(\d+)\.(\d+)\.(\d+)\.(\d+)$/, (_all, a: string, b: string, c: string, d: string) =>
    [Number(a) * 256 + Number(b), Number(c) * 256 + Number(d)].map((group) => group.toString(16)).join(":"),
  );
  const [head = "", tail] = text.split("::");
  const groups = (part: string): number[] => (part === "" ? [] : part.split(":").map((group) => parseInt(group, 16)));
  const left = groups(head);
  const right = tail === undefined ? [] : groups(tail);
  return [...left, ...Array.from({ length: 8 - left.length - right.length }, () => 0), ...right];
}
