import { describe, expect, it } from "vitest";

import { type Clock, systemClock } from "../../src/engine/timers.ts";
import type { Protocol } from "../../src/engine/transport/index.ts";
import { AnswerCache, type Lookups, type ServiceRecord } from "../../src/engine/transport/lookups.ts";
import { orderServices, type ResolveOutcome, TargetResolver } from "../../src/engine/transport/resolve.ts";
import { ManualClock, seededRandom } from "./engine-clock.ts";

/** What a name server says; `fault` makes it say nothing that can be used. */
interface Zone {
  readonly a?: Readonly<Record<string, readonly string[]>>;
  readonly aaaa?: Readonly<Record<string, readonly string[]>>;
  readonly srv?: Readonly<Record<string, readonly ServiceRecord[]>>;
  readonly local?: Readonly<Record<string, readonly string[]>>;
  readonly ttlSeconds?: number;
  readonly asked: string[];
  fault?: "silent" | "ESERVFAIL" | undefined;
}

const never = new Promise<never>(() => undefined);

function lookupsOf(zone: Zone): Lookups {
  const answer = async <T>(kind: string, table: Readonly<Record<string, readonly T[]>> | undefined, name: string) => {
    zone.asked.push(`${kind} ${name}`);
    if (zone.fault === "silent") {
      return await never;
    }
    const found = table?.[name];
    if (found === undefined || zone.fault !== undefined) {
      throw Object.assign(new Error("nothing"), { code: zone.fault ?? "ENOTFOUND" });
    }
    return found;
  };
  const records = async (kind: string, table: Zone["a"], name: string) =>
    (await answer(kind, table, name)).map((address) => ({ address, ttlSeconds: zone.ttlSeconds ?? 60 }));
  return {
    ipv4: (name) => records("A", zone.a, name),
    ipv6: (name) => records("AAAA", zone.aaaa, name),
    service: (name) => answer("SRV", zone.srv, name),
    local: (name) => answer("local", zone.local, name),
    cancel: () => zone.asked.push("cancel"),
  };
}

function resolverOf(zone: Zone, families: readonly (4 | 6)[] = [4], clock: Clock = systemClock, seed = 5) {
  return new TargetResolver({
    families: () => families,
    lookups: () => lookupsOf(zone),
    clock,
    random: seededRandom(seed),
  });
}

const ask = (
  resolver: TargetResolver,
  host: string,
  port?: number,
  protocols: readonly [Protocol, ...Protocol[]] = ["udp"],
): Promise<ResolveOutcome> => resolver.resolve({ host, port, protocols });

const places = (outcome: ResolveOutcome): string[] =>
  outcome.ok
    ? outcome.addresses.map(({ protocol, address, port }) => `${protocol} ${address} ${port}`)
    : [outcome.reason];

const record = (name: string, priority = 10, weight = 10, port = 5_070): ServiceRecord => ({
  name,
  port,
  priority,
  weight,
});

describe("the order of SRV records (RFC 2782)", () => {
  it("is by priority, and within one at random in proportion to the weights", () => {
    const records = [record("c", 20, 0), record("a", 10, 90), record("b", 10, 10), record("z", 10, 0)];
    const first = new Map<string, number>();
    for (let run = 1; run <= 1_000; run += 1) {
      const names = orderServices(records, seededRandom(run * 7_919)).map(({ name }) => name);
      expect(names).toHaveLength(4);
      expect(names[3]).toBe("c");
      expect([...names].sort()).toEqual(["a", "b", "c", "z"]);
      first.set(names[0] ?? "", (first.get(names[0] ?? "") ?? 0) + 1);
    }
    expect(first.get("a")).toBeGreaterThan(800);
    expect(first.get("b")).toBeGreaterThan(40);
    // A weight of 0 has a small chance, not none.
    expect(first.get("z")).toBeGreaterThan(0);
    expect(first.get("z")).toBeLessThan(50);
  });

  it("loses and invents nothing, whatever the weights", () => {
    const records = [0, 0, 0, 65_535, 65_535].map((weight, index) => record(`n${index}`, index % 2, weight));
    for (let run = 1; run < 50; run += 1) {
      const ordered = orderServices(records, seededRandom(run));
      expect(new Set(ordered)).toEqual(new Set(records));
      expect(ordered.map(({ priority }) => priority)).toEqual([0, 0, 0, 1, 1]);
    }
    expect(orderServices([], seededRandom())).toEqual([]);
  });
});

describe("targets (RFC 3263)", () => {
  it("asks nobody for addresses and localhost", async () => {
    const zone: Zone = { asked: [] };
    expect(places(await ask(resolverOf(zone), "192.0.2.1"))).toEqual(["udp 192.0.2.1 5060"]);
    expect(places(await ask(resolverOf(zone), "192.0.2.1", undefined, ["tls"]))).toEqual(["tls 192.0.2.1 5061"]);
    expect(places(await ask(resolverOf(zone, [4, 6]), "LocalHost", 7))).toEqual(["udp 127.0.0.1 7", "udp ::1 7"]);
    expect(places(await ask(resolverOf(zone), "2001:db8::1", 5_060))).toEqual(["not_found"]);
    expect(zone.asked).toEqual([]);
  });

  it("with a port asks for addresses only, and takes each once", async () => {
    const zone: Zone = {
      a: { "gw.example": ["192.0.2.1", "192.0.2.2", "192.0.2.1"] },
      aaaa: { "gw.example": ["2001:db8::1"] },
      asked: [],
    };
    expect(places(await ask(resolverOf(zone, [4, 6]), "gw.example", 5_080))).toEqual([
      "udp 192.0.2.1 5080",
      "udp 192.0.2.2 5080",
      "udp 2001:db8::1 5080",
    ]);
    expect(zone.asked).toEqual(["A gw.example", "AAAA gw.example", "cancel"]);
  });

  it("without a port follows the SRV records of the first transport that has any", async () => {
    const zone: Zone = {
      srv: {
        "_sip._tcp.example": [record("c", 20, 0), record("a", 10, 90)],
        "_sips._tcp.example": [record("s", 1, 1, 5_071)],
      },
      a: { a: ["192.0.2.1"], c: ["192.0.2.3"], s: ["192.0.2.4"], example: ["192.0.2.9"] },
      asked: [],
    };
    const resolver = resolverOf(zone);
    expect(places(await ask(resolver, "example", undefined, ["udp", "tcp"]))).toEqual([
      "tcp 192.0.2.1 5070",
      "tcp 192.0.2.3 5070",
    ]);
    expect(places(await ask(resolver, "example", undefined, ["udp"]))).toEqual(["udp 192.0.2.9 5060"]);
    expect(places(await ask(resolver, "example", undefined, ["tls"]))).toEqual(["tls 192.0.2.4 5071"]);
  });

  it("without SRV records asks for addresses at the default port, then the machine's own table", async () => {
    const zone: Zone = { a: { "gw.example": ["192.0.2.1"] }, local: { box: ["10.0.0.5"] }, asked: [] };
    const resolver = resolverOf(zone);
    expect(places(await ask(resolver, "gw.example"))).toEqual(["udp 192.0.2.1 5060"]);
    expect(places(await ask(resolver, "gw.example", undefined, ["tls"]))).toEqual(["tls 192.0.2.1 5061"]);
    expect(places(await ask(resolver, "box"))).toEqual(["udp 10.0.0.5 5060"]);
    expect(places(await ask(resolver, "nowhere"))).toEqual(["not_found"]);
  });

  it("takes the SRV target '.' for a refusal", async () => {
    const zone: Zone = {
      srv: { "_sip._udp.example": [record(".", 0, 0, 0)] },
      a: { example: ["192.0.2.1"] },
      asked: [],
    };
    expect(places(await ask(resolverOf(zone), "example"))).toEqual(["not_found"]);
  });

  it("gives no more than ten targets, however many records there are", async () => {
    const names = Array.from({ length: 40 }, (_, index) => `n${index}`);
    const zone: Zone = {
      srv: { "_sip._udp.example": names.map((name) => record(name)) },
      a: Object.fromEntries(names.map((name, index) => [name, [`192.0.2.${index}`, `198.51.100.${index}`]])),
      asked: [],
    };
    expect(places(await ask(resolverOf(zone), "example"))).toHaveLength(10);
    expect(zone.asked.filter((one) => one.startsWith("A "))).toHaveLength(10);
  });

  it("gives up after two seconds in all and cancels what it asked", async () => {
    const clock = new ManualClock();
    const zone: Zone = { asked: [], fault: "silent" };
    const outcome = ask(resolverOf(zone, [4], clock), "slow.example");
    await clock.advance(1_999);
    expect(zone.asked).toEqual(["SRV _sip._udp.slow.example"]);
    await clock.advance(1);
    expect(await outcome).toEqual({ ok: false, reason: "timeout" });
    expect(zone.asked.at(-1)).toBe("cancel");
    expect(clock.pending).toBe(0);
  });
});

describe("cached answers", () => {
  it("are used for their time to live, and asked for once by many at once", async () => {
    const clock = new ManualClock();
    const zone: Zone = { a: { "gw.example": ["192.0.2.1"] }, ttlSeconds: 20, asked: [] };
    const resolver = resolverOf(zone, [4], clock);
    const asked = (): number => zone.asked.filter((one) => one === "A gw.example").length;
    await Promise.all([1, 2, 3].map(() => ask(resolver, "gw.example", 5_060)));
    expect(asked()).toBe(1);
    await clock.advance(19_999);
    await ask(resolver, "gw.example", 5_060);
    expect(asked()).toBe(1);
    await clock.advance(1);
    await ask(resolver, "gw.example", 5_060);
    expect(asked()).toBe(2);
  });

  it.each([
    [0, 1_000],
    [999_999, 300_000],
  ])("a time to live of %d s counts as %d ms", async (ttlSeconds, ms) => {
    const clock = new ManualClock();
    const zone: Zone = { a: { "gw.example": ["192.0.2.1"] }, ttlSeconds, asked: [] };
    const resolver = resolverOf(zone, [4], clock);
    const asked = (): number => zone.asked.filter((one) => one === "A gw.example").length;
    await ask(resolver, "gw.example", 5_060);
    await clock.advance(ms - 1);
    await ask(resolver, "gw.example", 5_060);
    expect(asked()).toBe(1);
    await clock.advance(1);
    await ask(resolver, "gw.example", 5_060);
    expect(asked()).toBe(2);
  });

  it.each(["silent", "ESERVFAIL"] as const)(
    "are used beyond it for an hour when the servers fail: %s",
    async (fault) => {
      const clock = new ManualClock();
      const zone: Zone = { a: { "gw.example": ["192.0.2.1"] }, ttlSeconds: 20, asked: [] };
      const resolver = resolverOf(zone, [4], clock);
      await ask(resolver, "gw.example", 5_060);
      zone.fault = fault;
      await clock.advance(3_000_000);
      const late = ask(resolver, "gw.example", 5_060);
      await clock.advance(2_000);
      expect(places(await late)).toEqual(["udp 192.0.2.1 5060"]);
      await clock.advance(700_000);
      const tooLate = ask(resolver, "gw.example", 5_060);
      await clock.advance(2_000);
      expect((await tooLate).ok).toBe(false);
    },
  );

  it("a name that is gone is gone at once", async () => {
    const clock = new ManualClock();
    const a: Record<string, readonly string[]> = { "gw.example": ["192.0.2.1"] };
    const zone: Zone = { a, ttlSeconds: 20, asked: [] };
    const resolver = resolverOf(zone, [4], clock);
    await ask(resolver, "gw.example", 5_060);
    delete a["gw.example"];
    await clock.advance(20_000);
    expect(places(await ask(resolver, "gw.example", 5_060))).toEqual(["not_found"]);
  });

  it("are limited in number", async () => {
    const zone: Zone = { asked: [] };
    const cache = new AnswerCache(new ManualClock());
    const lookups = cache.over(lookupsOf(zone));
    for (let index = 0; index < 2_500; index += 1) {
      await lookups.ipv4(`n${index}`);
    }
    expect(cache.size).toBe(2_000);
    await lookups.ipv4("n2499");
    expect(zone.asked).toHaveLength(2_500);
    await lookups.ipv4("n0");
    expect(zone.asked).toHaveLength(2_501);
  });
});
