// The witness itself is examined first: two phones on a wire, then the phone against SIPp and against rtpengine, which
// share no code with it.
import { createSocket } from "node:dgram";
import { describe, expect, test } from "vitest";
import { pitches } from "../support/pitch.ts";
import { claimPort } from "../support/ports.ts";
import { Phone, type PhoneOptions } from "../support/rtp-phone.ts";
import { startRtpengine } from "../support/rtpengine.ts";
import { formatSdp, parseSdp } from "../support/sdp-text.ts";
import { PhoneMedia } from "../support/phone-media.ts";
import { header, titleOf } from "../support/sip-text.ts";
import { expectSuccess, runSipp, Sipp } from "../support/sipp.ts";
import { waitFor } from "../support/wait.ts";

const callerOptions: PhoneOptions = { user: "caller", tone: pitches.caller };
const operatorOptions: PhoneOptions = { user: "operator", tone: pitches.operator };

const titles = (phone: Phone): readonly string[] =>
  phone.records.map(({ direction, message }) => `${direction === "sent" ? "→" : "←"} ${titleOf(message)}`);

describe("two phones on a wire", () => {
  test("INVITE → 180 → 200 → ACK, sound both ways, BYE", async () => {
    await using caller = await Phone.start(callerOptions);
    await using operator = await Phone.start({
      ...operatorOptions,
      codecs: ["PCMA", "PCMU"],
      answering: { type: "answer", afterMs: 150 },
    });
    const call = await caller.dial(operator.uri, { headers: [["X-Reason", "a test"]] });
    const ringing = await call.progress(180);
    expect(ringing.body).toBe("");
    const establishedMs = await call.established;
    expect(establishedMs - call.startedMs).toBeGreaterThan(140);
    const other = await operator.nextCall();
    expect(header(other.invite, "X-Reason")).toBe("a test");
    await Promise.all([call.media.hears(pitches.operator), other.media.hears(pitches.caller)]);

    const fromMs = await other.acknowledged;
    await waitFor(async () => (await call.media.capture(fromMs)).audio.length >= 100, { what: "100 packets" });
    const heard = await call.media.capture(fromMs + 100);
    expect(heard.tones().map((tone) => tone.hz)).toEqual([pitches.operator]);
    expect(heard.tones()[0]!.amplitude).toBeGreaterThan(7_500);
    expect(heard.ssrcs).toEqual([other.media.sending.ssrc === 0 ? heard.ssrcs[0] : other.media.sending.ssrc]);
    expect(heard.sources).toEqual([`127.0.0.1:${other.media.port}`]);
    expect(heard.sequenceJumps + heard.timestampJumps).toBe(0);
    expect(heard.longestGapMs).toBeLessThan(60);
    expect(heard.payloadTypes).toEqual([0]);

    const ended = await call.hangUp();
    expect(ended).toMatchObject({ by: "self", how: "BYE" });
    expect(await other.ended).toMatchObject({ by: "peer", how: "BYE" });
    expect(titles(caller)).toEqual([
      "→ INVITE",
      "← 100 Trying (INVITE)",
      "← 180 Ringing (INVITE)",
      "← 200 OK (INVITE)",
      "→ ACK",
      "→ BYE",
      "← 200 OK (BYE)",
    ]);
    expect(call.reInvites).toEqual([]);
  });

  test("digits by RFC 4733 and by INFO, each once", async () => {
    await using caller = await Phone.start(callerOptions);
    await using operator = await Phone.start(operatorOptions);
    const call = await caller.dial(operator.uri);
    const other = await operator.nextCall();
    await other.acknowledged;
    call.media.pressDigits("15#", { durationMs: 100, pauseMs: 60 });
    await waitFor(async () => (await other.media.capture()).digits().filter(({ ended }) => ended).length === 3, {
      what: "three digits",
    });
    await other.media.hears(pitches.caller);
    expect((await other.media.capture()).digits()).toMatchObject([
      { digit: "1", durationMs: 100 },
      { digit: "5", durationMs: 100 },
      { digit: "#", durationMs: 100 },
    ]);
    expect((await call.infoDigit("7")).status).toBe(200);
    expect(other.received("INFO").map((message) => message.body)).toEqual(["Signal=7\r\nDuration=160\r\n"]);
  });

  test("CANCEL while it rings → 487 on both sides", async () => {
    await using caller = await Phone.start(callerOptions);
    await using operator = await Phone.start({ ...operatorOptions, answering: { type: "ring" } });
    const call = await caller.dial(operator.uri);
    await call.progress(180);
    expect(await call.cancel()).toMatchObject({ by: "self", how: "CANCEL", status: 487 });
    expect(await (await operator.nextCall()).ended).toMatchObject({ by: "peer", how: "CANCEL" });
    await expect(call.established).rejects.toThrow("the call ended first: CANCEL 487 by self");
  });

  test("CANCEL that crosses the answer → 200 → BYE", async () => {
    await using caller = await Phone.start(callerOptions);
    await using operator = await Phone.start({ ...operatorOptions, answering: { type: "ring", onCancel: "answer" } });
    const call = await caller.dial(operator.uri);
    await call.progress(180);
    await call.cancel();
    expect(await (await operator.nextCall()).ended).toMatchObject({ by: "peer", how: "BYE" });
  });

  test("busy, with its own headers", async () => {
    await using caller = await Phone.start(callerOptions);
    await using operator = await Phone.start({
      ...operatorOptions,
      answering: { type: "reject", status: 486, afterMs: 50, headers: [["Reason", "Q.850;cause=17"]] },
    });
    const call = await caller.dial(operator.uri);
    const { status, message } = await call.ended;
    expect([status, header(message!, "Reason")]).toEqual([486, "Q.850;cause=17"]);
  });

  test("a silent host is asked again and given up after 64·T1", async () => {
    await using caller = await Phone.start({ ...callerOptions, t1Ms: 10 });
    await using operator = await Phone.start({ ...operatorOptions, answering: { type: "silent" } });
    const call = await caller.dial(operator.uri);
    expect(await call.ended).toMatchObject({ by: "failure", how: "timeout" });
    expect(operator.invitesReceived.length).toBe(1);
    expect(operator.records.filter(({ message }) => message.method === "INVITE").length).toBe(7);
  });

  test("early media is heard before the answer", async () => {
    await using caller = await Phone.start(callerOptions);
    await using operator = await Phone.start({
      ...operatorOptions,
      answering: { type: "ring", ring: [{ status: 183, sdp: true }] },
    });
    const call = await caller.dial(operator.uri);
    await call.media.hears(pitches.operator);
    expect(call.phase).toBe("inviting");
  });

  test("hold by re-INVITE stops the sound, resume brings it back under the same SSRC", async () => {
    await using caller = await Phone.start(callerOptions);
    await using operator = await Phone.start(operatorOptions);
    const call = await caller.dial(operator.uri);
    await call.media.hears(pitches.operator);
    expect((await call.reinvite({ direction: "sendonly" })).status).toBe(200);
    await call.media.hears([]);
    expect((await call.reinvite()).status).toBe(200);
    await call.media.hears(pitches.operator);
    const other = await operator.nextCall();
    expect(other.reInvites.length).toBe(2);
    expect((await call.media.capture()).ssrcs.length).toBe(1);
  });

  test("digest: 407 → INVITE with the right password → 200; a wrong one gets 407 again", async () => {
    const credentials = { username: "trunk", password: "s3cret" };
    await using operator = await Phone.start({
      ...operatorOptions,
      answering: { type: "challenge", realm: "example", credentials, next: { type: "answer" } },
    });
    await using caller = await Phone.start({ ...callerOptions, credentials });
    await (
      await caller.dial(operator.uri)
    ).established;
    await using stranger = await Phone.start({ ...callerOptions, credentials: { ...credentials, password: "guess" } });
    expect((await (await stranger.dial(operator.uri)).ended).status).toBe(407);
  });

  test("an INVITE without SDP is answered with an offer, and the ACK carries the answer", async () => {
    await using caller = await Phone.start(callerOptions);
    await using operator = await Phone.start(operatorOptions);
    const call = await caller.dial(operator.uri, { delayedOffer: true });
    await call.media.hears(pitches.operator);
    const other = await operator.nextCall();
    await other.media.hears(pitches.caller);
    expect(call.invite.body).toBe("");
    expect(parseSdp(other.received("ACK")[0]!.body)?.port).toBe(call.media.port);
  });

  test("no ACK → the 200 is repeated, and the call is ended by BYE after 64·T1", async () => {
    await using caller = await Phone.start(callerOptions);
    await using operator = await Phone.start({ ...operatorOptions, t1Ms: 10 });
    const call = await caller.dial(operator.uri, { withoutAck: true });
    await call.established;
    expect(await call.ended).toMatchObject({ by: "peer", how: "BYE" });
    expect(caller.records.filter(({ message }) => message.status === 200).length).toBeGreaterThan(3);
  });

  test("no common codec → 488", async () => {
    await using caller = await Phone.start({ ...callerOptions, codecs: ["PCMA"] });
    await using operator = await Phone.start({ ...operatorOptions, codecs: ["PCMU"] });
    expect((await (await caller.dial(operator.uri)).ended).status).toBe(488);
  });

  test("20 calls at once: every party hears its own other side alone", async () => {
    await using operator = await Phone.start(operatorOptions);
    await using caller = await Phone.start(callerOptions);
    const calls = await Promise.all(Array.from({ length: 20 }, () => caller.dial(operator.uri)));
    await Promise.all(calls.map((call) => call.media.hears(pitches.operator)));
    const captures = await Promise.all(calls.map((call) => call.media.capture()));
    for (const capture of captures) expect(capture.sources.length).toBe(1);
    await Promise.all(calls.map((call) => call.hangUp()));
  });
});

describe("against other implementations", () => {
  const uas = `<?xml version="1.0" encoding="ISO-8859-1"?>
<scenario name="a phone that answers">
  <recv request="INVITE" crlf="true"/>
  <send><![CDATA[
SIP/2.0 180 Ringing
[last_Via:]
[last_From:]
[last_To:];tag=[call_number]
[last_Call-ID:]
[last_CSeq:]
Contact: <sip:[local_ip]:[local_port]>
Content-Length: 0

]]></send>
  <send retrans="500"><![CDATA[
SIP/2.0 200 OK
[last_Via:]
[last_From:]
[last_To:];tag=[call_number]
[last_Call-ID:]
[last_CSeq:]
Contact: <sip:[local_ip]:[local_port]>
X-Said: [greeting]
Content-Type: application/sdp
Content-Length: [len]

v=0
o=- 1 1 IN IP[local_ip_type] [local_ip]
s=-
c=IN IP[local_ip_type] [local_ip]
t=0 0
m=audio 9 RTP/AVP 0
a=rtpmap:0 PCMU/8000
]]></send>
  <recv request="ACK" crlf="true"/>
  <recv request="BYE"/>
  <send><![CDATA[
SIP/2.0 200 OK
[last_Via:]
[last_From:]
[last_To:]
[last_Call-ID:]
[last_CSeq:]
Content-Length: 0

]]></send>
</scenario>
`;

  test("SIPp answers the phone's call, with a variable of the test in its answer", async () => {
    await using sipp = await Sipp.start({ scenario: uas, variables: { greeting: "good day" } });
    await using caller = await Phone.start(callerOptions);
    const call = await caller.dial(`sip:service@127.0.0.1:${sipp.port}`);
    await call.established;
    expect(header(call.responses.at(-1)!, "X-Said")).toBe("good day");
    await call.hangUp();
    const result = await sipp.finished();
    expectSuccess(result);
    expect(result.messages.map(({ direction, what }) => `${direction} ${what}`)).toEqual([
      "received INVITE",
      "sent 180",
      "sent 200",
      "received ACK",
      "received BYE",
      "sent 200",
    ]);
    expect(Math.abs(result.messages[0]!.atMs - call.startedMs)).toBeLessThan(1_000);
  });

  const uac = (status: number): string => `<?xml version="1.0" encoding="ISO-8859-1"?>
<scenario name="a call">
  <send retrans="500"><![CDATA[
INVITE sip:[service]@[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:sipp@[local_ip]:[local_port]>;tag=[call_number]
To: <sip:[service]@[remote_ip]:[remote_port]>
Call-ID: [call_id]
CSeq: 1 INVITE
Contact: <sip:sipp@[local_ip]:[local_port]>
Max-Forwards: 70
Content-Type: application/sdp
Content-Length: [len]

v=0
o=- 1 1 IN IP[local_ip_type] [local_ip]
s=-
c=IN IP[local_ip_type] [local_ip]
t=0 0
m=audio 9 RTP/AVP 8 0
a=rtpmap:8 PCMA/8000
a=rtpmap:0 PCMU/8000
]]></send>
  <recv response="100" optional="true"/>
  <recv response="180" optional="true"/>
  <recv response="${status}" rrs="true"/>
  <send><![CDATA[
ACK [next_url] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:sipp@[local_ip]:[local_port]>;tag=[call_number]
[last_To:]
Call-ID: [call_id]
CSeq: 1 ACK
Max-Forwards: 70
Content-Length: 0

]]></send>
  <recv request="BYE"/>
  <send><![CDATA[
SIP/2.0 200 OK
[last_Via:]
[last_From:]
[last_To:]
[last_Call-ID:]
[last_CSeq:]
Content-Length: 0

]]></send>
</scenario>
`;

  test("the phone answers SIPp's call with the first codec it prefers, and hangs up at the ACK", async () => {
    await using operator = await Phone.start(operatorOptions);
    const running = runSipp({ scenario: uac(200), target: `127.0.0.1:${operator.port}`, service: "operator" });
    const call = await operator.nextCall();
    await call.acknowledged;
    await call.hangUp();
    expectSuccess(await running);
    expect(parseSdp(call.responses.at(-1)!.body)?.codecs).toEqual(["PCMU"]);
    expect(call.invite.uri).toBe(`sip:operator@127.0.0.1:${operator.port}`);
  });

  test("a scenario that fails says what came instead", async () => {
    await using operator = await Phone.start({ ...operatorOptions, answering: { type: "reject", status: 486 } });
    const result = await runSipp({ scenario: uac(200), target: `127.0.0.1:${operator.port}`, service: "operator" });
    expect(result.exitCode).toBe(1);
    expect(() => expectSuccess(result)).toThrow(/while expecting '200'[\s\S]*<- 486/);
  });

  test("through rtpengine: sound both ways between different codecs, and its DTMF log sees the digit", async () => {
    await using logPort = await claimPort();
    const log = createSocket("udp4");
    const logged: unknown[] = [];
    log.on("message", (bytes) => logged.push(JSON.parse(bytes.toString("utf8"))));
    log.bind(logPort.port, "127.0.0.1");
    await using rtpengine = await startRtpengine({ dtmfLog: { address: "127.0.0.1", port: logPort.port } });
    await using one = await PhoneMedia.open("127.0.0.1");
    await using two = await PhoneMedia.open("127.0.0.1");
    const common = { "call-id": "support", "from-tag": "A", "to-tag": "B", "via-branch": "z9hG4bK-B", ICE: "remove" };
    const sdpOf = (media: PhoneMedia, codec: "PCMU" | "PCMA"): string =>
      formatSdp(
        { address: "127.0.0.1", port: media.port, codecs: [codec], eventPayloadType: 101, direction: "sendrecv" },
        { id: 1, version: 1 },
      );
    const offer = await rtpengine.ask({
      ...common,
      command: "offer",
      sdp: sdpOf(one, "PCMU"),
      codec: { transcode: ["PCMA"] },
    });
    const answer = await rtpengine.ask({ ...common, command: "answer", sdp: sdpOf(two, "PCMA") });
    const [towardsTwo, towardsOne] = [parseSdp(String(offer["sdp"]))!, parseSdp(String(answer["sdp"]))!];
    expect(towardsTwo.port).toBeGreaterThanOrEqual(rtpengine.media.first);
    expect(towardsTwo.port).toBeLessThanOrEqual(rtpengine.media.last);
    one.sendTone(pitches.caller);
    two.sendTone(pitches.operator);
    one.connect("127.0.0.1", towardsOne.port, "PCMU", towardsOne.eventPayloadType);
    two.connect("127.0.0.1", towardsTwo.port, "PCMA", towardsTwo.eventPayloadType);
    await Promise.all([one.hears(pitches.operator), two.hears(pitches.caller)]);
    const fromMs = Date.now();
    await waitFor(async () => (await one.capture(fromMs)).audio.length >= 50, { what: "50 packets" });
    const heard = await one.capture(fromMs);
    expect(heard.payloadTypes).toEqual([0]);
    expect(heard.tones()[0]!.amplitude).toBeGreaterThan(7_000);
    expect(heard.longestGapMs).toBeLessThan(60);
    one.pressDigits("5");
    await waitFor(() => logged.length > 0, { what: "a line of the DTMF log" });
    expect(logged).toMatchObject([{ callid: "support", source_tag: "A", event: 5 }]);
    log.close();
    expect(await rtpengine.calls()).toEqual(["support"]);
    await rtpengine.ask({ command: "delete", "call-id": "support", "delete-delay": 0 });
    expect(await rtpengine.calls()).toEqual([]);
  });
});
