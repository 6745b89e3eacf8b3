import { addressBits, networkContains, parseIpNetwork } from "../lib/ip-network.ts";
import type { IpNetwork } from "../lib/ip-network.ts";

/** Finds what belongs to the longest prefix that holds an address (RFC 4632 §5.1 rule of "longest match"). */
export class NetworkMatch<T> {
  readonly #entries: readonly { readonly network: IpNetwork; readonly value: T }[];

  constructor(entries: readonly { readonly network: string; readonly value: T }[]) {
    this.#entries = entries
      .flatMap(({ network: text, value }) => {
        const network = parseIpNetwork(text);
        return network === undefined ? [] : [{ network, value }];
      })
      // Longest prefix first, so that the first hit is the answer.
      .toSorted((a, b) => b.network.prefix.length - a.network.prefix.length);
  }

  find(address: string): T | undefined {
    const bits = addressBits(address);
    return bits === undefined ? undefined : this.#entries.find(({ network }) => networkContains(network, bits))?.value;
  }
}
