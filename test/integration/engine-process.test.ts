// `patchbay engine` as a process of its own: what its calls live through.
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { afterEach, describe, expect, it } from "vitest";

import { DisposalStack } from "../support/disposal.ts";
import { temporaryFolder } from "../support/folder.ts";
import { claimPort } from "../support/ports.ts";
import { RunningProcess } from "../support/process.ts";
import { waitFor } from "../support/wait.ts";
import { Closings, RawCall, RawCallee, RawPeer, sdp } from "./engine-support.ts";

const projectFolder = fileURLToPath(new URL("../..", import.meta.url));
const closings = new Closings();

afterEach(async () => {
  await closings.closeAll();
});

interface Site extends AsyncDisposable {
  readonly engine: RunningProcess;
  readonly sipPort: number;
  readonly controlPort: number;
  /** A new application process, as soon as it is connected. */
  application(callee: RawPeer): Promise<RunningProcess>;
  /** How many calls the applications have noted: one that is killed before leaves a call its successor cannot know. */
  noted(): Promise<number>;
  /** A number of the engine's metrics page. */
  metric(name: string): Promise<number>;
}

async function startSite(own: object = {}): Promise<Site> {
  await using resources = new DisposalStack();
  const { path: folder } = resources.use(await temporaryFolder("engine"));
  const [sip, control, admin] = [
    resources.use(await claimPort()),
    resources.use(await claimPort()),
    resources.use(await claimPort()),
  ];
  const file = join(folder, "patchbay.yaml");
  await writeFile(join(folder, "secret"), "a-secret\n", { mode: 0o600 });
  const config = {
    sip: {
      engine: "separate",
      listen: [{ protocol: "udp", address: "127.0.0.1", port: sip.port }],
      drachtio: { port: control.port, secretFile: "secret" },
      t1Ms: 50,
    },
    engine: { sources: ["127.0.0.1"], admin: { port: admin.port }, ...own },
  };
  await writeFile(file, JSON.stringify(config));
  const engine = resources.use(
    await RunningProcess.start({
      name: "patchbay engine",
      command: "node",
      cwd: projectFolder,
      args: ["--import", "tsx", "src/main.ts", "engine", "--config", file],
      ready: (child) => child.output.includes('"msg":"ready"'),
      readyTimeoutMs: 30_000,
    }),
  );
  const kept = resources.move();
  return {
    engine,
    sipPort: sip.port,
    controlPort: control.port,
    application: async (callee) => {
      const app = await RunningProcess.start({
        name: "B2BUA",
        command: "node",
        cwd: projectFolder,
        args: ["--import", "tsx", "test/support/journal-b2bua.ts"],
        env: {
          JOURNAL: join(folder, "journal"),
          CONTROL_PORT: String(control.port),
          CONTROL_SECRET: "a-secret",
          CALLEE: callee.uri,
        },
        ready: (child) => child.output.includes("connected"),
        readyTimeoutMs: 30_000,
      });
      closings.add(async () => {
        await app.kill();
      });
      return app;
    },
    noted: async () => {
      const journal = await readFile(join(folder, "journal"), "utf8").catch(() => "");
      return journal.split("\n").filter((line) => line.startsWith('{"pair"')).length;
    },
    metric: async (name) => {
      const page = await (await fetch(`http://127.0.0.1:${admin.port}/metrics`)).text();
      return Number(new RegExp(`^patchbay_engine_${name} (\\d+)$`, "m").exec(page)?.[1] ?? Number.NaN);
    },
    [Symbol.asyncDispose]: () => kept[Symbol.asyncDispose](),
  };
}

interface Bridged {
  readonly caller: RawCall;
  readonly callee: RawCallee;
}

/** Calls through the B2BUA, both legs acknowledged. */
async function bridge(site: Site, callers: RawPeer, callees: RawPeer, count: number): Promise<readonly Bridged[]> {
  const calls: Bridged[] = [];
  for (let index = 0; index < count; index += 1) {
    const caller = new RawCall(callers, site.sipPort);
    caller.send("INVITE", { body: sdp(4000 + 2 * index) });
    const callee = new RawCallee(callees, await callees.request("INVITE"));
    callee.reply(200, "OK", { body: sdp(6000 + 2 * index) });
    await callees.take("the callee's ACK", ({ method, header }) => {
      return method === "ACK" && header("Call-ID") === callee.invite.header("Call-ID");
    });
    const ok = await callers.response(200, "INVITE");
    caller.toTag = /;tag=([^;>\s]+)/.exec(ok.header("To"))?.[1] ?? "";
    caller.send("ACK");
    calls.push({ caller, callee });
  }
  await waitFor(async () => (await site.metric("dialogs")) === 2 * count, { what: "all dialogs", timeoutMs: 10_000 });
  await waitFor(async () => (await site.noted()) === count, { what: "the notes of all calls", timeoutMs: 10_000 });
  return calls;
}

const callIdOf = ({ invite }: RawCallee): string => invite.header("Call-ID");

/** Answers the BYE that the engine sends in a leg, when it comes. */
async function answerBye(peer: RawPeer, callId: string): Promise<string> {
  const bye = await peer.take(
    `the BYE of ${callId}`,
    ({ status, method, header }) => status === 0 && method === "BYE" && header("Call-ID") === callId,
    20_000,
  );
  peer.reply(bye, 200, "OK");
  return bye.header("Reason");
}

async function hangUp({ caller, callee }: Bridged, by: "caller" | "callee"): Promise<void> {
  const [peer, callId] = by === "caller" ? [caller.peer, caller.callId] : [callee.peer, callIdOf(callee)];
  (by === "caller" ? caller : callee).send("BYE");
  await peer.take(`200 to the BYE of the ${by}`, ({ status, method, header }) => {
    return status === 200 && method === "BYE" && header("Call-ID") === callId;
  });
}

const otherLeg = ({ caller, callee }: Bridged, by: "caller" | "callee"): readonly [RawPeer, string] =>
  by === "caller" ? [callee.peer, callIdOf(callee)] : [caller.peer, caller.callId];

async function atRest(site: Site): Promise<void> {
  await waitFor(async () => (await site.metric("dialogs")) === 0 && (await site.metric("pending")) === 0, {
    what: "the engine at rest",
    timeoutMs: 15_000,
    intervalMs: 50,
  });
}

describe("kill -9 of the application under 50 bridged calls", () => {
  it("the next process takes all over: 25 are hung up by the caller, 25 by the callee, as if nothing had been", async () => {
    await using site = await startSite();
    const [callers, callees] = [await RawPeer.open(closings), await RawPeer.open(closings)];
    const first = await site.application(callees);
    const calls = await bridge(site, callers, callees, 50);
    await first.kill();
    expect((await site.application(callees)).stdout).toBe("connected 50\n");
    await waitFor(async () => (await site.metric("dialogs_adopted_total")) === 100, { what: "the adoption" });
    for (const [index, call] of calls.entries()) {
      const by = index % 2 === 0 ? "caller" : "callee";
      await hangUp(call, by);
      const [peer, callId] = otherLeg(call, by);
      expect(await answerBye(peer, callId)).toBe("");
    }
    await atRest(site);
    expect(await site.metric("dialogs_adopted_total")).toBe(100);
    expect(await site.metric("orphans_ended_total")).toBe(0);
  });

  it("those that hang up while no application is there get their 200 at once, the others their BYE from the next one", async () => {
    await using site = await startSite();
    const [callers, callees] = [await RawPeer.open(closings), await RawPeer.open(closings)];
    const first = await site.application(callees);
    const calls = await bridge(site, callers, callees, 50);
    await first.kill();
    const sides = calls.map((_call, index) => (index % 2 === 0 ? "caller" : "callee"));
    for (const [index, call] of calls.entries()) await hangUp(call, sides[index] ?? "caller");
    expect(await site.metric("dialogs")).toBe(50);
    await site.application(callees);
    for (const [index, call] of calls.entries()) {
      const [peer, callId] = otherLeg(call, sides[index] ?? "caller");
      expect(await answerBye(peer, callId)).toBe("");
    }
    await atRest(site);
    expect(await site.metric("ends_kept_total")).toBe(50);
    expect(await site.metric("orphans_ended_total")).toBe(0);
  });

  it("when no application comes, both ends get a BYE with the reason", async () => {
    await using site = await startSite({ orphanGraceMs: 1000 });
    const [callers, callees] = [await RawPeer.open(closings), await RawPeer.open(closings)];
    const first = await site.application(callees);
    const calls = await bridge(site, callers, callees, 5);
    await first.kill();
    for (const { caller, callee } of calls) {
      expect(await answerBye(callers, caller.callId)).toBe('SIP;cause=503;text="application gone"');
      expect(await answerBye(callees, callIdOf(callee))).toBe('SIP;cause=503;text="application gone"');
    }
    await atRest(site);
  });
});

describe("the process", () => {
  it("drains at the first signal: the call that is there goes on, a new one gets 503", async () => {
    await using site = await startSite();
    const [callers, callees] = [await RawPeer.open(closings), await RawPeer.open(closings)];
    await site.application(callees);
    const [call] = await bridge(site, callers, callees, 1);
    site.engine.signal("SIGTERM");
    await waitFor(() => site.engine.output.includes("draining"), { what: "the drain" });
    const refused = new RawCall(callers, site.sipPort);
    refused.send("INVITE", { body: sdp(4000) });
    const answer = await callers.response(503, "INVITE");
    refused.send("ACK", { branch: refused.lastBranch, toTag: /tag=(\S+)/.exec(answer.header("To"))?.[1] ?? "" });
    if (call === undefined) throw new Error("no call");
    await hangUp(call, "caller");
    await answerBye(...otherLeg(call, "caller"));
    expect(await site.engine.exited).toMatchObject({ code: 0 });
    // It stays for as long as the answers of this call may be repeated, and says so.
    expect(site.engine.output).toContain('"atMostMs":3200,"msg":"no call is left: answers that may still come');
  });

  it("does not start for a configuration without a separate engine, nor twice", async () => {
    await using site = await startSite();
    await using folder = await temporaryFolder("engine");
    const run = async (config: object): Promise<{ code: number | null; output: string }> => {
      const file = join(folder.path, "patchbay.yaml");
      await writeFile(file, JSON.stringify(config));
      await writeFile(join(folder.path, "secret"), "a-secret\n");
      await using child = await RunningProcess.start({
        name: "patchbay engine",
        command: "node",
        cwd: projectFolder,
        args: ["--import", "tsx", "src/main.ts", "engine", "--config", file],
      });
      const { code } = await child.exited;
      return { code, output: child.output };
    };
    expect(await run({})).toMatchObject({ code: 2, output: expect.stringContaining("sip.engine: separate") });
    const sip = {
      engine: "separate",
      listen: [{ protocol: "udp", address: "127.0.0.1", port: 0 }],
      drachtio: { port: site.controlPort, secretFile: "secret" },
    };
    expect(await run({ sip })).toMatchObject({ code: 1, output: expect.stringContaining("EADDRINUSE") });
    // The port is taken on loopback, so it is on the wildcard address too; the warning comes before.
    const open = { ...sip, drachtio: { ...sip.drachtio, host: "0.0.0.0" } };
    expect(await run({ sip: open })).toMatchObject({
      code: 1,
      output: expect.stringContaining("may be reached from the internet"),
    });
  });
});
