import { readJson } from "./bot/json.ts";
import type { JsonObject } from "./bot/json.ts";
import { readFrame, translate } from "./bot/translate.ts";
import type { Notice } from "./bot/translate.ts";
import type { CommandId, GatewayId, TransferId } from "./call/ids.ts";
import { judge, judgedStatuses } from "./call/outcome.ts";
import { partiesOf } from "./call/transfer.ts";
import type { CalledParty, ShownIdentity, TransferRequest } from "./call/transfer.ts";
import type { Config } from "./config/schema.ts";
import { replaceLocalhost } from "./engine/ua/headers.ts";
import type { HeaderLine } from "./sip/message.ts";
import { operatorHeaders, operatorRoute } from "./sip/operator-invite.ts";
import type { OperatorRoute } from "./sip/operator-invite.ts";
import type { ListenAddress } from "./sip/srf.ts";
import { hostText } from "./sip/uri.ts";
import { transferPolicy } from "./transfer-policy.ts";
import { GatewayHealth } from "./trunk/gateway-health.ts";
import { ReferMemory } from "./trunk/refer-memory.ts";
import { TrunkTable } from "./trunk/table.ts";
import type { Gateway, Trunk } from "./trunk/table.ts";

export interface ExplainedSwitch {
  readonly botId: string;
  /** A `switch` reply, or a whole command that holds one. */
  readonly json: Uint8Array;
  /** Empty: the caller withholds his number. */
  readonly caller: string;
  /** The number that was called; the channel's own where nothing is said. */
  readonly called: string | undefined;
}

export interface Explanation {
  readonly text: string;
  /** Nothing would be sent. */
  readonly refused: boolean;
}

/**
 * What a `switch` would put on the wire, gateway by gateway, without sending it: translated, routed and written by the very
 * code that serves calls. Only what the engine adds to every request is left out.
 */
export function explain(config: Config, { botId, json, caller, called }: ExplainedSwitch): Explanation {
  const table = new TrunkTable(config);
  const channel = table.channel(botId);
  if (channel === undefined) return refusal([`no channel has the botId ${botId}`]);
  const read = readJson(json);
  if (!read.ok) return refusal([`${read.code}: ${read.message}`]);
  const bare = read.value["type"] !== undefined;
  const command: JsonObject = bare ? { replies: [read.value] } : read.value;
  /** Pointers are those of the file, and not of the command that was made of it. */
  const place = ({ code, message, pointer }: Notice): string => {
    const shown = bare ? pointer?.replace(/^\/replies\/0/, "") : pointer;
    return `${code}${shown ? ` at ${shown}` : ""}: ${message}`;
  };
  const frame = readFrame(command);
  if (!frame.ok) return refusal([place(frame.rejection)]);
  const now = (): number => 0;
  const carriesTls = config.sip.listen.some(({ protocol }) => protocol === "tls");
  // Nothing has failed yet: every gateway is up and every trunk follows a REFER.
  const seen = { health: new GatewayHealth(new Map(), now), referMemory: new ReferMemory(now) };
  const policy = transferPolicy(table, seen, carriesTls, { botId, callerNumber: caller }, () => 0.5);
  const outcome = translate(frame.frame, "explain" as CommandId, policy, () => "explain" as TransferId);
  if (outcome.type === "rejected") return refusal([place(outcome.rejection)]);
  if (outcome.type === "invalidSwitch") {
    return refusal([place(outcome.event)]);
  }
  const request = outcome.command.replies.find((reply) => reply.type === "switch")?.request;
  if (request === undefined) return refusal(["there is no switch in it"]);
  const numbers = config.channels.find((entry) => entry.botId === botId)?.numbers ?? [];
  const facts: Facts = {
    botId,
    calledNumber: called ?? numbers.find((number) => !number.endsWith("*")) ?? "",
    caller: { number: caller, display: null, withheld: caller === "" },
  };
  const scene: Scene = { table, facts, listening: listeningOf(config), request };
  const warnings = outcome.warnings.map((warning) => `warning: ${place(warning)}`);
  const head = [
    `channel ${botId}, trunk ${request.route.trunk}, caller ${caller === "" ? "withheld" : caller}, called ${facts.calledNumber || "unknown"}`,
    `the operator sees: ${request.route.identity}`,
    ...warnings,
  ];
  return { refused: false, text: [...head, "", ...attempts(scene), ...afterwards(scene)].join("\n") + "\n" };
}

interface Facts {
  readonly botId: string;
  readonly calledNumber: string;
  readonly caller: { readonly number: string; readonly display: null; readonly withheld: boolean };
}

interface Scene {
  readonly table: TrunkTable;
  readonly facts: Facts;
  readonly listening: readonly ListenAddress[];
  readonly request: TransferRequest;
}

function refusal(reasons: readonly string[]): Explanation {
  return { refused: true, text: reasons.map((reason) => `refused: ${reason}\n`).join("") };
}

/** As the embedded engine would tell it; a drachtio-server is not asked, so that `localhost` stays. */
function listeningOf({ sip }: Config): readonly ListenAddress[] {
  if (sip.engine === "drachtio") return [];
  return sip.listen.map(({ protocol, address, port }) => ({
    protocol,
    address: sip.externalAddress ?? address,
    port: port ?? (protocol === "tls" ? 5061 : 5060),
  }));
}

function attempts(scene: Scene): readonly string[] {
  const { request } = scene;
  const refer = request.method === "refer";
  const parties = partiesOf(request);
  const first = refer
    ? [
        "REFER on the caller's dialog; headers, transferChannel, continueCall and continueRecording do not apply to it",
        request.referFallback
          ? "when it fails, or where the trunk does not follow one:"
          : "nothing follows when it fails",
        "",
      ]
    : [];
  if (refer && !request.referFallback) return first;
  return [
    ...first,
    ...parties.flatMap((party, position) => [
      ...(parties.length > 1
        ? [`target ${position + 1} of ${parties.length} (${request.strategy}): ${party.number}`]
        : []),
      ...waysTo(scene, party),
    ]),
  ];
}

function waysTo(scene: Scene, party: CalledParty): readonly string[] {
  const { table, request } = scene;
  const { route } = request;
  const trunk = table.trunk(route.trunk);
  const direct = party.target.kind === "uri" && route.sipUriVia === "direct";
  const gateways = direct ? route.gateways.slice(0, 1) : route.gateways;
  return gateways.flatMap((id: GatewayId, position) => {
    const gateway = table.gateway(id);
    const where = trunk && gateway && operatorRoute(party, trunk, gateway, table);
    if (trunk === undefined || gateway === undefined || where === undefined) return [];
    const invite = (identity: ShownIdentity): readonly string[] =>
      headersOf(scene, { party, trunk, gateway, where, identity }).map(({ name, value }) => `${name}: ${value}`);
    const lines = invite(route.identity);
    const retry = route.retryWithBotNumber ? invite("bot").filter((line) => !lines.includes(line)) : [];
    return [
      `${position + 1}. ${direct ? "directly" : `gateway ${id}`}, next hop ${nextHop(where, gateway, direct)}`,
      `   INVITE ${where.uri} SIP/2.0`,
      ...lines.map((line) => `   ${line}`),
      ...(where.viaGateway && trunk.outbound !== null
        ? [
            `   a challenge${trunk.outbound.realm === null ? "" : ` of realm ${trunk.outbound.realm}`} is answered as ${trunk.outbound.username}`,
          ]
        : []),
      ...(retry.length === 0
        ? []
        : [`   after ${codes("identity")} once more with:`, ...retry.map((line) => `     ${line}`)]),
      "",
    ];
  });
}

function headersOf(
  { table, facts, listening }: Scene,
  way: {
    readonly party: CalledParty;
    readonly trunk: Trunk;
    readonly gateway: Gateway;
    readonly where: OperatorRoute;
    readonly identity: ShownIdentity;
  },
): readonly HeaderLine[] {
  const { party, trunk, gateway, where, identity } = way;
  const { target, headers } = party;
  const lines = operatorHeaders({
    order: { target, headers, identity, trunk: trunk.id, gateway: gateway.id },
    facts,
    trunk,
    gateway,
    route: where,
    directory: table,
    listening,
    authenticates: where.viaGateway && trunk.outbound !== null,
  });
  const local = listening.find(({ protocol }) => protocol === gateway.transport);
  return lines.map(({ name, value }) => ({
    name,
    value:
      local === undefined || name !== "From"
        ? value
        : replaceLocalhost(value, { host: local.address, port: local.port }),
  }));
}

function nextHop(where: OperatorRoute, { host, port, transport }: Gateway, direct: boolean): string {
  if (direct) return `${where.uri}, once its addresses have passed \`destinations\``;
  return `${hostText(host)}${port === undefined ? "" : `:${port}`} over ${transport}`;
}

function afterwards({ table, request }: Scene): readonly string[] {
  const { route } = request;
  const trunk = table.trunk(route.trunk);
  const drawn = new Set(trunk?.gateways.map(({ priority }) => priority)).size < (trunk?.gateways.length ?? 0);
  const seconds = (ms: number): string => `${ms / 1000} s`;
  return [
    ...(drawn ? ["gateways of one priority are drawn by weight for each call; this is one draw"] : []),
    `next gateway: no 18x within ${seconds(route.progressTimeoutMs)}, ${codes("gateway")}`,
    `no further gateway: ${codes("nothing")}`,
    `answer within ${seconds(request.answerTimeoutMs)} over all attempts`,
    ...(request.maxTalkMs === null ? [] : [`talk ends after ${seconds(request.maxTalkMs)}`]),
    ...(trunk === undefined
      ? []
      : [
          `trunk limits: ${trunk.maxCalls} legs${trunk.callsPerSecond === null ? "" : `, ${trunk.callsPerSecond} calls per second`}`,
        ]),
  ];
}

/** Statuses that lead there before any 18x, as the call core judges them. */
function codes(next: ReturnType<typeof judge>["next"]): string {
  const leads = (status: number): boolean =>
    judge({ status, reason: null, q850: null, redirect: null }, false).next === next;
  return [...judgedStatuses.filter(leads), ...(leads(500) ? ["5xx"] : [])].join(", ");
}
