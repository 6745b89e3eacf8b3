import { describe, expect, test } from "vitest";

import { addressBits, networkContains, parseIpNetwork } from "../../src/lib/ip-network.ts";

function contains(network: string, address: string): boolean {
  const outer = parseIpNetwork(network);
  const inner = addressBits(address);
  return outer !== undefined && inner !== undefined && networkContains(outer, inner);
}

describe("networks", () => {
  test.each([
    ["192.0.2.0/24", "192.0.2.255", true],
    ["192.0.2.0/24", "192.0.3.0", false],
    ["192.0.2.128/25", "192.0.2.127", false],
    ["0.0.0.0/0", "8.8.8.8", true],
    ["0.0.0.0/0", "2001:db8::1", false],
    ["192.0.2.1", "192.0.2.1", true],
    ["192.0.2.1", "::ffff:192.0.2.1", true],
    ["2001:db8::/32", "2001:db8:ffff::1", true],
    ["2001:db8::/32", "2001:db9::1", false],
    ["::/0", "2001:db9::1", true],
    ["[2001:db8::1]", "2001:db8:0:0:0:0:0:1", true],
    ["fe80::1", "fe80::1%eth0", true],
  ])("%s holds %s: %s", (network, address, expected) => {
    expect(contains(network, address)).toBe(expected);
  });

  test.each([
    "",
    "x",
    "192.0.2",
    "192.0.2.1/",
    "192.0.2.1/33",
    "192.0.2.1/-1",
    "192.0.2.1/8/8",
    "1.2.3.4/08x",
    "::ffff:1.2.3.4/96",
    "2001:db8::/129",
  ])("%s is no network", (text) => {
    expect(parseIpNetwork(text)).toBeUndefined();
  });
});
