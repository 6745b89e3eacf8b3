// The user agent core on a manual clock between stand-ins; `start` begins anew.
import { expect } from "vitest";

import { Counters } from "../../src/engine/counters.ts";
import { defaultSessionRules } from "../../src/engine/dialog/session-timer.ts";
import type { SipCommand } from "../../src/engine/events.ts";
import { defaultLimits, silentLog } from "../../src/engine/options.ts";
import type { EngineLimits } from "../../src/engine/options.ts";
import { sipTimers, systemRandom } from "../../src/engine/timers.ts";
import { UserAgent } from "../../src/engine/ua/agent.ts";
import { ManualClock } from "./engine-clock.ts";
import { FakeApps, FakeInbound, FakeNetwork, origin, request } from "./engine-fakes.ts";
import type { FakeOutbound } from "./engine-fakes.ts";

export let clock: ManualClock;
export let network: FakeNetwork;
export let apps: FakeApps;
export let counters: Counters;
export let agent: UserAgent;

export function start(limits: Partial<EngineLimits> = {}, strictParity = false): void {
  clock = new ManualClock();
  network = new FakeNetwork();
  apps = new FakeApps();
  counters = new Counters();
  agent = new UserAgent({
    clock,
    random: systemRandom,
    timers: sipTimers(),
    log: silentLog,
    counters,
    limits: { ...defaultLimits, ...limits },
    settings: {
      orphanGraceMs: 30_000,
      waitMs: 10_000,
      strictParity,
      ringingLimitMs: 600_000,
      outboundProxy: undefined,
      userAgent: "pb/1",
      session: defaultSessionRules,
    },
    network,
    events: apps,
  });
}

let keys = 0;

export function receive(
  method: string,
  parts: {
    seq?: number;
    toTag?: string;
    callId?: string;
    headers?: readonly string[];
    vias?: number;
    protocol?: "udp" | "tcp";
    fromTag?: string;
    contact?: string;
    body?: string;
  } = {},
): FakeInbound {
  keys += 1;
  const via = `Via: SIP/2.0/UDP 192.0.2.9:5070;branch=z9hG4bK${keys}`;
  const text = [
    `${method} sip:100@192.0.2.1 SIP/2.0`,
    ...Array.from({ length: parts.vias ?? 1 }, () => via),
    `From: <sip:alice@192.0.2.9>;tag=${parts.fromTag ?? "alice"}`,
    `To: <sip:100@192.0.2.1>${parts.toTag === undefined ? "" : `;tag=${parts.toTag}`}`,
    `Call-ID: ${parts.callId ?? "call-1"}`,
    `CSeq: ${parts.seq ?? 1} ${method}`,
    `Contact: ${parts.contact ?? "<sip:alice@192.0.2.9:5070>"}`,
    ...(parts.headers ?? []),
  ].join("\r\n");
  const parsed = request(text);
  parsed.body = Buffer.from(parts.body ?? "");
  const inbound = new FakeInbound(String(keys), parsed, {
    ...origin,
    protocol: parts.protocol ?? "udp",
  });
  if (method === "ACK") {
    agent.onAck(inbound.request, origin);
  } else {
    agent.onRequest(inbound);
  }
  return inbound;
}

export function command(sip: string, client = 1): SipCommand {
  return { client, requestId: "r", sip: Buffer.from(sip) };
}

export function respond(txnId: string, line: string, headers = "", client = 1, body = ""): void {
  agent.respond(command(`SIP/2.0 ${line}\r\n${headers}\r\n${body}`, client), txnId);
}

export function localTag(inbound: FakeInbound): string {
  return /tag=(\w+)/.exec(inbound.responses.at(-1)?.headers.get("To") ?? "")?.[1] ?? "";
}

/** An answered call from the network; the ACK is left to the test. */
export function answered(callId = "call-1"): { inbound: FakeInbound; tag: string; dialogId: string } {
  const inbound = receive("INVITE", { callId });
  respond(apps.lastTxn, "200 OK");
  return { inbound, tag: localTag(inbound), dialogId: `${callId};from-tag=alice` };
}

/** A call to the network; nothing is answered yet. */
export function calling(uri = "sip:bob@192.0.2.9:5070", headers = ""): { outbound: FakeOutbound; txnId: string } {
  agent.requestOutOfDialog(command(`INVITE ${uri} SIP/2.0\r\n${headers}\r\n`), undefined);
  const reply = apps.replies.at(-1);
  if (reply?.type !== "sent") {
    throw new Error(`refused: ${reply?.text ?? "no reply"}`);
  }
  return { outbound: network.last("INVITE"), txnId: reply.txnId };
}

export function dialogOf(outbound: FakeOutbound): string {
  const { headers } = outbound.request;
  return `${headers.get("Call-ID")};from-tag=${/tag=(\w+)/.exec(headers.get("From") ?? "")?.[1] ?? ""}`;
}

export function expectNothingLeft(): void {
  expect(agent.stats()).toEqual({ dialogs: 0, incoming: 0, invites: 0, outgoing: 0, lookups: 0, timers: 0 });
  expect(clock.pending).toBe(0);
  expect(clock.errors).toEqual([]);
}
