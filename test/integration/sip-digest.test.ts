import { createHash } from "node:crypto";

import { afterEach, describe, expect, test } from "vitest";

import type { TrunkId } from "../../src/call/ids.ts";
import type { CallSetup } from "../../src/call/setup.ts";
import { Closings, RawCall, RawPeer, sdp, tagOf } from "./engine-support.ts";
import type { Packet } from "./engine-support.ts";
import { startSide } from "./sip-support.ts";
import type { TestSide } from "./sip-support.ts";

const closings = new Closings();

afterEach(async () => {
  await closings.closeAll();
});

const passwords = {
  password: (trunk: TrunkId, direction: string) => (direction === "inbound" ? `pw-${trunk}` : undefined),
};

const open = `
trunks:
  - { id: a, inbound: { username: ann, passwordEnv: A, realm: here }, gateways: [{ host: 192.0.2.1 }] }
  - { id: b, inbound: { username: bob, passwordEnv: B, realm: here }, gateways: [{ host: 192.0.2.2 }] }
channels:
  - { botId: bot-a, trunk: a, numbers: ["*"] }
  - { botId: bot-b, trunk: b, numbers: ["100"] }
`;

const hashes = { "SHA-256": "sha256", MD5: "md5" } as const;

/** A caller that answers a challenge as RFC 7616 says, worked out apart from the code under test. */
function authorization(
  call: RawCall,
  challenge: string,
  over: { user?: string; password?: string; nc?: string; nonce?: string; legacy?: boolean } = {},
): string {
  const field = (name: string): string => new RegExp(`${name}="?([^",]+)`).exec(challenge)?.[1] ?? "";
  const algorithm = field("algorithm") as keyof typeof hashes;
  const h = (text: string): string => createHash(hashes[algorithm]).update(text).digest("hex");
  const { user = "ann", password = "pw-a", nc = "00000001", nonce = field("nonce"), legacy = false } = over;
  const ha1 = h(`${user}:${field("realm")}:${password}`);
  const ha2 = h(`INVITE:${call.target}`);
  const response = legacy ? h(`${ha1}:${nonce}:${ha2}`) : h(`${ha1}:${nonce}:${nc}:abc:auth:${ha2}`);
  const qop = legacy ? "" : `, qop=auth, nc=${nc}, cnonce="abc"`;
  return `Authorization: Digest username="${user}", realm="${field("realm")}", nonce="${nonce}", uri="${call.target}", response="${response}", algorithm=${algorithm}${qop}`;
}

// What phones send besides. An address that has not proved itself gets at most 1.2 bytes for each of its own, and a
// challenge is longer than the shortest possible INVITE.
const usual = [
  "User-Agent: Example Phone 4.2.1 (build 1047)",
  "Allow: INVITE, ACK, OPTIONS, CANCEL, BYE, UPDATE, INFO, REFER, NOTIFY, MESSAGE, SUBSCRIBE",
  "Supported: replaces, timer, norefersub, outbound, path",
  "Accept: application/sdp, application/dtmf-relay",
];

async function challenged(peer: RawPeer, call: RawCall, headers: readonly string[] = []): Promise<Packet> {
  call.send("INVITE", { body: sdp(4000), headers: [...usual, ...headers] });
  const branch = call.lastBranch;
  const reply = await peer.take(
    "an answer to this INVITE",
    (packet) => packet.status >= 200 && packet.method === "INVITE" && packet.header("Via").includes(branch),
  );
  call.send("ACK", { branch, toTag: tagOf(reply.header("To")) });
  return reply;
}

/** The call ends with a 486, ACK included. */
async function refused(peer: RawPeer, call: RawCall, side: TestSide, setup: CallSetup): Promise<void> {
  side.side.reject(setup.call, setup.caller, 486, "Busy Here");
  const reply = await peer.response(486, "INVITE");
  call.send("ACK", { branch: call.lastBranch, toTag: tagOf(reply.header("To")) });
}

describe("callers known by their credentials", () => {
  test("are challenged with SHA-256 and MD5, each on a line of its own, the stronger first", async () => {
    const peer = await RawPeer.open(closings);
    const side = await startSide(closings, open, passwords);
    const call = new RawCall(peer, side.engine.port);
    const reply = await challenged(peer, call);
    expect(reply.status).toBe(401);
    const [first, second, ...more] = reply.headers("WWW-Authenticate");
    expect(more).toEqual([]);
    expect(first).toMatch(/^Digest realm="here", nonce="[\w.-]+", algorithm=SHA-256, qop="auth"$/);
    expect(second).toMatch(/^Digest realm="here", nonce="[\w.-]+", algorithm=MD5, qop="auth"$/);
    expect(side.calls).toEqual([]);
  });

  test.each([0, 1])("with challenge %i answered rightly belong to the trunk of their user name", async (which) => {
    const peer = await RawPeer.open(closings);
    const side = await startSide(closings, open, passwords);
    for (const [user, botId, trunk] of [
      ["ann", "bot-a", "a"],
      ["bob", "bot-b", "b"],
    ] as const) {
      const call = new RawCall(peer, side.engine.port);
      const challenge = (await challenged(peer, call)).headers("WWW-Authenticate")[which] ?? "";
      call.send("INVITE", {
        body: sdp(4000),
        headers: [authorization(call, challenge, { user, password: `pw-${trunk}` })],
      });
      const setup = await side.call();
      expect(setup).toMatchObject({ botId, trunk });
      await refused(peer, call, side, setup);
    }
  });

  test("a replayed answer, a nonce of somebody else or of our own making → challenged again", async () => {
    const peer = await RawPeer.open(closings);
    const side = await startSide(closings, open, passwords);
    const call = new RawCall(peer, side.engine.port);
    const challenge = (await challenged(peer, call)).header("WWW-Authenticate");
    const right = authorization(call, challenge);
    call.send("INVITE", { body: sdp(4000), headers: [right] });
    const setup = await side.call();
    await refused(peer, call, side, setup);
    const replay = await challenged(peer, call, [right]);
    expect(replay.status).toBe(401);
    expect(replay.header("WWW-Authenticate")).toContain("stale=true");
    expect((await challenged(peer, call, [authorization(call, challenge, { nonce: "z.z.z" })])).status).toBe(401);
    // A count that grows is no replay.
    call.send("INVITE", { body: sdp(4000), headers: [authorization(call, challenge, { nc: "00000002" })] });
    const again = await side.call();
    await refused(peer, call, side, again);
  });

  test("a client without qop gets one call per nonce", async () => {
    const peer = await RawPeer.open(closings);
    const side = await startSide(closings, open, passwords);
    const call = new RawCall(peer, side.engine.port);
    const challenge = (await challenged(peer, call)).headers("WWW-Authenticate")[1] ?? "";
    const header = authorization(call, challenge, { legacy: true });
    call.send("INVITE", { body: sdp(4000), headers: [header] });
    const setup = await side.call();
    await refused(peer, call, side, setup);
    expect((await challenged(peer, call, [header])).status).toBe(401);
  });

  test("known and unknown user names are refused alike, and after three failures nothing is heard any more", async () => {
    const peer = await RawPeer.open(closings);
    const side = await startSide(closings, open, passwords);
    const shape = (packet: Packet): string =>
      packet.text.replaceAll(/nonce="[^"]+"|^(?:Via|From|To|Call-ID|CSeq):.*$/gim, "");
    const texts: string[] = [];
    const call = new RawCall(peer, side.engine.port);
    for (const user of ["ann", "nobody"]) {
      const challenge = (await challenged(peer, call)).header("WWW-Authenticate");
      const reply = await challenged(peer, call, [authorization(call, challenge, { user, password: "wrong" })]);
      expect(reply.status).toBe(401);
      texts.push(shape(reply));
    }
    expect(texts[0]).toBe(texts[1]);
    const challenge = (await challenged(peer, call)).header("WWW-Authenticate");
    expect((await challenged(peer, call, [authorization(call, challenge, { password: "wrong" })])).status).toBe(403);
    // Even the right password is of no use now.
    expect((await challenged(peer, call, [authorization(call, challenge)])).status).toBe(403);
    expect((await challenged(peer, call)).status).toBe(403);
    expect(side.calls).toEqual([]);
  });

  test("a trunk with sources and credentials wants both", async () => {
    const peer = await RawPeer.open(closings);
    const side = await startSide(
      closings,
      `
trunks: [{ id: a, sources: [127.0.0.1], inbound: { username: ann, passwordEnv: A }, gateways: [{ host: 192.0.2.1 }] }]
channels: [{ botId: bot-a, trunk: a, numbers: ["*"] }]`,
      passwords,
    );
    const call = new RawCall(peer, side.engine.port);
    const reply = await challenged(peer, call);
    expect(reply.status).toBe(401);
    expect(reply.header("WWW-Authenticate")).toContain('realm="patchbay"');
    call.send("INVITE", { body: sdp(4000), headers: [authorization(call, reply.header("WWW-Authenticate"))] });
    const setup = await side.call();
    await refused(peer, call, side, setup);
  });
});
