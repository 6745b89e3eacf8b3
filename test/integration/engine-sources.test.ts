import { afterEach, describe, expect, it } from "vitest";

import { Closings, startTestEngine, type TestEngine } from "./engine-support.ts";
import { Prober } from "./prober.ts";
import { corpus } from "../support/sip-corpus.ts";
import { waitFor } from "../support/wait.ts";

const closings = new Closings();

afterEach(async () => {
  await closings.closeAll();
});

const methods = [
  "INVITE",
  "ACK",
  "BYE",
  "CANCEL",
  "OPTIONS",
  "REGISTER",
  "MESSAGE",
  "SUBSCRIBE",
  "PRACK",
  "UPDATE",
  "X",
];

function request(method: string, id: string, transport = "UDP"): Buffer {
  return Buffer.from(
    `${method} sip:100@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/${transport} 127.0.0.1;rport;branch=z9hG4bK${id}\r\n` +
      `From: <sip:a@127.0.0.1>;tag=${id}\r\nTo: <sip:100@127.0.0.1>\r\nCall-ID: ${id}\r\nCSeq: 1 ${method}\r\n` +
      "Contact: <sip:a@127.0.0.1>\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n",
  );
}

/** All kinds of messages: sound requests of every method, malformed ones, responses, keep-alives, and no SIP at all. */
function everything(transport: "UDP" | "TCP"): Buffer[] {
  return [
    ...methods.map((method) => request(method, `${transport}${method}`, transport)),
    ...corpus(),
    Buffer.from("\r\n\r\n"),
    Buffer.from("OPTIONS"),
    Buffer.from("SIP/2.0 200 OK\r\n\r\n"),
    Buffer.from("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    Buffer.alloc(1_000, 0),
  ];
}

const refuseAll = async (rig: TestEngine): Promise<void> => {
  const srf = await rig.connect();
  srf.invite((_req, res) => {
    res.send(401);
  });
};

describe("a source that is not on the list", () => {
  it("gets no packet over UDP, whatever it sends", async () => {
    const rig = await startTestEngine(closings, { sources: ["192.0.2.1"], t1Ms: 5 });
    await refuseAll(rig);
    await using one = await Prober.open("udp", rig.port);
    const messages = everything("UDP");
    for (const bytes of messages) {
      one.send(bytes);
    }
    // The keep-alive is no message.
    await waitFor(() => rig.engine.stats().transport.unlisted === messages.length - 1, {
      what: "all of them taken in",
    });
    expect(rig.engine.stats().transport.messagesOut).toBe(0);
    expect(one.packets()).toBe(0);
  });

  it("gets no byte over TCP, and its connection is closed", async () => {
    const rig = await startTestEngine(closings, {
      sources: ["192.0.2.1"],
      t1Ms: 5,
      limits: { tcp: { strangerMs: 200 } },
    });
    await refuseAll(rig);
    for (const bytes of everything("TCP")) {
      await using one = await Prober.open("tcp", rig.port);
      one.send(bytes);
      await waitFor(() => one.closed(), { what: "the end of the connection" });
      expect(one.bytes()).toBe(0);
    }
    expect(rig.engine.stats().transport.messagesOut).toBe(0);
  });
});

describe("a source that nobody vouches for", () => {
  it("gets at most one packet for each of its own, repetitions of our answers included", async () => {
    const rig = await startTestEngine(closings, { sources: "any", t1Ms: 5 });
    await refuseAll(rig);
    await using one = await Prober.open("udp", rig.port);
    let sent = 0;
    for (const bytes of everything("UDP")) {
      one.send(bytes);
      sent += 1;
    }
    for (let count = 0; count < 50; count += 1) {
      one.send(request("INVITE", `flood${count}`));
      sent += 1;
    }
    await waitFor(() => rig.engine.stats().transport.messagesIn >= sent - 1, { what: "all of them taken in" });
    // Timer H has run out for every refusal that nobody acknowledged.
    await waitFor(() => rig.engine.isIdle(), { what: "an idle engine" });
    expect(one.finals()).toContain(401);
    expect(one.packets()).toBeLessThanOrEqual(sent);
    expect(rig.engine.stats().transport.messagesOut).toBeLessThanOrEqual(sent + 1);
  });

  it("gets at most 1.2 bytes for each of its own, for every kind of message by itself", async () => {
    const rig = await startTestEngine(closings, { sources: "any", t1Ms: 5 });
    await refuseAll(rig);
    const senders: { readonly one: Prober; readonly bytes: Buffer }[] = [];
    for (const bytes of everything("UDP")) {
      const one = await Prober.open("udp", rig.port);
      senders.push({ one, bytes });
      one.send(bytes);
    }
    await waitFor(() => rig.engine.stats().transport.messagesIn >= senders.length - 1, {
      what: "all of them taken in",
    });
    await waitFor(() => rig.engine.isIdle(), { what: "an idle engine" });
    for (const { one, bytes } of senders) {
      expect(one.bytes(), bytes.toString("latin1", 0, 200)).toBeLessThanOrEqual(1.2 * bytes.length);
      await one[Symbol.asyncDispose]();
    }
    // The others name another port in their Via.
    expect(senders.filter(({ one }) => one.bytes() > 0).length).toBeGreaterThan(methods.length / 2);
  });
});
