import { isIP } from "node:net";

import { networkContains, parseIpNetwork } from "../lib/ip-network.ts";
import type { ConfigProblem } from "./problem.ts";
import { usesAnchor } from "./schema.ts";
import type { Config, TrunkConfig } from "./schema.ts";

/** What each field allows by itself but the whole does not; every message says what to do. */
export function contradictions(config: Config): readonly ConfigProblem[] {
  return [
    ...signalling(config),
    ...redis(config),
    ...recording(config),
    ...config.trunks.flatMap((trunk, index) => trunkProblems(trunk, `trunks[${index}]`)),
    ...tlsGateways(config),
    ...ttsProblems(config),
    ...freeswitchProblems(config),
    ...trunkNames(config),
    ...sources(config),
    ...digestCallers(config),
    ...channels(config),
  ];
}

function signalling({ sip }: Config): ConfigProblem[] {
  const problems: ConfigProblem[] = [];
  if (sip.engine !== "embedded") {
    if (sip.drachtio === undefined) {
      problems.push({
        path: "sip.drachtio",
        message: `\`sip.engine\` is ${sip.engine}, but nothing says where it is: add host, port and secretEnv or secretFile`,
      });
    }
  } else if (sip.drachtio !== undefined) {
    problems.push({
      path: "sip.drachtio",
      message: "is not used by the embedded engine: remove it, or set `sip.engine` to separate or drachtio",
    });
  }
  if (sip.drachtio !== undefined) {
    problems.push(...oneSecret("sip.drachtio", sip.drachtio.secretEnv, sip.drachtio.secretFile, "secret"));
  }
  if (sip.engine !== "drachtio" && sip.externalAddress === undefined) {
    for (const [index, { address }] of sip.listen.entries()) {
      if (address === "0.0.0.0" || address === "::") {
        problems.push({
          path: `sip.listen[${index}].address`,
          message: `${address} cannot be shown to a peer: set \`sip.externalAddress\`, or listen on one address`,
        });
      }
    }
  }
  const seen = new Set<string>();
  for (const [index, listener] of sip.listen.entries()) {
    const { protocol, address, port = protocol === "tls" ? 5061 : 5060, tls } = listener;
    if ((protocol === "tls") !== (tls !== undefined)) {
      problems.push({
        path: `sip.listen[${index}].tls`,
        message:
          tls === undefined
            ? "is missing: a tls listener needs `certificateFile` and `keyFile`"
            : `is not used by a ${protocol} listener: remove it, or set \`protocol\` to tls`,
      });
    }
    if (tls?.requireClientCertificate === true && tls.caFile === undefined) {
      problems.push({
        path: `sip.listen[${index}].tls.caFile`,
        message:
          "is missing: without it every certificate of a well-known authority would be good enough; name your own",
      });
    }
    const key = `${protocol} ${address} ${port}`;
    if (port !== 0 && seen.has(key)) {
      problems.push({ path: `sip.listen[${index}]`, message: `${key} is listed twice: remove one` });
    }
    seen.add(key);
  }
  return problems;
}

function redis({ redis: { url, sentinel, passwordEnv, passwordFile } }: Config): ConfigProblem[] {
  const problems: ConfigProblem[] = [];
  const parsed = URL.canParse(url) ? new URL(url) : undefined;
  if (parsed === undefined || !["redis:", "rediss:"].includes(parsed.protocol)) {
    problems.push({
      path: "redis.url",
      message: "must be a redis:// or rediss:// URL, such as redis://127.0.0.1:6379",
    });
  } else if (parsed.password !== "") {
    problems.push({
      path: "redis.url",
      message:
        "holds a password, and secrets never stand in the file: take it out and use `redis.passwordEnv` or `redis.passwordFile`",
    });
  }
  if (passwordEnv !== undefined && passwordFile !== undefined) {
    problems.push(...oneSecret("redis", passwordEnv, passwordFile, "password"));
  }
  if (sentinel?.passwordEnv !== undefined && sentinel.passwordFile !== undefined) {
    problems.push(...oneSecret("redis.sentinel", sentinel.passwordEnv, sentinel.passwordFile, "password"));
  }
  return problems;
}

function recording({ recording: { folder, spoolFolder, upload } }: Config): ConfigProblem[] {
  const problems: ConfigProblem[] = [];
  if (folder === spoolFolder) {
    problems.push({
      path: "recording.spoolFolder",
      message: "is the same as `recording.folder`: give the spool a folder of its own",
    });
  }
  if (upload === undefined) return problems;
  const path = "recording.upload";
  const url = URL.canParse(upload.endpoint) ? new URL(upload.endpoint) : undefined;
  if (url === undefined || !["http:", "https:"].includes(url.protocol)) {
    problems.push({
      path: `${path}.endpoint`,
      message: "must be an http:// or https:// URL, such as https://s3.eu-central-1.amazonaws.com",
    });
  } else if (url.username !== "" || url.password !== "") {
    problems.push({
      path: `${path}.endpoint`,
      message: "holds a name or password, and secrets never stand in the file: use `accessKeyFile` and `secretKeyFile`",
    });
  } else if (url.pathname !== "/" || url.search !== "" || url.hash !== "") {
    problems.push({
      path: `${path}.endpoint`,
      message: "must end with the host name or port: the bucket goes into `bucket`, a folder into `prefix`",
    });
  }
  if (!upload.pathStyle && url !== undefined && isIP(url.hostname.replaceAll(/[[\]]/g, "")) !== 0) {
    problems.push({
      path: `${path}.pathStyle`,
      message: "there can be no bucket before an IP address: leave it out, or name the storage's host in `endpoint`",
    });
  }
  problems.push(...oneSecret(path, upload.accessKeyEnv, upload.accessKeyFile, "accessKey"));
  problems.push(...oneSecret(path, upload.secretKeyEnv, upload.secretKeyFile, "secretKey"));
  return problems;
}

function freeswitchProblems(config: Config): ConfigProblem[] {
  const { media, recording } = config;
  const { passwordEnv, passwordFile, servers, listen } = media.freeswitch;
  if (!usesAnchor(config, "freeswitch")) return [];
  const problems = oneSecret("media.freeswitch", passwordEnv, passwordFile, "password");
  const highest = 65_535 - (servers.length - 1);
  if (listen.port > highest) {
    problems.push({
      path: "media.freeswitch.listen.port",
      message: `${listen.port} leaves no port for the last of ${servers.length} servers, each of which takes the next one: use ${highest} at most, or 0 for free ones`,
    });
  }
  for (const [path, folder] of [
    ["media.cacheFolder", media.cacheFolder],
    ["recording.spoolFolder", recording.spoolFolder],
  ] as const) {
    if (/[\s!]/.test(folder)) {
      problems.push({
        path,
        message: "holds a blank or an exclamation mark, which FreeSWITCH takes for an end: rename it",
      });
    }
  }
  return problems;
}

const ttsPlaceholders = ["text", "lang", "voice", "out"];

function ttsProblems({ media: { tts } }: Config): ConfigProblem[] {
  if (tts.kind === "command") {
    return tts.command.flatMap((part, index) =>
      [...part.matchAll(/\{([A-Za-z]+)\}/g)]
        .filter(([, name]) => name !== undefined && !ttsPlaceholders.includes(name))
        .map(([whole]) => ({
          path: `media.tts.command[${index}]`,
          message: `${whole} is replaced by nothing: use one of ${ttsPlaceholders.map((name) => `{${name}}`).join(", ")}`,
        })),
    );
  }
  if (tts.kind === "http" && tts.authorizationEnv !== undefined && tts.authorizationFile !== undefined) {
    return oneSecret("media.tts", tts.authorizationEnv, tts.authorizationFile, "authorization");
  }
  if (tts.kind === "http" && Object.keys(tts.headers).some((name) => name.toLowerCase() === "authorization")) {
    return [
      {
        path: "media.tts.headers",
        message:
          "holds Authorization, and secrets never stand in the file: use `authorizationEnv` or `authorizationFile`",
      },
    ];
  }
  return [];
}

function trunkProblems(trunk: TrunkConfig, path: string): ConfigProblem[] {
  const problems: ConfigProblem[] = [];
  if (trunk.register && trunk.gateways.length === 0) {
    problems.push({
      path: `${path}.register`,
      message: "there is nowhere to register: add the registrar as a gateway",
    });
  }
  if (trunk.register && trunk.outbound === undefined && trunk.number === undefined) {
    problems.push({
      path: `${path}.register`,
      message: "nothing says as whom: add `outbound` credentials, or the `number` of the registration",
    });
  }
  if (trunk.sources.length === 0 && trunk.inbound === undefined && trunk.gateways.length === 0) {
    problems.push({
      path,
      message: `trunk ${trunk.id} has neither sources nor inbound credentials nor gateways, so no call can use it: add one of them`,
    });
  }
  if (trunk.inbound !== undefined) {
    problems.push(...oneSecret(`${path}.inbound`, trunk.inbound.passwordEnv, trunk.inbound.passwordFile, "password"));
  }
  if (trunk.outbound !== undefined) {
    problems.push(
      ...oneSecret(`${path}.outbound`, trunk.outbound.passwordEnv, trunk.outbound.passwordFile, "password"),
    );
    if (trunk.gateways.length === 0) {
      problems.push({
        path: `${path}.outbound`,
        message: "credentials without a gateway are never used: add a gateway, or remove them",
      });
    }
  }
  return problems;
}

function tlsGateways({ sip, trunks }: Config): ConfigProblem[] {
  if (sip.engine === "drachtio" || sip.listen.some(({ protocol }) => protocol === "tls")) {
    return [];
  }
  return trunks.flatMap(({ gateways }, trunk) =>
    gateways.flatMap(({ transport }, gateway) =>
      transport === "tls"
        ? [
            {
              path: `trunks[${trunk}].gateways[${gateway}].transport`,
              message: "needs a listener with `protocol: tls` in `sip.listen`, whose certificate calls go out with",
            },
          ]
        : [],
    ),
  );
}

function oneSecret(path: string, env: string | undefined, file: string | undefined, word: string): ConfigProblem[] {
  if (env !== undefined && file !== undefined) {
    return [{ path, message: `names both ${word}Env and ${word}File: keep one of them` }];
  }
  if (env === undefined && file === undefined) {
    return [{ path, message: `has no ${word}: add ${word}Env or ${word}File` }];
  }
  return [];
}

function trunkNames({ trunks }: Config): ConfigProblem[] {
  const problems: ConfigProblem[] = [];
  const trunkIds = new Map<string, string>();
  const gatewayIds = new Map<string, string>();
  for (const [index, trunk] of trunks.entries()) {
    const path = `trunks[${index}]`;
    claim(trunkIds, trunk.id, `${path}.id`, "trunk", problems);
    for (const [position, gateway] of trunk.gateways.entries()) {
      const id = gateway.id ?? `${trunk.id}-${position + 1}`;
      claim(gatewayIds, id, `${path}.gateways[${position}].id`, "gateway", problems);
    }
  }
  return problems;
}

function claim(taken: Map<string, string>, id: string, path: string, what: string, problems: ConfigProblem[]): void {
  const first = taken.get(id);
  if (first === undefined) {
    taken.set(id, path);
  } else {
    problems.push({ path, message: `the ${what} ${id} exists already at ${first}: give one of them another name` });
  }
}

/** One source in two trunks leaves it open whose call it is. A smaller network inside a larger one does not: it wins. */
function sources({ trunks }: Config): ConfigProblem[] {
  const problems: ConfigProblem[] = [];
  const all = trunks.flatMap((trunk, index) =>
    trunk.sources.flatMap((text, position) => {
      const network = parseIpNetwork(text);
      return network === undefined ? [] : [{ trunk, text, network, path: `trunks[${index}].sources[${position}]` }];
    }),
  );
  for (const [position, later] of all.entries()) {
    const earlier = all
      .slice(0, position)
      .find(({ network }) => networkContains(network, later.network) && networkContains(later.network, network));
    if (earlier !== undefined) {
      problems.push({
        path: later.path,
        message:
          earlier.trunk === later.trunk
            ? `${later.text} stands there twice: remove one`
            : `${later.text} overlaps with ${earlier.text} of trunk ${earlier.trunk.id} at ${earlier.path}: a call from there would belong to both, remove one`,
      });
    }
  }
  return problems;
}

/** Callers without a known source are told apart only by what they answer to one challenge. */
function digestCallers({ trunks }: Config): ConfigProblem[] {
  const problems: ConfigProblem[] = [];
  let first: { readonly realm: string; readonly path: string } | undefined;
  const users = new Map<string, string>();
  for (const [index, { inbound, sources: known }] of trunks.entries()) {
    if (inbound === undefined || known.length > 0) {
      continue;
    }
    const path = `trunks[${index}].inbound`;
    first ??= { realm: inbound.realm, path };
    if (first.realm !== inbound.realm) {
      problems.push({
        path: `${path}.realm`,
        message: `trunks that take calls from any source are challenged with one realm, and ${first.path}.realm is ${first.realm}: use the same, or add sources`,
      });
    }
    const earlier = users.get(inbound.username);
    if (earlier === undefined) {
      users.set(inbound.username, `${path}.username`);
    } else {
      problems.push({
        path: `${path}.username`,
        message: `${inbound.username} exists already at ${earlier}: give one of the trunks another user name, or add sources`,
      });
    }
  }
  return problems;
}

function fallbackProblems(fallback: Config["channels"][number]["fallback"], path: string): ConfigProblem[] {
  if (fallback === undefined) return [];
  const problems: ConfigProblem[] = [];
  if (fallback.audioUrl !== undefined && fallback.text !== undefined) {
    problems.push({ path, message: "names both audioUrl and text: keep one of them" });
  }
  if (fallback.phoneNumber !== undefined && fallback.sipUri !== undefined) {
    problems.push({ path, message: "names both phoneNumber and sipUri: keep one of them" });
  }
  return problems;
}

function channels({ channels: all, trunks }: Config): ConfigProblem[] {
  const problems: ConfigProblem[] = [];
  const bots = new Map<string, string>();
  const numbers = new Map<string, string>();
  for (const [index, channel] of all.entries()) {
    const path = `channels[${index}]`;
    const first = bots.get(channel.botId);
    if (first === undefined) {
      bots.set(channel.botId, path);
    } else {
      problems.push({
        path: `${path}.botId`,
        message: `the bot ${channel.botId} has a channel already at ${first}: \`transferChannel\` could mean both, merge them`,
      });
    }
    problems.push(...fallbackProblems(channel.fallback, `${path}.fallback`));
    const trunk = trunks.find(({ id }) => id === channel.trunk);
    if (trunk === undefined) {
      const known = trunks.map(({ id }) => id).join(", ");
      problems.push({
        path: `${path}.trunk`,
        message: `there is no trunk ${channel.trunk}: ${known === "" ? "add it under trunks" : `use one of ${known}, or add it under trunks`}`,
      });
      continue;
    }
    if (trunk.gateways.length === 0) {
      problems.push({
        path: `${path}.trunk`,
        message: `the bot's transfers go out through trunk ${trunk.id}, which has no gateways: add a gateway to it`,
      });
    }
    const open = trunk.sources.length > 0 || trunk.inbound !== undefined || trunk.register;
    if (channel.numbers.length > 0 && !open) {
      problems.push({
        path: `${path}.numbers`,
        message: `trunk ${trunk.id} has neither sources nor inbound credentials nor a registration, so nobody can call these numbers: add one of them to the trunk`,
      });
    }
    for (const [position, number] of channel.numbers.entries()) {
      const key = `${channel.trunk} ${number.replace(/^\+/, "")}`;
      const earlier = numbers.get(key);
      if (earlier === undefined) {
        numbers.set(key, `${path}.numbers[${position}]`);
      } else {
        problems.push({
          path: `${path}.numbers[${position}]`,
          message: `${number} on trunk ${channel.trunk} is claimed already at ${earlier}: remove it from one of them`,
        });
      }
    }
  }
  return problems;
}
