import { describe, expect, test } from "vitest";
import { describeEnd, describePeer, mirrored, readAudio } from "../../src/media/switching/sdp.ts";
import type { AudioDescription } from "../../src/media/switching/sdp.ts";

function sdp(media: readonly string[], session: readonly string[] = ["c=IN IP4 198.51.100.7"]): string {
  return ["v=0", "o=- 1 1 IN IP4 198.51.100.7", "s=-", ...session, "t=0 0", ...media, ""].join("\r\n");
}

function audioOf(text: string): AudioDescription {
  const outcome = readAudio(text);
  if (!outcome.ok) throw new Error(outcome.fault);
  return outcome.audio;
}

describe("reading a description", () => {
  test("codecs keep the peer's order, static and dynamic payload types alike", () => {
    const audio = audioOf(
      sdp([
        "m=audio 4000 RTP/AVP 9 8 97 0 101",
        "a=rtpmap:9 G722/8000",
        "a=rtpmap:97 pcmu/8000",
        "a=rtpmap:101 telephone-event/8000",
        "a=ptime:30",
        "a=rtcp:4007 IN IP4 198.51.100.7",
        "a=sendonly",
      ]),
    );
    expect(audio.codecs).toEqual([
      { law: "PCMA", payloadType: 8 },
      { law: "PCMU", payloadType: 97 },
      { law: "PCMU", payloadType: 0 },
    ]);
    expect(audio).toMatchObject({
      address: "198.51.100.7",
      port: 4000,
      eventType: 101,
      ptimeMs: 30,
      rtcpPort: 4007,
      direction: "sendonly",
    });
  });

  test("a payload type that is mapped to something else is not what its number usually means", () => {
    expect(readAudio(sdp(["m=audio 4000 RTP/AVP 0", "a=rtpmap:0 L16/8000"]))).toEqual({
      ok: false,
      fault: "no_common_codec",
    });
  });

  test("the first stream that can be taken is taken, and the others are remembered", () => {
    const audio = audioOf(
      sdp(["m=video 5000 RTP/AVP 96", "m=audio 0 RTP/AVP 0", "m=audio 4002 RTP/AVP 8", "c=IN IP6 2001:db8::1"]),
    );
    expect(audio).toMatchObject({ audioIndex: 2, port: 4002, family: "IP6", address: "2001:db8::1" });
    expect(audio.streams.map(({ media }) => media)).toEqual(["video", "audio", "audio"]);
  });

  test.each([
    ["", "malformed"],
    ["hello", "malformed"],
    [sdp([]), "no_audio"],
    [sdp(["m=audio 0 RTP/AVP 0"]), "no_audio"],
    [sdp(["m=audio 4000 RTP/SAVP 0"]), "unsupported_transport"],
    [sdp(["m=audio 4000 UDP/TLS/RTP/SAVPF 0"]), "unsupported_transport"],
    [sdp(["m=audio 4000 RTP/AVP 9 18"]), "no_common_codec"],
    [sdp(["m=audio 99999 RTP/AVP 0"]), "malformed"],
    [sdp(["m=audio RTP/AVP 0"]), "malformed"],
    [sdp(["m=audio 4000 RTP/AVP 0"], []), "malformed"],
    [sdp(["m=audio 4000 RTP/AVP 0"], ["c=IN IP4 a b\tc;rm"]).replace("a b", "<script>"), "malformed"],
    [sdp(Array.from({ length: 20 }, () => "m=audio 4000 RTP/AVP 0")), "malformed"],
    [`${sdp(["m=audio 4000 RTP/AVP 0"])}${"a=x\r\n".repeat(20_000)}`, "malformed"],
  ])("refuses what it cannot take (%#)", (text, fault) => {
    expect(readAudio(text)).toEqual({ ok: false, fault });
  });

  test("lines may end in a bare line feed", () => {
    expect(readAudio(sdp(["m=audio 4000 RTP/AVP 0"]).replaceAll("\r\n", "\n")).ok).toBe(true);
  });

  test("the old form of hold and a direction of the whole session count", () => {
    expect(audioOf(sdp(["m=audio 4000 RTP/AVP 0"], ["c=IN IP4 0.0.0.0"])).direction).toBe("sendonly");
    expect(audioOf(sdp(["m=audio 4000 RTP/AVP 0"], ["c=IN IP4 1.2.3.4", "a=inactive"])).direction).toBe("inactive");
  });
});

describe("writing a description", () => {
  const end = {
    originId: 7,
    originAddress: "IP4 203.0.113.5",
    version: 3,
    family: "IP4",
    address: "203.0.113.5",
    port: 40_000,
  } as const;
  const formats = { codecs: [{ law: "PCMA", payloadType: 8 }], eventType: 96 } as const;

  test("an answer has as many streams as the offer; what is not taken has port 0", () => {
    const offer = audioOf(
      sdp(["m=video 5000 RTP/AVP 96", "m=audio 4000 RTP/AVPF 8 96", "a=rtpmap:96 telephone-event/8000"]),
    );
    const answer = describeEnd(end, formats, "recvonly", offer);
    expect(answer.split("\r\n")).toEqual([
      "v=0",
      "o=- 7 3 IN IP4 203.0.113.5",
      "s=-",
      "c=IN IP4 203.0.113.5",
      "t=0 0",
      "m=video 0 RTP/AVP 96",
      "m=audio 40000 RTP/AVPF 8 96",
      "a=rtpmap:8 PCMA/8000",
      "a=rtpmap:96 telephone-event/8000",
      "a=fmtp:96 0-15",
      "a=recvonly",
      "a=ptime:20",
      "",
    ]);
  });

  test("what the media server is told reads back as one stream with our choice of formats", () => {
    const peer = audioOf(sdp(["m=audio 4000 RTP/AVP 0 8 101", "a=ptime:30", "a=rtcp:4009"]));
    const audio = audioOf(describePeer(peer, { codecs: peer.codecs.slice(1), eventType: null }, "inactive"));
    expect(audio).toMatchObject({
      port: 4000,
      rtcpPort: 4009,
      ptimeMs: 30,
      direction: "inactive",
      eventType: null,
      codecs: [{ law: "PCMA", payloadType: 8 }],
    });
  });

  test("directions are mirrored as RFC 3264 §6.1 says", () => {
    expect((["sendrecv", "sendonly", "recvonly", "inactive"] as const).map(mirrored)).toEqual([
      "sendrecv",
      "recvonly",
      "sendonly",
      "inactive",
    ]);
  });
});
