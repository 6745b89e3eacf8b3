// Which SIP URIs are looked up and judged before an INVITE goes out, and where it goes then.
import { describe, expect, test } from "vitest";
import type { TrunkId } from "../../src/call/ids.ts";
import { parseConfig } from "../../src/config/load.ts";
import { pin, type ResolvedPlace, uriToPin } from "../../src/sip/pinning.ts";
import { parseSipUri } from "../../src/sip/uri.ts";
import { TrunkTable } from "../../src/trunk/table.ts";

function table(gateways: string, more = ""): TrunkTable {
  const parsed = parseConfig(
    `sip: { listen: [{ protocol: tls, address: 127.0.0.1, tls: { certificateFile: c, keyFile: k } }] }
trunks: [{ id: t, sources: [192.0.2.1], gateways: ${gateways}, ${more} }]
channels: [{ botId: b, trunk: t, destinations: { sipHosts: ["*.example"], privateNetworks: [10.20.0.0/16] } }]`,
    {},
    ".",
  );
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
  return new TrunkTable(parsed.config);
}

describe("a host name is looked up here", () => {
  const asked = (uri: string, gateway: string, more = ""): boolean =>
    uriToPin(
      { target: { kind: "uri", uri }, trunk: "t" as TrunkId },
      { directory: table(`[{ host: 192.0.2.9 }, ${gateway}]`, more) },
    ) !== undefined;

  test.each([
    ["sip:1@gw.example", "{ host: gw.example }"],
    ["sip:1@GW.example.", "{ host: gw.example }"],
    ["sip:1@gw.example:5060", "{ host: gw.example }"],
    ["sip:1@gw.example:5070", "{ host: gw.example, port: 5070 }"],
    ["sip:1@gw.example;transport=udp", "{ host: gw.example }"],
    ["sip:1@gw.example;transport=tcp", "{ host: gw.example, transport: tcp }"],
    ["sip:1@gw.example;transport=tls", "{ host: gw.example, transport: tls }"],
    ["sip:1@gw.example:5061;transport=tls", "{ host: gw.example, transport: tls }"],
    ["sips:1@gw.example", "{ host: gw.example, transport: tls }"],
    ["sip:1@192.0.2.77", "{ host: gw.example }"],
  ])("not for %s, which goes where a number goes by %s, or names an address", (uri, gateway) => {
    expect(asked(uri, gateway)).toBe(false);
  });

  test.each([
    ["sip:1@other.example", "{ host: gw.example }"],
    ["sip:1@gw.example:5070", "{ host: gw.example }"],
    ["sip:1@gw.example:5061", "{ host: gw.example }"],
    ["sip:1@gw.example:5060", "{ host: gw.example, port: 5070 }"],
    // Without a port SRV records say where it goes, for the gateway they are not asked.
    ["sip:1@gw.example", "{ host: gw.example, port: 5060 }"],
    ["sip:1@gw.example;transport=tcp", "{ host: gw.example }"],
    ["sip:1@gw.example;transport=tls", "{ host: gw.example }"],
    ["sips:1@gw.example", "{ host: gw.example }"],
    ["sip:1@gw.example", "{ host: gw.example, transport: tls }"],
  ])("for %s beside the gateway %s", (uri, gateway) => {
    expect(asked(uri, gateway)).toBe(true);
  });

  test("not where the gateway is the next hop of every URI", () => {
    expect(asked("sip:1@other.example", "{ host: gw.example }", "sipUriVia: gateway")).toBe(false);
  });
});

describe("where the INVITE goes", () => {
  const pinned = async (uri: string, places: readonly ResolvedPlace[]) => {
    const parsed = parseSipUri(uri);
    if (parsed === undefined) throw new Error(uri);
    const link = { listening: () => [{ protocol: "udp", address: "10.20.0.1", port: 5060 }] as const };
    return await pin(parsed, "b", async () => places, { directory: table("[{ host: 192.0.2.9 }]"), link });
  };
  const place = (transport: ResolvedPlace["transport"], address: string, port: number): ResolvedPlace => ({
    transport,
    address,
    port,
  });

  test.each([
    ["udp", "8.8.8.8", "sip:8.8.8.8:5070"],
    ["tcp", "8.8.8.8", "sip:8.8.8.8:5070;transport=tcp"],
    ["udp", "2606:4700::1111", "sip:[2606:4700::1111]:5070"],
    // The name stays for the certificate.
    ["tls", "8.8.8.8", "sip:ops.example:5070;transport=tls;maddr=8.8.8.8"],
    ["tls", "2606:4700::1111", "sip:ops.example:5070;transport=tls;maddr=[2606:4700::1111]"],
  ] as const)("over %s to %s", async (transport, address, proxy) => {
    expect(await pinned("sip:x@ops.example", [place(transport, address, 5070)])).toEqual({
      ok: true,
      proxies: [proxy],
    });
  });

  test.each(["udp", "tls"] as const)(
    "over %s: to those of its addresses that are allowed, three at most",
    async (over) => {
      const addresses = ["10.0.0.1", "10.20.0.2", "127.0.0.1", "8.8.8.8", "8.8.4.4", "1.1.1.1"];
      const outcome = await pinned(
        "sip:x@ops.example",
        addresses.map((address) => place(over, address, 5060)),
      );
      if (!outcome.ok) throw new Error(outcome.reason);
      expect(outcome.proxies.map((proxy) => /10\.20\.0\.2|8\.8\.8\.8|8\.8\.4\.4/.exec(proxy)?.[0])).toEqual([
        "10.20.0.2",
        "8.8.8.8",
        "8.8.4.4",
      ]);
    },
  );

  test.each(["udp", "tls"] as const)("over %s: nowhere when none is allowed", async (over) => {
    const outcome = await pinned("sip:x@ops.example", [place(over, "10.0.0.1", 5060), place(over, "::1", 5060)]);
    expect(outcome).toMatchObject({ ok: false, refused: true });
    expect(JSON.stringify(outcome)).toContain("destinations.privateNetworks");
  });

  test("nowhere when it is ourselves, or nothing at all", async () => {
    expect(await pinned("sip:x@ops.example", [place("udp", "10.20.0.1", 5060)])).toMatchObject({ refused: true });
    expect(await pinned("sip:x@ops.example", [])).toMatchObject({ ok: false, refused: false });
  });
});
