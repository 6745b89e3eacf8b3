import type { InviteOrder } from "../call/effect.ts";
import type { CallId, ExchangeId, GatewayId, LegId, PlayId, Sdp, TrunkId } from "../call/ids.ts";
import type { Post, Signalling } from "../call/ports.ts";
import type { CallSetup } from "../call/setup.ts";
import type { CustomHeader, TransferRequest } from "../call/transfer.ts";
import type { Clock } from "../lib/clock.ts";
import { CountingClock } from "../lib/counting-clock.ts";
import type { Log } from "../telemetry/log.ts";
import { CallerLeg } from "./caller-leg.ts";
import { DigestGate } from "./digest-gate.ts";
import type { SipTrunk, TrunkDirectory } from "./directory.ts";
import type { TrunkCredentials } from "./hang-up.ts";
import { Door } from "./inbound.ts";
import type { CallFacts, Leg, LegContext } from "./leg.ts";
import { destinationRefusal } from "./destination.ts";
import type { IncomingInvite } from "./link/types.ts";
import { inviteLocally } from "./local-call.ts";
import { OperatorLeg } from "./outbound.ts";
import { PendingLeg, pin, uriToPin } from "./pinning.ts";
import type { HostResolver, PinOutcome } from "./pinning.ts";
import type { RegistrationState } from "./registration.ts";
import { MediaDialogs } from "./media-dialogs.ts";
import { type Claimable, Replacements } from "./replacements.ts";
import { EngineLink } from "./srf.ts";
import type { EnginePlace, ListenAddress } from "./srf.ts";
import { TrunkLoad } from "./trunk-load.ts";
import { TrunkWatch } from "./trunk-watch.ts";
import type { SipUri } from "./uri.ts";

export interface SipSideOptions {
  /** Control port and secret of the embedded engine or of drachtio-server. */
  readonly engine: EnginePlace;
  readonly directory: TrunkDirectory;
  /** Passwords by trunk and direction; undefined where the configuration names none. */
  readonly password: (trunk: TrunkId, direction: "inbound" | "outbound") => string | undefined;
  readonly post: Post;
  /** A call was let in; the call answers it through this object's methods. */
  readonly onCall: (setup: CallSetup) => void;
  /** An INVITE was not let in and got this status. */
  readonly onRefused?: (status: number) => void;
  /** False while a call of this bot could not be served: new ones are refused with 503. Default: always true. */
  readonly takesCalls?: (botId: string) => boolean;
  readonly mintCallId: () => CallId;
  readonly clock: Clock;
  readonly log: Log;
  /** T1 of the engine, from which the deadlines here follow. Default 500. */
  readonly t1Ms?: number;
  /** How long `start` waits for the engine. Default 10000. */
  readonly connectTimeoutMs?: number;
  /** Interval of the check that a remote engine still answers; 0 for an engine in this process. Default 0. */
  readonly pingMs?: number;
  /** Other applications may be connected to the engine too. Default: none are. */
  readonly sharesEngine?: boolean;
  /** How long a call may take to answer an offer inside a dialog. Default 10000. */
  readonly exchangeMs?: number;
  /** A gateway has failed and asked not to be called for this long. */
  readonly onRetryAfter?: (gateway: GatewayId, ms: number) => void;
  /** A gateway has answered an INVITE or an OPTIONS, or it has not. */
  readonly onGateway?: (gateway: GatewayId, answered: boolean) => void;
  /** A trunk's registration is in another state; `registrars()` may have changed. */
  readonly onRegistration?: (trunk: TrunkId, state: RegistrationState) => void;
  /** How long a second of a registration lasts; other than 1000 in tests only. */
  readonly registerSecondMs?: number;
  /** Looks up the hosts of SIP URIs, so that their addresses are judged. Default: they are not. */
  readonly resolve?: HostResolver;
  /** Counts the operators of each bot and says why there may be no more. Default: no limits. */
  readonly operators?: OperatorGate;
  /** Told of every dialog, by the engine's id, as long as it is open. */
  readonly dialogs?: { opened(id: string): void; ended(id: string): void } | undefined;
  /** The connection to the engine came or went; `ready()` says which. */
  readonly onState?: (ready: boolean) => void;
}

/** How many operators a bot may have called. */
export interface OperatorGate {
  /**
   * Counts one more operator, or says why there may be none, in words without a number. `again`: he is called by another
   * way than a moment ago.
   */
  enter(botId: string, again: boolean): string | null;
  /** One that was counted is over; milliseconds of talk. */
  leave(botId: string, talkedMs: number): void;
}

export interface SipSideStats {
  readonly legs: number;
  /** Those that go over a trunk, and count there. */
  readonly onTrunks: number;
  readonly calls: number;
  readonly timers: number;
  readonly dialogs: number;
  /** INVITEs of ours without a final response. */
  readonly invites: number;
  /** Other requests of ours without a final response. */
  readonly requests: number;
  /** Requests from the network without a final answer. */
  readonly unanswered: number;
}

/** SIP towards callers and operators, on drachtio-srf. */
export class SipSide implements Signalling {
  /** For media servers that are reached by SIP. */
  readonly mediaDialogs: MediaDialogs;
  readonly #options: SipSideOptions;
  readonly #clock: CountingClock;
  readonly #link: EngineLink;
  readonly #door: Door;
  readonly #gate: DigestGate;
  readonly #context: LegContext;
  readonly #watch: TrunkWatch;
  readonly #load: TrunkLoad;
  readonly #replacements: Replacements;
  readonly #legs = new Map<LegId, Leg>();
  /** With the number of the call's legs here: what is known of it goes with the last one. */
  readonly #calls = new Map<CallId, { readonly facts: CallFacts; legs: number }>();
  #draining = false;
  #closing: Promise<void> | undefined;
  #atRest: (() => void) | undefined;

  constructor(options: SipSideOptions) {
    const { directory, engine, password, post, log, mintCallId, t1Ms = 500 } = options;
    this.#options = options;
    this.#clock = new CountingClock(options.clock, (error) =>
      log.error({ err: error }, "a timer of the signalling side failed"),
    );
    const transactionMs = 64 * t1Ms;
    // drachtio-server and the engine end everything after 64*T1; the time added lets their word come first.
    const spareMs = Math.max(250, 6 * t1Ms);
    this.#link = new EngineLink({
      ...engine,
      connectTimeoutMs: options.connectTimeoutMs ?? 10_000,
      pingMs: options.pingMs ?? 0,
      replyTimeoutMs: transactionMs + spareMs,
      clock: this.#clock,
      log,
      onInvite: (invite) => {
        this.#invited(invite);
      },
      onRequest: (request, place) => {
        this.#door.answer(request, place);
      },
      onState: (ready) => {
        this.#watch.engine(ready);
        options.onState?.(ready);
      },
      dialogs: options.dialogs,
    });
    this.mediaDialogs = new MediaDialogs(this.#link, this.#clock, Math.min(4_000, transactionMs));
    this.#load = new TrunkLoad(directory.trunks(), () => this.#clock.now());
    const onGateway = (gateway: GatewayId, answered: boolean): void => options.onGateway?.(gateway, answered);
    this.#watch = new TrunkWatch({
      trunks: directory.trunks(),
      credentials: (trunk) => this.#credentials(trunk),
      send: (request) => this.#link.request(request),
      clock: this.#clock,
      log,
      secondMs: options.registerSecondMs ?? 1000,
      onGateway,
      onRegistration: (trunk, state) => options.onRegistration?.(trunk, state),
    });
    this.#gate = new DigestGate({ now: () => this.#clock.now() });
    this.#door = new Door({
      directory,
      gate: this.#gate,
      inboundPassword: ({ id }) => password(id, "inbound"),
      registeredAt: (address, user) => this.#watch.registeredAt(address, user),
      isFull: (trunk) => this.#load.isFull(trunk),
      withinPace: (trunk) => this.#load.withinPace("in", trunk),
      draining: () => this.#draining,
      takesCalls: (botId) => !this.#draining && (options.takesCalls?.(botId) ?? true),
      mintCallId,
      onRefused: (status) => options.onRefused?.(status),
      log,
    });
    this.#replacements = new Replacements({
      legs: this.#legs,
      factsOf: (call) => this.#calls.get(call)?.facts,
      directory,
      link: this.#link,
      log,
    });
    this.#context = {
      link: this.#link,
      directory,
      credentials: (trunk) => this.#credentials(trunk),
      // Where the call throws, the leg is told that nobody holds it and releases itself.
      post: (call, event) => {
        try {
          return post(call, event);
        } catch (error) {
          log.error({ err: error, call }, "an event could not be posted");
          return false;
        }
      },
      clock: this.#clock,
      log,
      onRetryAfter: (gateway, ms) => options.onRetryAfter?.(gateway, ms),
      onGateway,
      times: {
        transactionMs,
        cancelMs: transactionMs + spareMs,
        requestMs: transactionMs + spareMs,
        exchangeMs: options.exchangeMs ?? 10_000,
      },
      consulted: (dialog, asker) => this.#replacements.consulted(dialog, asker),
      offTrunk: (leg) => {
        this.#load.leave(leg);
      },
      release: (leg) => {
        this.#release(leg);
      },
    };
  }

  /** Connects to the engine. Rejects with a SipFault when it cannot be reached or refuses the secret. */
  async start(): Promise<void> {
    await this.#link.start();
  }

  /** Ends dialogs that an earlier process has left in the engine; `ended` is called for each that is over. */
  async endLeft(dialogIds: readonly string[], ended: (id: string) => void): Promise<void> {
    await this.#link.endLeft(dialogIds, 'SIP;cause=503;text="service restarted"', ended);
  }

  /** True while the engine is connected and new calls are taken. */
  ready(): boolean {
    return this.#link.ready() && !this.#draining;
  }

  /** True while the engine is connected. */
  connected(): boolean {
    return this.#link.ready();
  }

  get draining(): boolean {
    return this.#draining;
  }

  /** Legs on each trunk that has any; not those between two of our own calls. */
  legsByTrunk(): ReadonlyMap<TrunkId, number> {
    return this.#load.legs;
  }

  /** Where the engine listens, as peers see it. */
  listening(): readonly ListenAddress[] {
    return this.#link.listening();
  }

  /** Addresses that calls to our registrations come from. */
  registrars(): readonly string[] {
    return this.#watch.registrars();
  }

  /** Of every trunk that registers. */
  registrations(): ReadonlyMap<TrunkId, RegistrationState> {
    return this.#watch.states();
  }

  /** New calls are refused with 503 from now on, or go to another instance on the same engine; those that are here stay. */
  drain(): void {
    if (this.#draining) return;
    this.#draining = true;
    if (this.#options.sharesEngine === true) this.#link.turnAway();
  }

  /** Ends every leg, waits for that at most `timeoutMs`, and disconnects. May be called twice. */
  async close(timeoutMs = 2000): Promise<void> {
    this.#closing ??= this.#close(timeoutMs);
    await this.#closing;
  }

  stats(): SipSideStats {
    return {
      legs: this.#legs.size,
      onTrunks: this.#load.total,
      calls: this.#calls.size,
      timers: this.#clock.running,
      ...this.#link.stats(),
    };
  }

  ring(_call: CallId, leg: LegId): void {
    this.#with(leg, (found) => {
      found.ring();
    });
  }

  accept(_call: CallId, leg: LegId, answer: Sdp): void {
    this.#with(leg, (found) => {
      found.accept(answer);
    });
  }

  reject(_call: CallId, leg: LegId, status: number, reason: string): void {
    this.#with(leg, (found) => {
      found.reject(status, reason);
    });
  }

  invite(call: CallId, order: InviteOrder): void {
    const facts = this.#calls.get(call)?.facts;
    const trunk = this.#context.directory.trunk(order.trunk);
    if (facts === undefined) {
      this.#inviteFailed(call, order.leg, null, "the call has no caller any more");
      return;
    }
    if (this.#legs.has(order.leg)) {
      this.#options.log.error({ call, leg: order.leg }, "a leg was invited twice");
      return;
    }
    const { operators } = this.#options;
    const consulted = this.#replacements.consultedLeg(order, call);
    const refusal =
      (consulted === undefined ? destinationRefusal(order, facts.botId, this.#context) : null) ??
      (order.fallback === true ? null : (operators?.enter(facts.botId, order.again === true) ?? null));
    if (refusal !== null) {
      this.#options.log.warn({ call, botId: facts.botId, refusal }, "an operator is not called");
      this.#inviteFailed(call, order.leg, null, refusal, true);
      return;
    }
    if (consulted !== undefined) {
      // Nothing goes over the trunk.
      this.#start(order, facts, [], consulted);
      return;
    }
    const full = this.#trunkRefusal(trunk);
    if (full !== null) {
      this.#left(order, facts, 0);
      this.#inviteFailed(call, order.leg, 503, full);
      return;
    }
    const uri = this.#options.resolve === undefined ? undefined : uriToPin(order, this.#context);
    if (uri === undefined) {
      this.#start(order, facts, []);
      return;
    }
    const pending = new PendingLeg(order, facts, this.#context);
    this.#hold(pending, facts);
    void this.#pinned(pending, uri, facts);
  }

  /** Why nobody can be called through the trunk at this moment. */
  #trunkRefusal(trunk: SipTrunk | undefined): string | null {
    if (trunk === undefined) return null;
    if (this.#load.isFull(trunk)) return "the trunk is full";
    return this.#load.withinPace("out", trunk) ? null : "too many calls per second on the trunk";
  }

  async #pinned(pending: PendingLeg, uri: SipUri, facts: CallFacts): Promise<void> {
    const { resolve, log } = this.#options;
    const { order, call } = pending;
    let outcome: PinOutcome = { ok: false, refused: false, reason: "the host name cannot be resolved" };
    try {
      if (resolve !== undefined) outcome = await pin(uri, facts.botId, resolve, this.#context);
    } catch (error) {
      log.error({ err: error, call }, "a host name could not be judged");
    }
    if (pending.over) {
      return;
    }
    if (outcome.ok) {
      this.#start(order, facts, outcome.proxies);
      return;
    }
    if (outcome.refused) {
      log.warn({ call, botId: facts.botId, refusal: outcome.reason }, "an operator is not called");
    }
    this.#release(order.leg);
    this.#inviteFailed(call, order.leg, null, outcome.reason, outcome.refused);
  }

  /** Sends the INVITE; a leg that was pending gives its place to the one that is started. */
  #start(order: InviteOrder, facts: CallFacts, proxies: readonly string[], consulted?: Claimable): void {
    let failure = "the INVITE could not be built";
    try {
      const { log } = this.#options;
      const local: Parameters<typeof OperatorLeg.start>[4] = consulted && {
        invite: (options, events) =>
          inviteLocally(options, events, (invite) => consulted.claim(invite, options.sdp as Sdp), log),
      };
      const leg = OperatorLeg.start(order, facts, this.#context, proxies, local ?? null);
      if (typeof leg !== "string") {
        if (this.#legs.has(order.leg)) this.#legs.set(order.leg, leg);
        else this.#hold(leg, facts, consulted === undefined);
        this.#later(() => this.#context.post(facts.call, { type: "leg.invited", leg: order.leg }));
        return;
      }
      failure = leg;
    } catch (error) {
      this.#options.log.error({ err: error, call: facts.call }, "an INVITE could not be built");
    }
    if (this.#legs.has(order.leg)) this.#release(order.leg);
    else this.#left(order, facts, 0);
    this.#inviteFailed(facts.call, order.leg, null, failure);
  }

  cancel(_call: CallId, leg: LegId, reason: string, elsewhere = false): void {
    this.#with(leg, (found) => {
      found.cancel(reason, elsewhere);
    });
  }

  bye(_call: CallId, leg: LegId, reason: string, headers: readonly CustomHeader[]): void {
    this.#with(leg, (found) => {
      found.bye(reason, headers);
    });
  }

  refer(call: CallId, leg: LegId, request: TransferRequest): void {
    const found = this.#legs.get(leg);
    if (found === undefined) {
      const failure = { status: null, reason: "the caller is gone", q850: null, redirect: null };
      this.#later(() => this.#options.post(call, { type: "refer.done", leg, ...failure }));
      return;
    }
    const botId = this.#calls.get(call)?.facts.botId ?? "";
    const refusal = this.#referRefusal(request, found.trunk, botId);
    if (refusal !== null) {
      this.#options.log.warn({ call, botId, refusal }, "an operator is not called");
      const failure = { status: null, reason: refusal, q850: null, redirect: null, refused: true } as const;
      this.#later(() => this.#options.post(call, { type: "refer.done", leg, ...failure }));
      return;
    }
    this.#with(leg, () => {
      found.refer(request);
    });
  }

  /** Whom the caller's side is asked to call is judged like whom we call ourselves, by the rules of its own trunk. */
  #referRefusal({ target }: TransferRequest, trunk: TrunkId, botId: string): string | null {
    const [gateway] = this.#context.directory.trunk(trunk)?.gateways ?? [];
    const refusal =
      gateway === undefined ? null : destinationRefusal({ target, trunk, gateway: gateway.id }, botId, this.#context);
    if (refusal !== null) return refusal;
    const full = this.#options.operators?.enter(botId, false) ?? null;
    // Who follows a REFER talks without us: he counts for the calls of this second only.
    if (full === null) this.#options.operators?.leave(botId, 0);
    return full;
  }

  reinvite(_call: CallId, leg: LegId, offer: Sdp): void {
    this.#with(leg, (found) => {
      found.reinvite(offer);
    });
  }

  press(call: CallId, leg: LegId, play: PlayId, digits: string): void {
    const found = this.#legs.get(leg);
    if (found === undefined) {
      const failed = { type: "media.played", play, result: "failed", reason: "no_such_leg" } as const;
      this.#later(() => this.#options.post(call, failed));
      return;
    }
    this.#with(leg, () => {
      found.press(play, digits);
    });
  }

  answerRefer(_call: CallId, leg: LegId, status: 202 | 603): void {
    this.#with(leg, (found) => {
      found.answerRefer(status);
    });
  }

  notifyRefer(_call: CallId, leg: LegId, status: number, reason: string | null, last: boolean): void {
    this.#with(leg, (found) => {
      found.notifyRefer(status, reason, last);
    });
  }

  reanswer(_call: CallId, leg: LegId, exchange: ExchangeId, answer: Sdp): void {
    this.#with(leg, (found) => {
      found.reanswer(exchange, answer);
    });
  }

  refuse(_call: CallId, leg: LegId, exchange: ExchangeId, status: number): void {
    this.#with(leg, (found) => {
      found.refuse(exchange, status);
    });
  }

  #credentials({ id, outbound }: SipTrunk): TrunkCredentials | null {
    const secret = this.#options.password(id, "outbound");
    return outbound === null || secret === undefined ? null : { ...outbound, password: secret };
  }

  #invited(invite: IncomingInvite): void {
    const admitted = this.#door.admit(invite);
    if (admitted === undefined) {
      return;
    }
    if ("claims" in admitted) {
      this.#replacements.claimed(invite, admitted);
      return;
    }
    const { setup, facts } = admitted;
    const leg = new CallerLeg(setup.caller, facts, invite, this.#context);
    this.#hold(leg, facts);
    try {
      this.#options.onCall(setup);
    } catch (error) {
      this.#options.log.error({ err: error, call: setup.call }, "a call could not be begun");
      leg.reject(500, "Server Internal Error");
      return;
    }
    leg.begin();
  }

  /** A leg that is gone already is no mistake: its end and this order have crossed. */
  #with(leg: LegId, run: (found: Leg) => void): void {
    const found = this.#legs.get(leg);
    if (found === undefined) {
      return;
    }
    try {
      run(found);
    } catch (error) {
      this.#options.log.error({ err: error, leg }, "an order to a leg failed");
    }
  }

  #left({ fallback }: InviteOrder, { botId }: CallFacts, talkedMs: number): void {
    if (fallback !== true) this.#options.operators?.leave(botId, talkedMs);
  }

  #inviteFailed(call: CallId, leg: LegId, status: number | null, reason: string, refused = false): void {
    const failure = { status, reason, q850: null, redirect: null, ...(refused ? { refused: true as const } : {}) };
    this.#later(() => this.#options.post(call, { type: "leg.failed", leg, ...failure }));
  }

  /** Nothing is posted from within the call that ordered it, so that a call never meets itself. */
  #later(run: () => unknown): void {
    queueMicrotask(() => {
      try {
        run();
      } catch (error) {
        this.#options.log.error({ err: error }, "an event could not be posted");
      }
    });
  }

  #hold(leg: Leg, facts: CallFacts, onTrunk = true): void {
    this.#legs.set(leg.id, leg);
    const entry = this.#calls.get(leg.call);
    if (entry === undefined) {
      this.#calls.set(leg.call, { facts, legs: 1 });
    } else {
      entry.legs += 1;
    }
    if (onTrunk) this.#load.enter(leg.id, leg.trunk);
  }

  #release(id: LegId): void {
    const leg = this.#legs.get(id);
    if (leg === undefined) {
      return;
    }
    this.#legs.delete(id);
    const entry = this.#calls.get(leg.call);
    if (entry !== undefined) {
      if (leg instanceof OperatorLeg || leg instanceof PendingLeg) this.#left(leg.order, entry.facts, leg.talkedMs());
      entry.legs -= 1;
      if (entry.legs === 0) {
        this.#calls.delete(leg.call);
      }
    }
    this.#load.leave(id);
    if (this.#legs.size === 0) {
      this.#atRest?.();
    }
  }

  async #within(timeoutMs: number, work: Promise<void>): Promise<void> {
    await new Promise<void>((resolve) => {
      const deadline = this.#clock.after(timeoutMs, resolve);
      void work.finally(() => {
        deadline.cancel();
        resolve();
      });
    });
  }

  async #close(timeoutMs: number): Promise<void> {
    this.#draining = true;
    const signedOff = this.#link.ready() ? this.#watch.end() : undefined;
    for (const leg of this.#legs.values()) {
      this.#with(leg.id, () => {
        leg.end();
      });
    }
    if (this.#legs.size > 0 && this.#link.ready()) {
      await new Promise<void>((resolve) => {
        const deadline = this.#clock.after(timeoutMs, () => {
          this.#options.log.warn({ legs: this.#legs.size }, "legs did not end in time");
          resolve();
        });
        this.#atRest = () => {
          deadline.cancel();
          resolve();
        };
      });
    }
    if (signedOff !== undefined) {
      await this.#within(timeoutMs, signedOff);
    }
    this.#link.close();
    this.#legs.clear();
    this.#calls.clear();
    this.#load.clear();
    this.#clock.clear();
  }
}
