import type { Prompt, TalkPhase } from "../../call/effect.ts";
import type { CallEvent } from "../../call/event.ts";
import type { ExchangeId, LegId, PlayId, Sdp } from "../../call/ids.ts";
import type { KeyPolicy } from "../../call/setup.ts";
import { MediaError, messageOf } from "../media-error.ts";
import { RecordingControl } from "../recording/call-recording.ts";
import { Backdrop } from "./backdrop.ts";
import type { CallerLeg, MediaServer, OperatorLeg } from "./call-legs.ts";
import type { SwitchedCallOptions } from "./call-options.ts";
import { CallQueue } from "./call-queue.ts";
import { BridgeWatch } from "./bridge-watch.ts";
import { CallerWatch } from "./caller-watch.ts";
import { callerTag, Hush } from "./hush.ts";
import { MediaCommands } from "./media-commands.ts";
import { Player } from "./player.ts";
import {
  type AudioDescription,
  type AudioFormats,
  type ChosenFormats,
  chooseFormats,
  describeAnswer,
  describeEnd,
  described,
  holds,
  isNowhere,
  type LocalEnd,
  mirrored,
  readAudio,
} from "./sdp.ts";

/** A call that has been lost so often may be what its media servers cannot stand. */
const mostMoves = 3;

/**
 * What is the same for a call in every media server: the methods of the port without the call's name, who is behind the
 * caller, what he hears while he waits, and the watches. Each method returns at once; steps run one after another in the
 * order of the calls of the methods.
 */
export abstract class SwitchedCall<
  S extends MediaServer = MediaServer,
  C extends CallerLeg = CallerLeg,
  O extends OperatorLeg = OperatorLeg,
> extends MediaCommands<S, O> {
  readonly #options: SwitchedCallOptions;
  readonly #operatorPlayers = new Map<LegId, Player>();
  protected readonly queue: CallQueue;
  protected readonly operators = new Map<LegId, O>();
  protected readonly callerPlayer: Player;
  protected readonly callerWatch: CallerWatch;
  protected readonly backdrop: Backdrop;
  protected readonly bridgeWatch: BridgeWatch;
  protected readonly hush: Hush;
  protected readonly recordings: RecordingControl;
  protected callerLeg: C | undefined;
  /** Whom the caller talks to. */
  protected current: O | null = null;
  /** The media server that holds the call, or is asked to. */
  protected heldBy: S | undefined;
  /** It does not hold the call any more. */
  protected lost = false;
  /** Where the call was before it moved: who comes back with its calls may hold it still. */
  protected readonly former = new Set<S>();
  /** Why it is to move, until it has, or is given up. */
  #lostFor: string | null = null;
  #moves = 0;
  /** Operators whose dialog stands. */
  readonly #answered = new Set<LegId>();
  /** Legs whose end has moved and who do not know it, and those who were told and have not said that they do. */
  readonly #untold = new Set<LegId>();
  readonly #told = new Set<LegId>();
  /** How often the call had moved when somebody was last told this leg's end, to take its peer's place. */
  readonly #proposed = new Map<LegId, number>();
  #operatorCount = 0;
  #watch: { cancel(): void } | undefined;

  constructor(options: SwitchedCallOptions, captureFolder: "pcaps" | "segments") {
    super();
    this.#options = options;
    const { call, order, recorder, clock, log, sounds, usualSounds, prepare, talkTimeoutMs } = options;
    this.queue = new CallQueue(call, options.mostQueued, log, () => this.#move());
    const enqueue = (step: () => Promise<void>): boolean => this.queue.push(step);
    this.callerPlayer = this.#newPlayer(callerTag);
    this.backdrop = new Backdrop({
      sounds,
      usual: usualSounds,
      clock,
      log,
      prepare,
      enqueue,
      packetsOf: (tag) => this.packetsOf(tag),
      prompting: () => this.callerPlayer.busy,
      show: (sound) => this.callerPlayer.background(sound),
      letThrough: (tag) => this.letThrough(tag),
      shutOut: (tag) => this.shutOut(tag),
    });
    this.bridgeWatch = new BridgeWatch({
      clock,
      log,
      talkTimeoutMs,
      enqueue,
      received: () => this.receivedOnBridge(),
      callerSends: () => this.callerLeg?.remote.direction === "sendrecv",
      relatch: () => this.relatch(),
      unheard: () => this.#askAgain((leg, offer) => this.post({ type: "media.unheard", leg, offer })),
      silent: (asked) =>
        this.#askAgain((leg, offer) => this.post({ type: "media.silent", leg, offer: asked ? null : offer })),
    });
    this.callerWatch = new CallerWatch(clock, options.callerTimeoutMs, (reason) => {
      log.warn({ call }, reason);
      this.post({ type: "media.lost", reason });
    });
    this.hush = new Hush({
      clock,
      operator: () => this.bridgedTag(),
      shutOut: (tag) => this.isShutOut(tag),
      mute: (tag, on) => this.mute(tag, on),
    });
    // The media server is chosen when the call opens, and recordings only begin after that.
    const spoolFolder = (): string => this.spoolFolder;
    this.recordings = new RecordingControl({
      call,
      name: () => this.nameInServer,
      captureFolder,
      order,
      recorder,
      get spoolFolder() {
        return spoolFolder();
      },
      clock,
      log,
      startCapture: () => this.startCapture(),
      stopCapture: () => this.stopCapture(),
      again: (run) => this.queue.again(run),
      enqueue: (step) => this.queue.pushAlways(step),
      post: (event) => void options.post(event),
    });
  }

  protected get spoolFolder(): string {
    return this.#options.spoolFolder;
  }

  // The methods of the port.

  /** Commands that wait or run. */
  get queued(): number {
    return this.queue.length;
  }

  get server(): S | undefined {
    return this.heldBy;
  }

  open(offer: Sdp): void {
    this.queue.run(
      () => this.#open(offer),
      () => this.#openFailed(false, "overloaded"),
    );
  }

  play(play: PlayId, leg: LegId, prompt: Prompt): void {
    const player = this.playerOf(leg);
    if (player !== undefined) player.play(play, prompt);
    else this.post({ type: "media.played", play, result: "failed", reason: "no_such_leg" });
  }

  stop(leg: LegId): void {
    this.playerOf(leg)?.stop();
  }

  ringback(on: boolean): void {
    this.backdrop.set(on ? "ringing" : null);
  }

  offer(leg: LegId, keys: KeyPolicy): void {
    this.#withLeg(leg, () => this.#offer(leg, keys));
  }

  early(leg: LegId, answer: Sdp): void {
    this.queue.run(
      () => this.#early(leg, answer),
      () => {},
    );
  }

  renew(leg: LegId, answer: Sdp, taken: boolean): void {
    if (leg !== this.#options.caller) {
      this.#withLeg(leg, () => this.#renew(leg, answer, taken));
      return;
    }
    const update = async (): Promise<void> => {
      await this.#updateCaller(answer);
      const { formats, remote } = this.caller();
      if (taken && this.#missedMove(leg)) this.#tell(leg, this.endOfCaller(), formats, remote);
    };
    // What was agreed with the phone before holds for that phone only, and for where the call was then.
    if (taken || this.awaitsCaller) this.#withLeg(leg, update);
    else this.queue.run(update, () => {});
  }

  consult(leg: LegId, answer: Sdp): void {
    this.#withLeg(leg, () => this.#consult(leg, answer));
  }

  join(leg: LegId, answer: Sdp): void {
    // At once: a prompt that is ordered while this waits for its turn is for what comes after.
    this.callerPlayer.stop();
    this.#withLeg(leg, () => this.#join(leg, answer));
  }

  aside(leg: LegId, on: boolean): void {
    if (!on) this.callerPlayer.stop();
    this.#withLeg(leg, () => (on ? this.#setAside(this.operatorOf(leg)) : this.#talk(this.operatorOf(leg), null)));
  }

  drop(leg: LegId): void {
    // A leg that stays behind costs ports: a drop is never refused.
    this.queue.pushAlways(() => this.#drop(leg));
  }

  update(leg: LegId, exchange: ExchangeId, offer: Sdp | null): void {
    this.#exchange(leg, exchange, () =>
      leg === this.#options.caller ? this.#updateCaller(offer) : this.#updateOperator(leg, offer),
    );
  }

  /** What this leg's end answers to somebody who is not its peer yet: `renew` with his offer makes him that. */
  propose(leg: LegId, exchange: ExchangeId, offer: Sdp): void {
    this.#exchange(leg, exchange, async () => this.#proposal(leg, offer));
  }

  recording(to: "start" | "pause" | "resume" | "stop"): void {
    this.queue.run(
      () => this.recordings[to](),
      () => this.#options.log.warn({ call: this.#options.call, to }, "too many commands wait: recording unchanged"),
    );
  }

  phase(phase: TalkPhase): void {
    this.recordings.setPhase(phase);
  }

  close(): void {
    if (this.queue.closed) return;
    this.#watch?.cancel();
    this.bridgeWatch.stop();
    this.backdrop.close();
    this.callerPlayer.close();
    for (const player of this.#operatorPlayers.values()) player.close();
    this.queue.close(() => this.#close());
  }

  /** The media server does not have the call any more. Another one is looked for before the next step. */
  lose(reason: string): void {
    if (this.lost || this.queue.closed) return;
    this.lost = true;
    this.#watch?.cancel();
    if (!this.movable) {
      this.#giveUp(reason);
      return;
    }
    this.#lostFor = reason;
    this.queue.pushAlways(async () => {});
  }

  // The move.

  #giveUp(reason: string): void {
    this.#options.log.error({ call: this.#options.call, reason }, "the media of a call is lost");
    this.post({ type: "media.lost", reason });
  }

  #move(): Promise<boolean> | null {
    return this.#lostFor === null ? null : this.#moveAway(this.#lostFor);
  }

  async #moveAway(reason: string): Promise<boolean> {
    const { call, log } = this.#options;
    this.#moves += 1;
    this.#lostFor = null;
    const failed = new Set<S>();
    while (this.#moves <= mostMoves && !this.queue.closed) {
      const server = this.choose(failed);
      if (server === undefined) break;
      const { host, port } = server;
      this.#enter(server);
      try {
        await this.rebuild();
        log.warn({ call, reason, host, port }, "a call has moved to another media server");
        this.#startWatch();
        this.#tellAll();
        return true;
      } catch (error) {
        failed.add(server);
        log.warn({ call, host, error: messageOf(error) }, "a call could not be moved");
        await this.abandonCaller();
        this.lost = true;
        this.#lostFor = null;
      }
    }
    this.#giveUp(reason);
    return false;
  }

  #enter(server: S): void {
    if (this.heldBy !== undefined) {
      this.heldBy.calls -= 1;
      this.former.add(this.heldBy);
    }
    this.former.delete(server);
    this.heldBy = server;
    server.calls += 1;
    this.lost = false;
    for (const leg of [this.#options.caller, ...this.operators.keys()]) this.#untold.add(leg);
  }

  /** Whoever has a dialog is told; an operator who still rings when he has answered. */
  #tellAll(): void {
    const leg = this.#options.caller;
    const { formats, remote } = this.caller();
    this.#tell(leg, this.endOfCaller(), formats, remote);
    for (const operator of this.operators.values()) this.#tellOperator(operator);
  }

  #tellOperator({ leg, end, formats, remote }: O): void {
    if (this.#answered.has(leg)) this.#tell(leg, end, formats, remote);
  }

  #tell(leg: LegId, end: LocalEnd, formats: AudioFormats, remote: AudioDescription | null): void {
    if (!this.#untold.delete(leg)) return;
    this.#told.add(leg);
    end.version += 1;
    this.post({ type: "media.moved", leg, offer: describeEnd(end, formats, "sendrecv", remote) });
  }

  /** What the caller is to hear begins when he knows where the call has moved to. */
  protected get awaitsCaller(): boolean {
    return this.#told.has(this.#options.caller);
  }

  // The queue.

  /** A step for a leg: when it fails or has no place, the leg has failed. */
  #withLeg(leg: LegId, run: () => Promise<void>): void {
    const failed = (reason: string): void => this.post({ type: "media.legFailed", leg, reason });
    this.queue.run(
      run,
      () => failed("overloaded"),
      (error) => failed(messageOf(error)),
    );
  }

  /** A step that gives the description for an offer/answer exchange with a phone. */
  #exchange(leg: LegId, exchange: ExchangeId, run: () => Promise<Sdp>): void {
    const failed = (): void => this.post({ type: "media.updateFailed", leg, exchange });
    this.queue.run(
      async () => {
        const answer = await run();
        this.post({ type: "media.updated", leg, exchange, answer });
      },
      failed,
      failed,
    );
  }

  protected post(event: CallEvent): void {
    if (!this.queue.closed) this.#options.post(event);
  }

  // The legs.

  protected caller(): C {
    if (this.callerLeg === undefined) throw new MediaError("not_open", "the call is not anchored");
    return this.callerLeg;
  }

  protected endOfCaller(): LocalEnd {
    const { end } = this.caller();
    if (end === null) throw new MediaError("not_open", "the call is not anchored");
    return end;
  }

  protected operatorOf(leg: LegId): O {
    const operator = this.operators.get(leg);
    if (operator === undefined) throw new MediaError("no_such_leg", "the leg has not been offered");
    return operator;
  }

  protected operatorByTag(tag: string): O | undefined {
    return [...this.operators.values()].find((operator) => operator.tag === tag);
  }

  protected playerOf(leg: LegId): Player | undefined {
    return leg === this.#options.caller ? this.callerPlayer : this.#operatorPlayers.get(leg);
  }

  #newPlayer(tag: string): Player {
    const { clock, prepare } = this.#options;
    return new Player({
      clock,
      prepare,
      enqueue: (step) => this.queue.push(step),
      start: (ready, times, kind) => this.queue.again(() => this.startSound(tag, ready, times, kind)),
      stop: () => this.stopSound(tag),
      onSound: (ready, times) => {
        this.soundChanged(tag, ready, times);
        if (ready === null) this.endTones(tag);
      },
      onPlayed: (play, result, reason) => this.post({ type: "media.played", play, result, reason }),
      onIdle: () => this.soundIdle(tag),
    });
  }

  /** Settled in its turn, and whatever waits: a side that stays hushed is worse than anything. */
  protected endTones(tag: string): void {
    if (this.hush.end(tag)) this.queue.pushAlways(() => this.hush.settle());
  }

  // The steps.

  async #open(offer: Sdp): Promise<void> {
    const { call, log } = this.#options;
    const outcome = readAudio(offer);
    const formats = outcome.ok ? chooseFormats(outcome.audio, null) : undefined;
    if (!outcome.ok || formats === undefined) {
      this.#openFailed(true, outcome.ok ? "no_common_codec" : outcome.fault);
      return;
    }
    const failed = new Set<S>();
    let reason = `no ${this.serverName} answers`;
    for (;;) {
      const server = this.choose(failed);
      if (server === undefined || this.queue.closed) break;
      server.calls += 1;
      try {
        await this.anchorCaller(server, outcome.audio, formats);
        this.#opened(outcome.audio, formats);
        return;
      } catch (error) {
        reason = messageOf(error);
        log.warn({ call, host: server.host, error: reason }, "a call did not open");
        await this.abandonCaller();
        server.calls -= 1;
        this.heldBy = undefined;
        this.callerLeg = undefined;
        failed.add(server);
      }
    }
    this.#openFailed(false, reason);
  }

  #opened(remote: AudioDescription, formats: ChosenFormats): void {
    const end = this.endOfCaller();
    this.#startWatch();
    this.backdrop.prepare();
    const answer = describeEnd(end, formats, mirrored(remote.direction), remote);
    if (!this.queue.closed && !this.#options.post({ type: "media.opened", answer })) this.close();
  }

  /** Nothing is left of the call here: a later `close` is answered without it. */
  #openFailed(incompatible: boolean, reason: string): void {
    if (this.queue.closed) return;
    this.queue.close();
    this.backdrop.close();
    this.callerPlayer.close();
    // First forgotten, then told: the call closes its anchor while it hears of the failure, and must be answered.
    this.#options.onClosed();
    this.#options.post({ type: "media.openFailed", incompatible, reason });
  }

  async #offer(leg: LegId, keys: KeyPolicy): Promise<void> {
    if (this.operators.has(leg)) throw new MediaError("offered_twice", "the leg has been offered already");
    if (this.operators.size >= this.#options.mostLegs) throw new MediaError("overloaded", "too many legs");
    this.#operatorCount += 1;
    const operator = await this.newOperator(leg, `op${this.#operatorCount}`, keys);
    this.operators.set(leg, operator);
    this.#operatorPlayers.set(leg, this.#newPlayer(operator.tag));
    await this.readyOperator(operator);
    this.post({ type: "media.offered", leg, offer: describeEnd(operator.end, operator.formats, "sendrecv", null) });
  }

  /** Null: what he has described before is his answer. */
  #answerOf(operator: O, answer: Sdp): AudioDescription | null {
    // RFC 3261 §13.2.1 wants the answer in the 200 again; some leave it out when it stood in a 183.
    return answer === "" && operator.remote !== null ? null : described(answer, "the operator's answer");
  }

  async #early(leg: LegId, answer: Sdp): Promise<void> {
    const operator = this.operators.get(leg);
    if (operator === undefined || operator === this.current || operator.early === answer) return;
    operator.early = answer;
    const remote = this.#answerOf(operator, answer);
    if (remote !== null) await this.describeOperator(operator, remote);
    // RFC 3264 §5.1: nothing comes from a side that says so, and from a held one nothing is wanted.
    if (operator.remote?.direction !== "sendrecv" && operator.remote?.direction !== "sendonly") return;
    // An INVITE goes on whatever comes of it.
    await this.readyEarly(operator);
    this.backdrop.admit(operator.tag, false);
  }

  async #consult(leg: LegId, answer: Sdp): Promise<void> {
    const operator = this.operatorOf(leg);
    const remote = this.#answerOf(operator, answer);
    await this.backdrop.withdraw(operator.tag);
    if (remote !== null) await this.describeOperator(operator, remote);
    this.#answered.add(leg);
    await this.parkOperator(operator);
    this.#tellOperator(operator);
  }

  async #join(leg: LegId, answer: Sdp): Promise<void> {
    const operator = this.operatorOf(leg);
    this.#answered.add(leg);
    await this.#talk(operator, this.#answerOf(operator, answer));
    this.post({ type: "media.joined", leg });
    this.#tellOperator(operator);
  }

  async #talk(operator: O, remote: AudioDescription | null): Promise<void> {
    await this.backdrop.clear(operator.tag);
    await this.callerPlayer.settle();
    if (remote !== null) await this.describeOperator(operator, remote);
    this.current = operator;
    this.bridgeWatch.reset();
    await this.connect(operator);
  }

  /** Caller and operator hear each other; or the caller is parked, with music, because the operator holds him. */
  protected async connect(operator: O): Promise<void> {
    const { remote } = operator;
    if (holds(remote)) {
      const flows = remote?.direction === "sendonly" && !isNowhere(remote);
      this.bridgeWatch.stop();
      await this.bridgeHeld(operator, flows);
      if (flows) this.backdrop.admit(operator.tag, true);
      else await this.backdrop.withdraw(operator.tag);
      this.backdrop.set("held");
      return;
    }
    await this.backdrop.clear(operator.tag);
    await this.bridge(operator);
    if (remote?.direction === "sendrecv") await this.bridgeWatch.start();
  }

  /** With a description of our end, for a re-INVITE to the operator. */
  #askAgain(post: (leg: LegId, offer: Sdp) => void): void {
    const operator = this.current;
    if (operator === null) return;
    operator.end.version += 1;
    post(operator.leg, describeEnd(operator.end, operator.formats, "sendrecv", null));
  }

  async #setAside(operator: O): Promise<void> {
    if (this.current !== operator) return;
    await this.leaveBridge(operator);
    await this.part(operator);
  }

  /** What the caller hears while he waits was set when this was ordered, and stays. */
  protected async leaveBridge(operator: O): Promise<void> {
    try {
      await this.backdrop.withdraw(operator.tag);
    } finally {
      this.bridgeWatch.reset();
      this.current = null;
    }
  }

  async #drop(leg: LegId): Promise<void> {
    const operator = this.operators.get(leg);
    if (operator === undefined) return;
    this.#operatorPlayers.get(leg)?.close();
    this.#operatorPlayers.delete(leg);
    await this.removeOperator(operator, this.current === operator);
  }

  /** The operator is held no more. */
  protected forgetOperator({ leg }: O): void {
    this.operators.delete(leg);
    this.#operatorPlayers.delete(leg);
    for (const legs of [this.#answered, this.#untold, this.#told, this.#proposed]) legs.delete(leg);
  }

  async #updateCaller(offer: Sdp | null): Promise<Sdp> {
    const caller = this.caller();
    const end = this.endOfCaller();
    end.version += 1;
    if (offer === null) return describeEnd(end, caller.formats, "sendrecv", caller.remote);
    const remote = described(offer, "the caller's offer");
    const formats = this.#formatsForCaller(remote);
    await this.describeCaller(remote, formats);
    const followed = this.#told.delete(this.#options.caller);
    if (remote.direction === "sendrecv") await this.callerPlayer.restart(followed);
    return describeEnd(end, formats, mirrored(remote.direction), remote);
  }

  #formatsForCaller(remote: AudioDescription): ChosenFormats {
    const formats = chooseFormats(remote, this.caller().formats.codecs[0].law);
    if (formats === undefined) throw new MediaError("no_common_codec", "the caller offers no codec of ours");
    return formats;
  }

  async #updateOperator(leg: LegId, offer: Sdp | null): Promise<Sdp> {
    const operator = this.operators.get(leg);
    if (operator === undefined || operator.remote === null) throw new MediaError("no_such_leg", "no such operator");
    const { end, formats } = operator;
    end.version += 1;
    if (offer === null) return describeEnd(end, formats, "sendrecv", operator.remote);
    const remote = described(offer, "the operator's offer");
    await this.#followed(operator, remote);
    return describeAnswer(end, formats, remote);
  }

  #proposal(leg: LegId, offer: Sdp): Sdp {
    const remote = described(offer, "the offer");
    this.#proposed.set(leg, this.#moves);
    if (leg !== this.#options.caller) {
      const { end, formats } = this.operatorOf(leg);
      end.version += 1;
      return describeAnswer(end, formats, remote);
    }
    const end = this.endOfCaller();
    const formats = this.#formatsForCaller(remote);
    end.version += 1;
    return describeEnd(end, formats, mirrored(remote.direction), remote);
  }

  /** The operator's answer to our re-INVITE, or to the offer he asked us for. */
  async #renew(leg: LegId, answer: Sdp, taken: boolean): Promise<void> {
    const operator = this.operators.get(leg);
    if (operator === undefined) return;
    // Whoever has taken his place has not been heard yet.
    if (taken && this.current === operator) this.bridgeWatch.reset();
    await this.#followed(operator, described(answer, "the operator's answer"));
    if (taken && this.#missedMove(leg)) this.#tellOperator(operator);
  }

  /** Whoever has taken the place was told an end that has moved before he had it: what his predecessor was told is nothing to him. */
  #missedMove(leg: LegId): boolean {
    const missed = (this.#proposed.get(leg) ?? this.#moves) < this.#moves;
    if (missed) this.#untold.add(leg);
    return missed;
  }

  async #followed(operator: O, remote: AudioDescription): Promise<void> {
    await this.follow(operator, remote);
    if (this.#told.delete(operator.leg)) await this.playerOf(operator.leg)?.restart(true);
  }

  #startWatch(): void {
    this.#watch?.cancel();
    if (this.queue.closed) return;
    const { clock, watchMs } = this.#options;
    this.#watch = clock.after(watchMs, () => {
      this.queue.run(
        async () => {
          await this.lookAtCaller().finally(() => {
            if (!this.lost) this.#startWatch();
          });
          // When a command that should have ended it was lost.
          await this.hush.settle();
        },
        () => this.#startWatch(),
      );
    });
  }

  async #close(): Promise<void> {
    const reachable = !this.lost && this.heldBy !== undefined;
    await this.recordings.stop(reachable);
    await this.release(reachable);
    if (this.heldBy !== undefined) this.heldBy.calls -= 1;
    this.operators.clear();
    this.#operatorPlayers.clear();
    // Rendering takes its time: it must not hold the queue, whose length says what the media server has still to do.
    void this.recordings.finished().then(() => {
      this.#options.post({ type: "media.closed" });
      this.#options.onClosed();
    });
  }
}
