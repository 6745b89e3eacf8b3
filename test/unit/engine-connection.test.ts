import { describe, expect, it } from "vitest";

import type { PeerConnection } from "../../src/engine/dialog/dialog.ts";
import { parseUri } from "../../src/engine/sip/grammar.ts";
import type { SipUri } from "../../src/engine/sip/grammar.ts";
import { connectionOf, overConnection, usableConnection } from "../../src/engine/ua/connection.ts";
import type { NextHop, Origin, Resolution } from "../../src/engine/ua/core.ts";
import { FakeNetwork, origin, request, response } from "./engine-fakes.ts";

const connection = {};
const local = { address: "192.0.2.1", port: 5060 };
const overTcp: Origin = { protocol: "tcp", address: "198.51.100.7", port: 40_000, local, connection };

function message(startLine: string, vias: number): string {
  return [
    startLine,
    ...Array.from({ length: vias }, (_value, index) => `Via: SIP/2.0/TCP 192.0.2.${index};branch=z9hG4bK${index}`),
    "From: <sip:alice@192.0.2.9>;tag=a",
    "To: <sip:100@192.0.2.1>;tag=b",
    "Call-ID: c",
    "CSeq: 1 INVITE",
  ].join("\r\n");
}

const invite = (vias: number) => request(message("INVITE sip:100@192.0.2.1 SIP/2.0", vias));

function uri(text: string): SipUri {
  const parsed = parseUri(text);
  if (parsed === undefined) {
    throw new Error(`no URI: ${text}`);
  }
  return parsed;
}

function peer(direct: boolean): PeerConnection {
  return { hop: { ...overTcp, protocol: "tcp", connection }, direct };
}

function hopsTo(address: string, port = 5060, protocol: "udp" | "tcp" = "tcp"): Resolution {
  return { type: "hops", hops: [{ protocol, address, port }] };
}

/** The order in which addresses are tried. */
function order(resolution: Resolution): string[] {
  return resolution.type === "hops" ? resolution.hops.map((hop: NextHop) => `${hop.address}:${hop.port}`) : [];
}

describe("the connection of a peer", () => {
  it("is his own when his request has one Via; of a response nobody can tell", () => {
    expect(connectionOf(invite(1), overTcp)).toEqual(peer(true));
    expect(connectionOf(invite(2), overTcp)?.direct).toBe(false);
    expect(connectionOf(response(message("SIP/2.0 200 OK", 1)), overTcp)?.direct).toBe(false);
    expect(connectionOf(invite(1), origin)).toBeUndefined();
  });

  it.each([
    ["sip:a@192.0.2.9", true],
    ["sip:a@192.0.2.9;transport=TCP", true],
    ["sip:a@192.0.2.9;transport=udp", false],
    ["sips:a@192.0.2.9", false],
  ])("for requests to %s is used: %s", (text, used) => {
    const network = new FakeNetwork();
    network.openConnections.add(connection);
    expect(usableConnection(network, peer(true), uri(text)) !== undefined).toBe(used);
  });

  it("is not used once it is closed, nor where there is none", () => {
    const network = new FakeNetwork();
    expect(usableConnection(network, peer(true), uri("sip:a@192.0.2.9"))).toBeUndefined();
    expect(usableConnection(network, undefined, uri("sip:a@192.0.2.9"))).toBeUndefined();
  });
});

describe("the order of what is tried", () => {
  const his = "198.51.100.7:40000";

  it.each([
    ["his own connection, whatever his Contact says", true, hopsTo("203.0.113.1"), [his, "203.0.113.1:5060"]],
    ["a Contact that a proxy passed on", false, hopsTo("203.0.113.1"), ["203.0.113.1:5060", his]],
    ["another port of the same host", false, hopsTo("198.51.100.7"), ["198.51.100.7:5060", his]],
    ["the very address of the connection", false, hopsTo("198.51.100.7", 40_000), [his]],
    ["a private Contact behind a public address", false, hopsTo("192.168.1.5"), [his, "192.168.1.5:5060"]],
    ["a carrier's NAT", false, hopsTo("100.127.0.1"), [his, "100.127.0.1:5060"]],
    ["an address just outside of 172.16.0.0/12", false, hopsTo("172.32.0.1"), ["172.32.0.1:5060", his]],
    ["a link-local IPv6 address", false, hopsTo("fe80::1"), [his, "fe80::1:5060"]],
    ["a public IPv6 address", false, hopsTo("2001:db8::1"), ["2001:db8::1:5060", his]],
    ["UDP where a proxy passed it on", false, hopsTo("203.0.113.1", 5060, "udp"), ["203.0.113.1:5060", his]],
    ["a name that nobody knows", false, { type: "failed", reason: "name not found" } as const, [his]],
  ])("%s", (_what, direct, resolution, expected) => {
    expect(order(overConnection(peer(direct), resolution))).toEqual(expected);
  });

  it("the connection comes first as itself, not as an address to connect to", () => {
    const resolution = overConnection(peer(false), hopsTo("198.51.100.7", 40_000));
    expect(resolution.type === "hops" ? resolution.hops[0].connection : undefined).toBe(connection);
  });

  it("a URI that asks for a transport we have not is not sent to at all", () => {
    expect(overConnection(peer(true), { type: "noTransport" })).toEqual({ type: "noTransport" });
  });
});
