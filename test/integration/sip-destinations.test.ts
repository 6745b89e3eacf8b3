import { afterEach, describe, expect, test } from "vitest";

import type { LegId, Sdp } from "../../src/call/ids.ts";
import type { CallSetup } from "../../src/call/setup.ts";
import type { TransferRequest } from "../../src/call/transfer.ts";
import type { ResolvedPlace } from "../../src/sip/pinning.ts";
import { Authority, type Certificate } from "../support/certificates.ts";
import { engineOnly } from "../support/drachtio.ts";
import { temporaryFolder } from "../support/folder.ts";
import { Closings, RawCall, RawCallee, RawPeer, RawTcpPeer, replyText, sdp, tagOf } from "./engine-support.ts";
import { fresh, oneTrunk, order, referRequest, requests, startSide } from "./sip-support.ts";
import type { TestSide } from "./sip-support.ts";

const closings = new Closings();

afterEach(async () => {
  await closings.closeAll();
});

interface Talk {
  readonly side: TestSide;
  readonly setup: CallSetup;
  readonly operator: RawPeer;
  /** How often a name was looked up. */
  readonly asked: string[];
}

/** A caller with the bot; host names resolve to what `places` gives, lookup by lookup. */
async function talk(
  destinations: string,
  places: (
    operatorPort: number,
    lookup: number,
  ) => Promise<readonly ResolvedPlace[]> | readonly ResolvedPlace[] = () => [],
  options: Parameters<typeof startSide>[2] = {},
): Promise<Talk> {
  const asked: string[] = [];
  const peer = await RawPeer.open(closings);
  const operator = await RawPeer.open(closings);
  const side = await startSide(closings, oneTrunk(operator.port, "", `destinations: ${destinations}`), {
    resolve: async (host) => {
      asked.push(host);
      return places(operator.port, asked.length);
    },
    ...options,
  });
  const caller = new RawCall(peer, side.engine.port);
  caller.send("INVITE", { body: sdp(4000) });
  const setup = await side.call();
  side.side.accept(setup.call, setup.caller, sdp(7000) as Sdp);
  const ok = await peer.response(200, "INVITE");
  caller.toTag = tagOf(ok.header("To"));
  caller.send("ACK");
  await side.event("leg.confirmed");
  closings.add(async () => {
    if (side.side.stats().calls > 0) await caller.bye();
  });
  return { side, setup, operator, asked };
}

const uri = (text: string) => ({ target: { kind: "uri", uri: text } }) as const;
const udp = (address: string, port: number): ResolvedPlace => ({ transport: "udp", address, port });

describe("a SIP URI with a host name", () => {
  test("that resolves into a private network is refused, and nothing is sent", async () => {
    const { side, setup, operator, asked } = await talk('{ sipHosts: ["ops.example:*"] }', (port) => [
      udp("127.0.0.1", port),
    ]);
    side.side.invite(setup.call, order(setup, uri("sip:x@ops.example:7777")));
    const failed = await side.event("leg.failed");
    expect(failed).toMatchObject({ status: null, refused: true });
    expect(failed.reason).toContain("destinations.privateNetworks");
    expect(asked).toEqual(["ops.example"]);
    expect(requests(operator, "INVITE")).toBe(0);
  });

  test("goes to the address that was judged, whatever another lookup would give", async () => {
    const { side, setup, operator, asked } = await talk(
      "{ sipHosts: [ops.example], privateNetworks: [127.0.0.1] }",
      (port, lookup) => (lookup === 1 ? [udp("127.0.0.1", port)] : [udp("127.0.0.2", port)]),
    );
    side.side.invite(setup.call, order(setup, uri("sip:x@ops.example")));
    const invite = await fresh(operator, "INVITE");
    expect(invite.startLine).toBe("INVITE sip:x@ops.example SIP/2.0");
    new RawCallee(operator, invite).reply(486, "Busy Here");
    expect(await side.event("leg.failed")).toMatchObject({ status: 486 });
    expect(asked).toEqual(["ops.example"]);
  });

  test("of several addresses the allowed ones are tried one after another", async () => {
    const dead = await RawPeer.open(closings);
    const { side, setup, operator } = await talk(
      "{ sipHosts: [ops.example], privateNetworks: [127.0.0.1] }",
      (port) => [udp("10.0.0.1", port), udp("127.0.0.1", dead.port), udp("127.0.0.1", port)],
    );
    side.side.invite(setup.call, order(setup, uri("sip:x@ops.example")));
    const first = await fresh(dead, "INVITE");
    new RawCallee(dead, first).reply(503, "Service Unavailable");
    const second = await fresh(operator, "INVITE");
    expect(second.header("Call-ID")).not.toBe(first.header("Call-ID"));
    new RawCallee(operator, second).reply(486, "Busy Here");
    expect(await side.event("leg.failed")).toMatchObject({ status: 486 });
    expect(side.seen("leg.failed")).toBe(1);
  });

  test("over TLS: the judged address has to prove that it is this host", async (context) => {
    engineOnly(context, "it believes every certificate");
    await using folder = await temporaryFolder("destinations");
    const authority = await Authority.create(folder.path);
    const own = await authority.sign("engine", "IP:127.0.0.1");
    const open = ({ certificate, key }: Certificate): Promise<RawTcpPeer> =>
      RawTcpPeer.open(closings, { tls: { cert: certificate, key } });
    const stranger = await open(await authority.sign("stranger", "DNS:other.example"));
    const secure = await open(await authority.sign("operator", "DNS:ops.example"));
    const at = { address: "127.0.0.1", port: 0 };
    const tls = { certificate: own.certificate, key: own.key, authorities: authority.certificate };
    const listen = [
      { protocol: "udp", ...at },
      { protocol: "tcp", ...at },
      { protocol: "tls", ...at, tls },
    ] as const;
    const place = (address: string, port: number): ResolvedPlace => ({ transport: "tls", address, port });
    const { side, setup, asked } = await talk(
      "{ sipHosts: [ops.example], privateNetworks: [127.0.0.1] }",
      () => [place("10.0.0.1", 5061), place("127.0.0.1", stranger.port), place("127.0.0.1", secure.port)],
      { embedded: { listen } },
    );
    side.side.invite(setup.call, order(setup, uri("sip:x@ops.example;transport=tls")));
    const invite = await secure.take("INVITE", ({ status, method }) => status === 0 && method === "INVITE");
    expect(invite.startLine).toBe("INVITE sip:x@ops.example;transport=tls SIP/2.0");
    expect(stranger.connections.length + stranger.received.length).toBe(0);
    invite.connection?.write(replyText(invite, 486, "Busy Here", { tag: "t" }));
    expect(await side.event("leg.failed")).toMatchObject({ status: 486 });
    expect(asked).toEqual(["ops.example"]);
  });

  test("that does not exist", async () => {
    const { side, setup } = await talk("{ sipHosts: [ops.example] }");
    side.side.invite(setup.call, order(setup, uri("sip:x@ops.example")));
    const failed = await side.event("leg.failed");
    expect(failed).toMatchObject({ status: null, reason: "the host name cannot be resolved" });
    expect(failed).not.toHaveProperty("refused");
  });

  test("cancelled while it is looked up: no INVITE is sent, and the end is told once", async () => {
    let answer: (places: readonly ResolvedPlace[]) => void = () => undefined;
    const { side, setup, operator } = await talk(
      "{ sipHosts: [ops.example], privateNetworks: [127.0.0.1] }",
      (_port) =>
        new Promise((resolve) => {
          answer = resolve;
        }),
    );
    side.side.invite(setup.call, order(setup, uri("sip:x@ops.example")));
    expect(side.side.stats().legs).toBe(2);
    side.side.cancel(setup.call, order(setup).leg, "changed our mind");
    expect(await side.event("leg.failed")).toMatchObject({ status: 487 });
    answer([udp("127.0.0.1", operator.port)]);
    // Another leg after it shows that the first had its time.
    side.side.invite(setup.call, order(setup, { leg: `${setup.call}/operator-2` as LegId }));
    const invite = await fresh(operator, "INVITE");
    expect(invite.startLine).toContain("sip:79123456789@");
    new RawCallee(operator, invite).reply(486, "Busy Here");
    expect(await side.event("leg.failed")).toMatchObject({ status: 486 });
    expect(requests(operator, "INVITE")).toBe(1);
  });
});

describe("what never goes out", () => {
  test.each([
    ["sip:x@127.0.0.1:22;transport=tcp", "sipHosts"],
    ["sip:x@[::1]", "sipHosts"],
    ["sip:x@0.0.0.0", "sipHosts"],
    ["sip:x@169.254.169.254", "never called"],
    ["sip:x@localhost", "sipHosts"],
    ["sip:x@elsewhere.example", "sipHosts"],
  ])("%s", async (target, says) => {
    const { side, setup, asked } = await talk("{ sipHosts: [ops.example] }");
    side.side.invite(setup.call, order(setup, uri(target)));
    const failed = await side.event("leg.failed");
    expect(failed).toMatchObject({ status: null, refused: true });
    expect(failed.reason).toContain(says);
    // What the text alone decides costs no lookup.
    expect(asked).toEqual([]);
  });

  test("a name that resolves to this service itself", async () => {
    let port = 0;
    const { side, setup } = await talk('{ sipHosts: ["ops.example:*"], privateNetworks: [127.0.0.1] }', () => [
      udp("127.0.0.1", port),
    ]);
    ({ port } = side.engine);
    side.side.invite(setup.call, order(setup, uri("sip:x@ops.example")));
    expect(await side.event("leg.failed")).toMatchObject({
      refused: true,
      reason: "the target is this service itself",
    });
  });

  test("an emergency number at a gateway's host, however it is written and whatever the port", async () => {
    const { side, setup, asked } = await talk('{ sipHosts: ["127.0.0.1:*"] }');
    for (const target of ["sip:1-1-2@127.0.0.1:7", "sip:112@127.0.0.1:7", "sip:(112)@[::ffff:127.0.0.1]:7"]) {
      side.side.invite(setup.call, order(setup, uri(target)));
      const failed = await side.event("leg.failed");
      expect(failed).toMatchObject({ status: null, refused: true });
      expect(failed.reason).toContain("emergency");
    }
    expect(asked).toEqual([]);
  });

  test("an emergency number, as a number, as a URI at the gateway and behind a 302", async () => {
    const { side, setup, operator } = await talk("{}");
    side.side.invite(setup.call, order(setup, { target: { kind: "phone", digits: "112" } }));
    expect(await side.event("leg.failed")).toMatchObject({ status: null, refused: true });
    side.side.invite(setup.call, order(setup, uri(`sip:112;phone-context=x@127.0.0.1:${operator.port}`)));
    expect(await side.event("leg.failed")).toMatchObject({ status: null, refused: true });
    side.side.invite(setup.call, order(setup));
    const callee = new RawCallee(operator, await fresh(operator, "INVITE"));
    callee.reply(302, "Moved Temporarily", { contact: `<sip:112@127.0.0.1:${operator.port}>` });
    expect(await side.event("leg.failed")).toMatchObject({ status: 302, redirect: null });
    expect(requests(operator, "INVITE")).toBe(1);
  });

  test("one operator more than the channel may have; the fallback's is not counted", async () => {
    const said: string[] = [];
    const { side, setup, operator } = await talk("{}", undefined, {
      operators: {
        enter: (botId, again) => (said.push(`enter ${botId} ${again}`), said.length > 1 ? "enough" : null),
        leave: (botId, ms) => said.push(`leave ${botId} ${ms > 0}`),
      },
    });
    side.side.invite(setup.call, order(setup));
    const first = new RawCallee(operator, await fresh(operator, "INVITE"));
    side.side.invite(setup.call, order(setup, { leg: `${setup.call}/operator-2` as LegId, again: true }));
    expect(await side.event("leg.failed")).toMatchObject({ refused: true, reason: "enough" });
    // The one that was sent is told as such, and the one that was refused is not.
    expect(await side.event("leg.invited")).toMatchObject({ leg: `${setup.call}/operator-1` });
    expect(side.seen("leg.invited")).toBe(1);
    side.side.invite(setup.call, order(setup, { leg: `${setup.call}/operator-3` as LegId, fallback: true }));
    const third = new RawCallee(operator, await fresh(operator, "INVITE"));
    third.reply(486, "Busy Here");
    first.reply(486, "Busy Here");
    await side.event("leg.failed");
    await side.event("leg.failed");
    expect(said).toEqual(["enter b false", "enter b true", "leave b false"]);
  });

  test("a REFER: neither to a refused number or host nor while the bot is halted", async () => {
    let said: string | null = null;
    const { side, setup } = await talk("{}", undefined, {
      operators: { enter: () => said, leave: () => undefined },
    });
    const refer = (target: TransferRequest["target"]): void =>
      side.side.refer(setup.call, setup.caller, { ...referRequest, target });
    refer({ kind: "phone", digits: "112" });
    expect(await side.event("refer.done")).toMatchObject({ status: null, refused: true });
    refer(uri("sip:x@elsewhere.example").target);
    expect(await side.event("refer.done")).toMatchObject({ status: null, refused: true });
    said = "halted";
    refer({ kind: "phone", digits: "79123456789" });
    expect(await side.event("refer.done")).toMatchObject({ status: null, refused: true, reason: "halted" });
  });
});
