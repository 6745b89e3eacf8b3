// Session descriptions that trunks and scanners send: the whole service answers each with one status, and takes the calls
// it can take.
import { afterEach, describe, expect, test } from "vitest";
import { drachtioProgram } from "../support/drachtio.ts";
import { Closings, RawCall, RawPeer, tagOf } from "./engine-support.ts";
import { botNumber, sharedStage } from "./stage.ts";

const closings = new Closings();

afterEach(async () => {
  await closings.closeAll();
});

interface Parts {
  readonly origin?: string;
  readonly connection?: string;
  readonly media?: readonly string[];
}

const offer = ({ origin = "1 1", connection = "c=IN IP4 127.0.0.1", media = [audio] }: Parts): string =>
  ["v=0", `o=- ${origin} IN IP4 127.0.0.1`, "s=-", connection, "t=0 0", ...media, ""].join("\r\n");
const audio = "m=audio 40000 RTP/AVP 8 0";
const payloadTypes = Array.from({ length: 100 }, (_, index) => String(index + 20));

describe("the offer of a call", () => {
  const stage = sharedStage();

  /** `onDrachtio`: a drachtio-server reads no message of more than 8 kB, and refuses it by itself. */
  test.each<{ name: string; body: string; status: number; onDrachtio?: number; answer?: RegExp }>([
    { name: "none", body: "", status: 488 },
    { name: "no session description at all", body: "hello", status: 488 },
    {
      name: "two streams of audio: one is taken",
      body: offer({ media: [audio, "m=audio 40002 RTP/AVP 8"] }),
      status: 200,
      answer: /\r\nm=audio [1-9]\d* RTP\/AVP 8[\s\S]*\r\nm=audio 0 RTP\/AVP 8/,
    },
    {
      name: "audio and video: the video is refused",
      body: offer({ media: ["m=video 40002 RTP/AVP 96", audio] }),
      status: 200,
      answer: /\r\nm=video 0 RTP\/AVP 96\r\nm=audio [1-9]/,
    },
    { name: "m=audio 0", body: offer({ media: ["m=audio 0 RTP/AVP 8"] }), status: 488 },
    {
      name: "100 codecs with ours among them",
      body: offer({ media: [`m=audio 40000 RTP/AVP ${payloadTypes.join(" ")} 8`] }),
      status: 200,
      answer: /\r\nm=audio [1-9]\d* RTP\/AVP 8\r\n/,
    },
    {
      name: "100 codecs without ours",
      body: offer({ media: [`m=audio 40000 RTP/AVP ${payloadTypes.join(" ")}`] }),
      status: 488,
    },
    {
      name: "c=0.0.0.0, the old form of hold",
      body: offer({ connection: "c=IN IP4 0.0.0.0" }),
      status: 200,
      answer: /\r\na=recvonly\r\n/,
    },
    { name: "an address of IPv6", body: offer({ connection: "c=IN IP6 ::1" }), status: 200 },
    { name: "a host name", body: offer({ connection: "c=IN IP4 localhost" }), status: 488 },
    { name: "a host name that is none", body: offer({ connection: "c=IN IP4 a_b;c" }), status: 488 },
    { name: "an address of the other family", body: offer({ connection: "c=IN IP4 ::1" }), status: 488 },
    { name: "no connection", body: offer({ connection: "a=x" }), status: 488 },
    { name: "7 kB", body: offer({ media: [audio, `a=x-long:${"a".repeat(7_000)}`] }), status: 200 },
    { name: "15 kB", body: offer({ media: [audio, `a=x-long:${"a".repeat(14_000)}`] }), status: 200, onDrachtio: 400 },
    {
      name: "more than 32 kB",
      body: offer({ media: [audio, `a=x-long:${"a".repeat(33_000)}`] }),
      status: 513,
      onDrachtio: 400,
    },
  ])("$name: $status", async ({ body, status, onDrachtio = status, answer }) => {
    const expected = drachtioProgram === undefined ? status : onDrachtio;
    const peer = await RawPeer.open(closings);
    const call = new RawCall(peer, stage().port(), botNumber);
    call.send("INVITE", { body });
    const final = await peer.take("a final answer", (packet) => packet.status >= 200 && packet.method === "INVITE");
    expect(final.startLine).toMatch(new RegExp(`^SIP/2\\.0 ${expected} `));
    call.toTag = tagOf(final.header("To"));
    if (expected === 200) {
      call.send("ACK");
      expect(final.body).toMatch(answer ?? /\r\nm=audio [1-9]/);
      await call.bye();
    } else {
      call.send("ACK", { branch: call.lastBranch });
    }
  });

  test("a version of the description that goes back: the re-INVITE is answered, and ours never goes back", async () => {
    const peer = await RawPeer.open(closings);
    const call = new RawCall(peer, stage().port(), botNumber);
    const versionOf = (body: string): number => Number(/^o=\S+ \d+ (\d+) /m.exec(body)?.[1]);
    const first = await call.invite({ body: offer({ origin: "7 9" }) });
    call.send("ACK");
    let before = versionOf(first.body);
    for (const version of [8, 1, 9]) {
      const again = await call.invite({ body: offer({ origin: `7 ${version}` }) });
      call.send("ACK");
      expect(versionOf(again.body)).toBeGreaterThanOrEqual(before);
      before = versionOf(again.body);
    }
    await call.bye();
  });
});
