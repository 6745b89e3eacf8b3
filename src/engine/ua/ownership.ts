import type { Dialog } from "../dialog/dialog.ts";
import type { ClientId, Delivery, LostClient } from "../events.ts";
import { TimerSet } from "../timers.ts";
import type { Core } from "./core.ts";

/** What comes of a change of owners. */
export interface OwnershipEvents {
  /** A dialog has been without an application for the grace time. */
  endOrphan(dialog: Dialog): void;
  /** A dialog has an owner again: requests may wait for it. */
  owned(): void;
}

interface KeptEnd {
  readonly tags: string;
  readonly delivery: Delivery;
}

/** Verbs that lost applications took and nobody takes now. */
const mostExpectedVerbs = 256;

/**
 * A drachtio-server keeps the dialogs of a lost application for ever. With `strictParity` ours are forgotten, untold, when
 * nobody has sent anything in them for this long: to the peer that is no difference, it gets 481 before and after.
 */
const strictOrphanMs = 4 * 3_600_000;

/**
 * Which application connection gets what comes in a dialog. The owner is the last one that sent something in it; when that
 * one is gone, a connection with the same tags or the only one there is becomes its heir. A dialog without either is an
 * orphan and is ended after the grace time.
 */
export class Ownership {
  events: OwnershipEvents = { endOrphan: () => undefined, owned: () => undefined };
  readonly #core: Core;
  /** BYEs of peers that no application has heard of yet, by dialog id. */
  readonly #kept = new Map<string, KeptEnd>();
  /** One timer for each of them. */
  readonly #timers: TimerSet;
  /** Until when (on the engine's clock) an application for a verb is expected back. */
  readonly #expected = new Map<string, number>();

  constructor(core: Core) {
    this.#core = core;
    this.#timers = new TimerSet(core.parts.clock);
  }

  get timers(): number {
    return this.#timers.size;
  }

  /** The owner where it is still connected. */
  ownerOf(dialog: Dialog): ClientId | undefined {
    return dialog.owner !== undefined && this.#core.parts.events.isConnected(dialog.owner) ? dialog.owner : undefined;
  }

  /** The connection that sent something in a dialog gets from then on what comes in it. */
  adopt(dialog: Dialog, client: ClientId): void {
    if (dialog.owner === client) {
      return;
    }
    if (dialog.owner !== undefined && this.#core.imitates("adoption")) {
      if (this.ownerOf(dialog) === undefined) this.#forgetInTime(dialog);
      return;
    }
    const orphan = this.ownerOf(dialog) === undefined;
    this.#own(dialog, client);
    if (orphan) {
      this.events.owned();
    }
  }

  #own(dialog: Dialog, client: ClientId): void {
    if (dialog.orphanOf !== undefined) {
      this.#core.parts.counters.add("dialogsAdopted");
    }
    dialog.owner = client;
    dialog.orphanOf = undefined;
    dialog.timers.stop("orphan");
  }

  /** Hands the dialogs of that connection to its heir, or starts their grace time. */
  clientGone({ client, tags, verbs }: LostClient): void {
    const { clock, events, settings, log } = this.#core.parts;
    if (!this.#core.imitates("waiting")) {
      for (const verb of verbs) {
        if (this.#expected.size < mostExpectedVerbs || this.#expected.has(verb)) {
          this.#expected.set(verb, clock.now() + settings.orphanGraceMs);
        }
      }
    }
    if (this.#core.imitates("orphans")) {
      for (const dialog of this.#core.dialogs.all()) {
        if (dialog.owner === client && dialog.phase === "confirmed") this.#forgetInTime(dialog);
      }
      return;
    }
    const heir = events.heirOf(tags);
    let orphans = 0;
    for (const dialog of this.#core.dialogs.all()) {
      if (dialog.owner !== client || dialog.phase !== "confirmed") {
        continue;
      }
      dialog.orphanOf = tags;
      if (heir !== undefined) {
        this.#own(dialog, heir);
        continue;
      }
      orphans += 1;
      this.#endInTime(dialog);
    }
    if (orphans > 0) {
      log.warn("dialogs are without an application", { dialogs: orphans, graceMs: settings.orphanGraceMs });
    }
  }

  /** A dialog of an engine that died with its application is without one from the start. */
  orphaned(dialog: Dialog): void {
    dialog.orphanOf = "";
    this.#endInTime(dialog);
  }

  #endInTime(dialog: Dialog): void {
    const { counters, log, settings } = this.#core.parts;
    dialog.timers.start("orphan", settings.orphanGraceMs, () => {
      counters.add("orphansEnded");
      log.warn("a dialog without an application is ended", { dialog: dialog.id });
      this.events.endOrphan(dialog);
    });
  }

  #forgetInTime(dialog: Dialog): void {
    dialog.timers.start("orphan", strictOrphanMs, () => {
      this.#core.parts.counters.add("orphansEnded");
      this.#core.parts.log.warn("a dialog without an application is forgotten", { dialog: dialog.id });
      this.#core.endDialog(dialog);
    });
  }

  /** A connection has come: what it is the heir of becomes its own, and it is told which dialogs have ended meanwhile. */
  clientReady(): void {
    const { events, log } = this.#core.parts;
    let adopted = 0;
    for (const dialog of this.#core.dialogs.all()) {
      const heir = dialog.orphanOf === undefined ? undefined : events.heirOf(dialog.orphanOf);
      if (heir !== undefined) {
        this.#own(dialog, heir);
        adopted += 1;
      }
    }
    if (adopted > 0) {
      log.info("an application has taken over dialogs", { dialogs: adopted });
    }
    for (const [dialogId, { tags }] of this.#kept) {
      const heir = events.heirOf(tags);
      if (heir !== undefined) {
        this.tellEnd(dialogId, heir);
      }
    }
  }

  /** Keeps a BYE that was answered while no application was there, for the grace time. */
  keepEnd(dialog: Dialog, delivery: Delivery, tags: string): void {
    const { counters, events, limits, settings } = this.#core.parts;
    const heir = events.heirOf(tags);
    if ((heir !== undefined && events.deliver(heir, delivery)) || this.#kept.size >= limits.pendingRequests) {
      return;
    }
    counters.add("endsKept");
    this.#kept.set(dialog.id, { tags, delivery });
    this.#timers.start(dialog.id, settings.orphanGraceMs, () => {
      this.#kept.delete(dialog.id);
    });
  }

  /** Tells a connection of the BYE that was kept for a dialog, if there is one. */
  tellEnd(dialogId: string, client: ClientId): void {
    const kept = this.#kept.get(dialogId);
    if (kept !== undefined && this.#core.parts.events.deliver(client, kept.delivery)) {
      this.#kept.delete(dialogId);
      this.#timers.stop(dialogId);
    }
  }

  routed(verb: string): void {
    this.#expected.delete(verb);
  }

  /** Whether an application for that verb was there a moment ago and may come back. */
  expects(verb: string): boolean {
    return (this.#expected.get(verb) ?? 0) > this.#core.parts.clock.now();
  }

  close(): void {
    this.#timers.clear();
    this.#kept.clear();
  }
}
