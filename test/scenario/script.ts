import { begin, decide } from "../../src/call/decide.ts";
import type { BotEvent, TransferDetails, TransferStatus } from "../../src/call/bot-event.ts";
import type { Effect } from "../../src/call/effect.ts";
import type { CallEvent, TimerName } from "../../src/call/event.ts";
import type { CallId, CommandId, GatewayId, LegId, Sdp, TransferId, TrunkId } from "../../src/call/ids.ts";
import type { Reply } from "../../src/call/reply.ts";
import type { CallSetup, ChannelPolicy } from "../../src/call/setup.ts";
import type { CallState } from "../../src/call/state.ts";
import type { Route, TransferRequest } from "../../src/call/transfer.ts";

export const callId = "c1" as CallId;
export const caller = "c1/caller" as LegId;
export const sdp = "v=0" as Sdp;
export const operator = (n: number): LegId => `c1/operator-${n}` as LegId;

export function setup(policy: Partial<ChannelPolicy> = {}): CallSetup {
  return {
    call: callId,
    caller,
    offer: sdp,
    botId: "bot",
    trunk: "trunk-a" as TrunkId,
    callerNumber: "79991112233",
    calledNumber: "74951234567",
    sipCallId: "abc",
    headers: {},
    policy: { answer: "immediately", recording: { enabled: true, resumeOnReturn: false }, ...policy },
  };
}

export function route(over: Partial<Route> = {}): Route {
  return {
    trunk: "trunk-a" as TrunkId,
    gateways: ["g1" as GatewayId],
    sipUriVia: "direct",
    identity: "caller",
    retryWithBotNumber: true,
    progressTimeoutMs: 10_000,
    ...over,
  };
}

export const gateways = (...ids: [string, ...string[]]): Route["gateways"] => ids as unknown as Route["gateways"];

export function transferTo(number: string, over: Partial<TransferRequest> = {}): TransferRequest {
  return {
    transferId: "t1" as TransferId,
    commandId: "cmd" as CommandId,
    method: "invite",
    target: { kind: "phone", digits: number },
    number,
    route: route(),
    headers: [],
    answerTimeoutMs: 30_000,
    continueCall: true,
    continueRecording: true,
    referFallback: true,
    others: [],
    strategy: "serial",
    confirm: null,
    maxTalkMs: null,
    duringRing: [],
    ...over,
  };
}

/** Tells the story of one call step by step; every method is one thing that happens. */
export class CallScript {
  state: CallState;
  readonly effects: Effect[] = [];
  readonly phases: string[] = [];
  /** What the last event asked for. */
  last: readonly Effect[] = [];
  atMs = 1000;
  #commands = 0;

  constructor(policy: Partial<ChannelPolicy> = {}) {
    const [state, effects] = begin(setup(policy));
    this.state = state;
    this.phases.push(state.phase);
    this.effects.push(...effects);
  }

  happens(event: CallEvent): this {
    const [state, effects] = decide(this.state, event, this.atMs);
    this.state = state;
    this.last = effects;
    this.effects.push(...effects);
    if (this.phases.at(-1) !== state.phase) this.phases.push(state.phase);
    return this;
  }

  /** Time goes by. */
  after(ms: number): this {
    this.atMs += ms;
    return this;
  }

  callerIsWithBot(): this {
    return this.happens({ type: "media.opened", answer: sdp }).happens({ type: "leg.confirmed", leg: caller });
  }

  bot(...replies: Reply[]): this {
    this.#commands += 1;
    const commandId = `cmd-${this.#commands}` as CommandId;
    return this.happens({ type: "bot.command", command: { commandId, worker: null, replies } });
  }

  botSwitches(request: TransferRequest = transferTo("100")): this {
    return this.bot({ type: "switch", request });
  }

  /** There is an offer for the operator, and his INVITE goes out where the call wants it. */
  invited(n = 1): this {
    const asked = this.happens({ type: "media.offered", leg: operator(n), offer: sdp }).last;
    if (!asked.some(({ type }) => type === "leg.invite")) return this;
    this.happens({ type: "leg.invited", leg: operator(n) });
    this.last = [...asked, ...this.last];
    return this;
  }

  rings(n = 1, status = 180): this {
    return this.happens({ type: "leg.progress", leg: operator(n), status, early: status === 183 ? sdp : null });
  }

  answers(n = 1): this {
    return this.happens({ type: "leg.answered", leg: operator(n), answer: sdp });
  }

  joined(n = 1): this {
    return this.happens({ type: "media.joined", leg: operator(n) });
  }

  refuses(status: number, n = 1, q850: number | null = null, redirect: string | null = null): this {
    return this.happens({ type: "leg.failed", leg: operator(n), status, reason: null, q850, redirect });
  }

  hangsUp(leg: LegId): this {
    return this.happens({ type: "leg.ended", leg, status: null, reason: null, q850: null });
  }

  timeIsUp(timer: TimerName | "progress" | "confirm", n = 1): this {
    if (timer === "progress" || timer === "confirm") return this.timeIsUp(`${timer} ${operator(n)}`);
    return this.happens({ type: "timer.fired", timer });
  }

  mediaCloses(): this {
    return this.happens({ type: "media.closed" });
  }

  get told(): BotEvent[] {
    return this.effects.flatMap((effect) => (effect.type === "bot.publish" ? [effect.event] : []));
  }

  toldOf<E extends BotEvent["event"]>(name: E): Extract<BotEvent, { event: E }>[] {
    return this.told.filter((event): event is Extract<BotEvent, { event: E }> => event.event === name);
  }

  get transfers(): { status: TransferStatus; details: TransferDetails }[] {
    return this.toldOf("transfer").map((event) => ({
      status: event.transferStatus,
      details: event.transferDetails,
    }));
  }

  asked(type: Effect["type"]): Effect[] {
    return this.effects.filter((effect) => effect.type === type);
  }

  get arrows(): string {
    return this.phases.join(" → ");
  }
}
