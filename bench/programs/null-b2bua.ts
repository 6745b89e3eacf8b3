// The floor: a back-to-back user agent that does what its 13 datagrams a call require and nothing else. No timers, no
// retransmissions, no validation: nothing that could be used, and nothing that a product in Node could be cheaper than.
import { createSocket } from "node:dgram";

import { setting, witness } from "./witness.ts";

const port = Number(setting("BENCH_SIP_PORT"));
const calleePort = Number(setting("BENCH_CALLEE_PORT"));
const host = "127.0.0.1";

interface Message {
  readonly first: string;
  readonly headers: Map<string, string>;
  readonly body: string;
}

interface Call {
  readonly callerPort: number;
  readonly invite: Message;
  /** Call-ID of the other leg. */
  readonly outId: string;
  /** To of the callee with its tag, once it answered. */
  outTo: string;
}

const byCaller = new Map<string, Call>();
const byCallee = new Map<string, Call>();
let calls = 0;

function index(text: string): Message {
  const headers = new Map<string, string>();
  const end = text.indexOf("\r\n\r\n");
  let at = text.indexOf("\r\n");
  const first = text.slice(0, at);
  while (at < end) {
    const next = text.indexOf("\r\n", at + 2);
    const colon = text.indexOf(":", at);
    headers.set(text.slice(at + 2, colon), text.slice(colon + 1, next).trimStart());
    at = next;
  }
  return { first, headers, body: text.slice(end + 4) };
}

const socket = createSocket({
  type: "udp4",
  recvBufferSize: 4 * 1024 * 1024,
  lookup: (name, _options, done) => done(null, name, 4),
});

function send(text: string, to: number): void {
  socket.send(text, to, host);
}

function respond(request: Message, status: string, tag: string, body: string): string {
  const to = request.headers.get("To") ?? "";
  const type = body === "" ? "" : `Contact: <sip:${host}:${port}>\r\nContent-Type: application/sdp\r\n`;
  return (
    `SIP/2.0 ${status}\r\nVia: ${request.headers.get("Via")}\r\nFrom: ${request.headers.get("From")}\r\n` +
    `To: ${to.includes("tag=") || tag === "" ? to : `${to};tag=${tag}`}\r\nCall-ID: ${request.headers.get("Call-ID")}\r\n` +
    `CSeq: ${request.headers.get("CSeq")}\r\n${type}Content-Length: ${body.length}\r\n\r\n${body}`
  );
}

function request(call: Call, method: string, seq: number, body: string): string {
  const type = body === "" ? "" : "Content-Type: application/sdp\r\n";
  return (
    `${method} sip:${host}:${calleePort} SIP/2.0\r\nVia: SIP/2.0/UDP ${host}:${port};branch=z9hG4bK${call.outId}${method}\r\n` +
    `Max-Forwards: 70\r\nFrom: <sip:${host}:${port}>;tag=${call.outId}\r\nTo: ${call.outTo}\r\nCall-ID: ${call.outId}\r\n` +
    `CSeq: ${seq} ${method}\r\nContact: <sip:${host}:${port}>\r\n${type}Content-Length: ${body.length}\r\n\r\n${body}`
  );
}

function onRequest(message: Message, from: number): void {
  const callId = message.headers.get("Call-ID") ?? "";
  const method = message.first.slice(0, message.first.indexOf(" "));
  if (method === "INVITE") {
    const outId = `b${(calls += 1)}`;
    const call: Call = { callerPort: from, invite: message, outId, outTo: `<sip:${host}:${calleePort}>` };
    byCaller.set(callId, call);
    byCallee.set(outId, call);
    send(respond(message, "100 Trying", "", ""), from);
    send(request(call, "INVITE", 1, message.body), calleePort);
    return;
  }
  const call = byCaller.get(callId);
  if (call === undefined) {
    return;
  }
  if (method === "ACK") {
    send(request(call, "ACK", 1, ""), calleePort);
  } else if (method === "BYE") {
    send(respond(message, "200 OK", "", ""), from);
    send(request(call, "BYE", 2, ""), calleePort);
    byCaller.delete(callId);
  }
}

function onResponse(message: Message): void {
  const outId = message.headers.get("Call-ID") ?? "";
  const call = byCallee.get(outId);
  if (call === undefined) {
    return;
  }
  const cseq = message.headers.get("CSeq") ?? "";
  const status = message.first.slice(8);
  if (cseq.endsWith("BYE")) {
    byCallee.delete(outId);
  } else if (!status.startsWith("100")) {
    call.outTo = message.headers.get("To") ?? call.outTo;
    send(respond(call.invite, status, outId, message.body), call.callerPort);
  }
}

socket.on("message", (bytes, from) => {
  const message = index(bytes.toString("latin1"));
  if (message.first.startsWith("SIP/2.0")) {
    onResponse(message);
  } else {
    onRequest(message, from.port);
  }
});
socket.bind(port, host, () => {
  witness(() => ({ left: byCaller.size + byCallee.size }));
});
