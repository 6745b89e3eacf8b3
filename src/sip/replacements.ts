import type { InviteOrder } from "../call/effect.ts";
import type { CallId } from "../call/ids.ts";
import { CallerLeg } from "./caller-leg.ts";
import type { Claim } from "./inbound.ts";
import type { Leg, LegContext } from "./leg.ts";
import type { LegTable } from "./leg-table.ts";
import type { IncomingInvite } from "./link/types.ts";
import { OperatorLeg } from "./outbound.ts";
import { parseReplaces, type ReplacedDialog } from "./replaces.ts";
import { formatSipUri } from "./uri.ts";

/** A leg whose peer another one can take the place of. */
export type Claimable = CallerLeg | OperatorLeg;

export interface ReplacementsOptions extends Pick<LegContext, "directory" | "link" | "log"> {
  readonly legs: LegTable;
}

type Asker = Pick<Leg, "call" | "trunk">;

/** Whose dialog a `Replaces` names (RFC 3891), and whether it may be replaced by whoever asks. */
export class Replacements {
  readonly #options: ReplacementsOptions;

  constructor(options: ReplacementsOptions) {
    this.#options = options;
  }

  /** RFC 3891 §3: who is let in takes the place of the operator in this dialog. */
  claimed(invite: IncomingInvite, { claims, trunk, offer }: Claim): void {
    const { directory, log } = this.#options;
    const found = this.#find(claims);
    // What belongs to another trunk does not exist for this one, so that nothing can be found out by asking.
    if (found === undefined || found.leg.trunk !== trunk.id) {
      invite.respond(481);
      return;
    }
    const { leg, where } = found;
    log.info({ call: leg.call, leg: leg.id, source: invite.sourceAddress }, "a leg is to be taken over");
    // Whose call it is nobody else decides; operators may be replaced where they may pass the caller on.
    if (!(leg instanceof OperatorLeg) || !directory.takesRefer(this.#botOf(leg.call) ?? "")) {
      invite.respond(603);
    } else if (claims.earlyOnly && where === "confirmed") {
      invite.respond(486);
    } else {
      leg.claim(invite, offer);
    }
  }

  /** See `LegContext.consulted`. */
  consulted(dialog: ReplacedDialog, asker: Asker): ReturnType<LegContext["consulted"]> {
    const { directory, link } = this.#options;
    const leg = this.#consultedBy(dialog, asker);
    if (leg === undefined) return undefined;
    const facts = this.#options.legs.factsOf(leg.call);
    if (facts === undefined || leg.call === asker.call || dialog.earlyOnly || !directory.takesRefer(facts.botId)) {
      return null;
    }
    const { caller, calledNumber } = facts;
    // Beyond a caller's leg is whom he called, beyond an operator's leg the caller.
    const number = leg instanceof CallerLeg ? calledNumber : caller.withheld ? "anonymous" : caller.number;
    // Nobody is called there: were the dialog gone by then, an INVITE to ourselves would be refused.
    const own = link.listening()[0];
    const host = own?.address ?? "invalid";
    const uri = formatSipUri({ scheme: "sip", user: null, host, port: own?.port ?? null, params: new Map() });
    return { target: { kind: "uri", uri }, number };
  }

  /** The leg of another call that this operator is behind. */
  consultedLeg({ headers, trunk }: InviteOrder, call: CallId): Claimable | undefined {
    // No bot can write this header: it comes from a REFER that was let through.
    const text = headers.find(({ name }) => name === "Replaces")?.value;
    const dialog = text === undefined ? undefined : parseReplaces(text);
    const leg = dialog && this.#consultedBy(dialog, { call, trunk });
    return leg?.call === call ? undefined : leg;
  }

  /**
   * An operator may be known to us by two trunks: by the bot's own, and by that of a `transferChannel`. Both tags of a dialog
   * prove that he is in it, or was told of it by somebody who is; still only calls of one bot meet that way, because a trunk
   * may be another customer's.
   */
  #consultedBy(dialog: ReplacedDialog, { call, trunk }: Asker): Claimable | undefined {
    const found = this.#find(dialog);
    if (found?.where !== "confirmed") return undefined;
    const { leg } = found;
    return leg.trunk === trunk || this.#botOf(leg.call) === this.#botOf(call) ? leg : undefined;
  }

  #botOf(call: CallId): string | undefined {
    return this.#options.legs.factsOf(call)?.botId;
  }

  #find(dialog: ReplacedDialog): { readonly leg: Claimable; readonly where: "early" | "confirmed" } | undefined {
    for (const leg of this.#options.legs.all()) {
      if (!(leg instanceof CallerLeg) && !(leg instanceof OperatorLeg)) continue;
      const where = leg.isIn(dialog);
      if (where !== null) return { leg, where };
    }
    return undefined;
  }
}
