// Whom an operator sees (bot-contract §7): every kind of trunk × policy × privacy of the caller, by the bytes of the INVITE;
// and `patchbay explain` says the same bytes.
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";

import type { LegId, Sdp, TrunkId } from "../../src/call/ids.ts";
import { parseConfig } from "../../src/config/load.ts";
import type { Config } from "../../src/config/schema.ts";
import { explain } from "../../src/explain.ts";
import { TrunkTable } from "../../src/trunk/table.ts";
import { drachtioProgram } from "../support/drachtio.ts";
import { Closings, RawCall, RawPeer, sdp, tagOf } from "./engine-support.ts";
import type { Packet } from "./engine-support.ts";
import { fresh, order, startSide } from "./sip-support.ts";
import type { TestSide } from "./sip-support.ts";

const number = { caller: "79991112233", bot: "74951234567", fixed: "74959999999" } as const;

/** `ownOnly`: with `auto` the provider is shown none but its own number. `domain`: From names the provider. */
const kinds = [
  { kind: "open", more: "", ownOnly: false, domain: false },
  { kind: "password", more: "outbound: { username: us, passwordEnv: P }", ownOnly: true, domain: true },
  { kind: "registered", more: "register: true", ownOnly: true, domain: true },
  { kind: "domestic", more: "supportsForeignCallerId: false", ownOnly: true, domain: false },
] as const;
const policies = ["auto", "caller", "bot", number.fixed] as const;
const callers = [
  { privacy: "none", from: `<sip:${number.caller}@127.0.0.1>`, headers: [], withheld: false },
  { privacy: "Privacy: id", from: `<sip:${number.caller}@127.0.0.1>`, headers: ["Privacy: id"], withheld: true },
  {
    privacy: "Privacy: user;critical",
    from: `<sip:${number.caller}@127.0.0.1>`,
    headers: ["Privacy: user;critical"],
    withheld: true,
  },
  { privacy: "an anonymous From", from: '"Anonymous" <sip:anonymous@anonymous.invalid>', headers: [], withheld: true },
  { privacy: "no number", from: "<sip:127.0.0.1>", headers: [], withheld: true },
] as const;
const asserting = [false, true] as const;

const idOf = (kind: string, policy: string, asserted: boolean): string =>
  `${kind}-${policy}-${asserted ? "pai" : "plain"}`;

function configText(gatewayPort: number, enginePort: number): string {
  const rows = kinds.flatMap(({ kind, more }) =>
    policies.flatMap((policy) =>
      asserting.map((asserted) => ({ id: idOf(kind, policy, asserted), more, policy, asserted })),
    ),
  );
  const trunks = rows.map(
    ({ id, more, policy, asserted }) =>
      `  - id: ${id}\n    gateways: [{ host: 127.0.0.1, port: ${gatewayPort} }]\n    number: "${number.bot}"\n` +
      `    callerId: "${policy}"\n    assertedIdentity: ${asserted}\n    diversion: ${asserted}\n    ${more}\n`,
  );
  const channels = rows.map(({ id }) => `  - { botId: ${id}, trunk: ${id}, number: "${number.bot}" }\n`);
  return (
    `sip: { listen: [{ protocol: udp, address: 127.0.0.1, port: ${enginePort} }] }\n` +
    `trunks:\n  - { id: in, sources: [127.0.0.1], gateways: [{ host: 127.0.0.1, port: ${gatewayPort} }] }\n${trunks.join("")}` +
    `channels:\n  - { botId: b, trunk: in, numbers: ["100"], number: "${number.bot}" }\n${channels.join("")}`
  );
}

function read(text: string): Config {
  const parsed = parseConfig(text, {}, ".");
  if (!parsed.ok) throw new Error(JSON.stringify(parsed.problems));
  return parsed.config;
}

/** What §7 says, worked out here. */
function expected(
  row: { ownOnly: boolean; domain: boolean; policy: string; asserted: boolean; withheld: boolean },
  enginePort: number,
): { shown: string; from: string; asserted: string[]; diversion: string[]; privacy: string[] } {
  const { ownOnly, domain, policy, asserted, withheld } = row;
  const wish = policy === number.fixed ? "fixed" : policy === "auto" ? (ownOnly ? "bot" : "caller") : policy;
  const shown = wish === "caller" && withheld ? "anonymous" : wish;
  const user = shown === "anonymous" ? number.bot : number[shown as keyof typeof number];
  const host = domain ? "127.0.0.1" : `127.0.0.1:${enginePort}`;
  return {
    shown,
    from: shown === "anonymous" ? '"Anonymous" <sip:anonymous@anonymous.invalid>' : `<sip:${user}@${host}>`,
    asserted: asserted ? [`<sip:${user}@127.0.0.1>`] : [],
    diversion: asserted ? [`<sip:${number.bot}@127.0.0.1>;reason=unconditional`] : [],
    privacy: shown === "anonymous" ? ["id"] : [],
  };
}

describe.each(callers)("a caller with $privacy", ({ from, headers, withheld }) => {
  const closings = new Closings();
  let side: TestSide;
  let gateway: RawPeer;
  let peer: RawPeer;
  let call: RawCall;

  beforeAll(async () => {
    gateway = await RawPeer.open(closings);
    peer = await RawPeer.open(closings);
    side = await startSide(closings, configText(gateway.port, 5060), { password: () => "secret" });
    closings.add(async () => side.side.close(500));
    call = new RawCall(peer, side.engine.port);
    peer.send(
      call.text("INVITE", { body: sdp(4000), headers }).replace(/^From: .*?;tag/m, `From: ${from};tag`),
      side.engine.port,
    );
    const setup = await side.call();
    side.side.accept(setup.call, setup.caller, sdp(7000) as Sdp);
    call.toTag = tagOf((await peer.response(200, "INVITE")).header("To"));
    call.send("ACK");
    await side.event("leg.confirmed");
  });

  afterAll(async () => {
    await call.bye();
    await closings.closeAll();
  });

  let leg = 0;
  afterEach(() => {
    leg += 1;
  });

  const rows = kinds.flatMap((kind) =>
    policies.flatMap((policy) => asserting.map((asserted) => ({ ...kind, policy, asserted }))),
  );

  test.each(rows)("$kind trunk, callerId $policy, asserted identity and diversion $asserted", async (row) => {
    const config = read(configText(gateway.port, side.engine.port));
    const id = idOf(row.kind, row.policy, row.asserted);
    const setup = side.calls[0];
    if (setup === undefined) throw new Error("no call");
    expect(setup.callerNumber).toBe(withheld ? "" : number.caller);
    const choice = new TrunkTable(config).routeFor("b", id, withheld, Math.random);
    if (choice === undefined) throw new Error("no route");
    const want = expected({ ...row, withheld }, side.engine.port);
    expect(choice.route.identity).toBe(want.shown);
    // Only the caller's number is tried again with another one.
    expect(choice.route.retryWithBotNumber).toBe(want.shown === "caller");

    side.side.invite(
      setup.call,
      order(setup, {
        leg: `${setup.call}/operator-${leg + 1}` as LegId,
        trunk: id as TrunkId,
        gateway: choice.route.gateways[0],
        identity: choice.route.identity,
      }),
    );
    const invite = await fresh(gateway, "INVITE");
    gateway.reply(invite, 486, "Busy Here", { tag: "t" });
    await side.event("leg.failed");

    expect(invite.header("From").replace(/;tag=.*$/, "")).toBe(want.from);
    expect(invite.headers("P-Asserted-Identity")).toEqual(want.asserted);
    expect(invite.headers("Diversion")).toEqual(want.diversion);
    expect(invite.headers("Privacy")).toEqual(want.privacy);
    const head = invite.text.slice(0, invite.text.indexOf("\r\n\r\n"));
    if (want.shown !== "caller") expect(head).not.toContain(number.caller);

    const json = Buffer.from(JSON.stringify({ type: "switch", phoneNumber: "79123456789", transferChannel: id }));
    const told = explain(config, { botId: "b", json, caller: withheld ? "" : number.caller, called: undefined });
    expect(told.refused).toBe(false);
    expect(told.text).toContain(`the operator sees: ${want.shown}\n`);
    // A drachtio-server writes the same lines in an order of its own.
    const inOrder = (lines: readonly string[]) => (drachtioProgram === undefined ? lines : lines.toSorted());
    expect(inOrder(firstInvite(told.text))).toEqual(inOrder(ourLines(invite)));
  });
});

/** Start line and headers of the first INVITE that `explain` prints. */
function firstInvite(text: string): readonly string[] {
  const lines = text.split("\n");
  const start = lines.findIndex((line) => line.startsWith("   INVITE "));
  const end = lines.findIndex((line, index) => index > start && !/^ {3}(?:INVITE|[A-Za-z-]+:) /.test(line));
  return lines.slice(start, end).map((line) => line.trim());
}

/** The same of an INVITE on the wire, without what the engine adds to every request. */
function ourLines(invite: Packet): readonly string[] {
  const added = /^(?:Via|Max-Forwards|Call-ID|CSeq|Contact|Content-Type|Content-Length|User-Agent):/;
  return invite.text
    .slice(0, invite.text.indexOf("\r\n\r\n"))
    .split("\r\n")
    .filter((line) => !added.test(line))
    .map((line) => (line.startsWith("From:") ? line.replace(/;tag=.*$/, "") : line));
}
