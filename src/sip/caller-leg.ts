import type { CallEvent } from "../call/event.ts";
import type { CallId, ExchangeId, LegId, PlayId, Sdp, TrunkId } from "../call/ids.ts";
import type { CustomHeader, TransferRequest } from "../call/transfer.ts";
import type { Cancellable } from "../lib/clock.ts";
import { addressBits } from "../lib/ip-network.ts";
import { hangUp } from "./hang-up.ts";
import type { TrunkCredentials } from "./hang-up.ts";
import { InDialog, allowedMethods } from "./in-dialog.ts";
import { KeyPresses } from "./key-presses.ts";
import type { CallFacts, Leg, LegContext } from "./leg.ts";
import { parseReason, reasonOfEnd } from "./reason.ts";
import { ReferWatch } from "./refer.ts";
import type { IncomingInvite, Reply, SipDialog } from "./link/types.ts";
import { Reoffer } from "./reoffer.ts";
import { supportingReplaces } from "./operator-invite.ts";
import type { ReplacedDialog } from "./replaces.ts";
import { answerSession } from "./session-expires.ts";
import { matches, type Taker, Takeovers } from "./takeover.ts";
import { formatSipUri, parseSipUri } from "./uri.ts";

type Ended = Omit<Extract<CallEvent, { type: "leg.ended" }>, "type" | "leg">;

interface Goodbye {
  readonly reason: string;
  readonly headers: readonly CustomHeader[];
}

type State =
  /** The INVITE waits for an answer. */
  | { readonly phase: "offered" }
  /** The engine was told to send a 200 and has not confirmed it. */
  | { readonly phase: "accepting"; readonly goodbye: Goodbye | null }
  /** 200 sent, no ACK yet. */
  | {
      readonly phase: "answered";
      readonly dialog: SipDialog;
      readonly inDialog: InDialog;
      readonly goodbye: Goodbye | null;
      readonly ackDeadline: Cancellable;
    }
  | {
      readonly phase: "confirmed";
      readonly dialog: SipDialog;
      readonly inDialog: InDialog;
      readonly keys: KeyPresses;
      readonly reoffer: Reoffer;
      readonly refer: ReferWatch | null;
    }
  /** Our BYE is out, or nothing is left to do. */
  | { readonly phase: "over" };

/** The caller's side of a call: we are the UAS of its INVITE. */
export class CallerLeg implements Leg {
  readonly id: LegId;
  readonly call: CallId;
  readonly trunk: TrunkId;
  readonly #invite: IncomingInvite;
  readonly #facts: CallFacts;
  readonly #context: LegContext;
  /** Another call of ours may take the caller's place. */
  readonly #takeovers: Takeovers;
  #state: State = { phase: "offered" };
  #dialogs = 0;

  constructor(id: LegId, facts: CallFacts, invite: IncomingInvite, context: LegContext) {
    this.id = id;
    this.call = facts.call;
    this.trunk = facts.trunk;
    this.#facts = facts;
    this.#invite = invite;
    this.#context = context;
    this.#takeovers = new Takeovers({
      leg: id,
      trunk: undefined,
      context,
      post: (event) => this.#post(event),
      taken: (taker) => {
        this.#taken(taker);
      },
    });
  }

  /** From now on a CANCEL ends the leg; called once the call exists, because it may have arrived already. */
  begin(): void {
    this.#invite.onCancel((cancel) => {
      const { q850, text } = parseReason(cancel.headerLines("reason"));
      // RFC 3261 §9.2: the engine has answered the INVITE with 487.
      this.#ended({ status: 487, reason: text ?? "Request Terminated", q850 });
    });
  }

  ring(): void {
    if (this.#state.phase === "offered") {
      this.#invite.respond(180);
    }
  }

  accept(answer: Sdp): void {
    if (this.#state.phase !== "offered") {
      return;
    }
    this.#state = { phase: "accepting", goodbye: null };
    const { directory } = this.#context;
    const { sessionExpiresSeconds = null } = directory.trunk(this.trunk) ?? {};
    const session = answerSession(sessionExpiresSeconds, this.#invite);
    // A caller may be an operator, who brings somebody of another call together with whom he has called here.
    const supported = directory.takesRefer(this.#facts.botId) ? supportingReplaces(session) : session;
    this.#invite.accept(answer, [{ name: "Allow", value: allowedMethods }, ...supported], {
      accepted: (dialog) => {
        this.#accepted(dialog);
      },
      failed: (fault) => {
        // A CANCEL that overtook our 200 has been told already.
        if (this.#state.phase === "accepting") {
          this.#ended({ status: fault.code === "cancelled" ? 487 : null, reason: fault.message, q850: null });
        }
      },
    });
  }

  reject(status: number, reason: string): void {
    if (this.#state.phase === "offered") {
      this.#invite.respond(status, reason);
      this.#over();
    }
  }

  /** Only an INVITE of ours can be cancelled. */
  cancel(reason: string): void {
    this.bye(reason, []);
  }

  bye(reason: string, headers: readonly CustomHeader[]): void {
    const state = this.#state;
    switch (state.phase) {
      case "offered":
        this.reject(480, reason);
        break;
      case "accepting":
      case "answered":
        // RFC 3261 §15: no BYE on a dialog whose 200 has not been acknowledged.
        this.#state = { ...state, goodbye: { reason, headers } };
        break;
      case "confirmed":
        this.#hangUp(state.dialog, { reason, headers });
        break;
      case "over":
        break;
    }
  }

  refer(request: TransferRequest): void {
    const state = this.#state;
    if (state.phase !== "confirmed") {
      const failure = { status: null, reason: "the caller's dialog is not confirmed", q850: null, redirect: null };
      this.#post({ type: "refer.done", leg: this.id, ...failure });
      return;
    }
    state.refer?.close();
    const refer = new ReferWatch({
      leg: this.id,
      dialog: state.dialog,
      referTo: this.#referTarget(request, state.dialog),
      referredBy: this.#ownAddress(),
      timeoutMs: this.#context.times.requestMs,
      credentials: (challenge) => this.#credentialsFor(challenge),
      post: (event) => this.#post(event),
    });
    this.#state = { ...state, refer };
  }

  reinvite(offer: Sdp): void {
    if (this.#state.phase === "confirmed") {
      this.#state.reoffer.offer(offer);
    }
  }

  press(play: PlayId, digits: string): void {
    if (this.#state.phase === "confirmed") {
      this.#state.keys.press(play, digits);
    }
  }

  answerRefer(): void {
    // The caller's side never gets as far as to be answered: its REFER is declined at once.
  }

  notifyRefer(): void {
    // See above.
  }

  reanswer(exchange: ExchangeId, answer: Sdp): void {
    if (!this.#takeovers.accept(exchange, answer)) this.#inDialog()?.reanswer(exchange, answer);
  }

  refuse(exchange: ExchangeId, status: number): void {
    if (!this.#takeovers.refuse(exchange, status)) this.#inDialog()?.refuse(exchange, status);
  }

  /** RFC 3891 §3: the dialog of a call that rings here was not begun by us, and so is none that could be replaced. */
  isIn(dialog: ReplacedDialog): "confirmed" | null {
    return this.#state.phase === "confirmed" && matches(this.#state.dialog, dialog) ? "confirmed" : null;
  }

  claim(invite: IncomingInvite, offer: Sdp): void {
    if (this.#state.phase === "confirmed") this.#takeovers.begin(invite, offer);
    else invite.respond(603);
  }

  #taken({ dialog, offer, local }: Taker): void {
    const state = this.#state;
    if (state.phase !== "confirmed") return;
    state.refer?.close();
    state.keys.abandon();
    state.reoffer.close();
    state.inDialog.close();
    if (state.dialog.connected) {
      const { link, times } = this.#context;
      const order = { reason: "replaced", headers: [], timeoutMs: times.requestMs, credentials: null };
      void hangUp(state.dialog, link, order);
    }
    if (local) this.#context.offTrunk(this.id);
    this.#confirm(dialog, this.#listen(dialog));
    if (!this.#post({ type: "leg.replaced", leg: this.id, offer })) {
      this.#hangUp(dialog, { reason: "no such call", headers: [] });
    }
  }

  end(): void {
    if (this.#state.phase === "offered") {
      this.reject(503, "Service Unavailable");
    } else {
      this.bye("service stops", []);
    }
  }

  #accepted(dialog: SipDialog): void {
    const { clock, times } = this.#context;
    // A CANCEL the engine passed on before it took our 200: the leg is over, and what came of it is hung up after its ACK.
    const goodbye =
      this.#state.phase === "accepting" ? this.#state.goodbye : { reason: "answered after CANCEL", headers: [] };
    // RFC 3261 §13.3.1.4: without an ACK the engine ends the dialog after 64*T1; if it does not, we do.
    const ackDeadline = clock.after(times.cancelMs, () => {
      this.#hangUp(dialog, { reason: "no ACK", headers: [] });
      this.#post({ type: "leg.ended", leg: this.id, status: 408, reason: "no ACK", q850: null });
    });
    const inDialog = this.#listen(dialog);
    this.#state = { phase: "answered", dialog, inDialog, goodbye, ackDeadline };
  }

  /** From now on this is the caller's dialog. */
  #listen(dialog: SipDialog): InDialog {
    const { clock, times } = this.#context;
    this.#dialogs += 1;
    const inDialog = new InDialog({
      leg: this.id,
      dialog,
      number: this.#dialogs,
      clock,
      exchangeMs: times.exchangeMs,
      post: (event) => this.#post(event),
      onNotify: (request) => this.#state.phase === "confirmed" && (this.#state.refer?.notified(request) ?? false),
    });
    dialog.listen({
      acknowledged: (body) => {
        this.#acknowledged();
        inDialog.acknowledged(body);
      },
      ended: (end) => {
        const reason = reasonOfEnd(end);
        const state = this.#state;
        // Somebody has taken his place.
        if (state.phase === "confirmed" && state.dialog !== dialog) return;
        if (state.phase === "confirmed" && this.#takeovers.outlive(() => this.#ended(reason))) {
          state.refer?.close();
          inDialog.close();
        } else {
          this.#ended(reason);
        }
      },
      offered: (request) => {
        inDialog.offered(request);
      },
      asked: (request) => {
        inDialog.asked(request);
      },
    });
    return inDialog;
  }

  #acknowledged(): void {
    const state = this.#state;
    if (state.phase !== "answered") {
      return;
    }
    const { dialog, inDialog, goodbye, ackDeadline } = state;
    ackDeadline.cancel();
    this.#confirm(dialog, inDialog);
    if (goodbye !== null) {
      this.#hangUp(dialog, goodbye);
    } else if (!this.#post({ type: "leg.confirmed", leg: this.id })) {
      this.#hangUp(dialog, { reason: "no such call", headers: [] });
    }
  }

  #confirm(dialog: SipDialog, inDialog: InDialog): void {
    const [keys, reoffer] = [this.#keysTo(dialog), this.#offersTo(dialog)];
    this.#state = { phase: "confirmed", dialog, inDialog, keys, reoffer, refer: null };
  }

  #keysTo(dialog: SipDialog): KeyPresses {
    const { clock, times } = this.#context;
    return new KeyPresses({ dialog, clock, timeoutMs: times.requestMs, post: (event) => void this.#post(event) });
  }

  #offersTo(dialog: SipDialog): Reoffer {
    const { clock, link, times } = this.#context;
    return new Reoffer({
      leg: this.id,
      dialog,
      ownsCallId: false,
      clock,
      link,
      timeoutMs: times.requestMs,
      credentials: (challenge) => this.#credentialsFor(challenge),
      post: (event) => this.#post(event),
    });
  }

  #hangUp(dialog: SipDialog, { reason, headers }: Goodbye): void {
    this.#leave();
    // A challenge from the caller's side is not answered: these credentials are for the gateways (RFC 3261 §22.3).
    const timeoutMs = this.#context.times.requestMs;
    void hangUp(dialog, this.#context.link, { reason, headers, timeoutMs, credentials: null }).finally(() => {
      this.#context.release(this.id);
    });
  }

  #ended(end: Ended): void {
    if (this.#state.phase === "over") {
      return;
    }
    this.#over();
    this.#post({ type: "leg.ended", leg: this.id, ...end });
  }

  #over(): void {
    this.#leave();
    this.#context.release(this.id);
  }

  /** Whatever the state held is let go; what follows is somebody else's business. */
  #leave(): void {
    const state = this.#state;
    this.#state = { phase: "over" };
    this.#takeovers.close();
    if (state.phase === "answered") {
      state.ackDeadline.cancel();
      state.inDialog.close();
    } else if (state.phase === "confirmed") {
      state.refer?.close();
      state.keys.close();
      state.reoffer.close();
      state.inDialog.close();
    }
  }

  #inDialog(): InDialog | undefined {
    return this.#state.phase === "confirmed" || this.#state.phase === "answered" ? this.#state.inDialog : undefined;
  }

  #post(event: CallEvent): boolean {
    return this.#context.post(this.call, event);
  }

  /** The caller's side must be able to call it, so a number is put at its own trunk (RFC 5589 §6). */
  #referTarget({ target }: TransferRequest, dialog: SipDialog): string {
    if (target.kind === "uri") {
      return target.uri;
    }
    const { directory } = this.#context;
    const [gateway] = directory.trunk(this.trunk)?.gateways ?? [];
    const peer = parseSipUri(dialog.remoteUri);
    return formatSipUri({
      scheme: "sip",
      user: directory.dialled(this.trunk, target.digits),
      host: gateway?.host ?? peer?.host ?? "invalid",
      port: gateway === undefined ? (peer?.port ?? null) : (gateway.port ?? null),
      params: new Map(),
    });
  }

  /** The trunk's password is for its gateways, so a challenge from anywhere else stays without an answer (RFC 3261 §22.3). */
  #credentialsFor({ sourceAddress }: Reply): TrunkCredentials | null {
    const { directory, credentials } = this.#context;
    const trunk = directory.trunk(this.trunk);
    const source = addressBits(sourceAddress)?.prefix;
    const fromGateway = trunk?.gateways.some(({ host }) => addressBits(host)?.prefix === (source ?? "none")) ?? false;
    return trunk !== undefined && fromGateway ? credentials(trunk) : null;
  }

  #ownAddress(): string {
    const { directory, link } = this.#context;
    const { botId, calledNumber } = this.#facts;
    const own = link.listening().find(({ protocol }) => protocol === this.#invite.protocol) ?? link.listening()[0];
    return formatSipUri({
      scheme: "sip",
      user: directory.botNumber(botId, this.trunk, calledNumber),
      host: own?.address ?? "invalid",
      port: own?.port ?? null,
      params: new Map(),
    });
  }
}
