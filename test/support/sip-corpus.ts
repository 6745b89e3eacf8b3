import fc from "fast-check";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const folder = fileURLToPath(new URL("../../../shared/data", import.meta.url));
if (!existsSync(folder)) {
  console.log(`without the torture messages, which are not at ${folder}`);
}
const scenarios = fileURLToPath(new URL("../integration/sipp", import.meta.url));

/** Whether the torture messages of RFC 4475 and RFC 5118 are beside the project. */
export const hasTortureMessages = existsSync(folder);

/** The torture messages of one set by their file names. */
export function tortureMessages(set: "rfc4475" | "rfc5118"): ReadonlyMap<string, Buffer> {
  const names = hasTortureMessages ? readdirSync(`${folder}/${set}`).toSorted() : [];
  return new Map(names.map((name) => [name, readFileSync(`${folder}/${set}/${name}`)]));
}

/** Asks for the answer at the port it is sent from, which the senders of 2006 did not. Nothing else is changed. */
export function withRport(bytes: Buffer): Buffer {
  const text = bytes.toString("latin1");
  // Up to the first parameter or the end of the first Via value, folds included.
  const via = /^(?:via|v)[ \t]*:(?:[^;,\r\n]|\r\n[ \t])*/im.exec(text);
  if (via === null || /rport/i.test(text.slice(via.index, text.indexOf("\r\n", via.index + via[0].length)))) {
    return bytes;
  }
  const end = via.index + via[0].length;
  return Buffer.from(`${text.slice(0, end)};rport${text.slice(end)}`, "latin1");
}

// What SIPp would put into the place of its keywords.
const keywords: Readonly<Record<string, string>> = {
  service: "100",
  remote_ip: "127.0.0.1",
  remote_port: "5060",
  local_ip: "127.0.0.1",
  local_port: "5070",
  transport: "UDP",
  branch: "z9hG4bKcorpus",
  call_id: "corpus@127.0.0.1",
  call_number: "1",
  pid: "1",
  cseq: "1",
  len: "0",
  media_ip: "127.0.0.1",
  media_port: "6000",
  next_url: "sip:a@127.0.0.1:5060",
  routes: "Route: <sip:127.0.0.1;lr>",
  peer_tag_param: ";tag=peer",
  "last_Via:": "Via: SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bKlast",
  "last_From:": "From: <sip:a@127.0.0.1>;tag=from",
  "last_To:": "To: <sip:b@127.0.0.1>",
  "last_Call-ID:": "Call-ID: corpus@127.0.0.1",
  "last_CSeq:": "CSeq: 1 INVITE",
};

/** Every message that the SIPp scenarios of this project send, as it would go out. */
function scenarioMessages(): Buffer[] {
  const files = readdirSync(scenarios, { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".xml"));
  return files.flatMap((name) =>
    [...readFileSync(`${scenarios}/${name}`, "utf8").matchAll(/<send[^>]*>\s*<!\[CDATA\[\s*([\s\S]*?)\]\]>/g)].map(
      ([, text = ""]) => {
        const lines = text.split(/\r?\n/).map((line) => line.trim());
        const whole = lines.join("\r\n").replaceAll(/\[([^\]]+)\]/g, (_all, key: string) => keywords[key] ?? "1");
        return Buffer.from(whole.includes("\r\n\r\n") ? whole : `${whole.trimEnd()}\r\n\r\n`);
      },
    ),
  );
}

/** Messages to begin with: the torture messages where they are, those of our own SIPp scenarios, and found examples. */
export function corpus(): Buffer[] {
  return [
    ...tortureMessages("rfc4475").values(),
    ...tortureMessages("rfc5118").values(),
    ...scenarioMessages(),
    Buffer.from(
      'INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: "x" <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\n' +
        "Call-ID: 1\r\nCSeq: 1 INVITE\r\nContact: sip:a@h, <sip:b@h>;q=0.5;x=a/b, sip:c@h\r\nContent-Length: 3\r\n\r\nv=0",
    ),
  ];
}

/** One change of some bytes, with a liking for bytes that mean something. */
interface Mutation {
  readonly kind: "delete" | "insert" | "replace" | "double" | "truncate";
  readonly at: number;
  readonly length: number;
  readonly byte: number;
}

export const mutation: fc.Arbitrary<Mutation> = fc.record({
  kind: fc.constantFrom("delete", "insert", "replace", "double", "truncate"),
  at: fc.nat(10_000),
  length: fc.integer({ min: 1, max: 40 }),
  byte: fc.oneof(
    fc.constantFrom(...Buffer.from('\r\n <>";:,=\\\0\t[]@%SIP/20').values()),
    fc.integer({ min: 0, max: 255 }),
  ),
});

export function mutate(bytes: Buffer, changes: readonly Mutation[]): Buffer {
  let out = bytes;
  for (const { kind, at: wanted, length, byte } of changes) {
    const at = out.length === 0 ? 0 : wanted % out.length;
    const [before, after] = [out.subarray(0, at), out.subarray(at)];
    switch (kind) {
      case "delete":
        out = Buffer.concat([before, after.subarray(length)]);
        break;
      case "insert":
        out = Buffer.concat([before, Buffer.alloc(length, byte), after]);
        break;
      case "replace":
        out = Buffer.concat([before, Buffer.from([byte]), after.subarray(1)]);
        break;
      case "double":
        out = Buffer.concat([before, after.subarray(0, length), after]);
        break;
      case "truncate":
        out = before;
    }
  }
  return out;
}
