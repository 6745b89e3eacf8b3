import { once } from "node:events";
import type { Socket } from "node:net";

import { afterEach, beforeEach, describe, expect, it } from "vitest";

import type { Packet, SrfDialog, SrfInstance, SrfMessage, TestEngine } from "./engine-support.ts";
import {
  Closings,
  failure,
  RawTcpPeer,
  replyText,
  sdp,
  startTestEngine,
  tagOf,
  unique,
  uriOf,
} from "./engine-support.ts";

const closings = new Closings();
let sip: TestEngine;
let srf: SrfInstance;
let peer: RawTcpPeer;

beforeEach(async () => {
  sip = await startTestEngine(closings);
  srf = await sip.connect();
  peer = await RawTcpPeer.open(closings);
});

afterEach(async () => {
  await closings.closeAll();
});

const isRequest =
  (method: string) =>
  (packet: Packet): boolean =>
    packet.status === 0 && packet.method === method;

function tcpRequest(
  method: string,
  ids: {
    callId: string;
    fromTag: string;
    toTag?: string;
    seq: number;
    branch?: string;
    target?: string;
    contact?: string;
    headers?: readonly string[];
  },
  body = "",
): string {
  const lines = [
    `${method} ${ids.target ?? sip.uri("100")} SIP/2.0`,
    `Via: SIP/2.0/TCP 127.0.0.1:${peer.port};branch=${ids.branch ?? `z9hG4bK${unique("b")}`}`,
    "Max-Forwards: 70",
    `From: <sip:alice@127.0.0.1>;tag=${ids.fromTag}`,
    `To: <sip:100@127.0.0.1>${ids.toTag === undefined ? "" : `;tag=${ids.toTag}`}`,
    `Call-ID: ${ids.callId}`,
    `CSeq: ${ids.seq} ${method}`,
    `Contact: ${ids.contact ?? `<sip:alice@127.0.0.1:${peer.port};transport=tcp>`}`,
    ...(ids.headers ?? []),
    ...(body === "" ? [] : ["Content-Type: application/sdp"]),
    `Content-Length: ${Buffer.byteLength(body)}`,
  ];
  return `${lines.join("\r\n")}\r\n\r\n${body}`;
}

describe("connections of ours (RFC 5626)", () => {
  const pings = (): number => peer.received.filter(({ text }) => text === "").length;

  /** A call to the peer, from an engine of its own with these limits. */
  async function call(tcp: { readonly keepAliveMs?: number; readonly pongMs?: number }): Promise<{
    readonly invite: Packet;
    readonly dialog: SrfDialog;
    readonly engine: TestEngine;
  }> {
    const engine = await startTestEngine(closings, { limits: { tcp } });
    const app = await engine.connect();
    const calling = app.createUAC(`sip:bob@127.0.0.1:${peer.port};transport=tcp`, { localSdp: sdp(5000) });
    const invite = await peer.take("INVITE", isRequest("INVITE"));
    const contact = `<sip:bob@127.0.0.1:${peer.port};transport=tcp>`;
    invite.connection?.write(replyText(invite, 200, "OK", { tag: "t", contact, body: sdp(4000) }));
    const dialog = await calling;
    await peer.take("ACK", isRequest("ACK"));
    return { invite, dialog, engine };
  }

  async function hangUp(dialog: SrfDialog): Promise<Packet> {
    const ended = dialog.destroy();
    const bye = await peer.take("BYE", isRequest("BYE"));
    bye.connection?.write(replyText(bye, 200, "OK"));
    await ended;
    return bye;
  }

  it("are pinged while a call needs them, and no longer", async () => {
    const { dialog, engine } = await call({ keepAliveMs: 20 });
    await expect.poll(pings).toBeGreaterThan(3);
    await hangUp(dialog);
    await expect.poll(() => engine.engine.isIdle(), { timeout: 10_000 }).toBe(true);
    // One may be on its way.
    await expect
      .poll(async () => {
        const before = pings();
        await new Promise((resolve) => setTimeout(resolve, 100));
        return pings() - before;
      })
      .toBe(0);
    expect(engine.engine.stats().transport.tcpConnections).toBe(1);
  });

  it("stay when the peer does not know pings", async () => {
    const { dialog, invite } = await call({ keepAliveMs: 20, pongMs: 5 });
    await expect.poll(pings).toBeGreaterThan(5);
    expect((await hangUp(dialog)).connection).toBe(invite.connection);
  });

  it("are dead when the peer answered pings and stops, and the next request opens another", async () => {
    const { dialog, invite, engine } = await call({ keepAliveMs: 50, pongMs: 100 });
    await expect.poll(pings).toBeGreaterThan(0);
    invite.connection?.write("\r\n");
    await expect.poll(() => engine.engine.stats().transport.tcpConnections).toBe(0);
    const bye = await hangUp(dialog);
    expect(bye.connection).not.toBe(invite.connection);
  });

  it("are not pinged where the configuration says so", async () => {
    const { dialog } = await call({ keepAliveMs: 0 });
    await new Promise((resolve) => setTimeout(resolve, 100));
    await hangUp(dialog);
    expect(pings()).toBe(0);
  });

  it("that were silent while a request timed out are not used again", async () => {
    const uri = `sip:bob@127.0.0.1:${peer.port};transport=tcp`;
    const silent = await failure(srf.createUAC(uri, { localSdp: sdp(5000) }));
    expect(silent.status).toBe(408);
    const first = await peer.take("INVITE", isRequest("INVITE"));
    const calling = failure(srf.createUAC(uri, { localSdp: sdp(5000) }));
    const second = await peer.take("INVITE", isRequest("INVITE"));
    expect(second.connection).not.toBe(first.connection);
    second.connection?.write(replyText(second, 486, "Busy Here", { tag: "t" }));
    expect((await calling).status).toBe(486);
  });
});

describe("calls over TCP", () => {
  it("to the engine: one connection for the whole call, a Contact with the transport, no repetition of the 200", async () => {
    const answered = new Promise<SrfDialog>((resolve) => {
      srf.invite((req, res) => {
        void srf.createUAS(req, res, { localSdp: sdp(5000) }).then(resolve);
      });
    });
    const socket = await peer.dial(sip.port);
    const ids = { callId: unique("c"), fromTag: unique("f"), seq: 1 };
    socket.write(tcpRequest("INVITE", ids, sdp(4000)));
    const ok = await peer.take("200", (packet) => packet.status === 200);
    expect(ok.header("Contact")).toBe(`<sip:127.0.0.1:${sip.port};transport=tcp>`);
    const inDialog = { ...ids, toTag: tagOf(ok.header("To")), target: uriOf(ok.header("Contact")) };
    socket.write(tcpRequest("ACK", inDialog));
    const dialog = await answered;
    expect(dialog.res.get("Contact") ?? dialog.local.contact).toContain("transport=tcp");
    socket.write(tcpRequest("BYE", { ...inDialog, seq: 2 }));
    await peer.take("200 BYE", (packet) => packet.status === 200 && packet.method === "BYE");
    expect(peer.connections).toHaveLength(1);
    expect(peer.received.filter((packet) => packet.status === 200 && packet.method === "INVITE")).toHaveLength(1);
  });

  it("from the engine: INVITE, ACK and BYE on one connection, a large SDP in one piece", async () => {
    const large = `${sdp(5000)}${"a=candidate:1 1 UDP 1 192.0.2.1 9 typ host é\r\n".repeat(300)}`;
    const calling = srf.createUAC(`sip:bob@127.0.0.1:${peer.port};transport=tcp`, {
      localSdp: large,
      callingNumber: "123",
    });
    const invite = await peer.take("INVITE", isRequest("INVITE"));
    expect(invite.body).toBe(large);
    expect(invite.header("Via")).toContain("SIP/2.0/TCP");
    expect(invite.header("Contact")).toBe(`<sip:123@127.0.0.1:${sip.port};transport=tcp>`);
    const contact = `<sip:bob@127.0.0.1:${peer.port};transport=tcp>`;
    invite.connection?.write(replyText(invite, 200, "OK", { tag: "t", contact, body: sdp(4000) }));
    const dialog = await calling;
    await peer.take("ACK", isRequest("ACK"));
    const ended = dialog.destroy();
    const bye = await peer.take("BYE", isRequest("BYE"));
    bye.connection?.write(replyText(bye, 200, "OK"));
    await ended;
    expect(peer.connections).toHaveLength(1);
  });

  it("answers on the connection although the peer has closed its half", async () => {
    srf.options((_req, res) => {
      res.send(200);
    });
    await expect.poll(() => sip.engine.stats().wire.routes).toBe(1);
    const socket = await peer.dial(sip.port);
    socket.end(tcpRequest("OPTIONS", { callId: unique("c"), fromTag: unique("f"), seq: 1 }));
    const ok = await peer.take("200", (packet) => packet.status === 200);
    expect(ok.method).toBe("OPTIONS");
  });

  it("a connection that breaks before any response: 503 of the engine", async () => {
    const calling = failure(srf.createUAC(`sip:bob@127.0.0.1:${peer.port};transport=tcp`, { localSdp: sdp(5000) }));
    const invite = await peer.take("INVITE", isRequest("INVITE"));
    invite.connection?.resetAndDestroy();
    expect((await calling).status).toBe(503);
  });

  it("cancels over the same connection", async () => {
    let sent: SrfMessage | undefined;
    const calling = failure(
      srf.createUAC(
        `sip:bob@127.0.0.1:${peer.port};transport=tcp`,
        { localSdp: sdp(5000) },
        {
          cbRequest: (_error, req) => {
            sent = req;
          },
        },
      ),
    );
    const invite = await peer.take("INVITE", isRequest("INVITE"));
    invite.connection?.write(replyText(invite, 180, "Ringing", { tag: "t" }));
    await expect.poll(() => sip.engine.stats().counters.responsesIn).toBe(1);
    sent?.cancel();
    const cancel = await peer.take("CANCEL", isRequest("CANCEL"));
    expect(cancel.connection).toBe(invite.connection);
    cancel.connection?.write(replyText(cancel, 200, "OK"));
    invite.connection?.write(replyText(invite, 487, "Request Terminated", { tag: "t" }));
    await peer.take("ACK", isRequest("ACK"));
    expect((await calling).status).toBe(487);
  });
});

describe("a request of ours in a dialog over TCP", () => {
  /** A caller who is connected and answered; `contact` is what he says of himself. */
  async function calledOverTcp(
    contact: string,
    headers: readonly string[] = [],
  ): Promise<{
    readonly socket: Socket;
    readonly dialog: SrfDialog;
    readonly ids: { callId: string; fromTag: string; toTag: string; target: string };
  }> {
    const answered = new Promise<SrfDialog>((resolve) => {
      srf.invite((req, res) => {
        void srf.createUAS(req, res, { localSdp: sdp(5000) }).then(resolve);
      });
    });
    await expect.poll(() => sip.engine.stats().wire.routes).toBe(1);
    const socket = await peer.dial(sip.port);
    const start = { callId: unique("c"), fromTag: unique("f"), contact, headers };
    socket.write(tcpRequest("INVITE", { ...start, seq: 1 }, sdp(4000)));
    const ok = await peer.take("200", (packet) => packet.status === 200);
    const ids = { ...start, toTag: tagOf(ok.header("To")), target: uriOf(ok.header("Contact")) };
    socket.write(tcpRequest("ACK", { ...ids, seq: 1 }));
    const dialog = await answered;
    await expect.poll(() => sip.engine.stats().agent.incoming).toBe(0);
    return { socket, dialog, ids };
  }

  async function endedBy(dialog: SrfDialog): Promise<Packet> {
    const ended = dialog.destroy();
    const bye = await peer.take("BYE", isRequest("BYE"));
    bye.connection?.write(replyText(bye, 200, "OK"));
    await ended;
    return bye;
  }

  // Port 9 (discard): nobody listens there.
  it.each([
    ["an address where nobody listens", "<sip:alice@127.0.0.1:9;transport=tcp>"],
    ["a name that only the caller's network knows", "<sip:alice@phone.invalid;transport=tcp>"],
    ["no transport", "<sip:alice@127.0.0.1:9>"],
  ])("goes over the caller's connection when his Contact has %s", async (_what, contact) => {
    const { socket, dialog } = await calledOverTcp(contact);
    const bye = await endedBy(dialog);
    expect(bye.connection).toBe(socket);
    expect(bye.startLine).toBe(`BYE ${uriOf(contact)} SIP/2.0`);
    expect(bye.header("Via")).toMatch(`SIP/2.0/TCP 127.0.0.1:${sip.port};`);
    expect(peer.connections).toHaveLength(1);
  });

  it("goes to the Contact when the caller's connection is closed", async () => {
    const { socket, dialog } = await calledOverTcp(`<sip:alice@127.0.0.1:${peer.port};transport=tcp>`);
    socket.destroy();
    await expect.poll(() => sip.engine.stats().transport.tcpConnections).toBe(0);
    const bye = await endedBy(dialog);
    expect(bye.connection).not.toBe(socket);
  });

  it("goes over the connection that the caller came back on", async () => {
    const { socket, dialog, ids } = await calledOverTcp("<sip:alice@127.0.0.1:9;transport=tcp>");
    socket.destroy();
    const again = await peer.dial(sip.port);
    again.write(tcpRequest("OPTIONS", { ...ids, seq: 2 }));
    await peer.take("200 OPTIONS", (packet) => packet.status === 200 && packet.method === "OPTIONS");
    expect((await endedBy(dialog)).connection).toBe(again);
  });

  it("goes to the Contact's address when the INVITE came through a proxy", async () => {
    const contact = await RawTcpPeer.open(closings);
    const { dialog } = await calledOverTcp(`<sip:alice@127.0.0.1:${contact.port};transport=tcp>`, [
      "Via: SIP/2.0/UDP 192.0.2.7;branch=z9hG4bKbehind",
    ]);
    const ended = dialog.destroy();
    const bye = await contact.take("BYE", isRequest("BYE"));
    bye.connection?.write(replyText(bye, 200, "OK"));
    await ended;
  });

  it("goes over the connection of a callee whose Contact cannot be reached", async () => {
    const calling = srf.createUAC(`sip:bob@127.0.0.1:${peer.port};transport=tcp`, { localSdp: sdp(5000) });
    const invite = await peer.take("INVITE", isRequest("INVITE"));
    const contact = "<sip:bob@127.0.0.1:9;transport=tcp>";
    invite.connection?.write(replyText(invite, 200, "OK", { tag: "t", contact, body: sdp(4000) }));
    const dialog = await calling;
    const ack = await peer.take("ACK", isRequest("ACK"));
    expect(ack.connection).toBe(invite.connection);
    expect((await endedBy(dialog)).connection).toBe(invite.connection);
  });
});

describe("a connection that a call needs", () => {
  it("stays open for as long as the call, however little is sent, and is closed after it", async () => {
    const idleMs = 50;
    sip = await startTestEngine(closings, { limits: { tcp: { idleMs } } });
    srf = await sip.connect();
    const calling = srf.createUAC(`sip:bob@127.0.0.1:${peer.port};transport=tcp`, { localSdp: sdp(5000) });
    const invite = await peer.take("INVITE", isRequest("INVITE"));
    const contact = `<sip:bob@127.0.0.1:${peer.port};transport=tcp>`;
    invite.connection?.write(replyText(invite, 200, "OK", { tag: "t", contact, body: sdp(4000) }));
    const dialog = await calling;
    await peer.take("ACK", isRequest("ACK"));
    // A connection without a call shows that the idle time has passed, and more than once.
    for (let round = 0; round < 2; round += 1) {
      await expect.poll(() => sip.engine.stats().transactions.client).toBe(0);
      const idle = await peer.dial(sip.port);
      await once(idle, "end");
      idle.destroy();
    }
    expect(invite.connection?.destroyed).toBe(false);
    const ended = dialog.destroy();
    const bye = await peer.take("BYE", isRequest("BYE"));
    expect(bye.connection).toBe(invite.connection);
    const closed = once(invite.connection as Socket, "end");
    bye.connection?.write(replyText(bye, 200, "OK"));
    await ended;
    await closed;
  });

  it("is not given up for a message of a stranger's that belongs to nothing", async () => {
    const calling = srf.createUAC(`sip:bob@127.0.0.1:${peer.port};transport=tcp`, { localSdp: sdp(5000) });
    const invite = await peer.take("INVITE", isRequest("INVITE"));
    sip.engine.setSources([]);
    const contact = `<sip:bob@127.0.0.1:${peer.port};transport=tcp>`;
    invite.connection?.write(replyText(invite, 200, "OK", { tag: "t", contact, body: sdp(4000) }));
    const dialog = await calling;
    await peer.take("ACK", isRequest("ACK"));
    invite.connection?.write(tcpRequest("OPTIONS", { callId: unique("c"), fromTag: unique("f"), seq: 1 }));
    await expect.poll(() => sip.engine.stats().transport.unlisted).toBe(1);
    const ended = dialog.destroy();
    const bye = await peer.take("BYE", isRequest("BYE"));
    expect(bye.connection).toBe(invite.connection);
    bye.connection?.write(replyText(bye, 200, "OK"));
    await ended;
    expect(peer.received.filter((packet) => packet.method === "OPTIONS")).toEqual([]);
  });

  it("the number of connections from one address can be set", async () => {
    sip = await startTestEngine(closings, { limits: { tcp: { connectionsPerAddress: 1 } } });
    await peer.dial(sip.port);
    await peer.dial(sip.port);
    await expect.poll(() => sip.engine.stats().transport.connectionsRefused).toBe(1);
    expect(sip.engine.stats().transport.tcpConnections).toBe(1);
  });
});
