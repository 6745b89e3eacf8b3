import { saveDialog, savedDialog } from "../dialog/saved.ts";
import type { ClientId, LostClient, SipCommand, SipCommands } from "../events.ts";
import type { SipMessage, SipRequest, SipResponse } from "../sip/message.ts";
import { noApplication } from "./accepted.ts";
import { Core } from "./core.ts";
import type { CoreParts, Inbound, Origin } from "./core.ts";
import { tagOf } from "./headers.ts";
import { IncomingRequests } from "./pending.ts";
import { Uac } from "./uac.ts";
import { Uas } from "./uas.ts";

export interface AgentStats {
  readonly dialogs: number;
  readonly incoming: number;
  readonly invites: number;
  readonly outgoing: number;
  readonly lookups: number;
  readonly timers: number;
}

/** The user agent: both halves over one table of dialogs, between the transactions and the wire server. */
export class UserAgent implements SipCommands {
  readonly #core: Core;
  readonly #incoming: IncomingRequests;
  readonly #uas: Uas;
  readonly #uac: Uac;

  constructor(parts: CoreParts) {
    this.#core = new Core(parts);
    this.#incoming = new IncomingRequests(this.#core);
    this.#uac = new Uac(this.#core, {
      endPending: (dialog) => {
        this.#incoming.endPending(dialog);
      },
    });
    this.#uas = new Uas(this.#core, this.#incoming, this.#uac);
    this.#core.sessions.requests = {
      refresh: (dialog) => {
        this.#uac.refreshSession(dialog);
      },
      end: (dialog, reason) => {
        this.#uac.byeFromEngine(dialog, reason);
      },
    };
    this.#core.ownership.events = {
      endOrphan: (dialog) => {
        this.#uac.byeFromEngine(dialog, noApplication);
      },
      owned: () => {
        this.#incoming.serveWaiting();
      },
    };
  }

  // From the network

  onRequest(transaction: Inbound): void {
    this.#uas.onRequest(transaction);
  }

  onCancel(transaction: Inbound, cancels: Inbound | undefined): void {
    this.#uas.onCancel(transaction, cancels);
  }

  onAck(request: SipRequest, source: Origin): void {
    this.#uas.onAck(request, source);
  }

  onStrayResponse(response: SipResponse, source: Origin): void {
    this.#uac.onStrayResponse(response, source);
  }

  /** Whether a message belongs to a dialog or an INVITE of ours: such a one is served whoever sent it. */
  isKnown(message: SipMessage): boolean {
    if (message.kind === "response") {
      return this.#uac.isGivenUp(message);
    }
    const { headers } = message;
    const callId = headers.get("Call-ID") ?? "";
    const from = tagOf(headers.get("From"));
    const to = tagOf(headers.get("To"));
    return from !== undefined && to !== undefined && this.#core.dialogs.byTags(callId, to, from) !== undefined;
  }

  /** Whether a dialog needs that TCP connection: its peer may be reachable in no other way. */
  needsConnection(connection: object): boolean {
    return this.#core.dialogs.all().some((dialog) => dialog.connection?.hop.connection === connection);
  }

  // From the applications

  respond(command: SipCommand, txnId: string): void {
    this.#uas.respond(command, txnId);
  }

  cancel(command: SipCommand, txnId: string): void {
    this.#uac.cancel(command, txnId);
  }

  requestInDialog(command: SipCommand, dialogId: string): void {
    this.#uac.requestInDialog(command, dialogId);
  }

  requestOutOfDialog(command: SipCommand, proxyUri: string | undefined): void {
    this.#uac.requestOutOfDialog(command, proxyUri);
  }

  clientReady(): void {
    this.#core.ownership.clientReady();
    this.#incoming.serveWaiting();
  }

  routed(verb: string): void {
    this.#core.ownership.routed(verb);
    this.#incoming.serveWaiting();
  }

  clientGone(lost: LostClient): void {
    // The heir of the dialogs is found first, because it gets their unanswered requests too.
    this.#core.ownership.clientGone(lost);
    this.#incoming.clientGone(lost);
    this.#uac.clientGone(lost.client);
    // What came while the connection was breaking waits for the heir.
    this.#incoming.serveWaiting();
  }

  busyClients(): ReadonlySet<ClientId> {
    const owners = [
      ...this.#core.dialogs.all().map(({ owner }) => owner),
      ...this.#incoming.owners(),
      ...this.#uac.owners(),
    ];
    return new Set(owners.filter((owner) => owner !== undefined));
  }

  /** A dialog as text, for `takeBack` in another process; undefined when there is none of that id. */
  saved(dialogId: string): string | undefined {
    const dialog = this.#core.dialogs.byId(dialogId);
    return dialog === undefined ? undefined : saveDialog(dialog);
  }

  /** Makes dialogs again that another process had: they are without an application for now. Other texts are passed over. */
  takeBack(saved: Iterable<string>): void {
    for (const text of saved) {
      const dialog = savedDialog(text, this.#core.parts.clock);
      if (dialog !== undefined && this.#core.addDialog(dialog)) {
        this.#core.ownership.orphaned(dialog);
      }
    }
  }

  /** Takes no new calls from now on; those that are there stay. */
  drain(): void {
    this.#uas.takeNoMore();
  }

  /** Ends every dialog by BYE, refuses what is not answered and cancels what rings: the engine is about to close. */
  endAll(): void {
    const reason = 'SIP;cause=503;text="engine closing"';
    this.#uas.endAll();
    this.#uac.endAll(reason);
    for (const dialog of this.#core.dialogs.all()) {
      if (dialog.phase === "confirmed") {
        this.#uac.byeFromEngine(dialog, reason);
      }
    }
  }

  /** Stops every timer and forgets everything, without telling anybody. */
  close(): void {
    this.#incoming.close();
    this.#uac.close();
    this.#core.ownership.close();
    for (const dialog of this.#core.dialogs.all()) {
      this.#core.endDialog(dialog);
    }
  }

  stats(): AgentStats {
    const uas = this.#incoming.stats();
    const uac = this.#uac.stats();
    return {
      dialogs: this.#core.dialogs.size,
      incoming: uas.incoming,
      invites: uas.invites,
      outgoing: uac.outgoing,
      lookups: uac.lookups,
      timers: uas.timers + uac.timers + this.#core.dialogs.timers + this.#core.ownership.timers,
    };
  }
}
