import { isIP } from "node:net";
import { z } from "zod";

import { parseIpNetwork } from "../lib/ip-network.ts";

// The only statement of the configuration: types, defaults, the JSON Schema and the reference page all come from here.

const nameOfVariable = z.string().regex(/^[A-Za-z_][A-Za-z0-9_]*$/, "must be the name of an environment variable");
const filePath = z.string().min(1, "must name a file");
const folder = z.string().min(1, "must name a folder");
const portNumber = z.int().min(1).max(65_535);
const portOrFree = z.int().min(0).max(65_535);
const milliseconds = (min: number, max: number): z.ZodInt => z.int().min(min).max(max);
const ipAddress = z.string().refine((text) => isIP(text) !== 0, "must be an IP address");
// RFC 3696 §2: no name ends in a number, and some resolvers take such a one for an address.
const endsLikeAddress = /(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)$/i;
const noAddress = "looks like an IP address and is none: that is four numbers from 0 to 255, such as 192.0.2.20";

/** Why a text is neither an IP address nor a host name, with what to write; undefined for one that is. */
function hostFault(text: string): string | undefined {
  if (isIP(text) !== 0) return undefined;
  const [, bare = "", port] = /^(\[[^\]]*\]|[^:]*):(\d+)$/.exec(text) ?? [];
  if (port !== undefined) {
    return `holds a port: write ${bare.replaceAll(/[[\]]/g, "")} here, and \`port: ${port}\` beside it where there is such a field`;
  }
  if (/^sips?:/i.test(text)) return "must be the host alone, without `sip:`";
  if (/^\[.*\]$/.test(text)) return "must be an IPv6 address without brackets";
  if (endsLikeAddress.test(text)) return noAddress;
  return /^(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?\.)*[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?$/.test(text)
    ? undefined
    : "must be an IP address or a host name, such as 192.0.2.20 or sip.example.org";
}

const hostName = z
  .string()
  .max(253)
  .superRefine((text, context) => {
    const message = hostFault(text);
    if (message !== undefined) context.addIssue({ code: "custom", message });
  });
const network = z
  .string()
  .refine((text) => parseIpNetwork(text) !== undefined, "must be an IP address or a network such as 192.0.2.0/24");
const identifier = z
  .string()
  .regex(
    /^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$/,
    "must be 1 to 64 letters, digits, dots, dashes or underscores",
  );
const token = z.string().regex(/^[A-Za-z0-9!%'*+.^_`~-]{1,64}$/, "must be a SIP header name");

// YAML reads a bare 0123 as 123 and +7 as 7, so that a number without quotes has already lost what it was.
const quoted = "must be written in quotes, because YAML drops a leading + and leading zeros of a bare number";
const text = z.string({ error: (issue) => (typeof issue.input === "number" ? quoted : undefined) });
const digits = /^\+?[0-9]{1,32}$/;
const phoneNumber = text.regex(digits, "must be digits, with or without a leading +");
const shownNumbers = "must be auto, caller, bot or a number in quotes";

const tlsSchema = z
  .strictObject({
    certificateFile: filePath.describe("PEM file with our certificate and the chain below it."),
    keyFile: filePath.describe("PEM file with its private key, without a passphrase."),
    caFile: filePath
      .optional()
      .describe("PEM file with who signs the certificates of peers. Default: the well-known authorities."),
    requireClientCertificate: z
      .boolean()
      .default(false)
      .describe("Whoever connects must show a certificate signed by one of these. Default false."),
    verifyServers: z
      .boolean()
      .default(true)
      .describe("Servers that calls go to must show a good certificate that names their domain. Default true."),
  })
  .describe("Certificates of a `tls` listener, also used for connections that we open.");

const numberPrefix = text.regex(/^\+?[0-9*#]{1,32}$/, "must be 1 to 32 digits, * or #, with or without a leading +");
const sipHostPattern = z
  .string()
  .max(260)
  .refine(
    (pattern) =>
      isIP(pattern) === 6 ||
      /^(?:\[[0-9A-Fa-f:.]+\]|(?:\*\.)?[A-Za-z0-9._-]{1,253})(?::(?:[1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d\d|655[0-2]\d|6553[0-5]|\*))?$/.test(
        pattern,
      ),
    "must be a host, an IP address or *.domain, alone or with :port or :* behind it, and without `sip:`",
  )
  .refine((pattern) => {
    const host = pattern.replace(/:(?:\d+|\*)$/, "");
    return isIP(pattern) !== 0 || isIP(host) !== 0 || !endsLikeAddress.test(host);
  }, noAddress)
  .transform((pattern) => pattern.toLowerCase());

export const listenSchema = z
  .strictObject({
    protocol: z.enum(["udp", "tcp", "tls"]).describe("Transport to listen on."),
    address: ipAddress.describe("Local IP address to listen on; 0.0.0.0 or :: needs `sip.externalAddress`."),
    port: portOrFree.optional().describe("Local port; 0 takes a free one. Default 5060, for `tls` 5061."),
    tls: tlsSchema.optional(),
  })
  .describe("One SIP listener of the embedded engine.");

const drachtioSchema = z
  .strictObject({
    host: hostName.default("127.0.0.1").describe("Host of the control port. Default 127.0.0.1."),
    port: portNumber.default(9022).describe("The control port, drachtio-server's admin port. Default 9022."),
    secretEnv: nameOfVariable.optional().describe("Environment variable that holds the shared secret. No default."),
    secretFile: filePath.optional().describe("File that holds the shared secret. No default."),
  })
  .describe("Where `patchbay engine` or drachtio-server is; used with `engine: separate` and `engine: drachtio` only.");

const sipSchema = z
  .strictObject({
    engine: z
      .enum(["embedded", "separate", "drachtio"])
      .default("embedded")
      .describe(
        "`embedded`: the SIP engine inside this process. `separate`: the same engine in a process of its own, `patchbay engine` with this file. `drachtio`: a drachtio-server. Default embedded.",
      ),
    listen: z
      .array(listenSchema)
      .min(1)
      .max(16)
      .default([
        { protocol: "udp", address: "127.0.0.1", port: 5060 },
        { protocol: "tcp", address: "127.0.0.1", port: 5060 },
      ])
      .describe("Listeners of the embedded engine. Default UDP and TCP on 127.0.0.1:5060."),
    externalAddress: ipAddress
      .optional()
      .describe("IP address that Via and Contact show instead of the listener's own. Default: the listener's own."),
    t1Ms: milliseconds(5, 5000)
      .default(500)
      .describe("Round-trip estimate T1 of RFC 3261 in milliseconds; smaller only in tests. Default 500."),
    drachtio: drachtioSchema.optional(),
    stateFolder: folder
      .default("state")
      .describe(
        "Folder for the list of open calls, by which the next process ends those that a crash has left. Each instance has its own. Default state.",
      ),
  })
  .describe("Signalling.");

const engineSchema = z
  .strictObject({
    orphanGraceMs: milliseconds(1000, 600_000)
      .default(30_000)
      .describe(
        "How long a dialog may be without an application before it is ended by BYE, in milliseconds. Default 30000.",
      ),
    waitMs: milliseconds(0, 25_000)
      .default(10_000)
      .describe(
        "How long requests wait for an application that was there a moment ago, in milliseconds. Default 10000.",
      ),
    sources: z
      .union([z.literal("any"), z.array(network).max(10_000)])
      .optional()
      .describe("Addresses and networks that requests are taken from, or any. Default: those of the trunks."),
    applications: z
      .array(
        z
          .string()
          .regex(/^tcp:\/\/(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):\d{1,5}$/, "must be such as tcp://127.0.0.1:3001"),
      )
      .max(256)
      .default([])
      .describe(
        "Outbound mode of drachtio: applications that wait with `srf.listen`; each new request goes to one, in turn, over a connection of its own. Default none: applications connect to the control port.",
      ),
    strictParity: z
      .boolean()
      .default(false)
      .describe("Behaves like drachtio-server wherever that is seen, for tests of applications. Default false."),
    admin: z
      .strictObject({
        address: ipAddress
          .default("127.0.0.1")
          .describe("Local IP address of its HTTP status port. Default 127.0.0.1."),
        port: portOrFree.default(9081).describe("Its port; 0 takes a free one. Default 9081."),
      })
      .prefault({})
      .describe("`/livez`, `/readyz` and `/metrics` of the engine's process."),
  })
  .describe("The engine in a process of its own (`patchbay engine`); nobody else reads it.");

const sentinelSchema = z
  .strictObject({
    name: z
      .string()
      .regex(/^[A-Za-z0-9._-]{1,64}$/, "must be 1 to 64 letters, digits, dots, dashes or underscores")
      .default("mymaster")
      .describe("Name of the master in the Sentinels' configuration. Default mymaster."),
    nodes: z
      .array(
        z.strictObject({
          host: hostName.describe("Host of a Sentinel."),
          port: portNumber.default(26_379).describe("Its port. Default 26379."),
        }),
      )
      .min(1)
      .max(16)
      .describe("The Sentinels; one that answers is enough, and it names the others."),
    username: z.string().min(1).max(128).optional().describe("User of the Sentinels' own ACL. No default."),
    passwordEnv: nameOfVariable.optional().describe("Environment variable with the Sentinels' password. No default."),
    passwordFile: filePath.optional().describe("File with the Sentinels' password. No default."),
    tls: z.boolean().default(false).describe("The Sentinels are spoken to over TLS. Default false."),
  })
  .describe(
    "Redis Sentinel tells where the master is. Of `redis.url` only the scheme, the user and the database count then.",
  );

const redisSchema = z
  .strictObject({
    url: z
      .string()
      .default("redis://127.0.0.1:6379")
      .describe("redis:// or rediss:// URL, without a password. Default redis://127.0.0.1:6379."),
    sentinel: sentinelSchema.optional(),
    passwordEnv: nameOfVariable.optional().describe("Environment variable that holds the Redis password. No default."),
    passwordFile: filePath.optional().describe("File that holds the Redis password. No default."),
    prefix: z
      .string()
      .regex(/^[A-Za-z0-9._-]{1,32}$/, "must be 1 to 32 letters, digits, dots, dashes or underscores")
      .default("pb")
      .describe("First part of every key and Redis channel name. Default pb."),
    streamMaxLength: z
      .int()
      .min(100)
      .max(10_000_000)
      .default(10_000)
      .describe("Events kept per bot in its stream (count, approximate). Default 10000."),
  })
  .describe("The Redis that bots are reached through.");

const ttsSchema = z
  .discriminatedUnion("kind", [
    z.strictObject({ kind: z.literal("none").describe("No text-to-speech: a `text` reply gives a warning.") }),
    z.strictObject({
      kind: z.literal("command").describe("A program that writes a WAV file."),
      command: z
        .array(z.string().min(1))
        .min(1)
        .max(64)
        .describe(
          "Program and arguments, never run through a shell. {lang}, {voice}, {out} and {text} are replaced; without {text} the text comes on standard input, without {out} the WAV is read from standard output.",
        ),
      timeoutMs: milliseconds(100, 60_000)
        .default(10_000)
        .describe("Longest run of the program in milliseconds. Default 10000."),
      lang: z.string().min(1).max(35).default("en").describe("Language of a reply that names none. Default en."),
      voice: z.string().max(64).optional().describe("Voice of a reply that names none. No default."),
    }),
    z.strictObject({
      kind: z.literal("http").describe("An HTTP service that answers a POST with a WAV file."),
      url: z.url({ protocol: /^https?$/ }).describe("Where the text is posted to."),
      format: z
        .enum(["json", "text"])
        .default("json")
        .describe("Body: a JSON object with text, lang and voice, or the bare text. Default json."),
      headers: z
        .record(token, z.string().max(512))
        .default({})
        .describe("Further request headers, no secrets. Default none."),
      authorizationEnv: nameOfVariable
        .optional()
        .describe("Environment variable with the Authorization header. No default."),
      authorizationFile: filePath.optional().describe("File with the Authorization header's value. No default."),
      timeoutMs: milliseconds(100, 60_000)
        .default(10_000)
        .describe("Longest wait for the WAV in milliseconds. Default 10000."),
      lang: z.string().min(1).max(35).default("en").describe("Language of a reply that names none. Default en."),
      voice: z.string().max(64).optional().describe("Voice of a reply that names none. No default."),
    }),
  ])
  .default({ kind: "none" })
  .describe("Text-to-speech for `text` replies. Default none.");

const mediaAnchor = z.enum(["rtpengine", "freeswitch"]);

const freeswitchSchema = z
  .strictObject({
    servers: z
      .array(
        z.strictObject({
          host: hostName.describe("Host of its event socket."),
          port: portNumber.default(8021).describe("Port of its event socket. Default 8021."),
          profile: token.default("drachtio_mrf").describe("Its SIP profile for us. Default drachtio_mrf."),
        }),
      )
      .min(1)
      .max(16)
      .default([{ host: "127.0.0.1", port: 8021, profile: "drachtio_mrf" }])
      .describe("The FreeSWITCH instances. Default one on 127.0.0.1:8021."),
    passwordEnv: nameOfVariable
      .optional()
      .describe("Environment variable with the password of their event sockets. No default."),
    passwordFile: filePath.optional().describe("File with that password. No default."),
    listen: z
      .strictObject({
        address: ipAddress
          .default("127.0.0.1")
          .describe("Local IP address that they connect to for every channel. Default 127.0.0.1."),
        port: portOrFree
          .default(0)
          .describe("Local TCP port for the first instance, the next ones follow; 0 takes free ones. Default 0."),
        advertisedAddress: ipAddress
          .optional()
          .describe("That address as the instances reach it. Default: the address itself."),
      })
      .prefault({})
      .describe("Listener for the connections that FreeSWITCH makes."),
  })
  .describe("Used with `anchor: freeswitch` only, for all calls or those of a channel.");

const mediaSchema = z
  .strictObject({
    anchor: mediaAnchor
      .default("rtpengine")
      .describe("The media server of calls whose channel names none: rtpengine or freeswitch. Default rtpengine."),
    freeswitch: freeswitchSchema.prefault({}),
    rtpengine: z
      .array(
        z.strictObject({
          host: hostName.describe("Host of rtpengine's ng port."),
          port: portNumber.default(22_222).describe("rtpengine's ng port (UDP). Default 22222."),
        }),
      )
      .min(1)
      .max(16)
      .default([{ host: "127.0.0.1", port: 22_222 }])
      .describe("The rtpengine instances. Default one on 127.0.0.1:22222."),
    dtmf: z
      .strictObject({
        address: ipAddress
          .default("127.0.0.1")
          .describe("Local IP address that rtpengine reports digits to. Default 127.0.0.1."),
        port: portOrFree
          .default(22_223)
          .describe("Local UDP port for them, rtpengine's --dtmf-log-dest. Default 22223."),
      })
      .prefault({})
      .describe("Listener for the key presses that rtpengine reports."),
    promptFolder: folder.default("prompts").describe("Folder that `file:` prompts come from. Default prompts."),
    cacheFolder: folder.default("cache").describe("Folder for fetched and converted prompts. Default cache."),
    cacheMaxMb: z
      .int()
      .min(1)
      .max(1_000_000)
      .default(1024)
      .describe("Largest size of that folder in MB. Default 1024."),
    fetch: z
      .strictObject({
        timeoutMs: milliseconds(100, 60_000)
          .default(5000)
          .describe("Longest fetch of a prompt in milliseconds. Default 5000."),
        maxMb: z.int().min(1).max(1000).default(20).describe("Largest prompt fetched in MB. Default 20."),
        hosts: z
          .union([z.literal("any"), z.array(hostName).max(1000)])
          .default("any")
          .describe("Hosts that prompts are fetched from: a list, or any. Default any."),
        maxRedirects: z.int().min(0).max(10).default(3).describe("Redirects followed (count). Default 3."),
        freshMs: milliseconds(0, 86_400_000)
          .default(60_000)
          .describe(
            "How long a fetched prompt is used unasked when its server says nothing, in milliseconds. Default 60000.",
          ),
      })
      .prefault({})
      .describe("Limits of fetching http and https prompts."),
    tts: ttsSchema,
    callerTimeoutMs: milliseconds(1000, 3_600_000)
      .default(60_000)
      .describe(
        "A caller whose phone has sent no packet for this long is gone and the call ends, in milliseconds; not while he holds the call. Default 60000.",
      ),
    talkTimeoutMs: z
      .union([z.literal(0), milliseconds(2000, 3_600_000)])
      .default(20_000)
      .describe(
        "An operator from whose phone no packet has come for this long in a talk that had sound is asked by re-INVITE whether he is there, in milliseconds; not while he holds the call. If he is not, or nothing comes from the caller either, the talk ends. 0: never. Default 20000.",
      ),
    ringback: z
      .strictObject({
        frequenciesHz: z
          .array(z.number().min(100).max(3400))
          .min(1)
          .max(4)
          .default([425])
          .describe("Pitches of the tone in Hz. Default 425."),
        onMs: milliseconds(100, 10_000).default(1000).describe("Length of one tone in milliseconds. Default 1000."),
        offMs: milliseconds(100, 10_000).default(4000).describe("Silence after it in milliseconds. Default 4000."),
      })
      .prefault({})
      .describe("What the caller hears while the operator's phone rings."),
  })
  .describe("The media server and prompts.");

const uploadSchema = z
  .strictObject({
    endpoint: z
      .string()
      .max(512)
      .describe("URL of the storage, without a path: `https://s3.eu-central-1.amazonaws.com`, `http://10.0.0.5:9000`."),
    bucket: z
      .string()
      .regex(/^(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$/, "must be the name of a bucket: 3 to 63 of a-z 0-9 . -")
      .describe("Its bucket, which exists already."),
    prefix: z
      .string()
      .regex(
        /^(?:[A-Za-z0-9_-][A-Za-z0-9._-]*(?:\/|$)){0,32}$/,
        "must be letters, digits and . _ - / without a leading slash",
      )
      .max(256)
      .default("")
      .describe("What every object's name begins with, such as `recordings/`. Default empty."),
    region: z
      .string()
      .regex(/^[a-z0-9-]{1,64}$/, "must be the name of a region, such as eu-central-1")
      .default("us-east-1")
      .describe("The region requests are signed for. Default us-east-1."),
    accessKeyEnv: nameOfVariable.optional().describe("Environment variable with the access key."),
    accessKeyFile: filePath.optional().describe("File with it."),
    secretKeyEnv: nameOfVariable.optional().describe("Environment variable with the secret key."),
    secretKeyFile: filePath.optional().describe("File with it."),
    pathStyle: z
      .boolean()
      .default(true)
      .describe("The bucket stands in the path of URLs; false: before the host name. Default true."),
    keepLocal: z
      .boolean()
      .default(false)
      .describe(
        "Files stay in `recording.folder` after their upload. Default false: they are removed once it is confirmed.",
      ),
  })
  .describe("An S3-compatible storage that finished recordings and their JSON files are uploaded to. Default none.");

const recordingSchema = z
  .strictObject({
    folder: folder.default("recordings").describe("Folder for finished recordings. Default recordings."),
    spoolFolder: folder
      .default("spool")
      .describe("Folder for recordings under way; the media server writes here. Default spool."),
    format: z
      .enum(["wav", "opus", "mp3"])
      .default("wav")
      .describe("What finished recordings are converted to; all but `wav` need ffmpeg. Default wav."),
    ffmpeg: z
      .string()
      .min(1, "must name a program")
      .default("ffmpeg")
      .describe("The program that converts: a name on the path, or a full path. Default ffmpeg."),
    upload: uploadSchema.optional(),
  })
  .describe("Recordings.");

const gatewaySchema = z
  .strictObject({
    id: identifier
      .optional()
      .describe("Name of the gateway, unique in the file. Default: the trunk's id, a dash and its position."),
    host: hostName.describe("Host name or IP address calls are sent to."),
    port: portNumber.optional().describe("Its port. Default: what DNS says, else 5060, for `tls` 5061."),
    transport: z
      .enum(["udp", "tcp", "tls"])
      .default("udp")
      .describe("Its transport; `tls` needs a `tls` listener. Default udp."),
    priority: z
      .int()
      .min(0)
      .max(65_535)
      .optional()
      .describe("Gateways with a lower one are tried first. Default: its position in the list, from 0."),
    weight: z
      .int()
      .min(0)
      .max(65_535)
      .default(1)
      .describe("Its share of the calls among gateways of the same priority (RFC 2782). Default 1."),
  })
  .describe("One address that calls are sent to.");

const inboundDigestSchema = z
  .strictObject({
    username: z.string().min(1).max(128).describe("User name the peer gives."),
    passwordEnv: nameOfVariable.optional().describe("Environment variable that holds the peer's password. No default."),
    passwordFile: filePath.optional().describe("File that holds the peer's password. No default."),
    realm: z
      .string()
      .regex(/^[\x20-\x21\x23-\x5b\x5d-\x7e]{1,128}$/, "must be printable characters without quotes and backslashes")
      .default("patchbay")
      .describe("Realm of our challenge. Default patchbay."),
    algorithms: z
      .array(z.enum(["SHA-256", "MD5"]))
      .min(1)
      .max(2)
      .default(["SHA-256", "MD5"])
      .describe(
        "What the peer may prove it with (RFC 8760). [MD5] for one that gives up on two challenges; [SHA-256] lets no MD5 in. Default both.",
      ),
  })
  .describe("Digest credentials a caller must give (RFC 3261 §22).");

const outboundDigestSchema = z
  .strictObject({
    username: z.string().min(1).max(128).describe("User name we give when the gateway asks."),
    passwordEnv: nameOfVariable.optional().describe("Environment variable that holds our password. No default."),
    passwordFile: filePath.optional().describe("File that holds our password. No default."),
    realm: z
      .string()
      .max(128)
      .optional()
      .describe("Only a challenge of this realm is answered. Default: any realm, from the gateway only."),
  })
  .describe("Digest credentials we give to the trunk's gateways.");

export const trunkSchema = z
  .strictObject({
    id: identifier.describe("Name of the trunk, unique in the file."),
    gateways: z
      .array(gatewaySchema)
      .max(32)
      .default([])
      .describe("Where calls are sent to, in this order unless they have priorities. Default none."),
    qualifyMs: z
      .union([z.literal(0), milliseconds(1000, 3_600_000)])
      .default(0)
      .describe(
        "Interval of OPTIONS to each gateway in milliseconds, at least 1000; 0 sends none, then calls find out. Default 0.",
      ),
    gatewayFailures: z
      .int()
      .min(1)
      .max(100)
      .default(3)
      .describe("Calls or OPTIONS without an answer in a row, after which a gateway is tried last (count). Default 3."),
    gatewayRetryMs: milliseconds(1000, 3_600_000)
      .default(30_000)
      .describe(
        "Without `qualifyMs`: how long until a call tries such a gateway again, in milliseconds. Default 30000.",
      ),
    sources: z.array(network).max(256).default([]).describe("Addresses and networks calls come from. Default none."),
    inbound: inboundDigestSchema.optional(),
    outbound: outboundDigestSchema.optional(),
    register: z
      .boolean()
      .default(false)
      .describe(
        "Register with the first gateway that takes it (RFC 3261 §10), as the `outbound` user or `number`; calls that come to that registration belong to this trunk. Default false.",
      ),
    registerExpiresSeconds: z
      .int()
      .min(60)
      .max(86_400)
      .default(600)
      .describe("How long a registration is asked for, in seconds. Default 600."),
    number: phoneNumber
      .optional()
      .describe("The trunk's own number, shown when a bot of another trunk calls through it. No default."),
    callerId: z
      .union([z.enum(["auto", "caller", "bot"]), text.regex(digits, shownNumbers)], {
        error: (issue) => (typeof issue.input === "number" ? quoted : shownNumbers),
      })
      .default("auto")
      .describe(
        "Whom the operator sees: auto (bot's number on a trunk with a password, else the caller's), caller, bot, or a fixed number. Default auto.",
      ),
    supportsForeignCallerId: z
      .boolean()
      .default(true)
      .describe("False: the provider takes no number but its own, so auto means the bot's. Default true."),
    assertedIdentity: z.boolean().default(false).describe("Adds P-Asserted-Identity (RFC 3325). Default false."),
    diversion: z.boolean().default(false).describe("Adds Diversion with the bot's number (RFC 5806). Default false."),
    identityHeaders: z
      .enum(["allow", "drop"])
      .default("allow")
      .describe("Whether a bot's own identity headers override the trunk's policy. Default allow."),
    trustIdentity: z
      .boolean()
      .default(false)
      .describe("Whether P-Asserted-Identity of calls from this trunk names the caller (RFC 3325). Default false."),
    fromHost: hostName
      .optional()
      .describe("Host of the From address. Default: the gateway's with credentials, else our own address."),
    rules: z
      .strictObject({
        strip: text
          .regex(/^[0-9*#]{0,16}$/, "must be up to 16 digits, * or #")
          .default("")
          .describe("Leading digits taken off when the number has them. Default none."),
        prepend: text
          .regex(/^[0-9*#]{0,16}$/, "must be up to 16 digits, * or #")
          .default("")
          .describe("Digits put in front afterwards. Default none."),
        plus: z
          .enum(["keep", "add", "remove"])
          .default("keep")
          .describe("What becomes of a leading +: kept as the bot wrote it, added to digits, removed. Default keep."),
        country: text
          .regex(/^[1-9][0-9]{0,2}$/, "must be a calling code of 1 to 3 digits without +")
          .optional()
          .describe(
            "Calling code of the country whose numbers are dialled here without +; the destination policy reads numbers by it. No default.",
          ),
      })
      .prefault({})
      .describe("How a phone number is dialled on this trunk."),
    progressTimeoutMs: milliseconds(500, 60_000)
      .default(10_000)
      .describe("A gateway without a 18x for this long counts as unreachable, in milliseconds. Default 10000."),
    sipUriVia: z
      .enum(["direct", "gateway"])
      .default("direct")
      .describe("A `sipUri` is called directly, or with the gateway as next hop. Default direct."),
    refer: z
      .enum(["fallback", "never"])
      .default("fallback")
      .describe("After a refused REFER: the target is called by INVITE, or never. Default fallback."),
    dtmf: z
      .strictObject({
        fallback: z
          .enum(["tones", "info"])
          .default("tones")
          .describe(
            "How key presses go to a side that has not agreed to telephone events (RFC 4733): as tones in the sound, or by SIP INFO and as tones where INFO is refused. Default tones.",
          ),
        detectTones: z
          .boolean()
          .default(false)
          .describe(
            "Tones in the sound of a side that has not agreed to telephone events are key presses. Costs processor time in rtpengine. Default false.",
          ),
      })
      .prefault({})
      .describe("Key presses to and from this trunk's side."),
    sessionExpiresSeconds: z
      .int()
      .min(0)
      .max(86_400)
      .refine((seconds) => seconds === 0 || seconds >= 90, "must be 0 or at least 90 (RFC 4028)")
      .default(1800)
      .describe(
        "Session timer (RFC 4028) in seconds: a peer that vanishes without BYE is found out by re-INVITEs at half of it. 0 offers none. Default 1800.",
      ),
    maxCalls: z
      .int()
      .min(1)
      .max(100_000)
      .default(1000)
      .describe("Legs at once on this trunk, both directions (count). Default 1000."),
    callsPerSecond: z
      .int()
      .min(1)
      .max(10_000)
      .optional()
      .describe("New calls per second on this trunk, for each direction (count). Default: no limit."),
  })
  .describe("A SIP peer that calls come from and go to.");

const fallbackSchema = z
  .strictObject({
    audioUrl: z
      .string()
      .min(1)
      .max(2048)
      .optional()
      .describe("Prompt the caller hears first: http, https, or `file:` under `media.promptFolder`. No default."),
    text: z.string().min(1).max(4096).optional().describe("Or this text, spoken by `media.tts`. No default."),
    phoneNumber: phoneNumber.optional().describe("The default operator, called over the channel's trunk. No default."),
    sipUri: z.string().min(1).max(512).optional().describe("Or a SIP URI that `destinations` allows. No default."),
    timeoutMs: milliseconds(1000, 600_000)
      .default(60_000)
      .describe("His time to answer in milliseconds. Default 60000."),
    goodbyeUrl: z
      .string()
      .min(1)
      .max(2048)
      .optional()
      .describe("Prompt before we hang up: nobody answered, or the operator has hung up. No default."),
  })
  .describe(
    "What the caller gets when no bot takes his call in time, when the bot goes silent, or when Redis is away. Without it he is hung up on, and refused while Redis is away.",
  );

const soundUrl = z.string().min(1).max(2048);

export const channelSchema = z
  .strictObject({
    botId: z
      .string()
      .regex(/^[A-Za-z0-9._:@-]{1,128}$/, "must be 1 to 128 letters, digits or ._:@-")
      .describe("The bot that takes the calls; also the name `transferChannel` uses."),
    trunk: identifier.describe("Id of the trunk it answers on."),
    numbers: z
      .array(
        text.regex(
          /^(?:\+?[A-Za-z0-9._#-]{1,64}\*?|\*)$/,
          "must be a number or user name, or the beginning of one followed by *",
        ),
      )
      .max(1000)
      .default([])
      .describe("Called numbers it answers: exact, or a beginning followed by *. Default none."),
    number: phoneNumber
      .optional()
      .describe("The bot's own number as operators may see it. Default: the called number."),
    answer: z
      .enum(["immediately", "on-command"])
      .default("immediately")
      .describe("Answer at once, or ring until the bot's first command. Default immediately."),
    passHeaders: z
      .array(token)
      .max(32)
      .default([])
      .describe("Headers of the INVITE that the bot is told. Default none."),
    mediaAnchor: mediaAnchor
      .optional()
      .describe("The media server of this bot's calls: rtpengine or freeswitch. Default: `media.anchor`."),
    recording: z
      .strictObject({
        enabled: z.boolean().default(false).describe("Record calls of this bot. Default false."),
        resumeOnReturn: z
          .boolean()
          .default(false)
          .describe("Resume a recording paused for an operator talk when the caller is back. Default false."),
      })
      .prefault({})
      .describe("Recording policy."),
    sounds: z
      .strictObject({
        ringbackUrl: soundUrl
          .optional()
          .describe(
            "What the caller hears, repeated, while an operator is called: http, https, or `file:` under `media.promptFolder`. Default: the tone of `media.ringback`.",
          ),
        holdUrl: soundUrl
          .optional()
          .describe("What he hears, repeated, while the operator holds him. Default: a melody."),
        earlyMedia: z
          .boolean()
          .default(true)
          .describe(
            "Sound that comes from the operator's side before he answers takes the place of the ringback, as long as it comes. Default true.",
          ),
      })
      .prefault({})
      .describe("What a caller hears while he waits for an operator."),
    destinations: z
      .strictObject({
        sipHosts: z
          .array(sipHostPattern)
          .max(1000)
          .default([])
          .describe(
            "Hosts a `sipUri` may name: a host, an IP address, or *.domain for all below it; ports 5060 to 5090, or the one behind a colon, or :* for any. Default none.",
          ),
        deniedSipHosts: z
          .array(sipHostPattern)
          .max(1000)
          .default([])
          .describe("Hosts a `sipUri` may not name though `sipHosts` holds them. Default none."),
        privateNetworks: z
          .array(network)
          .max(256)
          .default([])
          .describe(
            "Private, loopback and other special networks that the names of `sipHosts` may resolve into. Default none.",
          ),
        numbers: z
          .strictObject({
            allow: z
              .array(numberPrefix)
              .max(1000)
              .default([])
              .describe(
                "Beginnings of the numbers that may be called: with + in international form, without it as they are written. Default: any number.",
              ),
            deny: z
              .array(numberPrefix)
              .max(1000)
              .default([])
              .describe(
                "Beginnings of numbers that are never called, whatever form they are written in. Default none.",
              ),
            emergency: z.boolean().default(false).describe("Allows emergency numbers. Default false."),
            premium: z.boolean().default(false).describe("Allows premium rate numbers. Default false."),
            satellite: z.boolean().default(false).describe("Allows satellite numbers. Default false."),
          })
          .prefault({})
          .describe("Which phone numbers may be called."),
        maxCallsPerSecond: z
          .int()
          .min(1)
          .max(1000)
          .default(100)
          .describe(
            "Targets called in a second, over all calls of the bot; another gateway, another caller id or an INVITE after a REFER is the same call. Default 100.",
          ),
        maxOperatorCalls: z
          .int()
          .min(1)
          .max(100_000)
          .default(1000)
          .describe("Operators called or talking at once, over all calls of the bot. Default 1000."),
        maxTalkMinutesPerDay: z
          .int()
          .min(1)
          .max(10_000_000)
          .optional()
          .describe(
            "Minutes operators may talk in a day (UTC), over all calls of the bot; a talk counts when it is over, for each day with its part. Default: no limit.",
          ),
      })
      .prefault({})
      .describe("Where this bot may send callers, and how often."),
    operatorRefer: z
      .enum(["accept", "refuse"])
      .default("refuse")
      .describe(
        "An operator may pass the caller on by REFER, to whom `destinations` lets the bot call; numbers go over the trunk of his own call. His place may be taken, and a call that rings at his phone picked up, by an INVITE with Replaces that comes from the same trunk. Default refuse, which answers 603.",
      ),
    maxOperatorRefers: z
      .int()
      .min(1)
      .max(100)
      .default(5)
      .describe("How often operators may pass on one caller, failed attempts included; then 603. Default 5."),
    format: z
      .enum(["patchbay", "jaicp"])
      .default("patchbay")
      .describe(
        "Shape of events and commands: that of docs/bot-contract.md, or the requests and responses of the JAICP platform. Default patchbay.",
      ),
    botTimeoutMs: milliseconds(500, 600_000)
      .default(10_000)
      .describe(
        "Longest wait for the bot's first command, and for its next one when the caller has come back from an operator, in milliseconds. Default 10000.",
      ),
    botSilenceMs: milliseconds(1000, 3_600_000)
      .default(60_000)
      .describe("Longest time without a command while the caller hears nothing, in milliseconds. Default 60000."),
    inputTimeoutMs: milliseconds(500, 600_000)
      .optional()
      .describe(
        "The bot is told when the caller has heard everything and pressed no key for this long, in milliseconds. Default: never, and 5000 with `format: jaicp`.",
      ),
    returnKeys: text
      .regex(/^[0-9*#A-D]{0,8}$/, "must be up to 8 of 0-9 * # A-D")
      .default("*7")
      .describe("Keys by which an operator hands the caller back to the bot; empty: none do. Default *7."),
    fallback: fallbackSchema.optional(),
  })
  .describe("A bot's entry: which calls it gets and how they are treated.");

const adminSchema = z
  .strictObject({
    address: ipAddress.default("127.0.0.1").describe("Local IP address of the HTTP status port. Default 127.0.0.1."),
    port: portOrFree.default(9080).describe("Its port; 0 takes a free one. Default 9080."),
  })
  .describe("Health and metrics over HTTP.");

const logSchema = z
  .strictObject({
    level: z
      .enum(["error", "warn", "info", "debug", "silent"])
      .default("info")
      .describe("Lowest level that is written. Default info."),
    showPersonal: z
      .boolean()
      .default(false)
      .describe("Shows people's numbers and addresses in the log's fields. Default false."),
  })
  .describe("The log on standard error.");

export const configSchema = z
  .strictObject({
    sip: sipSchema.prefault({}),
    engine: engineSchema.prefault({}),
    redis: redisSchema.prefault({}),
    media: mediaSchema.prefault({}),
    recording: recordingSchema.prefault({}),
    trunks: z.array(trunkSchema).max(1000).default([]).describe("SIP peers. Default none."),
    channels: z.array(channelSchema).max(10_000).default([]).describe("Bots and the calls they get. Default none."),
    admin: adminSchema.prefault({}),
    log: logSchema.prefault({}),
  })
  .describe("Configuration of Patchbay.");

type DeepReadonly<T> = T extends readonly (infer Item)[]
  ? readonly DeepReadonly<Item>[]
  : T extends object
    ? { readonly [Key in keyof T]: DeepReadonly<T[Key]> }
    : T;

export type Config = DeepReadonly<z.output<typeof configSchema>>;
export type TrunkConfig = Config["trunks"][number];
export type ChannelConfig = Config["channels"][number];

export type AnchorName = Config["media"]["anchor"];

/** Whether any call is to be anchored there. Without channels there are no calls, and the usual anchor stands for them. */
export function usesAnchor({ media, channels }: Config, anchor: AnchorName): boolean {
  return channels.length === 0
    ? media.anchor === anchor
    : channels.some(({ mediaAnchor = media.anchor }) => mediaAnchor === anchor);
}
