// The whole service behind TLS: the caller comes by it and the operator is called by it.
import { afterEach, expect, test } from "vitest";

import { Authority } from "../support/certificates.ts";
import { temporaryFolder } from "../support/folder.ts";
import type { Packet } from "./engine-support.ts";
import { Closings, RawTcpPeer, replyText, tagOf, unique, uriOf } from "./engine-support.ts";
import { botNumber, operatorNumber, Stage } from "./stage.ts";

const closings = new Closings();

afterEach(async () => {
  await closings.settleAll();
});

const sound = (port: number): string =>
  `v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio ${port} RTP/AVP 8\r\n`;

const isRequest =
  (method: string) =>
  (packet: Packet): boolean =>
    packet.status === 0 && packet.method === method;

test("a sips call reaches the bot, and its transfer goes out by TLS to a gateway that is verified", async () => {
  await using folder = await temporaryFolder("job-tls");
  const authority = await Authority.create(folder.path);
  const own = await authority.sign("service", "DNS:service.example,IP:127.0.0.1");
  const remote = await authority.sign("operator", "IP:127.0.0.1");
  const operator = await RawTcpPeer.open(closings, { tls: { cert: remote.certificate, key: remote.key } });
  await using stage = await Stage.start({
    trunk: { gateways: [{ id: "secure", host: "127.0.0.1", port: operator.port, transport: "tls" }] },
    tls: { certificateFile: own.certificateFile, keyFile: own.keyFile, caFile: authority.certificateFile },
  });
  const port = stage.port("tls");

  const caller = await RawTcpPeer.open(closings);
  const socket = await caller.dial(port, { ca: authority.certificate, servername: "service.example" });
  const ids = { callId: unique("c"), fromTag: unique("f") };
  const request = (method: string, seq: number, uri: string, toTag: string, body: string): string => {
    const lines = [
      `${method} ${uri} SIP/2.0`,
      `Via: SIP/2.0/TLS 127.0.0.1:${caller.port};branch=z9hG4bK${unique("b")};rport`,
      "Max-Forwards: 70",
      `From: <sips:79991112233@127.0.0.1>;tag=${ids.fromTag}`,
      `To: <sips:${botNumber}@127.0.0.1>${toTag === "" ? "" : `;tag=${toTag}`}`,
      `Call-ID: ${ids.callId}`,
      `CSeq: ${seq} ${method}`,
      `Contact: <sips:79991112233@127.0.0.1:${caller.port}>`,
      ...(body === "" ? [] : ["Content-Type: application/sdp"]),
      `Content-Length: ${body.length}`,
    ];
    return `${lines.join("\r\n")}\r\n\r\n${body}`;
  };
  socket.write(request("INVITE", 1, `sips:${botNumber}@127.0.0.1:${port}`, "", sound(40_000)));
  const ok = await caller.take("200", (packet) => packet.status === 200 && packet.method === "INVITE");
  expect(ok.header("Contact")).toMatch(new RegExp(`^<sips:[^;>]*:${port}[;>]`));
  const [target, toTag] = [uriOf(ok.header("Contact")), tagOf(ok.header("To"))];
  socket.write(request("ACK", 1, target, toTag, ""));
  const call = await stage.bot.callOf(ids.callId);
  await call.event("answered");

  const switched = call.command([{ type: "switch", phoneNumber: operatorNumber, continueCall: true }]);
  const invite = await operator.take("INVITE", isRequest("INVITE"));
  expect(invite.startLine).toContain(`sip:${operatorNumber}@127.0.0.1:${operator.port};transport=tls`);
  expect(invite.header("Via")).toContain("SIP/2.0/TLS");
  const contact = `<sip:op@127.0.0.1:${operator.port};transport=tls>`;
  invite.connection?.write(replyText(invite, 200, "OK", { tag: "op", contact, body: sound(40_010) }));
  await operator.take("ACK", isRequest("ACK"));
  await switched;

  socket.write(request("BYE", 2, target, toTag, ""));
  await caller.take("200 BYE", (packet) => packet.status === 200 && packet.method === "BYE");
  const bye = await operator.take("BYE", isRequest("BYE"));
  bye.connection?.write(replyText(bye, 200, "OK"));
  await call.event("hangup");
  socket.destroy();
  invite.connection?.destroy();
  await stage.atRest();
});
