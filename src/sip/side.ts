import type { InviteOrder } from "../call/effect.ts";
import type { CallEvent } from "../call/event.ts";
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
import type { Leg, LegContext } from "./leg.ts";
import type { IncomingInvite } from "./link/types.ts";
import { OperatorCalls, type OperatorGate } from "./operator-calls.ts";
import { OperatorLeg } from "./outbound.ts";
import { type HostResolver, PendingLeg } from "./pinning.ts";
import type { RegistrationState } from "./registration.ts";
import { LegTable } from "./leg-table.ts";
import { MediaDialogs } from "./media-dialogs.ts";
import { Replacements } from "./replacements.ts";
import { EngineLink } from "./srf.ts";
import type { EnginePlace, ListenAddress } from "./srf.ts";
import { TrunkLoad } from "./trunk-load.ts";
import { TrunkWatch } from "./trunk-watch.ts";

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
  readonly #operators: OperatorCalls;
  readonly #legs = new LegTable();
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
    this.#operators = new OperatorCalls({
      context: this.#context,
      legs: this.#legs,
      load: this.#load,
      replacements: this.#replacements,
      resolve: options.resolve,
      gate: options.operators,
      postSoon: (call, event) => {
        this.#postSoon(call, event);
      },
    });
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
      calls: this.#legs.calls,
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
    this.#operators.invite(call, order);
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
      this.#postSoon(call, { type: "refer.done", leg, ...failure });
      return;
    }
    const botId = this.#legs.factsOf(call)?.botId ?? "";
    const refusal = this.#operators.referRefusal(request, found.trunk, botId);
    if (refusal !== null) {
      this.#options.log.warn({ call, botId, refusal }, "an operator is not called");
      const failure = { status: null, reason: refusal, q850: null, redirect: null, refused: true } as const;
      this.#postSoon(call, { type: "refer.done", leg, ...failure });
      return;
    }
    this.#with(leg, () => {
      found.refer(request);
    });
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
      this.#postSoon(call, failed);
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
    this.#legs.add(leg, facts);
    this.#load.enter(leg.id, leg.trunk);
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

  /** Nothing is posted from within the call that ordered it, so that a call never meets itself. */
  #postSoon(call: CallId, event: CallEvent): void {
    queueMicrotask(() => void this.#context.post(call, event));
  }

  #release(id: LegId): void {
    const leg = this.#legs.get(id);
    if (leg === undefined) {
      return;
    }
    const facts = this.#legs.factsOf(leg.call);
    if (facts !== undefined && (leg instanceof OperatorLeg || leg instanceof PendingLeg)) {
      this.#operators.left(leg.order, facts, leg.talkedMs());
    }
    this.#legs.remove(leg);
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
    for (const leg of this.#legs.all()) {
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
    this.#load.clear();
    this.#clock.clear();
  }
}
