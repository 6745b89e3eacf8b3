// Registrations and questions to gateways, against a registrar that is a bare socket and works digests out by itself.
import { createHash } from "node:crypto";

import { afterEach, describe, expect, test, vi } from "vitest";

import type { Sdp, TrunkId } from "../../src/call/ids.ts";
import type { SipSideOptions } from "../../src/sip/side.ts";
import { silentLog } from "../../src/telemetry/log.ts";
import { Closings, RawCall, RawPeer, RawTcpPeer, replyText, sdp, secret, tagOf, uriOf } from "./engine-support.ts";
import type { Packet } from "./engine-support.ts";
import { cuttableLine, fresh, oneTrunk, order, requests, startSide } from "./sip-support.ts";
import type { TestSide } from "./sip-support.ts";

const closings = new Closings();

afterEach(async () => {
  await closings.closeAll();
});

/** A second of a registration: 20 ms. */
const quick = {
  registerSecondMs: 20,
  password: (_trunk: TrunkId, direction: string) => (direction === "outbound" ? "secret" : undefined),
} as const satisfies Partial<SipSideOptions>;

const registering = "register: true, outbound: { username: us, passwordEnv: P }";

/** One trunk that registers with its gateway, which is also the only one that calls it. */
function trunkAt(port: number, more = "", channel = ""): string {
  return oneTrunk(port, "", channel)
    .replace("    sources: [127.0.0.1]\n", "")
    .replace(/gateways: .*\n/, `$&    register: true\n    outbound: { username: us, passwordEnv: P }\n    ${more}\n`);
}

/** A side whose registration has ended before the test checks that nothing is left. */
async function started(yaml: string, options: Parameters<typeof startSide>[2] = {}) {
  const side = await startSide(closings, yaml, { ...quick, ...options });
  closings.add(async () => side.side.close(200));
  return side;
}

const state = (side: TestSide, trunk = "t"): string | undefined => side.side.registrations().get(trunk as TrunkId);
const becomes = async (side: TestSide, wanted: string, trunk = "t"): Promise<void> =>
  vi.waitFor(() => expect(state(side, trunk)).toBe(wanted), { timeout: 10_000, interval: 10 });

const granted = (request: Packet, seconds: number): string =>
  `Contact: <${uriOf(request.header("Contact"))}>;expires=${seconds}`;

/** 200 with our Contact among those of others. */
function grant(registrar: RawPeer, request: Packet, seconds: number): void {
  registrar.reply(request, 200, "OK", {
    tag: "r",
    contact: "",
    headers: ["Contact: <sip:us@192.0.2.77:5060>;expires=9999", granted(request, seconds), "Expires: 8888"],
  });
}

function ask(registrar: RawPeer, request: Packet, status: 401 | 407, ...challenges: readonly string[]): void {
  const name = status === 401 ? "WWW-Authenticate" : "Proxy-Authenticate";
  registrar.reply(request, status, "Who are you", {
    tag: "r",
    contact: "",
    headers: challenges.map((challenge) => `${name}: Digest ${challenge}`),
  });
}

/** Whether the request proves to know the password, by RFC 7616 §3.4 worked out here. */
function proof(request: Packet, header: string, hash: string): { right: boolean; nc: string; nonce: string } {
  const text = request.header(header);
  const field = (name: string): string => {
    const found = new RegExp(`[ ,]${name}=(?:"([^"]*)"|([^,\\s]*))`).exec(text);
    return found?.[1] ?? found?.[2] ?? "";
  };
  const h = (plain: string): string => createHash(hash).update(plain).digest("hex");
  const secretHash = h(`${field("username")}:${field("realm")}:secret`);
  const action = h(`REGISTER:${request.startLine.split(" ")[1] ?? ""}`);
  const expected = h([secretHash, field("nonce"), field("nc"), field("cnonce"), field("qop"), action].join(":"));
  const right = field("username") === "us" && field("uri") === request.startLine.split(" ")[1];
  return { right: right && field("response") === expected, nc: field("nc"), nonce: field("nonce") };
}

describe("a trunk that registers", () => {
  test("REGISTER, digest, 423, 200, refresh with the next nonce count, and Expires: 0 at the end", async () => {
    const registrar = await RawPeer.open(closings);
    const side = await started(trunkAt(registrar.port, "registerExpiresSeconds: 60"));
    const first = await fresh(registrar, "REGISTER");
    expect(first.startLine).toBe("REGISTER sip:127.0.0.1 SIP/2.0");
    expect(uriOf(first.header("To"))).toBe("sip:us@127.0.0.1");
    expect(uriOf(first.header("From"))).toBe("sip:us@127.0.0.1");
    expect(first.header("Contact")).toBe(`<sip:us@127.0.0.1:${side.engine.port}>;expires=60`);
    expect(first.header("Expires")).toBe("60");
    expect(first.headers("Authorization")).toEqual([]);
    expect(state(side)).toBe("registering");
    // RFC 8760: an algorithm nobody knows is passed over, of the others the topmost counts.
    ask(
      registrar,
      first,
      401,
      'realm="r", nonce="x", algorithm=SHA-9, qop="auth"',
      'realm="r", nonce="n1", algorithm=SHA-256, qop="auth"',
      'realm="r", nonce="m1", algorithm=MD5, qop="auth"',
    );
    const second = await fresh(registrar, "REGISTER");
    expect(proof(second, "Authorization", "sha256")).toEqual({ right: true, nc: "00000001", nonce: "n1" });
    expect(second.header("Call-ID")).toBe(first.header("Call-ID"));
    expect(tagOf(second.header("From"))).toBe(tagOf(first.header("From")));
    expect(Number.parseInt(second.header("CSeq"), 10)).toBe(Number.parseInt(first.header("CSeq"), 10) + 1);
    registrar.reply(second, 423, "Interval Too Brief", { contact: "", headers: ["Min-Expires: 120"] });
    const third = await fresh(registrar, "REGISTER");
    expect(third.header("Expires")).toBe("120");
    expect(proof(third, "Authorization", "sha256")).toEqual({ right: true, nc: "00000002", nonce: "n1" });
    grant(registrar, third, 10);
    await becomes(side, "registered");
    // Before the 10 s are over, and with the nonce we have.
    const refresh = await fresh(registrar, "REGISTER");
    expect(refresh.at - third.at).toBeLessThan(10 * quick.registerSecondMs + 2000);
    expect(refresh.at - third.at).toBeGreaterThan(5 * quick.registerSecondMs);
    expect(refresh.header("Expires")).toBe("120");
    expect(proof(refresh, "Authorization", "sha256")).toEqual({ right: true, nc: "00000003", nonce: "n1" });
    // That nonce is too old now.
    ask(registrar, refresh, 401, 'realm="r", nonce="n2", algorithm=MD5, qop="auth", stale=true');
    const again = await fresh(registrar, "REGISTER");
    expect(proof(again, "Authorization", "md5")).toEqual({ right: true, nc: "00000001", nonce: "n2" });
    grant(registrar, again, 3600);
    const closing = side.side.close(5000);
    const last = await fresh(registrar, "REGISTER");
    expect(last.header("Expires")).toBe("0");
    expect(last.header("Contact")).toContain(";expires=0");
    expect(proof(last, "Authorization", "md5").right).toBe(true);
    registrar.reply(last, 200, "OK", { tag: "r", contact: "" });
    await closing;
    expect(requests(registrar, "REGISTER")).toBe(6);
    expect(side.side.stats().timers).toBe(0);
  });

  test("a proxy and the registrar behind it may both ask", async () => {
    const registrar = await RawPeer.open(closings);
    const side = await started(trunkAt(registrar.port));
    ask(registrar, await fresh(registrar, "REGISTER"), 407, 'realm="p", nonce="p1", algorithm=SHA-512-256, qop="auth"');
    const second = await fresh(registrar, "REGISTER");
    expect(proof(second, "Proxy-Authorization", "sha512-256").right).toBe(true);
    ask(registrar, second, 401, 'realm="r", nonce="r1", qop="auth"');
    const third = await fresh(registrar, "REGISTER");
    expect(proof(third, "Proxy-Authorization", "sha512-256")).toMatchObject({ right: true, nc: "00000002" });
    expect(proof(third, "Authorization", "md5")).toMatchObject({ right: true, nc: "00000001" });
    grant(registrar, third, 3600);
    await becomes(side, "registered");
  });

  test("over TCP: the Contact names the transport", async () => {
    const registrar = await RawTcpPeer.open(closings);
    const yaml = trunkAt(registrar.port).replace(" }]", ", transport: tcp }]");
    const side = await started(yaml);
    const register = await registrar.take("REGISTER", ({ method, status }) => method === "REGISTER" && status === 0);
    const port = side.engine.portOf("tcp");
    const contact = `<sip:us@127.0.0.1:${port};transport=tcp>`;
    expect(register.header("Contact")).toBe(`${contact};expires=600`);
    register.connection?.write(replyText(register, 200, "OK", { tag: "r", contact: `${contact};expires=3600` }));
    await becomes(side, "registered");
    expect(side.side.registrars()).toEqual(["127.0.0.1"]);
  });

  test.each([
    { name: "401 to our password", status: 401 as const },
    { name: "403", status: 403 as const },
  ])("$name: an alarm, and no more tries for ten minutes", async ({ status }) => {
    const registrar = await RawPeer.open(closings);
    const error = vi.fn();
    const log = { ...silentLog, error };
    const side = await started(trunkAt(registrar.port), { registerSecondMs: 5, log });
    ask(registrar, await fresh(registrar, "REGISTER"), 401, 'realm="r", nonce="1", qop="auth"');
    const second = await fresh(registrar, "REGISTER");
    if (status === 401) ask(registrar, second, 401, 'realm="r", nonce="2", qop="auth"');
    else registrar.reply(second, 403, "Forbidden", { contact: "" });
    await becomes(side, "refused");
    expect(error).toHaveBeenCalledTimes(1);
    expect(String(error.mock.calls[0]?.[1])).toContain("credentials");
    const third = await fresh(registrar, "REGISTER");
    expect(third.at - second.at).toBeGreaterThan(590 * 5);
    grant(registrar, third, 3600);
    await becomes(side, "registered");
  });

  test("a registrar that cannot: the next gateway at once; both: a pause, which grows", async () => {
    const one = await RawPeer.open(closings);
    const two = await RawPeer.open(closings);
    const gateways = `gateways: [{ host: 127.0.0.1, port: ${one.port} }, { host: 127.0.0.1, port: ${two.port} }]`;
    const yaml = trunkAt(0).replace(/gateways: .*/, gateways);
    const side = await started(yaml, { registerSecondMs: 5 });
    const fail = async (peer: RawPeer): Promise<Packet> => {
      const request = await fresh(peer, "REGISTER");
      peer.reply(request, 500, "Server Internal Error", { contact: "" });
      return request;
    };
    const rounds: Packet[] = [];
    for (let round = 0; round < 3; round += 1) {
      rounds.push(await fail(one));
      await fail(two);
      await becomes(side, "failing");
    }
    const [first, second, third] = rounds.map(({ at }) => at) as [number, number, number];
    expect(second - first).toBeGreaterThan(29 * 5);
    expect(third - second).toBeGreaterThan(59 * 5);
    await fail(one);
    grant(two, await fresh(two, "REGISTER"), 3600);
    await becomes(side, "registered");
  });

  test("the engine was away: registered anew at once", async () => {
    const registrar = await RawPeer.open(closings);
    let control = 0;
    const line = await cuttableLine(closings, () => control);
    const side = await started(trunkAt(registrar.port), {
      engine: { host: "127.0.0.1", port: line.port, secret },
      onEngine: ({ controlPort }) => {
        control = controlPort;
      },
    });
    grant(registrar, await fresh(registrar, "REGISTER"), 36_000);
    await becomes(side, "registered");
    line.cut();
    const again = await fresh(registrar, "REGISTER");
    grant(registrar, again, 36_000);
    await vi.waitFor(() => expect(side.side.ready()).toBe(true), { timeout: 10_000 });
    await becomes(side, "registered");
  });
});

describe("calls to a registration", () => {
  /** A call from the registrar, to the end. */
  async function refused(peer: RawPeer, call: RawCall, status: number): Promise<Packet> {
    call.send("INVITE", { body: sdp(4000) });
    const response = await peer.response(status, "INVITE");
    call.toTag = tagOf(response.header("To"));
    call.send("ACK", { branch: call.lastBranch });
    return response;
  }

  test("belong to the trunk once it is registered; To tells the number that was dialled", async () => {
    const registrar = await RawPeer.open(closings);
    const side = await started(trunkAt(registrar.port));
    const register = await fresh(registrar, "REGISTER");
    await refused(registrar, new RawCall(registrar, side.engine.port, "us"), 403);
    grant(registrar, register, 3600);
    await becomes(side, "registered");
    expect(side.side.registrars()).toEqual(["127.0.0.1"]);
    const call = new RawCall(registrar, side.engine.port, "100");
    call.send("INVITE", { body: sdp(4000), uri: uriOf(register.header("Contact")) });
    const setup = await side.call();
    expect(setup).toMatchObject({ trunk: "t", botId: "b", calledNumber: "100" });
    side.side.reject(setup.call, setup.caller, 486, "Busy Here");
    call.toTag = tagOf((await registrar.response(486, "INVITE")).header("To"));
    call.send("ACK", { branch: call.lastBranch });
    await refused(registrar, new RawCall(registrar, side.engine.port, "us"), 404);
  });

  test("two accounts at one registrar are told apart by the user that is called", async () => {
    const registrar = await RawPeer.open(closings);
    const account = (id: string, user: string): string =>
      `  - { id: ${id}, gateways: [{ host: 127.0.0.1, port: ${registrar.port} }], ${registering.replace("username: us", `username: ${user}`)} }\n`;
    const channel = (id: string): string => `  - { botId: bot-${id}, trunk: ${id}, numbers: ["*"] }\n`;
    const yaml = `trunks:\n${account("x", "ux")}${account("y", "uy")}channels:\n${channel("x")}${channel("y")}`;
    const side = await started(yaml);
    for (let n = 0; n < 2; n += 1) grant(registrar, await fresh(registrar, "REGISTER"), 3600);
    await becomes(side, "registered", "x");
    await becomes(side, "registered", "y");
    const call = new RawCall(registrar, side.engine.port, "uy");
    call.send("INVITE", { body: sdp(4000) });
    const setup = await side.call();
    expect(setup).toMatchObject({ trunk: "y", botId: "bot-y" });
    side.side.reject(setup.call, setup.caller, 486, "Busy Here");
    call.toTag = tagOf((await registrar.response(486, "INVITE")).header("To"));
    call.send("ACK", { branch: call.lastBranch });
  });
});

describe("what is told of gateways", () => {
  test("OPTIONS at an interval: any answer but 408 and 503 means that it is there", async () => {
    const gateway = await RawPeer.open(closings);
    const told: boolean[] = [];
    const onGateway = (_id: unknown, answered: boolean): void => {
      told.push(answered);
    };
    await started(oneTrunk(gateway.port, "qualifyMs: 1000"), { onGateway, t1Ms: 5 });
    for (const [index, [status, answered]] of (
      [
        [200, true],
        [404, true],
        [503, false],
      ] as const
    ).entries()) {
      const options = await fresh(gateway, "OPTIONS");
      expect(options.startLine).toBe(`OPTIONS sip:127.0.0.1:${gateway.port} SIP/2.0`);
      gateway.reply(options, status, "Whatever", { contact: "" });
      await vi.waitFor(() => expect(told[index]).toBe(answered), { timeout: 10_000 });
    }
    // Nothing for 64*T1.
    await vi.waitFor(() => expect(told[3]).toBe(false), { timeout: 10_000 });
  });

  test("an INVITE tells too: silence is a failure, any word is none, and a URI called directly proves nothing", async () => {
    const gateway = await RawPeer.open(closings);
    const told: boolean[] = [];
    const onGateway = (_id: unknown, answered: boolean): void => {
      told.push(answered);
    };
    const side = await startSide(closings, oneTrunk(gateway.port), { onGateway, t1Ms: 10 });
    const caller = await RawPeer.open(closings);
    const call = new RawCall(caller, side.engine.port);
    call.send("INVITE", { body: sdp(4000) });
    const setup = await side.call();
    side.side.accept(setup.call, setup.caller, sdp(7000) as Sdp);
    call.toTag = tagOf((await caller.response(200, "INVITE")).header("To"));
    call.send("ACK");
    const leg = (n: number) => ({ leg: `${setup.call}/operator-${n}` as never });
    side.side.invite(setup.call, order(setup, leg(1)));
    expect(await side.event("leg.failed")).toMatchObject({ status: 408 });
    expect(told).toEqual([false]);
    const answer = async (n: number, over: object, status: number): Promise<void> => {
      side.side.invite(setup.call, order(setup, { ...leg(n), ...over }));
      const invite = await fresh(gateway, "INVITE");
      // The first one is repeated for as long as nobody answers it.
      gateway.reply(invite, status, "No", { tag: `t${n}` });
      await side.event("leg.failed");
    };
    await fresh(gateway, "INVITE");
    await answer(2, {}, 486);
    expect(told).toEqual([false, true]);
    await answer(3, { target: { kind: "uri", uri: `sip:x@127.0.0.1:${gateway.port}` } }, 486);
    expect(told).toEqual([false, true]);
    await answer(4, {}, 503);
    expect(told).toEqual([false, true, false]);
    side.side.bye(setup.call, setup.caller, "over", []);
    caller.reply(await caller.request("BYE"), 200, "OK", { contact: "" });
  });
});

describe("calls per second", () => {
  test("one too many gets 503 with Retry-After in, and 503 without an INVITE out", async () => {
    const peer = await RawPeer.open(closings);
    const gateway = await RawPeer.open(closings);
    const side = await startSide(closings, oneTrunk(gateway.port, "callsPerSecond: 1"));
    const calls = [new RawCall(peer, side.engine.port), new RawCall(peer, side.engine.port)] as const;
    for (const call of calls) call.send("INVITE", { body: sdp(4000) });
    const over = await peer.response(503, "INVITE");
    expect(over.header("Retry-After")).toBe("1");
    const setup = await side.call();
    expect(side.calls).toHaveLength(1);
    side.side.invite(setup.call, order(setup));
    side.side.invite(setup.call, order(setup, { leg: `${setup.call}/operator-2` as never }));
    expect(await side.event("leg.failed")).toMatchObject({ status: 503, leg: `${setup.call}/operator-2` });
    const invite = await fresh(gateway, "INVITE");
    gateway.reply(invite, 486, "Busy Here", { tag: "t" });
    expect(await side.event("leg.failed")).toMatchObject({ status: 486 });
    expect(requests(gateway, "INVITE")).toBe(1);
    side.side.reject(setup.call, setup.caller, 486, "Busy Here");
    const rung = await peer.response(486, "INVITE");
    for (const call of calls) {
      call.toTag = tagOf((call.callId === over.header("Call-ID") ? over : rung).header("To"));
      call.send("ACK", { branch: call.lastBranch });
    }
  });
});
