import { fallbackReplies } from "./bot/fallback.ts";
import type { TransferPolicy } from "./bot/translate.ts";
import type { TransferId } from "./call/ids.ts";
import type { CallSetup } from "./call/setup.ts";
import type { ConfigProblem } from "./config/problem.ts";
import type { Config } from "./config/schema.ts";
import { GatewayHealth } from "./trunk/gateway-health.ts";
import { ReferMemory } from "./trunk/refer-memory.ts";
import { TrunkTable } from "./trunk/table.ts";

export type PolicyFacts = Pick<CallSetup, "botId" | "callerNumber">;

/**
 * What the bot of this call may ask for, bound to the call when it starts and never taken from a command. `random` draws
 * among gateways of one priority.
 */
export function transferPolicy(
  table: TrunkTable,
  { health, referMemory }: { readonly health: GatewayHealth; readonly referMemory: ReferMemory },
  carriesTls: boolean,
  { botId, callerNumber }: PolicyFacts,
  random: () => number = Math.random,
): TransferPolicy {
  return {
    tls: carriesTls,
    allowsSipHost: (host, port) => table.hostRefusal(botId, host, port) === null,
    numberRefusal: (digits, trunk) => table.numberRefusal(botId, trunk, digits),
    routeFor(transferChannel) {
      const choice = table.routeFor(botId, transferChannel, callerNumber === "", random);
      // The schema refuses a channel whose trunk has no gateway.
      if (choice === undefined) throw new Error(`no route for bot ${botId}`);
      const identityHeaders = table.trunk(choice.route.trunk)?.identityHeaders ?? "allow";
      const route = { ...choice.route, gateways: health.order(choice.route.gateways) };
      return { ...choice, route, identityHeaders, referFollowed: referMemory.follows(choice.ownTrunk) };
    },
  };
}

/** Fallbacks that could not be carried out: they are refused before the start, and not when they are needed. */
export function fallbackProblems(config: Config): readonly ConfigProblem[] {
  const table = new TrunkTable(config);
  const carriesTls = config.sip.listen.some(({ protocol }) => protocol === "tls");
  const seen = { health: new GatewayHealth(new Map(), () => 0), referMemory: new ReferMemory(() => 0) };
  return config.channels.flatMap(({ botId, fallback }, index) => {
    const policy = transferPolicy(table, seen, carriesTls, { botId, callerNumber: "" });
    const outcome = fallbackReplies(fallback, policy, () => "fallback" as TransferId);
    return outcome.ok ? [] : [{ path: `channels[${index}].fallback`, message: outcome.message }];
  });
}
