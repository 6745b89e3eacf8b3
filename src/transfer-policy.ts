import type { TransferPolicy } from "./bot/translate.ts";
import type { CallSetup } from "./call/setup.ts";
import type { GatewayHealth } from "./trunk/gateway-health.ts";
import type { ReferMemory } from "./trunk/refer-memory.ts";
import type { TrunkTable } from "./trunk/table.ts";

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
